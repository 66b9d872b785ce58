"""Who goes first, and to which agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_task

from tinyscheduler.model.policy import AgentView, PolicyContext
from tinyscheduler.policy.platform import PlatformPolicy

if TYPE_CHECKING:
    from tinyscheduler.model.tasks import WaitingTask

POLICY = PlatformPolicy()
ROOMY = AgentView(name="coder", queue="dev", limit=99, active=0)

some_tasks = st.lists(
    st.builds(
        a_task,
        st.integers(1, 99).map(str),
        created_order=st.integers(0, 9),
        priority=st.integers(-2, 2),
        blocks=st.integers(0, 2),
        agent=st.sampled_from(("coder", "tester", "nobody", None)),
        queue=st.sampled_from(("dev", "docs", None)),
    ),
    unique_by=lambda task: task.task_id,
)
some_agents = st.lists(
    st.builds(
        AgentView,
        name=st.sampled_from(("coder", "tester", "writer")),
        queue=st.sampled_from(("dev", "docs")),
        limit=st.integers(0, 3),
        active=st.integers(0, 4),
    ),
    unique_by=lambda agent: agent.name,
)


def proposed(
    *tasks: WaitingTask,
    agents: tuple[AgentView, ...] = (ROOMY,),
    slots: int = 99,
) -> list[tuple[str, str]]:
    context = PolicyContext(
        now=NOW.wall,
        waiting=tasks,
        agents=agents,
        host_slots_free=slots,
        memory_free_bytes=8 << 30,
    )
    return [(one.task.task_id, one.agent) for one in POLICY.propose(context)]


def order(*tasks: WaitingTask) -> list[str]:
    return [task_id for task_id, _ in proposed(*tasks)]


@given(st.permutations([a_task(str(number), created_order=number) for number in range(9)]))
def test_who_came_first_is_served_first_however_tasks_are_given(tasks: list[WaitingTask]):
    assert order(*tasks) == [str(number) for number in range(9)]


@given(st.data(), some_tasks, some_agents, st.integers(0, 5))
def test_the_proposals_do_not_depend_on_the_order_of_the_agents(
    data: st.DataObject, tasks: list[WaitingTask], agents: list[AgentView], slots: int
):
    mixed = data.draw(st.permutations(agents))

    assert proposed(*tasks, agents=tuple(agents), slots=slots) == proposed(
        *tasks, agents=tuple(mixed), slots=slots
    )


@given(some_tasks, some_agents, st.integers(-1, 5))
def test_no_more_is_proposed_than_is_free(
    tasks: list[WaitingTask], agents: list[AgentView], slots: int
):
    proposals = proposed(*tasks, agents=tuple(agents), slots=slots)

    assert len(proposals) <= max(0, slots)
    for agent in agents:
        assert sum(name == agent.name for _, name in proposals) <= agent.free
    assert len({task_id for task_id, _ in proposals}) == len(proposals)


def test_a_task_of_a_queue_goes_to_the_agent_with_most_free_slots():
    agents = (
        AgentView(name="busy", queue="dev", limit=5, active=4),
        AgentView(name="free", queue="dev", limit=2, active=0),
        AgentView(name="other", queue="docs", limit=9, active=0),
    )
    tasks = [a_task(str(number), queue="dev", created_order=number) for number in range(4)]

    # With one slot free each, the name decides.
    assert proposed(*tasks, agents=agents) == [("0", "free"), ("1", "busy"), ("2", "free")]


def test_a_task_that_fits_nowhere_lets_those_behind_it_pass():
    full = AgentView(name="full", queue="dev", limit=1, active=1)
    first, second = a_task("1", agent="full", created_order=1), a_task("2", created_order=2)

    assert proposed(first, second, agents=(full, ROOMY)) == [("2", "coder")]


@pytest.mark.parametrize("wants", [{"agent": "nobody"}, {"queue": "nowhere"}, {"agent": None}])
def test_a_task_for_nobody_is_not_proposed(wants: dict[str, str | None]):
    assert proposed(a_task(**wants)) == []


def test_a_named_agent_comes_before_a_queue():
    other = AgentView(name="other", queue="docs", limit=1, active=0)
    task = a_task(agent="other", queue="dev")

    assert proposed(task, agents=(ROOMY, other)) == [("1", "other")]


@pytest.mark.parametrize(
    "odd",
    [
        {"seed": 2**64},
        {"seed": -(2**64)},
        {"created_order": 2**63},
        {"vram_bytes": 2**80},
        {"title": "half of a \ud83d character"},
        {"labels": (("a", "\udcff"), ("\ud800", "b"))},
    ],
)
def test_what_lua_cannot_hold_keeps_no_task_from_a_start(odd: dict[str, object]):
    assert ("2", "coder") in proposed(a_task("1", **odd), a_task("2", created_order=1))


def test_agents_and_slots_without_a_bound_are_as_good_as_many():
    endless = AgentView(name="coder", queue="dev", limit=2**70, active=0)

    assert proposed(a_task("1"), agents=(endless,), slots=2**70) == [("1", "coder")]


def test_the_policy_has_a_name_for_reports():
    assert POLICY.name == "platform"
