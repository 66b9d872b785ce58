"""What every pruner of tasks and attempts must do, whatever it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import Advancing, SteppedClock, open_database

from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.pruning import SqlitePruner
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.pruning import PruneBounds, Pruned, PruneKind
from tinyscheduler.model.tasks import FailureReason, Finish, Outcome, TaskSpec, TaskState
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.ledger import SimulatedLedger
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.pruner import SimulatedPruner
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tinyscheduler.ports import Ledger, Pruner, TaskSource

DAY_S = 86_400.0
REASON = FailureReason.COMMAND_FAILED


@dataclass(kw_only=True)
class Place:
    """A queue and its ledger, how time passes there, and what people do."""

    source: TaskSource
    ledger: Ledger
    pruner: Pruner
    clock: Advancing
    add: Callable[[TaskSpec], str]
    cancel: Callable[[str], object]
    retry: Callable[[str], object]
    known: Callable[[], set[str]]

    def add_one(self, *after: str, **more: object) -> str:
        return self.add(TaskSpec(command=("true",), after=after, **more))  # type: ignore[arg-type]  # a spec's fields, whichever a test names

    def end(self, task_id: str, state: TaskState = TaskState.DONE) -> None:
        """Run one attempt of the task and write down how it ended."""
        lease_id = f"l{task_id}"
        assert self.source.claim(task_id, lease_id=lease_id, agent="shell", queue="work", attempt=1)
        reason = None if state is TaskState.DONE else REASON
        self.ledger.record(an_attempt(task_id, self.clock, reason))
        ending = Finish(state=state, reason=reason, failures=0)
        assert self.source.settle(task_id, lease_id=lease_id, ending=ending)

    def prune(self, *, older_than_s: float = DAY_S, most: int = 100) -> Pruned:
        now = self.clock.now().wall
        before = now - timedelta(seconds=older_than_s)
        return self.pruner.prune(
            PruneBounds(history_before=before, logs_before=before, now=now, most=most)
        )


def an_attempt(task_id: str, clock: Advancing, reason: FailureReason | None) -> AttemptRecord:
    return AttemptRecord(
        lease_id=f"l{task_id}",
        task_id=task_id,
        source="local",
        agent="shell",
        attempt=1,
        started_at=None,
        ended_at=clock.now().wall,
        outcome=Outcome.SUCCEEDED if reason is None else Outcome.FAILED,
        failure_reason=reason,
    )


def build_sqlite(folder: Path, stack: ExitStack) -> Place:
    database = open_database(folder, stack)
    clock = SteppedClock()
    queue = LocalQueue(database, clock)
    return Place(
        source=queue,
        ledger=SqliteLedger(database),
        pruner=SqlitePruner(database),
        clock=clock,
        add=lambda spec: queue.add([(None, spec)])[0],
        cancel=queue.request_cancel,
        retry=queue.retry,
        known=lambda: {record.task_id for record in queue.tasks()},
    )


def build_simulated(_folder: Path, _stack: ExitStack) -> Place:
    machine, disk = Machine(), Disk()
    queue = SimulatedQueue(now=lambda: machine.wall)
    return Place(
        source=SimulatedSource(machine.spawn("tick"), queue),
        ledger=SimulatedLedger(machine.spawn("tick"), disk),
        pruner=SimulatedPruner(machine.spawn("tick"), disk, queue),
        clock=machine,
        add=queue.add,
        cancel=queue.request_cancel,
        retry=queue.retry,
        known=lambda: set(queue.rows),
    )


PLACES = {"sqlite": build_sqlite, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield PLACES[request.param](tmp_path, stack)


def counts(pruned: Pruned) -> dict[PruneKind, int]:
    return {one.kind: one.number for one in pruned.removed}


def test_what_ended_long_ago_goes_with_its_attempts_and_what_is_younger_stays(place):
    old, young = place.add_one(), place.add_one()
    place.end(old)
    place.clock.advance(DAY_S)
    place.end(young)
    place.clock.advance(1)

    pruned = place.prune()

    assert counts(pruned) == {PruneKind.TASKS: 1, PruneKind.ATTEMPTS: 1}
    assert not pruned.is_more
    assert place.known() == {young}
    assert list(place.ledger.attempts(old)) == []
    assert len(place.ledger.attempts(young)) == 1


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED])
def test_every_state_that_nothing_follows_is_pruned(place, state):
    task_id = place.add_one()
    place.end(task_id, state)
    place.clock.advance(2 * DAY_S)

    place.prune()

    assert place.known() == set()


def test_a_parked_task_waits_for_its_owner_however_long(place):
    parked = place.add_one()
    place.end(parked, TaskState.PARKED)
    place.clock.advance(1000 * DAY_S)

    assert place.prune().removed == ()

    assert place.known() == {parked}
    assert len(place.ledger.attempts(parked)) == 1
    place.cancel(parked)
    place.clock.advance(2 * DAY_S)
    place.prune()
    assert place.known() == set()


def test_what_waits_is_held_or_runs_is_never_touched(place):
    waiting, held, working = place.add_one(), place.add_one(is_held=True), place.add_one()
    assert place.source.claim(working, lease_id="l", agent="shell", queue="work", attempt=1)
    place.clock.advance(1000 * DAY_S)

    assert place.prune().removed == ()

    assert place.known() == {waiting, held, working}


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.FAILED])
def test_what_an_unfinished_task_comes_after_stays_until_that_has_ended(place, state):
    first = place.add_one()
    second = place.add_one(first)
    place.end(first, state)
    place.clock.advance(2 * DAY_S)

    place.prune()
    assert place.known() == {first, second}

    place.cancel(second)
    place.clock.advance(2 * DAY_S)
    place.prune()
    place.prune()
    assert place.known() == set()


def test_a_cancelled_task_can_be_retried_as_long_as_it_is_known(place):
    first = place.add_one()
    second = place.add_one(first)
    place.end(first, TaskState.FAILED)
    place.clock.advance(2 * DAY_S)
    place.cancel(second)
    place.prune()

    place.retry(second)

    (task,) = place.source.look(window=5).waiting
    assert task.blocked_by == (first,)


def test_a_chain_goes_from_its_end(place):
    ids = [place.add_one()]
    for _ in range(3):
        ids.append(place.add_one(ids[-1]))
    for task_id in ids:
        place.end(task_id)
    place.clock.advance(2 * DAY_S)

    for _ in range(4):
        place.prune()

    assert place.known() == set()


def test_a_chain_that_was_given_up_goes_at_once(place):
    ids = [place.add_one()]
    for _ in range(3):
        ids.append(place.add_one(ids[-1]))
    for task_id in ids:
        place.cancel(task_id)
    place.clock.advance(2 * DAY_S)

    pruned = place.prune()

    assert (counts(pruned), pruned.is_more) == ({PruneKind.TASKS: 4}, False)
    assert place.known() == set()


def test_a_chain_is_cut_at_the_bound_and_the_rest_is_told(place):
    ids = [place.add_one()]
    for _ in range(4):
        ids.append(place.add_one(ids[-1]))
    for task_id in ids:
        place.cancel(task_id)
    place.clock.advance(2 * DAY_S)

    assert [place.prune(most=2).is_more for _ in range(3)] == [True, True, False]

    assert place.known() == set()


def test_what_comes_before_both_one_that_goes_and_one_that_stays_is_kept(place):
    first = place.add_one()
    gone, stays = place.add_one(first), place.add_one(first)
    for task_id in (first, gone):
        place.cancel(task_id)
    place.clock.advance(2 * DAY_S)

    assert counts(place.prune()) == {PruneKind.TASKS: 1}

    assert place.known() == {first, stays}
    place.cancel(stays)
    assert place.prune() == Pruned()
    place.clock.advance(2 * DAY_S)
    assert counts(place.prune()) == {PruneKind.TASKS: 2}


def test_attempts_of_tasks_that_nobody_knows_go_by_their_age(place):
    place.ledger.record(an_attempt("tinytask-7", place.clock, None))
    place.clock.advance(DAY_S)
    place.ledger.record(an_attempt("tinytask-8", place.clock, None))
    place.clock.advance(1)

    assert counts(place.prune()) == {PruneKind.ATTEMPTS: 1}

    assert list(place.ledger.attempts("tinytask-7")) == []
    assert len(place.ledger.attempts("tinytask-8")) == 1


def test_no_more_than_asked_for_goes_at_once_the_oldest_first(place):
    ids = [place.add_one() for _ in range(5)]
    for task_id in ids:
        place.end(task_id)
        place.clock.advance(1)
    place.clock.advance(2 * DAY_S)

    first = place.prune(most=2)
    assert (counts(first)[PruneKind.TASKS], first.is_more) == (2, True)
    assert place.known() == set(ids[2:])
    assert place.prune(most=2).is_more
    assert not place.prune(most=2).is_more
    assert place.known() == set()


def test_a_number_is_never_given_again(place):
    task_id = place.add_one()
    place.end(task_id)
    place.clock.advance(2 * DAY_S)
    place.prune()

    assert place.add_one() != task_id
