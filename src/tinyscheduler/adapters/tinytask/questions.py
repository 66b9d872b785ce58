"""What is a tinytask server asked, in whatever language it is asked?"""

from __future__ import annotations

import os
from enum import Enum, auto

from tinyscheduler.errors import SourceError
from tinyscheduler.values import dataclass, field
from tinyscheduler.wording import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

SIGNATURE = "tinyscheduler"
# Of one answer.
MOST_BYTES = 16 * 1024 * 1024
LONGEST_WORDS = 200
NO_SERVER_HINT = "TINYSCHEDULER_MCP_ENDPOINT must be the base URL of a tinytask server"


class Verb(Enum):
    """What is wanted."""

    LIST = auto()  # of the tasks that fit, a list
    READ = auto()  # one task with its comments and links
    CHANGE = auto()  # fields of a task; it, changed
    COMMENT = auto()
    LINK = auto()
    GREET = auto()  # how it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question; ``number`` is the task's, and ``fields`` are filters, or what is written."""

    verb: Verb
    number: int = 0
    fields: Mapping[str, str | int | None] = field(default_factory=dict)


class RefusedError(SourceError):
    """The server understood and said no: nothing was changed there."""


class UnspokenError(RefusedError):
    """Nobody speaks this language at that address: nothing was understood."""


class UnreadableTaskError(SourceError):
    """The server told of a task what makes no sense; of the others it may."""


class TransientError(Exception):
    """A try came to nothing, and the next one may not."""


class NoSessionError(Exception):
    """Whoever answers there speaks no MCP."""


class OddAnswerError(Exception):
    """What came is not what the protocol promises, or too much of it."""


if TYPE_CHECKING:

    class Line(Protocol):
        """One way to ask one server."""

        @property
        def where(self) -> str:
            """The address, without what guards it."""

        @property
        def language(self) -> str:
            """What is spoken, for people; all of it is known once an answer came."""

        def words_for(self, question: Question) -> str:
            """Call the question as whoever runs the server would."""

        def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
            """Ask once, within ``limit_s``; return the document, None for a task that is not there.

            TransientError where another try may help, UnspokenError where another language may,
            RefusedError where nothing was changed, SourceError otherwise.
            """

        def close(self) -> None:
            """Hang up; it may be asked again."""


def cause_of(error: BaseException) -> str:
    """Return the innermost reason, which is the one that says something."""
    inner: BaseException = error
    while True:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        elif (cause := inner.__cause__ or inner.__context__) is not None:
            inner = cause
        else:
            break
    if isinstance(inner, ConnectionError) and inner.errno:
        return os.strerror(inner.errno)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return one_line(str(inner) or type(inner).__name__, longest=LONGEST_WORDS)
