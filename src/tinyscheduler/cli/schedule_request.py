"""What does a ``schedule`` command line ask for?"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.parsing import duration_s
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import UsageError
from tinyscheduler.model.schedules import ActiveHours, Timing
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from datetime import datetime
    from enum import StrEnum

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.model.config import Config

_MINUTES_OF_HOUR, _MOST_MINUTE = 60, 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line says; ``values`` by the names of the parameters."""

    invocation: Invocation
    action: StrEnum
    rest: tuple[str, ...]
    values: dict[str, Any]
    is_json: bool

    def schedule_id(self) -> str:
        """Return the one schedule that is named."""
        if len(self.rest) != 1:
            what = "needs an ID" if not self.rest else "takes one ID"
            hint = f"`tinyscheduler schedule {self.action} ID`"
            raise UsageError(f"schedule {self.action} {what}", hint=hint)
        return self.rest[0]


def open_store(config: Config, *, writes: bool) -> Schedules:
    """Open the schedules, to read alone or to write as well."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.schedules import open_schedules

    return open_schedules(config, Access.WRITE if writes else Access.READ)


def timing_of(asked: Request, now: datetime) -> Timing:
    """Return when it is to fire; UsageError unless exactly one way is named."""
    values = asked.values
    given = [one for one in ("cron", "every", "at") if values[one] is not None]
    if len(given) != 1:
        raise UsageError(
            "say when: one of --cron, --every and --at",
            hint='for example --cron "0 7 * * 1-5", --every 2h, or --at 2026-12-24T18:00',
        )
    return Timing(
        cron=values["cron"],
        every_s=seconds("--every", values["every"]),
        at=moment("--at", values["at"], now),
        zone=values["tz"] or _zone_here(),
        jitter_s=seconds("--jitter", values["jitter"]) or 0.0,
        active_hours=_hours(values["active_hours"]),
    )


def seconds(name: str, text: str | None) -> float | None:
    """Return a duration that may be missing, in seconds."""
    return None if text is None else duration_s(name, text)


def moment(name: str, text: str | None, now: datetime) -> datetime | None:
    """Return a moment, named or so long from now; UsageError if it is neither."""
    if text is None:
        return None
    from tinyscheduler.config.units import parse_duration_s

    try:
        return now + timedelta(seconds=parse_duration_s(text))
    except (ValueError, OverflowError):
        pass
    from datetime import datetime

    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{name} {quote(text)} is neither a time nor a duration",
            hint="write it as 2026-01-31T18:00, or 2h for in two hours",
        ) from error


def _hours(text: str | None) -> ActiveHours | None:
    if text is None:
        return None
    begin, dash, end = text.partition("-")
    minutes = [_minute(begin), _minute(end)]
    if not dash or None in minutes:
        raise UsageError(
            f"--active-hours {quote(text)} are no hours", hint="write them as 08:00-18:30"
        )
    return ActiveHours(begin_minute=minutes[0] or 0, end_minute=minutes[1] or 0)


def _minute(text: str) -> int | None:
    hour, colon, minute = text.strip().partition(":")
    if not colon or not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2):  # noqa: PLR2004 - 08:05
        return None
    found = int(hour) * _MINUTES_OF_HOUR + int(minute)
    return found if int(minute) < _MINUTES_OF_HOUR and found <= _MOST_MINUTE else None


def _zone_here() -> str:
    """Return the IANA name of the zone of this machine; UTC where nothing tells it."""
    import os

    name = os.environ.get("TZ", "").lstrip(":")
    if not name:
        try:
            name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
        except OSError:
            name = ""
    return name or "UTC"
