"""Which processes belong to an attempt, and how are they ended without hitting a stranger?

An attempt's processes are found by five kinds of evidence, because each alone can be
missing or shaken off: the command's control group, descent, the cookie in the
environment, the session of the wrapper, and the task lock where they hold it.

A look that fails, as where the machine has no descriptor left to look with, is no
evidence at all: everything here raises OSError then, and nothing is concluded.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress

from tinyscheduler import procfs
from tinyscheduler.adapters.launch_local.cgroups import kill_members, read_members
from tinyscheduler.model.leases import WrapperLife
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tinyscheduler.model.leases import Trace

# Where a wrapper keeps its task lock, from before it runs until it lets go of it.
TASK_LOCK_FD = 3
COOKIE = "TINYSCHEDULER_LEASE_ID"
# In a wrapper's own environment alone, so that it is known even without lease and lock.
WRAPPER_MARK = "TINYSCHEDULER_WRAPPER_OF"
# A process that ended while we looked, or that may not be looked into (ptrace(2)).
_GONE_OR_HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags of /proc/PID/stat
_ENVIRONMENT_READS = 4
_PAUSE_S = 0.01
_MOST_ENDING_S = 5.0
_QUIET_LOOKS = 2
# A wrapper that was to beat and did not, and how late it may have been at that.
_BEAT_SLACK_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One row of the process table, as of one read."""

    pid: int
    parent: int
    session: int
    start_ticks: int
    is_kernel_thread: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """The attempt that a process's environment names, if any, and in which part."""

    lease_id: str | None = None
    is_wrapper: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The living processes of one attempt.

    ``has_wrapper`` says that one of them is marked as the wrapper, or holds the task lock
    without being marked at all: a command that cleared its environment, or a wrapper of
    a version that marked none.
    """

    processes: tuple[Process, ...]
    has_wrapper: bool


def read_process(pid: int) -> Process | None:
    """Read one process; None if it is gone or a zombie, which is as good as gone."""
    fields = procfs.read_stat(pid)
    if fields is None or procfs.is_over(fields):
        return None
    return Process(
        pid=pid,
        parent=int(fields[procfs.PARENT]),
        session=int(fields[procfs.SESSION]),
        start_ticks=int(fields[procfs.START_TICKS]),
        is_kernel_thread=bool(int(fields[procfs.FLAGS]) & _KERNEL_THREAD),
    )


def judge_wrapper(trace: Trace, *, boot_id: str, pid_ns: int) -> WrapperLife:
    """Say whether the recorded wrapper lives, by number, start time and lock together."""
    identity = trace.process
    if identity is None:
        return WrapperLife.UNRECORDED
    if identity.boot_id != boot_id:
        return WrapperLife.DEAD
    if identity.pid_ns != pid_ns:
        return WrapperLife.UNSEEN
    try:
        process = read_process(identity.pid)
    except PermissionError:
        return WrapperLife.UNSEEN  # the mount option hidepid, proc(5)
    if process is None or process.start_ticks != identity.start_ticks:
        return WrapperLife.DEAD
    return WrapperLife.DEAD if _has_let_go(trace, identity.pid) else WrapperLife.ALIVE


def _has_let_go(trace: Trace, pid: int) -> bool:
    """Whether a wrapper has seen its attempt through and become a tick, this one or another.

    It keeps its number, its start time and its session then, but not the task lock.  The
    name counts and not the inode: somebody may have removed the file under its holder.
    """
    try:
        name = os.readlink(f"/proc/{pid}/fd/{TASK_LOCK_FD}")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return f"/task_{trace.task_id}.lock" not in name


def find_trees(traces: Sequence[Trace], locks: Mapping[str, tuple[int, int]]) -> dict[str, Tree]:
    """Return the living processes of each attempt, wrappers included, in one pass over /proc.

    ``locks`` maps task ids to the (device, inode) of their lock files.  This process and
    its ancestors are never part of a tree: a tick must not end itself.
    """
    table = _read_table()
    protected = _ancestors(table)
    badges = {
        pid: _read_badge(process)
        for pid, process in table.items()
        if pid not in protected and not process.is_kernel_thread
    }
    inodes = {inode: task_id for task_id, inode in locks.items()}
    holders: dict[str, set[int]] = {}
    for pid in badges:
        for inode in _held_inodes(pid, inodes):
            holders.setdefault(inodes[inode], set()).add(pid)
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    trees: dict[str, Tree] = {}
    for trace in traces:
        ours = {None, trace.lease_id}
        roots = {pid for pid, badge in badges.items() if badge.lease_id == trace.lease_id}
        holding = {pid for pid in holders.get(trace.task_id, ()) if badges[pid].lease_id in ours}
        roots |= holding | _by_session(trace, table, badges)
        if trace.cgroup is not None:
            # Nothing leaves a control group by forking, so this needs no other proof.
            roots |= read_members(trace.cgroup) & badges.keys()
        members = _with_descendants(roots, children, badges, trace.lease_id)
        trees[trace.lease_id] = Tree(
            processes=tuple(table[pid] for pid in sorted(members)),
            has_wrapper=any(
                badges[pid].is_wrapper or badges[pid].lease_id is None
                for pid in holding | {pid for pid in members if badges[pid].is_wrapper}
            ),
        )
    return trees


def find_owners(pids: Iterable[int]) -> dict[int, str | None]:
    """Return the lease id that each living process, or the nearest one above it, is marked with.

    None for a process without any; one that is gone, or of another pid namespace, is left out.
    """
    owners: dict[int, str | None] = {}
    for pid in pids:
        process = read_process(pid)
        if process is None:
            continue
        owner = _read_badge(process).lease_id
        while owner is None and process is not None and process.parent > 1:
            process = read_process(process.parent)
            owner = None if process is None else _read_badge(process).lease_id
        owners[pid] = owner
    return owners


def signal_process(process: Process, number: int) -> None:
    """Signal exactly this process: pinned by a pidfd, and its start time compared after."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        again = read_process(process.pid)
        if again is not None and again.start_ticks == process.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return
    finally:
        os.close(pidfd)


def kill_trees(traces: Sequence[Trace], locks: Mapping[str, tuple[int, int]]) -> frozenset[str]:
    """SIGKILL all processes of these attempts; return the lease ids found empty twice.

    Twice, because a process that forks while we read can be missed once.  A process in
    uninterruptible sleep outlives this; its attempt is not returned.
    """
    deadline_s = time.monotonic() + _MOST_ENDING_S
    quiet = dict.fromkeys((trace.lease_id for trace in traces), 0)
    while time.monotonic() < deadline_s:
        for lease_id, tree in find_trees(traces, locks).items():
            quiet[lease_id] = 0 if tree.processes else quiet[lease_id] + 1
            for process in tree.processes:
                signal_process(process, signal.SIGKILL)
        for trace in traces:
            if trace.cgroup is not None:
                kill_members(trace.cgroup)
        if all(count >= _QUIET_LOOKS for count in quiet.values()):
            break
        time.sleep(_PAUSE_S)
    return frozenset(lease_id for lease_id, count in quiet.items() if count >= _QUIET_LOOKS)


def find_survivors(
    traces: Sequence[Trace], locks: Mapping[str, tuple[int, int]]
) -> dict[str, Tree]:
    """Return the living processes of each attempt; none only if two looks found none."""
    trees = find_trees(traces, locks)
    if all(tree.processes for tree in trees.values()):
        return trees
    time.sleep(_PAUSE_S)
    again = find_trees(traces, locks)
    return {
        lease_id: tree if tree.processes else again[lease_id] for lease_id, tree in trees.items()
    }


def _read_table() -> dict[int, Process]:
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # Somebody else's, where they are hidden: ours never are.
            with suppress(PermissionError):
                process = read_process(int(name))
                if process is not None:
                    table[process.pid] = process
    return table


def _ancestors(table: Mapping[int, Process]) -> frozenset[int]:
    found = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        process = table.get(pid)
        pid = process.parent if process is not None else 0
    return frozenset(found | {1})


def _read_badge(process: Process) -> Badge:
    """Return the attempt that a process's environment names.

    During execve(2) the environment reads empty for a moment: empty means unknown, so it
    is read again.
    """
    for _ in range(_ENVIRONMENT_READS):
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                environment = file.read()
        except _GONE_OR_HIDDEN:
            return Badge()
        if environment:
            named = Badge()
            for item in environment.split(b"\0"):
                name, _, value = item.decode("utf-8", "replace").partition("=")
                if name == WRAPPER_MARK:
                    return Badge(lease_id=value, is_wrapper=True)
                if name == COOKIE:
                    named = Badge(lease_id=value)
            return named
        time.sleep(0)
    return Badge()


def _held_inodes(pid: int, wanted: Mapping[tuple[int, int], str]) -> Iterable[tuple[int, int]]:
    """Return which of the wanted files a process holds the lock of.

    To have such a file open is no crime: somebody may look at it, or back it up.  The
    kernel tells of a lock under those descriptors alone that share its description.
    """
    if not wanted:
        return
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except _GONE_OR_HIDDEN:
        return
    for name in names:
        try:
            status = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise
            continue  # closed meanwhile, or on a filesystem that does not answer: not ours
        inode = (status.st_dev, status.st_ino)
        if inode not in wanted:
            continue
        try:
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:
                is_holder = b"\nlock:" in file.read()
        except _GONE_OR_HIDDEN:
            continue
        if is_holder:
            yield inode


def _by_session(
    trace: Trace, table: Mapping[int, Process], badges: Mapping[int, Badge]
) -> set[int]:
    """Return the members of the wrapper's session, if it is still that session.

    The kernel does not give a number away while a session bears it (pid_namespaces(7),
    kernel/pid.c).  So a leader with another start time means that the session is over;
    and where there is no leader, one member from the wrapper's lifetime proves that it
    never was.  Without that proof they may be anybody's: a daemon's, whose parent got the
    number, made a session and ended.

    Its leader is not one of them once it has become a tick.
    """
    identity = trace.process
    if identity is None:
        return set()
    leader = table.get(identity.pid)
    if leader is not None and leader.start_ticks != identity.start_ticks:
        return set()
    members = [
        process
        for process in table.values()
        if process.session == identity.pid
        and process.start_ticks >= identity.start_ticks
        and process.pid in badges
        and badges[process.pid].lease_id in (None, trace.lease_id)
    ]
    if leader is None:
        died_ticks = _latest_death_ticks(trace)
        if all(process.start_ticks > died_ticks for process in members):
            return set()
    elif _has_let_go(trace, identity.pid):
        members = [process for process in members if process is not leader]
    return {process.pid for process in members}


def _latest_death_ticks(trace: Trace) -> float:
    """Return until when a dead wrapper can have lived: it would have beaten again by then.

    Processes count time as ticks since the machine started, suspended or not.
    """
    if trace.beat_ns is None:
        return 0
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    last_ns = trace.beat_ns + int(trace.heartbeat_s * 1e9) + _BEAT_SLACK_NS
    return (last_ns + suspended_ns) / 1e9 * os.sysconf("SC_CLK_TCK")


def _with_descendants(
    roots: set[int],
    children: Mapping[int, Sequence[int]],
    badges: Mapping[int, Badge],
    lease_id: str,
) -> set[int]:
    """Add all descendants, except those that belong to another attempt."""
    members: set[int] = set()
    queue = list(roots)
    while queue:
        pid = queue.pop()
        if pid in members or pid not in badges or badges[pid].lease_id not in (None, lease_id):
            continue
        members.add(pid)
        queue.extend(children.get(pid, ()))
    return members
