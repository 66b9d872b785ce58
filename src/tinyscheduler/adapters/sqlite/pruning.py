"""Removes tasks and attempts that are long over from the embedded database."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.batch import row_id
from tinyscheduler.adapters.sqlite.rows import to_micros
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.pruning import Emptied, Pruned, PruneKind, Removed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.pruning import PruneBounds

# Parked tasks stay: they wait for their owner, who may be away for longer than any limit.
# What others come after stays as long as one of them is not done, since a cancelled or
# parked one may be retried and would wait for a task that nobody knows any more.
_OLD_TASKS = """
SELECT id FROM tasks AS task INDEXED BY tasks_by_end
WHERE ended_at IS NOT NULL AND ended_at < :before AND state IN ('done', 'failed', 'cancelled')
    AND NOT EXISTS (
        SELECT 1 FROM dependencies JOIN tasks AS later ON later.id = task_id
        WHERE blocker_id = task.id AND later.state <> 'done')
ORDER BY ended_at LIMIT :most
"""
# Of those before whom others went just now: what may go with them, and what would keep it.
_BEFORE_THEM = """
SELECT id FROM tasks
WHERE ended_at < :before AND state IN ('done', 'failed', 'cancelled') AND id IN (
    SELECT blocker_id FROM dependencies WHERE task_id IN (SELECT value FROM json_each(:ids)))
ORDER BY ended_at
"""
_KEEPING = """
SELECT blocker_id, task_id FROM dependencies JOIN tasks AS later ON later.id = task_id
WHERE later.state <> 'done' AND blocker_id IN (SELECT value FROM json_each(:ids))
"""
_OLD_ATTEMPTS = """
SELECT rowid FROM attempts INDEXED BY attempts_by_end
WHERE ended_at < :before AND NOT (source = 'local' AND EXISTS (
    SELECT 1 FROM tasks WHERE id = CAST(attempts.task_id AS INTEGER)))
    AND NOT (source <> 'local' AND EXISTS (
        SELECT 1 FROM source_tasks AS task WHERE task.source = attempts.source
            AND number = CAST(substr(task_id, length(attempts.source) + 2) AS INTEGER)
            AND state IN ('waiting', 'held', 'working', 'parked')))
ORDER BY ended_at LIMIT :most
"""
# Of sources elsewhere: their own servers say what they come after.  What was cancelled or given up
# here may wait there still, and would run again once that is forgotten.
_OLD_ELSEWHERE = """
SELECT source, number FROM source_tasks INDEXED BY source_tasks_by_end
WHERE ended_at < :before AND ended_at IS NOT NULL
    AND (state = 'done' OR state = 'cancelled' AND failure_reason IS NULL)
ORDER BY ended_at LIMIT :most
"""
# Only where tasks were allowed to start before these: others wait until they are done.
_FORGET_BLOCKERS = """
UPDATE tasks SET blockers_left = blockers_left - (
    SELECT count(*) FROM dependencies JOIN tasks AS blocker ON blocker.id = blocker_id
    WHERE task_id = tasks.id AND blocker.state <> 'done'
        AND blocker_id IN (SELECT value FROM json_each(:ids)))
WHERE blockers_left > 0 AND id IN (
    SELECT task_id FROM dependencies WHERE blocker_id IN (SELECT value FROM json_each(:ids)))
"""
_REMOVE_ATTEMPTS_OF = """
DELETE FROM attempts WHERE source = 'local'
    AND task_id IN (SELECT CAST(value AS TEXT) FROM json_each(:ids))
"""
_COUNT_ATTEMPTS_OF = """
SELECT count(*) FROM attempts WHERE source = 'local'
    AND task_id IN (SELECT CAST(value AS TEXT) FROM json_each(:ids))
"""
_REMOVE_TASKS = "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(:ids))"
_REMOVE_ATTEMPTS = "DELETE FROM attempts WHERE rowid IN (SELECT value FROM json_each(:ids))"
# One that has not ended has no age.
_OLD_METRICS = """
SELECT id FROM schedule_firing_metrics INDEXED BY firing_metrics_by_end
WHERE completed_at < :before ORDER BY completed_at LIMIT :most
"""
_REMOVE_METRICS = """
DELETE FROM schedule_firing_metrics WHERE id IN (SELECT value FROM json_each(:ids))
"""
_REMOVE_ELSEWHERE = "DELETE FROM source_tasks WHERE source = ? AND number = ?"
_COUNT_ALL = """
SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM source_tasks),
    (SELECT count(*) FROM attempts),
    (SELECT count(*) FROM schedule_firing_metrics), (SELECT count(*) FROM schedules)
"""
# A parked task's owner will want to read why it was, whenever that is.
_NEEDED = """
SELECT id FROM tasks AS task WHERE id IN (SELECT value FROM json_each(:ids))
    AND (state IN ('waiting', 'held', 'working', 'parked') OR EXISTS (
        SELECT 1 FROM dependencies JOIN tasks AS later ON later.id = task_id
        WHERE blocker_id = task.id AND later.state IN ('waiting', 'held', 'working', 'parked')))
"""


_NEEDED_ELSEWHERE = """
SELECT source || '-' || number AS id FROM source_tasks INDEXED BY source_tasks_by_state
WHERE state IN ('waiting', 'held', 'working', 'parked')
    AND source || '-' || number IN (SELECT value FROM json_each(:ids))
"""


class SqlitePruner:
    """Prunes the rows of ended tasks and of attempts whose task is gone.

    A dry one (``may_write`` off) only says what it would remove.
    """

    def __init__(self, database: Database, *, may_write: bool = True) -> None:
        self._database = database
        self._may_write = may_write

    def prune(self, bounds: PruneBounds) -> Pruned:
        """Remove at most ``most`` rows of tasks, then of attempts and of what firings took.

        The oldest go first.
        """
        values = {"before": to_micros(bounds.history_before), "most": bounds.most + 1}
        try:
            # Most of the time there is nothing, and looking takes no write lock.
            found = self._database.read(lambda connection: _find(connection, values))
            if self._may_write and any(found):
                return self._remove(values, most=bounds.most)
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error
        tasks, elsewhere, attempts, metrics = found
        ids = {"ids": dumps(tasks[: bounds.most])}
        of_tasks = self._database.read(
            lambda connection: int(connection.execute(_COUNT_ATTEMPTS_OF, ids).fetchone()[0])
        )
        return _told(
            tasks=min(len(tasks), bounds.most) + min(len(elsewhere), bounds.most),
            attempts=of_tasks + min(len(attempts), bounds.most),
            metrics=min(len(metrics), bounds.most),
            size=0,
            is_more=any(len(one) > bounds.most for one in found),
        )

    def count(self) -> Emptied:
        """Say what `empty` would remove."""
        row = self._database.read(lambda connection: connection.execute(_COUNT_ALL).fetchone())
        tasks, attempts, metrics, schedules = map(int, row)
        return Emptied(
            tasks=tasks, attempts=attempts, metrics=metrics, schedules=schedules, copy=None
        )

    def empty(self) -> Emptied:
        """Remove all tasks, attempts and schedules at once, and keep a copy of the database.

        Numbers go on: no task to come is taken for one of before.
        """
        with self._database.writing() as connection:
            copy = self._database.keep_copy("reset")
            tasks = connection.execute("DELETE FROM tasks").rowcount
            tasks += connection.execute("DELETE FROM source_tasks").rowcount
            attempts = connection.execute("DELETE FROM attempts").rowcount
            metrics = connection.execute("DELETE FROM schedule_firing_metrics").rowcount
            schedules = connection.execute("DELETE FROM schedules").rowcount
            # Else one that is added under the same name would never start anything.
            connection.execute("DELETE FROM switches WHERE target LIKE 'schedule:%'")
            with durable_step("reset.rows"):
                connection.commit()
        return Emptied(
            tasks=tasks, attempts=attempts, metrics=metrics, schedules=schedules, copy=copy
        )

    def needed(self, task_ids: Sequence[str]) -> frozenset[str]:
        """Return those that have not ended or are parked, or that such a task comes after."""
        ids = {"ids": dumps([row for row in map(row_id, task_ids) if row is not None])}
        others = {"ids": dumps([task_id for task_id in task_ids if row_id(task_id) is None])}
        try:
            rows = self._database.read(
                lambda connection: [
                    *connection.execute(_NEEDED, ids).fetchall(),
                    *connection.execute(_NEEDED_ELSEWHERE, others).fetchall(),
                ]
            )
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error
        return frozenset(str(row["id"]) for row in rows)

    def _remove(self, values: dict[str, int], *, most: int) -> Pruned:
        with self._database.writing() as connection:
            # Again under the lock: a task may have been retried since.
            found = _find(connection, values)
            tasks, elsewhere, attempts, metrics = found
            before = _free_bytes(connection)
            ids = {"ids": dumps(tasks[:most])}
            connection.execute(_FORGET_BLOCKERS, ids)
            told = connection.execute(_REMOVE_ATTEMPTS_OF, ids).rowcount
            connection.execute(_REMOVE_TASKS, ids)
            connection.executemany(_REMOVE_ELSEWHERE, elsewhere[:most])
            left = {"ids": dumps(attempts[:most])}
            told += connection.execute(_REMOVE_ATTEMPTS, left).rowcount
            connection.execute(_REMOVE_METRICS, {"ids": dumps(metrics[:most])})
            size = max(0, _free_bytes(connection) - before)
            with durable_step("prune.rows"):
                connection.commit()
        return _told(
            tasks=min(len(tasks), most) + min(len(elsewhere), most),
            attempts=told,
            metrics=min(len(metrics), most),
            size=size,
            is_more=any(len(one) > most for one in found),
        )


def _find(
    connection: sqlite3.Connection, values: dict[str, int]
) -> tuple[list[int], list[tuple[str, int]], list[int], list[int]]:
    """Return which tasks, of this and of other sources, attempts and rows of metrics may go."""
    elsewhere = [(row[0], row[1]) for row in connection.execute(_OLD_ELSEWHERE, values)]
    tasks = _old_tasks(connection, values)
    metrics = [row[0] for row in connection.execute(_OLD_METRICS, values)]
    if len(tasks) == values["most"]:
        # More than may go: their attempts would all be passed over in search of others.
        return tasks, elsewhere, [], metrics
    attempts = [row[0] for row in connection.execute(_OLD_ATTEMPTS, values)]
    return tasks, elsewhere, attempts, metrics


def _old_tasks(connection: sqlite3.Connection, values: dict[str, int]) -> list[int]:
    """Return what may go, up to ``most``, no task ahead of those that come after it.

    A chain goes as a whole, from its end: what kept a task goes with it.
    """
    found = [int(row[0]) for row in connection.execute(_OLD_TASKS, values)]
    going, ends = set(found), found
    while ends and len(found) < values["most"]:
        before = {"before": values["before"], "ids": dumps(ends)}
        earlier = [
            int(row[0]) for row in connection.execute(_BEFORE_THEM, before) if row[0] not in going
        ]
        keeping = connection.execute(_KEEPING, {"ids": dumps(earlier)})
        kept = {int(row[0]) for row in keeping if row[1] not in going}
        ends = [task_id for task_id in earlier if task_id not in kept]
        going.update(ends)
        found += ends
    return found[: values["most"]]


def _free_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(size)


def _told(*, tasks: int, attempts: int, metrics: int, size: int, is_more: bool) -> Pruned:
    counts = (
        (PruneKind.TASKS, tasks, size),
        (PruneKind.ATTEMPTS, attempts, 0),
        (PruneKind.METRICS, metrics, 0),
    )
    removed = tuple(
        Removed(kind=kind, number=number, bytes=freed) for kind, number, freed in counts if number
    )
    return Pruned(removed=removed, is_more=is_more)
