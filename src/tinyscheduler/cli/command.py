"""How does one command explain itself?  In words for people, to whatever stdout is."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand
from typer.models import OptionInfo

from tinyscheduler.cli.options import Argument, BadValue, Option
from tinyscheduler.cli.render import emit

if TYPE_CHECKING:
    from typer.core import TyperOption

# Behind an argument's name typer writes its type as Python has it: `ID <list[str]>`.
_PYTHON_TYPE = re.compile(r" <(?:str|int|list\[str\])>")

_WIDEST_KIND = 60


class Command(TyperCommand):
    """A command whose help ends like its data if unread."""

    def get_help_option(self, ctx: typer.Context) -> TyperOption | None:  # type: ignore[override]  # as above
        """Return the help option, which prints as all data is printed."""
        return print_by_emit(super().get_help_option(ctx))


def reword_arguments(command: TyperCommand) -> None:
    """Let the help name arguments as man pages do, and no types of Python."""
    for one in command.params:
        if isinstance(one, TyperArgument):
            # typer makes its own, and asks nobody; this one differs in words alone.
            one.__class__ = _Told


class _Told(TyperArgument):
    """An argument as man pages write it: ID, ID..., [KIND], [-- COMMAND...]."""

    def get_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own subclass of what it declares
        """Return how the usage names it."""
        del ctx
        name = self._told_name()
        if self.name == "command":
            # What stands before the dashes is options of ours, and what follows never is.
            name = f"-- {name}"
        return [name if self.required else f"[{name}]"]

    def get_help_record(self, ctx: typer.Context) -> tuple[str, str] | None:  # type: ignore[override]  # as above
        """Return its name and what it is."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        kind = kind_of(self, ctx)
        if len(kind) > _WIDEST_KIND:
            # More words than have room in the column of names.
            words = ", ".join(kind.strip("<>").split("|"))
            return self._told_name(), record[1].replace(".", f": {words}.", 1)
        return f"{self._told_name()} {kind}".rstrip(), record[1]

    def _told_name(self) -> str:
        name = self.metavar or (self.name or "").upper()
        return name if self.nargs == 1 else f"{name}..."


def kind_of(argument: TyperArgument, ctx: typer.Context) -> str:
    """Return what an argument may be where that is few words, as in ``<one|two>``; or nothing."""
    record = TyperArgument.get_help_record(argument, ctx)
    return "" if record is None else _PYTHON_TYPE.sub("", record[0]).partition(" ")[2]


def with_typer_options(function: FunctionType) -> FunctionType:
    """Return the same function with its options declared as typer declares them."""
    hints = get_type_hints(function, localns={"typer": typer}, include_extras=True)
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    copy.__annotations__ = {name: _translated(hint) for name, hint in hints.items()}
    return copy


def _translated(hint: object) -> object:
    for declared in getattr(hint, "__metadata__", ()):
        match declared:
            case Option():
                names, parser = declared.names, _telling(declared.parser)
                help_text, metavar = declared.help, declared.metavar
                info = typer.Option(
                    *names,
                    metavar=metavar,
                    help=help_text or None,
                    parser=parser,
                    hidden=declared.is_hidden,
                )
                return Annotated[_bare(hint), info]
            case Argument():
                info = typer.Argument(metavar=declared.metavar, help=declared.help)
                return Annotated[_bare(hint), info]
            case OptionInfo(parser=parser) if parser is not None:
                declared.parser = _telling(parser)
            case _:
                pass
    return hint


def _bare(hint: object) -> Any:  # noqa: ANN401 - a type as it was written, whatever that is
    return getattr(hint, "__origin__", hint)


def _telling(parser: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Return a parser whose faults typer tells; it would tell no more of them than the text."""
    if parser is None:
        return None

    def parse(text: object) -> object:
        try:
            return parser(text)
        except BadValue as error:
            raise typer.BadParameter(str(error)) from error

    return parse


def print_by_emit(option: TyperOption | None) -> TyperOption | None:
    """Let the help option print so that a full disk or a reader gone is told as ever."""
    if option is not None:
        option.callback = _show_help  # type: ignore[assignment]  # declared for typer's own subclass
    return option


def _show_help(context: typer.Context, _parameter: object, is_wanted: object) -> None:
    if is_wanted and not context.resilient_parsing:
        emit(context.get_help())
        raise typer.Exit
