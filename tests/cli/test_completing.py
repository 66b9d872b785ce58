"""Shells complete commands, options and what is in the queue; a real bash is asked."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place

from tinyscheduler.cli.command_tree import read_commands, read_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.place import Answer

TOP = Path(__file__).resolve().parents[2]
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place that nobody changes: a task that waits, one that is held, an agent."""
    place = Place(tmp_path_factory.mktemp("filled") / "base")
    (place.base / "agents.yaml").write_text(
        "agents:\n  coder: {queue: dev, command: [cat, '{prompt_file}']}\n"
    )
    place.add("--", "true")
    place.add("--hold", "--", "true")
    place.run("pause", "agent:coder")
    make_launcher(place)
    yield place
    place.clean_up()


def make_launcher(place: Place) -> None:
    launcher = place.base / "tinyscheduler"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -I -m tinyscheduler "$@"\n')
    launcher.chmod(0o755)


def complete(place: Place, *words: str, cwd: Path | None = None) -> list[str]:
    """Return what bash offers with the cursor behind the last word."""
    script = place.base / "completion.bash"
    if not script.exists():
        script.write_text(place.run("completion", "bash").out)
    lines = f"""
        source {script}
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        _tinyscheduler
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-u", "-c", lines, "bash", str(place.base / "tinyscheduler"), *words],
        env=place.environment(TINYSCHEDULER_BASE_PATH=str(place.base)),
        cwd=cwd or place.base,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_bash_offers_every_command(filled: Place):
    assert complete(filled, "") == [one.name for one in read_commands()]
    assert complete(filled, "hist") == ["history"]
    assert complete(filled, "--color", "never", "hist") == ["history"]


def test_bash_offers_every_option_of_a_command(filled: Place):
    for command in read_commands():
        spellings = {spelling for one in command.options for spelling in one.spellings}
        assert set(complete(filled, command.name, "-")) == spellings, command.name
    globals_ = {spelling for one in read_program().options for spelling in one.spellings}
    assert set(complete(filled, "-")) == globals_


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["show", ""], ["2", "1"]),
        (["wait", "1", ""], ["1", "2"]),
        (["release", ""], ["2"]),
        (["hold", ""], ["1"]),
        (["retry", ""], ["1"]),
        (["list", "--agent", ""], ["coder", "shell"]),
        (["add", "--queue", "d"], ["dev"]),
        (["add", "--after", ""], ["2", "1"]),
        (["list", "--state", "pa"], ["parked"]),
        (["list", "--state", "=", "pa"], ["parked"]),
        (["history", "--state", "s"], ["succeeded"]),
        (["--color", "a"], ["auto", "always"]),
        (["add", "--class", "b"], ["batch"]),
        (["completion", ""], list(SHELLS)),
        (["pause", ""], ["all", "agent:coder", "agent:shell", "queue:dev", "queue:shell"]),
        (["pause", "agent", ":"], ["coder", "shell"]),
        (["pause", "agent", ":", "co"], ["coder"]),
        (["resume", ""], ["all", "agent:coder"]),
        (
            ["edit", "1", "--unset", "max-"],
            ["max-runtime", "max-turns", "max-tokens", "max-cost", "max-attempts"],
        ),
        (["events", "--event", "task.re"], ["task.requeued", "task.retried", "task.released"]),
        (["help", "und"], ["undrain"]),
        (["list", "--limit", ""], []),
        (["nonsense", ""], []),
    ],
)
def test_bash_offers_what_fits_there(filled: Place, words: list[str], offered: list[str]):
    assert complete(filled, *words) == offered


def test_bash_asks_the_base_path_that_is_being_typed(filled: Place, tmp_path: Path):
    assert complete(filled, "--base-path", str(tmp_path / "empty"), "show", "") == []


def test_bash_completes_files_folders_and_the_command_to_run(place: Place):
    make_launcher(place)
    (place.base / "some.jsonl").touch()
    (place.base / "somewhere").mkdir()

    assert sorted(complete(place, "add", "--from", "some")) == ["some.jsonl", "somewhere"]
    assert complete(place, "add", "--cwd", "some") == ["somewhere"]
    assert "sleep" in complete(place, "add", "--", "slee")
    assert "some.jsonl" in complete(place, "add", "--", "cat", "some.j")


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_understands_its_script(place: Place, tmp_path: Path, shell: str):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    answer = place.run("completion", shell)
    script.write_text(answer.out)

    done = subprocess.run(
        [program, "-n", str(script)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (answer.code, answer.err) == (0, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_scripts_that_are_installed_are_those_of_the_commands(here: Callable[..., Answer]):
    names = {"bash": "tinyscheduler.bash", "zsh": "_tinyscheduler", "fish": "tinyscheduler.fish"}
    for shell, name in names.items():
        written = (TOP / "completions" / name).read_text()
        assert written == here("completion", shell).out, "scripts/man writes them anew"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_names_every_command_and_option(place: Place, shell: str):
    text = place.run("completion", shell).out

    for command in read_commands():
        assert command.name in text
        for option in command.options:
            for spelling in option.spellings:
                wanted = spelling if shell != "fish" else f"-l {spelling.lstrip('-')}"
                assert wanted in text or f"-s {spelling.lstrip('-')}" in text, spelling


def test_fish_offers_tasks(filled: Place, tmp_path: Path):
    program = shutil.which("fish")
    if program is None:
        pytest.skip("fish is not installed")
    script = tmp_path / "completion.fish"
    script.write_text(filled.run("completion", "fish").out)
    environment = filled.environment(
        TINYSCHEDULER_BASE_PATH=str(filled.base), PATH=f"{filled.base}:/usr/bin:/bin"
    )

    lines = [
        f"source {script}",
        "complete -C 'tinyscheduler release '",
        "complete -C 'tinyscheduler wh'",
    ]

    done = subprocess.run(
        [program, "--no-config", "-c", "\n".join(lines)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["2", "why"]


@pytest.mark.timeout(100)
def test_zsh_offers_tasks(filled: Place):
    program = shutil.which("zsh")
    if program is None:
        pytest.skip("zsh is not installed")
    pid, master = pty.fork()
    if pid == 0:
        environment = filled.environment(
            TINYSCHEDULER_BASE_PATH=str(filled.base),
            PATH=f"{filled.base}:/usr/bin:/bin",
            TERM="dumb",
        )
        os.chdir(filled.base)
        os.execve(program, [program, "-f", "-i"], environment)  # noqa: S606 - the child of pty.fork
    try:
        text = ""
        script = TOP / "completions" / "_tinyscheduler"
        for typed, awaited in (
            (f"autoload -Uz compinit; compinit -u -D; source {script}; print re''ady\n", "ready"),
            ("tinyscheduler release \t", "release 2"),
            ("\x15tinyscheduler wh\t", "why"),
            ("\x15tinyscheduler list --agent co\t", "coder"),
        ):
            os.write(master, typed.encode())
            deadline = time.monotonic() + 30
            while awaited not in text:
                assert time.monotonic() < deadline, text
                if select.select([master], [], [], 1)[0]:
                    text += os.read(master, 65536).decode(errors="replace")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(master)


@pytest.mark.parametrize("kind", ["tasks", "agents", "queues", "nonsense", "tasks:nonsense", ""])
def test_words_are_silent_where_there_are_none(place: Place, kind: str):
    (place.base / "agents.yaml").write_text("agents: [")

    answer = place.run("completion", "--words", kind)

    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_without_a_shell_it_says_which_there_are(place: Place):
    answer = place.run("completion")

    assert (answer.code, answer.out) == (2, "")
    assert "bash, zsh or fish" in answer.err
