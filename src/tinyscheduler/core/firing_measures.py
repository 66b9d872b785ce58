"""What do measured firings amount to, and may more of them run at once?"""

from __future__ import annotations

from datetime import timedelta

from tinyscheduler.core.workload import measure_spread, percentile
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from tinyscheduler.core.workload import Spread
    from tinyscheduler.model.schedules import FiringMetrics

# The rule by which the bound on firings may be raised; `advise_cap` says how it is read.
LEAST_DATA = timedelta(days=7)
_MOST_INTERACTIVE_S = 2.0
_MOST_LAG_S = 0.05
_MOST_WAIT_S = 60.0
# What came later than so many ticks apart came after a time in which nothing ticked at all.
_MISSED_TICKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringWork:
    """What the firings of one schedule took.

    ``turns_median`` and ``turns_p95`` are of those whose turns were counted.  ``failed`` are
    those that ended with a reason, those that were cancelled among them.
    """

    schedule_id: str
    firings: int
    failed: int
    waits: Spread | None
    runs: Spread | None
    turns_median: int | None
    turns_p95: int | None
    peak_rss_mb: float | None


def summarise_firings(firings: Iterable[FiringMetrics]) -> tuple[FiringWork, ...]:
    """Sum up the firings of each schedule, by name."""
    by_schedule: dict[str, list[FiringMetrics]] = {}
    for firing in firings:
        by_schedule.setdefault(firing.schedule_id, []).append(firing)
    return tuple(_work(name, by_schedule[name]) for name in sorted(by_schedule))


def _work(name: str, firings: Sequence[FiringMetrics]) -> FiringWork:
    turns = sorted(one.turns for one in firings if one.turns is not None)
    return FiringWork(
        schedule_id=name,
        firings=len(firings),
        failed=sum(one.failure_reason is not None for one in firings),
        waits=measure_spread(one.wait_ms / 1000 for one in firings if one.wait_ms is not None),
        runs=measure_spread(
            one.duration_ms / 1000 for one in firings if one.duration_ms is not None
        ),
        turns_median=int(percentile(turns, 0.5)) if turns else None,
        turns_p95=int(percentile(turns, 0.95)) if turns else None,
        peak_rss_mb=max(
            (one.peak_rss_mb for one in firings if one.peak_rss_mb is not None), default=None
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One condition of the rule, and whether it holds.

    ``value`` and ``bound`` are in seconds, ``samples`` is how many were measured; without any
    there is no value.
    """

    name: str
    words: str
    bound_s: float
    value_s: float | None
    samples: int
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CapAdvice:
    """Whether the bound on firings may be raised, by what was measured.

    ``since`` is when the oldest firing that is known was added; ``most_at_once`` how many of
    them ran at once.
    """

    cap: int
    since: datetime | None
    firings: int
    most_at_once: int
    criteria: tuple[Criterion, ...]

    @property
    def may_raise(self) -> bool:
        """Whether every condition holds."""
        return all(one.is_met for one in self.criteria)


def advise_cap(
    firings: Sequence[FiringMetrics],
    interactive_waits_s: Sequence[float],
    *,
    cap: int,
    since: datetime | None,
    interval_s: float,
    now: datetime,
) -> CapAdvice:
    """Judge by the firings of the last week whether one more may run at once.

    Enough is known after a week.  Then of interactive tasks, for whose sake there is a bound,
    the 99th percentile must have started within 2 seconds; where none ran nobody was kept
    waiting.  Firings must have been added at most 50 ms later, by the 99th percentile, than a
    tick was due, which is ``interval_s`` after their time; those that came after a time without
    any tick say nothing about load.  And of waits for a slot the 95th percentile must be below a
    minute: where firings queue for longer, more work is asked for than this machine is given.
    """
    lags = sorted(one.lag_ms / 1000 for one in firings if one.lag_ms is not None)
    lags = [one for one in lags if one <= _MISSED_TICKS * interval_s]
    waits = sorted(one.wait_ms / 1000 for one in firings if one.wait_ms is not None)
    interactive = sorted(interactive_waits_s)
    known_s = 0.0 if since is None else max(0.0, (now - since).total_seconds())
    least_s = LEAST_DATA.total_seconds()
    return CapAdvice(
        cap=cap,
        since=since,
        firings=len(firings),
        most_at_once=max((one.concurrent or 0 for one in firings), default=0),
        criteria=(
            Criterion(
                name="data",
                words="firings were measured for at least",
                bound_s=least_s,
                value_s=known_s,
                samples=len(firings),
                is_met=bool(firings) and known_s >= least_s,
            ),
            _below("interactive", interactive, 0.99, _MOST_INTERACTIVE_S, of_none=True),
            _below("lag", lags, 0.99, interval_s + _MOST_LAG_S, of_none=False),
            _below("wait", waits, 0.95, _MOST_WAIT_S, of_none=False),
        ),
    )


_WORDS = {
    "interactive": "interactive tasks started within, 99 of 100,",
    "lag": "firings were added, 99 of 100, within",
    "wait": "firings waited for a slot, 95 of 100, less than",
}


def _below(
    name: str, ordered: Sequence[float], share: float, bound_s: float, *, of_none: bool
) -> Criterion:
    value_s = percentile(ordered, share) if ordered else None
    return Criterion(
        name=name,
        words=_WORDS[name],
        bound_s=bound_s,
        value_s=value_s,
        samples=len(ordered),
        is_met=of_none if value_s is None else value_s < bound_s,
    )
