"""What was paused, drained or edited after a tick looked cannot be claimed by that tick."""

from __future__ import annotations

import pytest
from tests.contract.builders import START
from tests.queue.builders import A_SPEC, Opened, open_queue

from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import TaskSpec


def switch(opened: Opened, target: str, kind: SwitchKind = SwitchKind.PAUSE) -> None:
    SqliteSwitches(opened.database).set(
        Switch(kind=kind, target=parse_target(target), since=START, by="ann")
    )


def claim(opened: Opened, task_id: str = "1") -> bool:
    return opened.queue.claim(task_id, lease_id=f"l{task_id}", agent="shell", attempt=1)


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


def test_the_switch_of_another_process_counts_at_once(path, opened):
    opened.add(A_SPEC)
    opened.queue.look(window=5)
    other = open_queue(path)

    switch(other, "all")
    other.database.close()

    assert not claim(opened)
