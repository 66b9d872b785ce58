"""The clock port on a simulated computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.model.clock import Instant
    from tinyscheduler.simulator.machine import Process


class SimulatedClock:
    """Reads the machine's clocks for one process."""

    def __init__(self, process: Process) -> None:
        """Sleep as this process."""
        self._process = process

    def now(self) -> Instant:
        """Return both clocks and the boot id."""
        return self._process.machine.now()

    def sleep(self, seconds: float) -> None:
        """Let the world go on for that time."""
        self._process.reach("clock.sleep")
        self._process.machine.advance(seconds)
        self._process.reach("clock.slept")
