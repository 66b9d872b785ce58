"""A schedule that is given another definition: what it fires next, and what it never fires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.core.firing_times import slots_after
from tinyscheduler.core.firings import plan_firings
from tinyscheduler.core.schedule_edits import redefined, shifted, upcoming
from tinyscheduler.core.shifts import moved
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

START = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOURLY = Timing(every_s=3600.0)


def a_schedule(**more: Any) -> Schedule:
    fields: dict[str, Any] = {
        "timing": HOURLY,
        "spec": TaskSpec(command=("true",)),
        "created_at": START,
        "anchor": START,
        "next_fire_at": START + 60 * MINUTE,
    }
    return Schedule(schedule_id="a", name="a", **{**fields, **more})


def edited(before: Schedule, now: datetime = START + 10 * MINUTE, **changes: Any) -> Schedule:
    return redefined(before, replace(before, **changes), now)


def test_what_says_the_same_is_the_same():
    before = a_schedule()

    assert redefined(before, replace(before), START + MINUTE) is before


def test_each_edit_is_counted_and_how_far_it_has_come_is_kept():
    before = a_schedule(fired=4, failure_streak=2, passed_over=1, average_turns=7)

    after = edited(before, overlap=Overlap.ALLOW, fired=0, failure_streak=0)

    assert (after.overlap, after.revision) == (Overlap.ALLOW, 1)
    assert (after.fired, after.failure_streak, after.passed_over) == (4, 2, 1)
    assert after.next_fire_at == before.next_fire_at


def test_a_changed_interval_counts_from_the_edit():
    now = START + 10 * MINUTE

    after = edited(a_schedule(), now, timing=Timing(every_s=1800.0))

    assert (after.anchor, after.next_fire_at) == (now, now + 30 * MINUTE)


def test_another_anchor_is_counted_from():
    after = edited(a_schedule(), anchor=START + 5 * MINUTE)

    assert after.next_fire_at == START + 65 * MINUTE


def test_a_time_that_has_come_fires_still_if_the_new_timing_has_it():
    before = a_schedule(timing=Timing(cron="*/10 * * * *"), next_fire_at=START)

    kept = edited(before, START + MINUTE, timing=Timing(cron="*/5 * * * *"))
    passed = edited(before, START + MINUTE, timing=Timing(cron="3 * * * *"))

    assert kept.next_fire_at == START
    assert passed.next_fire_at == START + 3 * MINUTE


def test_a_time_that_has_come_after_it_expires_does_not_fire():
    before = a_schedule(timing=Timing(cron="*/10 * * * *"), next_fire_at=START)

    with pytest.raises(ValueError, match="would never fire again"):
        edited(before, START + MINUTE, expires_at=START)


def test_one_that_is_paused_stays_so_without_a_next_time():
    before = a_schedule(state=ScheduleState.PAUSED, next_fire_at=None)

    after = edited(before, timing=Timing(cron="@daily"))

    assert (after.state, after.next_fire_at) == (ScheduleState.PAUSED, None)


def test_one_that_was_over_goes_on_if_something_is_left():
    before = a_schedule(state=ScheduleState.COMPLETED, next_fire_at=None, max_firings=2, fired=2)

    again = edited(before, max_firings=3)
    still = edited(before, timing=Timing(cron="@daily"))
    other = edited(before, spec=TaskSpec(command=("ls",)))

    assert (again.state, again.next_fire_at) == (ScheduleState.ACTIVE, START + 60 * MINUTE)
    assert (still.state, still.next_fire_at) == (ScheduleState.COMPLETED, None)
    assert other.state is ScheduleState.COMPLETED


def test_as_many_firings_as_there_were_end_it():
    after = edited(a_schedule(fired=5), max_firings=5)

    assert (after.state, after.next_fire_at) == (ScheduleState.COMPLETED, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timing": Timing(cron="61 * * * *")}, "is no minute"),
        ({"timing": Timing(every_s=60.0, jitter_s=61.0)}, "jitter"),
        ({"timing": Timing(at=START)}, "would never fire again"),
        ({"expires_at": START}, "would never fire again"),
        ({"state": ScheduleState.PAUSED, "expires_at": START}, "would never fire again"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        edited(a_schedule(), **changes)


def test_when_the_bound_on_turns_was_changed_is_noted():
    now = START + 10 * MINUTE
    before = a_schedule(spec=TaskSpec(prompt="x", max_turns=5))

    assert edited(before, now, spec=TaskSpec(prompt="x", max_turns=6)).max_turns_set_at == now
    assert edited(before, now, spec=TaskSpec(prompt="x")).max_turns_set_at == now
    assert edited(before, now, spec=TaskSpec(prompt="y", max_turns=5)).max_turns_set_at is None


def test_upcoming_times_end_where_it_expires():
    one = a_schedule(expires_at=START + 150 * MINUTE)

    assert list(upcoming(one, START, 9)) == [START + 60 * MINUTE, START + 120 * MINUTE]


TIMINGS = st.sampled_from(
    [
        Timing(cron="*/5 * * * *"),
        Timing(cron="*/10 * * * *"),
        Timing(cron="7 * * * *"),
        Timing(cron="* * * * *"),
        Timing(every_s=420.0),
        Timing(every_s=3600.0),
        Timing(cron="0 8 * * *", zone="Europe/Warsaw"),
    ]
)


@given(
    st.lists(st.tuples(st.integers(0, 90), st.one_of(st.none(), TIMINGS)), min_size=1, max_size=25)
)
def test_whatever_is_edited_no_time_fires_twice_and_each_is_one_of_a_timing_that_it_had(
    steps: list[tuple[int, Timing | None]],
):
    one = a_schedule(catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)
    now = START
    fired: list[datetime] = []
    had = [(one.timing, one.anchor)]
    for minutes, timing in steps:
        now += minutes * MINUTE
        if timing is not None:
            one = edited(one, now, timing=timing)
            had.append((one.timing, one.anchor))
            continue
        plan = plan_firings(one, LiveFirings(), now)
        if plan is not None:
            fired += plan.slots
            one = replace(one, next_fire_at=plan.next_fire_at, fired=one.fired + len(plan.slots))

    assert fired == sorted(set(fired))
    slots = {
        slot
        for timing, anchor in had
        for slot in takewhile(
            lambda slot: slot <= now,
            slots_after(timing, START - MINUTE, anchor=anchor),
        )
    }
    assert slots >= set(fired)


# -- shifts ---------------------------------------------------------------------------


TIMINGS = st.one_of(
    st.builds(
        lambda minutes, hours: Timing(
            cron=f"{','.join(map(str, sorted(minutes)))} {','.join(map(str, sorted(hours)))} * * *"
        ),
        st.sets(st.integers(0, 59), min_size=1, max_size=4),
        st.sets(st.integers(0, 23), min_size=1, max_size=3),
    ),
    st.sampled_from(["*/7 * * * *", "50 * * * *", "*/20 2 * * *", "@daily"]).map(
        lambda text: Timing(cron=text)
    ),
    st.integers(5, 3000).map(lambda minutes: Timing(every_s=60.0 * minutes)),
)


@given(
    timing=TIMINGS, minutes=st.integers(-30, 30).filter(bool), later=st.integers(0, 2 * 24 * 3600)
)
def test_a_shift_moves_each_time_and_none_is_lost_or_comes_again(
    timing: Timing, minutes: int, later: int
):
    now, by = START + timedelta(seconds=later), timedelta(minutes=minutes)
    before = a_schedule(timing=timing)
    coming = list(upcoming(before, now, 5))
    before = replace(before, next_fire_at=coming[0])
    wished = moved(before, minutes)
    if wished is None:
        return

    after = shifted(before, wished, by, now)

    assert after.next_fire_at is not None
    assert [*upcoming(after, after.next_fire_at - MINUTE / 60, 5)] == [one + by for one in coming]


def test_a_shift_past_a_time_that_clocks_skip_loses_none():
    # On 29 March 02:30 is skipped in Warsaw, and so are 02:35 and 02:25: all fire at 03:00.
    gap = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    before = a_schedule(timing=Timing(cron="30 2 * * *", zone="Europe/Warsaw"), next_fire_at=gap)
    now = gap - 30 * MINUTE

    for minutes in (5, -5):
        wished = moved(before, minutes)
        assert wished is not None
        assert shifted(before, wished, minutes * MINUTE, now).next_fire_at == gap


def test_a_shift_leaves_a_paused_schedule_paused_and_one_that_made_way_counts_anew():
    paused = a_schedule(state=ScheduleState.PAUSED)
    deferred = a_schedule(deferrals=3, deferred_until=START + 61 * MINUTE)

    for before, state in ((paused, ScheduleState.PAUSED), (deferred, ScheduleState.ACTIVE)):
        wished = moved(before, 5)
        assert wished is not None
        after = shifted(before, wished, 5 * MINUTE, START + 10 * MINUTE)
        assert (after.state, after.revision) == (state, 1)
        assert (after.deferrals, after.deferred_until) == (0, None)
