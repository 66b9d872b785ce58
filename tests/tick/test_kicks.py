"""Two ticks at once, and wishes that come while one is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import (
    TEN_SECONDS,
    a_world,
    let_end,
    run_until_running,
    states,
    tick,
)

from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.tick_lock import wish
from tinyscheduler.tick import run_ticks
from tinyscheduler.tick import tick as run_tick
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld


def test_a_tick_that_finds_the_lock_held_does_nothing_and_says_who_has_it():
    world = a_world()
    holder = world.machine.spawn("tick")
    assert world.wire(holder).lock.acquire() is None

    report = tick(world)

    assert report.locked
    assert report.holder == f"pid {holder.pid}"
    assert world.disk.locks == {}
    assert states(world) == {"1": TaskState.WAITING}
    assert "kick" in world.disk.kicks


def test_the_wish_of_a_refused_tick_is_fulfilled_by_the_one_that_has_the_lock():
    world = a_world()
    refused: list[TickReport] = []

    def tick_meanwhile(process: Process, point: str) -> None:
        del process
        if point == "memory.save:before" and not refused:
            world.queue.add(TaskSpec(agent="alpha"))
            refused.append(tick(world))

    world.machine.on_point = tick_meanwhile
    world.run_ticks()

    assert [report.locked for report in refused] == [True]
    assert states(world) == {"1": TaskState.WORKING, "2": TaskState.WORKING}


def test_settings_are_kept_only_by_who_has_the_lock_and_before_anything_starts():
    world = a_world()
    first, other = (world.wire(world.machine.spawn("tick")) for _ in range(2))
    kept: list[tuple[str | None, list[str]]] = []

    def keep_settings() -> None:
        kept.append((other.lock.acquire(), list(world.disk.leases)))

    act = replace(first, keep_settings=keep_settings)
    assert other.lock.acquire() is None
    assert run_tick(act, world.settings).locked
    assert kept == []
    other.lock.release()
    run_tick(act, world.settings)

    [(holder, leases)] = kept
    assert holder is not None
    assert leases == []
    assert list(world.disk.leases) == ["1"]


@pytest.mark.parametrize("point", ["tick.unlocked", "kick.look", "memory.save:after"])
def test_no_wish_is_lost_whenever_it_comes(point):
    world = a_world()
    wished: list[str] = []

    def wish_once(_process: Process, reached: str) -> None:
        if reached == point and not wished:
            wished.append(point)
            world.queue.add(TaskSpec(agent="alpha"))
            wish(world.disk)

    world.machine.on_point = wish_once
    world.run_ticks()

    assert states(world) == {"1": TaskState.WORKING, "2": TaskState.WORKING}


def test_a_tick_before_the_kick_is_forgotten_reads_what_it_was_about():
    world = a_world(0)
    wish(world.disk)
    world.queue.add(TaskSpec(agent="alpha"))

    world.run_ticks()

    assert world.disk.kicks == {}
    assert len(world.observer.reports) == 1
    assert states(world) == {"1": TaskState.WORKING}


def keep_wishing(world: SimulatedWorld) -> None:
    def wish_always(_process: Process, point: str) -> None:
        if point == "tick.unlocked":
            world.machine.advance(1)
            wish(world.disk)

    world.machine.on_point = wish_always


def test_ticking_again_ends_with_the_budget_and_hands_the_wish_on():
    world = a_world(0, budget_s=10.0)
    keep_wishing(world)
    process = world.machine.spawn("tick")

    _, is_wished = run_ticks(world.wire(process), world.settings)

    assert is_wished
    assert len(world.observer.reports) == 10


def test_a_wish_left_at_the_end_of_the_budget_starts_one_more_tick():
    world = a_world(0, budget_s=3.0)
    keep_wishing(world)
    world.run_ticks()
    so_far = len(world.observer.reports)
    world.queue.add(TaskSpec(agent="alpha"))
    world.machine.on_point = lambda _process, _point: None

    world.machine.advance(1)

    assert len(world.observer.reports) == so_far + 1
    assert states(world) == {"1": TaskState.WORKING}


def test_a_tick_that_was_asked_to_stop_hands_the_wish_on_at_once():
    world = a_world(0)
    keep_wishing(world)
    process = world.machine.spawn("tick")

    _, is_wished = run_ticks(world.wire(process), world.settings, should_stop=lambda: True)

    assert is_wished
    assert len(world.observer.reports) == 1


def test_a_refused_tick_leaves_no_tick_to_start():
    world = a_world()
    holder = world.machine.spawn("tick")
    assert world.wire(holder).lock.acquire() is None
    process = world.machine.spawn("tick")

    report, is_wished = run_ticks(world.wire(process), world.settings)

    assert report.locked
    assert not is_wished


def test_whoever_takes_the_lock_for_a_wish_takes_the_wish_too():
    world = a_world(0)
    seen: list[str] = []

    def steal(process: Process, point: str) -> None:
        if point == "tick.unlocked" and process.program == "tick":
            wish(world.disk)
        if point == "kick.look" and not seen:
            seen.append(point)
            thief = world.machine.spawn("thief")
            assert world.disk.tick_lock.try_lock(thief) is not None

    world.machine.on_point = steal
    process = world.machine.spawn("tick")
    _, is_wished = run_ticks(world.wire(process), world.settings)

    assert not is_wished
    assert "kick" in world.disk.kicks


def test_a_freed_slot_is_filled_without_any_tick_from_outside():
    world = a_world(6, script=Script(runs_s=3), kicks=True)
    tick(world)

    world.machine.advance(20)

    assert set(states(world).values()) == {TaskState.DONE}
    assert world.auditor.violations == []


def test_a_wrapper_leaves_the_tick_to_a_daemon_that_is_there():
    world = a_world(0, script=TEN_SECONDS, kicks=True)
    world.start_daemon(every_s=600)
    world.machine.advance(1)
    for _ in range(4):
        world.queue.add(TaskSpec(agent="alpha"))
    wish(world.disk)

    world.machine.advance(60)

    assert set(states(world).values()) == {TaskState.DONE}
    wrappers = {attempt.wrapper.program for attempt in world.workshop.attempts.values()}
    assert wrappers == {"wrapper"}
    let_end(world)


def test_a_killed_tick_needs_no_unlocking():
    world = a_world()
    world.machine.on_point = lambda process, point: (
        world.machine.kill(process) if point == "source.look" else None
    )
    assert world.tick() is None
    world.machine.on_point = lambda _process, _point: None

    run_until_running(world)
