"""Firings in line: what they wait for, and whom that keeps from a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.builders import a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.decide import decide
from tinyscheduler.model.plan import Dispatch, Reason, Wait
from tinyscheduler.policy.platform import PlatformPolicy

if TYPE_CHECKING:
    from tinyscheduler.model.plan import Plan
    from tinyscheduler.model.snapshot import Snapshot

CODER = an_agent(limit=20)


def planned(*things: object) -> Plan:
    snapshot: Snapshot = a_snapshot(*things, agents=(CODER,), slots=20)  # type: ignore[arg-type]  # leases and tasks
    return decide(snapshot, PlatformPolicy())


def running(task_id: str, schedule_id: str) -> object:
    return an_entry(a_lease(task_id, schedule_id=schedule_id))


def starts(plan: Plan) -> dict[str, list[str]]:
    """Return what starts, and whom that overtakes."""
    return {
        one.task.task_id: [task.task_id for task in one.overtakes]
        for one in plan.decisions
        if isinstance(one, Dispatch)
    }


def reasons(plan: Plan) -> dict[str, Reason]:
    return {one.task.task_id: one.reason for one in plan.decisions if isinstance(one, Wait)}


def test_two_of_three_start_and_the_third_says_why_not():
    firings = [a_task(str(number), schedule_id=f"s{number}") for number in range(1, 4)]
    plan = planned(*firings)

    assert starts(plan) == {"1": [], "2": []}
    assert reasons(plan) == {"3": Reason.SCHEDULE_CAP}


def test_one_whose_sibling_runs_is_not_overtaken_by_those_of_others():
    plan = planned(running("9", "a"), a_task("1", schedule_id="a"), a_task("2", schedule_id="b"))

    assert starts(plan) == {"2": []}
    assert reasons(plan) == {"1": Reason.SCHEDULE_CAP}


def test_one_that_was_forced_overtakes_those_that_wait_for_the_bound():
    plan = planned(
        running("8", "x"),
        running("9", "y"),
        a_task("1", schedule_id="a"),
        a_task("2", schedule_id="b", is_forced=True),
    )

    assert starts(plan) == {"2": ["1"]}


def test_many_that_wait_for_their_turn_keep_no_other_task_from_its_place():
    firings = [a_task(str(number), schedule_id=f"s{number % 3}") for number in range(1, 40)]
    plan = planned(running("98", "x"), running("99", "y"), *firings, a_task("50"))

    assert starts(plan) == {"50": []}
