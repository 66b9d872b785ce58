"""What a schedule fires, given what of it lives still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tinyscheduler.core.firings import plan_firings
from tinyscheduler.model.schedules import (
    CatchUp,
    LiveFirings,
    Overlap,
    Schedule,
    ScheduleState,
    Timing,
)
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.values import replace

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURLY = Schedule(
    schedule_id="a",
    name="a",
    timing=Timing(every_s=3600.0),
    spec=TaskSpec(command=("true",)),
    created_at=START,
    anchor=START,
    next_fire_at=START + HOUR,
)
RUNNING = LiveFirings(working=(("7", "lease"),))
BOTH = LiveFirings(waiting=("8",), working=(("7", "lease"),))


def test_nothing_is_planned_before_its_time_or_where_none_is_left():
    assert plan_firings(HOURLY, LiveFirings(), START) is None
    assert plan_firings(replace(HOURLY, next_fire_at=None), LiveFirings(), START) is None


def test_what_is_due_fires_and_the_next_time_is_known():
    plan = plan_firings(HOURLY, LiveFirings(), START + HOUR)

    assert plan is not None
    assert (plan.slots, plan.passed_over, plan.replaces) == ((START + HOUR,), 0, ())
    assert (plan.next_fire_at, plan.state) == (START + 2 * HOUR, ScheduleState.ACTIVE)


@pytest.mark.parametrize(
    ("overlap", "live", "fires", "passed_over"),
    [
        (Overlap.SKIP, LiveFirings(), 1, 2),
        (Overlap.SKIP, RUNNING, 0, 3),
        (Overlap.QUEUE_ONE, LiveFirings(), 2, 1),
        (Overlap.QUEUE_ONE, RUNNING, 1, 2),
        (Overlap.QUEUE_ONE, BOTH, 0, 3),
        (Overlap.QUEUE_ALL, BOTH, 3, 0),
        (Overlap.ALLOW, BOTH, 3, 0),
        (Overlap.REPLACE, BOTH, 1, 2),
    ],
)
def test_of_three_missed_times_as_many_fire_as_have_room(
    overlap: Overlap, live: LiveFirings, fires: int, passed_over: int
):
    schedule = replace(HOURLY, overlap=overlap, catch_up=CatchUp.ALL)
    plan = plan_firings(schedule, live, START + 3 * HOUR)

    assert plan is not None
    assert (len(plan.slots), plan.passed_over) == (fires, passed_over)
    assert plan.replaces == (live.all() if overlap is Overlap.REPLACE else ())


def test_one_that_has_fired_as_often_as_it_may_is_completed():
    plan = plan_firings(replace(HOURLY, max_firings=1), LiveFirings(), START + HOUR)

    assert plan is not None
    assert (plan.state, plan.next_fire_at) == (ScheduleState.COMPLETED, None)


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.REPLACE])
def test_times_that_are_passed_over_are_not_the_last_firings_of_a_schedule(overlap: Overlap):
    twice = replace(HOURLY, overlap=overlap, catch_up=CatchUp.ALL, max_firings=2)

    caught_up = plan_firings(twice, LiveFirings(), START + 3 * HOUR)
    overlapping = plan_firings(replace(twice, overlap=Overlap.SKIP), RUNNING, START + HOUR)
    again = plan_firings(replace(twice, fired=1), LiveFirings(), START + HOUR)

    for plan, fires, passed_over in ((caught_up, 1, 2), (overlapping, 0, 1)):
        assert plan is not None
        assert (len(plan.slots), plan.passed_over) == (fires, passed_over)
        assert plan.next_fire_at is not None
        assert plan.state is ScheduleState.ACTIVE
    assert again is not None
    assert (len(again.slots), again.state) == (1, ScheduleState.COMPLETED)


def test_one_whose_only_time_has_come_is_completed():
    once = replace(HOURLY, timing=Timing(at=START + HOUR))
    plan = plan_firings(once, LiveFirings(), START + HOUR)

    assert plan is not None
    assert (len(plan.slots), plan.state) == (1, ScheduleState.COMPLETED)


def test_one_that_is_over_before_its_next_time_has_expired():
    ending = replace(HOURLY, expires_at=START + HOUR + timedelta(minutes=5))
    late = plan_firings(ending, LiveFirings(), START + 5 * HOUR)

    assert late is not None
    assert (late.slots, late.state) == ((), ScheduleState.EXPIRED)
    never = replace(HOURLY, expires_at=START + HOUR)
    gone = plan_firings(never, LiveFirings(), START + 5 * HOUR)
    assert gone is not None
    assert (gone.slots, gone.state) == ((), ScheduleState.EXPIRED)
