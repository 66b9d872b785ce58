"""What do agents say of a task?  In lines and as JSON, for people's commands."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.batch import row_id
from tinyscheduler.adapters.sqlite.remarks import Remarks
from tinyscheduler.adapters.sqlite.shared_tasks import Caller
from tinyscheduler.app.queue import shared_tasks
from tinyscheduler.cli.mcp_shapes import comment_json, link_json
from tinyscheduler.cli.render import Page, escape, format_when, wrap
from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.shared_tasks import Comment, Link, SharedTask

_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """A task as agents see it, its direct parts, and what was written about it."""

    task: SharedTask
    parts: Sequence[SharedTask]
    comments: Sequence[Comment]
    links: Sequence[Link]

    def facts(self, now: datetime) -> list[tuple[str, str]]:
        """Return what fits into a line each; empty ones say nothing."""
        task = self.task
        taken = f"{task.taken_by}, {format_when(task.taken_at, now=now)}" if task.taken_by else ""
        parts = " ".join(f"{one.task_id} ({one.state})" for one in self.parts[:_MOST_SHOWN])
        hidden = len(self.parts) - _MOST_SHOWN
        return [
            ("asked for by", task.created_by or ""),
            ("taken by", taken),
            ("said", "" if task.said is None else _SAID[task.said].format(task.moves_to)),
            ("part of", "" if task.parent_id is None else str(task.parent_id)),
            ("parts", f"{parts} … and {hidden} more" if hidden > 0 else parts),
            *(("link", f"{one.url}  {one.description or ''}".strip()) for one in self.links),
        ]

    def comment_lines(self, now: datetime, page: Page) -> list[str]:
        """Return the last comments, each with who wrote it and when."""
        lines = ["", "comments:"] if self.comments else []
        hidden = len(self.comments) - _MOST_SHOWN
        if hidden > 0:
            lines.append(f"  … {hidden} earlier ones; --json has them all")
        for one in self.comments[-_MOST_SHOWN:]:
            head = f"{one.created_by or 'somebody'}, {format_when(one.created_at, now=now)}:"
            for line in (head, *(f"  {text}" for text in one.content.splitlines())):
                lines += wrap(f"  {escape(line)}", page)
        return lines

    def json(self) -> dict[str, Any]:
        """Return the same as a document."""
        task = self.task
        return {
            "created_by": task.created_by,
            "taken_by": task.taken_by,
            "taken_at": time_or_none(task.taken_at),
            "said": None if task.said is None else task.said.value,
            "parent": None if task.parent_id is None else str(task.parent_id),
            "parts": [str(one.task_id) for one in self.parts],
            "comments": [comment_json(one) for one in self.comments],
            "links": [link_json(one) for one in self.links],
        }


_SAID = {
    "complete": "complete; the end of the attempt decides",
    "move": "move it to {}, at its end",
}


def find_sharing(queue: Queue, task_id: str) -> Sharing | None:
    """Look what agents say of a task; None where it is not there, or of another source."""
    row = row_id(task_id)
    shared = shared_tasks(queue, Caller(name=""))
    remarks = Remarks(queue.database, queue.clock)
    task = None if row is None else shared.task(row)
    if row is None or task is None:
        return None
    below = shared.parts(row, has_archived=False)
    return Sharing(
        task=task,
        parts=[one for one in below if one.parent_id == row],
        comments=remarks.comments(row),
        links=remarks.links(row),
    )
