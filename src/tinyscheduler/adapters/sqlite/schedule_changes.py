"""How are the definitions of schedules changed, one or many, all of it or nothing?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.adapters.sqlite.rows import micros_or_none, to_micros
from tinyscheduler.adapters.sqlite.schedules import (
    definition_of,
    insert_schedule,
    next_columns,
    none_such,
    schedule_of,
)
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.schedules import Schedule, ScheduleChange
    from tinyscheduler.ports import Clock

_ONE = "SELECT * FROM schedules WHERE id = ?"
_ALL = "SELECT * FROM schedules ORDER BY id"
_REDEFINE = """
UPDATE schedules SET definition = :definition, state = :state, next_slot = :next_slot,
    due_at = :due_at, deferrals = :deferrals, anchor = :anchor,
    max_turns_set_at = :max_turns_set_at,
    declared_in = :declared_in, revision = :revision, updated_at = :now
WHERE id = :id AND revision = :was
"""
_DELETE = "DELETE FROM schedules WHERE id = ?"


class ScheduleChanges:
    """Gives schedules other definitions, where they are kept."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Take the database that keeps the schedules."""
        self._database = database
        self._clock = clock

    def edit(
        self,
        schedule_id: str,
        amend: Callable[[Schedule], Schedule],
        *,
        revision: int | None = None,
    ) -> tuple[Schedule, Schedule]:
        """Change one while nobody else can; return it as it was and as it is.

        Raises NotFoundError if there is none of that name, BusyError if it was edited since the
        ``revision``, and whatever ``amend`` raises; nothing is changed then.
        """
        with self._database.writing() as connection:
            row = connection.execute(_ONE, (schedule_id,)).fetchone()
            if row is None:
                raise none_such(schedule_id)
            before = schedule_of(row)
            if revision not in (None, before.revision):
                raise BusyError(
                    f"schedule {schedule_id} has revision {before.revision}, not {revision}:"
                    " somebody edited it meanwhile",
                    hint=f"look at it again: `tinyscheduler schedule show {schedule_id}`",
                )
            after = amend(before)
            if after != before:
                self._redefine(connection, before, after)
                with durable_step("schedule.edit"):
                    connection.commit()
        return before, after

    def apply(
        self, decide: Callable[[Sequence[Schedule]], Sequence[ScheduleChange]]
    ) -> Sequence[ScheduleChange]:
        """Make all changes that are decided on, in one step; return them.

        ``decide`` is told all schedules there are; nothing moves them on until it is done, and
        what it raises leaves everything as it was.
        """
        with self._database.writing() as connection:
            changes = decide([schedule_of(row) for row in connection.execute(_ALL)])
            for change in changes:
                # Not durable before the commit: whoever dies here has changed nothing.
                with durable_step("schedule.change"):
                    self._make(connection, change)
            if changes:
                with durable_step("schedule.apply"):
                    connection.commit()
        return changes

    def _make(self, connection: sqlite3.Connection, change: ScheduleChange) -> None:
        before, after = change.before, change.after
        if after is None:
            if before is not None:
                connection.execute(_DELETE, (before.schedule_id,))
        elif before is None:
            insert_schedule(connection, after)
        else:
            self._redefine(connection, before, after)

    def _redefine(self, connection: sqlite3.Connection, before: Schedule, after: Schedule) -> None:
        values = {
            "id": before.schedule_id,
            "was": before.revision,
            "definition": definition_of(after),
            "state": after.state,
            "deferrals": after.deferrals,
            "anchor": to_micros(after.anchor),
            "max_turns_set_at": micros_or_none(after.max_turns_set_at),
            "declared_in": after.declared_in,
            "revision": after.revision,
            "now": to_micros(self._clock.now().wall),
            **next_columns(after, after.next_fire_at),
        }
        if after.deferred_until is not None:
            # It goes on making way: what it fires for is the same.
            values["due_at"] = to_micros(after.deferred_until)
        if connection.execute(_REDEFINE, values).rowcount != 1:
            raise AssertionError(before.schedule_id)
