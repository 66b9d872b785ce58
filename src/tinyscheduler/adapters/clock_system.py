"""The machine's own clocks."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from datetime import UTC, datetime

from tinyscheduler.model.clock import Instant


def read_boot_id() -> str:
    """Return the kernel's random name of this boot (proc(5), random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


class SystemClock:
    """CLOCK_MONOTONIC for ages, the wall clock for people; see clock_gettime(2)."""

    _stop_pipe: tuple[int, ...] = ()

    def __init__(self) -> None:
        """Read the boot id once: it cannot change under a living process."""
        self._boot_id = read_boot_id()
        # A pipe, because a signal handler may write to one at any moment; locks may not be taken.
        self._stop_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __del__(self) -> None:
        """Close the pipe: a daemon has many clocks in its life."""
        for fd in self._stop_pipe:
            os.close(fd)

    def now(self) -> Instant:
        """Return both clocks and the boot id."""
        return Instant(
            wall=datetime.now(tz=UTC), monotonic_ns=time.monotonic_ns(), boot_id=self._boot_id
        )

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when `stop` is called from a signal handler."""
        select.select([self._stop_pipe[0]], [], [], max(0.0, seconds))

    def stop(self) -> None:
        """End all sleeping, now and later: the process was asked to end."""
        # A full pipe has been stopped often enough.
        with suppress(BlockingIOError):
            os.write(self._stop_pipe[1], b"!")
