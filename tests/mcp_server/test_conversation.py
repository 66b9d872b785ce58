"""A recipe's calls are answered as the real tinytask 2.0 has answered them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.mcp_server.clients import answers_at
from tests.mcp_server.conversation import RECORD, read

if TYPE_CHECKING:
    from pathlib import Path


def without_ours(value: Any, theirs: Any) -> Any:
    """Return a document without the keys that only we know."""
    if isinstance(value, dict) and isinstance(theirs, dict):
        return {key: without_ours(one, theirs[key]) for key, one in value.items() if key in theirs}
    if isinstance(value, list) and isinstance(theirs, list) and len(value) == len(theirs):
        return [without_ours(*pair) for pair in zip(value, theirs, strict=True)]
    return value


def test_a_recipe_is_answered_as_by_tinytask(tmp_path: Path):
    recorded = json.loads(RECORD.read_text())

    async def talk() -> list[Any]:
        answers = answers_at(tmp_path / "base")
        return [await answers.answer(one["call"], one["with"]) for one in recorded]

    for said, ours in zip(recorded, asyncio.run(talk()), strict=True):
        call = (said["call"], said["with"])
        assert (call, ours.is_error) == (call, said["fails"]), ours.text
        if said["fails"]:
            # Of an argument that is missing, ours names the argument.
            words = said["said"].replace("Task title is required", "title is required")
            assert words in ours.text, call
            continue
        told = without_ours(read(ours.text), said["said"])
        assert (call, told) == (call, said["said"])
        # In the same order, too: models read from the top.
        assert json.dumps(told) == json.dumps(said["said"]), call
