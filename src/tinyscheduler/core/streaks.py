"""What does a schedule learn from how its firings end, and when does it stop itself?"""

from __future__ import annotations

from tinyscheduler.model.tasks import FailureReason
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.schedules import Schedule, Timing

# In a row; then nothing fires before somebody has looked.
MOST_FAILURES = 3
MOST_BREACHES = 5
# In a row; then somebody is told.
_TOLD_BREACHES, _TOLD_DRIFTS = 2, 3
# Of the time that a firing may take.
_DRIFT_SHARE = 0.8
# So many of its intervals after its bound on turns was changed a schedule may still find out.
_GRACE_INTERVALS = 2
# How much the average keeps of what it was.
_KEPT, _NEW = 0.7, 0.3
# No fault of the schedule, and no sign that it works: they leave everything as it is.
_NEUTRAL = frozenset(
    {FailureReason.CANCELLED, FailureReason.RATE_LIMITED, FailureReason.AUTH_FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaks:
    """How many firings in a row failed, went over their turns, or took most of their time.

    ``average_turns`` follows the turns of firings, of which the newest took ``last_turns``.
    """

    failures: int = 0
    breaches: int = 0
    drifts: int = 0
    average_turns: int | None = None
    last_turns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedFiring:
    """How a firing ended: done, or for this reason.

    ``turns`` are those it took of ``max_turns``, ``ran_s`` the seconds of ``max_runtime_s``; None
    is unknown, or unbounded.
    """

    is_done: bool
    reason: FailureReason | None = None
    turns: int | None = None
    max_turns: int | None = None
    ran_s: float | None = None
    max_runtime_s: float | None = None

    @property
    def is_neutral(self) -> bool:
        """Whether it says nothing of its schedule."""
        return not self.is_done and self.reason in _NEUTRAL

    @property
    def is_breach(self) -> bool:
        """Whether it went over its turns."""
        return not self.is_done and self.reason is FailureReason.TURN_LIMIT_EXCEEDED

    @property
    def is_drift(self) -> bool:
        """Whether it took most of the time it had, or all of it."""
        if self.reason is FailureReason.LEASE_EXPIRED:
            return True
        known = self.ran_s is not None and self.max_runtime_s is not None
        return known and (self.ran_s or 0) > _DRIFT_SHARE * (self.max_runtime_s or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The streaks after a firing; why the schedule is paused for it (None: it is not)."""

    streaks: Streaks
    why_paused: str | None = None


def judge_firing(before: Streaks, firing: EndedFiring, *, is_in_grace: bool = False) -> Judgement:
    """Return what the end of a firing means for its schedule.

    A success ends both streaks, a failure that of breaches, and a breach that of failures.  In
    grace a breach does not count.
    """
    if firing.is_neutral:
        return Judgement(streaks=before)
    streaks = replace(
        before,
        drifts=before.drifts + 1 if firing.is_drift else 0,
        average_turns=_average(before.average_turns, firing.turns),
        last_turns=before.last_turns if firing.turns is None else firing.turns,
    )
    if firing.is_done:
        return Judgement(streaks=replace(streaks, failures=0, breaches=0))
    if firing.is_breach:
        breaches = before.breaches if is_in_grace else before.breaches + 1
        streaks = replace(streaks, failures=0, breaches=breaches)
        is_over = breaches >= MOST_BREACHES and not is_in_grace
        words = _words_on_breaches(breaches, streaks.average_turns, firing.max_turns)
        return Judgement(streaks=streaks, why_paused=words if is_over else None)
    failures = before.failures + 1
    streaks = replace(streaks, failures=failures, breaches=0)
    cause = firing.reason.value if firing.reason is not None else "unknown"
    why = f"{failures} firings in a row failed, at last: {cause}"
    return Judgement(streaks=streaks, why_paused=why if failures >= MOST_FAILURES else None)


def warn_of(before: Schedule, after: Schedule) -> tuple[tuple[str, str], ...]:
    """Return what somebody should hear of a schedule after a firing: a code, and words for each.

    Told once in each streak: at its second breach, and at its third firing that took long.
    """
    found = []
    if before.breach_streak < after.breach_streak == _TOLD_BREACHES:
        words = _words_on_breaches(after.breach_streak, after.average_turns, after.spec.max_turns)
        found.append(("turn_limit", f"{words}; after {MOST_BREACHES} it is paused"))
    if before.drift_streak < after.drift_streak == _TOLD_DRIFTS:
        words = f"{after.drift_streak} firings in a row took more than {_DRIFT_SHARE:.0%}"
        found.append(("lease_drift", f"{words} of the time that they have"))
    return tuple(found)


def is_in_grace(timing: Timing, *, anchor: datetime, set_at: datetime, now: datetime) -> bool:
    """Whether the bound on turns was changed so lately that going over it does not count yet.

    For two intervals: from the next time of the schedule to the one after it.
    """
    from tinyscheduler.core.firing_times import estimated_interval_s  # few firings ask for it

    interval_s = estimated_interval_s(timing, set_at, anchor)
    return (now - set_at).total_seconds() < _GRACE_INTERVALS * interval_s


def _average(before: int | None, turns: int | None) -> int | None:
    """Let an average follow the newest number; the first one is the average.

    >>> _average(None, 10), _average(10, 20), _average(13, None)
    (10, 13, 13)
    """
    if turns is None or before is None:
        return before if turns is None else turns
    return round(before * _KEPT + turns * _NEW)


def _words_on_breaches(breaches: int, average: int | None, most: int | None) -> str:
    bound = "" if most is None else f" {most}"
    usual = "" if average is None else f", {average} on average"
    return f"{breaches} firings in a row took more than their{bound} turns{usual}"
