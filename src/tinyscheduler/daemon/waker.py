"""When is there a reason to tick?  Signals, the kick file, results, pressure, or time."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyscheduler.daemon.lock import DaemonLock
    from tinyscheduler.daemon.service_manager import ServiceManager
    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import Paths
    from tinyscheduler.ports import Clock

# The events of inotify that mean something here.
_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x08, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_Q_OVERFLOW = 0x400, 0x800, 0x4000
_EVENT = struct.Struct("iIII")
_MOST_EVENT_BYTES = 1 << 16
_REST_S = 1.0
# A wrapper that recorded its result kicks a moment later.  If it died in between, the
# result is settled after this time; sooner, we would tick while it is still at it.
_RESULT_GRACE_S = 1.0


class Waker:
    """Sleeps until there is a reason to tick."""

    def __init__(
        self, paths: Paths, *, clock: Clock, manager: ServiceManager, lock: DaemonLock
    ) -> None:
        """Take over the signals; children that end count as a reason.

        Watches from now on, so that nothing is missed while a tick is at work.
        """
        self._kick_path = paths.kick
        self._clock = clock
        self._manager = manager
        self._stopped = False
        self._is_reload_wanted = False
        self._has_terminal = sys.stderr.isatty()
        self._lock = lock
        self._folders = Folders(paths.state)
        self._folders.watch()
        self._wakeup_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def wait(self, seconds: float) -> None:
        """Return after that time, or as soon as there is a reason to tick.

        Other files come and go in the same folder, not least those of the database, so a
        change there is a reason to look for the kick file and nothing more.
        """
        end_ns = self._now_ns() + int(seconds * 1e9)
        # Where the kernel has no watch left for us, the kick file is looked for instead.
        longest_s = seconds if self._folders.watch() else _REST_S
        if not self._lock.is_in_place():
            # Moved away while a tick was at work: the next one serves what lies there now.
            end_ns = min(end_ns, self._now_ns() + int(_REST_S * 1e9))
        has_news = reap()
        while not (has_news or self.is_interrupted() or os.path.lexists(self._kick_path)):
            self._manager.expect_back(0)
            left_s = max(0.0, (end_ns - self._now_ns()) / 1e9)
            fds = [self._wakeup_fd, *self._folders.fds]
            ready, _, _ = select.select(fds, [], [], min(left_s, longest_s))
            signals = self._take_signals() - {signal.SIGALRM}
            is_late = not ready and left_s <= longest_s
            if is_late or signals - {signal.SIGCHLD} or reap():
                break
            news = self._folders.read()
            if Folders.PRESSURE in news or Folders.STATE_GONE in news:
                break
            if Folders.RESULTS in news:
                end_ns = min(end_ns, self._now_ns() + int(_RESULT_GRACE_S * 1e9))
        reap()

    def rest(self) -> None:
        """Let another tick finish: it holds the lock, and will look for the kick file itself."""
        end_ns = self._now_ns() + int(_REST_S * 1e9)
        while not self.is_interrupted() and (left_s := (end_ns - self._now_ns()) / 1e9) > 0:
            self._manager.expect_back(0)
            select.select([self._wakeup_fd], [], [], left_s)
            self._take_signals()

    def is_stopped(self) -> bool:
        """Whether SIGTERM or SIGINT has arrived."""
        return self._stopped

    def stop_listening(self) -> None:
        """Let SIGTERM and SIGINT end the process: nobody will ask `is_stopped` again.

        One that came before is answered there, or ends the process now.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def is_interrupted(self) -> bool:
        """Whether a signal says to stop, or to begin anew with what is configured now."""
        return self._stopped or self._is_reload_wanted

    def take_reload(self) -> bool:
        """Say once for each SIGHUP, or several that came together, that it has arrived."""
        is_wanted, self._is_reload_wanted = self._is_reload_wanted, False
        return is_wanted

    def _stop(self, _number: int, _frame: object) -> None:
        if not self._stopped:
            self._stopped = True
            self._manager.begin_stop()

    def _reload(self, number: int, frame: object) -> None:
        # A terminal that was closed, not somebody who wants a reload: its descriptors answer
        # no question any more.
        if self._has_terminal and not os.isatty(2):
            self._stop(number, frame)
            return
        self._is_reload_wanted = True

    def _take_signals(self) -> set[int]:
        """Return the numbers of the signals that have arrived; see signal.set_wakeup_fd."""
        return set(_read_all(self._wakeup_fd))

    def _now_ns(self) -> int:
        return self._clock.now().monotonic_ns


class WakingClock:
    """The clock of the daemon's ticks: a sleep between two starts ends on any reason to tick.

    A tick that is woken looks again, and sleeps on if it is still too early.
    """

    def __init__(self, clock: Clock, waker: Waker, manager: ServiceManager) -> None:
        """Take the real clock, and what ends a sleep early."""
        self._clock = clock
        self._waker = waker
        self._manager = manager
        self._tick_s = 0.0

    def begin_tick(self, *, longest_s: float) -> None:
        """Expect a tick to be over after that time."""
        self._tick_s = longest_s
        self._manager.expect_back(longest_s)

    def now(self) -> Instant:
        """Return both clocks and the boot id."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Sleep until there is a reason not to."""
        self._waker.wait(seconds)
        self._manager.expect_back(self._tick_s)


class Folders:
    """Watches the folders in which a new name means work.

    Without inotify, as where all instances or watches are used up, the daemon still ticks
    by the clock, by signals and by the end of wrappers, and looks for the kick file itself.
    """

    STATE, STATE_GONE, RESULTS, PRESSURE = "state", "state gone", "results", "pressure"

    def __init__(self, state: str) -> None:
        """Remember where; `watch` begins."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fds: tuple[int, ...] = (fd,) if fd >= 0 else ()
        self._wanted = {
            self.STATE: (state, _IN_CREATE | _IN_MOVED_TO | _IN_DELETE_SELF | _IN_MOVE_SELF),
            self.RESULTS: (os.path.join(state, "results"), _IN_MOVED_TO),
            self.PRESSURE: (
                os.path.join(state, "pressure"),
                _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE,
            ),
        }
        self._watches: dict[str, int] = {}

    def watch(self) -> bool:
        """Watch each folder as it is now: one may have been made, removed or replaced.

        Returns whether the state folder is watched.
        """
        for fd in self.fds:
            for name, (path, mask) in self._wanted.items():
                # Of a folder that is watched already this returns the same number.
                number = self._libc.inotify_add_watch(fd, os.fsencode(path), mask)
                known = self._watches.get(name)
                if known is not None and known != number:
                    self._libc.inotify_rm_watch(fd, known)
                    del self._watches[name]
                if number >= 0:
                    self._watches[name] = number
        return self.STATE in self._watches

    def read(self) -> set[str]:
        """Return in which folders something has happened since the last call."""
        named = {number: name for name, number in self._watches.items()}
        news: set[str] = set()
        for number, mask, file in _events(b"".join(_read_all(fd) for fd in self.fds)):
            if mask & _IN_Q_OVERFLOW:
                # Something was lost: whatever it was, it is a reason to look.
                news.add(self.STATE_GONE)
            elif named.get(number) == self.STATE:
                if mask & (_IN_DELETE_SELF | _IN_MOVE_SELF):
                    news.add(self.STATE_GONE)
                elif file in (self.RESULTS, self.PRESSURE):
                    news.add(file)
                    self.watch()
            elif named.get(number) == self.PRESSURE or file.endswith(".json"):
                news.add(named.get(number, self.STATE))
        return news


def reap() -> bool:
    """Collect wrappers that have ended; each is a child of whichever process ticked.

    Returns whether one of them died: those that end well have wished for a tick before,
    and a second one would keep a core from the attempt that the first has just started.
    """
    has_died = False
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            has_died |= ended[1] != 0
    return has_died


def _events(data: bytes) -> list[tuple[int, int, str]]:
    """Return watch, mask and file name of each struct inotify_event."""
    found = []
    place = 0
    while place + _EVENT.size <= len(data):
        number, mask, _cookie, length = _EVENT.unpack_from(data, place)
        place += _EVENT.size
        found.append((number, mask, os.fsdecode(data[place : place + length].rstrip(b"\0"))))
        place += length
    return found


def _read_all(fd: int) -> bytes:
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(fd, _MOST_EVENT_BYTES):
            parts.append(part)
    return b"".join(parts)
