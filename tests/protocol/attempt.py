"""The steps of a wrapper and of its command.

4, step 4   write running, look for cancel, start command
4, step 5   watch
4, step 6   write result, let go, kick, look at ticks (and become one)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.rules import WrapperSettles
from tests.protocol.tick import remove_lease, remove_result, tell, write_ledger
from tests.protocol.world import (
    NO_INODE,
    NOBODY,
    Command,
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
    from tests.protocol.world import World, Wrapper


def steps_of_wrapper(world: World, wrapper: Wrapper, rules: Rules, scenario: Scenario) -> Steps:
    """Return what it may do next: nothing while it is stopped, or its command goes on."""
    return [] if wrapper.is_stopped else _STEPS[wrapper.at](world, wrapper, rules, scenario)


def _go(world: World, wrapper: Wrapper, at: str) -> World:
    return with_process(world, wrapper._replace(at=at))


# -- starting


def _write_running(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    """Replace the lease; without one to replace, leave."""
    task = world.tasks[wrapper.task]
    if task.lease is None and rules.locks_before_leasing:
        return [("finds no lease and leaves", without_process(world, wrapper.name))]
    if task.lease is None or task.lease.lease != wrapper.lease:
        world = world._replace(wrong="a lease is resurrected or written over by another's wrapper")
    else:
        lease = task.lease._replace(state="running")
        world = with_task(world, wrapper.task, task._replace(lease=lease))
    return [("writes running", _go(world, wrapper, "look for cancel"))]


def _look_for_cancel(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    if wrapper.lease in world.tasks[wrapper.task].cancels:
        wrapper = wrapper._replace(outcome="cancelled")
        return [("finds that it is cancelled", _go(world, wrapper, "write result"))]
    if wrapper.is_told:
        wrapper = wrapper._replace(outcome="failed")
        return [("is told to end", _go(world, wrapper, "write result"))]
    return [("finds no reason to end", _go(world, wrapper, "start command"))]


def _start_command(world: World, wrapper: Wrapper, _rules: Rules, scenario: Scenario) -> Steps:
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
    sharing = share(task, task.lock, wrapper.name, name)
    found = [(f"starts {name}", with_task(world, wrapper.task, sharing))]
    if scenario.commands_close_lock:
        closing = with_task(world, wrapper.task, task)
        found.append((f"starts {name}, which closes the lock", closing))
    return found


# -- watching


def _watch(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    """End the command where something asks for it; its own end is its own step."""
    if wrapper.lease in world.tasks[wrapper.task].cancels:
        outcome, words = "cancelled", "is cancelled and ends the command"
    elif wrapper.is_told:
        outcome, words = "failed", "is told to end and ends the command"
    else:
        return []
    command = command_of(world, wrapper.task, wrapper.lease)
    if command is not None:
        world = without_process(world, command.name)
    return [(words, _go(world, wrapper._replace(outcome=outcome), "write result"))]


def steps_of_command(world: World, command: Command, _rules: Rules, _scenario: Scenario) -> Steps:
    """End well or badly, with or without leaving a process.  What is left does not end."""
    if command.at == "left":
        return []
    wrapper = wrapper_of(world, command.task, command.lease)
    gone = without_process(world, command.name)
    if wrapper is None:
        return [("ends", gone)]
    budget = world.budget
    ways = [("", gone, budget)]
    if budget.leftovers:
        staying = with_process(world, command._replace(at="left"))
        spent = budget._replace(leftovers=budget.leftovers - 1)
        ways.append((", leaving a process", staying, spent))
    found = []
    for words, after, spent in ways:
        ended = after._replace(budget=spent)
        found.append((f"succeeds{words}", _ended(ended, wrapper, "succeeded")))
        if spent.failures:
            failed = after._replace(budget=spent._replace(failures=spent.failures - 1))
            found.append((f"fails{words}", _ended(failed, wrapper, "failed")))
    return found


def _ended(world: World, wrapper: Wrapper, outcome: str) -> World:
    return _go(world, wrapper._replace(outcome=outcome), "write result")


# -- ending


def _write_result(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    if (task.row.state, task.row.lease) != ("working", wrapper.lease):
        world = world._replace(wrong="a result is recorded for a task that was given back")
    results = tuple(sorted((*task.results, (wrapper.lease, wrapper.outcome))))
    world = with_task(world, wrapper.task, task._replace(results=results))
    if rules.wrapper_settles is WrapperSettles.BEFORE_LETTING_GO:
        at = "tell source"
    else:
        at = "let go" if rules.lets_go_before_kick else "kick"
    return [(f"writes its result: {wrapper.outcome}", _go(world, wrapper, at))]


def _let_go(world: World, wrapper: Wrapper, rules: Rules, scenario: Scenario) -> Steps:
    """Close the lock, never LOCK_UN: that would free it for all who share the description."""
    if not scenario.kicks:
        return [("lets go of the task lock and leaves", without_process(world, wrapper.name))]
    task = world.tasks[wrapper.task]
    world = promise(with_task(world, wrapper.task, let_go(task, wrapper.name)))
    if rules.wrapper_settles is WrapperSettles.AFTER_LETTING_GO:
        at = "tell source"
    else:
        at = "kick" if rules.lets_go_before_kick else "look at ticks"
    return [("lets go of the task lock", _go(world, wrapper, at))]


def _kick(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    at = "look at ticks" if rules.lets_go_before_kick else "let go"
    return [("creates kick", _go(world._replace(kick=True), wrapper, at))]


def _look_at_ticks(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    """Look in /proc/locks: a tick or a daemon that is at work will see `kick`; else become one."""
    gone = without_process(world, wrapper.name)
    if world.ticking != NOBODY or world.daemon != NOBODY:
        return [("sees a tick at work and leaves", gone)]
    kicked = fresh_tick(world)
    return [(f"becomes {kicked.name}", with_process(gone, kicked))]


# -- only without R1: the wrapper takes the task lock for itself


def _open_lock(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    inode = task.lock or fresh_inode(world, wrapper.task)
    world = with_task(world, wrapper.task, task._replace(lock=inode))
    return [("opens the task lock", _go(world, wrapper._replace(inode=inode), "take lock"))]


def _take_lock(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    if is_held(task, wrapper.inode):
        return [("finds the task lock held and leaves", without_process(world, wrapper.name))]
    world = with_task(world, wrapper.task, hold(task, wrapper.inode, wrapper.name))
    return [("takes the task lock", _go(world, wrapper._replace(inode=NO_INODE), "read lease"))]


def _read_lease(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    lease = world.tasks[wrapper.task].lease
    if lease is None or lease.lease != wrapper.lease:
        return [("finds that the lease is not its own", without_process(world, wrapper.name))]
    return [("finds its lease", _go(world, wrapper, "write running"))]


# -- only without R2: the wrapper settles


def _tell_source(world: World, wrapper: Wrapper, rules: Rules, scenario: Scenario) -> Steps:
    world = tell(world, wrapper.task, wrapper.lease, wrapper.outcome, rules, scenario)
    return [("tells the source", _go(world, wrapper, "write ledger"))]


def _write_ledger(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    world = write_ledger(world, wrapper.task, wrapper.lease, wrapper.outcome)
    return [("writes the ledger", _go(world, wrapper, "compare lease"))]


def _compare_lease(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    lease = world.tasks[wrapper.task].lease
    if lease is None or lease.lease != wrapper.lease:
        return [("finds that the lease is gone", _go(world, wrapper, "remove result"))]
    return [("finds its lease", _go(world, wrapper, "remove lease"))]


def _remove_lease(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    world = remove_lease(world, wrapper.task, wrapper.lease)
    return [("removes the lease", _go(world, wrapper, "remove result"))]


def _remove_result(world: World, wrapper: Wrapper, rules: Rules, _scenario: Scenario) -> Steps:
    world = remove_result(world, wrapper.task, wrapper.lease)
    has_lock = rules.wrapper_settles is WrapperSettles.BEFORE_LETTING_GO
    return [("removes the result", _go(world, wrapper, "remove lock" if has_lock else "kick"))]


def _remove_lock(world: World, wrapper: Wrapper, _rules: Rules, _scenario: Scenario) -> Steps:
    task = world.tasks[wrapper.task]
    world = with_task(world, wrapper.task, task._replace(lock=NO_INODE))
    return [("unlinks the task lock", _go(world, wrapper, "let go"))]


_STEPS: dict[str, Callable[[World, Wrapper, Rules, Scenario], Steps]] = {
    "write running": _write_running,
    "look for cancel": _look_for_cancel,
    "start command": _start_command,
    "watch": _watch,
    "write result": _write_result,
    "let go": _let_go,
    "kick": _kick,
    "look at ticks": _look_at_ticks,
    "open lock": _open_lock,
    "take lock": _take_lock,
    "read lease": _read_lease,
    "tell source": _tell_source,
    "write ledger": _write_ledger,
    "compare lease": _compare_lease,
    "remove lease": _remove_lease,
    "remove result": _remove_result,
    "remove lock": _remove_lock,
}
