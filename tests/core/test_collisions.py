"""What comes at the same time is found, and the smallest shifts take it apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.brute_force import DAY, MINUTE, walked

from tinyscheduler.core.collisions import (
    Board,
    Collision,
    Course,
    Kind,
    Room,
    Stretch,
    Weight,
    busy_seconds,
    course_of,
)
from tinyscheduler.core.expansion import BUCKET_S, expand, moment_of, seconds_of
from tinyscheduler.core.firing_times import slots_after
from tinyscheduler.core.shifts import MOST_MINUTES, move_cron, moved, propose
from tinyscheduler.model.schedules import ActiveHours, Schedule, ScheduleState, Timing
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.values import replace

NOW = datetime(2026, 6, 1, 0, 0, tzinfo=UTC)  # a Monday
STRETCH = Stretch.starting(NOW, timedelta(days=1))
ROOM = Room(firings=2, memory_bytes=8 << 30, vram_bytes=24 << 30)
# Clocks are changed around these, in some zone below; and around the others they are not.
MOMENTS = [
    datetime(*day, 12, tzinfo=UTC)
    for day in (
        (2026, 3, 28),
        (2026, 10, 24),
        (2026, 4, 23),
        (2026, 4, 4),
        (2026, 6, 1),
        (2028, 2, 28),
    )
]
ZONES = ("UTC", "Europe/Warsaw", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu")
EXPRESSIONS = (
    *("* * * * *", "*/5 * * * *", "*/7 * * * *", "0,2 * * * *", "30 2 * * *", "@hourly"),
    *("0 */2 * * *", "*/20 2 * * *", "15 9-17 * * 1-5", "0 0 1 * *", "59 23 28-31 * *"),
    *("0 12 L * *", "45 1 * * SUN", "10,50 22-23 * * 5", "* 1-3 * * *", "0 0 * * *"),
)


def a_schedule(timing: Timing | str, name: str = "a", **more: Any) -> Schedule:
    fields: dict[str, Any] = {"spec": TaskSpec(prompt="x"), "created_at": NOW, "anchor": NOW}
    timing = Timing(cron=timing) if isinstance(timing, str) else timing
    return Schedule(schedule_id=name, name=name, timing=timing, **{**fields, **more})


def a_course(timing: Timing | str, name: str = "a", turns: int = 2000, **more: Any) -> Course:
    weight = {key: more.pop(key) for key in ("memory_bytes", "vram_bytes", "run_s") if key in more}
    stretch = more.pop("stretch", STRETCH)
    return course_of(a_schedule(timing, name, **more), Weight(turns=turns, **weight), stretch)


def collisions(*courses: Course, room: Room = ROOM) -> list[Collision]:
    return Board(courses, room).collisions()


# -- expansion ------------------------------------------------------------------------


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(ZONES),
    st.sampled_from(MOMENTS),
    st.integers(0, 287).map(lambda number: 5 * number),
    st.sampled_from([None, (480, 1080), (1320, 360)]),
)
@settings(deadline=None)
def test_the_expansion_is_what_a_walk_through_all_minutes_finds(
    expression: str, zone: str, moment: datetime, minutes: int, hours: tuple[int, int] | None
):
    begin = moment + minutes * MINUTE
    end = begin + DAY
    active = None if hours is None else ActiveHours(begin_minute=hours[0], end_minute=hours[1])
    one = a_schedule(Timing(cron=expression, zone=zone, active_hours=active))

    found = expand(one, begin, end)

    plain = {"@hourly": "0 * * * *"}.get(expression, expression)
    include = (lambda _: True) if active is None else active.include
    walk = walked(plain, zone, hours=include, after=moment - 3 * DAY, until=moment + 3 * DAY)
    expected = [seconds_of(slot) for slot in walk if begin <= slot < end]
    if found.is_dense:
        assert {one // BUCKET_S for one in found.seconds} == {one // BUCKET_S for one in expected}
        assert set(found.seconds) <= set(expected)
    else:
        assert list(found.seconds) == expected


def test_on_a_day_on_which_clocks_are_changed_times_are_those_that_fire():
    one = a_schedule(Timing(cron="30 2 * * *", zone="Europe/Warsaw"))
    begin = datetime(2026, 3, 28, 0, 0, tzinfo=UTC)

    found = expand(one, begin, begin + 3 * DAY)

    shown = [f"{moment_of(second):%d %H:%M}" for second in found.seconds]
    assert shown == ["28 01:30", "29 01:00", "30 00:30"]


@pytest.mark.parametrize(
    ("timing", "number", "is_dense"),
    [
        (Timing(cron="* * * * *"), 24, True),
        (Timing(cron="0,2 * * * *"), 4, False),
        (Timing(cron="0 0 */31 * MON#2"), 0, False),
        (Timing(every_s=1800.0), 4, False),
        (Timing(every_s=7.0), 24, True),
        (Timing(every_s=7.0, active_hours=ActiveHours(begin_minute=60, end_minute=70)), 2, True),
        (Timing(every_s=600.0, active_hours=ActiveHours(begin_minute=60, end_minute=90)), 3, False),
    ],
)
def test_what_comes_more_often_than_buckets_has_the_first_of_each(
    timing: Timing,
    number: int,
    is_dense: bool,  # noqa: FBT001 - a case
):
    one = a_schedule(timing, anchor=NOW - DAY)

    found = expand(one, NOW, NOW + 120 * MINUTE)

    assert (len(found.seconds), found.is_dense) == (number, is_dense)


@given(
    st.sampled_from([1.0, 7.5, 60.0, 299.0, 300.0, 420.0, 3600.0, 86_400.0, 90_000.5]),
    st.integers(-(10**7), 10**7),
    st.sampled_from([None, (480, 1080), (1320, 360)]),
)
@settings(deadline=None)
def test_intervals_are_expanded_as_they_fire(
    every_s: float, offset_s: int, hours: tuple[int, int] | None
):
    active = None if hours is None else ActiveHours(begin_minute=hours[0], end_minute=hours[1])
    anchor = NOW + timedelta(seconds=offset_s / 7)
    one = a_schedule(Timing(every_s=every_s, active_hours=active), anchor=anchor)
    end = NOW + timedelta(hours=2)

    found = expand(one, NOW, end)

    expected = []
    for slot in slots_after(one.timing, NOW - timedelta(microseconds=1), anchor=anchor):
        if slot >= end:
            break
        expected.append(seconds_of(slot))
    if found.is_dense:
        firsts = {one // BUCKET_S: one for one in reversed(expected)}
        assert list(found.seconds) == sorted(firsts.values())
    else:
        assert list(found.seconds) == expected


def test_one_time_is_expanded_to_itself_and_what_is_over_to_nothing():
    at = NOW + 90 * MINUTE
    once = a_schedule(Timing(at=at))
    hourly = "0 * * * *"

    assert expand(once, NOW, NOW + DAY).seconds == (seconds_of(at),)
    assert expand(once, at + MINUTE, NOW + DAY).seconds == ()
    ends = a_schedule(hourly, expires_at=NOW + 90 * MINUTE)
    assert len(expand(ends, NOW, NOW + DAY).seconds) == 2
    few = a_schedule(hourly, max_firings=5, fired=2)
    assert len(expand(few, NOW, NOW + DAY).seconds) == 3
    assert moment_of(seconds_of(NOW)) == NOW


@pytest.mark.parametrize(
    "timing",
    [Timing(cron="61 * * * *"), Timing(cron="* * *"), Timing(cron="@daily", zone="Mars"), Timing()],
)
def test_what_cannot_be_read_never_comes(timing: Timing):
    assert expand(a_schedule(timing), NOW, NOW + DAY).seconds == ()


# -- collisions -----------------------------------------------------------------------


def test_three_thousand_turns_in_five_minutes_are_too_many():
    a, b = a_course("30 2 * * *", "a", 1500), a_course("34 2 * * *", "b", 1500)

    (found,) = collisions(a, b)

    bucket = seconds_of(NOW) // BUCKET_S + 30
    assert found == Collision(
        kind=Kind.TURNS, names=("a", "b"), buckets=(bucket,), amount=3000, limit=2999
    )
    assert collisions(a, a_course("34 2 * * *", "b", 1499)) == []
    assert collisions(a, a_course("35 2 * * *", "b", 1500)) == []
    assert collisions(a_course("30 2 * * *", "a", 5000)) == []


def test_only_active_schedules_of_the_same_project_collide():
    a = a_course("@hourly", "a")

    assert collisions(a, a_course("@hourly", "b", state=ScheduleState.PAUSED)) == []
    assert collisions(a, a_course("@hourly", "b", spec=TaskSpec(project="other"))) == []
    assert collisions(a, a_course("@hourly", "b", 0), a_course("* * * * *", "c", 999)) == []
    assert len(collisions(a, a_course("@hourly", "b"))) == 1


def test_the_most_of_any_bucket_is_told_and_every_bucket_is_named():
    courses = [
        a_course("0 * * * *", "a", 2000),
        a_course("0 0,12 * * *", "b", 1500),
        a_course("0 12 * * *", "c", 700),
    ]

    board = Board(courses, ROOM)

    (mine,) = board.collisions_of(courses[0])
    assert (mine.names, mine.amount) == (("b", "c"), 4200)
    assert [(bucket - STRETCH.begin) * 5 for bucket in mine.buckets] == [0, 720]
    assert [one.names for one in board.collisions()] == [("a", "b"), ("a", "b", "c")]


def test_memory_collides_among_as_many_as_run_at_once_while_they_run():
    big: dict[str, Any] = {"turns": 0, "memory_bytes": 5 << 30, "run_s": 1200.0}
    a, b = a_course("0 * * * *", "a", **big), a_course("15 * * * *", "b", **big)

    (found,) = collisions(a, b)

    assert (found.kind, found.amount, found.limit) == (Kind.MEMORY, 10 << 30, 8 << 30)
    assert [(bucket - STRETCH.begin) * 5 for bucket in found.buckets[:2]] == [15, 75]
    assert collisions(a, b, room=replace(ROOM, firings=1)) == []
    assert collisions(a, b, room=replace(ROOM, memory_bytes=None)) == []
    assert collisions(a, a_course("20 * * * *", "b", **big)) == []
    third = a_course("15 * * * *", "c", turns=0, memory_bytes=1 << 30, run_s=1200.0)
    (with_third,) = collisions(a, b, third)
    assert with_third.amount == 10 << 30


def test_vram_collides_alike_and_what_never_fits_is_in_nobodys_way():
    a = a_course("0 * * * *", "a", 0, vram_bytes=14 << 30, run_s=60.0)
    b = a_course("2 * * * *", "b", 0, vram_bytes=14 << 30, run_s=60.0)
    huge = a_course("0 * * * *", "c", 0, vram_bytes=80 << 30, run_s=60.0)

    (found,) = collisions(a, b, huge)

    assert (found.kind, found.names) == (Kind.VRAM, ("a", "b"))


def test_how_long_firings_run_is_counted_where_they_do():
    stretch = Stretch.starting(NOW, timedelta(hours=2))
    a = a_course("50 23,0 * * *", "a", run_s=1500.0, stretch=stretch)
    b = a_course("0,3 1 * * *", "b", run_s=600.0, stretch=stretch)
    dense = a_course(Timing(every_s=60.0), "c", run_s=1.0, stretch=stretch)

    found = busy_seconds([a, b], stretch)

    # From ten to twelve: the first of them began before.
    assert found[:4] == [300.0, 300.0, 300.0, 0.0]
    assert found[10:16] == [300.0, 300.0, 600.0, 600.0, 480.0, 0.0]
    assert busy_seconds([dense], stretch)[:3] == [240.0, 300.0, 300.0]
    assert busy_seconds([a.later(600)], stretch)[:6] == [300.0] * 5 + [0.0]


def test_of_what_is_counted_only_that_of_which_there_is_too_much_is_told():
    a = a_course("0 * * * *", "a", 2000, memory_bytes=1 << 30, run_s=60.0)
    b = a_course("0 * * * *", "b", 2000, memory_bytes=1 << 30, run_s=60.0)

    (found,) = Board([a, b], ROOM).collisions_of(a)

    assert (found.kind, found.names) == (Kind.TURNS, ("b",))


# -- shifts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "minutes", "expected"),
    [
        ("30 2 * * *", 5, "35 2 * * *"),
        ("30 2 * * *", -31, None),
        ("@daily", 4, "4 0 * * *"),
        ("@hourly", -3, "57 * * * *"),
        ("0 * * * 1-5", -3, None),
        ("*/15 * * * *", 1, "1-59/15 * * * *"),
        ("*/15 9-17 * * 1-5", 14, "14-59/15 9-17 * * 1-5"),
        ("*/15 9-17 * * 1-5", 15, None),
        ("*/7 * * * *", 5, "1,5,12,19,26,33,40,47,54 * * * *"),
        ("5-59/15 * * * *", -5, "*/15 * * * *"),
        ("0,20,40 * * * *", 0, "*/20 * * * *"),
        ("1,2 3 * * *", 1, "2,3 3 * * *"),
        ("1,2,3 3 * * *", 1, "2,3,4 3 * * *"),
    ],
)
def test_a_cron_expression_is_moved_within_its_hours(
    expression: str, minutes: int, expected: str | None
):
    assert move_cron(expression, minutes) == expected


@given(st.sampled_from(EXPRESSIONS), st.integers(-30, 30))
@settings(deadline=None)
def test_a_moved_expression_fires_so_much_later(expression: str, minutes: int):
    to = move_cron(expression, minutes)
    if to is None:
        return
    begin, end = NOW - DAY, NOW + 40 * DAY
    before, after = (expand(a_schedule(one), begin, end).seconds for one in (expression, to))

    if "* * * * *" not in expression and "* 1-3" not in expression:
        inner = [one + 60 * minutes for one in before]
        low, high = seconds_of(begin) + 1800, seconds_of(end) - 1800
        assert [one for one in inner if low < one < high] == [
            one for one in after if low < one < high
        ]


def test_who_is_meant_for_one_time_or_would_leave_its_active_hours_is_not_moved():
    hours = ActiveHours(begin_minute=480, end_minute=600)

    assert moved(a_schedule(Timing(at=NOW + DAY)), 5) is None
    assert moved(a_schedule(Timing(every_s=3600.0, active_hours=hours)), 5) is None
    assert moved(a_schedule(Timing(cron="57 9-10 * * *", active_hours=hours)), 2) is not None
    until = ActiveHours(begin_minute=480, end_minute=599)
    assert moved(a_schedule(Timing(cron="57 9 * * *", active_hours=until)), 2) is None
    within = moved(a_schedule(Timing(cron="0 9 * * *", active_hours=hours)), 2)
    later = moved(a_schedule(Timing(every_s=3600.0)), 2)
    assert within is not None
    assert within.timing.cron == "2 9 * * *"
    assert later is not None
    assert later.anchor == NOW + 2 * MINUTE


def test_the_smallest_shift_of_one_of_two_is_enough():
    a, b = a_course("33 2 * * *", "a"), a_course("31 2 * * *", "b")

    found = propose([a, b], ROOM)

    (shift,) = found.shifts
    assert (shift.before.schedule_id, shift.minutes) == ("a", 2)
    assert shift.after.timing.cron == "35 2 * * *"
    assert (found.left, found.is_least, found.minutes) == ((), True, 2)


def test_where_nothing_collides_nothing_is_moved():
    found = propose([a_course("0 2 * * *", "a"), a_course("0 3 * * *", "b")], ROOM)

    assert (found.shifts, found.left, found.is_least) == ((), (), True)


def test_what_cannot_be_moved_is_told_and_the_rest_is_taken_apart():
    once = Timing(at=NOW + 150 * MINUTE)
    courses = [
        a_course(once, "a"),
        a_course(once, "b"),
        a_course("0 9 * * *", "c"),
        a_course("0 9 * * *", "d"),
    ]

    found = propose(courses, ROOM)

    assert [one.before.schedule_id for one in found.shifts] == ["c"]
    assert [one.names for one in found.left] == [("a", "b")]
    assert not found.is_least


def test_of_three_that_are_too_many_by_two_each_way_two_are_moved():
    courses = [a_course("0,5 2 * * *", name, 1500) for name in "abc"]

    found = propose(courses, ROOM)

    assert (len(found.shifts), found.left, found.is_least) == (2, (), True)


def test_who_would_only_collide_elsewhere_stays():
    courses = [a_course("* * * * *", "a"), a_course("0 2 * * *", "b")]

    found = propose(courses, ROOM)

    assert found.shifts == ()
    assert [one.names for one in found.left] == [("a", "b")]
    assert not found.is_least


@pytest.mark.parametrize("most_steps", [0, 100, 300])
def test_a_search_without_time_moves_nobody_for_nothing(most_steps: int):
    courses = [a_course("0 2 * * *", f"s{number}", 700) for number in range(20)]

    found = propose(courses, ROOM, most_steps=most_steps)

    assert found.shifts == ()
    assert found.left


def test_many_that_collide_are_moved_one_after_the_other():
    courses = [a_course("0 2 * * *", f"s{number:02}", 700) for number in range(18)]

    found = propose(courses, ROOM)

    assert (len(found.shifts), found.left, found.is_least) == (14, (), False)


def test_an_interval_is_moved_by_where_it_counts_from():
    courses = [a_course(Timing(every_s=3600.0), name) for name in "ab"]

    (shift,) = propose(courses, ROOM).shifts

    assert (shift.minutes, shift.after.anchor) == (-1, NOW - MINUTE)


POSSIBLE = st.one_of(
    st.builds(
        "{} {} * * *".format,
        st.sampled_from(["0", "3", "5", "7", "12", "0,30", "*/20"]),
        st.sampled_from(["2", "2,4"]),
    ).map(lambda text: Timing(cron=text)),
    st.sampled_from(
        [Timing(every_s=3600.0), Timing(every_s=5400.0), Timing(at=NOW + 120 * MINUTE)]
    ),
)
FEW = 8  # minutes, of which a walk through all combinations of three takes a moment


@given(st.lists(st.tuples(POSSIBLE, st.sampled_from([900, 1500, 2500])), min_size=2, max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_fewer_minutes_than_proposed_would_do(timings: list[tuple[Timing, int]]):
    stretch = Stretch.starting(NOW, timedelta(hours=6))
    courses = [
        a_course(timing, name, turns, stretch=stretch)
        for name, (timing, turns) in zip("abc", timings, strict=False)
    ]

    found = propose(courses, ROOM, most_minutes=FEW)

    least = least_minutes(courses)
    assert (least is not None) == (not found.left)
    if least is not None:
        assert (found.minutes, found.is_least) == (least, True)
    assert propose(courses, ROOM, most_minutes=FEW) == found


def least_minutes(courses: list[Course]) -> int | None:
    """Return the fewest minutes of all combinations that leave no collision."""
    ways = []
    for course in courses:
        shifted = {0: course}
        for minutes in range(-FEW, FEW + 1):
            after = moved(course.schedule, minutes)
            if after is not None and minutes:
                shifted[minutes] = course_of(after, course.weight, course.stretch)
        ways.append(list(shifted.items()))
    costs = [
        sum(abs(minutes) for minutes, _ in way)
        for way in product(*ways)
        if not Board([course for _, course in way], ROOM).collisions()
    ]
    return min(costs, default=None)


@given(st.lists(st.tuples(POSSIBLE, st.sampled_from([900, 1500, 2500])), min_size=2, max_size=9))
@settings(max_examples=25, deadline=None)
def test_with_the_proposal_what_is_left_is_what_collides(timings: list[tuple[Timing, int]]):
    courses = [
        a_course(timing, f"s{number}", turns, memory_bytes=turns << 21, run_s=600.0)
        for number, (timing, turns) in enumerate(timings)
    ]

    found = propose(courses, ROOM)

    after = {one.after.schedule_id: one.after for one in found.shifts}
    shifted = [
        course_of(after.get(one.name, one.schedule), one.weight, one.stretch) for one in courses
    ]
    assert tuple(Board(shifted, ROOM).collisions()) == found.left
    assert all(0 < abs(one.minutes) <= MOST_MINUTES for one in found.shifts)
    assert len(found.left) <= len(Board(courses, ROOM).collisions())


def test_a_thousand_schedules_are_taken_apart_within_a_bounded_number_of_steps():
    stretch = Stretch.starting(NOW, timedelta(days=7))
    courses = [
        a_course(f"{number % 12 * 5} {number % 24} * * *", f"s{number}", 700, stretch=stretch)
        for number in range(1000)
    ]

    found = propose(courses, ROOM, most_steps=1_000_000)

    before = {bucket for one in Board(courses, ROOM).collisions() for bucket in one.buckets}
    left = {bucket for one in found.left for bucket in one.buckets}
    assert before
    assert len(left) < len(before)


def test_nobody_is_moved_to_where_it_is_over():
    ends: dict[str, Any] = {"expires_at": NOW + timedelta(hours=2, minutes=34)}
    courses = [a_course("33 2 * * *", "a", **ends), a_course("31 2 * * *", "b", **ends)]

    (shift,) = propose(courses, ROOM).shifts

    # Two minutes later "a" would not fire at all.
    assert (shift.before.schedule_id, shift.minutes) == ("b", -2)
