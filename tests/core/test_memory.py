"""Memory is promised once, and what was promised is not free before it is seen used."""

from __future__ import annotations

import doctest

import pytest
from tests.builders import HOST, RULES, a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core import memory
from tinyscheduler.core.decide import decide
from tinyscheduler.core.memory import is_ample, need_per_slot
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

GIB = 2**30
FIFO = PlatformPolicy()
ROOMY = (an_agent(limit=9),)


def started(plan: Plan) -> list[str]:
    return [one.task.task_id for one in plan.decisions if isinstance(one, Dispatch)]


def waits(plan: Plan) -> dict[str, tuple[Reason, str]]:
    return {
        one.task.task_id: (one.reason, one.words) for one in plan.decisions if isinstance(one, Wait)
    }


def five(**more: int | None):
    return [a_task(str(number), created_order=number, **more) for number in range(1, 6)]


def test_memory_for_one_starts_one_though_five_wait():
    plan = decide(
        a_snapshot(
            *five(memory_bytes=5 * GIB), agents=ROOMY, slots=9, memory_available_bytes=8 * GIB
        ),
        FIFO,
    )

    assert started(plan) == ["1"]
    assert waits(plan)["2"] == (
        Reason.MEMORY_INSUFFICIENT,
        "needs 5 GiB of memory, 3 GiB are free: 8 GiB are available, 5 GiB of it reserved",
    )


def test_what_the_first_has_not_used_yet_is_still_not_free():
    running = an_entry(a_lease("1", needs=Needs(memory_bytes=5 * GIB)))

    plan = decide(
        a_snapshot(
            running,
            *five(memory_bytes=5 * GIB)[1:],
            agents=ROOMY,
            slots=9,
            memory_available_bytes=8 * GIB,
            memory_used={"lease-1": GIB},
        ),
        FIFO,
    )

    assert not started(plan)
    assert waits(plan)["2"][1] == (
        "needs 5 GiB of memory, 4 GiB are free: 8 GiB are available, 4 GiB of it reserved"
    )


def test_what_it_has_used_is_not_counted_twice():
    running = an_entry(a_lease("1", needs=Needs(memory_bytes=5 * GIB)))

    plan = decide(
        a_snapshot(
            running,
            a_task("2", memory_bytes=5 * GIB),
            agents=ROOMY,
            memory_available_bytes=6 * GIB,
            memory_used={"lease-1": 7 * GIB},
        ),
        FIFO,
    )

    assert started(plan) == ["2"]


def test_a_smaller_one_goes_where_the_first_does_not_fit():
    plan = decide(
        a_snapshot(
            a_task("1", created_order=1, memory_bytes=9 * GIB),
            a_task("2", created_order=2, memory_bytes=GIB),
            agents=(an_agent(limit=1),),
        ),
        FIFO,
    )

    assert started(plan) == ["2"]


@pytest.mark.parametrize(
    ("task", "agent", "needed"), [(0, 4, 0), (2, 4, 2), (None, 4, 4), (None, None, 1)]
)
def test_the_tasks_own_word_goes_before_its_agents_and_that_before_the_slots(
    task: int | None, agent: int | None, needed: int
):
    plan = decide(
        a_snapshot(
            a_task(memory_bytes=None if task is None else task * GIB),
            agents=(an_agent(memory_bytes=None if agent is None else agent * GIB),),
        ),
        FIFO,
    )

    (start,) = plan.decisions
    assert isinstance(start, Dispatch)
    assert start.needs.memory_bytes == needed * GIB


@pytest.mark.parametrize(("available", "starts"), [(1.6, False), (1.61, True)])
def test_from_the_critical_share_on_nothing_starts_however_little_it_needs(
    available: float, *, starts: bool
):
    plan = decide(
        a_snapshot(a_task(memory_bytes=0), memory_available_bytes=round(available * GIB)), FIFO
    )

    assert bool(started(plan)) == starts
    if not starts:
        assert waits(plan)["1"] == (
            Reason.MEMORY_CRITICAL,
            "90% of the memory is in use; nothing starts from 90%",
        )


@pytest.mark.parametrize(
    ("stall", "limit", "starts"),
    [(0.2, 0.2, False), (0.19, 0.2, True), (None, 0.2, True), (0.9, None, True)],
)
def test_from_the_critical_time_of_waiting_on_nothing_starts(
    stall: float | None, limit: float | None, *, starts: bool
):
    snapshot = a_snapshot(a_task(memory_bytes=0), memory_stall_critical=limit)
    host = replace(snapshot.host, memory_stall=stall)

    plan = decide(replace(snapshot, host=host), FIFO)

    assert bool(started(plan)) == starts
    if not starts:
        words = "programs here waited for memory 20% of the last 10 s; nothing starts from 20%"
        assert waits(plan)["1"] == (Reason.MEMORY_CRITICAL, f"{words} (MEMORY_STALL_CRITICAL)")


@pytest.mark.parametrize(
    ("asked", "slots", "total", "needed"),
    [
        (None, 2, 64 * GIB, 4 * GIB),  # the documented figure
        (None, 2, 8 * GIB, 2 * GIB),  # a laptop fills its slots with half of its memory
        (None, 100, 64 * GIB, 64 * GIB // 200),
        (None, 0, 64 * GIB, 4 * GIB),
        (6 * GIB, 2, 8 * GIB, 6 * GIB),  # who sets it means it
    ],
)
def test_a_slot_nobody_spoke_of_is_counted_at_what_this_machine_can_give(
    asked: int | None, slots: int, total: int, needed: int
):
    rules = replace(RULES, memory_per_slot_bytes=asked, host_slots=slots)

    assert need_per_slot(rules, replace(HOST, memory_total_bytes=total)) == needed


@pytest.mark.parametrize(
    ("reserved", "wanted", "ample"),
    [
        ([], [], True),
        ([GIB], [None], True),  # three slots of 1 GiB beside it
        ([], [2 * GIB], True),
        ([], [3 * GIB], False),
        ([5 * GIB], [None], True),
        ([6 * GIB], [None], False),
        ([2 * GIB] * 4, [0], True),  # no slot is left
        ([2 * GIB] * 5, [0], False),  # more was promised than there is
    ],
)
def test_where_there_is_plenty_nobody_need_look_who_uses_what(
    reserved: list[int], wanted: list[int | None], *, ample: bool
):
    assert is_ample(HOST, RULES, reserved=reserved, wanted=wanted) is ample


def test_the_examples_in_its_docstrings_hold():
    assert doctest.testmod(memory).failed == 0
