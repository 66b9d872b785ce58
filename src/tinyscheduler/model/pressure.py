"""Who is at work at this machine, and asks that no schedule gets in the way?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


class PressureKind(StrEnum):
    """What says that somebody is at work."""

    MARKER = "marker"  # `pressure on`
    SEAT = "seat"  # somebody sits at a screen of this machine
    GPU = "gpu"  # a process on a GPU that is none of ours
    FILE = "file"  # a file that is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told from any other that ever had its number: by when it started.

    ``start_ticks`` counts from the boot; the number is one of the namespace ``pid_ns``.
    """

    pid: int
    start_ticks: int
    pid_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What `pressure on` leaves behind: somebody is at work until this boot's clock says so.

    ``ends_ns`` is of the monotonic clock of that boot.  With its owner it goes earlier.
    """

    name: str
    since: datetime
    by: str
    boot_id: str
    ends_ns: int
    owner: Owner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractivePressure:
    """One who is at work now.

    A marker is there ``since`` it was first set, by the user ``by``, and no longer than until
    ``ends_at``; where the process ``pid`` is its owner, it goes with it.  None where that is not
    known.
    """

    name: str
    kind: PressureKind
    since: datetime | None = None
    ends_at: datetime | None = None
    pid: int | None = None
    by: str | None = None
