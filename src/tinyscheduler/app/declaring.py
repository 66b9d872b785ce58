"""What becomes of the schedules there are, where a file says what they shall be?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tinyscheduler.app.pausing import end_pause
from tinyscheduler.app.schedules import amended, begun
from tinyscheduler.errors import ConfigError, UsageError
from tinyscheduler.model.schedules import Schedule, ScheduleChange
from tinyscheduler.model.switches import Target, TargetKind
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tinyscheduler.app.schedules import Schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """All schedules of a file as they are wished for, each with its place there.

    ``path`` is the file; None of one that cannot be found again, as stdin.
    """

    path: str | None
    wished: tuple[Schedule, ...]
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a declaration makes of the schedules there are.

    ``changed`` ones have both sides, and so have those that stay as they are.  ``undeclared`` were
    declared by the same file before, and would go if it were pruned.
    """

    added: tuple[Schedule, ...]
    changed: tuple[tuple[Schedule, Schedule], ...]
    unchanged: tuple[Schedule, ...]
    removed: tuple[Schedule, ...]
    undeclared: tuple[Schedule, ...]
    others: tuple[Schedule, ...]

    def changes(self) -> list[ScheduleChange]:
        """Return what is to be written."""
        return [
            *(ScheduleChange(before=None, after=one) for one in self.added),
            *(ScheduleChange(before=old, after=new) for old, new in self.changed),
            *(ScheduleChange(before=one, after=None) for one in self.removed),
        ]

    def result(self) -> list[Schedule]:
        """Return all schedules that there are then."""
        changed = (new for _, new in self.changed)
        found = (*self.added, *changed, *self.unchanged, *self.undeclared, *self.others)
        return sorted(found, key=lambda one: one.schedule_id)


def compare(
    existing: Sequence[Schedule], declaration: Declaration, now: datetime, *, prunes: bool
) -> Difference:
    """Return what differs.

    Raises ConfigError, with the place, for a schedule that would never fire, and for one that
    another file, that there is still, declares.
    """
    known = {one.schedule_id: one for one in existing}
    added: list[Schedule] = []
    changed: list[tuple[Schedule, Schedule]] = []
    unchanged: list[Schedule] = []
    for wished in declaration.wished:
        place = declaration.places[wished.schedule_id]
        before = known.pop(wished.schedule_id, None)
        try:
            if before is None:
                added.append(begun(replace(wished, declared_in=declaration.path)))
                continue
            _refuse_two_files(before, declaration.path, place)
            after = amended(
                before,
                replace(wished, anchor=before.anchor, declared_in=declaration.path),
                now,
            )
        except UsageError as error:
            raise ConfigError(error.what, where=place, hint=error.hint) from error
        if after == before:
            unchanged.append(before)
        else:
            changed.append((before, after))
    rest = list(known.values())
    ours = [one for one in rest if one.declared_in is not None]
    ours = [one for one in ours if one.declared_in == declaration.path]
    return Difference(
        added=tuple(added),
        changed=tuple(changed),
        unchanged=tuple(unchanged),
        removed=tuple(ours) if prunes else (),
        undeclared=() if prunes else tuple(ours),
        others=tuple(one for one in rest if one not in ours),
    )


def apply_declaration(
    schedules: Schedules, declaration: Declaration, *, prunes: bool
) -> Difference:
    """Make the schedules what the file says, all of it or nothing, and return what differed."""
    found: list[Difference] = []

    def decide(existing: Sequence[Schedule]) -> list[ScheduleChange]:
        found.append(compare(existing, declaration, schedules.now(), prunes=prunes))
        return found[-1].changes()

    schedules.changes.apply(decide)
    for one in found[-1].removed:
        end_pause(schedules.queue, Target(kind=TargetKind.SCHEDULE, name=one.schedule_id))
    return found[-1]


def _refuse_two_files(before: Schedule, path: str | None, place: str) -> None:
    """Raise ConfigError where two files would say what it is, each time the other thing."""
    other = before.declared_in
    if other is None or other == path or not os.path.exists(other):
        return
    raise ConfigError(
        f"schedule {before.schedule_id} is declared in {other}",
        where=place,
        hint="take it out of one of the two files",
    )
