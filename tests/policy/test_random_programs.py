"""A few of the programs of `scripts/campaign policy`, other ones each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.campaigns import campaign_policy
from tests.policy.programs import a_program

if TYPE_CHECKING:
    from pathlib import Path


def test_a_random_program_obtains_nothing_and_holds_up_nothing(tmp_path: Path):
    seed = random.randrange(2**32)
    draw = random.Random(seed)

    wrong = [campaign_policy.ask(tmp_path, a_program(draw), most_s=60) for _ in range(60)]

    assert [one for _, one in wrong if one is not None] == [], f"seed {seed}"


def test_what_gets_hold_of_something_is_noticed(tmp_path: Path):
    source = "function schedule() log('info', 'ESCAPED') return {} end"

    assert (
        campaign_policy.ask(tmp_path, source, most_s=60)[1] == "it got hold of something: ESCAPED"
    )
