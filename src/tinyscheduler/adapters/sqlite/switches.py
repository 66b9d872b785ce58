"""What is paused or drained?  The switches in the embedded database."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.rows import switch_of, switch_row
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.switches import Switch, SwitchKind, Target

_READ = "SELECT * FROM switches ORDER BY kind, target"
_ONE = "SELECT * FROM switches WHERE kind = ? AND target = ?"
# The first one stays: since when something is paused is what people ask.
_SET = """
INSERT INTO switches (kind, target, since, set_by, reason)
VALUES (:kind, :target, :since, :set_by, :reason) ON CONFLICT (kind, target) DO NOTHING
"""
_REFUSED = "SELECT 1 FROM coolings LIMIT 1"
_CLEAR = "DELETE FROM switches WHERE kind = ? AND target = ?"


class SqliteSwitches:
    """The switches, in the same file as the queue: what was claimed and what was paused agree."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Sequence[Switch]:
        """Return every switch that is set, by kind and target."""
        try:
            return self._database.read(_all)
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error

    def set(self, switch: Switch) -> Switch | None:
        """Set the switch durably; if it was set before, change nothing and return that one."""
        with self._database.writing() as connection:
            key = (switch.kind, str(switch.target))
            before = connection.execute(_ONE, key).fetchone()
            if before is not None:
                return switch_of(before)
            connection.execute(_SET, switch_row(switch))
            with durable_step("switch.set"):
                connection.commit()
        return None

    def clear(self, kind: SwitchKind, target: Target) -> Switch | None:
        """Lift the switch durably and return it; None if it was not set."""
        with self._database.writing() as connection:
            key = (kind, str(target))
            before = connection.execute(_ONE, key).fetchone()
            if before is None:
                return None
            connection.execute(_CLEAR, key)
            with durable_step("switch.clear"):
                connection.commit()
        return switch_of(before)


def is_any_refused(database: Database) -> bool:
    """Whether anything is kept of accounts that were refused; asked by every tick."""
    try:
        return database.read(lambda connection: connection.execute(_REFUSED).fetchone() is not None)
    except BusyError as error:
        raise StoreError(error.what, hint=error.hint) from error


def _all(connection: sqlite3.Connection) -> list[Switch]:
    return [switch_of(row) for row in connection.execute(_READ)]
