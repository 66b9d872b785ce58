"""Who is at work at the simulated machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process


class SimulatedPressures:
    """Those on the disk whose time is not over, by the wall clock: there is no other here."""

    def __init__(self, process: Process, disk: Disk) -> None:
        """Look as this process."""
        self._process = process
        self._disk = disk

    def live(self) -> Sequence[InteractivePressure]:
        """Return who is at work now, and forget who is no more."""
        self._process.reach("pressures.live")
        now = self._process.machine.wall
        found = self._disk.pressures
        for name in [one.name for one in found.values() if one.ends_at and one.ends_at <= now]:
            del found[name]
        return [found[name] for name in sorted(found)]
