"""Which schedules does a file declare?  Read strictly, each fault with its line and its key.

What is in it becomes the values of the options of the same names, so that a schedule means the
same in a file and on the command line.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tinyscheduler.config import node_values
from tinyscheduler.config.inputs import MAX_FILE_BYTES, read_input
from tinyscheduler.config.problems import Problem, Severity, UnusableError, did_you_mean, quote
from tinyscheduler.config.units import DURATION, SIZE, parse_duration_s, parse_size_bytes
from tinyscheduler.core.firing_times import check_timing
from tinyscheduler.errors import ConfigError, UsageError
from tinyscheduler.model.schedules import CatchUp, Overlap, ScheduleKind, Timing
from tinyscheduler.model.tasks import MOST_TURNS, TASK_ID_RULE, PriorityClass, is_task_id
from tinyscheduler.tree import Entry, Node, read_tree
from tinyscheduler.values import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SCHEDULES = 10_000
STDIN = "-"
_LIKE_THIS = "write `schedules:`, and below it, indented, `NAME:` with its keys"
_MOST_NUMBER = 10**12
_A_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One schedule of a file: the values of its options, and the lines of its keys.

    ``place`` is where it begins.
    """

    name: str
    place: str
    values: dict[str, Any]
    places: dict[str, str]


@dataclass(slots=True, kw_only=True)
class SchedulesFile:
    """What a file declares, and what is wrong with it; ``path`` is absolute, None of stdin."""

    shown: str
    path: str | None
    declared: dict[str, Declared] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def folder(self) -> str | None:
        """What relative paths in it begin from; None where the current folder is gone."""
        if self.path is not None:
            return os.path.dirname(self.path)
        try:
            return os.getcwd()
        except FileNotFoundError:
            return None

    def fault(self, place: str, message: str, fix: str) -> None:
        """Add a problem of this file."""
        self.problems.append(
            Problem(severity=Severity.STRUCTURE, setting=place, message=message, fix=fix)
        )

    def line_of(self, problem: Problem) -> int:
        """Return in which line a problem is; 0 of what is about the whole file."""
        line = problem.setting.removeprefix(f"{self.shown}:").partition(":")[0]
        return int(line) if line.isdecimal() else 0

    def refuse(self) -> None:
        """Raise ConfigError for the first problem, if there is one."""
        if not self.problems:
            return
        first, fix = self.problems[0], self.problems[0].fix
        if len(self.problems) > 1:
            fix += f" (one of {len(self.problems)} problems;"
            fix += f" `tinyscheduler schedule check -f {self.shown}` lists them all)"
        raise ConfigError(first.message, where=first.setting, hint=fix)


def read_schedules_file(name: str) -> SchedulesFile:
    """Read a file, or stdin for ``-``; faults of single keys are collected.

    Raises UsageError if there is no such file, and ConfigError for one that is no YAML, empty,
    not UTF-8, or larger than 1 MiB.
    """
    found = SchedulesFile(
        shown="standard input" if name == STDIN else name,
        path=None if name == STDIN else os.path.realpath(name),
    )
    root = read_tree(_read_stdin() if found.path is None else _read(name), found.shown)
    if root.value is None:
        raise ConfigError("declares nothing", where=found.shown, hint=_LIKE_THIS)
    _Reader(found).document(root)
    return found


def _read(name: str) -> bytes:
    if "\0" in name:
        raise UsageError(f"{quote(name)} is no path", hint="name a file of schedules")
    try:
        # Each schedule keeps who declares it, by the whole path.
        os.path.realpath(name).encode()
    except UnicodeEncodeError as error:
        what = f"the path {quote(name)} is not valid UTF-8"
        raise UsageError(what, hint="give the file and its folder another name") from error
    source = read_input(name, what="file of schedules")
    if source is None:
        raise UsageError(f"there is no file {quote(name)}", hint="name a file of schedules")
    return source.content


def _read_stdin() -> bytes:
    content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            "holds more than 1 MiB", where="standard input", hint="is this the right file?"
        )
    return content


class _Reader:
    def __init__(self, found: SchedulesFile) -> None:
        self._found = found

    def document(self, root: Node) -> None:
        """Read the whole file."""
        if not isinstance(root.value, dict):
            self._found.fault(self._place(root.line), "holds no mapping", _LIKE_THIS)
            return
        for key, entry in root.value.items():
            if key == "version":
                if entry.node.value != 1:
                    message = "a version this program does not know"
                    self._found.fault(self._place(entry.line), message, "use version: 1")
            elif key != "schedules":
                fix = did_you_mean(key, ("schedules", "version"))
                self._found.fault(self._place(entry.line), f"unknown key {quote(key)}", fix)
        if "schedules" not in root.value:
            self._found.fault(self._place(root.line), "there is no key `schedules`", _LIKE_THIS)
        else:
            self._schedules(root.value["schedules"])

    def _schedules(self, entry: Entry) -> None:
        match entry.node.value:
            case dict() as named:
                if len(named) > MOST_SCHEDULES:
                    message = f"declares {len(named)} schedules; at most {MOST_SCHEDULES} are read"
                    self._found.fault(self._place(entry.line), message, "use several files")
                    return
                for name, item in named.items():
                    self._schedule(name, item)
            case tuple() as listed:
                for number, node in enumerate(listed, start=1):
                    self._listed(number, node)
            case None:
                self._found.fault(
                    self._place(entry.line),
                    "schedules is empty",
                    "write `schedules: {}` if that is meant",
                )
            case _:
                self._found.fault(self._place(entry.line), "schedules is no mapping", _LIKE_THIS)

    def _listed(self, number: int, node: Node) -> None:
        """Read one item of a list, which says its name itself."""
        place = self._place(node.line)
        if not isinstance(node.value, dict):
            self._found.fault(place, f"schedule {number} is no mapping", "write `- name: NAME`")
            return
        named = node.value.get("name")
        name = None if named is None else named.node.value
        if not isinstance(name, str):
            self._found.fault(place, f"schedule {number} has no name", f"name: {TASK_ID_RULE}")
            return
        if name in self._found.declared:
            first = self._found.declared[name].place
            message = f"schedule {quote(name)} is there twice (first in {first})"
            self._found.fault(place, message, "keep one of the two")
            return
        rest = {key: entry for key, entry in node.value.items() if key != "name"}
        self._schedule(name, Entry(node=Node(value=rest, line=node.line), line=node.line))

    def _schedule(self, name: str, entry: Entry) -> None:
        place = self._place(entry.line)
        if not is_task_id(name):
            self._found.fault(place, f"schedule {quote(name)} is no name", TASK_ID_RULE)
            return
        if not isinstance(entry.node.value, dict):
            message = f"schedule {name} is no mapping"
            self._found.fault(place, message, "write its keys below it, indented")
            return
        values: dict[str, Any] = dict.fromkeys(PARAMETERS)
        places: dict[str, str] = {}
        for key, item in entry.node.value.items():
            at = f"{self._place(item.line)}: {name}.{key}"
            if key not in KEYS:
                self._found.fault(at, "unknown key", did_you_mean(key, KEYS))
                continue
            parameter, parse = KEYS[key]
            places[parameter] = at
            try:
                values[parameter] = parse(item.node)
            except UnusableError as error:
                # Without an expectation the sentence names the value itself.
                what = f"{_written(item.node)} {error.because}" if error.expected else error.because
                self._found.fault(at, what, error.fix or f"write {error.expected}")
        if values["prompt_file"] is not None:
            path = os.path.expanduser(values["prompt_file"])
            values["prompt_file"] = os.path.join(self._found.folder or "", path)
        self._found.declared[name] = Declared(
            name=name, place=f"{place}: {name}", values=values, places=places
        )

    def _place(self, line: int | None) -> str:
        return self._found.shown if line is None else f"{self._found.shown}:{line}"


def _written(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case tuple():
            return "a list"
        case None:
            return "nothing"
        case bool():
            return str(node.value).lower()
        case str():
            return quote(node.value)
        case _:
            return str(node.value)


# -- values ---------------------------------------------------------------------------


def _text(node: Node) -> str:
    if not isinstance(node.value, str) or "\0" in node.value:
        raise UnusableError("a text")
    return node.value


def _name(node: Node) -> str:
    # Unquoted digits are a name too.
    return str(node.value) if type(node.value) is int else _text(node)


def _whole(least: int, most: int = _MOST_NUMBER) -> Callable[[Node], int]:
    def parse(node: Node) -> int:
        # bool is an int to Python.
        if type(node.value) is not int or not least <= node.value <= most:
            raise UnusableError(f"a whole number from {least} to {most}")
        return node.value

    return parse


def _duration(node: Node) -> str:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnusableError(DURATION)
    try:
        parse_duration_s(value)
    except ValueError as error:
        raise UnusableError(DURATION) from error
    return str(value)


def _size(node: Node) -> str:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnusableError(SIZE)
    try:
        parse_size_bytes(value)
    except ValueError as error:
        raise UnusableError(SIZE) from error
    return str(value)


def _time(node: Node) -> str:
    expected = "a time such as 2026-12-24T18:00"
    try:
        datetime.fromisoformat(_text(node).strip()).astimezone()
    except (UnusableError, ValueError, OverflowError) as error:
        # So long from now would be another time whenever the file is applied.
        raise UnusableError(expected) from error
    return _text(node)


def _word(words: type[StrEnum]) -> Callable[[Node], StrEnum]:
    def parse(node: Node) -> StrEnum:
        text = "none" if node.value is None else node.value
        if text not in tuple(words):
            raise UnusableError("one of " + ", ".join(words))
        return words(text)

    return parse


def _argv(node: Node) -> list[str]:
    expected = 'a list of texts such as ["./backup.sh", "--all"], the program first'
    if not isinstance(node.value, tuple) or not node.value:
        raise UnusableError(expected)
    for number, item in enumerate(node.value, start=1):
        if not isinstance(item.value, str):
            because = f"has {_written(item)} as item {number}, which is no text"
            raise UnusableError(expected, because=because, fix="write it in quotes")
        if "\0" in item.value:
            raise UnusableError(expected, because=f"holds a NUL in item {number}")
    return [str(item.value) for item in node.value]


def _pairs(node: Node) -> list[str]:
    expected = "a mapping of texts such as {team: infra}"
    if not isinstance(node.value, dict):
        raise UnusableError(expected)
    found = []
    for key, entry in node.value.items():
        value = entry.node.value
        if isinstance(value, bool) or not isinstance(value, str | int):
            because = f"says {_written(entry.node)} for {quote(key)}, which is no text"
            raise UnusableError(expected, because=because, fix="write it in quotes")
        if not key or "=" in key or "\0" in f"{key}{value}":
            raise UnusableError(expected, because=f"has the key {quote(key)}, which is no name")
        found.append(f"{key}={value}")
    return found


def _timed(name: str) -> Callable[[Node], str]:
    """Return a parser of what is one half of a timing: what is wrong with it alone is told here."""

    def parse(node: Node) -> str:
        text = _text(node)
        timing = Timing(cron=text) if name == "cron" else Timing(every_s=_A_MINUTE_S, zone=text)
        try:
            check_timing(timing)
        except ValueError as error:
            raise UnusableError("", because=str(error), fix=_FIX_OF_HALF[name]) from error
        return text

    return parse


_FIX_OF_HALF = {
    "cron": 'five fields such as "30 7 * * 1-5", or @daily',
    "zone": "an IANA name such as Europe/Warsaw",
}
# Each key, the parameter of `schedule` that it is, and how it is read.
KEYS: dict[str, tuple[str, Callable[[Node], Any]]] = {
    "cron": ("cron", _timed("cron")),
    "every": ("every", _duration),
    "at": ("at", _time),
    "tz": ("tz", _timed("zone")),
    "jitter": ("jitter", _duration),
    "active_hours": ("active_hours", _text),
    "overlap": ("overlap", _word(Overlap)),
    "catch_up": ("catch_up", _word(CatchUp)),
    "catch_up_window": ("catch_up_window", _duration),
    "max_firings": ("max_firings", _whole(1)),
    "expires": ("expires", _time),
    "max_run_duration": ("max_run_duration", _duration),
    "kind": ("kind", _word(ScheduleKind)),
    "max_per_day": ("max_per_day", _whole(1)),
    "checklist": ("checklist", _text),
    "agent": ("agent", _name),
    "queue": ("queue", _name),
    "title": ("title", _text),
    "command": ("command", _argv),
    "prompt": ("prompt", _text),
    "prompt_file": ("prompt_file", _text),
    "recipe": ("recipe", _text),
    "priority": ("priority", _whole(-_MOST_NUMBER)),
    "class": ("priority_class", _word(PriorityClass)),
    "gpus": ("gpus", _whole(0)),
    "vram": ("vram", _size),
    "memory": ("memory", _size),
    "model": ("model", _text),
    "seed": ("seed", _whole(-_MOST_NUMBER)),
    "tenant": ("tenant", _name),
    "project": ("project", _name),
    "max_turns": ("max_turns", _whole(1, MOST_TURNS)),
    "max_tokens": ("max_tokens", node_values.count),
    "max_cost": ("max_cost", node_values.amount),
    "max_attempts": ("max_attempts", _whole(1)),
    "labels": ("label", _pairs),
    "cwd": ("cwd", _text),
    "env": ("env", _pairs),
}
PARAMETERS = tuple(parameter for parameter, _ in KEYS.values())
SPELLING = {parameter: key for key, (parameter, _) in KEYS.items()}
