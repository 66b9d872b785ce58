"""What a tick of an earlier version kept is still read, and decided again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyscheduler.adapters.rounds_file import parse_rounds
from tinyscheduler.app.replaying import Replayer, replay
from tinyscheduler.model.plan import Dispatch, Wait
from tinyscheduler.model.policy import DecidedBy

# One round of `scripts/campaign replay`, as the first version wrote it.
FIRST = Path(__file__).resolve().parents[1] / "data" / "round-v1.json"
# One that a policy of one's own decided, from before its version was told.
OF_OWN = FIRST.with_name("round-v1-own-policy.json")


def test_a_round_of_the_first_version_is_still_read_whole():
    (one,) = parse_rounds(FIRST.read_bytes(), where=str(FIRST))

    waiting = [task for view in one.snapshot.sources for task in view.waiting]
    assert one.unknown == (), "a field that is renamed or removed needs a new version of documents"
    assert len(waiting) == len(one.plan.decisions)
    assert {type(said) for said in one.plan.decisions} == {Dispatch, Wait}
    assert one.snapshot.gpus is not None


def test_a_round_of_the_first_version_is_decided_again():
    (one,) = parse_rounds(FIRST.read_bytes(), where=str(FIRST))

    # Nothing says that it is still decided the same: then it is told where not.
    assert replay(one).policy == one.decided_by.name
    assert (one.decided_by.version, one.decided_by.instead_of) == (None, None)


def test_a_round_of_ones_own_policy_from_before_its_version_was_told_is_decided_by_the_platform():
    (one,) = parse_rounds(OF_OWN.read_bytes(), where=str(OF_OWN))

    done = Replayer(lambda: pytest.fail("no policy is looked for")).replay(one)

    assert one.unknown == ()
    assert one.decided_by == DecidedBy(name="policies/mine.lua")
    assert (done.policy, done.version) == ("platform", None)
    assert done.notes == (
        "which version of policies/mine.lua decided is not on record: the platform decides again",
    )
    assert [one.what for one in done.differences] == ["task 3", "task 1"]
