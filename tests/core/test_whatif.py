"""Every change that is said to start a task does start it, and nothing less does."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, a_gpu, a_lease, a_snapshot, a_task, an_agent, an_entry
from tests.core.worlds import some_snapshot

from tinyscheduler.core.decide import decide
from tinyscheduler.core.explain import Explanation, explain
from tinyscheduler.core.gpus import measure_shared
from tinyscheduler.core.whatif import Change, Ended, Less, Raised, Resumed
from tinyscheduler.model.config import Host, Inventory, ModelPlace, Quota
from tinyscheduler.model.leases import Lease, Needs
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.model.resources import GpuReading
from tinyscheduler.model.snapshot import Deferral
from tinyscheduler.model.switches import Switch, SwitchKind, Target, TargetKind
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from tinyscheduler.model.resources import Gpu
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask

POLICY = PlatformPolicy()
GIB, MIB = 2**30, 2**20
STEP = {"memory": MIB, "vram": MIB, "gpus": 1, "max_runtime": 1}
FIELD = {
    "memory": "memory_bytes",
    "vram": "vram_bytes",
    "gpus": "gpus",
    "max_runtime": "max_runtime_s",
}


# -- a change, made by other means than those that found it ---------------------------


def starts(snapshot: Snapshot, task: WaitingTask) -> bool:
    names = {
        (one.task.source, one.task.task_id)
        for one in decide(snapshot, POLICY).decisions
        if isinstance(one, Dispatch)
    }
    return (task.source, task.task_id) in names


def asking(snapshot: Snapshot, task: WaitingTask, **said: Any) -> Snapshot:
    """Return the snapshot with a task that asks for something else."""
    sources = []
    for view in snapshot.sources:
        waiting = [
            replace(one, **said)
            if (one.source, one.task_id) == (task.source, task.task_id)
            else one
            for one in view.waiting
        ]
        sources.append(replace(view, waiting=tuple(waiting)))
    return replace(snapshot, sources=tuple(sources))


def ended(snapshot: Snapshot, task_ids: tuple[str, ...]) -> Snapshot:
    """Return the snapshot without these attempts and all that is theirs."""
    gone = {
        entry.lease.lease_id: entry.lease
        for entry in snapshot.scan.entries
        if entry.task_id in task_ids and isinstance(entry.lease, Lease)
    }
    used = sum(snapshot.memory_used.get(one, 0) for one in gone)
    leases = [one.lease for one in snapshot.scan.entries if isinstance(one.lease, Lease)]
    shared = measure_shared(snapshot, leases)
    used += sum(one.used_bytes for lease_id, one in shared.items() if lease_id in gone)
    host = snapshot.host
    gpus = snapshot.gpus
    if gpus is not None:
        gpus = replace(gpus, gpus=tuple(vacated(one, gone, snapshot) for one in gpus.gpus))
    hosts = {lease.model_host for lease in gone.values()}
    models = {one.model for one in snapshot.inventory.models if one.host in hosts}
    deferrals = [one for one in snapshot.memory.deferrals if one.model not in models]
    available = min(host.memory_total_bytes, host.memory_available_bytes + used)
    return replace(
        snapshot,
        host=replace(host, memory_available_bytes=available),
        gpus=gpus,
        memory=replace(snapshot.memory, deferrals=tuple(deferrals)),
        scan=replace(
            snapshot.scan,
            entries=tuple(
                entry
                for entry in snapshot.scan.entries
                if not isinstance(entry.lease, Lease) or entry.lease.lease_id not in gone
            ),
            results=tuple(one for one in snapshot.scan.results if one.lease_id not in gone),
        ),
        sources=tuple(
            replace(view, claims=tuple(one for one in view.claims if one.lease_id not in gone))
            for view in snapshot.sources
        ),
    )


def vacated(gpu: Gpu, gone: dict[str, Lease], snapshot: Snapshot) -> Gpu:
    owners = snapshot.gpu_owners
    processes = gpu.processes or ()
    theirs = [one for one in processes if owners.get(one.pid) in gone]
    told = {owners[one.pid] for one in theirs}
    freed = sum(one.used_bytes or 0 for one in theirs)
    for lease_id, lease in gone.items():
        if lease_id not in told and gpu.uuid in lease.gpu_uuids:
            freed += (gpu.total_bytes or 0) if lease.needs.gpus else lease.needs.vram_bytes
    return replace(
        gpu,
        used_bytes=max(0, gpu.used_bytes - freed),
        processes=None
        if gpu.processes is None
        else tuple(one for one in processes if one not in theirs),
    )


def limited(snapshot: Snapshot, change: Raised, to: int) -> Snapshot:
    """Return the snapshot with that limit."""
    inventory = snapshot.inventory
    match change.limit:
        case "agent":
            agents = [
                replace(one, limit=to) if one.name == change.name else one
                for one in snapshot.agents
            ]
            return as_many_as_needed(replace(snapshot, agents=tuple(agents)))
        case "machine":
            slots = min([to, *bounds(snapshot)])
            return replace(snapshot, rules=replace(snapshot.rules, host_slots=slots))
        case "host":
            hosts = [
                replace(one, max_slots=to) if one.name == change.name else one
                for one in inventory.hosts
            ]
            inventory = replace(inventory, hosts=tuple(hosts))
            return as_many_as_needed(replace(snapshot, inventory=inventory))
        case "lookahead":
            return replace(snapshot, rules=replace(snapshot.rules, lookahead=to))
        case "skips":
            return replace(snapshot, rules=replace(snapshot.rules, max_skips=to))
        case "per_host":
            agents = [
                replace(one, max_per_host=to) if one.name == change.name else one
                for one in snapshot.agents
            ]
            return replace(snapshot, agents=tuple(agents))
        case "model":
            models = [
                replace(one, max_slots=to)
                if (one.model, one.host) == (change.name, change.host)
                else one
                for one in inventory.models
            ]
            return replace(snapshot, inventory=replace(inventory, models=tuple(models)))
        case kind:
            field = "queues" if kind == "queue" else "tenants"
            said = {"vram_bytes" if kind == "tenant_vram" else "slots": to}
            quotas = [
                replace(one, **said) if one.name == change.name else one
                for one in getattr(inventory, field)
            ]
            return replace(snapshot, inventory=replace(inventory, **{field: tuple(quotas)}))


def bounds(snapshot: Snapshot) -> list[int]:
    hosts = snapshot.inventory.hosts
    return [one.max_slots for one in hosts if one.name == "local" and one.max_slots is not None]


def as_many_as_needed(snapshot: Snapshot) -> Snapshot:
    """Return it with the machine's slots where these follow from the agents' limits."""
    if not snapshot.rules.has_automatic_slots:
        return snapshot
    needed = max(2, sum(one.limit for one in snapshot.agents))
    rules = replace(snapshot.rules, host_slots=min([needed, *bounds(snapshot)]))
    return replace(snapshot, rules=rules)


def assert_true_and_minimal(change: Change, snapshot: Snapshot, task: WaitingTask) -> None:
    match change:
        case Less():
            field, step = FIELD[change.of], STEP[change.of]
            assert starts(asking(snapshot, task, **{field: change.at_most}), task)
            assert not starts(asking(snapshot, task, **{field: change.at_most + step}), task)
        case Ended():
            assert starts(ended(snapshot, change.task_ids), task)
            for spared in change.task_ids:
                rest = tuple(one for one in change.task_ids if one != spared)
                assert not starts(ended(snapshot, rest), task)
            assert change.at_latest >= snapshot.now.wall
        case Raised():
            if change.after_s:
                # The time alone does not do it.
                waited = replace(snapshot, memory=replace(snapshot.memory, deferrals=()))
                assert not starts(limited(snapshot, change, change.to), task)
                assert not starts(waited, task)
                snapshot = waited
            assert starts(limited(snapshot, change, change.to), task)
            step = MIB if change.limit == "tenant_vram" else 1
            assert not starts(limited(snapshot, change, change.to - step), task)
        case Resumed():
            target = Target(kind=TargetKind.AGENT, name=change.agent)
            switches = tuple(one for one in snapshot.switches or () if one.target != target)
            assert switches != snapshot.switches
            assert starts(replace(snapshot, switches=switches), task)
        case _:
            assert_never(change)


def explained(snapshot: Snapshot, task: WaitingTask) -> Explanation:
    found = explain(snapshot, decide(snapshot, POLICY), task, POLICY, window=99)
    assert found is not None
    return found


# -- of any world ----------------------------------------------------------------------


@given(some_snapshot())
def test_of_any_world_every_change_starts_the_task_and_nothing_less_does(snapshot: Snapshot):
    for view in snapshot.sources:
        for task in view.waiting:
            for change in explained(snapshot, task).changes:
                assert_true_and_minimal(change, snapshot, task)


INVENTORY = Inventory(
    hosts=(Host(name="box", max_slots=3),),
    models=(
        ModelPlace(model="large", host="box", max_slots=1),
        ModelPlace(model="large", host="attic", max_slots=0),
        ModelPlace(model="small", host="box", max_slots=3),
    ),
    queues=(Quota(name="dev", slots=4),),
    tenants=(Quota(name="red", slots=1), Quota(name="blue", vram_bytes=12 * GIB)),
)
PAUSE = Switch(
    kind=SwitchKind.PAUSE,
    target=Target(kind=TargetKind.AGENT, name="tester"),
    since=NOW.wall,
    by="me",
)
LATER = Deferral(model="large", until=NOW.wall + timedelta(seconds=20))
IN_QUEUE: dict[str, Any] = {"agent": None, "queue": "dev"}
NEEDS: tuple[dict[str, Any], ...] = (
    {},
    {"memory_bytes": 3 * GIB},
    {"vram_bytes": 10 * GIB},
    {"gpus": 1},
    {"gpus": 2},
    {"model": "large"},
    {"model": "small"},
    {"tenant": "red"},
    {"tenant": "blue", "vram_bytes": 10 * GIB},
    {"gpus": 2, "vram_bytes": 20 * GIB, "tenant": "blue"},
)


@st.composite
def some_crowd(draw: DrawFn) -> Snapshot:
    """Return a healthy machine on which little is free."""
    things: list[Any] = []
    for number in range(draw(st.integers(1, 4))):
        needs = draw(st.sampled_from(NEEDS))
        shares = {key: needs[key] for key in ("memory_bytes", "vram_bytes") if key in needs}
        on = draw(st.sampled_from(("GPU-0", "GPU-1")))
        model = needs.get("model")
        things.append(
            an_entry(
                a_lease(
                    f"r{number}",
                    needs=Needs(gpus=min(1, needs.get("gpus", 0)), **shares),
                    gpu_uuids=(on,) if "gpus" in needs or "vram_bytes" in needs else (),
                    model=model,
                    model_host="box" if model is not None else None,
                    tenant=needs.get("tenant"),
                    max_runtime_s=float(draw(st.sampled_from((60, 600, 3600)))),
                    monotonic_started_ns=NOW.monotonic_ns,
                )
            )
        )
    for number in range(draw(st.integers(1, 4))):
        wish: dict[str, Any] = draw(st.sampled_from(({"memory_bytes": 0}, IN_QUEUE)))
        wish = {**wish, **draw(st.sampled_from(NEEDS))}
        runtime_s = draw(st.sampled_from((None, 30.0, 1800.0)))
        things.append(a_task(f"w{number}", created_order=number, max_runtime_s=runtime_s, **wish))
    limits = draw(st.sampled_from(((1,), (3,), (5,), (1, 2))))
    agents = [
        an_agent(
            name,
            limit=limit,
            memory_bytes=draw(st.sampled_from((None, 7 * GIB))),
            max_runtime_s=draw(st.sampled_from((None, 9000.0))),
            max_per_host=draw(st.sampled_from((None, None, 1))),
        )
        for name, limit in zip(("coder", "tester"), limits, strict=False)
    ]
    local = draw(st.sampled_from((None, 1, 4)))
    hosts = (*INVENTORY.hosts, *([Host(name="local", max_slots=local)] if local else []))
    snapshot = a_snapshot(
        *things,
        agents=agents,
        slots=draw(st.integers(1, 6)) if local is None else min(local, draw(st.integers(1, 6))),
        lookahead=draw(st.sampled_from((0, 1, 5))),
        skips=draw(st.sampled_from(({}, {"w0": 2}, {"w1": 2}))),
        inventory=replace(INVENTORY, hosts=hosts),
        has_automatic_slots=draw(st.booleans()),
        gpus=draw(st.sampled_from((None, [a_gpu(0), a_gpu(1)], GpuReading(fault="it hangs")))),
    )
    switches = draw(st.sampled_from(((), (), (PAUSE,))))
    deferrals = draw(st.sampled_from(((), (LATER,))))
    memory = replace(snapshot.memory, deferrals=deferrals)
    return as_many_as_needed(replace(snapshot, switches=switches, memory=memory))


@given(some_crowd())
def test_of_a_crowd_every_change_starts_the_task_and_nothing_less_does(snapshot: Snapshot):
    for task in snapshot.sources[0].waiting:
        for change in explained(snapshot, task).changes:
            assert_true_and_minimal(change, snapshot, task)


# -- examples --------------------------------------------------------------------------


def changes(*things: Any, task_id: str, **world: Any) -> tuple[Change, ...]:
    snapshot = a_snapshot(*things, **{"agents": [an_agent(limit=9)], "slots": 9, **world})
    (task,) = (one for one in snapshot.sources[0].waiting if one.task_id == task_id)
    return explained(snapshot, task).changes


def running(task_id: str, *, left_s: float = 3600, **more: Any) -> Any:
    return an_entry(
        a_lease(task_id, max_runtime_s=left_s, monotonic_started_ns=NOW.monotonic_ns, **more)
    )


def at(seconds: float) -> Any:
    """Return when an attempt has ended that may run so long: with twice the grace period."""
    seconds += 2 * a_snapshot().rules.kill_grace_s
    return NOW.wall + timedelta(seconds=seconds)


def test_the_largest_share_that_fits_and_the_end_that_makes_room():
    holder = running("7", left_s=600, gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    later = running("8", left_s=900, gpu_uuids=("GPU-1",), needs=Needs(vram_bytes=15 * GIB))

    found = changes(
        holder, later, a_task("1", vram_bytes=14 * GIB), task_id="1", gpus=[a_gpu(0), a_gpu(1)]
    )

    assert found == (
        Less(of="vram", at_most=10 * GIB),
        Ended(task_ids=("7",), at_latest=at(600)),
    )


def test_fewer_gpus_or_the_ends_of_all_that_are_in_the_way():
    holders = [
        running(name, left_s=left_s, gpu_uuids=(uuid,), needs=Needs(gpus=1))
        for name, left_s, uuid in (("7", 900, "GPU-0"), ("8", 600, "GPU-1"), ("9", 300, "gone"))
    ]

    found = changes(
        *holders, a_task("1", gpus=3), task_id="1", gpus=[a_gpu(number) for number in range(3)]
    )

    assert found == (
        Less(of="gpus", at_most=1),
        Ended(task_ids=("8", "7"), at_latest=at(900)),
    )


def test_the_end_that_makes_room_is_found_among_many_that_do_not():
    others = [running(f"{number}", agent="tester", left_s=60) for number in range(10, 50)]
    holder = running("7", left_s=900, gpu_uuids=("GPU-0",), needs=Needs(gpus=1))
    agents = [an_agent(limit=1), an_agent("tester", limit=99)]

    found = changes(
        *others, holder, a_task("1", gpus=1), task_id="1", agents=agents, slots=99, gpus=[a_gpu(0)]
    )

    assert found == (Ended(task_ids=("7",), at_latest=at(900)),)


def test_an_attempt_that_is_late_may_end_at_any_moment():
    found = changes(running("7", left_s=0.5), a_task("1"), task_id="1", slots=1)

    assert found == (
        Ended(task_ids=("7",), at_latest=at(0.5)),
        Raised(limit="machine", name="this machine", to=2),
    )


def test_an_attempt_that_is_dead_is_given_back_at_once():
    dead = an_entry(
        a_lease("7", monotonic_started_ns=NOW.monotonic_ns), task_id="7", is_lock_held=False
    )

    found = changes(dead, a_task("1"), task_id="1", slots=1)

    assert found[0] == Ended(task_ids=("7",), at_latest=at(0))


def test_a_limit_has_to_do_for_those_before_it_in_line():
    tasks = [a_task(str(number), created_order=number) for number in range(1, 5)]

    found = changes(*tasks, task_id="4", agents=[an_agent(limit=1)])

    assert found == (Raised(limit="agent", name="coder", to=4),)


def test_what_several_limits_keep_no_single_one_starts():
    assert changes(a_task("1"), task_id="1", agents=[an_agent(limit=0)], slots=0) == ()


def test_each_kind_of_limit_can_be_what_it_takes():
    used: dict[str, Any] = {"model": "large", "model_host": "box", "tenant": "red"}
    at_end = Ended(task_ids=("7",), at_latest=at(3600))

    assert changes(
        running("7", **used), a_task("1", model="large"), task_id="1", inventory=INVENTORY
    ) == (
        at_end,
        Raised(limit="model", name="large", to=2, host="box"),
        Raised(limit="model", name="large", to=1, host="attic"),
    )
    assert changes(
        running("7", **used), a_task("1", tenant="red"), task_id="1", inventory=INVENTORY
    ) == (
        at_end,
        Raised(limit="tenant", name="red", to=2),
    )
    queue = Inventory(queues=(Quota(name="ops", slots=1), Quota(name="dev", slots=1)))
    assert changes(running("7"), a_task("1"), task_id="1", inventory=queue) == (
        at_end,
        Raised(limit="queue", name="dev", to=2),
    )


def test_more_slots_of_a_host_for_all_its_models_may_be_what_it_takes():
    full = Inventory(
        hosts=(Host(name="box", max_slots=1), Host(name="other", max_slots=0)),
        models=(ModelPlace(model="large", host="box", max_slots=3),),
    )
    holder = running("7", model="large", model_host="box")

    found = changes(holder, a_task("1", model="large"), task_id="1", inventory=full)

    assert found[1:] == (Raised(limit="host", name="box", to=2),)


def test_a_limit_of_slots_that_nobody_looks_for_yet_says_when_somebody_will():
    one = Inventory(models=(ModelPlace(model="large", host="box"),))
    holder = running("7", model="large", model_host="box")
    task = a_task("1", model="large")

    full = changes(holder, task, task_id="1", inventory=one, deferred_s={"large": 20})
    free = changes(task, task_id="1", inventory=one, deferred_s={"large": 20})

    assert full[1:] == (Raised(limit="model", name="large", to=2, host="box", after_s=20),)
    assert free == ()


def test_what_nobody_looks_for_yet_is_of_one_model_alone():
    places = tuple(ModelPlace(model=name, host=name) for name in ("large", "small"))
    agents = [an_agent(name, limit=1, model=name) for name in ("large", "small")]
    holders = [
        running(number, agent="gone", model=name, model_host=name)
        for number, name in (("7", "large"), ("8", "small"))
    ]

    found = changes(
        *holders,
        a_task("1", agent=None, queue="dev"),
        task_id="1",
        agents=agents,
        inventory=Inventory(models=places),
        deferred_s={"large": 20},
    )

    assert found[1:] == (
        Raised(limit="model", name="large", to=2, host="large", after_s=20),
        Raised(limit="model", name="small", to=2, host="small"),
    )


def test_more_per_host_may_be_what_it_takes():
    agents = [an_agent(limit=9, max_per_host=1)]

    found = changes(running("7"), a_task("1"), task_id="1", agents=agents)

    assert found[1:] == (Raised(limit="per_host", name="coder", to=2),)


def test_who_may_be_overtaken_more_often_lets_a_task_go_first():
    holder = running("7", left_s=600, gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    tasks = (
        a_task("1", vram_bytes=20 * GIB),
        a_task("2", created_order=1, vram_bytes=2 * GIB, max_runtime_s=3600.0),
    )

    found = changes(holder, *tasks, task_id="2", gpus=[a_gpu(0)], skips={"1": 3})

    assert Raised(limit="skips", name="MAX_SKIPS_PER_TASK", to=4) in found


def test_an_agent_that_is_paused_may_be_what_it_takes():
    agents = [an_agent("coder", limit=1), an_agent("tester", limit=1)]
    snapshot = a_snapshot(
        running("7"), a_task("1", agent=None, queue="dev"), agents=agents, slots=1
    )
    roomy = replace(snapshot, rules=replace(snapshot.rules, host_slots=2), switches=(PAUSE,))
    (task,) = snapshot.sources[0].waiting

    assert Resumed(agent="tester") in explained(roomy, task).changes
    full = replace(roomy, rules=snapshot.rules)
    assert Resumed(agent="tester") not in explained(full, task).changes


def test_a_model_without_slots_needs_some():
    none = Inventory(models=(ModelPlace(model="large", max_slots=0),))

    assert changes(a_task("1", model="large"), task_id="1", inventory=none) == (
        Raised(limit="model", name="large", to=1, host="local"),
    )


def test_behind_one_that_cannot_start_a_longer_look_helps():
    tasks = (
        a_task("1", gpus=1),
        a_task("2", gpus=1, created_order=1),
        a_task("3", created_order=2),
    )

    found = changes(*tasks, task_id="3", lookahead=1, gpus=[a_gpu(0, used=20)])

    assert Raised(limit="lookahead", name="QUEUE_LOOKAHEAD", to=2) in found


def test_beside_a_reservation_a_shorter_attempt_fits():
    holder = running("7", left_s=600, gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    tasks = (
        a_task("1", vram_bytes=20 * GIB),
        a_task("2", created_order=1, vram_bytes=2 * GIB, max_runtime_s=3600.0),
    )

    found = changes(holder, *tasks, task_id="2", gpus=[a_gpu(0)], skips={"1": 2})

    assert found[0] == Less(of="max_runtime", at_most=590)


def test_where_the_machines_slots_follow_the_agents_one_limit_is_enough():
    world: dict[str, Any] = {"agents": [an_agent(limit=2)], "slots": 2}
    things = (running("7"), running("8"), a_task("1"))

    assert changes(*things, task_id="1", **world, has_automatic_slots=True)[1:] == (
        Raised(limit="agent", name="coder", to=3),
    )
    assert changes(*things, task_id="1", **world)[1:] == ()


def test_what_the_agents_file_allows_this_machine_is_raised_there():
    bound = Inventory(hosts=(Host(name="local", max_slots=1),))
    things = (running("7"), a_task("1"))

    found = changes(*things, task_id="1", slots=1, inventory=bound, has_automatic_slots=True)

    assert found[1:] == (Raised(limit="host", name="local", to=2),)


def test_less_memory_may_do_with_another_agent_though_the_next_one_needs_little():
    agents = [an_agent(limit=0), an_agent("tester", limit=5, memory_bytes=99 * GIB)]
    small = replace(agents[0], memory_bytes=GIB)

    found = changes(a_task("1", agent=None, queue="dev"), task_id="1", agents=[small, agents[1]])

    assert found[0] == Less(of="memory", at_most=8 * GIB)


def test_the_time_that_fits_may_be_longer_than_usual_where_the_agents_is():
    holder = running("7", left_s=7200, gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    tasks = (
        a_task("1", vram_bytes=20 * GIB),
        a_task("2", created_order=1, vram_bytes=2 * GIB),
    )
    agents = [an_agent(limit=9, max_runtime_s=9000.0)]

    found = changes(holder, *tasks, task_id="2", gpus=[a_gpu(0)], skips={"1": 2}, agents=agents)

    assert found[0] == Less(of="max_runtime", at_most=7190)


def test_a_smaller_share_may_fit_into_a_quota():
    red = Inventory(tenants=(Quota(name="red", vram_bytes=20 * GIB),))
    holder = running("7", tenant="red", gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))
    task = a_task("1", tenant="red", vram_bytes=8 * GIB)

    found = changes(holder, task, task_id="1", gpus=[a_gpu(0), a_gpu(1)], inventory=red)

    assert found[0] == Less(of="vram", at_most=6 * GIB)


def test_fewer_gpus_or_more_vram_may_be_what_a_quota_takes():
    red = Inventory(tenants=(Quota(name="red", vram_bytes=30 * GIB + 1),))

    found = changes(
        a_task("1", tenant="red", gpus=2), task_id="1", gpus=[a_gpu(0), a_gpu(1)], inventory=red
    )

    assert found == (
        Less(of="gpus", at_most=1),
        Raised(limit="tenant_vram", name="red", to=48 * GIB),
    )


@pytest.mark.parametrize(
    ("gpus", "at_most"), [([a_gpu(0)], 24), ([a_gpu(0, p8=5), a_gpu(1, total=16)], 16)]
)
def test_a_smaller_gpu_may_do(gpus: list[Gpu], at_most: int):
    task = a_task("1", gpus=1, vram_bytes=(20 if len(gpus) > 1 else 30) * GIB)

    found = changes(task, task_id="1", gpus=gpus, gpu_owners={8: None})

    assert found == (Less(of="vram", at_most=at_most * GIB),)


def test_where_a_gpu_has_the_memory_of_the_machine_either_may_be_less():
    shared = replace(a_gpu(0), total_bytes=None)

    found = changes(
        a_task("1", memory_bytes=5 * GIB, vram_bytes=4 * GIB), task_id="1", gpus=[shared]
    )

    assert found == (Less(of="memory", at_most=4 * GIB), Less(of="vram", at_most=3 * GIB))


def test_what_only_time_can_change_has_no_counterfactual():
    assert changes(a_task("1", not_before=at(60)), task_id="1") == ()


def test_what_would_keep_it_next_is_told_too():
    snapshot = a_snapshot(
        running("7"), a_task("1", memory_bytes=99 * GIB), agents=[an_agent(limit=1)], slots=1
    )
    (task,) = snapshot.sources[0].waiting

    found = explained(snapshot, task)

    assert found.wait is not None
    assert found.wait.reason is Reason.AGENT_LIMIT
    assert [words.split(",")[0] for words in found.next_binding] == [
        "this machine runs 1 of 1",
        "needs 99 GiB of memory",
    ]


@pytest.mark.parametrize("heard", [True, False])
def test_a_gpu_whose_processes_are_not_told_is_given_back_as_reserved(heard: bool):  # noqa: FBT001 - a case
    gpu = a_gpu(0, used=14) if heard else replace(a_gpu(0, used=14), processes=None)
    holder = running("7", gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=14 * GIB))

    found = changes(holder, a_task("1", vram_bytes=20 * GIB), task_id="1", gpus=[gpu])

    assert Ended(task_ids=("7",), at_latest=at(3600)) in found


def test_who_ends_gives_back_what_its_processes_use_of_a_gpu():
    """Of one that shares the memory of the machine that is memory, too."""
    holder = running("7", gpu_uuids=("GPU-0",), needs=Needs(vram_bytes=6 * GIB))
    other = a_task("1", vram_bytes=20 * GIB)
    own, shared = a_gpu(0, p4711=14, p8=1), replace(a_gpu(0, p4711=5), total_bytes=None)
    owners = {4711: "lease-7", 8: None}

    of_its_own = changes(holder, other, task_id="1", gpus=[own], gpu_owners=owners)
    of_both = changes(
        holder, a_task("1", memory_bytes=13 * GIB), task_id="1", gpus=[shared], gpu_owners=owners
    )

    ends = Ended(task_ids=("7",), at_latest=at(3600))
    assert ends in of_its_own
    # 8 GiB are available, and 5 more once it has ended.
    assert of_both == (Less(of="memory", at_most=7 * GIB), ends)
