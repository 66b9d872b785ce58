"""A report counts attempts, and measures waits and runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tinyscheduler.core.workload import Spread, Sum, measure_spread, sum_up, summarise
from tinyscheduler.model.history import MeasuredAttempt
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.tasks import FailureReason, Outcome

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def measured(agent: str = "coder", **more: Any) -> MeasuredAttempt:
    fields: dict[str, Any] = {
        "attempt": 1,
        "started_at": after(10),
        "ended_at": after(30),
        "outcome": Outcome.SUCCEEDED,
        "failure_reason": None,
        "reclaim_reason": None,
        "ready_at": NOON,
    }
    return MeasuredAttempt(agent=agent, **(fields | more))


def test_of_nothing_there_is_nothing_to_measure():
    workload = summarise([])

    assert workload.total.attempts == 0
    assert workload.total.success_rate is None
    assert workload.total.waits is workload.total.runs is None
    assert (workload.agents, workload.busiest) == ((), ())


def test_each_agent_has_its_counts_and_all_have_the_sum():
    failed: dict[str, Any] = {
        "outcome": Outcome.FAILED,
        "failure_reason": FailureReason.DEAD_PID,
        "attempt": 2,
    }

    workload = summarise(
        [
            measured(),
            measured(reclaim_reason=ReclaimReason.DEAD_PID, **failed),
            measured("tester", outcome=Outcome.CANCELLED),
            measured("tester", outcome=Outcome.RETRY_LATER),
            measured("tester", outcome=Outcome.INTERRUPTED, started_at=None),
        ]
    )

    coder, tester = workload.agents
    assert (coder.agent, coder.attempts, coder.succeeded, coder.failed) == ("coder", 2, 1, 1)
    assert (coder.retries, coder.success_rate) == (1, 0.5)
    assert (tester.cancelled, tester.others, tester.success_rate) == (1, 2, None)
    assert workload.total.attempts == 5
    assert workload.failures == workload.reclaims == (("dead_pid", 1),)


def test_only_first_attempts_wait_and_only_from_when_they_could_start():
    workload = summarise(
        [measured(), measured(attempt=2, started_at=after(99)), measured(ready_at=None)]
    )

    assert workload.total.waits == Spread(number=1, median_s=10, p95_s=10)
    assert workload.total.runs == Spread(number=3, median_s=20, p95_s=20)


def test_the_busiest_hour_comes_first():
    late: dict[str, Any] = {"started_at": after(7200), "ended_at": after(7300)}

    workload = summarise([measured(), measured(**late), measured(**late)])

    assert workload.busiest == ((after(7200), 2), (NOON, 1))


def test_a_clock_that_stepped_back_measures_nothing():
    assert measure_spread([-5]) == Spread(number=1, median_s=0, p95_s=0)


def test_what_attempts_took_is_summed_up_by_key_and_what_nobody_told_stays_unknown():
    attempts = [
        measured(turns=3, tokens=100, cost_usd=0.5, cpu_s=1.5, gpu_s=2.0),
        measured(turns=4, outcome=Outcome.FAILED, started_at=after(20)),
        measured("tester", outcome=Outcome.CANCELLED, started_at=None),
    ]

    (coder, tester), total = sum_up(attempts, lambda one: (one.agent,))

    assert coder == Sum(
        key=("coder",),
        attempts=2,
        succeeded=1,
        failed=1,
        others=0,
        ran_s=30.0,
        runs=Spread(number=2, median_s=10, p95_s=20),
        turns=7,
        tokens=100,
        cost_usd=0.5,
        cpu_s=1.5,
        gpu_s=2.0,
    )
    assert (tester.others, tester.ran_s, tester.runs, tester.turns) == (1, 0, None, None)
    assert (total.key, total.attempts, total.ran_s, total.turns) == (("all",), 3, 30.0, 7)


def test_of_no_attempt_there_is_an_empty_sum():
    sums, total = sum_up([], lambda one: (one.agent,))

    assert sums == ()
    assert (total.attempts, total.runs, total.cost_usd) == (0, None, None)
