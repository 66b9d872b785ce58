"""What the end of a firing means for its schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tinyscheduler.core.streaks import (
    EndedFiring,
    Streaks,
    is_in_grace,
    judge_firing,
    warn_of,
)
from tinyscheduler.model.schedules import Schedule, Timing
from tinyscheduler.model.tasks import FailureReason, TaskSpec
from tinyscheduler.values import replace

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DONE = EndedFiring(is_done=True)
BREACH = EndedFiring(is_done=False, reason=FailureReason.TURN_LIMIT_EXCEEDED, max_turns=40)


def failed(reason: FailureReason | None) -> EndedFiring:
    return EndedFiring(is_done=False, reason=reason)


@pytest.mark.parametrize(
    ("before", "reason", "after", "why"),
    [
        (0, FailureReason.COMMAND_FAILED, 1, None),
        (1, FailureReason.RATE_LIMITED, 1, None),
        (2, FailureReason.AUTH_FAILED, 2, None),
        (2, FailureReason.CANCELLED, 2, None),
        (2, FailureReason.LEASE_EXPIRED, 3, "3 firings in a row failed, at last: lease_expired"),
        (3, None, 4, "4 firings in a row failed, at last: unknown"),
    ],
)
def test_s12_three_failures_in_a_row_pause_a_schedule(
    before: int, reason: FailureReason | None, after: int, why: str | None
):
    judged = judge_firing(Streaks(failures=before), failed(reason))

    assert (judged.streaks.failures, judged.why_paused) == (after, why)


def test_s12_five_breaches_in_a_row_pause_it_and_say_what_is_usual():
    streaks = Streaks(breaches=3, average_turns=38)
    judged = judge_firing(streaks, replace(BREACH, turns=41))
    assert (judged.streaks.breaches, judged.why_paused) == (4, None)

    judged = judge_firing(judged.streaks, replace(BREACH, turns=41))

    assert judged.streaks.breaches == 5
    assert judged.why_paused == ("5 firings in a row took more than their 40 turns, 40 on average")


def test_s12_each_kind_of_failure_ends_the_streak_of_the_other_and_a_success_both():
    both = Streaks(failures=2, breaches=4)

    assert judge_firing(both, DONE).streaks == Streaks()
    assert judge_firing(both, failed(FailureReason.ABORTED)).streaks == Streaks(failures=3)
    assert judge_firing(both, BREACH, is_in_grace=True).streaks == Streaks(breaches=4)


def test_what_is_neither_a_failure_nor_a_success_leaves_all_as_it_is():
    before = Streaks(failures=2, breaches=1, drifts=2, average_turns=5, last_turns=9)
    firing = EndedFiring(is_done=False, reason=FailureReason.RATE_LIMITED, turns=1, ran_s=1)

    assert judge_firing(before, firing).streaks == before


def test_s11_the_average_follows_the_turns_and_keeps_most_of_what_it_was():
    streaks = Streaks()
    for turns, average in ((10, 10), (20, 13), (None, 13), (0, 9)):
        streaks = judge_firing(streaks, replace(DONE, turns=turns)).streaks
        assert streaks.average_turns == average
    assert streaks.last_turns == 0


@pytest.mark.parametrize(
    ("ran_s", "reason", "drifts"),
    [
        (801.0, None, 3),
        (800.0, None, 0),
        (None, None, 0),
        (None, FailureReason.LEASE_EXPIRED, 3),
    ],
)
def test_s14_a_firing_that_took_most_of_its_time_is_counted(
    ran_s: float | None, reason: FailureReason | None, drifts: int
):
    firing = EndedFiring(is_done=reason is None, reason=reason, ran_s=ran_s, max_runtime_s=1000)

    assert judge_firing(Streaks(drifts=2), firing).streaks.drifts == drifts


def a_schedule(**more: object) -> Schedule:
    spec = TaskSpec(agent="coder", max_turns=40)
    moments = {"created_at": NOW, "anchor": NOW, "timing": Timing(every_s=3600.0)}
    return Schedule(schedule_id="s", name="s", spec=spec, **{**moments, **more})  # type: ignore[arg-type]  # each is named as a field is


def test_s14_who_watches_is_warned_once_in_each_streak():
    def told(before: Schedule, after: Schedule) -> list[str]:
        return [code for code, _ in warn_of(before, after)]

    one, two = a_schedule(breach_streak=1), a_schedule(breach_streak=2, average_turns=38)
    assert told(one, two) == ["turn_limit"]
    assert told(two, two) == told(two, a_schedule(breach_streak=3)) == []
    ((_, words),) = warn_of(one, two)
    assert words == (
        "2 firings in a row took more than their 40 turns, 38 on average; after 5 it is paused"
    )
    late = a_schedule(drift_streak=3)
    assert told(a_schedule(drift_streak=2), late) == ["lease_drift"]
    assert told(late, a_schedule(drift_streak=4)) == []
    assert told(a_schedule(), a_schedule(breach_streak=0)) == []


@pytest.mark.parametrize(
    ("timing", "minutes"),
    [
        (Timing(every_s=3600.0), 120),
        (Timing(cron="*/10 * * * *"), 20),
        # From 12:00 on the next times are 07:00 and, two days later, 07:00.
        (Timing(cron="0 7 * * 1,3", zone="UTC"), 2 * 5 * 24 * 60),
        (Timing(at=NOW + timedelta(hours=1)), 0),
    ],
)
def test_s13_grace_lasts_two_of_the_intervals_that_are_to_come(timing: Timing, minutes: int):
    def in_grace(after: timedelta) -> bool:
        return is_in_grace(timing, anchor=NOW, set_at=NOW, now=NOW + after)

    assert not in_grace(timedelta(minutes=minutes))
    assert not minutes or in_grace(timedelta(minutes=minutes, seconds=-1))
