"""``help``: what ``--help`` shows, for those who ask in words."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyscheduler.cli.main import Commands
from tinyscheduler.cli.render import emit


def show_help(
    context: typer.Context,
    command: Annotated[
        str | None, typer.Argument(metavar="COMMAND", help="The command; all of them without.")
    ] = None,
) -> int:
    """Show the help of the program, or of one command."""
    program = context.parent
    if program is None or not isinstance(program.command, Commands):
        raise AssertionError(context.command_path)
    if command is None:
        emit(program.get_help())
        return 0
    asked = program.command.get_command(program, command)  # type: ignore[arg-type]  # typer's own subclass of what it declares
    if asked is None:
        raise AssertionError(command)
    emit(typer.Context(asked, info_name=command, parent=program).get_help())
    return 0
