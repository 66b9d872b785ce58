"""Any order of what agents call, ticks claim and owners type keeps the queue sound."""

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

from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.shared_tasks import Caller, SharedTasks
from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.model.shared_tasks import SharedTask, Status, TaskFilter
from tinyscheduler.model.tasks import FailureReason, Finish, Requeue, TaskSpec, TaskState

FIRST_TASKS = 5
MOST_TASKS = 7
FINAL = [state for state in TaskState if state.is_final]

targets = st.integers(min_value=1, max_value=FIRST_TASKS)
agents = st.sampled_from(["a", "a", "b", None])
# Each is a part of, and comes after, one of those before it, or none.
families = st.tuples(
    *(
        st.tuples(*(st.one_of(st.none(), st.integers(1, number)) for _ in "ab"))
        if number
        else st.just((None, None))
        for number in range(FIRST_TASKS)
    )
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(list(Status)),
        "agent": agents,
        "parent": st.one_of(st.none(), targets),
        "after": st.lists(targets, max_size=2).map(lambda rows: tuple(map(str, rows))),
    },
)
steps = st.one_of(
    st.tuples(st.just("create"), agents, st.one_of(st.none(), targets)),
    st.tuples(st.just("update"), targets, changes, st.booleans()),
    st.tuples(st.just("say"), targets, st.sampled_from([Status.COMPLETE, "b"])),
    st.tuples(st.just("take"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("complete"), targets),
    st.tuples(st.just("archive"), targets),
    st.tuples(st.just("remove"), targets),
    st.tuples(st.just("claim"), targets),
    st.tuples(st.just("end"), targets, st.sampled_from(FINAL)),
    st.tuples(st.just("end"), targets, st.just(TaskState.DONE)),
    st.tuples(st.just("finish"), targets, st.sampled_from([TaskState.DONE, TaskState.PARKED])),
    st.tuples(st.just("requeue"), targets, st.sampled_from([None, 5])),
    st.tuples(st.sampled_from(["request_cancel", "retry", "hold", "release"]), targets),
    st.tuples(st.just("edit"), targets, st.lists(targets, max_size=2)),
)


def work(opened: Opened, one: tuple[Any, ...]) -> None:  # noqa: C901, PLR0912 - a table
    queue, database = opened.queue, opened.database

    def shared(target: int = 0, *, is_own: bool = False) -> SharedTasks:
        caller = Caller(name="me", lease_id=f"lease-{target}" if is_own else None)
        return SharedTasks(database, opened.clock, queue, caller)

    match one:
        case ("create", agent, parent, *after):
            blockers = tuple(str(row) for row in after if row is not None)
            spec = TaskSpec(agent=agent, title="t", after=blockers)
            shared().create(spec, created_by="me", parent=parent)
        case ("update", target, wished, is_own):
            shared(target, is_own=is_own).update(target, wished, vet=lambda _: None)
        case ("say", target, word):
            work(opened, ("claim", target))
            wished = {"status": word} if word is Status.COMPLETE else {"agent": word}
            work(opened, ("update", target, wished, True))
        case ("take", agent):
            shared().take_next(agent, queue=None)
        case ("complete", target):
            work(opened, ("update", target, {"status": Status.COMPLETE}, False))
        case ("end", target, state):
            work(opened, ("claim", target))
            work(opened, ("finish", target, state))
        case ("archive" | "remove" as name, target):
            getattr(shared(), name)(target)
        case ("claim", target):
            attempt = queue.task(str(target)).attempt
            queue.claim(
                str(target), lease_id=f"lease-{target}", agent="a", queue="q", attempt=attempt
            )
        case ("finish", target, state):
            reason = None if state is TaskState.DONE else FailureReason.COMMAND_FAILED
            finish = Finish(state=state, reason=reason, failures=1)
            queue.settle(str(target), lease_id=f"lease-{target}", ending=finish)
        case ("requeue", target, seconds):
            until = None if seconds is None else START + timedelta(seconds=seconds)
            ending = Requeue(
                attempt=2, failures=1, launches=0, backing_off_until=until, reason=None
            )
            queue.settle(str(target), lease_id=f"lease-{target}", ending=ending)
        case ("edit", target, blockers):
            wished = TaskSpec(agent="a", after=tuple(map(str, blockers)))
            queue.edit(str(target), lambda _: wished)
        case (name, target):
            getattr(queue, name)(str(target))
        case _:
            raise AssertionError(one)


def standing(opened: Opened) -> dict[int, SharedTask]:
    shared = SharedTasks(opened.database, opened.clock, opened.queue, Caller(name="me"))
    found = shared.tasks(TaskFilter(has_archived=True), limit=100)
    return {one.task_id: one for one in found}


def may_start(task: SharedTask, all_of_them: dict[int, SharedTask]) -> bool:
    return task.taken_by is None and not any(
        one.parent_id == task.task_id
        and one.state is not TaskState.DONE
        and one.archived_at is None
        for one in all_of_them.values()
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(families, st.lists(steps, min_size=6, max_size=30), st.booleans())
def test_no_order_of_calls_and_ticks_takes_a_claim_away_or_miscounts(
    family, script, are_blockers_disabled
):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tinyscheduler.db"
        opened = open_queue(path)
        opened.queue = LocalQueue(
            opened.database, opened.clock, blocking_disabled=are_blockers_disabled
        )
        for parent, blocker in family:
            try:
                work(opened, ("create", "a", parent, blocker))
            except UsageError:  # it would come after its own whole, or stand too far below
                work(opened, ("create", "a", None, blocker))
        before = standing(opened)
        for one in script:
            if one[0] == "create" and len(before) >= MOST_TASKS:
                continue
            with suppress(UsageError, NotFoundError):
                work(opened, one)
            after = standing(opened)
            for row, task in before.items():
                now = after.get(row)
                if task.state is TaskState.WORKING and one[0] not in ("finish", "end", "requeue"):
                    # Only the end of its attempt moves it on.
                    assert now is not None, one
                    assert (now.state, now.lease_id) == (task.state, task.lease_id), one
                if task.state is TaskState.DONE:
                    assert now is None or now.state is TaskState.DONE, one
                if (
                    one[:2] in (("claim", row), ("say", row))
                    and now is not None
                    and now.lease_id is not None
                ):
                    assert task.lease_id is not None or may_start(task, before), one
            before = after
        view = opened.queue.look(window=100)
        opened.database.close()

        assert_sound(path)
        seen = {int(task.task_id) for task in view.waiting}
        seen |= {int(claim.task_id) for claim in view.claims}
        is_open = {row for row, task in before.items() if not task.state.is_final}
        # Where nothing waits for another, what comes after something is no news.
        assert seen <= is_open if are_blockers_disabled else seen == is_open
