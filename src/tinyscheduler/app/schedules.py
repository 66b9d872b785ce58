"""Schedules for a person's commands: made, looked at, paused, run by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tinyscheduler.adapters.sqlite.schedule_changes import ScheduleChanges
from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.app.queue import open_queue
from tinyscheduler.core.firing_times import check_timing
from tinyscheduler.core.schedule_edits import redefined, upcoming
from tinyscheduler.errors import CapacityFullError, UsageError
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.schedules import Schedule

_EXAMPLES = "`tinyscheduler schedule add --help` has examples"
# Where no lease tells when a slot is free.
_UNKNOWN_ETA_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """The schedules, and the queue that they fire into."""

    store: SqliteSchedules
    changes: ScheduleChanges
    queue: Queue

    def now(self) -> datetime:
        """Return the time."""
        return self.queue.clock.now().wall


def open_schedules(config: Config, access: Access) -> Schedules:
    """Open them as `open_queue` does."""
    queue = open_queue(config, access)
    store = SqliteSchedules(queue.database, queue.clock, run_s=config.timing.schedule_run_s)
    changes = ScheduleChanges(queue.database, queue.clock)
    return Schedules(store=store, changes=changes, queue=queue)


def add_schedule(schedules: Schedules, schedule: Schedule) -> Schedule:
    """Keep a new schedule, due from now on; return it with its first time.

    Raises UsageError for times that are none, or none to come, and for a name that is taken.
    """
    schedule = begun(schedule)
    schedules.store.add(schedule)
    return schedule


def begun(schedule: Schedule) -> Schedule:
    """Return a new schedule with its first time; UsageError where none is to come."""
    try:
        check_timing(schedule.timing, anchor=schedule.anchor)
    except ValueError as error:
        raise UsageError(str(error), hint=_EXAMPLES) from error
    first = next(upcoming(schedule, schedule.created_at, 1), None)
    if first is None:
        raise UsageError(
            f"schedule {schedule.schedule_id} would never fire: its time is over",
            hint="name a time to come, and an --expires after it",
        )
    return replace(schedule, next_fire_at=first)


def edit_schedule(
    schedules: Schedules,
    schedule_id: str,
    amend: Callable[[Schedule], Schedule],
    *,
    revision: int | None = None,
) -> tuple[Schedule, Schedule]:
    """Give it another definition in one step; return it as it was and as it is.

    ``amend`` returns the schedule as it is wished for.  Where a ``revision`` is named and the
    schedule was edited since, BusyError, and nothing is changed.  Raises UsageError for times that
    are none, or none to come.
    """
    return schedules.changes.edit(
        schedule_id,
        lambda before: amended(before, amend(before), schedules.now()),
        revision=revision,
    )


def amended(before: Schedule, wished: Schedule, now: datetime) -> Schedule:
    """Return what `redefined` does; UsageError for what cannot be."""
    try:
        return redefined(before, wished, now)
    except ValueError as error:
        raise UsageError(str(error), hint=_EXAMPLES) from error


def pause_schedule(schedules: Schedules, schedule_id: str, *, why: str | None) -> Schedule:
    """Let it fire nothing until it is resumed; return it as it was."""
    return schedules.store.set_state(schedule_id, ScheduleState.PAUSED, why=why)


def resume_schedule(schedules: Schedules, schedule_id: str) -> tuple[Schedule, Schedule]:
    """Let it fire again, from now on; return it as it was and as it is.

    Raises UsageError for one that is over.
    """
    before = schedules.store.schedule(schedule_id)
    first = next(upcoming(before, schedules.now(), 1), None)
    is_over = before.max_firings is not None and before.fired >= before.max_firings
    if first is None or is_over:
        raise UsageError(
            f"schedule {schedule_id} is over: nothing is left to fire",
            hint="remove it, and add it anew",
        )
    if before.state is not ScheduleState.ACTIVE:
        schedules.store.set_state(schedule_id, ScheduleState.ACTIVE, next_fire_at=first)
    return before, schedules.store.schedule(schedule_id)


def run_by_hand(schedules: Schedules, schedule_id: str, *, is_forced: bool, by: str) -> str:
    """Fire it now; return the task.

    Raises CapacityFullError, with nothing left behind, where as many run as may; forced, no bound
    on firings counts.
    """
    limit = schedules.queue.config.limits.schedule_max_concurrent
    done = schedules.store.fire_by_hand(schedule_id, most=None if is_forced else limit, by=by)
    if isinstance(done, int):
        raise CapacityFullError(running=done, limit=limit, eta_s=_eta_s(schedules))
    return done


def _eta_s(schedules: Schedules) -> float:
    """Return in how many seconds the first firing that runs must have ended."""
    now = schedules.now()
    left = [
        (
            entry.lease.started_at + timedelta(seconds=entry.lease.max_runtime_s) - now
        ).total_seconds()
        for entry in schedules.queue.leases.scan().entries
        if isinstance(entry.lease, Lease) and entry.lease.schedule_id is not None
    ]
    return max(0.0, min(left)) if left else _UNKNOWN_ETA_S
