"""What did a schedule fire, and how did that end?"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.adapters.sqlite.rows import from_micros
from tinyscheduler.model.schedules import FiringRecord
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from tinyscheduler.adapters.sqlite.database import Database

_TASKS = """
SELECT id, state, slot, created_at, ended_at, failure_reason FROM tasks
WHERE schedule_id = :id ORDER BY tasks.id DESC LIMIT :limit
"""
# These are kept when the task is gone.
_MEASURED = """
SELECT * FROM schedule_firing_metrics INDEXED BY firing_metrics_of
WHERE schedule_id = :id ORDER BY id DESC LIMIT :limit
"""


# Of the newest firings: what they once took is not what they take.
_AVERAGES = """
SELECT schedule_id, avg(duration_ms) AS average_ms FROM (
    SELECT schedule_id, duration_ms,
        row_number() OVER (PARTITION BY schedule_id ORDER BY id DESC) AS age
    FROM schedule_firing_metrics WHERE duration_ms IS NOT NULL
) WHERE age <= 20 GROUP BY schedule_id
"""


class FiringHistory:
    """Looks back at firings, in the database that keeps their tasks."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def firings(self, schedule_id: str, *, limit: int) -> list[FiringRecord]:
        """Return the newest firings of a schedule, the oldest of them first."""
        values = {"id": schedule_id, "limit": limit}

        def question(connection: sqlite3.Connection) -> tuple[list[sqlite3.Row], ...]:
            return tuple(
                connection.execute(statement, values).fetchall()
                for statement in (_TASKS, _MEASURED)
            )

        tasks, measured = self._database.read(question)
        task_of = {row["id"]: row for row in tasks}
        measured_of = {row["task_id"]: row for row in measured}
        newest = sorted({*task_of, *measured_of})[-limit:]
        return [_record(one, task_of.get(one), measured_of.get(one)) for one in newest]

    def average_durations_s(self) -> dict[str, float]:
        """Return how long the newest firings of each schedule took, in seconds, by its name."""
        rows = self._database.read(lambda connection: connection.execute(_AVERAGES).fetchall())
        return {row["schedule_id"]: row["average_ms"] / 1000 for row in rows}


def _record(task_id: int, task: sqlite3.Row | None, measured: sqlite3.Row | None) -> FiringRecord:
    fired_at = _moment(
        measured["fired_at"] if measured is not None else _column(task, "created_at")
    )
    reasons = (_column(measured, "failure_reason"), _column(task, "failure_reason"))
    return FiringRecord(
        task_id=str(task_id),
        slot=from_micros(task["slot"]) if task is not None else _slot(fired_at, measured),
        fired_at=fired_at,
        ended_at=from_micros(_column(task, "ended_at") or _column(measured, "completed_at")),
        state=None if task is None else TaskState(task["state"]),
        failure_reason=next((one for one in reasons if one is not None), None),
        wait_ms=_column(measured, "slot_wait_ms"),
        duration_ms=_column(measured, "duration_ms"),
        turns=_column(measured, "turn_count"),
        max_turns=_column(measured, "max_turns_at_firing"),
    )


def _column(row: sqlite3.Row | None, name: str) -> Any:  # noqa: ANN401 - as the table says
    return None if row is None else row[name]


def _slot(fired_at: datetime, measured: sqlite3.Row | None) -> datetime | None:
    """Return when a firing was due whose task is gone: its time and what delayed it on purpose."""
    lag_ms = _column(measured, "tick_lag_ms")
    return None if lag_ms is None else fired_at - timedelta(milliseconds=lag_ms)


def _moment(micros: int | None) -> datetime:
    found = from_micros(micros)
    if found is None:
        raise AssertionError("a firing has no beginning")
    return found
