"""``schedule list``, ``show`` and ``next``: which there are, and when they fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.cli.add import spell_option
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    count,
    emit,
    emit_json,
    escape,
    format_span,
    format_table,
    format_when,
)
from tinyscheduler.cli.schedule_differences import definition, said
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.cli.schedule_texts import (
    fires,
    local_time,
    schedule_json,
    words_of,
    words_on_turns,
)
from tinyscheduler.cli.schedule_wish import timing_of
from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import Schedule, ScheduleKind, ScheduleState
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.cli.schedule_request import Request
    from tinyscheduler.model.schedules import FiringRecord, LiveFirings

_NEXT = 3
_FIRINGS = 20
# What of a definition has no line of its own: told where it was said.
_BESIDE = (
    *("catch_up_window", "max_firings", "expires", "max_run_duration", "title", "priority"),
    *("class", "gpus", "vram", "memory", "model", "seed", "tenant", "project", "max_attempts"),
    *("labels", "cwd", "env"),
)
_INK_OF_END = {
    "done": Ink.GREEN,
    "running": Ink.BLUE,
    "waiting": Ink.PLAIN,
    "held": Ink.DIM,
    "cancelled": Ink.DIM,
}
_INK_OF_STATE = {
    ScheduleState.ACTIVE: Ink.GREEN,
    ScheduleState.PAUSED: Ink.YELLOW,
    ScheduleState.COMPLETED: Ink.DIM,
    ScheduleState.EXPIRED: Ink.DIM,
}


def show_all(asked: Request) -> int:
    """Print a table of all schedules."""
    if asked.rest:
        raise UsageError("schedule list takes no ID", hint="`tinyscheduler schedule show ID`")
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
            format_when(one.deferred_until or one.next_fire_at, now=now) if fires(one) else "-",
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
    live = schedules.store.live(one)
    recent = schedules.store.metrics(one.schedule_id, limit=5)
    if asked.is_json:
        emit_json(
            schedule=schedule_json(one),
            definition=definition(one),
            fired_today=live.fired_today if one.max_per_day is not None else None,
            live={"waiting": list(live.waiting), "running": [name for name, _ in live.working]},
        )
        return EXIT_DONE
    now = schedules.now()
    lines = [
        ("schedule", one.schedule_id),
        ("state", one.state + (f": {one.why_paused}" if one.why_paused else "")),
        *_resume_lines(one),
        ("when", words_of(one.timing)),
        ("next", local_time(one.next_fire_at) if fires(one) else "-"),
        ("agent", one.spec.agent or f"any of queue {one.spec.queue}"),
        ("runs", _work_words(one)),
        ("declared in", one.declared_in or "-"),
        ("overlap", one.overlap),
        ("catch-up", one.catch_up),
        *((name.replace("_", " "), text) for name, text in said(one).items() if name in _BESIDE),
        *_heartbeat_lines(one),
        ("fired", _fired_words(one, live)),
        ("failed", f"{one.failure_streak} in a row"),
        ("turns", words_on_turns(one, config.agent(one.spec.agent) if one.spec.agent else None)),
        ("live", ", ".join(live.all()) or "-"),
    ]
    if one.deferrals and fires(one):
        until = format_when(one.deferred_until, now=now)
        words = f"{count(one.deferrals, 'time')} in a row, due again {until}: pressure"
        lines.insert(4, ("deferred", f"{words}, `tinyscheduler pressure list` shows whose"))
    emit(
        "\n".join(
            format_table((), [(f"{key}:", value) for key, value in lines], asked.invocation.page)
        )
    )
    for firing in recent:
        at_work = "waiting" if firing.claimed_at is None else "running"
        how = firing.failure_reason or (at_work if firing.completed_at is None else "done")
        emit(f"  task {firing.task_id}: {escape(how)}, {format_when(firing.fired_at, now=now)}")
    return EXIT_DONE


def _resume_lines(one: Schedule) -> list[tuple[str, str]]:
    """Say how a pause ends, apart from why it is one: of a narrow table the right is cut off."""
    if one.state is not ScheduleState.PAUSED:
        return []
    return [("goes on by", f"`tinyscheduler schedule resume {one.schedule_id}`")]


def _work_words(one: Schedule) -> str:
    import shlex

    return shlex.join(one.spec.command) or one.spec.prompt or f"recipe {one.spec.recipe or '-'}"


def _heartbeat_lines(one: Schedule) -> list[tuple[str, str]]:
    if one.kind is not ScheduleKind.HEARTBEAT:
        return []
    return [
        ("checklist", one.checklist or "its prompt"),
        ("nothing to do", count(one.suppressed, "time")),
    ]


def _fired_words(one: Schedule, live: LiveFirings) -> str:
    words = f"{one.fired}, passed over {one.passed_over}"
    if one.max_per_day is None:
        return words
    return f"{words}; {live.fired_today} of {one.max_per_day} today"


def show_next(asked: Request) -> int:
    """Print the times to come, of a schedule or of an expression."""
    from tinyscheduler.core.firing_times import check_timing
    from tinyscheduler.core.schedule_edits import upcoming

    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    now, number = schedules.now(), asked.values["number"] or _NEXT
    if asked.rest:
        one = schedules.store.schedule(asked.schedule_id())
        timing = one.timing
    else:
        timing = timing_of(asked.values, now, spell_option)
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


def show_history(asked: Request) -> int:
    """Print what became of the newest firings of a schedule."""
    from tinyscheduler.adapters.sqlite.firing_history import FiringHistory

    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    one = schedules.store.schedule(asked.schedule_id())
    history = FiringHistory(schedules.queue.database)
    found = history.firings(one.schedule_id, limit=asked.values["number"] or _FIRINGS)
    if asked.is_json:
        emit_json(schedule_id=one.schedule_id, firings=[_firing_json(firing) for firing in found])
        return EXIT_DONE
    if not found:
        asked.invocation.note(f"schedule {one.schedule_id} has fired nothing that is on record")
        return EXIT_DONE
    now = schedules.now()
    rows: list[Row] = [
        (
            firing.task_id,
            "by hand" if firing.slot is None else local_time(firing.slot, one.timing.zone),
            format_when(firing.fired_at, now=now),
            _span(firing.wait_ms),
            _span(firing.duration_ms),
            "-" if firing.turns is None else str(firing.turns),
            Cell(text=_how(firing), ink=_INK_OF_END.get(_how(firing), Ink.RED)),
        )
        for firing in found
    ]
    head = ("TASK", "FOR", "FIRED", "WAITED", "TOOK", "TURNS", "HOW IT ENDED")
    emit("\n".join(format_table(head, rows, asked.invocation.page)))
    return EXIT_DONE


def _how(firing: FiringRecord) -> str:
    """Return how a firing ended, or that it has not."""
    if firing.failure_reason is not None:
        return firing.failure_reason
    if firing.state is not None:
        return "running" if firing.state is TaskState.WORKING else firing.state.value
    return "running" if firing.ended_at is None else TaskState.DONE.value


def _span(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else format_span(milliseconds / 1000)


def _firing_json(firing: FiringRecord) -> dict[str, Any]:
    return {
        "task_id": firing.task_id,
        "slot": time_or_none(firing.slot),
        "is_by_hand": firing.slot is None,
        "fired_at": format_time(firing.fired_at),
        "ended_at": time_or_none(firing.ended_at),
        "outcome": _how(firing),
        "failure_reason": firing.failure_reason,
        "wait_ms": firing.wait_ms,
        "duration_ms": firing.duration_ms,
        "turns": firing.turns,
        "max_turns": firing.max_turns,
    }
