"""Who may go before whom, and how often?

A task that cannot start yet is passed by others, or a machine would stand still for it.
What it waits for must not be taken from under it for ever, though: each task is overtaken
so many times, then it has a reservation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Reason
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tinyscheduler.core.capacity import Capacity
    from tinyscheduler.model.plan import Dispatch
    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.snapshot import Rules, Skips
    from tinyscheduler.model.tasks import WaitingTask

_Key = tuple[str, str]


class Refusals:
    """Which caps refuse which tasks.  Asked once for each kind: many tasks are alike."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._known: dict[tuple[object, ...], Refusal | None] = {}

    def binding(self, task: WaitingTask) -> Refusal | None:
        """Return what keeps the task from a start; None if some agent could start it.

        The machine's cap where any agent that could run it has a slot.
        """
        # All that a cap may depend on; plain values, for this is asked of every task.
        kind = (
            *(task.agent, task.queue, task.memory_bytes, task.gpus, task.vram_bytes),
            *(task.model, task.tenant),
        )
        if kind not in self._known:
            self._known[kind] = self._find(task)
        return self._known[kind]

    def _find(self, task: WaitingTask) -> Refusal | None:
        refused = []
        for agent in candidates(task, self.capacity.agents):
            found = self.capacity.place(task, agent)
            if not isinstance(found, Refusal):
                return None
            refused.append(found)
        return next((one for one in refused if one.reason is not Reason.AGENT_LIMIT), refused[0])


class Turns:
    """The tasks that could start but for capacity, in line, and what each has suffered.

    Tasks that name the same agent or queue stand in one line, those of a tenant that has a
    quota in one of their own.
    """

    def __init__(
        self, in_line: Iterable[WaitingTask], *, rules: Rules, skips: Iterable[Skips]
    ) -> None:
        self._rules = rules
        self._left = {key_of(task): task for task in in_line}
        self._places = {key: place for place, key in enumerate(self._left)}
        self._skips = {(one.source, one.task_id): one.times for one in skips}
        self._held_back: dict[_Key, Refusal] = {}

    @property
    def left(self) -> Iterable[WaitingTask]:
        """The tasks that did not start, in line."""
        return self._left.values()

    def find(self, task: WaitingTask) -> WaitingTask | None:
        """Return the task as it stands in line, if it does."""
        return self._left.get(key_of(task))

    def able(self, refusals: Refusals) -> tuple[WaitingTask, ...]:
        """Return the tasks that may start now, in line."""
        passed: dict[tuple[str | None, ...], int] = {}
        reserved: list[WaitingTask] = []
        found = []
        self._held_back = {}
        for key, task in self._left.items():
            line = self._line_of(task, refusals)
            refusal = refusals.binding(task)
            if refusal is None:
                held_back = self._hold_back(task, passed.get(line), reserved, refusals)
                if held_back is None:
                    found.append(task)
                else:
                    self._held_back[key] = held_back
            elif not refusal.is_lasting and self._skips.get(key, 0) >= self._rules.max_skips:
                reserved.append(task)
            if line in passed:
                passed[line] += 1
            elif refusal is not None and not refusal.is_lasting:
                passed[line] = 1
        return tuple(found)

    def start(self, dispatch: Dispatch, after: Refusals) -> Dispatch:
        """Take the task out of its line; return the start with whom it overtakes."""
        own = key_of(dispatch.task)
        place = self._places[own]
        del self._left[own]
        overtaken = []
        for key, task in self._left.items():
            if self._places[key] > place:
                break
            refusal = after.binding(task)
            is_stuck = refusal is not None and not refusal.is_lasting
            if is_stuck and _takes(dispatch, task, after.capacity):
                self._skips[key] = self._skips.get(key, 0) + 1
                overtaken.append(task)
        return replace(dispatch, overtakes=tuple(overtaken))

    def refuse(self, dispatch: Dispatch, refusals: Refusals) -> Refusal | None:
        """Return the reservation that this start would break, or None."""
        return self._find_conflict(dispatch, self._reserved(dispatch.task, refusals), refusals)

    def explain(self, task: WaitingTask, refusals: Refusals) -> Refusal | None:
        """Return why the task does not start; None if nobody but the policy keeps it."""
        binding = refusals.binding(task)
        if binding is None:
            return self._held_back.get(key_of(task))
        times = self._skips.get(key_of(task), 0)
        if times < self._rules.max_skips or binding.is_lasting:
            return binding
        words = f"{binding.words}; it was overtaken {_times(times)}, and comes first now"
        return replace(binding, words=words)

    # -- parts --------------------------------------------------------------------

    def _line_of(self, task: WaitingTask, refusals: Refusals) -> tuple[str | None, ...]:
        """Return what names the line of a task: a tenant with a quota is in no other's way."""
        has_quota = task.tenant is not None and task.tenant in refusals.capacity.quotas.tenants
        return (task.agent, task.queue, task.tenant if has_quota else None)

    def _hold_back(
        self,
        task: WaitingTask,
        passed: int | None,
        reserved: list[WaitingTask],
        refusals: Refusals,
    ) -> Refusal | None:
        """Return why a task that fits may not start; ``passed`` counts who it would overtake."""
        if passed is not None and passed > self._rules.lookahead:
            count = self._rules.lookahead
            words = f"stands more than {count} behind one that cannot start (QUEUE_LOOKAHEAD)"
            if not count:
                words = "one before it in line cannot start, and none is overtaken"
            return Refusal(reason=Reason.OVERTAKEN_LIMIT, words=words)
        if not reserved:
            return None
        conflict = None
        for dispatch in _starts_of(task, refusals.capacity):
            conflict = self._find_conflict(dispatch, reserved, refusals)
            if conflict is None:
                return None
        return conflict

    def _reserved(self, task: WaitingTask, refusals: Refusals) -> Iterator[WaitingTask]:
        """Yield the reservations before this task in line."""
        place = self._places[key_of(task)]
        for key, times in self._skips.items():
            if times < self._rules.max_skips or key not in self._left:
                continue
            refusal = refusals.binding(self._left[key])
            if self._places[key] < place and refusal is not None and not refusal.is_lasting:
                yield self._left[key]

    def _find_conflict(
        self, dispatch: Dispatch, reserved: Iterable[WaitingTask], refusals: Refusals
    ) -> Refusal | None:
        capacity = refusals.capacity
        for task in reserved:
            if not _takes(dispatch, task, capacity):
                continue
            # One that is over before the other could start at all takes nothing from it.
            ends_in_s = self.runtime_s(dispatch, capacity) + 2 * self._rules.kill_grace_s
            starts_in_s = _earliest_s(task, capacity)
            if starts_in_s is not None and ends_in_s > starts_in_s:
                words = f"task {task.task_id} comes first: it has been overtaken"
                words += f" {_times(self._skips[key_of(task)])} (MAX_SKIPS_PER_TASK)"
                return Refusal(reason=Reason.OVERTAKEN_LIMIT, words=words)
        return None

    def runtime_s(self, dispatch: Dispatch, capacity: Capacity) -> float:
        """Return how long the attempt may take."""
        agent = capacity.agent(dispatch.agent)
        own = dispatch.task.max_runtime_s or (agent.max_runtime_s if agent else None)
        return own or self._rules.max_runtime_s


def _starts_of(task: WaitingTask, capacity: Capacity) -> Iterator[Dispatch]:
    """Yield every start of the task that fits."""
    for agent in candidates(task, capacity.agents):
        found = capacity.place(task, agent)
        if not isinstance(found, Refusal):
            yield found


def _takes(dispatch: Dispatch, task: WaitingTask, capacity: Capacity) -> bool:
    """Whether a start uses anything of what the task waits for."""
    return any(
        _uses(dispatch, shortage, task, agent, capacity)
        for agent in candidates(task, capacity.agents)
        for shortage in capacity.shortages(task, agent)
        if not shortage.is_lasting
    )


def _uses(
    dispatch: Dispatch, shortage: Refusal, task: WaitingTask, agent: AgentView, capacity: Capacity
) -> bool:
    """Whether a start uses any of what the task is short of with this agent."""
    match shortage.reason:
        case Reason.AGENT_LIMIT:
            return dispatch.agent == agent.name
        case Reason.HOST_SLOTS:
            return True
        case Reason.QUEUE_LIMIT:
            starter = capacity.agent(dispatch.agent)
            return starter is not None and starter.queue == agent.queue
        case Reason.TENANT_QUOTA:
            return dispatch.task.tenant == task.tenant
        case Reason.MEMORY_INSUFFICIENT:
            return dispatch.needs.memory_bytes > 0
        case Reason.NO_SLOTS:
            return capacity.models.compete(
                dispatch.model, for_model=shortage.model, host=dispatch.model_host
            )
        case _:  # of a GPU
            return bool(dispatch.gpu_uuids)


def _earliest_s(task: WaitingTask, capacity: Capacity) -> float | None:
    """Return when the task could start if every attempt took its whole time; None if never.

    Then others are in its way, and nothing would be gained by waiting with it.
    """
    for held in sorted(capacity.held, key=lambda one: (one.ends_in_s, one.task_id)):
        capacity = capacity.give_back(held)
        if next(_starts_of(task, capacity), None) is not None:
            return held.ends_in_s
    return None


def _times(number: int) -> str:
    """Say how often.

    >>> _times(1), _times(2)
    ('once', '2 times')
    """
    return "once" if number == 1 else f"{number} times"
