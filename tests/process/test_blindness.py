"""A machine short of descriptors: a look that fails is no evidence, and nothing is concluded."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease

from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.launch_local.cgroups import read_members
from tinyscheduler.adapters.launch_local.processes import (
    _held_inodes,
    _read_badge,
    find_trees,
    read_process,
)
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable
from tinyscheduler.app.ticks import wrapper_path
from tinyscheduler.core.leases import trace_of
from tinyscheduler.errors import ExhaustedError, ProbeError
from tinyscheduler.model.leases import Lease, LeaseState, WrapperLife
from tinyscheduler.model.tasks import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.process.station import Station


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open nothing more (EMFILE), as where the machine's table is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_attempt_that_cannot_be_looked_at_is_not_dead(make_station: Callable[..., Station]):
    station = make_station(kicks=False)
    task_id = station.add("sleep 300")
    station.tick()
    station.until_running(task_id)
    config = station.config()
    launcher = LocalLauncher(config, wrapper=wrapper_path(), kick_argv=())
    (entry,) = FileLeaseStore(config.paths, locks=LockTable()).scan().entries
    assert isinstance(entry.lease, Lease)
    trace = trace_of(entry, entry.lease)
    assert launcher.inspect([trace])[trace.lease_id].wrapper is WrapperLife.ALIVE

    with no_descriptor_left():
        with pytest.raises(ProbeError, match=r"cannot look at processes: .*Too many open files"):
            launcher.inspect([trace])
        with pytest.raises(ProbeError, match="cannot look at processes"):
            launcher.end([trace], grace_s=0)

    assert launcher.inspect([trace])[trace.lease_id].wrapper is WrapperLife.ALIVE
    assert station.lease(task_id) is not None


def test_a_start_for_which_nothing_is_left_is_no_fault_of_the_task(
    make_station: Callable[..., Station], monkeypatch: pytest.MonkeyPatch
):
    station = make_station(kicks=False)
    config = station.config()
    launcher = LocalLauncher(config, wrapper=wrapper_path(), kick_argv=())
    store = FileLeaseStore(config.paths, locks=LockTable())
    lock = store.acquire("1")
    assert lock is not None
    bare = a_lease("1", lease_id=lock.lease_id, agent="shell", state=LeaseState.STARTING)
    lease = launcher.prepare(bare, TaskSpec(agent="shell", command=("true",)))

    def refuse(*_arguments: object, **_options: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "posix_spawn", refuse)
    with pytest.raises(ExhaustedError, match="Resource temporarily unavailable"):
        launcher.launch(lease, lock)

    lock.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("part", ["stat", "environment", "descriptors", "control group", "all"])
def test_each_part_of_a_look_that_fails_says_so(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], part: str
):
    process = sleeper
    seen = read_process(process.pid)
    assert seen is not None
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").write_text(f"{process.pid}\n")
    looks: dict[str, Callable[[], object]] = {
        "stat": lambda: read_process(process.pid),
        "environment": lambda: _read_badge(seen),
        "descriptors": lambda: list(_held_inodes(process.pid, {(0, 0): "1"})),
        "control group": lambda: read_members(str(group)),
        "all": lambda: find_trees([], {}),
    }
    look = looks[part]
    look()

    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        look()


def test_what_is_gone_or_belongs_to_nobody_is_no_failed_look(tmp_path: Path):
    process = subprocess.Popen(["true"])
    seen = read_process(process.pid)
    process.wait()

    assert read_process(process.pid) is None
    assert seen is None or _read_badge(seen).lease_id is None
    assert list(_held_inodes(process.pid, {(0, 0): "1"})) == []
    assert read_members(str(tmp_path / "gone")) == set()
