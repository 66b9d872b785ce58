"""What follows an attempt, for every way in which one can end."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, RULES, a_claim, a_result

from tinyscheduler.core.retry import (
    backoff_s,
    conclude_failure,
    conclude_launch_failure,
    conclude_reclaim,
    conclude_result,
    failure_of,
)
from tinyscheduler.model.config import OnExpire
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.tasks import (
    AttemptResult,
    Claim,
    Ending,
    FailureReason,
    Finish,
    Outcome,
    Requeue,
    TaskState,
)
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

UNCOUNTED = {ReclaimReason.NEVER_STARTED, ReclaimReason.REBOOTED}
some_claims = st.builds(
    a_claim,
    st.integers(1, 999).map(str),
    attempt=st.integers(1, 9),
    failures=st.integers(0, 4),
    launches=st.integers(0, 6),
    max_attempts=st.none() | st.integers(0, 5),
    cancel_requested=st.booleans(),
    last_failure=st.none() | st.sampled_from(FailureReason),
)


def after_result(claim: Claim, result: AttemptResult) -> Ending:
    return conclude_result(claim, result, rules=RULES, now=NOW.wall)


def after_reclaim(claim: Claim, reason: ReclaimReason, on_expire: OnExpire) -> Ending:
    return conclude_reclaim(claim, reason, rules=RULES, now=NOW.wall, on_expire=on_expire)


def test_a_task_whose_attempt_succeeded_is_done():
    ending = after_result(a_claim(failures=1), a_result())

    assert ending == Finish(state=TaskState.DONE, reason=None, failures=1)


def test_a_task_that_succeeded_before_its_cancellation_reached_it_is_done():
    ending = after_result(a_claim(cancel_requested=True), a_result())

    assert ending == Finish(state=TaskState.DONE, reason=None, failures=0)


def test_a_task_whose_attempt_was_cancelled_is_cancelled():
    ending = after_result(a_claim(cancel_requested=True), a_result(outcome=Outcome.CANCELLED))

    assert ending == Finish(state=TaskState.CANCELLED, reason=FailureReason.CANCELLED, failures=0)


def test_retry_later_is_another_attempt_after_a_fixed_wait_that_counts_for_nothing():
    claim = a_claim(attempt=4, failures=2, launches=1)

    assert after_result(claim, a_result(outcome=Outcome.RETRY_LATER)) == Requeue(
        attempt=5,
        failures=2,
        launches=0,
        backing_off_until=NOW.wall + timedelta(seconds=RULES.retry_later_s),
        reason=None,
    )


@pytest.mark.parametrize("reason", [FailureReason.RATE_LIMITED, FailureReason.AUTH_FAILED])
def test_what_a_provider_refuses_is_tried_again_uncounted_and_the_first_time_without_a_wait(
    reason: FailureReason,
):
    result = a_result(outcome=Outcome.FAILED, failure_reason=reason)
    untold = Requeue(attempt=3, failures=1, launches=0, backing_off_until=None, reason=reason)

    assert after_result(a_claim("7", attempt=2, failures=1, launches=1), result) == untold
    waits = [
        after_result(a_claim("7", attempt=2 + times, failures=1), result) for times in range(1, 9)
    ]
    delays = [
        backoff_s("7", times, base_s=RULES.retry_later_s, most_s=RULES.retry_max_s)
        for times in range(1, 9)
    ]
    assert [getattr(one, "backing_off_until", None) for one in waits] == [
        NOW.wall + timedelta(seconds=delay_s) for delay_s in delays
    ]
    assert delays[-1] == RULES.retry_max_s


def test_an_interrupted_attempt_is_followed_by_another_later_and_counts_for_nothing():
    claim = a_claim(attempt=4, failures=2)
    result = a_result(outcome=Outcome.INTERRUPTED, failure_reason=FailureReason.ABORTED)

    assert after_result(claim, result) == Requeue(
        attempt=5,
        failures=2,
        launches=0,
        backing_off_until=NOW.wall + timedelta(seconds=RULES.retry_later_s),
        reason=FailureReason.ABORTED,
    )


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (None, FailureReason.COMMAND_FAILED),
        (FailureReason.TIMEOUT, FailureReason.TIMEOUT),
        (FailureReason.SPAWN_FAILED, FailureReason.SPAWN_FAILED),
    ],
)
def test_a_failed_attempt_is_followed_by_another_after_a_backoff(
    told: FailureReason | None, reason: FailureReason
):
    claim = a_claim("7", attempt=4, failures=1, launches=1)
    wait_s = backoff_s("7", 2, base_s=RULES.retry_base_s, most_s=RULES.retry_max_s)

    assert after_result(claim, a_result(outcome=Outcome.FAILED, failure_reason=told)) == Requeue(
        attempt=5,
        failures=2,
        launches=0,
        backing_off_until=NOW.wall + timedelta(seconds=wait_s),
        reason=reason,
    )


@pytest.mark.parametrize(
    ("failures", "max_attempts", "parks"),
    [(1, None, False), (2, None, True), (0, 1, True), (2, 4, False), (3, 4, True), (0, 0, True)],
)
def test_a_task_is_parked_once_its_attempts_are_used_up(
    failures: int, max_attempts: int | None, *, parks: bool
):
    claim = a_claim(failures=failures, max_attempts=max_attempts)

    ending = conclude_failure(claim, FailureReason.DEAD_PID, rules=RULES, now=NOW.wall)

    parked = Finish(state=TaskState.PARKED, reason=FailureReason.DEAD_PID, failures=failures + 1)
    assert (ending == parked) is parks
    assert isinstance(ending, Finish) is parks


@pytest.mark.parametrize("reason", sorted(UNCOUNTED ^ {*ReclaimReason}))
def test_an_attempt_that_a_tick_ended_counts_as_a_failure(reason: ReclaimReason):
    ending = after_reclaim(a_claim(attempt=2, failures=1), reason, OnExpire.REQUEUE)

    assert isinstance(ending, Requeue)
    assert (ending.attempt, ending.failures, ending.launches) == (3, 2, 0)
    assert ending.reason is failure_of(reason)
    assert ending.backing_off_until is not None


def test_who_went_over_a_budget_is_not_tried_again():
    result = a_result(
        outcome=Outcome.FAILED, failure_reason=FailureReason.BUDGET_EXCEEDED, exit_code=0
    )
    ending = after_result(a_claim("7", max_attempts=9), result)

    assert ending == Finish(
        state=TaskState.PARKED, reason=FailureReason.BUDGET_EXCEEDED, failures=1
    )


def test_reboots_never_park_healthy_work():
    claim = a_claim(attempt=9, failures=2, max_attempts=1)

    assert after_reclaim(claim, ReclaimReason.REBOOTED, OnExpire.FAIL) == Requeue(
        attempt=10, failures=2, launches=0, backing_off_until=None, reason=None
    )


@pytest.mark.parametrize("on_expire", OnExpire)
def test_an_attempt_that_never_started_keeps_its_number(on_expire: OnExpire):
    claim = a_claim(attempt=2, failures=1, launches=3, last_failure=FailureReason.TIMEOUT)

    assert after_reclaim(claim, ReclaimReason.NEVER_STARTED, on_expire) == Requeue(
        attempt=2,
        failures=1,
        launches=4,
        backing_off_until=NOW.wall + timedelta(seconds=backoff_s("1", 4, base_s=5, most_s=300)),
        reason=FailureReason.TIMEOUT,
    )


def test_too_many_launches_without_a_start_park_the_task():
    ending = conclude_launch_failure(a_claim(launches=4, failures=1), rules=RULES, now=NOW.wall)

    assert ending == Finish(state=TaskState.PARKED, reason=FailureReason.SPAWN_FAILED, failures=1)


@pytest.mark.parametrize(
    ("on_expire", "last_failure", "fails"),
    [
        (OnExpire.REQUEUE, None, False),
        (OnExpire.REQUEUE, FailureReason.DEAD_PID, False),
        (OnExpire.REQUEUE, FailureReason.LEASE_EXPIRED, True),
        (OnExpire.FAIL, None, True),
    ],
)
def test_an_expired_lease_is_given_one_more_attempt_unless_the_agent_says_fail(
    on_expire: OnExpire, last_failure: FailureReason | None, *, fails: bool
):
    claim = a_claim(last_failure=last_failure)

    ending = after_reclaim(claim, ReclaimReason.LEASE_EXPIRED, on_expire)

    failed = Finish(state=TaskState.FAILED, reason=FailureReason.LEASE_EXPIRED, failures=1)
    assert (ending == failed) is fails
    assert isinstance(ending, Requeue) is not fails


@pytest.mark.parametrize(
    "give_up",
    [
        lambda: conclude_failure(
            a_claim(cancel_requested=True, max_attempts=1),
            FailureReason.DEAD_PID,
            rules=RULES,
            now=NOW.wall,
        ),
        lambda: conclude_launch_failure(
            a_claim(cancel_requested=True, launches=4), rules=RULES, now=NOW.wall
        ),
        lambda: after_reclaim(
            a_claim(cancel_requested=True), ReclaimReason.LEASE_EXPIRED, OnExpire.FAIL
        ),
    ],
    ids=["used up", "never started", "expired"],
)
def test_a_task_that_was_to_be_cancelled_ends_cancelled_and_not_parked_or_failed(
    give_up: Callable[[], Ending],
):
    ending = give_up()

    assert isinstance(ending, Finish)
    assert (ending.state, ending.reason) == (TaskState.CANCELLED, FailureReason.CANCELLED)


@given(some_claims)
def test_no_task_is_lost_every_end_leads_to_another_attempt_or_to_a_final_state(claim: Claim):
    endings = [
        *(after_result(claim, a_result(outcome=outcome)) for outcome in Outcome),
        *(after_reclaim(claim, reason, rule) for reason, rule in product(ReclaimReason, OnExpire)),
    ]

    for ending in endings:
        assert claim.failures <= ending.failures <= claim.failures + 1
        if isinstance(ending, Finish):
            assert ending.state.is_final
            assert (ending.state is TaskState.DONE) == (ending.reason is None)
        else:
            assert claim.attempt <= ending.attempt <= claim.attempt + 1
            assert (ending.launches > 0) == (ending.attempt == claim.attempt)


@given(some_claims)
def test_only_success_makes_a_task_done(claim: Claim):
    for outcome in Outcome:
        ending = after_result(claim, a_result(outcome=outcome))
        is_done = isinstance(ending, Finish) and ending.state is TaskState.DONE
        assert is_done == (outcome is Outcome.SUCCEEDED)


@given(some_claims, st.sampled_from(FailureReason))
def test_failures_end_after_the_allowed_number_whatever_they_are(
    claim: Claim, reason: FailureReason
):
    attempts = 0
    ending: Ending | None = None
    while not isinstance(ending, Finish):
        ending = conclude_failure(claim, reason, rules=RULES, now=NOW.wall)
        claim = replace(claim, failures=ending.failures)
        attempts += 1

    allowed = RULES.max_attempts if claim.max_attempts is None else claim.max_attempts
    assert attempts <= max(1, allowed)


@pytest.mark.parametrize("reason", ReclaimReason)
def test_every_reclaim_reason_has_a_failure_reason(reason: ReclaimReason):
    same = {ReclaimReason.DEAD_PID, ReclaimReason.STALE_HEARTBEAT, ReclaimReason.LEASE_EXPIRED}

    assert failure_of(reason).value == (reason.value if reason in same else "aborted")


def test_a_backoff_doubles_with_each_failure():
    waits = [backoff_s("7", failures, base_s=5, most_s=300) for failures in range(1, 8)]

    for wait_s, least_s in zip(waits, (5, 10, 20, 40, 80, 160, 300), strict=True):
        assert least_s <= wait_s <= min(300, least_s * 1.1)


@given(
    st.text(),
    st.integers(1, 9) | st.integers(1, 10**6),
    st.floats(0, 1e3),
    st.floats(0, 1e6),
)
def test_a_backoff_doubles_up_to_its_cap_and_is_at_most_a_tenth_longer(
    task_id: str, failures: int, base_s: float, most_s: float
):
    wait_s = backoff_s(task_id, failures, base_s=base_s, most_s=most_s)
    doubled_s = base_s * 2.0 ** min(failures - 1, 40)

    assert min(doubled_s, most_s) <= wait_s <= min(doubled_s * 1.1 * (1 + 1e-12), most_s)
    assert wait_s == backoff_s(task_id, failures, base_s=base_s, most_s=most_s)


def test_tasks_that_failed_together_do_not_come_back_together():
    waits = {backoff_s(str(task), 1, base_s=5, most_s=300) for task in range(100)}

    assert len(waits) == 100


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FailureReason.TIMEOUT, FailureReason.LEASE_EXPIRED),
        (FailureReason.COMMAND_FAILED, FailureReason.COMMAND_FAILED),
    ],
)
def test_a_firing_that_failed_for_good_has_failed_and_is_not_parked(
    reason: FailureReason, told: FailureReason
):
    claim = a_claim("1", max_attempts=1, schedule_id="nightly")
    ending = after_result(claim, a_result("1", outcome=Outcome.FAILED, failure_reason=reason))

    assert ending == Finish(state=TaskState.FAILED, reason=told, failures=1)


def test_a_firing_that_a_tick_ended_has_failed_too():
    claim = a_claim("1", max_attempts=1, schedule_id="nightly")
    ending = after_reclaim(claim, ReclaimReason.LEASE_EXPIRED, OnExpire.REQUEUE)

    assert ending == Finish(state=TaskState.FAILED, reason=FailureReason.LEASE_EXPIRED, failures=1)


def test_a_firing_that_was_to_be_cancelled_ends_cancelled():
    claim = a_claim("1", max_attempts=1, schedule_id="nightly", cancel_requested=True)
    ending = after_reclaim(claim, ReclaimReason.LEASE_EXPIRED, OnExpire.REQUEUE)

    assert ending.reason is FailureReason.CANCELLED
