"""Explore the larger scenarios, by hand: `python -m tests.protocol.deeper [WORD...]`.

Only scenarios and rules whose name holds one of the words, where there are any.  The
largest takes minutes and gigabytes.  Exits 1 if something is wrong.
"""

from __future__ import annotations

import sys

from tests.protocol.explore import explore
from tests.protocol.rules import INTACT
from tests.protocol.scenarios import LARGE, LARGE_LOSSES


def main(words: list[str]) -> int:
    """Print a line per scenario and rule, and the steps that lead to anything wrong."""
    failed = False
    for scenario in LARGE:
        if any(word in scenario.name for word in words or [""]):
            found = explore(scenario, INTACT)
            failed |= bool(found.wrong)
            verdict = found.wrong or "nothing wrong"
            print(f"{scenario.name}: {found.states} worlds, {verdict}", *found.trace, sep="\n  ")
    for loss in LARGE_LOSSES:
        if any(word in loss.rule for word in words or [""]):
            found = explore(loss.scenario, loss.rules, seek=loss.wrong)
            failed |= not found.wrong
            verdict = found.wrong or "nothing wrong, though there should be"
            print(
                f"without: {loss.rule}: {found.states} worlds, {verdict}", *found.trace, sep="\n  "
            )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
