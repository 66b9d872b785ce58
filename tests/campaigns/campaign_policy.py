"""Random programs as policies: none obtains anything, none holds up a tick.

Each is put together from pieces that break something by themselves, and from plain ones, in
ways that no author would think of, and asked in the real process.  What it may end in is an
answer that the tick understands or a failure with a cause, within the time for both.  The
programs are new ones in each run; `--seed` repeats one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.policy.asking import a_context, a_policy
from tests.policy.programs import a_program

from tinyscheduler.errors import PolicyError

CAUSES = {"syntax", "error", "timeout", "memory", "nonsense", "refused"}
# The time for a start and for an answer, and as much again for a busy machine.
MOST_S = 2 * (0.25 + 0.2)


def ask(base: Path, source: str, *, most_s: float) -> tuple[str, str | None]:
    """Ask a policy; return how that ended, and what is wrong with that, if anything."""
    policy = a_policy(base, source)
    began = time.monotonic()
    try:
        policy.propose(a_context())
        outcome = "answer"
        said = " ".join(text for _, text in policy.answers[-1].log)
    except PolicyError as error:
        outcome, said = error.cause, error.what
    finally:
        policy.close()
    took_s = time.monotonic() - began
    if "ESCAPED" in said:
        return outcome, f"it got hold of something: {said}"
    if outcome != "answer" and outcome not in CAUSES:
        return outcome, f"unknown cause: {said}"
    if took_s > most_s:
        return outcome, f"it held up the tick for {took_s:.2f} s"
    return outcome, None


def main(argv: list[str]) -> int:
    """Ask so many; return 1 if one did what none may."""
    parser = argparse.ArgumentParser(prog="scripts/campaign policy", description=__doc__)
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args(argv)
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    draw = random.Random(seed)
    started, outcomes, violations = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.programs):
            source = a_program(draw)
            outcome, wrong = ask(Path(folder), source, most_s=MOST_S)
            outcomes[outcome] += 1
            if wrong is not None:
                violations += 1
                print(f"{wrong}\n{source}", flush=True)
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    print(
        f"{arguments.programs} programs (seed {seed}): {told}: {violations} violations"
        f" ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
