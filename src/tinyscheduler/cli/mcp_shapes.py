"""How are tasks, comments and links told to agents?  In the shapes of tinytask 2.0.

What only we know stands behind, under names that tinytask does not use.
"""

from __future__ import annotations

from tinyscheduler.model.shared_tasks import Status, Word
from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

    from tinyscheduler.model.shared_tasks import Comment, Link, SharedTask


def task_json(task: SharedTask, *, is_own: bool) -> dict[str, Any]:
    """Return one task; its ``is_own`` attempt sees what it said of it as if it was so already."""
    said = task.said if is_own else None
    status, agent, before = task.status, task.agent, task.previous_agent
    if said is Word.COMPLETE:
        status = Status.COMPLETE
    elif said is Word.MOVE:
        status, agent, before = Status.IDLE, task.moves_to, task.agent
    extra = {} if task.taken_by is None else {"taken_by": task.taken_by}
    if task.said is not None:
        extra["said"] = task.said.value
    return {
        "id": task.task_id,
        "title": task.title,
        "description": None if is_told_by_title(task) else task.prompt,
        "status": status.value,
        "assigned_to": agent,
        "previous_assigned_to": before,
        "created_by": task.created_by,
        "priority": task.priority,
        "tags": [_tag_of(key, value) for key, value in task.labels],
        "parent_task_id": task.parent_id,
        "queue_name": task.queue,
        "blocked_by_task_id": task.blocked_by,
        "created_at": _time(task.created_at),
        "updated_at": _time(task.updated_at),
        "archived_at": None if task.archived_at is None else _time(task.archived_at),
        "is_currently_blocked": task.is_blocked,
        "state": task.state.value,
        **extra,
    }


def is_told_by_title(task: SharedTask) -> bool:
    """Whether its prompt is its title, since that was all that somebody said."""
    return task.is_titled and task.prompt == task.title


def comment_json(comment: Comment) -> dict[str, Any]:
    """Return one comment."""
    return {
        "id": comment.comment_id,
        "task_id": comment.task_id,
        "content": comment.content,
        "created_by": comment.created_by,
        "created_at": _time(comment.created_at),
        "updated_at": _time(comment.updated_at),
    }


def link_json(link: Link) -> dict[str, Any]:
    """Return one link."""
    return {
        "id": link.link_id,
        "task_id": link.task_id,
        "url": link.url,
        "description": link.description,
        "created_by": link.created_by,
        "created_at": _time(link.created_at),
    }


def list_json(name: str, entries: Sequence[object]) -> dict[str, Any]:
    """Return several of something, and how many they are."""
    return {"count": len(entries), name: list(entries)}


def deleted_json(what: str, number: int) -> dict[str, Any]:
    """Return that something is gone."""
    return {"success": True, "message": f"{what} {number} deleted successfully", "id": number}


def labels_of(tags: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return tags as labels: ``K=V`` is one with a value.

    >>> labels_of(["urgent", "team=red", "urgent", "=x"])
    (('urgent', ''), ('team', 'red'), ('=x', ''))
    """
    found: dict[str, str] = {}
    for tag in tags:
        key, _, value = tag.partition("=")
        if key and value:
            found[key] = value
        else:
            found[tag] = ""
    return tuple(found.items())


def _tag_of(key: str, value: str) -> str:
    return f"{key}={value}" if value else key


def status_of(state: TaskState) -> Status:
    """Return how far a task is that neither has parts nor was taken."""
    if state is TaskState.DONE:
        return Status.COMPLETE
    return Status.WORKING if state is TaskState.WORKING else Status.IDLE


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
