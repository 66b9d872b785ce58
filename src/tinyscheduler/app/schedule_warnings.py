"""What should somebody know who adds or changes a schedule?  Nothing of it stands in the way."""

from __future__ import annotations

import re
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING, Any

from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.schedules import Schedule

_BOUND_IN_PROMPT = re.compile(
    r"\bMAX(?:IMUM)?(?: OF)?[ :=]+([0-9]{1,9}) (?:agent )?(?:turns|steps)\b", re.IGNORECASE
)


class WarningType(StrEnum):
    """What a warning is about."""

    PROMPT_TURNS = "prompt_turns"  # the prompt bounds the turns, and nothing holds it to that
    SIMILAR_TURNS = "similar_turns"  # what other schedules of the same agent take
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


def warnings_of(
    after: Schedule, before: Schedule | None, others: Sequence[Schedule]
) -> tuple[ScheduleWarning, ...]:
    """Return what is to be known of a schedule that was added or changed, ``before`` if it was.

    ``others`` are all other schedules.
    """
    found: list[ScheduleWarning | None] = []
    if before is None or before.spec != after.spec:
        found += [_bound_in_prompt(after), _similar_turns(after, others)]
    return tuple(one for one in found if one is not None)


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
