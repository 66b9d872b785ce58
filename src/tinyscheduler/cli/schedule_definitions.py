"""``schedule add``: what recurs, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.cli import add as adding
from tinyscheduler.cli.render import emit_json, format_when
from tinyscheduler.cli.schedule_request import moment, open_store, seconds, timing_of
from tinyscheduler.cli.schedule_texts import schedule_json, words_of
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.schedules import CatchUp, Overlap, Schedule
from tinyscheduler.model.tasks import TASK_ID_RULE, is_task_id

if TYPE_CHECKING:
    from tinyscheduler.cli.schedule_request import Request


def add(asked: Request) -> int:
    """Keep a new schedule, and tell when it fires first."""
    from tinyscheduler.app.schedules import add_schedule

    name = asked.values["name"]
    if name is None or not is_task_id(name):
        what = "needs --name" if name is None else f"--name {quote(name)} is no name"
        raise UsageError(f"schedule add {what}", hint=TASK_ID_RULE)
    config = asked.invocation.configure_writing()
    schedules = open_store(config, writes=True)
    now = schedules.now()
    values = {**asked.values, "command": list(asked.rest), "after": None, "not_before": None}
    spec = adding.granter_for(config, schedules.queue).grant(
        adding.wish_of({**values, "hold": False})
    )
    made = add_schedule(
        schedules,
        Schedule(
            schedule_id=name,
            name=name,
            timing=timing_of(asked, now),
            spec=spec,
            overlap=asked.values["overlap"] or Overlap.SKIP,
            catch_up=asked.values["catch_up"] or CatchUp.LATEST,
            max_firings=asked.values["max_firings"],
            expires_at=moment("--expires", asked.values["expires"], now),
            max_run_duration_s=seconds("--max-run-duration", asked.values["max_run_duration"]),
            created_at=now,
            anchor=now,
        ),
    )
    if asked.is_json:
        emit_json(schedule=schedule_json(made), warnings=[])
    else:
        first = format_when(made.next_fire_at, now=now)
        asked.invocation.answer(f"{name}: {words_of(made.timing)}; next {first}")
    return EXIT_DONE
