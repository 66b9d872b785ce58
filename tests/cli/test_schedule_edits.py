"""``schedule edit``, ``check`` and ``history``: what is given is changed, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.errors import EXIT_BUSY, EXIT_DONE, EXIT_NOT_FOUND, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

LIMIT_S = 30.0
AGENTS = 'agents: {coder: {command: ["echo", "{prompt}"]}}\n'
ADD = ("schedule", "add", "--name", "a")


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place with an agent that reads prompts."""
    (place.base / "agents.yaml").write_text(AGENTS)
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


def set_column(place: Place, column: str, value: object) -> None:
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        database.execute(f"UPDATE schedules SET {column} = ?", (value,))  # noqa: S608 - our own


def make_due(place: Place) -> None:
    """Let the time of an hourly schedule have come, as if it was made earlier."""
    for name in ("anchor", "next_slot", "due_at"):
        set_column(place, name, (column(place, name) or 0) - 3601 * 10**6)


def column(place: Place, name: str) -> int | None:
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        (found,) = database.execute(f"SELECT {name} FROM schedules").fetchone()  # noqa: S608 - our own
    return None if found is None else int(found)


def test_only_what_is_given_is_changed(here: Callable[..., Answer]):
    here(*ADD, "--every", "2h", "--label", "k=v", "--overlap", "allow", "--", "true")

    answer = here(
        "schedule",
        "edit",
        "a",
        "--label",
        "team=x",
        "--catch-up-window",
        "2h",
        "--json",
        "--",
        "ls",
    )

    changed = {one["field"]: (one["before"], one["after"]) for one in answer.json["changed"]}
    assert changed == {
        "labels": ({"k": "v"}, {"k": "v", "team": "x"}),
        "catch_up_window": ("1d", "2h"),
        "command": (["true"], ["ls"]),
    }
    one = answer.json["schedule"]
    assert (one["overlap"], one["every_sec"], one["revision"]) == ("allow", 7200, 1)


def test_every_option_of_add_can_be_edited_and_be_taken_back(here: Callable[..., Answer]):
    here(*ADD, "--every", "2h", "--", "true")
    given = {
        "--jitter": "5m",
        "--active-hours": "08:00-18:30",
        "--overlap": "queue_all",
        "--catch-up": "all",
        "--catch-up-window": "3h",
        "--max-firings": "7",
        "--expires": "2099-01-01T00:00Z",
        "--max-run-duration": "9m",
        "--title": "t",
        "--priority": "4",
        "--class": "interactive",
        "--gpus": "1",
        "--vram": "2G",
        "--memory": "1G",
        "--model": "m",
        "--seed": "5",
        "--tenant": "x",
        "--project": "p",
        "--max-turns": "50",
        "--max-attempts": "2",
        "--label": "k=v",
        "--env": "K=V",
        "--cwd": "/",
    }

    options = [word for pair in given.items() for word in pair]
    edited = here("schedule", "edit", "a", *options, "--json").json
    unset = [word for name in given for word in ("--unset", name)]
    back = here("schedule", "edit", "a", *unset, "--json").json

    assert len(edited["changed"]) == len(given)
    assert len(back["changed"]) == len(given)
    # In which folder it runs was said where it was added.
    kept = [one for one in back["changed"] if one["field"] != "cwd"]
    first = {one["field"]: one["before"] for one in edited["changed"]}
    assert {one["field"]: one["after"] for one in kept} == {
        one["field"]: first[one["field"]] for one in kept
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "needs an ID"),
        (("a",), "nothing to change"),
        (("a", "--name", "b", "--jitter", "1m"), "takes no --name"),
        (("a", "--cron", "* * *"), "has 3 fields, not five"),
        (("a", "--cron", "@daily", "--every", "1h"), "one of --cron, --every and --at"),
        (("a", "--jitter", "3h"), "a jitter of 10800 s"),
        (("a", "--unset", "every"), "would leave nothing to fire by"),
        (("a", "--unset", "max-runtime"), "is no option of a schedule"),
        (("a", "--expires", "2020-01-01"), "would never fire again"),
        (("a", "--at", "2020-01-01"), "would never fire again"),
        (("a", "--max-turns", "10001"), "not in the range from 1 to 10000"),
        (("a", "--prompt", "x"), "a prompt and a command cannot be given together"),
        (("a", "--agent", "nobody"), "is not configured"),
        (("a", "--tz", "Mars"), "unknown time zone"),
        (("a", "--max-run-duration", "0s"), "longer than 0 seconds"),
        (("a", "--tz", ""), "unknown time zone ''"),
        (("a", "--jitter", "1m", "--unset", "jitter"), "--jitter and --unset jitter"),
        (("a", "--label", "k=v", "--unset", "labels"), "--unset 'labels' is no option"),
        (("a", "--class", "batch", "--unset", "class"), "--class and --unset class"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    here: Callable[..., Answer], arguments: tuple[str, ...], told: str
):
    here(*ADD, "--every", "2h", "--", "true")
    before = here("schedule", "show", "a", "--json").json

    answer = here("schedule", "edit", *arguments)

    assert (answer.code, told in answer.err) == (EXIT_USAGE, True), answer
    assert here("schedule", "show", "a", "--json").json == before


def test_one_that_is_not_there_is_told(here: Callable[..., Answer]):
    assert here("schedule", "edit", "no", "--jitter", "1m").code == EXIT_NOT_FOUND
    assert here("schedule", "history", "no").code == EXIT_NOT_FOUND


def test_who_looked_before_it_was_edited_must_look_again(here: Callable[..., Answer]):
    here(*ADD, "--every", "2h", "--", "true")
    assert here("schedule", "edit", "a", "--jitter", "1m", "--revision", "0").code == EXIT_DONE

    late = here("schedule", "edit", "a", "--jitter", "2m", "--revision", "0")

    assert (late.code, "has revision 1, not 0" in late.err) == (EXIT_BUSY, True)
    assert here("schedule", "show", "a", "--json").json["schedule"]["jitter_sec"] == 60


def test_what_is_hostile_is_shown_as_text(home: Place, here: Callable[..., Answer]):
    name = "s\x1b[2J.yaml"
    text = 'schedules: {a: {every: 1h, agent: coder, prompt: "%s"}}'
    (home.base / name).write_text(text % "a")
    here("schedule", "apply", "-f", name)
    (home.base / name).write_text(text % "\\e[2Jb\\nc")

    applied = here("schedule", "apply", "-f", name)
    edited = here("schedule", "edit", "a", "--prompt", "\x1b[31m\nx")

    assert "prompt: a -> \\x1b[2Jb\\nc" in applied.out
    assert "prompt: \\x1b[2Jb\\nc -> \\x1b[31m\\nx" in edited.out
    for answer in (applied, edited):
        assert "\x1b" not in answer.out + answer.err


def test_what_says_the_same_changes_nothing(here: Callable[..., Answer]):
    here(*ADD, "--every", "2h", "--", "true")

    answer = here("schedule", "edit", "a", "--every", "120m")

    assert answer.out == "schedule a stays as it is\n"
    assert here("schedule", "show", "a", "--json").json["schedule"]["revision"] == 0


def test_when_the_bound_on_turns_was_changed_is_noted_by_every_way(
    home: Place, here: Callable[..., Answer]
):
    text = "schedules: {a: {every: 1h, agent: coder, prompt: x, max_turns: 50}}"
    (home.base / "s.yaml").write_text(text)
    here("schedule", "apply", "-f", "s.yaml")
    assert column(home, "max_turns_set_at") is None

    here("schedule", "edit", "a", "--jitter", "1m")
    assert column(home, "max_turns_set_at") is None
    here("schedule", "edit", "a", "--max-turns", "60")
    first = column(home, "max_turns_set_at")
    here("schedule", "apply", "-f", "s.yaml")
    second = column(home, "max_turns_set_at")

    assert first is not None
    assert second is not None
    assert second > first


def test_another_timing_begins_to_count_anew_and_fires_nothing_twice(
    home: Place, here: Callable[..., Answer]
):
    here(*ADD, "--every", "1h", "--overlap", "allow", "--", "true")
    make_due(home)
    assert home.run("run", "--json").json["stats"]["firings"] == 1

    here("schedule", "edit", "a", "--cron", "*/5 * * * *")
    here("schedule", "edit", "a", "--every", "1h")

    assert home.run("run", "--json").json["stats"]["firings"] == 0
    anchor, next_slot = column(home, "anchor"), column(home, "next_slot")
    assert anchor is not None
    assert next_slot == anchor + 3600 * 10**6


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_edit_that_is_killed_has_done_all_or_nothing(home: Place, tmp_path: Path, moment: str):
    home.run(*ADD, "--every", "2h", "--", "true")
    mark = tmp_path / "mark"

    crash = {"TINYSCHEDULER_CRASH_AT": f"schedule.edit:{moment} {mark}"}
    edit = ("schedule", "edit", "a", "--every", "3h", "--max-turns", "9")
    home.start(*edit, **crash).communicate(timeout=LIMIT_S)

    assert mark.exists()
    shown = home.run("schedule", "show", "a", "--json").json["schedule"]
    done = (10_800, 9, 1) if moment == "after" else (7200, None, 0)
    assert (shown["every_sec"], shown["max_turns"], shown["revision"]) == done


def test_edits_and_ticks_at_once_fire_each_time_once(home: Place):
    home.run(*ADD, "--every", "1h", "--overlap", "allow", "--", "true")
    make_due(home)
    slot = column(home, "next_slot")

    started = [home.start("run") for _ in range(4)]
    started += [
        home.start("schedule", "edit", "a", "--label", f"n={number}") for number in range(4)
    ]
    for process in started:
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == EXIT_DONE
    home.run("run")

    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database:
        fired = database.execute("SELECT slot, count(*) FROM tasks GROUP BY slot").fetchall()
    assert fired == [(slot, 1)]
    assert column(home, "revision") == 4


# -- check ----------------------------------------------------------------------------


def test_an_expression_is_told_in_words_with_the_next_three_times(here: Callable[..., Answer]):
    answer = here("schedule", "check", "--cron", "30 7 * * 1-5", "--tz", "Europe/Warsaw")

    lines = answer.out.splitlines()
    assert lines[0] == "at 07:30 on weekdays, Europe/Warsaw"
    assert len(lines) == 4
    assert all("07:30 CE" in line for line in lines[1:])


def test_a_file_is_checked_without_other_options(here: Callable[..., Answer]):
    assert here("schedule", "check", "-f", "s.yaml", "--jitter", "1m").code == EXIT_USAGE


def test_options_are_checked_as_add_would_and_change_nothing(
    home: Place, here: Callable[..., Answer]
):
    assert here("schedule", "check", "--every", "1h", "--agent", "nobody").code == EXIT_USAGE
    assert here("schedule", "check", "--cron", "61 * * * *").code == EXIT_USAGE
    answer = here("schedule", "check", "--every", "1h", "--json", "--", "true")
    assert (answer.code, len(answer.json["next_fire_times"])) == (EXIT_DONE, 3)
    assert answer.json["warnings"] == []
    assert not home.state.exists()


# -- warnings ---------------------------------------------------------------------------


def test_a_prompt_that_bounds_its_turns_is_told_that_it_does_not(here: Callable[..., Answer]):
    added = here(*ADD, "--every", "1h", "--agent", "coder", "--prompt", "Look. MAX 50 turns.")
    edited = here("schedule", "edit", "a", "--max-turns", "80", "--json")

    assert added.code == EXIT_DONE
    assert "warning: the prompt of a says 'MAX 50 turns', which limits nothing" in added.err
    assert "--max-turns 50" in added.err
    (warning,) = edited.json["warnings"]
    assert (warning["type"], warning["promptTurns"], warning["maxTurns"]) == (
        "prompt_turns",
        50,
        80,
    )
    assert here("schedule", "edit", "a", "--jitter", "1m").err == ""


def test_what_similar_schedules_take_is_told(home: Place, here: Callable[..., Answer]):
    for name, turns in (("x", "100"), ("y", "300"), ("z", "200")):
        prompt = ("--agent", "coder", "--prompt", "hi", "--max-turns", turns)
        here("schedule", "add", "--name", name, "--every", "1h", *prompt)
    set_column(home, "average_turns", 70)

    added = here(*ADD, "--every", "1h", "--agent", "coder", "--prompt", "hi", "--json")

    (warning,) = added.json["warnings"]
    assert warning["type"] == "similar_turns"
    assert (warning["medianAverageTurns"], warning["medianMaxTurns"]) == (70, 200)
    told = "3 schedules of coder take 70 turns a firing and have --max-turns 200 (median)"
    assert warning["message"].startswith(told)
    other = here("schedule", "add", "--name", "other", "--every", "1h", "--json", "--", "true")
    assert other.json["warnings"] == []


def test_an_edit_of_what_a_file_declares_is_told_not_to_last(
    home: Place, here: Callable[..., Answer]
):
    (home.base / "s.yaml").write_text("schedules: {a: {every: 1h, command: [x]}}")
    here("schedule", "apply", "-f", "s.yaml")

    answer = here("schedule", "edit", "a", "--jitter", "1m")

    assert f"{home.base}/s.yaml declares a: change it there as well" in answer.err


# -- history ----------------------------------------------------------------------------


def test_each_firing_is_told_with_how_it_ended(home: Place, here: Callable[..., Answer]):
    here(*ADD, "--every", "1h", "--overlap", "allow", "--", "false")
    assert "has fired nothing" in here("schedule", "history", "a").err
    make_due(home)
    home.run("run")
    deadline = time.monotonic() + LIMIT_S
    while here("show", "1", "--json").json["state"] != "failed":
        assert time.monotonic() < deadline
        home.run("run")
    here("schedule", "run", "a")

    told = here("schedule", "history", "a", "--json").json["firings"]
    newest = here("schedule", "history", "a", "-n", "1").out

    assert [(one["task_id"], one["is_by_hand"]) for one in told] == [("1", False), ("2", True)]
    assert (told[0]["outcome"], told[0]["ended_at"] is not None) == ("command_failed", True)
    assert told[0]["wait_ms"] is not None
    assert told[0]["duration_ms"] is not None
    assert told[1]["ended_at"] is None or told[1]["outcome"] == "command_failed"
    lines = newest.splitlines()
    assert lines[0].split()[:3] == ["TASK", "FOR", "FIRED"]
    assert lines[1].startswith("2     by hand")
    assert len(lines) == 2


def test_a_firing_is_told_of_when_its_task_is_long_gone(home: Place, here: Callable[..., Answer]):
    here(*ADD, "--every", "1h", "--", "true")
    make_due(home)
    home.run("run")
    home.run("wait", "1")
    home.run("run")
    before = here("schedule", "history", "a", "--json").json["firings"]
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("DELETE FROM task_specs")
        database.execute("DELETE FROM tasks")

    (told,) = here("schedule", "history", "a", "--json").json["firings"]

    assert told["outcome"] == "done"
    # Only whole milliseconds are left of it.
    kept, was = (datetime.fromisoformat(one["slot"]) for one in (told, before[0]))
    assert abs(kept - was) <= timedelta(milliseconds=2)
