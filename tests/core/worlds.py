"""Hypothesis strategies for whole snapshots: odd, contradictory and half-broken ones."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from tests.builders import (
    BOOT,
    NOW,
    a_claim,
    a_gpu,
    a_lease,
    a_result,
    a_snapshot,
    a_task,
    an_agent,
    an_entry,
)

from tinyscheduler.model.config import (
    FairShare,
    Host,
    Inventory,
    ModelMatch,
    ModelPlace,
    Quota,
)
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.model.leases import (
    Lease,
    LeaseEntry,
    LeaseFault,
    LeaseState,
    Needs,
    ProcessEvidence,
    UnreadableLease,
    WrapperLife,
)
from tinyscheduler.model.resources import Gpu, GpuReading
from tinyscheduler.model.snapshot import StaleSighting, UnreadableResult
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn
    from tests.builders import Thing

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.snapshot import LeaseScan, Snapshot
    from tinyscheduler.model.tasks import WaitingTask

AGENTS = ("coder", "tester", "writer")
QUEUES = ("dev", "ops")
SOURCES = ("local", "tinytask")
LOOKS = (
    *(None for _ in WrapperLife),
    *(ProcessEvidence(wrapper=life, survivors=number) for life in WrapperLife for number in (0, 1)),
)

# From a Sunday at noon on: then, on Monday morning, on Monday night.
HOURS = (0, 21, 35)
OUTAGES: tuple[tuple[str, ...], ...] = (*((),) * 14, ("tinytask",), ("local",), SOURCES)

# Most tasks have nothing in their way, or little would ever start.
SOON, PAST = (NOW.wall + timedelta(seconds=seconds) for seconds in (0.4, -60))
OBSTACLES: tuple[dict[str, Any], ...] = (
    *({} for _ in range(40)),
    {"not_before": PAST, "backing_off_until": NOW.wall},
    {"not_before": SOON},
    {"backing_off_until": SOON},
    {"is_held": True},
    {"blocked_by": ("7", "8")},
)
UNHINDERED: dict[str, Any] = {
    "not_before": None,
    "backing_off_until": None,
    "is_held": False,
    "blocked_by": (),
}
# What an attempt may hold: whole GPUs, bytes, and which.
HELD_GPUS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 0, ()),
    (0, 16 << 30, ("GPU-0",)),
    (1, 0, ("GPU-0",)),
    (1, 0, ("GPU-1",)),
)
GPU_WISHES: tuple[dict[str, Any], ...] = (
    *({} for _ in range(6)),
    {"vram_bytes": 10 << 30},
    {"vram_bytes": 15 << 30},
    {"gpus": 1},
    {"gpus": 2},
)
GPUS: tuple[Any, ...] = (
    None,
    GpuReading(fault="no driver", is_absent=True),
    GpuReading(fault="it hangs"),
    (a_gpu(0), a_gpu(1)),
    (a_gpu(0, p7=12), a_gpu(1, p8=3)),
    (a_gpu(0, used=12), a_gpu(1, total=12)),
    (a_gpu(0), Gpu(index=1, uuid="GPU-1", name="lost", fault="GPU is lost")),
    (Gpu(index=0, uuid="GPU-0", name="GB10", total_bytes=None, processes=None),),
    (replace(a_gpu(0, p7=2, p8=1), total_bytes=None, used_bytes=0),),
)
WISHES: tuple[dict[str, Any], ...] = (
    *({"agent": agent} for agent in AGENTS * 4),
    *({"queue": queue} for queue in (*QUEUES, "dev") * 4),
    {"agent": AGENTS[0], "queue": QUEUES[0]},
    {"agent": None, "queue": None},
)
# Most accounts are let in; one that cools may be over long ago, or be nobody's.
COOLINGS: tuple[tuple[Cooling, ...], ...] = (
    *((),) * 6,
    *(
        (
            Cooling(
                account=account,
                since=NOW.wall,
                until=NOW.wall + timedelta(hours=hours),
                times=1,
                agent="coder",
                words="",
            ),
        )
        for account, hours in (("shared", 1), ("coder", 48), ("gone", 24), ("shared", 10_000))
    ),
)
# What policies may look at; templates do.
LABELS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("deadline", "2026-03-02T18:00Z"),),
    (("deadline", "1772442000"),),
    (("deadline", "soon"), ("team", "a")),
)
TENANTS = ("red", "blue")
SCHEDULES = ("hourly", "nightly")
# With the longer one firings make way until the next night; ten of it ago was a day before.
PRESSURE_DELAYS_S = (30.0, 8400.0)
DAY_BEFORE = NOW.wall - 10 * timedelta(seconds=PRESSURE_DELAYS_S[-1])
# Most tasks are none, or little would start while somebody is at work.
FIRINGS: tuple[dict[str, Any], ...] = (
    *({} for _ in range(22)),
    {"schedule_id": "hourly", "slot": NOW.wall},
    {"schedule_id": "nightly", "slot": PAST},
    {"schedule_id": "nightly", "slot": DAY_BEFORE},
    {"schedule_id": "hourly", "slot": NOW.wall, "is_beside": True},
    {"schedule_id": "hourly", "slot": DAY_BEFORE, "is_beside": True},
    # By hand, which may be forced; so may one that has its time.
    {"schedule_id": "hourly"},
    {"schedule_id": "hourly", "is_forced": True},
    {"schedule_id": "nightly", "slot": NOW.wall, "is_forced": True, "is_beside": True},
)
AT_WORK: tuple[tuple[str, ...], ...] = ((), (), ("chat",), ("chat", "gpu:17", "seat:ann"))
INVENTORIES = (
    Inventory(),
    Inventory(
        hosts=(Host(name="box", max_slots=1),),
        models=(
            ModelPlace(model="large", host="box", max_slots=2),
            ModelPlace(model="large", max_slots=1, vram_bytes=10 << 30),
            ModelPlace(model="small", host="box", max_slots=1),
        ),
        queues=(Quota(name="dev", slots=2),),
        tenants=(Quota(name="red", slots=1, vram_bytes=12 << 30), Quota(name="blue", weight=2.0)),
    ),
    Inventory(models=(ModelPlace(model="large", max_slots=0),)),
)


@st.composite
def some_agents(draw: DrawFn) -> list[AgentProfile]:
    """Return those that are there: mostly all, and mostly with slots."""
    return [
        an_agent(
            name,
            limit=draw(st.sampled_from((2, 1, 3, 3, 0))),
            queue=draw(st.sampled_from((*QUEUES, "dev"))),
            memory_bytes=draw(st.sampled_from((None, 2 << 30))),
            model=draw(st.sampled_from((None, None, None, "large", "opus"))),
            model_match=draw(st.sampled_from(ModelMatch)),
            max_per_host=draw(st.sampled_from((None, None, None, 1))),
            priority_class=draw(st.sampled_from((None, "interactive"))),
            account=draw(st.sampled_from((None, "shared"))),
        )
        for name in AGENTS
        if draw(st.sampled_from((*(True,) * 9, False)))
    ]


@st.composite
def some_name(draw: DrawFn, number: int) -> tuple[str, str]:
    """Return a source and how it calls this one of its tasks."""
    source = draw(st.sampled_from((*SOURCES, "local")))
    return source, f"{number}" if source == "local" else f"{source}-{number}"


@st.composite
def some_task(draw: DrawFn, task_id: str, source: str) -> WaitingTask:
    return a_task(
        task_id,
        source=source,
        created_order=draw(st.integers(0, 5)),
        priority=draw(st.integers(-1, 1)),
        blocks=draw(st.integers(0, 1)),
        memory_bytes=draw(st.sampled_from((None, None, 0, 3 << 30))),
        model=draw(st.sampled_from((None, None, "large", "small", "opus"))),
        tenant=draw(st.sampled_from((None, *TENANTS))),
        priority_class=draw(st.sampled_from(PriorityClass)),
        created_at=draw(st.sampled_from((None, NOW.wall, NOW.wall - timedelta(hours=1), SOON))),
        **draw(st.sampled_from(GPU_WISHES)),
        **draw(st.sampled_from(WISHES)),
        **draw(st.sampled_from(OBSTACLES)),
        **(draw(st.sampled_from(FIRINGS)) if source == "local" else {}),
    )


@st.composite
def some_lease(draw: DrawFn, task_id: str, source: str) -> Lease | UnreadableLease | None:
    kind = draw(st.sampled_from(("readable", "readable", "missing", *LeaseFault)))
    if kind == "missing":
        return None
    if isinstance(kind, LeaseFault):
        return UnreadableLease(fault=kind, message="garbage")
    gpus, vram_bytes = draw(st.sampled_from(((0, 0), (0, 0), (0, 10 << 30), (1, 0))))
    return a_lease(
        task_id,
        lease_id=draw(st.sampled_from((f"lease-{task_id}", f"other-{task_id}"))),
        source=source,
        agent=draw(st.sampled_from((*AGENTS, "gone"))),
        state=draw(st.sampled_from(LeaseState)),
        boot_id=draw(st.sampled_from((BOOT, BOOT, "earlier-boot"))),
        monotonic_started_ns=NOW.monotonic_ns
        - int(draw(st.sampled_from((-5, 0, 3600, 3626, 9999))) * 1e9),
        needs=Needs(
            memory_bytes=draw(st.sampled_from((0, 2 << 30))),
            gpus=gpus,
            vram_bytes=vram_bytes,
        ),
        model="large",
        model_host=draw(st.sampled_from((None, "local", "box"))),
        schedule_id=draw(st.sampled_from((None, None, None, *SCHEDULES))),
        tenant=draw(st.sampled_from((None, *TENANTS))),
        gpu_uuids=draw(st.sampled_from((("GPU-0",), ("GPU-1",), ("GPU-gone",))))
        if vram_bytes or gpus
        else (),
    )


@st.composite
def some_things_of_a_task(draw: DrawFn, task_id: str, source: str) -> list[Thing]:
    """Return what lies about under one task's name: any part of it may be missing."""
    things: list[Thing] = []
    stands = draw(st.sampled_from(("waiting", "waiting", "claimed", "neither")))
    if stands == "waiting":
        things.append(draw(some_task(task_id, source)))
    elif stands == "claimed":
        things.append(a_claim(task_id, source=source, agent=draw(st.sampled_from(AGENTS))))
    if draw(st.booleans()):
        things.append(
            an_entry(
                draw(some_lease(task_id, source)),
                task_id=task_id,
                is_lock_held=draw(st.booleans()),
                beat_age_s=draw(st.sampled_from((-9, 0, 45, 46, 9999))),
            )
        )
    recorded = draw(st.sampled_from(("nothing", "nothing", "readable", "unreadable")))
    if recorded == "readable":
        things.append(a_result(task_id, source=source))
    elif recorded == "unreadable":
        things.append(UnreadableResult(lease_id=f"lease-{task_id}", message="garbage"))
    return things


@st.composite
def some_snapshot(draw: DrawFn) -> Snapshot:
    things: list[Thing] = []
    evidence: dict[str, ProcessEvidence] = {}
    stale: list[StaleSighting] = []
    odd = draw(st.sampled_from((2, 1, 3, 4, 0)))
    for number in range(odd):
        source, task_id = draw(some_name(number))
        mine = draw(some_things_of_a_task(task_id, source))
        things += mine
        for lease_id in (f"lease-{task_id}", f"other-{task_id}"):
            seen = draw(st.sampled_from(LOOKS))
            if seen is not None:
                evidence[lease_id] = seen
        stale += [
            StaleSighting(
                lease_id=entry.lease.lease_id,
                beat_ns=entry.beat_ns,
                seen_ns=NOW.monotonic_ns - int(draw(st.sampled_from((0, 14.9, 15))) * 1e9),
                boot_id=draw(st.sampled_from((BOOT, BOOT, "earlier-boot"))),
            )
            for entry in mine
            if isinstance(entry, LeaseEntry) and isinstance(entry.lease, Lease)
            if entry.beat_ns is not None and draw(st.booleans())
        ]
    # Nothing lies about of most that wait, or hardly any could start.
    for number in range(odd, odd + draw(st.sampled_from((3, 4, 2, 5, 1, 6)))):
        source, task_id = draw(some_name(number))
        things.append(draw(some_task(task_id, source)))
    return a_snapshot(
        *things,
        agents=draw(some_agents()),
        slots=draw(st.sampled_from((4, 2, 1, 3, 6, 6, 5, 4, 7, 6, 5, 8, 9, 8, 0))),
        down=draw(st.sampled_from(OUTAGES)),
        evidence=evidence,
        stale=stale,
        is_enabled=draw(st.sampled_from((*(True,) * 24, False))),
        memory_available_bytes=draw(st.sampled_from((*(8,) * 7, 4, 4, 3, 2, 1))) << 30,
        memory_used=draw(
            st.dictionaries(st.sampled_from([*evidence, "gone"]), st.sampled_from((0, 3 << 30)))
        ),
        inventory=draw(st.sampled_from(INVENTORIES)),
        deferred_s=draw(st.sampled_from(({}, {}, {"large": 20.0, "gone": 5.0}, {"small": 99.0}))),
        skips=draw(st.sampled_from(({}, {}, {"0": 2}, {"1": 1, "2": 2}))),
        lookahead=draw(st.sampled_from((5, 5, 1, 0))),
        is_priority_enabled=draw(st.booleans()),
        fair_share=draw(st.sampled_from(FairShare)),
        gpus=draw(st.sampled_from(GPUS)),
        gpu_owners=draw(
            st.dictionaries(st.sampled_from((7, 8)), st.sampled_from([*evidence, "gone", None]))
        ),
        pressed_by=draw(st.sampled_from(AT_WORK)),
        schedule_pressure_delay_s=draw(st.sampled_from(PRESSURE_DELAYS_S)),
        schedule_max_concurrent=draw(st.sampled_from((2, 1))),
    )


@st.composite
def some_attempt(draw: DrawFn, task_id: str) -> LeaseEntry:
    """Return an attempt that holds something, of which some are dead and not given back yet."""
    gpus, vram_bytes, uuids = draw(st.sampled_from(HELD_GPUS))
    model, host = draw(st.sampled_from(((None, None), ("large", "local"), ("large", "box"))))
    lease = a_lease(
        task_id,
        agent=draw(st.sampled_from(AGENTS)),
        needs=Needs(memory_bytes=1 << 30, gpus=gpus, vram_bytes=vram_bytes),
        gpu_uuids=uuids,
        model=model,
        model_host=host,
        schedule_id=draw(st.sampled_from((None, None, *SCHEDULES))),
        tenant=draw(st.sampled_from((None, *TENANTS))),
        max_runtime_s=draw(st.sampled_from((60.0, 3600.0))),
    )
    return an_entry(lease, is_lock_held=draw(st.booleans()))


@st.composite
def some_busy_snapshot(draw: DrawFn) -> Snapshot:
    """Return a world in which tasks only wait or run, and agents are there for most of them."""
    names = map(str, range(draw(st.sampled_from((4, 3, 5, 6, 2, 7, 1)))))
    tasks = [
        replace(
            draw(some_task(name, "local")),
            seed=draw(st.sampled_from((None, 0, 7))),
            labels=draw(st.sampled_from(LABELS)),
            **UNHINDERED,
        )
        for name in names
    ]
    running = range(7, 7 + draw(st.sampled_from((1, 2, 0))))
    agents = [
        an_agent(
            name,
            limit=draw(st.integers(1, 3)),
            queue=draw(st.sampled_from((*QUEUES, "dev"))),
            model=draw(st.sampled_from((None, None, "large"))),
        )
        for name in AGENTS
    ]
    return a_snapshot(
        *tasks,
        *(draw(some_attempt(str(number))) for number in running),
        agents=agents,
        slots=draw(st.sampled_from((4, 3, 5, 2, 6, 7))),
        inventory=draw(st.sampled_from((INVENTORIES[1], *INVENTORIES))),
        skips=draw(st.sampled_from(({}, {}, {"0": 2}, {"1": 1, "2": 2}))),
        lookahead=draw(st.sampled_from((5, 5, 1, 0))),
        fair_share=draw(st.sampled_from(FairShare)),
        memory_available_bytes=draw(st.sampled_from((8, 8, 4, 3))) << 30,
        gpus=draw(st.sampled_from(GPUS)),
        pressed_by=draw(st.sampled_from(AT_WORK)),
        schedule_pressure_delay_s=draw(st.sampled_from(PRESSURE_DELAYS_S)),
        schedule_max_concurrent=draw(st.sampled_from((2, 1))),
    )


@st.composite
def some_world(draw: DrawFn) -> Snapshot:
    """Return any of both kinds, by day or by night; in most of them a policy is asked."""
    snapshot = draw(some_busy_snapshot() | some_snapshot() | some_busy_snapshot())
    later = NOW.wall + timedelta(hours=draw(st.sampled_from(HOURS)))
    coolings = draw(st.sampled_from(COOLINGS))
    return replace(snapshot, now=replace(snapshot.now, wall=later), coolings=coolings)


@st.composite
def shuffled(draw: DrawFn, snapshot: Snapshot) -> Snapshot:
    """Return the same world, told in another order."""
    scan, memory = snapshot.scan, snapshot.memory
    mixed_scan: LeaseScan = replace(
        scan,
        entries=tuple(draw(st.permutations(scan.entries))),
        results=tuple(draw(st.permutations(scan.results))),
        unreadable_results=tuple(draw(st.permutations(scan.unreadable_results))),
    )
    return replace(
        snapshot,
        scan=mixed_scan,
        evidence=dict(draw(st.permutations(list(snapshot.evidence.items())))),
        memory_used=dict(draw(st.permutations(list(snapshot.memory_used.items())))),
        gpus=None
        if snapshot.gpus is None
        else replace(snapshot.gpus, gpus=tuple(draw(st.permutations(snapshot.gpus.gpus)))),
        sources=tuple(
            replace(
                source,
                waiting=tuple(draw(st.permutations(source.waiting))),
                claims=tuple(draw(st.permutations(source.claims))),
            )
            for source in draw(st.permutations(snapshot.sources))
        ),
        agents=tuple(draw(st.permutations(snapshot.agents))),
        memory=replace(memory, stale=tuple(draw(st.permutations(memory.stale)))),
    )
