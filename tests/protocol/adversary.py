"""What may befall the others at any moment, as often as a budget allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.tick import beat, steps_of_tick
from tests.protocol.world import (
    NOBODY,
    Tick,
    Wrapper,
    command_of,
    fresh_tick,
    with_process,
    with_task,
    without_process,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.protocol.rules import Rules, Scenario
    from tests.protocol.world import World


def steps_of_adversary(
    world: World, rules: Rules, scenario: Scenario
) -> Iterator[tuple[str, World]]:
    """Yield everything that the budget still lets happen, cron included."""
    budget = world.budget
    if budget.crons:
        # With its first step: a tick that has done nothing is as good as none.
        tick = fresh_tick(world)
        for words, after in steps_of_tick(_spend(world, "crons"), tick, rules, scenario):
            yield f"cron starts {tick.name}: {words}", after
    for process in world.processes:
        if budget.kills and isinstance(process, Tick | Wrapper):
            yield from _kill(_spend(world, "kills"), process)
        if isinstance(process, Wrapper):
            yield from _stop_or_resume(world, process)
    yield from _let_time_go(world)
    yield from _remove_files(world)
    if budget.daemon_stops and world.daemon != NOBODY:
        yield from _stop_daemon(_spend(world, "daemon_stops"), rules)


def _spend(world: World, what: str) -> World:
    budget = world.budget
    return world._replace(budget=budget._replace(**{what: getattr(budget, what) - 1}))


def _kill(world: World, process: Tick | Wrapper) -> Iterator[tuple[str, World]]:
    """SIGKILL; its command dies with a wrapper (PR_SET_PDEATHSIG), or something of it lives on."""
    dead = without_process(world, process.name)
    if isinstance(process, Wrapper):
        command = command_of(world, process.task, process.lease)
        if command is not None:
            yield f"{process.name}: is killed, its command lives on", dead
            dead = without_process(dead, command.name)
    yield f"{process.name}: is killed", dead


# Where being stopped makes a difference to others: from its first step to letting go.
_CAN_BE_STOPPED = {"write running", "start command", "watch", "write result", "let go"}


def _stop_or_resume(world: World, wrapper: Wrapper) -> Iterator[tuple[str, World]]:
    """SIGSTOP, long enough for its heartbeat to be stale; SIGCONT, at any time or never."""
    if wrapper.is_stopped:
        resumed = with_process(world, wrapper._replace(is_stopped=False))
        yield f"{wrapper.name}: is resumed", resumed
    elif world.budget.stops and wrapper.at in _CAN_BE_STOPPED:
        stopped = wrapper._replace(is_stopped=True, was_stopped=True, is_stale=True)
        yield f"{wrapper.name}: is stopped", with_process(_spend(world, "stops"), stopped)


def _let_time_go(world: World) -> Iterator[tuple[str, World]]:
    later = let_time_pass(world)
    if later != world:
        yield "time: a heartbeat interval passes", later
    if world.budget.freezes and any(isinstance(process, Wrapper) for process in world.processes):
        yield "machine: is frozen for a minute", _freeze(_spend(world, "freezes"))


def _freeze(world: World) -> World:
    """Let a minute pass in which nobody runs."""
    for process in world.processes:
        if isinstance(process, Wrapper):
            world = with_process(world, process._replace(is_stale=True))
    return _with_older_sightings(world)


def let_time_pass(world: World) -> World:
    """Let one heartbeat interval pass, in which whoever runs beats."""
    for process in world.processes:
        if isinstance(process, Wrapper) and process.is_stale and not process.is_stopped:
            world = beat(world, process)
    return _with_older_sightings(world)


def _with_older_sightings(world: World) -> World:
    for index, task in enumerate(world.tasks):
        if task.sighting is not None and not task.sighting.is_old:
            sighting = task.sighting._replace(is_old=True)
            world = with_task(world, index, task._replace(sighting=sighting))
    return world


def _remove_files(world: World) -> Iterator[tuple[str, World]]:
    if world.budget.lost_leases:
        for index, task in enumerate(world.tasks):
            if task.lease is not None:
                without = with_task(world, index, task._replace(lease=None))
                yield f"somebody removes the lease of {task.name}", _spend(without, "lost_leases")
    if world.budget.lost_pidfiles and world.ticking != NOBODY:
        without = world._replace(ticking=NOBODY)
        yield "somebody removes the pidfile", _spend(without, "lost_pidfiles")


def _stop_daemon(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """Told to stop, the daemon lets go of daemon.lock between two ticks."""
    for process in world.processes:
        if isinstance(process, Tick) and process.name == world.daemon and process.at == "sleep":
            world = world._replace(daemon=NOBODY)
            if rules.daemon_looks_at_its_end:
                after = with_process(world, process._replace(at="look for kick"))
            else:
                after = without_process(world, process.name)
            yield f"{process.name}: is told to stop and lets go of daemon.lock", after
