"""What shall this tick do?  The one place that thinks; pure, and the same for the same snapshot."""

from __future__ import annotations

from datetime import timedelta

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.memory import pressure_of
from tinyscheduler.core.queueing import candidates, hold_back, key_of, make_way, put_in_line
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.core.switches import is_paused
from tinyscheduler.core.turns import Refusals, Turns
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import LOCAL_HOST
from tinyscheduler.model.plan import Plan, Reason, Wait
from tinyscheduler.model.policy import PolicyContext
from tinyscheduler.model.snapshot import Deferral
from tinyscheduler.values import copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from tinyscheduler.core.capacity import Capacity
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.plan import Decision, Dispatch, Proposal
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
    paused = frozenset(one.name for one in capacity.agents if is_paused(one, snapshot.switches))
    cooling = _cooling_agents(snapshot)
    held_back: list[Wait] = []
    eligible: list[WaitingTask] = []
    longest_backoff_s = max(snapshot.rules.retry_max_s, snapshot.rules.retry_later_s)
    able: dict[tuple[str | None, str | None], tuple[AgentView, ...]] = {}
    for task in _waiting(snapshot):
        line = (task.agent, task.queue)
        if line not in able:
            able[line] = candidates(task, capacity.agents)
        wait = hold_back(
            task,
            able=able[line],
            occupied=occupied,
            is_enabled=snapshot.is_enabled,
            switches=snapshot.switches,
            now=snapshot.now.wall,
            longest_backoff_s=longest_backoff_s,
        )
        if cooling and (wait is None or wait.reason is Reason.BACKING_OFF):
            # Which of the two ends later; of equals, that which others wait for as well.
            cool = _find_cooling(task, snapshot, able=able[line], cooling=cooling, paused=paused)
            wait = max(filter(None, (cool, wait)), key=_seconds_left, default=None)
        wait = wait or make_way(
            task,
            pressed_by=snapshot.pressed_by,
            delay_s=snapshot.rules.schedule_pressure_delay_s,
            now=snapshot.now.wall,
        )
        if wait is not None:
            held_back.append(wait)
        else:
            eligible.append(task)
    decisions: list[Decision] = [*sorted(held_back, key=_arrival)]
    capacity = capacity.without(paused | cooling.keys())
    decisions.extend(_place(eligible, policy=policy, capacity=capacity, snapshot=snapshot))
    return Plan(
        verdicts=verdicts,
        decisions=tuple(decisions),
        slots_in_use=capacity.host_active,
        deferrals=_defer(decisions, snapshot),
    )


def _cooling_agents(snapshot: Snapshot) -> Mapping[str, Cooling]:
    if not snapshot.coolings:
        return {}
    from tinyscheduler.core.cooling import cooling_agents  # few are refused, and ticks are short

    return cooling_agents(snapshot.agents, snapshot.coolings, snapshot.now.wall)


def _find_cooling(
    task: WaitingTask,
    snapshot: Snapshot,
    *,
    able: Sequence[AgentView],
    cooling: Mapping[str, Cooling],
    paused: Collection[str],
) -> Wait | None:
    from tinyscheduler.core.cooling import find_cooling

    now = snapshot.now.wall
    return find_cooling(task, able=able, cooling=cooling, paused=paused, now=now)


def _place(
    eligible: list[WaitingTask], *, policy: Policy, capacity: Capacity, snapshot: Snapshot
) -> list[Decision]:
    """Ask the policy until nothing more fits, and say of each task left why it waits."""
    ordered, far_from_turn = put_in_line(eligible, snapshot, agents=capacity.agents)
    pressure = pressure_of(
        capacity.memory.used_share,
        warning=snapshot.rules.memory_warning,
        critical=snapshot.rules.memory_critical,
    )
    turns = Turns(
        ordered,
        rules=snapshot.rules,
        skips=snapshot.memory.skips,
        tenants=capacity.quotas.tenants,
    )
    starts: list[Dispatch] = []
    while True:
        refusals = Refusals(capacity)
        able = turns.able(refusals)
        if not able:
            break
        context = PolicyContext(
            now=snapshot.now.wall,
            waiting=able,
            agents=capacity.agents,
            host_slots_free=capacity.host_free,
            memory_free_bytes=capacity.memory.free_bytes,
            gpus=capacity.gpu_views(),
            choices=turns.choices(able),
            turns=far_from_turn,
            skips=turns.skips,
            is_priority_enabled=snapshot.rules.is_priority_enabled,
            memory_pressure=pressure.value,
            tenants=capacity.quotas.tenant_views(),
            models=capacity.models.views(),
        )
        may_start = {key_of(task) for task in able}
        admitted, is_stale = 0, False
        proposals = policy.propose(context)
        for proposal in proposals:
            dispatch = _admit(proposal, turns=turns, refusals=refusals, may_start=may_start)
            if dispatch is None:
                if is_stale:
                    # What started since has changed whose turn it is.
                    may_start = {key_of(task) for task in turns.able(refusals)}
                    is_stale = False
                continue
            runtime_s = turns.runtime_s(dispatch, capacity)
            capacity = capacity.take(dispatch, runtime_s=runtime_s)
            refusals = Refusals(capacity)
            starts.append(turns.start(dispatch, refusals))
            is_stale = not starts[-1].overtakes
            if not is_stale:
                may_start = {key_of(task) for task in turns.able(refusals)}
            admitted += 1
        if not admitted:
            if proposals:
                message = f"nothing of what it asked for can be had: {_first(proposals)}"
                raise PolicyError(message)
            break
    return [*starts, *_waits(turns, refusals)]


def _first(proposals: Sequence[Proposal]) -> str:
    one = proposals[0]
    more = f", and {len(proposals) - 1} more" if len(proposals) > 1 else ""
    return f"task {one.task.task_id} by agent {one.agent}{more}"


def _admit(
    proposal: Proposal, *, turns: Turns, refusals: Refusals, may_start: set[tuple[str, str]]
) -> Dispatch | None:
    """Return the start, or None where a cap or another's turn refuses it."""
    capacity = refusals.capacity
    task = turns.find(proposal.task)
    if task is None or task != proposal.task:
        message = f"it proposed task {proposal.task.task_id}, which cannot start now"
        raise PolicyError(message)
    agent = next(
        (view for view in candidates(task, capacity.agents) if view.name == proposal.agent), None
    )
    if agent is None:
        message = f"it proposed agent {proposal.agent} for task {task.task_id}"
        raise PolicyError(message)
    found = capacity.narrowed(pool=proposal.pool, gpu=proposal.gpu).place(task, agent)
    if isinstance(found, Refusal) or key_of(task) not in may_start:
        return None
    if proposal.pool is not None and proposal.pool != (found.model_host or LOCAL_HOST):
        return None
    return found if turns.refuse(found, refusals) is None else None


def _waits(turns: Turns, refusals: Refusals) -> Iterator[Wait]:
    """Yield why each task left waits: thousands of them, and few reasons."""
    alike: dict[int, tuple[Refusal | None, Callable[[WaitingTask], Wait]]] = {}
    for task, refusal in turns.explain(refusals):
        known = alike.get(id(refusal))
        if known is None:
            # What is kept here keeps its number.
            known = alike[id(refusal)] = (refusal, copier(_wait(task, refusal), "task"))
        yield known[1](task)


def _wait(task: WaitingTask, refusal: Refusal | None) -> Wait:
    """Name the cap that binds, or whose turn it is."""
    if refusal is None:
        return Wait(task=task, reason=Reason.POLICY_WAIT, words="the policy did not choose it")
    return Wait(
        task=task,
        reason=refusal.reason,
        words=refusal.words,
        retry_after_s=refusal.retry_after_s,
        is_lasting=refusal.is_lasting,
        model=refusal.model,
    )


def _defer(decisions: Iterable[Decision], snapshot: Snapshot) -> tuple[Deferral, ...]:
    """Return of which models nobody looks for a slot again, and until when."""
    now = snapshot.now.wall
    until = {
        one.model: now + timedelta(seconds=one.retry_after_s)
        for one in decisions
        if isinstance(one, Wait) and one.model is not None and one.retry_after_s is not None
    }
    # What nobody waits for just now is not looked at all the same.
    for one in snapshot.memory.deferrals:
        left_s = (one.until - now).total_seconds()
        if 0 < left_s <= snapshot.rules.retry_later_s:
            until[one.model] = one.until
    return tuple(Deferral(model=model, until=time) for model, time in sorted(until.items()))


def _waiting(snapshot: Snapshot) -> Iterable[WaitingTask]:
    for source in snapshot.sources:
        yield from source.waiting


def _seconds_left(wait: Wait) -> float:
    return wait.retry_after_s or 0.0


def _arrival(wait: Wait) -> tuple[int, str, str]:
    task = wait.task
    return (task.created_order, task.source, task.task_id)
