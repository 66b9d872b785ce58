"""What would start a task is said in a sentence, with what to write where."""

from __future__ import annotations

import pytest
from tests.builders import NOW

from tinyscheduler.cli.changes import change_json, change_words
from tinyscheduler.core.whatif import Change, Raised, Resumed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            Raised(limit="per_host", name="coder", to=2),
            "a max_per_host of 2 for agent coder would start it now (agents file)",
        ),
        (
            Raised(limit="skips", name="MAX_SKIPS_PER_TASK", to=4),
            "TINYSCHEDULER_MAX_SKIPS_PER_TASK=4 would start it now",
        ),
        (
            Raised(limit="tenant_vram", name="red", to=36 << 30),
            "a vram of 36864M for tenant red would start it now (agents file)",
        ),
        (
            Raised(limit="model", name="large", host="box", to=2, after_s=28.2),
            "max_slots 2 of model large on host box would start it in 29 s (agents file)",
        ),
        (Resumed(agent="tester"), "`tinyscheduler resume agent:tester` would start it now"),
    ],
)
def test_each_change_says_where_it_is_made(change: Change, words: str):
    assert change_words(change, "1", now=NOW.wall) == words


def test_an_agent_to_resume_is_named_to_programs_too():
    assert change_json(Resumed(agent="tester")) == {"change": "resumed", "agent": "tester"}
