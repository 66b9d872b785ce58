"""A scratch base path with real ticks, wrappers and commands, and the truth about what ran.

Commands of these tests append a line when they start and when they end to one journal,
so what really ran is known apart from anything the scheduler says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.place import make_state_folder
from tinyscheduler.app.queue import open_queue
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.saved import save_settings
from tinyscheduler.model.tasks import TaskSpec, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.records import TaskRecord

PYTHON = sys.executable
QUICK = {
    "STAGGER_DELAY_MS": "0",
    # However little memory this machine has left.
    "MEMORY_PER_SLOT_MB": "1",
    "MEMORY_CRITICAL": "1",
    "HEARTBEAT_SEC": "0.2",
    "RETRY_BASE_SEC": "0.1",
    "RETRY_BACKOFF_SEC": "0.1",
    "KILL_GRACE_SEC": "0.5",
    "MAX_ATTEMPTS": "5",
}
# In this order a start without an end is an attempt that was killed.
JOURNAL_COMMAND = (
    "sh",
    "-c",
    (
        'echo "start $TINYSCHEDULER_TASK_ID $TINYSCHEDULER_ATTEMPT $$" >> "$0"; {body}; '
        'code=$?; echo "end $TINYSCHEDULER_TASK_ID $TINYSCHEDULER_ATTEMPT $$" >> "$0"; exit $code'
    ),
)


@dataclass(slots=True)
class Station:
    """One base path and the commands to work it."""

    base: Path
    settings: dict[str, str] = field(default_factory=dict)
    kicks: bool = True
    _since: int = field(init=False)

    def __post_init__(self) -> None:
        """Make the folder, and the settings that kicked ticks read."""
        self._since = last_pid()
        self.base.mkdir(parents=True, exist_ok=True)
        make_state_folder(self.config())
        save_settings(self.config())

    # -- settings -----------------------------------------------------------------

    def environment(self, crash_at: str | None = None) -> dict[str, str]:
        """Return the environment of a command as cron would give it, plus the settings."""
        values = {**QUICK, "KICK": "true" if self.kicks else "false", **self.settings}
        environment = {f"TINYSCHEDULER_{name}": value for name, value in values.items()}
        environment |= {"PATH": os.environ["PATH"], "HOME": str(self.base)}
        if crash_at is not None:
            environment["TINYSCHEDULER_CRASH_AT"] = f"{crash_at} {self.crash_mark}"
        return environment

    def config(self) -> Config:
        """Return the configuration as a command of this station sees it."""
        overrides = Overrides(base_path=str(self.base))
        return load_config(overrides, environ=self.environment(), write_cache=False)

    @property
    def crash_mark(self) -> Path:
        """The file that says that the crash point was reached."""
        return self.base / "crashed"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.base / "state"

    @property
    def journal(self) -> Path:
        """What the commands themselves say."""
        return self.base / "journal"

    # -- commands -----------------------------------------------------------------

    def run(
        self, *arguments: str, crash_at: str | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the program and return how it ended."""
        return subprocess.run(
            [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", str(self.base), *arguments],
            env=self.environment(crash_at),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def tick(self, crash_at: str | None = None) -> int:
        """Do one tick as a wrapper's kick would, and return its exit code."""
        return self.run("run", "--kicked", crash_at=crash_at).returncode

    def start_tick(self, crash_at: str | None = None) -> subprocess.Popen[bytes]:
        """Start a tick and return without waiting for it."""
        return subprocess.Popen(
            [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", str(self.base), "run", "--kicked"],
            env=self.environment(crash_at),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def queue(self) -> Queue:
        """Open the embedded queue."""
        return open_queue(self.config(), Access.WRITE)

    def add(self, body: str = "true", **spec: Any) -> str:
        """Add a task whose command journals its start and end around ``body``."""
        return self.add_command(*self.journalled(body), **spec)

    def journalled(self, body: str) -> tuple[str, ...]:
        """Return the argv that journals its start and end around ``body``."""
        return ("sh", "-c", JOURNAL_COMMAND[2].replace("{body}", body), str(self.journal))

    def add_command(self, *command: str, **spec: Any) -> str:
        """Add a task that runs exactly this argv."""
        values = {"agent": "shell", "cwd": str(self.base), "command": command} | spec
        return self.queue().tasks.add([(None, TaskSpec(**values))])[0]

    # -- what is ------------------------------------------------------------------

    def task(self, task_id: str) -> TaskRecord:
        """Return where the task stands."""
        return open_queue(self.config(), Access.READ).tasks.task(task_id)

    def lease(self, task_id: str) -> dict[str, Any] | None:
        """Return the task's lease as it lies on disk."""
        try:
            text = (self.state / "running" / f"task_{task_id}.json").read_text()
        except FileNotFoundError:
            return None
        document: dict[str, Any] = json.loads(text)
        return document

    def lines(self) -> list[list[str]]:
        """Return the journal: start or end, task, attempt, pid of the command."""
        try:
            return [line.split() for line in self.journal.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def starts(self, task_id: str) -> list[int]:
        """Return the attempt numbers of a task in the order in which they really started."""
        return [int(line[2]) for line in self.lines() if line[:2] == ["start", task_id]]

    def log(self, task_id: str, attempt: int = 1) -> bytes:
        """Return what an attempt printed."""
        return (self.state / "logs" / "tasks" / task_id / f"{attempt}.log").read_bytes()

    def leftovers(self) -> list[str]:
        """Return every lease, lock, result and cancel request on disk."""
        return sorted(
            f"{folder}/{path.name}"
            for folder in ("running", "results", "cancel")
            for path in (self.state / folder).glob("*")
        )

    # -- waiting ------------------------------------------------------------------

    def until_running(self, task_id: str) -> dict[str, Any]:
        """Wait until the task's command runs and return its lease."""

        def look() -> dict[str, Any] | None:
            lease = self.lease(task_id)
            running = lease is not None and lease["state"] == "running"
            return lease if running and self.starts(task_id)[-1:] == [lease["attempt"]] else None  # type: ignore[index]  # seen above

        lease: dict[str, Any] = until(look, f"task {task_id} to run")
        return lease

    def until_final(self, *task_ids: str, limit_s: float = 40) -> None:
        """Tick as a regular clock would until all these tasks have ended and nothing is left."""
        deadline = time.monotonic() + limit_s
        while True:
            states = self.queue().tasks.states(list(task_ids))
            if all(states[task_id].is_final for task_id in task_ids) and not self.leftovers():
                return
            if time.monotonic() > deadline:
                message = f"{states} {self.leftovers()} {self.lines()}"
                raise AssertionError(message)
            code = self.tick()
            assert code in {0, 1, 69}, f"a tick ended with {code}"
            time.sleep(0.05)

    def wait_final(self, *task_ids: str, limit_s: float = 20) -> None:
        """Wait, without ticking, until these tasks have ended."""
        queue = self.queue().tasks
        until(
            lambda: all(state.is_final for state in queue.states(list(task_ids)).values()),
            f"tasks {task_ids} to end by themselves",
            limit_s=limit_s,
        )

    # -- judging ------------------------------------------------------------------

    def assert_never_two_at_once(self) -> None:
        """No attempt of a task starts while an earlier one's processes live.

        The journal alone cannot tell when a killed attempt died, so a start after a
        missing end is compared with the processes that are alive now.
        """
        open_attempts: dict[str, list[str]] = {}
        for what, task_id, attempt, _pid in self.lines():
            running = open_attempts.setdefault(task_id, [])
            if what == "start":
                assert attempt not in running, f"attempt {attempt} of {task_id} ran twice"
                running.clear()
                running.append(attempt)
            else:
                assert running == [attempt], (
                    f"attempt {attempt} of {task_id} ended beside {running}"
                )
                running.clear()

    def assert_no_survivors(self) -> None:
        """No process carries the cookie of any attempt of this base path."""
        assert survivors(str(self.base)) == []

    def clean_up(self) -> None:
        """End everything this station started; for the end of a test."""
        end_all_of(str(self.base), since=self._since)


def end_all_of(base: str, *, since: int) -> None:
    """End all that was started for this base path since that was the youngest process."""
    for _ in range(100):
        young = _pids_since(since)
        pids = survivors(base, among=young) + _named(base, b"tinyscheduler", among=young)
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def survivors(base: str, *, among: list[int] | None = None) -> list[int]:
    """Return the living processes whose environment names this base path and a lease."""
    wanted = f"TINYSCHEDULER_BASE_PATH={base}".encode()
    found = []
    for pid in _pids() if among is None else among:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        cookie = any(item.startswith(b"TINYSCHEDULER_LEASE_ID=") for item in environment)
        if cookie and wanted in environment and is_alive(pid):
            found.append(pid)
    return found


def wrappers(base: str) -> list[int]:
    """Return the living wrappers of this base path."""
    return _named(base, b"wrapper")


def programs(base: str) -> list[int]:
    """Return the living wrappers, ticks and other commands of ours for this base path.

    What a wrapper became at its end is still at work when its attempt is long settled.
    """
    return _named(base, b"tinyscheduler")


def _named(base: str, word: bytes, *, among: list[int] | None = None) -> list[int]:
    """Return the living processes with both in their command line."""
    found = []
    for pid in _pids() if among is None else among:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if base.encode() in command and word in command and is_alive(pid):
            found.append(pid)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def until(condition: Callable[[], Any], what: str, *, limit_s: float = 15) -> Any:
    """Wait for a condition, with a limit; return its value."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


def last_pid() -> int:
    """Return the youngest process: all that are started from now on have higher numbers."""
    return int(Path("/proc/loadavg").read_text().split()[4])


def _pids_since(last: int) -> list[int]:
    """Return the processes started since that was the youngest; a look at all takes 10 ms."""
    # The numbers begin anew at /proc/sys/kernel/pid_max.
    return _pids() if last_pid() < last else [pid for pid in _pids() if pid > last]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


FINAL = {state for state in TaskState if state.is_final}
