"""``demo``: does it keep its promises?  Real ticks and wrappers on a stage of their own.

The tasks' commands keep a journal, and each holds a lock of its own while any process
of it lives; the verdict is taken from these, not from what the scheduler says.
"""

from __future__ import annotations

import json as json_format
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tinyscheduler.adapters.launch_local.processes import (
    Process,
    find_trees,
    read_process,
    signal_process,
)
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app import open_queue
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    Cell,
    Ink,
    Page,
    count,
    emit,
    emit_json,
    escape,
    format_table,
)
from tinyscheduler.cli.standing import Standing, brief_json, find_standings
from tinyscheduler.config.inputs import PREFIX, UNPREFIXED
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.core.leases import trace_of
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, StoreError
from tinyscheduler.model.clock import parse_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.records import CancelRequested
from tinyscheduler.model.tasks import TaskSpec, TaskState

TICK_EVERY_S = 1.0
LOOK_EVERY_S = 0.1
LONGEST_S = 60.0
_WIND_UP_S = 15.0
_WIDEST_STATE = max(map(len, TaskState))  # columns that move are hard to watch
_LEAST_WIDTH, _LEAST_HEIGHT = 60, 16
_KILLED_AFTER_S, _CANCELLED_AFTER_S = 0.4, 3.0

SETTINGS = {
    "STAGGER_DELAY_MS": "0",
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


def demo(
    context: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print only one JSON document, at the end.")
    ] = False,
) -> int:
    """Show everything in ten seconds: sample tasks, real ticks, a killed wrapper, a verdict."""
    invocation: Invocation = context.obj
    if invocation.base_path or invocation.env_file:
        invocation.note("the demo has a base path and settings of its own; yours are not used")
    with _heeding_signals(), _scratch_folder(invocation, keep=keep) as base:
        stage = Stage(base, CAST)
        try:
            with _open_view(invocation, is_silent=json) as view:
                view.say(*_opening(stage))
                play(stage, view)
        except BaseException:
            # Interrupted, or its reader went away: what was started must not run on.
            invocation.note("winding up: what runs is cancelled")
            stage.wind_up()
            raise
        checks = judge(stage)
        is_passed = all(check.is_kept for check in checks)
        if not is_passed:
            stage.wind_up()
        if json:
            emit_json(**_document(stage, checks, kept=keep))
        else:
            emit("\n".join(_closing(stage, checks, page=invocation.page, kept=keep)))
    return EXIT_DONE if is_passed else EXIT_FAILED


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise and whether it was kept; ``words`` say what was seen."""

    words: str
    is_kept: bool


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
        entry = next((one for one in entries if one.lease == lease), None)
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


def play(stage: Stage, view: View, *, longest_s: float = LONGEST_S) -> None:
    """Tick, act and show until all is over, or so many seconds have passed."""
    while stage.now_s < longest_s:
        standings = stage.standings()
        # At the end no more, or on a slow machine the ticks themselves would never end.
        if stage.needs_tick(standings):
            stage.tick_if_due()
        view.say(*sorted(stage.happenings(), key=lambda one: one.at_s))
        view.say(*stage.act(standings))
        view.show(stage, standings)
        if stage.is_over(standings):
            return
        stage.pause()


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
        return [json_format.loads(line) for line in whole.splitlines()]


# -- verdict ------------------------------------------------------------------------


def judge(stage: Stage) -> list[Check]:
    """Compare what happened with what was promised."""
    journal = stage.journal()
    return [
        _check_endings(stage),
        check_attempts(journal, dict(zip(stage.task_ids, stage.cast, strict=True))),
        check_overlaps(journal),
        check_order(journal, _blockers(stage)),
        _check_killed(stage),
        _check_leftovers(stage),
    ]


def _check_endings(stage: Stage) -> Check:
    states = [one.state for one in stage.standings()]
    wrong = [
        f"task {task_id} is {state}, not {part.ends}"
        for task_id, part, state in zip(stage.task_ids, stage.cast, states, strict=True)
        if state is not part.ends
    ]
    if wrong:
        return _broken(*wrong, stage.faults())
    tally = ", ".join(f"{number} {state}" for state, number in Counter(states).items())
    return _kept(f"{count(len(states), 'task')} ended as planned: {tally}")


def check_attempts(journal: Sequence[tuple[str, str, int]], parts: Mapping[str, Part]) -> Check:
    """Check that each command ran as often as planned, each time as the next attempt."""
    wrong = []
    for task_id, part in parts.items():
        ran = [attempt for what, task, attempt in journal if (what, task) == ("start", task_id)]
        if ran != list(range(1, part.attempts + 1)):
            wrong.append(f"task {task_id} ran as attempts {ran}, not 1 to {part.attempts}")
    if wrong:
        return _broken(*wrong)
    total = sum(part.attempts for part in parts.values())
    return _kept(f"{count(total, 'attempt')} ran, each exactly once")


def check_overlaps(journal: Sequence[tuple[str, str, int]]) -> Check:
    """Check that no attempt found a process of an earlier one alive."""
    wrong = [
        f"task {task_id}: attempt {attempt} began while another lived"
        for what, task_id, attempt in journal
        if what == "overlap"
    ]
    return _broken(*wrong) if wrong else _kept("no task had two attempts alive at once")


def check_order(
    journal: Sequence[tuple[str, str, int]], blockers: Mapping[str, Sequence[str]]
) -> Check:
    """Check that no task began before the last end of each task it waits for."""
    first_start: dict[str, int] = {}
    last_end: dict[str, int] = {}
    for place, (what, task_id, _) in enumerate(journal):
        if what == "start":
            first_start.setdefault(task_id, place)
        elif what == "end":
            last_end[task_id] = place
    wrong = [
        f"task {task_id} began before task {blocker} was done"
        for task_id, waits_for in blockers.items()
        for blocker in waits_for
        if first_start.get(task_id, len(journal)) < last_end.get(blocker, len(journal))
    ]
    return _broken(*wrong) if wrong else _kept("no task began before those it waits for")


def _check_killed(stage: Stage) -> Check:
    killed = stage.killed
    if killed is None:
        return _broken("no wrapper could be killed")
    alive = [one.pid for one in killed.processes if _lives(one)]
    if stage.reclaim_reasons != ["dead_pid"] or alive:
        reasons = ", ".join(stage.reclaim_reasons) or "nothing"
        return _broken(f"task {killed.task_id}: reclaimed for {reasons}; still alive: {alive}")
    number = len(killed.processes)
    return _kept(f"task {killed.task_id} was reclaimed; all {number} processes of it are gone")


def _check_leftovers(stage: Stage) -> Check:
    left = stage.leftovers()
    if left:
        return _broken("left over: " + ", ".join(left))
    return _kept("no lease, lock, result or process is left")


def _blockers(stage: Stage) -> dict[str, list[str]]:
    return {
        task_id: [stage.task_ids[place - 1] for place in part.after]
        for task_id, part in zip(stage.task_ids, stage.cast, strict=True)
    }


def _lives(process: Process) -> bool:
    again = read_process(process.pid)
    return again is not None and again.start_ticks == process.start_ticks


def _kept(words: str) -> Check:
    return Check(words=words, is_kept=True)


def _broken(*words: str) -> Check:
    return Check(words="; ".join(filter(None, words)), is_kept=False)


# -- showing ------------------------------------------------------------------------


class View(Protocol):
    """Where the play is watched."""

    def say(self, *happenings: Happening) -> None:
        """Tell lines of the story."""

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        """Show where each task stands now."""


class _Lines:
    """The whole story, line by line, for files, pipes and simple terminals."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._frame: list[str] = []

    def say(self, *happenings: Happening) -> None:
        for happening in happenings:
            emit(_line(happening, self._invocation.page))

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        self._frame = format_frame(stage, standings, page=self._invocation.page)

    def finish(self) -> None:
        """Print the table as it was in the end."""
        emit("\n".join(["", *self._frame]))


class _LiveTable:
    """A table that changes in place, below the turns of the story."""

    def __init__(self, invocation: Invocation, live: Live) -> None:
        self._invocation = invocation
        self._live = live
        self._frame: list[str] = []

    def say(self, *happenings: Happening) -> None:
        for happening in happenings:
            if happening.is_turn:
                line = Text.from_ansi(_line(happening, self._invocation.page))
                self._live.console.print(line, soft_wrap=True)

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        frame = format_frame(stage, standings, page=self._invocation.page)
        # Drawn only when it says something new, so that nothing flickers.
        if frame != self._frame:
            self._frame = frame
            text = Text.from_ansi("\n".join(["", *frame]), no_wrap=True, overflow="crop")
            self._live.update(text, refresh=True)


class _Silence:
    """Nothing: only the document at the end is wanted."""

    def say(self, *happenings: Happening) -> None:
        pass

    def show(self, stage: Stage, standings: Sequence[Standing]) -> None:
        pass


@contextmanager
def _open_view(invocation: Invocation, *, is_silent: bool) -> Iterator[View]:
    if is_silent:
        yield _Silence()
        return
    page = invocation.page
    size = shutil.get_terminal_size()
    is_roomy = size.columns >= _LEAST_WIDTH and size.lines >= _LEAST_HEIGHT
    if page.width is None or not is_roomy or os.environ.get("TERM") == "dumb":
        lines = _Lines(invocation)
        yield lines
        lines.finish()
        return
    console = Console(highlight=False, no_color=not page.is_colored)
    with Live(
        console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        yield _LiveTable(invocation, live)


def format_frame(stage: Stage, standings: Sequence[Standing], *, page: Page) -> list[str]:
    """Return the table of all tasks as lines that fit the page."""
    now = stage.queue.clock.now().wall
    active = Counter(one.agent for one in standings if one.state in _ACTIVE)
    rows: list[list[str | Cell]] = []
    for part, one in zip(stage.cast, standings, strict=True):
        history = stage.histories[one.record.task_id]
        is_killed = stage.killed is not None and stage.killed.task_id == one.record.task_id
        rows.append(
            [
                one.record.task_id,
                part.title,
                part.agent,
                Cell(text=f"{one.state:<{_WIDEST_STATE}}", ink=INK_OF_STATE[one.state]),
                str(history.attempt or "-"),
                tell_past(one, history, is_killed=is_killed, now=now)
                or _tell_wait(one, is_busy=active[part.agent] >= AGENT_LIMITS[part.agent]),
            ]
        )
    return format_table(["ID", "TASK", "AGENT", "STATE", "ATTEMPT", "WHAT HAPPENED"], rows, page)


def tell_past(standing: Standing, history: History, *, is_killed: bool, now: datetime) -> str:
    """Say in a few words what became of a task so far, and what it waits for."""
    past = ""
    if history.is_reclaimed:
        past = "reclaimed"
    elif is_killed:
        past = "wrapper killed"
    elif history.failures:
        past = _FAILED.get(history.failures, f"failed {history.failures} times")
    record = standing.record
    match standing.state:
        case TaskState.DONE:
            return f"{past}, then done" if past else ""
        case TaskState.CANCELLED:
            return "ended while running" if history.attempt else ""
        case TaskState.WAITING if record.blocked_by:
            return f"waits for {' and '.join(record.blocked_by)}"
        case TaskState.WAITING if record.backing_off_until is not None:
            seconds = math.ceil((record.backing_off_until - now).total_seconds())
            return f"{past}, next in {seconds} s" if seconds > 0 else f"{past}, next tick"
        case _:
            return past


_FAILED = {1: "failed", 2: "failed twice"}
_ACTIVE = (TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING)


def _tell_wait(standing: Standing, *, is_busy: bool) -> str:
    if standing.state is not TaskState.WAITING:
        return ""
    return f"{standing.agent} is busy" if is_busy else "waits for a tick"


def _line(happening: Happening, page: Page) -> str:
    clock = page.paint(f"{happening.at_s:5.1f}s", Ink.DIM)
    return f"{clock}  {escape(happening.words)}"


def _opening(stage: Stage) -> list[Happening]:
    limits = ", ".join(f"{name} {limit}" for name, limit in AGENT_LIMITS.items())
    return [
        Happening(at_s=0, words=words, is_turn=True)
        for words in (
            f"{count(len(stage.cast), 'task')} queued in {stage.base}",
            f"slots: {limits}; a tick every second",
        )
    ]


def _closing(stage: Stage, checks: Sequence[Check], *, page: Page, kept: bool) -> list[str]:
    lines = [""]
    for check in checks:
        mark = page.paint("ok", Ink.GREEN) if check.is_kept else page.paint("BROKEN", Ink.RED)
        lines.append(f"{mark}  {escape(check.words)}")
    broken = sum(not check.is_kept for check in checks)
    verdict = f"{count(broken, 'promise')} broken" if broken else "every promise kept"
    took = f"{stage.now_s:.1f} s, {count(stage.ticks, 'regular tick')}"
    program = _program()
    lines += ["", page.paint(f"{verdict} ({took})", Ink.BOLD), ""]
    if kept:
        look = f"{program} --base-path {stage.base}"
        lines += [f"Look around: {look} list", ""]
    lines += [
        "Try next:",
        f"  {program} add -- sh -c 'echo hi'   queue a command; it prints the id",
        f"  {program} run                      one tick: start what may start",
        f"  {program} logs 1                   what task 1 printed",
        f"  {program} --help                   everything else",
    ]
    return lines


def _document(stage: Stage, checks: Sequence[Check], *, kept: bool) -> dict[str, Any]:
    return {
        "passed": all(check.is_kept for check in checks),
        "checks": [{"passed": check.is_kept, "message": check.words} for check in checks],
        "duration_sec": round(stage.now_s, 1),
        "ticks": stage.ticks,
        "base_path": stage.base if kept else None,
        "tasks": [brief_json(one) for one in stage.standings()],
    }


def _program() -> str:
    """Return how a reader in this folder starts the program."""
    in_checkout = os.path.isfile("tinyscheduler") and os.access("tinyscheduler", os.X_OK)
    return "./tinyscheduler" if in_checkout else "tinyscheduler"


# -- parts --------------------------------------------------------------------------


def _agents_file() -> str:
    # JSON is YAML too, and quotes whatever the interpreter's path may hold.
    command = json_format.dumps([sys.executable, "-I", "-S", "agent.py", "{command}"])
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


@contextmanager
def _scratch_folder(invocation: Invocation, *, keep: bool) -> Iterator[str]:
    try:
        base = os.path.realpath(tempfile.mkdtemp(prefix="tinyscheduler-demo-"))
    except OSError as error:
        raise StoreError(
            f"cannot make a scratch folder: {error.strerror}",
            hint="make room in the folder for temporary files, or set TMPDIR",
        ) from error
    try:
        yield base
    finally:
        if not keep:
            try:
                shutil.rmtree(base)
            except OSError as error:
                invocation.warn(f"{base} could not be removed: {error.strerror}")


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """Take a closed terminal and a polite end as Ctrl-C, so that everything is wound up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
