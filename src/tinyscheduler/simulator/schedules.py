"""The schedules on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.firing_times import jittered
from tinyscheduler.model.schedules import LiveFirings, Overlap, Schedule, ScheduleState
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.schedules import FiringPlan
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.source import SimulatedQueue


class SimulatedSchedules:
    """One process's look at the schedules of a queue."""

    def __init__(self, process: Process, queue: SimulatedQueue) -> None:
        """Ask as this process."""
        self._process = process
        self._queue = queue

    def due(self, now: datetime) -> Sequence[tuple[Schedule, LiveFirings]]:
        """Return active schedules whose time has come, the oldest first."""
        self._process.reach("schedules.due")
        found = []
        for one in self._queue.schedules.values():
            if one.state is ScheduleState.ACTIVE and one.next_fire_at is not None:
                due_at = jittered(one.schedule_id, one.next_fire_at, one.timing.jitter_s)
                if due_at <= now:
                    found.append((due_at, one))
        found.sort(key=lambda pair: pair[0])
        return [(one, self._live(one.schedule_id)) for _, one in found]

    def fire(self, plan: FiringPlan) -> Sequence[str] | None:
        """Add the tasks of a plan and move its schedule on; None if that was done since."""
        with self._process.doing("schedules.fire"):
            name = plan.schedule.schedule_id
            known = self._queue.schedules.get(name)
            if known is None or known.state is not ScheduleState.ACTIVE:
                return None
            if (known.next_fire_at, known.revision) != (
                plan.schedule.next_fire_at,
                plan.schedule.revision,
            ):
                return None
            for task_id in plan.replaces:
                self._queue.request_cancel(task_id)
            ids = [
                self._queue.add_firing(known.spec, name, is_beside=known.overlap is Overlap.ALLOW)
                for _ in plan.slots
            ]
            self._queue.schedules[name] = replace(
                known,
                next_fire_at=plan.next_fire_at,
                state=plan.state,
                fired=known.fired + len(ids),
                passed_over=known.passed_over + plan.passed_over,
            )
        return ids

    def find(self, schedule_id: str) -> Schedule | None:
        """Return the schedule of that name; None if it is not there."""
        return self._queue.schedules.get(schedule_id)

    def paused_by(self, task_id: str) -> Schedule | None:
        """Return the schedule that stopped itself when that firing ended, if one did."""
        name = self._queue.paused_after.get(task_id)
        return None if name is None else self._queue.schedules.get(name)

    def _live(self, schedule_id: str) -> LiveFirings:
        rows = [row for row in self._queue.rows.values() if row.schedule_id == schedule_id]
        return LiveFirings(
            waiting=tuple(
                row.task_id for row in rows if row.state in (TaskState.WAITING, TaskState.HELD)
            ),
            working=tuple(
                (row.task_id, row.lease_id or "") for row in rows if row.state is TaskState.WORKING
            ),
        )
