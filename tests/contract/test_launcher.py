"""What every launcher must do, whatever it is made of: real processes or simulated ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.builders import a_lease

from tinyscheduler.adapters.clock_system import read_boot_id
from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTrial
from tinyscheduler.app.ticks import wrapper_path
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.core.leases import trace_of
from tinyscheduler.errors import LaunchError
from tinyscheduler.model.leases import (
    NO_RUN,
    Lease,
    LeaseState,
    ProcessIdentity,
    Trace,
    WrapperLife,
)
from tinyscheduler.model.tasks import FailureReason, Outcome, TaskSpec
from tinyscheduler.simulator.attempts import Child, Script
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.launcher import SimulatedLauncher, Workshop
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.probe import PID_NAMESPACE
from tinyscheduler.simulator.store import SimulatedLeaseStore
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tinyscheduler.model.leases import LeaseEntry, ProcessEvidence
    from tinyscheduler.model.tasks import AttemptResult
    from tinyscheduler.ports import Launcher, LeaseStore, TaskLock

GRACE_S = 0.5
LIMIT_S = 20

# What the commands of these tests do, as a shell says it and as a script of the simulator.
SHELL = {
    "succeed": "exit 0",
    "fail": "exit 3",
    "last": "sleep 300",
    "leave a child": "setsid sleep 300 & sleep 300",
    "leave a deaf child": "(trap '' TERM; exec setsid sleep 300) & trap '' TERM; sleep 300",
}
SCRIPTS = {
    "succeed": Script(runs_s=0.01),
    "fail": Script(runs_s=0.01, exit_code=3),
    "last": Script(runs_s=300),
    "leave a child": Script(runs_s=300, children=(Child(runs_s=300),)),
    "leave a deaf child": Script(
        runs_s=300, ignores_term=True, children=(Child(runs_s=300, ignores_term=True),)
    ),
}
LEAVES_TWO = {"leave a child", "leave a deaf child"}


@dataclass(kw_only=True)
class Place:
    """A machine with a launcher on it; its commands do what one word says."""

    launcher: Launcher
    store: LeaseStore
    spec: Callable[[str], TaskSpec]
    wait: Callable[[], None]  # let a little time pass
    kill: Callable[[Lease], None]  # SIGKILL to the wrapper
    stop: Callable[[Lease], None]  # SIGSTOP to the wrapper
    living: Callable[[str], int]  # processes of the commands of this task
    stranger: Callable[[], tuple[ProcessIdentity, Callable[[], bool]]]
    break_spawning: Callable[[], None]
    leases: dict[str, Lease] = field(default_factory=dict)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, with a limit."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline
            self.wait()

    def start(self, what: str, task_id: str = "1") -> Lease:
        """Start an attempt and return its lease as the launcher got it."""
        lock = self.store.acquire(task_id)
        assert lock is not None
        lease = self.prepare(what, task_id, lock)
        self.store.create(lock, lease)
        self.launcher.launch(lease, lock)
        lock.close()
        return lease

    def prepare(self, what: str, task_id: str, lock: TaskLock) -> Lease:
        bare = a_lease(
            task_id,
            lease_id=lock.lease_id,
            agent="shell",
            state=LeaseState.STARTING,
            process=None,
            run=NO_RUN,
            heartbeat_s=0.5,
        )
        return self.launcher.prepare(bare, self.spec(what))

    def entry(self, task_id: str = "1") -> LeaseEntry:
        (found,) = [one for one in self.store.scan().entries if one.task_id == task_id]
        return found

    def lease(self, task_id: str = "1") -> Lease:
        found = self.entry(task_id).lease
        assert isinstance(found, Lease)
        return found

    def start_and_await(self, what: str, task_id: str = "1") -> Lease:
        """Start an attempt, wait until all its processes run, and return its lease."""
        self.start(what, task_id)
        processes = 2 if what in LEAVES_TWO else 1
        self.until(lambda: self.living(task_id) >= processes)
        assert self.lease(task_id).state is LeaseState.RUNNING
        return self.lease(task_id)

    def result(self, lease: Lease) -> AttemptResult:
        """Wait for the result of the attempt."""
        self.until(lambda: lease.lease_id in self.results())
        return self.results()[lease.lease_id]

    def results(self) -> dict[str, AttemptResult]:
        return {one.lease_id: one for one in self.store.scan().results}

    def trace(self, task_id: str = "1") -> Trace:
        entry = self.entry(task_id)
        assert isinstance(entry.lease, Lease)
        return trace_of(entry, entry.lease)

    def look(self, task_id: str = "1") -> ProcessEvidence:
        trace = self.trace(task_id)
        return self.launcher.inspect([trace])[trace.lease_id]


def build_real(folder: Path) -> Iterator[Place]:
    base = folder / "base"
    base.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "TINYSCHEDULER_KILL_GRACE_SEC": str(GRACE_S),
        "TINYSCHEDULER_KICK": "false",
    }
    config = load_config(Overrides(base_path=str(base)), environ=environment, write_cache=False)
    marks = {name: str(folder / f"{name}.mark") for name in SHELL}
    strangers: list[subprocess.Popen[bytes]] = []

    def living(task_id: str) -> int:
        wanted = {
            f"TINYSCHEDULER_TASK_ID={task_id}".encode(),
            f"TINYSCHEDULER_BASE_PATH={base}".encode(),
        }
        sleeping = b"sleep\x00300"
        return sum(
            wanted <= set(_read(pid, "environ").split(b"\0"))
            and _read(pid, "cmdline").startswith(sleeping)
            for pid in _pids()
        )

    def stranger() -> tuple[ProcessIdentity, Callable[[], bool]]:
        process = subprocess.Popen(["sleep", "300"], start_new_session=True)
        strangers.append(process)
        identity = ProcessIdentity(
            boot_id=read_boot_id(),
            pid=process.pid,
            start_ticks=1,
            pgid=process.pid,
            pid_ns=os.stat("/proc/self/ns/pid").st_ino,
        )
        return identity, lambda: process.poll() is None

    def signaller(number: int) -> Callable[[Lease], None]:
        def send(lease: Lease) -> None:
            assert lease.process is not None
            os.kill(lease.process.pid, number)

        return send

    def break_spawning() -> None:
        # Where the wrapper's complaints would go.
        os.makedirs(os.path.join(config.paths.logs, "wrapper.log"))

    place = Place(
        launcher=LocalLauncher(config, wrapper=wrapper_path(), kick_argv=()),
        store=FileLeaseStore(config.paths, locks=LockTrial()),
        spec=lambda what: TaskSpec(
            agent="shell", command=("sh", "-c", SHELL[what], marks[what]), cwd=str(base)
        ),
        wait=lambda: time.sleep(0.01),
        kill=signaller(signal.SIGKILL),
        stop=signaller(signal.SIGSTOP),
        living=living,
        stranger=stranger,
        break_spawning=break_spawning,
    )
    try:
        yield place
    finally:
        for process in strangers:
            process.kill()
            process.wait()
        _end_all(str(base))


def _end_all(base: str) -> None:
    """End whatever a failed test left: by the folder in its command line or environment."""
    wanted = base.encode()
    for _ in range(200):
        found = [pid for pid in _pids() if wanted in _read(pid, "cmdline") + _read(pid, "environ")]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        _reap()
        if not found:
            return
        time.sleep(0.01)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def build_simulated(_folder: Path) -> Iterator[Place]:
    machine, disk = Machine(), Disk()
    said: dict[str, str] = {}
    workshop = Workshop(disk=disk, kill_grace_s=GRACE_S, is_kick_enabled=False)
    workshop.script = lambda task_id, _attempt: SCRIPTS[said[task_id]]
    process = machine.spawn("tick")
    launcher = SimulatedLauncher(process, workshop)

    class Remembering:
        """Tells the scripts what the command of a lease says."""

        def __init__(self) -> None:
            self.inspect, self.end, self.launch = launcher.inspect, launcher.end, launcher.launch
            self.owners = launcher.owners

        def prepare(self, lease: Lease, spec: TaskSpec) -> Lease:
            said[lease.task_id] = spec.command[0]
            return launcher.prepare(lease, spec)

    def living(task_id: str) -> int:
        attempts = [one for one in workshop.attempts.values() if one.lease.task_id == task_id]
        return sum(len(one.living()) for one in attempts if one.is_started)

    def stranger() -> tuple[ProcessIdentity, Callable[[], bool]]:
        other = machine.spawn("stranger")
        identity = ProcessIdentity(
            boot_id=machine.boot_id,
            pid=other.pid,
            start_ticks=other.start_ticks + 1,
            pgid=other.pid,
            pid_ns=PID_NAMESPACE,
        )
        return identity, lambda: other.is_alive

    def break_spawning() -> None:
        workshop.refuse_launch = lambda _task_id: "no process to spare"

    yield Place(
        launcher=Remembering(),
        store=SimulatedLeaseStore(process, disk),
        spec=lambda what: TaskSpec(agent="shell", command=(what,)),
        wait=lambda: SimulatedClock(process).sleep(0.01),
        kill=lambda lease: machine.kill(workshop.attempts[lease.lease_id].wrapper),
        stop=lambda lease: machine.stop(workshop.attempts[lease.lease_id].wrapper),
        living=living,
        stranger=stranger,
        break_spawning=break_spawning,
    )


PLACES: dict[str, Callable[[Path], Iterator[Place]]] = {
    "local": build_real,
    "simulated": build_simulated,
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from PLACES[request.param](tmp_path)


# Starting


def test_the_wrapper_keeps_the_lock_that_the_launcher_gave_up(place):
    place.start("last")

    assert place.entry().is_lock_held
    assert place.store.acquire("1") is None


def test_a_running_lease_names_the_process_that_runs_it(place):
    lease = place.start_and_await("last")

    assert lease.process is not None
    assert place.look().wrapper is WrapperLife.ALIVE


@pytest.mark.parametrize(
    ("what", "outcome", "code"), [("succeed", Outcome.SUCCEEDED, 0), ("fail", Outcome.FAILED, 3)]
)
def test_an_attempt_that_ends_leaves_its_result_and_a_free_lock(place, what, outcome, code):
    lease = place.start(what)

    result = place.result(lease)

    assert (result.outcome, result.exit_code, result.attempt) == (outcome, code, 1)
    assert (result.task_id, result.agent, result.source) == ("1", "shell", "local")
    place.until(lambda: not place.entry().is_lock_held)
    assert place.lease().state is LeaseState.FINISHED


def test_the_wrapper_beats_while_its_command_runs(place):
    place.start_and_await("last")
    first = place.entry().beat_ns
    assert first is not None

    place.until(lambda: (place.entry().beat_ns or 0) > first)


def test_a_launch_that_fails_leaves_nothing_running_and_the_lock_to_its_taker(place):
    place.break_spawning()
    lock = place.store.acquire("1")
    assert lock is not None
    lease = place.prepare("last", "1", lock)
    place.store.create(lock, lease)

    with pytest.raises(LaunchError):
        place.launcher.launch(lease, lock)

    assert place.entry().is_lock_held
    lock.close()
    assert not place.entry().is_lock_held
    assert place.look().survivors == 0


# Looking


def test_an_attempt_without_a_recorded_process_is_told_as_such(place):
    place.start("last")
    trace = replace(place.trace(), process=None)

    evidence = place.launcher.inspect([trace])[trace.lease_id]

    assert evidence.wrapper is WrapperLife.UNRECORDED


def test_a_killed_wrapper_is_dead_and_what_it_left_is_counted(place):
    lease = place.start_and_await("leave a child")

    place.kill(lease)
    place.until(lambda: place.look().wrapper is WrapperLife.DEAD)

    assert place.look().survivors >= 1


def test_a_process_that_came_to_bear_the_same_number_is_not_the_wrapper(place):
    place.start_and_await("last")
    identity, is_alive = place.stranger()
    trace = replace(place.trace(), process=identity)

    assert place.launcher.inspect([trace])[trace.lease_id].wrapper is WrapperLife.DEAD
    assert is_alive()


@pytest.mark.parametrize(
    ("change", "life"),
    [({"boot_id": "another"}, WrapperLife.DEAD), ({"pid_ns": 1}, WrapperLife.UNSEEN)],
    ids=["another boot", "another container"],
)
def test_what_a_recorded_number_means_depends_on_where_it_counts(place, change, life):
    lease = place.start_and_await("last")
    assert lease.process is not None
    trace = replace(place.trace(), process=replace(lease.process, **change))

    assert place.launcher.inspect([trace])[trace.lease_id].wrapper is life


def test_looking_at_nothing_finds_nothing(place):
    assert dict(place.launcher.inspect([])) == {}


def test_without_a_lease_the_search_tells_whether_the_wrapper_lives(place):
    lease = place.start_and_await("leave a child")
    trace = replace(place.trace(), process=None, is_leased=False)
    living = place.launcher.inspect([trace])[trace.lease_id]

    place.kill(lease)
    place.until(lambda: place.look().wrapper is WrapperLife.DEAD)
    trace = replace(trace, is_lock_held=place.entry().is_lock_held)
    dead = place.launcher.inspect([trace])[trace.lease_id]

    assert living.wrapper is not WrapperLife.DEAD
    assert living.survivors >= 2
    assert dead.wrapper is WrapperLife.DEAD
    assert dead.survivors >= 1


# Ending


def test_a_living_wrapper_ends_politely_and_still_records_its_result(place):
    lease = place.start_and_await("leave a child")

    gone = place.launcher.end([place.trace()], grace_s=GRACE_S)

    assert gone == {lease.lease_id}
    assert place.living("1") == 0
    result = place.results()[lease.lease_id]
    assert (result.outcome, result.failure_reason) == (Outcome.INTERRUPTED, FailureReason.ABORTED)
    assert not place.entry().is_lock_held


def test_what_a_dead_wrapper_left_is_ended_however_deaf_it_is(place):
    lease = place.start_and_await("leave a deaf child")
    place.kill(lease)
    place.until(lambda: place.look().wrapper is WrapperLife.DEAD)

    gone = place.launcher.end([place.trace()], grace_s=GRACE_S)

    assert gone == {lease.lease_id}
    assert place.living("1") == 0
    assert not place.entry().is_lock_held
    assert place.look().survivors == 0


def test_a_stopped_wrapper_is_ended_with_all_it_runs(place):
    lease = place.start_and_await("leave a deaf child")
    place.stop(lease)

    gone = place.launcher.end([place.trace()], grace_s=0)

    assert gone == {lease.lease_id}
    assert place.living("1") == 0
    assert place.look().wrapper is WrapperLife.DEAD
    assert not place.entry().is_lock_held
    assert place.results() == {}


def test_ending_one_attempt_leaves_the_others_alone(place):
    place.start_and_await("last", "1")
    place.start_and_await("last", "2")

    place.launcher.end([place.trace("1")], grace_s=GRACE_S)

    assert place.living("1") == 0
    assert place.living("2") == 1
    assert place.look("2").wrapper is WrapperLife.ALIVE


def test_several_attempts_are_ended_within_one_call(place):
    leases = [place.start_and_await("last", task_id) for task_id in ("1", "2", "3")]

    gone = place.launcher.end([place.trace(lease.task_id) for lease in leases], grace_s=GRACE_S)

    assert gone == {lease.lease_id for lease in leases}
    assert [place.living(lease.task_id) for lease in leases] == [0, 0, 0]


def test_a_stranger_with_the_recorded_number_is_never_signalled(place):
    lease = place.start_and_await("last")
    identity, is_alive = place.stranger()
    place.kill(lease)
    place.until(lambda: place.look().wrapper is WrapperLife.DEAD)
    trace = replace(place.trace(), process=identity)

    gone = place.launcher.end([trace], grace_s=0)

    assert gone == {lease.lease_id}
    assert is_alive()


def test_ending_what_is_gone_does_nothing(place):
    lease = place.start("succeed")
    place.result(lease)
    place.until(lambda: not place.entry().is_lock_held)

    assert place.launcher.end([place.trace()], grace_s=0) == {lease.lease_id}
    assert place.launcher.end([], grace_s=0) == frozenset()
