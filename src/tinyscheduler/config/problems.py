"""What is wrong with the configuration, as values: collected first, judged afterwards."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from tinyscheduler.errors import ConfigError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_MEANT = "did you mean"


class Severity(StrEnum):
    """What a problem means for a run, and what it means for ``validate-config``."""

    STRUCTURE = "structure"  # nothing sensible can run: an error everywhere
    TUNING = "tuning"  # the default is used, with a warning; an error in validate-config
    ADVICE = "advice"  # a warning everywhere


class UnusableError(ValueError):
    """A text that is no value of its setting: what was expected and, if known, what is wrong.

    ``because`` continues a sentence about the value: "is there twice".
    """

    def __init__(self, expected: str, *, because: str = "", fix: str = "") -> None:
        """Keep them apart: the message says what is wrong, the fix repeats what is expected."""
        super().__init__(because or f"is not {expected}")
        self.expected = expected
        self.because = because or f"is not {expected}"
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where, what value, why, and how to fix it.

    ``setting`` is a variable, an option or ``file:line``; ``value`` is already safe to
    print (secrets replaced).
    """

    severity: Severity
    setting: str
    message: str
    fix: str
    value: str | None = None

    @property
    def sentence(self) -> str:
        """The problem in one line, without its fix."""
        return f"{self.setting}: {self.message}"

    @property
    def warning(self) -> str:
        """The problem in one line, with the name that was meant where one is misspelt."""
        return f"{self.sentence}; {self.fix}" if self.fix.startswith(_MEANT) else self.sentence


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise ConfigError for the first problem that no run can survive, if there is one."""
    fatal = [problem for problem in problems if problem.severity is Severity.STRUCTURE]
    if not fatal:
        return
    hint = fatal[0].fix
    if len(fatal) > 1:
        hint += f" (one of {len(fatal)} problems; `tinyscheduler validate-config` lists them all)"
    raise ConfigError(fatal[0].message, where=fatal[0].setting, hint=hint)


def problem_from_error(error: ConfigError) -> Problem:
    """Return what was raised as one more problem for the list."""
    return Problem(
        severity=Severity.STRUCTURE,
        setting=error.where or "configuration",
        message=error.message,
        fix=error.hint or "",
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the fix for a misspelt name: the nearest known one, or all of them."""
    candidates = sorted(known)
    nearest = nearest_name(name, candidates, likeness=0.6)
    if nearest is not None:
        return f"{_MEANT} {nearest}?"
    return "known names: " + ", ".join(candidates)


def nearest_name(name: str, known: Iterable[str], *, likeness: float) -> str | None:
    """Return the known name that is most like this one, from 0 to 1, if any is so much."""
    # Commands that meet no mistake do not pay for this.
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=likeness)), None)


def quote(value: object) -> str:
    """Return a value for a message: quoted, printable, and never longer than a line."""
    text = literal(value)
    text = (
        text.encode("ascii", "backslashreplace").decode("ascii") if not text.isprintable() else text
    )
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."


def literal(value: object) -> str:
    r"""Return a value as Python writes it, and a text that is not UTF-8 as its bytes (PEP 383).

    >>> literal("ü"), literal("\udcff bytes")
    ("'ü'", "'\\xff bytes'")
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            with suppress(UnicodeEncodeError):  # a surrogate that is no byte
                return repr(value.encode(errors="surrogateescape")).removeprefix("b")
    return repr(value)


_LONGEST_QUOTE = 80
