"""Where the real implementations keep their files in these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.model.config import Paths
from tinyscheduler.values import fields

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {
    "tick_lock": "tinyscheduler.pid",
    "memory": "scheduler.json",
    "database": "tinyscheduler.db",
    "events": "logs/events.jsonl",
}


def paths_in(folder: Path) -> Paths:
    """Return paths below this folder; nothing is created."""
    state = folder / "state"
    values = {
        field.name: str(state / _NAMES.get(field.name, field.name)) for field in fields(Paths)
    }
    return Paths(**{**values, "base": str(folder), "state": str(state)})
