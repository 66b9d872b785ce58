"""How attempts are started: leased, claimed, launched, one after the other."""

from __future__ import annotations

from functools import partial

from tinyscheduler.core import retry
from tinyscheduler.core.queueing import key_of
from tinyscheduler.errors import ExhaustedError, LaunchError, StoreError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseState
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.model.snapshot import Skips
from tinyscheduler.model.tasks import Claim, Ending, TaskSpec
from tinyscheduler.tick.firing import find_schedule, tell_schedule
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.plan import Plan
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import TaskLock
    from tinyscheduler.tick.progress import Progress

# A sleeping tick looks this often whether something ended: nobody else may settle it.
_MOST_DEAF_S = 0.2
# After so many starts that came to nothing, a tick looks for no other to take their place.
MOST_REFUSED = 20


@dataclass(slots=True, kw_only=True)
class Starts:
    """Starts what was decided, and owns the order in which that is written down."""

    progress: Progress
    # What the machine has none of left, once a start has shown it.
    exhaustion: str | None = None
    is_told_to_wait: bool = False

    def start_all(self, plan: Plan, snapshot: Snapshot) -> bool:
        """Start what was decided, in order; return whether to look again before going on.

        Capacity is looked at again before each start that waited for its turn, and once
        some could not start: what they do not take, others may.
        """
        before = len(self.progress.refused)
        for decision in plan.decisions:
            if not isinstance(decision, Dispatch) or key_of(decision.task) in self.progress.refused:
                continue
            if self.progress.should_stop():
                self._leave_rest(plan, Reason.UNPLACED, "the tick was asked to stop")
                return False
            wait_s = self._stagger_left_s()
            if wait_s > 0:
                if self.progress.spent_s() + wait_s > self.progress.settings.budget_s:
                    self._stagger_rest(plan, wait_s)
                    return False
                if not self.is_told_to_wait:
                    self.is_told_to_wait = True
                    details = (("delay_ms", round(1000 * wait_s)),)
                    self.progress.notice(EventName.STAGGER_WAIT, details=details)
                self._await_turn(wait_s)
                return True
            start = partial(self._start, decision, snapshot)
            self.progress.attempt(f"task {decision.task.task_id}", start)
            if self.exhaustion is not None:
                # The next would only fail as well, and the one after it.
                self._leave_rest(plan, Reason.UNPLACED, self.exhaustion)
                return False
            if key_of(decision.task) not in self.progress.started:
                words = "it could not be started; the report's errors say why"
                self.progress.refuse(decision, Reason.UNPLACED, words)
        # A hundred thousand that cannot start must not make one tick of it: the rest waits.
        is_patient = len(self.progress.refused) <= MOST_REFUSED
        return is_patient and len(self.progress.refused) > before

    def _await_turn(self, wait_s: float) -> None:
        """Sleep until the next start is due, or something has ended meanwhile.

        We hold the tick lock, so whoever wishes for a tick leaves it to us.
        """
        lock, clock = self.progress.world.lock, self.progress.world.clock
        self.progress.keep_rounds()
        while wait_s > 0 and not self.progress.should_stop():
            if lock.is_kicked():
                lock.forget_kick()
                return
            clock.sleep(min(wait_s, _MOST_DEAF_S))
            wait_s -= _MOST_DEAF_S

    def _start(self, dispatch: Dispatch, snapshot: Snapshot) -> None:
        """Lease, claim, launch: the lease exists before the claim, the claim before the process."""
        task = dispatch.task
        store, source = self.progress.world.store, self.progress.source(task.source)
        agent = self.progress.agent(dispatch.agent)
        assert agent is not None  # noqa: S101 - admitted, so configured
        spec, unreadable = self._describe(task)
        lock = store.acquire(task.task_id)
        if lock is None:
            self.progress.refuse(dispatch, Reason.UNPLACED, "its task lock is held just now")
            return
        try:
            self._note_overtaken(dispatch)
            bare = self._lease(dispatch, agent, spec, lock, snapshot)
            lease, fault = (bare, unreadable) if unreadable else self._prepare(bare, spec)
            store.create(lock, lease)
            claimed = source.claim(
                task.task_id,
                lease_id=lease.lease_id,
                agent=agent.name,
                queue=agent.queue,
                attempt=task.attempt,
                pressure=len(snapshot.pressed_by),
            )
            if not claimed:
                store.clear(lock, lease.lease_id)
                self.progress.refuse(
                    dispatch, Reason.SOURCE_REFUSED, "it was taken, changed or paused meanwhile"
                )
                return
            self.progress.notice(EventName.TASK_CLAIMED, lease=lease)
            fault = fault or self._launch(lease, lock)
            if fault is not None:
                self._give_up_launch(dispatch, lease, lock, fault)
                return
        finally:
            lock.close()
        self.progress.notice(EventName.TASK_STARTED, lease=lease)
        self.progress.started[key_of(task)] = dispatch
        self.progress.tasks_waiting -= 1
        now = self.progress.world.clock.now()
        self.progress.memory = replace(
            self.progress.memory, last_start_ns=now.monotonic_ns, last_start_boot_id=now.boot_id
        )

    def _note_overtaken(self, dispatch: Dispatch) -> None:
        """Remember whom this start overtakes, before it happens: whoever dies, it counts."""
        if not dispatch.overtakes:
            return
        memory = self.progress.memory
        times = {(one.source, one.task_id): one.times for one in memory.skips}
        for task in dispatch.overtakes:
            times[key_of(task)] = times.get(key_of(task), 0) + 1
        skips = tuple(
            Skips(source=source, task_id=task_id, times=number)
            for (source, task_id), number in sorted(times.items())
        )
        self.progress.memory = replace(memory, skips=skips)
        self.progress.attempt(
            "scheduling memory", partial(self.progress.world.memory.save, self.progress.memory)
        )

    def _describe(self, task: WaitingTask) -> tuple[TaskSpec, LaunchError | None]:
        """Read what the task asks for; unreadable, it is claimed and given up all the same.

        So it counts as a start that failed, and is parked after some: who cannot start
        must not stand first in line for ever.
        """
        try:
            return self.progress.source(task.source).describe(task.task_id), None
        except StoreError as error:
            return TaskSpec(), LaunchError(error.what, hint=error.hint)

    def _prepare(self, lease: Lease, spec: TaskSpec) -> tuple[Lease, LaunchError | None]:
        try:
            return self.progress.world.launcher.prepare(lease, spec), None
        except LaunchError as error:
            return lease, error

    def _launch(self, lease: Lease, lock: TaskLock) -> LaunchError | None:
        try:
            self.progress.world.launcher.launch(lease, lock)
        except LaunchError as error:
            return error
        return None

    def _give_up_launch(
        self, dispatch: Dispatch, lease: Lease, lock: TaskLock, fault: LaunchError
    ) -> None:
        """Give the task back at once: it keeps its place and its attempt number."""
        task = dispatch.task
        self.progress.fail(f"start of task {task.task_id}", fault)
        claim = Claim(
            task_id=task.task_id,
            source=task.source,
            lease_id=lease.lease_id,
            agent=dispatch.agent,
            attempt=task.attempt,
            failures=task.failures,
            launches=task.launches,
            max_attempts=None,
            cancel_requested=False,  # if it was since the claim, its source knows
            schedule_id=task.schedule_id,
        )
        now, rules = self.progress.world.clock.now().wall, self.progress.settings.rules
        ending: Ending
        if isinstance(fault, ExhaustedError):
            self.exhaustion = fault.what
            ending = retry.put_off(claim, rules=rules, now=now)
        else:
            ending = retry.conclude_launch_failure(claim, rules=rules, now=now)
        source = self.progress.source(task.source)
        schedule = find_schedule(self.progress, claim)
        state = source.settle(task.task_id, lease_id=lease.lease_id, ending=ending)
        if state is not None:
            self.progress.notice_ending(claim, ending, state, None)
            tell_schedule(self.progress, claim, state, schedule)
        self.progress.world.store.clear(lock, lease.lease_id)
        self.progress.refuse(dispatch, Reason.UNPLACED, fault.what)

    def _lease(
        self,
        dispatch: Dispatch,
        agent: AgentProfile,
        spec: TaskSpec,
        lock: TaskLock,
        snapshot: Snapshot,
    ) -> Lease:
        task, now = dispatch.task, self.progress.world.clock.now()
        runtime_s = (
            spec.max_runtime_s or agent.max_runtime_s or self.progress.settings.max_runtime_s
        )
        return Lease(
            task_id=task.task_id,
            lease_id=lock.lease_id,
            source=task.source,
            agent=agent.name,
            attempt=task.attempt,
            launches=task.launches,
            state=LeaseState.STARTING,
            host=snapshot.host.hostname,
            boot_id=now.boot_id,
            started_at=now.wall,
            heartbeat=now.wall,
            monotonic_started_ns=now.monotonic_ns,
            monotonic_heartbeat_ns=now.monotonic_ns,
            heartbeat_s=self.progress.settings.heartbeat_s,
            max_runtime_s=runtime_s,
            needs=dispatch.needs,
            gpu_uuids=dispatch.gpu_uuids,
            run=NO_RUN,
            recipe=spec.recipe,
            metadata=spec.labels,
            max_turns=spec.max_turns or agent.max_turns,
            max_tokens=spec.max_tokens or agent.max_tokens,
            max_cost_usd=spec.max_cost_usd or agent.max_cost_usd,
            model=dispatch.model or spec.model or agent.model,
            model_host=dispatch.model_host,
            tenant=task.tenant,
            project=task.project,
            schedule_id=task.schedule_id,
            gpu_share=dispatch.gpu_share,
        )

    def _stagger_left_s(self) -> float:
        """Return how long the next start must still wait for its distance to the last one."""
        last_ns = self.progress.memory.last_start_ns
        now = self.progress.world.clock.now()
        if last_ns is None or self.progress.memory.last_start_boot_id != now.boot_id:
            return 0.0
        since_s = (now.monotonic_ns - last_ns) / 1e9
        # A start that is yet to come was none: whoever wrote that down was wrong.
        return max(0.0, self.progress.settings.stagger_s - since_s) if since_s >= 0 else 0.0

    def _stagger_rest(self, plan: Plan, wait_s: float) -> None:
        apart_s = self.progress.settings.stagger_s
        words = f"starts are {apart_s:g} s apart, the next in {wait_s:.1f} s"
        self._leave_rest(plan, Reason.STAGGERED, words, retry_after_s=wait_s)

    def _leave_rest(
        self, plan: Plan, reason: Reason, words: str, *, retry_after_s: float | None = None
    ) -> None:
        """Record why everything that was to start and did not is left to a later tick."""
        for decision in plan.decisions:
            if (
                isinstance(decision, Dispatch)
                and key_of(decision.task) not in self.progress.started
            ):
                self.progress.refuse(decision, reason, words, retry_after_s=retry_after_s)
