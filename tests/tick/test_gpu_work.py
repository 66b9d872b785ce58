"""A tick with GPU work: when it looks, how far down the line, and whom it remembers overtaken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.builders import a_gpu
from tests.tick.staging import a_world, reasons, run_until_running, started, the_lease, tick

from tinyscheduler.errors import StoreError
from tinyscheduler.model.resources import GpuReading
from tinyscheduler.model.snapshot import Skips
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.store import SimulatedTaskLock
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import SchedulingMemory
    from tinyscheduler.ports import LeaseStore, MemoryStore, TaskLock
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World

GIB = 2**30
ROOMY = 9


def a_gpu_world(*shares: int, gpus: GpuReading | None = None) -> SimulatedWorld:
    """Return a world whose tasks need such shares of one GPU, in GiB; -1 is the whole."""
    world = a_world(0, slots=ROOMY, script=Script(runs_s=1000))
    world.settings = replace(
        world.settings,
        agents=tuple(replace(agent, limit=ROOMY) for agent in world.settings.agents),
    )
    world.machine.gpus = gpus or GpuReading(gpus=(a_gpu(0),))
    for gib in shares:
        add(world, gib)
    return world


def add(world: SimulatedWorld, gib: int) -> str:
    spec = TaskSpec(agent="alpha", command=("work",), gpus=int(gib < 0), memory_bytes=0)
    return world.queue.add(replace(spec, vram_bytes=gib * GIB if gib > 0 else None))


def looks(world: SimulatedWorld) -> list[str]:
    """Return which points of looking at GPUs a tick comes to."""
    seen: list[str] = []
    world.machine.on_point = lambda _process, point: seen.append(point)
    tick(world)
    return [point for point in seen if point in ("gpus.read", "launch.owners")]


def test_where_nothing_needs_a_gpu_nobody_looks_at_one():
    assert looks(a_gpu_world(0, 0)) == []


def test_what_was_started_is_on_its_gpu_and_its_lease_says_so():
    world = a_gpu_world(14)

    run_until_running(world)

    lease = the_lease(world)
    assert lease.gpu_uuids == ("GPU-0",)
    assert lease.needs.vram_bytes == 14 * GIB


def test_whose_the_processes_are_is_asked_for_where_there_are_any():
    gpu = a_gpu(0, p4711=2)

    assert looks(a_gpu_world(1, gpus=GpuReading(gpus=(gpu,))))[:2] == ["gpus.read", "launch.owners"]


def test_after_a_look_that_failed_there_is_no_other_in_the_tick():
    world = a_gpu_world(1, 0, gpus=GpuReading(fault="it hangs"))
    world.settings = replace(world.settings, stagger_s=1.0)
    add(world, 0)

    points = looks(world)

    assert points == ["gpus.read"]
    assert reasons(tick(world)) == {"1": "gpu_unknown"}


def test_ticks_look_past_any_number_that_need_what_is_not_there():
    world = a_gpu_world(*[1] * 300, 0, gpus=GpuReading(fault="no driver", is_absent=True))

    assert started(tick(world)) == ["301"]


def test_who_was_overtaken_is_remembered_across_ticks_until_it_starts():
    world = a_gpu_world(2)
    run_until_running(world)
    add(world, -1)

    for number in range(3, 7):
        add(world, 2)
        tick(world)
        memory = world.disk.memory
        assert not isinstance(memory, str)
        assert memory is not None
        times = min(number - 2, 2)
        assert memory.skips == (Skips(source="local", task_id="2", times=times),)

    assert reasons(tick(world)) == {
        "2": "gpu_unavailable",
        "5": "overtaken_limit",
        "6": "overtaken_limit",
    }
    world.machine.advance(2000)
    for _ in range(3):
        tick(world)
        world.machine.advance(1)
    assert the_lease(world, "2").gpu_uuids == ("GPU-0",)
    memory = world.disk.memory
    assert memory is not None
    assert not isinstance(memory, str)
    assert memory.skips == ()


def test_a_count_is_written_before_the_start_that_it_is_of():
    world = a_gpu_world(2)
    run_until_running(world)
    add(world, -1)
    add(world, 2)
    seen: list[object] = []

    def look(_process: object, point: str) -> None:
        if point == "launch.spawn:before":
            seen.append(getattr(world.disk.memory, "skips", None))

    world.machine.on_point = look
    tick(world)

    assert seen == [(Skips(source="local", task_id="2", times=1),)]


def test_a_disk_that_takes_no_count_stops_no_start():
    world = a_gpu_world(2)
    run_until_running(world)
    add(world, -1)
    add(world, 2)

    def fill(_process: object, point: str) -> None:
        if point == "memory.save:before":
            world.disk.refusal = Refusal.BYTES
        if point == "lease.create:before":
            world.disk.refusal = Refusal.NOTHING

    world.machine.on_point = fill
    report = tick(world)

    assert started(report) == ["3"]
    assert "scheduling memory" in {error.where for error in report.errors}


class Broken:
    """A memory that is interrupted where it saves."""

    def __init__(self, memory: MemoryStore) -> None:
        self.load = memory.load

    def save(self, _memory: SchedulingMemory) -> None:
        raise KeyboardInterrupt


class Watched:
    """A store of leases that keeps what task locks it gave."""

    def __init__(self, store: LeaseStore, taken: list[TaskLock]) -> None:
        self._store = store
        self._taken = taken

    def acquire(self, task_id: str, *, result_of: str | None = None) -> TaskLock | None:
        lock = self._store.acquire(task_id, result_of=result_of)
        self._taken += [lock] if lock is not None else []
        return lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_interrupted_while_it_notes_who_is_overtaken_it_keeps_no_lock():
    world = a_gpu_world(14, -1)
    tick(world)
    add(world, 2)  # passes the one that waits for the whole GPU
    taken: list[TaskLock] = []

    def rewire(ports: World, _process: Process) -> World:
        broken, watched = Broken(ports.memory), Watched(ports.store, taken)
        return replace(ports, memory=broken, store=watched)

    world.rewire = rewire
    with pytest.raises(KeyboardInterrupt):
        world.tick()

    (lock,) = taken
    assert isinstance(lock, SimulatedTaskLock)
    with pytest.raises(StoreError, match="was closed"):
        lock.share(world.machine.spawn("another"))
