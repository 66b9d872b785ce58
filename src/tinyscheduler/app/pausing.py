"""How does a pause end, and what follows for a budget that was the reason for it?"""

from __future__ import annotations

from tinyscheduler.model.switches import SwitchKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.switches import Switch, Target


def end_pause(queue: Queue, target: Target) -> Switch | None:
    """Lift a pause and return it; None if there was none.

    Where it was for a budget that is used up, nothing counts any more that was used until now.
    """
    from tinyscheduler.core.budgets import BUDGET_KEEPER, subject_of

    switches = queue.switches.read()
    found = (one for one in switches if (one.kind, one.target) == (SwitchKind.PAUSE, target))
    switch = next(found, None)
    if switch is None:
        return None
    if switch.by == BUDGET_KEEPER:
        # First: whoever dies between the two finds it paused still, and resumes it again.
        queue.budgets.lift(subject_of(target))
    return queue.switches.clear(SwitchKind.PAUSE, target)
