"""Repeats the tick: woken by the clock, by the ``kick`` file and by the end of wrappers.

It is the same tick that cron runs, and holds the tick lock no longer than that one; a
cron line beside it is harmless.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from tinyscheduler.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.ports import Clock

_IN_CREATE, _IN_MOVED_TO = 0x100, 0x80
_MOST_EVENT_BYTES = 1 << 16
_REST_S = 1.0


class DaemonLock:
    """Held for the daemon's life: wrappers that see it leave the ticking to the daemon."""

    def __init__(self, path: str) -> None:
        """Take the lock; BusyError if another daemon serves this base path."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot open {path}: {error.strerror}", hint="make the state folder writable"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 100, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise BusyError(
                f"another daemon serves this base path ({holder})", hint="stop that one first"
            ) from error
        text = f"pid {os.getpid()}\n".encode()
        with suppress(OSError):  # a full disk: the lock is held all the same
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))

    def close(self) -> None:
        """Let go; wrappers that end from now on tick for themselves."""
        os.close(self._fd)


class Waker:
    """Sleeps until there is a reason to tick."""

    def __init__(self, kick_path: str, *, clock: Clock, on_stop: Callable[[], None]) -> None:
        """Watch for the kick file and for signals; children that end count as a reason.

        ``on_stop`` is called in the signal handler, to end a sleep of the tick at hand.
        """
        self._kick_path = kick_path
        self._clock = clock
        self._on_stop = on_stop
        self.stopped: int | None = None
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_fd = read_fd
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._inotify_fd = _watch_folder(os.path.dirname(kick_path))

    def wait(self, seconds: float) -> None:
        """Return after that time, on a kick, when a wrapper ends, or when asked to stop.

        Other files come and go in the same folder, not least those of the database, so a
        change there is a reason to look for the kick file and nothing more.
        """
        end_ns = self._clock.now().monotonic_ns + int(seconds * 1e9)
        watched = [fd for fd in (self._wakeup_fd, self._inotify_fd) if fd is not None]
        reap()
        while self.stopped is None and not os.path.lexists(self._kick_path):
            left_s = (end_ns - self._clock.now().monotonic_ns) / 1e9
            ready, _, _ = select.select(watched, [], [], max(0.0, left_s))
            for fd in ready:
                _drain(fd)
            if not ready or self._wakeup_fd in ready:
                break
        reap()

    def rest(self) -> None:
        """Let another tick finish: it holds the lock, and will look for the kick file itself."""
        if self.stopped is None:
            select.select([self._wakeup_fd], [], [], _REST_S)

    def is_stopped(self) -> bool:
        """Whether SIGTERM or SIGINT has arrived."""
        return self.stopped is not None

    def _stop(self, number: int, _frame: object) -> None:
        self.stopped = number
        self._on_stop()


def repeat(
    do_tick: Callable[[], bool],
    waker: Waker,
    *,
    interval_s: Callable[[], float],
) -> None:
    """Tick until asked to stop.  The tick under way is finished; attempts run on.

    ``do_tick`` says whether it was let in; refused, it left a wish for the holder of the
    lock, which must not wake us at once.
    """
    while not waker.is_stopped():
        if not do_tick():
            waker.rest()
        waker.wait(interval_s())


def reap() -> None:
    """Collect wrappers that have ended; each is a child of whichever process ticked."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _watch_folder(path: str) -> int | None:
    """Return an inotify(7) descriptor for new names in the folder; None if there is none left.

    Without it the daemon still ticks by the clock, by signals and by the end of wrappers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_CREATE | _IN_MOVED_TO) < 0:
        os.close(fd)
        return None
    return int(fd)


def _drain(fd: int) -> None:
    try:
        while os.read(fd, _MOST_EVENT_BYTES):
            pass
    except BlockingIOError:
        return
