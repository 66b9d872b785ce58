"""State that an earlier version left behind loads, ticks on, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place
from tests.queue.builders import assert_sound

from tinyscheduler.adapters.sqlite.schema import MIGRATIONS
from tinyscheduler.model.clock import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parents[1] / "data"
ENDED = {"1": "done", "2": "parked", "3": "cancelled"}
# That of the machine it was made on, and one that no machine will ever have.
OLD_BOOT = "c00f5e15-a902-4460-9a4c-a4f300599edf"
ANOTHER_BOOT = "00000000-0000-4000-8000-000000000000"
# When the newest of them was written, and how such times look in files.
WRITTEN = datetime(2026, 11, 21, 12, tzinfo=UTC)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MICROSECOND = timedelta(microseconds=1)
MOVED_TASKS = """
UPDATE tasks SET
    created_at = created_at + :us, updated_at = updated_at + :us, ended_at = ended_at + :us,
    backing_off_until = backing_off_until + :us,
    start_after = start_after + iif(start_after = backing_off_until, :us, 0)
"""
MOVED_ATTEMPTS = "UPDATE attempts SET started_at = started_at + :us, ended_at = ended_at + :us"


def unpack(name: str, base: Path, *, boot_id: str = ANOTHER_BOOT) -> Place:
    """Put a kept state where a test may work on it, as if it had been written there.

    And just now: pauses between attempts are not over yet, and nothing is too old to keep.
    """
    shutil.copytree(DATA / name, base)
    since_written = datetime.now(UTC) - WRITTEN
    stand_ins = {
        "@BASE@": str(base),
        "@PYTHON@": sys.executable,
        "@HOST@": socket.gethostname(),
        "@BOOT@": boot_id,
        OLD_BOOT: boot_id,
    }
    for path in base.rglob("*"):
        # Git keeps no modes, and nothing but these would be left by the program.
        path.chmod(0o700 if path.is_dir() else 0o600)
        if path.is_file() and path.suffix != ".db":
            text = path.read_text()
            for stand_in, real in stand_ins.items():
                text = text.replace(stand_in, real)
            path.write_text(TIME.sub(lambda time: later(time[0], since_written), text))
    with closing(sqlite3.connect(base / "state" / "tinyscheduler.db")) as database:
        database.execute("UPDATE attempts SET log = replace(log, '@BASE@', ?)", (str(base),))
        database.execute(
            "UPDATE task_specs SET details = replace(details, '@BASE@', ?)", (str(base),)
        )
        database.execute(MOVED_TASKS, {"us": since_written // MICROSECOND})
        database.execute(MOVED_ATTEMPTS, {"us": since_written // MICROSECOND})
        database.commit()
    place = Place(base)
    place.settings |= {"AGENT_LIMITS": "shell:3,writer:1", "RETRY_BASE_SEC": "86400"}
    place.settings |= {"RETRY_MAX_SEC": "864000", "KICK": "false"}
    return place


def later(time: str, by: timedelta) -> str:
    return format_time(parse_time(time) + by)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Place]:
    place = unpack("state-v1", tmp_path / "base")
    yield place
    place.clean_up()


def states(place: Place) -> dict[str, str]:
    tasks = place.run("list", "--json", "--limit", "1000").json["tasks"]
    return {one["task_id"]: one["state"] for one in tasks}


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute("PRAGMA user_version").fetchone()
    return int(number)


def test_looking_at_an_earlier_version_shows_everything_and_changes_no_byte(old: Place):
    before = old.digest()

    found = states(old)

    assert list(found) == [str(number) for number in range(1, 14)]
    assert {one: found[one] for one in ENDED} == ENDED
    assert found["5"] == found["7"] == "held"
    for look in (["status"], ["show", "7"], ["ps"], ["run", "--dry-run"], ["logs", "1"]):
        assert old.run(*look).code == 0, look
    assert old.digest() == before


def test_the_first_tick_converts_it_keeps_a_copy_and_loses_nothing(old: Place):
    before = states(old)
    kept = (old.state / "tinyscheduler.db").read_bytes()

    tick = old.run("run", "--json")

    assert (tick.code, tick.json["errors"]) == (0, [])
    assert version(old.state / "tinyscheduler.db") == len(MIGRATIONS)
    (copy,) = old.state.glob("tinyscheduler.db.v1-*")
    assert version(copy) == 1
    assert len(kept) == copy.stat().st_size
    assert_sound(old.state / "tinyscheduler.db")
    after = states(old)
    assert after.keys() == before.keys()
    assert {one: after[one] for one in ENDED} == ENDED
    # Its result lay there unsettled, and must not run again.
    assert after["10"] == "done"
    # Cancelled while it ran, and its attempt was lost with the machine.
    assert after["9"] == "cancelled"
    assert after["5"] == after["7"] == "held"
    assert after["4"] == after["6"] == "waiting"
    # Of another boot: given back, not counted, and started anew at once.
    assert after["8"] in {"starting", "running"}
    assert old.run("show", "8", "--json").json["failures"] == 0


def test_the_state_of_the_commit_before_loads_and_loses_nothing(tmp_path: Path):
    last = unpack("state-v8", tmp_path / "base")
    before = last.digest()
    found = states(last)
    assert found.keys() == {str(number) for number in range(1, 19)}
    # Taken by an agent, which works on it outside of attempts; a part, and what waits for it.
    assert (found["18"], found["17"]) == ("held", "waiting")
    assert last.run("why", "16", "--json").json["reason"] == "blocked_by"
    kept = last.run("schedule", "list", "--json").json["schedules"]
    assert [(one["schedule_id"], one["state"], one["fired"]) for one in kept] == [
        ("beats", "active", 0),
        ("nightly", "active", 1),
        ("paused", "paused", 0),
    ]
    beats = kept[0]
    assert (beats["kind"], beats["max_per_day"], beats["max_turns"]) == ("heartbeat", 3, 30)
    assert beats["checklist"] == "/srv/list.md"
    # Said before the machine was started anew: whoever it was is gone.
    assert last.run("pressure", "list", "--json").json["pressures"] == []
    assert last.digest() == before

    tick = last.run("run", "--json")

    assert (tick.code, tick.json["errors"]) == (0, [])
    assert list(last.state.glob("tinyscheduler.db.*")) == []  # nothing to convert, no copy
    assert_sound(last.state / "tinyscheduler.db")
    after = states(last)
    assert {one: after[one] for one in ENDED} == ENDED
    assert (after["9"], after["10"]) == ("cancelled", "done")
    assert after["8"] in {"starting", "running"}
    reasons = {one["task_id"]: one["reason"] for one in tick.json["decisions"]}
    assert reasons["14"] == "paused"
    assert "agent coder is paused" in (told := last.run("why", "14").out)
    assert "key expired" in told
    history = last.run("history", "--json").json
    assert {one["task_id"] for one in history["attempts"]} >= {"1", "2", "3", "4", "8", "10"}
    with closing(sqlite3.connect(last.state / "tinyscheduler.db")) as database:
        accounts = database.execute("SELECT account, agent FROM coolings").fetchall()
        comments = database.execute("SELECT task_id, content FROM comments").fetchall()
    assert accounts == [("muse", "poet")]
    assert comments == [(16, "half of it is done")]
    last.settings |= {"SOURCES": "local,tinytask"}
    assert {one: state for one, state in states(last).items() if one.startswith("tinytask")} == {
        "tinytask-2": "waiting",
        "tinytask-3": "done",
        "tinytask-4": "waiting",
    }
    last.clean_up()


def test_the_state_of_a_version_before_this_one_is_converted(tmp_path: Path):
    before = unpack("state-v7", tmp_path / "base")

    tick = before.run("run", "--json")

    assert (tick.code, tick.json["errors"]) == (0, [])
    assert version(before.state / "tinyscheduler.db") == len(MIGRATIONS)
    assert_sound(before.state / "tinyscheduler.db")
    assert states(before)["10"] == "done"
    before.clean_up()


@pytest.mark.parametrize("name", ["state-v1", "state-v2", "state-v3"])
def test_what_a_task_needs_is_where_ticks_look_for_it_after_converting(tmp_path: Path, name: str):
    old = unpack(name, tmp_path / "base")
    (full,) = (
        one["task_id"]
        for one in old.run("list", "--json").json["tasks"]
        if one["summary"].startswith("everything that can be asked for")
    )

    old.run("run")

    with closing(sqlite3.connect(old.state / "tinyscheduler.db")) as database:
        rows = database.execute(
            "SELECT id, priority_class, gpus, vram_bytes, model, tenant, project, max_runtime_s"
            " FROM tasks WHERE gpus OR vram_bytes OR model OR tenant OR project"
        ).fetchall()
    assert rows == [
        (int(full), "interactive", 2, 14 * 2**30, "llama-7b", "team-a", "apollo", 3600.0)
    ]
    old.clean_up()


@pytest.mark.parametrize(
    "name",
    [
        "state-v1",
        "state-v2",
        "state-v3",
        "state-v4",
        "state-v5",
        "state-v6",
        "state-v7",
        "state-v8",
    ],
)
def test_a_tick_kicked_after_a_downgrade_leaves_what_it_does_not_know(tmp_path: Path, name: str):
    old = unpack(name, tmp_path / "base")
    settings = old.state / "settings.json"
    newer = json.loads(settings.read_text())
    newer["resolution"]["config"] |= {"moon_phase": "full"}
    for part in ("limits", "timing", "paths"):
        newer["resolution"]["config"][part]["of_a_newer_version"] = 1
    settings.write_text(json.dumps(newer))

    kicked = old.run("run", "--kicked")

    assert (kicked.code, kicked.err) == (0, "")
    assert states(old)["10"] == "done"
    old.clean_up()


def test_what_waited_runs_to_its_end_in_the_order_it_was_to(old: Place):
    old.settings["KICK"] = "true"
    old.run("run")
    assert old.run("wait", "11", "12", "--timeout", "30s").code == 0
    old.run("cancel", "8")
    assert old.run("wait", "8", "--timeout", "30s").code == 1

    found = states(old)
    assert (found["11"], found["12"]) == ("done", "done")
    # It came after 8, which was cancelled: it waits, and says so.
    assert found["13"] == "waiting"
    waiting = old.run("status", "--json").json["waiting"]
    assert {one["task_id"]: one["reason"] for one in waiting}["13"] == "blocked_by"


def test_attempts_of_the_same_boot_are_found_dead_and_tried_again_later(tmp_path: Path):
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    old = unpack("state-v1", tmp_path / "base", boot_id=boot_id)

    tick = old.run("run", "--json")

    reasons = {one["task_id"]: one["reason"] for one in tick.json["reclaims"]}
    assert reasons == {"8": "dead_pid", "9": "dead_pid"}
    assert (states(old)["8"], states(old)["9"]) == ("waiting", "cancelled")
    old.clean_up()


def test_everything_that_was_asked_for_is_still_known(old: Place):
    old.run("run")

    shown = old.run("show", "7", "--json").json
    attempts = old.run("show", "2", "--json").json["attempts"]

    assert {name: shown[name] for name in EVERYTHING} == EVERYTHING
    assert [(one["outcome"], one["exit_code"]) for one in attempts] == [("failed", 1)]
    assert old.run("show", "13", "--json").json["prompt"] == "ünïcödé ✓"
    assert old.run("logs", "1").out == "hello\n"
    assert len((old.state / "logs" / "events.jsonl").read_text().splitlines()) > 20


EVERYTHING = {
    "title": "everything that can be asked for",
    "priority": 7,
    "class": "interactive",
    "gpus": 2,
    "vram_bytes": 14 << 30,
    "memory_bytes": 2 << 30,
    "model": "llama-7b",
    "seed": 42,
    "tenant": "team-a",
    "project": "apollo",
    "max_runtime_sec": 3600.0,
    "max_turns": 20,
    "max_attempts": 2,
    "labels": {"to": "moon"},
    "env": {"COLOUR": "blue"},
    "command": ["env"],
}


def test_a_tick_kicked_by_a_wrapper_of_the_earlier_version_goes_on_with_its_settings(old: Place):
    kicked = old.run("run", "--kicked")

    assert (kicked.code, kicked.err) == (0, "")
    assert states(old)["10"] == "done"


@pytest.mark.parametrize("command", [["run"], ["status"], ["add", "--", "true"], ["list"]])
def test_a_database_of_a_newer_version_is_refused_with_the_way_out(old: Place, command: list[str]):
    path = old.state / "tinyscheduler.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    answer = old.run(*command)

    assert answer.code == 69
    assert "was written by a newer TinyScheduler (version 99 of its tables" in answer.err
    assert "install that newer version, or use another base path" in answer.err
    assert "Traceback" not in answer.err
    assert path.read_bytes() == before
    assert list(old.state.glob("tinyscheduler.db.*")) == []


@pytest.mark.parametrize("command", [["run"], ["status"], ["add", "--", "true"], ["list"]])
def test_a_damaged_database_is_refused_with_the_way_out_and_its_results_wait(
    old: Place, command: list[str]
):
    path = old.state / "tinyscheduler.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    before = path.read_bytes()

    answer = old.run(*command)

    assert answer.code == 69
    assert "is damaged, or no database at all" in answer.err
    assert "put a copy in its place" in answer.err
    assert path.read_bytes() == before
    assert len(list((old.state / "results").iterdir())) == 1
    assert len(list((old.state / "running").glob("*.json"))) == 3


def test_the_copy_in_the_place_of_a_damaged_database_goes_on(old: Place):
    old.run("run")
    path = old.state / "tinyscheduler.db"
    (copy,) = old.state.glob("tinyscheduler.db.v1-*")
    for one in old.state.glob("tinyscheduler.db-*"):
        one.unlink()
    os.replace(copy, path)

    answer = old.run("run", "--json")

    assert (answer.code, answer.json["errors"]) == (0, [])
    assert states(old)["7"] == "held"


@pytest.mark.parametrize(
    "name",
    [
        "state-v1",
        "state-v2",
        "state-v3",
        "state-v4",
        "state-v5",
        "state-v6",
        "state-v7",
        "state-v8",
    ],
)
def test_every_file_of_the_kept_state_is_free_of_the_machine_it_was_made_on(name: str):
    for path in (DATA / name).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for trace in (b"/tmp/", b"/home/", b"/root", sys.prefix.encode()):
                assert trace not in content, path
    settings = json.loads((DATA / name / "state" / "settings.json").read_text())
    assert settings["version"] == 1
