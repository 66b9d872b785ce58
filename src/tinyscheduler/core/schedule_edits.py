"""What becomes of a schedule that has begun when its definition is changed?"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from tinyscheduler.core.firing_times import check_timing, slots_after
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tinyscheduler.model.schedules import Schedule

# What somebody says of a schedule; all the rest is how far it has come.
DEFINITION = (
    "timing",
    "spec",
    "kind",
    "overlap",
    "catch_up",
    "catch_up_window_s",
    "max_firings",
    "expires_at",
    "max_run_duration_s",
    "max_per_day",
    "checklist",
    "declared_in",
)
_INSTANT = timedelta(microseconds=1)


def upcoming(schedule: Schedule, after: datetime, number: int) -> islice[datetime]:
    """Return the next times of a schedule, so many at most; those after it expires are none."""
    slots = slots_after(schedule.timing, after, anchor=schedule.anchor)
    return islice(_slots_until(slots, schedule.expires_at), number)


def redefined(before: Schedule, wished: Schedule, now: datetime) -> Schedule:
    """Return a schedule as it goes on with the definition of another one.

    A time that has come and was not dealt with fires still if the new timing has it, too; else
    what comes next is the first new time from now on, and of an interval that was changed the
    first is one interval from now.  Where the anchor of the other one differs, it counts from
    there.  One that was over goes on if anything is left of it; one that is paused stays so.
    Raises ValueError for a timing that is none, and for one of which no time is to come.
    """
    after = replace(before, **{name: getattr(wished, name) for name in DEFINITION})
    if wished.anchor != before.anchor:
        after = replace(after, anchor=wished.anchor)
    if after == before:
        return before
    after = replace(after, revision=before.revision + 1)
    if after.spec.max_turns != before.spec.max_turns:
        after = replace(after, max_turns_set_at=now)
    if not _is_when_changed(before, after):
        return after
    after = _rescheduled(before, after, now)
    if after.next_fire_at != before.next_fire_at:
        after = replace(after, deferrals=0, deferred_until=None)
    return after


def shifted(before: Schedule, wished: Schedule, by: timedelta, now: datetime) -> Schedule:
    """Return a schedule each of whose times comes so much later, or earlier, than it would have.

    Of times that were to come none is lost and none comes twice, though one of the two is over
    already: what is late by its new time is caught up with.  Raises ValueError as `redefined`.
    """
    after = redefined(before, wished, now)
    if after.state is not ScheduleState.ACTIVE or before.next_fire_at is None:
        return after
    due = before.next_fire_at + by
    first = next(upcoming(after, due - _INSTANT, 1), None)
    if first != due:
        # The clock is changed in between, and both come at the first moment after the gap.
        first = next(upcoming(after, min(due, before.next_fire_at) - _INSTANT, 1), None)
    return replace(
        after, next_fire_at=first or after.next_fire_at, deferrals=0, deferred_until=None
    )


def _is_when_changed(before: Schedule, after: Schedule) -> bool:
    return any(
        getattr(before, name) != getattr(after, name)
        for name in ("timing", "anchor", "max_firings", "expires_at")
    )


def _rescheduled(before: Schedule, after: Schedule, now: datetime) -> Schedule:
    if after.timing.every_s != before.timing.every_s and after.anchor == before.anchor:
        after = replace(after, anchor=now)
    check_timing(after.timing, anchor=after.anchor)
    if after.max_firings is not None and after.fired >= after.max_firings:
        return replace(after, next_fire_at=None, state=ScheduleState.COMPLETED)
    first = next(_times_to_come(before, after, now), None)
    if first is None:
        message = f"schedule {after.schedule_id} would never fire again: its time is over"
        raise ValueError(message)
    if after.state is ScheduleState.PAUSED:
        return after  # where it goes on is found when it is resumed
    return replace(after, next_fire_at=first, state=ScheduleState.ACTIVE)


def _times_to_come(before: Schedule, after: Schedule, now: datetime) -> Iterator[datetime]:
    pending = before.next_fire_at
    if before.state is ScheduleState.ACTIVE and pending is not None and pending <= now:
        yield from (slot for slot in upcoming(after, pending - _INSTANT, 1) if slot == pending)
    yield from upcoming(after, now, 1)


def _slots_until(slots: Iterator[datetime], ends: datetime | None) -> Iterator[datetime]:
    """Yield the times before a moment."""
    for slot in slots:
        if ends is not None and slot >= ends:
            return
        yield slot
