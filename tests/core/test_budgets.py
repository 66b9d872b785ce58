"""What a budget bounds, whom it holds, and how that is told."""

from __future__ import annotations

import pytest

from tinyscheduler.core.budgets import (
    budgets_of,
    find_used_up,
    subject_of,
    target_of,
    tell_spent,
)
from tinyscheduler.model.budgets import Budget, Spent
from tinyscheduler.model.switches import EVERYTHING, parse_target

ALL = Budget(
    subject="overall",
    window_s=90_000.0,
    runs=20,
    turns=2000,
    tokens=5_000_000,
    money_usd=10.0,
    gpu_s=14_400.0,
    wall_s=28_800.0,
)


@pytest.mark.parametrize("subject", ["overall", "agent:coder", "schedule:nightly"])
def test_what_is_paused_for_a_budget_names_it_again(subject: str):
    target = target_of(Budget(subject=subject, runs=1))

    assert target == (EVERYTHING if subject == "overall" else parse_target(subject))
    assert subject_of(target) == subject


def test_an_attempt_uses_the_budgets_of_all_that_it_belongs_to():
    budgets = [
        Budget(subject=subject, runs=1)
        for subject in ("overall", "agent:coder", "agent:writer", "schedule:s", "schedule:None")
    ]

    def held(agent: str, schedule_id: str | None) -> list[str]:
        return [one.subject for one in budgets_of(budgets, agent=agent, schedule_id=schedule_id)]

    assert held("coder", "s") == ["overall", "agent:coder", "schedule:s"]
    assert held("writer", None) == ["overall", "agent:writer"]


def test_all_that_is_used_is_told_beside_what_may_be():
    spent = Spent(runs=3, turns=120, tokens=70_000, money_usd=1.2345, gpu_s=90.0, wall_s=3_725.0)

    assert tell_spent(ALL, spent) == (
        "3 of 20 runs, 120 of 2000 turns, 70000 of 5000000 tokens, 1.23 of 10.00 USD,"
        " 1.5 of 240 GPU minutes, 1h2m of 8h running in 1d1h"
    )
    assert find_used_up(ALL, spent) is None


def test_every_bound_that_is_reached_is_told():
    spent = Spent(runs=20, turns=1999, tokens=0, money_usd=10.0)

    assert find_used_up(ALL, spent) == "20 of 20 runs, 10.00 of 10.00 USD in 1d1h"
