"""What a tinytask source does with its server, beside what every source must do."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.contract.builders import START, ServerWorld, a_runner, open_server_world
from tests.tinytask.double import Fault

from tinyscheduler.adapters.sqlite.pruning import SqlitePruner
from tinyscheduler.adapters.tinytask.questions import RefusedError
from tinyscheduler.errors import SourceError
from tinyscheduler.model.pruning import PruneBounds
from tinyscheduler.model.tasks import FailureReason, Finish, Requeue, TaskSpec, TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DONE = Finish(state=TaskState.DONE, reason=None, failures=0)
AGAIN = Requeue(attempt=2, failures=1, launches=0, backing_off_until=None, reason=None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        yield open_server_world(tmp_path, stack)


def claim(world: ServerWorld, task_id: str, *, agent: str = "coder", attempt: int = 1) -> bool:
    return world.source.claim(
        task_id, lease_id=f"{task_id}/{attempt}", agent=agent, queue="dev", attempt=attempt
    )


def settle(world: ServerWorld, task_id: str, ending: Finish | Requeue) -> TaskState | None:
    return world.source.settle(task_id, lease_id=f"{task_id}/1", ending=ending)


def ids(world: ServerWorld, *, window: int = 100) -> list[str]:
    return [task.task_id for task in world.source.look(window=window).waiting]


def test_ten_thousand_tasks_of_one_agent_hide_no_other_and_cost_a_few_questions(world):
    with world.double.lock:
        world.double._database.executemany(
            "INSERT INTO tasks (title, status, assigned_to, priority, created_at, updated_at)"
            " VALUES ('x', 'idle', 'a', 5, ?, ?)",
            [(f"{START:%Y-%m-%dT%H:%M:%SZ}",) * 2] * 10_000,
        )
    other = world.add(TaskSpec(agent="b"))
    queued = world.add(TaskSpec(queue="q"))

    view = world.source.look(window=5)

    # The first of its line, and what stands alone in each other.
    assert [one.task_id for one in view.waiting] == [
        *(f"tinytask-{number}" for number in range(1, 6)),
        queued,
        other,
    ]
    assert view.waiting_total > len(view.waiting)
    # All, those at work, and one for each line but that which was seen to be full.
    assert len(world.double.asked) == 2 + 4 + 5


def test_what_cannot_start_is_looked_past_page_by_page(world):
    never = world.double.add("never", assigned_to="ann")
    for _ in range(300):
        world.double.add(assigned_to="a", priority=9, blocked_by_task_id=never)
    free = world.add(TaskSpec(agent="a"))

    assert free in ids(world, window=1)


def test_a_parent_that_is_seen_as_one_only_when_it_starts_rests_for_a_while(world, monkeypatch):
    parent = world.double.add("parent", assigned_to="coder", priority=9)
    monkeypatch.setattr("tinyscheduler.adapters.tinytask.window.HEAD", 1)
    world.double.add("child", assigned_to="ann", parent_task_id=parent)
    assert ids(world) == [f"tinytask-{parent}"]

    assert not claim(world, f"tinytask-{parent}")

    (task,) = world.source.look(window=9).waiting
    assert task.backing_off_until == START + timedelta(seconds=60)
    assert world.double.task(parent)["status"] == "idle"


def test_the_place_in_line_is_by_blockers_priority_nobodys_first_and_age(world):
    add = world.double.add
    old = add("old", assigned_to="a")
    nobodys = add("nobody's", queue_name="q")
    urgent = add("urgent", assigned_to="a", priority=1)
    blocker = add("blocker", assigned_to="a", priority=-9)
    add("blocked", assigned_to="ann", blocked_by_task_id=blocker)

    view = world.source.look(window=9)

    order = sorted(view.waiting, key=lambda task: task.created_order)
    assert [int(one.task_id.removeprefix("tinytask-")) for one in order] == [
        blocker,
        urgent,
        nobodys,
        old,
    ]


def test_a_task_counts_as_waiting_no_longer_than_those_before_it(world):
    world.double.add("old", assigned_to="a")
    world.clock.advance(600)
    world.double.add("urgent", assigned_to="a", priority=1)

    urgent, old = world.source.look(window=9).waiting

    assert urgent.created_at == old.created_at == START + timedelta(seconds=600)


def test_what_is_nobodys_here_is_left_alone(world):
    for fields in ({"assigned_to": "ann"}, {"queue_name": "elsewhere"}, {}):
        number = world.double.add(**fields)
        assert not claim(world, f"tinytask-{number}")

    assert ids(world) == []


def test_a_claim_whose_answer_was_lost_is_undone_at_the_next_look_and_was_no_attempt(world):
    task_id = world.add(TaskSpec(agent="coder"))
    world.source.look(window=1)
    world.double.misbehave(Fault.CUT_AFTER_WRITE, "PATCH")
    with pytest.raises(SourceError, match="3 times in a row"):
        claim(world, task_id)
    assert world.double.task(1)["status"] == "working"
    world.double.behave()
    world.clock.advance(10)

    (lost,) = world.source.look(window=1).claims
    state = world.source.settle(task_id, lease_id=lost.lease_id, ending=AGAIN)

    assert state is TaskState.WAITING
    assert (world.double.task(1)["status"], world.double.comments(1)) == ("idle", [])
    (task,) = world.source.look(window=1).waiting
    assert (task.attempt, task.failures) == (1, 0)


def test_an_attempt_that_ended_well_and_left_its_task_idle_counts_as_failed(world):
    task_id = world.add(TaskSpec(agent="coder"))
    for attempt in range(1, 4):
        assert claim(world, task_id, attempt=attempt)
        world.double.change(1, status="idle")
        state = world.source.settle(task_id, lease_id=f"{task_id}/{attempt}", ending=DONE)
        world.clock.advance(4000)

    assert state is TaskState.PARKED
    assert world.notes.task(task_id).failure_reason is FailureReason.ABORTED
    assert ids(world) == []


@pytest.mark.parametrize("ending", [DONE, AGAIN])
def test_what_was_deleted_meanwhile_is_over(world, ending):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    world.double.ask("DELETE", "/api/v1/tasks/1")

    state = settle(world, task_id, ending)

    assert state is (TaskState.DONE if ending is DONE else TaskState.CANCELLED)
    assert ids(world) == []


def test_a_planner_whose_subtasks_are_open_is_complete_when_they_are(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    child = world.double.add("child", assigned_to="a", parent_task_id=1)

    assert settle(world, task_id, DONE) is TaskState.WAITING

    waiting = {one.task_id: one for one in world.source.look(window=9).waiting}
    assert waiting[task_id].blocked_by == (f"tinytask-{child}",)
    world.double.change(child, status="complete")
    assert ids(world) == []
    assert world.notes.task(task_id).state is TaskState.DONE


def test_a_task_that_is_opened_again_is_run_again_as_a_new_one(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    assert settle(world, task_id, DONE) is TaskState.DONE
    assert ids(world) == []

    world.double.change(1, status="idle")

    (task,) = world.source.look(window=1).waiting
    assert (task.attempt, task.failures) == (2, 0)
    assert claim(world, task_id, attempt=2)


def test_tasks_that_end_or_leave_elsewhere_are_forgotten_here(world):
    complete, given, gone = (world.add(TaskSpec(agent="coder")) for _ in range(3))
    tried = world.add(TaskSpec(agent="coder"))
    assert claim(world, tried)
    assert settle(world, tried, AGAIN) is TaskState.WAITING
    assert len(ids(world)) == 4

    world.double.change(1, status="complete")
    world.double.change(2, assigned_to="ann")
    world.double.ask("DELETE", "/api/v1/tasks/3")
    world.double.change(4, assigned_to="ann")

    assert ids(world) == []
    assert world.notes.states([complete, given, gone, tried]) == {tried: TaskState.CANCELLED}


def test_the_prompt_is_title_and_description_and_tags_are_labels(world):
    number = world.double.add(
        " Fix it ", description="All.\n", assigned_to="coder", tags=["team=red", "urgent"]
    )

    spec = world.source.describe(f"tinytask-{number}")

    assert spec.prompt == "Fix it\n\nAll.\n"
    assert spec.labels == (("team", "red"), ("urgent", ""))


def test_all_questions_of_a_tick_together_are_bounded_however_each_is_answered(tmp_path):
    with ExitStack() as stack:
        world = open_server_world(tmp_path, stack, agents=(a_runner("coder", "dev"),), timeout_s=2)
        before, moment = world.double.answer, timedelta(seconds=1.5)

        def answer(method, path, query, body):
            world.clock.advance(moment.total_seconds())
            return before(method, path, query, body)

        world.double.answer = answer  # type: ignore[method-assign]  # the server itself

        for _ in range(4):
            world.source.look(window=1)
        with pytest.raises(SourceError, match="all questions together"):
            world.source.look(window=1)


def test_a_source_without_a_write_keeps_nothing(world):
    number = world.double.add(assigned_to="coder")
    world.double.change(number, status="working")
    world.double.add(assigned_to="coder")
    world.source._settings = replace(world.source._settings, may_write=False)

    assert len(ids(world)) == 1

    assert world.notes.known() == {}


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ({"assigned_to": "ann"}, {"assigned_to": "coder"}),
        ({"status": "complete"}, {"status": "idle"}),
    ],
)
def test_a_task_that_has_failed_and_was_elsewhere_for_a_while_is_tried_again(world, away, back):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    assert settle(world, task_id, AGAIN) is TaskState.WAITING
    world.double.change(1, **away)
    assert ids(world) == []

    world.double.change(1, **back)

    assert ids(world) == [task_id]
    assert claim(world, task_id, attempt=2)


def test_agents_that_are_missing_for_a_while_lose_no_task(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    assert settle(world, task_id, AGAIN) is TaskState.WAITING
    agents, world.source._agents = world.source._agents, {}
    assert ids(world) == []

    world.source._agents = agents

    assert ids(world) == [task_id]


@pytest.mark.parametrize("state", [TaskState.PARKED, TaskState.CANCELLED, TaskState.FAILED])
def test_a_number_that_a_new_server_gives_again_is_a_new_task(world, state):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    end = Finish(state=state, reason=FailureReason.SDK_ERROR, failures=3)
    assert settle(world, task_id, end) is state
    assert ids(world) == []
    world.double.ask("DELETE", "/api/v1/tasks/1")
    world.double._sql("UPDATE sqlite_sequence SET seq = 0")
    world.clock.advance(60)

    assert world.add(TaskSpec(agent="coder")) == task_id

    assert ids(world) == [task_id]


def test_a_parked_task_that_somebody_else_began_and_put_back_is_his(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    end = Finish(state=TaskState.PARKED, reason=FailureReason.SDK_ERROR, failures=3)
    assert settle(world, task_id, end) is TaskState.PARKED
    world.double.change(1, assigned_to="a", status="working")
    assert ids(world) == []

    world.double.change(1, status="idle")

    assert ids(world) == [task_id]


def test_a_task_nobody_can_read_stops_no_other(world):
    odd, other = world.add(TaskSpec(agent="coder")), world.add(TaskSpec(agent="coder"))
    assert claim(world, odd)
    assert settle(world, odd, AGAIN) is TaskState.WAITING
    world.double._sql("UPDATE tasks SET priority = 0.5 WHERE id = 1")

    assert ids(world) == [other]


def test_a_comment_that_is_refused_keeps_no_task_from_ending(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    before = world.double.answer

    def answer(method, path, query, body):
        if method == "POST":
            return 413, {"error": "too large"}
        return before(method, path, query, body)

    world.double.answer = answer

    parked = Finish(state=TaskState.PARKED, reason=FailureReason.SPAWN_FAILED, failures=0)
    assert settle(world, task_id, parked) is TaskState.PARKED

    assert world.double.task(1)["status"] == "idle"


def test_what_was_cancelled_here_stays_so_however_long_ago_that_was(world):
    cancelled, gone = (world.add(TaskSpec(agent="coder")) for _ in range(2))
    assert claim(world, gone)
    assert settle(world, gone, AGAIN) is TaskState.WAITING
    world.cancel(cancelled)
    world.double.change(2, assigned_to="ann")
    assert ids(world) == []
    world.clock.advance(400 * 86_400)
    now = world.clock.now().wall
    bounds = PruneBounds(history_before=now, logs_before=now, now=now, most=9)

    SqlitePruner(world.database).prune(bounds)

    assert world.notes.states([cancelled, gone]) == {cancelled: TaskState.CANCELLED}
    assert ids(world) == []


def test_a_cancellation_during_a_claim_that_came_to_nothing_is_one(world, monkeypatch):
    task_id = world.add(TaskSpec(agent="coder"))
    world.source.look(window=1)

    def refuse(_number, **_fields):
        world.notes.request_cancel(task_id)
        raise RefusedError("no")

    with monkeypatch.context() as patched:
        patched.setattr(world.source._client, "update", refuse)
        with pytest.raises(RefusedError):
            claim(world, task_id)

    assert ids(world) == []
    assert world.notes.task(task_id).state is TaskState.CANCELLED


@pytest.mark.parametrize("tries", [0, 1])
def test_a_held_task_that_was_elsewhere_for_a_while_is_held(world, tries):
    task_id = world.add(TaskSpec(agent="coder"))
    world.source.look(window=1)
    if tries:
        assert claim(world, task_id)
        assert settle(world, task_id, AGAIN) is TaskState.WAITING
    world.notes.hold(task_id)
    world.double.change(1, assigned_to="ann")
    assert ids(world) == []
    world.double.change(1, assigned_to="coder")

    (task,) = world.source.look(window=1).waiting
    assert task.is_held

    world.double.change(1, status="complete")
    assert ids(world) == []
    assert world.notes.states([task_id]) == {task_id: TaskState.DONE}


def test_only_a_task_that_is_not_found_is_gone(world):
    task_id = world.add(TaskSpec(agent="coder"))
    assert claim(world, task_id)
    before = world.double.answer
    world.double.answer = lambda *_: (404, {"error": "Not found"})

    with pytest.raises(SourceError, match="status 404, Not found"):
        settle(world, task_id, DONE)

    world.double.answer = before
    assert settle(world, task_id, DONE) is TaskState.DONE
    assert world.double.task(1)["status"] == "complete"


def test_what_ended_elsewhere_is_found_out_even_where_not_all_is_looked_at(world, monkeypatch):
    numbers = [world.double.add(assigned_to="a") for _ in range(6)]
    assert len(ids(world)) == 6
    monkeypatch.setattr("tinyscheduler.adapters.tinytask.window.HEAD", 1)
    for number in numbers[1:]:
        world.double.change(number, status="complete")

    for _ in range(20):
        world.clock.advance(60)
        assert ids(world, window=1) == ["tinytask-1"]

    states = world.notes.states([f"tinytask-{number}" for number in numbers])
    assert [name for name, state in states.items() if not state.is_final] == ["tinytask-1"]


def test_what_is_only_out_of_sight_still_waits(world, monkeypatch):
    numbers = [world.double.add(assigned_to="a") for _ in range(80)]
    assert len(ids(world)) == 80
    monkeypatch.setattr("tinyscheduler.adapters.tinytask.window.HEAD", 1)
    waiting = dict.fromkeys((f"tinytask-{number}" for number in numbers), TaskState.WAITING)

    for _ in range(3):
        world.clock.advance(60)
        assert ids(world, window=1) == ["tinytask-1"]

    assert world.notes.states(waiting) == waiting
