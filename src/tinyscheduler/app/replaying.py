"""Deciding again what ticks decided, and looking at what is kept of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler import __version__
from tinyscheduler.core.decide import decide
from tinyscheduler.core.replay import compare
from tinyscheduler.errors import TinySchedulerError
from tinyscheduler.model.rounds import Round, redact
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from tinyscheduler.core.replay import Difference
    from tinyscheduler.tick import Foresight

# What deciding may end with on something that no tick ever saw, such as a weight of 0.
UNDECIDABLE = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A round, and where what is decided now, by this policy, differs from it."""

    round: Round
    policy: str
    differences: tuple[Difference, ...]

    @property
    def is_same(self) -> bool:
        """Whether the same plan was derived."""
        return not self.differences


def replay(one: Round) -> Replay:
    """Decide again on what was seen then, with the platform policy of this version.

    Raises TinySchedulerError, which names the round, if that cannot be done.
    """
    policy = PlatformPolicy()
    try:
        plan = decide(one.snapshot, policy)
    except UNDECIDABLE as error:
        cause = f"{type(error).__name__}: {error}"
        raise TinySchedulerError(
            f"round {one.number} of tick {one.tick_id} cannot be decided again: {cause}",
            hint="if nobody changed its document this is a bug: please send it in",
        ) from error
    # What is not told of the plan then is not told of the one now.
    derived = redact(replace(one, plan=plan)).plan
    differences = compare(one.plan, derived)
    return Replay(round=one, policy=policy.name, differences=differences)


def round_of(foresight: Foresight) -> Round:
    """Return what a dry run saw and decided as ticks keep it."""
    return Round(
        tick_id=foresight.report.tick_id,
        number=1,
        program=__version__,
        policy=foresight.report.policy,
        snapshot=foresight.snapshot,
        plan=foresight.plan,
    )
