"""A tick with GPU work: when it looks, how far down the line, and whom it remembers overtaken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.builders import a_gpu
from tests.tick.staging import (
    a_world,
    reasons,
    run_until_running,
    started,
    the_attempt,
    the_lease,
    tick,
)

from tinyscheduler.errors import StoreError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.resources import Gpu, GpuProcess, GpuReading
from tinyscheduler.model.snapshot import SchedulingMemory, Skips
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.store import SimulatedTaskLock
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.events import Event
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


# -- where they sit -----------------------------------------------------------------------


def sit(world: SimulatedWorld, task_id: str, index: int, *, gib: int = 2) -> int:
    """Let the task's wrapper use a GPU of two; return its pid."""
    pid = the_attempt(world, task_id).wrapper.pid
    gpus = [a_gpu(0), a_gpu(1)]
    user = GpuProcess(pid=pid, used_bytes=gib * GIB)
    gpus[index] = replace(gpus[index], used_bytes=gib * GIB, processes=(user,))
    world.machine.gpus = GpuReading(gpus=tuple(gpus))
    return pid


def misplaced(world: SimulatedWorld) -> list[Event]:
    """Return what was told of it since the last time, and forget it."""
    found = [one for one in world.observer.events if one.name is EventName.GPU_MISPLACED]
    world.observer.events.clear()
    return found


def a_running_world() -> SimulatedWorld:
    world = a_gpu_world(14, gpus=GpuReading(gpus=(a_gpu(0), a_gpu(1))))
    run_until_running(world)
    return world


def test_an_attempt_on_the_wrong_gpu_is_told_once_though_nothing_waits():
    world = a_running_world()
    pid = sit(world, "1", 1)
    world.machine.advance(61)

    report = tick(world)

    (event,) = misplaced(world)
    assert (event.task_id, event.attempt, event.agent) == ("1", 1, "alpha")
    assert dict(event.details) == {
        "gpu_index": 1,
        "gpu_uuid": "GPU-1",
        "pids": (pid,),
        "used_bytes": 2 * GIB,
        "placed_on": ("GPU-0",),
    }
    words = f"task 1 is on GPU 1 (2 GiB, pid {pid}) and was put on GPU 0"
    assert report.warnings == (words,)
    # Told, it is not looked for any more; and where somebody else makes a tick look, not told.
    world.machine.advance(600)
    assert looks(world) == []
    add(world, 1)
    report = tick(world)
    assert started(report) == ["2"]
    assert report.warnings == ()
    assert misplaced(world) == []


def test_each_gpu_that_it_is_found_on_is_told_by_itself():
    world = a_gpu_world(14, -1, gpus=GpuReading(gpus=(a_gpu(0), a_gpu(1))))
    run_until_running(world)
    add(world, -1)
    for index in (1, 1, 0):
        sit(world, "1", index)
        tick(world)
    sit(world, "2", 0)
    tick(world)

    assert [(one.task_id, dict(one.details)["gpu_index"]) for one in misplaced(world)] == [
        ("1", 1),
        ("2", 0),
    ]


def test_a_dry_run_tells_nobody():
    world = a_running_world()
    sit(world, "1", 1)
    world.machine.advance(61)

    assert world.preview().warnings == ()
    assert misplaced(world) == []
    tick(world)
    assert len(misplaced(world)) == 1


def test_an_attempt_that_is_where_it_was_put_is_looked_for_once():
    world = a_running_world()
    sit(world, "1", 0)
    assert looks(world) == []  # it may still load

    world.machine.advance(61)
    assert looks(world) == ["gpus.read", "launch.owners"]
    world.machine.advance(600)
    assert looks(world) == []
    assert misplaced(world) == []


def test_one_that_never_comes_is_looked_for_less_and_less():
    world = a_running_world()

    ages = []
    for minute in range(1, 16):
        world.machine.advance(60)
        if looks(world):
            ages.append(minute)

    assert ages == [1, 2, 4, 8]


def test_a_driver_that_hangs_is_not_asked_by_every_tick():
    world = a_running_world()
    world.machine.gpus = GpuReading(fault="it hangs")
    world.machine.advance(61)

    assert looks(world) == ["gpus.read"]
    world.machine.advance(10)
    assert looks(world) == []


def test_of_an_attempt_that_is_over_nothing_is_remembered():
    world = a_running_world()
    sit(world, "1", 1)
    world.machine.advance(61)
    tick(world)
    assert remembers(world) == ["GPU-1"]

    world.machine.advance(2000)
    tick(world)

    assert remembers(world) == []


def remembers(world: SimulatedWorld) -> list[str]:
    memory = world.disk.memory
    assert isinstance(memory, SchedulingMemory)
    return [uuid for one in memory.gpu_sightings for uuid in one.uuids]


# -- where a GPU shares the memory of the machine ------------------------------------------


def a_unified_world(*shares: int) -> SimulatedWorld:
    """Return a world of 16 GiB, 12 of them available, whose GPU has no memory of its own."""
    gpu = Gpu(index=0, uuid="GPU-0", name="GB10", total_bytes=None)
    return a_gpu_world(*shares, gpus=GpuReading(gpus=(gpu,)))


def add_hungry(world: SimulatedWorld, gib: int) -> str:
    spec = TaskSpec(agent="alpha", command=("work",), memory_bytes=gib * GIB)
    return world.queue.add(spec)


def points(world: SimulatedWorld) -> list[str]:
    """Return at what of the machine a tick looks."""
    seen: list[str] = []
    world.machine.on_point = lambda _process, point: seen.append(point)
    tick(world)
    return [point for point in seen if point in ("gpus.read", "probe.measure")]


def test_a_share_of_the_machines_memory_is_in_the_lease_and_stays_reserved():
    world = a_unified_world(8)
    run_until_running(world)
    assert the_lease(world).needs.shared_bytes == 8 * GIB

    add_hungry(world, 5)

    assert reasons(tick(world)) == {"2": "memory_insufficient"}
    add_hungry(world, 4)
    assert started(tick(world)) == ["3"]


def test_who_needs_memory_beside_such_a_share_has_both_looked_at():
    world = a_unified_world(8)
    run_until_running(world)
    add_hungry(world, 5)

    assert points(world) == ["gpus.read", "probe.measure"]


def test_where_nothing_waits_or_no_slot_is_free_nobody_looks_at_either():
    world = a_unified_world(1)
    run_until_running(world)
    assert points(world) == []
    world.settings = replace(world.settings, rules=replace(world.settings.rules, host_slots=1))
    add_hungry(world, 1)
    assert points(world) == []


def test_what_the_driver_says_that_it_uses_is_no_longer_to_come():
    world = a_unified_world(8)
    pid = run_until_running(world).wrapper.pid
    add_hungry(world, 5)
    (gpu,) = world.machine.gpus.gpus
    user = GpuProcess(pid=pid, used_bytes=6 * GIB)
    world.machine.gpus = GpuReading(gpus=(replace(gpu, processes=(user,)),))
    world.machine.memory_available_bytes = 6 * GIB
    assert reasons(tick(world)) == {"2": "memory_insufficient"}

    world.machine.memory_available_bytes = 7 * GIB

    assert started(tick(world)) == ["2"]
