"""What a tick leaves in use is remembered, and corrected by what the leases say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import a_world, run_until_running, started, tick, used_slots

from tinyscheduler.model.events import EventName
from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld


def memory_of(world: SimulatedWorld) -> SchedulingMemory:
    memory = world.disk.memory
    assert isinstance(memory, SchedulingMemory)
    return memory


def leaks(world: SimulatedWorld) -> list[dict[str, object]]:
    found = [one for one in world.observer.events if one.name is EventName.SLOT_LEAK_REPAIRED]
    return [dict(one.details) for one in found]


def saves(world: SimulatedWorld) -> int:
    """Tick, and return how often the memory was written."""
    seen: list[str] = []
    world.machine.on_point = lambda _process, point: seen.append(point)
    tick(world)
    return seen.count("memory.save:before")


def test_what_is_in_use_is_remembered_by_agent():
    world = a_world(2, slots=3)
    world.queue.add(TaskSpec(agent="beta", command=("work",)))

    tick(world)
    busy = memory_of(world)
    world.machine.advance(11)
    tick(world)

    assert (busy.used_slots, busy.active) == (3, (("alpha", 2), ("beta", 1)))
    assert (memory_of(world).used_slots, memory_of(world).active) == (0, ())
    assert leaks(world) == []


def test_a_held_lock_without_a_lease_counts_for_no_agent():
    world = a_world(1)
    run_until_running(world)
    world.disk.leases.clear()
    world.queue.rows.clear()

    tick(world)

    assert memory_of(world).active == (("", 1),)


def test_a_tick_over_an_unchanged_world_writes_nothing():
    world = a_world(3)
    assert saves(world) == 1
    assert saves(world) == 0
    world.machine.advance(5)
    assert saves(world) == 0
    world.machine.advance(6)
    assert saves(world) == 1


def test_slots_that_nobody_settled_are_told_to_be_free():
    world = a_world(2)
    tick(world)
    # Somebody stops everything, and removes what lay there.
    for attempt in world.workshop.attempts.values():
        world.machine.kill(attempt.wrapper)
    world.disk.leases.clear()
    world.disk.locks.clear()

    tick(world)
    tick(world)

    assert leaks(world) == [{"slots": 2, "remembered": 2, "found": 0}]
    assert used_slots(world) == len(world.disk.leases)


@pytest.mark.parametrize("point", ["lock.remove:after", "memory.save:before"])
def test_a_tick_that_was_killed_after_it_settled_leaves_the_count_to_the_next(point: str):
    world = a_world(1)
    tick(world)
    world.machine.advance(11)
    reached: list[str] = []

    def kill(process: Process, now_at: str) -> None:
        if now_at == point:
            reached.append(point)
            process.machine.kill(process)

    world.machine.on_point = kill
    assert world.tick() is None
    assert reached == [point]
    world.machine.on_point = lambda _process, _point: None
    tick(world)

    assert leaks(world) == [{"slots": 1, "remembered": 1, "found": 0}]
    assert used_slots(world) == 0


@pytest.mark.parametrize("remembered", [0, 1, 9])
def test_leases_win_over_what_is_remembered(remembered: int):
    world = a_world(3)
    tick(world)
    world.disk.memory = replace(memory_of(world), used_slots=remembered, active=(("gone", 1),))

    assert started(tick(world)) == []

    assert (memory_of(world).used_slots, memory_of(world).active) == (2, (("alpha", 2),))
    assert [one["slots"] for one in leaks(world)] == [remembered - 2] * (remembered > 2)
