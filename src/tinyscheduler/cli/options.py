"""How does a command on the hot path declare its options?  So that typer is not needed yet.

typer takes ten times as long to load as a bare interpreter to start.  These declarations
stand in for its own: `cli.quick` reads a plain command line by them alone, and
`cli.command` turns them into typer's for all the rest: help, faults, completion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class BadValue(ValueError):  # noqa: N818 - a text that is wrong, not a state of the program
    """A text on the command line does not mean what the option wants."""


class Option(NamedTuple):
    """An option; without names it is spelt as its parameter."""

    names: tuple[str, ...]
    metavar: str | None
    help: str
    parser: Callable[[str], Any] | None
    is_plain: bool
    is_hidden: bool


class Argument(NamedTuple):
    """What stands without a name."""

    metavar: str | None
    help: str


def option(
    *names: str,
    help: str = "",  # noqa: A002 - as typer spells it
    metavar: str | None = None,
    parser: Callable[[Any], Any] | None = None,
    is_plain: bool = True,
    is_hidden: bool = False,
) -> Option:
    """Declare an option; one that is not ``is_plain`` needs all of typer where it is given."""
    return Option(names, metavar, help, parser, is_plain, is_hidden)


def argument(*, metavar: str | None = None, help: str) -> Argument:  # noqa: A002 - as typer spells it
    """Declare an argument."""
    return Argument(metavar, help)
