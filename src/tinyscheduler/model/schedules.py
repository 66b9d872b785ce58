"""What is a schedule: when it fires, what each firing runs, and what follows a missed time?"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.tasks import TaskSpec, TaskState


class Overlap(StrEnum):
    """What a firing does that comes while one of its siblings waits or runs."""

    SKIP = "skip"  # it is passed over
    QUEUE_ONE = "queue_one"  # it waits for the sibling; a further one is passed over
    QUEUE_ALL = "queue_all"  # it waits, as do all that follow
    REPLACE = "replace"  # the sibling is ended, and it takes its place
    ALLOW = "allow"  # both run


class CatchUp(StrEnum):
    """What becomes of times that passed while nothing ticked."""

    NONE = "none"  # they are passed over
    LATEST = "latest"  # the newest within the window fires, the others are passed over
    ALL = "all"  # all within the window fire, at most 100, the newest


class ScheduleKind(StrEnum):
    """What a firing is for."""

    JOB = "job"
    HEARTBEAT = "heartbeat"  # goes through a checklist; told to nobody where there is nothing to do


class ScheduleState(StrEnum):
    """Whether a schedule fires."""

    ACTIVE = "active"
    PAUSED = "paused"  # by its owner or by a rule, until it is resumed
    COMPLETED = "completed"  # its only time is over, or it has fired as often as it may
    EXPIRED = "expired"  # its ``expires_at`` has passed


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveHours:
    """The part of each local day in which a schedule fires: its begin counts, its end does not.

    Both in minutes since midnight, 0 to 1440.  An end before the begin is on the next day.
    """

    begin_minute: int
    end_minute: int

    def include(self, minute: int) -> bool:
        """Say whether this minute of the local day, 0 to 1439, is one of them.

        >>> night = ActiveHours(begin_minute=22 * 60, end_minute=6 * 60)
        >>> [night.include(hour * 60) for hour in (21, 22, 5, 6)]
        [False, True, True, False]
        """
        if self.begin_minute < self.end_minute:
            return self.begin_minute <= minute < self.end_minute
        return minute >= self.begin_minute or minute < self.end_minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a schedule fires: exactly one of ``cron``, ``every_s`` and ``at``.

    ``cron`` has five fields, minute to day of the week, or is a macro such as ``@daily``; its
    times, and the active hours, are those of a wall clock in ``zone``, an IANA name.
    ``every_s`` counts seconds from the schedule's anchor.  ``at`` is the only time, aware.  Each
    firing comes up to ``jitter_s`` seconds after its time, by a delay that is always the same
    for the same time.
    """

    cron: str | None = None
    every_s: float | None = None
    at: datetime | None = None
    zone: str = "UTC"
    jitter_s: float = 0.0
    active_hours: ActiveHours | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recurring task: when it fires, what each firing runs, and how far it has come.

    All moments are aware and in UTC.  ``next_fire_at`` is the next time of ``timing``, without
    jitter, that has not been dealt with: the only record of what has fired and what has not;
    None when no more will come.  ``anchor`` is what intervals count from.  ``fired`` counts
    firings, of which there are at most ``max_firings``; times from ``expires_at`` on fire no
    more.  ``catch_up_window_s`` is how old a missed time may be, in seconds.
    ``max_run_duration_s`` bounds each firing, in seconds; None means the setting's default.
    ``max_per_day`` bounds its firings of a local day.  ``checklist`` is the file of a heartbeat,
    absolute: what is to be done, read anew each time; nothing fires while it asks for nothing.
    ``passed_over`` counts times for which nothing fired.  ``failure_streak`` is how many firings
    in a row failed; ``why_paused``, if it stopped itself for that.

    ``max_turns_set_at`` is when the bound on turns was last changed.  ``average_turns`` follows
    the turns of its firings, of which the newest took ``last_turns``.  In a row: ``breach_streak``
    firings went over their turns, ``drift_streak`` took most of their time, and ``deferrals``
    times it made way for somebody at work, the last time ``deferred_until`` then.  ``suppressed``
    counts the times at which there was nothing to do.  ``declared_in`` is the file that says what
    it is, if one does; ``revision`` counts what was edited.
    """

    schedule_id: str
    name: str
    timing: Timing
    spec: TaskSpec
    kind: ScheduleKind = ScheduleKind.JOB
    state: ScheduleState = ScheduleState.ACTIVE
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_window_s: float = 86_400.0
    max_firings: int | None = None
    expires_at: datetime | None = None
    max_run_duration_s: float | None = None
    max_per_day: int | None = None
    checklist: str | None = None
    created_at: datetime
    anchor: datetime
    next_fire_at: datetime | None = None
    fired: int = 0
    passed_over: int = 0
    failure_streak: int = 0
    last_failure: str | None = None
    why_paused: str | None = None
    last_fired_at: datetime | None = None
    max_turns_set_at: datetime | None = None
    average_turns: int | None = None
    last_turns: int | None = None
    breach_streak: int = 0
    drift_streak: int = 0
    deferrals: int = 0
    deferred_until: datetime | None = None
    suppressed: int = 0
    declared_in: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFirings:
    """Firings of one schedule that have not ended: their tasks, and the leases of those at work.

    ``held`` are those among the ``waiting`` that wait for somebody to release them.
    ``fired_today`` counts those that its clock made today, ended or not; only where a bound on
    that is set.
    """

    waiting: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    working: tuple[tuple[str, str], ...] = ()
    fired_today: int = 0

    def all(self) -> tuple[str, ...]:
        """Return the tasks of all of them."""
        return (*self.waiting, *(task_id for task_id, _ in self.working))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFiring:
    """A firing that takes up a place among those that may run at once, or is about to.

    ``started_at`` is None where it waits.  ``most_s`` is how long it may take, ``usual_s`` how long
    those of its schedule took of late, where that is known; in seconds.
    """

    started_at: datetime | None
    most_s: float | None
    usual_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringPlan:
    """What to do about the times of a schedule that have come.

    One task is added for each of the ``slots``; ``passed_over`` counts the times for which none
    is, and ``suppressed`` those at which there was nothing to do.  ``replaces`` are tasks to be
    cancelled.  ``prompt`` is what they read instead of what the schedule says.  Nothing of it
    happens if the ``schedule`` has been moved on since.
    """

    schedule: Schedule
    slots: tuple[datetime, ...]
    passed_over: int
    next_fire_at: datetime | None
    state: ScheduleState
    replaces: tuple[str, ...] = ()
    suppressed: int = 0
    prompt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringDeferral:
    """A schedule that is due and makes way for somebody at work, ``until`` then.

    It goes on with its time ``slot``, which stays what it fires for; ``passed_over`` counts those
    before it.  Nothing of it happens if the ``schedule`` has been moved on or put off since.
    """

    schedule: Schedule
    slot: datetime
    passed_over: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringMetrics:
    """What was measured of one firing; None where nothing has measured it, or not yet.

    ``fired_at`` is when it was added, ``claimed_at`` when it got its slot, ``wait_ms`` what lies
    between.  ``lag_ms`` is how much later than it was due it was added: None for one by hand.
    ``duration_ms`` is how long its last attempt ran.  ``max_turns`` is its schedule's bound then.
    ``concurrent`` counts the firings that ran when it started, itself included; ``pressure`` how
    many asked for quiet then.  ``failure_reason`` is None for one that succeeded.
    """

    schedule_id: str
    task_id: str
    fired_at: datetime
    claimed_at: datetime | None
    completed_at: datetime | None
    wait_ms: int | None
    duration_ms: int | None
    turns: int | None
    max_turns: int | None
    lag_ms: int | None
    peak_rss_mb: float | None
    pressure: int
    concurrent: int | None
    failure_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleChange:
    """A schedule as it was and as it is to be; None where there is none."""

    before: Schedule | None
    after: Schedule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringRecord:
    """One firing as people look back at it.

    ``slot`` is the time it was for; None for one by hand.  ``ended_at`` is None while it lives, and
    ``state`` where its task is gone already.
    """

    task_id: str
    slot: datetime | None
    fired_at: datetime
    ended_at: datetime | None
    state: TaskState | None
    failure_reason: str | None
    wait_ms: int | None
    duration_ms: int | None
    turns: int | None
    max_turns: int | None
