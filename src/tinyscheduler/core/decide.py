"""What shall this tick do?  The one place that thinks; pure, and the same for the same snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.queueing import candidates, hold_back
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.core.switches import is_paused
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.model.policy import PolicyContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinyscheduler.core.capacity import Capacity
    from tinyscheduler.model.leases import Needs
    from tinyscheduler.model.plan import Decision, Proposal
    from tinyscheduler.model.policy import AgentView
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
    return Plan(verdicts=verdicts, decisions=tuple(decisions), slots_in_use=capacity.host_active)


def _place(
    eligible: list[WaitingTask], *, policy: Policy, capacity: Capacity, snapshot: Snapshot
) -> list[Decision]:
    """Ask the policy until nothing more fits, and say of each task left why it waits."""
    left = {(task.source, task.task_id): task for task in eligible}
    starts: list[Decision] = []
    while True:
        refusals = _Refusals(capacity)
        able = tuple(task for task in left.values() if refusals.allows(task))
        if not able:
            break
        context = PolicyContext(
            now=snapshot.now.wall,
            waiting=able,
            agents=capacity.agents,
            host_slots_free=capacity.host_free,
            memory_free_bytes=capacity.memory.free_bytes,
            gpus=capacity.gpus.gpus,
        )
        admitted = 0
        for proposal in policy.propose(context):
            dispatch = _admit(proposal, left=left, capacity=capacity)
            if dispatch is None:
                continue
            capacity = capacity.take(dispatch)
            del left[proposal.task.source, proposal.task.task_id]
            starts.append(dispatch)
            admitted += 1
        if not admitted:
            break
    return [*starts, *(_explain(task, refusals) for task in left.values())]


class _Refusals:
    """Which caps refuse which tasks.  Asked once for each agent and need: many tasks are alike."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._known: dict[tuple[str, Needs], Refusal | None] = {}

    def of(self, task: WaitingTask) -> list[Refusal | None]:
        """Return for each agent that could run the task what keeps it from a start."""
        return [self._of(task, agent) for agent in candidates(task, self._capacity.agents)]

    def allows(self, task: WaitingTask) -> bool:
        """Whether some agent could start the task now."""
        return any(refusal is None for refusal in self.of(task))

    def _of(self, task: WaitingTask, agent: AgentView) -> Refusal | None:
        needs = self._capacity.needs_of(task, agent)
        key = agent.name, needs
        if key not in self._known:
            found = self._capacity.place(agent, needs)
            self._known[key] = found if isinstance(found, Refusal) else None
        return self._known[key]


def _admit(
    proposal: Proposal, *, left: dict[tuple[str, str], WaitingTask], capacity: Capacity
) -> Dispatch | None:
    """Return the start, or None where a cap refuses it."""
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
    needs = capacity.needs_of(task, agent)
    found = capacity.place(agent, needs)
    if isinstance(found, Refusal):
        return None
    return Dispatch(task=task, agent=agent.name, needs=needs, gpu_uuids=found)


def _explain(task: WaitingTask, refusals: _Refusals) -> Wait:
    """Name the cap that binds: the machine's where any agent that could run it has room."""
    found = refusals.of(task)
    refused = [refusal for refusal in found if refusal is not None]
    if len(refused) < len(found):
        return Wait(task=task, reason=Reason.POLICY_WAIT, words="the policy did not choose it")
    binding = next(
        (refusal for refusal in refused if refusal.reason is not Reason.AGENT_LIMIT), refused[0]
    )
    return Wait(task=task, reason=binding.reason, words=binding.words)


def _waiting(snapshot: Snapshot) -> Iterable[WaitingTask]:
    for source in snapshot.sources:
        yield from source.waiting


def _arrival(task: WaitingTask) -> tuple[int, str, str]:
    return (task.created_order, task.source, task.task_id)
