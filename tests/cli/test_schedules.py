"""``schedule`` as people and scripts type it: made, looked at, fired, paused."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.cli.scheduled import LIMIT_S, due_now, events, states, until

from tinyscheduler.errors import (
    EXIT_BUSY,
    EXIT_DONE,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place in which eight tasks may run."""
    place.settings |= {"MAX_CONCURRENT_SLOTS": "8", "AGENT_LIMITS": "shell:8"}
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


def test_what_is_due_becomes_a_task_once(home: Place):
    added = home.run("schedule", "add", "--name", "nightly", "--every", "1h", "--", "true")
    assert (added.code, added.out.startswith("nightly: every hour; next in ")) == (EXIT_DONE, True)
    assert home.run("run", "--json").json["stats"]["firings"] == 0
    due_now(home, "nightly")

    report = home.run("run", "--json").json

    assert (report["stats"]["firings"], report["stats"]["tasks_spawned"]) == (1, 1)
    assert home.run("wait", "1").code == EXIT_DONE
    assert home.run("run", "--json").json["stats"]["firings"] == 0
    shown = home.run("schedule", "show", "nightly", "--json").json["schedule"]
    assert (shown["fired"], shown["state"], shown["failure_streak"]) == (1, "active", 0)
    task = home.run("show", "1", "--json").json
    assert task["title"] == "nightly \N{EM DASH} firing #1"
    names = [json.loads(line)["event"] for line in events(home)]
    assert names.count("schedule.fired") == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_tick_that_is_killed_while_it_fires_leaves_one_firing_to_the_next(
    home: Place, tmp_path: Path, moment: str
):
    home.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    due_now(home, "a")
    mark = tmp_path / "mark"

    home.run("run", TINYSCHEDULER_CRASH_AT=f"schedule.fire:{moment} {mark}")
    assert mark.exists()
    home.run("run")
    until(home, lambda: states(home) == {"1": "done"})
    home.run("run")

    assert states(home) == {"1": "done"}
    assert home.run("schedule", "show", "a", "--json").json["schedule"]["fired"] == 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("step", "command"),
    [
        ("add", ("add", "--name", "b", "--every", "1h", "--", "true")),
        ("state", ("pause", "a")),
        ("run", ("run", "a", "--force")),
        ("remove", ("rm", "a")),
    ],
)
def test_a_command_that_is_killed_has_done_all_or_nothing(
    home: Place, tmp_path: Path, step: str, command: tuple[str, ...], moment: str
):
    home.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    before = content(home)
    mark = tmp_path / "mark"

    crash = {"TINYSCHEDULER_CRASH_AT": f"schedule.{step}:{moment} {mark}"}
    home.start("schedule", *command, **crash).communicate(timeout=LIMIT_S)

    assert mark.exists()
    assert (content(home) != before) == (moment == "after")


def content(place: Place) -> list[str]:
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        return list(database.iterdump())


def test_ten_ticks_at_once_fire_each_time_once(home: Place):
    names = [f"s{number}" for number in range(5)]
    for name in names:
        home.run("schedule", "add", "--name", name, "--every", "1h", "--", "true")
    for _ in range(3):
        due_now(home, *names)
        ticks = [home.start("run") for _ in range(10)]
        for tick in ticks:
            tick.communicate(timeout=LIMIT_S)
            assert tick.returncode == EXIT_DONE
        until(home, lambda: set(states(home).values()) == {"done"})

    shown = home.run("schedule", "list", "--json").json["schedules"]
    assert [one["fired"] for one in shown] == [3] * 5
    assert len(states(home)) == 15


def test_tasks_from_add_are_no_firings(home: Place):
    for name in "ab":
        home.run("schedule", "add", "--name", name, "--every", "1h", "--", "sleep", "30")
    due_now(home, "a", "b")
    home.run("run")
    home.add("--", "sleep", "30")

    report = home.run("run", "--json").json

    assert report["stats"]["tasks_spawned"] == 1


def test_a_firing_that_fails_is_not_tried_again_and_the_third_pauses_its_schedule(home: Place):
    home.run("schedule", "add", "--name", "bad", "--every", "1h", "--", "false")
    for number in range(1, 4):
        due_now(home, "bad")
        home.run("run")
        until(home, lambda number=number: states(home).get(str(number)) == "failed")  # type: ignore[misc]  # bound for this round

    shown = home.run("schedule", "show", "bad", "--json").json["schedule"]
    assert (shown["state"], shown["failure_streak"]) == ("paused", 3)
    assert shown["why_paused"] == "3 firings in a row failed, at last: command_failed"
    (paused,) = [one for one in map(json.loads, events(home)) if one["event"] == "schedule.paused"]
    assert paused["schedule"] == "bad"
    listed = home.run("schedule", "list").out
    assert "paused" in listed
    why = "3 firings in a row failed, at last: command_failed"
    stopped = home.run("status", "--json").json["schedules"]["stopped"]
    assert stopped == [{"schedule_id": "bad", "why": why}]
    assert f"schedule bad has paused itself: {why}" in home.run("status").out
    due_now(home, "bad")
    assert home.run("run", "--json").json["stats"]["firings"] == 0

    resumed = home.run("schedule", "resume", "bad")
    assert resumed.code == EXIT_DONE
    again = home.run("schedule", "show", "bad", "--json").json["schedule"]
    assert (again["state"], again["failure_streak"], again["why_paused"]) == ("active", 0, None)


def test_a_firing_past_its_time_has_failed_and_says_so(home: Place):
    home.run(
        *("schedule", "add", "--name", "long", "--every", "1h"),
        *("--max-run-duration", "1s", "--", "sleep", "60"),
    )
    due_now(home, "long")
    home.run("run")
    until(home, lambda: states(home)["1"] == "failed")

    assert home.run("show", "1", "--json").json["failure_reason"] == "lease_expired"


def test_by_hand_it_fires_now_and_what_is_full_leaves_nothing_behind(home: Place):
    for name in "abc":
        home.run("schedule", "add", "--name", name, "--every", "1h", "--", "sleep", "60")
    assert home.run("schedule", "run", "a").out.strip() == "1"
    home.run("run")
    home.run("schedule", "run", "b")
    home.run("run")

    full = home.run("schedule", "run", "c")

    assert (full.code, full.out) == (EXIT_BUSY, "")
    assert "capacity_full: 2 firings run or are about to" in full.err
    eta = int(full.err.replace("\n", " ").split("free in about ")[1].split()[0])
    assert 1190 <= eta <= 1200
    assert set(states(home)) == {"1", "2"}

    forced = home.run("schedule", "run", "c", "--force", "--json")
    assert forced.json == {"schema_version": 1, "task_id": "3", "forced": True}
    assert home.run("run", "--json").json["stats"]["tasks_spawned"] == 1
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database:
        rows = database.execute("SELECT activity, subject, task_id FROM audit").fetchall()
    assert rows == [("manual_force_bypass", "c", 3)]


def test_by_hand_it_fires_though_what_waits_is_paused(home: Place):
    home.settings["KICK"] = "false"
    (home.base / "agents.yaml").write_text('agents: {stuck: {command: ["true"]}}\n')
    add = ("schedule", "add", "--every", "1h", "--name")
    home.run(*add, "a", "--agent", "stuck", "--prompt", "x")
    home.run(*add, "b", "--", "true")
    home.run(*add, "c", "--", "true")
    home.run("pause", "agent:stuck", "schedule:b")
    for name in ("a", "b"):
        assert home.run("schedule", "run", name).code == EXIT_DONE

    answer = home.run("schedule", "run", "c")

    assert (answer.code, answer.out) == (EXIT_DONE, "3\n"), answer


def test_the_next_times_of_an_expression_are_told_in_words(here: Callable[..., Answer]):
    answer = here("schedule", "next", "--cron", "0 7 * * 1-5", "--tz", "Europe/Warsaw", "-n", "2")
    told = here("schedule", "next", "--cron", "@daily", "--tz", "UTC", "--json").json

    assert answer.code == EXIT_DONE
    first, *times = answer.out.splitlines()
    assert "07:00" in first
    assert len(times) == 2
    assert all(" 07:00 CE" in one for one in times)
    assert len(told["next_fire_times"]) == 3
    assert all("T00:00:00" in one for one in told["next_fire_times"])


def test_one_that_is_removed_names_what_it_leaves_held(here: Callable[..., Answer]):
    here("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    for number in "12":
        here("schedule", "run", "a")
        here("hold", number)
    here("release", "1")

    removed = here("schedule", "rm", "a")

    assert removed.out == "schedule a is removed; what it fired goes on: 1 firing\n"
    assert "it leaves 1 firing held: `" in removed.err
    assert "release 2` lets go on" in removed.err
    assert here("release", "2").code == EXIT_DONE


def test_one_that_is_removed_fires_no_more_and_what_runs_goes_on(home: Place):
    home.run("schedule", "add", "--name", "a", "--every", "1h", "--", "sleep", "60")
    due_now(home, "a")
    home.run("run")

    removed = home.run("schedule", "rm", "a")

    assert removed.out == "schedule a is removed; what it fired goes on: 1 firing\n"
    assert states(home)["1"] in {"running", "starting"}
    assert home.run("schedule", "list", "--json").json["schedules"] == []
    assert home.run("cancel", "1").code == EXIT_DONE
    until(home, lambda: states(home)["1"] == "cancelled")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("add", "--every", "1h", "--", "true"), EXIT_USAGE, "needs --name"),
        (("add", "--name", "a b", "--every", "1h", "--", "true"), EXIT_USAGE, "is no name"),
        (("add", "--name", "a", "--", "true"), EXIT_USAGE, "say when: one of --cron"),
        (
            ("add", "--name", "a", "--every", "1h", "--cron", "@daily", "--", "true"),
            EXIT_USAGE,
            "say when: one of --cron",
        ),
        (("add", "--name", "a", "--cron", "61 * * * *", "--", "true"), EXIT_USAGE, "'61'"),
        (
            ("add", "--name", "a", "--cron", "@daily", "--tz", "Mars/Olympus", "--", "true"),
            EXIT_USAGE,
            "Mars/Olympus",
        ),
        (
            ("add", "--name", "a", "--at", "2020-01-01T00:00", "--", "true"),
            EXIT_USAGE,
            "would never fire",
        ),
        (
            ("add", "--name", "a", "--every", "1h", "--active-hours", "8-18", "--", "true"),
            EXIT_USAGE,
            "are no hours",
        ),
        (
            (
                "add",
                "--name=a",
                "--every=1h",
                "--catch-up=none",
                "--catch-up-window=2h",
                "--",
                "true",
            ),
            EXIT_USAGE,
            "--catch-up-window does nothing with --catch-up none",
        ),
        (("add", "--name", "a", "--every", "1h"), EXIT_USAGE, ""),
        (("show",), EXIT_USAGE, "needs an ID"),
        (("show", "none"), EXIT_NOT_FOUND, "there is no schedule 'none'"),
        (("run", "none"), EXIT_NOT_FOUND, "there is no schedule 'none'"),
        (("rm", "none"), EXIT_NOT_FOUND, "there is no schedule 'none'"),
        (("pause", "none"), EXIT_NOT_FOUND, "there is no schedule 'none'"),
        (("resume", "none"), EXIT_NOT_FOUND, "there is no schedule 'none'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(
    here: Callable[..., Answer], arguments: tuple[str, ...], code: int, told: str
):
    answer = here("schedule", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err.replace("\n", " ")
    assert "hint:" in answer.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--", ""), "the command has an empty name"),
        (("--env", "TINYSCHEDULER_TASK_ID=9", "--", "true"), "the environment sets TINYSCHEDULER_"),
        (("--title", "x" * 5000, "--", "true"), "title has 5000 bytes"),
        (("--label", f"k={'x' * 5000}", "--", "true"), "a label has 5000 bytes"),
        (("--", "echo", "caf\udce9"), "one part of the command is not valid Unicode"),
        (("--agent", "shell", "--title", "caf\udce9", "--", "true"), "title is not valid Unicode"),
    ],
)
def test_what_no_firing_could_be_is_refused_at_once(
    here: Callable[..., Answer], arguments: tuple[str, ...], told: str
):
    here("schedule", "add", "--name", "b", "--every", "1h", "--", "true")

    added = here("schedule", "add", "--name", "a", "--every", "1h", *arguments)
    edited = here("schedule", "edit", "b", *arguments)

    assert (added.code, told in added.err) == (EXIT_USAGE, True), added
    assert (edited.code, told in edited.err) == (EXIT_USAGE, True), edited
    assert [one["schedule_id"] for one in here("schedule", "list", "--json").json["schedules"]] == [
        "b"
    ]


def test_all_that_was_asked_for_is_kept_and_told(home: Place):
    (home.base / "prompt.txt").write_text("do it")
    (home.base / "agents.yaml").write_text(
        "agents: {coder: {queue: dev, limit: 1, command: [cat, '{prompt_file}']}}\n"
    )
    added = home.run(
        *("schedule", "add", "--name", "full", "--cron", "0 9 * * *", "--tz", "Asia/Tokyo"),
        *("--jitter", "5m", "--active-hours", "08:00-18:30", "--overlap", "queue_one"),
        *("--catch-up", "all", "--max-firings", "9", "--expires", "30d"),
        *("--max-run-duration", "2m", "--agent", "coder", "--queue", "dev", "--title", "it"),
        *("--prompt-file", "prompt.txt", "--priority", "3", "--class", "interactive"),
        *("--gpus", "0", "--vram", "1G", "--memory", "2G", "--model", "m", "--seed", "4"),
        *("--tenant", "red", "--project", "apollo", "--max-turns", "20", "--max-attempts", "2"),
        *("--label", "a=b", "--env", "X=1", "--cwd", str(home.base), "--json"),
    )

    assert added.code == EXIT_DONE, added.err
    told = added.json["schedule"]
    assert told["description"] == (
        "at 09:00 every day, only from 08:00 to 18:30, up to 5 minutes later, Asia/Tokyo"
    )
    assert (told["jitter_sec"], told["active_hours"]) == (300.0, [480, 1110])
    assert (told["overlap"], told["catch_up"], told["max_firings"]) == ("queue_one", "all", 9)
    assert (told["max_run_duration_sec"], told["max_turns"], told["agent"]) == (120, 20, "coder")
    assert told["expires_at"] > told["next_fire_at"]
    home.run("schedule", "run", "full")
    task = home.run("show", "1", "--json").json
    assert (task["title"], task["prompt"], task["max_attempts"]) == ("it", "do it", 2)
    assert (task["tenant"], task["project"], task["seed"]) == ("red", "apollo", 4)
    assert task["max_runtime_sec"] == 120
    both = ("--prompt", "x", "--prompt-file", "prompt.txt")
    assert "--prompt-file" in home.run("schedule", "add", "--name", "b", "--at", "1h", *both).err
    strayed = ("--agent", "coder", "--recipe", "../x.yaml", "--number", "2")
    assert home.run("schedule", "add", "--name", "b", "--at", "1h", *strayed).code == EXIT_USAGE


def test_show_tells_all_that_was_asked_for_and_how_a_pause_ends(
    home: Place, here: Callable[..., Answer]
):
    (home.base / "agents.yaml").write_text(
        'agents: {coder: {command: ["echo", "{prompt}"], max_turns: 40}}\n'
    )
    asked = {
        "--max-firings": "7",
        "--expires": "2099-01-01T00:00Z",
        "--max-run-duration": "9m",
        "--project": "p",
        "--memory": "1G",
        "--label": "team=infra",
    }
    options = [word for pair in asked.items() for word in pair]
    add = ("schedule", "add", "--every", "1h", "--name")
    here(*add, "a", *options, "--", "sh", "-c", "echo hi; true")
    here(*add, "b", "--agent", "coder", "--prompt", "x")
    here("schedule", "pause", "a")

    told = dict(line.partition(":")[::2] for line in here("schedule", "show", "a").out.splitlines())
    told = {key: value.strip() for key, value in told.items()}

    assert told["state"] == "paused"
    assert told["goes on by"] == "`tinyscheduler schedule resume a`"
    assert told["runs"] == "sh -c 'echo hi; true'"
    assert told["max firings"] == "7"
    assert told["expires"] == "2099-01-01T00:00:00.000Z"
    assert told["max run duration"] == "9m"
    assert (told["project"], told["memory"]) == ("p", "1G")
    assert told["labels"] == "team=infra"
    assert not {"title", "gpus", "class", "env"} & told.keys()
    assert "at most 40, of agent coder" in here("schedule", "show", "b").out
    document = here("schedule", "show", "a", "--json").json
    assert document["definition"]["command"] == ["sh", "-c", "echo hi; true"]
    assert document["definition"]["labels"] == {"team": "infra"}


def test_a_time_without_a_zone_is_by_the_clock_of_the_schedule(here: Callable[..., Answer]):
    add = ("schedule", "add", "--name", "a", "--tz", "America/New_York")
    ends = ("--expires", "2098-07-01T12:00", "--json", "--", "true")

    added = here(*add, "--at", "2098-01-01T12:00", *ends).json["schedule"]
    moved = here("schedule", "edit", "a", "--at", "2098-01-02T12:00", "--json").json["schedule"]
    named = here("schedule", "edit", "a", "--at", "2098-01-02T12:00+00:00", "--json").json

    assert added["at"] == "2098-01-01T17:00:00.000Z"
    assert added["expires_at"] == "2098-07-01T16:00:00.000Z"
    assert moved["at"] == "2098-01-02T17:00:00.000Z"
    assert named["schedule"]["at"] == "2098-01-02T12:00:00.000Z"


def test_one_that_is_over_cannot_be_paused(home: Place, here: Callable[..., Answer]):
    here("schedule", "add", "--name", "a", "--at", "1h", "--", "true")
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("UPDATE schedules SET state = 'completed', due_at = NULL")

    answer = here("schedule", "pause", "a")

    assert (answer.code, "schedule a is over" in answer.err) == (EXIT_USAGE, True), answer


def test_status_tells_once_that_a_budget_paused_a_schedule(home: Place):
    (home.base / "agents.yaml").write_text("budgets: {schedule:a: {runs: 1}}\n")
    home.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    home.run("schedule", "run", "a")
    home.run("run")
    home.run("wait", "1")
    home.run("run")

    told = [line for line in home.run("status").out.splitlines() if "used up" in line]

    assert len(told) == 1, told
    assert "`resume schedule:a` ends it" in told[0]


def test_a_name_is_taken_once(here: Callable[..., Answer]):
    here("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    again = here("schedule", "add", "--name", "a", "--every", "2h", "--", "true")

    assert again.code == EXIT_USAGE
    assert "there is a schedule a already" in again.err


@pytest.mark.parametrize("value", ["abc", "0", "-1"])
def test_a_bound_that_is_none_is_told_and_two_run(home: Place, value: str):
    home.settings["SCHEDULE_MAX_CONCURRENT"] = value
    for name in "abc":
        home.run("schedule", "add", "--name", name, "--every", "1h", "--", "sleep", "60")
    due_now(home, "a", "b", "c")

    answer = home.run("run", "--json")

    assert answer.json["stats"]["tasks_spawned"] == 2
    told = answer.err.replace("\n", " ")
    assert "SCHEDULE_MAX_CONCURRENT" in told
    assert value in told
    assert "2" in told


def test_one_that_is_damaged_is_told_and_the_others_fire(home: Place):
    for name in "ab":
        home.run("schedule", "add", "--name", name, "--every", "1h", "--", "true")
    due_now(home, "a", "b")
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("UPDATE schedules SET definition = '{broken' WHERE id = 'a'")

    answer = home.run("run", "--json")

    assert answer.json["stats"]["firings"] == 1
    (warning,) = answer.json["warnings"]
    assert warning.startswith("the definition of schedule a cannot be read")
    shown = home.run("schedule", "show", "a")
    assert shown.code == EXIT_UNAVAILABLE
    assert "schedule rm a" in shown.err.replace("\n", " ")
    assert home.run("schedule", "rm", "a").code == EXIT_DONE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--priority", "5"), "schedule list takes no --priority: it goes with add"),
        (("pause", "x", "--cron", "@daily"), "schedule pause takes no --cron: it goes with add"),
        (("show", "x", "--force"), "schedule show takes no --force: it goes with run"),
        (
            ("run", "x", "--number", "2"),
            "schedule run takes no --number: it goes with history, next",
        ),
        (("rm", "x", "--name", "y"), "schedule rm takes no --name: it goes with add"),
        (("list", "x"), "schedule list takes no ID"),
        (("next", "x", "--every", "5m"), "schedule next takes an ID or --every"),
        (("next", "x", "--tz", "UTC"), "schedule next takes an ID or --tz"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    here: Callable[..., Answer], arguments: tuple[str, ...], words: str
):
    assert here("schedule", "add", "--name", "x", "--every", "1h", "--", "true").code == EXIT_DONE

    answer = here("schedule", *arguments)

    assert answer.code == EXIT_USAGE
    assert answer.err.startswith(f"error: {words}")
    shown = here("schedule", "show", "x", "--json").json["schedule"]
    assert (shown["state"], shown["fired"]) == ("active", 0)
