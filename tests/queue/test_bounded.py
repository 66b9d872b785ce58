"""What a tick asks of the queue costs the same however many tasks wait."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.builders import START
from tests.queue.builders import A_SPEC, DONE, Opened, open_queue

from tinyscheduler.adapters.sqlite import blockers, families, firing_ends, neighbours
from tinyscheduler.adapters.sqlite import queue as queue_module
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.tasks import PriorityClass, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINES = 4
CLASSES = (PriorityClass.BATCH, PriorityClass.INTERACTIVE)
FEW, MANY = 5_000, 50_000
# The machine instructions of SQLite's own virtual machine: the same on any computer.
STEP = 50

# What a crowd may be made of; the last kind has become due without anybody having looked.
KINDS = {
    "ready": TaskSpec(),
    "blocked": TaskSpec(after=("blocker",)),
    "deferred": TaskSpec(not_before=START + timedelta(hours=1)),
    "due": TaskSpec(not_before=START + timedelta(seconds=1)),
    "held": TaskSpec(is_held=True),
}


def crowd(size: int) -> list[tuple[str | None, TaskSpec]]:
    from tinyscheduler.values import replace

    kinds = list(KINDS.values())
    specs = [
        replace(
            kinds[number % len(kinds)],
            agent=f"agent{number % LINES}",
            priority=number % 7,
            priority_class=CLASSES[number % 11 == 0],
            tenant=f"team{number % 9}",
        )
        for number in range(size)
    ]
    return [("blocker", A_SPEC), *((None, spec) for spec in specs)]


@pytest.fixture(scope="module")
def crowds(tmp_path_factory) -> Iterator[dict[int, Opened]]:
    made = {}
    for size in (FEW, MANY):
        opened = open_queue(tmp_path_factory.mktemp(str(size)) / "tinyscheduler.db")
        opened.queue.add(crowd(size))
        opened.clock.advance(2)
        made[size] = opened
    yield made
    for opened in made.values():
        opened.database.close()


def cost(opened: Opened, use: Callable[[Opened], object]) -> int:
    """Count the steps of SQLite's virtual machine that a use takes, in units of STEP."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = opened.database._connection
    assert connection is not None
    connection.set_progress_handler(count, STEP)
    try:
        use(opened)
    finally:
        connection.set_progress_handler(None, STEP)
    return steps


def with_rules(**rules: Any) -> Callable[[Opened], object]:
    def use(opened: Opened) -> object:
        return LocalQueue(opened.database, opened.clock, **rules).look(window=8)

    return use


def granted(answer: object) -> None:
    assert answer


USES: dict[str, Callable[[Opened], object]] = {
    "look": with_rules(),
    "look by priority": with_rules(priority_enabled=True),
    "look without blocking": with_rules(blocking_disabled=True),
    "look fairly": with_rules(fair_share=FairShare.TENANT),
    "look fairly by priority": with_rules(fair_share=FairShare.TENANT, priority_enabled=True),
    "describe": lambda opened: opened.queue.describe("77"),
    "counts": lambda opened: opened.queue.counts(),
    "states": lambda opened: opened.queue.states(["1", "2", "88"]),
    "list": lambda opened: opened.queue.tasks(limit=20),
    "claim": lambda opened: granted(opened.claim("7", lease_id="seven")),
    "settle": lambda opened: granted(opened.queue.settle("12", lease_id="twelve", ending=DONE)),
    "add": lambda opened: opened.add(A_SPEC),
}


@pytest.mark.parametrize("use", list(USES))
def test_ten_times_as_many_tasks_cost_the_same(crowds, use):
    if use == "settle":
        for opened in crowds.values():
            granted(opened.claim("12", lease_id="twelve"))

    few, many = (cost(opened, USES[use]) for opened in crowds.values())

    # B-trees grow a level; whatever grows with the number of tasks takes ten times as much.
    assert many <= few * 1.3 + 4


def test_a_window_of_many_is_small_and_counts_all(crowds):
    view = crowds[MANY].queue.look(window=8)

    assert view.waiting_total > 0.79 * MANY
    startable = [task for task in view.waiting if not (task.blocked_by or task.is_held)]
    # Of each line the first by age, and as many interactive ones.
    assert len(view.waiting) <= 2 * LINES * 8 + 8 + 50 + 50
    assert len(startable) > LINES * 8


def test_however_many_owners_there_are_what_they_have_first_is_bounded(crowds):
    opened = crowds[MANY]
    alone = LocalQueue(opened.database, opened.clock)
    # Of nine teams with two each; what waited for its time is looked for in each line.
    fairly = LocalQueue(
        opened.database, opened.clock, fair_share=FairShare.TENANT, most_of_owners=18
    )

    waiting, shared = (len(one.look(window=1000).waiting) for one in (alone, fairly))

    assert shared <= waiting + 18 + LINES * 200


def test_marks_are_read_only_where_a_policy_may_look_at_them(crowds):
    opened = crowds[MANY]
    asked: list[str] = []
    opened.database.read(lambda connection: connection.set_trace_callback(asked.append))

    LocalQueue(opened.database, opened.clock, tells_marks=False).look(window=8)
    unasked = [one for one in asked if "task_specs" in one]
    LocalQueue(opened.database, opened.clock).look(window=8)
    opened.database.read(lambda connection: connection.set_trace_callback(None))

    assert unasked == []
    assert [one for one in asked if "task_specs" in one]


QUESTIONS = {
    "_READY_BY_AGE": ["ready_by_age (agent=? AND queue=?)"],
    "_READY_BY_PRIORITY": ["ready_by_priority (agent=? AND queue=?)"],
    "_INTERACTIVE_BY_AGE": ["interactive_by_age (agent=? AND queue=?)"],
    "_INTERACTIVE_BY_PRIORITY": ["interactive_by_priority (agent=? AND queue=?)"],
    "_DUE": ["deferred (agent=? AND queue=? AND start_after<?)"],
    "_BLOCKED_YET_ALLOWED": ["blocked (agent=? AND queue=?)"],
    "_DEFERRED": ["deferred_anywhere (start_after>?)"],
    "_BLOCKED": ["blocked_anywhere"],
    "_HELD": ["tasks_by_state (state=?)"],
    "_CLAIMS": ["tasks_by_state (state=?)"],
    "_BLOCKERS": ["PRIMARY KEY (task_id=?)", "INTEGER PRIMARY KEY (rowid=?)"],
    "_CLAIM": [
        "tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "SCAN switches",
        "firings_at_work (schedule_id>?)",
        "firings_at_work (schedule_id=?)",
        "parts (parent_id=?)",
    ],
    "_SHARED": ["shared_tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "_PARTS": ["parts (parent_id=?)"],
    "_OPEN_PARTS": ["parts (parent_id=?)", "INTEGER PRIMARY KEY (rowid=?)"],
    "_COUNT_PARTS": ["parts (parent_id=?)", "INTEGER PRIMARY KEY (rowid=?)"],
    "_NOTE_CLAIM": [
        "sqlite_autoindex_schedule_firing_metrics_1 (task_id=?)",
        "firings_at_work",
    ],
    "NOTE_CANCELLED": ["sqlite_autoindex_schedule_firing_metrics_1 (task_id=?)"],
    "_NOTE_END": ["sqlite_autoindex_schedule_firing_metrics_1 (task_id=?)"],
    "_STREAKS": ["sqlite_autoindex_schedules_1 (id=?)"],
    "_MAX_TURNS": ["INTEGER PRIMARY KEY (rowid=?)"],
    "_IS_ANY_DUE": ["schedules_due (due_at>? AND due_at<?)"],
    "_REQUEUE": ["(rowid=?)"],
    "_FINISH": ["(rowid=?)"],
    "_UNBLOCK": ["INTEGER PRIMARY KEY (rowid=?)", "dependents (blocker_id=?)"],
    "_RECOUNT_BLOCKED": ["INTEGER PRIMARY KEY (rowid=?)", "PRIMARY KEY (task_id=?)"],
}
SORTED_BY_INDEX = {
    *("_READY_BY_AGE", "_READY_BY_PRIORITY", "_DEFERRED", "_BLOCKED", "_HELD"),
    *("_INTERACTIVE_BY_AGE", "_INTERACTIVE_BY_PRIORITY"),
}


ELSEWHERE = {
    **dict.fromkeys(("_BLOCKERS", "_OPEN_PARTS"), blockers),
    **dict.fromkeys(("_STREAKS", "_MAX_TURNS"), firing_ends),
    **dict.fromkeys(("_UNBLOCK", "_RECOUNT_BLOCKED"), neighbours),
    "_COUNT_PARTS": families,
}


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_every_question_of_a_tick_is_answered_by_its_index(opened, question):
    statement = getattr(ELSEWHERE.get(question, queue_module), question)
    names = ("agent", "queue", "window", "now", "sorted", "by_priority", "limit", "id")
    more = ("lease_id", "attempt", "blocking_disabled", "state", "reason", "failures", "until")
    values = dict.fromkeys(
        (*names, *more, "launches", "change", "latest", "revision", "most_firings", "pressure"), 1
    )
    opened.add(A_SPEC)

    with opened.database.writing() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN " + statement, (1,) * statement.count("?") or values
        )
        words = "\n".join(row["detail"] for row in plan)

    for part in QUESTIONS[question]:
        assert part in words
    assert "SCAN tasks" not in words.replace("SCAN tasks USING INDEX blocked_anywhere", "")
    if question in SORTED_BY_INDEX:
        assert "TEMP B-TREE" not in words


def test_looking_reads_no_prompt(path, opened):
    opened.add(*[TaskSpec(prompt="x" * 5_000_000)] * 4)
    opened.database.close()
    reader = open_queue(path, Access.READ)
    pages = path.stat().st_size // 4096

    assert reader.queue.look(window=9).waiting_total == 4
    assert reader.queue.tasks(limit=9)[0].summary.startswith("xxx")
    assert pages > 4 * 5_000_000 // 4096
