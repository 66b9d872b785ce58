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
from tinyscheduler.core.firings import plan_firings
from tinyscheduler.model.schedules import (
    CatchUp,
    LiveFirings,
    Overlap,
    Schedule,
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
