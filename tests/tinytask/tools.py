"""The MCP tools of the double: those of tinytask 2.0, or the fewer ones of 1.0, as each has them.

A tool says what the route of the same meaning says, as text: JSON, or words where the real ones
say words.  Arguments are checked as the real ones check them: 2.0 refuses what a tool of tasks
does not know, 1.0 overlooks it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tinytask.double import Double

NEWER_FIELDS = ("parent_task_id", "queue_name", "blocked_by_task_id", "is_currently_blocked")
_STATUSES = ("idle", "working", "complete")


class ToolError(Exception):
    """What is told with ``isError``."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool: the types of its arguments (with ``!`` if it must be there), and what it does."""

    takes: dict[str, str]
    does: Callable[[Double, dict[str, Any]], Any]
    failed: str
    is_strict: bool = True
    is_newer: bool = False


def names(*, is_old: bool) -> list[str]:
    return [name for name, tool in _TOOLS.items() if not (is_old and tool.is_newer)]


def use(double: Double, name: str, arguments: dict[str, Any], *, is_old: bool) -> tuple[str, bool]:
    """Use a tool; return its text, and whether that is the text of a failure."""
    from tests.tinytask.double import Refusal

    tool = _TOOLS.get(name)
    if tool is None or (is_old and tool.is_newer):
        return f"Unknown tool: {name}", True
    takes = {key: kind for key, kind in tool.takes.items() if not (is_old and key in NEWER_FIELDS)}
    if is_old and name == "create_task":
        takes["created_by"] = "text"
    known = {key: value for key, value in arguments.items() if key in takes}
    is_wrong = (not is_old and tool.is_strict and known != arguments) or any(
        not _fits(known.get(key), kind, is_there=key in known, is_old=is_old)
        for key, kind in takes.items()
    )
    if is_wrong:
        return f"Error calling tool {name}: [", True
    try:
        told = tool.does(double, known)
    except (ToolError, Refusal) as error:
        words = error.error if isinstance(error, Refusal) else str(error)
        return (words if isinstance(error, ToolError) else f"{tool.failed}: {words}"), True
    return told if isinstance(told, str) else json.dumps(told, indent=2), False


def _fits(value: Any, kind: str, *, is_there: bool, is_old: bool) -> bool:
    if not is_there:
        return not kind.endswith("!")
    match kind.removesuffix("!"):
        case "text":
            return isinstance(value, str)
        case "number":
            return type(value) is int
        case "number or null":
            return value is None or type(value) is int
        case "status":
            return value in _STATUSES
        case "statuses" if isinstance(value, list) and not is_old:
            return all(one in _STATUSES for one in value)
        case "statuses":
            return value in _STATUSES
        case "texts":
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case _:
            return isinstance(value, bool)


def _create(double: Double, fields: dict[str, Any]) -> Any:
    return double.ask("POST", "/api/v1/tasks", fields)


def _update(double: Double, fields: dict[str, Any]) -> Any:
    return double.ask("PATCH", f"/api/v1/tasks/{fields.pop('id')}", fields)


def _get(double: Double, fields: dict[str, Any]) -> Any:
    from tests.tinytask.double import Refusal

    try:
        return double.task(fields["id"])
    except Refusal as error:
        message = f"Task not found: {fields['id']}"
        raise ToolError(message) from error


def _archive(double: Double, fields: dict[str, Any]) -> Any:
    return double.ask("POST", f"/api/v1/tasks/{fields['id']}/archive")


def _list(double: Double, fields: dict[str, Any]) -> Any:
    query = {
        key: ",".join(value)
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for key, value in fields.items()
    }
    tasks = double.answer("GET", "/api/v1/tasks", query, None)[1]
    return {"count": len(tasks), "tasks": tasks}


def _queue_of(double: Double, fields: dict[str, Any]) -> Any:
    agent = fields["agent_name"]
    tasks = double.answer("GET", f"/api/v1/agents/{agent}/queue", {}, None)[1]
    return {"agent": agent, "count": len(tasks), "tasks": tasks}


def _sign_up(double: Double, fields: dict[str, Any]) -> Any:
    from tests.tinytask.double import Refusal

    agent = fields["agent_name"]
    try:
        task = double.ask("POST", f"/api/v1/agents/{agent}/signup")
    except Refusal:
        return f"No idle tasks available in queue for agent: {agent}"
    words = f"Task #{task['id']} claimed and set to working status"
    return f"{words}\n\n{json.dumps(task, indent=2)}"


def _add(part: str) -> Callable[[Double, dict[str, Any]], Any]:
    def add(double: Double, fields: dict[str, Any]) -> Any:
        return double.ask("POST", f"/api/v1/tasks/{fields.pop('task_id')}/{part}", fields)

    return add


_TOOLS = {
    "create_task": Tool(
        takes={
            "title": "text!",
            "description": "text",
            "assigned_to": "text",
            "created_by": "text!",
            "priority": "number",
            "tags": "texts",
            "parent_task_id": "number",
            "queue_name": "text",
            "blocked_by_task_id": "number",
        },
        does=_create,
        failed="Error creating task",
    ),
    "update_task": Tool(
        takes={
            "id": "number!",
            "title": "text",
            "description": "text",
            "status": "status",
            "assigned_to": "text",
            "priority": "number",
            "tags": "texts",
            "parent_task_id": "number",
            "queue_name": "text",
            "blocked_by_task_id": "number or null",
        },
        does=_update,
        failed="Error updating task",
    ),
    "get_task": Tool(takes={"id": "number!"}, does=_get, failed="Error retrieving task"),
    "archive_task": Tool(takes={"id": "number!"}, does=_archive, failed="Error archiving task"),
    "list_tasks": Tool(
        takes={
            "assigned_to": "text",
            "status": "statuses",
            "exclude_status": "statuses",
            "include_archived": "switch",
            "limit": "number",
            "offset": "number",
            "queue_name": "text",
            "parent_task_id": "number",
            "exclude_subtasks": "switch",
        },
        does=_list,
        failed="Error listing tasks",
    ),
    "get_my_queue": Tool(
        takes={"agent_name": "text!"}, does=_queue_of, failed="Error retrieving queue"
    ),
    "signup_for_task": Tool(
        takes={"agent_name": "text!"}, does=_sign_up, failed="Error signing up for task"
    ),
    "add_comment": Tool(
        takes={"task_id": "number!", "content": "text!", "created_by": "text"},
        does=_add("comments"),
        failed="Error adding comment",
        is_strict=False,
    ),
    "add_link": Tool(
        takes={
            "task_id": "number!",
            "url": "text!",
            "description": "text",
            "created_by": "text",
        },
        does=_add("links"),
        failed="Error adding link",
        is_strict=False,
    ),
    "list_queues": Tool(
        takes={},
        does=lambda double, _: {"queues": double.ask("GET", "/api/v1/queues")},
        failed="Error listing queues",
        is_newer=True,
    ),
}
