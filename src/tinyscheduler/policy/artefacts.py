"""Policies as they were compiled, so that a tick need not load a parser of YAML again.

A convenience: whatever is wrong with the folder or a file in it, the policy is compiled anew.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256

from tinyscheduler import __version__
from tinyscheduler.files import own_temporary_for, remove, write_bytes
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.policy.compiled import Compiled, Origin
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tinyscheduler.model.config import Paths

MOST_FILES = 16
MOST_BYTES = 1 << 20
_SUFFIX = ".json"
# What decides what becomes of a text besides the text itself.
_COMPILER = ("compiling.py", "expressions.py", "rules.py", os.path.join("..", "tree.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """A folder of compiled policies, by what they were compiled from.

    Who only looks ``may_write`` nothing.
    """

    folder: str
    may_write: bool

    def recall(self, content: bytes) -> Compiled | None:
        """Return what was made of this text, if that is still here and to be trusted."""
        try:
            document = loads(_read(self._path(content)))
            found = document["compiled"]
            # A damaged disk must not pass for a rule.
            return _decode(found) if document["digest"] == _digest(found) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def remember(self, content: bytes, compiled: Compiled) -> None:
        """Keep what was made of this text, where that can be done without harm."""
        if not self.may_write:
            return
        found = _encode(compiled)
        document = dumps({"digest": _digest(found), "compiled": found}).encode()
        if len(document) > MOST_BYTES:
            return  # nobody would read it
        # On a full disk, or where somebody else made the folder, the next tick compiles again.
        with suppress(OSError):
            path = self._path(content)
            _make(self.folder)
            write_bytes(path, document, durably=False, temporary=own_temporary_for(path))
            self._make_room()

    def _path(self, content: bytes) -> str:
        """Return where it is kept: a new version of the compiler makes a name of its own."""
        here = os.path.dirname(os.path.abspath(__file__))
        stamps = [__version__]
        for name in _COMPILER:
            found = os.stat(os.path.join(here, name))
            stamps.append(f"{found.st_mtime_ns}:{found.st_size}")
        key = sha256("\0".join(stamps).encode() + b"\0" + content).hexdigest()
        return os.path.join(self.folder, key[:32] + _SUFFIX)

    def _make_room(self) -> None:
        """Remove what was made first, and what crashes left half-written."""
        with os.scandir(self.folder) as entries:
            found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry) for entry in entries]
        files = [(age, entry.path) for age, entry in found if not entry.is_dir()]
        for _, path in sorted(files, reverse=True)[MOST_FILES:]:
            remove(path)


def artefacts_of(paths: Paths, *, may_write: bool) -> Artefacts:
    """Return those of a base path."""
    folder = os.path.join(paths.state, "policies", "compiled")
    return Artefacts(folder=folder, may_write=may_write)


def _make(folder: str) -> None:
    """Make the folder in a state that is there, and ours."""
    above = os.path.dirname(folder)
    if os.stat(os.path.dirname(above)).st_uid != os.geteuid():
        raise PermissionError
    for one in (above, folder):
        with suppress(FileExistsError):
            os.mkdir(one, mode=0o700)


def _read(path: str) -> bytes:
    """Return a file that nobody but us can have written."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as stream:
        found = os.fstat(fd)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError
        return stream.read(MOST_BYTES + 1)


def _digest(found: Sequence[Any]) -> str:
    return sha256(dumps(found).encode()).hexdigest()


def _encode(compiled: Compiled) -> list[Any]:
    origins = [[one.lua_line, one.rule, one.line] for one in compiled.origins]
    return [compiled.name, compiled.version, compiled.lua, origins]


def _decode(found: Sequence[Any]) -> Compiled:
    """Return what `_encode` took apart; its digest says that it did."""
    name, version, lua, origins = found
    return Compiled(
        name=name,
        version=version,
        lua=lua,
        origins=tuple(Origin(lua_line=at, rule=rule, line=line) for at, rule, line in origins),
    )
