"""How is a small file replaced so that a crash leaves the old text or the new, never a part?"""

from __future__ import annotations

import os
from contextlib import suppress

from tinyscheduler.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MOST_BYTES = 16 << 20
# Characters; Lua cuts names of files that are longer.
_LONGEST_SHORT_PATH = 50


def write_json(
    path: str,
    document: Mapping[str, Any],
    *,
    durably: bool = True,
    temporary: str | None = None,
) -> None:
    """Replace the file by this document, as `write_bytes` does."""
    write_bytes(path, dumps(document).encode(), durably=durably, temporary=temporary)


def write_bytes(
    path: str, content: bytes, *, durably: bool = True, temporary: str | None = None
) -> None:
    """Replace the file durably: temporary file, fsync, rename, fsync of the folder.

    Where several processes may write at once, each needs a ``temporary`` of its own.
    Not ``durably`` the file survives the death of any process, but a power failure may
    cost the new text or all of it.  Mode 0600.  Raises OSError with the old file untouched
    and no temporary file left; or, if only the folder could not be synced, with the new one.
    """
    folder = os.path.dirname(path)
    temporary = temporary or temporary_for(path)
    data = memoryview(content)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(fd, data) :]
            if durably:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError:
        remove(temporary)
        raise
    if not durably:
        return
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def temporary_for(path: str) -> str:
    """Return the temporary file that `write_json` replaces the file from.

    Never a name that a scan of leases or results could take for one.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.tmp")


def own_temporary_for(path: str) -> str:
    """Return one that no other process uses; a crash leaves it to whoever sweeps."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.getpid()}.tmp")


def read_json(path: str) -> object:
    """Read a bounded JSON file; ValueError if it is not JSON, OSError if it cannot be read."""
    content = read_bytes(path)
    try:
        return loads(content.decode())
    except RecursionError as error:
        message = "nested too deeply"
        raise ValueError(message) from error


def read_bytes(path: str) -> bytes:
    """Read a file of bounded size; ValueError if it is larger, OSError if it cannot be read."""
    # Not blocking: a name pipe in the place of a file must not hang a tick.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        chunks = []
        left = MOST_BYTES + 1
        while left > 0 and (chunk := os.read(fd, left)):
            chunks.append(chunk)
            left -= len(chunk)
    finally:
        os.close(fd)
    if left <= 0:
        message = f"longer than {MOST_BYTES} bytes"
        raise ValueError(message)
    return b"".join(chunks)


def set_aside(path: str, folder: str) -> None:
    """Move a broken file into the folder, under a name that keeps every earlier one.

    It counts as old from now on, not from when it was written.  Raises OSError.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    name = f"{os.path.basename(path)}.{status.st_mtime_ns}-{status.st_ino}"
    kept = os.path.join(folder, name)
    os.replace(path, kept)
    with suppress(OSError):
        os.utime(kept, follow_symlinks=False)


def is_same(one: str, other: str) -> bool:
    """Whether two paths lead to the same file or folder, there or not, however they are spelt.

    By symbolic links and mounts one folder has many names.
    """
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def user_name(uid: int) -> str:
    """Return the user's name, or the number of one that has none."""
    import pwd  # seldom needed, and then by a person

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def remove(path: str) -> None:
    """Unlink the file if it exists; OSError for any other failure."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def short_path(path: str, base: str) -> str:
    """Return what a file is called where there is little room.

    Its place under the folder, or its name alone where it is elsewhere or that is long.

    >>> short_path("/srv/jobs/policies/p.lua", "/srv/jobs"), short_path("/etc/p.lua", "/srv/jobs")
    ('policies/p.lua', 'p.lua')
    """
    inside = os.path.relpath(path, base)
    is_short = len(inside) <= _LONGEST_SHORT_PATH and not inside.startswith("..")
    return inside if is_short else os.path.basename(path)[-_LONGEST_SHORT_PATH:]
