"""What is long over goes, a little at a time, when all else is done."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from tinyscheduler.errors import StoreError
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.pruning import PruneBounds
    from tinyscheduler.ports import Pruner
    from tinyscheduler.tick.progress import Progress
    from tinyscheduler.tick.world import Retention


def forget_the_past(progress: Progress) -> None:
    """Remove what is older than its retention, unless that was done within the hour.

    A bounded amount, so that a tick never takes long; what is left goes with the next
    ones.  A refusal is worth a warning an hour, and stops nothing.
    """
    retention, now = progress.settings.retention, progress.world.clock.now().wall
    if retention is None or not is_due(progress.memory.pruned_at, now, retention):
        return
    bounds = bounds_of(retention, now)
    is_more = False
    for pruner in progress.world.pruners():
        action = partial(_prune, progress, pruner, bounds)
        is_more |= progress.attempt("removing what is over", action)
    if not is_more:
        progress.memory = replace(progress.memory, pruned_at=now)


def _prune(progress: Progress, pruner: Pruner, bounds: PruneBounds) -> bool:
    """Prune once; return whether there is more."""
    try:
        return pruner.prune(bounds).is_more
    except StoreError as error:
        progress.warn(f"what is over stays for now: {error.what}")
        return False


def is_due(pruned_at: datetime | None, now: datetime, retention: Retention) -> bool:
    """Whether it is time again; after the clock was set back it is, or it might never be."""
    every = timedelta(seconds=retention.every_s)
    return pruned_at is None or not pruned_at <= now < pruned_at + every


def bounds_of(retention: Retention, now: datetime) -> PruneBounds:
    """Return what is old now."""
    from tinyscheduler.model.pruning import PruneBounds

    return PruneBounds(
        history_before=now - timedelta(seconds=retention.history_s),
        logs_before=now - timedelta(seconds=retention.logs_s),
        now=now,
        most=retention.most,
    )
