"""By whose rules does an attempt end?"""

from __future__ import annotations

import json

import pytest
from tests.builders import an_agent

from tinyscheduler.agent_outcomes import Judge
from tinyscheduler.core.profiles import BUILT_IN, find_profile, profile_document, profile_of
from tinyscheduler.model.profiles import BY_WORDS, SUCCESS, Profile
from tinyscheduler.model.tasks import FailureReason


@pytest.mark.parametrize(
    ("profile", "command", "argv", "found"),
    [
        ("claude", ("sh", "x"), ("sh", "x"), "claude"),
        ("shell", (), ("/opt/bin/codex", "exec"), "codex"),
        ("shell", (), ("make",), None),
        # Whoever says that a command of his own is no agent is believed.
        ("shell", ("claude",), ("claude",), None),
        ("mine", ("claude",), ("claude",), "mine"),
        ("gone", ("claude",), ("claude",), None),
    ],
)
def test_whose_rules_hold_is_said_or_known_by_the_program(
    profile: str, command: tuple[str, ...], argv: tuple[str, ...], found: str | None
):
    agent = an_agent(profile=profile, command=command)

    one = profile_of(agent, argv, [Profile(name="mine")])

    assert (None if one is None else one.name) == found


def test_ones_own_profile_goes_before_one_that_everybody_has():
    own = Profile(name="claude", command=("my-claude",))

    assert find_profile("claude", [own]) is own
    assert find_profile("claude") is not own


@pytest.mark.parametrize("profile", BUILT_IN, ids=lambda one: one.name)
def test_every_profile_knows_what_any_exit_code_means_and_only_0_may_be_a_success(
    profile: Profile,
):
    document = json.loads(json.dumps(profile_document(profile)))

    for code in (0, 1, 2, 75, 130, 255):
        judge = Judge(document)
        judge.take_line(b"Something new.")
        found = judge.judge(code)
        assert (found is None) == (code == 0)
        assert found is None or "no rule of its profile" not in found[1]
    reasons = {*FailureReason, SUCCESS, BY_WORDS}
    assert {rule.then for rule in profile.outcomes} <= reasons
