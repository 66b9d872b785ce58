"""How many firings of schedules run, and may another one?"""

from __future__ import annotations

from tinyscheduler.core.refusal import Refusal
from tinyscheduler.model.plan import Reason
from tinyscheduler.values import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tinyscheduler.model.tasks import WaitingTask


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringRoom:
    """How many firings run of each schedule, and how many may in all.

    Attempts at tasks that are no firings count nowhere here.
    """

    most: int = 0
    running: Mapping[str, int] = field(default_factory=dict)

    def refuse(self, task: WaitingTask) -> Refusal | None:
        """Return why this firing cannot start now; None if it can, or is no firing.

        One that was forced is beyond the bound on all of them, and never beside another one of
        its schedule that does not allow it.
        """
        schedule_id = task.schedule_id
        if schedule_id is None:
            return None
        if self.has_sibling(task):
            return Refusal(
                reason=Reason.SCHEDULE_CAP,
                words=f"an earlier firing of {schedule_id} still runs",
            )
        running = sum(self.running.values())
        if not task.is_forced and running >= self.most:
            return Refusal(
                reason=Reason.SCHEDULE_CAP,
                words=f"{running} of {self.most} firings run (SCHEDULE_MAX_CONCURRENT)",
            )
        return None

    def has_sibling(self, task: WaitingTask) -> bool:
        """Whether another firing of its schedule runs that it may not run beside."""
        return not task.is_beside and bool(self.running.get(task.schedule_id or ""))

    def take(self, schedule_id: str | None) -> FiringRoom:
        """Return what is left after one more start."""
        if schedule_id is None:
            return self
        running = {**self.running, schedule_id: self.running.get(schedule_id, 0) + 1}
        return replace(self, running=running)

    def give_back(self, schedule_ids: Iterable[str | None]) -> FiringRoom:
        """Return what there is once attempts at firings of these have ended."""
        running = dict(self.running)
        for schedule_id in schedule_ids:
            if schedule_id is not None:
                running[schedule_id] = max(0, running.get(schedule_id, 0) - 1)
        return self if running == self.running else replace(self, running=running)
