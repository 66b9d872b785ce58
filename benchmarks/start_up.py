"""What does an invocation cost?  Against a bare interpreter of the same environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.measure import Ratio, command, compare
from benchmarks.place import BARE, TOP, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 25
AGAINST = "python -I -c pass"


def idle_tick() -> Iterator[Ratio]:
    """A tick with nothing to do."""
    with Place() as place:
        tick = command(*place.argv("run", "--once"), environment=place.environment)
        yield compare("idle tick", tick, command(*BARE), against=AGAINST, rounds=ROUNDS, bar=6)
        launcher = (str(TOP / "tinyscheduler"), "run", "--once")
        through = command(*launcher, environment=place.environment)
        yield compare(
            "idle tick, by the launcher", through, tick, against="idle tick", rounds=ROUNDS
        )


def add() -> Iterator[Ratio]:
    """One more task."""
    with Place() as place:
        one = command(*place.argv("add", "--", "true"), environment=place.environment)
        yield compare("add", one, command(*BARE), against=AGAINST, rounds=ROUNDS, bar=5)


def status() -> Iterator[Ratio]:
    """What goes on, with a thousand tasks waiting."""
    with Place() as place:
        place.add(1000, "true")
        look = command(*place.argv("status"), environment=place.environment)
        yield compare(
            "status, 1,000 waiting", look, command(*BARE), against=AGAINST, rounds=ROUNDS, bar=8
        )
