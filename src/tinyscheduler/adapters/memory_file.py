"""``scheduler.json``: what one tick remembers for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import StoreError
from tinyscheduler.files import read_json, set_aside, write_json
from tinyscheduler.model.clock import format_time, parse_time
from tinyscheduler.model.snapshot import SchedulingMemory, StaleSighting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.config import Paths

MEMORY_VERSION = 1


class FileMemoryStore:
    """One small JSON file; if it is unreadable, a copy is set aside and all is forgotten."""

    def __init__(self, paths: Paths, *, warn: Callable[[str], None], may_write: bool) -> None:
        """Say on ``warn`` what was set aside; with ``may_write`` off nothing is moved."""
        self._path = paths.memory
        self._quarantine = paths.quarantine
        self._warn = warn
        self._may_write = may_write

    def load(self) -> SchedulingMemory:
        """Return what was saved, or an empty memory."""
        try:
            return _decode(read_json(self._path))
        except FileNotFoundError:
            return SchedulingMemory()
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._warn(f"{self._path} is unreadable ({error}); starting with an empty memory")
            if self._may_write:
                self._set_aside()
            return SchedulingMemory()

    def save(self, memory: SchedulingMemory) -> None:
        """Replace the file; StoreError if the disk refuses."""
        try:
            with durable_step("memory.save"):
                # Losing it costs time, never a task; a tick need not wait for the disk.
                write_json(self._path, _encode(memory), durably=False)
        except OSError as error:
            message = f"{self._path}: {error.strerror}"
            raise StoreError(message, hint="make room on the disk") from error

    def _set_aside(self) -> None:
        try:
            set_aside(self._path, self._quarantine)
        except OSError as error:
            self._warn(f"{self._path} could not be set aside: {error.strerror}")


def _encode(memory: SchedulingMemory) -> dict[str, object]:
    return {
        "version": MEMORY_VERSION,
        "stale": [
            {
                "lease_id": sighting.lease_id,
                "beat_ns": sighting.beat_ns,
                "seen_ns": sighting.seen_ns,
                "boot_id": sighting.boot_id,
            }
            for sighting in memory.stale
        ],
        "last_start_ns": memory.last_start_ns,
        "last_start_boot_id": memory.last_start_boot_id,
        "pruned_at": None if memory.pruned_at is None else format_time(memory.pruned_at),
    }


def _decode(document: object) -> SchedulingMemory:
    if not isinstance(document, dict):
        message = "not a JSON object"
        raise TypeError(message)
    if document["version"] != MEMORY_VERSION:
        message = f"version {document['version']!r}"
        raise ValueError(message)
    last_start_ns = document["last_start_ns"]
    boot_id = document["last_start_boot_id"]
    pruned_at = document.get("pruned_at")  # missing in what earlier versions wrote
    return SchedulingMemory(
        stale=tuple(
            StaleSighting(
                lease_id=str(sighting["lease_id"]),
                beat_ns=int(sighting["beat_ns"]),
                seen_ns=int(sighting["seen_ns"]),
                boot_id=str(sighting["boot_id"]),
            )
            for sighting in document["stale"]
        ),
        last_start_ns=None if last_start_ns is None else int(last_start_ns),
        last_start_boot_id=None if boot_id is None else str(boot_id),
        pruned_at=None if pruned_at is None else parse_time(pruned_at),
    )
