"""How is a tick's report told: as the documented JSON, and in lines for people?"""

from __future__ import annotations

from tinyscheduler.cli.render import Page, count, escape, fit, format_span, format_table
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.plan import Dispatch, Reason, Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tinyscheduler.model.plan import Decision, TickReport

_MOST_IDS = 5
_WIDEST_IDS = 20  # columns, or long ids would leave none for the words on a narrow terminal
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
            "version": report.policy_version or None,
            "mode": report.policy_mode,
            "fallback": report.policy_fallback,
            "duration_ms": report.policy_ms,
        },
        "errors": [{"where": one.where, "message": one.message} for one in report.errors],
        "warnings": list(report.warnings),
    }


def decision_json(decision: Decision) -> dict[str, Any]:
    """Return one decision: a stable code as the reason, and the words with the numbers."""
    wait = decision if isinstance(decision, Wait) else None
    return {
        "task_id": decision.task.task_id,
        "action": "dispatch" if wait is None else "wait",
        "agent": decision.agent if isinstance(decision, Dispatch) else decision.task.agent,
        "pool": "local" if wait is None else None,
        "gpus": list(decision.gpu_uuids) if isinstance(decision, Dispatch) else [],
        "model": decision.model,
        "model_host": decision.model_host if isinstance(decision, Dispatch) else None,
        "reason": None if wait is None else wait.reason.value,
        "words": None if wait is None else wait.words,
        "retry_after_sec": None if wait is None else wait.retry_after_s,
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
    report: TickReport, page: Page, *, summaries: Mapping[str, str], is_verbose: bool
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
    lines = [fit(escape(line), page) for line in lines]
    waits = wait_lines(report, page, is_verbose=is_verbose)
    if report.all_sources_down:
        return [*lines, "no task source answered, so nothing is known of what waits"]
    if not lines and not waits:
        return ["nothing to do: no task waits"]
    left = report.stats.tasks_waiting - len(starts)
    verdict = f"dry run, nothing was changed: {len(starts)} to start, {left} to leave waiting"
    return [*lines, *waits, verdict]


def wait_lines(report: TickReport, page: Page, *, is_verbose: bool) -> list[str]:
    """Return why tasks wait: a line per reason and its numbers, naming the first tasks.

    Said at length, each task that waits for something of its own has its own line.
    """
    groups: dict[tuple[str, str], list[Wait]] = {}
    for wait in report.decisions:
        if isinstance(wait, Wait):
            is_shared = wait.reason in _SHARED and not is_verbose
            key = (wait.reason.value, "" if is_shared else wait.words)
            groups.setdefault(key, []).append(wait)
    rows = [
        [
            reason,
            _task_ids([one.task.task_id for one in waits], is_verbose=is_verbose),
            words or describe_waits(waits),
        ]
        for (reason, words), waits in groups.items()
    ]
    shown = rows if is_verbose else rows[:_MOST_GROUPS]
    lines = format_table(["WAITING", "TASKS", "BECAUSE"], shown, page) if shown else []
    hidden = sum(len(waits) for waits in list(groups.values())[len(shown) :])
    if hidden:
        lines.append(f"… and {count(hidden, 'task')} for other reasons; -v shows all of them")
    seen = sum(not one.task.is_held for one in report.decisions)
    if report.stats.tasks_waiting > seen:
        lines.append(f"… and {count(report.stats.tasks_waiting - seen, 'task')} behind these")
    return lines


def describe_waits(waits: Sequence[Wait]) -> str:
    """Say in one line why these tasks wait, all for the same reason, each for its own thing."""
    if waits[0].reason is Reason.HELD:
        return "`release` lets it go" if len(waits) == 1 else "`release` lets them go"
    if waits[0].reason is Reason.BLOCKED_BY:
        verb = "waits" if len(waits) == 1 else "wait"
        blockers = dict.fromkeys(one for wait in waits for one in wait.task.blocked_by)
        return f"{verb} for {_task_ids(list(blockers), is_verbose=False)} to be done"
    verb = _WHEN[waits[0].reason]
    left_s = [wait.retry_after_s or 0 for wait in waits]
    first, last = format_span(min(left_s) + 1), format_span(max(left_s) + 1)
    return f"{verb} in {first}" if first == last else f"{verb} in {first} to {last}"


_WHEN = {
    Reason.NOT_BEFORE: "may start",
    Reason.BACKING_OFF: "tried again",
    Reason.PRESSURE: "makes way, may start at the latest",
}
# Each task has words of its own here; told one by one they would fill the screen.
_SHARED = frozenset({Reason.HELD, Reason.BLOCKED_BY, *_WHEN})


def _task_ids(ids: Sequence[str], *, is_verbose: bool) -> str:
    shown = list(ids[:_MOST_IDS])
    while len(" ".join(shown)) > _WIDEST_IDS and len(shown) > 1:
        shown.pop()
    if is_verbose:
        return " ".join(ids)
    more = f" +{len(ids) - len(shown)}" if len(ids) > len(shown) else ""
    return " ".join(shown) + more


def _of_attempt(agent: str, attempt: int) -> str:
    return f"attempt {attempt}, agent {agent}" if agent else f"attempt {attempt}"
