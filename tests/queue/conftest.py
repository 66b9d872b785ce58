"""A queue to try things with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.queue.builders import Opened, assert_sound, open_queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tinyscheduler.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    """An open queue, which is sound when the test has ended."""
    opened = open_queue(path)
    yield opened
    opened.database.close()
    if path.exists():
        assert_sound(path)
