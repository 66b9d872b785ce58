"""Can the auditor fail?  Break one rule at a time, and see that the simulation notices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.errors import LaunchError
from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.leases import ProcessEvidence, WrapperLife
from tinyscheduler.model.tasks import Finish, Outcome, TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.coolings import SimulatedCoolings
from tinyscheduler.simulator.launcher import SimulatedLauncher
from tinyscheduler.simulator.simulation import Simulation
from tinyscheduler.simulator.source import SimulatedSource
from tinyscheduler.simulator.store import SimulatedLeaseStore
from tinyscheduler.simulator.tick_lock import SimulatedTickLock
from tinyscheduler.simulator.world import SETTINGS, SimulatedWorld
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tinyscheduler.model.coolings import Cooling
    from tinyscheduler.model.leases import Lease, Trace
    from tinyscheduler.model.snapshot import LeaseScan
    from tinyscheduler.model.tasks import Ending
    from tinyscheduler.ports import TaskLock
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.store import SimulatedTaskLock
    from tinyscheduler.tick import World

    Change = Callable[[SimulatedWorld, World, Process], World]

MOST_SEEDS = 120


class StoreBlindToLocks(SimulatedLeaseStore):
    """Without R1: what holds its lock is taken for dead."""

    def scan(self) -> LeaseScan:
        seen = super().scan()
        return replace(
            seen, entries=tuple(replace(entry, is_lock_held=False) for entry in seen.entries)
        )


class StoreBlindToResults(SimulatedLeaseStore):
    """Without the result, a success looks like a death."""

    def scan(self) -> LeaseScan:
        return replace(super().scan(), results=(), unreadable_results=())

    def acquire(self, task_id: str, *, result_of: str | None = None) -> SimulatedTaskLock | None:
        del result_of
        return super().acquire(task_id)


class LauncherThatKeepsTheLock(SimulatedLauncher):
    """Without R1: the wrapper is not handed the lock, and no process is ever seen."""

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        super().launch(lease, lock)
        wrapper = self._workshop.attempts[lease.lease_id].wrapper
        for description in list(wrapper.descriptions):
            description.drop(wrapper)

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        return {trace.lease_id: ProcessEvidence(wrapper=WrapperLife.DEAD) for trace in traces}


class LauncherBlindToSurvivors(SimulatedLauncher):
    """What a dead wrapper left running is not looked for."""

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        return {
            lease_id: replace(evidence, survivors=0)
            for lease_id, evidence in super().inspect(traces).items()
        }


class LauncherThatLies(SimulatedLauncher):
    """It says that nothing was left running, and something was."""

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        super().launch(lease, lock)
        if lease.attempt == 1:
            message = "the answer got lost"
            raise LaunchError(message)


class HastyLauncher(SimulatedLauncher):
    """It takes every wrapper for dead that it is asked about."""

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        return {
            lease_id: replace(evidence, wrapper=WrapperLife.DEAD)
            for lease_id, evidence in super().inspect(traces).items()
        }


class SourceThatForgetsEndings(SimulatedSource):
    """It says that it was told, and was not."""

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        del task_id, lease_id
        return ending.state if isinstance(ending, Finish) else TaskState.WAITING


class NoTickLock(SimulatedTickLock):
    """Without R2: ticks are not kept apart."""

    def acquire(self) -> str | None:
        super().acquire()
        return None


class DeafTickLock(SimulatedTickLock):
    """Without the second look for wishes."""

    def is_kicked(self) -> bool:
        return False


class ForgetfulCoolings(SimulatedCoolings):
    """It says that it kept what it was told, and tells nobody."""

    def read(self) -> Sequence[Cooling]:
        super().read()
        return ()


def coolings(world: SimulatedWorld, ports: World, process: Process) -> World:
    return replace(ports, coolings=ForgetfulCoolings(process, world.disk))


def store(kind: type[SimulatedLeaseStore]) -> Change:
    return lambda world, ports, process: replace(ports, store=kind(process, world.disk))


def launcher(kind: type[SimulatedLauncher]) -> Change:
    return lambda world, ports, process: replace(ports, launcher=kind(process, world.workshop))


def source(kind: type[SimulatedSource]) -> Change:
    return lambda world, ports, process: replace(
        ports, sources=tuple(kind(process, queue) for queue in world.queues)
    )


def lock(kind: type[SimulatedTickLock]) -> Change:
    return lambda world, ports, process: replace(ports, lock=kind(process, world.disk))


# What is broken, and the promises of which one is seen to be broken first.
BROKEN: dict[str, tuple[Change, set[int]]] = {
    "a store blind to locks": (store(StoreBlindToLocks), {3, 4, 12, 13}),
    "a store blind to results": (store(StoreBlindToResults), {2, 3}),
    "a launcher that keeps the lock": (launcher(LauncherThatKeepsTheLock), {1, 3, 4}),
    "a launcher blind to survivors": (launcher(LauncherBlindToSurvivors), {1, 4, 12}),
    "a launcher that lies": (launcher(LauncherThatLies), {1, 2, 3, 4}),
    "a hasty launcher": (launcher(HastyLauncher), {13}),
    "a source that forgets endings": (source(SourceThatForgetsEndings), {12}),
    "no tick lock": (lock(NoTickLock), {1, 3, 4, 13, 15}),
    "coolings that nobody is told of": (coolings, {15}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_noticed(name):
    change, expected = BROKEN[name]
    for seed in range(MOST_SEEDS):
        simulation = Simulation(seed=seed, peace_s=3600)
        simulation.rewire(partial(change, simulation.world))
        verdict = simulation.run()
        if verdict.violations:
            broken = int(verdict.violations[0].split()[1])
            assert broken in expected, verdict.describe()
            return
    pytest.fail(f"{name} went unnoticed in {MOST_SEEDS} seeds")


def busy(seed: int) -> SimulatedWorld:
    """Return a world with one slot, in which only ends of attempts make ticks.

    They end so soon that the tick which started them is often still at work.
    """
    chance = Chance(seed, "busy")
    one_slot = replace(SETTINGS.rules, host_slots=1)
    world = SimulatedWorld(settings=replace(SETTINGS, rules=one_slot))
    world.machine.latency = lambda: chance.between(0, 0.03)
    world.machine.on_point = lambda process, _point: (
        world.machine.advance(chance.between(0, 0.2)) if process.program == "tick" else None
    )
    world.workshop.script = lambda _task_id, _attempt: Script(runs_s=chance.between(0, 0.1))
    for _ in range(20):
        world.queue.add(TaskSpec(agent="alpha"))
    return world


def is_done_by_kicks_alone(world: SimulatedWorld) -> bool:
    world.run_ticks()
    world.machine.advance(120)
    assert world.auditor.violations == []
    return {row.state for row in world.queue.rows.values()} == {TaskState.DONE}


def test_a_freed_slot_is_always_filled_without_a_tick_from_outside():
    assert all(is_done_by_kicks_alone(busy(seed)) for seed in range(20))


def test_without_the_second_look_for_wishes_a_slot_stays_empty():
    def deaf(seed: int) -> SimulatedWorld:
        world = busy(seed)
        world.rewire = lambda ports, process: replace(ports, lock=DeafTickLock(process, world.disk))
        return world

    assert not all(is_done_by_kicks_alone(deaf(seed)) for seed in range(20))


def running(tasks: int) -> SimulatedWorld:
    """Return a world with that many attempts running, beyond every cap if need be."""
    rules = replace(SETTINGS.rules, host_slots=9)
    agents = (AgentProfile(name="alpha", queue="work", limit=9),)
    world = SimulatedWorld(settings=replace(SETTINGS, rules=rules, agents=agents))
    world.workshop.script = lambda _task_id, _attempt: Script(runs_s=100)
    for _ in range(tasks):
        world.queue.add(TaskSpec(agent="alpha"))
    world.run_ticks()
    world.machine.advance(1)
    assert world.auditor.violations == []
    return world


def seen(world: SimulatedWorld) -> set[int]:
    return {int(words.split()[1]) for words in world.auditor.violations}


def test_two_live_attempts_of_a_task_are_noticed():
    world = running(2)
    first, second = world.workshop.attempts.values()
    second.lease = replace(second.lease, task_id=first.lease.task_id)

    world.auditor.look()

    assert seen(world) == {1}


def test_more_than_an_agent_or_a_machine_may_run_is_noticed():
    world = running(2)
    world.auditor.host_slots = 1
    world.auditor.look()
    assert seen(world) == {4}

    world = running(2)
    world.auditor.agents = [AgentProfile(name="alpha", queue="work", limit=1)]
    world.auditor.look()
    assert seen(world) == {4}


def test_an_attempt_started_twice_is_noticed():
    world = running(1)

    world.auditor.note_start(next(iter(world.workshop.attempts.values())))

    assert seen(world) == {3}


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.CANCELLED, TaskState.HELD])
def test_a_start_of_a_task_that_is_not_ours_is_noticed(state):
    world = running(1)
    attempt = next(iter(world.workshop.attempts.values()))
    world.queue.rows["1"].state = state
    attempt.lease = replace(attempt.lease, attempt=2)

    world.auditor.note_start(attempt)

    assert seen(world) == {3}


def test_a_start_after_a_success_is_noticed():
    world = running(2)
    first, second = world.workshop.attempts.values()
    first.recorded = Outcome.SUCCEEDED
    second.lease = replace(second.lease, task_id=first.lease.task_id, attempt=2)

    world.auditor.note_start(second)

    assert seen(world) == {3}


def test_the_end_of_a_healthy_attempt_is_noticed_and_of_a_hung_one_is_not():
    world = running(2)
    world.machine.advance(5)
    healthy, hung = world.workshop.attempts.values()
    world.machine.stop(hung.wrapper)

    world.auditor.note_term(hung)
    assert seen(world) == set()

    world.auditor.note_term(healthy)
    assert seen(world) == {13}


def test_what_is_left_at_the_end_is_noticed():
    world = running(1)
    world.disk.results["a-result"] = "{}"

    world.auditor.note_quiet()

    words = "\n".join(world.auditor.violations)
    assert seen(world) == {2, 12}
    for left in ("is still working", "running folder", "was not settled", "processes", "ledger"):
        assert left in words


@pytest.mark.parametrize(
    ("state", "recorded"), [(TaskState.DONE, None), (TaskState.PARKED, Outcome.SUCCEEDED)]
)
def test_a_state_that_does_not_fit_what_happened_is_noticed(state, recorded):
    world = running(1)
    attempt = next(iter(world.workshop.attempts.values()))
    world.machine.kill(attempt.wrapper)
    world.disk.leases.clear()
    world.disk.locks.clear()
    attempt.is_started = False
    attempt.recorded = recorded
    world.queue.rows["1"].state = state

    world.auditor.note_quiet()

    assert seen(world) == {2}


def test_a_task_that_waits_for_one_that_failed_is_not_lost():
    world = SimulatedWorld()
    world.queue.add(TaskSpec(agent="alpha"))
    world.queue.add(TaskSpec(agent="alpha", after=("1",)))
    world.queue.add(TaskSpec(agent="alpha", after=("2",)))
    world.queue.rows["1"].state = TaskState.PARKED

    world.auditor.note_quiet()

    assert world.auditor.violations == []


def test_a_lost_task_is_noticed():
    world = SimulatedWorld()
    world.queue.add(TaskSpec(agent="alpha"))
    world.queue.rows["1"].state = TaskState.WORKING

    world.auditor.note_quiet()

    assert ["invariant 12" in one for one in world.auditor.violations] == [True]
