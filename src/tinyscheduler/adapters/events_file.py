"""``events.jsonl`` and the daily log: what happened, one line each, whatever the disk says."""

from __future__ import annotations

import fcntl
import os
import select

from tinyscheduler.jsontext import dumps
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import Event, EventName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tinyscheduler.model.config import Paths
    from tinyscheduler.model.plan import TickReport

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_BYTES = 50 * 2**20
KEPT = 3  # files set aside of each name
# How long before each look at what seems to be half a line.
_PAUSES_S = (0, 0.005, 0.005)
_BAD_ENDINGS = frozenset({EventName.TASK_FAILED, EventName.TASK_PARKED, EventName.LEASE_CORRUPT})


class EventsFile:
    """Appends each event as one JSON line, in one write, so lines never mix."""

    def __init__(self, paths: Paths, *, max_bytes: int = MAX_BYTES) -> None:
        """Remember where; the folder is made when first needed.

        A file that has grown beyond ``max_bytes`` is set aside as ``.1``, an earlier one
        as ``.2`` and so on; the oldest goes.
        """
        self._path = paths.events
        self._max_bytes = max_bytes

    def notice(self, event: Event) -> None:
        """Append the event; a disk that refuses costs this line and nothing else."""
        self.notice_all([event])

    def notice_all(self, events: Sequence[Event]) -> None:
        """Append many events at once."""
        _append(self._path, [_line_of(event) for event in events], max_bytes=self._max_bytes)

    def report(self, report: TickReport) -> None:
        """Nothing: a tick that did something has told its events already."""


class DailyLog:
    """``scheduler_YYYYMMDD.log``: one ``key=value`` line per event, error and busy tick."""

    def __init__(self, paths: Paths, *, level: str, max_bytes: int = MAX_BYTES) -> None:
        """Write lines of this level and above; a large file is set aside as the events are."""
        self._folder = paths.logs
        self._max_bytes = max_bytes
        self._least = LEVELS.index(level) if level in LEVELS else 1

    def notice(self, event: Event) -> None:
        """Write one line for the event."""
        self.notice_all([event])

    def notice_all(self, events: Sequence[Event]) -> None:
        """Write one line for each of many events that happened at once."""
        lines = []
        for event in events:
            level = "WARNING" if event.name in _BAD_ENDINGS else "INFO"
            fields = {
                "task": event.task_id,
                "attempt": event.attempt,
                "agent": event.agent,
                "reason": event.reason,
                **dict(event.details),
            }
            if LEVELS.index(level) >= self._least:
                lines.append(_words_of(event.at, level, event.name.value, fields))
        if lines:
            _append(self._path_of(events[0].at), lines, max_bytes=self._max_bytes)

    def report(self, report: TickReport) -> None:
        """Write the errors and warnings of the tick, and its counts."""
        for error in report.errors:
            fields = {"where": error.where, "message": error.message}
            self._write(report.started_at, "ERROR", "tick.error", fields)
        for warning in report.warnings:
            self._write(report.started_at, "WARNING", "tick.warning", {"message": warning})
        stats = report.stats
        busy = stats.tasks_spawned or stats.leases_settled or stats.leases_reclaimed
        self._write(
            report.started_at,
            "INFO" if busy or report.errors else "DEBUG",
            "tick",
            {
                "tick_id": report.tick_id,
                "ms": round(report.duration_ms),
                "leases": stats.leases_scanned,
                "settled": stats.leases_settled,
                "reclaimed": stats.leases_reclaimed,
                "spawned": stats.tasks_spawned,
                "waiting": stats.tasks_waiting,
                "errors": stats.errors,
            },
        )

    def _write(self, at: datetime, level: str, what: str, fields: Mapping[str, object]) -> None:
        if LEVELS.index(level) >= self._least:
            line = _words_of(at, level, what, fields)
            _append(self._path_of(at), [line], max_bytes=self._max_bytes)

    def _path_of(self, at: datetime) -> str:
        return os.path.join(self._folder, f"scheduler_{at:%Y%m%d}.log")


def _line_of(event: Event) -> str:
    document = {
        "ts": format_time(event.at),
        "event": event.name.value,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "agent": event.agent,
        "reason": event.reason,
        **dict(event.details),
    }
    return dumps(document)


def _words_of(at: datetime, level: str, what: str, fields: Mapping[str, object]) -> str:
    words = " ".join(
        f"{name}={_quote(value)}" for name, value in fields.items() if value is not None
    )
    return f"{format_time(at)} level={level.lower()} event={what} {words}".rstrip()


def _quote(value: object) -> str:
    """Write a value so that it stays one word on one line."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    plain = text and all(character.isalnum() or character in "._-:/+" for character in text)
    return text if plain else dumps(text)


def _append(path: str, lines: Sequence[str], *, max_bytes: int) -> None:
    text = "".join([f"{line}\n" for line in lines])
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if _ends_within_a_line(fd):
                text = "\n" + text
            os.write(fd, text.encode(errors="backslashreplace"))
            if os.fstat(fd).st_size > max_bytes:
                _set_aside(fd, path)
        finally:
            os.close(fd)
    except OSError:
        # A full log disk must stop no task; status and the ledger still tell what happened.
        return


def _ends_within_a_line(fd: int) -> bool:
    """Whether a disk that was full has cut off what was written last.

    What another process is just writing looks so too, but not for long.
    """
    for pause_s in _PAUSES_S:
        select.select([], [], [], pause_s)
        size = os.fstat(fd).st_size
        if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
            return False
    return True


def _set_aside(fd: int, path: str) -> None:
    """Rename the file, unless another process is just about it or was faster.

    Whoever has it open still appends to it under its new name, so no line is lost.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    mine, named = os.fstat(fd), os.stat(path)
    if (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
        return
    for number in range(KEPT, 1, -1):
        try:
            os.replace(f"{path}.{number - 1}", f"{path}.{number}")
        except FileNotFoundError:
            continue
    os.replace(path, f"{path}.1")
