"""What follows an attempt: done, another attempt, or parked?"""

from __future__ import annotations

from datetime import datetime, timedelta
from zlib import crc32

from tinyscheduler.core.leases import TaskEvent, advance
from tinyscheduler.model.config import OnExpire
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.tasks import (
    FailureReason,
    Finish,
    Outcome,
    Requeue,
    TaskState,
)
from tinyscheduler.values import assert_never, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Rules
    from tinyscheduler.model.tasks import AttemptResult, Claim, Ending

_JITTER = 0.1
_FAILURE_OF = {
    ReclaimReason.DEAD_PID: FailureReason.DEAD_PID,
    ReclaimReason.STALE_HEARTBEAT: FailureReason.STALE_HEARTBEAT,
    ReclaimReason.LEASE_EXPIRED: FailureReason.LEASE_EXPIRED,
    ReclaimReason.CORRUPT: FailureReason.ABORTED,
    ReclaimReason.LOST: FailureReason.ABORTED,
}
# What a provider has against its agent: any other task would have met it as well.
NO_FAULT_OF_THE_TASK = frozenset({FailureReason.RATE_LIMITED, FailureReason.AUTH_FAILED})


def failure_of(reason: ReclaimReason) -> FailureReason:
    """Return the failure that a reclaim counts as; those that count as none say aborted."""
    return _FAILURE_OF.get(reason, FailureReason.ABORTED)


def conclude_result(
    claim: Claim, result: AttemptResult, *, rules: Rules, now: datetime, has_account: bool = True
) -> Ending:
    """Return what becomes of a task whose attempt recorded its result.

    Unless its agent ``has_account``, nothing else keeps it from meeting the same again at once.
    """
    match result.outcome:
        case Outcome.SUCCEEDED:
            done = _finish(TaskEvent.SUCCEED, reason=None, failures=claim.failures)
            return replace(done, found_nothing=result.found_nothing)
        case Outcome.CANCELLED:
            return _finish(
                TaskEvent.CANCEL, reason=FailureReason.CANCELLED, failures=claim.failures
            )
        case Outcome.RETRY_LATER | Outcome.INTERRUPTED:
            # Interrupted: a machine that shuts down shall not start it once more, and one
            # that ends its own wrapper each time shall not spin.
            return _requeue_uncounted(
                claim,
                until=now + timedelta(seconds=rules.retry_later_s),
                reason=result.failure_reason,
            )
        case Outcome.FAILED if result.failure_reason is FailureReason.RATE_LIMITED or (
            has_account and result.failure_reason is FailureReason.AUTH_FAILED
        ):
            refused = claim.attempt - claim.failures - has_account
            return _requeue_refused(
                claim, refused, reason=result.failure_reason, rules=rules, now=now
            )
        case Outcome.FAILED if result.failure_reason is FailureReason.BUDGET_EXCEEDED:
            # Another would use up as much again: somebody has to allow more.
            return _give_up(
                claim,
                TaskEvent.PARK,
                reason=FailureReason.BUDGET_EXCEEDED,
                failures=claim.failures + 1,
            )
        case Outcome.FAILED:
            reason = result.failure_reason or FailureReason.COMMAND_FAILED
            if claim.schedule_id is not None and reason is FailureReason.TIMEOUT:
                # What ends it, its wrapper or a tick, makes no difference to a schedule.
                reason = FailureReason.LEASE_EXPIRED
            return conclude_failure(claim, reason, rules=rules, now=now)
        case _:
            assert_never(result.outcome)


def conclude_reclaim(
    claim: Claim,
    reason: ReclaimReason,
    *,
    rules: Rules,
    now: datetime,
    on_expire: OnExpire = OnExpire.REQUEUE,
) -> Ending:
    """Return what becomes of a task whose attempt was ended by a tick."""
    match reason:
        case ReclaimReason.NEVER_STARTED:
            return conclude_launch_failure(claim, rules=rules, now=now)
        case ReclaimReason.REBOOTED:
            # Three power cuts must not park healthy work.
            return _requeue_uncounted(claim, until=None, reason=None)
        case ReclaimReason.LEASE_EXPIRED if (
            on_expire is OnExpire.FAIL or claim.last_failure is FailureReason.LEASE_EXPIRED
        ):
            return _give_up(
                claim,
                TaskEvent.FAIL,
                reason=FailureReason.LEASE_EXPIRED,
                failures=claim.failures + 1,
            )
        case _:
            return conclude_failure(claim, failure_of(reason), rules=rules, now=now)


def conclude_failure(claim: Claim, reason: FailureReason, *, rules: Rules, now: datetime) -> Ending:
    """Return another attempt after a backoff, or parking once the attempts are used up."""
    failures = claim.failures + 1
    allowed = claim.max_attempts if claim.max_attempts is not None else rules.max_attempts
    if failures >= allowed:
        return _give_up(claim, TaskEvent.PARK, reason=reason, failures=failures)
    delay_s = backoff_s(
        claim.task_id, failures, base_s=rules.retry_base_s, most_s=rules.retry_max_s
    )
    return Requeue(
        attempt=claim.attempt + 1,
        failures=failures,
        launches=0,
        backing_off_until=now + timedelta(seconds=delay_s),
        reason=reason,
    )


def conclude_launch_failure(claim: Claim, *, rules: Rules, now: datetime) -> Ending:
    """Return the same attempt again after a backoff, or parking once it failed too often.

    What hinders a start may pass in a moment, and ticks can follow each other faster.
    """
    launches = claim.launches + 1
    if launches >= rules.max_launches:
        return _give_up(
            claim,
            TaskEvent.PARK,
            reason=FailureReason.SPAWN_FAILED,
            failures=claim.failures,
        )
    delay_s = backoff_s(
        claim.task_id, launches, base_s=rules.retry_base_s, most_s=rules.retry_max_s
    )
    return Requeue(
        attempt=claim.attempt,
        failures=claim.failures,
        launches=launches,
        backing_off_until=now + timedelta(seconds=delay_s),
        reason=claim.last_failure,
    )


def put_off(claim: Claim, *, rules: Rules, now: datetime) -> Requeue:
    """Return the same attempt again after a pause: what hindered the start hinders all."""
    return Requeue(
        attempt=claim.attempt,
        failures=claim.failures,
        launches=claim.launches,
        backing_off_until=now + timedelta(seconds=rules.retry_base_s),
        reason=claim.last_failure,
    )


def backoff_s(task_id: str, failures: int, *, base_s: float, most_s: float) -> float:
    """Return the wait before the next attempt: doubled per failure, up to 10 % longer.

    The jitter depends on task and count alone, so that a tick decides the same twice.

    >>> 5 <= backoff_s("7", 1, base_s=5, most_s=300) <= 5.5
    True
    >>> backoff_s("7", 60, base_s=5, most_s=300)
    300
    """
    # The exponent is bounded because 2.0**1024 overflows; 2**40 base units exceed any cap.
    doubled = base_s * 2.0 ** min(failures - 1, 40)
    jitter = crc32(f"{task_id}/{failures}".encode()) / 0xFFFFFFFF * _JITTER
    return min(most_s, doubled * (1 + jitter))


def _requeue_uncounted(
    claim: Claim, *, until: datetime | None, reason: FailureReason | None
) -> Requeue:
    return Requeue(
        attempt=claim.attempt + 1,
        failures=claim.failures,
        launches=0,
        backing_off_until=until,
        reason=reason,
    )


def _requeue_refused(
    claim: Claim, times: int, *, reason: FailureReason | None, rules: Rules, now: datetime
) -> Requeue:
    """Return the task uncounted: its account cools down, or its agent is paused.

    The first time without a wait of its own, so that another agent may take it at once.  What is
    refused again and again, so many ``times``, while others of its account are not, shall not
    hold them up each time.
    """
    until = None
    if times > 0:
        delay_s = backoff_s(
            claim.task_id, times, base_s=rules.retry_later_s, most_s=rules.retry_max_s
        )
        until = now + timedelta(seconds=delay_s)
    return _requeue_uncounted(claim, until=until, reason=reason)


def _give_up(claim: Claim, event: TaskEvent, *, reason: FailureReason, failures: int) -> Finish:
    # Whoever asked for the cancellation wants it ended, not set aside for a retry.
    if claim.cancel_requested:
        event, reason = TaskEvent.CANCEL, FailureReason.CANCELLED
    elif claim.schedule_id is not None:
        # The next one comes by itself: nobody is to look at each that failed.
        event = TaskEvent.FAIL
    return _finish(event, reason=reason, failures=failures)


def _finish(event: TaskEvent, *, reason: FailureReason | None, failures: int) -> Finish:
    # Every claim is working; the table says where each event leads from there.
    return Finish(state=advance(TaskState.WORKING, event), reason=reason, failures=failures)
