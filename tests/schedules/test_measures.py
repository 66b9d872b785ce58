"""What is measured of each firing, for how long, and what follows: S-17, S-18, S-22, S-25."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import sys
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.scheduled import add_hourly, due_now, metrics_of, rows_of, states, until
from tests.contract.builders import START, SteppedClock, open_database

from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.core.firing_times import jittered
from tinyscheduler.core.firings import plan_firings
from tinyscheduler.errors import EXIT_BUSY, EXIT_DONE, EXIT_NOT_FOUND, EXIT_USAGE
from tinyscheduler.model.schedules import LiveFirings, Schedule, Timing
from tinyscheduler.model.tasks import TaskSpec

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.place import Place

DAY_US = 86_400 * 10**6


def ended(place: Place, task_id: str) -> bool:
    """Whether a task has ended and nothing of it is left on disk."""
    return states(place)[task_id] in {"done", "failed", "cancelled"} and not place.leftovers()


def fire(place: Place, name: str = "a") -> None:
    """Fire a schedule at its time, and start what it fired."""
    due_now(place, name)
    assert place.run("run").code == EXIT_DONE


def test_s17_a_firing_that_succeeded_has_every_column(home: Place):
    add = ("schedule", "add", "--name", "a", "--every", "1h", "--max-turns", "40")
    home.run(*add, "--", "sh", "-c", "sleep 0.3")

    fire(home)
    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]
    assert (row["schedule_id"], row["task_id"], row["failure_reason"]) == ("a", "1", None)
    assert row["fired_at"] <= row["slot_claimed_at"] <= row["completed_at"]
    assert 0 <= row["slot_wait_ms"] < 30_000
    assert 300 <= row["duration_ms"] < 30_000
    # It was due an hour after its beginning, which is hardly a second ago, less 3601 s.
    assert 0 <= row["tick_lag_ms"] < 60_000
    assert row["peak_rss_mb"] > 0
    assert (row["pressure"], row["concurrent_schedules"]) == (0, 1)
    assert (row["turn_count"], row["max_turns_at_firing"]) == (None, 40)  # a shell has no turns


AGENT = """
import json
for number in range(1, 4):
    message = {"id": f"m{number}", "role": "assistant", "content": []}
    print(json.dumps({"type": "assistant", "message": message, "parent_tool_use_id": None}))
print(json.dumps({"type": "result", "subtype": "success", "is_error": False, "num_turns": 3}))
"""


def test_s17_the_turns_of_an_agent_are_counted_and_who_asked_for_quiet_then(home: Place):
    (home.base / "agent.py").write_text(AGENT)
    command = json.dumps([sys.executable, "-S", str(home.base / "agent.py")])
    (home.base / "agents.yaml").write_text(
        f"agents: {{coder: {{limit: 1, profile: claude, command: {command}}}}}\n"
    )
    add = ("schedule", "add", "--name", "a", "--every", "1h", "--agent", "coder")
    home.run(*add, "--prompt", "go on", "--max-turns", "9")
    for name in ("me", "you"):
        assert home.run("pressure", "on", "--id", name, "--ttl", "1h").code == EXIT_DONE
    home.run("schedule", "run", "a", "--force")
    home.run("run")
    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]

    assert (row["turn_count"], row["max_turns_at_firing"]) == (3, 9)
    assert (row["pressure"], row["failure_reason"]) == (2, None)
    (told,) = home.run("schedule", "metrics", "--json").json["schedules"]
    assert told["turns"] == {"median": 3, "p95": 3}


def test_s17_the_delay_that_a_schedule_asks_for_is_no_lag(tmp_path: Path):
    with ExitStack() as stack:
        clock = SteppedClock()
        store = SqliteSchedules(open_database(tmp_path, stack), clock)
        slot = START + timedelta(hours=1)
        due_at = jittered("a", slot, 1800)
        assert due_at > slot + timedelta(minutes=1)
        one = Schedule(
            schedule_id="a",
            name="a",
            timing=Timing(every_s=3600, jitter_s=1800),
            spec=TaskSpec(agent="shell", command=("true",)),
            created_at=START,
            anchor=START,
            next_fire_at=slot,
        )
        store.add(one)
        clock.advance((due_at - START).total_seconds() + 10)
        plan = plan_firings(one, LiveFirings(), clock.now().wall)
        assert plan is not None
        store.fire(plan)

        (row,) = store.metrics(None, limit=10)

    assert row.lag_ms == 10_000


def test_s17_one_that_waits_for_a_slot_is_told_before_it_has_one(home: Place):
    add_hourly(home, "a", "b", "c", command=("sleep", "60"))
    due_now(home, "a", "b", "c")
    home.run("run")

    rows = metrics_of(home)

    assert sorted(row["concurrent_schedules"] or 0 for row in rows.values()) == [0, 1, 2]
    (waiting,) = [row for row in rows.values() if row["slot_claimed_at"] is None]
    assert waiting["task_id"] == "3"
    assert (waiting["slot_wait_ms"], waiting["completed_at"]) == (None, None)
    home.run("cancel", "1")
    until(home, lambda: metrics_of(home)["3"]["slot_claimed_at"] is not None)
    assert metrics_of(home)["3"]["slot_wait_ms"] > 0


def test_s17_one_by_hand_has_no_lag_and_one_that_was_forced_counts_those_beside_it(home: Place):
    add_hourly(home, "a", "b", "c", command=("sleep", "60"))
    for name, force in (("a", ()), ("b", ()), ("c", ("--force",))):
        assert home.run("schedule", "run", name, *force).code == EXIT_DONE
        home.run("run")

    rows = metrics_of(home)

    assert [rows[one]["concurrent_schedules"] for one in "123"] == [1, 2, 3]
    assert [rows[one]["tick_lag_ms"] for one in "123"] == [None] * 3


def test_s17_one_that_failed_says_why(home: Place):
    add_hourly(home, "a", command=("false",))
    fire(home)
    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]
    assert row["failure_reason"] == "command_failed"
    assert row["duration_ms"] is not None


def test_s17_one_that_ran_too_long_says_so_and_how_long(home: Place):
    add = ("schedule", "add", "--name", "a", "--every", "1h", "--max-run-duration", "1s")
    home.run(*add, "--", "sleep", "60")
    fire(home)
    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]
    assert row["failure_reason"] == "lease_expired"
    assert 1000 <= row["duration_ms"] < 30_000


def test_s17_one_whose_wrapper_was_killed_is_measured_as_far_as_anybody_knows(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    fire(home)
    lease = home.state / "running" / "task_1.json"
    until(home, lambda: json.loads(lease.read_text())["state"] == "running")
    os.kill(json.loads(lease.read_text())["process"]["pid"], signal.SIGKILL)

    until(home, lambda: home.run("run").code == EXIT_DONE and ended(home, "1"))

    row = metrics_of(home)["1"]
    assert row["failure_reason"] in {"dead_pid", "stale_heartbeat"}
    assert row["completed_at"] >= row["slot_claimed_at"]
    assert row["duration_ms"] >= 0
    assert row["peak_rss_mb"] is None  # who measured it is gone


def test_s17_one_that_could_not_be_started_says_so(home: Place):
    home.settings["MAX_LAUNCHES"] = "1"
    add = ("schedule", "add", "--name", "a", "--every", "1h", "--cwd", str(home.base / "gone"))
    (home.base / "gone").mkdir()
    home.run(*add, "--", "true")
    (home.base / "gone").rmdir()
    due_now(home, "a")
    home.run("run")

    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]
    assert row["failure_reason"] == "spawn_failed"
    assert row["completed_at"] is not None


@pytest.mark.parametrize("is_running", [True, False])
def test_s17_one_that_was_cancelled_says_so(home: Place, is_running: bool):  # noqa: FBT001 - a case
    add_hourly(home, "a", command=("sleep", "60"))
    home.run("schedule", "run", "a")
    if is_running:
        home.run("run")
    home.run("cancel", "1")
    until(home, lambda: ended(home, "1"))

    row = metrics_of(home)["1"]
    assert row["failure_reason"] == "cancelled"
    assert row["completed_at"] is not None
    assert (row["duration_ms"] is not None) is is_running


def test_s17_one_that_was_replaced_while_it_waited_was_cancelled(home: Place):
    add = ("schedule", "add", "--name", "a", "--every", "1h", "--overlap", "replace")
    home.run(*add, "--", "true")
    home.run("pause", "all")
    for _ in range(2):
        due_now(home, "a")
        home.run("run")

    rows = metrics_of(home)

    assert [rows[one]["failure_reason"] for one in "12"] == ["cancelled", None]


def test_s17_one_that_is_retried_is_at_work_again_and_keeps_its_wait(home: Place):
    add_hourly(home, "a", command=("sh", "-c", "test -e done || { touch done; false; }"))
    fire(home)
    until(home, lambda: ended(home, "1"))
    first = metrics_of(home)["1"]
    home.run("retry", "1")
    home.run("run")
    until(home, lambda: ended(home, "1"))

    again = metrics_of(home)["1"]

    assert (first["failure_reason"], again["failure_reason"]) == ("command_failed", None)
    assert again["slot_wait_ms"] == first["slot_wait_ms"]
    assert len(metrics_of(home)) == 1


def test_s17_all_rows_are_told_as_csv_and_as_json_and_summed_up_by_schedule(home: Place):
    add_hourly(home, "a", "b")
    for name in "aab":
        fire(home, name)
        until(home, lambda: all(one == "done" for one in states(home).values()))

    told = home.run("schedule", "metrics", "--json").json
    lines = home.run("schedule", "metrics", "--csv").out
    of_one = home.run("schedule", "metrics", "a", "--json").json

    assert [one["firings"] for one in told["schedules"]] == [2, 1]
    assert told["is_complete"] is True
    table: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(lines)))
    assert [one["task_id"] for one in table] == ["1", "2", "3"]
    assert set(table[0]) == set(told["firings"][0])
    assert [one["schedule_id"] for one in of_one["firings"]] == ["a", "a"]
    words = home.run("schedule", "metrics").out
    assert words.splitlines()[0].split() == [
        *("ID", "FIRINGS", "FAILED", "WAIT", "RUN", "TURNS", "MEMORY"),
    ]
    assert len(words.splitlines()) == 1 + 2 + 2


def test_s17_measurements_outlive_their_schedule(home: Place):
    add_hourly(home, "a")
    fire(home)
    until(home, lambda: ended(home, "1"))
    home.run("schedule", "rm", "a")

    assert home.run("schedule", "metrics", "a").code == EXIT_DONE
    unknown = home.run("schedule", "metrics", "nobody")
    assert (unknown.code, unknown.out) == (EXIT_NOT_FOUND, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--csv", "--json"), "cannot be given together"),
        (("--advise", "--csv"), "is no table"),
        (("a", "--advise"), "is about all schedules"),
        (("--since", "soon"), "is neither a time nor a duration"),
        (("a", "b"), "takes one ID"),
    ],
)
def test_s17_what_cannot_be_told_is_refused(home: Place, arguments: tuple[str, ...], words: str):
    answer = home.run("schedule", "metrics", *arguments)

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert words in answer.err.replace("\n", " ")


def test_s17_nothing_measured_is_no_failure(home: Place):
    assert home.run("schedule", "metrics").code == EXIT_DONE
    add_hourly(home, "a")
    told = home.run("schedule", "metrics", "a", "--json")
    assert (told.code, told.json["firings"], told.json["schedules"]) == (EXIT_DONE, [], [])


def age(place: Place, task_id: int, days: float) -> None:
    """Make a firing that old, and all that was noted of it."""
    by = round(days * DAY_US)
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        for table, key in (("tasks", "id"), ("attempts", "task_id")):
            question = f"UPDATE {table} SET ended_at = ended_at - ? WHERE {key} = ?"  # noqa: S608 - names of ours
            database.execute(question, (by, task_id))
        database.execute(
            "UPDATE schedule_firing_metrics SET fired_at = fired_at - ?,"
            " completed_at = completed_at - ? WHERE task_id = ?",
            (by, by, task_id),
        )


def test_s18_ticks_remove_measurements_after_thirty_days(home: Place):
    add_hourly(home, "a")
    for number in range(1, 4):
        home.run("schedule", "run", "a")
        home.run("run")
        until(home, lambda number=number: ended(home, str(number)))  # type: ignore[misc]  # bound for this round
    age(home, 1, 31)
    age(home, 2, 29)
    forget_last_pruning(home)

    home.run("run")

    assert kept(home) == [2, 3]


def test_s18_measurements_go_though_nothing_else_is_left_to_go(home: Place):
    add_hourly(home, "a")
    home.run("schedule", "run", "a")
    home.run("run")
    until(home, lambda: ended(home, "1"))
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("DELETE FROM tasks")
        database.execute("DELETE FROM attempts")
    age(home, 1, 31)

    would = home.run("prune", "--dry-run", "--json").json
    did = home.run("prune", "--json").json

    assert [(one["kind"], one["number"]) for one in would["removed"]] == [("metrics", 1)]
    assert did["removed"] == would["removed"]
    assert kept(home) == []


def kept(place: Place) -> list[int]:
    return [row[0] for row in rows_of(place, "SELECT task_id FROM schedule_firing_metrics")]


def forget_last_pruning(place: Place) -> None:
    """Let the next tick look for what is old, which it does once an hour."""
    memory = place.state / "scheduler.json"
    document = json.loads(memory.read_text())
    del document["pruned_at"]
    memory.write_text(json.dumps(document))


# -- emptying it all --------------------------------------------------------------------


def contents(place: Place) -> list[int]:
    """Return how many tasks, attempts, measurements and schedules there are."""
    tables = ("tasks", "attempts", "schedule_firing_metrics", "schedules")
    return [rows_of(place, f"SELECT count(*) FROM {table}")[0][0] for table in tables]  # noqa: S608 - names of ours


def fired_once(place: Place) -> None:
    """Leave a schedule whose firing has ended, and one that waits."""
    add_hourly(place, "a", "b")
    fire(place)
    until(place, lambda: ended(place, "1"))
    place.run("schedule", "run", "b")


def test_s22_reset_empties_the_queue_the_measurements_and_the_schedules(home: Place):
    fired_once(home)
    assert contents(home) == [2, 1, 2, 2]

    answer = home.run("reset", "--yes", "--json")

    assert answer.code == EXIT_DONE
    told = answer.json
    removed = ("tasks_removed", "attempts_removed", "metrics_removed", "schedules_removed")
    assert [told[name] for name in removed] == [2, 1, 2, 2]
    assert contents(home) == [0, 0, 0, 0]
    assert home.run("schedule", "metrics", "--json").json["firings"] == []


def test_s22_measurements_go_before_schedules_and_after_tasks(home: Place):
    fired_once(home)
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("CREATE TABLE gone (name TEXT)")
        for table in ("tasks", "schedule_firing_metrics", "schedules"):
            noted = f"INSERT INTO gone VALUES ('{table}')"  # noqa: S608 - a name of ours
            database.execute(f"CREATE TRIGGER t_{table} AFTER DELETE ON {table} BEGIN {noted}; END")

    assert home.run("reset", "--yes").code == EXIT_DONE

    order = [name for (name,) in rows_of(home, "SELECT name FROM gone ORDER BY rowid")]
    assert list(dict.fromkeys(order)) == ["tasks", "schedule_firing_metrics", "schedules"]


def test_s22_without_yes_it_says_what_it_would_remove_and_removes_nothing(home: Place):
    fired_once(home)
    before = contents(home)

    answer = home.run("reset")

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    words = answer.err.replace("\n", " ")
    assert "2 tasks (1 waiting, 1 done)" in words
    assert ", 1 attempt, 2 measurements, 2 schedules of " in words
    assert "reset --yes" in words
    assert contents(home) == before


def test_s22_it_is_refused_while_anything_runs(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    fire(home)
    before = contents(home)

    answer = home.run("reset", "--yes")

    assert (answer.code, answer.out) == (EXIT_BUSY, "")
    assert "attempts are under way or not settled yet: 1" in answer.err.replace("\n", " ")
    assert contents(home) == before


# -- may more run at once? --------------------------------------------------------------

HOUR_US = 3600 * 10**6


def measured(place: Place, *, days: int, wait_ms: int = 500, lag_ms: int = 20_000) -> None:
    """Note a firing an hour, over so many days until now."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        now = database.execute("SELECT CAST(strftime('%s') AS INTEGER) * 1000000").fetchone()[0]
        database.executemany(
            "INSERT INTO schedule_firing_metrics (schedule_id, task_id, fired_at, slot_claimed_at,"
            " completed_at, slot_wait_ms, duration_ms, tick_lag_ms, concurrent_schedules)"
            " VALUES ('a', ?, ?, ?, ?, ?, 1000, ?, 2)",
            [
                (1000 + hour, at, at + wait_ms * 1000, at + HOUR_US // 2, wait_ms, lag_ms)
                for hour in range(24 * days + 1)
                for at in [now - (24 * days - hour) * HOUR_US - 60 * 10**6]
            ],
        )


def advice(place: Place) -> dict[str, Any]:
    answer = place.run("schedule", "metrics", "--advise", "--json")
    assert answer.code == EXIT_DONE
    return answer.json


def unmet(told: dict[str, Any]) -> list[str]:
    return [one["name"] for one in told["criteria"] if not one["is_met"]]


def test_s25_after_a_quiet_week_the_bound_may_be_raised(home: Place):
    add_hourly(home, "a")
    measured(home, days=8)

    told = advice(home)

    assert (told["may_raise"], unmet(told)) == (True, [])
    assert told["firings"] == 24 * 7
    bounds = {one["name"]: one["bound_sec"] for one in told["criteria"]}
    assert bounds == {"data": 7 * 86_400, "interactive": 2, "lag": 60.05, "wait": 60}
    assert "may be raised from 2 to 3" in home.run("schedule", "metrics", "--advise").out


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ({"days": 6}, "data"),
        ({"days": 8, "lag_ms": 61_000}, "lag"),
        ({"days": 8, "wait_ms": 60_000}, "wait"),
    ],
)
def test_s25_a_condition_that_is_not_met_keeps_it(home: Place, history: dict[str, int], why: str):
    add_hourly(home, "a")
    measured(home, **history)

    told = advice(home)

    assert (told["may_raise"], unmet(told)) == (False, [why])
    words = home.run("schedule", "metrics", "--advise").out
    assert "should stay at 2: 1 condition not met" in words


def test_s25_whom_an_interactive_task_kept_waiting_keeps_it(home: Place):
    add_hourly(home, "a")
    measured(home, days=8)
    task = home.add("--class", "interactive", "--", "true")
    home.run("run")
    until(home, lambda: ended(home, task))
    with closing(sqlite3.connect(home.state / "tinyscheduler.db")) as database, database:
        database.execute("UPDATE tasks SET created_at = created_at - 3000000")

    told = advice(home)

    assert unmet(told) == ["interactive"]
    (one,) = [one for one in told["criteria"] if one["name"] == "interactive"]
    assert (one["samples"], one["value_sec"] > 3) == (1, True)


def test_s25_nothing_measured_is_no_evidence(home: Place):
    told = advice(home)

    assert (told["may_raise"], told["firings"]) == (False, 0)
    assert unmet(told) == ["data", "lag", "wait"]


def test_a_firing_that_waits_is_shown_as_such(home: Place):
    add_hourly(home, "a")
    home.run("schedule", "run", "a")

    assert "  task 1: waiting, " in home.run("schedule", "show", "a").out
