"""Repeats the tick: woken by the clock, by files, by signals and by the end of wrappers.

It is the same tick that cron runs, and holds the tick lock no longer than that one; a
cron line beside it is harmless.
"""

from tinyscheduler.daemon.installation import (
    LONGEST_TRIAL_S,
    Installation,
    ReplacedError,
    Successor,
)
from tinyscheduler.daemon.lock import DaemonLock
from tinyscheduler.daemon.loop import repeat
from tinyscheduler.daemon.service_manager import ServiceManager
from tinyscheduler.daemon.waker import Waker, WakingClock

__all__ = [
    "LONGEST_TRIAL_S",
    "DaemonLock",
    "Installation",
    "ReplacedError",
    "ServiceManager",
    "Successor",
    "Waker",
    "WakingClock",
    "repeat",
]
