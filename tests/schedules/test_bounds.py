"""How many firings run at once, and who is asked: S-01 to S-03, S-07, S-08, S-16."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.scheduled import add_hourly, due_now, events, rows_of, states, until

from tinyscheduler.errors import EXIT_BUSY, EXIT_DONE, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from tests.cli.place import Answer, Place

WRONG = ["abc", "0", "-1", "1.5", "", "99999999999999999999"]
NAMES = tuple(f"s{number}" for number in range(5))


def fire_all(place: Place, **environment: Any) -> Answer:
    """Fire five at once in one tick."""
    add_hourly(place, *NAMES, command=("sleep", "60"))
    due_now(place, *NAMES)
    return place.run("run", "--json", **environment)


def test_s01_two_firings_run_at_once_unless_it_is_set(home: Place):
    report = fire_all(home).json

    assert (report["stats"]["firings"], report["stats"]["tasks_spawned"]) == (5, 2)


@pytest.mark.parametrize(
    "name", ["TINYSCHEDULER_SCHEDULE_MAX_CONCURRENT", "SCHEDULE_MAX_CONCURRENT"]
)
def test_s01_it_is_set_by_its_name_with_the_prefix_or_without(home: Place, name: str):
    assert fire_all(home, **{name: "3"}).json["stats"]["tasks_spawned"] == 3


def test_s01_the_name_with_the_prefix_wins(home: Place):
    both = {"TINYSCHEDULER_SCHEDULE_MAX_CONCURRENT": "4", "SCHEDULE_MAX_CONCURRENT": "1"}

    assert fire_all(home, **both).json["stats"]["tasks_spawned"] == 4


def test_s01_the_environment_comes_before_the_file_and_the_file_before_the_default(home: Place):
    (home.base / ".env").write_text("SCHEDULE_MAX_CONCURRENT=3\n")
    assert fire_all(home, SCHEDULE_MAX_CONCURRENT="1").json["stats"]["tasks_spawned"] == 1

    assert home.run("run", "--json").json["stats"]["tasks_spawned"] == 2


def test_s01_tasks_from_add_are_not_counted(home: Place):
    for _ in range(3):
        home.add("--", "sleep", "60")

    assert fire_all(home).json["stats"]["tasks_spawned"] == 3 + 2


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("prefix", ["", "TINYSCHEDULER_"])
def test_s02_what_is_no_positive_integer_warns_and_two_run(home: Place, prefix: str, value: str):
    name = f"{prefix}SCHEDULE_MAX_CONCURRENT"

    answer = fire_all(home, **{name: value})

    (warning,) = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {name}: {value!r} from the environment is not ")
    assert warning.endswith("; using the default 2")
    assert answer.json["stats"]["tasks_spawned"] == 2


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(
    ("setting", "default"),
    [("SCHEDULE_MAX_RUN_DURATION_SEC", 1200), ("SCHEDULE_CHAT_PRESSURE_DELAY_SEC", 30)],
)
@pytest.mark.parametrize("prefix", ["", "TINYSCHEDULER_"])
def test_s02_the_other_two_warn_as_well_and_have_their_defaults(
    home: Place, prefix: str, setting: str, default: int, value: str
):
    environment: dict[str, Any] = {f"{prefix}{setting}": value}

    answer = home.run("config", "--show", "--json", **environment)

    (warning,) = answer.json["warnings"]
    assert warning.startswith(f"{prefix}{setting}: {value!r} from the environment is not ")
    assert warning.endswith(f"; using the default {default}")
    found = {one["name"]: one["value"] for one in answer.json["settings"]}
    assert found[setting] == default


def test_s02_a_firing_has_the_default_lease_where_the_setting_is_wrong(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))

    home.run("schedule", "run", "a", SCHEDULE_MAX_RUN_DURATION_SEC="abc")

    assert home.run("show", "1", "--json").json["max_runtime_sec"] == 1200


def test_s07_five_are_due_two_run_three_queue_and_status_tells_their_places(home: Place):
    assert home.run("status", "--json").json["load_state"] == "quiet"
    report = fire_all(home).json

    told = home.run("status", "--json").json

    waits = [one for one in report["decisions"] if one["action"] == "wait"]
    assert [one["reason"] for one in waits] == ["schedule_cap"] * 3
    # Six slots of the host are free: it is the bound on firings that is reached.
    assert told["load_state"] == "saturated"
    assert [one["schedule_id"] for one in told["schedules"]["running"]] == ["s0", "s1"]
    assert [(one["task_id"], one["position"]) for one in told["schedules"]["queued"]] == [
        ("3", 1),
        ("4", 2),
        ("5", 3),
    ]
    assert [(one["task_id"], one["position"]) for one in told["waiting"]] == [
        ("3", 1),
        ("4", 2),
        ("5", 3),
    ]
    words = home.run("status").out
    assert words.startswith("saturated, 2 of 8 slots in use: ")
    assert "s4        5     waits at place 3\n" in words
    assert "4 more" not in words


def test_s07_one_that_runs_alone_is_at_work_and_saturates_nothing(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    home.run("schedule", "run", "a")
    home.run("run")

    assert home.run("status", "--json").json["load_state"] == "working"


def test_what_is_held_or_may_not_start_yet_has_no_place_in_line(home: Place):
    home.settings["AGENT_LIMITS"] = "shell:1"
    home.add("--", "sleep", "60")
    home.run("run")
    held, first = home.add("--hold", "--", "true"), home.add("--", "true")
    later, second = home.add("--not-before", "1h", "--", "true"), home.add("--", "true")

    waiting = home.run("status", "--json").json["waiting"]

    places = {one["task_id"]: one["position"] for one in waiting}
    assert places == {held: None, later: None, first: 1, second: 2}


# -- by hand ----------------------------------------------------------------------------


def content(place: Place) -> tuple[list[str], list[str]]:
    """Return all that is in the database, and the names of all files beside it."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        rows = list(database.iterdump())
    return rows, sorted(str(path) for path in place.base.rglob("*"))


def filled(place: Place, *, lasting: str = "60") -> None:
    """Let as many firings run as may at once, and add a schedule that would be one more."""
    add_hourly(place, "a", "b", "c", command=("sleep", lasting))
    for name in "ab":
        assert place.run("schedule", "run", name).code == EXIT_DONE
        place.run("run")


def test_s16_where_no_slot_is_free_it_says_when_one_is_and_leaves_nothing_behind(home: Place):
    filled(home)
    before = content(home)

    full = home.run("schedule", "run", "c", "--json")

    assert full.code == EXIT_BUSY
    told = full.json
    assert set(told) == {"schema_version", "error", "message", "slotEtaSec"}
    assert told["error"] == "capacity_full"
    assert told["message"] in full.err
    assert 1100 < told["slotEtaSec"] <= 1200  # nothing is known but how long they may take
    assert content(home) == before


def test_s16_the_time_that_earlier_firings_took_is_what_it_reckons_with(home: Place):
    filled(home)
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.executemany(
            "INSERT INTO schedule_firing_metrics (schedule_id, task_id, fired_at, completed_at,"
            " duration_ms) VALUES (?, ?, 1, 1, ?)",
            [("a", 1001, 500_000), ("a", 1002, 700_000), ("b", 1003, 900_000)],
        )

    eta = home.run("schedule", "run", "c", "--json").json["slotEtaSec"]

    assert 500 < eta <= 600


def test_s16_it_reckons_with_those_that_wait_before_it(home: Place):
    filled(home)
    add = ("schedule", "add", "--every", "1h", "--max-run-duration")
    home.run(*add, "2h", "--name", "long", "--", "true")
    home.run("schedule", "run", "long", "--force")
    home.settings["SCHEDULE_MAX_CONCURRENT"] = "1"

    eta = home.run("schedule", "run", "c", "--json").json["slotEtaSec"]

    # Two run, of which both must end, and then the third.
    assert 7200 + 1000 < eta <= 7200 + 1200


def test_s16_forced_it_goes_beyond_this_bound_and_that_is_written_down_once(home: Place):
    filled(home)

    forced = home.run("schedule", "run", "c", "--force", "--json").json

    assert forced == {"schema_version": 1, "task_id": "3", "forced": True}
    assert home.run("run", "--json").json["stats"]["tasks_spawned"] == 1
    audit = rows_of(home, "SELECT activity, subject, task_id FROM audit")
    assert audit == [("manual_force_bypass", "c", 3)]
    told = [one for one in map(json.loads, events(home)) if one["event"] == "audit.force"]
    assert [(one["schedule"], one["task_id"], one["reason"]) for one in told] == [
        ("c", "3", "by_hand")
    ]


def test_s16_what_was_not_forced_is_written_down_nowhere(home: Place):
    add_hourly(home, "a")
    home.run("schedule", "run", "a")

    assert rows_of(home, "SELECT * FROM audit") == []
    names = [json.loads(line)["event"] for line in events(home)]
    assert (names.count("schedule.fired"), names.count("audit.force")) == (1, 0)


@pytest.mark.parametrize(
    ("settings", "add", "reason"),
    [
        ({"MAX_CONCURRENT_SLOTS": "2"}, (), "host_slots"),
        ({"AGENT_LIMITS": "shell:2"}, (), "agent_limit"),
        ({}, ("--memory", "900T"), "memory_insufficient"),
        ({}, ("--gpus", "1"), "gpu_unavailable"),
        ({}, ("--vram", "900T"), "gpu_unavailable"),
    ],
)
def test_s16_forced_it_goes_beyond_no_other_bound(
    home: Place, settings: dict[str, str], add: tuple[str, ...], reason: str
):
    home.settings |= settings
    filled(home)
    home.run("schedule", "add", "--name", "d", "--every", "1h", *add, "--", "true")
    home.run("schedule", "run", "d", "--force")

    report = home.run("run", "--json").json

    assert report["stats"]["tasks_spawned"] == 0
    assert [one["reason"] for one in report["decisions"]] == [reason]


def test_s16_forced_it_runs_beside_no_sibling(home: Place):
    filled(home)
    home.run("schedule", "run", "a", "--force")

    report = home.run("run", "--json").json

    assert [one["reason"] for one in report["decisions"]] == ["schedule_cap"]
    assert "an earlier firing of a still runs" in report["decisions"][0]["words"]


def test_s16_an_unknown_schedule_is_not_found_and_nothing_is_forced(home: Place):
    add_hourly(home, "a")
    before = content(home)

    for more in ((), ("--force",), ("--json",)):
        answer = home.run("schedule", "run", "nobody", *more)
        assert (answer.code, answer.out) == (EXIT_NOT_FOUND, "")
        assert "there is no schedule 'nobody'" in answer.err

    assert content(home) == before


def test_s16_one_that_is_paused_or_over_can_be_run_by_hand_all_the_same(home: Place):
    home.run("schedule", "add", "--name", "a", "--at", "1h", "--", "true")
    home.run("schedule", "pause", "a")

    assert home.run("schedule", "run", "a").code == EXIT_DONE
    assert home.run("schedule", "show", "a", "--json").json["schedule"]["state"] == "paused"


def test_s07_the_queue_drains_the_oldest_first_and_soon_after_each_end(home: Place):
    # Each says when it began and ended, apart from anything that the program says, and ends
    # when it is let go.
    said = "date +%s.%N > began-$TINYSCHEDULER_TASK_ID"
    waits = "until [ -e go-$TINYSCHEDULER_TASK_ID ]; do sleep 0.02; done"
    ended = "date +%s.%N > ended-$TINYSCHEDULER_TASK_ID"
    add_hourly(home, *NAMES, command=("sh", "-c", f"{said}; {waits}; {ended}"))
    due_now(home, *NAMES)

    def began() -> list[str]:
        found = home.base.glob("began-*")
        return sorted(path.name.removeprefix("began-") for path in found if path.read_text())

    def moment(name: str) -> float:
        return float((home.base / name).read_text())

    home.run("run")
    until(home, lambda: began() == ["1", "2"])
    assert "2 of 2 firings run" in home.run("why", "3").out
    took = []
    for number, next_one in ((2, 3), (1, 4), (3, 5)):
        before = began()
        assert len(before) < next_one  # nobody began that nobody has ended for
        (home.base / f"go-{number}").touch()
        until(home, lambda task=str(next_one): task in began())  # type: ignore[misc]  # bound for this round
        took.append(moment(f"began-{next_one}") - moment(f"ended-{number}"))
        assert began() == sorted([*before, str(next_one)])
    for number in (4, 5):
        (home.base / f"go-{number}").touch()
    until(home, lambda: set(states(home).values()) == {"done"})

    # On the same machine, as busy as it is: how long does a tick take that does nothing?
    ticks = []
    for _ in range(3):
        started = time.monotonic()
        home.run("run")
        ticks.append(time.monotonic() - started)
    assert began() == list("12345")
    assert len(states(home)) == 5  # none fired twice
    assert min(took) > 0  # never three at once
    assert all(wait < max(1.0, 5 * max(ticks)) for wait in took), (took, ticks)
