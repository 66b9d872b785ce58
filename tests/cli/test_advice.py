"""Commands in advice, typed as they stand, act on the queue that was asked about."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.place import Place

TOP = Path(__file__).resolve().parents[2]
# What the launcher of a checkout becomes.
CHECKOUT = (sys.executable, "-I", str(TOP / "src/tinyscheduler/__main__.py"))


def told(place: Place, argv: tuple[str, ...], *, cwd: Path, path: str = "/usr/bin:/bin") -> str:
    """Return the command in the hint for a task that is not there."""
    done = subprocess.run(
        [*argv, "--base-path", str(place.base), "show", "9"],
        env=place.environment(PATH=path),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (command,) = re.findall(r"^hint: `(.*)` shows the tasks there are$", done.stderr, re.MULTILINE)
    return str(command).removesuffix(f" --base-path {place.base} list")


@pytest.mark.parametrize("name", ["base", "it's 100% $HOME"])
def test_a_hint_typed_as_it_stands_lists_the_tasks_of_that_queue(
    tmp_path: Path, installed: Path, name: str
):
    place = Place(tmp_path / name)
    place.add("--", "echo", "found")
    options = ["--env-file", "/dev/null", "--base-path", str(place.base)]

    def typed(*argv: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": "/usr/bin:/bin"}
        return subprocess.run(
            argv, env=path, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )

    asked = typed(str(installed), *options, "show", "9")
    (hint,) = re.findall(r"^hint: `(.*)` shows", asked.stderr, re.MULTILINE)
    done = typed("sh", "-c", hint)

    assert shlex.split(hint) == [str(installed), *options, "list"]
    assert done.returncode == 0, done.stderr
    assert "echo found" in done.stdout


def test_a_checkout_is_named_as_it_is_reached_from_here(place: Place, tmp_path: Path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tinyscheduler").symlink_to(TOP / "tinyscheduler")

    assert told(place, CHECKOUT, cwd=TOP) == "./tinyscheduler"
    assert told(place, CHECKOUT, cwd=tmp_path) == str(TOP / "tinyscheduler")
    assert told(place, CHECKOUT, cwd=TOP, path=f"{linked}:/bin") == "tinyscheduler"


def test_an_installed_program_is_named_by_its_path_unless_path_finds_it(
    place: Place, installed: Path, tmp_path: Path
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "tinyscheduler").write_text("another one")
    (other / "tinyscheduler").chmod(0o755)

    assert told(place, (str(installed),), cwd=TOP) == str(installed)
    assert told(place, (str(installed),), cwd=installed.parent) == "./tinyscheduler"
    on_path = f"/bin:{installed.parent}:{other}"
    assert told(place, (str(installed),), cwd=TOP, path=on_path) == "tinyscheduler"
    hidden = f"{other}:{installed.parent}"
    assert told(place, (str(installed),), cwd=TOP, path=hidden) == str(installed)


def test_what_is_printed_on_stdout_names_the_queue_and_documents_stay_plain(place: Place):
    place.add("--", "true")

    texts = {name: place.run(*name.split()).out for name in ("why 1", "health", "service status")}
    document = place.run("why", "1", "--json").out

    assert f"`{place.program} run` starts it now" in texts["why 1"]
    assert f"`{place.program} run` does it once" in texts["health"]
    assert f"base path: `{place.program} service install`" in texts["service status"]
    assert "`tinyscheduler run` starts it now" in document
