"""The daemon, wired; and how others see that one serves a base path."""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.leases_file import LockTable
from tinyscheduler.adapters.sqlite.database import Database
from tinyscheduler.app.kicks import start_detached_tick
from tinyscheduler.app.place import refuse_inside_attempt
from tinyscheduler.app.ticks import keeping_settings, prepare_to_tick, settings_of, wired
from tinyscheduler.errors import ConfigError, StoreError, TinySchedulerError
from tinyscheduler.files import is_same
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import Wait
from tinyscheduler.tick import Mode, tick
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.daemon import (
        DaemonLock,
        Installation,
        ServiceManager,
        Waker,
        WakingClock,
    )
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.plan import TickReport

_MOST_HOLDER_CHARACTERS = 200
_PREPARED_NS = 1_000_000_000


def run_daemon(
    load: Callable[[], Config],
    *,
    greet: Callable[[Config], None] = lambda _: None,
    greet_again: Callable[[Config], None] = lambda _: None,
    notice: Callable[[TickReport], None] = lambda _: None,
    complain: Callable[[str], None] = lambda _: None,
) -> None:
    """Repeat the tick until SIGTERM or SIGINT; the configuration is looked at before each.

    ``load`` returns the configuration that applies now; of one that has become invalid
    ``complain`` and the service manager are told, and the last valid one stays in force.
    SIGHUP is answered by ``greet_again``, or by ``complain``.  Raises BusyError, before it
    greets or keeps any settings, if another daemon serves this base path.  Does not return
    if the program was updated meanwhile: the process becomes the new version.
    """
    # Not cheap, and ticks of cron do without.
    from tinyscheduler.daemon import (
        DaemonLock,
        Installation,
        ReplacedError,
        ServiceManager,
        Waker,
        WakingClock,
        repeat,
    )

    installation = Installation(clock=SystemClock())
    config = load()
    refuse_inside_attempt(config, os.environ)
    prepare_to_tick(config, is_kicked=False)
    clock = SystemClock()
    lock = DaemonLock(config.paths.daemon_lock, clock=clock)
    greet(config)
    manager = ServiceManager(os.environ, own_pid=os.getpid(), clock=clock)
    waker = Waker(config.paths, clock=clock, manager=manager, lock=lock)
    daemon = _Daemon(
        config=config,
        load=load,
        greet_again=greet_again,
        complain=complain,
        lock=lock,
        manager=manager,
        waker=waker,
        clock=WakingClock(clock, waker, manager),
        database=Database(config.paths.database),
        installation=installation,
        notice=notice,
    )
    manager.begin()
    is_replaced = False
    try:
        repeat(daemon.step, waker, interval_s=daemon.interval_s)
    except ReplacedError:
        is_replaced = True
    finally:
        manager.end()
        lock.close()
        if not daemon.database.is_torn():
            with suppress(TinySchedulerError):
                daemon.database.close()
    if is_replaced:
        waker.stop_listening()
        if not waker.is_stopped():
            installation.become({**os.environ, **manager.taken})
    # A wrapper that ended just now saw the daemon's lock and left the ticking to us.
    if os.path.lexists(config.paths.kick):
        start_detached_tick(daemon.config, warn=lambda words: complain(f"warning: {words}"))


@dataclass(slots=True, kw_only=True)
class _Daemon:
    """What a daemon keeps from tick to tick: little, so that nothing can pile up."""

    config: Config
    load: Callable[[], Config]
    greet_again: Callable[[Config], None]
    complain: Callable[[str], None]
    lock: DaemonLock
    manager: ServiceManager
    waker: Waker
    clock: WakingClock
    database: Database
    installation: Installation
    notice: Callable[[TickReport], None]
    complaint: str = ""
    # When a task that the last tick looked at may start.
    due_s: float = inf
    # For which settings the place was last looked at, and until when that holds.
    prepared: Config | None = None
    prepared_until_ns: int = 0
    warnings: tuple[str, ...] = ()

    def step(self) -> bool:
        """Look whether the program was updated, read the configuration, tick, and tell.

        Returns whether the tick was done: else the wish for it may still lie there, and
        would wake us at once.
        """
        self._leave_torn_log()
        if self.make_way():
            return False
        try:
            report = self._act()
        except Exception:
            # Half of what it called may have been the new version's: not a bug of either.
            if self.installation.look():
                return False
            raise
        return report is not None and not report.locked

    def _leave_torn_log(self) -> None:
        """Go on as a process that has not opened what somebody removed; the rest is still there.

        Raises ReplacedError: the process becomes what it is, anew.
        """
        from tinyscheduler.daemon import ReplacedError

        if self.database.is_torn():
            path = self.database.path
            self._complain(
                f"warning: {path}-wal or {path}-shm was removed under this daemon, and with it"
                " what was not yet in the database; going on with what is there now"
            )
            self.manager.begin_reload()
            raise ReplacedError

    def _act(self) -> TickReport | None:
        self.configure()
        report = self.tick()
        if report is not None:
            # A full disk behind stdout must not end what fills it.
            with suppress(TinySchedulerError):
                self.notice(report)
        return report

    def interval_s(self) -> float:
        """Return when to tick again if nothing happens until then."""
        if self.installation.glance():
            return 1.0
        return min(self.config.timing.loop_interval_s, self.due_s)

    def make_way(self) -> bool:
        """Do nothing with mixed code: return whether the program was updated under us.

        Raises ReplacedError once the new version is all there and starts.
        """
        from tinyscheduler.daemon import LONGEST_TRIAL_S, ReplacedError, Successor

        if not self.installation.glance():
            return False
        # The new version reads everything anew anyway.
        self.waker.take_reload()
        self.clock.begin_tick(longest_s=LONGEST_TRIAL_S)
        successor = self.installation.successor()
        if self.waker.is_stopped():
            # While the new version was tried; it must not take that as never asked.
            return True
        match successor:
            case Successor.UNSETTLED:
                pass
            case Successor.BROKEN:
                fault = self.installation.fault
                self._complain(
                    "warning: TinyScheduler was changed on disk, and what is there now does not"
                    f" start: {fault}; nothing is started or settled until it does"
                )
            case Successor.READY:
                self._complain("TinyScheduler was changed on disk; going on as what is there now")
                self.manager.begin_reload()
                raise ReplacedError
        return True

    def configure(self) -> None:
        """Read the configuration again; one that cannot be used changes nothing."""
        is_reload = self.waker.take_reload()
        if is_reload:
            self.manager.begin_reload()
            # Whoever asks is told again what ails the settings.
            self.complaint = ""
        try:
            config = self.load()
        except ConfigError as error:
            self._complain(f"warning: {error.what}; going on with the settings before")
        else:
            if is_same(config.paths.daemon_lock, self.lock.path):
                self.config = config
                # It may be called otherwise now; what ticks and what is locked stay one place.
                self.lock.path = config.paths.daemon_lock
                self.complaint = self.complaint if self.complaint.startswith("error") else ""
                if is_reload:
                    self.greet_again(config)
            else:
                base = config.paths.base
                self._complain(f"warning: the base path has become {base}; restart the daemon")
        if is_reload:
            self.manager.end_reload()

    def tick(self) -> TickReport | None:
        """Do one tick; None if it could not be done at all."""
        config = self.config
        timing = config.timing
        self.due_s = inf
        # Ten times what a tick may take: only a hanging one is ever so late.
        self.clock.begin_tick(longest_s=10 * (timing.tick_budget_s + timing.kill_grace_s))
        try:
            is_anew = self._prepare()
            self.lock.renew()
        except (ConfigError, StoreError) as error:
            self._complain(f"error: {error.what}")
            return None
        try:
            with wired(
                config,
                clock=self.clock,
                mode=Mode.ACT,
                warnings=list(self.warnings),
                kept=self.database,
            ) as world:
                # Another one that is wished for meanwhile is the next step's: it wakes us.
                report = tick(
                    keeping_settings(world, config) if is_anew else world,
                    settings_of(config),
                    should_stop=self.waker.is_interrupted,
                )
        except (TinySchedulerError, OSError) as error:
            # What ails this tick may be gone by the next; a daemon that ends helps nobody.
            self._complain(f"error: {error}")
            return None
        waits = [one.retry_after_s for one in report.decisions if isinstance(one, Wait)]
        self.due_s = min((one for one in waits if one is not None), default=inf)
        if not self.complaint.startswith("warning"):
            self.complaint = ""
            self.manager.tell(_words_for_status(report))
        return report

    def _prepare(self) -> bool:
        """Look at the place before a tick; where ticks follow each other fast, not at each.

        Returns whether that was done, and what kicked ticks go by is to be kept anew.
        """
        now_ns = self.clock.now().monotonic_ns
        if self.prepared == self.config and now_ns < self.prepared_until_ns:
            return False
        self.prepared = None
        self.warnings = tuple(prepare_to_tick(self.config, is_kicked=False))
        self.prepared = self.config
        self.prepared_until_ns = now_ns + _PREPARED_NS
        return True

    def _complain(self, words: str) -> None:
        """Say it once, however many ticks it lasts: a log must not fill up with it."""
        if words != self.complaint:
            self.complaint = words
            self.complain(words)
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
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_HOLDER_CHARACTERS)
    except OSError:
        return None
    locks = LockTable()
    locks.begin()
    if not locks.is_held(path, status):
        return None
    pid, _, since = text.strip().removeprefix("pid ").partition(", since ")
    return RunningDaemon(pid=int(pid) if pid.isdecimal() else None, since=since or None)
