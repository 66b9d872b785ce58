"""Is what lies below the base path sound: folders, disk, queue, locks and leases?"""

from __future__ import annotations

import os
import re
import stat
from datetime import datetime
from typing import TYPE_CHECKING

from tinyscheduler.cli.finding import Finding, fail, ok, warn
from tinyscheduler.cli.render import count, format_span
from tinyscheduler.errors import SourceError, StoreError, TinySchedulerError
from tinyscheduler.model.leases import Lease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import Config

_MIB = 1 << 20
_SCARCE_BYTES, _TOO_FEW_BYTES = 512 * _MIB, 16 * _MIB
_SCARCE_INODES, _TOO_FEW_INODES = 10_000, 100
_LARGE_LOG_BYTES = 64 * _MIB
_OLD_BUDGETS = 10
_SECOND_LOOK_S = 1.0
_MISSED_BEATS = 3
_MOST_NAMED = 3
_SINCE = re.compile(r"since (\S+)$")
_LOST_AT_REBOOT = frozenset({"tmpfs", "ramfs"})


def look_at_folders(config: Config) -> Iterator[Finding]:
    """Look at owner, mode and kind of every folder that ticks write to."""
    from tinyscheduler.files import user_name

    paths = config.paths
    own = os.geteuid()
    sound = 0
    folders = [paths.base, paths.state, paths.running, paths.results, paths.cancel]
    folders += [paths.tasks, paths.logs, paths.quarantine, os.path.dirname(paths.tick_lock)]
    for folder in dict.fromkeys(folders):
        try:
            status = os.stat(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            what = f"cannot be looked at: {error.strerror}"
            yield fail("folders", what, where=folder, fix="give it back to you, or go elsewhere")
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield fail("folders", "is no folder", where=folder, fix="move it away")
        elif folder != paths.base and status.st_uid != own:
            owner = user_name(status.st_uid)
            what = f"belongs to {owner}, and ticks of {user_name(own)} would be refused"
            yield fail("folders", what, where=folder, fix=f"run this, and ticks, as {owner}")
        elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            what = f"cannot be written to by {user_name(own)}"
            yield fail("folders", what, where=folder, fix="change its owner or its mode")
        elif folder.startswith(paths.state) and stat.S_IMODE(status.st_mode) & 0o077:
            what = f"is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
            yield warn("folders", what, where=folder, fix=f"chmod 700 {folder}")
        else:
            sound += 1
    if sound:
        yield ok("folders", f"{count(sound, 'folder')} as they should be", paths.base)


def look_at_sources(config: Config) -> Iterator[Finding]:
    """Name what tasks come from, and ask those that are elsewhere."""
    for name in config.sources:
        if name == "local":
            yield ok("sources", "local: the embedded queue", config.paths.database)
            continue
        from tinyscheduler.app.tinytask import dial

        try:
            yield ok("sources", f"{name}: {dial(config)}", name)
        except SourceError as error:
            yield fail("sources", error.what, where=name, fix=error.hint or "look at its own log")


def look_at_disk(config: Config) -> Iterator[Finding]:
    """Look at the filesystem: does it keep locks and files, and has it room?"""
    from tinyscheduler.app.place import NETWORK_FILESYSTEMS, filesystem_of

    place = config.paths.state if os.path.isdir(config.paths.state) else config.paths.base
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    kind = filesystem_of(place)
    if kind in NETWORK_FILESYSTEMS:
        what = f"{kind} is a network filesystem: locks mean less there, and ticks refuse it"
        yield fail("filesystem", what, where=place, fix="put the base path on a local disk")
    elif kind in _LOST_AT_REBOOT:
        what = f"{kind} forgets everything when the machine restarts"
        yield warn("filesystem", what, where=place, fix="put the base path on a disk")
    else:
        yield ok("filesystem", kind or "of unknown type", place)
    room = os.statvfs(place)
    if room.f_flag & os.ST_RDONLY:
        yield fail("disk", "is mounted read-only", where=place, fix="mount it for writing")
    free = room.f_bavail * room.f_frsize
    inodes = room.f_favail if room.f_files else None
    words = f"{free // _MIB} MiB free" + ("" if inodes is None else f", {inodes} inodes free")
    fix = "make room: `tinyscheduler list`, then remove what is not needed"
    if free < _TOO_FEW_BYTES or (inodes is not None and inodes < _TOO_FEW_INODES):
        yield fail("disk", words, where=place, fix=fix)
    elif free < _SCARCE_BYTES or (inodes is not None and inodes < _SCARCE_INODES):
        yield warn("disk", words, where=place, fix=fix)
    else:
        yield ok("disk", words, place)


def look_at_database(config: Config) -> Iterator[Finding]:
    """Ask SQLite whether the queue is whole, and how much it has not written back."""
    from tinyscheduler.adapters.sqlite.database import Access, Database

    path = config.paths.database
    if not os.path.lexists(path):
        yield ok("database", "not made yet; the first task makes it", path)
        return
    try:
        found, version, tasks = Database(path, Access.READ).read(
            lambda connection: (
                connection.execute("PRAGMA quick_check(1)").fetchone()[0],
                connection.execute("PRAGMA user_version").fetchone()[0],
                connection.execute("SELECT count(*) FROM tasks").fetchone()[0],
            )
        )
    except TinySchedulerError as error:
        yield fail("database", error.what, where=path, fix=error.hint or "put a copy in its place")
        return
    if found != "ok":
        fix = "move it away and put a copy in its place; `sqlite3 FILE .recover` rescues the rest"
        yield fail("database", f"is damaged: {found}", where=path, fix=fix)
    else:
        size = os.stat(path).st_size // 1024
        yield ok("database", f"whole, version {version}, {count(tasks, 'task')}, {size} KiB", path)
    try:
        log = os.stat(path + "-wal").st_size
    except OSError:
        return
    if log > _LARGE_LOG_BYTES:
        what = f"{log // _MIB} MiB are not written back: something reads without end"
        fix = f"`fuser {path}` names who has it open"
        yield warn("database", what, where=path + "-wal", fix=fix)


def look_at_tick_lock(config: Config, now: Instant) -> Iterator[Finding]:
    """Look who holds the tick lock: somebody who lives, and not for hours?"""
    import select

    from tinyscheduler.adapters.leases_file import LockTable
    from tinyscheduler.adapters.tick_lock_file import is_gone

    path = config.paths.tick_lock
    locks = LockTable()
    locks.begin()
    try:
        is_held = locks.is_held(path, os.stat(path))
    except OSError:
        is_held = False
    if not is_held:
        yield ok("tick lock", "free", path)
        return
    text = _read_line(path)
    if is_gone(text):
        # One that took over just now has not written its line yet.
        select.select([], [], [], _SECOND_LOOK_S)
        if _read_line(path) == text:
            what = f"held, but {text} is gone: another process keeps it open"
            yield warn("tick lock", what, where=path, fix=f"`fuser {path}` names it; end that")
            return
    since = _SINCE.search(text)
    age_s = (now.wall - datetime.fromisoformat(since[1])).total_seconds() if since else 0.0
    if age_s > _OLD_BUDGETS * config.timing.tick_budget_s:
        what = f"held for {format_span(age_s)} by {text}"
        yield warn("tick lock", what, where=path, fix="look at that process; end it if it hangs")
    else:
        yield ok("tick lock", f"a tick is at work ({text})", path)


def look_at_leases(queue: Queue, now: Instant) -> Iterator[Finding]:
    """Look for leases that gave no sign of life, and for files that were set aside."""
    paths = queue.config.paths
    try:
        scan = queue.leases.scan()
    except StoreError as error:
        yield fail("leases", error.what, where=paths.running, fix=error.hint or "mend the disk")
        return
    fix = "`tinyscheduler run` looks into it; `tinyscheduler ps` shows it"
    stale = []
    for entry in scan.entries:
        if not isinstance(entry.lease, Lease):
            if entry.lease is not None:
                yield warn("leases", entry.lease.message, where=paths.running, fix=fix)
            continue
        age_s = None if entry.beat_ns is None else (now.monotonic_ns - entry.beat_ns) / 1e9
        is_silent = age_s is None or not 0 <= age_s <= _MISSED_BEATS * entry.lease.heartbeat_s
        if is_silent or not entry.is_lock_held or entry.lease.boot_id != now.boot_id:
            stale.append(entry.task_id)
    if stale:
        what = f"{count(len(stale), 'lease')} without a sign of life: task {_named(stale)}"
        yield warn("leases", what, where=paths.running, fix=fix)
    else:
        yield ok("leases", f"{len(scan.entries)} under way, all alive", paths.running)
    aside = _names(paths.quarantine)
    if aside:
        what = f"{count(len(aside), 'broken file')} set aside: {_named(aside)}"
        fix = "look at them, then remove them"
        yield warn("quarantine", what, where=paths.quarantine, fix=fix)
    else:
        yield ok("quarantine", "empty", paths.quarantine)


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(200).strip()
    except OSError:
        return ""


def look_at_policy(config: Config) -> Iterator[Finding]:
    """Say who decides what starts, and whether that works."""
    from tinyscheduler.app.policies import look_out, tell_policy

    found = look_out(config)
    own, record = found.own, found.record
    if own is None:
        yield ok("policy", "the platform policy decides")
        return
    fix = "`tinyscheduler policy check` says more; mend it, and the next tick asks it again"
    if config.policy.path is None:
        fix = "`tinyscheduler policy deploy FILE`, or `tinyscheduler policy rollback`"
    if found.fault is not None:
        what = f"{own.name} cannot be loaded, and {found.who} decides: {found.fault}"
    elif record is None or not record.failed:
        yield ok("policy", f"{own.name} decides", own.path)
        return
    elif found.decides == own.name:
        what = f"{record.words}; {tell_policy('platform')} decided instead"
    else:
        what = f"{record.words}; {found.who} decides instead"
    yield warn("policy", what, where=own.path, fix=fix)
