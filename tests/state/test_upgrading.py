"""The program is replaced, removed or moved while its attempts run: all of them end well."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place
from tests.process.station import until

import tinyscheduler

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 30


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "base")
    yield place
    place.clean_up()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a copy of the program; what its wrappers become is the one being tested."""
    package = tmp_path / "site" / "tinyscheduler"
    shutil.copytree(
        Path(tinyscheduler.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    return package


def environment_of(package: Path, place: Place) -> dict[str, str]:
    """Return the environment of that copy."""
    return place.environment(PYTHONPATH=str(package.parent))


def tick_of(package: Path, place: Place) -> None:
    """Do one tick with that copy of the program, which must find work."""
    done = subprocess.run(
        [sys.executable, "-P", str(package / "__main__.py"), "--base-path", place.base, "run"],
        env=environment_of(package, place),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert "1 started" in done.stdout, done


def command_that_waits_for(gate: Path, marks: Path) -> list[str]:
    """Return a command that says that it ran, and ends once the gate is open."""
    return ["sh", "-c", f"echo ran >> '{marks}'; cat '{gate}' >/dev/null"]


def open_gate(gate: Path) -> None:
    with gate.open("w"):
        pass


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def state_of(place: Place, task_id: str) -> str:
    state: str = place.run("show", task_id, "--json").json["state"]
    return state


def test_an_attempt_of_the_version_before_is_settled_by_the_new_one_and_the_next_starts(
    place: Place, installed: Path, gate: Path, tmp_path: Path
):
    marks = tmp_path / "marks"
    first = place.add("--", *command_that_waits_for(gate, marks))
    then = place.add("--after", first, "--", "sh", "-c", f"echo ran >> '{marks}'")
    tick_of(installed, place)
    until(lambda: state_of(place, first) == "running", "the attempt of the version before")
    shutil.rmtree(installed)

    open_gate(gate)

    # No tick but the one that the old wrapper has become.
    assert place.run("wait", first, then, "--timeout", "20s").code == 0
    assert marks.read_text() == "ran\nran\n"
    assert place.leftovers() == []
    shown = place.run("show", first, "--json").json
    assert [one["outcome"] for one in shown["attempts"]] == ["succeeded"]
    assert (place.state / "logs" / "wrapper.log").read_text() == ""


def test_an_attempt_whose_version_was_removed_can_be_cancelled_and_is_found_dead(
    place: Place, installed: Path, gate: Path, tmp_path: Path
):
    place.settings["AGENT_LIMITS"] = "shell:2"
    marks = tmp_path / "marks"
    tasks = []
    for _ in range(2):
        tasks.append(place.add("--", *command_that_waits_for(gate, marks)))
        tick_of(installed, place)
    until(lambda: {state_of(place, one) for one in tasks} == {"running"}, "the old attempts")
    shutil.rmtree(installed)

    place.run("cancel", tasks[0])
    assert place.run("wait", tasks[0], "--timeout", "20s").code == 1
    os.kill(place.run("ps", "--json").json["leases"][0]["pid"], signal.SIGKILL)
    tick = place.run("run", "--json").json

    assert state_of(place, tasks[0]) == "cancelled"
    assert [one["reason"] for one in tick["reclaims"]] == ["dead_pid"]


def test_nothing_starts_from_a_program_that_is_half_removed(place: Place, installed: Path):
    task_id = place.add("--", "true")
    (installed / "wrapper.py").unlink()

    done = subprocess.run(
        [sys.executable, "-P", str(installed / "__main__.py"), "--base-path", place.base, "run"],
        env=environment_of(installed, place),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 1
    assert f"{installed}/wrapper.py: No such file or directory" in done.stderr
    assert state_of(place, task_id) == "waiting"
    assert place.run("show", task_id, "--json").json["failures"] == 0
