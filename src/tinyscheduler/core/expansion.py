"""At which times of the days to come would a schedule fire?  Thousands of them, quickly.

What `slots_after` finds one by one is found here a day at a time: on a day without a change of
the clock the times of a cron expression are as far from midnight as the clock shows.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING

from tinyscheduler.core.cron import read_cron
from tinyscheduler.core.firing_times import slots_after
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tinyscheduler.model.schedules import Schedule

# What comes at the same time, comes in the same five minutes.
BUCKET_S = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY, _INSTANT = timedelta(days=1), timedelta(microseconds=1)
_MINUTE_S, _MICROS = 60, 1_000_000
_MINUTES_OF_BUCKET = BUCKET_S // _MINUTE_S
_MOST_OF_A_DAY = 86_400 // BUCKET_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Times in whole seconds since 1970, in order.

    Of those that are ``dense``, as they come more often than every five minutes, each bucket of
    that length has only the first.
    """

    seconds: tuple[int, ...] = ()
    is_dense: bool = False


def expand(schedule: Schedule, begin: datetime, end: datetime) -> Slots:
    """Return the times from ``begin`` on, which begins a bucket, and before ``end``; no jitter.

    None of a timing that cannot be read.  Those after the schedule expires are none; of one that
    fires so often at most the first so many are.
    """
    expires = schedule.expires_at
    end = end if expires is None else min(end, expires)
    timing = schedule.timing
    try:
        if timing.cron is not None:
            found = _of_cron(schedule, timing.cron, begin, end)
        elif timing.every_s is not None:
            found = _of_interval(schedule, timing.every_s, begin, end)
        else:
            found = Slots(seconds=tuple(_walk(schedule, begin, end)))
    except (ValueError, KeyError, OSError, OverflowError):
        return Slots()  # whoever makes it is told what is wrong with it
    if schedule.max_firings is None:
        return found
    return replace(found, seconds=found.seconds[: max(0, schedule.max_firings - schedule.fired)])


def seconds_of(moment: datetime) -> int:
    """Return a moment in whole seconds since 1970.

    >>> seconds_of(datetime(1970, 1, 2, tzinfo=UTC))
    86400
    """
    return (moment - _EPOCH) // timedelta(seconds=1)


def moment_of(seconds: int) -> datetime:
    """Return the moment so many seconds after the beginning of 1970."""
    return _EPOCH + timedelta(seconds=seconds)


def _of_cron(schedule: Schedule, expression: str, begin: datetime, end: datetime) -> Slots:
    from zoneinfo import ZoneInfo

    cron, zone = read_cron(expression), ZoneInfo(schedule.timing.zone)
    hours = schedule.timing.active_hours
    minutes = [one for one in cron.minutes_of_day() if hours is None or hours.include(one)]
    is_dense = len(minutes) > _MOST_OF_A_DAY
    if is_dense:
        # The clocks of all zones differ by a multiple of five minutes.
        minutes = list({one // _MINUTES_OF_BUCKET: one for one in reversed(minutes)}.values())[::-1]
    days = replace(cron, fields=("0", "0", *cron.fields[2:]))
    first = begin.astimezone(zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    found: list[int] = []
    for day in days.walk(first - _DAY - timedelta(minutes=1)):
        midnight = day.replace(tzinfo=zone)
        if midnight.astimezone(UTC) >= end:
            break
        following = (day + _DAY).replace(tzinfo=zone)
        if midnight.utcoffset() == following.utcoffset():
            start = seconds_of(midnight.astimezone(UTC))
            found += [start + _MINUTE_S * one for one in minutes]
        else:
            # The clock is changed on that day.
            found += _walk(schedule, midnight.astimezone(UTC), following.astimezone(UTC))
    return Slots(seconds=tuple(_between(found, begin, end)), is_dense=is_dense)


def _of_interval(schedule: Schedule, every_s: float, begin: datetime, end: datetime) -> Slots:
    is_dense = every_s < BUCKET_S
    if schedule.timing.active_hours is not None:
        seconds = _first_of_each(schedule, begin, end) if is_dense else _walk(schedule, begin, end)
        return Slots(seconds=tuple(seconds), is_dense=is_dense)
    every = timedelta(seconds=every_s) // _INSTANT
    anchor, start, stop = (
        (moment - _EPOCH) // _INSTANT for moment in (schedule.anchor, begin, end)
    )
    number = max(1, -((anchor - start) // every))
    found = []
    while (slot := anchor + number * every) < stop:
        found.append(slot // _MICROS)
        step = every
        if is_dense:
            step = BUCKET_S * _MICROS - slot % (BUCKET_S * _MICROS)
        number += -(-step // every)
    return Slots(seconds=tuple(found), is_dense=is_dense)


def _first_of_each(schedule: Schedule, begin: datetime, end: datetime) -> Iterator[int]:
    """Yield the first time of each bucket that has any."""
    after = begin - _INSTANT
    while True:
        slot = next(slots_after(schedule.timing, after, anchor=schedule.anchor), end)
        if slot >= end:
            return
        yield seconds_of(slot)
        after = moment_of((seconds_of(slot) // BUCKET_S + 1) * BUCKET_S) - _INSTANT


def _walk(schedule: Schedule, begin: datetime, end: datetime) -> Iterator[int]:
    """Yield the times as `slots_after` finds them, one after the other."""
    slots = slots_after(schedule.timing, begin - _INSTANT, anchor=schedule.anchor)
    return (seconds_of(slot) for slot in takewhile(lambda slot: slot < end, slots))


def _between(seconds: Iterable[int], begin: datetime, end: datetime) -> Iterator[int]:
    start, stop = -(-((begin - _EPOCH) // _INSTANT) // _MICROS), seconds_of(end - _INSTANT)
    return (one for one in seconds if start <= one <= stop)
