"""On what is a policy tried before it rules?  A load from the past, from now, or from a case."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.queue import open_queue
from tinyscheduler.app.replaying import UNDECIDABLE
from tinyscheduler.app.ticks import may_have_gpus, read_gpus, settings_of
from tinyscheduler.core.capacity import measure, slot_holders
from tinyscheduler.core.gpus import masked
from tinyscheduler.core.leases import judge_all
from tinyscheduler.core.queueing import candidates
from tinyscheduler.errors import NotFoundError, TinySchedulerError
from tinyscheduler.model.clock import Instant
from tinyscheduler.model.config import AgentProfile, Inventory, ModelPlace, Quota
from tinyscheduler.model.resources import Gpu, GpuReading, HostState
from tinyscheduler.model.snapshot import LeaseScan, Snapshot
from tinyscheduler.model.tasks import Outcome, PriorityClass, TaskSpec, WaitingTask
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.forecast.load import Job, Load, Site, Trial
from tinyscheduler.simulator.machine import NO_GPU
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from tinyscheduler.app.policy_fixtures import FixtureCase
    from tinyscheduler.core.capacity import Capacity
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.history import RecordedTask
    from tinyscheduler.model.leases import Lease
    from tinyscheduler.model.policy import AgentView, PolicyContext
    from tinyscheduler.tick import TickSettings

# Tasks of one load: what takes minutes to play is tried by few.
MOST_TASKS = 10_000
# Of a task of which nobody knows how long it takes.
_MEAN_S = 600.0
# How far back it is looked how long tasks of an agent take.
_LOOK_BACK = timedelta(days=30)
# Of what waits, that which asked to wait for longer is not waited for.
_AHEAD = timedelta(days=7)
# So much less than an attempt may take one takes, or it would be ended.
_SPARE_S = 1.0
_EXIT_FAILED, _EXIT_LATER = 1, 75
_EXIT_CODES = {
    Outcome.FAILED: _EXIT_FAILED,
    Outcome.RETRY_LATER: _EXIT_LATER,
    Outcome.INTERRUPTED: _EXIT_LATER,
}


def site_here(config: Config) -> Site:
    """Return this machine as it is configured, with all its memory and its GPUs free."""
    settings = settings_of(config)
    reading = NO_GPU
    if may_have_gpus(config):
        reading = masked(read_gpus(config), settings.gpu_mask)
    gpus = tuple(replace(gpu, used_bytes=0, processes=()) for gpu in reading.gpus)
    return Site(
        settings=replace(settings, is_enabled=True),
        memory_bytes=ProcProbe().read().memory_total_bytes,
        gpus=replace(reading, gpus=gpus, hidden=()),
    )


def recorded_load(config: Config, *, since: datetime) -> Load:
    """Return what was tried on this machine since: it comes when it came, and takes as long.

    What is older comes with the first thing on record, and what is to come by a clock that was
    wrong, now.
    Raises NotFoundError where nothing was tried.
    """
    queue = open_queue(config, Access.READ)
    now = queue.clock.now().wall
    found, unreadable = queue.inquiry.recorded(since=since, limit=MOST_TASKS + 1)
    site = site_here(config)
    room = _room_of(site)
    tried = [
        task
        for task in found[-MOST_TASKS:]
        if any(one.started_at is not None for one in task.attempts)
    ]
    tasks = [task for task in tried if _could_start(_as_waiting(task.spec), room)]
    if not tasks:
        raise NotFoundError(
            "no attempt has ended since that could be played again",
            hint="say --since for longer ago, or --queue-depth for a made-up load",
        )
    # Not with the moment asked for, which is another each time: the same shall come of it.
    first = min(at for task in tasks for at in _moments(task) if at >= since)
    came = [min(max(_arrival(task), first), now) for task in tasks]
    begins_at = min(came)
    left_out = Counter({_WITHOUT_PLACE: len(tried) - len(tasks), _UNREADABLE: unreadable})
    older = (f"only the newest {MOST_TASKS} tasks are played",) if len(found) > MOST_TASKS else ()
    return Load(
        kind="recorded",
        words=f"{_tasks(len(tasks), 'recorded ')}, from {begins_at.astimezone():%a %d %b %H:%M} on",
        begins_at=begins_at,
        site=site,
        jobs=tuple(
            _job_of_past(config, task, at, begins_at) for task, at in zip(tasks, came, strict=True)
        ),
        notes=(*older, *_notes(left_out)),
    )


def snapshot_load(config: Config, snapshot: Snapshot, *, seed: int) -> Load:
    """Return what runs and waits in a snapshot; how long it takes is drawn from what is recorded.

    Raises NotFoundError where nothing waits that could start, and TinySchedulerError for a
    document about what no machine ever was like.
    """
    with refusing_nonsense():
        return _snapshot_load(config, snapshot, seed=seed)


@contextmanager
def refusing_nonsense() -> Iterator[None]:
    """Raise TinySchedulerError for what no tick ever saw, whoever has written it."""
    try:
        yield
    except UNDECIDABLE as error:
        raise TinySchedulerError(
            f"this snapshot cannot be played: {type(error).__name__}: {error}",
            hint="if nobody changed its document this is a bug: please send it in",
        ) from error


def _snapshot_load(config: Config, snapshot: Snapshot, *, seed: int) -> Load:
    durations = _Durations(config, seed)
    verdicts = judge_all(snapshot)
    running = [
        _running_job(holder.lease, snapshot, durations)
        for holder in slot_holders(snapshot, verdicts)
        if holder.lease is not None and not holder.is_over
    ]
    occupied = measure(snapshot, verdicts)
    site = _site_of(config, snapshot, occupied.give_back(occupied.held))
    told = sorted(
        (task for view in snapshot.sources for task in view.waiting),
        key=lambda task: task.created_order,
    )
    names = {job.name for job in running}
    waiting, left_out = _that_can_start(_with_own_names(told), names, site, snapshot.now.wall)
    notes = tuple(_notes(left_out))
    if not waiting:
        what = "; ".join(("nothing waits in that snapshot that could start", *notes))
        raise NotFoundError(what, hint="take one of a busy moment")
    names |= {task.task_id for task in waiting}
    return Load(
        kind="snapshot",
        words=f"{_tasks(len(waiting), 'waiting ')} of a snapshot, {len(running)} running",
        begins_at=snapshot.now.wall,
        site=site,
        jobs=(
            *running,
            *(_waiting_job(task, snapshot.now.wall, durations, names, site) for task in waiting),
        ),
        seed=seed,
        notes=notes,
        memory=replace(snapshot.memory, stale=(), policy=type(snapshot.memory.policy)()),
    )


def fixture_load(config: Config, case: FixtureCase, *, seed: int) -> Load:
    """Return the jobs of a case, and its machine; how long they take is drawn by the seed."""
    context = case.context
    durations = _Durations(None, seed)
    site = _site_of_case(config, context)
    busy = [job for agent in context.agents for job in _busy_jobs(agent, durations, site)]
    tasks = [
        _waiting_job(task, context.now, durations, frozenset(), site)
        for task in sorted(context.waiting, key=lambda task: task.created_order)
    ]
    return Load(
        kind="fixture",
        words=f"{_tasks(len(tasks))} of the case {case.name!r}",
        begins_at=context.now,
        site=site,
        jobs=(*busy, *tasks),
        seed=seed,
    )


# -- what is left out -----------------------------------------------------------------

_UNREADABLE = "what they ask for cannot be read"
_HELD = "held"
_WITHOUT_PLACE = "no agent may run them, or the machine has not what they need"
_LATE = "asked to wait for more than a week"
_BLOCKED = "what they come after is not played"


def _notes(left_out: Counter[str]) -> Iterable[str]:
    for why, number in left_out.items():
        if number:
            yield f"left out: {_tasks(number)} ({why})"


def _tasks(number: int, kind: str = "") -> str:
    return f"{number} {kind}task" if number == 1 else f"{number} {kind}tasks"


def _that_can_start(
    tasks: Iterable[WaitingTask], running: Iterable[str], site: Site, now: datetime
) -> tuple[list[WaitingTask], Counter[str]]:
    """Return the tasks that start once there is room, and why how many others do not."""
    room = _room_of(site)
    left_out: Counter[str] = Counter()
    found: dict[str, WaitingTask] = {}
    for task in tasks:
        why = _why_not(task, room, site, now)
        if why is None:
            found[task.task_id] = task
        else:
            left_out[why] += 1
    names = {*running, *found}
    while lost := [one.task_id for one in found.values() if not names.issuperset(one.blocked_by)]:
        left_out[_BLOCKED] += len(lost)
        names.difference_update(lost)
        for name in lost:
            del found[name]
    return list(found.values()), left_out


def _why_not(task: WaitingTask, room: Capacity, site: Site, now: datetime) -> str | None:
    """Return why the task would not start within a week if all were free; None if it would."""
    until = _until(task, now, site)
    if task.is_held:
        return _HELD
    if not _could_start(task, room):
        return _WITHOUT_PLACE
    return _LATE if until is not None and until > now + _AHEAD else None


def _could_start(task: WaitingTask, room: Capacity) -> bool:
    """Whether any agent could run the task where nothing else runs."""
    return any(
        agent.limit and not any(one.is_lasting for one in room.shortages(task, agent))
        for agent in candidates(task, room.agents)
    )


def _room_of(site: Site) -> Capacity:
    """Return what there is where nothing runs."""
    host = HostState(
        hostname="",
        boot_id="",
        pid_ns=0,
        memory_total_bytes=site.memory_bytes,
        memory_available_bytes=site.memory_bytes - site.memory_used_bytes,
        load=0.0,
        cores=1,
    )
    empty = Snapshot(
        now=Instant(wall=datetime.min.replace(tzinfo=UTC), monotonic_ns=0, boot_id=""),
        host=host,
        scan=LeaseScan(entries=(), results=()),
        gpus=site.gpus,
        agents=site.settings.agents,
        inventory=site.settings.inventory,
        rules=site.settings.rules,
    )
    return measure(empty, ())


# -- the past -------------------------------------------------------------------------


def _as_waiting(spec: TaskSpec) -> WaitingTask:
    return WaitingTask(
        task_id="",
        source="",
        created_order=0,
        attempt=1,
        agent=spec.agent,
        queue=spec.queue,
        memory_bytes=spec.memory_bytes,
        gpus=spec.gpus,
        vram_bytes=spec.vram_bytes,
        model=spec.model,
        tenant=spec.tenant,
    )


def _arrival(task: RecordedTask) -> datetime:
    """Return when it could first be seen by a tick, as far as anybody knows.

    One that was held was let go at its first start at the latest, and so did one wait again
    that was tried before.
    """
    first = _first_start(task)
    if task.spec.is_held or task.attempts[0].attempt > 1:
        return first
    return min(task.created_at, first)


def _moments(task: RecordedTask) -> Iterable[datetime]:
    yield _arrival(task)
    for one in task.attempts:
        if one.started_at is not None:
            yield one.started_at
        yield one.ended_at


def _first_start(task: RecordedTask) -> datetime:
    return next(one.started_at for one in task.attempts if one.started_at is not None)


def _job_of_past(config: Config, task: RecordedTask, came: datetime, begins_at: datetime) -> Job:
    spec = task.spec
    # What it was asked to wait for later says nothing of this time.
    is_later = spec.not_before is not None and spec.not_before > max(came, _first_start(task))
    failed = sum(one.outcome is Outcome.FAILED for one in task.attempts)
    return Job(
        name=task.task_id,
        spec=replace(
            spec,
            is_held=False,
            environment=(),
            cwd=None,
            after=() if config.blocking_disabled else spec.after,
            not_before=None if is_later else spec.not_before,
            # As often as it was tried, by hand as well.
            max_attempts=failed + (task.attempts[-1].outcome is not Outcome.FAILED),
        ),
        arrives_s=(came - begins_at).total_seconds(),
        trials=tuple(_trials(task, settings_of(config))),
        summary=task.summary,
        age_s=max(0.0, (came - task.created_at).total_seconds()),
        attempt=task.attempts[0].attempt,
    )


def _trials(task: RecordedTask, settings: TickSettings) -> Iterable[Trial]:
    for one in task.attempts:
        if one.started_at is not None:
            took_s = (one.ended_at - one.started_at).total_seconds()
            yield Trial(
                runs_s=min(
                    max(0.0, took_s), _longest_s(task.spec.max_runtime_s, one.agent, settings)
                ),
                exit_code=_EXIT_CODES.get(one.outcome, 0),
            )


def _longest_s(said_s: float | None, agent: str | None, settings: TickSettings) -> float:
    """Return how long an attempt may take so that nobody ends it.  Seconds."""
    of_agent = next((one.max_runtime_s for one in settings.agents if one.name == agent), None)
    return max(0.0, (said_s or of_agent or settings.max_runtime_s) - _SPARE_S)


class _Durations:
    """Draws how long an attempt takes: as long as one of the same agent did."""

    def __init__(self, config: Config | None, seed: int) -> None:
        self._chance = Chance(seed, "durations")
        self._known: dict[str, list[float]] = {}
        if config is not None:
            queue = open_queue(config, Access.READ)
            since = queue.clock.now().wall - _LOOK_BACK
            for one in queue.inquiry.measured(since=since):
                if one.started_at is not None:
                    took_s = max(0.0, (one.ended_at - one.started_at).total_seconds())
                    self._known.setdefault(one.agent, []).append(took_s)

    def draw(self, agent: str | None, longest_s: float) -> float:
        known = self._known.get(agent or "") or [
            took_s for name in sorted(self._known) for took_s in self._known[name]
        ]
        drawn_s = self._chance.pick(known) if known else self._chance.after(_MEAN_S)
        return min(drawn_s, longest_s)


# -- now ------------------------------------------------------------------------------


def _with_own_names(tasks: Iterable[WaitingTask]) -> list[WaitingTask]:
    """Return the tasks so that no two of several sources have one name."""
    named: dict[str, WaitingTask] = {}
    for task in tasks:
        name = task.task_id if task.task_id not in named else f"{task.source}:{task.task_id}"
        named[name] = replace(task, task_id=name)
    return list(named.values())


def _until(task: WaitingTask, now: datetime, site: Site) -> datetime | None:
    """Return what the task waits for, if that is a time."""
    rules, until = site.settings.rules, task.backing_off_until
    longest_s = max(rules.retry_max_s, rules.retry_later_s)
    if until is not None and (until - now).total_seconds() > longest_s:
        # Begun under a clock that has been set back since: over, as for a tick.
        until = None
    return max((one for one in (task.not_before, until) if one is not None), default=None)


def _running_job(lease: Lease, snapshot: Snapshot, durations: _Durations) -> Job:
    age_s = max(0.0, (snapshot.now.monotonic_ns - lease.monotonic_started_ns) / 1e9)
    left_s = max(1.0, durations.draw(lease.agent, lease.max_runtime_s - _SPARE_S) - age_s)
    spec = TaskSpec(
        agent=lease.agent,
        command=("work",),
        gpus=lease.needs.gpus,
        vram_bytes=lease.needs.vram_bytes,
        memory_bytes=lease.needs.memory_bytes,
        model=lease.model,
        tenant=lease.tenant,
        project=lease.project,
        max_runtime_s=lease.max_runtime_s,
    )
    return Job(
        name=lease.task_id,
        spec=spec,
        arrives_s=0.0,
        trials=(Trial(runs_s=left_s),),
        is_running=True,
    )


def _waiting_job(
    task: WaitingTask, now: datetime, durations: _Durations, names: Container[str], site: Site
) -> Job:
    longest_s = _longest_s(task.max_runtime_s, task.agent, site.settings)
    spec = TaskSpec(
        agent=task.agent,
        queue=task.queue,
        title=task.title,
        command=("work",),
        priority=task.priority,
        priority_class=task.priority_class,
        gpus=task.gpus,
        vram_bytes=task.vram_bytes,
        memory_bytes=task.memory_bytes,
        model=task.model,
        seed=task.seed,
        tenant=task.tenant,
        project=task.project,
        max_runtime_s=task.max_runtime_s,
        after=tuple(one for one in task.blocked_by if one in names),
        not_before=_until(task, now, site),
        labels=task.labels,
    )
    age_s = 0.0 if task.created_at is None else (now - task.created_at).total_seconds()
    return Job(
        name=task.task_id,
        spec=spec,
        arrives_s=0.0,
        trials=(Trial(runs_s=durations.draw(task.agent, longest_s)),),
        age_s=max(0.0, age_s),
        attempt=task.attempt,
        failures=task.failures,
    )


def _site_of(config: Config, snapshot: Snapshot, room: Capacity) -> Site:
    """Return the machine of a snapshot, with all free that is once its attempts have ended."""
    rules = snapshot.rules
    reading = snapshot.gpus or NO_GPU
    free = {view.uuid: view.free_bytes for view in room.gpus.gpus}
    gpus = tuple(
        replace(
            gpu,
            used_bytes=0 if gpu.total_bytes is None else gpu.total_bytes - free[gpu.uuid],
            processes=(),
        )
        for gpu in reading.gpus
    )
    return Site(
        settings=replace(
            settings_of(config),
            agents=snapshot.agents,
            rules=rules,
            inventory=snapshot.inventory,
            window=rules.host_slots + rules.lookahead,
            max_runtime_s=rules.max_runtime_s,
            is_enabled=True,
        ),
        memory_bytes=room.memory.total_bytes,
        memory_used_bytes=room.memory.total_bytes - room.memory.available_bytes,
        gpus=replace(reading, gpus=gpus),
    )


# -- a case ---------------------------------------------------------------------------


def _busy_jobs(agent: AgentView, durations: _Durations, site: Site) -> Iterable[Job]:
    longest_s = _longest_s(None, agent.name, site.settings)
    for number in range(1, agent.active + 1):
        spec = TaskSpec(agent=agent.name, command=("work",), memory_bytes=0)
        yield Job(
            name=f"{agent.name}/{number}",
            spec=spec,
            arrives_s=0.0,
            trials=(Trial(runs_s=durations.draw(agent.name, longest_s)),),
            is_running=True,
        )


def _site_of_case(config: Config, context: PolicyContext) -> Site:
    settings = settings_of(config)
    active = sum(agent.active for agent in context.agents)
    rules = replace(
        settings.rules,
        host_slots=context.host_slots_free + active,
        is_priority_enabled=context.is_priority_enabled,
        memory_per_slot_bytes=0,
        memory_critical=1.0,
        memory_warning=1.0,
    )
    agents = tuple(
        AgentProfile(
            name=one.name,
            queue=one.queue,
            limit=one.limit,
            priority_class=PriorityClass.INTERACTIVE if one.is_interactive else None,
        )
        for one in context.agents
    )
    gpus = tuple(
        Gpu(
            index=one.index,
            uuid=one.uuid,
            name=one.name,
            total_bytes=one.total_bytes,
            used_bytes=one.total_bytes - one.free_bytes,
            fault=one.fault,
        )
        for one in context.gpus
    )
    return Site(
        settings=replace(
            settings,
            agents=agents,
            rules=rules,
            inventory=_inventory_of_case(context),
            window=rules.host_slots + rules.lookahead,
            is_enabled=True,
        ),
        memory_bytes=max(1, context.memory_free_bytes),
        gpus=GpuReading(gpus=gpus) if gpus else NO_GPU,
    )


def _inventory_of_case(context: PolicyContext) -> Inventory:
    """Return the models with the slots that are free, and who may have how much more."""
    return Inventory(
        models=tuple(
            ModelPlace(model=one.model, host=one.host, max_slots=one.free) for one in context.models
        ),
        tenants=tuple(
            Quota(
                name=one.name,
                slots=None if one.slots is None else max(0, one.slots - one.used_slots),
                vram_bytes=None
                if one.vram_bytes is None
                else max(0, one.vram_bytes - one.used_vram_bytes),
            )
            for one in context.tenants
        ),
    )


def case_named(cases: Sequence[FixtureCase], name: str | None, path: str) -> FixtureCase:
    """Return the case of that name, or the only one; NotFoundError names those there are."""
    names: Mapping[str, FixtureCase] = {one.name: one for one in cases}
    if name is None and len(cases) == 1:
        return cases[0]
    if name is not None and name in names:
        return names[name]
    what = f"{path} has {len(cases)} cases" if name is None else f"{path} has no case {name!r}"
    listed = ", ".join(repr(one) for one in names)
    raise NotFoundError(what, hint=f"say --case with one of {listed}")
