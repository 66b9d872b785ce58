"""``scheduler.json``: what one tick remembers for the next."""

from __future__ import annotations

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import StoreError
from tinyscheduler.files import read_json, set_aside, write_json
from tinyscheduler.model.documents import DocumentError, decode_memory, encode_memory
from tinyscheduler.model.snapshot import SchedulingMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.config import Paths


class FileMemoryStore:
    """One small JSON file; if it is unreadable, a copy is set aside and all is forgotten.

    That of a newer version too: nothing is in it that cannot be learnt again.
    """

    def __init__(self, paths: Paths, *, warn: Callable[[str], None], may_write: bool) -> None:
        """Say on ``warn`` what was set aside; with ``may_write`` off nothing is moved."""
        self._path = paths.memory
        self._quarantine = paths.quarantine
        self._warn = warn
        self._may_write = may_write

    def load(self) -> SchedulingMemory:
        """Return what was saved, or an empty memory."""
        try:
            return decode_memory(read_json(self._path))
        except FileNotFoundError:
            return SchedulingMemory()
        except (OSError, ValueError, DocumentError) as error:
            self._warn(f"{self._path} is unreadable ({error}); starting with an empty memory")
            if self._may_write:
                self._set_aside()
            return SchedulingMemory()

    def save(self, memory: SchedulingMemory) -> None:
        """Replace the file; StoreError if the disk refuses."""
        try:
            with durable_step("memory.save"):
                # Losing it costs time, never a task; a tick need not wait for the disk.
                write_json(self._path, encode_memory(memory), durably=False)
        except OSError as error:
            message = f"{self._path}: {error.strerror}"
            raise StoreError(message, hint="make room on the disk") from error

    def _set_aside(self) -> None:
        try:
            set_aside(self._path, self._quarantine)
        except OSError as error:
            self._warn(f"{self._path} could not be set aside: {error.strerror}")
