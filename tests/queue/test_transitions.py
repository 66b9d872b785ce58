"""The queue makes the moves of the transition table, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.queue.builders import AGAIN, Opened
from tests.queue.test_changes import STORED, bring_to

from tinyscheduler.core.leases import TRANSITIONS, TaskEvent
from tinyscheduler.errors import UsageError
from tinyscheduler.model.records import AlreadyEnded
from tinyscheduler.model.tasks import Finish, TaskState

Move = Callable[[Opened, str], object]


def settle_as(state: TaskState) -> Move:
    ending = Finish(state=state, reason=None, failures=1)
    return lambda opened, task_id: opened.queue.settle(task_id, lease_id="lease", ending=ending)


def ask_for(change: str) -> Move:
    def move(opened: Opened, task_id: str) -> bool:
        getattr(opened.queue, change)(task_id)
        return True

    return move


def cancel(opened: Opened, task_id: str) -> object:
    """Cancel as people do; where an attempt is under way, its end has to follow."""
    answer = opened.queue.request_cancel(task_id)
    settled = opened.queue.settle(task_id, lease_id="lease", ending=AGAIN)
    return settled or not isinstance(answer, AlreadyEnded)


MOVES: dict[TaskEvent, Move] = {
    TaskEvent.HOLD: ask_for("hold"),
    TaskEvent.RELEASE: ask_for("release"),
    TaskEvent.CLAIM: lambda opened, task_id: opened.claim(task_id),
    TaskEvent.REQUEUE: lambda opened, task_id: opened.queue.settle(
        task_id, lease_id="lease", ending=AGAIN
    ),
    TaskEvent.SUCCEED: settle_as(TaskState.DONE),
    TaskEvent.FAIL: settle_as(TaskState.FAILED),
    TaskEvent.PARK: settle_as(TaskState.PARKED),
    TaskEvent.CANCEL: cancel,
    TaskEvent.RETRY: ask_for("retry"),
}
# Asked for twice, these are granted twice, and the second time nothing moves.
NO_MOVES = {
    (TaskState.HELD, TaskEvent.HOLD),
    (TaskState.WAITING, TaskEvent.RELEASE),
    (TaskState.WAITING, TaskEvent.RETRY),  # ends a backoff
}


@pytest.mark.parametrize("event", list(MOVES))
@pytest.mark.parametrize("state", STORED)
def test_each_state_moves_as_the_table_says_or_not_at_all(opened, state, event):
    task_id = bring_to(opened, state)

    try:
        moved = bool(MOVES[event](opened, task_id))
    except UsageError:
        moved = False

    assert opened.queue.task(task_id).state is TRANSITIONS.get((state, event), state)
    assert moved == ((state, event) in set(TRANSITIONS) | NO_MOVES)


def test_every_move_of_the_table_is_tried():
    assert {event for _, event in TRANSITIONS} == set(MOVES) == set(TaskEvent)
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(STORED)
