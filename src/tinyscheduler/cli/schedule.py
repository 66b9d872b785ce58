"""``schedule``: what recurs, and when."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from tinyscheduler.cli import add
from tinyscheduler.cli.edit import Class, Gpus, Priority
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.schedule_request import Request
from tinyscheduler.errors import UsageError
from tinyscheduler.model.schedules import CatchUp, Overlap, ScheduleKind


class Action(StrEnum):
    """What to do about schedules."""

    ADD = "add"
    LIST = "list"
    SHOW = "show"
    EDIT = "edit"
    CHECK = "check"
    APPLY = "apply"
    HISTORY = "history"
    PLAN = "plan"
    REMOVE = "rm"
    PAUSE = "pause"
    RESUME = "resume"
    RUN = "run"
    NEXT = "next"
    METRICS = "metrics"


_MOST_NEXT = 1000
_MOST_DAYS = 31
# The options that go with some actions; all the others say what a schedule is.
_DEFINES = frozenset({Action.ADD, Action.EDIT, Action.CHECK})
_TIMES = frozenset({"cron", "every", "at", "tz", "jitter", "active_hours"})
_GOES_WITH = {
    **dict.fromkeys(_TIMES, _DEFINES | {Action.NEXT}),
    "name": frozenset({Action.ADD, Action.CHECK}),
    "number": frozenset({Action.NEXT, Action.HISTORY}),
    "force": frozenset({Action.RUN}),
    **dict.fromkeys(("since", "as_csv", "advise"), frozenset({Action.METRICS})),
    "file": frozenset({Action.APPLY, Action.CHECK}),
    "prune": frozenset({Action.APPLY}),
    "days": frozenset({Action.PLAN}),
    "apply": frozenset({Action.PLAN}),
    "plot": frozenset({Action.PLAN}),
    "dry_run": frozenset({Action.APPLY}),
    "unset": frozenset({Action.EDIT}),
    "revision": frozenset({Action.EDIT}),
    "json": frozenset(Action),
}


def schedule(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID|COMMAND",
            help="The schedule; behind --, the command of each firing.",
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
        option("--tz", metavar="ZONE", help="Whose clock times are of, such as Europe/Warsaw."),
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
    catch_up_window: Annotated[
        str | None,
        option("--catch-up-window", metavar="DURATION", help="Of how old ones, at most; 1d."),
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
    kind: Annotated[
        ScheduleKind | None, option("--kind", help="What a firing is for.  [job]")
    ] = None,
    checklist: Annotated[
        str | None,
        option(
            "--checklist",
            metavar="FILE",
            help="Of a heartbeat: what is to be done; nothing fires while it asks for nothing.",
        ),
    ] = None,
    max_per_day: Annotated[
        int | None,
        option(
            "--max-per-day",
            parser=whole_number(least=1),
            metavar="N",
            help="Fire so often a day at most.",
        ),
    ] = None,
    number: Annotated[
        int | None,
        option(
            "-n",
            "--number",
            parser=whole_number(least=1, most=_MOST_NEXT),
            metavar="N",
            help="With next: so many times; 3. With history: so many firings; 20.",
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
    file: Annotated[
        str | None,
        option("-f", "--file", metavar="FILE", help="With apply and check: the schedules."),
    ] = None,
    prune: Annotated[
        bool, option("--prune", help="With apply: remove what the file declared before.")
    ] = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="With apply: show what would change.")
    ] = False,
    days: Annotated[
        int | None,
        option(
            "--days",
            parser=whole_number(least=1, most=_MOST_DAYS),
            metavar="N",
            help="With plan: so many days; 7.",
        ),
    ] = None,
    apply: Annotated[
        bool, option("--apply", help="With plan: make the shifts that it proposes.")
    ] = False,
    plot: Annotated[
        str | None,
        option("--plot", metavar="FILE", help="With plan: draw it as FILE.png or FILE.html."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        option("--unset", metavar="OPTION", help="With edit: take back what this option said."),
    ] = None,
    revision: Annotated[
        int | None,
        option(
            "--revision",
            parser=whole_number(least=0),
            metavar="N",
            help="With edit: refuse it if somebody edited it since.",
        ),
    ] = None,
    agent: add.Agent = None,
    queue: add.QueueName = None,
    title: add.Title = None,
    prompt: add.Prompt = None,
    prompt_file: add.PromptFile = None,
    recipe: add.Recipe = None,
    priority: Priority = None,
    priority_class: Class = None,
    gpus: Gpus = None,
    vram: add.Vram = None,
    memory: add.Memory = None,
    model: add.Model = None,
    seed: add.Seed = None,
    tenant: add.Tenant = None,
    project: add.Project = None,
    max_turns: add.MaxTurns = None,
    max_tokens: add.MaxTokens = None,
    max_cost: add.MaxCost = None,
    max_attempts: add.MaxAttempts = None,
    label: add.Label = None,
    cwd: add.Cwd = None,
    env: add.Env = None,
    json: add.Json = False,
) -> int:
    """Run a task on a clock: add, look, pause, run by hand.

    `add --name N` takes one of --cron, --every and --at, and the options of `tinyscheduler add`;
    `edit ID` changes what is given, and `check` only says what it would mean. `apply -f FILE` makes
    the schedules what a file says, all of it or nothing. Each firing is a task, tried once unless
    --max-attempts says otherwise. `next` shows the times to come, `history` what became of those
    that were, and `plan` how busy the days to come are, what collides, and the smallest shifts that
    take it apart. `run` fires one now, and ends with 75 where as many run as may. What failed three
    times in a row pauses itself; `resume` lets it go on. `metrics` tells how long firings waited
    and ran, and with --advise whether more may run at once.
    """
    asked = dict(locals())
    _refuse_strays(context, action)
    request = Request(
        invocation=context.obj,
        action=action,
        rest=tuple(rest or ()),
        values=asked,
        is_json=json,
    )
    return _doer(action)(request)


schedule.context_settings = {"allow_interspersed_args": True}  # type: ignore[attr-defined]  # read where the command is built


def _refuse_strays(context: typer.Context, action: Action) -> None:
    """Raise UsageError for an option that the action does not take: it would do nothing."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or parameter.param_type_name != "option":
            continue
        those = _GOES_WITH.get(name, _DEFINES)
        if action not in those:
            names = ", ".join(one for one in Action if one in those)
            raise UsageError(
                f"schedule {action} takes no {parameter.opts[-1]}: it goes with {names}",
                hint="leave it out",
            )
        if action is Action.NEXT and name in _TIMES and context.params["rest"]:
            raise UsageError(
                f"schedule next takes an ID or {parameter.opts[-1]}, not both",
                hint="leave one of them out",
            )


def _doer(action: Action) -> Callable[[Request], int]:
    from tinyscheduler.cli import schedule_apply as declared
    from tinyscheduler.cli import schedule_changes as changes
    from tinyscheduler.cli import schedule_definitions as definitions
    from tinyscheduler.cli import schedule_metrics as metrics
    from tinyscheduler.cli import schedule_plan as planner
    from tinyscheduler.cli import schedule_views as views

    doers: dict[Action, Callable[[Request], int]] = {
        Action.ADD: definitions.add,
        Action.EDIT: definitions.edit,
        Action.CHECK: definitions.check,
        Action.APPLY: declared.apply,
        Action.HISTORY: views.show_history,
        Action.PLAN: planner.plan,
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
