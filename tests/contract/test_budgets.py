"""What every keeper of budgets must do, whatever it is made of."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.builders import START, SteppedClock, open_database

from tinyscheduler.adapters.sqlite.budgets import SqliteBudgets
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.core.firings import plan_firings
from tinyscheduler.model.budgets import Budget
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.schedules import Overlap, Schedule, ScheduleState, Timing
from tinyscheduler.model.switches import SwitchKind, parse_target
from tinyscheduler.model.tasks import Finish, Outcome, TaskSpec, TaskState
from tinyscheduler.simulator.budgets import SimulatedBudgets
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.ledger import SimulatedLedger
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.schedules import SimulatedSchedules
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource
from tinyscheduler.simulator.switches import SimulatedSwitches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tinyscheduler.ports import Ledger, Schedules, Switches, TaskSource

DONE = Finish(state=TaskState.DONE, reason=None, failures=0)


@dataclass(kw_only=True)
class Place:
    """A place where budgets are kept, beside the queue, the ledger and the switches."""

    budgets: Callable[[], SqliteBudgets | SimulatedBudgets]
    source: Callable[[], TaskSource]
    ledger: Callable[[], Ledger]
    switches: Callable[[], Switches]
    schedules: Callable[[], Schedules]
    add: Callable[[TaskSpec], str]
    keep: Callable[[Schedule], None]
    advance: Callable[[float], None]
    now: Callable[[], datetime]
    running: dict[str, tuple[str, str, datetime, str | None]] = field(default_factory=dict)
    leases: int = 0

    def begin(self, task_id: str | None = None, *, agent: str = "coder") -> str | None:
        """Claim a task, a new one unless it is named; None where that is refused."""
        task_id = task_id or self.add(TaskSpec(agent=agent, command=("work",)))
        self.leases += 1
        lease = f"lease-{self.leases}"
        source = self.source()
        (seen,) = [one for one in source.look(window=1000).waiting if one.task_id == task_id]
        if not source.claim(task_id, lease_id=lease, agent=agent, queue="work", attempt=1):
            return None
        self.running[task_id] = (lease, agent, self.now(), seen.schedule_id)
        return task_id

    def record(self, task_id: str, **costs: Any) -> str:
        """Write into the ledger that an attempt has ended; return its lease."""
        lease, agent, began_at, schedule_id = self.running[task_id]
        self.ledger().record(
            AttemptRecord(
                lease_id=lease,
                task_id=task_id,
                source="local",
                agent=agent,
                attempt=1,
                started_at=began_at,
                ended_at=self.now(),
                outcome=Outcome.SUCCEEDED,
                failure_reason=None,
                schedule_id=schedule_id,
                **costs,
            )
        )
        return lease

    def end(self, task_id: str | None, **costs: Any) -> None:
        assert task_id is not None
        lease = self.record(task_id, **costs)
        assert self.source().settle(task_id, lease_id=lease, ending=DONE) is TaskState.DONE
        del self.running[task_id]

    def enforce(self) -> list[tuple[str, str]]:
        return [(one.budget.subject, one.words) for one in self.budgets().enforce()]

    def paused(self) -> list[str]:
        return [str(one.target) for one in self.switches().read()]

    def resume(self, target: str) -> None:
        assert self.switches().clear(SwitchKind.PAUSE, parse_target(target)) is not None


def build_sqlite(folder: Path, stack: ExitStack, budgets: tuple[Budget, ...]) -> Place:
    clock = SteppedClock()

    def source() -> LocalQueue:
        return LocalQueue(open_database(folder, stack), clock, budgets=budgets, most_firings=9)

    def schedules() -> SqliteSchedules:
        return SqliteSchedules(open_database(folder, stack), clock)

    return Place(
        budgets=lambda: SqliteBudgets(open_database(folder, stack), clock, budgets),
        source=source,
        ledger=lambda: SqliteLedger(open_database(folder, stack)),
        switches=lambda: SqliteSwitches(open_database(folder, stack)),
        schedules=schedules,
        add=lambda spec: source().add([(None, spec)])[0],
        keep=lambda one: schedules().add(one),
        advance=clock.advance,
        now=lambda: clock.now().wall,
    )


def build_simulated(_folder: Path, _stack: ExitStack, budgets: tuple[Budget, ...]) -> Place:
    machine, disk = Machine(), Disk()
    machine.step_wall((START - machine.wall).total_seconds())
    queue = SimulatedQueue(
        now=lambda: machine.wall,
        switches=disk.switches,
        ledger=disk.ledger,
        budgets=budgets,
        most_firings=9,
    )

    def keep(one: Schedule) -> None:
        queue.schedules[one.schedule_id] = one

    return Place(
        budgets=lambda: SimulatedBudgets(machine.spawn("tick"), queue, disk),
        source=lambda: SimulatedSource(machine.spawn("tick"), queue),
        ledger=lambda: SimulatedLedger(machine.spawn("tick"), disk),
        switches=lambda: SimulatedSwitches(machine.spawn("tick"), disk),
        schedules=lambda: SimulatedSchedules(machine.spawn("tick"), queue),
        add=queue.add,
        keep=keep,
        advance=machine.advance,
        now=lambda: machine.wall,
    )


PLACES = {"sqlite": build_sqlite, "simulated": build_simulated}


@pytest.fixture(params=list(PLACES))
def place_with(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    with ExitStack() as stack:
        yield lambda *budgets: PLACES[request.param](tmp_path, stack, budgets)


def test_no_more_runs_begin_than_there_may_be_and_those_that_go_on_count(
    place_with: Callable[..., Place],
):
    place = place_with(Budget(subject="agent:coder", runs=3))
    first, _, third = [place.begin() for _ in range(3)]
    assert place.begin() is None
    assert place.begin(agent="writer") is not None
    place.end(first)

    assert place.begin() is None
    assert place.enforce() == [("agent:coder", "3 of 3 runs in 1d")]
    assert place.enforce() == []
    assert place.paused() == ["agent:coder"]
    place.end(third)  # what is under way goes on


def test_an_attempt_in_the_ledger_that_no_source_was_told_of_counts_once(
    place_with: Callable[..., Place],
):
    place = place_with(Budget(subject="overall", runs=2))
    task = place.begin()
    assert task is not None
    place.record(task)

    assert place.enforce() == []
    assert place.begin() is not None
    assert place.enforce() == [("overall", "2 of 2 runs in 1d")]
    assert place.paused() == ["all"]


@pytest.mark.parametrize(
    ("bound", "costs", "words"),
    [
        ({"turns": 100}, {"turns": 60}, "120 of 100 turns in 1d"),
        ({"tokens": 5_000_000}, {"tokens": 2_500_000}, "5000000 of 5000000 tokens in 1d"),
        ({"money_usd": 10.0}, {"cost_usd": 5.25}, "10.50 of 10.00 USD in 1d"),
        ({"gpu_s": 14_400.0}, {"gpu_s": 7_260.0}, "242 of 240 GPU minutes in 1d"),
        ({"wall_s": 100.0}, {}, "1m40s of 1m40s running in 1d"),
    ],
)
def test_whatever_is_used_up_ends_new_starts(
    place_with: Callable[..., Place], bound: dict[str, Any], costs: dict[str, Any], words: str
):
    place = place_with(Budget(subject="agent:coder", **bound))
    for number in range(2):
        task = place.begin()
        place.advance(50)
        place.end(task, **costs)
        assert bool(place.enforce()) == (number == 1)

    (switch,) = place.switches().read()
    assert (switch.by, switch.reason) == ("its budget", f"used up: {words}")
    place.resume("agent:coder")
    assert place.begin() is None  # until it is lifted


def test_the_time_of_what_runs_counts_while_it_runs(place_with: Callable[..., Place]):
    place = place_with(Budget(subject="agent:coder", wall_s=100.0))
    assert place.begin() is not None
    place.advance(60)
    assert place.begin() is not None
    place.advance(19)
    assert place.enforce() == []
    place.advance(1)

    assert place.enforce() == [("agent:coder", "1m40s of 1m40s running in 1d")]


def test_the_window_rolls(place_with: Callable[..., Place]):
    place = place_with(Budget(subject="overall", runs=2, window_s=100.0))
    place.end(place.begin())
    place.advance(60)
    place.end(place.begin())
    assert place.begin() is None
    place.advance(39)
    assert place.begin() is None

    place.advance(1)
    assert place.enforce() == []
    assert place.begin() is not None


def test_what_was_used_before_a_budget_was_lifted_counts_no_more(
    place_with: Callable[..., Place],
):
    place = place_with(Budget(subject="agent:coder", runs=2, tokens=100))
    place.end(place.begin(), tokens=100)
    assert place.enforce() == [("agent:coder", "100 of 100 tokens in 1d")]
    place.advance(1)
    place.budgets().lift("agent:coder")
    place.resume("agent:coder")

    assert place.enforce() == []
    place.advance(1)
    assert [place.begin() is not None for _ in range(3)] == [True, True, False]


def test_what_began_before_a_lift_is_not_counted_when_it_ends(place_with: Callable[..., Place]):
    place = place_with(Budget(subject="agent:coder", tokens=100))
    task = place.begin()
    place.advance(5)
    place.budgets().lift("agent:coder")
    place.advance(5)
    place.end(task, tokens=1000)

    assert place.enforce() == []
    assert place.begin() is not None


def test_of_several_budgets_each_holds(place_with: Callable[..., Place]):
    place = place_with(
        Budget(subject="overall", runs=4),
        Budget(subject="agent:coder", runs=2),
        Budget(subject="agent:coder", runs=9, window_s=7 * 86_400.0),
    )
    for agent in ("coder", "coder", "writer"):
        assert place.begin(agent=agent) is not None
    assert place.begin() is None

    assert place.enforce() == [("agent:coder", "2 of 2 runs in 1d")]
    assert place.begin(agent="writer") is not None
    assert place.begin(agent="writer") is None
    assert place.enforce() == [("overall", "4 of 4 runs in 1d")]
    assert place.paused() == ["agent:coder", "all"]


def test_a_schedule_whose_budget_is_used_up_fires_no_more_and_its_firings_stay(
    place_with: Callable[..., Place],
):
    place = place_with(Budget(subject="schedule:s", runs=1))
    place.keep(
        Schedule(
            schedule_id="s",
            name="s",
            timing=Timing(every_s=60.0),
            spec=TaskSpec(agent="coder", command=("work",)),
            overlap=Overlap.ALLOW,
            created_at=START,
            anchor=START,
            next_fire_at=START + timedelta(minutes=1),
        )
    )
    tasks: list[str] = []
    for _ in range(2):
        place.advance(60)
        ((one, live),) = place.schedules().due(place.now())
        plan = plan_firings(one, live, place.now())
        assert plan is not None
        tasks += place.schedules().fire(plan) or []
    place.end(place.begin(tasks[0]))

    assert place.enforce() == [("schedule:s", "1 of 1 runs in 1d")]
    found = place.schedules().find("s")
    assert found is not None
    assert (found.state, found.why_paused) == (
        ScheduleState.PAUSED,
        "its budget is used up: 1 of 1 runs in 1d",
    )
    place.advance(600)
    assert place.schedules().due(place.now()) == []
    assert place.begin(tasks[1]) is None
    assert place.begin() is not None  # its agent goes on


def test_a_budget_of_a_schedule_that_is_not_there_stops_nothing(
    place_with: Callable[..., Place],
):
    place = place_with(Budget(subject="schedule:none", wall_s=1.0))

    assert place.begin() is not None
    place.advance(50)
    assert place.enforce() == []


STEPS = st.lists(st.sampled_from(("begin", "begin", "begin", "end", "wait")), max_size=40)


@pytest.mark.parametrize("kind", list(PLACES))
@given(steps=STEPS)
@settings(max_examples=25, deadline=None)
def test_no_window_ever_holds_more_runs_than_the_budget_says(kind: str, steps: list[str]):
    window_s, most = 100.0, 3
    ended: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        budget = Budget(subject="agent:coder", runs=most, window_s=window_s)
        place = PLACES[kind](folder, stack, (budget,))
        for step in steps:
            now_s = (place.now() - START).total_seconds()
            if step == "begin":
                counted = len(place.running) + sum(one > now_s - window_s for one in ended)
                assert (place.begin() is not None) == (counted < most)
            elif step == "end" and place.running:
                place.end(next(iter(place.running)))
                ended.append(now_s)
            elif step == "wait":
                place.advance(30)
