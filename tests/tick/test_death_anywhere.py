"""Kill the tick, or a wrapper, at each point it comes to, and let the next ticks repair it.

The points are counted in an undisturbed run, so none can be forgotten: each change has
one before it and one after it.  Whatever dies, every promise is kept and all work ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import (
    FAILS,
    HEARTBEAT_S,
    STALE_S,
    a_world,
    let_end,
    run_until_running,
    states,
    tick,
    used_slots,
)

from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import EXIT_RETRY_LATER, Child, Script
from tinyscheduler.simulator.faults import WRAPPERS, DeathAt
from tinyscheduler.simulator.tick_lock import wish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tinyscheduler.simulator.world import SimulatedWorld

DONE, CANCELLED, PARKED = TaskState.DONE, TaskState.CANCELLED, TaskState.PARKED


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What lies before the tick that is going to be killed, and how it must all end."""

    set_up: Callable[[], SimulatedWorld]
    ends: dict[str, TaskState]
    # How often each attempt's number may have gone up by the death itself.
    attempts: dict[str, int] = field(default_factory=lambda: {"1": 1})


def two_waiting() -> SimulatedWorld:
    world = a_world(2, kicks=True)
    wish(world.disk)
    return world


def ended(*, exit_code: int = 0) -> SimulatedWorld:
    world = a_world(2, slots=1, scripts={("1", 1): Script(runs_s=1, exit_code=exit_code)})
    run_until_running(world)
    world.machine.advance(1)
    return world


def wrapper_dead() -> SimulatedWorld:
    child = Child(runs_s=900, ignores_term=True)
    orphaned = Script(runs_s=500, children=(child,))
    world = a_world(2, slots=1, scripts={("1", 1): orphaned})
    world.machine.kill(run_until_running(world).wrapper)
    return world


def wrapper_hung() -> SimulatedWorld:
    world = a_world(1, scripts={("1", 1): Script(runs_s=500)})
    world.machine.stop(run_until_running(world).wrapper)
    world.machine.advance(STALE_S)
    tick(world)
    world.machine.advance(HEARTBEAT_S)
    return world


def never_started() -> SimulatedWorld:
    world = a_world()
    tick(world)
    world.machine.kill(next(iter(world.workshop.attempts.values())).wrapper)
    return world


def lease_corrupt() -> SimulatedWorld:
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.auditor.excused.add(attempt.lease.lease_id)
    world.disk.leases["1"] = "garbage"
    return world


def lease_lost() -> SimulatedWorld:
    world = lease_corrupt()
    world.disk.leases.clear()
    return world


def result_unreadable() -> SimulatedWorld:
    world = ended()
    lease_id = next(iter(world.disk.results))
    world.auditor.excused.add(lease_id)
    world.disk.results[lease_id] = "garbage"
    return world


def result_alone() -> SimulatedWorld:
    world = ended()
    world.disk.leases.clear()
    world.disk.locks.clear()
    return world


def cancelled() -> SimulatedWorld:
    world = a_world(script=Script(runs_s=500))
    run_until_running(world)
    world.cancel("1")
    world.machine.advance(1)
    return world


def rebooted() -> SimulatedWorld:
    world = a_world(2)
    run_until_running(world)
    world.machine.reboot(20)
    return world


def launch_refused() -> SimulatedWorld:
    world = a_world()
    world.workshop.refuse_launch = lambda _task_id: "no process to spare"
    world.machine.schedule(
        30, partial(setattr, world.workshop, "refuse_launch", lambda _task_id: None)
    )
    return world


SCENES = {
    "starting two": Scene(set_up=two_waiting, ends={"1": DONE, "2": DONE}),
    "settling a success": Scene(set_up=ended, ends={"1": DONE, "2": DONE}),
    "settling a failure": Scene(
        set_up=partial(ended, exit_code=1), ends={"1": DONE, "2": DONE}, attempts={"1": 2}
    ),
    "settling a wish for later": Scene(
        set_up=partial(ended, exit_code=EXIT_RETRY_LATER),
        ends={"1": DONE, "2": DONE},
        attempts={"1": 2},
    ),
    "reclaiming a dead wrapper": Scene(
        set_up=wrapper_dead, ends={"1": DONE, "2": DONE}, attempts={"1": 2}
    ),
    "ending a hung wrapper": Scene(set_up=wrapper_hung, ends={"1": DONE}, attempts={"1": 2}),
    "reclaiming what never started": Scene(set_up=never_started, ends={"1": DONE}),
    "reclaiming a corrupt lease": Scene(set_up=lease_corrupt, ends={"1": DONE}, attempts={"1": 2}),
    "repairing a lost lease": Scene(set_up=lease_lost, ends={"1": DONE}, attempts={"1": 2}),
    "settling an unreadable result": Scene(set_up=result_unreadable, ends={"1": PARKED, "2": DONE}),
    "settling a result without a lease": Scene(set_up=result_alone, ends={"1": DONE, "2": DONE}),
    "settling a cancellation": Scene(set_up=cancelled, ends={"1": CANCELLED}),
    "reclaiming after a reboot": Scene(
        set_up=rebooted, ends={"1": DONE, "2": DONE}, attempts={"1": 2, "2": 2}
    ),
    "giving back a refused launch": Scene(set_up=launch_refused, ends={"1": DONE}),
}


def deaths(set_up: Callable[[], SimulatedWorld], programs: frozenset[str]) -> Iterator[DeathAt]:
    """Yield a death for each point that such processes come to in an undisturbed run."""
    counter = DeathAt(programs=programs)
    world = set_up()
    world.machine.on_point = counter
    world.run_ticks()
    world.machine.advance(20)
    assert counter.seen
    for index in range(len(counter.seen)):
        yield DeathAt(programs=programs, index=index)


@pytest.mark.parametrize("name", SCENES)
def test_a_tick_killed_anywhere_is_repaired_by_the_next(name):
    scene = SCENES[name]
    points = []
    for death in deaths(scene.set_up, frozenset({"tick"})):
        world = scene.set_up()
        world.machine.on_point = death
        world.run_ticks()
        world.machine.advance(20)
        points.append(death.seen[-1])
        tick(world)
        assert used_slots(world) == len(world.disk.leases)

        let_end(world)

        where = f"killed at {death.seen[death.index or 0]}, the {death.index}th point"
        assert used_slots(world) == 0
        assert states(world) == scene.ends, where
        for task_id, most in scene.attempts.items():
            rows = [row for row in world.disk.ledger.values() if row.task_id == task_id]
            assert len(rows) == most, where
            assert [row.attempt for row in rows] == list(range(1, most + 1)), where

    assert len(points) > 30


@pytest.mark.parametrize(
    "script",
    [
        Script(runs_s=3),
        Script(runs_s=40),
        FAILS,
        Script(runs_s=3, children=(Child(runs_s=900, ignores_term=True),)),
        Script(runs_s=3, children=(Child(runs_s=900, holds_lock=False),)),
    ],
    ids=["short", "long", "fails", "leaves a deaf child", "leaves a child"],
)
def test_a_wrapper_killed_anywhere_costs_at_most_one_attempt(script):
    def set_up() -> SimulatedWorld:
        return a_world(2, script=script, slots=1, kicks=True)

    for death in deaths(set_up, WRAPPERS):
        world = set_up()
        world.machine.on_point = death
        world.run_ticks()
        world.machine.advance(20)

        let_end(world)

        where = f"killed at {death.seen[death.index or 0]}, the {death.index}th step"
        wanted = PARKED if script.exit_code else DONE
        assert states(world) == {"1": wanted, "2": wanted}, where
        if not script.exit_code:
            assert len(world.disk.ledger) <= 3, where


def test_a_cancellation_killed_anywhere_still_ends_the_task():
    def set_up() -> SimulatedWorld:
        world = a_world(script=Script(runs_s=100))
        run_until_running(world)
        return world

    counter = DeathAt(programs=frozenset({"cancel"}))
    world = set_up()
    world.machine.on_point = counter
    world.cancel("1")
    assert counter.seen == ["cancel.create:before", "cancel.create:after"]
    for index in range(len(counter.seen)):
        world = set_up()
        world.machine.on_point = DeathAt(programs=frozenset({"cancel"}), index=index)
        world.cancel("1")

        let_end(world)

        assert states(world)["1"].is_final


def test_two_deaths_in_a_row_are_repaired_too():
    """The tick dies anywhere, and the one that repairs it dies anywhere too."""

    def set_up() -> SimulatedWorld:
        world = a_world(scripts={("1", 1): Script(runs_s=1)})
        world.queue.add(TaskSpec(agent="alpha", after=("1",)))
        return world

    ticks = frozenset({"tick"})
    for first in range(8, 30, 3):
        for second in range(0, 60, 3):
            world = set_up()
            for index in (first, second):
                world.machine.on_point = DeathAt(programs=ticks, index=index)
                world.run_ticks()
                world.machine.advance(2)
            world.machine.on_point = lambda _process, _point: None

            let_end(world)

            assert set(states(world).values()) == {DONE}, (first, second)
