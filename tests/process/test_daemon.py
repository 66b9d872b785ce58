"""The daemon ticks for every reason there is, hears signals, and answers its service manager."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import PROGRAM, Place
from tests.process.station import until

import tinyscheduler
from tinyscheduler.adapters.leases_file import read_lock_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Self

LIMIT_S = 30
NEVER = "100000"  # the clock alone would never be a reason to tick


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "base", {"LOOP_INTERVAL_SEC": NEVER})
    yield place
    place.clean_up()


class Manager:
    """A service manager's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hear(self, wanted: str) -> str:
        """Return the first message from now on that begins so."""
        deadline = time.monotonic() + LIMIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            message = self.socket.recv(4096).decode()
            self.said.append(message)
            if message.startswith(wanted):
                return message
        raise AssertionError(f"never heard {wanted!r}, only {self.said}")

    def count(self, message: str, *, within_s: float) -> int:
        """Count a message over some time."""
        deadline = time.monotonic() + within_s
        found = 0
        while (left_s := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                found += self.socket.recv(4096).decode() == message
            except TimeoutError:
                break
        return found


@contextmanager
def serving(
    place: Place, *, without: tuple[str, ...] = (), argv: tuple[str, ...] = (), **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon, from its first tick on; end it after the block if it still runs."""
    variables = {
        name: value
        for name, value in place.environment(**environment).items()
        if name.removeprefix("TINYSCHEDULER_") not in without
    }
    with subprocess.Popen(
        [*(argv or place.argv()), "run", "--daemon"],
        env=variables,
        cwd=place.base,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as daemon:
        try:
            until(lambda: holder_of(place) == daemon.pid, "the daemon's lock")
            until((place.state / "tinyscheduler.pid").exists, "its first tick")
            yield daemon
        finally:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGCONT)
                daemon.kill()
                daemon.communicate(timeout=LIMIT_S)


def holder_of(place: Place) -> int | None:
    """Return the process that holds the daemon's lock of that name; taking it would disturb."""
    try:
        path = place.state / "daemon.lock"
        status = path.stat()
    except FileNotFoundError:
        return None
    key = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    if key not in read_lock_table():
        return None
    found = re.match(r"pid (\d+), since ", path.read_text())
    return int(found[1]) if found else None


def state_of(place: Place, task_id: str) -> str:
    state: str = place.run("show", task_id, "--json").json["state"]
    return state


def end(daemon: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Stop it as a service manager would; return its exit code and what it complained of."""
    daemon.terminate()
    _, errors = daemon.communicate(timeout=LIMIT_S)
    return daemon.returncode, complaints(errors)


def complaints(said: bytes) -> str:
    """Return what a daemon said but for its greetings and its farewell."""
    lines = said.decode().splitlines(keepends=True)
    usual = ("ticking in ", "the settings were read again; ", "stopped; ")
    return "".join(line for line in lines if not line.startswith(usual))


# -- the service manager ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_hears_of_start_reload_and_stop(
    place: Place, tmp_path: Path, kind: str
):
    address = str(tmp_path / "notify") if kind == "path" else f"@tinyscheduler-{os.getpid()}"
    with Manager(address) as manager, serving(place, NOTIFY_SOCKET=address) as daemon:
        manager.hear("READY=1")
        assert re.match(r"STATUS=0 started, 0 settled, 0 waiting", manager.hear("STATUS="))

        before = time.monotonic_ns() // 1000
        daemon.send_signal(signal.SIGHUP)
        reloading = manager.hear("RELOADING=1")
        manager.hear("READY=1")
        manager.hear("STATUS=0 started")  # it ticks at once
        stamp = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
        assert stamp is not None
        assert before <= int(stamp[1]) <= time.monotonic_ns() // 1000

        assert end(daemon) == (0, "")
        manager.hear("STOPPING=1")


def test_a_watchdog_is_fed_while_the_daemon_waits_and_while_a_tick_sleeps(
    place: Place, manager: Manager
):
    place.settings["STAGGER_DELAY_MS"] = "3000"
    for _ in range(2):
        place.add("--", "sleep", "1000")
    with serving(place, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000"):
        manager.hear("READY=1")

        # The first tick sleeps three seconds between its two starts.
        assert manager.count("WATCHDOG=1", within_s=2) >= 5
        manager.hear("STATUS=2 started")
        assert manager.count("WATCHDOG=1", within_s=2) >= 5


def test_a_daemon_that_hangs_starves_its_watchdog(place: Place, manager: Manager):
    with serving(place, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="200000") as daemon:
        manager.hear("WATCHDOG=1")
        daemon.send_signal(signal.SIGSTOP)
        manager.count("WATCHDOG=1", within_s=0.3)

        assert manager.count("WATCHDOG=1", within_s=1) == 0
        daemon.send_signal(signal.SIGCONT)
        manager.hear("WATCHDOG=1")


def test_the_watchdog_of_another_process_is_not_fed(place: Place, manager: Manager):
    with serving(place, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="100000", WATCHDOG_PID="1"):
        manager.hear("READY=1")

        assert manager.count("WATCHDOG=1", within_s=1) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"NOTIFY_SOCKET": "/nonexistent/socket"},
        {"NOTIFY_SOCKET": "x" * 200},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/dev/null", "WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "100000"},
    ],
    ids=str,
)
def test_a_service_manager_that_cannot_be_reached_stops_nothing(
    place: Place, broken: dict[str, str]
):
    with serving(place, without=(), argv=(), **broken) as daemon:
        place.add("--", "true")

        assert place.run("wait", "1", "--timeout", "20s").code == 0
        assert end(daemon) == (0, "")


def test_an_attempt_never_speaks_for_the_daemon(place: Place, manager: Manager):
    with serving(place, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="60000000"):
        manager.hear("READY=1")
        place.add("--", "sh", "-c", "env; tr '\\0' '\\n' < /proc/$PPID/environ")
        assert place.run("wait", "1", "--timeout", "20s").code == 0

    printed = place.run("logs", "1").out
    assert "TINYSCHEDULER_TASK_ID=1" in printed
    assert "NOTIFY_SOCKET" not in printed
    assert "WATCHDOG" not in printed


# -- an update under it ----------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a copy of the program, which an update may replace."""
    package = tmp_path / "site" / "tinyscheduler"
    shutil.copytree(
        Path(tinyscheduler.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    return package


def serving_from(
    package: Path, place: Place, **environment: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    # Not isolated, or it would find the checkout and not the copy.
    program = (sys.executable, "-P", str(package / "__main__.py"))
    argv = (*program, "--base-path", str(place.base))
    environment["PYTHONPATH"] = str(package.parent)
    return serving(place, without=(), argv=argv, **environment)


def update(package: Path, **words: str) -> None:
    """Replace every file, as installers do, and put new words into some places of run.py."""
    new = package.with_name("new")
    shutil.copytree(package, new, ignore=shutil.ignore_patterns("__pycache__"))
    run = new / "cli" / "run.py"
    text = run.read_text()
    for before, after in words.items():
        assert before in text
        text = text.replace(before, after)
    run.write_text(text)
    remove(package)
    new.rename(package)


def remove(package: Path) -> None:
    """Take the program away at one blow: the daemon may just be compiling something in it."""
    package.rename(package.with_name(f"removed-{time.monotonic_ns()}"))


def test_a_daemon_becomes_the_version_that_was_installed_under_it(
    place: Place, installed: Path, manager: Manager
):
    with serving_from(
        installed, place, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="60000000"
    ) as daemon:
        manager.hear("READY=1")
        old = place.add("--", "sh", "-c", f"echo once >> {place.base}/old; sleep 2")
        until(lambda: state_of(place, old) == "running", "the attempt of the old version")
        update(installed, ticking="this is the new version")

        new = place.add("--", "true")
        manager.hear("RELOADING=1")
        manager.hear("READY=1")

        assert place.run("wait", old, new, "--timeout", "20s").code == 0
        assert (place.base / "old").read_text() == "once\n"
        assert holder_of(place) == daemon.pid
        assert place.leftovers() == []
        code, said = end(daemon)
    assert code == 0
    assert said.startswith("TinyScheduler was changed on disk; going on as what is there now\n")
    assert f"this is the new version in {place.base}" in said


def test_an_error_of_a_tick_in_which_the_files_were_replaced_is_no_end_of_the_daemon(
    place: Place, installed: Path
):
    new = installed.with_name("new")
    shutil.copytree(installed, new, ignore=shutil.ignore_patterns("__pycache__"))
    run = installed / "cli" / "run.py"
    exchange = f"import os; os.rename('{installed}', '{installed}.old'); os.rename('{new}', "
    exchange += f"'{installed}'); report.of_another_version"
    before = "    stats = report.stats\n"
    assert before in run.read_text()
    run.write_text(run.read_text().replace(before, f"    {exchange}\n{before}"))

    with serving_from(installed, place) as daemon:
        task_id = place.add("--", "true")

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        code, said = end(daemon)
    assert code == 0
    assert "going on as what is there now" in said
    assert "internal error" not in said


def test_a_version_that_does_not_start_is_not_become_until_it_is_mended(
    place: Place, installed: Path
):
    with serving_from(installed, place) as daemon:
        update(installed, Annotated="Annotate")
        task_id = place.add("--", "true")
        assert daemon.stderr is not None
        told = [daemon.stderr.readline() for _ in range(2)][1].decode()
        assert state_of(place, task_id) == "waiting"

        update(installed, Annotate="Annotated")

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert end(daemon)[0] == 0
    assert "what is there now does not start: ImportError: cannot import name 'Annotate'" in told
    assert "nothing is started or settled until it does" in told


def test_a_sigterm_while_the_new_version_is_tried_ends_the_daemon(place: Place, installed: Path):
    with serving_from(installed, place) as daemon:
        run = installed / "cli" / "run.py"
        slow = "\nimport sys, time\nif '--dry-run' in sys.argv:\n    time.sleep(1)\n"
        run.write_text(run.read_text() + slow)
        update(installed)
        place.add("--", "true")
        until(lambda: trials_of(daemon.pid), "the new version to be tried")

        code, said = end(daemon)

    assert code == 0
    assert "going on as what is there now" not in said


def trials_of(pid: int) -> list[str]:
    """Return the command lines of dry runs that this process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    return [line for line in lines if "--dry-run" in line]


def test_a_daemon_whose_program_was_removed_stays_and_starts_nothing(place: Place, installed: Path):
    with serving_from(installed, place) as daemon:
        remove(installed)
        task_id = place.add("--", "true")
        assert daemon.stderr is not None
        told = [daemon.stderr.readline() for _ in range(2)][1].decode()

        assert state_of(place, task_id) == "waiting"
        assert place.run("show", task_id, "--json").json["failures"] == 0
        assert end(daemon)[0] == 0
    assert "nothing is started or settled until it does" in told


# -- signals -----------------------------------------------------------------------------


def test_a_reload_applies_at_once_what_has_changed(place: Place):
    settings = place.base / ".env.tinyscheduler"
    settings.write_text("TINYSCHEDULER_ENABLED=false\n")
    with serving(place) as daemon:
        task_id = place.add("--", "true")
        settings.write_text("TINYSCHEDULER_ENABLED=true\n")

        daemon.send_signal(signal.SIGHUP)

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert end(daemon) == (0, "")


def test_a_reload_does_not_wait_for_a_tick_that_sleeps_between_starts(place: Place):
    settings = place.base / ".env.tinyscheduler"
    del place.settings["LOOP_INTERVAL_SEC"]
    settings.write_text("TINYSCHEDULER_TICK_BUDGET_SEC=1000\nTINYSCHEDULER_STAGGER_DELAY_MS=900000")
    tasks = [place.add("--", "true") for _ in range(2)]
    with serving(place, without=("STAGGER_DELAY_MS",)) as daemon:
        assert place.run("wait", tasks[0], "--timeout", "20s").code == 0
        settings.write_text("TINYSCHEDULER_STAGGER_DELAY_MS=0\n")

        daemon.send_signal(signal.SIGHUP)

        assert place.run("wait", tasks[1], "--timeout", "20s").code == 0
        assert end(daemon) == (0, "")


def test_each_reload_is_answered_with_what_applies_now_or_why_nothing_changed(place: Place):
    settings = place.base / ".env.tinyscheduler"
    with serving(place) as daemon:
        assert daemon.stderr is not None
        assert daemon.stderr.readline().startswith(b"ticking in ")
        answers = []
        for line in ("AGENT_LIMITS=shell:7", "MAX_ATTEMPTS=x", *["LOG_LEVEL=loud"] * 2):
            settings.write_text(f"TINYSCHEDULER_{line}\n")
            daemon.send_signal(signal.SIGHUP)
            answers.append(daemon.stderr.readline().decode())
            if line == "MAX_ATTEMPTS=x":
                answers.append(daemon.stderr.readline().decode())

    good, tuning, same, *bad = answers
    assert good.startswith(f"the settings were read again; ticking in {place.base} every ")
    assert good.endswith("; agents: shell 7\n")
    assert tuning.startswith("warning: TINYSCHEDULER_MAX_ATTEMPTS: ")
    assert same.startswith("the settings were read again; ")
    assert len(bad) == 2
    for answer in bad:
        assert answer.startswith("warning: TINYSCHEDULER_LOG_LEVEL: ")
        assert answer.endswith("; going on with the settings before\n")


def test_a_configuration_that_cannot_be_used_is_told_once_and_the_last_one_goes_on(place: Place):
    settings = place.base / ".env.tinyscheduler"
    kick = place.state / "kick"
    with serving(place) as daemon:
        settings.write_text("TINYSCHEDULER_LOG_LEVEL=loud\n")
        for _ in range(3):
            kick.touch()
            until(lambda: not kick.exists(), "a tick that was wished for")
        settings.unlink()
        task_id = place.add("--", "true")
        assert place.run("wait", task_id, "--timeout", "20s").code == 0

        code, errors = end(daemon)

    assert code == 0
    assert errors.count("LOG_LEVEL") == 1
    assert "going on with the settings before" in errors


def test_a_base_path_that_changes_under_a_daemon_is_not_followed(place: Place, tmp_path: Path):
    settings = tmp_path / "settings"
    settings.write_text(f"TINYSCHEDULER_BASE_PATH={place.base}\n")
    argv = (*PROGRAM, "--env-file", str(settings))
    with serving(place, argv=argv) as daemon:
        settings.write_text(f"TINYSCHEDULER_BASE_PATH={tmp_path / 'other'}\n")

        daemon.send_signal(signal.SIGHUP)

        task_id = place.add("--", "true")
        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        code, errors = end(daemon)

    assert code == 0
    assert "restart the daemon" in errors
    assert not (tmp_path / "other").exists()


def test_a_daemon_goes_on_where_its_base_path_is_called_by_another_name(
    place: Place, tmp_path: Path
):
    settings = tmp_path / "settings"
    settings.write_text(f"TINYSCHEDULER_BASE_PATH={place.base}\nTINYSCHEDULER_ENABLED=false\n")
    link = tmp_path / "link"
    link.symlink_to(place.base)
    with serving(place, argv=(*PROGRAM, "--env-file", str(settings))) as daemon:
        task_id = place.add("--", "true")
        settings.write_text(f"TINYSCHEDULER_BASE_PATH={link}\n")

        daemon.send_signal(signal.SIGHUP)

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert end(daemon) == (0, "")


def test_the_first_sigterm_ends_a_sleeping_tick_and_more_of_them_hurry_nothing(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "900000"
    place.settings["TICK_BUDGET_SEC"] = "1000"
    first = place.add("--", "sleep", "1000")
    second = place.add("--", "true")
    with serving(place) as daemon:
        until(lambda: state_of(place, first) == "running", "the first start")
        for _ in range(20):
            daemon.send_signal(signal.SIGTERM)
        _, errors = daemon.communicate(timeout=LIMIT_S)

    assert (daemon.returncode, complaints(errors)) == (0, "")
    assert (state_of(place, first), state_of(place, second)) == ("running", "waiting")


def test_a_kick_that_comes_while_a_tick_sleeps_is_honoured(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "1500"
    tasks = [place.add("--", "true") for _ in range(2)]
    with serving(place):
        assert place.run("wait", tasks[0], "--timeout", "20s").code == 0

        # The second start is a second and a half away; this one comes into that sleep.
        tasks.append(place.add("--", "true"))

        assert place.run("wait", *tasks, "--timeout", "20s").code == 0


def test_a_daemon_whose_output_has_no_room_goes_on(place: Place):
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            place.argv("run", "--daemon"),
            env=place.environment(),
            cwd=place.base,
            stdout=full,
            stderr=subprocess.DEVNULL,
        ) as daemon,
    ):
        for _ in range(2):
            task_id = place.add("--", "true")
            assert place.run("wait", task_id, "--timeout", "20s").code == 0
        daemon.terminate()
        daemon.communicate(timeout=LIMIT_S)

    assert daemon.returncode == 0


def test_a_daemon_that_cannot_complain_goes_on_and_ends_well(place: Place, manager: Manager):
    settings = place.base / ".env.tinyscheduler"
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            place.argv("run", "--daemon"),
            env=place.environment(NOTIFY_SOCKET=manager.address),
            cwd=place.base,
            stdout=subprocess.DEVNULL,
            stderr=full,
        ) as daemon,
    ):
        manager.hear("STATUS=0 started")
        settings.write_text("TINYSCHEDULER_LOG_LEVEL=loud\n")
        daemon.send_signal(signal.SIGHUP)
        manager.hear("RELOADING=1")
        manager.hear("READY=1")
        settings.unlink()
        task_id = place.add("--", "true")
        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        daemon.terminate()
        daemon.communicate(timeout=LIMIT_S)

    assert daemon.returncode == 0


def test_what_goes_wrong_in_each_tick_is_told_once(place: Place):
    place.state.mkdir(mode=0o700)
    (place.state / "tinyscheduler.db").write_text("garbage")
    kick = place.state / "kick"
    with serving(place) as daemon:
        # The first tick may take the first wish yet; each other has a tick of its own.
        for _ in range(4):
            kick.touch()
            until(lambda: not kick.exists(), "a tick to take the wish")

        code, errors = end(daemon)

    assert code == 0
    assert errors.count("is damaged, or no database at all") == 1


def test_a_daemon_whose_reader_went_away_goes_on(place: Place):
    with subprocess.Popen(
        place.argv("run", "--daemon"),
        env=place.environment(),
        cwd=place.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.close()
        for _ in range(2):
            task_id = place.add("--", "true")
            assert place.run("wait", task_id, "--timeout", "20s").code == 0
        daemon.terminate()
        daemon.wait(timeout=LIMIT_S)

    assert daemon.returncode == 0


def test_a_daemon_ends_with_the_terminal_it_was_typed_at(place: Place):
    master, terminal = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *place.argv("run", "--daemon")],
        env=place.environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    ) as daemon:
        os.close(terminal)
        until(lambda: holder_of(place) == daemon.pid, "the daemon's lock")
        task_id = place.add("--", "sleep", "1000")
        until(lambda: state_of(place, task_id) == "running", "the command")

        os.close(master)  # the kernel sends SIGHUP, as when a window is closed

        daemon.wait(timeout=LIMIT_S)
    assert state_of(place, task_id) == "running"


# -- files -------------------------------------------------------------------------------


def test_a_result_whose_wrapper_died_before_it_could_kick_is_settled_at_once(place: Place):
    task_id = place.add("--", "sh", "-c", "while [ ! -e go ]; do sleep 0.05; done")
    # Started by another tick, so that its end is no news to the daemon as a child's is.
    tick = place.run("run", TINYSCHEDULER_CRASH_AT=f"wrapper.kick:before {place.base}/crashed")
    assert tick.code == 0
    until(lambda: state_of(place, task_id) == "running", "the command")
    with serving(place):
        (place.base / "go").touch()

        until((place.base / "crashed").exists, "the wrapper's death")
        assert place.run("wait", task_id, "--timeout", "20s").code == 0


@pytest.mark.parametrize("removed", ["-shm", "-wal", "-wal -shm"])
def test_a_log_that_is_removed_under_a_daemon_costs_nothing_that_is_added_afterwards(
    place: Place, removed: str
):
    place.settings["LOOP_INTERVAL_SEC"] = "0.5"
    with serving(place) as daemon:
        first = place.add("--", "true")
        assert place.run("wait", first, "--timeout", "20s").code == 0
        for suffix in removed.split():
            (place.state / f"tinyscheduler.db{suffix}").unlink()

        # Beside an index without its log SQLite refuses everybody, until the daemon notices.
        added = until(
            lambda: (answer := place.run("add", "--", "true")).code == 0 and answer, "to be let in"
        )
        second = added.out.strip()

        assert place.run("wait", second, "--timeout", "20s").code == 0
        assert holder_of(place) == daemon.pid
        code, complaint = end(daemon)
        assert code == 0
        assert "was removed under this daemon" in complaint
    assert state_of(place, second) == "done"


def test_a_state_folder_that_is_removed_and_made_anew_is_served_again(place: Place):
    with serving(place) as daemon:
        place.state.rename(place.base / "state.old")

        until(lambda: holder_of(place) == daemon.pid, "the lock in the new folder")
        task_id = place.add("--", "true")

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert place.run("run", "--daemon").code == 75
        # A tick that was at work at that moment may well have complained.
        assert end(daemon)[0] == 0


def test_a_daemon_whose_place_was_taken_meanwhile_gives_way(place: Place):
    with serving(place) as daemon:
        daemon.send_signal(signal.SIGSTOP)
        place.state.rename(place.base / "state.old")
        with serving(place) as other:
            daemon.send_signal(signal.SIGCONT)

            _, errors = daemon.communicate(timeout=LIMIT_S)

            assert daemon.returncode == 75
            assert f"another daemon serves this base path (pid {other.pid}, " in errors.decode()


def test_pressure_that_comes_is_a_reason_to_tick(place: Place):
    pidfile = place.state / "tinyscheduler.pid"
    with serving(place):
        until(lambda: pidfile.stat().st_size > 0, "the first tick")
        before = pidfile.stat().st_mtime_ns
        (place.state / "pressure").mkdir()
        until(lambda: pidfile.stat().st_mtime_ns > before, "a tick for the folder")
        before = pidfile.stat().st_mtime_ns

        (place.state / "pressure" / "chat.json").write_text("{}")

        until(lambda: pidfile.stat().st_mtime_ns > before, "a tick for the file")


def is_locked(path: Path) -> bool:
    return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


@pytest.mark.parametrize("used_up", ["max_inotify_instances", "max_inotify_watches"])
def test_a_daemon_that_may_watch_nothing_still_hears_of_work_within_a_second_or_two(
    place: Place, used_up: str
):
    # A user namespace has limits of its own, see namespaces(7) and user_namespaces(7).
    use_up = f'echo 0 > /proc/sys/user/{used_up} && exec "$0" "$@"'
    namespace = ("unshare", "--user", "--map-root-user", "sh", "-c", use_up)
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    pidfile = place.state / "tinyscheduler.pid"
    with serving(place, argv=(*namespace, *(str(one) for one in place.argv()))) as daemon:
        until(lambda: pidfile.stat().st_size > 0 and not is_locked(pidfile), "the first tick")
        before = pidfile.stat().st_mtime_ns
        time.sleep(2.5)
        idle = pidfile.stat().st_mtime_ns

        task_id = place.add("--", "true")

        assert place.run("wait", task_id, "--timeout", "20s").code == 0
        assert idle == before, "it ticks for no reason"
        assert end(daemon) == (0, "")


# -- time --------------------------------------------------------------------------------


def test_a_task_whose_time_has_come_does_not_wait_for_the_clocks_turn(place: Place):
    place.settings["RETRY_BASE_SEC"] = "0.7"
    with serving(place):
        failing = place.add("--max-attempts", "3", "--", "false")
        later = place.add("--not-before", "1s", "--", "true")

        assert place.run("wait", later, "--timeout", "20s").code == 0
        assert place.run("wait", failing, "--timeout", "20s").code == 1
        assert state_of(place, failing) == "parked"


def test_starts_that_did_not_fit_into_one_tick_follow_as_soon_as_they_may(place: Place):
    place.settings |= {"STAGGER_DELAY_MS": "1500", "TICK_BUDGET_SEC": "1"}
    place.settings["AGENT_LIMITS"] = "shell:3"
    tasks = [place.add("--", "sleep", "1000") for _ in range(3)]
    place.run("run")  # new folders are a reason to tick, too
    with serving(place):
        for task_id in tasks:
            until(partial(is_running, place, task_id), f"task {task_id} to run", limit_s=20)


def is_running(place: Place, task_id: str) -> bool:
    return state_of(place, task_id) == "running"


# -- a long life -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hundreds_of_ticks_leave_nothing_behind_in_the_daemon(place: Place):
    place.settings["LOOP_INTERVAL_SEC"] = "0.02"
    with serving(place) as daemon:

        def work(tasks: int) -> None:
            for _ in range(tasks):
                assert place.run("wait", place.add("--", "true"), "--timeout", "20s").code == 0

        work(5)
        count_ticks(daemon.pid, place, until_s=4)  # what is loaded and kept once is there by now
        before = footprint(daemon.pid)
        ticks = count_ticks(daemon.pid, place, until_s=12)
        work(5)
        daemon.send_signal(signal.SIGHUP)
        work(1)
        after = footprint(daemon.pid)
        code, errors = end(daemon)

    assert (code, errors) == (0, "")
    assert ticks >= 200
    assert after["fds"] == before["fds"]
    assert after["threads"] == before["threads"] == 1
    assert after["zombies"] == 0
    # Hundreds of ticks that each kept a kilobyte would be seen.
    assert after["rss_kb"] - before["rss_kb"] < 512


def footprint(pid: int) -> dict[str, int]:
    """Return what a process holds between two ticks.

    Of what comes and goes with each tick the fewest is counted: descriptors, and helpers that
    have ended and are about to be collected.
    """
    deadline = time.monotonic() + 1
    fds, zombies = [], []
    while time.monotonic() < deadline:
        fds.append(len(os.listdir(f"/proc/{pid}/fd")))
        zombies.append(count_zombies(pid))
    status = dict(line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines())
    return {
        "fds": min(fds),
        "threads": int(status["Threads"]),
        "rss_kb": int(status["VmRSS"].split()[0]),
        "zombies": min(zombies),
    }


def count_zombies(pid: int) -> int:
    """Return how many children have ended and are not yet collected."""
    children = read(f"/proc/{pid}/task/{pid}/children").split()
    return sum(" Z " in read(f"/proc/{child}/stat") for child in children)


def read(path: str) -> str:
    """Return a file of proc(5), empty if its process is gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def count_ticks(pid: int, place: Place, *, until_s: float) -> int:
    """Count ticks by the time each writes into the pidfile."""
    seen = set()
    deadline = time.monotonic() + until_s
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        seen.add((place.state / "tinyscheduler.pid").stat().st_mtime_ns)
        time.sleep(0.005)
    return len(seen)
