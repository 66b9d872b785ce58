"""Schedules whose time has come become tasks, each time of each exactly once."""

from __future__ import annotations

from functools import partial

from tinyscheduler.errors import StoreError
from tinyscheduler.model.events import EventName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.schedules import LiveFirings, Schedule
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

    plan = plan_firings(schedule, live, now)
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
        progress.notice(
            EventName.SCHEDULE_WARNING,
            reason="passed_over",
            details=(("schedule", schedule.schedule_id), ("times", plan.passed_over)),
        )
    return True


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
