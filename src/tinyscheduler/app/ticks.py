"""From a `Config` to a wired tick.  The only table of adapter names."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable, LockTrial
from tinyscheduler.adapters.memory_file import FileMemoryStore
from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import is_any_due
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches, is_any_refused
from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.app.active_policy import ActivePolicy
from tinyscheduler.app.kicks import kick_argv, start_detached_tick
from tinyscheduler.app.place import (
    make_state_folder,
    refuse_foreign_state,
    refuse_inside_attempt,
    refuse_moved_leases,
    refuse_network_filesystem,
)
from tinyscheduler.app.pruning import pruners_of
from tinyscheduler.app.queue import TINYTASK, local_queue, observers_of
from tinyscheduler.config.saved import load_settings, save_settings
from tinyscheduler.errors import StoreError
from tinyscheduler.model.config import GPU_MASK
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.snapshot import Rules
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.tick import (
    Foresight,
    Mode,
    Retention,
    TickSettings,
    World,
    foresee,
    run_ticks,
    tick,
)
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from tinyscheduler.adapters.policy_trace_file import PolicyTraceFile
    from tinyscheduler.adapters.rounds_file import FileRecorder
    from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings
    from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
    from tinyscheduler.adapters.tinytask.client import TinytaskClient
    from tinyscheduler.model.budgets import UsedUp
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.model.schedules import FiringDeferral, FiringPlan, LiveFirings, Schedule
    from tinyscheduler.model.snapshot import SourceView
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Clock, Observer, TaskSource

# A dry run tells people why tasks wait, so it looks at more of them than a tick needs.
_DRY_RUN_WINDOW = 1000


class TickInterruptedError(KeyboardInterrupt):
    """Ctrl-C was pressed during a tick, which finished the step at hand; its report."""

    def __init__(self, report: TickReport) -> None:
        super().__init__()
        self.report = report


def run_once(config: Config, *, is_kicked: bool = False) -> TickReport:
    """Tick until nobody wishes for another, and return the first report.

    SIGTERM and SIGINT finish the step at hand; attempts run on.  Raises ConfigError if
    the state belongs to somebody else, UsageError inside an attempt, and
    TickInterruptedError in the end if SIGINT was why it ended early.
    """
    warnings = prepare_to_tick(config, is_kicked=is_kicked)
    clock = SystemClock()
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        clock.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with wired(config, clock=clock, mode=Mode.ACT, warnings=warnings) as wiring:
        world = wiring if is_kicked else keeping_settings(wiring, config)
        report, is_wished = run_ticks(world, settings_of(config), should_stop=lambda: bool(stopped))
    if is_wished:
        late: list[str] = []
        # Stopped or not: whoever wished for it saw our lock and relies on us.
        start_detached_tick(config, warn=late.append)
        report = replace(report, warnings=(*report.warnings, *late))
    if signal.SIGINT in stopped:
        raise TickInterruptedError(report)
    return report


def preview(config: Config) -> TickReport:
    """Say what a tick would do, changing nothing and taking no lock."""
    refuse_foreign_state(config)
    clock = SystemClock()
    with wired(config, clock=clock, mode=Mode.DRY_RUN, warnings=[]) as world:
        return tick(world, settings_of(config, window=_DRY_RUN_WINDOW), Mode.DRY_RUN)


def foresee_all(config: Config, *, sees_gpus: bool) -> Foresight:
    """Say the same together with all that was seen; the GPUs too, if asked for."""
    refuse_foreign_state(config)
    clock = SystemClock()
    with wired(config, clock=clock, mode=Mode.DRY_RUN, warnings=[]) as world:
        settings = settings_of(config, window=_DRY_RUN_WINDOW)
        return foresee(world, replace(settings, sees_gpus=sees_gpus))


def may_have_gpus(config: Config) -> bool:
    """Whether it is worth a look: a file describes some, or there is a driver to be asked."""
    if config.gpu_probe.startswith("file:"):
        return True
    from tinyscheduler.adapters.gpu_nvml.driver import has_driver

    return has_driver()


def read_gpus(config: Config) -> GpuReading:
    """Look at the GPUs as configured; all that there are, whichever CUDA_VISIBLE_DEVICES shows."""
    return _GpuProbe(config, may_write=False).read()


def foresee_task(config: Config, task: WaitingTask, *, window: int) -> Foresight:
    """Say what a tick would do, with this task in its window, wherever in line it stands.

    So many of its line are looked at, if not more than is bounded.
    """
    clock = SystemClock()
    with wired(config, clock=clock, mode=Mode.DRY_RUN, warnings=[]) as world:
        sources = tuple(
            _Including(source, task) if source.name == task.source else source
            for source in world.sources
        )
        settings = settings_of(config)
        window = max(settings.window, min(window, _DRY_RUN_WINDOW))
        return foresee(replace(world, sources=sources), replace(settings, window=window))


class _Including:
    """A source whose window holds one more task; for looking only."""

    def __init__(self, source: TaskSource, task: WaitingTask) -> None:
        self._source = source
        self._task = task
        self.name = source.name
        self.describe, self.claim, self.settle = source.describe, source.claim, source.settle

    def look(self, *, window: int) -> SourceView:
        """Return the source's window and the task, unless it is in there anyhow."""
        view = self._source.look(window=window)
        if any(one.task_id == self._task.task_id for one in view.waiting):
            return view
        return replace(view, waiting=(*view.waiting, self._task))


def run_kicked(base_path: str) -> int:
    """Do the tick that a wrapper becomes; nobody reads its output, so errors go to stderr."""
    config = load_settings(os.path.join(base_path, "state", "settings.json"))
    run_once(config, is_kicked=True)
    return 0


@contextmanager
def wired(
    config: Config,
    *,
    clock: Clock,
    mode: Mode,
    warnings: list[str],
    kept: Database | None = None,
) -> Iterator[World]:
    """Wire every port.  A dry run gets readers: no lock is tried, no file is written.

    A database that is ``kept`` from tick to tick stays open; one of our own is closed.
    """
    acts = mode is Mode.ACT
    database = kept or Database(config.paths.database, Access.WRITE if acts else Access.READ)
    platform = PlatformPolicy()
    launcher = LocalLauncher(config, wrapper=wrapper_path(), kick_argv=kick_argv(config))
    gpus = _GpuProbe(config, may_write=acts)
    own = ActivePolicy(config, clock, may_write=acts)
    observers: tuple[Observer, ...] = (*observers_of(config), _OwnTrace(config, own))
    ledger = SqliteLedger(database, shared_with="local")
    sources = _Sources(
        database, clock, ledger, mode=mode, warn=warnings.append, observers=observers
    )
    try:
        yield World(
            clock=clock,
            lock=FileTickLock(config.paths),
            sources=sources.all_of(config),
            store=FileLeaseStore(config.paths, locks=LockTrial() if acts else LockTable()),
            launcher=launcher,
            probe=ProcProbe(sees_stalls=config.limits.memory_stall_critical is not None),
            gpus=gpus,
            policy=platform,
            fallback=platform,
            find_policy=own.find,
            find_last_good=own.find_last_good,
            keep_good=own.keep_good,
            ledger=ledger,
            memory=FileMemoryStore(config.paths, warn=warnings.append, may_write=acts),
            switches=SqliteSwitches(database),
            coolings=_Coolings(database),
            schedules=_Schedules(
                database, clock, run_s=config.timing.schedule_run_s, warn=warnings.append
            ),
            budgets=_Budgets(config, database, clock),
            pressures=_Pressures(
                config, clock, gpus=gpus, launcher=launcher, warn=warnings.append, may_write=acts
            ),
            read_checklist=_read_checklist,
            observers=(*observers, sources) if acts else (),
            recorder=partial(recorder_of, config),
            pruners=partial(pruners_of, config, database, may_write=acts),
            warnings=warnings,
        )
    finally:
        sources.close()
        own.close()
        if kept is None:
            database.close()


class _Sources:
    """Where tasks come from; what asks a server is loaded only where one is named."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ledger: SqliteLedger,
        *,
        mode: Mode,
        warn: Callable[[str], None],
        observers: Sequence[Observer],
    ) -> None:
        self._observers = observers
        self._database = database
        self._clock = clock
        self._ledger = ledger
        self._mode = mode
        self._warn = warn
        self._client: TinytaskClient | None = None

    def all_of(self, config: Config) -> tuple[TaskSource, ...]:
        """Return them in the order of the setting."""
        return tuple(self._source(name, config) for name in config.sources)

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()

    def notice(self, event: Event) -> None:
        """Take no note: only the end of a tick matters here."""

    def report(self, report: TickReport) -> None:
        """Let the next tick have all of its time for questions."""
        del report
        if self._client is not None:
            self._client.begin_tick()

    def _source(self, name: str, config: Config) -> TaskSource:
        if name == "local":
            return local_queue(config, self._database, self._clock, tell_done=self._tell_done)
        assert name == TINYTASK, name  # noqa: S101 - the settings know no other
        from tinyscheduler.app.tinytask import open_client, tinytask_source

        acts = self._mode is Mode.ACT
        client = open_client(config, self._clock, may_write=acts)
        self._client = client
        return tinytask_source(
            config,
            client,
            self._database,
            self._clock,
            self._ledger,
            rules=settings_of(config).rules,
            may_write=acts,
            warn=self._warn,
        )

    def _tell_done(self, task_ids: Sequence[str]) -> None:
        """Tell of tasks that ended without an attempt of their own."""
        at = self._clock.now().wall
        for task_id in task_ids:
            for observer in self._observers:
                observer.notice(Event(at=at, name=EventName.TASK_FINISHED, task_id=task_id))


class _Schedules:
    """The schedules, loaded by the few ticks in which one is due."""

    def __init__(
        self, database: Database, clock: Clock, *, run_s: float, warn: Callable[[str], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._run_s = run_s
        self._warn = warn
        self._loaded: SqliteSchedules | None = None

    def due(self, now: datetime) -> Sequence[tuple[Schedule, LiveFirings]]:
        """Return what is due; nothing is loaded where nothing is."""
        return self._load().due(now) if is_any_due(self._database, now) else ()

    def fire(self, plan: FiringPlan) -> Sequence[str] | None:
        """Add the tasks of a plan."""
        return self._load().fire(plan)

    def find(self, schedule_id: str) -> Schedule | None:
        """Return the schedule of that name, if it is there."""
        return self._load().find(schedule_id)

    def defer(self, deferral: FiringDeferral) -> bool:
        """Let a schedule that is due be so later."""
        return self._load().defer(deferral)

    def is_heartbeat(self, schedule_id: str) -> bool:
        """Whether it goes through a checklist."""
        return self._load().is_heartbeat(schedule_id)

    def paused_by(self, task_id: str) -> Schedule | None:
        """Return the schedule that stopped itself, if one did."""
        return self._load().paused_by(task_id)

    def _load(self) -> SqliteSchedules:
        if self._loaded is None:
            from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules

            self._loaded = SqliteSchedules(
                self._database, self._clock, run_s=self._run_s, warn=self._warn
            )
        return self._loaded


class _Coolings:
    """The accounts that were refused, loaded where there are any."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Sequence[Cooling]:
        """Return what is kept of every account."""
        return self._load().read() if is_any_refused(self._database) else ()

    def keep(self, cooling: Cooling) -> None:
        """Replace what is kept of that account."""
        self._load().keep(cooling)

    def forget(self, account: str) -> Cooling | None:
        """Remove what is kept of an account."""
        return self._load().forget(account)

    def _load(self) -> SqliteCoolings:
        from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings

        return SqliteCoolings(self._database)


class _Budgets:
    """The budgets, loaded where there are any."""

    def __init__(self, config: Config, database: Database, clock: Clock) -> None:
        self._budgets = config.inventory.budgets
        self._database = database
        self._clock = clock

    def enforce(self) -> Sequence[UsedUp]:
        """Pause what has used up its budget."""
        from tinyscheduler.adapters.sqlite.budgets import SqliteBudgets

        return SqliteBudgets(self._database, self._clock, self._budgets).enforce()


def _read_checklist(path: str) -> str | None:
    """Read the checklist of a heartbeat that is due; few are."""
    from tinyscheduler.adapters.checklist_file import read_checklist

    return read_checklist(path)


class _Pressures:
    """Who is at work, looked for by the few ticks in which a firing may have to make way."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        gpus: _GpuProbe,
        launcher: LocalLauncher,
        warn: Callable[[str], None],
        may_write: bool,
    ) -> None:
        self._config = config
        self._clock = clock
        self._gpus = gpus
        self._launcher = launcher
        self._warn = warn
        self._may_write = may_write

    def live(self) -> Sequence[InteractivePressure]:
        """Return who is at work now."""
        from tinyscheduler.app.pressure import ConfiguredPressures

        return ConfiguredPressures(
            self._config,
            self._clock,
            gpus=self._gpus.read,
            owners=self._launcher.owners,
            warn=self._warn,
            may_write=self._may_write,
        ).live()


def pressures_of(config: Config, *, warn: Callable[[str], None]) -> Sequence[InteractivePressure]:
    """Return who is at work now, for a person who asks; nothing is moved."""
    launcher = LocalLauncher(config, wrapper=wrapper_path(), kick_argv=kick_argv(config))
    gpus = _GpuProbe(config, may_write=False)
    return _Pressures(
        config, SystemClock(), gpus=gpus, launcher=launcher, warn=warn, may_write=False
    ).live()


class _OwnTrace:
    """Keeps what that policy said, loaded by ticks that asked it."""

    def __init__(self, config: Config, policy: ActivePolicy) -> None:
        self._config = config
        self._policy = policy
        self._loaded: PolicyTraceFile | None = None

    def notice(self, event: Event) -> None:
        trace = self._load()
        if trace is not None:
            trace.notice(event)

    def report(self, report: TickReport) -> None:
        trace = self._load()
        if trace is not None:
            trace.report(report)

    def _load(self) -> PolicyTraceFile | None:
        if self._loaded is None and self._policy.calls:
            from tinyscheduler.adapters.policy_trace_file import PolicyTraceFile

            self._loaded = PolicyTraceFile(self._config.paths, self._policy)
        return self._loaded


def recorder_of(config: Config) -> FileRecorder:
    """Return what keeps the rounds of ticks; loaded by those that have something to keep."""
    from tinyscheduler.adapters.rounds_file import FileRecorder

    return FileRecorder(config.paths)


class _GpuProbe:
    """The probe that is configured, loaded by the few ticks that look at GPUs."""

    def __init__(self, config: Config, *, may_write: bool) -> None:
        self._config = config
        self._may_write = may_write

    def read(self) -> GpuReading:
        """Look at them as configured."""
        paths = self._config.paths
        kind, _, path = self._config.gpu_probe.partition(":")
        if kind == "file":
            from tinyscheduler.adapters.gpu_file import FileGpuProbe

            return FileGpuProbe(os.path.join(paths.base, path)).read()
        from tinyscheduler.adapters.gpu_nvml.probe import NvmlGpuProbe

        mark = os.path.join(paths.state, "gpu-probe.json")
        return NvmlGpuProbe(mark, may_write=self._may_write).read()


def keeping_settings(world: World, config: Config) -> World:
    """Return a world whose ticks, once they have the lock, keep these for kicked ticks."""

    def keep() -> None:
        try:
            save_settings(config)
        except OSError as error:
            # A full disk: ticks go on, kicked ones with the settings before these.
            world.warnings.append(f"{config.paths.settings}: {error.strerror}")

    return replace(world, keep_settings=keep)


def settings_of(config: Config, *, window: int | None = None) -> TickSettings:
    """Return what a tick is configured with."""
    limits, timing = config.limits, config.timing
    return TickSettings(
        agents=config.agents,
        rules=Rules(
            host_slots=limits.host_slots,
            kill_grace_s=timing.kill_grace_s,
            max_attempts=limits.max_attempts,
            max_launches=limits.max_launches,
            retry_base_s=timing.retry_base_s,
            retry_max_s=timing.retry_max_s,
            retry_later_s=timing.retry_later_s,
            memory_per_slot_bytes=limits.memory_per_slot_bytes,
            memory_warning=limits.memory_warning,
            memory_critical=limits.memory_critical,
            memory_stall_critical=limits.memory_stall_critical,
            is_priority_enabled=config.priority_enabled,
            lookahead=limits.queue_lookahead,
            max_skips=limits.max_skips,
            max_runtime_s=timing.max_runtime_s,
            has_automatic_slots=limits.has_automatic_slots,
            fair_share=limits.fair_share,
            fair_share_half_life_s=limits.fair_share_half_life_s,
            schedule_max_concurrent=limits.schedule_max_concurrent,
            schedule_pressure_delay_s=timing.schedule_pressure_delay_s,
        ),
        heartbeat_s=timing.heartbeat_s,
        max_runtime_s=timing.max_runtime_s,
        stagger_s=timing.stagger_s,
        budget_s=timing.tick_budget_s,
        window=window or limits.host_slots + limits.queue_lookahead,
        is_enabled=config.enabled,
        inventory=config.inventory,
        policy_mode=config.policy.mode,
        heeds_ends=config.kick_enabled,
        gpu_mask=dict(config.environment).get(GPU_MASK),
        retention=Retention(history_s=limits.history_retention_s, logs_s=limits.log_retention_s),
    )


def prepare_to_tick(config: Config, *, is_kicked: bool) -> list[str]:
    """Refuse what must not tick here, make the state folder, and tidy it."""
    refuse_inside_attempt(config, os.environ)
    refuse_foreign_state(config)
    refuse_network_filesystem(config)
    refuse_moved_leases(config)
    os.umask(0o077)
    make_state_folder(config)
    warnings = list(config.warnings)
    if not is_kicked:
        try:
            store = FileLeaseStore(config.paths, locks=LockTable())
            store.sweep_temporary(now_s=SystemClock().now().wall.timestamp())
        except StoreError as error:
            warnings.append(error.what)
    return warnings


def wrapper_path() -> str:
    """Return the wrapper's source; it is run by path, never imported."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return os.path.join(package, "wrapper.py")
