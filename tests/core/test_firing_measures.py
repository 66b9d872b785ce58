"""What measured firings amount to, and when more of them may run at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.core.firing_measures import CapAdvice, advise_cap, summarise_firings
from tinyscheduler.core.workload import Spread
from tinyscheduler.model.schedules import FiringMetrics

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


def a_firing(name: str = "a", **more: Any) -> FiringMetrics:
    fields: dict[str, Any] = {
        "schedule_id": name,
        "task_id": "1",
        "fired_at": NOW,
        "claimed_at": NOW,
        "completed_at": NOW,
        "wait_ms": 100,
        "duration_ms": 2000,
        "turns": None,
        "max_turns": None,
        "lag_ms": 300,
        "peak_rss_mb": None,
        "pressure": 0,
        "concurrent": 2,
        "failure_reason": None,
        **more,
    }
    return FiringMetrics(**fields)


def advised(
    *firings: FiringMetrics,
    interactive: tuple[float, ...] = (),
    since: datetime | None = NOW - WEEK,
) -> CapAdvice:
    return advise_cap(firings, interactive, cap=2, since=since, interval_s=60, now=NOW)


def unmet(advice: CapAdvice) -> list[str]:
    return [one.name for one in advice.criteria if not one.is_met]


def test_each_schedule_is_summed_up_by_itself():
    works = summarise_firings(
        [
            a_firing("b", turns=3, peak_rss_mb=7.5),
            a_firing("a", duration_ms=None, wait_ms=None, failure_reason="cancelled"),
            a_firing("b", turns=9, duration_ms=4000, peak_rss_mb=9.5),
        ]
    )

    first, second = works
    assert (first.schedule_id, first.firings, first.failed) == ("a", 1, 1)
    assert (first.waits, first.runs, first.turns_median, first.peak_rss_mb) == (None,) * 4
    assert (second.turns_median, second.turns_p95, second.peak_rss_mb) == (3, 9, 9.5)
    assert second.runs == Spread(number=2, median_s=2.0, p95_s=4.0)


def test_all_conditions_met_it_may_be_raised():
    advice = advised(a_firing(), interactive=(1.9,))

    assert advice.may_raise
    assert advice.most_at_once == 2


@pytest.mark.parametrize(
    ("advice", "name"),
    [
        (advised(a_firing(), since=NOW - WEEK + timedelta(seconds=1)), "data"),
        (advised(a_firing(), since=None), "data"),
        (advised(a_firing(), since=NOW + WEEK), "data"),  # a clock that was set back
        (advised(a_firing(), interactive=(2.0,)), "interactive"),
        (advised(a_firing(lag_ms=60_050)), "lag"),
        (advised(a_firing(lag_ms=None)), "lag"),
        (advised(a_firing(wait_ms=60_000)), "wait"),
        (advised(a_firing(wait_ms=None)), "wait"),
    ],
)
def test_each_condition_alone_keeps_it(advice: CapAdvice, name: str):
    assert unmet(advice) == [name]
    assert not advice.may_raise


def test_nothing_measured_is_no_evidence():
    assert unmet(advised()) == ["data", "lag", "wait"]
    assert advised(a_firing(concurrent=None)).most_at_once == 0


def test_what_was_caught_up_with_after_a_night_says_nothing_about_load():
    night = [a_firing(lag_ms=8 * 3600 * 1000) for _ in range(50)]

    advice = advised(a_firing(), *night)

    (lag,) = [one for one in advice.criteria if one.name == "lag"]
    assert (lag.samples, lag.is_met) == (1, True)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=300))
def test_one_in_twenty_may_wait_for_longer(waits: list[int]):
    advice = advised(*(a_firing(wait_ms=one) for one in waits))

    (wait,) = [one for one in advice.criteria if one.name == "wait"]
    late = sum(one >= 60_000 for one in waits)
    assert wait.is_met == (late <= len(waits) * 0.05)
