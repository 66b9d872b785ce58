"""``pressure``: somebody is at work at this machine, and schedules make way."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import duration_s, whole_number
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    count,
    emit,
    emit_json,
    format_span,
    format_table,
    format_when,
)
from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.pressure import InteractivePressure, PressureKind
from tinyscheduler.model.tasks import TASK_ID_RULE, is_task_id

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.adapters.pressure_files import PressureFiles
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.model.config import Config


class Action(StrEnum):
    """What to say, or to ask."""

    ON = "on"
    OFF = "off"
    LIST = "list"


_ID = "default"
_TTL_S = 120.0
_LONGEST_TTL_S = 7 * 86_400.0
_MOST_PID = 1 << 22


def pressure(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    name: Annotated[
        str | None, option("--id", metavar="ID", help="Who is at work; default, if not said.")
    ] = None,
    ttl: Annotated[
        str | None,
        option("--ttl", metavar="DURATION", help="With on: for so long, at most a week; 2m."),
    ] = None,
    pid: Annotated[
        int | None,
        option(
            "--pid",
            parser=whole_number(least=1, most=_MOST_PID),
            metavar="PID",
            help="With on: no longer than this process lives.",
        ),
    ] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Say that somebody is at work, so that schedules make way.

    While anybody is, what is due is put off by SCHEDULE_CHAT_PRESSURE_DELAY_SEC, ten times in a
    row at most; firings that wait stay where they are, those that run go on. `on` holds until
    `off`, until its time or its process is over; said again, it holds from then on.
    """
    invocation: Invocation = context.obj
    _refuse_unused(action, {"--id": name, "--ttl": ttl, "--pid": pid})
    if name is not None and not is_task_id(name):
        raise UsageError(f"--id {quote(name)} is no name", hint=TASK_ID_RULE)
    match action:
        case Action.ON:
            return _on(invocation, name or _ID, ttl_s=_ttl_s(ttl), pid=pid, as_json=json)
        case Action.OFF:
            return _off(invocation, name or _ID, as_json=json)
        case Action.LIST:
            return _list(invocation, as_json=json)


def _refuse_unused(action: Action, given: dict[str, object]) -> None:
    """Refuse what means nothing there: whoever wrote it expects that it does something."""
    used = {Action.ON: {"--id", "--ttl", "--pid"}, Action.OFF: {"--id"}, Action.LIST: set[str]()}
    for option_name, value in given.items():
        if value is not None and option_name not in used[action]:
            raise UsageError(
                f"pressure {action} takes no {option_name}", hint="`tinyscheduler pressure --help`"
            )


def _ttl_s(text: str | None) -> float:
    if text is None:
        return _TTL_S
    found = duration_s("--ttl", text)
    if not 0 < found <= _LONGEST_TTL_S:
        raise UsageError(
            f"--ttl {quote(text)} is not between 1s and 7d",
            hint="say it again while somebody is at work, or name the process with --pid",
        )
    return found


def _on(invocation: Invocation, name: str, *, ttl_s: float, pid: int | None, as_json: bool) -> int:
    from tinyscheduler.app.place import make_state_folder, refuse_foreign_state
    from tinyscheduler.app.pressure import name_of_user

    config = invocation.configure_writing()
    refuse_foreign_state(config)
    make_state_folder(config)
    made, was_on = _markers(invocation, config).set(name, ttl_s=ttl_s, pid=pid, by=name_of_user())
    if as_json:
        emit_json(pressure=pressure_json(made), is_changed=not was_on)
        return EXIT_DONE
    words = "is at work still" if was_on else "is at work"
    owner = "" if pid is None else f", and while process {pid} lives"
    invocation.answer(f"{name} {words}: schedules make way for {format_span(ttl_s)}{owner}")
    return EXIT_DONE


def _off(invocation: Invocation, name: str, *, as_json: bool) -> int:
    from tinyscheduler.app.kicks import kick
    from tinyscheduler.app.place import refuse_foreign_state

    config = invocation.configure_changing()
    refuse_foreign_state(config)
    markers = _markers(invocation, config)
    lifted = markers.lift(name)
    left = markers.live()
    if lifted is not None and not left:
        # What made way while it waited may begin.
        kick(config)
    if as_json:
        emit_json(id=name, is_changed=lifted is not None, live=[pressure_json(one) for one in left])
        return EXIT_DONE
    words = f"{name} is at work no more" if lifted is not None else f"{name} was not at work"
    if left:
        words += f"; {count(len(left), 'other')} still: {', '.join(one.name for one in left[:9])}"
    invocation.answer(words)
    return EXIT_DONE


def _list(invocation: Invocation, *, as_json: bool) -> int:
    from tinyscheduler.adapters.clock_system import SystemClock
    from tinyscheduler.app.ticks import pressures_of

    config = invocation.configure_reading()
    found = pressures_of(config, warn=invocation.warn)
    if as_json:
        emit_json(
            pressures=[pressure_json(one) for one in found],
            sources=["marker", *config.pressure_sources],
        )
        return EXIT_DONE
    if not found:
        invocation.note("nobody is at work")
        return EXIT_DONE
    now = SystemClock().now().wall
    head = ("ID", "KIND", "SINCE", "UNTIL", "PID", "BY")
    rows = [_row(one, now) for one in found]
    emit("\n".join(format_table(head, rows, invocation.page)))
    return EXIT_DONE


def _row(one: InteractivePressure, now: datetime) -> Row:
    return (
        one.name,
        Cell(text=one.kind, ink=Ink.PLAIN if one.kind is PressureKind.MARKER else Ink.DIM),
        "-" if one.since is None else format_when(one.since, now=now),
        "-" if one.ends_at is None else format_when(one.ends_at, now=now),
        "-" if one.pid is None else str(one.pid),
        one.by or "-",
    )


def pressure_json(one: InteractivePressure) -> dict[str, Any]:
    """Return what `--json` tells of one who is at work."""
    return {
        "id": one.name,
        "kind": one.kind.value,
        "since": time_or_none(one.since),
        "ends_at": time_or_none(one.ends_at),
        "pid": one.pid,
        "by": one.by,
    }


def _markers(invocation: Invocation, config: Config) -> PressureFiles:
    from tinyscheduler.adapters.clock_system import SystemClock
    from tinyscheduler.adapters.pressure_files import PressureFiles

    return PressureFiles(config.paths, SystemClock(), warn=invocation.warn, may_write=True)
