"""Is there a driver to be asked at all?"""

from __future__ import annotations

import os

# Any of these is there where a driver is, Linux's own or that of WSL.
_FILES = ("/sys/module/nvidia", "/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


def has_driver() -> bool:
    """Whether it is worth starting a program that asks: only to hear "no" takes its time."""
    return any(os.path.exists(path) for path in _FILES)
