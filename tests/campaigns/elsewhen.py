"""The program at another time: ``python -m tests.campaigns.elsewhen TIME ARGUMENT…``.

Its wall clock begins at that time and goes on from there; the monotonic one, by which ages are
told, is the true one.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

from tinyscheduler.adapters import clock_system
from tinyscheduler.cli.main import main
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.clock import Instant


def run(begin: datetime, arguments: list[str]) -> int:
    """Run a command with its clock set to a time; return its exit code."""
    true_now = clock_system.SystemClock.now
    ahead = begin - true_now(clock_system.SystemClock()).wall

    def set_now(self: clock_system.SystemClock) -> Instant:
        instant = true_now(self)
        return replace(instant, wall=instant.wall + ahead)

    # In this process alone, of which the test is the only user.
    clock_system.SystemClock.now = set_now  # type: ignore[method-assign]  # as said
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(datetime.fromisoformat(sys.argv[1]), sys.argv[2:]))
