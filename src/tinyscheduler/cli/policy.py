"""``policy``: which policy decides, what the built-in one says, and whether yours could rule."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, assert_never

import typer

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import emit, emit_json, escape
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from tinyscheduler.app.policies import Checked
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import PolicyRecord


class Action(StrEnum):
    """What to do about policies."""

    SHOW = "show"
    SOURCE = "source"
    CHECK = "check"
    TEST = "test"
    TEMPLATES = "templates"
    TRACE = "trace"


_WITH_FILE = frozenset({Action.CHECK, Action.TEST})
_WITHOUT_FILE = frozenset({Action.SHOW, Action.SOURCE, Action.TRACE})
_MOST_TICKS = 100_000


def policy(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="A policy, for check and test; the NAME of a template.",
            show_default=False,
        ),
    ] = None,
    fixture: Annotated[
        str | None,
        option("--fixture", metavar="F", help="For test: the cases, instead of FILE's .test.yaml."),
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
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show which policy decides, or check one of yours.

    `show` says who decides and how that went of late. `source` prints the platform policy, to
    start from. `check FILE` loads a policy as a tick would, asks it about a few worlds, one of
    them with a thousand tasks, and ends with 1 if it could not rule. `test FILE` asks it about
    the cases of its fixtures, the file FILE.test.yaml beside it, and ends with 1 if one fails.
    `templates` lists policies to start from, `templates NAME` prints one, and
    `templates NAME.test.yaml` its fixtures. `trace` shows what the policy said in recent ticks.
    """
    invocation: Invocation = context.obj
    _refuse_misuse(action, file, fixture=fixture, limit=limit)
    match action:
        case Action.SHOW:
            return _show(invocation.configure_reading(), is_json=json)
        case Action.SOURCE:
            return _print_source(is_json=json)
        case Action.CHECK:
            return _check(invocation.configure_reading(), str(file), is_json=json)
        case Action.TEST:
            from tinyscheduler.cli.policy_test import test_policy

            return test_policy(invocation, str(file), fixture=fixture, is_json=json)
        case Action.TEMPLATES:
            from tinyscheduler.cli.policy_templates import list_templates, print_template

            if file is None:
                return list_templates(invocation, is_json=json)
            return print_template(file, is_json=json)
        case Action.TRACE:
            from tinyscheduler.cli.policy_trace import show_trace

            return show_trace(invocation, limit=limit, is_json=json)
        case _:
            assert_never(action)


def _refuse_misuse(
    action: Action, file: str | None, *, fixture: str | None, limit: int | None
) -> None:
    if action in (_WITH_FILE if file is None else _WITHOUT_FILE):
        wanted = "needs a FILE" if file is None else "takes no FILE"
        raise UsageError(
            f"policy {action} {wanted}", hint="as in `tinyscheduler policy check FILE`"
        )
    if fixture is not None and action is not Action.TEST:
        raise UsageError("--fixture goes with test", hint="leave it out")
    if limit is not None and action is not Action.TRACE:
        raise UsageError("--limit goes with trace", hint="leave it out")


def _show(config: Config, *, is_json: bool) -> int:
    from tinyscheduler.app.policies import own_policy, recorded

    own = own_policy(config)
    record: PolicyRecord | None = recorded(config)
    name = "platform" if own is None else own.name
    if own is None or record is None or record.version != own.version:
        record = None
    if is_json:
        emit_json(
            name=name,
            mode=config.policy.mode,
            file=None if own is None else config.policy.path,
            version=None if own is None else own.version,
            **_record_json(record),
        )
        return EXIT_DONE
    emit(f"mode:     {config.policy.mode}")
    emit(f"policy:   {escape(name)}")
    if own is not None:
        emit(f"file:     {escape(str(config.policy.path))}")
        emit(f"version:  {own.version}")
        for line in _record_lines(record):
            emit(line)
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


def _record_lines(record: PolicyRecord | None) -> list[str]:
    if record is None:
        return ["state:    no tick has asked it yet"]
    if not record.failed:
        return ["state:    it answered when it was last asked"]
    times = "once" if record.failed == 1 else f"{record.failed} times in a row"
    then = "; it is asked again once it is changed" if record.is_given_up else ""
    return [
        f"state:    it failed {times}, and the platform policy decided{then}",
        f"because:  {escape(record.words or '')}",
    ]


def _print_source(*, is_json: bool) -> int:
    from tinyscheduler.policy.sources import read_platform

    source = read_platform().decode()
    if is_json:
        emit_json(name="platform", source=source)
    else:
        emit(source.rstrip("\n"))
    return EXIT_DONE


def _check(config: Config, file: str, *, is_json: bool) -> int:
    from tinyscheduler.app.policies import check_policy

    checked = check_policy(config, file)
    if is_json:
        emit_json(**_checked_json(checked))
    else:
        for one in checked.findings:
            where = f" (asked about {', '.join(one.contexts)})" if one.contexts else ""
            emit(f"{one.severity}: {escape(one.words)}{where}")
        for level, text in checked.log:
            emit(f"log {level}: {escape(text)}")
        if checked.is_usable:
            took = f"at most {checked.slowest_ms:.0f} ms" if checked.slowest_ms is not None else ""
            emit(f"{escape(checked.name)} can rule: {took} a question")
    return EXIT_DONE if checked.is_usable else EXIT_FAILED


def _checked_json(checked: Checked) -> dict[str, Any]:
    return {
        "name": checked.name,
        "version": checked.version,
        "is_usable": checked.is_usable,
        "slowest_ms": checked.slowest_ms,
        "findings": [
            {"severity": one.severity.value, "words": one.words, "contexts": list(one.contexts)}
            for one in checked.findings
        ],
        "log": [{"level": level, "text": text} for level, text in checked.log],
    }
