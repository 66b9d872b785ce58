"""A tick that finds attempts ended, dead, hung or gone: what it ends and what it leaves alone."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import (
    FAILS,
    HEARTBEAT_S,
    STALE_S,
    TEN_SECONDS,
    a_world,
    ended_as,
    let_end,
    reasons,
    reclaimed,
    run_until_running,
    started,
    states,
    the_attempt,
    the_lease,
    tick,
)

import tinyscheduler.tick
from tinyscheduler.model.config import OnExpire
from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import LeaseState
from tinyscheduler.model.tasks import FailureReason, Outcome, TaskState
from tinyscheduler.simulator.attempts import Child, Script
from tinyscheduler.simulator.clock import SimulatedClock
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.source import Trouble
from tinyscheduler.simulator.tick_lock import KICK
from tinyscheduler.tick import foresee
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld

LONG = Script(runs_s=1000)
NEWER = '{"version": 99}'
GARBAGE = ["", "{", "[]", "\x00\x00", '{"version": 1}']


# wrappers that died


def test_a_dead_wrapper_is_reclaimed_and_its_task_runs_again_as_the_next_attempt():
    world = a_world()
    attempt = run_until_running(world)

    world.machine.kill(attempt.wrapper)
    report = tick(world)

    assert reclaimed(report) == {"1": "dead_pid"}
    assert not attempt.is_live
    (row,) = world.disk.ledger.values()
    assert (row.outcome, row.failure_reason) == (Outcome.FAILED, FailureReason.DEAD_PID)
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}
    assert [row.attempt for row in world.disk.ledger.values()] == [1, 2]


@pytest.mark.parametrize("holds_lock", [True, False])
def test_what_a_dead_wrapper_left_running_is_ended_before_the_task_runs_again(holds_lock):
    child = Child(starts_after_s=0.1, runs_s=900, holds_lock=holds_lock, ignores_term=True)
    world = a_world(script=Script(runs_s=500, children=(child,)))
    attempt = run_until_running(world)

    world.machine.kill(attempt.wrapper)
    assert attempt.is_live
    report = tick(world)

    assert not attempt.is_live
    assert reclaimed(report) == {"1": "dead_pid"}
    assert reasons(report) == {"1": "backing_off"}
    let_end(world)


def test_a_process_that_cannot_be_killed_yet_keeps_its_slot():
    child = Child(starts_after_s=0.1, runs_s=900, stuck_s=120)
    world = a_world(2, slots=1, script=Script(runs_s=500, children=(child,)))
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)

    report = tick(world)

    assert attempt.is_live
    assert "1" in world.disk.leases
    assert reasons(report)["2"] == "host_slots"
    assert any("did not end yet" in warning for warning in report.warnings)
    world.machine.advance(120)
    assert reclaimed(tick(world)) == {"1": "dead_pid"}
    let_end(world)


def test_a_wrapper_that_dies_before_its_command_starts_costs_a_launch_and_no_attempt():
    world = a_world()
    tick(world)

    world.machine.kill(the_attempt(world).wrapper)
    report = tick(world)

    assert reclaimed(report) == {"1": "never_started"}
    assert world.queue.rows["1"].launches == 1
    assert world.disk.ledger == {}
    assert reasons(report) == {"1": "backing_off"}
    let_end(world)
    assert [row.attempt for row in world.disk.ledger.values()] == [1]


def test_a_wrapper_that_always_dies_early_parks_its_task():
    world = a_world()

    for _ in range(world.settings.rules.max_launches):
        tick(world)
        world.machine.kill(the_attempt(world).wrapper)
        tick(world)
        world.machine.advance(world.settings.rules.retry_max_s)

    row = world.queue.rows["1"]
    assert (row.state, row.last_failure) == (TaskState.PARKED, FailureReason.SPAWN_FAILED)


def test_a_start_that_hangs_counts_as_a_launch_and_not_as_a_failed_attempt():
    world = a_world()
    tick(world)
    world.machine.stop(the_attempt(world).wrapper)

    reports: list[TickReport] = []
    while not any(map(reclaimed, reports)):
        world.machine.advance(STALE_S)
        reports.append(tick(world))

    assert len(reports) <= 3
    row = world.queue.rows["1"]
    assert (row.launches, row.failures, row.attempt) == (1, 0, 1)
    assert world.disk.ledger == {}


# requests to cancel


def test_a_cancellation_that_only_the_queue_knows_of_reaches_the_attempt():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.queue.request_cancel("1")

    tick(world)
    world.machine.advance(2 * HEARTBEAT_S)
    tick(world)

    assert not attempt.is_live
    assert states(world) == {"1": TaskState.CANCELLED}
    assert world.disk.cancels == {}


def test_a_request_to_cancel_an_attempt_that_is_over_is_swept():
    world = a_world(script=LONG)
    run_until_running(world)
    world.disk.cancels["lease-of-long-ago"] = ""

    tick(world)

    assert world.disk.cancels == {}
    assert states(world) == {"1": TaskState.WORKING}


def test_a_request_to_cancel_stays_while_a_source_that_may_know_it_is_down():
    world = a_world(0)
    world.disk.cancels["lease-of-long-ago"] = ""
    world.queue.trouble = Trouble.DOWN

    tick(world)

    assert world.disk.cancels.keys() == {"lease-of-long-ago"}


def test_what_an_attempt_used_until_it_was_reclaimed_is_on_record():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.advance(99)
    half = replace(the_lease(world), gpu_uuids=("GPU-0",), gpu_share=0.5)
    world.disk.leases["1"] = json.dumps(encode_lease(half))
    world.machine.kill(attempt.wrapper)

    tick(world)

    (row,) = world.disk.ledger.values()
    assert row.started_at is not None
    assert row.gpu_s == (row.ended_at - row.started_at).total_seconds() / 2
    assert 49 < row.gpu_s <= 50


def test_while_a_machine_is_off_nothing_is_used():
    world = a_world(script=LONG)
    run_until_running(world)
    world.machine.advance(99)
    world.machine.reboot(50_000)

    tick(world)

    (row,) = world.disk.ledger.values()
    assert row.started_at is not None
    assert 99 - HEARTBEAT_S <= (row.ended_at - row.started_at).total_seconds() <= 100


def test_a_reboot_costs_no_attempt_however_often_it_happens():
    world = a_world(script=Script(runs_s=100))

    for _ in range(5):
        run_until_running(world)
        world.machine.reboot(30)
        assert reclaimed(tick(world)) == {"1": "rebooted"}

    assert world.queue.rows["1"].failures == 0
    assert {row.outcome for row in world.disk.ledger.values()} == {Outcome.INTERRUPTED}
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


# wrappers that hang


def test_a_stale_heartbeat_seen_once_ends_nothing():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    world.machine.advance(STALE_S)

    first = tick(world)
    world.machine.advance(HEARTBEAT_S - 1)
    second = tick(world)

    assert attempt.is_live
    assert first.reclaims == second.reclaims == ()


def test_a_stale_heartbeat_seen_twice_an_interval_apart_ends_the_attempt_for_good():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    world.machine.advance(STALE_S)
    tick(world)
    world.machine.advance(HEARTBEAT_S)

    report = tick(world)

    assert reclaimed(report) == {"1": "stale_heartbeat"}
    assert not attempt.is_live
    assert not attempt.wrapper.is_alive
    (row,) = world.disk.ledger.values()
    assert row.failure_reason is FailureReason.STALE_HEARTBEAT


def test_a_wrapper_that_beats_between_two_looks_is_left_alone():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    for _ in range(5):
        world.machine.stop(attempt.wrapper)
        world.machine.advance(STALE_S)
        tick(world)
        world.machine.resume(attempt.wrapper)
        world.machine.advance(1)
        tick(world)
        world.machine.advance(HEARTBEAT_S)

    assert attempt.is_live
    assert world.disk.ledger == {}


def test_a_freeze_of_everything_ends_nothing():
    world = a_world(script=LONG)
    attempt = run_until_running(world)

    for _ in range(3):
        world.machine.freeze(60)
        tick(world)  # it wakes up before the wrapper does
    world.machine.advance(30)
    tick(world)

    assert attempt.is_live
    assert world.auditor.violations == []


def test_a_freeze_between_looking_and_acting_ends_nothing():
    """The wrapper is silent for the second time, the tick freezes after it has looked."""
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.freeze(60)
    tick(world)

    def freeze_this_tick(process: Process, point: str) -> None:
        if process.program == "tick" and point == "scan.lease":
            world.machine.on_point = lambda _process, _point: None
            world.machine.advance(50)

    world.machine.on_point = freeze_this_tick
    report = tick(world)

    assert report.reclaims == ()
    assert attempt.is_live
    assert world.auditor.violations == []


@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_freeze_in_the_last_look_ends_nothing(times):
    """The wrapper was silent twice, and all freezes while the tick waits for it to beat."""
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.latency = lambda: 0.8  # it beats in time after the last freeze, not before
    world.machine.freeze(60)
    tick(world)
    left = [times]

    def freeze_all(process: Process, point: str) -> None:
        if process.program == "tick" and point == "clock.sleep" and left[0]:
            left[0] -= 1
            world.machine.schedule(0.5, lambda: world.machine.freeze(94))

    world.machine.freeze(60)
    world.machine.on_point = freeze_all
    report = tick(world)

    assert left[0] < times
    assert report.reclaims == ()
    assert attempt.is_live
    assert world.auditor.violations == []


def test_a_last_look_that_is_cut_short_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    """A daemon wakes up for any wish for a tick, before a healthy wrapper could beat."""
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.latency = lambda: 0.8
    world.machine.freeze(60)
    tick(world)
    world.machine.freeze(60)
    with monkeypatch.context() as patch:
        patch.setattr(
            SimulatedClock, "sleep", lambda clock, _: clock._process.machine.advance(0.0001)
        )
        report = tick(world)

    assert report.reclaims == ()
    assert attempt.is_live
    assert world.auditor.violations == []


def test_a_hung_attempt_is_ended_however_often_somebody_wishes_for_a_tick(
    monkeypatch: pytest.MonkeyPatch,
):
    """A daemon's sleep ends as soon as a wish lies there, and there is always one."""
    world = a_world(script=LONG)
    run_until_running(world)
    world.machine.stop(the_attempt(world).wrapper)
    world.machine.advance(60)
    tick(world)
    world.machine.advance(60)
    sleep = SimulatedClock.sleep

    def sleep_until_kicked(clock: SimulatedClock, seconds: float) -> None:
        if KICK not in world.disk.kicks:
            sleep(clock, min(seconds, 0.3))
            world.disk.kicks[KICK] = ""

    monkeypatch.setattr(SimulatedClock, "sleep", sleep_until_kicked)
    report = tick(world)

    assert reclaimed(report) == {"1": "stale_heartbeat"}
    assert states(world) == {"1": TaskState.WAITING}


def test_a_tick_that_is_asked_to_stop_in_its_last_look_ends_nothing():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    world.machine.advance(60)
    tick(world)
    world.machine.advance(60)
    process = world.machine.spawn("tick")

    report = tinyscheduler.tick.tick(world.wire(process), world.settings, should_stop=lambda: True)

    assert report.reclaims == ()
    assert attempt.is_live


@pytest.mark.parametrize("seconds", [-3600, 3600, 40_000_000])
def test_no_step_of_the_wall_clock_ends_anything(seconds):
    world = a_world(script=LONG)
    attempt = run_until_running(world)

    world.machine.step_wall(seconds)
    for _ in range(3):
        tick(world)
        world.machine.advance(60)

    assert attempt.is_live
    assert tick(world).reclaims == ()


def test_a_suspend_of_a_day_ends_nothing_and_uses_up_no_runtime():
    world = a_world(script=LONG, max_runtime_s=1200)
    attempt = run_until_running(world)

    world.machine.suspend(86_400)
    tick(world)
    world.machine.advance(30)
    tick(world)

    assert attempt.is_live
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


def test_a_polite_end_of_a_hung_wrapper_is_settled_by_its_result_and_never_run_again():
    """The wrapper thaws while it is being ended: what it records then is what counts."""
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    world.machine.advance(STALE_S)
    tick(world)
    world.machine.advance(HEARTBEAT_S)

    def thaw(process: Process, point: str) -> None:
        del process
        if point == "launch.end.term":
            world.machine.resume(attempt.wrapper)

    world.machine.on_point = thaw
    report = tick(world)

    assert report.stats.leases_settled == 1
    (row,) = world.disk.ledger.values()
    assert row.failure_reason is FailureReason.STALE_HEARTBEAT
    assert row.reclaim_reason is not None


def test_a_command_that_just_succeeded_when_its_hung_wrapper_was_ended_is_done():
    world = a_world(script=Script(runs_s=50))
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    world.machine.advance(STALE_S)
    tick(world)
    world.machine.advance(HEARTBEAT_S)

    def thaw(process: Process, point: str) -> None:
        del process
        if point == "launch.end.term":
            world.machine.resume(attempt.wrapper)

    world.machine.on_point = thaw
    tick(world)

    assert states(world) == {"1": TaskState.DONE}


# the maximum runtime


def test_a_wrapper_ends_its_command_at_the_maximum_runtime_itself():
    world = a_world(script=LONG, max_runtime_s=100)
    run_until_running(world)

    world.machine.advance(101)
    tick(world)

    (row,) = world.disk.ledger.values()
    assert row.failure_reason is FailureReason.TIMEOUT
    assert row.reclaim_reason is None


def hang_but_beat(world: SimulatedWorld) -> None:
    """Let a wrapper hang that beats all the same, until its lease has expired."""
    attempt = run_until_running(world)
    world.machine.stop(attempt.wrapper)
    for _ in range(10):
        world.machine.advance(15)
        world.disk.locks["1"].beat_ns = world.machine.monotonic_ns


def test_an_attempt_whose_wrapper_does_not_act_at_the_maximum_runtime_is_ended():
    world = a_world(script=LONG, max_runtime_s=100)
    hang_but_beat(world)

    report = tick(world)

    assert reclaimed(report) == {"1": "lease_expired"}
    assert not the_attempt(world).is_live
    assert states(world) == {"1": TaskState.WAITING}


def test_a_start_that_was_held_up_uses_up_nothing_of_the_maximum_runtime():
    world = a_world(script=Script(runs_s=50), max_runtime_s=60)
    reports: list[TickReport] = []

    def tick_meanwhile(_process: Process, point: str) -> None:
        if point == "wrapper.running:before":
            world.machine.on_point = lambda _process, _point: None
            assert the_lease(world).state is LeaseState.STARTING
            reports.append(tick(world))

    tick(world)
    world.machine.freeze(200)
    world.machine.on_point = tick_meanwhile
    world.machine.advance(1)
    reports.append(tick(world))

    assert [report.reclaims for report in reports] == [(), ()]
    assert the_attempt(world).is_live
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


def test_where_the_agent_says_so_an_expired_lease_fails_the_task():
    world = a_world(script=LONG, max_runtime_s=100)
    fails = tuple(replace(one, on_expire=OnExpire.FAIL) for one in world.settings.agents)
    world.settings = replace(world.settings, agents=fails)
    hang_but_beat(world)

    tick(world)

    row = world.queue.rows["1"]
    assert (row.state, row.last_failure) == (TaskState.FAILED, FailureReason.LEASE_EXPIRED)
    # Its wrapper obeyed the tick, which is no interruption from outside.
    (told,) = world.disk.ledger.values()
    assert (told.outcome, told.failure_reason) == (Outcome.FAILED, FailureReason.LEASE_EXPIRED)
    assert EventName.TASK_FAILED in [event.name for event in world.observer.events]


def test_a_result_that_cannot_be_written_is_waited_for_however_long_that_takes():
    """A full disk: the command ended in time, its wrapper lives and beats, and is overdue."""
    world = a_world(max_runtime_s=60)
    attempt = run_until_running(world)
    world.disk.refusal = Refusal.BYTES

    for _ in range(60):
        world.machine.advance(60)
        tick(world)

    assert attempt.wrapper.is_alive
    world.disk.refusal = Refusal.NOTHING
    world.machine.advance(2)
    tick(world)
    assert states(world) == {"1": TaskState.DONE}
    assert world.auditor.violations == []


def test_an_expired_attempt_is_ended_once_there_is_room_to_record_its_end():
    world = a_world(script=LONG, max_runtime_s=100)
    hang_but_beat(world)
    world.disk.refusal = Refusal.BYTES

    refused = tick(world)
    assert refused.reclaims == ()
    assert [error.where for error in refused.errors] == ["ending attempts that are late"]

    world.disk.refusal = Refusal.NOTHING
    world.disk.locks["1"].beat_ns = world.machine.monotonic_ns
    assert reclaimed(tick(world)) == {"1": "lease_expired"}


# results


def end_with_result(world: SimulatedWorld) -> str:
    """Let the attempt end and record its result; return its lease id."""
    attempt = run_until_running(world)
    world.machine.advance(11)
    assert attempt.recorded is not None
    return attempt.lease.lease_id


@pytest.mark.parametrize("trouble", [Trouble.DOWN, Trouble.READ_ONLY, Trouble.FORGETFUL])
def test_a_result_waits_for_its_source_costs_no_slot_and_is_never_run_again(trouble):
    world = a_world(slots=1)
    lease_id = end_with_result(world)
    other = world.add_queue("other", prefix="other-")
    other.add(world.queue.rows["1"].spec)
    world.queue.trouble = trouble

    report = tick(world)

    assert started(report) == ["other-1"]
    assert list(world.disk.results) == [lease_id]
    world.queue.trouble = Trouble.NONE
    let_end(world)
    assert states(world)["1"] is TaskState.DONE
    assert [row.attempt for row in world.disk.ledger.values() if row.task_id == "1"] == [1]


def test_a_result_without_a_lease_is_settled_all_the_same():
    world = a_world()
    end_with_result(world)
    world.disk.leases.clear()
    world.disk.locks.clear()

    tick(world)

    assert states(world) == {"1": TaskState.DONE}
    assert world.disk.results == {}
    assert len(world.disk.ledger) == 1


def test_a_result_of_a_task_that_moved_on_reaches_the_ledger_only():
    world = a_world()
    lease_id = end_with_result(world)
    row = world.queue.rows["1"]
    row.state, row.lease_id = TaskState.HELD, None

    tick(world)

    assert states(world) == {"1": TaskState.HELD}
    assert list(world.disk.ledger) == [lease_id]
    assert (world.disk.leases, world.disk.results, world.disk.locks) == ({}, {}, {})


def test_a_task_that_moves_on_while_its_result_is_settled_is_told_of_by_nobody():
    world = a_world()
    lease_id = end_with_result(world)

    def move_on(_process: Process, point: str) -> None:
        if point == "source.settle:before":
            row = world.queue.rows["1"]
            row.state, row.lease_id = TaskState.HELD, None

    world.machine.on_point = move_on
    tick(world)

    assert states(world) == {"1": TaskState.HELD}
    assert list(world.disk.ledger) == [lease_id]
    assert (world.disk.leases, world.disk.results, world.disk.locks) == ({}, {}, {})
    assert EventName.TASK_FINISHED not in [event.name for event in world.observer.events]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_task_whose_result_is_unreadable_is_parked_and_the_file_kept(garbage):
    world = a_world()
    lease_id = end_with_result(world)
    world.disk.results[lease_id] = garbage

    report = tick(world)

    assert states(world) == {"1": TaskState.PARKED}
    assert world.disk.quarantine == [(lease_id, garbage)]
    assert any(lease_id in warning for warning in report.warnings)
    (row,) = world.disk.ledger.values()
    assert row.failure_reason is FailureReason.ABORTED


def test_a_result_of_a_newer_version_is_left_for_that_version():
    world = a_world()
    lease_id = end_with_result(world)
    world.disk.results[lease_id] = NEWER

    for _ in range(3):
        report = tick(world)
        world.machine.advance(60)

    assert world.disk.results == {lease_id: NEWER}
    assert states(world) == {"1": TaskState.WORKING}
    assert any("version 99" in warning for warning in report.warnings)


@pytest.mark.parametrize("has_lease", [True, False])
def test_an_unreadable_result_whose_source_was_told_before_is_tidied_up(has_lease):
    world = a_world()
    lease_id = end_with_result(world)
    world.disk.results[lease_id] = "garbage"
    row = world.queue.rows["1"]
    row.state, row.lease_id = TaskState.PARKED, None
    if not has_lease:
        world.disk.leases.clear()
        world.disk.locks.clear()

    report = tick(world)

    assert report.reclaims == ()
    assert (world.disk.leases, world.disk.results, world.disk.locks) == ({}, {}, {})
    assert world.disk.quarantine == [(lease_id, "garbage")]


def test_a_ledger_that_cannot_be_written_keeps_the_result_for_the_next_tick():
    world = a_world()
    end_with_result(world)
    world.disk.refusal = Refusal.BYTES

    errors = [error.where for error in tick(world).errors]

    assert errors == ["settling task 1", "scheduling memory"]
    world.disk.refusal = Refusal.NOTHING
    tick(world)
    assert states(world) == {"1": TaskState.DONE}


def test_a_recorded_result_whose_wrapper_died_with_a_child_left_is_settled_after_the_end():
    child = Child(starts_after_s=0.1, runs_s=900, ignores_term=True, stuck_s=100)
    world = a_world(script=Script(runs_s=5, children=(child,)))
    attempt = run_until_running(world)
    world.machine.advance(4)
    lease_id = attempt.lease.lease_id
    world.machine.kill(attempt.wrapper)
    other = a_world()
    end_with_result(other)
    (text,) = other.disk.results.values()
    result = text.replace(next(iter(other.disk.results)), lease_id)
    world.disk.results[lease_id] = result

    report = tick(world)
    assert attempt.is_live
    assert report.stats.leases_settled == 0

    world.machine.advance(200)
    tick(world)
    assert states(world) == {"1": TaskState.DONE}
    assert not attempt.is_live


# leases that are broken, foreign or gone


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_corrupt_lease_keeps_its_slot_while_its_attempt_lives_and_heals(garbage):
    world = a_world(2, slots=1, script=Script(runs_s=100))
    attempt = run_until_running(world)
    world.disk.leases["1"] = garbage

    report = tick(world)

    assert attempt.is_live
    assert reasons(report)["2"] == "host_slots"
    assert any("unreadable" in warning for warning in report.warnings)
    world.machine.advance(HEARTBEAT_S)
    assert the_lease(world).state is LeaseState.RUNNING
    let_end(world)
    assert set(states(world).values()) == {TaskState.DONE}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_corrupt_lease_that_nothing_holds_is_set_aside_and_its_task_runs_again(garbage):
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.disk.leases["1"] = garbage

    report = tick(world)

    assert reclaimed(report) == {"1": "corrupt"}
    assert world.disk.quarantine == [("1", garbage)]
    assert EventName.LEASE_CORRUPT in [event.name for event in world.observer.events]
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


def test_a_corrupt_lease_of_no_task_of_ours_is_set_aside():
    world = a_world(0)
    world.disk.leases["77"] = "garbage"

    report = tick(world)

    assert reclaimed(report) == {"77": "corrupt"}
    assert world.disk.quarantine == [("77", "garbage")]
    assert world.disk.leases == {}


def test_a_lease_of_a_newer_version_is_never_touched_and_keeps_its_slot():
    world = a_world(2, slots=1)
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.disk.leases["1"] = NEWER

    for _ in range(3):
        report = tick(world)
        world.machine.advance(60)

    assert world.disk.leases == {"1": NEWER}
    assert reasons(report)["2"] == "host_slots"
    assert any("version 99" in warning for warning in report.warnings)


def test_a_lease_of_another_boot_whose_lock_is_held_is_left_alone_and_told():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.disk.leases["1"] = world.disk.leases["1"].replace("boot-1", "boot-0")

    report = tick(world)

    assert attempt.is_live
    assert any("another boot" in warning for warning in report.warnings)


def test_a_lost_lease_is_repaired_once_nothing_of_its_attempt_lives():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.disk.leases.clear()

    report = tick(world)

    assert reclaimed(report) == {"1": "lost"}
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


def test_what_a_lost_lease_left_running_is_ended_first():
    child = Child(starts_after_s=0.1, runs_s=900, holds_lock=False, ignores_term=True)
    world = a_world(script=Script(runs_s=500, children=(child,)))
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.disk.leases.clear()
    world.disk.locks.clear()

    report = tick(world)

    assert not attempt.is_live
    assert reclaimed(report) == {"1": "lost"}


def test_a_lease_deleted_under_a_living_attempt_ends_nothing():
    world = a_world(script=Script(runs_s=100))
    attempt = run_until_running(world)
    world.disk.leases.clear()

    report = tick(world)

    assert attempt.is_live
    assert report.reclaims == ()
    let_end(world)
    assert [row.attempt for row in world.disk.ledger.values()] == [1]


def test_a_lease_whose_claim_never_happened_is_tidied_up():
    world = a_world()
    run_until_running(world)
    world.machine.kill(the_attempt(world).wrapper)
    row = world.queue.rows["1"]
    row.state, row.lease_id = TaskState.WAITING, None

    report = tick(world)

    assert reclaimed(report) == {"1": "dead_pid"}
    assert started(report) == ["1"]


def test_a_lock_that_nothing_holds_and_no_lease_belongs_to_is_swept():
    world = a_world(0)
    stranger = world.machine.spawn("stranger")
    held = world.wire(stranger).store.acquire("77")
    assert held is not None

    assert any("no lease" in warning for warning in tick(world).warnings)
    assert "77" in world.disk.locks
    held.close()
    tick(world)
    assert world.disk.locks == {}


def test_a_disk_that_refuses_a_sweep_leaves_no_lock_held():
    world = a_world(0)
    stranger = world.machine.spawn("stranger")
    held = world.wire(stranger).store.acquire("77")
    assert held is not None
    held.close()
    daemon = world.machine.spawn("tick")
    ports = world.wire(daemon)

    def make_read_only(process: Process, point: str) -> None:
        del process
        if point == "lock.remove:before":
            world.disk.refusal = Refusal.EVERYTHING

    world.machine.on_point = make_read_only
    world.rewire = lambda _ports, _process: ports
    report = tick(world)

    assert [error.where for error in report.errors] == ["lease of task 77"]
    assert daemon.is_alive
    assert not world.disk.locks["77"].is_held


def test_a_lock_taken_between_looking_and_reclaiming_is_left_to_whoever_took_it():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    stranger = world.machine.spawn("stranger")

    def grab(process: Process, point: str) -> None:
        del process
        if point == "source.look" and not world.disk.locks["1"].is_held:
            assert world.disk.locks["1"].try_lock(stranger) is not None

    world.machine.on_point = grab
    report = tick(world)

    assert report.reclaims == ()
    assert report.errors == ()
    assert "1" in world.disk.leases


# sources


def test_nothing_of_a_source_that_is_down_is_given_back_into_thin_air():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    world.queue.trouble = Trouble.DOWN

    report = tick(world)

    assert report.reclaims == ()
    assert "1" in world.disk.leases
    assert report.all_sources_down
    assert [error.where for error in report.errors] == ["source local"]
    assert any("does not answer" in warning for warning in report.warnings)
    world.queue.trouble = Trouble.NONE
    let_end(world)
    assert states(world) == {"1": TaskState.DONE}


def test_what_fails_the_same_way_twice_in_one_tick_is_told_once():
    world = a_world()
    other = world.add_queue("other", prefix="other-")
    other.add(world.queue.rows["1"].spec)
    run_until_running(world)
    world.machine.advance(20)
    other.trouble = Trouble.DOWN

    report = tick(world)

    assert report.stats.leases_settled == 1
    assert [error.where for error in report.errors] == ["source other"]


def test_a_source_that_is_down_stops_no_other():
    world = a_world()
    other = world.add_queue("other", prefix="other-")
    other.add(world.queue.rows["1"].spec)
    world.queue.trouble = Trouble.DOWN

    report = tick(world)

    assert started(report) == ["other-1"]
    assert not report.all_sources_down


def test_a_lease_of_a_source_that_is_not_configured_any_more_stays_and_is_told():
    world = a_world()
    other = world.add_queue("other", prefix="other-")
    other.add(world.queue.rows["1"].spec)
    run_until_running(world)
    world.machine.advance(20)
    world.queues.remove(other)

    report = tick(world)

    assert "other-1" in world.disk.leases
    assert states(world) == {"1": TaskState.DONE}
    assert any("other" in warning for warning in report.warnings)


# cancelling


def test_a_running_attempt_ends_soon_after_its_cancellation_and_stays_cancelled():
    world = a_world(script=LONG)
    attempt = run_until_running(world)

    world.cancel("1")
    world.machine.advance(2)
    tick(world)

    assert not attempt.is_live
    assert states(world) == {"1": TaskState.CANCELLED}
    assert (world.disk.cancels, world.disk.leases) == ({}, {})
    assert EventName.TASK_CANCELLED in [event.name for event in world.observer.events]


def test_a_cancelled_attempt_that_dies_instead_is_not_run_again():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.cancel("1")
    world.machine.kill(attempt.wrapper)

    tick(world)

    assert states(world) == {"1": TaskState.CANCELLED}
    assert world.disk.cancels == {}


@pytest.mark.parametrize("max_attempts", [1, 3], ids=["used up", "would wait again"])
def test_a_cancellation_noted_while_a_tick_settles_is_granted_and_told_as_one(max_attempts):
    world = a_world(script=FAILS)
    rules = replace(world.settings.rules, max_attempts=max_attempts)
    world.settings = replace(world.settings, rules=rules)
    run_until_running(world)
    world.machine.advance(10)

    def cancel_meanwhile(_process: Process, point: str) -> None:
        if point == "source.settle:before":
            world.queue.request_cancel("1")

    world.machine.on_point = cancel_meanwhile
    tick(world)

    assert states(world) == {"1": TaskState.CANCELLED}
    assert ended_as(world) == [(EventName.TASK_CANCELLED, "cancelled")]
    (row,) = world.disk.ledger.values()
    assert row.failure_reason is FailureReason.COMMAND_FAILED


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace():
    deaf = Script(runs_s=1000, ignores_term=True, children=(Child(ignores_term=True),))
    world = a_world(script=deaf)
    attempt = run_until_running(world)

    world.cancel("1")
    world.machine.advance(3)
    assert attempt.is_live
    world.machine.advance(5)

    assert not attempt.is_live
    tick(world)
    assert states(world) == {"1": TaskState.CANCELLED}


@pytest.mark.parametrize("script", [TEN_SECONDS, FAILS], ids=["succeeds", "fails"])
@pytest.mark.parametrize("delay_ms", [0, 20, 40, 60, 500, 9_000, 10_020, 10_040, 10_060, 10_500])
def test_a_cancellation_at_any_moment_ends_the_task_once_and_for_all(script, delay_ms):
    world = a_world(script=script, kicks=True)
    tick(world)
    world.machine.schedule(delay_ms / 1000, partial(world.cancel, "1"))
    world.machine.advance(30)

    let_end(world)

    succeeded = the_attempt(world).recorded is Outcome.SUCCEEDED
    wanted = TaskState.DONE if succeeded else TaskState.CANCELLED
    assert states(world) == {"1": wanted}
    assert len(world.workshop.attempts) == 1


# dry runs and idempotence


def picture(world: SimulatedWorld) -> tuple[object, ...]:
    return world.disk.contents(), states(world)


def test_a_dry_run_tells_what_a_tick_would_do_and_changes_nothing():
    world = a_world(3)
    dead = run_until_running(world)
    world.machine.kill(dead.wrapper)
    world.machine.advance(20)
    before = picture(world)
    noticed = list(world.observer.events)

    told = world.preview()

    assert picture(world) == before
    assert told.dry_run
    assert reclaimed(told) == {"1": "dead_pid"}
    assert told.stats.leases_settled == 1
    assert (world.observer.events, len(world.observer.reports)) == (noticed, 1)


def test_a_dry_run_ends_nothing_that_a_tick_would_end():
    child = Child(runs_s=900, ignores_term=True)
    world = a_world(script=Script(runs_s=500, children=(child,)))
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)

    told = world.preview()

    assert attempt.is_live
    assert reclaimed(told) == {"1": "dead_pid"}


def test_a_dry_run_needs_no_lock_and_tells_lost_and_unreadable_things_too():
    world = a_world(2)
    lease_id = end_with_result(world)
    world.disk.results[lease_id] = "garbage"
    del world.disk.leases["2"]
    world.machine.kill(the_attempt(world, "2").wrapper)
    del world.disk.locks["2"]
    for other in list(world.disk.results):
        if other != lease_id:
            del world.disk.results[other]
    assert world.disk.tick_lock.try_lock(world.machine.spawn("tick")) is not None

    told = world.preview()

    assert reclaimed(told) == {"2": "lost"}
    assert told.stats.leases_settled == 1
    assert not told.locked


def test_what_is_foreseen_is_what_a_dry_run_reports_and_what_that_was_concluded_from():
    world = a_world(3, slots=1)
    before = picture(world)

    foresight = foresee(world.wire(world.machine.spawn("why")), world.settings)

    assert foresight.report.decisions == world.preview().decisions
    assert [one.waiting_total for one in foresight.snapshot.sources] == [3]
    assert len(foresight.plan.decisions) == 3
    assert picture(world) == before


@pytest.mark.parametrize("seconds", [0.5, 5, 10.5, 200])
def test_a_second_tick_over_an_unchanged_world_plans_nothing(seconds):
    world = a_world(5, scripts={("2", 1): FAILS, ("3", 1): LONG})
    tick(world)
    world.machine.advance(seconds)
    tick(world)
    before = picture(world)

    report = tick(world)

    assert picture(world) == before
    assert report.stats.tasks_spawned == 0
    assert (report.reclaims, report.errors) == ((), ())


def test_a_memory_that_is_unreadable_costs_a_warning_and_time_only():
    world = a_world(script=LONG)
    attempt = run_until_running(world)
    world.disk.memory = "garbage"

    report = tick(world)

    assert any("memory" in warning for warning in report.warnings)
    assert attempt.is_live


def change_before_lock(world: SimulatedWorld, change: Callable[[], None]) -> None:
    """Do it after the next tick has judged and before it takes a task lock."""

    nothing = world.machine.on_point

    def at(process: Process, point: str) -> None:
        if point == "lock.create:before":
            world.machine.on_point = nothing
            change()
        nothing(process, point)

    world.machine.on_point = at


def test_a_reclaim_looks_again_under_the_lock_and_spares_an_attempt_whose_result_came():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.advance(60)
    lease_id = attempt.lease.lease_id
    text = world.disk.results.pop(lease_id)
    running = replace(the_lease(world), state=LeaseState.RUNNING)
    world.disk.leases["1"] = json.dumps(encode_lease(running))
    change_before_lock(world, lambda: world.disk.results.update({lease_id: text}))

    report = tick(world)

    assert reclaimed(report) == {}
    assert states(world) == {"1": TaskState.WORKING}
    tick(world)
    assert states(world) == {"1": TaskState.DONE}


def test_a_reclaim_looks_again_under_the_lock_and_leaves_a_newer_lease_alone():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.kill(attempt.wrapper)
    newer = json.dumps(encode_lease(replace(the_lease(world), lease_id="somebody-newer")))
    change_before_lock(world, lambda: world.disk.leases.update({"1": newer}))

    report = tick(world)

    assert reclaimed(report) == {}
    assert the_lease(world).lease_id == "somebody-newer"
    assert not any(file.is_held for file in world.disk.locks.values())


def test_a_repair_looks_again_under_the_lock_and_leaves_a_new_lease_alone():
    world = a_world()
    attempt = run_until_running(world)
    text = world.disk.leases.pop("1")
    world.machine.kill(attempt.wrapper)
    change_before_lock(world, lambda: world.disk.leases.update({"1": text}))

    report = tick(world)

    assert reclaimed(report) == {}
    assert the_lease(world).lease_id == attempt.lease.lease_id


def test_a_result_that_came_back_is_settled_as_it_was():
    world = a_world()
    attempt = run_until_running(world)
    world.machine.advance(60)
    lease_id = attempt.lease.lease_id
    text = world.disk.results.pop(lease_id)
    change_before_lock(world, lambda: world.disk.results.update({lease_id: text}))

    tick(world)

    assert states(world) == {"1": TaskState.WORKING}
    tick(world)
    assert states(world) == {"1": TaskState.DONE}
