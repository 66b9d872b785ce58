"""The claim protocol of DESIGN.md section 4, in every order in which its steps can come.

The model is a plain explicit one.  `world.py` is what is on disk, in the source and alive;
`tick.py`, `judging.py`, `attempt.py` and `people.py` are the steps, each one system call or
one SQL statement, held against the design's own numbers; `adversary.py` kills, stops,
freezes and removes, within a budget; `explore.py` visits every world and says what is
wrong with it; `scenarios.py` says how much may happen, and what each rule prevents.

Wrong are

- two live attempts of a task, or more attempts than slots;
- a live attempt that its row, lease and lock do not agree on;
- a recorded result that is run again, and a cancelled task that is;
- an attempt that is not counted, or has two stories in the ledger;
- a lease that the wrong process writes over, resurrects or removes;
- the end of a healthy attempt;
- a lost wake-up: a result to be settled, or a task beside a free slot, left for cron
  although nothing failed and somebody ticked since it came to wait;
- work that cron alone does not bring to its end, and files left behind then.

Not in the model: sources that are down, full disks, reboots, other hosts, torn files (they
are written by rename), and processes that neither hold the lock nor carry the cookie.
Tests with real processes are for those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.protocol.explore import explore
from tests.protocol.scenarios import LOSSES, ONE_TICK, SECOND_DEFENCES, SMALL, Loss

if TYPE_CHECKING:
    from tests.protocol.rules import Rules, Scenario

# Each rule is taken out of a scenario in which nothing goes wrong with it.
EXPLORED = {scenario._replace(name="", worlds=0) for scenario in SMALL}
OTHERS = {loss.scenario._replace(name="", worlds=0): loss.scenario for loss in LOSSES}
REST = [scenario for plain, scenario in OTHERS.items() if plain not in EXPLORED]


@pytest.mark.parametrize("scenario", SMALL, ids=lambda scenario: scenario.name)
def test_nothing_goes_wrong_in_any_order_of_steps(scenario: Scenario):
    found = explore(scenario)

    assert not found.wrong, "\n".join((found.wrong, *found.trace))
    assert found.states >= scenario.worlds > 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.rule}: {loss.wrong}")
def test_each_rule_prevents_something(loss: Loss):
    found = explore(loss.scenario, loss.rules, seek=loss.wrong)

    assert found.wrong == loss.wrong
    print(f"Without the rule that {loss.rule}, {loss.wrong}:", *found.trace, sep="\n  ")


@pytest.mark.parametrize("scenario", REST, ids=lambda scenario: scenario.name)
def test_what_a_rule_prevents_does_not_happen_with_it(scenario: Scenario):
    found = explore(scenario)

    assert not found.wrong, "\n".join((found.wrong, *found.trace))


@pytest.mark.parametrize(
    ("rule", "rules"), SECOND_DEFENCES, ids=[rule for rule, _ in SECOND_DEFENCES]
)
def test_while_ticks_come_one_at_a_time_others_stand_in_for_a_rule(rule: str, rules: Rules):
    found = explore(ONE_TICK, rules)

    assert not found.wrong, "\n".join((rule, found.wrong, *found.trace))
    assert found.states >= ONE_TICK.worlds
