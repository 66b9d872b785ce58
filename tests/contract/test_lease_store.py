"""What every lease store must do, whatever it is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease
from tests.contract.places import paths_in

from tinyscheduler.adapters.leases_file import FileLeaseStore, FileTaskLock, LockTable, LockTrial
from tinyscheduler.errors import LeaseConflict, StoreError
from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.leases import Found, Lease, LeaseFault, UnreadableLease
from tinyscheduler.simulator.disk import Disk, Refusal
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.store import SimulatedLeaseStore, SimulatedTaskLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tinyscheduler.model.leases import LeaseEntry
    from tinyscheduler.ports import LeaseStore, TaskLock

GARBAGE = ["", "{", "[]", "\x00\x00", '{"version": 1}', '{"version": 0}', '{"version": "1"}', "NaN"]
NEWER = '{"version": 99, "what": "nobody knows yet"}'
# Tries to take many locks at once with others, and keeps those it got until it is told to end.
TAKER = """
import sys
from pathlib import Path
from tests.contract.places import paths_in
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTrial

store = FileLeaseStore(paths_in(Path(sys.argv[1])), locks=LockTrial())
sys.stdin.readline()
taken = {str(number): store.acquire(str(number)) for number in range(int(sys.argv[2]))}
print(*(name for name, lock in taken.items() if lock is not None), flush=True)
sys.stdin.read()
"""

# Takes and gives back many locks, which reorders the kernel's table of them.
RESTLESS = """
import fcntl, os, sys

names = [f"{sys.argv[1]}/restless-{number}" for number in range(50)]
files = [os.open(name, os.O_RDWR | os.O_CREAT) for name in names]
while True:
    for how in (fcntl.LOCK_EX, fcntl.LOCK_UN):
        for file in files:
            fcntl.flock(file, how)
"""


@dataclass(kw_only=True)
class Place:
    """Where leases lie.  Each call of ``store`` is another process's."""

    store: Callable[[], LeaseStore]
    put_lease: Callable[[str, str], None]
    put_result: Callable[[str, str], None]
    put_cancel: Callable[[str], None]
    # Everything there is, as kind/name; locks, cancel requests and quarantine included.
    listing: Callable[[], list[str]]
    refuse_lease: Callable[[str], None]
    refuse_result_removal: Callable[[str], None]
    # Give a share of the lock to a process of its own; returns its death.
    share: Callable[[TaskLock], Callable[[], None]]


def build_file(folder: Path, locks: Callable[[], LockTrial | LockTable]) -> Place:
    paths = paths_in(folder)

    def put(kind: str, name: str, text: str) -> None:
        os.makedirs(kind, exist_ok=True)
        with open(os.path.join(kind, name), "w", encoding="utf-8") as file:
            file.write(text)

    def listing() -> list[str]:
        kinds = {
            "running": paths.running,
            "results": paths.results,
            "cancel": paths.cancel,
            "quarantine": paths.quarantine,
        }
        return sorted(
            f"{kind}/{name.split('.json.')[0]}" if kind == "quarantine" else f"{kind}/{name}"
            for kind, path in kinds.items()
            if os.path.isdir(path)
            for name in os.listdir(path)
        )

    def share(lock: TaskLock) -> Callable[[], None]:
        assert isinstance(lock, FileTaskLock)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])

        def die() -> None:
            child.kill()
            child.wait()

        return die

    return Place(
        store=lambda: FileLeaseStore(paths, locks=locks()),
        put_lease=lambda task_id, text: put(paths.running, f"task_{task_id}.json", text),
        put_result=lambda lease_id, text: put(paths.results, f"{lease_id}.json", text),
        put_cancel=lambda lease_id: put(paths.cancel, lease_id, ""),
        listing=listing,
        # A folder in the way stops root too.
        refuse_lease=lambda task_id: os.makedirs(
            os.path.join(paths.running, f".task_{task_id}.json.tmp")
        ),
        refuse_result_removal=lambda lease_id: os.makedirs(
            os.path.join(paths.results, f".{lease_id}.json.tmp")
        ),
        share=share,
    )


def build_simulated(_folder: Path) -> Place:
    machine, disk = Machine(), Disk()

    def listing() -> list[str]:
        return sorted(
            [
                *(f"running/task_{name}.json" for name in disk.leases),
                *(f"running/task_{name}.lock" for name in disk.locks),
                *(f"results/{name}.json" for name in disk.results),
                *(f"cancel/{name}" for name in disk.cancels),
                *(f"quarantine/{name}" for name in _quarantined(disk)),
            ]
        )

    def share(lock: TaskLock) -> Callable[[], None]:
        assert isinstance(lock, SimulatedTaskLock)
        child = machine.spawn("child")
        lock.share(child)
        return lambda: machine.kill(child)

    def refuse_lease(_task_id: str) -> None:
        disk.refusal = Refusal.BYTES

    def refuse_result_removal(_lease_id: str) -> None:
        def turn_read_only(_process: object, point: str) -> None:
            if point == "result.remove:before":
                disk.refusal = Refusal.EVERYTHING

        machine.on_point = turn_read_only

    return Place(
        store=lambda: SimulatedLeaseStore(machine.spawn("tick"), disk),
        put_lease=disk.leases.__setitem__,
        put_result=disk.results.__setitem__,
        put_cancel=lambda lease_id: disk.cancels.__setitem__(lease_id, ""),
        listing=listing,
        refuse_lease=refuse_lease,
        refuse_result_removal=refuse_result_removal,
        share=share,
    )


def _quarantined(disk: Disk) -> Iterator[str]:
    for name, _ in disk.quarantine:
        yield name if name.startswith("lease-") else f"task_{name}"


PLACES: dict[str, Callable[[Path], Place]] = {
    "file": lambda folder: build_file(folder, LockTrial),
    "file, read by others": lambda folder: build_file(folder, LockTable),
    "simulated": build_simulated,
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


def take(place: Place, task_id: str = "1") -> TaskLock:
    lock = place.store().acquire(task_id)
    assert lock is not None
    return lock


def create(place: Place, task_id: str = "1") -> tuple[TaskLock, Lease]:
    """Create a lease under a fresh lock, which stays held."""
    lock = take(place, task_id)
    lease = a_lease(task_id, lease_id=f"lease-{task_id}", monotonic_heartbeat_ns=10**15)
    place.store().create(lock, lease)
    return lock, lease


def a_result_text(lease_id: str = "lease-1", **more: object) -> str:
    document: dict[str, object] = {
        "version": 1,
        "lease_id": lease_id,
        "task_id": "1",
        "source": "local",
        "agent": "coder",
        "attempt": 1,
        "outcome": "succeeded",
        "failure_reason": None,
        "exit_code": 0,
        "signal": None,
        "message": "",
        "started_at": "2026-03-01T12:00:00.000Z",
        "ended_at": "2026-03-01T12:00:01.000Z",
        "duration_sec": 1,
        "turns": None,
        "peak_rss_mb": 1.5,
        "log": "/logs/1.log",
    }
    return json.dumps(document | more)


def entry(place: Place, task_id: str = "1") -> LeaseEntry:
    (found,) = [one for one in place.store().scan().entries if one.task_id == task_id]
    return found


# Scanning


def test_where_nothing_was_ever_written_there_is_nothing(place):
    scan = place.store().scan()

    assert (scan.entries, scan.results, scan.unreadable_results) == ((), (), ())
    assert place.listing() == []


def test_another_process_finds_the_lease_as_it_was_created(place):
    lock, lease = create(place)

    found = entry(place)

    assert found.lease == lease
    assert found.beat_ns == lease.monotonic_heartbeat_ns
    lock.close()


def test_a_lock_is_seen_held_as_long_as_anybody_shares_it_and_not_longer(place):
    lock, _ = create(place)
    die = place.share(lock)
    assert entry(place).is_lock_held

    lock.close()
    assert entry(place).is_lock_held
    assert place.store().acquire("1") is None

    die()
    assert not entry(place).is_lock_held
    again = take(place)
    again.close()


def test_a_lock_tells_what_was_found_under_it(place):
    lock = take(place)
    assert lock.found == Found()
    lock.close()
    lock, lease = create(place)
    lock.close()
    place.put_result("lease-1", a_result_text())

    for name, has_result in (("lease-1", True), ("lease-2", False), (None, False)):
        again = place.store().acquire("1", result_of=name)
        assert again is not None
        assert again.found == Found(lease=lease, has_result=has_result)
        again.close()

    place.put_lease("1", "{")
    lock = take(place)
    assert isinstance(lock.found.lease, UnreadableLease)
    lock.close()


def test_leases_come_in_the_order_of_their_tasks_numbers_by_value(place):
    locks = [create(place, task_id)[0] for task_id in ("b", "10", "a", "9")]

    names = [one.task_id for one in place.store().scan().entries]

    assert names == ["9", "10", "a", "b"]
    for lock in locks:
        lock.close()


def test_a_lock_without_a_lease_is_told_too(place):
    lock = take(place)

    found = entry(place)

    assert (found.lease, found.is_lock_held) == (None, True)
    lock.close()
    assert not entry(place).is_lock_held


@pytest.mark.parametrize("garbage", GARBAGE)
def test_an_unreadable_lease_is_told_as_corrupt_and_left_alone(place, garbage):
    place.put_lease("1", garbage)

    found = entry(place).lease

    assert isinstance(found, UnreadableLease)
    assert found.fault is LeaseFault.CORRUPT
    assert found.message
    assert place.listing() == ["running/task_1.json"]


def test_a_lease_of_a_newer_version_is_told_as_such(place):
    place.put_lease("1", NEWER)

    found = entry(place).lease

    assert isinstance(found, UnreadableLease)
    assert found.fault is LeaseFault.NEWER
    assert "99" in found.message


def test_a_lease_under_another_tasks_name_is_corrupt(place):
    lock, _ = create(place)
    lock.close()
    text = json.dumps({**_document(place), "task_id": "2"})
    place.put_lease("1", text)

    found = entry(place).lease

    assert isinstance(found, UnreadableLease)
    assert "'2'" in found.message


def _document(place: Place) -> dict[str, object]:
    lease = entry(place).lease
    assert isinstance(lease, Lease)
    return encode_lease(lease)


def test_results_are_told_whether_readable_or_not(place):
    for lease_id in ("lease-2", "lease-1"):
        place.put_result(lease_id, a_result_text(lease_id))
    place.put_result("lease-3", "garbage")
    place.put_result("lease-4", a_result_text("lease-1"))
    place.put_result("lease-5", NEWER)

    scan = place.store().scan()

    assert [one.lease_id for one in scan.results] == ["lease-1", "lease-2"]
    assert {one.lease_id: one.fault for one in scan.unreadable_results} == {
        "lease-3": LeaseFault.CORRUPT,
        "lease-4": LeaseFault.CORRUPT,
        "lease-5": LeaseFault.NEWER,
    }


def test_scanning_changes_nothing(place):
    lock, _ = create(place)
    place.put_result("lease-1", "garbage")
    before = place.listing()

    assert place.store().scan() == place.store().scan()

    assert place.listing() == before
    lock.close()


# Taking locks


def test_a_held_lock_is_not_given_twice(place):
    lock = take(place)

    assert place.store().acquire("1") is None
    assert place.store().acquire("2") is not None
    lock.close()


def test_every_lock_taken_brings_a_fresh_lease_id(place):
    names = set()
    for task_id in ("1", "1", "2"):
        lock = take(place, task_id)
        assert lock.task_id == task_id
        names.add(lock.lease_id)
        lock.close()

    assert len(names) == 3


def test_closing_a_lock_twice_is_closing_it_once(place):
    lock = take(place)
    lock.close()
    lock.close()

    again = take(place)
    lock.close()

    assert place.store().acquire("1") is None
    again.close()


# Creating


def test_a_second_lease_of_a_task_is_refused_and_the_first_one_stays(place):
    lock, lease = create(place)

    with pytest.raises(LeaseConflict):
        place.store().create(lock, a_lease("1", lease_id="another"))

    assert entry(place).lease == lease
    lock.close()


def test_nothing_is_created_over_a_lease_that_cannot_be_read(place):
    place.put_lease("1", "garbage")
    lock = take(place)

    with pytest.raises(LeaseConflict):
        place.store().create(lock, a_lease("1"))

    lock.close()


def test_nothing_is_created_under_a_lock_that_was_closed(place):
    lock = take(place)
    lock.close()

    with pytest.raises(StoreError):
        place.store().create(lock, a_lease("1"))

    assert entry(place).lease is None


def test_a_disk_that_refuses_the_lease_raises_store_error_and_leaves_none(place):
    lock = take(place)
    place.refuse_lease("1")

    with pytest.raises(StoreError):
        place.store().create(lock, a_lease("1"))

    assert entry(place).lease is None
    lock.close()


# Clearing


def test_clearing_removes_everything_of_the_lease_and_frees_the_lock(place):
    lock, lease = create(place)
    place.put_result(lease.lease_id, a_result_text())
    place.put_cancel(lease.lease_id)

    place.store().clear(lock, lease.lease_id)

    assert place.listing() == []
    take(place).close()


def test_clearing_leaves_the_lease_of_another_attempt_and_its_lock(place):
    lock, _ = create(place)
    place.put_result("an-earlier-one", a_result_text("an-earlier-one"))

    place.store().clear(lock, "an-earlier-one")

    assert place.listing() == ["running/task_1.json", "running/task_1.lock"]
    assert not entry(place).is_lock_held


def test_clearing_without_a_lock_removes_only_what_bears_the_leases_name(place):
    lock, lease = create(place)
    place.put_result(lease.lease_id, a_result_text())
    place.put_cancel(lease.lease_id)

    place.store().clear(None, lease.lease_id)

    assert place.listing() == ["running/task_1.json", "running/task_1.lock"]
    assert entry(place).is_lock_held
    lock.close()


def test_clearing_without_a_lease_id_removes_only_what_bears_the_tasks_name(place):
    lock = take(place)
    place.put_result("lease-1", a_result_text())

    place.store().clear(lock, None)

    assert place.listing() == ["results/lease-1.json"]


def test_clearing_without_a_lease_id_leaves_a_readable_lease(place):
    lock, lease = create(place)

    place.store().clear(lock, None)

    assert entry(place).lease == lease


@pytest.mark.parametrize("lease_id", [None, "lease-1"])
def test_what_cannot_be_read_is_kept_in_quarantine(place, lease_id):
    place.put_lease("1", "garbage")
    place.put_result("lease-1", "garbage")
    lock = take(place)

    place.store().clear(lock, lease_id)

    result = "quarantine/lease-1" if lease_id else "results/lease-1.json"
    assert place.listing() == sorted(["quarantine/task_1", result])


def test_quarantine_keeps_every_file_of_the_same_name(place):
    for text in ("garbage", "other garbage"):
        place.put_lease("1", text)
        place.store().clear(take(place), None)

    assert place.listing() == ["quarantine/task_1", "quarantine/task_1"]


def test_a_lease_of_a_newer_version_survives_every_clearing(place):
    place.put_lease("1", NEWER)

    place.store().clear(take(place), "lease-1")
    place.store().clear(take(place), None)

    assert place.listing() == ["running/task_1.json", "running/task_1.lock"]


def test_clearing_what_is_not_there_does_nothing(place):
    place.store().clear(None, "lease-1")
    place.store().clear(take(place), "lease-1")

    assert place.listing() == []


def test_the_lease_goes_first_and_the_lock_last(place):
    """A crash in between leaves a result without a lease, never a lease without a result."""
    lock, lease = create(place)
    place.put_result(lease.lease_id, a_result_text())
    place.put_cancel(lease.lease_id)
    place.refuse_result_removal(lease.lease_id)

    with pytest.raises(StoreError):
        place.store().clear(lock, lease.lease_id)

    left = [name for name in place.listing() if not name.endswith(".tmp")]
    assert left == ["results/lease-1.json", "running/task_1.lock"]
    lock.close()


# Real files and real processes


@pytest.mark.parametrize("locks", [LockTrial, LockTable])
def test_names_that_are_no_leases_are_ignored(tmp_path, locks):
    paths = paths_in(tmp_path)
    os.makedirs(paths.running)
    os.makedirs(paths.results)
    for name in (
        "task_.json",
        "task_a b.json",
        "task_-x.json",
        "task_a..b.json",
        f"task_{'9' * 65}.json",
        "task_1.json.bak",
        ".task_1.json.tmp",
        "task_1.txt",
        "notes.json",
        "task_ü.lock",
    ):
        with open(os.path.join(paths.running, name), "w", encoding="utf-8") as file:
            file.write("{}")
    for name in (".lease-1.json.tmp", "notes.txt"):
        with open(os.path.join(paths.results, name), "w", encoding="utf-8") as file:
            file.write("{}")

    scan = FileLeaseStore(paths, locks=locks()).scan()

    assert (scan.entries, scan.results, scan.unreadable_results) == ((), (), ())


def test_a_pipe_in_the_place_of_a_lease_does_not_hang_a_scan(tmp_path):
    paths = paths_in(tmp_path)
    os.makedirs(paths.running)
    os.mkfifo(os.path.join(paths.running, "task_1.json"))

    (found,) = FileLeaseStore(paths, locks=LockTrial()).scan().entries

    assert isinstance(found.lease, UnreadableLease)


def test_leases_and_locks_are_for_their_owner_only(tmp_path):
    place = build_file(tmp_path, LockTrial)
    before = os.umask(0)
    try:
        lock, _ = create(place)
    finally:
        os.umask(before)

    running = tmp_path / "state" / "running"
    modes = {path.name: path.stat().st_mode & 0o777 for path in running.iterdir()}
    assert modes == {"task_1.json": 0o600, "task_1.lock": 0o600}
    assert running.stat().st_mode & 0o777 == 0o700
    lock.close()


def start_taker(folder: Path, names: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(folder), str(names)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_of_many_processes_that_take_a_lock_at_once_exactly_one_gets_it(tmp_path):
    names = 300
    takers = [start_taker(tmp_path, names) for _ in range(3)]
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    taken = []
    for taker in takers:
        assert taker.stdout is not None
        taken.extend(taker.stdout.readline().split())
    scan = FileLeaseStore(paths_in(tmp_path), locks=LockTable()).scan()
    for taker in takers:
        taker.communicate()

    assert sorted(taken, key=int) == [str(number) for number in range(names)]
    assert all(one.is_lock_held for one in scan.entries)


def test_a_lock_dies_with_its_process(tmp_path):
    store = FileLeaseStore(paths_in(tmp_path), locks=LockTrial())
    taker = start_taker(tmp_path, 1)
    assert taker.stdin is not None
    assert taker.stdout is not None
    taker.stdin.write("go\n")
    taker.stdin.flush()
    assert taker.stdout.readline() == "0\n"
    assert store.acquire("0") is None

    taker.kill()
    taker.communicate()

    lock = store.acquire("0")
    assert lock is not None
    lock.close()


def test_a_lock_whose_name_was_taken_away_under_it_is_not_given(tmp_path, monkeypatch):
    """An operator's rm between opening and locking: the next look finds the new file."""
    paths = paths_in(tmp_path)
    store = FileLeaseStore(paths, locks=LockTrial())
    path = os.path.join(paths.running, "task_1.lock")
    real_stat = os.stat

    def remove_first(name: object, **more: object) -> os.stat_result:
        if name == path:
            os.unlink(path)
            monkeypatch.setattr(os, "stat", real_stat)
        return real_stat(name, **more)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(os, "stat", remove_first)

    assert store.acquire("1") is None
    assert store.acquire("1") is not None


def test_what_was_written_long_ago_is_kept_in_quarantine_from_now_on(tmp_path):
    paths = paths_in(tmp_path)
    store = FileLeaseStore(paths, locks=LockTrial())
    lock = store.acquire("1")
    assert lock is not None
    path = Path(paths.running) / "task_1.json"
    path.write_text("garbage")
    os.utime(path, (0, 0))

    store.clear(lock, None)

    (kept,) = Path(paths.quarantine).iterdir()
    assert kept.stat().st_mtime >= Path(paths.running).stat().st_mtime - 60
    lock.close()


def test_old_temporary_files_are_swept_and_young_ones_left(tmp_path):
    paths = paths_in(tmp_path)
    folders = (paths.state, paths.running, paths.results)
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        for name, age_s in ((".old.tmp", 4000), (".young.tmp", 10), ("old.json", 4000)):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8"):
                pass
            os.utime(path, (100_000 - age_s, 100_000 - age_s))

    FileLeaseStore(paths, locks=LockTrial()).sweep_temporary(now_s=100_000)

    for folder in folders:
        files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
        assert sorted(files) == [".young.tmp", "old.json"]


def test_a_held_lock_is_seen_however_many_others_come_and_go(tmp_path):
    store = FileLeaseStore(paths_in(tmp_path), locks=LockTrial())
    held = [store.acquire(str(number)) for number in range(200)]
    restless = subprocess.Popen([sys.executable, "-c", RESTLESS, str(tmp_path)])
    reader = FileLeaseStore(paths_in(tmp_path), locks=LockTable())

    seen = [sum(one.is_lock_held for one in reader.scan().entries) for _ in range(60)]

    restless.kill()
    restless.wait()
    assert set(seen) == {len(held)}


def test_locks_are_seen_where_stat_and_the_kernel_name_different_devices(tmp_path):
    layers = [tmp_path / name for name in ("disk", "lower", "merged")]
    for folder in layers:
        folder.mkdir()
    disk, lower, merged = layers
    options = f"lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work"
    mounts = [
        ["mount", "-t", "tmpfs", "tmpfs", str(disk)],
        ["mkdir", f"{disk}/upper", f"{disk}/work"],
        ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)],
    ]
    for command in mounts:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)
            pytest.skip(f"cannot mount an overlay as this user: {done.stderr.strip()}")
    try:
        lock = FileLeaseStore(paths_in(merged), locks=LockTrial()).acquire("1")
        assert lock is not None
        (found,) = FileLeaseStore(paths_in(merged), locks=LockTable()).scan().entries
        assert found.is_lock_held
        lock.close()
        (found,) = FileLeaseStore(paths_in(merged), locks=LockTable()).scan().entries
        assert not found.is_lock_held
    finally:
        for folder in (merged, disk):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
