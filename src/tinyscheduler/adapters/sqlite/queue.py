"""What waits, what is claimed, what has ended?  The embedded queue."""

from __future__ import annotations

from contextlib import contextmanager

from tinyscheduler.adapters.sqlite.batch import missing_blocker, plan_batch, row_id, summarise
from tinyscheduler.adapters.sqlite.blockers import Blockers
from tinyscheduler.adapters.sqlite.neighbours import count_as_dependent, tell_neighbours
from tinyscheduler.adapters.sqlite.rows import (
    claim_of,
    marks_of,
    micros_or_none,
    record_of,
    spec_details,
    spec_of,
    to_micros,
    waiting_of,
)
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import (
    BusyError,
    NotFoundError,
    QueueFullError,
    SourceError,
    StoreError,
    UsageError,
)
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.records import AlreadyEnded, Cancelled, CancelRequested
from tinyscheduler.model.snapshot import SourceView
from tinyscheduler.model.tasks import Finish, PriorityClass, Requeue, TaskState
from tinyscheduler.values import assert_never, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any

    from tinyscheduler.adapters.sqlite.batch import Addition
    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.model.records import CancelAnswer, TaskRecord
    from tinyscheduler.model.tasks import Ending, TaskSpec
    from tinyscheduler.ports import Clock

# Tasks of each kind that cannot start and are told all the same.
_MAX_UNSTARTABLE = 50
# Rows of one line that are put in order by sorting, where no index has that order.
_MAX_SORTED = 200

# Tenants or projects of which each is asked what it has first in line, and what they have
# there together: as many as a tick ever looks at.
_MAX_OWNERS = 200
_MAX_OF_OWNERS = 5000

_DECADE_S = 10 * 365 * 86400.0

_LINES = "SELECT agent, queue, tasks FROM counts WHERE state = 'waiting'"

_READY_BY_AGE = """
SELECT * FROM tasks INDEXED BY ready_by_age
WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    AND agent = :agent AND queue = :queue
ORDER BY blocks DESC, id LIMIT :window
"""
_READY_BY_PRIORITY = """
SELECT * FROM tasks INDEXED BY ready_by_priority
WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    AND agent = :agent AND queue = :queue
ORDER BY blocks DESC, priority DESC, id LIMIT :window
"""
_INTERACTIVE = """
SELECT * FROM tasks INDEXED BY interactive_by_{order}
WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    AND priority_class = 'interactive' AND agent = :agent AND queue = :queue
ORDER BY blocks DESC, {by_priority}id LIMIT :window
"""
_INTERACTIVE_BY_AGE = _INTERACTIVE.format(order="age", by_priority="")
_INTERACTIVE_BY_PRIORITY = _INTERACTIVE.format(order="priority", by_priority="priority DESC, ")
# From one name to the next by the index, however many tasks each has.  Who has no name is
# first of all: those tasks have a turn, too.
_OWNERS = """
WITH RECURSIVE owners (name) AS (
    SELECT min(ifnull({owner}, '')) FROM tasks INDEXED BY ready_by_{owner}_and_age
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    UNION ALL
    SELECT (
        SELECT min(ifnull({owner}, '')) FROM tasks INDEXED BY ready_by_{owner}_and_age
        WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
            AND ifnull({owner}, '') > owners.name
    ) FROM owners WHERE owners.name IS NOT NULL
)
SELECT name FROM owners WHERE name IS NOT NULL LIMIT :limit
"""
_READY_OF_OWNER = """
SELECT * FROM tasks INDEXED BY ready_by_{owner}_and_{order}
WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    AND ifnull({owner}, '') = :name
ORDER BY blocks DESC, {by_priority}id LIMIT :window
"""
_DUE = """
SELECT * FROM (
    SELECT * FROM tasks INDEXED BY deferred
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after <> 0 AND start_after <= :now
        AND agent = :agent AND queue = :queue
    ORDER BY start_after LIMIT :sorted
) ORDER BY priority_class = 'batch', blocks DESC, :by_priority * priority DESC, id LIMIT :window
"""
_BLOCKED_YET_ALLOWED = """
SELECT * FROM (
    SELECT * FROM tasks INDEXED BY blocked
    WHERE state = 'waiting' AND blockers_left > 0 AND agent = :agent AND queue = :queue
    ORDER BY id LIMIT :sorted
) AS task WHERE start_after <= :now AND NOT EXISTS (
    SELECT 1 FROM shared_tasks AS part JOIN tasks AS other ON other.id = part.task_id
    WHERE part.parent_id = task.id AND part.archived_at IS NULL AND other.state <> 'done')
ORDER BY blocks DESC, :by_priority * priority DESC, id LIMIT :window
"""
_DEFERRED = """
SELECT * FROM tasks INDEXED BY deferred_anywhere
WHERE state = 'waiting' AND blockers_left = 0 AND start_after <> 0 AND start_after > :now
ORDER BY start_after LIMIT :limit
"""
_BLOCKED = """
SELECT * FROM tasks INDEXED BY blocked_anywhere
WHERE state = 'waiting' AND blockers_left > 0 ORDER BY id LIMIT :limit
"""
_HELD = """
SELECT * FROM tasks INDEXED BY tasks_by_state WHERE state = 'held' ORDER BY id LIMIT :limit
"""
_CLAIMS = "SELECT * FROM tasks INDEXED BY tasks_by_state WHERE state = 'working' ORDER BY id"
_SPEC = "SELECT prompt, details FROM task_specs WHERE task_id = ?"

# The whole of a claim: whoever's statement finds the row still waiting has the task.  What
# its owner changed, paused or drained since the tick looked counts as not waiting any more; so
# does what has open parts, whether or not tasks wait for each other here, and
# a firing where as many as may run at once do so already: counted and claimed in one.
_CLAIM = """
UPDATE tasks SET state = 'working', lease_id = :lease_id, claimed_by = :agent,
    backing_off_until = NULL, updated_at = :now
WHERE id = :id AND state = 'waiting' AND lease_id IS NULL AND attempt = :attempt
    AND (blockers_left = 0 OR :blocking_disabled) AND NOT cancel_requested
    AND (start_after <= :now OR coalesce(not_before, 0) <= :now AND backing_off_until > :latest)
    AND (:revision IS NULL OR revision = :revision)
    AND NOT EXISTS (
        SELECT 1 FROM switches
        WHERE target IN (
            'all', 'agent:' || :agent, 'queue:' || coalesce(nullif(tasks.queue, ''), :queue),
            'schedule:' || tasks.schedule_id))
    AND NOT EXISTS (
        SELECT 1 FROM shared_tasks AS part JOIN tasks AS other ON other.id = part.task_id
        WHERE part.parent_id = tasks.id AND part.archived_at IS NULL AND other.state <> 'done')
    AND (schedule_id IS NULL OR (
        is_forced OR :most_firings > (
            SELECT count(*) FROM tasks AS other INDEXED BY firings_at_work
            WHERE other.state = 'working' AND other.schedule_id IS NOT NULL)
        ) AND (is_beside OR NOT EXISTS (
            SELECT 1 FROM tasks AS other INDEXED BY firings_at_work
            WHERE other.state = 'working' AND other.schedule_id = tasks.schedule_id)))
"""
# A cancellation that was asked for meanwhile is granted by the statement that would
# otherwise make the task wait again or give it up, so that it cannot fall between two.
_REQUEUE = """
UPDATE tasks SET
    state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'waiting' END,
    failure_reason =
        CASE WHEN cancel_requested THEN 'cancelled' ELSE coalesce(:reason, failure_reason) END,
    ended_at = CASE WHEN cancel_requested THEN :now END,
    lease_id = NULL, claimed_by = NULL, cancel_requested = 0,
    attempt = :attempt, failures = :failures, launches = :launches,
    backing_off_until = CASE WHEN cancel_requested THEN NULL ELSE :until END,
    updated_at = :now,
    start_after = CASE WHEN max(coalesce(not_before, 0), coalesce(:until, 0)) > :now
        THEN max(coalesce(not_before, 0), coalesce(:until, 0)) ELSE 0 END
WHERE id = :id AND state = 'working' AND lease_id = :lease_id
"""
_FINISH = """
UPDATE tasks SET
    state = CASE WHEN cancel_requested AND :state <> 'done' THEN 'cancelled' ELSE :state END,
    failure_reason =
        CASE WHEN cancel_requested AND :state <> 'done' THEN 'cancelled' ELSE :reason END,
    failures = :failures, attempt = attempt + 1,
    lease_id = NULL, claimed_by = NULL, cancel_requested = 0,
    updated_at = :now, ended_at = :now
WHERE id = :id AND state = 'working' AND lease_id = :lease_id
"""
# Of firings alone, and when they were added: what is measured of them has a row from then on.
_NOTE_FIRING = """
INSERT INTO schedule_firing_metrics (
    schedule_id, task_id, fired_at, max_turns_at_firing, tick_lag_ms
) VALUES (:schedule_id, :task_id, :now, :max_turns, :lag_ms)
"""
# When it got its slot, and who else had one then.  One that is retried had its slot before.
_NOTE_CLAIM = """
UPDATE schedule_firing_metrics SET completed_at = NULL, failure_reason = NULL,
    pressure = CASE WHEN slot_claimed_at IS NULL THEN :pressure ELSE pressure END,
    slot_claimed_at = coalesce(slot_claimed_at, :now),
    slot_wait_ms = coalesce(slot_wait_ms, max(0, :now - fired_at) / 1000),
    concurrent_schedules = coalesce(concurrent_schedules, (
        SELECT count(*) FROM tasks INDEXED BY firings_at_work
        WHERE state = 'working' AND schedule_id IS NOT NULL))
WHERE task_id = :id
"""
# Where nothing is left that tells how long it ran, it counts from when it had its slot.
_NOTE_END = """
UPDATE schedule_firing_metrics SET completed_at = :now,
    (duration_ms, turn_count, peak_rss_mb) = (
        SELECT max(0, coalesce(ended_at - started_at, :now - slot_claimed_at)) / 1000,
            turns, peak_rss_mb
        FROM (SELECT 1) LEFT JOIN attempts ON lease_id = :lease_id),
    failure_reason = (SELECT failure_reason FROM tasks WHERE id = :id AND state <> 'done')
WHERE task_id = :id
"""
NOTE_CANCELLED = """
UPDATE schedule_firing_metrics SET completed_at = :now, failure_reason = 'cancelled'
WHERE task_id = :id
"""
# What says so and is no heartbeat may mean something else by it.
_COUNT_SUPPRESSED = """
UPDATE schedules SET suppressed = suppressed + 1
WHERE id = ? AND 'heartbeat' =
    CASE WHEN json_valid(definition) THEN json_extract(definition, '$.kind') END
"""

_ADD_TASK = """
INSERT INTO tasks (
    state, agent, queue, summary, priority, memory_bytes, max_attempts, blockers_left, blocks,
    not_before, start_after, created_at, updated_at, priority_class, gpus, vram_bytes, model,
    tenant, project, max_runtime_s, schedule_id, slot, is_beside, is_forced
) VALUES (
    :state, :agent, :queue, :summary, :priority, :memory_bytes, :max_attempts, :blockers_left,
    :blocks, :not_before, :start_after, :now, :now, :priority_class, :gpus, :vram_bytes, :model,
    :tenant, :project, :max_runtime_s, :schedule_id, :slot, :is_beside, :is_forced
)
"""
_ADD_SPEC = "INSERT INTO task_specs (task_id, prompt, details) VALUES (?, ?, ?)"
_ADD_DEPENDENCY = "INSERT INTO dependencies (task_id, blocker_id) VALUES (?, ?)"
_DEPTH = "SELECT coalesce(sum(tasks), 0) FROM counts WHERE state IN ('waiting', 'held')"
_STATES = "SELECT id, state FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
_COUNT_DEPENDENT = "UPDATE tasks SET blocks = blocks + 1 WHERE id = ?"

_TASK = "SELECT * FROM tasks WHERE id = ?"
_SHARED = """
SELECT shared_tasks.*, cancel_requested FROM shared_tasks JOIN tasks ON id = task_id
WHERE task_id = ?
"""
_PARTS = "SELECT task_id FROM shared_tasks WHERE parent_id = ? AND archived_at IS NULL"
# One index or the other, by what was asked; the newest, because these are looked for.
_LIST = """
SELECT * FROM tasks WHERE :agent IS NULL OR agent = :agent OR claimed_by = :agent
ORDER BY id DESC LIMIT :limit
"""
_LIST_OF_STATE = """
SELECT * FROM tasks INDEXED BY tasks_by_state
WHERE state = :state AND (:agent IS NULL OR agent = :agent OR claimed_by = :agent)
ORDER BY id DESC LIMIT :limit
"""
_COUNTS = "SELECT state, sum(tasks) AS tasks FROM counts GROUP BY state"

_CANCEL = """
UPDATE tasks SET state = 'cancelled', failure_reason = 'cancelled', backing_off_until = NULL,
    ended_at = :now, updated_at = :now
WHERE id = :id
"""
_REQUEST_CANCEL = "UPDATE tasks SET cancel_requested = 1, updated_at = :now WHERE id = :id"
_RETRY = """
UPDATE tasks SET state = 'waiting', backing_off_until = NULL, ended_at = NULL, updated_at = :now,
    failures = CASE WHEN state = 'waiting' THEN failures ELSE 0 END,
    launches = CASE WHEN state = 'waiting' THEN launches ELSE 0 END,
    failure_reason = CASE WHEN state = 'waiting' THEN failure_reason END,
    start_after = CASE WHEN not_before > :now THEN not_before ELSE 0 END
WHERE id = :id
"""
_EDIT = """
UPDATE tasks SET agent = :agent, queue = :queue, summary = :summary, priority = :priority,
    memory_bytes = :memory_bytes, max_attempts = :max_attempts, blockers_left = :blockers_left,
    not_before = :not_before, start_after = :start_after, updated_at = :now,
    priority_class = :priority_class, gpus = :gpus, vram_bytes = :vram_bytes, model = :model,
    tenant = :tenant, project = :project, max_runtime_s = :max_runtime_s,
    revision = revision + 1
WHERE id = :id
"""
_EDIT_SPEC = "UPDATE task_specs SET prompt = ?, details = ? WHERE task_id = ?"
# All that a task would wait for, and what these wait for, to any depth.
_ALL_BLOCKERS = """
WITH RECURSIVE blockers (id) AS (
    SELECT value FROM json_each(:ids)
    UNION SELECT blocker_id FROM dependencies JOIN blockers ON task_id = id
)
SELECT 1 FROM blockers WHERE id = :id
"""
_SET_STATE = "UPDATE tasks SET state = :state, updated_at = :now WHERE id = :id"


class LocalQueue:
    """The task source ``local``: a table in the embedded database.

    The methods of the port raise SourceError where the database does not answer; the
    others are for people's commands and raise StoreError or BusyError.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        database: Database,
        clock: Clock,
        *,
        priority_enabled: bool = False,
        blocking_disabled: bool = False,
        max_queue_depth: int = 0,
        longest_backoff_s: float = _DECADE_S,
        fair_share: FairShare = FairShare.OFF,
        most_of_owners: int = _MAX_OF_OWNERS,
        tells_marks: bool = True,
        most_firings: int = 2,
        budgets: tuple[Budget, ...] = (),
        tell_done: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """Take what orders and bounds it.

        Titles, seeds and labels are read only if it ``tells_marks``: policies look at them, and
        nothing else does.  ``tell_done`` hears of tasks that are done with their last part.
        """
        self._tell_done = tell_done
        self._database = database
        self._clock = clock
        self._priority_enabled = priority_enabled
        self._blocking_disabled = blocking_disabled
        self._blockers = Blockers(are_disabled=blocking_disabled)
        self._max_queue_depth = max_queue_depth
        self._longest_backoff_s = longest_backoff_s
        self._fair_share = fair_share
        self._most_of_owners = most_of_owners
        self._tells_marks = tells_marks
        self._most_firings = most_firings
        self._budgets = budgets
        self._revisions: dict[str, int] = {}  # as they were at the last look

    @property
    def name(self) -> str:
        """The word that leases and reports call this source by."""
        return "local"

    def look(self, *, window: int) -> SourceView:
        """Return what waits and what is ours, read at one moment.

        Most dependents first, then (if enabled) the highest priority, then the oldest; with
        them as many interactive ones of each line, and where it is shared out fairly the
        first of each owner.  Held tasks come along, but ``waiting_total`` does not count them.
        """
        now = self._now()
        with _answering():
            return self._database.read(
                lambda connection: self._look(connection, window=window, now=now)
            )

    def describe(self, task_id: str) -> TaskSpec:
        """Return what the task asks for; StoreError if it is gone."""
        with _answering():
            row = self._database.read(
                lambda connection: connection.execute(_SPEC, (row_id(task_id),)).fetchone()
            )
        if row is None:
            raise StoreError(f"task {task_id} is not in the queue")
        try:
            return spec_of(row)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"what task {task_id} asks for cannot be read from {self._database.path}: {error}",
                hint="cancel it and add it anew",
            ) from error

    def claim(
        self,
        task_id: str,
        *,
        lease_id: str,
        agent: str,
        queue: str,
        attempt: int,
        pressure: int = 0,
    ) -> bool:
        """Make the task ours under this lease if it still waits as this attempt."""
        claim = {
            "id": row_id(task_id),
            "lease_id": lease_id,
            "agent": agent,
            "queue": queue,
            "attempt": attempt,
            "blocking_disabled": self._blocking_disabled,
            "revision": self._revisions.get(task_id),
            "most_firings": self._most_firings,
            "pressure": pressure,
            "now": self._now(),
            # Any later, and it was reckoned under a clock that has been set back since.
            "latest": self._now() + int(self._longest_backoff_s * 1e6),
        }
        with _answering(), self._database.writing() as connection:
            if self._budgets and not self._may_spend(connection, claim):
                return False
            if connection.execute(_CLAIM, claim).rowcount == 0:
                return False
            connection.execute(_NOTE_CLAIM, claim)
            with durable_step("queue.claim"):
                connection.commit()
        return True

    def _may_spend(self, connection: sqlite3.Connection, claim: Mapping[str, Any]) -> bool:
        """Whether no budget is used up: looked at in the step that claims, so none is exceeded."""
        from tinyscheduler.adapters.sqlite.budgets import may_spend  # few set any

        task = connection.execute(_TASK, (claim["id"],)).fetchone()
        return task is not None and may_spend(
            connection,
            self._budgets,
            agent=claim["agent"],
            schedule_id=task["schedule_id"],
            now=claim["now"],
        )

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        """Tell how the claim ended, if the task is still ours under exactly this lease."""
        row, now = row_id(task_id), self._now()
        wholes: list[str] = []
        with _answering(), self._database.writing() as connection:
            shared = connection.execute(_SHARED, (row,)).fetchone()
            if not _end_claim(connection, row, lease_id=lease_id, ending=ending, now=now):
                return None
            if shared is not None:
                from tinyscheduler.adapters.sqlite.families import heed  # few tasks are shared

                heed(connection, shared, lease_id=lease_id, now=now)
            task = connection.execute(_TASK, (row,)).fetchone()
            tell_neighbours(connection, task)
            if shared is not None:
                from tinyscheduler.adapters.sqlite.families import finish_wholes

                wholes = finish_wholes(connection, shared["parent_id"], now=now)
            if task["schedule_id"] is not None and TaskState(task["state"]).is_final:
                from tinyscheduler.adapters.sqlite.firing_ends import judge_end  # few are firings

                noted = {"id": row, "lease_id": lease_id, "now": now}
                connection.execute(_NOTE_END, noted)
                judge_end(connection, task, ending, now=now)
                if isinstance(ending, Finish) and ending.found_nothing:
                    connection.execute(_COUNT_SUPPRESSED, (task["schedule_id"],))
            with durable_step("queue.settle"):
                connection.commit()
        if wholes and self._tell_done is not None:
            self._tell_done(wholes)
        return TaskState(task["state"])

    def add(
        self, specs: Sequence[tuple[str | None, TaskSpec]], *, places: Sequence[str] = ()
    ) -> list[str]:
        """Add all these tasks, or none, and return their ids in the same order.

        Each comes with the key by which ``after`` of others in the batch may name it.
        ``places`` say where each was asked for, for error messages ("line 3").  Raises
        UsageError, NotFoundError, or QueueFullError if the queue would become too long.
        """
        additions = plan_batch(specs, places)
        now = self._now()
        with self._database.writing() as connection:
            self.refuse_if_full(connection, len(additions))
            states = _states_of_blockers(connection, additions)
            ids = _insert(connection, additions, states, now=now)
            with durable_step("queue.add"):
                connection.commit()
        return [str(one) for one in ids]

    def task(self, task_id: str) -> TaskRecord:
        """Return where the task stands; NotFoundError if there is none."""

        def question(connection: sqlite3.Connection) -> TaskRecord | None:
            row = connection.execute(_TASK, (row_id(task_id),)).fetchone()
            return None if row is None else self._record(connection, row)

        record = self._database.read(question)
        if record is None:
            raise _no_such_task(task_id)
        return record

    def tasks(
        self, *, state: TaskState | None = None, agent: str | None = None, limit: int = 100
    ) -> list[TaskRecord]:
        """Return the newest tasks that fit, at most ``limit``, oldest of them first.

        ``starting``, ``running`` and ``settling`` mean ``working`` here: only the lease
        knows more.  ``agent`` fits tasks for that agent and tasks it works on.
        """
        wanted = TaskState.WORKING if state in _SEEN_ON_THE_LEASE else state
        statement = _LIST if wanted is None else _LIST_OF_STATE
        values = {"state": wanted, "agent": agent, "limit": limit}

        def question(connection: sqlite3.Connection) -> list[TaskRecord]:
            rows = connection.execute(statement, values).fetchall()
            return [self._record(connection, row) for row in reversed(rows)]

        return self._database.read(question)

    def counts(self) -> Mapping[TaskState, int]:
        """Return how many tasks there are in each stored state, zeros included."""
        rows = self._database.read(lambda connection: connection.execute(_COUNTS).fetchall())
        found = {TaskState(row["state"]): int(row["tasks"]) for row in rows}
        return {
            state: found.get(state, 0) for state in TaskState if state not in _SEEN_ON_THE_LEASE
        }

    def states(self, task_ids: Sequence[str]) -> Mapping[str, TaskState]:
        """Return the stored state of each of these tasks that exists."""
        ids = dumps([row for row in map(row_id, task_ids) if row is not None])
        rows = self._database.read(
            lambda connection: connection.execute(_STATES, (ids,)).fetchall()
        )
        return {str(row["id"]): TaskState(row["state"]) for row in rows}

    def request_cancel(self, task_id: str) -> CancelAnswer:
        """Cancel the task now if it runs nowhere, else note the wish in its row."""
        with self._changing(task_id) as (connection, task):
            state = TaskState(task["state"])
            values = {"id": task["id"], "now": self._now()}
            match state:
                case TaskState.WAITING | TaskState.HELD | TaskState.PARKED:
                    connection.execute(_CANCEL, values)
                    if task["schedule_id"] is not None:
                        connection.execute(NOTE_CANCELLED, values)
                    if not state.is_final:
                        count_as_dependent(connection, task, change=-1)
                    answer: CancelAnswer = Cancelled()
                case TaskState.WORKING:
                    connection.execute(_REQUEST_CANCEL, values)
                    answer = CancelRequested(lease_id=task["lease_id"])
                case _:
                    return AlreadyEnded(state=state)
            with durable_step("queue.cancel"):
                connection.commit()
        return answer

    def retry(self, task_id: str) -> None:
        """Make a task that ended wait again with all its attempts, or end a backoff.

        The numbers of its attempts go on.  UsageError if it is done, held or under way.
        """
        with self._changing(task_id) as (connection, task):
            state = TaskState(task["state"])
            hint = _WHY_NO_RETRY.get(state)
            if hint is not None:
                raise UsageError(
                    f"task {task_id} is {_told(state)} and cannot be retried", hint=hint
                )
            connection.execute(_RETRY, {"id": task["id"], "now": self._now()})
            if state.is_final:
                count_as_dependent(connection, task, change=1)
            with durable_step("queue.retry"):
                connection.commit()

    def edit(
        self, task_id: str, change: Callable[[TaskSpec], TaskSpec]
    ) -> tuple[TaskSpec, TaskSpec]:
        """Change what a task asks for that waits, is held or parked; return before and after.

        ``change`` may raise, and then nothing is changed.  A tick that looked before the
        change cannot claim the task any more.  UsageError if the task is under way or has
        ended, NotFoundError if it shall come after one that does not exist.
        """
        with self._changing(task_id) as (connection, task):
            state = TaskState(task["state"])
            if state not in _EDITABLE:
                raise UsageError(
                    f"task {task_id} is {_told(state)} and cannot be changed",
                    hint=_WHY_NO_EDIT.get(state),
                )
            before = spec_of(connection.execute(_SPEC, (task["id"],)).fetchone())
            (addition,) = plan_batch([(None, change(before))], [""])
            after = replace(addition.spec, after=tuple(map(str, addition.outside)))
            if after != before:
                rewrite(connection, task, replace(addition, spec=after), now=self._now())
                with durable_step("queue.edit"):
                    connection.commit()
        return before, after

    def hold(self, task_id: str) -> bool:
        """Set a waiting task aside until it is released; False if it was held before.

        UsageError if it neither waits nor is held.
        """
        return self._switch(task_id, TaskState.WAITING, TaskState.HELD)

    def release(self, task_id: str) -> bool:
        """Let a held task wait again; False if it waited before.

        UsageError if it neither is held nor waits.
        """
        return self._switch(task_id, TaskState.HELD, TaskState.WAITING)

    def _switch(self, task_id: str, before: TaskState, after: TaskState) -> bool:
        with self._changing(task_id) as (connection, task):
            if task["state"] == after:
                return False
            if task["state"] != before:
                state = TaskState(task["state"])
                wish = "be held" if after is TaskState.HELD else "be released"
                raise UsageError(
                    f"task {task_id} is {_told(state)}; only a {before} task can {wish}",
                    hint=_way_out(task_id, state, after),
                )
            values = {"id": task["id"], "state": after, "now": self._now()}
            connection.execute(_SET_STATE, values)
            with durable_step("queue.hold"):
                connection.commit()
        return True

    @contextmanager
    def _changing(self, task_id: str) -> Iterator[tuple[sqlite3.Connection, sqlite3.Row]]:
        with self._database.writing() as connection:
            task = connection.execute(_TASK, (row_id(task_id),)).fetchone()
            if task is None:
                raise _no_such_task(task_id)
            yield connection, task

    def _now(self) -> int:
        return to_micros(self._clock.now().wall)

    def _look(self, connection: sqlite3.Connection, *, window: int, now: int) -> SourceView:
        lines = connection.execute(_LINES).fetchall()
        startable: dict[int, sqlite3.Row] = {}
        for line in lines:
            for row in self._startable(connection, line, window=window, now=now):
                startable[row["id"]] = row
        if self._fair_share is not FairShare.OFF:
            for row in self._first_of_owners(connection, lines, window=window, now=now):
                startable.setdefault(row["id"], row)
        rows = [*startable.values(), *self._unstartable(connection, now=now)]
        self._revisions = {str(row["id"]): row["revision"] for row in rows}
        claims = connection.execute(_CLAIMS).fetchall()
        marks = marks_of(connection, (row["id"] for row in rows)) if self._tells_marks else {}
        return SourceView(
            name=self.name,
            waiting=tuple(
                waiting_of(
                    row,
                    source=self.name,
                    blocked_by=self._blockers.of(connection, row),
                    marks=marks,
                )
                for row in sorted(rows, key=self._place)
            ),
            waiting_total=sum(line["tasks"] for line in lines),
            claims=tuple(claim_of(row, source=self.name) for row in claims),
        )

    def _place(self, row: sqlite3.Row) -> tuple[int, int, int]:
        return -row["blocks"], -row["priority"] if self._priority_enabled else 0, row["id"]

    def _startable(
        self, connection: sqlite3.Connection, line: sqlite3.Row, *, window: int, now: int
    ) -> list[sqlite3.Row]:
        ready = _READY_BY_PRIORITY if self._priority_enabled else _READY_BY_AGE
        questions = [ready, _DUE]
        if self._blocking_disabled:
            questions.append(_BLOCKED_YET_ALLOWED)
        values = {
            "agent": line["agent"],
            "queue": line["queue"],
            "window": window,
            "now": now,
            "sorted": _MAX_SORTED,
            "by_priority": self._priority_enabled,
        }
        rows: list[sqlite3.Row] = []
        for question in questions:
            rows += connection.execute(question, values).fetchall()
        # Beside them what goes first whatever its age.
        question = _INTERACTIVE_BY_PRIORITY if self._priority_enabled else _INTERACTIVE_BY_AGE
        urgent = connection.execute(question, values).fetchall()
        urgent += [row for row in rows if row["priority_class"] == PriorityClass.INTERACTIVE]
        return [
            *sorted(rows, key=self._place)[:window],
            *sorted(urgent, key=self._place)[:window],
        ]

    def _first_of_owners(
        self, connection: sqlite3.Connection, lines: list[sqlite3.Row], *, window: int, now: int
    ) -> Iterator[sqlite3.Row]:
        """Yield what each tenant or project has first in line, and what waited for its time."""
        owner = str(self._fair_share)
        names = [
            row["name"]
            for row in connection.execute(_OWNERS.format(owner=owner), {"limit": _MAX_OWNERS})
        ]
        question = _READY_OF_OWNER.format(
            owner=owner,
            order="priority" if self._priority_enabled else "age",
            by_priority="priority DESC, " if self._priority_enabled else "",
        )
        share = min(window, self._most_of_owners // max(1, len(names)))
        for name in names:
            yield from connection.execute(question, {"name": name, "window": share})
        for line in lines:
            values = {"agent": line["agent"], "queue": line["queue"], "now": now}
            more = {"sorted": _MAX_SORTED, "window": _MAX_SORTED, "by_priority": 0}
            yield from connection.execute(_DUE, {**values, **more})

    def _unstartable(self, connection: sqlite3.Connection, *, now: int) -> list[sqlite3.Row]:
        limits = {"now": now, "limit": _MAX_UNSTARTABLE}
        deferred = connection.execute(_DEFERRED, limits).fetchall()
        held = connection.execute(_HELD, limits).fetchall()
        blocked: list[sqlite3.Row] = []
        if not self._blocking_disabled:
            blocked = connection.execute(_BLOCKED, limits).fetchall()
        # Where both kinds abound, each is told half.
        half = _MAX_UNSTARTABLE // 2
        return [
            *deferred[: max(half, _MAX_UNSTARTABLE - len(blocked))],
            *blocked[: max(half, _MAX_UNSTARTABLE - len(deferred))],
            *held,
        ]

    def _record(self, connection: sqlite3.Connection, row: sqlite3.Row) -> TaskRecord:
        return record_of(row, source=self.name, blocked_by=self._blockers.of(connection, row))

    def refuse_if_full(self, connection: sqlite3.Connection, more: int) -> None:
        """Raise QueueFullError if so many more would make the queue too long."""
        if self._max_queue_depth == 0:
            return
        (depth,) = connection.execute(_DEPTH).fetchone()
        if depth + more > self._max_queue_depth:
            raise QueueFullError(depth=depth, more=more, limit=self._max_queue_depth)


_IS_ANY_DUE = """
SELECT 1 FROM schedules INDEXED BY schedules_due
WHERE state = 'active' AND due_at IS NOT NULL AND due_at <= ? LIMIT 1
"""


def is_any_due(database: Database, now: datetime) -> bool:
    """Whether the time of any schedule has come; asked by every tick."""
    moment = (to_micros(now),)
    return database.read(
        lambda connection: connection.execute(_IS_ANY_DUE, moment).fetchone() is not None
    )


_SEEN_ON_THE_LEASE = (TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING)
_WHY_NO_RETRY = {
    TaskState.DONE: "it succeeded; add it anew to run it again",
    TaskState.HELD: "release it instead",
    TaskState.WORKING: "cancel it first, or wait until it has ended",
}
_EDITABLE = (TaskState.WAITING, TaskState.HELD, TaskState.PARKED)
_WHY_NO_EDIT = {
    TaskState.WORKING: "its attempt has what it was started with; cancel it, or wait for its end",
    TaskState.DONE: "it succeeded; add it anew to run it again",
    TaskState.FAILED: "retry it first",
    TaskState.CANCELLED: "retry it first",
}


def _told(state: TaskState) -> str:
    """Return a stored state as people are told it."""
    return TaskState.RUNNING if state is TaskState.WORKING else state


def _way_out(task_id: str, state: TaskState, wished: TaskState) -> str:
    """Say what can be done with a task that can be neither held nor released."""
    if state is TaskState.DONE:
        return "it succeeded; add it anew to run it again"
    if state is not TaskState.WORKING:
        return f"`tinyscheduler retry {task_id}` lets it wait again"
    if wished is TaskState.HELD:
        return f"`tinyscheduler cancel {task_id}` ends it, `wait {task_id}` waits for its end"
    return "nothing keeps it: it has started already"


@contextmanager
def _answering() -> Iterator[None]:
    """Turn any failure to answer into what the port calls it."""
    try:
        yield
    except (BusyError, StoreError) as error:
        raise SourceError(error.what, hint=error.hint) from error


def _no_such_task(task_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no task {task_id!r}", hint="`tinyscheduler list` shows the tasks there are"
    )


def _end_claim(
    connection: sqlite3.Connection, row: int | None, *, lease_id: str, ending: Ending, now: int
) -> bool:
    values: dict[str, object] = {"id": row, "lease_id": lease_id, "now": now}
    match ending:
        case Requeue():
            values |= {
                "attempt": ending.attempt,
                "failures": ending.failures,
                "launches": ending.launches,
                "until": micros_or_none(ending.backing_off_until),
                "reason": ending.reason,
            }
            return connection.execute(_REQUEUE, values).rowcount > 0
        case Finish():
            if not ending.state.is_final:
                message = f"a task cannot be finished as {ending.state}"
                raise AssertionError(message)
            values |= {
                "state": ending.state,
                "failures": ending.failures,
                "reason": ending.reason,
            }
            return connection.execute(_FINISH, values).rowcount > 0
        case _:
            assert_never(ending)


def _states_of_blockers(
    connection: sqlite3.Connection, additions: Sequence[Addition]
) -> dict[int, TaskState]:
    wanted = sorted({row for addition in additions for row in addition.outside})
    rows = connection.execute(_STATES, (dumps(wanted),))
    states = {row["id"]: TaskState(row["state"]) for row in rows}
    for addition in additions:
        for row in addition.outside:
            if row not in states:
                raise missing_blocker(str(row), addition.place)
    return states


def _insert(
    connection: sqlite3.Connection,
    additions: Sequence[Addition],
    states: Mapping[int, TaskState],
    *,
    now: int,
) -> list[int]:
    blocks = [0] * len(additions)
    for addition in additions:
        for index in addition.inside:
            blocks[index] += 1
    ids = [
        _insert_task(connection, addition, states, blocks=number, now=now)
        for addition, number in zip(additions, blocks, strict=True)
    ]
    # Only now has every key of the batch its number.
    for own, addition in zip(ids, additions, strict=True):
        blockers = [*(ids[index] for index in addition.inside), *addition.outside]
        if not blockers:
            spec = addition.spec
            connection.execute(_ADD_SPEC, (own, spec.prompt, spec_details(spec)))
            continue
        spec = replace(addition.spec, after=tuple(map(str, blockers)))
        connection.execute(_ADD_SPEC, (own, spec.prompt, spec_details(spec)))
        connection.executemany(_ADD_DEPENDENCY, ((own, blocker) for blocker in blockers))
        connection.executemany(_COUNT_DEPENDENT, ((blocker,) for blocker in addition.outside))
    return ids


# Which schedule a task is a firing of, for which slot, and what it may.
_NO_FIRING: Mapping[str, object] = {
    "schedule_id": None,
    "slot": None,
    "is_beside": 0,
    "is_forced": 0,
}


def insert_firing(
    connection: sqlite3.Connection,
    spec: TaskSpec,
    *,
    schedule_id: str,
    slot: int | None,
    is_beside: bool,
    is_forced: bool,
    lag_ms: int | None,
    now: int,
) -> int:
    """Add a task as a firing of its schedule, within the statement of somebody else; its number.

    ``lag_ms`` is how late it is added; None where it has no time.
    """
    (addition,) = plan_batch([(None, spec)], [""])
    firing = {
        "schedule_id": schedule_id,
        "slot": slot,
        "is_beside": int(is_beside),
        "is_forced": int(is_forced),
    }
    states = _states_of_blockers(connection, [addition])
    row = _insert_task(connection, addition, states, blocks=0, now=now, firing=firing)
    connection.execute(_ADD_SPEC, (row, spec.prompt, spec_details(spec)))
    noted = {"schedule_id": schedule_id, "task_id": row, "now": now, "lag_ms": lag_ms}
    connection.execute(_NOTE_FIRING, {**noted, "max_turns": spec.max_turns})
    return row


def insert_one(connection: sqlite3.Connection, spec: TaskSpec, *, now: int) -> int:
    """Add a task within the statement of somebody else; its number.  Errors as of `add`."""
    additions = plan_batch([(None, spec)], [""])
    states = _states_of_blockers(connection, additions)
    (row,) = _insert(connection, additions, states, now=now)
    return row


def rewrite(
    connection: sqlite3.Connection, task: sqlite3.Row, addition: Addition, *, now: int
) -> None:
    """Write what a task asks for from now on, within the statement of somebody else.

    What are parts of it, it comes after in any case.
    """
    spec, row = addition.spec, task["id"]
    parts = (one["task_id"] for one in connection.execute(_PARTS, (row,)))
    addition = replace(addition, outside=tuple(dict.fromkeys((*addition.outside, *parts))))
    states = _states_of_blockers(connection, (addition,))
    _refuse_own_blocker(connection, row, addition)
    is_final = TaskState(task["state"]).is_final
    if not is_final:
        count_as_dependent(connection, task, change=-1)
    connection.execute("DELETE FROM dependencies WHERE task_id = ?", (row,))
    connection.executemany(_ADD_DEPENDENCY, ((row, blocker) for blocker in addition.outside))
    if not is_final:
        count_as_dependent(connection, task, change=1)
    not_before = micros_or_none(spec.not_before)
    start_after = max(not_before or 0, task["backing_off_until"] or 0)
    connection.execute(
        _EDIT,
        {
            "id": row,
            **_columns_of(spec),
            "blockers_left": sum(states[one] is not TaskState.DONE for one in addition.outside),
            "not_before": not_before,
            "start_after": start_after if start_after > now else 0,
            "now": now,
        },
    )
    connection.execute(_EDIT_SPEC, (spec.prompt, spec_details(spec), row))


def _columns_of(spec: TaskSpec) -> dict[str, object]:
    """Return what of a spec stands in the task's own row, where a tick reads it."""
    return {
        "agent": spec.agent or "",
        "queue": spec.queue or "",
        "summary": summarise(spec),
        "priority": spec.priority,
        "memory_bytes": spec.memory_bytes,
        "max_attempts": spec.max_attempts,
        "priority_class": spec.priority_class.value,
        "gpus": spec.gpus,
        "vram_bytes": spec.vram_bytes,
        "model": spec.model,
        "tenant": spec.tenant,
        "project": spec.project,
        "max_runtime_s": spec.max_runtime_s,
    }


def _refuse_own_blocker(connection: sqlite3.Connection, row: int, addition: Addition) -> None:
    values = {"ids": dumps(addition.outside), "id": row}
    if connection.execute(_ALL_BLOCKERS, values).fetchone() is not None:
        raise UsageError(
            f"task {row} would wait for itself, by way of {' or '.join(addition.spec.after)}",
            hint="take out of --after what waits for this task",
        )


def _insert_task(
    connection: sqlite3.Connection,
    addition: Addition,
    states: Mapping[int, TaskState],
    *,
    blocks: int,
    now: int,
    firing: Mapping[str, object] | None = None,
) -> int:
    spec = addition.spec
    unfinished = [row for row in addition.outside if states[row] is not TaskState.DONE]
    not_before = micros_or_none(spec.not_before)
    cursor = connection.execute(
        _ADD_TASK,
        {
            "state": TaskState.HELD if spec.is_held else TaskState.WAITING,
            **_columns_of(spec),
            "blockers_left": len(unfinished) + len(addition.inside),
            "blocks": blocks,
            "not_before": not_before,
            "start_after": not_before if not_before is not None and not_before > now else 0,
            "now": now,
            **(firing or _NO_FIRING),
        },
    )
    row = cursor.lastrowid
    if row is None:
        raise AssertionError("an INSERT that succeeded left no row id")
    return row
