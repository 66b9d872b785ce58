"""How is a tinytask server asked over MCP?  With its tools, which servers before 2.0 have, too."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from tinyscheduler.adapters.tinytask.questions import (
    LONGEST_WORDS,
    NO_SERVER_HINT,
    SIGNATURE,
    NoSessionError,
    OddAnswerError,
    RefusedError,
    TransientError,
    UnspokenError,
    Verb,
)
from tinyscheduler.errors import SourceError
from tinyscheduler.jsontext import loads
from tinyscheduler.wording import one_line, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tinyscheduler.adapters.tinytask.mcp_session import McpSession
    from tinyscheduler.adapters.tinytask.questions import Question
    from tinyscheduler.ports import Clock

_TOOLS = {
    Verb.LIST: "list_tasks",
    Verb.READ: "get_task",
    Verb.CHANGE: "update_task",
    Verb.COMMENT: "add_comment",
    Verb.LINK: "add_link",
    Verb.GREET: "ping",
}
# Servers before 2.0 know neither; what they do not know they ignore.
_QUEUES, _NEWER_FILTERS = "list_queues", ("queue_name", "parent_task_id")
_MISSING_HINT = (
    "pip install 'tinyscheduler[mcp]', or let TINYSCHEDULER_MCP_ENDPOINT be the base URL of a"
    " tinytask server from 2.0 on"
)


class McpLine:
    """One session, begun with the first question, and anew after one that failed."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Take the URL of the MCP interface."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.where = urlunsplit((parts.scheme, host, parts.path, "", ""))
        self._url = url
        self._clock = clock
        self._session: McpSession | None = None
        self._transport = ""

    @property
    def language(self) -> str:
        """MCP, and how it is carried."""
        return f"MCP ({self._transport})" if self._transport else "MCP"

    def words_for(self, question: Question) -> str:
        """Return the name of the tool."""
        return _TOOLS[question.verb]

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        """Ask once, and return what the answer holds; None for a task that is not there."""
        begin = self._load()
        until_ns = self._clock.now().monotonic_ns + int(limit_s * 1e9)

        def left_s() -> float:
            return max(0.0, (until_ns - self._clock.now().monotonic_ns) / 1e9)

        try:
            session = self._opened(begin, left_s())
            match question.verb:
                case Verb.GREET:
                    session.ping(left_s())
                    return {"status": "healthy"}
                case Verb.LIST:
                    return self._list(session, dict(question.fields), left_s)
                case _:
                    return self._ask_of_one(session, question, left_s())
        except RefusedError:
            raise
        except (SourceError, TransientError):
            # Nobody knows what the next answer in it would belong to.
            self.close()
            raise

    def _load(self) -> type[McpSession]:
        """Load what speaks MCP: longer than all else of a tick, and no question's time."""
        try:
            from tinyscheduler.adapters.tinytask.mcp_session import McpSession
        except ImportError as error:
            words = f"is to be asked over MCP, and {error.name or error} is not installed"
            raise SourceError(f"tinytask at {self.where} {words}", hint=_MISSING_HINT) from error
        return McpSession

    def _opened(self, begin: type[McpSession], limit_s: float) -> McpSession:
        if self._session is None:
            try:
                self._session = begin(self._url, limit_s=limit_s, transport=self._transport)
            except NoSessionError as error:
                message = f"tinytask at {self.where}: no MCP session: {error}"
                raise UnspokenError(message, hint=NO_SERVER_HINT) from error
            except OddAnswerError as error:
                raise self._odd(f"no MCP session: {error}") from error
            self._transport = self._session.transport
        return self._session

    def _list(
        self, session: McpSession, filters: dict[str, Any], left_s: Callable[[], float]
    ) -> list[Any]:
        """Return the tasks that fit, in the server's order: priority, then age."""
        if _QUEUES in session.tools:
            if isinstance(filters.get("status"), str):
                filters["status"] = filters["status"].split(",")
            return self._list_once(session, filters, left_s())
        if any(name in filters for name in _NEWER_FILTERS):
            return []  # without queues and subtasks, nothing is in one
        found: dict[Any, Any] = {}
        wanted = [{"status": one} for one in str(filters.pop("status", "")).split(",") if one]
        if len(wanted) > 1:
            # One status a question: the first is asked for again, or a task that goes from the
            # last to it in between would be seen in neither.
            wanted.append(wanted[0])
        for status in wanted or [{}]:
            for one in self._list_once(session, {**filters, **status}, left_s()):
                number = one.get("id") if isinstance(one, dict) else None
                found[number if type(number) is int else id(one)] = _as_of_now(one)
        first = int(filters.get("limit", len(found)))
        return sorted(found.values(), key=_place)[:first]

    def _list_once(
        self, session: McpSession, filters: Mapping[str, Any], limit_s: float
    ) -> list[Any]:
        document = self._call(session, Verb.LIST, filters, limit_s)
        tasks = document.get("tasks") if isinstance(document, dict) else None
        if not isinstance(tasks, list):
            raise self._odd(f"list_tasks is {quote(document)}, and names no list of tasks")
        return tasks

    def _ask_of_one(self, session: McpSession, question: Question, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        fields = dict(question.fields)
        if question.verb in (Verb.READ, Verb.CHANGE):
            fields["id"] = question.number
        else:
            fields |= {"task_id": question.number, "created_by": SIGNATURE}
        try:
            return _as_of_now(self._call(session, question.verb, fields, limit_s))
        except RefusedError as error:
            is_gone = error.what.endswith(f"Task not found: {question.number}")
            if is_gone and question.verb in (Verb.READ, Verb.CHANGE):
                return None
            raise

    def _call(
        self, session: McpSession, verb: Verb, arguments: Mapping[str, Any], limit_s: float
    ) -> Any:  # noqa: ANN401 - any JSON
        tool = _TOOLS[verb]
        try:
            text, is_error = session.call(tool, arguments, limit_s=limit_s)
        except OddAnswerError as error:
            raise self._odd(f"{tool}: {error}") from error
        if is_error:
            words = one_line(text, longest=LONGEST_WORDS)
            raise RefusedError(f"tinytask at {self.where}: {tool}: {words}")
        try:
            return loads(text)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"{tool}: {quote(text[:40])} is no JSON") from error

    def _odd(self, words: str) -> SourceError:
        return SourceError(f"tinytask at {self.where}: {words}", hint=NO_SERVER_HINT)


def _as_of_now(document: Any) -> Any:  # noqa: ANN401 - any JSON
    """Say of a task of a server that knows no blocking what newer ones would say."""
    if isinstance(document, dict) and "blocked_by_task_id" not in document:
        return {"is_currently_blocked": False, **document}
    return document


def _place(task: Any) -> tuple[int, str, int]:  # noqa: ANN401 - any JSON
    """Return where a task stands; what is none is told of wherever it stands."""
    fields = task if isinstance(task, dict) else {}
    priority, number = (
        one if type(one) is int else 0 for one in (fields.get("priority"), fields.get("id"))
    )
    return (-priority, str(fields.get("created_at")), number)
