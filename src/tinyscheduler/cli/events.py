"""``events``: what happened, as it was told, and as it is being told."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import (
    SCHEMA_VERSION,
    Ink,
    Page,
    count,
    emit,
    escape,
    wrap,
)
from tinyscheduler.cli.standing import check_task_ids
from tinyscheduler.errors import EXIT_DONE, StoreError
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.model.events import EventName
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.model.config import Config
    from tinyscheduler.ports import Clock

_DEFAULT_LINES = 20
_MOST_LINES = 1_000_000
_BLOCK_BYTES = 1 << 18
# A line longer than that was written by nobody of ours.
_LONGEST_LINE_BYTES = 1 << 20
# How far back a search goes, over all files together.
_MOST_SEARCHED_BYTES = 1 << 28
_MOST_ROTATED = 100
_UNREADABLE = "check its owner, its mode and its disk"
_GLANCE_S = 0.2
_DECIDING = ("target", "exit_code", "reason")
_NAME_WIDTH = max(map(len, EventName))
_INK_OF_EVENT = {
    "task.failed": Ink.RED,
    "task.parked": Ink.YELLOW,
    "task.finished": Ink.GREEN,
    "lease.corrupt": Ink.RED,
    "lease.reclaimed": Ink.YELLOW,
    "source.down": Ink.RED,
    "gpu.misplaced": Ink.YELLOW,
}


def events(
    context: typer.Context,
    *,
    follow: Annotated[bool, option("--follow", "-f", help="Go on with those that come.")] = False,
    lines: Annotated[
        int,
        option(
            "--lines",
            "-n",
            parser=whole_number(least=0, most=_MOST_LINES),
            metavar="N",
            help="The last so many.",
        ),
    ] = _DEFAULT_LINES,
    event: Annotated[
        str | None,
        option(metavar="EVENT", help="Only this event; task.* means all of tasks."),
    ] = None,
    task: Annotated[str | None, option(metavar="ID", help="Only of this task.")] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document a line.")] = False,
) -> int:
    """Show what happened, the newest last."""
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.clock_system import SystemClock
    from tinyscheduler.app.place import refuse_foreign_state

    config = invocation.configure_reading()
    refuse_foreign_state(config)
    if task is not None:
        check_task_ids([task])
    wanted = Wanted(event=event, task_id=task)
    printer = Printer(wanted=wanted, page=invocation.page, as_json=json)
    tail = Tail(config.paths.events)
    for line in last_lines(config.paths.events, wanted, number=lines, until=tail.start()):
        printer.print(line)
    if printer.printed == 0:
        _look_for_slip(wanted, config, invocation)
    if not follow:
        if printer.printed == 0 and lines:
            invocation.note("no such event is on record")
    else:
        _follow(tail, printer, SystemClock(), invocation)
    _tell_broken(printer, invocation)
    return EXIT_DONE


def _look_for_slip(wanted: Wanted, config: Config, invocation: Invocation) -> None:
    """Say if nothing is found because nothing of that name is; NotFoundError for a task."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    if wanted.event is not None and not any(fnmatchcase(one, wanted.event) for one in EventName):
        invocation.note_unknown("event", wanted.event, EventName)
    if wanted.task_id is not None:
        # One that was pruned is no task any more, but what happened to it is on record.
        open_queue(config, Access.READ).tasks.task(wanted.task_id)


def _follow(tail: Tail, printer: Printer, clock: Clock, invocation: Invocation) -> None:
    while True:
        for line in tail.read():
            printer.print(line)
        _tell_broken(printer, invocation)
        clock.sleep(_GLANCE_S)


def _tell_broken(printer: Printer, invocation: Invocation) -> None:
    if printer.broken:
        invocation.note(f"{count(printer.broken, 'broken line')} skipped")
        printer.broken = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are asked for; None means any."""

    event: str | None
    task_id: str | None

    def fits(self, document: Mapping[str, Any]) -> bool:
        """Whether this one is."""
        if self.task_id is not None and str(document.get("task_id")) != self.task_id:
            return False
        return self.event is None or fnmatchcase(str(document.get("event")), self.event)


@dataclass(slots=True, kw_only=True)
class Printer:
    """Prints events that fit, and counts the lines that are none."""

    wanted: Wanted
    page: Page
    as_json: bool
    printed: int = 0
    broken: int = 0

    def print(self, line: bytes) -> None:
        """Print one line of the file, if it is wanted."""
        document = parse(line)
        if document is None:
            self.broken += 1
        elif self.wanted.fits(document):
            self.printed += 1
            if self.as_json:
                emit(dumps({"schema_version": SCHEMA_VERSION, **document}))
            else:
                emit(describe(document, self.page))


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the event on a line; None if there is none."""
    try:
        document = loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "event" in document else None


def describe(document: Mapping[str, Any], page: Page) -> str:
    """Return a line for people: when, what, and what is known of it, what decides first."""
    name = escape(str(document["event"]))
    words = [f"task {document['task_id']}"] if document.get("task_id") is not None else []
    words += [
        f"{key}={_value(document[key])}"
        for key in dict.fromkeys((*_DECIDING, *document))
        if document.get(key) is not None and key not in ("ts", "event", "task_id")
    ]
    line = f"{document.get('ts', '-')}  {name:<{_NAME_WIDTH}}  {escape(' '.join(words))}".rstrip()
    # Painted after it was wrapped, which would count the escape sequences as letters.
    return "\n".join(wrap(escape(line), page)).replace(
        name, page.paint(name, _INK_OF_EVENT.get(name, Ink.PLAIN)), 1
    )


def _value(value: object) -> str:
    return value if isinstance(value, str) else dumps(value)


def last_lines(path: str, wanted: Wanted, *, number: int, until: int) -> Sequence[bytes]:
    """Return the last lines that are wanted, oldest first, rotated files included.

    Lines that hold no event are among them, so that they can be counted.  ``until`` is
    where the newest file counts as ended.
    """
    found: deque[bytes] = deque()
    left = number
    for line in _backwards(path, until):
        if left == 0:
            break
        document = parse(line)
        if document is None or wanted.fits(document):
            found.appendleft(line)
            left -= document is not None
    return found


def _backwards(path: str, until: int) -> Iterator[bytes]:
    """Yield whole lines from the newest to the oldest, within a bound."""
    budget = _MOST_SEARCHED_BYTES
    for name, size in _files(path, until):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot read {name}: {error.strerror}", hint=_UNREADABLE) from error
        try:
            end, rest = size, b""
            while end > 0 and budget > 0:
                start = max(0, end - _BLOCK_BYTES)
                block = os.pread(fd, end - start, start) + rest
                budget -= end - start
                end = start
                pieces = block.split(b"\n")
                # The first piece may begin further ahead; what is too long is no event.
                rest = pieces[0] if end > 0 else b""
                whole = pieces[1:] if end > 0 else pieces
                yield from (one for one in reversed(whole) if one)
                if len(rest) > _LONGEST_LINE_BYTES:
                    rest = b"{"
        finally:
            os.close(fd)


def _files(path: str, until: int) -> Iterator[tuple[str, int]]:
    """Yield the file and those it was rotated to, newest first, each with its length."""
    if until > 0:
        yield path, until
    for number in range(1, _MOST_ROTATED + 1):
        name = f"{path}.{number}"
        try:
            yield name, os.stat(name).st_size
        except OSError:
            return


class Tail:
    """The lines that are added to a file, also after it was rotated or cut."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None
        self._offset = 0
        self._rest = b""
        self._is_skipping = False

    def start(self) -> int:
        """Begin behind the last whole line that is there now; return where that is."""
        self._open()
        if self._fd is None:
            return 0
        size = os.fstat(self._fd).st_size
        start = max(0, size - _LONGEST_LINE_BYTES)
        self._offset = start + os.pread(self._fd, size - start, start).rfind(b"\n") + 1
        return self._offset

    def read(self) -> Iterator[bytes]:
        """Yield the whole lines that came since."""
        if self._fd is None:
            self._open()
        if self._fd is None:
            return
        yield from self._read_open()
        try:
            named = os.stat(self._path)
        except OSError:
            return
        mine = os.fstat(self._fd)
        if (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
            # What was written between the last look and the renaming is read first.
            yield from self._read_open()
            os.close(self._fd)
            self._fd = None
            self._open()
            yield from self._read_open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"cannot read {self._path}: {error.strerror}", hint=_UNREADABLE
            ) from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise StoreError(
                f"{self._path} is not a file", hint="move away what stands in its place"
            )
        self._offset, self._rest, self._is_skipping = 0, b"", False

    def _read_open(self) -> Iterator[bytes]:
        if self._fd is None:
            return
        if os.fstat(self._fd).st_size < self._offset:
            self._offset, self._rest = 0, b""
        while block := os.pread(self._fd, _BLOCK_BYTES, self._offset):
            self._offset += len(block)
            *whole, self._rest = (self._rest + block).split(b"\n")
            if self._is_skipping and whole:
                whole[0], self._is_skipping = b"{", False
            if len(self._rest) > _LONGEST_LINE_BYTES:
                self._rest, self._is_skipping = b"", True
            yield from (one for one in whole if one)
