"""What `decide` must do in any world, in thousands of generated ones.

Runs every property of the core that speaks of whole worlds, each in so many: no cap is exceeded
whatever a policy proposes (4), each waiting task gets one decision (5), the same for any order
of the input (6), an unchanged world plans nothing (7), nothing is given away that is not seen
free (8), nobody is overtaken too often (9), and each change that `why` says would start a task
does, and nothing less.  The worlds are new ones in each run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PROPERTIES = (
    "test_decide.py::test_every_waiting_task_gets_exactly_one_decision",
    "test_decide.py::test_decide_does_not_depend_on_input_order",
    "test_decide.py::test_leased_plus_dispatched_never_exceeds_any_limit",
    "test_decide.py::test_no_policy_can_exceed_a_cap",
    "test_decide.py::test_only_what_may_start_is_started",
    "test_decide.py::test_every_wait_has_words_for_people",
    "test_decide.py::test_an_unchanged_world_plans_nothing",
    "test_turns.py::test_no_plan_overtakes_anybody_more_often_than_it_may",
    "test_turns.py::test_whatever_a_policy_prefers_nobody_is_passed_over_for_ever",
    "test_line.py::test_the_order_does_not_depend_on_that_of_the_input",
    "test_whatif.py::test_of_any_world_every_change_starts_the_task_and_nothing_less_does",
    "test_whatif.py::test_of_a_crowd_every_change_starts_the_task_and_nothing_less_does",
)
_PASSED = re.compile(r"- (\d+) passing,")


def check(name: str, worlds: int) -> tuple[int, str]:
    """Return in how many worlds a property held, and the report if it did not in one."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--timeout=0"]
    argv += ["--hypothesis-show-statistics", f"tests/core/{name}"]
    environ = {**os.environ, "HYPOTHESIS_PROFILE": "campaign", "HYPOTHESIS_EXAMPLES": str(worlds)}
    done = subprocess.run(argv, cwd=TOP, env=environ, capture_output=True, text=True, check=False)
    held = sum(int(number) for number in _PASSED.findall(done.stdout))
    if done.returncode == 0 and held >= worlds:
        return held, ""
    return held, done.stdout or done.stderr


def main(argv: list[str]) -> int:
    """Check all properties; return 1 if one did not hold."""
    parser = argparse.ArgumentParser(prog="scripts/campaign decide", description=__doc__)
    parser.add_argument("--worlds", type=int, default=5000, help="for each property")
    worlds = parser.parse_args(argv).worlds
    started, total, violations = time.monotonic(), 0, 0
    for name in PROPERTIES:
        held, report = check(name, worlds)
        total += held
        violations += bool(report)
        print(f"{name.split('::')[1]}: {held} worlds" + (" VIOLATED" if report else ""), flush=True)
        if report:
            print(report)
    seconds = time.monotonic() - started
    print(
        f"{len(PROPERTIES)} properties, {total} worlds: {violations} violations ({seconds:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
