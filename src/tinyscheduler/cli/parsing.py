"""What do the texts of the command line mean?  Each fault names the option and the text."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from tinyscheduler.cli.options import BadValue
from tinyscheduler.config.problems import quote
from tinyscheduler.config.units import parse_duration_s
from tinyscheduler.errors import UsageError
from tinyscheduler.model.tasks import MOST_COST_USD

# A regular expression, compiled at its first use: most command lines have no number.
_WHOLE_NUMBER = r"[+-]?[0-9]+"
# Far above anything that makes sense, and within what a database keeps.
_MOST = 10**18 - 1
# As long as a number within any bounds can be; int() refuses thousands of digits.
_LONGEST_NUMBER = 40


def whole_number(*, least: int = -_MOST, most: int = _MOST) -> Callable[[str | int], int]:
    """Return a parser of whole numbers within bounds, for an option."""

    def parse(text: str | int) -> int:
        if isinstance(text, int):
            return text  # typer sends an option's default through here as well
        import re

        if re.fullmatch(_WHOLE_NUMBER, text) is None:
            raise BadValue(f"{quote(text)} is not a whole number")
        if len(text) > _LONGEST_NUMBER or not least <= int(text) <= most:
            told = text if len(text) <= _LONGEST_NUMBER else f"{text[: _LONGEST_NUMBER - 3]}..."
            raise BadValue(f"{told} is not in the range from {least} to {most}")
        return int(text)

    return parse


def count(text: str | int) -> int:
    """Read a number above 0 that may end with k, M or G, for an option."""
    if isinstance(text, int):
        return text
    from tinyscheduler.config.units import parse_count

    try:
        return parse_count(text)
    except ValueError as error:
        raise BadValue(f"{quote(text)}: {error}") from error


def dollars(text: str | float) -> float:
    """Read an amount of money above 0, for an option."""
    if isinstance(text, float):
        return text
    import re

    amount = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else 0.0
    if not 0 < amount <= MOST_COST_USD:
        raise BadValue(f"{quote(text)} is not a number above 0 such as 10 or 2.5")
    return amount


def duration_s(option: str, text: str) -> float:
    """Read a duration; UsageError naming the option and the text."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(
            f"{option} {quote(text)}: {error}", hint=f"write it as {option} 90s, 15m or 2h"
        ) from error


def moment_ago(option: str, text: str, *, now: datetime) -> datetime:
    """Read a time, or a duration before now; a time without a zone is meant here."""
    try:
        return now - timedelta(seconds=parse_duration_s(text))
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {quote(text)} is neither a time nor a duration",
            hint="write it as 2026-01-31T18:00, 2026-01-31, or 24h for the last 24 hours",
        ) from error


def pairs(
    option: str, texts: list[str] | None, *, example: str = "color=blue"
) -> tuple[tuple[str, str], ...]:
    """Split ``NAME=VALUE`` texts; of several values for one name the last counts."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(
                f"{option} {quote(text)} is not NAME=VALUE", hint=f"write it as {option} {example}"
            )
        found[name] = value
    return tuple(found.items())
