"""``state/policies/``: the versions of a policy, which of them is active, and the last good one.

A version is a file that is never changed, ``3.lua``.  What answered last is copied, so that it
outlives its version: ``last-good.lua``.  Which file is active, and which is the last good one, say
``active`` and ``last-good``, with one line each.
"""

from __future__ import annotations

import fcntl
import os
import re

from tinyscheduler.crash import durable_step
from tinyscheduler.errors import ConfigError, StoreError
from tinyscheduler.files import own_temporary_for, read_bytes, remove, write_bytes
from tinyscheduler.model.versions import KeptPolicy
from tinyscheduler.policy.headers import body_of, digest_of, read_header, with_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.config import Paths

MOST_VERSIONS = 20
ACTIVE, LAST_GOOD = "active", "last-good"
_VERSION = re.compile(r"([1-9][0-9]{0,8})\.(lua|yaml)")
_COPY = re.compile(r"last-good\.(lua|yaml)")
_MOST_NUMBERS = 999_999_999
# Between reading which version is active and reading it, it can be replaced and removed.
_MOST_LOOKS = 5


class FilePolicies:
    """Whoever deploys holds the lock; readers need none, and a tick needs none for the last good.

    Methods that change something raise StoreError where the disk refuses, with what was active
    still active.
    """

    def __init__(self, paths: Paths) -> None:
        """Remember where; the folder is made when something is first kept."""
        self._folder = os.path.join(paths.state, "policies")
        self._lock: int | None = None

    # -- looking ------------------------------------------------------------------

    def active(self) -> KeptPolicy | None:
        """Return the version that is active; None if none was ever deployed."""
        return self._named_by(ACTIVE)

    def last_good(self) -> KeptPolicy | None:
        """Return what answered last; None if nothing is known to have."""
        return self._named_by(LAST_GOOD)

    def versions(self) -> Sequence[KeptPolicy]:
        """Return what is kept, the newest first; ConfigError if the folder cannot be read."""
        kept = [self._read(name) for name in self._version_names()]
        # What has made room since the folder was read is no version any more.
        found = [one for one in kept if one.fault is None or os.path.lexists(one.path)]
        # Of two files that claim a number, the one that was deployed under it.
        found.sort(key=lambda kept: (-(kept.number or 0), kept.fault is not None, kept.path))
        return found

    def version_at(self, path: str) -> KeptPolicy:
        """Return the version in a file of the folder; a fault if that cannot be one."""
        name = os.path.basename(path)
        if _VERSION.fullmatch(name) is None:
            return KeptPolicy(path=path, fault=f"{path} does not name a version")
        return self._read(name)

    # -- changing -----------------------------------------------------------------

    def try_lock(self) -> bool:
        """Keep all others out who deploy; False while somebody else does."""
        path = os.path.join(self._folder, "lock")
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refused(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock = fd
        return True

    def unlock(self) -> None:
        """Let others deploy."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def keep(self, source: bytes, *, suffix: str, name: str, at: datetime) -> KeptPolicy:
        """Write the next version; nobody reads it before it is activated."""
        number, body = self._next_number(), body_of(source)
        content = with_header(body, suffix=suffix, name=name, number=number, created=at)
        file = f"{number}{suffix}"
        try:
            with durable_step("policy.keep"):
                write_bytes(os.path.join(self._folder, file), content)
        except OSError as error:
            raise self._refused(error) from error
        kept = self._read(file)
        if kept.fault is not None:
            self._remove((kept,))
            raise StoreError(kept.fault, hint="what was written reads otherwise: check the disk")
        return kept

    def activate(self, kept: KeptPolicy) -> None:
        """Make a version the active one, at once and for good."""
        try:
            with durable_step("policy.activate"):
                name = f"{os.path.basename(kept.path)}\n"
                write_bytes(os.path.join(self._folder, ACTIVE), name.encode())
        except OSError as error:
            raise self._refused(error) from error

    def discard(self, kept: KeptPolicy) -> None:
        """Remove a version that could not be activated, unless it was after all."""
        active = self.active()
        if active is None or active.path != kept.path:
            self._remove((kept,))

    def make_room(self) -> None:
        """Remove all but the newest versions, the active one and the last good one.

        What is not a version as it was deployed is left to whoever put it there.
        """
        active, good = self.active(), self.last_good()
        sound = [one for one in self.versions() if one.fault is None]
        self._remove(
            [
                one
                for one in sound[MOST_VERSIONS:]
                if (active is None or one.path != active.path)
                and (good is None or one.digest != good.digest)
            ]
        )

    def keep_good(
        self, source: bytes, *, suffix: str, name: str, number: int | None, at: datetime
    ) -> None:
        """Remember that this answered, in a copy, unless it is the last good one already."""
        good, digest = self.last_good(), digest_of(source)
        if good is not None and good.fault is None and good.digest == digest:
            return
        copy = f"{LAST_GOOD}{suffix}"
        path, body = os.path.join(self._folder, copy), body_of(source)
        content = with_header(body, suffix=suffix, name=name, number=number, created=at)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with durable_step("policy.keep_good"):
                write_bytes(path, content, temporary=own_temporary_for(path))
            with durable_step("policy.name_good"):
                path = os.path.join(self._folder, LAST_GOOD)
                write_bytes(path, f"{copy}\n".encode(), temporary=own_temporary_for(path))
        except OSError as error:
            raise self._refused(error) from error

    # -- parts --------------------------------------------------------------------

    def _named_by(self, pointer: str) -> KeptPolicy | None:
        path = os.path.join(self._folder, pointer)
        name = None
        for _ in range(_MOST_LOOKS):
            try:
                named = read_bytes(path).decode().removesuffix("\n")
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                return KeptPolicy(path=path, fault=f"{path}: {_words(error)}")
            if not (_VERSION.fullmatch(named) or _COPY.fullmatch(named)):
                return KeptPolicy(path=path, fault=f"{path} does not name a version")
            if named == name:
                break
            name, kept = named, self._read(named)
            if kept.fault is None:
                break
        return kept

    def _version_names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if _VERSION.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"{error.strerror}", where=self._folder, hint="make it a folder that you can read"
            ) from error

    def _read(self, name: str) -> KeptPolicy:
        path = os.path.join(self._folder, name)
        version = _VERSION.fullmatch(name)
        number = int(version[1]) if version is not None else None
        try:
            content = read_bytes(path)
        except (OSError, ValueError) as error:
            return KeptPolicy(path=path, number=number, fault=f"{path}: {_words(error)}")
        header, digest = read_header(content), digest_of(content)
        fault = None
        if header is None or (version is not None and header.number != number):
            fault = f"{path}: its first lines are not those that deploying writes"
        elif header.digest != digest:
            fault = f"{path}: it was changed: its hash is {digest}, and was {header.digest}"
        if header is None or fault is not None:
            return KeptPolicy(path=path, number=number, fault=fault)
        return KeptPolicy(
            path=path,
            number=header.number,
            name=header.name,
            digest=digest,
            created=header.created,
            source=body_of(content),
        )

    def _next_number(self) -> int:
        """Return a number that no file has had, as far as those that are left tell."""
        active = self.active()
        taken = [0 if active is None or active.number is None else active.number]
        taken += [int(one.partition(".")[0]) for one in self._version_names()]
        if max(taken) >= _MOST_NUMBERS:
            message = f"{self._folder} has a version {max(taken)}, and there is none after it"
            raise StoreError(message, hint="move that file away if nobody needs it")
        return max(taken) + 1

    def _remove(self, versions: Sequence[KeptPolicy]) -> None:
        try:
            for one in versions:
                with durable_step("policy.forget"):
                    remove(one.path)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"{error.filename or self._folder}: {error.strerror}",
            hint="make room on the disk, and the state folder writable",
        )


def _words(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
