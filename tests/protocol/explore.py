"""Breadth first through every world that can come about, and what is wrong with any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.protocol.adversary import let_time_pass, steps_of_adversary
from tests.protocol.attempt import steps_of_command, steps_of_wrapper
from tests.protocol.people import steps_of_person
from tests.protocol.rules import INTACT
from tests.protocol.tick import steps_of_tick
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
    from tests.protocol.tick import Steps
    from tests.protocol.world import Process

# After one of these a wake-up may wait for cron: what it frees nobody else saw end.
_FAULTS = frozenset(Budget._fields) - {"crons", "failures", "daemon_stops"}
_MOST_STATES = 20_000_000
_MOST_ROUNDS = 8  # of cron, until all work must have ended
_MOST_STEPS = 2000  # that all processes together can need to come to rest


class Found(NamedTuple):
    """What exploring found: nothing wrong, or the shortest way to it."""

    states: int
    wrong: str
    trace: tuple[str, ...]


def explore(
    scenario: Scenario, rules: Rules = INTACT, *, seek: str = "", most_states: int = _MOST_STATES
) -> Found:
    """Visit every world that can come about, once; stop at the first wrong that is sought.

    What else is wrong is passed over, so that a rule can be taken out to see what exactly
    it prevents.  AssertionError if there are more worlds than ``most_states``.
    """
    first = beginning(scenario)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    ends_well: set[World] = set()
    frontier = [first]
    while frontier:
        following: list[World] = []
        for world in frontier:
            moves = _moves(world, rules, scenario)
            if not moves:
                wrong = wrong_at_rest(world, scenario)
                wrong = wrong or wrong_in_the_end(world, rules, scenario, ends_well)
                if wrong and seek in wrong:
                    return Found(len(came_from), wrong, _trace(came_from, world))
            moves.extend(steps_of_adversary(world, rules, scenario))
            for words, reached in moves:
                wrong = reached.wrong or wrong_now(reached, scenario)
                after = reached._replace(wrong="") if reached.wrong else reached
                if after not in came_from:
                    came_from[after] = (world, words)
                    following.append(after)
                if wrong and seek in wrong:
                    trace = (*_trace(came_from, world), words)
                    return Found(len(came_from), wrong, trace)
        frontier = following
        assert len(came_from) <= most_states, f"{scenario.name}: more worlds than {most_states}"
    return Found(len(came_from), "", ())


def beginning(scenario: Scenario) -> World:
    """Return the world that a scenario starts from."""
    states = {"w": "waiting", "r": "waiting", "a": "absent", "l": "later"}
    tasks = tuple(
        Task(name, Row(states[kind])) for name, kind in zip("ABC", scenario.tasks, strict=False)
    )
    world = World(tasks, (), scenario.budget)
    for index, kind in enumerate(scenario.tasks):
        name = tasks[index].name
        if kind == "r":
            world = _with_running(world, index)
        elif kind == "a":
            world = with_process(world, Person(f"adder of {name}", "add", index))
        elif kind == "l":
            world = with_process(world, Person(f"time of {name}", "come", index))
    for index in map(int, scenario.cancelled):
        world = with_process(world, Person(f"canceller of {tasks[index].name}", "cancel", index))
    if scenario.has_daemon:
        world = with_process(world, Tick("daemon"))._replace(daemon="daemon")
    return world


def _with_running(world: World, index: int) -> World:
    """Return the world after a tick that nothing disturbed started the task."""
    name = world.tasks[index].name
    wrapper, command = f"wrapper {name}1", f"command {name}1"
    task = world.tasks[index]._replace(
        row=Row("working", 1, 1),
        lock=1,
        held=(Held(1, frozenset({wrapper, command})),),
        lease=Lease(1, 1, "running"),
        leases=1,
        ran=frozenset({1}),
    )
    world = with_process(with_task(world, index, task), Wrapper(wrapper, "watch", index, 1, 1))
    return with_process(world, Command(command, "working", index, 1))


def _moves(world: World, rules: Rules, scenario: Scenario) -> Steps:
    return [
        (f"{process.name}: {words}", after)
        for process in world.processes
        for words, after in steps_of(world, process, rules, scenario)
    ]


def steps_of(world: World, process: Process, rules: Rules, scenario: Scenario) -> Steps:
    """Return every next step of one process."""
    match process:
        case Tick():
            return steps_of_tick(world, process, rules, scenario)
        case Wrapper():
            return steps_of_wrapper(world, process, rules, scenario)
        case Command():
            return steps_of_command(world, process, rules, scenario)
        case Person():
            return steps_of_person(world, process, rules)


def _trace(came_from: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps = []
    step = came_from[world]
    while step is not None:
        steps.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(steps))


# -- what must never be

_BEFORE_ITS_END = {"write running", "look for cancel", "start command", "watch", "write result"}


def wrong_now(world: World, scenario: Scenario) -> str:
    """Say which of DESIGN.md section 6's first invariants this world breaks, if any."""
    commands = [process for process in world.processes if isinstance(process, Command)]
    alive = {command.task for command in commands}
    if len(alive) < len(commands):
        return "two live attempts of one task"
    for command in commands:
        task = world.tasks[command.task]
        if (task.row.state, task.row.lease) != ("working", command.lease):
            return "a live attempt of a task that was given back"
        is_leased = task.lease is not None and task.lease.lease == command.lease
        if not is_leased and not is_lock_held(task):
            return "a live attempt without lease and lock"
    busy = alive | {
        process.task
        for process in world.processes
        if isinstance(process, Wrapper) and process.at in _BEFORE_ITS_END
    }
    # Two ticks that do not know of each other cannot know of each other's starts.
    one_tick = world.budget.lost_pidfiles == scenario.budget.lost_pidfiles
    return "more attempts than slots" if one_tick and len(busy) > scenario.slots else ""


def wrong_at_rest(world: World, scenario: Scenario) -> str:
    """Say which wake-up was lost, if any, now that only cron would do anything more."""
    if not scenario.kicks:
        return ""
    for fault in _FAULTS:
        if getattr(world.budget, fault) != getattr(scenario.budget, fault):
            return ""
    if any(task.results for task in world.tasks):
        return "a lost wake-up: a recorded result waits for cron"
    used = sum(task.lease is not None or is_lock_held(task) for task in world.tasks)
    for task in world.tasks:
        if task.row.state == "waiting" and task.is_promised and used < scenario.slots:
            return f"a lost wake-up: task {task.name} waits beside a free slot"
    return ""


def wrong_in_the_end(world: World, rules: Rules, scenario: Scenario, ends_well: set[World]) -> str:
    """Let cron come again and again without new faults, and say what never ends.

    Worlds that are known to end well, and those on the way there, are in ``ends_well``.
    """
    passed: list[World] = []
    world = world._replace(budget=Budget(), kick=False)
    for _ in range(_MOST_ROUNDS):
        if world in ends_well or not _unfinished(world):
            ends_well.update(passed)
            return ""
        passed.append(world)
        world = _run_out(with_process(let_time_pass(world), Tick("a last tick")), rules, scenario)
        if world.wrong:
            return world.wrong
    return f"not all work ends: {_unfinished(world)}"


def _run_out(world: World, rules: Rules, scenario: Scenario) -> World:
    """Let everybody do what is left to do, one after the other."""
    for _ in range(_MOST_STEPS):
        steps = next(
            (
                steps
                for process in world.processes
                if (steps := steps_of(world, process, rules, scenario))
            ),
            None,
        )
        if steps is None:
            return world._replace(kick=False)
        world = steps[0][1]
        wrong = world.wrong or wrong_now(world, scenario)
        if wrong:
            return world._replace(wrong=wrong)
    return world._replace(wrong="not all work ends: the processes never come to rest")


def _unfinished(world: World) -> str:
    """Name what is left that should not be.  A late cancel request may stay: it names no lease."""
    left = [process.name for process in world.processes if process.name != world.daemon]
    for task in world.tasks:
        state = task.row.state
        if state not in ("done", "parked", "cancelled"):
            left.append(f"task {task.name} is {state}")
        if task.cancelled_after >= 0 and state not in ("done", "cancelled"):
            left.append(f"task {task.name} is {state}, though cancelled")
        if state in ("done", "parked") and len(task.ledger) != task.row.attempt:
            rows = len(task.ledger)
            left.append(f"task {task.name} has {rows} ledger rows of {task.row.attempt} attempts")
        left += [
            f"{what} of {task.name}"
            for what in ("lock", "held", "lease", "results")
            if getattr(task, what)
        ]
    return ", ".join(left)
