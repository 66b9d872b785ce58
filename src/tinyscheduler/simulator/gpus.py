"""The GPUs of a simulated computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.simulator.machine import Process


class SimulatedGpuProbe:
    """Shows what the machine has."""

    def __init__(self, process: Process) -> None:
        """Look as this process."""
        self._process = process

    def read(self) -> GpuReading:
        """Return the GPUs there are."""
        self._process.reach("gpus.read")
        return self._process.machine.gpus
