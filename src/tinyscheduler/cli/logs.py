"""``logs``: what a task printed, whole or its end, or as it comes."""

from __future__ import annotations

import errno
import os
import stat
import sys

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import translate_write_error
from tinyscheduler.cli.standing import Standing, check_task_ids, find_standing
from tinyscheduler.errors import (
    EXIT_DONE,
    EXIT_INACTIVE,
    NotFoundError,
    StoreError,
)
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import typer

    from tinyscheduler.app.queue import Queue

_BLOCK_BYTES = 1 << 16
_MOST_LINES = 10**9


def logs(
    context: typer.Context,
    task_id: Annotated[str, argument(metavar="ID", help="The task.")],
    *,
    follow: Annotated[
        bool, option("--follow", "-f", help="Go on until the task has ended.")
    ] = False,
    lines: Annotated[
        int | None,
        option(
            "--lines",
            "-n",
            parser=whole_number(least=0, most=_MOST_LINES),
            metavar="N",
            help="Only the last lines.",
        ),
    ] = None,
    attempt: Annotated[
        int | None,
        option(parser=whole_number(least=1), metavar="N", help="Of this attempt, not the latest."),
    ] = None,
) -> int:
    """Print what a task printed, byte for byte."""
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    (task_id,) = check_task_ids([task_id])
    queue = open_queue(invocation.configure_reading(), Access.READ)
    standing = find_standing(queue, task_id)
    log = find_log(queue, standing, attempt)
    reader = LogReader(note=invocation.note)
    if follow:
        return follow_log(
            queue,
            standing,
            log,
            reader,
            lines=lines,
            attempt=attempt,
            invocation=invocation,
        )
    if log is None:
        never = "it never ran" if standing.state.is_final else "it has not started yet"
        invocation.note(f"task {task_id} is {standing.state}: {never}")
        return EXIT_INACTIVE
    if not reader.open(log, last_lines=lines):
        invocation.note(f"there is no log {log.path}; it was removed, or never written")
        return EXIT_INACTIVE
    reader.copy()
    return EXIT_DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log of one attempt."""

    attempt: int
    path: str


def find_log(queue: Queue, standing: Standing, attempt: int | None) -> Log | None:
    """Return the log of that attempt, or of the latest that has one.

    Raises NotFoundError for an attempt there was none of.
    """
    logs_of = {
        record.attempt: record.log
        for record in queue.ledger.attempts(standing.record.task_id)
        if record.log
    }
    if standing.lease is not None and standing.lease.run.log:
        logs_of[standing.lease.attempt] = standing.lease.run.log
    elif standing.result is not None:
        logs_of[standing.result.attempt] = standing.result.log
    if attempt is None:
        attempt = max(logs_of, default=None)
        if attempt is None:
            return None
    if attempt not in logs_of:
        known = ", ".join(map(str, sorted(logs_of))) or "none"
        raise NotFoundError(
            f"task {standing.record.task_id} has no log of attempt {attempt}",
            hint=f"attempts with a log: {known}",
        )
    return Log(attempt=attempt, path=logs_of[attempt])


def follow_log(
    queue: Queue,
    standing: Standing,
    log: Log | None,
    reader: LogReader,
    *,
    lines: int | None,
    attempt: int | None,
    invocation: Invocation,
) -> int:
    """Copy what comes until the task has ended, going on with each further attempt.

    A line on stderr heads each attempt, so that what is on stdout stays the log alone.
    """
    from tinyscheduler.cli.following import Follower

    task_id = standing.record.task_id
    follower = Follower(queue, note=invocation.note, advise=invocation.advise)
    while True:
        is_over = False
        is_due = follower.is_due()
        if is_due:
            # Looked at before the log is copied: what was printed before the end is copied.
            standing = find_standing(queue, task_id)
            newest = log if attempt is not None and log else find_log(queue, standing, attempt)
            is_over = standing.state.is_final or (
                attempt is not None and _is_past(standing, attempt)
            )
            if newest is not None and (log is None or newest.path != log.path):
                reader.copy()
                reader.close()
                log = newest
        if log is not None and not reader.is_open and reader.open(log, last_lines=lines):
            lines = None
            invocation.note(f"==> task {task_id}, attempt {log.attempt} <==")
        reader.copy()
        if is_due and standing.state in (TaskState.WAITING, TaskState.HELD):
            follower.explain(standing.record)
        if is_over:
            return EXIT_DONE
        follower.pause()


def _is_past(standing: Standing, attempt: int) -> bool:
    return standing.record.lease_id is None or standing.record.attempt > attempt


class LogReader:
    """Copies a log to stdout, as it is, without what was cut out of its middle."""

    def __init__(self, *, note: Callable[[str], None]) -> None:
        """``note`` is told of what is left out."""
        self._note = note
        self._fd: int | None = None
        self._offset = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a log to copy from."""
        return self._fd is not None

    def open(self, log: Log, *, last_lines: int | None) -> bool:
        """Start at the log's beginning, or at so many lines before its end; False if none."""
        try:
            self._fd = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(
                f"cannot read {log.path}: {error.strerror}",
                hint="check its owner, its mode and its disk",
            ) from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise StoreError(f"{log.path} is not a file", hint="move away what stands in its place")
        self._offset = 0 if last_lines is None else _find_tail(self._fd, last_lines)
        return True

    def close(self) -> None:
        """Forget this log."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def copy(self) -> None:
        """Copy everything that was not copied yet."""
        if self._fd is None:
            return
        while True:
            start = _seek(self._fd, self._offset, os.SEEK_DATA)
            if start is None:
                if os.fstat(self._fd).st_size >= self._offset:
                    return
                self._note("… this log was cut off and goes on from its beginning …")
                self._offset = 0
                continue
            if start > self._offset:
                self._note(f"… {start - self._offset} bytes were cut out of this log here …")
                self._offset = start
            block = os.pread(self._fd, _BLOCK_BYTES, start)
            # Looked for after reading: the log may be cut while we read it, and then holds zeros.
            hole = _seek(self._fd, start, os.SEEK_HOLE)
            if hole is not None:  # else it was cut off just now, and the block is what was there
                block = block[: hole - start]
            write(block)
            self._offset += len(block)


def _seek(fd: int, offset: int, what: int) -> int | None:
    """Return where the next data or hole begins, or None behind the file's end (lseek(2))."""
    try:
        return os.lseek(fd, offset, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _find_tail(fd: int, lines: int) -> int:
    """Return where the last so many lines begin, looking from the end."""
    end = os.fstat(fd).st_size
    if lines == 0:
        return end
    # The newline that ends the last line begins none.
    wanted = lines + (end > 0 and os.pread(fd, 1, end - 1) == b"\n")
    for start, block in _blocks_backwards(fd, end):
        found = block.count(b"\n")
        if found >= wanted:
            place = len(block)
            for _ in range(wanted):
                place = block.rindex(b"\n", 0, place)
            return start + place + 1
        wanted -= found
    return 0


def _blocks_backwards(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        yield start, os.pread(fd, end - start, start)
        end = start


def write(content: bytes) -> None:
    """Write bytes to stdout unchanged, all of them, at once."""
    view = memoryview(content)
    fd = sys.stdout.fileno()
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise translate_write_error(error) from error
