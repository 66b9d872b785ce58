"""One simulated computer: how does time pass, which processes live, who holds which lock?

Everything happens on one agenda, in a fixed order, so that a run is a function of its
seed.  A program comes in two kinds: a *life* is a generator that is resumed when its
pause is over, as wrappers are; a tick is plain code that calls its ports, and at each
`Process.reach` the rest of the world may go on, or the process die.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from tinyscheduler.model.clock import Instant
from tinyscheduler.model.resources import GpuReading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGINNING = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# A process that was stopped gets this long before anything can be expected of it.
THAWING_NS = 2_000_000_000
NO_GPU = GpuReading(fault="a machine without a GPU", is_absent=True)
_UPTIME_NS = 1_000_000_000_000


class Killed(BaseException):
    """This simulated process died here.  Not an Exception: no code may survive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What a life does between two of its steps; ``step`` names what it comes to next."""

    seconds: float
    step: str
    is_interruptible: bool = False


@dataclass(eq=False, slots=True)
class LockFile:
    """An inode that flock(2) works on.  ``beat_ns`` is its mtime: the heartbeat."""

    text: str = ""
    beat_ns: int = 0
    granted: Description | None = field(default=None, repr=False)

    @property
    def is_held(self) -> bool:
        """Whether any living process shares the description that has the lock."""
        return self.granted is not None

    def holders(self) -> tuple[Process, ...]:
        """Return the processes that keep it held."""
        return tuple(self.granted.sharers) if self.granted is not None else ()

    def try_lock(self, process: Process) -> Description | None:
        """Open the file anew and lock it; None if another description has the lock."""
        if self.granted is not None:
            return None
        self.granted = Description(lock=self)
        self.granted.share(process)
        return self.granted


@dataclass(eq=False, slots=True)
class Description:
    """An open file description: as long as anybody shares it, the lock stays held."""

    lock: LockFile
    sharers: dict[Process, None] = field(default_factory=dict)

    def share(self, process: Process) -> None:
        """Give the process a descriptor, as fork and posix_spawn do."""
        self.sharers[process] = None
        process.descriptions[self] = None

    def drop(self, process: Process) -> None:
        """Close the process's descriptor; the last one frees the lock."""
        self.sharers.pop(process, None)
        process.descriptions.pop(self, None)
        if not self.sharers and self.lock.granted is self:
            self.lock.granted = None


@dataclass(eq=False, slots=True, kw_only=True)
class Process:
    """A process: what it holds, and whether it lives, is stopped or cannot be killed now."""

    machine: Machine = field(repr=False)
    pid: int
    start_ticks: int
    program: str
    life: Iterator[Pause] | None = None
    is_alive: bool = True
    is_stopped: bool = False
    is_terminated: bool = False  # it was sent SIGTERM
    thawed_ns: int = 0
    stuck_until_ns: int = 0  # in uninterruptible sleep: even SIGKILL waits
    descriptions: dict[Description, None] = field(default_factory=dict)
    on_terminate: Callable[[], None] | None = None
    on_death: list[Callable[[], None]] = field(default_factory=list)
    memory_bytes: int = 0
    step: str = "start"
    resumption: _Entry | None = None
    is_interruptible: bool = False

    def reach(self, point: str) -> None:
        """Come to a point where the world goes on, and where this process may die."""
        if not self.is_alive:
            raise Killed(self.program)
        self.machine.on_point(self, point)
        if not self.is_alive:
            raise Killed(self.program)

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Do one thing that lasts; the process can die right before it or right after."""
        self.reach(f"{name}:before")
        yield
        self.machine.on_change()
        self.reach(f"{name}:after")


@dataclass(slots=True, eq=False)
class _Entry:
    """One thing on the agenda; that of a dead process never happens."""

    action: Callable[[], None]
    process: Process | None
    is_off: bool = False


def _nothing_happens(_process: Process, _point: str) -> None:
    """Let every point pass in peace."""


def _nobody_looks() -> None:
    """Look at nothing."""


def _at_once() -> float:
    """Be never late."""
    return 0.0


@dataclass(eq=False, slots=True)
class Machine:
    """The computer.  Running time never goes back; both clocks are derived from it."""

    on_point: Callable[[Process, str], None] = _nothing_happens
    on_change: Callable[[], None] = _nobody_looks
    latency: Callable[[], float] = _at_once  # how late a process runs, in seconds
    running_ns: int = 0
    boots: int = 1
    memory_total_bytes: int = 16 << 30
    memory_available_bytes: int = 12 << 30
    memory_stall: float | None = None
    gpus: GpuReading = NO_GPU
    processes: dict[int, Process] = field(default_factory=dict)
    _booted_ns: int = -_UPTIME_NS
    _wall_ahead: timedelta = timedelta(0)
    _agenda: list[tuple[int, int, _Entry]] = field(default_factory=list)
    _stopped: list[_Entry] = field(default_factory=list)
    _sequence: int = 0
    _last_pid: int = 1000

    # -- time ---------------------------------------------------------------------

    @property
    def boot_id(self) -> str:
        """The name of this boot."""
        return f"boot-{self.boots}"

    @property
    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC: time since the boot, suspends left out."""
        return self.running_ns - self._booted_ns

    @property
    def wall(self) -> datetime:
        """The wall clock, as wrong as somebody set it."""
        return BEGINNING + self._wall_ahead + timedelta(microseconds=self.running_ns // 1000)

    def now(self) -> Instant:
        """Read both clocks."""
        return Instant(wall=self.wall, monotonic_ns=self.monotonic_ns, boot_id=self.boot_id)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._wall_ahead += timedelta(seconds=seconds)

    def suspend(self, seconds: float) -> None:
        """Sleep with everything: CLOCK_MONOTONIC stands still, see clock_gettime(2)."""
        self.step_wall(seconds)

    def freeze(self, seconds: float) -> None:
        """Stop every process while the clocks go on, then let each go on a little late."""
        frozen_ns = round(seconds * 1e9)
        for one in self.processes.values():
            # Whatever had just been resumed has had no time yet to find its feet.
            if one.thawed_ns + THAWING_NS > self.running_ns:
                one.thawed_ns += frozen_ns
        self.running_ns += frozen_ns
        late: dict[Process, float] = {}
        moved = []
        for due_ns, sequence, entry in sorted(self._agenda):
            process = entry.process
            if process is not None and due_ns < self.running_ns:
                delay_s = late.setdefault(process, self.latency())
                moved.append((self.running_ns + round(delay_s * 1e9), sequence, entry))
            else:
                moved.append((due_ns, sequence, entry))
        heapify(moved)
        self._agenda[:] = moved

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due meanwhile."""
        until_ns = self.running_ns + max(0, round(seconds * 1e9))
        # A bound that no honest run comes near: a life without pauses must not hang a test.
        most = 1_000_000
        while self._agenda and self._agenda[0][0] <= until_ns and most > 0:
            due_ns, _, entry = heappop(self._agenda)
            self.running_ns = max(self.running_ns, due_ns)
            self._happen(entry)
            most -= 1
        assert most > 0, "the simulated world does not come to rest"  # noqa: S101 - a bug
        self.running_ns = max(self.running_ns, until_ns)

    def schedule(
        self, seconds: float, action: Callable[[], None], process: Process | None = None
    ) -> _Entry:
        """Put something on the agenda; with a process, only if that still lives then."""
        entry = _Entry(action, process)
        self._put(seconds, entry)
        return entry

    def _put(self, seconds: float, entry: _Entry) -> None:
        self._sequence += 1
        due_ns = self.running_ns + max(0, round(seconds * 1e9))
        heappush(self._agenda, (due_ns, self._sequence, entry))

    def _happen(self, entry: _Entry) -> None:
        process = entry.process
        if entry.is_off or (process is not None and not process.is_alive):
            return
        if process is not None and process.is_stopped:
            self._stopped.append(entry)
            return
        entry.action()
        self.on_change()

    # -- processes ----------------------------------------------------------------

    def spawn(self, program: str) -> Process:
        """Return a new process that holds nothing and does nothing yet."""
        self._last_pid += 1
        process = Process(
            machine=self,
            pid=self._last_pid,
            start_ticks=self.monotonic_ns // 10_000_000,
            program=program,
            thawed_ns=self.running_ns,
        )
        self.processes[process.pid] = process
        return process

    def begin(self, process: Process, life: Iterator[Pause]) -> None:
        """Let the process live this life from now on."""
        process.life = life
        self._plan(process, self.latency())

    def find(self, pid: int, start_ticks: int) -> Process | None:
        """Return the living process that is exactly this one."""
        process = self.processes.get(pid)
        return process if process is not None and process.start_ticks == start_ticks else None

    def wake(self, process: Process, *, within_s: float = 0.0) -> None:
        """Interrupt the pause of a process that waits for something to happen."""
        if process.is_alive and process.is_interruptible and process.resumption is not None:
            process.resumption.is_off = True
            self._plan(process, within_s + self.latency())

    def terminate(self, process: Process) -> None:
        """Send SIGTERM; a stopped process gets it when it goes on."""
        if not process.is_alive:
            return
        process.is_terminated = True
        if process.on_terminate is not None:
            self.schedule(self.latency(), process.on_terminate, process)
        self.wake(process)

    def kill(self, process: Process) -> None:
        """Send SIGKILL, or end: all its descriptors are closed, its parent is told."""
        if not process.is_alive:
            return
        if self.running_ns < process.stuck_until_ns:
            left_s = (process.stuck_until_ns - self.running_ns) / 1e9
            self.schedule(left_s, partial(self.kill, process))
            return
        process.is_alive = False
        del self.processes[process.pid]
        for description in list(process.descriptions):
            description.drop(process)
        for action in process.on_death:
            action()

    def stop(self, process: Process) -> None:
        """Send SIGSTOP."""
        process.is_stopped = True

    def resume(self, process: Process) -> None:
        """Send SIGCONT; what it missed happens now, a little late."""
        if not process.is_stopped:
            return
        process.is_stopped = False
        process.thawed_ns = self.running_ns
        missed = [entry for entry in self._stopped if entry.process is process]
        self._stopped = [entry for entry in self._stopped if entry.process is not process]
        for entry in missed:
            self._put(self.latency(), entry)

    def reboot(self, down_s: float) -> None:
        """Lose all processes and locks, and come back after a while under a new boot id."""
        for process in list(self.processes.values()):
            process.stuck_until_ns = 0
            self.kill(process)
        self._stopped.clear()
        self.running_ns += round(down_s * 1e9)
        self._booted_ns = self.running_ns
        self.boots += 1

    def _plan(self, process: Process, seconds: float) -> None:
        process.resumption = self.schedule(seconds, partial(self._go_on, process), process)

    def _go_on(self, process: Process) -> None:
        """Run a life up to its next pause."""
        process.resumption = None
        self.on_point(process, process.step)
        # The hook may have killed it, or stopped it right here.
        if not process.is_alive or process.life is None:
            return
        if process.is_stopped:
            self._stopped.append(_Entry(partial(self._go_on, process), process))
            return
        try:
            pause = next(process.life)
        except StopIteration:
            self.kill(process)
        except Killed:
            return
        else:
            if process.is_alive:
                process.step, process.is_interruptible = pause.step, pause.is_interruptible
                self._plan(process, pause.seconds + self.latency())
