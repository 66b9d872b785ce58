"""A few rounds of each campaign in every run; the long ones are started by hand."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.campaigns import (
    campaign_attacks,
    campaign_daemon,
    campaign_decide,
    campaign_kill,
    campaign_race,
    campaign_replay,
    campaign_results,
    campaign_schedules,
    campaign_sources,
    campaign_week,
)
from tests.campaigns.measuring import Process
from tests.campaigns.week import WeekPlan
from tests.core.policies import POLICIES
from tests.policy.test_attacks import ATTACKS
from tests.process.station import Station

from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.campaigns.campaign_week import Change

    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.simulator.machine import Process as SimulatedProcess
    from tinyscheduler.tick import World


def test_a_property_that_does_not_hold_in_some_world_is_a_violation():
    missing = campaign_decide.check("test_decide.py::test_no_such_property", worlds=1)
    found = campaign_decide.check(campaign_decide.PROPERTIES[0], worlds=20)

    assert missing.report
    assert (found.held, found.report) == (20, "")
    assert set(POLICIES) == set(found.asked)


def test_a_property_of_policies_that_hardly_asks_one_is_a_violation():
    often = dict.fromkeys(POLICIES, 50.0)

    assert campaign_decide.blame_silence(often) == ""
    assert campaign_decide.blame_silence({**often, "night-batch": 3.0}) == (
        "too seldom asked: night-batch"
    )
    assert campaign_decide.blame_silence({})


def test_a_tick_comes_to_its_decision_whatever_is_tried_and_such_a_campaign_would_see_if_not(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(ATTACKS, "an escape", "return 'ESCAPED'")

    assert campaign_attacks.run(["py_init_globals", "table_grow"], most_s=60) == 0
    assert campaign_attacks.run(["an escape"], most_s=60) == 1


@pytest.mark.parametrize("seed", range(900, 903))
def test_random_kills_lose_nothing_and_run_nothing_twice(seed: int):
    violations, kills = campaign_kill.run_round(seed)

    assert violations == []
    assert sum(kills.values()) > 0


# All of them at once holds those of cron and of the timer, too.
@pytest.mark.parametrize("modes", ["kicked", "daemon", "all"])
def test_ticks_that_race_never_run_a_task_twice_nor_exceed_a_cap(tmp_path: Path, modes: str):
    ticks = {"kicked": 12}.get(modes, 6)
    violations, said = campaign_race.run_round(tmp_path, tasks=21, ticks=ticks, modes=modes)

    assert violations == []
    assert said.most == campaign_race.SLOTS


def test_claimers_that_race_never_run_more_firings_than_may_and_a_race_would_notice(tmp_path: Path):
    found, figures = campaign_schedules.race_for_slots(
        tmp_path / "kept", seed=900, schedules=6, claimers=9
    )
    broken, _ = campaign_schedules.race_for_slots(
        tmp_path / "broken", seed=900, schedules=6, claimers=4, allowed=6
    )

    assert found == []
    assert figures.most_seen == campaign_schedules.CAP
    assert any("seen and" in one for one in broken), broken


def test_each_minute_fires_once_whatever_is_killed_and_an_hour_would_notice(tmp_path: Path):
    found, figures = campaign_schedules.live_through(
        tmp_path, seed=900, minutes=3, ticks=6, schedules=2
    )
    station = Station(tmp_path / "base", kicks=False)
    begin = datetime.now(UTC)

    assert found == []
    assert figures.firings == 6
    faults = campaign_schedules.judge_times(station, ["s0"], begin, 3, figures)
    assert any("never fired for" in one for one in faults)
    assert any("fired for" in one and "never" not in one for one in faults)


def test_two_hundred_ticks_of_a_random_run_are_replayed_to_the_same_plans():
    violations, figures = campaign_replay.run_round(900, ticks=200)

    assert violations == []
    assert figures.ticks >= 200
    assert {"Dispatch", "Wait", "Settle", "Reclaim", "EndTree"} <= figures.decided.keys()


@dataclass(slots=True)
class Moody:
    """It goes by what it remembers, which no snapshot holds."""

    name: str = "moody"
    version: str = ""
    times: int = 0

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        self.times += 1
        return () if self.times % 3 else campaign_replay.PLATFORM.propose(context)


def test_a_replay_notices_what_was_decided_by_more_than_what_was_seen():
    violations, _ = campaign_replay.run_round(900, ticks=20, policy=Moody())

    assert any("policy_wait" in one for one in violations), violations


def test_a_week_of_results_at_once_is_settled_once_whatever_kills_the_tick(tmp_path: Path):
    violations, figures = campaign_results.run_round(tmp_path, results=120, kills=2, seed=900)

    assert violations == []
    assert figures.killed > 0


def test_a_simulated_week_leaves_nothing_behind_and_nothing_growing():
    plan = WeekPlan(tasks=105, seed=900, day_s=900.0, log_max_bytes=8192)

    with tempfile.TemporaryDirectory(dir=campaign_week.scratch()) as folder:
        violations, week = campaign_week.run_week(Path(folder), plan)

    assert violations == []
    assert week.world.counts["prunings"] > plan.days


@dataclass(frozen=True, slots=True)
class ForgetfulLedger:
    """It loses every attempt that it is told of."""

    def record(self, attempt: AttemptRecord, *, is_told_next: bool = False) -> None:
        del attempt, is_told_next

    def attempts(self, task_id: str) -> Sequence[AttemptRecord]:
        del task_id
        return ()


def without_pruning(world: World, _process: SimulatedProcess) -> World:
    return replace(world, pruners=tuple)


def without_ledger(world: World, _process: SimulatedProcess) -> World:
    return replace(world, ledger=ForgetfulLedger())


@pytest.mark.parametrize(
    ("rewire", "words"),
    [(without_pruning, "left on disk"), (without_ledger, "the ledger does not know")],
)
def test_a_simulated_week_notices_what_is_kept_for_ever_or_lost(rewire: Change, words: str):
    plan = WeekPlan(tasks=80, seed=900, days=4, day_s=300.0, log_max_bytes=4096)

    with tempfile.TemporaryDirectory(dir=campaign_week.scratch()) as folder:
        violations, _ = campaign_week.run_week(Path(folder), plan, rewire=rewire)

    assert any(words in one for one in violations), violations


def test_a_simulated_week_notices_an_open_file_that_stays_open():
    left_open = []

    def leak(world: World, _process: SimulatedProcess) -> World:
        left_open.append(os.open("/dev/null", os.O_RDONLY))
        return world

    plan = WeekPlan(tasks=20, seed=900, days=5, day_s=600.0)
    with tempfile.TemporaryDirectory(dir=campaign_week.scratch()) as folder:
        violations, _ = campaign_week.run_week(Path(folder), plan, rewire=leak)
    for fd in left_open:
        os.close(fd)

    assert any("descriptors leak" in one for one in violations), violations


def test_ticks_of_a_daemon_leave_nothing_behind_in_it(tmp_path: Path):
    day = campaign_daemon.Day(folder=tmp_path, seed=900, ticks=40, interval_s=0.05, looks=5)

    assert day.run() == []


QUIET = Process(resident_bytes=40 << 20, descriptors=12, threads=1, watches=2, zombies=0)


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ({"resident_bytes": 44 << 20}, "memory grew"),
        ({"descriptors": 13}, "descriptors leak"),
        ({"threads": 2}, "threads or children leak"),
        ({"watches": 4}, "watches leak"),
        ({"zombies": 1}, "threads or children leak"),
    ],
)
def test_a_day_of_the_daemon_notices_what_piles_up(leak: dict[str, int], words: str):
    assert campaign_daemon.compare([QUIET] * 10) == []

    (found,) = campaign_daemon.compare([*[QUIET] * 9, dataclasses.replace(QUIET, **leak)])

    assert words in found


def test_a_day_of_the_daemon_that_ends_early_is_no_success():
    assert campaign_daemon.compare([QUIET] * 9) != []


def test_a_small_night_with_a_server_that_is_cut_off_and_restarted(tmp_path: Path):
    found, figures = campaign_sources.live_through(tmp_path, seed=4, tasks=12)

    assert found == []
    assert figures.complete + figures.parked >= 12
