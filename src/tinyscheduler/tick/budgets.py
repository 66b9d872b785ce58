"""What has used up its budget starts nothing more until somebody lets it go on."""

from __future__ import annotations

from functools import partial

from tinyscheduler.model.events import EventName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.events import Details
    from tinyscheduler.tick.progress import Progress

_WHERE = "budgets"


def enforce_budgets(progress: Progress) -> bool:
    """Pause what has used up its budget, and tell it; whether there was any.

    Called whenever something has ended or begun: claims that follow are refused anyhow.
    Costs nothing where there is no budget.
    """
    if not progress.settings.inventory.budgets:
        return False
    # Where they could not be read, they cannot a moment later.
    return all(error.where != _WHERE for error in progress.errors) and progress.attempt(
        _WHERE, partial(_enforce, progress)
    )


def _enforce(progress: Progress) -> bool:
    from tinyscheduler.core.budgets import BUDGET_KEEPER, target_of

    found = progress.world.budgets.enforce()
    for one in found:
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
    return bool(found)
