"""One tick: lock, observe, decide, apply, report.

The shell around `core.decide`.  It owns the order in which durable things happen;
everything it touches comes in through ports, so the simulator runs this very code.
"""

from tinyscheduler.tick.ticking import never, run_ticks, tick
from tinyscheduler.tick.world import Mode, Retention, TickSettings, World

__all__ = ["Mode", "Retention", "TickSettings", "World", "never", "run_ticks", "tick"]
