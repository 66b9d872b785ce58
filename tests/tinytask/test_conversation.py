"""The double says what the real server said, and says still.

``conversation.json`` is what tinytask 2.0 answered.  Where TINYTASK_SERVER names one that was
built, it is asked again; UPDATE_GOLDEN=1 writes down what it says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.tinytask.conversation import converse, sign_up_at_once
from tests.tinytask.double import Double
from tests.tinytask.real import SERVER, RealServer

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).with_name("conversation.json")
KINDS = ("double", *(("real",) if SERVER else ()))


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "double":
        with Double().running() as double:
            yield double.url
    else:
        assert SERVER is not None
        with RealServer(SERVER, tmp_path).running() as server:
            yield server.url


def test_each_says_what_the_real_one_said(url, request):
    said = list(converse(url))

    if os.environ.get("UPDATE_GOLDEN") and request.node.callspec.params["url"] == "real":
        lines = ",\n".join(json.dumps(one) for one in said)
        GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    expected: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for one, other in zip(said, expected, strict=True):
        assert one == other


def test_of_many_that_sign_up_at_once_each_gets_a_task_of_its_own(url):
    assert sign_up_at_once(url, tasks=6, agents=12) == (6, 6)
