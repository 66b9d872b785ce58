"""What should somebody know who adds or changes a schedule?  Nothing of it stands in the way."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tinyscheduler.app.schedule_load import load_of, rivals_of
from tinyscheduler.core.collisions import Kind, Stretch
from tinyscheduler.core.expansion import BUCKET_S, moment_of, seconds_of
from tinyscheduler.core.explain import join_names
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.resources import format_size
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.core.collisions import Collision, Course
    from tinyscheduler.model.schedules import Schedule

# A day from now on, which begins within a bucket.
_LOOKED_AHEAD = timedelta(days=1, seconds=BUCKET_S)
_BOUND_IN_PROMPT = re.compile(
    r"\bMAX(?:IMUM)?(?: OF)?[ :=]+([0-9]{1,9}) (?:agent )?(?:turns|steps)\b", re.IGNORECASE
)


class WarningType(StrEnum):
    """What a warning is about."""

    CRON_COLLISION = "cron_collision"  # too many turns begin at the same time
    MEMORY_COLLISION = "memory_collision"  # firings that run at once need more than there is
    VRAM_COLLISION = "vram_collision"
    PROMPT_TURNS = "prompt_turns"  # the prompt bounds the turns, and nothing holds it to that
    SIMILAR_TURNS = "similar_turns"  # what other schedules of the same agent take
    NO_CHECKLIST = "no_checklist"  # a heartbeat whose checklist is not there, or is no file
    DECLARED = "declared_in_file"  # a file will say otherwise when it is applied again


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleWarning:
    """One thing to know about a schedule: in words, and as facts by their names."""

    type: WarningType
    schedule_id: str
    words: str
    facts: tuple[tuple[str, Any], ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as an object."""
        return {
            "type": self.type.value,
            **dict(self.facts),
            "schedule_id": self.schedule_id,
            "message": self.words,
        }


def collision_warnings(
    schedules: Schedules, changed: Sequence[Schedule], everything: Sequence[Schedule]
) -> list[ScheduleWarning]:
    """Return with which others these schedules collide within a day.

    ``everything`` is all schedules as they are now, these included; what they fire before any
    jitter counts, and only if they are active.
    """
    active = [one for one in changed if one.state is ScheduleState.ACTIVE]
    if not active:
        return []
    now = schedules.now()
    rivals = rivals_of(active, everything, schedules.queue.config)
    load = load_of(schedules, rivals, Stretch.starting(now, _LOOKED_AHEAD))
    return [
        _collision_warning(load.courses[one.schedule_id], collision, coming)
        for one in active
        for collision in load.board.collisions_of(load.courses[one.schedule_id])
        if (coming := _coming(load.courses[one.schedule_id], collision, now))
    ]


def _coming(course: Course, collision: Collision, now: datetime) -> list[datetime]:
    """Return the moments of a collision that are not over: of turns the times of its firings."""
    if collision.kind is not Kind.TURNS:
        return [max(now, moment_of(bucket * BUCKET_S)) for bucket in collision.buckets]
    buckets = set(collision.buckets)
    slots = (one for one in course.slots.seconds if one // BUCKET_S in buckets)
    return [slot for one in slots if (slot := moment_of(one)) >= now]


def _collision_warning(
    course: Course, collision: Collision, coming: Sequence[datetime]
) -> ScheduleWarning:
    zone = ZoneInfo(course.schedule.timing.zone)
    buckets = {seconds_of(one) // BUCKET_S for one in coming}
    starts = [moment_of(one * BUCKET_S).astimezone(zone) for one in buckets]
    minutes = sorted({60 * one.hour + one.minute for one in starts})
    first = coming[0]
    facts: list[tuple[str, Any]] = [
        ("overlappingSchedules", list(collision.names)),
        ("overlappingMinutes", minutes),
    ]
    if collision.kind is Kind.TURNS:
        facts.append(("estimatedConcurrentSteps", collision.amount))
        much = f"{collision.amount} turns together; {collision.limit + 1} are too many"
    else:
        facts += [("neededBytes", collision.amount), ("availableBytes", collision.limit)]
        what = "VRAM" if collision.kind is Kind.VRAM else "memory"
        much = f"{format_size(collision.amount)} of {what} together, and there is"
        much += f" {format_size(collision.limit)}"
    facts.append(("nextCollisionAt", format_time(first)))
    times = len(buckets)
    often = "once" if times == 1 else f"{times} times"
    return ScheduleWarning(
        type=WarningType(collision.kind.value),
        schedule_id=course.name,
        words=f"{course.name} comes together with {join_names(collision.names)}, {often} in a day,"
        f" next at {first.astimezone(zone):%H:%M} ({zone.key}): {much}"
        " (`tinyscheduler schedule plan` proposes other times)",
        facts=tuple(facts),
    )


def warnings_of(
    schedules: Schedules,
    changes: Sequence[tuple[Schedule | None, Schedule]],
    everything: Sequence[Schedule],
) -> list[ScheduleWarning]:
    """Return what is to be known of schedules that were added or changed.

    Of each as it was, or None, and as it is; ``everything`` is all schedules as they are now.
    """
    found: list[ScheduleWarning | None] = []
    for before, after in changes:
        if before is None or before.spec != after.spec:
            found.append(_bound_in_prompt(after))
            # Who declares many at once has them all before their eyes.
            found += [_similar_turns(after, everything)] if len(changes) == 1 else []
        if before is None or before.checklist != after.checklist:
            found.append(_missing_checklist(after))
    moved = [after for before, after in changes if before is None or _is_moved(before, after)]
    return [
        *collision_warnings(schedules, moved, everything),
        *(one for one in found if one is not None),
    ]


def _is_moved(before: Schedule, after: Schedule) -> bool:
    """Whether it may collide with others than before."""
    return any(
        getattr(before, name) != getattr(after, name)
        for name in ("timing", "spec", "anchor", "state", "max_run_duration_s", "expires_at")
    )


def declared_elsewhere(one: Schedule) -> ScheduleWarning | None:
    """Return that a file says what it is, so that a change by hand does not last."""
    if one.declared_in is None:
        return None
    return ScheduleWarning(
        type=WarningType.DECLARED,
        schedule_id=one.schedule_id,
        words=f"{one.declared_in} declares {one.schedule_id}: change it there as well, or the next"
        " `tinyscheduler schedule apply` takes this back",
        facts=(("file", one.declared_in),),
    )


def _missing_checklist(one: Schedule) -> ScheduleWarning | None:
    if one.checklist is None or os.path.isfile(one.checklist):
        return None
    what = "no file" if os.path.lexists(one.checklist) else "not there"
    return ScheduleWarning(
        type=WarningType.NO_CHECKLIST,
        schedule_id=one.schedule_id,
        words=f"the checklist {one.checklist} of {one.schedule_id} is {what}:"
        " nothing fires until it is",
        facts=(("file", one.checklist),),
    )


def _bound_in_prompt(one: Schedule) -> ScheduleWarning | None:
    found = _BOUND_IN_PROMPT.search(one.spec.prompt or "")
    if found is None:
        return None
    turns = int(found[1])
    bound = one.spec.max_turns
    words = f"the prompt of {one.schedule_id} says {found[0]!r}, which limits nothing: "
    words += f"what does is --max-turns {turns}" if bound is None else f"--max-turns {bound} does"
    return ScheduleWarning(
        type=WarningType.PROMPT_TURNS,
        schedule_id=one.schedule_id,
        words=words,
        facts=(("promptTurns", turns), ("maxTurns", bound)),
    )


def _similar_turns(one: Schedule, others: Sequence[Schedule]) -> ScheduleWarning | None:
    if one.spec.prompt is None and one.spec.recipe is None:
        return None  # a command takes no turns
    similar = [
        other
        for other in others
        if (other.spec.agent, other.spec.queue) == (one.spec.agent, one.spec.queue)
        and other.schedule_id != one.schedule_id
    ]
    taken = [other.average_turns for other in similar if other.average_turns is not None]
    bounds = [other.spec.max_turns for other in similar if other.spec.max_turns is not None]
    if not taken and not bounds:
        return None
    average = round(median(taken)) if taken else None
    bound = round(median(bounds)) if bounds else None
    who = one.spec.agent or f"queue {one.spec.queue}"
    says = [f"take {average} turns a firing"] if average is not None else []
    says += [f"have --max-turns {bound}"] if bound is not None else []
    number = f"{len(similar)} schedules" if len(similar) > 1 else "the other schedule"
    words = f"{number} of {who} {' and '.join(says)} (median); {one.schedule_id} has "
    words += "no --max-turns" if one.spec.max_turns is None else f"{one.spec.max_turns}"
    if len(similar) == 1:
        words = words.replace(" take ", " takes ", 1).replace(" have ", " has ", 1)
        words = words.replace(" (median)", "", 1)
    return ScheduleWarning(
        type=WarningType.SIMILAR_TURNS,
        schedule_id=one.schedule_id,
        words=words,
        facts=(
            ("agent", one.spec.agent),
            ("schedules", len(similar)),
            ("medianAverageTurns", average),
            ("medianMaxTurns", bound),
        ),
    )
