"""One tick: lock, observe, decide, apply, report.

The shell around `core.decide`.  It owns the order in which durable things happen;
everything it touches comes in through ports, so the simulator runs this very code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, assert_never

from tinyscheduler.core import retry
from tinyscheduler.core.decide import decide
from tinyscheduler.core.leases import trace_of, trace_of_claim
from tinyscheduler.errors import (
    LaunchError,
    LeaseConflict,
    PolicyError,
    SourceError,
    StoreError,
    TinySchedulerError,
)
from tinyscheduler.model.config import OnExpire
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.leases import (
    NO_RUN,
    Lease,
    LeaseState,
    Needs,
    ReclaimReason,
    UnreadableLease,
)
from tinyscheduler.model.plan import (
    AwaitSource,
    Dispatch,
    EndTree,
    Keep,
    Reason,
    Reclaim,
    Reclaimed,
    RepairLost,
    Settle,
    SettleUnreadable,
    Suspect,
    Sweep,
    TickError,
    TickReport,
    TickStats,
    Wait,
)
from tinyscheduler.model.snapshot import SchedulingMemory, Snapshot, SourceView
from tinyscheduler.model.tasks import (
    Claim,
    FailureReason,
    Finish,
    Outcome,
    Requeue,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.leases import LeaseEntry, Trace
    from tinyscheduler.model.plan import Decision, Plan, Verdict
    from tinyscheduler.model.snapshot import LeaseScan, Rules, UnreadableResult
    from tinyscheduler.model.tasks import AttemptResult, Ending, TaskSpec, WaitingTask
    from tinyscheduler.ports import (
        Clock,
        Launcher,
        LeaseStore,
        Ledger,
        MemoryStore,
        Observer,
        Policy,
        Probe,
        TaskLock,
        TaskSource,
        TickLock,
    )

# Ending a tree, then settling or reclaiming it, then starting: each needs a fresh look.
# More rounds than that mean that the world changes as fast as we look; the next tick goes on.
_MOST_CLEANING_ROUNDS = 6
_LAST_LOOK_S = 1.0
# Reasons to end an attempt whose wrapper lives.
_LATE = frozenset({ReclaimReason.STALE_HEARTBEAT, ReclaimReason.LEASE_EXPIRED})


class Mode(Enum):
    """Whether a tick acts."""

    ACT = "act"
    DRY_RUN = "dry_run"  # looks and decides, takes no lock, sleeps for nothing, writes nothing


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


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Every port a tick needs, wired."""

    clock: Clock
    lock: TickLock
    sources: tuple[TaskSource, ...]
    store: LeaseStore
    launcher: Launcher
    probe: Probe
    policy: Policy
    fallback: Policy
    ledger: Ledger
    memory: MemoryStore
    observers: tuple[Observer, ...]
    # Filled by adapters that have something to say but no failure to raise.
    warnings: list[str] = field(default_factory=list)


def never() -> bool:
    """Answer that nobody asked the tick to stop."""
    return False


def run_ticks(
    world: World, settings: TickSettings, *, should_stop: Callable[[], bool] = never
) -> tuple[TickReport, bool]:
    """Tick, and tick again while somebody wished for it, until the budget is spent.

    Returns the first tick's report, and whether a wish is left that nobody will act on
    unless another tick is started.
    """
    started = world.clock.now()
    report = tick(world, settings, should_stop=should_stop)
    if report.locked:
        return report, False
    # Looked at only after unlocking: a wish that came before it was refused by our lock,
    # one that comes after it will find the lock free.
    while world.lock.is_kicked():
        spent_s = (world.clock.now().monotonic_ns - started.monotonic_ns) / 1e9
        if should_stop() or spent_s >= settings.budget_s:
            return report, True
        if tick(world, settings, should_stop=should_stop).locked:
            break
    return report, False


def tick(
    world: World,
    settings: TickSettings,
    mode: Mode = Mode.ACT,
    *,
    should_stop: Callable[[], bool] = never,
) -> TickReport:
    """Do one tick and report it; a report with ``locked`` means another tick was at it."""
    run = _Tick(
        world=world,
        settings=settings,
        started_at=world.clock.now(),
        mode=mode,
        should_stop=should_stop,
    )
    if mode is Mode.DRY_RUN:
        return run.preview()
    holder = world.lock.acquire()
    if holder is not None:
        return run.report(holder=holder)
    try:
        world.lock.forget_kick()
        run.act()
        report = run.report()
        for observer in world.observers:
            observer.report(report)
    finally:
        world.lock.release()
    return report


@dataclass(slots=True, kw_only=True)
class _Tick:
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
    leases_scanned: int | None = None
    tasks_waiting: int = 0
    sources_down: frozenset[str] = frozenset()
    policy_name: str = ""
    # Why trees were ended in this tick: the next look finds them merely dead.
    ended: dict[str, ReclaimReason] = field(default_factory=dict)
    memory: SchedulingMemory = field(default_factory=SchedulingMemory)

    # -- observe ------------------------------------------------------------------

    def observe(self) -> Snapshot:
        """Read everything, leases first, then results, then the sources.

        In this order a normal end is never taken for a lost lease: what a source calls
        ours was leased before we read the leases, or is settled by nobody but us.
        """
        world = self.world
        host = world.probe.read()
        scan = world.store.scan()
        sources = tuple(self._look(source) for source in world.sources)
        now = world.clock.now()
        if self.leases_scanned is None:
            self.leases_scanned = sum(entry.lease is not None for entry in scan.entries)
        self.tasks_waiting = sum(view.waiting_total for view in sources)
        self.sources_down = frozenset(view.name for view in sources if not view.is_up)
        return Snapshot(
            now=now,
            host=host,
            scan=scan,
            evidence=world.launcher.inspect(_suspects(scan, sources)),
            sources=sources,
            agents=self.settings.agents,
            memory=self.memory,
            rules=self.settings.rules,
            is_enabled=self.settings.is_enabled,
        )

    def _look(self, source: TaskSource) -> SourceView:
        try:
            return source.look(window=self.settings.window)
        except SourceError as error:
            self.fail(f"source {source.name}", error)
            return SourceView(name=source.name, error=error.what)

    def decide(self, snapshot: Snapshot) -> Plan:
        """Ask the policy; a policy that fails is replaced by the built-in one, loudly."""
        world = self.world
        try:
            self.policy_name = world.policy.name
            return decide(snapshot, world.policy)
        except PolicyError as error:
            self.fail(f"policy {world.policy.name}", error)
            self.policy_name = world.fallback.name
            return decide(snapshot, world.fallback)

    # -- act ----------------------------------------------------------------------

    def preview(self) -> TickReport:
        """Look and decide, and report what a tick would do."""
        self.memory = self.world.memory.load()
        plan = self.decide(self.observe())
        self.decisions = plan.decisions
        for verdict in plan.verdicts:
            self._announce(verdict)
        return self.report()

    def act(self) -> None:
        """Settle and reclaim, then start, looking again whenever the world has changed."""
        saved = self.memory = self.world.memory.load()
        rounds = 0
        while True:
            snapshot = self.observe()
            plan = self.decide(snapshot)
            self.decisions = plan.decisions
            if rounds < _MOST_CLEANING_ROUNDS and self.clean_up(plan, snapshot):
                rounds += 1
                continue
            if not self.start_all(plan, snapshot):
                break
        if self.memory != saved:
            self._attempt("scheduling memory", partial(self.world.memory.save, self.memory))

    def clean_up(self, plan: Plan, snapshot: Snapshot) -> bool:
        """Carry out all verdicts; return whether anything was given back or ended."""
        self._remember_stale(plan, snapshot)
        ends = [verdict for verdict in plan.verdicts if isinstance(verdict, EndTree)]
        changed = self._end_trees(ends, snapshot)
        for verdict in plan.verdicts:
            action = partial(self._carry_out, verdict, snapshot)
            changed |= self._attempt(_name_of(verdict), action)
        return changed

    def start_all(self, plan: Plan, snapshot: Snapshot) -> bool:
        """Start what was decided, in order; return whether to look again before going on.

        Capacity is looked at again before each start that waited for its turn.
        """
        for decision in plan.decisions:
            if not isinstance(decision, Dispatch) or _key(decision.task) in self.refused:
                continue
            wait_s = self._stagger_left_s()
            if wait_s > 0:
                if self._spent_s() + wait_s > self.settings.budget_s:
                    self._stagger_rest(plan, wait_s)
                    return False
                self.world.clock.sleep(wait_s)
                if self.should_stop():
                    self._stagger_rest(plan, wait_s)
                    return False
                return True
            start = partial(self._start, decision, snapshot)
            self._attempt(f"task {decision.task.task_id}", start)
            if _key(decision.task) not in self.started:
                words = "it could not be started; the report's errors say why"
                self._refuse(decision, Reason.UNPLACED, words)
        return False

    def _attempt(self, where: str, action: Callable[[], bool | None]) -> bool:
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

    # -- verdicts -----------------------------------------------------------------

    def _carry_out(self, verdict: Verdict, snapshot: Snapshot) -> bool:
        match verdict:
            case Settle(result=result):
                return self._settle(result, snapshot)
            case SettleUnreadable(entry=entry, result=unreadable):
                return self._settle_unreadable(entry, unreadable, snapshot)
            case Reclaim(entry=entry, reason=reason):
                return self._reclaim(entry, reason, snapshot)
            case RepairLost(claim=claim):
                return self._repair(claim, snapshot)
            case Sweep(entry=entry):
                self._clear(entry, None)
                return False
            case Keep() | AwaitSource() | Suspect() | EndTree():
                self._announce(verdict)
                return False
            case _:
                assert_never(verdict)

    def _settle(self, result: AttemptResult, snapshot: Snapshot) -> bool:
        """Deliver a recorded result."""
        claim = _claim(snapshot, result.task_id, result.lease_id)
        reason = None
        if result.failure_reason is FailureReason.ABORTED:
            # Its wrapper obeyed our SIGTERM; what counts is why we sent it.
            reason = self.ended.get(result.lease_id)
        if reason is not None:
            result = replace(result, failure_reason=retry.failure_of(reason))
        ending = None
        if claim is not None and reason is not None:
            ending = self._conclude_reclaim(claim, reason, snapshot)
        elif claim is not None:
            rules, now = self.settings.rules, snapshot.now.wall
            ending = retry.conclude_result(claim, result, rules=rules, now=now)
        record = AttemptRecord(
            lease_id=result.lease_id,
            task_id=result.task_id,
            source=result.source,
            agent=result.agent,
            attempt=result.attempt,
            started_at=result.started_at,
            ended_at=result.ended_at,
            outcome=result.outcome,
            failure_reason=result.failure_reason,
            reclaim_reason=reason,
            exit_code=result.exit_code,
            signal=result.signal,
            message=result.message,
            turns=result.turns,
            peak_rss_mb=result.peak_rss_mb,
            log=result.log,
        )
        self._conclude(record, ending, record)
        self.settled += 1
        return True

    def _settle_unreadable(
        self, entry: LeaseEntry | None, result: UnreadableResult, snapshot: Snapshot
    ) -> bool:
        """Park a task whose result cannot be read: it may have succeeded, so it is not re-run."""
        claim = next(
            (
                claim
                for source in snapshot.sources
                for claim in source.claims
                if claim.lease_id == result.lease_id
            ),
            None,
        )
        self.warn(f"result {result.lease_id}: {result.message}")
        if claim is None:
            # Its source was told before a crash, so only files are left; the lease goes
            # first, or it would look like an attempt without a result.
            self._clear(entry, result.lease_id)
            return True
        record = self._record(claim, snapshot, outcome=Outcome.FAILED, reason=None)
        record = replace(record, failure_reason=FailureReason.ABORTED, message=result.message)
        ending = Finish(
            state=TaskState.PARKED, reason=FailureReason.ABORTED, failures=claim.failures + 1
        )
        self._conclude(record, ending, record)
        self.settled += 1
        return True

    def _reclaim(self, entry: LeaseEntry, reason: ReclaimReason, snapshot: Snapshot) -> bool:
        """Give back the task of an attempt that is over without a result."""
        lease = entry.lease if isinstance(entry.lease, Lease) else None
        claim = _claim(snapshot, entry.task_id, lease.lease_id if lease else None)
        if lease is not None:
            reason = self.ended.get(lease.lease_id, reason)
        if isinstance(entry.lease, UnreadableLease):
            self._notice(EventName.LEASE_CORRUPT, task_id=entry.task_id, reason=entry.lease.message)
        if claim is None:
            # The tick died between creating the lease and claiming the task, or the source
            # moved on: there is nothing to give back, only to tidy up.
            self._clear(entry, lease.lease_id if lease else None)
            self._note_reclaim(
                entry.task_id, lease.agent if lease else "", lease.attempt if lease else 0, reason
            )
            return True
        self._give_back(claim, reason, snapshot, lease=lease)
        return True

    def _repair(self, claim: Claim, snapshot: Snapshot) -> bool:
        """Give back a task that is ours by name only: its lease and result are gone."""
        self._give_back(claim, ReclaimReason.LOST, snapshot, lease=None)
        return True

    def _give_back(
        self,
        claim: Claim,
        reason: ReclaimReason,
        snapshot: Snapshot,
        *,
        lease: Lease | None,
    ) -> None:
        ending = self._conclude_reclaim(claim, reason, snapshot)
        record = None
        if reason is not ReclaimReason.NEVER_STARTED:
            rebooted = reason is ReclaimReason.REBOOTED
            outcome = Outcome.INTERRUPTED if rebooted else Outcome.FAILED
            record = self._record(claim, snapshot, outcome=outcome, reason=reason, lease=lease)
        self._conclude(claim, ending, record)
        self._note_reclaim(claim.task_id, claim.agent, claim.attempt, reason)

    def _conclude_reclaim(self, claim: Claim, reason: ReclaimReason, snapshot: Snapshot) -> Ending:
        agent = self._agent(claim.agent)
        return retry.conclude_reclaim(
            claim,
            reason,
            rules=self.settings.rules,
            now=snapshot.now.wall,
            on_expire=agent.on_expire if agent is not None else OnExpire.REQUEUE,
        )

    def _record(
        self,
        claim: Claim,
        snapshot: Snapshot,
        *,
        outcome: Outcome,
        reason: ReclaimReason | None,
        lease: Lease | None = None,
    ) -> AttemptRecord:
        interrupted = outcome is Outcome.INTERRUPTED
        return AttemptRecord(
            lease_id=claim.lease_id,
            task_id=claim.task_id,
            source=claim.source,
            agent=claim.agent,
            attempt=claim.attempt,
            started_at=lease.started_at if lease is not None else None,
            ended_at=snapshot.now.wall,
            outcome=outcome,
            failure_reason=None if interrupted or reason is None else retry.failure_of(reason),
            reclaim_reason=reason,
            turns=lease.turns if lease is not None else None,
            log=lease.run.log if lease is not None else None,
        )

    def _clear(self, entry: LeaseEntry | None, lease_id: str | None) -> None:
        """Remove what lies under a task's or a lease's name, when no source need be told."""
        lock = self._lock(entry.task_id) if entry is not None else None
        try:
            self.world.store.clear(lock, lease_id)
        finally:
            # Where the disk refuses; a daemon would hold the lock for life.
            if lock is not None:
                lock.close()

    def _conclude(
        self, told: AttemptRecord | Claim, ending: Ending | None, record: AttemptRecord | None
    ) -> None:
        """Write the ledger, tell the source, then remove lease, result and lock: in this order.

        Whatever is done twice after a crash is refused the second time: the ledger by the
        lease id, the source by compare-and-set.  The ledger comes first, because nothing
        on disk would remind us of it once the source has moved on.
        """
        lock = self._lock(told.task_id)
        try:
            if record is not None:
                self.world.ledger.record(record)
            if ending is not None and self._source(told.source).settle(
                told.task_id, lease_id=told.lease_id, ending=ending
            ):
                self._notice_ending(told, ending, record)
            self.world.store.clear(lock, told.lease_id)
        finally:
            lock.close()

    def _end_trees(self, ends: list[EndTree], snapshot: Snapshot) -> bool:
        """End the processes of hung and orphaned attempts, all within one grace period."""
        ends = self._still_late(ends, snapshot)
        if not ends:
            return False
        for end in ends:
            self.ended.setdefault(end.trace.lease_id, end.reason)
        gone = self.world.launcher.end(
            [end.trace for end in ends], grace_s=self.settings.rules.kill_grace_s
        )
        for end in ends:
            if end.trace.lease_id not in gone:
                self.warn(
                    f"task {end.trace.task_id}: some of its processes did not end yet; "
                    "its slot stays occupied until they do"
                )
        return bool(gone)

    def _still_late(self, ends: list[EndTree], snapshot: Snapshot) -> list[EndTree]:
        """Look once more before ending an attempt for its silence or for its age.

        While the disk refuses to be written neither proves anything: a wrapper may only
        wait for room to record its result, or be unable to beat.
        """
        late = [end for end in ends if end.reason in _LATE]
        if not late:
            return ends
        silent = [end for end in late if end.reason is ReclaimReason.STALE_HEARTBEAT]
        moved = self._moved(snapshot) if silent else frozenset()
        try:
            self.world.memory.save(self.memory)
        except StoreError as error:
            self.fail("ending attempts that are late", error)
            return [end for end in ends if end not in late]
        return [end for end in ends if end not in silent or end.trace.task_id not in moved]

    def _moved(self, snapshot: Snapshot) -> frozenset[str]:
        """Return the tasks whose heartbeat has moved since it was judged.

        Two joint freezes in a row can show a healthy wrapper stale twice; one that runs
        beats within moments of waking up, as we did.
        """
        judged = {entry.task_id: entry.beat_ns for entry in snapshot.scan.entries}
        self.world.clock.sleep(_LAST_LOOK_S)
        return frozenset(
            entry.task_id
            for entry in self.world.store.scan().entries
            if entry.beat_ns != judged.get(entry.task_id)
        )

    def _remember_stale(self, plan: Plan, snapshot: Snapshot) -> None:
        """Keep sightings of heartbeats that have not moved since; add the new ones."""
        beats = {
            (entry.lease.lease_id, entry.beat_ns)
            for entry in snapshot.scan.entries
            if isinstance(entry.lease, Lease)
        }
        known = tuple(
            sighting
            for sighting in self.memory.stale
            if (sighting.lease_id, sighting.beat_ns) in beats
        )
        new = tuple(verdict.sighting for verdict in plan.verdicts if isinstance(verdict, Suspect))
        self.memory = replace(self.memory, stale=known + new)

    # -- starts -------------------------------------------------------------------

    def _start(self, dispatch: Dispatch, snapshot: Snapshot) -> None:
        """Lease, claim, launch: the lease exists before the claim, the claim before the process."""
        task = dispatch.task
        store, source = self.world.store, self._source(task.source)
        agent = self._agent(dispatch.agent)
        assert agent is not None  # noqa: S101 - admitted, so configured
        spec = source.describe(task.task_id)
        lock = store.acquire(task.task_id)
        if lock is None:
            self._refuse(dispatch, Reason.UNPLACED, "its task lock is held")
            return
        try:
            bare = self._lease(task, agent, spec, lock, snapshot)
            lease, fault = self._prepare(bare, spec)
            store.create(lock, lease)
            claimed = source.claim(
                task.task_id, lease_id=lease.lease_id, agent=agent.name, attempt=task.attempt
            )
            if not claimed:
                store.clear(lock, lease.lease_id)
                self._refuse(dispatch, Reason.SOURCE_REFUSED, "it was taken or changed meanwhile")
                return
            self._notice(EventName.TASK_CLAIMED, lease=lease)
            fault = fault or self._launch(lease, lock)
            if fault is not None:
                self._give_up_launch(dispatch, lease, lock, fault)
                return
        finally:
            lock.close()
        self._notice(EventName.TASK_STARTED, lease=lease)
        self.started[_key(task)] = dispatch
        self.tasks_waiting -= 1
        now = self.world.clock.now()
        self.memory = replace(
            self.memory, last_start_ns=now.monotonic_ns, last_start_boot_id=now.boot_id
        )

    def _prepare(self, lease: Lease, spec: TaskSpec) -> tuple[Lease, LaunchError | None]:
        try:
            return self.world.launcher.prepare(lease, spec), None
        except LaunchError as error:
            return lease, error

    def _launch(self, lease: Lease, lock: TaskLock) -> LaunchError | None:
        try:
            self.world.launcher.launch(lease, lock)
        except LaunchError as error:
            return error
        return None

    def _give_up_launch(
        self, dispatch: Dispatch, lease: Lease, lock: TaskLock, fault: LaunchError
    ) -> None:
        """Give the task back at once: it keeps its place and its attempt number."""
        task = dispatch.task
        self.fail(f"start of task {task.task_id}", fault)
        claim = Claim(
            task_id=task.task_id,
            source=task.source,
            lease_id=lease.lease_id,
            agent=dispatch.agent,
            attempt=task.attempt,
            failures=task.failures,
            launches=task.launches,
            max_attempts=None,
            cancel_requested=False,
        )
        ending = retry.conclude_launch_failure(claim, rules=self.settings.rules)
        source = self._source(task.source)
        if source.settle(task.task_id, lease_id=lease.lease_id, ending=ending):
            self._notice_ending(claim, ending, None)
        self.world.store.clear(lock, lease.lease_id)
        self._refuse(dispatch, Reason.UNPLACED, fault.what)

    def _lease(
        self,
        task: WaitingTask,
        agent: AgentProfile,
        spec: TaskSpec,
        lock: TaskLock,
        snapshot: Snapshot,
    ) -> Lease:
        now = self.world.clock.now()
        runtime_s = spec.max_runtime_s or agent.max_runtime_s or self.settings.max_runtime_s
        memory_bytes = spec.memory_bytes or agent.memory_bytes or 0
        return Lease(
            task_id=task.task_id,
            lease_id=lock.lease_id,
            source=task.source,
            agent=agent.name,
            attempt=task.attempt,
            launches=task.launches,
            state=LeaseState.STARTING,
            host=snapshot.host.hostname,
            boot_id=now.boot_id,
            started_at=now.wall,
            heartbeat=now.wall,
            monotonic_started_ns=now.monotonic_ns,
            monotonic_heartbeat_ns=now.monotonic_ns,
            heartbeat_s=self.settings.heartbeat_s,
            max_runtime_s=runtime_s,
            needs=Needs(
                memory_bytes=memory_bytes,
                gpus=spec.gpus,
                vram_bytes=spec.vram_bytes or agent.vram_bytes or 0,
            ),
            run=NO_RUN,
            recipe=spec.recipe,
            metadata=spec.labels,
            max_turns=spec.max_turns or agent.max_turns,
            model=spec.model or agent.model,
        )

    def _stagger_left_s(self) -> float:
        """Return how long the next start must still wait for its distance to the last one."""
        last_ns = self.memory.last_start_ns
        now = self.world.clock.now()
        if last_ns is None or self.memory.last_start_boot_id != now.boot_id:
            return 0.0
        return max(0.0, self.settings.stagger_s - (now.monotonic_ns - last_ns) / 1e9)

    def _stagger_rest(self, plan: Plan, wait_s: float) -> None:
        for decision in plan.decisions:
            if isinstance(decision, Dispatch) and _key(decision.task) not in self.started:
                words = (
                    f"starts are {self.settings.stagger_s:g} s apart, the next in {wait_s:.1f} s"
                )
                self._refuse(decision, Reason.STAGGERED, words)

    def _spent_s(self) -> float:
        return (self.world.clock.now().monotonic_ns - self.started_at.monotonic_ns) / 1e9

    def _refuse(self, dispatch: Dispatch, reason: Reason, words: str) -> None:
        wait = Wait(task=dispatch.task, reason=reason, words=words)
        self.refused.setdefault(_key(dispatch.task), wait)

    # -- looking things up --------------------------------------------------------

    def _lock(self, task_id: str) -> TaskLock:
        lock = self.world.store.acquire(task_id)
        if lock is None:
            message = f"the lock of task {task_id} is held"
            raise LeaseConflict(message)
        return lock

    def _source(self, name: str) -> TaskSource:
        """Return the source of that name; what is of no configured one is never acted on."""
        return {source.name: source for source in self.world.sources}[name]

    def _agent(self, name: str) -> AgentProfile | None:
        return next((agent for agent in self.settings.agents if agent.name == name), None)

    # -- report -------------------------------------------------------------------

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

    def _announce(self, verdict: Verdict) -> None:
        """Say of one verdict what an operator should know, or would see happen."""
        match verdict:
            case Keep(entry=entry, report=str(words)):
                self.warn(f"task {entry.task_id}: {words}")
            case AwaitSource(entry=entry, source=name):
                self.warn(f"task {entry.task_id}: ended; source {name} has yet to take its result")
            case Suspect(entry=entry):
                self.warn(f"task {entry.task_id}: its heartbeat is stale, seen once")
            case EndTree() if self.mode is Mode.DRY_RUN:
                self._note_reclaim(
                    verdict.trace.task_id, verdict.agent, verdict.attempt, verdict.reason
                )
            case Reclaim(entry=entry, reason=reason):
                lease = entry.lease if isinstance(entry.lease, Lease) else None
                agent, attempt = (lease.agent, lease.attempt) if lease else ("", 0)
                self._note_reclaim(entry.task_id, agent, attempt, reason)
            case RepairLost(claim=claim):
                self._note_reclaim(claim.task_id, claim.agent, claim.attempt, ReclaimReason.LOST)
            case Settle() | SettleUnreadable():
                self.settled += 1
            case _:
                pass

    def _note_reclaim(self, task_id: str, agent: str, attempt: int, reason: ReclaimReason) -> None:
        self.reclaims.append(
            Reclaimed(task_id=task_id, agent=agent, attempt=attempt, reason=reason)
        )
        self._notice(
            EventName.LEASE_RECLAIMED,
            task_id=task_id,
            agent=agent,
            attempt=attempt,
            reason=reason.value,
        )

    def _notice_ending(
        self, told: AttemptRecord | Claim, ending: Ending, record: AttemptRecord | None
    ) -> None:
        name = EventName.TASK_REQUEUED if isinstance(ending, Requeue) else _EVENT_OF[ending.state]
        details = (("exit_code", record.exit_code),) if record is not None else ()
        self._notice(
            name,
            task_id=told.task_id,
            agent=told.agent,
            attempt=told.attempt,
            reason=ending.reason.value if ending.reason is not None else None,
            details=details,
        )

    def _notice(
        self,
        name: EventName,
        *,
        lease: Lease | None = None,
        task_id: str | None = None,
        agent: str | None = None,
        attempt: int | None = None,
        reason: str | None = None,
        details: tuple[tuple[str, int | None], ...] = (),
    ) -> None:
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

    def report(self, *, holder: str | None = None) -> TickReport:
        """Return what this tick did so far."""
        now = self.world.clock.now()
        decisions = tuple(self._final_decisions())
        started = [decision for decision in decisions if isinstance(decision, Dispatch)]
        waits = [decision for decision in decisions if isinstance(decision, Wait)]
        names = {source.name for source in self.world.sources}
        return TickReport(
            tick_id=f"{self.started_at.wall:%Y%m%dT%H%M%S.%fZ}",
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
                errors=len(self.errors),
            ),
            reclaims=tuple(self.reclaims),
            decisions=decisions,
            errors=tuple(self.errors),
            warnings=(*self.world.warnings, *self.warnings),
            policy=self.policy_name,
            all_sources_down=bool(names) and names == self.sources_down,
        )

    def _final_decisions(self) -> Iterable[Decision]:
        """Merge what was started, in order, with why the others of the last look wait."""
        yield from self.started.values()
        for decision in self.decisions:
            key = _key(decision.task)
            if key in self.started:
                continue
            yield self.refused.get(key, decision) if self._acts() else decision

    def _acts(self) -> bool:
        return self.mode is Mode.ACT


_EVENT_OF = {
    TaskState.DONE: EventName.TASK_FINISHED,
    TaskState.FAILED: EventName.TASK_FAILED,
    TaskState.PARKED: EventName.TASK_PARKED,
    TaskState.CANCELLED: EventName.TASK_CANCELLED,
}


def _key(task: WaitingTask) -> tuple[str, str]:
    return (task.source, task.task_id)


def _claim(snapshot: Snapshot, task_id: str, lease_id: str | None) -> Claim | None:
    """Return the source's claim for this task, under exactly this lease where one is known."""
    for source in snapshot.sources:
        for claim in source.claims:
            if claim.task_id == task_id and lease_id in (None, claim.lease_id):
                return claim
    return None


def _suspects(scan: LeaseScan, sources: tuple[SourceView, ...]) -> list[Trace]:
    """Name all attempts whose processes decide what becomes of them."""
    recorded = {result.lease_id for result in scan.results}
    traces = [
        trace_of(entry, entry.lease)
        for entry in scan.entries
        if isinstance(entry.lease, Lease)
        # A recorded result and a free lock need no look at processes: it is over.
        and (entry.is_lock_held or entry.lease.lease_id not in recorded)
    ]
    held = {entry.task_id for entry in scan.entries if entry.is_lock_held}
    leased = {trace.lease_id for trace in traces}
    traces.extend(
        trace_of_claim(claim, is_lock_held=claim.task_id in held)
        for source in sources
        for claim in source.claims
        if claim.lease_id not in leased
        and (claim.task_id in held or claim.lease_id not in recorded)
    )
    return traces


def _name_of(verdict: Verdict) -> str:
    match verdict:
        case Settle(result=result):
            return f"settling task {result.task_id}"
        case SettleUnreadable(result=unreadable):
            return f"settling {unreadable.lease_id}"
        case EndTree(trace=trace):
            return f"ending task {trace.task_id}"
        case RepairLost(claim=claim):
            return f"repairing task {claim.task_id}"
        case _:
            return f"lease of task {verdict.entry.task_id}"
