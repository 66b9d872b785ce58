"""What was done with the time?  Counts, rates and waits over the attempts of a period."""

from __future__ import annotations

import math
from collections import Counter

from tinyscheduler.model.tasks import Outcome
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from typing import TypeVar

    from tinyscheduler.model.history import MeasuredAttempt

    Number = TypeVar("Number", int, float)

_BUSIEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle and the upper end of some seconds, by nearest rank; ``number`` of them."""

    number: int
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWork:
    """What one agent did.

    ``others`` are attempts that count as neither: put off, interrupted or cancelled.
    ``waits`` are of first attempts, from when the task could first have started.
    """

    agent: str
    attempts: int
    succeeded: int
    failed: int
    cancelled: int
    others: int
    retries: int
    waits: Spread | None
    runs: Spread | None

    @property
    def success_rate(self) -> float | None:
        """Successes among successes and failures; None where there are neither."""
        judged = self.succeeded + self.failed
        return self.succeeded / judged if judged else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What all agents did; ``total`` sums them up under the name ``all``.

    ``busiest`` are the hours in which most attempts began, each with their number.
    """

    total: AgentWork
    agents: tuple[AgentWork, ...]
    failures: tuple[tuple[str, int], ...]
    reclaims: tuple[tuple[str, int], ...]
    busiest: tuple[tuple[datetime, int], ...]


def summarise(attempts: Sequence[MeasuredAttempt]) -> Workload:
    """Count the attempts per agent, per failure, per reclaim and per hour."""
    by_agent: dict[str, list[MeasuredAttempt]] = {}
    for attempt in attempts:
        by_agent.setdefault(attempt.agent, []).append(attempt)
    hours = Counter(
        attempt.started_at.replace(minute=0, second=0, microsecond=0)
        for attempt in attempts
        if attempt.started_at is not None
    )
    return Workload(
        total=_work("all", attempts),
        agents=tuple(_work(agent, by_agent[agent]) for agent in sorted(by_agent)),
        failures=_ranked(one.failure_reason for one in attempts if one.outcome is Outcome.FAILED),
        reclaims=_ranked(one.reclaim_reason for one in attempts),
        busiest=tuple(sorted(hours.items(), key=lambda one: (-one[1], one[0]))[:_BUSIEST]),
    )


def _work(agent: str, attempts: Sequence[MeasuredAttempt]) -> AgentWork:
    outcomes = Counter(one.outcome for one in attempts)
    return AgentWork(
        agent=agent,
        attempts=len(attempts),
        succeeded=outcomes[Outcome.SUCCEEDED],
        failed=outcomes[Outcome.FAILED],
        cancelled=outcomes[Outcome.CANCELLED],
        others=outcomes[Outcome.RETRY_LATER] + outcomes[Outcome.INTERRUPTED],
        retries=sum(one.attempt > 1 for one in attempts),
        waits=measure_spread(
            (one.started_at - one.ready_at).total_seconds()
            for one in attempts
            if one.attempt == 1 and one.started_at is not None and one.ready_at is not None
        ),
        runs=measure_spread(
            (one.ended_at - one.started_at).total_seconds()
            for one in attempts
            if one.started_at is not None
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What some attempts took together; ``key`` is what they have in common.

    ``others`` were cancelled, put off or interrupted.  ``ran_s`` are seconds of all of them.  Of
    what was told of none there is None, and what was told of some is the sum of these.
    """

    key: tuple[str, ...]
    attempts: int
    succeeded: int
    failed: int
    others: int
    ran_s: float
    runs: Spread | None
    turns: int | None
    tokens: int | None
    cost_usd: float | None
    cpu_s: float | None
    gpu_s: float | None


def sum_up(
    attempts: Iterable[MeasuredAttempt], key_of: Callable[[MeasuredAttempt], tuple[str, ...]]
) -> tuple[tuple[Sum, ...], Sum]:
    """Return what the attempts of each key took, in the order of keys, and what all of them did."""
    groups: dict[tuple[str, ...], list[MeasuredAttempt]] = {}
    for one in attempts:
        groups.setdefault(key_of(one), []).append(one)
    everything = [one for group in groups.values() for one in group]
    return tuple(_sum(key, groups[key]) for key in sorted(groups)), _sum(("all",), everything)


def _sum(key: tuple[str, ...], attempts: Sequence[MeasuredAttempt]) -> Sum:
    outcomes = Counter(one.outcome for one in attempts)
    runs = [
        max(0.0, (one.ended_at - one.started_at).total_seconds())
        for one in attempts
        if one.started_at is not None
    ]
    return Sum(
        key=key,
        attempts=len(attempts),
        succeeded=outcomes[Outcome.SUCCEEDED],
        failed=outcomes[Outcome.FAILED],
        others=len(attempts) - outcomes[Outcome.SUCCEEDED] - outcomes[Outcome.FAILED],
        ran_s=sum(runs),
        runs=measure_spread(runs),
        turns=_total([one.turns for one in attempts]),
        tokens=_total([one.tokens for one in attempts]),
        cost_usd=_total([one.cost_usd for one in attempts]),
        cpu_s=_total([one.cpu_s for one in attempts]),
        gpu_s=_total([one.gpu_s for one in attempts]),
    )


def _total(numbers: Sequence[Number | None]) -> Number | None:
    told = [one for one in numbers if one is not None]
    return sum(told[1:], told[0]) if told else None


def measure_spread(seconds: Iterable[float]) -> Spread | None:
    """Return median and 95th percentile; None of nothing.  Clocks that stepped count as 0.

    >>> measure_spread([4, 1, 2, 3])
    Spread(number=4, median_s=2, p95_s=4)
    """
    ordered = sorted(max(0, one) for one in seconds)
    if not ordered:
        return None
    return Spread(
        number=len(ordered), median_s=percentile(ordered, 0.5), p95_s=percentile(ordered, 0.95)
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies, by nearest rank; there is one."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def _ranked(names: Iterable[str | None]) -> tuple[tuple[str, int], ...]:
    counted = Counter(str(name) for name in names if name is not None)
    return tuple(sorted(counted.items(), key=lambda one: (-one[1], one[0])))
