"""What is open is counted once in each spread, by agent, source, priority and age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_record

from tinyscheduler.core.backlog import OPEN, Ages, survey
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from tinyscheduler.model.records import TaskRecord

NOON = datetime(2026, 1, 8, 12, tzinfo=UTC)
HOUR = 3600.0


def aged(task_id: str = "1", *, age_s: float = 0, **changes: Any) -> TaskRecord:
    return a_record(task_id, created_at=NOON - timedelta(seconds=age_s), **changes)


def test_of_nothing_there_is_nothing_open():
    backlog = survey([aged(state=TaskState.DONE)], now=NOON)

    assert (backlog.total.total, backlog.total.ages, backlog.lines) == (0, None, ())
    assert [number for _, number in backlog.ages] == [0] * 5


def test_a_task_is_counted_for_who_works_on_it_else_who_is_named_else_its_queue():
    backlog = survey(
        [
            aged("1", agent=None, queue="dev", state=TaskState.WORKING, claimed_by="tester"),
            aged("2", agent=None, queue="dev"),
            aged("3", blockers_left=2),
            aged("4", state=TaskState.HELD, blockers_left=1),
            aged("5", agent=None, queue=None),
        ],
        now=NOON,
    )

    counts = {one.name: (one.waiting, one.blocked, one.held, one.working) for one in backlog.lines}
    assert counts == {
        "coder": (1, 1, 1, 0),
        "tester": (0, 0, 0, 1),
        "nobody": (1, 0, 0, 0),
        "queue dev": (1, 0, 0, 0),
    }
    assert (backlog.total.name, backlog.total.total) == ("all", 5)


def test_priorities_begin_with_the_highest_and_ages_with_the_youngest():
    ages_h = (0, 0.9, 1, 6, 24, 24 * 7)
    tasks = [
        aged(str(number), age_s=hours * HOUR, priority=number % 2, source=source)
        for number, (hours, source) in enumerate(
            zip(ages_h, ("local", "local", "local", "local", "tinytask", "local"), strict=True)
        )
    ]

    backlog = survey(tasks, now=NOON)

    assert backlog.priorities == ((1, 3), (0, 3))
    assert backlog.sources == (("local", 5), ("tinytask", 1))
    assert [number for _, number in backlog.ages] == [2, 1, 1, 1, 1]
    assert backlog.total.ages == Ages(
        average_s=sum(ages_h) * HOUR / 6,
        median_s=HOUR,
        p95_s=168 * HOUR,
        oldest_s=168 * HOUR,
        newest_s=0,
    )
    assert [one.task_id for one in backlog.total.tasks] == ["5", "4", "3", "2", "1", "0"]


def test_one_that_was_added_under_a_clock_that_is_set_back_since_is_new():
    ages = survey([aged(age_s=-99)], now=NOON).total.ages

    assert ages is not None
    assert ages.oldest_s == 0


@given(
    st.lists(
        st.builds(
            aged,
            st.integers(1, 9).map(str),
            age_s=st.integers(-100, 10**7),
            state=st.sampled_from(TaskState),
            agent=st.none() | st.sampled_from("ab"),
            queue=st.none() | st.sampled_from("qr"),
            claimed_by=st.none() | st.just("c"),
            priority=st.integers(-2, 2),
            source=st.sampled_from(("local", "tinytask")),
        ),
        max_size=9,
    )
)
def test_every_open_task_is_counted_once_in_each_spread(tasks: list[TaskRecord]):
    backlog = survey(tasks, now=NOON)

    number = sum(one.state in OPEN for one in tasks)
    assert backlog.total.total == number
    assert sum(one.total for one in backlog.lines) == number
    for spread in (backlog.sources, backlog.priorities, backlog.ages):
        assert sum(count for _, count in spread) == number
    work = backlog.total
    assert work.waiting + work.held + work.working == number
