"""``add --from``: one JSON object a line, checked strictly, all of them or none."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tinyscheduler.cli.wish import Wish
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import TinySchedulerError, UsageError
from tinyscheduler.model.tasks import MOST_COST_USD, PriorityClass
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.cli.wish import Granter
    from tinyscheduler.model.tasks import TaskSpec

_LIKE_THIS = 'a line looks like {"command": ["ls", "-l"], "priority": 1, "after": ["7"]}'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much one batch may be: tasks, bytes of one line, and bytes of all together."""

    lines: int = 100_000
    line_bytes: int = 64 << 20
    bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The tasks of a file with their keys, and where each stands in it."""

    specs: tuple[tuple[str | None, TaskSpec], ...]
    places: tuple[str, ...]


def read_batch(name: str, granter: Granter, *, limits: BatchLimits = BatchLimits()) -> Batch:
    """Read a whole batch from a file, or from stdin for ``-``.

    Raises UsageError naming the line and the fault; nothing has been added then.
    """
    shown = "standard input" if name == "-" else name
    specs: list[tuple[str | None, TaskSpec]] = []
    places: list[str] = []
    with _open(name) as file:
        for number, line in _lines(file, shown, limits):
            place = f"{shown}, line {number}"
            try:
                key, wish = _read_line(line)
                specs.append((key, granter.grant(wish)))
            except TinySchedulerError as error:
                raise UsageError(
                    f"{place}: {error.what}; nothing was added", hint=error.hint or _LIKE_THIS
                ) from error
            places.append(place)
    if not specs:
        raise UsageError(
            f"there is no task in {shown}", hint='write one JSON object a line: {"command": ["ls"]}'
        )
    return Batch(specs=tuple(specs), places=tuple(places))


def _open(name: str) -> IO[bytes]:
    try:
        if name == "-":
            return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
        return open(name, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read {name}: {reason}", hint="name a file of JSON lines, or - for stdin"
        ) from error


def _lines(file: IO[bytes], shown: str, limits: BatchLimits) -> Iterator[tuple[int, bytes]]:
    """Return the lines that say something, with their numbers from 1."""
    total, said, number = 0, 0, 0
    while line := _next_line(file, shown, limits.line_bytes):
        number += 1
        total += len(line)
        for what, size, most in (
            ("line", len(line), limits.line_bytes),
            ("batch", total, limits.bytes),
        ):
            if size > most:
                raise UsageError(
                    f"{shown}, line {number}: the {what} is longer than {most} bytes;"
                    " nothing was added",
                    hint="split the batch",
                )
        text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
        if text.strip():
            said += 1
            if said > limits.lines:
                raise UsageError(
                    f"{shown} has more than {limits.lines} tasks; nothing was added",
                    hint="split the batch",
                )
            yield number, text


def _next_line(file: IO[bytes], shown: str, most_bytes: int) -> bytes:
    try:
        return file.readline(most_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror}") from error


def _read_line(line: bytes) -> tuple[str | None, Wish]:
    try:
        document = json.loads(
            line.rstrip().decode("utf-8"),
            object_pairs_hook=_each_once,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise UsageError(
            f"byte {error.start + 1} is not UTF-8", hint="save the file as UTF-8"
        ) from error
    except RecursionError as error:
        raise UsageError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"it is not JSON: {error.msg} at column {error.colno}", hint="write one object a line"
        ) from error
    except ValueError as error:
        raise UsageError("it holds a number of thousands of digits") from error
    if not isinstance(document, dict):
        raise UsageError(
            f"{quote(document)} is not an object", hint='write {"command": ["ls"]} or the like'
        )
    fields: dict[str, Any] = {}
    for name, value in document.items():
        if name not in _FIELDS:
            raise UsageError(f"the key {quote(name)} is unknown", hint=did_you_mean(name, _FIELDS))
        # Null says no more than a missing key does.
        if value is not None:
            fields[name] = _FIELDS[name](name, value)
    key = fields.pop("key", None)
    if "class" in fields:
        fields["priority_class"] = fields.pop("class")
    return key, Wish(**fields)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise UsageError(f"the key {quote(name)} is there twice")
        fields[name] = value
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise UsageError(f"{name} is not a JSON number")


def _wrong(name: str, value: object, expected: str) -> NoReturn:
    raise UsageError(f"{name} should be {expected}, not {quote(value)}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        _wrong(name, value, "a text")
    return value


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _wrong(name, value, "a whole number")
    return value


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(name, value, "a number such as 2.5")
    if not 0 < value <= MOST_COST_USD:
        _wrong(name, value, "a number above 0")
    return float(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _wrong(name, value, "true or false")
    return value


def _size(name: str, value: object) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        _wrong(name, value, "a size such as 14G")
    return value


def _duration(name: str, value: object) -> str | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        _wrong(name, value, "a duration such as 15m, or a number of seconds")
    return value


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        _wrong(name, value, "a list of texts")
    return tuple(value)


def _ids(name: str, value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int) for item in items):
        _wrong(name, value, "a list of task ids or keys")
    return tuple(str(item) for item in items)


def _pairs(name: str, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        _wrong(name, value, "an object of texts")
    return tuple(value.items())


def _class(name: str, value: object) -> PriorityClass:
    try:
        return PriorityClass(_text(name, value))
    except ValueError:
        _wrong(name, value, " or ".join(PriorityClass))


def _command(name: str, value: object) -> tuple[str, ...]:
    command = _texts(name, value)
    if not command:
        _wrong(name, value, "a list of at least one text")
    return command


_FIELDS: dict[str, Callable[[str, object], Any]] = {
    "key": _text,
    "agent": _text,
    "queue": _text,
    "title": _text,
    "command": _command,
    "prompt": _text,
    "recipe": _text,
    "priority": _integer,
    "class": _class,
    "gpus": _integer,
    "vram": _size,
    "memory": _size,
    "model": _text,
    "seed": _integer,
    "tenant": _text,
    "project": _text,
    "max_runtime": _duration,
    "max_turns": _integer,
    "max_tokens": _integer,
    "max_cost": _amount,
    "max_attempts": _integer,
    "after": _ids,
    "not_before": _text,
    "labels": _pairs,
    "cwd": _text,
    "env": _pairs,
    "hold": _flag,
}
