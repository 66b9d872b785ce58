"""What do people ask of the database that no tick needs to know?  Reads only, all bounded."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.batch import row_id
from tinyscheduler.adapters.sqlite.blockers import Blockers
from tinyscheduler.adapters.sqlite.rows import (
    attempt_of,
    from_micros,
    marks_of,
    record_of,
    spec_of,
    to_micros,
    waiting_of,
)
from tinyscheduler.model.history import MeasuredAttempt, RecordedTask
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.records import DeferredSchedule, WaitingLine
from tinyscheduler.model.tasks import (
    PROMOTED_AFTER_S,
    FailureReason,
    Outcome,
    PriorityClass,
    TaskState,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from datetime import datetime

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.records import TaskRecord
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Clock

_SOURCE = "local"
_MOST_BLOCKERS = 1000
_MOST_AHEAD = 1_000_000
_MOST_MEASURED = 1_000_000

_LINES = """
SELECT agent, queue, state, tasks FROM counts
WHERE state IN ('waiting', 'held') ORDER BY agent, queue
"""
_WAITING = "SELECT * FROM tasks WHERE id = :id AND state IN ('waiting', 'held')"
# All that is not done above a task, however far up; UNION ends it where ways meet again.
_CHAIN = """
WITH RECURSIVE chain (id) AS (
    SELECT blocker_id FROM dependencies JOIN tasks ON id = blocker_id
    WHERE task_id = :id AND state <> 'done'
    UNION
    SELECT blocker_id FROM chain
    JOIN dependencies ON dependencies.task_id = chain.id
    JOIN tasks ON tasks.id = blocker_id AND tasks.state <> 'done'
    LIMIT :limit
)
SELECT tasks.* FROM chain JOIN tasks USING (id) ORDER BY tasks.id
"""
_AHEAD = """
SELECT (
    SELECT count(*) FROM (
        SELECT 1 FROM tasks INDEXED BY ready_by_priority
        WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
            AND agent = :agent AND queue = :queue
            AND (priority_class = 'batch' AND created_at > :promoted,
                -blocks, -:by_priority * priority, id) < (:is_batch, -:blocks, -:priority, :id)
        LIMIT :limit
    )
) + (
    SELECT count(*) FROM (
        SELECT 1 FROM tasks INDEXED BY deferred
        WHERE state = 'waiting' AND blockers_left = 0 AND start_after <> 0
            AND start_after <= :now AND agent = :agent AND queue = :queue
            AND (priority_class = 'batch' AND created_at > :promoted,
                -blocks, -:by_priority * priority, id) < (:is_batch, -:blocks, -:priority, :id)
        LIMIT :limit
    )
)
"""
# Rows are written when attempts are settled, so their order is that of the endings, and
# the newest are found without an index of their own.
_HISTORY = """
SELECT * FROM attempts
WHERE (:since IS NULL OR ended_at >= :since) AND (:agent IS NULL OR agent = :agent)
    AND (:outcome IS NULL OR outcome = :outcome)
ORDER BY rowid DESC LIMIT :limit
"""
_MEASURED = """
SELECT attempts.agent, attempts.attempt, attempts.started_at, attempts.ended_at, outcome,
    attempts.failure_reason, reclaim_reason, turns, tokens, cost_usd, cpu_s, gpu_s,
    max(tasks.created_at, coalesce(tasks.not_before, 0)) AS ready_at
FROM attempts LEFT JOIN tasks ON source = 'local' AND tasks.id = CAST(task_id AS INTEGER)
WHERE attempts.ended_at >= :since
    AND (:agent IS NULL OR attempts.agent = :agent) AND (:outcome IS NULL OR outcome = :outcome)
ORDER BY attempts.rowid DESC LIMIT :limit
"""
# Of those that somebody waits for, and that nothing else kept from starting at once.
_INTERACTIVE_WAITS = """
SELECT started_at - max(tasks.created_at, coalesce(tasks.not_before, 0)) AS waited
FROM attempts INDEXED BY attempts_by_end
JOIN tasks ON source = 'local' AND tasks.id = CAST(task_id AS INTEGER)
WHERE attempts.ended_at >= :since AND attempts.attempt = 1 AND started_at IS NOT NULL
    AND priority_class = 'interactive' AND tasks.schedule_id IS NULL
    AND NOT EXISTS (SELECT 1 FROM dependencies WHERE dependencies.task_id = tasks.id)
LIMIT :limit
"""
# The newest tasks of which an attempt ended since, and these attempts.
_RECORDED = """
SELECT tasks.id, summary, tasks.created_at, NULL AS prompt, details FROM tasks
JOIN task_specs ON task_specs.task_id = tasks.id
WHERE tasks.id IN (
    SELECT CAST(task_id AS INTEGER) FROM attempts WHERE ended_at >= :since AND source = 'local'
)
ORDER BY tasks.id DESC LIMIT :limit
"""
# Clocks may have been set back, but the numbers of attempts go on.
_ATTEMPTS_SINCE = """
SELECT * FROM attempts
WHERE source = 'local' AND ended_at >= :since AND CAST(task_id AS INTEGER) >= :first
ORDER BY attempt, rowid LIMIT :most
"""
_STOPPED = """
SELECT id, why_paused FROM schedules
WHERE state = 'paused' AND why_paused IS NOT NULL AND (paused_after IS NOT NULL OR EXISTS (
    SELECT 1 FROM switches
    WHERE kind = 'pause' AND target = 'schedule:' || schedules.id AND set_by = :keeper))
ORDER BY id LIMIT 20
"""
_DEFERRED = """
SELECT id, deferrals, due_at FROM schedules WHERE state = 'active' AND deferrals > 0
ORDER BY due_at, id LIMIT 20
"""


class Inquiry:
    """Answers about single tasks and about the past, for people's commands."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        priority_enabled: bool,
        blocking_disabled: bool,
        elsewhere: SqliteSourceTasks | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._database = database
        self._clock = clock
        self._priority_enabled = priority_enabled
        self._blockers = Blockers(are_disabled=blocking_disabled)

    def _elsewhere_of(self, task_id: str) -> SqliteSourceTasks | None:
        """Return who knows the task, if its source is elsewhere."""
        there = self._elsewhere
        return there if there is not None and there.number_of(task_id) is not None else None

    def waiting_task(self, task_id: str) -> WaitingTask | None:
        """Return the task as a tick would see it; None if it neither waits nor is held."""
        if (there := self._elsewhere_of(task_id)) is not None:
            return there.waiting_task(task_id)

        def question(connection: sqlite3.Connection) -> WaitingTask | None:
            row = connection.execute(_WAITING, {"id": row_id(task_id)}).fetchone()
            if row is None:
                return None
            return waiting_of(
                row,
                source=_SOURCE,
                blocked_by=self._blockers.of(connection, row),
                marks=marks_of(connection, [row["id"]]),
            )

        return self._database.read(question)

    def ahead(self, task: WaitingTask) -> int:
        """Count the tasks of the same line that could start and go first.

        Interactive ones, and those that have waited so long that they count as such.
        """
        if (there := self._elsewhere_of(task.task_id)) is not None:
            return there.ahead(task)
        now = to_micros(self._clock.now().wall)
        promoted = now - int(PROMOTED_AFTER_S * 1e6)
        values = {
            "id": row_id(task.task_id),
            "agent": task.agent or "",
            "queue": task.queue or "",
            "blocks": task.blocks,
            "priority": task.priority if self._priority_enabled else 0,
            "by_priority": int(self._priority_enabled),
            "now": now,
            "promoted": promoted,
            "is_batch": task.priority_class is PriorityClass.BATCH
            and (task.created_at is None or to_micros(task.created_at) > promoted),
            "limit": _MOST_AHEAD,
        }

        def question(connection: sqlite3.Connection) -> int:
            (number,) = connection.execute(_AHEAD, values).fetchone()
            return int(number)

        return self._database.read(question)

    def unfinished_above(self, task_id: str) -> list[TaskRecord]:
        """Return every task that is not done and that this one waits for, however far up.

        At most a thousand of them.  Of one whose source is elsewhere, those next to it.
        """
        if (there := self._elsewhere_of(task_id)) is not None:
            return there.unfinished_above(task_id)
        values = {"id": row_id(task_id), "limit": _MOST_BLOCKERS}

        def question(connection: sqlite3.Connection) -> list[TaskRecord]:
            return [
                record_of(row, source=_SOURCE, blocked_by=self._blockers.of(connection, row))
                for row in connection.execute(_CHAIN, values).fetchall()
            ]

        return self._database.read(question)

    def attempts(
        self,
        *,
        since: datetime | None,
        agent: str | None,
        outcome: Outcome | None,
        limit: int,
    ) -> list[AttemptRecord]:
        """Return the newest attempts that fit, at most ``limit``, oldest of them first."""
        values = {
            "since": None if since is None else to_micros(since),
            "agent": agent,
            "outcome": outcome,
            "limit": limit,
        }

        def question(connection: sqlite3.Connection) -> list[AttemptRecord]:
            rows = connection.execute(_HISTORY, values).fetchall()
            return [attempt_of(row) for row in reversed(rows)]

        return self._database.read(question)

    def measured(
        self,
        *,
        since: datetime | None,
        agent: str | None = None,
        outcome: Outcome | None = None,
    ) -> list[MeasuredAttempt]:
        """Return the attempts that fit, newest first, at most a million."""
        values = {
            "since": 0 if since is None else to_micros(since),
            "agent": agent,
            "outcome": outcome,
            "limit": _MOST_MEASURED,
        }

        def question(connection: sqlite3.Connection) -> list[MeasuredAttempt]:
            return [_measured_of(row) for row in connection.execute(_MEASURED, values)]

        return self._database.read(question)

    def interactive_waits_s(self, *, since: datetime) -> list[float]:
        """Return how long interactive tasks waited that ended since, in seconds; firings apart.

        Of each its first attempt, from when it was added or, later, asked to wait for.
        """
        values = {"since": to_micros(since), "limit": _MOST_MEASURED}
        rows = self._database.read(
            lambda connection: connection.execute(_INTERACTIVE_WAITS, values).fetchall()
        )
        return [max(0, row["waited"]) / 1e6 for row in rows]

    def recorded(self, *, since: datetime, limit: int) -> tuple[list[RecordedTask], int]:
        """Return the newest tasks of which an attempt ended since, oldest first.

        Also how many of them are left out, since what they ask for cannot be read.  At most a
        million attempts are looked at, the first ones of all tasks before the second ones.
        """
        values = {"since": to_micros(since), "limit": limit, "most": _MOST_MEASURED}

        def question(connection: sqlite3.Connection) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
            tasks = connection.execute(_RECORDED, values).fetchall()
            first = tasks[-1]["id"] if tasks else 0
            rows = connection.execute(_ATTEMPTS_SINCE, {**values, "first": first}).fetchall()
            return tasks, rows

        tasks, rows = self._database.read(question)
        attempts: dict[str, list[AttemptRecord]] = {}
        for row in rows:
            attempts.setdefault(row["task_id"], []).append(attempt_of(row))
        found, unreadable = [], 0
        for row in reversed(tasks):
            task_id, created_at = str(row["id"]), from_micros(row["created_at"])
            if task_id not in attempts:
                continue
            if created_at is None:
                raise AssertionError("a task in the queue has no beginning")
            try:
                spec = spec_of(row)
            except (TypeError, ValueError):
                unreadable += 1
                continue
            found.append(
                RecordedTask(
                    task_id=task_id,
                    summary=row["summary"],
                    spec=spec,
                    created_at=created_at,
                    attempts=tuple(attempts[task_id]),
                )
            )
        return found, unreadable

    def stopped_schedules(self) -> Mapping[str, str]:
        """Return why schedules paused themselves, by their names; the first few.

        For how their firings ended, or for their budget; what somebody paused is none of them.
        """
        from tinyscheduler.core.budgets import BUDGET_KEEPER  # few commands ask

        values = {"keeper": BUDGET_KEEPER}
        rows = self._database.read(
            lambda connection: connection.execute(_STOPPED, values).fetchall()
        )
        return {row["id"]: row["why_paused"] for row in rows}

    def deferred_schedules(self) -> list[DeferredSchedule]:
        """Return which schedules make way for somebody at work; the first few."""
        rows = self._database.read(lambda connection: connection.execute(_DEFERRED).fetchall())
        return [
            DeferredSchedule(
                schedule_id=row["id"], times=row["deferrals"], until=from_micros(row["due_at"])
            )
            for row in rows
        ]

    def lines(self) -> list[WaitingLine]:
        """Return how many tasks wait in each line, and how many are held."""
        rows = self._database.read(lambda connection: connection.execute(_LINES).fetchall())
        found: dict[tuple[str, str], dict[str, int]] = {}
        for row in rows:
            counts = found.setdefault((row["agent"], row["queue"]), {})
            counts[row["state"]] = row["tasks"]
        return [
            WaitingLine(
                agent=agent or None,
                queue=queue or None,
                waiting=counts.get(TaskState.WAITING, 0),
                held=counts.get(TaskState.HELD, 0),
            )
            for (agent, queue), counts in found.items()
        ] + ([] if self._elsewhere is None else self._elsewhere.lines())


def _measured_of(row: sqlite3.Row) -> MeasuredAttempt:
    ended_at = from_micros(row["ended_at"])
    if ended_at is None:
        raise AssertionError("an attempt in the ledger has no end")
    failure, reclaim = row["failure_reason"], row["reclaim_reason"]
    return MeasuredAttempt(
        agent=row["agent"],
        attempt=row["attempt"],
        started_at=from_micros(row["started_at"]),
        ended_at=ended_at,
        outcome=Outcome(row["outcome"]),
        failure_reason=None if failure is None else FailureReason(failure),
        reclaim_reason=None if reclaim is None else ReclaimReason(reclaim),
        ready_at=from_micros(row["ready_at"]),
        turns=row["turns"],
        tokens=row["tokens"],
        cost_usd=row["cost_usd"],
        cpu_s=row["cpu_s"],
        gpu_s=row["gpu_s"],
    )
