"""The schedules on the simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.firing_times import jittered
from tinyscheduler.core.heartbeats import begin_of_day
from tinyscheduler.model.schedules import (
    LiveFirings,
    Overlap,
    Schedule,
    ScheduleKind,
    ScheduleState,
)
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.schedules import FiringDeferral, FiringPlan
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
                due_at = one.deferred_until or jittered(
                    one.schedule_id, one.next_fire_at, one.timing.jitter_s
                )
                if due_at <= now:
                    found.append((due_at, one))
        found.sort(key=lambda pair: pair[0])
        return [(one, self._live(one, now)) for _, one in found]

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
            spec = known.spec if plan.prompt is None else replace(known.spec, prompt=plan.prompt)
            ids = [
                self._queue.add_firing(
                    spec, name, slot=slot, is_beside=known.overlap is Overlap.ALLOW
                )
                for slot in plan.slots
            ]
            self._queue.schedules[name] = replace(
                known,
                next_fire_at=plan.next_fire_at,
                state=plan.state,
                fired=known.fired + len(ids),
                passed_over=known.passed_over + plan.passed_over,
                suppressed=known.suppressed + plan.suppressed,
                deferrals=0,
                deferred_until=None,
            )
        return ids

    def find(self, schedule_id: str) -> Schedule | None:
        """Return the schedule of that name; None if it is not there."""
        return self._queue.schedules.get(schedule_id)

    def defer(self, deferral: FiringDeferral) -> bool:
        """Let a schedule that is due be so later, unless that was done since."""
        with self._process.doing("schedules.defer"):
            was, name = deferral.schedule, deferral.schedule.schedule_id
            known = self._queue.schedules.get(name)
            if known is None or known.state is not ScheduleState.ACTIVE:
                return False
            if (known.next_fire_at, known.revision, known.deferrals) != (
                was.next_fire_at,
                was.revision,
                was.deferrals,
            ):
                return False
            self._queue.schedules[name] = replace(
                known,
                next_fire_at=deferral.slot,
                passed_over=known.passed_over + deferral.passed_over,
                deferrals=known.deferrals + 1,
                deferred_until=deferral.until,
            )
        return True

    def paused_by(self, task_id: str) -> Schedule | None:
        """Return the schedule that stopped itself when that firing ended, if one did."""
        name = self._queue.paused_after.get(task_id)
        return None if name is None else self._queue.schedules.get(name)

    def is_heartbeat(self, schedule_id: str) -> bool:
        """Whether it goes through a checklist."""
        found = self._queue.schedules.get(schedule_id)
        return found is not None and found.kind is ScheduleKind.HEARTBEAT

    def _live(self, one: Schedule, now: datetime) -> LiveFirings:
        rows = [row for row in self._queue.rows.values() if row.schedule_id == one.schedule_id]
        begin = begin_of_day(now, one.timing.zone)
        today = [
            row
            for row in rows
            if row.slot is not None and row.created_at and row.created_at >= begin
        ]
        return LiveFirings(
            waiting=tuple(
                row.task_id for row in rows if row.state in (TaskState.WAITING, TaskState.HELD)
            ),
            held=tuple(row.task_id for row in rows if row.state is TaskState.HELD),
            working=tuple(
                (row.task_id, row.lease_id or "") for row in rows if row.state is TaskState.WORKING
            ),
            fired_today=0 if one.max_per_day is None else len(today),
        )
