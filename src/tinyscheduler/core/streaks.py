"""How often in a row has a schedule failed, and when does it stop itself?"""

from __future__ import annotations

from tinyscheduler.model.tasks import FailureReason
from tinyscheduler.values import dataclass

# In a row; then nothing fires before somebody has looked.
MOST_FAILURES = 3
# No fault of the schedule, and no sign that it works: they leave the streak as it is.
_NEUTRAL = frozenset(
    {FailureReason.CANCELLED, FailureReason.RATE_LIMITED, FailureReason.AUTH_FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The streak after a firing, and why the schedule is paused for it; None: it is not."""

    failure_streak: int
    why_paused: str | None = None


def judge_firing(failure_streak: int, *, is_done: bool, reason: FailureReason | None) -> Judgement:
    """Return what the end of a firing means for its schedule."""
    if is_done:
        return Judgement(failure_streak=0)
    if reason in _NEUTRAL:
        return Judgement(failure_streak=failure_streak)
    failures = failure_streak + 1
    if failures < MOST_FAILURES:
        return Judgement(failure_streak=failures)
    cause = reason.value if reason is not None else "unknown"
    return Judgement(
        failure_streak=failures, why_paused=f"{failures} firings in a row failed, at last: {cause}"
    )
