"""What does the ``.env`` file set?  Read by python-dotenv's own parser, with lines kept."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables

from tinyscheduler.config.inputs import MAX_FILE_BYTES, PREFIX, InputFile
from tinyscheduler.config.problems import Problem, Severity
from tinyscheduler.errors import ConfigError
from tinyscheduler.values import dataclass, field

_NEWLINE = re.compile(r"\r\n|\n|\r")

# Interpolation can double a value on every line: what comes out needs a bound of its own.
MAX_CHARACTERS = 4 * MAX_FILE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFileEntry:
    """One variable of an env file.

    ``span`` is where in the file's bytes the value stands literally, so that it can be
    read again without parsing; None where it was escaped or put together from others.
    """

    value: str
    line: int
    span: tuple[int, int] | None


@dataclass(slots=True, kw_only=True)
class EnvFile:
    """The variables of an env file, and those of the environment that it refers to."""

    path: str | None = None
    entries: dict[str, EnvFileEntry] = field(default_factory=dict)
    referenced: set[str] = field(default_factory=set)
    characters: int = 0
    problems: list[Problem] = field(default_factory=list)


def parse_env_file(source: InputFile | None, environ: Mapping[str, str]) -> EnvFile:
    """Read the variables of an env file.

    ``${NAME}`` stands for the environment's value, else for that of an earlier line: the
    environment is the stronger layer here as everywhere.  A later line wins over an
    earlier one.  Raises ConfigError if the file is not text.
    """
    result = EnvFile()
    if source is None:
        return result
    result.path = source.path
    offset = len(source.content) - len(source.content.removeprefix(b"\xef\xbb\xbf"))
    for binding in parse_stream(io.StringIO(_decode(source)[1 if offset else 0 :])):
        original = binding.original.string
        # A statement, to the parser, starts with the blank lines before it.
        blank = original[: len(original) - len(original.lstrip())]
        line = binding.original.line + len(_NEWLINE.findall(blank))
        name_alone = binding.key is not None and binding.value is None
        if binding.error or (name_alone and str(binding.key).startswith(PREFIX)):
            result.problems.append(_not_a_setting(source.path, line))
        elif binding.key is not None and binding.value is not None:
            if binding.key in result.entries and binding.key.startswith(PREFIX):
                result.problems.append(_set_twice(source.path, line, binding.key, result))
            value = _interpolate(binding.key, binding.value, environ, result)
            result.entries[binding.key] = EnvFileEntry(
                value=value, line=line, span=_span(value, original, offset)
            )
        offset += len(original.encode())
    return result


def _decode(source: InputFile) -> str:
    try:
        text = source.content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = source.content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "not UTF-8 text", where=f"{source.path}:{line}", hint="save the env file as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(
            "holds a NUL byte", where=f"{source.path}:{line}", hint="is this really an env file?"
        )
    return text


def _interpolate(name: str, value: str, environ: Mapping[str, str], result: EnvFile) -> str:
    pieces = []
    for atom in parse_variables(value):
        if isinstance(atom, Variable):
            result.referenced.add(atom.name)
            earlier = result.entries.get(atom.name)
            fallback = earlier.value if earlier else atom.default or ""
            pieces.append(environ.get(atom.name, fallback))
        else:
            pieces.append(atom.resolve({}))
        result.characters += len(pieces[-1])
        if result.characters > MAX_CHARACTERS:
            raise ConfigError(
                f"the value of {name}, with what it refers to, is too long",
                where=result.path or "",
                hint=f"shorten {name} or the variables it refers to",
            )
    return "".join(pieces)


def _span(value: str, original: str, offset: int) -> tuple[int, int] | None:
    # Any place that holds these very bytes will do, even one inside a comment.
    encoded = value.encode("utf-8", "surrogateescape")
    start = original.encode().find(encoded)
    return (offset + start, offset + start + len(encoded)) if start >= 0 else None


def _not_a_setting(path: str, line: int) -> Problem:
    return Problem(
        severity=Severity.TUNING,
        setting=f"{path}:{line}",
        message="not NAME=value; the line is ignored",
        fix="write NAME=value, or start the line with #",
    )


def _set_twice(path: str, line: int, name: str, result: EnvFile) -> Problem:
    return Problem(
        severity=Severity.ADVICE,
        setting=f"{path}:{line}",
        message=f"{name} is set again (first in line {result.entries[name].line});"
        " the last one counts",
        fix="keep one of the two lines",
    )
