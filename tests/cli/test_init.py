"""``init``: a place to start from, asked for first, and nothing that exists is touched."""

from __future__ import annotations

import os
import pty
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.place import Place


def with_agents(tmp_path: Path, *names: str) -> str:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in names:
        (folder / name).write_text('#!/bin/sh\necho "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_without_a_terminal_nothing_is_made_unless_told(place: Place):
    answer = place.run("init")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == ("error: nothing was set up: nobody is here to agree\nhint: add --yes\n")
    assert list(place.base.iterdir()) == []


def test_yes_makes_a_sound_place_in_which_a_task_runs(place: Place):
    answer = place.run("init", "--yes")

    assert answer.code == 0, answer
    assert f"write {place.base}/.env.tinyscheduler" in answer.out
    assert answer.out.splitlines()[-4] == "next:"
    assert place.run("validate-config").out == "the configuration is sound\n"
    for path in [place.base / ".env.tinyscheduler", place.base / "agents.yaml"]:
        assert path.stat().st_mode & 0o777 == 0o600
    assert (place.state / "running").stat().st_mode & 0o777 == 0o700
    assert place.run("add", "--start", "--", "true").code == 0
    assert place.run("wait", "1", "--timeout", "20s").code == 0


@pytest.mark.parametrize("command", [["init", "--yes"], ["add", "--", "true"], ["run"]])
def test_the_state_folder_of_a_fresh_checkout_is_closed_to_others(place: Place, command: list[str]):
    place.state.mkdir()
    place.state.chmod(0o755)

    assert place.run(*command).code == 0

    assert place.state.stat().st_mode & 0o777 == 0o700


def test_a_state_folder_that_was_opened_on_purpose_is_left_so(place: Place):
    place.add("--", "true")
    place.state.chmod(0o750)

    assert place.run("run").code == 0

    assert place.state.stat().st_mode & 0o777 == 0o750


def test_in_a_checkout_the_next_commands_name_its_launcher(place: Place):
    (place.base / "tinyscheduler").write_text("#!/bin/sh\n")
    (place.base / "tinyscheduler").chmod(0o755)

    following = place.run("init", "--yes", "--json").json["next"]

    assert all(command.startswith("./tinyscheduler ") for command in following)


def test_the_next_commands_work_as_they_are_printed(place: Place):
    following = place.run("init", "--yes", "--json").json["next"]
    assert len(following) == 3

    for command in following:
        words = command.removeprefix(f"tinyscheduler --base-path {place.base} ").split()
        assert place.run(*words).code == 0, command


def test_agents_that_are_found_are_proposed_and_can_run(place: Place, tmp_path: Path):
    path = with_agents(tmp_path, "goose", "claude", "codex")

    document = place.run("init", "--yes", "--json", PATH=path).json

    assert document["agents"] == ["goose", "claude", "codex"]
    assert place.run("validate-config", PATH=path).code == 0
    place.settings["MAX_ATTEMPTS"] = "1"
    for agent, printed in (("claude", "-p do it"), ("codex", "exec do it"), ("goose", "do it")):
        added = place.run("add", "--agent", agent, "--prompt", "do it", "--start", PATH=path)
        task_id = added.out.split()[0]
        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert printed in place.run("logs", task_id).out


def test_what_exists_is_left_as_it_is(place: Place):
    (place.base / ".env").write_text("# mine\n")
    (place.base / "agents.yaml").write_text("agents: {shell: {limit: 7}}\n")

    answer = place.run("init", "--yes")
    again = place.run("init", "--yes", "--json").json

    assert answer.code == 0
    assert f"leave {place.base}/.env as it is" in answer.out
    assert (place.base / ".env").read_text() == "# mine\n"
    assert (place.base / "agents.yaml").read_text() == "agents: {shell: {limit: 7}}\n"
    assert not (place.base / ".env.tinyscheduler").exists()
    assert again["folders"] == again["files"] == []


def test_a_base_path_may_be_named_after_the_command(place: Place, tmp_path: Path):
    other = tmp_path / "a new" / "place"

    answer = place.run("init", "--yes", "--base-path", str(other))

    assert answer.code == 0
    assert (other / "agents.yaml").exists()
    assert f"tinyscheduler --base-path '{other}' run" in answer.out
    assert list(place.base.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_told_in_words(place: Place):
    (place.base / "file").write_text("")

    answer = place.run("init", "--yes", "--base-path", "/proc/nothing")

    assert answer.code == 4
    assert answer.err.startswith("error: cannot write /proc/nothing/.env.tinyscheduler: ")


def test_settings_that_are_wrong_already_are_told_first(place: Place):
    (place.base / "agents.yaml").write_text("agents: 7\n")

    answer = place.run("init", "--yes")

    assert (answer.code, answer.out) == (4, "")
    assert "agents.yaml" in answer.err
    assert not place.state.exists()


@pytest.mark.parametrize(
    ("typed", "code", "is_made"), [(b"n\n", 130, False), (b"y\nn\n", 0, True)], ids=["no", "yes"]
)
def test_at_a_terminal_it_asks_for_each_step(
    place: Place, typed: bytes, code: int, *, is_made: bool
):
    master, terminal = pty.openpty()
    os.write(master, typed)
    process = subprocess.Popen(
        place.argv("init"),
        env=place.environment(TERM="dumb"),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=60)
    os.close(terminal)
    os.close(master)

    assert (process.returncode, (place.base / "agents.yaml").exists()) == (code, is_made)
    assert b"Make this? [y/N] " in err
    assert (b"Make ticks happen by themselves?" in err) is is_made
    assert b"limit: 2" in out
