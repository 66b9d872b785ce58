"""Who may go before whom, and how often?

A task that cannot start yet is passed by others, or a machine would stand still for it.
What it waits for must not be taken from under it for ever, though: each task is overtaken
so many times, then it has a reservation.
"""

from __future__ import annotations

from bisect import bisect_left

from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Reason
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from tinyscheduler.core.capacity import Capacity
    from tinyscheduler.model.plan import Dispatch
    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.snapshot import Rules, Skips
    from tinyscheduler.model.tasks import WaitingTask

_Key = tuple[str, str]


# All of a task that a cap may depend on; many tasks are alike.
_Kind = tuple[object, ...]


def kind_of(task: WaitingTask) -> _Kind:
    """Return what decides which caps refuse the task: plain values, for all tasks are asked."""
    return (
        task.agent,
        task.queue,
        task.memory_bytes,
        task.gpus,
        task.vram_bytes,
        task.model,
        task.schedule_id,
        task.is_beside,
        task.is_forced,
        task.tenant,
    )


# Where in a kind its schedule stands.
_SCHEDULE = -4


# The agents that can start a task, or whose turn it is instead.
_Look = tuple[tuple[str, ...], Refusal | None]


class Refusals:
    """Which caps refuse which tasks.  Asked once for each kind."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.known: dict[_Kind, Refusal | None] = {}
        self._earliest: dict[_Kind, float | None] = {}

    def binding(self, task: WaitingTask, kind: _Kind) -> Refusal | None:
        """Return what keeps a task of this kind from a start; None if some agent could start it.

        One that passes before one that lasts; the machine's cap where any agent that could run it
        has a slot.
        """
        if kind not in self.known:
            self.known[kind] = self._find(task)
        return self.known[kind]

    def earliest_s(self, task: WaitingTask) -> float | None:
        """Return in how long the task could start if every attempt took its whole time.

        None if never: then others are in its way, and nothing would be gained by waiting with it.
        """
        kind = kind_of(task)
        if kind not in self._earliest:
            self._earliest[kind] = self._find_earliest_s(task)
        return self._earliest[kind]

    def _find_earliest_s(self, task: WaitingTask) -> float | None:
        # That nobody looks for a slot of its model just now ends within seconds.
        capacity = self.capacity.looked_at()
        ending = sorted(capacity.held, key=lambda one: (one.ends_in_s, one.task_id))

        def starts_after(number: int) -> bool:
            left = capacity.give_back(ending[:number])
            return next(_starts_of(task, left), None) is not None

        if starts_after(0):
            return 0.0
        # The more have ended, the more is free.
        if not ending or not starts_after(len(ending)):
            return None
        number = bisect_left(range(1, len(ending)), x=True, key=starts_after)
        return ending[number].ends_in_s

    def _find(self, task: WaitingTask) -> Refusal | None:
        refused, passing = [], []
        for agent in candidates(task, self.capacity.agents):
            found = self.capacity.place(task, agent)
            if not isinstance(found, Refusal):
                return None
            refused.append(found)
            # What one agent never can, another may once something has ended.
            if agent.limit and not found.is_lasting:
                passing.append(found)
        refused = passing or refused
        return next((one for one in refused if one.reason is not Reason.AGENT_LIMIT), refused[0])


class Turns:
    """The tasks that could start but for capacity, in line, and what each has suffered.

    Tasks that name the same agent or queue stand in one line, those of a tenant that has a
    quota in one of their own, and so do the firings of a schedule.
    """

    def __init__(
        self,
        in_line: Iterable[WaitingTask],
        *,
        rules: Rules,
        skips: Iterable[Skips],
        tenants: Collection[str],
    ) -> None:
        """Take the tasks in line, how often each was overtaken, and tenants that have a quota."""
        self._rules = rules
        self._left = {key_of(task): task for task in in_line}
        self._places = {key: place for place, key in enumerate(self._left)}
        # One object for each kind: ten thousand more would set the garbage collector to work.
        alike: dict[_Kind, _Kind] = {}
        self._kinds: dict[_Key, _Kind] = {}
        for key, task in self._left.items():
            kind = kind_of(task)
            self._kinds[key] = alike.setdefault(kind, kind)
        # A tenant with a quota is in no other's way, and neither is a schedule.
        self._lines = {
            kind: (*kind[:2], kind[_SCHEDULE], kind[-1] if kind[-1] in tenants else None)
            for kind in alike
        }
        self._unseen_from = len(self._places)
        self._skips = {(one.source, one.task_id): one.times for one in skips}
        self._held_back: dict[_Key, Refusal] = {}
        self._choices: dict[_Key, tuple[str, ...]] = {}
        words = f"stands more than {rules.lookahead} behind one that cannot start (QUEUE_LOOKAHEAD)"
        if not rules.lookahead:
            words = "one before it in line cannot start, and none is overtaken"
        self._out_of_sight = Refusal(reason=Reason.OVERTAKEN_LIMIT, words=words)

    @property
    def skips(self) -> Mapping[_Key, int]:
        """How often each was overtaken, by source and id; who never was may be missing."""
        return self._skips

    def find(self, task: WaitingTask) -> WaitingTask | None:
        """Return the task as it stands in line, if it does."""
        return self._left.get(key_of(task))

    def able(self, refusals: Refusals) -> tuple[WaitingTask, ...]:
        """Return the tasks that may start now, in line."""
        passed: dict[_Kind, int] = {}
        reserved: list[WaitingTask] = []
        found: list[WaitingTask] = []
        self._held_back, self._choices = {}, {}
        # Tasks of a kind that may run as long break the same of the first so many reservations.
        alike: dict[tuple[_Kind, float | None, int], _Look] = {}
        self._unseen_from = len(self._places)
        lookahead, in_sight = self._rules.lookahead, set(self._lines.values())
        for key, task in self._left.items():
            if not in_sight:
                # Of every line so many have been looked at that nothing behind may start.
                self._unseen_from = self._places[key]
                break
            kind = self._kinds[key]
            line = self._lines[kind]
            ahead = passed.get(line)
            refusal = refusals.binding(task, kind)
            is_seen = ahead is None or ahead <= lookahead
            if refusal is None and not is_seen:
                self._held_back[key] = self._out_of_sight
            elif refusal is None and self._may_start(task, alike, reserved, refusals):
                found.append(task)
            if self._has_reservation(key, refusal):
                reserved.append(task)
            if ahead is not None:
                passed[line] = ahead + 1
                if ahead == lookahead:
                    in_sight.discard(line)
            elif refusal is not None and not refusal.is_lasting:
                passed[line] = 1
                if not lookahead:
                    in_sight.discard(line)
        return tuple(found)

    def choices(self, able: Iterable[WaitingTask]) -> dict[_Key, tuple[str, ...]]:
        """Return which agents can start each of these that names none: not all of its queue may.

        They are those that were found able last.
        """
        return {key_of(task): self._choices[key_of(task)] for task in able if task.agent is None}

    def start(self, dispatch: Dispatch, after: Refusals) -> Dispatch:
        """Take the task out of its line; return the start with whom it overtakes."""
        own = key_of(dispatch.task)
        place = self._places[own]
        del self._left[own]
        overtaken = []
        for key, task in self._left.items():
            if self._places[key] > place:
                break
            refusal = after.binding(task, self._kinds[key])
            if refusal is None or refusal.is_lasting or self._is_out_of_sight(key):
                continue
            # Beside a reservation only that starts which makes nothing later.
            if not self._has_reservation(key, refusal) and _takes(dispatch, task, after.capacity):
                self._skips[key] = self._skips.get(key, 0) + 1
                overtaken.append(task)
        return replace(dispatch, overtakes=tuple(overtaken))

    def refuse(self, dispatch: Dispatch, refusals: Refusals) -> Refusal | None:
        """Return the reservation that this start would break, or None."""
        return self._find_conflict(dispatch, self._reserved(dispatch.task, refusals), refusals)

    def explain(self, refusals: Refusals) -> Iterator[tuple[WaitingTask, Refusal | None]]:
        """Yield why each task left does not start; None if nobody but the policy keeps it."""
        kinds, skips, most = self._kinds, self._skips, self._rules.max_skips
        for key, task in self._left.items():
            binding = refusals.binding(task, kinds[key])
            if binding is None:
                is_unseen = self._places[key] >= self._unseen_from
                yield task, self._out_of_sight if is_unseen else self._held_back.get(key)
            elif binding.is_lasting or skips.get(key, 0) < most:
                yield task, binding
            else:
                words = f"it was overtaken {_times(skips.get(key, 0))}, and comes first now"
                yield task, replace(binding, words=f"{binding.words}; {words}")

    # -- parts --------------------------------------------------------------------

    def _may_start(
        self,
        task: WaitingTask,
        alike: dict[tuple[_Kind, float | None, int], _Look],
        reserved: list[WaitingTask],
        refusals: Refusals,
    ) -> bool:
        """Note which agents can start it without breaking a reservation, or which all break."""
        key = key_of(task)
        own = (self._kinds[key], task.max_runtime_s, len(reserved))
        if own not in alike:
            conflicts = {
                dispatch.agent: self._find_conflict(dispatch, reserved, refusals)
                for dispatch in _starts_of(task, refusals.capacity)
            }
            names = tuple(name for name, conflict in conflicts.items() if conflict is None)
            alike[own] = (names, None if names else next(reversed(conflicts.values())))
        self._choices[key], conflict = alike[own]
        if conflict is not None:
            self._held_back[key] = conflict
        return conflict is None

    def _reserved(self, task: WaitingTask, refusals: Refusals) -> Iterator[WaitingTask]:
        """Yield the reservations before this task in line."""
        place = self._places[key_of(task)]
        for key in self._skips:
            if key not in self._left or self._places[key] >= place:
                continue
            refusal = refusals.binding(self._left[key], self._kinds[key])
            if self._has_reservation(key, refusal):
                yield self._left[key]

    def _has_reservation(self, key: _Key, refusal: Refusal | None) -> bool:
        """Whether the task comes before all behind it that use what it needs.

        One that could start now has it as well: a policy may prefer others.  One out of sight
        waits for its own line first, and nothing is kept for it.
        """
        if self._skips.get(key, 0) < self._rules.max_skips or self._is_out_of_sight(key):
            return False
        return refusal is None or not refusal.is_lasting

    def _is_out_of_sight(self, key: _Key) -> bool:
        return (
            self._places[key] >= self._unseen_from or self._held_back.get(key) is self._out_of_sight
        )

    def _find_conflict(
        self, dispatch: Dispatch, reserved: Iterable[WaitingTask], refusals: Refusals
    ) -> Refusal | None:
        for task in reserved:
            if self._delays(dispatch, task, refusals):
                words = f"task {task.task_id} comes first: it has been overtaken"
                words += f" {_times(self._skips[key_of(task)])} (MAX_SKIPS_PER_TASK)"
                return Refusal(reason=Reason.OVERTAKEN_LIMIT, words=words)
        return None

    def _delays(self, dispatch: Dispatch, task: WaitingTask, refusals: Refusals) -> bool:
        """Whether the task, which has a reservation, would have to wait for the end of this."""
        capacity = refusals.capacity
        ends_in_s = self.runtime_s(dispatch, capacity) + 2 * self._rules.kill_grace_s
        starts_in_s = refusals.earliest_s(task)
        # One that is over before the other could start at all takes nothing from it.
        if starts_in_s is None or ends_in_s <= starts_in_s:
            return False
        if _takes(dispatch, task, capacity):
            return True
        # What there is enough of so far may be the last of its kind.
        left = Refusals(capacity.take(dispatch, runtime_s=ends_in_s))
        if not _takes(dispatch, task, left.capacity):
            return False
        later_s = left.earliest_s(task)
        return later_s is None or later_s > starts_in_s

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
            return dispatch.needs.memory_bytes + dispatch.needs.shared_bytes > 0
        case Reason.VRAM_INSUFFICIENT if capacity.gpus.is_unified:
            return dispatch.needs.memory_bytes > 0 or bool(dispatch.gpu_uuids)
        case Reason.SCHEDULE_CAP:
            if capacity.firings.has_sibling(task):
                return dispatch.task.schedule_id == task.schedule_id
            return dispatch.task.schedule_id is not None
        case Reason.NO_SLOTS:
            return capacity.models.compete(
                dispatch.model, for_model=shortage.model, host=dispatch.model_host
            )
        case _:  # of a GPU
            return bool(dispatch.gpu_uuids)


def _times(number: int) -> str:
    """Say how often.

    >>> _times(1), _times(2)
    ('once', '2 times')
    """
    return "once" if number == 1 else f"{number} times"
