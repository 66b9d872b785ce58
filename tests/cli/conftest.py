"""Places for tests of the command line; whatever is started there is ended with them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Answer, Place

import tinyscheduler
from tinyscheduler.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return an empty base path with the quick settings."""
    place = Place(tmp_path / "base")
    yield place
    place.clean_up()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return the program as pip installs it: nothing around it is a checkout."""
    site, program = tmp_path / "site", tmp_path / "bin" / "tinyscheduler"
    for folder in (site, program.parent):
        folder.mkdir()
    (site / "tinyscheduler").symlink_to(Path(tinyscheduler.__file__).parent)
    start = f"import sys; sys.path.insert(0, {str(site)!r})"
    run = "from tinyscheduler.__main__ import run; run()"
    program.write_text(f"#!{sys.executable} -I\n{start}\n{run}\n")
    program.chmod(0o755)
    return program


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
