"""The ledger on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process


class SimulatedLedger:
    """One row per lease id, the first one told."""

    def __init__(self, process: Process, disk: Disk) -> None:
        """Write as this process."""
        self._process = process
        self._disk = disk

    def record(self, attempt: AttemptRecord, *, is_told_next: bool = False) -> None:
        """Write one row; a second row for the same lease id changes nothing."""
        del is_told_next  # here all that is written lasts
        with self._process.doing("ledger.record"):
            try:
                self._disk.refuse_bytes()
            except OSError as error:
                message = f"ledger: {error.strerror}"
                raise StoreError(message, hint="make room on the disk") from error
            self._disk.ledger.setdefault(attempt.lease_id, attempt)

    def attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        """Return the rows of one task, oldest attempt first."""
        rows = (row for row in self._disk.ledger.values() if row.task_id == task_id)
        return sorted(rows, key=_place)


def _place(row: AttemptRecord) -> tuple[int, datetime, str]:
    return (row.attempt, row.ended_at, row.lease_id)
