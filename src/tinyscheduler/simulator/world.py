"""A whole simulated world: one computer, its sources, the people, and the real tick."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tinyscheduler.errors import TinySchedulerError
from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.records import CancelRequested
from tinyscheduler.model.snapshot import Rules
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.auditor import Auditor
from tinyscheduler.simulator.budgets import SimulatedBudgets
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.coolings import SimulatedCoolings
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.gpus import SimulatedGpuProbe
from tinyscheduler.simulator.launcher import SimulatedLauncher, Workshop
from tinyscheduler.simulator.ledger import SimulatedLedger
from tinyscheduler.simulator.machine import Killed, Machine, Pause
from tinyscheduler.simulator.memory import SimulatedMemoryStore
from tinyscheduler.simulator.observer import RecordingObserver
from tinyscheduler.simulator.pressures import SimulatedPressures
from tinyscheduler.simulator.probe import SimulatedProbe
from tinyscheduler.simulator.recorder import SimulatedRecorder
from tinyscheduler.simulator.schedules import SimulatedSchedules
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource
from tinyscheduler.simulator.store import SimulatedLeaseStore
from tinyscheduler.simulator.switches import SimulatedSwitches
from tinyscheduler.simulator.tick_lock import SimulatedTickLock
from tinyscheduler.tick import Mode, TickSettings, World, run_ticks, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.tasks import TaskState
    from tinyscheduler.ports import Policy
    from tinyscheduler.simulator.machine import Process

SETTINGS = TickSettings(
    agents=(
        AgentProfile(name="alpha", queue="work", limit=2),
        AgentProfile(name="beta", queue="work", limit=1),
    ),
    rules=Rules(
        host_slots=2,
        kill_grace_s=5.0,
        max_attempts=3,
        max_launches=5,
        retry_base_s=5.0,
        retry_max_s=300.0,
        retry_later_s=30.0,
        memory_per_slot_bytes=1 << 30,
        memory_warning=0.8,
        memory_critical=0.9,
    ),
    heartbeat_s=15.0,
    max_runtime_s=3600.0,
    stagger_s=0.0,
    budget_s=50.0,
    window=8,
    is_enabled=True,
)


def _unchanged(world: World, _process: Process) -> World:
    return world


@dataclass(eq=False, slots=True, kw_only=True)
class SimulatedWorld:
    """Everything there is.  ``rewire`` may replace ports of each tick, to break rules."""

    settings: TickSettings = SETTINGS
    machine: Machine = field(default_factory=Machine)
    disk: Disk = field(default_factory=Disk)
    policy: Policy = field(default_factory=PlatformPolicy)
    observer: RecordingObserver = field(default_factory=RecordingObserver)
    failures: list[TinySchedulerError] = field(default_factory=list)
    rewire: Callable[[World, Process], World] = _unchanged
    queue: SimulatedQueue = field(init=False)
    queues: list[SimulatedQueue] = field(init=False)
    workshop: Workshop = field(init=False)
    auditor: Auditor = field(init=False)

    def __post_init__(self) -> None:
        """Put the parts together."""
        rules = self.settings.rules
        self.queue = SimulatedQueue(
            now=lambda: self.machine.wall,
            longest_backoff_s=max(rules.retry_max_s, rules.retry_later_s),
            switches=self.disk.switches,
            ledger=self.disk.ledger,
            budgets=self.settings.inventory.budgets,
        )
        self.queues = [self.queue]
        self.workshop = Workshop(
            disk=self.disk,
            become_tick=self.live_as_tick,
            kill_grace_s=self.settings.rules.kill_grace_s,
        )
        self.auditor = Auditor(
            machine=self.machine,
            disk=self.disk,
            workshop=self.workshop,
            queues=self.queues,
            agents=self.settings.agents,
            host_slots=self.settings.rules.host_slots,
        )
        self.workshop.on_launch = self.auditor.note_launch
        self.workshop.on_command_start = self.auditor.note_start
        self.workshop.on_term = self.auditor.note_term
        self.workshop.on_kill = self.auditor.note_kill
        self.machine.on_change = self.auditor.look

    # -- ticks --------------------------------------------------------------------

    def tick(self) -> TickReport | None:
        """Tick once in a process of its own; None if it was killed."""
        process = self.machine.spawn("tick")
        try:
            return tick(self.wire(process), self.settings)
        except Killed:
            return None
        finally:
            self.machine.kill(process)

    def preview(self) -> TickReport:
        """Say what a tick would do."""
        process = self.machine.spawn("dry run")
        try:
            return tick(self.wire(process), self.settings, Mode.DRY_RUN)
        finally:
            self.machine.kill(process)

    def run_ticks(self) -> None:
        """Tick as `run --once` does: again while somebody wished for it."""
        process = self.machine.spawn("tick")
        try:
            self.live_as_tick(process)
        except Killed:
            return
        finally:
            self.machine.kill(process)

    def live_as_tick(self, process: Process) -> None:
        """Do what a process does that was started as a tick, or became one."""
        process.program = "tick"
        try:
            _, is_wished = run_ticks(self.wire(process), self.settings)
        except TinySchedulerError as error:
            # What `run` prints; the next tick tries again.
            self.failures.append(error)
            return
        if is_wished:
            process.reach("tick.detach")
            self.machine.schedule(0.05, self.run_ticks)

    def wire(self, process: Process) -> World:
        """Return the ports of one process."""
        warnings: list[str] = []
        world = World(
            clock=SimulatedClock(process),
            lock=SimulatedTickLock(process, self.disk),
            sources=tuple(SimulatedSource(process, queue) for queue in self.queues),
            store=SimulatedLeaseStore(process, self.disk),
            launcher=SimulatedLauncher(process, self.workshop),
            probe=SimulatedProbe(process),
            gpus=SimulatedGpuProbe(process),
            policy=self.policy,
            fallback=PlatformPolicy(),
            ledger=SimulatedLedger(process, self.disk),
            memory=SimulatedMemoryStore(process, self.disk, warn=warnings.append),
            switches=SimulatedSwitches(process, self.disk),
            coolings=SimulatedCoolings(process, self.disk),
            schedules=SimulatedSchedules(process, self.queue),
            budgets=SimulatedBudgets(process, self.queue, self.disk),
            pressures=SimulatedPressures(process, self.disk),
            read_checklist=self.disk.checklists.get,
            observers=(self.observer,),
            recorder=lambda: SimulatedRecorder(process, self.disk),
            warnings=warnings,
        )
        return self.rewire(world, process)

    def start_cron(self, every_s: float = 60.0) -> None:
        """Tick at regular intervals from now on, on top of what else happens."""

        def fire() -> None:
            self.machine.schedule(every_s, fire)
            self.run_ticks()

        self.machine.schedule(every_s, fire)

    def start_daemon(self, every_s: float = 60.0, *, restart_s: float = 10.0) -> None:
        """Tick in one process that lives on, and is started again whenever it dies."""
        process = self.machine.spawn("daemon")

        def start_again() -> None:
            self.machine.schedule(restart_s, partial(self.start_daemon, every_s))

        process.on_death.append(start_again)
        if self.disk.daemon_lock.try_lock(process) is not None:
            self.machine.begin(process, self._live_as_daemon(process, every_s))

    def _live_as_daemon(self, process: Process, every_s: float) -> Iterator[Pause]:
        world = self.wire(process)
        while True:
            process.program = "tick"
            try:
                run_ticks(world, self.settings)
            except TinySchedulerError as error:
                self.failures.append(error)
            process.program = "daemon"
            wait_s = 0.0 if self.disk.kicks else every_s
            yield Pause(seconds=wait_s, step="daemon.wake", is_interruptible=True)

    def add_queue(self, name: str, *, prefix: str) -> SimulatedQueue:
        """Connect one more source, whose task ids start with the prefix."""
        queue = SimulatedQueue(now=lambda: self.machine.wall, name=name, prefix=prefix)
        self.queues.append(queue)
        return queue

    # -- people -------------------------------------------------------------------

    def cancel(self, task_id: str) -> None:
        """Cancel as a person does: note the wish in the row, then ask the wrapper to end."""
        process = self.machine.spawn("cancel")
        store = SimulatedLeaseStore(process, self.disk)
        answer = self._queue_of(task_id).request_cancel(task_id)
        try:
            if isinstance(answer, CancelRequested):
                store.request_cancel(answer.lease_id)
                attempt = self.workshop.attempts.get(answer.lease_id)
                if attempt is not None:
                    self.machine.schedule(0.4, partial(self.machine.wake, attempt.wrapper))
        except TinySchedulerError as error:
            self.failures.append(error)
        except Killed:
            return
        finally:
            self.machine.kill(process)

    def state(self, task_id: str) -> TaskState:
        """Return where the task stands."""
        return self._queue_of(task_id).state(task_id)

    def _queue_of(self, task_id: str) -> SimulatedQueue:
        return next(queue for queue in self.queues if task_id in queue.rows)
