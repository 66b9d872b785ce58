"""What every keeper of schedules must do, whatever it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import START, SteppedClock, open_database

from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.core.firings import plan_deferral, plan_firings, plan_silence
from tinyscheduler.model.schedules import (
    CatchUp,
    FiringDeferral,
    LiveFirings,
    Overlap,
    Schedule,
    ScheduleKind,
    ScheduleState,
    Timing,
)
from tinyscheduler.model.tasks import FailureReason, Finish, TaskSpec, TaskState
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.schedules import SimulatedSchedules
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from tinyscheduler.ports import Schedules, TaskSource

MINUTE = timedelta(minutes=1)
DONE = Finish(state=TaskState.DONE, reason=None, failures=0)
FAILED = Finish(state=TaskState.FAILED, reason=FailureReason.COMMAND_FAILED, failures=1)
MOST = 2


@dataclass(kw_only=True)
class Place:
    """A place where schedules are kept: each call of ``keeper`` is another process."""

    keeper: Callable[[], Schedules]
    source: Callable[[], TaskSource]
    keep: Callable[[Schedule], None]
    advance: Callable[[float], None]
    now: Callable[[], datetime]
    pressure_of: Callable[[str], int]
    _leases: int = 0

    def fire(self) -> list[str]:
        """Fire what is due, as a tick does; return the tasks."""
        found: list[str] = []
        keeper = self.keeper()
        for one, live in keeper.due(self.now()):
            plan = plan_firings(one, live, self.now())
            if plan is not None:
                found += keeper.fire(plan) or []
        return found

    def claim(self, task_id: str) -> str | None:
        """Claim a task; return the lease, or None where it was refused."""
        self._leases += 1
        lease = f"lease-{self._leases}"
        source = self.source()
        source.look(window=1000)
        is_ours = source.claim(task_id, lease_id=lease, agent="shell", queue="work", attempt=1)
        return lease if is_ours else None

    def end(self, task_id: str, lease: str, ending: Finish = DONE) -> None:
        assert self.source().settle(task_id, lease_id=lease, ending=ending) is ending.state


def build_sqlite(folder: Path, stack: ExitStack) -> Place:
    clock = SteppedClock()

    def keeper() -> SqliteSchedules:
        return SqliteSchedules(open_database(folder, stack), clock)

    return Place(
        keeper=keeper,
        source=lambda: LocalQueue(open_database(folder, stack), clock, most_firings=MOST),
        keep=lambda one: keeper().add(one),
        advance=clock.advance,
        now=lambda: clock.now().wall,
        pressure_of=lambda task: next(
            one.pressure for one in keeper().metrics(None, limit=9) if one.task_id == task
        ),
    )


def build_simulated(_folder: Path, _stack: ExitStack) -> Place:
    machine = Machine()
    machine.step_wall((START - machine.wall).total_seconds())
    queue = SimulatedQueue(now=lambda: machine.wall, most_firings=MOST)

    def keep(one: Schedule) -> None:
        queue.schedules[one.schedule_id] = one

    return Place(
        keeper=lambda: SimulatedSchedules(machine.spawn("tick"), queue),
        source=lambda: SimulatedSource(machine.spawn("tick"), queue),
        keep=keep,
        advance=machine.advance,
        now=lambda: machine.wall,
        pressure_of=lambda task: queue.rows[task].pressure,
    )


PLACES = {"sqlite": build_sqlite, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield PLACES[request.param](tmp_path, stack)


def minutely(name: str = "a", **more: object) -> Schedule:
    fields: dict[str, object] = {
        "timing": Timing(every_s=60.0),
        "spec": TaskSpec(agent="shell", command=("true",)),
        "created_at": START,
        "anchor": START,
        "next_fire_at": START + MINUTE,
        **more,
    }
    return Schedule(schedule_id=name, name=name, **fields)  # type: ignore[arg-type]  # each is named as a field is


def one_of(place: Place, name: str = "a") -> tuple[Schedule, LiveFirings]:
    """Return the schedule a long time later, when it is surely due."""
    return next(
        pair
        for pair in place.keeper().due(place.now() + timedelta(days=3650))
        if pair[0].schedule_id == name
    )


def test_nothing_is_due_before_its_time_and_then_it_is(place: Place):
    place.keep(minutely())
    assert not place.keeper().due(place.now())

    place.advance(60)
    ((found, live),) = place.keeper().due(place.now())

    assert (found.schedule_id, found.next_fire_at, found.fired) == ("a", START + MINUTE, 0)
    assert live == LiveFirings()


def test_a_time_fires_once_whoever_tries(place: Place):
    place.keep(minutely())
    place.advance(60)
    ((one, live),) = place.keeper().due(place.now())
    plan = plan_firings(one, live, place.now())
    assert plan is not None

    (first,) = place.keeper().fire(plan) or ()

    assert place.keeper().fire(plan) is None
    waiting = place.source().look(window=10).waiting
    assert [(task.task_id, task.schedule_id) for task in waiting] == [(first, "a")]
    after, live = one_of(place)
    assert (after.fired, after.next_fire_at) == (1, START + 2 * MINUTE)
    assert live == LiveFirings(waiting=(first,))


def test_while_one_lives_the_next_is_passed_over_and_counted(place: Place):
    place.keep(minutely())
    place.advance(60)
    (task,) = place.fire()
    place.advance(60)
    assert place.fire() == []
    lease = place.claim(task)
    assert lease is not None
    place.advance(60)
    assert place.fire() == []
    place.end(task, lease)
    place.advance(60)

    assert len(place.fire()) == 1
    found, _ = one_of(place)
    assert (found.fired, found.passed_over) == (2, 2)


@pytest.mark.parametrize(
    ("overlap", "waits"),
    [(Overlap.SKIP, 1), (Overlap.QUEUE_ONE, 2), (Overlap.QUEUE_ALL, 4), (Overlap.ALLOW, 4)],
)
def test_as_many_wait_as_the_overlap_says(place: Place, overlap: Overlap, waits: int):
    place.keep(minutely(overlap=overlap))
    for _ in range(4):
        place.advance(60)
        place.fire()

    assert len(place.source().look(window=10).waiting) == waits


def test_one_that_replaces_cancels_the_earlier_one(place: Place):
    place.keep(minutely(overlap=Overlap.REPLACE))
    place.advance(60)
    (first,) = place.fire()
    place.advance(60)
    (second,) = place.fire()
    assert [task.task_id for task in place.source().look(window=10).waiting] == [second]
    lease = place.claim(second)
    assert lease is not None
    place.advance(60)
    (third,) = place.fire()

    view = place.source().look(window=10)
    (claim,) = view.claims
    assert (claim.task_id, claim.cancel_requested, claim.schedule_id) == (second, True, "a")
    assert [task.task_id for task in view.waiting] == [third]
    assert first not in {second, third}


def test_firings_of_one_schedule_run_one_after_the_other(place: Place):
    place.keep(minutely(overlap=Overlap.QUEUE_ALL))
    place.advance(60)
    (first,) = place.fire()
    place.advance(60)
    (second,) = place.fire()

    lease = place.claim(first)
    assert lease is not None
    assert place.claim(second) is None
    place.end(first, lease)
    assert place.claim(second) is not None


def test_those_that_may_run_beside_each_other_do(place: Place):
    place.keep(minutely(overlap=Overlap.ALLOW))
    for _ in range(2):
        place.advance(60)
        (task,) = place.fire()
        assert place.claim(task) is not None


def test_no_more_firings_are_claimed_than_may_run_at_once(place: Place):
    for name in "abc":
        place.keep(minutely(name))
    place.advance(60)
    first, second, third = place.fire()

    leases = [place.claim(task) for task in (first, second, third)]
    assert [lease is not None for lease in leases] == [True, True, False]
    assert leases[0] is not None
    place.end(first, leases[0])
    assert place.claim(third) is not None


def test_who_planned_on_another_definition_fires_nothing(place: Place):
    place.keep(minutely())
    place.advance(60)
    one, live = one_of(place)
    plan = plan_firings(one, live, place.now())
    assert plan is not None

    late = replace(plan, schedule=replace(one, revision=one.revision + 1))

    assert place.keeper().fire(late) is None
    assert place.keeper().fire(plan) is not None


def test_three_failures_in_a_row_pause_it_and_say_which_was_the_last(place: Place):
    place.keep(minutely(catch_up=CatchUp.NONE))
    for number in range(1, 4):
        place.advance(60)
        (task,) = place.fire()
        lease = place.claim(task)
        assert lease is not None
        assert place.keeper().paused_by(task) is None
        place.end(task, lease, FAILED)
        paused = place.keeper().paused_by(task)
        assert (paused is not None) == (number == 3)

    assert paused is not None
    assert (paused.schedule_id, paused.state) == ("a", ScheduleState.PAUSED)
    assert paused.why_paused == "3 firings in a row failed, at last: command_failed"
    place.advance(600)
    assert place.fire() == []


def test_what_it_fired_before_it_paused_itself_is_held(place: Place):
    place.keep(minutely(overlap=Overlap.QUEUE_ALL, catch_up=CatchUp.ALL))
    place.keep(minutely("b"))
    place.advance(300)
    other, *tasks = sorted(place.fire(), key=lambda task: task in one_of(place)[1].waiting)
    for task in tasks[:3]:
        lease = place.claim(task)
        assert lease is not None
        place.end(task, lease, FAILED)

    held = {one.task_id: one.is_held for one in place.source().look(window=10).waiting}
    assert held == {other: False, **dict.fromkeys(tasks[3:], True)}
    assert place.claim(tasks[3]) is None
    keeper = place.keeper()
    if isinstance(keeper, SqliteSchedules):
        keeper.set_state("a", ScheduleState.ACTIVE, next_fire_at=place.now() + MINUTE)
        assert not any(one.is_held for one in place.source().look(window=10).waiting)


def test_a_success_between_failures_begins_to_count_anew(place: Place):
    place.keep(minutely(catch_up=CatchUp.NONE))
    for ending in (FAILED, FAILED, DONE, FAILED, FAILED):
        place.advance(60)
        (task,) = place.fire()
        lease = place.claim(task)
        assert lease is not None
        place.end(task, lease, ending)

    found, _ = one_of(place)
    assert (found.state, found.failure_streak) == (ScheduleState.ACTIVE, 2)


def test_one_that_has_fired_as_often_as_it_may_is_over(place: Place):
    place.keep(minutely(max_firings=1))
    place.advance(60)
    assert len(place.fire()) == 1

    assert not place.keeper().due(place.now() + timedelta(days=3650))


def test_tasks_that_are_no_firings_count_nowhere(place: Place):
    place.keep(minutely())
    place.advance(60)
    (task,) = place.fire()
    claim = place.claim(task)

    assert claim is not None
    (seen,) = place.source().look(window=10).claims
    assert seen.schedule_id == "a"
    assert replace(seen, schedule_id=None).schedule_id is None


def make_way(place: Place, name: str = "a") -> FiringDeferral | None:
    """Let a schedule that is due make way, as a tick does; None if it has to fire."""
    one = next(one for one, _ in place.keeper().due(place.now()) if one.schedule_id == name)
    deferral = plan_deferral(one, place.now(), delay_s=30)
    assert deferral is None or place.keeper().defer(deferral)
    return deferral


@pytest.mark.parametrize("catch_up", list(CatchUp))
def test_what_makes_way_fires_later_for_the_time_it_would_have_fired_for(
    place: Place, catch_up: CatchUp
):
    timing, first = Timing(every_s=3600.0), START + 60 * MINUTE
    place.keep(minutely(catch_up=catch_up, timing=timing, next_fire_at=first))
    place.advance(3600)

    for number in range(1, 11):
        deferral = make_way(place)
        assert deferral is not None
        assert deferral.slot == START + 60 * MINUTE
        assert deferral.until == place.now() + timedelta(seconds=30)
        assert not place.keeper().due(place.now() + timedelta(seconds=29))
        place.advance(30)
        assert one_of(place)[0].deferrals == number

    assert make_way(place) is None
    (task,) = place.fire()
    (waiting,) = place.source().look(window=10).waiting
    assert (waiting.task_id, waiting.slot) == (task, START + 60 * MINUTE)
    after, _ = one_of(place)
    assert (after.fired, after.passed_over, after.deferrals) == (1, 0, 0)
    assert (after.next_fire_at, after.deferred_until) == (START + 120 * MINUTE, None)


def test_two_who_see_it_due_count_one_deferral(place: Place):
    place.keep(minutely())
    place.advance(60)
    ((one, live),) = place.keeper().due(place.now())
    deferral = plan_deferral(one, place.now(), delay_s=30)
    assert deferral is not None

    assert place.keeper().defer(deferral)
    assert not place.keeper().defer(deferral)

    assert one_of(place)[0].deferrals == 1
    plan = plan_firings(one, live, place.now())
    assert plan is not None
    assert place.keeper().fire(plan) is not None
    assert not place.keeper().defer(deferral)
    assert one_of(place)[0].deferrals == 0


def test_times_before_the_one_that_makes_way_are_passed_over_once(place: Place):
    place.keep(minutely())
    place.advance(10 * 60)

    assert make_way(place) is not None
    after, _ = one_of(place)
    assert (after.next_fire_at, after.passed_over) == (START + 10 * MINUTE, 9)
    place.advance(30)
    assert len(place.fire()) == 1
    after, _ = one_of(place)
    assert (after.fired, after.passed_over, after.next_fire_at) == (1, 9, START + 11 * MINUTE)


@pytest.mark.parametrize(("catch_up", "fired"), [(CatchUp.ALL, 6), (CatchUp.LATEST, 1)])
def test_times_that_come_meanwhile_follow_what_is_said_of_missed_ones(
    place: Place, catch_up: CatchUp, fired: int
):
    place.keep(minutely(catch_up=catch_up, overlap=Overlap.ALLOW))
    place.advance(60)
    for _ in range(10):
        assert make_way(place) is not None
        place.advance(30)

    assert len(place.fire()) == fired
    after, _ = one_of(place)
    assert after.fired + after.passed_over == 6


def test_a_firing_that_found_nothing_counts_of_heartbeats_alone(place: Place):
    place.keep(minutely("beat", kind=ScheduleKind.HEARTBEAT))
    place.keep(minutely("job"))
    place.advance(60)
    for task in place.fire():
        lease = place.claim(task)
        assert lease is not None
        place.end(task, lease, replace(DONE, found_nothing=True))

    assert [one_of(place, name)[0].suppressed for name in ("beat", "job")] == [1, 0]
    assert [place.keeper().is_heartbeat(name) for name in ("beat", "job", "none")] == [
        True,
        False,
        False,
    ]


def test_where_there_is_nothing_to_do_a_schedule_moves_on_and_counts_it(place: Place):
    place.keep(minutely(kind=ScheduleKind.HEARTBEAT))
    place.advance(60)
    ((one, _),) = place.keeper().due(place.now())

    assert place.keeper().fire(plan_silence(one, place.now())) == []
    assert place.keeper().fire(plan_silence(one, place.now())) is None

    after, _ = one_of(place)
    assert (after.suppressed, after.fired, after.next_fire_at) == (1, 0, START + 2 * MINUTE)


def test_firings_of_today_are_counted_by_the_day_of_the_zone(place: Place):
    # It is noon in UTC, and ten at night in Brisbane.
    timing = Timing(every_s=3600.0, zone="Australia/Brisbane")
    place.keep(minutely(timing=timing, next_fire_at=START + 60 * MINUTE, max_per_day=9))
    place.keep(minutely("unbounded", timing=timing, next_fire_at=START + 60 * MINUTE))
    for _ in range(3):
        place.advance(3600)
        for task in place.fire():
            lease = place.claim(task)
            assert lease is not None
            place.end(task, lease)

    # One at eleven; the one at midnight, and the one after it, count for the next day.
    place.advance(3600)
    live = {one.schedule_id: live for one, live in place.keeper().due(place.now())}
    assert (live["a"].fired_today, live["unbounded"].fired_today) == (2, 0)


def test_what_an_agent_reads_may_differ_from_what_the_schedule_says(place: Place):
    place.keep(minutely(spec=TaskSpec(agent="shell", prompt="go through it")))
    place.advance(60)
    ((one, live),) = place.keeper().due(place.now())
    plan = plan_firings(one, live, place.now())
    assert plan is not None

    (task,) = place.keeper().fire(replace(plan, prompt="- [ ] mail")) or ()

    assert place.source().describe(task).prompt == "- [ ] mail"
    assert one_of(place)[0].spec.prompt == "go through it"


def test_how_many_were_at_work_is_kept_of_a_firing_that_begins(place: Place):
    place.keep(minutely())
    place.advance(60)
    (task,) = place.fire()
    source = place.source()
    source.look(window=10)

    assert source.claim(task, lease_id="lease", agent="shell", queue="work", attempt=1, pressure=3)
    assert place.pressure_of(task) == 3
