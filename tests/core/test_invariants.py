"""The invariants of the design that speak of plans, whoever decides: see `INVARIANTS`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from tests.core.invariants import INVARIANTS, Decided
from tests.core.policies import PLATFORM, POLICIES, WILD, Asked
from tests.core.worlds import some_world

from tinyscheduler.core.decide import decide
from tinyscheduler.errors import PolicyError

if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Snapshot

# Each world is decided by every policy, so fewer than usual do; a campaign takes all it wants.
is_campaign = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
few = settings() if is_campaign else settings(max_examples=50)


@pytest.mark.parametrize("invariant", INVARIANTS)
@few
@given(data=st.data())
def test_whoever_decides(invariant: str, data: st.DataObject):
    snapshot = data.draw(some_world())

    for name, policies in POLICIES.items():
        policy = Asked(policy=data.draw(policies))
        note(f"decided by {name}")
        try:
            plan = decide(snapshot, policy)
        except PolicyError:
            # Only of what no honest policy would ask for.
            assert name == WILD
            event(f"{name}: refused")
            continue
        event(f"{name}: {'asked' if policy.questions else 'not asked'}")
        case = Decided(
            snapshot=snapshot, policy=policy.policy, plan=plan, questions=policy.questions
        )
        INVARIANTS[invariant](case, data)


def test_in_most_worlds_a_policy_is_asked_and_has_a_choice():
    first_questions = []

    @settings(max_examples=200, derandomize=True, database=None)
    @given(some_world())
    def ask(snapshot: Snapshot):
        policy = Asked(policy=PLATFORM)
        decide(snapshot, policy)
        first_questions.append(policy.questions[0] if policy.questions else 0)

    ask()

    assert len(first_questions) >= 200
    assert sum(number > 0 for number in first_questions) > 0.5 * len(first_questions)
    assert sum(number > 1 for number in first_questions) > 0.3 * len(first_questions)
