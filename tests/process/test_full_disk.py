"""A full disk ends no healthy attempt, starts nothing it cannot remember, and loses no result.

The state folder is a small tmpfs; filling it is what a runaway log does to a real one.
"""

from __future__ import annotations

import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.process.station import PYTHON, Station, is_alive, until

from tinyscheduler.errors import EXIT_UNAVAILABLE
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with room for four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk as this user: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free and return the file to remove."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def _has_beaten(lock: Path, after_ns: int) -> bool:
    return lock.stat().st_mtime_ns >= after_ns


def test_on_a_full_disk_no_task_starts_and_each_starts_once_there_is_room(
    make_station: Callable[..., Station], small_disk: Path
):
    station = make_station(str(small_disk / "base"), kicks=False)
    task_id = station.add()
    ballast = fill(small_disk)

    for _ in range(3):
        station.tick()

    assert station.starts(task_id) == []
    assert station.task(task_id).state is TaskState.WAITING
    ballast.unlink()
    station.until_final(task_id)
    assert station.starts(task_id) == [1]
    assert station.task(task_id).state is TaskState.DONE


def test_on_a_full_disk_what_runs_can_be_cancelled_and_what_waits_cannot(
    make_station: Callable[..., Station], small_disk: Path
):
    station = make_station(str(small_disk / "base"), kicks=False)
    running = station.add("sleep 300")
    station.tick()
    lease = station.until_running(running)
    waiting = station.add()
    ballast = fill(small_disk)

    refused = station.run("cancel", waiting)
    done = station.run("cancel", running)

    assert refused.returncode == EXIT_UNAVAILABLE
    assert "No space left" in refused.stderr or "disk" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "is running; its attempt is being ended, though the queue could not" in done.stdout
    until(lambda: not is_alive(lease["process"]["pgid"]), "its command to end")
    ballast.unlink()
    station.until_final(running, waiting)
    assert station.task(running).state is TaskState.CANCELLED
    assert station.task(waiting).state is TaskState.DONE


def test_what_init_cannot_write_whole_is_not_there_for_the_next_one_to_keep(
    make_station: Callable[..., Station], small_disk: Path
):
    station = make_station(str(small_disk / "base"), kicks=False)
    ballast = fill(small_disk)

    refused = station.run("init", "--yes")

    assert "No space left on device" in refused.stderr
    assert not (station.base / ".env.tinyscheduler").exists()
    ballast.unlink()
    assert station.run("init", "--yes").returncode == 0
    assert (station.base / ".env.tinyscheduler").stat().st_size > 0


def test_on_a_full_disk_healthy_attempts_go_on_and_their_results_arrive_once_there_is_room(
    make_station: Callable[..., Station], small_disk: Path, tmp_path: Path
):
    station = make_station(str(small_disk / "base"), kicks=False)
    release, ended = tmp_path / "release", tmp_path / "ended"
    task_id = station.add_command(
        "sh", "-c", f'while [ ! -e "{release}" ]; do sleep 0.05; done; echo >> "{ended}"'
    )
    station.tick()
    lease = until(
        lambda: (found := station.lease(task_id)) and found["state"] == "running" and found,
        "the task to run",
    )
    lock = station.state / "running" / f"task_{task_id}.lock"
    ballast = fill(small_disk)

    for _ in range(4):
        # Well past three intervals: only the heartbeat on the lock keeps the attempt alive.
        later = lock.stat().st_mtime_ns + 400_000_000
        until(partial(_has_beaten, lock, later), "two heartbeats")
        station.tick()
    assert is_alive(lease["pid"])

    release.touch()
    until(ended.exists, "the command to end")
    station.tick()
    assert is_alive(lease["pid"]), "the wrapper holds on to the result it cannot write yet"
    ballast.unlink()
    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert ended.read_text() == "\n", "it ran once"


def test_the_first_tick_ever_and_a_daemon_stand_a_full_disk(
    make_station: Callable[..., Station], small_disk: Path
):
    station = make_station(str(small_disk / "base"), kicks=False, LOOP_INTERVAL_SEC="1")
    task_id = station.run("add", "--", *station.journalled("true")).stdout.strip()
    assert not (station.state / "tinyscheduler.pid").exists()
    ballast = fill(small_disk)

    done = station.run("run", "--once")

    assert done.returncode in (0, 1, 69), done
    assert "internal error" not in done.stderr
    with subprocess.Popen(
        [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", str(station.base), "run", "--daemon"],
        env=station.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        until((station.state / "daemon.lock").exists, "the daemon to have its lock")
        ballast.unlink()
        until(lambda: station.starts(task_id) == [1], "the daemon to start the task")
        daemon.terminate()
        _, words = daemon.communicate()
    assert daemon.returncode == 0, words
    assert "internal error" not in words


def test_on_a_read_only_disk_every_change_is_refused_in_words_and_looking_works(
    make_station: Callable[..., Station], small_disk: Path
):
    station = make_station(str(small_disk / "base"), kicks=False)
    # By the command, because a database open in this process would keep the disk writable.
    task_id = station.run("add", "--", *station.journalled("true")).stdout.strip()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    changes = {
        words: station.run(*words.split())
        for words in ("run --once", "add -- true", f"cancel {task_id}", f"hold {task_id}")
    }
    looks = {
        words: station.run(*words.split())
        for words in ("list", "status", f"show {task_id}", "ps", "run --dry-run")
    }

    for words, done in changes.items():
        assert done.returncode in (4, 69), (words, done)
        assert done.stderr.startswith("error: "), (words, done.stderr)
        assert str(station.state) in done.stderr, (words, done.stderr)
        assert "hint: " in done.stderr, (words, done.stderr)
    for words, done in looks.items():
        assert done.returncode == 0, (words, done)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    station.until_final(task_id)
    assert station.starts(task_id) == [1]


def test_a_base_path_that_cannot_be_made_is_named_with_the_fix(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(kicks=False)
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "base")

    for words in ("run --once", "add -- true"):
        done = station.run("--base-path", nowhere, *words.split())

        assert done.returncode == 4, (words, done)
        assert nowhere in done.stderr, done.stderr
        assert "hint: " in done.stderr, done.stderr
