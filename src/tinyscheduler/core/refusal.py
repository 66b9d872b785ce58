"""Which cap keeps a task from a start?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.plan import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The cap that binds, in a code and in words with numbers.

    A lasting one is no matter of what is in use: no end of an attempt lifts it.  ``model`` is
    the one whose slots are missing; nobody looks for another before ``retry_after_s``.
    """

    reason: Reason
    words: str
    is_lasting: bool = False
    model: str | None = None
    retry_after_s: float | None = None
