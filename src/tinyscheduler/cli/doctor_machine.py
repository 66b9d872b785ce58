"""Is this machine fit for it: Python, clocks, /proc, control groups, and who ticks?"""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tinyscheduler.cli.finding import Finding, fail, ok, warn
from tinyscheduler.cli.render import format_span
from tinyscheduler.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.app.serving import RunningDaemon
    from tinyscheduler.cli.service import Installed
    from tinyscheduler.cli.service_texts import Installation
    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import Config

_OLDEST_PYTHON = (3, 11)
_OLDEST_SQLITE = (3, 26, 0)
_FUTURE_S = 60
_JUMP_S = 5
_SILENCE_S = 180
_CRONS = frozenset({"cron", "crond", "fcron", "dcron", "busybox", "bcron-sched"})
_LAST_BYTES = 500


def look_at_programs() -> Iterator[Finding]:
    """Look at Python, SQLite and the compiled wrapper."""
    from tinyscheduler.adapters.launch_local.launcher import compiled
    from tinyscheduler.app.ticks import wrapper_path

    python = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        fix = "install Python 3.11 or newer"
        yield fail("python", f"{python} is too old", where=sys.executable, fix=fix)
    else:
        yield ok("python", python, sys.executable)
    sqlite = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield fail("sqlite", f"{sqlite} is too old", fix="install SQLite 3.26 or newer")
    else:
        yield ok("sqlite", sqlite)
    wrapper = wrapper_path()
    folder = os.path.dirname(wrapper)
    if compiled(wrapper) != wrapper:
        yield ok("wrapper", "compiled", compiled(wrapper))
    elif os.access(folder, os.W_OK) and not sys.dont_write_bytecode:
        yield ok("wrapper", "not compiled yet; the first start of a task does it", wrapper)
    else:
        what = "is compiled anew at each start, which makes every start slower"
        fix = f"{sys.executable} -m compileall {folder}, as whoever owns that folder"
        yield warn("wrapper", what, where=wrapper, fix=fix)


def look_at_clocks(config: Config, now: Instant) -> Iterator[Finding]:
    """Compare the wall clock with the times of files, and with heartbeats of this boot."""
    yield ok("boot", now.boot_id)
    for path in (config.paths.tick_lock, config.paths.database):
        try:
            ahead_s = os.stat(path).st_mtime - now.wall.timestamp()
        except OSError:
            continue
        if ahead_s > _FUTURE_S:
            what = f"the file is {format_span(ahead_s)} in the future: the clock went back"
            fix = "check the machine's clock; waits until a time are off by as much"
            yield warn("clocks", what, where=path, fix=fix)
            return
    moved_s = _moved_s(config, now)
    if abs(moved_s) > _JUMP_S:
        what = f"the wall clock was moved by {moved_s:+.0f} s since the last heartbeat"
        fix = "nothing here depends on it but times that people gave; check the clock"
        yield warn("clocks", what, where=config.paths.running, fix=fix)
        return
    yield ok("clocks", f"{now.wall:%Y-%m-%d %H:%M:%S} UTC, and files agree")


def _moved_s(config: Config, now: Instant) -> float:
    """Return how far both clocks have come apart since the newest heartbeat of this boot.

    A heartbeat is two times of one file: the wall clock's, and the monotonic one's.
    """
    newest_ns, moved_s = 0, 0.0
    offset_ns = now.wall.timestamp() * 1e9 - now.monotonic_ns
    try:
        names = [name for name in os.listdir(config.paths.running) if name.endswith(".lock")]
    except OSError:
        return 0.0
    for name in names[:1000]:
        try:
            status = os.stat(os.path.join(config.paths.running, name))
        except OSError:
            continue
        # A time since this boot: of another boot, it says nothing.
        if newest_ns < status.st_mtime_ns <= now.monotonic_ns:
            newest_ns = status.st_mtime_ns
            moved_s = (offset_ns - (status.st_atime_ns - status.st_mtime_ns)) / 1e9
    return moved_s


def look_at_proc() -> Iterator[Finding]:
    """Look whether /proc shows what ending a whole attempt needs."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = [line for line in file.read().splitlines() if " - proc " in line]
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            file.read(1)
        os.listdir("/proc/self/fd")
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        yield fail("proc", what, where=error.filename or "/proc", fix="mount proc(5) on /proc")
        return
    hiding = [word for line in mounts for word in line.split(",") if word.startswith("hidepid=")]
    if any(word.split()[0] not in ("hidepid=0", "hidepid=off") for word in hiding):
        what = f"hides processes of other users ({hiding[0].split()[0]}); your own are seen"
        fix = "nothing, as long as all ticks and attempts are of one user"
        yield warn("proc", what, where="/proc", fix=fix)
    else:
        yield ok("proc", "shows processes, descriptors and locks", "/proc")


def look_at_gpus(config: Config) -> Iterator[Finding]:
    """Ask for the GPUs, as a tick would that has to place a task on one."""
    from tinyscheduler.app.ticks import foresee_all
    from tinyscheduler.core.gpus import find_gpu_users

    snapshot = foresee_all(config, sees_gpus=True).snapshot
    reading = snapshot.gpus
    assert reading is not None  # noqa: S101 - it was asked for
    if reading.fault is not None and reading.is_absent:
        yield ok("gpus", f"none: {reading.fault}")
        return
    fix = "tasks that need a GPU wait; look at nvidia-smi and the kernel's log"
    if reading.fault is not None:
        where = None if config.gpu_probe == "nvml" else config.gpu_probe
        yield fail("gpus", reading.fault, where=where, fix=fix)
        return
    for gpu in reading.gpus:
        if gpu.fault is not None:
            yield fail("gpus", f"GPU {gpu.index} ({gpu.name}): {gpu.fault}", fix=fix)
    fix = "see that its command keeps the CUDA_VISIBLE_DEVICES that it is given"
    for user in find_gpu_users(snapshot):
        if user.is_misplaced:
            yield warn("gpus", user.words, where=user.gpu.uuid, fix=fix)
    names = ", ".join(f"{gpu.index} {gpu.name}" for gpu in reading.gpus if gpu.fault is None)
    yield ok("gpus", names or "none that works")


def look_at_sandbox() -> Iterator[Finding]:
    """Put up the walls around a policy of one's own, and say which of them cannot be had here."""
    from tinyscheduler.adapters.policy_confined import find_missing_layers
    from tinyscheduler.policy.limits import LAYERS

    try:
        missing = find_missing_layers()
    except PolicyError as error:
        fix = "a policy of your own cannot be asked here; reinstall, or use POLICY_MODE=platform"
        yield fail("sandbox", error.what, fix=fix)
        return
    for layer, why in missing.items():
        fix = "policies are confined by the others; a newer kernel, or a container that allows it"
        yield warn("sandbox", f"no {layer}: {why}", fix=fix)
    there = ", ".join(layer for layer in LAYERS if layer not in missing)
    yield ok("sandbox", f"policies of your own are confined by {there}")


def look_at_groups() -> Iterator[Finding]:
    """Look whether attempts may have control groups of their own here."""
    from tinyscheduler.adapters.launch_local.cgroups import find_divisible

    folder = find_divisible()
    if folder is None:
        what = "none of ours here; attempts are found by descent, session, cookie and lock"
        yield ok("control groups", what)
    else:
        yield ok("control groups", "each attempt gets its own", folder)


def look_at_clockwork(
    config: Config, installation: Installation, now: Instant
) -> Iterator[Finding]:
    """Look what makes ticks happen, and whether they do."""
    from tinyscheduler.app.kicks import last_tick_at
    from tinyscheduler.app.serving import find_daemon
    from tinyscheduler.cli.service import find_installed
    from tinyscheduler.cli.service_targets import first_way_to_tick, lingers
    from tinyscheduler.cli.service_texts import Kind, Scope

    services = [
        one
        for one in find_installed(config, installation, now.wall)
        if one.kind is not Kind.LOGROTATE
    ]
    daemon = find_daemon(config)
    if daemon is not None:
        yield ok("daemon", f"pid {daemon.pid} serves this base path since {daemon.since}")
    yield from _look_at_services(services, installation)
    if any(one.scope is Scope.USER for one in services) and lingers(installation.user) is False:
        what = f"services of {installation.user} stop when the last session ends"
        fix = f"loginctl enable-linger {installation.user}"
        yield warn("linger", what, fix=fix)
    last = last_tick_at(config)
    age_s = None if last is None else (now.wall - last).total_seconds()
    told = "none yet" if age_s is None else f"{format_span(age_s)} ago"
    longest_s = max(_SILENCE_S, 2 * config.timing.loop_interval_s + config.timing.tick_budget_s)
    if not services and daemon is None:
        what = f"nothing makes ticks happen by themselves; last tick: {told}"
        yield warn("ticks", what, fix=first_way_to_tick())
    elif age_s is None or age_s > longest_s:
        what = f"last tick: {told}, although something should make them happen"
        fix = _where_to_look(services, daemon, installation.cron_log)
        if age_s is None:
            fix = f"wait a minute if it was installed just now; then {fix}"
        yield fail("ticks", what, where=config.paths.tick_lock, fix=fix)
    else:
        yield ok("ticks", f"last tick: {told}", config.paths.tick_lock)


def _where_to_look(services: list[Installed], daemon: RunningDaemon | None, cron_log: str) -> str:
    """Name what may say why no tick comes: only of what is there."""
    from tinyscheduler.cli.service_texts import Kind

    places = [] if daemon is None else [f"at the daemon, pid {daemon.pid}"]
    for one in services:
        if one.kind is not Kind.CRON:
            places.append(f"at `{_systemctl(one, 'status')}`")
        elif os.path.exists(cron_log):
            places.append(f"into {cron_log}")
        else:
            places.append("for CRON in the log of the system: its line never began")
    return "look " + ", and ".join(places)


def _systemctl(service: Installed, verb: str) -> str:
    from tinyscheduler.cli.service_targets import Systemd
    from tinyscheduler.cli.service_texts import Scope, names_of

    systemd = Systemd(scope=service.scope or Scope.SYSTEM)
    return " ".join(systemd.argv(verb, names_of(service.kind)[0]))


def _look_at_services(services: list[Installed], installation: Installation) -> Iterator[Finding]:
    from tinyscheduler.cli.service_texts import Kind

    for one in services:
        name = f"{one.kind} of {one.scope}" if one.scope else str(one.kind)
        if not one.is_current:
            what = "is installed, but not as this version and this base path would have it"
            fix = f"tinyscheduler service install {one.kind}"
            yield warn(name, what, fix=fix)
        elif one.state not in (None, "active"):
            fix = (
                f"`{_systemctl(one, 'status')}` says why; `{_systemctl(one, 'restart')}` starts it"
            )
            yield fail(name, f"is installed, and {one.state}", fix=fix)
        else:
            yield ok(name, "installed" + (f", {one.state}" if one.state else ""))
        if one.kind is Kind.CRON:
            yield from _look_at_cron(installation)


def _look_at_cron(installation: Installation) -> Iterator[Finding]:
    from tinyscheduler.cli.service_targets import BY_HAND, systemd_runs

    # Where other users' processes are hidden, cron is too.
    running = _running_programs()
    if os.path.exists("/proc/1/comm") and not running & _CRONS:
        what = "no cron is seen at work here; without one its line does nothing"
        start = "systemctl enable --now cron" if systemd_runs() else "service cron start"
        yield warn("cron", what, fix=f"start it: `{start}`, or {BY_HAND}")
    complaint = _last_complaint(installation.cron_log)
    if complaint:
        fix = "mend that, then empty the file"
        yield warn("cron", f"ticks complained: {complaint}", where=installation.cron_log, fix=fix)


def _running_programs() -> set[str]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                    found.add(file.read().strip())
            except OSError:
                continue
    return found


def _last_complaint(path: str) -> str:
    """Return the last error in a log, if the log was written to within a day."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - _LAST_BYTES))
            lines = file.read(_LAST_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    at = datetime.fromtimestamp(status.st_mtime, tz=UTC)
    return f"{errors[-1].removeprefix('error: ')} (at {at:%H:%M})" if errors else ""
