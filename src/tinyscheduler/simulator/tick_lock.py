"""The tick lock and the kick on the simulated disk."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError

if TYPE_CHECKING:
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Description, Process

KICK = "kick"


def wish(disk: Disk) -> None:
    """Create ``kick``, which wakes a daemon; a disk that refuses costs a minute, not a task."""
    with suppress(OSError):
        disk.touch(disk.kicks, KICK)
        for process in disk.daemon_lock.holders():
            process.machine.wake(process)


class SimulatedTickLock:
    """Keeps simulated ticks apart; dies with its process."""

    def __init__(self, process: Process, disk: Disk) -> None:
        """Lock as this process."""
        self._process = process
        self._disk = disk
        self._description: Description | None = None

    def acquire(self) -> str | None:
        """Take the lock, or leave a wish and say who holds it."""
        self._process.reach("tick.lock")
        if not self._try():
            with self._process.doing("kick.create"):
                wish(self._disk)
            if not self._try():
                return self._disk.tick_lock.text or "another tick"
        self._disk.tick_lock.text = f"pid {self._process.pid}"
        self._process.reach("tick.locked")
        return None

    def release(self) -> None:
        """Give the lock up."""
        if self._description is not None:
            self._description.drop(self._process)
            self._description = None
            if self._process.is_alive:
                self._process.reach("tick.unlocked")

    def forget_kick(self) -> None:
        """Withdraw all wishes so far."""
        with self._process.doing("kick.forget"):
            try:
                self._disk.remove(self._disk.kicks, KICK)
            except OSError as error:
                message = f"kick: {error.strerror}"
                raise StoreError(message, hint="make the disk writable") from error

    def is_kicked(self) -> bool:
        """Whether anybody wished for a tick."""
        self._process.reach("kick.look")
        return KICK in self._disk.kicks

    def _try(self) -> bool:
        self._description = self._disk.tick_lock.try_lock(self._process)
        return self._description is not None
