"""What has this machine, and how much of it is in use?"""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.values import dataclass


class Pressure(StrEnum):
    """How much of the memory is in use, against the two shares that are set."""

    NONE = "none"
    WARNING = "warning"  # told, and nothing else
    CRITICAL = "critical"  # nothing starts


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """This machine as it is now.  Bytes; ``load`` is the one-minute load average.

    Where a control group allows less memory or fewer cores than the machine has, these
    are the group's.
    """

    hostname: str
    boot_id: str
    pid_ns: int
    memory_total_bytes: int
    memory_available_bytes: int
    load: float
    cores: float


def format_size(size_bytes: int) -> str:
    """Return a size in its largest whole unit or, failing that, with one decimal.

    >>> format_size(14 * 2**30), format_size(1536 * 2**20)
    ('14 GiB', '1.5 GiB')
    """
    for power, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= power:
            return f"{size_bytes / power:.1f} {unit}".replace(".0 ", " ")
    return f"{size_bytes} B"
