"""A model has so many slots on each host: nothing starts without one that is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.builders import NOW, a_gpu, a_lease, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.decide import decide
from tinyscheduler.model.config import Host, Inventory, ModelMatch, ModelPlace
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.policy.platform import PlatformPolicy

if TYPE_CHECKING:
    from datetime import timedelta

FIFO = PlatformPolicy()
ROOMY = (an_agent(limit=9),)
ALPHA = ModelPlace(model="alpha", max_slots=1)
BETA = ModelPlace(model="beta", max_slots=1)


def task(number: int, model: str | None = None, **more: Any) -> Any:
    return a_task(str(number), created_order=number, model=model, memory_bytes=0, **more)


def using(task_id: str, model: str | None, host: str | None = "local", **more: Any) -> Any:
    return an_entry(a_lease(task_id, model=model, model_host=host, **more))


def planned(
    *things: Any, models: tuple[ModelPlace, ...] = (ALPHA, BETA), hosts: Any = (), **more: Any
) -> Plan:
    inventory = Inventory(models=models, hosts=hosts)
    return decide(
        a_snapshot(*things, **{"agents": ROOMY, "slots": 9, "inventory": inventory, **more}), FIFO
    )


def started(plan: Plan) -> dict[str, str | None]:
    """Return which tasks start, each with the host of its model."""
    return {one.task.task_id: one.model_host for one in plan.decisions if isinstance(one, Dispatch)}


def wait(plan: Plan, task_id: str) -> Wait:
    (found,) = (
        one for one in plan.decisions if isinstance(one, Wait) and one.task.task_id == task_id
    )
    return found


# -- slots -----------------------------------------------------------------------------


def test_each_start_takes_a_slot_of_its_model():
    plan = planned(task(1, "alpha"), task(2, "alpha"), task(3, "beta"))

    assert started(plan) == {"1": "local", "3": "local"}
    assert wait(plan, "2").reason is Reason.NO_SLOTS


def test_who_runs_has_its_slot():
    plan = planned(using("9", "alpha"), task(1, "alpha"))

    assert started(plan) == {}
    assert wait(plan, "1").words == "model alpha: 1 of 1 slots on host local used"


def test_the_model_of_the_agent_counts_where_the_task_names_none():
    agents = (an_agent(limit=9, model="alpha"),)

    assert started(planned(using("9", "alpha"), task(1), agents=agents)) == {}
    assert started(planned(using("9", "alpha"), task(1, "beta"), agents=agents)) == {"1": "local"}


def test_a_model_that_is_nowhere_described_is_but_a_name():
    assert started(planned(task(1, "opus"), task(2, "opus"))) == {"1": None, "2": None}


def test_a_model_without_any_slot_keeps_its_tasks_and_nobody_else():
    none = ModelPlace(model="alpha", max_slots=0)

    plan = planned(task(1, "alpha"), task(2), models=(none,), lookahead=0)

    assert started(plan) == {"2": None}
    assert wait(plan, "1").reason is Reason.MODEL_SLOTS
    assert wait(plan, "1").retry_after_s is None


def test_nor_does_one_on_a_host_without_any_hold_up_anybody():
    box = Host(name="box", max_slots=0)

    plan = planned(
        task(1, "alpha"),
        task(2),
        models=(ModelPlace(model="alpha", host="box"),),
        hosts=(box,),
        lookahead=0,
    )

    assert started(plan) == {"2": None}
    assert wait(plan, "1").reason is Reason.MODEL_SLOTS
    assert wait(plan, "1").words == "model alpha: 0 of 0 slots of all models on host box used"


def test_one_that_is_preferred_is_done_without():
    agents = (an_agent(limit=9, model="alpha", model_match=ModelMatch.PREFERRED),)

    plan = planned(task(1), task(2), agents=agents)

    assert started(plan) == {"1": "local", "2": None}


def test_without_the_preferred_one_an_agent_is_bounded_on_this_machine():
    agents = (an_agent(limit=9, model="alpha", model_match=ModelMatch.PREFERRED, max_per_host=1),)
    there = ModelPlace(model="alpha", host="box")

    plan = planned(task(1), task(2), task(3), models=(there,), agents=agents)

    assert started(plan) == {"1": "box", "2": None}
    assert wait(plan, "3").reason is Reason.AGENT_LIMIT
    assert wait(plan, "3").words == "agent coder runs 1 on host local, and max_per_host is 1"


# -- hosts -----------------------------------------------------------------------------

HERE, THERE = ModelPlace(model="alpha"), ModelPlace(model="alpha", host="box", max_slots=2)


def test_it_goes_where_most_slots_are_free_then_by_name():
    tasks = [task(number, "alpha") for number in range(1, 5)]

    plan = planned(*tasks, models=(HERE, THERE))

    assert started(plan) == {"1": "box", "2": "box", "3": "local"}
    assert wait(plan, "4").words == (
        "model alpha: 1 of 1 slots on host local used, 2 of 2 slots on host box used"
    )


def test_a_host_bounds_all_its_models_together():
    models = tuple(ModelPlace(model=name, host="box", max_slots=3) for name in ("alpha", "beta"))
    box = Host(name="box", max_slots=2)

    plan = planned(
        using("9", "beta", "box"), task(1, "alpha"), task(2, "alpha"), models=models, hosts=(box,)
    )

    assert started(plan) == {"1": "box"}
    assert wait(plan, "2").words == "model alpha: 2 of 2 slots of all models on host box used"


def test_an_agent_may_be_bounded_on_each_host():
    agents = (an_agent(limit=9, max_per_host=1), an_agent("tester", limit=9))
    models = (replace_slots(HERE, 5), replace_slots(THERE, 5))
    mine = [task(number, "alpha") for number in range(1, 4)]

    plan = planned(*mine, task(4, "alpha", agent="tester"), models=models, agents=agents)

    assert sorted(started(plan)) == ["1", "2", "4"]
    assert {started(plan)["1"], started(plan)["2"]} == {"box", "local"}
    assert wait(plan, "3").reason is Reason.AGENT_LIMIT
    assert wait(plan, "3").words == (
        "agent coder runs 1 on host local, 1 on host box, and max_per_host is 1"
    )


def replace_slots(place: ModelPlace, slots: int) -> ModelPlace:
    return ModelPlace(model=place.model, host=place.host, max_slots=slots)


def test_without_a_model_an_agent_is_bounded_on_this_machine():
    agents = (an_agent(limit=9, max_per_host=2),)

    plan = planned(using("9", None, None), task(1), task(2), models=(), agents=agents)

    assert started(plan) == {"1": None}
    assert wait(plan, "2").words == "agent coder runs 2 on host local, and max_per_host is 2"


# -- what a model needs ----------------------------------------------------------------

GIB = 2**30
LARGE = ModelPlace(model="alpha", max_slots=4, vram_bytes=14 * GIB)


@pytest.mark.parametrize(
    ("place", "said", "needed"),
    [
        (LARGE, {}, 14),
        (LARGE, {"vram_bytes": 3 * GIB}, 3),
        (ModelPlace(model="alpha", vram_bytes=14 * GIB, endpoint="http://x"), {}, 0),
        (ModelPlace(model="alpha", vram_bytes=14 * GIB, host="box"), {}, 0),
    ],
    ids=["loaded by the attempt", "the task's own word", "served here", "served elsewhere"],
)
def test_what_an_attempt_takes_of_a_gpu_is_what_its_model_needs_here(
    place: ModelPlace, said: dict[str, Any], needed: int
):
    plan = planned(task(1, "alpha", **said), models=(place,), gpus=[a_gpu(0)])

    (start,) = (one for one in plan.decisions if isinstance(one, Dispatch))
    assert start.needs.vram_bytes == needed * GIB
    assert start.gpu_uuids == (("GPU-0",) if needed else ())


def test_where_no_gpu_has_room_for_it_the_model_is_used_elsewhere():
    elsewhere = ModelPlace(model="alpha", host="box", vram_bytes=14 * GIB)

    plan = planned(
        *(task(number, "alpha") for number in range(1, 4)),
        models=(LARGE, elsewhere),
        gpus=[a_gpu(0)],
    )

    assert started(plan) == {"1": "local", "2": "box"}
    assert wait(plan, "3").reason is Reason.VRAM_INSUFFICIENT


# -- turns -----------------------------------------------------------------------------


def test_who_needs_a_busy_model_is_passed_by_who_needs_a_free_one():
    plan = planned(using("9", "alpha"), task(1, "alpha"), task(2, "beta"))

    assert started(plan) == {"2": "local"}
    assert wait(plan, "1").reason is Reason.NO_SLOTS


def test_with_a_lookahead_of_0_nothing_overtakes():
    things = (using("9", "alpha"), task(1, "alpha"), task(2, "beta"))

    assert started(planned(*things, lookahead=0)) == {}
    assert started(planned(*things, lookahead=0, deferred_s={"alpha": 20})) == {}


def test_only_who_takes_what_it_waits_for_overtakes_it():
    models = (ALPHA, ModelPlace(model="beta", host="box", max_slots=5))

    plan = planned(using("9", "alpha"), task(1, "alpha"), task(2, "beta"), models=models)

    assert [one.overtakes for one in plan.decisions if isinstance(one, Dispatch)] == [()]


def test_on_a_host_with_a_bound_each_model_takes_of_the_others():
    models = (
        ModelPlace(model="alpha", host="box", max_slots=1),
        ModelPlace(model="beta", host="box", max_slots=5),
    )
    things = (using("9", "alpha", "box"), task(1, "alpha"), task(2, "beta"))

    plan = planned(*things, models=models, hosts=(Host(name="box", max_slots=5),))
    after = planned(*things, models=models, hosts=(Host(name="box", max_slots=5),), skips={"1": 2})

    (start,) = (one for one in plan.decisions if isinstance(one, Dispatch))
    assert [one.task_id for one in start.overtakes] == ["1"]
    assert wait(after, "2").reason is Reason.OVERTAKEN_LIMIT


# -- not looked at again for a while ---------------------------------------------------


def in_s(plan: Plan) -> dict[str, float]:
    def left_s(until: Any) -> float:
        left: timedelta = until - NOW.wall
        return left.total_seconds()

    return {one.model: left_s(one.until) for one in plan.deferrals}


def test_a_model_without_a_free_slot_is_looked_at_again_after_the_backoff():
    plan = planned(using("9", "alpha"), task(1, "alpha"), retry_later_s=30.0)

    assert wait(plan, "1").retry_after_s == 30
    assert in_s(plan) == {"alpha": 30}


def test_until_then_nobody_looks_though_a_slot_is_free():
    plan = planned(task(1, "alpha"), task(2, "alpha"), task(3, "beta"), deferred_s={"alpha": 12.4})

    assert started(plan) == {"3": "local"}
    assert wait(plan, "1").reason is Reason.NO_SLOTS
    assert wait(plan, "1").words == (
        "a slot of model alpha has become free since none was; the next look is in 12 s"
    )
    assert wait(plan, "2").retry_after_s == 12.4
    assert in_s(plan) == {"alpha": 12.4}


def test_while_all_are_used_it_says_by_how_many():
    plan = planned(using("9", "alpha"), task(1, "alpha"), deferred_s={"alpha": 12.4})

    assert wait(plan, "1").words == (
        "model alpha: 1 of 1 slots on host local used; the next look is in 12 s"
    )


def test_then_one_looks():
    plan = planned(task(1, "alpha"), deferred_s={"alpha": 0})

    assert started(plan) == {"1": "local"}
    assert plan.deferrals == ()


@pytest.mark.parametrize(
    ("holder", "deferred_s"),
    [
        ((using("9", "alpha", agent="other"),), {}),
        ((using("9", "alpha", agent="other"),), {"alpha": 20}),
        ((), {"alpha": 20}),
    ],
)
def test_a_reservation_holds_while_nobody_looks_for_a_slot_of_its_model(
    holder: tuple[Any, ...], deferred_s: dict[str, float]
):
    things = (*holder, task(1, "alpha"), task(2, "beta"))

    plan = planned(*things, agents=(an_agent(limit=1),), skips={"1": 2}, deferred_s=deferred_s)

    # The only slot of their agent is what the first needs besides.
    assert started(plan) == {}
    assert wait(plan, "2").reason is Reason.OVERTAKEN_LIMIT


def test_what_nobody_waits_for_just_now_is_not_looked_at_all_the_same():
    assert in_s(planned(deferred_s={"alpha": 20})) == {"alpha": 20}


def test_a_look_that_is_further_off_than_any_was_fixed_by_a_clock_set_back_since():
    plan = planned(task(1, "alpha"), deferred_s={"alpha": 31}, retry_later_s=30.0)

    assert started(plan) == {"1": "local"}
    assert plan.deferrals == ()
