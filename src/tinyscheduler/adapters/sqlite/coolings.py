"""Which accounts were refused by their provider?  Kept in the embedded database."""

from __future__ import annotations

from datetime import timedelta

from tinyscheduler.adapters.sqlite.rows import EPOCH, to_micros
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError
from tinyscheduler.model.coolings import Cooling

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tinyscheduler.adapters.sqlite.database import Database

_READ = "SELECT * FROM coolings ORDER BY account"
_ONE = "SELECT * FROM coolings WHERE account = ?"
_KEEP = """
INSERT OR REPLACE INTO coolings (account, since, until, times, agent, words, is_told)
VALUES (:account, :since, :until, :times, :agent, :words, :is_told)
"""
_FORGET = "DELETE FROM coolings WHERE account = ?"


class SqliteCoolings:
    """The coolings, in the same file as the queue: a task that goes back finds its account cool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Sequence[Cooling]:
        """Return what is kept of every account, by its name; what is over, too."""
        try:
            return self._database.read(_all)
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error

    def keep(self, cooling: Cooling) -> None:
        """Replace durably what is kept of that account."""
        with self._database.writing() as connection:
            connection.execute(_KEEP, _row(cooling))
            with durable_step("cooling.keep"):
                connection.commit()

    def forget(self, account: str) -> Cooling | None:
        """Remove durably what is kept of an account and return it; None if that is nothing."""
        with self._database.writing() as connection:
            before = connection.execute(_ONE, (account,)).fetchone()
            if before is None:
                return None
            connection.execute(_FORGET, (account,))
            with durable_step("cooling.forget"):
                connection.commit()
        return _cooling_of(before)


def _all(connection: sqlite3.Connection) -> list[Cooling]:
    return [_cooling_of(row) for row in connection.execute(_READ)]


def _row(cooling: Cooling) -> dict[str, str | int]:
    return {
        "account": cooling.account,
        "since": to_micros(cooling.since),
        "until": to_micros(cooling.until),
        "times": cooling.times,
        "agent": cooling.agent,
        # What an agent prints is any bytes; SQLite takes texts of Unicode alone.
        "words": cooling.words.encode(errors="backslashreplace").decode(),
        "is_told": int(cooling.is_told),
    }


def _cooling_of(row: sqlite3.Row) -> Cooling:
    return Cooling(
        account=row["account"],
        since=EPOCH + timedelta(microseconds=row["since"]),
        until=EPOCH + timedelta(microseconds=row["until"]),
        times=row["times"],
        agent=row["agent"],
        words=row["words"],
        is_told=bool(row["is_told"]),
    )
