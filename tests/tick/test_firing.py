"""A tick fires what is due, tells what it passed over, and when a schedule stopped itself."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.tick.staging import FAILS, a_world, reasons, started, states, tick

from tinyscheduler.errors import StoreError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.schedules import Overlap, Schedule, Timing
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.schedules import SimulatedSchedules
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.schedules import FiringPlan, LiveFirings
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World


def minutely(world: SimulatedWorld, name: str = "a", **more: Any) -> None:
    """Keep a schedule that is due each minute from the next on."""
    now = world.machine.wall
    fields: dict[str, Any] = {
        "timing": Timing(every_s=60.0),
        "spec": TaskSpec(agent="alpha", command=("work",), max_attempts=1),
        "created_at": now,
        "anchor": now,
        "next_fire_at": now + timedelta(minutes=1),
    }
    one = Schedule(schedule_id=name, name=name, **{**fields, **more})
    world.queue.schedules[name] = one


def told(world: SimulatedWorld, name: EventName) -> list[dict[str, Any]]:
    return [dict(event.details) for event in world.observer.events if event.name is name]


def test_what_is_due_is_fired_and_starts_in_the_same_tick():
    world = a_world(0)
    minutely(world)
    assert tick(world).stats.firings == 0

    world.machine.advance(61)
    report = tick(world)

    assert (report.stats.firings, started(report)) == (1, ["1"])
    assert told(world, EventName.SCHEDULE_FIRED) == [{"schedule": "a"}]
    world.machine.advance(20)
    tick(world)
    assert states(world) == {"1": TaskState.DONE}


def test_times_that_nothing_fired_for_are_told():
    world = a_world(0)
    minutely(world)
    world.machine.advance(61)
    tick(world)
    world.machine.advance(2)
    minutely(world, "b")
    world.machine.advance(5 * 60)
    tick(world)

    assert {"schedule": "b", "times": 4} in told(world, EventName.SCHEDULE_WARNING)


def test_a_firing_that_has_ended_is_in_the_way_of_no_other():
    world = a_world(0)
    minutely(world)
    for _ in range(4):
        world.machine.advance(61)
        tick(world)

    assert [state.value for state in states(world).values()] == ["done", "done", "done", "working"]
    assert told(world, EventName.SCHEDULE_WARNING) == []


def test_firings_wait_for_each_other_and_other_tasks_do_not_wait_for_them():
    world = a_world(0, slots=9, agents=(replace(a_world().settings.agents[0], limit=9),))
    for name in "abc":
        minutely(world, name)
    world.machine.advance(61)
    task = world.queue.add(TaskSpec(agent="alpha", command=("work",)))

    report = tick(world)

    assert report.stats.firings == 3
    assert sorted(started(report)) == [task, *sorted(set(started(report)) - {task})]
    assert len(started(report)) == 3
    assert list(reasons(report).values()) == ["schedule_cap"]


def test_a_firing_that_replaces_another_begins_when_that_is_gone():
    world = a_world(0)
    minutely(world, overlap=Overlap.REPLACE, spec=TaskSpec(agent="alpha", command=("long",)))
    world.workshop.script = lambda _task, _attempt: replace_runs(1000)
    world.machine.advance(61)
    assert started(tick(world)) == ["1"]
    world.machine.advance(60)
    tick(world)
    world.machine.advance(30)
    tick(world)
    tick(world)

    assert states(world)["1"] is TaskState.CANCELLED
    assert states(world)["2"] is TaskState.WORKING


def replace_runs(seconds: float) -> Any:
    return Script(runs_s=seconds)


def test_nothing_is_fired_where_nothing_may_start():
    world = a_world(0, is_enabled=False)
    minutely(world)
    world.machine.advance(61)

    assert tick(world).stats.firings == 0


def test_three_failures_pause_a_schedule_and_are_told_once():
    world = a_world(0, script=FAILS)
    minutely(world)
    warnings: list[str] = []
    for _ in range(6):
        world.machine.advance(61)
        warnings += tick(world).warnings

    (paused,) = told(world, EventName.SCHEDULE_PAUSED)
    assert paused["schedule"] == "a"
    assert "3 firings in a row failed" in str(paused["words"])
    assert len([one for one in warnings if "schedule a is paused" in one]) == 1
    assert set(states(world).values()) == {TaskState.FAILED}
    assert len(states(world)) == 3


def test_turns_over_the_bound_are_warned_of_at_the_second_time_and_pause_it_at_the_fifth():
    world = a_world(0, script=Script(runs_s=10, turns=41))
    bounded = TaskSpec(agent="alpha", command=("work",), max_attempts=1, max_turns=40)
    minutely(world, spec=bounded)
    warnings: list[str] = []
    for _ in range(12):
        world.machine.advance(61)
        warnings += tick(world).warnings

    over = "firings in a row took more than their 40 turns, 41 on average"
    (warned,) = [one for one in told(world, EventName.SCHEDULE_WARNING) if "words" in one]
    assert warned == {"schedule": "a", "words": f"2 {over}; after 5 it is paused"}
    (paused,) = told(world, EventName.SCHEDULE_PAUSED)
    assert paused["words"] == f"5 {over}"
    assert [one for one in warnings if "schedule a" in one] == [
        f"schedule a: 2 {over}; after 5 it is paused",
        f"schedule a is paused: 5 {over} (`tinyscheduler schedule resume a` lets it go on)",
    ]
    assert len(states(world)) == 5


def test_three_firings_in_a_row_that_take_most_of_their_time_are_told_once():
    world = a_world(0, script=Script(runs_s=50))
    minutely(world, max_run_duration_s=60.0)
    for _ in range(6):
        world.machine.advance(61)
        tick(world)

    (warned,) = [one for one in told(world, EventName.SCHEDULE_WARNING) if "words" in one]
    assert warned["words"] == "3 firings in a row took more than 80% of the time that they have"


def test_a_schedule_that_was_removed_while_its_firing_ran_hears_nothing():
    world = a_world(0, script=FAILS)
    minutely(world)
    world.machine.advance(61)
    tick(world)
    world.queue.schedules.clear()
    world.machine.advance(61)
    tick(world)

    assert states(world) == {"1": TaskState.FAILED}
    assert told(world, EventName.SCHEDULE_PAUSED) == []


def test_a_schedule_that_is_removed_while_the_end_of_its_firing_is_noted_hears_nothing():
    class Fleeting(SimulatedSchedules):
        def find(self, schedule_id: str) -> Schedule | None:
            return staged.queue.schedules.pop(schedule_id, None)

    staged = a_world(0, script=FAILS)
    staged.rewire = lambda wired, process: replace(wired, schedules=Fleeting(process, staged.queue))
    minutely(staged)
    for _ in range(3):
        staged.machine.advance(61)
        tick(staged)

    assert states(staged) == {"1": TaskState.FAILED}
    assert told(staged, EventName.SCHEDULE_PAUSED) == []


def test_a_firing_whose_command_cannot_be_started_pauses_its_schedule_too():
    world = a_world(0)
    rules = replace(world.settings.rules, max_launches=1)
    world.settings = replace(world.settings, rules=rules)
    world.workshop.refuse_launch = lambda _task_id: "no such command"
    minutely(world)
    for _ in range(4):
        world.machine.advance(61)
        tick(world)

    assert len(told(world, EventName.SCHEDULE_PAUSED)) == 1


def test_a_firing_whose_result_cannot_be_read_has_failed():
    world = a_world(0)
    minutely(world)
    world.machine.advance(61)
    tick(world)
    world.machine.advance(11)
    (name,) = world.disk.results
    world.disk.results[name] = "{broken"
    tick(world)

    assert states(world)["1"] is TaskState.FAILED


@pytest.mark.parametrize("is_broken", [True, False])
def test_schedules_that_cannot_be_read_stop_nothing_else(is_broken: bool):  # noqa: FBT001 - a case
    class Broken(SimulatedSchedules):
        def due(self, now: datetime) -> Sequence[tuple[Schedule, LiveFirings]]:
            if is_broken:
                message = "the database does not answer"
                raise StoreError(message)
            return super().due(now)

        def fire(self, plan: FiringPlan) -> Sequence[str] | None:
            del plan
            return None  # somebody else was first

    def rewire(world: World, process: Process) -> World:
        return replace(world, schedules=Broken(process, staged.queue))

    staged = a_world(1)
    minutely(staged)
    staged.rewire = rewire
    staged.machine.advance(61)

    report = tick(staged)

    assert started(report) == ["1"]
    assert report.stats.firings == 0
    assert [one.message for one in report.errors] == (
        ["the database does not answer"] if is_broken else []
    )
