"""What is on disk, in the source and alive at one instant: one immutable, hashable value.

NamedTuples, not dataclasses: the explorer hashes and compares millions of these, and a
tuple does both in C.
"""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

NOBODY = ""
NO_LEASE = 0  # leases of one task are numbered from 1, in the order of their creation
NO_INODE = 0

_by_name = attrgetter("name")


class Row(NamedTuple):
    """A task as its source knows it."""

    state: str  # absent, later (not before), waiting, working, done, parked, cancelled
    attempt: int = 1  # the number of the attempt that runs or comes next
    lease: int = NO_LEASE  # whose claim it is while working
    cancel: bool = False  # somebody asked for the end of the attempt that works on it


class Lease(NamedTuple):
    """The content of `running/task_<id>.json`."""

    lease: int
    attempt: int
    state: str  # starting, running


class Held(NamedTuple):
    """A flock: an open file description on an inode, and who has a descriptor of it."""

    inode: int
    holders: frozenset[str]


class Sighting(NamedTuple):
    """A stale heartbeat that a tick has seen once; gone as soon as the heartbeat moves."""

    lease: int
    is_old: bool = False  # at least one heartbeat interval ago


class Task(NamedTuple):
    """One task: its row, its files, its locks.

    The last four fields are for whoever watches the protocol; no actor reads them.
    """

    name: str
    row: Row
    lock: int = NO_INODE  # the inode that `running/task_<id>.lock` names now
    held: tuple[Held, ...] = ()
    lease: Lease | None = None
    results: tuple[tuple[int, str], ...] = ()  # lease, outcome
    cancels: frozenset[int] = frozenset()
    ledger: tuple[tuple[int, str], ...] = ()  # lease, how it ended; unique by lease
    sighting: Sighting | None = None

    leases: int = 0  # how many there ever were
    ran: frozenset[int] = frozenset()  # leases whose command was started
    is_promised: bool = False  # somebody who waits owes it no further tick
    cancelled_after: int = -1  # how many leases there were when its cancellation was acknowledged


class Job(NamedTuple):
    """One thing that a tick has decided to do to a task."""

    # settle, reclaim, repair, sweep, end, suspect, start; unclaim and unlaunch undo a start
    verb: str
    task: int
    lease: int = NO_LEASE
    attempt: int = 0
    because: str = ""


class Tick(NamedTuple):
    """A process that ticks: by cron, as a daemon, or a wrapper that became one."""

    name: str
    at: str = "lock"
    seen: tuple[tuple[object, ...], ...] = ()  # what each look showed, in the order of the looks
    agenda: tuple[Job, ...] = ()  # the job at hand first
    inode: int = NO_INODE  # of the task lock it has open
    is_changed: bool = False  # it gave something back or ended something since it looked
    is_daemon: bool = False


class Wrapper(NamedTuple):
    """A wrapper, until it has nothing more to do with the task."""

    name: str
    at: str
    task: int
    lease: int
    attempt: int
    outcome: str = ""
    inode: int = NO_INODE
    is_stopped: bool = False  # by SIGSTOP
    was_stopped: bool = False
    is_stale: bool = False  # its last heartbeat is older than three intervals
    is_told: bool = False  # by SIGTERM


class Command(NamedTuple):
    """The command of an attempt or what it left behind: one process stands for its tree."""

    name: str
    at: str  # working, left
    task: int
    lease: int


class Person(NamedTuple):
    """Somebody at a shell, or the clock: `add`, `cancel`, a time that comes."""

    name: str
    at: str
    task: int
    lease: int = NO_LEASE


Process = Tick | Wrapper | Command | Person


class Budget(NamedTuple):
    """How often the adversary may still do what."""

    crons: int = 0  # ticks that come of themselves
    kills: int = 0  # SIGKILL of a tick or wrapper
    failures: int = 0  # commands that fail
    stops: int = 0  # SIGSTOP of a wrapper; it may be resumed or not
    freezes: int = 0  # of the whole machine: everything looks stale afterwards
    leftovers: int = 0  # processes of a command that its wrapper does not see
    launch_failures: int = 0
    lost_leases: int = 0  # lease files that a person or a power cut removes
    lost_pidfiles: int = 0  # a person removes the pidfile of a tick that lives
    daemon_stops: int = 0


class World(NamedTuple):
    """Everything."""

    tasks: tuple[Task, ...]
    processes: tuple[Process, ...]
    budget: Budget
    kick: bool = False
    ticking: str = NOBODY  # who holds the pidfile's flock
    daemon: str = NOBODY  # who holds daemon.lock
    wrong: str = ""  # the first thing that must never happen


def with_task(world: World, index: int, task: Task) -> World:
    tasks = world.tasks
    return world._replace(tasks=(*tasks[:index], task, *tasks[index + 1 :]))


def find(world: World, name: str) -> Process | None:
    for process in world.processes:
        if process.name == name:
            return process
    return None


def with_process(world: World, process: Process) -> World:
    """Add the process, or replace the one of its name.  Sorted, so that order tells nothing."""
    others = [other for other in world.processes if other.name != process.name]
    others.append(process)
    others.sort(key=_by_name)
    return world._replace(processes=tuple(others))


def without_process(world: World, name: str) -> World:
    """End a process: the kernel closes what it had open."""
    processes = tuple(process for process in world.processes if process.name != name)
    world = world._replace(
        processes=processes,
        ticking=NOBODY if world.ticking == name else world.ticking,
        daemon=NOBODY if world.daemon == name else world.daemon,
    )
    for index, task in enumerate(world.tasks):
        if any(name in held.holders for held in task.held):
            world = with_task(world, index, let_go(task, name))
    return world


def is_held(task: Task, inode: int) -> bool:
    return any(held.inode == inode for held in task.held)


def is_lock_held(task: Task) -> bool:
    """Whether the file that the lock's path names is locked."""
    return task.lock != NO_INODE and is_held(task, task.lock)


def hold(task: Task, inode: int, name: str) -> Task:
    """Lock an inode that nothing holds, through a new open file description."""
    return task._replace(held=(*task.held, Held(inode, frozenset({name}))))


def share(task: Task, inode: int, giver: str, taker: str) -> Task:
    """Hand a copy of the giver's descriptor to a new process."""
    return task._replace(
        held=tuple(
            Held(held.inode, held.holders | {taker})
            if held.inode == inode and giver in held.holders
            else held
            for held in task.held
        )
    )


def let_go(task: Task, name: str) -> Task:
    """Close a process's descriptors of this lock; the last one to go frees it."""
    left = (Held(held.inode, held.holders - {name}) for held in task.held)
    return task._replace(held=tuple(held for held in left if held.holders))


def fresh_inode(world: World, index: int) -> int:
    """Return the number of a new inode: like the kernel, it may use a freed one again."""
    task = world.tasks[index]
    used = {task.lock, NO_INODE, *(held.inode for held in task.held)}
    used.update(process.inode for process in world.processes if isinstance(process, Tick | Wrapper))
    return next(number for number in range(1, 99) if number not in used)


def fresh_tick(world: World) -> Tick:
    """Return a new tick.  Names of ended ones are used again: who ticked before does not matter."""
    names = {process.name for process in world.processes}
    return Tick(next(name for number in range(1, 99) if (name := f"tick {number}") not in names))


def wrapper_of(world: World, index: int, lease: int) -> Wrapper | None:
    """Return the wrapper of a lease if one lives that has not let go of the task."""
    for process in world.processes:
        if isinstance(process, Wrapper) and (process.task, process.lease) == (index, lease):
            return process
    return None


def command_of(world: World, index: int, lease: int) -> Command | None:
    for process in world.processes:
        if isinstance(process, Command) and (process.task, process.lease) == (index, lease):
            return process
    return None


def promise(world: World) -> World:
    """Note that whoever waits now may rely on the tick or wake-up that just began."""
    if all(task.is_promised or task.row.state != "waiting" for task in world.tasks):
        return world
    return world._replace(
        tasks=tuple(
            task._replace(is_promised=True) if task.row.state == "waiting" else task
            for task in world.tasks
        )
    )
