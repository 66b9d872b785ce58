"""A plain command line means the same whether it is read quickly or by typer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.cli.add import add
from tinyscheduler.cli.quick import HOT, read, run_quickly
from tinyscheduler.cli.run import run
from tinyscheduler.cli.status import status

if TYPE_CHECKING:
    from tests.cli.place import Place

ADDITIONS = [
    ["--hold", "--", "true"],
    ["--hold", "--title", "a title", "--priority", "-3", "--", "echo", "--hold", "-x"],
    ["--hold", "--priority=7", "--class=interactive", "--gpus=2", "--vram=14G", "--", "true"],
    ["--hold", "--label", "a=1", "--label=b=2", "--env", "X=Y=Z", "--", "true"],
    ["--hold", "--max-runtime", "90s", "--max-turns", "5", "--max-attempts", "2", "--", "true"],
    ["--hold", "--not-before", "2031-01-01T00:00:00Z", "--cwd", "/", "--seed", "4", "--", "true"],
]
FOR_TYPER = [
    ["add", "--help"],
    ["add", "--titles", "x", "--", "true"],
    ["add", "--title"],
    ["add", "--title", "--hold", "--", "true"],
    ["add", "--hold=yes", "--", "true"],
    ["add", "--max-turns", "many", "--", "true"],
    ["add", "--class", "sometimes", "--", "true"],
    ["add", "--from", "-"],
    ["add", "ls"],
    ["status", "--", "1"],
    ["status", "7"],
    ["--version"],
    ["--nonsense", "status"],
    ["--base-path"],
    ["--debug", "status"],
    ["list"],
    ["completion", "bash"],
    ["nonsense"],
    [],
]


def by_typer(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from tinyscheduler.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, "--base-path", str(place.base), *arguments],
        env=place.environment(),
        cwd=place.base,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", ADDITIONS, ids=" ".join)
def test_a_task_added_quickly_is_the_task_that_typer_would_add(place: Place, arguments):
    quick = place.run("add", "--json", *arguments)
    slow = by_typer(place, "add", "--json", *arguments)

    assert (quick.code, slow.returncode) == (0, 0), (quick.err, slow.stderr)
    shown = [
        json.loads(place.run("show", json.loads(text)["task_id"], "--json").out)
        for text in (quick.out, slow.stdout)
    ]
    for one in shown:
        for varying in ("task_id", "created_at", "updated_at"):
            one.pop(varying, None)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["run", "--dry-run"], ["-q", "status"]]
)
def test_what_is_told_quickly_is_told_in_the_same_words(place: Place, arguments):
    place.add("--hold", "--", "true")

    quick = place.run(*arguments)
    slow = by_typer(place, *arguments)

    assert quick.code == slow.returncode
    if "--json" in arguments:
        assert json.loads(quick.out).keys() == json.loads(slow.stdout).keys()
    else:
        assert _without_times(quick.out) == _without_times(slow.stdout)


@pytest.mark.parametrize("arguments", FOR_TYPER, ids=lambda one: " ".join(one) or "nothing")
def test_what_is_not_plain_is_left_to_typer_before_anything_happens(arguments):
    assert run_quickly(arguments) is None


def test_an_error_is_told_and_ends_as_with_typer(place: Place):
    arguments = ["add", "--after", "77", "--", "true"]

    quick, slow = place.run(*arguments), by_typer(place, *arguments)

    assert (quick.code, quick.err) == (slow.returncode, slow.stderr)
    assert quick.code == 5


def test_what_a_command_gets_has_the_types_that_its_parameters_say():
    assert read(add, ["--after", "1", "2", "--gpus", "2", "--", "sh"]) == {
        "after": ["1", "2"],
        "gpus": 2,
        "command": ["sh"],
    }
    assert read(run, ["--agent-limit", "a=1", "--agent-limit=b=2", "--once"]) == {
        "agent_limit": ["a=1", "b=2"],
        "once": True,
    }
    assert read(status, []) == {}


def test_a_hot_command_loads_nothing_heavy_once_its_settings_are_cached(place: Place):
    place.run("add", "--hold", "--", "true")
    program = (
        "import sys; from tinyscheduler.__main__ import main; main();"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    environment = place.environment()
    heavy = {"typer", "pydantic", "pydantic_settings", "yaml", "rich", "dataclasses", "inspect"}
    heavy.add("encodings.ascii")  # a codec of its own; UTF-8 is there anyhow

    for name in HOT:
        plain = {
            "add": ["add", "--hold", "--", "true"],
            "completion": ["completion", "--words", "tasks"],
        }
        words = plain.get(name, [name])
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, "--base-path", str(place.base), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )

        assert heavy & set(done.stderr.split()) == set(), name


def _without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if "ago" not in line and " ms" not in line]
