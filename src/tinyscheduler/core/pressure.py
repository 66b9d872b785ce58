"""Who makes way for somebody at work, and for how long?

A time that is due is put off by a delay, again and again; a firing that waits in the queue
stays there.  Neither longer than so many delays: who works all day must not starve what recurs.
"""

from __future__ import annotations

from datetime import timedelta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.model.schedules import Schedule
    from tinyscheduler.model.tasks import WaitingTask

# In a row; then it goes whoever is at work.
MOST_DEFERRALS = 10
_MOST_NAMED = 2


def is_patient(schedule: Schedule) -> bool:
    """Whether a schedule that is due can be put off once more."""
    return schedule.deferrals < MOST_DEFERRALS


def name_pressed_by(names: Sequence[str]) -> str:
    """Say who is at work, by a name or two.

    >>> name_pressed_by(["chat"]), name_pressed_by(["chat", "seat:ann", "gpu:17", "x"])
    ('chat', 'chat, seat:ann and 2 more')
    """
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def makes_way_until(task: WaitingTask, *, delay_s: float, now: datetime) -> datetime | None:
    """Return until when a firing that waits makes way for somebody at work; None if it does not.

    As long after its own time as one is put off that is due, so that what was put off for so
    long does not wait again.  One by hand has no such time, and one that is forced does not care.
    Where the clock has been set back since it was added, nobody knows how long it has waited.
    """
    if task.slot is None or task.is_forced:
        return None
    until = task.slot + timedelta(seconds=MOST_DEFERRALS * delay_s)
    was_set_back = task.created_at is not None and now < task.created_at
    return None if was_set_back or now >= until else until
