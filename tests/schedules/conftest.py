"""A place in which eight tasks may run, for what is promised of schedules row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Place]:
    """Return an empty base path with the quick settings and room on the host."""
    place = Place(tmp_path / "base", {"MAX_CONCURRENT_SLOTS": "8", "AGENT_LIMITS": "shell:8"})
    yield place
    place.clean_up()
