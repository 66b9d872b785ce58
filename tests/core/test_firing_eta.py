"""When one more firing may start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.core.firing_eta import slot_eta_s
from tinyscheduler.model.schedules import LiveFiring

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)


def running(
    since_s: float, *, most_s: float | None = 1200, usual_s: float | None = None
) -> LiveFiring:
    started_at = NOW - timedelta(seconds=since_s)
    return LiveFiring(started_at=started_at, most_s=most_s, usual_s=usual_s)


def waiting(most_s: float | None = 1200, usual_s: float | None = None) -> LiveFiring:
    return LiveFiring(started_at=None, most_s=most_s, usual_s=usual_s)


@pytest.mark.parametrize(
    ("live", "most", "eta_s"),
    [
        ([], 1, 0),
        ([running(10)], 2, 0),
        ([running(200), running(500)], 2, 700),
        ([running(200, usual_s=300), running(500)], 2, 100),
        ([running(400, usual_s=300)], 1, 800),  # longer than usual: nobody knows any more
        ([running(2000)], 1, 0),  # about to be ended
        ([running(-50)], 1, 1200),  # the clock was set back
        ([running(0, most_s=None)], 1, 60),
        ([waiting(most_s=None)], 1, 60),
        ([running(0, usual_s=5000, most_s=100)], 1, 100),  # its bound was lowered
        ([running(0, usual_s=10), waiting(usual_s=20)], 1, 30),
        ([running(0, usual_s=10), waiting(usual_s=20), waiting(usual_s=5)], 2, 15),
        ([running(0, usual_s=10), running(0, usual_s=40), running(0, usual_s=20)], 2, 20),
        ([waiting(usual_s=20), waiting(usual_s=30)], 2, 20),
    ],
)
def test_it_is_when_fewer_run_or_wait_than_may_run(live: list[LiveFiring], most: int, eta_s: float):
    assert slot_eta_s(live, most=most, now=NOW) == eta_s


LIVE = st.builds(
    LiveFiring,
    started_at=st.none() | st.integers(0, 5000).map(lambda s: NOW - timedelta(seconds=s)),
    most_s=st.floats(1, 5000),
    usual_s=st.none() | st.floats(1, 5000),
)


@given(st.lists(LIVE, max_size=12), st.integers(1, 4))
def test_the_more_may_run_at_once_the_sooner_it_is_and_one_more_makes_it_later(
    live: list[LiveFiring], most: int
):
    eta_s = slot_eta_s(live, most=most, now=NOW)

    assert 0 <= eta_s <= sum((one.most_s or 0) for one in live)
    assert slot_eta_s(live, most=most + 1, now=NOW) <= eta_s
    assert slot_eta_s([*live, waiting()], most=most, now=NOW) >= eta_s
