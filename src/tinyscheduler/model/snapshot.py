"""Everything one tick read, the time included; frozen, and all that `decide` knows."""

from __future__ import annotations

from tinyscheduler.model.config import FairShare, Inventory
from tinyscheduler.model.leases import LeaseFault
from tinyscheduler.model.resources import Pressure
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.leases import LeaseEntry, ProcessEvidence
    from tinyscheduler.model.resources import GpuReading, HostState
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import AttemptResult, Claim, WaitingTask


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableResult:
    """A result file that holds no result we know; the attempt ended, but how is unknown.

    One of a newer version is left for the program that knows it.
    """

    lease_id: str
    message: str
    fault: LeaseFault = LeaseFault.CORRUPT


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseScan:
    """All leases, task locks and requests to cancel, then all results, as read in this order.

    ``cancels`` are the lease ids of attempts that were asked to end.
    """

    entries: tuple[LeaseEntry, ...]
    results: tuple[AttemptResult, ...]
    unreadable_results: tuple[UnreadableResult, ...] = ()
    cancels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """What one source said, or why it could not.

    ``waiting`` is a window in the source's own order, ``waiting_total`` counts all that
    wait.  ``claims`` are all tasks that the source says are ours.
    """

    name: str
    waiting: tuple[WaitingTask, ...] = ()
    waiting_total: int = 0
    claims: tuple[Claim, ...] = ()
    error: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether the source answered."""
        return self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleSighting:
    """A heartbeat that was found stale: this value, first seen then (monotonic, that boot)."""

    lease_id: str
    beat_ns: int
    seen_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSighting:
    """On which GPUs an attempt was ever seen, and its age when it was last looked for there.

    ``looked_s`` counts only looks for its sake: in seconds, 0 if there was none.
    """

    lease_id: str
    uuids: tuple[str, ...] = ()
    looked_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How things stood when observers were last told of them, so that each change is told once.

    ``is_full`` means that no slot was free, ``is_empty`` that nothing waited, ``sources_down``
    which sources did not answer, ``silent`` which leases have shown no life for half the time
    that they may.
    """

    pressure: Pressure = Pressure.NONE
    is_healthy: bool = True
    is_full: bool = False
    is_empty: bool = True
    sources_down: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skips:
    """How often a waiting task was overtaken so far by ones that use what it waits for."""

    source: str
    task_id: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """Until then nobody looks for a slot of this model again: none was free."""

    model: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a tenant or project has had lately: seconds of slots and of whole GPUs, decayed."""

    owner: str
    slot_s: float = 0.0
    gpu_s: float = 0.0


# In a row.
MOST_POLICY_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """How the policy of one's own did lately; by ``version`` another counts afresh.

    ``failed`` is how often in a row another had to decide instead; ``is_unloadable``, because it
    could not even be loaded.
    """

    version: str = ""
    failed: int = 0
    errors: int = 0
    timeouts: int = 0
    cause: str | None = None
    words: str | None = None
    is_unloadable: bool = False

    @property
    def is_given_up(self) -> bool:
        """Whether it has failed so often that it is not asked again before it is another."""
        return self.failed >= MOST_POLICY_FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingMemory:
    """What one tick remembers for the next.  Losing it costs time, never a task.

    ``used_slots``, and ``active`` by agent, are what the last tick left in use: leases and
    held locks say what is, and these only whether anything went without being settled.
    ``last_good`` is of the version that is asked where the ``policy`` cannot be loaded.
    """

    stale: tuple[StaleSighting, ...] = ()
    last_start_ns: int | None = None
    last_start_boot_id: str | None = None
    pruned_at: datetime | None = None
    told: Told = Told()
    skips: tuple[Skips, ...] = ()
    deferrals: tuple[Deferral, ...] = ()
    accounts: tuple[Account, ...] = ()
    accounted_at: datetime | None = None
    gpu_sightings: tuple[GpuSighting, ...] = ()
    used_slots: int = 0
    active: tuple[tuple[str, int], ...] = ()
    policy: PolicyRecord = PolicyRecord()
    last_good: PolicyRecord = PolicyRecord()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that judging and admitting depend on.  Seconds and bytes."""

    host_slots: int
    kill_grace_s: float
    max_attempts: int
    max_launches: int
    retry_base_s: float
    retry_max_s: float
    retry_later_s: float
    # What a start needs where neither task nor agent says; None: nobody set it.
    memory_per_slot_bytes: int | None
    # Shares of the memory in use.
    memory_warning: float
    memory_critical: float
    # A share of the time; None: nobody asks for it.
    memory_stall_critical: float | None = None
    is_priority_enabled: bool = False
    # Tasks of a line that are looked at behind one that cannot start; 0: none goes before it.
    lookahead: int = 5
    # How often a task may be overtaken by ones that use what it waits for.
    max_skips: int = 2
    # The longest an attempt may take of which nobody said it.
    max_runtime_s: float = 3600.0
    # Slots are as many as all agents together need; the setting says nothing.
    has_automatic_slots: bool = False
    fair_share: FairShare = FairShare.OFF
    # Firings of schedules that may run at once; other tasks are not counted.
    schedule_max_concurrent: int = 2
    # How long a time that is due is put off where somebody is at work.
    schedule_pressure_delay_s: float = 30.0
    # After so long what somebody had counts half.
    fair_share_half_life_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one tick knows.  ``evidence`` and ``memory_used`` are keyed by lease id.

    ``memory_used`` holds the bytes that the processes of live attempts use; it is looked up
    only where something might start.  So are the ``gpus``, where anything needs one, and
    ``gpu_owners``: the lease ids of the processes on them, None for strangers, by pid; one that
    cannot be seen is left out.  ``switches`` is None where they could not be read:
    then nothing may start.  ``coolings`` are accounts that were refused by their provider.
    ``pressed_by`` names who is at work interactively; it is looked up
    only where a firing waits.
    """

    now: Instant
    host: HostState
    scan: LeaseScan
    evidence: Mapping[str, ProcessEvidence] = field(default_factory=dict)
    memory_used: Mapping[str, int] = field(default_factory=dict)
    gpus: GpuReading | None = None
    gpu_owners: Mapping[int, str | None] = field(default_factory=dict)
    sources: tuple[SourceView, ...] = ()
    agents: tuple[AgentProfile, ...] = ()
    inventory: Inventory = Inventory()
    memory: SchedulingMemory = SchedulingMemory()
    rules: Rules
    is_enabled: bool = True
    switches: tuple[Switch, ...] | None = ()
    coolings: tuple[Cooling, ...] = ()
    pressed_by: tuple[str, ...] = ()
