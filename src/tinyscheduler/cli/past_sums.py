"""What did attempts take together, by agent and by day?  For people, scripts, and spreadsheets."""

from __future__ import annotations

from tinyscheduler.cli.past import told_or_dash, write_csv
from tinyscheduler.cli.render import Row, emit, emit_json, format_span, format_table
from tinyscheduler.core.workload import sum_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.cli.render import Page
    from tinyscheduler.core.workload import Sum
    from tinyscheduler.model.history import MeasuredAttempt

_NUMBERS = (
    *("attempts", "succeeded", "failed", "others", "run_sec", "run_median_sec", "run_p95_sec"),
    *("turns", "tokens", "cost_usd", "cpu_sec", "gpu_sec"),
)


def tell_sums(
    invocation: Invocation,
    attempts: Sequence[MeasuredAttempt],
    by: tuple[str, ...],
    *,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Print what they took, one line for each agent, day, or both; the last is that of all."""
    sums, total = sum_up(attempts, lambda one: tuple(_KEY_OF[name](one) for name in by))
    shown = sums[-limit:]
    if as_json:
        emit_json(
            by=list(by),
            groups=[_sum_json(one, by) for one in shown],
            total=_sum_json(total, ()),
            is_complete=shown == sums,
        )
    elif as_csv:
        emit(write_csv((*by, *_NUMBERS), (_sum_json(one, by) for one in shown)))
    elif shown:
        emit("\n".join(_lines(shown, total, by, invocation.page)))
    else:
        invocation.note("no such attempt is on record")
    if shown != sums and not as_json:
        invocation.note(f"only the last {limit} are listed; --limit N lists more")


def _day(attempt: MeasuredAttempt) -> str:
    # As people here would say on which day it ended.
    return attempt.ended_at.astimezone().date().isoformat()


def _agent(attempt: MeasuredAttempt) -> str:
    return attempt.agent


_KEY_OF = {"agent": _agent, "day": _day}


def _lines(sums: Sequence[Sum], total: Sum, by: tuple[str, ...], page: Page) -> list[str]:
    told = [name for name in _TOLD if getattr(total, name) is not None]
    head = [*(name.upper() for name in by), *_COUNTS, *(_TOLD[name] for name in told)]
    rows: list[Row] = [[*one.key, *_row(one, told)] for one in sums]
    if len(sums) > 1:
        rows.append(["all", *("" for _ in by[1:]), *_row(total, told)])
    lines = format_table(head, rows, page)
    return [*lines, "", "RAN: all together; EACH: median / 95th percentile"]


_COUNTS = ("ATTEMPTS", "DONE", "FAILED", "OTHER", "RAN", "EACH")
_TOLD = {"turns": "TURNS", "tokens": "TOKENS", "cost_usd": "USD"}


def _row(one: Sum, told: Sequence[str]) -> list[str]:
    each = "-"
    if one.runs is not None:
        each = f"{format_span(one.runs.median_s)} / {format_span(one.runs.p95_s)}"
    counts = (one.attempts, one.succeeded, one.failed, one.others)
    return [
        *map(str, counts),
        format_span(one.ran_s),
        each,
        *(told_or_dash(getattr(one, name)) for name in told),
    ]


def _sum_json(one: Sum, by: tuple[str, ...]) -> dict[str, Any]:
    keys = dict(zip(by, one.key, strict=True)) if by else {}
    return {
        **keys,
        "attempts": one.attempts,
        "succeeded": one.succeeded,
        "failed": one.failed,
        "others": one.others,
        "run_sec": round(one.ran_s, 3),
        "run_median_sec": None if one.runs is None else round(one.runs.median_s, 3),
        "run_p95_sec": None if one.runs is None else round(one.runs.p95_s, 3),
        "turns": one.turns,
        "tokens": one.tokens,
        "cost_usd": None if one.cost_usd is None else round(one.cost_usd, 6),
        "cpu_sec": None if one.cpu_s is None else round(one.cpu_s, 3),
        "gpu_sec": None if one.gpu_s is None else round(one.gpu_s, 3),
    }
