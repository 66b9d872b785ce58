"""What is a task, and how can it end?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

TASK_ID_RULE = "a letter or digit, then up to 63 letters, digits, '_', '.' or '-', without '..'"
_MOST_CHARACTERS = 64
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_ANY = _FIRST | frozenset("_.-")


def is_task_id(text: str) -> bool:
    """Say whether this may name a task, and so a file.

    >>> [is_task_id(text) for text in ("7", "tinytask-12", "../x", "a;b", "-x", "a..b")]
    [True, True, False, False, False, False]
    """
    # Asked several times for each lease of each tick: a third of what a pattern takes.
    return (
        text[:1] in _FIRST
        and len(text) <= _MOST_CHARACTERS
        and _ANY.issuperset(text)
        and ".." not in text
    )


def place_of(task_id: str) -> tuple[int, str]:
    """Return what tasks are sorted by: numbers by their value, then all else by its text.

    >>> sorted(["tinytask-12", "10", "9", "a"], key=place_of)
    ['9', '10', 'a', 'tinytask-12']
    """
    return len(task_id) if task_id.isdigit() else _MOST_CHARACTERS + 1, task_id


def id_at_source(task_id: str, source: str) -> str:
    """Return what the source itself calls the task; only `local` ones bear no prefix.

    >>> id_at_source("tinytask-12", "tinytask"), id_at_source("12", "local")
    ('12', '12')
    """
    return task_id.removeprefix(f"{source}-")


class TaskState(StrEnum):
    """Where a task stands, as people see it.

    The queue stores all but ``starting``, ``running`` and ``settling``; these three are
    read off the lease and the result of a task that the queue calls ``working``.
    """

    WAITING = "waiting"  # also between attempts, blocked or backing off; a tick starts it
    HELD = "held"  # set aside by its owner until released
    WORKING = "working"  # claimed under a lease; shown as one of the next three
    STARTING = "starting"  # leased, its wrapper has not started the command yet
    RUNNING = "running"  # its command runs
    SETTLING = "settling"  # ended; its source has not accepted the result yet
    DONE = "done"  # succeeded
    FAILED = "failed"  # ended by a rule, without another attempt
    PARKED = "parked"  # its attempts are used up; `retry` revives it
    CANCELLED = "cancelled"  # ended by its owner

    @property
    def is_final(self) -> bool:
        """Whether nothing moves the task on without somebody asking."""
        return self in _FINAL


_FINAL = frozenset({TaskState.DONE, TaskState.FAILED, TaskState.PARKED, TaskState.CANCELLED})


class FailureReason(StrEnum):
    """Why an attempt failed."""

    ABORTED = "aborted"  # its wrapper was asked to end, or nobody knows how it ended
    TURN_LIMIT_EXCEEDED = "turn_limit_exceeded"
    TIMEOUT = "timeout"  # its own wrapper ended it at the maximum runtime
    BUDGET_EXCEEDED = "budget_exceeded"
    AUTH_FAILED = "auth_failed"
    RATE_LIMITED = "rate_limited"
    SDK_ERROR = "sdk_error"
    LEASE_EXPIRED = "lease_expired"  # a tick ended it: its wrapper did not at the maximum runtime
    DEAD_PID = "dead_pid"  # its wrapper died
    STALE_HEARTBEAT = "stale_heartbeat"  # its wrapper hung
    SPAWN_FAILED = "spawn_failed"  # the command could not be executed at all
    COMMAND_FAILED = "command_failed"  # exit code other than 0, or ended by a signal
    OUT_OF_MEMORY = "out_of_memory"
    IDLE_OUTPUT = "idle_output"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"  # ended because its owner asked
    RETRY_LATER = "retry_later"  # exit code 75: try again later, not counted as an attempt
    INTERRUPTED = "interrupted"  # by SIGTERM or a restart of the machine: not counted either


class PriorityClass(StrEnum):
    """Whether somebody waits for the task."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


# An attempt may be given so many turns at most.
MOST_TURNS = 10_000
MOST_TOKENS = 10**15
MOST_COST_USD = 1_000_000.0
# A batch task that has waited so long stands among the interactive ones.
PROMOTED_AFTER_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What somebody asked to be run, as given with ``add``.

    Exactly what the options of ``add`` say; ``None`` means "not said".  Fields of
    features that do not exist yet are stored and shown.
    """

    agent: str | None = None
    queue: str | None = None
    title: str | None = None
    command: tuple[str, ...] = ()
    prompt: str | None = None
    recipe: str | None = None
    priority: int = 0
    priority_class: PriorityClass = PriorityClass.BATCH
    gpus: int = 0
    vram_bytes: int | None = None
    memory_bytes: int | None = None
    model: str | None = None
    seed: int | None = None
    tenant: str | None = None
    project: str | None = None
    max_runtime_s: float | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_attempts: int | None = None
    after: tuple[str, ...] = ()
    not_before: datetime | None = None
    labels: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTask:
    """A task that waits, with what decides whether and when it may start.

    ``attempt`` is the number its next attempt will bear, from 1.  ``failures`` counts
    the attempts that count against ``max_attempts``.  ``launches`` counts starts of
    the next attempt that never reached the command.  ``blocks`` is the number of
    unfinished tasks that wait for this one; ``blocked_by`` the unfinished tasks it
    waits for.  A firing has a ``schedule_id``, and a ``slot`` unless it is by hand: the time it
    fires for.  It ``is_beside`` others of its schedule if it may run while they do, and
    ``is_forced`` if the bound on all firings does not hold it.
    ``not_before`` was asked for; ``backing_off_until`` follows an
    attempt that is to be tried again, and a start that failed.  What it needs is as asked
    for: None means that nothing was said.  ``title``, ``seed`` and ``labels`` decide nothing but
    what a policy makes of them.  An ``impediment`` is what its source knows to be in the way, in
    words, and how that is mended.
    """

    task_id: str
    source: str
    created_order: int
    attempt: int
    failures: int = 0
    launches: int = 0
    agent: str | None = None
    queue: str | None = None
    priority: int = 0
    blocks: int = 0
    blocked_by: tuple[str, ...] = ()
    not_before: datetime | None = None
    backing_off_until: datetime | None = None
    is_held: bool = False
    memory_bytes: int | None = None
    priority_class: PriorityClass = PriorityClass.BATCH
    gpus: int = 0
    vram_bytes: int | None = None
    model: str | None = None
    tenant: str | None = None
    project: str | None = None
    max_runtime_s: float | None = None
    created_at: datetime | None = None
    title: str | None = None
    seed: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    schedule_id: str | None = None
    slot: datetime | None = None
    is_beside: bool = False
    is_forced: bool = False
    impediment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A task that its source says is ours: ``working`` under this lease."""

    task_id: str
    source: str
    lease_id: str
    agent: str
    attempt: int
    failures: int
    launches: int
    max_attempts: int | None
    cancel_requested: bool
    last_failure: FailureReason | None = None
    schedule_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """What a wrapper recorded about the end of an attempt, durably and once."""

    lease_id: str
    task_id: str
    source: str
    agent: str
    attempt: int
    outcome: Outcome
    failure_reason: FailureReason | None
    exit_code: int | None
    signal: int | None
    message: str
    started_at: datetime | None
    ended_at: datetime
    duration_s: float
    turns: int | None
    peak_rss_mb: float | None
    log: str
    tokens: int | None = None
    cost_usd: float | None = None
    cpu_s: float | None = None
    gpu_s: float | None = None
    found_nothing: bool = False  # its last line says that there was nothing to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """Give the task back: it waits again, as this attempt, not before this time."""

    attempt: int
    failures: int
    launches: int
    backing_off_until: datetime | None
    reason: FailureReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End the task in a final state; ``failures`` as counted with this attempt.

    A firing tells its schedule how many ``turns`` it took, and how many seconds it ran.
    It may have ``found_nothing`` to do, and say so.
    """

    state: TaskState
    reason: FailureReason | None
    failures: int
    turns: int | None = None
    ran_s: float | None = None
    found_nothing: bool = False


# What a source is told when an attempt has ended.
Ending = Requeue | Finish
