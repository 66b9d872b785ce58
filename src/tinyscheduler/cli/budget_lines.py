"""How much is used of each budget, in words and as JSON?"""

from __future__ import annotations

from tinyscheduler.cli.render import Row, format_table
from tinyscheduler.core.budgets import BOUNDS, find_used_up, tell_spent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from tinyscheduler.cli.render import Page
    from tinyscheduler.model.budgets import Budget, Spent

# As JSON has them: with their units.
_KEYS = {"gpu_s": "gpu_sec", "wall_s": "wall_sec"}


def budget_lines(budgets: Iterable[tuple[Budget, Spent]], page: Page) -> list[str]:
    """Return a table of the budgets and what is used of each."""
    rows: list[Row] = [(budget.subject, tell_spent(budget, spent)) for budget, spent in budgets]
    return format_table(("BUDGET", "USED"), rows, page)


def budgets_json(budgets: Sequence[tuple[Budget, Spent]]) -> list[dict[str, Any]]:
    """Return each budget, and what is used of its bounds."""
    return [
        {
            "subject": budget.subject,
            "window_sec": budget.window_s,
            "is_used_up": find_used_up(budget, spent) is not None,
            "bounds": {
                _KEYS.get(name, name): {"used": getattr(spent, name), "limit": most}
                for name in BOUNDS
                if (most := getattr(budget, name)) is not None
            },
        }
        for budget, spent in budgets
    ]
