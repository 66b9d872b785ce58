"""Schedules whose time has come become tasks, each time of each exactly once."""

from __future__ import annotations

from functools import partial

from tinyscheduler.errors import StoreError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.plan import Reason
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.model.schedules import FiringPlan, LiveFirings, Schedule
    from tinyscheduler.model.tasks import Claim, TaskState
    from tinyscheduler.tick.progress import Progress


def fire_due(progress: Progress) -> StoreError | None:
    """Fire what is due, nothing where nothing may start; return why nobody knows what is."""
    if not progress.settings.is_enabled:
        return None
    now = progress.world.clock.now().wall
    try:
        due = progress.world.schedules.due(now)
    except StoreError as error:
        return error
    for schedule, live in due:
        action = partial(_fire, progress, schedule, live, now)
        progress.attempt(f"schedule {schedule.schedule_id}", action)
    return None


def _fire(progress: Progress, schedule: Schedule, live: LiveFirings, now: datetime) -> bool:
    from tinyscheduler.core.firings import plan_firings  # few ticks fire anything
    from tinyscheduler.core.heartbeats import left_today
    from tinyscheduler.model.schedules import ScheduleKind

    plan = plan_firings(schedule, live, now)
    if plan is not None and plan.slots:
        if schedule.kind is ScheduleKind.HEARTBEAT:
            plan = _with_checklist(progress, plan, now)
        if plan.slots and _makes_way(progress, schedule, now):
            return True
    ids = None if plan is None else progress.world.schedules.fire(plan)
    if plan is None or ids is None:
        return False
    progress.firings += len(ids)
    for task_id in ids:
        progress.notice(
            EventName.SCHEDULE_FIRED,
            task_id=task_id,
            details=(("schedule", schedule.schedule_id),),
        )
    if plan.passed_over:
        is_spent = left_today(schedule, live) == len(plan.slots) and not plan.suppressed
        progress.notice(
            EventName.SCHEDULE_WARNING,
            reason="daily_budget" if is_spent else "passed_over",
            details=(("schedule", schedule.schedule_id), ("times", plan.passed_over)),
        )
    return True


def _with_checklist(progress: Progress, plan: FiringPlan, now: datetime) -> FiringPlan:
    """Return what a heartbeat fires: nothing where its checklist asks for nothing."""
    from tinyscheduler.core.firings import plan_silence
    from tinyscheduler.core.heartbeats import has_work, heartbeat_prompt

    schedule, checklist = plan.schedule, None
    if schedule.checklist is not None:
        checklist = progress.world.read_checklist(schedule.checklist)
        if checklist is None or not has_work(checklist):
            return plan_silence(schedule, now)
    return replace(plan, prompt=heartbeat_prompt(schedule.spec.prompt, checklist))


def _makes_way(progress: Progress, schedule: Schedule, now: datetime) -> bool:
    """Put a schedule off that would fire, where somebody is at work; whether it was."""
    from tinyscheduler.core.firings import plan_deferral

    if progress.pressed_by is None:
        # Once, for all that is due: asking may take its time.
        progress.pressed_by = names_of(progress.world.pressures.live())
    if not progress.pressed_by:
        return False
    delay_s = progress.settings.rules.schedule_pressure_delay_s
    deferral = plan_deferral(schedule, now, delay_s=delay_s)
    if deferral is None:
        return False
    if not progress.world.schedules.defer(deferral):
        return True  # somebody else has dealt with it
    progress.notice(
        EventName.SCHEDULE_DEFERRED,
        reason=Reason.PRESSURE.value,
        details=(
            ("schedule", schedule.schedule_id),
            ("slot", format_time(deferral.slot)),
            ("until", format_time(deferral.until)),
            ("times", schedule.deferrals + 1),
            ("pressed_by", progress.pressed_by),
        ),
    )
    return True


def names_of(found: Sequence[InteractivePressure]) -> tuple[str, ...]:
    """Return who is at work, in order."""
    return tuple(sorted(one.name for one in found))


def tell_if_reported(progress: Progress, task_id: str, schedule_id: str | None) -> None:
    """Tell that a heartbeat has done something, or has something to say."""
    if schedule_id is not None and progress.world.schedules.is_heartbeat(schedule_id):
        details = (("schedule", schedule_id),)
        progress.notice(EventName.SCHEDULE_REPORTED, task_id=task_id, details=details)


def find_schedule(progress: Progress, told: AttemptRecord | Claim) -> Schedule | None:
    """Return the schedule whose firing that is, as it stands before its end is noted."""
    return None if told.schedule_id is None else progress.world.schedules.find(told.schedule_id)


def tell_schedule(
    progress: Progress, told: AttemptRecord | Claim, state: TaskState, before: Schedule | None
) -> None:
    """Tell what the end of a firing did to its schedule: it may stop itself, or be about to."""
    if before is None or not state.is_final:
        return
    from tinyscheduler.core.streaks import warn_of  # few tasks are firings

    after = progress.world.schedules.find(before.schedule_id)
    if after is None:
        return  # it was removed meanwhile
    name = after.schedule_id
    for code, words in warn_of(before, after):
        progress.warn(f"schedule {name}: {words}")
        progress.notice(
            EventName.SCHEDULE_WARNING,
            task_id=told.task_id,
            reason=code,
            details=(("schedule", name), ("words", words)),
        )
    if progress.world.schedules.paused_by(told.task_id) is not None:
        progress.warn(
            f"schedule {name} is paused: {after.why_paused}"
            f" (`tinyscheduler schedule resume {name}` lets it go on)"
        )
        details = (("schedule", name), ("words", after.why_paused))
        progress.notice(EventName.SCHEDULE_PAUSED, task_id=told.task_id, details=details)
