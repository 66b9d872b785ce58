"""The budgets over what is on the simulated disk."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tinyscheduler.core.budgets import budgets_of, find_used_up, pause_for, target_of
from tinyscheduler.model.budgets import Spent, UsedUp
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.model.switches import TargetKind
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.budgets import Budget
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.source import Row, SimulatedQueue


class SimulatedBudgets:
    """One process's look at the budgets of a queue."""

    def __init__(self, process: Process, queue: SimulatedQueue, disk: Disk) -> None:
        """Ask as this process, and pause on this disk."""
        self._process = process
        self._queue = queue
        self._disk = disk

    def enforce(self) -> Sequence[UsedUp]:
        """Pause each subject whose budget is used up and that is not paused; return these."""
        found = []
        with self._process.doing("budgets.enforce"):
            for budget in self._queue.budgets:
                words = find_used_up(budget, spent_of(self._queue, budget))
                key = ("pause", str(target_of(budget)))
                if words is not None and key not in self._disk.switches:
                    self._pause(budget, words)
                    found.append(UsedUp(budget=budget, words=words))
        return found

    def lift(self, subject: str) -> None:
        """Have nothing count that the subject has used until now."""
        with self._process.doing("budgets.lift"):
            self._queue.budget_starts[subject] = self._queue.now()

    def _pause(self, budget: Budget, words: str) -> None:
        switch = pause_for(budget, words, self._queue.now())
        self._disk.switches[switch.kind.value, str(switch.target)] = switch
        schedule = self._queue.schedules.get(switch.target.name)
        if switch.target.kind is not TargetKind.SCHEDULE or schedule is None:
            return
        if schedule.state is ScheduleState.ACTIVE:
            self._queue.schedules[schedule.schedule_id] = replace(
                schedule, state=ScheduleState.PAUSED, why_paused=f"its budget is {switch.reason}"
            )


def may_spend(queue: SimulatedQueue, row: Row, agent: str) -> bool:
    """Whether something is left of each budget for one more attempt."""
    mine = budgets_of(queue.budgets, agent=agent, schedule_id=row.schedule_id)
    return all(find_used_up(one, spent_of(queue, one)) is None for one in mine)


def spent_of(queue: SimulatedQueue, budget: Budget) -> Spent:
    """Sum up what the subject of a budget has used of it."""
    now = queue.now()
    since = queue.budget_starts.get(budget.subject)
    ended = [
        one
        for one in queue.ledger.values()
        if _is_of(budget, one.agent, one.schedule_id)
        and one.ended_at > now - timedelta(seconds=budget.window_s)
        and _counts(one.started_at or one.ended_at, since)
    ]
    running = [
        row
        for row in queue.rows.values()
        if row.state is TaskState.WORKING
        and row.lease_id not in queue.ledger
        and _is_of(budget, row.claimed_by, row.schedule_id)
        and _counts(row.claimed_at, since)
    ]
    spans = [one.ended_at - (one.started_at or one.ended_at) for one in ended]
    spans += [now - (row.claimed_at or now) for row in running]
    return Spent(
        runs=len(ended) + len(running),
        turns=sum(one.turns or 0 for one in ended),
        tokens=sum(one.tokens or 0 for one in ended),
        money_usd=sum(one.cost_usd or 0.0 for one in ended),
        gpu_s=sum(one.gpu_s or 0.0 for one in ended),
        wall_s=sum(max(0.0, one.total_seconds()) for one in spans),
    )


def _is_of(budget: Budget, agent: str | None, schedule_id: str | None) -> bool:
    return bool(budgets_of([budget], agent=agent or "", schedule_id=schedule_id))


def _counts(began_at: datetime | None, since: datetime | None) -> bool:
    return since is None or began_at is None or began_at >= since
