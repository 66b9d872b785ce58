"""What `decide` must do in any world, in thousands of generated ones.

Runs every property of the core that speaks of whole worlds, each in so many.  The invariants of
the design that speak of plans hold whoever decides: in each of their worlds the platform policy
does, each template, and proposers at random.  No cap is exceeded (4), each waiting task gets one
decision (5), the same for any order of the input (6), an unchanged world plans nothing (7),
nothing is given away that is not seen free (8), nobody is overtaken too often (9), and nothing
starts that may not (11).  In some of the worlds somebody is at work: firings make way, as long as
they have to, and nothing else changes.  In how many of the worlds a policy was asked at all is
told; too few of them are a violation.  Besides, each change that `why` says would start a task
does, and nothing less.  The worlds are new ones in each run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.core.invariants import INVARIANTS
from tests.core.policies import POLICIES

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP = Path(__file__).resolve().parents[2]
WHOEVER_DECIDES = tuple(f"test_invariants.py::test_whoever_decides[{one}]" for one in INVARIANTS)
PROPERTIES = (
    *WHOEVER_DECIDES,
    "test_turns.py::test_no_plan_overtakes_anybody_more_often_than_it_may",
    "test_turns.py::test_whatever_a_policy_prefers_nobody_is_passed_over_for_ever",
    "test_turns.py::test_nothing_behind_a_reservation_makes_its_task_start_later",
    "test_line.py::test_the_order_does_not_depend_on_that_of_the_input",
    "test_whatif.py::test_of_any_world_every_change_starts_the_task_and_nothing_less_does",
    "test_whatif.py::test_of_a_crowd_every_change_starts_the_task_and_nothing_less_does",
)
# In so many of a hundred worlds each policy must be asked, or what holds of it means little.
LEAST_ASKED = 40.0
_PASSED = re.compile(r"- (\d+) passing,")
_ASKED = re.compile(r"\* +([\d.]+)%, ([a-z-]+): (?:asked|refused)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """In how many worlds a property ``held``; the ``report`` is empty if it did in all.

    ``asked`` says in how many of a hundred each policy was asked, if any was.
    """

    held: int
    asked: Mapping[str, float]
    report: str


def check(name: str, worlds: int) -> Checked:
    """Try a property in so many worlds."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "--timeout=0"]
    argv += ["--hypothesis-show-statistics", f"tests/core/{name}"]
    environ = {**os.environ, "HYPOTHESIS_PROFILE": "campaign", "HYPOTHESIS_EXAMPLES": str(worlds)}
    done = subprocess.run(argv, cwd=TOP, env=environ, capture_output=True, text=True, check=False)
    held = sum(int(number) for number in _PASSED.findall(done.stdout))
    is_fine = done.returncode == 0 and held >= worlds
    asked: dict[str, float] = defaultdict(float)
    # Before the new worlds stand those of earlier failures.
    for share, policy in _ASKED.findall(done.stdout.rpartition("generate phase")[2]):
        asked[policy] += float(share)
    report = "" if is_fine else done.stdout or done.stderr
    return Checked(held=held, asked=asked, report=report)


def blame_silence(asked: Mapping[str, float]) -> str:
    """Return which policies were asked too seldom; empty if none was."""
    seldom = [name for name in POLICIES if asked.get(name, 0.0) < LEAST_ASKED]
    return f"too seldom asked: {', '.join(seldom)}" if seldom else ""


def main(argv: list[str]) -> int:
    """Check all properties; return 1 if one did not hold."""
    parser = argparse.ArgumentParser(prog="scripts/campaign decide", description=__doc__)
    parser.add_argument("--worlds", type=int, default=5000, help="for each property")
    worlds = parser.parse_args(argv).worlds
    started, total, violations = time.monotonic(), 0, 0
    for name in PROPERTIES:
        found, words = check(name, worlds), ""
        report = found.report
        if name in WHOEVER_DECIDES and not report:
            shares = [found.asked.get(one, 0.0) for one in POLICIES]
            least, most = min(shares), max(shares)
            words = f", each policy asked in {least:.0f} to {most:.0f} of 100"
            report = blame_silence(found.asked)
        total += found.held
        violations += bool(report)
        verdict = " VIOLATED" if report else ""
        print(f"{name.split('::')[1]}: {found.held} worlds{words}{verdict}", flush=True)
        if report:
            print(report)
    seconds = time.monotonic() - started
    print(
        f"{len(PROPERTIES)} properties, {total} worlds: {violations} violations ({seconds:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
