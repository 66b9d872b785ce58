"""What is a lease, and what can be seen of one?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

LEASE_VERSION = 1


class LeaseState(StrEnum):
    """How far an attempt has come, as its lease says."""

    STARTING = "starting"  # written by the tick; the wrapper has not taken over yet
    RUNNING = "running"  # written by the wrapper before it starts the command
    FINISHED = "finished"  # written by the wrapper; its result is durable


class ReclaimReason(StrEnum):
    """Why a lease was ended by a tick instead of by its own wrapper."""

    DEAD_PID = "dead_pid"  # its wrapper died
    STALE_HEARTBEAT = "stale_heartbeat"  # its wrapper hung
    LEASE_EXPIRED = "lease_expired"  # past its maximum runtime, and its wrapper did not act
    NEVER_STARTED = "never_started"  # the tick or the wrapper died before the command started
    CORRUPT = "corrupt"  # its file is unreadable and nothing holds its lock
    LOST = "lost"  # the source calls it ours, but neither lease nor result exists
    REBOOTED = "rebooted"  # the machine restarted under it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process for ever: its number alone is used again, these together are not.

    ``start_ticks`` is field 22 of /proc/PID/stat; ``pid_ns`` the inode of the pid
    namespace in which ``pid`` counts; ``pgid`` the process group of the command.
    """

    boot_id: str
    pid: int
    start_ticks: int
    pgid: int
    pid_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an attempt occupies while its lease lives.

    ``shared_bytes`` is VRAM that is memory of the machine: it comes on top of ``memory_bytes``.
    """

    slots: int = 1
    memory_bytes: int = 0
    gpus: int = 0
    vram_bytes: int = 0
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All a wrapper needs in order to run the command and to report how it ended.

    Absolute paths.  ``kick_argv`` is the command that the wrapper becomes at its end;
    empty means that it just exits.  ``cgroup`` is a control group that the wrapper makes
    for the command alone, where one may be made.  ``agent_output`` and ``agent_outcomes`` are the
    programs that read what the command prints, as the output of an ``agent_kind`` (None: nobody
    reads it unless there is a need), and judge by it; by which rules ``agent_profile`` says, a JSON
    text, which only a wrapper reads.
    The command's environment is not here: it may
    hold secrets and reaches the wrapper as the wrapper's own environment.  ``attempt_life`` is the
    program that says of a command which may be silent for ``idle_output_s`` whether it does
    something, and ``gpu_report`` the command that it asks what GPUs do.
    """

    argv: tuple[str, ...]
    cwd: str
    stdin: str | None
    log: str
    log_max_bytes: int
    kill_grace_s: float
    idle_output_s: float | None
    results: str
    cancel: str
    kick: str
    tick_lock: str
    daemon_lock: str
    kick_argv: tuple[str, ...]
    cgroup: str | None = None
    agent_kind: str | None = None
    agent_output: str | None = None
    agent_outcomes: str | None = None
    agent_profile: str | None = None
    attempt_life: str | None = None
    gpu_report: tuple[str, ...] = ()


# The run of a lease whose attempt could not be prepared; it is given back, never launched.
NO_RUN = Run(
    argv=(),
    cwd="/",
    stdin=None,
    log="",
    log_max_bytes=0,
    kill_grace_s=0,
    idle_output_s=None,
    results="",
    cancel="",
    kick="",
    tick_lock="",
    daemon_lock="",
    kick_argv=(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Our claim on a task while an attempt lives.

    ``turns``, ``tokens``, ``cost_usd`` and ``cpu_s``, seconds of processors, are what it has used
    so far, as far as that is known; for ``silent_s`` it has shown no life, where it must.
    """

    task_id: str
    lease_id: str
    source: str
    agent: str
    attempt: int
    launches: int
    state: LeaseState
    host: str
    boot_id: str
    started_at: datetime
    heartbeat: datetime
    monotonic_started_ns: int
    monotonic_heartbeat_ns: int
    heartbeat_s: float
    max_runtime_s: float
    needs: Needs
    run: Run
    process: ProcessIdentity | None = None
    recipe: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    pool: str = "local"
    launcher: str = "local"
    handle: str | None = None
    schedule_id: str | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None
    turns: int | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    cpu_s: float | None = None
    silent_s: float | None = None
    model: str | None = None
    model_host: str | None = None  # where the model is used; None: no slot of it is
    tenant: str | None = None
    project: str | None = None
    gpu_share: float = 0.0  # of all its GPUs together: 1 for each whole one


class LeaseFault(StrEnum):
    """Why a lease file could not be read as a lease."""

    CORRUPT = "corrupt"  # empty, truncated, garbage, or not what its name says
    NEWER = "newer"  # written by a newer version of this program; must not be touched
    INACCESSIBLE = "inaccessible"  # the file is there, but cannot be read just now


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableLease:
    """A lease file that holds no lease we know."""

    fault: LeaseFault
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lay under a task's name once its lock was taken: nobody else changes it now."""

    lease: Lease | UnreadableLease | None = None
    has_result: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEntry:
    """What lies on disk under one task's name: lease, lock, or both.

    ``is_lock_held`` says whether any process holds the task lock; ``beat_ns`` is the
    heartbeat: CLOCK_MONOTONIC nanoseconds as last written into the lock's mtime.
    """

    task_id: str
    lease: Lease | UnreadableLease | None
    is_lock_held: bool
    beat_ns: int | None


class WrapperLife(StrEnum):
    """Whether the recorded wrapper process lives."""

    ALIVE = "alive"
    DEAD = "dead"  # gone, a zombie, or its number belongs to a stranger now
    UNRECORDED = "unrecorded"  # the lease names no process yet
    UNSEEN = "unseen"  # recorded in another pid namespace: its number means nothing here


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What an attempt's processes can be recognised by.

    ``is_lock_held`` spares a search: while the lock is held and the recorded wrapper
    lives, nobody needs to know what else lives.  ``is_leased`` is False where no lease
    can be read; then the search also tells whether a wrapper is among the processes.
    ``beat_ns`` is the last heartbeat: after the next one was due, a dead wrapper is dead.
    """

    task_id: str
    lease_id: str
    process: ProcessIdentity | None
    is_lock_held: bool
    is_leased: bool = True
    cgroup: str | None = None
    beat_ns: int | None = None
    heartbeat_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvidence:
    """What the process table says about one attempt.

    ``survivors`` counts the attempt's living processes, its wrapper included; it is looked
    up only where the lock is free or the wrapper is dead, because that search is dear.
    """

    wrapper: WrapperLife
    survivors: int = 0
