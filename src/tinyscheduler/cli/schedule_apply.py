"""``schedule apply``: the schedules are made what a file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.render import Ink, count, emit, emit_json, escape
from tinyscheduler.cli.schedule_definitions import (
    explained,
    explanation,
    explanation_lines,
    tell,
    warnings_about,
)
from tinyscheduler.cli.schedule_differences import difference_words, differences
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.cli.schedule_texts import schedule_json
from tinyscheduler.cli.schedule_wish import ScheduleGranter
from tinyscheduler.cli.schedules_file import (
    SPELLING,
    STDIN,
    Declared,
    SchedulesFile,
    read_schedules_file,
)
from tinyscheduler.cli.wish import Granter
from tinyscheduler.core.firing_times import check_timing
from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, ConfigError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.app.declaring import Declaration, Difference
    from tinyscheduler.app.schedule_warnings import ScheduleWarning
    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.schedule_request import Request
    from tinyscheduler.model.schedules import Schedule


def apply(asked: Request) -> int:
    """Make the schedules what the file says, in one step, and show what differed."""
    from tinyscheduler.app.declaring import apply_declaration, compare

    name, is_dry = _file(asked), asked.values["dry_run"]
    prunes = asked.values["prune"]
    if prunes and name == STDIN:
        raise UsageError(
            "--prune cannot know what standard input declared before",
            hint="apply a file by its name",
        )
    invocation = asked.invocation
    config = invocation.configure_reading() if is_dry else invocation.configure_writing()
    found = read_schedules_file(name)
    schedules = open_store(config, writes=not is_dry)
    declaration = _declaration(found, schedules)
    found.refuse()
    if is_dry:
        existing = schedules.store.schedules()
        difference = compare(existing, declaration, schedules.now(), prunes=prunes)
    else:
        difference = apply_declaration(schedules, declaration, prunes=prunes)
    warnings = _warnings(invocation, schedules, difference)
    if asked.is_json:
        emit_json(
            file=found.path,
            dry_run=is_dry,
            **_document(difference),
            warnings=[one.document() for one in warnings],
        )
    else:
        _show(invocation, difference, found, schedules.now(), is_dry=is_dry)
    tell(invocation, warnings)
    return EXIT_DONE


def check_file(asked: Request) -> int:
    """Say what a file would mean: each of its faults, or each of its schedules."""
    from tinyscheduler.app.declaring import compare

    name = _file(asked)
    schedules = open_store(asked.invocation.configure_reading(), writes=False)
    now = schedules.now()
    found = read_schedules_file(name)
    declaration = _declaration(found, schedules)
    difference = None
    if not found.problems:
        try:
            difference = compare(schedules.store.schedules(), declaration, now, prunes=False)
        except ConfigError as error:
            found.fault(error.where, error.message, error.hint or "")
    if difference is None:
        return _tell_problems(asked, found)
    warnings = _warnings(asked.invocation, schedules, difference)
    shown = [one for one in difference.result() if one.schedule_id in declaration.places]
    if asked.is_json:
        emit_json(
            file=found.path,
            is_valid=True,
            problems=[],
            schedules=[{"schedule_id": one.schedule_id, **explanation(one, now)} for one in shown],
            **_document(difference),
            warnings=[one.document() for one in warnings],
        )
    else:
        for one in shown:
            lines = explanation_lines(one, now)
            emit("\n".join([f"{one.schedule_id}: {lines[0]}", *lines[1:]]))
        asked.invocation.answer(f"{escape(found.shown)}: {_summary(difference, is_dry=True)}")
    tell(asked.invocation, warnings)
    return EXIT_DONE


def _tell_problems(asked: Request, found: SchedulesFile) -> int:
    if asked.is_json:
        problems = [
            {"where": one.setting, "message": one.message, "fix": one.fix} for one in found.problems
        ]
        emit_json(file=found.path, is_valid=False, problems=problems)
    else:
        for one in found.problems:
            asked.invocation.fail(one.sentence, hint=one.fix)
    return EXIT_CONFIG


def _file(asked: Request) -> str:
    """Return the one file that is named, by -f or alone."""
    name, rest = asked.values["file"], asked.rest
    names: list[str] = [*([] if name is None else [name]), *rest]
    if len(names) != 1:
        what = "needs a file" if not names else "takes one file"
        hint = f"`tinyscheduler schedule {asked.action} -f schedules.yaml`"
        raise UsageError(f"schedule {asked.action} {what}", hint=hint)
    return names[0]


def _declaration(found: SchedulesFile, schedules: Schedules) -> Declaration:
    """Return the schedules of a file; what is wrong with one is a problem of the file."""
    from tinyscheduler.app.declaring import Declaration

    granter = Granter(
        config=schedules.queue.config,
        # As if each were added there: it means the same wherever the file is applied.
        folder=found.folder,
        now=schedules.now(),
        spell=lambda name: SPELLING.get(name, name),
    )
    definer, wished = ScheduleGranter(granter=granter), []
    places = {one.name: one.place for one in found.declared.values()}
    is_faulty = {
        problem.setting.rpartition(": ")[2].partition(".")[0] for problem in found.problems
    }
    for one in found.declared.values():
        if one.name in is_faulty:
            continue
        try:
            schedule = definer.define(one.name, one.values)
            check_timing(schedule.timing, anchor=schedule.anchor)
            wished.append(schedule)
        except UsageError as error:
            found.fault(_place_of(error, one.places) or one.place, error.what, error.hint or "")
        except ValueError as error:
            found.fault(_place_of_timing(one), str(error), "change it, or leave it out")
    found.problems.sort(key=found.line_of)
    return Declaration(path=found.path, wished=tuple(wished), places=places)


def _place_of(error: UsageError, places: dict[str, str]) -> str | None:
    """Return where the key stands that a fault begins with, if it does."""
    word = error.what.partition(" ")[0].rstrip(":")
    return next((place for name, place in places.items() if SPELLING[name] == word), None)


def _place_of_timing(one: Declared) -> str:
    """Return where it is said when a schedule fires, or what its timing does not go with."""
    names = ("jitter", "active_hours", "cron", "every", "at")
    return next((one.places[name] for name in names if name in one.places), one.place)


def _warnings(
    invocation: Invocation, schedules: Schedules, difference: Difference
) -> list[ScheduleWarning]:
    changes: list[tuple[Schedule | None, Schedule]] = [(None, one) for one in difference.added]
    changes += difference.changed
    return warnings_about(invocation, schedules, changes, difference.result())


def _document(difference: Difference) -> dict[str, Any]:
    return {
        "added": [schedule_json(one) for one in difference.added],
        "changed": [
            {"schedule_id": new.schedule_id, "changed": differences(old, new)}
            for old, new in difference.changed
        ],
        "unchanged": [one.schedule_id for one in difference.unchanged],
        "removed": [one.schedule_id for one in difference.removed],
        "undeclared": [one.schedule_id for one in difference.undeclared],
    }


def _show(
    invocation: Invocation,
    difference: Difference,
    found: SchedulesFile,
    now: datetime,
    *,
    is_dry: bool,
) -> None:
    paint = invocation.page.paint
    lines = [
        paint(f"+ {one.schedule_id}", Ink.GREEN) + f"  {explained(one, now)}"
        for one in difference.added
    ]
    for old, new in difference.changed:
        lines.append(paint(f"~ {new.schedule_id}", Ink.YELLOW))
        lines += [f"    {difference_words(one)}" for one in differences(old, new)]
    lines += [paint(f"- {one.schedule_id}", Ink.RED) for one in difference.removed]
    lines.append(f"{escape(found.shown)}: {_summary(difference, is_dry=is_dry)}")
    invocation.answer("\n".join(lines))
    if difference.undeclared:
        names = ", ".join(one.schedule_id for one in difference.undeclared)
        number = count(len(difference.undeclared), "schedule")
        invocation.note(f"{number} it declares no more: {names}; --prune removes them")


def _summary(difference: Difference, *, is_dry: bool) -> str:
    parts = [
        (len(difference.added), "added"),
        (len(difference.changed), "changed"),
        (len(difference.removed), "removed"),
    ]
    done = ", ".join(f"{number} {word}" for number, word in parts if number)
    same = f"{len(difference.unchanged)} unchanged"
    if not done:
        return f"nothing to do, {same}"
    return f"would be {done}; {same}" if is_dry else f"{done}, {same}"
