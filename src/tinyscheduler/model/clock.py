"""When is now?  Wall time for people and across boots, monotonic time within one boot."""

from __future__ import annotations

from datetime import UTC, datetime

from tinyscheduler.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """One reading of both clocks, and the boot in which the monotonic one counts."""

    wall: datetime
    monotonic_ns: int
    boot_id: str


def format_time(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with ``Z``, to the millisecond.

    >>> format_time(datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC))
    '2026-01-02T03:04:05.678Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_exactly(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with ``Z``, so that it comes back as it was.

    >>> format_exactly(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))
    '2026-01-02T03:04:05.678901Z'
    """
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """Read what `format_time` or `format_exactly` wrote; ValueError for one without a zone.

    >>> format_time(parse_time("2026-01-02T03:04:05.678Z"))
    '2026-01-02T03:04:05.678Z'
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        message = f"a time without a zone: {text!r}"
        raise ValueError(message)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        message = f"a time beyond the calendar: {text!r}"
        raise ValueError(message) from error
