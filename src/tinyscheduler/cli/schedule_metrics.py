"""``schedule metrics``: what firings took, and whether more of them may run at once."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.parsing import moment_ago
from tinyscheduler.cli.past import csv_cell
from tinyscheduler.cli.render import count, emit, emit_json, fit, format_span, format_table
from tinyscheduler.cli.schedule_request import open_store
from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.errors import EXIT_DONE, UsageError
from tinyscheduler.model.clock import format_time

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.app.schedules import Schedules
    from tinyscheduler.cli.render import Page, Row
    from tinyscheduler.cli.schedule_request import Request
    from tinyscheduler.core.firing_measures import CapAdvice, Criterion, FiringWork
    from tinyscheduler.core.workload import Spread
    from tinyscheduler.model.schedules import FiringMetrics

_SINCE = "30d"
_MOST_EXACT_S = 100.0
_COLUMNS = (
    *("schedule_id", "task_id", "fired_at", "slot_claimed_at", "completed_at", "slot_wait_ms"),
    *("duration_ms", "turn_count", "max_turns_at_firing", "tick_lag_ms", "peak_rss_mb"),
    *("pressure", "concurrent_schedules", "failure_reason"),
)
_HEAD = ("ID", "FIRINGS", "FAILED", "WAIT", "RUN", "TURNS", "MEMORY")


def show_metrics(asked: Request) -> int:
    """Print what firings took, of each schedule; or all rows as they are; or advice."""
    if asked.values["advise"]:
        return _advise(asked)
    from tinyscheduler.app.schedules import MOST_MEASURED
    from tinyscheduler.core.firing_measures import summarise_firings

    as_csv = asked.values["as_csv"]
    if as_csv and asked.is_json:
        raise UsageError("--csv and --json cannot be given together", hint="leave one out")
    schedules = open_store(asked.invocation.configure_reading(), writes=False)
    since = moment_ago("--since", asked.values["since"] or _SINCE, now=schedules.now())
    name = asked.schedule_id() if asked.rest else None
    found = schedules.store.metrics(name, since=since, limit=MOST_MEASURED + 1)
    firings = found[-MOST_MEASURED:]
    if name is not None and not firings:
        schedules.store.schedule(name)  # one that was removed has its measurements yet
    works = summarise_firings(firings)
    if asked.is_json:
        emit_json(
            since=format_time(since),
            schedules=[_work_json(one) for one in works],
            firings=[firing_json(one) for one in firings],
            is_complete=len(found) == len(firings),
        )
    elif as_csv:
        emit(_csv(firings))
    elif works:
        page = asked.invocation.page
        lines = format_table(_HEAD, [_row(one) for one in works], page)
        emit("\n".join([*lines, "", fit("WAIT, RUN, TURNS: median / 95th percentile", page)]))
    else:
        asked.invocation.note("no firing was measured since then")
    return EXIT_DONE


def firing_json(firing: FiringMetrics) -> dict[str, Any]:
    """Return a row as `--json` tells it; `--csv` has the same columns."""
    return {
        "schedule_id": firing.schedule_id,
        "task_id": firing.task_id,
        "fired_at": format_time(firing.fired_at),
        "slot_claimed_at": time_or_none(firing.claimed_at),
        "completed_at": time_or_none(firing.completed_at),
        "slot_wait_ms": firing.wait_ms,
        "duration_ms": firing.duration_ms,
        "turn_count": firing.turns,
        "max_turns_at_firing": firing.max_turns,
        "tick_lag_ms": firing.lag_ms,
        "peak_rss_mb": firing.peak_rss_mb,
        "pressure": firing.pressure,
        "concurrent_schedules": firing.concurrent,
        "failure_reason": firing.failure_reason,
    }


def _csv(firings: list[FiringMetrics]) -> str:
    """Return the rows for a spreadsheet, with a head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in firings:
        row = firing_json(one)
        writer.writerow(["" if row[name] is None else csv_cell(row[name]) for name in _COLUMNS])
    return text.getvalue().removesuffix("\n")


def _row(work: FiringWork) -> Row:
    turns = "-" if work.turns_median is None else f"{work.turns_median} / {work.turns_p95}"
    return (
        work.schedule_id,
        str(work.firings),
        str(work.failed),
        _spread(work.waits),
        _spread(work.runs),
        turns,
        "-" if work.peak_rss_mb is None else f"{work.peak_rss_mb:.0f} MB",
    )


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{_span(spread.median_s)} / {_span(spread.p95_s)}"


def _work_json(work: FiringWork) -> dict[str, Any]:
    return {
        "schedule_id": work.schedule_id,
        "firings": work.firings,
        "failed": work.failed,
        "wait_sec": _spread_json(work.waits),
        "run_sec": _spread_json(work.runs),
        "turns": None
        if work.turns_median is None
        else {"median": work.turns_median, "p95": work.turns_p95},
        "peak_rss_mb": work.peak_rss_mb,
    }


def _spread_json(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {"median": round(spread.median_s, 3), "p95": round(spread.p95_s, 3)}


# -- may more run at once? ------------------------------------------------------------


def _advise(asked: Request) -> int:
    """Print which conditions hold, on how much data, and what follows."""
    from tinyscheduler.app.schedules import advise
    from tinyscheduler.core.firing_measures import LEAST_DATA

    if asked.rest or asked.values["as_csv"]:
        raise UsageError(
            "--advise is about all schedules, and is no table",
            hint="`tinyscheduler schedule metrics --advise [--json] [--since TIME]`",
        )
    schedules = open_store(asked.invocation.configure_reading(), writes=False)
    since = _begin(asked, schedules, LEAST_DATA)
    advice = advise(schedules, since=since)
    if asked.is_json:
        emit_json(
            since=format_time(since),
            measured_since=time_or_none(advice.since),
            firings=advice.firings,
            cap=advice.cap,
            most_at_once=advice.most_at_once,
            criteria=[_criterion_json(one) for one in advice.criteria],
            may_raise=advice.may_raise,
            verdict=_verdict(advice),
        )
    else:
        emit("\n".join(_advice_lines(advice, asked.invocation.page)))
    return EXIT_DONE


def _begin(asked: Request, schedules: Schedules, least: timedelta) -> datetime:
    now = schedules.now()
    text = asked.values["since"]
    return now - least if text is None else moment_ago("--since", text, now=now)


def _criterion_json(one: Criterion) -> dict[str, Any]:
    return {
        "name": one.name,
        "bound_sec": one.bound_s,
        "value_sec": None if one.value_s is None else round(one.value_s, 3),
        "samples": one.samples,
        "is_met": one.is_met,
    }


def _advice_lines(advice: CapAdvice, page: Page) -> list[str]:
    rows: list[Row] = [
        (
            "yes" if one.is_met else "no",
            f"{one.words} {_span(one.bound_s)}",
            "-" if one.value_s is None else _span(one.value_s),
            str(one.samples),
        )
        for one in advice.criteria
    ]
    table = format_table(("HOLDS", "CONDITION", "MEASURED", "OF"), rows, page)
    return [*table, "", *(fit(line, page) for line in _verdict(advice).split("; "))]


def _span(seconds: float) -> str:
    """Say how long; below a hundred seconds to the hundredth, for here 50 ms decide."""
    if seconds < _MOST_EXACT_S:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    return format_span(seconds)


def _verdict(advice: CapAdvice) -> str:
    """Say in words what follows."""
    setting = "TINYSCHEDULER_SCHEDULE_MAX_CONCURRENT"
    if not advice.may_raise:
        missing = count(sum(not one.is_met for one in advice.criteria), "condition")
        return f"{setting} should stay at {advice.cap}: {missing} not met"
    words = f"{setting} may be raised from {advice.cap} to {advice.cap + 1}"
    if advice.most_at_once < advice.cap:
        words += f"; it would change nothing: at most {advice.most_at_once} ran at once"
    return words
