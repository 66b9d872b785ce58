"""What every honest policy must do, whatever it is made of."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_task

from tinyscheduler.model.plan import Proposal
from tinyscheduler.model.policy import AgentView, PolicyContext
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.policy import ScriptedPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy

AGENTS = (
    AgentView(name="alpha", queue="dev", limit=2, active=1),
    AgentView(name="beta", queue="dev", limit=1, active=0),
    AgentView(name="gamma", queue="ops", limit=1, active=1),
)
TASKS = (
    a_task("1", agent="alpha", created_order=1),
    a_task("2", agent="beta", created_order=2, priority=3),
    a_task("3", queue="dev", created_order=3),
    a_task("4", agent="gamma", created_order=4),
)


def first_come_first_served(context: PolicyContext) -> Sequence[Proposal]:
    """Propose the oldest task that its own agent has a slot for."""
    free = {agent.name for agent in context.agents if agent.free}
    for task in sorted(context.waiting, key=lambda task: task.created_order):
        if task.agent in free and context.host_slots_free:
            return [Proposal(task=task, agent=task.agent)]
    return []


POLICIES: dict[str, Callable[[], Policy]] = {
    "platform": PlatformPolicy,
    "scripted": lambda: ScriptedPolicy(first_come_first_served),
}


@pytest.fixture(params=list(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]()


def a_context(*waiting: WaitingTask, slots: int = 4) -> PolicyContext:
    return PolicyContext(
        now=datetime(2026, 3, 1, tzinfo=UTC),
        waiting=waiting,
        agents=AGENTS,
        host_slots_free=slots,
        memory_free_bytes=8 << 30,
    )


def test_a_policy_has_a_name_for_reports(policy):
    assert policy.name


def test_what_is_proposed_waits_and_its_agent_may_run_it(policy):
    proposals = policy.propose(a_context(*TASKS))

    assert proposals
    for proposal in proposals:
        assert proposal.task in TASKS
        agent = next(agent for agent in AGENTS if agent.name == proposal.agent)
        assert agent.name == proposal.task.agent or agent.queue == proposal.task.queue
        assert agent.free


def test_no_task_is_proposed_twice(policy):
    proposed = [proposal.task.task_id for proposal in policy.propose(a_context(*TASKS))]

    assert len(proposed) == len(set(proposed))


def test_the_same_context_gives_the_same_proposals(policy):
    assert policy.propose(a_context(*TASKS)) == policy.propose(a_context(*TASKS))


def test_the_order_of_the_agents_changes_nothing(policy):
    context = a_context(*TASKS, slots=2)
    answers = [
        list(policy.propose(replace(context, agents=order))) for order in permutations(AGENTS)
    ]

    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("waiting", [(), (TASKS[3],)], ids=["nothing waits", "no slot is free"])
def test_where_nothing_can_start_nothing_is_proposed(policy, waiting):
    assert list(policy.propose(a_context(*waiting))) == []


def test_without_a_free_slot_on_this_machine_nothing_is_proposed(policy):
    assert list(policy.propose(a_context(*TASKS, slots=0))) == []
