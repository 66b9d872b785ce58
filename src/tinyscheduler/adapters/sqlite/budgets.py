"""What was used of each budget?  Summed up over the ledger, beside the queue."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.rows import switch_row, to_micros
from tinyscheduler.core.budgets import budgets_of, find_used_up, pause_for, target_of
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError
from tinyscheduler.model.budgets import OVERALL, Spent, UsedUp
from tinyscheduler.model.switches import SwitchKind, TargetKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.ports import Clock

# What began before the budget was lifted is not counted, whenever it ended.
_ENDED = """
SELECT count(*) AS runs, sum(turns) AS turns, sum(tokens) AS tokens, sum(cost_usd) AS money_usd,
    sum(gpu_s) AS gpu_s, sum(max(0, ended_at - coalesce(started_at, ended_at))) AS wall
FROM attempts INDEXED BY {index}
WHERE ended_at > :begin AND coalesce(started_at, ended_at) >= :since {whose}
"""
# An attempt that is in the ledger is counted there, though its task may not be told yet.
_RUNNING = """
SELECT count(*) AS runs, sum(max(0, :now - updated_at)) AS wall
FROM tasks INDEXED BY {index}
WHERE state = 'working' AND updated_at >= :since {whose}
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.lease_id = tasks.lease_id)
"""
_OF_ALL = (
    _ENDED.format(index="attempts_by_end", whose=""),
    _RUNNING.format(index="tasks_by_state", whose=""),
)
_OF_AGENT = (
    _ENDED.format(index="attempts_by_agent_and_end", whose="AND agent = :name"),
    _RUNNING.format(index="tasks_by_state", whose="AND claimed_by = :name"),
)
_OF_SCHEDULE = (
    _ENDED.format(
        index="attempts_by_schedule_and_end",
        whose="AND schedule_id IS NOT NULL AND schedule_id = :name",
    ),
    _RUNNING.format(
        index="firings_at_work", whose="AND schedule_id IS NOT NULL AND schedule_id = :name"
    ),
)
_SINCE = "SELECT since FROM budget_starts WHERE subject = ?"
_LIFT = "INSERT OR REPLACE INTO budget_starts (subject, since) VALUES (?, ?)"
_IS_PAUSED = "SELECT 1 FROM switches WHERE kind = ? AND target = ?"
_PAUSE = """
INSERT INTO switches (kind, target, since, set_by, reason)
VALUES (:kind, :target, :since, :set_by, :reason)
"""
_PAUSE_SCHEDULE = """
UPDATE schedules SET state = 'paused', why_paused = :why, updated_at = :now
WHERE id = :id AND state = 'active'
"""


class SqliteBudgets:
    """The budgets, over what the ledger in the same file says of attempts."""

    def __init__(self, database: Database, clock: Clock, budgets: tuple[Budget, ...]) -> None:
        """Take the budgets that hold."""
        self._database = database
        self._clock = clock
        self._budgets = budgets

    def enforce(self) -> Sequence[UsedUp]:
        """Pause each subject whose budget is used up and that is not paused; return these."""
        now = to_micros(self._clock.now().wall)
        try:
            if not self._database.read(lambda connection: self._find(connection, now)):
                return ()
            with self._database.writing() as connection:
                found = self._find(connection, now)
                for one in found:
                    self._pause(connection, one, now)
                with durable_step("budget.pause"):
                    connection.commit()
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error
        return found

    def spent(self) -> Sequence[tuple[Budget, Spent]]:
        """Return what is used of each budget."""
        now = to_micros(self._clock.now().wall)
        return self._database.read(
            lambda connection: [(one, spent_of(connection, one, now)) for one in self._budgets]
        )

    def lift(self, subject: str) -> None:
        """Have nothing count that the subject has used until now."""
        now = to_micros(self._clock.now().wall)
        with self._database.writing() as connection:
            connection.execute(_LIFT, (subject, now))
            with durable_step("budget.lift"):
                connection.commit()

    def _find(self, connection: sqlite3.Connection, now: int) -> list[UsedUp]:
        found: dict[str, UsedUp] = {}
        for budget in self._budgets:
            target = str(target_of(budget))
            if budget.subject in found:
                continue
            if connection.execute(_IS_PAUSED, (SwitchKind.PAUSE, target)).fetchone() is not None:
                continue
            words = find_used_up(budget, spent_of(connection, budget, now))
            if words is not None:
                found[budget.subject] = UsedUp(budget=budget, words=words)
        return list(found.values())

    def _pause(self, connection: sqlite3.Connection, one: UsedUp, now: int) -> None:
        switch = pause_for(one.budget, one.words, self._clock.now().wall)
        connection.execute(_PAUSE, switch_row(switch))
        if switch.target.kind is TargetKind.SCHEDULE:
            why = f"its budget is {switch.reason}"
            connection.execute(_PAUSE_SCHEDULE, {"id": switch.target.name, "why": why, "now": now})


def spent_of(connection: sqlite3.Connection, budget: Budget, now: int) -> Spent:
    """Sum up what the subject of a budget has used of it, within the statement of somebody else."""
    row = connection.execute(_SINCE, (budget.subject,)).fetchone()
    kind, _, name = budget.subject.partition(":")
    statements = _OF_ALL if kind == OVERALL else _OF_AGENT if kind == "agent" else _OF_SCHEDULE
    values = {
        "name": name,
        "now": now,
        "begin": now - int(budget.window_s * 1e6),
        "since": 0 if row is None else row["since"],
    }
    ended, running = (connection.execute(one, values).fetchone() for one in statements)
    return Spent(
        runs=ended["runs"] + running["runs"],
        turns=ended["turns"] or 0,
        tokens=ended["tokens"] or 0,
        money_usd=ended["money_usd"] or 0.0,
        gpu_s=ended["gpu_s"] or 0.0,
        wall_s=((ended["wall"] or 0) + (running["wall"] or 0)) / 1e6,
    )


def may_spend(
    connection: sqlite3.Connection,
    budgets: tuple[Budget, ...],
    *,
    agent: str,
    schedule_id: str | None,
    now: int,
) -> bool:
    """Whether something is left of each budget for one more attempt."""
    mine = budgets_of(budgets, agent=agent, schedule_id=schedule_id)
    return all(find_used_up(one, spent_of(connection, one, now)) is None for one in mine)
