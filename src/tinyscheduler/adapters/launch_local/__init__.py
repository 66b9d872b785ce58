"""Attempts as processes of this machine."""

from tinyscheduler.adapters.launch_local.launcher import LocalLauncher

__all__ = ["LocalLauncher"]
