"""The tick lock: a flock'd pidfile that is never unlinked, and the ``kick`` file beside it."""

from __future__ import annotations

import fcntl
import os
import select
import stat
from contextlib import suppress
from datetime import UTC, datetime

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import ConfigError, StoreError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.documents import MOST_HOLDER_BYTES, is_holder_text
from tinyscheduler.procfs import read_start_ticks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.config import Paths

_SECOND_LOOK_S = 1.0
_HOLDER = r"pid (\d+), start ticks (\d+), "


class FileTickLock:
    """Keeps ticks apart by flock(2); the text in the file only informs.

    The descriptor is close-on-exec and never handed to anyone, so no child of a tick
    can hold the lock after it.
    """

    def __init__(self, paths: Paths) -> None:
        """Remember where; nothing is created before `acquire`."""
        self._path = paths.tick_lock
        self._kick = paths.kick
        self._fd: int | None = None

    def acquire(self) -> str | None:
        """Take the lock, or leave a wish for another tick and say who holds it.

        Refused, the wish is created and then the lock tried once more: the holder may
        have looked for wishes between our first try and our wish.  Raises ConfigError,
        and leaves the file as it is, where it holds anything but a holder's line.
        """
        fd = self._open()
        if not _try_lock(fd):
            touch(self._kick)
            if not _try_lock(fd):
                holder = self._describe_holder(fd)
                os.close(fd)
                return holder
        # Under the lock: a holder may be half way through its line.
        self._refuse_foreign(fd)
        since = datetime.now(tz=UTC)  # noqa: TID251 - it only informs people
        own = f"pid {os.getpid()}, start ticks {read_start_ticks(os.getpid())}, "
        text = f"{own}since {format_time(since)}\n".encode()
        self._fd = fd
        with suppress(OSError):  # a full disk: the lock is held all the same
            # Written over, never truncated first: a reader always finds some holder's line.
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
        return None

    def release(self) -> None:
        """Close the only descriptor, which frees the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def forget_kick(self) -> None:
        """Unlink ``kick``; what was wished for is what this tick is about to do."""
        with durable_step("kick.forget"):
            try:
                os.unlink(self._kick)
            except FileNotFoundError:
                return
            except OSError as error:
                message = f"{self._kick}: {error.strerror}"
                raise StoreError(message, hint="make the state folder writable") from error

    def is_kicked(self) -> bool:
        """Whether ``kick`` exists."""
        return os.path.lexists(self._kick)

    def _describe_holder(self, fd: int) -> str:
        """Say who holds the lock, as far as the file tells.

        A holder that just took over has not written its line yet, so one that seems dead
        is looked at again before it is called so.
        """
        text = _read_holder(fd)
        if is_gone(text):
            select.select([], [], [], _SECOND_LOOK_S)
            if _read_holder(fd) == text:
                return f"{text}, which is gone: another process keeps {self._path} open and locked"
        return text or "a process that has not said who it is"

    def _refuse_foreign(self, fd: int) -> None:
        """Raise ConfigError, and close the file, if somebody else keeps something in it."""
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        if is_file and is_holder_text(os.pread(fd, MOST_HOLDER_BYTES + 1, 0)):
            return
        os.close(fd)
        fault = "holds something else than a tick lock" if is_file else "is not a file"
        raise ConfigError(
            f"{self._path} {fault}",
            where="TINYSCHEDULER_LOCK_FILE",
            hint="set it to a file of its own, or move this one away if nobody needs it",
        )

    def _open(self) -> int:
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"cannot open the tick lock {self._path}: {error.strerror}"
            raise ConfigError(
                message, hint="make the state folder writable, or set TINYSCHEDULER_BASE_PATH"
            ) from error


def touch(path: str) -> None:
    """Create an empty file if it does not exist; a full disk or a read-only one is no failure.

    A wish that cannot be written costs a minute until the next regular tick, not a task.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> str:
    return os.pread(fd, MOST_HOLDER_BYTES, 0).decode("ascii", "replace").strip()


def is_gone(text: str) -> bool:
    """Whether the line names a process that no longer exists under that start time."""
    import re  # hardly any tick finds the lock taken

    match = re.match(_HOLDER, text)
    return match is not None and read_start_ticks(int(match[1])) != int(match[2])
