"""Waits for something to change in the queue, cheaply: a glance at two files between looks."""

from __future__ import annotations

import os
from datetime import datetime

from tinyscheduler.cli.render import format_span, format_when
from tinyscheduler.core.explain import never_ends
from tinyscheduler.model.tasks import Outcome, TaskState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.records import TaskRecord

_GLANCE_S = 0.05
# File times tick in milliseconds: two changes within one look like one.
_LOOK_ANYWAY_S = 0.5
# By then a tick that somebody else runs has usually come.
_ADVISE_AFTER_S = 3.0
_MOST_BLOCKERS_TOLD = 10


class Follower:
    """Says when to look at the queue again."""

    def __init__(
        self, queue: Queue, *, note: Callable[[str], None], advise: Callable[[str], None]
    ) -> None:
        """Start with a look that is due.

        ``note`` is told what keeps a task, ``advise`` once if nothing happens.
        """
        self._queue = queue
        self._clock = queue.clock
        self._note = note
        self._told: set[object] = set()
        self._advise = advise
        self._is_advised = False
        self._started_ns = queue.clock.now().monotonic_ns
        path = queue.config.paths.database
        self._paths = (path, path + "-wal")
        self._marks: tuple[object, ...] | None = None
        self._looked_ns = 0

    def is_due(self) -> bool:
        """Whether the queue may have changed since this last said so."""
        now_ns = self._clock.now().monotonic_ns
        marks = tuple(_mark(path) for path in self._paths)
        if marks == self._marks and now_ns - self._looked_ns < _LOOK_ANYWAY_S * 1e9:
            return False
        self._marks, self._looked_ns = marks, now_ns
        return True

    def explain(self, record: TaskRecord) -> None:
        """Say of a task that has not started what keeps it, each cause once."""
        name = f"task {record.task_id}"
        stuck = self._stuck_above(record) if record.blocked_by else []
        for blocker, way in stuck[:_MOST_BLOCKERS_TOLD]:
            self._tell(f"{name} waits for task {blocker.task_id}, which is {blocker.state}; {way}")
        way_out = never_ends(record)
        if way_out is not None:
            self._tell(f"{name} is {record.state}; {way_out}")
        elif not stuck and not self._is_backing_off(record):
            self._note_waiting(record.task_id)

    def _tell(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            self._note(words)

    def _stuck_above(self, record: TaskRecord) -> list[tuple[TaskRecord, str]]:
        above = self._queue.inquiry.unfinished_above(record.task_id)
        return [(one, way) for one in above if (way := never_ends(one)) is not None]

    def _is_backing_off(self, record: TaskRecord) -> bool:
        """Whether the task pauses between two attempts; says until when, once for each."""
        until = record.backing_off_until
        if until is None:
            return False
        left_s = (until - self._clock.now().wall).total_seconds()
        if left_s <= 0:
            return False
        pause = (record.task_id, record.attempt)
        if pause not in self._told:
            self._told.add(pause)
            self._note(self._words_of_backoff(record, left_s))
        return True

    def _words_of_backoff(self, record: TaskRecord, left_s: float) -> str:
        words = f"task {record.task_id} {self._words_of_last(record)};"
        words += f" attempt {record.attempt} is due in"
        words += f" {format_span(left_s + 1)}"
        if not find_ticking(self._queue).has_daemon:
            words += ", and the first tick after that starts it; no daemon runs here"
        return words

    def _words_of_last(self, record: TaskRecord) -> str:
        """Say why the task is to be tried again."""
        attempts = self._queue.ledger.attempts(record.task_id)
        # A start that failed is no attempt, and its number is used again.
        if record.launches or not attempts:
            return "could not be started"
        match attempts[-1].outcome:
            case Outcome.RETRY_LATER:
                return "asked to be tried later"
            case Outcome.INTERRUPTED:
                return "was interrupted"
            case _:
                return f"failed ({record.failure_reason})"

    def _note_waiting(self, task_id: str) -> None:
        """Say what may be missing if this task has been waiting all along.

        Whoever has just queued a first task would wait for ever otherwise.
        """
        waited_s = (self._clock.now().monotonic_ns - self._started_ns) / 1e9
        if self._is_advised or waited_s <= _ADVISE_AFTER_S:
            return
        ticking = find_ticking(self._queue)
        if ticking.has_daemon or self._queue.tasks.counts()[TaskState.WORKING]:
            # A tick follows by itself; only a person wonders what it is all about.
            self._advise(f"task {task_id} still waits, and `tinyscheduler why {task_id}` says why")
        else:
            last = "and nothing has ticked here yet"
            if ticking.last_at is not None:
                if (ticking.now - ticking.last_at).total_seconds() <= _ADVISE_AFTER_S:
                    return  # something ticks; between an end and a start nothing works
                last = f"and the last tick was {format_when(ticking.last_at, now=ticking.now)}"
            self._note(
                f"task {task_id} still waits: no daemon runs here, {last};"
                " `tinyscheduler run` starts what can start"
            )
        self._is_advised = True

    def pause(self, *, until_ns: int | None = None) -> None:
        """Sleep for the time between two glances, or up to a moment before that."""
        seconds = _GLANCE_S
        if until_ns is not None:
            left_s = (until_ns - self._clock.now().monotonic_ns) / 1e9
            seconds = max(0.0, min(seconds, left_s))
        self._clock.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticking:
    """Whether a daemon ticks here, and when any tick last began; None before the first."""

    has_daemon: bool
    last_at: datetime | None
    now: datetime
    interval_s: float


def find_ticking(queue: Queue) -> Ticking:
    """Look whether a daemon holds its lock, and when the tick lock was last taken."""
    from tinyscheduler.adapters.leases_file import LockTable
    from tinyscheduler.app.kicks import last_tick_at

    paths = queue.config.paths
    has_daemon = False
    try:
        status = os.stat(paths.daemon_lock)
    except OSError:
        pass
    else:
        locks = LockTable()
        locks.begin()
        has_daemon = locks.is_held(paths.daemon_lock, status)
    return Ticking(
        has_daemon=has_daemon,
        last_at=last_tick_at(queue.config),
        now=queue.clock.now().wall,
        interval_s=queue.config.timing.loop_interval_s,
    )


def describe_ticking(ticking: Ticking) -> str:
    """Say what makes the next tick happen."""
    if ticking.has_daemon:
        return f"a daemon ticks, every {format_span(ticking.interval_s)} at least"
    if ticking.last_at is None:
        return "nothing has ticked here yet: `tinyscheduler run` does"
    return f"no daemon runs; the last tick was {format_when(ticking.last_at, now=ticking.now)}"


def _mark(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
