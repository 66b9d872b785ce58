"""A queue or a tenant has at most what its quota says, and is in no other's way."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.builders import a_gpu, a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.decide import decide
from tinyscheduler.core.quotas import Use, measure_quotas
from tinyscheduler.model.config import Inventory, Quota
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.policy.platform import PlatformPolicy

GIB = 2**30
FIFO = PlatformPolicy()
AGENTS = (an_agent(limit=99), an_agent("tester", limit=99), an_agent("cook", limit=9, queue="ops"))


def task(number: int, tenant: str | None = None, **more: Any) -> Any:
    return a_task(str(number), created_order=number, tenant=tenant, memory_bytes=0, **more)


def planned(*things: Any, queues: Any = (), tenants: Any = (), **more: Any) -> Plan:
    inventory = Inventory(queues=queues, tenants=tenants)
    return decide(a_snapshot(*things, agents=AGENTS, slots=99, inventory=inventory, **more), FIFO)


def started(plan: Plan) -> list[str]:
    return [one.task.task_id for one in plan.decisions if isinstance(one, Dispatch)]


def why(plan: Plan, task_id: str) -> tuple[Reason, str]:
    (wait,) = (
        one for one in plan.decisions if isinstance(one, Wait) and one.task.task_id == task_id
    )
    return wait.reason, wait.words


def test_all_agents_of_a_queue_share_its_limit():
    dev = Quota(name="dev", slots=2)

    plan = planned(
        an_entry(a_lease("9", agent="tester")),
        task(1),
        task(2, agent="tester"),
        task(3, agent="cook"),
        queues=(dev,),
    )

    assert started(plan) == ["1", "3"]
    assert why(plan, "2") == (Reason.QUEUE_LIMIT, "queue dev has 2 of 2 slots")


def test_a_tenant_has_as_many_slots_as_its_quota_says():
    plan = planned(
        an_entry(a_lease("9", tenant="red")),
        task(1, "red"),
        task(2, "red"),
        task(3, "blue"),
        task(4),
        tenants=(Quota(name="red", slots=2),),
    )

    assert started(plan) == ["1", "3", "4"]
    assert why(plan, "2") == (Reason.TENANT_QUOTA, "tenant red has 2 of 2 slots")


def test_a_tenant_that_has_all_it_may_have_is_in_nobodys_way():
    tasks = [task(number, "red") for number in range(1, 9)]

    plan = planned(*tasks, task(9), tenants=(Quota(name="red", slots=1),), lookahead=0)

    assert started(plan) == ["1", "9"]


def test_a_tenant_has_as_much_vram_as_its_quota_says():
    red = Quota(name="red", vram_bytes=20 * GIB)
    shares = [task(number, "red", vram_bytes=8 * GIB) for number in (1, 2, 3)]

    plan = planned(*shares, task(4, "red"), tenants=(red,), gpus=[a_gpu(0), a_gpu(1)])

    assert started(plan) == ["1", "2", "4"]
    assert why(plan, "3") == (
        Reason.TENANT_QUOTA,
        "tenant red has 16 GiB of 20 GiB of VRAM, and this needs 8 GiB",
    )


def test_a_whole_gpu_counts_with_all_its_memory():
    red = Quota(name="red", vram_bytes=30 * GIB)
    holder = a_lease("9", tenant="red", gpu_uuids=("GPU-0",), needs=Needs(gpus=1))

    plan = planned(
        an_entry(holder),
        task(1, "red", gpus=1),
        tenants=(red,),
        gpus=[a_gpu(0), a_gpu(1)],
    )

    assert why(plan, "1") == (
        Reason.TENANT_QUOTA,
        "tenant red has 24 GiB of 30 GiB of VRAM, and this needs 24 GiB",
    )


def test_what_is_more_than_a_quota_ever_gives_stands_in_no_line():
    red = Quota(name="red", vram_bytes=4 * GIB)

    plan = planned(task(1, "red", vram_bytes=8 * GIB), tenants=(red,), gpus=[a_gpu(0)])

    (wait,) = plan.decisions
    assert isinstance(wait, Wait)
    assert wait.is_lasting


def overtaken_by(plan: Plan) -> dict[str, list[str]]:
    return {
        one.task.task_id: [passed.task_id for passed in one.overtakes]
        for one in plan.decisions
        if isinstance(one, Dispatch)
    }


def test_who_takes_of_the_same_quota_overtakes_and_nobody_else():
    red = Quota(name="red", vram_bytes=10 * GIB)
    holder = a_lease("9", tenant="red", gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=5 * GIB))

    plan = planned(
        an_entry(holder),
        task(1, "red", vram_bytes=8 * GIB),
        task(2, "red", agent="tester"),
        task(3, agent="tester"),
        tenants=(red,),
        gpus=[a_gpu(0), a_gpu(1)],
    )

    assert overtaken_by(plan) == {"2": ["1"], "3": []}


def test_the_last_slot_of_a_queue_is_taken_from_all_that_wait_in_it():
    dev = Quota(name="dev", slots=1)

    plan = planned(
        task(1, gpus=1),
        task(2, agent="tester"),
        task(3, agent="cook"),
        queues=(dev,),
        gpus=[a_gpu(0, used=20)],
    )

    assert overtaken_by(plan) == {"2": ["1"], "3": []}


def test_a_reservation_holds_for_a_quota_too():
    red = Quota(name="red", slots=1)
    plan = planned(
        an_entry(a_lease("9", tenant="red")),
        task(1, "red"),
        task(2, "red", agent="tester"),
        tenants=(red,),
        skips={"1": 2},
    )

    assert started(plan) == []
    assert why(plan, "1")[1].endswith("it was overtaken 2 times, and comes first now")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("dev", "ops")),
            st.sampled_from((None, "red", "blue")),
            st.integers(0, 3).map(lambda gib: Use(slots=1, vram_bytes=gib * GIB)),
        )
    )
)
def test_what_is_taken_and_given_back_leaves_no_trace(uses: list[tuple[str, str | None, Use]]):
    inventory = Inventory(queues=(Quota(name="dev"),))
    room = measure_quotas(inventory, uses)

    room = room.give_back(uses)

    assert all(left == Use() for left in (*room.by_queue.values(), *room.by_tenant.values()))
