"""Which language does a tinytask server speak?  REST if it can; MCP, as all of them do, if not."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from tinyscheduler.adapters.tinytask.mcp_line import McpLine
from tinyscheduler.adapters.tinytask.questions import TransientError, UnspokenError, Verb
from tinyscheduler.adapters.tinytask.rest import RestLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.adapters.tinytask.questions import Line, Question
    from tinyscheduler.ports import Clock

MCP_PATH = "/mcp"


def line_to(endpoint: str, clock: Clock) -> Line:
    """Return how to ask whoever answers at a base URL, or at the MCP interface that it names."""
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    if path.endswith(MCP_PATH):
        return McpLine(urlunsplit((parts.scheme, parts.netloc, path, "", "")), clock)
    return EitherLine(urlunsplit((parts.scheme, parts.netloc, path, "", "")), clock)


class EitherLine:
    """REST, or MCP where REST is not spoken.

    It is found out with the first question, of every tick anew: a server that was replaced by a
    newer one is asked as that one from then on, and where REST is spoken it costs nothing.
    """

    def __init__(self, base: str, clock: Clock) -> None:
        self._mcp_url = base + MCP_PATH
        self._clock = clock
        self._rest = RestLine(base)
        self._line: Line = self._rest
        self._is_sure = False

    @property
    def where(self) -> str:
        """The server's address in the language that was spoken last."""
        return self._line.where

    @property
    def language(self) -> str:
        """The language that was spoken last."""
        return self._line.language

    def words_for(self, question: Question) -> str:
        """Call the question as in the language that was spoken last."""
        return self._line.words_for(question)

    def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
        """Ask in the language that is spoken; in the other one, if that is not known yet."""
        if self._is_sure:
            return self._line.ask(question, limit_s=limit_s)
        began_ns = self._clock.now().monotonic_ns
        try:
            told = self._line.ask(question, limit_s=limit_s)
        except UnspokenError as error:
            took_s = (self._clock.now().monotonic_ns - began_ns) / 1e9
            return self._ask_over_mcp(question, limit_s - took_s, error)
        # Servers of any age say how they are without being asked in a language.
        self._is_sure = question.verb is not Verb.GREET
        return told

    def _ask_over_mcp(self, question: Question, limit_s: float, unspoken: UnspokenError) -> Any:  # noqa: ANN401 - any JSON
        line = McpLine(self._mcp_url, self._clock)
        try:
            told = line.ask(question, limit_s=limit_s)
        except UnspokenError as error:
            line.close()
            message = f"{unspoken.what}, and {error.what}"
            raise UnspokenError(message, hint=unspoken.hint) from error
        except TransientError as error:
            line.close()
            message = f"no REST, and {line.words_for(question)} at {line.where}: {error}"
            raise TransientError(message) from error
        self._rest.close()
        self._line, self._is_sure = line, True
        return told

    def close(self) -> None:
        """Hang up; what is spoken is found out again."""
        self._rest.close()
        self._line.close()
        self._line, self._is_sure = self._rest, False
