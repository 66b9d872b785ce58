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


class Blockers:
    """Names the first unfinished tasks that a task waits for; where disabled, it waits for none."""

    def __init__(self, *, are_disabled: bool) -> None:
        self._are_disabled = are_disabled

    def of(self, connection: sqlite3.Connection, row: sqlite3.Row) -> tuple[str, ...]:
        """Return their ids, oldest first, given the task's whole row."""
        if row["blockers_left"] == 0 or self._are_disabled:
            return ()
        values = {"id": row["id"], "limit": _MOST_TOLD}
        return tuple(str(one["blocker_id"]) for one in connection.execute(_BLOCKERS, values))
