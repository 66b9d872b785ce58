"""Waits for something to change in the queue, cheaply: a glance at two files between looks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.app import Queue

_GLANCE_S = 0.05
# File times tick in milliseconds: two changes within one look like one.
_LOOK_ANYWAY_S = 0.5


# By then a tick that somebody else runs has usually come.
_ADVISE_AFTER_S = 3.0


class Follower:
    """Says when to look at the queue again."""

    def __init__(self, queue: Queue, *, advise: Callable[[str], None]) -> None:
        """Start with a look that is due.  ``advise`` is told once if nothing happens."""
        self._clock = queue.clock
        self._advise: Callable[[str], None] | None = advise
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

    def note_waiting(self, task_id: str) -> None:
        """Say what may be missing if this task has been waiting all along.

        A person who has just queued a first task would wait for ever otherwise.
        """
        waited_s = (self._clock.now().monotonic_ns - self._started_ns) / 1e9
        if self._advise is not None and waited_s > _ADVISE_AFTER_S:
            self._advise(
                f"task {task_id} still waits, and `tinyscheduler status` says why;"
                " where nothing ticks regularly, `tinyscheduler run` starts what can start"
            )
            self._advise = None

    def pause(self, *, until_ns: int | None = None) -> None:
        """Sleep for the time between two glances, or up to a moment before that."""
        seconds = _GLANCE_S
        if until_ns is not None:
            left_s = (until_ns - self._clock.now().monotonic_ns) / 1e9
            seconds = max(0.0, min(seconds, left_s))
        self._clock.sleep(seconds)


def _mark(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
