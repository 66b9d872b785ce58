"""Leases, task locks and results on the simulated disk."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from tinyscheduler.errors import LeaseConflict, StoreError
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
from tinyscheduler.simulator.machine import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.ports import TaskLock
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Description, Process


class SimulatedTaskLock:
    """A task lock of one process; `share` hands it to another."""

    def __init__(
        self,
        process: Process,
        task_id: str,
        lease_id: str,
        description: Description,
        found: Found,
    ) -> None:
        """Own one descriptor of the description."""
        self.task_id = task_id
        self.lease_id = lease_id
        self.found = found
        self._process = process
        self._description: Description | None = description

    def share(self, process: Process) -> None:
        """Hand a descriptor to another process; StoreError once closed."""
        self.description().share(process)

    def description(self) -> Description:
        """Return the open file description; StoreError once closed."""
        if self._description is None:
            message = f"the lock of task {self.task_id} was closed"
            raise StoreError(message)
        return self._description

    def close(self) -> None:
        """Close this process's descriptor."""
        if self._description is not None:
            self._description.drop(self._process)
            self._description = None


class SimulatedLeaseStore:
    """The lease store of one process.

    Every single change is a step of its own: a process can die between any two.
    """

    def __init__(self, process: Process, disk: Disk) -> None:
        """Read and write as this process."""
        self._process = process
        self._disk = disk
        self._taken = 0

    def scan(self) -> LeaseScan:
        """Read name by name, locks before leases, and all results last."""
        self._process.reach("scan")
        names = filter(is_task_id, self._disk.leases.keys() | self._disk.locks.keys())
        found = [self._read_entry(name) for name in sorted(names, key=place_of)]
        cancels = frozenset(self._disk.cancels)
        self._process.reach("scan.results")
        results = [self._read_result(lease_id) for lease_id in sorted(self._disk.results)]
        return LeaseScan(
            entries=tuple(entry for entry in found if entry is not None),
            results=tuple(one for one in results if isinstance(one, AttemptResult)),
            unreadable_results=tuple(one for one in results if isinstance(one, UnreadableResult)),
            cancels=cancels,
        )

    def acquire(self, task_id: str, *, result_of: str | None = None) -> SimulatedTaskLock | None:
        """Take the lock, make sure that it is on the file that bears the name, and read."""
        with _translating(f"lock of task {task_id}"), self._process.doing("lock.create"):
            if task_id not in self._disk.locks:
                self._disk.refuse_changes()
                self._disk.locks[task_id] = LockFile()
            lock = self._disk.locks[task_id]
        description = lock.try_lock(self._process)
        if description is None:
            return None
        self._process.reach("lock.taken")
        if self._disk.locks.get(task_id) is not lock:
            description.drop(self._process)
            return None
        self._taken += 1
        return SimulatedTaskLock(
            self._process,
            task_id,
            f"lease-{self._process.machine.boots}-{self._process.pid}-{self._taken}",
            description,
            Found(
                lease=self._read_lease(task_id),
                has_result=result_of is not None and result_of in self._disk.results,
            ),
        )

    def create(self, lock: TaskLock, lease: Lease) -> None:
        """Mark the first heartbeat, then write the lease."""
        file = _description_of(lock).lock
        if lock.task_id in self._disk.leases:
            message = f"task {lock.task_id} has a lease already"
            raise LeaseConflict(message)
        with _translating(f"lease of task {lock.task_id}"):
            self._disk.beat(file, lease.monotonic_heartbeat_ns)
            with self._process.doing("lease.create"):
                text = json.dumps(encode_lease(lease))
                self._disk.write(self._disk.leases, lock.task_id, text)

    def clear(self, lock: TaskLock | None, lease_id: str | None) -> None:
        """Remove lease, cancel request, result and lock, in this order."""
        if lock is not None:
            self._clear_lease(lock.task_id, lease_id)
        if lease_id is not None:
            with _translating(f"cancel request {lease_id}"), self._process.doing("cancel.remove"):
                self._disk.remove(self._disk.cancels, lease_id)
            self._clear_result(lease_id)
        if lock is not None:
            if lock.task_id not in self._disk.leases:
                with _translating("task lock"), self._process.doing("lock.remove"):
                    self._disk.refuse_changes()
                    self._disk.locks.pop(lock.task_id, None)
            lock.close()

    def request_cancel(self, lease_id: str) -> None:
        """Leave the request where the attempt's wrapper looks for it."""
        with _translating(f"cancel request {lease_id}"), self._process.doing("cancel.create"):
            self._disk.touch(self._disk.cancels, lease_id)

    def _read_entry(self, task_id: str) -> LeaseEntry | None:
        self._process.reach("scan.lock")
        lock = self._disk.locks.get(task_id)
        is_held = lock is not None and lock.is_held
        beat_ns = lock.beat_ns if lock is not None else None
        self._process.reach("scan.lease")
        lease = self._read_lease(task_id)
        if lease is None and lock is None:
            return None
        return LeaseEntry(task_id=task_id, lease=lease, is_lock_held=is_held, beat_ns=beat_ns)

    def _read_lease(self, task_id: str) -> Lease | UnreadableLease | None:
        text = self._disk.leases.get(task_id)
        return None if text is None else read_lease(task_id, text)

    def _read_result(self, lease_id: str) -> AttemptResult | UnreadableResult | None:
        text = self._disk.results.get(lease_id)
        return None if text is None else read_result(lease_id, text)

    def _clear_lease(self, task_id: str, lease_id: str | None) -> None:
        match self._read_lease(task_id):
            case Lease(lease_id=found) if found == lease_id:
                with _translating(f"lease of task {task_id}"), self._process.doing("lease.remove"):
                    self._disk.remove(self._disk.leases, task_id)
            case UnreadableLease(fault=LeaseFault.CORRUPT):
                with _translating(f"lease of task {task_id}"), self._process.doing("lease.aside"):
                    self._disk.set_aside(self._disk.leases, task_id)
            case _:
                pass

    def _clear_result(self, lease_id: str) -> None:
        with _translating(f"result {lease_id}"), self._process.doing("result.remove"):
            if isinstance(self._read_result(lease_id), UnreadableResult):
                self._disk.set_aside(self._disk.results, lease_id)
            else:
                self._disk.remove(self._disk.results, lease_id)


@lru_cache(maxsize=4096)
def read_lease(task_id: str, text: str) -> Lease | UnreadableLease:
    """Read a lease file of this task."""
    try:
        lease = decode_lease(json.loads(text))
    except NewerVersionError as error:
        return UnreadableLease(fault=LeaseFault.NEWER, message=f"lease of {task_id} is of {error}")
    except (DocumentError, ValueError) as error:
        message = f"lease of {task_id} is unreadable: {error}"
        return UnreadableLease(fault=LeaseFault.CORRUPT, message=message)
    if lease.task_id != task_id:
        message = f"lease of {task_id} is unreadable: it names task {lease.task_id!r}"
        return UnreadableLease(fault=LeaseFault.CORRUPT, message=message)
    return lease


@lru_cache(maxsize=4096)
def read_result(lease_id: str, text: str) -> AttemptResult | UnreadableResult:
    """Read a result file of this lease."""
    try:
        result = decode_result(json.loads(text))
    except NewerVersionError as error:
        message = f"result {lease_id} is of {error}"
        return UnreadableResult(lease_id=lease_id, message=message, fault=LeaseFault.NEWER)
    except (DocumentError, ValueError) as error:
        message = f"result {lease_id} is unreadable: {error}"
        return UnreadableResult(lease_id=lease_id, message=message)
    if result.lease_id != lease_id:
        message = f"result {lease_id} is unreadable: it names lease {result.lease_id!r}"
        return UnreadableResult(lease_id=lease_id, message=message)
    return result


def _description_of(lock: TaskLock) -> Description:
    assert isinstance(lock, SimulatedTaskLock)  # noqa: S101 - wired together by the world
    return lock.description()


@contextmanager
def _translating(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{what}: {error.strerror}"
        raise StoreError(message, hint="make room, or make the disk writable") from error
