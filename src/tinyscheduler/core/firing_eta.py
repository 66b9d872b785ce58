"""When may another firing start, where as many as may run at once do so already?"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from tinyscheduler.model.schedules import LiveFiring

# Of a firing of which nothing tells how long it may take.
_UNKNOWN_S = 60.0


def slot_eta_s(live: Sequence[LiveFiring], *, most: int, now: datetime) -> float:
    """Return in how many seconds fewer than ``most`` firings run or wait; 0 if they do already.

    Each takes as long as those of its schedule usually did, or as long as it may where that is
    not known or is over already.  Those that wait start in their order, ``most`` at a time.
    """
    waiting = deque(_least(one.usual_s, one.most_s) for one in live if one.started_at is None)
    ends = [
        _left_s(one, spent_s=(now - one.started_at).total_seconds())
        for one in live
        if one.started_at is not None
    ]
    heapify(ends)
    taken, eta_s = len(live), 0.0
    while taken >= most:
        _start(waiting, ends, most=most, at_s=eta_s)
        eta_s = heappop(ends)
        taken -= 1
    return eta_s


def _start(waiting: deque[float], ends: list[float], *, most: int, at_s: float) -> None:
    """Start at that moment those that wait, as far as they may."""
    while waiting and len(ends) < most:
        heappush(ends, at_s + waiting.popleft())


def _left_s(one: LiveFiring, *, spent_s: float) -> float:
    spent_s = max(0.0, spent_s)  # the clock may have been set back
    usual_s = one.usual_s if one.usual_s is not None and one.usual_s > spent_s else None
    return max(0.0, _least(usual_s, one.most_s) - spent_s)


def _least(*found: float | None) -> float:
    known: Iterable[float] = (one for one in found if one is not None)
    return min(known, default=_UNKNOWN_S)
