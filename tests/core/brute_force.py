"""The firings of a cron expression found the slow way: by looking at a clock every minute.

Shares nothing with what it checks, neither cronsim nor any arithmetic with zones: the walk goes
through the minutes of UTC, asks what the clock on the wall shows, and compares that with the
fields.  What the clock skips and repeats it finds out by having looked.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


def walked(
    expression: str,
    zone: str,
    *,
    after: datetime,
    until: datetime,
    hours: Callable[[int], bool] = lambda _: True,
) -> list[datetime]:
    """Return the firings after one moment of UTC and until another."""
    return [
        moment
        for moment in _walk(expression, clock(zone, after - DAY, until), hours)
        if after < moment <= until
    ]


@cache
def clock(zone: str, begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return each minute of UTC with what the clock on the wall shows."""
    begin = begin.replace(second=0, microsecond=0)
    minutes = range(int((end - begin) / MINUTE) + 1)
    utc = (begin + MINUTE * number for number in minutes)
    return [(one, one.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for one in utc]


def _walk(
    expression: str, minutes: list[tuple[datetime, datetime]], hours: Callable[[int], bool]
) -> Iterator[datetime]:
    minute, hour, *days = expression.upper().split()
    named_minutes = {one for one in range(60) if fits(minute, one, 0, 59)}
    named_hours = {one for one in range(24) if fits(hour, one, 0, 23)}
    names_every_hour = named_hours == set(range(24))
    is_every_so_often = names_every_hour or minute.startswith("*")

    def is_named(wall: datetime) -> bool:
        return (
            wall.minute in named_minutes
            and wall.hour in named_hours
            and hours(wall.hour * 60 + wall.minute)
            and is_day(*days, wall.date())
        )

    seen = set[datetime]()
    before = minutes[0][1] - MINUTE
    for moment, wall in minutes:
        is_due = is_named(wall) and (is_every_so_often or wall not in seen)
        seen.add(wall)
        while (before := before + MINUTE) < wall:  # what the clock has skipped
            is_due = is_due or (is_named(before) and not names_every_hour)
        before = wall
        if is_due:
            yield moment


def fits(field: str, value: int, low: int, high: int) -> bool:
    """Say whether a field names a number."""
    for term in field.split(","):
        base, _, step = term.partition("/")
        first, _, last = base.partition("-")
        begin = low if base == "*" else int(first)
        end = high if base == "*" or (step and not last) else int(last or first)
        if value in range(begin, end + 1, int(step or 1)):
            return True
    return False


@cache
def is_day(of_month: str, month: str, of_week: str, day: date) -> bool:
    """Say whether the last three fields of an expression name a day."""
    for number, name in enumerate(_MONTHS, 1):
        month = month.replace(name, str(number))
    for number, name in enumerate(_WEEKDAYS):
        of_week = of_week.replace(name, str(number))
    if not fits(month, day.month, 1, 12):
        return False
    is_one, is_other = _is_in_month(of_month, day), _is_in_week(of_week, day)
    if of_month.startswith("*") or of_week.startswith("*"):
        return is_one and is_other
    return is_one or is_other


def _is_in_month(field: str, day: date) -> bool:
    last = date(day.year, day.month, monthrange(day.year, day.month)[1])
    last_weekday = next(one for one in (last, last - DAY, last - 2 * DAY) if one.weekday() < 5)
    return any(
        day == last
        if term == "L"
        else day == last_weekday
        if term == "LW"
        else fits(term, day.day, 1, 31)
        for term in field.split(",")
    )


def _is_in_week(field: str, day: date) -> bool:
    number = day.isoweekday() % 7
    for term in field.split(","):
        weekday, is_nth, nth = term.partition("#")
        if is_nth:
            is_named = int(weekday) % 7 == number and (day.day - 1) // 7 + 1 == int(nth)
        elif term.endswith("L"):
            is_named = int(term[:-1]) % 7 == number and (day + 7 * DAY).month != day.month
        else:
            is_named = fits(term, number, 0, 7) or (number == 0 and fits(term, 7, 0, 7))
        if is_named:
            return True
    return False


def utc(text: str) -> datetime:
    """Return a moment of UTC: ``2026-03-29 01:00``."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
