"""Base paths, env files and agents files that state only what matters to a test."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tinyscheduler.model.config import Config, Origin

SOURCE = Path(__file__).resolve().parents[2] / "src"
NOBODY = 65534


def a_base(path: Path, *, env: str | None = None, agents: str | None = None) -> Path:
    """Make a base path with its state folder and, if given, its two files."""
    (path / "state").mkdir(parents=True, exist_ok=True)
    if env is not None:
        (path / ".env").write_text(env)
    if agents is not None:
        (path / "agents.yaml").write_text(agents)
    return path


def an_environment(base: Path | None = None, /, **variables: str) -> dict[str, str]:
    """Return an environment of TINYSCHEDULER_ variables, named without the prefix."""
    found = {"HOME": "/users/somebody", "PATH": os.defpath}
    if base is not None:
        found["TINYSCHEDULER_BASE_PATH"] = str(base)
    return found | {f"TINYSCHEDULER_{name}": value for name, value in variables.items()}


def loaded(
    base: Path | None,
    environ: Mapping[str, str] | None = None,
    *,
    write_cache: bool = False,
    **overrides: Any,
) -> Config:
    """Load the configuration of a base path that the command line names."""
    given = Overrides(base_path=str(base) if base else None, **overrides)
    environ = an_environment() if environ is None else environ
    return load_config(given, environ=environ, write_cache=write_cache)


def origin(config: Config, name: str) -> Origin:
    """Return where a setting came from."""
    return dict(config.origins)[name]


def run_python(program: str, *arguments: str, unprivileged: bool = False) -> str:
    """Run a program in a Python of its own and return what it printed.

    Unprivileged, it imports everything first: an interpreter of the superuser's own may be
    out of reach afterwards.
    """
    if unprivileged and os.geteuid() == 0:
        program = BECOME_NOBODY + program
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def a_public_folder() -> Iterator[Path]:
    """Make a folder that other users can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


BECOME_NOBODY = f"""if True:
    import os
    import tinyscheduler.app.policy_fixtures
    import tinyscheduler.config.resolve
    import tinyscheduler.config.validate
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
"""
