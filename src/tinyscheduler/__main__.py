"""Run the command line: ``python -m tinyscheduler``."""

from __future__ import annotations

import atexit
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_KICKED = ("run", "--kicked")
# Things made and not gone again before somebody looks for circles among them.  Nearly all that
# a start makes stays, and to look through it for every 700 more took a tenth of a tick.
_BETWEEN_COLLECTIONS = 50_000


def run() -> NoReturn:
    """Run the command line and leave at once, without taking the interpreter apart.

    That takes as long as half a bare interpreter's start, and there is nothing to tidy up:
    what we opened is closed, and what libraries registered for the end is done here.
    """
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    code = main()
    atexit._run_exitfuncs()  # noqa: SLF001 - the only way to it
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or 1
    os._exit(code)


def main() -> int:
    """Run the command named on the command line and return its exit code."""
    arguments = sys.argv[1:]
    # What a wrapper becomes at its end: many a minute, so the command line is not loaded.
    if len(arguments) == 4 and arguments[0] == "--base-path" and tuple(arguments[2:]) == _KICKED:  # noqa: PLR2004 - the length of exactly this command line
        return _tick_as_kicked(arguments[1])
    from tinyscheduler.cli.quick import run_quickly

    code = run_quickly(arguments)
    if code is not None:
        return code
    from tinyscheduler.cli.main import main as cli_main

    return cli_main(arguments)


def _tick_as_kicked(base_path: str) -> int:
    from tinyscheduler.app.ticks import run_kicked
    from tinyscheduler.errors import TinySchedulerError

    try:
        return run_kicked(base_path)
    except TinySchedulerError as error:
        # It lands in the wrappers' own log, where nobody but an operator looks.
        sys.stderr.write(f"error: {error.what}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code


if __name__ == "__main__":
    run()
