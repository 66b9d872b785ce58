"""What may stand at one key of a file?  Parsers of single values, each refusing all else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from tinyscheduler.config.inputs import PREFIX, fault_in_path
from tinyscheduler.config.problems import UnusableError, did_you_mean, quote
from tinyscheduler.config.settings import MAX_NUMBER
from tinyscheduler.config.units import (
    COUNT,
    DURATION,
    SIZE,
    parse_count,
    parse_duration_s,
    parse_size_bytes,
)
from tinyscheduler.model.tasks import TASK_ID_RULE, is_task_id
from tinyscheduler.tree import Entry, Node

_MAX_ITEM_CHARACTERS = 128 * 1024
_MAX_ADDRESS_CHARACTERS = 2048
_LEAST_WEIGHT = 0.001
_WEIGHT = "a number from 0.001 to 1000"
_AMOUNT = "a number above 0 such as 10 or 2.5"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What looks like a placeholder and must be a known one.  ${NAME} belongs to a shell; JSON,
# awk and the like have more in their braces than one word.
_PLACEHOLDER = re.compile(r"(?<![${])\{([a-z_]+)\}(?!\})")

# Returns one value in its own type, or raises UnusableError.
Parser = Callable[[Node], Any]


def written(node: Node) -> str:
    """Say what stands there, for a message."""
    match node.value:
        case dict():
            return "a mapping"
        case tuple():
            return "a list"
        case True | False:
            return str(node.value).lower()
        case None:
            return "empty"
        case str():
            return quote(node.value)
        case _:
            return str(node.value)


def whole(minimum: int, maximum: int = MAX_NUMBER) -> Parser:
    """Return a parser of whole numbers within bounds."""

    def parse(node: Node) -> int:
        # bool is an int to Python; `limit: true` is none to anybody else.
        if type(node.value) is not int or not minimum <= node.value <= maximum:
            raise UnusableError(f"a whole number from {minimum} to {maximum}")
        return node.value

    return parse


def duration(node: Node) -> float:
    """Read a duration in seconds; none of no length."""
    try:
        seconds = parse_duration_s(node.value if isinstance(node.value, (str, int, float)) else "")
    except ValueError as error:
        raise UnusableError(DURATION) from error
    if seconds == 0:
        raise UnusableError(DURATION, because="is no time at all")
    return seconds


def size(node: Node) -> int:
    """Read a size in bytes."""
    try:
        return parse_size_bytes(node.value if isinstance(node.value, (str, int)) else "")
    except ValueError as error:
        raise UnusableError(SIZE) from error


def count(node: Node) -> int:
    """Read a number that may end with k, M or G, for thousands of them."""
    try:
        return parse_count("" if isinstance(node.value, bool) else str(node.value))
    except ValueError as error:
        raise UnusableError(COUNT) from error


def amount(node: Node) -> float:
    """Read a number above 0."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableError(_AMOUNT)
    if not 0 < value <= MAX_NUMBER:
        raise UnusableError(_AMOUNT)
    return float(value)


def minutes(node: Node) -> float:
    """Read minutes, in seconds."""
    return 60 * amount(node)


def name(node: Node) -> str:
    """Read the name of a queue or the like."""
    # Unquoted digits are a name too, such as a queue called 7.
    text = str(node.value) if type(node.value) is int else node.value
    if not isinstance(text, str) or not is_task_id(text):
        raise UnusableError(f"a name ({TASK_ID_RULE})")
    return text


def text(node: Node) -> str:
    """Read a text that can be printed."""
    if not isinstance(node.value, str) or fault_in_path(node.value):
        raise UnusableError("a text")
    return node.value


def names(node: Node) -> tuple[str, ...]:
    """Read a name, or a list of them, each once."""
    items = node.value if isinstance(node.value, tuple) else (node,)
    if not items:
        raise UnusableError("the name of a host, or a list of them")
    return tuple(dict.fromkeys(name(item) for item in items))


def entries(node: Node) -> dict[str, Entry]:
    """Read a mapping by its keys."""
    match node.value:
        case dict() as entries:
            return entries
        case None:
            return {}
        case _:
            raise UnusableError("a mapping of model names")


def weight(node: Node) -> float:
    """Read a weight."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableError(_WEIGHT)
    if not _LEAST_WEIGHT <= value <= 1 / _LEAST_WEIGHT:
        raise UnusableError(_WEIGHT)
    return float(value)


def address(node: Node) -> str:
    """Read where a server answers."""
    if (
        not isinstance(node.value, str)
        or not node.value.isprintable()
        or not node.value.strip()
        or " " in node.value
        or len(node.value) > _MAX_ADDRESS_CHARACTERS
    ):
        raise UnusableError("an address such as http://gpu-box:8080 or 10.0.0.5")
    return node.value


def word(words: Iterable[str]) -> Parser:
    """Return a parser of one of these words."""
    known = tuple(words)

    def parse(node: Node) -> str:
        if not isinstance(node.value, str) or node.value not in known:
            raise UnusableError("one of " + ", ".join(known))
        return node.value

    return parse


def member(members: type[StrEnum]) -> Parser:
    """Return a parser of one of these members."""

    def parse(node: Node) -> StrEnum:
        # `stdin: null` is how YAML writes nothing.
        text = "null" if node.value is None else node.value
        if text not in tuple(members):
            raise UnusableError("one of " + ", ".join(members))
        return members(text)

    return parse


def variables(node: Node) -> tuple[str, ...]:
    """Read names of variables, none of them of the program itself."""
    expected = "a list of variable names such as [OPENAI_API_KEY]"
    if not isinstance(node.value, tuple):
        raise UnusableError(expected)
    names = []
    for number, item in enumerate(node.value, start=1):
        if not isinstance(item.value, str) or not _VARIABLE.fullmatch(item.value):
            # Not as it is written: somebody may have put the value of a key behind its name.
            because = f"item {number} is not the name of a variable"
            raise UnusableError(expected, because=because)
        if item.value.startswith(PREFIX):
            raise UnusableError(
                expected, because=f"names a variable of the program's own ({PREFIX}...)"
            )
        names.append(item.value)
    return tuple(dict.fromkeys(names))


def _unquoted(item: Node, *, number: int, expected: str) -> UnusableError:
    """Return the fault of an item that YAML takes for something else than a text."""
    example = ""
    match item.value:
        case int() if type(item.value) is int:
            example = f': "{item.value}"'
        case dict() as keys if len(keys) == 1:
            # {prompt} without quotes is a mapping.
            example = f', such as "{{{next(iter(keys))}}}"'
    return UnusableError(
        expected,
        because=f"item {number} is {written(item)}, not a text",
        fix=f"write it in quotes{example}",
    )


def command(known: tuple[str, ...]) -> Parser:
    """Return a parser of an argv that may hold these placeholders."""
    expected = 'a list of texts such as ["goose", "run"], the program first'

    def parse(node: Node) -> tuple[str, ...]:
        if not isinstance(node.value, tuple):
            raise UnusableError(expected)
        argv = []
        for number, one in enumerate(node.value, start=1):
            if not isinstance(one.value, str):
                raise _unquoted(one, number=number, expected=expected)
            argv.append(one.value)
        if not argv or not argv[0].strip():
            raise UnusableError(expected, because="names no program")
        for item in argv:
            if "\0" in item or len(item) > _MAX_ITEM_CHARACTERS:
                raise UnusableError(
                    expected, because="holds a NUL byte, or a text longer than 128 KiB"
                )
            unknown = [name for name in _PLACEHOLDER.findall(item) if name not in known]
            if unknown:
                raise UnusableError(
                    expected,
                    because=f"holds the unknown placeholder {{{unknown[0]}}}",
                    fix=f"{did_you_mean(unknown[0], known)}"
                    " (braces with a space inside are left alone)",
                )
        return tuple(argv)

    return parse
