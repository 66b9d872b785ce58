"""What has happened in this tick so far, and who is told of it."""

from __future__ import annotations

from datetime import UTC

from tinyscheduler.core.queueing import key_of
from tinyscheduler.errors import LeaseConflict, StoreError, TinySchedulerError
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.plan import (
    Dispatch,
    Reason,
    Reclaimed,
    TickError,
    TickReport,
    TickStats,
    Wait,
)
from tinyscheduler.model.policy import DecidedBy
from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.model.tasks import FailureReason, TaskState
from tinyscheduler.tick.world import Mode
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.events import Details
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.leases import Lease, ReclaimReason
    from tinyscheduler.model.plan import Decision, Plan
    from tinyscheduler.model.policy import FailedPolicy
    from tinyscheduler.model.resources import GpuReading
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import Claim, Ending
    from tinyscheduler.ports import Policy, TaskSource
    from tinyscheduler.tick.world import TickSettings, World


@dataclass(slots=True, kw_only=True)
class Progress:
    """The working memory of one tick; gone when it ends."""

    world: World
    settings: TickSettings
    started_at: Instant
    mode: Mode
    should_stop: Callable[[], bool]
    errors: list[TickError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reclaims: list[Reclaimed] = field(default_factory=list)
    started: dict[tuple[str, str], Dispatch] = field(default_factory=dict)
    refused: dict[tuple[str, str], Wait] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    settled: int = 0
    firings: int = 0
    leases_scanned: int | None = None
    tasks_waiting: int = 0
    sources_down: frozenset[str] = frozenset()
    # Which policy was found for this tick, and which decides instead since it failed.
    policy: Policy | None = None
    substitute: Policy | None = None
    policy_name: str = ""
    policy_version: str = ""
    policy_failed: FailedPolicy | None = None
    policy_ms: float | None = None
    switches: tuple[Switch, ...] = ()
    # As read, and as changed since.
    coolings: dict[str, Cooling] = field(default_factory=dict)
    # Why trees were ended in this tick: the next look finds them merely dead.
    ended: dict[str, ReclaimReason] = field(default_factory=dict)
    # How far it looks into each line, once that proved to be too near.
    window: int | None = None
    # What was said of the GPUs when they could not be seen in this tick.
    gpus_failed: GpuReading | None = None
    # Who was at work interactively when something was due; None where nothing was.
    pressed_by: tuple[str, ...] | None = None
    memory: SchedulingMemory = field(default_factory=SchedulingMemory)
    # Who decided at last.
    decided_by: DecidedBy = DecidedBy(name="")
    # What was decided, on what and by whom, and is not kept yet; how much of it is.
    noted: list[tuple[Snapshot, Plan, DecidedBy]] = field(default_factory=list)
    kept: int = 0

    @property
    def tick_id(self) -> str:
        """The name of this tick: when it began, to the microsecond."""
        return f"{self.started_at.wall:%Y%m%dT%H%M%S.%fZ}"

    def note_round(self, snapshot: Snapshot, plan: Plan) -> None:
        """Note what was decided, if carrying it out changes anything."""
        if not plan.is_quiet:
            self.noted.append((snapshot, plan, self.decided_by))

    def keep_rounds(self) -> None:
        """Keep what was noted, so that it can be decided again; for when nobody waits for it."""
        if self.noted:
            self.attempt("keeping what was decided", self._record)

    def _record(self) -> None:
        # Loaded by ticks alone that have something to keep.
        from tinyscheduler import __version__
        from tinyscheduler.model.rounds import Round

        rounds = [
            Round(
                tick_id=self.tick_id,
                number=number,
                program=__version__,
                decided_by=decided_by,
                snapshot=snapshot,
                plan=plan,
                utc_offset_s=utc_offset_s(snapshot, decided_by),
            )
            for number, (snapshot, plan, decided_by) in enumerate(self.noted, start=self.kept + 1)
        ]
        self.kept += len(rounds)
        self.noted.clear()
        try:
            self.world.recorder().record(rounds)
        except StoreError as error:
            self.warn(f"what was decided is not on record: {error.what}")

    def fail(self, where: str, error: Exception) -> None:
        """Record what failed, once."""
        if isinstance(error, TinySchedulerError):
            message = error.what if error.hint is None else f"{error.what} ({error.hint})"
        else:
            message = f"{type(error).__name__}: {error}"
        entry = TickError(where=where, message=message)
        if entry not in self.errors:
            self.errors.append(entry)

    def warn(self, words: str) -> None:
        """Record what an operator should know, once."""
        if words not in self.warnings:
            self.warnings.append(words)

    def attempt(self, where: str, action: Callable[[], bool | None]) -> bool:
        """Do one thing so that its failure is told and stops nothing else."""
        try:
            return bool(action())
        except LeaseConflict:
            # Whoever holds the lock is newer than our look; the next look tells.
            return False
        except TinySchedulerError as error:
            self.fail(where, error)
        except Exception as error:  # noqa: BLE001 - one bad task must not stop the others
            self.fail(where, error)
        return False

    def notice(
        self,
        name: EventName,
        *,
        lease: Lease | None = None,
        task_id: str | None = None,
        agent: str | None = None,
        attempt: int | None = None,
        reason: str | None = None,
        details: Details = (),
    ) -> None:
        """Tell all observers of one happening; a dry run makes none."""
        if self.mode is Mode.DRY_RUN:
            return
        event = Event(
            at=self.world.clock.now().wall,
            name=name,
            task_id=lease.task_id if lease is not None else task_id,
            attempt=lease.attempt if lease is not None else attempt,
            agent=lease.agent if lease is not None else agent,
            reason=reason,
            details=details,
        )
        for observer in self.world.observers:
            observer.notice(event)

    def note_reclaim(self, task_id: str, agent: str, attempt: int, reason: ReclaimReason) -> None:
        """Record that an attempt was ended or given back."""
        self.reclaims.append(
            Reclaimed(task_id=task_id, agent=agent, attempt=attempt, reason=reason)
        )
        self.notice(
            EventName.LEASE_RECLAIMED,
            task_id=task_id,
            agent=agent,
            attempt=attempt,
            reason=reason.value,
        )

    def notice_ending(
        self,
        told: AttemptRecord | Claim,
        ending: Ending,
        state: TaskState,
        record: AttemptRecord | None,
    ) -> None:
        """Tell what became of a task whose attempt is over: where its source says it stands.

        That is not always what the ending asked for: a cancellation goes before it.
        """
        reason = FailureReason.CANCELLED if state is TaskState.CANCELLED else ending.reason
        details = (("exit_code", record.exit_code),) if record is not None else ()
        self.notice(
            _EVENT_OF[state],
            task_id=told.task_id,
            agent=told.agent,
            attempt=told.attempt,
            reason=reason.value if reason is not None else None,
            details=details,
        )

    def refuse(
        self, dispatch: Dispatch, reason: Reason, words: str, *, retry_after_s: float | None = None
    ) -> None:
        """Record why a task that was chosen does not start after all; the first reason stays."""
        wait = Wait(task=dispatch.task, reason=reason, words=words, retry_after_s=retry_after_s)
        self.refused.setdefault(key_of(dispatch.task), wait)

    def source(self, name: str) -> TaskSource:
        """Return the source of that name; what is of no configured one is never acted on."""
        return {source.name: source for source in self.world.sources}[name]

    def agent(self, name: str) -> AgentProfile | None:
        """Return the agent of that name; None if it is configured no more."""
        return next((agent for agent in self.settings.agents if agent.name == name), None)

    def spent_s(self) -> float:
        """Return how long this tick has been at it."""
        return (self.world.clock.now().monotonic_ns - self.started_at.monotonic_ns) / 1e9

    def report(self, *, holder: str | None = None) -> TickReport:
        """Return what this tick did so far."""
        now = self.world.clock.now()
        decisions = tuple(self._final_decisions())
        started = [decision for decision in decisions if isinstance(decision, Dispatch)]
        waits = [decision for decision in decisions if isinstance(decision, Wait)]
        names = {source.name for source in self.world.sources}
        return TickReport(
            tick_id=self.tick_id,
            started_at=self.started_at.wall,
            duration_ms=(now.monotonic_ns - self.started_at.monotonic_ns) / 1e6,
            dry_run=self.mode is Mode.DRY_RUN,
            locked=holder is not None,
            holder=holder,
            stats=TickStats(
                leases_scanned=self.leases_scanned or 0,
                leases_reclaimed=len(self.reclaims),
                leases_settled=self.settled,
                tasks_spawned=len(started),
                unassigned_matched=sum(start.task.agent is None for start in started),
                assigned_spawned=sum(start.task.agent is not None for start in started),
                tasks_blocked=sum(wait.reason is Reason.BLOCKED_BY for wait in waits),
                tasks_waiting=self.tasks_waiting,
                firings=self.firings,
                errors=len(self.errors),
            ),
            reclaims=tuple(self.reclaims),
            decisions=decisions,
            errors=tuple(self.errors),
            warnings=(*self.world.warnings, *self.warnings),
            policy=self.policy_name,
            policy_mode=self.settings.policy_mode,
            policy_version=self.policy_version,
            policy_fallback=None if self.policy_failed is None else self.policy_failed.cause,
            policy_ms=self.policy_ms,
            all_sources_down=bool(names) and names == self.sources_down,
            switches=self.switches,
        )

    def _final_decisions(self) -> Iterable[Decision]:
        """Merge what was started, in order, with why the others of the last look wait."""
        yield from self.started.values()
        for decision in self.decisions:
            key = key_of(decision.task)
            if key in self.started:
                continue
            yield self.refused.get(key, decision) if self.mode is Mode.ACT else decision
        # The last look left out what had been refused before it.
        looked_at = {key_of(decision.task) for decision in self.decisions}
        for key, wait in self.refused.items():
            if key not in self.started and key not in looked_at:
                yield wait


def utc_offset_s(snapshot: Snapshot, decided_by: DecidedBy) -> int | None:
    """Return how far the clocks of the place were ahead, for whoever decides again elsewhere.

    None where the hour was told to nobody but the built-in policy, which has no use for it.
    """
    if decided_by.version is None:
        return None
    here = snapshot.now.wall.astimezone().replace(tzinfo=UTC)
    return round((here - snapshot.now.wall).total_seconds())


_EVENT_OF = {
    TaskState.WAITING: EventName.TASK_REQUEUED,
    TaskState.DONE: EventName.TASK_FINISHED,
    TaskState.FAILED: EventName.TASK_FAILED,
    TaskState.PARKED: EventName.TASK_PARKED,
    TaskState.CANCELLED: EventName.TASK_CANCELLED,
}
