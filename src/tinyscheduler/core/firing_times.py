"""When does a schedule fire, and what is due now?

The *slots* of a schedule are the times at which it fires, before any jitter.  Those of a cron
expression are times of a wall clock in its zone, and clocks are changed:

*Named times* (the minutes are named, and not every hour is: ``30 2 * * *``, ``0 */2 * * *``)
fire exactly once each.  One that is skipped in spring fires at the first moment after the gap,
and several that are skipped fire there once.  One that comes twice in autumn fires the first
time only.

*Every so often* (the minute field begins with ``*``, or every hour is named: ``*/10 * * * *``,
``30 * * * *``) is whenever the clock shows such a time, so that an hour that comes twice has its
firings twice.  In spring no time passes in the gap, and nothing is made up for where every hour
is named; where hours are chosen (``*/20 2 * * *``) what is skipped fires as named times do.

Intervals count time that passes, and know no zone.  Active hours look at the time that a cron
expression names, and at the local time of all other slots.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING
from zlib import crc32

from tinyscheduler.core.cron import check_cron, clock_words, read_cron
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import CatchUp, ScheduleState
from tinyscheduler.values import dataclass
from tinyscheduler.wording import MEANT, nearest_name, quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

    from tinyscheduler.model.schedules import ActiveHours, Schedule, Timing

MOST_FIRINGS = 100  # that one look at a schedule catches up with
MOST_COUNTED = 10_000  # slots that are passed over; there may be more
GRACE_S = 60.0  # no tick comes on the second: a slot so old is not missed yet

_INSTANT = timedelta(microseconds=1)
_DAY_S = 86_400.0
_LONGEST_INTERVAL_S = _LONGEST_REACH_S = 10 * 365 * _DAY_S
_MINUTES_OF_DAY = 1440
# An interval that drifts through the day meets its active hours now and then, or never: how
# often to jump to their begin before giving up.  Days for most, and so 27 years.
_MOST_JUMPS = 10_000
_FIRST_LOOK_BACK = timedelta(minutes=10)
_WIDER = 8
_UNITS = (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What one look at a schedule found.

    ``slots`` fire now, in order.  ``skipped`` counts the slots that are passed over for good,
    up to `MOST_COUNTED`.  ``next_slot`` is the next that is to be dealt with; None if there is
    none, and then the schedule has ended.
    """

    slots: tuple[datetime, ...] = ()
    skipped: int = 0
    next_slot: datetime | None = None


def due(schedule: Schedule, now: datetime) -> Due:
    """Return what a schedule fires now, what is passed over, and what comes next.

    A slot is due once its jitter is over.  All that are due are dealt with here: which of them
    fire is for ``catch_up`` to say.  One of at most `GRACE_S` and the jitter is never too old.
    Slots from ``expires_at`` on do not exist, and after it nothing is caught up with.
    What was put off is never too old; of times that came meanwhile the newest fires, or all.
    ``next_fire_at`` may be any moment, as after another timing was given: slots from it on count.
    """
    first, ends = schedule.next_fire_at, schedule.expires_at
    left = None if schedule.max_firings is None else schedule.max_firings - schedule.fired
    if first is None or (left is not None and left <= 0) or (ends is not None and first >= ends):
        return Due()
    if schedule.state is not ScheduleState.ACTIVE or now < first:
        return Due(next_slot=first)
    oldest = max(first, now - _reach(schedule, now))
    most = 1 if schedule.catch_up is CatchUp.LATEST else MOST_FIRINGS
    if schedule.deferrals:
        # It was in time, and has made way: that must not be what loses it.
        oldest = first
        most = MOST_FIRINGS if schedule.catch_up is CatchUp.ALL else 1
    ripe, next_slot = _ripe(schedule, oldest, now, most)
    slots = ripe[-most:]
    counted_to = slots[0] if slots else oldest
    skipped = sum(1 for _ in islice(_slots(schedule, first, counted_to), MOST_COUNTED))
    if left is not None and len(slots) >= left:
        # As if each had fired in its time: these were the last, and nothing came after them.
        slots, next_slot = slots[:left], None
    return Due(slots=tuple(slots), skipped=skipped, next_slot=next_slot)


def jittered(schedule_id: str, slot: datetime, jitter_s: float) -> datetime:
    """Return when a slot fires: less than ``jitter_s`` later, always the same for the same slot.

    >>> slot = datetime(2026, 1, 1, tzinfo=UTC)
    >>> [jittered(name, slot, 60).strftime("%H:%M:%S") for name in ("a", "a", "b")]
    ['00:00:24', '00:00:24', '00:00:51']
    """
    name = f"{schedule_id}@{slot.astimezone(UTC).isoformat()}"
    # In whole numbers, for rounding must not make it ``jitter_s``.
    delay_us = (crc32(name.encode()) * int(jitter_s * 1_000_000)) >> 32
    return slot + timedelta(microseconds=delay_us)


def slots_after(timing: Timing, after: datetime, *, anchor: datetime) -> Iterator[datetime]:
    """Yield the slots after a moment, in order and in UTC; endless but for ``at``.

    ``anchor`` is what intervals count from: the first slot is one interval after it.  Each
    slot is found when it is asked for.  Raises ValueError for what `check_timing` refuses
    because it cannot be read; it yields nothing for what never fires.
    """
    try:
        if timing.cron is not None:
            yield from _cron_slots(timing, timing.cron, after)
        elif timing.every_s is not None:
            yield from _interval_slots(timing, timing.every_s, after, anchor)
        elif timing.at is not None and timing.at > after and _is_active(timing, timing.at):
            yield timing.at.astimezone(UTC)
    except OverflowError:
        return  # the calendar ends with the year 9999


def estimated_interval_s(timing: Timing, at: datetime, anchor: datetime) -> float:
    """Return the seconds between the next two slots after a moment; 0 where there are not two."""
    slots = list(islice(slots_after(timing, at, anchor=anchor), 2))
    return (slots[-1] - slots[0]).total_seconds() if slots else 0.0


def check_timing(timing: Timing, *, anchor: datetime | None = None) -> None:
    """Raise ValueError, saying in plain words what is wrong, unless a schedule can fire so.

    Where intervals count from decides whether they ever meet the active hours: that is looked
    at where ``anchor`` is given.
    """
    given = [one for one in (timing.cron, timing.every_s, timing.at) if one is not None]
    if len(given) != 1:
        message = "a schedule has exactly one of a cron expression, an interval and a time"
        raise ValueError(message)
    _zone(timing.zone)
    if timing.active_hours is not None:
        _check_active_hours(timing.active_hours)
    match given[0]:
        case str() as expression:
            shortest_s = _check_cron(timing, expression)
        case datetime() as at:
            shortest_s = _check_time(timing, at)
        case every_s:
            shortest_s = _check_interval(timing, every_s, anchor)
    if not 0 <= timing.jitter_s <= shortest_s:
        message = f"a jitter of {timing.jitter_s:g} s: expected 0 to {shortest_s:g} s, the shortest"
        message += " time between two firings; with more the next would overtake it"
        raise ValueError(message)


def describe(timing: Timing) -> str:
    """Return a timing in words, with the zone where the clock matters.

    >>> from tinyscheduler.model.schedules import Timing
    >>> describe(Timing(cron="30 9 * * 1-5", zone="Europe/Warsaw"))
    'at 09:30 on weekdays, Europe/Warsaw'
    >>> describe(Timing(every_s=5400.0, jitter_s=60.0))
    'every 1 hour 30 minutes, up to 1 minute later'
    """
    hours, is_the_same_everywhere = timing.active_hours, False
    if timing.cron is not None:
        cron = read_cron(timing.cron)
        words = cron.describe()
        is_the_same_everywhere = cron.names_every_hour and cron.fields[2:] == ("*", "*", "*")
    elif timing.every_s is not None:
        duration = _duration_words(timing.every_s)
        is_one_unit = duration.startswith("1 ") and duration.count(" ") == 1
        words = f"every {duration.removeprefix('1 ') if is_one_unit else duration}"
        is_the_same_everywhere = True
    else:
        words = "once" if timing.at is None else f"once, at {_moment_words(timing.at, timing.zone)}"
    if hours is not None:
        words += f", only from {_hours_words(hours)}"
    if timing.jitter_s:
        words += f", up to {_duration_words(timing.jitter_s)} later"
    return words if is_the_same_everywhere and hours is None else f"{words}, {timing.zone}"


# -- what is due ------------------------------------------------------------------


def _reach(schedule: Schedule, now: datetime) -> timedelta:
    """Return how old a slot may be that fires."""
    reach_s = GRACE_S + schedule.timing.jitter_s
    is_over = schedule.expires_at is not None and now >= schedule.expires_at
    if schedule.catch_up is not CatchUp.NONE and not is_over:
        reach_s = max(reach_s, schedule.catch_up_window_s)
    return timedelta(seconds=min(reach_s, _LONGEST_REACH_S))


def _ripe(
    schedule: Schedule, oldest: datetime, now: datetime, most: int
) -> tuple[list[datetime], datetime | None]:
    """Return the newest slots since ``oldest`` that are due, at least so many; what comes next.

    Looks back as far as it has to, for there may be millions.
    """
    look_back = _FIRST_LOOK_BACK
    while True:
        start = max(oldest, now - look_back)
        found = list(_slots(schedule, start, now + _INSTANT))
        # In order: what waits for its jitter makes those behind it wait.
        ripe = list(takewhile(lambda slot: _fires_at(schedule, slot) <= now, found))
        if len(ripe) >= most or start == oldest:
            break
        look_back *= _WIDER
    if len(ripe) < len(found):
        return ripe, found[len(ripe)]
    return ripe, next(_slots(schedule, now + _INSTANT, None), None)


def _slots(schedule: Schedule, start: datetime, end: datetime | None) -> Iterator[datetime]:
    """Yield the slots from ``start`` on and before ``end``, and before it expires."""
    timing, ends = schedule.timing, schedule.expires_at
    slots = slots_after(timing, start - _INSTANT, anchor=schedule.anchor)
    return takewhile(
        lambda slot: (end is None or slot < end) and (ends is None or slot < ends), slots
    )


def _fires_at(schedule: Schedule, slot: datetime) -> datetime:
    return jittered(schedule.schedule_id, slot, schedule.timing.jitter_s)


# -- slots ------------------------------------------------------------------------


def _cron_slots(timing: Timing, expression: str, after: datetime) -> Iterator[datetime]:
    """Yield the moments at which the clock shows what the expression names."""
    cron, zone, hours = read_cron(expression), _zone(timing.zone), timing.active_hours
    if hours is not None and not any(map(hours.include, cron.minutes_of_day())):
        return
    local = after.astimezone(zone)
    start = local.replace(tzinfo=None, fold=0)
    if cron.is_every_so_often and local.fold == 0:
        # What the clock shows for the first time now it has shown a while ago, and shows again.
        first, again = _shown(start, zone)
        start -= max(again - first, timedelta())
    last = after
    repeated: deque[datetime] = deque()
    for wall in cron.walk(start):
        if hours is not None and not hours.include(_minute_of(wall)):
            continue
        first, again = _shown(wall, zone)
        while repeated and repeated[0] < first:
            yield (last := repeated.popleft())
        if cron.is_every_so_often and again > first:
            repeated.append(again)
        elif again < first:  # never shown
            if cron.names_every_hour:
                continue
            first = _after_gap(first, again, zone)
        if first > last:
            yield (last := first)


def _shown(wall: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return when a clock shows a time first, and when again: the same, but for a repeated one.

    For one that is skipped they are the other way around (PEP 495): on both sides of the gap,
    and as far apart as it is long.
    """
    local = wall.replace(tzinfo=zone)
    return local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)


def _after_gap(later: datetime, earlier: datetime, zone: ZoneInfo) -> datetime:
    """Return the first moment after the gap that lies between these two."""
    before = earlier.astimezone(zone).utcoffset()
    seconds = bisect_left(
        range(int((later - earlier).total_seconds())),
        x=True,
        key=lambda second: (
            (earlier + timedelta(seconds=second)).astimezone(zone).utcoffset() != before
        ),
    )
    return earlier + timedelta(seconds=seconds)


def _interval_slots(
    timing: Timing, every_s: float, after: datetime, anchor: datetime
) -> Iterator[datetime]:
    """Yield the anchor plus one interval, two, and so on."""
    every, hours = timedelta(seconds=every_s), timing.active_hours
    slot = (anchor + every * max(1, (after - anchor) // every + 1)).astimezone(UTC)
    if hours is None:
        while True:
            yield slot
            slot += every
    zone, jumps = _zone(timing.zone), 0
    while jumps < _MOST_JUMPS:
        local = slot.astimezone(zone)
        minute = _minute_of(local)
        if hours.include(minute):
            jumps = 0
            yield slot
            slot += every
            continue
        wait = timedelta(minutes=(hours.begin_minute - minute) % _MINUTES_OF_DAY)
        begin = slot.replace(second=0, microsecond=0) + wait
        if begin.astimezone(zone).utcoffset() == local.utcoffset():
            jumps += 1
            slot += every * -((slot - begin) // every)
        else:
            slot += every  # the clock is changed before then: see what it shows


def _is_active(timing: Timing, slot: datetime) -> bool:
    """Say whether the clock shows one of the active hours."""
    local = slot.astimezone(_zone(timing.zone))
    return timing.active_hours is None or timing.active_hours.include(_minute_of(local))


def _minute_of(local: datetime) -> int:
    return local.hour * 60 + local.minute


# -- what cannot be ---------------------------------------------------------------


def _zone(name: str) -> ZoneInfo:
    """Return a time zone; ValueError if there is none of that name."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: a folder, such as Europe
        message = f"unknown time zone {quote(name)}: {_zone_hint(name)}"
        raise ValueError(message) from error


def _zone_hint(name: str) -> str:
    """Return the zone that was meant: cities are known by their name alone."""
    from zoneinfo import available_timezones

    known = available_timezones()
    city = name.casefold().replace(" ", "_")
    cities = sorted(zone for zone in known if city in (zone.casefold(), _city_of(zone)))
    meant = cities[0] if cities else nearest_name(name, known, likeness=0.6)
    return f"{MEANT} {meant}?" if meant else "expected a name such as Europe/Warsaw or UTC"


def _city_of(zone: str) -> str:
    return zone.rpartition("/")[2].casefold()


def _check_active_hours(hours: ActiveHours) -> None:
    begin, end = hours.begin_minute, hours.end_minute
    if not (0 <= begin < _MINUTES_OF_DAY and 0 <= end <= _MINUTES_OF_DAY):
        message = f"active hours from minute {begin} to {end}: a day has {_MINUTES_OF_DAY}"
        raise ValueError(message)
    if begin == end:
        message = f"active hours from {_hours_words(hours)} are no time at all; leave them out for"
        message += " the whole day"
        raise ValueError(message)


def _check_cron(timing: Timing, expression: str) -> float:
    """Return the shortest time between slots on days that follow each other, in seconds."""
    cron, hours = read_cron(expression), timing.active_hours
    check_cron(cron)
    times = [minute for minute in cron.minutes_of_day() if hours is None or hours.include(minute)]
    if not times:
        raise ValueError(_outside(timing, f"none of the times of {quote(expression)} is"))
    following = [*times[1:], times[0]]
    return 60.0 * min(
        (later - earlier) % _MINUTES_OF_DAY or _MINUTES_OF_DAY
        for earlier, later in zip(times, following, strict=True)
    )


def _check_interval(timing: Timing, every_s: float, anchor: datetime | None) -> float:
    """Return the interval: the time between two slots, in seconds."""
    if not 1 <= every_s <= _LONGEST_INTERVAL_S:
        message = f"an interval of {every_s:g} s: expected at least 1 s, and at most ten years"
        raise ValueError(message)
    if anchor is not None and next(slots_after(timing, anchor, anchor=anchor), None) is None:
        counted = f"every {_duration_words(every_s)} from {format_time(anchor)} on is"
        raise ValueError(_outside(timing, f"no time that comes {counted}"))
    return every_s


def _check_time(timing: Timing, at: datetime) -> float:
    """Return what stands for the time between two slots, in seconds: there is one."""
    if at.tzinfo is None:
        message = f"a time without a zone: {at}"
        raise ValueError(message)
    if not _is_active(timing, at):
        raise ValueError(_outside(timing, f"{_moment_words(at, timing.zone)} is not"))
    return _DAY_S


def _outside(timing: Timing, what: str) -> str:
    hours = "" if timing.active_hours is None else _hours_words(timing.active_hours)
    return f"{what} within the active hours, {hours} in {timing.zone}"


# -- in words ---------------------------------------------------------------------


def _hours_words(hours: ActiveHours) -> str:
    return f"{clock_words(hours.begin_minute)} to {clock_words(hours.end_minute)}"


def _moment_words(moment: datetime, zone: str) -> str:
    local = moment.astimezone(_zone(zone))
    seconds = ":%S" if local.second else ""
    return local.strftime(f"%Y-%m-%d %H:%M{seconds}")


def _duration_words(duration_s: float) -> str:
    """Return a duration in units that people count in.

    >>> _duration_words(5400.0), _duration_words(86_400.0), _duration_words(1.5)
    ('1 hour 30 minutes', '1 day', '1.5 seconds')
    """
    words, left = [], duration_s
    for name, size_s in _UNITS:
        number = left if size_s == 1 else left // size_s
        left -= number * size_s
        if number:
            words.append(f"{number:g} {name}{'' if number == 1 else 's'}")
    return " ".join(words)
