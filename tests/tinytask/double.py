"""A tinytask server small enough to live in a test: real HTTP, the same REST and MCP semantics.

No compare-and-set on PATCH, atomic signup, transfer as compare-and-set on the owner, blockers that
block for ever once archived, parents that follow their children.  `test_conversation.py` holds
it against what the real server said.  Beside that it can be told to misbehave.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.tinytask import tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUSES = ("idle", "working", "complete")
_SCHEMA = """
PRAGMA foreign_keys = ON;
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, description TEXT,
    status TEXT NOT NULL, assigned_to TEXT, previous_assigned_to TEXT, created_by TEXT,
    priority INTEGER DEFAULT 0, tags TEXT,
    parent_task_id INTEGER REFERENCES tasks (id) ON DELETE CASCADE,
    queue_name TEXT,
    blocked_by_task_id INTEGER REFERENCES tasks (id) ON DELETE SET NULL,
    created_at TEXT, updated_at TEXT, archived_at TEXT);
CREATE INDEX by_assigned ON tasks (assigned_to, status);
CREATE INDEX by_status ON tasks (status);
CREATE INDEX by_parent ON tasks (parent_task_id);
CREATE INDEX by_queue ON tasks (queue_name, status);
CREATE TABLE comments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    content TEXT NOT NULL, created_by TEXT, created_at TEXT, updated_at TEXT);
CREATE TABLE links (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    url TEXT NOT NULL, description TEXT, created_by TEXT, created_at TEXT);
"""


class Fault(Enum):
    """How one answer is spoilt."""

    CUT_AT_CONNECT = auto()  # before anything of the question is read
    CUT_IN_HEADERS = auto()  # before anything is done
    CUT_IN_BODY = auto()  # it was done, and half of the answer arrives
    CUT_AFTER_WRITE = auto()  # it was done, and nothing of the answer arrives
    SERVER_ERROR = auto()
    REDIRECT = auto()
    NOT_JSON = auto()
    WRONG_TYPES = auto()
    HUGE = auto()
    DRIP = auto()
    SILENT = auto()


@dataclass
class Misbehaviour:
    """A fault of the next ``times`` questions that fit, after ``spared`` that do not have it."""

    fault: Fault
    method: str = ""
    path: str = ""
    times: int = 1_000_000
    spared: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        if self.spared > 0:
            self.spared -= 1
            return False
        self.times -= 1
        return self.times >= 0


class Speaks(Enum):
    """What a server is, and which of its interfaces it has."""

    REST = auto()  # 2.0 as it comes, with MCP over streamable HTTP beside it
    SSE = auto()  # 2.0 with the older MCP transport
    OLD = auto()  # 1.0: MCP over SSE and nothing else, neither queues, blockers nor subtasks


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


def _wall() -> datetime:
    return datetime.now(tz=UTC)


@dataclass
class Double:
    """The server: its tasks, and the thread that answers."""

    now: Callable[[], datetime] = _wall
    speaks: Speaks = Speaks.REST
    asked: list[tuple[str, str]] = field(default_factory=list)
    misbehaviours: list[Misbehaviour] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.executescript(_SCHEMA)
        self._server: _Server | None = None
        self._port = 0
        self.streams: list[SimpleQueue[bytes | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Double:
        """Listen, at the port of before if there was one."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.double = self
        self._port = self._server.server_address[1]
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on; tasks stay, as in a file."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()
            for stream in self.streams:
                stream.put(None)
            self.streams.clear()

    @contextmanager
    def running(self) -> Iterator[Double]:
        self.start()
        try:
            yield self
        finally:
            self.stop()
            self._database.close()

    def misbehave(self, fault: Fault, method: str = "", path: str = "", **more: int) -> None:
        self.misbehaviours.append(Misbehaviour(fault, method, path, **more))

    def behave(self) -> None:
        self.misbehaviours.clear()

    # -- for tests: as if somebody asked ------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask it from within, without HTTP; Refusal for anything but success."""
        parts = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return self.answer(method, parts.path, query, body)[1]

    def add(self, title: str = "a task", **fields: Any) -> int:
        body = {"title": title, "created_by": "a person", **fields}
        return int(self.ask("POST", "/api/v1/tasks", body)["id"])

    def task(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/api/v1/tasks/{number}")
        return found

    def change(self, number: int, **fields: Any) -> None:
        self.ask("PATCH", f"/api/v1/tasks/{number}", fields)

    def comments(self, number: int) -> list[str]:
        return [one["content"] for one in self.task(number)["comments"]]

    # -- answering ----------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Do what is asked and return status and document; Refusal carries those of a failure."""
        with self.lock:
            for one_method, pattern, does in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and one_method == method:
                    arguments = [unquote(one) for one in match.groups()]
                    self._database.execute("BEGIN")
                    try:
                        told = does(self, query, body, *arguments)
                    except BaseException:
                        self._database.execute("ROLLBACK")
                        raise
                    self._database.execute("COMMIT")
                    return (201 if does in _CREATING else 200), told
        raise Refusal(404, f"Cannot {method} {path}")

    def _sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self._database.execute(statement, values).fetchall()]

    def told_over_mcp(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Answer one message of the protocol; a notification has no answer."""
        is_old = self.speaks is Speaks.OLD
        asked = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                told: dict[str, Any] = {
                    "protocolVersion": "2024-11-05" if is_old else "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "tinytask-mcp", "version": "1.0.0"},
                }
            case "ping":
                told = {}
            case "tools/list":
                found = tools.names(is_old=is_old)
                schema = {"type": "object"}
                told = {"tools": [{"name": name, "inputSchema": schema} for name in found]}
            case "tools/call":
                arguments = asked.get("arguments") or {}
                text, is_error = tools.use(self, asked["name"], arguments, is_old=is_old)
                told = {"content": [{"type": "text", "text": text}]}
                if is_error:
                    told["isError"] = True
            case _:
                return None
        return {"jsonrpc": "2.0", "id": message["id"], "result": told}

    def _stamp(self) -> str:
        if self.speaks is Speaks.OLD:
            return f"{self.now():%Y-%m-%d %H:%M:%S}"
        return f"{self.now():%Y-%m-%dT%H:%M:%SZ}"

    def _row(self, number: int) -> dict[str, Any] | None:
        rows = self._sql("SELECT * FROM tasks WHERE id = ?", number)
        return rows[0] if rows else None

    def _told(self, row: dict[str, Any]) -> dict[str, Any]:
        blocker = self._row(row["blocked_by_task_id"]) if row["blocked_by_task_id"] else None
        if self.speaks is Speaks.OLD:
            row = {name: value for name, value in row.items() if name not in tools.NEWER_FIELDS}
            return {**row, "tags": json.loads(row["tags"]) if row["tags"] else []}
        return {
            **row,
            "tags": json.loads(row["tags"]) if row["tags"] else [],
            "is_currently_blocked": blocker is not None and blocker["status"] != "complete",
        }

    def _list(self, query: dict[str, str], _body: Any = None) -> list[dict[str, Any]]:
        where: list[str] = []
        values: list[object] = []
        for name in ("assigned_to", "queue_name"):
            if name in query:
                where.append(f"{name} = ?")
                values.append(query[name])
        for name, word in (("status", "IN"), ("exclude_status", "NOT IN")):
            if name in query:
                parts = _statuses_in(query[name])
                where.append(f"status {word} ({', '.join('?' * len(parts))})")
                values += parts
        if query.get("parent_task_id") == "null" or query.get("exclude_subtasks") == "true":
            where.append("parent_task_id IS NULL")
        elif "parent_task_id" in query:
            if not query["parent_task_id"].isdigit():
                raise Refusal(400, "parent_task_id must be an integer or null")
            where.append("parent_task_id = ?")
            values.append(query["parent_task_id"])
        if query.get("include_archived") != "true":
            where.append("archived_at IS NULL")
        limit, offset = (_bound_in(query, name) for name in ("limit", "offset"))
        statement = f"SELECT * FROM tasks WHERE {' AND '.join([*where, 'TRUE'])}"  # noqa: S608 - names of ours
        statement += " ORDER BY priority DESC, created_at ASC LIMIT ? OFFSET ?"
        return [self._told(row) for row in self._sql(statement, *values, limit or -1, offset)]

    def _create(self, _query: Any, body: Any, parent: str | None = None) -> dict[str, Any]:
        _check_fields(body, is_new=True, is_signed=self.speaks is not Speaks.OLD)
        above = parent if parent is not None else body.get("parent_task_id")
        queue = body.get("queue_name")
        if above is not None:
            row = self._row(int(above))
            if row is None:
                raise Refusal(404 if parent else 400, f"Parent task not found: {above}")
            queue = queue if "queue_name" in body else row["queue_name"]
        blocker = body.get("blocked_by_task_id") if parent is None else None
        if blocker is not None and self._row(blocker) is None:
            raise Refusal(400, f"Blocking task not found: {blocker}")
        number = self._insert(
            "tasks",
            title=body["title"].strip(),
            description=body.get("description") or None,
            status="idle",
            assigned_to=body.get("assigned_to") or None,
            created_by=body.get("created_by"),
            priority=body.get("priority", 0),
            tags=json.dumps(body["tags"]) if body.get("tags") else None,
            parent_task_id=above,
            queue_name=queue,
            blocked_by_task_id=blocker,
            created_at=self._stamp(),
            updated_at=self._stamp(),
        )
        row = self._row(number)
        assert row is not None
        if above is not None:
            self._follow(int(above))
        return self._told(row)

    def _create_subtask(self, query: Any, body: Any, parent: str) -> dict[str, Any]:
        return self._create(query, body, parent)

    def _insert(self, table: str, **columns: Any) -> int:
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        cursor = self._database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608 - names of ours
            list(columns.values()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _get(self, _query: Any, _body: Any, number: str) -> dict[str, Any]:
        row = self._row(int(number))
        if row is None:
            raise Refusal(404, f"Task {number} not found")
        return {
            **self._told(row),
            "comments": self._comments(None, None, number),
            "links": self._links(None, None, number),
        }

    def _update(self, _query: Any, body: Any, number: str) -> dict[str, Any]:
        _check_fields(body, is_new=False)
        row = self._row(int(number))
        if row is None:
            raise Refusal(404, f"Task not found: {number}")
        self._check_blocker(int(number), body.get("blocked_by_task_id"))
        changes = {
            name: body[name]
            for name in ("title", "status", "priority", "queue_name", "blocked_by_task_id")
            if name in body
        }
        if "description" in body:
            changes["description"] = body["description"] or None
        if "tags" in body:
            changes["tags"] = json.dumps(body["tags"])
        if "assigned_to" in body:
            changes["assigned_to"] = body["assigned_to"] or None
            if changes["assigned_to"] != row["assigned_to"]:
                changes["previous_assigned_to"] = row["assigned_to"]
        if changes:
            self._set(int(number), **changes)
        if "status" in body and row["parent_task_id"] is not None:
            self._follow(row["parent_task_id"])
        row = self._row(int(number))
        assert row is not None
        return self._told(row)

    def _check_blocker(self, number: int, blocker: int | None) -> None:
        if blocker is None:
            return
        other = self._row(blocker)
        if blocker == number:
            raise Refusal(400, "Task cannot be blocked by itself")
        if other is None:
            raise Refusal(404, f"Blocking task not found: {blocker}")
        if other["blocked_by_task_id"] == number:
            raise Refusal(400, "Cannot create circular blocking relationship")

    def _set(self, number: int, **changes: Any) -> None:
        columns = {**changes, "updated_at": self._stamp()}
        settings = ", ".join(f"{name} = ?" for name in columns)
        self._sql(f"UPDATE tasks SET {settings} WHERE id = ?", *columns.values(), number)  # noqa: S608 - names of ours

    def _follow(self, parent: int) -> None:
        """Give a parent the status of its children, and its own parent that one's."""
        children = self._sql(
            "SELECT status FROM tasks WHERE parent_task_id = ? AND archived_at IS NULL", parent
        )
        row = self._row(parent)
        if not children or row is None:
            return
        statuses = {child["status"] for child in children}
        status = (
            "complete"
            if statuses == {"complete"}
            else "working"
            if "working" in statuses
            else "idle"
        )
        if row["status"] != status:
            self._set(parent, status=status)
            if row["parent_task_id"] is not None:
                self._follow(row["parent_task_id"])

    def _delete(self, _query: Any, _body: Any, number: str) -> dict[str, Any]:
        row = self._row(int(number))
        if row is None:
            raise Refusal(404, f"Task not found: {number}")
        self._sql("DELETE FROM tasks WHERE id = ?", int(number))
        if row["parent_task_id"] is not None:
            self._follow(row["parent_task_id"])
        return {"success": True, "id": int(number)}

    def _archive(self, _query: Any, _body: Any, number: str) -> dict[str, Any]:
        row = self._row(int(number))
        if row is None:
            raise Refusal(404, f"Task not found: {number}")
        self._sql("UPDATE tasks SET archived_at = ? WHERE id = ?", self._stamp(), int(number))
        if row["parent_task_id"] is not None:
            self._follow(row["parent_task_id"])
        row = self._row(int(number))
        assert row is not None
        return self._told(row)

    def _subtasks(self, query: dict[str, str], _body: Any, number: str) -> list[dict[str, Any]]:
        more = {"include_archived": query.get("include_archived", "false")}
        return self._list({"parent_task_id": number, **more})

    def _queue_of(self, _query: Any, _body: Any, agent: str) -> list[dict[str, Any]]:
        return self._list({"assigned_to": agent, "status": "idle,working"})

    def _sign_up(self, _query: Any, _body: Any, agent: str) -> dict[str, Any]:
        found = self._list({"assigned_to": agent, "status": "idle", "limit": "1"})
        if not found:
            raise Refusal(404, "No idle tasks available for signup")
        number = found[0]["id"]
        self._set(number, status="working")
        parent = found[0].get("parent_task_id")
        if parent is not None:
            self._follow(parent)
        return self._get(None, None, str(number))

    def _transfer(self, _query: Any, body: Any, number: str) -> dict[str, Any]:
        row = self._row(int(number))
        if row is None:
            raise Refusal(404, f"Task not found: {number}")
        current, owner = body["current_agent"], row["assigned_to"]
        if owner != current:
            words = f"is not assigned to {current} (currently assigned to: {owner or 'no one'})"
            raise Refusal(400, f"Task {number} {words}")
        if row["status"] == "complete":
            words = "cannot be transferred (only 'idle' or 'working' are allowed)"
            raise Refusal(400, f"Task {number} with status '{row['status']}' {words}")
        self._set(
            int(number),
            assigned_to=body["new_agent"],
            previous_assigned_to=current,
            status="idle",
        )
        if row["parent_task_id"] is not None:
            self._follow(row["parent_task_id"])
        comment = self._add_comment(
            None, {"content": body["comment"].strip(), "created_by": current}, number
        )
        row = self._row(int(number))
        assert row is not None
        return {"task": self._told(row), "comment": comment}

    def _queues(self, _query: Any, _body: Any) -> list[str]:
        rows = self._sql(
            "SELECT DISTINCT queue_name FROM tasks"
            " WHERE queue_name IS NOT NULL AND archived_at IS NULL ORDER BY queue_name"
        )
        return [row["queue_name"] for row in rows]

    def _queue_stats(self, _query: Any, _body: Any, name: str) -> dict[str, Any]:
        rows = self._sql("SELECT * FROM tasks WHERE queue_name = ? AND archived_at IS NULL", name)
        return {
            "queue_name": name,
            "total_tasks": len(rows),
            "by_status": {one: sum(row["status"] == one for row in rows) for one in STATUSES},
            "assigned": sum(row["assigned_to"] is not None for row in rows),
            "unassigned": sum(row["assigned_to"] is None for row in rows),
            "agents": sorted({row["assigned_to"] for row in rows if row["assigned_to"]}),
        }

    def _queue_tasks(self, query: dict[str, str], _body: Any, name: str) -> list[dict[str, Any]]:
        return self._list({**query, "queue_name": name})

    def _add_comment(self, _query: Any, body: Any, number: str) -> dict[str, Any]:
        if not isinstance(body.get("content"), str):
            raise Refusal(400, "content is required and must be a string")
        if not body["content"].strip():
            raise Refusal(400, "Comment content is required")
        if self._row(int(number)) is None:
            raise Refusal(404, f"Task not found: {number}")
        one = self._insert(
            "comments",
            task_id=int(number),
            content=body["content"].strip(),
            created_by=body.get("created_by") or None,
            created_at=self._stamp(),
            updated_at=self._stamp(),
        )
        return self._sql("SELECT * FROM comments WHERE id = ?", one)[0]

    def _comments(self, _query: Any, _body: Any, number: str) -> list[dict[str, Any]]:
        return self._sql(
            "SELECT * FROM comments WHERE task_id = ? ORDER BY created_at", int(number)
        )

    def _add_link(self, _query: Any, body: Any, number: str) -> dict[str, Any]:
        if not isinstance(body.get("url"), str):
            raise Refusal(400, "url is required and must be a string")
        if self._row(int(number)) is None:
            raise Refusal(404, f"Task not found: {number}")
        one = self._insert(
            "links",
            task_id=int(number),
            url=body["url"].strip(),
            description=body.get("description") or None,
            created_by=body.get("created_by") or None,
            created_at=self._stamp(),
        )
        return self._sql("SELECT * FROM links WHERE id = ?", one)[0]

    def _links(self, _query: Any, _body: Any, number: str) -> list[dict[str, Any]]:
        return self._sql("SELECT * FROM links WHERE task_id = ? ORDER BY created_at", int(number))

    def _health(self, _query: Any, _body: Any) -> dict[str, Any]:
        return {"status": "healthy", "transport": "streamable-http", "database": "connected"}


def _statuses_in(text: str) -> list[str]:
    parts = [one.strip() for one in text.split(",") if one.strip()]
    for one in parts:
        if one not in STATUSES:
            known = ", ".join(STATUSES)
            raise Refusal(400, f'status must be one of: {known} (got: "{one}")')
    return parts


def _bound_in(query: dict[str, str], name: str) -> int:
    if not query.get(name, "0").isdigit():
        raise Refusal(400, f"{name} must be a non-negative integer")
    return int(query.get(name, "0"))


def _check_fields(body: Any, *, is_new: bool, is_signed: bool = True) -> None:
    if not isinstance(body, dict):
        raise Refusal(400, "Task title is required")
    for name in ("title", "description", "assigned_to", "created_by"):
        value = body.get(name)
        if name in body and not isinstance(value, str) and (value is not None or name == "title"):
            raise Refusal(400, f"{name} must be a string")
    title = body.get("title")
    if (is_new or title is not None) and not str(title or "").strip():
        raise Refusal(400, "Task title is required")
    if "priority" in body and type(body["priority"]) is not int:
        raise Refusal(400, "priority must be a finite integer")
    tags = body.get("tags")
    if tags is not None and not (
        isinstance(tags, list) and all(isinstance(one, str) for one in tags)
    ):
        raise Refusal(400, "tags must be an array of strings")
    if "status" in body and body["status"] not in STATUSES:
        known = ", ".join(STATUSES)
        raise Refusal(400, f"Invalid status: {body['status']}. Must be one of: {known}")
    if is_new and is_signed and not str(body.get("created_by") or "").strip():
        raise Refusal(400, "created_by is required")


_TASK, _NAME = r"/api/v1/tasks/(\d+)", r"([^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/health", Double._health),
    ("POST", "/api/v1/tasks", Double._create),
    ("GET", "/api/v1/tasks", Double._list),
    ("GET", _TASK, Double._get),
    ("PATCH", _TASK, Double._update),
    ("DELETE", _TASK, Double._delete),
    ("POST", f"{_TASK}/archive", Double._archive),
    ("POST", f"{_TASK}/subtasks", Double._create_subtask),
    ("GET", f"{_TASK}/subtasks", Double._subtasks),
    ("POST", f"{_TASK}/transfer", Double._transfer),
    ("POST", f"{_TASK}/comments", Double._add_comment),
    ("GET", f"{_TASK}/comments", Double._comments),
    ("POST", f"{_TASK}/links", Double._add_link),
    ("GET", f"{_TASK}/links", Double._links),
    ("GET", f"/api/v1/agents/{_NAME}/queue", Double._queue_of),
    ("POST", f"/api/v1/agents/{_NAME}/signup", Double._sign_up),
    ("GET", "/api/v1/queues", Double._queues),
    ("GET", f"/api/v1/queues/{_NAME}/stats", Double._queue_stats),
    ("GET", f"/api/v1/queues/{_NAME}/tasks", Double._queue_tasks),
)
_CREATING = (Double._create, Double._create_subtask, Double._add_comment, Double._add_link)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    double: Double

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self.connected: set[Any] = set()

    def hang_up(self) -> None:
        """End the connections that are kept open, as a server that ends does."""
        for one in list(self.connected):
            with suppress(OSError):
                one.shutdown(2)

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that were cut: that is what is tried here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm: ClassVar[bool] = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connected.add(self.connection)

    def finish(self) -> None:
        self.server.connected.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that the library calls

    def _handle(self) -> None:
        double = self.server.double
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        double.asked.append((self.command, self.path))
        struck = (one for one in double.misbehaviours if one.strikes(self.command, parts.path))
        misbehaviour = next(struck, None)
        fault = None if misbehaviour is None else misbehaviour.fault
        if fault in _BEFORE:
            self._spoil_before(fault)
            return
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/mcp":
            self._handle_mcp(query, content, fault)
            return
        if double.speaks is Speaks.OLD and parts.path != "/health":
            self._send(404, b'{"error": "Not found"}', fault)
            return
        try:
            body = json.loads(content) if content else None
            status, document = double.answer(self.command, parts.path, query, body)
        except Refusal as refusal:
            status, document = refusal.status, {"error": refusal.error}
        except (ValueError, sqlite3.Error) as error:
            status, document = 400, {"error": str(error)}
        self._send(status, json.dumps(document).encode(), fault)

    def _handle_mcp(self, query: dict[str, str], content: bytes, fault: Fault | None) -> None:
        """Speak MCP: over streamable HTTP one answer a question, over SSE all in one stream."""
        double = self.server.double
        if double.speaks is Speaks.REST:
            if self.command != "POST":
                self._stream(b"")
                return
            answer = double.told_over_mcp(json.loads(content))
            if answer is None:
                self._send(202, b"", fault)
            else:
                self._send(200, _event("message", json.dumps(answer)), fault, "text/event-stream")
            return
        if self.command == "GET":
            number = len(double.streams)
            self._stream(_event("endpoint", f"/mcp?sessionId={number}"))
            return
        session = query.get("sessionId", "")
        if not session.isdigit() or int(session) >= len(double.streams):
            status, word = (404, "Session not found") if session else (400, "Missing session ID")
            self._send(status, json.dumps({"error": word}).encode(), fault)
            return
        stream = double.streams[int(session)]
        answer = double.told_over_mcp(json.loads(content))
        if answer is not None:
            event = _event("message", json.dumps(answer))
            match fault:
                case Fault.CUT_AFTER_WRITE:
                    stream.put(None)
                case Fault.CUT_IN_BODY:
                    stream.put(event[: len(event) // 2])
                    stream.put(None)
                case _:
                    stream.put(event)
        self._send(202, b"Accepted", None)

    def _stream(self, first: bytes) -> None:
        """Send events for as long as anybody listens, as servers do that never end an answer."""
        stream: SimpleQueue[bytes | None] = SimpleQueue()
        self.server.double.streams.append(stream)
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        event: bytes | None = first
        with suppress(OSError):
            while event is not None:
                self.wfile.write(event)
                event = stream.get()

    def _spoil_before(self, fault: Fault | None) -> None:
        """Answer in a way that has nothing to do with the question, which is not heeded."""
        self.close_connection = True
        with suppress(OSError):
            match fault:
                case Fault.CUT_IN_HEADERS:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                case Fault.REDIRECT:
                    self.send_response(302)
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                case Fault.HUGE:
                    self._go_on([b" " * 2**20] * 64)
                case Fault.DRIP:
                    self._go_on([b"["] * 600, pause_s=0.05)
                case Fault.SILENT:
                    self.connection.recv(1)
                case Fault.SERVER_ERROR | Fault.NOT_JSON | Fault.WRONG_TYPES:
                    self._send(*_INSTEAD[fault], None)
                case _:
                    pass

    def _go_on(self, pieces: list[bytes], *, pause_s: float = 0.0) -> None:
        self.send_response(200)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(pause_s)

    def _send(
        self, status: int, content: bytes, fault: Fault | None, kind: str = "application/json"
    ) -> None:
        if fault is Fault.CUT_AFTER_WRITE:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault is Fault.CUT_IN_BODY:
            self.close_connection = True
            content = content[: len(content) // 2]
        self.wfile.write(content)


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


_INSTEAD = {
    Fault.SERVER_ERROR: (500, b'{"error": "SQLITE_BUSY: database is locked"}'),
    Fault.NOT_JSON: (200, b"<html>It works!</html>"),
    Fault.WRONG_TYPES: (200, b'{"id": "12", "title": 7, "status": ["idle"]}'),
}
_BEFORE = frozenset(Fault) - {Fault.CUT_IN_BODY, Fault.CUT_AFTER_WRITE}
