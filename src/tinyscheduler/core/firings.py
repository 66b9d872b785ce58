"""What does a schedule fire now?  Its times that have come, and those firings that live still."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tinyscheduler.core.firing_times import due
from tinyscheduler.core.heartbeats import left_today
from tinyscheduler.core.pressure import is_patient
from tinyscheduler.model.schedules import FiringDeferral, FiringPlan, Overlap, ScheduleState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.schedules import LiveFirings, Schedule


def plan_firings(schedule: Schedule, live: LiveFirings, now: datetime) -> FiringPlan | None:
    """Return what to fire of an active schedule and when it is due next; None if it is not due.

    Every time that has come is dealt with: it fires, or it is passed over and counted.
    """
    if schedule.next_fire_at is None:
        return None
    found = due(schedule, now)
    if not found.slots and not found.skipped and found.next_slot == schedule.next_fire_at:
        return None
    slots = _chosen(schedule, live, found.slots)
    if len(slots) < len(found.slots) and schedule.max_firings is not None:
        # What is passed over was no firing, and so not the last one either: it goes on.
        found = due(replace(schedule, max_firings=None), now)
        slots = _chosen(schedule, live, found.slots)
    return FiringPlan(
        schedule=schedule,
        slots=slots,
        passed_over=found.skipped + len(found.slots) - len(slots),
        next_fire_at=found.next_slot,
        state=_state_after(schedule, len(slots), found.next_slot, now),
        replaces=live.all() if schedule.overlap is Overlap.REPLACE and slots else (),
    )


def plan_silence(schedule: Schedule, now: datetime) -> FiringPlan:
    """Return how a schedule that is due goes on where there is nothing to do: nothing fires."""
    # How often it may fire yet is no matter: it does not.
    found = due(replace(schedule, max_firings=None), now)
    return FiringPlan(
        schedule=schedule,
        slots=(),
        passed_over=found.skipped,
        suppressed=len(found.slots),
        next_fire_at=found.next_slot,
        state=_state_after(schedule, 0, found.next_slot, now),
    )


def plan_deferral(schedule: Schedule, now: datetime, *, delay_s: float) -> FiringDeferral | None:
    """Return how an active schedule that is due makes way; None if it has to fire.

    It has to once it has made way so often in a row, and where none of its times would fire.
    """
    if not is_patient(schedule):
        return None
    found = due(schedule, now)
    if not found.slots:
        return None
    return FiringDeferral(
        schedule=schedule,
        slot=found.slots[0],
        passed_over=found.skipped,
        until=now + timedelta(seconds=delay_s),
    )


def _chosen(
    schedule: Schedule, live: LiveFirings, slots: tuple[datetime, ...]
) -> tuple[datetime, ...]:
    """Return those of the times that fire, beside or behind the firings that live."""
    room, left = _room(schedule, live, len(slots)), left_today(schedule, live)
    slots = slots[: room if left is None else min(room, left)]
    # Of several that replace each other only the last would be left.
    return slots[-1:] if schedule.overlap is Overlap.REPLACE else slots


def _room(schedule: Schedule, live: LiveFirings, wanted: int) -> int:
    """Return how many more may be beside or behind those that live."""
    living = len(live.all())
    match schedule.overlap:
        case Overlap.SKIP:
            return max(0, 1 - living)
        case Overlap.QUEUE_ONE:
            return max(0, 2 - living)
        case _:
            return wanted


def _state_after(
    schedule: Schedule, fired: int, next_slot: datetime | None, now: datetime
) -> ScheduleState:
    if schedule.expires_at is not None and now >= schedule.expires_at:
        return ScheduleState.EXPIRED
    most = schedule.max_firings
    if next_slot is None or (most is not None and schedule.fired + fired >= most):
        return ScheduleState.COMPLETED
    return ScheduleState.ACTIVE
