"""The table of a task's moves."""

from __future__ import annotations

from itertools import product

import pytest

from tinyscheduler.core.leases import TRANSITIONS, TaskEvent, advance
from tinyscheduler.model.tasks import TaskState

# Read off the lease of a task that is working; no event of a task leads there.
SEEN_ON_THE_LEASE = {TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING}


@pytest.mark.parametrize(("state", "event"), list(product(TaskState, TaskEvent)), ids=str)
def test_every_move_is_in_the_table_or_an_assertion_error(state: TaskState, event: TaskEvent):
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(AssertionError, match=f"no move {event} from {state}"):
            advance(state, event)


def test_a_task_that_is_done_moves_no_more():
    assert not [event for state, event in TRANSITIONS if state is TaskState.DONE]


def test_only_somebody_asking_moves_a_task_that_has_ended():
    asked = {TaskEvent.RETRY, TaskEvent.CANCEL}

    assert {event for state, event in TRANSITIONS if state.is_final} == asked


def test_every_state_that_is_stored_can_be_reached_and_every_event_happens():
    assert {*TRANSITIONS.values()} == {*TaskState} - SEEN_ON_THE_LEASE
    assert {event for _, event in TRANSITIONS} == {*TaskEvent}
    assert not SEEN_ON_THE_LEASE & {state for state, _ in TRANSITIONS}


def test_no_task_is_lost_every_state_but_done_has_a_way_to_done():
    reaching = {TaskState.DONE}
    for _ in TaskState:
        reaching |= {state for (state, _), after in TRANSITIONS.items() if after in reaching}

    assert reaching == {*TaskState} - SEEN_ON_THE_LEASE
