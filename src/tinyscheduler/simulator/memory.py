"""The memory store on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError
from tinyscheduler.model.snapshot import SchedulingMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process


class SimulatedMemoryStore:
    """One value on the disk; a text in its place is something unreadable."""

    def __init__(self, process: Process, disk: Disk, *, warn: Callable[[str], None]) -> None:
        """Say on ``warn`` what was set aside."""
        self._process = process
        self._disk = disk
        self._warn = warn

    def load(self) -> SchedulingMemory:
        """Return what was saved, or an empty memory."""
        self._process.reach("memory.load")
        match self._disk.memory:
            case SchedulingMemory() as memory:
                return memory
            case str() as garbage:
                self._warn("the scheduling memory is unreadable; starting with an empty one")
                self._disk.quarantine.append(("memory", garbage))
                self._disk.memory = None
            case None:
                pass
        return SchedulingMemory()

    def save(self, memory: SchedulingMemory) -> None:
        """Replace what was saved; StoreError if the disk refuses."""
        with self._process.doing("memory.save"):
            try:
                self._disk.refuse_bytes()
            except OSError as error:
                message = f"scheduling memory: {error.strerror}"
                raise StoreError(message, hint="make room on the disk") from error
            self._disk.memory = memory
