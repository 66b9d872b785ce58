"""A plain command line means the same whether it is read quickly or by typer."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.cli.add import add
from tinyscheduler.cli.logs import logs
from tinyscheduler.cli.pause import pause
from tinyscheduler.cli.quick import HOT, read, run_quickly
from tinyscheduler.cli.run import run
from tinyscheduler.cli.status import status
from tinyscheduler.cli.tasks import list_tasks
from tinyscheduler.cli.wait import wait
from tinyscheduler.errors import EXIT_INACTIVE, EXIT_TIMEOUT
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place

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
    ["doctor"],
    ["show"],
    ["show", "1", "2"],
    ["show", "-1"],
    ["wait"],
    ["wait", "--timeout"],
    ["logs", "1", "-n5"],
    ["logs", "1", "-n=5"],
    ["logs", "1", "-n", "many"],
    ["list", "--state", "sleeping"],
    ["list", "7"],
    ["history", "--state", "never"],
    ["completion", "bash"],
    ["nonsense"],
    [],
]


@pytest.mark.parametrize("arguments", ADDITIONS, ids=" ".join)
def test_a_task_added_quickly_is_the_task_that_typer_would_add(
    place: Place, here: Callable[..., Answer], arguments
):
    quick = place.run("add", "--json", *arguments)
    slow = here("add", "--json", *arguments)  # which begins behind what is read quickly

    assert (quick.code, slow.code) == (0, 0), (quick.err, slow.err)
    shown = [place.run("show", one.json["task_id"], "--json").json for one in (quick, slow)]
    for one in shown:
        for varying in ("task_id", "created_at", "updated_at"):
            one.pop(varying, None)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["run", "--dry-run"],
        ["-q", "status"],
        ["list"],
        ["list", "--state=held", "--limit", "5", "--json"],
        ["show", "1"],
        ["show", "--json", "--", "1"],
        ["why", "1"],
        ["ps"],
        ["logs", "1", "-n", "2"],
        ["wait", "1", "--timeout", "0.01"],
        ["parked", "--agent", "nobody"],
        ["history", "--state", "done"],
        ["report", "--since", "1d"],
        ["cancel", "7"],
        ["hold", "1", "1"],
        ["pause", "agent:nobody", "--reason", "none"],
    ],
    ids=" ".join,
)
def test_what_is_told_quickly_is_told_in_the_same_words(
    place: Place, here: Callable[..., Answer], arguments
):
    place.add("--hold", "--", "true")

    quick, slow = place.run(*arguments), here(*arguments)

    assert quick.code == slow.code
    if "--json" in arguments:
        assert quick.json.keys() == slow.json.keys()
    else:
        assert _without_times(quick.out) == _without_times(slow.out)


@pytest.mark.parametrize("arguments", FOR_TYPER, ids=lambda one: " ".join(one) or "nothing")
def test_what_is_not_plain_is_left_to_typer_before_anything_happens(arguments):
    assert run_quickly(arguments) is None


def test_an_error_is_told_and_ends_as_with_typer(place: Place, here: Callable[..., Answer]):
    arguments = ["add", "--after", "77", "--", "true"]

    quick, slow = place.run(*arguments), here(*arguments)

    assert (quick.code, quick.err) == (slow.code, slow.err)
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
    assert read(list_tasks, ["--state", "held"]) == {"state": TaskState.HELD}
    assert read(logs, ["7", "-n", "3", "-f"]) == {"task_id": "7", "lines": 3, "follow": True}
    assert read(wait, ["1", "--json", "--", "2"]) == {"task_ids": ["1", "2"], "json": True}
    assert read(pause, []) == {}


def test_a_hot_command_loads_nothing_heavy_once_its_settings_are_cached(place: Place):
    place.run("add", "--hold", "--", "true")
    program = (
        "import sys; from tinyscheduler.__main__ import main; main();"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    environment = place.environment()
    heavy = {"typer", "pydantic", "pydantic_settings", "yaml", "rich", "dataclasses", "inspect"}
    heavy.add("encodings.ascii")  # a codec of its own; UTF-8 is there anyhow
    heavy |= {"typing", "json"}  # both take as long as a third of a bare interpreter's start
    # What keeps what was decided is for ticks that change something.
    heavy |= {"tinyscheduler.model.rounds", "tinyscheduler.model.codec"}

    for name in HOT:
        plain = {
            "add": ["add", "--hold", "--", "true"],
            "completion": ["completion", "--words", "tasks"],
            "wait": ["wait", "1", "--timeout", "0.01"],
        }
        of_a_task = {"show", "why", "logs", "cancel", "retry", "hold", "release"}
        words = plain.get(name, [name, "1"] if name in of_a_task else [name])
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, "--base-path", str(place.base), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode in {0, EXIT_INACTIVE, EXIT_TIMEOUT}, done.stderr
        assert heavy & set(done.stderr.split()) == set(), name


def test_a_tick_that_starts_a_task_loads_neither_types_nor_json_either(place: Place):
    place.run("run", "--once")  # the settings are cached
    place.run("add", "--", "true")
    program = (
        "import sys; from tinyscheduler.__main__ import main; main();"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", program, "--base-path", str(place.base), "run", "--once"],
        env=place.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = set(done.stderr.split())
    assert "1 started" in done.stdout
    assert {"tinyscheduler.model.codec", "lupa"} <= loaded
    assert {"typing", "json"} & loaded == set()


def test_no_hot_command_looks_for_circles_among_what_its_start_made(place: Place):
    place.run("add", "--hold", "--", "true")
    program = (
        "import atexit, gc, sys; from tinyscheduler.__main__ import run;"
        "count = lambda: sum(one['collections'] for one in gc.get_stats());"
        "before = count();"
        "atexit.register(lambda: print(count() - before, file=sys.stderr)); run()"
    )

    for words in (["run"], ["add", "--hold", "--", "true"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, "--base-path", str(place.base), *words],
            env=place.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stderr.splitlines()[-1] == "0", words


def _without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if "ago" not in line and " ms" not in line]
