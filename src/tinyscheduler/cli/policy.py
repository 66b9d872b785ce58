"""``policy``: which policy decides, what the built-in one says, and whether yours could rule."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli import policy_versions
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import pairs, whole_number
from tinyscheduler.cli.policy_checked import checked_json, checked_lines
from tinyscheduler.cli.policy_forecast import ForecastOptions
from tinyscheduler.cli.render import emit, emit_json, escape
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, UsageError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.app.policies import Outlook
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import PolicyRecord


class Action(StrEnum):
    """What to do about policies."""

    SHOW = "show"
    SOURCE = "source"
    CHECK = "check"
    COMPILE = "compile"
    TEST = "test"
    SIMULATE = "simulate"
    DIFF = "diff"
    TEMPLATES = "templates"
    TRACE = "trace"
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    VERSIONS = "versions"


# Which of them need a FILE, and which may be told something: the number of a version, or the
# name of a template.
_OF_FILES = frozenset(
    {
        Action.CHECK,
        Action.COMPILE,
        Action.TEST,
        Action.SIMULATE,
        Action.DIFF,
        Action.DEPLOY,
    }
)
_OF_NAMES = frozenset({Action.SHOW, Action.ROLLBACK, Action.TEMPLATES})
_MOST_TICKS = 100_000
_MOST_DEPTH, _MOST_POOLS, _MOST_WORKERS, _MOST_SEED = 1000, 64, 64, 2**63 - 1
# Who plays a load.
_FORECASTS = frozenset({Action.SIMULATE, Action.DIFF, Action.DEPLOY})


def policy(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|V|NAME",
            help="A policy, for check, compile, test and deploy; a version, for show and rollback;"
            " a template.",
            show_default=False,
        ),
    ] = None,
    fixture: Annotated[
        str | None,
        option(
            "--fixture",
            metavar="F",
            help="For test: the cases, instead of FILE's .test.yaml. Else: play one of them.",
        ),
    ] = None,
    case: Annotated[
        str | None, option("--case", metavar="NAME", help="Of --fixture: the case to play.")
    ] = None,
    since: Annotated[
        str | None,
        option("--since", metavar="TIME", help="Play what has ended since then; for diff, 7d."),
    ] = None,
    snapshot: Annotated[
        str | None,
        option("--snapshot", metavar="FILE", help="Play what runs and waits there; - for stdin."),
    ] = None,
    queue_depth: Annotated[
        int | None,
        option(
            "--queue-depth",
            parser=whole_number(least=1, most=_MOST_DEPTH),
            metavar="N",
            help="Play made-up tasks, so many at once and nine times as many later.",
        ),
    ] = None,
    pools: Annotated[
        int | None,
        option(
            "--pools",
            parser=whole_number(least=1, most=_MOST_POOLS),
            metavar="N",
            help="On a made-up machine: so many pools, a GPU each.",
        ),
    ] = None,
    workers_per_pool: Annotated[
        int | None,
        option(
            "--workers-per-pool",
            parser=whole_number(least=1, most=_MOST_WORKERS),
            metavar="N",
            help="On a made-up machine: so many slots a pool.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        option(
            "--seed",
            parser=whole_number(least=1, most=_MOST_SEED),
            metavar="N",
            help="Of what is made up or drawn; 1.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        option(
            "--against",
            metavar="FILE|V",
            help="Compare with that instead of the active one; or with platform.",
        ),
    ] = None,
    gate: Annotated[
        bool,
        option("--gate", help="End with 1, and deploy nothing, if a figure is worse than allowed."),
    ] = False,
    bound: Annotated[
        list[str] | None,
        option("--bound", metavar="FIGURE=PCT", help="How much worse a figure may be."),
    ] = None,
    plot: Annotated[
        str | None,
        option("--plot", metavar="FILE", help="Draw it as well: FILE.png or FILE.html."),
    ] = None,
    limit: Annotated[
        int | None,
        option(
            "--limit",
            parser=whole_number(least=1, most=_MOST_TICKS),
            metavar="N",
            help="For trace: at most so many ticks, the newest; 20.",
        ),
    ] = None,
    force: Annotated[
        bool, option("--force", help="With deploy: in spite of warnings, never of errors.")
    ] = False,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show, check, try or deploy a policy, or go back.

    `show` says who decides and how that went of late; `show V` prints a version. `source` prints
    the platform policy, to start from. `check FILE` loads a policy as a tick would, asks it about
    a few worlds, one of them with a thousand tasks, and ends with 1 if it could not rule.
    `compile FILE` prints the Lua that a policy in YAML becomes. `test FILE` asks it about the
    cases of its fixtures, the file FILE.test.yaml beside it, and ends with 1 if one fails.
    `simulate FILE` plays a load under it in simulated time, made up unless --since, --snapshot or
    --fixture says which, and tells how long tasks waited. `diff FILE` plays the last seven days
    under it and under the active one, and tells what gets worse and what starts when.
    `templates` lists policies to start from, `templates NAME` prints one, and
    `templates NAME.test.yaml` its fixtures. `deploy FILE` checks it, keeps a copy, and lets that
    decide from the next tick on, unless POLICY_FILE is set or POLICY_MODE is platform.
    `rollback` goes back to the version before, `rollback V` to that one. `versions` lists the
    last twenty. `trace` shows what the policy said in recent ticks.
    """
    asked = _Asked(
        invocation=context.obj,
        action=action,
        file=file,
        fixture=fixture,
        limit=limit,
        is_forced=force,
        is_json=json,
        forecast=ForecastOptions(
            since=since,
            snapshot=snapshot,
            fixture=None if action is Action.TEST else fixture,
            case=case,
            queue_depth=queue_depth,
            pools=pools,
            workers_per_pool=workers_per_pool,
            seed=seed,
            against=against,
            plot=plot,
            bounds=pairs("--bound", bound, example="wait_p95=10%"),
            is_gate=gate,
        ),
    )
    _refuse_arguments(asked)
    return _DOERS[action](asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line says."""

    invocation: Invocation
    action: Action
    file: str | None
    fixture: str | None
    limit: int | None
    is_forced: bool
    is_json: bool
    forecast: ForecastOptions


def _refuse_arguments(asked: _Asked) -> None:
    """Raise UsageError for an argument or an option that the action does not take."""
    action, file = asked.action, asked.file
    hint = f"`tinyscheduler policy {action}" + (" FILE`" if action in _OF_FILES else "`")
    if file is None and action in _OF_FILES:
        raise UsageError(f"policy {action} needs a FILE", hint=hint)
    if file is not None and action not in _OF_FILES | _OF_NAMES:
        raise UsageError(f"policy {action} takes no FILE and no version", hint=hint)
    for option_name, is_given, those in _options(asked):
        if is_given and action not in those:
            names = " and ".join(one for one in Action if one in those)
            raise UsageError(f"{option_name} goes with {names}", hint="leave it out")
    if action is Action.DEPLOY and not asked.forecast.is_gate:
        given = [
            name for name, is_given, those in _options(asked) if is_given and those == _FORECASTS
        ]
        if given:
            raise UsageError(f"{given[0]} goes with --gate, here", hint="add --gate")


def _options(asked: _Asked) -> list[tuple[str, bool, frozenset[Action]]]:
    """Return each option that few actions take, whether it was given, and these."""
    forecast = asked.forecast
    differing = frozenset({Action.DIFF, Action.DEPLOY})
    drawing = frozenset({Action.SIMULATE, Action.DIFF})
    return [
        ("--force", asked.is_forced, frozenset({Action.DEPLOY})),
        ("--fixture", asked.fixture is not None, _FORECASTS | {Action.TEST}),
        ("--limit", asked.limit is not None, frozenset({Action.TRACE})),
        ("--since", forecast.since is not None, _FORECASTS),
        ("--snapshot", forecast.snapshot is not None, _FORECASTS),
        ("--case", forecast.case is not None, _FORECASTS),
        ("--queue-depth", forecast.queue_depth is not None, _FORECASTS),
        ("--pools", forecast.pools is not None, _FORECASTS),
        ("--workers-per-pool", forecast.workers_per_pool is not None, _FORECASTS),
        ("--seed", forecast.seed is not None, _FORECASTS),
        ("--against", forecast.against is not None, differing),
        ("--bound", bool(forecast.bounds), differing),
        ("--gate", forecast.is_gate, differing),
        ("--plot", forecast.plot is not None, drawing),
    ]


def _test(asked: _Asked) -> int:
    from tinyscheduler.cli.policy_test import test_policy

    return test_policy(
        asked.invocation, str(asked.file), fixture=asked.fixture, is_json=asked.is_json
    )


def _simulate(asked: _Asked) -> int:
    from tinyscheduler.cli.policy_forecast import simulate

    return simulate(asked.invocation, str(asked.file), asked.forecast, is_json=asked.is_json)


def _diff(asked: _Asked) -> int:
    from tinyscheduler.cli.policy_forecast import diff

    return diff(asked.invocation, str(asked.file), asked.forecast, is_json=asked.is_json)


def _show_templates(asked: _Asked) -> int:
    from tinyscheduler.cli.policy_templates import list_templates, print_template

    if asked.file is None:
        return list_templates(asked.invocation, is_json=asked.is_json)
    return print_template(asked.file, is_json=asked.is_json)


def _trace(asked: _Asked) -> int:
    from tinyscheduler.cli.policy_trace import show_trace

    return show_trace(asked.invocation, limit=asked.limit, is_json=asked.is_json)


def _show(asked: _Asked) -> int:
    if asked.file is not None:
        return policy_versions.show_version(asked.invocation, asked.file, is_json=asked.is_json)
    return _show_active(asked.invocation.configure_reading(), is_json=asked.is_json)


def _deploy(asked: _Asked) -> int:
    return policy_versions.deploy(
        asked.invocation,
        str(asked.file),
        is_forced=asked.is_forced,
        gate=asked.forecast if asked.forecast.is_gate else None,
        is_json=asked.is_json,
    )


def _roll_back(asked: _Asked) -> int:
    return policy_versions.roll_back(asked.invocation, asked.file, is_json=asked.is_json)


def _list_versions(asked: _Asked) -> int:
    return policy_versions.list_versions(asked.invocation, is_json=asked.is_json)


def _show_active(config: Config, *, is_json: bool) -> int:
    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.app.policies import look_out

    deployed = FilePolicies(config.paths).active()
    found = look_out(config)
    own = found.own
    name = "platform" if own is None else own.name
    if is_json:
        emit_json(
            name=name,
            mode=config.policy.mode,
            file=None if own is None else own.path,
            version=None if own is None or found.fault is not None else own.version,
            decides=found.decides,
            fault=found.fault,
            deployed=policy_versions.deployed_json(deployed),
            **_record_json(found.record),
        )
        return EXIT_DONE
    emit(f"mode:     {config.policy.mode}")
    emit(f"policy:   {escape(name)}")
    if own is not None:
        emit(f"file:     {escape(own.path)}")
        if found.fault is None:
            emit(f"version:  {own.version}")
        for line in _state_lines(found):
            emit(escape(line))
    if deployed is not None:
        emit(policy_versions.deployed_line(deployed))
    return EXIT_DONE


def _record_json(record: PolicyRecord | None) -> dict[str, Any]:
    return {
        "failed_in_a_row": 0 if record is None else record.failed,
        "is_given_up": record is not None and record.is_given_up,
        "cause": None if record is None else record.cause,
        "words": None if record is None else record.words,
        "scheduler_error_total": 0 if record is None else record.errors,
        "scheduler_timeout_total": 0 if record is None else record.timeouts,
    }


def _state_lines(found: Outlook) -> list[str]:
    record = found.record
    if found.fault is not None:
        return [
            f"state:    it cannot be loaded, and {found.who} decides",
            f"because:  {found.fault}",
        ]
    if record is None:
        return ["state:    no tick has asked it yet"]
    if not record.failed:
        return ["state:    it answered when it was last asked"]
    times = "once" if record.failed == 1 else f"{record.failed} times in a row"
    who = found.who if record.is_unloadable else "the platform policy"
    then = "; it is asked again once it is changed" if record.is_given_up else ""
    return [
        f"state:    it failed {times}, and {who} decided{then}",
        f"because:  {record.words or ''}",
    ]


def _print_source(asked: _Asked) -> int:
    from tinyscheduler.policy.sources import read_platform

    source = read_platform().decode()
    if asked.is_json:
        emit_json(name="platform", source=source)
    else:
        emit(source.rstrip("\n"))
    return EXIT_DONE


def _compile(asked: _Asked) -> int:
    from tinyscheduler.app.policies import compile_file

    config = asked.invocation.configure_reading()
    compiled = compile_file(config, str(asked.file))
    if asked.is_json:
        emit_json(
            name=compiled.name,
            version=compiled.version,
            lua=compiled.lua,
            map=[
                {"lua_line": one.lua_line, "rule": one.rule, "line": one.line}
                for one in compiled.origins
            ],
        )
    else:
        emit(compiled.lua.rstrip("\n"))
    return EXIT_DONE


def _check(asked: _Asked) -> int:
    from tinyscheduler.app.policies import check_policy

    config = asked.invocation.configure_reading()
    checked = check_policy(config, str(asked.file))
    if asked.is_json:
        emit_json(**checked_json(checked))
    else:
        for line in checked_lines(checked):
            emit(line)
    return EXIT_DONE if checked.is_usable else EXIT_FAILED


_DOERS: dict[Action, Callable[[_Asked], int]] = {
    Action.SHOW: _show,
    Action.SOURCE: _print_source,
    Action.CHECK: _check,
    Action.COMPILE: _compile,
    Action.TEST: _test,
    Action.SIMULATE: _simulate,
    Action.DIFF: _diff,
    Action.TEMPLATES: _show_templates,
    Action.TRACE: _trace,
    Action.DEPLOY: _deploy,
    Action.ROLLBACK: _roll_back,
    Action.VERSIONS: _list_versions,
}
