"""``cancel``, ``retry``, ``hold`` and ``release``: change what becomes of tasks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.render import emit_json, escape
from tinyscheduler.cli.standing import check_task_ids, find_standing, state_of
from tinyscheduler.errors import (
    EXIT_DONE,
    EXIT_INACTIVE,
    EXIT_NOT_FOUND,
    BusyError,
    StoreError,
    TinySchedulerError,
)
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.records import AlreadyEnded, Cancelled, CancelRequested
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import assert_never, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue

_Ids = Annotated[list[str], argument(metavar="ID", help="The tasks.")]
_Json = Annotated[bool, option("--json", help="Print one JSON document.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one task: its state now, in words, and whether that is what was asked."""

    state: str
    words: str
    code: int = EXIT_DONE


def cancel(context: typer.Context, task_ids: _Ids, *, json: _Json = False) -> int:
    """Cancel tasks, waiting or running.

    What waits is cancelled at once; what runs gets SIGTERM, a grace period, and SIGKILL.
    """
    return change_all(context.obj, task_ids, cancel_one, as_json=json)


def retry(context: typer.Context, task_ids: _Ids, *, json: _Json = False) -> int:
    """Let tasks that have failed wait again."""
    return change_all(context.obj, task_ids, retry_one, as_json=json)


def hold(context: typer.Context, task_ids: _Ids, *, json: _Json = False) -> int:
    """Set waiting tasks aside until they are released."""
    return change_all(context.obj, task_ids, hold_one, as_json=json)


def release(context: typer.Context, task_ids: _Ids, *, json: _Json = False) -> int:
    """Let held tasks wait again."""
    return change_all(context.obj, task_ids, release_one, as_json=json)


def change_all(
    invocation: Invocation,
    task_ids: list[str],
    change: Callable[[Queue, str], Change],
    *,
    as_json: bool,
) -> int:
    """Change each task, whatever happens to the others, and tell what became of each."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.kicks import kick
    from tinyscheduler.app.queue import open_queue

    ids = check_task_ids(task_ids)
    config = invocation.configure_changing()
    is_empty = not os.path.lexists(config.paths.database)
    queue = open_queue(config, Access.READ if is_empty else Access.WRITE)
    if is_empty:
        change = _refuse_all
    told: list[dict[str, Any]] = []
    codes: list[int] = []
    hints: set[str | None] = set()
    for task_id in ids:
        try:
            done = change(queue, task_id)
        except TinySchedulerError as error:
            done = Change(state="", words=error.what, code=error.exit_code)
            # Several tasks are often refused for one reason: the way out is told once.
            invocation.fail(error.what, hint=None if error.hint in hints else error.hint)
            hints.add(error.hint)
        codes.append(done.code)
        told.append({"task_id": task_id, "state": done.state or None, "message": done.words})
        if done.state and not as_json:
            invocation.answer(escape(f"task {task_id} {done.words}"))
    if any(one["state"] for one in told):
        kick(config)
    if as_json:
        emit_json(tasks=told)
    # What does not exist weighs more than what had ended.
    return EXIT_NOT_FOUND if EXIT_NOT_FOUND in codes else max(codes)


def _refuse_all(queue: Queue, task_id: str) -> Change:
    """Stand in for a change where nothing was ever added: nothing is made there either."""
    queue.tasks.task(task_id)
    raise BusyError(f"task {task_id} was added in this moment", hint="type it again")


def cancel_one(queue: Queue, task_id: str) -> Change:
    """Cancel a task, or ask the wrapper of its attempt to end it."""
    from tinyscheduler.app.queue import announce

    try:
        answer = queue.tasks.request_cancel(task_id)
    except StoreError as error:
        return _cancel_unnoted(queue, task_id, refusal=error)
    match answer:
        case Cancelled():
            announce(queue, EventName.TASK_CANCELLED, [task_id])
            return Change(state=TaskState.CANCELLED, words="is cancelled")
        case CancelRequested(lease_id=lease_id):
            queue.leases.request_cancel(lease_id)
            state = find_standing(queue, task_id).state
            return Change(state=state, words="is running; its attempt is being ended")
        case AlreadyEnded(state=TaskState.CANCELLED):
            return Change(state=TaskState.CANCELLED, words="was cancelled before")
        case AlreadyEnded(state=state):
            return Change(
                state=state, words=f"is {state}; there is nothing to cancel", code=EXIT_INACTIVE
            )
        case _:
            assert_never(answer)


def _cancel_unnoted(queue: Queue, task_id: str, *, refusal: StoreError) -> Change:
    """Have a running attempt end that the queue cannot be told of, as on the disk it fills.

    Its wrapper asks for no more than a file without a byte.
    """
    leases = [one.lease for one in queue.leases.scan().entries if one.task_id == task_id]
    for lease in leases:
        if isinstance(lease, Lease):
            with suppress(StoreError):
                queue.leases.request_cancel(lease.lease_id)
                return Change(
                    state=state_of(lease),
                    words="is running; its attempt is being ended, though the queue could not"
                    f" note it: {refusal.what}",
                )
    raise refusal


def retry_one(queue: Queue, task_id: str) -> Change:
    """Let a task that ended wait again."""
    from tinyscheduler.app.queue import announce

    queue.tasks.retry(task_id)
    announce(queue, EventName.TASK_RETRIED, [task_id])
    return Change(state=TaskState.WAITING, words="waits again")


def hold_one(queue: Queue, task_id: str) -> Change:
    """Set a task aside."""
    from tinyscheduler.app.queue import announce

    was_waiting = queue.tasks.hold(task_id)
    if was_waiting:
        announce(queue, EventName.TASK_HELD, [task_id])
    words = "is held" if was_waiting else "was held before"
    return Change(state=TaskState.HELD, words=words)


def release_one(queue: Queue, task_id: str) -> Change:
    """Let a held task go."""
    from tinyscheduler.app.queue import announce

    was_held = queue.tasks.release(task_id)
    if was_held:
        announce(queue, EventName.TASK_RELEASED, [task_id])
    words = "waits again" if was_held else "was not held; it waits"
    return Change(state=TaskState.WAITING, words=words)
