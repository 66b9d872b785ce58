"""Schedules learn the same from any course of firings as a model of thirty lines does."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.test_schedules import PLACES, minutely

from tinyscheduler.adapters.sqlite.rows import to_micros
from tinyscheduler.model.schedules import CatchUp, ScheduleState
from tinyscheduler.model.tasks import FailureReason, Finish, TaskState
from tinyscheduler.simulator.schedules import SimulatedSchedules
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from datetime import datetime

    from tests.contract.test_schedules import Place

    from tinyscheduler.adapters.sqlite.schedules import SqliteSchedules
    from tinyscheduler.model.schedules import Schedule

INTERVAL_S, RUNTIME_S = 60, 1000.0
NEUTRAL = (FailureReason.RATE_LIMITED, FailureReason.AUTH_FAILED, FailureReason.CANCELLED)
BREACH = FailureReason.TURN_LIMIT_EXCEEDED


@dataclass
class Model:
    """The rules as they are written down: this and no more."""

    failures: int = 0
    breaches: int = 0
    drifts: int = 0
    average: int | None = None
    is_paused: bool = False
    set_at: datetime | None = None

    def end(self, reason: FailureReason | None, turns: int, ran_s: float, now: datetime) -> None:
        if reason in NEUTRAL:
            return
        self.average = turns if self.average is None else round(self.average * 0.7 + turns * 0.3)
        is_late = ran_s > 0.8 * RUNTIME_S or reason is FailureReason.LEASE_EXPIRED
        self.drifts = self.drifts + 1 if is_late else 0
        if reason is None:
            self.failures = self.breaches = 0
        elif reason is BREACH:
            self.failures = 0
            if self.set_at is None or (now - self.set_at).total_seconds() >= 2 * INTERVAL_S:
                self.breaches += 1
                self.is_paused |= self.breaches >= 5
        else:
            self.failures, self.breaches = self.failures + 1, 0
            self.is_paused |= self.failures >= 3

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused, self.failures, self.breaches = False, 0, 0


def found(place: Place) -> Schedule:
    schedule = place.keeper().find("a")
    assert schedule is not None
    return schedule


def change(place: Place, **fields: object) -> None:
    """Do to the schedule what its owner's commands do."""
    keeper = place.keeper()
    if isinstance(keeper, SimulatedSchedules):
        if fields.get("state") is ScheduleState.ACTIVE:
            fields |= {"failure_streak": 0, "breach_streak": 0}
        kept = keeper._queue.schedules  # its disk
        kept["a"] = replace(kept["a"], **fields)  # type: ignore[arg-type]  # named as its fields are
        return
    keeper = cast("SqliteSchedules", keeper)
    set_at = fields.pop("max_turns_set_at", None)
    if set_at is not None:
        with keeper._database.writing() as connection:
            values = (to_micros(cast("datetime", set_at)),)
            connection.execute("UPDATE schedules SET max_turns_set_at = ?", values)
            connection.commit()
    if fields:
        keeper.set_state("a", **fields)  # type: ignore[arg-type]  # named as its parameters are


ENDS = st.tuples(
    st.sampled_from(
        (
            *(None, BREACH, BREACH, FailureReason.COMMAND_FAILED, FailureReason.COMMAND_FAILED),
            *(FailureReason.LEASE_EXPIRED, *NEUTRAL),
        )
    ),
    st.integers(0, 60),
    st.sampled_from((1.0, 800.0, 801.0, 2000.0)),
)
STEPS = st.lists(
    st.one_of(ENDS, ENDS, ENDS, ENDS, st.sampled_from(("edit", "pause", "resume", "rest"))),
    max_size=40,
)


@pytest.mark.parametrize("kind", list(PLACES))
@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_a_schedule_learns_what_the_model_says(
    kind: str, steps: list[tuple[FailureReason | None, int, float] | str]
):
    model = Model()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = PLACES[kind](folder, stack)
        place.keep(minutely(catch_up=CatchUp.NONE, max_run_duration_s=RUNTIME_S))
        for step in steps:
            place.advance(INTERVAL_S)
            if step == "edit":
                change(place, max_turns_set_at=place.now())
                model.set_at = place.now()
            elif step == "pause":
                change(place, state=ScheduleState.PAUSED, next_fire_at=found(place).next_fire_at)
                model.is_paused = True
            elif step == "resume" and model.is_paused:
                soon = place.now() + timedelta(seconds=INTERVAL_S)
                change(place, state=ScheduleState.ACTIVE, next_fire_at=soon)
                model.resume()
            elif isinstance(step, tuple):
                fire_and_end(place, model, *step)
            schedule = found(place)
            assert (schedule.state is ScheduleState.PAUSED) == model.is_paused
            assert (
                *(schedule.failure_streak, schedule.breach_streak, schedule.drift_streak),
                schedule.average_turns,
            ) == (model.failures, model.breaches, model.drifts, model.average)


def fire_and_end(
    place: Place, model: Model, reason: FailureReason | None, turns: int, ran_s: float
) -> None:
    tasks = place.fire()
    assert bool(tasks) == (not model.is_paused)
    for task in tasks:
        lease = place.claim(task)
        assert lease is not None
        state = TaskState.DONE if reason is None else TaskState.FAILED
        if reason is FailureReason.CANCELLED:
            state = TaskState.CANCELLED
        ending = Finish(state=state, reason=reason, failures=0, turns=turns, ran_s=ran_s)
        place.end(task, lease, ending)
        model.end(reason, turns, ran_s, place.now())
