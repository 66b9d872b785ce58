"""While somebody is at work what is due is put off, and firings that wait stay there: S-06."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tick.staging import a_world, reasons, started, states, tick
from tests.tick.test_firing import minutely, told

from tinyscheduler.model.events import EventName
from tinyscheduler.model.plan import Wait
from tinyscheduler.model.pressure import InteractivePressure, PressureKind
from tinyscheduler.model.schedules import CatchUp, Overlap, Timing
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.faults import DeathAt
from tinyscheduler.simulator.pressures import SimulatedPressures
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World


def press(world: SimulatedWorld, name: str = "chat", *, for_s: float | None = None) -> None:
    """Let somebody be at work, for so long or for ever."""
    ends_at = None if for_s is None else world.machine.wall + timedelta(seconds=for_s)
    kind = PressureKind.MARKER
    world.disk.pressures[name] = InteractivePressure(name=name, kind=kind, ends_at=ends_at)


def hourly(world: SimulatedWorld, name: str = "a") -> None:
    """Keep a schedule that is due in a minute, and then each hour."""
    anchor = world.machine.wall - timedelta(minutes=59)
    minutely(world, name, timing=Timing(every_s=3600.0), anchor=anchor)


def minutely_spec(world: SimulatedWorld) -> TaskSpec:
    minutely(world, "spec")
    return world.queue.schedules.pop("spec").spec


def test_while_somebody_is_at_work_no_task_is_made_and_what_runs_goes_on():
    world = a_world(0)
    minutely(world)
    world.machine.advance(61)
    assert started(tick(world)) == ["1"]
    minutely(world, "b")
    world.machine.advance(5)
    press(world)
    assert tick(world).stats.firings == 0
    assert states(world) == {"1": TaskState.WORKING}
    world.machine.advance(56)

    report = tick(world)

    assert (report.stats.firings, report.errors) == (0, ())
    assert states(world) == {"1": TaskState.DONE}
    deferred = told(world, EventName.SCHEDULE_DEFERRED)
    assert [(one["schedule"], one["times"], one["pressed_by"]) for one in deferred] == [
        ("a", 1, ("chat",)),
        ("b", 1, ("chat",)),
    ]
    assert {one.reason for one in world.observer.events if one.name == "schedule.deferred"} == {
        "pressure"
    }


def test_it_fires_once_for_the_same_time_when_nobody_is_at_work_any_more():
    world = a_world(0)
    hourly(world)
    slot = world.queue.schedules["a"].next_fire_at
    press(world, for_s=100)
    world.machine.advance(61)

    fired = []
    for _ in range(6):
        fired.append(tick(world).stats.firings)
        world.machine.advance(30)

    assert fired == [0, 0, 1, 0, 0, 0]
    assert [row.slot for row in world.queue.rows.values()] == [slot]
    assert world.queue.schedules["a"].deferrals == 0


def test_s06_after_ten_deferrals_in_a_row_it_fires_and_starts_whoever_is_at_work():
    world = a_world(0)
    hourly(world)
    press(world)
    world.machine.advance(61)

    looks = []
    for _ in range(11):
        report = tick(world)
        looks.append((report.stats.firings, started(report)))
        world.machine.advance(30)

    assert looks == [*[(0, [])] * 10, (1, ["1"])]
    assert world.queue.rows["1"].pressure == 1
    # And the next time makes way anew.
    tick(world)
    world.machine.advance(3600)
    assert tick(world).stats.firings == 0
    assert world.queue.schedules["a"].deferrals == 1


def test_a_firing_that_waits_makes_way_but_not_for_ever():
    world = a_world(0)
    minutely(world, overlap=Overlap.QUEUE_ALL)
    hourly(world, "b")
    world.settings = replace(
        world.settings, rules=replace(world.settings.rules, schedule_max_concurrent=1)
    )
    world.machine.advance(61)
    assert started(tick(world)) == ["1"]
    del world.queue.schedules["a"]
    press(world, "b-chat")
    press(world, "a-chat")
    world.machine.advance(11)

    report = tick(world)

    assert reasons(report) == {"2": "pressure"}
    (wait,) = [one for one in report.decisions if isinstance(one, Wait)]
    assert wait.words.startswith("makes way for a-chat, b-chat, at the longest until ")
    assert wait.retry_after_s == 300 - 12
    world.machine.advance(300 - 13)
    assert started(tick(world)) == []
    world.machine.advance(1)
    assert started(tick(world)) == ["2"]
    assert world.queue.rows["2"].pressure == 2


def test_one_by_hand_and_one_that_is_forced_make_way_for_nobody():
    world = a_world(0)
    spec = minutely_spec(world)
    by_hand = world.queue.add_firing(spec, "a")
    forced = world.queue.add_firing(
        spec, "b", slot=world.machine.wall, is_forced=True, is_beside=True
    )
    press(world)

    assert sorted(started(tick(world))) == [by_hand, forced]


def test_after_the_clock_was_set_back_no_firing_waits_for_longer_than_before():
    world = a_world(0)
    task = world.queue.add_firing(minutely_spec(world), "a", slot=world.machine.wall)
    press(world)
    assert started(tick(world)) == []

    world.machine.step_wall(-3600)

    assert started(tick(world)) == [task]


def test_other_tasks_make_way_for_nobody_and_do_not_wait_behind_firings_that_do():
    world = a_world(0)
    spec = minutely_spec(world)
    for number in range(20):
        world.queue.add_firing(spec, f"s{number}", slot=world.machine.wall)
    task = world.queue.add(spec)
    press(world)

    assert started(tick(world)) == [task]


def test_one_that_is_edited_in_that_moment_is_left_to_the_next_tick():
    class Meddling:
        def live(self) -> Sequence[InteractivePressure]:
            one = world.queue.schedules["a"]
            world.queue.schedules["a"] = replace(one, revision=one.revision + 1)
            return tuple(world.disk.pressures.values())

    world = a_world(0)
    minutely(world)
    press(world)
    world.machine.advance(61)
    world.rewire = lambda found, _process: replace(found, pressures=Meddling())
    assert tick(world).stats.firings == 0
    assert not told(world, EventName.SCHEDULE_DEFERRED)
    assert world.queue.schedules["a"].deferrals == 0
    world.rewire = lambda found, _process: found

    tick(world)

    assert world.queue.schedules["a"].deferrals == 1
    assert len(told(world, EventName.SCHEDULE_DEFERRED)) == 1


def test_where_nothing_is_due_and_no_firing_waits_nobody_is_looked_for():
    looked = []

    class Counting(SimulatedPressures):
        def live(self) -> Sequence[InteractivePressure]:
            looked.append(1)
            return super().live()

    def rewire(world: World, process: Process) -> World:
        return replace(world, pressures=Counting(process, staged.disk))

    staged = a_world(3)
    minutely(staged)
    staged.rewire = rewire

    tick(staged)

    assert looked == []


def test_where_only_times_are_passed_over_nobody_is_looked_for():
    world = a_world(0)
    minutely(world, catch_up=CatchUp.NONE)
    press(world)
    world.machine.advance(3600 * 3)
    world.queue.schedules["a"] = replace(
        world.queue.schedules["a"], expires_at=world.machine.wall - timedelta(hours=1)
    )

    assert tick(world).stats.firings == 0
    assert not told(world, EventName.SCHEDULE_DEFERRED)


def test_a_tick_killed_anywhere_while_it_makes_way_loses_nothing_and_fires_nothing_twice():
    def set_up() -> SimulatedWorld:
        world = a_world(0)
        hourly(world)
        press(world, for_s=150)
        world.machine.advance(61)
        return world

    slot = set_up().queue.schedules["a"].next_fire_at
    counter = DeathAt(programs=frozenset({"tick"}))
    undisturbed = set_up()
    undisturbed.machine.on_point = counter
    tick(undisturbed)
    assert {"schedules.defer:before", "schedules.defer:after", "pressures.live"} <= set(
        counter.seen
    )
    for index in range(len(counter.seen)):
        world = set_up()
        world.machine.on_point = DeathAt(programs=frozenset({"tick"}), index=index)
        assert world.tick() is None

        for _ in range(10):
            tick(world)
            world.machine.advance(30)

        assert [row.slot for row in world.queue.rows.values()] == [slot], counter.seen[index]
        one = world.queue.schedules["a"]
        assert (one.fired, one.passed_over, one.deferrals) == (1, 0, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([1, 20, 30, 45, 60, 200, 4000])),
        st.tuples(st.just("press"), st.sampled_from([1, 40, 400, 5000])),
        st.tuples(st.just("leave"), st.just(0)),
        st.tuples(st.just("clock"), st.sampled_from([-3600, -31, 31])),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.sampled_from(CatchUp), st.sampled_from([60.0, 600.0]))
def test_whoever_comes_and_goes_each_time_fires_once_or_is_passed_over_once(
    actions: list[tuple[str, int]], catch_up: CatchUp, every_s: float
):
    world = a_world(0, slots=9)
    begin = world.machine.wall
    timing = Timing(every_s=every_s)
    first = begin + timedelta(seconds=every_s)
    minutely(
        *(world, "a"), timing=timing, catch_up=catch_up, overlap=Overlap.ALLOW, next_fire_at=first
    )
    for kind, amount in actions:
        match kind:
            case "press":
                press(world, for_s=amount)
            case "leave":
                world.disk.pressures.clear()
            case "clock":
                world.machine.step_wall(amount)
            case _:
                world.machine.advance(amount)
        before = world.queue.schedules["a"]
        report = tick(world)
        after = world.queue.schedules["a"]
        assert report.errors == ()
        # Put off at most ten times in a row, and never while nobody is at work.
        assert after.deferrals <= 10
        if after.deferrals > before.deferrals:
            assert world.disk.pressures
            assert after.fired == before.fired

    one = world.queue.schedules["a"]
    slots = [row.slot for row in world.queue.rows.values()]
    assert len(set(slots)) == len(slots) == one.fired
    assert all(slot is not None and (slot - begin).total_seconds() % every_s == 0 for slot in slots)
    # Whatever has come is dealt with exactly once.
    assert one.next_fire_at is not None
    dealt_with = (one.next_fire_at - first).total_seconds() / every_s
    assert one.fired + one.passed_over == dealt_with
