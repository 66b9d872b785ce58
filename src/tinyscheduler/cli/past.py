"""``parked`` and ``history``: what was set aside, what was tried, and what that took."""

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
    emit,
    emit_json,
    escape,
    format_span,
    format_table,
    format_when,
)
from tinyscheduler.cli.standing import ended_attempt_json, time_or_none
from tinyscheduler.cli.tasks import DEFAULT_LIMIT, describe_outcome
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE
from tinyscheduler.model.tasks import Outcome, TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
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


_KEYS = ("day", "agent")


def _keys(text: str) -> str:
    """Read what attempts are summed up by: one of these, or both with a comma between them."""
    told = [one.strip() for one in text.split(",")]
    if not set(told) <= set(_KEYS) or len(set(told)) < len(told):
        raise BadValue(f"{quote(text)} is not agent, day, or day,agent")
    return ",".join(told)


def history(
    context: typer.Context,
    *,
    by: Annotated[
        str | None,
        option(
            parser=_keys,
            metavar="KEY",
            help="Sum them up by agent, by day, or by day,agent.",
            is_plain=False,
        ),
    ] = None,
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
    """List the attempts that ended, or what they took by agent or day.

    The newest last, with their durations, and with turns, tokens and money where their agents
    tell them.
    """
    invocation: Invocation = context.obj
    if as_csv and json:
        from tinyscheduler.errors import UsageError

        raise UsageError("--csv and --json cannot be given together", hint="leave one out")
    queue = _open(invocation)
    now = queue.clock.now().wall
    begin = None if since is None else moment_ago("--since", since, now=now)
    if by is not None:
        from tinyscheduler.cli.past_sums import tell_sums

        found = queue.inquiry.measured(since=begin, agent=agent, outcome=state)
        if agent is not None and not found:
            invocation.note_unknown("agent", agent, (one.name for one in queue.config.agents))
        keys = tuple(by.split(","))
        tell_sums(invocation, found, keys, limit=limit, as_csv=as_csv, as_json=json)
        return EXIT_DONE
    attempts = queue.inquiry.attempts(
        since=begin,
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
        emit(write_csv(_COLUMNS, map(_attempt_json, shown)))
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
    rows: list[list[str | Cell]] = [
        [
            format_when(one.ended_at, now=now),
            one.task_id,
            str(one.attempt),
            one.agent,
            _span(one.started_at, one.ended_at),
            *(told_or_dash(getattr(one, name)) for name in _told(attempts)),
            Cell(text=describe_outcome(one), ink=_INK_OF_OUTCOME[one.outcome]),
        ]
        for one in attempts
    ]
    told = (_TITLES[name] for name in _told(attempts))
    return format_table(["ENDED", "ID", "ATTEMPT", "AGENT", "TOOK", *told, "OUTCOME"], rows, page)


_TITLES = {"turns": "TURNS", "tokens": "TOKENS", "cost_usd": "USD"}


def _told(attempts: list[AttemptRecord]) -> list[str]:
    """Return what any of these attempts tells beside how it ended: commands tell nothing."""
    return [name for name in _TITLES if any(getattr(one, name) is not None for one in attempts)]


def told_or_dash(number: float | None) -> str:
    """Write a count, or an amount of money.

    >>> told_or_dash(None), told_or_dash(1200), told_or_dash(0.5), told_or_dash(0.001)
    ('-', '1200', '0.50', '<0.01')
    """
    if number is None:
        return "-"
    if isinstance(number, int):
        return str(number)
    return "<0.01" if 0 < number < 0.01 else f"{number:.2f}"  # noqa: PLR2004 - a cent


def _span(started_at: datetime | None, ended_at: datetime) -> str:
    return "-" if started_at is None else format_span((ended_at - started_at).total_seconds())


_COLUMNS = (
    *("task_id", "source", "attempt", "agent", "started_at", "ended_at", "outcome"),
    *("failure_reason", "reclaim_reason", "exit_code", "signal", "turns", "peak_rss_mb"),
    *("message", "log", "tokens", "cost_usd", "cpu_sec", "gpu_sec"),
)


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows for a spreadsheet, with a head; one line each, whatever is in them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else csv_cell(row[name]) for name in columns])
    return text.getvalue().removesuffix("\n")


def csv_cell(value: object) -> str:
    """Return a value as a spreadsheet may have it."""
    text = escape(str(value))
    # What begins so, a spreadsheet would run as a formula.
    return f"'{text}" if text[:1] in {"=", "+", "@"} else text
