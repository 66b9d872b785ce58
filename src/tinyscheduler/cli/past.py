"""``parked``, ``history`` and ``report``: what was set aside, tried, and what it amounts to."""

from __future__ import annotations

import csv
import io
from datetime import datetime

from tinyscheduler.cli.invocation import NORMAL, Invocation
from tinyscheduler.cli.options import Annotated, BadValue, option
from tinyscheduler.cli.parsing import moment_ago, whole_number
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Page,
    Row,
    count,
    emit,
    emit_json,
    escape,
    fit,
    format_span,
    format_table,
    format_when,
)
from tinyscheduler.cli.standing import ended_attempt_json, time_or_none
from tinyscheduler.cli.tasks import DEFAULT_LIMIT, describe_outcome
from tinyscheduler.errors import EXIT_DONE
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.tasks import Outcome, TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.core.workload import AgentWork, Spread, Workload
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.records import TaskRecord

_MOST_LISTED = 1_000_000
_INK_OF_OUTCOME = {
    Outcome.SUCCEEDED: Ink.GREEN,
    Outcome.FAILED: Ink.RED,
    Outcome.CANCELLED: Ink.DIM,
    Outcome.RETRY_LATER: Ink.YELLOW,
    Outcome.INTERRUPTED: Ink.YELLOW,
}
_Agent = Annotated[str | None, option(metavar="AGENT", help="Only of this agent.")]
_Limit = Annotated[
    int,
    option(
        parser=whole_number(least=1, most=_MOST_LISTED),
        metavar="N",
        help="At most so many, the newest.",
    ),
]
_Json = Annotated[bool, option("--json", help="Print one JSON document.")]


def parked(
    context: typer.Context,
    *,
    agent: _Agent = None,
    limit: _Limit = DEFAULT_LIMIT,
    json: _Json = False,
) -> int:
    """List tasks set aside because their attempts are used up."""
    invocation: Invocation = context.obj
    queue = _open(invocation)
    records = queue.tasks.tasks(state=TaskState.PARKED, agent=agent, limit=limit + 1)
    shown = [(one, _last_attempt(queue, one.task_id)) for one in records[-limit:]]
    if agent is not None and not shown:
        invocation.note_unknown("agent", agent, (one.name for one in queue.config.agents))
    if json:
        emit_json(tasks=[_parked_json(record, last) for record, last in shown])
        return EXIT_DONE
    if not shown:
        invocation.note("no task is parked")
        return EXIT_DONE
    now = queue.clock.now().wall
    is_verbose = invocation.verbosity > NORMAL
    head = ["ID", "AGENT", "SINCE", "FAILURES", "LAST ATTEMPT", "LOG" if is_verbose else "TASK"]
    rows: list[Row] = [
        [
            record.task_id,
            (last.agent if last is not None else record.agent) or "-",
            format_when(record.ended_at, now=now),
            str(record.failures),
            Cell(text=describe_outcome(last) if last is not None else "-", ink=Ink.YELLOW),
            (last.log if last is not None else None) or "-" if is_verbose else record.summary,
        ]
        for record, last in shown
    ]
    emit("\n".join(format_table(head, rows, invocation.page)))
    if len(records) > limit:
        invocation.note(f"only the newest {limit} are listed; --limit N lists more")
    invocation.advise("`tinyscheduler logs ID` prints what the last attempt printed")
    invocation.advise("`tinyscheduler retry ID` lets a task wait again, with all its attempts")
    return EXIT_DONE


def _open(invocation: Invocation) -> Queue:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    return open_queue(invocation.configure_reading(), Access.READ)


def _last_attempt(queue: Queue, task_id: str) -> AttemptRecord | None:
    attempts = queue.ledger.attempts(task_id)
    return attempts[-1] if attempts else None


def _parked_json(record: TaskRecord, last: AttemptRecord | None) -> dict[str, Any]:
    return {
        "task_id": record.task_id,
        "source": record.source,
        "state": record.state.value,
        "summary": record.summary,
        "agent": record.agent,
        "queue": record.queue,
        "failures": record.failures,
        "failure_reason": record.failure_reason,
        "parked_at": time_or_none(record.ended_at),
        "blocks": record.blocks,
        "last_attempt": None if last is None else ended_attempt_json(last),
        "log": None if last is None else last.log,
        "way_out": f"tinyscheduler retry {record.task_id}",
    }


def _outcome(text: str | Outcome) -> Outcome:
    """Read an outcome; a task's word for success is one too."""
    if isinstance(text, Outcome):
        return text
    if text == TaskState.DONE:
        return Outcome.SUCCEEDED
    try:
        return Outcome(text)
    except ValueError:
        known = ", ".join(Outcome)
        raise BadValue(f"{text!r} is not one of done, {known}") from None


def history(
    context: typer.Context,
    *,
    since: Annotated[
        str | None,
        option(metavar="TIME", help="Ended since then: a time, or a duration ago."),
    ] = None,
    agent: _Agent = None,
    state: Annotated[
        Outcome | None,
        option(
            parser=_outcome,
            metavar="OUTCOME",
            help=f"Only those that ended so: {', '.join(Outcome)}.",
        ),
    ] = None,
    limit: _Limit = DEFAULT_LIMIT,
    as_csv: Annotated[bool, option("--csv", help="Print comma-separated values.")] = False,
    json: _Json = False,
) -> int:
    """List the attempts that ended, the newest last."""
    invocation: Invocation = context.obj
    if as_csv and json:
        from tinyscheduler.errors import UsageError

        raise UsageError("--csv and --json cannot be given together", hint="leave one out")
    queue = _open(invocation)
    now = queue.clock.now().wall
    attempts = queue.inquiry.attempts(
        since=None if since is None else moment_ago("--since", since, now=now),
        agent=agent,
        outcome=state,
        limit=limit + 1,
    )
    shown = attempts[-limit:]
    if agent is not None and not shown:
        invocation.note_unknown("agent", agent, (one.name for one in queue.config.agents))
    if json:
        emit_json(attempts=[_attempt_json(one) for one in shown], is_complete=shown == attempts)
    elif as_csv:
        emit(_csv(shown))
    elif shown:
        emit("\n".join(_history_lines(shown, now=now, page=invocation.page)))
    else:
        invocation.note("no such attempt is on record")
    if len(attempts) > limit and not json:
        invocation.note(f"only the newest {limit} are listed; --limit N lists more")
    return EXIT_DONE


def _attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    return {"task_id": attempt.task_id, "source": attempt.source, **ended_attempt_json(attempt)}


def _history_lines(attempts: list[AttemptRecord], *, now: datetime, page: Page) -> list[str]:
    rows: list[Row] = [
        [
            format_when(one.ended_at, now=now),
            one.task_id,
            str(one.attempt),
            one.agent,
            _span(one.started_at, one.ended_at),
            Cell(text=describe_outcome(one), ink=_INK_OF_OUTCOME[one.outcome]),
        ]
        for one in attempts
    ]
    return format_table(["ENDED", "ID", "ATTEMPT", "AGENT", "TOOK", "OUTCOME"], rows, page)


def _span(started_at: datetime | None, ended_at: datetime) -> str:
    return "-" if started_at is None else format_span((ended_at - started_at).total_seconds())


_COLUMNS = (
    *("task_id", "source", "attempt", "agent", "started_at", "ended_at", "outcome"),
    *("failure_reason", "reclaim_reason", "exit_code", "signal", "turns", "peak_rss_mb"),
    *("message", "log", "tokens", "cost_usd", "cpu_sec", "gpu_sec"),
)


def _csv(attempts: list[AttemptRecord]) -> str:
    """Return the rows for a spreadsheet, with a head; one line each, whatever is in them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in attempts:
        row = _attempt_json(one)
        writer.writerow(["" if row[name] is None else csv_cell(row[name]) for name in _COLUMNS])
    return text.getvalue().removesuffix("\n")


def csv_cell(value: object) -> str:
    """Return a value as a spreadsheet may have it."""
    text = escape(str(value))
    # What begins so, a spreadsheet would run as a formula.
    return f"'{text}" if text[:1] in {"=", "+", "@"} else text


def report(
    context: typer.Context,
    *,
    since: Annotated[
        str,
        option(metavar="TIME", help="Ended since then: a time, or a duration ago."),
    ] = "7d",
    json: _Json = False,
) -> int:
    """Sum up the workload of each agent.

    Counts, success, and how long attempts waited and ran.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.core.workload import summarise

    queue = _open(invocation)
    now = queue.clock.now().wall
    begin = moment_ago("--since", since, now=now)
    workload = summarise(queue.inquiry.measured(since=begin))
    if json:
        emit_json(since=format_time(begin), until=format_time(now), **workload_json(workload))
        return EXIT_DONE
    page = invocation.page
    emit("\n".join(workload_lines(workload, since, page)))
    return EXIT_DONE


def workload_lines(workload: Workload, since: str, page: Page) -> list[str]:
    """Return a table of the agents, then what failed, and when it was busy."""
    if not workload.total.attempts:
        return [fit(f"no attempt has ended since {since}", page)]
    works = workload.agents
    if len(works) > 1:
        works = (*works, workload.total)
    head = ["AGENT", "ATTEMPTS", "DONE", "FAILED", "OTHER", "SUCCESS", "RETRIES", "WAIT", "RUN"]
    lines = format_table(head, [_work_row(one) for one in works], page)
    more = ["WAIT and RUN: median / 95th percentile"]
    for title, counts in (("failures", workload.failures), ("reclaims", workload.reclaims)):
        if counts:
            told = ", ".join(f"{number} {name}" for name, number in counts)
            more.append(f"{title}: {told}")
    hours = ", ".join(
        f"{hour.astimezone():%a %d %b %H:00} ({count(number, 'start')})"
        for hour, number in workload.busiest[:3]
    )
    if hours:
        more.append(f"busiest: {hours}")
    return [*lines, "", *(fit(line, page) for line in more)]


def _work_row(work: AgentWork) -> list[str]:
    rate = work.success_rate
    return [
        work.agent,
        str(work.attempts),
        str(work.succeeded),
        str(work.failed),
        str(work.cancelled + work.others),
        "-" if rate is None else f"{rate:.0%}",
        str(work.retries),
        _spread(work.waits),
        _spread(work.runs),
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{format_span(spread.median_s)} / {format_span(spread.p95_s)}"


def workload_json(workload: Workload) -> dict[str, Any]:
    """Return the documented keys."""
    return {
        "total": _work_json(workload.total),
        "agents": {one.agent: _work_json(one) for one in workload.agents},
        "failures": dict(workload.failures),
        "reclaims": dict(workload.reclaims),
        "busiest_hours": [
            {"hour": format_time(hour), "started": number} for hour, number in workload.busiest
        ],
    }


def _work_json(work: AgentWork) -> dict[str, Any]:
    rate = work.success_rate
    return {
        "attempts": work.attempts,
        "succeeded": work.succeeded,
        "failed": work.failed,
        "cancelled": work.cancelled,
        "others": work.others,
        "success_rate": None if rate is None else round(rate, 4),
        "retries": work.retries,
        "wait_sec": _spread_json(work.waits),
        "run_sec": _spread_json(work.runs),
    }


def _spread_json(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "count": spread.number,
        "median": round(spread.median_s, 3),
        "p95": round(spread.p95_s, 3),
    }
