"""``schedule rm``, ``pause``, ``resume`` and ``run``: by hand, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.cli.pause import name_self
from tinyscheduler.cli.render import count, emit, emit_json, format_when
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.cli.schedule_texts import schedule_json
from tinyscheduler.errors import EXIT_DONE, CapacityFullError, UsageError
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.model.switches import Target, TargetKind

if TYPE_CHECKING:
    from tinyscheduler.cli.schedule_request import Request


def remove(asked: Request) -> int:
    """Forget a schedule; what it fired goes on."""
    from tinyscheduler.app.pausing import end_pause

    name = asked.schedule_id()
    schedules = open_store(asked.invocation.configure_changing(), writes=True)
    live = schedules.store.remove(name)
    end_pause(schedules.queue, Target(kind=TargetKind.SCHEDULE, name=name))
    if asked.is_json:
        emit_json(schedule_id=name, removed=True, live=list(live.all()), held=list(live.held))
    else:
        number = len(live.all()) - len(live.held)
        left = f"; what it fired goes on: {count(number, 'firing')}" if number else ""
        asked.invocation.answer(f"schedule {name} is removed{left}")
        if live.held:
            # Nobody else would: they were held when it paused itself.
            ids = " ".join(live.held)
            asked.invocation.note(
                f"it leaves {count(len(live.held), 'firing')} held: `tinyscheduler release {ids}`"
                f" lets go on, `tinyscheduler cancel {ids}` ends"
            )
    return EXIT_DONE


def pause(asked: Request) -> int:
    """Let a schedule fire nothing until it is resumed."""
    from tinyscheduler.app.schedules import pause_schedule

    name = asked.schedule_id()
    schedules = open_store(asked.invocation.configure_changing(), writes=True)
    before = pause_schedule(schedules, name, why=None)
    if before.state not in {ScheduleState.ACTIVE, ScheduleState.PAUSED}:
        raise UsageError(
            f"schedule {name} is over: there is nothing to pause",
            hint=f"`tinyscheduler schedule rm {name}` forgets it",
        )
    is_new = before.state is not ScheduleState.PAUSED
    if asked.is_json:
        emit_json(schedule=schedule_json(schedules.store.schedule(name)), is_changed=is_new)
    else:
        words = "is paused" if is_new else "was paused already"
        asked.invocation.answer(f"schedule {name} {words}")
    return EXIT_DONE


def resume(asked: Request) -> int:
    """Let a schedule fire again, from now on."""
    from tinyscheduler.app.schedules import resume_schedule

    name = asked.schedule_id()
    schedules = open_store(asked.invocation.configure_changing(), writes=True)
    before, after = resume_schedule(schedules, name)
    is_new = before.state is not ScheduleState.ACTIVE
    if asked.is_json:
        emit_json(schedule=schedule_json(after), is_changed=is_new)
    else:
        words = "goes on" if is_new else "was not paused"
        first = format_when(after.next_fire_at, now=schedules.now())
        asked.invocation.answer(f"schedule {name} {words}; next {first}")
    return EXIT_DONE


def run(asked: Request) -> int:
    """Fire a schedule now, and print the task."""
    from tinyscheduler.app.kicks import kick
    from tinyscheduler.app.schedules import run_by_hand

    name = asked.schedule_id()
    config = asked.invocation.configure_changing()
    schedules = open_store(config, writes=True)
    is_forced = asked.values["force"]
    try:
        task_id = run_by_hand(schedules, name, is_forced=is_forced, by=name_self())
    except CapacityFullError as error:
        if asked.is_json:
            emit_json(error="capacity_full", message=error.what, slotEtaSec=error.slot_eta_s)
        raise
    kick(config)
    if asked.is_json:
        emit_json(task_id=task_id, forced=is_forced)
    else:
        emit(task_id)
    return EXIT_DONE
