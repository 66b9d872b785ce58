"""One tick: lock, observe, decide, apply, report.

The shell around `core.decide`.  It owns the order in which durable things happen;
everything it touches comes in through ports, so the simulator runs this very code.
"""

from tinyscheduler.tick.progress import utc_offset_s
from tinyscheduler.tick.ticking import Foresight, foresee, never, run_ticks, tick
from tinyscheduler.tick.world import Mode, Retention, TickSettings, World

__all__ = [
    "Foresight",
    "Mode",
    "Retention",
    "TickSettings",
    "World",
    "foresee",
    "never",
    "run_ticks",
    "tick",
    "utc_offset_s",
]
