"""Why a task waits is said with numbers, names, and what would change it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.builders import NOW, a_gpu, a_lease, a_record, a_snapshot, a_task, an_agent, an_entry

from tinyscheduler.core.decide import decide
from tinyscheduler.core.explain import Cap, Explanation, Shortfall, explain, never_ends
from tinyscheduler.core.whatif import Ended, Less, Raised
from tinyscheduler.model.leases import Needs
from tinyscheduler.model.plan import Reason
from tinyscheduler.model.resources import Gpu
from tinyscheduler.model.switches import Switch, SwitchKind, Target, TargetKind
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Snapshot

LATER = NOW.wall + timedelta(seconds=60)


def explained(snapshot: Snapshot, task_id: str) -> Explanation:
    policy = PlatformPolicy()
    plan = decide(snapshot, policy)
    task = next(one for one in snapshot.sources[0].waiting if one.task_id == task_id)
    explanation = explain(snapshot, plan, task, policy, window=99)
    assert explanation is not None
    return explanation


def test_a_task_that_nothing_keeps_has_no_reason():
    explanation = explained(a_snapshot(a_task("1")), "1")

    assert explanation.wait is None
    assert explanation.remedies == ()


def test_the_agents_limit_names_who_runs_and_who_starts_first():
    snapshot = a_snapshot(
        an_entry(a_lease("7")),
        an_entry(a_lease("8", agent="other")),
        a_task("1"),
        a_task("2", created_order=1),
        agents=[an_agent("coder", limit=2), an_agent("other", limit=5)],
    )

    explanation = explained(snapshot, "2")

    assert explanation.caps == (Cap(agent="coder", limit=2, used_by=("7",), taken_by=("1",)),)
    assert explanation.caps[0].words == "agent coder: 2 of 2 slots used, by 7; 1 starts first"
    assert [type(one) for one in explanation.changes] == [Ended, Raised]


def test_a_cap_names_whom_it_can_and_counts_the_rest():
    started = tuple(str(number) for number in range(12))

    assert Cap(agent=None, limit=12, used_by=(), taken_by=started).words == (
        "this machine: 12 of 12 slots used; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more start first"
    )
    used = Cap(agent="a", limit=1, used_by=("7",), taken_by=())
    assert used.words == "agent a: 1 of 1 slots used, by 7"


def test_the_machines_limit_counts_all_agents():
    snapshot = a_snapshot(an_entry(a_lease("7", agent="gone")), a_task("1"), slots=1)

    explanation = explained(snapshot, "1")

    assert explanation.caps == (Cap(agent=None, limit=1, used_by=("7",), taken_by=()),)
    assert explanation.changes[1:] == (Raised(limit="machine", name="this machine", to=2),)


def test_a_limit_of_nothing_is_said_to_be_for_ever():
    snapshot = a_snapshot(a_task("1"), agents=[an_agent("coder", limit=0)])

    explanation = explained(snapshot, "1")

    assert explanation.caps[0].words.endswith("its limit is 0, so nothing of it can start")
    assert explanation.changes == (Raised(limit="agent", name="coder", to=1),)


def test_of_a_queue_every_agent_that_serves_it_is_named():
    agents = [an_agent("coder", limit=1), an_agent("tester", limit=1), an_agent("x", queue="ops")]
    snapshot = a_snapshot(
        an_entry(a_lease("7")),
        an_entry(a_lease("8", agent="tester")),
        a_task("1", queue="dev"),
        agents=agents,
    )

    assert [cap.agent for cap in explained(snapshot, "1").caps] == ["coder", "tester"]


def test_an_agent_that_has_a_slot_free_is_told_with_the_bound_that_keeps_it():
    agents = [an_agent("coder", limit=4, max_per_host=1), an_agent("tester", limit=0)]
    snapshot = a_snapshot(an_entry(a_lease("7")), a_task("1", queue="dev"), agents=agents)

    explanation = explained(snapshot, "1")

    assert explanation.caps == (Cap(agent="tester", limit=0, used_by=(), taken_by=()),)
    assert explanation.words == (
        "agent tester: its limit is 0, so nothing of it can start",
        "agent coder runs 1 on host local, and max_per_host is 1",
    )


def test_what_keeps_it_from_another_agent_is_not_said_twice():
    agents = [an_agent("coder", limit=1), an_agent("big", limit=1, memory_bytes=99 << 30)]
    snapshot = a_snapshot(an_entry(a_lease("7")), a_task("1", queue="dev"), agents=agents)

    explanation = explained(snapshot, "1")

    assert explanation.words == (
        "agent coder: 1 of 1 slots used, by 7",
        "needs 99 GiB of memory, 8 GiB are free",
    )
    assert explanation.next_binding == ()


def test_a_paused_agent_is_no_limit_that_keeps_a_task_of_its_queue():
    pause = Switch(
        kind=SwitchKind.PAUSE,
        target=Target(kind=TargetKind.AGENT, name="tester"),
        since=NOW.wall,
        by="me",
        reason="",
    )
    agents = [an_agent("coder", limit=1), an_agent("tester", limit=5)]
    snapshot = a_snapshot(an_entry(a_lease("7")), a_task("1", queue="dev"), agents=agents)

    explanation = explained(replace(snapshot, switches=(pause,)), "1")

    assert explanation.words == ("agent coder: 1 of 1 slots used, by 7",)


@pytest.mark.parametrize(
    ("obstacle", "reason", "remedy"),
    [
        ({"is_held": True}, Reason.HELD, "`tinyscheduler release 1` lets it go"),
        ({"not_before": LATER}, Reason.NOT_BEFORE, "it becomes due by itself"),
        (
            {"backing_off_until": LATER},
            Reason.BACKING_OFF,
            "`tinyscheduler retry 1` makes it due at once",
        ),
        ({"agent": "nobody"}, Reason.UNPLACED, "agents there are: coder"),
    ],
)
def test_each_obstacle_has_its_way_out(obstacle, reason: Reason, remedy: str):
    explanation = explained(a_snapshot(a_task("1", **obstacle)), "1")

    assert explanation.wait is not None
    assert explanation.wait.reason is reason
    assert explanation.caps == ()
    assert explanation.remedies[-1].endswith(remedy)


def test_what_its_source_says_is_in_the_way_is_all_there_is_to_say():
    explanation = explained(a_snapshot(a_task("1", impediment="no recipe: create it")), "1")

    assert explanation.wait is not None
    assert explanation.wait.reason is Reason.UNPLACED
    assert (explanation.words, explanation.remedies) == (("no recipe: create it",), ())


def test_without_any_agent_none_is_named():
    snapshot = a_snapshot(a_task("1", agent="nobody"), agents=[])

    assert explained(snapshot, "1").remedies[0].endswith("agents there are: none")


def test_what_lies_about_of_the_last_attempt_is_shown_by_ps():
    snapshot = a_snapshot(an_entry(None, task_id="1"), a_task("1"))

    explanation = explained(snapshot, "1")

    assert explanation.wait is not None
    assert explanation.wait.reason is Reason.UNPLACED
    assert "`tinyscheduler ps` shows it" in explanation.remedies[0]


def test_switched_off_is_switched_on_by_its_setting():
    explanation = explained(a_snapshot(a_task("1"), is_enabled=False), "1")

    assert explanation.remedies == ("set TINYSCHEDULER_ENABLED to true",)


def test_a_blocked_task_gets_its_ways_out_from_its_blockers():
    explanation = explained(a_snapshot(a_task("1", blocked_by=("5",))), "1")

    assert explanation.wait is not None
    assert explanation.wait.reason is Reason.BLOCKED_BY
    assert explanation.remedies == ()


def test_a_task_that_is_gone_has_no_explanation():
    snapshot = a_snapshot(a_task("1"))
    plan = decide(snapshot, PlatformPolicy())

    assert explain(snapshot, plan, a_task("2"), PlatformPolicy(), window=99) is None


@pytest.mark.parametrize("state", TaskState)
def test_only_what_has_ended_otherwise_or_is_held_never_ends(state: TaskState):
    way = never_ends(a_record(state=state))

    expected = {
        TaskState.FAILED: "retry",
        TaskState.PARKED: "retry",
        TaskState.CANCELLED: "retry",
        TaskState.HELD: "release",
    }
    assert (way is None) == (state not in expected)
    assert expected.get(state, "") in (way or "")


def test_too_little_memory_is_told_with_how_much_less_would_do():
    holder = an_entry(a_lease("7", needs=Needs(memory_bytes=5 << 30)))
    agents = [an_agent("coder", limit=5)]

    explanation = explained(
        a_snapshot(holder, a_task("1", memory_bytes=4 << 30), agents=agents), "1"
    )

    assert explanation.shortfall == Shortfall(
        resource="memory", needed_bytes=4 << 30, free_bytes=3 << 30
    )
    assert explanation.changes[0] == Less(of="memory", at_most=3 << 30)


def test_what_an_agent_needs_that_lacks_something_else_is_no_shortfall():
    agents = [an_agent("small", limit=0, memory_bytes=1 << 30), an_agent(memory_bytes=9 << 30)]

    explanation = explained(a_snapshot(a_task("1", queue="dev"), agents=agents), "1")

    assert explanation.shortfall == Shortfall(
        resource="memory", needed_bytes=9 << 30, free_bytes=8 << 30
    )


def test_too_little_vram_is_told_after_what_starts_before():
    tasks = [a_task(str(n), created_order=n, vram_bytes=14 << 30) for n in (1, 2)]
    snapshot = a_snapshot(*tasks, agents=[an_agent("coder", limit=5)], gpus=[a_gpu(0)])

    explanation = explained(snapshot, "2")

    assert explanation.shortfall == Shortfall(
        resource="vram", needed_bytes=14 << 30, free_bytes=10 << 30
    )
    assert explanation.changes[0] == Less(of="vram", at_most=10 << 30)


def test_where_nothing_at_all_is_free_no_smaller_word_helps():
    full = a_snapshot(a_task("1", vram_bytes=1 << 30), gpus=[a_gpu(0, used=24)])

    explanation = explained(full, "1")

    assert explanation.shortfall is not None
    assert explanation.shortfall.free_bytes == 0
    assert explanation.changes == ()


def test_where_no_gpu_is_so_large_the_largest_is_what_there_is():
    large = a_snapshot(a_task("1", gpus=1, vram_bytes=30 << 30), gpus=[a_gpu(0)])

    explanation = explained(large, "1")

    assert explanation.shortfall == Shortfall(
        resource="vram", needed_bytes=30 << 30, free_bytes=24 << 30
    )
    assert explanation.changes == (Less(of="vram", at_most=24 << 30),)


def test_where_a_gpu_shares_the_memory_its_share_is_part_of_what_would_do():
    gpu = Gpu(index=0, uuid="GPU-0", name="GB10", total_bytes=None, processes=None)
    agents = [an_agent("coder", limit=5)]

    def asking(memory_gib: int, vram_gib: int) -> Snapshot:
        task = a_task("1", memory_bytes=memory_gib << 30, vram_bytes=vram_gib << 30)
        return a_snapshot(task, agents=agents, gpus=[gpu])

    # 8 GiB are available.
    vram, memory = explained(asking(2, 9), "1"), explained(asking(9, 3), "1")

    assert vram.shortfall == Shortfall(resource="vram", needed_bytes=9 << 30, free_bytes=6 << 30)
    assert memory.shortfall == Shortfall(
        resource="memory", needed_bytes=9 << 30, free_bytes=5 << 30
    )
    for asked in ((2, 6), (5, 3)):
        assert explained(asking(*asked), "1").wait is None
    assert explained(asking(9, 9), "1").shortfall == Shortfall(
        resource="memory", needed_bytes=9 << 30, free_bytes=0
    )


def test_where_more_go_first_than_were_looked_at_no_change_is_claimed_to_help():
    tasks = [a_task(str(number), created_order=number) for number in range(1, 5)]
    snapshot, policy = a_snapshot(*tasks, agents=[an_agent("coder", limit=1)]), PlatformPolicy()
    plan = decide(snapshot, policy)

    far = explain(snapshot, plan, tasks[3], policy, window=3)
    near = explain(snapshot, plan, tasks[3], policy, window=4)

    assert far is not None
    assert near is not None
    assert (far.is_lost_to_view, far.changes) == (True, ())
    assert (near.is_lost_to_view, near.changes[0]) == (
        False,
        Raised(limit="agent", name="coder", to=4),
    )
