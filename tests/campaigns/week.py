"""The simulated week itself: work, people, faults, and the books that say what must be true."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, deque
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tests.campaigns.file_world import FileDisk, FileLauncher

from tinyscheduler import crash
from tinyscheduler.adapters.checklist_file import read_checklist
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable, LockTrial
from tinyscheduler.adapters.memory_file import FileMemoryStore
from tinyscheduler.adapters.pressure_files import PressureFiles
from tinyscheduler.adapters.rounds_file import FileRecorder
from tinyscheduler.adapters.sqlite.budgets import SqliteBudgets
from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.app.place import make_state_folder
from tinyscheduler.app.pruning import pruners_of
from tinyscheduler.app.queue import local_queue, observers_of
from tinyscheduler.app.ticks import settings_of
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.errors import SourceError, TinySchedulerError
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.records import CancelRequested
from tinyscheduler.model.switches import Switch, SwitchKind, Target, TargetKind
from tinyscheduler.model.tasks import Outcome, TaskSpec, TaskState
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.attempts import EXIT_RETRY_LATER, Child, Script
from tinyscheduler.simulator.auditor import Auditor
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.faults import TICKS, FaultInjector, Rates
from tinyscheduler.simulator.gpus import SimulatedGpuProbe
from tinyscheduler.simulator.launcher import Workshop
from tinyscheduler.simulator.machine import Killed, Machine, Pause, Process
from tinyscheduler.simulator.probe import SimulatedProbe
from tinyscheduler.simulator.source import SimulatedQueue, Trouble
from tinyscheduler.simulator.tick_lock import wish
from tinyscheduler.simulator.world import SimulatedWorld
from tinyscheduler.tick import World, run_ticks
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tinyscheduler.adapters.sqlite.queue import LocalQueue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.leases import Lease
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.snapshot import SourceView
    from tinyscheduler.model.tasks import Ending
    from tinyscheduler.ports import Pruner, TaskSource
    from tinyscheduler.simulator.attempts import Attempt

DAY_S = 86_400.0
SLOTS = 8
AGENTS_FILE = """\
agents:
  alpha: {limit: 4, queue: work, command: ["sh", "-c", "{command}"]}
  beta: {limit: 2, queue: work, command: ["sh", "-c", "{command}"]}
  gamma: {limit: 4, queue: words, command: ["agent"], stdin: prompt}
"""
# The files' own times are real, so the simulated ones must be told apart from them.
_LONG_AGO_S = -25 * 365 * DAY_S
_FILE_STEP = "file:"
# Between opening a lock file and keeping it: a simulated death is an exception, which would
# leave it open, as no real death does.
_OPENED = "file:lock.create:after"
# What a tick reports of a failure that is not one of ours: a bug.
_FOREIGN = re.compile(r"[A-Z]\w*(Error|Exception|Warning|Interrupt): ")
# What differs between two errors of one kind: numbers, lease ids, paths.
_NAMES = re.compile(r"/\S+|[0-9a-f]{32}|\d+")
_MOST_KINDS = 50
# All processes are one: whoever has the database locked does not go on while others wait.
_PATIENCE_S = 0.05
# Within this time a daemon that is not wanted any more wakes up and ends.
_DAEMON_END_S = 120.0
_OVER = ("done", "failed", "cancelled")
_LOG_LINE = "what an attempt prints, again and again, as long as it has something to say\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekPlan:
    """How much happens in how long, and how long what is over is kept."""

    tasks: int = 20_000
    seed: int = 1
    days: int = 7
    history_days: float = 1.0
    log_days: float = 0.5
    log_max_bytes: int = 1 << 20
    day_s: float = DAY_S

    @property
    def reference_day(self) -> int:
        """The first day at whose end all that is kept is kept for long enough."""
        return min(self.days, math.ceil(max(self.history_days, self.log_days)) + 2)

    @property
    def is_retention_reached(self) -> bool:
        """Whether anything is removed before the last day."""
        return self.reference_day < self.days


@dataclass(eq=False, slots=True, kw_only=True)
class Books(Auditor):
    """What really happened to each task, in arrays as long as the week needs from the start."""

    state_of: Callable[[str], str]
    most: int
    attempts_started: int = 0
    last_started: list[int] = field(init=False)
    succeeded: bytearray = field(init=False)
    excused_tasks: bytearray = field(init=False)

    def __post_init__(self) -> None:
        """Make room for all tasks at once: what grows later is a leak of the program."""
        self.last_started = [0] * (self.most + 1)
        self.succeeded = bytearray(self.most + 1)
        self.excused_tasks = bytearray(self.most + 1)

    def look(self) -> None:
        """Check what must hold at every instant."""
        live: Counter[str] = Counter()
        agents: dict[str, str] = {}
        for attempt in self.workshop.attempts.values():
            lease, is_live = attempt.lease, attempt.is_live
            live[lease.task_id] += is_live
            if attempt.recorded is Outcome.SUCCEEDED:
                self.succeeded[int(lease.task_id)] = 1
            if is_live or (attempt.wrapper.is_alive and not attempt.has_let_go):
                is_known = lease.lease_id not in self.excused
                agents[lease.task_id] = lease.agent if is_known else ""
        for task_id, count in live.items():
            if count > 1:
                self.blame(1, f"task {task_id} has {count} live attempts")
        self._count(agents)

    def note_start(self, attempt: Attempt) -> None:
        """Check what must hold whenever a command is started."""
        lease = attempt.lease
        task = int(lease.task_id)
        self.attempts_started += 1
        if lease.attempt <= self.last_started[task]:
            self.blame(3, f"attempt {lease.attempt} of task {task} was started again")
        self.last_started[task] = lease.attempt
        if self.succeeded[task] and lease.task_id not in self.retried:
            self.blame(3, f"task {task} was started again after it had succeeded")
        if (state := self.state_of(lease.task_id)) != TaskState.WORKING:
            self.blame(3, f"task {task} was started although it is {state}")

    def note_row(self, task: int, state: str) -> None:
        """Check a row of a task that is over."""
        if self.excused_tasks[task] or state not in _OVER:
            return
        if self.succeeded[task] and state != TaskState.DONE:
            self.blame(2, f"task {task} succeeded, yet it is {state}")
        if state == TaskState.DONE and not self.succeeded[task]:
            self.blame(2, f"task {task} is done, yet no attempt succeeded")


class TroubledSource:
    """The real queue, behind a connection that can be down or lose answers."""

    def __init__(self, queue: LocalQueue, state: SimulatedQueue) -> None:
        self._queue = queue
        self._state = state
        self.name = queue.name

    def look(self, *, window: int) -> SourceView:
        """Ask, if it answers."""
        with self._answering():
            return self._queue.look(window=window)

    def describe(self, task_id: str) -> TaskSpec:
        """Ask, if it answers."""
        with self._answering():
            return self._queue.describe(task_id)

    def claim(
        self,
        task_id: str,
        *,
        lease_id: str,
        agent: str,
        queue: str,
        attempt: int,
        pressure: int = 0,
    ) -> bool:
        """Claim, whether or not the answer arrives."""
        with self._answering():
            return self._queue.claim(
                task_id,
                lease_id=lease_id,
                agent=agent,
                queue=queue,
                attempt=attempt,
                pressure=pressure,
            )

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        """Settle, whether or not the answer arrives."""
        with self._answering():
            return self._queue.settle(task_id, lease_id=lease_id, ending=ending)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        if self._state.trouble is Trouble.DOWN:
            raise SourceError("the source does not answer")
        yield
        if self._state.trouble is Trouble.FORGETFUL:
            raise SourceError("the answer of the source got lost")


class WeekFaults(FaultInjector):
    """The faults of the simulator, as rare as a bad week has them."""

    def pass_point(self, process: Process, point: str) -> None:
        """Between two steps of an adapter only death comes: a transaction may be open."""
        if not point.startswith(_FILE_STEP):
            FaultInjector.pass_point(self, process, point)
        elif point == _OPENED or process.program not in TICKS:
            return
        elif self.is_active and self.chance.happens(self.rates.kill_tick):
            self._say(f"{process.program} killed at {point}")
            process.machine.kill(process)

    def _spoil_lease(self) -> None:
        with self._world.writes_allowed():
            FaultInjector._spoil_lease(self)

    def _spoil_result(self) -> None:
        with self._world.writes_allowed():
            FaultInjector._spoil_result(self)

    def _spoil_memory(self) -> None:
        with self._world.writes_allowed():
            FaultInjector._spoil_memory(self)

    def _reboot(self) -> None:
        with self._world.writes_allowed():
            FaultInjector._reboot(self)

    def _say(self, words: str) -> None:
        FaultInjector._say(self, words)
        self._world.counts["faults"] += 1
        self._world.counts["deaths"] += "killed" in words

    @property
    def _world(self) -> WeekWorld:
        return cast("WeekWorld", self.world)

    def _suspend(self) -> None:
        self.world.machine.suspend(self.chance.between(60, 1200))

    def _cancel_something(self) -> None:
        self._world.owner.cancel_something()

    def _retry_something(self) -> None:
        self._world.owner.retry_something()


class WeekWorld(SimulatedWorld):
    """One computer with a real state folder; ticks are wired as the program wires them."""

    config: Config
    owner: Owner
    counts: Counter[str]
    errors: Counter[str]
    open_processes: list[Process]
    is_daemon_wanted: bool

    def __init__(self, config: Config, *, most: int, scale: float) -> None:
        settings = settings_of(config)
        retention = settings.retention
        assert retention is not None
        retention = replace(retention, every_s=retention.every_s * scale)
        self.settings = replace(settings, retention=retention)
        self.config = config
        self.machine = Machine()
        self.machine.step_wall(_LONG_AGO_S)
        self.disk = FileDisk(config, self.machine)
        self.queue = SimulatedQueue(now=lambda: self.machine.wall)
        self.queues = [self.queue]
        self.failures = cast("Any", deque(maxlen=100))
        self.rewire = lambda world, _process: world
        self.counts = Counter()
        self.errors = Counter()
        self.open_processes = []
        self.is_daemon_wanted = False
        self.workshop = Workshop(
            disk=self.disk,
            become_tick=self.live_as_tick,
            kill_grace_s=self.settings.rules.kill_grace_s,
            on_command_start=self._start_command,
        )
        self.auditor = self.books = Books(
            machine=self.machine,
            disk=self.disk,
            workshop=self.workshop,
            queues=self.queues,
            agents=config.agents,
            host_slots=config.limits.host_slots,
            state_of=self._state_of,
            most=most,
        )
        self.workshop.on_term = self.books.note_term
        self.workshop.on_kill = self.books.note_kill
        self.machine.on_change = self.books.look

    # -- ticks --------------------------------------------------------------------

    def live_as_tick(self, process: Process, kept: Database | None = None) -> None:
        """Do what a process does that was started as a tick, or became one.

        A daemon keeps its database open from tick to tick.
        """
        process.program = "tick"
        with self.being(process):
            self._run_ticks(process, kept)

    def _run_ticks(self, process: Process, kept: Database | None) -> None:
        self.counts["ticks"] += 1
        try:
            with self.opened() if kept is None else nullcontext(kept) as database:
                world = self.wired(process, database)
                report, is_wished = run_ticks(world, self.settings)
        except TinySchedulerError as error:
            # What `run` prints; the next tick tries again.
            self.counts["failed ticks"] += 1
            self._note_failure(str(error))
            return
        self._note(report)
        if is_wished:
            process.reach("tick.detach")
            self.machine.schedule(0.05, self.run_ticks)

    def wired(self, process: Process, database: Database) -> World:
        """Return the ports of one tick: all real but the clock, the machine and the attempts."""
        clock, warnings = SimulatedClock(process), list[str]()
        assert isinstance(self.disk, FileDisk)
        FileLeaseStore(self.config.paths, locks=LockTable()).sweep_temporary(
            now_s=self.machine.wall.timestamp()
        )
        policy = PlatformPolicy()
        source: TaskSource = TroubledSource(local_queue(self.config, database, clock), self.queue)
        world = World(
            clock=clock,
            lock=FileTickLock(self.config.paths),
            sources=(source,),
            store=FileLeaseStore(self.config.paths, locks=LockTrial()),
            launcher=FileLauncher(process, self.workshop, self.config, self.disk),
            probe=SimulatedProbe(process),
            gpus=SimulatedGpuProbe(process),
            policy=policy,
            fallback=policy,
            ledger=SqliteLedger(database, shared_with="local"),
            memory=FileMemoryStore(self.config.paths, warn=warnings.append, may_write=True),
            switches=SqliteSwitches(database),
            coolings=SqliteCoolings(database),
            schedules=SqliteSchedules(database, clock),
            budgets=SqliteBudgets(database, clock, self.config.inventory.budgets),
            pressures=PressureFiles(self.config.paths, clock, warn=warnings.append, may_write=True),
            read_checklist=read_checklist,
            observers=observers_of(self.config),
            recorder=partial(FileRecorder, self.config.paths),
            pruners=partial(self._pruners, database),
            warnings=warnings,
        )
        return self.rewire(world, process)

    def _pruners(self, database: Database) -> Sequence[Pruner]:
        self.counts["prunings"] += 1
        self.owner.take_census()
        self.age_files()
        return pruners_of(self.config, database, may_write=True)

    def start_daemon(self, every_s: float = 60.0, *, restart_s: float = 10.0) -> None:
        """Tick in one process as long as a daemon is wanted; it is started again if it dies."""
        if self.is_daemon_wanted:
            SimulatedWorld.start_daemon(self, every_s, restart_s=restart_s)

    def _live_as_daemon(self, process: Process, every_s: float) -> Iterator[Pause]:
        kept = Database(self.config.paths.database, Access.WRITE, busy_timeout_s=_PATIENCE_S)
        # Not at once: it may die in the middle of a step, which has yet to find out.
        process.on_death.append(lambda: self._close_later(kept))
        while self.is_daemon_wanted:
            refused = self.counts["refused ticks"]
            self.live_as_tick(process, kept)
            process.program = "daemon"
            # Refused, it left a wish for the holder of the lock, which must not wake it at once.
            is_refused = self.counts["refused ticks"] > refused
            wait_s = 1.0 if is_refused else 0.0 if self.disk.kicks else every_s
            yield Pause(seconds=wait_s, step="daemon.wake", is_interruptible=True)

    def _close_later(self, database: Database) -> None:
        def close() -> None:
            with suppress(TinySchedulerError):
                database.close()

        self.machine.schedule(0.0, close)

    # -- files --------------------------------------------------------------------

    @contextmanager
    def being(self, process: Process) -> Iterator[None]:
        """Let the steps of the real adapters be those of this process."""
        self.open_processes.append(process)
        try:
            yield
        finally:
            self.open_processes.pop()

    @contextmanager
    def opened(self) -> Iterator[Database]:
        """Open the database as one command or tick does."""
        database = Database(self.config.paths.database, Access.WRITE, busy_timeout_s=_PATIENCE_S)
        try:
            yield database
        finally:
            # As a process that ends closes it: a full disk may make that fail.
            with suppress(TinySchedulerError):
                database.close()

    @contextmanager
    def writes_allowed(self) -> Iterator[None]:
        """Keep a full disk from what only looks."""
        refusal, self.disk.refusal = self.disk.refusal, Refusal.NOTHING
        try:
            yield
        finally:
            self.disk.refusal = refusal

    def select(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, for the books: no fault comes between."""
        with self.writes_allowed(), self.opened() as database:
            return database.read(
                lambda connection: [tuple(row) for row in connection.execute(question, values)]
            )

    def pass_file_step(self, point: str) -> None:
        """Come to a step of a real adapter, where the process that takes it may die."""
        if self.open_processes:
            self.open_processes[-1].reach(_FILE_STEP + point)

    def age_files(self) -> None:
        """Give what was written since the last time the simulated time in place of the real.

        So a file looks up to an hour younger than it is, and never older.
        """
        paths, now_s = self.config.paths, self.machine.wall.timestamp()
        ticks = os.path.join(paths.state, "ticks")
        for top in (paths.logs, paths.tasks, paths.quarantine, paths.cancel, paths.results, ticks):
            for folder, _, names in os.walk(top):
                for path in (folder, *(os.path.join(folder, name) for name in names)):
                    with suppress(FileNotFoundError):
                        if os.stat(path).st_mtime > now_s + DAY_S:
                            os.utime(path, (now_s, now_s))

    def _start_command(self, attempt: Attempt) -> None:
        self.books.note_start(attempt)
        lines = 1 + attempt.lease.attempt * 7 % 30
        # A full disk costs the line.
        with suppress(OSError), open(attempt.lease.run.log, "a") as file:
            file.write(_LOG_LINE * lines)

    def _state_of(self, task_id: str) -> str:
        rows = self.select("SELECT state FROM tasks WHERE id = ?", int(task_id))
        return str(rows[0][0]) if rows else "gone"

    # -- the books ----------------------------------------------------------------

    def retire_attempts(self) -> None:
        """Check and forget the attempts of which nothing is left on disk or alive."""
        over = [attempt for attempt in self.workshop.attempts.values() if self._is_over(attempt)]
        if not over:
            return
        ids = [attempt.lease.lease_id for attempt in over]
        rows = self.select(
            "SELECT lease_id FROM attempts WHERE lease_id IN (SELECT value FROM json_each(?))",
            json.dumps(ids),
        )
        told = {row[0] for row in rows}
        for attempt in over:
            lease = attempt.lease
            if lease.lease_id in self.books.excused:
                self.books.excused_tasks[int(lease.task_id)] = 1
                self.books.excused.discard(lease.lease_id)
            elif attempt.is_started and lease.lease_id not in told:
                self.books.blame(2, f"the ledger does not know attempt {lease.lease_id}")
            del self.workshop.attempts[lease.lease_id]
        self.counts["attempts"] += len(over)

    def _is_over(self, attempt: Attempt) -> bool:
        if attempt.living() or attempt.wrapper.is_alive:
            return False
        lease = attempt.lease
        if lease.lease_id in self.disk.results:
            return False
        return self._state_of(lease.task_id) != TaskState.WORKING or not self._is_leased(lease)

    def _is_leased(self, lease: Lease) -> bool:
        return lease.task_id in self.disk.leases

    def _note(self, report: TickReport) -> None:
        self.counts["refused ticks"] += report.locked
        self.counts["started"] += report.stats.tasks_spawned
        self.counts["settled"] += report.stats.leases_settled
        self.counts["reclaimed"] += report.stats.leases_reclaimed
        for error in report.errors:
            self._note_failure(error.message)

    def _note_failure(self, words: str) -> None:
        self.counts["errors"] += 1
        kind = _NAMES.sub("N", words)[:100]
        if kind in self.errors or len(self.errors) < _MOST_KINDS:
            self.errors[kind] += 1
        if _FOREIGN.match(words):
            self.books.violations.append(f"a bug in a tick: {words}")


@dataclass(eq=False, slots=True, kw_only=True)
class Owner:
    """The person whose tasks these are: adds, cancels, holds, retries, and keeps a census."""

    world: WeekWorld
    chance: Chance
    most: int
    added: int = 0
    seen: list[str] = field(init=False)  # each task's state as last seen
    known: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make room for all tasks at once."""
        self.seen = [""] * (self.most + 1)

    def add(self, number: int) -> None:
        """Add tasks in one go, now or, while the disk refuses, a little later."""
        if not self._act("owner", partial(self._add, number)):
            self.world.machine.schedule(60.0, partial(self.add, number))

    def cancel_something(self) -> None:
        """Cancel as a person does: note the wish in the row, then ask the wrapper to end."""
        task_id = self._some("'waiting', 'held', 'working', 'parked'")
        if task_id is not None:
            self._act("cancel", partial(self._cancel, task_id))

    def retry_something(self) -> None:
        """Let a task that did not succeed wait again."""
        task_id = self._some("'failed', 'parked', 'cancelled'")
        if task_id is not None:
            self._act("cancel", partial(self._retry, task_id))

    def hold_something(self) -> None:
        """Set a waiting task aside, and release it some hours later."""
        task_id = self._some("'waiting'")
        if task_id is not None:
            self._act("cancel", partial(self._hold, task_id))
            delay_s = self.chance.between(600, 20_000)
            self.world.machine.schedule(delay_s, partial(self._release_later, task_id))

    def pause_something(self) -> None:
        """Pause an agent for half an hour."""
        name = self.chance.pick(("alpha", "beta", "gamma"))
        target = Target(kind=TargetKind.AGENT, name=name)
        switch = Switch(
            kind=SwitchKind.PAUSE, target=target, since=self.world.machine.wall, by="its owner"
        )
        self._act("cancel", lambda: self._switch(lambda switches: switches.set(switch)))
        self.world.machine.schedule(1800.0, partial(self.resume, target))

    def resume(self, target: Target) -> None:
        """Lift a pause, again and again if it is refused."""
        done = self._act(
            "owner",
            lambda: self._switch(lambda switches: switches.clear(SwitchKind.PAUSE, target)),
        )
        if not done:
            self.world.machine.schedule(60.0, partial(self.resume, target))

    def tidy_up(self) -> None:
        """Decide about all that waits for a person: parked, failed, held and stuck tasks."""
        with suppress(TinySchedulerError):
            for task_id in self.ids_where("state = 'held'"):
                self._act("owner", partial(self._release, task_id))
            for task_id in self.ids_where("state IN ('parked', 'failed')"):
                retries = self.chance.happens(0.5)
                self._act("owner", partial(self._retry if retries else self._cancel, task_id))
            self._act("owner", self._cancel_stuck)

    def cancel_all_set_aside(self) -> None:
        """Give up everything that waits for a person."""
        with suppress(TinySchedulerError):
            for task_id in self.ids_where("state IN ('held', 'parked')"):
                self._act("owner", partial(self._cancel, task_id))
            self._act("owner", self._cancel_stuck)

    def open_tasks(self) -> list[str]:
        """Return the tasks that have not ended."""
        return self.ids_where("state NOT IN ('done', 'failed', 'cancelled')")

    def take_census(self) -> None:
        """Note every task's state, and blame whoever lost one that was not over."""
        self.world.retire_attempts()
        rows = self.world.select("SELECT id, state FROM tasks")
        now = {int(row[0]) for row in rows}
        for task in self.known - now:
            if self.seen[task] not in _OVER:
                self.world.books.blame(2, f"task {task} vanished while it was {self.seen[task]}")
        self.known = now
        for row in rows:
            # Interned by the enumeration: a reference each, not a text each.
            self.seen[int(row[0])] = TaskState(row[1])
            self.world.books.note_row(int(row[0]), row[1])

    # -- parts --------------------------------------------------------------------

    def _add(self, number: int) -> None:
        specs = [(None, self._spec()) for _ in range(number)]
        with self._queue() as queue:
            ids = queue.add(specs)
        self.added += number
        if ids[-1] != str(self.added):
            self.world.books.blame(2, f"task {ids[-1]} is the {self.added}th that was added")
        self._tell(EventName.TASK_ADDED, ids)
        wish(self.world.disk)

    def _spec(self) -> TaskSpec:
        chance = self.chance
        ids = range(max(1, self.added - 200), self.added + 1)
        after: tuple[str, ...] = ()
        if self.added and chance.happens(0.15):
            wanted = str(chance.pick(ids))
            after = (wanted,) if self._exists(wanted) else ()
        wall = self.world.machine.wall
        is_later = chance.happens(0.05)
        talks = chance.happens(0.3)
        return TaskSpec(
            agent="gamma" if talks else chance.pick((None, "alpha", "beta", "shell")),
            queue=None if talks else "work",
            command=() if talks else ("sh", "-c", "true"),
            prompt="say something sensible\n" * chance.count(1, 80) if talks else None,
            after=after,
            not_before=wall + timedelta(seconds=chance.between(0, 7200)) if is_later else None,
            max_runtime_s=chance.pick((None, 60.0, 200.0)),
            max_attempts=chance.pick((None, None, 1, 5)),
            is_held=chance.happens(0.02),
        )

    def _exists(self, task_id: str) -> bool:
        return bool(self.ids_where(f"id = {int(task_id)}"))

    def _some(self, states: str) -> str | None:
        ids = self.ids_where(f"state IN ({states})")
        return self.chance.pick(ids) if ids else None

    def ids_where(self, condition: str) -> list[str]:
        """Return the ids of the tasks of which this piece of SQL is true."""
        rows = self.world.select(f"SELECT id FROM tasks WHERE {condition} ORDER BY id")  # noqa: S608 - of our own words
        return [str(row[0]) for row in rows]

    def _act(self, program: str, action: Callable[[], None]) -> bool:
        """Do something in a process of its own; say whether it went well.

        One that is called ``cancel`` can be killed in the middle.
        """
        process = self.world.machine.spawn(program)
        try:
            with self.world.being(process):
                action()
        except (TinySchedulerError, Killed):
            return False
        finally:
            self.world.machine.kill(process)
        return True

    def _cancel(self, task_id: str) -> None:
        with self._queue() as queue:
            answer = queue.request_cancel(task_id)
        if isinstance(answer, CancelRequested):
            store = FileLeaseStore(self.world.config.paths, locks=LockTable())
            store.request_cancel(answer.lease_id)
            attempt = self.world.workshop.attempts.get(answer.lease_id)
            if attempt is not None:
                machine = self.world.machine
                machine.schedule(0.4, partial(machine.wake, attempt.wrapper))
        self._tell(EventName.TASK_CANCELLED, [task_id])

    def _retry(self, task_id: str) -> None:
        # Noted first: it may be retried although this process is killed right after that.
        self.world.books.retried.add(task_id)
        with self._queue() as queue:
            queue.retry(task_id)
        wish(self.world.disk)

    def _hold(self, task_id: str) -> None:
        with self._queue() as queue:
            queue.hold(task_id)

    def _release(self, task_id: str) -> None:
        with self._queue() as queue:
            queue.release(task_id)

    def _release_later(self, task_id: str) -> None:
        self._act("owner", partial(self._release, task_id))

    def _cancel_stuck(self) -> None:
        """Cancel what waits for a task that was cancelled, failed or set aside."""
        stuck = self.ids_where(
            "state IN ('waiting', 'held') AND EXISTS (SELECT 1 FROM dependencies JOIN tasks AS"
            " blocker ON blocker.id = blocker_id WHERE task_id = tasks.id"
            " AND blocker.state IN ('failed', 'parked', 'cancelled'))"
        )
        for task_id in stuck:
            with suppress(TinySchedulerError):
                self._cancel(task_id)

    def _switch(self, change: Callable[[SqliteSwitches], object]) -> None:
        with self.world.opened() as database:
            change(SqliteSwitches(database))

    @contextmanager
    def _queue(self) -> Iterator[LocalQueue]:
        with self.world.opened() as database:
            yield local_queue(self.world.config, database, cast("Any", self.world.machine))

    def _tell(self, name: EventName, task_ids: Sequence[str]) -> None:
        at = self.world.machine.wall
        events = [Event(at=at, name=name, task_id=task_id) for task_id in task_ids]
        for observer in observers_of(self.world.config):
            observer.notice_all(events)


@dataclass(eq=False, slots=True, kw_only=True)
class Week:
    """One seeded week."""

    folder: Path
    plan: WeekPlan
    world: WeekWorld = field(init=False)
    owner: Owner = field(init=False)
    faults: WeekFaults = field(init=False)
    days_lived: int = 0
    _chance: Chance = field(init=False)

    def __post_init__(self) -> None:
        """Make the state folder, the computer, its owner and its troubles from the seed."""
        plan = self.plan
        config = _config(self.folder, plan)
        make_state_folder(config)
        self.world = WeekWorld(config, most=plan.tasks, scale=plan.day_s / DAY_S)
        self._chance = Chance(plan.seed, "week")
        self.owner = self.world.owner = Owner(
            world=self.world, chance=Chance(plan.seed, "owner"), most=plan.tasks
        )
        self.world.workshop.script = self._script
        self.faults = WeekFaults(
            world=self.world,
            chance=Chance(plan.seed, "faults"),
            rates=Rates(
                kill_tick=0.0005,
                freeze_tick=0.00005,
                kill_wrapper=0.001,
                stop_wrapper=0.0003,
                trouble_every_s=600.0,
            ),
        )
        self.faults.log = cast("Any", deque(maxlen=1000))
        self.faults.begin()
        self.world.start_cron()

    @property
    def violations(self) -> list[str]:
        """What was found so far, each with the faults before it."""
        return self.world.books.violations

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.world.config.paths.state)

    def count_lent(self) -> int:
        """Return how many descriptors are those of simulated processes that live."""
        machine, disk = self.world.machine, self.world.disk
        assert isinstance(disk, FileDisk)
        has_daemon = any(one.program == "daemon" for one in machine.processes.values())
        kept = 0
        for path in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                kept += os.readlink(path).startswith(self.world.config.paths.database)
        return disk.task_locks.count_held() + kept * has_daemon

    def last_faults(self) -> list[str]:
        """Return what went wrong last, in simulated seconds since the beginning."""
        return list(self.faults.log)[-30:]

    def live_through_day(self) -> None:
        """Let one day's tasks come and one day's troubles happen."""
        plan, machine, day_s = self.plan, self.world.machine, self.plan.day_s
        number = plan.tasks * (self.days_lived + 1) // plan.days
        number -= plan.tasks * self.days_lived // plan.days
        burst = number // 8
        bursts = 3 if burst else 0
        for _ in range(bursts):
            machine.schedule(self._chance.between(0, 0.8 * day_s), partial(self.owner.add, burst))
        for _ in range(number - bursts * burst):
            machine.schedule(self._chance.between(0, 0.9 * day_s), partial(self.owner.add, 1))
        for action in (self.owner.hold_something, self.owner.pause_something):
            for _ in range(4):
                machine.schedule(self._chance.between(0, 0.8 * day_s), action)
        machine.schedule(0.9 * day_s, self.owner.tidy_up)
        self._advance(day_s / 2)
        # From noon on a daemon ticks beside cron; at night it is ended.
        self.world.is_daemon_wanted = True
        self.world.start_daemon()
        self._advance(day_s / 2 - _DAEMON_END_S)
        self.world.is_daemon_wanted = False
        self._advance(_DAEMON_END_S)
        self.days_lived += 1

    def come_to_rest(self) -> None:
        """Stop all faults, let all work end, and then all that is kept become too old."""
        self.faults.stop()
        left_s = 2 * DAY_S + self.faults.turned_back_s
        while left_s > 0 and not self.violations and self._is_busy():
            self.owner.cancel_all_set_aside()
            self._advance(1800.0)
            left_s -= 1800.0
        self.owner.take_census()
        kept_s = max(self.plan.history_days, self.plan.log_days) * self.plan.day_s
        if self.plan.is_retention_reached and not self.violations:
            self._advance(2 * kept_s + 2 * 3600.0 + self.faults.turned_back_s)

    def judge(self) -> list[str]:
        """Return what is wrong with a world at rest."""
        found = list(self.violations)
        if self.owner.added != self.plan.tasks:
            found.append(f"{self.owner.added} tasks were added")
        found += [
            f"(2, 12) task {task} was last seen {state or 'nowhere'}"
            for task, state in enumerate(self.owner.seen[1:], start=1)
            if state not in _OVER
        ]
        paths = self.world.config.paths
        folders = [paths.running, paths.results, paths.cancel]
        if self.plan.is_retention_reached:
            folders += [paths.tasks, f"{paths.logs}/tasks", paths.quarantine]
        for folder in folders:
            with suppress(FileNotFoundError):
                found += [f"(12) left on disk: {folder}/{name}" for name in os.listdir(folder)]
        if self.plan.is_retention_reached:
            found += [f"(12) task {task} is kept" for task in self.owner.ids_where("1")]
        if self.world.workshop.attempts:
            found.append(f"(12) attempts left: {sorted(self.world.workshop.attempts)[:5]}")
        return found[:20]

    def describe(self) -> str:
        """Return what happened so far, in one line."""
        counts = self.world.counts
        return (
            f"{self.owner.added} tasks, {self.world.books.attempts_started} commands started,"
            f" {counts['settled']} settled, {counts['reclaimed']} reclaimed,"
            f" {counts['ticks']} ticks ({counts['refused ticks']} refused,"
            f" {counts['failed ticks']} failed, {counts['errors']} errors),"
            f" {counts['prunings']} prunings, {counts['faults']} faults"
            f" ({counts['deaths']} of them deaths)"
        )

    def _advance(self, seconds: float) -> None:
        left_s = seconds
        while left_s > 0 and not self.violations:
            self.world.machine.advance(min(left_s, 600.0))
            self.world.retire_attempts()
            left_s -= 600.0

    def _is_busy(self) -> bool:
        disk = self.world.disk
        files = any((disk.leases, disk.locks.keys(), disk.results))
        return bool(files or self.owner.open_tasks())

    def _script(self, task_id: str, attempt: int) -> Script:
        """Return what this attempt does, the same for the same seed."""
        chance = Chance(self.plan.seed, "script", task_id, attempt)
        children: tuple[Child, ...] = ()
        if chance.happens(0.2):
            children = (
                Child(
                    starts_after_s=chance.between(0, 1),
                    runs_s=chance.pick((1.0, 30.0, 900.0)),
                    ignores_term=chance.happens(0.3),
                    holds_lock=chance.happens(0.5),
                ),
            )
        return Script(
            runs_s=chance.pick((0.05, chance.between(0, 20), chance.between(10, 300))),
            exit_code=chance.pick((0, 0, 0, 0, 0, 1, EXIT_RETRY_LATER)),
            ignores_term=chance.happens(0.1),
            children=children,
        )


@contextmanager
def living(week: Week) -> Iterator[Week]:
    """Let the steps of the real adapters be those of the week's processes, and end that."""
    before, crash.crash_point = crash.crash_point, week.world.pass_file_step
    try:
        yield week
    finally:
        crash.crash_point = before
        week.world.disk.refusal = Refusal.NOTHING


def _config(folder: Path, plan: WeekPlan) -> Config:
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "agents.yaml").write_text(AGENTS_FILE)
    environment = {
        "TINYSCHEDULER_MAX_CONCURRENT_SLOTS": str(SLOTS),
        "TINYSCHEDULER_AGENT_LIMITS": "shell:4",
        "TINYSCHEDULER_STAGGER_DELAY_MS": "1000",
        "HOME": str(base),
        "PATH": os.environ["PATH"],
    }
    config = load_config(Overrides(base_path=str(base)), environ=environment, write_cache=False)
    day_s = plan.day_s
    limits = replace(
        config.limits,
        log_max_bytes=plan.log_max_bytes,
        history_retention_s=plan.history_days * day_s,
        log_retention_s=plan.log_days * day_s,
    )
    return replace(config, limits=limits)
