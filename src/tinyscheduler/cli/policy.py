"""``policy``: which policy decides, what the built-in one says, and whether yours could rule."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, assert_never

import typer

from tinyscheduler.cli import policy_versions
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.policy_checked import checked_json, checked_lines
from tinyscheduler.cli.render import emit, emit_json, escape
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import PolicyRecord


class Action(StrEnum):
    """What to do about policies."""

    SHOW = "show"
    SOURCE = "source"
    CHECK = "check"
    COMPILE = "compile"
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    VERSIONS = "versions"


# Which of them take a FILE, and which may be told the number of a version.
_OF_FILES = frozenset({Action.CHECK, Action.COMPILE, Action.DEPLOY})
_OF_VERSIONS = frozenset({Action.SHOW, Action.ROLLBACK})


def policy(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|V",
            help="A policy, for check, compile and deploy; a version, for show and rollback.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, option("--force", help="With deploy: in spite of warnings, never of errors.")
    ] = False,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show or check a policy, deploy it, or go back.

    `show` says who decides and how that went of late; `show V` prints a version. `source` prints
    the platform policy, to start from. `check FILE` loads a policy as a tick would, asks it about
    a few worlds, one of them with a thousand tasks, and ends with 1 if it could not rule.
    `compile FILE` prints the Lua that a policy in YAML becomes. `deploy FILE` checks it, keeps a
    copy, and lets that decide from the next tick on, unless POLICY_FILE is set or POLICY_MODE is
    platform. `rollback` goes back to the version before, `rollback V` to that one. `versions`
    lists the last twenty.
    """
    invocation: Invocation = context.obj
    _refuse_arguments(action, file, is_forced=force)
    match action:
        case Action.SHOW if file is not None:
            return policy_versions.show_version(invocation, file, is_json=json)
        case Action.SHOW:
            return _show(invocation.configure_reading(), is_json=json)
        case Action.SOURCE:
            return _print_source(is_json=json)
        case Action.CHECK:
            return _check(invocation.configure_reading(), str(file), is_json=json)
        case Action.COMPILE:
            return _compile(invocation.configure_reading(), str(file), is_json=json)
        case Action.DEPLOY:
            return policy_versions.deploy(invocation, str(file), is_forced=force, is_json=json)
        case Action.ROLLBACK:
            return policy_versions.roll_back(invocation, file, is_json=json)
        case Action.VERSIONS:
            return policy_versions.list_versions(invocation, is_json=json)
        case _:
            assert_never(action)


def _refuse_arguments(action: Action, file: str | None, *, is_forced: bool) -> None:
    """Raise UsageError for an argument or an option that the action does not take."""
    hint = f"`tinyscheduler policy {action}" + (" FILE`" if action in _OF_FILES else "`")
    if file is None and action in _OF_FILES:
        raise UsageError(f"policy {action} needs a FILE", hint=hint)
    if file is not None and action not in _OF_FILES | _OF_VERSIONS:
        raise UsageError(f"policy {action} takes no FILE and no version", hint=hint)
    if is_forced and action is not Action.DEPLOY:
        raise UsageError("--force goes with deploy", hint="leave it out")


def _show(config: Config, *, is_json: bool) -> int:
    from tinyscheduler.adapters.policies_file import FilePolicies
    from tinyscheduler.app.policies import own_policy, recorded

    deployed = FilePolicies(config.paths).active()
    own = own_policy(config)
    record: PolicyRecord | None = recorded(config)
    name = "platform" if own is None else own.name
    if own is None or record is None or record.version != own.version:
        record = None
    if is_json:
        emit_json(
            name=name,
            mode=config.policy.mode,
            file=None if own is None else own.path,
            version=None if own is None else own.version,
            deployed=policy_versions.deployed_json(deployed),
            **_record_json(record),
        )
        return EXIT_DONE
    emit(f"mode:     {config.policy.mode}")
    emit(f"policy:   {escape(name)}")
    if own is not None:
        emit(f"file:     {escape(own.path)}")
        emit(f"version:  {own.version}")
        for line in _record_lines(record):
            emit(line)
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


def _record_lines(record: PolicyRecord | None) -> list[str]:
    if record is None:
        return ["state:    no tick has asked it yet"]
    if not record.failed:
        return ["state:    it answered when it was last asked"]
    times = "once" if record.failed == 1 else f"{record.failed} times in a row"
    who = "another" if record.is_unloadable else "the platform policy"
    then = "; it is asked again once it is changed" if record.is_given_up else ""
    return [
        f"state:    it failed {times}, and {who} decided{then}",
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


def _compile(config: Config, file: str, *, is_json: bool) -> int:
    from tinyscheduler.app.policies import compile_file

    compiled = compile_file(config, file)
    if is_json:
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


def _check(config: Config, file: str, *, is_json: bool) -> int:
    from tinyscheduler.app.policies import check_policy

    checked = check_policy(config, file)
    if is_json:
        emit_json(**checked_json(checked))
    else:
        for line in checked_lines(checked):
            emit(line)
    return EXIT_DONE if checked.is_usable else EXIT_FAILED
