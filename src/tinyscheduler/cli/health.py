"""``health``: could this machine take on another task, and what stands in the way?"""

from __future__ import annotations

from tinyscheduler.adapters.probe_host import ProcProbe, free_bytes
from tinyscheduler.cli.following import find_ticking
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, option
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    count,
    emit,
    emit_json,
    escape,
    format_span,
    format_table,
)
from tinyscheduler.core.health import Health, Issue, Severity, assess
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, TinySchedulerError
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.resources import Pressure
from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.snapshot import LeaseScan

_MIB = 2**20
_MISSED_TICKS = 3
_INK_OF_SEVERITY = {
    Severity.INFO: Ink.DIM,
    Severity.WARNING: Ink.YELLOW,
    Severity.CRITICAL: Ink.RED,
}
_INK_OF_PRESSURE = {
    Pressure.NONE: Ink.GREEN,
    Pressure.WARNING: Ink.YELLOW,
    Pressure.CRITICAL: Ink.RED,
}


def health(
    context: typer.Context,
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Say whether another task could be taken on.

    And what stands in the way.  Ends with 0 if this machine is healthy, with 1 if its
    memory is critically short, all its slots are in use, or its state cannot be read.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    config = invocation.configure_reading()
    verdict = examine(open_queue(config, Access.READ))
    if json:
        emit_json(**health_json(verdict), issues=[_issue_json(one) for one in verdict.issues])
    else:
        emit("\n".join(health_lines(verdict, invocation)))
    return EXIT_DONE if verdict.is_healthy else EXIT_FAILED


def examine(queue: Queue) -> Health:
    """Measure and look; what cannot be read is an issue, not a failure of the command."""
    from tinyscheduler.cli.status import occupies_slot

    issues: list[Issue] = []
    active = 0
    try:
        scan = queue.leases.scan()
        active = sum(occupies_slot(entry, scan) for entry in scan.entries)
        issues += _lease_issues(scan)
    except TinySchedulerError as error:
        issues.append(_unreadable("leases", error))
    try:
        issues += _queue_issues(queue)
    except TinySchedulerError as error:
        issues.append(_unreadable("queue", error))
    return assess_host(queue.config, active_slots=active, known=issues)


def assess_host(config: Config, *, active_slots: int, known: list[Issue]) -> Health:
    """Measure this machine and judge it by the limits that are set."""
    limits = config.limits
    return assess(
        ProcProbe(sees_stalls=limits.memory_stall_critical is not None).read(),
        disk_free_bytes=free_bytes(config.paths.state),
        active_slots=active_slots,
        most_slots=limits.host_slots,
        memory_warning=limits.memory_warning,
        memory_critical=limits.memory_critical,
        memory_stall_critical=limits.memory_stall_critical,
        known=known,
    )


def _unreadable(component: str, error: TinySchedulerError) -> Issue:
    return Issue(
        severity=Severity.CRITICAL,
        component=component,
        message=error.what,
        recommendation=error.hint or "see the guide on troubleshooting",
    )


def _lease_issues(scan: LeaseScan) -> list[Issue]:
    """Name what lies among the leases and results and cannot be read."""
    broken = [
        f"lease of task {entry.task_id}: {entry.lease.message}"
        for entry in scan.entries
        if entry.lease is not None and not isinstance(entry.lease, Lease)
    ]
    broken += [f"result {one.lease_id}: {one.message}" for one in scan.unreadable_results]
    return [
        Issue(
            severity=Severity.WARNING,
            component="leases",
            message=words,
            recommendation="the next tick sets it aside in quarantine, unless it is of a newer"
            " version",
        )
        for words in broken
    ]


def _queue_issues(queue: Queue) -> list[Issue]:
    """Say what has been set aside, and whether what waits will be looked at by anybody."""
    counts = queue.tasks.counts()
    issues = []
    if counts[TaskState.PARKED]:
        issues.append(
            Issue(
                severity=Severity.INFO,
                component="queue",
                message=f"{count(counts[TaskState.PARKED], 'task')} parked",
                recommendation="`tinyscheduler parked` lists them, `retry ID` revives one",
            )
        )
    ticking = find_ticking(queue)
    if not counts[TaskState.WAITING] or ticking.has_daemon:
        return issues
    since_s = None
    if ticking.last_at is not None:
        since_s = (ticking.now - ticking.last_at).total_seconds()
    if since_s is None or since_s > _MISSED_TICKS * ticking.interval_s:
        last = "there was none yet" if since_s is None else f"was {format_span(since_s)} ago"
        issues.append(
            Issue(
                severity=Severity.WARNING,
                component="ticks",
                message=f"{count(counts[TaskState.WAITING], 'task')} waiting, and the last tick"
                f" {last}",
                recommendation="have cron, a timer or `run --daemon` tick; `tinyscheduler run`"
                " does it once",
            )
        )
    return issues


def health_lines(verdict: Health, invocation: Invocation) -> list[str]:
    """Return the figures, one a line, then the issues."""
    page = invocation.page
    host = verdict.host
    used = host.memory_total_bytes - host.memory_available_bytes
    share = used / max(1, host.memory_total_bytes)
    word = "healthy" if verdict.is_healthy else "not healthy"
    pressure = page.paint(verdict.pressure, _INK_OF_PRESSURE[verdict.pressure])
    memory = f"{used // _MIB} of {host.memory_total_bytes // _MIB} MiB used, {share:.0%}"
    lines = [
        page.paint(word, Ink.GREEN if verdict.is_healthy else Ink.RED),
        f"memory:  {memory}; pressure {pressure}",
        f"slots:   {verdict.active_slots} of {verdict.most_slots} in use",
        f"load:    {verdict.cpu_percent:.0f}% of {host.cores:g} cores",
    ]
    if verdict.issues:
        rows: list[Row] = [
            [
                Cell(text=one.severity, ink=_INK_OF_SEVERITY[one.severity]),
                one.component,
                one.message,
            ]
            for one in verdict.issues
        ]
        lines += ["", *format_table(["SEVERITY", "WHERE", "WHAT"], rows, page)]
        advice = [
            (one.component, invocation.as_typed(one.recommendation)) for one in verdict.issues
        ]
        lines += ["", *(f"{component}: {escape(words)}" for component, words in advice)]
    return lines


def health_json(verdict: Health) -> dict[str, Any]:
    """Return exactly the documented figures."""
    host = verdict.host
    total, available = host.memory_total_bytes, host.memory_available_bytes
    return {
        "memoryTotalMB": total // _MIB,
        "memoryUsedMB": (total - available) // _MIB,
        "memoryAvailableMB": available // _MIB,
        "memoryPressure": verdict.pressure.value,
        "activeSlots": verdict.active_slots,
        "maxSlots": verdict.most_slots,
        "availableSlots": max(0, verdict.most_slots - verdict.active_slots),
        "cpuUsagePercent": round(verdict.cpu_percent, 1),
        "healthy": verdict.is_healthy,
    }


def _issue_json(issue: Issue) -> dict[str, str]:
    return {
        "severity": issue.severity.value,
        "component": issue.component,
        "message": issue.message,
        "recommendation": issue.recommendation,
    }
