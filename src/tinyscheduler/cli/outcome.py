"""How does a command end, whatever happens in it?  With an exit code, and in words."""

from __future__ import annotations

import os
import sys
from functools import partial

from tinyscheduler.cli.render import ReaderGoneError, tell
from tinyscheduler.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ConfigError,
    TinySchedulerError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.cli.invocation import Invocation

EXIT_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def conclude(
    invocation: Invocation, action: Callable[[], int | None], *, with_traceback: bool
) -> int:
    """Do what was asked for and return its exit code; no failure leaves a traceback."""
    _prepare_streams()
    fail = invocation.fail
    if with_traceback:
        fail = partial(_fail_with_traceback, fail)
    try:
        return int(action() or 0)
    except TinySchedulerError as error:
        fail(error.what, hint=error.hint)
        return _exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ReaderGoneError:
        return EXIT_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost place: a bug, told in one line
        fail(
            f"internal error: {type(error).__name__}: {error}",
            hint="this is a bug; the same command with `tinyscheduler --debug …` shows where",
        )
        return EXIT_BUG


def _exit_code(error: TinySchedulerError) -> int:
    # A setting is named by where it was set; an option's text is a fault of the command line.
    if isinstance(error, ConfigError) and error.where.startswith("--"):
        return EXIT_USAGE
    return error.exit_code


def _fail_with_traceback(fail: Callable[..., None], what: str, *, hint: str | None) -> None:
    import traceback

    tell(traceback.format_exc())
    fail(what, hint=hint)


def _prepare_streams() -> None:
    """Open what the caller left closed, or a database would get the number of stdout."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            setattr(sys, name, os.fdopen(fd, mode))
    for stream in (sys.stdout, sys.stderr):
        # What a locale cannot show is written out instead of failing.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
