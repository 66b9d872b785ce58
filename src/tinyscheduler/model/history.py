"""What is kept of an attempt after it ended?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.leases import ReclaimReason
    from tinyscheduler.model.tasks import FailureReason, Outcome, TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One row of the ledger: an attempt that ended, told once per ``lease_id``.

    What is not known is None: ``turns``, ``tokens`` and ``cost_usd`` where its agent does not tell
    them, ``cpu_s`` and ``gpu_s``, seconds of processors and of whole GPUs, where its end was not
    seen.
    """

    lease_id: str
    task_id: str
    source: str
    agent: str
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    outcome: Outcome
    failure_reason: FailureReason | None
    reclaim_reason: ReclaimReason | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    turns: int | None = None
    peak_rss_mb: float | None = None
    log: str | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    cpu_s: float | None = None
    gpu_s: float | None = None
    schedule_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAttempt:
    """One attempt as a report counts it.

    ``ready_at`` is when its task could first have started: when it was added, or the
    later time it was asked to wait for; None where the task is not known any more.  What it took
    is as in its `AttemptRecord`.
    """

    agent: str
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    outcome: Outcome
    failure_reason: FailureReason | None
    reclaim_reason: ReclaimReason | None
    ready_at: datetime | None
    turns: int | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    cpu_s: float | None = None
    gpu_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTask:
    """A task that was tried, what it asked for but its prompt, and what came of it of late.

    ``summary`` is what people know it by.  ``attempts`` are those that ended in the time that
    was asked for, in the order of their numbers; there is at least one.
    """

    task_id: str
    summary: str
    spec: TaskSpec
    created_at: datetime
    attempts: tuple[AttemptRecord, ...]
