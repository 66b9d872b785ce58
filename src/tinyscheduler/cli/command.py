"""How does one command explain itself?  In words for people, to whatever stdout is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand

from tinyscheduler.cli.render import emit

if TYPE_CHECKING:
    from typer.core import TyperOption

# Behind an argument's name typer writes its type as Python has it: `ID <list[str]>`.
_PYTHON_TYPE = re.compile(r" <(?:str|int|list\[str\])>")


class Command(TyperCommand):
    """A command whose help names no types of Python, and ends like its data if unread."""

    def get_help(self, ctx: typer.Context) -> str:  # type: ignore[override]  # typer's own subclass of what it declares
        """Return the help without types of Python."""
        return _PYTHON_TYPE.sub("", super().get_help(ctx))

    def get_help_option(self, ctx: typer.Context) -> TyperOption | None:  # type: ignore[override]  # as above
        """Return the help option, which prints as all data is printed."""
        return print_by_emit(super().get_help_option(ctx))


def print_by_emit(option: TyperOption | None) -> TyperOption | None:
    """Let the help option print so that a full disk or a reader gone is told as ever."""
    if option is not None:
        option.callback = _show_help  # type: ignore[assignment]  # declared for typer's own subclass
    return option


def _show_help(context: typer.Context, _parameter: object, is_wanted: object) -> None:
    if is_wanted and not context.resilient_parsing:
        emit(context.get_help())
        raise typer.Exit
