"""Random worlds with random faults: safe while they last, and all work ends once they stop.

TINYSCHEDULER_SEEDS says how many seeds to try; a failure says how to see it again.
"""

from __future__ import annotations

import os

import pytest

from tinyscheduler.simulator.faults import Rates
from tinyscheduler.simulator.simulation import Simulation

SEEDS = int(os.environ.get("TINYSCHEDULER_SEEDS", "150"))
BATCH = 10
PEACE = Rates(kill_tick=0, freeze_tick=0, kill_wrapper=0, stop_wrapper=0, trouble_every_s=1_000_000)


def check(simulation: Simulation) -> None:
    verdict = simulation.run()

    assert not verdict.violations, (
        f"run it again: pytest tests/simulation/test_seeds.py {verdict.describe()}"
    )


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_every_promise_is_kept_while_everything_fails_and_all_work_ends_afterwards(first, request):
    only = request.config.getoption("--seed", default=None)
    seeds = range(first, min(first + BATCH, SEEDS)) if only is None else [only] * (first == 0)

    for seed in seeds:
        check(Simulation(seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_world_in_which_nothing_fails_keeps_every_promise_too(seed):
    check(Simulation(seed=seed, rates=PEACE))


@pytest.mark.parametrize("seed", range(5))
def test_a_world_that_is_killed_all_the_time_keeps_every_promise(seed):
    check(Simulation(seed=seed, rates=Rates(kill_tick=0.02, kill_wrapper=0.05)))


def test_the_same_seed_is_the_same_run():
    first, second = (Simulation(seed=7).run() for _ in range(2))

    assert first == second
    assert first.log


def test_other_seeds_are_other_runs():
    assert Simulation(seed=7).run() != Simulation(seed=8).run()


def test_the_troubles_do_happen():
    """A simulation in which nothing goes wrong would prove nothing."""
    words = "\n".join(line for seed in range(12) for line in Simulation(seed=seed).run().log)

    for trouble in (
        "tick killed at",
        "tick frozen at",
        "wrapper",
        "killed",
        "stopped",
        "disk refuses bytes",
        "disk refuses everything",
        "is down",
        "is forgetful",
        "everything frozen",
        "suspended",
        "wall clock set",
        "reboot",
        "lease",
        "becomes garbage",
        "nothing can be launched",
        "cancelled while working",
    ):
        assert trouble in words
