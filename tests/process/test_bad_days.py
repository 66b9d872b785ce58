"""The disk, the database or a lease file is broken: what still runs goes on, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.station import is_alive, until

from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.process.station import Station

BROKEN = {
    "empty": b"",
    "truncated": b'{"version": 1, "task_id": "1", "agent"',
    "garbage": b"\x00\xff\xfe not json at all",
    "another shape": b"[1, 2, 3]",
    "a pit of nesting": b"[" * 100_000,
}


def lease_path(station: Station, task_id: str) -> Path:
    return station.state / "running" / f"task_{task_id}.json"


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_lease_keeps_its_slot_and_its_wrapper_writes_it_again(
    make_station: Callable[..., Station], kind: str
):
    station = make_station(kicks=False, AGENT_LIMITS="shell:1")
    release = station.base / "release"
    task_id = station.add(f'while [ ! -e "{release}" ]; do sleep 0.02; done')
    waiting = station.add()
    station.tick()
    lease = station.until_running(task_id)

    lease_path(station, task_id).write_bytes(BROKEN[kind])
    station.tick()

    assert station.starts(waiting) == [], "its slot is still taken"
    assert is_alive(lease["pid"])
    until(lambda: _is_json(lease_path(station, task_id)), "the wrapper to write its lease again")
    release.touch()
    station.until_final(task_id, waiting)
    assert station.starts(task_id) == [1]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_lease_of_a_dead_attempt_is_set_aside_and_its_task_runs_again(
    make_station: Callable[..., Station], kind: str
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    lease_path(station, task_id).write_bytes(BROKEN[kind])

    station.until_final(task_id)

    assert station.starts(task_id) == [1, 2]
    (aside,) = (station.state / "quarantine").iterdir()
    assert aside.read_bytes() == BROKEN[kind]
    station.assert_no_survivors()


def test_a_lease_of_a_newer_version_is_left_untouched_and_keeps_its_slot(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False, AGENT_LIMITS="shell:1")
    task_id, waiting = station.add("sleep 300"), station.add()
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    newer = json.dumps({**lease, "version": 99, "surprise": True}).encode()
    until(lambda: not is_alive(lease["pid"]), "the wrapper to die")
    lease_path(station, task_id).write_bytes(newer)

    for _ in range(3):
        station.tick()

    assert lease_path(station, task_id).read_bytes() == newer
    assert station.starts(task_id) == [1]
    assert station.task(task_id).state is TaskState.WORKING
    log = next((station.state / "logs").glob("scheduler_*.log")).read_text()
    assert "newer than this program knows" in log
    assert station.starts(waiting) == []


def test_a_dead_lease_of_another_boot_is_a_reboot_and_counts_as_no_attempt(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False, MAX_ATTEMPTS="1")
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    until(lambda: not is_alive(lease["pid"]), "the wrapper to die")
    lease["host"] = "another-host"
    lease["boot_id"] = lease["process"]["boot_id"] = "0" * 36
    lease_path(station, task_id).write_text(json.dumps(lease))
    lock = lease_path(station, task_id).with_suffix(".lock")
    until(lambda: _is_free(lock), "its lock to be free")

    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert station.starts(task_id) == [1, 2]
    first = station.queue().ledger.attempts(task_id)[0]
    assert (first.outcome, first.reclaim_reason) == ("interrupted", "rebooted")


def test_a_recorded_result_waits_for_a_source_that_refuses_and_is_never_run_again(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add()
    station.tick()
    results = station.state / "results"
    until(lambda: list(results.glob("[!.]*.json")), "the result to be written")
    lease = station.lease(task_id)
    assert lease is not None
    until(lambda: not is_alive(lease["pid"]), "the wrapper to end")
    database = sqlite3.connect(station.config().paths.database, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    try:
        tick = station.run("run", "--once", "--json", timeout_s=120)
        assert tick.returncode in (1, 69), tick.stderr
        assert len(list(results.glob("[!.]*.json"))) == 1, "the result is kept"
        assert station.lease(task_id) is not None
    finally:
        database.execute("ROLLBACK")
        database.close()

    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert station.starts(task_id) == [1]


@pytest.mark.parametrize("fault", ["corrupt", "newer"])
def test_a_database_we_cannot_use_is_named_and_left_untouched_while_attempts_go_on(
    make_station: Callable[..., Station], fault: str
):
    station = make_station(kicks=False)
    release = station.base / "release"
    task_id = station.add(f'while [ ! -e "{release}" ]; do sleep 0.02; done')
    station.tick()
    lease = station.until_running(task_id)
    path = station.state / "tinyscheduler.db"
    kept = _break_database(path, fault)

    tick = station.run("run", "--once")
    look = station.run("list")

    for command in (tick, look):
        assert command.returncode == 69, command.stderr
        assert "tinyscheduler.db" in command.stderr
        assert "Traceback" not in command.stderr
    assert path.read_bytes() == kept
    assert is_alive(lease["pid"])
    release.touch()
    until(lambda: not is_alive(lease["pid"]), "the attempt to end by itself")
    assert len(list((station.state / "results").glob("[!.]*.json"))) == 1


def _break_database(path: Path, fault: str) -> bytes:
    if fault == "newer":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
    else:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(b"this is no database at all" * 1000)
    return path.read_bytes()


def test_the_state_of_another_user_is_refused(make_station: Callable[..., Station]):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    station = make_station(kicks=False)
    task_id = station.add()
    os.chown(station.state, 65534, 65534)

    tick, add = station.run("run", "--once"), station.run("add", "--", "true")

    for command in (tick, add):
        assert command.returncode == 4
        assert "belongs to user nobody" in command.stderr
        assert "hint: run this as nobody" in command.stderr
    assert station.starts(task_id) == []


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _is_free(lock: Path) -> bool:
    return f":{lock.stat().st_ino} " not in Path("/proc/locks").read_text()


def test_what_a_killed_wrapper_had_half_written_goes_with_its_attempt(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    (station.state / "running" / f".task_{task_id}.json.tmp").write_text("{")
    (station.state / "results" / f".{lease['lease_id']}.json.tmp").write_text("{")

    station.until_final(task_id)

    assert station.leftovers() == []


@pytest.mark.parametrize("path", ["running/task_zz.json", "running/task_zz.lock", "results/x.json"])
def test_one_thing_that_cannot_be_read_is_named_and_keeps_no_other_task_from_running(
    make_station: Callable[..., Station], path: str
):
    station = make_station(kicks=False, MAX_CONCURRENT_SLOTS="2")
    task_id = station.add()
    (station.state / path).mkdir(parents=True)

    done = station.run("run", "--once")

    assert done.returncode == 0, done.stderr
    assert "zz" in done.stderr or "x.json" in done.stderr, done.stderr
    until(lambda: station.starts(task_id) == [1], "the other task to run")
    until(lambda: station.tick() == 0 and station.task(task_id).state is TaskState.DONE, "its end")


def test_a_lease_whose_names_lead_out_of_the_state_folder_is_set_aside_and_removes_nothing(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    until(lambda: not is_alive(lease["pid"]), "the wrapper to die")
    precious = [station.base / "precious.txt", station.base / "precious.txt.json"]
    for path in precious:
        path.write_text("dear")
    hostile = {**lease, "lease_id": "../../precious.txt"}
    lease_path(station, task_id).write_text(json.dumps(hostile))

    station.until_final(task_id)

    assert [path.read_text() for path in precious] == ["dear", "dear"]
    assert station.starts(task_id) == [1, 2]
    assert list((station.state / "quarantine").glob(f"task_{task_id}.json*"))


def test_what_ends_a_whole_tick_is_told_in_the_log_too(make_station: Callable[..., Station]):
    station = make_station(kicks=False)
    station.add()
    running = station.state / "running"
    running.rmdir() if running.exists() else None
    running.write_text("a file where the folder should be")

    done = station.run("run", "--once")

    assert done.returncode == 69, done
    (log,) = (station.state / "logs").glob("scheduler_*.log")
    assert str(running) in log.read_text()
