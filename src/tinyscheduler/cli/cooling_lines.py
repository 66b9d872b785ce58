"""Which accounts cool down, and until when, in lines for people."""

from __future__ import annotations

from tinyscheduler.cli.render import format_clock
from tinyscheduler.core.cooling import is_cooling, tell_cooling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from tinyscheduler.model.coolings import Cooling


def cooling_lines(coolings: Iterable[Cooling], *, now: datetime) -> list[str]:
    """Return a line for each account of which nothing may start now, with what was said of it."""
    return [
        tell_cooling(one, when=format_clock(one.until, now=now)) + _said(one)
        for one in coolings
        if is_cooling(one, now)
    ]


def _said(cooling: Cooling) -> str:
    return f"; agent {cooling.agent} said: {cooling.words}" if cooling.words else ""
