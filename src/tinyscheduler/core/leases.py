"""The life of a task and of a lease: which moves are legal, and what a lease's evidence means."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.model.leases import (
    Lease,
    LeaseEntry,
    LeaseFault,
    LeaseState,
    ProcessEvidence,
    ReclaimReason,
    Trace,
    UnreadableLease,
    WrapperLife,
)
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
from tinyscheduler.model.snapshot import StaleSighting, UnreadableResult
from tinyscheduler.model.tasks import AttemptResult, TaskState, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import TypeGuard

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.plan import Verdict
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import Claim

STALE_AFTER_BEATS = 3
SlotHolder = Keep | Suspect | Reclaim | EndTree
_WRAPPER_ALONE = "its wrapper lives, but its lease and lock are gone from the running folder"


class TaskEvent(StrEnum):
    """What can happen to a task."""

    HOLD = "hold"
    RELEASE = "release"
    CLAIM = "claim"
    REQUEUE = "requeue"  # the attempt failed, was lost or never started; another follows
    SUCCEED = "succeed"
    FAIL = "fail"  # a rule ends the task without another attempt
    PARK = "park"  # its attempts are used up
    CANCEL = "cancel"
    RETRY = "retry"


TRANSITIONS: Mapping[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.WAITING, TaskEvent.HOLD): TaskState.HELD,
    (TaskState.HELD, TaskEvent.RELEASE): TaskState.WAITING,
    (TaskState.WAITING, TaskEvent.CLAIM): TaskState.WORKING,
    (TaskState.WORKING, TaskEvent.REQUEUE): TaskState.WAITING,
    (TaskState.WORKING, TaskEvent.SUCCEED): TaskState.DONE,
    (TaskState.WORKING, TaskEvent.FAIL): TaskState.FAILED,
    (TaskState.WORKING, TaskEvent.PARK): TaskState.PARKED,
    (TaskState.WORKING, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.WAITING, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.HELD, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.PARKED, TaskEvent.CANCEL): TaskState.CANCELLED,
    (TaskState.PARKED, TaskEvent.RETRY): TaskState.WAITING,
    (TaskState.FAILED, TaskEvent.RETRY): TaskState.WAITING,
    (TaskState.CANCELLED, TaskEvent.RETRY): TaskState.WAITING,
}


def advance(state: TaskState, event: TaskEvent) -> TaskState:
    """Return the state that follows; AssertionError for a move the table does not know.

    >>> advance(TaskState.WAITING, TaskEvent.CLAIM)
    <TaskState.WORKING: 'working'>
    """
    assert (state, event) in TRANSITIONS, f"no move {event} from {state}"  # noqa: S101 - a bug
    return TRANSITIONS[(state, event)]


def judge_all(snapshot: Snapshot) -> tuple[Verdict, ...]:
    """Return one verdict per lease, lock, result and claim that needs one, in a fixed order.

    Nothing of a source that is down is given back: there is nobody to give it to.
    """
    scan = snapshot.scan
    claimed = sorted(
        (claim for source in snapshot.sources for claim in source.claims),
        key=lambda claim: (place_of(claim.task_id), claim.source),
    )
    claims = {claim.task_id: claim for claim in claimed}
    up = frozenset(source.name for source in snapshot.sources if source.is_up)
    results: dict[str, AttemptResult | UnreadableResult] = {}
    results.update((result.lease_id, result) for result in scan.results)
    results.update((result.lease_id, result) for result in scan.unreadable_results)
    recorded = frozenset(results)
    verdicts: list[Verdict] = []
    occupied: set[str] = set()
    for entry in sorted(scan.entries, key=lambda entry: place_of(entry.task_id)):
        claim = claims.get(entry.task_id)
        result = results.pop(_lease_id_of(entry, claim) or "", None)
        verdict = _judge(entry, claim=claim, result=result, snapshot=snapshot)
        verdicts.append(_without_source(verdict, entry=entry, up=up))
        if not isinstance(verdict, Sweep):
            occupied.add(entry.task_id)
    # What cannot be read tells no source: it may be of any that does not answer.
    known = {claim.lease_id for claim in claimed}
    if len(up) == len(snapshot.sources):
        known.update(results)
    verdicts.extend(_judge_left_results(results, up=up, known=known))
    verdicts.extend(
        _judge_lost(claim, snapshot=snapshot)
        for claim in claimed
        if claim.task_id not in occupied and claim.lease_id not in recorded
    )
    verdicts.extend(_judge_cancels(snapshot, claimed=claimed, recorded=recorded))
    return tuple(verdicts)


def _judge_cancels(
    snapshot: Snapshot, *, claimed: Collection[Claim], recorded: frozenset[str]
) -> Iterable[Verdict]:
    """Pass on requests that only the queue knows, and sweep those of attempts that are over."""
    scan = snapshot.scan
    held = {entry.task_id for entry in scan.entries if entry.is_lock_held}
    for claim in claimed:
        is_asked = claim.lease_id in scan.cancels or claim.lease_id in recorded
        if claim.cancel_requested and claim.task_id in held and not is_asked:
            yield PassOnCancel(claim=claim)
    if all(source.is_up for source in snapshot.sources):
        living = {claim.lease_id for claim in claimed} | recorded
        living |= {one.lease.lease_id for one in scan.entries if isinstance(one.lease, Lease)}
        for lease_id in sorted(scan.cancels - living):
            yield SweepCancel(lease_id=lease_id)


def holds_slot(verdict: Verdict) -> TypeGuard[SlotHolder]:
    """Whether what was judged still occupies its slot.

    An attempt whose result is durable and whose lock is free costs nothing, even while
    its source is down.  All else that has a lease or a held lock does, until seen gone.
    """
    return isinstance(verdict, SlotHolder)


def is_stale(beat_ns: int, *, heartbeat_s: float, now: Instant) -> bool:
    """Whether a heartbeat is older than three intervals.  A beat from the future is fresh."""
    return now.monotonic_ns - beat_ns > STALE_AFTER_BEATS * heartbeat_s * 1e9


def trace_of(entry: LeaseEntry, lease: Lease) -> Trace:
    """Return what the processes of a leased attempt can be recognised by."""
    return Trace(
        task_id=lease.task_id,
        lease_id=lease.lease_id,
        process=lease.process,
        is_lock_held=entry.is_lock_held,
        cgroup=lease.run.cgroup,
        beat_ns=entry.beat_ns if entry.beat_ns is not None else lease.monotonic_heartbeat_ns,
        heartbeat_s=lease.heartbeat_s,
    )


def trace_of_claim(claim: Claim, *, is_lock_held: bool) -> Trace:
    """Return what the processes of a claim without a readable lease can be recognised by."""
    return Trace(
        task_id=claim.task_id,
        lease_id=claim.lease_id,
        process=None,
        is_lock_held=is_lock_held,
        is_leased=False,
    )


def _lease_id_of(entry: LeaseEntry, claim: Claim | None) -> str | None:
    if isinstance(entry.lease, Lease):
        return entry.lease.lease_id
    return claim.lease_id if claim is not None else None


def _without_source(verdict: Verdict, *, entry: LeaseEntry, up: frozenset[str]) -> Verdict:
    """Turn a giving-back into a waiting where the source cannot be told."""
    match verdict:
        case Settle(result=result) if result.source not in up:
            return AwaitSource(entry=entry, source=result.source)
        case SettleUnreadable() if isinstance(entry.lease, Lease) and entry.lease.source not in up:
            return AwaitSource(entry=entry, source=entry.lease.source)
        case Reclaim() if isinstance(entry.lease, Lease) and entry.lease.source not in up:
            source = entry.lease.source
            return Keep(entry=entry, report=f"it ended, but its source {source} does not answer")
        case _:
            return verdict


def _judge(
    entry: LeaseEntry,
    *,
    claim: Claim | None,
    result: AttemptResult | UnreadableResult | None,
    snapshot: Snapshot,
) -> Verdict:
    """Judge one name in the running folder by the table of the design."""
    if not isinstance(entry.lease, Lease):
        return _judge_without_lease(entry, claim=claim, result=result, snapshot=snapshot)
    lease = entry.lease
    if result is not None:
        return _judge_ended(entry, lease, result=result, snapshot=snapshot)
    if lease.boot_id != snapshot.now.boot_id:
        if entry.is_lock_held:
            return Keep(entry=entry, report="leased in another boot, yet its lock is held")
        return Reclaim(entry=entry, reason=ReclaimReason.REBOOTED)
    evidence = _evidence(snapshot, lease.lease_id)
    if not entry.is_lock_held:
        return _judge_let_go(entry, lease, evidence)
    if evidence.wrapper is WrapperLife.DEAD:
        return _end_tree(entry, lease, ReclaimReason.DEAD_PID)
    return _judge_alive(entry, lease, snapshot=snapshot)


def _judge_let_go(entry: LeaseEntry, lease: Lease, evidence: ProcessEvidence) -> Verdict:
    """Judge an attempt without a result whose lock nothing holds: it died, or somebody meddled."""
    if lease.state is LeaseState.FINISHED:
        words = f"task {lease.task_id} recorded its result, but the file is gone"
        return _settle(entry, UnreadableResult(lease_id=lease.lease_id, message=words))
    if evidence.wrapper is WrapperLife.ALIVE:
        return Keep(entry=entry, report="its wrapper lives, but its lock file was removed")
    never_started = lease.state is LeaseState.STARTING
    reason = ReclaimReason.NEVER_STARTED if never_started else ReclaimReason.DEAD_PID
    if evidence.survivors:
        return _end_tree(entry, lease, reason)
    return Reclaim(entry=entry, reason=reason)


def _judge_without_lease(
    entry: LeaseEntry,
    *,
    claim: Claim | None,
    result: AttemptResult | UnreadableResult | None,
    snapshot: Snapshot,
) -> Verdict:
    """Judge a task lock whose lease is missing or cannot be read.

    A living wrapper writes its lease again with its next heartbeat, so while one may
    live nothing is touched.
    """
    reason, words = ReclaimReason.LOST, "its lock is held, but it has no lease"
    if isinstance(entry.lease, UnreadableLease):
        if entry.lease.fault is not LeaseFault.CORRUPT:
            return Keep(entry=entry, report=entry.lease.message)
        reason, words = ReclaimReason.CORRUPT, entry.lease.message
    seen = _evidence(snapshot, claim.lease_id) if claim is not None else None
    if entry.is_lock_held:
        if claim is None or seen is None or seen.wrapper is not WrapperLife.DEAD:
            return Keep(entry=entry, report=f"{words}; what holds its lock keeps its slot")
        return _end_claimed(claim, reason, is_lock_held=True)
    if claim is not None and seen is not None and seen.survivors:
        if seen.wrapper is not WrapperLife.DEAD:
            return Keep(entry=entry, report=_WRAPPER_ALONE)
        return _end_claimed(claim, reason, is_lock_held=False)
    if result is not None:
        return _settle(entry, result)
    if entry.lease is None:
        return Sweep(entry=entry)
    if claim is None and not all(source.is_up for source in snapshot.sources):
        return Keep(entry=entry, report=f"{words}; a source that does not answer may know it")
    return Reclaim(entry=entry, reason=reason)


def _judge_ended(
    entry: LeaseEntry,
    lease: Lease,
    *,
    result: AttemptResult | UnreadableResult,
    snapshot: Snapshot,
) -> Verdict:
    """Judge an attempt that recorded its result: it is never run again."""
    if not entry.is_lock_held:
        return _settle(entry, result)
    if _evidence(snapshot, lease.lease_id).wrapper is WrapperLife.DEAD:
        return _end_tree(entry, lease, ReclaimReason.DEAD_PID)
    # Its wrapper is between the result and letting go of the lock; it will kick.
    return _judge_alive(entry, lease, snapshot=snapshot)


def _judge_alive(entry: LeaseEntry, lease: Lease, *, snapshot: Snapshot) -> Verdict:
    """Judge an attempt whose lock is held and whose wrapper is not known to be dead."""
    now = snapshot.now
    unseen = _evidence(snapshot, lease.lease_id).wrapper is WrapperLife.UNSEEN
    beat_ns = entry.beat_ns if entry.beat_ns is not None else lease.monotonic_heartbeat_ns
    if is_stale(beat_ns, heartbeat_s=lease.heartbeat_s, now=now):
        if unseen:
            return Keep(
                entry=entry, report="its heartbeat is stale, but its process is not visible"
            )
        return _judge_stale(entry, lease, beat_ns=beat_ns, snapshot=snapshot)
    # One heartbeat of courtesy: after a freeze the wrapper wakes up as late as we do.
    limit_s = lease.max_runtime_s + 2 * lease.run.kill_grace_s + lease.heartbeat_s
    is_overdue = now.monotonic_ns - lease.monotonic_started_ns > limit_s * 1e9
    # The clock of an attempt starts with its command; a start that hangs shows as stale.
    if is_overdue and lease.state is not LeaseState.STARTING and not unseen:
        return _end_tree(entry, lease, ReclaimReason.LEASE_EXPIRED)
    return Keep(entry=entry)


def _judge_stale(entry: LeaseEntry, lease: Lease, *, beat_ns: int, snapshot: Snapshot) -> Verdict:
    """Believe a stale heartbeat only when seen twice, unchanged, one interval apart.

    A machine that was frozen wakes up with every heartbeat "stale" at once; a healthy
    wrapper beats again before the second look.
    """
    now = snapshot.now
    for sighting in snapshot.memory.stale:
        if (sighting.lease_id, sighting.beat_ns, sighting.boot_id) == (
            lease.lease_id,
            beat_ns,
            now.boot_id,
        ):
            if now.monotonic_ns - sighting.seen_ns >= lease.heartbeat_s * 1e9:
                return _end_tree(entry, lease, ReclaimReason.STALE_HEARTBEAT)
            return Keep(entry=entry, report="its heartbeat is stale, seen once")
    return Suspect(
        entry=entry,
        sighting=StaleSighting(
            lease_id=lease.lease_id,
            beat_ns=beat_ns,
            seen_ns=now.monotonic_ns,
            boot_id=now.boot_id,
        ),
    )


def _judge_left_results(
    results: Mapping[str, AttemptResult | UnreadableResult],
    *,
    up: frozenset[str],
    known: Collection[str],
) -> Iterable[Verdict]:
    """Settle results whose lease is gone: a crash came between removing the two.

    Unreadable ones only if ``known``: taken away while their source is down, they would
    leave it with a claim that looks lost, and the task would run again.
    """
    for lease_id in sorted(results):
        result = results[lease_id]
        if isinstance(result, UnreadableResult) and result.fault is not LeaseFault.CORRUPT:
            continue
        if result.source in up if isinstance(result, AttemptResult) else lease_id in known:
            yield _settle(None, result)


def _judge_lost(claim: Claim, *, snapshot: Snapshot) -> Verdict:
    """Repair a claim without lease and result, once none of its processes lives.

    A living wrapper is a healthy attempt: somebody emptied the running folder, or this
    tick looks into another one.
    """
    seen = _evidence(snapshot, claim.lease_id)
    if seen.survivors and seen.wrapper is not WrapperLife.DEAD:
        entry = LeaseEntry(task_id=claim.task_id, lease=None, is_lock_held=False, beat_ns=None)
        return Keep(entry=entry, report=_WRAPPER_ALONE)
    if seen.survivors:
        return _end_claimed(claim, ReclaimReason.LOST, is_lock_held=False)
    return RepairLost(claim=claim)


def _end_claimed(claim: Claim, reason: ReclaimReason, *, is_lock_held: bool) -> EndTree:
    return EndTree(
        trace=trace_of_claim(claim, is_lock_held=is_lock_held),
        reason=reason,
        agent=claim.agent,
        attempt=claim.attempt,
    )


def _settle(entry: LeaseEntry | None, result: AttemptResult | UnreadableResult) -> Verdict:
    if isinstance(result, AttemptResult):
        return Settle(entry=entry, result=result)
    if entry is not None and result.fault is not LeaseFault.CORRUPT:
        return Keep(entry=entry, report=result.message)
    return SettleUnreadable(entry=entry, result=result)


def _end_tree(entry: LeaseEntry, lease: Lease, reason: ReclaimReason) -> EndTree:
    return EndTree(
        trace=trace_of(entry, lease), reason=reason, agent=lease.agent, attempt=lease.attempt
    )


def _evidence(snapshot: Snapshot, lease_id: str) -> ProcessEvidence:
    """Return what was seen of the attempt; not having looked proves nothing."""
    return snapshot.evidence.get(lease_id, ProcessEvidence(wrapper=WrapperLife.UNRECORDED))
