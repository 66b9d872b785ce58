"""Schedules for a person's commands: made, looked at, paused, run by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tinyscheduler.adapters.checklist_file import read_checklist
from tinyscheduler.adapters.sqlite.schedule_changes import ScheduleChanges
from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.app.pausing import end_pause
from tinyscheduler.app.queue import announce_event, open_queue
from tinyscheduler.core.firing_times import check_timing
from tinyscheduler.core.heartbeats import heartbeat_prompt
from tinyscheduler.core.schedule_edits import redefined, shifted, upcoming
from tinyscheduler.errors import BusyError, CapacityFullError, UsageError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.schedules import ScheduleChange, ScheduleKind, ScheduleState
from tinyscheduler.model.switches import Target, TargetKind
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.core.firing_measures import CapAdvice
    from tinyscheduler.core.shifts import Shift
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.schedules import Schedule

_EXAMPLES = "`tinyscheduler schedule add --help` has examples"
# Rows of measurements that a command reads at once.
MOST_MEASURED = 1_000_000


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
    return schedules_of(open_queue(config, access))


def schedules_of(queue: Queue) -> Schedules:
    """Return the schedules beside a queue that is open."""
    run_s = queue.config.timing.schedule_run_s
    return Schedules(
        store=SqliteSchedules(queue.database, queue.clock, run_s=run_s),
        changes=ScheduleChanges(queue.database, queue.clock),
        queue=queue,
    )


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


def take_shifts(schedules: Schedules, shifts: Sequence[Shift]) -> None:
    """Let schedules fire as it was proposed, all of them or none.

    Raises BusyError if one of them was edited or removed since.
    """

    def decide(existing: Sequence[Schedule]) -> list[ScheduleChange]:
        known = {one.schedule_id: one for one in existing}
        changes, now = [], schedules.now()
        for shift in shifts:
            found = known.get(shift.before.schedule_id)
            if found is None or found.revision != shift.before.revision:
                raise BusyError(
                    f"schedule {shift.before.schedule_id} was changed meanwhile; nothing is moved",
                    hint="plan again: `tinyscheduler schedule plan`",
                )
            wished = replace(found, timing=shift.after.timing, anchor=shift.after.anchor)
            by = timedelta(minutes=shift.minutes)
            changes.append(ScheduleChange(before=found, after=shifted(found, wished, by, now)))
        return changes

    schedules.changes.apply(decide)


def amended(before: Schedule, wished: Schedule, now: datetime) -> Schedule:
    """Return what `redefined` does; UsageError for what cannot be."""
    try:
        return redefined(before, wished, now)
    except ValueError as error:
        raise UsageError(str(error), hint=_EXAMPLES) from error


def pause_schedule(schedules: Schedules, schedule_id: str, *, why: str | None) -> Schedule:
    """Let it fire nothing until it is resumed; return it as it was.

    One that is over stays so.
    """
    before = schedules.store.schedule(schedule_id)
    if before.state is not ScheduleState.ACTIVE:
        return before
    return schedules.store.set_state(schedule_id, ScheduleState.PAUSED, why=why)


def resume_schedule(schedules: Schedules, schedule_id: str) -> tuple[Schedule, Schedule]:
    """Let it fire again, from now on, and what it fired start; return it as it was and as it is.

    Raises UsageError for one that is over.
    """
    before = schedules.store.schedule(schedule_id)
    end_pause(schedules.queue, Target(kind=TargetKind.SCHEDULE, name=schedule_id))
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
    done = schedules.store.fire_by_hand(
        schedule_id,
        most=None if is_forced else limit,
        by=by,
        prompt=_prompt_now(schedules.store.schedule(schedule_id)),
    )
    if isinstance(done, int):
        from tinyscheduler.core.firing_eta import slot_eta_s

        live = schedules.store.live_firings()
        eta_s = slot_eta_s(live, most=limit, now=schedules.now())
        raise CapacityFullError(running=done, limit=limit, eta_s=eta_s)
    _tell_run(schedules, schedule_id, done, is_forced=is_forced, by=by)
    return done


def _prompt_now(schedule: Schedule) -> str | None:
    """Return what a heartbeat has its agent read, whatever is in its checklist; None of others."""
    if schedule.kind is not ScheduleKind.HEARTBEAT:
        return None
    path = schedule.checklist
    checklist = None if path is None else read_checklist(path)
    return heartbeat_prompt(schedule.spec.prompt, checklist)


def _tell_run(
    schedules: Schedules, schedule_id: str, task_id: str, *, is_forced: bool, by: str
) -> None:
    """Tell that somebody fired it by hand and, apart from that, if he forced it."""
    names = [EventName.SCHEDULE_FIRED, *([EventName.AUDIT_FORCE] if is_forced else [])]
    details = (("schedule", schedule_id), ("by", by))
    for name in names:
        announce_event(schedules.queue, name, task_id=task_id, reason="by_hand", details=details)


def advise(schedules: Schedules, *, since: datetime) -> CapAdvice:
    """Judge by what was measured since whether one more firing may run at once."""
    from tinyscheduler.core.firing_measures import advise_cap

    config = schedules.queue.config
    return advise_cap(
        schedules.store.metrics(None, since=since, limit=MOST_MEASURED),
        schedules.queue.inquiry.interactive_waits_s(since=since),
        cap=config.limits.schedule_max_concurrent,
        since=schedules.store.measured_since(),
        interval_s=config.timing.loop_interval_s,
        now=schedules.now(),
    )
