"""Each slot of a schedule fires once, whatever is done to the clock and however long it slept."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.core.brute_force import DAY, MINUTE, utc, walked

from tinyscheduler.core.firing_times import (
    GRACE_S,
    MOST_COUNTED,
    MOST_FIRINGS,
    Due,
    check_timing,
    describe,
    due,
    estimated_interval_s,
    jittered,
    slots_after,
)
from tinyscheduler.model.schedules import (
    ActiveHours,
    CatchUp,
    Schedule,
    ScheduleState,
    Timing,
)
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

WARSAW, NEW_YORK, LORD_HOWE = "Europe/Warsaw", "America/New_York", "Australia/Lord_Howe"
CAIRO = "Africa/Cairo"  # changes its clocks at midnight: the repeated hour is of the day before
# Around what happens to the clock there, or to the calendar.
MOMENTS = (
    (WARSAW, utc("2026-03-29 01:00")),
    (WARSAW, utc("2026-10-25 01:00")),
    (NEW_YORK, utc("2026-03-08 07:00")),
    (NEW_YORK, utc("2026-11-01 06:00")),
    (LORD_HOWE, utc("2026-04-04 15:00")),
    (LORD_HOWE, utc("2026-10-03 15:30")),
    (CAIRO, utc("2026-04-23 22:00")),
    (CAIRO, utc("2026-10-29 21:00")),
    ("UTC", utc("2028-02-29 00:00")),
    ("UTC", utc("2026-01-31 00:00")),
)
ANCHOR = utc("2026-03-01 12:00")
HOUR = timedelta(hours=1)


def an_interval(seconds: float, **more: Any) -> Timing:
    return Timing(every_s=seconds, **more)


def hours(begin: int, end: int) -> ActiveHours:
    return ActiveHours(begin_minute=begin * 60, end_minute=end * 60)


def a_schedule(timing: Timing, **more: Any) -> Schedule:
    """Return a schedule made at ``ANCHOR``, whose first slot is the next to be dealt with."""
    more.setdefault("next_fire_at", next(slots_after(timing, ANCHOR, anchor=ANCHOR), None))
    plain = Schedule(
        schedule_id="s1",
        name="nightly",
        timing=timing,
        spec=TaskSpec(command=("true",)),
        created_at=ANCHOR,
        anchor=ANCHOR,
    )
    return replace(plain, **more)


def slots(timing: Timing, after: datetime, until: datetime) -> list[datetime]:
    found = slots_after(timing, after, anchor=ANCHOR)
    return list(takewhile(lambda slot: slot <= until, found))


def shown(timing: Timing, after: str, number: int) -> list[str]:
    """Return the next slots as the clock in the zone shows them, in UTC where it is ambiguous."""
    found = islice(slots_after(timing, utc(after), anchor=ANCHOR), number)
    return [f"{slot.astimezone(ZoneInfo(timing.zone)):%d %H:%M%z}"[:-2] for slot in found]


# -- slots: cron expressions -------------------------------------------------------

MINUTES = ("*", "*/7", "*/15", "0", "30", "0,30", "5-20/5", "59", "10-50", "15/20", "0-59")
HOURS = (
    *("*", "*/2", "*/5", "0", "1", "2", "3", "23", "1-3", "0,2", "2-4/2", "22-23", "0-23"),
    *("1,2", "1/2"),
)
MONTHS = ("*", "*", "*", "*/3", "MAR,APR", "10-11", "JAN")
WEEKDAYS = ("*", "*", "*", "1-5", "SAT,SUN", "7", "*/2", "SUN#5", "0L", "THU", "0-6/2")


@st.composite
def expressions(draw: st.DrawFn, day: int) -> str:
    days = ("*", "*", "*", "*/2", str(day), "L", "LW", f"{day},L", "1-31/3", "28-31")
    fields = (MINUTES, HOURS, days, MONTHS, WEEKDAYS)
    return " ".join(draw(st.sampled_from(field)) for field in fields)


@given(st.data(), st.sampled_from(MOMENTS), st.integers(-3000, 3000))
def test_the_slots_are_those_that_a_walk_through_all_minutes_finds(data, moment, offset_minutes):
    zone, change = moment
    expression = data.draw(expressions(change.day))
    after, until = change + offset_minutes * MINUTE, change + 2 * DAY

    found = slots(Timing(cron=expression, zone=zone), after, until)

    expected = walked(expression, zone, after=change - 3 * DAY, until=until)
    assert found == [slot for slot in expected if slot > after]


@given(st.data(), st.sampled_from(MOMENTS[:8]), st.integers(0, 1439), st.integers(0, 1440))
def test_active_hours_look_at_the_time_that_is_named(data, moment, begin, end):
    zone, change = moment
    assume(begin != end)
    active = ActiveHours(begin_minute=begin, end_minute=end)
    expression = data.draw(expressions(change.day))
    timing = Timing(cron=expression, zone=zone, active_hours=active)

    found = slots(timing, change - DAY, change + DAY)

    named = {(begin + number) % 1440 for number in range((end - begin) % 1440 or 1440)}
    period = {"after": change - DAY, "until": change + DAY}
    assert found == walked(expression, zone, hours=named.__contains__, **period)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # Clocks forward: from 02:00 to 03:00 in Warsaw, from 02:00 to 02:30 on Lord Howe.
        ("30 2 * * *", WARSAW, "2026-03-28 12:00", ["29 03:00+02", "30 02:30+02"]),
        ("0,30 2,3 * * *", WARSAW, "2026-03-28 12:00", ["29 03:00+02", "29 03:30+02"]),
        ("0 */2 * * *", WARSAW, "2026-03-28 22:30", ["29 00:00+01", "29 03:00+02", "29 04:00+02"]),
        ("*/20 2 * * *", WARSAW, "2026-03-28 12:00", ["29 03:00+02", "30 02:00+02"]),
        ("30 * * * *", WARSAW, "2026-03-29 00:00", ["29 01:30+01", "29 03:30+02"]),
        ("*/30 * * * *", WARSAW, "2026-03-29 00:00", ["29 01:30+01", "29 03:00+02"]),
        ("15 2 * * *", LORD_HOWE, "2026-10-03 12:00", ["04 02:30+11", "05 02:15+11"]),
        ("*/10 3 * * *", LORD_HOWE, "2026-10-03 12:00", ["04 03:00+11", "04 03:10+11"]),
        ("30 0 * * *", CAIRO, "2026-04-23 12:00", ["24 01:00+03", "25 00:30+03"]),
        # Clocks back: from 03:00 to 02:00 in Warsaw, from 02:00 to 01:30 on Lord Howe.
        ("30 2 * * *", WARSAW, "2026-10-24 12:00", ["25 02:30+02", "26 02:30+01"]),
        ("30 2 * * *", WARSAW, "2026-10-25 01:10", ["26 02:30+01"]),
        ("0 */2 * * *", WARSAW, "2026-10-24 22:30", ["25 02:00+02", "25 04:00+01"]),
        ("30 * * * *", WARSAW, "2026-10-25 00:00", ["25 02:30+02", "25 02:30+01", "25 03:30+01"]),
        ("*/30 2 25 10 *", WARSAW, "2026-10-25 00:15", ["25 02:30+02", "25 02:00+01"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04 12:00", ["05 01:45+11", "06 01:45+10"]),
        ("*/15 * * * *", LORD_HOWE, "2026-04-04 14:40", ["05 01:45+11", "05 01:30+10"]),
        # The calendar.
        ("0 0 29 2 *", "UTC", "2026-01-01 00:00", ["29 00:00+00"]),
        ("0 0 31 * *", "UTC", "2026-01-31 00:00", ["31 00:00+00", "31 00:00+00"]),
        ("0 0 L * *", "UTC", "2028-01-31 00:00", ["29 00:00+00", "31 00:00+00"]),
        ("@daily", "UTC", "2026-01-31 00:00", ["01 00:00+00", "02 00:00+00"]),
        ("*/7 * * * *", "UTC", "2026-01-31 00:50", ["31 00:56+00", "31 01:00+00"]),
    ],
)
def test_what_a_change_of_the_clock_does(expression, zone, after, expected):
    assert shown(Timing(cron=expression, zone=zone), after, len(expected)) == expected


def test_a_slot_is_strictly_after_the_moment_that_is_asked_about():
    timing = Timing(cron="0 * * * *")
    slot = utc("2026-01-01 10:00")

    assert next(slots_after(timing, slot - timedelta(microseconds=1), anchor=ANCHOR)) == slot
    assert next(slots_after(timing, slot, anchor=ANCHOR)) == slot + HOUR
    assert next(slots_after(timing, slot + timedelta(microseconds=1), anchor=ANCHOR)) == slot + HOUR


@pytest.mark.parametrize(
    "timing",
    [Timing(cron="@yearly"), Timing(cron="@yearly", zone=NEW_YORK), an_interval(86_400.0)],
)
def test_the_calendar_ends_and_so_do_the_slots(timing):
    assert not slots(timing, utc("9999-12-31 12:00"), datetime.max.replace(tzinfo=UTC))


def test_active_hours_are_those_of_the_clock_and_may_end_on_the_next_day():
    night = Timing(cron="0 */3 * * *", zone=WARSAW, active_hours=hours(22, 6))

    expected = ["29 00:00+01", "29 03:00+02", "30 00:00+02"]
    assert shown(night, "2026-03-28 22:30", 3) == expected


def test_active_hours_without_any_named_time_leave_no_slot():
    timing = Timing(cron="0 9 * * *", active_hours=hours(10, 12))

    assert next(slots_after(timing, ANCHOR, anchor=ANCHOR), None) is None


def test_all_that_is_yielded_is_utc():
    at = datetime(2026, 7, 1, 9, 30, tzinfo=ZoneInfo(WARSAW))

    for timing in (Timing(cron="30 9 * * *", zone=WARSAW), an_interval(90.0), Timing(at=at)):
        (slot,) = islice(slots_after(timing, ANCHOR, anchor=ANCHOR.astimezone(at.tzinfo)), 1)
        assert slot.tzinfo is UTC


# -- slots: intervals and single times ---------------------------------------------


@given(st.integers(1, 400_000), st.integers(-10, 10**7))
def test_intervals_count_from_the_anchor_whenever_somebody_looks(every_s, looked_s):
    looked = ANCHOR + timedelta(seconds=looked_s)

    first, second = islice(slots_after(an_interval(every_s), looked, anchor=ANCHOR), 2)

    steps = (first - ANCHOR) / timedelta(seconds=every_s)
    assert steps == int(steps) >= 1
    assert second - first == timedelta(seconds=every_s)
    assert first > looked
    assert first == ANCHOR + timedelta(seconds=every_s) or first - looked <= second - first


@given(
    st.sampled_from(MOMENTS[:8]),
    st.sampled_from((10, 60, 420, 3600, 7 * 3600, 86_400, 100_000)),
    st.integers(0, 1439),
    st.integers(1, 1439),
)
def test_intervals_keep_to_active_hours_across_changes_of_the_clock(moment, minutes, begin, width):
    zone, change = moment
    every = timedelta(minutes=minutes / 60)
    active = ActiveHours(begin_minute=begin, end_minute=(begin + width) % 1440)
    timing = an_interval(every.total_seconds(), zone=zone, active_hours=active)
    anchor = change - DAY

    found = takewhile(lambda slot: slot <= change + DAY, slots_after(timing, anchor, anchor=anchor))

    walls = ((anchor + k * every) for k in range(1, int(2 * DAY / every) + 1))
    local = ((wall, wall.astimezone(ZoneInfo(zone))) for wall in walls)
    expected = [wall for wall, one in local if (one.hour * 60 + one.minute - begin) % 1440 < width]
    assert list(found) == expected


def test_intervals_wait_for_their_active_hours():
    timing = an_interval(7 * 3600.0, zone=WARSAW, active_hours=hours(9, 17))

    # Counted from 13:00: 20:00, 03:00, 10:00, 17:00, 00:00, and so on.
    assert shown(timing, "2026-03-01 12:00", 3) == ["02 10:00+01", "03 14:00+01", "04 11:00+01"]


def test_active_hours_that_come_twice_are_met_twice():
    timing = an_interval(
        600.0, zone=WARSAW, active_hours=ActiveHours(begin_minute=120, end_minute=130)
    )

    assert shown(timing, "2026-10-24 22:00", 2) == ["25 02:00+02", "25 02:00+01"]


def test_an_interval_that_never_meets_its_active_hours_ends():
    timing = an_interval(86_400.0, active_hours=hours(9, 10))

    assert next(slots_after(timing, ANCHOR, anchor=ANCHOR), None) is None


def test_an_interval_may_meet_its_active_hours_in_summer_only():
    timing = an_interval(86_400.0, zone=WARSAW, active_hours=hours(14, 15))

    # The anchor is at 13:00 in winter.
    assert shown(timing, "2026-03-01 12:00", 1) == ["29 14:00+02"]


def test_a_single_time_comes_once():
    at = utc("2026-03-02 08:00")

    assert slots(Timing(at=at), ANCHOR, ANCHOR + 9 * DAY) == [at]
    assert not slots(Timing(at=at), at, ANCHOR + 9 * DAY)
    assert not slots(Timing(at=at, active_hours=hours(9, 10)), ANCHOR, ANCHOR + 9 * DAY)


def test_the_slots_of_nothing_are_none():
    assert not slots(Timing(), ANCHOR, ANCHOR + 9 * DAY)


# -- jitter ------------------------------------------------------------------------


@given(st.text(max_size=9), st.datetimes(timezones=st.just(UTC)), st.floats(0, 86_400))
def test_jitter_is_the_same_for_the_same_slot_and_less_than_asked_for(name, moment, jitter_s):
    slot = moment.replace(year=2026, day=1)

    fires_at = jittered(name, slot, jitter_s)

    assert fires_at == jittered(name, slot.astimezone(ZoneInfo(LORD_HOWE)), jitter_s)
    assert timedelta() <= fires_at - slot
    assert (fires_at - slot).total_seconds() < jitter_s or fires_at == slot


def test_jitter_spreads_schedules_and_slots():
    slot = utc("2026-01-01 00:00")
    by_name = [jittered(f"s{number}", slot, 100) - slot for number in range(1000)]
    by_slot = [jittered("s1", slot + k * HOUR, 100) - slot - k * HOUR for k in range(1000)]

    for delays in (by_name, by_slot):
        tenths = [int(delay.total_seconds()) // 10 for delay in delays]
        assert all(50 < tenths.count(tenth) < 200 for tenth in range(10))


# -- what is due -------------------------------------------------------------------

EVERY_MINUTE = Timing(cron="* * * * *")


def asleep(catch_up: CatchUp, minutes: int, **more: Any) -> tuple[Due, Schedule]:
    """Return what is due at the end of a sleep over so many slots, one a minute."""
    schedule = a_schedule(EVERY_MINUTE, catch_up=catch_up, **more)
    return due(schedule, ANCHOR + minutes * MINUTE + timedelta(seconds=1)), schedule


def minutes(numbers: Sequence[int]) -> tuple[datetime, ...]:
    return tuple(ANCHOR + number * MINUTE for number in numbers)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_nothing_is_due_before_the_next_slot(catch_up):
    found, schedule = asleep(catch_up, 0)

    assert found == Due(next_slot=schedule.next_fire_at)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_one_slot_fires_at_the_first_look_after_it(catch_up):
    found, _ = asleep(catch_up, 1)

    assert found == Due(slots=minutes([1]), next_slot=ANCHOR + 2 * MINUTE)


@pytest.mark.parametrize(
    ("catch_up", "fire", "skipped"),
    [
        (CatchUp.NONE, [100], 99),
        (CatchUp.LATEST, [100], 99),
        (CatchUp.ALL, range(1, 101), 0),
    ],
)
def test_a_machine_asleep_over_a_hundred_slots(catch_up, fire, skipped):
    found, _ = asleep(catch_up, 100)

    assert found == Due(slots=minutes(fire), skipped=skipped, next_slot=ANCHOR + 101 * MINUTE)


def test_at_most_a_hundred_are_caught_up_with_and_they_are_the_newest():
    found, _ = asleep(CatchUp.ALL, 250)

    assert found.slots == minutes(range(151, 251))
    assert found.skipped == 150


@pytest.mark.parametrize(
    ("catch_up", "fire", "skipped"),
    [(CatchUp.NONE, [], 1), (CatchUp.LATEST, [], 1), (CatchUp.ALL, [], 1)],
)
def test_a_slot_that_is_older_than_the_window_is_passed_over(catch_up, fire, skipped):
    schedule = a_schedule(Timing(cron="@daily"), catch_up=catch_up, catch_up_window_s=3600)

    found = due(schedule, utc("2026-03-02 01:00:01"))

    assert found == Due(slots=minutes(fire), skipped=skipped, next_slot=utc("2026-03-03 00:00"))


@pytest.mark.parametrize("catch_up", [CatchUp.LATEST, CatchUp.ALL])
def test_a_slot_as_old_as_the_window_fires(catch_up):
    schedule = a_schedule(Timing(cron="@daily"), catch_up=catch_up, catch_up_window_s=3600)

    assert due(schedule, utc("2026-03-02 01:00")).slots == (utc("2026-03-02 00:00"),)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_no_window_is_so_short_that_a_tick_comes_too_late(catch_up):
    schedule = a_schedule(
        Timing(cron="@daily", jitter_s=30.0), catch_up=catch_up, catch_up_window_s=0
    )
    slot = utc("2026-03-02 00:00")
    latest = slot + timedelta(seconds=GRACE_S + 30)

    assert due(schedule, latest).slots == (slot,)
    assert due(schedule, latest + timedelta(microseconds=1)).skipped == 1


def test_without_catching_up_all_within_the_grace_fire():
    schedule = a_schedule(an_interval(20.0), catch_up=CatchUp.NONE)

    found = due(schedule, ANCHOR + timedelta(seconds=100))

    assert [(slot - ANCHOR).seconds for slot in found.slots] == [40, 60, 80, 100]
    assert found.skipped == 1


@pytest.mark.parametrize("timing", [an_interval(1.0), EVERY_MINUTE, Timing(cron="* * 1 1 *")])
@pytest.mark.parametrize("catch_up", CatchUp)
def test_years_of_sleep_are_looked_through_at_once(timing, catch_up):
    schedule = a_schedule(timing, catch_up=catch_up, catch_up_window_s=float("inf"))
    now = utc("2029-01-01 18:00")

    found = due(schedule, now)

    number = {CatchUp.LATEST: 1, CatchUp.ALL: MOST_FIRINGS}.get(catch_up, len(found.slots))
    assert list(found.slots) == slots(timing, now - 2 * HOUR, now)[-number:]
    expected = 3 * 1440 - 359 - number if timing.cron == "* * 1 1 *" else MOST_COUNTED
    assert found.skipped == expected


def test_a_clock_set_back_fires_nothing_twice():
    found, schedule = asleep(CatchUp.ALL, 90)
    schedule = replace(schedule, next_fire_at=found.next_slot)

    again = [due(schedule, ANCHOR + number * MINUTE) for number in range(30, 91)]

    assert {one.slots for one in again} == {()}
    assert {one.next_slot for one in again} == {found.next_slot}
    assert due(schedule, ANCHOR + 91 * MINUTE).slots == minutes([91])


@pytest.mark.parametrize(
    ("catch_up", "fire", "skipped"),
    [(CatchUp.LATEST, [100], 99), (CatchUp.ALL, [1, 2, 3], 0)],
)
def test_the_last_firings_are_those_that_would_have_come_in_time(catch_up, fire, skipped):
    fired = 10 - len(fire)

    found, _ = asleep(catch_up, 100, max_firings=10, fired=fired)

    assert found == Due(slots=minutes(fire), skipped=skipped)


def test_a_schedule_with_firings_left_goes_on():
    found, _ = asleep(CatchUp.ALL, 250, max_firings=1000)

    assert len(found.slots) == MOST_FIRINGS
    assert found.next_slot == ANCHOR + 251 * MINUTE


@pytest.mark.parametrize("catch_up", CatchUp)
def test_a_schedule_that_has_fired_as_often_as_it_may_has_ended(catch_up):
    assert asleep(catch_up, 100, max_firings=3, fired=3)[0] == Due()
    assert asleep(catch_up, 100, next_fire_at=None)[0] == Due()


def test_slots_from_the_end_of_a_schedule_on_do_not_exist():
    ends = ANCHOR + 3 * MINUTE

    assert asleep(CatchUp.LATEST, 1, expires_at=ends)[0].next_slot == ANCHOR + 2 * MINUTE
    assert asleep(CatchUp.LATEST, 2, expires_at=ends)[0] == Due(slots=minutes([2]), skipped=1)
    assert asleep(CatchUp.LATEST, 0, expires_at=ANCHOR + MINUTE)[0] == Due()


@pytest.mark.parametrize(
    ("catch_up", "minute", "fire", "skipped"),
    [
        (CatchUp.ALL, 3, [], 2),  # a second beyond the grace
        (CatchUp.LATEST, 9, [], 2),
    ],
)
def test_nothing_is_caught_up_with_once_a_schedule_has_expired(catch_up, minute, fire, skipped):
    found, _ = asleep(catch_up, minute, expires_at=ANCHOR + 3 * MINUTE)

    assert found == Due(slots=minutes(fire), skipped=skipped)


def test_a_tick_after_the_end_still_fires_the_slot_before_it():
    schedule = a_schedule(EVERY_MINUTE, expires_at=ANCHOR + MINUTE + timedelta(seconds=1))

    found = due(schedule, ANCHOR + MINUTE + timedelta(seconds=59))

    assert found == Due(slots=minutes([1]))


@pytest.mark.parametrize("state", [one for one in ScheduleState if one != ScheduleState.ACTIVE])
def test_only_an_active_schedule_fires(state):
    found, schedule = asleep(CatchUp.ALL, 9, state=state)

    assert found == Due(next_slot=schedule.next_fire_at)


def test_a_single_time_is_the_last():
    schedule = a_schedule(Timing(at=ANCHOR + HOUR))

    assert due(schedule, ANCHOR + HOUR) == Due(slots=(ANCHOR + HOUR,))


def test_a_slot_waits_for_its_jitter_and_those_behind_it_wait_for_it():
    schedule = a_schedule(an_interval(60.0, jitter_s=60.0), catch_up=CatchUp.ALL)
    slot = ANCHOR + MINUTE
    fires_at = jittered("s1", slot, 60.0)

    assert fires_at > slot
    assert due(schedule, fires_at - timedelta(microseconds=1)) == Due(next_slot=slot)
    assert due(schedule, fires_at).slots == (slot,)


def test_what_is_next_may_be_any_moment():
    schedule = a_schedule(Timing(cron="@hourly"), next_fire_at=ANCHOR + timedelta(minutes=90))

    assert due(schedule, ANCHOR + timedelta(minutes=100)) == Due(next_slot=ANCHOR + 2 * HOUR)
    assert due(schedule, ANCHOR + 2 * HOUR).slots == (ANCHOR + 2 * HOUR,)


@st.composite
def timings(draw: st.DrawFn) -> Timing:
    zone, change = draw(st.sampled_from(MOMENTS))
    timing = draw(
        st.one_of(
            expressions(change.day).map(lambda expression: Timing(cron=expression)),
            st.sampled_from([60.0, 97.0, 3600.0, 90_000.0]).map(an_interval),
            st.just(Timing(at=change + HOUR)),
        )
    )
    return replace(
        timing,
        zone=zone,
        jitter_s=draw(st.sampled_from([0.0, 7.5, 60.0])),
        active_hours=draw(st.sampled_from([None, hours(22, 6), hours(9, 17)])),
    )


def due_by_hand(schedule: Schedule, now: datetime) -> Due:
    """Return what is due, from a list of all slots that there are."""
    timing, first, ends = schedule.timing, schedule.next_fire_at, schedule.expires_at
    left = MOST_COUNTED if schedule.max_firings is None else schedule.max_firings - schedule.fired
    if first is None or left <= 0:
        return Due()
    known = slots(timing, first - timedelta(microseconds=1), now + 3 * DAY)
    known = [slot for slot in known if ends is None or slot < ends]
    ripe = list(takewhile(lambda slot: jittered("s1", slot, timing.jitter_s) <= now, known))
    grace_s = GRACE_S + timing.jitter_s
    window_s = max(grace_s, schedule.catch_up_window_s)
    if schedule.catch_up is CatchUp.NONE or (ends is not None and ends <= now):
        window_s = grace_s
    fire = [slot for slot in ripe if (now - slot).total_seconds() <= window_s]
    fire = fire[-1 if schedule.catch_up is CatchUp.LATEST else -MOST_FIRINGS :]
    skipped = len(ripe) - len(fire)
    following = next(iter(known[len(ripe) :]), None)
    if len(fire) >= left:
        return Due(slots=tuple(fire[:left]), skipped=skipped)
    return Due(slots=tuple(fire), skipped=skipped, next_slot=following)


@given(
    st.data(),
    timings(),
    st.sampled_from(MOMENTS),
    st.sampled_from(CatchUp),
    st.sampled_from([0.0, 3600.0, 86_400.0]),
)
def test_each_slot_is_dealt_with_once_and_in_order_whenever_ticks_come(
    data, timing, moment, catch_up, window_s
):
    begin = moment[1] - DAY
    all_slots = slots(timing, begin, begin + 8 * DAY)
    schedule = a_schedule(
        timing,
        next_fire_at=next(iter(all_slots), None),
        catch_up=catch_up,
        catch_up_window_s=window_s,
        max_firings=data.draw(st.sampled_from([None, None, 3])),
        expires_at=data.draw(st.sampled_from([None, None, moment[1] + HOUR])),
    )
    # The clock is set back now and then.
    steps = data.draw(st.lists(st.integers(-90, 600), min_size=1, max_size=10))

    fired: list[datetime] = []
    skipped, now = 0, begin
    for step in steps:
        now += step * MINUTE
        found = due(schedule, now)
        # All that is days ahead is alike to a short list.
        if found.next_slot is None or found.next_slot <= now + 3 * DAY:
            assert found == due_by_hand(schedule, now)
        fired += found.slots
        skipped += found.skipped
        count = schedule.fired + len(found.slots)
        schedule = replace(schedule, next_fire_at=found.next_slot, fired=count)

    dealt_with = [slot for slot in all_slots if slot < (schedule.next_fire_at or begin + 8 * DAY)]
    if schedule.next_fire_at is None:
        dealt_with = dealt_with[: len(fired) + skipped]
    assert fired == [slot for slot in dealt_with if slot in fired]
    assert len(fired) + skipped == len(dealt_with)


# -- what is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Timing(), "a schedule has exactly one of a cron expression, an interval and a time"),
        (Timing(cron="@daily", every_s=60.0), "exactly one of"),
        (Timing(every_s=60.0, at=ANCHOR), "exactly one of"),
        (Timing(cron="61 * * * *"), "'61' is no minute; expected * or 0 to 59, lists"),
        (Timing(cron="0 22-6 * * *"), "'22-6' is no hour; expected * or 0 to 23, lists"),
        (Timing(cron="0 0 ? * *"), "'?' is no day-of-month; expected * or 1 to 31, L"),
        (Timing(cron="0 0 * MAI *"), "'MAI' is no month; expected * or 1 to 12 or JAN"),
        (Timing(cron="0 0 * * 8"), "'8' is no day-of-week; expected * or 0 to 7 or SUN"),
        (Timing(cron="*/0 * * * *"), "'*/0' is no minute"),
        (Timing(cron="*/90 * * * *"), "the step of '*/90' leads beyond the minute field's 60"),
        (Timing(cron="0 0 30 2 *"), "'0 0 30 2 *' never fires: no day is like that"),
        (Timing(cron="0 0 31 4,6 *"), "never fires"),
        (Timing(cron="0 0 */31 * MON#2"), "never fires"),
        (Timing(cron=""), "'' has 0 fields, not five: minute hour day-of-month month"),
        (Timing(cron="5"), "'5' has one field, not five"),
        (
            Timing(cron="0 * * * * *"),
            "has 6 fields, not five: minute hour day-of-month month day-of-week; it cannot name",
        ),
        (Timing(cron="9" * 501), "a cron expression of 501 characters: at most 500 are read"),
        (Timing(cron="@reboot"), "@reboot is no time: let the machine's own service manager"),
        (Timing(cron="@dayly"), "unknown macro '@dayly': did you mean @daily?"),
        (Timing(cron="@daily", zone="Warsaw"), "'Warsaw': did you mean Europe/Warsaw?"),
        (Timing(cron="@daily", zone="new york"), "did you mean America/New_York?"),
        (Timing(cron="@daily", zone="Europe/Warszawa"), "did you mean Europe/Warsaw?"),
        (Timing(cron="@daily", zone="Europe"), "unknown time zone 'Europe'"),
        (Timing(cron="@daily", zone="../Warsaw"), "unknown time zone '../Warsaw'"),
        (Timing(cron="@daily", zone="!"), "expected a name such as Europe/Warsaw or UTC"),
        (an_interval(0.5), "an interval of 0.5 s: expected at least 1 s, and at most ten years"),
        (an_interval(float("nan")), "an interval of nan s"),
        (an_interval(1e9), "an interval of 1e+09 s"),
        (Timing(at=datetime(2026, 1, 1)), "a time without a zone: 2026-01-01 00:00:00"),  # noqa: DTZ001  # what is refused
        (Timing(cron="@daily", jitter_s=-1.0), "a jitter of -1 s: expected 0 to 86400 s"),
        (Timing(cron="0,10 9 * * *", jitter_s=601.0), "expected 0 to 600 s, the shortest time"),
        (an_interval(60.0, jitter_s=61.0), "expected 0 to 60 s"),
        (Timing(cron="@daily", active_hours=hours(-1, 9)), "from minute -60 to 540"),
        (Timing(cron="@daily", active_hours=hours(24, 9)), "from minute 1440 to 540"),
        (Timing(cron="@daily", active_hours=hours(9, 25)), "from minute 540 to 1500"),
        (Timing(cron="@daily", active_hours=hours(9, 9)), "from 09:00 to 09:00 are no time"),
        (
            Timing(cron="@daily", active_hours=hours(9, 17), zone=WARSAW),
            "none of the times of '@daily' is within the active hours, 09:00 to 17:00 in Europe/",
        ),
        (
            Timing(at=ANCHOR, active_hours=hours(22, 6)),
            "2026-03-01 12:00 is not within the active hours, 22:00 to 06:00 in UTC",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(timing, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_timing(timing)


def test_an_interval_outside_its_active_hours_is_refused_once_the_anchor_is_known():
    timing = an_interval(86_400.0, active_hours=hours(9, 10))
    check_timing(timing)

    with pytest.raises(ValueError, match="every 1 day from 2026-03-01T12:00:00"):
        check_timing(timing, anchor=ANCHOR)


@pytest.mark.parametrize(
    "timing",
    [
        Timing(cron="0 0 29 2 *"),
        Timing(cron="0 0 * 2 MON#5"),  # once in 28 years
        Timing(cron="*/60 0 */31 1 *"),
        Timing(cron="0,10 9 * * *", jitter_s=600.0),
        Timing(cron=" @Midnight ", zone=LORD_HOWE),
        Timing(cron="0 9 * * *", active_hours=hours(22, 10)),
        Timing(cron="0 23 * * *", active_hours=hours(22, 24)),
        an_interval(1.0, jitter_s=1.0),
        an_interval(86_400.0, active_hours=hours(12, 13)),
        Timing(at=ANCHOR, active_hours=hours(12, 13), zone="UTC"),
    ],
)
def test_what_can_be_is_accepted(timing):
    check_timing(timing, anchor=ANCHOR)


@given(st.text(alphabet="0123456789*/,-#LWMONSUJ@?", max_size=40), st.lists(st.text(), max_size=6))
def test_no_expression_breaks_more_than_itself(text, words):
    for expression in (text, " ".join(words), " ".join([text[:9] or "*"] * 5)):
        timing = Timing(cron=expression)
        try:
            check_timing(timing)
        except ValueError:
            continue
        assert describe(timing)
        assert next(slots_after(timing, ANCHOR, anchor=ANCHOR)) > ANCHOR


# -- in words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (Timing(cron="* * * * *"), "every minute"),
        (Timing(cron="*/5 * * * *", zone=WARSAW), "every 5 minutes"),
        (Timing(cron="0,30 * * * *"), "every 30 minutes"),
        (Timing(cron="*/7 * * * *"), "every seventh minute of every hour"),
        (Timing(cron="@hourly"), "every hour"),
        (Timing(cron="15 * * * *"), "every hour at minute 15"),
        (Timing(cron="0 */2 * * *"), "every 2 hours, UTC"),
        (Timing(cron="5 */6 * * *"), "every 6 hours at minute 5, UTC"),
        (Timing(cron="0 */5 * * *"), "at minute 0 past every fifth hour, UTC"),
        (Timing(cron="30 9 * * MON-FRI", zone=WARSAW), f"at 09:30 on weekdays, {WARSAW}"),
        (Timing(cron="0 8,20 * * 6,7"), "at 08:00 and 20:00 at weekends, UTC"),
        (Timing(cron="0 9 * * 7,3,1"), "at 09:00 on Mondays, Wednesdays and Sundays, UTC"),
        (Timing(cron="0 9 * * 0-6"), "at 09:00 every day, UTC"),
        (Timing(cron="@midnight"), "at 00:00 every day, UTC"),
        (Timing(cron="@weekly"), "at 00:00 on Sundays, UTC"),
        (Timing(cron="@monthly"), "at 00:00 on the first day of every month, UTC"),
        (Timing(cron="@yearly"), "at 00:00 on January 1, UTC"),
        (Timing(cron="@ANNUALLY"), "at 00:00 on January 1, UTC"),
        (Timing(cron="*/15 9-17 * * 1-5"), "every 15 minutes from 09:00 to 17:59 on weekdays, UTC"),
        (Timing(cron="* 2 * * *"), "every minute from 02:00 to 02:59, UTC"),
        (Timing(cron="*/15 1,5 * * *"), "every 15th minute past hours 1 and 5, UTC"),
        (Timing(cron="0 9 * * MON#2"), "at 09:00 on the second Monday of the month, UTC"),
        (Timing(cron="0 9 * * 1,5L"), "at 09:00 on Monday and the last Friday of the month, UTC"),
        (Timing(cron="0 9 LW * *"), "at 09:00 on the last weekday of every month, UTC"),
        (Timing(cron="*/5 * * * MON"), "every 5 minutes on Mondays, UTC"),
        (
            Timing(cron="*/5 * * * *", active_hours=hours(22, 6), zone=WARSAW),
            f"every 5 minutes, only from 22:00 to 06:00, {WARSAW}",
        ),
        (an_interval(300.0), "every 5 minutes"),
        (an_interval(7200.0, zone=WARSAW), "every 2 hours"),
        (an_interval(3600.0), "every hour"),
        (an_interval(86_400.0), "every day"),
        (an_interval(5400.0), "every 1 hour 30 minutes"),
        (an_interval(1.5), "every 1.5 seconds"),
        (an_interval(10.0), "every 10 seconds"),
        (an_interval(300.0, jitter_s=90.0), "every 5 minutes, up to 1 minute 30 seconds later"),
        (
            an_interval(300.0, active_hours=hours(9, 24)),
            "every 5 minutes, only from 09:00 to 24:00, UTC",
        ),
        (
            Timing(at=utc("2026-07-01 07:30"), zone=WARSAW),
            f"once, at 2026-07-01 09:30, {WARSAW}",
        ),
        (Timing(at=utc("2026-07-01 07:30:05")), "once, at 2026-07-01 07:30:05, UTC"),
    ],
)
def test_a_timing_in_words(timing, words):
    check_timing(timing)

    assert describe(timing) == words


# -- intervals between slots -------------------------------------------------------


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [
        (an_interval(90.0), 90),
        (Timing(cron="0 9 * * *"), 86_400),
        (Timing(cron="0,10 9 * * *"), 600),
        (Timing(at=utc("2026-07-01 07:30")), 0),
        (Timing(at=ANCHOR), 0),
    ],
)
def test_the_interval_is_that_between_the_next_two_slots(timing, seconds):
    assert estimated_interval_s(timing, ANCHOR, ANCHOR) == seconds


def test_the_interval_does_not_depend_on_how_far_the_next_slot_is():
    timing = Timing(cron="0 9 * * *")

    assert {estimated_interval_s(timing, ANCHOR + k * HOUR, ANCHOR) for k in range(24)} == {86_400}


# -- what it costs -----------------------------------------------------------------

NOTHING_DUE = """
import sys
from datetime import UTC, datetime, timedelta
from tinyscheduler.core.firing_times import due
from tinyscheduler.model.schedules import Schedule, Timing
from tinyscheduler.model.tasks import TaskSpec

now = datetime(2026, 3, 1, tzinfo=UTC)
one = Schedule(
    schedule_id="1", name="one", timing=Timing(cron="@daily", zone="Europe/Warsaw"),
    spec=TaskSpec(), created_at=now, anchor=now, next_fire_at=now + timedelta(seconds=1),
)
assert not due(one, now).slots
print({"cronsim", "zoneinfo", "calendar"} & sys.modules.keys())
assert due(one, now + timedelta(days=1)).slots
print("cronsim" in sys.modules)
"""


def test_where_nothing_is_due_nothing_is_loaded_that_finds_slots():
    argv = [sys.executable, "-c", NOTHING_DUE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout.splitlines() == ["set()", "True"], done.stderr
