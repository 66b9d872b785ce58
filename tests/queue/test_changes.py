"""What people may do to a task in each of its states, and what they are shown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.contract.builders import START
from tests.queue.builders import A_SPEC, DONE, PARKED, Opened

from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.model.records import AlreadyEnded, Cancelled, CancelRequested
from tinyscheduler.model.tasks import FailureReason, Finish, Requeue, TaskSpec, TaskState

STORED = (
    TaskState.WAITING,
    TaskState.HELD,
    TaskState.WORKING,
    TaskState.DONE,
    TaskState.FAILED,
    TaskState.PARKED,
    TaskState.CANCELLED,
)


def bring_to(opened: Opened, state: TaskState, spec: TaskSpec = A_SPEC) -> str:
    (task_id,) = opened.add(spec)
    match state:
        case TaskState.WAITING:
            pass
        case TaskState.HELD:
            opened.queue.hold(task_id)
        case TaskState.WORKING:
            assert opened.claim(task_id)
        case _:
            opened.end(task_id, Finish(state=state, reason=None, failures=1))
    assert opened.queue.task(task_id).state is state
    return task_id


@pytest.mark.parametrize("state", [TaskState.WAITING, TaskState.HELD, TaskState.PARKED])
def test_a_task_that_runs_nowhere_is_cancelled_at_once(opened, state):
    task_id = bring_to(opened, state)

    assert opened.queue.request_cancel(task_id) == Cancelled()

    record = opened.queue.task(task_id)
    assert record.state is TaskState.CANCELLED
    assert record.failure_reason is FailureReason.CANCELLED
    assert record.ended_at == START


def test_cancelling_a_working_task_notes_the_wish_and_names_the_lease(opened):
    task_id = bring_to(opened, TaskState.WORKING)

    assert opened.queue.request_cancel(task_id) == CancelRequested(lease_id="lease")
    assert opened.queue.request_cancel(task_id) == CancelRequested(lease_id="lease")

    record = opened.queue.task(task_id)
    assert record.state is TaskState.WORKING
    assert record.cancel_requested


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED])
def test_cancelling_what_ended_changes_nothing(opened, state):
    task_id = bring_to(opened, state)
    before = opened.queue.task(task_id)

    assert opened.queue.request_cancel(task_id) == AlreadyEnded(state=state)

    assert opened.queue.task(task_id) == before


def test_a_wish_to_cancel_dies_with_the_attempt_it_was_for(opened):
    task_id = bring_to(opened, TaskState.WORKING)
    opened.queue.request_cancel(task_id)
    assert opened.queue.settle(task_id, lease_id="lease", ending=PARKED)

    opened.queue.retry(task_id)

    assert opened.claim(task_id, lease_id="next")
    assert not opened.queue.task(task_id).cancel_requested


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.PARKED, TaskState.CANCELLED])
def test_retry_revives_with_all_attempts_and_goes_on_numbering(opened, state):
    task_id = bring_to(opened, state)

    opened.queue.retry(task_id)

    record = opened.queue.task(task_id)
    assert record.state is TaskState.WAITING
    assert (record.attempt, record.failures, record.launches) == (2, 0, 0)
    assert record.ended_at is None
    assert record.failure_reason is None
    assert opened.claim(task_id)


def test_retry_ends_a_backoff_and_leaves_the_failures_counted(opened):
    later = START + timedelta(hours=1)
    (task_id,) = opened.add(A_SPEC)
    failure = FailureReason.COMMAND_FAILED
    opened.end(
        task_id,
        Requeue(attempt=2, failures=1, launches=0, backing_off_until=later, reason=failure),
    )
    assert not opened.claim(task_id)

    opened.queue.retry(task_id)

    record = opened.queue.task(task_id)
    assert record.backing_off_until is None
    assert (record.attempt, record.failures) == (2, 1)
    assert opened.claim(task_id)


def test_a_backoff_is_told_until_the_task_starts_or_ends(opened):
    later = START + timedelta(seconds=9)
    failed = Requeue(
        attempt=2,
        failures=1,
        launches=0,
        backing_off_until=later,
        reason=FailureReason.COMMAND_FAILED,
    )
    started, cancelled, cancelled_while_working = opened.add(A_SPEC, A_SPEC, A_SPEC)
    for task_id in (started, cancelled):
        opened.end(task_id, failed)
        assert opened.queue.task(task_id).backing_off_until == later

    opened.queue.request_cancel(cancelled)
    opened.clock.advance(9)
    assert opened.claim(started)
    assert opened.claim(cancelled_while_working, lease_id="other")
    opened.queue.request_cancel(cancelled_while_working)
    opened.queue.settle(cancelled_while_working, lease_id="other", ending=failed)

    for task_id in (started, cancelled, cancelled_while_working):
        assert opened.queue.task(task_id).backing_off_until is None


def test_only_dependents_that_have_not_ended_count_whatever_they_went_through(opened):
    (blocker,) = opened.add(A_SPEC)
    after = TaskSpec(after=(blocker,))
    one, two, _three = opened.add(after, after, after)
    opened.end(blocker, DONE)

    opened.end(one, DONE)
    assert opened.queue.task(blocker).blocks == 2
    opened.end(two, PARKED)
    assert opened.queue.task(blocker).blocks == 1
    opened.queue.request_cancel(two)
    assert opened.queue.task(blocker).blocks == 1
    opened.queue.retry(two)
    assert opened.queue.task(blocker).blocks == 2
    opened.queue.retry(two)
    assert opened.queue.task(blocker).blocks == 2


def test_retry_never_starts_a_task_before_its_time(opened):
    (task_id,) = opened.add(TaskSpec(not_before=START + timedelta(hours=1)))
    opened.queue.request_cancel(task_id)

    opened.queue.retry(task_id)

    assert not opened.claim(task_id)


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (TaskState.DONE, "add it anew"),
        (TaskState.HELD, "release"),
        (TaskState.WORKING, "cancel it first"),
    ],
)
def test_retry_refuses_what_it_would_make_no_sense_of(opened, state, hint):
    task_id = bring_to(opened, state)
    before = opened.queue.task(task_id)

    with pytest.raises(UsageError, match=r"is (done|held|running)") as refused:
        opened.queue.retry(task_id)

    assert hint in (refused.value.hint or "")
    assert opened.queue.task(task_id) == before


def test_hold_and_release_move_a_task_there_and_back(opened):
    task_id = bring_to(opened, TaskState.WAITING)

    opened.queue.hold(task_id)
    assert opened.queue.task(task_id).state is TaskState.HELD
    opened.queue.hold(task_id)
    assert not opened.claim(task_id)

    opened.queue.release(task_id)
    opened.queue.release(task_id)
    assert opened.claim(task_id)


@pytest.mark.parametrize("state", STORED[2:])
@pytest.mark.parametrize("change", ["hold", "release"])
def test_only_waiting_and_held_tasks_can_be_held_and_released(opened, state, change):
    task_id = bring_to(opened, state)

    told = TaskState.RUNNING if state is TaskState.WORKING else state
    with pytest.raises(UsageError, match=f"task {task_id} is {told}") as refused:
        getattr(opened.queue, change)(task_id)

    assert opened.queue.task(task_id).state is state
    assert refused.value.hint


@pytest.mark.parametrize("change", ["task", "request_cancel", "retry", "hold", "release"])
@pytest.mark.parametrize("task_id", ["1", "x", "../x", "", "9" * 50])
def test_a_task_that_does_not_exist_is_not_found(opened, change, task_id):
    with pytest.raises(NotFoundError, match="there is no task"):
        getattr(opened.queue, change)(task_id)


def test_a_dependent_held_or_revived_stays_blocked_until_its_blocker_is_done(opened):
    blocker = bring_to(opened, TaskState.WAITING)
    dependent = bring_to(opened, TaskState.HELD, TaskSpec(after=(blocker,)))
    opened.queue.request_cancel(dependent)
    opened.queue.retry(dependent)
    assert opened.queue.task(blocker).blocks == 1
    assert opened.queue.task(dependent).blocked_by == (blocker,)

    opened.queue.request_cancel(dependent)
    opened.end(blocker, DONE)
    opened.queue.retry(dependent)

    assert opened.queue.task(dependent).blocked_by == ()
    assert opened.claim(dependent)


def test_a_record_tells_who_works_on_a_task(opened):
    task_id = bring_to(opened, TaskState.WORKING)
    opened.clock.advance(5)

    record = opened.queue.task(task_id)

    assert (record.lease_id, record.claimed_by) == ("lease", "shell")
    assert opened.queue.settle(task_id, lease_id="lease", ending=PARKED)
    record = opened.queue.task(task_id)
    assert (record.lease_id, record.claimed_by) == (None, None)
    assert record.failure_reason is FailureReason.COMMAND_FAILED
    assert record.failures == 3
    assert record.ended_at == START + timedelta(seconds=5)


def test_a_task_without_success_yet_keeps_telling_its_last_failure(opened):
    (task_id,) = opened.add(A_SPEC)
    failed = Requeue(
        attempt=2, failures=1, launches=0, backing_off_until=None, reason=FailureReason.DEAD_PID
    )
    opened.end(task_id, failed)
    never_started = Requeue(attempt=2, failures=1, launches=1, backing_off_until=None, reason=None)
    opened.end(task_id, never_started)
    assert opened.queue.task(task_id).failure_reason is FailureReason.DEAD_PID

    opened.end(task_id, DONE)

    assert opened.queue.task(task_id).failure_reason is None


def test_the_list_holds_the_newest_that_fit_in_order_of_age(opened):
    ids = opened.add(*(TaskSpec(agent=agent) for agent in "abababab"))
    opened.end(ids[1], DONE)
    opened.queue.hold(ids[7])
    opened.queue.claim(ids[0], lease_id="x", agent="b", queue="work", attempt=1)

    def listed(**which: object) -> list[str]:
        return [record.task_id for record in opened.queue.tasks(**which)]

    assert listed() == ids
    assert listed(limit=3) == ids[-3:]
    assert listed(agent="b") == [ids[0], ids[1], ids[3], ids[5], ids[7]]
    assert listed(state=TaskState.WAITING) == ids[2:7]
    assert listed(state=TaskState.WAITING, agent="a", limit=2) == [ids[4], ids[6]]
    assert listed(state=TaskState.RUNNING) == listed(state=TaskState.WORKING) == [ids[0]]


def test_counts_name_every_stored_state(opened):
    for state in STORED:
        bring_to(opened, state)
    opened.add(A_SPEC)

    assert opened.queue.counts() == {state: 1 + (state is TaskState.WAITING) for state in STORED}


def test_states_tell_of_the_tasks_that_exist(opened):
    done, held = bring_to(opened, TaskState.DONE), bring_to(opened, TaskState.HELD)

    assert opened.queue.states([done, held, "77", "x"]) == {
        done: TaskState.DONE,
        held: TaskState.HELD,
    }
