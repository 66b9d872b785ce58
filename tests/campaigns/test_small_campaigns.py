"""A few rounds of each campaign in every run; the long ones are started by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.campaigns import campaign_kill, campaign_race

if TYPE_CHECKING:
    from pathlib import Path


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
