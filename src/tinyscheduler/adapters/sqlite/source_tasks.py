"""Where do the tasks of a source stand that keeps no attempts, backoff or claims itself?

Rows of `source_tasks`: written by ticks as they look, claim and settle, and by people's
commands, none of which asks the source.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

from tinyscheduler.adapters.sqlite.rows import from_micros, micros_or_none, to_micros
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, NotFoundError, SourceError, StoreError, UsageError
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.records import (
    AlreadyEnded,
    Cancelled,
    CancelRequested,
    TaskRecord,
    WaitingLine,
)
from tinyscheduler.model.source_tasks import KnownTask, SeenTask
from tinyscheduler.model.tasks import (
    FailureReason,
    Finish,
    Requeue,
    TaskSpec,
    TaskState,
    WaitingTask,
)
from tinyscheduler.values import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.model.records import CancelAnswer
    from tinyscheduler.model.tasks import Ending
    from tinyscheduler.ports import Clock

_NUMBER_DIGITS = 15  # as many as any JSON keeps exactly
_DECADE_S = 10 * 365 * 86400.0

_OPEN = """
SELECT * FROM source_tasks INDEXED BY source_tasks_by_state
WHERE state IN ('waiting', 'held', 'working') AND source = :source
"""
_AMONG = """
SELECT * FROM source_tasks
WHERE source = :source AND number IN (SELECT value FROM json_each(:numbers))
"""
_TASK = "SELECT * FROM source_tasks WHERE source = :source AND number = :number"
_SEE = """
INSERT INTO source_tasks (
    source, number, state, agent, queue, summary, priority, blocks, blocked_by, impediment,
    created_at, updated_at
) VALUES (
    :source, :number, 'waiting', :agent, :queue, :summary, :priority, :blocks, :blocked_by,
    :impediment, :created_at, :updated_at
) ON CONFLICT (source, number) DO UPDATE SET
    agent = :agent, queue = :queue, summary = :summary, priority = :priority, blocks = :blocks,
    blocked_by = :blocked_by, impediment = :impediment, created_at = :created_at,
    updated_at = :updated_at
"""
# Made to wait by whoever opened it again, or gave it to somebody else, at its source; or
# another task than the one of that number before it.
_REVIVE = """
UPDATE source_tasks SET state = 'waiting', failures = 0, launches = 0, failure_reason = NULL,
    backing_off_until = NULL, ended_at = NULL
WHERE source = :source AND number = :number AND state <> 'working'
"""
_LOSE = """
UPDATE source_tasks SET lost_since = :since WHERE source = :source AND number = :number
"""
_CLEAR_DOUBT = """
UPDATE source_tasks SET doubtful_for = NULL WHERE source = :source AND number = :number
"""
_PUT_OFF = """
UPDATE source_tasks SET backing_off_until = :until
WHERE source = :source AND number = :number AND state = 'waiting'
"""
_FORGET = """
DELETE FROM source_tasks
WHERE source = :source AND number = :number AND state IN ('waiting', 'held')
"""
# Gone from its source: cancelled, but for no reason, as nobody here has cancelled it.
_END = """
UPDATE source_tasks SET state = :state, failure_reason = NULL, backing_off_until = NULL,
    lost_since = NULL, ended_at = :now, updated_at = :now
WHERE source = :source AND number = :number AND state IN ('waiting', 'held')
"""
# As that of the embedded queue: whoever's statement finds the row still waiting has the task.
_CLAIM = """
UPDATE source_tasks SET state = 'working', lease_id = :lease_id, claimed_by = :agent,
    backing_off_until = NULL, lost_since = NULL, doubtful_for = NULL, updated_at = :now
WHERE source = :source AND number = :number AND state = 'waiting' AND attempt = :attempt
    AND (backing_off_until IS NULL OR backing_off_until <= :now OR backing_off_until > :latest)
    AND NOT EXISTS (
        SELECT 1 FROM switches WHERE target IN (
            'all', 'agent:' || :agent,
            'queue:' || coalesce(nullif(source_tasks.queue, ''), :queue)))
"""
_UNCLAIM = """
UPDATE source_tasks SET
    state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'waiting' END,
    failure_reason = CASE WHEN cancel_requested THEN 'cancelled' ELSE failure_reason END,
    ended_at = CASE WHEN cancel_requested THEN :now END,
    doubtful_for = CASE WHEN :is_doubtful THEN claimed_by END,
    lease_id = NULL, claimed_by = NULL, cancel_requested = 0
WHERE source = :source AND number = :number AND state = 'working' AND lease_id = :lease_id
"""
# A cancellation that was asked for meanwhile is granted by the statement that would otherwise
# make the task wait again or give it up, so that it cannot fall between two.
_REQUEUE = """
UPDATE source_tasks SET
    state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'waiting' END,
    failure_reason =
        CASE WHEN cancel_requested THEN 'cancelled' ELSE coalesce(:reason, failure_reason) END,
    ended_at = CASE WHEN cancel_requested THEN :now END,
    backing_off_until = CASE WHEN cancel_requested THEN NULL ELSE :until END,
    lease_id = NULL, claimed_by = NULL, cancel_requested = 0, lost_since = NULL,
    attempt = :attempt, failures = :failures, launches = :launches, updated_at = :now
WHERE source = :source AND number = :number AND lease_id IS :lease_id
    AND state = :before
"""
_FINISH = """
UPDATE source_tasks SET
    state = CASE WHEN cancel_requested AND :state <> 'done' THEN 'cancelled' ELSE :state END,
    failure_reason =
        CASE WHEN cancel_requested AND :state <> 'done' THEN 'cancelled' ELSE :reason END,
    failures = :failures, attempt = attempt + 1, backing_off_until = NULL,
    lease_id = NULL, claimed_by = NULL, cancel_requested = 0, lost_since = NULL,
    updated_at = :now, ended_at = :now
WHERE source = :source AND number = :number AND lease_id IS :lease_id
    AND state = :before
"""
_LIST = """
SELECT * FROM source_tasks
WHERE source = :source AND (:state IS NULL OR state = :state)
    AND (:agent IS NULL OR agent = :agent OR claimed_by = :agent)
ORDER BY created_at DESC, number DESC LIMIT :limit
"""
_COUNTS = "SELECT state, count(*) AS tasks FROM source_tasks WHERE source = :source GROUP BY state"
_LINES = """
SELECT agent, queue, sum(state = 'waiting') AS waiting, sum(state = 'held') AS held
FROM source_tasks INDEXED BY source_tasks_by_state
WHERE state IN ('waiting', 'held') AND source = :source
GROUP BY agent, queue ORDER BY agent, queue
"""
_AHEAD = """
SELECT count(*) FROM source_tasks INDEXED BY source_tasks_by_state
WHERE state = 'waiting' AND source = :source AND agent = :agent AND queue = :queue
    AND blocked_by = '' AND impediment IS NULL
    AND (backing_off_until IS NULL OR backing_off_until <= :now)
    AND (-blocks, -priority, created_at, number) < (:blocks, :priority, :created_at, :number)
"""
_CANCEL = """
UPDATE source_tasks SET state = 'cancelled', failure_reason = 'cancelled',
    backing_off_until = NULL, ended_at = :now, updated_at = :now
WHERE source = :source AND number = :number
"""
_REQUEST_CANCEL = """
UPDATE source_tasks SET cancel_requested = 1 WHERE source = :source AND number = :number
"""
_RETRY = """
UPDATE source_tasks SET state = 'waiting', backing_off_until = NULL, ended_at = NULL,
    failures = CASE WHEN state = 'waiting' THEN failures ELSE 0 END,
    launches = CASE WHEN state = 'waiting' THEN launches ELSE 0 END,
    failure_reason = CASE WHEN state = 'waiting' THEN failure_reason END, updated_at = :now
WHERE source = :source AND number = :number
"""
_SET_STATE = """
UPDATE source_tasks SET state = :state, updated_at = :now
WHERE source = :source AND number = :number
"""
_WHY_NO_RETRY = {
    TaskState.DONE: "it is complete; open it again at its source",
    TaskState.HELD: "release it instead",
    TaskState.WORKING: "cancel it first, or wait until it has ended",
}


class SqliteSourceTasks:
    """What is kept of the tasks of one source.  Their ids bear its name: ``tinytask-12``.

    What ticks use raises SourceError where the database does not answer; the rest is for
    people's commands and raises StoreError or BusyError.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        source: str,
        longest_backoff_s: float = _DECADE_S,
        budgets: tuple[Budget, ...] = (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._source = source
        self._longest_backoff_s = longest_backoff_s
        self._budgets = budgets

    # -- for ticks ----------------------------------------------------------------

    def number_of(self, task_id: str) -> int | None:
        """Return by what number the source knows the task; None if it is none of its tasks."""
        prefix, _, digits = task_id.rpartition("-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) <= _NUMBER_DIGITS
        if prefix != self._source or not is_number or digits[0] == "0":
            return None
        return int(digits)

    def id_of(self, number: int) -> str:
        """Return what everybody here calls the task of that number."""
        return f"{self._source}-{number}"

    def known(self, numbers: Iterable[int] = ()) -> Mapping[int, KnownTask]:
        """Return all tasks that have not ended, and those of these numbers that have."""
        values = {"source": self._source, "numbers": dumps(list(numbers))}

        def question(connection: sqlite3.Connection) -> list[sqlite3.Row]:
            return [
                *connection.execute(_OPEN, values).fetchall(),
                *connection.execute(_AMONG, values).fetchall(),
            ]

        with _answering():
            return {row["number"]: _known_of(row) for row in self._database.read(question)}

    def note(
        self,
        *,
        seen: Sequence[SeenTask] = (),
        revived: Sequence[int] = (),
        lost: Mapping[int, datetime | None] | None = None,
        undoubted: Sequence[int] = (),
        ended: Mapping[int, TaskState | None] | None = None,
    ) -> None:
        """Keep in one step what a look has shown.

        ``lost`` says since when; ``ended`` how tasks ended elsewhere, None for what is not
        worth remembering.
        """
        now = self._now()
        with _answering(), self._database.writing() as connection:
            for one in seen:
                connection.execute(_SEE, self._columns_of(one))
            for number in revived:
                connection.execute(_REVIVE, self._key(number))
            for number, since in (lost or {}).items():
                connection.execute(_LOSE, {**self._key(number), "since": micros_or_none(since)})
            for number in undoubted:
                connection.execute(_CLEAR_DOUBT, self._key(number))
            for number, state in (ended or {}).items():
                values = {**self._key(number), "state": state, "now": now}
                connection.execute(_FORGET if state is None else _END, values)
            with durable_step("source_tasks.note"):
                connection.commit()

    def put_off(self, number: int, until: datetime) -> None:
        """Let a task that waits not be tried before then."""
        values = {**self._key(number), "until": to_micros(until)}
        with _answering(), self._database.writing() as connection:
            connection.execute(_PUT_OFF, values)
            connection.commit()

    def claim(self, seen: SeenTask, *, lease_id: str, agent: str, queue: str, attempt: int) -> bool:
        """Note durably that the task is ours under this lease, if it waits as this attempt.

        False where it does not, or was paused, and nothing was changed.
        """
        now = self._now()
        values = {
            **self._key(seen.number),
            "lease_id": lease_id,
            "agent": agent,
            "queue": queue,
            "attempt": attempt,
            "now": now,
            # Any later, and it was reckoned under a clock that has been set back since.
            "latest": now + int(self._longest_backoff_s * 1e6),
        }
        with _answering(), self._database.writing() as connection:
            if self._budgets and not self._may_spend(connection, agent, now):
                return False
            if connection.execute(_TASK, values).fetchone() is None:
                connection.execute(_SEE, self._columns_of(seen))
            if connection.execute(_CLAIM, values).rowcount == 0:
                return False
            with durable_step("source_tasks.claim"):
                connection.commit()
        return True

    def _may_spend(self, connection: sqlite3.Connection, agent: str, now: int) -> bool:
        from tinyscheduler.adapters.sqlite.budgets import may_spend  # few set any

        return may_spend(connection, self._budgets, agent=agent, schedule_id=None, now=now)

    def unclaim(self, number: int, *, lease_id: str, is_doubtful: bool) -> None:
        """Take a claim back that came to nothing; ``is_doubtful`` where its source may have it."""
        values = {
            **self._key(number),
            "lease_id": lease_id,
            "is_doubtful": is_doubtful,
            "now": self._now(),
        }
        with _answering(), self._database.writing() as connection:
            connection.execute(_UNCLAIM, values)
            with durable_step("source_tasks.unclaim"):
                connection.commit()

    def settle(self, number: int, *, lease_id: str | None, ending: Ending) -> TaskState | None:
        """End the claim of this lease; None if it is no more, and nothing was changed.

        Without a lease, a task that waits: what was lost elsewhere is given back by it.
        """
        before = TaskState.WAITING if lease_id is None else TaskState.WORKING
        values = {
            **self._key(number),
            "lease_id": lease_id,
            "before": before,
            "now": self._now(),
        }
        with _answering(), self._database.writing() as connection:
            if not _end_claim(connection, values, ending):
                return None
            row = connection.execute(_TASK, values).fetchone()
            with durable_step("source_tasks.settle"):
                connection.commit()
        return TaskState(row["state"])

    # -- for people ---------------------------------------------------------------

    def task(self, task_id: str) -> TaskRecord:
        """Return where the task stands; NotFoundError if it is not known."""
        return self._record(self._find(task_id))

    def describe(self, task_id: str) -> TaskSpec:
        """Return what is known here of what the task asks for."""
        seen = self._find(task_id).seen
        return TaskSpec(
            agent=seen.agent,
            queue=seen.queue,
            title=seen.summary,
            priority=seen.priority,
            after=tuple(map(self.id_of, seen.blocked_by)),
        )

    def waiting_task(self, task_id: str) -> WaitingTask | None:
        """Return the task as a tick would see it; None if it neither waits nor is held."""
        known = self._find(task_id)
        if known.state not in (TaskState.WAITING, TaskState.HELD):
            return None
        return self.waiting_of(known, created_order=0, created_at=known.seen.created_at)

    def waiting_of(
        self, known: KnownTask, *, created_order: int, created_at: datetime
    ) -> WaitingTask:
        """Return a task that waits or is held, as a policy sees it."""
        seen = known.seen
        return WaitingTask(
            task_id=self.id_of(seen.number),
            source=self._source,
            created_order=created_order,
            attempt=known.attempt,
            failures=known.failures,
            launches=known.launches,
            agent=seen.agent,
            queue=seen.queue,
            priority=seen.priority,
            blocks=seen.blocks,
            blocked_by=tuple(map(self.id_of, seen.blocked_by)),
            backing_off_until=known.backing_off_until,
            is_held=known.state is TaskState.HELD,
            created_at=created_at,
            title=seen.summary,
            impediment=seen.impediment,
        )

    def ahead(self, task: WaitingTask) -> int:
        """Count the tasks of the same line that could start and go first, as last seen."""
        known = self._find(task.task_id)
        values = {
            **self._columns_of(known.seen),
            "blocks": -known.seen.blocks,
            "priority": -known.seen.priority,
            "now": self._now(),
        }
        (number,) = self._database.read(
            lambda connection: connection.execute(_AHEAD, values).fetchone()
        )
        return int(number)

    def unfinished_above(self, task_id: str) -> list[TaskRecord]:
        """Return the tasks that this one waits for, of those that are known here."""
        numbers = self._find(task_id).seen.blocked_by
        found = self.known(numbers)
        return [self._record(found[number]) for number in numbers if number in found]

    def tasks(self, *, state: TaskState | None, agent: str | None, limit: int) -> list[TaskRecord]:
        """Return the newest tasks that fit, at most ``limit``, oldest of them first."""
        values = {"source": self._source, "state": state, "agent": agent, "limit": limit}
        rows = self._database.read(lambda connection: connection.execute(_LIST, values).fetchall())
        return [self._record(_known_of(row)) for row in reversed(rows)]

    def counts(self) -> Mapping[TaskState, int]:
        """Return how many tasks are known in each stored state, those of none left out."""
        values = {"source": self._source}
        rows = self._database.read(
            lambda connection: connection.execute(_COUNTS, values).fetchall()
        )
        return {TaskState(row["state"]): int(row["tasks"]) for row in rows}

    def lines(self) -> list[WaitingLine]:
        """Return how many tasks wait in each line, and how many are held."""
        values = {"source": self._source}
        rows = self._database.read(lambda connection: connection.execute(_LINES, values).fetchall())
        return [
            WaitingLine(
                agent=row["agent"] or None,
                queue=row["queue"] or None,
                waiting=row["waiting"],
                held=row["held"],
            )
            for row in rows
        ]

    def states(self, task_ids: Iterable[str]) -> Mapping[str, TaskState]:
        """Return the stored state of each of these tasks that is known."""
        numbers = [self.number_of(task_id) for task_id in task_ids]
        found = self.known(number for number in numbers if number is not None)
        return {
            self.id_of(number): found[number].state
            for number in numbers
            if number is not None and number in found
        }

    def request_cancel(self, task_id: str) -> CancelAnswer:
        """Cancel the task now if it runs nowhere, else note the wish in its row."""
        with self._changing(task_id) as (connection, known, values):
            match known.state:
                case TaskState.WAITING | TaskState.HELD | TaskState.PARKED:
                    connection.execute(_CANCEL, values)
                    answer: CancelAnswer = Cancelled()
                case TaskState.WORKING:
                    connection.execute(_REQUEST_CANCEL, values)
                    answer = CancelRequested(lease_id=known.lease_id or "")
                case state:
                    return AlreadyEnded(state=state)
            connection.commit()
        return answer

    def retry(self, task_id: str) -> None:
        """Make a task that ended wait again with all its attempts, or end a backoff."""
        with self._changing(task_id) as (connection, known, values):
            hint = _WHY_NO_RETRY.get(known.state)
            if hint is not None:
                message = f"task {task_id} is {_told(known.state)} and cannot be retried"
                raise UsageError(message, hint=hint)
            connection.execute(_RETRY, values)
            connection.commit()

    def hold(self, task_id: str) -> bool:
        """Set a waiting task aside until it is released; False if it was held before."""
        return self._switch(task_id, TaskState.WAITING, TaskState.HELD)

    def release(self, task_id: str) -> bool:
        """Let a held task wait again; False if it waited before."""
        return self._switch(task_id, TaskState.HELD, TaskState.WAITING)

    # -- parts --------------------------------------------------------------------

    def _switch(self, task_id: str, before: TaskState, after: TaskState) -> bool:
        with self._changing(task_id) as (connection, known, values):
            if known.state is after:
                return False
            if known.state is not before:
                wish = "be held" if after is TaskState.HELD else "be released"
                raise UsageError(
                    f"task {task_id} is {_told(known.state)}; only a {before} task can {wish}",
                    hint=f"`tinyscheduler why {task_id}` says more",
                )
            connection.execute(_SET_STATE, {**values, "state": after})
            connection.commit()
        return True

    @contextmanager
    def _changing(
        self, task_id: str
    ) -> Iterator[tuple[sqlite3.Connection, KnownTask, dict[str, Any]]]:
        values = {**self._key(self._number(task_id)), "now": self._now()}
        with self._database.writing() as connection:
            row = connection.execute(_TASK, values).fetchone()
            if row is None:
                raise _no_such_task(task_id)
            yield connection, _known_of(row), values

    def _find(self, task_id: str) -> KnownTask:
        values = self._key(self._number(task_id))
        row = self._database.read(lambda connection: connection.execute(_TASK, values).fetchone())
        if row is None:
            raise _no_such_task(task_id)
        return _known_of(row)

    def _number(self, task_id: str) -> int:
        number = self.number_of(task_id)
        if number is None:
            raise _no_such_task(task_id)
        return number

    def _key(self, number: int) -> dict[str, Any]:
        return {"source": self._source, "number": number}

    def _columns_of(self, seen: SeenTask) -> dict[str, Any]:
        return {
            **self._key(seen.number),
            "agent": seen.agent or "",
            "queue": seen.queue or "",
            "summary": seen.summary,
            "priority": seen.priority,
            "blocks": seen.blocks,
            "blocked_by": ",".join(map(str, seen.blocked_by)),
            "impediment": seen.impediment,
            "created_at": to_micros(seen.created_at),
            "updated_at": to_micros(seen.updated_at),
        }

    def _record(self, known: KnownTask) -> TaskRecord:
        seen = known.seen
        return TaskRecord(
            task_id=self.id_of(seen.number),
            source=self._source,
            state=known.state,
            summary=seen.summary,
            agent=seen.agent,
            queue=seen.queue,
            priority=seen.priority,
            lease_id=known.lease_id,
            claimed_by=known.claimed_by,
            attempt=known.attempt,
            failures=known.failures,
            launches=known.launches,
            max_attempts=None,
            failure_reason=known.failure_reason,
            cancel_requested=known.cancel_requested,
            blocks=seen.blocks,
            blockers_left=len(seen.blocked_by),
            blocked_by=tuple(map(self.id_of, seen.blocked_by)),
            not_before=None,
            backing_off_until=known.backing_off_until,
            created_at=seen.created_at,
            updated_at=seen.updated_at,
            ended_at=known.ended_at,
        )

    def _now(self) -> int:
        return to_micros(self._clock.now().wall)


_EPOCH = from_micros(0)


def _moment(micros: int) -> datetime:
    if _EPOCH is None:
        raise AssertionError("zero is a moment")
    return _EPOCH + timedelta(microseconds=micros)


def _known_of(row: sqlite3.Row) -> KnownTask:
    reason = row["failure_reason"]
    return KnownTask(
        seen=SeenTask(
            number=row["number"],
            agent=row["agent"] or None,
            queue=row["queue"] or None,
            summary=row["summary"],
            priority=row["priority"],
            blocks=row["blocks"],
            blocked_by=tuple(int(one) for one in row["blocked_by"].split(",") if one),
            impediment=row["impediment"],
            created_at=_moment(row["created_at"]),
            updated_at=_moment(row["updated_at"]),
        ),
        state=TaskState(row["state"]),
        lease_id=row["lease_id"],
        claimed_by=row["claimed_by"],
        attempt=row["attempt"],
        failures=row["failures"],
        launches=row["launches"],
        backing_off_until=from_micros(row["backing_off_until"]),
        cancel_requested=bool(row["cancel_requested"]),
        failure_reason=None if reason is None else FailureReason(reason),
        lost_since=from_micros(row["lost_since"]),
        doubtful_for=row["doubtful_for"],
        ended_at=from_micros(row["ended_at"]),
    )


def _end_claim(connection: sqlite3.Connection, values: dict[str, Any], ending: Ending) -> bool:
    match ending:
        case Requeue():
            more: dict[str, Any] = {
                "attempt": ending.attempt,
                "failures": ending.failures,
                "launches": ending.launches,
                "until": micros_or_none(ending.backing_off_until),
                "reason": ending.reason,
            }
            return connection.execute(_REQUEUE, {**values, **more}).rowcount > 0
        case Finish():
            more = {
                "state": ending.state,
                "failures": ending.failures,
                "reason": ending.reason,
            }
            return connection.execute(_FINISH, {**values, **more}).rowcount > 0
        case _:
            assert_never(ending)


def _told(state: TaskState) -> str:
    return TaskState.RUNNING if state is TaskState.WORKING else state


def _no_such_task(task_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no task {task_id!r}",
        hint="`tinyscheduler list` shows the tasks there are; a tick takes note of new ones",
    )


@contextmanager
def _answering() -> Iterator[None]:
    """Turn any failure to answer into what the port calls it."""
    try:
        yield
    except (BusyError, StoreError) as error:
        raise SourceError(error.what, hint=error.hint) from error
