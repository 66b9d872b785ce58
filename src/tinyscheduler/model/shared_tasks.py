"""What do agents know of a task beside what a tick needs to run it?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


class Status(StrEnum):
    """How far a task is, in the three words that agents know."""

    IDLE = "idle"  # nobody works on it, whatever is the matter
    WORKING = "working"  # an attempt does, or who took it, or either of them on a part of it
    COMPLETE = "complete"  # done, and nothing else


class Word(StrEnum):
    """What an attempt has said shall become of its task, once it has ended well."""

    COMPLETE = "complete"
    MOVE = "move"  # it waits again, for another agent


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTask:
    """One task as agents see it.

    ``title`` is what `TaskRecord` calls its summary where it ``is_titled`` by nobody.
    ``blocked_by`` is a task it comes after, an unfinished one if there is any, parts apart;
    ``is_blocked`` says whether any is unfinished.  ``taken_by`` works on it outside of attempts.
    ``said`` is the word of the attempt under way, which may move it to another agent.
    ``works_below`` where a part of it, however far below, is at work.
    """

    task_id: int
    state: TaskState
    title: str
    is_titled: bool
    prompt: str | None
    agent: str | None
    previous_agent: str | None
    created_by: str | None
    priority: int
    labels: tuple[tuple[str, str], ...]
    parent_id: int | None
    queue: str | None
    blocked_by: int | None
    is_blocked: bool
    taken_by: str | None
    taken_at: datetime | None
    lease_id: str | None
    attempt: int
    said: Word | None
    moves_to: str | None
    works_below: bool
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    @property
    def status(self) -> Status:
        """How far it is, for everybody but the attempt that works on it."""
        if self.state is TaskState.DONE:
            return Status.COMPLETE
        at_work = self.state is TaskState.WORKING or self.taken_by is not None
        return Status.WORKING if at_work or self.works_below else Status.IDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks are asked for; None means that any will do.

    ``is_top_level`` leaves out what is a part of another.
    """

    agent: str | None = None
    queue: str | None = None
    parent_id: int | None = None
    statuses: frozenset[Status] | None = None
    is_top_level: bool = False
    has_archived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """What somebody has written about a task."""

    comment_id: int
    task_id: int
    content: str
    created_by: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where something lies that belongs to a task."""

    link_id: int
    task_id: int
    url: str
    description: str | None
    created_by: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNumbers:
    """How many tasks of one queue stand how, and who they are for."""

    queue: str
    idle: int
    working: int
    complete: int
    assigned: int
    unassigned: int
    agents: tuple[str, ...]
