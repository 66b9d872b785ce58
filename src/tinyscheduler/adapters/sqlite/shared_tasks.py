"""What do agents see of the embedded queue, and what may they change?  For the MCP server.

Each change is one statement to the disk, which a tick's claim comes before or after: so what is
taken here was waiting, and what a tick has claimed is changed by its own attempt alone.
"""

from __future__ import annotations

from contextlib import contextmanager

from tinyscheduler.adapters.sqlite.batch import plan_batch
from tinyscheduler.adapters.sqlite.families import finish_wholes, join, part, share
from tinyscheduler.adapters.sqlite.ledger import write_attempt
from tinyscheduler.adapters.sqlite.neighbours import count_as_dependent, tell_neighbours
from tinyscheduler.adapters.sqlite.queue import insert_one, rewrite
from tinyscheduler.adapters.sqlite.rows import (
    from_micros,
    spec_details,
    spec_of,
    to_micros,
)
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.shared_tasks import (
    QueueNumbers,
    SharedTask,
    Status,
    TaskFilter,
    Word,
)
from tinyscheduler.model.tasks import Outcome, TaskState
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.adapters.sqlite.queue import LocalQueue
    from tinyscheduler.model.tasks import TaskSpec
    from tinyscheduler.ports import Clock

    Vet = Callable[[TaskSpec], None]

# Of a text in a list; the task itself tells it whole.
_MOST_CHARACTERS = 16_384
MOST_LISTED = 1000
_MOST_QUEUES = 1000
_MOST_REMOVED = 1000
# In one statement: ticks wait for it, and give up after five seconds.
_MOST_CLEARED = 2000
# A task that is handed on so often goes round in circles.
_MOST_MOVES = 100

_AT_WORK_BELOW = """
EXISTS (
    WITH RECURSIVE below (id) AS (
        SELECT task_id FROM shared_tasks WHERE parent_id = tasks.id AND archived_at IS NULL
        UNION SELECT task_id FROM shared_tasks JOIN below ON parent_id = below.id
        WHERE archived_at IS NULL)
    SELECT 1 FROM below JOIN tasks AS other ON other.id = below.id
    LEFT JOIN shared_tasks AS its ON its.task_id = below.id
    WHERE other.state = 'working' OR its.taken_by IS NOT NULL)
"""
# What it comes after besides its own parts, what is not done first.
_BLOCKER = """
SELECT {column} FROM dependencies JOIN tasks AS other ON other.id = blocker_id
LEFT JOIN shared_tasks AS its ON its.task_id = blocker_id
WHERE dependencies.task_id = tasks.id AND its.parent_id IS NOT tasks.id
ORDER BY other.state = 'done', blocker_id LIMIT 1
"""
_ASSIGNED = "coalesce(claimed_by, nullif(agent, ''))"
_GONE = "coalesce(archived_at, CASE WHEN state = 'cancelled' THEN ended_at END)"
_STATUS = f"""
CASE WHEN state = 'done' THEN 'complete'
    WHEN state = 'working' OR taken_by IS NOT NULL OR {_AT_WORK_BELOW} THEN 'working'
    ELSE 'idle' END
"""
_SEEN = f"""
SELECT tasks.*, shared.*, {{prompt}} AS prompt, details, {_ASSIGNED} AS assigned_to,
    {_GONE} AS gone_at, {_STATUS} AS status, {_AT_WORK_BELOW} AS works_below,
    ({_BLOCKER.format(column="blocker_id")}) AS blocked_by,
    ({_BLOCKER.format(column="other.state <> 'done'")}) AS is_blocked
FROM tasks JOIN task_specs ON task_specs.task_id = tasks.id
LEFT JOIN shared_tasks AS shared ON shared.task_id = tasks.id
"""  # noqa: S608 - put together of what stands above alone
_CUT = _SEEN.format(
    prompt=f"CASE WHEN length(prompt) > {_MOST_CHARACTERS}"
    f" THEN substr(prompt, 1, {_MOST_CHARACTERS}) || '…' ELSE prompt END"
)
_ONE = f"{_SEEN.format(prompt='prompt')} WHERE tasks.id = ?"
_ORDER = "ORDER BY priority DESC, created_at, id"
# First which ones, by what costs little: there may be a hundred thousand.
_LISTED = f"""
{_CUT} WHERE tasks.id IN (
    SELECT id FROM tasks LEFT JOIN shared_tasks ON task_id = id
    WHERE (:queue IS NULL OR queue = :queue)
        AND (:agent IS NULL OR {_ASSIGNED} = :agent)
        AND (:parent IS NULL OR parent_id = :parent)
        AND (NOT :is_top_level OR parent_id IS NULL)
        AND (:has_archived OR {_GONE} IS NULL)
        AND (:statuses IS NULL OR {_STATUS} IN (SELECT value FROM json_each(:statuses)))
    {_ORDER} LIMIT :limit OFFSET :offset)
{_ORDER}
"""  # noqa: S608 - as above
_BELOW = f"""
{_CUT} WHERE (:has_archived OR gone_at IS NULL) AND tasks.id IN (
    WITH RECURSIVE below (row) AS (
        SELECT task_id FROM shared_tasks WHERE parent_id = :parent
        UNION SELECT task_id FROM shared_tasks JOIN below ON parent_id = below.row)
    SELECT row FROM below)
{_ORDER} LIMIT :limit
"""  # noqa: S608 - as above
_QUEUES = """
SELECT DISTINCT queue FROM tasks LEFT JOIN shared_tasks ON task_id = id
WHERE queue <> '' AND archived_at IS NULL AND state <> 'cancelled' ORDER BY queue LIMIT :limit
"""
_NUMBERS = f"""
SELECT {_STATUS} AS status, {_ASSIGNED} AS assigned_to, count(*) AS tasks
FROM tasks LEFT JOIN shared_tasks ON task_id = id
WHERE queue = :queue AND {_GONE} IS NULL GROUP BY 1, 2
"""  # noqa: S608 - as above
# What a tick could start now, in the order that agents are served here.
_NEXT_FOR = """
SELECT id FROM tasks LEFT JOIN shared_tasks ON task_id = id
WHERE state = 'waiting' AND blockers_left = 0 AND start_after <= :now AND agent = :agent
    AND schedule_id IS NULL AND archived_at IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM switches
        WHERE target IN (
            'all', 'agent:' || :agent, 'queue:' || coalesce(nullif(tasks.queue, ''), :queue)))
ORDER BY priority DESC, id LIMIT 1
"""
_TAKE = "UPDATE tasks SET state = 'held', updated_at = :now WHERE id = :id AND state = 'waiting'"
_NOTE_TAKER = "UPDATE shared_tasks SET taken_by = :by, taken_at = :now WHERE task_id = :id"
_GIVE_BACK = "UPDATE tasks SET state = 'waiting', updated_at = :now WHERE id = :id"
_REVIVE = """
UPDATE tasks SET state = 'waiting', backing_off_until = NULL, ended_at = NULL, updated_at = :now,
    failures = 0, launches = 0, failure_reason = NULL,
    start_after = CASE WHEN not_before > :now THEN not_before ELSE 0 END
WHERE id = :id
"""
_COMPLETE = """
UPDATE tasks SET state = 'done', failure_reason = NULL, backing_off_until = NULL, start_after = 0,
    attempt = attempt + 1, ended_at = :now, updated_at = :now
WHERE id = :id
"""
_CANCEL = """
UPDATE tasks SET state = 'cancelled', failure_reason = 'cancelled', backing_off_until = NULL,
    ended_at = :now, updated_at = :now
WHERE id = :id
"""
_SAY = """
UPDATE shared_tasks SET said = :word, said_in = :lease_id, moves_to = :agent WHERE task_id = :id
"""
_SPEC = "SELECT prompt, details FROM task_specs WHERE task_id = ?"
_FAMILY = """
WITH RECURSIVE below (id, level) AS (
    SELECT :id, 0
    UNION SELECT task_id, level + 1 FROM shared_tasks JOIN below ON parent_id = below.id
)
SELECT tasks.* FROM below JOIN tasks ON tasks.id = below.id ORDER BY level DESC LIMIT :limit
"""
_DEPENDENTS = """
SELECT tasks.* FROM dependencies JOIN tasks ON tasks.id = task_id WHERE blocker_id = ? LIMIT ?
"""
_IN_QUEUE = "SELECT * FROM tasks WHERE queue = ? AND state NOT IN ('working') ORDER BY id LIMIT ?"

_OPEN = (TaskState.WAITING, TaskState.HELD, TaskState.PARKED)
# Of a task at work, what its attempt was not started with.
_INERT = frozenset({"title", "priority", "labels"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a name, and the attempt that he is, if he is one."""

    name: str
    lease_id: str | None = None


class SharedTasks:
    """The embedded queue as agents know it.

    Raises StoreError or BusyError; UsageError and NotFoundError for what cannot be, and then
    nothing is changed.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        queue: LocalQueue,
        caller: Caller,
        *,
        tell_done: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """Take who asks, and who hears of tasks that are done with their last part."""
        self._tell_done = tell_done
        self._wholes: list[str] = []  # what the change under way has ended besides
        self._database = database
        self._clock = clock
        self._queue = queue
        self._caller = caller

    def task(self, row: int) -> SharedTask | None:
        """Return one task; None if there is none."""
        found = self._database.read(lambda connection: connection.execute(_ONE, (row,)).fetchone())
        return None if found is None else _shared_of(found)

    def tasks(self, asked: TaskFilter, *, limit: int, offset: int = 0) -> list[SharedTask]:
        """Return the tasks that fit: the highest priority first, then the oldest.

        Of long texts only the beginning.
        """
        statuses = asked.statuses
        values = {
            "agent": asked.agent,
            "queue": asked.queue,
            "parent": asked.parent_id,
            "statuses": None if statuses is None else dumps(sorted(statuses)),
            "is_top_level": asked.is_top_level,
            "has_archived": asked.has_archived,
            "limit": limit,
            "offset": offset,
        }
        return self._all(_LISTED, values)

    def parts(self, row: int, *, has_archived: bool) -> list[SharedTask]:
        """Return all that is below a task, however far, at most `MOST_LISTED`."""
        values = {"parent": row, "has_archived": has_archived, "limit": MOST_LISTED}
        return self._all(_BELOW, values)

    def queues(self) -> list[str]:
        """Return the names of the queues that tasks are in."""
        values = {"limit": _MOST_QUEUES}
        rows = self._database.read(
            lambda connection: connection.execute(_QUEUES, values).fetchall()
        )
        return [row["queue"] for row in rows]

    def numbers(self, queue: str) -> QueueNumbers:
        """Count the tasks of one queue; of one that nobody knows there are none."""
        values = {"queue": queue}
        rows = self._database.read(
            lambda connection: connection.execute(_NUMBERS, values).fetchall()
        )
        of_status = dict.fromkeys(Status, 0)
        for row in rows:
            of_status[Status(row["status"])] += row["tasks"]
        named = {row["assigned_to"] for row in rows if row["assigned_to"] is not None}
        assigned = sum(row["tasks"] for row in rows if row["assigned_to"] is not None)
        return QueueNumbers(
            queue=queue,
            idle=of_status[Status.IDLE],
            working=of_status[Status.WORKING],
            complete=of_status[Status.COMPLETE],
            assigned=assigned,
            unassigned=sum(of_status.values()) - assigned,
            agents=tuple(sorted(named)),
        )

    def create(self, spec: TaskSpec, *, created_by: str, parent: int | None) -> SharedTask:
        """Add a task, as a part of another if one is named; its queue is that one's then."""
        with self._changing() as (connection, now):
            self._queue.refuse_if_full(connection, 1)
            if parent is not None and spec.queue is None:
                above = connection.execute(_ONE, (parent,)).fetchone()
                spec = replace(spec, queue=(above["queue"] or None) if above is not None else None)
            _find_blockers(connection, spec.after)
            row = insert_one(connection, spec, now=now)
            share(connection, row)
            connection.execute(
                "UPDATE shared_tasks SET created_by = ? WHERE task_id = ?", (created_by, row)
            )
            if parent is not None:
                join(connection, row, parent)
            return _seen(connection, row)

    def update(self, row: int, changes: Mapping[str, Any], *, vet: Vet) -> SharedTask:
        """Change what a task asks for, what it is a part of, and how far it is.

        ``changes`` are fields of the spec (title, prompt, agent, priority, labels, queue, after),
        ``parent`` and ``status``.  ``vet`` looks at the new spec, and may raise.
        """
        with self._changing() as (connection, now):
            task = _find(connection, row)
            share(connection, row)
            changes = self._without_word(connection, task, changes, vet=vet)
            self._change_spec(connection, task, changes, vet=vet, now=now)
            if "parent" in changes:
                self._wholes += _change_parent(connection, task, changes["parent"], now=now)
            if changes.get("status") is not None:
                self._change_status(connection, row, changes["status"], now=now)
            return _seen(connection, row)

    def take_next(self, agent: str, *, queue: str | None) -> SharedTask | None:
        """Take the first task that waits for this agent and could start; None if none does.

        ``queue`` is the one that the agent serves, if it does: its pause holds.
        """
        with self._changing() as (connection, now):
            values = {"agent": agent, "queue": queue or "", "now": now}
            found = connection.execute(_NEXT_FOR, values).fetchone()
            if found is None:
                return None
            self._take(connection, found["id"], by=agent, now=now)
            return _seen(connection, found["id"])

    def move(
        self, row: int, *, current: str, agent: str, vet: Vet, comment: Callable[..., int]
    ) -> tuple[SharedTask, int]:
        """Hand a task on from one agent to another, with a comment: it waits again then.

        Its own attempt may do so, too: it does when that has ended well.
        """
        with self._changing() as (connection, now):
            task = _find(connection, row)
            _refuse_firing(task)
            share(connection, row)
            if task["assigned_to"] != current:
                raise UsageError(
                    f"Task {row} is not assigned to {current} (currently assigned to:"
                    f" {task['assigned_to'] or 'no one'})",
                    hint="get_task shows whose it is",
                )
            if task["state"] == TaskState.WORKING:
                self._say_move(connection, task, agent, vet=vet)
            elif TaskState(task["state"]) in _OPEN:
                self._change_spec(connection, task, {"agent": agent}, vet=vet, now=now)
                self._make_idle(connection, row, now=now)
            else:
                raise UsageError(
                    f"Task {row} with status '{task['status']}' cannot be transferred"
                    f" (it is {task['state']})",
                    hint="only tasks that are open can be",
                )
            note = comment(connection, row, by=current, now=now)
            return _seen(connection, row), note

    def archive(self, row: int) -> SharedTask:
        """Put a task out of sight: one that waits is cancelled, one at work never waits again."""
        with self._changing() as (connection, now):
            task = _find(connection, row)
            _refuse_firing(task)
            share(connection, row)
            if task["archived_at"] is None:
                connection.execute(
                    "UPDATE shared_tasks SET archived_at = ? WHERE task_id = ?", (now, row)
                )
                state = TaskState(task["state"])
                if state in _OPEN:
                    connection.execute(_CANCEL, {"id": row, "now": now})
                    if not state.is_final:
                        count_as_dependent(connection, task, change=-1)
                if task["parent_id"] is not None:
                    self._wholes += part(connection, row, task["parent_id"], now=now)
            return _seen(connection, row)

    def remove(self, row: int) -> None:
        """Remove a task for good, and all its parts; what came after them waits for them no more.

        What its attempts did stays in the ledger.
        """
        with self._changing() as (connection, now):
            task = _find(connection, row)
            whole = task["parent_id"]
            values = {"id": row, "limit": _MOST_REMOVED + 1}
            family = connection.execute(_FAMILY, values).fetchall()
            _refuse_removal(family, row)
            for one in family:
                _forget(connection, one)
                connection.execute("DELETE FROM tasks WHERE id = ?", (one["id"],))
            self._wholes += finish_wholes(connection, whole, now=now)

    def clear(self, queue: str, *, vet: Vet) -> int:
        """Take all tasks out of a queue that are not at work; return how many these were."""
        with self._changing() as (connection, now):
            rows = connection.execute(_IN_QUEUE, (queue, _MOST_CLEARED + 1)).fetchall()
            if len(rows) > _MOST_CLEARED:
                raise UsageError(
                    f"more than {_MOST_CLEARED} tasks are in queue {queue}",
                    hint="take them out one by one, or cancel them",
                )
            for one in rows:
                task = _find(connection, one["id"])
                self._change_spec(connection, task, {"queue": None}, vet=vet, now=now)
            return len(rows)

    def own_task(self) -> int | None:
        """Return the task that the caller's own attempt works on, as long as it does."""
        lease_id = self._caller.lease_id
        if lease_id is None:
            return None
        found = self._database.read(
            lambda connection: connection.execute(
                "SELECT id FROM tasks WHERE lease_id = ?", (lease_id,)
            ).fetchone()
        )
        return None if found is None else int(found["id"])

    def is_own(self, task: SharedTask) -> bool:
        """Whether the caller is the attempt that works on it."""
        return task.lease_id is not None and task.lease_id == self._caller.lease_id

    def _all(self, statement: str, values: Mapping[str, object]) -> list[SharedTask]:
        rows = self._database.read(
            lambda connection: connection.execute(statement, values).fetchall()
        )
        return [_shared_of(row) for row in rows]

    @contextmanager
    def _changing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Make one change durable as a whole; what raises leaves everything as it was."""
        self._wholes = []
        with self._database.writing() as connection:
            yield connection, to_micros(self._clock.now().wall)
            with durable_step("shared.change"):
                connection.commit()
        if self._wholes and self._tell_done is not None:
            self._tell_done(self._wholes)

    def _without_word(
        self,
        connection: sqlite3.Connection,
        task: sqlite3.Row,
        changes: Mapping[str, Any],
        *,
        vet: Vet,
    ) -> Mapping[str, Any]:
        """Note what an attempt says of its own task, and return what is left to be changed."""
        if not self._works_on(task):
            return changes
        left = dict(changes)
        if left.get("status") == Status.IDLE and left.get("agent", task["assigned_to"]) in (
            None,
            task["assigned_to"],
        ):
            raise UsageError(
                f"task {task['id']} is at work: its own attempt cannot let it wait again",
                hint="end with exit code 75 to have it tried again later, or hand it on: move_task",
            )
        agent = left.get("agent", task["assigned_to"])
        if agent not in (None, task["assigned_to"]) and left.get("status") != Status.COMPLETE:
            left.pop("agent")
            left.pop("status", None)
            self._say_move(connection, task, agent, vet=vet)
        elif left.get("status") == Status.COMPLETE:
            left.pop("status")
            self._say(connection, task["id"], Word.COMPLETE)
        return left

    def _works_on(self, task: sqlite3.Row) -> bool:
        mine = self._caller.lease_id
        return task["state"] == TaskState.WORKING and mine is not None and task["lease_id"] == mine

    def _say_move(
        self, connection: sqlite3.Connection, task: sqlite3.Row, agent: str, *, vet: Vet
    ) -> None:
        _refuse_firing(task)
        if not self._works_on(task):
            raise _at_work(task)
        if task["moves"] is not None and task["moves"] >= _MOST_MOVES:
            raise UsageError(
                f"task {task['id']} was handed on {_MOST_MOVES} times",
                hint="complete it, or create a new one",
            )
        spec = replace(spec_of(task), agent=agent)
        plan_batch([(None, spec)], [""])
        vet(spec)
        self._say(connection, task["id"], Word.MOVE, agent=agent)

    def _say(
        self, connection: sqlite3.Connection, row: int, word: Word, *, agent: str | None = None
    ) -> None:
        values = {"id": row, "word": word, "lease_id": self._caller.lease_id, "agent": agent}
        connection.execute(_SAY, values)

    def _change_spec(
        self,
        connection: sqlite3.Connection,
        task: sqlite3.Row,
        changes: Mapping[str, Any],
        *,
        vet: Vet,
        now: int,
    ) -> None:
        before = spec_of(task)
        fields = {name: value for name, value in changes.items() if name not in _NO_FIELDS}
        if task["state"] == TaskState.WORKING and fields.get("agent") == task["assigned_to"]:
            # A task of a queue is told as that of whoever works on it.
            del fields["agent"]
        wished = replace(before, **fields)
        if wished == before:
            return
        changed = {name for name in fields if getattr(wished, name) != getattr(before, name)}
        if task["state"] == TaskState.WORKING and not changed <= _INERT:
            raise _at_work(task)
        if str(task["id"]) in wished.after:
            raise UsageError("Task cannot be blocked by itself", hint="name another task, or null")
        _find_blockers(connection, wished.after)
        (addition,) = plan_batch([(None, wished)], [""])
        vet(wished)
        after = tuple(map(str, addition.outside))
        rewrite(
            connection,
            task,
            replace(addition, spec=replace(addition.spec, after=after)),
            now=now,
        )
        if wished.agent != before.agent:
            connection.execute(
                "UPDATE shared_tasks SET previous_agent = ? WHERE task_id = ?",
                (task["assigned_to"], task["id"]),
            )

    def _change_status(
        self, connection: sqlite3.Connection, row: int, status: Status, *, now: int
    ) -> None:
        task = _find(connection, row)
        if status == task["status"] and not (status is Status.IDLE and _has_ended(task)):
            return
        _refuse_firing(task)
        if task["state"] == TaskState.WORKING:
            raise _at_work(task)
        if task["state"] == TaskState.DONE:
            raise UsageError(
                f"task {row} is complete and stays so",
                hint="create it anew to have it done again",
            )
        if status is Status.IDLE:
            self._make_idle(connection, row, now=now)
        elif status is Status.WORKING:
            by = task["assigned_to"] or self._caller.name
            self._take(connection, row, by=by, now=now)
        else:
            self._complete(connection, task, now=now)

    def _make_idle(self, connection: sqlite3.Connection, row: int, *, now: int) -> None:
        """Let a task wait that was taken, or that has ended without success."""
        task = _find(connection, row)
        values = {"id": row, "now": now}
        if task["taken_by"] is not None:
            connection.execute(_GIVE_BACK, values)
        elif _has_ended(task):
            connection.execute(_REVIVE, values)
            count_as_dependent(connection, task, change=1)

    def _take(self, connection: sqlite3.Connection, row: int, *, by: str, now: int) -> None:
        task = _find(connection, row)
        values = {"id": row, "by": by, "now": now}
        if connection.execute(_TAKE, values).rowcount == 0 or task["has_succeeded"]:
            raise UsageError(
                f"task {row} is {task['state']}; only one that waits can be taken",
                hint="status idle revives one that has failed; who holds one releases it",
            )
        share(connection, row)
        connection.execute(_NOTE_TAKER, values)

    def _complete(self, connection: sqlite3.Connection, task: sqlite3.Row, *, now: int) -> None:
        """End a task that somebody has done outside of attempts; the ledger tells of it."""
        row, state = task["id"], TaskState(task["state"])
        if state not in _OPEN or (state is TaskState.HELD and task["taken_by"] is None):
            raise UsageError(
                f"task {row} is {state} and cannot be completed",
                hint="status idle revives one that has failed; who holds one releases it",
            )
        if task["works_below"] or self._has_open_parts(connection, row):
            raise UsageError(
                f"task {row} has open subtasks and is complete when they are",
                hint="get_subtasks lists them",
            )
        write_attempt(connection, self._outside_attempt(task, now=now))
        connection.execute(_COMPLETE, {"id": row, "now": now})
        ended = _find(connection, row)
        if state.is_final:
            count_as_dependent(connection, task, change=1)  # it was counted as ended before
        tell_neighbours(connection, ended)
        self._wholes += finish_wholes(connection, ended["parent_id"], now=now)

    def _has_open_parts(self, connection: sqlite3.Connection, row: int) -> bool:
        from tinyscheduler.adapters.sqlite.families import count_parts

        return count_parts(connection, row)[1] > 0

    def _outside_attempt(self, task: sqlite3.Row, *, now: int) -> AttemptRecord:
        ended_at = from_micros(now)
        if ended_at is None:
            raise AssertionError("there is always a time")
        return AttemptRecord(
            # Numbers of attempts and of tasks are never used again: nobody else has this name.
            lease_id=f"outside-{task['id']}-{task['attempt']}",
            task_id=str(task["id"]),
            source=self._queue.name,
            agent=task["taken_by"] or self._caller.name,
            attempt=task["attempt"],
            started_at=from_micros(task["taken_at"]),
            ended_at=ended_at,
            outcome=Outcome.SUCCEEDED,
            failure_reason=None,
            reclaim_reason=None,
            exit_code=None,
            signal=None,
            message=f"completed outside of attempts, by {self._caller.name}",
        )


_NO_FIELDS = ("parent", "status")


def _find(connection: sqlite3.Connection, row: int) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(_ONE, (row,)).fetchone()
    if found is None:
        raise NotFoundError(f"Task not found: {row}", hint="list_tasks shows what there is")
    return found


def _find_blockers(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    for name in names:
        if connection.execute("SELECT 1 FROM tasks WHERE id = ?", (name,)).fetchone() is None:
            raise NotFoundError(
                f"Blocking task not found: {name}", hint="list_tasks shows what there is"
            )


def _seen(connection: sqlite3.Connection, row: int) -> SharedTask:
    return _shared_of(_find(connection, row))


def _has_ended(task: sqlite3.Row) -> bool:
    return TaskState(task["state"]).is_final


def _at_work(task: sqlite3.Row) -> UsageError:
    return UsageError(
        f"task {task['id']} is at work: agent {task['claimed_by']}, attempt {task['attempt']};"
        " only that attempt can say what becomes of it",
        hint=f"`tinyscheduler cancel {task['id']}` ends it; wait tells when it has ended",
    )


def _refuse_firing(task: sqlite3.Row) -> None:
    if task["schedule_id"] is not None:
        raise UsageError(
            f"task {task['id']} is a firing of schedule {task['schedule_id']}: how far it is, the"
            " schedule counts",
            hint="cancel it, or edit its schedule",
        )


def _change_parent(
    connection: sqlite3.Connection, task: sqlite3.Row, parent: int | None, *, now: int
) -> list[str]:
    """Make a task a part of another one, or of none; return what is done by that."""
    row, before = task["id"], task["parent_id"]
    if parent == before:
        return []
    _refuse_firing(task)
    ended: list[str] = []
    if before is not None:
        connection.execute("UPDATE shared_tasks SET parent_id = NULL WHERE task_id = ?", (row,))
    if parent is not None:
        join(connection, row, parent)
        ended += finish_wholes(connection, parent, now=now)  # it may be done already
    if before is not None:
        ended += part(connection, row, before, now=now)
    return ended


def _refuse_removal(family: Sequence[sqlite3.Row], row: int) -> None:
    if len(family) > _MOST_REMOVED:
        raise UsageError(
            f"task {row} has more than {_MOST_REMOVED} tasks below it",
            hint="delete some of them first",
        )
    for one in family:
        _refuse_firing(one)
        if one["state"] == TaskState.WORKING:
            raise _at_work(one)


def _forget(connection: sqlite3.Connection, task: sqlite3.Row) -> None:
    """Let those that come after a task come after it no more, and count it nowhere."""
    row = task["id"]
    dependents = connection.execute(_DEPENDENTS, (row, _MOST_REMOVED + 1)).fetchall()
    if len(dependents) > _MOST_REMOVED:
        raise UsageError(
            f"more than {_MOST_REMOVED} tasks come after task {row}",
            hint="archive it instead",
        )
    for one in dependents:
        spec = spec_of(connection.execute(_SPEC, (one["id"],)).fetchone())
        spec = replace(spec, after=tuple(name for name in spec.after if name != str(row)))
        connection.execute(
            "UPDATE task_specs SET details = ? WHERE task_id = ?", (spec_details(spec), one["id"])
        )
        if task["state"] != TaskState.DONE:
            connection.execute(
                "UPDATE tasks SET blockers_left = blockers_left - 1 WHERE id = ?", (one["id"],)
            )
    if not TaskState(task["state"]).is_final:
        count_as_dependent(connection, task, change=-1)


def _shared_of(row: sqlite3.Row) -> SharedTask:
    details = loads(row["details"])
    created_at, updated_at = from_micros(row["created_at"]), from_micros(row["updated_at"])
    if created_at is None or updated_at is None:
        raise AssertionError("a task in the queue has no beginning")
    is_said = row["said"] is not None and row["said_in"] == row["lease_id"]
    return SharedTask(
        task_id=row["id"],
        state=TaskState(row["state"]),
        title=details.get("title") or row["summary"],
        is_titled=bool(details.get("title")),
        prompt=row["prompt"],
        agent=row["assigned_to"],
        previous_agent=row["previous_agent"],
        created_by=row["created_by"],
        priority=row["priority"],
        labels=tuple((key, value) for key, value in details.get("labels", ())),
        parent_id=row["parent_id"],
        queue=row["queue"] or None,
        blocked_by=row["blocked_by"],
        is_blocked=bool(row["is_blocked"]),
        taken_by=row["taken_by"],
        taken_at=from_micros(row["taken_at"]),
        lease_id=row["lease_id"],
        attempt=row["attempt"],
        said=Word(row["said"]) if is_said else None,
        moves_to=row["moves_to"] if is_said else None,
        works_below=bool(row["works_below"]),
        created_at=created_at,
        updated_at=updated_at,
        archived_at=from_micros(row["gone_at"]),
    )
