"""The checklist of a heartbeat: a small text that people write at any time."""

from __future__ import annotations

import os
import stat

from tinyscheduler.errors import StoreError

# An agent may take all that it reads as one argument, of at most 128 KiB.
MOST_BYTES = 64 << 10


def read_checklist(path: str) -> str | None:
    """Return what is in the file; None if there is none.

    Raises StoreError, which names the file, for what is no readable text of at most 64 KiB.
    """
    try:
        # Not blocking: a pipe in its place must not hang a tick.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _refusal(path, "it is no file")
        content = b""
        while len(content) <= MOST_BYTES and (chunk := os.read(fd, MOST_BYTES + 1)):
            content += chunk
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error
    finally:
        os.close(fd)
    if len(content) > MOST_BYTES:
        raise _refusal(path, f"it is larger than {MOST_BYTES >> 10} KiB")
    if b"\0" in content:
        raise _refusal(path, "it holds a NUL, which no argument can")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _refusal(path, f"it is not UTF-8 at byte {error.start + 1}") from error


def _refusal(path: str, why: str) -> StoreError:
    return StoreError(
        f"the checklist {path} cannot be read: {why}",
        hint="write a text that you may read there; without the file nothing is to be done",
    )
