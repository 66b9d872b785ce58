"""The probe port on a simulated computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.model.resources import HostState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tinyscheduler.model.leases import Lease
    from tinyscheduler.simulator.machine import Process

PID_NAMESPACE = 4026531836


class SimulatedProbe:
    """Measures a machine that is never busy, and whose wrappers stand for their whole trees."""

    def __init__(self, process: Process) -> None:
        """Measure as this process."""
        self.process = process

    def read(self) -> HostState:
        """Return identity, memory and load."""
        self.process.reach("probe.read")
        machine = self.process.machine
        return HostState(
            hostname="simulated",
            boot_id=machine.boot_id,
            pid_ns=PID_NAMESPACE,
            memory_total_bytes=machine.memory_total_bytes,
            memory_available_bytes=machine.memory_available_bytes,
            load=0.5,
            cores=8,
            memory_stall=machine.memory_stall,
        )

    def measure(self, leases: Sequence[Lease]) -> Mapping[str, int]:
        """Return the memory of each wrapper that lives."""
        self.process.reach("probe.measure")
        found = {}
        for lease in leases:
            identity = lease.process
            if identity is not None and identity.pid_ns == PID_NAMESPACE:
                process = self.process.machine.find(identity.pid, identity.start_ticks)
                if process is not None:
                    found[lease.lease_id] = process.memory_bytes
        return found
