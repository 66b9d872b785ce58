"""What is on the simulated disk?  It survives every crash, and can refuse to be written."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tinyscheduler.simulator.machine import LockFile

if TYPE_CHECKING:
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.model.rounds import Round
    from tinyscheduler.model.snapshot import SchedulingMemory
    from tinyscheduler.model.switches import Switch


class Refusal(Enum):
    """What the disk refuses."""

    NOTHING = "nothing"
    BYTES = "bytes"  # it is full: files can be emptied, removed and touched, not written
    EVERYTHING = "everything"  # it was remounted read-only


@dataclass(eq=False, slots=True)
class Disk:
    """Files by folder and name.  Contents are texts, so that they can be anything."""

    refusal: Refusal = Refusal.NOTHING
    leases: dict[str, str] = field(default_factory=dict)  # by task id
    locks: dict[str, LockFile] = field(default_factory=dict)  # by task id
    results: dict[str, str] = field(default_factory=dict)  # by lease id
    cancels: dict[str, str] = field(default_factory=dict)  # by lease id
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    tick_lock: LockFile = field(default_factory=LockFile)
    daemon_lock: LockFile = field(default_factory=LockFile)
    kicks: dict[str, str] = field(default_factory=dict)  # at most one: "kick"
    memory: SchedulingMemory | str | None = None
    ledger: dict[str, AttemptRecord] = field(default_factory=dict)  # by lease id
    switches: dict[tuple[str, str], Switch] = field(default_factory=dict)  # by kind and target
    coolings: dict[str, Cooling] = field(default_factory=dict)  # by account
    rounds: dict[tuple[str, int], Round | str] = field(default_factory=dict)  # by tick and number
    are_switches_readable: bool = True
    checklists: dict[str, str] = field(default_factory=dict)  # by path
    pressures: dict[str, InteractivePressure] = field(default_factory=dict)  # by name

    def refuse_bytes(self) -> None:
        """Raise OSError if nothing can be written."""
        if self.refusal is not Refusal.NOTHING:
            raise self._error()

    def refuse_changes(self) -> None:
        """Raise OSError if not even an empty file can be made or removed."""
        if self.refusal is Refusal.EVERYTHING:
            raise self._error()

    def write(self, folder: dict[str, str], name: str, text: str) -> None:
        """Replace a file whole; OSError and the old one if the disk refuses."""
        self.refuse_bytes()
        folder[name] = text

    def touch(self, folder: dict[str, str], name: str) -> None:
        """Create an empty file if there is none."""
        self.refuse_changes()
        folder.setdefault(name, "")

    def remove(self, folder: dict[str, str], name: str) -> None:
        """Remove a file if it exists."""
        if name in folder:
            self.refuse_changes()
            del folder[name]

    def set_aside(self, folder: dict[str, str], name: str) -> None:
        """Move a file to quarantine."""
        self.refuse_changes()
        self.quarantine.append((name, folder.pop(name)))

    def beat(self, lock: LockFile, beat_ns: int) -> None:
        """Set a lock's mtime: it works on a full disk, and fails only where all does."""
        self.refuse_changes()
        lock.beat_ns = beat_ns

    def contents(self) -> dict[str, object]:
        """Return all that a look at the files would show, for comparing two moments."""
        return {
            "leases": dict(self.leases),
            "locks": {name: (lock.is_held, lock.beat_ns) for name, lock in self.locks.items()},
            "results": dict(self.results),
            "cancels": list(self.cancels),
            "quarantine": list(self.quarantine),
            "kicks": list(self.kicks),
            "memory": self.memory,
            "ledger": dict(self.ledger),
            "switches": dict(self.switches),
            "coolings": dict(self.coolings),
            "rounds": list(self.rounds),
        }

    def _error(self) -> OSError:
        number = errno.EROFS if self.refusal is Refusal.EVERYTHING else errno.ENOSPC
        return OSError(number, os.strerror(number))
