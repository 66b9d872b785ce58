"""What has changed about the machine and the queue is told once, also across ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.gpus import find_gpu_users, remember_sightings
from tinyscheduler.core.memory import is_stalled, pressure_of, used_share
from tinyscheduler.core.queueing import key_of
from tinyscheduler.model.events import EventName
from tinyscheduler.model.plan import Dispatch
from tinyscheduler.model.resources import Pressure
from tinyscheduler.model.snapshot import Told
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from tinyscheduler.model.events import Details
    from tinyscheduler.model.plan import Plan
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.tick.progress import Progress


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
    active = plan.slots_in_use + sum(
        isinstance(one, Dispatch) and key_of(one.task) in progress.started for one in plan.decisions
    )
    before = progress.memory.told
    now = Told(
        pressure=pressure,
        is_healthy=pressure is not Pressure.CRITICAL and active < rules.host_slots,
        is_full=active >= rules.host_slots,
        # What a source that is down has waiting, nobody knows.
        is_empty=before.is_empty if progress.sources_down else not progress.tasks_waiting,
    )
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
    if now != before:
        progress.memory = replace(progress.memory, told=now)


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
