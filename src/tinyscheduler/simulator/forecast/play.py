"""Plays a load under a policy: real ticks, simulated time, and nothing that goes wrong."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Protocol

from tinyscheduler.model.events import EventName
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.simulator.attempts import Script
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.tick_lock import wish
from tinyscheduler.simulator.world import SimulatedWorld
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tinyscheduler.model.events import Event
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.rounds import Round
    from tinyscheduler.ports import Policy
    from tinyscheduler.simulator.attempts import Attempt
    from tinyscheduler.simulator.forecast.load import Job, Load
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.source import Row
    from tinyscheduler.tick import World

# Cron ticks each minute, where something waits; where nothing has changed for long more seldom.
_CRON_S = 60.0
_QUIET_S, _QUIET_CRON_S = 2 * 3600.0, 600.0
# Whoever starts nothing for so long, weekends included, starts nothing any more.
_PATIENCE_S = 8 * 86_400.0
_HEARTBEAT_S = 3600.0
# How long `add` takes to make a tick happen.
_KICK_S = 0.05
# How long what runs already takes to begin.
_SETTLING_S = 0.2


class Contender(Protocol):
    """A policy as ticks find it: anew each time, with no memory of the tick before."""

    @property
    def name(self) -> str:
        """The word that reports call it by."""

    @property
    def version(self) -> str:
        """A digest of what it is made of; empty if it is built in."""

    def find(self) -> Policy | None:
        """Return the policy for one tick; None: the platform policy decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCourse:
    """How it went with one task.  Seconds since the beginning.

    It could have started from ``ready_s`` on, if anything had been free; None where it waited for
    a task that never was done.  ``runs_s`` is how long its first attempt took, or would have.
    """

    name: str
    title: str | None
    agent: str | None
    tenant: str | None
    ready_s: float | None
    started_s: float | None
    ended_s: float | None
    runs_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCourse:
    """One attempt, and what it had: a slot, and as much of GPUs, 1 for each whole one."""

    name: str
    agent: str
    started_s: float
    ended_s: float
    gpu_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why the platform policy decided instead, and in how many ticks."""

    cause: str
    words: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that came of a load under a policy, until ``ended_s``."""

    policy: str
    version: str
    load: Load
    tasks: tuple[TaskCourse, ...]
    attempts: tuple[AttemptCourse, ...]
    ended_s: float
    faults: tuple[Fault, ...] = ()


def play(load: Load, contender: Contender) -> Course:
    """Let it happen.  The same for the same load and policy, to the microsecond.

    Raises what a tick ended with, if one did: here nothing goes wrong.
    """
    return _Play(load, contender).run()


class _Ear:
    """An observer that hears of policies that fail, and lets all else go by."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], int] = {}

    def notice(self, event: Event) -> None:
        if event.name is EventName.POLICY_FALLBACK:
            details = dict(event.details)
            key = (str(details["cause"]), str(details["words"]))
            self.faults[key] = self.faults.get(key, 0) + 1

    def report(self, report: TickReport) -> None:
        del report


class _NoRecorder:
    """Keeps nothing of what was decided: it can be played again."""

    def record(self, rounds: Sequence[Round]) -> None:
        del rounds

    def ticks(self) -> Sequence[str]:
        return ()

    def rounds(self, tick_id: str) -> Sequence[Round]:
        del tick_id
        return ()


class _Play:
    """One run."""

    def __init__(self, load: Load, contender: Contender) -> None:
        self.load = load
        self.contender = contender
        self.ear = _Ear()
        self.world = self._build()
        self.jobs: dict[str, Job] = {}  # by id in the simulated queue
        self.ids: dict[str, str] = {}  # by name
        self.begins_ns = 0
        self.has_begun = False
        self.to_come = 0  # not there yet, or not before a time
        self.changed_s = 0.0
        self.ticked_s = 0.0
        self.is_kicked = False

    def run(self) -> Course:
        machine = self.world.machine
        self._set_clock(ahead_s=_SETTLING_S)
        self._settle_in()
        self._set_clock()
        self.begins_ns, self.has_begun = machine.running_ns, True
        coming = _in_turn(job for job in self.load.jobs if not job.is_running)
        self._remember([job for job, _ in coming])
        self.to_come = len(coming)
        for job, arrives_s in coming:
            machine.schedule(arrives_s, partial(self._arrive, job))
        machine.schedule(_CRON_S, self._cron)
        while not self._is_over():
            machine.advance(_CRON_S)
        return self._course()

    # -- the world ----------------------------------------------------------------

    def _build(self) -> SimulatedWorld:
        site = self.load.site
        rules = site.settings.rules
        # Nothing dies, so that nobody needs to be told often that something lives.
        settings = replace(
            site.settings,
            retention=None,
            gpu_mask=None,
            policy_mode="lab",
            heartbeat_s=_HEARTBEAT_S,
        )
        machine = Machine(
            memory_total_bytes=site.memory_bytes,
            memory_available_bytes=site.memory_bytes - site.memory_used_bytes,
            gpus=site.gpus,
        )
        world = SimulatedWorld(settings=settings, machine=machine)
        machine.on_change = _nobody_audits
        queue, workshop = world.queue, world.workshop
        queue.is_priority_enabled = rules.is_priority_enabled
        queue.fair_share = rules.fair_share
        workshop.is_kick_enabled = settings.heeds_ends
        workshop.script = self._script
        workshop.on_command_start = self._note_start
        workshop.on_term = workshop.on_kill = _ignore
        world.rewire = self._rewire
        return world

    def _rewire(self, world: World, process: Process) -> World:
        del process
        return replace(
            world,
            find_policy=self.contender.find if self.has_begun else world.find_policy,
            observers=(self.ear,),
            recorder=_NoRecorder,
        )

    def _script(self, task_id: str, attempt: int) -> Script:
        trial = self.jobs[task_id].trial(attempt)
        return Script(runs_s=trial.runs_s, exit_code=trial.exit_code)

    def _note_start(self, attempt: Attempt) -> None:
        del attempt
        self.changed_s = self._now_s()

    def _now_s(self) -> float:
        return (self.world.machine.running_ns - self.begins_ns) / 1e9

    # -- the load -----------------------------------------------------------------

    def _set_clock(self, *, ahead_s: float = 0.0) -> None:
        machine = self.world.machine
        machine.step_wall((self.load.begins_at - machine.wall).total_seconds() - ahead_s)

    def _settle_in(self) -> None:
        """Start what runs already, whoever may have decided that, and all of it at once."""
        world, settings = self.world, self.world.settings
        running = [job for job in self.load.jobs if job.is_running]
        for job in running:
            self._add(job)
        if running:
            world.settings = replace(settings, stagger_s=0.0)
            world.run_ticks()
            world.machine.advance(_SETTLING_S)
            world.settings = settings
        for row in self._unfinished():
            # For what there is no room any more nobody else is to wait.
            if row.state is TaskState.WAITING:
                row.state, row.ended_at = TaskState.DONE, world.queue.now()

    def _remember(self, coming: Sequence[Job]) -> None:
        """Let ticks remember what they are to, by the numbers that jobs will get."""
        memory, queue = self.load.memory, self.world.queue
        ids = {job.name: str(number) for number, job in enumerate(coming, start=queue.added + 1)}
        skips = tuple(
            replace(one, source=queue.name, task_id=ids[one.task_id])
            for one in memory.skips
            if one.task_id in ids
        )
        self.world.disk.memory = replace(memory, skips=skips)

    def _arrive(self, job: Job) -> None:
        self._add(job)
        until, now = job.spec.not_before, self.world.queue.now()
        if until is not None and until > now:
            self.world.machine.schedule((until - now).total_seconds(), self._note_come)
        else:
            self._note_come()
        if self.world.settings.heeds_ends and not self.is_kicked:
            # Tasks that come at once are seen at once.
            self.is_kicked = True
            self.world.machine.schedule(_KICK_S, self._kick)

    def _note_come(self) -> None:
        self.to_come -= 1
        self.changed_s = self._now_s()

    def _add(self, job: Job) -> None:
        queue = self.world.queue
        spec = replace(
            job.spec, after=tuple(self.ids[name] for name in job.spec.after if name in self.ids)
        )
        task_id = queue.add(spec)
        self.jobs[task_id], self.ids[job.name] = job, task_id
        row = queue.rows[task_id]
        row.attempt, row.failures = job.attempt, job.failures
        if job.age_s:
            row.created_at = queue.now() - timedelta(seconds=job.age_s)

    def _kick(self) -> None:
        self.is_kicked = False
        wish(self.world.disk)
        self.world.run_ticks()

    def _cron(self) -> None:
        self.world.machine.schedule(_CRON_S, self._cron)
        now_s = self._now_s()
        # Where no kick follows an end, this is who settles it.
        has_ended = bool(self.world.disk.results)
        is_quiet = now_s - self.changed_s > _QUIET_S and not has_ended
        if is_quiet and now_s - self.ticked_s < _QUIET_CRON_S:
            return
        if has_ended or any(row.state is TaskState.WAITING for row in self._unfinished()):
            self.ticked_s = now_s
            self.world.run_ticks()

    def _unfinished(self) -> list[Row]:
        return [row for row in self.world.queue.rows.values() if not row.state.is_final]

    def _is_over(self) -> bool:
        if self.world.failures:
            raise self.world.failures[0]
        if self.to_come:
            return False
        left = self._unfinished()
        if any(row.state is TaskState.WORKING for row in left):
            return False
        if self._now_s() - self.changed_s > _PATIENCE_S:
            return True
        hopeless = self._hopeless()
        return all(row.task_id in hopeless for row in left)

    def _hopeless(self) -> set[str]:
        """Return what ended and was not done, and what waits for it, however far down."""
        found: set[str] = set()
        for row in self.world.queue.rows.values():  # what others come after stands before them
            is_lost = row.state.is_final and row.state is not TaskState.DONE
            if is_lost or not found.isdisjoint(row.spec.after):
                found.add(row.task_id)
        return found

    # -- what came of it ----------------------------------------------------------

    def _course(self) -> Course:
        attempts = [
            one
            for one in self.world.workshop.attempts.values()
            if one.is_started and not self.jobs[one.lease.task_id].is_running
        ]
        attempts.sort(key=lambda one: (one.started_ns, one.lease.lease_id))
        now_s = self._now_s()
        first: dict[str, Attempt] = {}
        for one in attempts:
            first.setdefault(one.lease.task_id, one)
        rows = self.world.queue.rows
        tasks = tuple(
            self._task_course(task_id, rows[task_id], first.get(task_id))
            for task_id, job in self.jobs.items()
            if not job.is_running
        )
        ended = [one.ended_s for one in tasks if one.ended_s is not None]
        is_all_over = all(one.ended_s is not None for one in tasks)
        return Course(
            policy=self.contender.name,
            version=self.contender.version,
            load=self.load,
            tasks=tasks,
            attempts=tuple(self._attempt_course(one, now_s) for one in attempts),
            ended_s=max(ended, default=0.0) if is_all_over else now_s,
            faults=tuple(
                Fault(cause=cause, words=words, times=times)
                for (cause, words), times in self.ear.faults.items()
            ),
        )

    def _task_course(self, task_id: str, row: Row, first: Attempt | None) -> TaskCourse:
        job = self.jobs[task_id]
        return TaskCourse(
            name=job.name,
            title=job.summary or job.spec.title,
            agent=job.spec.agent or (first.lease.agent if first is not None else None),
            tenant=job.spec.tenant,
            ready_s=self._ready_s(job),
            started_s=None if first is None else self._since(first.started_ns),
            ended_s=self._ended_s(row),
            runs_s=job.trials[0].runs_s,
        )

    def _ready_s(self, job: Job) -> float | None:
        ready_s = job.arrives_s
        if job.spec.not_before is not None:
            ready_s = max(ready_s, (job.spec.not_before - self.load.begins_at).total_seconds())
        for name in job.spec.after:
            if name in self.ids:
                blocker = self.world.queue.rows[self.ids[name]]
                ended_s = self._ended_s(blocker)
                if ended_s is None or blocker.state is not TaskState.DONE:
                    return None
                ready_s = max(ready_s, ended_s)
        return ready_s

    def _ended_s(self, row: Row) -> float | None:
        if row.ended_at is None:
            return None
        return max(0.0, (row.ended_at - self.load.begins_at).total_seconds())

    def _attempt_course(self, one: Attempt, now_s: float) -> AttemptCourse:
        ended_ns = one.tree_ended_ns
        return AttemptCourse(
            name=self.jobs[one.lease.task_id].name,
            agent=one.lease.agent,
            started_s=self._since(one.started_ns),
            ended_s=now_s if ended_ns is None else self._since(ended_ns),
            gpu_share=one.lease.gpu_share,
        )

    def _since(self, running_ns: int) -> float:
        return (running_ns - self.begins_ns) / 1e9


def _in_turn(jobs: Iterable[Job]) -> list[tuple[Job, float]]:
    """Return the jobs in the order in which they arrive, and when, none before what it comes after.

    One that was held when others were added to come after it arrives later than they did.
    """
    listed = list(jobs)
    known = {job.name for job in listed}
    followers: dict[str, list[int]] = {}
    left = [0] * len(listed)
    arrives_s = [job.arrives_s for job in listed]
    for place, job in enumerate(listed):
        for name in known.intersection(job.spec.after):
            followers.setdefault(name, []).append(place)
            left[place] += 1
    able = [(arrives_s[place], place) for place in range(len(listed)) if not left[place]]
    heapify(able)
    found = []
    while able:
        at_s, place = heappop(able)
        found.append((listed[place], at_s))
        for follower in followers.get(listed[place].name, ()):
            arrives_s[follower] = max(arrives_s[follower], at_s)
            left[follower] -= 1
            if not left[follower]:
                heappush(able, (arrives_s[follower], follower))
    return found


def _nobody_audits() -> None:
    """Look at nothing: what is asked here is how well it goes, not whether it goes."""


def _ignore(_attempt: Attempt) -> None:
    """Let it happen."""
