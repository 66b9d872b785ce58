"""Where can a process die?  Names each durable step, so that tests can kill it there.

Inert unless TINYSCHEDULER_CRASH_AT says ``POINT FILE``: then the first process to reach
that point creates the file and sends itself SIGKILL, as the kernel's OOM killer would.
A durable step has two points, ``NAME:before`` and ``NAME:after``; the test matrix reads
the names from the source, so a step cannot be forgotten.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TINYSCHEDULER_CRASH_AT"
_POINT, _, _MARK = os.environ.get(VARIABLE, "").partition(" ")


def crash_point(point: str) -> None:
    """Die here, as by SIGKILL, if a test asked for exactly this point and nobody died yet."""
    if point == _POINT:
        try:
            os.close(os.open(_MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def durable_step(name: str) -> Iterator[None]:
    """Mark one durable step; a process can be made to die right before or right after it."""
    crash_point(f"{name}:before")
    yield
    crash_point(f"{name}:after")
