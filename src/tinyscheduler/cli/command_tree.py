"""Which commands, arguments and options are there?  Read from the parser itself, as plain values.

Completion and the manual are written from this, so neither can forget one.
"""

from __future__ import annotations

import inspect

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from tinyscheduler.cli.command import kind_of
from tinyscheduler.cli.examples import EXAMPLES
from tinyscheduler.cli.main import COMMANDS, Commands, app
from tinyscheduler.values import dataclass

PROGRAM = "tinyscheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its spellings, what it takes (empty for a flag), and what it is for."""

    spellings: tuple[str, ...]
    takes: str
    help: str
    choices: tuple[str, ...]

    @property
    def words(self) -> str:
        """The spellings and what follows, as a person types them."""
        spelled = ", ".join(self.spellings)
        return f"{spelled} {self.takes}" if self.takes else spelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument: how the usage calls it, what it is, and the words it can be, if few."""

    name: str
    help: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, or the program itself with its global options.

    ``text`` holds the paragraphs of its help; the first is the summary.
    """

    name: str
    usage: str
    text: tuple[str, ...]
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    examples: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What it does, in one sentence without its full stop."""
        return self.text[0].rstrip(".")


def read_program() -> Command:
    """Return the program itself."""
    group = _group()
    return _command(group, _context(group, PROGRAM), name=PROGRAM)


def read_commands() -> tuple[Command, ...]:
    """Return every command, in the order of the help."""
    return tuple(read_command(name) for name in COMMANDS)


def read_command(name: str) -> Command:
    """Return one command."""
    group = _group()
    parent = _context(group, PROGRAM)
    command = group.get_command(parent, name)
    if command is None:
        raise AssertionError(name)
    return _command(command, _context(command, name, parent), name=name)


def _context(
    command: TyperCommand | TyperGroup, name: str, parent: typer.Context | None = None
) -> typer.Context:
    return typer.Context(command, info_name=name, parent=parent, **command.context_settings)


def _group() -> Commands:
    group = typer.main.get_command(app)
    if not isinstance(group, Commands):
        raise TypeError(group)
    return group


def _command(command: TyperCommand | TyperGroup, context: typer.Context, *, name: str) -> Command:
    parameters = command.get_params(context)
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    usage = " ".join(command.collect_usage_pieces(context))
    return Command(
        name=name,
        usage=f"{context.command_path} {usage}".replace("COMMAND [ARGS]...", "COMMAND ..."),
        text=tuple(" ".join(one.split()) for one in paragraphs if one.strip()),
        arguments=tuple(
            _argument(one, context)
            for one in parameters
            if isinstance(one, TyperArgument) and not one.hidden
        ),
        options=tuple(
            _option(one, context)
            for one in parameters
            if isinstance(one, TyperOption) and not one.hidden
        ),
        examples=EXAMPLES.get(name, ()),
    )


def _argument(parameter: TyperArgument, context: typer.Context) -> Argument:
    record = parameter.get_help_record(context)
    if record is None:
        raise AssertionError(parameter.name)
    return Argument(
        name=record[0].partition(" ")[0].removesuffix("..."),
        help=(parameter.help or "").strip(),
        # Where there are many, the help names them elsewhere.
        choices=_choices(kind_of(parameter, context)),
    )


def _choices(takes: str) -> tuple[str, ...]:
    return tuple(takes.strip("<>[]").split("|")) if "|" in takes else ()


def _option(parameter: TyperOption, context: typer.Context) -> Option:
    record = parameter.get_help_record(context)
    if record is None:
        raise AssertionError(parameter.name)
    words, text = record
    spellings = tuple(parameter.opts)
    # A record reads "-n, --lines N"; what follows the longest spelling is what it takes.
    takes = words.partition(max(spellings, key=len))[2].strip()
    return Option(
        spellings=tuple(sorted(spellings, key=lambda one: (one.startswith("--"), one))),
        takes=takes.replace("<", "").replace(">", ""),
        help=text.strip(),
        choices=_choices(takes),
    )
