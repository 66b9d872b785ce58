"""A tick that found no slot of a model: when it looks again, and what makes it look sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.tick.staging import a_world, reasons, run_until_running, started, the_lease, tick

from tinyscheduler.model.config import FairShare, Inventory, ModelPlace, Quota
from tinyscheduler.model.plan import Wait
from tinyscheduler.model.snapshot import SchedulingMemory
from tinyscheduler.model.tasks import TaskSpec
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.simulator.world import SimulatedWorld

RUNS_S = 10


def a_model_world(*models: str, heeds_ends: bool) -> SimulatedWorld:
    """Return a world with a slot of each model, and a task for each of these."""
    world = a_world(0, slots=9, script=Script(runs_s=RUNS_S))
    world.settings = replace(
        world.settings,
        agents=tuple(replace(agent, limit=9) for agent in world.settings.agents),
        inventory=Inventory(
            models=(ModelPlace(model="a", host="box"), ModelPlace(model="b", host="box"))
        ),
        heeds_ends=heeds_ends,
    )
    for model in models:
        world.queue.add(TaskSpec(agent="alpha", command=("work",), model=model, memory_bytes=0))
    return world


def retry_after_s(report: TickReport) -> list[float | None]:
    return [round(one.retry_after_s or 0, 3) for one in report.decisions if isinstance(one, Wait)]


def test_the_lease_says_where_it_uses_its_model():
    world = a_model_world("a", heeds_ends=True)

    run_until_running(world)

    lease = the_lease(world)
    assert (lease.model, lease.model_host) == ("a", "box")


def test_no_tick_looks_before_the_backoff_is_over_and_the_next_one_does():
    world = a_model_world("a", "a", heeds_ends=False)
    assert reasons(tick(world)) == {"2": "no_slots"}

    world.machine.advance(12)  # the first has ended since
    early = tick(world)
    world.machine.advance(18)
    late = tick(world)

    assert (started(early), reasons(early)) == ([], {"2": "no_slots"})
    assert retry_after_s(early) == [18]
    assert started(late) == ["2"]


def test_the_same_world_gives_the_same_plan():
    world = a_model_world("a", "a", "b", heeds_ends=False)
    tick(world)

    assert reasons(tick(world)) == reasons(tick(world)) == {"2": "no_slots"}
    assert retry_after_s(tick(world)) == [30]


def test_where_ends_are_heeded_the_end_of_an_attempt_makes_it_look_at_once():
    world = a_model_world("a", "a", heeds_ends=True)
    tick(world)

    world.machine.advance(RUNS_S + 2)

    assert started(tick(world)) == ["2"]


@pytest.mark.parametrize("heeds_ends", [True, False])
def test_what_is_remembered_survives_the_tick(heeds_ends: bool):  # noqa: FBT001 - a case
    world = a_model_world("a", "a", heeds_ends=heeds_ends)
    tick(world)

    memory = world.disk.memory
    assert isinstance(memory, SchedulingMemory)
    assert [one.model for one in memory.deferrals] == ["a"]


def test_the_source_is_looked_into_further_where_a_tenant_has_all_it_may_have():
    world = a_model_world(heeds_ends=True)
    world.settings = replace(
        world.settings, window=2, inventory=Inventory(tenants=(Quota(name="red", slots=1),))
    )
    for tenant in ("red", "red", "red", "red", "blue"):
        world.queue.add(TaskSpec(agent="alpha", command=("work",), tenant=tenant, memory_bytes=0))

    assert started(tick(world)) == ["1", "5"]


@pytest.mark.parametrize("share", list(FairShare))
def test_who_runs_is_charged_where_it_is_shared_out_fairly(share: FairShare):
    world = a_model_world(heeds_ends=True)
    world.settings = replace(world.settings, rules=replace(world.settings.rules, fair_share=share))
    spec = TaskSpec(agent="alpha", command=("work",), tenant="red", project="red", memory_bytes=0)
    world.queue.add(spec)
    tick(world)

    world.machine.advance(5)
    tick(world)

    memory = world.disk.memory
    assert isinstance(memory, SchedulingMemory)
    charged = {one.owner: round(one.slot_s) for one in memory.accounts}
    assert charged == ({} if share is FairShare.OFF else {"red": 5})
