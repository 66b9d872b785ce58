"""Simulated worlds, of which a test states only what matters to it.

What is not stated is a healthy machine with two slots, agents ``alpha`` (two slots) and
``beta`` (one), tasks that succeed after ten seconds, no cron, and wrappers that wish for
no tick: time passes when the test says so, and ticks happen when it asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import Lease, LeaseState
from tinyscheduler.model.plan import Dispatch, Wait
from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.store import read_lease
from tinyscheduler.simulator.world import SETTINGS, SimulatedWorld
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.simulator.attempts import Attempt

TEN_SECONDS = Script(runs_s=10)
FAILS = Script(runs_s=10, exit_code=1)
HOURS = 3600.0
_ENDS = frozenset(
    {
        EventName.TASK_FINISHED,
        EventName.TASK_FAILED,
        EventName.TASK_PARKED,
        EventName.TASK_CANCELLED,
        EventName.TASK_REQUEUED,
    }
)
HEARTBEAT_S = SETTINGS.heartbeat_s
STALE_S = 3 * HEARTBEAT_S + 1


def a_world(
    tasks: int = 1,
    *,
    script: Script = TEN_SECONDS,
    scripts: Mapping[tuple[str, int], Script] | None = None,
    kicks: bool = False,
    slots: int = 2,
    **settings: Any,
) -> SimulatedWorld:
    """Return a world in which that many tasks wait for agent alpha.

    ``scripts`` says what single attempts do, by task id and attempt number.
    """
    chosen = replace(SETTINGS, rules=replace(SETTINGS.rules, host_slots=slots), **settings)
    world = SimulatedWorld(settings=chosen)
    special = scripts or {}
    world.workshop.script = lambda task_id, attempt: special.get((task_id, attempt), script)
    world.workshop.is_kick_enabled = kicks
    for _ in range(tasks):
        world.queue.add(TaskSpec(agent="alpha", command=("work",)))
    return world


def tick(world: SimulatedWorld) -> TickReport:
    """Tick once; nothing is to kill this one."""
    report = world.tick()
    assert report is not None
    return report


def started(report: TickReport) -> list[str]:
    return [one.task.task_id for one in report.decisions if isinstance(one, Dispatch)]


def reasons(report: TickReport) -> dict[str, str]:
    return {one.task.task_id: one.reason.value for one in report.decisions if isinstance(one, Wait)}


def reclaimed(report: TickReport) -> dict[str, str]:
    return {one.task_id: one.reason.value for one in report.reclaims}


def states(world: SimulatedWorld) -> dict[str, TaskState]:
    return {row.task_id: row.state for queue in world.queues for row in queue.rows.values()}


def ended_as(world: SimulatedWorld) -> list[tuple[str, str | None]]:
    """Return what was told of endings so far: each event's name and reason."""
    return [(event.name, event.reason) for event in world.observer.events if event.name in _ENDS]


def the_attempt(world: SimulatedWorld, task_id: str = "1") -> Attempt:
    """Return the task's newest attempt."""
    return [one for one in world.workshop.attempts.values() if one.lease.task_id == task_id][-1]


def the_lease(world: SimulatedWorld, task_id: str = "1") -> Lease:
    lease = read_lease(task_id, world.disk.leases[task_id])
    assert isinstance(lease, Lease)
    return lease


def run_until_running(world: SimulatedWorld, task_id: str = "1") -> Attempt:
    """Tick, and let the wrapper take over and start its command."""
    tick(world)
    world.machine.advance(1)
    assert the_lease(world, task_id).state is LeaseState.RUNNING
    return the_attempt(world, task_id)


def let_end(world: SimulatedWorld, *, within_s: float = 2 * HOURS) -> None:
    """Tick every minute until everything has ended, and check every promise."""
    left_s = within_s
    while left_s > 0 and not all(state.is_final for state in states(world).values()):
        world.run_ticks()
        world.machine.advance(60)
        left_s -= 60
    world.run_ticks()
    world.auditor.note_quiet()
    assert world.auditor.violations == []


def used_slots(world: SimulatedWorld) -> int:
    """Return how many slots the last tick remembers to be in use."""
    memory = world.disk.memory or SchedulingMemory()
    assert isinstance(memory, SchedulingMemory)
    assert sum(number for _, number in memory.active) == memory.used_slots
    return memory.used_slots
