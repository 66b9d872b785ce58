"""What every tick lock must do, whatever it is made of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import paths_in

from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.errors import ConfigError
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.tick_lock import SimulatedTickLock, wish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tinyscheduler.ports import TickLock

# Takes the lock, says so, and keeps it until it is killed.
HOLDER = """
import sys
from pathlib import Path
from tests.contract.places import paths_in
from tinyscheduler.adapters.tick_lock_file import FileTickLock

lock = FileTickLock(paths_in(Path(sys.argv[1])))
print(lock.acquire() or "taken", flush=True)
sys.stdin.read()
"""


@dataclass(kw_only=True)
class Place:
    """Where ticks meet.  ``hold`` lets another process take the lock, and returns its death."""

    lock: Callable[[], TickLock]
    hold: Callable[[], Callable[[], None]]
    wish: Callable[[], None]


def build_file(folder: Path) -> Place:
    paths = paths_in(folder)

    def hold() -> Callable[[], None]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"

        def die() -> None:
            process.send_signal(signal.SIGKILL)
            process.communicate()

        return die

    def make_wish() -> None:
        with open(paths.kick, "w", encoding="ascii"):
            return

    return Place(lock=lambda: FileTickLock(paths), hold=hold, wish=make_wish)


def build_simulated(_folder: Path) -> Place:
    machine, disk = Machine(), Disk()

    def hold() -> Callable[[], None]:
        process = machine.spawn("tick")
        assert SimulatedTickLock(process, disk).acquire() is None
        return lambda: machine.kill(process)

    return Place(
        lock=lambda: SimulatedTickLock(machine.spawn("tick"), disk),
        hold=hold,
        wish=lambda: wish(disk),
    )


PLACES: dict[str, Callable[[Path], Place]] = {"file": build_file, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


@pytest.fixture
def held(place: Place) -> Iterator[Place]:
    die = place.hold()
    yield place
    die()


def test_whoever_comes_first_has_the_lock_and_the_next_is_told_who(place):
    first, second = place.lock(), place.lock()

    assert first.acquire() is None
    holder = second.acquire()

    assert holder
    first.release()
    assert second.acquire() is None
    second.release()


def test_another_process_keeps_it_as_long_as_it_lives_and_not_longer(place):
    die = place.hold()
    lock = place.lock()
    assert lock.acquire() is not None

    die()

    assert lock.acquire() is None
    lock.release()


def test_the_wish_of_whoever_is_refused_is_kept(held):
    lock = held.lock()

    assert lock.acquire() is not None

    assert lock.is_kicked()


def test_whoever_gets_the_lock_wishes_for_nothing(place):
    lock = place.lock()

    assert lock.acquire() is None

    assert not lock.is_kicked()
    lock.release()


def test_a_wish_is_there_until_it_is_forgotten(place):
    lock = place.lock()
    assert lock.acquire() is None
    place.wish()
    assert lock.is_kicked()

    lock.forget_kick()

    assert not lock.is_kicked()
    lock.forget_kick()
    lock.release()


def test_a_wish_that_comes_after_forgetting_is_seen_after_releasing(place):
    lock = place.lock()
    assert lock.acquire() is None
    lock.forget_kick()

    place.wish()
    lock.release()

    assert lock.is_kicked()


def test_releasing_what_is_not_held_does_nothing(held):
    lock = held.lock()
    assert lock.acquire() is not None

    lock.release()

    assert held.lock().acquire() is not None


def test_a_lock_can_be_taken_again_by_the_same_process(place):
    lock = place.lock()

    for _ in range(3):
        assert lock.acquire() is None
        lock.release()


def test_a_child_of_the_holder_does_not_inherit_the_lock(tmp_path):
    lock = FileTickLock(paths_in(tmp_path))
    assert lock.acquire() is None
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()

        assert FileTickLock(paths_in(tmp_path)).acquire() is None
    finally:
        child.kill()
        child.wait()


def test_the_file_of_the_lock_says_who_has_it_and_is_never_removed(tmp_path):
    paths = paths_in(tmp_path)
    lock = FileTickLock(paths)
    assert lock.acquire() is None
    inode = os.stat(paths.tick_lock).st_ino
    holder = FileTickLock(paths).acquire()
    lock.release()

    assert holder is not None
    assert f"pid {os.getpid()}" in holder
    assert os.stat(paths.tick_lock).st_ino == inode


@pytest.mark.parametrize(
    "content",
    [b"agents: {}\n", b"SQLite format 3\0", b"pid 1, since 2026-01-02\n", b"1" * 300, b"7\n\nx"],
)
def test_a_file_that_holds_anything_else_is_refused_and_left_as_it_is(tmp_path, content):
    paths = paths_in(tmp_path)
    lock = tmp_path / "state" / "tinyscheduler.pid"
    lock.parent.mkdir()
    lock.write_bytes(content)

    with pytest.raises(ConfigError, match=r"LOCK_FILE.*holds something else than a tick lock"):
        FileTickLock(paths).acquire()

    assert lock.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path):
    paths = paths_in(tmp_path)
    (tmp_path / "state").mkdir()
    os.mkfifo(paths.tick_lock)

    with pytest.raises(ConfigError, match="is not a file"):
        FileTickLock(paths).acquire()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"pid 24500, start ticks 1267523, since 2026-11-21T08:09:13.791Z\n",
        b"pid 24500, start ticks 1267523\n",  # before the time was told
        b"24500\n",  # the first TinyScheduler's
        b"pid 24500, start ticks 999\n91Z\n",  # killed before it cut the longer one off
        b"\0" * 63,  # after a power failure
    ],
)
def test_what_any_holder_may_have_left_is_taken_over(tmp_path, content):
    paths = paths_in(tmp_path)
    lock = tmp_path / "state" / "tinyscheduler.pid"
    lock.parent.mkdir()
    lock.write_bytes(content)

    assert FileTickLock(paths).acquire() is None

    assert lock.read_text().startswith(f"pid {os.getpid()}, start ticks ")
