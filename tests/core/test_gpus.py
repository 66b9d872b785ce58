"""Which GPU a start goes on, and that none is given away before it is free."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING, Any

import pytest
from tests.builders import (
    HOST,
    NOW,
    a_gpu,
    a_lease,
    a_snapshot,
    a_task,
    an_agent,
    an_entry,
)

from tinyscheduler.core import gpus
from tinyscheduler.core.capacity import measure
from tinyscheduler.core.decide import decide
from tinyscheduler.core.gpus import (
    WARM_UP_S,
    find_gpu_users,
    is_look_due,
    masked,
    measure_gpus,
    remember_sightings,
)
from tinyscheduler.core.leases import judge_all
from tinyscheduler.model.leases import Lease, Needs
from tinyscheduler.model.plan import Dispatch, Plan, Reason, Wait
from tinyscheduler.model.resources import Gpu, GpuProcess, GpuReading
from tinyscheduler.model.snapshot import GpuSighting
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.snapshot import Snapshot

GIB = 2**30
FIFO = PlatformPolicy()
ROOMY = (an_agent(limit=9),)


def planned(*things: Any, **more: Any) -> Plan:
    return decide(a_world(*things, **more), FIFO)


def a_world(*things: Any, **more: Any) -> Snapshot:
    return a_snapshot(*things, agents=ROOMY, slots=9, memory_available_bytes=15 * GIB, **more)


def share(task_id: str, gib: int, **more: Any):
    return a_task(task_id, created_order=int(task_id), vram_bytes=gib * GIB, memory_bytes=0, **more)


def whole(task_id: str, number: int = 1, **more: Any):
    return a_task(task_id, created_order=int(task_id), gpus=number, memory_bytes=0, **more)


def placed(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {one.task.task_id: one.gpu_uuids for one in plan.decisions if isinstance(one, Dispatch)}


def why(plan: Plan, task_id: str = "1") -> tuple[Reason, str]:
    (wait,) = (
        one for one in plan.decisions if isinstance(one, Wait) and one.task.task_id == task_id
    )
    return wait.reason, wait.words


def holding(
    task_id: str, *uuids: str, gib: int = 0, number: int = 0, age_s: float = 0, **more: Any
) -> Any:
    """Return the lease of an attempt on these GPUs, so old."""
    lease: Lease = a_lease(
        task_id,
        gpu_uuids=uuids,
        needs=Needs(vram_bytes=gib * GIB, gpus=number),
        monotonic_started_ns=NOW.monotonic_ns - int(age_s * 1e9),
        **more,
    )
    return an_entry(lease)


# -- shares ---------------------------------------------------------------------------


def test_two_that_do_not_fit_beside_each_other_land_on_two_gpus():
    plan = planned(share("1", 14), share("2", 14), share("3", 14), gpus=[a_gpu(0), a_gpu(1)])

    assert placed(plan) == {"1": ("GPU-0",), "2": ("GPU-1",)}
    assert why(plan, "3") == (
        Reason.VRAM_INSUFFICIENT,
        "needs 14 GiB of VRAM, GPU 0 has most free: 10 GiB of 24 GiB",
    )


def test_a_share_goes_where_least_is_left_so_that_large_rests_stay_whole():
    plan = planned(share("1", 5), gpus=[a_gpu(0), a_gpu(1, used=16), a_gpu(2, used=10)])

    assert placed(plan) == {"1": ("GPU-1",)}


def test_equal_gpus_are_taken_by_their_index():
    plan = planned(share("1", 5), gpus=[a_gpu(2), a_gpu(0), a_gpu(1)])

    assert placed(plan) == {"1": ("GPU-0",)}


def test_a_share_larger_than_any_gpu_says_so():
    plan = planned(share("1", 40), gpus=[a_gpu(0), a_gpu(1, total=16)])

    assert why(plan) == (
        Reason.VRAM_INSUFFICIENT,
        "needs 40 GiB of VRAM, the largest GPU here has 24 GiB",
    )


def test_an_agents_vram_counts_where_the_task_says_nothing_and_zero_is_a_word():
    agents = (an_agent(limit=9, vram_bytes=20 * GIB),)
    tasks = [a_task("1", created_order=1), a_task("2", created_order=2, vram_bytes=0)]

    plan = decide(a_snapshot(*tasks, agents=agents, gpus=[a_gpu(0, total=12)]), FIFO)

    assert placed(plan) == {"2": ()}
    assert why(plan)[0] is Reason.VRAM_INSUFFICIENT


# -- reserved against measured ---------------------------------------------------------


def free_for_share(most: int, *things: Any, **more: Any) -> int:
    """Return the largest share, in GiB, that would start."""
    return max(gib for gib in range(most + 1) if placed(planned(*things, share("9", gib), **more)))


def test_what_a_fresh_attempt_reserved_is_not_free_though_it_uses_nothing_yet():
    running = holding("1", "GPU-0", gib=14)

    assert free_for_share(24, running, gpus=[a_gpu(0)]) == 10


def test_what_an_attempt_uses_of_its_share_is_not_counted_twice():
    running = holding("1", "GPU-0", gib=14)

    free = free_for_share(24, running, gpus=[a_gpu(0, p7=12)], gpu_owners={7: "lease-1"})

    assert free == 10


def test_what_it_uses_beyond_its_share_is_not_free_either():
    running = holding("1", "GPU-0", gib=14)

    free = free_for_share(24, running, gpus=[a_gpu(0, p7=20)], gpu_owners={7: "lease-1"})

    assert free == 4


def test_processes_of_others_count_as_used_beside_what_is_reserved():
    running = holding("1", "GPU-0", gib=14)
    gpu = a_gpu(0, p7=9, p8=3)

    assert free_for_share(24, running, gpus=[gpu], gpu_owners={7: "lease-1", 8: None}) == 7


def test_a_process_of_an_attempt_that_was_given_back_is_a_stranger():
    """A reclaimed attempt's memory is free when it is seen free, and not before."""
    gpu = a_gpu(0, p7=14)

    plan = planned(share("2", 14), whole("3"), gpus=[gpu], gpu_owners={7: "lease-gone"})

    assert placed(plan) == {}
    assert why(plan, "2")[1].endswith("GPU 0 has most free: 10 GiB of 24 GiB")
    assert why(plan, "3")[0] is Reason.GPU_UNAVAILABLE
    assert placed(planned(share("2", 14), gpus=[a_gpu(0)])) == {"2": ("GPU-0",)}


@pytest.mark.parametrize(
    ("age_s", "pid_ns", "free"),
    [
        (0, 4711, 0),  # it may not have begun to use its share: what is used is of others
        (WARM_UP_S + 1, 4711, 10),  # by now it is taken to use what is used
        (WARM_UP_S + 1, 0xEFFFFFFC, 0),  # outside of containers whoever is unseen is no task
    ],
)
def test_in_a_container_nobody_knows_whose_a_process_is(age_s: float, pid_ns: int, free: int):
    running = holding("1", "GPU-0", gib=14, age_s=age_s)
    snapshot = a_world(running, gpus=[a_gpu(0, p7=12)])

    found = max(
        gib
        for gib in range(25)
        if placed(
            decide(
                replace(
                    snapshot,
                    host=replace(HOST, pid_ns=pid_ns, memory_available_bytes=15 * GIB),
                    sources=a_world(share("9", gib)).sources,
                ),
                FIFO,
            )
        )
    )

    assert found == free


def test_a_gpu_that_shares_the_memory_of_the_machine_has_as_much():
    gpu = Gpu(index=0, uuid="GPU-0", name="GB10", total_bytes=None, processes=None)

    plan = planned(share("1", 14), share("2", 14), gpus=[gpu])

    assert placed(plan) == {"1": ("GPU-0",)}
    assert why(plan, "2")[1].endswith("GPU 0 has most free: 1 GiB of 16 GiB")


def unified(*processes: tuple[int, int | None], told: bool = True) -> Gpu:
    """Return a GPU that shares the memory of the machine; who uses how many GiB of it."""
    users = tuple(
        GpuProcess(pid=pid, used_bytes=None if gib is None else gib * GIB) for pid, gib in processes
    )
    return Gpu(
        index=0,
        uuid="GPU-0",
        name="GB10",
        total_bytes=None,
        processes=users if told else None,
    )


def test_of_a_shared_memory_a_share_comes_on_top_of_what_the_task_itself_needs():
    tasks = [
        replace(share("1", 6), memory_bytes=4 * GIB),
        replace(share("2", 3), memory_bytes=3 * GIB),
        a_task("3", created_order=3, memory_bytes=6 * GIB),
        a_task("4", created_order=4, memory_bytes=5 * GIB),
    ]

    plan = planned(*tasks, gpus=[unified()])

    assert placed(plan) == {"1": ("GPU-0",), "4": ()}
    start = next(one for one in plan.decisions if isinstance(one, Dispatch))
    assert (start.needs.memory_bytes, start.needs.vram_bytes) == (4 * GIB, 6 * GIB)
    assert start.needs.shared_bytes == 6 * GIB
    # 15 GiB, less 10 of the first, less 5 of the last.
    assert why(plan, "2") == (
        Reason.MEMORY_INSUFFICIENT,
        "needs 3 GiB of memory, 0 B are free: 15 GiB are available, 15 GiB of it reserved",
    )
    besides = "besides 3 GiB of the same memory for the task itself"
    assert why(planned(*tasks[:3], gpus=[unified()]), "2") == (
        Reason.VRAM_INSUFFICIENT,
        f"needs 3 GiB of VRAM, GPU 0 has most free: 2 GiB of 16 GiB, {besides}",
    )
    assert why(plan, "3")[0] is Reason.MEMORY_INSUFFICIENT


def test_a_gpu_with_memory_of_its_own_takes_none_of_the_machines():
    plan = planned(replace(share("1", 20), memory_bytes=4 * GIB), gpus=[a_gpu(0)])

    (start,) = (one for one in plan.decisions if isinstance(one, Dispatch))
    assert start.needs.shared_bytes == 0


def holding_shared(gib: int, *, age_s: float = 0, written: bool = True) -> Any:
    """Return the lease of an attempt with such a share, of this version or of an older one."""
    entry = holding("1", "GPU-0", gib=gib, age_s=age_s)
    needs = replace(entry.lease.needs, shared_bytes=gib * GIB if written else 0)
    return an_entry(replace(entry.lease, needs=needs))


@pytest.mark.parametrize(
    ("gib", "age_s", "gpu", "free"),
    [
        (10, 0, unified(), 2),  # fresh: 12 GiB are available, 10 of it promised
        (10, 0, unified(told=False), 2),
        (10, 0, unified((7, 4)), 6),  # 4 of the 10 are among the 4 in use already
        (10, 99, unified((7, 4)), 6),
        (3, 99, unified((7, 4)), 12),  # more than it asked for: measured, and that is all
        (10, 99, unified((7, None)), 6),  # it may use all 4 that are in use, and no more
        (10, 99, unified(told=False), 6),
        (10, 99, unified((8, 3)), 3),  # of which 3 are a stranger's
        (10, 99, unified((9, 3)), 6),  # or of one that cannot be seen, and so its own perhaps
        (3, 99, unified(told=False), 12),
        (10, 0, None, 2),  # nobody looked
        (10, 99, None, 6),
    ],
)
@pytest.mark.parametrize("written", [True, False])
def test_what_a_live_attempt_reserved_of_a_shared_memory_is_not_free_for_anybody(
    gib: int, age_s: float, gpu: Gpu | None, free: int, *, written: bool
):
    """Neither for a task that needs memory, nor for one that needs a share of the GPU."""
    if gpu is None and not written:
        free = 12  # then nothing tells
    running = holding_shared(gib, age_s=age_s, written=written)
    world: dict[str, Any] = {
        "gpus": None if gpu is None else [gpu],
        "gpu_owners": {7: "lease-1", 8: None},
        "agents": ROOMY,
        "slots": 9,
        "memory_available_bytes": 12 * GIB,
    }

    def most(kind: Callable[[int], Any]) -> int:
        plans = [decide(a_snapshot(running, kind(size), **world), FIFO) for size in range(17)]
        return max(size for size, plan in enumerate(plans) if placed(plan))

    assert most(lambda size: a_task("2", memory_bytes=size * GIB)) == free
    if gpu is not None:
        assert most(lambda size: share("2", size)) == free


def test_what_its_processes_have_resident_is_counted_beside_it():
    entry = holding_shared(6)
    needs = replace(entry.lease.needs, memory_bytes=4 * GIB)
    running = an_entry(replace(entry.lease, needs=needs))

    snapshot = a_world(
        running, gpus=[unified((7, 2))], gpu_owners={7: "lease-1"}, memory_used={"lease-1": GIB}
    )
    capacity = measure(snapshot, judge_all(snapshot))

    # 3 of its own memory and 4 of its share are still to come; it gives back what it uses.
    assert capacity.memory.unused_bytes == 7 * GIB
    (held,) = capacity.held
    assert (held.unused_bytes, held.used_bytes) == (7 * GIB, 3 * GIB)
    assert capacity.gpu_views()[0].free_bytes == 8 * GIB
    after = capacity.give_back([held])
    assert after.memory.free_bytes == 16 * GIB
    assert after.gpu_views()[0].free_bytes == 16 * GIB


def test_a_whole_gpu_of_a_shared_memory_is_had_however_much_the_machine_uses():
    plan = planned(whole("1"), whole("2"), share("3", 1), gpus=[unified(told=False)])

    assert placed(plan) == {"1": ("GPU-0",)}
    assert why(plan, "2")[1] == "needs a whole GPU, 0 are free: GPU 0 is used by task 1"
    assert why(plan, "3")[0] is Reason.VRAM_INSUFFICIENT
    assert placed(planned(whole("1"), gpus=[unified((8, 1))], gpu_owners={8: None})) == {}


def test_a_whole_one_counts_for_the_memory_that_was_asked_for():
    first = whole("1", vram_bytes=9 * GIB)

    second = a_task("2", created_order=2, memory_bytes=7 * GIB)

    plan = planned(first, second, gpus=[unified()])
    late = planned(replace(first, memory_bytes=7 * GIB), gpus=[unified()])

    assert placed(plan) == {"1": ("GPU-0",)}
    assert why(plan, "2")[0] is Reason.MEMORY_INSUFFICIENT
    reason, words = why(late, "1")
    assert reason is Reason.VRAM_INSUFFICIENT
    assert words.startswith("needs a whole GPU of 9 GiB, GPU 0 has 8 GiB free, besides 7 GiB of")


def test_who_takes_memory_overtakes_who_waits_for_a_share_of_it():
    running = holding_shared(8)
    first = share("2", 9)
    small = a_task("3", created_order=3, memory_bytes=GIB)
    more: dict[str, Any] = {"gpus": [unified()]}

    (start,) = (
        one for one in planned(running, first, small, **more).decisions if isinstance(one, Dispatch)
    )
    reserved = planned(running, first, small, skips={"2": 2}, **more)

    assert [one.task_id for one in start.overtakes] == ["2"]
    assert why(reserved, "3")[0] is Reason.OVERTAKEN_LIMIT
    discrete = holding("1", "GPU-0", gib=20)
    passed = planned(discrete, first, small, skips={"2": 2}, gpus=[a_gpu(0)])
    assert placed(passed) == {"3": ()}


# -- whole GPUs -------------------------------------------------------------------------


def test_whole_gpus_are_shared_with_nobody():
    plan = planned(whole("1"), share("2", 1), whole("3"), gpus=[a_gpu(0), a_gpu(1)])

    assert placed(plan) == {"1": ("GPU-0",), "2": ("GPU-1",)}
    assert why(plan, "3") == (
        Reason.GPU_UNAVAILABLE,
        "needs a whole GPU, 0 are free: GPU 0 is used by task 1; GPU 1 is used by task 2",
    )


def test_the_smallest_that_do_are_taken():
    plan = planned(
        whole("1", 2, vram_bytes=20 * GIB),
        gpus=[a_gpu(0, total=80), a_gpu(1), a_gpu(2, total=12), a_gpu(3)],
    )

    assert placed(plan) == {"1": ("GPU-1", "GPU-3")}


def test_a_desktop_leaves_a_gpu_whole_and_a_stranger_does_not():
    desktop, stranger = a_gpu(0, used=2), a_gpu(1, p7=1)

    plan = planned(whole("1"), whole("2"), gpus=[stranger, desktop], gpu_owners={7: None})

    assert placed(plan) == {"1": ("GPU-0",)}
    assert why(plan, "2")[1] == (
        "needs a whole GPU, 0 are free:"
        " GPU 0 is used by task 1; GPU 1 is used by 1 process of others"
    )


def test_one_that_is_nearly_full_of_nobody_known_is_not_whole():
    plan = planned(whole("1"), gpus=[a_gpu(0, used=20)])

    assert why(plan)[1] == "needs a whole GPU, 0 are free: GPU 0 has only 4 GiB free of 24 GiB"


def test_of_many_that_are_in_use_some_are_named():
    busy = [a_gpu(index, p7=1) for index in range(10)]

    words = why(planned(whole("1"), gpus=busy, gpu_owners={7: None}))[1]

    assert words.endswith("GPU 7 is used by 1 process of others; and 2 more")


def test_more_than_there_are_is_said_to_be_that():
    plan = planned(whole("1", 3), gpus=[a_gpu(0), a_gpu(1)])

    assert why(plan) == (Reason.GPU_UNAVAILABLE, "needs 3 GPUs, this machine has 2")


def test_a_lease_on_whole_gpus_keeps_them_though_nothing_is_used():
    running = holding("1", "GPU-0", "GPU-1", number=2, age_s=9999)

    plan = planned(running, share("2", 1), gpus=[a_gpu(0), a_gpu(1)])

    assert placed(plan) == {}


def test_what_is_being_ended_keeps_its_gpu():
    hung = an_entry(a_lease("1", gpu_uuids=("GPU-0",), needs=Needs(gpus=1), max_runtime_s=-9999))

    assert placed(planned(hung, whole("2"), gpus=[a_gpu(0)])) == {}


# -- where processes sit ------------------------------------------------------------------


def users(*things: Any, **more: Any) -> list[tuple[str, int, tuple[int, ...], bool]]:
    return [
        (one.lease.task_id, one.gpu.index, one.pids, one.is_misplaced)
        for one in find_gpu_users(a_world(*things, **more))
    ]


def test_who_sits_where_it_was_put_is_not_misplaced_and_who_sits_elsewhere_is():
    things = [holding("1", "GPU-0", gib=14), holding("2", "GPU-1", gib=14), holding("3")]
    gpus = [a_gpu(1, p9=1), a_gpu(0, p7=2, p8=3, p6=1, p5=1)]
    owners = {5: "lease-3", 6: "lease-gone", 7: "lease-1", 8: "lease-2", 9: "lease-2"}

    assert users(*things, gpus=gpus, gpu_owners=owners) == [
        ("1", 0, (7,), False),
        ("2", 0, (8,), True),
        ("3", 0, (5,), True),
        ("2", 1, (9,), False),
    ]


@pytest.mark.parametrize(
    ("use", "uuids", "words"),
    [
        ((2, 1), ("GPU-1",), "(3 GiB, pids 7, 8) and was put on GPU 1"),
        ((None, 1), ("GPU-1", "GPU-gone"), "(1 GiB, pids 7, 8) and was put on GPU 1 and GPU-gone"),
        ((None,), (), "(pid 7) and asked for none"),
    ],
)
def test_it_is_said_in_words(use: tuple[int | None, ...], uuids: tuple[str, ...], words: str):
    processes = tuple(
        GpuProcess(pid=7 + number, used_bytes=None if gib is None else gib * GIB)
        for number, gib in enumerate(use)
    )
    gpu = replace(a_gpu(0), processes=processes)

    (user,) = find_gpu_users(
        a_world(
            holding("1", *uuids),
            gpus=[gpu, a_gpu(1)],
            gpu_owners={7: "lease-1", 8: "lease-1"},
        )
    )

    assert user.words == f"task 1 is on GPU 0 {words}"


def test_without_a_look_nobody_sits_anywhere():
    assert users(holding("1", "GPU-0", gib=1)) == []
    assert users(holding("1", "GPU-0"), gpus=GpuReading(fault="it hangs")) == []
    untold = replace(a_gpu(0), processes=None)
    assert users(holding("1", "GPU-0"), gpus=[untold]) == []


@pytest.mark.parametrize(("pid_ns", "told"), [(0xEFFFFFFC, True), (4711, False)])
def test_in_a_container_numbers_tell_nothing_if_one_of_them_cannot_be_seen(
    pid_ns: int, *, told: bool
):
    things = [holding("1", "GPU-0", gib=14)]
    gpus = [a_gpu(0), a_gpu(1, p7=3, p8=1)]
    snapshot = a_world(*things, share("9", 14), gpus=gpus, gpu_owners={7: "lease-1"})

    world = replace(snapshot, host=replace(snapshot.host, pid_ns=pid_ns))

    assert bool(find_gpu_users(world)) is told
    (view,) = (one for one in measure_gpus(world, [things[0].lease]).gpus if one.index == 1)
    assert (view.misplaced, view.strangers) == ((("1",), 1) if told else ((), 2))
    assert view.free_bytes == 20 * GIB


def test_a_gpu_that_the_mask_hides_is_looked_at_all_the_same():
    reading = masked(GpuReading(gpus=(a_gpu(0), a_gpu(1, p7=3))), "0")

    assert users(holding("1", "GPU-0"), gpus=reading, gpu_owners={7: "lease-1"}) == [
        ("1", 1, (7,), True)
    ]
    nothing = masked(reading, "9")
    assert nothing.hidden == reading.gpus


def test_what_a_misplaced_attempt_uses_is_used_there_and_its_own_place_stays_reserved():
    running = holding("1", "GPU-0", gib=14)
    there = {"gpus": [a_gpu(0), a_gpu(1, p7=6)], "gpu_owners": {7: "lease-1"}}

    plan = planned(running, share("2", 18), share("3", 11), whole("4"), **there)

    assert placed(plan) == {"2": ("GPU-1",)}
    assert why(plan, "3")[1].endswith("GPU 0 has most free: 10 GiB of 24 GiB")
    assert why(plan, "4")[1] == (
        "needs a whole GPU, 0 are free: GPU 0 is used by task 1;"
        " GPU 1 is used by tasks 2, 1 (put elsewhere)"
    )


def test_once_it_ends_it_is_gone_from_both():
    snapshot = a_world(
        holding("1", "GPU-0", gib=14), gpus=[a_gpu(0), a_gpu(1, p7=6)], gpu_owners={7: "lease-1"}
    )
    (entry,) = snapshot.scan.entries
    assert isinstance(entry.lease, Lease)

    after = measure_gpus(snapshot, [entry.lease]).give_back(["1"]).gpus

    assert [(one.free_bytes, one.is_idle, one.misplaced) for one in after] == [
        (24 * GIB, True, ()),
        (24 * GIB, True, ()),
    ]


# -- when to look for attempts ------------------------------------------------------------


def due(age_s: float, *sightings: GpuSighting, **more: Any) -> bool:
    scan = a_world(holding("1", "GPU-0", gib=1, age_s=age_s, **more)).scan
    return is_look_due(scan, sightings, NOW)


def looked(at_s: int, *uuids: str, lease_id: str = "lease-1") -> GpuSighting:
    return GpuSighting(lease_id=lease_id, uuids=uuids, looked_s=at_s)


def test_an_attempt_is_looked_for_after_its_warm_up_and_whenever_its_age_has_doubled():
    assert not due(WARM_UP_S - 1)
    assert due(WARM_UP_S)
    assert not due(100, looked(60))
    assert due(120, looked(60))
    assert due(100, looked(60, lease_id="lease-2"))


def test_who_was_seen_is_looked_for_no_more():
    assert not due(9999, looked(60, "GPU-0"))
    assert not due(9999, looked(0, "GPU-1"))


def test_who_is_on_no_gpu_or_of_another_boot_is_not_looked_for():
    scan = a_world(holding("1", age_s=9999)).scan

    assert not is_look_due(scan, (), NOW)
    assert not due(9999, boot_id="earlier-boot")


def remembered(*things: Any, before: tuple[GpuSighting, ...] = (), **more: Any) -> Any:
    snapshot = a_world(*things, **more)
    return remember_sightings(snapshot, find_gpu_users(snapshot), before)


def test_what_was_seen_is_remembered_while_the_attempt_lives():
    there: dict[str, Any] = {
        "gpus": [a_gpu(0, p7=1), a_gpu(1, p8=1)],
        "gpu_owners": {7: "lease-1", 8: "lease-2"},
    }
    first, second = holding("1", "GPU-0", age_s=70), holding("2", age_s=5)

    after = remembered(first, second, holding("3", "GPU-0", age_s=5), **there)

    assert after == (looked(70, "GPU-0"), looked(0, "GPU-1", lease_id="lease-2"))
    there["gpus"] = [a_gpu(0), a_gpu(1, p7=1)]
    assert remembered(first, before=after, **there) == (looked(70, "GPU-0", "GPU-1"),)
    assert remembered(first, before=after) == (looked(70, "GPU-0"),)


def test_a_look_that_saw_nothing_is_remembered_too_whatever_the_driver_said():
    young, old = holding("1", "GPU-0", age_s=70), holding("1", "GPU-0", age_s=150)

    assert remembered(young) == ()
    assert remembered(young, gpus=GpuReading(fault="it hangs")) == (looked(70),)
    assert remembered(old, before=(looked(70),), gpus=[a_gpu(0)]) == (looked(150),)
    assert remembered(old, before=(looked(80),), gpus=[a_gpu(0)]) == (looked(80),)


# -- what cannot be seen ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "reason", "words"),
    [
        (
            GpuReading(fault="this machine has no NVIDIA driver", is_absent=True),
            Reason.GPU_UNAVAILABLE,
            "needs a GPU: this machine has no NVIDIA driver",
        ),
        (
            GpuReading(fault="the driver did not answer within 1.5 s"),
            Reason.GPU_UNKNOWN,
            "needs a GPU: the driver did not answer within 1.5 s",
        ),
        (None, Reason.GPU_UNKNOWN, "needs a GPU: no look was taken at the GPUs"),
    ],
)
def test_without_sight_only_what_needs_none_starts(
    reading: GpuReading | None, reason: Reason, words: str
):
    plan = planned(share("1", 1), a_task("2", memory_bytes=0), gpus=reading)

    assert placed(plan) == {"2": ()}
    assert why(plan) == (reason, words)


def test_a_lost_gpu_keeps_nothing_from_the_others():
    lost = Gpu(index=0, uuid="GPU-0", name="RTX", fault="GPU is lost")

    plan = planned(share("1", 14), whole("2"), gpus=[lost, a_gpu(1)])

    assert placed(plan) == {"1": ("GPU-1",)}
    assert why(planned(whole("1", 2), gpus=[lost, a_gpu(1)])) == (
        Reason.GPU_UNKNOWN,
        "needs 2 whole GPUs; GPU 0: GPU is lost",
    )


def test_processes_whose_use_is_not_told_are_there_all_the_same():
    gpu = replace(a_gpu(0), processes=(GpuProcess(pid=7, used_bytes=None),))

    assert placed(planned(whole("1"), gpus=[gpu], gpu_owners={7: None})) == {}


def test_of_ours_whose_use_is_not_told_what_they_reserved_counts():
    gpu = replace(a_gpu(0), processes=(GpuProcess(pid=7, used_bytes=None),))
    running = holding("1", "GPU-0", gib=14)

    assert free_for_share(24, running, gpus=[gpu], gpu_owners={7: "lease-1"}) == 10


# -- the mask -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        (None, (0, 1, 2)),
        ("1", (1,)),
        ("2,0", (0, 2)),
        ("GPU-1", (1,)),
        ("0,GPU-2", (0, 2)),
        ("0,9,1", (0,)),  # nothing after one that is none
        ("0,0,1", (0,)),
        (" 1 , 2 ", (1, 2)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("GPU-", ()),  # which of them?
    ],
)
def test_the_mask_is_read_as_programs_read_it(mask: str | None, shown: tuple[int, ...]):
    reading = GpuReading(gpus=(a_gpu(0), a_gpu(1), a_gpu(2)))

    found = masked(reading, mask)

    assert tuple(gpu.index for gpu in found.gpus) == shown
    assert found.is_absent is not bool(shown)
    if not shown:
        assert found.fault == f"CUDA_VISIBLE_DEVICES={mask!r} shows none of 3 GPUs"


def test_a_mask_over_nothing_seen_leaves_the_fault():
    unknown = GpuReading(fault="it hangs")

    assert masked(unknown, "0") == unknown


def test_the_examples_in_its_docstrings_hold():
    assert doctest.testmod(gpus).failed == 0
