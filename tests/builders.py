"""Values of the model, of which a test states only what matters to it.

What is not stated describes a healthy world: source ``local``, agent ``coder``, a lease
named after its task, whose wrapper lives and has just beaten.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.model.clock import Instant
from tinyscheduler.model.config import AgentProfile, Inventory
from tinyscheduler.model.leases import (
    NO_RUN,
    Lease,
    LeaseEntry,
    LeaseState,
    Needs,
    ProcessEvidence,
    ProcessIdentity,
    UnreadableLease,
    WrapperLife,
)
from tinyscheduler.model.records import TaskRecord
from tinyscheduler.model.resources import Gpu, GpuProcess, GpuReading, HostState
from tinyscheduler.model.snapshot import (
    Deferral,
    LeaseScan,
    Rules,
    SchedulingMemory,
    Skips,
    Snapshot,
    SourceView,
    StaleSighting,
    UnreadableResult,
)
from tinyscheduler.model.tasks import AttemptResult, Claim, Outcome, TaskState, WaitingTask
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BOOT = "this-boot"
NOW = Instant(
    wall=datetime(2026, 3, 1, 12, 0, tzinfo=UTC), monotonic_ns=1_000_000_000_000_000, boot_id=BOOT
)
RULES = Rules(
    host_slots=4,
    kill_grace_s=5,
    max_attempts=3,
    max_launches=5,
    retry_base_s=5,
    retry_max_s=300,
    retry_later_s=60,
    memory_per_slot_bytes=1 << 30,
    memory_warning=0.8,
    memory_critical=0.9,
)
HOST = HostState(
    hostname="here",
    boot_id=BOOT,
    pid_ns=1,
    memory_total_bytes=16 << 30,
    memory_available_bytes=8 << 30,
    load=0.5,
    cores=4,
)

Thing = WaitingTask | Claim | LeaseEntry | AttemptResult | UnreadableResult


def an_agent(
    name: str = "coder", /, *, limit: int = 1, queue: str = "dev", **more: Any
) -> AgentProfile:
    return AgentProfile(name=name, queue=queue, limit=limit, **more)


def a_task(task_id: str = "1", /, **more: Any) -> WaitingTask:
    """Return a task for agent ``coder`` unless an agent or a queue is named; order 0."""
    if not {"agent", "queue"} & more.keys():
        more["agent"] = "coder"
    return replace(WaitingTask(task_id=task_id, source="local", created_order=0, attempt=1), **more)


def a_lease(task_id: str = "1", /, **more: Any) -> Lease:
    """Return the lease of an attempt that began to run at ``NOW``."""
    lease = Lease(
        task_id=task_id,
        lease_id=f"lease-{task_id}",
        source="local",
        agent="coder",
        attempt=1,
        launches=0,
        state=LeaseState.RUNNING,
        host="here",
        boot_id=BOOT,
        started_at=NOW.wall,
        heartbeat=NOW.wall,
        monotonic_started_ns=NOW.monotonic_ns,
        monotonic_heartbeat_ns=NOW.monotonic_ns,
        heartbeat_s=15,
        max_runtime_s=3600,
        needs=Needs(),
        run=replace(NO_RUN, kill_grace_s=5),
        process=ProcessIdentity(boot_id=BOOT, pid=4711, start_ticks=1, pgid=4712, pid_ns=1),
    )
    return replace(lease, **more)


def a_gpu(index: int = 0, /, *, total: int = 24, used: int = 0, **processes: int) -> Gpu:
    """Return a GPU with so many GiB; processes by pid, as ``p4711=5``, whose use is counted."""
    users = tuple(
        GpuProcess(pid=int(name[1:]), used_bytes=gib << 30) for name, gib in processes.items()
    )
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        name="RTX",
        total_bytes=total << 30,
        used_bytes=(used + sum(processes.values())) << 30,
        processes=users,
    )


def an_entry(
    lease: Lease | UnreadableLease | None = None,
    *,
    task_id: str = "1",
    is_lock_held: bool = True,
    beat_age_s: float = 0,
) -> LeaseEntry:
    """Return lease and lock as found on disk; a readable lease brings its own task id."""
    return LeaseEntry(
        task_id=lease.task_id if isinstance(lease, Lease) else task_id,
        lease=lease,
        is_lock_held=is_lock_held,
        beat_ns=NOW.monotonic_ns - int(beat_age_s * 1e9),
    )


def a_claim(task_id: str = "1", /, **more: Any) -> Claim:
    claim = Claim(
        task_id=task_id,
        source="local",
        lease_id=f"lease-{task_id}",
        agent="coder",
        attempt=1,
        failures=0,
        launches=0,
        max_attempts=None,
        cancel_requested=False,
    )
    return replace(claim, **more)


def a_result(
    task_id: str = "1", /, outcome: Outcome = Outcome.SUCCEEDED, **more: Any
) -> AttemptResult:
    result = AttemptResult(
        lease_id=f"lease-{task_id}",
        task_id=task_id,
        source="local",
        agent="coder",
        attempt=1,
        outcome=outcome,
        failure_reason=None,
        exit_code=0,
        signal=None,
        message="",
        started_at=NOW.wall,
        ended_at=NOW.wall,
        duration_s=1,
        turns=None,
        peak_rss_mb=None,
        log="/logs/1.log",
    )
    return replace(result, **more)


NOTHING_BESIDE = Inventory()


def a_snapshot(
    *things: Thing,
    agents: Iterable[AgentProfile] = (an_agent(),),
    slots: int = RULES.host_slots,
    down: Iterable[str] = (),
    evidence: Mapping[str, ProcessEvidence] | None = None,
    stale: Iterable[StaleSighting] = (),
    now: Instant = NOW,
    is_enabled: bool = True,
    memory_available_bytes: int = HOST.memory_available_bytes,
    memory_used: Mapping[str, int] | None = None,
    gpus: Iterable[Gpu] | GpuReading | None = None,
    gpu_owners: Mapping[int, str | None] | None = None,
    skips: Mapping[str, int] | None = None,
    inventory: Inventory = NOTHING_BESIDE,
    deferred_s: Mapping[str, float] | None = None,
    pressed_by: tuple[str, ...] = (),
    **rules: Any,
) -> Snapshot:
    """Return what a tick sees; each thing goes where it belongs.

    A wrapper lives if its lock is held and nothing else is said in ``evidence``.  Sources
    that are ``down`` tell nothing of their tasks.
    """
    entries = tuple(thing for thing in things if isinstance(thing, LeaseEntry))
    return Snapshot(
        now=now,
        host=replace(HOST, memory_available_bytes=memory_available_bytes),
        scan=LeaseScan(
            entries=entries,
            results=tuple(thing for thing in things if isinstance(thing, AttemptResult)),
            unreadable_results=tuple(
                thing for thing in things if isinstance(thing, UnreadableResult)
            ),
        ),
        evidence={**_looks(entries), **(evidence or {})},
        memory_used=memory_used or {},
        gpus=gpus if gpus is None or isinstance(gpus, GpuReading) else GpuReading(gpus=tuple(gpus)),
        gpu_owners=gpu_owners or {},
        sources=tuple(_sources(things, frozenset(down))),
        agents=tuple(agents),
        inventory=inventory,
        memory=SchedulingMemory(
            stale=tuple(stale),
            skips=tuple(
                Skips(source="local", task_id=task_id, times=times)
                for task_id, times in (skips or {}).items()
            ),
            deferrals=tuple(
                Deferral(model=model, until=now.wall + timedelta(seconds=left_s))
                for model, left_s in (deferred_s or {}).items()
            ),
        ),
        rules=replace(RULES, host_slots=slots, **rules),
        is_enabled=is_enabled,
        pressed_by=pressed_by,
    )


def _looks(entries: Iterable[LeaseEntry]) -> dict[str, ProcessEvidence]:
    return {
        entry.lease.lease_id: ProcessEvidence(
            wrapper=WrapperLife.ALIVE if entry.is_lock_held else WrapperLife.DEAD
        )
        for entry in entries
        if isinstance(entry.lease, Lease)
    }


def _sources(things: Iterable[Thing], down: frozenset[str]) -> Iterable[SourceView]:
    told = [thing for thing in things if isinstance(thing, WaitingTask | Claim)]
    for name in sorted({"local", *down, *(thing.source for thing in told)}):
        if name in down:
            yield SourceView(name=name, error="no answer")
            continue
        waiting = tuple(one for one in told if isinstance(one, WaitingTask) and one.source == name)
        yield SourceView(
            name=name,
            waiting=waiting,
            waiting_total=len(waiting),
            claims=tuple(one for one in told if isinstance(one, Claim) and one.source == name),
        )


def a_record(task_id: str = "1", **changes: Any) -> TaskRecord:
    """Return a task as its source keeps it: it waits, for agent coder."""
    record = TaskRecord(
        task_id=task_id,
        source="local",
        state=TaskState.WAITING,
        summary="work",
        agent="coder",
        queue=None,
        priority=0,
        lease_id=None,
        claimed_by=None,
        attempt=1,
        failures=0,
        launches=0,
        max_attempts=None,
        failure_reason=None,
        cancel_requested=False,
        blocks=0,
        blockers_left=0,
        blocked_by=(),
        not_before=None,
        backing_off_until=None,
        created_at=NOW.wall,
        updated_at=NOW.wall,
        ended_at=None,
    )
    return replace(record, **changes)
