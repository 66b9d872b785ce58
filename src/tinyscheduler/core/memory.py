"""How much memory is free for one more start, and how much does one need?"""

from __future__ import annotations

from tinyscheduler.model.resources import Pressure, format_size
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinyscheduler.model.resources import HostState
    from tinyscheduler.model.snapshot import Rules

# What MEMORY_PER_SLOT_MB is where nobody set it, and this machine is large enough.
DEFAULT_PER_SLOT_BYTES = 4096 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRoom:
    """The memory of this machine, and what of it is spoken for.  Bytes.

    ``unused_bytes`` are reserved by live attempts that do not use them yet, and by starts
    that were decided meanwhile.  ``critical`` is the share in use from which nothing starts,
    ``stall_critical`` the share of time in which something waits for memory; None: never.
    """

    total_bytes: int
    available_bytes: int
    unused_bytes: int = 0
    critical: float = 1.0
    stall: float | None = None
    stall_critical: float | None = None

    @property
    def free_bytes(self) -> int:
        """What is left for one more start."""
        return max(0, self.available_bytes - self.unused_bytes)

    @property
    def used_share(self) -> float:
        """The share in use, from 0 to 1; what is only reserved is not in use."""
        return used_share(self.total_bytes, self.available_bytes)

    @property
    def is_critical(self) -> bool:
        """Whether so much is in use that nothing may start, however little it needs."""
        return self.used_share >= self.critical

    @property
    def is_stalled(self) -> bool:
        """Whether so much time is lost in waiting for memory that nothing may start."""
        return is_stalled(self.stall, critical=self.stall_critical)

    def promise(self, needed_bytes: int) -> MemoryRoom:
        """Return what is left after a start that needs so much."""
        return replace(self, unused_bytes=self.unused_bytes + needed_bytes)

    def give_back(self, *, unused_bytes: int, used_bytes: int) -> MemoryRoom:
        """Return what there is once an attempt has ended that held so much."""
        return replace(
            self,
            available_bytes=min(self.total_bytes, self.available_bytes + used_bytes),
            unused_bytes=self.unused_bytes - unused_bytes,
        )

    def describe(self) -> str:
        """Say how much is free, and where the rest of what is available went.

        >>> MemoryRoom(total_bytes=16 << 30, available_bytes=6 << 30).describe()
        '6 GiB are free'
        >>> MemoryRoom(
        ...     total_bytes=16 << 30, available_bytes=6 << 30, unused_bytes=4 << 30
        ... ).describe()
        '2 GiB are free: 6 GiB are available, 4 GiB of it reserved'
        """
        words = f"{format_size(self.free_bytes)} are free"
        if self.unused_bytes:
            available = format_size(self.available_bytes)
            reserved = format_size(self.unused_bytes)
            words += f": {available} are available, {reserved} of it reserved"
        return words


def used_share(total_bytes: int, available_bytes: int) -> float:
    """Return the share of the memory in use, from 0 to 1."""
    return 1 - available_bytes / max(1, total_bytes)


def pressure_of(used: float, *, warning: float, critical: float) -> Pressure:
    """Return the level of this share in use.

    >>> [pressure_of(used, warning=0.8, critical=0.9).value for used in (0.79, 0.8, 0.9)]
    ['none', 'warning', 'critical']
    """
    if used >= critical:
        return Pressure.CRITICAL
    return Pressure.WARNING if used >= warning else Pressure.NONE


def is_stalled(stall: float | None, *, critical: float | None) -> bool:
    """Whether the share of time that was waited for memory is critical.

    >>> [is_stalled(stall, critical=0.2) for stall in (None, 0.19, 0.2)]
    [False, False, True]
    """
    return stall is not None and critical is not None and stall >= critical


def describe_stall(stall: float | None) -> str:
    """Say how much time is lost.

    >>> describe_stall(0.314)
    'programs here waited for memory 31% of the last 10 s'
    """
    return f"programs here waited for memory {stall or 0:.0%} of the last 10 s"


def is_ample(
    host: HostState, rules: Rules, *, reserved: Iterable[int], wanted: Iterable[int | None]
) -> bool:
    """Whether every free slot can be filled, though nothing reserved were used yet.

    ``reserved`` is what each live attempt was counted at, ``wanted`` what might start needs;
    None for what nobody said.
    """
    per_slot = need_per_slot(rules, host)
    held = list(reserved)
    most = max((per_slot if one is None else one for one in wanted), default=0)
    slots = max(0, rules.host_slots - len(held))
    return host.memory_available_bytes - sum(held) >= slots * max(most, per_slot)


def need_per_slot(rules: Rules, host: HostState) -> int:
    """Return what a start needs of which nobody said it.

    Where it was not set, a small machine still fills all its slots: each is counted at an
    even share of half of the memory, if that is less.
    """
    if rules.memory_per_slot_bytes is not None:
        return rules.memory_per_slot_bytes
    return min(DEFAULT_PER_SLOT_BYTES, host.memory_total_bytes // 2 // max(1, rules.host_slots))
