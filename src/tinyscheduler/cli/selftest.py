"""``selftest``: are the promises kept on this very machine, whatever is killed or corrupted?"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import Cell, Ink, Page, Row, count, emit, emit_json, format_table
from tinyscheduler.cli.scratch import heeding_signals, scratch_folder
from tinyscheduler.cli.selftest_round import PROMISES, Damage, Round
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.values import dataclass, field

_DEFAULT_ROUNDS = 4
_MOST_ROUNDS = 100_000
_MOST_SEEDS = 1_000_000
_MOST_TOLD = 10
_CORRUPTED = (
    ("lease", "leases"),
    ("result", "results"),
    ("memory", "times the scheduling memory"),
)


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What became of each promise over all rounds, and what was done to them."""

    seed: int
    rounds: int = 0
    duration_s: float = 0.0
    damage: Damage = field(default_factory=Damage)
    broken: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept in every round."""
        return not any(self.broken.values())


def selftest(
    context: typer.Context,
    *,
    rounds: Annotated[
        int,
        typer.Option(
            parser=whole_number(least=1, most=_MOST_ROUNDS), metavar="N", help="How many rounds."
        ),
    ] = _DEFAULT_ROUNDS,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(least=0), metavar="N", help="Repeat the choices of an earlier run."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Kill and corrupt in a scratch folder, and judge.

    Each round runs real tasks, kills ticks, wrappers and commands and corrupts files at
    random moments, then ticks until all is quiet.  Your own queue is not touched.  Ends
    with 1, and keeps the folder, if a promise was broken.
    """
    invocation: Invocation = context.obj
    clock = SystemClock()
    began_ns = clock.now().monotonic_ns
    verdict = Verdict(seed=began_ns % _MOST_SEEDS if seed is None else seed)
    with heeding_signals(), scratch_folder(invocation, "selftest") as scratch:
        for number in range(1, rounds + 1):
            invocation.advise(f"round {number} of {rounds}")
            play_round(verdict, os.path.join(scratch.path, f"round-{number}"))
            verdict.duration_s = (clock.now().monotonic_ns - began_ns) / 1e9
        scratch.is_kept = not verdict.is_kept
        if json:
            emit_json(**_document(verdict, scratch.path))
        else:
            emit("\n".join(_lines(verdict, scratch.path, invocation.page)))
    return EXIT_DONE if verdict.is_kept else EXIT_FAILED


def play_round(verdict: Verdict, base: str) -> None:
    """Play one round and count what came of it; nothing of it runs on, whatever happens."""
    one = Round(base, Chance(verdict.seed, verdict.rounds))
    try:
        one.wreak()
        one.settle()
        for promise in one.judge():
            found = verdict.broken.setdefault(promise.words, [])
            found += [f"round {verdict.rounds + 1}: {words}" for words in promise.broken]
    finally:
        one.end_everything()
    verdict.rounds += 1
    verdict.damage.add(one.damage)


def _lines(verdict: Verdict, folder: str, page: Page) -> list[str]:
    rows: list[Row] = []
    for words in PROMISES:
        found = verdict.broken.get(words, [])
        mark = Cell(text="BROKEN", ink=Ink.RED) if found else Cell(text="kept", ink=Ink.GREEN)
        rows.append([mark, words])
    lines = format_table(["VERDICT", "PROMISE"], rows, page)
    for words in PROMISES:
        lines += verdict.broken.get(words, [])[:_MOST_TOLD]
    kills, corruptions = verdict.damage.kills, verdict.damage.corruptions
    killed = ", ".join(count(kills[one], one) for one in ("tick", "wrapper", "command"))
    corrupted = ", ".join(f"{corruptions[one]} {many}" for one, many in _CORRUPTED)
    lines += [
        "",
        f"{count(verdict.rounds, 'round')} in {verdict.duration_s:.0f} s, seed {verdict.seed}",
        f"killed: {killed}",
        f"corrupted: {corrupted}",
    ]
    if not verdict.is_kept:
        lines += [f"everything that was written is kept in {folder}"]
    return lines


def _document(verdict: Verdict, folder: str) -> dict[str, Any]:
    return {
        "passed": verdict.is_kept,
        "rounds": verdict.rounds,
        "seed": verdict.seed,
        "duration_sec": round(verdict.duration_s, 1),
        "kills": {one: verdict.damage.kills[one] for one in ("tick", "wrapper", "command")},
        "corruptions": {
            one: verdict.damage.corruptions[one] for one in ("lease", "result", "memory")
        },
        "promises": [
            {
                "promise": words,
                "kept": not verdict.broken.get(words),
                "details": verdict.broken.get(words, []),
            }
            for words in PROMISES
        ],
        "base_path": None if verdict.is_kept else folder,
    }
