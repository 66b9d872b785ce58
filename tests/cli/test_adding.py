"""``add``: what is asked for is kept to the letter, and what could never run is refused."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from threading import Timer
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.adapters.sqlite.database import BUSY_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

AGENTS = """\
agents:
  writer:
    queue: words
    command: ["cat", "{prompt_file}"]
  talker:
    queue: words
    command: ["echo", "{prompt}"]
  listener:
    command: ["cat"]
    stdin: prompt
  cook:
    command: ["echo", "{recipe}"]
  both:
    command: ["sh", "-c", "{command}", "{prompt_file}"]
  lister:
    command: ["ls"]
    cwd: /
  thinker:
    command: ["echo", "{model}"]
"""


@pytest.fixture
def agents(place: Place) -> Place:
    """Return a place with agents of many kinds and one recipe."""
    (place.base / "agents.yaml").write_text(AGENTS)
    (place.base / "recipes").mkdir()
    for name in ("cook.yaml", "soup.yaml"):
        (place.base / "recipes" / name).write_text("title: soup\n")
    return place


def test_add_prints_the_id_alone_wishes_for_a_tick_and_tells_the_event(place: Place):
    first = place.run("add", "--", "sh", "-c", "echo hi")
    second = place.run("add", "--json", "--hold", "--", "true")

    assert (first.code, first.out, first.err) == (0, "1\n", "")
    assert second.json == {"schema_version": 1, "task_id": "2", "state": "held"}
    assert (place.state / "kick").exists()
    events = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    assert [(json.loads(line)["event"], json.loads(line)["task_id"]) for line in events] == [
        ("task.added", "1"),
        ("task.added", "2"),
    ]


def test_every_option_is_kept_and_shown(agents: Place):
    blocker = agents.add("--", "true")
    answer = agents.run(
        *("add", "--agent", "both", "--queue", "dev", "--title", "a title", "--prompt", "do it"),
        *("--recipe", "soup.yaml", "--priority", "-3", "--class", "interactive", "--gpus", "2"),
        *("--vram", "14G", "--memory", "512M", "--model", "llama", "--seed", "7"),
        *("--tenant", "team", "--project", "moon", "--max-runtime", "15m", "--max-turns", "9"),
        *("--max-attempts", "4", "--after", blocker, "--not-before", "2099-01-02T03:04:05Z"),
        *("--label", "a=b=c", "--label", "d=", "--cwd", "/", "--env", "X=1", "--hold", "--json"),
        *("--env", "API_KEY=hush", "--", "ls", "-l"),
    )
    assert answer.code == 0, answer.err

    shown = agents.run("show", answer.json["task_id"], "--json").json

    expected = {
        "agent": "both",
        "queue": "dev",
        "title": "a title",
        "prompt": "do it",
        "recipe": "soup.yaml",
        "priority": -3,
        "class": "interactive",
        "gpus": 2,
        "vram_bytes": 14 * 2**30,
        "memory_bytes": 512 * 2**20,
        "model": "llama",
        "seed": 7,
        "tenant": "team",
        "project": "moon",
        "max_runtime_sec": 900,
        "max_turns": 9,
        "max_attempts": 4,
        "after": [blocker],
        "not_before": "2099-01-02T03:04:05.000Z",
        "labels": {"a": "b=c", "d": ""},
        "cwd": "/",
        "env": {"X": "1", "API_KEY": "(secret)"},
        "command": ["ls", "-l"],
        "state": "held",
        "attempts": [],
    }
    assert {name: shown[name] for name in expected} == expected
    text = agents.run("show", answer.json["task_id"]).out
    for words in ("14 GiB", "512 MiB", "15m", "a=b=c", "API_KEY=(secret)", "interactive", "moon"):
        assert words in text
    assert "hush" not in text


def test_a_title_without_a_letter_is_none(agents: Place):
    task_id = agents.add("--title", "   ", "--", "true")
    agents.run("edit", task_id, "--title", "named")
    named = agents.run("show", task_id, "--json").json["title"]
    agents.run("edit", task_id, "--title", " ")

    shown = agents.run("show", task_id, "--json").json

    assert (named, shown["title"], shown["summary"]) == ("named", None, "true")


def test_a_command_may_follow_without_dashes_and_keeps_its_own_options(place: Place):
    task_id = place.add("--title", "mine", "ls", "-l", "--title", "its own")

    shown = place.run("show", task_id, "--json").json

    assert (shown["title"], shown["command"]) == ("mine", ["ls", "-l", "--title", "its own"])


def test_a_command_runs_where_it_was_added_unless_told_otherwise(agents: Place, tmp_path: Path):
    inside = tmp_path / "inside"
    inside.mkdir()
    ids = [
        agents.run("add", "--", "pwd", cwd=tmp_path).out.strip(),
        agents.run("add", "--cwd", "inside", "--", "pwd", cwd=tmp_path).out.strip(),
        agents.run("add", "--agent", "lister", cwd=tmp_path).out.strip(),
    ]

    folders = [agents.run("show", task_id, "--json").json["cwd"] for task_id in ids]

    assert folders == [str(tmp_path), str(inside), None]


def test_several_blockers_are_given_at_once_in_any_way(place: Place):
    ids = [place.add("--", "true") for _ in range(3)]
    ways = (
        ["--after", *ids],
        ["--after", ",".join(ids)],
        ["--after", ids[0], "--after", ids[1], "--after", ids[2]],
    )

    for way in ways:
        task_id = place.add(*way, "--", "sleep", "3")
        shown = place.run("show", task_id, "--json").json
        assert (shown["after"], shown["command"]) == (ids, ["sleep", "3"])


def test_a_prompt_comes_from_a_file_or_from_stdin_byte_for_byte(agents: Place):
    text = "línea 1\r\n\tline 2\n"
    (agents.base / "prompt.txt").write_bytes(text.encode())
    from_file = agents.run("add", "--agent", "writer", "--prompt-file", "prompt.txt").out.strip()
    from_stdin = agents.run(
        "add", "--agent", "writer", "--prompt-file", "-", stdin=text.encode()
    ).out.strip()

    for task_id in (from_file, from_stdin):
        assert agents.run("show", task_id, "--json").json["prompt"] == text


def test_a_prompt_of_a_megabyte_goes_by_file_and_never_by_argument(agents: Place):
    (agents.base / "long.txt").write_text("x" * 2**20)

    by_file = agents.run("add", "--agent", "writer", "--prompt-file", "long.txt")
    by_argument = agents.run("add", "--agent", "talker", "--prompt-file", "long.txt")

    assert by_file.code == 0
    assert (by_argument.code, by_argument.out) == (2, "")
    assert "1048576 bytes" in by_argument.err
    assert "{prompt_file}" in by_argument.err.splitlines()[1]


def test_a_time_without_a_zone_is_local_and_a_duration_counts_from_now(place: Place):
    before = datetime.now(UTC)
    soon = place.add("--not-before", "15m", "--", "true")
    local = place.run(
        "add", "--not-before", "2099-07-01T12:00", "--", "true", TZ="America/New_York"
    ).out.strip()

    times = [place.run("show", one, "--json").json["not_before"] for one in (soon, local)]

    assert timedelta(minutes=14) < datetime.fromisoformat(times[0]) - before < timedelta(minutes=17)
    assert times[1] == "2099-07-01T16:00:00.000Z"


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        ([], "there is nothing to run", "an agent and a prompt"),
        (["--prompt", "x"], "a --prompt needs an agent", "writer"),
        (["--agent", "wryter", "--prompt", "x"], "--agent 'wryter'", "did you mean writer?"),
        (["--queue", "wrods", "--prompt", "x"], "--queue 'wrods'", "did you mean words?"),
        (["--agent", "shell", "--prompt", "x"], "runs a command", "-- COMMAND"),
        (["--agent", "shell"], "runs the command it is given", "-- COMMAND"),
        (["--agent", "writer"], "needs {prompt_file}", "--prompt or a --prompt-file"),
        (["--agent", "writer", "--prompt", " \n"], "the prompt is empty", ""),
        (["--agent", "writer", "--prompt", "x", "--", "ls"], "cannot be given together", ""),
        (["--agent", "writer", "--", "ls"], "has a command of its own", "{command}"),
        (["--agent", "both", "--prompt", "x"], "needs {command}", "behind --"),
        (["--agent", "listener"], "reads a prompt", "--prompt-file"),
        (["--agent", "thinker"], "needs {model}", "--model"),
        (["--agent", "writer", "--prompt", "x", "--prompt-file", "y"], "together", ""),
        (["--agent", "writer", "--prompt-file", "/nonexistent"], "No such file", ""),
        (["--agent", "writer", "--prompt-file", "/"], "Is a directory", ""),
        (["--agent", "cook", "--recipe", "../agents.yaml"], "is outside the recipes folder", ""),
        (["--agent", "cook", "--recipe", "/etc/passwd"], "is outside the recipes folder", ""),
        (["--agent", "cook", "--recipe", "none.yaml"], "does not exist", "recipes"),
        (["--agent", "cook", "--recipe", "soup"], "is not a .yaml or .yml file", ""),
        (["--cwd", "/nonexistent", "--", "ls"], "--cwd '/nonexistent' is not a folder", ""),
        (["--cwd", "", "--", "ls"], "--cwd '' is not a folder", ""),
        (["--env", "TINYSCHEDULER_X=1", "--", "ls"], "sets TINYSCHEDULER_X", "another name"),
        (["--vram", "14Q", "--", "ls"], "--vram '14Q'", "14G"),
        (["--", ""], "the command has an empty name", "-- PROGRAM"),
        (["--memory", "much", "--", "ls"], "--memory 'much'", ""),
        (["--max-runtime", "0", "--", "ls"], "--max-runtime must be longer than 0", ""),
        (["--max-runtime", "5x", "--", "ls"], "--max-runtime '5x'", "15m"),
        (["--not-before", "tomorrow", "--", "ls"], "--not-before 'tomorrow' is no time", "15m"),
        (["--label", "x", "--", "ls"], "--label 'x' is not NAME=VALUE", "--label color="),
        (["--env", "=x", "--", "ls"], "--env '=x' is not NAME=VALUE", ""),
        (["--gpus", "-1", "--", "ls"], "--gpus: -1 is not in the range from 0 to ", ""),
        (
            ["--priority", "9" * 20, "--", "ls"],
            f"{'9' * 20} is not in the range from -{'9' * 18} to {'9' * 18}",
            "",
        ),
        (["--seed", f"-{'9' * 20}", "--", "ls"], f"--seed: -{'9' * 20} is not in the range", ""),
        (["--max-turns", "0", "--", "ls"], "--max-turns: 0 is not in the range from 1 to ", ""),
        (["--from", "x", "--title", "t"], "--from cannot be combined with --title", "lines"),
        (["--from", "x", "--seed", "0"], "--from cannot be combined with --seed", "lines"),
        (["--from", "x", "--class", "batch"], "cannot be combined with --class", "lines"),
        (["--from", "x", "--", "ls"], "--from cannot be combined with a command", "lines"),
    ],
)
def test_what_could_never_run_is_refused_and_nothing_is_added(
    here: Callable[..., Answer], arguments: list[str], what: str, fix: str
):
    answer = here("add", *arguments)

    assert (answer.code, answer.out) == (2, ""), answer
    first, *rest = answer.err.splitlines()
    assert first.startswith("error: ")
    assert what in first
    assert len(rest) == 1, "each refusal comes with its fix"
    assert rest[0].startswith("hint: ")
    assert fix in rest[0]
    assert here("list", "--json").json["tasks"] == []


@pytest.mark.parametrize("nothing", ["", " ", ","])
def test_a_dependency_on_nothing_is_refused_as_a_variable_may_be_unset(
    here: Callable[..., Answer], nothing: str
):
    answer = here("add", "--after", nothing, "--", "ls")

    assert (answer.code, answer.out) == (5, "")
    assert "there is no task" in answer.err
    assert here("list").out == ""


def test_a_dependency_on_nothing_beside_others_is_refused_too(here: Callable[..., Answer]):
    here("add", "--", "ls")

    assert here("add", "--after", "1,", "--", "ls").code == 5
    assert here("add", "--after", " 1, 1 ", "--", "ls").code == 0


def test_a_recipe_behind_a_link_that_leads_out_is_refused(agents: Place):
    (agents.base / "recipes" / "out.yaml").symlink_to(agents.base / "agents.yaml")

    answer = agents.run("add", "--agent", "cook", "--recipe", "out.yaml")

    assert answer.code == 2
    assert "is outside the recipes folder" in answer.err


def test_one_agent_of_a_queue_that_can_run_it_is_enough(agents: Place):
    (agents.base / "long.txt").write_text("x" * 200_000)

    answer = agents.run("add", "--queue", "words", "--prompt-file", "long.txt")

    assert answer.code == 0, answer.err


def test_bytes_that_are_no_text_are_refused(place: Place):
    in_command = place.run("add", "--", "echo", b"\xff\xfe bytes")
    in_option = place.run("add", "--cwd", b"caf\xe9", "--", "true")
    in_id = place.run("show", b"\xff")
    (place.base / "agents.yaml").write_text(AGENTS)
    (place.base / "prompt").write_bytes(b"\xe9")
    in_prompt = place.run("add", "--agent", "writer", "--prompt-file", "prompt")

    assert (in_command.code, in_prompt.code) == (2, 2)
    assert "is not valid Unicode: '\\xff\\xfe bytes'\n" in in_command.err
    assert "--cwd 'caf\\xe9' is not a folder" in in_option.err
    assert "'\\xff' is no task id" in in_id.err
    assert "is not UTF-8 at byte 1" in in_prompt.err


def test_from_a_folder_whose_name_is_no_text_another_one_has_to_be_named(place: Place):
    folder = place.base / os.fsdecode(b"caf\xe9")
    folder.mkdir()

    here = place.run("add", "--", "pwd", cwd=folder)
    elsewhere = place.run("add", "--cwd", "/tmp", "--", "pwd", cwd=folder)

    assert (here.code, elsewhere.code) == (2, 0)
    assert "cwd is not valid Unicode" in here.err
    assert here.err.endswith(
        "\nhint: run it in another folder with --cwd, or rename this one in UTF-8\n"
    )


def test_a_full_queue_is_told_to_who_watches_and_a_batch_fits_whole_or_not_at_all(place: Place):
    place.settings["MAX_QUEUE_DEPTH"] = "3"
    place.add("--", "true")
    place.add("--hold", "--", "true")
    lines = b'{"key": "a", "command": ["true"]}\n{"command": ["true"], "after": ["a"]}\n'

    refused = place.run("add", "--from", "-", "--start", stdin=lines)
    fits = place.run("add", "--", "true")

    assert (refused.code, refused.out) == (75, "")
    assert refused.err == (
        "error: the queue is full: 2 waiting, 2 more would exceed 3; nothing was added\n"
        "hint: wait until some have run, or raise TINYSCHEDULER_MAX_QUEUE_DEPTH\n"
    )
    assert (fits.code, fits.out) == (0, "3\n")
    events = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    (told,) = [json.loads(line) for line in events if '"backpressure"' in line]
    assert (told["depth"], told["asked"], told["limit"]) == (2, 2, 3)
    assert place.run("run", "--dry-run", "--json").json["stats"]["tasks_waiting"] == 2


def test_a_full_queue_ends_with_75_and_adds_nothing(place: Place):
    place.settings["MAX_QUEUE_DEPTH"] = "1"
    place.add("--", "true")

    answer = place.run("add", "--", "true")

    assert (answer.code, answer.out) == (75, "")
    assert "the queue is full" in answer.err
    assert len(place.run("list", "--json").json["tasks"]) == 1


def test_an_add_outwaits_what_a_tick_would_not(place: Place):
    place.add("--", "true")
    held = sqlite3.connect(
        place.state / "tinyscheduler.db", isolation_level=None, check_same_thread=False
    )
    held.execute("BEGIN IMMEDIATE")
    release = Timer(BUSY_TIMEOUT_S + 1, held.rollback)
    release.start()

    answer = place.run("add", "--", "true")

    release.join()
    held.close()
    assert (answer.code, answer.out, answer.err) == (0, "2\n", "")


def test_a_missing_blocker_is_named(place: Place):
    answer = place.run("add", "--after", "12", "--", "true")

    assert (answer.code, answer.out) == (5, "")
    assert "there is no task '12' to wait for" in answer.err


def test_start_runs_a_tick_right_away(place: Place):
    answer = place.run("add", "--start", "--json", "--", "sh", "-c", "echo done > made")

    assert answer.json == {"schema_version": 1, "task_id": "1", "state": "waiting"}
    assert place.run("wait", "1").code == 0
    assert (place.base / "made").read_text() == "done\n"


def test_inside_an_attempt_a_task_is_added_and_nothing_is_started(place: Place):
    place.add("--hold", "--", "true")
    place.settings |= {"LEASE_ID": "0" * 32, "BASE_PATH": str(place.base)}

    answer = place.run("add", "--start", "--", "true")

    assert (answer.code, answer.out) == (0, "2\n")
    assert "inside an attempt nothing is started" in answer.err
    assert place.run("list", "--json").json["tasks"][1]["state"] == "waiting"
    assert place.run("run", "--once").code == 2
    assert not (place.state / "running").exists()


def test_start_starts_nothing_in_a_dry_run(place: Place):
    answer = place.run("add", "--start", "--", "true", TINYSCHEDULER_DRY_RUN="true")

    assert (answer.code, answer.out) == (0, "1\n")
    assert "nothing is started" in answer.err
    assert place.run("list", "--json").json["tasks"][0]["state"] == "waiting"


def test_a_command_leaves_one_file_of_the_database_behind(place: Place):
    place.add("--", "true")

    assert [path.name for path in place.state.glob("*.db*")] == ["tinyscheduler.db"]


def from_a_removed_folder(place: Place, *arguments: str, stdin: str = "") -> tuple[int, str]:
    """Run a command in a folder that is gone; return its code and all it said."""
    gone = place.base / "gone"
    gone.mkdir()
    argv = [str(item) for item in place.argv(*arguments)]
    done = subprocess.run(
        ["/bin/sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *argv],
        env=place.environment(),
        cwd=gone,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_who_names_a_folder_needs_no_current_one(place: Place):
    line = json.dumps({"command": ["true"], "cwd": "/"}) + "\n"

    one = from_a_removed_folder(place, "add", "--cwd", "/", "--", "true")
    batch = from_a_removed_folder(place, "add", "--from", "-", stdin=line)

    assert (one, batch) == ((0, "1\n"), (0, "2\n"))
    assert place.run("show", "1", "--json").json["cwd"] == "/"


@pytest.mark.parametrize("options", [(), ("--cwd", "here")])
def test_who_names_none_is_told_that_the_current_one_is_gone(
    place: Place, options: tuple[str, ...]
):
    code, said = from_a_removed_folder(place, "add", *options, "--", "true")

    assert code == 2
    assert "the current folder does not exist any more" in said
    assert "hint: change to another, or give an absolute --cwd" in said


def test_an_edit_that_names_no_folder_needs_none(place: Place):
    place.add("--hold", "--", "true")

    assert from_a_removed_folder(place, "edit", "1", "--priority", "5")[0] == 0
