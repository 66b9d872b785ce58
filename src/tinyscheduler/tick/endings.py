"""What becomes of attempts that are over, lost or hung: the verdicts, carried out."""

from __future__ import annotations

from functools import partial

from tinyscheduler.core import retry
from tinyscheduler.errors import LeaseConflict, StoreError
from tinyscheduler.model.config import SHELL_AGENT, OnExpire
from tinyscheduler.model.events import EventName
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.leases import Found, Lease, LeaseState, ReclaimReason, UnreadableLease
from tinyscheduler.model.plan import (
    AwaitSource,
    EndTree,
    Keep,
    PassOnCancel,
    Reclaim,
    RepairLost,
    Settle,
    SettleUnreadable,
    Suspect,
    Sweep,
    SweepCancel,
)
from tinyscheduler.model.tasks import FailureReason, Finish, Outcome, TaskState
from tinyscheduler.tick.firing import find_schedule, tell_if_reported, tell_schedule
from tinyscheduler.tick.world import Mode
from tinyscheduler.values import assert_never, dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.leases import LeaseEntry
    from tinyscheduler.model.plan import Plan, Verdict
    from tinyscheduler.model.snapshot import Snapshot, UnreadableResult
    from tinyscheduler.model.tasks import AttemptResult, Claim, Ending
    from tinyscheduler.ports import TaskLock
    from tinyscheduler.tick.progress import Progress

_NOTHING = Found()
_RECORDED = Found(has_result=True)
_LAST_LOOK_S = 1.0
# On a machine that freezes in each of them nothing is ended for its silence.
_MOST_LAST_LOOKS = 5
# Reasons to end an attempt whose wrapper lives.
_LATE = frozenset({ReclaimReason.STALE_HEARTBEAT, ReclaimReason.LEASE_EXPIRED})


@dataclass(slots=True, kw_only=True)
class Endings:
    """Settles, reclaims, repairs and ends, and owns the order in which that is written down."""

    progress: Progress
    # Somebody wished for a tick while this one slept, and was taken at his word.
    has_wish: bool = False

    def clean_up(self, plan: Plan, snapshot: Snapshot) -> bool:
        """Carry out all verdicts; return whether to look again.

        That is where anything was given back or ended, or somebody wished for a tick.
        """
        self.has_wish = False
        self._remember_stale(plan, snapshot)
        ends = [verdict for verdict in plan.verdicts if isinstance(verdict, EndTree)]
        changed = self._end_trees(ends, snapshot)
        for verdict in plan.verdicts:
            action = partial(self._carry_out, verdict, snapshot)
            if self.progress.attempt(_name_of(verdict), action):
                changed = True
                self._lift_deferrals(verdict)
        return changed or self.has_wish

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
                self._clear(entry, None, _NOTHING)
                return False
            case PassOnCancel(claim=claim):
                self.progress.world.store.request_cancel(claim.lease_id)
                return False
            case SweepCancel(lease_id=lease_id):
                self.progress.world.store.clear(None, lease_id)
                return False
            case Keep() | AwaitSource() | Suspect() | EndTree():
                self.announce(verdict)
                return False
            case _:
                assert_never(verdict)

    def _lift_deferrals(self, verdict: Verdict) -> None:
        """Let the models be looked at again of which the end of an attempt freed a slot."""
        if not self.progress.settings.heeds_ends:
            return
        if not isinstance(verdict, Settle | SettleUnreadable | Reclaim) or verdict.entry is None:
            return
        lease, memory = verdict.entry.lease, self.progress.memory
        if isinstance(lease, Lease) and lease.model_host is not None and memory.deferrals:
            places = self.progress.settings.inventory.models
            freed = {place.model for place in places if place.host == lease.model_host}
            left = tuple(one for one in memory.deferrals if one.model not in freed)
            self.progress.memory = replace(memory, deferrals=left)

    def _settle(self, result: AttemptResult, snapshot: Snapshot) -> bool:
        """Deliver a recorded result."""
        claim = _claim(snapshot, result.task_id, result.lease_id)
        reason = None
        if result.failure_reason is FailureReason.ABORTED:
            # Its wrapper obeyed our SIGTERM; what counts is why we sent it.
            reason = self.progress.ended.get(result.lease_id)
        if reason is not None:
            outcome, failure = Outcome.FAILED, retry.failure_of(reason)
            result = replace(result, outcome=outcome, failure_reason=failure)
        ending = None
        if claim is not None and reason is not None:
            ending = self._conclude_reclaim(claim, reason, snapshot)
        elif claim is not None:
            rules, now = self.progress.settings.rules, snapshot.now.wall
            has_account = self._has_account(result)
            ending = retry.conclude_result(
                claim, result, rules=rules, now=now, has_account=has_account
            )
        if isinstance(ending, Finish) and claim is not None and claim.schedule_id is not None:
            ending = replace(ending, turns=result.turns, ran_s=result.duration_s)
        # Before its task is given back: nothing else of its account starts in between.
        self._heed_provider(result, snapshot)
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
            tokens=result.tokens,
            cost_usd=result.cost_usd,
            cpu_s=result.cpu_s,
            gpu_s=result.gpu_s,
            schedule_id=None if claim is None else claim.schedule_id,
        )
        self._conclude(record, ending, record, _RECORDED)
        self.progress.settled += 1
        return True

    def _heed_provider(self, result: AttemptResult, snapshot: Snapshot) -> None:
        """Let the account cool, pause the agent, or note that its account is let in again."""
        is_refused = result.failure_reason in retry.NO_FAULT_OF_THE_TASK
        has_succeeded = result.outcome is Outcome.SUCCEEDED and bool(self.progress.coolings)
        if (is_refused or has_succeeded) and self._has_account(result):
            from tinyscheduler.tick.providers import heed_provider  # few are refused

            heed_provider(self.progress, result, now=snapshot.now.wall)

    def _has_account(self, result: AttemptResult) -> bool:
        """Whether what a provider says concerns all tasks of its agent, whatever they run."""
        if result.agent != SHELL_AGENT:
            return True
        agent = self.progress.agent(SHELL_AGENT)
        return agent is not None and agent.account is not None

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
        self.progress.warn(f"result {result.lease_id}: {result.message}")
        # It may be broken, or be gone though the lease says that it was recorded.
        is_there = result in snapshot.scan.unreadable_results
        judged = Found(lease=entry.lease if entry is not None else None, has_result=is_there)
        if claim is None:
            # Its source was told before a crash, so only files are left; the lease goes
            # first, or it would look like an attempt without a result.
            self._clear(entry, result.lease_id, judged)
            return True
        record = self._record(claim, snapshot, outcome=Outcome.FAILED, reason=None)
        record = replace(record, failure_reason=FailureReason.ABORTED, message=result.message)
        state = TaskState.PARKED if claim.schedule_id is None else TaskState.FAILED
        ending = Finish(state=state, reason=FailureReason.ABORTED, failures=claim.failures + 1)
        self._conclude(record, ending, record, judged)
        self.progress.settled += 1
        return True

    def _reclaim(self, entry: LeaseEntry, reason: ReclaimReason, snapshot: Snapshot) -> bool:
        """Give back the task of an attempt that is over without a result."""
        lease = entry.lease if isinstance(entry.lease, Lease) else None
        claim = _claim(snapshot, entry.task_id, lease.lease_id if lease else None)
        if lease is not None and lease.state is not LeaseState.STARTING:
            # A start that hung was ended as stale, and yet its command never ran.
            reason = self.progress.ended.get(lease.lease_id, reason)
        if isinstance(entry.lease, UnreadableLease):
            self.progress.notice(
                EventName.LEASE_CORRUPT, task_id=entry.task_id, reason=entry.lease.message
            )
        if claim is None:
            # The tick died between creating the lease and claiming the task, or the source
            # moved on: there is nothing to give back, only to tidy up.
            self._clear(entry, lease.lease_id if lease else None, Found(lease=entry.lease))
            self.progress.note_reclaim(
                entry.task_id, lease.agent if lease else "", lease.attempt if lease else 0, reason
            )
            return True
        self._give_back(claim, reason, snapshot, found=Found(lease=entry.lease))
        return True

    def _repair(self, claim: Claim, snapshot: Snapshot) -> bool:
        """Give back a task that is ours by name only: its lease and result are gone."""
        self._give_back(claim, ReclaimReason.LOST, snapshot, found=_NOTHING)
        return True

    def _give_back(
        self, claim: Claim, reason: ReclaimReason, snapshot: Snapshot, *, found: Found
    ) -> None:
        ending = self._conclude_reclaim(claim, reason, snapshot)
        record = None
        if reason is not ReclaimReason.NEVER_STARTED:
            rebooted = reason is ReclaimReason.REBOOTED
            outcome = Outcome.INTERRUPTED if rebooted else Outcome.FAILED
            lease = found.lease if isinstance(found.lease, Lease) else None
            record = self._record(claim, snapshot, outcome=outcome, reason=reason, lease=lease)
        self._conclude(claim, ending, record, found)
        self.progress.note_reclaim(claim.task_id, claim.agent, claim.attempt, reason)

    def _conclude_reclaim(self, claim: Claim, reason: ReclaimReason, snapshot: Snapshot) -> Ending:
        agent = self.progress.agent(claim.agent)
        return retry.conclude_reclaim(
            claim,
            reason,
            rules=self.progress.settings.rules,
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
        ended_at = snapshot.now.wall
        if lease is not None and reason is ReclaimReason.REBOOTED:
            # While the machine was off nothing was used, for however long that was.
            ended_at = lease.heartbeat
        return AttemptRecord(
            lease_id=claim.lease_id,
            task_id=claim.task_id,
            source=claim.source,
            agent=claim.agent,
            attempt=claim.attempt,
            started_at=lease.started_at if lease is not None else None,
            ended_at=ended_at,
            outcome=outcome,
            failure_reason=None if interrupted or reason is None else retry.failure_of(reason),
            reclaim_reason=reason,
            turns=lease.turns if lease is not None else None,
            tokens=lease.tokens if lease is not None else None,
            cost_usd=lease.cost_usd if lease is not None else None,
            cpu_s=lease.cpu_s if lease is not None else None,
            gpu_s=None if lease is None else _gpu_s(lease, ended_at),
            log=lease.run.log if lease is not None else None,
            schedule_id=claim.schedule_id,
        )

    def _clear(self, entry: LeaseEntry | None, lease_id: str | None, judged: Found) -> None:
        """Remove what lies under a task's or a lease's name, when no source need be told."""
        lock = self._lock(entry.task_id, lease_id, judged) if entry is not None else None
        try:
            self.progress.world.store.clear(lock, lease_id)
        finally:
            # Where the disk refuses; a daemon would hold the lock for life.
            if lock is not None:
                lock.close()

    def _conclude(
        self,
        told: AttemptRecord | Claim,
        ending: Ending | None,
        record: AttemptRecord | None,
        judged: Found,
    ) -> None:
        """Write the ledger, tell the source, then remove lease, result and lock: in this order.

        Whatever is done twice after a crash is refused the second time: the ledger by the
        lease id, the source by compare-and-set.  The ledger comes first, because nothing
        on disk would remind us of it once the source has moved on.
        """
        lock = self._lock(told.task_id, told.lease_id, judged)
        try:
            if record is not None:
                self.progress.world.ledger.record(record, is_told_next=ending is not None)
            if ending is not None:
                source = self.progress.source(told.source)
                schedule = find_schedule(self.progress, told)
                state = source.settle(told.task_id, lease_id=told.lease_id, ending=ending)
                if state is not None:
                    self.progress.notice_ending(told, ending, state, record)
                    tell_schedule(self.progress, told, state, schedule)
                    if state is TaskState.DONE and not _found_nothing(ending):
                        tell_if_reported(self.progress, told.task_id, told.schedule_id)
            self.progress.world.store.clear(lock, told.lease_id)
        finally:
            lock.close()

    def _lock(self, task_id: str, lease_id: str | None, judged: Found) -> TaskLock:
        """Take the task lock, if under it lies what was judged; LeaseConflict if it changed.

        With the tick lock held nothing changes in between.  Where somebody removed the
        pidfile under a living tick, this is what keeps two of them apart.
        """
        lock = self.progress.world.store.acquire(task_id, result_of=lease_id)
        if lock is None:
            message = f"the lock of task {task_id} is held"
            raise LeaseConflict(message)
        if not _is_same(lock.found, judged):
            lock.close()
            message = f"the lease of task {task_id} changed since it was judged"
            raise LeaseConflict(message)
        return lock

    def _end_trees(self, ends: list[EndTree], snapshot: Snapshot) -> bool:
        """End the processes of hung and orphaned attempts, all within one grace period."""
        ends = self._still_late(ends, snapshot)
        if not ends:
            return False
        for end in ends:
            self.progress.ended.setdefault(end.trace.lease_id, end.reason)
        gone = self.progress.world.launcher.end(
            [end.trace for end in ends], grace_s=self.progress.settings.rules.kill_grace_s
        )
        for end in ends:
            if end.trace.lease_id not in gone:
                self.progress.warn(
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
            self.progress.world.memory.save(self.progress.memory)
        except StoreError as error:
            self.progress.fail("ending attempts that are late", error)
            return [end for end in ends if end not in late]
        return [end for end in ends if end not in silent or end.trace.task_id not in moved]

    def _moved(self, snapshot: Snapshot) -> frozenset[str]:
        """Return the tasks whose heartbeat has moved since it was judged.

        Two joint freezes in a row can show a healthy wrapper stale twice; one that runs
        beats within moments of waking up, as we did.  Where we were frozen once more while
        we waited for that, it had no time to: then we wait again.
        """
        judged = {entry.task_id: entry.beat_ns for entry in snapshot.scan.entries}
        clock = self.progress.world.clock
        for _ in range(_MOST_LAST_LOOKS):
            began = clock.now()
            self._sleep_through(_LAST_LOOK_S)
            slept_s = (clock.now().monotonic_ns - began.monotonic_ns) / 1e9
            # Where we were asked to stop, it had no time either.
            if _LAST_LOOK_S / 2 <= slept_s < 2 * _LAST_LOOK_S:
                break
        else:
            return frozenset(judged)
        return frozenset(
            entry.task_id
            for entry in self.progress.world.store.scan().entries
            if entry.beat_ns != judged.get(entry.task_id)
        )

    def _sleep_through(self, seconds: float) -> None:
        """Sleep on where wishes for a tick wake us up: we look again after the last of them."""
        lock, clock = self.progress.world.lock, self.progress.world.clock
        end_ns = clock.now().monotonic_ns + int(seconds * 1e9)
        while (left_ns := end_ns - clock.now().monotonic_ns) > 0:
            if lock.is_kicked():
                lock.forget_kick()
                self.has_wish = True
            if self.progress.should_stop():
                return
            clock.sleep(left_ns / 1e9)

    def _remember_stale(self, plan: Plan, snapshot: Snapshot) -> None:
        """Keep sightings of heartbeats that have not moved since; add the new ones."""
        beats = {
            (entry.lease.lease_id, entry.beat_ns)
            for entry in snapshot.scan.entries
            if isinstance(entry.lease, Lease)
        }
        known = tuple(
            sighting
            for sighting in self.progress.memory.stale
            if (sighting.lease_id, sighting.beat_ns) in beats
        )
        new = tuple(verdict.sighting for verdict in plan.verdicts if isinstance(verdict, Suspect))
        self.progress.memory = replace(self.progress.memory, stale=known + new)

    def announce(self, verdict: Verdict) -> None:
        """Say of one verdict what an operator should know, or would see happen."""
        match verdict:
            case Keep(entry=entry, report=str(words)):
                self.progress.warn(f"task {entry.task_id}: {words}")
            case AwaitSource(entry=entry, source=name):
                self.progress.warn(
                    f"task {entry.task_id}: ended; source {name} has yet to take its result"
                )
            case Suspect(entry=entry):
                self.progress.warn(f"task {entry.task_id}: its heartbeat is stale, seen once")
            case EndTree() if self.progress.mode is Mode.DRY_RUN:
                self.progress.note_reclaim(
                    verdict.trace.task_id, verdict.agent, verdict.attempt, verdict.reason
                )
            case Reclaim(entry=entry, reason=reason):
                lease = entry.lease if isinstance(entry.lease, Lease) else None
                agent, attempt = (lease.agent, lease.attempt) if lease else ("", 0)
                self.progress.note_reclaim(entry.task_id, agent, attempt, reason)
            case RepairLost(claim=claim):
                self.progress.note_reclaim(
                    claim.task_id, claim.agent, claim.attempt, ReclaimReason.LOST
                )
            case Settle() | SettleUnreadable():
                self.progress.settled += 1
            case _:
                pass


def _gpu_s(lease: Lease, ended_at: datetime) -> float | None:
    """Return how long an attempt had whole GPUs, of a half one half as long; None without any."""
    if not lease.gpu_uuids:
        return None
    return lease.gpu_share * max(0.0, (ended_at - lease.started_at).total_seconds())


def _found_nothing(ending: Ending) -> bool:
    return isinstance(ending, Finish) and ending.found_nothing


def _claim(snapshot: Snapshot, task_id: str, lease_id: str | None) -> Claim | None:
    """Return the source's claim for this task, under exactly this lease where one is known."""
    for source in snapshot.sources:
        for claim in source.claims:
            if claim.task_id == task_id and lease_id in (None, claim.lease_id):
                return claim
    return None


def _is_same(found: Found, judged: Found) -> bool:
    """Say whether a verdict still stands; a recorded result is settled whatever else there is."""
    if found.has_result or judged.has_result:
        return found.has_result and judged.has_result
    if isinstance(found.lease, Lease) and isinstance(judged.lease, Lease):
        return (found.lease.lease_id, found.lease.state) == (
            judged.lease.lease_id,
            judged.lease.state,
        )
    return type(found.lease) is type(judged.lease)


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
        case PassOnCancel(claim=claim):
            return f"cancelling task {claim.task_id}"
        case SweepCancel(lease_id=lease_id):
            return f"cancel request {lease_id}"
        case _:
            return f"lease of task {verdict.entry.task_id}"
