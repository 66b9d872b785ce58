"""Heartbeats fire where there is something to do, so often a day, and tell what they found."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.tick.staging import a_world, started, states, tick
from tests.tick.test_firing import minutely, told
from tests.tick.test_making_way import press

from tinyscheduler.errors import StoreError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.schedules import CatchUp, ScheduleKind
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World

QUIET = Script(runs_s=10, found_nothing=True)


def heartbeat(world: SimulatedWorld, name: str = "a", **more: Any) -> None:
    """Keep a heartbeat with a checklist that is due each minute."""
    spec = TaskSpec(agent="alpha", prompt="Go through it.", max_attempts=1)
    fields = {"kind": ScheduleKind.HEARTBEAT, "checklist": "/list", "spec": spec}
    minutely(world, name, **{**fields, **more})


def test_without_anything_to_do_nothing_fires_and_that_is_counted():
    world = a_world(0)
    heartbeat(world)
    for checklist in (None, "", "# Later\n- [x] done\n"):
        if checklist is not None:
            world.disk.checklists["/list"] = checklist
        world.machine.advance(61)
        report = tick(world)
        assert (report.stats.firings, report.errors, report.warnings) == (0, (), ())

    one = world.queue.schedules["a"]
    assert (one.suppressed, one.fired, one.passed_over) == (3, 0, 0)
    assert world.queue.rows == {}
    assert not told(world, EventName.SCHEDULE_WARNING)


def test_what_is_to_be_done_is_read_anew_each_time():
    world = a_world(0)
    heartbeat(world)
    for number, checklist in enumerate(("- [ ] mail", "- [ ] disk"), start=1):
        world.disk.checklists["/list"] = checklist
        world.machine.advance(61)
        assert started(tick(world)) == [str(number)]
        world.machine.advance(11)
        tick(world)

    prompts = [row.spec.prompt or "" for row in world.queue.rows.values()]
    assert ["mail" in one for one in prompts] == [True, False]
    assert ["disk" in one for one in prompts] == [False, True]
    assert all("HEARTBEAT_OK" in one for one in prompts)
    assert world.queue.schedules["a"].spec.prompt == "Go through it."


def test_without_a_checklist_its_prompt_says_what_is_to_be_done():
    world = a_world(0)
    heartbeat(world, checklist=None)
    world.machine.advance(61)

    assert started(tick(world)) == ["1"]

    prompt = world.queue.rows["1"].spec.prompt or ""
    assert prompt.startswith("Go through it.")
    assert "HEARTBEAT_OK" in prompt


def test_one_that_found_something_is_reported_and_one_that_did_not_is_counted():
    world = a_world(0, scripts={("2", 1): QUIET})
    world.disk.checklists["/list"] = "- [ ] mail"
    heartbeat(world)
    for _ in range(2):
        world.machine.advance(61)
        tick(world)
        world.machine.advance(11)
        tick(world)

    assert states(world) == {"1": TaskState.DONE, "2": TaskState.DONE}
    reported = [one for one in world.observer.events if one.name is EventName.SCHEDULE_REPORTED]
    assert [(one.task_id, dict(one.details)) for one in reported] == [("1", {"schedule": "a"})]
    one = world.queue.schedules["a"]
    assert (one.suppressed, one.fired) == (1, 2)


def test_what_is_no_heartbeat_is_neither_reported_nor_counted_whatever_it_says():
    world = a_world(0, scripts={("1", 1): QUIET})
    minutely(world)
    for _ in range(2):
        world.machine.advance(61)
        tick(world)
        world.machine.advance(11)
        tick(world)

    assert states(world) == {"1": TaskState.DONE, "2": TaskState.DONE}
    assert not told(world, EventName.SCHEDULE_REPORTED)
    assert world.queue.schedules["a"].suppressed == 0


def test_so_often_a_day_and_again_the_next_one():
    world = a_world(0)
    begin = world.machine.wall
    midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    world.machine.advance((midnight - begin).total_seconds() - 5 * 60 - 30)
    world.disk.checklists["/list"] = "- [ ] mail"
    heartbeat(world, max_per_day=2, catch_up=CatchUp.NONE)
    fired = 0
    for _ in range(20):
        world.machine.advance(30)
        fired += tick(world).stats.firings

    assert fired == 4
    days = [row.created_at.date() for row in world.queue.rows.values() if row.created_at]
    assert [days.count(day) for day in sorted(set(days))] == [2, 2]
    reasons = {one.reason for one in world.observer.events if one.name == "schedule.warning"}
    assert "daily_budget" in reasons


def test_a_checklist_that_cannot_be_read_is_told_and_the_others_fire():
    def refuse(path: str) -> str | None:
        message = f"the checklist {path} cannot be read: it is no file"
        raise StoreError(message)

    def rewire(world: World, _process: Process) -> World:
        return replace(world, read_checklist=refuse)

    staged = a_world(0)
    heartbeat(staged)
    minutely(staged, "b")
    staged.rewire = rewire
    staged.machine.advance(61)

    report = tick(staged)

    assert report.stats.firings == 1
    assert [one.where for one in report.errors] == ["schedule a"]
    # It fires for its time once it can be read.
    staged.rewire = lambda world, _process: world
    staged.disk.checklists["/list"] = "- [ ] mail"
    assert tick(staged).stats.firings == 1


def test_where_there_is_nothing_to_do_nothing_makes_way():
    world = a_world(0)
    heartbeat(world)
    press(world)
    world.machine.advance(61)

    assert tick(world).stats.firings == 0

    one = world.queue.schedules["a"]
    assert (one.suppressed, one.deferrals) == (1, 0)
