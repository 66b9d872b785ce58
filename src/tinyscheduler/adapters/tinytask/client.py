"""How is a tinytask server asked?  Over REST, within bounds of time, size and tries."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from urllib.parse import quote as quote_path
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from tinyscheduler.adapters.tinytask.documents import OddDocumentError, RemoteTask, read_task
from tinyscheduler.errors import SourceError
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.values import dataclass
from tinyscheduler.wording import one_line, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tinyscheduler.ports import Clock

SIGNATURE = "tinyscheduler"
MOST_BYTES = 16 * 1024 * 1024
_TRIES = 3
# Shares of the time that one question may take: to connect, before the second try (twice as
# long before the third), and how long nothing is asked once all tries came to nothing.
_CONNECT, _FIRST_DELAY, _SILENCE = 0.3, 0.1, 0.5
# Times that one question may take: for all questions together.
_ALL = 3
_CHUNK_BYTES = 64 * 1024
_LONGEST_WORDS = 200
_HINT = "start it, set TINYSCHEDULER_MCP_ENDPOINT to where it answers, or take it out of SOURCES"
_NO_SERVER_HINT = "TINYSCHEDULER_MCP_ENDPOINT must be the base URL of a tinytask server from 2.0 on"


class RefusedError(SourceError):
    """The server understood and said no: nothing was changed there."""


class UnreadableTaskError(SourceError):
    """The server told of a task what makes no sense; of the others it may."""


class _TransientError(Exception):
    """A try came to nothing, and the next one may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came back, whole."""

    status: int
    content: bytes
    is_measured: bool  # it says how long it is: cut off, it would not look whole


class TinytaskClient:
    """One server, asked over one connection that stays open between questions.

    All methods raise SourceError if, and only if, the server did not do what was asked, or
    nobody knows whether it did; RefusedError where it is certain that it did not.  However many
    questions a tick has, the time that all of them take together is bounded.
    """

    def __init__(
        self, endpoint: str, clock: Clock, *, timeout_s: float, tries: int = _TRIES
    ) -> None:
        """Take the base URL; the path of the MCP interface behind it is taken off.

        ``timeout_s`` is from the first byte sent to the last one read, however slowly they drip.
        """
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/").removesuffix("/mcp")
        self._base = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        # What guards the server is told to nobody but the server.
        host = parts.netloc.rpartition("@")[2]
        self.where = urlunsplit((parts.scheme, host, path, "", ""))
        self._clock = clock
        self._tries = tries
        self._timeout_s = timeout_s
        self._left_s = _ALL * timeout_s
        self._silent_until_ns = -1
        self._silence: SourceError | None = None
        self._guard = _Guard()
        self._session = requests.Session()
        # Neither proxies nor passwords of other tools: it is a server of this machine's user.
        self._session.trust_env = False
        self._session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
        adapter = _guarded_adapter(self._guard)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def begin_tick(self) -> None:
        """Let the bound of time on all questions together begin anew."""
        self._left_s = _ALL * self._timeout_s

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
        self._guard.close()

    # -- what it is asked -----------------------------------------------------------

    def tasks(
        self, warn: Callable[[str], None], **filters: str | int
    ) -> tuple[list[RemoteTask], int]:
        """Return the tasks that fit, and how many the server named.

        In the server's order: priority, then age.  What is no task is left out, with a warning.
        """
        document = self._ask("GET", "/tasks", filters=filters)
        if not isinstance(document, list):
            raise self._odd(f"/tasks is {quote(document)}, not a list", hint=_NO_SERVER_HINT)
        found = []
        for one in document:
            try:
                found.append(read_task(one))
            except OddDocumentError as error:
                warn(f"tinytask at {self.where}: {error}; it is left out")
        return found, len(document)

    def task(self, number: int) -> RemoteTask | None:
        """Return the task with its comments and links; None if there is none."""
        document = self._ask("GET", f"/tasks/{number}", may_be_absent=True)
        return None if document is None else self._read(document, number)

    def update(self, number: int, **fields: str | None) -> RemoteTask | None:
        """Change fields of a task and return it; None if there is none.

        Asked for twice it is the same as once, so it may be tried again.
        """
        document = self._ask("PATCH", f"/tasks/{number}", fields=fields, may_be_absent=True)
        return None if document is None else self._read(document, number)

    def has_open_subtasks(self, number: int) -> bool:
        """Whether a task has subtasks that are neither complete nor archived."""
        _, number_of_them = self.tasks(
            lambda _words: None, parent_task_id=number, status="idle,working", limit=1
        )
        return number_of_them > 0

    def add_comment(self, number: int, content: str, *, mark: str) -> None:
        """Add a comment, unless one that holds the ``mark`` is there."""
        self._add_once(
            number,
            f"/tasks/{number}/comments",
            {"content": content},
            is_there=lambda task: any(mark in one for one in task.comments),
        )

    def add_link(self, number: int, url: str, description: str) -> None:
        """Add a link, unless it is there."""
        self._add_once(
            number,
            f"/tasks/{number}/links",
            {"url": url, "description": description},
            is_there=lambda task: url in task.links,
        )

    def health(self) -> Mapping[str, Any]:
        """Return what the server says of itself."""
        document = self._ask("GET", "/health", is_api=False)
        if not isinstance(document, dict):
            raise self._odd(f"/health is {quote(document)}, not an object", hint=_NO_SERVER_HINT)
        return document

    # -- how -------------------------------------------------------------------------

    def _add_once(
        self,
        number: int,
        path: str,
        fields: Mapping[str, str],
        *,
        is_there: Callable[[RemoteTask], bool],
    ) -> None:
        """Post what would be there twice if it was posted twice.

        An answer that got lost says nothing: before each try it is looked whether it is there.
        """

        def post() -> None:
            task = self.task(number)
            if task is not None and not is_there(task):
                self._try("POST", path, fields={**fields, "created_by": SIGNATURE})

        self._retry(post, "POST", path)

    def _read(self, document: object, number: int) -> RemoteTask:
        try:
            task = read_task(document)
        except OddDocumentError as error:
            message = f"tinytask at {self.where}: {error}"
            raise UnreadableTaskError(message) from error
        if task.number != number:
            raise self._odd(f"asked for task {number}, it tells of task {task.number}")
        return task

    def _ask(
        self,
        method: str,
        path: str,
        *,
        filters: Mapping[str, str | int] | None = None,
        fields: Mapping[str, str | None] | None = None,
        may_be_absent: bool = False,
        is_api: bool = True,
    ) -> Any:  # noqa: ANN401 - any JSON
        def ask() -> Any:  # noqa: ANN401 - any JSON
            return self._try(
                method,
                path,
                filters=filters,
                fields=fields,
                may_be_absent=may_be_absent,
                is_api=is_api,
            )

        return self._retry(ask, method, path)

    def _retry(self, ask: Callable[[], Any], method: str, path: str) -> Any:  # noqa: ANN401 - any JSON
        """Try, and try again where that may help; SourceError once it did not."""
        if self._silence is not None and self._monotonic_ns() < self._silent_until_ns:
            raise self._silence
        try:
            return ask()
        except _TransientError as error:
            first = [error]
        # Few need it, and it takes as long as all else of a tick.
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        def ask_again() -> Any:  # noqa: ANN401 - any JSON
            if first:
                raise first.pop()
            return ask()

        retrying = Retrying(
            stop=stop_after_attempt(self._tries),
            wait=wait_exponential(multiplier=_FIRST_DELAY * self._timeout_s),
            retry=retry_if_exception_type(_TransientError),
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            return retrying(ask_again)
        except _TransientError as error:
            tries = "" if self._tries == 1 else f", {self._tries} times in a row"
            message = f"tinytask at {self.where}: {method} {path}: {error}{tries}"
            self._silence = SourceError(message, hint=_HINT)
            self._silent_until_ns = self._monotonic_ns() + int(_SILENCE * self._timeout_s * 1e9)
            raise self._silence from error

    def _try(
        self,
        method: str,
        path: str,
        *,
        filters: Mapping[str, str | int] | None = None,
        fields: Mapping[str, str | None] | None = None,
        may_be_absent: bool = False,
        is_api: bool = True,
    ) -> Any:  # noqa: ANN401 - any JSON
        """Ask once, and return what the answer holds; None for what is not there."""
        url = self._base + ("/api/v1" if is_api else "") + quote_path(path)
        began_ns = self._monotonic_ns()
        if self._left_s <= 0:
            spent = f"all questions together took {_ALL * self._timeout_s:g} s: enough for now"
            raise SourceError(f"tinytask at {self.where}: {spent}", hint=_HINT)
        try:
            answer = self._exchange(method, url, filters=filters, fields=fields)
        finally:
            self._left_s -= (self._monotonic_ns() - began_ns) / 1e9
        said = f"{method} {path}: status {answer.status}"
        if answer.status == _NOT_FOUND and may_be_absent and self._is_told(answer):
            return None
        if answer.status >= _SERVER_FAILED or answer.status == _TOO_MANY:
            words = f"status {answer.status}{_words_in(answer)}"
            raise _TransientError(words)
        if answer.status >= _CLIENT_FAILED:
            message = f"tinytask at {self.where}: {said}{_words_in(answer)}"
            hint = _NO_SERVER_HINT if answer.status == _NOT_FOUND else None
            raise RefusedError(message, hint=hint)
        if answer.status >= _REDIRECTED or answer.status < _SUCCEEDED:
            raise self._odd(f"{said}; redirects are not followed", hint=_NO_SERVER_HINT)
        try:
            return loads(answer.content)
        except (ValueError, RecursionError) as error:
            if not answer.is_measured:
                message = f"the answer ends after {len(answer.content)} bytes"
                raise _TransientError(message) from error
            start = quote(answer.content[:40].decode(errors="replace"))
            raise self._odd(f"{said}, but {start} is no JSON", hint=_NO_SERVER_HINT) from error

    def _is_told(self, answer: _Answer) -> bool:
        """Whether it is the server that says so, and not something else at its address."""
        return bool(_words_in(answer))

    def _exchange(
        self,
        method: str,
        url: str,
        *,
        filters: Mapping[str, str | int] | None,
        fields: Mapping[str, str | None] | None,
    ) -> _Answer:
        limit_s = min(self._timeout_s, self._left_s)
        late = f"no whole answer within {limit_s:.1f} s"
        headers = None if fields is None else {"Content-Type": "application/json"}
        with self._guard.cutting_after(limit_s):
            try:
                with self._session.request(
                    method,
                    url,
                    params=filters,
                    data=None if fields is None else dumps(dict(fields)).encode(),
                    headers=headers,
                    timeout=(min(_CONNECT * self._timeout_s, limit_s), limit_s),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    answer = _Answer(
                        status=response.status_code,
                        content=self._read_all(response),
                        is_measured=not _MEASURES.isdisjoint(map(str.lower, response.headers)),
                    )
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if self._guard.has_cut or isinstance(error, _TIMEOUTS):
                    raise _TransientError(late) from error
                raise _TransientError(_cause_of(error)) from error
        if self._guard.has_cut:
            # Cut off, an answer of unknown length looks as if it was whole.
            raise _TransientError(late)
        return answer

    def _read_all(self, response: requests.Response) -> bytes:
        """Read the answer as it comes; not more of it than there is room for."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise self._odd(f"its answer is packed as {quote(encoding)}, which nobody asked for")
        content = bytearray()
        for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
            content += chunk
            if len(content) > MOST_BYTES:
                raise self._odd(f"its answer is longer than {MOST_BYTES // 2**20} MiB")
        expected = response.headers.get("Content-Length", "")
        if expected.isdigit() and len(content) < int(expected):
            message = f"the answer ends after {len(content)} of {expected} bytes"
            raise _TransientError(message)
        return bytes(content)

    def _odd(self, words: str, *, hint: str | None = None) -> SourceError:
        return SourceError(f"tinytask at {self.where}: {words}", hint=hint)

    def _monotonic_ns(self) -> int:
        return self._clock.now().monotonic_ns


_MEASURES = frozenset({"content-length", "transfer-encoding"})
_TIMEOUTS = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_SUCCEEDED, _REDIRECTED, _CLIENT_FAILED, _SERVER_FAILED = 200, 300, 400, 500
_NOT_FOUND, _TOO_MANY = 404, 429


def _words_in(answer: _Answer) -> str:
    """Return what the server said of a failure, in one line; nothing if it said nothing."""
    try:
        document = loads(answer.content)
    except (ValueError, RecursionError):
        return ""
    words = document.get("error") if isinstance(document, dict) else None
    return f", {one_line(words, longest=_LONGEST_WORDS)}" if isinstance(words, str) else ""


def _cause_of(error: BaseException) -> str:
    """Return the innermost reason, which is the one that says something."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return one_line(str(inner) or type(inner).__name__, longest=_LONGEST_WORDS)


class _Guard:
    """Cuts a connection whose answer takes too long.

    The timeouts of sockets begin anew with each byte, so one that drips would never end.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None
        self.has_cut = False

    def note(self, connected: socket.socket) -> None:
        """Take a second handle of a new connection: TLS takes the first one away."""
        self.close()
        self._socket = socket.socket(fileno=os.dup(connected.fileno()))

    def close(self) -> None:
        """Let go of the connection."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def cutting_after(self, seconds: float) -> _Guard:
        """Cut whatever is connected then, unless it is left before."""
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        return self

    def __enter__(self) -> None:
        self.has_cut = False
        if self._timer is not None:
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def _cut(self) -> None:
        self.has_cut = True
        if self._socket is not None:
            with suppress(OSError):  # it is gone already
                self._socket.shutdown(socket.SHUT_RDWR)


def _guarded_adapter(guard: _Guard) -> HTTPAdapter:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            guard.note(connected)
            return connected

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            guard.note(connected)
            return connected

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 - passed on
            super().init_poolmanager(*args, **more)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    return Adapter(pool_connections=1, pool_maxsize=1)
