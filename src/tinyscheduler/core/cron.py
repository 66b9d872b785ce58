"""What does a cron expression say, and in which words?  Read with cronsim, refused in plain words.

cronsim is asked for the times of a clock that is never changed.  What a change of the clock
does to them is for `tinyscheduler.core.firing_times`.  cronsim's own answer follows Debian's
cron where minutes and hours are named; but ``*/20 2 * * *`` loses a day in spring,
``0 */2 * * *`` comes twice in autumn, what follows a gap of half an hour may be lost with it,
and after the second 02:10 of a day it names the first 02:30, which has passed.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tinyscheduler.values import dataclass
from tinyscheduler.wording import did_you_mean, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_HOURS = 24
_MINUTES = 60
_LONGEST = 500  # characters; a list of all minutes has 169

_NAMES = ("minute", "hour", "day-of-month", "month", "day-of-week")
_ROOM = (_MINUTES, _HOURS, 31, 12, 8)
_EXPECTED = (
    "0 to 59",
    "0 to 23",
    "1 to 31, L for the last day of the month or LW for the last weekday of it",
    "1 to 12 or JAN to DEC",
    "0 to 7 or SUN to SAT (0 and 7 are Sunday), MON#2 for the second Monday, 5L the last Friday",
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_FIVE_FIELDS = "minute hour day-of-month month day-of-week"
_FEW_TIMES = 4
# Where to begin looking whether anything ever fires: cronsim looks fifty years ahead.
_SOME_YEAR = datetime(2000, 1, 1)  # noqa: DTZ001  # a wall clock of no zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A cron expression: its five fields in capitals, and what the first two and the last name.

    A day of the week is a number from 0 to 7, or a pair of it and which one in the month.
    """

    fields: tuple[str, ...]
    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int | tuple[int, int]]

    @property
    def names_every_hour(self) -> bool:
        """Whether it is about minutes of the hour, whichever hour that is."""
        return len(self.hours) == _HOURS

    @property
    def is_every_so_often(self) -> bool:
        """Whether it follows the time that passes, and not times that it names."""
        return self.names_every_hour or self.fields[0].startswith("*")

    def minutes_of_day(self) -> list[int]:
        """Return the times that it names on a day, in minutes since midnight, in order."""
        return [_MINUTES * hour + minute for hour in sorted(self.hours) for minute in self._sorted]

    def walk(self, after: datetime) -> Iterator[datetime]:
        """Yield the times of a clock without a zone that come after this one, in order.

        The walk ends where fifty years bring none; OverflowError at the end of the calendar.
        """
        from cronsim import CronSim

        return CronSim(" ".join(self.fields), after)

    def describe(self) -> str:
        """Return the expression in words, without its zone.

        >>> read_cron("30 9 * * 1-5").describe(), read_cron("*/5 * * * *").describe()
        ('at 09:30 on weekdays', 'every 5 minutes')
        """
        times, days = self._describe_times(), self._describe_days()
        if times is None or days is None:
            from cronsim import CronSim

            words = CronSim(" ".join(self.fields), _SOME_YEAR).explain()
            return words[0].lower() + words[1:]
        if not days and times.startswith("at"):
            days = "every day"
        return f"{times} {days}".rstrip()

    # -- parts --------------------------------------------------------------------

    @property
    def _sorted(self) -> list[int]:
        return sorted(self.minutes)

    def _describe_times(self) -> str | None:
        hours, times = sorted(self.hours), self.minutes_of_day()
        step = _step(self.minutes, _MINUTES)
        if step is not None and step < _MINUTES:
            words = "every minute" if step == 1 else f"every {step} minutes"
            if self.names_every_hour:
                return words
            if hours[-1] - hours[0] == len(hours) - 1:
                return f"{words} from {hours[0]:02}:00 to {hours[-1]:02}:59"
            return None
        step = _step(self.hours, _HOURS)
        if step is not None and step < _HOURS and len(self.minutes) == 1:
            words = "every hour" if step == 1 else f"every {step} hours"
            minute = self._sorted[0]
            return f"{words} at minute {minute}" if minute else words
        if len(times) <= _FEW_TIMES:
            return f"at {_listed([clock_words(minute) for minute in times])}"
        return None

    def _describe_days(self) -> str | None:
        if self.fields[2:4] != ("*", "*"):
            return None
        days = {day % 7 for day in self.weekdays if isinstance(day, int)}
        if len(days) == len(_DAYS):
            return ""
        if not days or any(isinstance(day, tuple) for day in self.weekdays):
            return None
        if days == {1, 2, 3, 4, 5}:
            return "on weekdays"
        if days == {0, 6}:
            return "at weekends"
        # The week begins on Monday.
        return f"on {_listed([f'{_DAYS[day]}s' for day in sorted(days, key=lambda day: day or 7)])}"


def read_cron(expression: str) -> Cron:
    """Read five fields or a macro.

    Raises ValueError, saying what is wrong and what is expected, where they cannot be read.

    >>> read_cron("@daily").fields
    ('0', '0', '*', '*', '*')
    """
    from cronsim import CronSim, CronSimError

    fields = _fields_of(expression)
    try:
        read = CronSim(" ".join(fields), _SOME_YEAR)
    except CronSimError as error:
        raise ValueError(_fault(expression, fields, str(error))) from error
    for name, field, room in zip(_NAMES, fields, _ROOM, strict=True):
        _check_steps(expression, name, field, room)
    return Cron(
        fields=fields,
        minutes=frozenset(read.minutes),
        hours=frozenset(read.hours),
        weekdays=frozenset(read.weekdays),
    )


def check_cron(cron: Cron) -> None:
    """Raise ValueError if no day is ever both of those that the expression asks for."""
    if next(cron.walk(_SOME_YEAR), None) is None:
        raise ValueError(_never(" ".join(cron.fields)))


def clock_words(minute: int) -> str:
    """Return a minute of the day as clocks show it.

    >>> clock_words(570), clock_words(1440)
    ('09:30', '24:00')
    """
    return f"{minute // _MINUTES:02}:{minute % _MINUTES:02}"


def _fields_of(expression: str) -> tuple[str, ...]:
    if len(expression) > _LONGEST:
        message = f"a cron expression of {len(expression)} characters: at most {_LONGEST} are read"
        raise ValueError(message)
    text = expression.strip().lower()
    if text == "@reboot":
        message = "@reboot is no time: let the machine's own service manager `add` the task"
        raise ValueError(message)
    if text.startswith("@") and text not in _MACROS:
        message = f"unknown macro {quote(text)}: {did_you_mean(text, _MACROS)}"
        raise ValueError(message)
    fields = tuple(_MACROS.get(text, text).upper().split())
    if len(fields) != len(_NAMES):
        number = f"{len(fields)} fields" if len(fields) != 1 else "one field"
        message = f"cron expression {quote(expression)} has {number}, not five: {_FIVE_FIELDS}"
        if len(fields) == len(_NAMES) + 1:
            message += "; it cannot name seconds, but an interval can"
        raise ValueError(message)
    return fields


def _fault(expression: str, fields: tuple[str, ...], complaint: str) -> str:
    """Return in plain words what cronsim calls ``Bad minute``."""
    from cronsim import CronSim, CronSimError

    index = _NAMES.index(complaint.removeprefix("Bad "))
    alone = ["*"] * len(_NAMES)
    alone[index] = fields[index]
    try:
        CronSim(" ".join(alone), _SOME_YEAR)
    except CronSimError:
        return (
            f"cron expression {quote(expression)}: {quote(fields[index])} is no {_NAMES[index]};"
            f" expected * or {_EXPECTED[index]}, lists such as 1,3, ranges upwards such as"
            " 1-5, and steps such as */2"
        )
    return _never(expression)  # a day that none of its months has


def _check_steps(expression: str, name: str, field: str, room: int) -> None:
    """Refuse a step that is longer than all there is: */90 minutes would be once an hour."""
    for term in field.split(","):
        step = term.partition("/")[2]
        if step and int(step) > room:
            message = (
                f"cron expression {quote(expression)}: the step of {quote(term)} leads beyond the"
                f" {name} field's {room} values, which begin anew each time; use an interval"
            )
            raise ValueError(message)


def _never(expression: str) -> str:
    return f"cron expression {quote(expression)} never fires: no day is like that"


def _step(values: Collection[int], size: int) -> int | None:
    """Return how far the values are apart if that is equal all around, from 0 on; else None.

    >>> _step({0, 15, 30, 45}, 60), _step({0, 7, 14}, 24), _step({5}, 60)
    (15, None, None)
    """
    step, rest = divmod(size, len(values))
    return step if not rest and sorted(values) == list(range(0, size, step)) else None


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
