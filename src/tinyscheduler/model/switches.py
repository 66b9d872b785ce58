"""What has its owner switched off for now?  Pauses and the drain, which outlive every process."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


class SwitchKind(StrEnum):
    """What a switch keeps from happening.  Attempts under way go on in either case."""

    PAUSE = "pause"  # nothing starts for its target
    DRAIN = "drain"  # nothing starts at all, whatever else is switched or resumed


class TargetKind(StrEnum):
    """What can be paused."""

    ALL = "all"
    AGENT = "agent"
    QUEUE = "queue"
    SCHEDULE = "schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a pause is about: everything, or one agent, queue or schedule by its name.

    >>> str(Target(kind=TargetKind.AGENT, name="coder")), str(EVERYTHING)
    ('agent:coder', 'all')
    """

    kind: TargetKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind.value


EVERYTHING = Target(kind=TargetKind.ALL)


def parse_target(text: str) -> Target:
    """Read ``all``, ``agent:A``, ``queue:Q`` or ``schedule:S``; ValueError for anything else.

    >>> parse_target("queue:dev").name
    'dev'
    """
    kind, colon, name = text.partition(":")
    if text == TargetKind.ALL:
        return EVERYTHING
    if not colon or not name or kind not in set(TargetKind) - {TargetKind.ALL}:
        message = f"{text!r} is not all, agent:NAME, queue:NAME or schedule:NAME"
        raise ValueError(message)
    return Target(kind=TargetKind(kind), name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One switch that is set: since when, by whom, and why if that was said."""

    kind: SwitchKind
    target: Target
    since: datetime
    by: str
    reason: str | None = None
