"""Asks the driver by a process of its own, which may hang without holding anything up."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress

from tinyscheduler.adapters.gpu_nvml.driver import has_driver
from tinyscheduler.files import own_temporary_for, read_json, remove, write_json
from tinyscheduler.model.documents import DocumentError, decode_gpus
from tinyscheduler.model.resources import GpuReading
from tinyscheduler.procfs import read_start_ticks

_REPORT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "report.py")
# With what a tick needs besides, less than the two seconds it may be held up.
_LIMIT_S = 1.5
_MOST_BYTES = 1 << 20
_REAPING_S = 0.05


class NvmlGpuProbe:
    """Starts a small program for each look, and never waits for one that hangs.

    The one that hangs is remembered in a file: while it lives no other is started, or there
    would be one more with each tick.
    """

    def __init__(
        self,
        mark: str,
        *,
        may_write: bool = True,
        argv: tuple[str, ...] = (sys.executable, "-I", _REPORT),
    ) -> None:
        """Take the path of the file, and the program; the latter for the sake of tests.

        Who only looks (``may_write`` off) goes by the file and leaves it as it is.
        """
        self._mark = mark
        self._may_write = may_write
        self._argv = argv

    def read(self) -> GpuReading:
        """Return what the driver says, or why it does not, after a second and a half."""
        if self._argv[-1] == _REPORT and not has_driver():
            return GpuReading(fault="this machine has no NVIDIA driver", is_absent=True)
        hung = self._find_hung()
        if hung is not None:
            return GpuReading(fault=f"the driver hangs: process {hung} still asks it")
        try:
            said = self._ask()
        except OSError as error:
            return GpuReading(fault=f"the GPU probe could not be started: {error.strerror}")
        if said is None:
            return GpuReading(fault=f"the driver did not answer within {_LIMIT_S:g} s")
        return _understand(said)

    def _ask(self) -> bytes | None:
        """Run the program; None if it has not ended in time."""
        out, into = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.posix_spawn(
                self._argv[0],
                self._argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, into, 1),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
                setsid=True,
            )
        except OSError:
            os.close(out)
            raise
        finally:
            os.close(into)
        try:
            said = _read_until_closed(out, time.monotonic() + _LIMIT_S)
        finally:
            os.close(out)
        if not _end(pid) and self._may_write:
            self._remember(pid)
        return said

    def _remember(self, pid: int) -> None:
        try:
            write_json(
                self._mark,
                {"version": 1, "pid": pid, "start_ticks": read_start_ticks(pid)},
                durably=False,
                temporary=own_temporary_for(self._mark),
            )
        except OSError:
            return  # on a full disk each look tries again

    def _find_hung(self) -> int | None:
        """Return the process of an earlier look that hangs still."""
        try:
            mark = read_json(self._mark)
            pid, ticks = mark["pid"], mark["start_ticks"]  # type: ignore[index]  # whatever it is instead is caught
            if isinstance(pid, int) and ticks is not None and read_start_ticks(pid) == ticks:
                return pid
            if self._may_write:
                remove(self._mark)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None


def _understand(said: bytes) -> GpuReading:
    if not said.strip():
        return GpuReading(fault="the GPU probe ended without an answer")
    try:
        document = json.loads(said)
        if isinstance(document, dict) and isinstance(document.get("fault"), str):
            return GpuReading(
                fault=f"the driver says: {document['fault']}",
                is_absent=document.get("is_absent") is True,
            )
        gpus = decode_gpus(document)
    except (ValueError, RecursionError, DocumentError) as error:
        return GpuReading(fault=f"the GPU probe failed: {error}")
    if not gpus:
        return GpuReading(fault="the driver knows no GPU", is_absent=True)
    return GpuReading(gpus=gpus)


def _read_until_closed(fd: int, deadline_s: float) -> bytes | None:
    """Read to the end; None if that does not come in time, or never."""
    chunks: list[bytes] = []
    left = _MOST_BYTES
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while left > 0:
        wait_s = deadline_s - time.monotonic()
        if wait_s <= 0 or not poll.poll(wait_s * 1000):
            return None
        chunk = os.read(fd, min(left, 1 << 16))
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        left -= len(chunk)
    return None


def _end(pid: int) -> bool:
    """Kill the process; whether it is gone a moment later, which one that hangs is not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True  # it ended, and nobody waits for children here: its number may be another's
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        is_gone = bool(poll.poll(_REAPING_S * 1000))
    finally:
        os.close(pidfd)
    if is_gone:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return is_gone
