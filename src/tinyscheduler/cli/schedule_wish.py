"""May this recur?  From what somebody asked for to a `Schedule` that can be kept."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tinyscheduler.adapters.sqlite.batch import check_spec
from tinyscheduler.cli import add as adding
from tinyscheduler.cli.edit import FIELD_OF
from tinyscheduler.cli.parsing import duration_s
from tinyscheduler.config.inputs import fault_in_path
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.config.units import parse_duration_s
from tinyscheduler.core.heartbeats import DEFAULT_PROMPT, has_work
from tinyscheduler.errors import UsageError
from tinyscheduler.model.schedules import (
    ActiveHours,
    CatchUp,
    Overlap,
    Schedule,
    ScheduleKind,
    Timing,
)
from tinyscheduler.model.tasks import TASK_ID_RULE, is_task_id
from tinyscheduler.values import dataclass, fields, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from tinyscheduler.cli.wish import Granter

_MINUTES_OF_HOUR, _MOST_MINUTE = 60, 24 * 60
WAYS = ("cron", "every", "at")
# What options say beside when it fires and what each firing runs, and what is so if they do not.
_DEFAULTS = {field.name: field.default for field in fields(Schedule)}
# What an option is called where it is unset, and where that says something, beside those of a task.
_OF_TIMING = ("jitter", "active-hours", "tz")
_OWN_FIELD_OF = {
    "overlap": "overlap",
    "catch-up": "catch_up",
    "catch-up-window": "catch_up_window_s",
    "max-firings": "max_firings",
    "expires": "expires_at",
    "max-run-duration": "max_run_duration_s",
    "kind": "kind",
    "max-per-day": "max_per_day",
    "checklist": "checklist",
}
# No option of a schedule: it says when, and how long, in words of its own.
_NOT_HERE = ("after", "not-before", "max-runtime")
_TASK_FIELD_OF = {name: field for name, field in FIELD_OF.items() if name not in _NOT_HERE}
UNSETTABLE = (*_OF_TIMING, *_OWN_FIELD_OF, *_TASK_FIELD_OF)


def parameter_of(option_name: str) -> str:
    """Return the parameter of ``schedule`` that an option is."""
    return "priority_class" if option_name == "class" else option_name.replace("-", "_")


# Parameters that say what a schedule is.
DEFINING = (*WAYS, *map(parameter_of, (*UNSETTABLE, "prompt-file")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleGranter:
    """Turns what was asked for into schedules; ``granter`` does so with what a firing runs.

    What was asked for is texts and numbers by the names of the parameters of ``schedule``; None
    means "not said".
    """

    granter: Granter

    def define(self, name: str, values: Mapping[str, Any]) -> Schedule:
        """Return a new schedule, that nobody keeps yet; UsageError for what could never be."""
        spell = self.granter.spell
        if not is_task_id(name):
            raise UsageError(f"{spell('name')} {quote(name)} is no name", hint=TASK_ID_RULE)
        now = self.granter.now
        values = _with_default_prompt(values)
        spec = self.granter.grant(adding.wish_of(_of_a_task(values), spell))
        # Else each firing would be refused, when nobody is there to read why.
        check_spec(spec)
        one = Schedule(
            schedule_id=name,
            name=name,
            timing=timing_of(values, now, spell),
            spec=spec,
            created_at=now,
            anchor=now,
        )
        return self._checked_heartbeat(
            replace(one, **self._own_fields(values, zone=one.timing.zone))
        )

    def amend(
        self, before: Schedule, values: Mapping[str, Any], *, unset: Collection[str] = ()
    ) -> Schedule:
        """Return the schedule with what was asked for in place of what it said.

        ``unset`` are options that say nothing any more.  Raises UsageError as `define` does.
        """
        spell, now = self.granter.spell, self.granter.now
        given = {name: value for name, value in values.items() if value is not None}
        wish = adding.wish_of(_of_a_task({**dict.fromkeys(values), **given}), spell)
        dropped = {_TASK_FIELD_OF[name] for name in unset if name in _TASK_FIELD_OF}
        spec = self.granter.amend(before.spec, wish, dropped=dropped)
        check_spec(spec)
        silent = {field: _DEFAULTS[field] for name, field in _OWN_FIELD_OF.items() if name in unset}
        timing = _amended_timing(before.timing, given, now, spell, unset)
        after = replace(
            before,
            timing=timing,
            spec=spec,
            **{**silent, **self._own_fields(given, zone=timing.zone)},
        )
        return self._checked_heartbeat(after)

    def _own_fields(self, values: Mapping[str, Any], *, zone: str) -> dict[str, Any]:
        """Return the fields that were asked for, beside timing and task."""
        spell, now = self.granter.spell, self.granter.now
        overlap, catch_up = values.get("overlap"), values.get("catch_up")
        kind = values.get("kind")
        found = {
            "overlap": None if overlap is None else Overlap(overlap),
            "catch_up": None if catch_up is None else CatchUp(catch_up),
            "catch_up_window_s": _seconds(values, "catch_up_window", spell),
            "max_firings": values.get("max_firings"),
            "expires_at": moment(values.get("expires"), now, spell("expires"), zone=zone),
            "max_run_duration_s": _seconds(values, "max_run_duration", spell),
            "kind": None if kind is None else ScheduleKind(kind),
            "max_per_day": values.get("max_per_day"),
            "checklist": self._path(values.get("checklist")),
        }
        if found["max_run_duration_s"] == 0:
            raise UsageError(
                f"{spell('max_run_duration')} must be longer than 0 seconds",
                hint="leave it out for SCHEDULE_MAX_RUN_DURATION_SEC, or write it as 90s or 15m",
            )
        if found["catch_up"] is CatchUp.NONE and found["catch_up_window_s"] is not None:
            raise UsageError(
                f"{spell('catch_up_window')} does nothing with {spell('catch_up')} none",
                hint="leave one of them out",
            )
        return {name: value for name, value in found.items() if value is not None}

    def _path(self, text: str | None) -> str | None:
        """Return where a checklist is, whether or not it is there already."""
        if text is None:
            return None
        name = self.granter.spell("checklist")
        fault = fault_in_path(text)
        if fault is not None:
            raise UsageError(f"{name} {quote(text)} {fault}", hint="name a file")
        path = os.path.expanduser(text)
        if not os.path.isabs(path) and self.granter.folder is None:
            raise UsageError(
                "the current folder does not exist any more",
                hint=f"change to another, or give an absolute {name}",
            )
        return os.path.normpath(os.path.join(self.granter.folder or "/", path))

    def _checked_heartbeat(self, one: Schedule) -> Schedule:
        """Return it; UsageError for a checklist that nobody reads, or that asks for nothing."""
        spell, prompt = self.granter.spell, one.spec.prompt
        if one.kind is not ScheduleKind.HEARTBEAT and one.checklist is not None:
            raise UsageError(
                f"{spell('checklist')} is for heartbeats",
                hint=f"say {spell('kind')} heartbeat, or leave the checklist out",
            )
        is_whole = one.kind is ScheduleKind.HEARTBEAT and one.checklist is None
        if is_whole and prompt is not None and not has_work(prompt):
            raise UsageError(
                f"there is nothing to do in the {spell('prompt')} of {one.schedule_id}",
                hint="headings, comments and ticked boxes ask for nothing: say what to do",
            )
        return one


def timing_of(values: Mapping[str, Any], now: datetime, spell: Callable[[str], str]) -> Timing:
    """Return when it is to fire; UsageError unless exactly one way is named."""
    zone = _zone(values)
    return Timing(
        **_way(values, now, spell, zone=zone),
        zone=zone,
        jitter_s=_seconds(values, "jitter", spell) or 0.0,
        active_hours=active_hours(values.get("active_hours"), spell("active_hours")),
    )


def read_unset(names: Iterable[str]) -> frozenset[str]:
    """Return the options that are to say nothing any more; UsageError for what is none."""
    found = {text.removeprefix("--").replace("_", "-"): text for text in names}
    for name, text in found.items():
        if name in WAYS:
            raise UsageError(
                f"--unset {quote(text)} would leave nothing to fire by",
                hint=f"name another way in its place: {', '.join(f'--{one}' for one in WAYS)}",
            )
        if name not in UNSETTABLE:
            raise UsageError(
                f"--unset {quote(text)} is no option of a schedule",
                hint=did_you_mean(name, UNSETTABLE),
            )
    return frozenset(found)


def moment(text: str | None, now: datetime, name: str, *, zone: str) -> datetime | None:
    """Return a moment, named or so long from now; UsageError if it is neither.

    One that names no offset is by the clock of the zone.
    """
    if text is None:
        return None
    try:
        return now + timedelta(seconds=parse_duration_s(text))
    except (ValueError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=_clock_of(zone))).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{name} {quote(text)} is neither a time nor a duration",
            hint="write it as 2026-01-31T18:00, or 2h for in two hours",
        ) from error


def _clock_of(zone: str) -> ZoneInfo | None:
    """Return a zone; None, as this machine's, for one that is none: `check_timing` says so."""
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return None


def active_hours(text: str | None, name: str) -> ActiveHours | None:
    """Return the part of the day in which it fires; UsageError if it is none."""
    if text is None:
        return None
    begin, dash, end = text.partition("-")
    minutes = [_minute(begin), _minute(end)]
    if not dash or None in minutes:
        raise UsageError(f"{name} {quote(text)} are no hours", hint="write them as 08:00-18:30")
    return ActiveHours(begin_minute=minutes[0] or 0, end_minute=minutes[1] or 0)


def zone_here() -> str:
    """Return the IANA name of the zone of this machine; UTC where nothing tells it."""
    name = os.environ.get("TZ", "").lstrip(":")
    if not name:
        try:
            name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
        except OSError:
            name = ""
    return name or "UTC"


def _zone(values: Mapping[str, Any]) -> str:
    """Return the zone that is named, also where it is none; that of this machine if none is."""
    name: str | None = values.get("tz")
    return zone_here() if name is None else name


def _with_default_prompt(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let an agent that is given a checklist alone be asked to go through it."""
    says = ("prompt", "prompt_file", "recipe", "command")
    if values.get("checklist") is None or any(values.get(name) for name in says):
        return values
    return {**values, "prompt": DEFAULT_PROMPT}


def _of_a_task(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for of each firing; it waits for no other task, and for no time."""
    return {**values, "after": None, "not_before": None, "hold": False}


def _way(
    values: Mapping[str, Any], now: datetime, spell: Callable[[str], str], *, zone: str
) -> dict[str, Any]:
    """Return the fields of a timing that say when; UsageError unless exactly one does."""
    given = [one for one in WAYS if values.get(one) is not None]
    if len(given) != 1:
        cron, every, at = map(spell, WAYS)
        raise UsageError(
            f"say when: one of {cron}, {every} and {at}",
            hint=f'for example {cron} "0 7 * * 1-5", {every} 2h, or {at} 2026-12-24T18:00',
        )
    return {
        "cron": values.get("cron"),
        "every_s": _seconds(values, "every", spell),
        "at": moment(values.get("at"), now, spell("at"), zone=zone),
    }


def _amended_timing(
    before: Timing,
    given: Mapping[str, Any],
    now: datetime,
    spell: Callable[[str], str],
    unset: Collection[str],
) -> Timing:
    changes: dict[str, Any] = {}
    if "tz" in given or "tz" in unset:
        changes["zone"] = _zone(given)
    if any(one in given for one in WAYS):
        changes |= _way(given, now, spell, zone=changes.get("zone", before.zone))
    if "jitter" in given or "jitter" in unset:
        changes["jitter_s"] = _seconds(given, "jitter", spell) or 0.0
    if "active_hours" in given or "active-hours" in unset:
        changes["active_hours"] = active_hours(given.get("active_hours"), spell("active_hours"))
    return replace(before, **changes)


def _seconds(values: Mapping[str, Any], name: str, spell: Callable[[str], str]) -> float | None:
    """Return a duration that may be missing, in seconds."""
    text = values.get(name)
    return None if text is None else duration_s(spell(name), text)


def _minute(text: str) -> int | None:
    hour, colon, minute = text.strip().partition(":")
    if not colon or not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2):  # noqa: PLR2004 - 08:05
        return None
    found = int(hour) * _MINUTES_OF_HOUR + int(minute)
    return found if int(minute) < _MINUTES_OF_HOUR and found <= _MOST_MINUTE else None
