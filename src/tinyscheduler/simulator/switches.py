"""The switches on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.switches import Switch, SwitchKind, Target
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process


class SimulatedSwitches:
    """One value per kind and target; ``are_readable`` off is a database that does not answer."""

    def __init__(self, process: Process, disk: Disk) -> None:
        """Read and set as this process."""
        self._process = process
        self._disk = disk

    def read(self) -> Sequence[Switch]:
        """Return every switch that is set, by kind and target."""
        self._process.reach("switches.read")
        if not self._disk.are_switches_readable:
            message = "the switches do not answer"
            raise StoreError(message)
        return [self._disk.switches[key] for key in sorted(self._disk.switches)]

    def set(self, switch: Switch) -> Switch | None:
        """Set the switch; if it was set before, change nothing and return that one."""
        key = (switch.kind.value, str(switch.target))
        with self._process.doing("switch.set"):
            self._refuse()
            before = self._disk.switches.get(key)
            self._disk.switches.setdefault(key, switch)
        return before

    def clear(self, kind: SwitchKind, target: Target) -> Switch | None:
        """Lift the switch and return it; None if it was not set."""
        with self._process.doing("switch.clear"):
            self._refuse()
            return self._disk.switches.pop((kind.value, str(target)), None)

    def _refuse(self) -> None:
        try:
            self._disk.refuse_bytes()
        except OSError as error:
            message = f"switches: {error.strerror}"
            raise StoreError(message, hint="make room on the disk") from error
