"""The steps of a wrapper and of its command: DESIGN.md section 4, steps 4 to 6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.tick import remove_lease, remove_result, tell, write_ledger
from tests.protocol.world import (
    NO_INODE,
    NOBODY,
    Command,
    Wrapper,
    command_of,
    fresh_inode,
    fresh_tick,
    hold,
    is_held,
    let_go,
    promise,
    share,
    with_process,
    with_task,
    without_process,
    wrapper_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.protocol.rules import Rules, Scenario
    from tests.protocol.tick import Steps
    from tests.protocol.world import World


def steps_of_wrapper(world: World, wrapper: Wrapper, rules: Rules, scenario: Scenario) -> Steps:
    """Return every next step; none while it is stopped or has nothing to do but wait."""
    if wrapper.is_stopped:
        return []
    return _STEPS[wrapper.at](world, wrapper, rules, scenario)


def _go(world: World, wrapper: Wrapper, at: str) -> World:
    return with_process(world, wrapper._replace(at=at))


# Only without R1: the wrapper looks after its lock itself


def _open_lock(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    inode = task.lock or fresh_inode(world, wrapper.task)
    world = with_task(world, wrapper.task, task._replace(lock=inode))
    return [("opens the task lock", _go(world, wrapper._replace(inode=inode), "take lock"))]


def _take_lock(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    if is_held(task, wrapper.inode):
        return [("finds the task lock held", without_process(world, wrapper.name))]
    world = with_task(world, wrapper.task, hold(task, wrapper.inode, wrapper.name))
    return [("takes the task lock", _go(world, wrapper._replace(inode=NO_INODE), "read lease"))]


def _read_lease(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    lease = world.tasks[wrapper.task].lease
    if lease is None or lease.lease != wrapper.lease:
        return [("finds another lease", without_process(world, wrapper.name))]
    return [("finds its lease", _go(world, wrapper, "write running"))]


# Step 4: start


def _write_running(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    """Replace the lease by one that says `running`; without a lease to replace, leave."""
    task = world.tasks[wrapper.task]
    if task.lease is None and rules.locks_before_leasing:
        return [("finds no lease and leaves", without_process(world, wrapper.name))]
    if task.lease is None or task.lease.lease != wrapper.lease:
        world = world._replace(wrong="a wrapper writes over or resurrects a lease")
    lease = (wrapper.lease, wrapper.attempt, "running")
    if task.lease is not None:
        task = task._replace(lease=task.lease._replace(lease=lease[0], attempt=lease[1], state=lease[2]))
    world = with_task(world, wrapper.task, task)
    return [("writes running", _go(world, wrapper, "look for cancel"))]


def _look_for_cancel(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    if wrapper.lease in world.tasks[wrapper.task].cancels:
        wrapper = wrapper._replace(outcome="cancelled")
        return [("finds that it is cancelled", _go(world, wrapper, "write result"))]
    if wrapper.is_told:
        wrapper = wrapper._replace(outcome="failed")
        return [("is told to end", _go(world, wrapper, "write result"))]
    return [("is not cancelled", _go(world, wrapper, "go"))]


def _go_command(world: World, wrapper: Wrapper, _rules: Rules, scenario: Scenario) -> Steps:
    """Let the command go; it inherits the lock, and may close it."""
    task = world.tasks[wrapper.task]
    name = f"command {task.name}{wrapper.lease}"
    if wrapper.lease > task.cancelled_after >= 0:
        world = world._replace(wrong="a cancelled task is run again")
    if task.row.attempt != wrapper.attempt:
        world = world._replace(wrong="an attempt runs under a wrong number")
    task = task._replace(ran=task.ran | {wrapper.lease})
    world = with_process(world, Command(name, "working", wrapper.task, wrapper.lease))
    world = _go(world, wrapper, "watch")
    closing = with_task(world, wrapper.task, task)
    keeping = with_task(world, wrapper.task, share(task, task.lock, wrapper.name, name))
    found = [(f"starts {name}", keeping)]
    if scenario.commands_close_lock:
        found.append((f"starts {name}, which closes the lock", closing))
    return found


# Step 5: watch


def _watch(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    """End the command if something says so; its own end is the command's step."""
    command = command_of(world, wrapper.task, wrapper.lease)
    if wrapper.lease in world.tasks[wrapper.task].cancels:
        outcome, words = "cancelled", "is cancelled and ends the command"
    elif wrapper.is_told:
        outcome, words = "failed", "is told to end and ends the command"
    else:
        return []
    if command is not None:
        world = without_process(world, command.name)
    return [(words, _go(world, wrapper._replace(outcome=outcome), "write result"))]


# Step 6: record, let go, kick


def _write_result(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    if (task.row.state, task.row.lease) != ("working", wrapper.lease):
        world = world._replace(wrong="a result is recorded for a claim that was given back")
    results = tuple(sorted((*task.results, (wrapper.lease, wrapper.outcome))))
    world = with_task(world, wrapper.task, task._replace(results=results))
    at = "close lock" if rules.lets_go_before_kick else "kick"
    return [(f"writes its result: {wrapper.outcome}", _go(world, wrapper, at))]


def _close_lock(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    """close, never LOCK_UN: that would free it for all who share it."""
    task = world.tasks[wrapper.task]
    world = promise(with_task(world, wrapper.task, let_go(task, wrapper.name)))
    if not rules.only_ticks_settle:
        return [("lets go of the lock", _go(world, wrapper, "tell source"))]
    at = "kick" if rules.lets_go_before_kick else "look at ticks"
    return [("lets go of the lock", _go(world, wrapper, at))]


def _kick(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    at = "look at ticks" if rules.lets_go_before_kick else "close lock"
    return [("creates kick", _go(world._replace(kick=True), wrapper, at))]


def _look_at_ticks(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    """Look in /proc/locks: a tick or daemon at work will see `kick`; else become a tick."""
    gone = without_process(world, wrapper.name)
    if world.ticking != NOBODY or world.daemon != NOBODY:
        return [("sees a tick at work and leaves", gone)]
    kicked = fresh_tick(world)
    return [(f"becomes {kicked.name}", with_process(gone, kicked))]


# Only without R2: the wrapper settles


def _tell_source(world: World, wrapper: Wrapper, rules: Rules, scenario: Scenario) -> Steps:
    world = tell(world, wrapper.task, wrapper.lease, wrapper.outcome, rules, scenario)
    return [("tells the source", _go(world, wrapper, "write ledger"))]


def _write_ledger(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    world = write_ledger(world, wrapper.task, wrapper.lease, wrapper.outcome)
    return [("writes the ledger", _go(world, wrapper, "remove lease"))]


def _remove_lease(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    world = remove_lease(world, wrapper.task, wrapper.lease, rules)
    return [("removes the lease", _go(world, wrapper, "remove result"))]


def _remove_result(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    world = remove_result(world, wrapper.task, wrapper.lease)
    return [("removes the result", _go(world, wrapper, "kick"))]


_STEPS: dict[str, Callable[[World, Wrapper, Rules, Scenario], Steps]] = {
    "open lock": _open_lock,
    "take lock": _take_lock,
    "read lease": _read_lease,
    "write running": _write_running,
    "look for cancel": _look_for_cancel,
    "go": _go_command,
    "watch": _watch,
    "write result": _write_result,
    "close lock": _close_lock,
    "kick": _kick,
    "look at ticks": _look_at_ticks,
    "tell source": _tell_source,
    "write ledger": _write_ledger,
    "remove lease": _remove_lease,
    "remove result": _remove_result,
}


def steps_of_command(world: World, command: Command, _rules: Rules, _scenario: Scenario) -> Steps:
    """End well or badly, or end and leave a process behind; left-overs do not end by themselves."""
    if command.at == "left":
        return []
    wrapper = wrapper_of(world, command.task, command.lease)
    gone = without_process(world, command.name)
    if wrapper is None:
        return [("ends", gone)]
    found = [("succeeds", _ended(gone, wrapper, "succeeded"))]
    budget = world.budget
    if budget.failures:
        failed = gone._replace(budget=budget._replace(failures=budget.failures - 1))
        found.append(("fails", _ended(failed, wrapper, "failed")))
    if budget.leftovers:
        left = with_process(world, command._replace(at="left"))
        left = left._replace(budget=budget._replace(leftovers=budget.leftovers - 1))
        found.append(("succeeds, leaving a process", _ended(left, wrapper, "succeeded")))
        if budget.failures:
            left = left._replace(budget=left.budget._replace(failures=budget.failures - 1))
            found.append(("fails, leaving a process", _ended(left, wrapper, "failed")))
    return found


def _ended(world: World, wrapper: Wrapper, outcome: str) -> World:
    return _go(world, wrapper._replace(outcome=outcome), "write result")
