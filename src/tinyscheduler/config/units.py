"""How long is ``15m`` and how much is ``14G``?  Durations and sizes as people write them."""

from __future__ import annotations

import math

MAX_DURATION_S = 10 * 365 * 86_400.0
MAX_SIZE_BYTES = 2**60

DURATION = "a duration such as 90s, 15m, 2h or 1d"
SIZE = "a size such as 14G, 14GiB or 512M"
COUNT = "a number such as 200000, 200k or 5M"
MAX_COUNT = 10**15

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# Regular expressions, compiled at their first use: most command lines name no unit.
# Digits are bounded so that no input can make the conversion slow or overflow.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION_PART = rf"({_NUMBER})(ms|s|m|h|d|w)"
_COUNT = rf"({_NUMBER})([kKMG]?)"
_THOUSANDS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_SIZE = rf"(?i:({_NUMBER}) ?([KMGT]?)(?:I?B)?)"


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
        import re

        if re.fullmatch(_NUMBER, text):
            return float(text)
        parts = re.findall(_DURATION_PART, text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            return None
        return math.fsum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if isinstance(value, bool):
        return None
    # Bounded first: an integer of a thousand digits is no float.
    return float(min(value, 2 * MAX_DURATION_S)) if value >= 0 else None


def parse_count(text: str) -> int:
    """Return the number in ``200000``, ``200k`` or ``5M``: thousands, not powers of two.

    Raises ValueError, saying what is expected, for anything else, and for less than 1.

    >>> parse_count("1.5k")
    1500
    """
    import re

    match = re.fullmatch(_COUNT, text.strip())
    number = round(float(match[1]) * _THOUSANDS[match[2]]) if match else 0
    if not 1 <= number <= MAX_COUNT:
        message = f"expected {COUNT}"
        raise ValueError(message)
    return number


def parse_size_bytes(value: str | int) -> int:
    """Return the bytes in ``14G``, ``14GiB``, ``512M``; G, GB and GiB are all 2**30.

    A number without a unit is refused, except zero: nobody means 14 bytes by ``14``.
    Raises ValueError, saying what is expected, for anything else.

    >>> parse_size_bytes("1.5K")
    1536
    """
    import re

    text = "" if isinstance(value, bool) else str(value).strip()
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise ValueError(f"expected {SIZE}")
    number, unit = match.groups()
    size = round(float(number) * _SIZE_UNITS[unit.upper()])
    if size > 0 and re.fullmatch(_NUMBER, text):
        raise ValueError(f"expected a size with a unit, such as {number}M or {number}G")
    if size > MAX_SIZE_BYTES:
        raise ValueError("expected a size of at most 1048576T")
    return size


def duration_text(seconds: float) -> str:
    """Return a duration as `parse_duration_s` reads it.

    >>> [duration_text(one) for one in (5400, 86_400, 0, 0.25)]
    ['1h30m', '1d', '0s', '250ms']
    """
    left, words = round(seconds * 1000), []
    for unit in ("d", "h", "m", "s", "ms"):
        number, left = divmod(left, round(_DURATION_UNITS[unit] * 1000))
        if number:
            words.append(f"{number}{unit}")
    return "".join(words) or "0s"


def size_text(size_bytes: int) -> str:
    """Return a size as `parse_size_bytes` reads it, in the largest unit that divides it.

    >>> [size_text(one) for one in (0, 3 << 29, 14 << 30, 1500)]
    ['0', '1536M', '14G', '1500B']
    """
    for unit in ("T", "G", "M", "K"):
        number, rest = divmod(size_bytes, _SIZE_UNITS[unit])
        if number and not rest:
            return f"{number}{unit}"
    return f"{size_bytes}B" if size_bytes else "0"
