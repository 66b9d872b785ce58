"""Others pass a task that cannot start, but not for ever, and never what it waits for."""

from __future__ import annotations

import doctest
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_gpu, a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core import turns
from tinyscheduler.core.capacity import measure
from tinyscheduler.core.decide import decide
from tinyscheduler.core.turns import Refusals
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Dispatch, Plan, Proposal, Reason, Wait
from tinyscheduler.policy.platform import PlatformPolicy

if TYPE_CHECKING:
    from tinyscheduler.model.policy import PolicyContext

GIB = 2**30
FIFO = PlatformPolicy()
ROOMY = (an_agent(limit=99),)


def task(number: int, *, gib: int = 0, **more: Any) -> Any:
    """Return a task that needs so much VRAM; its number is its place in line."""
    return a_task(str(number), created_order=number, vram_bytes=gib * GIB, memory_bytes=0, **more)


def whole(number: int, **more: Any) -> Any:
    return a_task(str(number), created_order=number, gpus=1, memory_bytes=0, **more)


def running(task_id: str, *, gib: int, left_s: float = 3600, on: str = "GPU-0") -> Any:
    """Return an attempt that uses its share and has so long to go at most."""
    return an_entry(
        a_lease(
            task_id,
            gpu_uuids=(on,),
            needs=Needs(vram_bytes=gib * GIB),
            max_runtime_s=left_s,
            monotonic_started_ns=NOW.monotonic_ns,
        )
    )


def planned(*things: Any, **more: Any) -> Plan:
    return decide(
        a_snapshot(*things, **{"agents": ROOMY, "slots": 99, "gpus": [a_gpu(0)], **more}), FIFO
    )


def started(plan: Plan) -> list[str]:
    return [one.task.task_id for one in plan.decisions if isinstance(one, Dispatch)]


def overtakes(plan: Plan) -> dict[str, list[str]]:
    """Return by whom each was overtaken."""
    found: dict[str, list[str]] = {}
    for one in plan.decisions:
        if isinstance(one, Dispatch):
            for passed in one.overtakes:
                found.setdefault(passed.task_id, []).append(one.task.task_id)
    return found


def why(plan: Plan, task_id: str) -> tuple[Reason, str]:
    (wait,) = (
        one for one in plan.decisions if isinstance(one, Wait) and one.task.task_id == task_id
    )
    return wait.reason, wait.words


# -- looking past ----------------------------------------------------------------------


def test_one_that_fits_passes_one_that_does_not():
    plan = planned(running("9", gib=20), task(1, gib=10), task(2))

    assert started(plan) == ["2"]
    assert overtakes(plan) == {}  # it uses nothing that the first waits for


def test_without_lookahead_nothing_overtakes():
    plan = planned(running("9", gib=20), task(1, gib=10), task(2), lookahead=0)

    assert started(plan) == []
    assert why(plan, "2") == (
        Reason.OVERTAKEN_LIMIT,
        "one before it in line cannot start, and none is overtaken",
    )


@pytest.mark.parametrize("lookahead", [1, 2, 5])
def test_so_many_are_looked_at_behind_one_that_cannot_start(lookahead: int):
    def starts_behind(number: int) -> bool:
        """Whether a task starts that has so many before it which cannot."""
        stuck = [task(place, gib=10) for place in range(1, number + 1)]
        plan = planned(running("99", gib=20), *stuck, task(50), lookahead=lookahead)
        assert started(plan) or why(plan, "50")[0] is Reason.OVERTAKEN_LIMIT
        return started(plan) == ["50"]

    assert starts_behind(lookahead)
    assert not starts_behind(lookahead + 1)


def test_lines_of_others_are_not_held_up():
    agents = (an_agent("coder", limit=99), an_agent("tester", limit=99))

    plan = planned(
        running("9", gib=20),
        task(1, gib=10),
        task(2),
        task(3, agent="tester"),
        lookahead=0,
        agents=agents,
    )

    assert started(plan) == ["3"]


def test_what_this_machine_does_not_have_holds_nobody_up():
    plan = planned(task(1, gib=99), whole(2), task(3), lookahead=0)

    assert started(plan) == ["2", "3"]
    assert why(plan, "1")[0] is Reason.VRAM_INSUFFICIENT


NEVER = an_agent("able", limit=9, memory_bytes=99 * GIB)
SOMETIMES = an_agent("tester", limit=1)


def test_an_agent_that_never_can_does_not_hide_that_another_will():
    holder = an_entry(a_lease("9", agent="tester"))
    first = a_task("1", queue="dev")

    kept = planned(holder, first, agents=(NEVER, SOMETIMES))
    lost = planned(first, agents=(NEVER, an_agent("tester", limit=0)))

    assert why(kept, "1")[0] is Reason.AGENT_LIMIT
    # Without a limit that one never will, either.
    assert why(lost, "1")[0] is Reason.MEMORY_INSUFFICIENT


def test_of_agents_that_never_can_none_takes_a_reservation_away():
    """It waits for a share of a GPU with one agent, and another needs more than there is."""
    able = an_agent("tester", limit=9, vram_bytes=22 * GIB)
    first = a_task("1", queue="dev", memory_bytes=0)
    never = an_agent("able", limit=9, vram_bytes=99 * GIB)

    plan = planned(
        running("9", gib=4),
        first,
        task(2, gib=4),
        agents=(never, able, an_agent(limit=9, queue="ops")),
        skips={"1": 2},
    )

    assert started(plan) == []
    assert why(plan, "2")[0] is Reason.OVERTAKEN_LIMIT


# -- being overtaken -------------------------------------------------------------------


def test_who_takes_what_another_waits_for_overtakes_it():
    plan = planned(running("9", gib=4), whole(1), task(2, gib=4), task(3), task(4, gib=4))

    assert started(plan) == ["2", "3", "4"]
    assert overtakes(plan) == {"1": ["2", "4"]}


def test_a_whole_gpu_under_a_stream_of_small_ones_is_overtaken_twice_and_is_next():
    small = [task(number, gib=2) for number in range(2, 7)]

    plan = planned(running("9", gib=2), whole(1), *small)

    assert started(plan) == ["2", "3"]
    assert overtakes(plan) == {"1": ["2", "3"]}
    assert why(plan, "4") == (
        Reason.OVERTAKEN_LIMIT,
        "task 1 comes first: it has been overtaken 2 times (MAX_SKIPS_PER_TASK)",
    )
    assert why(plan, "1")[1].endswith("; it was overtaken 2 times, and comes first now")


def test_what_earlier_ticks_remember_counts():
    plan = planned(running("9", gib=2), whole(1), task(2, gib=2), task(3, gib=2), skips={"1": 1})

    assert started(plan) == ["2"]


def test_a_reservation_keeps_nothing_from_those_that_take_nothing_of_it():
    plan = planned(running("9", gib=2), whole(1), task(2), skips={"1": 2})

    assert started(plan) == ["2"]


def test_once_there_is_room_the_reserved_one_starts():
    plan = planned(whole(1), task(2, gib=2), skips={"1": 2})

    assert started(plan) == ["1"]


@pytest.mark.parametrize(("runtime_s", "starts"), [(89, True), (91, False)])
def test_one_that_is_over_before_the_reserved_could_start_fills_the_gap(
    runtime_s: float, *, starts: bool
):
    plan = planned(
        running("8", gib=2, left_s=50),
        running("9", gib=2, left_s=100),
        whole(1),
        task(2, gib=2, max_runtime_s=runtime_s),
        skips={"1": 2},
    )

    assert started(plan) == (["2"] if starts else [])


def test_where_others_keep_the_reserved_from_a_start_nobody_waits_with_it():
    gpu = a_gpu(0, p7=4)

    plan = planned(whole(1), task(2, gib=2), gpus=[gpu], gpu_owners={7: None}, skips={"1": 2})

    assert started(plan) == ["2"]


def test_memory_is_reserved_like_any_other():
    big = a_task("1", created_order=1, memory_bytes=7 * GIB)
    small = [a_task(str(n), created_order=n, memory_bytes=GIB) for n in range(2, 7)]
    holder = an_entry(a_lease("9", needs=Needs(memory_bytes=2 * GIB)))

    plan = planned(holder, big, *small, memory_available_bytes=8 * GIB)

    assert started(plan) == ["2", "3"]
    assert why(plan, "4")[0] is Reason.OVERTAKEN_LIMIT


def test_whatever_else_it_waits_for_its_gpu_is_not_taken_from_it_for_ever():
    both = a_task("1", created_order=1, gpus=1, memory_bytes=7 * GIB)
    small = [task(number, gib=2) for number in range(2, 7)]
    holder = an_entry(a_lease("9", needs=Needs(memory_bytes=2 * GIB)))

    plan = planned(holder, both, *small, memory_available_bytes=8 * GIB)

    assert why(plan, "1")[0] is Reason.MEMORY_INSUFFICIENT  # the first of two
    assert started(plan) == ["2", "3"]


@given(
    st.lists(st.sampled_from((0, 2, 6, 10)), max_size=12),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_no_plan_overtakes_anybody_more_often_than_it_may(
    shares: list[int], lookahead: int, most: int, before: int
):
    tasks = [task(number + 2, gib=gib) for number, gib in enumerate(shares)]

    plan = planned(
        running("99", gib=4),
        whole(1),
        *tasks,
        lookahead=lookahead,
        max_skips=most,
        skips={"1": before},
    )

    assert len(overtakes(plan).get("1", ())) <= max(0, most - before)
    for task_id, by in overtakes(plan).items():
        assert task_id == "1" or len(by) <= most


class LastFirst:
    """Proposes the last in line."""

    name = "last first"
    version = ""

    def propose(self, context: PolicyContext) -> list[Proposal]:
        return [Proposal(task=context.waiting[-1], agent=context.agents[0].name)]


class AsDrawn:
    """Proposes one of those that could start, by numbers drawn beforehand."""

    name = "as drawn"
    version = ""

    def __init__(self, picks: list[int]) -> None:
        self._picks = cycle(picks)

    def propose(self, context: PolicyContext) -> list[Proposal]:
        task = context.waiting[next(self._picks) % len(context.waiting)]
        return [Proposal(task=task, agent=context.agents[0].name)]


@given(
    st.lists(st.sampled_from((0, 2, 6, 10, None)), min_size=1, max_size=10),
    st.lists(st.integers(0, 9), min_size=1, max_size=10),
    st.integers(0, 5),
    st.integers(1, 3),
    st.lists(st.integers(0, 3), min_size=10, max_size=10),
    st.integers(1, 6),
)
def test_whatever_a_policy_prefers_nobody_is_passed_over_for_ever(
    shares: list[int | None],
    picks: list[int],
    lookahead: int,
    most: int,
    before: list[int],
    slots: int,
):
    numbered = list(enumerate(shares, 1))
    tasks = [whole(number) if gib is None else task(number, gib=gib) for number, gib in numbered]
    skips = {str(number): times for number, times in enumerate(before[: len(shares)], 1)}

    plan = decide(
        a_snapshot(
            running("99", gib=4),
            *tasks,
            agents=ROOMY,
            slots=slots,
            gpus=[a_gpu(0)],
            lookahead=lookahead,
            max_skips=most,
            skips=skips,
        ),
        AsDrawn(picks),
    )

    for task_id, by in overtakes(plan).items():
        assert len(by) <= max(0, most - skips[task_id])


@given(
    st.lists(
        st.tuples(st.sampled_from((0, 2, 6, 10, None)), st.sampled_from((60, 600, 7200))),
        min_size=2,
        max_size=8,
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_nothing_behind_a_reservation_makes_its_task_start_later(
    wishes: list[tuple[int | None, int]], picks: list[int], slots: int, reserved: int
):
    tasks = [
        whole(number, max_runtime_s=float(seconds))
        if gib is None
        else task(number, gib=gib, max_runtime_s=float(seconds))
        for number, (gib, seconds) in enumerate(wishes, 1)
    ]
    first = tasks[(reserved - 1) % len(tasks)]
    snapshot = a_snapshot(
        running("98", gib=2, left_s=300),
        running("99", gib=4),
        *tasks,
        agents=ROOMY,
        slots=slots,
        gpus=[a_gpu(0)],
        lookahead=99,
        skips={first.task_id: 2},
    )

    plan = decide(snapshot, AsDrawn(picks))

    capacity = measure(snapshot, plan.verdicts)
    for one in plan.decisions:
        if not isinstance(one, Dispatch) or one.task == first:
            break
        before = Refusals(capacity).earliest_s(first)
        capacity = capacity.take(one, runtime_s=one.task.max_runtime_s or 0.0)
        if one.task.created_order > first.created_order and before is not None:
            assert Refusals(capacity).earliest_s(first) == before


def test_a_policy_that_prefers_the_last_overtakes_and_is_told_whose_turn_it_is():
    tasks = [task(number) for number in range(1, 5)]

    plan = decide(a_snapshot(*tasks, agents=ROOMY, slots=1), LastFirst())
    reserved = decide(
        a_snapshot(an_entry(a_lease("9")), *tasks, agents=ROOMY, slots=1, skips={"1": 2}),
        LastFirst(),
    )

    assert overtakes(plan) == {"1": ["4"], "2": ["4"], "3": ["4"]}
    assert why(reserved, "1")[1].endswith("it was overtaken 2 times, and comes first now")


def test_the_examples_in_its_docstrings_hold():
    assert doctest.testmod(turns).failed == 0
