"""What does a task wait for, as far as ticks and people are told?"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

# Some of a thousand say enough, and each is one more row to read at every look.
_MOST_TOLD = 10

_BLOCKERS = """
SELECT blocker_id FROM dependencies JOIN tasks ON id = blocker_id
WHERE task_id = :id AND state <> 'done' ORDER BY blocker_id LIMIT :limit
"""
# What has parts never goes before them.
_OPEN_PARTS = """
SELECT task_id AS blocker_id FROM shared_tasks JOIN tasks ON id = task_id
WHERE parent_id = :id AND archived_at IS NULL AND state <> 'done' ORDER BY id LIMIT :limit
"""


class Blockers:
    """Names the first unfinished tasks that a task waits for; where disabled, its parts alone."""

    def __init__(self, *, are_disabled: bool) -> None:
        self._are_disabled = are_disabled

    def of(self, connection: sqlite3.Connection, row: sqlite3.Row) -> tuple[str, ...]:
        """Return their ids, oldest first, given the task's whole row."""
        if row["blockers_left"] == 0:
            return ()
        values = {"id": row["id"], "limit": _MOST_TOLD}
        question = _OPEN_PARTS if self._are_disabled else _BLOCKERS
        return tuple(str(one["blocker_id"]) for one in connection.execute(question, values))
