"""What holds a slot, for how long, and what takes it back: S-03 to S-05, S-08, S-12, S-23."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cli.scheduled import (
    LIMIT_S,
    add_hourly,
    due_now,
    metrics_of,
    rows_of,
    states,
    until,
)
from tests.process.station import is_alive

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.errors import EXIT_DONE

if TYPE_CHECKING:
    from tests.cli.place import Place

TOP = Path(__file__).resolve().parents[2]
AT_WORK = "SELECT count(*) FROM tasks WHERE state = 'working'"


def lease_of(place: Place, task_id: str) -> dict[str, Any]:
    """Return a lease as it lies on disk, once its command runs."""
    path = place.state / "running" / f"task_{task_id}.json"
    until(place, lambda: path.exists() and json.loads(path.read_text())["state"] == "running")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


# -- claims -----------------------------------------------------------------------------


def test_s03_of_ticks_and_runs_by_hand_at_once_only_as_many_claim_as_may(home: Place):
    names = [f"s{number}" for number in range(6)]
    add_hourly(home, *names, command=("sleep", "60"))
    due_now(home, *names)

    claimers = [home.start("run") for _ in range(6)]
    claimers += [home.start("schedule", "run", name) for name in names[:4]]
    for one in claimers:
        one.communicate(timeout=LIMIT_S)
    home.run("run")

    assert rows_of(home, AT_WORK) == [(2,)]
    assert max(row["concurrent_schedules"] or 0 for row in metrics_of(home).values()) == 2


def test_s03_a_claim_beyond_the_bound_changes_nothing_and_the_firing_waits_on(home: Place):
    add_hourly(home, "a", "b", "c", command=("sleep", "60"))
    due_now(home, "a", "b", "c")
    home.run("run")
    before = rows_of(home, "SELECT * FROM tasks WHERE id = 3")
    database = Database(str(home.state / "tinyscheduler.db"), Access.WRITE)
    queue = LocalQueue(database, SystemClock(), most_firings=2)
    queue.look(window=10)

    is_ours = queue.claim("3", lease_id="one-more", agent="shell", queue="shell", attempt=1)

    database.close()
    assert not is_ours
    assert rows_of(home, "SELECT * FROM tasks WHERE id = 3") == before


# -- leases -----------------------------------------------------------------------------


def test_s04_a_firing_may_run_for_1200_seconds_unless_something_says_otherwise(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    home.run("schedule", "run", "a")
    home.run("run")
    assert lease_of(home, "1")["max_runtime_sec"] == 1200

    home.run("schedule", "add", "--name", "b", "--every", "1h", "--", "sleep", "60")
    home.run("schedule", "run", "b", SCHEDULE_MAX_RUN_DURATION_SEC="77")
    home.run("run")
    assert lease_of(home, "2")["max_runtime_sec"] == 77


def test_s04_what_its_schedule_says_holds_on_every_way_to_a_start(home: Place):
    home.settings["SCHEDULE_MAX_CONCURRENT"] = "1"
    for name, seconds in (("due", "501s"), ("drained", "502s"), ("by-hand", "503s")):
        add = ("schedule", "add", "--name", name, "--every", "1h", "--max-run-duration", seconds)
        home.run(*add, "--", "sleep", "60")
    due_now(home, "due", "drained")
    home.run("run")
    assert lease_of(home, "1")["max_runtime_sec"] == 501

    home.run("cancel", "1")  # its end is what makes the tick that starts the next
    assert lease_of(home, "2")["max_runtime_sec"] == 502

    home.run("schedule", "run", "by-hand", "--force")
    home.run("run")
    assert lease_of(home, "3")["max_runtime_sec"] == 503
    home.run("cancel", "3")
    until(home, lambda: states(home)["3"] == "cancelled")
    home.run("retry", "3")
    home.run("run")
    assert lease_of(home, "3")["max_runtime_sec"] == 503


def test_s05_one_past_its_lease_is_ended_has_failed_and_gives_its_slot_to_the_next(home: Place):
    home.settings["SCHEDULE_MAX_CONCURRENT"] = "1"
    add = ("schedule", "add", "--every", "1h", "--max-run-duration", "1s")
    home.run(*add, "--name", "hung", "--", "sleep", "60")
    add_hourly(home, "next", command=("sleep", "60"))
    due_now(home, "hung", "next")
    home.run("run")

    until(home, lambda: states(home) == {"1": "failed", "2": "running"})

    assert home.run("show", "1", "--json").json["failure_reason"] == "lease_expired"
    home.run("run")
    home.run("run")
    assert states(home) == {"1": "failed", "2": "running"}
    shown = home.run("schedule", "show", "hung", "--json").json["schedule"]
    assert (shown["failure_streak"], shown["last_failure_reason"]) == (1, "lease_expired")


def test_s05_where_its_wrapper_hangs_a_tick_ends_all_its_processes_first(home: Place):
    home.settings |= {"SCHEDULE_MAX_CONCURRENT": "1", "HEARTBEAT_SEC": "1"}
    add = ("schedule", "add", "--every", "1h", "--max-run-duration", "2s")
    home.run(*add, "--name", "hung", "--", "sh", "-c", "echo $$ > pid; sleep 600")
    add_hourly(home, "next", command=("true",))
    due_now(home, "hung", "next")
    home.run("run")
    wrapper = lease_of(home, "1")["process"]["pid"]
    until(home, lambda: (home.base / "pid").exists() and (home.base / "pid").read_text() != "")
    command = int((home.base / "pid").read_text())
    os.kill(wrapper, signal.SIGSTOP)

    def is_over() -> bool:
        # One whose processes live keeps its slot: nothing else may have started yet.
        home.run("run")
        found = states(home)
        assert not (is_alive(command) and found["2"] != "waiting")
        return found["1"] == "failed" and found["2"] == "done"

    until(home, is_over)

    assert not is_alive(command)
    reason = home.run("show", "1", "--json").json["failure_reason"]
    assert reason in {"lease_expired", "stale_heartbeat"}


def test_s05_one_that_cannot_be_settled_does_not_stop_the_sweep(home: Place):
    add = ("schedule", "add", "--every", "1h", "--max-run-duration", "1s")
    for name in "ab":
        home.run(*add, "--name", name, "--", "sleep", "60")
    due_now(home, "a", "b")
    home.run("run")
    lease_of(home, "1")
    lease_of(home, "2")
    (home.state / "running" / "task_1.json").write_text("{broken")

    until(home, lambda: home.run("run").code in {0, 1} and states(home)["2"] == "failed")

    assert home.run("show", "2", "--json").json["failure_reason"] == "lease_expired"
    until(home, lambda: home.run("run").code in {0, 1} and states(home)["1"] == "failed")


# -- siblings and streaks ---------------------------------------------------------------


def test_s08_one_firing_of_a_schedule_lives_at_once_and_the_next_is_passed_over(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    for _ in range(3):
        due_now(home, "a")
        home.run("run")

    assert len(states(home)) == 1
    shown = home.run("schedule", "show", "a", "--json").json["schedule"]
    assert (shown["fired"], shown["passed_over"]) == (1, 2)


def test_s08_siblings_are_told_by_their_schedule_and_not_by_their_title(home: Place):
    title = "a \N{EM DASH} firing #1"
    for name in "ab":
        add = ("schedule", "add", "--name", name, "--every", "1h", "--title", title)
        home.run(*add, "--", "sleep", "60")
    home.add("--title", title, "--", "sleep", "60")
    due_now(home, "a", "b")

    home.run("run")

    until(home, lambda: list(states(home).values()) == ["running"] * 3)
    shown = home.run("schedule", "list", "--json").json["schedules"]
    assert [(one["fired"], one["passed_over"]) for one in shown] == [(1, 0), (1, 0)]


# -- clocks -----------------------------------------------------------------------------


def run_at(place: Place, moment: datetime, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose wall clock shows another time."""
    words = ["-m", "tests.campaigns.elsewhen", moment.isoformat()]
    return subprocess.run(
        [sys.executable, *words, "--base-path", str(place.base), *arguments],
        env=place.environment(),
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_s23_a_wall_clock_that_jumps_ahead_ends_no_lease(home: Place):
    add_hourly(home, "a", command=("sleep", "60"))
    home.run("schedule", "run", "a")
    home.run("run")
    lease_of(home, "1")

    for _ in range(3):  # a day is more than its 1200 seconds
        done = run_at(home, datetime.now(UTC) + timedelta(days=1), "run")
        assert done.returncode == EXIT_DONE, done.stderr

    assert states(home)["1"] == "running"


def test_s23_a_wall_clock_that_is_set_back_fires_nothing_twice(home: Place):
    home.run("schedule", "add", "--name", "a", "--every", "10m", "--overlap", "allow", "--", "true")
    now = datetime.now(UTC)
    times = [timedelta(minutes=minutes) for minutes in (11, 21, 5, 11, 21, 31)]
    for ahead in times:
        assert run_at(home, now + ahead, "run").returncode == EXIT_DONE

    slots = [slot for (slot,) in rows_of(home, "SELECT slot FROM tasks ORDER BY id")]
    assert len(slots) == 3
    assert [b - a for a, b in pairwise(slots)] == [600 * 10**6] * 2


def test_s23_what_is_told_are_times_of_utc_to_the_millisecond(home: Place):
    add_hourly(home, "a")
    home.run("schedule", "run", "a")
    row = metrics_of(home)["1"]

    moment = datetime.fromisoformat(row["fired_at"])

    assert row["fired_at"].endswith("Z")
    assert len(row["fired_at"]) == len("2026-01-01T00:00:00.000Z")
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=10)
    ((stored,),) = rows_of(home, "SELECT fired_at FROM schedule_firing_metrics")
    assert stored // 1000 == round(moment.timestamp() * 1000)
