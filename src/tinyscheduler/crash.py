"""Where can a process die?  Names each durable step, so that tests can kill it there.

Inert unless TINYSCHEDULER_CRASH_AT names a point: then the process sends itself
SIGKILL at that point, as a power cut or the kernel's OOM killer would.  A durable
step has two points, ``NAME:before`` and ``NAME:after``; the test matrix reads the
names from the source, so a step cannot be forgotten.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TINYSCHEDULER_CRASH_AT"
_CRASH_AT = os.environ.get(VARIABLE)


def crash_point(point: str) -> None:
    """Die here, as by SIGKILL, if a test asked for exactly this point."""
    if _CRASH_AT is not None and point == _CRASH_AT:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def durable_step(name: str) -> Iterator[None]:
    """Mark one durable step; a process can be made to die right before or right after it."""
    crash_point(f"{name}:before")
    yield
    crash_point(f"{name}:after")
