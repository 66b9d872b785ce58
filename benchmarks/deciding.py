"""What does it cost to decide, against putting the same tasks in order?"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from benchmarks.measure import Ratio, compare
from tinyscheduler.core.decide import decide
from tinyscheduler.model.clock import Instant
from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.leases import (
    NO_RUN,
    Lease,
    LeaseEntry,
    LeaseState,
    Needs,
    ProcessEvidence,
    ProcessIdentity,
    WrapperLife,
)
from tinyscheduler.model.resources import Gpu, GpuReading, HostState
from tinyscheduler.model.snapshot import LeaseScan, Rules, Snapshot, SourceView
from tinyscheduler.model.tasks import WaitingTask
from tinyscheduler.policy.platform import PlatformPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

WAITING, GPUS, LEASES = 10_000, 64, 1000
GIB = 2**30
NOW = Instant(wall=datetime(2026, 3, 1, tzinfo=UTC), monotonic_ns=10**15, boot_id="boot")


def deciding() -> Iterator[Ratio]:
    """Ten thousand that wait, in any order, for shares of 64 GPUs that a thousand use."""
    snapshot = a_large_snapshot(random.Random(1))  # noqa: S311 - a benchmark
    (view,) = snapshot.sources
    policy = PlatformPolicy()
    yield compare(
        "decide, 10,000 waiting",
        lambda: decide(snapshot, policy),
        lambda: sorted(view.waiting, key=place),
        against="sorting them by a key function",
        rounds=15,
        bar=10,
    )


def place(task: WaitingTask) -> tuple[int, int, int, str]:
    """Return what the tasks are put in order by."""
    return (-task.blocks, -task.priority, task.created_order, task.task_id)


def a_large_snapshot(draw: random.Random) -> Snapshot:
    """Return a machine in full use, with room here and there."""
    tasks = [a_task(number, draw) for number in range(WAITING)]
    draw.shuffle(tasks)
    entries = tuple(an_attempt(number) for number in range(LEASES))
    gpus = tuple(Gpu(index=n, uuid=f"GPU-{n}", name="", total_bytes=24 * GIB) for n in range(GPUS))
    alive = ProcessEvidence(wrapper=WrapperLife.ALIVE)
    return Snapshot(
        now=NOW,
        host=HostState(
            hostname="box",
            boot_id="boot",
            pid_ns=1,
            memory_total_bytes=2**40,
            memory_available_bytes=2**39,
            load=1.0,
            cores=64.0,
        ),
        scan=LeaseScan(entries=entries, results=()),
        evidence={f"lease-{number}": alive for number in range(LEASES)},
        gpus=GpuReading(gpus=gpus),
        sources=(SourceView(name="local", waiting=tuple(tasks), waiting_total=WAITING),),
        agents=(AgentProfile(name="coder", queue="dev", limit=1200),),
        rules=Rules(
            host_slots=1100,
            kill_grace_s=5.0,
            max_attempts=3,
            max_launches=5,
            retry_base_s=5.0,
            retry_max_s=300.0,
            retry_later_s=30.0,
            memory_per_slot_bytes=0,
            memory_warning=0.8,
            memory_critical=0.9,
        ),
    )


def a_task(number: int, draw: random.Random) -> WaitingTask:
    """Return one that wants a share, nothing, or now and then whole GPUs."""
    gpus = draw.choice((1, 2, 4)) if number % 10 == 0 else 0
    return WaitingTask(
        task_id=str(number),
        source="local",
        created_order=number,
        attempt=1,
        agent="coder",
        priority=draw.randrange(5),
        gpus=gpus,
        vram_bytes=None if gpus else draw.choice((0, 2, 6, 10, 20)) * GIB,
        memory_bytes=draw.choice((None, 0, GIB)),
        created_at=NOW.wall - timedelta(seconds=draw.randrange(3600)),
    )


def an_attempt(number: int) -> LeaseEntry:
    """Return one that lives and has a share of a GPU."""
    identity = ProcessIdentity(boot_id="boot", pid=number + 2, start_ticks=1, pgid=1, pid_ns=1)
    lease = Lease(
        task_id=f"a{number}",
        lease_id=f"lease-{number}",
        source="local",
        agent="coder",
        attempt=1,
        launches=0,
        state=LeaseState.RUNNING,
        host="box",
        boot_id="boot",
        started_at=NOW.wall,
        heartbeat=NOW.wall,
        monotonic_started_ns=NOW.monotonic_ns,
        monotonic_heartbeat_ns=NOW.monotonic_ns,
        heartbeat_s=15.0,
        max_runtime_s=3600.0,
        needs=Needs(memory_bytes=GIB // 4, vram_bytes=GIB),
        gpu_uuids=(f"GPU-{number % GPUS}",),
        run=NO_RUN,
        process=identity,
    )
    return LeaseEntry(
        task_id=lease.task_id, lease=lease, is_lock_held=True, beat_ns=NOW.monotonic_ns
    )
