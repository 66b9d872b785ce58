"""Random policies in Lua and in YAML: none obtains anything, none holds up a tick.

A program in Lua is put together from pieces that break something by themselves, and from plain
ones, in ways that no author would think of, and asked in the real process.  What it may end in
is an answer that the tick understands or a failure with a cause, within the time for both.

A document in YAML is a policy, nearly one, or bytes that are none, with Lua in every text.  It is
refused with file, line and rule, or compiled, to the same Lua each time, and then answers in the
real process as its rules say; no text of it is ever run, and the published schema takes it.

All are new ones in each run; `--seed` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.policy.asking import MOST_S, a_context, a_policy, endless_s, in_time, timed
from tests.policy.documents import a_document
from tests.policy.judging import judge
from tests.policy.programs import a_program

if TYPE_CHECKING:
    from collections.abc import Callable

# What was asked, what came of it, and what is wrong with that.
Asked = tuple[object, tuple[str, str | None]]
CAUSES = {"syntax", "error", "timeout", "memory", "nonsense", "refused"}


def ask(base: Path, source: str, *, most_s: float) -> tuple[str, str | None]:
    """Ask a policy in Lua; return how that ended, and what is wrong with that, if anything."""
    return in_time(lambda: _ask(base, source), lambda: endless_s(base), most_s=most_s)


def _ask(base: Path, source: str) -> tuple[str, str | None, float]:
    policy = a_policy(base, source)
    try:
        failed, took_s = timed(policy, a_context())
    finally:
        policy.close()
    if failed is None:
        outcome, said = "answered", " ".join(text for _, text in policy.answers[-1].log)
    else:
        outcome, said = failed.cause, failed.what
    wrong = None
    # What is no Lua did not run, and its error repeats what stands there.
    if "ESCAPED" in said and outcome != "syntax":
        wrong = f"it got hold of something: {said}"
    elif failed is not None and outcome not in CAUSES:
        wrong = f"unknown cause: {said}"
    return outcome, wrong, took_s


def run(what: str, number: int, ask_one: Callable[[], Asked]) -> int:
    """Ask so many, print what became of them, and return the number of violations.

    One that was not asked is a violation, too.
    """
    started, outcomes, violations = time.monotonic(), Counter[str](), 0
    for _ in range(number):
        source, (outcome, wrong) = ask_one()
        outcomes[outcome] += 1
        if wrong is not None:
            violations += 1
            print(f"{wrong}\n{source!r}", flush=True)
    violations += number - outcomes.total()
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(
        f"{outcomes.total()} {what}: {told or 'none'}: {violations} violations"
        f" ({time.monotonic() - started:.0f} s)",
        flush=True,
    )
    return violations


def main(argv: list[str]) -> int:
    """Ask so many of each; return 1 if one did what none may."""
    parser = argparse.ArgumentParser(prog="scripts/campaign policy", description=__doc__)
    parser.add_argument("--programs", type=int, default=20_000, help="in Lua")
    parser.add_argument("--documents", type=int, default=20_000, help="in YAML")
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args(argv)
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        base, draw = Path(folder), random.Random(seed)

        def ask_program() -> Asked:
            source = a_program(draw)
            return source, ask(base, source, most_s=MOST_S)

        def ask_document() -> Asked:
            content = a_document(draw)
            return content, judge(base, content, most_s=MOST_S)

        violations = run(f"programs in Lua (seed {seed})", arguments.programs, ask_program)
        draw.seed(seed)
        violations += run(f"documents in YAML (seed {seed})", arguments.documents, ask_document)
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
