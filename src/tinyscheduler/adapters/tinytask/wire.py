"""What is a question to a tinytask server, whatever carries it, and how can it fail?"""

from __future__ import annotations

import re

from tinyscheduler.errors import SourceError
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    class Wire(Protocol):
        """Carries questions to one server, over a connection that stays open."""

        @property
        def where(self) -> str:
            """The address of the server, for people: without what guards it."""

        def ask(self, question: Question, *, limit_s: float) -> Any:  # noqa: ANN401 - any JSON
            """Ask once; the document that came back, None for what is not there.

            Raises TransientError where another try may help, RefusedError where the server
            says no, and SourceError for an answer that makes no sense.
            """

        def close(self) -> None:
            """Close the connection."""


MOST_BYTES = 16 * 1024 * 1024
LONGEST_WORDS = 200
NO_SERVER_HINT = "TINYSCHEDULER_MCP_ENDPOINT must be the base URL of a tinytask server"
# A task that is gone is given up here, and what its attempt came to is told to nobody: so only
# these words of the server say so, and not whatever else was not found.
ABSENT = re.compile(r"(?:^|[:,] )task(?: \d+)? not found\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question by the names of the REST interface: a path behind ``/api/v1``.

    What ``may_be_absent`` is told as absent, and no failure.
    """

    method: str
    path: str
    filters: Mapping[str, str | int] | None = None
    fields: Mapping[str, str | None] | None = None
    may_be_absent: bool = False
    is_api: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class RefusedError(SourceError):
    """The server understood and said no: nothing was changed there."""


class NoInterfaceError(RefusedError):
    """There is no REST interface at the address."""


class UnreadableTaskError(SourceError):
    """The server told of a task what makes no sense; of the others it may."""


class TransientError(Exception):
    """A try came to nothing, and the next one may not."""
