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

    ``memory_stall`` is the share of the last ten seconds in which something waited for
    memory; None where nobody asked or the kernel does not tell.  Where a control group
    allows less memory or fewer cores than the machine has, these are the group's.
    """

    hostname: str
    boot_id: str
    pid_ns: int
    memory_total_bytes: int
    memory_available_bytes: int
    load: float
    cores: float
    memory_stall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that uses a GPU.  Bytes; None where the driver does not tell."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG instance, as the driver shows it.

    ``total_bytes`` is None where it shares the memory of the machine.  ``utilization`` is in
    percent.  ``processes`` is None where the driver does not tell.  With a ``fault`` nothing
    else of it is known but its name.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int | None = None
    used_bytes: int = 0
    utilization: int | None = None
    processes: tuple[GpuProcess, ...] | None = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """All GPUs there are, by index.

    A ``fault`` says why none can be seen; ``is_absent`` that there are none to be seen, and
    not merely that nobody can tell.  ``hidden`` are those that are not ours to give away.
    """

    gpus: tuple[Gpu, ...] = ()
    hidden: tuple[Gpu, ...] = ()
    fault: str | None = None
    is_absent: bool = False


def format_size(size_bytes: int) -> str:
    """Return a size in its largest whole unit or, failing that, with one decimal.

    >>> format_size(14 * 2**30), format_size(1536 * 2**20)
    ('14 GiB', '1.5 GiB')
    """
    for power, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size_bytes >= power:
            return f"{size_bytes / power:.1f} {unit}".replace(".0 ", " ")
    return f"{size_bytes} B"
