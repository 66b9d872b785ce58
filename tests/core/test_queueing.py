"""Why a task cannot start at all, whatever is free."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_task

from tinyscheduler.core.queueing import candidates, hold_back
from tinyscheduler.model.plan import Reason, Wait
from tinyscheduler.model.policy import AgentView
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Collection

    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import WaitingTask

AGENTS = (
    AgentView(name="coder", queue="dev", limit=1, active=0),
    AgentView(name="tester", queue="dev", limit=1, active=1),
    AgentView(name="writer", queue="docs", limit=0, active=0),
)
LATER = NOW.wall + timedelta(seconds=90)

# Each keeps the task waiting by itself, in the order in which they are told.
OBSTACLES: dict[Reason, dict[str, Any]] = {
    Reason.HELD: {"is_held": True},
    Reason.BLOCKED_BY: {"blocked_by": ("7", "8")},
    Reason.NOT_BEFORE: {"not_before": LATER},
    Reason.BACKING_OFF: {"backing_off_until": LATER},
}


def held_back(
    task: WaitingTask,
    *,
    occupied: frozenset[str] = frozenset(),
    is_enabled: bool = True,
    switches: Collection[Switch] | None = (),
) -> Wait | None:
    return hold_back(
        task,
        able=candidates(task, AGENTS),
        occupied=occupied,
        is_enabled=is_enabled,
        switches=switches,
        now=NOW.wall,
        longest_backoff_s=300,
    )


def test_a_task_with_nothing_in_its_way_is_not_held_back():
    assert held_back(a_task()) is None


@pytest.mark.parametrize("reason", OBSTACLES)
def test_each_obstacle_is_told_by_its_reason(reason: Reason):
    task = replace(a_task(), **OBSTACLES[reason])

    wait = held_back(task)

    assert wait is not None
    assert (wait.task, wait.reason) == (task, reason)


def test_of_several_obstacles_the_one_that_its_owner_set_comes_first():
    left = list(OBSTACLES)
    while left:
        changes = {name: value for one in left for name, value in OBSTACLES[one].items()}
        wait = held_back(replace(a_task(), **changes), is_enabled=False)
        assert wait is not None
        assert wait.reason is left.pop(0)


def test_the_words_name_what_is_waited_for():
    blocked = held_back(a_task(blocked_by=("7", "8")))
    held = held_back(a_task("3", is_held=True))

    assert blocked is not None
    assert blocked.words == "waits for 7, 8 to be done"
    assert held is not None
    assert held.words == "held; `release 3` lets it go"


@pytest.mark.parametrize("field", ["not_before", "backing_off_until"])
def test_a_wait_for_a_time_says_when_and_in_how_many_seconds(field: str):
    wait = held_back(a_task(**{field: LATER}))

    assert wait is not None
    assert wait.words.endswith(" until 2026-03-01T12:01:30.000Z")
    assert wait.retry_after_s == 90


@pytest.mark.parametrize("field", ["not_before", "backing_off_until"])
def test_a_time_that_has_come_holds_nothing_back(field: str):
    assert held_back(a_task(**{field: NOW.wall})) is None
    assert held_back(a_task(**{field: NOW.wall + timedelta(microseconds=1)})) is not None


def test_nothing_starts_while_starting_is_switched_off():
    wait = held_back(a_task(), is_enabled=False)

    assert wait is not None
    assert wait.reason is Reason.PAUSED
    assert wait.words == "TINYSCHEDULER_ENABLED is false"


def test_a_task_whose_previous_attempt_is_still_on_disk_waits():
    wait = held_back(a_task("3"), occupied=frozenset({"3"}))

    assert wait is not None
    assert wait.reason is Reason.UNPLACED
    assert held_back(a_task("4"), occupied=frozenset({"3"})) is None


@pytest.mark.parametrize(
    ("wants", "words"),
    [
        ({"agent": "nobody"}, "agent nobody is not configured"),
        ({"queue": "nowhere"}, "queue nowhere is not configured"),
        ({"agent": "nobody", "queue": "dev"}, "agent nobody is not configured"),
    ],
)
def test_a_task_for_nobody_says_who_is_missing(wants: dict[str, str], words: str):
    wait = held_back(a_task(**wants))

    assert wait is not None
    assert wait.reason is Reason.UNPLACED
    assert words in wait.words


@pytest.mark.parametrize(
    ("wants", "names"),
    [
        ({"agent": "coder"}, ["coder"]),
        ({"agent": "writer"}, ["writer"]),
        ({"queue": "dev"}, ["coder", "tester"]),
        ({"agent": "writer", "queue": "dev"}, ["writer"]),
        ({"agent": None, "queue": None}, []),
    ],
)
def test_a_named_agent_comes_before_a_queue(wants: dict[str, str | None], names: list[str]):
    assert [agent.name for agent in candidates(a_task(**wants), AGENTS)] == names


@given(st.integers(-1000, 1000).filter(bool))
def test_what_is_free_holds_nothing_back(active: int):
    full = tuple(replace(agent, active=active) for agent in AGENTS)

    wait = hold_back(
        a_task(),
        able=candidates(a_task(), full),
        occupied=frozenset(),
        is_enabled=True,
        switches=(),
        now=NOW.wall,
        longest_backoff_s=300,
    )

    assert wait is None


def test_a_backoff_longer_than_any_was_begun_under_another_clock_and_is_over():
    until = NOW.wall + timedelta(seconds=300)

    assert held_back(a_task(backing_off_until=until)) is not None
    assert held_back(a_task(backing_off_until=until + timedelta(seconds=1))) is None
