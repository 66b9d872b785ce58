"""Which cap keeps a task from a start?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.model.plan import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The cap that binds, in a code and in words with numbers."""

    reason: Reason
    words: str
