"""The program as it would run later: ``python -m tests.campaigns.shifted SECONDS ARGUMENT…``.

Its wall clock is that much ahead; the monotonic one, by which ages are told, is not.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from tinyscheduler.adapters import clock_system
from tinyscheduler.cli.main import main
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.clock import Instant


def run(ahead_s: float, arguments: list[str]) -> int:
    """Run a command with its clock set forward; return its exit code."""
    true_now = clock_system.SystemClock.now

    def shifted_now(self: clock_system.SystemClock) -> Instant:
        instant = true_now(self)
        return replace(instant, wall=instant.wall + timedelta(seconds=ahead_s))

    # In this process alone, of which the campaign is the only user.
    clock_system.SystemClock.now = shifted_now  # type: ignore[method-assign]  # as said
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]), sys.argv[2:]))
