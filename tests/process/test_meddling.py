"""Somebody meddles with the state folder, or merely looks at it: no healthy attempt pays for it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.process.station import is_alive, until

from tinyscheduler.adapters.launch_local.processes import find_trees, read_process
from tinyscheduler.model.leases import ProcessIdentity, Trace
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process.station import Station

# Becomes the leader of a session, leaves a child in it that prints its pid, and ends.
LEAVE_A_MEMBER = (
    "import os, sys, time\n"
    "os.setsid()\n"
    "if os.fork() == 0:\n"
    "    print(os.getpid(), flush=True)\n"
    "    sys.stdout.close()\n"
    "    time.sleep(300)\n"
)


def test_an_emptied_running_folder_costs_no_living_attempt_its_life(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False, HEARTBEAT_SEC="60")
    task_id = station.add("until [ -e go ]; do sleep 0.05; done")
    station.tick()
    lease = station.until_running(task_id)
    for path in (station.state / "running").iterdir():
        path.unlink()

    report = [station.run("run", "--once") for _ in range(3)][-1]

    assert "its wrapper lives" in report.stderr
    assert is_alive(lease["pid"])
    assert station.task(task_id).state is TaskState.WORKING
    (station.base / "go").touch()
    station.until_final(task_id)
    assert station.starts(task_id) == [1]
    assert station.task(task_id).state is TaskState.DONE


def test_a_link_to_nothing_in_the_place_of_a_lease_is_set_aside(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add()
    lease = station.state / "running" / f"task_{task_id}.json"
    lease.parent.mkdir(exist_ok=True)
    lease.symlink_to("/nonexistent")

    station.until_final(task_id)

    assert station.starts(task_id) == [1]
    assert any(path.is_symlink() for path in (station.state / "quarantine").iterdir())


def test_another_running_folder_is_refused_while_the_old_one_has_leases(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    task_id = station.add("until [ -e go ]; do sleep 0.05; done")
    station.run("run", "--once")
    lease = station.until_running(task_id)

    moved = station.run("run", "--once", "--running-dir", str(tmp_path / "elsewhere"))

    assert moved.returncode == 4
    assert f"the leases of task {task_id} are in {station.state / 'running'}" in moved.stderr
    assert "hint:" in moved.stderr
    assert is_alive(lease["pid"])
    (station.base / "go").touch()
    station.until_final(task_id)
    moved = station.run("run", "--once", "--running-dir", str(tmp_path / "elsewhere"))
    assert moved.returncode == 0


def test_the_same_folder_by_another_name_is_no_other_running_folder(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    task_id = station.add("until [ -e go ]; do sleep 0.05; done")
    station.run("run", "--once")
    station.until_running(task_id)
    link = tmp_path / "link"
    link.symlink_to(station.base)

    # Of two options the last counts.
    by_link = station.run("--base-path", str(link), "run", "--once")
    by_name = station.run("run", "--once")

    assert (by_link.returncode, by_link.stderr) == (0, "")
    assert (by_name.returncode, by_name.stderr) == (0, "")
    (station.base / "go").touch()
    station.until_final(task_id)
    assert station.starts(task_id) == [1]


def test_who_only_looks_at_a_lock_file_is_not_ended_with_the_attempt(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    station.tick()
    lease = station.until_running(task_id)
    lock = station.state / "running" / f"task_{task_id}.lock"
    with subprocess.Popen(["tail", "-f", str(lock)], start_new_session=True) as reader:
        until(lambda: _has_open(reader.pid, lock), "tail to open the lock file")
        os.kill(lease["pid"], signal.SIGKILL)

        station.until_final(task_id)

        assert reader.poll() is None
        reader.kill()
    assert station.starts(task_id) == [1, 2]


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_session_without_leader_is_the_wrappers_only_if_a_member_is_as_old(is_ours):
    before = read_process(os.getpid())
    assert before is not None
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE_A_MEMBER], stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout is not None
        member = int(leader.stdout.readline())
        leader.wait()
        identity = ProcessIdentity(
            boot_id="this", pid=leader.pid, start_ticks=before.start_ticks, pgid=0, pid_ns=1
        )
        # A wrapper that has not beaten for an hour was dead before the member was born.
        last_s = time.monotonic() - (0 if is_ours else 3600)
        trace = Trace(
            task_id="1",
            lease_id="lease-1",
            process=identity,
            is_lock_held=False,
            beat_ns=int(last_s * 1e9),
            heartbeat_s=15,
        )

        found = [one.pid for one in find_trees([trace], {})["lease-1"].processes]

        os.kill(member, signal.SIGKILL)
    assert found == ([member] if is_ours else [])


def test_a_task_cannot_name_the_attempt_it_belongs_to_nor_make_its_wrapper_crash(
    make_station: Callable[..., Station],
):
    station = make_station(kicks=False)
    mark = station.base / "mark"
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || exec sleep 300')
    # `add` refuses these names; somebody wrote them into the database.
    environment = [
        ["TINYSCHEDULER_LEASE_ID", "deadbeef"],
        ["TINYSCHEDULER_CRASH_AT", f"wrapper.result:before {mark}"],
    ]
    with closing(sqlite3.connect(station.state / "tinyscheduler.db")) as database, database:
        database.execute(
            "UPDATE task_specs SET details = json_set(details, '$.environment', json(?))",
            (json.dumps(environment),),
        )
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGSTOP)

    station.until_final(task_id)

    assert not is_alive(lease["pid"])
    assert not mark.exists()
    assert station.starts(task_id) == [1, 2]
    station.assert_no_survivors()


def _has_open(pid: int, path: Path) -> bool:
    try:
        return str(path) in {
            os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
        }
    except OSError:
        return False
