"""What has changed about the machine and the queue is told once, also across ticks."""

from __future__ import annotations

from collections import Counter

from tinyscheduler.core.capacity import slot_holders
from tinyscheduler.core.gpus import find_gpu_users, remember_sightings
from tinyscheduler.core.memory import is_stalled, pressure_of, used_share
from tinyscheduler.core.queueing import key_of
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.plan import Dispatch
from tinyscheduler.model.resources import Pressure
from tinyscheduler.model.snapshot import Told
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.events import Details
    from tinyscheduler.model.plan import Plan
    from tinyscheduler.model.snapshot import LeaseScan, Snapshot
    from tinyscheduler.tick.progress import Progress


# Of the time that an attempt may show no life, when somebody is told.
_WARNED_SHARE = 0.5


def tell_changes(progress: Progress, snapshot: Snapshot, plan: Plan) -> None:
    """Tell observers what stands otherwise than they were last told, and remember that.

    Judged by the last look of the tick, and by what was started since.
    """
    host, rules = snapshot.host, snapshot.rules
    used = used_share(host.memory_total_bytes, host.memory_available_bytes)
    pressure = pressure_of(used, warning=rules.memory_warning, critical=rules.memory_critical)
    level: Details = (("used_percent", round(100 * used, 1)),)
    if host.memory_stall is not None:
        level = (*level, ("stall_percent", round(100 * host.memory_stall, 1)))
    if is_stalled(host.memory_stall, critical=rules.memory_stall_critical):
        pressure = Pressure.CRITICAL
    by_agent = _active_agents(progress, snapshot, plan)
    active = by_agent.total()
    before = progress.memory.told
    now = Told(
        pressure=pressure,
        is_healthy=pressure is not Pressure.CRITICAL and active < rules.host_slots,
        is_full=active >= rules.host_slots,
        # What a source that is down has waiting, nobody knows.
        is_empty=before.is_empty if progress.sources_down else not progress.tasks_waiting,
        sources_down=tuple(sorted(progress.sources_down)),
        silent=_tell_silent(progress, snapshot, before),
    )
    _tell_sources(progress, before, now)
    slots: Details = (("active", active), ("limit", rules.host_slots))
    if now.pressure is not before.pressure:
        progress.notice(
            EventName.MEMORY_PRESSURE,
            details=(("level", pressure.value), *level),
        )
    if now.is_healthy is not before.is_healthy:
        progress.notice(
            EventName.HEALTH_CHANGED,
            details=(("healthy", now.is_healthy), ("pressure", pressure.value), *slots),
        )
    if before.is_full and not now.is_full:
        progress.notice(EventName.SLOT_AVAILABLE, details=slots)
    if progress.started:
        progress.notice(EventName.WORK_CLAIMED, details=(("tasks", len(progress.started)),))
    # A task that came and went within this tick was never told to wait.
    if now.is_empty and (progress.started or not before.is_empty) and not progress.sources_down:
        progress.notice(EventName.QUEUE_EMPTY)
    progress.memory = replace(
        progress.memory, told=now, used_slots=active, active=tuple(sorted(by_agent.items()))
    )


def _tell_sources(progress: Progress, before: Told, now: Told) -> None:
    """Tell of each source that does not answer any more, and of each that does again."""
    for name in now.sources_down:
        if name not in before.sources_down:
            where = f"source {name}"
            why = next((one.message for one in progress.errors if one.where == where), None)
            progress.notice(EventName.SOURCE_DOWN, reason=why, details=(("source", name),))
    for name in before.sources_down:
        if name not in now.sources_down:
            progress.notice(EventName.SOURCE_UP, details=(("source", name),))


def _tell_silent(progress: Progress, snapshot: Snapshot, before: Told) -> tuple[str, ...]:
    """Tell once of each attempt that shows no life any more, before its wrapper ends it."""
    silent = []
    for entry in snapshot.scan.entries:
        lease = entry.lease
        if not isinstance(lease, Lease) or lease.silent_s is None:
            continue
        most_s = lease.run.idle_output_s
        if most_s is None or lease.silent_s < most_s * _WARNED_SHARE:
            continue
        silent.append(lease.lease_id)
        if lease.lease_id not in before.silent:
            details: Details = (("silent_sec", lease.silent_s), ("limit_sec", most_s))
            progress.notice(EventName.TASK_SILENT, lease=lease, details=details)
    return tuple(silent)


def _active_agents(progress: Progress, snapshot: Snapshot, plan: Plan) -> Counter[str]:
    """Count the slots in use by agent, by the last look and what was started since.

    That of a lock that is held without a lease, which tells no agent, is counted under no name.
    """
    active = Counter(holder.agent for holder in slot_holders(snapshot, plan.verdicts))
    active.update(
        one.agent
        for one in plan.decisions
        if isinstance(one, Dispatch) and key_of(one.task) in progress.started
    )
    return active


def tell_leaks(progress: Progress, scan: LeaseScan) -> None:
    """Tell of slots that the last tick left in use and that nothing is left of: they are free.

    Leases go when a tick has settled them, and it remembers that.  One that was killed in
    between has forgotten to, and whoever removes a lease by hand tells nobody.
    """
    left = {
        entry.task_id for entry in scan.entries if entry.lease is not None or entry.is_lock_held
    }
    left |= {result.task_id for result in scan.results}
    backed, remembered = len(left) + len(scan.unreadable_results), progress.memory.used_slots
    if remembered > backed:
        progress.notice(
            EventName.SLOT_LEAK_REPAIRED,
            details=(
                ("slots", remembered - backed),
                ("remembered", remembered),
                ("found", backed),
            ),
        )


def tell_misplaced(progress: Progress, snapshot: Snapshot) -> None:
    """Tell once of each attempt that is on a GPU which it was not given, and remember where it is.

    Whoever was seen on a GPU once needs no look for its own sake any more.
    """
    sightings = progress.memory.gpu_sightings
    if snapshot.gpus is None and not sightings:
        return
    known = {(one.lease_id, uuid) for one in sightings for uuid in one.uuids}
    users = find_gpu_users(snapshot)
    for user in users:
        lease, gpu = user.lease, user.gpu
        if user.is_misplaced and (lease.lease_id, gpu.uuid) not in known:
            progress.warn(user.words)
            progress.notice(
                EventName.GPU_MISPLACED,
                lease=lease,
                details=(
                    ("gpu_index", gpu.index),
                    ("gpu_uuid", gpu.uuid),
                    ("pids", user.pids),
                    ("used_bytes", user.used_bytes),
                    ("placed_on", lease.gpu_uuids),
                ),
            )
    after = remember_sightings(snapshot, users, sightings)
    if after != sightings:
        progress.memory = replace(progress.memory, gpu_sightings=after)
