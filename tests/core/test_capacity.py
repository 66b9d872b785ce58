"""What is free, and which cap binds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_claim, a_lease, a_snapshot, a_task, an_agent, an_entry
from tests.core.worlds import some_snapshot

from tinyscheduler.core.capacity import Capacity, measure
from tinyscheduler.core.leases import holds_slot, judge_all
from tinyscheduler.core.memory import MemoryRoom
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.model.policy import AgentView

if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Snapshot


def measured(snapshot: Snapshot) -> Capacity:
    return measure(snapshot, judge_all(snapshot))


def a_capacity(*agents: AgentView, slots: int = 9, active: int = 0) -> Capacity:
    """Return one with memory for anything."""
    return Capacity(
        agents=agents,
        host_limit=slots,
        host_active=active,
        memory=MemoryRoom(total_bytes=16 << 30, available_bytes=16 << 30),
        per_slot_bytes=0,
    )


def a_start(agent: str, **needs: int) -> Dispatch:
    return Dispatch(task=a_task(), agent=agent, needs=Needs(**needs))


def an_agent_view(*, limit: int, active: int) -> AgentView:
    return AgentView(name="coder", queue="dev", limit=limit, active=active)


@pytest.mark.parametrize(
    ("active", "planned", "limit", "words"),
    [
        (0, 1, 1, "the slot of agent coder goes to a task before it"),
        (0, 2, 2, "both slots of agent coder go to tasks before it"),
        (0, 3, 3, "all 3 slots of agent coder go to tasks before it"),
        (2, 1, 3, "agent coder runs 2 of 3, and the last slot goes to a task before it"),
        (1, 2, 3, "agent coder runs 1 of 3, and the other 2 slots go to tasks before it"),
    ],
)
def test_a_slot_that_is_only_promised_is_not_told_as_running(
    active: int, planned: int, limit: int, words: str
):
    capacity = a_capacity(an_agent_view(limit=limit, active=active), active=active)
    for _ in range(planned):
        capacity = capacity.take(a_start("coder"), runtime_s=60)
    (coder,) = capacity.agents

    refusal = capacity.place(a_task(), coder)

    assert isinstance(refusal, Refusal)
    assert refusal.words == words


def test_a_slot_of_the_machine_that_is_only_promised_is_not_told_as_running():
    busy, idle = an_agent_view(limit=9, active=0), an_agent_view(limit=9, active=0)
    capacity = a_capacity(busy, slots=2, active=1).take(a_start("coder"), runtime_s=60)

    refusal = capacity.place(a_task(), idle)

    assert refusal == Refusal(
        reason=Reason.HOST_SLOTS,
        words="this machine runs 1 of 2, and the last slot goes to a task before it",
    )


def test_slots_are_counted_from_leases():
    snapshot = a_snapshot(
        an_entry(a_lease("1")),
        an_entry(a_lease("2")),
        an_entry(a_lease("3", agent="tester")),
        agents=[an_agent("tester", limit=1, queue="qa"), an_agent("coder", limit=3)],
        slots=5,
    )

    capacity = measured(snapshot)

    assert capacity.agents == (
        AgentView(name="coder", queue="dev", limit=3, active=2),
        AgentView(name="tester", queue="qa", limit=1, active=1),
    )
    assert (capacity.host_limit, capacity.host_active) == (5, 3)


def test_a_lease_of_an_agent_that_is_no_longer_configured_counts_against_the_machine():
    capacity = measured(a_snapshot(an_entry(a_lease(agent="gone"))))

    assert capacity.host_active == 1
    assert [agent.active for agent in capacity.agents] == [0]


def test_more_leases_than_slots_leave_none_free_and_not_less_than_none():
    entries = [an_entry(a_lease(str(number))) for number in range(3)]

    capacity = measured(a_snapshot(*entries, slots=2))

    assert (capacity.host_active, capacity.host_free) == (3, 0)
    assert [agent.free for agent in capacity.agents] == [0]


def test_every_way_to_hold_a_slot_counts_against_the_leases_agent():
    suspect = an_entry(a_lease("1"), beat_age_s=60)
    dead = an_entry(a_lease("2"), is_lock_held=False)
    hung = an_entry(a_lease("3", max_runtime_s=-9999))
    healthy = an_entry(a_lease("4"))

    capacity = measured(a_snapshot(suspect, dead, hung, healthy))

    assert [agent.active for agent in capacity.agents] == [4]


def test_an_agent_is_found_by_name():
    capacity = measured(a_snapshot())

    assert capacity.agent("coder") == an_agent_view(limit=1, active=0)
    assert capacity.agent("nobody") is None


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_start_is_refused_exactly_where_a_limit_is_reached(
    limit: int, active: int, host_limit: int, host_active: int
):
    task, agent = a_task(), an_agent_view(limit=limit, active=active)
    capacity = a_capacity(agent, slots=host_limit, active=host_active)

    found = capacity.place(task, agent)

    if active >= limit:
        words = f"agent coder runs {active} of {limit}"
        assert found == Refusal(reason=Reason.AGENT_LIMIT, words=words)
    elif host_active >= host_limit:
        words = f"this machine runs {host_active} of {host_limit}"
        assert found == Refusal(reason=Reason.HOST_SLOTS, words=words)
    else:
        assert found == Dispatch(task=task, agent="coder", needs=Needs())


@given(some_snapshot(), st.sampled_from(("coder", "tester", "nobody")))
def test_a_start_takes_one_slot_of_its_agent_and_one_of_the_machine(snapshot: Snapshot, name: str):
    before = measured(snapshot)

    after = before.take(a_start(name, memory_bytes=5), runtime_s=60)

    assert after.memory.free_bytes == max(0, before.memory.free_bytes - 5)
    assert after.host_active == before.host_active + 1
    assert after.host_limit == before.host_limit
    for agent, then in zip(before.agents, after.agents, strict=True):
        assert then.active - agent.active == (agent.name == name)
        assert (then.name, then.queue, then.limit) == (agent.name, agent.queue, agent.limit)


@given(some_snapshot())
def test_the_agents_never_hold_more_slots_than_the_machine(snapshot: Snapshot):
    capacity = measured(snapshot)

    assert sum(agent.active for agent in capacity.agents) <= capacity.host_active
    assert capacity.host_active == sum(map(holds_slot, judge_all(snapshot)))


def test_what_is_repaired_or_swept_occupies_nothing():
    lock = an_entry(None, task_id="2", is_lock_held=False)

    assert measured(a_snapshot(a_claim("1"), lock)).host_active == 0
