"""What one tick will do, what it did, and why."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.leases import LeaseEntry, Needs, ReclaimReason, Trace
    from tinyscheduler.model.snapshot import Deferral, StaleSighting, UnreadableResult
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import AttemptResult, Claim, WaitingTask


class Reason(StrEnum):
    """Why a waiting task does not start now.  Stable codes; words with numbers go beside."""

    AGENT_LIMIT = "agent_limit"
    HOST_SLOTS = "host_slots"
    QUEUE_LIMIT = "queue_limit"
    TENANT_QUOTA = "tenant_quota"
    MEMORY_CRITICAL = "memory_critical"
    MEMORY_INSUFFICIENT = "memory_insufficient"
    VRAM_INSUFFICIENT = "vram_insufficient"
    GPU_UNAVAILABLE = "gpu_unavailable"
    GPU_UNKNOWN = "gpu_unknown"
    MODEL_SLOTS = "model_slots"
    NO_SLOTS = "no_slots"
    SCHEDULE_CAP = "schedule_cap"
    PRESSURE = "pressure"
    BLOCKED_BY = "blocked_by"
    BACKING_OFF = "backing_off"
    NOT_BEFORE = "not_before"
    HELD = "held"
    COOLING = "cooling"
    PAUSED = "paused"
    DRAINING = "draining"
    STAGGERED = "staggered"
    POLICY_WAIT = "policy_wait"
    SOURCE_DOWN = "source_down"
    SOURCE_REFUSED = "source_refused"
    OVERTAKEN_LIMIT = "overtaken_limit"
    UNPLACED = "unplaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Deliver the recorded result.  The entry is None for a result without a lease."""

    entry: LeaseEntry | None
    result: AttemptResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleUnreadable:
    """Settle an attempt whose result file cannot be read: it ended, nobody knows how."""

    entry: LeaseEntry | None
    result: UnreadableResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaim:
    """Give back the task of an attempt that is over: nothing of it lives."""

    entry: LeaseEntry
    reason: ReclaimReason


@dataclass(frozen=True, slots=True, kw_only=True)
class EndTree:
    """End all processes of an attempt; its lease and slot stay until they are gone."""

    trace: Trace
    reason: ReclaimReason
    agent: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """Remember a heartbeat seen stale for the first time."""

    entry: LeaseEntry
    sighting: StaleSighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Leave the attempt alone.  ``report`` says what an operator should know, if anything."""

    entry: LeaseEntry
    report: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSource:
    """Keep a recorded result until its source answers again.  It costs no slot."""

    entry: LeaseEntry
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairLost:
    """Give back a task that its source calls ours although no lease or result exists."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Remove a task lock that nothing holds and no lease belongs to."""

    entry: LeaseEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOnCancel:
    """Tell an attempt that its task is to be cancelled: whoever asked died before saying so."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCancel:
    """Remove a request to cancel an attempt that is over."""

    lease_id: str


Verdict = (
    Settle
    | SettleUnreadable
    | AwaitSource
    | Reclaim
    | EndTree
    | Suspect
    | Keep
    | RepairLost
    | Sweep
    | PassOnCancel
    | SweepCancel
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A policy's wish: start this task with this agent.

    On this ``gpu``, by its UUID, and with its model on the host ``pool``, where it says so.
    """

    task: WaitingTask
    agent: str
    pool: str | None = None
    gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Start this task now.  ``needs`` is what it occupies from then on, on these GPUs.

    It uses a slot of ``model`` on ``model_host``; without a host it uses none.  ``gpu_share``
    is what it has of all its GPUs together, 1 for each whole one.
    ``overtakes`` are tasks before it in line that wait for something which it uses.
    """

    task: WaitingTask
    agent: str
    needs: Needs
    gpu_uuids: tuple[str, ...] = ()
    model: str | None = None
    model_host: str | None = None
    gpu_share: float = 0.0
    overtakes: tuple[WaitingTask, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Leave this task waiting, because.

    ``is_lasting`` says that it waits for what this machine does not have now, in use or not.
    ``model`` is the one of which no slot is free.
    """

    task: WaitingTask
    reason: Reason
    words: str
    retry_after_s: float | None = None
    is_lasting: bool = False
    model: str | None = None


Decision = Dispatch | Wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one tick will do with each lease and each waiting task it looked at.

    ``slots_in_use`` are those that something occupies before any of it is done.
    ``deferrals`` are all that hold from now on.
    """

    verdicts: tuple[Verdict, ...]
    decisions: tuple[Decision, ...]
    slots_in_use: int = 0
    deferrals: tuple[Deferral, ...] = ()

    @property
    def is_quiet(self) -> bool:
        """Whether carrying this out would change nothing."""
        return not any(
            not isinstance(verdict, Keep | AwaitSource) for verdict in self.verdicts
        ) and not any(isinstance(decision, Dispatch) for decision in self.decisions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TickError:
    """Something that failed in a tick and stopped nothing else."""

    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimed:
    """One lease that the tick ended."""

    task_id: str
    agent: str
    attempt: int
    reason: ReclaimReason


@dataclass(frozen=True, slots=True, kw_only=True)
class TickStats:
    """Counts of one tick."""

    leases_scanned: int = 0
    leases_reclaimed: int = 0
    leases_settled: int = 0
    tasks_spawned: int = 0
    unassigned_matched: int = 0
    assigned_spawned: int = 0
    tasks_blocked: int = 0
    tasks_waiting: int = 0
    firings: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """Everything one tick did, for observers and for the caller.

    ``policy`` is who decided.  If that was not the one that is set, ``policy_fallback`` is the
    cause.  ``policy_ms`` is how long deciding took, ``policy_version`` a digest of its source.
    """

    tick_id: str
    started_at: datetime
    duration_ms: float
    dry_run: bool
    locked: bool
    holder: str | None
    stats: TickStats
    reclaims: tuple[Reclaimed, ...]
    decisions: tuple[Decision, ...]
    errors: tuple[TickError, ...]
    warnings: tuple[str, ...]
    policy: str
    all_sources_down: bool
    switches: tuple[Switch, ...] = ()
    policy_mode: str = "platform"
    policy_version: str = ""
    policy_fallback: str | None = None
    policy_ms: float | None = None
