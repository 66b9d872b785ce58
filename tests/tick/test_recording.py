"""A tick that changes something keeps what it decided on; nothing hangs on whether it can."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import FAILS, a_world, run_until_running, started, states, tick

import tinyscheduler
from tinyscheduler.app.replaying import replay
from tinyscheduler.errors import PolicyError, ProbeError
from tinyscheduler.model.plan import Dispatch, Settle
from tinyscheduler.model.policy import DecidedBy, FailedPolicy
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.policy import ScriptedPolicy
from tinyscheduler.simulator.recorder import SimulatedRecorder
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.resources import HostState
    from tinyscheduler.model.rounds import Round
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld
    from tinyscheduler.tick import World


def rounds_of(world: SimulatedWorld, tick_id: str | None = None) -> list[Round]:
    """Return what is kept of one tick, or of all."""
    recorder = SimulatedRecorder(world.machine.spawn("reader"), world.disk)
    ids = recorder.ticks() if tick_id is None else [tick_id]
    return [one for name in ids for one in recorder.rounds(name)]


def starts(one: Round) -> list[str]:
    return [said.task.task_id for said in one.plan.decisions if isinstance(said, Dispatch)]


def test_a_tick_that_starts_something_is_on_record_and_decided_again_the_same():
    world = a_world(3)

    report = tick(world)

    (one,) = rounds_of(world, report.tick_id)
    assert starts(one) == started(report)
    assert (one.number, one.program) == (1, tinyscheduler.__version__)
    assert one.decided_by == DecidedBy(name="platform")
    assert replay(one).is_same


def test_each_look_that_changed_something_is_a_round_of_its_own():
    world = a_world(2, slots=1)
    run_until_running(world)
    world.machine.advance(20)

    report = tick(world)

    settling, starting = rounds_of(world, report.tick_id)
    assert [type(said) for said in settling.plan.verdicts] == [Settle]
    assert starting.plan.verdicts == ()
    assert starts(starting) == ["2"]
    assert (settling.number, starting.number) == (1, 2)
    assert all(replay(one).is_same for one in (settling, starting))


def test_a_tick_that_changes_nothing_keeps_nothing_and_asks_for_no_recorder():
    world = a_world(2, slots=1)
    run_until_running(world)
    kept = list(world.disk.rounds)

    def refuse(ports: World, _process: Process) -> World:
        return replace(ports, recorder=lambda: pytest.fail("it was asked for"))

    world.rewire = refuse
    report = tick(world)

    assert report.errors == ()
    assert list(world.disk.rounds) == kept


def test_a_dry_run_keeps_nothing():
    world = a_world()

    world.preview()

    assert world.disk.rounds == {}


def test_a_disk_that_is_full_costs_the_record_and_nothing_else():
    world = a_world(script=Script(runs_s=1))
    run_until_running(world)
    world.machine.advance(5)
    world.disk.rounds.clear()

    class Refusing(SimulatedRecorder):
        def record(self, rounds: Sequence[Round]) -> None:
            self._disk.refusal = Refusal.BYTES
            super().record(rounds)

    def fill(ports: World, process: Process) -> World:
        return replace(ports, recorder=lambda: Refusing(process, world.disk))

    world.rewire = fill
    report = tick(world)

    assert states(world) == {"1": TaskState.DONE}
    assert report.errors == ()
    assert report.warnings == ("what was decided is not on record: ticks: No space left on device",)
    assert world.disk.rounds == {}


def test_a_fault_in_the_recorder_is_an_error_of_the_tick_and_ends_nothing():
    world = a_world(2)

    def break_it(ports: World, _process: Process) -> World:
        return replace(ports, recorder=lambda: None)  # type: ignore[arg-type,return-value]  # nothing can be recorded by it

    world.rewire = break_it
    report = tick(world)

    assert started(report) == ["1", "2"]
    (error,) = report.errors
    assert error.where == "keeping what was decided"
    assert "NoneType" in error.message


def noting(world: SimulatedWorld) -> list[tuple[int, list[int]]]:
    """Return what will be noted: attempts so far, and the numbers of the rounds, at each call."""
    calls: list[tuple[int, list[int]]] = []

    class Noting(SimulatedRecorder):
        def record(self, rounds: Sequence[Round]) -> None:
            calls.append((len(world.workshop.attempts), [one.number for one in rounds]))
            super().record(rounds)

    def rewire(ports: World, process: Process) -> World:
        return replace(ports, recorder=lambda: Noting(process, world.disk))

    world.rewire = rewire
    return calls


def test_nothing_is_written_before_what_was_decided_is_started():
    world = a_world(2)
    calls = noting(world)

    tick(world)

    assert calls == [(2, [1])]


def test_a_tick_that_sleeps_between_starts_writes_meanwhile():
    world = a_world(3, slots=3, stagger_s=5.0)
    world.settings = replace(
        world.settings, agents=tuple(replace(one, limit=3) for one in world.settings.agents)
    )
    calls = noting(world)

    report = tick(world)

    assert started(report) == ["1", "2", "3"]
    assert calls == [(1, [1]), (2, [2]), (3, [3])]
    assert [starts(one) for one in rounds_of(world, report.tick_id)] == [
        ["1", "2", "3"],
        ["2", "3"],
        ["3"],
    ]


class Once:
    """A probe that answers once."""

    def __init__(self, read: Callable[[], HostState]) -> None:
        self._read: Callable[[], HostState] | None = read

    def read(self) -> HostState:
        if self._read is None:
            raise ProbeError("no /proc")
        read, self._read = self._read, None
        return read()


def test_a_tick_that_fails_as_a_whole_keeps_what_it_had_decided():
    world = a_world(2, slots=1, scripts={("1", 1): FAILS})
    run_until_running(world)
    world.machine.advance(20)
    world.disk.rounds.clear()

    def fail_later(ports: World, _process: Process) -> World:
        return replace(ports, probe=Once(ports.probe.read))  # type: ignore[arg-type]  # measures nothing here

    world.rewire = fail_later
    with pytest.raises(ProbeError):
        world.tick()

    (one,) = rounds_of(world)
    assert [type(said) for said in one.plan.verdicts] == [Settle]


def test_the_policy_that_decided_is_named_not_the_one_that_failed():
    world = a_world()

    def fail(_context: PolicyContext) -> Sequence[Proposal]:
        raise PolicyError("no idea")

    world.policy = ScriptedPolicy(fail)
    tick(world)

    (one,) = rounds_of(world)
    failed = FailedPolicy(name="scripted", version="scripted", cause="refused")
    assert one.decided_by == DecidedBy(name="platform", instead_of=failed)
    assert replay(one).is_same


def test_a_policy_of_ones_own_that_decided_is_named_with_its_version_and_the_place():
    world = a_world(2)
    world.policy = ScriptedPolicy(platform := PlatformPolicy().propose, name="mine")

    tick(world)

    (one,) = rounds_of(world)
    assert one.decided_by == DecidedBy(name="mine", version="mine")
    here = one.snapshot.now.wall.astimezone().utcoffset()
    assert timedelta(seconds=one.utc_offset_s or 0) == here
    again = replay(one, ScriptedPolicy(platform, name="yours"))
    assert (again.is_same, again.policy, again.version) == (True, "yours", "yours")


def test_where_nobody_had_to_be_asked_no_version_is_told():
    world = a_world(1)
    run_until_running(world)
    world.machine.advance(20)
    world.policy = ScriptedPolicy(PlatformPolicy().propose, name="mine")
    world.disk.rounds.clear()

    tick(world)

    (one,) = rounds_of(world)
    assert one.decided_by == DecidedBy(name="mine")
    assert one.utc_offset_s is None
