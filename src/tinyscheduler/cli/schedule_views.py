"""``schedule list``, ``show`` and ``next``: which there are, and when they fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    emit,
    emit_json,
    escape,
    format_table,
    format_when,
)
from tinyscheduler.cli.schedule_request import open_store, timing_of
from tinyscheduler.cli.schedule_texts import (
    fires,
    local_time,
    schedule_json,
    words_of,
    words_on_turns,
)
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import Schedule, ScheduleState

if TYPE_CHECKING:
    from tinyscheduler.cli.schedule_request import Request

_NEXT = 3
_INK_OF_STATE = {
    ScheduleState.ACTIVE: Ink.GREEN,
    ScheduleState.PAUSED: Ink.YELLOW,
    ScheduleState.COMPLETED: Ink.DIM,
    ScheduleState.EXPIRED: Ink.DIM,
}


def show_all(asked: Request) -> int:
    """Print a table of all schedules."""
    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    found = schedules.store.schedules()
    if asked.is_json:
        emit_json(schedules=[schedule_json(one) for one in found])
        return EXIT_DONE
    if not found:
        asked.invocation.note("no schedule yet: `tinyscheduler schedule add --help`")
        return EXIT_DONE
    now = schedules.now()
    rows: list[Row] = [
        (
            one.schedule_id,
            Cell(text=one.state, ink=_INK_OF_STATE[one.state]),
            format_when(one.next_fire_at, now=now) if fires(one) else "-",
            format_when(one.last_fired_at, now=now),
            str(one.fired),
            str(one.failure_streak),
            words_of(one.timing),
        )
        for one in found
    ]
    head = ("ID", "STATE", "NEXT", "LAST", "FIRED", "FAILED", "WHEN")
    emit("\n".join(format_table(head, rows, asked.invocation.page)))
    return EXIT_DONE


def show_one(asked: Request) -> int:
    """Print what is known of a schedule."""
    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    one = schedules.store.schedule(asked.schedule_id())
    live = schedules.store.live(one.schedule_id)
    recent = schedules.store.metrics(one.schedule_id, limit=5)
    if asked.is_json:
        emit_json(
            schedule=schedule_json(one),
            live={"waiting": list(live.waiting), "running": [name for name, _ in live.working]},
        )
        return EXIT_DONE
    now = schedules.now()
    lines = [
        ("schedule", one.schedule_id),
        ("state", one.state + (f": {one.why_paused}" if one.why_paused else "")),
        ("when", words_of(one.timing)),
        ("next", local_time(one.next_fire_at) if fires(one) else "-"),
        ("agent", one.spec.agent or f"any of queue {one.spec.queue}"),
        ("runs", " ".join(one.spec.command) or (one.spec.prompt or "-")),
        ("overlap", one.overlap),
        ("catch-up", one.catch_up),
        ("fired", f"{one.fired}, passed over {one.passed_over}"),
        ("failed", f"{one.failure_streak} in a row"),
        ("turns", words_on_turns(one)),
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


def show_next(asked: Request) -> int:
    """Print the times to come, of a schedule or of an expression."""
    from tinyscheduler.app.schedules import upcoming
    from tinyscheduler.core.firing_times import check_timing

    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    now, number = schedules.now(), asked.values["number"] or _NEXT
    if asked.rest:
        one = schedules.store.schedule(asked.schedule_id())
        timing = one.timing
    else:
        timing = timing_of(asked, now)
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
            description=words_of(timing),
            zone=timing.zone,
            next_fire_times=[format_time(slot) for slot in times],
        )
        return EXIT_DONE
    emit(words_of(timing))
    for slot in times:
        emit(f"  {local_time(slot, timing.zone)}  {format_when(slot, now=now)}")
    return EXIT_DONE
