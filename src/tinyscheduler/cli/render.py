"""How do results look: aligned columns, modest colours, safe characters, or one JSON document?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from tinyscheduler.errors import TinySchedulerError
from tinyscheduler.files import is_same
from tinyscheduler.jsontext import dumps
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

SCHEMA_VERSION = 1
PROGRAM = "tinyscheduler"
_IN_CHECKOUT = "/src/tinyscheduler/__main__.py"
_GAP = "  "
_NARROWEST = 8
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


class Color(StrEnum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Ink(StrEnum):
    """A terminal's colour, as its escape sequence; no more of them than mean something."""

    PLAIN = ""
    DIM = "\x1b[2m"
    RED = "\x1b[31m"
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    BLUE = "\x1b[34m"
    BOLD = "\x1b[1m"


_RESET = "\x1b[0m"
INK_OF_STATE = {
    TaskState.WAITING: Ink.PLAIN,
    TaskState.HELD: Ink.DIM,
    TaskState.WORKING: Ink.BLUE,
    TaskState.STARTING: Ink.BLUE,
    TaskState.RUNNING: Ink.BLUE,
    TaskState.SETTLING: Ink.BLUE,
    TaskState.DONE: Ink.GREEN,
    TaskState.FAILED: Ink.RED,
    TaskState.PARKED: Ink.YELLOW,
    TaskState.CANCELLED: Ink.DIM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where text goes: whether it may be coloured, and how many columns fit (None: any)."""

    is_colored: bool
    width: int | None

    def paint(self, text: str, ink: Ink) -> str:
        """Return the text in a colour, where there are any."""
        return f"{ink}{text}{_RESET}" if self.is_colored and ink and text else text


def page_of(stream: IO[str], color: Color) -> Page:
    """Return what a stream can show.  NO_COLOR is honoured (no-color.org) unless overruled."""
    is_terminal = stream.isatty()
    wanted = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = None
    if is_terminal:
        try:
            width = os.get_terminal_size(stream.fileno()).columns or 80
        except OSError:
            width = 80
    return Page(is_colored=color is Color.ALWAYS or (color is Color.AUTO and wanted), width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One field of a table."""

    text: str
    ink: Ink = Ink.PLAIN


Row = Sequence[str | Cell]


def format_table(head: Sequence[str], rows: Iterable[Row], page: Page) -> list[str]:
    """Return aligned lines; the last column gives way where the terminal is too narrow."""
    cells = [[_cell(field) for field in row] for row in rows]
    if head:
        cells.insert(0, [Cell(text=title, ink=Ink.BOLD) for title in head])
    widths = [max(measure(row[column].text) for row in cells) for column in range(len(cells[0]))]
    if page.width is not None:
        rest = page.width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(rest, _NARROWEST))
    lines = []
    for row in cells:
        fields = [
            page.paint(cut(cell.text, width), cell.ink)
            + " " * max(0, width - measure(cell.text)) * (number < len(row))
            for number, (cell, width) in enumerate(zip(row, widths, strict=True), start=1)
        ]
        lines.append(_GAP.join(fields).rstrip())
    return lines


def _cell(field: str | Cell) -> Cell:
    cell = field if isinstance(field, Cell) else Cell(text=field)
    return Cell(text=escape(cell.text), ink=cell.ink)


def measure(text: str) -> int:
    """Return how many columns a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def cut(text: str, width: int) -> str:
    """Return as much of a text as fits, its end marked by an ellipsis if it is cut."""
    if measure(text) <= width:
        return text
    kept = ""
    for one in text:
        if measure(kept + one) >= width:
            break
        kept += one
    return kept + "…"


def fit(line: str, page: Page) -> str:
    """Return as much of a line as the terminal is wide; all of it where there is none."""
    return line if page.width is None else cut(line, page.width)


def wrap(line: str, page: Page) -> list[str]:
    """Return a line in as many as the terminal's width makes of it; uncut where there is none.

    For sentences whose ends matter.  What stands in backticks stays together: it is to be
    typed.
    """
    if page.width is None or measure(line) <= page.width:
        return [line]
    import re
    import textwrap

    held_together = re.sub(r"`[^`]*`", lambda found: found[0].replace(" ", "\0"), line)
    pieces = textwrap.wrap(
        held_together,
        page.width,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [piece.replace("\0", " ") for piece in pieces] or [""]


def escape(text: str) -> str:
    r"""Return a text that no terminal takes for anything but text.

    Control characters, and those that hide or reorder others, are written as Python
    would write them.

    >>> escape("a\x1b[2J\n")
    'a\\x1b[2J\\n'
    >>> escape("\udcff bytes")
    '\\xff bytes'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _written_out(one) for one in text)


def _written_out(one: str) -> str:
    import unicodedata

    # A no-break space and its like are "not printable", but harmless.
    if unicodedata.category(one) == "Zs":
        return " "
    # A byte that was not UTF-8 (PEP 383).
    if "\udc80" <= one <= "\udcff":
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode("ascii")


def format_span(seconds: float) -> str:
    """Return a span of time in its two largest units.

    >>> [format_span(s) for s in (0.4, 59, 61, 3700, 90_000)]
    ['0s', '59s', '1m 1s', '1h 1m', '1d 1h']
    """
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole}s"
    for unit, name, below, below_name in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "m"),
        (_MINUTE_S, "m", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit}{name}" + (f" {rest}{below_name}" if rest else "")
    raise AssertionError(seconds)


def format_when(moment: datetime | None, *, now: datetime) -> str:
    """Return a moment as people say it: ``3s ago`` or ``in 2m``; ``-`` for none."""
    if moment is None:
        return "-"
    seconds = (now - moment).total_seconds()
    return f"{format_span(seconds)} ago" if seconds >= 0 else f"in {format_span(-seconds + 1)}"


def format_clock(moment: datetime, *, now: datetime) -> str:
    """Return a moment ahead as the clocks of this place will show it, with its day if need be.

    >>> from datetime import UTC, datetime
    >>> now = datetime(2026, 7, 4, 12, 0)
    >>> format_clock(now.replace(hour=14, minute=20), now=now)
    '14:20'
    >>> format_clock(now.replace(day=5, hour=2), now=now)
    'Sun 02:00'
    >>> format_clock(now.replace(day=12, hour=2), now=now)
    '2026-07-12 02:00'
    """
    here, today = moment.astimezone(), now.astimezone().date()
    days = (here.date() - today).days
    day = "" if days == 0 else "%a " if 0 < days < 7 else "%Y-%m-%d "  # noqa: PLR2004 - a week
    return here.strftime(f"{day}%H:%M")


def count(number: int, noun: str) -> str:
    """Return a number of things.

    >>> count(1, "task"), count(2, "task")
    ('1 task', '2 tasks')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def emit(text: str) -> None:
    """Write data to stdout, at once; a reader that went away ends the command quietly."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        _abandon_stdout()
        raise translate_write_error(error) from error


def emit_bytes(content: bytes) -> None:
    """Write data that may be no text to stdout as it is, as `emit` does."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        _abandon_stdout()
        raise translate_write_error(error) from error


class ReaderGoneError(Exception):
    """Nobody reads stdout any more, as when ``head`` has seen enough; no failure of ours."""


def translate_write_error(error: OSError) -> Exception:
    """Return what a refused write to stdout ends the command with."""
    if isinstance(error, BrokenPipeError):
        return ReaderGoneError()
    return TinySchedulerError(
        f"cannot write the output: {error.strerror}",
        hint="make room where it goes; what was asked for may be done all the same",
    )


def _abandon_stdout() -> None:
    """Point stdout to nowhere, or the interpreter complains once more at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def emit_json(**fields: object) -> None:
    """Write one JSON document to stdout: on one line for programs, spread out for people."""
    document = {"schema_version": SCHEMA_VERSION, **fields}
    if not sys.stdout.isatty():
        emit(dumps(document))
        return
    import json

    emit(json.dumps(document, indent=2))


def tell(text: str) -> None:
    """Write a line for people to stderr; nothing that can be done if that fails."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        # What was not written would be tried once more at the very end, and fail the command.
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 - for the rest of the process


def program_here() -> str:
    """Return what to type in this folder to start this very program."""
    started = sys.argv[0]
    if os.path.basename(started) == PROGRAM:
        program = started
    elif started.endswith(_IN_CHECKOUT) and started in sys.orig_argv:
        # By its launcher: -m names no file.
        program = f"{started.removesuffix(_IN_CHECKOUT)}/{PROGRAM}"
    else:
        return f"./{PROGRAM}" if _is_program(PROGRAM) else PROGRAM
    on_path = (os.path.join(folder, PROGRAM) for folder in os.get_exec_path())
    first = next(filter(_is_program, on_path), None)
    if first is not None and is_same(first, program):
        return PROGRAM
    return f"./{PROGRAM}" if _is_program(PROGRAM) and is_same(PROGRAM, program) else program


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def ask(question: str) -> bool:
    """Ask a person at a terminal; anything but yes is no."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
