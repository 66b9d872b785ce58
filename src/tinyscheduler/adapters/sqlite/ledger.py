"""How did each attempt end?  The ledger in the embedded database."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.rows import attempt_of, attempt_row
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.history import AttemptRecord

_RECORD = """
INSERT INTO attempts (
    lease_id, task_id, source, agent, attempt, started_at, ended_at, outcome, failure_reason,
    reclaim_reason, exit_code, signal, message, turns, peak_rss_mb, log,
    tokens, cost_usd, cpu_s, gpu_s, schedule_id
) VALUES (
    :lease_id, :task_id, :source, :agent, :attempt, :started_at, :ended_at, :outcome,
    :failure_reason, :reclaim_reason, :exit_code, :signal, :message, :turns, :peak_rss_mb, :log,
    :tokens, :cost_usd, :cpu_s, :gpu_s, :schedule_id
) ON CONFLICT (lease_id) DO NOTHING
"""
_ATTEMPTS = "SELECT * FROM attempts WHERE task_id = ? ORDER BY attempt, ended_at, lease_id"


class SqliteLedger:
    """The ledger, in the same file as the queue."""

    def __init__(self, database: Database, *, shared_with: str | None = None) -> None:
        """Take the database, and the name of the source that keeps its tasks there too."""
        self._database = database
        self._shared_with = shared_with

    def record(self, attempt: AttemptRecord, *, is_told_next: bool = False) -> None:
        """Write one row durably; a second row for the same lease id changes nothing.

        The log of a database is in order, so the commit of a source that shares it makes
        this one durable as well: one wait for the disk is enough for both.
        """
        durably = not (is_told_next and attempt.source == self._shared_with)
        try:
            with self._database.writing(durably=durably) as connection:
                write_attempt(connection, attempt)
                with durable_step("ledger.record"):
                    connection.commit()
        except BusyError as error:
            # To a tick a locked database is a store that refuses; it tries again.
            raise StoreError(error.what, hint=error.hint) from error

    def attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        """Return the rows of one task, oldest attempt first."""

        def question(connection: sqlite3.Connection) -> list[AttemptRecord]:
            return [attempt_of(row) for row in connection.execute(_ATTEMPTS, (task_id,))]

        return self._database.read(question)


def write_attempt(connection: sqlite3.Connection, attempt: AttemptRecord) -> None:
    """Write one row within the statement of somebody else; a second one changes nothing."""
    connection.execute(_RECORD, attempt_row(attempt))
