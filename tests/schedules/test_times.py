"""What really fires, whatever happens to clocks and however long nothing ticks."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.builders import SteppedClock, open_database
from tests.core.brute_force import MINUTE, utc, walked

from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.app.schedules import begun
from tinyscheduler.core.firings import plan_firings
from tinyscheduler.model.schedules import CatchUp, Overlap, Schedule, Timing
from tinyscheduler.model.tasks import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

WARSAW, NEW_YORK, LORD_HOWE = "Europe/Warsaw", "America/New_York", "Australia/Lord_Howe"
# Where clocks go forward and back by an hour, by half an hour, and where months end.
MOMENTS = (
    (WARSAW, utc("2026-03-29 01:00")),
    (WARSAW, utc("2026-10-25 01:00")),
    (NEW_YORK, utc("2026-03-08 07:00")),
    (NEW_YORK, utc("2026-11-01 06:00")),
    (LORD_HOWE, utc("2026-04-04 15:00")),
    (LORD_HOWE, utc("2026-10-03 15:30")),
    ("UTC", utc("2028-02-29 00:00")),
    ("UTC", utc("2027-02-28 00:00")),
    ("UTC", utc("2026-04-30 00:00")),
    ("UTC", utc("2026-12-31 00:00")),
)
DAILY = "0 0 * * *"  # as `@daily`
EXPRESSIONS = (
    *("*/7 * * * *", "* * * * *", "*/15 * * * *", "30 * * * *", "0 */2 * * *"),
    *("30 2 * * *", "15 1 * * *", "*/20 2 * * *", "0,30 1-3 * * *", DAILY),
    *("0 0 29 2 *", "0 0 31 * *", "0 0 L * *", "59 23 28-31 * *", "0 9 * * 1-5"),
)
# Minutes between two ticks: the next, a short sleep, a night, over a hundred of them, and
# a clock that is set back.
STEPS = st.sampled_from([0, 1, 1, 2, 7, 59, 60, 100, 101, 480, 1440, -1, -60, -60])
WINDOW_S = {CatchUp.NONE: 60.0, CatchUp.LATEST: 86_400.0, CatchUp.ALL: 86_400.0}
MOST = {CatchUp.NONE: 100, CatchUp.LATEST: 1, CatchUp.ALL: 100}


def fired_by(
    expression: str, zone: str, catch_up: CatchUp, begin: datetime, looks: Iterable[datetime]
) -> list[datetime]:
    """Return the times of all firings that are in the database after ticks at these moments."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        clock = SteppedClock(wall=begin)
        store = SqliteSchedules(open_database(Path(folder), stack), clock)
        store.add(
            begun(
                Schedule(
                    schedule_id="a",
                    name="a",
                    timing=Timing(cron=expression, zone=zone),
                    spec=TaskSpec(agent="shell", command=("true",)),
                    overlap=Overlap.ALLOW,
                    catch_up=catch_up,
                    created_at=begin,
                    anchor=begin,
                )
            )
        )
        for now in looks:
            clock.wall = now
            for one, live in store.due(now):
                plan = plan_firings(one, live, now)
                if plan is not None:
                    store.fire(plan)
        return slots_in(store)


def written_out(expression: str) -> str:
    return {"@daily": DAILY}.get(expression, expression)


def slots_in(store: SqliteSchedules) -> list[datetime]:
    """Ask the tasks themselves for which times they are."""
    from tinyscheduler.adapters.sqlite.rows import from_micros

    rows = store._database.read(
        lambda connection: connection.execute("SELECT slot FROM tasks ORDER BY id").fetchall()
    )
    return [moment for row in rows if (moment := from_micros(row["slot"])) is not None]


def expected(
    expression: str, zone: str, catch_up: CatchUp, begin: datetime, looks: Sequence[datetime]
) -> list[datetime]:
    """Return what must fire, by a walk through every minute and one rule."""
    walk = walked(written_out(expression), zone, after=begin, until=max(looks))
    found: list[datetime] = []
    dealt_with = begin
    for now in looks:
        missed = [slot for slot in walk if dealt_with < slot <= now]
        young = [slot for slot in missed if (now - slot).total_seconds() <= WINDOW_S[catch_up]]
        found += young[-MOST[catch_up] :]
        dealt_with = max(dealt_with, now)
    return found


@settings(max_examples=60)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(MOMENTS),
    st.sampled_from(CatchUp),
    st.integers(-300, 120),
    st.lists(STEPS, min_size=1, max_size=12),
)
def test_what_fires_is_what_a_walk_through_every_minute_finds(
    expression: str,
    moment: tuple[str, datetime],
    catch_up: CatchUp,
    offset_minutes: int,
    steps: list[int],
):
    zone, change = moment
    begin = change + offset_minutes * MINUTE
    looks, now = [], begin
    for step in steps:
        now += step * MINUTE
        looks.append(now)

    found = fired_by(expression, zone, catch_up, begin, looks)

    assert found == expected(expression, zone, catch_up, begin, looks)


@pytest.mark.parametrize("slots", [0, 1, 100])
@pytest.mark.parametrize("catch_up", CatchUp)
def test_a_machine_asleep_over_no_slot_one_or_a_hundred(catch_up: CatchUp, slots: int):
    begin = utc("2026-06-01 12:00")
    looks = [begin + slots * MINUTE + timedelta(seconds=30)]

    found = fired_by("* * * * *", WARSAW, catch_up, begin, looks)

    times = [begin + number * MINUTE for number in range(1, slots + 1)]
    assert (
        found
        == {
            CatchUp.NONE: times[-1:],
            CatchUp.LATEST: times[-1:],
            CatchUp.ALL: times,
        }[catch_up]
    )


def test_a_clock_that_is_set_back_an_hour_fires_nothing_twice_and_then_goes_on():
    begin = utc("2026-06-01 12:00")
    minutes = [*range(1, 90), *range(30, 120)]
    looks = [begin + minute * MINUTE for minute in minutes]

    found = fired_by("*/7 * * * *", "UTC", CatchUp.ALL, begin, looks)

    assert found == [begin + minute * MINUTE for minute in range(1, 120) if minute % 60 % 7 == 0]


@pytest.mark.parametrize("moment", MOMENTS[:6])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/7 * * * *", "@daily"])
def test_a_tick_each_minute_across_the_change_of_a_clock(
    expression: str, moment: tuple[str, datetime]
):
    zone, change = moment
    begin = change - 3 * 60 * MINUTE
    looks = [begin + number * MINUTE for number in range(1, 6 * 60)]

    found = fired_by(expression, zone, CatchUp.LATEST, begin, looks)

    assert found == walked(written_out(expression), zone, after=begin, until=looks[-1])
