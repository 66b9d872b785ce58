"""A task source in memory: its rows outlive every process and every reboot."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from tinyscheduler.core.streaks import EndedFiring, Streaks, is_in_grace, judge_firing
from tinyscheduler.errors import SourceError, StoreError
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.records import AlreadyEnded, Cancelled, CancelRequested
from tinyscheduler.model.schedules import ScheduleKind, ScheduleState
from tinyscheduler.model.snapshot import SourceView
from tinyscheduler.model.switches import EVERYTHING
from tinyscheduler.model.tasks import (
    Claim,
    FailureReason,
    Finish,
    PriorityClass,
    Requeue,
    TaskState,
    WaitingTask,
)
from tinyscheduler.simulator.budgets import may_spend
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.records import CancelAnswer
    from tinyscheduler.model.schedules import Schedule
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import Ending, TaskSpec
    from tinyscheduler.simulator.machine import Process

_MOST_UNSTARTABLE = 50
_MOST_BLOCKERS_TOLD = 10


class Trouble(Enum):
    """What is wrong with a source."""

    NONE = "none"
    DOWN = "down"  # it answers nothing and does nothing
    FORGETFUL = "forgetful"  # it does what it is asked, and the answer gets lost
    READ_ONLY = "read-only"  # it can be asked, but changes nothing, as on a full disk


@dataclass(eq=False, slots=True, kw_only=True)
class Row:
    """One task as the source keeps it."""

    task_id: str
    order: int
    spec: TaskSpec
    state: TaskState
    attempt: int = 1
    failures: int = 0
    launches: int = 0
    lease_id: str | None = None
    claimed_by: str | None = None
    is_cancel_requested: bool = False
    last_failure: FailureReason | None = None
    backing_off_until: datetime | None = None
    created_at: datetime | None = None
    ended_at: datetime | None = None
    schedule_id: str | None = None
    is_beside: bool = False
    is_forced: bool = False
    claimed_at: datetime | None = None
    slot: datetime | None = None
    pressure: int = 0  # how many were at work interactively when it began


@dataclass(eq=False, slots=True, kw_only=True)
class SimulatedQueue:
    """The rows themselves, and what people do to them."""

    now: Callable[[], datetime]
    name: str = "local"
    prefix: str = ""
    is_priority_enabled: bool = False
    is_blocking_disabled: bool = False
    longest_backoff_s: float = math.inf
    fair_share: FairShare = FairShare.OFF
    trouble: Trouble = Trouble.NONE
    switches: Mapping[tuple[str, str], Switch] = field(default_factory=dict)  # as on its disk
    rows: dict[str, Row] = field(default_factory=dict)
    added: int = 0  # tasks ever: a number is never used again
    most_firings: int = 2
    budgets: tuple[Budget, ...] = ()
    budget_starts: dict[str, datetime] = field(default_factory=dict)
    ledger: Mapping[str, AttemptRecord] = field(default_factory=dict)  # as on its disk
    schedules: dict[str, Schedule] = field(default_factory=dict)
    paused_after: dict[str, str] = field(default_factory=dict)  # schedules, by firing

    def add(self, spec: TaskSpec) -> str:
        """Add a task and return its id; what it comes after must exist."""
        self.added += 1
        order = self.added
        task_id = f"{self.prefix}{order}"
        assert all(blocker in self.rows for blocker in spec.after)  # noqa: S101 - a test's fault
        state = TaskState.HELD if spec.is_held else TaskState.WAITING
        self.rows[task_id] = Row(
            task_id=task_id, order=order, spec=spec, state=state, created_at=self.now()
        )
        return task_id

    def add_firing(
        self,
        spec: TaskSpec,
        schedule_id: str,
        *,
        slot: datetime | None = None,
        is_beside: bool = False,
        is_forced: bool = False,
    ) -> str:
        """Add a task as a firing of a schedule."""
        task_id = self.add(spec)
        row = self.rows[task_id]
        row.schedule_id, row.is_beside, row.is_forced = schedule_id, is_beside, is_forced
        row.slot = slot
        return task_id

    def may_fire(self, row: Row) -> bool:
        """Whether the bound on firings, and an earlier one of its schedule, let it start."""
        if row.schedule_id is None:
            return True
        at_work = [
            one.schedule_id
            for one in self.rows.values()
            if one.state is TaskState.WORKING and one.schedule_id is not None
        ]
        if not row.is_beside and row.schedule_id in at_work:
            return False
        return row.is_forced or len(at_work) < self.most_firings

    def judge(self, row: Row, ending: Ending) -> None:
        """Note in its schedule how a firing has ended."""
        schedule = self.schedules.get(row.schedule_id or "")
        if schedule is None or not row.state.is_final:
            return
        set_at = schedule.max_turns_set_at
        judged = judge_firing(
            Streaks(
                failures=schedule.failure_streak,
                breaches=schedule.breach_streak,
                drifts=schedule.drift_streak,
                average_turns=schedule.average_turns,
                last_turns=schedule.last_turns,
            ),
            EndedFiring(
                is_done=row.state is TaskState.DONE,
                reason=row.last_failure,
                turns=ending.turns if isinstance(ending, Finish) else None,
                max_turns=row.spec.max_turns,
                ran_s=ending.ran_s if isinstance(ending, Finish) else None,
                max_runtime_s=schedule.max_run_duration_s or row.spec.max_runtime_s,
            ),
            is_in_grace=set_at is not None
            and is_in_grace(schedule.timing, anchor=schedule.anchor, set_at=set_at, now=self.now()),
        )
        schedule = replace(
            schedule,
            failure_streak=judged.streaks.failures,
            breach_streak=judged.streaks.breaches,
            drift_streak=judged.streaks.drifts,
            average_turns=judged.streaks.average_turns,
            last_turns=judged.streaks.last_turns,
        )
        if judged.why_paused is not None and schedule.state is ScheduleState.ACTIVE:
            schedule = replace(schedule, state=ScheduleState.PAUSED, why_paused=judged.why_paused)
            self.paused_after[row.task_id] = schedule.schedule_id
            for other in self.rows.values():
                is_of_clock = other.schedule_id == schedule.schedule_id and other.slot is not None
                if is_of_clock and other.state is TaskState.WAITING:
                    other.state = TaskState.HELD
        self.schedules[schedule.schedule_id] = schedule

    def count_suppressed(self, row: Row) -> None:
        """Note in its schedule that a firing found nothing to do."""
        schedule = self.schedules.get(row.schedule_id or "")
        if schedule is not None and schedule.kind is ScheduleKind.HEARTBEAT:
            again = replace(schedule, suppressed=schedule.suppressed + 1)
            self.schedules[schedule.schedule_id] = again

    def state(self, task_id: str) -> TaskState:
        """Return where the task stands."""
        return self.rows[task_id].state

    def release(self, task_id: str) -> None:
        """Let a held task wait."""
        row = self.rows[task_id]
        if row.state is TaskState.HELD:
            row.state = TaskState.WAITING

    def retry(self, task_id: str) -> None:
        """Let a task that ended without success wait again, with all its attempts."""
        row = self.rows[task_id]
        if row.state.is_final and row.state is not TaskState.DONE:
            row.state, row.backing_off_until = TaskState.WAITING, None
            row.ended_at = None
            row.failures = row.launches = 0

    def request_cancel(self, task_id: str) -> CancelAnswer:
        """Cancel the task now if it runs nowhere, else note the wish in its row."""
        row = self.rows[task_id]
        if row.state is TaskState.WORKING:
            row.is_cancel_requested = True
            return CancelRequested(lease_id=row.lease_id or "")
        if row.state.is_final and row.state is not TaskState.PARKED:
            return AlreadyEnded(state=row.state)
        row.state, row.last_failure = TaskState.CANCELLED, FailureReason.CANCELLED
        row.ended_at = self.now()
        return Cancelled()

    def blockers(self, row: Row) -> tuple[str, ...]:
        """Return the unfinished tasks that this one waits for, oldest first."""
        if self.is_blocking_disabled or not row.spec.after:
            return ()
        # One that was pruned was done.
        unfinished = (self.rows[one] for one in row.spec.after if one in self.rows)
        left = [one for one in unfinished if one.state is not TaskState.DONE]
        return tuple(one.task_id for one in sorted(left, key=_order))

    def blocks(self, row: Row) -> int:
        """Count the unfinished tasks that wait for this one."""
        return sum(
            row.task_id in other.spec.after and not other.state.is_final
            for other in self.rows.values()
        )

    def is_due(self, row: Row) -> bool:
        """Whether neither a wish nor a backoff keeps the task waiting."""
        until = row.backing_off_until
        if until is None and row.spec.not_before is None:
            return True
        now = self.now()
        if row.spec.not_before is not None and row.spec.not_before > now:
            return False
        return until is None or not 0 < (until - now).total_seconds() <= self.longest_backoff_s


class SimulatedSource:
    """One process's connection to a queue: the port."""

    def __init__(self, process: Process, queue: SimulatedQueue) -> None:
        """Ask as this process."""
        self._process = process
        self._queue = queue
        self._blocks: Counter[str] = Counter()  # how many unfinished tasks wait for each

    @property
    def name(self) -> str:
        """The word that leases and reports call this source by."""
        return self._queue.name

    def look(self, *, window: int) -> SourceView:
        """Return what waits and what is ours."""
        self._process.reach("source.look")
        if self._queue.trouble is Trouble.DOWN:
            raise self._down()
        rows = [row for row in self._queue.rows.values() if not row.state.is_final]
        self._blocks = Counter(blocker for row in rows for blocker in set(row.spec.after))
        told = [*self._startable(rows, window), *self._unstartable(rows)]
        known = {row.task_id for row in told}
        told += [row for row in self._first_of_each_owner(rows, window) if row.task_id not in known]
        return SourceView(
            name=self.name,
            waiting=tuple(self._waiting_task(row) for row in sorted(told, key=self._rank)),
            waiting_total=sum(row.state is TaskState.WAITING for row in rows),
            claims=tuple(self._claim_of(row) for row in rows if row.state is TaskState.WORKING),
        )

    def describe(self, task_id: str) -> TaskSpec:
        """Return what the task asks for; StoreError if it is gone."""
        self._process.reach("source.describe")
        if self._queue.trouble is Trouble.DOWN:
            raise self._down()
        if task_id not in self._queue.rows:
            message = f"task {task_id} is not in the queue"
            raise StoreError(message)
        return self._queue.rows[task_id].spec

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
        with self._answering("source.claim"):
            row = self._queue.rows.get(task_id)
            if row is None or not self._is_free(row, attempt):
                return False
            if not self._queue.may_fire(row):
                return False
            if self._is_switched_off(agent, row.spec.queue or queue, row.schedule_id):
                return False
            if not may_spend(self._queue, row, agent):
                return False
            row.claimed_at = self._queue.now()
            row.state, row.lease_id, row.claimed_by = TaskState.WORKING, lease_id, agent
            row.pressure = pressure
        return True

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        """Tell how the claim ended, if the task is still ours under exactly this lease."""
        with self._answering("source.settle"):
            row = self._queue.rows.get(task_id)
            if row is None or row.state is not TaskState.WORKING or row.lease_id != lease_id:
                return None
            _end(row, ending)
            row.ended_at = self._queue.now() if row.state.is_final else None
            self._queue.judge(row, ending)
            if isinstance(ending, Finish) and ending.found_nothing:
                self._queue.count_suppressed(row)
        return row.state

    def _is_free(self, row: Row, attempt: int) -> bool:
        return (
            row.state is TaskState.WAITING
            and row.attempt == attempt
            and not self._queue.blockers(row)
            and self._queue.is_due(row)
        )

    def _is_switched_off(self, agent: str, queue: str, schedule_id: str | None) -> bool:
        stops = {str(EVERYTHING), f"agent:{agent}", f"queue:{queue}"}
        if schedule_id is not None:
            stops.add(f"schedule:{schedule_id}")
        return any(target in stops for _, target in self._queue.switches)

    @contextmanager
    def _answering(self, name: str) -> Iterator[None]:
        """Do one change, or fail before it or after it as the trouble says."""
        trouble = self._queue.trouble
        if trouble in (Trouble.DOWN, Trouble.READ_ONLY):
            self._process.reach(name)
            raise self._down()
        with self._process.doing(name):
            yield
        if trouble is Trouble.FORGETFUL:
            raise self._down()

    def _down(self) -> SourceError:
        return SourceError(f"source {self.name} does not answer")

    def _startable(self, rows: Iterable[Row], window: int) -> Iterator[Row]:
        lines: dict[tuple[str | None, str | None], list[Row]] = {}
        for row in rows:
            if row.state is TaskState.WAITING and self._is_ready(row):
                lines.setdefault((row.spec.agent, row.spec.queue), []).append(row)
        urgent = PriorityClass.INTERACTIVE
        for line in lines.values():
            ordered = sorted(line, key=self._rank)
            yield from ordered[:window]
            # Beside them what goes first whatever its age.
            first = [row for row in ordered if row.spec.priority_class is urgent]
            told = {row.task_id for row in ordered[:window]}
            yield from [row for row in first[:window] if row.task_id not in told]

    def _first_of_each_owner(self, rows: Iterable[Row], window: int) -> Iterator[Row]:
        """Yield what each tenant or project has first in line, where they share fairly."""
        if self._queue.fair_share == FairShare.OFF:
            return
        owners: dict[str, list[Row]] = {}
        for row in rows:
            owner = getattr(row.spec, self._queue.fair_share) or ""
            if row.state is TaskState.WAITING and self._is_ready(row):
                owners.setdefault(owner, []).append(row)
        for mine in owners.values():
            yield from sorted(mine, key=self._rank)[:window]

    def _is_ready(self, row: Row) -> bool:
        return self._queue.is_due(row) and not self._queue.blockers(row)

    def _unstartable(self, rows: Iterable[Row]) -> list[Row]:
        held = [row for row in rows if row.state is TaskState.HELD]
        waiting = [row for row in rows if row.state is TaskState.WAITING]
        blocked = [row for row in waiting if self._queue.blockers(row)]
        deferred = [
            row for row in waiting if not self._queue.is_due(row) and not self._queue.blockers(row)
        ]
        # Where both kinds abound, each is told half.
        half = _MOST_UNSTARTABLE // 2
        return [
            *deferred[: max(half, _MOST_UNSTARTABLE - len(blocked))],
            *blocked[: max(half, _MOST_UNSTARTABLE - len(deferred))],
            *held[:_MOST_UNSTARTABLE],
        ]

    def _rank(self, row: Row) -> tuple[int, int, int]:
        priority = row.spec.priority if self._queue.is_priority_enabled else 0
        return (-self._blocks[row.task_id], -priority, row.order)

    def _waiting_task(self, row: Row) -> WaitingTask:
        return WaitingTask(
            task_id=row.task_id,
            source=self.name,
            created_order=row.order,
            attempt=row.attempt,
            failures=row.failures,
            launches=row.launches,
            agent=row.spec.agent,
            queue=row.spec.queue,
            priority=row.spec.priority,
            blocks=self._blocks[row.task_id],
            blocked_by=self._queue.blockers(row)[:_MOST_BLOCKERS_TOLD],
            not_before=row.spec.not_before,
            backing_off_until=row.backing_off_until,
            is_held=row.state is TaskState.HELD,
            memory_bytes=row.spec.memory_bytes,
            priority_class=row.spec.priority_class,
            gpus=row.spec.gpus,
            vram_bytes=row.spec.vram_bytes,
            model=row.spec.model,
            tenant=row.spec.tenant,
            project=row.spec.project,
            max_runtime_s=row.spec.max_runtime_s,
            created_at=row.created_at,
            title=row.spec.title,
            seed=row.spec.seed,
            labels=row.spec.labels,
            schedule_id=row.schedule_id,
            slot=row.slot,
            is_beside=row.is_beside,
            is_forced=row.is_forced,
        )

    def _claim_of(self, row: Row) -> Claim:
        return Claim(
            task_id=row.task_id,
            source=self.name,
            lease_id=row.lease_id or "",
            agent=row.claimed_by or "",
            attempt=row.attempt,
            failures=row.failures,
            launches=row.launches,
            max_attempts=row.spec.max_attempts,
            cancel_requested=row.is_cancel_requested,
            last_failure=row.last_failure,
            schedule_id=row.schedule_id,
        )


def _end(row: Row, ending: Ending) -> None:
    match ending:
        case Requeue():
            row.attempt, row.failures = ending.attempt, ending.failures
            row.launches, row.backing_off_until = ending.launches, ending.backing_off_until
            row.last_failure = ending.reason or row.last_failure
            row.state = TaskState.WAITING
        case Finish():
            row.attempt += 1
            row.state, row.last_failure = ending.state, ending.reason
            row.failures = ending.failures
        case _:
            assert_never(ending)
    if row.is_cancel_requested and row.state is not TaskState.DONE:
        row.state, row.last_failure = TaskState.CANCELLED, FailureReason.CANCELLED
    row.lease_id = row.claimed_by = None
    row.is_cancel_requested = False


def _order(row: Row) -> int:
    return row.order
