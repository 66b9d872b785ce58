"""``wait``: until tasks have ended, and how they ended."""

from __future__ import annotations

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.parsing import duration_s
from tinyscheduler.cli.render import INK_OF_STATE, count, emit_json
from tinyscheduler.cli.standing import brief_json, check_task_ids, find_standing
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, EXIT_TIMEOUT, NotFoundError
from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typer

    from tinyscheduler.app.queue import Queue

_MOST_EXPLAINED = 10
# A task that is done may have failed before, and cancelled ones say it all.
_FAILED = (TaskState.FAILED, TaskState.PARKED)
_UNSTARTED = (TaskState.WAITING, TaskState.HELD)


def wait(
    context: typer.Context,
    task_ids: Annotated[list[str], argument(metavar="ID", help="The tasks.")],
    *,
    timeout: Annotated[
        str | None, option(metavar="DURATION", help="Give up after this time, with 124.")
    ] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Wait until tasks have ended.

    Ends with 0 if all are done, with 1 if one has failed, is parked or was cancelled,
    with 124 if the time is up first.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    ids = check_task_ids(task_ids)
    limit_s = None if timeout is None else duration_s("--timeout", timeout)
    queue = open_queue(invocation.configure_reading(), Access.READ)
    unfinished = wait_for(queue, ids, limit_s=limit_s, invocation=invocation)
    standings = [find_standing(queue, task_id) for task_id in ids]
    if json:
        emit_json(tasks=[brief_json(one) for one in standings], timed_out=bool(unfinished))
    else:
        page = invocation.page
        for one in standings:
            reason = one.record.failure_reason
            words = page.paint(one.state, INK_OF_STATE[one.state])
            if one.state in _FAILED and reason is not None:
                words += f" ({reason})"
            invocation.answer(f"task {one.record.task_id} {words}")
    if unfinished:
        span = timeout if timeout and timeout[-1].isalpha() else f"{timeout}s"
        invocation.note(f"gave up after {span}: {count(len(unfinished), 'task')} not ended")
        return EXIT_TIMEOUT
    is_done = all(one.state is TaskState.DONE for one in standings)
    return EXIT_DONE if is_done else EXIT_FAILED


def wait_for(
    queue: Queue, task_ids: tuple[str, ...], *, limit_s: float | None, invocation: Invocation
) -> tuple[str, ...]:
    """Wait until all have ended or the time is up; return those that have not ended.

    Raises NotFoundError for a task that does not exist.
    """
    from tinyscheduler.cli.following import Follower

    follower = Follower(queue, note=invocation.note, advise=invocation.advise)
    deadline_ns = None
    if limit_s is not None:
        deadline_ns = queue.clock.now().monotonic_ns + int(limit_s * 1e9)
    left = task_ids
    while True:
        if follower.is_due():
            states = queue.tasks.states(left)
            for task_id in left:
                if task_id not in states:
                    raise NotFoundError(
                        f"there is no task {task_id!r}",
                        hint="`tinyscheduler list` shows the tasks there are",
                    )
            left = tuple(task_id for task_id in left if not states[task_id].is_final)
            unstarted = [one for one in left if states[one] in _UNSTARTED]
            for task_id in unstarted[:_MOST_EXPLAINED]:
                follower.explain(queue.tasks.task(task_id))
        if not left or (deadline_ns is not None and queue.clock.now().monotonic_ns >= deadline_ns):
            return left
        follower.pause(until_ns=deadline_ns)
