"""One tick: lock, observe, decide, apply, report; and another while somebody wishes for one."""

from __future__ import annotations

from functools import partial

from tinyscheduler.core.gpus import is_look_due, masked
from tinyscheduler.core.leases import trace_of, trace_of_claim
from tinyscheduler.core.memory import is_ample
from tinyscheduler.core.queueing import key_of
from tinyscheduler.errors import SourceError, StoreError, TinySchedulerError
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.leases import Lease, LeaseFault
from tinyscheduler.model.plan import Dispatch, Reason, Wait
from tinyscheduler.model.snapshot import Snapshot, SourceView
from tinyscheduler.tick.budgets import enforce_budgets
from tinyscheduler.tick.deciding import decide_loudly
from tinyscheduler.tick.endings import Endings
from tinyscheduler.tick.firing import fire_due, names_of
from tinyscheduler.tick.forgetting import forget_the_past
from tinyscheduler.tick.progress import Progress
from tinyscheduler.tick.starts import Starts
from tinyscheduler.tick.telling import tell_changes, tell_leaks, tell_misplaced
from tinyscheduler.tick.world import Mode
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tinyscheduler.model.clock import Instant
    from tinyscheduler.model.leases import Trace
    from tinyscheduler.model.plan import Plan, TickReport
    from tinyscheduler.model.policy import DecidedBy
    from tinyscheduler.model.resources import GpuReading, HostState
    from tinyscheduler.model.snapshot import LeaseScan
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.ports import Policy, TaskSource
    from tinyscheduler.tick.world import TickSettings, World

# Ending a tree, then settling or reclaiming it, then starting: each needs a fresh look.
# More rounds than that mean that the world changes as fast as we look; the next tick goes on.
_MOST_CLEANING_ROUNDS = 6
# Where what stands first in line waits for what is not there, so much further it looks.
_WIDER, _MOST_LOOKED_AT = 8, 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """What a tick would see and decide now, by which policy, and how it would report that.

    It sees the first ``window`` tasks of each line.
    """

    snapshot: Snapshot
    plan: Plan
    report: TickReport
    policy: Policy
    decided_by: DecidedBy
    window: int


def never() -> bool:
    """Answer that nobody asked the tick to stop."""
    return False


def run_ticks(
    world: World, settings: TickSettings, *, should_stop: Callable[[], bool] = never
) -> tuple[TickReport, bool]:
    """Tick, and tick again while somebody wished for it, until the budget is spent.

    Returns the first tick's report, and whether a wish is left that nobody will act on
    unless another tick is started.
    """
    started = world.clock.now()
    report = tick(world, settings, should_stop=should_stop)
    if report.locked:
        return report, False
    # Looked at only after unlocking: a wish that came before it was refused by our lock,
    # one that comes after it will find the lock free.
    while world.lock.is_kicked():
        spent_s = (world.clock.now().monotonic_ns - started.monotonic_ns) / 1e9
        if should_stop() or spent_s >= settings.budget_s:
            return report, True
        if tick(world, settings, should_stop=should_stop).locked:
            break
    return report, False


def tick(
    world: World,
    settings: TickSettings,
    mode: Mode = Mode.ACT,
    *,
    should_stop: Callable[[], bool] = never,
) -> TickReport:
    """Do one tick and report it; a report with ``locked`` means another tick was at it."""
    progress = Progress(
        world=world,
        settings=settings,
        started_at=world.clock.now(),
        mode=mode,
        should_stop=should_stop,
    )
    if mode is Mode.DRY_RUN:
        _preview(progress)
        return progress.report()
    holder = world.lock.acquire()
    if holder is not None:
        return progress.report(holder=holder)
    try:
        try:
            world.keep_settings()
            world.lock.forget_kick()
            _act(progress)
        except TinySchedulerError as error:
            # What ends a whole tick must not go unheard: few look at its exit code.
            progress.fail("tick", error)
            _tell(progress)
            raise
        return _tell(progress)
    finally:
        world.lock.release()


def _tell(progress: Progress) -> TickReport:
    # After all else: a slot that was freed is filled before anything is written about it.
    progress.keep_rounds()
    report = progress.report()
    for observer in progress.world.observers:
        observer.report(report)
    return report


def foresee(world: World, settings: TickSettings) -> Foresight:
    """Say what a tick would do, together with all that it would know; changes nothing."""
    progress = Progress(
        world=world,
        settings=settings,
        started_at=world.clock.now(),
        mode=Mode.DRY_RUN,
        should_stop=never,
    )
    snapshot, plan = _preview(progress)
    policy = progress.substitute or progress.policy or world.policy
    return Foresight(
        snapshot=snapshot,
        plan=plan,
        report=progress.report(),
        policy=policy,
        decided_by=progress.decided_by,
        window=progress.window or settings.window,
    )


def _observe(progress: Progress) -> Snapshot:
    """Read everything, leases first, then results, then the sources.

    In this order a normal end is never taken for a lost lease: what a source calls
    ours was leased before we read the leases, or is settled by nobody but us.
    """
    world = progress.world
    host = world.probe.read()
    scan = world.store.scan()
    for result in scan.unreadable_results:
        if result.fault is not LeaseFault.CORRUPT:
            progress.warn(f"{result.message}; it is left as it is")
    sources = tuple(_without_refused(progress, _look(progress, one)) for one in world.sources)
    switches = _read_switches(progress, sources)
    gpus = _look_at_gpus(progress, scan, sources)
    now = world.clock.now()
    if progress.leases_scanned is None:
        _settle_accounts(progress, scan, now)
        progress.leases_scanned = sum(entry.lease is not None for entry in scan.entries)
    progress.tasks_waiting = sum(view.waiting_total for view in sources)
    progress.sources_down = frozenset(view.name for view in sources if not view.is_up)
    progress.switches = switches or ()
    return Snapshot(
        now=now,
        host=host,
        scan=scan,
        evidence=world.launcher.inspect(_suspects(scan, sources)),
        memory_used=_measure(progress, host, scan, sources, gpus),
        gpus=gpus,
        gpu_owners=_owners(progress, gpus),
        sources=sources,
        agents=progress.settings.agents,
        inventory=progress.settings.inventory,
        memory=progress.memory,
        rules=progress.settings.rules,
        is_enabled=progress.settings.is_enabled,
        switches=switches,
        coolings=tuple(progress.coolings.values()),
        pressed_by=_look_for_pressure(progress, sources),
    )


def _settle_accounts(progress: Progress, scan: LeaseScan, now: Instant) -> None:
    """Charge everybody for what they have had since the last tick."""
    rules = progress.settings.rules
    if rules.fair_share != FairShare.OFF:
        from tinyscheduler.core.fairness import settle_accounts  # few share, and ticks are short

        progress.memory = settle_accounts(progress.memory, scan, rules=rules, now=now)


def _measure(
    progress: Progress,
    host: HostState,
    scan: LeaseScan,
    sources: tuple[SourceView, ...],
    gpus: GpuReading | None,
) -> Mapping[str, int]:
    """Look what live attempts use of what they reserved, where it decides about a start."""
    leases = [entry.lease for entry in scan.entries if isinstance(entry.lease, Lease)]
    if not _has_slot(progress, scan) or not any(view.waiting for view in sources):
        return {}
    wanted = [task.memory_bytes for view in sources for task in view.waiting]
    wanted += [agent.memory_bytes for agent in progress.settings.agents]
    reserved = [lease.needs.memory_bytes + lease.needs.shared_bytes for lease in leases]
    # Where GPUs share it, who waits may need far more of it.
    shares = gpus is not None and any(gpu.total_bytes is None for gpu in gpus.gpus)
    if not shares and is_ample(host, progress.settings.rules, reserved=reserved, wanted=wanted):
        return {}
    return progress.world.probe.measure([one for one in leases if one.needs.memory_bytes])


def _has_slot(progress: Progress, scan: LeaseScan) -> bool:
    leases = sum(isinstance(entry.lease, Lease) for entry in scan.entries)
    return leases < progress.settings.rules.host_slots


def _look_at_gpus(
    progress: Progress, scan: LeaseScan, sources: tuple[SourceView, ...]
) -> GpuReading | None:
    """Look at the GPUs where there is a reason to; None where there is none.

    After a look that failed there is no other in the same tick: each may take its time.
    """
    if progress.gpus_failed is not None:
        return progress.gpus_failed
    if not (
        progress.settings.sees_gpus
        or _might_start_on_gpu(progress, scan, sources)
        or _might_start_beside_gpu(progress, scan, sources)
        or _must_look_for_attempts(progress, scan)
    ):
        return None
    reading = masked(progress.world.gpus.read(), progress.settings.gpu_mask)
    if reading.fault is not None and not reading.is_absent:
        progress.gpus_failed = reading
    return reading


def _might_start_on_gpu(
    progress: Progress, scan: LeaseScan, sources: tuple[SourceView, ...]
) -> bool:
    """Whether something waits that needs a GPU, and a slot is free for it."""
    models = {one.model for one in progress.settings.inventory.models if one.needed_vram_bytes}
    agents = [
        agent for agent in progress.settings.agents if agent.vram_bytes or agent.model in models
    ]
    names, queues = {one.name for one in agents}, {one.queue for one in agents}
    wanted = any(
        task.gpus
        or task.vram_bytes
        or task.model in models
        or task.agent in names
        or task.queue in queues
        for view in sources
        for task in view.waiting
    )
    return wanted and _has_slot(progress, scan)


def _might_start_beside_gpu(
    progress: Progress, scan: LeaseScan, sources: tuple[SourceView, ...]
) -> bool:
    """Whether something waits for a memory of which an attempt reserved a part for a GPU."""
    return (
        any(isinstance(one.lease, Lease) and one.lease.needs.shared_bytes for one in scan.entries)
        and any(view.waiting for view in sources)
        and _has_slot(progress, scan)
    )


def _must_look_for_attempts(progress: Progress, scan: LeaseScan) -> bool:
    """Whether nobody has seen yet where an attempt sits that was put on a GPU some time ago."""
    return progress.mode is Mode.ACT and is_look_due(
        scan, progress.memory.gpu_sightings, progress.world.clock.now()
    )


def _owners(progress: Progress, reading: GpuReading | None) -> Mapping[int, str | None]:
    """Look whose the processes on the GPUs are."""
    gpus = (*reading.gpus, *reading.hidden) if reading is not None else ()
    pids = sorted({one.pid for gpu in gpus for one in gpu.processes or ()})
    return progress.world.launcher.owners(pids) if pids else {}


def _look(progress: Progress, source: TaskSource) -> SourceView:
    try:
        return source.look(window=progress.window or progress.settings.window)
    except SourceError as error:
        progress.fail(f"source {source.name}", error)
        return SourceView(name=source.name, error=error.what)


def _without_refused(progress: Progress, view: SourceView) -> SourceView:
    """Leave out what could not start in this tick, so that others get what it does not take."""
    if not progress.refused:
        return view
    waiting = tuple(task for task in view.waiting if key_of(task) not in progress.refused)
    return replace(view, waiting=waiting)


def _look_for_pressure(progress: Progress, sources: tuple[SourceView, ...]) -> tuple[str, ...]:
    """Look who is at work interactively, where a firing waits that may have to make way."""
    if not any(task.schedule_id is not None for view in sources for task in view.waiting):
        return ()
    return names_of(progress.world.pressures.live())


def _read_switches(
    progress: Progress, sources: tuple[SourceView, ...]
) -> tuple[Switch, ...] | None:
    try:
        switches = tuple(progress.world.switches.read())
        progress.coolings = {one.account: one for one in progress.world.coolings.read()}
    except StoreError as error:
        # Where one database holds both, the source has told of its failure already.
        if error.what not in {view.error for view in sources}:
            progress.fail("switches", error)
        return None
    return switches


def _look_and_decide(progress: Progress) -> tuple[Snapshot, Plan]:
    """Look and decide, and look further where what is seen waits for what is not there.

    However many tasks need a GPU that this machine does not have, the others go on.
    """
    while True:
        snapshot = _observe(progress)
        plan = decide_loudly(progress, snapshot)
        progress.decisions = plan.decisions
        window = progress.window or progress.settings.window
        if window >= _MOST_LOOKED_AT or not _is_short_sighted(snapshot, plan):
            return snapshot, plan
        progress.window = min(_WIDER * window, _MOST_LOOKED_AT)


# What binds those who have had enough, and no others.
_OF_SOME = frozenset({Reason.TENANT_QUOTA, Reason.SCHEDULE_CAP, Reason.PRESSURE})


def _is_short_sighted(snapshot: Snapshot, plan: Plan) -> bool:
    starts = sum(isinstance(one, Dispatch) for one in plan.decisions)
    return (
        plan.slots_in_use + starts < snapshot.rules.host_slots
        and any(
            isinstance(one, Wait) and (one.is_lasting or one.reason in _OF_SOME)
            for one in plan.decisions
        )
        and any(view.waiting_total > len(view.waiting) for view in snapshot.sources)
    )


def _preview(progress: Progress) -> tuple[Snapshot, Plan]:
    """Look and decide, so that a report can say what a tick would do."""
    progress.memory = progress.world.memory.load()
    snapshot, plan = _look_and_decide(progress)
    endings = Endings(progress=progress)
    for verdict in plan.verdicts:
        endings.announce(verdict)
    return snapshot, plan


def _act(progress: Progress) -> None:
    """Settle and reclaim, then start, looking again whenever the world has changed."""
    saved = progress.memory = progress.world.memory.load()
    endings, starts = Endings(progress=progress), Starts(progress=progress)
    rounds = looks = 0
    has_come_due = False
    while True:
        snapshot, plan = _look_and_decide(progress)
        progress.note_round(snapshot, plan)
        if looks == 0:
            tell_leaks(progress, snapshot.scan)
        looks += 1
        tell_misplaced(progress, snapshot)
        if rounds < _MOST_CLEANING_ROUNDS and endings.clean_up(plan, snapshot):
            rounds += 1
            enforce_budgets(progress)
            continue
        if not has_come_due:
            # Not before it is known what has ended: that is in the way of no firing, and
            # uses up no budget any more.
            has_come_due = True
            is_used_up = enforce_budgets(progress)
            if _fire(progress, snapshot) or is_used_up:
                continue
        goes_on = starts.start_all(plan, snapshot)
        enforce_budgets(progress)
        if not goes_on:
            break
    if plan.deferrals != progress.memory.deferrals:
        progress.memory = replace(progress.memory, deferrals=plan.deferrals)
    tell_changes(progress, snapshot, plan)
    _forget_skips(progress, snapshot)
    forget_the_past(progress)
    if progress.memory != saved:
        save = partial(progress.world.memory.save, progress.memory)
        progress.attempt("scheduling memory", save)


def _fire(progress: Progress, snapshot: Snapshot) -> bool:
    """Fire what is due; whether there are tasks now that were not there."""
    before = progress.firings
    unread = fire_due(progress)
    # Where one database holds both, the source has told of its failure already.
    if unread is not None and unread.what not in {one.error for one in snapshot.sources}:
        progress.fail("schedules", unread)
    return progress.firings > before


def _forget_skips(progress: Progress, snapshot: Snapshot) -> None:
    """Keep of how often tasks were overtaken what is of tasks that wait still."""
    waiting = {key_of(task) for view in snapshot.sources for task in view.waiting}
    waiting -= progress.started.keys()
    down = progress.sources_down
    skips = tuple(
        one
        for one in progress.memory.skips
        if one.source in down or (one.source, one.task_id) in waiting
    )
    if skips != progress.memory.skips:
        progress.memory = replace(progress.memory, skips=skips)


def _suspects(scan: LeaseScan, sources: tuple[SourceView, ...]) -> list[Trace]:
    """Name all attempts whose processes decide what becomes of them."""
    recorded = {result.lease_id for result in scan.results}
    traces = [
        trace_of(entry, entry.lease)
        for entry in scan.entries
        if isinstance(entry.lease, Lease)
        # A recorded result and a free lock need no look at processes: it is over.
        and (entry.is_lock_held or entry.lease.lease_id not in recorded)
    ]
    held = {entry.task_id for entry in scan.entries if entry.is_lock_held}
    leased = {trace.lease_id for trace in traces}
    traces.extend(
        trace_of_claim(claim, is_lock_held=claim.task_id in held)
        for source in sources
        for claim in source.claims
        if claim.lease_id not in leased
        and (claim.task_id in held or claim.lease_id not in recorded)
    )
    return traces
