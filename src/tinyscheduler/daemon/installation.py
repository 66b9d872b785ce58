"""Is the code on disk still the code of this process?  If not, can it become the new one?

An update replaces files under a daemon that has read only some of them: what it reads
later belongs to another version.  So it looks before each tick, starts nothing with
mixed code, and once the new version proves that it starts, becomes that by exec(2).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, NoReturn

from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, EXIT_UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyscheduler.ports import Clock

LONGEST_TRIAL_S = 30.0
_BETWEEN_TRIALS_NS = 10 * 10**9
_BETWEEN_LOOKS_NS = 10**9
_PACKAGE = "tinyscheduler"
_DAEMON, _DRY_RUN = "--daemon", "--dry-run"

_Stamp = tuple[int, int, int] | None


class ReplacedError(Exception):
    """The code on disk is another version, and it starts: become that."""


class Successor(Enum):
    """How the version stands that has come in place of this one."""

    UNSETTLED = auto()  # files are still being replaced
    BROKEN = auto()  # it does not start here; `fault` says why
    READY = auto()


class Installation:
    """The files this process was started from, and the command it was started with."""

    def __init__(self, *, clock: Clock) -> None:
        """Remember the files as they are now, and any others once they have been loaded."""
        self.fault = ""
        self._clock = clock
        self._argv = [sys.executable, *sys.orig_argv[1:]]
        self._known: dict[str, _Stamp] = {}
        self._seen: dict[str, _Stamp] = {}
        self._next_trial_ns = 0
        self._next_look_ns = 0
        self._is_changed = False
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        # An installer replaces all files, or removes them: these stand for the others.
        self._first = [os.path.join(package, name) for name in ("__init__.py", "wrapper.py")]
        self.look()

    def look(self) -> bool:
        """Whether any file of the code in memory was replaced, changed or removed."""
        found = {path: _stamp(path) for path in self._files()}
        for path, stamp in found.items():
            self._known.setdefault(path, stamp)
        self._is_changed = found != self._known
        self._next_look_ns = self._clock.now().monotonic_ns + _BETWEEN_LOOKS_NS
        return self._is_changed

    def glance(self) -> bool:
        """As `look`, but where ticks follow each other fast most files wait for a second."""
        if self._clock.now().monotonic_ns < self._next_look_ns and not any(
            _stamp(path) != self._known[path] for path in self._first
        ):
            return self._is_changed
        return self.look()

    def successor(self) -> Successor:
        """Say how the new version stands; asked a second apart, once this one is changed."""
        found = {path: _stamp(path) for path in self._known}
        if found != self._seen:
            self._seen, self._next_trial_ns = found, 0
            return Successor.UNSETTLED
        now_ns = self._clock.now().monotonic_ns
        if now_ns >= self._next_trial_ns:
            self._next_trial_ns = now_ns + _BETWEEN_TRIALS_NS
            self.fault = self._try_new()
        return Successor.BROKEN if self.fault else Successor.READY

    def become(self, environment: Mapping[str, str]) -> NoReturn:
        """Become the new version: the same process, the same command, its children kept."""
        # Until the new one listens, a reload must not end it; it reads everything anyway.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os.execve(self._argv[0], self._argv, dict(environment))  # noqa: S606 - no shell is the point

    def _try_new(self) -> str:
        """Let the new version say what it would do here; return why it cannot, or nothing."""
        argv = [_DRY_RUN if word == _DAEMON else word for word in self._argv]
        if argv == self._argv:
            return "this daemon was not started by the command line; restart it"
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=LONGEST_TRIAL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not answer within {LONGEST_TRIAL_S:g} s"
        except OSError as error:
            return f"{argv[0]}: {error.strerror}"
        # A task that could not be started, or no source that answers, is no fault of the code.
        if (
            done.returncode in (EXIT_DONE, EXIT_FAILED, EXIT_UNAVAILABLE)
            and b"Traceback" not in done.stderr
        ):
            return ""
        return _fault_in(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"

    def _files(self) -> list[str]:
        modules = [
            module
            for name, module in list(sys.modules.items())
            if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")
        ]
        files = [file for module in modules if (file := getattr(module, "__file__", None))]
        return [*files, *self._first]


def _stamp(path: str) -> _Stamp:
    """Return what tells one version of a file from another; None of one that is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _fault_in(told: str) -> str:
    """Return the line that says why: the first error, or the last one of a traceback."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines[-1:] or [""])[0]
