"""Places for tests of the command line; whatever is started there is ended with them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Answer, Place

from tinyscheduler.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return an empty base path with the quick settings."""
    place = Place(tmp_path / "base")
    yield place
    place.clean_up()


@pytest.fixture
def run_at(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run commands in this very process, where many of them are to be looked at quickly."""

    def run(place: Place, *arguments: str) -> Answer:
        monkeypatch.delenv("TINYSCHEDULER_BASE_PATH", raising=False)
        for name, value in place.environment().items():
            if name.startswith("TINYSCHEDULER_"):
                monkeypatch.setenv(name, value)
        monkeypatch.chdir(place.base)
        capfd.readouterr()
        code = main(["--base-path", str(place.base), *arguments])
        out, err = capfd.readouterr()
        return Answer(code=code, out=out, err=err)

    return run


@pytest.fixture
def here(place: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands at the empty place in this very process."""
    return partial(run_at, place)
