"""How much may be used in a while, by whom, and how much was?"""

from __future__ import annotations

from tinyscheduler.values import dataclass

OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all attempts of a subject together may use in any ``window_s`` seconds.

    The subject is ``overall``, ``agent:NAME`` or ``schedule:NAME``.  None is no bound.
    ``gpu_s`` are seconds of whole GPUs, ``wall_s`` those that attempts ran, ``money_usd`` what
    agents say that they cost.
    """

    subject: str
    window_s: float = 86_400.0
    runs: int | None = None
    turns: int | None = None
    tokens: int | None = None
    money_usd: float | None = None
    gpu_s: float | None = None
    wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What attempts used: those that ended in the window, and of those that run what is known.

    Of the latter that is that they run, and for how long.
    """

    runs: int = 0
    turns: int = 0
    tokens: int = 0
    money_usd: float = 0.0
    gpu_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedUp:
    """A budget for which its subject was paused: it is used up, as ``words`` say with figures."""

    budget: Budget
    words: str
