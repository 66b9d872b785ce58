"""Leases, task locks and results as files: one JSON file and one flock per task.

``ls`` and ``cat`` show everything.  The task lock is an open file description
(flock(2)): it is held as long as any process holds a descriptor of it, so no crash
leaves it held and no recycled pid can hold it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import LeaseConflict, StoreError
from tinyscheduler.files import read_json, remove, set_aside, temporary_for, write_json
from tinyscheduler.model.documents import (
    DocumentError,
    NewerVersionError,
    decode_lease,
    decode_result,
    encode_lease,
)
from tinyscheduler.model.leases import Found, Lease, LeaseEntry, LeaseFault, UnreadableLease
from tinyscheduler.model.snapshot import LeaseScan, UnreadableResult
from tinyscheduler.model.tasks import AttemptResult, is_task_id, place_of
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from tinyscheduler.model.config import Paths
    from tinyscheduler.ports import TaskLock

# Clear of 0 to 3, so that handing the lock over as descriptor 3 never collides.
_LOWEST_LOCK_FD = 10
_TEMPORARY_MAX_AGE_S = 3600
_MOST_READINGS = 4


class FileTaskLock:
    """A task lock held by this process; `fileno` is what a wrapper inherits."""

    def __init__(self, task_id: str, fd: int, found: Found) -> None:
        """Own the descriptor."""
        self.task_id = task_id
        self.found = found
        self.lease_id = os.urandom(16).hex()  # noqa: TID251 - it must never repeat
        self._fd: int | None = fd

    def fileno(self) -> int:
        """Return the locked descriptor; StoreError once closed."""
        if self._fd is None:
            message = f"the lock of task {self.task_id} was closed"
            raise StoreError(message)
        return self._fd

    def close(self) -> None:
        """Close this descriptor.  Never LOCK_UN: that frees every holder (flock(2))."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


if TYPE_CHECKING:

    class LockReading(Protocol):
        """A way to know whether a task lock is held."""

        def begin(self) -> None:
            """Start a scan: what was read before may be old."""

        def is_held(self, path: str, status: os.stat_result) -> bool:
            """Whether any process holds the lock on this file."""


class LockTrial:
    """Know by trying.  For ticks only: while trying, the lock looks held to others."""

    def begin(self) -> None:
        """Nothing is kept between trials."""

    def is_held(self, path: str, status: os.stat_result) -> bool:
        """Try the lock and give it back by closing."""
        del status
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


class LockTable:
    """Know by /proc/locks, touching nothing.  For `status`, dry runs and other readers.

    In a pid namespace the kernel leaves out locks whose taker is gone (fs/locks.c,
    locks_translate_pid), so there this may miss a held lock; readers then also look
    at the recorded process.

    The kernel hands the table out page by page and counts lines from its beginning, so
    a lock given up elsewhere between two pages makes one line vanish from this reading.
    What is missing is therefore looked for again, a few times in a scan.

    It names the device of the filesystem, which on overlayfs and btrfs is not the one
    that stat(2) tells.  So what is still missing is looked for under the device that a
    lock of our own, on the folder, is found under.

    The first reading after a while costs milliseconds: the kernel stops all who take
    locks (percpu_down_write, kernel/locking/percpu-rwsem.c).  So it is read when a
    lock is first asked for, and not where there is none.
    """

    def __init__(self) -> None:
        """Start without a table."""
        self._held: frozenset[tuple[int, int, int]] = frozenset()
        self._readings_left = 0
        self._device: tuple[int, int] | None = None

    def begin(self) -> None:
        """Forget what was read: the first question of this scan reads it for all of them."""
        self._held = frozenset()
        self._readings_left = _MOST_READINGS
        self._device = None

    def is_held(self, path: str, status: os.stat_result) -> bool:
        """Look the file up by device and inode."""
        if self._readings_left == _MOST_READINGS:
            self._read()
        device = os.major(status.st_dev), os.minor(status.st_dev)
        if (*device, status.st_ino) in self._held:
            return True
        if self._device is None:
            self._device = find_device(os.path.dirname(path)) or device
        key = (*self._device, status.st_ino)
        while key not in self._held and self._readings_left:
            self._read()
        return key in self._held

    def _read(self) -> None:
        self._readings_left -= 1
        self._held |= read_lock_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class LockLine:
    """A granted lock in the kernel's table: who took it, on which device and inode."""

    pid: int
    device: tuple[int, int]
    inode: int


def read_lock_table() -> frozenset[tuple[int, int, int]]:
    """Return (major, minor, inode) of every file with a granted lock (proc(5), /proc/locks)."""
    return frozenset((*line.device, line.inode) for line in _lock_lines())


def find_device(folder: str) -> tuple[int, int] | None:
    """Return the device under which the kernel lists locks in this folder, if it tells.

    A shared lock on the folder itself is taken for a moment; nobody else locks folders.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        inode = os.fstat(fd).st_ino
        own = [line for line in _lock_lines() if (line.pid, line.inode) == (os.getpid(), inode)]
    except OSError:
        return None
    finally:
        os.close(fd)
    return own[0].device if own else None


def _lock_lines() -> Iterator[LockLine]:
    try:
        with open("/proc/locks", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        # "1: FLOCK ADVISORY WRITE 4711 fe:00:12345 0 EOF"; a waiter has "->" after the number.
        if len(fields) >= 6 and fields[1] != "->":  # noqa: PLR2004 - the table's columns
            major, minor, inode = fields[5].split(":")
            device = int(major, 16), int(minor, 16)
            yield LockLine(pid=int(fields[4]), device=device, inode=int(inode))


class FileLeaseStore:
    """The files below ``state/running``, ``state/results`` and ``state/cancel``."""

    def __init__(self, paths: Paths, *, locks: LockReading) -> None:
        """Remember where; folders are made when first written to."""
        self._paths = paths
        self._locks = locks

    def scan(self) -> LeaseScan:
        """Read every lease and lock by name, the requests to cancel, and then every result."""
        self._locks.begin()
        names = _list_names(self._paths.running)
        locks = _tasks_of(names, ".lock")
        entries = []
        for task_id in sorted(locks | _tasks_of(names, ".json"), key=place_of):
            if not is_task_id(task_id):
                continue
            entry = self._read_entry(task_id, has_lock=task_id in locks)
            if entry is not None:
                entries.append(entry)
        cancels = frozenset(filter(is_task_id, _list_names(self._paths.cancel)))
        results: list[AttemptResult] = []
        unreadable: list[UnreadableResult] = []
        for name in _list_names(self._paths.results):
            if name.endswith(".json") and not name.startswith("."):
                result = self._read_result(name.removesuffix(".json"))
                if isinstance(result, UnreadableResult):
                    unreadable.append(result)
                elif result is not None:
                    results.append(result)
        return LeaseScan(
            entries=tuple(entries),
            results=tuple(sorted(results, key=lambda result: result.lease_id)),
            unreadable_results=tuple(sorted(unreadable, key=lambda result: result.lease_id)),
            cancels=cancels,
        )

    def acquire(self, task_id: str, *, result_of: str | None = None) -> FileTaskLock | None:
        """Take the lock, make sure that it is on the file that bears the name, and read.

        Another tick cannot unlink it under us: only a holder of the tick lock does.  An
        operator's `rm` can, so the name is compared after locking.
        """
        path = self._lock_path(task_id)
        with _translating(path), durable_step("lock.create"):
            os.makedirs(self._paths.running, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            low_fd, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_LOCK_FD)
            os.close(low_fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, named = os.fstat(fd), os.stat(path)
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise _store_error(path, error) from error
        if (mine.st_dev, mine.st_ino) != (named.st_dev, named.st_ino):
            os.close(fd)
            return None
        found = Found(
            lease=self._read_lease(task_id),
            has_result=result_of is not None and os.path.lexists(self._result_path(result_of)),
        )
        return FileTaskLock(task_id, fd, found)

    def create(self, lock: TaskLock, lease: Lease) -> None:
        """Mark the first heartbeat, then write the lease durably."""
        path = self._lease_path(lock.task_id)
        with _translating(path):
            if os.path.lexists(path):
                message = f"task {lock.task_id} has a lease already"
                raise LeaseConflict(message)
            os.makedirs(self._paths.results, mode=0o700, exist_ok=True)
            os.makedirs(self._paths.cancel, mode=0o700, exist_ok=True)
            beat_ns = lease.monotonic_heartbeat_ns
            os.utime(_fd_of(lock), ns=(int(lease.heartbeat.timestamp() * 1e9), beat_ns))
            with durable_step("lease.create"):
                write_json(path, encode_lease(lease))

    def clear(self, lock: TaskLock | None, lease_id: str | None) -> None:
        """Remove lease, cancel request, result and lock, in this order."""
        if lock is not None:
            self._clear_lease(lock, lease_id)
        if lease_id is not None:
            with durable_step("cancel.remove"):
                _unlink(os.path.join(self._paths.cancel, lease_id))
            self._clear_result(lease_id)
        if lock is not None:
            if not os.path.lexists(self._lease_path(lock.task_id)):
                with durable_step("lock.remove"):
                    _unlink(self._lock_path(lock.task_id))
            lock.close()

    def request_cancel(self, lease_id: str) -> None:
        """Leave the request where the attempt's wrapper looks for it."""
        path = os.path.join(self._paths.cancel, lease_id)
        with _translating(path), durable_step("cancel.create"):
            os.makedirs(self._paths.cancel, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def sweep_temporary(self, *, now_s: float) -> None:
        """Remove temporary files that a crash left behind more than an hour ago."""
        for folder in (self._paths.state, self._paths.running, self._paths.results):
            for name in _list_names(folder):
                if name.startswith(".") and name.endswith(".tmp"):
                    path = os.path.join(folder, name)
                    with _translating(path):
                        try:
                            age_s = now_s - os.lstat(path).st_mtime
                        except FileNotFoundError:
                            continue
                    if age_s > _TEMPORARY_MAX_AGE_S:
                        _unlink(path)

    # -- reading ------------------------------------------------------------------

    def _read_entry(self, task_id: str, *, has_lock: bool) -> LeaseEntry | None:
        """Read lock before lease: what is held when we look still has its lease."""
        held, beat_ns = False, None
        path = self._lock_path(task_id)
        if has_lock:
            try:
                status = os.stat(path)
                held = self._locks.is_held(path, status)
                beat_ns = status.st_mtime_ns
            except FileNotFoundError:
                has_lock = False
            except OSError:
                # Nobody can tell, so nothing may be concluded: as if it were held.
                held = True
        lease = self._read_lease(task_id)
        if lease is None and not has_lock:
            return None
        return LeaseEntry(task_id=task_id, lease=lease, is_lock_held=held, beat_ns=beat_ns)

    def _read_lease(self, task_id: str) -> Lease | UnreadableLease | None:
        path = self._lease_path(task_id)
        try:
            lease = decode_lease(read_json(path))
        except FileNotFoundError:
            if not os.path.islink(path):
                return None
            message = f"lease file {path} is unreadable: it is a link to nothing"
            return UnreadableLease(fault=LeaseFault.CORRUPT, message=message)
        except NewerVersionError as error:
            message = f"lease file {path} is of {error}, newer than this program knows"
            return UnreadableLease(fault=LeaseFault.NEWER, message=message)
        except (DocumentError, ValueError) as error:
            message = f"lease file {path} is unreadable: {error}"
            return UnreadableLease(fault=LeaseFault.CORRUPT, message=message)
        except OSError as error:
            message = f"lease file {path} cannot be read: {error.strerror}"
            return UnreadableLease(fault=LeaseFault.INACCESSIBLE, message=message)
        if lease.task_id != task_id:
            message = f"lease file {path} is unreadable: it names task {lease.task_id!r}"
            return UnreadableLease(fault=LeaseFault.CORRUPT, message=message)
        return lease

    def _read_result(self, lease_id: str) -> AttemptResult | UnreadableResult | None:
        path = self._result_path(lease_id)
        try:
            result = decode_result(read_json(path))
        except FileNotFoundError:
            return None
        except NewerVersionError as error:
            message = f"result file {path} is of {error}, newer than this program knows"
            return UnreadableResult(lease_id=lease_id, message=message, fault=LeaseFault.NEWER)
        except (DocumentError, ValueError) as error:
            message = f"result file {path} is unreadable: {error}"
            return UnreadableResult(lease_id=lease_id, message=message)
        except OSError as error:
            message = f"result file {path} cannot be read: {error.strerror}"
            fault = LeaseFault.INACCESSIBLE
            return UnreadableResult(lease_id=lease_id, message=message, fault=fault)
        if result.lease_id != lease_id:
            message = f"result file {path} is unreadable: it names lease {result.lease_id!r}"
            return UnreadableResult(lease_id=lease_id, message=message)
        return result

    # -- removing -----------------------------------------------------------------

    def _clear_lease(self, lock: TaskLock, lease_id: str | None) -> None:
        """Remove the lease if it is still the one meant; quarantine what is unreadable."""
        path = self._lease_path(lock.task_id)
        match self._read_lease(lock.task_id):
            case Lease(lease_id=found) if found == lease_id:
                # Of a wrapper that was killed while it wrote; nobody writes any more.
                _unlink(temporary_for(path))
                with durable_step("lease.remove"):
                    _unlink(path)
            case UnreadableLease(fault=LeaseFault.CORRUPT):
                with durable_step("lease.quarantine"):
                    self._quarantine(path)
            case _:
                pass

    def _clear_result(self, lease_id: str) -> None:
        path = self._result_path(lease_id)
        _unlink(temporary_for(path))
        if isinstance(self._read_result(lease_id), UnreadableResult):
            with durable_step("result.quarantine"):
                self._quarantine(path)
        else:
            with durable_step("result.remove"):
                _unlink(path)

    def _quarantine(self, path: str) -> None:
        with _translating(path):
            set_aside(path, self._paths.quarantine)

    def _lease_path(self, task_id: str) -> str:
        return f"{self._paths.running}/task_{task_id}.json"

    def _lock_path(self, task_id: str) -> str:
        return f"{self._paths.running}/task_{task_id}.lock"

    def _result_path(self, lease_id: str) -> str:
        return f"{self._paths.results}/{lease_id}.json"


def _tasks_of(names: list[str], suffix: str) -> set[str]:
    """Return what stands for the task in the file names of ours; it may be no task id yet."""
    start, end = len("task_"), -len(suffix)
    return {name[start:end] for name in names if name.startswith("task_") and name.endswith(suffix)}


def _list_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _store_error(folder, error) from error


def _unlink(path: str) -> None:
    with _translating(path):
        remove(path)


def _fd_of(lock: TaskLock) -> int:
    assert isinstance(lock, FileTaskLock)  # noqa: S101 - wired together by the composition root
    return lock.fileno()


@contextmanager
def _translating(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _store_error(path, error) from error


def _store_error(path: str, error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename or path}: {error.strerror}",
        hint="make room, or make the state folder writable for its owner; nothing was lost",
    )
