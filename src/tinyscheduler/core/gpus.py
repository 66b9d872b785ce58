"""What is free on each GPU, and on which of them does a start go?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.policy import GpuView
from tinyscheduler.model.resources import GpuReading, format_size
from tinyscheduler.values import dataclass, field, replace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tinyscheduler.model.leases import Lease, Needs
    from tinyscheduler.model.resources import Gpu
    from tinyscheduler.model.snapshot import Snapshot

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

    def place(self, needs: Needs) -> tuple[str, ...] | Refusal:
        """Return the GPUs that a start with these needs goes on; none where it needs none.

        A share goes where least is left, so that large rests stay whole; whole GPUs are the
        smallest that do.  Ties by index.
        """
        if not needs.gpus and not needs.vram_bytes:
            return ()
        if self.fault is not None:
            reason = Reason.GPU_UNAVAILABLE if self.is_absent else Reason.GPU_UNKNOWN
            return Refusal(reason=reason, words=f"needs a GPU: {self.fault}", is_lasting=True)
        known = [gpu for gpu in self.gpus if gpu.fault is None]
        able = [gpu for gpu in known if gpu.total_bytes >= needs.vram_bytes]
        if len(able) < max(1, needs.gpus):
            return self._refuse_for_good(needs, known)
        return _place_whole(needs, able) if needs.gpus else _place_share(needs, able)

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
        if len(known) < needs.gpus:
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
    return Refusal(reason=Reason.VRAM_INSUFFICIENT, words=words)


def _place_whole(needs: Needs, able: Sequence[GpuView]) -> tuple[str, ...] | Refusal:
    idle = sorted(
        (gpu for gpu in able if gpu.is_idle),
        key=lambda gpu: (gpu.total_bytes, gpu.index, gpu.uuid),
    )
    if len(idle) >= needs.gpus:
        chosen = sorted(idle[: needs.gpus], key=lambda gpu: (gpu.index, gpu.uuid))
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
    if gpu.used_by:
        noun = "task" if len(gpu.used_by) == 1 else "tasks"
        users.append(f"{noun} {', '.join(gpu.used_by)}")
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
    return replace(
        gpu,
        free_bytes=min(gpu.total_bytes, gpu.free_bytes + size),
        is_idle=not users and not gpu.strangers,
        used_by=users,
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
    placed: dict[str, list[Lease]] = {}
    for lease in leases:
        for uuid in lease.gpu_uuids:
            placed.setdefault(uuid, []).append(lease)
    shares: dict[tuple[str, str], int] = {}
    return GpuRoom(
        gpus=tuple(
            _view_of(gpu, placed.get(gpu.uuid, ()), snapshot, shares)
            for gpu in sorted(reading.gpus, key=lambda gpu: (gpu.index, gpu.uuid))
        ),
        fault=reading.fault,
        is_absent=reading.is_absent,
        shares=shares,
    )


def _view_of(
    gpu: Gpu, leases: Sequence[Lease], snapshot: Snapshot, shares: dict[tuple[str, str], int]
) -> GpuView:
    """Work out one GPU, and note in ``shares`` what each attempt holds of it."""
    if gpu.fault is not None:
        return GpuView(index=gpu.index, uuid=gpu.uuid, name=gpu.name, fault=gpu.fault)
    host = snapshot.host
    total, used = gpu.total_bytes, gpu.used_bytes
    if total is None:
        # It shares the memory of the machine.
        total, used = host.memory_total_bytes, host.memory_total_bytes - host.memory_available_bytes
    use = _attribute(gpu, leases, snapshot)
    ordered = sorted(leases, key=lambda lease: (lease.task_id, lease.lease_id))
    spoken_for, seasoned = use.strangers_bytes, 0
    for lease in ordered:
        reserved = total if lease.needs.gpus else lease.needs.vram_bytes
        held = max(reserved, use.ours.get(lease.lease_id, 0))
        shares[gpu.uuid, lease.task_id] = held
        if lease.lease_id in use.ours:
            spoken_for += held
        elif (snapshot.now.monotonic_ns - lease.monotonic_started_ns) < WARM_UP_S * 1e9:
            spoken_for += reserved
        else:
            seasoned += reserved
    # What nobody can be told to use may be what those use that run for long.
    nobodys = max(0, used - use.strangers_bytes - sum(use.ours.values()))
    spoken_for += max(nobodys, seasoned)
    return GpuView(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        total_bytes=total,
        free_bytes=max(0, total - spoken_for),
        reserved_bytes=sum(total if one.needs.gpus else one.needs.vram_bytes for one in ordered),
        is_idle=not ordered and not use.strangers and nobodys <= _IDLE_SHARE * total,
        used_by=tuple(lease.task_id for lease in ordered),
        strangers=use.strangers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """Who uses what of one GPU: attempts placed there, by lease id, and everybody else."""

    ours: Mapping[str, int]
    strangers: int
    strangers_bytes: int


def _attribute(gpu: Gpu, leases: Sequence[Lease], snapshot: Snapshot) -> _Use:
    """Tell the processes of the attempts placed here from those of anybody else.

    In a container the driver's numbers mean nothing: a process that is not seen there may be
    one of ours.
    """
    placed = {lease.lease_id for lease in leases}
    may_be_ours = bool(leases) and snapshot.host.pid_ns != _FIRST_PID_NAMESPACE
    ours: dict[str, int] = {}
    strangers, strangers_bytes = 0, 0
    for process in gpu.processes or ():
        owner = snapshot.gpu_owners.get(process.pid)
        if owner is not None and owner in placed:
            if process.used_bytes is not None:
                ours[owner] = ours.get(owner, 0) + process.used_bytes
        elif process.pid in snapshot.gpu_owners or not may_be_ours:
            strangers += 1
            strangers_bytes += process.used_bytes or 0
    return _Use(ours=ours, strangers=strangers, strangers_bytes=strangers_bytes)


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
    if not chosen:
        words = f"CUDA_VISIBLE_DEVICES={mask!r} shows none of {len(reading.gpus)} GPUs"
        return GpuReading(fault=words, is_absent=True)
    return GpuReading(gpus=tuple(sorted(chosen, key=lambda gpu: (gpu.index, gpu.uuid))))
