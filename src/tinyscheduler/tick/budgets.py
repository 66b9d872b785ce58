"""What has used up its budget starts nothing more until somebody lets it go on."""

from __future__ import annotations

from functools import partial

from tinyscheduler.model.events import EventName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.events import Details
    from tinyscheduler.tick.progress import Progress

_WHERE = "budgets"


def enforce_budgets(progress: Progress) -> None:
    """Pause what has used up its budget, and tell it; costs nothing where there is none.

    Called whenever something has ended or begun: claims that follow are refused anyhow.
    """
    if not progress.settings.inventory.budgets:
        return
    # Where they could not be read, they cannot a moment later.
    if all(error.where != _WHERE for error in progress.errors):
        progress.attempt(_WHERE, partial(_enforce, progress))


def _enforce(progress: Progress) -> None:
    from tinyscheduler.core.budgets import BUDGET_KEEPER, target_of

    for one in progress.world.budgets.enforce():
        target = str(target_of(one.budget))
        progress.warn(
            f"{target} is paused, its budget is used up: {one.words}"
            f" (`tinyscheduler resume {target}` lets it go on)"
        )
        details: Details = (("target", target), ("by", BUDGET_KEEPER), ("words", one.words))
        name = EventName.PAUSED
        if one.budget.subject.startswith("schedule:"):
            name = EventName.SCHEDULE_PAUSED
            details = (("schedule", one.budget.subject.partition(":")[2]), *details)
        progress.notice(name, reason="budget", details=details)
