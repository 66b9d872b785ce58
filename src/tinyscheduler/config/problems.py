"""What is wrong with the configuration, as values: collected first, judged afterwards."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.errors import ConfigError
from tinyscheduler.values import dataclass
from tinyscheduler.wording import MEANT, did_you_mean, literal, nearest_name, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Those who speak of problems find here what they say it with.
__all__ = (
    "Problem",
    "Severity",
    "UnusableError",
    "did_you_mean",
    "literal",
    "nearest_name",
    "problem_from_error",
    "quote",
    "raise_first",
)


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
        return f"{self.sentence}; {self.fix}" if self.fix.startswith(MEANT) else self.sentence


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
