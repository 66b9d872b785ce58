"""How does a command on the hot path declare its options?  So that typer is not needed yet.

typer takes ten times as long to load as a bare interpreter to start.  These declarations
stand in for its own: `cli.quick` reads a plain command line by them alone, and
`cli.command` turns them into typer's for all the rest: help, faults, completion.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated, Any

    __all__ = ["Annotated", "Argument", "BadValue", "Option", "argument", "option"]
else:

    class Annotated:
        """A type and what is said beside it, as `typing` keeps them; that takes long to load."""

        __slots__ = ("__metadata__", "__origin__")

        def __class_getitem__(cls, said: tuple[Any, ...]) -> Annotated:
            found = cls()
            found.__origin__, *beside = said
            found.__metadata__ = tuple(beside)
            return found


class BadValue(ValueError):  # noqa: N818 - a text that is wrong, not a state of the program
    """A text on the command line does not mean what the option wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option; without names it is spelt as its parameter."""

    names: tuple[str, ...]
    metavar: str | None
    help: str
    parser: Callable[[str], Any] | None
    is_plain: bool
    is_hidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What stands without a name; one ``is_behind`` is read plainly behind -- alone."""

    metavar: str | None
    help: str
    is_behind: bool


def option(
    *names: str,
    help: str = "",  # noqa: A002 - as typer spells it
    metavar: str | None = None,
    parser: Callable[[Any], Any] | None = None,
    is_plain: bool = True,
    is_hidden: bool = False,
) -> Option:
    """Declare an option; one that is not ``is_plain`` needs all of typer where it is given."""
    return Option(
        names=names,
        metavar=metavar,
        help=help,
        parser=parser,
        is_plain=is_plain,
        is_hidden=is_hidden,
    )


def argument(
    *,
    metavar: str | None = None,
    help: str,  # noqa: A002 - as typer spells it
    is_behind: bool = False,
) -> Argument:
    """Declare an argument; one ``is_behind`` needs typer unless it stands behind --."""
    return Argument(metavar=metavar, help=help, is_behind=is_behind)
