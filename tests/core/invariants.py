"""What holds of every plan, whatever the world and whoever decides: invariants of the design."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.builders import a_claim, a_lease, an_entry
from tests.core.worlds import shuffled

from tinyscheduler.core.capacity import measure
from tinyscheduler.core.decide import decide
from tinyscheduler.core.fairness import owner_of
from tinyscheduler.core.queueing import in_line
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.leases import Lease, LeaseState, ProcessEvidence, WrapperLife
from tinyscheduler.model.plan import Dispatch, EndTree, Keep, Reason, Reclaim, Wait
from tinyscheduler.model.resources import GpuReading
from tinyscheduler.model.snapshot import Skips
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import DataObject

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.leases import Needs
    from tinyscheduler.model.plan import Decision, Plan
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy


def starts(plan: Plan) -> list[tuple[str, str]]:
    return [
        (decision.task.task_id, decision.agent)
        for decision in plan.decisions
        if isinstance(decision, Dispatch)
    ]


def waiting(snapshot: Snapshot) -> list[WaitingTask]:
    return [task for source in snapshot.sources for task in source.waiting]


def occupants(snapshot: Snapshot) -> list[Lease | None]:
    """Return what costs a slot: a held lock, or a lease without a result; None: it is unreadable.

    One that says it recorded its result, which is gone, is over all the same.
    """
    recorded = {result.lease_id for result in snapshot.scan.results}
    recorded |= {result.lease_id for result in snapshot.scan.unreadable_results}
    return [
        entry.lease if isinstance(entry.lease, Lease) else None
        for entry in snapshot.scan.entries
        if entry.is_lock_held
        or (
            isinstance(entry.lease, Lease)
            and entry.lease.lease_id not in recorded
            and not (
                entry.lease.state is LeaseState.FINISHED
                and entry.lease.boot_id == snapshot.now.boot_id
            )
        )
    ]


def shared_bytes(needs: Needs, uuids: Sequence[str], snapshot: Snapshot) -> int:
    """Return what of the VRAM there is memory of the machine."""
    gpus = snapshot.gpus.gpus if snapshot.gpus is not None else ()
    unified = {gpu.uuid for gpu in gpus if gpu.fault is None and gpu.total_bytes is None}
    return needs.vram_bytes * len(unified & set(uuids))


def reserved_bytes(needs: Needs, uuids: Sequence[str], snapshot: Snapshot) -> int:
    """Return the VRAM that an attempt has there: of a whole GPU all that it is known to have."""
    if not needs.gpus:
        return needs.vram_bytes
    gpus = snapshot.gpus.gpus if snapshot.gpus is not None else ()
    return sum(gpu.total_bytes or 0 for gpu in gpus if gpu.uuid in uuids)


def held(snapshot: Snapshot) -> list[Lease]:
    """Return the leases of attempts whose lock is held."""
    return [
        entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
    ]


def given_back(plan: Plan, snapshot: Snapshot) -> list[Lease]:
    """Return the leases that this plan ends or gives back: what they hold may be in use yet."""
    ended = {one.trace.lease_id for one in plan.verdicts if isinstance(one, EndTree)}
    reclaimed = [one.entry for one in plan.verdicts if isinstance(one, Reclaim)]
    return [
        entry.lease
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease)
        if entry in reclaimed or entry.lease.lease_id in ended
    ]


def assert_within_memory(plan: Plan, snapshot: Snapshot) -> None:
    host, rules = snapshot.host, snapshot.rules
    needed = {agent.name: agent.memory_bytes for agent in snapshot.agents}
    started = 0
    for decision in plan.decisions:
        if isinstance(decision, Dispatch):
            said = (decision.task.memory_bytes, needed[decision.agent], rules.memory_per_slot_bytes)
            started += next(one for one in said if one is not None)
            shared = shared_bytes(decision.needs, decision.gpu_uuids, snapshot)
            assert decision.needs.shared_bytes == shared
            started += shared
            assert host.memory_available_bytes > 0.1 * host.memory_total_bytes
    # At least these hold a slot for sure: their locks are held and they are of this boot.
    unused = sum(
        max(0, entry.lease.needs.memory_bytes - snapshot.memory_used.get(entry.lease.lease_id, 0))
        + max(
            0,
            shared_bytes(entry.lease.needs, entry.lease.gpu_uuids, snapshot)
            - told_of(entry.lease, snapshot),
        )
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease) and entry.is_lock_held
        if snapshot.evidence.get(entry.lease.lease_id) == ProcessEvidence(wrapper=WrapperLife.ALIVE)
        and entry.lease.monotonic_started_ns >= snapshot.now.monotonic_ns
    )
    if started:
        assert started + unused <= host.memory_available_bytes


def told_of(lease: Lease, snapshot: Snapshot) -> int:
    """Return what the driver says that the processes of an attempt use."""
    return sum(
        process.used_bytes or 0
        for gpu in (snapshot.gpus.gpus if snapshot.gpus is not None else ())
        for process in gpu.processes or ()
        if snapshot.gpu_owners.get(process.pid) == lease.lease_id
    )


def assert_within_gpus(plan: Plan, snapshot: Snapshot, live: Sequence[Lease]) -> None:
    """No GPU is given away twice, nor beyond what is measured, nor unseen."""
    reading = snapshot.gpus or GpuReading()
    gpus = {gpu.uuid: gpu for gpu in reading.gpus if gpu.fault is None}
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    for start in starts:
        assert len(start.gpu_uuids) == (start.needs.gpus or bool(start.needs.vram_bytes))
        assert set(start.gpu_uuids) <= gpus.keys()
    for uuid, gpu in gpus.items():
        new = [one.needs for one in starts if uuid in one.gpu_uuids]
        old = [lease.needs for lease in live if uuid in lease.gpu_uuids]
        if not new:
            continue
        if any(needs.gpus for needs in (*new, *old)):
            assert len(new) + len(old) == 1
            assert not [one for one in gpu.processes or () if one.pid in snapshot.gpu_owners]
            continue
        total = gpu.total_bytes
        if total is None:
            continue  # it has the machine's, which is counted with what else needs it
        assert sum(needs.vram_bytes for needs in (*new, *old)) <= total
        assert sum(needs.vram_bytes for needs in new) <= total - gpu.used_bytes


def assert_within_models(plan: Plan, snapshot: Snapshot, live: Sequence[Lease]) -> None:
    """No slot of a model, of its host or of an agent there is given away twice."""
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    new = [(one.agent, one.model, one.model_host) for one in starts]
    old = [(lease.agent, lease.model, lease.model_host) for lease in live]
    places = {(one.model, one.host): one.max_slots for one in snapshot.inventory.models}
    for (model, host), most in places.items():
        if taken := sum(one[1:] == (model, host) for one in new):
            assert taken + sum(one[1:] == (model, host) for one in old) <= most
    for bound in snapshot.inventory.hosts:
        if bound.max_slots is not None and (taken := sum(one[2] == bound.name for one in new)):
            assert taken + sum(one[2] == bound.name for one in old) <= bound.max_slots
    for agent in snapshot.agents:
        for used in {one[2] for one in new if one[0] == agent.name}:
            here = [one for one in (*new, *old) if one[::2] == (agent.name, used)]
            assert agent.max_per_host is None or len(here) <= agent.max_per_host
    for start in starts:
        if start.model_host is not None:
            assert (start.model, start.model_host) in places


def assert_within_quotas(plan: Plan, snapshot: Snapshot, live: Sequence[Lease]) -> None:
    queues = {agent.name: agent.queue for agent in snapshot.agents}
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    for quota in snapshot.inventory.queues:
        new = [one for one in starts if queues[one.agent] == quota.name]
        old = [one for one in live if queues.get(one.agent) == quota.name]
        assert not new or quota.slots is None or len(new) + len(old) <= quota.slots
    for quota in snapshot.inventory.tenants:
        mine = [one for one in starts if one.task.tenant == quota.name]
        had = [one for one in live if one.tenant == quota.name]
        assert not mine or quota.slots is None or len(mine) + len(had) <= quota.slots
        if quota.vram_bytes is not None and any(one.gpu_uuids for one in mine):
            all_of_it = [(one.needs, one.gpu_uuids) for one in mine]
            all_of_it += [(one.needs, one.gpu_uuids) for one in had]
            reserved = [reserved_bytes(needs, uuids, snapshot) for needs, uuids in all_of_it]
            assert sum(reserved) <= quota.vram_bytes


def assert_within_slots(plan: Plan, snapshot: Snapshot) -> None:
    occupied = Counter(lease.agent if lease is not None else "" for lease in occupants(snapshot))
    started = Counter(agent for _, agent in starts(plan))
    if started:
        assert occupied.total() + started.total() <= snapshot.rules.host_slots
    limits = {agent.name: agent.limit for agent in snapshot.agents}
    for agent, number in started.items():
        assert occupied[agent] + number <= limits[agent]


def assert_within_firings(plan: Plan, snapshot: Snapshot) -> None:
    """No firing starts beyond the bound on all, nor beside another one that it may not run with."""
    firings = [lease.schedule_id for lease in occupants(snapshot) if lease is not None]
    running = [name for name in firings if name is not None]
    # In the order in which they were admitted.
    for one in plan.decisions:
        task = one.task
        if isinstance(one, Dispatch) and task.schedule_id is not None:
            assert task.is_forced or len(running) < snapshot.rules.schedule_max_concurrent
            assert task.is_beside or task.schedule_id not in running
            running.append(task.schedule_id)


def assert_within_all_limits(plan: Plan, snapshot: Snapshot) -> None:
    live = held(snapshot)
    assert_within_slots(plan, snapshot)
    assert_within_firings(plan, snapshot)
    assert_within_memory(plan, snapshot)
    assert_within_gpus(plan, snapshot, live)
    assert_within_models(plan, snapshot, live)
    assert_within_quotas(plan, snapshot, live)


# -- each invariant ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A world, and what was decided in it by a policy, which was asked about so many tasks."""

    snapshot: Snapshot
    policy: Policy
    plan: Plan
    questions: Sequence[int]


def is_within_every_limit(case: Decided, data: DataObject) -> None:
    del data
    assert_within_all_limits(case.plan, case.snapshot)


def each_task_gets_one_decision(case: Decided, data: DataObject) -> None:
    del data
    assert Counter(one.task for one in case.plan.decisions) == Counter(waiting(case.snapshot))
    for one in case.plan.decisions:
        if isinstance(one, Wait):
            assert one.words
            assert one.retry_after_s is None or one.retry_after_s > 0


def does_not_depend_on_order(case: Decided, data: DataObject) -> None:
    same = data.draw(shuffled(case.snapshot))

    assert decide(case.snapshot, case.policy) == case.plan
    assert decide(same, case.policy) == case.plan


def plans_nothing_more(case: Decided, data: DataObject) -> None:
    """Where slots are shared out, a start may move the line, which is a change of the world."""
    del data
    snapshot, plan = case.snapshot, case.plan
    after = decide(carried_out(snapshot, plan), case.policy)
    more = {one.task for one in after.decisions if isinstance(one, Dispatch)}

    if has_moved_the_line(plan, snapshot):
        waited = {one.task: one.reason for one in plan.decisions if isinstance(one, Wait)}
        assert all(waited[task] is Reason.OVERTAKEN_LIMIT for task in more)
    else:
        assert more == set()
        if all(isinstance(one, Keep) for one in plan.verdicts):
            assert after.is_quiet
    left = [one.task for one in plan.decisions if isinstance(one, Wait)]
    assert {one.task for one in after.decisions} == set(left)


def has_moved_the_line(plan: Plan, snapshot: Snapshot) -> bool:
    """Whether somebody's later task started: the earlier one has its turn later therefore."""
    rules = snapshot.rules
    if rules.fair_share is FairShare.OFF:
        return False
    started = {one.task for one in plan.decisions if isinstance(one, Dispatch)}
    agents = measure(snapshot, plan.verdicts).agents
    left: set[str] = set()
    for task in in_line(waiting(snapshot), snapshot, agents=agents):
        owner = owner_of(task, rules)
        if task in started and owner in left:
            return True
        if task not in started:
            left.add(owner)
    return False


def gives_nothing_away_unseen(case: Decided, data: DataObject) -> None:
    del data
    plan, snapshot = case.plan, case.snapshot
    ended = given_back(plan, snapshot)
    locked = {lease.lease_id for lease in held(snapshot)}
    taken = [*held(snapshot), *(one for one in ended if one.lease_id not in locked)]
    assert_within_slots(plan, snapshot)
    assert_within_firings(plan, snapshot)
    assert_within_gpus(plan, snapshot, taken)
    assert_within_models(plan, snapshot, taken)
    assert_within_quotas(plan, snapshot, taken)
    still_there = {entry.task_id for entry in snapshot.scan.entries if entry.lease is not None}
    assert not still_there & {task_id for task_id, _ in starts(plan)}


def overtakes_nobody_too_often(case: Decided, data: DataObject) -> None:
    del data
    before = {(one.source, one.task_id): one.times for one in case.snapshot.memory.skips}
    passed = Counter(
        (task.source, task.task_id)
        for one in case.plan.decisions
        if isinstance(one, Dispatch)
        for task in one.overtakes
    )
    for key, times in passed.items():
        assert times <= max(0, case.snapshot.rules.max_skips - before.get(key, 0))


def cooling_accounts(snapshot: Snapshot) -> set[str]:
    """Return the accounts of which nothing may start: no limit lasts longer than a week."""
    now, longest = snapshot.now.wall, timedelta(days=8)
    return {one.account for one in snapshot.coolings if now < one.until <= now + longest}


def starts_only_what_may_start(case: Decided, data: DataObject) -> None:
    del data
    snapshot = case.snapshot
    assert_within_all_limits(case.plan, snapshot)
    # Each question but the last starts something, so it is not asked without end.
    assert len(case.questions) <= len(starts(case.plan)) + 1
    on_disk = {
        entry.task_id
        for entry in snapshot.scan.entries
        if entry.lease is not None or entry.is_lock_held
    }
    queues = {agent.name: agent.queue for agent in snapshot.agents}
    cool = cooling_accounts(snapshot)
    accounts = {agent.name: agent.account or agent.name for agent in snapshot.agents}
    for one in case.plan.decisions:
        if isinstance(one, Wait) and one.reason is Reason.COOLING:
            able = [
                agent.name
                for agent in snapshot.agents
                if one.task.agent == agent.name
                or (one.task.agent is None and one.task.queue == agent.queue)
            ]
            assert able
            assert all(accounts[name] in cool for name in able)
        if isinstance(one, Dispatch):
            assert accounts[one.agent] not in cool
            task = one.task
            assert snapshot.is_enabled
            assert not task.is_held
            assert not task.blocked_by
            assert task.task_id not in on_disk
            assert task.not_before is None or task.not_before <= snapshot.now.wall
            assert task.backing_off_until is None or task.backing_off_until <= snapshot.now.wall
            assert one.agent in queues
            assert task.agent in (None, one.agent)
            assert task.agent is not None or task.queue == queues[one.agent]


# However much is free.
FIRST_OF_ALL = (
    *(Reason.HELD, Reason.BLOCKED_BY, Reason.NOT_BEFORE, Reason.BACKING_OFF, Reason.PAUSED),
    *(Reason.UNPLACED, Reason.PRESSURE),
)


def makes_way(task: WaitingTask, snapshot: Snapshot) -> bool:
    """Whether a firing stays where it is if somebody is at work: for ten delays, no longer."""
    patience = timedelta(seconds=10 * snapshot.rules.schedule_pressure_delay_s)
    return (
        task.schedule_id is not None
        and task.slot is not None
        and not task.is_forced
        and snapshot.now.wall < task.slot + patience
        # Added under a clock that has been set back since: nobody knows how long ago.
        and not (task.created_at is not None and snapshot.now.wall < task.created_at)
    )


def makes_way_for_who_is_at_work(case: Decided, data: DataObject) -> None:
    """And all else is decided as if those that make way were not there."""
    del data
    quiet = replace(case.snapshot, pressed_by=())
    pressed = replace(case.snapshot, pressed_by=case.snapshot.pressed_by or ("chat",))
    sources = tuple(
        replace(source, waiting=tuple(one for one in source.waiting if not makes_way(one, quiet)))
        for source in quiet.sources
    )

    def decided(snapshot: Snapshot) -> tuple[Decision, ...]:
        try:
            return decide(snapshot, case.policy).decisions
        except PolicyError:
            return ()  # asked about other tasks one that proposes at random may be refused

    under_pressure = decided(pressed)
    ways = [one for one in under_pressure if makes_way(one.task, quiet)]
    others = [one for one in under_pressure if not makes_way(one.task, quiet)]
    assert tuple(others) == decided(replace(quiet, sources=sources))
    assert all(isinstance(one, Wait) and one.reason in FIRST_OF_ALL for one in ways)
    for one in (*others, *decided(quiet)):
        assert isinstance(one, Dispatch) or one.reason is not Reason.PRESSURE


# By the number and the words of each in the design.  Of the others, 1 to 3 and 12 to 14 speak of
# what happens, not of plans, and 10 of schedules.  S-06 is a requirement.
INVARIANTS: dict[str, Callable[[Decided, DataObject], None]] = {
    "invariant_4_leased_and_launched_are_within_every_limit": is_within_every_limit,
    "invariant_5_every_waiting_task_gets_one_decision_with_a_reason": each_task_gets_one_decision,
    "invariant_6_decide_does_not_depend_on_the_order_of_its_input": does_not_depend_on_order,
    "invariant_7_an_unchanged_world_plans_nothing": plans_nothing_more,
    "invariant_8_what_is_reclaimed_is_not_reused_before_it_is_seen_free": gives_nothing_away_unseen,
    "invariant_9_a_task_is_overtaken_only_so_often": overtakes_nobody_too_often,
    "invariant_11_no_policy_exceeds_a_cap_or_is_asked_without_end": starts_only_what_may_start,
    "s06_firings_make_way_for_who_is_at_work_and_nothing_else_does": makes_way_for_who_is_at_work,
}


def carried_out(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return the world in which all has been started that the plan starts, and nothing else."""
    agents = {agent.name: agent for agent in snapshot.agents}
    begun = [one for one in plan.decisions if isinstance(one, Dispatch)]
    leases = [_lease_of(one, agents[one.agent], snapshot) for one in begun]
    claims = [a_claim(one.task_id, source=one.source, lease_id=one.lease_id) for one in leases]
    scan, memory = snapshot.scan, snapshot.memory
    skips = Counter({(one.source, one.task_id): one.times for one in memory.skips})
    skips.update((task.source, task.task_id) for one in begun for task in one.overtakes)
    gone = {one.task for one in begun}
    return replace(
        snapshot,
        scan=replace(scan, entries=(*scan.entries, *map(an_entry, leases))),
        evidence={
            **snapshot.evidence,
            **{one.lease_id: ProcessEvidence(wrapper=WrapperLife.ALIVE) for one in leases},
        },
        sources=tuple(
            replace(
                source,
                waiting=tuple(task for task in source.waiting if task not in gone),
                claims=(*source.claims, *(one for one in claims if one.source == source.name)),
            )
            for source in snapshot.sources
        ),
        memory=replace(
            memory,
            skips=tuple(
                Skips(source=source, task_id=task_id, times=times)
                for (source, task_id), times in skips.items()
            ),
            deferrals=plan.deferrals,
        ),
    )


def _lease_of(start: Dispatch, agent: AgentProfile, snapshot: Snapshot) -> Lease:
    task = start.task
    longest_s = task.max_runtime_s or agent.max_runtime_s or snapshot.rules.max_runtime_s
    return a_lease(
        task.task_id,
        lease_id=f"begun-{task.task_id}",
        source=task.source,
        agent=start.agent,
        needs=start.needs,
        gpu_uuids=start.gpu_uuids,
        model=start.model,
        model_host=start.model_host,
        schedule_id=task.schedule_id,
        tenant=task.tenant,
        max_runtime_s=longest_s,
    )
