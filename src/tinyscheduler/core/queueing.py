"""Which waiting tasks could start at all, whatever is free, and why not the others?"""

from __future__ import annotations

from datetime import timedelta

from tinyscheduler.core.pressure import makes_way_until, name_pressed_by
from tinyscheduler.core.switches import find_stop
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.plan import Reason, Wait
from tinyscheduler.model.tasks import PROMOTED_AFTER_S, PriorityClass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from tinyscheduler.model.policy import AgentView
    from tinyscheduler.model.snapshot import Snapshot
    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import WaitingTask


def hold_back(
    task: WaitingTask,
    *,
    able: Sequence[AgentView],
    occupied: frozenset[str],
    is_enabled: bool,
    switches: Collection[Switch] | None,
    now: datetime,
    longest_backoff_s: float,
) -> Wait | None:
    """Return why this task cannot start now, however much is free; None if it can.

    ``able`` are the agents that may run it.
    A backoff that has longer to go than any backoff lasts was begun under a clock that
    has been set back since, and counts as over.
    """
    if task.is_held or task.impediment is not None or task.blocked_by:
        return _hindered(task)
    if task.not_before is not None and task.not_before > now:
        return _wait_until(task, Reason.NOT_BEFORE, task.not_before, now=now, why="asked to wait")
    until = task.backing_off_until
    if until is not None and 0 < (until - now).total_seconds() <= longest_backoff_s:
        # After a failure, but also where the attempt asked for it, was interrupted, or could
        # not be started: the attempts tell which.
        return _wait_until(task, Reason.BACKING_OFF, until, now=now, why="backs off")
    if not is_enabled:
        return _wait(task, Reason.PAUSED, "TINYSCHEDULER_ENABLED is false")
    if switches is None or switches:
        stop = find_stop(task, agents=able, switches=switches)
        if stop is not None:
            return stop
    if task.task_id in occupied:
        return _wait(task, Reason.UNPLACED, "its previous attempt is not completely gone yet")
    if not able:
        wanted = f"agent {task.agent}" if task.agent is not None else f"queue {task.queue}"
        return _wait(task, Reason.UNPLACED, f"{wanted} is not configured in the agents file")
    return None


def make_way(
    task: WaitingTask, *, pressed_by: Sequence[str], delay_s: float, now: datetime
) -> Wait | None:
    """Return how a firing makes way for who is at work interactively; None if it does not.

    However much is free; and no longer than `core.pressure` has it.
    """
    until = makes_way_until(task, delay_s=delay_s, now=now)
    if not pressed_by or until is None:
        return None
    why = f"makes way for {name_pressed_by(pressed_by)}, at the longest"
    return _wait_until(task, Reason.PRESSURE, until, now=now, why=why)


def key_of(task: WaitingTask) -> tuple[str, str]:
    """Return what names a task among those of all sources."""
    return (task.source, task.task_id)


def in_line(
    tasks: Iterable[WaitingTask], snapshot: Snapshot, *, agents: Sequence[AgentView]
) -> list[WaitingTask]:
    """Return the tasks in the order of their turns; see `put_in_line`."""
    return put_in_line(tasks, snapshot, agents=agents)[0]


def put_in_line(
    tasks: Iterable[WaitingTask], snapshot: Snapshot, *, agents: Sequence[AgentView]
) -> tuple[list[WaitingTask], Mapping[tuple[str, str], float]]:
    """Return the tasks in the order of their turns, and how far each is from its own.

    Interactive ones first, and what has waited long enough to count as such; then who had
    least, where that is shared out; then who blocks most, priority where enabled, arrival.
    Sources number arrivals each in its own way: between them the time of arrival counts.
    """
    rules = snapshot.rules
    tasks = tuple(tasks)
    are_mixed = any(task.source != tasks[0].source for task in tasks)
    urgent = {agent.name for agent in agents if agent.is_interactive}
    promoted = snapshot.now.wall - timedelta(seconds=PROMOTED_AFTER_S)
    is_priority_enabled = rules.is_priority_enabled

    def is_batch(task: WaitingTask) -> bool:
        return (
            task.priority_class is PriorityClass.BATCH
            and task.agent not in urgent
            and (task.created_at is None or task.created_at > promoted)
        )

    def place(task: WaitingTask) -> tuple[bool, int, int, float, int, str, str]:
        return (
            is_batch(task),
            -task.blocks,
            -task.priority if is_priority_enabled else 0,
            task.created_at.timestamp() if are_mixed and task.created_at is not None else 0.0,
            task.created_order,
            task.source,
            task.task_id,
        )

    ordered = sorted(tasks, key=place)
    if rules.fair_share == FairShare.OFF:
        return ordered, {}
    from tinyscheduler.core.fairness import turns_of  # few share fairly, and ticks are short

    turns = turns_of(ordered, snapshot)
    # The sort is stable: within one turn all stay as they stand.
    return sorted(ordered, key=lambda task: (is_batch(task), turns[key_of(task)])), turns


def candidates(task: WaitingTask, agents: Sequence[AgentView]) -> tuple[AgentView, ...]:
    """Return the agents that may run the task: the named one, or all that serve its queue."""
    if task.agent is not None:
        return tuple(agent for agent in agents if agent.name == task.agent)
    return tuple(agent for agent in agents if agent.queue == task.queue)


def _hindered(task: WaitingTask) -> Wait:
    """Tell what its source says is in the task's own way."""
    if task.is_held:
        return _wait(task, Reason.HELD, f"held; `release {task.task_id}` lets it go")
    if task.impediment is not None:
        return _wait(task, Reason.UNPLACED, task.impediment)
    blockers = ", ".join(task.blocked_by)
    return _wait(task, Reason.BLOCKED_BY, f"waits for {blockers} to be done")


def _wait(task: WaitingTask, reason: Reason, words: str) -> Wait:
    return Wait(task=task, reason=reason, words=words)


def _wait_until(
    task: WaitingTask, reason: Reason, until: datetime, *, now: datetime, why: str
) -> Wait:
    seconds = (until - now).total_seconds()
    return Wait(
        task=task,
        reason=reason,
        words=f"{why} until {format_time(until)}",
        retry_after_s=seconds,
    )
