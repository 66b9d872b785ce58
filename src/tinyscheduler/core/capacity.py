"""What is free, per agent and on this machine, and which cap binds?

Slots are counted afresh from leases and held locks in every tick and are stored
nowhere, so they cannot leak.
"""

from __future__ import annotations

from collections import Counter

from tinyscheduler.core.firing_room import FiringRoom
from tinyscheduler.core.gpus import GpuRoom, SharedUse, measure_gpus, measure_shared
from tinyscheduler.core.leases import holds_slot
from tinyscheduler.core.memory import MemoryRoom, describe_stall, need_per_slot
from tinyscheduler.core.models import ModelRoom, measure_models, seat_of
from tinyscheduler.core.quotas import QuotaRoom, Use, measure_quotas
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.config import LOCAL_HOST, ModelMatch
from tinyscheduler.model.leases import Lease, Needs
from tinyscheduler.model.plan import Dispatch, EndTree, Keep, Reason, Reclaim, Suspect
from tinyscheduler.model.policy import AgentView, GpuView
from tinyscheduler.model.resources import format_size
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from tinyscheduler.core.leases import SlotHolder
    from tinyscheduler.model.config import AgentProfile, ModelPlace
    from tinyscheduler.model.plan import Verdict
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A task that occupies a slot, and the agent at work; empty where nothing tells it.

    Of an attempt that ``is_over`` this tick gives back or ends what is left.
    """

    task_id: str
    agent: str
    lease: Lease | None = None
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What an attempt gives back at its end, ``ends_in_s`` seconds from now at the latest."""

    task_id: str
    agent: str
    ends_in_s: float
    unused_bytes: int
    used_bytes: int
    queue: str
    tenant: str | None
    use: Use
    model: str | None
    model_host: str | None
    schedule_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What is in use, and the limits.  ``take`` returns what one more start leaves.

    ``planned`` names the agent of each start that was decided meanwhile: it counts as
    active and does not run yet.  ``per_slot_bytes`` is the memory that a start needs of
    which nobody said it.  ``held`` is what each attempt occupies, and for how long at most.
    """

    agents: tuple[AgentView, ...]
    host_limit: int
    host_active: int
    memory: MemoryRoom
    per_slot_bytes: int
    gpus: GpuRoom = GpuRoom()
    models: ModelRoom = ModelRoom()
    quotas: QuotaRoom = QuotaRoom()
    firings: FiringRoom = FiringRoom()
    planned: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()

    @property
    def host_free(self) -> int:
        """Slots of this machine that nothing occupies."""
        return max(0, self.host_limit - self.host_active)

    def agent(self, name: str) -> AgentView | None:
        """Return the slots of that agent, or None if it is not configured."""
        return next((view for view in self.agents if view.name == name), None)

    def model_of(self, task: WaitingTask, agent: AgentView) -> str | None:
        """Return the model whose slots count for an attempt: the task's own word, or the agent's.

        None where nobody counts any.
        """
        model = task.model or agent.model
        return model if self.models.knows(model) else None

    def needs_of(
        self, task: WaitingTask, agent: AgentView, place: ModelPlace | None = None
    ) -> Needs:
        """Return what an attempt at the task would occupy, with its model there.

        The task's own word counts, then the agent's, then the model's.
        """
        said = (task.memory_bytes, agent.memory_bytes, self.per_slot_bytes)
        needed = place.needed_vram_bytes if place is not None else 0
        vram_said = (task.vram_bytes, agent.vram_bytes, needed)
        return Needs(
            memory_bytes=next(one for one in said if one is not None),
            gpus=task.gpus,
            vram_bytes=next(one for one in vram_said if one is not None),
        )

    def place(self, task: WaitingTask, agent: AgentView) -> Dispatch | Refusal:
        """Return the start of this task by this agent, or the cap that refuses it.

        The agent's own limit is named first: raising it is what its owner would try.
        """
        refusal = next(self._shortages_anywhere(task, agent), None)
        if refusal is not None:
            return refusal
        model = self.model_of(task, agent)
        refusals = []
        for place in self._places(task, agent):
            needs = self.needs_of(task, agent, place)
            uuids = self._place_on_gpus(needs)
            if not isinstance(uuids, Refusal):
                refusal = next(self._over_quota(task, agent, needs, uuids), None)
                if refusal is None:
                    return Dispatch(
                        task=task,
                        agent=agent.name,
                        needs=self.gpus.share_memory(uuids, needs),
                        gpu_uuids=uuids,
                        model=model,
                        model_host=place.host if place is not None else None,
                        gpu_share=self.gpus.share(uuids, needs),
                    )
            else:
                refusal = uuids
            refusals.append(refusal)
        return refusals[0] if refusals else self._refuse_places(agent, model)

    def narrowed(self, *, pool: str | None, gpu: str | None) -> Capacity:
        """Return the same with nothing but this GPU, and models on this host alone."""
        found = self
        if gpu is not None:
            only = tuple(one for one in self.gpus.gpus if one.uuid == gpu)
            found = replace(found, gpus=replace(self.gpus, gpus=only))
        if pool is not None:
            found = replace(found, models=replace(self.models, only_host=pool))
        return found

    def shortages(self, task: WaitingTask, agent: AgentView) -> Iterator[Refusal]:
        """Yield every cap that keeps this agent from a start of this task."""
        yield from self._shortages_anywhere(task, agent)
        model = self.model_of(task, agent)
        places = self._places(task, agent)
        if not places:
            yield self._refuse_places(agent, model)
            places = tuple(one for one in self.models.places if one.model == model)
        refused: list[Refusal] = []
        for place in places:
            needs = self.needs_of(task, agent, place)
            placed = self._place_on_gpus(needs)
            found = [placed] if isinstance(placed, Refusal) else []
            uuids = () if isinstance(placed, Refusal) else placed
            found += self._over_quota(task, agent, needs, uuids)
            if not found:
                return
            refused = refused or found
        yield from refused

    def gpu_views(self, needs: Needs | None = None) -> tuple[GpuView, ...]:
        """Return what is free on each GPU, beside what a start needs of a memory it shares."""
        besides = needs.memory_bytes if needs is not None else 0
        return self.gpus.views(self.memory.free_bytes - besides)

    def _place_on_gpus(self, needs: Needs) -> tuple[str, ...] | Refusal:
        free_bytes = self.memory.free_bytes - needs.memory_bytes
        return self.gpus.place(needs, shared_free_bytes=free_bytes)

    def _places(self, task: WaitingTask, agent: AgentView) -> tuple[ModelPlace | None, ...]:
        """Return where the model may be used, the best first; None stands for without it."""
        model = self.model_of(task, agent)
        if model is None:
            return (None,)
        able = self.models.able(agent, model)
        if agent.model_match is ModelMatch.PREFERRED and self.models.has_room(agent, LOCAL_HOST):
            return (*able, None)
        return able

    def _refuse_places(self, agent: AgentView, model: str | None) -> Refusal:
        """Say why there is none."""
        assert model is not None  # noqa: S101 - without one there is a place
        if agent.model_match is ModelMatch.PREFERRED:
            # It would do without, but for its bound on this machine.
            return self.models.refuse_host(agent, [LOCAL_HOST])
        return self.models.refuse(agent, model)

    def _over_quota(
        self, task: WaitingTask, agent: AgentView, needs: Needs, uuids: Collection[str]
    ) -> Iterator[Refusal]:
        use = Use(slots=1, vram_bytes=self.gpus.reserved_bytes(uuids, needs))
        return self.quotas.refuse(agent.queue, task.tenant, use)

    def _shortages_anywhere(self, task: WaitingTask, agent: AgentView) -> Iterator[Refusal]:
        """Yield what keeps it from a start whichever GPU it goes on."""
        if agent.free <= 0:
            yield Refusal(
                reason=Reason.AGENT_LIMIT,
                words=_describe_use(
                    f"agent {agent.name}",
                    active=agent.active,
                    planned=self.planned.count(agent.name),
                    limit=agent.limit,
                ),
            )
        elif self.model_of(task, agent) is None and not self.models.has_room(agent, LOCAL_HOST):
            yield self.models.refuse_host(agent, [LOCAL_HOST])
        if self.host_free <= 0:
            yield Refusal(
                reason=Reason.HOST_SLOTS,
                words=_describe_use(
                    "this machine",
                    active=self.host_active,
                    planned=len(self.planned),
                    limit=self.host_limit,
                ),
            )
        memory = self._refuse_memory(self.needs_of(task, agent).memory_bytes)
        if memory is not None:
            yield memory
        firing = self.firings.refuse(task)
        if firing is not None:
            yield firing

    def _refuse_memory(self, needed: int) -> Refusal | None:
        memory = self.memory
        if memory.is_critical:
            return Refusal(
                reason=Reason.MEMORY_CRITICAL,
                words=f"{memory.used_share:.0%} of the memory is in use;"
                f" nothing starts from {memory.critical:.0%}",
                is_lasting=True,
            )
        if memory.is_stalled:
            return Refusal(
                reason=Reason.MEMORY_CRITICAL,
                words=f"{describe_stall(memory.stall)};"
                f" nothing starts from {memory.stall_critical:.0%} (MEMORY_STALL_CRITICAL)",
                is_lasting=True,
            )
        if needed > memory.free_bytes:
            return Refusal(
                reason=Reason.MEMORY_INSUFFICIENT,
                words=f"needs {format_size(needed)} of memory, {memory.describe()}",
                is_lasting=needed > memory.total_bytes,
            )
        return None

    def without(self, names: Collection[str]) -> Capacity:
        """Return the same with these agents out of service; what they run still counts."""
        return replace(
            self, agents=tuple(agent for agent in self.agents if agent.name not in names)
        )

    def looked_at(self) -> Capacity:
        """Return the same once somebody looks for slots of all models again."""
        return replace(self, models=replace(self.models, looked_at_in_s={}))

    def give_back(self, ended: Sequence[Held]) -> Capacity:
        """Return what there is once those attempts have ended."""
        active = Counter(one.agent for one in ended)
        return replace(
            self,
            agents=tuple(
                replace(view, active=view.active - active[view.name])
                if view.name in active
                else view
                for view in self.agents
            ),
            host_active=self.host_active - len(ended),
            memory=self.memory.give_back(
                unused_bytes=sum(one.unused_bytes for one in ended),
                used_bytes=sum(one.used_bytes for one in ended),
            ),
            gpus=self.gpus.give_back({one.task_id for one in ended}),
            models=self.models.give_back(
                seat_of(one.agent, one.model, one.model_host) for one in ended
            ),
            quotas=self.quotas.give_back((one.queue, one.tenant, one.use) for one in ended),
            firings=self.firings.give_back(one.schedule_id for one in ended),
        )

    def take(self, start: Dispatch, *, runtime_s: float) -> Capacity:
        """Return what is left after one more start, which ends after so long at the latest."""
        held = Held(
            task_id=start.task.task_id,
            agent=start.agent,
            ends_in_s=runtime_s,
            unused_bytes=start.needs.memory_bytes + start.needs.shared_bytes,
            used_bytes=0,
            queue=self._queue_of(start.agent),
            tenant=start.task.tenant,
            use=Use(slots=1, vram_bytes=self.gpus.reserved_bytes(start.gpu_uuids, start.needs)),
            model=start.model,
            model_host=start.model_host,
            schedule_id=start.task.schedule_id,
        )
        return replace(
            self,
            agents=tuple(
                replace(view, active=view.active + 1) if view.name == start.agent else view
                for view in self.agents
            ),
            host_active=self.host_active + 1,
            memory=self.memory.promise(held.unused_bytes),
            gpus=self.gpus.take(start.gpu_uuids, start.needs, start.task.task_id),
            models=self.models.take(start.agent, start.model, start.model_host),
            quotas=self.quotas.take(held.queue, held.tenant, held.use),
            firings=self.firings.take(held.schedule_id),
            planned=(*self.planned, start.agent),
            held=(*self.held, held),
        )

    def _queue_of(self, name: str) -> str:
        agent = self.agent(name)
        return agent.queue if agent is not None else ""


def _describe_use(what: str, *, active: int, planned: int, limit: int) -> str:
    """Say who has the slots: attempts that run, and tasks whose start has just been decided."""
    running = active - planned
    in_use = f"{what} runs {running} of {limit}"
    if not planned:
        return in_use
    if running:
        rest = "the last slot goes" if planned == 1 else f"the other {planned} slots go"
        words = f"{in_use}, and {rest}"
    else:
        slots = {1: "the slot of {} goes", 2: "both slots of {} go"}
        words = slots.get(planned, f"all {planned} slots of {{}} go").format(what)
    return f"{words} to {'a task' if planned == 1 else 'tasks'} before it"


def measure(snapshot: Snapshot, verdicts: Iterable[Verdict]) -> Capacity:
    """Count what is occupied.

    A reclaimed lease frees nothing yet: its processes may take a while to die, and a
    slot handed out too early runs two attempts instead of one.
    """
    holders = slot_holders(snapshot, verdicts)
    active = Counter(holder.agent for holder in holders)
    host, rules = snapshot.host, snapshot.rules
    leases = [holder.lease for holder in holders if holder.lease is not None]
    over = {holder.task_id for holder in holders if holder.is_over}
    gpus = measure_gpus(snapshot, leases)
    shared = measure_shared(snapshot, leases)
    queues = {agent.name: agent.queue for agent in snapshot.agents}
    held = tuple(
        _held(
            lease,
            snapshot,
            is_over=lease.task_id in over,
            queue=queues.get(lease.agent, ""),
            gpus=gpus,
            shared=shared.get(lease.lease_id, _NOTHING_SHARED),
        )
        for lease in leases
    )
    return Capacity(
        agents=tuple(
            _view_of(agent, active=active[agent.name])
            for agent in sorted(snapshot.agents, key=_name)
        ),
        host_limit=rules.host_slots,
        host_active=len(holders),
        memory=MemoryRoom(
            total_bytes=host.memory_total_bytes,
            available_bytes=host.memory_available_bytes,
            unused_bytes=sum(one.unused_bytes for one in held),
            critical=rules.memory_critical,
            stall=host.memory_stall,
            stall_critical=rules.memory_stall_critical,
        ),
        per_slot_bytes=need_per_slot(rules, host),
        gpus=gpus,
        models=measure_models(
            snapshot, (seat_of(one.agent, one.model, one.model_host) for one in leases)
        ),
        quotas=measure_quotas(
            snapshot.inventory, ((one.queue, one.tenant, one.use) for one in held)
        ),
        firings=FiringRoom(
            most=rules.schedule_max_concurrent,
            running=Counter(one.schedule_id for one in leases if one.schedule_id is not None),
        ),
        held=held,
    )


def _view_of(agent: AgentProfile, *, active: int) -> AgentView:
    return AgentView(
        name=agent.name,
        queue=agent.queue,
        limit=agent.limit,
        active=active,
        memory_bytes=agent.memory_bytes,
        vram_bytes=agent.vram_bytes,
        max_runtime_s=agent.max_runtime_s,
        model=agent.model,
        model_match=agent.model_match,
        max_per_host=agent.max_per_host,
        is_interactive=agent.priority_class == PriorityClass.INTERACTIVE,
    )


_NOTHING_SHARED = SharedUse(unused_bytes=0, used_bytes=0)


def _held(
    lease: Lease,
    snapshot: Snapshot,
    *,
    is_over: bool,
    queue: str,
    gpus: GpuRoom,
    shared: SharedUse,
) -> Held:
    used = snapshot.memory_used.get(lease.lease_id, 0)
    age_s = (snapshot.now.monotonic_ns - lease.monotonic_started_ns) / 1e9
    return Held(
        task_id=lease.task_id,
        agent=lease.agent,
        ends_in_s=0.0 if is_over else max(0.0, lease.max_runtime_s - age_s),
        unused_bytes=max(0, lease.needs.memory_bytes - used) + shared.unused_bytes,
        used_bytes=used + shared.used_bytes,
        queue=queue,
        tenant=lease.tenant,
        use=Use(slots=1, vram_bytes=gpus.reserved_bytes(lease.gpu_uuids, lease.needs)),
        model=lease.model,
        model_host=lease.model_host,
        schedule_id=lease.schedule_id,
    )


def slot_holders(snapshot: Snapshot, verdicts: Iterable[Verdict]) -> tuple[Holder, ...]:
    """Return what occupies a slot, in the order of the verdicts."""
    agent_of_claim = {
        claim.task_id: claim.agent for source in snapshot.sources for claim in source.claims
    }
    leases = {
        entry.lease.lease_id: entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease)
    }
    return tuple(
        Holder(
            task_id=_task_of(verdict),
            agent=_agent_of(verdict, agent_of_claim),
            lease=leases.get(verdict.trace.lease_id)
            if isinstance(verdict, EndTree)
            else _lease_of(verdict),
            is_over=isinstance(verdict, EndTree | Reclaim),
        )
        for verdict in verdicts
        if holds_slot(verdict)
    )


def _lease_of(verdict: Keep | Suspect | Reclaim) -> Lease | None:
    lease = verdict.entry.lease
    return lease if isinstance(lease, Lease) else None


def _name(agent: AgentProfile) -> str:
    return agent.name


def _task_of(verdict: SlotHolder) -> str:
    return verdict.trace.task_id if isinstance(verdict, EndTree) else verdict.entry.task_id


def _agent_of(verdict: SlotHolder, agent_of_claim: Mapping[str, str]) -> str:
    if isinstance(verdict, EndTree):
        return verdict.agent
    lease = verdict.entry.lease
    return (
        lease.agent if isinstance(lease, Lease) else agent_of_claim.get(verdict.entry.task_id, "")
    )
