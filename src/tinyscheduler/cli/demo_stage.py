"""The stage of the demo: a scratch base path, its tasks, and ticks as by cron.

The tasks' commands keep a journal, and each holds a lock of its own while any process
of it lives, so that the demo can judge by these and not by what the scheduler says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tinyscheduler.adapters.launch_local.processes import (
    Process,
    find_trees,
    read_process,
    signal_process,
)
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.queue import open_queue
from tinyscheduler.cli.render import count
from tinyscheduler.cli.standing import Standing, find_standings
from tinyscheduler.config.inputs import PREFIX, UNPREFIXED
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.core.leases import trace_of
from tinyscheduler.model.clock import parse_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import Lease, UnreadableLease
from tinyscheduler.model.records import CancelRequested
from tinyscheduler.model.tasks import TaskSpec, TaskState

TICK_EVERY_S = 1.0
LOOK_EVERY_S = 0.1
_WIND_UP_S = 15.0
_KILLED_AFTER_S, _CANCELLED_AFTER_S = 0.4, 3.0

SETTINGS = {
    "STAGGER_DELAY_MS": "0",
    # However little memory this machine has left.
    "MEMORY_PER_SLOT_MB": "1",
    "MEMORY_CRITICAL": "1",
    "HEARTBEAT_SEC": "1",
    "MAX_RUNTIME_SEC": "40",
    "MAX_ATTEMPTS": "3",
    "RETRY_BASE_SEC": "1",
    "KILL_GRACE_SEC": "1",
}
AGENT_LIMITS = {"writer": 2, "reviewer": 1, "builder": 1}
# Stands in for a real agent.  Its children inherit the lock, so that a second attempt
# notices any process of the first; the scheduler does not know of this lock.
AGENT_PROGRAM = """\
import fcntl, os, shlex, subprocess, sys

task, attempt = os.environ["TINYSCHEDULER_TASK_ID"], os.environ["TINYSCHEDULER_ATTEMPT"]
journal = os.open("journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(what):
    os.write(journal, f"{what} {task} {attempt}\\n".encode())

alive = os.open(f"alive-{task}", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("overlap")
note("start")
code = subprocess.call(shlex.split(sys.argv[1]), pass_fds=[alive])
note("end")
sys.exit(code % 256)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One task of the play, and how it has to end; ``after`` are places in the cast, from 1."""

    title: str
    agent: str
    script: str
    after: tuple[int, ...] = ()
    ends: TaskState = TaskState.DONE
    attempts: int = 1
    is_killed: bool = False
    is_cancelled: bool = False


CAST = (
    Part(title="outline the report", agent="writer", script="sleep 1.5"),
    Part(
        title="look up the figures",
        agent="writer",
        script='sleep 1; test "$TINYSCHEDULER_ATTEMPT" -gt 1',
        attempts=2,
    ),
    Part(
        title="fetch a lost page",
        agent="writer",
        script="sleep 0.5; exit 1",
        ends=TaskState.PARKED,
        attempts=3,
    ),
    Part(
        title="draw the charts",
        agent="builder",
        # The first attempt would take long: on a slow machine, too, it dies in the middle.
        script='test "$TINYSCHEDULER_ATTEMPT" -gt 1 || sleep 25 & sleep 1; wait',
        attempts=2,
        is_killed=True,
    ),
    Part(
        title="watch the inbox",
        agent="reviewer",
        script="sleep 25",
        ends=TaskState.CANCELLED,
        is_cancelled=True,
    ),
    Part(title="review the draft", agent="reviewer", script="sleep 1", after=(1, 2)),
    Part(title="put it together", agent="builder", script="sleep 1", after=(4, 6)),
    Part(title="mail the report", agent="writer", script="sleep 0.5", after=(7,)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of the story; ``is_turn`` marks those that a table alone would not tell."""

    at_s: float
    words: str
    is_turn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """The attempt whose wrapper was killed: all its processes as they were before."""

    task_id: str
    pid: int
    processes: tuple[Process, ...]


@dataclass(slots=True)
class History:
    """What the events so far say of one task."""

    attempt: int = 0
    failures: int = 0
    is_reclaimed: bool = False


class Stage:
    """A scratch base path with real settings, agents and tasks, ticked as by cron."""

    def __init__(self, base: str, cast: Sequence[Part]) -> None:
        """Write the files that a user would write, and add the tasks."""
        self.base = base
        self.cast = cast
        # The user's own settings, and those of an attempt this may run in, are not ours.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(PREFIX) and name not in UNPREFIXED
        }
        settings = "".join(f"{PREFIX}{name}={value}\n" for name, value in SETTINGS.items())
        self._write(".env.tinyscheduler", settings)
        self._write("agents.yaml", _agents_file())
        self._write("agent.py", AGENT_PROGRAM)
        config = load_config(Overrides(base_path=base), environ=self._environment)
        self.queue = open_queue(config, Access.WRITE)
        self.task_ids = self.queue.tasks.add([(f"part-{n}", _spec(p)) for n, p in self.parts()])
        self._began = self.queue.clock.now()
        self._events = _Tail(config.paths.events)
        self.histories: dict[str, History] = {one: History() for one in self.task_ids}
        self.ticks = 0
        self._tick: subprocess.Popen[bytes] | None = None
        self._next_tick_s = 0.0
        self._running_since_s: dict[str, float] = {}
        self.killed: Killed | None = None
        self.reclaim_reasons: list[str] = []
        self._is_cancel_asked = False
        self._quiet_looks = 0

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.base, name), "w", encoding="utf-8") as file:
            file.write(text)

    def parts(self) -> Iterator[tuple[int, Part]]:
        """Count the cast from 1."""
        return enumerate(self.cast, start=1)

    # -- time -----------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds since the tasks were added."""
        return (self.queue.clock.now().monotonic_ns - self._began.monotonic_ns) / 1e9

    def pause(self) -> None:
        """Let a moment pass."""
        self.queue.clock.sleep(LOOK_EVERY_S)

    def tick_if_due(self) -> None:
        """Start a tick every second, as cron would every minute; never two at once."""
        if self._is_ticking() or self.now_s < self._next_tick_s:
            return
        self._next_tick_s = self.now_s + TICK_EVERY_S
        self.ticks += 1
        command = [sys.executable, "-I", "-m", "tinyscheduler", "--base-path", self.base]
        with open(os.path.join(self.base, "ticks.log"), "ab") as log:
            self._tick = subprocess.Popen(
                [*command, "-q", "run", "--once"],
                cwd=self.base,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # Ctrl-C is for the demo; the tick is to finish what it does.
                start_new_session=True,
            )

    def _is_ticking(self) -> bool:
        return self._tick is not None and self._tick.poll() is None

    # -- looking --------------------------------------------------------------------

    def standings(self) -> list[Standing]:
        """Return where each task stands, in the order of the cast."""
        return find_standings(self.queue, self.queue.tasks.tasks())

    def needs_tick(self, standings: Iterable[Standing]) -> bool:
        """Whether a tick would find anything to do, now or later."""
        if not all(one.state.is_final for one in standings):
            return True
        scan = self.queue.leases.scan()
        return bool(scan.entries or scan.results)

    def is_over(self, standings: Iterable[Standing]) -> bool:
        """Whether every task has ended and nothing of any is left, seen twice in a row."""
        is_quiet = not self._is_ticking() and not self.needs_tick(standings)
        is_quiet = is_quiet and not self.leftovers()
        self._quiet_looks = self._quiet_looks + 1 if is_quiet else 0
        return self._quiet_looks > 1

    def leftovers(self) -> list[str]:
        """Name every lease, lock, result and process of this base path."""
        scan = self.queue.leases.scan()
        return [
            *(f"lease or lock of task {entry.task_id}" for entry in scan.entries),
            *(f"result of task {result.task_id}" for result in scan.results),
            *(f"process {pid}" for pid in processes_of(self.base)),
        ]

    def journal(self) -> list[tuple[str, str, int]]:
        """Return what the commands wrote: what, which task, which attempt."""
        try:
            with open(os.path.join(self.base, "journal"), encoding="ascii") as file:
                lines = [line.split() for line in file.read().splitlines()]
        except FileNotFoundError:
            return []
        return [(what, task_id, int(attempt)) for what, task_id, attempt in lines]

    def faults(self) -> str:
        """Return what the ticks complained of."""
        with suppress(OSError), open(os.path.join(self.base, "ticks.log"), "rb") as file:
            return file.read(4096).decode(errors="replace").strip()
        return ""

    def happenings(self) -> Iterator[Happening]:
        """Tell what the events file says since the last call, and remember it."""
        for event in self._events.read():
            history = self.histories.get(event["task_id"])
            happening = self._tell(event, history) if history is not None else None
            if happening is not None:
                yield happening

    def _tell(self, event: Mapping[str, Any], history: History) -> Happening | None:
        task, attempt, reason = event["task_id"], event["attempt"], event["reason"]
        is_turn = False
        match event["event"]:
            case EventName.TASK_STARTED:
                history.attempt = attempt
                words = f"task {task} started, attempt {attempt} by {event['agent']}"
            case EventName.TASK_REQUEUED if reason != "dead_pid":
                history.failures += 1
                words = f"task {task} failed ({reason}), attempt {attempt + 1} follows"
            case EventName.LEASE_RECLAIMED:
                self.reclaim_reasons.append(reason)
                history.is_reclaimed = is_turn = True
                words = f"task {task} reclaimed: {reason}, attempt {attempt + 1} follows"
            case EventName.TASK_FINISHED:
                words = f"task {task} done"
            case EventName.TASK_PARKED:
                history.failures += 1
                words = f"task {task} parked: it failed {count(history.failures, 'time')}"
            case EventName.TASK_CANCELLED:
                is_turn = True
                words = f"task {task} cancelled"
            case _:
                return None
        at = (parse_time(event["ts"]) - self._began.wall).total_seconds()
        return Happening(at_s=at, words=words, is_turn=is_turn)

    # -- acting ---------------------------------------------------------------------

    def act(self, standings: Iterable[Standing]) -> Iterator[Happening]:
        """Kill and cancel what the play wants killed and cancelled, once it runs."""
        for part, standing in zip(self.cast, standings, strict=True):
            task_id = standing.record.task_id
            if standing.state is not TaskState.RUNNING:
                continue
            ran_s = self.now_s - self._running_since_s.setdefault(task_id, self.now_s)
            if part.is_killed and self.killed is None and ran_s > _KILLED_AFTER_S:
                self.killed = self._kill_wrapper(standing)
                if self.killed is not None:
                    below = len(self.killed.processes) - 1
                    words = (
                        f"killed wrapper of task {task_id} (SIGKILL), {below} processes below it"
                    )
                    yield Happening(at_s=self.now_s, words=words, is_turn=True)
            if part.is_cancelled and not self._is_cancel_asked and ran_s > _CANCELLED_AFTER_S:
                self._is_cancel_asked = True
                self._cancel(task_id)
                words = f"asked to cancel task {task_id}"
                yield Happening(at_s=self.now_s, words=words, is_turn=True)

    def _kill_wrapper(self, standing: Standing) -> Killed | None:
        """SIGKILL the wrapper, and no process that only bears its number."""
        lease = standing.lease
        if lease is None or lease.process is None:
            return None
        entries = self.queue.leases.scan().entries
        entry = next((one for one in entries if _is_of(one.lease, lease.lease_id)), None)
        wrapper = read_process(lease.process.pid)
        if entry is None or wrapper is None:
            return None
        tree = find_trees([trace_of(entry, lease)], {})[lease.lease_id].processes
        # The command and a child at least, or there would be little to survive.
        if wrapper.start_ticks != lease.process.start_ticks or len(tree) < 3:  # noqa: PLR2004 - wrapper, command, child
            return None
        signal_process(wrapper, signal.SIGKILL)
        return Killed(task_id=lease.task_id, pid=wrapper.pid, processes=tree)

    def _cancel(self, task_id: str) -> None:
        answer = self.queue.tasks.request_cancel(task_id)
        if isinstance(answer, CancelRequested):
            self.queue.leases.request_cancel(answer.lease_id)

    def wind_up(self) -> None:
        """End everything through cancel, and wait until it has ended."""
        until_s = self.now_s + _WIND_UP_S
        for standing in self.standings():
            if not standing.state.is_final:
                self._cancel(standing.record.task_id)
        while not self.is_over(standings := self.standings()) and self.now_s < until_s:
            if self.needs_tick(standings):
                self.tick_if_due()
            self.pause()


def processes_of(base: str) -> list[int]:
    """Return the pids of all wrappers, commands and ticks of this base path."""
    folder = os.fsencode(base)
    variable = b"TINYSCHEDULER_BASE_PATH=" + folder
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        if int(name) == os.getpid() or read_process(int(name)) is None:
            continue
        environment, argv = _read_words(name, "environ"), _read_words(name, "cmdline")
        is_tick = b"--base-path" in argv and folder in argv and b"run" in argv
        if is_tick or variable in environment:
            found.append(int(name))
    return found


def _read_words(pid: str, name: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


class _Tail:
    """The lines that were added to the events file since the last look."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = text.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


def _agents_file() -> str:
    # JSON is YAML too, and quotes whatever the interpreter's path may hold.
    command = json.dumps([sys.executable, "-I", "-S", "agent.py", "{command}"])
    lines = ["agents:"]
    for name, limit in AGENT_LIMITS.items():
        lines += [f"  {name}:", f"    limit: {limit}", f"    command: {command}"]
    return "\n".join([*lines, ""])


def _spec(part: Part) -> TaskSpec:
    return TaskSpec(
        agent=part.agent,
        title=part.title,
        command=("sh", "-c", part.script),
        after=tuple(f"part-{place}" for place in part.after),
    )


def _is_of(lease: Lease | UnreadableLease | None, lease_id: str) -> bool:
    return isinstance(lease, Lease) and lease.lease_id == lease_id
