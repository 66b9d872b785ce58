"""How is a tinytask server asked over REST?  As all from 2.0 on can be, with little to load."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from tinyscheduler.adapters.tinytask.questions import (
    LONGEST_WORDS,
    MOST_BYTES,
    NO_SERVER_HINT,
    SIGNATURE,
    RefusedError,
    TransientError,
    UnspokenError,
    Verb,
    cause_of,
)
from tinyscheduler.errors import SourceError
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.values import dataclass
from tinyscheduler.wording import one_line, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.adapters.tinytask.questions import Question

# To connect, as a share of the time that one question may take.
_CONNECT = 0.3
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came back, whole."""

    status: int
    content: bytes
    is_measured: bool  # it says how long it is: cut off, it would not look whole


class RestLine:
    """One connection that stays open between questions."""

    language = "REST"

    def __init__(self, endpoint: str) -> None:
        """Take the base URL."""
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/")
        self._base = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        # What guards the server is told to nobody but the server.
        host = parts.netloc.rpartition("@")[2]
        self.where = urlunsplit((parts.scheme, host, path, "", ""))
        self._guard = _Guard()
        self._session = requests.Session()
        # Neither proxies nor passwords of other tools: it is a server of this machine's user.
        self._session.trust_env = False
        self._session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
        adapter = _guarded_adapter(self._guard)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()
        self._guard.close()

    def words_for(self, question: Question) -> str:
        """Return method and path."""
        method, path = _ROUTES[question.verb]
        return f"{method} {path.format(question.number)}"

    def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        """Ask once, and return what the answer holds; None for a task that is not there."""
        answer = self._exchange(question, limit_s)
        said = f"{self.words_for(question)}: status {answer.status}"
        told = _words_in(answer)
        if answer.status in _NOT_SPOKEN and not self._is_about(question, told):
            message = f"tinytask at {self.where}: {said}{told}"
            raise UnspokenError(message, hint=NO_SERVER_HINT)
        if answer.status == _NOT_FOUND and question.verb in _MAY_BE_ABSENT:
            return None
        if answer.status >= _SERVER_FAILED or answer.status == _TOO_MANY:
            words = f"status {answer.status}{told}"
            raise TransientError(words)
        if answer.status >= _CLIENT_FAILED:
            raise RefusedError(f"tinytask at {self.where}: {said}{told}")
        if answer.status >= _REDIRECTED or answer.status < _SUCCEEDED:
            raise self._odd(f"{said}; redirects are not followed", hint=NO_SERVER_HINT)
        try:
            return loads(answer.content)
        except (ValueError, RecursionError) as error:
            if not answer.is_measured:
                message = f"the answer ends after {len(answer.content)} bytes"
                raise TransientError(message) from error
            start = quote(answer.content[:40].decode(errors="replace"))
            raise self._odd(f"{said}, but {start} is no JSON", hint=NO_SERVER_HINT) from error

    def _is_about(self, question: Question, told: str) -> bool:
        """Whether the server says that a task is not there, and not that it knows no such path.

        Servers before 2.0 say "Not found" of every path: no task has vanished there.
        """
        words = {one.strip("'\".,:;()").lower() for one in told.split()}
        return {"task", "not", "found", str(question.number)} <= words

    def _exchange(self, question: Question, limit_s: float) -> _Answer:
        method, path = _ROUTES[question.verb]
        url = self._base + ("" if question.verb is Verb.GREET else "/api/v1")
        fields = dict(question.fields)
        if question.verb in (Verb.COMMENT, Verb.LINK):
            fields["created_by"] = SIGNATURE
        is_asking = method == "GET"
        late = f"no whole answer within {limit_s:.1f} s"
        with self._guard.cutting_after(limit_s):
            try:
                with self._session.request(
                    method,
                    url + path.format(question.number),
                    params=fields if is_asking else None,
                    data=None if is_asking else dumps(fields).encode(),
                    headers=None if is_asking else {"Content-Type": "application/json"},
                    timeout=(_CONNECT * limit_s, limit_s),
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
                    raise TransientError(late) from error
                raise TransientError(cause_of(error)) from error
        if self._guard.has_cut:
            # Cut off, an answer of unknown length looks as if it was whole.
            raise TransientError(late)
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
            raise TransientError(message)
        return bytes(content)

    def _odd(self, words: str, *, hint: str | None = None) -> SourceError:
        return SourceError(f"tinytask at {self.where}: {words}", hint=hint)


_ROUTES = {
    Verb.LIST: ("GET", "/tasks"),
    Verb.READ: ("GET", "/tasks/{}"),
    Verb.CHANGE: ("PATCH", "/tasks/{}"),
    Verb.COMMENT: ("POST", "/tasks/{}/comments"),
    Verb.LINK: ("POST", "/tasks/{}/links"),
    Verb.GREET: ("GET", "/health"),
}
_MAY_BE_ABSENT = (Verb.READ, Verb.CHANGE)
_MEASURES = frozenset({"content-length", "transfer-encoding"})
_TIMEOUTS = (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_SUCCEEDED, _REDIRECTED, _CLIENT_FAILED, _SERVER_FAILED = 200, 300, 400, 500
_NOT_FOUND, _TOO_MANY = 404, 429
# What is said of a path that is not there, or that nobody lets through.
_NOT_SPOKEN = (403, _NOT_FOUND, 405)


def _words_in(answer: _Answer) -> str:
    """Return what the server said of a failure, in one line; nothing if it said nothing."""
    try:
        document = loads(answer.content)
    except (ValueError, RecursionError):
        return ""
    words = document.get("error") if isinstance(document, dict) else None
    return f", {one_line(words, longest=LONGEST_WORDS)}" if isinstance(words, str) else ""


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
