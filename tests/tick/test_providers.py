"""A tick heeds what providers say: accounts cool, agents pause, and no attempt is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import a_world, let_end, reasons, started, states, the_attempt, tick

from tinyscheduler.model.config import AgentProfile
from tinyscheduler.model.events import EventName
from tinyscheduler.model.plan import Wait
from tinyscheduler.model.tasks import FailureReason, TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.faults import TICKS, DeathAt
from tinyscheduler.simulator.switches import SimulatedSwitches
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.model.events import Event
    from tinyscheduler.simulator.world import SimulatedWorld

AGENTS = (
    AgentProfile(name="alpha", queue="work", limit=2, account="anthropic", profile="claude"),
    AgentProfile(name="beta", queue="work", limit=1),
    AgentProfile(name="gamma", queue="docs", limit=1, account="anthropic"),
)


def limited(words: str = "usage limit reached, try again in 10 minutes") -> Script:
    return Script(runs_s=10, exit_code=1, refused=(FailureReason.RATE_LIMITED, words))


LOGGED_OUT = Script(runs_s=10, refused=(FailureReason.AUTH_FAILED, "please run /login"))


def a_refused_world(script: Script, /, tasks: int = 1, **more: Any) -> SimulatedWorld:
    """Return a world in which the first attempt at task 1 is refused."""
    return a_world(tasks, scripts={("1", 1): script}, agents=AGENTS, slots=4, **more)


def add(world: SimulatedWorld, agent: str | None = None, queue: str | None = None) -> None:
    world.queue.add(TaskSpec(agent=agent, queue=queue, command=("work",)))


def told(world: SimulatedWorld, name: EventName) -> list[Event]:
    return [event for event in world.observer.events if event.name is name]


def run_first(world: SimulatedWorld) -> None:
    """Start what waits, and let it end."""
    tick(world)
    world.machine.advance(20)


def set_clock(world: SimulatedWorld, moment: datetime) -> None:
    world.machine.step_wall((moment - world.machine.wall).total_seconds())


def test_a_limit_at_23_50_that_resets_at_2_in_warsaw_ends_then_with_nobody_touching_it():
    world = a_refused_world(limited("You've hit your limit · resets 2am (Europe/Warsaw)"))
    set_clock(world, datetime(2026, 7, 4, 21, 49, 45, tzinfo=UTC))  # 23:50 there, at its end
    run_first(world)
    add(world, "beta")
    add(world, "gamma")

    report = tick(world)

    reset = datetime(2026, 7, 5, 0, 0, tzinfo=UTC)
    assert reasons(report) == {"1": "cooling", "3": "cooling"}
    assert started(report) == ["2"]  # another account goes on
    (event,) = told(world, EventName.AGENT_COOLING)
    assert (event.agent, event.reason) == ("alpha", "rate_limited")
    assert dict(event.details)["until"] == "2026-07-05T00:00:00.000Z"
    assert world.queue.rows["1"].failures == 0
    (wait,) = (one for one in report.decisions if isinstance(one, Wait) and one.task.task_id == "1")
    assert wait.retry_after_s == (reset - report.started_at).total_seconds()
    set_clock(world, datetime(2026, 7, 4, 23, 59, 59, tzinfo=UTC))
    assert started(tick(world)) == []

    set_clock(world, reset)
    assert started(tick(world)) == ["1", "3"]

    assert the_attempt(world).lease.attempt == 2
    let_end(world)
    assert set(states(world).values()) == {TaskState.DONE}
    assert world.disk.coolings == {}  # it was let in: nothing is known against it any more
    assert len(told(world, EventName.AGENT_COOLING)) == 1


def test_attempts_that_are_refused_count_for_nothing_however_many():
    world = a_world(1, script=limited("rate limit"), agents=AGENTS)

    for _ in range(8):
        world.run_ticks()
        world.machine.advance(3700)

    row = world.queue.rows["1"]
    assert (row.state, row.failures, row.attempt) == (TaskState.WORKING, 0, 5)
    times = [dict(event.details)["times"] for event in told(world, EventName.AGENT_COOLING)]
    assert times == list(range(1, len(times) + 1))


def test_several_attempts_that_are_refused_at_once_are_told_once():
    world = a_world(2, script=limited(), agents=AGENTS, slots=4)
    run_first(world)

    report = tick(world)

    assert reasons(report) == {"1": "cooling", "2": "cooling"}
    assert len(told(world, EventName.AGENT_COOLING)) == 1
    assert [one for one in report.warnings if "is cooling until" in one]
    assert world.disk.coolings["anthropic"].times == 1


def test_one_that_is_told_a_later_end_is_told_too():
    world = a_world(
        2, script=limited(), scripts={("2", 1): limited("try again in 3 hours")}, agents=AGENTS
    )
    run_first(world)

    tick(world)

    until = [dict(event.details)["until"] for event in told(world, EventName.AGENT_COOLING)]
    assert until == sorted(until, key=str)
    assert len(until) == 2


def test_what_is_over_before_anybody_read_it_cools_nothing():
    world = a_refused_world(limited())
    run_first(world)
    world.machine.advance(3600)

    assert started(tick(world)) == ["1"]

    assert told(world, EventName.AGENT_COOLING) == []


def test_a_success_that_began_before_the_refusal_proves_nothing():
    world = a_world(
        2, scripts={("1", 1): limited(), ("2", 1): Script(runs_s=60)}, agents=AGENTS, slots=4
    )
    run_first(world)
    tick(world)
    world.machine.advance(60)

    tick(world)

    assert states(world) == {"1": TaskState.WAITING, "2": TaskState.DONE}
    assert "anthropic" in world.disk.coolings


def test_a_success_of_another_account_proves_nothing():
    world = a_refused_world(limited())
    run_first(world)
    add(world, "beta")
    tick(world)
    world.machine.advance(20)

    tick(world)

    assert states(world) == {"1": TaskState.WAITING, "2": TaskState.DONE}
    assert list(world.disk.coolings) == ["anthropic"]


def test_a_task_of_a_queue_is_taken_by_an_agent_of_another_account_at_once():
    world = a_world(0, agents=AGENTS, script=Script(runs_s=10), scripts={("1", 1): limited()})
    add(world, queue="work")
    run_first(world)
    assert the_attempt(world).lease.agent == "alpha"

    assert started(tick(world)) == ["1"]

    assert the_attempt(world).lease.agent == "beta"


def test_an_agent_that_is_configured_no_more_cools_an_account_of_its_own_name():
    world = a_refused_world(limited())
    run_first(world)
    world.settings = replace(world.settings, agents=AGENTS[1:])

    tick(world)

    assert list(world.disk.coolings) == ["alpha"]


def test_a_cancelled_task_is_cancelled_and_its_account_cools_all_the_same():
    world = a_refused_world(limited())
    run_first(world)
    world.cancel("1")

    tick(world)

    assert states(world) == {"1": TaskState.CANCELLED}
    assert "anthropic" in world.disk.coolings


@pytest.mark.parametrize("script", [limited("rate limit, try again in 2 hours"), LOGGED_OUT])
def test_a_tick_that_dies_anywhere_lets_nothing_start_that_was_refused(script: Script):
    counting = DeathAt(programs=TICKS)
    world = a_refused_world(script)
    run_first(world)
    world.machine.on_point = counting
    tick(world)
    points = len(counting.seen)
    assert points > 10

    for index in range(points):
        world = a_refused_world(script)
        run_first(world)
        world.machine.on_point = DeathAt(programs=TICKS, index=index)
        world.tick()
        world.machine.on_point = DeathAt(programs=TICKS)

        report = tick(world)

        assert started(report) == [], counting.seen[index]
        assert set(reasons(report).values()) <= {"cooling", "paused"}, counting.seen[index]
        assert world.queue.rows["1"].failures == 0
        assert not world.auditor.violations


def test_an_agent_that_is_not_let_in_is_paused_with_what_to_do_and_its_attempt_is_not_counted():
    world = a_refused_world(LOGGED_OUT, tasks=2)
    run_first(world)

    report = tick(world)

    assert reasons(report) == {"1": "paused"}
    assert states(world)["2"] is TaskState.DONE  # it was let in when it ran
    (switch,) = world.disk.switches.values()
    assert (str(switch.target), switch.by) == ("agent:alpha", "its failed login")
    assert switch.reason == "claude is not let in: run `claude /login`, or see to its key or credit"
    assert any("`tinyscheduler resume agent:alpha`" in one for one in report.warnings)
    (event,) = told(world, EventName.PAUSED)
    assert (event.agent, event.reason) == ("alpha", "auth_failed")
    assert dict(event.details)["target"] == "agent:alpha"
    assert (world.queue.rows["1"].failures, world.queue.rows["1"].attempt) == (0, 2)

    SimulatedSwitches(world.machine.spawn("a person"), world.disk).clear(switch.kind, switch.target)
    assert started(tick(world)) == ["1"]
    let_end(world)
    assert states(world)["1"] is TaskState.DONE


def test_an_agent_that_is_paused_already_stays_so_and_that_is_not_told_again():
    world = a_world(2, script=LOGGED_OUT, agents=AGENTS[:1], slots=4)
    run_first(world)

    report = tick(world)

    assert reasons(report) == {"1": "paused", "2": "paused"}
    assert len(told(world, EventName.PAUSED)) == 1


def test_agents_that_share_the_account_are_not_paused_with_it():
    world = a_refused_world(LOGGED_OUT)
    run_first(world)
    add(world, "gamma")

    assert started(tick(world)) == ["2"]


SHELL = AgentProfile(name="shell", queue="shell", limit=2)


def a_shell_world(refused: Script, **more: Any) -> SimulatedWorld:
    """Return a world in which two commands wait, and the first is an agent that is refused."""
    agents = (SHELL, *AGENTS[1:])
    world = a_world(0, scripts={("1", 1): refused, ("1", 2): refused}, agents=agents, **more)
    add(world, "shell")
    return world


def test_commands_of_the_shell_may_be_of_any_account_so_a_limit_holds_up_its_own_task_alone():
    world = a_shell_world(limited("rate limit, try again in 2 hours"))
    run_first(world)
    add(world, "shell")

    report = tick(world)

    assert (reasons(report), started(report)) == ({"1": "backing_off"}, ["2"])
    assert (world.disk.coolings, world.disk.switches) == ({}, {})
    assert world.queue.rows["1"].failures == 0
    let_end(world)
    assert states(world) == {"1": TaskState.DONE, "2": TaskState.DONE}


def test_a_command_of_the_shell_that_is_not_let_in_fails_as_any_other_and_pauses_nothing():
    world = a_shell_world(LOGGED_OUT)
    run_first(world)

    tick(world)

    assert world.disk.switches == {}
    assert (world.queue.rows["1"].failures, world.queue.rows["1"].attempt) == (1, 2)


def test_where_the_shell_names_an_account_it_cools_like_any_agent():
    world = a_shell_world(limited())
    world.settings = replace(world.settings, agents=(replace(SHELL, account="anthropic"),))
    run_first(world)

    assert reasons(tick(world)) == {"1": "cooling"}

    assert list(world.disk.coolings) == ["anthropic"]
