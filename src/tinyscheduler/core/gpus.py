"""What is free on each GPU, and on which of them does a start go?"""

from __future__ import annotations

from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.policy import GpuView
from tinyscheduler.model.resources import GpuReading, format_size
from tinyscheduler.model.snapshot import GpuSighting
from tinyscheduler.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.leases import Needs
    from tinyscheduler.model.resources import Gpu, GpuProcess
    from tinyscheduler.model.snapshot import LeaseScan, Snapshot

# So long after its start an attempt may not use yet what it reserved, wherever its processes
# cannot be told from others.
WARM_UP_S = 60.0
# What a driver and a desktop may take of a GPU that still can be had whole.
_IDLE_SHARE = 0.1
# GPUs in use that are named to whom wants whole ones.
_MOST_NAMED = 8
# The number of the pid namespace that drivers count in (include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRoom:
    """All GPUs and what is free on each; ``fault`` says why none of them is known."""

    gpus: tuple[GpuView, ...] = ()
    fault: str | None = None
    is_absent: bool = False
    # By GPU and task: what is spoken for there, and is free once its attempt has ended.
    shares: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def place(
        self, needs: Needs, *, shared_free_bytes: int | None = None
    ) -> tuple[str, ...] | Refusal:
        """Return the GPUs that a start with these needs goes on; none where it needs none.

        A share goes where least is left, so that large rests stay whole; whole GPUs are the
        smallest that do.  Ties by index.  ``shared_free_bytes`` is the memory that the machine
        has left for GPUs without their own; None: enough.
        """
        if not needs.gpus and not needs.vram_bytes:
            return ()
        if self.fault is not None:
            reason = Reason.GPU_UNAVAILABLE if self.is_absent else Reason.GPU_UNKNOWN
            return Refusal(reason=reason, words=f"needs a GPU: {self.fault}", is_lasting=True)
        gpus = self.gpus if shared_free_bytes is None else self.views(shared_free_bytes)
        known = [gpu for gpu in gpus if gpu.fault is None]
        able = [gpu for gpu in known if gpu.total_bytes >= needs.vram_bytes]
        if len(able) < max(1, needs.gpus):
            return self._refuse_for_good(needs, known)
        return _place_whole(needs, able) if needs.gpus else _place_share(needs, able)

    @property
    def is_unified(self) -> bool:
        """Whether any GPU here has the memory of the machine for its own."""
        return any(gpu.is_unified for gpu in self.gpus)

    def views(self, shared_free_bytes: int) -> tuple[GpuView, ...]:
        """Return each GPU with no more free than the machine has, if it shares its memory."""
        if not self.is_unified:
            return self.gpus
        most = max(0, shared_free_bytes)
        return tuple(
            replace(gpu, free_bytes=min(gpu.free_bytes, most)) if gpu.is_unified else gpu
            for gpu in self.gpus
        )

    def share_memory(self, uuids: Collection[str], needs: Needs) -> Needs:
        """Return the needs with what of the VRAM there is memory of the machine.

        Of a whole GPU that is what was asked for: its whole memory would be the machine's.
        """
        shared = sum(needs.vram_bytes for gpu in self.gpus if gpu.is_unified and gpu.uuid in uuids)
        return replace(needs, shared_bytes=shared) if shared else needs

    def reserved_bytes(self, uuids: Collection[str], needs: Needs) -> int:
        """Return the VRAM that an attempt with these needs has there: of whole GPUs all of it."""
        if not needs.gpus:
            return needs.vram_bytes if uuids else 0
        return sum(gpu.total_bytes for gpu in self.gpus if gpu.uuid in uuids)

    def share(self, uuids: Collection[str], needs: Needs) -> float:
        """Return how much of GPUs that is: 1 for each whole one."""
        if needs.gpus:
            return float(len(uuids))
        return sum(needs.vram_bytes / gpu.total_bytes for gpu in self.gpus if gpu.uuid in uuids)

    def take(self, uuids: Collection[str], needs: Needs, task_id: str) -> GpuRoom:
        """Return what is left after a start on these GPUs."""
        if not uuids:
            return self
        reserved = {
            gpu.uuid: gpu.total_bytes if needs.gpus else needs.vram_bytes
            for gpu in self.gpus
            if gpu.uuid in uuids
        }
        return replace(
            self,
            gpus=tuple(
                _taken(gpu, reserved[gpu.uuid], task_id) if gpu.uuid in reserved else gpu
                for gpu in self.gpus
            ),
            shares={**self.shares, **{(uuid, task_id): size for uuid, size in reserved.items()}},
        )

    def give_back(self, task_ids: Collection[str]) -> GpuRoom:
        """Return what there is once the attempts of these tasks have ended."""
        held: dict[str, int] = {}
        for (uuid, name), size in self.shares.items():
            if name in task_ids:
                held[uuid] = held.get(uuid, 0) + size
        if not held:
            return self
        return replace(
            self,
            gpus=tuple(
                _given_back(gpu, held[gpu.uuid], task_ids) if gpu.uuid in held else gpu
                for gpu in self.gpus
            ),
            shares={key: size for key, size in self.shares.items() if key[1] not in task_ids},
        )

    def _refuse_for_good(self, needs: Needs, known: Sequence[GpuView]) -> Refusal:
        """Say what this machine does not have at all, as far as it can be seen."""
        faults = [gpu for gpu in self.gpus if gpu.fault is not None]
        if faults:
            words = "; ".join(f"GPU {gpu.index}: {gpu.fault}" for gpu in faults)
            words = f"needs {_describe(needs)}; {words}"
            return Refusal(reason=Reason.GPU_UNKNOWN, words=words, is_lasting=True)
        if len(known) < max(1, needs.gpus):
            # A policy may name one that is not there.
            words = f"needs {_describe(needs)}, there is none"
            if known:
                words = f"needs {needs.gpus} GPUs, this machine has {len(known)}"
            return Refusal(reason=Reason.GPU_UNAVAILABLE, words=words, is_lasting=True)
        largest = format_size(max(gpu.total_bytes for gpu in known))
        words = f"needs {_describe(needs)}, the largest GPU here has {largest}"
        return Refusal(reason=Reason.VRAM_INSUFFICIENT, words=words, is_lasting=True)


def _place_share(needs: Needs, able: Iterable[GpuView]) -> tuple[str, ...] | Refusal:
    room = [gpu for gpu in able if gpu.free_bytes >= needs.vram_bytes]
    if room:
        best = min(room, key=lambda gpu: (gpu.free_bytes, gpu.index, gpu.uuid))
        return (best.uuid,)
    freest = min(able, key=lambda gpu: (-gpu.free_bytes, gpu.index, gpu.uuid))
    words = (
        f"needs {_describe(needs)}, GPU {freest.index} has most free:"
        f" {format_size(freest.free_bytes)} of {format_size(freest.total_bytes)}"
    )
    return Refusal(reason=Reason.VRAM_INSUFFICIENT, words=words + _besides(freest, needs))


def _besides(gpu: GpuView, needs: Needs) -> str:
    """Add what else of a memory that is shared the task needs."""
    if not gpu.is_unified or not needs.memory_bytes:
        return ""
    return f", besides {format_size(needs.memory_bytes)} of the same memory for the task itself"


def _place_whole(needs: Needs, able: Sequence[GpuView]) -> tuple[str, ...] | Refusal:
    idle = sorted(
        (gpu for gpu in able if gpu.is_idle),
        key=lambda gpu: (gpu.total_bytes, gpu.index, gpu.uuid),
    )
    if len(idle) >= needs.gpus:
        chosen = sorted(idle[: needs.gpus], key=lambda gpu: (gpu.index, gpu.uuid))
        shared = [gpu for gpu in chosen if gpu.is_unified]
        # What is free there is free once: they all have the same memory.
        if shared and len(shared) * needs.vram_bytes > min(gpu.free_bytes for gpu in shared):
            words = f"needs {_describe(needs)}, GPU {shared[0].index} has"
            words += f" {format_size(shared[0].free_bytes)} free{_besides(shared[0], needs)}"
            return Refusal(reason=Reason.VRAM_INSUFFICIENT, words=words)
        return tuple(gpu.uuid for gpu in chosen)
    others = [gpu for gpu in able if not gpu.is_idle]
    busy = "; ".join(f"GPU {gpu.index} {describe_use(gpu)}" for gpu in others[:_MOST_NAMED])
    if len(others) > _MOST_NAMED:
        busy += f"; and {len(others) - _MOST_NAMED} more"
    free = f"{len(idle)} {'is' if len(idle) == 1 else 'are'} free"
    words = f"needs {_describe(needs)}, {free}: {busy}"
    return Refusal(reason=Reason.GPU_UNAVAILABLE, words=words)


def describe_use(gpu: GpuView) -> str:
    """Say who is on a GPU.

    >>> describe_use(GpuView(index=0, uuid="GPU-a", name="", used_by=("3", "4"), strangers=1))
    'is used by tasks 3, 4 and 1 process of others'
    """
    users = []
    if gpu.used_by or gpu.misplaced:
        names = [*gpu.used_by, *(f"{name} (put elsewhere)" for name in gpu.misplaced)]
        users.append(f"{'task' if len(names) == 1 else 'tasks'} {', '.join(names)}")
    if gpu.strangers:
        noun = "process" if gpu.strangers == 1 else "processes"
        users.append(f"{gpu.strangers} {noun} of others")
    if not users:
        return f"has only {format_size(gpu.free_bytes)} free of {format_size(gpu.total_bytes)}"
    return f"is used by {' and '.join(users)}"


def _describe(needs: Needs) -> str:
    vram = f"{format_size(needs.vram_bytes)} of VRAM"
    if not needs.gpus:
        return vram
    words = "a whole GPU" if needs.gpus == 1 else f"{needs.gpus} whole GPUs"
    return f"{words} of {format_size(needs.vram_bytes)}" if needs.vram_bytes else words


def _given_back(gpu: GpuView, size: int, task_ids: Collection[str]) -> GpuView:
    users = tuple(name for name in gpu.used_by if name not in task_ids)
    misplaced = tuple(name for name in gpu.misplaced if name not in task_ids)
    return replace(
        gpu,
        free_bytes=min(gpu.total_bytes, gpu.free_bytes + size),
        is_idle=not users and not misplaced and not gpu.strangers,
        used_by=users,
        misplaced=misplaced,
    )


def _taken(gpu: GpuView, reserved: int, task_id: str) -> GpuView:
    return replace(
        gpu,
        free_bytes=max(0, gpu.free_bytes - reserved),
        reserved_bytes=gpu.reserved_bytes + reserved,
        is_idle=False,
        used_by=(*gpu.used_by, task_id),
    )


def measure_gpus(snapshot: Snapshot, leases: Iterable[Lease]) -> GpuRoom:
    """Work out what is free, with these attempts still on their GPUs."""
    reading = snapshot.gpus
    if reading is None:
        return GpuRoom(fault="no look was taken at the GPUs")
    live: dict[str, Lease] = {}
    placed: dict[str, list[Lease]] = {}
    for lease in leases:
        live[lease.lease_id] = lease
        for uuid in lease.gpu_uuids:
            placed.setdefault(uuid, []).append(lease)
    shares: dict[tuple[str, str], int] = {}
    return GpuRoom(
        gpus=tuple(
            _view_of(gpu, placed.get(gpu.uuid, ()), live, snapshot, shares)
            for gpu in sorted(reading.gpus, key=lambda gpu: (gpu.index, gpu.uuid))
        ),
        fault=reading.fault,
        is_absent=reading.is_absent,
        shares=shares,
    )


def _view_of(
    gpu: Gpu,
    leases: Sequence[Lease],
    live: Mapping[str, Lease],
    snapshot: Snapshot,
    shares: dict[tuple[str, str], int],
) -> GpuView:
    """Work out one GPU, and note in ``shares`` what each attempt holds of it."""
    if gpu.fault is not None:
        return GpuView(index=gpu.index, uuid=gpu.uuid, name=gpu.name, fault=gpu.fault)
    host = snapshot.host
    total, used = gpu.total_bytes, gpu.used_bytes
    if total is None:
        # It shares the memory of the machine.
        total, used = host.memory_total_bytes, host.memory_total_bytes - host.memory_available_bytes
    use = _attribute(gpu, leases, live, snapshot)
    ordered = sorted(leases, key=lambda lease: (lease.task_id, lease.lease_id))
    shares.update({(gpu.uuid, task_id): size for task_id, size in use.misplaced.items()})
    # A misplaced attempt is gone from here once it has ended, but what it uses is used.
    known = use.strangers_bytes + sum(use.ours.values()) + sum(use.misplaced.values())
    spoken_for, seasoned = known - sum(use.ours.values()), 0
    for lease in ordered:
        reserved = total if lease.needs.gpus else lease.needs.vram_bytes
        held = max(reserved, use.ours.get(lease.lease_id, 0))
        shares[gpu.uuid, lease.task_id] = held
        if lease.lease_id in use.ours:
            spoken_for += held
        elif _age_s(lease, snapshot.now) < WARM_UP_S:
            spoken_for += reserved
        else:
            seasoned += reserved
    # What nobody can be told to use may be what those use that run for long.
    nobodys = max(0, used - known)
    # What the machine uses of a memory that is shared says nothing of who is on the GPU.
    is_quiet = gpu.total_bytes is None or nobodys <= _IDLE_SHARE * total
    spoken_for += max(nobodys, seasoned)
    return GpuView(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        total_bytes=total,
        free_bytes=max(0, total - spoken_for),
        reserved_bytes=sum(total if one.needs.gpus else one.needs.vram_bytes for one in ordered),
        is_idle=not (ordered or use.misplaced or use.strangers) and is_quiet,
        used_by=tuple(lease.task_id for lease in ordered),
        misplaced=tuple(sorted(use.misplaced)),
        strangers=use.strangers,
        is_unified=gpu.total_bytes is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedUse:
    """What an attempt has of the machine's memory by way of a GPU that shares it.  Bytes."""

    unused_bytes: int
    used_bytes: int


def measure_shared(snapshot: Snapshot, leases: Sequence[Lease]) -> Mapping[str, SharedUse]:
    """Return what attempts reserved and use of such GPUs, by lease id; of others nothing.

    It is not part of what their processes have resident.  Where the driver does not tell of
    an attempt, it has used nothing before its warm-up is over, and then what nobody else can
    be told to use, up to what it reserved.
    """
    reading = snapshot.gpus or GpuReading()
    unified = [gpu for gpu in reading.gpus if gpu.fault is None and gpu.total_bytes is None]
    if not unified and not any(lease.needs.shared_bytes for lease in leases):
        return {}
    told: dict[str | None, int] = {}
    for gpu in unified:
        for process in gpu.processes or ():
            if process.used_bytes is not None and process.pid in snapshot.gpu_owners:
                owner = snapshot.gpu_owners[process.pid]
                told[owner] = told.get(owner, 0) + process.used_bytes
    host = snapshot.host
    nobodys = host.memory_total_bytes - host.memory_available_bytes
    nobodys -= sum(snapshot.memory_used.values()) + sum(told.values())
    found: dict[str, SharedUse] = {}
    for lease in sorted(leases, key=lambda one: (one.task_id, one.lease_id)):
        # Of a lease from before this was written down the GPUs tell.
        uuids = [gpu.uuid for gpu in unified if gpu.uuid in lease.gpu_uuids]
        reserved = lease.needs.shared_bytes or lease.needs.vram_bytes * len(uuids)
        used = told.get(lease.lease_id, 0)
        if lease.lease_id not in told and _age_s(lease, snapshot.now) >= WARM_UP_S:
            used = min(reserved, max(0, nobodys))
            nobodys -= used
        unused = max(0, reserved - used)
        found[lease.lease_id] = SharedUse(unused_bytes=unused, used_bytes=used)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """Who uses what of one GPU, in bytes: attempts placed there, by lease id, and others.

    ``misplaced`` are live attempts that were put elsewhere, by task id.
    """

    ours: Mapping[str, int]
    misplaced: Mapping[str, int]
    strangers: int
    strangers_bytes: int


def _attribute(
    gpu: Gpu, leases: Sequence[Lease], live: Mapping[str, Lease], snapshot: Snapshot
) -> _Use:
    """Tell the processes of the attempts placed here from those of anybody else.

    In a container the driver's numbers mean nothing: a process that is not seen there may be
    one of ours.
    """
    placed = {lease.lease_id for lease in leases}
    may_be_ours = bool(leases) and snapshot.host.pid_ns != _FIRST_PID_NAMESPACE
    ours: dict[str, int] = {}
    misplaced: dict[str, int] = {}
    strangers, strangers_bytes = 0, 0
    for process in gpu.processes or ():
        owner = snapshot.gpu_owners.get(process.pid)
        if owner is not None and owner in placed:
            if process.used_bytes is not None:
                ours[owner] = ours.get(owner, 0) + process.used_bytes
        elif owner is not None and owner in live and _knows_pids(snapshot):
            task_id = live[owner].task_id
            misplaced[task_id] = misplaced.get(task_id, 0) + (process.used_bytes or 0)
        elif process.pid in snapshot.gpu_owners or not may_be_ours:
            strangers += 1
            strangers_bytes += process.used_bytes or 0
    return _Use(
        ours=ours, misplaced=misplaced, strangers=strangers, strangers_bytes=strangers_bytes
    )


def _knows_pids(snapshot: Snapshot) -> bool:
    """Whether the driver's numbers are surely ours: all of them can be seen, if in a container."""
    return snapshot.host.pid_ns == _FIRST_PID_NAMESPACE or all(
        process.pid in snapshot.gpu_owners
        for gpu in _all_gpus(snapshot.gpus or GpuReading())
        for process in gpu.processes or ()
    )


def _all_gpus(reading: GpuReading) -> tuple[Gpu, ...]:
    return (*reading.gpus, *reading.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUser:
    """A GPU on which processes of a live attempt were seen, put there or not.

    ``used_bytes`` is None where the driver does not tell; ``put_on`` names the GPUs that the
    attempt was given.
    """

    lease: Lease
    gpu: Gpu
    pids: tuple[int, ...]
    used_bytes: int | None
    put_on: tuple[str, ...]

    @property
    def is_misplaced(self) -> bool:
        """Whether the attempt was put elsewhere, or on no GPU at all."""
        return self.gpu.uuid not in self.lease.gpu_uuids

    @property
    def words(self) -> str:
        """Say who sits where, and where it was put."""
        what = f"{'pid' if len(self.pids) == 1 else 'pids'} {', '.join(map(str, self.pids))}"
        if self.used_bytes is not None:
            what = f"{format_size(self.used_bytes)}, {what}"
        end = f"and was put on {' and '.join(self.put_on)}" if self.put_on else "and asked for none"
        return f"task {self.lease.task_id} is on GPU {self.gpu.index} ({what}) {end}"


def find_gpu_users(snapshot: Snapshot) -> tuple[GpuUser, ...]:
    """Return where processes of live attempts sit, by GPU and task; also on hidden GPUs.

    Nothing where nobody can tell whose the driver's numbers are.
    """
    if snapshot.gpus is None or not _knows_pids(snapshot):
        return ()
    gpus = _all_gpus(snapshot.gpus)
    names = {gpu.uuid: f"GPU {gpu.index}" for gpu in gpus}
    live = {lease.lease_id: lease for lease in _leases(snapshot.scan)}
    users = []
    for gpu in gpus:
        found: dict[str, list[GpuProcess]] = {}
        for process in gpu.processes or ():
            owner = snapshot.gpu_owners.get(process.pid)
            if owner is not None and owner in live:
                found.setdefault(owner, []).append(process)
        for lease_id, processes in found.items():
            told = [one.used_bytes for one in processes if one.used_bytes is not None]
            users.append(
                GpuUser(
                    lease=live[lease_id],
                    gpu=gpu,
                    pids=tuple(sorted(one.pid for one in processes)),
                    used_bytes=sum(told) if told else None,
                    put_on=tuple(names.get(uuid, uuid) for uuid in live[lease_id].gpu_uuids),
                )
            )
    return tuple(sorted(users, key=lambda one: (one.gpu.index, one.gpu.uuid, one.lease.task_id)))


def is_look_due(scan: LeaseScan, sightings: Iterable[GpuSighting], now: Instant) -> bool:
    """Whether an attempt was not seen on any GPU yet, although it could be there by now."""
    known = {one.lease_id: one for one in sightings}
    return any(_is_look_due(lease, known.get(lease.lease_id), now) for lease in _leases(scan))


def _is_look_due(lease: Lease, known: GpuSighting | None, now: Instant) -> bool:
    """Whether to look for this attempt: after its warm-up, and whenever its age has doubled.

    So many commands load for long before they use a GPU, and some never do: neither makes
    every tick ask the driver.
    """
    if not lease.gpu_uuids or lease.boot_id != now.boot_id or (known and known.uuids):
        return False
    return _age_s(lease, now) >= max(WARM_UP_S, 2 * known.looked_s if known else 0)


def remember_sightings(
    snapshot: Snapshot, users: Iterable[GpuUser], sightings: Iterable[GpuSighting]
) -> tuple[GpuSighting, ...]:
    """Return what is known of live attempts after this look; of others nothing."""
    known = {one.lease_id: one for one in sightings}
    seen: dict[str, set[str]] = {}
    for user in users:
        seen.setdefault(user.lease.lease_id, set()).add(user.gpu.uuid)
    found = []
    for lease in _leases(snapshot.scan):
        before = known.get(lease.lease_id)
        now_on = seen.get(lease.lease_id, set())
        is_looked_for = snapshot.gpus is not None and _is_look_due(lease, before, snapshot.now)
        if before is None and not now_on and not is_looked_for:
            continue
        one = before or GpuSighting(lease_id=lease.lease_id)
        if is_looked_for:
            one = replace(one, looked_s=int(_age_s(lease, snapshot.now)))
        found.append(replace(one, uuids=tuple(sorted({*one.uuids, *now_on}))))
    return tuple(sorted(found, key=lambda one: one.lease_id))


def _age_s(lease: Lease, now: Instant) -> float:
    return (now.monotonic_ns - lease.monotonic_started_ns) / 1e9


def _leases(scan: LeaseScan) -> Iterable[Lease]:
    return (entry.lease for entry in scan.entries if isinstance(entry.lease, Lease))


def masked(reading: GpuReading, mask: str | None) -> GpuReading:
    """Return the GPUs that CUDA_VISIBLE_DEVICES shows; its value, None where it is not set.

    Indices and UUIDs, or beginnings of these, up to the first that names none, as programs
    read it (CUDA programming guide, "CUDA environment variables").
    """
    if mask is None or not reading.gpus:
        return reading
    chosen: list[Gpu] = []
    for word in (part.strip() for part in mask.split(",")):
        found = [
            gpu
            for gpu in reading.gpus
            if (str(gpu.index) == word if word.isdigit() else word and gpu.uuid.startswith(word))
        ]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    hidden = tuple(gpu for gpu in reading.gpus if gpu not in chosen)
    if not chosen:
        words = f"CUDA_VISIBLE_DEVICES={mask!r} shows none of {len(reading.gpus)} GPUs"
        return GpuReading(fault=words, is_absent=True, hidden=hidden)
    chosen.sort(key=lambda gpu: (gpu.index, gpu.uuid))
    return GpuReading(gpus=tuple(chosen), hidden=hidden)
