"""Removing what is over, wired for ticks and for people."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from datetime import timedelta

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.sqlite.database import Access, Database
from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.app.kicks import start_detached_tick
from tinyscheduler.app.place import is_inside_attempt, make_state_folder, refuse_foreign_state
from tinyscheduler.errors import BusyError
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tinyscheduler.adapters.prune_files import FilePruner
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.pruning import Emptied, PruneBounds, Pruned
    from tinyscheduler.ports import Clock

# A person who prunes waits for it: more at once than a tick takes, and no more than minutes.
_MOST_PRUNED = 100_000
_MOST_PRUNED_AT_ONCE = 2000
# How long a person's command waits for a tick to end.
_PATIENCE_S = 10.0
_LOOK_S = 0.1


def pruners_of(
    config: Config, database: Database, *, may_write: bool
) -> tuple[SqlitePruner, FilePruner]:
    """Return what removes rows and files; only previewing, it counts them."""
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


def prune(config: Config, *, age_s: float | None, warn: Callable[[str], None]) -> Pruned:
    """Remove what is older than its retention, or than this age, up to a generous bound.

    No tick runs meanwhile, so nothing starts of which a file is about to go; ``warn``
    hears it if none could be started then.  Raises BusyError if one keeps us out.
    """
    from tinyscheduler.model.pruning import merge_pruned

    clock = SystemClock()
    parts: list[Pruned] = []
    with _opened(config, Access.WRITE) as database, keeping_ticks_out(config, clock, warn=warn):
        pruners = pruners_of(config, database, may_write=True)
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
        pruners = pruners_of(config, database, may_write=False)
        return merge_pruned(tuple(pruner.prune(bounds) for pruner in pruners))


def preview_reset(queue: Queue) -> Emptied:
    """Say what `reset` would remove."""
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner

    return SqlitePruner(queue.database, may_write=False).count()


def reset(queue: Queue, *, warn: Callable[[str], None]) -> Emptied:
    """Remove all tasks and history; BusyError while anything runs or is unsettled.

    Ticks are kept out meanwhile; ``warn`` hears it if none could be started then.
    """
    from tinyscheduler.adapters.sqlite.pruning import SqlitePruner

    with (
        keeping_ticks_out(queue.config, queue.clock, warn=warn),
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
def keeping_ticks_out(
    config: Config, clock: SystemClock, *, warn: Callable[[str], None]
) -> Iterator[None]:
    """Hold the tick lock; BusyError if a tick or a daemon holds it for long.

    Wrappers that end meanwhile, and ticks that are refused, leave the ticking to us: one
    follows wherever a wish lies there.
    """
    lock = FileTickLock(config.paths)
    until_ns = clock.now().monotonic_ns + int(_PATIENCE_S * 1e9)
    ticked_ns = _last_tick_ns(config.paths.tick_lock)
    while (holder := lock.acquire()) is not None:
        if clock.now().monotonic_ns >= until_ns:
            raise BusyError(f"a tick is running ({holder})", hint="try again in a minute")
        clock.sleep(_LOOK_S)
        ticked_ns = _last_tick_ns(config.paths.tick_lock)
    try:
        yield
    finally:
        # By the time of this file people are told when the last tick was; this was none.
        with suppress(OSError):
            os.utime(config.paths.tick_lock, ns=(ticked_ns, ticked_ns))
        lock.release()
        # Inside an attempt nothing may be started; its own end makes a tick happen.
        if lock.is_kicked() and not is_inside_attempt(config, os.environ):
            start_detached_tick(config, warn=warn)


def _last_tick_ns(tick_lock: str) -> int:
    try:
        return os.stat(tick_lock).st_mtime_ns
    except OSError:
        return 0


@contextmanager
def _opened(config: Config, access: Access) -> Iterator[Database]:
    if access is Access.WRITE:
        refuse_foreign_state(config)
        make_state_folder(config)
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
