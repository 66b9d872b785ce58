"""What is asked of a tinytask server, within bounds of time, size and tries?"""

from __future__ import annotations

from tinyscheduler.adapters.tinytask.documents import OddDocumentError, RemoteTask, read_task
from tinyscheduler.adapters.tinytask.languages import line_to
from tinyscheduler.adapters.tinytask.questions import (
    NO_SERVER_HINT,
    Question,
    TransientError,
    UnreadableTaskError,
    Verb,
)
from tinyscheduler.errors import SourceError
from tinyscheduler.wording import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tinyscheduler.ports import Clock

_TRIES = 3
# Shares of the time that one question may take: before the second try (twice as long before
# the third), and how long nothing is asked once all tries came to nothing.
_FIRST_DELAY, _SILENCE = 0.1, 0.5
# Times that one question may take: for all questions together.
_ALL = 3
# Within less nobody answers, and what is left is never quite nothing.
_LEAST_S = 0.001
_HINT = "start it, set TINYSCHEDULER_MCP_ENDPOINT to where it answers, or take it out of SOURCES"


class TinytaskClient:
    """One server, asked in the language it speaks.

    All methods raise SourceError if, and only if, the server did not do what was asked, or
    nobody knows whether it did; RefusedError where it is certain that it did not.  However many
    questions a tick has, the time that all of them take together is bounded.
    """

    def __init__(
        self, endpoint: str, clock: Clock, *, timeout_s: float, tries: int = _TRIES
    ) -> None:
        """Take the base URL, or that of its MCP interface: then that is what is spoken.

        ``timeout_s`` is from the first byte sent to the last one read, however slowly they drip.
        """
        self._line = line_to(endpoint, clock)
        self._clock = clock
        self._tries = tries
        self._timeout_s = timeout_s
        self._left_s = _ALL * timeout_s
        self._silent_until_ns = -1
        self._silence: SourceError | None = None

    @property
    def where(self) -> str:
        """The server's address, without what guards it."""
        return self._line.where

    @property
    def language(self) -> str:
        """What is spoken with the server, for people; known once it answered."""
        return self._line.language

    def begin_tick(self) -> None:
        """Let the bound of time on all questions together begin anew, and hang up until then."""
        self._line.close()
        self._left_s = _ALL * self._timeout_s

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    # -- what it is asked -----------------------------------------------------------

    def tasks(
        self, warn: Callable[[str], None], **filters: str | int
    ) -> tuple[list[RemoteTask], int]:
        """Return the tasks that fit, and how many the server named.

        In the server's order: priority, then age.  What is no task is left out, with a warning.
        """
        question = Question(verb=Verb.LIST, fields=filters)
        document = self._ask(question)
        if not isinstance(document, list):
            words = f"{self._line.words_for(question)} is {quote(document)}, not a list"
            raise self._odd(words, hint=NO_SERVER_HINT)
        found = []
        for one in document:
            try:
                found.append(read_task(one))
            except OddDocumentError as error:
                warn(f"tinytask at {self.where}: {error}; it is left out")
        return found, len(document)

    def task(self, number: int) -> RemoteTask | None:
        """Return the task with its comments and links; None if there is none."""
        document = self._ask(Question(verb=Verb.READ, number=number))
        return None if document is None else self._read(document, number)

    def update(self, number: int, **fields: str) -> RemoteTask | None:
        """Change fields of a task and return it; None if there is none.

        Asked for twice it is the same as once, so it may be tried again.
        """
        document = self._ask(Question(verb=Verb.CHANGE, number=number, fields=fields))
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
            Question(verb=Verb.COMMENT, number=number, fields={"content": content}),
            is_there=lambda task: any(mark in one for one in task.comments),
        )

    def add_link(self, number: int, url: str, description: str) -> None:
        """Add a link, unless it is there."""
        fields = {"url": url, "description": description}
        self._add_once(
            Question(verb=Verb.LINK, number=number, fields=fields),
            is_there=lambda task: url in task.links,
        )

    def health(self) -> Mapping[str, Any]:
        """Return what the server says of itself."""
        question = Question(verb=Verb.GREET)
        document = self._ask(question)
        if not isinstance(document, dict):
            words = f"{self._line.words_for(question)} is {quote(document)}, not an object"
            raise self._odd(words, hint=NO_SERVER_HINT)
        return document

    # -- how -------------------------------------------------------------------------

    def _add_once(self, question: Question, *, is_there: Callable[[RemoteTask], bool]) -> None:
        """Post what would be there twice if it was posted twice.

        An answer that got lost says nothing: before each try it is looked whether it is there.
        """

        def post() -> None:
            task = self.task(question.number)
            if task is not None and not is_there(task):
                self._try(question)

        self._retry(post, question)

    def _read(self, document: object, number: int) -> RemoteTask:
        try:
            task = read_task(document)
        except OddDocumentError as error:
            message = f"tinytask at {self.where}: {error}"
            raise UnreadableTaskError(message) from error
        if task.number != number:
            raise self._odd(f"asked for task {number}, it tells of task {task.number}")
        return task

    def _ask(self, question: Question) -> Any:  # noqa: ANN401 - any JSON
        return self._retry(lambda: self._try(question), question)

    def _retry(self, ask: Callable[[], Any], question: Question) -> Any:  # noqa: ANN401 - any JSON
        """Try, and try again where that may help; SourceError once it did not."""
        if self._silence is not None and self._monotonic_ns() < self._silent_until_ns:
            raise self._silence
        try:
            return ask()
        except TransientError as error:
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
            retry=retry_if_exception_type(TransientError),
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            return retrying(ask_again)
        except TransientError as error:
            tries = "" if self._tries == 1 else f", {self._tries} times in a row"
            words = f"{self._line.words_for(question)}: {error}{tries}"
            self._silence = self._odd(words, hint=_HINT)
            self._silent_until_ns = self._monotonic_ns() + int(_SILENCE * self._timeout_s * 1e9)
            raise self._silence from error

    def _try(self, question: Question) -> Any:  # noqa: ANN401 - any JSON
        """Ask once; what it took is taken from what all questions together may."""
        began_ns = self._monotonic_ns()
        if self._left_s < _LEAST_S:
            spent = f"all questions together took {_ALL * self._timeout_s:g} s: enough for now"
            raise self._odd(spent, hint=_HINT)
        try:
            return self._line.ask(question, limit_s=min(self._timeout_s, self._left_s))
        finally:
            self._left_s -= (self._monotonic_ns() - began_ns) / 1e9

    def _odd(self, words: str, *, hint: str | None = None) -> SourceError:
        return SourceError(f"tinytask at {self.where}: {words}", hint=hint)

    def _monotonic_ns(self) -> int:
        return self._clock.now().monotonic_ns
