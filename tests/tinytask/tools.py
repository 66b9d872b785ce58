"""The MCP interface of the double: the same tasks by the names of tools, as JSON-RPC.

Answered over streamable HTTP as plain JSON, as the protocol allows, or over SSE.  A server of
version 1 has only the latter, no REST, and knows neither queues nor blockers nor subtasks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.tinytask.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[[str, str, dict[str, str], Any], tuple[int, Any]]

_TOOLS = ("create_task", "list_tasks", "get_task", "update_task", "add_comment", "add_link")
_ANYTHING = {"type": "object"}
_NEWER = (
    "parent_task_id",
    "queue_name",
    "blocked_by_task_id",
    "is_currently_blocked",
)


def reply_to(message: dict[str, Any], ask: Ask, *, is_old: bool) -> dict[str, Any] | None:
    """Return the answer to one message; None to what wants none."""
    if "id" not in message:
        return None
    method, asked = message["method"], message.get("params") or {}
    if method == "initialize":
        result: dict[str, Any] = {
            "protocolVersion": asked["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "tinytask", "version": "1.0.0" if is_old else "2.0.0"},
        }
    elif method == "tools/list":
        result = {"tools": [{"name": one, "inputSchema": _ANYTHING} for one in _TOOLS]}
    elif method == "tools/call":
        result = _call(asked["name"], asked.get("arguments") or {}, ask, is_old=is_old)
    else:
        error = {"code": -32601, "message": f"Method not found: {method}"}
        return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _call(tool: str, given: dict[str, Any], ask: Ask, *, is_old: bool) -> dict[str, Any]:
    try:
        document = _run(tool, dict(given), ask, is_old=is_old)
    except Refusal as refusal:
        text = f"Error: {refusal.error}"
        return {"content": [{"type": "text", "text": text}], "isError": True}
    text = json.dumps(document, indent=2)
    return {"content": [{"type": "text", "text": text}]}


def _run(tool: str, given: dict[str, Any], ask: Ask, *, is_old: bool) -> Any:
    if tool == "list_tasks":
        if is_old and (set(given) & set(_NEWER) or "," in str(given.get("status", ""))):
            raise Refusal(400, f"Invalid arguments for list_tasks: {given}")
        _, tasks = ask(
            "GET", "/api/v1/tasks", {key: _written(one) for key, one in given.items()}, None
        )
        tasks = [_old(one) for one in tasks] if is_old else tasks
        return {"count": len(tasks), "tasks": tasks}
    if tool == "create_task":
        return _old(ask("POST", "/api/v1/tasks", {}, given)[1])
    number = given.pop("id", None) or given.pop("task_id")
    method, path = {
        "get_task": ("GET", f"/api/v1/tasks/{number}"),
        "update_task": ("PATCH", f"/api/v1/tasks/{number}"),
        "add_comment": ("POST", f"/api/v1/tasks/{number}/comments"),
        "add_link": ("POST", f"/api/v1/tasks/{number}/links"),
    }[tool]
    _, document = ask(method, path, {}, given)
    return _old(document) if is_old and "title" in document else document


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _old(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task as version 1 tells it: what came later is not there, times have no zone."""
    told = {key: one for key, one in task.items() if key not in _NEWER}
    for key in ("created_at", "updated_at"):
        told[key] = told[key].replace("T", " ").removesuffix("Z")
    return told
