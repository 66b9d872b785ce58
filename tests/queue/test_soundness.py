"""Any order of changes keeps the counters equal to what they count."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.builders import START
from tests.queue.builders import Opened, assert_sound, open_queue

from tinyscheduler.errors import BusyError, UsageError
from tinyscheduler.model.tasks import FailureReason, Finish, Requeue, TaskSpec, TaskState

# Few tasks and a step that runs one to its end, so that dependents get their turn too.
MOST_TASKS = 6
FINAL = [state for state in TaskState if state.is_final]

targets = st.integers(min_value=1, max_value=MOST_TASKS)
changes = st.one_of(
    st.tuples(
        st.just("add"), st.lists(targets, max_size=3), st.booleans(), st.sampled_from([None, "a"])
    ),
    st.tuples(st.just("claim"), targets),
    st.tuples(st.just("end"), targets, st.sampled_from(FINAL)),
    st.tuples(st.just("end"), targets, st.just(TaskState.DONE)),
    st.tuples(st.just("finish"), targets, st.sampled_from(FINAL)),
    st.tuples(st.just("requeue"), targets, st.sampled_from([None, 5, -5])),
    st.tuples(st.sampled_from(["request_cancel", "retry", "hold", "release"]), targets),
)


def change(opened: Opened, one: tuple[Any, ...]) -> None:
    queue, count = opened.queue, sum(opened.queue.counts().values())
    match one:
        case ("add", blockers, is_held, agent):
            known = tuple(str(blocker) for blocker in blockers if blocker <= count)
            spec = TaskSpec(after=known, is_held=is_held, agent=agent)
            queue.add([("key", spec), (None, TaskSpec(after=("key",), agent=agent))])
        case (_, target, *_) if target > count:
            pass
        case ("claim", target):
            attempt = queue.task(str(target)).attempt
            queue.claim(str(target), lease_id=str(target), agent="x", queue="work", attempt=attempt)
        case ("end", target, state):
            change(opened, ("claim", target))
            change(opened, ("finish", target, state))
        case ("finish", target, state):
            reason = None if state is TaskState.DONE else FailureReason.COMMAND_FAILED
            finish = Finish(state=state, reason=reason, failures=1)
            queue.settle(str(target), lease_id=str(target), ending=finish)
        case ("requeue", target, seconds):
            until = None if seconds is None else START + timedelta(seconds=seconds)
            ending = Requeue(
                attempt=2, failures=1, launches=0, backing_off_until=until, reason=None
            )
            queue.settle(str(target), lease_id=str(target), ending=ending)
        case (name, target):
            with suppress(UsageError):
                getattr(queue, name)(str(target))
        case _:
            raise AssertionError(one)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes, max_size=40))
def test_after_any_changes_every_counter_is_what_it_counts(steps):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tinyscheduler.db"
        opened = open_queue(path, max_queue_depth=MOST_TASKS)
        for one in steps:
            try:
                change(opened, one)
            except BusyError:
                assert one[0] == "add"
        view = opened.queue.look(window=MOST_TASKS)
        records = opened.queue.tasks(limit=100)
        opened.database.close()

        assert_sound(path)
        seen = {task.task_id for task in view.waiting} | {task.task_id for task in view.claims}
        assert seen == {record.task_id for record in records if not record.state.is_final}
        assert all(task.blocked_by != () for task in view.waiting if is_blocked(task, records))


def is_blocked(task, records):
    (record,) = [record for record in records if record.task_id == task.task_id]
    return record.blockers_left > 0
