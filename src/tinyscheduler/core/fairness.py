"""Who has had how much lately, and whose turn is it therefore?

Like the fair share of batch systems: what somebody had counts against him and is forgotten
with a half-life; between those who had the same, turns alternate.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tinyscheduler.model.config import FairShare
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.snapshot import Account
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.snapshot import LeaseScan, Rules, SchedulingMemory, Snapshot
    from tinyscheduler.model.tasks import WaitingTask

# What a start is reckoned at beforehand, in seconds: who is so far behind goes first once more.
# That holds until it has had as much, or the next tick, a moment later, would reckon anew.
_ADVANCE_S = 60.0
# Less than that, in seconds, is nothing.
_LEAST_S = 1.0


def owner_of(one: WaitingTask | Lease, rules: Rules) -> str:
    """Return in whose name it runs; empty where nobody is named."""
    owner = one.tenant if rules.fair_share == FairShare.TENANT else one.project
    return owner or ""


def settle_accounts(
    memory: SchedulingMemory, scan: LeaseScan, *, rules: Rules, now: Instant
) -> SchedulingMemory:
    """Return the memory with what every attempt has had since accounts were settled last.

    Without an attempt there is nothing to settle: that all accounts decay changes no order.
    """
    leases = [entry.lease for entry in scan.entries if isinstance(entry.lease, Lease)]
    if not leases:
        return memory
    ends = {result.lease_id: result.ended_at for result in scan.results}
    before = memory.accounted_at
    wall = now.wall
    passed_s = max(0.0, (wall - before).total_seconds()) if before is not None else 0.0
    kept = 0.5 ** (passed_s / rules.fair_share_half_life_s)
    slots = defaultdict(float, {one.owner: one.slot_s * kept for one in memory.accounts})
    gpus = defaultdict(float, {one.owner: one.gpu_s * kept for one in memory.accounts})
    for lease in leases:
        begin = lease.started_at if before is None else max(before, lease.started_at)
        had_s = (min(wall, ends.get(lease.lease_id, wall)) - begin).total_seconds()
        if lease.boot_id == now.boot_id:
            # A clock that was put right by years would charge years.
            had_s = min(had_s, (now.monotonic_ns - lease.monotonic_started_ns) / 1e9)
        had_s = max(0.0, had_s)
        owner = owner_of(lease, rules)
        slots[owner] += had_s
        gpus[owner] += had_s * lease.gpu_share
    accounts = (
        Account(owner=owner, slot_s=slots[owner], gpu_s=gpus[owner]) for owner in sorted(slots)
    )
    return replace(
        memory,
        accounts=tuple(one for one in accounts if one.slot_s + one.gpu_s >= _LEAST_S),
        accounted_at=wall,
    )


def turns_of(tasks: Sequence[WaitingTask], snapshot: Snapshot) -> Mapping[tuple[str, str], float]:
    """Return how far each task is from its turn, by source and id: the least goes first.

    ``tasks`` stand in line within each owner.
    """
    rules, inventory = snapshot.rules, snapshot.inventory
    had = defaultdict(
        float, {one.owner: one.slot_s + one.gpu_s for one in snapshot.memory.accounts}
    )
    for owner, seconds in _reckoned(snapshot):
        had[owner] += seconds
    weights = {one.name: one.weight for one in inventory.tenants}
    if rules.fair_share == FairShare.PROJECT:
        weights = {}
    found = {}
    for task in tasks:
        owner = owner_of(task, rules)
        found[task.source, task.task_id] = had[owner] / weights.get(owner, 1.0)
        had[owner] += _ADVANCE_S * (1 + task.gpus)
    return found


def _reckoned(snapshot: Snapshot) -> Iterator[tuple[str, float]]:
    """Yield what owners of attempts that run have not had yet of what a start is reckoned at.

    Sums of floats depend on their order, so this has one of its own.
    """
    now, ended = snapshot.now, {result.lease_id for result in snapshot.scan.results}
    for entry in sorted(snapshot.scan.entries, key=lambda one: one.task_id):
        lease = entry.lease
        # Nothing of an earlier boot runs.
        if not isinstance(lease, Lease) or lease.boot_id != now.boot_id:
            continue
        age_s = max(0.0, (now.monotonic_ns - lease.monotonic_started_ns) / 1e9)
        if age_s < _ADVANCE_S and lease.lease_id not in ended:
            yield owner_of(lease, snapshot.rules), (_ADVANCE_S - age_s) * (1 + lease.needs.gpus)
