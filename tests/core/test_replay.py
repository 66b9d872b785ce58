"""Where two plans differ is said in words, and nothing is said where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from tests.builders import (
    NOW,
    a_claim,
    a_lease,
    a_result,
    a_task,
    an_entry,
)
from tests.core.worlds import some_snapshot

from tinyscheduler.core.decide import decide
from tinyscheduler.core.leases import trace_of
from tinyscheduler.core.replay import Difference, compare, subject_of, tell
from tinyscheduler.model.leases import Needs, ReclaimReason
from tinyscheduler.model.plan import (
    AwaitSource,
    Dispatch,
    EndTree,
    Keep,
    PassOnCancel,
    Plan,
    Reason,
    Reclaim,
    RepairLost,
    Settle,
    SettleUnreadable,
    Suspect,
    Sweep,
    SweepCancel,
    Verdict,
    Wait,
)
from tinyscheduler.model.snapshot import Deferral, StaleSighting, UnreadableResult
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.plan import Decision

LEASE = a_lease("1")
ENTRY = an_entry(LEASE)
SIGHTING = StaleSighting(lease_id="lease-1", beat_ns=1, seen_ns=2, boot_id="b")
START = Dispatch(task=a_task("7"), agent="coder", needs=Needs())
WAIT = Wait(task=a_task("7"), reason=Reason.AGENT_LIMIT, words="agent coder runs 1 of 1")
TRACE = trace_of(ENTRY, LEASE)
REASON = ReclaimReason.DEAD_PID


def a_plan(*verdicts: Verdict, decisions: tuple[Decision, ...] = (), slots: int = 0) -> Plan:
    return Plan(verdicts=verdicts, decisions=decisions, slots_in_use=slots)


SAID = [
    (Settle(entry=ENTRY, result=a_result("1")), "attempt at task 1", "settle, succeeded"),
    (
        SettleUnreadable(entry=ENTRY, result=UnreadableResult(lease_id="x", message="")),
        "attempt at task 1",
        "settle, nobody can read how it ended",
    ),
    (
        SettleUnreadable(entry=None, result=UnreadableResult(lease_id="x", message="")),
        "result of attempt x",
        "settle, nobody can read how it ended",
    ),
    (
        AwaitSource(entry=ENTRY, source="far"),
        "attempt at task 1",
        "keep its result until source far answers",
    ),
    (Reclaim(entry=ENTRY, reason=REASON), "attempt at task 1", "give back, dead_pid"),
    (
        EndTree(trace=TRACE, reason=REASON, agent="coder", attempt=1),
        "attempt at task 1",
        "end its processes, dead_pid",
    ),
    (
        Suspect(entry=ENTRY, sighting=SIGHTING),
        "attempt at task 1",
        "note that its heartbeat is stale",
    ),
    (Keep(entry=ENTRY), "attempt at task 1", "leave alone"),
    (RepairLost(claim=a_claim("1")), "attempt at task 1", "give back, lost"),
    (Sweep(entry=ENTRY), "attempt at task 1", "remove its lock"),
    (PassOnCancel(claim=a_claim("1")), "wish to cancel task 1", "pass on to its attempt"),
    (SweepCancel(lease_id="x"), "request to end attempt x", "remove"),
    (START, "task 7", "start attempt 1 by agent coder"),
    (
        replace(
            START,
            needs=Needs(memory_bytes=2 << 30, vram_bytes=1 << 30),
            gpu_uuids=("GPU-a", "GPU-b"),
            overtakes=(a_task("5"), a_task("6")),
        ),
        "task 7",
        ("start attempt 1 by agent coder, 2 GiB of memory, GPU GPU-a and GPU-b, before 5, 6"),
    ),
    (WAIT, "task 7", "wait, agent_limit: agent coder runs 1 of 1"),
]


@pytest.mark.parametrize(("said", "what", "words"), SAID)
def test_all_that_a_plan_may_say_is_told(said, what, words):
    assert subject_of(said)[0] == what
    assert tell(said) == words


def test_nothing_that_a_plan_may_say_is_forgotten_here():
    assert {type(said) for said, _, _ in SAID} == {*get_args(Verdict), Dispatch, Wait}


@given(some_snapshot())
def test_a_plan_differs_from_itself_in_nothing(snapshot):
    policy = PlatformPolicy()

    assert compare(decide(snapshot, policy), decide(snapshot, policy)) == ()


def test_another_decision_is_told_with_both():
    differences = compare(a_plan(decisions=(START,)), a_plan(decisions=(WAIT,)))

    assert differences == (
        Difference(
            what="task 7",
            task_id="7",
            recorded="start attempt 1 by agent coder",
            derived="wait, agent_limit: agent coder runs 1 of 1",
        ),
    )


def test_what_one_of_them_says_nothing_of_is_told():
    (gone,) = compare(a_plan(Keep(entry=ENTRY)), a_plan())
    (new,) = compare(a_plan(), a_plan(SweepCancel(lease_id="x")))

    assert (gone.task_id, gone.recorded, gone.derived) == ("1", "leave alone", "nothing")
    assert (new.task_id, new.recorded, new.derived) == (None, "nothing", "remove")


def test_a_task_of_the_same_name_in_another_source_is_another_one():
    other = replace(WAIT, task=a_task("7", source="far"))

    differences = compare(a_plan(decisions=(START, WAIT)), a_plan(decisions=(START, other)))

    assert [one.derived for one in differences] == [
        "start attempt 1 by agent coder",
        "wait, agent_limit: agent coder runs 1 of 1",
    ]


def test_of_two_that_are_told_alike_the_fields_that_differ_are_named():
    later = replace(WAIT, retry_after_s=5.0)

    (one,) = compare(a_plan(decisions=(WAIT,)), a_plan(decisions=(later,)))

    words = "wait, agent_limit: agent coder runs 1 of 1"
    assert one.recorded == f"{words}: retry_after_s None"
    assert one.derived == f"{words}: retry_after_s 5.0"


def test_whatever_else_a_plan_holds_is_told_by_its_name():
    (slots,) = compare(a_plan(slots=1), a_plan(slots=2))
    deferral = Deferral(model="llama", until=NOW.wall)
    (deferred,) = compare(a_plan(), replace(a_plan(), deferrals=(deferral,)))

    assert slots == Difference(what="slots in use", task_id=None, recorded="1", derived="2")
    assert (deferred.what, deferred.recorded) == ("deferrals", "()")
    assert "llama" in deferred.derived


def test_the_order_of_starts_is_part_of_a_plan():
    first, second = START, replace(START, task=a_task("8"))

    (one,) = compare(a_plan(decisions=(first, second)), a_plan(decisions=(second, first)))

    assert (one.what, one.recorded, one.derived) == (
        "the order",
        "task 7, task 8",
        "task 8, task 7",
    )
