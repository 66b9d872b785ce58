"""What the tick needs from the outside, as small protocols.

Every port has at least two implementations that pass one contract suite: a real one
in ``adapters/`` and a simulated one in ``simulator/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tinyscheduler.model.budgets import UsedUp
    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.events import Event
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.leases import Found, Lease, ProcessEvidence, Trace
    from tinyscheduler.model.plan import Proposal, TickReport
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.pressure import InteractivePressure
    from tinyscheduler.model.pruning import PruneBounds, Pruned
    from tinyscheduler.model.resources import GpuReading, HostState
    from tinyscheduler.model.rounds import Round
    from tinyscheduler.model.schedules import FiringDeferral, FiringPlan, LiveFirings, Schedule
    from tinyscheduler.model.snapshot import LeaseScan, SchedulingMemory, SourceView
    from tinyscheduler.model.switches import Switch, SwitchKind, Target
    from tinyscheduler.model.tasks import Ending, TaskSpec, TaskState


class Clock(Protocol):
    """Reads the time and lets it pass."""

    def now(self) -> Instant:
        """Return both clocks and the boot id, read together."""

    def sleep(self, seconds: float) -> None:
        """Return after that time; earlier only if there is a reason to look at the world again."""


class TaskSource(Protocol):
    """Where tasks come from.  Raises SourceError if, and only if, it could not answer."""

    @property
    def name(self) -> str:
        """The word that leases and reports call this source by."""

    def look(self, *, window: int) -> SourceView:
        """Return what waits and what is ours, read at one moment.

        At most ``window`` tasks that could start now per agent or queue, in the source's
        order, and a bounded number of those that could not, so that reasons can be told.
        """

    def describe(self, task_id: str) -> TaskSpec:
        """Return what the task asks for; StoreError if it is gone."""

    def claim(
        self,
        task_id: str,
        *,
        lease_id: str,
        agent: str,
        queue: str,
        attempt: int,
        pressure: int = 0,
    ) -> bool:
        """Make the task ours under this lease if it still waits as this attempt.

        ``queue`` is the one that the agent serves: its pause stops a task that names none.
        Of a firing it is kept how many were at work interactively when it began: ``pressure``.
        One atomic compare-and-set; False means that somebody else was first, that the task
        changed, or that it was paused or drained, and that nothing was changed here.
        """

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        """Tell how the claim ended, if the task is still ours under exactly this lease.

        One atomic compare-and-set on (working, lease_id).  Returns where the task stands
        now; None means it was not ours and nothing was changed.  A task whose
        cancellation was asked for becomes cancelled under any ending but done.
        """


class TaskLock(Protocol):
    """The right to write one task's lease, held until closed or handed to a wrapper.

    ``lease_id`` is fresh for each lock taken: the name of a lease created under it.
    """

    @property
    def task_id(self) -> str:
        """The task whose lease may be written."""

    @property
    def lease_id(self) -> str:
        """A name never used before, for a lease created under this lock."""

    @property
    def found(self) -> Found:
        """What lay under the task's name when the lock was taken."""

    def close(self) -> None:
        """Give up this holder's share.  Other holders of the same lock keep it held."""


class LeaseStore(Protocol):
    """Leases, task locks and results.  Raises StoreError where the disk refuses."""

    def scan(self) -> LeaseScan:
        """Read all leases, locks and requests to cancel, then all results.  Changes nothing."""

    def acquire(self, task_id: str, *, result_of: str | None = None) -> TaskLock | None:
        """Take the task lock without waiting; None if anything holds it.

        Then read what lies under it: the task's lease, and whether the attempt of that
        lease id has recorded a result.
        """

    def create(self, lock: TaskLock, lease: Lease) -> None:
        """Write the lease durably, and mark its first heartbeat before it exists."""

    def request_cancel(self, lease_id: str) -> None:
        """Leave the request where the attempt's wrapper looks for it."""

    def clear(self, lock: TaskLock | None, lease_id: str | None) -> None:
        """Remove lease, cancel request, result and lock, in this order, and close the lock.

        The lease goes only if it is this one, the lock only if no lease is left; what
        cannot be read is moved to quarantine instead of removed.  Without a lock only
        what bears the lease's name goes, without a lease id only what bears the task's.
        """


class Launcher(Protocol):
    """Starts attempts and ends them, on this machine or elsewhere."""

    def prepare(self, lease: Lease, spec: TaskSpec) -> Lease:
        """Return the lease with all its wrapper needs; LaunchError if it can't be started."""

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        """Start the attempt's wrapper, hand it the lock, and return without waiting.

        Raises LaunchError if, and only if, nothing was left running.
        """

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        """Return what lives of each attempt, keyed by lease id.

        Raises ProbeError if a look failed: what could not be seen is not dead.
        """

    def end(self, traces: Sequence[Trace], *, grace_s: float) -> frozenset[str]:
        """End all processes of these attempts; return the lease ids with none left.

        SIGTERM to the wrappers that live, ``grace_s`` later SIGKILL to everything: one
        wait for all.  Never signals a process not proven to belong to the attempt.
        Raises ProbeError if a look failed; it may be called again.
        """

    def owners(self, pids: Sequence[int]) -> Mapping[int, str | None]:
        """Return for each process that can be seen the lease id of its attempt.

        None for one that belongs to no attempt; one that cannot be seen is left out.  Raises
        ProbeError if a look failed.
        """


class Probe(Protocol):
    """Measures this machine."""

    def read(self) -> HostState:
        """Return the machine's identity, memory and load; ProbeError if unreadable."""

    def measure(self, leases: Sequence[Lease]) -> Mapping[str, int]:
        """Return the bytes of memory that each attempt's processes use, keyed by lease id.

        Attempts of which nothing can be seen are left out.  ProbeError if a look failed.
        """


class GpuProbe(Protocol):
    """Sees the GPUs of this machine."""

    def read(self) -> GpuReading:
        """Return them as they are now, within a bounded time; a failure is part of the answer."""


class Policy(Protocol):
    """Proposes which waiting tasks start, and with which agent."""

    @property
    def name(self) -> str:
        """The word that reports call this policy by."""

    @property
    def version(self) -> str:
        """A digest of what it is made of: another where it was edited; empty if it is built in."""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Return proposals in order of importance; empty means nothing more should start.

        Raises PolicyError where the policy cannot tell.
        """


class Ledger(Protocol):
    """Remembers how attempts ended."""

    def record(self, attempt: AttemptRecord, *, is_told_next: bool = False) -> None:
        """Write one row durably; a second row for the same lease id changes nothing.

        If the attempt's source ``is_told_next`` and keeps the same file, the row need be
        durable only when that is.
        """

    def attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        """Return the rows of one task, oldest attempt first."""


class MemoryStore(Protocol):
    """Keeps what one tick remembers for the next."""

    def load(self) -> SchedulingMemory:
        """Return what was saved; an empty memory if nothing readable was."""

    def save(self, memory: SchedulingMemory) -> None:
        """Replace what was saved, atomically and always; StoreError if the disk refuses.

        A tick that doubts whether the disk takes bytes saves in order to know.
        """


class Recorder(Protocol):
    """Keeps what ticks decided, and on what, so that it can be decided again."""

    def record(self, rounds: Sequence[Round]) -> None:
        """Keep these, without what `model.rounds.LEFT_OUT` names; the oldest make room.

        Each is kept whole or not at all.  StoreError where the disk refuses.  Called by
        nobody but who holds the tick lock.
        """

    def ticks(self) -> Sequence[str]:
        """Return the ids of all ticks of which anything is kept, oldest first."""

    def rounds(self, tick_id: str) -> Sequence[Round]:
        """Return what is kept of one tick, in order; empty if nothing is.

        ConfigError, naming file and place, for one that is damaged or of a newer version.
        """


class Switches(Protocol):
    """Keeps what its owner has paused or drained, over every restart.

    Raises StoreError (or BusyError, where something is to be changed) if, and only if,
    it could not answer.
    """

    def read(self) -> Sequence[Switch]:
        """Return every switch that is set, read at one moment, by kind and target."""

    def set(self, switch: Switch) -> Switch | None:
        """Set the switch durably; if it was set before, change nothing and return that one."""

    def clear(self, kind: SwitchKind, target: Target) -> Switch | None:
        """Lift the switch durably and return it; None if it was not set."""


class Coolings(Protocol):
    """Keeps which accounts were refused by their provider, over every restart.

    Raises StoreError (or BusyError, where something is to be changed) if, and only if,
    it could not answer.
    """

    def read(self) -> Sequence[Cooling]:
        """Return what is kept of every account, by its name; what is over, too."""

    def keep(self, cooling: Cooling) -> None:
        """Replace durably what is kept of that account."""

    def forget(self, account: str) -> Cooling | None:
        """Remove durably what is kept of an account and return it; None if that is nothing."""


class Schedules(Protocol):
    """Keeps what recurs.  Raises StoreError if, and only if, it could not answer."""

    def due(self, now: datetime) -> Sequence[tuple[Schedule, LiveFirings]]:
        """Return active schedules whose time has come, the oldest first, at most a thousand."""

    def fire(self, plan: FiringPlan) -> Sequence[str] | None:
        """Add the tasks of a plan, cancel those that it replaces and move its schedule on.

        All of it durably, or nothing.  Returns the ids of the tasks; None where somebody else has
        moved the schedule on since it was read, and nothing was changed.
        """

    def find(self, schedule_id: str) -> Schedule | None:
        """Return the schedule of that name; None if it is not there, or damaged."""

    def defer(self, deferral: FiringDeferral) -> bool:
        """Let a schedule that is due be so later, durably, and count that.

        False where somebody else has moved it on or put it off since, and nothing was changed.
        """

    def is_heartbeat(self, schedule_id: str) -> bool:
        """Whether it goes through a checklist; not if it was removed meanwhile."""

    def paused_by(self, task_id: str) -> Schedule | None:
        """Return the schedule that stopped itself when that firing ended, if one did."""


class Budgets(Protocol):
    """Knows what was used of each budget.  Raises StoreError if, and only if, it cannot."""

    def enforce(self) -> Sequence[UsedUp]:
        """Pause each subject whose budget is used up and that is not paused; return these.

        A schedule fires nothing then either.  All of it durably, in one step.
        """


class Pressures(Protocol):
    """Knows who is at work at this machine interactively."""

    def live(self) -> Sequence[InteractivePressure]:
        """Return who is at work now, each under a name of its own.

        Never raises: what cannot be found out counts as nobody, and is told.
        """


class Pruner(Protocol):
    """Removes what is long over.  Raises StoreError where it is refused."""

    def prune(self, bounds: PruneBounds) -> Pruned:
        """Remove what is older than the bounds say and needed by nobody, oldest first.

        Needed is whatever belongs to an attempt that lives, to a task that has not
        ended or is parked, or to a task that such a one comes after.  At most ``most``
        of each kind go in one call, and the answer says whether there is more.
        """


class TickLock(Protocol):
    """Keeps ticks apart, and makes sure that no wake-up is lost."""

    def acquire(self) -> str | None:
        """Take the lock without waiting: None if taken, else who holds it, in words.

        A refused caller's wish to tick is kept: the holder will tick again.
        """

    def release(self) -> None:
        """Give the lock up."""

    def forget_kick(self) -> None:
        """Withdraw all wishes so far.  Call after acquiring and before reading anything."""

    def is_kicked(self) -> bool:
        """Whether somebody wished for a tick since.  Call after releasing."""


class Observer(Protocol):
    """Is told what happened.  Must not raise: a full log disk stops no task."""

    def notice(self, event: Event) -> None:
        """Take note of one happening, at once."""

    def report(self, report: TickReport) -> None:
        """Take note of a whole tick, at its end."""
