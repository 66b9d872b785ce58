"""What shall this tick do?  The one place that thinks; pure, and the same for the same snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.queueing import candidates, hold_back
from tinyscheduler.core.switches import is_paused
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.model.policy import PolicyContext

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tinyscheduler.core.capacity import Capacity, Refusal
    from tinyscheduler.model.plan import Decision, Proposal
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    """Return what to settle, reclaim and start, and why each other task waits.

    Every waiting task of the snapshot gets exactly one decision.  The policy proposes;
    each proposal is checked against every cap here, so no policy can exceed one.
    Raises PolicyError for a proposal that no honest policy would make.
    """
    verdicts = judge_all(snapshot)
    capacity = measure(snapshot, verdicts)
    # Whatever still lies on disk under a task's name must be gone before it starts again.
    occupied = frozenset(
        entry.task_id
        for entry in snapshot.scan.entries
        if entry.lease is not None or entry.is_lock_held
    )
    decisions: list[Decision] = []
    eligible: list[WaitingTask] = []
    for task in sorted(_waiting(snapshot), key=_arrival):
        wait = hold_back(
            task,
            agents=capacity.agents,
            occupied=occupied,
            is_enabled=snapshot.is_enabled,
            switches=snapshot.switches,
            now=snapshot.now.wall,
            longest_backoff_s=max(snapshot.rules.retry_max_s, snapshot.rules.retry_later_s),
        )
        if wait is not None:
            decisions.append(wait)
        else:
            eligible.append(task)
    paused = {agent.name for agent in capacity.agents if is_paused(agent, snapshot.switches)}
    capacity = capacity.without(paused)
    decisions.extend(_place(eligible, policy=policy, capacity=capacity, snapshot=snapshot))
    return Plan(verdicts=verdicts, decisions=tuple(decisions))


def _place(
    eligible: list[WaitingTask], *, policy: Policy, capacity: Capacity, snapshot: Snapshot
) -> list[Decision]:
    """Ask the policy until nothing more fits, and say of each task left why it waits."""
    left = {(task.source, task.task_id): task for task in eligible}
    starts: list[Decision] = []
    while left and capacity.host_free > 0:
        context = PolicyContext(
            now=snapshot.now.wall,
            waiting=tuple(left.values()),
            agents=capacity.agents,
            host_slots_free=capacity.host_free,
        )
        admitted = 0
        for proposal in policy.propose(context):
            capacity_after = _admit(proposal, left=left, capacity=capacity)
            if capacity_after is None:
                continue
            capacity = capacity_after
            del left[proposal.task.source, proposal.task.task_id]
            starts.append(Dispatch(task=proposal.task, agent=proposal.agent))
            admitted += 1
        if not admitted:
            break
    refusals = {agent.name: capacity.refuse(agent) for agent in capacity.agents}
    return [*starts, *(_explain(task, capacity, refusals) for task in left.values())]


def _admit(
    proposal: Proposal, *, left: dict[tuple[str, str], WaitingTask], capacity: Capacity
) -> Capacity | None:
    """Return the capacity after this start, or None where a cap refuses it."""
    task = left.get((proposal.task.source, proposal.task.task_id))
    if task is None or task != proposal.task:
        message = f"the policy proposed task {proposal.task.task_id}, which cannot start now"
        raise PolicyError(message)
    agent = next(
        (view for view in candidates(task, capacity.agents) if view.name == proposal.agent), None
    )
    if agent is None:
        message = f"the policy proposed agent {proposal.agent} for task {task.task_id}"
        raise PolicyError(message)
    return None if capacity.refuse(agent) is not None else capacity.take(agent.name)


def _explain(task: WaitingTask, capacity: Capacity, refusals: Mapping[str, Refusal | None]) -> Wait:
    """Name the cap that binds: the machine's where any agent that could run it has room."""
    able = candidates(task, capacity.agents)
    refused = [one for agent in able if (one := refusals[agent.name]) is not None]
    if len(refused) < len(able):
        return Wait(task=task, reason=Reason.POLICY_WAIT, words="the policy did not choose it")
    binding = next(
        (refusal for refusal in refused if refusal.reason is Reason.HOST_SLOTS), refused[0]
    )
    return Wait(task=task, reason=binding.reason, words=binding.words)


def _waiting(snapshot: Snapshot) -> Iterable[WaitingTask]:
    for source in snapshot.sources:
        yield from source.waiting


def _arrival(task: WaitingTask) -> tuple[int, str, str]:
    return (task.created_order, task.source, task.task_id)
