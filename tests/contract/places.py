"""Where the real implementations keep their files in these tests."""

from __future__ import annotations

import os
from pathlib import Path

import tinyscheduler
from tinyscheduler.model.config import Paths
from tinyscheduler.values import fields

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


def importing() -> dict[str, str]:
    """Return an environment in which another process can import product and tests."""
    top = Path(__file__).resolve().parents[2]
    source = Path(tinyscheduler.__file__).resolve().parents[1]
    return {**os.environ, "PYTHONPATH": f"{source}:{top}"}
