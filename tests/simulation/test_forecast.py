"""A load played under a policy: real ticks, and figures that can be worked out by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy.asking import a_policy

from tinyscheduler.app.forecasting import OwnContender
from tinyscheduler.errors import BusyError, PolicyError, StoreError
from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.plan import Proposal
from tinyscheduler.model.resources import Gpu, GpuReading
from tinyscheduler.model.snapshot import Skips
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.simulator.forecast.figures import (
    compare_starts,
    measure,
    running_on_average,
    waiting_over_time,
)
from tinyscheduler.simulator.forecast.generate import Shape, generate, made_up_site
from tinyscheduler.simulator.forecast.load import Job, Load, Site, Trial
from tinyscheduler.simulator.forecast.play import AttemptCourse, Course, TaskCourse, play
from tinyscheduler.simulator.policy import ScriptedPolicy
from tinyscheduler.simulator.world import SETTINGS
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.ports import Policy

GIB = 1 << 30
MONDAY = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
# What a start takes on the simulated machine, and a tick that follows an arrival.
SOON_S = 0.5


class Platform:
    """The platform policy."""

    name, version = "platform", ""

    def find(self) -> Policy | None:
        return None


class Own:
    """A policy that is a function, found anew for each tick."""

    name, version = "own", "1"

    def __init__(self, script: Callable[[PolicyContext], Sequence[Proposal]]) -> None:
        self._policy = ScriptedPolicy(script)
        self.found = 0

    def find(self) -> Policy | None:
        self.found += 1
        return self._policy


def site(slots: int = 1, gpus: int = 0) -> Site:
    """Return a machine with one agent that may fill it."""
    return Site(
        settings=replace(
            SETTINGS,
            agents=(AgentProfile(name="alpha", queue="work", limit=slots),),
            rules=replace(SETTINGS.rules, host_slots=slots),
            window=50,
        ),
        memory_bytes=slots * 2 * GIB,
        gpus=GpuReading(
            gpus=tuple(
                Gpu(index=index, uuid=f"GPU-{index}", name="sample", total_bytes=24 * GIB)
                for index in range(gpus)
            )
        ),
    )


def job(name: str, arrives_s: float = 0.0, runs_s: float = 100.0, **spec: object) -> Job:
    return Job(
        name=name,
        spec=TaskSpec(agent="alpha", command=("work",), memory_bytes=GIB, **spec),  # type: ignore[arg-type]  # each is named as a field is
        arrives_s=arrives_s,
        trials=(Trial(runs_s=runs_s),),
    )


def load(*jobs: Job, slots: int = 1, gpus: int = 0, begins_at: datetime = MONDAY) -> Load:
    return Load(kind="test", words="a test", begins_at=begins_at, site=site(slots, gpus), jobs=jobs)


def starts(course: Course) -> dict[str, float | None]:
    return {one.name: one.started_s for one in course.tasks}


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=SOON_S)


# -- playing --------------------------------------------------------------------------


def test_tasks_start_one_after_the_other_where_there_is_one_slot():
    course = play(load(job("a"), job("b", 10.0), job("c", 20.0, runs_s=30.0)), Platform())

    assert starts(course) == {"a": about(0), "b": about(100), "c": about(200)}
    assert course.ended_s == about(230)
    assert [one.name for one in course.attempts] == ["a", "b", "c"]


def test_a_task_is_ready_when_what_it_comes_after_is_done_and_when_it_asked_to_wait():
    late = MONDAY + timedelta(hours=1)
    jobs = (job("a"), job("b", after=("a",)), job("c", not_before=late))
    course = play(load(*jobs, slots=3), Platform())

    ready = {one.name: one.ready_s for one in course.tasks}
    assert ready == {"a": 0.0, "b": about(100), "c": about(3600)}
    # The one that waits for a time is seen by the next tick after it.
    assert starts(course) == {"a": about(0), "b": about(100), "c": pytest.approx(3630, abs=31)}


def test_without_kicks_each_minute_sees_what_came_and_what_ended():
    plain = load(job("a", 10.0, runs_s=3.5 * 3600), job("b", 20.0, after=("a",)))
    settings = replace(plain.site.settings, heeds_ends=False, max_runtime_s=86_400.0)
    course = play(replace(plain, site=replace(plain.site, settings=settings)), Platform())

    a, b = course.tasks
    assert (a.started_s, b.started_s) == (about(60), about(60 + 3.5 * 3600 + 60))
    assert course.ended_s == about(60 * math.ceil(course.attempts[1].ended_s / 60))


def test_what_failed_is_tried_again_after_its_backoff_and_holds_a_slot_each_time():
    failing = replace(job("a"), trials=(Trial(runs_s=50.0, exit_code=1), Trial(runs_s=70.0)))
    course = play(load(failing), Platform())

    first, second = course.attempts
    assert first.ended_s - first.started_s == about(50)
    assert second.ended_s - second.started_s == about(70)
    assert second.started_s - first.ended_s >= SETTINGS.rules.retry_base_s
    assert course.tasks[0].started_s == first.started_s
    assert course.tasks[0].ended_s == about(second.ended_s)


def test_a_task_comes_no_earlier_than_what_it_comes_after():
    # One was held when the other was added, or was named only later.
    course = play(load(job("b", after=("a",)), job("a", 500.0), slots=3), Platform())

    assert starts(course) == {"a": about(500), "b": about(600)}
    assert {one.name: one.ready_s for one in course.tasks} == {"a": 500.0, "b": about(600)}


def test_tasks_that_come_at_once_keep_their_places_but_for_what_they_come_after():
    jobs = (job("b", after=("d",)), job("a"), job("d"), job("c"))
    course = play(load(*jobs), Platform())

    # By the number that blocks most, then by age: b is older than c once it may start.
    assert list(starts(course)) == ["a", "d", "b", "c"]
    assert sorted(starts(course), key=lambda name: starts(course)[name] or 0) == list("dabc")


@pytest.mark.parametrize(
    "wish",
    [
        pytest.param(timedelta(hours=5, seconds=90), id="when nothing has changed for long"),
        pytest.param(timedelta(days=10), id="when anything else would have been given up"),
    ],
)
def test_what_asked_to_wait_for_a_time_starts_in_the_minute_after_it(wish: timedelta):
    course = play(load(job("a", not_before=MONDAY + wish)), Platform())

    (task,) = course.tasks
    assert task.ready_s == wish.total_seconds()
    assert 0 <= (task.started_s or 0.0) - wish.total_seconds() <= 61
    assert measure(course).waits.max_s <= 61


def test_nobody_waits_for_what_comes_after_a_task_that_was_parked():
    failing = replace(job("a", runs_s=10.0), trials=(Trial(runs_s=10.0, exit_code=1),) * 3)
    course = play(load(failing, job("b", after=("a",)), job("c", after=("b",))), Platform())

    assert starts(course) == {"a": about(0), "b": None, "c": None}
    assert course.ended_s < 600


def test_what_runs_at_the_beginning_runs_from_there_on_however_starts_are_spread():
    """Of twelve starts ten seconds apart a tick would begin but a few."""
    busy = [replace(job(f"busy {n}", runs_s=500.0), is_running=True) for n in range(12)]
    plain = load(*busy, job("a"), slots=12)
    place = replace(plain.site, settings=replace(plain.site.settings, stagger_s=10.0))
    course = play(replace(plain, site=place), Platform())

    assert starts(course) == {"a": about(500)}


def test_what_runs_without_a_slot_keeps_none_from_others():
    busy = [replace(job(f"busy {n}", runs_s=500.0), is_running=True) for n in range(3)]
    course = play(load(*busy, job("a")), Platform())

    # The limit is one by now.
    assert starts(course) == {"a": about(500)}


def test_a_tick_that_fails_is_no_forecast():
    class Broken(Platform):
        def find(self) -> Policy | None:
            message = "the disk is gone"
            raise StoreError(message)

    with pytest.raises(StoreError, match="the disk is gone"):
        play(load(job("a")), Broken())


def test_what_runs_at_the_beginning_holds_its_slot_and_is_not_measured():
    busy = replace(job("busy", runs_s=500.0), is_running=True)
    course = play(load(busy, job("a")), Platform())

    assert starts(course) == {"a": about(500)}
    assert [one.name for one in course.attempts] == ["a"]


def test_a_policy_that_starts_nothing_is_given_up_after_more_than_a_week():
    policy = Own(lambda _context: ())
    course = play(load(job("a"), job("b")), policy)

    assert starts(course) == {"a": None, "b": None}
    assert course.ended_s > 7 * 86_400
    assert measure(course).never_started == 2
    # The longer nothing happens the less often it is asked: not each minute of all that time.
    assert 1000 < policy.found < 2000


def test_the_time_of_day_is_that_of_the_load():
    evening = Own(
        lambda context: (
            [Proposal(task=one, agent="alpha") for one in context.waiting]
            if context.now.hour >= 18
            else []
        )
    )
    course = play(load(job("a")), evening)

    # It begins at nine, and it is looked each ten minutes by then.
    assert starts(course)["a"] == pytest.approx(9 * 3600, abs=601)


def test_a_policy_that_fails_is_counted_and_the_platform_decides():
    def fail(_context: PolicyContext) -> Sequence[Proposal]:
        message = "it broke"
        raise PolicyError(message, cause="error")

    course = play(load(*(job(str(number)) for number in range(6))), Own(fail))

    assert [(one.cause, one.words) for one in course.faults] == [("error", "it broke")]
    # It is given up after three, as by real ticks.
    assert course.faults[0].times == 3
    assert None not in starts(course).values()


def test_a_policy_that_this_machine_gives_no_time_is_not_judged(tmp_path: Path):
    """What would come of it is a matter of the moment."""
    hurried = a_policy(tmp_path, "function schedule() return {} end", start_ms=1)

    with pytest.raises(BusyError, match=r"p\.lua cannot be tried on a machine so busy"):
        play(load(*(job(str(number)) for number in range(3))), OwnContender(hurried, 50))


def test_a_policy_is_found_anew_by_each_tick():
    policy = Own(lambda context: [Proposal(task=context.waiting[0], agent="alpha")])
    course = play(load(*(job(str(number)) for number in range(5))), policy)

    assert None not in starts(course).values()
    assert policy.found >= 5


def test_ticks_remember_what_the_load_says_of_its_tasks():
    # The large one was overtaken as often as it may be: nothing goes before it any more.
    jobs = (
        replace(job("busy", runs_s=300.0, gpus=1), is_running=True),
        job("large", gpus=1),
        job("small", 0.0, runs_s=1000.0, vram_bytes=GIB),
    )
    plain = load(*jobs, slots=3, gpus=1)
    times = SETTINGS.rules.max_skips
    skips = (Skips(source="elsewhere", task_id="large", times=times),)
    memory = replace(plain.memory, skips=skips)
    course = play(replace(plain, memory=memory), Platform())

    assert starts(course)["large"] == about(300)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(1, 10_000), depth=st.integers(1, 4))
def test_the_same_comes_of_the_same_and_no_cap_is_ever_exceeded(seed: int, depth: int):
    shape = Shape(pools=2, workers_per_pool=2)
    made = generate(made_up_site(shape, SETTINGS), queue_depth=depth, seed=seed)
    course = play(made, Platform())

    assert play(made, Platform()) == course
    assert len(course.tasks) == 10 * depth
    assert None not in starts(course).values()
    for at_s in {one.started_s for one in course.attempts}:
        living = [one for one in course.attempts if one.started_s <= at_s < one.ended_s]
        assert len(living) <= 4
        assert sum(one.gpu_share for one in living) <= 2 + 1e-9
        assert all(sum(one.agent == name for one in living) <= 2 for name in ("pool-1", "pool-2"))


def test_another_seed_makes_another_load():
    shape = Shape(pools=1, workers_per_pool=4)
    place = made_up_site(shape, SETTINGS)

    assert generate(place, queue_depth=3, seed=1) == generate(place, queue_depth=3, seed=1)
    assert generate(place, queue_depth=3, seed=1) != generate(place, queue_depth=3, seed=2)


def test_a_made_up_task_ends_before_it_would_be_ended():
    place = made_up_site(Shape(pools=2, workers_per_pool=4), replace(SETTINGS, max_runtime_s=600.0))
    made = generate(place, queue_depth=20, seed=1)

    assert 590 < max(one.runs_s for job in made.jobs for one in job.trials) < 600
    course = play(made, Platform())
    assert len(course.attempts) == sum(len(one.trials) for one in made.jobs)


def test_a_gpu_that_cannot_be_seen_is_not_asked_for():
    place = made_up_site(Shape(pools=1, workers_per_pool=2), SETTINGS)
    broken = replace(place.gpus.gpus[0], fault="fell off the bus")
    made = generate(replace(place, gpus=GpuReading(gpus=(broken,))), queue_depth=5, seed=1)

    assert not any(one.spec.gpus or one.spec.vram_bytes for one in made.jobs)


# -- figures --------------------------------------------------------------------------


def task(name: str, ready_s: float | None, started_s: float | None, **more: object) -> TaskCourse:
    fields: dict[str, object] = {
        "title": None,
        "agent": "alpha",
        "tenant": None,
        "ended_s": None if started_s is None else started_s + 100.0,
        "runs_s": 100.0,
        **more,
    }
    return TaskCourse(name=name, ready_s=ready_s, started_s=started_s, **fields)  # type: ignore[arg-type]  # each is named as a field is


def course_of(*tasks: TaskCourse, ended_s: float = 1000.0, slots: int = 2, gpus: int = 1) -> Course:
    return Course(
        policy="one",
        version="",
        load=load(slots=slots, gpus=gpus),
        tasks=tasks,
        attempts=(
            AttemptCourse(name="a", agent="alpha", started_s=0.0, ended_s=500.0, gpu_share=0.5),
            AttemptCourse(name="b", agent="alpha", started_s=250.0, ended_s=750.0, gpu_share=0.0),
        ),
        ended_s=ended_s,
    )


def test_waits_are_told_by_nearest_rank_and_slowdown_is_bounded():
    tasks = [task(str(wait), 0.0, float(wait)) for wait in (0, 100, 200, 400)]
    tasks.append(task("short", 0.0, 90.0, runs_s=1.0))
    found = measure(course_of(*tasks)).waits

    assert (found.tasks, found.p50_s, found.p95_s, found.max_s) == (5, 100.0, 400.0, 400.0)
    assert found.mean_s == pytest.approx(158.0)
    # 100 seconds of work each: 1, 2, 3, 5; and of the short one (90 + 1) / 10.
    assert found.slowdown == pytest.approx((1 + 2 + 3 + 5 + 9.1) / 5)


def test_whoever_never_started_has_waited_to_the_end():
    found = measure(course_of(task("a", 0.0, 0.0), task("b", 400.0, None)))

    assert (found.never_started, found.starved) == (1, 1)
    assert found.waits.max_s == 600.0


def test_whoever_waits_for_what_is_never_done_is_no_fault_of_a_policy_but_is_told():
    found = measure(course_of(task("a", 0.0, 0.0), task("b", None, None)))

    assert (found.waits.tasks, found.never_started) == (1, 1)


@pytest.mark.parametrize(
    ("waits", "starved"),
    [
        pytest.param((10.0, 10.0, 3600.0), 0, id="an hour is not too long"),
        pytest.param((10.0, 10.0, 3601.0), 1, id="more is"),
        pytest.param((600.0, 600.0, 5999.0), 0, id="where all wait it is ten times the median"),
        pytest.param((600.0, 600.0, 6001.0), 1, id="more than that"),
    ],
)
def test_starved_is_who_waits_long_and_much_longer_than_others(
    waits: tuple[float, ...], starved: int
):
    tasks = [task(str(number), 0.0, wait) for number, wait in enumerate(waits)]

    assert measure(course_of(*tasks, ended_s=10_000.0)).starved == starved


def test_beside_another_course_starved_is_who_would_be_there():
    good = measure(course_of(task("a", 0.0, 10.0), task("b", 0.0, 20.0)))
    bad = course_of(task("a", 0.0, 4000.0), task("b", 0.0, 4000.0), ended_s=5000.0)

    assert measure(bad).starved == 0
    assert measure(bad, beside=good).starved == 2


def test_use_is_the_share_of_what_there_was():
    found = measure(course_of())

    # From the beginning to the end of the last attempt.
    assert found.slots_used == pytest.approx(1000.0 / (2 * 750.0))
    assert found.gpus_used == pytest.approx(0.5 * 500.0 / 750.0)
    assert measure(course_of(gpus=0)).gpus_used is None


def test_days_of_waiting_for_what_never_starts_are_no_time_in_which_slots_were_free():
    found = measure(course_of(task("a", 0.0, 0.0), task("b", 0.0, None), ended_s=700_000.0))

    assert found.slots_used == pytest.approx(1000.0 / (2 * 750.0))


def test_fairness_is_jains_index_over_the_mean_slowdowns():
    tasks = (
        task("a", 0.0, 0.0, tenant="red"),
        task("b", 0.0, 200.0, tenant="blue"),
        task("c", 0.0, 0.0, tenant="red"),
    )
    found = measure(course_of(*tasks))

    # Slowdowns of 1 and 3.
    assert found.fairness_tenants == pytest.approx(16 / (2 * 10))
    assert found.fairness_agents is None
    assert {name: one.tasks for name, one in found.tenants.items()} == {"blue": 1, "red": 2}


def test_of_nothing_nothing_is_told():
    found = measure(replace_ended(course_of(), 0.0))

    assert (found.waits.tasks, found.waits.max_s, found.slots_used) == (0, 0.0, 0.0)


def replace_ended(course: Course, ended_s: float) -> Course:
    return replace(course, ended_s=ended_s, attempts=())


def test_what_starts_earlier_and_later_is_told_the_furthest_first():
    before = course_of(
        task("a", 0.0, 10.0), task("b", 0.0, 20.0), task("c", 0.0, 30.0), task("d", 0.0, None)
    )
    after = course_of(
        task("a", 0.0, 10.5), task("b", 0.0, 500.0), task("c", 0.0, None), task("d", 0.0, 400.0)
    )
    moves = compare_starts(before, after)

    assert [(one.name, one.later_s) for one in moves.later] == [("c", 970.0), ("b", 480.0)]
    assert [(one.name, one.later_s) for one in moves.earlier] == [("d", -600.0)]
    assert moves.same == 1


def test_waiting_and_running_over_time():
    course = course_of(task("a", 0.0, 10.0), task("b", 5.0, 10.0), task("c", 50.0, None))

    assert waiting_over_time(course) == [(0.0, 1), (5.0, 2), (10.0, 0), (50.0, 1)]
    assert running_on_average(course, 250.0) == [1.0, 2.0, 1.0, 0.0]


@given(ended_s=st.floats(1.0, 1e6))
def test_a_time_in_so_many_parts_has_so_many(ended_s: float):
    assert len(running_on_average(course_of(ended_s=ended_s), ended_s / 120)) == 120
