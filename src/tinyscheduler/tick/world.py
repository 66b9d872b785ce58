"""What a tick is given: its ports, its settings, and whether it may act."""

from __future__ import annotations

from enum import Enum

from tinyscheduler.model.config import Inventory
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.snapshot import Rules
    from tinyscheduler.ports import (
        Budgets,
        Clock,
        Coolings,
        GpuProbe,
        Launcher,
        LeaseStore,
        Ledger,
        MemoryStore,
        Observer,
        Policy,
        Pressures,
        Probe,
        Pruner,
        Recorder,
        Schedules,
        Switches,
        TaskSource,
        TickLock,
    )


class Mode(Enum):
    """Whether a tick acts."""

    ACT = "act"
    DRY_RUN = "dry_run"  # looks and decides, takes no lock, sleeps for nothing, writes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long what is over is kept, and how much of it one tick removes.  Seconds."""

    history_s: float
    logs_s: float
    every_s: float = 3600.0
    most: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TickSettings:
    """What a tick is configured with.  Seconds."""

    agents: tuple[AgentProfile, ...]
    rules: Rules
    heartbeat_s: float
    max_runtime_s: float
    stagger_s: float
    budget_s: float
    window: int
    is_enabled: bool
    gpu_mask: str | None = None  # of CUDA_VISIBLE_DEVICES; None: it is not set
    policy_mode: str = "platform"
    inventory: Inventory = Inventory()
    # Whether the end of an attempt makes a tick happen, which then looks at what that freed.
    heeds_ends: bool = True
    sees_gpus: bool = False  # look at them even where nothing that waits needs one
    retention: Retention | None = None


def _keep_nothing() -> None:
    """Keep nothing: no settings, so that ticks that follow go by others, and no good policy."""


def _find_no_policy() -> None:
    """Find no policy of one's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Every port a tick needs, wired."""

    clock: Clock
    lock: TickLock
    sources: tuple[TaskSource, ...]
    store: LeaseStore
    launcher: Launcher
    probe: Probe
    gpus: GpuProbe
    policy: Policy
    fallback: Policy
    ledger: Ledger
    memory: MemoryStore
    switches: Switches
    coolings: Coolings
    schedules: Schedules
    budgets: Budgets
    pressures: Pressures
    # What is in the checklist of a heartbeat; None if there is none.  StoreError if it is no text.
    read_checklist: Callable[[str], str | None]
    observers: tuple[Observer, ...]
    # Asked for by ticks that have something to keep: few do.
    recorder: Callable[[], Recorder]
    # Asked for when it is time: what prunes is loaded by few ticks.
    pruners: Callable[[], Sequence[Pruner]] = tuple
    # Called whenever the lock was taken, before anything is read: what the ticks that follow
    # by themselves are to go by.  A tick that was refused must not decide that.
    keep_settings: Callable[[], None] = _keep_nothing
    # Called once a tick, when it first decides: the policy that is set or deployed now.  None:
    # `policy` decides.
    find_policy: Callable[[], Policy | None] = _find_no_policy
    # The version of it that answered last; None if there is none, or it is the one that was found.
    find_last_good: Callable[[], Policy | None] = _find_no_policy
    # Called when the policy has answered: keeps the one that was found, if any.  StoreError where
    # the disk refuses.
    keep_good: Callable[[], None] = _keep_nothing
    # Filled by adapters that have something to say but no failure to raise.
    warnings: list[str] = field(default_factory=list)
