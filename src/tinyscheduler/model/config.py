"""What has been configured?  One frozen value; everything but ``config/`` sees only this.

``config/`` reads the environment, the ``.env`` file, ``agents.yaml`` and the command
line, and builds a `Config`.  Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.model.profiles import Profile

# Which GPUs a program may use (the CUDA programming guide); what was set for us binds all.
GPU_MASK = "CUDA_VISIBLE_DEVICES"
# What every attempt's command may see of the environment; an agent's own list comes on top.
ALWAYS_ALLOWED = ("PATH", "HOME", "LANG", "TERM", "USER", "LC_ALL", "TZ", GPU_MASK)


# The built-in agent, which runs the command that its task brings: anything, by any account.
SHELL_AGENT = "shell"


class Origin(StrEnum):
    """Where a setting's value came from, strongest first."""

    COMMAND_LINE = "cli"
    ENVIRONMENT = "env"
    ENV_FILE = ".env"
    DEFAULT = "default"


class StdinSource(StrEnum):
    """What an agent's command reads on its standard input."""

    NOTHING = "null"  # /dev/null: agent tools must not wait for a terminal
    PROMPT = "prompt"  # the task's prompt, byte for byte


class OnExpire(StrEnum):
    """What becomes of a task whose attempt outlived its lease."""

    REQUEUE = "requeue"  # once; a second expiry fails the task
    FAIL = "fail"


class ModelMatch(StrEnum):
    """Whether an attempt may start without a slot of the model it names."""

    REQUIRED = "required"
    PREFERRED = "preferred"


class FairShare(StrEnum):
    """Between whom slots and GPUs are shared out fairly."""

    OFF = "off"
    TENANT = "tenant"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProfile:
    """How tasks of one agent are run, and how many at once.

    ``command`` is a template whose items are substituted one by one, never through a
    shell; empty means that the task's own argv runs (built-in agent ``shell``).
    ``environment`` lists names allowed through on top of the always-allowed ones.
    """

    name: str
    queue: str
    limit: int
    command: tuple[str, ...] = ()
    profile: str = "shell"
    environment: tuple[str, ...] = ()
    stdin: StdinSource = StdinSource.NOTHING
    cwd: str | None = None
    memory_bytes: int | None = None
    vram_bytes: int | None = None
    model: str | None = None
    max_runtime_s: float | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_per_host: int | None = None
    account: str | None = None
    idle_output_s: float | None = None
    on_expire: OnExpire = OnExpire.REQUEUE
    priority_class: str | None = None
    model_match: ModelMatch = ModelMatch.REQUIRED


# The host that this program runs on; any other only serves models.
LOCAL_HOST = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that serves models, and how many attempts may use them at once.  Bytes.

    ``address`` is where another machine is reached.
    """

    name: str
    address: str | None = None
    max_slots: int | None = None
    total_vram_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A model on one host: how many attempts may use it there at once.

    ``vram_bytes`` is what each of them takes of a GPU.  At an ``endpoint`` a server has it
    loaded already, and an attempt takes none.
    """

    model: str
    host: str = LOCAL_HOST
    max_slots: int = 1
    vram_bytes: int = 0
    endpoint: str | None = None

    @property
    def needed_vram_bytes(self) -> int:
        """What an attempt takes of a GPU of this machine."""
        is_loaded_here = self.host == LOCAL_HOST and self.endpoint is None
        return self.vram_bytes if is_loaded_here else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much a queue or a tenant may have at once; None is no bound.

    Of what is shared out fairly, one of twice the ``weight`` gets twice as much.
    """

    name: str
    slots: int | None = None
    vram_bytes: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What there is beside agents, and who may have how much of it."""

    hosts: tuple[Host, ...] = ()
    models: tuple[ModelPlace, ...] = ()
    queues: tuple[Quota, ...] = ()
    tenants: tuple[Quota, ...] = ()
    budgets: tuple[Budget, ...] = ()

    def endpoint(self, model: str | None, host: str | None) -> str | None:
        """Return where that model on that host answers, if anybody said so."""
        places = (one for one in self.models if (one.model, one.host) == (model, host))
        place = next(places, None)
        if place is None or place.endpoint is not None:
            return place.endpoint if place is not None else None
        return next((one.address for one in self.hosts if one.name == host), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Absolute paths of everything on disk that belongs to one base path."""

    base: str
    state: str
    running: str
    results: str
    cancel: str
    tasks: str
    logs: str
    quarantine: str
    recipes: str
    scripts: str
    tick_lock: str
    kick: str
    daemon_lock: str
    settings: str
    memory: str
    database: str
    events: str
    agents_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Every duration that rules ticks, leases and retries, in seconds."""

    loop_interval_s: float
    heartbeat_s: float
    max_runtime_s: float
    stagger_s: float
    tick_budget_s: float
    kill_grace_s: float
    retry_base_s: float
    retry_max_s: float
    retry_later_s: float
    # With defaults: settings that an earlier version saved know nothing of these.
    schedule_run_s: float = 1200.0  # a firing may take so long, where its schedule says nothing
    schedule_pressure_delay_s: float = 30.0  # firings make way for so long, again and again
    source_timeout_s: float = 10.0  # one question to a server; three times that for a tick's
    lost_after_s: float = 600.0  # a task at work at its server, that nobody runs here, is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound on how much may run, wait or be tried."""

    host_slots: int
    max_attempts: int
    max_launches: int
    max_queue_depth: int
    queue_lookahead: int
    max_skips: int
    log_max_bytes: int
    # With defaults: settings that an earlier version saved know nothing of these.
    memory_per_slot_bytes: int | None = None  # None: nobody set it
    memory_warning: float = 0.8  # shares of the memory in use
    memory_critical: float = 0.9
    memory_stall_critical: float | None = None  # a share of time; None: off
    has_automatic_slots: bool = False  # as many as all agents together need
    fair_share: FairShare = FairShare.OFF
    fair_share_half_life_s: float = 86_400.0
    log_retention_s: float = 14 * 86_400.0
    history_retention_s: float = 30 * 86_400.0
    schedule_max_concurrent: int = 2  # firings that may run at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Who decides, and what a policy of one's own may take.

    ``mode`` is platform, home or lab; ``path``, absolute, counts in the latter two.
    """

    mode: str = "platform"
    path: str | None = None
    cpu_ms: int = 50
    wall_ms: int = 200
    memory_mb: int = 64

    @property
    def is_own(self) -> bool:
        """Whether a policy of one's own is set, and may rule."""
        return self.mode != "platform" and self.path is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one run, as everything but ``config/`` sees it.

    ``environment`` holds the values of the variables that agents may receive; it is
    secret and is never printed.  ``origins`` maps each setting's name without prefix
    to where its value came from.
    """

    paths: Paths
    agents: tuple[AgentProfile, ...]
    sources: tuple[str, ...]
    timing: Timing
    limits: Limits
    goose_command: str
    endpoint: str
    priority_enabled: bool
    blocking_disabled: bool
    enabled: bool
    kick_enabled: bool
    dry_run: bool
    log_level: str
    environment: tuple[tuple[str, str], ...]
    origins: tuple[tuple[str, Origin], ...]
    warnings: tuple[str, ...] = ()
    gpu_probe: str = "nvml"
    inventory: Inventory = Inventory()
    policy: PolicySettings = PolicySettings()
    # What says besides markers that somebody is at work: seat, gpu, file:PATH.
    pressure_sources: tuple[str, ...] = ()
    # Of the user's own, beside those that everybody has (core/profiles.py).
    profiles: tuple[Profile, ...] = ()

    def agent(self, name: str) -> AgentProfile | None:
        """Return the agent of that name, or None."""
        return next((agent for agent in self.agents if agent.name == name), None)
