"""A few rounds of each campaign in every run; the long ones are started by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.campaigns import (
    campaign_daemon,
    campaign_kill,
    campaign_race,
    campaign_results,
    campaign_week,
)
from tests.campaigns.week import WeekPlan


@pytest.mark.parametrize("seed", range(900, 906))
def test_random_kills_lose_nothing_and_run_nothing_twice(seed: int):
    violations, kills = campaign_kill.run_round(seed)

    assert violations == []
    assert sum(kills.values()) > 0


# All of them at once holds those of cron and of the timer, too.
@pytest.mark.parametrize("modes", ["kicked", "daemon", "all"])
def test_ticks_that_race_never_run_a_task_twice_nor_exceed_a_cap(tmp_path: Path, modes: str):
    ticks = {"kicked": 12}.get(modes, 6)
    violations, said = campaign_race.run_round(tmp_path, tasks=40, ticks=ticks, modes=modes)

    assert violations == []
    assert said.most == campaign_race.SLOTS


def test_a_week_of_results_at_once_is_settled_once_whatever_kills_the_tick(tmp_path: Path):
    violations, figures = campaign_results.run_round(tmp_path, results=60, kills=2, seed=900)

    assert violations == []
    assert figures.killed == 2


def test_a_simulated_week_leaves_nothing_behind_and_nothing_growing():
    plan = WeekPlan(tasks=140, seed=900, day_s=1200.0, log_max_bytes=8192)

    with tempfile.TemporaryDirectory(dir=campaign_week.scratch()) as folder:
        violations, week = campaign_week.run_week(Path(folder), plan)

    assert violations == []
    assert week.world.counts["prunings"] > plan.days


def test_ticks_of_a_daemon_leave_nothing_behind_in_it(tmp_path: Path):
    day = campaign_daemon.Day(folder=tmp_path, seed=900, ticks=40, interval_s=0.05, looks=5)

    assert day.run() == []
