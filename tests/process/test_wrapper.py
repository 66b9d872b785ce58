"""The wrapper alone: the test takes the task lock and writes the lease, as a tick would."""

from __future__ import annotations

import fcntl
import json
import os
import py_compile
import resource
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.process.station import is_alive, until

from tinyscheduler import wrapper
from tinyscheduler.model.documents import decode_lease, decode_result, encode_lease
from tinyscheduler.model.leases import Lease, LeaseState, Needs, Run
from tinyscheduler.values import fields, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# As a module, so that coverage knows it by its name; ticks start it by path, with -S.
MEASURED = (sys.executable, "-I", "-m", "tinyscheduler.wrapper")
OUTPUT = str(Path(wrapper.__file__).with_name("agent_output.py"))
OUTCOMES = str(Path(wrapper.__file__).with_name("agent_outcomes.py"))
LIFE = str(Path(wrapper.__file__).with_name("attempt_life.py"))
CLAUDE: dict[str, Any] = {
    "agent_kind": "claude",
    "agent_output": OUTPUT,
    "agent_outcomes": OUTCOMES,
}
HEARTBEAT_S = 0.3
GRACE_S = 0.4
# A child that outlives its parent: it writes its pid to $0 once it is on its own.
ORPHAN = '(setsid sh -c \'{trap} echo $$ > "$0.new"; mv "$0.new" "$0"; {work}\' {file} &)'


@dataclass(slots=True)
class Handover:
    """A task lock taken and a lease written; `start` hands both to a wrapper."""

    base: Path
    lease: Lease
    lock_fd: int = -1
    pids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in ("running", "results", "cancel"):
            (self.base / folder).mkdir(parents=True)
        low_fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Clear of the 3 as which it is handed over.
        self.lock_fd = fcntl.fcntl(low_fd, fcntl.F_DUPFD_CLOEXEC, 20)
        os.close(low_fd)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.utime(self.lock_fd, ns=(time.time_ns(), time.monotonic_ns()))
        self.write(json.dumps(encode_lease(self.lease)))

    @property
    def path(self) -> Path:
        """The lease."""
        return self.base / "running" / "task_7.json"

    @property
    def lock(self) -> Path:
        """The task lock."""
        return self.base / "running" / "task_7.lock"

    @property
    def cancel(self) -> Path:
        """The request to end this attempt."""
        return self.base / "cancel" / self.lease.lease_id

    @property
    def started(self) -> Path:
        """What the command creates when it starts."""
        return self.base / "started"

    def write(self, text: str) -> None:
        """Write the lease."""
        self.path.write_text(text)

    def start(
        self,
        *arguments: str,
        lock_fd: int | None = -1,
        program: tuple[str, ...] = MEASURED,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Start a wrapper with our lock, or another descriptor, or none; close our own lock."""
        argv = [*program, *(arguments or [str(self.path)])]
        own = {name: os.environ[name] for name in os.environ if name.startswith("COVERAGE_")}
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(self.base / "errors"), append, 0o600),
        ]
        if lock_fd is None:
            actions.append((os.POSIX_SPAWN_CLOSE, 3))
        else:
            fd = self.lock_fd if lock_fd == -1 else lock_fd
            actions.append((os.POSIX_SPAWN_DUP2, fd, 3))
        pid = os.posix_spawn(
            argv[0],
            argv,
            {"PATH": os.environ["PATH"], **own, **environment},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        self.pids.append(pid)
        if lock_fd == -1:
            os.close(self.lock_fd)
            self.lock_fd = -1
        return pid

    def wait(self, *, limit_s: float = 20) -> int:
        """Return the exit code of the wrapper started last; negative for a signal."""
        pid = self.pids.pop()
        _, status = until(
            lambda: (found := os.waitpid(pid, os.WNOHANG)) != (0, 0) and found,
            f"the wrapper to end: {self.errors()}",
            limit_s=limit_s,
        )
        return os.waitstatus_to_exitcode(status)

    def run(self, environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """Start the wrapper, wait for its good end, and return the result."""
        self.start(environment=environment)
        assert self.wait() == 0, self.errors()
        return self.result()

    def until_started(self) -> dict[str, Any]:
        """Wait until the command runs, and return the lease."""
        until(self.started.exists, f"the command to start: {self.errors()}")
        document: dict[str, Any] = json.loads(self.path.read_text())
        assert document["state"] == "running"
        return document

    def result(self) -> dict[str, Any]:
        """Return the result as it lies on disk."""
        document: dict[str, Any] = json.loads(self.result_path.read_text())
        decode_result(document)
        return document

    @property
    def result_path(self) -> Path:
        """Where the result is written."""
        return self.base / "results" / f"{self.lease.lease_id}.json"

    def errors(self) -> str:
        """Return what the wrapper said."""
        try:
            return (self.base / "errors").read_text()
        except FileNotFoundError:
            return ""

    def beat_ns(self) -> int:
        """Return the heartbeat."""
        return self.lock.stat().st_mtime_ns

    def is_lock_free(self) -> bool:
        """Whether nobody holds the task lock."""
        fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def clean_up(self) -> None:
        """End the wrapper and what it started."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
        for pid in self.pids:
            for _, one in _below(pid):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def hand_over(tmp_path: Path) -> Iterator[Callable[..., Handover]]:
    """Return a maker of handovers: a command for ``sh -c``, and what is not as usual."""
    handovers: list[Handover] = []

    def make(body: str = "true", *, argv: tuple[str, ...] = (), **unusual: Any) -> Handover:
        base = tmp_path / str(len(handovers))
        shell = ("sh", "-c", f'touch "$0"; {body}', str(base / "started"))
        lease = a_lease(base, argv or shell)
        names = {one.name for one in fields(Run)}
        run = replace(lease.run, **{name: unusual.pop(name) for name in names & set(unusual)})
        handovers.append(Handover(base, replace(lease, run=run, **unusual)))
        return handovers[-1]

    yield make
    for handover in handovers:
        handover.clean_up()


def a_lease(base: Path, argv: tuple[str, ...]) -> Lease:
    """Return a lease as a tick writes it."""
    now = datetime.now(UTC)
    return Lease(
        task_id="7",
        lease_id="0123456789abcdef" * 2,
        source="local",
        agent="coder",
        attempt=2,
        launches=0,
        state=LeaseState.STARTING,
        host="here",
        boot_id="this one",
        started_at=now,
        heartbeat=now,
        monotonic_started_ns=time.monotonic_ns(),
        monotonic_heartbeat_ns=time.monotonic_ns(),
        heartbeat_s=HEARTBEAT_S,
        max_runtime_s=60,
        needs=Needs(),
        run=Run(
            argv=argv,
            cwd=str(base),
            stdin=None,
            log=str(base / "log"),
            log_max_bytes=0,
            kill_grace_s=GRACE_S,
            idle_output_s=None,
            results=str(base / "results"),
            cancel=str(base / "cancel"),
            kick=str(base / "kick"),
            tick_lock=str(base / "tick.pid"),
            daemon_lock=str(base / "daemon.lock"),
            kick_argv=(),
        ),
    )


@contextmanager
def unseen(handover: Handover) -> Iterator[dict[str, Any]]:
    """Start a wrapper that looks at its command for the first time once the block is left.

    Until then it waits for the program that counts turns, which is a pipe here.
    """
    program = handover.base / "counter.py"
    os.mkfifo(program)
    run = replace(handover.lease.run, **{**CLAUDE, "agent_output": str(program)})
    handover.write(json.dumps(encode_lease(replace(handover.lease, run=run))))
    handover.start()
    yield handover.until_started()
    program.write_bytes(Path(OUTPUT).read_bytes())


# -- refusals -------------------------------------------------------------------------


def _lose_lease(handover: Handover) -> None:
    handover.path.unlink()
    handover.start()


def _hand_over_nothing(handover: Handover) -> None:
    handover.start(lock_fd=None)


def _name_two_leases(handover: Handover) -> None:
    handover.start(str(handover.path), str(handover.path))


def _hand_over_another_file(handover: Handover) -> None:
    with (handover.base / "other.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        handover.start(lock_fd=other.fileno())


def _hand_over_a_lock_that_somebody_else_holds(handover: Handover) -> None:
    # Our own description holds it, and this is another one of the same file.
    with handover.lock.open("r+") as other:
        handover.start(lock_fd=other.fileno())


def _hand_over_a_running_lease(handover: Handover) -> None:
    handover.write(handover.path.read_text().replace('"starting"', '"running"'))
    handover.start()


def _hand_over_garbage(handover: Handover) -> None:
    handover.write('{"version": 1, "task_id')
    handover.start()


def _hand_over_a_list(handover: Handover) -> None:
    handover.write("[]")
    handover.start()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (_lose_lease, "No such file or directory: '"),
        (_name_two_leases, "usage: run_agent.py LEASE_FILE, with the task lock as descriptor 3"),
        (_hand_over_nothing, "no task lock was handed over for"),
        (_hand_over_another_file, "descriptor 3 is not"),
        (_hand_over_a_lock_that_somebody_else_holds, "is held by another process"),
        (_hand_over_a_running_lease, "is not a lease in state starting"),
        (_hand_over_garbage, "task_7.json is not a lease"),
        (_hand_over_a_list, "is not a lease in state starting"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_without_a_lease_that_is_ours_nothing_runs(
    hand_over: Callable[..., Handover], prepare: Callable[[Handover], None], words: str
):
    handover = hand_over()

    prepare(handover)

    assert handover.wait() == 2
    assert words in handover.errors()
    assert "hint: ticks start attempts" in handover.errors()
    assert "Traceback" not in handover.errors()
    assert not handover.started.exists()
    assert list((handover.base / "results").iterdir()) == []


def test_a_lease_that_lacks_what_a_wrapper_needs_is_told_in_one_line(
    hand_over: Callable[..., Handover],
):
    handover = hand_over()
    handover.write('{"state": "starting", "task_id": "7"}')

    handover.start()

    assert handover.wait() == 1
    assert handover.errors().count("\n") == 1
    assert "task 7: KeyError: 'run'" in handover.errors()


def test_by_hand_it_refuses_and_says_who_starts_it(tmp_path: Path):
    script = Path(__file__).parents[2] / "scripts" / "run_agent.py"

    for arguments in ([], [str(tmp_path / "task_7.json")], ["a", "b"]):
        done = subprocess.run(
            [sys.executable, script, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "hint: ticks start attempts" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_scripts_entry_is_the_wrapper(hand_over: Callable[..., Handover]):
    handover = hand_over("echo hi")
    script = Path(__file__).parents[2] / "scripts" / "run_agent.py"

    handover.start(program=(sys.executable, "-I", str(script)))

    assert handover.wait() == 0
    assert handover.result()["outcome"] == "succeeded"
    assert (handover.base / "log").read_text() == "hi\n"


# -- start ----------------------------------------------------------------------------


def test_where_running_cannot_be_written_the_command_does_not_start(
    hand_over: Callable[..., Handover],
):
    handover = hand_over()
    before = handover.path.read_bytes()
    # Nothing can be written where a folder lies; also not by root.
    (handover.base / "running" / ".task_7.json.tmp").mkdir()

    handover.start()

    assert handover.wait() == 1
    assert not handover.started.exists()
    assert handover.path.read_bytes() == before, "the lease still says starting"
    assert handover.is_lock_free(), "which proves to a tick that nothing runs"
    assert not handover.result_path.exists()


def test_where_no_file_can_grow_the_command_does_not_start(hand_over: Callable[..., Handover]):
    handover = hand_over()
    before = handover.path.read_bytes()
    full = ("/bin/sh", "-c", 'ulimit -Sf 0; exec "$0" -I -S "$@"')

    handover.start(program=(*full, sys.executable, wrapper.__file__))

    assert handover.wait() == 1
    assert not handover.started.exists()
    assert handover.path.read_bytes() == before


def test_without_a_log_the_command_does_not_start(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    handover = hand_over(log=str(tmp_path / "missing" / "log"))

    handover.start()

    assert handover.wait() == 1
    assert "missing/log" in handover.errors()
    assert not handover.started.exists()


def test_the_lease_says_who_runs_before_the_command_starts(hand_over: Callable[..., Handover]):
    handover = hand_over('cp "{lease}" "$0.lease"; sleep 300')
    body = handover.path.read_text().replace("{lease}", str(handover.path))
    handover.write(body)

    pid = handover.start()
    handover.until_started()

    copy = handover.base / "started.lease"
    seen = decode_lease(
        json.loads(until(lambda: copy.exists() and copy.read_text(), "the command to look"))
    )
    assert seen.state is LeaseState.RUNNING
    assert seen.process is not None
    assert seen.process.pid == pid
    assert seen.process.start_ticks == _start_ticks(pid)
    assert seen.process.pid_ns == Path("/proc/self/ns/pid").stat().st_ino
    assert seen.process.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert os.getpgid(seen.process.pgid) == seen.process.pgid
    assert _parent(seen.process.pgid) == pid
    assert replace(seen, state=LeaseState.STARTING, process=None, heartbeat=seen.started_at) == (
        replace(
            handover.lease,
            run=seen.run,
            started_at=seen.started_at,
            heartbeat=seen.started_at,
            monotonic_started_ns=seen.monotonic_started_ns,
            monotonic_heartbeat_ns=seen.monotonic_heartbeat_ns,
        )
    ), "all else is as the tick wrote it"


def test_cancelled_before_the_command_started_it_never_starts(hand_over: Callable[..., Handover]):
    handover = hand_over()
    handover.cancel.touch()

    result = handover.run()

    assert result["outcome"] == "cancelled"
    assert result["failure_reason"] == "cancelled"
    assert result["message"] == "cancelled before the command started"
    assert not handover.started.exists()


def test_the_command_reads_the_file_that_the_lease_names(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"\xff do this\n")
    handover = hand_over("cat", stdin=str(prompt))

    handover.run()

    assert (handover.base / "log").read_bytes() == b"\xff do this\n"


def test_the_command_enters_the_control_group_that_the_lease_names(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    # Plain folders: what the kernel makes of such a group is for the tests of trees.
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").touch()

    hand_over(cgroup=str(group)).run()

    assert (group / "cgroup.procs").read_text() == "0"


def test_a_control_group_is_made_for_the_command_and_removed_with_it(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    group = tmp_path / "group"
    handover = hand_over(f"ls -d {group}", cgroup=str(group))

    handover.run()

    assert (handover.base / "log").read_text() == f"{group}\n"
    assert not group.exists()


def test_a_crash_point_that_somebody_died_at_already_is_passed(hand_over: Callable[..., Handover]):
    handover = hand_over()
    mark = handover.base / "mark"
    mark.touch()

    result = handover.run({"TINYSCHEDULER_CRASH_AT": f"wrapper.running:before {mark}"})

    assert result["outcome"] == "succeeded"


# -- results --------------------------------------------------------------------------


def test_a_result_says_exactly_what_happened(hand_over: Callable[..., Handover]):
    handover = hand_over("sleep 0.3", turns=4)
    before = datetime.now(UTC)

    result = handover.run()

    started_at, ended_at = result.pop("started_at"), result.pop("ended_at")
    assert before.timestamp() - 0.002 <= _seconds(started_at)
    assert _seconds(started_at) + 0.29 <= _seconds(ended_at) <= time.time()
    assert 0.3 <= result.pop("duration_sec") < 10
    assert 0 < result.pop("peak_rss_mb") < 100
    assert 0 <= result.pop("cpu_sec") < 10
    assert result == {
        "version": 1,
        "lease_id": handover.lease.lease_id,
        "task_id": "7",
        "source": "local",
        "agent": "coder",
        "attempt": 2,
        "outcome": "succeeded",
        "failure_reason": None,
        "exit_code": 0,
        "signal": None,
        "message": "",
        "turns": 4,
        "tokens": None,
        "cost_usd": None,
        "gpu_sec": None,
        "found_nothing": False,
        "log": handover.lease.run.log,
    }
    assert stat.S_IMODE(handover.result_path.stat().st_mode) == 0o600
    assert json.loads(handover.path.read_text())["state"] == "finished"
    assert handover.is_lock_free()


@pytest.mark.parametrize(
    ("body", "schedule", "expected"),
    [
        ("echo all is well; echo HEARTBEAT_OK", "a", True),
        ("seq 200000; echo HEARTBEAT_OK; echo", "a", True),
        ("echo HEARTBEAT_OK; echo but look", "a", False),
        ("echo HEARTBEAT_OK; exit 3", "a", False),
        ("head -c 300000 /dev/urandom", "a", False),
        ("true", "a", False),
        ("echo HEARTBEAT_OK; rm log", "a", False),
        # No firing: whatever it says means nothing here.
        ("echo HEARTBEAT_OK", None, False),
    ],
)
def test_a_firing_says_whether_it_found_nothing_to_do(
    hand_over: Callable[..., Handover], body: str, schedule: str | None, *, expected: bool
):
    result = hand_over(body, schedule_id=schedule).run()

    assert result["found_nothing"] is expected
    assert decode_result(result).found_nothing is expected


def test_what_stood_in_its_log_before_is_not_its_answer(hand_over: Callable[..., Handover]):
    handover = hand_over("true", schedule_id="a")
    Path(handover.lease.run.log or "").write_text("HEARTBEAT_OK\n")

    assert handover.run()["found_nothing"] is False


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("exit 3", ("failed", "command_failed", 3, None, "exit code 3")),
        ("exit 75", ("retry_later", None, 75, None, "exit code 75: asked to be tried again later")),
        ("kill -SEGV $$", ("failed", "command_failed", None, 11, "ended by signal SIGSEGV")),
        ("kill -35 $$", ("failed", "command_failed", None, 35, "ended by signal 35")),
    ],
)
def test_the_outcome_follows_from_how_the_command_ended(
    hand_over: Callable[..., Handover], body: str, expected: tuple[Any, ...]
):
    result = hand_over(body).run()

    names = ("outcome", "failure_reason", "exit_code", "signal", "message")
    assert tuple(result[name] for name in names) == expected


@pytest.mark.parametrize(
    ("unusual", "words"),
    [
        ({"argv": ("/nonexistent/program",)}, "No such file or directory"),
        ({"argv": ("a-name-that-nobody-has",)}, "No such file or directory"),
        ({"argv": ("echo", "a\0b")}, "embedded null byte"),
        ({"argv": ("echo", *["x" * 131_000] * 20)}, "Argument list too long"),
        ({"cwd": "/nonexistent"}, "No such file or directory (/nonexistent)"),
        ({"stdin": "/nonexistent/prompt"}, "No such file or directory (/nonexistent/prompt)"),
    ],
    ids=[
        "no such path",
        "no such name",
        "null byte",
        "too long",
        "no such folder",
        "no such prompt",
    ],
)
def test_a_command_that_cannot_be_executed_says_why_in_result_and_log(
    hand_over: Callable[..., Handover], unusual: dict[str, Any], words: str
):
    handover = hand_over(**unusual)

    result = handover.run()

    assert (result["outcome"], result["failure_reason"]) == ("failed", "spawn_failed")
    assert (result["exit_code"], result["signal"]) == (None, None)
    assert result["message"].startswith(f"cannot execute {handover.lease.run.argv[0]!r}: ")
    assert words in result["message"]
    assert (handover.base / "log").read_text() == f"tinyscheduler: {result['message']}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("./nofile.sh", "cannot execute './nofile.sh': No such file or directory (in /etc)"),
        ("/etc/nofile.sh", "cannot execute '/etc/nofile.sh': No such file or directory"),
    ],
)
def test_a_command_that_is_not_there_is_named_once_and_so_is_the_folder_it_was_sought_in(
    hand_over: Callable[..., Handover], command: str, message: str
):
    assert hand_over(argv=(command,), cwd="/etc").run()["message"] == message


@pytest.mark.parametrize("first", ["missing", "a-file", "not-executable"])
def test_a_command_is_looked_for_in_every_folder_of_its_path(
    hand_over: Callable[..., Handover], first: str
):
    handover = hand_over(argv=("greet",))
    (handover.base / "a-file").touch()
    for folder, mode in (("not-executable", 0o644), ("there", 0o755)):
        (handover.base / folder).mkdir()
        script = handover.base / folder / "greet"
        script.write_text("#!/bin/sh\necho hello\n")
        script.chmod(mode)
    path = f"{handover.base / first}:{handover.base / 'there'}"

    result = handover.run(environment={"PATH": path})

    assert result["outcome"] == "succeeded"
    assert (handover.base / "log").read_text() == "hello\n"


def test_a_command_that_may_not_be_executed_is_named_with_its_folder(
    hand_over: Callable[..., Handover],
):
    handover = hand_over(argv=("greet",))
    script = handover.base / "greet"
    script.write_text("#!/bin/sh\n")

    result = handover.run(environment={"PATH": f"{handover.base}:/nonexistent"})

    assert result["message"] == f"cannot execute 'greet': Permission denied ({script})"


def test_a_python_that_was_replaced_meanwhile_costs_only_the_name_of_the_signal(
    monkeypatch: pytest.MonkeyPatch,
):
    assert wrapper._signal_name(9) == "SIGKILL"

    monkeypatch.setitem(sys.modules, "signal", None)

    assert wrapper._signal_name(9) == "9"


def test_a_hole_is_punched_with_what_was_loaded_at_the_start(tmp_path: Path):
    program = """
import os, sys, types
module = types.ModuleType("wrapper")
exec(open(sys.argv[1]).read(), module.__dict__)
before = set(sys.modules)
fd = os.open(sys.argv[2], os.O_RDWR)
module._punch_hole(fd, start=4096, end=3 << 32)
os.fsync(fd)
print(os.fstat(fd).st_blocks * 512 <= 16384, set(sys.modules) - before)
"""
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.write(b"x" * (4 << 20))
        file.truncate(4 << 32)

    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, wrapper.__file__, log],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == "True set()\n"


def test_a_full_log_disk_costs_no_result(hand_over: Callable[..., Handover]):
    handover = hand_over(argv=("/nonexistent/program",), log="/dev/full")

    result = handover.run()

    assert result["failure_reason"] == "spawn_failed"


def test_until_there_is_room_for_the_result_it_keeps_trying_and_beating(
    hand_over: Callable[..., Handover],
):
    handover = hand_over()
    results = handover.base / "results"
    results.rmdir()
    results.touch()  # a file in the folder's place refuses like a full disk, also root

    pid = handover.start()
    until(lambda: _below(pid) == [] and handover.started.exists(), "the command to end")
    beats = _beats(handover, count=8)

    assert is_alive(pid)
    assert not handover.is_lock_free()
    assert max(after - before for before, after in pairwise(beats)) < 3 * HEARTBEAT_S * 1e9

    results.unlink()

    assert handover.wait() == 0
    assert handover.result()["outcome"] == "succeeded"


def test_a_disk_that_fills_up_during_the_run_stops_no_heartbeat_and_loses_no_result(
    hand_over: Callable[..., Handover],
):
    handover = hand_over('while [ ! -e "$0.go" ]; do sleep 0.05; done')
    pid = handover.start()
    handover.until_started()

    # No file of the wrapper may grow from here on, which fails as a full disk does.
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    beats = _beats(handover, count=3)
    (handover.base / "started.go").touch()
    until(lambda: _below(pid) == [], "the command to end")
    beats += _beats(handover, count=2)[1:]

    assert is_alive(pid)
    assert beats == sorted(set(beats))
    assert not handover.result_path.exists()

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    assert handover.wait() == 0
    assert handover.result()["outcome"] == "succeeded"


# -- turns ----------------------------------------------------------------------------

TURN = '{"type": "assistant", "message": {"id": "m%d"}}'
TURNS = "n=0; while [ $n -lt {number} ]; do n=$((n+1)); printf '{turn}\\n' $n; done; {then}"


READING = """
class Reading:
    counted = turns = tokens = cost_usd = None
    has_unread = False
    answer = last_line = ""
    def __init__(self, *_, **__): self.output = self
    def read(self): pass
"""


def silent_for(most_s: float) -> dict[str, Any]:
    return {"idle_output_s": most_s, "attempt_life": LIFE}


def turns(number: int, then: str = "true") -> str:
    return TURNS.format(number=number, turn=TURN, then=then)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_turns_are_counted_by_a_program_beside_it(
    hand_over: Callable[..., Handover],
    tmp_path: Path,
    is_compiled: bool,  # noqa: FBT001 - a case
):
    program = OUTPUT
    if is_compiled:
        program = py_compile.compile(OUTPUT, cfile=str(tmp_path / "agent_output.pyc")) or ""
    handover = hand_over(turns(3), **{**CLAUDE, "agent_output": program}, max_turns=3)

    result = handover.run()

    assert (result["outcome"], result["turns"]) == ("succeeded", 3)
    assert json.loads(handover.path.read_text())["turns"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "FileNotFoundError"),
        ("def", "SyntaxError"),
        ("answer = 42", "KeyError: 'Reading'"),
        ("import nowhere", "ModuleNotFoundError"),
        (f"{READING}    def finish(self, code): raise RecursionError", "RecursionError"),
        (f"{READING}    def read(self): raise MemoryError", "MemoryError"),
        ("class Reading:\n    def __init__(self, *_, **__): pass", "AttributeError"),
    ],
)
def test_what_cannot_count_is_told_and_the_attempt_goes_on(
    hand_over: Callable[..., Handover], tmp_path: Path, text: str | None, words: str
):
    program = tmp_path / "counter.py"
    if text is not None:
        program.write_text(text)
    handover = hand_over(turns(9), **{**CLAUDE, "agent_output": str(program)}, max_turns=3)

    result = handover.run()

    assert (result["outcome"], result["turns"]) == ("succeeded", None)
    assert f"task 7: its output is not read: {words}" in handover.errors()


def test_of_more_than_can_be_read_the_newest_is(hand_over: Callable[..., Handover]):
    handover = hand_over("true", **CLAUDE, max_turns=9)
    run = handover.lease.run
    # Written at one blow, however fast anybody reads.
    script = f"truncate -s 100M {run.log}; echo; {turns(4)}"
    lease = replace(handover.lease, run=replace(run, argv=("sh", "-c", script)))
    handover.write(json.dumps(encode_lease(lease)))

    assert handover.run()["turns"] == 4


def test_what_is_printed_faster_than_one_look_reads_is_read_by_those_that_follow(
    hand_over: Callable[..., Handover],
):
    body = f"truncate -s 9M log; echo; {turns(2, 'touch said; sleep 300')}"
    handover = hand_over(body)
    with unseen(handover):
        until((handover.base / "said").exists, "the command to have printed")

    until(lambda: json.loads(handover.path.read_text())["turns"] == 2, "both turns to be counted")
    handover.cancel.touch()

    assert handover.wait() == 0
    assert handover.result()["turns"] == 2


def test_who_takes_a_turn_too_many_is_ended(hand_over: Callable[..., Handover]):
    body = turns(4, "sleep 300")

    result = hand_over(body, **CLAUDE, max_turns=3).run()

    assert (result["outcome"], result["failure_reason"]) == ("failed", "turn_limit_exceeded")
    assert (result["turns"], result["signal"]) == (4, signal.SIGTERM)
    assert result["message"] == "took more than its 3 turns"


def test_who_ends_in_the_moment_of_a_turn_too_many_has_taken_it(
    hand_over: Callable[..., Handover],
):
    handover = hand_over(turns(4), max_turns=3)
    with unseen(handover) as lease:
        until(lambda: not is_alive(lease["process"]["pgid"]), "the command to end")

    assert handover.wait() == 0
    result = handover.result()
    assert (result["outcome"], result["failure_reason"]) == ("failed", "turn_limit_exceeded")
    assert (result["turns"], result["exit_code"]) == (4, 0)
    assert result["message"] == "took more than its 3 turns"


def test_what_is_left_to_read_at_its_end_is_read(hand_over: Callable[..., Handover]):
    handover = hand_over(f"head -c 3000000 /dev/zero | tr '\\0' '\\n'; {turns(2)}")
    with unseen(handover) as lease:
        until(lambda: not is_alive(lease["process"]["pgid"]), "the command to end")

    assert handover.wait() == 0
    assert handover.result()["turns"] == 2


def test_who_uses_more_tokens_than_it_may_is_ended(hand_over: Callable[..., Handover]):
    said = '{"type": "assistant", "message": {"id": "m", "usage": {"output_tokens": 51}}}'

    result = hand_over(f"echo '{said}'; sleep 300", **CLAUDE, max_tokens=50).run()

    assert (result["failure_reason"], result["signal"]) == ("budget_exceeded", signal.SIGTERM)
    assert result["message"] == "used 51 tokens of its 50"


@pytest.mark.parametrize(
    ("most", "code", "ended"),
    [
        (0.25, 0, ("succeeded", None, "")),
        # It is done, and another attempt would cost as much again.
        (0.24, 0, ("succeeded", None, "used $0.25 of its $0.24")),
        (0.24, 1, ("failed", "budget_exceeded", "used $0.25 of its $0.24")),
    ],
)
def test_who_tells_at_the_end_alone_what_it_cost_may_be_done_all_the_same(
    hand_over: Callable[..., Handover],
    most: float,
    code: int,
    ended: tuple[str, str | None, str],
):
    said = '{"type": "result", "subtype": "success", "is_error": false, "total_cost_usd": 0.25}'
    command = f"echo '{said}'; sleep 0.3; exit {code}"

    result = hand_over(command, **CLAUDE, max_cost_usd=most).run()

    assert (result["outcome"], result["failure_reason"], result["message"]) == ended


MAX_TURNS = '{"type": "result", "subtype": "error_max_turns", "is_error": true, "num_turns": 3}'


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("exit 0", ("failed", "turn_limit_exceeded")),
        ("exit 75", ("retry_later", None)),
        ("kill $$", ("failed", "command_failed")),
    ],
)
def test_an_agents_own_word_goes_before_its_exit_code_but_for_the_one_that_asks_for_later(
    hand_over: Callable[..., Handover], then: str, expected: tuple[str, str | None]
):
    rules = [{"json": {"subtype": ["error_max_turns"]}, "then": "turn_limit_exceeded"}]
    profile = json.dumps({"outcomes": rules})

    result = hand_over(f"echo '{MAX_TURNS}'; {then}", **CLAUDE, agent_profile=profile).run()

    assert (result["outcome"], result["failure_reason"]) == expected


@pytest.mark.parametrize(
    ("body", "kind", "found"),
    [
        ("echo 'All is well.'; echo HEARTBEAT_OK; echo", None, True),
        ("echo 'the disk is full'", None, False),
        ("true", None, False),
        ('printf %s \'{"type": "result", "result": "fine\\nHEARTBEAT_OK"}\'', None, True),
        ('echo \'{"type": "result", "result": "HEARTBEAT_OK"}\'; echo on', "claude", True),
        ("echo '**HEARTBEAT_OK**'", "claude", True),
        ('echo \'{"type": "result", "result": "full"}\'', "claude", False),
    ],
)
def test_a_firing_may_say_that_there_was_nothing_to_do(
    hand_over: Callable[..., Handover], body: str, kind: str | None, *, found: bool
):
    run = {**CLAUDE, "agent_kind": kind}

    assert hand_over(body, schedule_id="s", **run).run()["found_nothing"] is found
    assert hand_over(body, **run).run()["found_nothing"] is False


def test_what_it_said_last_costs_no_result_where_nobody_can_read_it(
    hand_over: Callable[..., Handover],
):
    handover = hand_over("echo '{}'", schedule_id="s", agent_output=None, agent_outcomes=OUTCOMES)

    result = handover.run()

    assert (result["outcome"], result["found_nothing"]) == ("succeeded", False)
    assert "task 7: its output is not read: FileNotFoundError" in handover.errors()


def test_gpus_are_counted_by_the_share_that_the_attempt_has_of_them(
    hand_over: Callable[..., Handover],
):
    handover = hand_over("sleep 0.2", gpu_uuids=("GPU-1",), gpu_share=0.5)

    result = handover.run()

    assert result["gpu_sec"] == pytest.approx(result["duration_sec"] / 2, abs=0.002)


def test_the_time_of_processors_is_that_of_the_whole_tree(hand_over: Callable[..., Handover]):
    spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    alone = hand_over("true").run()["cpu_sec"]
    handover = hand_over(f"sh -c '{spin}'; (setsid sh -c '{spin}' &); sleep 0.1")

    assert handover.run()["cpu_sec"] > alone


def test_the_peak_of_memory_is_that_of_the_whole_tree_at_once(hand_over: Callable[..., Handover]):
    hold = "import sys, time; held = bytearray(30 << 20); print(1, flush=True); time.sleep(9)"
    script = f"for i in 1 2 3; do {sys.executable} -S -c '{hold}' & done; wait"
    handover = hand_over(script)
    handover.start()
    log = Path(handover.lease.run.log)
    until(lambda: log.exists() and log.read_text().count("1") == 3, "three to hold their memory")
    beat = json.loads(handover.path.read_text())["heartbeat"]
    until(lambda: json.loads(handover.path.read_text())["heartbeat"] > beat, "a heartbeat")
    handover.cancel.touch()

    assert handover.wait() == 0
    # Each of them alone has little more than thirty.
    assert handover.result()["peak_rss_mb"] > 90


# -- heartbeat ------------------------------------------------------------------------


def test_it_beats_by_the_locks_time_and_copies_that_into_the_lease(
    hand_over: Callable[..., Handover],
):
    handover = hand_over("sleep 300")
    handover.start()
    handover.until_started()

    copies = [json.loads(handover.path.read_text())]
    for _ in range(3):
        beat_ns, now_ns = handover.beat_ns(), time.monotonic_ns()
        assert now_ns - 5e9 < beat_ns <= now_ns, "CLOCK_MONOTONIC, and of now"
        assert abs(handover.lock.stat().st_atime - time.time()) < 5, "wall clock beside it"
        document = until(
            lambda: (found := json.loads(handover.path.read_text())) != copies[-1] and found,
            "the lease to be renewed",
        )
        assert handover.beat_ns() >= int(document["monotonic"]["heartbeat"] * 1e9) - 1000
        copies.append(document)

    assert [copy["monotonic"]["heartbeat"] for copy in copies] == sorted(
        {copy["monotonic"]["heartbeat"] for copy in copies}
    )
    assert [copy["heartbeat"] for copy in copies] == sorted({copy["heartbeat"] for copy in copies})
    moving = {"heartbeat": None, "monotonic": None, "cpu_sec": None}
    for copy in copies:
        assert copy | moving == copies[0] | moving


def test_it_beats_where_the_copy_cannot_be_written(hand_over: Callable[..., Handover]):
    handover = hand_over("sleep 300")
    handover.start()
    handover.until_started()
    (handover.base / "running" / ".task_7.json.tmp").mkdir()

    beats = _beats(handover, count=3)

    assert beats == sorted(set(beats))
    assert decode_lease(json.loads(handover.path.read_text())).state is LeaseState.RUNNING


# -- ending ---------------------------------------------------------------------------


def test_sigterm_ends_the_command_and_counts_as_an_interruption(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    handover = hand_over("sleep 300", kick_argv=_telling(tmp_path / "0"))
    pid = handover.start()
    handover.until_started()
    tree = [one for _, one in _below(pid)]

    os.kill(pid, signal.SIGTERM)

    assert handover.wait() == 0
    result = handover.result()
    assert (result["outcome"], result["failure_reason"]) == ("interrupted", "aborted")
    assert result["signal"] == signal.SIGTERM
    assert tree
    assert not any(is_alive(one) for one in tree)
    # Nothing new is started by what was asked to end; the wish for a tick is there.
    assert (handover.base / "kick").exists()
    assert not (handover.base / "told").exists()


@pytest.mark.parametrize(
    ("trap", "outcome"),
    [
        ("", "interrupted"),
        ("trap 'exit 3' TERM;", "interrupted"),
        ("trap 'exit 0' TERM;", "succeeded"),
    ],
)
def test_a_machine_that_shuts_down_asks_command_and_wrapper_at_once(
    hand_over: Callable[..., Handover], trap: str, outcome: str
):
    handover = hand_over(f"{trap} echo ready; while :; do sleep 0.01; done")
    with unseen(handover) as lease:
        until(lambda: (handover.base / "log").read_text() == "ready\n", "the trap to be set")
        os.kill(lease["process"]["pgid"], signal.SIGTERM)
        until(lambda: not is_alive(lease["process"]["pgid"]), "the command to end")
        os.kill(lease["pid"], signal.SIGTERM)

    assert handover.wait() == 0
    assert handover.result()["outcome"] == outcome


def test_past_its_maximum_runtime_the_whole_tree_is_asked_then_killed(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    child = tmp_path / "child"
    forever = "while :; do sleep 0.05; done"
    orphan = ORPHAN.format(trap='trap "echo asked" TERM;', work=forever, file=child)
    handover = hand_over(f'{orphan}; trap "" TERM; {forever}', max_runtime_s=0.8)

    result = handover.run()

    assert (result["outcome"], result["failure_reason"]) == ("failed", "timeout")
    assert result["message"] == "ran longer than its maximum of 0.8 s"
    assert result["signal"] == signal.SIGKILL, "it ignores SIGTERM"
    assert result["duration_sec"] >= 0.8 + GRACE_S
    assert "asked\n" in (handover.base / "log").read_text()
    assert not is_alive(int(child.read_text()))


def test_a_request_to_cancel_ends_the_command(hand_over: Callable[..., Handover]):
    handover = hand_over("sleep 300")
    handover.start()
    handover.until_started()

    handover.cancel.touch()

    assert handover.wait() == 0
    result = handover.result()
    assert (result["outcome"], result["message"]) == ("cancelled", "cancelled by its owner")


def test_each_line_after_a_silence_counts_as_life(hand_over: Callable[..., Handover]):
    # Silences longer than it takes to wait for a line instead of looking for one.
    result = hand_over("for i in 1 2 3; do sleep 0.8; echo $i; done", **silent_for(1.2)).run()

    assert result["outcome"] == "succeeded"


def test_a_command_that_falls_silent_is_ended_and_one_that_speaks_is_not(
    hand_over: Callable[..., Handover],
):
    handover = hand_over(
        "for i in 1 2 3 4 5 6 7; do echo $i; sleep 0.2; done; exec sleep 300", **silent_for(1)
    )

    result = handover.run()

    assert (result["outcome"], result["failure_reason"]) == ("failed", "idle_output")
    assert result["message"] == "printed nothing and computed nothing for 1 s"
    assert (handover.base / "log").read_text().split() == list("1234567")


def test_what_prints_nothing_and_computes_is_left_alone_and_ended_once_it_does_neither(
    hand_over: Callable[..., Handover],
):
    # Two processes deep, and for much longer than it may be silent.
    spin = "i=0; until [ -e stop ]; do i=$((i+1)); done"
    handover = hand_over(f"sh -c '{spin}'; touch idle; sleep 300 & sleep 300", **silent_for(0.6))
    handover.start()
    handover.until_started()
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 2.5 or handover.result_path.exists(), "a while")
    assert not handover.result_path.exists()
    assert json.loads(handover.path.read_text())["silent_sec"] < 0.6

    (handover.base / "stop").touch()

    assert handover.wait() == 0
    result = handover.result()
    assert (result["failure_reason"], (handover.base / "idle").exists()) == ("idle_output", True)
    assert result["message"] == "printed nothing and computed nothing for 0.6 s"


@pytest.mark.parametrize("share", [0, 97])
def test_what_computes_on_its_gpu_alone_is_left_alone(
    hand_over: Callable[..., Handover], tmp_path: Path, share: int
):
    report = tmp_path / "gpus.json"
    report.write_text(json.dumps({"gpus": [{"uuid": "GPU-1", "utilization": share}]}))
    asked = {"gpu_uuids": ("GPU-1",), "gpu_report": ("/bin/cat", str(report))}

    result = hand_over("sleep 1.5", **silent_for(0.4), **asked).run()

    assert (result["failure_reason"] == "idle_output") == (share == 0)


def test_what_the_command_leaves_behind_ends_with_it_and_before_the_result(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    polite, stubborn = tmp_path / "polite", tmp_path / "stubborn"
    forever = "while :; do sleep 0.05; done"
    first = ORPHAN.format(trap='trap "echo asked; exit" TERM;', work=forever, file=polite)
    second = ORPHAN.format(trap='trap "" TERM;', work=forever, file=stubborn)
    wait = f"while [ ! -e {polite} ] || [ ! -e {stubborn} ]; do sleep 0.02; done"
    handover = hand_over(f"{first}; {second}; {wait}")

    pid = handover.start()
    until(stubborn.exists, "the orphans to start")
    assert _parent(int(stubborn.read_text())) == pid, "orphans become the wrapper's children"
    until(handover.result_path.exists, "the result")

    assert not is_alive(int(polite.read_text()))
    assert not is_alive(int(stubborn.read_text()))
    assert handover.wait() == 0
    assert handover.result()["outcome"] == "succeeded"
    assert "asked\n" in (handover.base / "log").read_text()


def test_a_killed_wrapper_takes_its_command_along(hand_over: Callable[..., Handover]):
    handover = hand_over("exec sleep 300")
    pid = handover.start()
    command = handover.until_started()["process"]["pgid"]

    os.kill(pid, signal.SIGKILL)

    until(lambda: not is_alive(command), "the command to die", limit_s=2)
    assert handover.wait() == -signal.SIGKILL
    assert not handover.result_path.exists()
    assert handover.is_lock_free()


# -- log ------------------------------------------------------------------------------


def test_a_log_above_its_cap_loses_its_middle_and_nothing_else(hand_over: Callable[..., Handover]):
    handover = hand_over(
        'seq -f %015.0f 65536; while [ ! -e "$0.go" ]; do sleep 0.05; done; echo end',
        log_max_bytes=256 * 1024,
    )
    handover.start()
    log = handover.base / "log"
    whole = b"".join(b"%015d\n" % number for number in range(1, 65537))
    until(lambda: handover.started.exists() and log.stat().st_size == len(whole), "the lines")
    until(lambda: log.stat().st_blocks * 512 <= 256 * 1024, "the log to be capped")
    (handover.base / "started.go").touch()
    handover.wait()

    kept = log.read_bytes()
    assert len(kept) == len(whole) + 4, "offsets never go back"
    assert kept[: 64 * 1024] == whole[: 64 * 1024]
    assert kept[-128 * 1024 :] == whole[-128 * 1024 + 4 :] + b"end\n"
    assert b"\0" * 4096 in kept


# Prints 50 MB a second, and notes how much of it lay on the disk at most.
BURST = """
import os, sys, time
time.sleep(float(sys.argv[1]))
most = 0
for _ in range(80):
    os.write(1, b"x" * 500_000)
    most = max(most, os.fstat(1).st_blocks * 512)
    time.sleep(0.01)
open("most", "w").write(str(most))
"""


@pytest.mark.parametrize("quiet_s", [0, 0.25, 0.8])
def test_a_burst_stays_near_the_cap(hand_over: Callable[..., Handover], quiet_s: float):
    handover = hand_over(
        argv=(sys.executable, "-I", "-S", "-c", BURST, str(quiet_s)), log_max_bytes=4_000_000
    )

    handover.run()

    assert int((handover.base / "most").read_text()) < 10_000_000


def test_a_cap_smaller_than_the_first_block_costs_no_line(hand_over: Callable[..., Handover]):
    handover = hand_over("seq 4000", log_max_bytes=4096)

    handover.run()

    assert (handover.base / "log").read_text().split()[-1] == "4000"
    assert b"\0" not in (handover.base / "log").read_bytes()


# The wrapper, as a machine lets it run that has no process left for its command.
UNFORKABLE = """
import os, runpy, sys
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
runpy.run_module("tinyscheduler.wrapper", run_name="__main__", alter_sys=True)
"""


def test_where_no_process_is_left_for_the_command_nothing_is_counted_against_the_task(
    hand_over: Callable[..., Handover],
):
    handover = hand_over()

    handover.start(program=(sys.executable, "-I", "-c", UNFORKABLE))
    handover.wait()

    result = handover.result()
    assert (result["outcome"], result["exit_code"]) == ("interrupted", None)
    assert result["message"] == (
        "no process could be made for the command: Resource temporarily unavailable"
    )
    assert handover.is_lock_free()
    assert not handover.started.exists()


def test_the_wrapper_of_another_attempt_is_left_alone_and_not_waited_for(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    other, own = tmp_path / "other", tmp_path / "own"
    marked = ORPHAN.format(trap="", work="exec sleep 300", file=other)
    handover = hand_over(
        f"export {wrapper.WRAPPER_MARK}=another; {marked}; unset {wrapper.WRAPPER_MARK};"
        + ORPHAN.format(trap="", work="exec sleep 300", file=own)
        + f"; until [ -e {other} ] && [ -e {own} ]; do sleep 0.01; done"
    )

    assert handover.run()["outcome"] == "succeeded"

    assert not is_alive(int(own.read_text()))
    assert is_alive(int(other.read_text()))
    os.kill(int(other.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("environment", "is_other"),
    [
        ({wrapper.WRAPPER_MARK: "another"}, True),
        ({wrapper.WRAPPER_MARK: "ours"}, False),
        ({"PATH": "/bin"}, False),
        ({}, False),
    ],
)
def test_a_wrapper_is_known_by_its_mark(environment: dict[str, str], *, is_other: bool):
    with subprocess.Popen(["/bin/sleep", "300"], env=environment) as process:
        until(
            lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it to be a sleep"
        )

        assert wrapper._is_other_wrapper(process.pid, "ours") == is_other
        process.kill()

    assert not wrapper._is_other_wrapper(process.pid, "ours")


# -- descriptors ----------------------------------------------------------------------


def test_nothing_that_its_starter_left_open_reaches_the_command_whatever_the_limit(
    hand_over: Callable[..., Handover],
):
    handover = hand_over("ls /proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Opened before the limit was lowered: closing all up to the limit would miss it.
    left_open = fcntl.fcntl(0, fcntl.F_DUPFD, 400)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        handover.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(left_open)

    assert handover.wait() == 0
    descriptors = list(map(int, (handover.base / "log").read_text().split()))
    assert descriptors[:4] == [0, 1, 2, 3]
    assert left_open not in descriptors


# -- becoming a tick ------------------------------------------------------------------

# What the wrapper becomes: it tells what it found, instead of ticking.
TELL = """
import ctypes, fcntl, json, os, sys
base = sys.argv[1]
flag = ctypes.c_int(-1)
ctypes.CDLL(None).prctl(37, ctypes.byref(flag), 0, 0, 0)
lock = os.open(base + "/running/task_7.lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.close(lock)
descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
found = {
    "pid": os.getpid(),
    "environment": dict(os.environ),
    "cwd": os.getcwd(),
    "subreaper": flag.value,
    "descriptors": [fd for fd in descriptors if os.path.exists(f"/proc/self/fd/{fd}")],
    "kick": os.path.exists(base + "/kick"),
    "result": os.path.exists(base + "/results/" + "0123456789abcdef" * 2 + ".json"),
}
with open(base + "/told", "w") as file:
    json.dump(found, file)
"""


def _telling(handover_base: Path) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", TELL, str(handover_base))


def test_it_becomes_a_tick_with_nothing_of_the_attempt_left(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    handover = hand_over(kick_argv=_telling(tmp_path / "0"))

    pid = handover.start(
        environment={"HOME": "/home", "SECRET": "1", "TINYSCHEDULER_TASK_ID": "7", "PWD": "/"}
    )

    assert handover.wait() == 0
    told = json.loads((handover.base / "told").read_text())
    assert told == {
        "pid": pid,
        "environment": told["environment"],
        "cwd": "/",
        "subreaper": 0,
        "descriptors": [0, 1, 2],
        "kick": True,
        "result": True,
    }
    names = {name for name in told["environment"] if not name.startswith("COVERAGE_")}
    # Python adds LC_CTYPE in the C locale (PEP 538).
    assert names - {"LC_CTYPE"} == {"PATH", "HOME"}


@pytest.mark.parametrize("name", ["tick_lock", "daemon_lock"])
def test_where_a_tick_is_at_work_already_a_wish_is_enough(
    hand_over: Callable[..., Handover], tmp_path: Path, name: str
):
    handover = hand_over(kick_argv=_telling(tmp_path / "0"))
    with Path(getattr(handover.lease.run, name)).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        result = handover.run()

    assert result["outcome"] == "succeeded"
    assert (handover.base / "kick").exists()
    assert not (handover.base / "told").exists()
    assert handover.is_lock_free()


def test_a_wish_that_cannot_be_written_is_granted_all_the_more(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    handover = hand_over(kick_argv=_telling(tmp_path / "0"), kick="/nonexistent/kick")

    handover.run()

    assert json.loads((handover.base / "told").read_text())["kick"] is False


def test_where_the_installation_is_gone_the_result_waits_and_says_so(
    hand_over: Callable[..., Handover],
):
    handover = hand_over(kick_argv=("/nonexistent/python", "-m", "tinyscheduler"))

    result = handover.run()

    assert result["outcome"] == "succeeded"
    assert (handover.base / "kick").exists()
    assert handover.is_lock_free()
    assert "its result is kept for the next tick" in handover.errors()
    assert "/nonexistent/python: No such file or directory" in handover.errors()


def test_a_crash_point_is_handed_on_to_the_tick(hand_over: Callable[..., Handover], tmp_path: Path):
    handover = hand_over(kick_argv=_telling(tmp_path / "0"))

    handover.run({"TINYSCHEDULER_CRASH_AT": "memory.save:before /nonexistent"})

    told = json.loads((handover.base / "told").read_text())
    assert told["environment"]["TINYSCHEDULER_CRASH_AT"] == "memory.save:before /nonexistent"


# -- its parts ------------------------------------------------------------------------


def test_a_stranger_with_the_number_of_a_process_of_ours_is_not_signalled():
    with subprocess.Popen(["sleep", "300"]) as stranger, subprocess.Popen(["sleep", "300"]) as ours:
        gone = subprocess.Popen(["true"])
        gone.wait()

        wrapper._signal_all(
            [
                (gone.pid, 1),
                (stranger.pid, _start_ticks(stranger.pid) - 1),
                (ours.pid, _start_ticks(ours.pid)),
            ],
            signal.SIGTERM,
        )

        assert ours.wait(timeout=10) == -signal.SIGTERM
        assert is_alive(stranger.pid)
        assert wrapper._start_ticks(gone.pid) == -1
        stranger.kill()


def test_a_zombie_is_no_process_to_wait_for_but_the_one_that_has_not_collected_it_is(
    tmp_path: Path,
):
    told = tmp_path / "told"
    keep_a_zombie = (
        "import os, sys, time; pid = os.fork(); pid or os._exit(0);"
        " os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT);"
        " print(pid, file=open(sys.argv[1], 'w', buffering=1)); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", keep_a_zombie, told]) as parent:
        until(lambda: told.exists() and told.read_text(), "a zombie")
        zombie = int(told.read_text())

        below = {pid for pid, _ in wrapper._descendants("0" * 32)}

        assert os.path.exists(f"/proc/{zombie}")
        assert parent.pid in below
        assert zombie not in below
        parent.kill()


def test_it_needs_little_more_memory_than_a_bare_interpreter(
    hand_over: Callable[..., Handover], tmp_path: Path
):
    handover = hand_over("sleep 300")
    compiled = str(tmp_path / "wrapper.pyc")
    py_compile.compile(wrapper.__file__, cfile=compiled, doraise=True)
    bare = ["-I", "-c", "import time; print(flush=True); time.sleep(300)"]

    pid = handover.start(program=(sys.executable, "-I", "-S", compiled))
    handover.until_started()
    beat_ns = handover.beat_ns()
    until(lambda: handover.beat_ns() != beat_ns, "the wrapper to have done all it does")
    with subprocess.Popen(
        [sys.executable, *bare], env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE
    ) as interpreter:
        assert interpreter.stdout is not None
        interpreter.stdout.readline()
        ratio = _resident_kib(pid) / _resident_kib(interpreter.pid)
        interpreter.kill()

    assert ratio <= 1.4, f"{ratio:.2f} times a bare interpreter's resident memory"


# -- looking --------------------------------------------------------------------------


def _beats(handover: Handover, *, count: int) -> list[int]:
    """Wait for so many heartbeats and return them."""
    beats = [handover.beat_ns()]
    while len(beats) <= count:
        beats.append(
            until(lambda: (beat := handover.beat_ns()) != beats[-1] and beat, "a heartbeat")
        )
    return beats


def _below(pid: int) -> list[tuple[str, int]]:
    """Return state and number of every living process below this one."""
    rows = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
                fields = text[text.rindex(")") + 2 :].split()
                rows[int(name)] = (fields[0], int(fields[1]))
    found: list[tuple[str, int]] = []
    parents = [pid]
    while parents:
        parent = parents.pop()
        for one, (state, above) in rows.items():
            if above == parent:
                parents.append(one)
                found.append((state, one))
    return [(state, one) for state, one in found if state not in "ZX"]


def _fields(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text[text.rindex(")") + 2 :].split()


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _start_ticks(pid: int) -> int:
    return int(_fields(pid)[19])


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(pid)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_json_is_written_and_read_as_the_standard_library_does(value):
    assert_as_the_standard_library(value)


@pytest.mark.parametrize(
    "value", [None, True, False, 7, -1.5, 'a "word"\n\u2028', [], [1, [None]], {"a": {"b": False}}]
)
def test_json_of_each_kind_is_written_and_read_as_the_standard_library_does(value):
    assert_as_the_standard_library(value)


def assert_as_the_standard_library(value: object) -> None:
    text = wrapper._as_json(value)

    assert text == json.dumps(value)
    assert wrapper._parse_json(f" {text}\n".encode()) == json.loads(text)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,]", b"{} x", b"nothing", b"\xff", b'"\x01"', b"[" * 100_000]
)
def test_what_is_no_json_is_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011 - each of its kinds has words of its own
        wrapper._parse_json(data)
