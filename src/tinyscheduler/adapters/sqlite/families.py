"""What becomes of a task that has parts, and of one of which its attempt has said something?

A task that has parts comes after them: they are rows among its dependencies, beside what its
owner asked for.  So all that orders and blocks tasks holds of them.  What a part adds is that
the whole is done when the last of them is, unless an attempt of its own is still wanted.
Each function works within the statement of somebody else.
"""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.neighbours import tell_neighbours
from tinyscheduler.adapters.sqlite.rows import spec_details, spec_of
from tinyscheduler.errors import UsageError
from tinyscheduler.model.shared_tasks import Word
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

# A whole with parts that have parts that have parts, and no further.
MOST_LEVELS = 3
MOST_PARTS = 1000

_TASK = """
SELECT tasks.*, parent_id, has_succeeded, archived_at FROM tasks
LEFT JOIN shared_tasks ON task_id = id WHERE id = ?
"""
_COUNT_PARTS = """
SELECT count(*) AS parts, coalesce(sum(state <> 'done'), 0) AS open_parts
FROM shared_tasks JOIN tasks ON id = task_id WHERE parent_id = ? AND archived_at IS NULL
"""
_SPEC = "SELECT prompt, details FROM task_specs WHERE task_id = ?"
_SHARE = "INSERT INTO shared_tasks (task_id) VALUES (?) ON CONFLICT (task_id) DO NOTHING"
_FINISH_WHOLE = """
UPDATE tasks SET state = 'done', failure_reason = NULL, backing_off_until = NULL,
    start_after = 0, ended_at = :now, updated_at = :now
WHERE id = :id
"""
# After an attempt of it has ended well, which made it done for this moment.
_WAIT_AGAIN = """
UPDATE tasks SET state = 'waiting', ended_at = NULL, start_after = 0, failures = 0, launches = 0,
    backing_off_until = NULL, failure_reason = NULL, revision = revision + 1
WHERE id = :id
"""
_CANCEL = """
UPDATE tasks SET state = 'cancelled', failure_reason = 'cancelled', backing_off_until = NULL,
    ended_at = :now, updated_at = :now
WHERE id = :id
"""
_COMES_AFTER = "SELECT 1 FROM dependencies WHERE task_id = ? AND blocker_id = ?"
_ALL_BLOCKERS = """
WITH RECURSIVE blockers (id) AS (
    SELECT :part UNION SELECT blocker_id FROM dependencies JOIN blockers ON task_id = id
)
SELECT 1 FROM blockers WHERE id = :whole
"""
# How many levels of parts there are, itself included.
_HEIGHT = """
WITH RECURSIVE below (id, level) AS (
    SELECT :id, 1
    UNION SELECT task_id, level + 1 FROM shared_tasks JOIN below ON parent_id = below.id
    WHERE level < :most
)
SELECT max(level) FROM below
"""


def share(connection: sqlite3.Connection, row: int) -> None:
    """Make room for what agents say of a task."""
    connection.execute(_SHARE, (row,))


def heed(connection: sqlite3.Connection, shared: sqlite3.Row, *, lease_id: str, now: int) -> None:
    """Do with a task whose claim was ended right now what agents have said of it.

    ``shared`` is what was known of it before.  Only an attempt that has ended well has a say:
    then its task may wait again, for another agent or for its own parts.
    """
    task = connection.execute(_TASK, (shared["task_id"],)).fetchone()
    values = {"id": task["id"], "now": now}
    if task["state"] == TaskState.WAITING and shared["archived_at"] is not None:
        connection.execute(_CANCEL, values)
    elif task["state"] == TaskState.DONE and task["schedule_id"] is None:
        is_moved = shared["said"] == Word.MOVE and shared["said_in"] == lease_id
        _, open_parts = count_parts(connection, task["id"])
        if is_moved and (shared["cancel_requested"] or shared["archived_at"] is not None):
            connection.execute(_CANCEL, values)
        elif is_moved:
            connection.execute(_WAIT_AGAIN, values)
            _move(connection, task, shared["moves_to"])
        elif open_parts:
            connection.execute(_WAIT_AGAIN, values)
            connection.execute(
                "UPDATE shared_tasks SET has_succeeded = 1 WHERE task_id = ?", (task["id"],)
            )


def _move(connection: sqlite3.Connection, task: sqlite3.Row, agent: str) -> None:
    spec = replace(spec_of(connection.execute(_SPEC, (task["id"],)).fetchone()), agent=agent)
    connection.execute("UPDATE tasks SET agent = ? WHERE id = ?", (agent, task["id"]))
    connection.execute(
        "UPDATE task_specs SET details = ? WHERE task_id = ?", (spec_details(spec), task["id"])
    )
    before = task["agent"] or None
    connection.execute(
        "UPDATE shared_tasks SET previous_agent = ?, moves = moves + 1 WHERE task_id = ?",
        (before, task["id"]),
    )


def count_parts(connection: sqlite3.Connection, row: int) -> tuple[int, int]:
    """Return how many parts a task has, and how many of them are not done."""
    parts, open_parts = connection.execute(_COUNT_PARTS, (row,)).fetchone()
    return int(parts), int(open_parts)


def finish_wholes(connection: sqlite3.Connection, row: int | None, *, now: int) -> list[str]:
    """End a task of which all parts are done, and what it is itself a part of, and so on.

    Returns which were ended.  One with an attempt of its own that did not succeed is started
    again instead: somebody has begun it, and its parts are not all there is to it.
    """
    ended: list[str] = []
    while row is not None:
        task = connection.execute(_TASK, (row,)).fetchone()
        if task is None or task["state"] not in (TaskState.WAITING, TaskState.HELD):
            break
        parts, open_parts = count_parts(connection, row)
        is_whole = bool(task["has_succeeded"]) or (parts > 0 and task["attempt"] == 1)
        if open_parts or not is_whole:
            break
        connection.execute(_FINISH_WHOLE, {"id": row, "now": now})
        tell_neighbours(connection, connection.execute(_TASK, (row,)).fetchone())
        ended.append(str(row))
        row = task["parent_id"]
    return ended


def join(connection: sqlite3.Connection, part: int, whole: int) -> None:
    """Make one task a part of another; UsageError where that cannot be."""
    task = connection.execute(_TASK, (part,)).fetchone()
    above = connection.execute(_TASK, (whole,)).fetchone()
    if above is None:
        raise UsageError(f"Parent task not found: {whole}", hint="list_tasks shows what there is")
    _refuse_family(connection, part, above)
    share(connection, part)
    share(connection, whole)
    connection.execute("UPDATE shared_tasks SET parent_id = ? WHERE task_id = ?", (whole, part))
    if connection.execute(_COMES_AFTER, (whole, part)).fetchone() is None:
        connection.execute("INSERT INTO dependencies VALUES (?, ?)", (whole, part))
        if task["state"] != TaskState.DONE:
            _count_blocker(connection, whole, change=1)
        connection.execute("UPDATE tasks SET blocks = blocks + 1 WHERE id = ?", (part,))


def _refuse_family(connection: sqlite3.Connection, part: int, above: sqlite3.Row) -> None:
    whole = int(above["id"])
    if part == whole:
        raise UsageError("Task cannot be its own parent", hint="name another task")
    if connection.execute(_ALL_BLOCKERS, {"part": part, "whole": whole}).fetchone() is not None:
        raise UsageError(
            f"Cannot create circular parent-child relationship: task {part} comes after task"
            f" {whole} or is above it",
            hint="a task with parts is done after all of them",
        )
    if TaskState(above["state"]).is_final or above["archived_at"] is not None:
        raise UsageError(
            f"task {whole} has ended ({above['state']}) and takes no more parts",
            hint="name a task that is still open, or create one for them",
        )
    if above["schedule_id"] is not None:
        raise UsageError(
            f"task {whole} is a firing of schedule {above['schedule_id']}, which has no parts",
            hint="create a task of its own for them",
        )
    parts, _ = count_parts(connection, whole)
    if parts >= MOST_PARTS:
        raise UsageError(
            f"task {whole} has {parts} parts; more are not possible",
            hint="put some of them under a part of their own",
        )
    values = {"id": part, "most": MOST_LEVELS + 2}
    (height,) = connection.execute(_HEIGHT, values).fetchone()
    depth = 0
    row = above["parent_id"]
    while row is not None and depth <= MOST_LEVELS:
        depth += 1
        found = connection.execute(_TASK, (row,)).fetchone()
        row = found["parent_id"] if found is not None else None
    if depth + height > MOST_LEVELS:
        raise UsageError(
            f"Maximum nesting depth ({MOST_LEVELS} levels) exceeded",
            hint="make it a part of something further up",
        )


def part(connection: sqlite3.Connection, row: int, whole: int, *, now: int) -> list[str]:
    """Let a task go on without what was a part of it and by its own row is none any more.

    Returns which tasks were ended by that.
    """
    task = connection.execute(_TASK, (row,)).fetchone()
    spec = connection.execute(_SPEC, (whole,)).fetchone()
    is_wished = str(row) in spec_of(spec).after
    if not is_wished and connection.execute(_COMES_AFTER, (whole, row)).fetchone() is not None:
        connection.execute(
            "DELETE FROM dependencies WHERE task_id = ? AND blocker_id = ?", (whole, row)
        )
        if task["state"] != TaskState.DONE:
            _count_blocker(connection, whole, change=-1)
        above = connection.execute(_TASK, (whole,)).fetchone()
        if not TaskState(above["state"]).is_final:
            connection.execute("UPDATE tasks SET blocks = blocks - 1 WHERE id = ?", (row,))
    return finish_wholes(connection, whole, now=now)


def _count_blocker(connection: sqlite3.Connection, row: int, *, change: int) -> None:
    connection.execute(
        "UPDATE tasks SET blockers_left = blockers_left + ? WHERE id = ?", (change, row)
    )
