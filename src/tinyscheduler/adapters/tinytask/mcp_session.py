"""What carries MCP?  Streamable HTTP, or SSE where that is refused: one session, within bounds.

The only place where anything runs at the same time as something else: a loop in a thread of its
own, which a caller waits for, and never for longer than it wants.
"""

from __future__ import annotations

import base64
import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote, urlsplit, urlunsplit

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from tinyscheduler import __version__
from tinyscheduler.adapters.tinytask.questions import (
    LONGEST_WORDS,
    MOST_BYTES,
    NoSessionError,
    OddAnswerError,
    TransientError,
    cause_of,
)
from tinyscheduler.wording import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from typing import Any, TypeVar

    _Answer = TypeVar("_Answer")

STREAMABLE, SSE = "streamable HTTP", "SSE"
# To connect, as a share of the time that one question may take.
_CONNECT = 0.3
# So long a session may take to say goodbye.
_GOODBYE_S = 1.0
_CLIENT_FAILED, _SERVER_FAILED, _TOO_MANY = 400, 500, 429
_REDIRECTED = 300
# What a server says with these was understood, and refused.
_NO = (types.INVALID_PARAMS, types.METHOD_NOT_FOUND, types.INVALID_REQUEST)

# What goes wrong is told by who asked, once, and not on stderr beside it.
logging.getLogger("mcp.client").setLevel(logging.CRITICAL + 1)


class McpSession:
    """One session with one server, from when it is made until it is closed."""

    def __init__(self, url: str, *, limit_s: float, transport: str = "") -> None:
        """Begin it; over ``transport`` if that is known, else over whichever is accepted.

        Raises NoSessionError, OddAnswerError or TransientError.
        """
        self.transport = transport or STREAMABLE
        self.tools: frozenset[str] = frozenset()
        parts = urlsplit(url)
        self._url = urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, "")
        )
        self._headers = _guards_of(parts.username, parts.password)
        self._loop = start_blocking_portal("asyncio")
        self._portal = self._loop.__enter__()
        try:
            self._begin(limit_s, may_change=not transport)
        except BaseException:
            self.close()
            raise

    def call(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> tuple[str, bool]:
        """Return the text that a tool gives back, and whether it is that of a failure."""

        async def call() -> tuple[str, bool]:
            result = await self._session.call_tool(tool, dict(arguments))
            texts = [one.text for one in result.content if isinstance(one, types.TextContent)]
            if not texts:
                message = "the answer holds no text"
                raise OddAnswerError(message)
            return texts[0], bool(result.is_error)

        return self._wait_for(call, limit_s)

    def ping(self, limit_s: float) -> None:
        """Ask whether anybody is there."""

        async def ping() -> None:
            await self._session.send_ping()

        self._wait_for(ping, limit_s)

    def close(self) -> None:
        """End it, whatever state it is in."""
        self._end()
        self._loop.__exit__(None, None, None)

    # -- beginning and ending ---------------------------------------------------------------

    def _begin(self, limit_s: float, *, may_change: bool) -> None:
        try:
            self._start(limit_s)
        except NoSessionError:
            self._end()
            if not may_change or self.transport == SSE:
                raise
            self.transport = SSE
            self._start(limit_s)

    def _start(self, limit_s: float) -> None:
        self._watch = _Watch()
        began: Future[None] = Future()
        self._running = self._portal.start_task_soon(self._run, began, limit_s)
        _wait_for_one(began, self._running, limit_s)
        if not began.done():
            raise self._what_went_wrong(None, limit_s)

    async def _run(self, began: Future[None], limit_s: float) -> None:
        """Live through the session, until it is over or somebody says that it is enough."""
        self._is_over = anyio.Event()
        self._watch.when_broken = self._is_over.set
        async with (
            self._connected(limit_s) as (reading, writing),
            ClientSession(
                reading,
                writing,
                client_info=types.Implementation(name="tinyscheduler", version=__version__),
            ) as self._session,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._introduce, began)
            await self._is_over.wait()
            group.cancel_scope.cancel()

    async def _introduce(self, began: Future[None]) -> None:
        await self._session.initialize()
        told = await self._session.list_tools()
        self.tools = frozenset(tool.name for tool in told.tools)
        began.set_result(None)

    @asynccontextmanager
    async def _connected(self, limit_s: float) -> AsyncIterator[tuple[Any, Any]]:
        watch = _Watched(
            self._watch,
            is_sse=self.transport == SSE,
            is_encrypted=self._url.startswith("https:"),
        )

        def client(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            del headers, timeout, auth  # theirs: none, five minutes and none
            return httpx2.AsyncClient(
                headers={**self._headers, "Accept-Encoding": "identity"},
                # Whoever waits for an answer ends the wait.
                timeout=httpx2.Timeout(limit_s, connect=_CONNECT * limit_s, read=None),
                transport=watch,
                trust_env=False,
            )

        if self.transport == SSE:
            async with sse_client(self._url, httpx_client_factory=client) as streams:
                yield streams
            return
        async with (
            client() as http,
            streamable_http_client(self._url, http_client=http, max_sse_event_size=None) as streams,
        ):
            yield streams

    def _end(self) -> None:
        running: Future[None] | None = getattr(self, "_running", None)
        if running is None:
            return
        if not running.done():
            with suppress(Exception):
                self._portal.call(self._is_over.set)
            wait([running], timeout=_GOODBYE_S)
        running.cancel()

    # -- waiting ------------------------------------------------------------------------------

    def _wait_for(self, ask: Callable[[], Awaitable[_Answer]], limit_s: float) -> _Answer:
        self._watch.left = MOST_BYTES
        if self._running.done():
            raise self._what_went_wrong(None, limit_s)
        answer: Future[_Answer] = self._portal.start_task_soon(ask)
        _wait_for_one(answer, self._running, limit_s)
        if not answer.done():
            answer.cancel()
            raise self._what_went_wrong(None, limit_s)
        error = answer.exception()
        if error is not None:
            raise self._what_went_wrong(error, limit_s) from error
        return answer.result()

    def _what_went_wrong(self, error: BaseException | None, limit_s: float) -> Exception:
        """Say what is the matter: what the connection saw comes before what MCP made of it."""
        if error is None and self._running.done() and not self._running.cancelled():
            error = self._running.exception()
        error = None if error is None else _inner(error)
        watch = self._watch
        if watch.is_too_long:
            return OddAnswerError(f"the answer is longer than {MOST_BYTES // 2**20} MiB")
        if watch.status >= _SERVER_FAILED or watch.status == _TOO_MANY:
            return TransientError(f"status {watch.status}")
        if watch.status >= _REDIRECTED:
            what = "" if watch.status >= _CLIENT_FAILED else "; redirects are not followed"
            return NoSessionError(f"status {watch.status} over {self.transport}{what}")
        if watch.cause is not None:
            return TransientError(cause_of(watch.cause))
        if error is not None:
            return _meant_by(error)
        is_over = self._running.done()
        return TransientError("the session ended" if is_over else f"no answer in {limit_s:.1f} s")


def _meant_by(error: BaseException) -> Exception:
    if isinstance(error, OddAnswerError):
        return error
    if isinstance(error, MCPError):
        words = one_line(error.message, longest=LONGEST_WORDS)
        return OddAnswerError(words) if error.code in _NO else TransientError(words)
    if isinstance(error, (ValidationError, RuntimeError, httpx2.SSEError)):
        return OddAnswerError(one_line(str(error), longest=LONGEST_WORDS))
    return TransientError(cause_of(error))


def _wait_for_one(one: Future[Any], other: Future[Any], limit_s: float) -> None:
    wait([one, other], timeout=limit_s, return_when=FIRST_COMPLETED)


def _inner(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Watch:
    """What the connections of a session have seen."""

    def __init__(self) -> None:
        self.left = MOST_BYTES
        self.is_too_long = False
        self.status = 0
        self.cause: BaseException | None = None
        self.when_broken: Callable[[], object] = lambda: None


class _Watched(httpx2.AsyncHTTPTransport):
    """Notes what MCP's client tells nobody: an answer without end, a question that was refused."""

    def __init__(self, watch: _Watch, *, is_sse: bool, is_encrypted: bool) -> None:
        # Reading whom to trust takes longer than a session, and is for nothing without TLS.
        super().__init__(trust_env=False, verify=is_encrypted)
        self._watch = watch
        self._is_sse = is_sse

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Ask, and count what comes back."""
        watch = self._watch
        if request.method != "POST" and not self._is_sse:
            # Whether the server tells anything unasked, and hears a goodbye, is up to it.
            return await super().handle_async_request(request)
        try:
            response = await super().handle_async_request(request)
        except httpx2.HTTPError as error:
            watch.cause = error
            watch.when_broken()
            raise
        if response.status_code >= _REDIRECTED:
            watch.status = response.status_code
            watch.when_broken()
        if response.is_redirect:
            # MCP's client would follow.
            await response.aclose()
            message = "redirects are not followed"
            raise httpx2.RemoteProtocolError(message)
        response.stream = _Counted(response.stream, watch)
        return response


class _Counted(httpx2.AsyncByteStream):
    """A body of which not more is read than there is room for."""

    def __init__(self, inner: Any, watch: _Watch) -> None:  # noqa: ANN401 - a stream of theirs
        self._inner = inner
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        watch = self._watch
        try:
            async for chunk in self._inner:
                watch.left -= len(chunk)
                if watch.left < 0:
                    watch.is_too_long = True
                    watch.when_broken()
                    return
                yield chunk
        except httpx2.HTTPError as error:
            watch.cause = error
            watch.when_broken()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


def _guards_of(name: str | None, password: str | None) -> dict[str, str]:
    """Return what lets one in: the name and password of the address."""
    if name is None:
        return {}
    text = f"{unquote(name)}:{unquote(password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
