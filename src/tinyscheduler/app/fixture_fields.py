"""Which fields may a fixture of a policy have, and what may each of them hold?

Faults are told with the line they stand in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinyscheduler.config.problems import UnusableError, did_you_mean, quote
from tinyscheduler.config.units import DURATION, SIZE, parse_duration_s, parse_size_bytes
from tinyscheduler.errors import CAUSES, ConfigError
from tinyscheduler.model.resources import Pressure
from tinyscheduler.model.tasks import TASK_ID_RULE, PriorityClass, is_task_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tinyscheduler.tree import Entry, Node

LONGEST_NAME = 200
_ACTIONS = ("dispatch", "wait", "evict", "start_worker")
_MOST_NUMBER = 10**15
# Beyond, not every place on Earth has a time.
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


class Place:
    """The file; names the line of each fault."""

    def __init__(self, path: str) -> None:
        self.path = path

    def at(self, line: int | None) -> str:
        """Return where that line is."""
        return self.path if line is None else f"{self.path}:{line}"

    def fault(self, line: int | None, message: str, fix: str) -> ConfigError:
        """Return what is wrong in that line, to be raised."""
        return ConfigError(message, where=self.at(line), hint=fix)

    def entries(self, node: Node, what: str, known: Sequence[str]) -> dict[str, Entry]:
        """Return the keys of a mapping, each of which is known."""
        if not isinstance(node.value, dict):
            raise self.fault(
                node.line, f"{what} is {written(node)}, no mapping", f"keys: {', '.join(known)}"
            )
        for key, entry in node.value.items():
            if key not in known:
                raise self.fault(
                    entry.line, f"unknown key {quote(key)} of {what}", did_you_mean(key, known)
                )
        return node.value

    def fields(
        self, node: Node, what: str, parsers: Mapping[str, Callable[[Node], Any]]
    ) -> dict[str, Any]:
        """Return the values of a mapping by its keys; a null stands for a key left out."""
        values = {}
        for key, entry in self.entries(node, what, tuple(parsers)).items():
            if entry.node.value is None:
                continue
            try:
                values[key] = parsers[key](entry.node)
            except UnusableError as error:
                raise self.fault(
                    entry.line,
                    f"{key} of {what}: {written(entry.node)} {error.because}",
                    f"set {key} to {error.expected}",
                ) from error
        return values

    def items(self, entry: Entry | None, what: str) -> tuple[Node, ...]:
        """Return the items of a list; none where the key is left out or null."""
        if entry is None or entry.node.value is None:
            return ()
        if not isinstance(entry.node.value, tuple):
            raise self.fault(
                entry.line,
                f"{what} is {written(entry.node)}, no list",
                "write one item a line, after -",
            )
        return entry.node.value

    def refuse_twins(self, what: str, named: Sequence[tuple[str, Node]]) -> None:
        """Raise the fault of the first that is called as one before it."""
        seen: set[str] = set()
        for name, node in named:
            if name in seen:
                raise self.fault(
                    node.line, f"{what} {quote(name)} is there twice", "give one another name"
                )
            seen.add(name)


# -- single values --------------------------------------------------------------------


def written(node: Node) -> str:
    """Return a value as a message quotes it."""
    if isinstance(node.value, tuple):
        return "a list"
    return "a mapping" if isinstance(node.value, dict) else quote(node.value)


def _text(node: Node) -> str:
    value = node.value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value or len(value) > LONGEST_NAME:
        raise UnusableError(f"a text of at most {LONGEST_NAME} characters")
    return value


def _name(node: Node) -> str:
    text = _text(node)
    if not is_task_id(text):
        raise UnusableError(f"a name: {TASK_ID_RULE}")
    return text


def _one_of(*known: str) -> Callable[[Node], str]:
    def parse(node: Node) -> str:
        if node.value not in known:
            raise UnusableError(f"one of {', '.join(known)}")
        return str(node.value)

    return parse


def _whole(*, least: int) -> Callable[[Node], int]:
    def parse(node: Node) -> int:
        value = node.value
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not least <= value <= _MOST_NUMBER
        ):
            raise UnusableError(f"a whole number from {least} to {_MOST_NUMBER}")
        return value

    return parse


def _number(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MOST_NUMBER:
        raise UnusableError("a number")
    return value


def _truth(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise UnusableError("true or false")
    return node.value


def _size(node: Node) -> int:
    """Read bytes, as a policy is told them, or a size as people write it."""
    if isinstance(node.value, str):
        try:
            return parse_size_bytes(node.value)
        except ValueError as error:
            raise UnusableError(f"bytes, or {SIZE}") from error
    return _whole(least=0)(node)


def _milliseconds(node: Node) -> int:
    if isinstance(node.value, str):
        try:
            return round(parse_duration_s(node.value) * 1000)
        except ValueError as error:
            raise UnusableError(f"milliseconds, or {DURATION}") from error
    return _whole(least=0)(node)


def _moment(node: Node) -> datetime:
    expected = "a time such as 2026-03-02T09:30, here, or 2026-03-02T09:30Z"
    try:
        moment = datetime.fromisoformat(_text(node))
        if not _FIRST_YEAR < moment.year < _LAST_YEAR:
            raise UnusableError(f"{expected}, after {_FIRST_YEAR} and before {_LAST_YEAR}")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        if isinstance(error, UnusableError):
            raise
        raise UnusableError(expected) from error


def _list_of(parse: Callable[[Node], str]) -> Callable[[Node], tuple[str, ...]]:
    def parse_all(node: Node) -> tuple[str, ...]:
        if not isinstance(node.value, tuple):
            raise UnusableError("a list, such as [a, b]", because="is no list")
        return tuple(parse(item) for item in node.value)

    return parse_all


def _labels(node: Node) -> tuple[tuple[str, str], ...]:
    if not isinstance(node.value, dict):
        raise UnusableError("a mapping of texts, such as {team: red}", because="is no mapping")
    return tuple((key, _label(entry.node)) for key, entry in node.value.items())


def _label(node: Node) -> str:
    # `add --label` takes whatever is typed as a text.
    if isinstance(node.value, tuple | dict | bool) or node.value is None:
        raise UnusableError(
            "a mapping of texts: put values in quotes", because="holds what is no text"
        )
    return str(node.value)


def _start_worker(node: Node) -> dict[str, str]:
    known = ("model_ref", "pool_id", "gpu_id")
    if not isinstance(node.value, dict) or not set(node.value) <= set(known):
        raise UnusableError(f"a mapping of {', '.join(known)}", because="is no such mapping")
    return {key: _text(entry.node) for key, entry in node.value.items()}


GIVEN = (
    "now",
    "queue",
    "agents",
    "gpus",
    "models",
    "tenants",
    "slots",
    "memory",
    "memory_pressure",
)
PLAIN: Mapping[str, Callable[[Node], Any]] = {
    "now": _moment,
    "slots": _whole(least=0),
    "memory": _size,
    "memory_pressure": _one_of(*(one.value for one in Pressure)),
}
# The first of each names it.
JOB: Mapping[str, Callable[[Node], Any]] = {
    "id": _name,
    "priority": _one_of(*(one.value for one in PriorityClass)),
    "rank": _whole(least=-_MOST_NUMBER),
    "agent": _name,
    "queue": _name,
    "agents": _list_of(_name),
    "model_ref": _text,
    "title": _text,
    "seed": _whole(least=-_MOST_NUMBER),
    "tenant": _text,
    "project": _text,
    "vram": _size,
    "memory": _size,
    "gpus": _whole(least=0),
    "age_ms": _milliseconds,
    "attempts": _whole(least=0),
    "skips": _whole(least=0),
    "blocks": _whole(least=0),
    "turn": _number,
    "order": _whole(least=0),
    "labels": _labels,
}
AGENT: Mapping[str, Callable[[Node], Any]] = {
    "name": _name,
    "queue": _name,
    "limit": _whole(least=0),
    "active": _whole(least=0),
    "free": _whole(least=0),
    "is_interactive": _truth,
}
GPU: Mapping[str, Callable[[Node], Any]] = {
    "id": _text,
    "uuid": _text,
    "index": _whole(least=0),
    "name": _text,
    "vram_total": _size,
    "vram_allocated": _size,
    "vram_free": _size,
    "is_idle": _truth,
    "is_known": _truth,
}
MODEL: Mapping[str, Callable[[Node], Any]] = {
    "model_ref": _text,
    "host": _text,
    "slots": _whole(least=0),
    "used": _whole(least=0),
}
TENANT: Mapping[str, Callable[[Node], Any]] = {
    "id": _text,
    "quota_vram": _size,
    "quota_used": _size,
    "quota_slots": _whole(least=0),
    "slots_used": _whole(least=0),
}
EXPECT: Mapping[str, Callable[[Node], Any]] = {
    "starts": _list_of(_name),
    "waits": _list_of(_name),
    "fault": _one_of(*CAUSES),
}
DECISION: Mapping[str, Callable[[Node], Any]] = {
    "action": _one_of(*_ACTIONS),
    "job_id": _text,
    "worker_id": _text,
    "agent": _text,
    "pool_id": _text,
    "gpu_id": _text,
    "evict_worker_id": _text,
    "reason": _text,
    "duration_ms": _milliseconds,
    "retry_after_ms": _milliseconds,
    "start_worker": _start_worker,
}
