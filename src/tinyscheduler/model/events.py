"""What happened, as one flat record per happening."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


Details = tuple[
    tuple[str, str | int | float | bool | tuple[str, ...] | tuple[int, ...] | None], ...
]


class EventName(StrEnum):
    """The names that users' scripts match on."""

    TASK_ADDED = "task.added"
    TASK_CLAIMED = "task.claimed"
    TASK_STARTED = "task.started"
    TASK_FINISHED = "task.finished"
    TASK_FAILED = "task.failed"
    TASK_REQUEUED = "task.requeued"
    TASK_PARKED = "task.parked"
    TASK_CANCELLED = "task.cancelled"
    TASK_EDITED = "task.edited"
    TASK_RETRIED = "task.retried"
    TASK_SILENT = "task.silent"
    TASK_HELD = "task.held"
    TASK_RELEASED = "task.released"
    LEASE_RECLAIMED = "lease.reclaimed"
    LEASE_CORRUPT = "lease.corrupt"
    SLOT_LEAK_REPAIRED = "slot.leak_repaired"
    SOURCE_DOWN = "source.down"
    SOURCE_UP = "source.up"
    PAUSED = "scheduler.paused"
    RESUMED = "scheduler.resumed"
    DRAINING = "scheduler.draining"
    UNDRAINED = "scheduler.undrained"
    RESET = "scheduler.reset"
    AGENT_COOLING = "agent.cooling"
    BACKPRESSURE = "backpressure"
    MEMORY_PRESSURE = "memory-pressure"
    HEALTH_CHANGED = "health-changed"
    SLOT_AVAILABLE = "slot-available"
    WORK_CLAIMED = "work-claimed"
    QUEUE_EMPTY = "queue-empty"
    STAGGER_WAIT = "stagger-wait"
    GPU_MISPLACED = "gpu.misplaced"
    SCHEDULE_FIRED = "schedule.fired"
    SCHEDULE_DEFERRED = "schedule.deferred"
    SCHEDULE_REPORTED = "schedule.reported"
    SCHEDULE_PAUSED = "schedule.paused"
    SCHEDULE_WARNING = "schedule.warning"
    AUDIT_FORCE = "audit.force"
    POLICY_FALLBACK = "policy.fallback"
    POLICY_DEPLOYED = "policy.deployed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One happening.  ``details`` are event-specific keys, each a plain JSON value."""

    at: datetime
    name: EventName
    task_id: str | None = None
    attempt: int | None = None
    agent: str | None = None
    reason: str | None = None
    details: Details = ()
