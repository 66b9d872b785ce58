"""What is open just now: how much of it, whose, how urgent, and how old?"""

from __future__ import annotations

from collections import Counter

from tinyscheduler.core.workload import percentile
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.records import TaskRecord

# Tasks in these states are open.
OPEN = (TaskState.WAITING, TaskState.HELD, TaskState.WORKING)
_HOUR_S, _DAY_S = 3600.0, 86_400.0
_AGES = (
    ("under 1h", _HOUR_S),
    ("1h to 6h", 6 * _HOUR_S),
    ("6h to 1d", _DAY_S),
    ("1d to 7d", 7 * _DAY_S),
    ("over 7d", float("inf")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """How old some tasks are, in seconds since they were added; there is at least one."""

    average_s: float
    median_s: float
    p95_s: float
    oldest_s: float
    newest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """What is open of one agent, or of a queue any of whose agents may take it.

    ``waiting`` tasks include the ``blocked`` ones, which come after something that is not done.
    ``tasks`` are all of them, the oldest first.
    """

    agent: str | None
    queue: str | None
    waiting: int
    blocked: int
    held: int
    working: int
    ages: Ages | None
    tasks: tuple[TaskRecord, ...]

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.tasks)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.agent or (f"queue {self.queue}" if self.queue else "nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """All that is open, and how it is spread; each spread counts every task once.

    ``priorities`` begin with the highest, ``ages`` with the youngest, and hold every class.
    """

    total: OpenWork
    lines: tuple[OpenWork, ...]
    sources: tuple[tuple[str, int], ...]
    priorities: tuple[tuple[int, int], ...]
    ages: tuple[tuple[str, int], ...]


def survey(tasks: Sequence[TaskRecord], *, now: datetime) -> Backlog:
    """Count the open tasks by agent, source, priority and age; those that ended are no part of it.

    A task is the agent's that works on it, else that which it names, else its queue's.
    """
    of_state = [one for one in tasks if one.state in OPEN]
    open_tasks = sorted(of_state, key=lambda one: (one.created_at, one.source, one.task_id))
    lines: dict[tuple[str | None, str | None], list[TaskRecord]] = {}
    for task in open_tasks:
        agent = task.claimed_by or task.agent
        lines.setdefault((agent, None if agent else task.queue), []).append(task)
    priorities = Counter(one.priority for one in open_tasks)
    classes = Counter(_age_class(one, now) for one in open_tasks)
    return Backlog(
        total=_work(("all", None), open_tasks, now),
        lines=tuple(_work(key, lines[key], now) for key in sorted(lines, key=_place)),
        sources=tuple(sorted(Counter(one.source for one in open_tasks).items())),
        priorities=tuple(sorted(priorities.items(), reverse=True)),
        ages=tuple((name, classes[name]) for name, _ in _AGES),
    )


def age_s(task: TaskRecord, now: datetime) -> float:
    """Return how old a task is; one from the future, under a clock set back since, is new."""
    return max(0.0, (now - task.created_at).total_seconds())


def _place(key: tuple[str | None, str | None]) -> tuple[bool, str, str]:
    agent, queue = key
    return (agent is None, agent or "", queue or "")


def _work(
    key: tuple[str | None, str | None], tasks: Sequence[TaskRecord], now: datetime
) -> OpenWork:
    states = Counter(one.state for one in tasks)
    return OpenWork(
        agent=key[0],
        queue=key[1],
        waiting=states[TaskState.WAITING],
        blocked=sum(one.state is TaskState.WAITING and one.blockers_left > 0 for one in tasks),
        held=states[TaskState.HELD],
        working=states[TaskState.WORKING],
        ages=_ages([age_s(one, now) for one in tasks]),
        tasks=tuple(tasks),
    )


def _ages(seconds: Sequence[float]) -> Ages | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Ages(
        average_s=sum(ordered) / len(ordered),
        median_s=percentile(ordered, 0.5),
        p95_s=percentile(ordered, 0.95),
        oldest_s=ordered[-1],
        newest_s=ordered[0],
    )


def _age_class(task: TaskRecord, now: datetime) -> str:
    age = age_s(task, now)
    return next(name for name, bound in _AGES if age < bound)
