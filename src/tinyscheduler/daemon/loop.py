"""Tick, wait for a reason, tick again: until asked to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.daemon.waker import Waker


def repeat(
    do_tick: Callable[[], bool],
    waker: Waker,
    *,
    interval_s: Callable[[], float],
) -> None:
    """Tick until asked to stop.  The tick under way is finished; attempts run on.

    ``do_tick`` says whether it was let in; refused, it left a wish for the holder of the
    lock, which must not wake us at once.
    """
    while not waker.is_stopped():
        if not do_tick():
            waker.rest()
        waker.wait(interval_s())
