"""A tick that starts tasks: in which order things happen, and what becomes of refusals."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import (
    a_world,
    ended_as,
    let_end,
    reasons,
    run_until_running,
    started,
    states,
    the_attempt,
    the_lease,
    tick,
)

import tinyscheduler.tick
from tinyscheduler.errors import StoreError
from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import LeaseState
from tinyscheduler.model.plan import Dispatch, Proposal
from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.model.tasks import FailureReason, TaskSpec, TaskState
from tinyscheduler.policy.context import describe, understand
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.policy import ScriptedPolicy
from tinyscheduler.simulator.source import SimulatedSource, Trouble
from tinyscheduler.simulator.world import SETTINGS, SimulatedWorld
from tinyscheduler.tick.starts import MOST_REFUSED
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.simulator.machine import Process


def points_of_a_tick(world: SimulatedWorld) -> list[str]:
    seen: list[str] = []

    def note(process: Process, point: str) -> None:
        if process.program == "tick":
            seen.append(point)

    world.machine.on_point = note
    tick(world)
    return seen


def test_the_lease_exists_before_the_claim_and_the_claim_before_the_process():
    seen = points_of_a_tick(a_world())

    order = [
        "lock.create:after",
        "lease.create:before",
        "lease.create:after",
        "source.claim:before",
        "source.claim:after",
        "launch.spawn:before",
    ]
    assert [point for point in seen if point in order] == order


def test_a_started_attempt_holds_its_lock_and_says_starting_until_its_wrapper_takes_over():
    world = a_world()

    report = tick(world)

    assert started(report) == ["1"]
    assert the_lease(world).state is LeaseState.STARTING
    assert world.disk.locks["1"].holders() == (the_attempt(world).wrapper,)
    assert states(world) == {"1": TaskState.WORKING}
    assert [event.name for event in world.observer.events if event.task_id == "1"] == [
        EventName.TASK_CLAIMED,
        EventName.TASK_STARTED,
    ]


def test_a_task_that_succeeds_is_done_and_leaves_nothing_behind():
    world = a_world()
    run_until_running(world)

    world.machine.advance(10)
    report = tick(world)

    assert report.stats.leases_settled == 1
    assert states(world) == {"1": TaskState.DONE}
    assert (world.disk.leases, world.disk.locks, world.disk.results) == ({}, {}, {})
    (row,) = world.disk.ledger.values()
    assert (row.task_id, row.attempt, row.exit_code) == ("1", 1, 0)


def test_no_more_starts_than_slots_and_the_rest_is_told_why():
    world = a_world(4)

    report = tick(world)

    assert started(report) == ["1", "2"]
    assert reasons(report) == {"3": "agent_limit", "4": "agent_limit"}


def test_a_freed_slot_is_filled_by_the_same_tick():
    world = a_world(2, slots=1)
    run_until_running(world)
    world.machine.advance(10)

    assert started(tick(world)) == ["2"]


def test_a_claim_that_is_refused_leaves_nothing_and_starts_nothing():
    world = a_world(2)

    def somebody_else_was_first(process: Process, point: str) -> None:
        del process
        if point == "source.claim:before":
            world.queue.rows["1"].state = TaskState.HELD

    world.machine.on_point = somebody_else_was_first
    report = tick(world)

    assert reasons(report) == {"1": "source_refused"}
    assert started(report) == ["2"]
    assert set(world.disk.leases) == set(world.disk.locks) == {"2"}


def test_a_task_whose_lock_is_held_is_not_started():
    world = a_world(2)
    stranger = world.machine.spawn("stranger")

    def grab(process: Process, point: str) -> None:
        if point == "source.describe" and "1" not in world.disk.locks:
            held = world.wire(stranger).store.acquire("1")
            assert held is not None
        del process

    world.machine.on_point = grab
    report = tick(world)

    assert reasons(report) == {"1": "unplaced"}
    assert started(report) == ["2"]


def test_an_answer_that_gets_lost_after_the_claim_costs_a_launch_and_nothing_else():
    world = a_world()
    world.queue.trouble = Trouble.FORGETFUL

    assert started(tick(world)) == []
    world.queue.trouble = Trouble.NONE
    tick(world)

    assert world.disk.leases == {}
    row = world.queue.rows["1"]
    assert (row.state, row.attempt, row.launches) == (TaskState.WAITING, 1, 1)
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


# launches that fail


def test_a_start_that_fails_keeps_the_attempt_number_and_the_place():
    world = a_world(2, slots=1)
    world.workshop.refuse_launch = lambda task_id: "no process to spare" if task_id == "1" else None

    report = tick(world)

    row = world.queue.rows["1"]
    assert (row.state, row.attempt, row.launches) == (TaskState.WAITING, 1, 1)
    assert reasons(report)["1"] == "unplaced"
    assert report.errors[0].message.startswith("no process to spare")
    assert world.disk.ledger == {}


@pytest.mark.parametrize("how", ["refuse_launch", "refuse_prepare"])
def test_a_start_that_fails_too_often_parks_the_task_and_stops_no_other(how):
    world = a_world(2)
    setattr(world.workshop, how, lambda task_id: "broken" if task_id == "1" else None)

    for _ in range(SETTINGS.rules.max_launches):
        tick(world)
        world.machine.advance(SETTINGS.rules.retry_max_s)

    row = world.queue.rows["1"]
    assert (row.state, row.last_failure) == (TaskState.PARKED, FailureReason.SPAWN_FAILED)
    assert len(world.workshop.attempts) == 1
    assert "1" not in world.disk.leases
    assert EventName.TASK_PARKED in [event.name for event in world.observer.events]


def test_what_hinders_every_start_is_no_fault_of_any_task():
    world = a_world(3)
    world.workshop.exhaustion = "no process to spare"
    launches: list[str] = []

    def note(_process: Process, point: str) -> None:
        if point == "launch.spawn":
            launches.append(point)

    world.machine.on_point = note
    for _ in range(2 * SETTINGS.rules.max_launches):
        report = tick(world)
        assert set(reasons(report).values()) <= {"unplaced", "backing_off", "agent_limit"}
        world.machine.advance(SETTINGS.rules.retry_base_s)

    assert set(states(world).values()) == {TaskState.WAITING}
    assert {row.launches for row in world.queue.rows.values()} == {0}
    # One shows it; the others are not even tried.
    assert len(launches) == 2 * SETTINGS.rules.max_launches
    world.workshop.exhaustion = None
    let_end(world)
    assert set(states(world).values()) == {TaskState.DONE}


@pytest.mark.parametrize("launches", [0, SETTINGS.rules.max_launches - 1])
def test_a_cancellation_noted_while_a_launch_fails_is_granted_instead_of_parking(launches):
    world = a_world()
    world.workshop.refuse_launch = lambda _task_id: "no process to spare"
    world.queue.rows["1"].launches = launches

    def cancel_meanwhile(_process: Process, point: str) -> None:
        if point == "source.settle:before":
            world.queue.request_cancel("1")

    world.machine.on_point = cancel_meanwhile
    tick(world)

    assert states(world) == {"1": TaskState.CANCELLED}
    assert ended_as(world) == [(EventName.TASK_CANCELLED, "cancelled")]


def test_a_task_that_moved_on_while_its_launch_failed_is_not_given_back():
    world = a_world()
    world.workshop.refuse_launch = lambda _task_id: "no process to spare"

    def take_away(process: Process, point: str) -> None:
        del process
        if point == "launch.spawn":
            row = world.queue.rows["1"]
            row.state, row.lease_id = TaskState.DONE, None

    world.machine.on_point = take_away
    tick(world)

    assert states(world) == {"1": TaskState.DONE}
    assert EventName.TASK_REQUEUED not in [event.name for event in world.observer.events]
    assert world.disk.leases == {}


def test_a_source_that_fails_while_a_failed_launch_is_given_back_loses_nothing():
    world = a_world()
    world.workshop.refuse_launch = lambda _task_id: "no process to spare"

    def go_down(process: Process, point: str) -> None:
        del process
        if point == "launch.spawn":
            world.queue.trouble = Trouble.DOWN

    world.machine.on_point = go_down
    tick(world)
    world.machine.on_point = lambda _process, _point: None
    world.queue.trouble = Trouble.NONE
    world.workshop.refuse_launch = lambda _task_id: None

    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


# the disk refuses


def test_nothing_starts_whose_lease_cannot_be_written_and_what_runs_goes_on():
    world = a_world(script=Script(runs_s=300))
    running = run_until_running(world)
    world.queue.add(TaskSpec(agent="alpha"))
    world.disk.refusal = Refusal.BYTES

    for _ in range(4):
        report = tick(world)
        assert started(report) == []
        # Nor can it be remembered that somebody was told of the second one waiting.
        assert [error.where for error in report.errors] == ["task 2", "scheduling memory"]
        world.machine.advance(60)

    assert running.is_live
    world.disk.refusal = Refusal.NOTHING
    let_end(world)
    assert states(world) == {"1": TaskState.DONE, "2": TaskState.DONE}


def test_a_read_only_disk_lets_no_tick_begin_and_ends_nothing():
    world = a_world(script=Script(runs_s=300))
    running = run_until_running(world)
    world.disk.kicks["kick"] = ""
    world.disk.refusal = Refusal.EVERYTHING

    for _ in range(4):
        world.run_ticks()
        world.machine.advance(60)

    assert len(world.failures) == 4
    assert running.is_live
    world.disk.refusal = Refusal.NOTHING
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


# one failure stops nothing else


def test_a_bug_met_with_one_task_stops_no_other():
    world = a_world(3, slots=3)
    world.settings = replace(world.settings, agents=(an_agent_with(limit=3),))

    def stumble(task_id: str) -> str | None:
        if task_id == "2":
            raise ZeroDivisionError(task_id)
        return None

    world.workshop.refuse_prepare = stumble
    report = tick(world)

    assert started(report) == ["1", "3"]
    assert reasons(report) == {"2": "unplaced"}
    assert [error.where for error in report.errors] == ["task 2"]
    assert "ZeroDivisionError" in report.errors[0].message
    assert "2" not in world.disk.leases


def an_agent_with(*, limit: int) -> AgentProfile:
    return AgentProfile(name="alpha", queue="work", limit=limit)


def test_a_task_that_is_gone_when_it_is_described_stops_no_other():
    class Vanishing(SimulatedSource):
        def describe(self, task_id: str) -> TaskSpec:
            if task_id == "1":
                message = "task 1 is not in the queue"
                raise StoreError(message)
            return super().describe(task_id)

    world = a_world(2)
    world.rewire = lambda ports, process: replace(ports, sources=(Vanishing(process, world.queue),))

    report = tick(world)

    assert started(report) == ["2"]
    assert [error.where for error in report.errors] == ["start of task 1"]


def test_a_task_that_can_never_be_described_is_parked_after_some_tries():
    class Unreadable(SimulatedSource):
        def describe(self, task_id: str) -> TaskSpec:
            message = f"what task {task_id} asks for is unreadable"
            raise StoreError(message)

    world = a_world()
    world.rewire = lambda ports, process: replace(
        ports, sources=(Unreadable(process, world.queue),)
    )

    for _ in range(SETTINGS.rules.max_launches):
        tick(world)
        world.machine.advance(SETTINGS.rules.retry_max_s)

    assert states(world) == {"1": TaskState.PARKED}


def test_the_slot_of_a_start_that_fails_goes_to_the_next_in_the_same_tick():
    world = a_world(3, slots=1)
    world.workshop.refuse_launch = lambda task_id: "broken" if task_id in {"1", "2"} else None

    report = tick(world)

    assert started(report) == ["3"]
    assert reasons(report) == {"1": "unplaced", "2": "unplaced"}
    assert len(report.decisions) == 3


def test_a_tick_gives_up_looking_after_many_starts_that_fail():
    world = a_world(5 * MOST_REFUSED, slots=1)
    world.workshop.refuse_launch = lambda _task_id: "broken"

    tick(world)

    tried = [row for row in world.queue.rows.values() if row.launches]
    assert MOST_REFUSED < len(tried) <= MOST_REFUSED + 2


def test_a_start_that_fails_is_not_tried_again_at_once_however_often_somebody_ticks():
    world = a_world()
    world.workshop.refuse_launch = lambda _task_id: "no process to spare just now"

    for _ in range(2 * SETTINGS.rules.max_launches):
        tick(world)

    row = world.queue.rows["1"]
    assert (row.state, row.launches) == (TaskState.WAITING, 1)


# stagger


def test_what_ends_while_a_tick_waits_for_the_next_start_is_settled_at_once():
    world = a_world(2, slots=2, stagger_s=50.0, kicks=True, script=Script(runs_s=1))
    before_ns = world.machine.monotonic_ns

    world.tick()

    settled = next(
        event for event in world.observer.events if event.name is EventName.TASK_FINISHED
    )
    first = next(iter(world.workshop.attempts.values()))
    assert settled.task_id == first.lease.task_id
    assert (settled.at - first.lease.started_at).total_seconds() < 5
    assert world.machine.monotonic_ns - before_ns >= 45e9


def test_starts_are_staggered_and_the_first_waits_for_nothing():
    world = a_world(2, stagger_s=5.0)
    before_ns = world.machine.monotonic_ns

    report = tick(world)

    assert started(report) == ["1", "2"]
    first, second = (one.lease.monotonic_started_ns for one in world.workshop.attempts.values())
    assert first == before_ns
    assert second - first == pytest.approx(5e9, rel=1e-6)


def test_a_stagger_longer_than_the_budget_leaves_the_rest_to_the_next_tick():
    world = a_world(2, stagger_s=60.0, budget_s=50.0)

    report = tick(world)

    assert started(report) == ["1"]
    assert reasons(report) == {"2": "staggered"}
    world.machine.advance(55)
    assert started(tick(world)) == ["2"]


def test_the_stagger_is_remembered_between_ticks_but_not_across_a_reboot():
    world = a_world(2, stagger_s=60.0, budget_s=50.0)
    tick(world)

    assert reasons(tick(world)) == {"2": "staggered"}

    world.machine.reboot(1)
    report = tick(world)
    assert started(report) == ["1"]
    assert reasons(report) == {"2": "staggered"}


def test_a_last_start_that_is_yet_to_come_holds_up_nothing():
    world = a_world(stagger_s=5.0)
    now = world.machine.now()
    world.disk.memory = SchedulingMemory(
        last_start_ns=now.monotonic_ns + 10**18, last_start_boot_id=now.boot_id
    )

    assert started(tick(world)) == ["1"]


def test_capacity_is_looked_at_again_before_a_start_that_waited():
    world = a_world(3, stagger_s=5.0, slots=3)
    world.settings = replace(world.settings, agents=(an_agent_with(limit=3),))

    def cancel_meanwhile(process: Process, point: str) -> None:
        del process
        if point == "clock.sleep" and world.state("2") is TaskState.WAITING:
            world.queue.request_cancel("2")

    world.machine.on_point = cancel_meanwhile

    assert started(tick(world)) == ["1", "3"]


def test_a_tick_that_is_asked_to_end_starts_nothing_more_after_its_sleep():
    world = a_world(2, stagger_s=5.0)
    process = world.machine.spawn("tick")

    report = tinyscheduler.tick.tick(
        world.wire(process), world.settings, should_stop=lambda: bool(world.workshop.attempts)
    )

    assert started(report) == ["1"]
    assert reasons(report) == {"2": "unplaced"}


def test_a_tick_that_is_asked_to_stop_starts_nothing_more():
    world = a_world(2)
    process = world.machine.spawn("tick")

    report = tinyscheduler.tick.tick(
        world.wire(process), world.settings, should_stop=lambda: bool(world.workshop.attempts)
    )

    assert started(report) == ["1"]
    assert reasons(report) == {"2": "unplaced"}
    assert report.stats.tasks_spawned == 1


# policies


def told_to(world: SimulatedWorld, answer: Sequence[Proposal]) -> SimulatedWorld:
    world.policy = ScriptedPolicy(lambda _context: answer, name="odd")
    return world


def test_a_policy_that_proposes_nonsense_is_replaced_for_this_tick_and_loudly():
    world = a_world()
    with_other_agent = Proposal(task=waiting(world, "1"), agent="nobody")

    report = tick(told_to(world, [with_other_agent]))

    assert started(report) == ["1"]
    assert (report.policy, report.policy_fallback) == ("platform", "refused")
    (warning,) = report.warnings
    assert warning == (
        "policy odd: it proposed agent nobody for task 1; the platform policy decides instead"
    )
    assert report.errors == ()


def test_a_policy_that_proposes_a_task_that_does_not_wait_is_replaced():
    world = a_world(2)
    foreign = replace(waiting(world, "2"), task_id="77")

    report = tick(told_to(world, [Proposal(task=foreign, agent="alpha")]))

    assert report.policy == "platform"
    assert started(report) == ["1", "2"]


def test_no_policy_can_exceed_a_cap():
    world = a_world(4)

    def greedy(context: PolicyContext) -> Sequence[Proposal]:
        return [Proposal(task=task, agent="alpha") for task in context.waiting]

    world.policy = ScriptedPolicy(greedy)
    report = tick(world)

    assert started(report) == ["1", "2"]
    assert report.policy == "scripted"
    assert world.auditor.violations == []


def two_queues(*, agent: str = "alpha", slots: int = 2) -> SimulatedWorld:
    """Return a world whose two sources have two tasks each, of the same ids."""
    world = a_world(2, slots=slots)
    other = world.add_queue("other", prefix="")
    for _ in range(2):
        other.add(TaskSpec(agent=agent, command=("work",)))
    return world


def all_done(world: SimulatedWorld) -> bool:
    return all(row.state is TaskState.DONE for queue in world.queues for row in queue.rows.values())


@pytest.mark.parametrize("agent", ["alpha", "beta"])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_tasks_of_two_sources_that_have_the_same_ids_all_run(agent: str, slots: int):
    world = two_queues(agent=agent, slots=slots)

    reports = []
    for _ in range(8):
        reports.append(tick(world))
        world.machine.advance(20)

    assert all_done(world)
    assert {(one.policy, one.policy_fallback) for one in reports} == {("platform", None)}
    assert [one.warnings for one in reports if one.warnings] == []
    world.run_ticks()
    world.auditor.note_quiet()
    assert world.auditor.violations == []


def test_a_policy_means_the_task_that_it_was_told_of_whatever_others_are_called():
    world = two_queues(agent="beta")

    def last_of_the_other(context: PolicyContext) -> Sequence[Proposal]:
        told = [one["id"] for one in describe(context)["queue"] if one["source"] == "other"]
        decisions = [{"action": "dispatch", "job_id": name} for name in told[-1:]]
        text = json.dumps({"decisions": decisions, "log": [], "metrics": {}})
        return understand(text, context).proposals

    world.policy = ScriptedPolicy(last_of_the_other)
    report = tick(world)

    (start,) = (one for one in report.decisions if isinstance(one, Dispatch))
    assert (start.task.source, start.task.task_id) == ("other", "2")
    assert report.policy_fallback is None


def test_a_policy_that_chooses_nothing_is_obeyed():
    report = tick(told_to(a_world(), []))

    assert reasons(report) == {"1": "policy_wait"}
    assert report.policy == "odd"


def waiting(world: SimulatedWorld, task_id: str):
    process = world.machine.spawn("reader")
    view = SimulatedSource(process, world.queue).look(window=9)
    return next(task for task in view.waiting if task.task_id == task_id)


# what is not due


def test_nothing_starts_while_scheduling_is_switched_off():
    report = tick(a_world(is_enabled=False))

    assert reasons(report) == {"1": "paused"}


def test_a_blocked_task_starts_once_its_blocker_is_done():
    world = a_world()
    world.queue.add(TaskSpec(agent="alpha", after=("1",)))

    report = tick(world)
    assert reasons(report) == {"2": "blocked_by"}
    assert report.stats.tasks_blocked == 1

    let_end(world)
    assert states(world) == {"1": TaskState.DONE, "2": TaskState.DONE}


def test_a_failed_attempt_backs_off_and_then_runs_as_the_next_number():
    world = a_world(scripts={("1", 1): Script(runs_s=1, exit_code=3)})
    run_until_running(world)
    world.machine.advance(1)

    assert reasons(tick(world)) == {"1": "backing_off"}
    world.machine.advance(6)
    assert started(tick(world)) == ["1"]

    let_end(world)
    assert [row.attempt for row in world.disk.ledger.values()] == [1, 2]
    assert states(world) == {"1": TaskState.DONE}


def test_a_task_that_fails_every_time_is_parked_after_its_last_attempt():
    world = a_world(script=Script(runs_s=1, exit_code=3))

    let_end(world)

    assert states(world) == {"1": TaskState.PARKED}
    assert [row.attempt for row in world.disk.ledger.values()] == [1, 2, 3]


def test_the_report_of_a_tick_counts_what_it_did():
    world = a_world(3)
    world.queue.add(TaskSpec(queue="work", not_before=world.machine.wall + timedelta(hours=1)))

    stats = tick(world).stats

    assert (stats.tasks_spawned, stats.assigned_spawned, stats.unassigned_matched) == (2, 2, 0)
    assert stats.tasks_waiting == 2
