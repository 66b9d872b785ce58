"""Which process is the daemon of this base path?  The one that holds ``daemon.lock``."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from tinyscheduler.errors import BusyError, StoreError
from tinyscheduler.model.clock import format_time

if TYPE_CHECKING:
    from tinyscheduler.ports import Clock

_MOST_HOLDER_BYTES = 200


class DaemonLock:
    """Held for the daemon's life: wrappers that see it leave the ticking to the daemon."""

    def __init__(self, path: str, *, clock: Clock) -> None:
        """Take the lock; BusyError if another daemon serves this base path."""
        self.path = path
        self._clock = clock
        self._fd = self._take()

    def is_in_place(self) -> bool:
        """Whether the file of that name is still the one that is locked."""
        mine = os.fstat(self._fd)
        try:
            named = os.stat(self.path)
        except OSError:
            return False
        return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)

    def renew(self) -> None:
        """Take the lock of that name again, if the file was removed or replaced under us.

        BusyError if another daemon was faster: it serves this base path now.
        """
        if not self.is_in_place():
            old, self._fd = self._fd, self._take()
            os.close(old)

    def close(self) -> None:
        """Let go; wrappers that end from now on tick for themselves."""
        os.close(self._fd)

    def _take(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot open {self.path}: {error.strerror}", hint="make the state folder writable"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, _MOST_HOLDER_BYTES, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise BusyError(
                f"another daemon serves this base path ({holder})", hint="stop that one first"
            ) from error
        text = f"pid {os.getpid()}, since {format_time(self._clock.now().wall)}\n".encode()
        # A full disk leaves the text of the holder before; the lock is what counts.
        try:
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
        except OSError:
            return fd
        return fd
