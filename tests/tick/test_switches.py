"""A tick honours what is paused or drained, and starts nothing where it cannot know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import a_world, let_end, reasons, run_until_running, started, states, tick

from tinyscheduler.errors import StoreError
from tinyscheduler.model.switches import EVERYTHING, Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.simulator.source import Trouble
from tinyscheduler.simulator.switches import SimulatedSwitches
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World


def board(world: SimulatedWorld) -> SimulatedSwitches:
    return SimulatedSwitches(world.machine.spawn("a person"), world.disk)


def a_switch(world: SimulatedWorld, kind: SwitchKind = SwitchKind.PAUSE) -> Switch:
    return Switch(kind=kind, target=EVERYTHING, since=world.machine.wall, by="ann")


def test_a_tick_starts_nothing_while_it_drains_and_reports_the_switch():
    world = a_world(2)
    switch = a_switch(world, SwitchKind.DRAIN)
    board(world).set(switch)

    report = tick(world)

    assert started(report) == []
    assert reasons(report) == {"1": "draining", "2": "draining"}
    assert report.switches == (switch,)
    board(world).clear(SwitchKind.DRAIN, EVERYTHING)
    assert started(tick(world)) == ["1", "2"]
    let_end(world)


def test_what_runs_is_settled_while_everything_is_paused():
    world = a_world(1)
    run_until_running(world)
    board(world).set(a_switch(world))

    world.machine.advance(60)
    tick(world)

    assert states(world) == {"1": TaskState.DONE}


@pytest.mark.parametrize("target", ["all", "agent:alpha", "queue:work"])
def test_a_pause_holds_against_a_tick_that_has_looked_already(target):
    world = a_world(1)
    switch = replace(a_switch(world), target=parse_target(target))

    def pause_meanwhile(_process: Process, point: str) -> None:
        if point == "source.claim:before":
            board(world).set(switch)

    world.machine.on_point = pause_meanwhile

    assert reasons(tick(world)) == {"1": "source_refused"}

    assert (world.disk.leases, world.disk.locks, world.workshop.attempts) == ({}, {}, {})
    assert reasons(tick(world)) == {"1": "paused"}


def test_where_the_switches_cannot_be_read_nothing_starts_and_the_tick_says_so():
    world = a_world(1)
    world.disk.are_switches_readable = False

    report = tick(world)

    assert reasons(report) == {"1": "paused"}
    assert [(one.where, one.message) for one in report.errors] == [
        ("switches", "the switches do not answer")
    ]
    world.disk.are_switches_readable = True
    assert started(tick(world)) == ["1"]


def test_one_database_that_does_not_answer_is_one_error():
    class SameWords:
        def read(self):
            raise StoreError("source local does not answer")

    def rewire(ports: World, _process: Process) -> World:
        return replace(ports, switches=SameWords())  # type: ignore[arg-type]  # only what a tick reads

    world = a_world(1)
    world.queue.trouble = Trouble.DOWN
    world.rewire = rewire

    report = tick(world)

    assert [one.where for one in report.errors] == ["source local"]
