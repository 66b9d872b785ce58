"""What is past, how much of it may go at once, and what went?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


class PruneKind(StrEnum):
    """What is removed once it is old enough and nobody needs it."""

    TASKS = "tasks"  # rows of tasks that are done, failed or cancelled, with their attempts
    ATTEMPTS = "attempts"  # rows of the ledger whose task is gone
    METRICS = "metrics"  # rows of what firings of schedules took
    LOGS = "logs"  # what attempts printed, daily logs, rotated logs
    PROMPTS = "prompts"  # prompt files; a new attempt writes its own anew
    QUARANTINE = "quarantine"  # broken files that were set aside
    COPIES = "copies"  # copies of the database from before a conversion or a reset
    CANCELS = "cancels"  # requests to end an attempt that is over
    TICKS = "ticks"  # what ticks decided, and on what
    POLICIES = "policies"  # what deployments left that were killed; versions are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneBounds:
    """How old is old, and how many rows or files may go in one call."""

    history_before: datetime
    logs_before: datetime
    now: datetime
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How many of a kind went, and how many bytes they took on disk."""

    kind: PruneKind
    number: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What one call removed, and whether it left more of it because of its bounds."""

    removed: tuple[Removed, ...] = ()
    is_more: bool = False

    @property
    def number(self) -> int:
        """How many rows and files went."""
        return sum(one.number for one in self.removed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emptied:
    """What a reset removed, or would, and where a copy of it is; None if there was nothing."""

    tasks: int
    attempts: int
    copy: str | None
    metrics: int = 0
    schedules: int = 0


def merge_pruned(parts: tuple[Pruned, ...]) -> Pruned:
    """Add up several calls, kind by kind, in the order of the kinds."""
    entries = [one for part in parts for one in part.removed]
    return Pruned(
        removed=tuple(
            Removed(
                kind=kind,
                number=sum(one.number for one in entries if one.kind is kind),
                bytes=sum(one.bytes for one in entries if one.kind is kind),
            )
            for kind in PruneKind
            if any(one.kind is kind and one.number for one in entries)
        ),
        is_more=any(part.is_more for part in parts),
    )
