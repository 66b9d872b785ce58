"""The steps of people at a shell, who add and cancel, and of the time that comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.world import NOBODY, with_process, with_task, without_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.protocol.rules import Rules
    from tests.protocol.tick import Steps
    from tests.protocol.world import Person, Task, World


def steps_of_person(world: World, person: Person, rules: Rules) -> Steps:
    return _STEPS[person.at](world, person, rules)


def _add(world: World, person: Person, _rules: Rules) -> Steps:
    task = world.tasks[person.task]
    world = with_task(world, person.task, task._replace(row=task.row._replace(state="waiting")))
    return [("adds the task", with_process(world, person._replace(at="kick")))]


def _kick(world: World, person: Person, _rules: Rules) -> Steps:
    """Create `kick`; `add` starts nothing, so only who ticks already owes the task a look."""
    task = world.tasks[person.task]
    if (world.ticking != NOBODY or world.daemon != NOBODY) and task.row.state == "waiting":
        world = with_task(world, person.task, task._replace(is_promised=True))
    return [("creates kick", without_process(world._replace(kick=True), person.name))]


def _come(world: World, person: Person, _rules: Rules) -> Steps:
    """A time comes for which nobody kicks: the next tick by cron is to see it."""
    task = world.tasks[person.task]
    world = with_task(world, person.task, task._replace(row=task.row._replace(state="waiting")))
    return [("comes", without_process(world, person.name))]


def _cancel(world: World, person: Person, rules: Rules) -> Steps:
    """One SQL statement: cancel what waits, note the wish on what is worked on."""
    task = world.tasks[person.task]
    row = task.row
    if row.state == "waiting":
        cancelled = _acknowledged(task._replace(row=row._replace(state="cancelled")))
        world = with_task(world, person.task, cancelled)
        return [("cancels the waiting task", without_process(world, person.name))]
    if row.state != "working":
        return [("finds that it has ended", without_process(world, person.name))]
    if rules.cancels_in_row:
        world = with_task(world, person.task, task._replace(row=row._replace(cancel=True)))
    person = person._replace(at="request", lease=row.lease)
    return [("asks the source to cancel", with_process(world, person))]


def _request(world: World, person: Person, _rules: Rules) -> Steps:
    """Create `cancel/<lease_id>`, then tell the person that the attempt is being ended."""
    task = world.tasks[person.task]
    task = _acknowledged(task._replace(cancels=task.cancels | {person.lease}))
    world = with_task(world, person.task, task)
    return [("asks the wrapper to cancel", without_process(world, person.name))]


def _acknowledged(task: Task) -> Task:
    return task._replace(cancelled_after=task.leases)


_STEPS: dict[str, Callable[[World, Person, Rules], Steps]] = {
    "add": _add,
    "kick": _kick,
    "come": _come,
    "cancel": _cancel,
    "request": _request,
}
