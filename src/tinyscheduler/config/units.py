"""How long is ``15m`` and how much is ``14G``?  Durations and sizes as people write them."""

from __future__ import annotations

import math
import re

MAX_DURATION_S = 10 * 365 * 86_400.0
MAX_SIZE_BYTES = 2**60

DURATION = "a duration such as 90s, 15m, 2h or 1d"
SIZE = "a size such as 14G, 14GiB or 512M"

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# Digits are bounded so that no input can make the conversion slow or overflow.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_PLAIN_NUMBER = re.compile(_NUMBER)
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d|w)")
_SIZE = re.compile(rf"({_NUMBER}) ?([KMGT]?)(?:I?B)?", re.IGNORECASE)


def parse_duration_s(value: str | float) -> float:
    """Return the seconds in ``90s``, ``15m``, ``2h``, ``1d``, ``1h30m`` or a plain number.

    Zero is a duration; the caller decides whether it makes sense.  Raises ValueError,
    saying what is expected, for anything else: negative, NaN, infinite, empty, or
    longer than ten years.

    >>> parse_duration_s("1h30m")
    5400.0
    """
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected {DURATION}")
    if seconds > MAX_DURATION_S:
        raise ValueError("expected a duration of at most ten years")
    return seconds


def _seconds(value: str | float) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if _PLAIN_NUMBER.fullmatch(text):
            return float(text)
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            return None
        return math.fsum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if isinstance(value, bool):
        return None
    # Bounded first: an integer of a thousand digits is no float.
    return float(min(value, 2 * MAX_DURATION_S)) if value >= 0 else None


def parse_size_bytes(value: str | int) -> int:
    """Return the bytes in ``14G``, ``14GiB``, ``512M``; G, GB and GiB are all 2**30.

    A number without a unit is refused, except zero: nobody means 14 bytes by ``14``.
    Raises ValueError, saying what is expected, for anything else.

    >>> parse_size_bytes("1.5K")
    1536
    """
    text = "" if isinstance(value, bool) else str(value).strip()
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {SIZE}")
    number, unit = match.groups()
    size = round(float(number) * _SIZE_UNITS[unit.upper()])
    if size > 0 and _PLAIN_NUMBER.fullmatch(text):
        raise ValueError(f"expected a size with a unit, such as {number}M or {number}G")
    if size > MAX_SIZE_BYTES:
        raise ValueError("expected a size of at most 1048576T")
    return size
