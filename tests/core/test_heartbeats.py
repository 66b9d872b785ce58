"""Which checklists ask for something, what an agent reads, and how often it may be asked a day."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.test_firings import HOUR, HOURLY, START

from tinyscheduler.core.firings import plan_deferral, plan_firings, plan_silence
from tinyscheduler.core.heartbeats import (
    DEFAULT_PROMPT,
    NOTHING_TO_DO,
    begin_of_day,
    has_work,
    heartbeat_prompt,
)
from tinyscheduler.model.schedules import CatchUp, LiveFirings, Overlap, ScheduleState, Timing
from tinyscheduler.values import replace


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\t\n\r\n",
        "# Heading",
        "###### Heading\n#\n##   ",
        "- \n* \n+\n1.\n22)",
        "- [ ]\n* []\n1. [ ]",
        "- [x] done\n- [X] also done",
        "---\n***\n___\n=====\n- - -",
        "<!-- one --><!-- two\nlines -->",
        "<!-- never closed\n- [ ] look",
    ],
)
def test_a_checklist_of_form_alone_asks_for_nothing(text: str):
    assert not has_work(text)


@pytest.mark.parametrize(
    "text",
    [
        "look",
        "- look",
        "- [ ] look",
        "1. look",
        "# Heading\n\nlook at the mail",
        "#5 is still open",
        "####### no heading",
        "<!-- a --> look <!-- b -->",
        "- [x] done\n- [ ] not yet",
        "[ ] look",
        "--",
        "```\n```",
        "x" * (64 << 10),
        NOTHING_TO_DO,
    ],
)
def test_a_line_that_is_more_than_form_asks_for_something(text: str):
    assert has_work(text)


@given(st.text(alphabet="#-*_=[]xX .)\n\t<!>1a", max_size=60))
def test_what_only_has_more_form_around_it_asks_for_the_same(text: str):
    assert has_work(f"# H\n{text}\n- [ ]\n") == has_work(text) or "<!--" in text


@pytest.mark.parametrize(
    "line", ["-" + " " * 60_000 + "x", "- " * 30_000 + "x", "[ " * 30_000, "<!--" * 15_000]
)
def test_no_line_takes_long_to_judge(line: str):
    assert has_work(line) == (not line.startswith("<!--"))


def test_an_agent_reads_what_it_is_asked_the_checklist_and_how_to_say_nothing():
    text = heartbeat_prompt(f"{DEFAULT_PROMPT}\n", "\n- [ ] look\n\n")

    assert text is not None
    asked, checklist, answer = text.split("\n\n")
    assert (asked, checklist) == (DEFAULT_PROMPT, "- [ ] look")
    assert re.search(rf"\b{NOTHING_TO_DO}\b", answer)
    assert heartbeat_prompt("look", None) == f"look\n\n{answer}"
    assert heartbeat_prompt(None, "- look") is None


@pytest.mark.parametrize(
    ("zone", "now", "begin"),
    [
        ("UTC", "2026-03-02T00:00:00+00:00", "2026-03-02T00:00:00+00:00"),
        ("Europe/Warsaw", "2026-03-02T22:59:00+00:00", "2026-03-01T23:00:00+00:00"),
        ("Europe/Warsaw", "2026-03-02T23:00:00+00:00", "2026-03-02T23:00:00+00:00"),
        # The day on which clocks go back has 25 hours, and one on which they go forward 23.
        ("Europe/Warsaw", "2026-10-25T22:59:00+00:00", "2026-10-24T22:00:00+00:00"),
        ("Europe/Warsaw", "2026-03-29T21:59:00+00:00", "2026-03-28T23:00:00+00:00"),
        # Midnight is skipped.
        ("America/Santiago", "2026-09-06T12:00:00+00:00", "2026-09-06T04:00:00+00:00"),
    ],
)
def test_a_day_begins_at_midnight_of_the_zone(zone: str, now: str, begin: str):
    assert begin_of_day(datetime.fromisoformat(now), zone) == datetime.fromisoformat(begin)


@pytest.mark.parametrize(
    ("fired", "slots", "passed_over"), [(0, 2, 1), (1, 1, 2), (2, 0, 3), (9, 0, 3)]
)
def test_no_more_fire_than_the_day_has_left(fired: int, slots: int, passed_over: int):
    one = replace(HOURLY, max_per_day=2, catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)

    plan = plan_firings(one, LiveFirings(fired_today=fired), START + 3 * HOUR)

    assert plan is not None
    assert (len(plan.slots), plan.passed_over) == (slots, passed_over)
    assert plan.next_fire_at == START + 4 * HOUR


def test_where_there_is_nothing_to_do_it_goes_on_with_its_next_time_and_counts_that():
    plan = plan_silence(replace(HOURLY, catch_up=CatchUp.LATEST), START + 3 * HOUR)

    assert (plan.slots, plan.suppressed, plan.passed_over) == ((), 1, 2)
    assert (plan.next_fire_at, plan.state) == (START + 4 * HOUR, ScheduleState.ACTIVE)


def test_what_does_not_fire_does_not_count_as_one_of_the_last():
    plan = plan_silence(replace(HOURLY, max_firings=1), START + HOUR)

    assert (plan.next_fire_at, plan.state) == (START + 2 * HOUR, ScheduleState.ACTIVE)


def test_the_only_time_is_over_though_there_was_nothing_to_do():
    once = replace(HOURLY, timing=Timing(at=START + HOUR))

    plan = plan_silence(once, START + HOUR)

    assert (plan.suppressed, plan.next_fire_at, plan.state) == (1, None, ScheduleState.COMPLETED)


def test_nothing_makes_way_that_would_not_fire():
    at = START + HOUR
    assert plan_deferral(replace(HOURLY, deferrals=10), at, delay_s=30) is None
    assert plan_deferral(HOURLY, START, delay_s=30) is None
    deferral = plan_deferral(replace(HOURLY, deferrals=9), at, delay_s=30)
    assert deferral is not None
    assert (deferral.slot, deferral.until) == (at, at + timedelta(seconds=30))
    late = replace(HOURLY, catch_up=CatchUp.NONE)
    assert plan_deferral(late, datetime(2026, 3, 5, 9, 30, tzinfo=UTC), delay_s=30) is None


@pytest.mark.parametrize("catch_up", list(CatchUp))
def test_what_has_made_way_is_never_too_old(catch_up: CatchUp):
    one = replace(HOURLY, catch_up=catch_up, catch_up_window_s=60.0, deferrals=3)

    plan = plan_firings(one, LiveFirings(), START + HOUR + timedelta(minutes=50))

    assert plan is not None
    assert plan.slots == (START + HOUR,)
