"""A folder for commands that play with a queue of their own, gone however they end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.errors import StoreError
from tinyscheduler.values import dataclass


@dataclass(slots=True, kw_only=True)
class Scratch:
    """A scratch folder, and whether it stays when all is over."""

    path: str
    is_kept: bool = False


@contextmanager
def scratch_folder(invocation: Invocation, purpose: str) -> Iterator[Scratch]:
    """Make a folder that nobody else can look into, and remove it unless it is to be kept."""
    try:
        base = os.path.realpath(tempfile.mkdtemp(prefix=f"tinyscheduler-{purpose}-"))
    except OSError as error:
        raise StoreError(
            f"cannot make a scratch folder: {error.strerror}",
            hint="make room in the folder for temporary files, or set TMPDIR",
        ) from error
    scratch = Scratch(path=base)
    try:
        yield scratch
    finally:
        if not scratch.is_kept:
            try:
                shutil.rmtree(base)
            except OSError as error:
                invocation.warn(f"{base} could not be removed: {error.strerror}")


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Take a closed terminal and a polite end as Ctrl-C, so that everything is wound up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
