"""What a policy may look at, and what is kept of what it said."""

from __future__ import annotations

from tinyscheduler.model.config import ModelMatch
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tinyscheduler.model.tasks import WaitingTask


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One agent's slots at this point of the tick, and what its attempts need.  Bytes."""

    name: str
    queue: str
    limit: int
    active: int
    memory_bytes: int | None = None
    vram_bytes: int | None = None
    max_runtime_s: float | None = None
    model: str | None = None
    model_match: ModelMatch = ModelMatch.REQUIRED
    max_per_host: int | None = None
    is_interactive: bool = False

    @property
    def free(self) -> int:
        """Slots of this agent that nothing occupies."""
        return max(0, self.limit - self.active)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One GPU at this point of the tick.  Bytes.

    ``free_bytes`` is what one more share may take: measured free, less what is reserved and
    not used yet.  ``is_idle`` says that nobody is on it, so that it can be had whole.
    ``used_by`` names the tasks that reserve something here, ``misplaced`` those that are here
    and were put elsewhere, ``strangers`` counts processes of anybody else.  One that
    ``is_unified`` has the memory of the machine.  With a ``fault`` nothing goes there.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int = 0
    free_bytes: int = 0
    reserved_bytes: int = 0
    is_idle: bool = False
    used_by: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    strangers: int = 0
    is_unified: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model on a host: its slots, those in use, and those that an attempt could have now."""

    model: str
    host: str
    slots: int
    used: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """What a tenant that has a quota may have, and what it has.  None: as much as there is."""

    name: str
    slots: int | None
    vram_bytes: int | None
    used_slots: int
    used_vram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyContext:
    """The read-only world of a policy.

    ``waiting`` holds only tasks that could start now, as they stand in line.  ``choices`` names
    the agents that can start one just now, by source and id; a task of which it says nothing
    starts by any that may run it.  ``turns`` says how far each is from its turn where slots are
    shared out fairly, ``skips`` how often each was overtaken.
    """

    now: datetime
    waiting: tuple[WaitingTask, ...]
    agents: tuple[AgentView, ...]
    host_slots_free: int
    memory_free_bytes: int
    gpus: tuple[GpuView, ...] = ()
    choices: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    tenants: tuple[TenantView, ...] = ()
    models: tuple[ModelView, ...] = ()
    turns: Mapping[tuple[str, str], float] = field(default_factory=dict)
    skips: Mapping[tuple[str, str], int] = field(default_factory=dict)
    is_priority_enabled: bool = False
    memory_pressure: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCall:
    """One question to a policy of one's own, and what came of it.

    ``context`` is a digest of all that it was told, ``jobs`` how many tasks that was about.
    ``decisions`` counts what it asked for by action; ``log`` holds level and text.  With a
    ``cause`` it failed, in these ``words``, and what it took is not known.
    """

    context: str
    jobs: int
    decisions: Mapping[str, int] = field(default_factory=dict)
    log: tuple[tuple[str, str], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    instructions: int | None = None
    cpu_ms: float | None = None
    cause: str | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedPolicy:
    """A policy of one's own that could not decide, and the cause."""

    name: str
    version: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedBy:
    """Which policy decided, and instead of which.

    ``version`` is a digest of its source: None of the built-in one, and where nobody had to be
    asked.
    """

    name: str
    version: str | None = None
    instead_of: FailedPolicy | None = None
