"""A tinytask server that is asked over MCP: an old one, or one whose REST nobody can reach."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import ServerWorld, SteppedClock, open_server_world
from tests.tinytask.double import Double, Fault, Speaks

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.tinytask.client import TinytaskClient
from tinyscheduler.adapters.tinytask.questions import RefusedError
from tinyscheduler.errors import SourceError
from tinyscheduler.model.tasks import Finish, TaskSpec, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DONE = Finish(state=TaskState.DONE, reason=None, failures=0)
TIMEOUT_S = 0.4


@pytest.fixture
def old() -> Iterator[Double]:
    with Double(speaks=Speaks.OLD).running() as double:
        yield double


@pytest.fixture
def old_world(tmp_path: Path) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        yield open_server_world(tmp_path, stack, speaks=Speaks.OLD)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def a_client(stack: ExitStack, url: str, *, timeout_s: float = 5, tries: int = 3) -> TinytaskClient:
    client = TinytaskClient(url, SystemClock(), timeout_s=timeout_s, tries=tries)
    stack.callback(client.close)
    return client


def look(client: TinytaskClient, **filters: str | int) -> list[int]:
    wanted = {"status": "idle,working", "limit": 200, **filters}
    return [task.number for task in client.tasks(pytest.fail, **wanted)[0]]


def test_tasks_of_an_old_server_are_claimed_and_ended_there(old_world):
    old_world.clock.advance(7)
    mine = old_world.add(TaskSpec(agent="coder"))
    old_world.double.add("nobody's")

    (task,) = old_world.source.look(window=9).waiting
    assert (task.task_id, task.agent, task.blocked_by) == (mine, "coder", ())
    assert task.created_at == old_world.clock.now().wall  # which the server tells without a zone
    assert old_world.source.claim(mine, lease_id="x", agent="coder", queue="dev", attempt=1)
    assert old_world.double.task(1)["status"] == "working"

    assert old_world.source.settle(mine, lease_id="x", ending=DONE) is TaskState.DONE
    assert old_world.double.task(1)["status"] == "complete"
    assert old_world.warnings == []


def test_an_old_server_is_known_by_whatever_it_is_asked_first(old, stack):
    number = old.add(assigned_to="coder")

    # "Not found" of a path must never read as: the task is gone.
    task = a_client(stack, old.url).task(number)

    assert task is not None
    assert a_client(stack, old.url).update(number, status="working", assigned_to="") is not None
    assert (old.task(number)["status"], old.task(number)["assigned_to"]) == ("working", None)
    assert a_client(stack, old.url).task(99) is None


def test_an_old_server_tells_one_status_at_a_time_and_no_task_is_lost_between(old, stack):
    numbers = [old.add(priority=one % 3) for one in range(9)]
    old.change(numbers[4], status="working")
    old.change(numbers[5], status="complete")
    client = a_client(stack, old.url)
    wanted = [3, 6, 9, 2, 5, 8, 1, 4, 7]
    wanted.remove(6)

    assert look(client) == wanted
    assert look(client, limit=3) == wanted[:3]
    assert look(client, status="working") == [5]
    assert look(client, queue_name="dev") == look(client, parent_task_id=1) == []
    assert not client.has_open_subtasks(1)
    assert client.language == "MCP (SSE)"


def test_more_tasks_than_are_looked_at_are_looked_through_agent_by_agent(old_world, monkeypatch):
    monkeypatch.setattr("tinyscheduler.adapters.tinytask.window.HEAD", 3)
    for _ in range(5):
        old_world.add(TaskSpec(agent="a"))
    other = old_world.add(TaskSpec(agent="b"))

    waiting = [one.task_id for one in old_world.source.look(window=1).waiting]

    assert waiting == ["tinytask-1", other]


def test_rest_is_spoken_where_it_can_be_and_what_an_address_says_is_heeded(stack):
    double = stack.enter_context(Double().running())
    double.add()
    languages = {}
    for path in ("", "/", "/mcp", "/mcp/"):
        client = a_client(stack, double.url + path)
        assert look(client) == [1]
        languages[path] = client.language
    with_sse = stack.enter_context(Double(speaks=Speaks.SSE).running())
    client = a_client(stack, with_sse.url + "/mcp")
    look(client)

    assert languages == dict.fromkeys(("", "/"), "REST") | dict.fromkeys(
        ("/mcp", "/mcp/"), "MCP (streamable HTTP)"
    )
    assert client.language == "MCP (SSE)"


def test_a_comment_over_mcp_is_there_once_whatever_is_cut(old, stack):
    number = old.add()
    client = a_client(stack, old.url, timeout_s=2)
    old.misbehave(Fault.CUT_AFTER_WRITE, method="POST", times=1, spared=5)

    client.add_comment(number, "it ended (lease 7)", mark="lease 7")
    client.add_link(number, "file:///log", "log")

    assert old.comments(number) == ["it ended (lease 7)"]
    assert old.task(number)["comments"][0]["created_by"] == "tinyscheduler"


def test_what_a_server_refuses_over_mcp_was_not_done(old, stack):
    number = old.add()

    with pytest.raises(RefusedError, match="update_task: Error calling tool update_task"):
        a_client(stack, old.url).update(number, status="odd")

    assert old.task(number)["status"] == "idle"


@pytest.mark.parametrize("speaks", list(Speaks))
def test_a_server_that_was_started_again_is_asked_in_a_new_session(speaks, stack):
    double = stack.enter_context(Double(speaks=speaks).running())
    double.add()
    clock = SteppedClock()
    client = TinytaskClient(double.url + "/mcp", clock, timeout_s=5)
    stack.callback(client.close)
    assert look(client) == [1]

    double.stop()
    with pytest.raises(SourceError, match=r"/mcp: list_tasks: .+ 3 times in a row"):
        look(client)
    double.start()
    clock.advance(2.5)  # so long nothing is asked

    assert look(client) == [1]


@pytest.mark.parametrize("speaks", [Speaks.REST, Speaks.OLD])
@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_a_server_does_over_mcp_is_told_in_time_and_leaves_nothing(speaks, fault, stack):
    double = stack.enter_context(Double(speaks=speaks).running())
    look(a_client(stack, double.url + "/mcp"))  # what is loaded then counts as no answer
    began = time.monotonic()
    look(a_client(stack, double.url + "/mcp"))
    healthy_s = time.monotonic() - began
    before = threading.active_count()
    client = a_client(stack, double.url + "/mcp", timeout_s=TIMEOUT_S, tries=1)
    double.misbehave(fault, path="/mcp")

    began = time.monotonic()
    with pytest.raises(SourceError, match=f"^tinytask at {double.url}/mcp: ") as caught:
        look(client)
    client.close()

    assert time.monotonic() - began < TIMEOUT_S + 1.5 + 5 * healthy_s
    assert len(str(caught.value)) < 400
    double.stop()
    assert threading.active_count() <= before


def test_an_answer_within_a_session_that_goes_wrong_is_told_in_time(old, stack):
    client = a_client(stack, old.url, timeout_s=TIMEOUT_S, tries=1)
    look(client)
    old.misbehave(Fault.SILENT, method="POST")

    with pytest.raises(SourceError, match=r"list_tasks: no answer in 0\.. s"):
        look(client)


def test_a_page_that_is_no_server_is_told_with_the_fix(stack):
    double = stack.enter_context(Double(speaks=Speaks.OLD).running())

    with pytest.raises(SourceError, match=r"status 404.*no MCP session: status 404") as caught:
        look(a_client(stack, double.url + "/elsewhere"))

    assert "base URL of a tinytask server" in str(caught.value.hint)


def test_without_the_package_it_says_how_to_get_it(old, stack, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "tinyscheduler.adapters.tinytask.mcp_session", raising=False)

    with pytest.raises(SourceError, match="over MCP, and mcp is not installed") as caught:
        look(a_client(stack, old.url))

    assert "pip install 'tinyscheduler[mcp]'" in str(caught.value.hint)
