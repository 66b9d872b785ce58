"""How much longer does one thing take than another, on a machine that is never quiet?

Both sides run in turns, A B A B, in one go, so that noise hits both.  What is told is
the ratio of the fastest runs and the ratio of the medians; times are for orientation.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How one side compares with the other.  Milliseconds; ``bar`` is what it must not exceed.

    Of a rate (``is_rate``) more is better, and the bar is what it must reach.
    """

    name: str
    ours_ms: Sequence[float]
    theirs_ms: Sequence[float]
    against: str
    bar: float | None = None
    is_rate: bool = False

    @property
    def of_minimums(self) -> float:
        """The fastest run of ours by the fastest of theirs; of rates the other way round."""
        return self._ratio(min(self.ours_ms), min(self.theirs_ms))

    @property
    def of_medians(self) -> float:
        """The median run of ours by the median of theirs; of rates the other way round."""
        return self._ratio(statistics.median(self.ours_ms), statistics.median(self.theirs_ms))

    @property
    def is_met(self) -> bool:
        """Whether the bar holds, by the fastest runs: the others measure the neighbours."""
        if self.bar is None:
            return True
        return self.of_minimums >= self.bar if self.is_rate else self.of_minimums <= self.bar

    def _ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.is_rate else ours / theirs

    def line(self) -> str:
        """One row of the table."""
        bar = "" if self.bar is None else f"{'>=' if self.is_rate else '<='} {self.bar:g}x"
        verdict = "" if self.bar is None else ("ok" if self.is_met else "MISSED")
        return (
            f"{self.name:<34} {self.of_minimums:>7.2f}x {self.of_medians:>7.2f}x  {bar:>9} "
            f"{verdict:<6} {min(self.ours_ms):>9.1f} {min(self.theirs_ms):>9.1f}  {self.against}"
        )


HEADER = (
    f"{'':<34} {'min':>8} {'median':>8}  {'bar':>9} {'':<6} {'ours ms':>9} {'theirs':>9}  against"
)


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    rounds: int,
    bar: float | None = None,
) -> Ratio:
    """Time both in turns; each is tried once before, so that caches are warm for both."""
    ours()
    theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, took in zip((ours, theirs), times, strict=True):
            took.append(timed_ms(side))
    return Ratio(name=name, ours_ms=times[0], theirs_ms=times[1], against=against, bar=bar)


def added(
    name: str,
    ours: Callable[[], object],
    without: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    rounds: int,
    bar: float | None = None,
) -> Ratio:
    """Time three in turns: what one takes more than without something, by the third.

    The least that it takes more is told by the fastest runs of both.
    """
    for side in (ours, without, theirs):
        side()
    times: tuple[list[float], ...] = ([], [], [])
    for _ in range(rounds):
        for side, took in zip((ours, without, theirs), times, strict=True):
            took.append(timed_ms(side))
    least = min(times[1])
    more = [max(0.0, one - least) for one in times[0]]
    return Ratio(name=name, ours_ms=more, theirs_ms=times[2], against=against, bar=bar)


def timed_ms(action: Callable[[], object]) -> float:
    """Run it once and return how long that took."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3


def command(*argv: str, environment: dict[str, str] | None = None) -> Callable[[], None]:
    """Return an action that runs a whole process; it must succeed."""

    def run() -> None:
        done = subprocess.run(
            argv,
            env=environment or os.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()
            message = f"{' '.join(argv)} ended with {done.returncode}: {words}"
            raise SystemExit(message)

    return run


def note(words: str) -> None:
    """Say on stderr what takes a while."""
    print(words, file=sys.stderr, flush=True)
