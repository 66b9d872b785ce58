"""Does this command line need typer?  A plain one of a hot command does not.

What is read here means what typer would take it for.  Whatever is not understood at
once is left to typer: help, abbreviations, faults and how they are told.
"""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from tinyscheduler.cli.invocation import NORMAL, QUIET, Invocation
from tinyscheduler.cli.options import Argument, Option
from tinyscheduler.cli.outcome import conclude

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOT = {
    "run": "tinyscheduler.cli.run:run",
    "add": "tinyscheduler.cli.add:add",
    "status": "tinyscheduler.cli.status:status",
    # A shell asks it for words while somebody types.
    "completion": "tinyscheduler.cli.completion:completion",
}
_GLOBAL = {"--base-path": "base_path", "--env-file": "env_file", "--log-level": "log_level"}
_END = "--"


class _NotPlainError(Exception):
    """This command line is for typer."""


def run_quickly(arguments: list[str]) -> int | None:
    """Run a plain command line and return its exit code; None for one that typer must read."""
    invocation = Invocation()
    try:
        name, rest = _read_globals(invocation, arguments)
        module, _, function_name = HOT[name].partition(":")
        function = getattr(import_module(module), function_name)
        values = read(function, rest)
    except (_NotPlainError, KeyError):
        return None
    context = SimpleNamespace(obj=invocation)
    return conclude(invocation, lambda: function(context, **values), with_traceback=False)


def read(function: Callable[..., Any], arguments: list[str]) -> dict[str, Any]:
    """Return the parameters that a command line gives a command."""
    spread = getattr(function, "spread", None)
    declared = _declared(function)
    values: dict[str, Any] = {}
    rest = iter(spread(arguments) if spread is not None else arguments)
    for text in rest:
        if text == _END:
            values |= _read_positional(declared, list(rest))
            break
        spelling, equals, value = text.partition("=")
        if spelling not in declared.options:
            raise _NotPlainError
        parameter, kind, option = declared.options[spelling]
        if not option.is_plain or (kind is bool and equals):
            raise _NotPlainError
        if kind is bool:
            values[parameter] = True
            continue
        if not equals:
            value = _following(rest)
        if _is_list(kind):
            values[parameter] = [*values.get(parameter, []), value]
        else:
            values[parameter] = _convert(kind, option, value)
    return values


class _Declared(SimpleNamespace):
    """The options of a command by spelling, and the parameter of its argument, if any."""

    options: dict[str, tuple[str, Any, Option]]
    argument: str | None


def _declared(function: Callable[..., Any]) -> _Declared:
    # typer itself is named in one annotation, of the parameter that is no option.
    names = {"typer": SimpleNamespace(Context=object)}
    hints = get_type_hints(function, localns=names, include_extras=True)
    declared = _Declared(options={}, argument=None)
    for parameter, hint in hints.items():
        for one in getattr(hint, "__metadata__", ()):
            if isinstance(one, Option):
                spellings = one.names or ("--" + parameter.replace("_", "-"),)
                for spelling in spellings:
                    declared.options[spelling] = (parameter, hint.__origin__, one)
            elif isinstance(one, Argument):
                declared.argument = parameter
    return declared


def _read_globals(invocation: Invocation, arguments: list[str]) -> tuple[str, list[str]]:
    """Take the global options; return the command's name and what follows it."""
    rest = iter(arguments)
    for text in rest:
        if not text.startswith("-"):
            return text, list(rest)
        spelling, equals, value = text.partition("=")
        if spelling in _GLOBAL:
            setattr(invocation, _GLOBAL[spelling], value if equals else _following(rest))
        elif text in ("-q", "--quiet"):
            invocation.verbosity = QUIET
        elif text in ("-v", "--verbose") and invocation.verbosity == NORMAL:
            invocation.verbosity = NORMAL + 1
        else:
            raise _NotPlainError
    raise _NotPlainError


def _following(rest: Iterator[str]) -> str:
    """Return the value that follows; what looks like an option may be a slip: typer knows."""
    found = next(rest, None)
    if found is None or found.startswith("-"):
        raise _NotPlainError
    return found


def _read_positional(declared: _Declared, texts: list[str]) -> dict[str, Any]:
    if not texts:
        return {}
    if declared.argument is None:
        raise _NotPlainError
    return {declared.argument: texts}


def _convert(kind: object, option: Option, text: str) -> object:
    try:
        if option.parser is not None:
            return option.parser(text)
        return kind(text) if isinstance(kind, type) and issubclass(kind, Enum) else text
    except ValueError as error:
        raise _NotPlainError from error


def _is_list(kind: object) -> bool:
    kinds = getattr(kind, "__args__", (kind,))
    return any(getattr(one, "__origin__", one) is list for one in kinds)
