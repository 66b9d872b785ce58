"""What does a tinytask server mean by its JSON?  Read strictly: what is odd is told."""

from __future__ import annotations

from datetime import UTC, datetime

from tinyscheduler.values import dataclass
from tinyscheduler.wording import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATUSES = ("idle", "working", "complete")
# SQLite's own numbers; larger ones name no task.
_MOST = 2**53


class OddDocumentError(Exception):
    """A document is not what the server's interface promises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTask:
    """A task as the server has it.

    ``is_blocked`` is the server's own word: the task that it waits for is there and not
    complete.  ``comments`` and ``links`` are known of a task that was asked for by its number:
    the texts, and the addresses.
    """

    number: int
    title: str
    description: str
    status: str
    agent: str | None
    queue: str | None
    priority: int
    tags: tuple[str, ...]
    parent: int | None
    blocker: int | None
    is_blocked: bool
    is_archived: bool
    created_at: datetime
    updated_at: datetime
    comments: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it is listed, and not complete."""
        return self.status != "complete" and not self.is_archived


def read_task(document: Any) -> RemoteTask:  # noqa: ANN401 - any JSON
    """Read one task; OddDocumentError names the field that is wrong."""
    if not isinstance(document, dict):
        message = f"a task is {quote(document)}, not an object"
        raise OddDocumentError(message)
    fields = _Fields(document)
    status = fields.text("status")
    if status not in STATUSES:
        raise fields.odd("status", "one of " + ", ".join(STATUSES))
    return RemoteTask(
        number=fields.number("id"),
        title=fields.text("title"),
        description=fields.text_or_none("description") or "",
        status=status,
        # An empty name is what tools send that cannot send null.
        agent=fields.text_or_none("assigned_to") or None,
        queue=fields.text_or_none("queue_name") or None,
        priority=fields.integer("priority"),
        tags=fields.texts("tags"),
        parent=fields.number_or_none("parent_task_id"),
        blocker=fields.number_or_none("blocked_by_task_id"),
        is_blocked=fields.switch("is_currently_blocked"),
        is_archived=fields.text_or_none("archived_at") is not None,
        created_at=fields.moment("created_at"),
        updated_at=fields.moment("updated_at"),
        comments=fields.texts_within("comments", "content"),
        links=fields.texts_within("links", "url"),
    )


class _Fields:
    """The fields of one object, each read as what it should be."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def odd(self, name: str, expected: str) -> OddDocumentError:
        """Say of a field what it is, and what it should be."""
        which = self._document.get("id")
        told = f" of task {which}" if type(which) is int else ""
        value = quote(self._document[name]) if name in self._document else "missing"
        return OddDocumentError(f"{name}{told} is {value}, not {expected}")

    def text(self, name: str) -> str:
        """Read a text; what is no Unicode in it is replaced."""
        value = self._document.get(name)
        if not isinstance(value, str):
            raise self.odd(name, "a text")
        return _sound(value)

    def text_or_none(self, name: str) -> str | None:
        """Read a text that may be null or missing."""
        return None if self._document.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Read a list of texts that may be null or missing."""
        value = self._document.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.odd(name, "a list of texts")
        return tuple(map(_sound, value))

    def texts_within(self, name: str, inner: str) -> tuple[str, ...]:
        """Read one text of each object in a list that may be missing."""
        value = self._document.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.odd(name, "a list of objects")
        return tuple(_Fields(one).text(inner) for one in value)

    def integer(self, name: str) -> int:
        """Read a whole number."""
        value = self._document.get(name)
        if type(value) is not int or abs(value) > _MOST:
            raise self.odd(name, "a whole number")
        return value

    def number(self, name: str) -> int:
        """Read the number of a task."""
        value = self.integer(name)
        if value < 1:
            raise self.odd(name, "a number from 1")
        return value

    def number_or_none(self, name: str) -> int | None:
        """Read the number of a task that may be null or missing."""
        return None if self._document.get(name) is None else self.number(name)

    def switch(self, name: str) -> bool:
        """Read true or false."""
        value = self._document.get(name)
        if not isinstance(value, bool):
            raise self.odd(name, "true or false")
        return value

    def moment(self, name: str) -> datetime:
        """Read a time; one that names no zone is in UTC, as SQLite writes it."""
        try:
            moment = datetime.fromisoformat(self.text(name))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise self.odd(name, "a time") from error


def _sound(text: str) -> str:
    return text.encode(errors="replace").decode()
