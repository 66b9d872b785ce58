"""What is a profile?  How one command line of agents is run, and how each of its ends is told."""

from __future__ import annotations

from tinyscheduler.model.config import StdinSource
from tinyscheduler.values import dataclass

# What a rule may make of an attempt beside a failure reason.
SUCCESS = "success"
BY_WORDS = "by_words"  # what decides is what was said
# What events may be made to tell.
TOLD = ("turns", "tokens", "cost_usd", "text")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRule:
    """One way in which an attempt ends: it holds where all that it asks for is so.

    ``json`` are paths in an event, and the values of which it must have one there ("*": any but
    null).  ``last_lines`` are patterns of words, with asterisks for any others; "" is an output
    without a word.  ``say`` is what people are told where the output says nothing better.
    """

    then: str
    exit_codes: tuple[int, ...] | None = None
    json: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()
    last_lines: tuple[str, ...] | None = None
    say: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How agents of one kind are run, unless they say otherwise, and how they end.

    ``output`` is whose output it is (claude, codex, gemini or goose; None: whatever looks like
    one), ``tells`` the paths at which its events tell more.  Without ``outcomes`` the exit code
    says all.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    stdin: StdinSource = StdinSource.NOTHING
    output: str | None = None
    idle_output_s: float | None = None
    tells: tuple[tuple[str, str], ...] = ()
    outcomes: tuple[OutcomeRule, ...] = ()
