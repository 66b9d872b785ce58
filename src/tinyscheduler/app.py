"""The composition root: from a `Config` to a wired tick.  The only table of adapter names."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.events_file import DailyLog, EventsFile
from tinyscheduler.adapters.launch_local import LocalLauncher
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable, LockTrial
from tinyscheduler.adapters.memory_file import FileMemoryStore
from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.sqlite.inquiry import Inquiry
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.adapters.tick_lock_file import FileTickLock, touch
from tinyscheduler.config.saved import load_settings, save_settings, saved_running_folder
from tinyscheduler.errors import BusyError, ConfigError, StoreError, TinySchedulerError, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import Event
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
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tinyscheduler.adapters.prune_files import FilePruner
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner
    from tinyscheduler.daemon import DaemonLock, ServiceManager, Waker, WakingClock
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.events import EventName
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.pruning import Emptied, PruneBounds, Pruned
    from tinyscheduler.model.snapshot import SourceView
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Clock, TaskSource

# A dry run tells people why tasks wait, so it looks at more of them than a tick needs.
_DRY_RUN_WINDOW = 1000
# A person who prunes waits for it: more at once than a tick takes, and no more than minutes.
_MOST_PRUNED = 100_000
_MOST_PRUNED_AT_ONCE = 2000
# How long a person's command waits for a tick to end.
_PATIENCE_S = 10.0
_LOOK_S = 0.1
_MOST_HOLDER_CHARACTERS = 200
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "fuse.sshfs"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The embedded queue and everything that looking at it or changing it takes."""

    tasks: LocalQueue
    inquiry: Inquiry
    ledger: SqliteLedger
    switches: SqliteSwitches
    leases: FileLeaseStore
    clock: SystemClock
    config: Config


def open_queue(config: Config, access: Access) -> Queue:
    """Open the embedded queue for a person's command.

    For reading, nothing on disk changes (SQLite's -shm excepted) and no lock is touched.
    Raises ConfigError for state of another user.
    """
    refuse_foreign_state(config)
    if access is Access.WRITE:
        _make_state_folder(config)
    clock = SystemClock()
    database = Database(config.paths.database, access)
    return Queue(
        tasks=_local_queue(config, database, clock),
        inquiry=Inquiry(
            database,
            clock,
            priority_enabled=config.priority_enabled,
            blocking_disabled=config.blocking_disabled,
        ),
        ledger=SqliteLedger(database),
        switches=SqliteSwitches(database),
        leases=FileLeaseStore(config.paths, locks=LockTable()),
        clock=clock,
        config=config,
    )


def announce(queue: Queue, name: EventName, task_ids: Sequence[str]) -> None:
    """Tell events.jsonl and the log what a person's command did to tasks."""
    at = queue.clock.now().wall
    for observer in _observers(queue.config):
        for task_id in task_ids:
            observer.notice(Event(at=at, name=name, task_id=task_id))


def announce_event(
    queue: Queue,
    name: EventName,
    *,
    reason: str | None = None,
    details: tuple[tuple[str, str | int], ...] = (),
) -> None:
    """Tell events.jsonl and the log of something that is about no single task."""
    event = Event(at=queue.clock.now().wall, name=name, reason=reason, details=details)
    for observer in _observers(queue.config):
        observer.notice(event)


def _observers(config: Config) -> tuple[EventsFile, DailyLog]:
    most = config.limits.log_max_bytes
    return (
        EventsFile(config.paths, max_bytes=most),
        DailyLog(config.paths, level=config.log_level, max_bytes=most),
    )


def kick(config: Config) -> None:
    """Wish for a tick: a running one or the daemon reacts, else the next regular one does."""
    touch(config.paths.kick)


def run_once(config: Config, *, is_kicked: bool = False) -> TickReport:
    """Tick until nobody wishes for another, and return the first report.

    SIGTERM and SIGINT finish the step at hand; attempts run on.  Raises ConfigError if
    the state belongs to somebody else, UsageError inside an attempt.
    """
    warnings = _prepare_to_tick(config, is_kicked=is_kicked)
    clock = SystemClock()
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)
        clock.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with wired(config, clock=clock, mode=Mode.ACT, warnings=warnings) as world:
        report, is_wished = run_ticks(world, settings_of(config), should_stop=lambda: bool(stopped))
    if is_wished and not stopped:
        start_detached_tick(config)
    return report


def run_daemon(
    load: Callable[[], Config], *, notice: Callable[[TickReport], None] = lambda _: None
) -> None:
    """Repeat the tick until SIGTERM or SIGINT; the configuration is looked at before each.

    ``load`` returns the configuration that applies now; one that has become invalid is
    told on stderr and to the service manager, and the last valid one stays in force.
    Raises BusyError if another daemon serves this base path.
    """
    # Not cheap, and ticks of cron do without.
    from tinyscheduler.daemon import DaemonLock, ServiceManager, Waker, WakingClock, repeat

    config = load()
    refuse_inside_attempt(config, os.environ)
    _prepare_to_tick(config, is_kicked=False)
    clock = SystemClock()
    lock = DaemonLock(config.paths.daemon_lock, clock=clock)
    manager = ServiceManager(os.environ, own_pid=os.getpid(), clock=clock)
    waker = Waker(config.paths, clock=clock, manager=manager, lock=lock)
    daemon = _Daemon(
        config=config,
        load=load,
        lock=lock,
        manager=manager,
        waker=waker,
        clock=WakingClock(clock, waker, manager),
    )

    def do_tick() -> bool:
        daemon.configure()
        report = daemon.tick()
        if report is not None:
            # A full disk behind stdout must not end what fills it.
            with suppress(TinySchedulerError):
                notice(report)
        # Not done, the wish for it may still lie there and would wake us at once.
        return report is not None and not report.locked

    manager.begin()
    try:
        repeat(do_tick, waker, interval_s=lambda: daemon.config.timing.loop_interval_s)
    finally:
        manager.end()
        lock.close()
    # A wrapper that ended just now saw the daemon's lock and left the ticking to us.
    if os.path.lexists(config.paths.kick):
        start_detached_tick(daemon.config)


@dataclass(slots=True, kw_only=True)
class _Daemon:
    """What a daemon keeps from tick to tick: little, so that nothing can pile up."""

    config: Config
    load: Callable[[], Config]
    lock: DaemonLock
    manager: ServiceManager
    waker: Waker
    clock: WakingClock
    complaint: str = ""

    def configure(self) -> None:
        """Read the configuration again; one that cannot be used changes nothing."""
        is_reload = self.waker.take_reload()
        if is_reload:
            self.manager.begin_reload()
        try:
            config = self.load()
        except ConfigError as error:
            self._complain(f"warning: {error.what}; going on with the settings before")
        else:
            if config.paths.daemon_lock == self.lock.path:
                self.config = config
                self.complaint = self.complaint if self.complaint.startswith("error") else ""
            else:
                base = config.paths.base
                self._complain(f"warning: the base path has become {base}; restart the daemon")
        if is_reload:
            self.manager.end_reload()

    def tick(self) -> TickReport | None:
        """Do one tick, and those wished for meanwhile; None if it could not be done at all."""
        config = self.config
        timing = config.timing
        # Ten times what a tick may take: only a hanging one is ever so late.
        self.clock.begin_tick(longest_s=10 * (timing.tick_budget_s + timing.kill_grace_s))
        try:
            warnings = _prepare_to_tick(config, is_kicked=False)
            self.lock.renew()
        except (ConfigError, StoreError) as error:
            self._complain(f"error: {error.what}")
            return None
        try:
            with wired(config, clock=self.clock, mode=Mode.ACT, warnings=warnings) as world:
                report, _ = run_ticks(
                    world, settings_of(config), should_stop=self.waker.should_end_tick
                )
        except TinySchedulerError as error:
            # What ails this tick may be gone by the next; a daemon that ends helps nobody.
            self._complain(f"error: {error.what}")
            return None
        if not self.complaint.startswith("warning"):
            self.complaint = ""
            self.manager.tell(_words_for_status(report))
        return report

    def _complain(self, words: str) -> None:
        """Say it once, however many ticks it lasts: a log must not fill up with it."""
        if words != self.complaint:
            self.complaint = words
            sys.stderr.write(words + "\n")
            self.manager.tell(words)


def _words_for_status(report: TickReport) -> str:
    if report.locked:
        return f"another tick is at work ({report.holder})"
    stats = report.stats
    did = f"{stats.tasks_spawned} started, {stats.leases_settled} settled"
    at = format_time(report.started_at)
    return f"{did}, {stats.tasks_waiting} waiting, {stats.errors} errors at {at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDaemon:
    """The daemon that serves a base path; who it is, as far as it could write it down."""

    pid: int | None
    since: str | None


def find_daemon(config: Config) -> RunningDaemon | None:
    """Return the daemon of this base path, without touching its lock."""
    path = config.paths.daemon_lock
    try:
        status = os.stat(path)
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(_MOST_HOLDER_CHARACTERS)
    except OSError:
        return None
    locks = LockTable()
    locks.begin()
    if not locks.is_held(path, status):
        return None
    pid, _, since = text.strip().removeprefix("pid ").partition(", since ")
    return RunningDaemon(pid=int(pid) if pid.isdecimal() else None, since=since or None)


def last_tick_at(config: Config) -> datetime | None:
    """Return when a tick took the lock last: each one writes its line then."""
    try:
        status = os.stat(config.paths.tick_lock)
    except OSError:
        return None
    return datetime.fromtimestamp(status.st_mtime, tz=UTC) if status.st_size else None


def preview(config: Config) -> TickReport:
    """Say what a tick would do, changing nothing and taking no lock."""
    refuse_foreign_state(config)
    clock = SystemClock()
    with wired(config, clock=clock, mode=Mode.DRY_RUN, warnings=[]) as world:
        return tick(world, settings_of(config, window=_DRY_RUN_WINDOW), Mode.DRY_RUN)


def foresee_task(config: Config, task: WaitingTask) -> Foresight:
    """Say what a tick would do, with this task in its window, wherever in line it stands."""
    clock = SystemClock()
    with wired(config, clock=clock, mode=Mode.DRY_RUN, warnings=[]) as world:
        sources = tuple(
            _Including(source, task) if source.name == task.source else source
            for source in world.sources
        )
        return foresee(replace(world, sources=sources), settings_of(config))


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
def wired(config: Config, *, clock: Clock, mode: Mode, warnings: list[str]) -> Iterator[World]:
    """Wire every port.  A dry run gets readers: no lock is tried, no file is written."""
    acts = mode is Mode.ACT
    database = Database(config.paths.database, Access.WRITE if acts else Access.READ)
    platform = PlatformPolicy(is_priority_enabled=config.priority_enabled)
    observers = _observers(config)
    try:
        yield World(
            clock=clock,
            lock=FileTickLock(config.paths),
            sources=tuple(
                _source(name, config, database=database, clock=clock) for name in config.sources
            ),
            store=FileLeaseStore(config.paths, locks=LockTrial() if acts else LockTable()),
            launcher=LocalLauncher(config, wrapper=wrapper_path(), kick_argv=kick_argv(config)),
            probe=ProcProbe(),
            policy=platform,
            fallback=platform,
            ledger=SqliteLedger(database),
            memory=FileMemoryStore(config.paths, warn=warnings.append, may_write=acts),
            switches=SqliteSwitches(database),
            observers=observers if acts else (),
            pruners=partial(_pruners, config, database, may_write=acts),
            warnings=warnings,
        )
    finally:
        database.close()


def _pruners(
    config: Config, database: Database, *, may_write: bool
) -> tuple[SqlitePruner, FilePruner]:
    # Wanted once an hour, so a tick does not load them.
    from tinyscheduler.adapters.prune_files import FilePruner
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner

    rows = SqlitePruner(database, may_write=may_write)
    files = FilePruner(
        config.paths,
        needed=rows.needed,
        log_max_bytes=config.limits.log_max_bytes,
        may_write=may_write,
    )
    return rows, files


def prune(config: Config, *, age_s: float | None) -> Pruned:
    """Remove what is older than its retention, or than this age, up to a generous bound.

    No tick runs meanwhile, so nothing starts of which a file is about to go.  Raises
    BusyError if one keeps us out.
    """
    from tinyscheduler.model.pruning import merge_pruned

    clock = SystemClock()
    parts: list[Pruned] = []
    with _opened(config, Access.WRITE) as database, keeping_ticks_out(config, clock):
        pruners = _pruners(config, database, may_write=True)
        is_more = True
        while is_more and sum(part.number for part in parts) < _MOST_PRUNED:
            bounds = _bounds(config, clock, age_s=age_s, most=_MOST_PRUNED_AT_ONCE)
            step = merge_pruned(tuple(pruner.prune(bounds) for pruner in pruners))
            parts.append(step)
            is_more = step.is_more
    return replace(merge_pruned(tuple(parts)), is_more=is_more)


def preview_pruning(config: Config, *, age_s: float | None) -> Pruned:
    """Say what `prune` would remove, changing nothing."""
    from tinyscheduler.model.pruning import merge_pruned

    with _opened(config, Access.READ) as database:
        bounds = _bounds(config, SystemClock(), age_s=age_s, most=_MOST_PRUNED)
        pruners = _pruners(config, database, may_write=False)
        return merge_pruned(tuple(pruner.prune(bounds) for pruner in pruners))


def reset(queue: Queue) -> Emptied:
    """Remove all tasks and history; BusyError while anything runs or is unsettled."""
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner

    with (
        keeping_ticks_out(queue.config, queue.clock),
        _opened(queue.config, Access.WRITE) as database,
    ):
        scan = queue.leases.scan()
        busy = [one.task_id for one in scan.entries if one.lease is not None or one.is_lock_held]
        if busy or scan.results or scan.unreadable_results:
            raise BusyError(
                f"attempts are under way or not settled yet: {' '.join(busy[:10])}".rstrip(": "),
                hint="`tinyscheduler drain --wait`, then `tinyscheduler run`, then try again",
            )
        return SqlitePruner(database).empty()


@contextmanager
def keeping_ticks_out(config: Config, clock: SystemClock) -> Iterator[None]:
    """Hold the tick lock; BusyError if a tick or a daemon holds it for long.

    A wrapper that ends meanwhile leaves the ticking to us, so a tick follows then.
    """
    lock = FileTickLock(config.paths)
    until_ns = clock.now().monotonic_ns + int(_PATIENCE_S * 1e9)
    while (holder := lock.acquire()) is not None:
        if clock.now().monotonic_ns >= until_ns:
            raise BusyError(f"a tick is running ({holder})", hint="try again in a minute")
        clock.sleep(_LOOK_S)
    try:
        yield
    finally:
        lock.release()
        has_leases = bool(FileLeaseStore(config.paths, locks=LockTable()).scan().entries)
        # Inside an attempt nothing may be started; its own end makes a tick happen.
        if has_leases and lock.is_kicked() and not is_inside_attempt(config, os.environ):
            start_detached_tick(config)


@contextmanager
def _opened(config: Config, access: Access) -> Iterator[Database]:
    if access is Access.WRITE:
        refuse_foreign_state(config)
        _make_state_folder(config)
    database = Database(config.paths.database, access)
    try:
        yield database
    finally:
        database.close()


def _bounds(config: Config, clock: Clock, *, age_s: float | None, most: int) -> PruneBounds:
    from tinyscheduler.model.pruning import PruneBounds

    limits, now = config.limits, clock.now().wall
    history_s = limits.history_retention_s if age_s is None else age_s
    logs_s = limits.log_retention_s if age_s is None else age_s
    return PruneBounds(
        history_before=now - timedelta(seconds=history_s),
        logs_before=now - timedelta(seconds=logs_s),
        now=now,
        most=most,
    )


def _source(name: str, config: Config, *, database: Database, clock: Clock) -> TaskSource:
    if name == "local":
        return _local_queue(config, database, clock)
    message = f"TINYSCHEDULER_SOURCES names {name!r}, which this version cannot reach"
    raise ConfigError(message, hint="set it to local")


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
        ),
        heartbeat_s=timing.heartbeat_s,
        max_runtime_s=timing.max_runtime_s,
        stagger_s=timing.stagger_s,
        budget_s=timing.tick_budget_s,
        window=window or limits.host_slots + limits.queue_lookahead,
        is_enabled=config.enabled,
        retention=Retention(history_s=limits.history_retention_s, logs_s=limits.log_retention_s),
    )


def kick_argv(config: Config) -> tuple[str, ...]:
    """Return the command of a kicked tick: absolute, and deaf to the environment."""
    package = ("-I", "-m", "tinyscheduler")
    return (sys.executable, *package, "--base-path", config.paths.base, "run", "--kicked")


def start_detached_tick(config: Config) -> None:
    """Start the tick that a busy one has no time left for; it outlives this process."""
    argv = kick_argv(config)
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    os.posix_spawn(argv[0], argv, environment, file_actions=null, setsid=True)


def refuse_inside_attempt(config: Config, environ: Mapping[str, str]) -> None:
    """Raise UsageError inside an attempt of this base path.

    A tick there would start wrappers as descendants of the attempt, and whoever ends the
    attempt would end them too.
    """
    if is_inside_attempt(config, environ):
        message = f"this is inside attempt {environ['TINYSCHEDULER_LEASE_ID']}; nothing was started"
        raise UsageError(
            message, hint="`add` is enough: the end of this attempt makes a tick happen"
        )


def is_inside_attempt(config: Config, environ: Mapping[str, str]) -> bool:
    """Whether this process runs in an attempt of this base path."""
    base = environ.get("TINYSCHEDULER_BASE_PATH", "")
    inside = bool(environ.get("TINYSCHEDULER_LEASE_ID"))
    return inside and os.path.realpath(base) == os.path.realpath(config.paths.base)


def refuse_foreign_state(config: Config) -> None:
    """Raise ConfigError if the state belongs to another user: mixed owners lock both out.

    That holds for looking too: what a reader opens, SQLite may have to create.
    """
    folder = config.paths.state
    try:
        owner = os.stat(folder).st_uid
    except PermissionError:
        folder = config.paths.base
        try:
            owner = os.stat(folder).st_uid
        except OSError:
            return
    except OSError:
        return
    if owner != os.geteuid():
        message = f"{folder} belongs to user {user_name(owner)}, not to you"
        raise ConfigError(
            message, hint=f"run this as {user_name(owner)}, or choose another --base-path"
        )


def refuse_network_filesystem(config: Config) -> None:
    """Raise ConfigError where locks do not mean what they mean on a local filesystem."""
    kind = filesystem_of(config.paths.base)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"{config.paths.base} is on {kind}, a network filesystem",
            hint="put the base path on a local disk: file locks must be reliable",
        )


def filesystem_of(path: str) -> str | None:
    """Return the type of the filesystem a path is on; None if that cannot be told."""
    try:
        status = os.stat(path)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    for line in lines:
        # The third field is the device; the filesystem's type follows a lone dash (proc(5)).
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [device]:
            return after.split()[0]
    return None


def refuse_moved_leases(config: Config) -> None:
    """Raise ConfigError if another folder holds the leases of attempts that may live.

    A tick that looks into an empty folder sees none of them, and would start over.
    """
    folder = saved_running_folder(config.paths.settings)
    if folder is None or folder == config.paths.running:
        return
    before = FileLeaseStore(replace(config.paths, running=folder), locks=LockTable()).scan()
    tasks = [one.task_id for one in before.entries if one.lease is not None or one.is_lock_held]
    if tasks:
        words = f"task {tasks[0]}" + (f" and {len(tasks) - 1} more" if len(tasks) > 1 else "")
        raise ConfigError(
            f"TINYSCHEDULER_RUNNING_DIR is {config.paths.running}, "
            f"but the leases of {words} are in {folder}",
            hint="set it back until these have ended, then change it",
        )


def _prepare_to_tick(config: Config, *, is_kicked: bool) -> list[str]:
    """Refuse what must not tick here, and keep the settings for kicked ticks."""
    refuse_inside_attempt(config, os.environ)
    refuse_foreign_state(config)
    refuse_network_filesystem(config)
    refuse_moved_leases(config)
    os.umask(0o077)
    _make_state_folder(config)
    warnings = list(config.warnings)
    if not is_kicked:
        try:
            save_settings(config)
        except OSError as error:
            # A full disk: ticks go on, kicked ones with the settings before these.
            warnings.append(f"{config.paths.settings}: {error.strerror}")
        try:
            store = FileLeaseStore(config.paths, locks=LockTable())
            store.sweep_temporary(now_s=SystemClock().now().wall.timestamp())
        except StoreError as error:
            warnings.append(error.what)
    return warnings


def _make_state_folder(config: Config) -> None:
    try:
        os.makedirs(config.paths.state, mode=0o700, exist_ok=True)
    except OSError as error:
        message = f"cannot create the state folder {config.paths.state}: {error.strerror}"
        raise ConfigError(
            message, hint="make its parent writable, or set TINYSCHEDULER_BASE_PATH"
        ) from error


def _local_queue(config: Config, database: Database, clock: Clock) -> LocalQueue:
    return LocalQueue(
        database,
        clock,
        priority_enabled=config.priority_enabled,
        blocking_disabled=config.blocking_disabled,
        max_queue_depth=config.limits.max_queue_depth,
        longest_backoff_s=max(config.timing.retry_max_s, config.timing.retry_later_s),
    )


def wrapper_path() -> str:
    """Return the wrapper's source; it is run by path, never imported."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrapper.py")


def user_name(uid: int) -> str:
    """Return the user's name, or the number of one that has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
