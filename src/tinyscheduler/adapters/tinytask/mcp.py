"""How is a tinytask server asked that has no REST interface?  By its MCP tools.

The package `mcp` is an extra.  It is asynchronous: one thread keeps the connection, and questions
are handed to it.  A server of version 1 knows no queues, blockers or subtasks.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit, urlunsplit

from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from tinyscheduler.adapters.tinytask.wire import (
    ABSENT,
    LONGEST_WORDS,
    MOST_BYTES,
    Question,
    RefusedError,
    TransientError,
)
from tinyscheduler.errors import SourceError
from tinyscheduler.jsontext import loads
from tinyscheduler.wording import one_line, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future
    from typing import Any

STREAMABLE_HTTP = "streamable-http"
_CLOSING_S = 2.0
# What fails is told by us, in a line; the library would print pages beside it.
for name in ("mcp", "client"):  # its session calls itself the latter
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class McpWire:
    """Questions as calls of tools, over SSE or streamable HTTP."""

    def __init__(self, endpoint: str, *, transport: str | None) -> None:
        """Take the base URL, and what the server calls its transport; None: SSE."""
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/").removesuffix("/mcp") + "/mcp"
        self._url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        host = parts.netloc.rpartition("@")[2]
        self.where = urlunsplit((parts.scheme, host, path, "", ""))
        self._transport = transport
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._link: _Link | None = None

    def close(self) -> None:
        """Close the connection, and end the thread that kept it."""
        hung_up = self._hang_up()
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if hung_up is not None:
            with suppress(FutureTimeoutError):
                hung_up.result(2 * _CLOSING_S)
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSING_S)

    def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        """Ask once; connects first where there is no connection."""
        if not question.is_api:
            return {"status": "healthy"} if self._version(limit_s) else {}
        if question.path == "/tasks":
            return self._list(dict(question.filters or {}), limit_s)
        _, _, number, *more = question.path.split("/")
        fields = dict(question.fields or {})
        match question.method, more:
            case "GET", []:
                found = self._call("get_task", {"id": int(number)}, limit_s)
            case "PATCH", []:
                found = self._call("update_task", {"id": int(number), **fields}, limit_s)
            case "POST", ["comments"]:
                found = self._call("add_comment", {"task_id": int(number), **fields}, limit_s)
            case "POST", ["links"]:
                found = self._call("add_link", {"task_id": int(number), **fields}, limit_s)
            case _:
                message = f"no tool answers {question}"
                raise AssertionError(message)
        if found is None and not question.may_be_absent:
            message = f"tinytask at {self.where}: task {number} is not there"
            raise RefusedError(message)
        return _as_of_today(found)

    def _list(self, filters: dict[str, str | int], limit_s: float) -> list[Any]:
        """Ask for each status by itself: a server of version 1 takes no two at once."""
        if self._version(limit_s) < _SECOND and filters.keys() & _NEWER:
            return []
        statuses = str(filters.pop("status")).split(",")
        found: list[Any] = []
        for status in statuses:
            told = self._call("list_tasks", {**filters, "status": status}, limit_s)
            tasks = told.get("tasks") if isinstance(told, dict) else told
            if not isinstance(tasks, list):
                raise self._odd(f"list_tasks is {quote(told)}, not a list")
            found += tasks
        if len(statuses) > 1:
            found.sort(key=_place)
        return [_as_of_today(one) for one in found[: int(filters.get("limit") or len(found))]]

    def _version(self, limit_s: float) -> tuple[int, ...]:
        return self._connected(limit_s).version

    def _call(self, tool: str, arguments: dict[str, Any], limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        """Call a tool and read its answer; None for what is not there."""
        link = self._connected(limit_s)
        result = self._wait(link.call(tool, arguments), tool, limit_s)
        text = "".join(getattr(part, "text", "") for part in result.content)
        if len(text) > MOST_BYTES:
            raise self._odd(f"its answer is longer than {MOST_BYTES // 2**20} MiB")
        if result.is_error:
            if ABSENT.search(text):
                return None
            words = one_line(text, longest=LONGEST_WORDS)
            message = f"tinytask at {self.where}: {tool}: {words}"
            raise RefusedError(message)
        try:
            return loads(text)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"{tool}: {quote(text[:40])} is no JSON") from error

    def _connected(self, limit_s: float) -> _Link:
        if self._link is None:
            # Known before it is open, so that one that never is gets closed.
            link = self._link = _Link(self._url, self._transport)
            self._wait(link.open(), "initialize", limit_s)
            return link
        return self._link

    def _wait(self, awaitable: Any, what: str, limit_s: float) -> Any:  # noqa: ANN401 - a coroutine and what it returns
        future = asyncio.run_coroutine_threadsafe(awaitable, self._running_loop())
        try:
            # Whatever libraries of a connection fail with, they do not agree on a class of it.
            error = future.exception(limit_s)
        except (FutureTimeoutError, asyncio.CancelledError) as late:
            future.cancel()
            self._hang_up()
            message = f"{what}: no whole answer within {limit_s:.1f} s"
            raise TransientError(message) from late
        if error is not None:
            self._hang_up()
            message = f"{what}: {_cause_of(error)}"
            raise TransientError(message) from error
        return future.result()

    def _hang_up(self) -> Future[None] | None:
        link, self._link = self._link, None
        if link is None or self._loop is None:
            return None
        return asyncio.run_coroutine_threadsafe(link.close(), self._loop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), daemon=True)
            self._thread.start()
        return self._loop

    def _odd(self, words: str) -> SourceError:
        return SourceError(f"tinytask at {self.where}: {words}")


class _Link:
    """One connection and its session, within the loop.

    Opened and closed by one and the same task, as the library demands.
    """

    def __init__(self, url: str, transport: str | None) -> None:
        self._url = url
        self._transport = transport
        self._session: ClientSession | None = None
        self._is_over = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.version: tuple[int, ...] = ()

    async def open(self) -> None:
        """Connect and say hello."""
        is_open = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(is_open))
        self._keeper.add_done_callback(_take_note)
        opened = asyncio.create_task(is_open.wait())
        try:
            await asyncio.wait({opened, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
        if not is_open.is_set():
            self._keeper.result()  # raises what kept it from being open

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - of the library
        """Call a tool; fails as soon as the connection does."""
        assert self._session is not None  # noqa: S101 - it was opened
        assert self._keeper is not None  # noqa: S101 - as above
        answer = asyncio.create_task(self._session.call_tool(tool, arguments))
        await asyncio.wait({answer, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            message = "the connection was closed"
            raise ConnectionError(message)
        return answer.result()

    async def close(self) -> None:
        """Hang up."""
        self._is_over.set()
        if self._keeper is not None:
            _, unfinished = await asyncio.wait({self._keeper}, timeout=_CLOSING_S)
            for one in unfinished:
                one.cancel()

    async def _keep(self, is_open: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            is_streamable = self._transport == STREAMABLE_HTTP
            connect: Any = streamable_http_client if is_streamable else sse_client
            reading, writing, *_ = await stack.enter_async_context(connect(self._url))
            session = await stack.enter_async_context(ClientSession(reading, writing))
            hello = await session.initialize()
            self.version = _numbers(hello.server_info.version)
            self._session = session
            is_open.set()
            await self._is_over.wait()


def _take_note(task: asyncio.Task[None]) -> None:
    """Ask how it ended: whoever waits for it is told, and nobody else need be."""
    if not task.cancelled():
        task.exception()


_SECOND = (2,)
_NEWER = frozenset({"queue_name", "parent_task_id"})


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", version)[:3])


def _as_of_today(task: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a task with what a server of version 1 does not tell: it has no blockers."""
    return {"is_currently_blocked": False, **task} if isinstance(task, dict) else task


def _place(task: Mapping[str, Any]) -> tuple[int, str]:
    if not isinstance(task, dict):
        return (0, "")
    priority, created = task.get("priority"), task.get("created_at")
    return (-priority if isinstance(priority, int) else 0, str(created))


def _cause_of(error: BaseException) -> str:
    """Return the innermost reason: groups of one hide what happened."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and inner.exceptions:
        inner = inner.exceptions[0]
    return one_line(str(inner) or type(inner).__name__, longest=LONGEST_WORDS)
