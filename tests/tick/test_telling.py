"""Changes of the machine and of the queue are told once each, also across ticks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import a_world, let_end, reasons, started, tick

from tinyscheduler.model.documents import decode_lease, encode_lease
from tinyscheduler.model.events import EventName
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.simulator.source import Trouble
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.simulator.world import SimulatedWorld

GIB = 2**30
CHANGES = (
    EventName.MEMORY_PRESSURE,
    EventName.HEALTH_CHANGED,
    EventName.SLOT_AVAILABLE,
    EventName.WORK_CLAIMED,
    EventName.QUEUE_EMPTY,
    EventName.STAGGER_WAIT,
)


def told(world: SimulatedWorld) -> list[str]:
    """Return what was told of changes since the last time, and forget it."""
    names = [event.name.value for event in world.observer.events if event.name in CHANGES]
    world.observer.events.clear()
    return names


def test_a_quiet_world_tells_nothing():
    world = a_world(0)

    tick(world)
    tick(world)

    assert told(world) == []


def test_pressure_is_told_when_it_changes_and_not_again():
    world = a_world(1, slots=9)
    world.machine.memory_available_bytes = 3 * GIB

    tick(world)
    first = told(world)
    tick(world)

    assert first == ["memory-pressure", "work-claimed", "queue-empty"]
    assert told(world) == []


def test_critical_memory_starts_nothing_and_the_way_back_is_told_once():
    world = a_world(1)
    world.machine.memory_available_bytes = GIB

    assert reasons(tick(world)) == {"1": "memory_critical"}
    assert told(world) == ["memory-pressure", "health-changed"]
    assert reasons(tick(world)) == {"1": "memory_critical"}
    assert told(world) == []
    world.machine.memory_available_bytes = 12 * GIB
    assert started(tick(world)) == ["1"]
    assert told(world) == ["memory-pressure", "health-changed", "work-claimed", "queue-empty"]


def test_the_event_says_the_level_and_how_much_is_in_use():
    world = a_world(0)
    world.machine.memory_available_bytes = GIB

    tick(world)

    pressure, health = world.observer.events
    assert pressure.details == (("level", "critical"), ("used_percent", 93.8))
    assert health.details == (
        *(("healthy", False), ("pressure", "critical")),
        *(("active", 0), ("limit", 2)),
    )


def test_time_lost_in_waiting_for_memory_is_pressure_too():
    world = a_world(1)
    rules = replace(world.settings.rules, memory_stall_critical=0.2)
    world.settings = replace(world.settings, rules=rules)
    world.machine.memory_stall = 0.31

    assert reasons(tick(world)) == {"1": "memory_critical"}
    pressure, health = world.observer.events
    assert pressure.details == (
        ("level", "critical"),
        ("used_percent", 25.0),
        ("stall_percent", 31.0),
    )
    assert health.details[:2] == (("healthy", False), ("pressure", "critical"))
    told(world)
    tick(world)
    assert told(world) == []
    world.machine.memory_stall = 0.1
    assert started(tick(world)) == ["1"]
    assert told(world) == ["memory-pressure", "health-changed", "work-claimed", "queue-empty"]


def test_a_full_machine_is_not_healthy_and_a_slot_that_stays_free_is_told():
    world = a_world(3)

    tick(world)
    assert told(world) == ["health-changed", "work-claimed"]
    let_end(world)

    assert told(world).count("slot-available") == 1


def test_a_slot_that_is_taken_again_at_once_was_never_available():
    world = a_world(3)
    tick(world)
    told(world)
    world.machine.advance(11)

    assert started(tick(world)) == ["3"]

    assert told(world) == ["health-changed", "slot-available", "work-claimed", "queue-empty"]


def test_the_queue_gets_empty_once():
    world = a_world(1)
    tick(world)
    assert told(world) == ["work-claimed", "queue-empty"]
    tick(world)
    assert told(world) == []
    waiting = world.queue.add(TaskSpec(agent="nobody", command=("work",)))
    tick(world)
    assert told(world) == []
    world.cancel(waiting)
    tick(world)
    assert told(world) == ["queue-empty"]


def test_a_source_that_is_down_is_not_empty():
    world = a_world(0)
    world.queue.add(TaskSpec(agent="nobody", command=("work",)))
    tick(world)
    world.queue.trouble = Trouble.DOWN

    tick(world)

    assert told(world) == []


@pytest.mark.parametrize(("tasks", "times"), [(1, 0), (2, 1), (4, 1)])
def test_a_wait_between_starts_is_told_once_a_tick(tasks: int, times: int):
    world = a_world(tasks, stagger_s=2.0, slots=9)

    tick(world)

    assert told(world).count("stagger-wait") == times


def test_an_attempt_that_shows_no_life_is_told_of_once_and_again_after_it_spoke():
    world = a_world(1)
    (task_id,) = started(tick(world))
    lease = decode_lease(json.loads(world.disk.leases[task_id]))

    def silent(seconds: float | None) -> list[tuple[str | None, object]]:
        run = replace(lease.run, idle_output_s=600.0)
        now = replace(lease, run=run, silent_s=seconds)
        world.disk.leases[task_id] = json.dumps(encode_lease(now))
        world.observer.events.clear()
        tick(world)
        return [
            (event.task_id, dict(event.details)["silent_sec"])
            for event in world.observer.events
            if event.name is EventName.TASK_SILENT
        ]

    assert silent(None) == []
    assert silent(299) == []
    assert silent(301) == [(task_id, 301)]
    assert silent(400) == []
    assert silent(2) == []
    assert silent(310) == [(task_id, 310)]


def test_a_source_that_goes_down_and_comes_back_is_told_once_each_with_the_reason():
    world = a_world(0)
    changes = (EventName.SOURCE_DOWN, EventName.SOURCE_UP)
    seen = []

    for trouble in (Trouble.NONE, Trouble.DOWN, Trouble.DOWN, Trouble.NONE, Trouble.NONE):
        world.queue.trouble = trouble
        tick(world)
        seen += [event for event in world.observer.events if event.name in changes]
        world.observer.events.clear()

    assert [one.name for one in seen] == list(changes)
    assert [one.details for one in seen] == [(("source", "local"),)] * 2
    assert seen[0].reason
    assert seen[1].reason is None
