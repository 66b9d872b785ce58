"""``schedule plan``: how busy are the days to come, and what should come at other times?"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.app.schedule_load import load_of
from tinyscheduler.app.schedule_warnings import declared_elsewhere
from tinyscheduler.app.schedules import take_shifts
from tinyscheduler.cli.plotting import refuse_path
from tinyscheduler.cli.render import Ink, Page, count, emit, emit_json, escape, format_span, wrap
from tinyscheduler.cli.schedule_definitions import tell
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.core.collisions import Kind, Stretch, busy_seconds
from tinyscheduler.core.expansion import BUCKET_S, moment_of
from tinyscheduler.core.explain import join_names
from tinyscheduler.core.shifts import propose
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.resources import format_size
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime

    from tinyscheduler.app.schedule_load import ScheduleLoad
    from tinyscheduler.cli.schedule_request import Request
    from tinyscheduler.core.collisions import Collision, Course
    from tinyscheduler.core.shifts import Proposal, Shift

DAYS = 7
_HOURS = 24
_MOST_LISTED = 12
_STEPS = "▁▂▃▄▅▆▇█"
_LABEL = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One hour by this machine's clock: how much of the firings that may run would, 1 is all.

    ``is_past`` where nothing of it was looked at.
    """

    day: date
    hour: int
    share: float
    collides: bool
    is_past: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to come: hour by hour, what collides, and what would take it apart."""

    load: ScheduleLoad
    collisions: tuple[Collision, ...]
    proposal: Proposal
    hours: tuple[Hour, ...]
    shifted_hours: tuple[Hour, ...]


def plan(asked: Request) -> int:
    """Show how busy firings will keep the machine, what collides, and which shifts would help."""
    if asked.rest:
        raise UsageError("schedule plan takes no ID", hint="`tinyscheduler schedule plan --days 7`")
    takes, path = asked.values["apply"], asked.values["plot"]
    if path is not None:
        refuse_path(path)
    invocation = asked.invocation
    config = invocation.configure_changing() if takes else invocation.configure_reading()
    schedules = open_store(config, writes=takes)
    everything = schedules.store.schedules()
    days = asked.values["days"] or DAYS
    stretch = Stretch.starting(schedules.now(), timedelta(days=days))
    found = _plan_of(load_of(schedules, everything, stretch))
    shifts = found.proposal.shifts
    if takes and shifts:
        take_shifts(schedules, shifts)
    if path is not None:
        from tinyscheduler.cli.schedule_plan_plot import write_plot

        write_plot(path, found, _lines(found, Page(is_colored=False, width=None), is_taken=takes))
    if asked.is_json:
        emit_json(days=days, **_document(found), applied=bool(takes and shifts))
    else:
        emit("\n".join(_lines(found, invocation.page, is_taken=takes)))
        if not any(one.state is ScheduleState.ACTIVE for one in everything):
            invocation.note("no schedule is active: nothing will fire")
        elif shifts and not takes:
            invocation.advise("`tinyscheduler schedule plan --apply` makes these changes")
    if takes:
        tell(invocation, filter(None, (declared_elsewhere(one.before) for one in shifts)))
    return EXIT_DONE


def _plan_of(load: ScheduleLoad) -> Plan:
    courses = list(load.courses.values())
    proposal = propose(courses, load.room)
    collisions = tuple(load.board.collisions())
    after = {one.after.schedule_id: one.minutes for one in proposal.shifts}
    return Plan(
        load=load,
        collisions=collisions,
        proposal=proposal,
        hours=_hours_of(load, courses, collisions, {}),
        shifted_hours=_hours_of(load, courses, proposal.left, after),
    )


def _hours_of(
    load: ScheduleLoad,
    courses: Sequence[Course],
    collisions: Iterable[Collision],
    minutes: dict[str, int],
) -> tuple[Hour, ...]:
    """Return all hours of the days that are looked at, with schedules so many minutes later."""
    stretch = load.stretch
    shifted = [one.later(60 * minutes.get(one.name, 0)) for one in courses]
    colliding = {bucket for one in collisions for bucket in one.buckets}
    found: dict[tuple[date, int], list[tuple[float, bool]]] = {}
    for number, busy_s in enumerate(busy_seconds(shifted, stretch)):
        bucket = stretch.begin + number
        local = moment_of(bucket * BUCKET_S).astimezone()
        found.setdefault((local.date(), local.hour), []).append((busy_s, bucket in colliding))
    days = sorted({day for day, _ in found})
    room_s = BUCKET_S * max(1, load.room.firings)
    return tuple(
        Hour(
            day=day,
            hour=hour,
            share=sum(busy_s for busy_s, _ in cells) / (room_s * max(1, len(cells))),
            collides=any(is_one for _, is_one in cells),
            is_past=not cells,
        )
        for day in days
        for hour in range(_HOURS)
        for cells in (found.get((day, hour), []),)
    )


# -- for people -----------------------------------------------------------------------


def _lines(plan: Plan, page: Page, *, is_taken: bool) -> list[str]:
    lines = [
        " " * _LABEL + "".join(f"{hour:02}    " for hour in range(0, _HOURS, 3)) + "busiest",
        *_strip(plan.hours, page),
        _legend(plan.load.room.firings),
    ]
    if not plan.collisions:
        return [*lines, "nothing collides"]
    lines += ["", f"{count(len(plan.collisions), 'collision')}:"]
    lines += _collision_lines(plan.collisions)
    lines += ["", *_proposal_lines(plan.proposal, is_taken=is_taken)]
    return [piece for line in lines for piece in wrap(line, page)]


def _legend(firings: int) -> str:
    much = f"how much of {count(firings, 'firing')} at once is in use"
    return f"{_STEPS[0]} to {_STEPS[-1]} {much};  + more;  ! a collision"


def _strip(hours: Sequence[Hour], page: Page) -> list[str]:
    lines = []
    for begin in range(0, len(hours), _HOURS):
        row = hours[begin : begin + _HOURS]
        cells = "".join(page.paint(_cell(one), _ink(one)) for one in row)
        busiest = max(one.share for one in row)
        lines.append(f"{row[0].day:%a %d %b}".ljust(_LABEL) + f"{cells} {busiest:5.0%}")
    return lines


def _cell(hour: Hour) -> str:
    """Return two columns: how high, and a mark that is read without colours."""
    if hour.is_past:
        return "  "
    height = "·" if not hour.share else _STEPS[min(len(_STEPS) - 1, int(hour.share * len(_STEPS)))]
    return height + ("!" if hour.collides else "+" if hour.share > 1 else " ")


def _ink(hour: Hour) -> Ink:
    if hour.collides or hour.share > 1:
        return Ink.RED
    if not hour.share:
        return Ink.DIM
    return Ink.YELLOW if hour.share > 0.5 else Ink.GREEN  # noqa: PLR2004 - half of it


def _collision_lines(collisions: Sequence[Collision]) -> list[str]:
    lines = [f"  {_collision_words(one)}" for one in collisions[:_MOST_LISTED]]
    if len(collisions) > _MOST_LISTED:
        lines.append(f"  and {len(collisions) - _MOST_LISTED} more (--json tells all)")
    return lines


def _collision_words(one: Collision) -> str:
    match one.kind:
        case Kind.TURNS:
            much = f"{one.amount} turns, {one.limit + 1} are too many"
        case Kind.MEMORY:
            much = f"{format_size(one.amount)} of memory, of {format_size(one.limit)}"
        case Kind.VRAM:
            much = f"{format_size(one.amount)} of VRAM, of {format_size(one.limit)}"
    first = moment_of(one.buckets[0] * BUCKET_S).astimezone()
    times = "once" if len(one.buckets) == 1 else f"{len(one.buckets)} times"
    return f"{escape(join_names(one.names))}: {much}; {times}, first {first:%a %d %b %H:%M}"


def _proposal_lines(proposal: Proposal, *, is_taken: bool) -> list[str]:
    lines = []
    if proposal.shifts:
        minutes = count(proposal.minutes, "minute")
        least = ", no less would do" if proposal.is_least else ""
        verb = "moved" if is_taken else "would be taken apart by moving"
        what = "" if is_taken else f" {count(len(proposal.shifts), 'schedule')}"
        lines.append(f"{verb}{what} by {minutes} in all{least}:")
        lines += [f"  {_shift_words(one)}" for one in proposal.shifts]
    if proposal.left:
        left = f"{count(len(proposal.left), 'collision')} that no small shift removes:"
        lines += [left, *_collision_lines(proposal.left)]
    return lines


def _shift_words(shift: Shift) -> str:
    way = "later" if shift.minutes > 0 else "earlier"
    told = f"{shift.before.schedule_id}: {count(abs(shift.minutes), 'minute')} {way}"
    if shift.before.timing.cron is not None:
        return f"{told}, cron: {shift.before.timing.cron} -> {shift.after.timing.cron}"
    every = format_span(shift.before.timing.every_s or 0)
    return f"{told}, every {every} counted from {shift.after.anchor.astimezone():%H:%M}"


# -- for programs ---------------------------------------------------------------------


def _document(plan: Plan) -> dict[str, Any]:
    room = plan.load.room
    return {
        "capacity": {
            "firings": room.firings,
            "memory_bytes": room.memory_bytes,
            "vram_bytes": room.vram_bytes,
        },
        "hours": [
            {
                "day": one.day.isoformat(),
                "hour": one.hour,
                "load": round(one.share, 3),
                "collides": one.collides,
            }
            for one in plan.hours
            if not one.is_past
        ],
        "collisions": [_collision_json(one) for one in plan.collisions],
        "shifts": [
            {
                "schedule_id": one.before.schedule_id,
                "minutes": one.minutes,
                "cron": one.after.timing.cron,
                "anchor": format_time(one.after.anchor),
            }
            for one in plan.proposal.shifts
        ],
        "minutes": plan.proposal.minutes,
        "is_least": plan.proposal.is_least,
        "left": [_collision_json(one) for one in plan.proposal.left],
    }


def _collision_json(one: Collision) -> dict[str, Any]:
    return {
        "type": one.kind.value,
        "schedules": list(one.names),
        "amount": one.amount,
        "limit": one.limit,
        "times": len(one.buckets),
        "first_at": format_time(_moment(one)),
    }


def _moment(one: Collision) -> datetime:
    return moment_of(one.buckets[0] * BUCKET_S)
