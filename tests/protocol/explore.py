"""Breadth first through every world that can come about."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.protocol.others import let_time_pass, steps_of, steps_of_adversary
from tests.protocol.rules import INTACT
from tests.protocol.world import (
    Budget,
    Command,
    Held,
    Lease,
    Person,
    Row,
    Task,
    Tick,
    World,
    Wrapper,
    is_lock_held,
    with_process,
    with_task,
)

if TYPE_CHECKING:
    from tests.protocol.rules import Rules, Scenario

FAULTS = ("kills", "stops", "freezes", "leftovers", "launch_failures", "lost_leases", "lost_pidfiles")


class Found(NamedTuple):
    """What exploring found: nothing wrong, or the shortest way to it."""

    states: int
    quiet: int  # of them, how many in which nobody had anything left to do
    wrong: str
    trace: tuple[str, ...]


def beginning(scenario: Scenario) -> World:
    """Return the world that a scenario starts from: files of nobody, one tick by cron to come."""
    kinds = {"w": "waiting", "a": "absent", "l": "later"}
    tasks = tuple(
        Task(name, Row(kinds[kind])) for name, kind in zip("ABC", scenario.tasks, strict=False)
    )
    world = World(tasks, (), scenario.budget)
    for index, kind in enumerate(scenario.tasks):
        if kind in "al":
            name, at = {"a": ("adder", "add"), "l": ("time", "come")}[kind]
            world = with_process(world, Person(f"{name} of {tasks[index].name}", at, index))
    for index in map(int, scenario.cancels):
        world = with_process(world, Person(f"canceller of {tasks[index].name}", "cancel", index))
    if scenario.has_daemon:
        world = with_process(world, Tick("daemon"))._replace(daemon="daemon")
    if scenario.begins == "running":
        world = _start_first(world)
    return world


def _start_first(world: World) -> World:
    """Return the world after an undisturbed tick started the first task."""
    name = world.tasks[0].name
    wrapper, command = f"wrapper {name}1", f"command {name}1"
    task = world.tasks[0]._replace(
        row=Row("working", 1, 1),
        lock=1,
        held=(Held(1, frozenset({wrapper, command})),),
        lease=Lease(1, 1, "running"),
        leases=1,
        ran=frozenset({1}),
    )
    world = with_process(with_task(world, 0, task), Wrapper(wrapper, "watch", 0, 1, 1))
    return with_process(world, Command(command, "working", 0, 1))


def explore(scenario: Scenario, rules: Rules = INTACT, most_states: int = 10_000_000) -> Found:
    """Visit every reachable world once; stop at the first that is wrong."""
    first = beginning(scenario)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    frontier = [first]
    quiet = 0
    settled: set[World] = set()
    while frontier:
        following: list[World] = []
        for world in frontier:
            moves = [
                (f"{process.name}: {words}", after)
                for process in world.processes
                for words, after in steps_of(world, process, rules, scenario)
            ]
            if not moves:
                quiet += 1
                wrong = wrong_when_quiet(world, scenario) or wrong_in_the_end(
                    world, rules, scenario, settled
                )
                if wrong:
                    return Found(len(came_from), quiet, wrong, _trace(came_from, world))
            moves.extend(steps_of_adversary(world, rules, scenario))
            for words, after in moves:
                if after in came_from:
                    continue
                came_from[after] = (world, words)
                wrong = after.wrong or wrong_now(after, scenario)
                if wrong:
                    return Found(len(came_from), quiet, wrong, _trace(came_from, after))
                following.append(after)
        frontier = following
        assert len(came_from) < most_states
    return Found(len(came_from), quiet, "", ())


def _trace(came_from: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps = []
    step = came_from[world]
    while step is not None:
        steps.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(steps))


# What must never be


def wrong_now(world: World, scenario: Scenario) -> str:
    """Say which invariant of DESIGN.md section 6 this world breaks, if any."""
    busy: set[int] = set()
    commands: set[int] = set()
    for process in world.processes:
        if isinstance(process, Command):
            task = world.tasks[process.task]
            if process.task in commands:
                return "two live attempts of one task"
            commands.add(process.task)
            if (task.row.state, task.row.lease) != ("working", process.lease):
                return "a live attempt of a task that was given back"
            leased = task.lease is not None and task.lease.lease == process.lease
            if not leased and not is_lock_held(task):
                return "a live attempt without lease and lock"
            busy.add(process.task)
        elif isinstance(process, Wrapper) and process.at in ("write running", "watch"):
            busy.add(process.task)
    if len(busy) > scenario.slots and world.budget.lost_pidfiles == scenario.budget.lost_pidfiles:
        return "more attempts than slots"
    return ""


def wrong_when_quiet(world: World, scenario: Scenario) -> str:
    """Say what is wrong with a world in which nobody but cron would do anything, without faults."""
    spent = world.budget
    if any(getattr(spent, fault) != getattr(scenario.budget, fault) for fault in FAULTS):
        return ""
    if any(task.results for task in world.tasks):
        return "a lost wake-up: a recorded result waits for the next cron"
    leased = sum(task.lease is not None or is_lock_held(task) for task in world.tasks)
    for task in world.tasks:
        if task.row.state == "waiting" and task.is_promised and leased < scenario.slots:
            return f"a lost wake-up: {task.name} waits beside a free slot"
    return ""


def wrong_in_the_end(
    world: World, rules: Rules, scenario: Scenario, settled: set[World], rounds: int = 8
) -> str:
    """Let cron come again and again without further faults, and say what is still wrong then."""
    world = world._replace(budget=Budget(), kick=False)
    passed = []
    for number in range(rounds):
        if world in settled or is_over(world):
            settled.update(passed)
            return ""
        passed.append(world)
        world = with_process(let_time_pass(world), Tick(f"last tick {number}"))
        world = run_out(world, rules, scenario)
        if world.wrong:
            return world.wrong
    return "not all work ends: " + _leftovers(world)


def run_out(world: World, rules: Rules, scenario: Scenario) -> World:
    """Let everybody do what is left to do, one after the other."""
    for _ in range(2000):
        for process in world.processes:
            steps = steps_of(world, process, rules, scenario)
            if steps:
                world = steps[0][1]
                break
        else:
            return world._replace(kick=False)
        wrong = world.wrong or wrong_now(world, scenario)
        if wrong:
            return world._replace(wrong=wrong)
    return world._replace(wrong="they never come to rest")


def is_over(world: World) -> bool:
    return not _leftovers(world)


def _leftovers(world: World) -> str:
    left = []
    for task in world.tasks:
        if task.row.state not in ("done", "parked", "cancelled"):
            left.append(f"{task.name} is {task.row.state}")
        if task.cancelled_after >= 0 and task.row.state not in ("done", "cancelled"):
            left.append(f"{task.name} is {task.row.state} though cancelled")
        if task.row.state == "done" and len(task.ledger) != task.row.attempt:
            left.append(f"{task.name} has {len(task.ledger)} ledger rows, {task.row.attempt} attempts")
        for what in ("lock", "lease", "results", "held"):
            if getattr(task, what):
                left.append(f"{what} of {task.name}")
    left += [process.name for process in world.processes if process.name != world.daemon]
    return ", ".join(left)
