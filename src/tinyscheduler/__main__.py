"""Run the command line: ``python -m tinyscheduler``."""

from __future__ import annotations

import sys

_KICKED = ("run", "--kicked")


def main() -> int:
    """Run the command named on the command line and return its exit code."""
    arguments = sys.argv[1:]
    # What a wrapper becomes at its end: many a minute, so the command line is not loaded.
    if len(arguments) == 4 and arguments[0] == "--base-path" and tuple(arguments[2:]) == _KICKED:
        from tinyscheduler.app import run_kicked

        return run_kicked(arguments[1])
    from tinyscheduler.cli.main import main as cli_main

    return cli_main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
