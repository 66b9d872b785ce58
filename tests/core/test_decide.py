"""What `decide` chooses; what it promises in any world is said in test_invariants.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
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
from tests.core.invariants import assert_within_all_limits, starts
from tests.core.policies import PLATFORM, Refusing, WildPolicy
from tests.core.worlds import some_busy_snapshot, some_snapshot

from tinyscheduler.core.decide import decide
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.queueing import key_of
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import Inventory, ModelPlace
from tinyscheduler.model.leases import (
    LeaseFault,
    Needs,
    ProcessEvidence,
    UnreadableLease,
    WrapperLife,
)
from tinyscheduler.model.plan import Dispatch, Plan, Proposal, Reason, Wait
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.snapshot import Snapshot

GIB = 2**30
# What an attempt needs of which nobody said it.
PLAIN = Needs(memory_bytes=RULES.memory_per_slot_bytes or 0)


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


def reasons(plan: Plan) -> dict[str, Reason]:
    return {
        decision.task.task_id: decision.reason
        for decision in plan.decisions
        if isinstance(decision, Wait)
    }


# -- what the platform policy makes of any snapshot ------------------------------------


@given(some_busy_snapshot())
def test_the_built_in_policy_proposes_nothing_that_is_refused(snapshot: Snapshot):
    plan = decide(snapshot, PLATFORM)

    assert_within_all_limits(plan, snapshot)
    assert Reason.POLICY_WAIT not in reasons(plan).values()


@given(some_busy_snapshot())
def test_tasks_of_several_sources_that_have_the_same_ids_are_decided_each(snapshot: Snapshot):
    sources = [
        replace(view, name=name, waiting=tuple(replace(task, source=name) for task in view.waiting))
        for view in snapshot.sources
        for name in ("local", "far", "moon")
    ]

    plan = decide(replace(snapshot, sources=tuple(sources)), PLATFORM)

    keys = [key_of(one.task) for one in plan.decisions]
    assert len(keys) == len(set(keys)) == sum(len(view.waiting) for view in sources)


@given(some_snapshot())
def test_the_built_in_policy_leaves_no_slot_empty_that_a_task_could_take(snapshot: Snapshot):
    assert Reason.POLICY_WAIT not in reasons(decide(snapshot, PLATFORM)).values()


@pytest.mark.parametrize("host", ["box", "rack"])
def test_a_policy_may_say_on_which_host_the_model_is_used(host: str):
    places = tuple(ModelPlace(model="large", host=one, max_slots=1) for one in ("box", "rack"))
    task = a_task("1", model="large")
    policy = Proposing(Proposal(task=task, agent="coder", pool=host))

    plan = decide(a_snapshot(task, inventory=Inventory(models=places)), policy)

    assert [one.model_host for one in plan.decisions if isinstance(one, Dispatch)] == [host]


def test_a_policy_that_names_a_host_on_which_the_task_uses_nothing_is_refused():
    task = a_task("1")
    policy = Proposing(Proposal(task=task, agent="coder", pool="box"))

    with pytest.raises(PolicyError, match="nothing of what it asked for can be had"):
        decide(a_snapshot(task), policy)


@pytest.mark.parametrize("wants", [{"vram_bytes": 1 << 30}, {"gpus": 1}])
def test_a_policy_that_names_a_gpu_that_is_not_there_is_refused(wants: dict[str, int]):
    task = a_task("1", **wants)
    policy = WildPolicy(picks=(((0, "coder", None, "GPU-gone"),),))

    with pytest.raises(PolicyError, match="nothing of what it asked for can be had"):
        decide(a_snapshot(task, gpus=(a_gpu(0),)), policy)


# -- examples -------------------------------------------------------------------------


def test_the_urgent_task_takes_the_last_slot():
    urgent = a_task("urgent", priority=9, created_order=2)
    idle = a_task("idle", created_order=1)

    plan = decide(a_snapshot(idle, urgent, is_priority_enabled=True), PLATFORM)

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

    plan = decide(a_snapshot(dead, a_claim("1"), a_task("2")), PLATFORM)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_an_attempt_with_a_result_and_a_free_lock_costs_no_slot():
    ended = an_entry(a_lease("1"), is_lock_held=False)

    plan = decide(a_snapshot(ended, a_claim("1"), a_result("1"), a_task("2")), PLATFORM)

    assert starts(plan) == [("2", "coder")]


def test_an_ended_attempt_costs_no_slot_while_its_source_is_down():
    ended = an_entry(a_lease("tinytask-1", source="tinytask"), is_lock_held=False)
    result = a_result("tinytask-1", source="tinytask")

    plan = decide(a_snapshot(ended, result, a_task("2"), down=["tinytask"]), PLATFORM)

    assert starts(plan) == [("2", "coder")]


def test_a_held_lock_without_a_lease_counts_against_the_machine():
    plan = decide(a_snapshot(an_entry(None, task_id="1"), a_task("2"), slots=1), PLATFORM)

    assert reasons(plan) == {"2": Reason.HOST_SLOTS}


def test_an_unreadable_lease_counts_against_the_agent_that_its_claim_names():
    corrupt = UnreadableLease(fault=LeaseFault.CORRUPT, message="garbage")

    plan = decide(a_snapshot(an_entry(corrupt), a_claim("1"), a_task("2")), PLATFORM)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


def test_a_lost_attempt_whose_processes_live_keeps_its_slot():
    seen = ProcessEvidence(wrapper=WrapperLife.DEAD, survivors=1)

    plan = decide(a_snapshot(a_claim("1"), a_task("2"), evidence={"lease-1": seen}), PLATFORM)

    assert reasons(plan) == {"2": Reason.AGENT_LIMIT}


@pytest.mark.parametrize("is_lock_held", [True, False])
def test_a_task_waits_until_its_previous_attempt_is_gone_from_the_disk(*, is_lock_held: bool):
    # The source took it back, but the lease is still there.
    entry = an_entry(a_lease("1", agent="tester"), is_lock_held=is_lock_held)

    plan = decide(a_snapshot(entry, a_task("1")), PLATFORM)

    assert reasons(plan) == {"1": Reason.UNPLACED}


def test_a_lock_that_nothing_holds_keeps_no_task_waiting():
    free = an_entry(None, task_id="1", is_lock_held=False)

    assert starts(decide(a_snapshot(free, a_task("1")), PLATFORM)) == [("1", "coder")]


def test_an_agent_with_limit_0_starts_nothing_and_says_so():
    plan = decide(a_snapshot(a_task("1"), agents=[an_agent(limit=0)]), PLATFORM)

    assert plan.decisions == (
        Wait(task=a_task("1"), reason=Reason.AGENT_LIMIT, words="agent coder runs 0 of 0"),
    )


def test_without_host_slots_nothing_starts():
    plan = decide(a_snapshot(a_task("1"), slots=0), PLATFORM)

    assert plan.decisions == (
        Wait(task=a_task("1"), reason=Reason.HOST_SLOTS, words="this machine runs 0 of 0"),
    )


def test_a_task_of_a_queue_starts_by_the_agent_that_can_start_it_though_another_is_freer():
    agents = (an_agent("large", limit=9, memory_bytes=99 * GIB), an_agent("small", limit=2))
    tasks = [a_task(str(number), queue="dev", created_order=number) for number in range(3)]

    plan = decide(a_snapshot(*tasks, agents=agents), PLATFORM)

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
        a_snapshot(holder, first, second, agents=agents, gpus=[a_gpu(0)], skips={"1": 2}), PLATFORM
    )

    assert starts(plan) == [("2", "tester")]


def test_the_agents_own_limit_is_named_before_the_machines():
    plan = decide(a_snapshot(a_task("1"), agents=[an_agent(limit=0)], slots=0), PLATFORM)

    assert reasons(plan) == {"1": Reason.AGENT_LIMIT}


def test_the_machine_is_named_where_one_of_several_agents_has_room():
    agents = (an_agent("full", limit=0), an_agent("roomy", limit=1))

    plan = decide(a_snapshot(a_task("1", queue="dev"), agents=agents, slots=0), PLATFORM)

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

    plan = decide(a_snapshot(ours, theirs), PLATFORM)

    assert plan.decisions == (
        Dispatch(task=ours, agent="coder", needs=PLAIN),
        Wait(
            task=theirs,
            reason=Reason.AGENT_LIMIT,
            words="the slot of agent coder goes to a task before it",
        ),
    )


def test_a_source_that_is_down_stops_no_other():
    plan = decide(a_snapshot(a_task("1"), down=["tinytask"]), PLATFORM)

    assert starts(plan) == [("1", "coder")]


def test_what_has_ended_is_given_back_while_starting_is_switched_off():
    snapshot = a_snapshot(
        an_entry(a_lease("1"), is_lock_held=False),
        a_claim("1"),
        a_result("1"),
        a_task("2"),
        is_enabled=False,
    )

    plan = decide(snapshot, PLATFORM)

    assert reasons(plan) == {"2": Reason.PAUSED}
    assert plan.verdicts == judge_all(snapshot)
    assert not plan.is_quiet
