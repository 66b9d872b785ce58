"""What the commands that look say, in a pipe, on 80 columns, and as JSON; golden files have it."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place, compare, settle_json, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.place import Answer

LOOKS = {
    "bare": [],
    "status": ["status"],
    "list": ["list"],
    "list-parked": ["list", "--state", "parked"],
    "list-running": ["list", "--state", "running"],
    "list-one": ["list", "--agent", "shell", "--limit", "1"],
    "show-done": ["show", "1"],
    "show-running": ["show", "3"],
    "show-blocked": ["show", "6"],
    "show-prompt": ["show", "8"],
    "why-done": ["why", "1"],
    "why-parked": ["why", "2"],
    "why-running": ["why", "3"],
    "why-held": ["why", "4"],
    "why-not-before": ["why", "5"],
    "why-blocked": ["why", "6"],
    "why-agent-limit": ["why", "7"],
    "why-no-limit": ["why", "8"],
    "why-cancelled": ["why", "9"],
    "ps": ["ps"],
    "dry-run": ["run", "--dry-run"],
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a place with a task in every state that a tick leaves behind."""
    place = Place(tmp_path_factory.mktemp("busy") / "base")
    place.settings |= {
        "AGENT_LIMITS": "shell:1,writer:0",
        "MAX_ATTEMPTS": "1",
        "MAX_CONCURRENT_SLOTS": "1",
    }
    (place.base / "agents.yaml").write_text(
        "agents:\n  writer: {queue: words, command: [cat, '{prompt_file}']}\n"
    )
    place.add("--cwd", "/", "--", "echo", "hello")
    place.add("--cwd", "/", "--title", "a title \x1b[2J too long for any screen " * 3, "false")
    assert place.run("run").code == 0
    assert place.run("wait", "1", "2").code == 1
    place.add("--cwd", "/", "--memory", "2G", "--env", "TOKEN=x", "--", "sleep", "1000")
    place.add("--cwd", "/", "--hold", "--", "true")
    place.add("--cwd", "/", "--not-before", "2099-01-01T00:00Z", "--", "true")
    place.add("--cwd", "/", "--after", "3", "--label", "to=moon", "--", "true")
    place.add("--cwd", "/", "--", "echo", "next")
    place.add("--cwd", "/", "--agent", "writer", "--prompt", "write\n\x07a poem\n" * 6)
    cancelled = place.add("--cwd", "/", "--", "true")
    place.run("cancel", cancelled)
    place.run("run")
    until(lambda: _state(place, "3") == "running", "task 3 to run")
    yield place
    place.clean_up()


def _state(place: Place, task_id: str) -> str:
    state: str = place.run("show", task_id, "--json").json["state"]
    return state


@pytest.mark.parametrize("name", LOOKS)
def test_in_a_pipe_the_text_is_whole_and_plain(
    busy: Place, run_at: Callable[..., Answer], name: str
):
    answer = run_at(busy, *LOOKS[name])

    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "\x07" not in answer.out
    compare(f"{name}.txt", settle_text(answer.out, busy) + answer.err)


@pytest.mark.parametrize("name", ["status", "list", "ps", "dry-run", "why-agent-limit"])
def test_on_a_terminal_every_line_fits(busy: Place, name: str):
    code, text = busy.type(*LOOKS[name], columns=80, NO_COLOR="1")

    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    # How much of the last column fits depends on how long ago things were.
    text = re.sub(r"(a title|write) .*…", r"\1 …", text)
    compare(f"{name}-80.txt", settle_text(text, busy))


@pytest.mark.parametrize("name", [name for name in LOOKS if name != "bare"])
def test_the_document_has_the_same(busy: Place, run_at: Callable[..., Answer], name: str):
    answer = run_at(busy, *LOOKS[name], "--json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.json["schema_version"] == 1
    document = settle_json(answer.json, busy)
    compare(f"{name}.json", json.dumps(document, indent=1) + "\n")


def test_the_status_has_every_documented_key(busy: Place, run_at: Callable[..., Answer]):
    status = run_at(busy, "status", "--json").json

    assert set(status) >= {
        *("schema_version", "load_state", "running", "waiting", "parked", "agents", "gpus"),
        *("pools", "schedules", "health", "paused", "queueDepth", "isRunning", "lastClaimTime"),
        "resourceHealth",
    }
    assert status["load_state"] == "saturated"
    assert status["agents"]["shell"] == {
        "limit": 1,
        "active": 1,
        "free": 0,
        "cooling_until": None,
    }
    assert [one["task_id"] for one in status["running"]] == ["3"]
    assert {one["task_id"]: one["reason"] for one in status["waiting"]} == {
        "4": "held",
        "5": "not_before",
        "6": "blocked_by",
        "7": "agent_limit",
        "8": "agent_limit",
    }


def test_an_attempt_has_every_documented_key(busy: Place, run_at: Callable[..., Answer]):
    for task_id in ("1", "3"):
        (attempt,) = run_at(busy, "show", task_id, "--json").json["attempts"]
        assert set(attempt) >= {
            *("attempt", "started_at", "ended_at", "outcome", "failure_reason", "exit_code"),
            *("turns", "tokens", "cost_usd", "peak_rss_mb", "cpu_sec", "gpu_sec", "log"),
        }


def test_colours_are_for_terminals_and_for_those_who_insist(busy: Place):
    assert "\x1b[34mrunning\x1b[0m" in busy.type("list")[1]
    assert "\x1b" not in busy.type("list", NO_COLOR="1")[1]
    assert "\x1b" not in busy.type("--color", "never", "list")[1]
    assert "\x1b" not in busy.type("--color=never", "list", "--frob")[1]
    assert "\x1b[34mrunning\x1b[0m" in busy.run("--color", "always", "list").out


def test_a_narrow_terminal_still_gets_a_table(busy: Place):
    _, text = busy.type("list", columns=20)

    assert "sleep 1…" in text


def test_a_base_path_without_state_is_told_and_stays_as_it_is(place: Place):
    for arguments in (["list"], ["status"], ["ps"], [], ["run", "--dry-run"]):
        answer = place.run(*arguments)
        assert answer.code == 0
        told = f"no state yet in {place.base}: nothing was ever added there\n"
        assert answer.err.startswith(told)
        assert place.run("-q", *arguments).err == ""
    assert list(place.base.iterdir()) == []


def test_a_command_is_shown_as_it_would_be_typed(place: Place):
    place.add("--cwd", "/", "--", "sh", "-c", "sleep 1000; true")
    place.run("run")
    until(lambda: "running" in place.run("ps").out, "the command to run")

    for command in ("ps", "status", "list"):
        assert "sh -c 'sleep 1000; true'" in place.run(command).out, command


def test_a_backoff_that_is_over_is_not_shown(place: Place):
    place.settings |= {"RETRY_BASE_SEC": "0.01", "RETRY_MAX_SEC": "0.01", "KICK": "false"}
    place.add("--", "false")
    place.run("run")
    until(lambda: list((place.state / "results").glob("*.json")), "the attempt to end")
    place.run("run", "--agent-limit", "shell=0")
    until(lambda: place.run("why", "1", "--json").json["reason"] != "backing_off", "its end")

    assert place.run("show", "1", "--json").json["backing_off_until"] is not None
    assert "backing off" not in place.run("show", "1").out


def test_nothing_to_show_is_told_beside_the_data(place: Place):
    place.state.mkdir(mode=0o700)
    for arguments, words in ((["list"], "no tasks\n"), (["ps"], "nothing is running\n")):
        answer = place.run(*arguments)
        assert (answer.code, answer.out, answer.err) == (0, "", words)
    assert place.run("list", "--json").json == {"schema_version": 1, "tasks": []}
    assert place.run("-q", "list").err == ""


def test_more_tasks_than_the_limit_are_hinted_at(busy: Place, run_at: Callable[..., Answer]):
    answer = run_at(busy, "list", "--limit", "2")

    assert [line.split()[0] for line in answer.out.splitlines()] == ["ID", "8", "9"]
    assert "only the newest 2 are listed" in answer.err


def test_warnings_about_the_configuration_are_told_once_and_not_when_quiet(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "soon"

    loud, quiet = place.run("run"), place.run("-q", "run")

    assert loud.err.count("STAGGER_DELAY_MS") == 1
    assert loud.err.startswith("warning: TINYSCHEDULER_STAGGER_DELAY_MS: 'soon'")
    assert (quiet.out, quiet.err) == ("", "")


def test_states_that_only_leases_tell_are_found_behind_newer_tasks_at_work(place: Place):
    place.settings |= {"AGENT_LIMITS": "shell:3", "HEARTBEAT_SEC": "1000"}
    for _ in range(3):
        place.add("--", "sleep", "1000")
    place.run("run")
    until(lambda: len(_listed(place, "--state", "running")) == 3, "three tasks to run")
    lease = place.state / "running" / "task_3.json"
    lease.write_text(lease.read_text().replace('"running"', '"starting"'))

    assert _listed(place, "--state", "running", "--limit", "1") == ["2"]
    assert _listed(place, "--state", "starting", "--limit", "1") == ["3"]
    assert _listed(place, "--state", "working", "--limit", "2") == ["2", "3"]


def _listed(place: Place, *arguments: str) -> list[str]:
    return [one["task_id"] for one in place.run("list", *arguments, "--json").json["tasks"]]


def test_what_waits_is_grouped_however_many_and_fits_the_terminal(place: Place):
    lines = [{"hold": True, "key": f"held {one}"} for one in range(10)]
    lines += [{"not_before": f"{one}h30m"} for one in range(2, 12)]
    lines += [{"after": [f"held {one}"]} for one in range(10)]
    lines += [{}] * 3
    batch = "".join(json.dumps({"command": ["true"], **line}) + "\n" for line in lines)
    assert place.run("add", "--from", "-", stdin=batch.encode()).code == 0

    _, screen = place.type("status", columns=80, NO_COLOR="1")
    table = screen[screen.index("WAITING") :].partition("\n\n")[0]

    table = re.sub(r"(29|30)m", "half", table)
    assert [re.split(" {2,}", line) for line in table.splitlines()[1:]] == [
        ["held", "1 2 3 4 5 +5", "`release` lets them go"],
        ["not_before", "11 12 13 14 15 +5", "may start in 2h half to 11h half"],
        ["blocked_by", "21 22 23 24 25 +5", "wait for 1 2 3 4 5 +5 to be done"],
        ["agent_limit", "33", "both slots of agent shell go to tasks before it"],
    ]
    assert "0 of 2 slots in use" in screen
    assert "the next tick starts 2 tasks" in screen
    assert "\nnothing has ticked here yet: `tinyscheduler run` does\n" in screen
    assert "asked to wait until 2" in place.run("-v", "status").out


def test_since_is_when_a_task_became_as_it_is(place: Place):
    place.add("--", "true")
    place.add("--hold", "--", "true")
    database = place.state / "tinyscheduler.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE tasks SET created_at = 0, updated_at = 0")
    years = re.compile(r"\d{5}d")

    assert len(years.findall(place.run("list").out)) == 2
    place.run("hold", "1")
    place.run("release", "2")

    assert years.findall(place.run("list").out) == []


def test_list_and_show_count_attempts_alike(place: Place):
    place.settings["RETRY_BASE_SEC"] = "1000"
    place.add("--hold", "--", "true")
    place.add("--start", "--", "false")
    until(lambda: "backing" in place.run("show", "2").out, "the failure to be settled")

    rows = [line.split() for line in place.run("list").out.splitlines()]
    shown = [place.run("show", task_id).out for task_id in ("1", "2")]

    assert [row[:4] for row in rows[1:]] == [
        ["1", "held", "shell", "0"],
        ["2", "waiting", "shell", "1"],
    ]
    assert re.findall(r"^(?:next )?attempt: +.*", shown[0], re.MULTILINE) == ["next attempt: 1"]
    assert "next attempt: 2, 1 failure before" in shown[1]


def test_a_prompt_and_a_command_of_any_length_are_shown_in_lines_that_fit(place: Place):
    (place.base / "agents.yaml").write_text(
        "agents:\n  writer: {command: [cat, '{prompt_file}']}\n"
    )
    (place.base / "prompt").write_text("é" * 2**19 + "\nshort")
    place.add("--agent", "writer", "--prompt-file", "prompt", "--title", "t" * 4000)
    place.add("--", "echo", "x" * 100_000)

    for task_id, sizes in (("1", ["4000", "1048576"]), ("2", ["100005"])):
        for columns, text in (
            (200, place.run("show", task_id).out),
            (80, place.type("show", task_id, columns=80, NO_COLOR="1")[1]),
        ):
            lines = [line for line in text.splitlines() if not line.startswith("cwd:")]
            assert max(map(len, lines)) == columns
            told = [line for line in lines if line.endswith(" bytes; --json has all")]
            assert [line.split()[-5] for line in told] == sizes
            assert all("… " in line for line in told)
    assert "\n  short\n" in place.run("show", "1").out


def test_tasks_that_may_start_at_the_same_time_are_told_one_time(place: Place):
    for _ in range(2):
        place.add("--not-before", "2999-01-01T00:00Z", "--", "true")

    waits = next(line for line in place.run("status").out.splitlines() if "not_before" in line)

    assert "  may start in " in waits
    assert " to " not in waits


@pytest.mark.parametrize("look", ["list", "parked", "history"])
def test_an_agent_that_is_none_is_told_with_the_one_that_was_meant(place: Place, look: str):
    place.add("--agent", "shell", "--", "true")

    slip = place.run(look, "--agent", "shel")
    known = place.run(look, "--agent", "shell", "--limit", "1")

    assert slip.code == 0
    assert "there is no agent 'shel'; did you mean shell?\n" in slip.err
    assert "there is no agent" not in known.err
