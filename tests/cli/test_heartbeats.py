"""``schedule add --kind heartbeat``: asked for, looked at, changed, and run by real ticks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.cli.scheduled import due_now, states, until

from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

ASKS = "# Each time\n- [ ] look at the mail\n"


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place with an agent that repeats what it reads and says what `answer` says."""
    (place.base / "agents.yaml").write_text(
        "agents: {beat: {queue: beats, limit: 1, command:"
        " [sh, -c, 'cat \"$1\"; cat answer', x, '{prompt_file}']}}\n"
    )
    (place.base / "answer").write_text("HEARTBEAT_OK\n")
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


def add(place: Place, *more: str, name: str = "hb") -> Answer:
    options = ("--kind", "heartbeat", "--agent", "beat", "--every", "1h", "--cwd", str(place.base))
    return place.run("schedule", "add", "--name", name, *options, *more)


def shown(place: Place, name: str = "hb") -> dict[str, object]:
    found: dict[str, object] = place.run("schedule", "show", name, "--json").json["schedule"]
    return found


def events(place: Place) -> list[str]:
    path = place.state / "logs" / "events.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_a_checklist_that_is_no_file_is_told_when_it_is_named(home: Place):
    (home.base / "HEARTBEAT.md").mkdir()

    added = add(home, "--checklist", "HEARTBEAT.md")

    assert added.code == EXIT_DONE
    assert "HEARTBEAT.md of hb is no file: nothing fires until it is" in " ".join(added.err.split())


def test_it_fires_where_there_is_something_to_do_and_tells_what_is_not_nothing(home: Place):
    added = add(home, "--checklist", "HEARTBEAT.md", "--max-per-day", "9")
    assert (added.code, added.out.split(";")[0]) == (EXIT_DONE, "hb: every hour"), added.err
    assert "HEARTBEAT.md of hb is not there: nothing fires until it is" in " ".join(
        added.err.split()
    )
    due_now(home, "hb")
    assert home.run("run", "--json").json["stats"]["firings"] == 0
    assert shown(home)["suppressed"] == 1

    (home.base / "HEARTBEAT.md").write_text(ASKS)
    due_now(home, "hb")
    assert home.run("run", "--json").json["stats"]["firings"] == 1
    until(home, lambda: states(home) == {"1": "done"})
    told = shown(home)
    assert (told["suppressed"], told["fired"], told["passed_over"]) == (2, 1, 0)
    assert "schedule.reported" not in events(home)
    log = home.run("logs", "1").out
    assert log.startswith("Go through this checklist and do what it says.\n\n# Each time\n")

    (home.base / "answer").write_text("There is mail.\n")
    due_now(home, "hb")
    home.run("run")
    until(home, lambda: states(home) == {"1": "done", "2": "done"})
    assert shown(home)["suppressed"] == 2
    assert events(home).count("schedule.reported") == 1
    show = home.run("schedule", "show", "hb").out
    assert "nothing to do:  2 times" in show
    assert "2 of 9 today" in show


def test_by_hand_it_fires_in_any_case_and_counts_for_no_day(home: Place):
    add(home, "--checklist", "HEARTBEAT.md", "--max-per-day", "1")

    assert home.run("schedule", "run", "hb").out == "1\n"
    home.run("run")
    until(home, lambda: states(home) == {"1": "done"})

    assert home.run("schedule", "show", "hb", "--json").json["fired_today"] == 0
    assert "HEARTBEAT_OK" in home.run("show", "1", "--json").json["prompt"]


def test_once_it_has_fired_so_often_the_day_is_over(home: Place):
    add(home, "--prompt", ASKS, "--max-per-day", "1", "--catch-up", "none")
    for _ in range(3):
        due_now(home, "hb")
        home.run("run")
    until(home, lambda: states(home) == {"1": "done"})

    told = shown(home)
    assert (told["fired"], told["passed_over"], told["max_per_day"]) == (1, 2, 1)
    warned = [
        json.loads(line).get("reason")
        for line in (home.state / "logs" / "events.jsonl").read_text().splitlines()
        if "schedule.warning" in line
    ]
    assert "daily_budget" in warned


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"x" * (65 << 10)),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_bytes(b"a\0b"),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["folder", "huge", "no UTF-8", "NUL", "device"],
)
def test_a_checklist_that_is_no_text_is_named_by_each_tick_and_the_rest_goes_on(
    home: Place, make: Callable[[Path], object]
):
    add(home, "--checklist", "HEARTBEAT.md")
    home.run("schedule", "add", "--name", "other", "--every", "1h", "--", "true")
    make(home.base / "HEARTBEAT.md")
    due_now(home, "hb", "other")

    report = home.run("run", "--json")

    assert report.code == EXIT_FAILED
    (error,) = report.json["errors"]
    assert error["where"] == "schedule hb"
    assert str(home.base / "HEARTBEAT.md") in error["message"]
    assert report.json["stats"]["firings"] == 1
    assert shown(home)["passed_over"] == 0


def test_a_command_has_no_prompt_and_its_last_line_counts(home: Place):
    home.run(
        *("schedule", "add", "--name", "hb", "--kind", "heartbeat", "--every", "1h"),
        *("--", "echo", "HEARTBEAT_OK"),
    )
    due_now(home, "hb")
    home.run("run")
    until(home, lambda: states(home) == {"1": "done"})

    assert shown(home)["suppressed"] == 1


def test_all_of_it_can_be_changed_and_declared(home: Place):
    add(home, "--checklist", "HEARTBEAT.md", "--max-per-day", "9")
    options = ("--max-per-day", "3", "--checklist", "b.md")
    edited = home.run("schedule", "edit", "hb", *options, "--json")
    changed = {one["field"]: one["after"] for one in edited.json["changed"]}
    assert changed == {"max_per_day": 3, "checklist": str(home.base / "b.md")}
    unset = home.run("schedule", "edit", "hb", "--unset", "max-per-day")
    assert "max_per_day: 3 -> -" in unset.out

    (home.base / "s.yaml").write_text(
        "schedules:\n  hb2:\n    every: 30m\n    kind: heartbeat\n    agent: beat\n"
        "    checklist: lists/b.md\n    max_per_day: 4\n"
    )
    assert home.run("schedule", "apply", "-f", "s.yaml").code == EXIT_DONE
    told = shown(home, "hb2")
    assert (told["kind"], told["max_per_day"]) == ("heartbeat", 4)
    assert told["checklist"] == str(home.base / "lists" / "b.md")
    again = home.run("schedule", "apply", "-f", "s.yaml")
    assert "0 added" in again.out or "1 unchanged" in again.out
    for line, told_of in (("kind: pulse", "one of job, heartbeat"), ("max_per_day: 0", "from 1")):
        (home.base / "bad.yaml").write_text(f"schedules:\n  x:\n    every: 1h\n    {line}\n")
        refused = home.run("schedule", "apply", "-f", "bad.yaml")
        assert (refused.code, told_of in " ".join(refused.err.split())) == (EXIT_CONFIG, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--checklist", "a.md", "--agent", "beat"), "--checklist is for heartbeats"),
        (("--kind", "heartbeat", "--agent", "beat"), "give it a --prompt or a --prompt-file"),
        (
            ("--kind", "heartbeat", "--agent", "beat", "--prompt", "# only"),
            "there is nothing to do",
        ),
        (("--kind", "heartbeat", "--checklist", "", "--agent", "beat"), "is empty"),
        (("--kind", "pulse", "--", "true"), "pulse"),
        (("--max-per-day", "0", "--", "true"), "not in the range"),
        (("--max-per-day", "many", "--", "true"), "not a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(
    here: Callable[..., Answer], arguments: tuple[str, ...], told: str
):
    answer = here("schedule", "add", "--name", "a", "--every", "1h", *arguments)

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert told in " ".join(answer.err.split())


def test_options_of_heartbeats_go_with_those_that_define(here: Callable[..., Answer]):
    answer = here("schedule", "list", "--max-per-day", "3")

    assert answer.code == EXIT_USAGE
    assert "takes no --max-per-day" in answer.err
