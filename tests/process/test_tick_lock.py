"""One tick at a time: who holds the lock, who cannot, and how no wish for a tick is lost."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.process.station import PYTHON, Station, is_alive, until

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTrial
from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.app.kicks import kick
from tinyscheduler.app.ticks import settings_of, wired
from tinyscheduler.errors import EXIT_BUSY
from tinyscheduler.model.leases import LeaseState
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.tick import Mode, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Looks for as long as it runs, as `status` and `run --dry-run` do.
READER = """
import sys
from tinyscheduler.app.queue import open_queue
from tinyscheduler.app.ticks import preview
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.config.saved import load_settings

config = load_settings(sys.argv[1])
while True:
    queue = open_queue(config, Access.READ)
    for _ in range(100):
        queue.leases.scan()
    queue.tasks.tasks()
    preview(config)
    print("looked", flush=True)
"""
# The daemon, telling each tick it does.
DAEMON = """
import sys
from tinyscheduler.app.serving import run_daemon
from tinyscheduler.config.saved import load_settings
from tinyscheduler.errors import TinySchedulerError

try:
    run_daemon(
        lambda: load_settings(sys.argv[1]),
        notice=lambda report: print("tick", report.stats.tasks_spawned, flush=True),
    )
except TinySchedulerError as error:
    sys.exit(f"{error.exit_code} {error.what}")
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on this file, as another process would."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def started(code: str, station: Station, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program on this station's saved settings, and end it."""
    with subprocess.Popen(
        [PYTHON, "-I", "-c", code, str(station.state / "settings.json")],
        env=station.environment(),
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# -- held, and let go -----------------------------------------------------------------


def test_a_tick_that_finds_the_lock_held_says_so_in_one_line_and_starts_nothing(station: Station):
    task_id = station.add()

    with locked(station.state / "tinyscheduler.pid"):
        refused = station.run("run", "--once")
        strict = station.run("run", "--once", "--fail-if-locked")

    assert refused.returncode == 0
    assert (refused.stdout, refused.stderr.count("\n")) == ("", 1)
    assert "another tick is running" in refused.stderr
    assert (strict.returncode, strict.stderr.count("\n")) == (EXIT_BUSY, 1)
    assert station.task(task_id).state is TaskState.WAITING


def test_the_lock_of_a_killed_tick_is_free(station: Station):
    task_id = station.add()
    station.tick(crash_at="lease.create:before")
    assert station.crash_mark.exists()

    station.run("run", "--once", "--fail-if-locked").check_returncode()
    station.wait_final(task_id)

    assert station.starts(task_id) == [1]


def test_nothing_that_a_tick_started_has_the_lock_open(make_station: Callable[..., Station]):
    # The second start waits, so the tick is still at work when the first task runs.
    station = make_station(STAGGER_DELAY_MS="30000")
    first = station.add("sleep 300")
    station.add("sleep 300")
    tick_process = station.start_tick()
    lease = station.until_running(first)
    lock = station.state / "tinyscheduler.pid"
    assert _has_open(tick_process.pid, lock), "the tick itself has"

    tree = [lease["pid"], *_group(lease["process"]["pgid"])]
    before = [pid for pid in tree if _has_open(pid, lock)]
    tick_process.kill()
    tick_process.communicate()

    assert len(tree) > 2, "the wrapper, the shell and its sleep"
    assert before + [pid for pid in tree if _has_open(pid, lock)] == []
    with locked(lock):
        assert is_alive(lease["pid"])


def test_whoever_reads_a_ticks_output_does_not_wait_for_wrappers(station: Station):
    task_id = station.add("sleep 300")
    arguments = ["--base-path", str(station.base), "run", "--once"]

    done = subprocess.run(
        ["sh", "-c", f'{PYTHON} -I -m tinyscheduler "$@" 2>&1 | cat', "sh", *arguments],
        env=station.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert f"task {task_id}" in done.stdout
    assert is_alive(station.until_running(task_id)["pid"])


# -- readers --------------------------------------------------------------------------


def test_readers_in_a_loop_never_make_a_tick_see_a_lock_held(make_station: Callable[..., Station]):
    station = make_station(kicks=False)
    config = station.config()
    ended = station.add("true")
    station.tick()
    until(lambda: list((station.state / "results").glob("[!.]*")), "a result to look at")
    store, lock = FileLeaseStore(config.paths, locks=LockTrial()), FileTickLock(config.paths)
    clock, settings = SystemClock(), settings_of(config)

    with (
        started(READER, station) as one,
        started(READER, station) as other,
        wired(config, clock=clock, mode=Mode.ACT, warnings=[]) as world,
    ):
        for reader in (one, other):
            assert reader.stdout is not None
            assert reader.stdout.readline() == "looked\n"
        for _ in range(800):
            assert lock.acquire() is None
            lock.release()
            held = store.acquire("1000")
            assert held is not None
            held.close()
            (entry, free) = store.scan().entries
            assert (entry.task_id, entry.is_lock_held) == (ended, False)
            assert not free.is_lock_held
        for _ in range(20):
            report = tick(world, settings)
            assert not report.locked
            assert report.errors == ()
        for reader in (one, other):
            assert reader.poll() is None
            assert reader.stdout is not None
            assert reader.stdout.readline() == "looked\n", "it has been at it all the time"

    assert station.task(ended).state is TaskState.DONE


# -- wishes ---------------------------------------------------------------------------


@contextmanager
def a_tick_held_up(
    station: Station, start: Callable[[], subprocess.Popen[bytes]] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a tick that has claimed a task and cannot go on, its lock held, until left."""
    errors = Path(station.config().paths.logs) / "wrapper.log"
    errors.parent.mkdir(parents=True, exist_ok=True)
    # A wrapper is started with this file open, which waits until somebody reads.
    os.mkfifo(errors)
    station.add("sleep 300")
    process = (start or station.start_tick)()
    until(lambda: list((station.state / "running").glob("*.json")), "the tick to be at work")
    yield process
    reading = os.open(errors, os.O_RDWR | os.O_NONBLOCK)
    errors.unlink()
    process.communicate(timeout=30)
    os.close(reading)


def test_a_refused_tick_leaves_a_wish_that_the_holder_grants(station: Station):
    with a_tick_held_up(station):
        task_id = station.add("sleep 300")
        assert not (station.state / "kick").exists()

        refused = station.run("run", "--once")

        assert "another tick is running" in refused.stderr
        assert (station.state / "kick").exists()
        assert station.task(task_id).state is TaskState.WAITING

    assert station.task(task_id).state is TaskState.WORKING, "when the holder ended"
    assert not (station.state / "kick").exists()
    station.until_running(task_id)


def test_a_wish_that_the_holder_has_no_time_for_is_granted_by_another_tick(
    make_station: Callable[..., Station],
):
    station = make_station(TICK_BUDGET_SEC="0.05")
    with a_tick_held_up(station) as held_up:
        task_id = station.add("sleep 300")
        station.tick()

    station.until_running(task_id)

    started_by = (station.state / "tinyscheduler.pid").read_text()
    assert f"pid {held_up.pid}," not in started_by


def test_a_tick_that_can_start_no_other_says_so_and_ends_as_it_would(
    make_station: Callable[..., Station], tmp_path: Path
):
    station = make_station(TICK_BUDGET_SEC="0.001")
    code = "import sys; from tinyscheduler.cli.main import main; sys.executable = '/nowhere/python'"
    code += "; sys.exit(main(sys.argv[1:]))"
    argv = [PYTHON, "-I", "-c", code, "--base-path", str(station.base), "run"]
    with (
        (tmp_path / "errors").open("w") as errors,
        a_tick_held_up(
            station,
            lambda: subprocess.Popen(argv, env=station.environment(), stderr=errors),
        ) as held_up,
    ):
        kick(station.config())

    assert held_up.returncode == 1, "the start that it was held up in failed too"
    said = (tmp_path / "errors").read_text()
    assert "warning: no tick could be started (No such file or directory)" in said
    assert "internal error" not in said
    assert (station.state / "kick").exists()


def test_slots_that_become_free_start_what_waits_without_another_run(station: Station):
    tasks = [station.add("sleep 0.1") for _ in range(6)]

    station.tick()
    station.wait_final(*tasks)

    assert [station.starts(task_id) for task_id in tasks] == [[1]] * 6
    running = most = 0
    for what, *_ in station.lines():
        running += 1 if what == "start" else -1
        most = max(most, running)
    assert most <= 2
    until(lambda: station.leftovers() == [], "all to be settled")


def test_beside_a_daemon_a_wrapper_leaves_the_tick_to_it(station: Station):
    release = station.base / "release"
    task_id = station.add(f'while [ ! -e "{release}" ]; do sleep 0.02; done')

    with locked(station.state / "daemon.lock"):
        station.tick()
        lease = station.until_running(task_id)
        release.touch()
        until(lambda: not is_alive(lease["pid"]), "the wrapper to end")

        assert (station.state / "kick").exists()
        assert station.task(task_id).state is TaskState.WORKING, "nobody has settled it"
        left = station.lease(task_id)
        assert left is not None
        assert left["state"] == LeaseState.FINISHED

    station.tick()
    assert station.task(task_id).state is TaskState.DONE


# -- the daemon -----------------------------------------------------------------------


@contextmanager
def a_daemon(station: Station) -> Iterator[subprocess.Popen[str]]:
    """Run a daemon that has done its first tick."""
    with started(DAEMON, station) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "tick 0\n"
        yield daemon


def test_the_daemon_acts_on_a_wish_long_before_its_interval(make_station: Callable[..., Station]):
    station = make_station(LOOP_INTERVAL_SEC="60")
    with a_daemon(station) as daemon:
        task_id = station.add()

        before = time.monotonic()
        kick(station.config())
        until(lambda: station.starts(task_id), "the task to start")

        # Mostly the start of two interpreters; the interval is a minute.
        assert time.monotonic() - before < 3
        assert daemon.poll() is None


def test_a_daemon_that_is_told_to_end_leaves_attempts_running(station: Station):
    with a_daemon(station) as daemon:
        task_id = station.add("sleep 300")
        kick(station.config())
        lease = station.until_running(task_id)

        daemon.send_signal(signal.SIGTERM)

        assert daemon.wait(timeout=15) == 0
        assert is_alive(lease["pid"])
        assert is_alive(lease["process"]["pgid"])
    with locked(station.state / "daemon.lock"), locked(station.state / "tinyscheduler.pid"):
        pass


def test_a_second_daemon_is_refused(station: Station):
    with a_daemon(station) as daemon, started(DAEMON, station, stderr=subprocess.PIPE) as second:
        _, words = second.communicate(timeout=20)

        assert second.returncode == 1
        assert words.startswith(f"{EXIT_BUSY} another daemon serves this base path")
        assert f"pid {daemon.pid}" in words
        assert daemon.poll() is None


def test_many_tasks_leave_a_daemon_no_zombie_and_no_descriptor(
    make_station: Callable[..., Station],
):
    station = make_station(LOOP_INTERVAL_SEC="60", AGENT_LIMITS="shell:4")
    with a_daemon(station) as daemon:
        task_id = station.add()
        kick(station.config())
        station.wait_final(task_id)
        until(lambda: station.leftovers() == [], "it to be settled")
        lock = str(station.state / "tinyscheduler.pid")
        before = until(
            lambda: lock not in (found := _descriptors(daemon.pid)) and found, "the tick to end"
        )

        tasks = [station.add() for _ in range(20)]
        kick(station.config())
        station.wait_final(*tasks, limit_s=40)
        until(lambda: station.leftovers() == [], "all to be settled")

        assert all(station.starts(task_id) == [1] for task_id in tasks)
        until(lambda: _children(daemon.pid) == [], "all wrappers to be reaped")
        until(lambda: _descriptors(daemon.pid) == before, "as many descriptors as before")


# -- looking --------------------------------------------------------------------------


def _descriptors(pid: int) -> list[str]:
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(os.readlink(path))
    return sorted(names)


def _has_open(pid: int, file: Path) -> bool:
    return any(path.exists() and path.samefile(file) for path in Path(f"/proc/{pid}/fd").iterdir())


def _table() -> list[tuple[int, list[str]]]:
    rows = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            rows.append((int(name), text[text.rindex(")") + 2 :].split()))
    return rows


def _group(pgid: int) -> list[int]:
    return [pid for pid, fields in _table() if int(fields[2]) == pgid]


def _children(parent: int) -> list[int]:
    """Return all children, zombies included."""
    return [pid for pid, fields in _table() if int(fields[1]) == parent]
