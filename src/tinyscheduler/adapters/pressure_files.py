"""``state/pressure/``: a small file for each who has said that they are at work.

Whoever sets, lifts or clears away a marker holds the lock beside them, so that what is cleared
away was not set anew meanwhile.  Looking takes no lock: files are replaced whole.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from datetime import timedelta

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError, UsageError
from tinyscheduler.files import remove, set_aside, write_json
from tinyscheduler.jsontext import loads
from tinyscheduler.model.codec import Codec
from tinyscheduler.model.documents import DocumentError, NewerVersionError
from tinyscheduler.model.pressure import InteractivePressure, Marker, Owner, PressureKind
from tinyscheduler.model.tasks import is_task_id
from tinyscheduler.procfs import START_TICKS, is_over, read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import Paths
    from tinyscheduler.ports import Clock

VERSION = 1
MOST_MARKERS = 200
_MOST_FILES = 1000  # that one look reads
_MOST_BYTES = 4096
_SUFFIX = ".json"
_LOCK = ".lock"
_PATIENCE_S, _LOOK_S = 2.0, 0.02
_CODEC = Codec()


class PressureFiles:
    """The markers of a state folder; the folder is made with the first."""

    def __init__(
        self, paths: Paths, clock: Clock, *, warn: Callable[[str], None], may_write: bool
    ) -> None:
        """Say on ``warn`` what could not be read; with ``may_write`` off nothing is moved."""
        self._folder = os.path.join(paths.state, "pressure")
        self._quarantine = paths.quarantine
        self._clock = clock
        self._warn = warn
        self._may_write = may_write

    def live(self) -> Sequence[InteractivePressure]:
        """Return who has said so and is at work still, by name; clear away what is over."""
        now = self._clock.now()
        found, over = self._look(now)
        if over and self._may_write:
            self._clear_away(over)
        return [told(one, now) for one in found]

    def set(
        self, name: str, *, ttl_s: float, pid: int | None, by: str
    ) -> tuple[InteractivePressure, bool]:
        """Say that somebody is at work from now on; return that, and whether it was said before.

        Raises UsageError if the process does not live, BusyError where too many have said so,
        and StoreError if the disk refuses.
        """
        self._refuse_wrong(name)
        owner = None if pid is None else _owner_of(pid)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with self._locked():
                return self._set(name, ttl_s=ttl_s, owner=owner, by=by)
        except OSError as error:
            raise self._refusal(error) from error

    def lift(self, name: str) -> InteractivePressure | None:
        """Take back what was said; return it, or None if nothing was, or it was over."""
        self._refuse_wrong(name)
        now = self._clock.now()
        try:
            with self._locked():
                found, over = self._look(now)
                for one in (*over, name):
                    with durable_step("pressure.lift"):
                        remove(self._path(one))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(error) from error
        return next((told(one, now) for one in found if one.name == name), None)

    # -- parts --------------------------------------------------------------------

    def _set(
        self, name: str, *, ttl_s: float, owner: Owner | None, by: str
    ) -> tuple[InteractivePressure, bool]:
        now = self._clock.now()
        found, over = self._look(now)
        for one in over:
            remove(self._path(one))
        before = next((one for one in found if one.name == name), None)
        if before is None and len(found) >= MOST_MARKERS:
            raise BusyError(
                f"{len(found)} have said that they are at work, and so many may",
                hint="`tinyscheduler pressure list` shows who; `pressure off --id ID` ends one",
            )
        marker = Marker(
            name=name,
            since=now.wall if before is None else before.since,
            by=by,
            boot_id=now.boot_id,
            ends_ns=now.monotonic_ns + round(ttl_s * 1e9),
            owner=owner,
        )
        with durable_step("pressure.set"):
            # Gone with a power failure is as well: so is whoever was at work.
            document = {"version": VERSION, **_CODEC.encode(marker)}
            write_json(self._path(name), document, durably=False)
        return told(marker, now), before is not None

    def _look(self, now: Instant) -> tuple[list[Marker], list[str]]:
        """Return the markers that count, and the names of those that are over."""
        live, over = [], []
        for name in self._names():
            marker = self._read(name)
            if marker is None:
                continue
            if _is_over(marker, now):
                over.append(name)
            else:
                live.append(marker)
        return live, over

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                names = [one.name for one in entries if one.name.endswith(_SUFFIX)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._warn(f"{self._folder}: {error.strerror}; nobody counts as at work")
            return []
        if len(names) > _MOST_FILES:
            self._warn(f"{self._folder} holds {len(names)} files; {_MOST_FILES} are looked at")
        return sorted(name.removesuffix(_SUFFIX) for name in names)[:_MOST_FILES]

    def _read(self, name: str) -> Marker | None:
        """Read one; None, loudly, if it cannot count.  What is damaged is set aside."""
        path = self._path(name)
        try:
            return _decode(_read_small(path), name)
        except FileNotFoundError:
            return None
        except NewerVersionError as error:
            self._warn(f"{path} does not count: {error}")
        except (ValueError, RecursionError, DocumentError) as error:
            self._warn(f"{path} does not count and is set aside: {error}")
            self._set_aside(path)
        except OSError as error:
            self._warn(f"{path} does not count: {error.strerror}")
        return None

    def _set_aside(self, path: str) -> None:
        if not self._may_write:
            return
        try:
            set_aside(path, self._quarantine)
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(f"{path} could not be set aside: {error.strerror}")

    def _clear_away(self, names: Sequence[str]) -> None:
        """Remove markers that are over, unless somebody is at them: the next look does."""
        try:
            with self._locked(patience_s=0.0):
                now = self._clock.now()
                for name in names:
                    marker = self._read(name)
                    if marker is not None and _is_over(marker, now):
                        with durable_step("pressure.clear"):
                            remove(self._path(name))
        except BusyError:
            return
        except OSError as error:
            self._warn(f"what is over in {self._folder} could not be removed: {error.strerror}")

    @contextmanager
    def _locked(self, *, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        path = os.path.join(self._folder, _LOCK)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            deadline_ns = self._clock.now().monotonic_ns + round(patience_s * 1e9)
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if self._clock.now().monotonic_ns >= deadline_ns:
                        raise BusyError(
                            f"{path} is held by another command", hint="try again"
                        ) from error
                    self._clock.sleep(_LOOK_S)
            yield
        finally:
            os.close(fd)

    def _refuse_wrong(self, name: str) -> None:
        # It names a file.
        if not is_task_id(name):
            raise AssertionError(name)

    def _refusal(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._folder}: {error.strerror}",
            hint="make room on the disk, and the folder writable",
        )

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name + _SUFFIX)


def told(marker: Marker, now: Instant) -> InteractivePressure:
    """Return a marker as it is told: its end by the wall clock."""
    left = timedelta(microseconds=(marker.ends_ns - now.monotonic_ns) / 1000)
    return InteractivePressure(
        name=marker.name,
        kind=PressureKind.MARKER,
        since=marker.since,
        ends_at=now.wall + left,
        pid=None if marker.owner is None else marker.owner.pid,
        by=marker.by,
    )


def _decode(content: bytes, name: str) -> Marker:
    document = loads(content.decode())
    version = document.get("version") if isinstance(document, dict) else None
    if type(version) is int and version > VERSION:
        message = "it was written by a newer TinyScheduler"
        raise NewerVersionError(message)
    if version != VERSION:
        message = "it is no marker of interactive pressure"
        raise DocumentError(message)
    marker = _CODEC.decode(Marker, document, "marker")
    if marker.name != name or not is_task_id(name):
        message = f"it is a marker of {marker.name!r}"
        raise DocumentError(message)
    return marker


def _read_small(path: str) -> bytes:
    """Read a marker; ValueError for what is no small file, whatever lies there instead."""
    # Looked at before it is opened: opening a device may do something, and a link leads away.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        message = "it is no regular file"
        raise ValueError(message)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        content = os.read(fd, _MOST_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) > _MOST_BYTES:
        message = f"it is longer than {_MOST_BYTES} bytes"
        raise ValueError(message)
    return content


def _is_over(marker: Marker, now: Instant) -> bool:
    """Whether its time is over, or its owner: with a boot both are."""
    if marker.boot_id != now.boot_id or now.monotonic_ns >= marker.ends_ns:
        return True
    owner = marker.owner
    if owner is None or owner.pid_ns != _pid_ns():
        return False  # of another namespace nothing can be seen: its time counts
    try:
        fields = read_stat(owner.pid)
    except OSError:
        return False
    return fields is None or is_over(fields) or int(fields[START_TICKS]) != owner.start_ticks


def _owner_of(pid: int) -> Owner:
    try:
        fields = read_stat(pid)
    except OSError:
        fields = None
    if fields is None or is_over(fields):
        raise UsageError(
            f"there is no process {pid}",
            hint="--pid names the process that is at work, such as --pid $$ in a shell",
        )
    return Owner(pid=pid, start_ticks=int(fields[START_TICKS]), pid_ns=_pid_ns())


def _pid_ns() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
