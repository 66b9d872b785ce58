"""What is written in a YAML or JSON file, and in which line?

A tree of plain values that knows its lines, so that every fault can name one.  It holds
what people write in configuration files and nothing cleverer: no anchors, aliases or
tags, nothing nested deeper than a person would, and no key twice.  Scalars mean what
YAML 1.2 says: ``no`` and ``12:30`` are texts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from tinyscheduler.errors import ConfigError
from tinyscheduler.values import dataclass
from tinyscheduler.wording import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 20

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value of the file and the line it starts in; no line for JSON arrays."""

    value: Scalar | tuple[Node, ...] | dict[str, Entry]
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The value of a key, and the line of the key."""

    node: Node
    line: int | None


def read_tree(content: bytes, path: str) -> Node:
    """Read what is in a file as a tree; an empty one is a None.

    Raises ConfigError, naming the file and the line, for anything else than one document
    within the limits above.
    """
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "not UTF-8 text", where=f"{path}:{line}", hint="save it as UTF-8"
        ) from error
    # JSON proper, because YAML refuses the tabs that JSON files are often indented with.
    if text.lstrip().startswith("["):
        return _read_json(path, text)
    try:
        return _Composer(path, text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The end of the file counts as a line of its own to the parser, but not to an editor.
        line = min(mark.line + 1, len(text.splitlines())) if mark else 1
        raise ConfigError(
            f"not YAML: {error.problem or error.context}",
            where=f"{path}:{line}",
            hint="indent with spaces and quote texts that hold ':' or '#'",
        ) from error
    except yaml.reader.ReaderError as error:
        # A character that YAML forbids.  Where it stands is counted in bytes or in characters.
        at = text.find(chr(error.character))
        raise ConfigError(
            f"not YAML: {str(error).splitlines()[0]}",
            where=f"{path}:{_line_at(text, at)}",
            hint="remove control characters from the file",
        ) from error
    except ValueError as error:
        # Without libyaml a number beyond all characters is no error of YAML.
        found = _NO_CHARACTER.search(text)
        raise ConfigError(
            f"not YAML: {error}",
            where=f"{path}:{_line_at(text, found.start() if found else 0)}",
            hint="write characters of Unicode",
        ) from error


_NO_CHARACTER = re.compile(r"\\U(?!00(?:0[0-9A-Fa-f]|10))")


def _line_at(text: str, at: int) -> int:
    return text.count("\n", 0, max(0, at)) + 1


class _Composer:
    """Builds the tree from YAML events, one level of nesting per level of calls."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)

    def document(self) -> Node:
        """Return the only document of the file."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(value=None, line=1)
        root = self._node(next(self._events), depth=0)
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refused(after, "a second document", "keep one document per file")
        return root

    def _node(self, event: Any, *, depth: int) -> Node:  # noqa: ANN401 - PyYAML has no types for events
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._refused(event, "an anchor or alias", "write the value out in each place")
        if event.tag is not None and event.tag != "!":
            raise self._refused(event, f"the tag {quote(event.tag)}", "write plain values")
        if depth > MAX_DEPTH:
            raise self._refused(
                event, "values nested too deeply", f"nest at most {MAX_DEPTH} levels"
            )
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0]
            return Node(value=_scalar(event.value) if plain else event.value, line=line)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, depth=depth + 1))
            return Node(value=tuple(items), line=line)
        return Node(value=self._entries(depth=depth), line=line)

    def _entries(self, *, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refused(event, "a key that is no text", "use plain words as keys")
            if event.value in entries:
                raise ConfigError(
                    f"key {quote(event.value)} is there twice"
                    f" (first in line {entries[event.value].line})",
                    where=f"{self._path}:{line}",
                    hint="keep one of the two",
                )
            node = self._node(next(self._events), depth=depth + 1)
            entries[event.value] = Entry(node=node, line=line)
        return entries

    def _refused(self, event: Any, what: str, fix: str) -> ConfigError:  # noqa: ANN401 - as above
        where = f"{self._path}:{event.start_mark.line + 1}"
        return ConfigError(f"holds {what}", where=where, hint=fix)


_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _scalar(text: str) -> Scalar:
    """Return what an unquoted text means in YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    # Not-a-number and infinity stay texts: no setting may be either.
    return text


def _read_json(path: str, text: str) -> Node:
    try:
        return _from_json(json.loads(text, object_pairs_hook=_Pairs), path=path, depth=0)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"not JSON: {error.msg}",
            where=f"{path}:{error.lineno}",
            hint='write a JSON array such as [{"agentName": "coder", "agentType": "dev"}]',
        ) from error
    except (RecursionError, ValueError) as error:
        # Nested beyond what the parser can follow, or a number of thousands of digits.
        raise ConfigError(
            "holds values nested too deeply or too long", where=path, hint="write plain values"
        ) from error


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, before anybody forgets that one was there twice."""


def _from_json(value: Any, *, path: str, depth: int) -> Node:  # noqa: ANN401 - whatever JSON holds
    if depth > MAX_DEPTH:
        raise ConfigError(
            "holds values nested too deeply",
            where=path,
            hint=f"nest at most {MAX_DEPTH} levels",
        )
    if isinstance(value, _Pairs):
        entries: dict[str, Entry] = {}
        for key, item in value:
            if key in entries:
                raise ConfigError(
                    f"key {quote(key)} is there twice in one object",
                    where=path,
                    hint="keep one of the two",
                )
            node = _from_json(item, path=path, depth=depth + 1)
            entries[key] = Entry(node=node, line=None)
        return Node(value=entries, line=None)
    if isinstance(value, list):
        items = (_from_json(item, path=path, depth=depth + 1) for item in value)
        return Node(value=tuple(items), line=None)
    return Node(value=value, line=None)
