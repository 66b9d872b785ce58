"""What was paused, drained or edited after a tick looked cannot be claimed by that tick."""

from __future__ import annotations

import pytest
from tests.contract.builders import START
from tests.queue.builders import A_SPEC, Opened, assert_sound, open_queue, run_killed

from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.values import replace


def switch(opened: Opened, target: str, kind: SwitchKind = SwitchKind.PAUSE) -> None:
    SqliteSwitches(opened.database).set(
        Switch(kind=kind, target=parse_target(target), since=START, by="ann")
    )


def claim(opened: Opened, task_id: str = "1") -> bool:
    return opened.queue.claim(
        task_id, lease_id=f"l{task_id}", agent="shell", queue="work", attempt=1
    )


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (SwitchKind.DRAIN, "all"),
        (SwitchKind.PAUSE, "all"),
        (SwitchKind.PAUSE, "agent:shell"),
        (SwitchKind.PAUSE, "queue:dev"),
    ],
)
def test_no_task_is_claimed_once_it_is_stopped(opened, kind, target):
    opened.add(TaskSpec(queue="dev", command=("true",)))
    opened.queue.look(window=5)

    switch(opened, target, kind)

    assert not claim(opened)
    SqliteSwitches(opened.database).clear(kind, parse_target(target))
    assert claim(opened)


def test_a_switch_about_something_else_is_no_obstacle(opened):
    opened.add(A_SPEC)
    for target in ("agent:coder", "queue:dev", "queue:shell", "schedule:shell"):
        switch(opened, target)

    assert claim(opened)


@pytest.mark.parametrize("change", [{"priority": 1}, {"command": ("false",)}, {"agent": "coder"}])
def test_what_was_edited_since_the_look_is_not_started_as_it_was(opened, change):
    opened.add(A_SPEC)
    opened.queue.look(window=5)

    opened.queue.edit("1", lambda spec: replace(spec, **change))

    assert not claim(opened)
    opened.queue.look(window=5)
    assert claim(opened)


def test_an_edit_that_changes_nothing_is_no_obstacle(opened):
    opened.add(A_SPEC)
    opened.queue.look(window=5)

    opened.queue.edit("1", lambda spec: spec)

    assert claim(opened)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_while_it_edits_leaves_the_one_or_the_other(path, moment):
    program = """
import sys
from tests.queue.builders import open_queue
from tinyscheduler.values import replace
open_queue(sys.argv[1]).queue.edit("2", lambda spec: replace(spec, title="new", after=("1",)))
"""
    opened = open_queue(path)
    opened.add(A_SPEC, A_SPEC)
    opened.database.close()

    run_killed(f"queue.edit:{moment}", program, path)

    again = open_queue(path)
    spec, record = again.queue.describe("2"), again.queue.task("2")
    again.database.close()
    after = (("1",), "new", ("1",)) if moment == "after" else ((), None, ())
    assert (spec.after, spec.title, record.blocked_by) == after
    assert_sound(path)


def test_the_switch_of_another_process_counts_at_once(path, opened):
    opened.add(A_SPEC)
    opened.queue.look(window=5)
    other = open_queue(path)

    switch(other, "all")
    other.database.close()

    assert not claim(opened)
