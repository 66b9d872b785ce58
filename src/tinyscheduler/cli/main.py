"""The command line: which command, with which global options, and how do failures look?"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from tinyscheduler import __version__
from tinyscheduler.cli.command import Command, print_by_emit, reword_arguments, with_typer_options
from tinyscheduler.cli.examples import epilog_of
from tinyscheduler.cli.invocation import NORMAL, QUIET, Invocation
from tinyscheduler.cli.outcome import conclude
from tinyscheduler.cli.quick import HOT
from tinyscheduler.cli.render import Color, emit
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import (
    EXIT_USAGE,
    UsageError,
)

# Each command's module is loaded when it is wanted: one command should not pay for all.
COMMANDS = {
    "run": HOT["run"],
    "add": HOT["add"],
    "status": HOT["status"],
    "list": HOT["list"],
    "show": HOT["show"],
    "why": HOT["why"],
    "ps": HOT["ps"],
    "logs": HOT["logs"],
    "wait": HOT["wait"],
    "parked": HOT["parked"],
    "history": HOT["history"],
    "report": HOT["report"],
    "top": "tinyscheduler.cli.watch:top",
    "health": HOT["health"],
    "gpu": "tinyscheduler.cli.gpu:gpu",
    "events": HOT["events"],
    "snapshot": "tinyscheduler.cli.snapshot:snapshot",
    "replay": "tinyscheduler.cli.replay:replay",
    "cancel": HOT["cancel"],
    "retry": HOT["retry"],
    "hold": HOT["hold"],
    "release": HOT["release"],
    "pause": HOT["pause"],
    "resume": HOT["resume"],
    "drain": HOT["drain"],
    "undrain": HOT["undrain"],
    "edit": "tinyscheduler.cli.edit:edit",
    "prune": "tinyscheduler.cli.prune:prune",
    "reset": "tinyscheduler.cli.prune:reset",
    "config": "tinyscheduler.cli.settings:show_settings",
    "validate-config": "tinyscheduler.cli.settings:validate",
    "policy": "tinyscheduler.cli.policy:policy",
    "schedule": "tinyscheduler.cli.schedule:schedule",
    "pressure": "tinyscheduler.cli.pressure:pressure",
    "agent": "tinyscheduler.cli.agent:agent",
    "init": "tinyscheduler.cli.init:init",
    "doctor": "tinyscheduler.cli.doctor:doctor",
    "mcp": "tinyscheduler.cli.mcp:mcp",
    "service": "tinyscheduler.cli.service:service",
    "demo": "tinyscheduler.cli.demo:demo",
    "selftest": "tinyscheduler.cli.selftest:selftest",
    "completion": HOT["completion"],
    "help": "tinyscheduler.cli.help:show_help",
}
# What people type for a command whose name is not like it.
_MEANT = {"start": "run", "stop": "cancel", "kill": "cancel"}
_GLOBAL_OPTIONS = (
    "--env-file",
    "--base-path",
    "--log-level",
    "--color",
    "--verbose",
    "-v",
    "--quiet",
    "-q",
    "--debug",
    "--version",
    "-V",
)
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The commands of the table, each built when it is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own subclass of what it declares
        """Return the names in the order of the table, which is that of the help."""
        del ctx
        return list(COMMANDS)

    def get_help_option(self, ctx: typer.Context) -> TyperOption | None:  # type: ignore[override]  # as above
        """Return the help option, which prints as all data is printed."""
        return print_by_emit(super().get_help_option(ctx))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]  # as above
        """Build one command; UsageError for a name that is none."""
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:
                return None
            raise UsageError(
                f"there is no command {quote(cmd_name)}",
                hint=_fix_for_command(cmd_name),
            )
        module, _, name = COMMANDS[cmd_name].partition(":")
        function = getattr(import_module(module), name)
        kind = getattr(function, "command_class", Command)
        if isinstance(kind, str):
            place, _, kind_name = kind.partition(":")
            kind = getattr(import_module(place), kind_name)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = {**_HELP_OPTIONS, **getattr(function, "context_settings", {})}
        single.command(cmd_name, cls=kind, context_settings=settings, epilog=epilog_of(cmd_name))(
            with_typer_options(function)
        )
        command: TyperCommand = typer.main.get_command(single)  # type: ignore[assignment]  # one command makes no group
        reword_arguments(command)
        return command


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings=_HELP_OPTIONS,
)


@app.callback()
def tinyscheduler(
    context: typer.Context,
    *,
    env_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read settings from this file.")
    ] = None,
    base_path: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Work on the state below this folder.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")
    ] = None,
    color: Annotated[Color, typer.Option(help="When to colour.")] = Color.AUTO,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Say more.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.")] = False,
) -> int:
    """Cron for AI agents and GPU jobs: queue tasks, and ticks run them, none twice at once."""
    del debug  # looked at in `main`, which also sees errors from before this point
    invocation: Invocation = context.obj
    invocation.env_file, invocation.base_path = env_file, base_path
    invocation.log_level, invocation.color = log_level, color
    invocation.verbosity = QUIET if quiet else NORMAL + verbose
    if version:
        emit(f"tinyscheduler {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        from tinyscheduler.cli.status import show_overview

        return show_overview(invocation)
    return 0


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code; no failure leaves a traceback."""
    invocation = Invocation()
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    action = partial(_run, invocation, arguments)
    return conclude(invocation, action, with_traceback="--debug" in own)


def _run(invocation: Invocation, arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="tinyscheduler", standalone_mode=False, obj=invocation)
    except typer.TyperException as error:
        what, hint = _words_of(error, arguments)
        invocation.fail(what, hint=hint)
        return EXIT_USAGE
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    return int(code or 0)


def _words_of(error: typer.TyperException, arguments: list[str]) -> tuple[str, str]:
    """Say a fault of the command line as all others are said: what, and the fix."""
    context = getattr(error, "ctx", None)
    typed = next((one for one in arguments if one in COMMANDS), "")
    command = context.command_path if context is not None else f"tinyscheduler {typed}".strip()
    wrong_option = getattr(error, "option_name", None)
    nearest = getattr(error, "possibilities", None)
    if nearest:
        return _tidy(error.message), did_you_mean(wrong_option or "", nearest)
    what = _tidy(error.format_message())
    if wrong_option in _GLOBAL_OPTIONS and context is not None and context.parent is not None:
        name = context.command.name
        return what, f"it goes before the command: `tinyscheduler {wrong_option} … {name} …`"
    return what, f"`{command} --help` shows what there is"


def _tidy(message: str) -> str:
    """Write typer's sentences as ours: "--limit: 'x' is not a whole number"."""
    message = message.removesuffix(".").replace("Value error, ", "")
    # An option of two spellings is told with both.
    message = re.sub(
        r"^Invalid value for ('[^']+'(?: / '[^']+')*): ",
        lambda match: match[1].replace("'", "") + ": ",
        message,
    )
    message = re.sub(
        r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)$", r"too many arguments: \1", message
    )
    # Of an argument that is one of several words, typer lists them line by line.
    message = re.sub(r"\. Choose from:\s+", ", one of ", message)
    message = re.sub(r",\s*\n\s*", ", ", message)
    message = re.sub(r"^Missing argument '([^']+)'(?=$|,)", r"an argument is missing: \1", message)
    return message[:1].lower() + message[1:]


def _fix_for_command(name: str) -> str:
    if name in _MEANT:
        return f"did you mean {_MEANT[name]}?"
    known = did_you_mean(name, COMMANDS)
    if known.startswith("did"):
        return known
    return "`tinyscheduler --help` lists the commands; to queue a command of yours: add -- COMMAND"
