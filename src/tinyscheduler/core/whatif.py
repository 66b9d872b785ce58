"""What is the smallest change that would start a waiting task now?

Each answer was tried: the change is made to the snapshot, and it is decided again.  So it
holds whatever else waits, and one step less would not do.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.decide import decide
from tinyscheduler.core.gpus import measure_shared
from tinyscheduler.core.machine_slots import machine_slots
from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.core.switches import is_paused
from tinyscheduler.model.config import LOCAL_HOST
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from tinyscheduler.core.capacity import Capacity, Held
    from tinyscheduler.core.refusal import Refusal
    from tinyscheduler.model.config import Quota
    from tinyscheduler.model.plan import Plan, Wait
    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.resources import Gpu
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy

MIB = 2**20
# Attempts whose ends are tried one by one; each try decides again.
_MOST_ENDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Less:
    """The task would start if it asked for no more than this.

    ``of`` is ``memory`` or ``vram`` (bytes, whole MiB), ``gpus``, or ``max_runtime`` (seconds).
    """

    of: str
    at_most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The task would start once the attempts at these tasks have ended; they have by then."""

    task_ids: tuple[str, ...]
    at_latest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The task would start if this limit were so high.

    ``limit`` names the kind (``agent``, ``per_host`` of an agent, ``machine``, ``host``,
    ``model``, ``queue``, ``tenant``, ``tenant_vram`` (bytes), ``lookahead``, ``skips``),
    ``name`` whose it is; of a model's slots ``host`` says where.  ``after_s`` is how long it
    takes until somebody looks at the model again; 0: it would start now.
    """

    limit: str
    name: str
    to: int
    host: str | None = None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The task would start if this agent were paused no more."""

    agent: str


Change = Less | Ended | Raised | Resumed


def find_changes(snapshot: Snapshot, policy: Policy, plan: Plan, wait: Wait) -> Iterator[Change]:
    """Yield the changes each of which would start this task now, the most likely ones first."""
    probe = _Probe(snapshot, policy, wait)
    capacity = after_starts(snapshot, plan)
    agents = candidates(wait.task, capacity.agents)
    lacked = (capacity.shortages(wait.task, agent) for agent in agents)
    short = {wait.reason, *(one.reason for refusals in lacked for one in refusals)}
    yield from _less(probe, capacity, short)
    yield from _ended(probe, capacity)
    yield from _raised(probe, capacity, short)
    yield from _resumed(probe)


def after_starts(snapshot: Snapshot, plan: Plan) -> Capacity:
    """Return what is left for agents in service once everything starts that the plan starts."""
    capacity = measure(snapshot, plan.verdicts)
    capacity = capacity.without(
        {agent.name for agent in capacity.agents if is_paused(agent, snapshot.switches)}
    )
    for one in plan.decisions:
        if isinstance(one, Dispatch):
            capacity = capacity.take(one, runtime_s=snapshot.rules.max_runtime_s)
    return capacity


def shortages_of(task: WaitingTask, capacity: Capacity) -> list[Refusal]:
    """Return all that keeps the task from the agent that lacks least, by name."""
    agents = sorted(candidates(task, capacity.agents), key=lambda one: one.name)
    each = [list(capacity.shortages(task, agent)) for agent in agents]
    return min(each, key=len, default=[])


class _Probe:
    """Decides again about one task in changed snapshots."""

    def __init__(self, snapshot: Snapshot, policy: Policy, wait: Wait) -> None:
        self.snapshot = snapshot
        self.task = wait.task
        self.reason = wait.reason
        self._policy = policy

    def starts(self, snapshot: Snapshot) -> bool:
        """Whether the task starts in this snapshot."""
        own = key_of(self.task)
        return any(
            isinstance(one, Dispatch) and key_of(one.task) == own
            for one in decide(snapshot, self._policy).decisions
        )

    def starts_as(self, change: Callable[[WaitingTask, int], WaitingTask], value: int) -> bool:
        """Whether the task starts if it says this instead."""
        own, changed = key_of(self.task), change(self.task, value)
        sources = tuple(
            replace(
                view,
                waiting=tuple(changed if key_of(one) == own else one for one in view.waiting),
            )
            for view in self.snapshot.sources
        )
        return self.starts(replace(self.snapshot, sources=sources))


def _largest(starts: Callable[[int], bool], *, least: int, most: int) -> int | None:
    """Return the largest number from ``least`` to ``most`` that starts it; None if none does."""
    if least > most or not starts(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        if starts(middle):
            least = middle
        else:
            most = middle - 1
    return least


# -- less of something -----------------------------------------------------------------


def _less(probe: _Probe, capacity: Capacity, short: set[Reason]) -> Iterator[Less]:
    task = probe.task
    agents = candidates(task, capacity.agents)
    is_of_both = Reason.VRAM_INSUFFICIENT in short and capacity.gpus.is_unified
    if Reason.MEMORY_INSUFFICIENT in short or is_of_both:
        most = max(capacity.needs_of(task, agent).memory_bytes for agent in agents) // MIB
        yield from _found("memory", MIB, probe, _with_memory, least=0, most=most)
    # A quota may be of VRAM, and whole GPUs of that size may be too few.
    of_gpus = {Reason.VRAM_INSUFFICIENT, Reason.GPU_UNAVAILABLE, Reason.TENANT_QUOTA}
    if (task.vram_bytes or not task.gpus) and short & of_gpus:
        most = max((one.total_bytes for one in capacity.gpus.gpus), default=0) // MIB
        yield from _found("vram", MIB, probe, _with_vram, least=1, most=most)
    if task.gpus > 1 and short & of_gpus:
        yield from _found("gpus", 1, probe, _with_gpus, least=1, most=task.gpus - 1)
    if probe.reason is Reason.OVERTAKEN_LIMIT:
        usual_s = probe.snapshot.rules.max_runtime_s
        longest_s = max(task.max_runtime_s or one.max_runtime_s or usual_s for one in agents)
        yield from _found("max_runtime", 1, probe, _with_runtime, least=1, most=int(longest_s))


def _found(
    of: str,
    unit: int,
    probe: _Probe,
    change: Callable[[WaitingTask, int], WaitingTask],
    *,
    least: int,
    most: int,
) -> Iterator[Less]:
    best = _largest(partial(probe.starts_as, change), least=least, most=most)
    if best is not None:
        yield Less(of=of, at_most=best * unit)


def _with_memory(task: WaitingTask, mib: int) -> WaitingTask:
    return replace(task, memory_bytes=mib * MIB)


def _with_vram(task: WaitingTask, mib: int) -> WaitingTask:
    return replace(task, vram_bytes=mib * MIB)


def _with_gpus(task: WaitingTask, number: int) -> WaitingTask:
    return replace(task, gpus=number)


def _with_runtime(task: WaitingTask, seconds: int) -> WaitingTask:
    return replace(task, max_runtime_s=float(seconds))


# -- the end of others -----------------------------------------------------------------


def _ended(probe: _Probe, capacity: Capacity) -> Iterator[Ended]:
    """Yield the one attempt whose end alone would start it, or several that end first.

    Those are tried first that leave it room, by what is counted.
    """
    leased = _leased(probe.snapshot)
    ending = sorted(
        (held for held in capacity.held if held.task_id in leased),
        key=lambda one: (one.ends_in_s, one.task_id),
    )
    able = [held for held in ending if _leaves_room(held, probe.task, capacity)]
    likely = [*able, *(held for held in ending if held not in able)]
    for held in likely[:_MOST_ENDS]:
        if probe.starts(without(probe.snapshot, [leased[held.task_id]])):
            yield _by_then(probe.snapshot, [held])
            return
    number = _smallest_prefix(probe, ending, leased)
    if number is None:
        return
    needed = ending[:number]
    for held in ending[:number]:
        fewer = [one for one in needed if one is not held]
        if probe.starts(without(probe.snapshot, [leased[one.task_id] for one in fewer])):
            needed = fewer
    yield _by_then(probe.snapshot, needed)


def _leaves_room(held: Held, task: WaitingTask, capacity: Capacity) -> bool:
    """Whether the task would fit if this attempt had ended; the end lets models be looked at."""
    left = capacity.give_back([held])
    left = replace(left, models=replace(left.models, looked_at_in_s={}))
    return any(isinstance(left.place(task, one), Dispatch) for one in candidates(task, left.agents))


def _smallest_prefix(probe: _Probe, ending: Sequence[Held], leased: dict[str, Lease]) -> int | None:
    """Return how many have to end, in the order of their ends; None where that is too many."""
    for number in range(2, min(len(ending), _MOST_ENDS) + 1):
        if probe.starts(without(probe.snapshot, [leased[one.task_id] for one in ending[:number]])):
            return number
    return None


def _by_then(snapshot: Snapshot, ending: Sequence[Held]) -> Ended:
    # Whoever is asked to end then may take a while, and so may what it leaves behind.
    last_s = max(one.ends_in_s for one in ending) + 2 * snapshot.rules.kill_grace_s
    return Ended(
        task_ids=tuple(one.task_id for one in ending),
        at_latest=snapshot.now.wall + timedelta(seconds=last_s),
    )


def _leased(snapshot: Snapshot) -> dict[str, Lease]:
    return {
        entry.task_id: entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease)
    }


def without(snapshot: Snapshot, leases: Iterable[Lease]) -> Snapshot:
    """Return the snapshot as it would be if these attempts had ended, and nothing else."""
    ended = {lease.lease_id: lease for lease in leases}
    scan = snapshot.scan
    entries = tuple(
        entry
        for entry in scan.entries
        if not (isinstance(entry.lease, Lease) and entry.lease.lease_id in ended)
    )
    # The end of an attempt makes the next tick look at its model again.
    hosts = {lease.model_host for lease in ended.values()}
    looked_at = {place.model for place in snapshot.inventory.models if place.host in hosts}
    memory = _looked_at(snapshot, looked_at).memory
    shared = measure_shared(snapshot, list(_leased(snapshot).values()))
    freed = sum(snapshot.memory_used.get(lease_id, 0) for lease_id in ended)
    freed += sum(one.used_bytes for lease_id, one in shared.items() if lease_id in ended)
    host = snapshot.host
    available = min(host.memory_total_bytes, host.memory_available_bytes + freed)
    reading = snapshot.gpus
    if reading is not None:
        gpus = tuple(_vacated(gpu, ended, snapshot) for gpu in reading.gpus)
        reading = replace(reading, gpus=gpus)
    return replace(
        snapshot,
        host=replace(host, memory_available_bytes=available),
        scan=replace(
            scan,
            entries=entries,
            results=tuple(one for one in scan.results if one.lease_id not in ended),
        ),
        gpus=reading,
        memory=memory,
        sources=tuple(
            replace(view, claims=tuple(one for one in view.claims if one.lease_id not in ended))
            for view in snapshot.sources
        ),
    )


def _vacated(gpu: Gpu, ended: dict[str, Lease], snapshot: Snapshot) -> Gpu:
    """Return a GPU without what these attempts use there.

    What no process of theirs can be told to use, they use as much of as they reserved.
    """
    left = []
    freed = 0
    seen = set()
    for process in gpu.processes or ():
        owner = snapshot.gpu_owners.get(process.pid)
        if owner in ended:
            seen.add(owner)
            freed += process.used_bytes or 0
        else:
            left.append(process)
    freed += sum(
        (gpu.total_bytes or 0) if lease.needs.gpus else lease.needs.vram_bytes
        for lease_id, lease in ended.items()
        if lease_id not in seen and gpu.uuid in lease.gpu_uuids
    )
    processes = None if gpu.processes is None else tuple(left)
    return replace(gpu, used_bytes=max(0, gpu.used_bytes - freed), processes=processes)


# -- higher limits ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knob:
    """A limit as it is now, and what the snapshot would be with another."""

    reasons: tuple[Reason, ...]
    limit: str
    name: str
    now: int
    turn: Callable[[Snapshot, str, int], Snapshot]
    host: str | None = None
    # How long nobody looks for it; beyond that nothing keeps the task but the limit.
    after_s: float = 0.0
    # How much one step is, and how many are tried at most; None: as many as wait.
    step: int = 1
    most: int | None = None


def _raised(probe: _Probe, capacity: Capacity, short: set[Reason]) -> Iterator[Raised]:
    """Yield each limit that would start it by itself, as low as it may be."""
    # Each of those before it in line may take one first.
    more = 1 + sum(len(view.waiting) for view in probe.snapshot.sources)
    for knob in _knobs(probe.snapshot, probe.task, capacity):
        if not short.intersection(knob.reasons):
            continue

        def refuses(above: int, knob: _Knob = knob) -> bool:
            to = knob.now + above * knob.step
            return not probe.starts(knob.turn(probe.snapshot, knob.name, to))

        most = more if knob.most is None else knob.most
        last = None if refuses(most) else _largest(refuses, least=0, most=most - 1)
        # If time alone does it, no limit has to be raised.
        if last is not None:
            yield Raised(
                limit=knob.limit,
                name=knob.name,
                to=knob.now + (last + 1) * knob.step,
                host=knob.host,
                after_s=knob.after_s,
            )


def _knobs(snapshot: Snapshot, task: WaitingTask, capacity: Capacity) -> Iterator[_Knob]:
    """Yield every limit that the task is under."""
    agents = candidates(task, capacity.agents)
    models = {capacity.model_of(task, view) for view in agents}
    for view in agents:
        yield from _knobs_of_agent(view)
    yield _Knob(
        reasons=(Reason.HOST_SLOTS,),
        limit="machine",
        name="this machine",
        now=snapshot.rules.host_slots,
        turn=_machine_slots,
    )
    yield from _knobs_of_line(snapshot)
    yield from _knobs_of_hosts(snapshot, models, capacity)
    yield from _knobs_of_quotas(snapshot, task, {view.queue for view in agents}, capacity)


def _knobs_of_agent(view: AgentView) -> Iterator[_Knob]:
    reasons = (Reason.AGENT_LIMIT,)
    yield _Knob(reasons=reasons, limit="agent", name=view.name, now=view.limit, turn=_agent_limit)
    if view.max_per_host is not None:
        now = view.max_per_host
        yield _Knob(reasons=reasons, limit="per_host", name=view.name, now=now, turn=_per_host)


def _knobs_of_line(snapshot: Snapshot) -> Iterator[_Knob]:
    reasons, rules = (Reason.OVERTAKEN_LIMIT,), snapshot.rules
    yield _Knob(
        reasons=reasons,
        limit="lookahead",
        name="QUEUE_LOOKAHEAD",
        now=rules.lookahead,
        turn=_lookahead,
    )
    yield _Knob(
        reasons=reasons,
        limit="skips",
        name="MAX_SKIPS_PER_TASK",
        now=rules.max_skips,
        turn=_max_skips,
    )


def _knobs_of_hosts(
    snapshot: Snapshot, models: Collection[str | None], capacity: Capacity
) -> Iterator[_Knob]:
    """Yield the slots of these models, and of all models on the hosts that serve them."""
    reasons = (Reason.NO_SLOTS, Reason.MODEL_SLOTS)
    places = [place for place in snapshot.inventory.models if place.model in models]
    left_s = capacity.models.looked_at_in_s
    for place in places:
        yield _Knob(
            reasons=reasons,
            limit="model",
            name=place.model,
            now=place.max_slots,
            turn=partial(_model_slots, host=place.host),
            host=place.host,
            after_s=left_s.get(place.model, 0.0),
        )
    for host in snapshot.inventory.hosts:
        is_here = host.name == LOCAL_HOST
        served = {place.model for place in places if place.host == host.name}
        if host.max_slots is not None and (is_here or served):
            yield _Knob(
                reasons=(Reason.HOST_SLOTS,) if is_here else reasons,
                limit="host",
                name=host.name,
                now=host.max_slots,
                turn=_local_slots if is_here else partial(_host_slots, models=served),
                after_s=0.0 if is_here else max(left_s.get(one, 0.0) for one in served),
            )


def _knobs_of_quotas(
    snapshot: Snapshot, task: WaitingTask, queues: Collection[str], capacity: Capacity
) -> Iterator[_Knob]:
    inventory = snapshot.inventory
    for quota in inventory.queues:
        if quota.name in queues and quota.slots is not None:
            yield _Knob(
                reasons=(Reason.QUEUE_LIMIT,),
                limit="queue",
                name=quota.name,
                now=quota.slots,
                turn=_queue_slots,
            )
    for quota in inventory.tenants:
        if quota.name != task.tenant:
            continue
        reasons = (Reason.TENANT_QUOTA,)
        if quota.slots is not None:
            now = quota.slots
            yield _Knob(
                reasons=reasons, limit="tenant", name=quota.name, now=now, turn=_tenant_slots
            )
        if quota.vram_bytes is not None:
            yield _Knob(
                reasons=reasons,
                limit="tenant_vram",
                name=quota.name,
                now=quota.vram_bytes // MIB * MIB,
                turn=_tenant_vram,
                step=MIB,
                # Nobody can have more than all.
                most=sum(gpu.total_bytes for gpu in capacity.gpus.gpus) // MIB + 1,
            )


def _agent_limit(snapshot: Snapshot, name: str, limit: int) -> Snapshot:
    agents = tuple(
        replace(agent, limit=limit) if agent.name == name else agent for agent in snapshot.agents
    )
    return _recounted(replace(snapshot, agents=agents))


def _per_host(snapshot: Snapshot, name: str, limit: int) -> Snapshot:
    agents = tuple(
        replace(agent, max_per_host=limit) if agent.name == name else agent
        for agent in snapshot.agents
    )
    return replace(snapshot, agents=agents)


def _machine_slots(snapshot: Snapshot, _name: str, slots: int) -> Snapshot:
    hosts = snapshot.inventory.hosts
    slots = machine_slots(snapshot.agents, hosts, setting=slots)
    return replace(snapshot, rules=replace(snapshot.rules, host_slots=slots))


def _local_slots(snapshot: Snapshot, name: str, slots: int) -> Snapshot:
    return _recounted(_with_host(snapshot, name, slots))


def _host_slots(snapshot: Snapshot, name: str, slots: int, *, models: Collection[str]) -> Snapshot:
    return _looked_at(_with_host(snapshot, name, slots), models)


def _with_host(snapshot: Snapshot, name: str, slots: int) -> Snapshot:
    inventory = snapshot.inventory
    hosts = tuple(
        replace(host, max_slots=slots) if host.name == name else host for host in inventory.hosts
    )
    return replace(snapshot, inventory=replace(inventory, hosts=hosts))


def _looked_at(snapshot: Snapshot, models: Collection[str]) -> Snapshot:
    """Return it as it is once somebody looks at these models again."""
    memory = snapshot.memory
    left = tuple(one for one in memory.deferrals if one.model not in models)
    return replace(snapshot, memory=replace(memory, deferrals=left))


def _recounted(snapshot: Snapshot) -> Snapshot:
    """Return it with the machine's slots that follow; a setting stays as it is."""
    if not snapshot.rules.has_automatic_slots:
        return snapshot
    slots = machine_slots(snapshot.agents, snapshot.inventory.hosts, setting=None)
    return replace(snapshot, rules=replace(snapshot.rules, host_slots=slots))


def _lookahead(snapshot: Snapshot, _name: str, number: int) -> Snapshot:
    return replace(snapshot, rules=replace(snapshot.rules, lookahead=number))


def _max_skips(snapshot: Snapshot, _name: str, number: int) -> Snapshot:
    return replace(snapshot, rules=replace(snapshot.rules, max_skips=number))


def _model_slots(snapshot: Snapshot, name: str, slots: int, *, host: str) -> Snapshot:
    inventory = snapshot.inventory
    models = tuple(
        replace(one, max_slots=slots) if (one.model, one.host) == (name, host) else one
        for one in inventory.models
    )
    return _looked_at(replace(snapshot, inventory=replace(inventory, models=models)), {name})


def _queue_slots(snapshot: Snapshot, name: str, slots: int) -> Snapshot:
    inventory = snapshot.inventory
    queues = _with_slots(inventory.queues, name, slots)
    return replace(snapshot, inventory=replace(inventory, queues=queues))


def _tenant_slots(snapshot: Snapshot, name: str, slots: int) -> Snapshot:
    inventory = snapshot.inventory
    tenants = _with_slots(inventory.tenants, name, slots)
    return replace(snapshot, inventory=replace(inventory, tenants=tenants))


def _tenant_vram(snapshot: Snapshot, name: str, vram_bytes: int) -> Snapshot:
    inventory = snapshot.inventory
    tenants = tuple(
        replace(one, vram_bytes=vram_bytes) if one.name == name else one
        for one in inventory.tenants
    )
    return replace(snapshot, inventory=replace(inventory, tenants=tenants))


def _with_slots(quotas: Iterable[Quota], name: str, slots: int) -> tuple[Quota, ...]:
    return tuple(replace(one, slots=slots) if one.name == name else one for one in quotas)


# -- an agent in service again ---------------------------------------------------------


def _resumed(probe: _Probe) -> Iterator[Resumed]:
    """Yield each agent that could run the task and is paused, if it would start it."""
    snapshot = probe.snapshot
    for view in candidates(probe.task, measure(snapshot, ()).agents):
        if is_paused(view, snapshot.switches):
            switches = tuple(one for one in snapshot.switches or () if not is_paused(view, (one,)))
            if probe.starts(replace(snapshot, switches=switches)):
                yield Resumed(agent=view.name)
