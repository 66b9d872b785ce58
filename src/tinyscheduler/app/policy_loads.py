"""On what is a policy tried before it rules?  A load from the past, from now, or from a case."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.queue import open_queue
from tinyscheduler.app.ticks import may_have_gpus, read_gpus, settings_of
from tinyscheduler.core.gpus import masked
from tinyscheduler.core.queueing import candidates
from tinyscheduler.errors import NotFoundError
from tinyscheduler.model.config import AgentProfile, Inventory, ModelPlace, Quota
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.resources import Gpu, GpuReading
from tinyscheduler.model.tasks import Outcome, PriorityClass, TaskSpec
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.forecast.load import Job, Load, Site, Trial
from tinyscheduler.simulator.machine import NO_GPU
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tinyscheduler.app.policy_fixtures import FixtureCase
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.history import AttemptRecord, RecordedTask
    from tinyscheduler.model.policy import AgentView, PolicyContext
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.tick import TickSettings

# Tasks of one load: what takes minutes to play is tried by few.
MOST_TASKS = 10_000
# Of a task of which nobody knows how long it takes.
_MEAN_S = 600.0
# How far back it is looked how long tasks of an agent take.
_LOOK_BACK = timedelta(days=30)
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

    Raises NotFoundError where nothing was.
    """
    queue = open_queue(config, Access.READ)
    found, unreadable = queue.inquiry.recorded(since=since, limit=MOST_TASKS + 1)
    has_more = len(found) > MOST_TASKS
    site = site_here(config)
    agents = _views(site.settings)
    tasks, strangers = [], 0
    for task in found[-MOST_TASKS:]:
        if not candidates(_as_waiting(task.spec), agents):
            strangers += 1
        elif any(one.started_at is not None for one in task.attempts):
            tasks.append(task)
    if not tasks:
        raise NotFoundError(
            "no attempt has ended since that could be played again",
            hint="say --since for longer ago, or --queue-depth for a made-up load",
        )
    begins_at = min(map(_arrival, tasks))
    return Load(
        kind="recorded",
        words=f"{len(tasks)} recorded tasks, from {begins_at.astimezone():%a %d %b %H:%M} on",
        begins_at=begins_at,
        site=site,
        jobs=tuple(_job_of_past(task, begins_at, site.settings) for task in tasks),
        notes=tuple(_notes(unreadable=unreadable, strangers=strangers, has_more=has_more)),
    )


def snapshot_load(config: Config, snapshot: Snapshot, *, seed: int) -> Load:
    """Return what runs and waits in a snapshot; how long it takes is drawn from what is recorded.

    Raises NotFoundError where nothing waits.
    """
    durations = _Durations(config, seed)
    now = snapshot.now.wall
    running = [
        _running_job(entry.lease, snapshot, durations)
        for entry in snapshot.scan.entries
        if isinstance(entry.lease, Lease)
    ]
    waiting = [task for view in snapshot.sources for task in view.waiting if not task.is_held]
    if not waiting:
        raise NotFoundError("nothing waits in that snapshot", hint="take one of a busy moment")
    waiting = _with_own_names(sorted(waiting, key=lambda task: task.created_order))
    names = {job.name for job in running} | {task.task_id for task in waiting}
    site = _site_of(config, snapshot, running)
    return Load(
        kind="snapshot",
        words=f"{len(waiting)} tasks that wait in a snapshot, beside {len(running)} that run",
        begins_at=now,
        site=site,
        jobs=(*running, *(_waiting_job(task, now, durations, names) for task in waiting)),
        seed=seed,
        memory=replace(snapshot.memory, stale=(), policy=type(snapshot.memory.policy)()),
    )


def fixture_load(config: Config, case: FixtureCase, *, seed: int) -> Load:
    """Return the jobs of a case, and its machine; how long they take is drawn by the seed."""
    context = case.context
    durations = _Durations(None, seed)
    busy = [job for agent in context.agents for job in _busy_jobs(agent, durations)]
    tasks = [
        _waiting_job(task, context.now, durations, frozenset())
        for task in sorted(context.waiting, key=lambda task: task.created_order)
    ]
    return Load(
        kind="fixture",
        words=f"{len(tasks)} tasks of the case {case.name!r}",
        begins_at=context.now,
        site=_site_of_case(config, context),
        jobs=(*busy, *tasks),
        seed=seed,
    )


# -- the past -------------------------------------------------------------------------


def _notes(*, unreadable: int, strangers: int, has_more: bool) -> Iterable[str]:
    if has_more:
        yield f"only the newest {MOST_TASKS} tasks are played"
    if strangers:
        yield f"{strangers} tasks are left out: no agent that is configured now may run them"
    if unreadable:
        yield f"{unreadable} tasks are left out: what they ask for cannot be read"


def _views(settings: TickSettings) -> Sequence[AgentView]:
    from tinyscheduler.model.policy import AgentView

    return [
        AgentView(name=one.name, queue=one.queue, limit=one.limit, active=0)
        for one in settings.agents
    ]


def _as_waiting(spec: TaskSpec) -> WaitingTask:
    from tinyscheduler.model.tasks import WaitingTask

    return WaitingTask(
        task_id="", source="", created_order=0, attempt=1, agent=spec.agent, queue=spec.queue
    )


def _arrival(task: RecordedTask) -> datetime:
    """Return when it could first be seen by a tick: one that was held, when it was let go."""
    first = next(one.started_at for one in task.attempts if one.started_at is not None)
    return first if task.spec.is_held else min(task.created_at, first)


def _job_of_past(task: RecordedTask, begins_at: datetime, settings: TickSettings) -> Job:
    longest_s = task.spec.max_runtime_s or settings.max_runtime_s
    return Job(
        name=task.task_id,
        spec=replace(task.spec, is_held=False, environment=(), cwd=None),
        arrives_s=(_arrival(task) - begins_at).total_seconds(),
        trials=tuple(_trials(task.attempts, longest_s)),
        summary=task.summary,
    )


def _trials(attempts: Iterable[AttemptRecord], longest_s: float) -> Iterable[Trial]:
    for one in attempts:
        if one.started_at is not None:
            took_s = (one.ended_at - one.started_at).total_seconds()
            yield Trial(
                runs_s=min(max(0.0, took_s), longest_s),
                exit_code=_EXIT_CODES.get(one.outcome, 0),
            )


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


def _running_job(lease: Lease, snapshot: Snapshot, durations: _Durations) -> Job:
    age_s = max(0.0, (snapshot.now.monotonic_ns - lease.monotonic_started_ns) / 1e9)
    left_s = max(1.0, durations.draw(lease.agent, lease.max_runtime_s) - age_s)
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
    task: WaitingTask, now: datetime, durations: _Durations, names: Iterable[str]
) -> Job:
    known = set(names)
    until = max(
        (one for one in (task.not_before, task.backing_off_until) if one is not None), default=None
    )
    longest_s = task.max_runtime_s or float("inf")
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
        after=tuple(one for one in task.blocked_by if one in known),
        not_before=until,
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


def _site_of(config: Config, snapshot: Snapshot, running: Sequence[Job]) -> Site:
    """Return the machine of a snapshot; what its attempts use is theirs again once they run."""
    rules, host = snapshot.rules, snapshot.host
    reserved = sum(job.spec.memory_bytes or 0 for job in running)
    used = host.memory_total_bytes - host.memory_available_bytes - reserved
    ours: dict[str, int] = {}
    for entry in snapshot.scan.entries:
        if isinstance(entry.lease, Lease):
            for uuid in entry.lease.gpu_uuids:
                ours[uuid] = ours.get(uuid, 0) + entry.lease.needs.vram_bytes
    reading = snapshot.gpus or NO_GPU
    gpus = tuple(
        replace(gpu, used_bytes=max(0, gpu.used_bytes - ours.get(gpu.uuid, 0)), processes=())
        for gpu in reading.gpus
    )
    return Site(
        settings=replace(
            settings_of(config),
            agents=snapshot.agents,
            rules=rules,
            inventory=snapshot.inventory,
            window=rules.host_slots + rules.lookahead,
            is_enabled=True,
        ),
        memory_bytes=host.memory_total_bytes,
        memory_used_bytes=max(0, used),
        gpus=replace(reading, gpus=gpus),
    )


# -- a case ---------------------------------------------------------------------------


def _busy_jobs(agent: AgentView, durations: _Durations) -> Iterable[Job]:
    for number in range(1, agent.active + 1):
        spec = TaskSpec(agent=agent.name, command=("work",), memory_bytes=0)
        yield Job(
            name=f"{agent.name}/{number}",
            spec=spec,
            arrives_s=0.0,
            trials=(Trial(runs_s=durations.draw(agent.name, float("inf"))),),
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
            ModelPlace(model=one.model, host=one.host, max_slots=one.free)
            for one in context.models
            if one.free
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
