"""Who else acts: people at a shell, the clock, and an adversary with a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.attempt import steps_of_command, steps_of_wrapper
from tests.protocol.tick import beat, steps_of_tick
from tests.protocol.world import (
    NOBODY,
    Command,
    Person,
    Tick,
    Wrapper,
    command_of,
    fresh_tick,
    let_go,
    with_process,
    with_task,
    without_process,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.protocol.rules import Rules, Scenario
    from tests.protocol.tick import Steps
    from tests.protocol.world import Process, Task, World


def steps_of(world: World, process: Process, rules: Rules, scenario: Scenario) -> Steps:
    """Return every next step of one process."""
    if isinstance(process, Tick):
        return steps_of_tick(world, process, rules, scenario)
    if isinstance(process, Wrapper):
        return steps_of_wrapper(world, process, rules, scenario)
    if isinstance(process, Command):
        return steps_of_command(world, process, rules, scenario)
    return _PEOPLE[process.at](world, process, rules)


# People


def _add(world: World, person: Person, _rules: Rules) -> Steps:
    task = world.tasks[person.task]
    world = with_task(world, person.task, task._replace(row=task.row._replace(state="waiting")))
    return [("adds the task", with_process(world, person._replace(at="kick")))]


def _kick(world: World, person: Person, _rules: Rules) -> Steps:
    """`add` starts nothing: only who ticks already owes the new task a look."""
    task = world.tasks[person.task]
    if (world.ticking != NOBODY or world.daemon != NOBODY) and task.row.state == "waiting":
        world = with_task(world, person.task, task._replace(is_promised=True))
    return [("creates kick", without_process(world._replace(kick=True), person.name))]


def _come(world: World, person: Person, _rules: Rules) -> Steps:
    """A task's time comes; nobody kicks, the next tick is to see it."""
    task = world.tasks[person.task]
    world = with_task(world, person.task, task._replace(row=task.row._replace(state="waiting")))
    return [("comes", without_process(world, person.name))]


def _cancel(world: World, person: Person, rules: Rules) -> Steps:
    """One SQL statement: cancel what waits, note the wish on what works."""
    task = world.tasks[person.task]
    row = task.row
    if row.state == "waiting":
        row = row._replace(state="cancelled")
        world = with_task(world, person.task, _acknowledged(task._replace(row=row)))
        return [("cancels the waiting task", without_process(world, person.name))]
    if row.state != "working":
        return [("finds that it has ended", without_process(world, person.name))]
    if rules.cancels_in_row:
        world = with_task(world, person.task, task._replace(row=row._replace(cancel=True)))
    person = person._replace(at="request", lease=row.lease)
    return [("asks the source to cancel", with_process(world, person))]


def _request(world: World, person: Person, _rules: Rules) -> Steps:
    """Create `cancel/<lease_id>`, then say so to the person."""
    task = world.tasks[person.task]
    task = _acknowledged(task._replace(cancels=task.cancels | {person.lease}))
    world = with_task(world, person.task, task)
    return [("asks the wrapper to cancel", without_process(world, person.name))]


def _acknowledged(task: Task) -> Task:
    return task._replace(cancelled_after=task.leases)


_PEOPLE = {"add": _add, "kick": _kick, "come": _come, "cancel": _cancel, "request": _request}


# The adversary


def steps_of_adversary(
    world: World, rules: Rules, scenario: Scenario
) -> Iterator[tuple[str, World]]:
    """Yield everything the budget still allows to happen."""
    budget = world.budget
    if budget.crons:
        # Its first step with its birth: a tick that did nothing yet is as good as none.
        tick = fresh_tick(world)
        for words, after in steps_of_tick(_spend(world, "crons"), tick, rules, scenario):
            yield f"cron starts {tick.name}: {words}", after
    for process in world.processes:
        if budget.kills and isinstance(process, Tick | Wrapper):
            yield from _kill(_spend(world, "kills"), process)
        if isinstance(process, Wrapper) and process.at in _CAN_BE_STOPPED:
            yield from _stop(world, process)
    if budget.freezes and any(isinstance(process, Wrapper) for process in world.processes):
        yield "machine: is frozen for a minute", _frozen(_spend(world, "freezes"))
    later = let_time_pass(world)
    if later != world:
        yield "clock: a heartbeat interval passes", later
    for index, task in enumerate(world.tasks):
        if budget.lost_leases and task.lease is not None:
            spent = _spend(world, "lost_leases")
            yield f"person: removes lease {task.name}", with_task(
                spent, index, task._replace(lease=None)
            )
    if budget.lost_pidfiles and world.ticking != NOBODY:
        yield "person: removes the pidfile", _spend(world, "lost_pidfiles")._replace(ticking=NOBODY)
    if budget.daemon_stops and world.daemon != NOBODY:
        yield from _stop_daemon(world, rules)


# While the command runs and around it: elsewhere it is the same, for stopped is stopped.
_CAN_BE_STOPPED = {"write running", "go", "watch", "write result", "close lock"}


def _spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def _kill(world: World, process: Tick | Wrapper) -> Iterator[tuple[str, World]]:
    """SIGKILL; the command dies with its wrapper (PR_SET_PDEATHSIG), or something of it lives on."""
    dead = without_process(world, process.name)
    if isinstance(process, Wrapper):
        command = command_of(world, process.task, process.lease)
        if command is not None:
            yield f"{process.name}: is killed, its command lives on", dead
            dead = without_process(dead, command.name)
    yield f"{process.name}: is killed", dead


def _stop(world: World, wrapper: Wrapper) -> Iterator[tuple[str, World]]:
    if wrapper.is_stopped:
        resumed = with_process(world, wrapper._replace(is_stopped=False))
        yield f"{wrapper.name}: is resumed", resumed
    elif world.budget.stops:
        stopped = wrapper._replace(is_stopped=True, was_stopped=True, is_stale=True)
        yield f"{wrapper.name}: is stopped", with_process(_spend(world, "stops"), stopped)


def _frozen(world: World) -> World:
    """Let a minute pass in which nobody runs."""
    for process in world.processes:
        if isinstance(process, Wrapper):
            world = with_process(world, process._replace(is_stale=True))
    return _aged(world)


def let_time_pass(world: World) -> World:
    """Let one heartbeat interval pass: whoever runs, beats."""
    for process in world.processes:
        if isinstance(process, Wrapper) and not process.is_stopped and process.is_stale:
            world = beat(world, process)
    return _aged(world)


def _aged(world: World) -> World:
    for index, task in enumerate(world.tasks):
        if task.sighting is not None and not task.sighting.is_old:
            sighting = task.sighting._replace(is_old=True)
            world = with_task(world, index, task._replace(sighting=sighting))
    return world


def _stop_daemon(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """The daemon, told to stop, lets go of daemon.lock between two ticks, then looks for `kick`."""
    for process in world.processes:
        if process.name == world.daemon and isinstance(process, Tick) and process.at == "sleep":
            spent = _spend(world, "daemon_stops")._replace(daemon=NOBODY)
            if rules.daemon_looks_once_more:
                stopping = with_process(spent, process._replace(at="look for kick"))
            else:
                stopping = without_process(spent, process.name)
            yield f"{process.name}: is told to stop and lets go of daemon.lock", stopping
