"""``demo``: does it keep its promises?  Real ticks and wrappers on a stage of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tinyscheduler.cli.demo_stage import AGENT_LIMITS, CAST, Happening, Stage
from tinyscheduler.cli.demo_verdict import Check, judge
from tinyscheduler.cli.demo_views import View, open_view
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import Ink, Page, count, emit, emit_json, escape, program_here
from tinyscheduler.cli.scratch import heeding_signals, scratch_folder
from tinyscheduler.cli.standing import brief_json
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED

LONGEST_S = 60.0


def demo(
    context: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print only one JSON document, at the end.")
    ] = False,
) -> int:
    """Show everything in ten seconds.

    Sample tasks, real ticks, a killed wrapper, and a verdict.
    """
    invocation: Invocation = context.obj
    if invocation.base_path or invocation.env_file:
        invocation.note("the demo has a base path and settings of its own; yours are not used")
    with heeding_signals(), scratch_folder(invocation, "demo") as scratch:
        scratch.is_kept = keep
        base = scratch.path
        stage = Stage(base, CAST)
        try:
            with open_view(invocation, is_silent=json) as view:
                view.say(*_opening(stage))
                play(stage, view)
        except BaseException:
            # Interrupted, or its reader went away: what was started must not run on.
            invocation.note("winding up: what runs is cancelled")
            stage.wind_up()
            raise
        checks = judge(stage)
        is_passed = all(check.is_kept for check in checks)
        if not is_passed:
            stage.wind_up()
        if json:
            emit_json(**_document(stage, checks, kept=keep))
        else:
            emit("\n".join(_closing(stage, checks, page=invocation.page, kept=keep)))
    return EXIT_DONE if is_passed else EXIT_FAILED


def play(stage: Stage, view: View, *, longest_s: float = LONGEST_S) -> None:
    """Tick, act and show until all is over, or so many seconds have passed."""
    while stage.now_s < longest_s:
        standings = stage.standings()
        # At the end no more, or on a slow machine the ticks themselves would never end.
        if stage.needs_tick(standings):
            stage.tick_if_due()
        view.say(*sorted(stage.happenings(), key=lambda one: one.at_s))
        view.say(*stage.act(standings))
        view.show(stage, standings)
        if stage.is_over(standings):
            return
        stage.pause()


def _opening(stage: Stage) -> list[Happening]:
    limits = ", ".join(f"{name} {limit}" for name, limit in AGENT_LIMITS.items())
    return [
        Happening(at_s=0, words=words, is_turn=True)
        for words in (
            f"{count(len(stage.cast), 'task')} queued in {stage.base}",
            f"slots: {limits}; a tick every second",
        )
    ]


def _closing(stage: Stage, checks: Sequence[Check], *, page: Page, kept: bool) -> list[str]:
    lines = [""]
    for check in checks:
        mark = page.paint("ok", Ink.GREEN) if check.is_kept else page.paint("BROKEN", Ink.RED)
        lines.append(f"{mark}  {escape(check.words)}")
    broken = sum(not check.is_kept for check in checks)
    verdict = f"{count(broken, 'promise')} broken" if broken else "every promise kept"
    took = f"{stage.now_s:.1f} s, {count(stage.ticks, 'regular tick')}"
    program = program_here()
    lines += ["", page.paint(f"{verdict} ({took})", Ink.BOLD), ""]
    if kept:
        look = f"{program} --base-path {stage.base}"
        lines += [f"Look around: {look} list", ""]
    lines += [
        "Try next:",
        f"  {program} add -- sh -c 'echo hi'   queue a command; it prints the id",
        f"  {program} run                      one tick: start what may start",
        f"  {program} logs 1                   what task 1 printed",
        f"  {program} --help                   everything else",
    ]
    return lines


def _document(stage: Stage, checks: Sequence[Check], *, kept: bool) -> dict[str, Any]:
    return {
        "passed": all(check.is_kept for check in checks),
        "checks": [{"passed": check.is_kept, "message": check.words} for check in checks],
        "duration_sec": round(stage.now_s, 1),
        "ticks": stage.ticks,
        "base_path": stage.base if kept else None,
        "tasks": [brief_json(one) for one in stage.standings()],
    }
