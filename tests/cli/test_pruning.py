"""``prune`` removes what is old and says how much; ``reset`` removes everything, if asked twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import PROGRAM, Place, compare, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer

OLD_S = 40 * 86_400


def run_to_end(place: Place, *commands: tuple[str, ...]) -> None:
    ids = [place.add("--cwd", "/", *command) for command in commands]
    place.run("run")
    place.run("wait", *ids, "--timeout", "30s")
    until(lambda: not place.leftovers(), "everything to be settled")


def grow_old(place: Place) -> None:
    """Make everything that is there look as if it was left behind long ago."""
    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        for column in ("ended_at", "created_at", "updated_at"):
            database.execute(f"UPDATE tasks SET {column} = {column} - {OLD_S} * 1000000")  # noqa: S608 - names from this very list
        database.execute(f"UPDATE attempts SET ended_at = ended_at - {OLD_S} * 1000000")  # noqa: S608 - a number of ours
        database.commit()
    for path in sorted((place.state / "logs").rglob("*"), reverse=True):
        then = time.time() - OLD_S
        os.utime(path, (then, then))


def without_sizes(text: str) -> str:
    """Leave out what depends on how a filesystem keeps small files."""
    return re.sub(r"\d+ K?i?B$", "SIZE", text, flags=re.MULTILINE)


def tasks(place: Place) -> dict[str, str]:
    listed = place.run("list", "--json").json["tasks"]
    return {one["task_id"]: one["state"] for one in listed}


@pytest.fixture
def old(place: Place) -> Place:
    """Return a place where two tasks ended long ago, one is parked, and others wait."""
    place.settings["MAX_ATTEMPTS"] = "1"
    run_to_end(place, ("--", "echo", "x"), ("--", "true"), ("--", "false"))
    place.add("--hold", "--after", "2", "--", "true")
    grow_old(place)
    return place


def test_prune_removes_what_is_older_than_its_retention_and_says_so(
    old: Place, run_at: Callable[..., Answer]
):
    dry = run_at(old, "prune", "--dry-run")
    before = tasks(old)
    done = run_at(old, "prune")

    assert before == {"1": "done", "2": "done", "3": "parked", "4": "held"}
    # 3 waits for its owner, and 4 for 2.
    assert tasks(old) == {"2": "done", "3": "parked", "4": "held"}
    assert not (old.state / "logs" / "tasks" / "1").exists()
    for kept in "23":
        assert (old.state / "logs" / "tasks" / kept / "1.log").exists()
    assert len(old.run("show", "3", "--json").json["attempts"]) == 1
    assert (dry.code, done.code) == (0, 0)
    compare("prune-dry.txt", without_sizes(settle_text(dry.out, old)) + dry.err)
    compare("prune.txt", without_sizes(settle_text(done.out, old)) + done.err)
    assert run_at(old, "prune").out == "nothing is old enough to be removed\n"


def test_the_document_counts_by_kind(old: Place):
    document = old.run("prune", "--json").json

    found = {one["kind"]: one["number"] for one in document["removed"]}
    assert found == {"tasks": 1, "attempts": 1, "logs": 1}
    assert document["bytes"] == sum(one["bytes"] for one in document["removed"])
    assert (document["dry_run"], document["more"], document["schema_version"]) == (False, False, 1)


def test_a_tick_prunes_by_itself_once_an_hour(old: Place):
    old.settings["HISTORY_RETENTION_DAYS"] = "30"
    memory = json.loads((old.state / "scheduler.json").read_text())
    assert memory["pruned_at"] is not None
    old.run("run")
    assert "1" in tasks(old)

    memory["pruned_at"] = "2026-01-01T00:00:00.000Z"
    (old.state / "scheduler.json").write_text(json.dumps(memory))
    old.run("run")

    assert tasks(old) == {"2": "done", "3": "parked", "4": "held"}


def test_the_age_can_be_given(place: Place):
    run_to_end(place, ("--", "true"))

    assert place.run("prune", "--older-than", "1h").out == "nothing is old enough to be removed\n"
    assert place.run("prune", "--older-than", "0s").code == 0
    assert tasks(place) == {}


@pytest.mark.parametrize("age", ["", "soon", "-1s", "99999w", "\x00"])
def test_an_age_that_is_none_is_a_usage_error(here: Callable[..., Answer], age: str):
    answer = here("prune", f"--older-than={age}")

    assert answer.code == 2
    assert answer.err.startswith("error: --older-than")


def test_a_dry_run_changes_no_byte(old: Place):
    before = old.digest()

    old.run("prune", "--dry-run", "--older-than", "0s")

    assert old.digest() == before


def test_nothing_of_what_runs_is_pruned(place: Place):
    place.add("--", "sh", "-c", "echo begun; sleep 1000")
    place.run("run")
    until(lambda: place.run("logs", "1").out == "begun\n", "the command to print")
    then = time.time() - OLD_S
    log = place.state / "logs" / "tasks" / "1" / "1.log"
    for path in (log, log.parent):
        os.utime(path, (then, then))

    place.run("prune", "--older-than", "0s")

    assert log.read_text() == "begun\n"
    assert place.run("show", "1", "--json").json["state"] == "running"


def test_pruning_makes_way_for_a_tick_and_a_tick_for_pruning(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "100000"
    place.settings["TICK_BUDGET_SEC"] = "600"
    for _ in range(2):
        place.add("--", "sleep", "1000")
    with place.start("run") as tick:
        until(lambda: "pid" in _holder(place) and _is_waiting(place), "a tick to be at it")
        busy = place.run("prune")
        tick.terminate()
        tick.communicate(timeout=30)

    assert busy.code == 75
    assert "a tick is running" in busy.err
    # The refused one left a wish, and the tick that follows is to start nothing.
    place.run("drain")
    assert place.run("prune").code == 0


def _holder(place: Place) -> str:
    path = place.state / "tinyscheduler.pid"
    return path.read_text() if path.exists() else ""


def _is_waiting(place: Place) -> bool:
    events = place.state / "logs" / "events.jsonl"
    return events.exists() and "task.started" in events.read_text()


def test_a_wrapper_that_ended_while_ticks_were_kept_out_is_settled(place: Place):
    place.add("--", "sh", "-c", "while [ ! -e go ]; do sleep 0.02; done")
    place.run("run")
    program = (
        "import sys, os, time\n"
        "from tinyscheduler.adapters.clock_system import SystemClock\n"
        "from tinyscheduler.app.pruning import keeping_ticks_out\n"
        "from tinyscheduler.config.load import load_config\n"
        "from tinyscheduler.config.overrides import Overrides\n"
        "config = load_config(Overrides(base_path=sys.argv[1]))\n"
        "with keeping_ticks_out(config, SystemClock(), warn=print):\n"
        "    open(os.path.join(sys.argv[1], 'go'), 'w').close()\n"
        "    while not os.listdir(config.paths.results) or not os.path.exists(config.paths.kick):\n"
        "        time.sleep(0.02)\n"
        "    time.sleep(0.3)\n"
    )
    (place.state / "kick").unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, "-c", program, str(place.base)],
        env=place.environment(),
        timeout=60,
        check=True,
    )

    assert place.run("wait", "1", "--timeout", "30s").code == 0


# Keeps ticks out, as `prune` and `reset` do, until its input ends.
KEEPER = """
import sys
from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.app.pruning import keeping_ticks_out
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides

config = load_config(Overrides(base_path=sys.argv[1]))
with keeping_ticks_out(config, SystemClock(), warn=print):
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_a_tick_that_was_refused_while_ticks_were_kept_out_follows_though_nothing_runs(
    place: Place,
):
    place.run("run")
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(place.base)],
        env=place.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"kept\n"
        place.add("--", "true")
        refused = place.run("run")
        keeper.communicate(timeout=30)

    assert "it will look again" in refused.err
    assert place.run("wait", "1", "--timeout", "20s").code == 0
    until(lambda: not (place.state / "kick").exists(), "the wish to be fulfilled")


@pytest.mark.parametrize("command", [("prune",), ("reset", "--yes")], ids=" ".join)
def test_a_tick_that_cannot_be_started_afterwards_is_a_warning_and_stays_wished_for(
    place: Place,
    run_at: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    place.add("--", "true")
    # Stands in for a user who may have no more processes, which root always may.
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    answer = run_at(place, *command)

    assert answer.code == 0
    assert "warning: no tick could be started" in answer.err
    assert "removed" in answer.out
    assert (place.state / "kick").exists()


def test_a_task_that_prunes_starts_nothing_from_inside_its_attempt(place: Place):
    program = " ".join(map(shlex.quote, PROGRAM))
    place.settings["KICK"] = "false"
    place.add("--", "sh", "-c", f"{program} -q release 2; {program} prune; sleep 2")
    place.add("--hold", "--", "true")
    place.run("run")

    until(
        lambda: place.run("show", "1", "--json").json["state"] == "settling", "the attempt to end"
    )

    assert place.run("logs", "1").out == "nothing is old enough to be removed\n"
    assert place.run("show", "2", "--json").json["state"] == "waiting"
    assert (place.state / "kick").exists()


def test_reset_needs_to_be_meant(place: Place):
    place.add("--", "true")

    answer = place.run("reset")
    code, screen = place.type("reset", keys="no\n")

    assert (answer.code, answer.out) == (2, "")
    would = f"reset would remove 1 task (1 waiting) of {place.base}"
    assert answer.err == f"error: {would}\nhint: if that is meant: reset --yes\n"
    assert tasks(place) == {"1": "waiting"}
    assert "This removes 1 task (1 waiting) of " in screen
    assert "nothing was changed" in screen
    assert code == 1
    assert place.type("reset", keys="yes\n")[0] == 0
    assert tasks(place) == {}


def test_reset_removes_every_task_and_keeps_a_copy(old: Place):
    answer = old.run("reset", "--yes")

    assert answer.code == 0
    assert answer.out.startswith("4 tasks and 3 attempts removed; a copy of the database is kept: ")
    copy = answer.out.split(": ")[1].strip()
    assert os.path.exists(copy)
    assert tasks(old) == {}
    assert old.add("--", "true") == "5"
    assert "scheduler.reset" in (old.state / "logs" / "events.jsonl").read_text()


def test_reset_leaves_pauses_and_settings_alone(place: Place):
    place.run("pause")
    place.run("run")

    document = place.run("reset", "--yes", "--json").json

    assert (document["tasks_removed"], document["attempts_removed"]) == (0, 0)
    assert place.run("status", "--json").json["paused"][0]["target"] == "all"
    assert (place.state / "settings.json").exists()


def test_reset_forgets_the_pauses_of_the_schedules_that_it_removes(place: Place):
    again = ("schedule", "add", "--name", "nightly", "--every", "1h", "--", "true")
    place.run(*again)
    place.run("pause", "schedule:nightly", "agent:shell")

    place.run("reset", "--yes")

    place.run(*again)
    paused = place.run("status", "--json").json["paused"]
    assert [one["target"] for one in paused] == ["agent:shell"]


def test_reset_is_refused_while_anything_runs_or_waits_to_be_settled(place: Place):
    place.settings["KICK"] = "false"
    place.add("--", "sleep", "1000")
    place.run("run")

    running = place.run("reset", "--yes")
    database = place.state / "tinyscheduler.db"
    database.rename(place.base / "aside")
    without_database = place.run("reset", "--yes")
    (place.base / "aside").replace(database)
    place.run("cancel", "1")
    until(lambda: list((place.state / "results").glob("*.json")), "its result")
    unsettled = place.run("reset", "--yes")

    assert (running.code, without_database.code, unsettled.code) == (75, 75, 75)
    assert "attempts are under way or not settled yet: 1" in running.err
    assert list(tasks(place)) == ["1"]


def test_pruning_does_not_pass_for_a_tick(place: Place):
    def last_tick() -> str | None:
        told: str | None = place.run("why", "1", "--json").json["last_tick_at"]
        return told

    place.add("--hold", "--", "true")
    place.run("prune")
    assert last_tick() is None

    place.run("run")
    ticked = last_tick()
    assert ticked is not None
    place.run("prune")
    assert last_tick() == ticked
