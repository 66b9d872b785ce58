"""``schedule``: what recurs, and when."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli import add
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import duration_s, whole_number
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    count,
    emit,
    emit_json,
    escape,
    format_table,
    format_when,
)
from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import (
    ActiveHours,
    CatchUp,
    Overlap,
    Schedule,
    ScheduleState,
    Timing,
)
from tinyscheduler.model.tasks import TASK_ID_RULE, PriorityClass, is_task_id
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.model.config import Config


class Action(StrEnum):
    """What to do about schedules."""

    ADD = "add"
    LIST = "list"
    SHOW = "show"
    REMOVE = "rm"
    PAUSE = "pause"
    RESUME = "resume"
    RUN = "run"
    NEXT = "next"


# Those that are about one schedule, which must be named.
_OF_ONE = frozenset(
    {Action.SHOW, Action.REMOVE, Action.PAUSE, Action.RESUME, Action.RUN, Action.NEXT}
)
_MOST_NEXT, _NEXT = 1000, 3
_MINUTES_OF_HOUR, _MOST_MINUTE = 60, 24 * 60
_INK_OF_STATE = {
    ScheduleState.ACTIVE: Ink.GREEN,
    ScheduleState.PAUSED: Ink.YELLOW,
    ScheduleState.COMPLETED: Ink.DIM,
    ScheduleState.EXPIRED: Ink.DIM,
}


def schedule(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID|COMMAND",
            help="The schedule; for add, behind --, the command of each firing.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, option("--name", metavar="ID", help="For add: what it is called.")
    ] = None,
    cron: Annotated[
        str | None, option("--cron", metavar="EXPR", help="When: five fields, or @daily.")
    ] = None,
    every: Annotated[
        str | None, option("--every", metavar="DURATION", help="When: each 5m, 2h or 1d.")
    ] = None,
    at: Annotated[
        str | None, option("--at", metavar="TIME", help="When: once, ISO 8601 or from now.")
    ] = None,
    tz: Annotated[
        str | None,
        option("--tz", metavar="ZONE", help="Whose clock --cron means, such as Europe/Warsaw."),
    ] = None,
    jitter: Annotated[
        str | None,
        option("--jitter", metavar="DURATION", help="Fire up to so much later, always the same."),
    ] = None,
    active_hours: Annotated[
        str | None,
        option("--active-hours", metavar="HH:MM-HH:MM", help="Fire between these times only."),
    ] = None,
    overlap: Annotated[
        Overlap | None, option("--overlap", help="While an earlier firing lives.  [skip]")
    ] = None,
    catch_up: Annotated[
        CatchUp | None, option("--catch-up", help="What of missed times fires.  [latest]")
    ] = None,
    max_firings: Annotated[
        int | None,
        option(
            "--max-firings",
            parser=whole_number(least=1),
            metavar="N",
            help="Fire so often at most.",
        ),
    ] = None,
    expires: Annotated[
        str | None, option("--expires", metavar="TIME", help="Fire nothing from then on.")
    ] = None,
    max_run_duration: Annotated[
        str | None,
        option("--max-run-duration", metavar="DURATION", help="End a firing after that; 20m."),
    ] = None,
    number: Annotated[
        int | None,
        option(
            "-n",
            "--number",
            parser=whole_number(least=1, most=_MOST_NEXT),
            metavar="N",
            help="With next: so many times; 3.",
        ),
    ] = None,
    force: Annotated[
        bool, option("--force", help="With run: beyond SCHEDULE_MAX_CONCURRENT.")
    ] = False,
    agent: add.Agent = None,
    queue: add.QueueName = None,
    title: add.Title = None,
    prompt: add.Prompt = None,
    prompt_file: add.PromptFile = None,
    recipe: add.Recipe = None,
    priority: add.Priority = 0,
    priority_class: add.Class = PriorityClass.BATCH,
    gpus: add.Gpus = 0,
    vram: add.Vram = None,
    memory: add.Memory = None,
    model: add.Model = None,
    seed: add.Seed = None,
    tenant: add.Tenant = None,
    project: add.Project = None,
    max_turns: add.MaxTurns = None,
    max_attempts: add.MaxAttempts = None,
    label: add.Label = None,
    cwd: add.Cwd = None,
    env: add.Env = None,
    json: add.Json = False,
) -> int:
    """Run a task on a clock: add, look, pause, run by hand.

    `add --name N` takes one of --cron, --every and --at, and the options of `tinyscheduler add`.
    Each firing is a task, tried once unless --max-attempts says otherwise. `next` shows the times
    to come, of a schedule or of --cron and its like. `run` fires one now, and ends with 75 where
    as many run as may. What failed three times in a row pauses itself; `resume` lets it go on.
    """
    asked = dict(locals())
    request = _Asked(
        invocation=context.obj,
        action=action,
        rest=tuple(rest or ()),
        values=asked,
        is_json=json,
    )
    return _DOERS[action](request)


schedule.context_settings = {"allow_interspersed_args": True}  # type: ignore[attr-defined]  # read where the command is built


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command line says; ``values`` by the names of the parameters."""

    invocation: Invocation
    action: Action
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


def _open(config: Config, *, writes: bool) -> Schedules:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.schedules import open_schedules

    return open_schedules(config, Access.WRITE if writes else Access.READ)


# -- add ------------------------------------------------------------------------------


def _add(asked: _Asked) -> int:
    from tinyscheduler.app.schedules import add_schedule

    name = asked.values["name"]
    if name is None or not is_task_id(name):
        what = "needs --name" if name is None else f"--name {quote(name)} is no name"
        raise UsageError(f"schedule add {what}", hint=TASK_ID_RULE)
    config = asked.invocation.configure_writing()
    schedules = _open(config, writes=True)
    now = schedules.now()
    values = {**asked.values, "command": list(asked.rest), "after": None, "not_before": None}
    spec = add.granter_for(config, schedules.queue).grant(add.wish_of({**values, "hold": False}))
    made = add_schedule(
        schedules,
        Schedule(
            schedule_id=name,
            name=name,
            timing=_timing(asked, now),
            spec=spec,
            overlap=asked.values["overlap"] or Overlap.SKIP,
            catch_up=asked.values["catch_up"] or CatchUp.LATEST,
            max_firings=asked.values["max_firings"],
            expires_at=_moment("--expires", asked.values["expires"], now),
            max_run_duration_s=_seconds("--max-run-duration", asked.values["max_run_duration"]),
            created_at=now,
            anchor=now,
        ),
    )
    if asked.is_json:
        emit_json(schedule=_json(made), warnings=[])
    else:
        first = format_when(made.next_fire_at, now=now)
        asked.invocation.answer(f"{name}: {_words(made.timing)}; next {first}")
    return EXIT_DONE


def _timing(asked: _Asked, now: datetime) -> Timing:
    values = asked.values
    given = [one for one in ("cron", "every", "at") if values[one] is not None]
    if len(given) != 1:
        raise UsageError(
            "say when: one of --cron, --every and --at",
            hint='for example --cron "0 7 * * 1-5", --every 2h, or --at 2026-12-24T18:00',
        )
    return Timing(
        cron=values["cron"],
        every_s=_seconds("--every", values["every"]),
        at=_moment("--at", values["at"], now),
        zone=values["tz"] or _zone_here(),
        jitter_s=_seconds("--jitter", values["jitter"]) or 0.0,
        active_hours=_hours(values["active_hours"]),
    )


def _seconds(name: str, text: str | None) -> float | None:
    return None if text is None else duration_s(name, text)


def _moment(name: str, text: str | None, now: datetime) -> datetime | None:
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


# -- look -----------------------------------------------------------------------------


def _list(asked: _Asked) -> int:
    config = asked.invocation.configure_reading()
    schedules = _open(config, writes=False)
    found = schedules.store.schedules()
    if asked.is_json:
        emit_json(schedules=[_json(one) for one in found])
        return EXIT_DONE
    if not found:
        asked.invocation.note("no schedule yet: `tinyscheduler schedule add --help`")
        return EXIT_DONE
    now = schedules.now()
    rows: list[Row] = [
        (
            one.schedule_id,
            Cell(text=one.state, ink=_INK_OF_STATE[one.state]),
            format_when(one.next_fire_at, now=now) if _fires(one) else "-",
            format_when(one.last_fired_at, now=now),
            str(one.fired),
            str(one.failure_streak),
            _words(one.timing),
        )
        for one in found
    ]
    head = ("ID", "STATE", "NEXT", "LAST", "FIRED", "FAILED", "WHEN")
    emit("\n".join(format_table(head, rows, asked.invocation.page)))
    return EXIT_DONE


def _fires(one: Schedule) -> bool:
    return one.state is ScheduleState.ACTIVE and one.next_fire_at is not None


def _show(asked: _Asked) -> int:
    config = asked.invocation.configure_reading()
    schedules = _open(config, writes=False)
    one = schedules.store.schedule(asked.schedule_id())
    live = schedules.store.live(one.schedule_id)
    recent = schedules.store.metrics(one.schedule_id, limit=5)
    if asked.is_json:
        emit_json(
            schedule=_json(one),
            live={"waiting": list(live.waiting), "running": [name for name, _ in live.working]},
        )
        return EXIT_DONE
    now = schedules.now()
    lines = [
        ("schedule", one.schedule_id),
        ("state", one.state + (f": {one.why_paused}" if one.why_paused else "")),
        ("when", _words(one.timing)),
        ("next", _local(one.next_fire_at) if _fires(one) else "-"),
        ("agent", one.spec.agent or f"any of queue {one.spec.queue}"),
        ("runs", " ".join(one.spec.command) or (one.spec.prompt or "-")),
        ("overlap", one.overlap),
        ("catch-up", one.catch_up),
        ("fired", f"{one.fired}, passed over {one.passed_over}"),
        ("failed", f"{one.failure_streak} in a row"),
        ("live", ", ".join(live.all()) or "-"),
    ]
    emit(
        "\n".join(
            format_table((), [(f"{key}:", value) for key, value in lines], asked.invocation.page)
        )
    )
    for firing in recent:
        how = firing.failure_reason or ("running" if firing.completed_at is None else "done")
        emit(f"  task {firing.task_id}: {escape(how)}, {format_when(firing.fired_at, now=now)}")
    return EXIT_DONE


def _next(asked: _Asked) -> int:
    from tinyscheduler.app.schedules import upcoming
    from tinyscheduler.core.firing_times import check_timing

    config = asked.invocation.configure_reading()
    schedules = _open(config, writes=False)
    now, number = schedules.now(), asked.values["number"] or _NEXT
    if asked.rest:
        one = schedules.store.schedule(asked.schedule_id())
        timing = one.timing
    else:
        timing = _timing(asked, now)
        try:
            check_timing(timing, anchor=now)
        except ValueError as error:
            raise UsageError(str(error), hint="`tinyscheduler schedule add --help`") from error
        from tinyscheduler.model.tasks import TaskSpec

        one = Schedule(
            schedule_id="", name="", timing=timing, spec=TaskSpec(), created_at=now, anchor=now
        )
    times = list(upcoming(one, now, number))
    if asked.is_json:
        emit_json(
            description=_words(timing),
            zone=timing.zone,
            next_fire_times=[format_time(slot) for slot in times],
        )
        return EXIT_DONE
    emit(_words(timing))
    for slot in times:
        emit(f"  {_local(slot, timing.zone)}  {format_when(slot, now=now)}")
    return EXIT_DONE


# -- change ---------------------------------------------------------------------------


def _remove(asked: _Asked) -> int:
    name = asked.schedule_id()
    schedules = _open(asked.invocation.configure_changing(), writes=True)
    live = schedules.store.remove(name)
    if asked.is_json:
        emit_json(schedule_id=name, removed=True, live=list(live.all()))
    else:
        number = len(live.all())
        left = f"; what it fired goes on: {count(number, 'firing')}" if number else ""
        asked.invocation.answer(f"schedule {name} is removed{left}")
    return EXIT_DONE


def _pause(asked: _Asked) -> int:
    from tinyscheduler.app.schedules import pause_schedule

    name = asked.schedule_id()
    schedules = _open(asked.invocation.configure_changing(), writes=True)
    before = pause_schedule(schedules, name, why=None)
    is_new = before.state is not ScheduleState.PAUSED
    if asked.is_json:
        emit_json(schedule=_json(schedules.store.schedule(name)), is_changed=is_new)
    else:
        words = "is paused" if is_new else "was paused already"
        asked.invocation.answer(f"schedule {name} {words}")
    return EXIT_DONE


def _resume(asked: _Asked) -> int:
    from tinyscheduler.app.schedules import resume_schedule

    name = asked.schedule_id()
    schedules = _open(asked.invocation.configure_changing(), writes=True)
    before, after = resume_schedule(schedules, name)
    is_new = before.state is not ScheduleState.ACTIVE
    if asked.is_json:
        emit_json(schedule=_json(after), is_changed=is_new)
    else:
        words = "goes on" if is_new else "was not paused"
        first = format_when(after.next_fire_at, now=schedules.now())
        asked.invocation.answer(f"schedule {name} {words}; next {first}")
    return EXIT_DONE


def _run(asked: _Asked) -> int:
    from tinyscheduler.app.kicks import kick
    from tinyscheduler.app.schedules import run_by_hand

    name = asked.schedule_id()
    config = asked.invocation.configure_changing()
    schedules = _open(config, writes=True)
    is_forced = asked.values["force"]
    task_id = run_by_hand(schedules, name, is_forced=is_forced, by=getpass.getuser())
    kick(config)
    if asked.is_json:
        emit_json(task_id=task_id, forced=is_forced)
    else:
        emit(task_id)
    return EXIT_DONE


# -- words ----------------------------------------------------------------------------


def _words(timing: Timing) -> str:
    from tinyscheduler.core.firing_times import describe

    return describe(timing)


def _local(moment: datetime | None, zone: str | None = None) -> str:
    if moment is None:
        return "never"
    if zone is None:
        return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"
    from zoneinfo import ZoneInfo

    return f"{moment.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"


def _json(one: Schedule) -> dict[str, Any]:
    timing = one.timing
    hours = timing.active_hours
    return {
        "schedule_id": one.schedule_id,
        "state": one.state.value,
        "description": _words(timing),
        "cron": timing.cron,
        "every_sec": timing.every_s,
        "at": time_or_none(timing.at),
        "zone": timing.zone,
        "jitter_sec": timing.jitter_s,
        "active_hours": None if hours is None else [hours.begin_minute, hours.end_minute],
        "overlap": one.overlap.value,
        "catch_up": one.catch_up.value,
        "catch_up_window_sec": one.catch_up_window_s,
        "max_firings": one.max_firings,
        "expires_at": time_or_none(one.expires_at),
        "max_run_duration_sec": one.max_run_duration_s,
        "agent": one.spec.agent,
        "queue": one.spec.queue,
        "project": one.spec.project,
        "max_turns": one.spec.max_turns,
        "next_fire_at": time_or_none(one.next_fire_at) if _fires(one) else None,
        "last_fired_at": time_or_none(one.last_fired_at),
        "fired": one.fired,
        "passed_over": one.passed_over,
        "failure_streak": one.failure_streak,
        "last_failure_reason": one.last_failure,
        "why_paused": one.why_paused,
        "created_at": format_time(one.created_at),
    }


_DOERS: dict[Action, Callable[[_Asked], int]] = {
    Action.ADD: _add,
    Action.LIST: _list,
    Action.SHOW: _show,
    Action.REMOVE: _remove,
    Action.PAUSE: _pause,
    Action.RESUME: _resume,
    Action.RUN: _run,
    Action.NEXT: _next,
}
