"""A tinytask server that is asked by its tools: what its interface lacks, and how it fails."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import ServerWorld, open_server_world
from tests.tinytask.double import Fault
from tests.tinytask.refusal import Refusal

from tinyscheduler.adapters.tinytask.wire import RefusedError
from tinyscheduler.errors import SourceError
from tinyscheduler.model.tasks import Finish, TaskSpec, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DONE = Finish(state=TaskState.DONE, reason=None, failures=0)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        yield open_server_world(tmp_path, stack, by_tools=True, is_old=True, timeout_s=3)


def test_version_1_has_no_queues_blockers_or_subtasks_and_its_times_are_utc(old):
    # It tells none of them; here they are only to show that nothing is asked about them.
    blocker = old.double.add(assigned_to="ann")
    old.double.add("child", queue_name="dev", parent_task_id=blocker)
    task_id = old.add(TaskSpec(agent="coder", after=(f"tinytask-{blocker}",)))

    (task,) = old.source.look(window=9).waiting

    assert (task.task_id, task.blocked_by, task.queue) == (task_id, (), None)
    assert task.created_at == old.clock.now().wall
    assert old.source.claim(task_id, lease_id="one", agent="coder", queue="dev", attempt=1)
    assert old.source.settle(task_id, lease_id="one", ending=DONE) is TaskState.DONE


def test_more_tasks_than_are_looked_at_are_looked_through_agent_by_agent(old, monkeypatch):
    monkeypatch.setattr("tinyscheduler.adapters.tinytask.window.HEAD", 3)
    for _ in range(5):
        old.add(TaskSpec(agent="a"))
    other = old.add(TaskSpec(agent="b"))

    waiting = [one.task_id for one in old.source.look(window=1).waiting]

    assert waiting == ["tinytask-1", other]


def test_what_a_tool_refuses_is_told_in_its_words(old):
    with pytest.raises(RefusedError, match="update_task: Error: Invalid status: odd"):
        old.source._client.update(int(old.add(TaskSpec(agent="a"))[-1]), status="odd")
    assert old.source._client.task(99) is None


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.CUT_IN_HEADERS, Fault.SERVER_ERROR])
def test_a_server_that_does_not_answer_is_down_within_its_time(tmp_path, fault):
    with ExitStack() as stack:
        world = open_server_world(tmp_path, stack, by_tools=True, timeout_s=0.3)
        world.double.misbehave(fault)

        with pytest.raises(SourceError, match="3 times in a row"):
            world.source.look(window=1)

        world.double.behave()
        world.clock.advance(10)
        assert world.source.look(window=1).waiting == ()


@pytest.mark.parametrize("words", ["database file not found", "Tool get_task not found"])
def test_only_a_task_that_is_not_found_is_absent(old, words):
    task_id = old.add(TaskSpec(agent="coder"))
    assert old.source.claim(task_id, lease_id="one", agent="coder", queue="dev", attempt=1)

    def refuse(*_: object) -> tuple[int, object]:
        raise Refusal(500, words)

    old.double.answer = refuse

    with pytest.raises(SourceError, match=words):
        old.source.settle(task_id, lease_id="one", ending=DONE)

    assert old.notes.task(task_id).state is TaskState.WORKING
