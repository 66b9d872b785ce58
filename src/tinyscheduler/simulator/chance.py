"""The one source of chance of a simulation: everything random follows from its seed."""

from __future__ import annotations

from random import Random  # noqa: TID251 - seeded: this is what makes a run repeatable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = TypeVar("Item")


class Chance:
    """Dice that fall the same way whenever they start from the same seed."""

    def __init__(self, *seed: object) -> None:
        """Take anything that can be written down as the seed."""
        self._dice = Random("/".join(map(str, seed)))  # noqa: S311 - it guards nothing

    def happens(self, probability: float) -> bool:
        """Say yes this often."""
        return self._dice.random() < probability

    def between(self, least: float, most: float) -> float:
        """Return any number between these, both equally likely."""
        return self._dice.uniform(least, most)

    def after(self, mean: float) -> float:
        """Return how long something takes to happen that happens once per ``mean``."""
        return self._dice.expovariate(1 / mean)

    def count(self, least: int, most: int) -> int:
        """Return any whole number from least to most."""
        return self._dice.randint(least, most)

    def pick(self, items: Sequence[Item]) -> Item:
        """Return any of these."""
        return self._dice.choice(items)
