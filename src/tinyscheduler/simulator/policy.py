"""A policy that does as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext


class ScriptedPolicy:
    """Answers with a function of the context: an honest one, a greedy one or nonsense."""

    def __init__(
        self, script: Callable[[PolicyContext], Sequence[Proposal]], *, name: str = "scripted"
    ) -> None:
        """Take the function that answers."""
        self.name = name
        self.version = name
        self._script = script

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Return what the script says."""
        return self._script(context)
