"""Pruning and resetting the database: bounded, whole after a kill, and sound."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import START
from tests.queue.builders import (
    A_SPEC,
    DONE,
    PARKED,
    Opened,
    assert_sound,
    open_queue,
    run_killed,
)
from tests.queue.test_bounded import cost

from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.pruning import SqlitePruner
from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks
from tinyscheduler.errors import StoreError
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.pruning import PruneBounds, PruneKind
from tinyscheduler.model.source_tasks import SeenTask
from tinyscheduler.model.tasks import Finish, Outcome, TaskSpec, TaskState

if TYPE_CHECKING:
    from pathlib import Path

LATER = START + timedelta(days=100)
FAILED = Finish(state=TaskState.FAILED, reason=None, failures=1)


def bounds(most: int = 500) -> PruneBounds:
    return PruneBounds(history_before=LATER, logs_before=LATER, now=LATER, most=most)


def a_seen_task(number: int) -> SeenTask:
    return SeenTask(
        number=number,
        agent="coder",
        queue=None,
        summary="a task",
        priority=0,
        blocks=0,
        blocked_by=(),
        impediment=None,
        created_at=START,
        updated_at=START,
    )


def end(opened: Opened, task_id: str, ending: Finish = DONE) -> None:
    opened.end(task_id, ending)
    SqliteLedger(opened.database).record(
        AttemptRecord(
            lease_id=f"ends-{task_id}",
            task_id=task_id,
            source="local",
            agent="shell",
            attempt=1,
            started_at=START,
            ended_at=START,
            outcome=Outcome.SUCCEEDED,
            failure_reason=None,
        )
    )


def test_what_is_left_is_sound(path, opened):
    for _ in range(20):
        opened.add(A_SPEC)
    opened.add(
        TaskSpec(command=("true",), after=("1", "2")), TaskSpec(command=("x",), after=("3",))
    )
    for number in range(1, 16):
        end(opened, str(number), (DONE, FAILED, PARKED)[number % 3])
    opened.queue.request_cancel("16")

    SqlitePruner(opened.database).prune(bounds())

    assert_sound(path)
    left = {record.task_id for record in opened.queue.tasks()}
    # Parked ones, those of the waiting two, and what never ended.
    assert left == {"2", "5", "8", "11", "14", "1", "3", "17", "18", "19", "20", "21", "22"}


def test_a_blocker_that_was_not_done_leaves_no_trace_in_a_task_that_ran_all_the_same(path, opened):
    opened.add(A_SPEC)
    opened.add(TaskSpec(command=("true",), after=("1",)))
    end(opened, "1", FAILED)
    opened.queue._blocking_disabled = True
    end(opened, "2")
    with opened.database.writing() as connection:
        # Only the first is old.
        connection.execute("UPDATE tasks SET ended_at = ended_at + 1000000000000000 WHERE id = 2")
        connection.commit()

    SqlitePruner(opened.database).prune(bounds())

    assert [record.task_id for record in opened.queue.tasks()] == ["2"]
    assert_sound(path)


def test_a_dry_run_counts_the_same_and_removes_nothing(path, opened):
    opened.add(*[A_SPEC] * 3)
    for task_id in "12":
        end(opened, task_id)
    opened.database.close()
    before = path.read_bytes()

    reader = open_queue(path, Access.READ)
    told = SqlitePruner(reader.database, may_write=False).prune(bounds())
    assert path.read_bytes() == before
    done = SqlitePruner(opened.database).prune(bounds())

    assert {one.kind: one.number for one in told.removed} == {
        PruneKind.TASKS: 2,
        PruneKind.ATTEMPTS: 2,
    }
    assert [(one.kind, one.number) for one in done.removed] == [
        (one.kind, one.number) for one in told.removed
    ]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["prune.rows", "reset.rows"])
def test_a_process_killed_while_it_removes_removes_all_or_nothing(path: Path, step, moment):
    program = """
import sys
from tests.queue.builders import open_queue
from tests.queue.test_pruning import SqlitePruner, bounds
pruner = SqlitePruner(open_queue(sys.argv[1]).database)
pruner.empty() if sys.argv[2] == "reset.rows" else pruner.prune(bounds())
"""
    opened = open_queue(path)
    opened.add(*[A_SPEC] * 10)
    for number in range(1, 9):
        end(opened, str(number))
    opened.database.close()

    run_killed(f"{step}:{moment}", program, path, step)

    left = {"prune.rows": 2, "reset.rows": 0}[step] if moment == "after" else 10
    again = open_queue(path)
    assert len(again.queue.tasks()) == left
    again.database.close()
    assert_sound(path)


def test_a_reset_keeps_a_copy_of_everything_and_numbers_go_on(path, opened):
    opened.add(A_SPEC)
    opened.add(TaskSpec(command=("true",), after=("1",)))
    end(opened, "1")

    done = SqlitePruner(opened.database).empty()

    assert (done.tasks, done.attempts) == (2, 1)
    assert done.copy is not None
    assert opened.queue.tasks() == []
    assert opened.add(A_SPEC) == ["3"]
    copy = open_queue(path.parent / done.copy.rpartition("/")[2], Access.READ)
    assert [one.task_id for one in copy.queue.tasks()] == ["1", "2"]
    assert len(copy.ledger.attempts("1")) == 1


def test_two_resets_within_a_second_keep_two_copies(path, opened):
    opened.add(A_SPEC)

    copies = [SqlitePruner(opened.database).empty().copy for _ in range(2)]

    kept = [open_queue(path.parent / str(one).rpartition("/")[2], Access.READ) for one in copies]
    assert [len(one.queue.tasks()) for one in kept] == [1, 0]


def test_a_backlog_ten_times_as_long_costs_a_call_the_same(tmp_path):
    costs = []
    for number in (1_000, 10_000):
        opened = open_queue(tmp_path / str(number) / "tinyscheduler.db")
        opened.add(*[A_SPEC] * number)
        with opened.database.writing() as connection:
            connection.execute("UPDATE tasks SET state = 'done', ended_at = id")
            connection.execute(
                "INSERT INTO attempts (lease_id, task_id, source, agent, attempt, ended_at,"
                " outcome, message) SELECT id, id, 'local', 'a', 1, id, 'succeeded', '' FROM tasks"
            )
            connection.commit()

        pruner = SqlitePruner(opened.database)
        costs.append(cost(opened, lambda _: pruner.prune(bounds(100))))  # noqa: B023 - called at once
        opened.database.close()

    few, many = costs
    assert many <= few * 1.3 + 4


def test_a_locked_database_is_a_refusal_and_no_end(path, opened):
    opened.add(A_SPEC)
    end(opened, "1")
    late = open_queue(path, busy_timeout_s=0.05)
    late.queue.look(window=1)

    with opened.database.writing(), pytest.raises(StoreError, match="is busy"):
        SqlitePruner(late.database).prune(bounds())
    late.database.close()


def test_who_is_needed_is_known_by_state_and_by_who_waits(opened):
    opened.add(*[A_SPEC] * 5)
    opened.add(TaskSpec(command=("true",), after=("1", "2")))
    end(opened, "1")
    end(opened, "2", FAILED)
    end(opened, "3")
    end(opened, "4", PARKED)

    needed = SqlitePruner(opened.database).needed([*"123456", "99", "x", "tinytask-1"])

    assert needed == {"1", "2", "4", "5", "6"}


def test_tasks_of_other_sources_are_needed_and_go_as_ones_own_do(opened):
    known = SqliteSourceTasks(opened.database, opened.clock, source="tinytask")
    for number, state in enumerate((DONE, PARKED, FAILED), start=1):
        seen = a_seen_task(number)
        assert known.claim(seen, lease_id=f"{number}", agent="coder", queue="dev", attempt=1)
        assert known.settle(number, lease_id=f"{number}", ending=state)
    known.note(seen=[a_seen_task(4)])
    ids = [f"tinytask-{number}" for number in range(1, 5)]
    pruner = SqlitePruner(opened.database)
    assert pruner.needed([*ids, "other-4"]) == {"tinytask-2", "tinytask-4"}

    pruned = pruner.prune(bounds())

    # The one that failed may wait at its source still, and would run again once it is forgotten.
    assert [(one.kind, one.number) for one in pruned.removed] == [(PruneKind.TASKS, 1)]
    assert known.states(ids).keys() == {"tinytask-2", "tinytask-3", "tinytask-4"}
    assert pruner.empty().tasks == 3


def test_a_parked_task_and_what_it_comes_after_are_needed_until_it_is_cancelled(opened):
    opened.add(A_SPEC)
    opened.add(TaskSpec(command=("true",), after=("1",)))
    end(opened, "1")
    end(opened, "2", PARKED)

    assert SqlitePruner(opened.database).needed(["1", "2"]) == {"1", "2"}

    opened.queue.request_cancel("2")
    assert SqlitePruner(opened.database).needed(["1", "2"]) == frozenset()
