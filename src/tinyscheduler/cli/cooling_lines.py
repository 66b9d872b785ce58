"""Which accounts cool down, and until when, in lines for people."""

from __future__ import annotations

from tinyscheduler.cli.render import format_clock
from tinyscheduler.core.cooling import is_cooling, tell_cooling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.snapshot import Snapshot


def cooling_lines(snapshot: Snapshot) -> list[str]:
    """Return a line for each account of which nothing may start now, with what was said of it."""
    now = snapshot.now.wall
    return [
        f"{tell_cooling(one, when=format_clock(one.until, now=now))}"
        + (f", agent {one.agent} said: {one.words}" if one.words else "")
        for one in snapshot.coolings
        if is_cooling(one, now)
    ]
