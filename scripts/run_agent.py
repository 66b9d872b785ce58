#!/usr/bin/env python3
"""Run one attempt under its lease: ``run_agent.py LEASE_FILE``, with the task lock as descriptor 3.

The thin entry of the wrapper, which ticks start by its own path.  By hand it refuses:
only a tick can hand over a task lock.
"""

from __future__ import annotations

import runpy
from pathlib import Path

WRAPPER = Path(__file__).resolve().parent.parent / "src" / "tinyscheduler" / "wrapper.py"

if __name__ == "__main__":
    # By path, so that nothing of the package is imported; it ends the process itself.
    runpy.run_path(str(WRAPPER), run_name="__main__")
