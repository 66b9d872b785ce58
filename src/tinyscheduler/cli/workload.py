"""``report``: what is open, whose, how urgent and how old; and what was done with the time."""

from __future__ import annotations

from datetime import datetime

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, BadValue, option
from tinyscheduler.cli.parsing import moment_ago
from tinyscheduler.cli.render import (
    SCHEMA_VERSION,
    Page,
    Row,
    count,
    emit,
    emit_json,
    escape,
    fit,
    format_span,
    format_table,
)
from tinyscheduler.config.problems import quote
from tinyscheduler.core.backlog import OPEN, age_s, survey
from tinyscheduler.core.workload import summarise
from tinyscheduler.errors import EXIT_DONE, StoreError, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.core.backlog import Backlog, OpenWork
    from tinyscheduler.core.workload import AgentWork, Spread, Workload
    from tinyscheduler.model.records import TaskRecord

_MOST_OPEN = 100_000
_FORMATS = ("console", "json", "both")
# What tinytask calls a task that waits.
_IDLE = "idle"
_STATUSES = (_IDLE, *OPEN)


def _format(text: str) -> str:
    if text not in _FORMATS:
        raise BadValue(f"{quote(text)} is not one of {', '.join(_FORMATS)}")
    return text


def _status(text: str | TaskState) -> TaskState:
    if isinstance(text, TaskState):
        return text
    if text not in _STATUSES:
        raise BadValue(f"{quote(text)} is not one of {', '.join(_STATUSES)}")
    return TaskState.WAITING if text == _IDLE else TaskState(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """All that is told; ``is_complete`` says that every open task was looked at."""

    since: str
    begin: datetime
    now: datetime
    agents: tuple[str, ...]
    backlog: Backlog
    is_complete: bool
    workload: Workload


def report(
    context: typer.Context,
    *,
    since: Annotated[
        str,
        option(metavar="TIME", help="What ended since then: a time, or a duration ago."),
    ] = "7d",
    agent: Annotated[str | None, option(metavar="AGENT", help="Only of this agent.")] = None,
    status: Annotated[
        TaskState | None,
        option(
            parser=_status,
            metavar="STATUS",
            help=f"Open tasks of this kind alone: {', '.join(_STATUSES)}.",
            is_plain=False,
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        option(
            "--format",
            parser=_format,
            metavar="FORMAT",
            help="console, json, or both, one after the other.",
            is_plain=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write it there; of both, the JSON.",
            is_plain=False,
        ),
    ] = None,
    no_color: Annotated[bool, option("--no-color", help="No colours.", is_plain=False)] = False,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Tell the workload: what is open, and what was done.

    Open tasks of all sources by agent, priority and age; then of each agent counts, success,
    and how long attempts waited and ran.
    """
    invocation: Invocation = context.obj
    if json and output_format not in (None, "json"):
        raise UsageError(
            f"--json and --format {output_format} cannot be given together", hint="leave one out"
        )
    wanted = "json" if json else output_format or "console"
    told = _look(invocation, since=since, agent=agent, status=status)
    page = replace(invocation.page, is_colored=False) if no_color else invocation.page
    if output is None:
        if wanted != "json":
            emit("\n".join(_lines(told, page)))
        if wanted != "console":
            emit_json(**_json(told))
    elif wanted == "console":
        _write(output, "\n".join(_lines(told, Page(is_colored=False, width=None))))
    else:
        from json import dumps

        _write(output, dumps({"schema_version": SCHEMA_VERSION, **_json(told)}, indent=2))
        if wanted == "both":
            emit("\n".join(_lines(told, page)))
    return EXIT_DONE


def _look(
    invocation: Invocation, *, since: str, agent: str | None, status: TaskState | None
) -> _Report:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    queue = open_queue(invocation.configure_reading(), Access.READ)
    now = queue.clock.now().wall
    begin = moment_ago("--since", since, now=now)
    states = OPEN if status is None else (status,)
    tasks = _open_tasks(queue, states, agent)
    workload = summarise(queue.inquiry.measured(since=begin, agent=agent))
    agents = tuple(sorted(one.name for one in queue.config.agents))
    if agent is not None and not tasks and not workload.total.attempts:
        invocation.note_unknown("agent", agent, agents)
    return _Report(
        since=since,
        begin=begin,
        now=now,
        agents=agents,
        backlog=survey(tasks, now=now),
        is_complete=len(tasks) < _MOST_OPEN,
        workload=workload,
    )


def _open_tasks(queue: Queue, states: tuple[TaskState, ...], agent: str | None) -> list[TaskRecord]:
    """Return the open tasks of all sources, at most so many; of more the newest."""
    found: list[TaskRecord] = []
    for state in states:
        if len(found) < _MOST_OPEN:
            found += queue.tasks.tasks(state=state, agent=agent, limit=_MOST_OPEN - len(found))
    return found


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text + "\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot write {quote(path)}: {reason}", hint="name another file"
        ) from error


def _lines(told: _Report, page: Page) -> list[str]:
    """Return what is open, then what was done."""
    more = [] if told.is_complete else [f"more than {_MOST_OPEN} tasks are open: the newest count"]
    lines = [*backlog_lines(told.backlog, page), *more]
    return [*lines, "", *workload_lines(told.workload, told.since, page)]


def _json(told: _Report) -> dict[str, Any]:
    return {
        "since": format_time(told.begin),
        "until": format_time(told.now),
        "generated_at": format_time(told.now),
        **backlog_json(told.backlog, told.agents, now=told.now),
        "is_complete": told.is_complete,
        **workload_json(told.workload),
    }


def backlog_lines(backlog: Backlog, page: Page) -> list[str]:
    """Return who has how many open tasks, and how urgent and how old they are."""
    total = backlog.total
    if total.ages is None:
        return [fit("nothing is open", page)]
    works = backlog.lines if len(backlog.lines) == 1 else (*backlog.lines, total)
    head = ["OPEN", "TASKS", "WAITING", "BLOCKED", "HELD", "WORKING", "OLDEST"]
    rows: list[Row] = [_open_row(one) for one in works]
    sources = ", ".join(f"{escape(name)} ({count(n, 'task')})" for name, n in backlog.sources)
    priorities = ", ".join(f"{name} ({count(n, 'task')})" for name, n in backlog.priorities)
    ages = ", ".join(f"{name} ({count(n, 'task')})" for name, n in backlog.ages if n)
    spread = f"median {format_span(total.ages.median_s)}, oldest {format_span(total.ages.oldest_s)}"
    lines = [
        *([f"sources: {sources}"] if len(backlog.sources) > 1 else []),
        f"priorities: {priorities}",
        f"ages: {ages}; {spread} (task {escape(total.tasks[0].task_id)})",
    ]
    return [*format_table(head, rows, page), "", *(fit(line, page) for line in lines)]


def _open_row(work: OpenWork) -> list[str]:
    counts = (work.total, work.waiting, work.blocked, work.held, work.working)
    oldest = "-" if work.ages is None else format_span(work.ages.oldest_s)
    return [work.name, *map(str, counts), oldest]


def backlog_json(backlog: Backlog, agents: tuple[str, ...], *, now: datetime) -> dict[str, Any]:
    """Return the keys that reports on tinytask have, and more."""
    total = backlog.total
    return {
        "summary": {
            "total_open_tasks": total.total,
            "total_idle": total.waiting,
            "total_blocked": total.blocked,
            "total_held": total.held,
            "total_working": total.working,
            "total_agents": len(agents),
            "agents_with_work": sum(one.agent is not None for one in backlog.lines),
        },
        "sources": dict(backlog.sources),
        "agent_breakdown": {one.name: _open_json(one) for one in backlog.lines},
        "priority_distribution": {str(priority): n for priority, n in backlog.priorities},
        "age_metrics": _ages_json(total) | {"distribution": dict(backlog.ages)},
        "tasks": [_task_json(one, now) for one in total.tasks],
    }


def _open_json(work: OpenWork) -> dict[str, Any]:
    return {
        "agent": work.agent,
        "queue": work.queue,
        "total": work.total,
        "idle": work.waiting,
        "blocked": work.blocked,
        "held": work.held,
        "working": work.working,
        "age_metrics": _ages_json(work),
        "task_ids": [one.task_id for one in work.tasks],
    }


def _ages_json(work: OpenWork) -> dict[str, Any]:
    names = ("average", "median", "p95", "oldest", "newest")
    return {
        f"{name}_sec": None if work.ages is None else round(getattr(work.ages, f"{name}_s"), 3)
        for name in names
    }


def _task_json(task: TaskRecord, now: datetime) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "source": task.source,
        "state": task.state.value,
        "agent": task.claimed_by or task.agent,
        "queue": task.queue,
        "priority": task.priority,
        "summary": task.summary,
        "blocked_by": list(task.blocked_by),
        "created_at": format_time(task.created_at),
        "age_sec": round(age_s(task, now), 3),
    }


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
