"""The probe port on a simulated computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.model.snapshot import HostState

if TYPE_CHECKING:
    from tinyscheduler.simulator.machine import Process

PID_NAMESPACE = 4026531836
_GIB = 1 << 30


class SimulatedProbe:
    """Measures a machine that is always the same and never busy."""

    def __init__(self, process: Process) -> None:
        """Measure as this process."""
        self._process = process

    def read(self) -> HostState:
        """Return identity, memory and load."""
        self._process.reach("probe.read")
        return HostState(
            hostname="simulated",
            boot_id=self._process.machine.boot_id,
            pid_ns=PID_NAMESPACE,
            memory_total_bytes=16 * _GIB,
            memory_available_bytes=12 * _GIB,
            load=0.5,
            cores=8,
        )
