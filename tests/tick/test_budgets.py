"""What has used up its budget starts nothing more, however well it goes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.tick.staging import a_world, reasons, states, tick
from tests.tick.test_firing import told

from tinyscheduler.errors import StoreError
from tinyscheduler.model.budgets import Budget
from tinyscheduler.model.config import Inventory
from tinyscheduler.model.events import EventName
from tinyscheduler.model.schedules import Overlap, Schedule, ScheduleState, Timing
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.budgets import SimulatedBudgets
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.budgets import UsedUp
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World

CHEAP = Script(runs_s=1)


def with_budgets(*budgets: Budget, tasks: int = 0, **settings: Any) -> SimulatedWorld:
    return a_world(tasks, script=CHEAP, inventory=Inventory(budgets=budgets), **settings)


def every(world: SimulatedWorld, seconds: float) -> None:
    now = world.machine.wall
    world.queue.schedules["s"] = Schedule(
        schedule_id="s",
        name="s",
        timing=Timing(every_s=seconds),
        spec=TaskSpec(agent="alpha", command=("work",), max_attempts=1),
        overlap=Overlap.ALLOW,
        created_at=now,
        anchor=now,
        next_fire_at=now + timedelta(seconds=seconds),
    )


def done(world: SimulatedWorld) -> int:
    return sum(state is TaskState.DONE for state in states(world).values())


@pytest.mark.parametrize("subject", ["schedule:s", "agent:alpha", "overall"])
def test_ten_cheap_successes_a_minute_are_paused_after_twenty_runs(subject: str):
    world = with_budgets(Budget(subject=subject, runs=20))
    every(world, 6)
    warnings: list[str] = []
    for _ in range(100):
        world.machine.advance(6)
        warnings += tick(world).warnings

    target = "all" if subject == "overall" else subject
    assert done(world) == 20
    assert len(world.workshop.attempts) == 20
    assert (
        warnings.count(
            f"{target} is paused, its budget is used up: 20 of 20 runs in 1d"
            f" (`tinyscheduler resume {target}` lets it go on)"
        )
        == 1
    )
    is_schedule = subject == "schedule:s"
    (event,) = told(world, EventName.SCHEDULE_PAUSED if is_schedule else EventName.PAUSED)
    assert (event["target"], event["words"]) == (target, "20 of 20 runs in 1d")
    paused = world.queue.schedules["s"].state is ScheduleState.PAUSED
    assert paused == is_schedule


def test_what_waits_says_that_its_budget_is_used_up():
    world = with_budgets(Budget(subject="agent:alpha", runs=1), tasks=3)
    for _ in range(3):
        report = tick(world)
        world.machine.advance(60)

    assert done(world) == 1
    assert reasons(report) == {"2": "paused", "3": "paused"}
    words = {one.words for one in report.decisions if hasattr(one, "words")}
    assert len(words) == 1
    assert "(used up: 1 of 1 runs in 1d)" in words.pop()


def test_the_time_of_what_runs_is_looked_at_in_every_tick():
    world = with_budgets(Budget(subject="overall", wall_s=90.0), tasks=1)
    world.workshop.script = lambda _task, _attempt: Script(runs_s=600)
    tick(world)
    world.machine.advance(60)
    tick(world)
    assert told(world, EventName.PAUSED) == []
    world.machine.advance(60)
    tick(world)

    assert [event["target"] for event in told(world, EventName.PAUSED)] == ["all"]


def test_what_is_over_and_not_settled_yet_does_not_run_on():
    world = with_budgets(Budget(subject="overall", wall_s=3600.0), tasks=2, slots=1)
    world.workshop.script = lambda _task, attempt: Script(runs_s=100 if attempt == 1 else 900)
    tick(world)
    world.machine.advance(7200)  # it has ended long ago, and nobody has looked since
    tick(world)
    world.machine.advance(60)
    world.machine.reboot(7200)
    tick(world)

    assert told(world, EventName.PAUSED) == []


def test_a_world_without_budgets_asks_for_none():
    class Untouched(SimulatedBudgets):
        def enforce(self) -> list[UsedUp]:
            raise AssertionError

    world = a_world(2, script=CHEAP)
    world.rewire = lambda wired, process: replace(
        wired, budgets=Untouched(process, world.queue, world.disk)
    )

    assert tick(world).errors == ()


def test_budgets_that_cannot_be_read_are_told_and_stop_no_tick():
    class Broken(SimulatedBudgets):
        def enforce(self) -> list[UsedUp]:
            message = "the database does not answer"
            raise StoreError(message)

    def rewire(wired: World, process: Process) -> World:
        return replace(wired, budgets=Broken(process, world.queue, world.disk))

    world = with_budgets(Budget(subject="overall", runs=9), tasks=1)
    world.rewire = rewire
    report = tick(world)

    assert [(one.where, one.message) for one in report.errors] == [
        ("budgets", "the database does not answer")
    ]
    assert report.stats.tasks_spawned == 1
