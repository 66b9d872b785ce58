"""Waits for something to change in the queue, cheaply: a glance at two files between looks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.app import Queue

_GLANCE_S = 0.05
# File times tick in milliseconds: two changes within one look like one.
_LOOK_ANYWAY_S = 0.5


class Follower:
    """Says when to look at the queue again."""

    def __init__(self, queue: Queue) -> None:
        """Start with a look that is due."""
        self._clock = queue.clock
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
