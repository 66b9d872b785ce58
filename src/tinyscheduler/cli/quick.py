"""Does this command line need typer?  A plain one of a hot command does not.

What is read here means what typer would take it for.  Whatever is not understood at
once is left to typer: help, abbreviations, faults and how they are told.
"""

from __future__ import annotations

import sys
from enum import Enum
from importlib import import_module
from types import SimpleNamespace, UnionType

from tinyscheduler.cli.invocation import NORMAL, QUIET, Invocation
from tinyscheduler.cli.options import Argument, Option
from tinyscheduler.cli.outcome import conclude

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HOT = {
    "run": "tinyscheduler.cli.run:run",
    "add": "tinyscheduler.cli.add:add",
    # What people and scripts ask again and again.
    "status": "tinyscheduler.cli.status:status",
    "ps": "tinyscheduler.cli.status:ps",
    "list": "tinyscheduler.cli.tasks:list_tasks",
    "show": "tinyscheduler.cli.tasks:show",
    "why": "tinyscheduler.cli.why:why",
    "logs": "tinyscheduler.cli.logs:logs",
    "wait": "tinyscheduler.cli.wait:wait",
    "parked": "tinyscheduler.cli.past:parked",
    "history": "tinyscheduler.cli.past:history",
    "report": "tinyscheduler.cli.workload:report",
    "events": "tinyscheduler.cli.events:events",
    "health": "tinyscheduler.cli.health:health",
    "cancel": "tinyscheduler.cli.change:cancel",
    "retry": "tinyscheduler.cli.change:retry",
    "hold": "tinyscheduler.cli.change:hold",
    "release": "tinyscheduler.cli.change:release",
    "pause": "tinyscheduler.cli.pause:pause",
    "resume": "tinyscheduler.cli.pause:resume",
    "drain": "tinyscheduler.cli.pause:drain",
    "undrain": "tinyscheduler.cli.pause:undrain",
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
    positional: list[str] = []
    for text in rest:
        if text == _END:
            positional += rest
            break
        if not text.startswith("-"):
            if declared.argument is None or declared.argument.is_behind:
                raise _NotPlainError
            positional.append(text)
            continue
        spelling, equals, value = text.partition("=")
        if spelling not in declared.options:
            raise _NotPlainError
        parameter, kind, option = declared.options[spelling]
        # Behind a single dash an equals sign is part of the value.
        is_odd = equals and (kind is bool or not spelling.startswith("--"))
        if not option.is_plain or is_odd:
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
    return values | _read_positional(declared, positional)


class _Declared(SimpleNamespace):
    """The options of a command by spelling, and the parameter of its argument, if any."""

    options: dict[str, tuple[str, Any, Option]]
    argument: Argument | None
    argument_parameter: str
    argument_kind: Any


def _declared(function: Callable[..., Any]) -> _Declared:
    # typer itself is named in one annotation, of the parameter that is no option.
    names = {"typer": SimpleNamespace(Context=object)}
    known = vars(sys.modules[function.__module__])
    declared = _Declared(options={}, argument=None, argument_parameter="", argument_kind=None)
    for parameter, text in function.__annotations__.items():
        # Our own source: a declaration is an expression, and is made to be evaluated.
        hint = eval(text, known, names)  # noqa: S307 - as said above
        for one in getattr(hint, "__metadata__", ()):
            if isinstance(one, Option):
                spellings = one.names or ("--" + parameter.replace("_", "-"),)
                for spelling in spellings:
                    declared.options[spelling] = (parameter, hint.__origin__, one)
            elif isinstance(one, Argument):
                declared.argument = one
                declared.argument_parameter, declared.argument_kind = parameter, hint.__origin__
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
    kind = declared.argument_kind
    if not texts:
        if declared.argument is not None and type(None) not in _alternatives(kind):
            raise _NotPlainError
        return {}
    if declared.argument is None:
        raise _NotPlainError
    if _is_list(kind):
        return {declared.argument_parameter: texts}
    if len(texts) > 1:
        raise _NotPlainError
    return {declared.argument_parameter: texts[0]}


def _convert(kind: object, option: Option, text: str) -> object:
    try:
        if option.parser is not None:
            return option.parser(text)
        for one in _alternatives(kind):
            if isinstance(one, type) and issubclass(one, Enum):
                return one(text)
        return text
    except ValueError as error:
        raise _NotPlainError from error


def _is_list(kind: object) -> bool:
    return any(getattr(one, "__origin__", one) is list for one in _alternatives(kind))


def _alternatives(kind: object) -> tuple[object, ...]:
    """Return the types that a union allows, or the type itself."""
    return kind.__args__ if isinstance(kind, UnionType) else (kind,)
