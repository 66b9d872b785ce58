"""Why does this task wait, and what would have to change?  Read off one decided snapshot."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

from tinyscheduler.core.capacity import measure, slot_holders
from tinyscheduler.core.queueing import candidates, in_line, key_of
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.model.policy import AgentView
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import assert_never, dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tinyscheduler.core.capacity import Capacity, Holder
    from tinyscheduler.core.whatif import Change
    from tinyscheduler.model.leases import Needs
    from tinyscheduler.model.plan import Decision, Plan, Wait
    from tinyscheduler.model.records import TaskRecord
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.ports import Policy

_MOST_NAMED = 10
# Of these something is free again by and by, or could be more.
_OF_CAPACITY = frozenset(
    {
        Reason.AGENT_LIMIT,
        Reason.HOST_SLOTS,
        Reason.QUEUE_LIMIT,
        Reason.TENANT_QUOTA,
        Reason.MEMORY_CRITICAL,
        Reason.MEMORY_INSUFFICIENT,
        Reason.VRAM_INSUFFICIENT,
        Reason.GPU_UNAVAILABLE,
        Reason.GPU_UNKNOWN,
        Reason.MODEL_SLOTS,
        Reason.NO_SLOTS,
        Reason.OVERTAKEN_LIMIT,
    }
)
_GPU = "`tinyscheduler gpu` shows what is free, and who is where"
# What makes room for a task, where that is the same for all.
_ROOM_FOR = {
    Reason.MEMORY_CRITICAL: "it starts once less memory is in use;"
    " `tinyscheduler top` shows what attempts use",
    Reason.MEMORY_INSUFFICIENT: "it starts once so much is free;"
    " `tinyscheduler top` shows what attempts use",
    Reason.VRAM_INSUFFICIENT: _GPU,
    Reason.GPU_UNAVAILABLE: _GPU,
    Reason.GPU_UNKNOWN: _GPU,
    Reason.NOT_BEFORE: "it becomes due by itself",
    Reason.PRESSURE: "it starts once nobody is at work, and then at the latest;"
    " `tinyscheduler pressure list` shows who is",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A limit that leaves no room.

    ``agent`` is None for the limit of the whole machine.  ``used_by`` names the tasks that
    occupy its slots now, ``taken_by`` those that the next tick starts before this one.
    """

    agent: str | None
    limit: int
    used_by: tuple[str, ...]
    taken_by: tuple[str, ...]

    @property
    def words(self) -> str:
        """Say it with numbers and names.

        >>> Cap(agent="coder", limit=2, used_by=("12",), taken_by=("15",)).words
        'agent coder: 2 of 2 slots used, by 12; 15 starts first'
        >>> Cap(agent=None, limit=0, used_by=(), taken_by=()).words
        'this machine: its limit is 0, so nothing of it can start'
        """
        whose = "this machine" if self.agent is None else f"agent {self.agent}"
        if self.limit == 0 and not self.used_by:
            return f"{whose}: its limit is 0, so nothing of it can start"
        used = len(self.used_by) + len(self.taken_by)
        words = f"{whose}: {used} of {self.limit} slots used"
        if self.used_by:
            words += f", by {join_names(self.used_by)}"
        if self.taken_by:
            verb = "starts" if len(self.taken_by) == 1 else "start"
            words += f"; {join_names(self.taken_by)} {verb} first"
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What the next tick does with one waiting task, and why.

    ``wait`` is None if it starts it.  ``caps`` are the limits that bind where that is the
    reason, ``words`` what keeps it from each agent that could run it, the caps among that, and
    ``shortfall`` what it needs more than there is.  ``next_binding`` says in words what
    would keep it once that were not.  ``remedies`` say what would have to change, each in a
    sentence; each of the ``changes`` alone would start it now.  If it ``is_lost_to_view``, more
    go first than were looked at, and no change was looked for.
    """

    decision: Decision
    wait: Wait | None
    caps: tuple[Cap, ...]
    remedies: tuple[str, ...]
    words: tuple[str, ...] = ()
    shortfall: Shortfall | None = None
    next_binding: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    is_lost_to_view: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """What a task needs of something measured in bytes, and the most that is free at one place."""

    resource: str
    needed_bytes: int
    free_bytes: int


def explain(
    snapshot: Snapshot, plan: Plan, task: WaitingTask, policy: Policy, *, window: int
) -> Explanation | None:
    """Return why the task waits; None if the snapshot holds no such task any more.

    The snapshot holds the first so many of each line, and the task.
    """
    own = key_of(task)
    decision = next((one for one in plan.decisions if key_of(one.task) == own), None)
    if decision is None:
        return None
    if isinstance(decision, Dispatch):
        return Explanation(decision=decision, wait=None, caps=(), remedies=())
    if decision.reason not in _OF_CAPACITY:
        # Of what the task waits for by itself, no capacity is the reason.
        return Explanation(
            decision=decision,
            wait=decision,
            caps=(),
            remedies=_remedies(snapshot, decision),
            words=(decision.words,),
        )
    from tinyscheduler.core.whatif import after_starts, find_changes, shortages_of

    capacity = after_starts(snapshot, plan)
    is_lost_to_view = not _sees_all_before(snapshot, plan, task, window=window)
    changes = () if is_lost_to_view else tuple(find_changes(snapshot, policy, plan, decision))
    caps = _binding_caps(snapshot, plan, decision, capacity)
    words = _keeping(decision, caps, capacity)
    return Explanation(
        decision=decision,
        wait=decision,
        caps=caps,
        remedies=_remedies(snapshot, decision),
        words=words,
        shortfall=_shortfall(capacity, decision),
        next_binding=tuple(
            one.words
            for one in shortages_of(task, capacity)
            if one.reason is not decision.reason and one.words not in words
        ),
        changes=changes,
        is_lost_to_view=is_lost_to_view,
    )


def _sees_all_before(snapshot: Snapshot, plan: Plan, task: WaitingTask, *, window: int) -> bool:
    """Whether every task that goes first is in the snapshot: a line may hold more than is seen."""
    able = [
        one.task
        for one in plan.decisions
        if isinstance(one, Dispatch) or one.reason in _OF_CAPACITY
    ]
    line = in_line(able, snapshot, agents=measure(snapshot, plan.verdicts).agents)
    ahead = takewhile(lambda one: key_of(one) != key_of(task), line)
    before = Counter((one.agent, one.queue) for one in ahead)
    # The task itself was put in beside a window that is full.
    return all(number < window for number in before.values())


def _shortfall(capacity: Capacity, wait: Wait) -> Shortfall | None:
    """Return how much memory is too little; None where something else is."""
    if wait.reason not in (Reason.MEMORY_INSUFFICIENT, Reason.VRAM_INSUFFICIENT):
        return None
    # Agents that lack something else say nothing of it.
    needs = [
        capacity.needs_of(wait.task, one)
        for one, refusal in _refusals(wait.task, capacity)
        if refusal.reason is wait.reason
    ]
    if wait.reason is Reason.VRAM_INSUFFICIENT:
        return Shortfall(
            resource="vram",
            needed_bytes=min(one.vram_bytes for one in needs),
            free_bytes=_most_free(capacity, needs),
        )
    free = capacity.memory.free_bytes
    if capacity.gpus.is_unified:
        # The GPU takes its share of the same memory.
        free = max(0, free - min(one.vram_bytes for one in needs))
    needed = min(one.memory_bytes for one in needs)
    return Shortfall(resource="memory", needed_bytes=needed, free_bytes=free)


def _most_free(capacity: Capacity, needs: Iterable[Needs]) -> int:
    """Return the largest share that any of these starts could have of a GPU."""
    return max(gpu.free_bytes for one in needs for gpu in capacity.gpu_views(one))


def _refusals(task: WaitingTask, capacity: Capacity) -> list[tuple[AgentView, Refusal]]:
    """Return what refuses the task to each agent that could run it."""
    found = [(agent, capacity.place(task, agent)) for agent in candidates(task, capacity.agents)]
    return [(agent, one) for agent, one in found if isinstance(one, Refusal)]


def _keeping(wait: Wait, caps: Iterable[Cap], capacity: Capacity) -> tuple[str, ...]:
    """Say what keeps it; an agent with a slot free may be bounded otherwise."""
    words = tuple(cap.words for cap in caps)
    if wait.reason is not Reason.AGENT_LIMIT:
        return words or (wait.words,)
    others = (one.words for agent, one in _refusals(wait.task, capacity) if agent.free)
    return (*words, *others)


def _binding_caps(
    snapshot: Snapshot, plan: Plan, wait: Wait, capacity: Capacity
) -> tuple[Cap, ...]:
    """Return the machine's limit, or that of each agent which could run the task."""
    holders = slot_holders(snapshot, plan.verdicts)
    starts = [one for one in plan.decisions if isinstance(one, Dispatch)]
    match wait.reason:
        case Reason.HOST_SLOTS:
            return (
                Cap(
                    agent=None,
                    limit=snapshot.rules.host_slots,
                    used_by=tuple(holder.task_id for holder in holders),
                    taken_by=tuple(one.task.task_id for one in starts),
                ),
            )
        case Reason.AGENT_LIMIT:
            return tuple(
                _cap_of(view, holders, starts)
                for view in candidates(wait.task, capacity.agents)
                if not view.free
            )
        case _:
            return ()


def _cap_of(view: AgentView, holders: Iterable[Holder], starts: Iterable[Dispatch]) -> Cap:
    return Cap(
        agent=view.name,
        limit=view.limit,
        used_by=tuple(one.task_id for one in holders if one.agent == view.name),
        taken_by=tuple(one.task.task_id for one in starts if one.agent == view.name),
    )


def _views(snapshot: Snapshot) -> tuple[AgentView, ...]:
    return tuple(
        AgentView(name=agent.name, queue=agent.queue, limit=agent.limit, active=0)
        for agent in snapshot.agents
    )


def _remedies(snapshot: Snapshot, wait: Wait) -> tuple[str, ...]:
    """Say what would have to change, the most likely first."""
    task_id = wait.task.task_id
    if wait.reason in _ROOM_FOR:
        return (_ROOM_FOR[wait.reason],)
    match wait.reason:
        case Reason.HELD:
            return (f"`tinyscheduler release {task_id}` lets it go",)
        case Reason.BACKING_OFF:
            return (
                "it becomes due by itself",
                f"`tinyscheduler retry {task_id}` makes it due at once",
            )
        case Reason.COOLING:
            return ("the account is tried again by itself then",)
        case Reason.PAUSED if not snapshot.is_enabled:
            return ("set TINYSCHEDULER_ENABLED to true",)
        case Reason.UNPLACED if wait.task.impediment is not None:
            return ()  # it says itself how it is mended
        case Reason.UNPLACED if not candidates(wait.task, _views(snapshot)):
            known = join_names(sorted(agent.name for agent in snapshot.agents)) or "none"
            return (f"describe it in the agents file; agents there are: {known}",)
        case Reason.UNPLACED:
            return ("the next tick ends what is left of it; `tinyscheduler ps` shows it",)
        case _:
            # Blockers are told apart; of capacity it is worked out what would start it now.
            return ()


def never_ends(blocker: TaskRecord) -> str | None:
    """Say how a blocker that will not be done by itself can be brought to be; None if it will.

    Its own blockers are not looked at.
    """
    match blocker.state:
        case TaskState.FAILED | TaskState.PARKED | TaskState.CANCELLED:
            return f"`tinyscheduler retry {blocker.task_id}` tries it again"
        case TaskState.HELD:
            return f"`tinyscheduler release {blocker.task_id}` lets it go"
        case (
            TaskState.WAITING
            | TaskState.WORKING
            | TaskState.STARTING
            | TaskState.RUNNING
            | TaskState.SETTLING
            | TaskState.DONE
        ):
            return None
        case _:
            assert_never(blocker.state)


def join_names(names: Sequence[str]) -> str:
    """Name a few and count the rest.

    >>> join_names(["1"]), join_names(["1", "2", "3"])
    ('1', '1, 2 and 3')
    >>> join_names([str(n) for n in range(1, 14)])
    '1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more'
    """
    shown = list(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        return f"{', '.join(shown)} and {len(names) - _MOST_NAMED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
