"""The coolings on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process


class SimulatedCoolings:
    """One value per account; a database that does not answer tells no switches either."""

    def __init__(self, process: Process, disk: Disk) -> None:
        """Read and keep as this process."""
        self._process = process
        self._disk = disk

    def read(self) -> Sequence[Cooling]:
        """Return what is kept of every account, by its name; what is over, too."""
        self._process.reach("coolings.read")
        if not self._disk.are_switches_readable:
            message = "the coolings do not answer"
            raise StoreError(message)
        return [self._disk.coolings[account] for account in sorted(self._disk.coolings)]

    def keep(self, cooling: Cooling) -> None:
        """Replace what is kept of that account."""
        with self._process.doing("cooling.keep"):
            self._refuse()
            self._disk.coolings[cooling.account] = cooling

    def forget(self, account: str) -> Cooling | None:
        """Remove what is kept of an account and return it; None if that is nothing."""
        with self._process.doing("cooling.forget"):
            self._refuse()
            return self._disk.coolings.pop(account, None)

    def _refuse(self) -> None:
        try:
            self._disk.refuse_bytes()
        except OSError as error:
            message = f"coolings: {error.strerror}"
            raise StoreError(message, hint="make room on the disk") from error
