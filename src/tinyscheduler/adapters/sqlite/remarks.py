"""What have people and agents written about a task?  Comments and links."""

from __future__ import annotations

from contextlib import contextmanager

from tinyscheduler.adapters.sqlite.rows import from_micros, to_micros
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.model.shared_tasks import Comment, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from datetime import datetime

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.ports import Clock

# Of one task: who asks for it is told them all at once.
MOST_REMARKS = 1000

_TASK = "SELECT 1 FROM tasks WHERE id = ?"
_COMMENTS = "SELECT * FROM comments WHERE task_id = ? ORDER BY id"
_COMMENT = "SELECT * FROM comments WHERE id = ?"
_LINKS = "SELECT * FROM links WHERE task_id = ? ORDER BY id"
_LINK = "SELECT * FROM links WHERE id = ?"
_COUNT = "SELECT count(*) FROM {table} WHERE task_id = ?"
_ADD_COMMENT = """
INSERT INTO comments (task_id, content, created_by, created_at, updated_at)
VALUES (:task, :content, :by, :now, :now)
"""
_EDIT_COMMENT = "UPDATE comments SET content = :content, updated_at = :now WHERE id = :id"
_ADD_LINK = """
INSERT INTO links (task_id, url, description, created_by, created_at)
VALUES (:task, :url, :description, :by, :now)
"""
_EDIT_LINK = "UPDATE links SET url = :url, description = :description WHERE id = :id"


class Remarks:
    """The comments and links of tasks.

    Raises StoreError or BusyError; NotFoundError and UsageError for what cannot be, and then
    nothing is changed.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def comments(self, task: int) -> list[Comment]:
        """Return the comments of a task, the oldest first; none of one that is not there."""
        rows = self._database.read(
            lambda connection: connection.execute(_COMMENTS, (task,)).fetchall()
        )
        return [_comment_of(row) for row in rows]

    def comment(self, comment_id: int) -> Comment | None:
        """Return one comment; None if there is none."""
        row = self._database.read(
            lambda connection: connection.execute(_COMMENT, (comment_id,)).fetchone()
        )
        return None if row is None else _comment_of(row)

    def links(self, task: int) -> list[Link]:
        """Return the links of a task, the oldest first; none of one that is not there."""
        rows = self._database.read(
            lambda connection: connection.execute(_LINKS, (task,)).fetchall()
        )
        return [_link_of(row) for row in rows]

    def add_comment(self, task: int, content: str, *, by: str | None) -> Comment:
        """Write a comment."""
        with self._changing() as (connection, now):
            row = insert_comment(connection, task, content, by=by, now=now)
            return _comment_of(_found(connection, _COMMENT, row, "Comment"))

    def edit_comment(self, comment_id: int, content: str) -> Comment:
        """Write a comment anew."""
        with self._changing() as (connection, now):
            _found(connection, _COMMENT, comment_id, "Comment")
            connection.execute(_EDIT_COMMENT, {"id": comment_id, "content": content, "now": now})
            return _comment_of(_found(connection, _COMMENT, comment_id, "Comment"))

    def remove_comment(self, comment_id: int) -> None:
        """Remove a comment for good."""
        with self._changing() as (connection, _):
            _found(connection, _COMMENT, comment_id, "Comment")
            connection.execute("DELETE FROM comments WHERE id = ?", (comment_id,))

    def move_comment(self, comment_id: int, task: int) -> Comment:
        """Write a comment to another task, and where it stood that it went there."""
        with self._changing() as (connection, now):
            before = _found(connection, _COMMENT, comment_id, "Comment")
            row = insert_comment(
                connection,
                task,
                before["content"],
                by=before["created_by"],
                now=now,
                what="Target task",
            )
            left = f"Comment moved to task {task} comment {row}"
            connection.execute(_EDIT_COMMENT, {"id": comment_id, "content": left, "now": now})
            return _comment_of(_found(connection, _COMMENT, row, "Comment"))

    def add_link(self, task: int, url: str, description: str | None, *, by: str | None) -> Link:
        """Write down where something lies."""
        with self._changing() as (connection, now):
            _found(connection, _TASK, task, "Task")
            _refuse_if_many(connection, "links", task)
            values = {"task": task, "url": url, "description": description, "by": by, "now": now}
            row = connection.execute(_ADD_LINK, values).lastrowid or 0
            return _link_of(_found(connection, _LINK, row, "Link"))

    def edit_link(self, link_id: int, *, url: str | None, description: str | None) -> Link:
        """Change a link: None leaves a field as it is, an empty description removes it."""
        with self._changing() as (connection, _):
            before = _found(connection, _LINK, link_id, "Link")
            values = {
                "id": link_id,
                "url": before["url"] if url is None else url,
                "description": before["description"]
                if description is None
                else (description or None),
            }
            connection.execute(_EDIT_LINK, values)
            return _link_of(_found(connection, _LINK, link_id, "Link"))

    def remove_link(self, link_id: int) -> None:
        """Remove a link for good."""
        with self._changing() as (connection, _):
            _found(connection, _LINK, link_id, "Link")
            connection.execute("DELETE FROM links WHERE id = ?", (link_id,))

    @contextmanager
    def _changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        with self._database.writing() as connection:
            yield connection, to_micros(self._clock.now().wall)
            with durable_step("remark.change"):
                connection.commit()


def insert_comment(
    connection: sqlite3.Connection,
    task: int,
    content: str,
    *,
    by: str | None,
    now: int,
    what: str = "Task",
) -> int:
    """Write a comment within the statement of somebody else; its number."""
    _found(connection, _TASK, task, what)
    _refuse_if_many(connection, "comments", task)
    values = {"task": task, "content": content, "by": by, "now": now}
    return connection.execute(_ADD_COMMENT, values).lastrowid or 0


def _found(connection: sqlite3.Connection, question: str, number: int, what: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(question, (number,)).fetchone()
    if row is None:
        raise NotFoundError(f"{what} not found: {number}")
    return row


def _refuse_if_many(connection: sqlite3.Connection, table: str, task: int) -> None:
    (number,) = connection.execute(_COUNT.format(table=table), (task,)).fetchone()
    if number >= MOST_REMARKS:
        raise UsageError(
            f"task {task} has {number} {table}; more are not possible",
            hint=f"remove some of its {table}, or write them into a file and link that",
        )


def _moment(micros: int) -> datetime:
    moment = from_micros(micros)
    if moment is None:
        raise AssertionError("a remark has no beginning")
    return moment


def _comment_of(row: sqlite3.Row) -> Comment:
    return Comment(
        comment_id=row["id"],
        task_id=row["task_id"],
        content=row["content"],
        created_by=row["created_by"],
        created_at=_moment(row["created_at"]),
        updated_at=_moment(row["updated_at"]),
    )


def _link_of(row: sqlite3.Row) -> Link:
    return Link(
        link_id=row["id"],
        task_id=row["task_id"],
        url=row["url"],
        description=row["description"],
        created_by=row["created_by"],
        created_at=_moment(row["created_at"]),
    )
