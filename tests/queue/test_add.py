"""What may be added, and what becomes of a batch."""

from __future__ import annotations

import doctest
from datetime import datetime, timedelta, timezone

import pytest
from tests.contract.builders import START
from tests.queue.builders import A_SPEC, DONE, PARKED, open_queue

from tinyscheduler.adapters.sqlite import batch, rows
from tinyscheduler.errors import BusyError, NotFoundError, UsageError
from tinyscheduler.model.tasks import TaskSpec, TaskState


@pytest.mark.parametrize("module", [batch, rows])
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)

    assert results.attempted > 0
    assert results.failed == 0


def test_ids_are_numbers_in_the_order_of_the_batch(opened):
    assert opened.add(A_SPEC, A_SPEC, A_SPEC) == ["1", "2", "3"]
    assert opened.add(A_SPEC) == ["4"]


def test_adding_nothing_adds_nothing(opened):
    assert opened.queue.add([]) == []
    assert opened.queue.look(window=1).waiting_total == 0


def test_a_record_tells_where_a_new_task_stands(opened):
    (task_id,) = opened.add(TaskSpec(agent="coder", prompt="Fix\n the  bug", priority=2))

    record = opened.queue.task(task_id)

    assert record.summary == "Fix the bug"
    assert record.state is TaskState.WAITING
    assert (record.agent, record.queue, record.priority) == ("coder", None, 2)
    assert (record.attempt, record.failures, record.launches) == (1, 0, 0)
    assert record.created_at == record.updated_at == START
    assert record.ended_at is None


@pytest.mark.parametrize(
    ("spec", "summary"),
    [
        (TaskSpec(title="T", command=("a",), prompt="p"), "T"),
        (TaskSpec(command=("sh", "-c", "a b"), prompt="p"), "sh -c 'a b'"),
        (TaskSpec(prompt="word " * 1000), "word " * 23 + "word…"),
        (
            TaskSpec(title="red\t\x1b[31m and \u202e backwards"),
            "red \\x1b[31m and \\u202e backwards",
        ),
        (TaskSpec(agent="coder", recipe="fix-tests.yaml"), "fix-tests.yaml"),
        (TaskSpec(agent="coder"), "(coder)"),
        (TaskSpec(queue="dev"), "(dev)"),
        (TaskSpec(), ""),
    ],
)
def test_the_summary_is_one_short_line(opened, spec, summary):
    (task_id,) = opened.add(spec)

    assert opened.queue.task(task_id).summary == summary


def test_keys_name_lines_of_the_batch_in_any_order(opened):
    (existing,) = opened.add(A_SPEC)

    ids = opened.queue.add(
        [
            ("last", TaskSpec(after=("middle", "first", existing))),
            ("middle", TaskSpec(after=("first",))),
            ("first", A_SPEC),
        ]
    )

    last, middle, first = ids
    assert opened.queue.describe(last).after == (middle, first, existing)
    assert set(opened.queue.task(last).blocked_by) == {middle, first, existing}
    assert [opened.queue.task(one).blocks for one in (existing, *ids)] == [1, 0, 1, 2]


def test_a_key_wins_over_the_task_of_that_number(opened):
    opened.add(A_SPEC)

    _, blocked = opened.queue.add([("1", A_SPEC), (None, TaskSpec(after=("1",)))])

    assert opened.queue.task(blocked).blocked_by == ("2",)


def test_a_blocker_named_twice_counts_once(opened):
    (blocker,) = opened.add(A_SPEC)

    (blocked,) = opened.add(TaskSpec(after=(blocker, blocker)))

    assert opened.queue.task(blocked).blockers_left == 1


def test_a_task_may_wait_for_one_that_is_parked(opened):
    (blocker,) = opened.add(A_SPEC)
    opened.end(blocker, PARKED)

    (blocked,) = opened.add(TaskSpec(after=(blocker,)))

    assert opened.queue.task(blocked).blocked_by == (blocker,)


@pytest.mark.parametrize(
    ("names", "cycle"),
    [
        ({"a": ["a"]}, "a after a"),
        ({"a": ["b"], "b": ["a"]}, "a after b after a"),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, "a after b after c after a"),
        ({"d": [], "a": ["d", "b"], "b": ["d", "a"]}, "a after b after a"),
    ],
)
def test_a_cycle_is_refused_and_spelled_out(opened, names, cycle):
    specs = [(key, TaskSpec(after=tuple(after))) for key, after in names.items()]

    with pytest.raises(UsageError) as refused:
        opened.queue.add(specs)

    assert refused.value.what.endswith(cycle)
    assert sum(opened.queue.counts().values()) == 0


def test_of_a_long_cycle_only_both_ends_are_spelled_out(opened):
    length = 5000
    specs = [(str(n), TaskSpec(after=(str(n % length + 1),))) for n in range(1, length + 1)]

    with pytest.raises(
        UsageError, match=r"1 after 2 after 3 .* … .* after 5000 after 1$"
    ) as refused:
        opened.queue.add(specs)

    assert len(refused.value.what) < 400


def test_a_diamond_is_no_cycle(opened):
    opened.queue.add(
        [
            ("top", TaskSpec(after=("left", "right"))),
            ("left", TaskSpec(after=("bottom",))),
            ("right", TaskSpec(after=("bottom",))),
            ("bottom", A_SPEC),
        ]
    )

    assert [task.task_id for task in opened.queue.look(window=9).waiting] == ["4", "2", "3", "1"]


def test_a_lattice_with_more_paths_than_atoms_is_checked_node_by_node(opened):
    layers = 100
    lattice = [
        (f"{side}{layer}", TaskSpec(after=(f"l{layer + 1}", f"r{layer + 1}")))
        for layer in range(layers)
        for side in "lr"
    ]

    ids = opened.queue.add([*lattice, (f"l{layers}", A_SPEC), (f"r{layers}", A_SPEC)])

    assert len(ids) == 2 * (layers + 1)


def test_one_long_chain_is_added(opened):
    length = 3000
    chain = [(str(n), TaskSpec(after=(str(n + 1),))) for n in range(1, length)]

    opened.queue.add([*chain, (str(length), A_SPEC)])

    assert len([t for t in opened.queue.look(window=9).waiting if not t.blocked_by]) == 1


@pytest.mark.parametrize("name", ["99", "nobody", "01", "tinytask-3", "9" * 30, ""])
def test_waiting_for_an_unknown_task_is_refused(opened, name):
    with pytest.raises(NotFoundError, match="line 2: there is no task"):
        opened.queue.add(
            [(None, A_SPEC), (None, TaskSpec(after=(name,)))], places=["line 1", "line 2"]
        )

    assert sum(opened.queue.counts().values()) == 0


def test_a_key_used_twice_is_refused(opened):
    with pytest.raises(UsageError, match="line 3: the key 'a' is used twice"):
        opened.queue.add([("a", A_SPEC), ("b", A_SPEC), ("a", A_SPEC)], places=["", "", "line 3"])


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (TaskSpec(command=("a", "b\0c")), "command holds a NUL"),
        (TaskSpec(command=("a", "\udcff")), "command is not valid Unicode"),
        (TaskSpec(command=("x" * 131072,)), "has 131072 bytes; at most 131071"),
        (TaskSpec(command=("x" * 100_000,) * 11), "together; 1048576 are possible"),
        (TaskSpec(command=("", "a")), "empty name"),
        (TaskSpec(environment=(("A", "b\0"),)), "environment holds a NUL"),
        (TaskSpec(environment=(("A=B", "c"),)), "variable of the name 'A=B'"),
        (TaskSpec(environment=(("", "c"),)), "variable of the name ''"),
        (TaskSpec(environment=(("A", "\ud800"),)), "environment is not valid Unicode"),
        (TaskSpec(prompt="\udc80"), "prompt is not valid Unicode"),
        (TaskSpec(prompt="ü" * (8 * 1024 * 1024) + "x"), "prompt has 16777217 bytes"),
        (TaskSpec(title="\udc80"), "title is not valid Unicode"),
        (TaskSpec(title="x" * 4097), "title has 4097 bytes"),
        (TaskSpec(cwd="/a\0b"), "cwd holds a NUL"),
        (TaskSpec(agent=""), "agent is empty"),
        (TaskSpec(queue=""), "queue is empty"),
        (TaskSpec(labels=(("k", "\udc80"),)), "label is not valid Unicode"),
        (TaskSpec(labels=(("k", "v" * 4000),) * 20), "labels have more than 65536"),
        (TaskSpec(priority=2**63), "priority is"),
        (TaskSpec(memory_bytes=-1), "memory_bytes is -1"),
        (TaskSpec(max_attempts=0), "max_attempts is 0"),
        (TaskSpec(max_runtime_s=float("nan")), "max_runtime_s is nan"),
        (TaskSpec(max_runtime_s=float("inf")), "max_runtime_s is inf"),
        (TaskSpec(not_before=datetime(2030, 1, 1)), "has no time zone"),  # noqa: DTZ001 - the fault
        (
            TaskSpec(not_before=datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))),
            "out of range",
        ),
        (TaskSpec(after=tuple(map(str, range(1, 1002)))), "waits for 1001 tasks"),
    ],
)
def test_what_no_process_could_be_given_is_refused_and_nothing_is_added(opened, spec, fault):
    with pytest.raises(UsageError) as refused:
        opened.queue.add([(None, A_SPEC), (None, spec)], places=["line 1", "line 2"])

    assert refused.value.what.startswith("line 2: ")
    assert fault in refused.value.what
    assert len(refused.value.what) < 300
    assert sum(opened.queue.counts().values()) == 0


def test_a_prompt_of_many_megabytes_comes_back_whole(opened):
    prompt = "ü\n\0" * (4 * 1024 * 1024)

    (task_id,) = opened.add(TaskSpec(prompt=prompt))

    assert opened.queue.describe(task_id).prompt == prompt


def test_the_largest_and_smallest_numbers_come_back(opened):
    spec = TaskSpec(priority=-(2**63), seed=2**63 - 1, memory_bytes=2**63 - 1)

    (task_id,) = opened.add(spec)

    assert opened.queue.describe(task_id) == spec
    assert opened.queue.look(window=1).waiting[0].priority == -(2**63)


def test_a_full_queue_takes_nothing_of_a_batch_too_long(path):
    opened = open_queue(path, max_queue_depth=3)
    opened.add(A_SPEC, TaskSpec(is_held=True))

    with pytest.raises(BusyError, match="2 waiting, 2 more would exceed 3"):
        opened.add(A_SPEC, A_SPEC)

    assert opened.queue.look(window=9).waiting_total == 1
    opened.add(A_SPEC)
    opened.database.close()


def test_tasks_that_run_or_ended_leave_room_in_the_queue(path):
    opened = open_queue(path, max_queue_depth=1)
    (first,) = opened.add(A_SPEC)
    opened.claim(first, lease_id="one")
    (second,) = opened.add(A_SPEC)
    opened.end(second, DONE)

    assert opened.add(A_SPEC) == ["3"]
    opened.database.close()
