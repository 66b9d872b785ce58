"""Schedules in a file: what it says is what there is, all of it or nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

LIMIT_S = 30.0
TWO = """
schedules:
  backup:
    cron: "30 2 * * *"
    tz: Europe/Warsaw
    command: ["true"]
    labels: {team: infra}
  look:
    every: 2h
    command: ["ls", "-l"]
    memory: 2G
    priority: 3
"""
AGENTS = 'agents: {coder: {command: ["echo", "{prompt}"]}}\n'


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place with an agent that reads prompts."""
    (place.base / "agents.yaml").write_text(AGENTS)
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


def write(place: Place, text: str | bytes, name: str = "s.yaml") -> None:
    path = place.base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def names(here: Callable[..., Answer]) -> list[str]:
    listed = here("schedule", "list", "--json").json["schedules"]
    return [one["schedule_id"] for one in listed]


def content(place: Place) -> list[str]:
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        return [line for line in database.iterdump() if '"schedules"' in line]


def test_what_a_file_declares_is_added_and_then_stays_as_it_is(
    home: Place, here: Callable[..., Answer]
):
    write(home, TWO)

    first = here("schedule", "apply", "-f", "s.yaml", "--json")
    second = here("schedule", "apply", "-f", "s.yaml", "--json")

    assert first.code == second.code == EXIT_DONE
    assert [one["schedule_id"] for one in first.json["added"]] == ["backup", "look"]
    assert second.json["unchanged"] == ["backup", "look"]
    assert [second.json[one] for one in ("added", "changed", "removed", "undeclared")] == [[]] * 4
    shown = here("schedule", "show", "backup", "--json").json["schedule"]
    assert (shown["cron"], shown["zone"]) == ("30 2 * * *", "Europe/Warsaw")
    assert shown["declared_in"] == str(home.base / "s.yaml")


def test_a_dry_run_shows_the_same_and_changes_nothing(home: Place, here: Callable[..., Answer]):
    write(home, TWO)
    here("schedule", "add", "--name", "other", "--every", "1h", "--", "true")
    before = home.digest()

    answer = here("schedule", "apply", "-f", "s.yaml", "--dry-run", "--json")

    assert [one["schedule_id"] for one in answer.json["added"]] == ["backup", "look"]
    assert answer.json["dry_run"] is True
    assert home.digest() == before


def test_each_changed_field_is_shown_as_it_was_and_as_it_is(
    home: Place, here: Callable[..., Answer]
):
    write(home, TWO)
    here("schedule", "apply", "-f", "s.yaml")
    write(home, TWO.replace("2h", "90m").replace("memory: 2G", "max_run_duration: 5m"))

    told = here("schedule", "apply", "-f", "s.yaml").out

    assert "~ look" in told
    assert "    every: 2h -> 1h30m" in told
    assert "    memory: 2G -> -" in told
    assert "    max_run_duration: - -> 5m" in told
    assert "backup" not in told
    assert told.endswith("s.yaml: 1 changed, 1 unchanged\n")


def test_only_what_the_same_file_declared_is_pruned(home: Place, here: Callable[..., Answer]):
    write(home, TWO)
    write(home, 'schedules: {night: {cron: "@daily", command: ["true"]}}', "more.yaml")
    here("schedule", "add", "--name", "by-hand", "--every", "1h", "--", "true")
    here("schedule", "apply", "-f", "s.yaml")
    here("schedule", "apply", "-f", "more.yaml")
    write(home, "schedules: {}")

    kept = here("schedule", "apply", "-f", "s.yaml")
    assert "--prune removes them" in kept.err
    assert names(here) == ["backup", "by-hand", "look", "night"]
    pruned = here("schedule", "apply", "-f", "s.yaml", "--prune", "--json")

    assert pruned.json["removed"] == ["backup", "look"]
    assert names(here) == ["by-hand", "night"]


def test_what_is_pruned_is_paused_no_more(home: Place, here: Callable[..., Answer]):
    (home.base / "s.yaml").write_text('schedules: {a: {every: 1h, command: ["true"]}}\n')
    here("schedule", "apply", "-f", str(home.base / "s.yaml"))
    here("pause", "schedule:a")
    (home.base / "s.yaml").write_text("schedules: {}\n")

    here("schedule", "apply", "-f", str(home.base / "s.yaml"), "--prune")

    assert here("status", "--json").json["paused"] == []


def test_one_that_was_added_by_hand_is_taken_over_and_one_of_another_file_is_not(
    home: Place, here: Callable[..., Answer]
):
    here("schedule", "add", "--name", "backup", "--every", "1h", "--", "true")
    write(home, TWO)
    write(home, TWO, "more.yaml")

    assert here("schedule", "apply", "-f", "s.yaml").code == EXIT_DONE
    refused = here("schedule", "apply", "-f", "more.yaml")

    assert refused.code == EXIT_CONFIG
    assert f"more.yaml:3: backup: schedule backup is declared in {home.base}/s.yaml" in refused.err
    (home.base / "s.yaml").unlink()
    assert here("schedule", "apply", "-f", "more.yaml").code == EXIT_DONE


def test_what_is_paused_stays_so_and_how_far_it_has_come_is_kept(
    home: Place, here: Callable[..., Answer]
):
    write(home, TWO)
    here("schedule", "apply", "-f", "s.yaml")
    here("schedule", "pause", "look")
    write(home, TWO.replace("2h", "3h"))

    here("schedule", "apply", "-f", "s.yaml")

    shown = here("schedule", "show", "look", "--json").json["schedule"]
    assert (shown["state"], shown["every_sec"], shown["revision"]) == ("paused", 10_800, 1)


def test_files_and_folders_are_meant_from_where_the_file_is(
    home: Place, here: Callable[..., Answer]
):
    write(home, "what to do", "jobs/prompts/a.md")
    write(
        home,
        "schedules: [{name: a, every: 1h, agent: coder, prompt_file: prompts/a.md}]",
        "jobs/s.yaml",
    )

    assert here("schedule", "apply", "-f", "jobs/s.yaml").code == EXIT_DONE
    write(home, "something else", "jobs/prompts/a.md")
    changed = here("schedule", "apply", "-f", "jobs/s.yaml", "--json").json["changed"]

    assert changed == [
        {
            "schedule_id": "a",
            "changed": [{"field": "prompt", "before": "what to do", "after": "something else"}],
        }
    ]
    here("schedule", "run", "a")
    shown = here("show", "1", "--json").json
    assert (shown["prompt"], shown["cwd"]) == ("something else", str(home.base / "jobs"))


FAULTS = {
    "unknown key": ("a: {every: 1h, command: [x], everyy: 1}", "s.yaml:2: a.everyy: unknown key"),
    "two ways": ('a: {every: 1h, cron: "@daily", command: [x]}', "s.yaml:2: a: say when"),
    "no way": ("a: {command: [x]}", "s.yaml:2: a: say when"),
    "bad cron": ('a: {cron: "61 * * * *", command: [x]}', "s.yaml:2: a.cron: cron expression"),
    "never": ('a: {cron: "0 0 31 2 *", command: [x]}', "s.yaml:2: a.cron: cron expression"),
    "bad zone": ("a: {every: 1h, tz: Mars/X, command: [x]}", "s.yaml:2: a.tz: unknown time zone"),
    "wrong type": ("a: {every: [1], command: [x]}", "s.yaml:2: a.every: a list is not a duration"),
    "true": ("a: {every: 1h, command: [x], priority: yes}", "s.yaml:2: a.priority: 'yes' is not"),
    "bool": ("a: {every: 1h, command: [x], max_turns: true}", "s.yaml:2: a.max_turns: true is not"),
    "too many turns": ("a: {every: 1h, command: [x], max_turns: 10001}", "a.max_turns: 10001 is"),
    "no turns": ("a: {every: 1h, command: [x], max_turns: 0}", "s.yaml:2: a.max_turns: 0 is not"),
    "from now": ("a: {at: 2h, command: [x]}", "s.yaml:2: a.at: '2h' is not a time"),
    "over": ("a: {at: 2020-01-01T00:00, command: [x]}", "s.yaml:2: a: schedule a would never fire"),
    "text": ("a: {every: 1h, command: rm -rf}", "s.yaml:2: a.command: 'rm -rf' is not a list"),
    "number": ("a: {every: 1h, command: [x, 3]}", "s.yaml:2: a.command: a list has 3 as item 2"),
    "nobody": ("a: {every: 1h, agent: nobody, prompt: x}", "s.yaml:2: a.agent: agent 'nobody'"),
    "nothing": ("a: {every: 1h}", "s.yaml:2: a: there is nothing to run"),
    "name": ('"a b": {every: 1h, command: [x]}', "s.yaml:2: schedule 'a b' is no name"),
    "path": ("../a: {every: 1h, command: [x]}", "s.yaml:2: schedule '../a' is no name"),
    "no mapping": ("a: [1]", "s.yaml:2: schedule a is no mapping"),
    "labels": ("a: {every: 1h, command: [x], labels: [b]}", "s.yaml:2: a.labels: a list is not"),
    "env": ("a: {every: 1h, command: [x], env: {A: [b]}}", "s.yaml:2: a.env: a mapping says"),
    "hours": ('a: {every: 1h, command: [x], active_hours: "9-5"}', "s.yaml:2: a.active_hours: "),
    "jitter": ("a: {every: 1h, command: [x], jitter: 2h}", "s.yaml:2: a.jitter: a jitter of 7200"),
    "no file": (
        "a: {every: 1h, agent: coder, prompt_file: no.md}",
        "a.prompt_file: prompt_file: c",
    ),
    "both": ("a: {every: 1h, agent: coder, prompt: x, command: [y]}", "s.yaml:2: a: "),
    "duration": ("a: {every: 1h, command: [x], max_run_duration: 0}", "a.max_run_duration: "),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_each_fault_is_told_with_file_line_and_key_and_changes_nothing(
    home: Place, here: Callable[..., Answer], fault: str
):
    text, told = FAULTS[fault]
    write(home, f"schedules:\n  {text}\n  fine: {{every: 1h, command: [x]}}\n")

    applied = here("schedule", "apply", "-f", "s.yaml")
    checked = here("schedule", "check", "s.yaml")

    for answer in (applied, checked):
        assert answer.code == EXIT_CONFIG, answer
        assert told in answer.err.replace("\n    ", " "), answer.err
        assert "hint: " in answer.err
    assert names(here) == []


DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "s.yaml: declares nothing"),
    "comment": (b"# nothing\n", "s.yaml: declares nothing"),
    "text": (b"hello", "s.yaml:1: holds no mapping"),
    "not UTF-8": (b"schedules:\n  \xff: 1\n", "s.yaml:2: not UTF-8 text"),
    "binary": (bytes(range(32)) * 9, "s.yaml:1: not YAML"),
    "not YAML": (b"schedules: {\n", "s.yaml:1: not YAML"),
    "an alias": (b"schedules:\n  a: &x {every: 1h}\n  b: *x\n", "s.yaml:2: holds an anchor"),
    "a tag": (b"schedules: !!python/object {}\n", "s.yaml:1: holds the tag"),
    "twice": (
        b"schedules:\n  a: {every: 1h}\n  a: {every: 2h}\n",
        "s.yaml:3: key 'a' is there twice",
    ),
    "listed twice": (
        b"schedules:\n- {name: a, every: 1h, command: [x]}\n- {name: a, every: 1h, command: [x]}\n",
        "s.yaml:3: schedule 'a' is there twice (first in s.yaml:2: a)",
    ),
    "nameless": (b"schedules:\n- {every: 1h}\n", "s.yaml:2: schedule 1 has no name"),
    "no mapping": (b"schedules:\n- 1\n", "s.yaml:2: schedule 1 is no mapping"),
    "a number": (b"schedules: 1\n", "s.yaml:1: schedules is no mapping"),
    "nothing below": (b"schedules:\n", "s.yaml:1: schedules is empty"),
    "another key": (b"schedule: {}\n", "s.yaml:1: unknown key 'schedule'"),
    "another version": (b"version: 2\nschedules: {}\n", "s.yaml:1: a version this program does"),
    "huge": (b"#" * (2**20 + 1), "s.yaml: the file of schedules is larger than 1 MiB"),
}


@pytest.mark.parametrize("kind", list(DOCUMENTS))
def test_what_is_no_file_of_schedules_is_refused(
    home: Place, here: Callable[..., Answer], kind: str
):
    document, told = DOCUMENTS[kind]
    write(home, document)

    answer = here("schedule", "apply", "-f", "s.yaml")

    assert answer.code == EXIT_CONFIG, answer
    assert told in answer.err


@pytest.mark.parametrize("name", ["no.yaml", "", "a\nb"])
def test_a_file_that_is_missing_is_a_fault_of_the_command_line(
    here: Callable[..., Answer], name: str
):
    answer = here("schedule", "apply", "-f", name)

    assert (answer.code, "there is no file" in answer.err) == (EXIT_USAGE, True), answer


def test_a_file_whose_name_is_no_text_is_refused(home: Place, here: Callable[..., Answer]):
    write(home, TWO, "s\udcff.yaml")

    answer = here("schedule", "apply", "-f", "s\udcff.yaml")

    assert (answer.code, "not valid UTF-8" in answer.err) == (EXIT_USAGE, True), answer


def test_a_folder_is_no_file(home: Place, here: Callable[..., Answer]):
    (home.base / "s.yaml").mkdir()

    assert here("schedule", "apply", "-f", "s.yaml").code == EXIT_CONFIG


def test_all_faults_are_listed_by_check_in_their_order(home: Place, here: Callable[..., Answer]):
    write(home, "schedules:\n  a: {every: x}\n  b: {every: 1h, jitter: 2h, command: [y]}\n  c: 3\n")

    answer = here("schedule", "check", "-f", "s.yaml", "--json")

    assert (answer.code, answer.json["is_valid"]) == (EXIT_CONFIG, False)
    places = [one["where"] for one in answer.json["problems"]]
    assert places == ["s.yaml:2: a.every", "s.yaml:3: b.jitter", "s.yaml:4"]
    refused = here("schedule", "apply", "-f", "s.yaml")
    assert "one of 3 problems" in refused.err


def test_a_file_is_explained_and_nothing_is_changed(home: Place, here: Callable[..., Answer]):
    write(home, TWO)
    here("schedule", "add", "--name", "other", "--every", "1h", "--", "true")
    before = home.digest()

    answer = here("schedule", "check", "s.yaml")

    lines = answer.out.splitlines()
    assert lines[0] == "backup: at 02:30 every day, Europe/Warsaw"
    assert [line[:2] for line in lines[1:4]] == ["  "] * 3
    assert lines[4].startswith("look: every 2 hours")
    assert lines[-1] == "s.yaml: would be 2 added; 0 unchanged"
    assert home.digest() == before


def test_standard_input_is_a_file_too_but_cannot_be_pruned(home: Place):
    applied = home.run("schedule", "apply", "-f", "-", stdin=TWO.encode())
    pruned = home.run("schedule", "apply", "-f", "-", "--prune", stdin=TWO.encode())
    nothing = home.run("schedule", "apply", "-f", "-", stdin=b"")

    assert (applied.code, pruned.code, nothing.code) == (EXIT_DONE, EXIT_USAGE, EXIT_CONFIG)
    assert "standard input: declares nothing" in nothing.err


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["change", "apply"])
def test_who_is_killed_while_a_file_is_applied_has_done_all_or_nothing(
    home: Place, tmp_path: Path, step: str, moment: str
):
    write(home, TWO)
    home.run("schedule", "apply", "-f", "s.yaml")
    before = content(home)
    write(
        home, TWO.replace("2h", "3h").replace("backup", "night") + "  c: {every: 1h, command: [x]}"
    )
    mark = tmp_path / "mark"

    crash = {"TINYSCHEDULER_CRASH_AT": f"schedule.{step}:{moment} {mark}"}
    home.start("schedule", "apply", "-f", "s.yaml", "--prune", **crash).communicate(timeout=LIMIT_S)

    assert mark.exists()
    is_done = (step, moment) == ("apply", "after")
    assert (content(home) == before) != is_done
    again = home.run("schedule", "apply", "-f", "s.yaml", "--prune", "--json").json
    assert (sorted(again["unchanged"]) == ["c", "look", "night"]) == is_done
    assert [
        one["schedule_id"] for one in home.run("schedule", "list", "--json").json["schedules"]
    ] == [
        "c",
        "look",
        "night",
    ]


def test_two_that_apply_at_once_leave_what_one_of_them_says(home: Place):
    write(home, TWO)
    others = TWO.replace("2h", "5h")
    write(home, others, "more/s.yaml")
    home.run("schedule", "apply", "-f", "-", stdin=TWO.encode())
    started = [
        home.start("schedule", "apply", "-f", name, "--json")
        for name in ("s.yaml", "more/s.yaml") * 4
    ]

    codes = {process.wait(timeout=LIMIT_S) for process in started}
    for process in started:
        process.communicate()

    # Whoever came second finds that the other file declares them.
    assert codes == {EXIT_DONE, EXIT_CONFIG}
    listed = home.run("schedule", "list", "--json").json["schedules"]
    assert len({one["declared_in"] for one in listed}) == 1
