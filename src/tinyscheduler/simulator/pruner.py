"""Prunes the simulated queue and ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.errors import StoreError
from tinyscheduler.model.pruning import Pruned, PruneKind, Removed
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Container
    from datetime import datetime

    from tinyscheduler.model.pruning import PruneBounds
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.source import Row, SimulatedQueue

_OVER = (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED)


class SimulatedPruner:
    """Removes the rows of tasks that are over, and of attempts whose task is gone."""

    def __init__(self, process: Process, disk: Disk, queue: SimulatedQueue) -> None:
        """Prune as this process."""
        self._process = process
        self._disk = disk
        self._queue = queue

    def prune(self, bounds: PruneBounds) -> Pruned:
        """Remove at most ``most`` tasks, and then as many attempts, oldest first."""
        with self._process.doing("prune.rows"):
            try:
                self._disk.refuse_bytes()
            except OSError as error:
                message = f"pruning: {error.strerror}"
                raise StoreError(message, hint="make room on the disk") from error
            return self._prune(bounds)

    def _prune(self, bounds: PruneBounds) -> Pruned:
        rows, ledger = self._queue.rows, self._disk.ledger
        old = self._old_tasks(bounds.history_before)
        gone = set(old[: bounds.most])
        for task_id in gone:
            del rows[task_id]
        of_gone = [key for key, told in ledger.items() if told.task_id in gone]
        orphans = sorted(
            (told.ended_at, key)
            for key, told in ledger.items()
            if told.task_id not in rows
            and told.task_id not in gone
            and told.ended_at < bounds.history_before
        )
        for key in [*of_gone, *(key for _, key in orphans[: bounds.most])]:
            del ledger[key]
        counts = (
            (PruneKind.TASKS, len(gone)),
            (PruneKind.ATTEMPTS, len(of_gone) + len(orphans[: bounds.most])),
        )
        return Pruned(
            removed=tuple(
                Removed(kind=kind, number=number, bytes=0) for kind, number in counts if number
            ),
            is_more=max(len(old), len(orphans)) > bounds.most,
        )

    def _old_tasks(self, before: datetime) -> list[str]:
        """Return all that may go; what kept a task is ahead of it."""
        found: dict[str, None] = {}
        while True:
            ends = sorted(
                (ended_at, row.order, row.task_id)
                for row in self._queue.rows.values()
                if row.task_id not in found
                and (ended_at := self._old(row, before, going=found)) is not None
            )
            if not ends:
                return list(found)
            found.update(dict.fromkeys(task_id for _, _, task_id in ends))

    def _old(self, row: Row, before: datetime, *, going: Container[str]) -> datetime | None:
        """Return when the task ended, if it may go with these."""
        if row.state not in _OVER or row.ended_at is None or row.ended_at >= before:
            return None
        is_needed = any(
            row.task_id in other.spec.after
            and other.state is not TaskState.DONE
            and other.task_id not in going
            for other in self._queue.rows.values()
        )
        return None if is_needed else row.ended_at
