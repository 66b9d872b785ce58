"""What agents may do to tasks, and what becomes of those when ticks come by."""

from __future__ import annotations

from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.queue.builders import AGAIN, DONE, PARKED, Opened, assert_sound, open_queue, run_killed

from tinyscheduler.adapters.sqlite.remarks import Remarks, insert_comment
from tinyscheduler.adapters.sqlite.shared_tasks import Caller, SharedTasks
from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.model.shared_tasks import SharedTask, Status
from tinyscheduler.model.tasks import Outcome, TaskSpec, TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from pathlib import Path


def shared(opened: Opened, *, lease_id: str | None = None) -> SharedTasks:
    return SharedTasks(
        opened.database, opened.clock, opened.queue, Caller(name="ann", lease_id=lease_id)
    )


def create(opened: Opened, *, parent: int | None = None, **fields: Any) -> int:
    spec = TaskSpec(**{"agent": "coder", "title": "t", "prompt": "t"} | fields)
    return shared(opened).create(spec, created_by="ann", parent=parent).task_id


def update(
    opened: Opened, row: int, *, lease_id: str | None = None, **changes: object
) -> SharedTask:
    return shared(opened, lease_id=lease_id).update(row, changes, vet=lambda _: None)


def state(opened: Opened, row: int) -> TaskState:
    return opened.queue.task(str(row)).state


def test_what_is_taken_no_tick_starts_and_its_end_is_in_the_history(opened: Opened):
    low, high = create(opened), create(opened, priority=5)
    create(opened, priority=9, after=(str(low),))

    taken = shared(opened).take_next("coder", queue=None)

    assert taken is not None
    assert (taken.task_id, taken.status, taken.taken_by) == (high, Status.WORKING, "coder")
    assert not opened.claim(str(high))
    done = update(opened, high, status=Status.COMPLETE)
    assert (done.status, done.taken_by) == (Status.COMPLETE, None)
    (attempt,) = opened.ledger.attempts(str(high))
    assert (attempt.outcome, attempt.agent, attempt.attempt) == (Outcome.SUCCEEDED, "coder", 1)
    assert attempt.started_at is not None
    assert shared(opened).take_next("nobody", queue=None) is None


def test_what_a_tick_has_claimed_is_taken_changed_and_ended_by_nobody_else(opened: Opened):
    row = create(opened)
    assert opened.claim(str(row), lease_id="its-own")

    assert shared(opened).take_next("coder", queue=None) is None
    move = partial(shared(opened).move, row, agent="qa", vet=lambda _: None, comment=note)
    for call in (
        partial(update, opened, row, status=Status.COMPLETE),
        partial(update, opened, row, status=Status.IDLE),
        partial(update, opened, row, agent="qa"),
        partial(update, opened, row, prompt="another"),
        partial(shared(opened).remove, row),
        partial(move, current="shell"),
    ):
        with pytest.raises(UsageError, match="only that attempt can say"):
            call()
    with pytest.raises(UsageError, match="cannot let it wait again"):
        update(opened, row, lease_id="its-own", status=Status.IDLE)
    with pytest.raises(UsageError, match="is not assigned to qa"):
        move(current="qa")
    assert update(opened, row, title="new").title == "new"
    assert opened.queue.settle(str(row), lease_id="its-own", ending=DONE) is TaskState.DONE


def note(connection: Any, row: int, *, by: str, now: int) -> int:
    return insert_comment(connection, row, "over to you", by=by, now=now)


def test_complete_is_a_note_and_the_end_of_the_attempt_decides(opened: Opened):
    row = create(opened)
    opened.claim(str(row), lease_id="first")

    said = update(opened, row, lease_id="first", status=Status.COMPLETE)
    after_it = opened.queue.settle(str(row), lease_id="first", ending=AGAIN)

    assert (said.state, said.said) == (TaskState.WORKING, "complete")
    assert after_it is TaskState.WAITING
    again = shared(opened).task(row)
    assert again is not None
    assert (again.status, again.said) == (Status.IDLE, None)


@pytest.mark.parametrize("by", ["move", "update"])
def test_what_may_not_be_given_to_an_agent_its_own_attempt_cannot_give_it_either(
    opened: Opened, by: str
):
    row = create(opened, agent="shell", command=("true",), prompt=None)
    assert opened.claim(str(row), lease_id="mine")
    mine = shared(opened, lease_id="mine")

    def refuse(spec: TaskSpec) -> None:
        raise UsageError(f"{spec.agent} may not")

    calls: dict[str, Any] = {
        "move": partial(mine.move, row, current="shell", agent="qa", comment=note),
        "update": partial(mine.update, row, {"agent": "qa", "status": Status.IDLE}),
    }
    with pytest.raises(UsageError, match="qa may not"):
        calls[by](vet=refuse)


@pytest.mark.parametrize("by", ["move", "update"])
def test_an_attempt_hands_its_task_on_when_it_has_ended_well(opened: Opened, by: str):
    row = create(opened)
    opened.claim(str(row), lease_id="dev")
    mine = shared(opened, lease_id="dev")

    if by == "move":
        mine.move(row, current="shell", agent="qa", vet=lambda _: None, comment=note)
    else:
        update(opened, row, lease_id="dev", agent="qa", status=Status.IDLE)
    assert state(opened, row) is TaskState.WORKING
    after_it = opened.queue.settle(str(row), lease_id="dev", ending=DONE)

    moved = opened.queue.describe(str(row))
    assert (after_it, moved.agent) == (TaskState.WAITING, "qa")
    assert opened.queue.task(str(row)).attempt == 2
    again = shared(opened).task(row)
    assert again is not None
    assert again.previous_agent == "coder"
    # Its first word was that of another attempt.
    opened.claim(str(row), lease_id="qa")
    assert opened.queue.settle(str(row), lease_id="qa", ending=DONE) is TaskState.DONE


def test_a_task_that_was_to_be_handed_on_and_is_cancelled_or_fails_goes_nowhere(opened: Opened):
    failing, cancelled = create(opened), create(opened)
    for row in (failing, cancelled):
        opened.claim(str(row), lease_id=f"of-{row}")
        update(opened, row, lease_id=f"of-{row}", agent="qa")
    opened.queue.request_cancel(str(cancelled))

    ended = [
        opened.queue.settle(str(failing), lease_id=f"of-{failing}", ending=PARKED),
        opened.queue.settle(str(cancelled), lease_id=f"of-{cancelled}", ending=DONE),
    ]

    assert ended == [TaskState.PARKED, TaskState.CANCELLED]
    assert opened.queue.describe(str(failing)).agent == "coder"


def test_a_whole_waits_for_its_parts_and_is_done_with_the_last(opened: Opened):
    whole = create(opened)
    parts = [create(opened, parent=whole) for _ in range(2)]
    below = create(opened, parent=parts[0])
    later = create(opened, after=(str(whole),))

    assert not opened.claim(str(whole))
    assert not opened.claim(str(parts[0]))
    opened.end(str(below), DONE)
    assert state(opened, parts[0]) is TaskState.DONE
    opened.claim(str(parts[1]))
    seen = shared(opened).task(whole)
    assert seen is not None
    assert (seen.status, seen.is_blocked) == (Status.WORKING, False)
    opened.queue.settle(str(parts[1]), lease_id="lease", ending=DONE)

    assert state(opened, whole) is TaskState.DONE
    assert opened.claim(str(later))


def test_an_attempt_that_divides_its_task_has_it_done_with_the_parts_and_never_runs_it_again(
    opened: Opened,
):
    whole = create(opened)
    opened.claim(str(whole), lease_id="dividing")
    part = create(opened, parent=whole)

    after_it = opened.queue.settle(str(whole), lease_id="dividing", ending=DONE)

    assert after_it is TaskState.WAITING
    assert not opened.claim(str(whole))
    shared(opened).archive(part)
    assert state(opened, whole) is TaskState.DONE


def test_a_whole_whose_own_attempt_failed_is_tried_again_after_its_parts(opened: Opened):
    whole = create(opened)
    opened.claim(str(whole), lease_id="dividing")
    part = create(opened, parent=whole)
    again = replace(AGAIN, attempt=2, failures=1)
    opened.queue.settle(str(whole), lease_id="dividing", ending=again)

    opened.end(str(part), DONE)

    assert state(opened, whole) is TaskState.WAITING
    assert opened.claim(str(whole))


def test_a_whole_that_is_revived_runs_whatever_it_did_before(opened: Opened):
    whole = create(opened)
    opened.claim(str(whole), lease_id="dividing")
    part = create(opened, parent=whole)
    opened.queue.settle(str(whole), lease_id="dividing", ending=DONE)
    opened.queue.request_cancel(str(whole))
    opened.end(str(part), DONE)

    opened.queue.retry(str(whole))

    assert opened.claim(str(whole))


def test_families_that_cannot_be_are_refused(opened: Opened):
    top = create(opened)
    middle = create(opened, parent=top)
    low = create(opened, parent=middle)
    lowest = create(opened, parent=low)
    later = create(opened, after=(str(top),))
    done = create(opened)
    opened.end(str(done), DONE)

    for part, parent, words in (
        (top, top, "its own parent"),
        (top, lowest, "circular"),
        (later, top, "circular"),
        (later, done, "takes no more parts"),
        (done, lowest, "Maximum nesting depth"),
        (later, 999, "Parent task not found: 999"),
    ):
        with pytest.raises(UsageError, match=words):
            update(opened, part, parent=parent)
    assert update(opened, low, parent=None).parent_id is None


def test_what_is_deleted_is_waited_for_no_more_and_takes_its_parts_along(opened: Opened):
    whole = create(opened)
    part = create(opened, parent=whole)
    later = create(opened, after=(str(whole), str(part)))
    Remarks(opened.database, opened.clock).add_comment(part, "x", by=None)

    shared(opened).remove(whole)

    assert opened.queue.describe(str(later)).after == ()
    assert opened.claim(str(later))
    with pytest.raises(NotFoundError):
        opened.queue.task(str(part))


def test_what_is_archived_at_work_ends_and_waits_no_more(opened: Opened):
    row, waiting = create(opened), create(opened)
    opened.claim(str(row))

    assert shared(opened).archive(row).state is TaskState.WORKING
    assert shared(opened).archive(waiting).state is TaskState.CANCELLED

    assert opened.queue.settle(str(row), lease_id="lease", ending=AGAIN) is TaskState.CANCELLED
    # Whoever wants it after all gets it.
    opened.queue.retry(str(waiting))
    found = shared(opened).task(waiting)
    assert found is not None
    assert found.archived_at is None


def test_statuses_that_cannot_follow_are_refused_and_failures_revived(opened: Opened):
    done, parked, held = create(opened), create(opened), create(opened, is_held=True)
    opened.end(str(done), DONE)
    opened.end(str(parked), PARKED)

    for row, status, words in (
        (done, Status.IDLE, "complete and stays so"),
        (parked, Status.WORKING, "only one that waits can be taken"),
        (held, Status.WORKING, "only one that waits can be taken"),
        (held, Status.COMPLETE, "cannot be completed"),
    ):
        with pytest.raises(UsageError, match=words):
            update(opened, row, status=status)
    assert update(opened, parked, status=Status.IDLE).state is TaskState.WAITING


def test_of_a_tick_and_agents_that_want_the_same_tasks_each_task_is_had_by_one(path: Path):
    opened = open_queue(path)
    rows = [create(opened) for _ in range(60)]
    opened.database.close()
    had: list[tuple[str, int]] = []

    def claim_all() -> None:
        tick = open_queue(path)
        had.extend(("tick", row) for row in rows if tick.claim(str(row), lease_id=f"of-{row}"))
        tick.database.close()

    def take_all() -> None:
        agent = open_queue(path)
        while (task := shared(agent).take_next("coder", queue=None)) is not None:
            had.append(("agent", task.task_id))
        agent.database.close()

    threads = [Thread(target=work) for work in (claim_all, take_all, take_all)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(row for _, row in had) == rows
    assert_sound(path)


DYING = """
import sys
from tests.queue.builders import open_queue
from tests.queue.test_shared_tasks import create, shared
from tinyscheduler.adapters.sqlite.remarks import Remarks
from pathlib import Path
opened = open_queue(Path(sys.argv[1]))
if sys.argv[2] == "take":
    shared(opened).take_next("coder", queue=None)
else:
    Remarks(opened.database, opened.clock).add_comment(1, "said", by=None)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["shared.change", "remark.change"])
def test_a_server_that_is_killed_has_made_a_change_or_has_not(path: Path, step: str, when: str):
    opened = open_queue(path)
    row = create(opened)
    opened.database.close()

    run_killed(f"{step}:{when}", DYING, path, "take" if step == "shared.change" else "comment")

    opened = open_queue(path)
    found, remarks = shared(opened).task(row), Remarks(opened.database, opened.clock)
    assert found is not None
    is_made = found.taken_by == "coder" if step == "shared.change" else bool(remarks.comments(row))
    assert is_made == (when == "after")
    assert opened.claim(str(row)) == (found.taken_by is None)
    opened.database.close()
    assert_sound(path)
