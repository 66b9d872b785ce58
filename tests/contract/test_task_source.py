"""What every task source must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.builders import (
    LONGEST_BACKOFF_S,
    QUEUES,
    SOURCES,
    START,
    SourceRules,
    SourceWorld,
)

from tinyscheduler.errors import StoreError
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.snapshot import SourceView
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import (
    Claim,
    FailureReason,
    Finish,
    PriorityClass,
    Requeue,
    TaskSpec,
    TaskState,
    WaitingTask,
)
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A_SPEC = TaskSpec(command=("true",))
DONE = Finish(state=TaskState.DONE, reason=None, failures=0)
AGAIN = Requeue(attempt=1, failures=0, launches=1, backing_off_until=None, reason=None)
NOT_TASKS = ("999999", "no-such-task", "../x", "007", "-1", "", "9" * 100)

BuildWorld = Callable[..., SourceWorld]
# What a server keeps of a task is less than what an embedded queue does.
of_queues = pytest.mark.parametrize("build_world", list(QUEUES), indirect=True)


@pytest.fixture(params=list(SOURCES))
def build_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BuildWorld]:
    with ExitStack() as stack:
        yield lambda **rules: SOURCES[request.param](tmp_path, SourceRules(**rules), stack)


@pytest.fixture
def world(build_world: BuildWorld) -> SourceWorld:
    return build_world()


def claim(world: SourceWorld, task_id: str, *, lease_id: str = "lease", attempt: int = 1) -> bool:
    return world.source.claim(
        task_id, lease_id=lease_id, agent="shell", queue="work", attempt=attempt
    )


def switch(world: SourceWorld, target: str, kind: SwitchKind = SwitchKind.PAUSE) -> None:
    world.switch(Switch(kind=kind, target=parse_target(target), since=START, by="ann"))


def look(world: SourceWorld, *, window: int = 100) -> SourceView:
    return world.source.look(window=window)


def waiting(world: SourceWorld, task_id: str) -> WaitingTask:
    (task,) = [task for task in look(world).waiting if task.task_id == task_id]
    return task


def ids(view: SourceView) -> list[str]:
    return [task.task_id for task in view.waiting]


def end(world: SourceWorld, task_id: str, state: TaskState) -> None:
    attempt = waiting(world, task_id).attempt
    assert claim(world, task_id, lease_id=f"ends-{task_id}", attempt=attempt)
    reason = None if state is TaskState.DONE else FailureReason.COMMAND_FAILED
    ending = Finish(state=state, reason=reason, failures=0 if reason is None else 1)
    assert world.source.settle(task_id, lease_id=f"ends-{task_id}", ending=ending) is state


@of_queues
def test_a_new_task_waits_as_attempt_1_under_the_name_of_its_source(world):
    needs: dict[str, Any] = {
        "memory_bytes": 5,
        "priority_class": PriorityClass.INTERACTIVE,
        "gpus": 2,
        "vram_bytes": 7,
        "model": "llama",
        "tenant": "us",
        "project": "moon",
        "max_runtime_s": 60.0,
        "title": "a title, ünïcode 🚀",
        "seed": 0,
        "labels": (("team", "red"), ("ünïcode", "")),
    }
    task_id = world.add(TaskSpec(agent="coder", queue="dev", priority=4, **needs))

    view = look(world)

    (task,) = view.waiting
    assert view.name == world.source.name == task.source
    assert view.is_up
    assert view.waiting_total == 1
    assert task == WaitingTask(
        task_id=task_id,
        source=world.source.name,
        created_order=task.created_order,
        attempt=1,
        agent="coder",
        queue="dev",
        priority=4,
        created_at=task.created_at,
        **needs,
    )
    assert task.created_at is not None


@of_queues
def test_what_only_looks_like_labels_is_none_and_each_task_has_its_own(world):
    plain = world.add(TaskSpec(agent="coder", command=("echo", '"labels":[["a","b"]],"seed":1')))
    seeded = world.add(TaskSpec(agent="coder", seed=-3, command=("true",)))
    labelled = world.add(TaskSpec(agent="coder", labels=(('"seed":', "\n"),), is_held=True))
    titled = world.add(TaskSpec(agent="coder", title='"title":"x"'))

    told = {task.task_id: (task.title, task.seed, task.labels) for task in look(world).waiting}

    assert told == {
        plain: (None, None, ()),
        seeded: (None, -3, ()),
        labelled: (None, None, (('"seed":', "\n"),)),
        titled: ('"title":"x"', None, ()),
    }


def test_an_empty_source_answers(world):
    assert look(world) == SourceView(name=world.source.name)


@of_queues
def test_describe_returns_all_that_was_asked_for(world):
    blocker = world.add(A_SPEC)
    spec = TaskSpec(
        agent="coder",
        queue="dev",
        title="a title, ünïcode 🚀",
        command=("sh", "-c", "printf '%s\\n' \"$1\"", "", "-"),
        prompt="line one\nline two\ttab \0 and NUL",
        recipe="r.yaml",
        priority=-3,
        priority_class=PriorityClass.INTERACTIVE,
        gpus=2,
        vram_bytes=14 * 1024**3,
        memory_bytes=2**40,
        model="llama-7b",
        seed=0,
        tenant="team-a",
        project="p",
        max_runtime_s=1.5,
        max_turns=7,
        max_attempts=2,
        after=(blocker,),
        not_before=datetime(2031, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        labels=(("b", "2"), ("a", ""), ("a", "3")),
        cwd="/some where",
        environment=(("TOKEN", "a=b"), ("EMPTY", "")),
        is_held=True,
    )

    task_id = world.add(spec)

    assert world.source.describe(task_id) == spec


@of_queues
def test_what_was_not_said_stays_unsaid(world):
    assert world.source.describe(world.add(A_SPEC)) == A_SPEC


@pytest.mark.parametrize("task_id", NOT_TASKS)
def test_describing_a_task_that_is_gone_raises_store_error(world, task_id):
    with pytest.raises(StoreError):
        world.source.describe(task_id)


@of_queues
def test_a_claimed_task_is_ours_and_waits_no_longer(world):
    task_id = world.add(TaskSpec(command=("true",), max_attempts=5))

    assert claim(world, task_id, lease_id="one")

    view = look(world)
    assert view.waiting == ()
    assert view.waiting_total == 0
    assert view.claims == (
        Claim(
            task_id=task_id,
            source=world.source.name,
            lease_id="one",
            agent="shell",
            attempt=1,
            failures=0,
            launches=0,
            max_attempts=5,
            cancel_requested=False,
        ),
    )
    assert world.state(task_id) is TaskState.WORKING


def test_the_second_claim_is_refused_and_changes_nothing(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id, lease_id="one")
    before = look(world)

    assert not claim(world, task_id, lease_id="two")
    assert not claim(world, task_id, lease_id="one")

    assert look(world) == before


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_claim_as_another_attempt_is_refused(world, attempt):
    task_id = world.add(A_SPEC)

    assert not claim(world, task_id, attempt=attempt)

    assert ids(look(world)) == [task_id]


@pytest.mark.parametrize("task_id", NOT_TASKS)
def test_claiming_or_settling_what_is_no_task_is_refused(world, task_id):
    assert not claim(world, task_id)
    assert not world.source.settle(task_id, lease_id="lease", ending=DONE)


@of_queues
def test_a_blocked_task_names_its_blockers_and_cannot_be_claimed(world):
    first, second = world.add(A_SPEC), world.add(A_SPEC)
    blocked = world.add(TaskSpec(after=(second, first)))

    assert sorted(waiting(world, blocked).blocked_by) == sorted([first, second])
    assert waiting(world, first).blocks == 1
    assert not claim(world, blocked)


@of_queues
def test_a_task_may_start_once_all_its_blockers_are_done_and_no_sooner(world):
    first, second = world.add(A_SPEC), world.add(A_SPEC)
    blocked = world.add(TaskSpec(after=(first, second)))

    end(world, first, TaskState.DONE)

    assert waiting(world, blocked).blocked_by == (second,)
    assert not claim(world, blocked)

    end(world, second, TaskState.DONE)

    assert waiting(world, blocked).blocked_by == ()
    assert claim(world, blocked)


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.PARKED, TaskState.CANCELLED])
def test_a_blocker_that_ended_without_success_goes_on_blocking(world, state):
    blocker = world.add(A_SPEC)
    blocked = world.add(TaskSpec(after=(blocker,)))

    end(world, blocker, state)

    assert waiting(world, blocked).blocked_by == (blocker,)
    assert not claim(world, blocked)
    assert world.state(blocked) is TaskState.WAITING


def test_a_blocker_that_is_working_or_waits_again_goes_on_blocking(world):
    blocker = world.add(A_SPEC)
    blocked = world.add(TaskSpec(after=(blocker,)))

    assert claim(world, blocker)
    assert not claim(world, blocked)

    assert world.source.settle(blocker, lease_id="lease", ending=AGAIN)
    assert waiting(world, blocked).blocked_by == (blocker,)
    assert not claim(world, blocked)


def test_a_task_added_after_its_blocker_was_done_is_not_blocked(world):
    blocker = world.add(A_SPEC)
    end(world, blocker, TaskState.DONE)

    task_id = world.add(TaskSpec(after=(blocker,)))

    assert waiting(world, task_id).blocked_by == ()
    assert claim(world, task_id)


def test_only_unfinished_dependents_count_as_blocked(world):
    blocker = world.add(A_SPEC)
    dependents = [world.add(TaskSpec(after=(blocker,))) for _ in range(3)]
    assert waiting(world, blocker).blocks == 3

    world.request_cancel(dependents[1])

    assert waiting(world, blocker).blocks == 2


def test_where_blocking_is_disabled_a_blocked_task_starts_like_any_other(build_world):
    world = build_world(blocking_disabled=True)
    blocker = world.add(A_SPEC)
    blocked = world.add(TaskSpec(after=(blocker,)))

    assert waiting(world, blocked).blocked_by == ()
    assert claim(world, blocked)


@of_queues
def test_a_task_cannot_be_claimed_before_its_time(world):
    task_id = world.add(TaskSpec(not_before=START + timedelta(minutes=1)))

    world.clock.advance(59.999)
    assert waiting(world, task_id).not_before == START + timedelta(minutes=1)
    assert not claim(world, task_id)

    world.clock.advance(0.001)
    assert claim(world, task_id)


def test_a_backoff_begun_under_a_clock_set_back_since_is_in_nobodys_way(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id, lease_id="one")
    until = START + timedelta(seconds=LONGEST_BACKOFF_S + 1)
    ending = Requeue(attempt=2, failures=1, launches=0, backing_off_until=until, reason=None)
    assert world.source.settle(task_id, lease_id="one", ending=ending)

    assert waiting(world, task_id).backing_off_until == until
    assert claim(world, task_id, lease_id="two", attempt=2)


def test_a_task_backing_off_cannot_be_claimed_before_that_is_over(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id, lease_id="one")
    until = START + timedelta(seconds=30, microseconds=7)
    ending = Requeue(
        attempt=2,
        failures=1,
        launches=0,
        backing_off_until=until,
        reason=FailureReason.COMMAND_FAILED,
    )

    assert world.source.settle(task_id, lease_id="one", ending=ending)

    task = waiting(world, task_id)
    assert (task.attempt, task.failures, task.launches) == (2, 1, 0)
    assert task.backing_off_until == until
    assert not claim(world, task_id, lease_id="two", attempt=2)
    world.clock.advance(31)
    assert not claim(world, task_id, lease_id="two", attempt=1)
    assert claim(world, task_id, lease_id="two", attempt=2)


def test_a_claim_tells_how_the_attempt_before_it_failed(world):
    task_id = world.add(A_SPEC)
    reasons = [None, FailureReason.LEASE_EXPIRED, None]
    told = []
    for attempt, reason in enumerate(reasons, start=1):
        assert claim(world, task_id, lease_id=f"number {attempt}", attempt=attempt)
        told += [one.last_failure for one in look(world).claims]
        ending = Requeue(
            attempt=attempt + 1, failures=0, launches=0, backing_off_until=None, reason=reason
        )
        assert world.source.settle(task_id, lease_id=f"number {attempt}", ending=ending)
    assert claim(world, task_id, attempt=4)
    told += [one.last_failure for one in look(world).claims]

    # A start that failed without a reason of its own does not make that forgotten.
    assert told == [None, None, FailureReason.LEASE_EXPIRED, FailureReason.LEASE_EXPIRED]


@of_queues
def test_a_held_task_is_told_but_neither_counted_nor_claimable(world):
    task_id = world.add(TaskSpec(is_held=True))

    view = look(world)

    assert [(task.task_id, task.is_held) for task in view.waiting] == [(task_id, True)]
    assert view.waiting_total == 0
    assert not claim(world, task_id)


def test_a_failed_start_keeps_number_and_place_and_counts_the_launch(world):
    first, second = world.add(A_SPEC), world.add(A_SPEC)
    assert claim(world, first)

    assert world.source.settle(first, lease_id="lease", ending=AGAIN) is TaskState.WAITING

    task = waiting(world, first)
    assert (task.attempt, task.failures, task.launches) == (1, 0, 1)
    assert ids(look(world)) == [first, second]


@pytest.mark.parametrize(
    "state", [TaskState.DONE, TaskState.FAILED, TaskState.PARKED, TaskState.CANCELLED]
)
def test_a_finished_task_is_neither_waiting_nor_ours(world, state):
    task_id = world.add(A_SPEC)

    end(world, task_id, state)

    assert world.state(task_id) is state
    assert look(world) == SourceView(name=world.source.name)
    assert not claim(world, task_id, attempt=1)
    assert not claim(world, task_id, attempt=2)


def test_settling_under_another_lease_is_refused_and_changes_nothing(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id, lease_id="one")
    before = look(world)

    assert not world.source.settle(task_id, lease_id="two", ending=DONE)
    assert not world.source.settle(task_id, lease_id="", ending=AGAIN)

    assert look(world) == before


def test_settling_a_task_that_nobody_claimed_is_refused(world):
    task_id = world.add(A_SPEC)

    assert not world.source.settle(task_id, lease_id="lease", ending=DONE)

    assert ids(look(world)) == [task_id]


@pytest.mark.parametrize("ending", [DONE, AGAIN])
def test_a_claim_is_settled_once(world, ending):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id)
    assert world.source.settle(task_id, lease_id="lease", ending=ending)
    before = look(world)

    assert not world.source.settle(task_id, lease_id="lease", ending=AGAIN)
    assert not world.source.settle(task_id, lease_id="lease", ending=DONE)

    assert look(world) == before


def test_the_end_of_an_earlier_lease_cannot_settle_the_later_one(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id, lease_id="one")
    assert world.source.settle(task_id, lease_id="one", ending=AGAIN)
    assert claim(world, task_id, lease_id="two")

    assert not world.source.settle(task_id, lease_id="one", ending=DONE)

    assert [one.lease_id for one in look(world).claims] == ["two"]


def test_a_cancellation_asked_for_meanwhile_shows_in_the_claim(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id)

    world.request_cancel(task_id)

    assert [one.cancel_requested for one in look(world).claims] == [True]


def test_a_task_to_be_cancelled_is_cancelled_where_it_would_wait_again(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id)
    world.request_cancel(task_id)

    assert world.source.settle(task_id, lease_id="lease", ending=AGAIN) is TaskState.CANCELLED

    assert world.state(task_id) is TaskState.CANCELLED
    assert world.failure(task_id) is FailureReason.CANCELLED
    assert look(world) == SourceView(name=world.source.name)
    assert not claim(world, task_id, lease_id="two")


def test_a_success_stands_although_a_cancellation_was_asked_for(world):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id)
    world.request_cancel(task_id)

    assert world.source.settle(task_id, lease_id="lease", ending=DONE) is TaskState.DONE

    assert (world.state(task_id), world.failure(task_id)) == (TaskState.DONE, None)


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.PARKED, TaskState.CANCELLED])
def test_a_task_to_be_cancelled_is_cancelled_where_it_would_be_given_up(world, state):
    task_id = world.add(A_SPEC)
    assert claim(world, task_id)
    world.request_cancel(task_id)
    ending = Finish(state=state, reason=FailureReason.COMMAND_FAILED, failures=3)

    assert world.source.settle(task_id, lease_id="lease", ending=ending) is TaskState.CANCELLED

    assert world.state(task_id) is TaskState.CANCELLED
    assert world.failure(task_id) is FailureReason.CANCELLED


@pytest.mark.parametrize("spec", [TaskSpec(agent="shell"), TaskSpec(queue="work")])
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (SwitchKind.DRAIN, "all"),
        (SwitchKind.PAUSE, "all"),
        (SwitchKind.PAUSE, "agent:shell"),
        (SwitchKind.PAUSE, "queue:work"),
    ],
)
def test_what_was_paused_or_drained_since_the_look_cannot_be_claimed(world, kind, target, spec):
    task_id = world.add(spec)
    assert ids(look(world)) == [task_id]

    switch(world, target, kind)

    assert not claim(world, task_id)
    assert world.state(task_id) is TaskState.WAITING


@of_queues
def test_a_task_that_names_its_queue_is_stopped_by_the_pause_of_no_other(world):
    task_id = world.add(TaskSpec(queue="dev"))
    for target in ("queue:work", "queue:shell", "agent:work", "agent:dev", "schedule:dev"):
        switch(world, target)

    assert claim(world, task_id)


def test_a_waiting_task_is_cancelled_at_once(world):
    task_id = world.add(A_SPEC)

    world.request_cancel(task_id)

    assert world.state(task_id) is TaskState.CANCELLED
    assert not claim(world, task_id)


@of_queues
def test_the_window_holds_the_first_tasks_of_each_agent_and_queue(world):
    specs = [TaskSpec(agent="a"), TaskSpec(agent="b"), TaskSpec(queue="q"), TaskSpec()]
    added = [[world.add(spec) for _ in range(4)] for spec in specs]

    view = look(world, window=2)

    assert sorted(ids(view)) == sorted(task_id for line in added for task_id in line[:2])
    assert view.waiting_total == 16


@of_queues
def test_tasks_that_cannot_start_push_no_startable_task_out_of_the_window(world):
    blocker = world.add(TaskSpec(agent="a", is_held=True))
    later = START + timedelta(hours=1)
    for _ in range(60):
        world.add(TaskSpec(agent="a", after=(blocker,)))
        world.add(TaskSpec(agent="a", not_before=later))
        world.add(TaskSpec(agent="a", is_held=True))
    startable = [world.add(TaskSpec(agent="a")) for _ in range(2)]

    view = look(world, window=2)

    assert set(startable) <= set(ids(view))
    assert view.waiting_total == 122
    assert len(view.waiting) <= 2 + 50 + 50
    assert {bool(task.blocked_by) for task in view.waiting} == {True, False}
    assert later in {task.not_before for task in view.waiting}


@of_queues
def test_tasks_whose_time_has_come_take_their_place_by_age(world):
    early = [world.add(TaskSpec(not_before=START + timedelta(seconds=5))) for _ in range(2)]
    late = [world.add(A_SPEC) for _ in range(2)]

    world.clock.advance(5)

    assert ids(look(world, window=3)) == [*early, late[0]]


@of_queues
def test_the_order_is_most_dependents_first_then_oldest(world):
    first = world.add(TaskSpec(priority=1))
    second = world.add(TaskSpec(priority=9))
    third = world.add(TaskSpec(priority=5))
    world.add(TaskSpec(after=(third,), is_held=True))

    order = [task.task_id for task in look(world).waiting if not task.is_held]

    assert order == [third, first, second]
    assert third in ids(look(world, window=1))


def test_where_priority_counts_the_higher_comes_first_and_the_older_of_equals(build_world):
    world = build_world(priority_enabled=True)
    low, high, also_high = (world.add(TaskSpec(priority=number)) for number in (-1, 7, 7))

    assert ids(look(world)) == [high, also_high, low]
    assert ids(look(world, window=1)) == [high]


@of_queues
def test_interactive_tasks_come_along_however_many_stand_before_them(world):
    others = [world.add(A_SPEC) for _ in range(5)]
    urgent = world.add(TaskSpec(priority_class=PriorityClass.INTERACTIVE))

    assert ids(look(world, window=2)) == [*others[:2], urgent]


@of_queues
@pytest.mark.parametrize("owner", ["tenant", "project"])
def test_where_it_is_shared_out_fairly_each_has_its_first_in_view(build_world, owner):
    world = build_world(fair_share=FairShare(owner))
    changes: dict[str, Any] = {"red": {owner: "red"}, "blue": {owner: "blue"}}
    specs = {name: replace(A_SPEC, **change) for name, change in changes.items()}
    red, blue = ([world.add(specs[name]) for _ in range(3)] for name in specs)

    assert ids(look(world, window=1)) == [red[0], blue[0]]


@of_queues
@pytest.mark.parametrize("owner", ["tenant", "project"])
def test_what_each_owner_has_first_is_by_priority_where_that_counts(build_world, owner):
    world = build_world(fair_share=FairShare(owner), priority_enabled=True)
    changes: dict[str, Any] = {"red": {owner: "red"}, "blue": {owner: "blue"}}
    red, blue = (replace(A_SPEC, **change) for change in changes.values())
    first = world.add(replace(red, priority=9))
    world.add(blue)
    urgent = world.add(replace(blue, priority=5))

    assert ids(look(world, window=1)) == [first, urgent]


@of_queues
def test_tasks_without_an_owner_have_their_first_in_view_as_an_owner_has(build_world):
    world = build_world(fair_share=FairShare.TENANT)
    red = [world.add(replace(A_SPEC, tenant="red")) for _ in range(3)]
    nobody = [world.add(A_SPEC) for _ in range(2)]

    assert ids(look(world, window=1)) == [red[0], nobody[0]]


@of_queues
def test_what_an_owner_has_first_may_have_waited_for_its_time(build_world):
    world = build_world(fair_share=FairShare.TENANT)
    red = [world.add(replace(A_SPEC, tenant="red")) for _ in range(2)]
    due = world.clock.now().wall + timedelta(seconds=60)
    blue = world.add(replace(A_SPEC, tenant="blue", not_before=due))
    world.clock.advance(61)

    assert ids(look(world, window=1)) == [red[0], blue]


@of_queues
def test_of_each_owner_the_most_urgent_is_in_view_where_priority_counts(build_world):
    world = build_world(fair_share=FairShare.TENANT, priority_enabled=True)
    wishes = [("red", 9), ("red", 9), ("blue", 0), ("blue", 5), (None, 0), (None, 5)]
    red, _, _, blue, _, other = (
        world.add(replace(A_SPEC, tenant=tenant, priority=priority)) for tenant, priority in wishes
    )

    assert ids(look(world, window=1)) == [red, blue, other]


def test_looking_changes_nothing(world):
    blocker = world.add(A_SPEC)
    world.add(TaskSpec(after=(blocker,)))
    claim(world, world.add(A_SPEC))

    assert look(world) == look(world)
