"""What is kept here of a task whose source is elsewhere?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.tasks import FailureReason, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTask:
    """A task as its source told of it last.

    ``number`` is what the source itself calls it.  ``blocks`` counts the unfinished tasks that
    wait for it, of those that were seen with it; ``blocked_by`` are the ones it waits for.
    """

    number: int
    agent: str | None
    queue: str | None
    summary: str
    priority: int
    blocks: int
    blocked_by: tuple[int, ...]
    impediment: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """Where such a task stands here: what its source has no place for.

    The fields are those of `model.records.TaskRecord`.  ``lost_since`` is when it was first seen
    at work at its source while nobody was here; ``doubtful_for`` the agent of a claim that
    failed halfway, so that the source may or may not have noted it.
    """

    seen: SeenTask
    state: TaskState
    lease_id: str | None = None
    claimed_by: str | None = None
    attempt: int = 1
    failures: int = 0
    launches: int = 0
    backing_off_until: datetime | None = None
    cancel_requested: bool = False
    failure_reason: FailureReason | None = None
    lost_since: datetime | None = None
    doubtful_for: str | None = None
    ended_at: datetime | None = None

    @property
    def has_past(self) -> bool:
        """Whether there is more to it than that it was seen."""
        return self.attempt > 1 or bool(self.failures or self.launches)
