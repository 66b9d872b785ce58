"""``doctor``: is everything here fit to run tasks, and what mends what is not?"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from tinyscheduler.cli.finding import Finding, Verdict, fail, ok, warn
from tinyscheduler.cli.invocation import NORMAL, QUIET, Invocation
from tinyscheduler.cli.render import Ink, count, emit, emit_json, escape
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, TinySchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tinyscheduler.config.problems import Problem
    from tinyscheduler.model.config import Config

_INKS = {Verdict.OK: Ink.GREEN, Verdict.WARN: Ink.YELLOW, Verdict.FAIL: Ink.RED}


def doctor(
    context: typer.Context,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Check this machine and this base path.

    Changes nothing.  Ends with 1 if anything must be mended before tasks run, else with
    0; `tinyscheduler -q doctor` shows only what is not as it should be.
    """
    invocation: Invocation = context.obj
    findings = list(examine(invocation))
    counts = Counter(one.verdict for one in findings)
    if json:
        emit_json(
            checks=[
                {
                    "check": one.check,
                    "verdict": one.verdict.value,
                    "what": one.what,
                    "where": one.where,
                    "fix": one.fix,
                }
                for one in findings
            ],
            ok=counts[Verdict.OK],
            warnings=counts[Verdict.WARN],
            failures=counts[Verdict.FAIL],
        )
    else:
        emit("\n".join([*_lines(findings, invocation), _summary(counts)]))
    return EXIT_FAILED if counts[Verdict.FAIL] else EXIT_DONE


def examine(invocation: Invocation) -> Iterator[Finding]:
    """Look at everything; what cannot even be looked at is a finding too."""
    from tinyscheduler.cli import doctor_machine

    yield from _look_at_settings(invocation)
    yield from doctor_machine.look_at_programs()
    yield from _guarded("proc", doctor_machine.look_at_proc)
    yield from _guarded("control groups", doctor_machine.look_at_groups)
    yield from _guarded("sandbox", doctor_machine.look_at_sandbox)
    try:
        # Warnings of the configuration are findings here, already told.
        config = _configuration(invocation)
    except TinySchedulerError:
        fix = "mend the settings, then come back"
        yield fail("state", "was not looked at: the settings cannot be used", fix=fix)
        return
    for name, look in _checks_of(config, invocation):
        yield from _guarded(name, look)


def _checks_of(
    config: Config, invocation: Invocation
) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    from tinyscheduler.adapters.clock_system import SystemClock
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue
    from tinyscheduler.cli import doctor_machine, doctor_state
    from tinyscheduler.cli.service import find_installation
    from tinyscheduler.cli.service_texts import Scope

    now = SystemClock().now()
    installation = find_installation(invocation, config, kind=None, scope=Scope.USER)

    def leases() -> Iterator[Finding]:
        # Opened only here: the state of somebody else is refused, which is a finding too.
        return doctor_state.look_at_leases(open_queue(config, Access.READ), now)

    return [
        ("sources", partial(doctor_state.look_at_sources, config)),
        ("folders", partial(doctor_state.look_at_folders, config)),
        ("filesystem", partial(doctor_state.look_at_disk, config)),
        ("clocks", partial(doctor_machine.look_at_clocks, config, now)),
        ("database", partial(doctor_state.look_at_database, config)),
        ("tick lock", partial(doctor_state.look_at_tick_lock, config, now)),
        ("leases", leases),
        ("policy", partial(doctor_state.look_at_policy, config)),
        ("gpus", partial(doctor_machine.look_at_gpus, config)),
        ("ticks", partial(doctor_machine.look_at_clockwork, config, installation, now)),
    ]


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except OSError as error:
        what = f"cannot be looked at: {error.strerror or error}"
        yield fail(name, what, where=error.filename, fix="make it readable for you")
    except TinySchedulerError as error:
        yield fail(name, error.what, fix=error.hint or "see docs/guides/troubleshooting.md")


def _configuration(invocation: Invocation) -> Config:
    from tinyscheduler.config.load import load_beside_agents

    # Where the state is does not depend on the agents.
    return load_beside_agents(invocation.overrides, write_cache=False)


def _look_at_settings(invocation: Invocation) -> Iterator[Finding]:
    """Judge settings and agents as ``validate-config`` does."""
    from tinyscheduler.config.validate import validate_config

    report = validate_config(invocation.overrides, os.environ)
    found = False
    for problem in report.errors:
        found = True
        check, where = _place_of(problem)
        if problem.message.endswith(" does not exist") and check == "settings":
            what = f"{problem.message} yet; the first tick makes it"
            yield warn(check, what, where=where, fix="tinyscheduler validate-config --fix")
        else:
            yield fail(check, problem.message, where=where, fix=problem.fix)
    for problem in report.warnings:
        found = True
        check, where = _place_of(problem)
        fix = problem.fix or "tinyscheduler validate-config"
        yield warn(check, problem.message, where=where, fix=fix)
    if not found:
        yield ok("settings", "sound; every agent's program is there")


def _place_of(problem: Problem) -> tuple[str, str]:
    if problem.setting == "TINYSCHEDULER_SOURCES":
        return "sources", problem.setting
    is_agent = problem.setting.startswith("agent ")
    return ("agents" if is_agent else "settings"), problem.setting


def _lines(findings: list[Finding], invocation: Invocation) -> Iterator[str]:
    page = invocation.page
    for one in findings:
        if one.verdict is Verdict.OK and invocation.verbosity <= QUIET:
            continue
        label = page.paint(f"{one.verdict:<4}", _INKS[one.verdict])
        shows_place = one.verdict is not Verdict.OK or invocation.verbosity > NORMAL
        place = f" [{one.where}]" if one.where and shows_place else ""
        yield f"{label}  {escape(one.check)}: {escape(one.what + place)}"
        if one.fix:
            yield f"      fix: {escape(invocation.as_typed(one.fix))}"


def _summary(counts: Counter[Verdict]) -> str:
    return (
        f"{counts[Verdict.OK]} ok, {count(counts[Verdict.WARN], 'warning')},"
        f" {count(counts[Verdict.FAIL], 'failure')}"
    )
