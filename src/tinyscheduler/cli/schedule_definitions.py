"""``schedule add``, ``edit`` and ``check``: what recurs, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli import add as adding
from tinyscheduler.cli.render import emit, emit_json, format_when
from tinyscheduler.cli.schedule_differences import difference_words, differences
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.cli.schedule_texts import fires, local_time, schedule_json, words_of
from tinyscheduler.cli.schedule_wish import (
    DEFINING,
    ScheduleGranter,
    parameter_of,
    read_unset,
    timing_of,
)
from tinyscheduler.errors import EXIT_DONE, StoreError, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import Schedule, ScheduleState
from tinyscheduler.model.tasks import TASK_ID_RULE, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from tinyscheduler.app.schedule_warnings import ScheduleWarning
    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.schedule_request import Request

SHOWN_TIMES = 3
_UNNAMED = "this"


def add(asked: Request) -> int:
    """Keep a new schedule, and tell when it fires first."""
    from tinyscheduler.app.schedules import add_schedule

    name = asked.values["name"]
    if name is None:
        raise UsageError("schedule add needs --name", hint=TASK_ID_RULE)
    config = asked.invocation.configure_writing()
    schedules = open_store(config, writes=True)
    definer = ScheduleGranter(granter=adding.granter_for(config, schedules.queue))
    made = add_schedule(schedules, definer.define(name, _values(asked, asked.rest)))
    warnings = warnings_about(asked.invocation, schedules, [(None, made)])
    if asked.is_json:
        emit_json(schedule=schedule_json(made), warnings=[one.document() for one in warnings])
    else:
        asked.invocation.answer(f"{name}: {explained(made, schedules.now())}")
    tell(asked.invocation, warnings)
    return EXIT_DONE


def edit(asked: Request) -> int:
    """Change what is given of a schedule, and show what is other than before."""
    from tinyscheduler.app.schedule_warnings import declared_elsewhere
    from tinyscheduler.app.schedules import edit_schedule

    if not asked.rest:
        raise UsageError("schedule edit needs an ID", hint="`tinyscheduler schedule edit ID`")
    name, unset = asked.rest[0], read_unset(asked.values["unset"] or ())
    values = _values(asked, asked.rest[1:])
    if not unset and not any(value is not None for value in values.values()):
        raise UsageError(
            "there is nothing to change", hint="`tinyscheduler schedule --help` lists what can be"
        )
    for one in unset:
        if values.get(parameter_of(one)) is not None:
            raise UsageError(
                f"--{one} and --unset {one} cannot be given together", hint="leave one out"
            )
    config = asked.invocation.configure_strictly()
    schedules = open_store(config, writes=True)
    definer = ScheduleGranter(granter=adding.granter_for(config, schedules.queue))
    before, after = edit_schedule(
        schedules,
        name,
        lambda found: definer.amend(found, values, unset=unset),
        revision=asked.values["revision"],
    )
    told = differences(before, after)
    warnings = warnings_about(asked.invocation, schedules, [(before, after)])
    warnings += [one for one in (declared_elsewhere(after),) if one is not None and told]
    if asked.is_json:
        emit_json(
            schedule=schedule_json(after),
            changed=told,
            warnings=[one.document() for one in warnings],
        )
    elif told:
        lines = [f"  {difference_words(one)}" for one in told]
        now = schedules.now()
        asked.invocation.answer("\n".join([f"{name}: {explained(after, now)}", *lines]))
    else:
        asked.invocation.answer(f"schedule {name} stays as it is")
    tell(asked.invocation, warnings)
    return EXIT_DONE


def check(asked: Request) -> int:
    """Say what options or a file would mean, and change nothing."""
    from tinyscheduler.app.schedules import begun

    values = _values(asked, asked.rest)
    is_file = asked.values["file"] is not None
    if is_file or (asked.rest and all(values[one] is None for one in ("cron", "every", "at"))):
        from tinyscheduler.cli.schedule_apply import check_file

        if any(values[one] is not None for one in values if one != "command"):
            raise UsageError(
                "a file is checked without other options", hint="write them into the file"
            )
        return check_file(asked)
    config = asked.invocation.configure_reading()
    schedules = open_store(config, writes=False)
    definer = ScheduleGranter(granter=adding.granter_for(config, schedules.queue))
    name, now = asked.values["name"] or _UNNAMED, schedules.now()
    if any(
        values[one] is not None for one in ("agent", "queue", "command", "prompt", "prompt_file")
    ):
        wished = definer.define(name, values)
    else:
        timing = timing_of(values, now, adding.spell_option)
        wished = Schedule(
            schedule_id=name,
            name=name,
            timing=timing,
            spec=TaskSpec(project=values["project"], max_turns=values["max_turns"]),
            created_at=now,
            anchor=now,
        )
    one = begun(wished)
    others = [other for other in schedules.store.schedules() if other.schedule_id != name]
    warnings = warnings_about(asked.invocation, schedules, [(None, one)], [*others, one])
    if asked.is_json:
        emit_json(
            **explanation(one, now),
            zone=one.timing.zone,
            warnings=[warning.document() for warning in warnings],
        )
    else:
        emit("\n".join(explanation_lines(one, now)))
    tell(asked.invocation, warnings)
    return EXIT_DONE


def explained(one: Schedule, now: datetime) -> str:
    """Return in words when it fires, and when next."""
    words = words_of(one.timing)
    if one.state is ScheduleState.PAUSED:
        return f"{words}; it is paused"
    return (
        f"{words}; next {format_when(one.next_fire_at, now=now)}"
        if fires(one)
        else f"{words}; it is over"
    )


def explanation(one: Schedule, now: datetime) -> dict[str, Any]:
    """Return when it fires, in words and by the next times, for a document."""
    from tinyscheduler.core.schedule_edits import upcoming

    return {
        "description": words_of(one.timing),
        "next_fire_times": [format_time(slot) for slot in upcoming(one, now, SHOWN_TIMES)],
    }


def explanation_lines(one: Schedule, now: datetime) -> list[str]:
    """Return the same for people, a line a time."""
    from tinyscheduler.core.schedule_edits import upcoming

    times = upcoming(one, now, SHOWN_TIMES)
    zone = one.timing.zone
    return [
        words_of(one.timing),
        *(f"  {local_time(slot, zone)}  {format_when(slot, now=now)}" for slot in times),
    ]


def warnings_about(
    invocation: Invocation,
    schedules: Schedules,
    changes: Sequence[tuple[Schedule | None, Schedule]],
    everything: Sequence[Schedule] | None = None,
) -> list[ScheduleWarning]:
    """Return what is to be known of schedules that were added or changed, as `warnings_of` does.

    ``everything`` is looked up unless it is given.  What was done is done: that nothing can be
    known is a warning, too.
    """
    from tinyscheduler.app.schedule_warnings import warnings_of

    try:
        found = schedules.store.schedules() if everything is None else everything
        return warnings_of(schedules, changes, found)
    except StoreError as error:
        invocation.warn(f"nobody looked for collisions: {error.what} ({error.hint})")
        return []


def tell(invocation: Invocation, warnings: Iterable[ScheduleWarning]) -> None:
    """Tell people what they should know; it stands in the way of nothing."""
    for one in warnings:
        invocation.warn(one.words)


def _values(asked: Request, command: tuple[str, ...]) -> dict[str, Any]:
    """Return what defines a schedule, by the names of the parameters; None where not said."""
    values = {name: asked.values[name] for name in DEFINING if name != "command"}
    said = {name: value if value != [] else None for name, value in values.items()}
    return {**said, "command": list(command) or None}
