"""What does a queue tell about a task, and how does it answer a wish to cancel?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.tasks import FailureReason, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """Where one task stands.  What it asks for is its `TaskSpec`, asked for apart.

    ``summary`` is the title, or else the command, the prompt, the recipe or the name of the
    agent, in one short line.
    ``attempt`` is the number of the attempt under way, else of the next one, whether or
    not there will be one.  ``lease_id`` and ``claimed_by`` (an agent) are set while the
    task is ``working``.  ``failure_reason`` is that of the last attempt that failed.
    ``blocked_by`` names the unfinished tasks it waits for, a bounded number of them, and
    ``blockers_left`` counts them all.
    """

    task_id: str
    source: str
    state: TaskState
    summary: str
    agent: str | None
    queue: str | None
    priority: int
    lease_id: str | None
    claimed_by: str | None
    attempt: int
    failures: int
    launches: int
    max_attempts: int | None
    failure_reason: FailureReason | None
    cancel_requested: bool
    blocks: int
    blockers_left: int
    blocked_by: tuple[str, ...]
    not_before: datetime | None
    backing_off_until: datetime | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingLine:
    """How many tasks of one agent or queue wait, and how many are held."""

    agent: str | None
    queue: str | None
    waiting: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The task ran nowhere and is cancelled now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """The task is under way: its attempt is still to be ended, by this lease."""

    lease_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyEnded:
    """Nothing was changed: the task had ended before, like this."""

    state: TaskState


CancelAnswer = Cancelled | CancelRequested | AlreadyEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredSchedule:
    """A schedule that is due and makes way: how often in a row, and until when now."""

    schedule_id: str
    times: int
    until: datetime | None
