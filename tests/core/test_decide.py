"""What `decide` promises of any snapshot, and what it chooses in a few."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    RULES,
    a_claim,
    a_gpu,
    a_lease,
    a_result,
    a_snapshot,
    a_task,
    an_agent,
    an_entry,
)
from tests.core.worlds import (
    WildPolicy,
    shuffled,
    some_busy_snapshot,
    some_snapshot,
    some_wild_policy,
)

from tinyscheduler.core.decide import decide
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.queueing import key_of
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.leases import (
    Lease,
    LeaseFault,
    LeaseState,
    Needs,
    ProcessEvidence,
    UnreadableLease,
    WrapperLife,
)
from tinyscheduler.model.plan import Dispatch, Plan, Proposal, Reason, Wait
from tinyscheduler.model.resources import GpuReading
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy

FIFO = PlatformPolicy()
GIB = 2**30
# What an attempt needs of which nobody said it.
PLAIN = Needs(memory_bytes=RULES.memory_per_slot_bytes or 0)


class Refusing:
    """Starts nothing."""

    name = "refusing"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        del context
        return ()


class Proposing:
    """Proposes the same at every question."""

    name = "proposing"
    version = ""

    def __init__(self, *proposals: Proposal) -> None:
        self._proposals = proposals

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        del context
        return self._proposals


class OneAtATime:
    """Asks for one start, the last that came, and to be asked again."""

    name = "one at a time"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        task = context.waiting[-1]
        return [Proposal(task=task, agent=task.agent or "")]


def starts(plan: Plan) -> list[tuple[str, str]]:
    return [
        (decision.task.task_id, decision.agent)
        for decision in plan.decisions
        if isinstance(decision, Dispatch)
    ]


def reasons(plan: Plan) -> dict[str, Reason]:
    return {
        decision.task.task_id: decision.reason
        for decision in plan.decisions
        if isinstance(decision, Wait)
    }


def waiting(snapshot: Snapshot) -> list[WaitingTask]:
    return [task for source in snapshot.sources for task in source.waiting]


def occupied_slots(snapshot: Snapshot) -> Counter[str]:
    """Count what costs a slot: a held lock, or a lease without a result.

    One that says it recorded its result, which is gone, is over all the same.
    """
    recorded = {result.lease_id for result in snapshot.scan.results}
    recorded |= {result.lease_id for result in snapshot.scan.unreadable_results}
    return Counter(
        entry.lease.agent if isinstance(entry.lease, Lease) else ""
        for entry in snapshot.scan.entries
        if entry.is_lock_held
        or (
            isinstance(entry.lease, Lease)
            and entry.lease.lease_id not in recorded
            and not (
                entry.lease.state is LeaseState.FINISHED
                and entry.lease.boot_id == snapshot.now.boot_id
            )
        )
    )


def shared_bytes(needs: Needs, uuids: Sequence[str], snapshot: Snapshot) -> int:
    """Return what of the VRAM there is memory of the machine."""
    gpus = snapshot.gpus.gpus if snapshot.gpus is not None else ()
    unified = {gpu.uuid for gpu in gpus if gpu.fault is None and gpu.total_bytes is None}
    return needs.vram_bytes * len(unified & set(uuids))


def assert_within_memory(plan: Plan, snapshot: Snapshot) -> None:
    host, rules = snapshot.host, snapshot.rules
    needed = {agent.name: agent.memory_bytes for agent in snapshot.agents}
    started = 0
    for decision in plan.decisions:
        if isinstance(decision, Dispatch):
            said = (decision.task.memory_bytes, needed[decision.agent], rules.memory_per_slot_bytes)
            started += next(one for one in said if one is not None)
            shared = shared_bytes(decision.needs, decision.gpu_uuids, snapshot)
            assert decision.needs.shared_bytes == shared
            started += shared
            assert host.memory_available_bytes > 0.1 * host.memory_total_bytes
    # At least these hold a slot for sure: their locks are held and they are of this boot.
    unused = sum(
        max(0, entry.lease.needs.memory_bytes - snapshot.memory_used.get(entry.lease.lease_id, 0))
        + max(
            0,
            shared_bytes(entry.lease.needs, entry.lease.gpu_uuids, snapshot)
            - told_of(entry.lease, snapshot),
        )
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
        if snapshot.evidence.get(entry.lease.lease_id) == ProcessEvidence(wrapper=WrapperLife.ALIVE)
        and entry.lease.monotonic_started_ns >= snapshot.now.monotonic_ns
    )
    if started:
        assert started + unused <= host.memory_available_bytes


def told_of(lease: Lease, snapshot: Snapshot) -> int:
    """Return what the driver says that the processes of an attempt use."""
    return sum(
        process.used_bytes or 0
        for gpu in (snapshot.gpus.gpus if snapshot.gpus is not None else ())
        for process in gpu.processes or ()
        if snapshot.gpu_owners.get(process.pid) == lease.lease_id
    )


def assert_within_gpus(plan: Plan, snapshot: Snapshot) -> None:
    """No GPU is given away twice, nor beyond what is measured, nor unseen."""
    reading = snapshot.gpus or GpuReading()
    gpus = {gpu.uuid: gpu for gpu in reading.gpus if gpu.fault is None}
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    for start in starts:
        assert len(start.gpu_uuids) == (start.needs.gpus or bool(start.needs.vram_bytes))
        assert set(start.gpu_uuids) <= gpus.keys()
    live = [
        entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
    ]
    for uuid, gpu in gpus.items():
        new = [one.needs for one in starts if uuid in one.gpu_uuids]
        old = [lease.needs for lease in live if uuid in lease.gpu_uuids]
        if not new:
            continue
        if any(needs.gpus for needs in (*new, *old)):
            assert len(new) + len(old) == 1
            assert not [one for one in gpu.processes or () if one.pid in snapshot.gpu_owners]
            continue
        total = gpu.total_bytes
        if total is None:
            continue  # it has the machine's, which is counted with what else needs it
        assert sum(needs.vram_bytes for needs in (*new, *old)) <= total
        assert sum(needs.vram_bytes for needs in new) <= total - gpu.used_bytes


def assert_within_models(plan: Plan, snapshot: Snapshot) -> None:
    """No slot of a model, of its host or of an agent there is given away twice."""
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    new = [(one.agent, one.model, one.model_host) for one in starts]
    old = [
        (entry.lease.agent, entry.lease.model, entry.lease.model_host)
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
    ]
    places = {(one.model, one.host): one.max_slots for one in snapshot.inventory.models}
    for (model, host), most in places.items():
        if taken := sum(one[1:] == (model, host) for one in new):
            assert taken + sum(one[1:] == (model, host) for one in old) <= most
    for bound in snapshot.inventory.hosts:
        if bound.max_slots is not None and (taken := sum(one[2] == bound.name for one in new)):
            assert taken + sum(one[2] == bound.name for one in old) <= bound.max_slots
    for agent in snapshot.agents:
        for used in {one[2] for one in new if one[0] == agent.name}:
            here = [one for one in (*new, *old) if one[::2] == (agent.name, used)]
            assert agent.max_per_host is None or len(here) <= agent.max_per_host
    for start in starts:
        if start.model_host is not None:
            assert (start.model, start.model_host) in places


def assert_within_quotas(plan: Plan, snapshot: Snapshot) -> None:
    queues = {agent.name: agent.queue for agent in snapshot.agents}
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    live = [
        entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
    ]
    for quota in snapshot.inventory.queues:
        new = [one for one in starts if queues[one.agent] == quota.name]
        old = [one for one in live if queues.get(one.agent) == quota.name]
        assert not new or quota.slots is None or len(new) + len(old) <= quota.slots
    for quota in snapshot.inventory.tenants:
        mine = [one for one in starts if one.task.tenant == quota.name]
        had = [one for one in live if one.tenant == quota.name]
        assert not mine or quota.slots is None or len(mine) + len(had) <= quota.slots
        if quota.vram_bytes is not None and any(one.gpu_uuids for one in mine):
            needs = [*(one.needs for one in mine), *(one.needs for one in had)]
            assert not any(one.needs.gpus for one in mine), "one is larger than the quota"
            assert sum(one.vram_bytes for one in needs if not one.gpus) <= quota.vram_bytes


def assert_within_all_limits(plan: Plan, snapshot: Snapshot) -> None:
    assert_within_memory(plan, snapshot)
    assert_within_gpus(plan, snapshot)
    assert_within_models(plan, snapshot)
    assert_within_quotas(plan, snapshot)
    occupied = occupied_slots(snapshot)
    started = Counter(agent for _, agent in starts(plan))
    if started:
        assert occupied.total() + started.total() <= snapshot.rules.host_slots
    limits = {agent.name: agent.limit for agent in snapshot.agents}
    for agent, number in started.items():
        assert occupied[agent] + number <= limits[agent]


# -- invariants of any snapshot -------------------------------------------------------


@given(some_snapshot(), st.sampled_from((FIFO, Refusing())))
def test_every_waiting_task_gets_exactly_one_decision(snapshot: Snapshot, policy: Policy):
    plan = decide(snapshot, policy)

    assert Counter(decision.task for decision in plan.decisions) == Counter(waiting(snapshot))


@given(st.data(), st.just(FIFO))
def test_decide_does_not_depend_on_input_order(data: st.DataObject, policy: Policy):
    snapshot = data.draw(some_snapshot())
    same = data.draw(shuffled(snapshot))

    assert decide(snapshot, policy) == decide(same, policy)


@given(some_snapshot(), st.just(FIFO))
def test_leased_plus_dispatched_never_exceeds_any_limit(snapshot: Snapshot, policy: Policy):
    assert_within_all_limits(decide(snapshot, policy), snapshot)


@given(some_snapshot() | some_busy_snapshot(), some_wild_policy)
def test_no_policy_can_exceed_a_cap(snapshot: Snapshot, policy: WildPolicy):
    try:
        plan = decide(snapshot, policy)
    except PolicyError:
        return

    assert_within_all_limits(plan, snapshot)
    assert Counter(decision.task for decision in plan.decisions) == Counter(waiting(snapshot))


@given(some_busy_snapshot())
def test_the_built_in_policy_proposes_nothing_that_is_refused(snapshot: Snapshot):
    plan = decide(snapshot, FIFO)

    assert_within_all_limits(plan, snapshot)
    assert Reason.POLICY_WAIT not in reasons(plan).values()


@given(some_busy_snapshot())
def test_tasks_of_several_sources_that_have_the_same_ids_are_decided_each(snapshot: Snapshot):
    sources = [
        replace(view, name=name, waiting=tuple(replace(task, source=name) for task in view.waiting))
        for view in snapshot.sources
        for name in ("local", "far", "moon")
    ]

    plan = decide(replace(snapshot, sources=tuple(sources)), FIFO)

    keys = [key_of(one.task) for one in plan.decisions]
    assert len(keys) == len(set(keys)) == sum(len(view.waiting) for view in sources)


@pytest.mark.parametrize("wants", [{"vram_bytes": 1 << 30}, {"gpus": 1}])
def test_a_policy_that_names_a_gpu_that_is_not_there_is_refused(wants: dict[str, int]):
    task = a_task("1", **wants)
    policy = WildPolicy(picks=(((0, "coder", None, "GPU-gone"),),))

    with pytest.raises(PolicyError, match="nothing of what it asked for can be had"):
        decide(a_snapshot(task, gpus=(a_gpu(0),)), policy)


@given(some_snapshot(), st.just(FIFO))
def test_only_what_may_start_is_started(snapshot: Snapshot, policy: Policy):
    on_disk = {
        entry.task_id
        for entry in snapshot.scan.entries
        if entry.lease is not None or entry.is_lock_held
    }
    queues = {agent.name: agent.queue for agent in snapshot.agents}

    for decision in decide(snapshot, policy).decisions:
        if isinstance(decision, Dispatch):
            task = decision.task
            assert snapshot.is_enabled
            assert not task.is_held
            assert not task.blocked_by
            assert task.task_id not in on_disk
            assert task.not_before is None or task.not_before <= snapshot.now.wall
            assert task.backing_off_until is None or task.backing_off_until <= snapshot.now.wall
            assert decision.agent in queues
            assert task.agent in (None, decision.agent)
            assert task.agent is not None or task.queue == queues[decision.agent]


@given(some_snapshot(), st.just(FIFO))
def test_the_built_in_policy_leaves_no_slot_empty_that_a_task_could_take(
    snapshot: Snapshot, policy: Policy
):
    assert Reason.POLICY_WAIT not in reasons(decide(snapshot, policy)).values()


@given(some_snapshot(), st.just(FIFO))
def test_every_wait_has_words_for_people(snapshot: Snapshot, policy: Policy):
    for decision in decide(snapshot, policy).decisions:
        if isinstance(decision, Wait):
            assert decision.words
            assert decision.retry_after_s is None or decision.retry_after_s > 0


@given(
    st.lists(
        st.builds(
            a_task,
            st.integers(1, 99).map(str),
            created_order=st.integers(0, 5),
            agent=st.sampled_from(("coder", "tester")),
        ),
        unique_by=lambda task: task.task_id,
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_an_unchanged_world_plans_nothing(
    tasks: list[WaitingTask], coders: int, testers: int, slots: int
):
    agents = (an_agent("coder", limit=coders), an_agent("tester", limit=testers))
    plan = decide(a_snapshot(*tasks, agents=agents, slots=slots), FIFO)
    started = {start.task: start.agent for start in plan.decisions if isinstance(start, Dispatch)}
    things = [
        thing
        for task, agent in started.items()
        for thing in (
            an_entry(a_lease(task.task_id, agent=agent)),
            a_claim(task.task_id, agent=agent),
        )
    ]
    left = [task for task in tasks if task not in started]

    after = decide(a_snapshot(*things, *left, agents=agents, slots=slots), FIFO)

    assert after.is_quiet
    assert {wait.task for wait in after.decisions} == set(left)


# -- examples -------------------------------------------------------------------------


def test_the_urgent_task_takes_the_last_slot():
    urgent = a_task("urgent", priority=9, created_order=2)
    idle = a_task("idle", created_order=1)

    plan = decide(a_snapshot(idle, urgent, is_priority_enabled=True), FIFO)

    assert plan.decisions == (
        Dispatch(task=urgent, agent="coder", needs=PLAIN),
        Wait(
            task=idle,
            reason=Reason.AGENT_LIMIT,
            words="the slot of agent coder goes to a task before it",
        ),
    )


def test_a_reclaimed_slot_is_not_reused_before_it_is_observed_free():
    dead = an_entry(a_lease("1"), is_lock_held=False)

    plan = decide(a_snapshot(dead, a_claim("1"), a_task("2")), FIFO)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_an_attempt_with_a_result_and_a_free_lock_costs_no_slot():
    ended = an_entry(a_lease("1"), is_lock_held=False)

    plan = decide(a_snapshot(ended, a_claim("1"), a_result("1"), a_task("2")), FIFO)

    assert starts(plan) == [("2", "coder")]


def test_an_ended_attempt_costs_no_slot_while_its_source_is_down():
    ended = an_entry(a_lease("tinytask-1", source="tinytask"), is_lock_held=False)
    result = a_result("tinytask-1", source="tinytask")

    plan = decide(a_snapshot(ended, result, a_task("2"), down=["tinytask"]), FIFO)

    assert starts(plan) == [("2", "coder")]


def test_a_held_lock_without_a_lease_counts_against_the_machine():
    plan = decide(a_snapshot(an_entry(None, task_id="1"), a_task("2"), slots=1), FIFO)

    assert reasons(plan) == {"2": Reason.HOST_SLOTS}


def test_an_unreadable_lease_counts_against_the_agent_that_its_claim_names():
    corrupt = UnreadableLease(fault=LeaseFault.CORRUPT, message="garbage")

    plan = decide(a_snapshot(an_entry(corrupt), a_claim("1"), a_task("2")), FIFO)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_a_lost_attempt_whose_processes_live_keeps_its_slot():
    seen = ProcessEvidence(wrapper=WrapperLife.DEAD, survivors=1)

    plan = decide(a_snapshot(a_claim("1"), a_task("2"), evidence={"lease-1": seen}), FIFO)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


@pytest.mark.parametrize("is_lock_held", [True, False])
def test_a_task_waits_until_its_previous_attempt_is_gone_from_the_disk(*, is_lock_held: bool):
    # The source took it back, but the lease is still there.
    entry = an_entry(a_lease("1", agent="tester"), is_lock_held=is_lock_held)

    plan = decide(a_snapshot(entry, a_task("1")), FIFO)

    assert reasons(plan) == {"1": Reason.UNPLACED}


def test_a_lock_that_nothing_holds_keeps_no_task_waiting():
    free = an_entry(None, task_id="1", is_lock_held=False)

    assert starts(decide(a_snapshot(free, a_task("1")), FIFO)) == [("1", "coder")]


def test_an_agent_with_limit_0_starts_nothing_and_says_so():
    plan = decide(a_snapshot(a_task("1"), agents=[an_agent(limit=0)]), FIFO)

    assert plan.decisions == (
        Wait(task=a_task("1"), reason=Reason.AGENT_LIMIT, words="agent coder runs 0 of 0"),
    )


def test_without_host_slots_nothing_starts():
    plan = decide(a_snapshot(a_task("1"), slots=0), FIFO)

    assert plan.decisions == (
        Wait(task=a_task("1"), reason=Reason.HOST_SLOTS, words="this machine runs 0 of 0"),
    )


def test_a_task_of_a_queue_starts_by_the_agent_that_can_start_it_though_another_is_freer():
    agents = (an_agent("large", limit=9, memory_bytes=99 * GIB), an_agent("small", limit=2))
    tasks = [a_task(str(number), queue="dev", created_order=number) for number in range(3)]

    plan = decide(a_snapshot(*tasks, agents=agents), FIFO)

    assert starts(plan) == [("0", "small"), ("1", "small")]
    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_a_task_of_a_queue_starts_by_the_agent_that_takes_nothing_from_a_reservation():
    agents = (an_agent("coder", limit=9, vram_bytes=2 * GIB), an_agent("tester", limit=1))
    holder = an_entry(
        a_lease("7", agent="gone", gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    )
    first = a_task("1", queue="dev", vram_bytes=20 * GIB)
    second = a_task("2", queue="dev", created_order=1)

    plan = decide(
        a_snapshot(holder, first, second, agents=agents, gpus=[a_gpu(0)], skips={"1": 2}), FIFO
    )

    assert starts(plan) == [("2", "tester")]


def test_the_agents_own_limit_is_named_before_the_machines():
    plan = decide(a_snapshot(a_task("1"), agents=[an_agent(limit=0)], slots=0), FIFO)

    assert reasons(plan) == {"1": Reason.AGENT_LIMIT}


def test_the_machine_is_named_where_one_of_several_agents_has_room():
    agents = (an_agent("full", limit=0), an_agent("roomy", limit=1))

    plan = decide(a_snapshot(a_task("1", queue="dev"), agents=agents, slots=0), FIFO)

    assert reasons(plan) == {"1": Reason.HOST_SLOTS}


def test_a_task_that_the_policy_passes_over_waits_for_the_policy():
    assert reasons(decide(a_snapshot(a_task("1")), Refusing())) == {"1": Reason.POLICY_WAIT}


def test_the_policy_is_asked_again_until_nothing_more_fits():
    tasks = [a_task(f"{number}", created_order=number) for number in (1, 2, 3)]

    plan = decide(a_snapshot(*tasks, agents=[an_agent(limit=2)]), OneAtATime())

    assert starts(plan) == [("3", "coder"), ("2", "coder")]
    assert reasons(plan) == {"1": Reason.AGENT_LIMIT}


def test_a_proposal_beyond_a_cap_is_passed_over_and_the_next_one_admitted():
    first, second, third = (a_task("1"), a_task("2"), a_task("3", agent="tester"))
    policy = Proposing(
        Proposal(task=first, agent="coder"),
        Proposal(task=second, agent="coder"),
        Proposal(task=third, agent="tester"),
    )
    agents = (an_agent("coder"), an_agent("tester", limit=2))

    with pytest.raises(PolicyError, match="task 1"):
        # Asked again, for there is room for one more, it proposes what has been started.
        decide(a_snapshot(first, second, third, a_task("4", agent="tester"), agents=agents), policy)

    plan = decide(a_snapshot(first, second, third, agents=agents), policy)
    assert starts(plan) == [("1", "coder"), ("3", "tester")]
    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_a_policy_cannot_start_a_task_that_must_wait():
    blocked = a_task("1", blocked_by=("7",))

    with pytest.raises(PolicyError, match="task 1, which cannot start now"):
        decide(a_snapshot(blocked, a_task("2")), Proposing(Proposal(task=blocked, agent="coder")))


def test_a_policy_cannot_change_a_task():
    changed = a_task("1", attempt=7)

    with pytest.raises(PolicyError, match="task 1, which cannot start now"):
        decide(a_snapshot(a_task("1")), Proposing(Proposal(task=changed, agent="coder")))


@pytest.mark.parametrize("agent", ["tester", "nobody"])
def test_a_policy_cannot_give_a_task_to_an_agent_that_does_not_serve_it(agent: str):
    agents = (an_agent("coder"), an_agent("tester"))
    policy = Proposing(Proposal(task=a_task("1"), agent=agent))

    with pytest.raises(PolicyError, match=f"agent {agent} for task 1"):
        decide(a_snapshot(a_task("1"), agents=agents), policy)


def test_two_sources_may_use_the_same_task_id():
    ours, theirs = a_task("1"), a_task("1", source="tinytask")

    plan = decide(a_snapshot(ours, theirs), FIFO)

    assert plan.decisions == (
        Dispatch(task=ours, agent="coder", needs=PLAIN),
        Wait(
            task=theirs,
            reason=Reason.AGENT_LIMIT,
            words="the slot of agent coder goes to a task before it",
        ),
    )


def test_a_source_that_is_down_stops_no_other():
    plan = decide(a_snapshot(a_task("1"), down=["tinytask"]), FIFO)

    assert starts(plan) == [("1", "coder")]


def test_what_has_ended_is_given_back_while_starting_is_switched_off():
    snapshot = a_snapshot(
        an_entry(a_lease("1"), is_lock_held=False),
        a_claim("1"),
        a_result("1"),
        a_task("2"),
        is_enabled=False,
    )

    plan = decide(snapshot, FIFO)

    assert reasons(plan) == {"2": Reason.PAUSED}
    assert plan.verdicts == judge_all(snapshot)
    assert not plan.is_quiet
