"""``config`` and ``validate-config``: what is configured, by whom, and is it sound?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import Ink, count, emit, emit_json, escape, format_table
from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE

if TYPE_CHECKING:
    from tinyscheduler.config.problems import Problem


def show_settings(
    context: typer.Context,
    *,
    show: Annotated[bool, typer.Option("--show", help="Show all settings; the default.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show every setting and where it came from."""
    del show  # there is nothing else this command could do
    invocation: Invocation = context.obj
    from tinyscheduler.config.show import show_config

    shown = show_config(invocation.overrides, os.environ)
    for warning in shown.warnings:
        invocation.warn(warning)
    if json:
        emit_json(
            env_file=shown.env_file,
            settings=[
                {
                    "name": row.name,
                    "variable": row.variable,
                    "value": row.value,
                    "origin": row.origin,
                }
                for row in shown.settings
            ],
            agents=[
                {
                    "name": agent.name,
                    "queue": agent.queue,
                    "limit": agent.limit,
                    "origin": agent.origin,
                }
                for agent in shown.agents
            ],
            warnings=list(shown.warnings),
        )
        return EXIT_DONE
    page = invocation.page
    settings = [[row.name, row.origin, row.text] for row in shown.settings]
    agents = [[agent.name, agent.queue, str(agent.limit), agent.origin] for agent in shown.agents]
    lines = [
        *format_table(["SETTING", "FROM", "VALUE"], settings, page),
        "",
        *format_table(["AGENT", "QUEUE", "LIMIT", "FROM"], agents, page),
    ]
    if shown.env_file is not None:
        lines += ["", f".env file: {escape(shown.env_file)}"]
    emit("\n".join(lines))
    return EXIT_DONE


def validate(
    context: typer.Context,
    *,
    fix: Annotated[
        bool, typer.Option("--fix", help="Make missing folders and a missing agents file.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Check the whole configuration.

    Ends with 0 if it is sound, with 4 if something must be fixed.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.config.validate import fix_config, validate_config

    done: tuple[str, ...] = ()
    if fix:
        fixed = fix_config(invocation.overrides, os.environ)
        done, report = fixed.done, fixed.report
    else:
        report = validate_config(invocation.overrides, os.environ)
    if json:
        emit_json(
            valid=not report.errors,
            fixed=list(done),
            errors=[problem_json(one) for one in report.errors],
            warnings=[problem_json(one) for one in report.warnings],
        )
        return EXIT_CONFIG if report.errors else EXIT_DONE
    page = invocation.page
    lines = [escape(one) for one in done]
    for label, ink, problems in (
        ("error:", Ink.RED, report.errors),
        ("warning:", Ink.YELLOW, report.warnings),
    ):
        for problem in problems:
            lines += [f"{page.paint(label, ink)} {escape(problem.sentence)}"]
            lines += [f"  fix: {escape(invocation.as_typed(problem.fix))}"] if problem.fix else []
    verdict = "the configuration is sound"
    if report.errors:
        verdict = f"{count(len(report.errors), 'error')} to fix"
    if report.warnings:
        verdict += f", {count(len(report.warnings), 'warning')}"
    emit("\n".join([*lines, verdict]))
    return EXIT_CONFIG if report.errors else EXIT_DONE


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return one problem: where, what value, why, and how to fix it."""
    return {
        "setting": problem.setting,
        "value": problem.value,
        "message": problem.message,
        "fix": problem.fix,
    }
