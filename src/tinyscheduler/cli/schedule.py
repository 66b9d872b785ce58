"""``schedule``: what recurs, and when."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from tinyscheduler.cli import add
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.schedule_request import Request
from tinyscheduler.model.schedules import CatchUp, Overlap
from tinyscheduler.model.tasks import PriorityClass


class Action(StrEnum):
    """What to do about schedules."""

    ADD = "add"
    LIST = "list"
    SHOW = "show"
    REMOVE = "rm"
    PAUSE = "pause"
    RESUME = "resume"
    RUN = "run"
    NEXT = "next"
    METRICS = "metrics"


_MOST_NEXT = 1000


def schedule(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID|COMMAND",
            help="The schedule; for add, behind --, the command of each firing.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, option("--name", metavar="ID", help="For add: what it is called.")
    ] = None,
    cron: Annotated[
        str | None, option("--cron", metavar="EXPR", help="When: five fields, or @daily.")
    ] = None,
    every: Annotated[
        str | None, option("--every", metavar="DURATION", help="When: each 5m, 2h or 1d.")
    ] = None,
    at: Annotated[
        str | None, option("--at", metavar="TIME", help="When: once, ISO 8601 or from now.")
    ] = None,
    tz: Annotated[
        str | None,
        option("--tz", metavar="ZONE", help="Whose clock --cron means, such as Europe/Warsaw."),
    ] = None,
    jitter: Annotated[
        str | None,
        option("--jitter", metavar="DURATION", help="Fire up to so much later, always the same."),
    ] = None,
    active_hours: Annotated[
        str | None,
        option("--active-hours", metavar="HH:MM-HH:MM", help="Fire between these times only."),
    ] = None,
    overlap: Annotated[
        Overlap | None, option("--overlap", help="While an earlier firing lives.  [skip]")
    ] = None,
    catch_up: Annotated[
        CatchUp | None, option("--catch-up", help="What of missed times fires.  [latest]")
    ] = None,
    max_firings: Annotated[
        int | None,
        option(
            "--max-firings",
            parser=whole_number(least=1),
            metavar="N",
            help="Fire so often at most.",
        ),
    ] = None,
    expires: Annotated[
        str | None, option("--expires", metavar="TIME", help="Fire nothing from then on.")
    ] = None,
    max_run_duration: Annotated[
        str | None,
        option("--max-run-duration", metavar="DURATION", help="End a firing after that; 20m."),
    ] = None,
    number: Annotated[
        int | None,
        option(
            "-n",
            "--number",
            parser=whole_number(least=1, most=_MOST_NEXT),
            metavar="N",
            help="With next: so many times; 3.",
        ),
    ] = None,
    force: Annotated[
        bool, option("--force", help="With run: beyond SCHEDULE_MAX_CONCURRENT.")
    ] = False,
    since: Annotated[
        str | None,
        option("--since", metavar="TIME", help="With metrics: fired since then, or so long ago."),
    ] = None,
    as_csv: Annotated[
        bool, option("--csv", help="With metrics: print each firing, comma-separated.")
    ] = False,
    advise: Annotated[
        bool, option("--advise", help="With metrics: say whether more may run at once.")
    ] = False,
    agent: add.Agent = None,
    queue: add.QueueName = None,
    title: add.Title = None,
    prompt: add.Prompt = None,
    prompt_file: add.PromptFile = None,
    recipe: add.Recipe = None,
    priority: add.Priority = 0,
    priority_class: add.Class = PriorityClass.BATCH,
    gpus: add.Gpus = 0,
    vram: add.Vram = None,
    memory: add.Memory = None,
    model: add.Model = None,
    seed: add.Seed = None,
    tenant: add.Tenant = None,
    project: add.Project = None,
    max_turns: add.MaxTurns = None,
    max_attempts: add.MaxAttempts = None,
    label: add.Label = None,
    cwd: add.Cwd = None,
    env: add.Env = None,
    json: add.Json = False,
) -> int:
    """Run a task on a clock: add, look, pause, run by hand.

    `add --name N` takes one of --cron, --every and --at, and the options of `tinyscheduler add`.
    Each firing is a task, tried once unless --max-attempts says otherwise. `next` shows the times
    to come, of a schedule or of --cron and its like. `run` fires one now, and ends with 75 where
    as many run as may. What failed three times in a row pauses itself; `resume` lets it go on.
    `metrics` tells how long firings waited and ran, and with --advise whether more may run at once.
    """
    asked = dict(locals())
    request = Request(
        invocation=context.obj,
        action=action,
        rest=tuple(rest or ()),
        values=asked,
        is_json=json,
    )
    return _doer(action)(request)


schedule.context_settings = {"allow_interspersed_args": True}  # type: ignore[attr-defined]  # read where the command is built


def _doer(action: Action) -> Callable[[Request], int]:
    from tinyscheduler.cli import schedule_changes as changes
    from tinyscheduler.cli import schedule_definitions as definitions
    from tinyscheduler.cli import schedule_metrics as metrics
    from tinyscheduler.cli import schedule_views as views

    doers: dict[Action, Callable[[Request], int]] = {
        Action.ADD: definitions.add,
        Action.LIST: views.show_all,
        Action.SHOW: views.show_one,
        Action.REMOVE: changes.remove,
        Action.PAUSE: changes.pause,
        Action.RESUME: changes.resume,
        Action.RUN: changes.run,
        Action.NEXT: views.show_next,
        Action.METRICS: metrics.show_metrics,
    }
    return doers[action]
