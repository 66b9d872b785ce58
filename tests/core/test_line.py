"""Who stands before whom: class, fair share, dependents, priority, arrival."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    a_claim,
    a_lease,
    a_result,
    a_snapshot,
    a_task,
    an_agent,
    an_entry,
)

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.decide import decide
from tinyscheduler.core.fairness import settle_accounts
from tinyscheduler.core.queueing import in_line
from tinyscheduler.model.config import FairShare, Inventory, Quota
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Dispatch
from tinyscheduler.model.policy import AgentView
from tinyscheduler.model.snapshot import Account, LeaseScan, SchedulingMemory
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.tasks import WaitingTask

URGENT = {"priority_class": PriorityClass.INTERACTIVE}
HOUR = 3600.0


def order(
    *tasks: WaitingTask,
    agents: tuple[AgentView, ...] = (),
    accounts: tuple[Account, ...] = (),
    **more: Any,
) -> list[str]:
    snapshot = a_snapshot(**more)
    snapshot = replace(snapshot, memory=replace(snapshot.memory, accounts=accounts))
    return [task.task_id for task in in_line(tasks, snapshot, agents=agents)]


def aged(task_id: str, age_s: float, **more: Any) -> WaitingTask:
    return a_task(task_id, created_at=NOW.wall - timedelta(seconds=age_s), **more)


some_tasks = st.lists(
    st.builds(
        a_task,
        st.integers(1, 99).map(str),
        created_order=st.integers(0, 9),
        priority=st.integers(-2, 2),
        blocks=st.integers(0, 2),
        tenant=st.sampled_from((None, "red", "blue")),
        priority_class=st.sampled_from(PriorityClass),
        created_at=st.sampled_from((None, NOW.wall, NOW.wall - timedelta(hours=1))),
    ),
    unique_by=lambda task: task.task_id,
)


@given(st.permutations([a_task(str(number), created_order=number) for number in range(9)]))
def test_first_come_first_served(tasks: list[WaitingTask]):
    assert order(*tasks) == [str(number) for number in range(9)]


@pytest.mark.parametrize("is_priority_enabled", [True, False])
def test_who_blocks_most_goes_first_whatever_the_priority(is_priority_enabled: bool):  # noqa: FBT001 - a case
    blocker = a_task("blocker", created_order=3, blocks=2, priority=-9)
    urgent = a_task("urgent", created_order=2, blocks=1, priority=9)
    oldest = a_task("oldest", created_order=1)

    found = order(oldest, urgent, blocker, is_priority_enabled=is_priority_enabled)

    assert found == ["blocker", "urgent", "oldest"]


def test_priority_counts_only_where_it_is_enabled():
    low, high = a_task("low", created_order=1), a_task("high", created_order=2, priority=1)

    assert order(low, high) == ["low", "high"]
    assert order(low, high, is_priority_enabled=True) == ["high", "low"]


@given(some_tasks)
def test_equal_priorities_keep_the_order_of_arrival(tasks: list[WaitingTask]):
    by_id = {task.task_id: task for task in tasks}

    for one, next_one in pairwise(
        by_id[task_id] for task_id in order(*tasks, is_priority_enabled=True)
    ):
        if all(
            getattr(one, name) == getattr(next_one, name)
            for name in ("blocks", "priority", "priority_class", "created_at")
        ):
            assert one.created_order <= next_one.created_order


@given(st.data(), some_tasks, st.sampled_from(FairShare))
def test_the_order_does_not_depend_on_that_of_the_input(
    data: st.DataObject, tasks: list[WaitingTask], share: FairShare
):
    mixed = data.draw(st.permutations(tasks))

    assert order(*tasks, fair_share=share) == order(*mixed, fair_share=share)


@given(some_tasks, st.sampled_from(FairShare), st.booleans())
def test_the_platform_policy_takes_them_in_this_order(
    tasks: list[WaitingTask],
    share: FairShare,
    is_priority_enabled: bool,  # noqa: FBT001 - drawn
):
    agents = [an_agent(name, limit=99) for name in ("coder", "tester", "chat")]
    snapshot = a_snapshot(
        *tasks, agents=agents, slots=99, fair_share=share, is_priority_enabled=is_priority_enabled
    )

    plan = decide(snapshot, PlatformPolicy())

    starts = [one.task for one in plan.decisions if isinstance(one, Dispatch)]
    assert starts == in_line(starts, snapshot, agents=measure(snapshot, plan.verdicts).agents)


# -- classes ---------------------------------------------------------------------------


def test_who_somebody_waits_for_goes_before_the_rest():
    batch = aged("batch", 299, created_order=1, blocks=3)
    urgent = aged("urgent", 0, created_order=2, **URGENT)

    assert order(batch, urgent) == ["urgent", "batch"]


def test_after_five_minutes_the_rest_counts_as_much():
    batch = aged("batch", 300, created_order=1)
    urgent = aged("urgent", 0, created_order=2, **URGENT)

    assert order(batch, urgent) == ["batch", "urgent"]


def test_all_tasks_of_an_interactive_agent_are():
    agents = (AgentView(name="chat", queue="chat", limit=1, active=0, is_interactive=True),)

    assert order(
        aged("1", 5, created_order=1), aged("2", 0, created_order=2, agent="chat"), agents=agents
    ) == ["2", "1"]


def test_an_agent_of_that_class_is_known_by_its_profile():
    chat = an_agent("chat", priority_class="interactive")
    tasks = (a_task("1", created_order=1), a_task("2", created_order=2, agent="chat"))

    plan = decide(a_snapshot(*tasks, agents=(an_agent(), chat), slots=1), PlatformPolicy())

    assert [one.task.task_id for one in plan.decisions if isinstance(one, Dispatch)] == ["2"]


# -- fair share ------------------------------------------------------------------------


def tasks_of(tenant: str | None, *numbers: int, **more: Any) -> list[WaitingTask]:
    return [a_task(str(one), created_order=one, tenant=tenant, **more) for one in numbers]


def test_between_tenants_that_had_the_same_turns_alternate():
    red, blue = tasks_of("red", 1, 2, 3), tasks_of("blue", 4, 5)

    assert order(*red, *blue, fair_share=FairShare.TENANT) == ["1", "4", "2", "5", "3"]
    assert order(*red, *blue) == ["1", "2", "3", "4", "5"]


def test_who_had_less_goes_first():
    red, blue = tasks_of("red", 1, 2), tasks_of("blue", 3, 4)
    accounts = (Account(owner="red", slot_s=100, gpu_s=20), Account(owner="blue", slot_s=10))

    found = order(*red, *blue, fair_share=FairShare.TENANT, accounts=accounts)

    assert found == ["3", "4", "1", "2"]


def test_who_has_twice_the_weight_gets_twice_as_much():
    red, blue = tasks_of("red", 1, 2, 3, 4), tasks_of("blue", 5, 6)
    inventory = Inventory(tenants=(Quota(name="red", weight=2.0),))

    found = order(*red, *blue, fair_share=FairShare.TENANT, inventory=inventory)

    assert found[:3].count("5") + found[:3].count("6") == 1
    assert found == ["1", "5", "2", "3", "6", "4"]


def test_projects_have_no_weight_though_a_tenant_of_that_name_has():
    inventory = Inventory(tenants=(Quota(name="red", weight=1000.0),))
    one = [a_task("1", created_order=1, project="red"), a_task("2", created_order=2, project="red")]
    other = a_task("3", created_order=3, project="blue")

    found = order(*one, other, fair_share=FairShare.PROJECT, inventory=inventory)

    assert found == ["1", "3", "2"]


def test_whole_gpus_count_beforehand():
    red, blue = tasks_of("red", 1, 2, gpus=3), tasks_of("blue", 3, 4, 5)

    assert order(*red, *blue, fair_share=FairShare.TENANT) == ["1", "3", "4", "5", "2"]


def test_those_without_a_tenant_share_one_turn():
    found = order(*tasks_of(None, 1, 2), *tasks_of("red", 3), fair_share=FairShare.TENANT)

    assert found == ["1", "3", "2"]


def test_class_goes_before_fair_share():
    accounts = (Account(owner="red", slot_s=9999),)
    urgent = a_task("2", created_order=2, tenant="red", **URGENT)

    found = order(*tasks_of("blue", 1), urgent, fair_share=FairShare.TENANT, accounts=accounts)

    assert found == ["2", "1"]


def running_for(seconds: float, **more: Any) -> Any:
    begun = {
        "started_at": NOW.wall - timedelta(seconds=seconds),
        "monotonic_started_ns": NOW.monotonic_ns - int(seconds * 1e9),
    }
    return an_entry(a_lease(**{**begun, "tenant": "red", **more}))


def shared_out(*begun: Any, **more: Any) -> list[str]:
    """Return how tasks of red and blue stand in line once those attempts have begun."""
    red, blue = tasks_of("red", 1, 2, **more), tasks_of("blue", 3, 4, **more)
    snapshot = a_snapshot(*begun, fair_share=FairShare.TENANT)
    return [task.task_id for task in in_line((*red, *blue), snapshot, agents=())]


def test_what_has_just_begun_counts_as_much_as_it_was_reckoned_beforehand():
    # So that free slots that come one by one are shared out like those of one tick.
    assert shared_out() == ["1", "3", "2", "4"]
    assert shared_out(running_for(0, task_id="9")) == ["3", "1", "4", "2"]
    assert shared_out(running_for(59, task_id="9")) == ["3", "1", "4", "2"]
    assert shared_out(running_for(0, task_id="9", needs=Needs(gpus=1))) == ["3", "4", "1", "2"]


@pytest.mark.parametrize(
    "things",
    [
        (running_for(60, task_id="9"),),
        (running_for(0, task_id="9", boot_id="earlier-boot"),),
        (running_for(0, task_id="9", lease_id="lease-9"), a_result("9")),
        (an_entry(None, task_id="9"),),
    ],
)
def test_what_has_had_that_or_has_ended_counts_by_its_account_alone(things: tuple[Any, ...]):
    assert shared_out(*things) == ["1", "3", "2", "4"]


def test_free_slots_that_come_one_by_one_are_shared_out_as_if_they_came_at_once():
    tasks = [*tasks_of("red", 1, 2, 3), *tasks_of("blue", 4, 5, 6)]
    begun: list[WaitingTask] = []

    for slots in range(1, 5):
        leases = [a_lease(task.task_id, tenant=task.tenant) for task in begun]
        plan = decide(
            a_snapshot(
                *map(an_entry, leases),
                *(a_claim(task.task_id) for task in begun),
                *(task for task in tasks if task not in begun),
                agents=[an_agent(limit=9)],
                slots=slots,
                fair_share=FairShare.TENANT,
            ),
            PlatformPolicy(),
        )
        begun += [one.task for one in plan.decisions if isinstance(one, Dispatch)]

    assert [task.task_id for task in begun] == ["1", "4", "2", "5"]


# -- accounts --------------------------------------------------------------------------

NOTHING = SchedulingMemory()
SHARED = a_snapshot(fair_share=FairShare.TENANT, fair_share_half_life_s=HOUR).rules


def settled(
    *things: Any,
    memory: SchedulingMemory = NOTHING,
    after_s: float = 0,
    **more: Any,
) -> dict[str, tuple[float, float]]:
    scan = a_snapshot(*things).scan
    now = replace(
        NOW,
        wall=NOW.wall + timedelta(seconds=after_s),
        monotonic_ns=NOW.monotonic_ns + int(max(0, after_s) * 1e9),
    )
    found = settle_accounts(memory, scan, rules=replace(SHARED, **more), now=now)
    return {one.owner: (one.slot_s, one.gpu_s) for one in found.accounts}


def test_an_attempt_is_charged_for_its_slot_and_its_gpus():
    entry = running_for(100, gpu_share=0.5)

    assert settled(entry) == {"red": (100, 50)}


def test_nothing_is_charged_twice():
    entry = running_for(100)
    memory = SchedulingMemory(accounts=(Account(owner="red", slot_s=100),), accounted_at=NOW.wall)

    (slot_s, _) = settled(entry, memory=memory, after_s=10)["red"]

    assert slot_s == pytest.approx(100 * 0.5 ** (10 / HOUR) + 10)


def test_an_attempt_that_has_ended_is_charged_until_its_end():
    entry = running_for(100)
    ended = replace(a_result(), ended_at=NOW.wall - timedelta(seconds=40))

    assert settled(entry, ended) == {"red": (60, 0)}


def test_what_somebody_had_is_forgotten_by_and_by():
    memory = SchedulingMemory(
        accounts=(Account(owner="blue", slot_s=800, gpu_s=40), Account(owner="old", slot_s=7)),
        accounted_at=NOW.wall,
    )

    found = settled(running_for(0), memory=memory, after_s=3 * HOUR)

    assert found["blue"] == (100, 5)
    assert "old" not in found, "less than a second is nothing"


def test_a_clock_that_was_set_back_charges_nothing():
    memory = SchedulingMemory(accounts=(Account(owner="red", slot_s=5),), accounted_at=NOW.wall)

    assert settled(running_for(0), memory=memory, after_s=-500) == {"red": (5, 0)}


def test_a_clock_that_was_put_right_by_years_charges_no_more_than_an_attempt_has_run():
    year_0 = NOW.wall - timedelta(days=20_000)
    entry = running_for(100, started_at=year_0)
    memory = SchedulingMemory(accounted_at=year_0 + timedelta(seconds=60))

    assert settled(entry, memory=memory) == {"red": (100, 0)}


def test_of_an_attempt_of_another_boot_the_clock_alone_tells():
    entry = running_for(100, boot_id="earlier-boot", monotonic_started_ns=NOW.monotonic_ns)

    assert settled(entry) == {"red": (100, 0)}


def test_without_an_attempt_nothing_changes():
    memory = SchedulingMemory(accounts=(Account(owner="red", slot_s=5),), accounted_at=NOW.wall)
    empty = LeaseScan(entries=(), results=())

    later = replace(NOW, wall=NOW.wall + timedelta(days=1))
    assert settle_accounts(memory, empty, rules=SHARED, now=later) is memory


def test_a_project_is_charged_for_what_is_its_own():
    entry = running_for(100, project="apollo")

    assert settled(entry, fair_share=FairShare.PROJECT) == {"apollo": (100, 0)}


def test_between_sources_the_time_of_arrival_counts_and_within_one_its_own_order():
    theirs = [
        aged("tinytask-1", age_s, source="tinytask", created_order=number)
        for number, age_s in enumerate((50, 50, 10))
    ]
    theirs = [replace(one, task_id=f"tinytask-{number}") for number, one in enumerate(theirs)]
    ours = [aged(str(number), age_s, created_order=number) for number, age_s in ((7, 60), (8, 30))]

    assert order(*theirs, *ours) == ["7", "tinytask-0", "tinytask-1", "8", "tinytask-2"]


def test_of_tasks_that_the_same_agents_may_run_each_has_its_turn():
    # What was told of the first was not told of the others, so that who came later went before.
    unassigned = [a_task(str(number), created_order=number, queue="dev") for number in (1, 2)]
    assigned = a_task("3", created_order=3, agent="coder")
    agents = [an_agent("coder", queue="dev", limit=2)]

    plan = decide(a_snapshot(*unassigned, assigned, agents=agents, slots=9), PlatformPolicy())

    starts = [one.task.task_id for one in plan.decisions if isinstance(one, Dispatch)]
    assert starts == ["1", "2"]
