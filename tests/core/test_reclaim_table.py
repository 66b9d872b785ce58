"""The reclaim table of the design, a test per row and per case within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import BOOT, NOW, a_claim, a_lease, a_result, a_snapshot, a_task, an_entry
from tests.core.worlds import some_snapshot

from tinyscheduler.core.leases import holds_slot, is_stale, judge_all, trace_of, trace_of_claim
from tinyscheduler.model.leases import (
    Lease,
    LeaseEntry,
    LeaseFault,
    LeaseState,
    ProcessEvidence,
    ReclaimReason,
    UnreadableLease,
    WrapperLife,
)
from tinyscheduler.model.plan import (
    AwaitSource,
    EndTree,
    Keep,
    Reclaim,
    RepairLost,
    Settle,
    SettleUnreadable,
    Suspect,
    Sweep,
    Verdict,
)
from tinyscheduler.model.snapshot import Snapshot, StaleSighting, UnreadableResult
from tinyscheduler.model.tasks import Outcome
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from tinyscheduler.model.tasks import Claim

CORRUPT = UnreadableLease(fault=LeaseFault.CORRUPT, message="garbage")
NEWER = UnreadableLease(fault=LeaseFault.NEWER, message="of version 9")
FREE = an_entry(a_lease(), is_lock_held=False)
HELD = an_entry(a_lease())
GARBAGE = UnreadableResult(lease_id="lease-1", message="garbage")


def seen(wrapper: WrapperLife, *, survivors: int = 0) -> dict[str, ProcessEvidence]:
    return {"lease-1": ProcessEvidence(wrapper=wrapper, survivors=survivors)}


def judged(snapshot: Snapshot) -> Verdict:
    """Return the verdict on a world that has only one."""
    (verdict,) = judge_all(snapshot)
    return verdict


def reclaimed(verdicts: Iterable[Verdict]) -> list[Lease]:
    entries = [one.entry for one in verdicts if isinstance(one, Reclaim)]
    return [entry.lease for entry in entries if isinstance(entry.lease, Lease)]


def repaired(verdicts: Iterable[Verdict]) -> list[Claim]:
    return [one.claim for one in verdicts if isinstance(one, RepairLost)]


def ended(entry: LeaseEntry, reason: ReclaimReason) -> EndTree:
    assert isinstance(entry.lease, Lease)
    return EndTree(trace=trace_of(entry, entry.lease), reason=reason, agent="coder", attempt=1)


def sighted(*, seconds_ago: float, entry: LeaseEntry, boot_id: str = BOOT) -> StaleSighting:
    assert entry.beat_ns is not None
    return StaleSighting(
        lease_id="lease-1",
        beat_ns=entry.beat_ns,
        seen_ns=NOW.monotonic_ns - int(seconds_ago * 1e9),
        boot_id=boot_id,
    )


# -- result file exists ---------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_a_recorded_result_with_a_free_lock_is_settled(outcome: Outcome):
    result = a_result(outcome=outcome)

    assert judged(a_snapshot(FREE, a_claim(), result)) == Settle(entry=FREE, result=result)


def test_a_recorded_result_with_a_held_lock_and_a_dead_wrapper_ends_the_tree():
    snapshot = a_snapshot(HELD, a_claim(), a_result(), evidence=seen(WrapperLife.DEAD))

    assert judged(snapshot) == ended(HELD, ReclaimReason.DEAD_PID)


def test_a_wrapper_between_its_result_and_its_end_is_left_alone():
    assert judged(a_snapshot(HELD, a_claim(), a_result())) == Keep(entry=HELD)


def test_a_wrapper_that_hangs_after_its_result_is_ended_like_any_other():
    entry = an_entry(a_lease(), beat_age_s=60)
    before = sighted(seconds_ago=15, entry=entry)

    verdict = judged(a_snapshot(entry, a_claim(), a_result(), stale=[before]))

    assert verdict == ended(entry, ReclaimReason.STALE_HEARTBEAT)


def test_a_result_of_another_boot_is_settled():
    entry = an_entry(a_lease(boot_id="earlier-boot"), is_lock_held=False)

    assert judged(a_snapshot(entry, a_claim(), a_result())) == Settle(
        entry=entry, result=a_result()
    )


def test_a_result_without_a_lease_is_settled():
    assert judged(a_snapshot(a_claim(), a_result())) == Settle(entry=None, result=a_result())


def test_a_result_whose_lease_is_gone_but_not_its_lock_is_settled():
    lock = an_entry(None, is_lock_held=False)

    assert judged(a_snapshot(lock, a_claim(), a_result())) == Settle(entry=lock, result=a_result())


def test_a_result_is_settled_although_its_lease_is_unreadable():
    entry = an_entry(CORRUPT, is_lock_held=False)

    assert judged(a_snapshot(entry, a_claim(), a_result())) == Settle(
        entry=entry, result=a_result()
    )


def test_an_unreadable_result_is_settled_as_what_it_is_and_not_run_again():
    snapshot = a_snapshot(FREE, a_claim(), GARBAGE)

    assert judged(snapshot) == SettleUnreadable(entry=FREE, result=GARBAGE)


def test_an_unreadable_result_of_a_lease_whose_source_is_down_waits_and_costs_no_slot():
    verdict = judged(a_snapshot(FREE, GARBAGE, down=["local"]))

    assert verdict == AwaitSource(entry=FREE, source="local")
    assert not holds_slot(verdict)


def test_an_unreadable_result_without_a_lease_waits_for_every_source_that_could_claim_it():
    # Taken away now, it would leave the source with a claim that looks lost.
    assert judge_all(a_snapshot(GARBAGE, down=["tinytask"])) == ()
    assert judge_all(a_snapshot(GARBAGE)) == (SettleUnreadable(entry=None, result=GARBAGE),)


def test_an_unreadable_result_without_a_lease_is_settled_once_its_claim_is_known():
    snapshot = a_snapshot(GARBAGE, a_claim(), down=["tinytask"])

    assert judge_all(snapshot) == (SettleUnreadable(entry=None, result=GARBAGE),)


@given(some_snapshot())
def test_a_recorded_result_is_never_reclaimed(snapshot: Snapshot):
    scan = snapshot.scan
    recorded = {result.lease_id for result in scan.results}
    recorded |= {result.lease_id for result in scan.unreadable_results}
    verdicts = judge_all(snapshot)

    assert not recorded & {lease.lease_id for lease in reclaimed(verdicts)}
    assert not recorded & {claim.lease_id for claim in repaired(verdicts)}


# -- lease, lock free, no process of its tree -----------------------------------------


def test_a_lease_with_a_free_lock_and_no_process_died():
    assert judged(a_snapshot(FREE, a_claim())) == Reclaim(entry=FREE, reason=ReclaimReason.DEAD_PID)


def test_a_lease_with_a_free_lock_that_nobody_looked_at_died():
    snapshot = replace(a_snapshot(FREE, a_claim()), evidence={})

    assert judged(snapshot) == Reclaim(entry=FREE, reason=ReclaimReason.DEAD_PID)


def test_a_lease_that_its_source_does_not_claim_is_reclaimed_too():
    assert judged(a_snapshot(FREE)) == Reclaim(entry=FREE, reason=ReclaimReason.DEAD_PID)


def test_a_lease_is_judged_by_itself_where_its_source_claims_the_task_under_another():
    # Once this lease is gone, the next look finds the other one lost.
    other = a_claim(lease_id="other")

    assert judged(a_snapshot(FREE, other)) == Reclaim(entry=FREE, reason=ReclaimReason.DEAD_PID)
    assert judged(a_snapshot(other)) == RepairLost(claim=other)


def test_a_result_of_another_lease_of_the_same_task_is_settled_beside_it():
    other = a_result(lease_id="other")

    assert judge_all(a_snapshot(HELD, a_claim(), other)) == (
        Keep(entry=HELD),
        Settle(entry=None, result=other),
    )


# -- lease `starting`, lock free ------------------------------------------------------


def test_a_starting_lease_with_a_free_lock_never_started():
    entry = an_entry(a_lease(state=LeaseState.STARTING, process=None), is_lock_held=False)

    assert judged(a_snapshot(entry, a_claim())) == Reclaim(
        entry=entry, reason=ReclaimReason.NEVER_STARTED
    )


def test_a_starting_lease_whose_lock_is_held_is_given_its_time():
    entry = an_entry(a_lease(state=LeaseState.STARTING, process=None))
    snapshot = a_snapshot(entry, a_claim(), evidence=seen(WrapperLife.UNRECORDED))

    assert judged(snapshot) == Keep(entry=entry)


# -- wrapper dead, tree alive ---------------------------------------------------------


def test_a_dead_wrapper_whose_tree_holds_the_lock_has_its_tree_ended():
    snapshot = a_snapshot(HELD, a_claim(), evidence=seen(WrapperLife.DEAD))

    verdict = judged(snapshot)

    assert verdict == ended(HELD, ReclaimReason.DEAD_PID)
    assert holds_slot(verdict)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (LeaseState.STARTING, ReclaimReason.NEVER_STARTED),
        (LeaseState.RUNNING, ReclaimReason.DEAD_PID),
    ],
)
def test_a_tree_that_let_go_of_the_lock_is_ended(state: LeaseState, reason: ReclaimReason):
    entry = an_entry(a_lease(state=state), is_lock_held=False)

    verdict = judged(a_snapshot(entry, a_claim(), evidence=seen(WrapperLife.DEAD, survivors=1)))

    assert verdict == ended(entry, reason)
    assert holds_slot(verdict)


# -- wrapper alive, heartbeat stale ---------------------------------------------------

STALE = an_entry(a_lease(), beat_age_s=60)


def test_a_stale_heartbeat_is_only_suspected_at_first():
    assert judged(a_snapshot(STALE, a_claim())) == Suspect(
        entry=STALE, sighting=sighted(seconds_ago=0, entry=STALE)
    )


@pytest.mark.parametrize("seconds_ago", [0, 14.999])
def test_a_stale_heartbeat_must_be_seen_twice_an_interval_apart(seconds_ago: float):
    before = sighted(seconds_ago=seconds_ago, entry=STALE)

    assert judged(a_snapshot(STALE, a_claim(), stale=[before])) == Keep(
        entry=STALE, report="its heartbeat is stale, seen once"
    )


def test_a_stale_heartbeat_seen_twice_ends_the_attempt():
    before = sighted(seconds_ago=15, entry=STALE)

    assert judged(a_snapshot(STALE, a_claim(), stale=[before])) == ended(
        STALE, ReclaimReason.STALE_HEARTBEAT
    )


@pytest.mark.parametrize(
    "change", [{"beat_ns": 1}, {"boot_id": "earlier-boot"}, {"lease_id": "lease-2"}]
)
def test_a_stale_heartbeat_counts_as_seen_only_with_the_same_value_boot_and_lease(
    change: dict[str, int | str],
):
    before = replace(sighted(seconds_ago=99, entry=STALE), **change)  # type: ignore[arg-type]  # one of each kind

    assert isinstance(judged(a_snapshot(STALE, a_claim(), stale=[before])), Suspect)


def test_an_older_sighting_of_another_lease_hides_none():
    others = [
        replace(sighted(seconds_ago=99, entry=STALE), lease_id="lease-2"),
        sighted(seconds_ago=15, entry=STALE),
    ]

    assert judged(a_snapshot(STALE, a_claim(), stale=others)) == ended(
        STALE, ReclaimReason.STALE_HEARTBEAT
    )


def test_a_wrapper_that_hung_before_it_could_sign_the_lease_is_found_stale_too():
    entry = an_entry(a_lease(state=LeaseState.STARTING, process=None), beat_age_s=60)
    before = sighted(seconds_ago=15, entry=entry)

    verdict = judged(
        a_snapshot(entry, a_claim(), stale=[before], evidence=seen(WrapperLife.UNRECORDED))
    )

    assert verdict == ended(entry, ReclaimReason.STALE_HEARTBEAT)


def test_where_the_lock_shows_no_heartbeat_the_lease_does():
    lease = a_lease(monotonic_heartbeat_ns=NOW.monotonic_ns - 60_000_000_000)
    entry = replace(an_entry(lease), beat_ns=None)

    assert isinstance(judged(a_snapshot(entry, a_claim())), Suspect)


@pytest.mark.parametrize(("age_s", "stale"), [(45, False), (45.000001, True), (-1e6, False)])
def test_a_heartbeat_is_stale_after_three_intervals_and_never_in_the_future(
    age_s: float, *, stale: bool
):
    beat_ns = NOW.monotonic_ns - int(age_s * 1e9)

    assert is_stale(beat_ns, heartbeat_s=15, now=NOW) is stale


# -- past max_runtime and the wrapper did not act -------------------------------------

# The maximum runtime, SIGTERM's grace and SIGKILL's, and a heartbeat of courtesy.
ALL_IT_MAY_TAKE_S = 3600 + 2 * 5 + 15


@pytest.mark.parametrize("with_result", [False, True])
def test_an_attempt_past_its_maximum_runtime_whose_wrapper_did_not_act_is_ended(
    *, with_result: bool
):
    started_ns = NOW.monotonic_ns - int((ALL_IT_MAY_TAKE_S + 0.001) * 1e9)
    entry = an_entry(a_lease(monotonic_started_ns=started_ns))
    results = [a_result()] if with_result else []

    assert judged(a_snapshot(entry, a_claim(), *results)) == ended(
        entry, ReclaimReason.LEASE_EXPIRED
    )


def test_a_wrapper_has_all_its_grace_before_its_lease_expires():
    started_ns = NOW.monotonic_ns - int(ALL_IT_MAY_TAKE_S * 1e9)
    entry = an_entry(a_lease(monotonic_started_ns=started_ns))

    assert judged(a_snapshot(entry, a_claim())) == Keep(entry=entry)


def test_an_attempt_that_started_in_the_future_is_left_alone():
    entry = an_entry(a_lease(monotonic_started_ns=NOW.monotonic_ns + 10**15))

    assert judged(a_snapshot(entry, a_claim())) == Keep(entry=entry)


# -- source says working, no lease, no result -----------------------------------------


def test_a_claim_without_lease_and_result_is_lost_and_repaired():
    verdict = judged(a_snapshot(a_claim()))

    assert verdict == RepairLost(claim=a_claim())
    assert not holds_slot(verdict)


def test_a_lost_claim_with_a_left_over_lock_is_repaired_and_the_lock_swept():
    lock = an_entry(None, is_lock_held=False)

    assert judge_all(a_snapshot(lock, a_claim())) == (
        Sweep(entry=lock),
        RepairLost(claim=a_claim()),
    )


@pytest.mark.parametrize("locks", [[], [an_entry(None, is_lock_held=False)]])
def test_a_lost_claim_with_a_process_of_its_own_has_its_tree_ended_first(locks: list[LeaseEntry]):
    living = seen(WrapperLife.DEAD, survivors=1)

    verdict = judged(a_snapshot(*locks, a_claim(), evidence=living))

    assert verdict == EndTree(
        trace=trace_of_claim(a_claim(), is_lock_held=False),
        reason=ReclaimReason.LOST,
        agent="coder",
        attempt=1,
    )


@pytest.mark.parametrize("claims", [[], [a_claim()]])
def test_a_held_lock_without_a_lease_keeps_its_slot(claims: list[Any]):
    lock = an_entry(None)

    verdict = judged(a_snapshot(lock, *claims, evidence=seen(WrapperLife.ALIVE)))

    assert isinstance(verdict, Keep)
    assert verdict.report is not None
    assert holds_slot(verdict)


def test_a_held_lock_without_a_lease_and_without_a_wrapper_has_its_tree_ended():
    lock = an_entry(None)

    verdict = judged(a_snapshot(lock, a_claim(), evidence=seen(WrapperLife.DEAD, survivors=1)))

    assert verdict == EndTree(
        trace=trace_of_claim(a_claim(), is_lock_held=True),
        reason=ReclaimReason.LOST,
        agent="coder",
        attempt=1,
    )


def test_a_free_lock_that_belongs_to_nothing_is_swept():
    lock = an_entry(None, is_lock_held=False)

    assert judged(a_snapshot(lock)) == Sweep(entry=lock)


def test_two_sources_that_lost_the_same_task_id_are_both_told():
    ours, theirs = a_claim(), a_claim(source="tinytask", lease_id="other")

    assert judge_all(a_snapshot(theirs, ours)) == (
        RepairLost(claim=ours),
        RepairLost(claim=theirs),
    )


# -- lock held by a process that cannot be seen ---------------------------------------


@pytest.mark.parametrize("beat_age_s", [0, 9999])
@pytest.mark.parametrize("started_s_ago", [0, 99999])
def test_what_cannot_be_seen_keeps_its_slot(beat_age_s: float, started_s_ago: int):
    started_ns = NOW.monotonic_ns - started_s_ago * 10**9
    entry = an_entry(a_lease(monotonic_started_ns=started_ns), beat_age_s=beat_age_s)
    before = sighted(seconds_ago=9999, entry=entry)

    verdict = judged(
        a_snapshot(entry, a_claim(), evidence=seen(WrapperLife.UNSEEN), stale=[before])
    )

    assert isinstance(verdict, Keep)
    assert (verdict.report is None) == (beat_age_s == 0)


# -- other boot -----------------------------------------------------------------------


@pytest.mark.parametrize("state", LeaseState)
def test_a_lease_of_another_boot_was_rebooted(state: LeaseState):
    entry = an_entry(a_lease(boot_id="earlier-boot", state=state), is_lock_held=False)

    assert judged(a_snapshot(entry, a_claim())) == Reclaim(
        entry=entry, reason=ReclaimReason.REBOOTED
    )


def test_a_held_lock_is_believed_more_than_a_boot_id():
    entry = an_entry(a_lease(boot_id="earlier-boot"))

    verdict = judged(a_snapshot(entry, a_claim(), evidence=seen(WrapperLife.DEAD)))

    assert verdict == Keep(entry=entry, report="leased in another boot, yet its lock is held")


# -- unreadable leases ----------------------------------------------------------------


@pytest.mark.parametrize("is_lock_held", [True, False])
@pytest.mark.parametrize("things", [[], [a_claim()], [a_claim(), a_result()]])
def test_a_lease_of_a_newer_version_is_not_touched(things: list[Any], *, is_lock_held: bool):
    entry = an_entry(NEWER, is_lock_held=is_lock_held)
    snapshot = a_snapshot(entry, *things, evidence=seen(WrapperLife.DEAD, survivors=1))

    assert judged(snapshot) == Keep(entry=entry, report="of version 9")


def test_a_corrupt_lease_keeps_its_slot_while_its_lock_is_held():
    verdict = judged(a_snapshot(an_entry(CORRUPT), a_claim()))

    assert isinstance(verdict, Keep)
    assert verdict.report is not None
    assert verdict.report.startswith("garbage")
    assert holds_slot(verdict)


@pytest.mark.parametrize("is_lock_held", [True, False])
def test_a_corrupt_lease_whose_wrapper_died_has_its_tree_ended(*, is_lock_held: bool):
    entry = an_entry(CORRUPT, is_lock_held=is_lock_held)

    verdict = judged(a_snapshot(entry, a_claim(), evidence=seen(WrapperLife.DEAD, survivors=1)))

    assert verdict == EndTree(
        trace=trace_of_claim(a_claim(), is_lock_held=is_lock_held),
        reason=ReclaimReason.CORRUPT,
        agent="coder",
        attempt=1,
    )


@pytest.mark.parametrize("claims", [[], [a_claim()]])
def test_a_corrupt_lease_of_which_nothing_lives_is_reclaimed(claims: list[Any]):
    entry = an_entry(CORRUPT, is_lock_held=False)

    assert judged(a_snapshot(entry, *claims)) == Reclaim(entry=entry, reason=ReclaimReason.CORRUPT)


# -- sources that are down ------------------------------------------------------------


def test_a_dead_attempt_waits_for_its_source_and_keeps_its_slot():
    verdict = judged(a_snapshot(FREE, down=["local"]))

    assert verdict == Keep(entry=FREE, report="it ended, but its source local does not answer")
    assert holds_slot(verdict)


def test_a_recorded_result_waits_for_its_source_and_costs_no_slot():
    verdict = judged(a_snapshot(FREE, a_result(), down=["local"]))

    assert verdict == AwaitSource(entry=FREE, source="local")
    assert not holds_slot(verdict)


def test_a_result_without_a_lease_waits_for_its_source_in_silence():
    assert judge_all(a_snapshot(a_result(), down=["local"])) == ()


def test_a_result_of_a_source_that_is_not_configured_is_kept():
    forgotten = a_result(source="forgotten")

    assert judge_all(a_snapshot(forgotten)) == ()
    assert judged(a_snapshot(FREE, forgotten)) == AwaitSource(entry=FREE, source="forgotten")


def test_a_tree_is_ended_although_its_source_is_down():
    snapshot = a_snapshot(HELD, evidence=seen(WrapperLife.DEAD), down=["local"])

    assert judged(snapshot) == ended(HELD, ReclaimReason.DEAD_PID)


@given(some_snapshot())
def test_nothing_of_a_source_that_is_down_is_given_back(snapshot: Snapshot):
    down = {source.name for source in snapshot.sources if not source.is_up}
    verdicts = judge_all(snapshot)

    assert not down & {lease.source for lease in reclaimed(verdicts)}
    assert not down & {claim.source for claim in repaired(verdicts)}
    assert not down & {one.result.source for one in verdicts if isinstance(one, Settle)}
    assert not down & {
        one.entry.lease.source
        for one in verdicts
        if isinstance(one, SettleUnreadable)
        and one.entry is not None
        and isinstance(one.entry.lease, Lease)
    }


# -- any snapshot ---------------------------------------------------------------------


@given(some_snapshot())
def test_every_lease_lock_and_result_gets_at_most_one_verdict(snapshot: Snapshot):
    verdicts = judge_all(snapshot)
    entries = [entry for one in verdicts if (entry := getattr(one, "entry", None)) is not None]
    trees = [one.trace for one in verdicts if isinstance(one, EndTree)]
    results = [one.result for one in verdicts if isinstance(one, Settle | SettleUnreadable)]

    for ids in (
        [entry.task_id for entry in entries],
        [trace.task_id for trace in trees],
        [result.lease_id for result in results],
        [claim.lease_id for claim in repaired(verdicts)],
    ):
        assert len(ids) == len(set(ids))
    judged_ids = {entry.task_id for entry in entries} | {trace.task_id for trace in trees}
    assert judged_ids >= {entry.task_id for entry in snapshot.scan.entries}


@given(some_snapshot())
def test_no_attempt_is_given_back_while_anything_of_it_lives(snapshot: Snapshot):
    verdicts = judge_all(snapshot)
    alive = {lease_id for lease_id, seen in snapshot.evidence.items() if seen.survivors}

    for verdict in verdicts:
        if isinstance(verdict, Reclaim | Settle | SettleUnreadable | Sweep):
            assert verdict.entry is None or not verdict.entry.is_lock_held
    assert not alive & {claim.lease_id for claim in repaired(verdicts)}
    # Nothing outlives a reboot, whatever the process table of this boot shows.
    of_this_boot = [lease for lease in reclaimed(verdicts) if lease.boot_id == BOOT]
    assert not alive & {lease.lease_id for lease in of_this_boot}


@given(some_snapshot())
def test_no_healthy_attempt_is_ever_ended(snapshot: Snapshot):
    healthy = {
        entry.task_id
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease)
        and entry.is_lock_held
        and entry.beat_ns is not None
        and NOW.monotonic_ns - entry.beat_ns <= 45 * 10**9
        and NOW.monotonic_ns - entry.lease.monotonic_started_ns <= 3600 * 10**9
        and snapshot.evidence[entry.lease.lease_id].wrapper is WrapperLife.ALIVE
    }
    verdicts = judge_all(snapshot)

    assert not healthy & {one.trace.task_id for one in verdicts if isinstance(one, EndTree)}
    assert healthy <= {one.entry.task_id for one in verdicts if isinstance(one, Keep)}


@given(some_snapshot(), st.timedeltas())
def test_a_step_of_the_wall_clock_changes_no_verdict(snapshot: Snapshot, step: timedelta):
    try:
        stepped = replace(snapshot.now, wall=snapshot.now.wall + step)
    except OverflowError:
        return

    assert judge_all(replace(snapshot, now=stepped)) == judge_all(snapshot)


@given(st.integers(0, 10**18), st.sampled_from((WrapperLife.ALIVE, WrapperLife.UNRECORDED)))
def test_a_freeze_of_the_whole_machine_ends_nothing_that_beats_again_before_the_second_look(
    frozen_ns: int, wrapper: WrapperLife
):
    entry = an_entry(a_lease(max_runtime_s=1e18))
    awake = replace(NOW, monotonic_ns=NOW.monotonic_ns + frozen_ns)
    first = judged(a_snapshot(entry, a_claim(), now=awake, evidence=seen(wrapper)))
    stale = [first.sighting] if isinstance(first, Suspect) else []

    later = replace(awake, monotonic_ns=awake.monotonic_ns + 20 * 10**9)
    beating = replace(entry, beat_ns=awake.monotonic_ns + 10**9)
    second = judged(a_snapshot(beating, a_claim(), now=later, evidence=seen(wrapper), stale=stale))

    assert isinstance(first, Suspect | Keep)
    assert second == Keep(entry=beating)


def test_an_unchanged_world_has_nothing_to_do_after_the_first_look():
    stale = an_entry(a_lease("2"), beat_age_s=60)
    first = judged(a_snapshot(stale, a_claim("2")))
    assert isinstance(first, Suspect)

    second = judge_all(
        a_snapshot(HELD, stale, a_claim(), a_claim("2"), a_task("3"), stale=[first.sighting])
    )

    assert [type(verdict) for verdict in second] == [Keep, Keep]


def test_an_attempt_that_recorded_its_result_is_not_run_again_though_the_file_is_gone():
    lease = a_lease("1", state=LeaseState.FINISHED)

    (verdict,) = judge_all(a_snapshot(an_entry(lease, is_lock_held=False), a_claim("1")))

    assert isinstance(verdict, SettleUnreadable)
    assert "file is gone" in verdict.result.message


def test_a_living_wrapper_whose_lock_file_was_removed_is_left_alone():
    lease = a_lease("1")
    alive = {lease.lease_id: ProcessEvidence(wrapper=WrapperLife.ALIVE, survivors=2)}
    entry = an_entry(lease, is_lock_held=False)

    (verdict,) = judge_all(a_snapshot(entry, a_claim("1"), evidence=alive))

    assert verdict == Keep(entry=entry, report="its wrapper lives, but its lock file was removed")
    assert holds_slot(verdict)


@pytest.mark.parametrize("locks", [[], [an_entry(None, is_lock_held=False)]])
def test_a_living_wrapper_whose_lease_was_removed_too_is_left_alone(locks: list[LeaseEntry]):
    verdict = judged(a_snapshot(*locks, a_claim(), evidence=seen(WrapperLife.ALIVE, survivors=2)))

    assert isinstance(verdict, Keep)
    assert verdict.report == (
        "its wrapper lives, but its lease and lock are gone from the running folder"
    )
    assert holds_slot(verdict)


def test_a_corrupt_lease_of_nobody_waits_for_the_source_that_does_not_answer():
    broken = UnreadableLease(fault=LeaseFault.CORRUPT, message="garbage")
    entry = LeaseEntry(task_id="1", lease=broken, is_lock_held=False, beat_ns=None)

    (verdict,) = judge_all(a_snapshot(entry, down=["local"]))

    assert isinstance(verdict, Keep)
    assert "a source that does not answer may know it" in (verdict.report or "")


def test_a_result_of_a_newer_version_is_left_for_the_program_that_knows_it():
    lease = a_lease("1")
    newer = UnreadableResult(
        lease_id=lease.lease_id, message="of version 9", fault=LeaseFault.NEWER
    )
    entry = an_entry(lease, is_lock_held=False)

    with_lease = judge_all(a_snapshot(entry, newer, a_claim("1")))
    without_lease = judge_all(a_snapshot(newer, a_claim("1", lease_id=lease.lease_id)))

    assert with_lease == (Keep(entry=entry, report="of version 9"),)
    assert without_lease == ()
