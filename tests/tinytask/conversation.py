"""What is asked of a tinytask server, and what it says: the same of the double and the real one."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tinyscheduler.adapters.tinytask.mcp_session import McpSession

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# As servers before 2.0 tell it.
_OLD_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def ask(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask, and return status and document, with all times made alike."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = Request(url + path, data=data, method=method, headers=headers)  # noqa: S310 - loopback
    try:
        with urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
            status, content = response.status, response.read()
    except HTTPError as error:
        with error:
            status, content = error.code, error.read()
    return status, json.loads(_TIME.sub("TIME", content.decode()))


def a_task(title: str, **more: Any) -> tuple[str, str, Any]:
    return ("POST", "/api/v1/tasks", {"title": title, "created_by": "me", **more})


def change(number: int, **fields: Any) -> tuple[str, str, Any]:
    return ("PATCH", f"/api/v1/tasks/{number}", fields)


def look(number: int) -> tuple[str, str]:
    return ("GET", f"/api/v1/tasks/{number}")


# Numbers are those that an empty server gives: 1, 2, 3 …
QUESTIONS: tuple[tuple[Any, ...], ...] = (
    ("GET", "/api/v1/tasks"),
    a_task("one", description="d", assigned_to="coder", priority=5, tags=["x", "y"]),
    a_task("two", queue_name="dev"),
    a_task("three", assigned_to="coder", blocked_by_task_id=1),
    a_task("four", parent_task_id=2),
    ("POST", "/api/v1/tasks/2/subtasks", {"title": "five", "created_by": "me"}),
    ("POST", "/api/v1/tasks", {"title": "nobody's"}),
    ("POST", "/api/v1/tasks", {"created_by": "me"}),
    a_task("six", priority=1.5),
    a_task("six", status="odd"),
    a_task("six", blocked_by_task_id=99),
    ("POST", "/api/v1/tasks/99/subtasks", {"title": "x", "created_by": "me"}),
    ("GET", "/api/v1/tasks?status=idle,working&limit=3"),
    ("GET", "/api/v1/tasks?status=idle&limit=0"),
    ("GET", "/api/v1/tasks?limit=2&offset=2"),
    ("GET", "/api/v1/tasks?assigned_to=coder&status=idle"),
    ("GET", "/api/v1/tasks?queue_name=dev"),
    ("GET", "/api/v1/tasks?parent_task_id=2&status=idle,working&limit=1"),
    ("GET", "/api/v1/tasks?parent_task_id=null"),
    ("GET", "/api/v1/tasks?exclude_subtasks=true"),
    ("GET", "/api/v1/tasks?status=odd"),
    ("GET", "/api/v1/tasks?limit=-1"),
    look(1),
    look(99),
    change(99, status="idle"),
    change(1, status="odd"),
    # No compare-and-set: working is written over working.
    change(1, status="working"),
    change(1, status="working"),
    change(1, status="complete"),
    look(3),
    change(1, status="idle"),
    look(3),
    # Archived and not complete, a blocker blocks for ever; deleted, it does not.
    ("POST", "/api/v1/tasks/1/archive"),
    look(3),
    ("GET", "/api/v1/tasks?status=idle,working"),
    ("GET", "/api/v1/tasks?include_archived=true&assigned_to=coder"),
    ("DELETE", "/api/v1/tasks/1"),
    look(3),
    ("DELETE", "/api/v1/tasks/1"),
    # Parents follow their children.
    change(4, status="working"),
    look(2),
    change(4, status="complete"),
    look(2),
    change(5, status="complete"),
    look(2),
    change(2, status="idle"),
    look(2),
    ("GET", "/api/v1/tasks/2/subtasks"),
    # Unassigning, and what was before.
    change(3, assigned_to="bob"),
    change(3, assigned_to=None),
    change(3, assigned_to="coder"),
    change(3, assigned_to=""),
    change(3, assigned_to="coder", priority=-2, queue_name="ops", tags=[]),
    change(3, blocked_by_task_id=3),
    change(3, blocked_by_task_id=2),
    change(2, blocked_by_task_id=3),
    change(3, blocked_by_task_id=None),
    # Signing up takes the first, and the blocked ones, too.
    change(3, blocked_by_task_id=2),
    ("POST", "/api/v1/agents/coder/signup"),
    ("POST", "/api/v1/agents/coder/signup"),
    ("GET", "/api/v1/agents/coder/queue"),
    (
        "POST",
        "/api/v1/tasks/3/transfer",
        {"current_agent": "eve", "new_agent": "bob", "comment": "yours"},
    ),
    (
        "POST",
        "/api/v1/tasks/3/transfer",
        {"current_agent": "coder", "new_agent": "bob", "comment": " yours "},
    ),
    ("POST", "/api/v1/tasks/3/comments", {"content": "a\nb", "created_by": "me"}),
    ("POST", "/api/v1/tasks/3/comments", {"content": 7}),
    ("POST", "/api/v1/tasks/3/comments", {"content": " "}),
    ("POST", "/api/v1/tasks/99/comments", {"content": "x", "created_by": "me"}),
    ("GET", "/api/v1/tasks/3/comments"),
    (
        "POST",
        "/api/v1/tasks/3/links",
        {"url": "file:///x%20y.log", "description": "log", "created_by": "me"},
    ),
    ("POST", "/api/v1/tasks/3/links", {"description": "none"}),
    ("GET", "/api/v1/tasks/3/links"),
    look(3),
    ("GET", "/api/v1/queues"),
    ("GET", "/api/v1/queues/dev/stats"),
    ("GET", "/api/v1/queues/nowhere/stats"),
    ("GET", "/api/v1/queues/dev/tasks?status=idle"),
)


def use(tool: str, **arguments: Any) -> tuple[str, Any]:
    return (tool, arguments)


USES: tuple[tuple[str, Any], ...] = (
    use("list_tasks"),
    use("create_task", title="one", created_by="me", assigned_to="coder", priority=5, tags=["x"]),
    use("create_task", title="two", created_by="me", description="d"),
    use("create_task", title="anonymous"),
    use("create_task", title=" ", created_by="me"),
    use("list_tasks", status="idle", limit=1),
    use("list_tasks", status="idle", limit=1, offset=1),
    use("list_tasks", status=["idle", "working"]),
    use("list_tasks", status="odd"),
    use("list_tasks", assigned_to="coder"),
    use("list_tasks", queue_name="dev"),
    use("list_tasks", something="else", limit=1),
    use("get_task", id=1),
    use("get_task", id=99),
    use("get_task"),
    use("update_task", id=99, status="idle"),
    use("update_task", id=1, status="working"),
    use("update_task", id=1, status="working"),
    use("update_task", id=1, status="odd"),
    use("update_task", id=2, assigned_to="bob"),
    use("update_task", id=2, assigned_to=None),
    use("update_task", id=2, assigned_to=""),
    use("add_comment", task_id=2, content=" said ", created_by="me"),
    use("add_comment", task_id=2, content=" "),
    use("add_comment", task_id=99, content="x"),
    use("add_link", task_id=2, url="file:///x%20y.log", description="log", created_by="me"),
    use("add_link", task_id=2),
    use("get_task", id=2),
    use("update_task", id=1, status="idle"),
    use("signup_for_task", agent_name="coder"),
    use("signup_for_task", agent_name="coder"),
    use("get_my_queue", agent_name="coder"),
    use("archive_task", id=1),
    use("list_tasks", status="working"),
    use("no_such_tool"),
)


def converse_over_mcp(url: str) -> Iterator[dict[str, Any]]:
    """Use each tool of an empty server, and yield what was asked and said.

    Of arguments that are refused only that is compared: how it is said is the parser's business.
    """
    session = McpSession(url + "/mcp", limit_s=10)
    try:
        for tool, arguments in USES:
            text, is_error = session.call(tool, arguments, limit_s=10)
            text = _OLD_TIME.sub("OLD TIME", _TIME.sub("TIME", text))
            if text.startswith("Error calling tool"):
                text = text.partition("[")[0]
            said = json.loads(text) if text.startswith("{") else text
            yield {"asked": [tool, arguments], "is_error": is_error, "said": said}
    finally:
        session.close()


def converse(url: str) -> Iterator[dict[str, Any]]:
    """Ask an empty server everything, and yield questions and answers."""
    for method, path, *body in QUESTIONS:
        status, document = ask(url, method, path, *body)
        yield {"asked": [method, path, *body], "status": status, "said": document}


def sign_up_at_once(url: str, *, tasks: int, agents: int) -> tuple[int, int]:
    """Have many sign up for few tasks at once; return how many got one, and how many tasks."""
    for number in range(tasks):
        ask(url, *a_task(f"contested {number}", assigned_to="crowd"))
    answers: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(ask(url, "POST", "/api/v1/agents/crowd/signup"))
        )
        for _ in range(agents)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [document["id"] for status, document in answers if status == 200]
    return len(got), len(set(got))
