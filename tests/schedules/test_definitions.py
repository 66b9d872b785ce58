"""What a schedule says of itself, and what is said of it: S-09, S-10, S-19 to S-21."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyscheduler.errors import EXIT_DONE, EXIT_USAGE

if TYPE_CHECKING:
    from tests.cli.place import Answer, Place

AGENTS = 'agents: {coder: {command: ["echo", "{prompt}"]}}\n'
UTC = ("--tz", "UTC")


@pytest.fixture
def home(home: Place) -> Place:
    """Return the place with an agent that reads prompts."""
    (home.base / "agents.yaml").write_text(AGENTS)
    return home


def add(place: Place, name: str, *more: str, turns: int | None = 2000) -> Answer:
    """Add a schedule of that agent."""
    bound = () if turns is None else ("--max-turns", str(turns))
    given = ("--name", name, "--agent", "coder", "--prompt", "look", *bound, *more)
    return place.run("schedule", "add", *given, "--json")


def of_type(answer: Answer, kind: str) -> list[dict[str, Any]]:
    return [one for one in answer.json["warnings"] if one["type"] == kind]


def turns_set_at(place: Place) -> int | None:
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        (found,) = database.execute("SELECT max_turns_set_at FROM schedules").fetchone()
    return None if found is None else int(found)


def learn_turns(place: Place, **average: int) -> None:
    """Let firings have taken so many turns on the average."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        for name, turns in average.items():
            database.execute("UPDATE schedules SET average_turns = ? WHERE id = ?", (turns, name))


@pytest.mark.parametrize(("turns", "code"), [(0, 2), (1, 0), (10_000, 0), (10_001, 2)])
def test_s09_a_firing_takes_one_to_ten_thousand_turns(home: Place, turns: int, code: int):
    assert add(home, "a", "--every", "1h", turns=turns).code == code
    assert code in (EXIT_DONE, EXIT_USAGE)


def test_s09_the_bound_is_copied_to_the_firing_and_none_is_none(home: Place):
    add(home, "a", "--every", "1h", turns=50)
    add(home, "b", "--every", "1h", turns=None)
    for name in "ab":
        home.run("schedule", "run", name, "--force")

    shown = [home.run("show", task, "--json").json["max_turns"] for task in ("1", "2")]

    assert shown == [50, None]


@pytest.mark.parametrize("way", ["edit", "apply", "unset"])
def test_s10_when_the_bound_was_changed_is_noted_by_every_way(home: Place, way: str):
    text = "schedules: {a: {every: 1h, agent: coder, prompt: look, max_turns: %d}}"
    (home.base / "s.yaml").write_text(text % 50)
    home.run("schedule", "apply", "-f", "s.yaml")
    home.run("schedule", "edit", "a", "--jitter", "1m")
    assert turns_set_at(home) is None

    (home.base / "s.yaml").write_text(text % 60)
    ways = {
        "edit": ("edit", "a", "--max-turns", "60"),
        "apply": ("apply", "-f", "s.yaml"),
        "unset": ("edit", "a", "--unset", "max-turns"),
    }
    assert home.run("schedule", *ways[way]).code == EXIT_DONE

    assert turns_set_at(home) is not None


def test_s19_three_thousand_turns_in_five_minutes_are_told_and_saved_all_the_same(home: Place):
    add(home, "a", "--cron", "30 2,14 * * *", *UTC)
    learn_turns(home, a=1000)

    few = add(home, "b", "--cron", "32 2 * * *", *UTC, turns=1999)
    many = add(home, "c", "--cron", "34 14 * * *", *UTC, turns=2000)

    assert of_type(few, "cron_collision") == []
    (warning,) = of_type(many, "cron_collision")
    assert warning["overlappingSchedules"] == ["a"]
    assert warning["overlappingMinutes"] == [14 * 60 + 30]
    assert warning["estimatedConcurrentSteps"] == 3000
    assert warning["nextCollisionAt"].endswith("T14:34:00.000Z")
    assert many.code == EXIT_DONE
    assert len(home.run("schedule", "list", "--json").json["schedules"]) == 3


def test_s19_the_whole_day_is_looked_at_and_not_the_minute_of_the_hour_alone(home: Place):
    add(home, "a", "--cron", "30 2 * * *", *UTC)

    assert of_type(add(home, "b", "--cron", "30 3 * * *", *UTC), "cron_collision") == []


def test_s19_one_that_is_edited_does_not_collide_with_itself(home: Place):
    add(home, "a", "--cron", "30 2 * * *", *UTC)

    edited = home.run("schedule", "edit", "a", "--cron", "31 2 * * *", "--json")

    assert of_type(edited, "cron_collision") == []


def test_s19_only_active_ones_of_the_same_project_count(home: Place):
    add(home, "a", "--cron", "30 2 * * *", *UTC)
    add(home, "p", "--cron", "30 2 * * *", *UTC, "--project", "p")
    home.run("schedule", "pause", "a")

    assert of_type(add(home, "b", "--cron", "30 2 * * *", *UTC), "cron_collision") == []
    (warning,) = of_type(
        add(home, "q", "--cron", "30 2 * * *", *UTC, "--project", "p"), "cron_collision"
    )
    assert warning["overlappingSchedules"] == ["p"]


def test_s19_a_candidate_without_history_or_bound_weighs_nothing(home: Place):
    add(home, "a", "--cron", "30 2 * * *", *UTC, turns=9000)

    added = add(home, "b", "--cron", "30 2 * * *", *UTC, turns=None)

    assert of_type(added, "cron_collision") == []


def test_s20_a_change_answers_with_the_schedule_and_its_warnings(home: Place):
    answer = add(home, "a", "--cron", "30 2 * * *", *UTC)

    assert set(answer.json) == {"schema_version", "schedule", "warnings"}
    assert answer.json["warnings"] == []


def test_s20_people_hear_of_warnings_on_stderr(home: Place):
    add(home, "a", "--cron", "30 2 * * *", *UTC)

    told = home.run(
        "schedule",
        "add",
        "--name",
        "b",
        "--cron",
        "30 2 * * *",
        *UTC,
        "--max-turns",
        "2000",
        "--",
        "true",
    )

    assert told.code == EXIT_DONE
    assert told.err.startswith("warning: b comes together with a")
    assert "warning" not in told.out


def test_s21_what_others_of_the_same_agent_take_is_told_by_their_median(home: Place):
    for name, turns in (("x", 100), ("y", 300), ("z", 200)):
        add(home, name, "--every", "1h", turns=turns)
    learn_turns(home, x=10, y=90, z=50)

    (hint,) = of_type(add(home, "a", "--every", "1h", turns=None), "similar_turns")

    assert (hint["schedules"], hint["medianAverageTurns"], hint["medianMaxTurns"]) == (3, 50, 200)


# -- a file ---------------------------------------------------------------------------

WORDS = st.text(alphabet="abz -:#'\"{}[]\n\\é✓", min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)
TIMINGS = st.sampled_from(
    [
        {"cron": "30 2 * * 1-5", "tz": "Europe/Warsaw", "active_hours": "02:00-03:00"},
        {"cron": "@hourly", "jitter": "5m"},
        {"every": "90m"},
        {"every": 3600, "jitter": 1.5},
        {"at": "2099-12-24T18:00", "tz": "UTC"},
        {"cron": "*/7 * * * *", "expires": "2099-01-01"},
    ]
)
BESIDE = st.fixed_dictionaries(
    {},
    optional={
        "overlap": st.sampled_from(["skip", "queue_one", "queue_all", "replace", "allow"]),
        "catch_up": st.sampled_from(["none", "latest", "all"]),
        "catch_up_window": st.sampled_from(["1h", 86_400, "2d"]),
        "max_firings": st.integers(1, 99),
        "max_run_duration": st.sampled_from(["90s", 300, "1h30m"]),
        "title": WORDS,
        "priority": st.integers(-5, 5),
        "class": st.sampled_from(["interactive", "batch"]),
        "gpus": st.integers(0, 2),
        "vram": st.sampled_from(["14G", "512M"]),
        "memory": st.sampled_from(["1.5G", "100M"]),
        "model": st.just("org/name:8b"),
        "seed": st.integers(-9, 9),
        "tenant": st.just("t"),
        "project": st.just("p"),
        "max_turns": st.integers(1, 10_000),
        "max_attempts": st.integers(1, 3),
        "labels": st.dictionaries(st.sampled_from("abc"), WORDS, max_size=2),
        "env": st.dictionaries(st.sampled_from("ABC"), WORDS, max_size=2),
    },
).filter(lambda said: said.get("catch_up") != "none" or "catch_up_window" not in said)
RUNS = st.one_of(
    WORDS.map(lambda text: {"agent": "coder", "prompt": text}),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda argv: {"command": argv}),
)


@given(st.lists(st.tuples(TIMINGS, BESIDE, RUNS), min_size=1, max_size=3))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_a_file_says_is_applied_once_and_says_the_same_again(
    home: Place, parts: list[tuple[dict[str, Any], ...]]
):
    schedules = {
        f"s{number}": {key: value for part in one for key, value in part.items()}
        for number, one in enumerate(parts)
    }
    # What is JSON is YAML as well.
    (home.base / "s.yaml").write_text(json.dumps({"schedules": schedules}))

    first = home.run("schedule", "apply", "-f", "s.yaml", "--prune", "--json")
    again = home.run("schedule", "apply", "-f", "s.yaml", "--prune", "--json")
    checked = home.run("schedule", "check", "s.yaml", "--json")

    assert (first.code, again.code, checked.code) == (EXIT_DONE,) * 3, first.err
    assert again.json["unchanged"] == list(schedules)
    assert again.json["added"] == again.json["changed"] == again.json["removed"] == []
