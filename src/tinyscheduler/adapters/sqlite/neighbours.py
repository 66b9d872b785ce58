"""Who must hear of it when a task has ended?  Those that wait for it, and those it waited for."""

from __future__ import annotations

from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_UNBLOCK = """
UPDATE tasks SET blockers_left = blockers_left - 1
WHERE id IN (SELECT task_id FROM dependencies WHERE blocker_id = ?)
"""
_RECOUNT_BLOCKED = """
UPDATE tasks SET blocks = blocks + :change
WHERE id IN (SELECT blocker_id FROM dependencies WHERE task_id = :id)
"""


def tell_neighbours(connection: sqlite3.Connection, task: sqlite3.Row) -> None:
    """Tell blockers and dependents of a task that may just have ended."""
    state = TaskState(task["state"])
    if state is TaskState.DONE:
        connection.execute(_UNBLOCK, (task["id"],))
    if state.is_final:
        count_as_dependent(connection, task, change=-1)


def count_as_dependent(connection: sqlite3.Connection, task: sqlite3.Row, *, change: int) -> None:
    """Count the task among those that its blockers keep waiting, or no more."""
    connection.execute(_RECOUNT_BLOCKED, {"id": task["id"], "change": change})
