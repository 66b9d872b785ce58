"""Which budgets hold an attempt, and which of them are used up?"""

from __future__ import annotations

from tinyscheduler.model.budgets import OVERALL
from tinyscheduler.model.switches import EVERYTHING, Switch, SwitchKind, Target, parse_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from tinyscheduler.model.budgets import Budget, Spent

# Who pauses what has used up its budget.
BUDGET_KEEPER = "its budget"
# The fields that bound something, of a budget and of what was spent.
BOUNDS = ("runs", "turns", "tokens", "money_usd", "gpu_s", "wall_s")
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def target_of(budget: Budget) -> Target:
    """Return what is paused for a budget."""
    return EVERYTHING if budget.subject == OVERALL else parse_target(budget.subject)


def subject_of(target: Target) -> str:
    """Return the subject of budgets for which that is paused.

    >>> subject_of(EVERYTHING), subject_of(parse_target("agent:coder"))
    ('overall', 'agent:coder')
    """
    return OVERALL if target == EVERYTHING else str(target)


def budgets_of(
    budgets: Iterable[Budget], *, agent: str, schedule_id: str | None
) -> tuple[Budget, ...]:
    """Return the budgets that an attempt of this agent, at a firing of this schedule, uses."""
    subjects = {OVERALL, f"agent:{agent}"}
    if schedule_id is not None:
        subjects.add(f"schedule:{schedule_id}")
    return tuple(one for one in budgets if one.subject in subjects)


def find_used_up(budget: Budget, spent: Spent) -> str | None:
    """Say which bounds of a budget are used up, with figures; None if something is left of each.

    >>> from tinyscheduler.model.budgets import Budget, Spent
    >>> budget = Budget(subject="overall", runs=20, money_usd=5.0)
    >>> find_used_up(budget, Spent(runs=20, money_usd=4.99))
    '20 of 20 runs in 1d'
    >>> find_used_up(budget, Spent(runs=19))
    """
    reached = [
        _tell(name, spent, most)
        for name in BOUNDS
        if (most := getattr(budget, name)) is not None and getattr(spent, name) >= most
    ]
    return f"{', '.join(reached)} in {_duration(budget.window_s)}" if reached else None


def tell_spent(budget: Budget, spent: Spent) -> str:
    """Say how much of each bound of a budget is used.

    >>> from tinyscheduler.model.budgets import Budget, Spent
    >>> tell_spent(Budget(subject="overall", runs=20, gpu_s=7200.0), Spent(runs=3, gpu_s=90.0))
    '3 of 20 runs, 1.5 of 120 GPU minutes in 1d'
    """
    bounds = ((name, getattr(budget, name)) for name in BOUNDS)
    told = [_tell(name, spent, most) for name, most in bounds if most is not None]
    return f"{', '.join(told)} in {_duration(budget.window_s)}"


def pause_for(budget: Budget, words: str, now: datetime) -> Switch:
    """Return the switch that pauses the subject of a budget that is used up."""
    return Switch(
        kind=SwitchKind.PAUSE,
        target=target_of(budget),
        since=now,
        by=BUDGET_KEEPER,
        reason=f"used up: {words}",
    )


def _tell(name: str, spent: Spent, most: float) -> str:
    used = getattr(spent, name)
    match name:
        case "money_usd":
            return f"{used:.2f} of {most:.2f} USD"
        case "gpu_s":
            return f"{used / 60:.4g} of {most / 60:.4g} GPU minutes"
        case "wall_s":
            return f"{_duration(used)} of {_duration(most)} running"
        case _:
            return f"{used} of {most} {name}"


def _duration(seconds: float) -> str:
    """Return a duration as people write it, in its two largest units.

    >>> [_duration(one) for one in (86_400.0, 5400.4, 59.9, 0.2)]
    ['1d', '1h30m', '59s', '0s']
    """
    left, parts = int(seconds), []
    for unit, length in _UNITS:
        number, left = divmod(left, length)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts[:2]) or "0s"
