"""Is all well here?  Memory, slots, and whatever else stands in the way of the work."""

from __future__ import annotations

from enum import StrEnum

from tinyscheduler.core.memory import describe_stall, is_stalled, pressure_of, used_share
from tinyscheduler.model.resources import Pressure
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.resources import HostState

_LEAST_DISK_BYTES = 100 * 2**20
_MOST_CPU_PERCENT = 100.0


class Severity(StrEnum):
    """How bad it is."""

    INFO = "info"  # good to know
    WARNING = "warning"  # work goes on, but something should be looked at
    CRITICAL = "critical"  # work stands still, or soon will


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing that is not as it should be, and what to do about it."""

    severity: Severity
    component: str
    message: str
    recommendation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The verdict, and the figures it rests on."""

    host: HostState
    pressure: Pressure
    active_slots: int
    most_slots: int
    issues: tuple[Issue, ...]

    @property
    def cpu_percent(self) -> float:
        """The one-minute load per core, at most 100."""
        return min(_MOST_CPU_PERCENT, 100 * self.host.load / max(self.host.cores, 0.01))

    @property
    def is_healthy(self) -> bool:
        """Whether another task could be taken on: nothing critical, and a slot is free."""
        is_critical = any(issue.severity is Severity.CRITICAL for issue in self.issues)
        return not is_critical and self.active_slots < self.most_slots


def assess(
    host: HostState,
    *,
    disk_free_bytes: int | None,
    active_slots: int,
    most_slots: int,
    memory_warning: float,
    memory_critical: float,
    memory_stall_critical: float | None = None,
    known: Sequence[Issue] = (),
) -> Health:
    """Judge the figures; ``known`` are issues that were found elsewhere."""
    used = used_share(host.memory_total_bytes, host.memory_available_bytes)
    pressure = pressure_of(used, warning=memory_warning, critical=memory_critical)
    issues = [*known]
    if pressure is not Pressure.NONE:
        limit = memory_critical if pressure is Pressure.CRITICAL else memory_warning
        issues.append(
            Issue(
                severity=Severity(pressure.value),
                component="memory",
                message=f"{used:.0%} of the memory is in use, the limit is {limit:.0%}",
                recommendation="end what takes it, or lower the limits of agents",
            )
        )
    if is_stalled(host.memory_stall, critical=memory_stall_critical):
        pressure = Pressure.CRITICAL
        issues.append(
            Issue(
                severity=Severity.CRITICAL,
                component="memory",
                message=f"{describe_stall(host.memory_stall)},"
                f" the limit is {memory_stall_critical:.0%}",
                recommendation="end what takes the memory,"
                " or raise TINYSCHEDULER_MEMORY_STALL_CRITICAL",
            )
        )
    if active_slots >= most_slots:
        issues.append(
            Issue(
                severity=Severity.INFO,
                component="slots",
                message=f"{active_slots} of {most_slots} slots are in use",
                recommendation="wait, or raise TINYSCHEDULER_MAX_CONCURRENT_SLOTS",
            )
        )
    if disk_free_bytes is not None and disk_free_bytes < _LEAST_DISK_BYTES:
        issues.append(
            Issue(
                severity=Severity.CRITICAL,
                component="disk",
                message=f"only {disk_free_bytes // 2**20} MiB are free where the state is kept",
                recommendation="make room there: results and leases must be written",
            )
        )
    return Health(
        host=host,
        pressure=pressure,
        active_slots=active_slots,
        most_slots=most_slots,
        issues=tuple(issues),
    )
