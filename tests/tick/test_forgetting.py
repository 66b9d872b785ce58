"""A tick forgets what is long over: once an hour, a little at a time, after all else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.tick.staging import FAILS, HOURS, a_world, let_end, started, states, tick

from tinyscheduler.errors import StoreError
from tinyscheduler.model.plan import Dispatch
from tinyscheduler.model.pruning import PruneBounds, Pruned
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.pruner import SimulatedPruner
from tinyscheduler.tick import Retention, World
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.ports import Pruner
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld

DAY_S = 86_400.0
RETENTION = Retention(history_s=30 * DAY_S, logs_s=14 * DAY_S, most=7)


@dataclass
class Recording:
    """Remembers what it was asked for; has more to remove as often as it is told."""

    more: int = 0
    fault: StoreError | None = None
    asked: list[PruneBounds] = field(default_factory=list)
    world: SimulatedWorld | None = None
    started: list[int] = field(default_factory=list)

    def prune(self, bounds: PruneBounds) -> Pruned:
        self.asked.append(bounds)
        if self.world is not None:
            self.started.append(len(self.world.workshop.attempts))
        if self.fault is not None:
            raise self.fault
        self.more -= 1
        return Pruned(is_more=self.more >= 0)


def pruning(*pruners: Pruner, tasks: int = 0, retention: Retention | None = RETENTION):
    world = a_world(tasks, retention=retention)
    connect(world, lambda _: pruners)
    return world


def connect(world: SimulatedWorld, make: Callable[[Process], Sequence[Pruner]]) -> None:
    def rewire(ports: World, process: Process) -> World:
        return replace(ports, pruners=lambda: make(process))

    world.rewire = rewire


def test_what_is_old_is_reckoned_from_now_by_both_retentions():
    pruner = Recording()
    world = pruning(pruner)

    tick(world)

    (bounds,) = pruner.asked
    now = world.machine.wall
    assert abs(bounds.now - now) < timedelta(seconds=1)
    assert bounds.history_before == bounds.now - timedelta(days=30)
    assert bounds.logs_before == bounds.now - timedelta(days=14)
    assert bounds.most == 7


def test_within_the_hour_nothing_is_looked_at_again():
    pruner = Recording()
    world = pruning(pruner)

    for _ in range(59):
        tick(world)
        world.machine.advance(60)
    assert len(pruner.asked) == 1

    world.machine.advance(120)
    tick(world)
    assert len(pruner.asked) == 2


def test_what_is_left_goes_with_the_next_ticks():
    pruner = Recording(more=3)
    world = pruning(pruner)

    for _ in range(10):
        tick(world)
        world.machine.advance(1)

    assert len(pruner.asked) == 4


def test_every_pruner_has_its_turn_and_one_with_more_is_enough():
    first, second = Recording(more=1), Recording()
    world = pruning(first, second)

    for _ in range(3):
        tick(world)

    assert (len(first.asked), len(second.asked)) == (2, 2)


def test_a_refusal_is_a_warning_an_hour_and_stops_nothing():
    broken, sound = Recording(fault=StoreError("the disk says no")), Recording()
    world = pruning(broken, sound, tasks=1)

    report = tick(world)
    again = tick(world)

    assert started(report) == ["1"]
    assert report.errors == ()
    assert report.warnings == ("what is over stays for now: the disk says no",)
    assert len(sound.asked) == 1
    assert again.warnings == ()


def test_a_fault_in_a_pruner_is_an_error_of_the_tick_and_ends_nothing():
    class Faulty:
        def prune(self, bounds: PruneBounds) -> Pruned:
            raise ZeroDivisionError(bounds.most)

    world = pruning(Faulty(), tasks=1)

    report = tick(world)

    assert started(report) == ["1"]
    assert [(one.where, one.message) for one in report.errors] == [
        ("removing what is over", "ZeroDivisionError: 7")
    ]


def test_it_comes_after_the_starts():
    pruner = Recording()
    world = pruning(pruner, tasks=2)
    pruner.world = world

    report = tick(world)

    assert sum(isinstance(one, Dispatch) for one in report.decisions) == 2
    assert pruner.started == [2]


def test_after_the_clock_was_set_back_it_is_time_again():
    pruner = Recording()
    world = pruning(pruner)
    tick(world)

    world.disk.memory = replace(
        world.disk.memory, pruned_at=world.machine.wall + timedelta(days=300)
    )
    tick(world)

    assert len(pruner.asked) == 2


def test_a_dry_run_removes_nothing():
    pruner = Recording()
    world = pruning(pruner)

    world.preview()

    assert pruner.asked == []


def test_without_a_retention_nothing_is_ever_forgotten():
    pruner = Recording()
    world = pruning(pruner, retention=None)

    tick(world)

    assert pruner.asked == []


def test_a_month_later_only_what_still_matters_is_known():
    world = a_world(3, scripts={("2", attempt): FAILS for attempt in range(1, 9)})
    world.settings = replace(world.settings, retention=RETENTION)
    connect(world, lambda process: [SimulatedPruner(process, world.disk, world.queue)])
    let_end(world)
    world.queue.add(TaskSpec(agent="alpha", command=("work",), after=("2",)))

    world.machine.advance(31 * 24 * HOURS)
    tick(world)

    assert states(world) == {"2": TaskState.PARKED, "4": TaskState.WAITING}
    assert {row.task_id for row in world.disk.ledger.values()} == {"2"}
    assert world.auditor.violations == []
