"""How is a tick's report told: as the documented JSON, and in lines for people?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.render import count, escape
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import Dispatch, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tinyscheduler.model.plan import Decision, TickReport

_MOST_IDS = 8
_MOST_GROUPS = 20


def report_json(report: TickReport) -> dict[str, Any]:
    """Return the report with the documented keys."""
    stats = report.stats
    return {
        "tick_id": report.tick_id,
        "started_at": format_time(report.started_at),
        "duration_ms": round(report.duration_ms, 3),
        "dry_run": report.dry_run,
        "locked": report.locked,
        "holder": report.holder,
        "stats": {
            "leases_scanned": stats.leases_scanned,
            "leases_reclaimed": stats.leases_reclaimed,
            "leases_settled": stats.leases_settled,
            "tasks_spawned": stats.tasks_spawned,
            "unassigned_matched": stats.unassigned_matched,
            "assigned_spawned": stats.assigned_spawned,
            "tasks_blocked": stats.tasks_blocked,
            "tasks_waiting": stats.tasks_waiting,
            "firings": stats.firings,
            "errors": stats.errors,
        },
        "reclaims": [
            {
                "task_id": one.task_id,
                "agent": one.agent,
                "attempt": one.attempt,
                "reason": one.reason.value,
            }
            for one in report.reclaims
        ],
        "decisions": [decision_json(decision) for decision in report.decisions],
        "policy": {
            "name": report.policy,
            "version": None,
            "mode": "platform",
            "fallback": None,
            "duration_ms": None,
        },
        "errors": [{"where": one.where, "message": one.message} for one in report.errors],
        "warnings": list(report.warnings),
    }


def decision_json(decision: Decision) -> dict[str, Any]:
    """Return one decision: a stable code as the reason, and the words with the numbers."""
    match decision:
        case Dispatch(task=task, agent=agent):
            action, pool, reason, words, retry_after_s = "dispatch", "local", None, None, None
        case Wait(task=task):
            action, agent, pool = "wait", task.agent, None
            reason, words = decision.reason.value, decision.words
            retry_after_s = decision.retry_after_s
    return {
        "task_id": task.task_id,
        "action": action,
        "agent": agent,
        "pool": pool,
        "gpus": [],
        "reason": reason,
        "words": words,
        "retry_after_sec": retry_after_s,
    }


def tick_lines(report: TickReport) -> list[str]:
    """Return a line per start and per reclaim, and the counts; one line if nothing happened."""
    stats = report.stats
    lines = [
        f"reclaimed task {one.task_id} ({_of_attempt(one.agent, one.attempt)}): {one.reason}"
        for one in report.reclaims
    ]
    lines += [
        f"started task {one.task.task_id} ({_of_attempt(one.agent, one.task.attempt)})"
        for one in report.decisions
        if isinstance(one, Dispatch)
    ]
    waiting = f"{stats.tasks_waiting} waiting"
    if not lines and not stats.leases_settled and not report.errors:
        running = stats.leases_scanned
        return [f"nothing to do: {running} running, {waiting}"]
    counts = [
        f"{stats.tasks_spawned} started",
        f"{stats.leases_settled} settled",
        f"{stats.leases_reclaimed} reclaimed",
        waiting,
        count(len(report.errors), "error"),
    ]
    lines.append(f"{', '.join(counts)} in {report.duration_ms:.0f} ms")
    return [escape(line) for line in lines]


def preview_lines(
    report: TickReport, *, summaries: Mapping[str, str], is_verbose: bool
) -> list[str]:
    """Return what a tick would do, and why it would leave the rest waiting."""
    starts = [one for one in report.decisions if isinstance(one, Dispatch)]
    lines = [
        f"would reclaim task {one.task_id} ({_of_attempt(one.agent, one.attempt)}): {one.reason}"
        for one in report.reclaims
    ]
    if report.stats.leases_settled:
        lines.append(f"would settle {count(report.stats.leases_settled, 'ended attempt')}")
    for one in starts:
        summary = summaries.get(one.task.task_id, "")
        words = f"would start task {one.task.task_id} ({_of_attempt(one.agent, one.task.attempt)})"
        lines.append(f"{words}: {summary}" if summary else words)
    lines += wait_lines(report, is_verbose=is_verbose)
    if not lines:
        return ["nothing to do: no task waits"]
    lines.append(
        f"dry run: nothing was changed; {len(starts)} to start,"
        f" {report.stats.tasks_waiting - len(starts)} to leave waiting"
    )
    return [escape(line) for line in lines]


def wait_lines(report: TickReport, *, is_verbose: bool) -> list[str]:
    """Return why tasks wait: one line per reason and its numbers, naming the first tasks."""
    waits = [one for one in report.decisions if isinstance(one, Wait)]
    groups: dict[tuple[str, str], list[str]] = {}
    for wait in waits:
        groups.setdefault((wait.reason.value, wait.words), []).append(wait.task.task_id)
    lines = [
        f"waiting {_task_ids(ids, is_verbose=is_verbose)}: {reason}: {words}"
        for (reason, words), ids in groups.items()
    ]
    if len(lines) > _MOST_GROUPS and not is_verbose:
        hidden = sum(len(ids) for ids in list(groups.values())[_MOST_GROUPS:])
        del lines[_MOST_GROUPS:]
        lines.append(f"waiting {count(hidden, 'task')} more; -v names them all")
    unseen = report.stats.tasks_waiting - sum(
        not (isinstance(one, Wait) and one.task.is_held) for one in report.decisions
    )
    if unseen > 0:
        lines.append(f"waiting {count(unseen, 'task')} more, behind these")
    return lines


def _task_ids(ids: Sequence[str], *, is_verbose: bool) -> str:
    if len(ids) == 1:
        return f"task {ids[0]}"
    shown: Iterable[str] = ids if is_verbose else ids[:_MOST_IDS]
    more = "" if is_verbose or len(ids) <= _MOST_IDS else " …"
    return f"{len(ids)} tasks ({' '.join(shown)}{more})"


def _of_attempt(agent: str, attempt: int) -> str:
    return f"attempt {attempt}, agent {agent}" if agent else f"attempt {attempt}"
