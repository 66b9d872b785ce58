"""What a tick of an earlier version kept is still read, and decided again."""

from __future__ import annotations

from pathlib import Path

from tinyscheduler.adapters.rounds_file import parse_rounds
from tinyscheduler.app.replaying import replay
from tinyscheduler.model.plan import Dispatch, Wait

# One round of `scripts/campaign replay`, as the first version wrote it.
FIRST = Path(__file__).resolve().parents[1] / "data" / "round-v1.json"


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
    assert replay(one).policy == one.policy
