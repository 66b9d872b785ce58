"""The double says what the real servers said, and say still.

``conversation.json`` is what tinytask 2.0 answered over REST, ``conversation-mcp.json`` what it
answered over MCP, and ``conversation-old.json`` what 1.0 did.  Where TINYTASK_SERVER and
TINYTASK_OLD_SERVER name ones that were built, they are asked again; UPDATE_GOLDEN=1 writes down
what they say.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.tinytask.conversation import converse, converse_over_mcp, sign_up_at_once
from tests.tinytask.double import Double, Speaks
from tests.tinytask.real import OLD_SERVER, SERVER, RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("double", *(("real",) if SERVER else ()))
OLD_KINDS = ("double", *(("real",) if OLD_SERVER else ()))


@contextmanager
def a_server(kind: str, speaks: Speaks, folder: Path) -> Iterator[str]:
    if kind == "double":
        with Double(speaks=speaks).running() as double:
            yield double.url
        return
    program = OLD_SERVER if speaks is Speaks.OLD else SERVER
    assert program is not None
    mode = "http" if speaks is Speaks.REST else "sse"
    with RealServer(program, folder, mode=mode).running() as server:
        yield server.url


@pytest.mark.parametrize("kind", KINDS)
def test_each_says_what_the_real_one_said(kind, tmp_path):
    with a_server(kind, Speaks.REST, tmp_path) as url:
        compare(list(converse(url)), kind, "conversation.json")


@pytest.mark.parametrize("speaks", [Speaks.REST, Speaks.SSE])
@pytest.mark.parametrize("kind", KINDS)
def test_each_says_over_mcp_what_the_real_one_said(kind, speaks, tmp_path):
    with a_server(kind, speaks, tmp_path) as url:
        compare(list(converse_over_mcp(url)), kind, "conversation-mcp.json")


@pytest.mark.parametrize("kind", OLD_KINDS)
def test_each_says_what_the_real_old_one_said(kind, tmp_path):
    with a_server(kind, Speaks.OLD, tmp_path) as url:
        compare(list(converse_over_mcp(url)), kind, "conversation-old.json")


def compare(said: list[dict[str, Any]], kind: str, name: str) -> None:
    golden = Path(__file__).with_name(name)
    if os.environ.get("UPDATE_GOLDEN") and kind == "real":
        lines = ",\n".join(json.dumps(one) for one in said)
        golden.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    expected: list[dict[str, Any]] = json.loads(golden.read_text(encoding="utf-8"))
    for one, other in zip(said, expected, strict=True):
        assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_of_many_that_sign_up_at_once_each_gets_a_task_of_its_own(kind, tmp_path):
    with a_server(kind, Speaks.REST, tmp_path) as url:
        assert sign_up_at_once(url, tasks=6, agents=12) == (6, 6)
