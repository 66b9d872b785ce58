"""When does a provider's limit end?  Read out of the words an agent failed with.

Agents pass on what their provider says, each in its own way: a time of day with or without its
zone, a date, a weekday, how long to wait, seconds since 1970, or a time as machines write it.
Words may be anything, and are read once from left to right, in time that grows with their length.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from tinyscheduler.values import dataclass

# No provider has a limit that lasts longer than a week; a longer one is something misread.
LONGEST_LIMIT_S = 8 * 86_400.0
# What says so is near the beginning.
_MOST_CHARACTERS = 1000
# A limit that ended this moment is told by some agents as if it were ahead.
_JUST_ENDED = timedelta(minutes=2)
# Words between what announces a moment and the moment.
_MOST_BETWEEN = 10
_MOST_DIGITS = 15

_DIGITS = frozenset("0123456789")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_ANNOUNCING = frozenset(
    {
        *("reset", "resets", "resetting", "again", "retry", "retries", "retrying", "retrydelay"),
        *("wait", "until", "available", "renew", "renews", "refresh", "refreshes", "restored"),
        *("lifted", "lifts", "|"),
    }
)
_BETWEEN = frozenset(
    {
        *(
            "in",
            "at",
            "on",
            "after",
            "for",
            "by",
            "is",
            "will",
            "be",
            "the",
            "your",
            "time",
            "date",
        ),
        *("about", "approximately", "around", "until", "delay", "requests", "tokens", "back"),
        *("reset", "resets", "again", "available"),
        *("-", "_", ":", "=", '"', "'", "\\", "~", "(", "[", "{", ",", "·", "∙", "•", "|"),
    }
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_UNITS = {
    **_SECONDS,
    **dict.fromkeys(("millis", "millisecond", "milliseconds", "msec", "msecs"), 0.001),
    **dict.fromkeys(("sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("day", "days"), 86_400.0),
    **dict.fromkeys(("week", "weeks"), 604_800.0),
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LONG_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
_MONTH_NAMES = {
    "sept": 9,
    **{name: number for number, name in enumerate(_MONTHS, start=1)},
    **{name: number for number, name in enumerate(_LONG_MONTHS, start=1)},
}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY_NAMES = {
    "tues": 1,
    "weds": 2,
    "thurs": 3,
    **{name: number for number, name in enumerate(_WEEKDAYS)},
    **{name[:3]: number for number, name in enumerate(_WEEKDAYS)},
}
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
# Of the abbreviations that messages use; which of its two offsets holds is the zone's to say.
_ZONE_NAMES = {
    **dict.fromkeys(("utc", "gmt", "z"), "UTC"),
    **dict.fromkeys(("pst", "pdt", "pt", "pacific"), "America/Los_Angeles"),
    **dict.fromkeys(("mst", "mdt", "mt", "mountain"), "America/Denver"),
    **dict.fromkeys(("cst", "cdt", "ct", "central"), "America/Chicago"),
    **dict.fromkeys(("est", "edt", "et", "eastern"), "America/New_York"),
    **dict.fromkeys(("cet", "cest"), "Europe/Berlin"),
    **dict.fromkeys(("bst",), "Europe/London"),
    **dict.fromkeys(("jst",), "Asia/Tokyo"),
}


def find_end(words: str, *, said_at: datetime, zone: tzinfo | None = None) -> datetime | None:
    """Return when the limit ends of which these words speak; None if they do not tell.

    ``said_at`` is when they were said, aware.  ``zone`` is that of the machine, where the words
    name none; None is the one this program runs in.  What ended before it was said and what is
    more than `LONGEST_LIMIT_S` ahead was misread, and counts as not told.

    >>> said_at = datetime(2026, 7, 4, 21, 50, tzinfo=UTC)
    >>> find_end("You've hit your limit · resets 2am (Europe/Warsaw)", said_at=said_at)
    datetime.datetime(2026, 7, 5, 0, 0, tzinfo=datetime.timezone.utc)
    >>> find_end("Please try again in 6m0s.", said_at=said_at) - said_at
    datetime.timedelta(seconds=360)
    >>> find_end("Please try again later.", said_at=said_at)
    """
    tokens = _tokens(words[:_MOST_CHARACTERS])
    for place, token in enumerate(tokens):
        if token.text not in _ANNOUNCING:
            continue
        reading = _Reading(tokens, place + 1, said_at=said_at, zone=zone)
        try:
            end = reading.moment(is_epoch=token.text == "|")
        except (ValueError, OverflowError, OSError):
            continue  # a day that no month has, or one beyond the calendar
        if end is not None and 0 <= (end - said_at).total_seconds() <= LONGEST_LIMIT_S:
            return end
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """A number, a word in small letters or a single character; ``original`` is as written."""

    text: str
    original: str
    # Whether it follows the one before it without a space.
    is_joined: bool

    @property
    def is_number(self) -> bool:
        return self.text[0] in _DIGITS

    @property
    def is_word(self) -> bool:
        return self.text[0] in _LETTERS


_NOTHING = _Token(text=" ", original=" ", is_joined=False)


def _tokens(words: str) -> list[_Token]:
    """Split a text into numbers, words and other characters; spaces only part them."""
    tokens: list[_Token] = []
    place, is_joined = 0, False
    lowered = words.lower()
    if len(lowered) != len(words):
        # There are letters that become two: then places in one are not those in the other.
        words = lowered
    while place < len(words):
        if words[place].isspace():
            place, is_joined = place + 1, False
            continue
        kind = next((one for one in (_DIGITS, _LETTERS) if lowered[place] in one), None)
        end = place + 1
        while kind is not None and end < len(words) and lowered[end] in kind:
            end += 1
        tokens.append(
            _Token(text=lowered[place:end], original=words[place:end], is_joined=is_joined)
        )
        place, is_joined = end, True
    return tokens


class _Reading:
    """Reads a moment that begins at a token, or finds that there is none."""

    def __init__(
        self, tokens: list[_Token], place: int, *, said_at: datetime, zone: tzinfo | None
    ) -> None:
        self._tokens = tokens
        self._place = place
        self._said_at = said_at
        self._zone = zone

    def moment(self, *, is_epoch: bool) -> datetime | None:
        """Return it; ``is_epoch`` says that only seconds since 1970 can stand here."""
        unit_s, has_colon = self._skip_to_it()
        found = self._epoch()
        if found is not None or is_epoch:
            return found
        found = self._duration(unit_s=1.0 if unit_s is None and has_colon else unit_s)
        if found is not None:
            return found
        return self._stamp() or self._clock_time()

    # -- tokens -----------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> _Token:
        place = self._place + ahead
        return self._tokens[place] if place < len(self._tokens) else _NOTHING

    def _take(self, *texts: str) -> bool:
        """Go on if one of these comes next."""
        is_there = self._peek().text in texts
        self._place += is_there
        return is_there

    def _number(self, *, most_digits: int = 2) -> int | None:
        """Take a whole number that comes next, of so many digits at most."""
        token = self._peek()
        if not token.is_number or len(token.text) > most_digits:
            return None
        self._place += 1
        return int(token.text)

    def _skip_to_it(self) -> tuple[float | None, bool]:
        """Pass over what stands between; return the unit it names, and whether it has a colon."""
        unit_s, has_colon = None, False
        for _ in range(_MOST_BETWEEN):
            token = self._peek()
            if token.text in _UNITS and not self._peek(-1).is_number:
                unit_s = _UNITS[token.text]  # as in resets_in_seconds
            elif token.text not in _BETWEEN:
                break
            has_colon |= token.text in (":", "=")
            self._place += 1
        return unit_s, has_colon

    # -- what machines write ------------------------------------------------------------

    def _epoch(self) -> datetime | None:
        """Take seconds since 1970, or milliseconds."""
        token = self._peek()
        if not token.is_number or len(token.text) not in (10, 13):
            return None
        self._place += 1
        seconds = int(token.text) / (1000 if len(token.text) == 13 else 1)  # noqa: PLR2004 - digits
        return datetime.fromtimestamp(seconds, UTC)

    def _duration(self, *, unit_s: float | None) -> datetime | None:
        """Take how long it is to wait: ``6m0s``, ``5 days 22 hours``, or a number of one unit."""
        total_s, begin = 0.0, self._place
        is_any = False
        while True:
            after = self._place
            amount = self._decimal()
            unit = _UNITS.get(self._peek().text)
            if amount is None or unit is None:
                self._place = after
                break
            self._place += 1
            total_s, is_any = total_s + amount * unit, True
            while self._take(",", "and"):
                pass
        if not is_any and unit_s is not None:
            amount, token = self._decimal(), self._peek()
            is_date = token.text in ("-", ":") and token.is_joined and self._peek(1).is_number
            if amount is not None and not token.is_word and not is_date:
                total_s, is_any = amount * unit_s, True
        if not is_any:
            self._place = begin
            return None
        return self._said_at + timedelta(seconds=total_s)

    def _decimal(self) -> float | None:
        token = self._peek()
        if not token.is_number or len(token.text) > _MOST_DIGITS:
            return None
        self._place += 1
        point, rest = self._peek(), self._peek(1)
        if point.text == "." and point.is_joined and rest.is_number and rest.is_joined:
            self._place += 2
            return float(f"{token.text}.{rest.text[:_MOST_DIGITS]}")
        return float(token.text)

    def _stamp(self) -> datetime | None:
        """Take a time as RFC 3339 has it; without an offset it is in the zone of the machine."""
        year, dash = self._peek(), self._peek(1)
        if not year.is_number or len(year.text) != 4 or dash.text != "-":  # noqa: PLR2004 - of a year
            return None
        text = year.text
        self._place += 1
        for _ in range(_MOST_STAMP_TOKENS):
            token = self._peek()
            is_part = token.is_number or token.text in _OF_STAMPS
            begins_time = token.is_number and len(text) == _DATE_CHARACTERS
            if not is_part or not (token.is_joined or begins_time):
                break
            text += token.text if token.is_joined else f"t{token.text}"
            self._place += 1
        moment = datetime.fromisoformat(text.rstrip(".-:t").upper())
        return moment.astimezone(UTC) if moment.tzinfo else self._in_zone(moment)

    # -- what people write --------------------------------------------------------------

    def _clock_time(self) -> datetime | None:
        """Take a time of day, with or without its day and its zone."""
        day = self._day()
        while self._take(",", "at", "·"):
            pass
        at = self._time_of_day()
        if at is None and day is None:
            return None
        self._zone = self._named_zone() or self._zone
        today = self._said_at.astimezone(self._zone).date()
        at = at or time(0, 0)
        if isinstance(day, _Date):
            year = day.year or today.year
            return self._next([datetime.combine(date(year, day.month, day.day), at)])
        days = [*range(-1, 9)]
        if isinstance(day, int):  # a weekday
            days = [one for one in days if (today + timedelta(days=one)).weekday() == day]
        elif day is not None:  # today or tomorrow
            days = [_NEAR_DAYS[day]]
        return self._next([datetime.combine(today + timedelta(days=one), at) for one in days])

    def _day(self) -> _Date | int | str | None:
        """Take a date, the number of a weekday, ``today`` or ``tomorrow``."""
        text = self._peek().text
        if text in _NEAR_DAYS:
            self._place += 1
            return text
        weekday = _WEEKDAY_NAMES.get(text)
        if weekday is not None:
            self._place += 1
            while self._take(",", "."):
                pass
        return self._date() or weekday

    def _date(self) -> _Date | None:
        """Take a month and a day of it, in either order, and a year if there is one."""
        begin = self._place
        number = self._ordinal()
        month = _MONTH_NAMES.get(self._peek().text)
        if month is not None:
            self._place += 1
            self._take(".")
            number = self._ordinal() if number is None else number
        if month is None or number is None:
            self._place = begin
            return None
        after = self._place
        self._take(",")
        is_year = len(self._peek().text) == 4  # noqa: PLR2004 - digits
        year = self._number(most_digits=4) if is_year else None
        if year is None:
            self._place = after
        return _Date(month=month, day=number, year=year)

    def _ordinal(self) -> int | None:
        number = self._number()
        self._take(*_ORDINALS)
        return number

    def _time_of_day(self) -> time | None:
        """Take ``2am``, ``3:45 p.m.``, ``14:20``, noon or midnight: an hour alone is none."""
        if self._take("midnight"):
            return time(0, 0)
        if self._take("noon"):
            return time(12, 0)
        begin = self._place
        hour = self._number()
        minutes: list[int] = []
        while hour is not None and len(minutes) < 2 and self._take(":"):  # noqa: PLR2004 - minutes and seconds
            minutes.append(-1 if (number := self._number()) is None else number)
        half = self._half_of_day()
        is_more = self._peek().text == ":"  # than a clock shows
        if hour is None or -1 in minutes or is_more or not (minutes or half):
            self._place = begin
            return None
        if half is not None:
            if not 1 <= hour <= 12:  # noqa: PLR2004 - on a clock face
                self._place = begin
                return None
            hour = hour % 12 + (12 if half == "p" else 0)
        minute, second = (*minutes, 0, 0)[:2]
        return time(hour, minute, second)

    def _half_of_day(self) -> str | None:
        text = self._peek().text
        if text in ("am", "pm"):
            self._place += 1
            return text[0]
        dotted = [self._peek(ahead).text for ahead in range(3)]
        if text in ("a", "p") and dotted[1:] == [".", "m"]:
            self._place += 3
            self._take(".")
            return text
        return None

    def _named_zone(self) -> tzinfo | None:
        """Return the zone that is named next, if it is one we know."""
        self._take(",")
        is_named = self._take("(", "[")
        name = ""
        while len(name) < _LONGEST_ZONE:
            token = self._peek()
            if not (token.is_word or token.is_number or token.text in _OF_ZONES):
                break
            if name and not token.is_joined:
                break
            name += token.original
            self._place += 1
        known = _ZONE_NAMES.get(name.lower(), name if is_named else "")
        return _zone_of(known) if known else None

    def _in_zone(self, naive: datetime) -> datetime:
        """Return the moment at which clocks in the zone show this."""
        return naive.replace(tzinfo=self._zone).astimezone(UTC)

    def _next(self, shown: list[datetime]) -> datetime | None:
        """Return the first moment from now on at which clocks show one of these.

        What they show twice, when they are set back, counts twice.  What they skip counts as
        the moment at which they would have shown it.
        """
        moments = sorted(moment for one in shown for moment in self._moments_of(one))
        if any(timedelta(0) <= self._said_at - one <= _JUST_ENDED for one in moments):
            return self._said_at
        return next((one for one in moments if one > self._said_at), None)

    def _moments_of(self, shown: datetime) -> list[datetime]:
        first, second = (self._in_zone(shown.replace(fold=fold)) for fold in (0, 1))
        is_shown = second.astimezone(self._zone).replace(tzinfo=None, fold=0) == shown
        return [first, second] if is_shown else [first]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Date:
    month: int
    day: int
    year: int | None


_NEAR_DAYS = {"today": 0, "tomorrow": 1}
_DATE_CHARACTERS = 10
_MOST_STAMP_TOKENS = 16
_OF_STAMPS = frozenset({"-", ":", ".", "+", "t", "z"})
_LONGEST_ZONE = 64
_OF_ZONES = frozenset("/_+-")


def _zone_of(name: str) -> tzinfo | None:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder, such as Europe
        return None
