"""Cron for AI agents and GPU jobs that never loses a task and never runs one twice at once."""

__version__ = "0.1.0"
