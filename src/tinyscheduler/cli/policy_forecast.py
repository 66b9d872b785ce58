"""``policy simulate`` and ``policy diff``: what would come of a policy before it rules?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.parsing import moment_ago
from tinyscheduler.cli.plotting import refuse_path
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
    wrap,
)
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, NotFoundError, UsageError
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from tinyscheduler.app.forecasting import Difference, Forecast, Worsening
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.model.config import Config
    from tinyscheduler.simulator.forecast.figures import Move, Moves, Waits
    from tinyscheduler.simulator.forecast.load import Load

DEFAULT_SINCE, DEFAULT_DEPTH, DEFAULT_SEED = "7d", 10, 1
# With fewer recorded tasks nothing is proven by them; a made-up load is harder then.
_LEAST_RECORDED, _GATE_DEPTH = 20, 10
_STDIN = "-"
_MOST_BYTES = 256 << 20
_MANY_JOBS = 1000
_MOST_MOVES = 5
_MOST_GROUPS = 20
_MOST_FAULTS = 5
_MANY_TIMES, _LEAST_TOLD = 10, 0.005
_BARE = Page(is_colored=False, width=96)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastOptions:
    """On what a policy is tried, and what is wanted of it; None where nothing was said."""

    since: str | None = None
    snapshot: str | None = None
    fixture: str | None = None
    case: str | None = None
    queue_depth: int | None = None
    pools: int | None = None
    workers_per_pool: int | None = None
    seed: int | None = None
    against: str | None = None
    plot: str | None = None
    bounds: tuple[tuple[str, str], ...] = ()
    is_gate: bool = False

    @property
    def is_made_up(self) -> bool:
        """Whether a load is to be made up."""
        return any(one is not None for one in (self.queue_depth, self.pools, self.workers_per_pool))


def simulate(invocation: Invocation, file: str, options: ForecastOptions, *, is_json: bool) -> int:
    """Play a load under a policy, and tell how that went."""
    from tinyscheduler.app.forecasting import forecast

    refuse_path(options.plot)
    is_past = options.since is not None or options.snapshot is not None
    config = _configure(invocation, is_past=is_past)
    load = _load(config, options) or _made_up(config, options)
    _advise(invocation, load)
    one = forecast(config, load, file)
    _draw(options.plot, (one,), _lines(one, _BARE))
    if is_json:
        emit_json(load=_load_json(load), **_forecast_json(one, with_tasks=True))
    else:
        for line in _lines(one, invocation.page):
            emit(line)
    note(invocation, load, one)
    return EXIT_DONE


def diff(invocation: Invocation, file: str, options: ForecastOptions, *, is_json: bool) -> int:
    """Play a load under a policy and under the active one, and tell what changes."""
    from tinyscheduler.app.forecasting import ACTIVE, bounds_of, compare
    from tinyscheduler.app.policy_loads import recorded_load

    refuse_path(options.plot)
    bounds = bounds_of(options.bounds)
    is_past = not options.is_made_up and options.fixture is None
    config = _configure(invocation, is_past=is_past)
    load = _load(config, options)
    if load is None and options.is_made_up:
        load = _made_up(config, options)
    if load is None:
        load = recorded_load(config, since=_since(DEFAULT_SINCE))
    _advise(invocation, load)
    found = compare(config, load, file, against=options.against or ACTIVE, bounds=bounds)
    _draw(options.plot, (found.baseline, found.candidate), difference_lines(found, _BARE))
    if is_json:
        emit_json(load=_load_json(load), **difference_json(found, with_tasks=True))
    else:
        for line in difference_lines(found, invocation.page):
            emit(line)
    note(invocation, load, found.candidate, found.baseline)
    return EXIT_FAILED if found.worse and options.is_gate else EXIT_DONE


def judge(config: Config, file: str, options: ForecastOptions) -> Difference:
    """Compare a candidate with the active policy, on what is recorded if that is enough."""
    from tinyscheduler.app.forecasting import ACTIVE, bounds_of, compare
    from tinyscheduler.app.policy_loads import recorded_load

    bounds = bounds_of(options.bounds)
    load = _load(config, options)
    if load is None and not options.is_made_up:
        try:
            load = recorded_load(config, since=_since(DEFAULT_SINCE))
        except NotFoundError:
            load = None
        if load is not None and len(load.jobs) < _LEAST_RECORDED:
            load = None
    if load is None:
        load = _made_up(config, options, depth=_GATE_DEPTH)
    # What is deployed is a file, whatever it is called.
    path = os.path.abspath(file)
    return compare(config, load, path, against=options.against or ACTIVE, bounds=bounds)


def _configure(invocation: Invocation, *, is_past: bool) -> Config:
    """Return the configuration; where the past is played, with a word if there is none."""
    return invocation.configure_reading() if is_past else invocation.configure_apart()


# -- which load -----------------------------------------------------------------------


def _load(config: Config, options: ForecastOptions) -> Load | None:
    """Return the load that was asked for; None if that is a made-up one, or none was."""
    named = {
        "--since": options.since is not None,
        "--snapshot": options.snapshot is not None,
        "--fixture": options.fixture is not None,
        "--queue-depth, --pools or --workers-per-pool": options.is_made_up,
    }
    given = [name for name, is_given in named.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} name two loads", hint="leave one of them out")
    if options.case is not None and options.fixture is None:
        raise UsageError("--case goes with --fixture", hint="name the file of fixtures, too")
    seed = DEFAULT_SEED if options.seed is None else options.seed
    if options.since is not None:
        if options.seed is not None:
            raise UsageError("--seed says nothing of what is recorded", hint="leave it out")
        from tinyscheduler.app.policy_loads import recorded_load

        return recorded_load(config, since=_since(options.since))
    if options.snapshot is not None:
        return _snapshot_load(config, options.snapshot, seed)
    if options.fixture is not None:
        from tinyscheduler.app.policy_fixtures import read_fixtures
        from tinyscheduler.app.policy_loads import case_named, fixture_load

        cases = read_fixtures(options.fixture)
        return fixture_load(config, case_named(cases, options.case, options.fixture), seed=seed)
    return None


def _since(text: str) -> datetime:
    from tinyscheduler.adapters.clock_system import SystemClock

    return moment_ago("--since", text, now=SystemClock().now().wall)


def _snapshot_load(config: Config, path: str, seed: int) -> Load:
    from tinyscheduler.adapters.rounds_file import parse_rounds
    from tinyscheduler.app.policy_loads import snapshot_load

    where = "stdin" if path == _STDIN else path
    rounds = parse_rounds(_read(path), where=where)
    if len(rounds) != 1:
        raise UsageError(
            f"{where} holds {len(rounds)} rounds", hint="give what `tinyscheduler snapshot` prints"
        )
    return snapshot_load(config, rounds[0].snapshot, seed=seed)


def _read(path: str) -> bytes:
    try:
        if path == _STDIN:
            content = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as stream:
                content = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {quote(path)}", hint="give what `tinyscheduler snapshot` printed"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {quote(path)}: {reason}", hint="name a file") from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{quote(path)} is larger than 256 MiB", hint="give a smaller one")
    return content


def _made_up(config: Config, options: ForecastOptions, *, depth: int = DEFAULT_DEPTH) -> Load:
    from tinyscheduler.app.policy_loads import site_here
    from tinyscheduler.app.ticks import settings_of
    from tinyscheduler.simulator.forecast.generate import Shape, generate, made_up_site

    if options.pools is not None or options.workers_per_pool is not None:
        shape = Shape(pools=options.pools or 1, workers_per_pool=options.workers_per_pool or 1)
        site = made_up_site(shape, settings_of(config))
    else:
        site = site_here(config)
        if not any(agent.limit for agent in site.settings.agents):
            raise UsageError(
                "no agent here may run anything: the limit of each is 0",
                hint="say --pools and --workers-per-pool for a made-up machine",
            )
    seed = DEFAULT_SEED if options.seed is None else options.seed
    return generate(site, queue_depth=options.queue_depth or depth, seed=seed)


# -- what is told ---------------------------------------------------------------------


def _advise(invocation: Invocation, load: Load) -> None:
    """Tell who waits at a terminal what takes so long."""
    if len(load.jobs) >= _MANY_JOBS:
        invocation.advise(f"playing {len(load.jobs)} tasks; this may take minutes")


def note(invocation: Invocation, load: Load, *forecasts: Forecast) -> None:
    """Say beside the result what it rests on."""
    for words in load.notes:
        invocation.note(words)
    for one in forecasts:
        name = one.course.policy
        if one.instead is not None:
            invocation.warn(f"the active policy cannot be loaded: {one.instead}; {name} decides")
        if one.slow:
            invocation.warn(
                f"{count(one.slow, 'question')} to {name} took longer than POLICY_TIMEOUT_MS just"
                " now: a tick would have let the platform policy decide;"
                " `tinyscheduler policy check` times it"
            )


def _lines(one: Forecast, page: Page) -> Iterator[str]:
    yield from format_table((), [("policy:", one.course.policy), *_head(one.course.load)], page)
    yield ""
    rows: list[Row] = [(words, _told(name, value)) for name, words, value in _figures(one)]
    yield from format_table(("FIGURE", escape(one.course.policy)), rows, page)
    yield ""
    yield from _groups(one, page)
    yield from _faults(one, page)


def _head(load: Load) -> list[Row]:
    site = load.site
    seed = f", seed {load.seed}" if load.seed else ""
    gpus = sum(gpu.fault is None for gpu in site.gpus.gpus)
    machine = [count(site.settings.rules.host_slots, "slot"), count(gpus, "GPU")]
    machine.append(f"{format_size(site.memory_bytes)} of memory")
    return [("load:", load.words + seed), ("machine:", ", ".join(machine))]


# What each figure is called, in the order in which they are told.
_WORDS = {
    "wait_p50": "wait, median",
    "wait_p95": "wait, 95th percentile",
    "wait_max": "wait, longest",
    "slowdown": "slowdown, mean",
    "starved": "starved tasks",
    "never_started": "never started",
    "faults": "ticks it failed in",
    "slots_used": "slots in use",
    "gpus_used": "GPUs in use",
    "fairness_agents": "fairness, agents",
    "fairness_tenants": "fairness, tenants",
}
_SHARES = frozenset({"slots_used", "gpus_used"})
_COUNTS = frozenset({"starved", "never_started", "faults"})


def _figures(one: Forecast) -> Iterator[tuple[str, str, float | None]]:
    from tinyscheduler.app.forecasting import values_of

    values = values_of(one.figures)
    for name, words in _WORDS.items():
        yield name, words, values[name]


def _told(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.startswith("wait"):
        return format_span(value)
    if name in _SHARES:
        return f"{value:.0%}"
    return str(int(value)) if name in _COUNTS else f"{value:.2f}"


def _groups(one: Forecast, page: Page) -> Iterator[str]:
    figures = one.figures
    groups = [("agent", name, waits) for name, waits in figures.agents.items()]
    groups += [("tenant", name, waits) for name, waits in figures.tenants.items()]
    rows: list[Row] = [
        (
            f"{what} {name}",
            str(waits.tasks),
            format_span(waits.p50_s),
            format_span(waits.p95_s),
            format_span(waits.max_s),
            f"{waits.slowdown:.2f}",
        )
        for what, name, waits in groups[:_MOST_GROUPS]
    ]
    if rows:
        yield from format_table(
            ("WHO", "TASKS", "WAIT P50", "P95", "LONGEST", "SLOWDOWN"), rows, page
        )
    if len(groups) > _MOST_GROUPS:
        yield fit(f"and {len(groups) - _MOST_GROUPS} more; --json has them all", page)


def _faults(one: Forecast, page: Page) -> Iterator[str]:
    for fault in one.course.faults[:_MOST_FAULTS]:
        words = f"failed in {count(fault.times, 'tick')} ({fault.cause}): {escape(fault.words)}"
        yield from wrap(words, page)


def difference_lines(found: Difference, page: Page) -> Iterator[str]:
    """Return a table of the figures, what starts at another time, and the verdict."""
    old, new = found.baseline, found.candidate
    worse = {one.measure: one for one in found.worse}
    yield from format_table((), _head(new.course.load), page)
    yield ""
    rows: list[Row] = []
    for (name, words, was), (_, _, now) in zip(_figures(old), _figures(new), strict=True):
        ink = Ink.RED if name in worse else Ink.PLAIN
        change = Cell(text=_change(name, was, now), ink=ink)
        rows.append((words, _told(name, was), _told(name, now), change))
    yield from format_table(("FIGURE", _named(old), _named(new), "CHANGE"), rows, page)
    yield ""
    yield from _moved(found.moves, page)
    yield ""
    yield from _faults(new, page)
    yield from _verdict(found, page)


def _named(one: Forecast) -> str:
    """Return what a column is called: the end of a path tells more than its beginning."""
    name = one.course.policy
    most = 22
    return escape(name if len(name) <= most else "…" + name[1 - most :])


def _change(name: str, was: float | None, now: float | None) -> str:
    if was is None or now is None or was == now:
        return ""
    if name in _COUNTS:
        return f"{int(now - was):+d}"
    if not was:
        return "+" + _told(name, now)
    times = now / was
    if times >= _MANY_TIMES:
        return f"{times:.0f} times"
    return f"{times - 1:+.0%}" if abs(times - 1) >= _LEAST_TOLD else ""


def _moved(moves: Moves, page: Page) -> Iterator[str]:
    yield fit(
        f"starts: {len(moves.earlier)} earlier, {len(moves.later)} later, {moves.same} as before",
        page,
    )
    rows = [_move_row("later", one) for one in moves.later[:_MOST_MOVES]]
    rows += [_move_row("earlier", one) for one in moves.earlier[:_MOST_MOVES]]
    if rows:
        yield from format_table(("", "ID", "AGENT", "BY", "FROM", "TO", "TASK"), rows, page)


def _move_row(what: str, one: Move) -> Row:
    ink = Ink.YELLOW if what == "later" else Ink.GREEN
    return (
        Cell(text=what, ink=ink),
        one.name,
        one.agent or "-",
        format_span(abs(one.later_s)),
        "never" if one.before_s is None else format_span(one.before_s),
        "never" if one.after_s is None else format_span(one.after_s),
        one.title or "-",
    )


def _verdict(found: Difference, page: Page) -> Iterator[str]:
    if not found.worse:
        yield page.paint("no figure is worse than its bound allows", Ink.GREEN)
        return
    told = "; ".join(map(_worse_words, found.worse))
    for number, line in enumerate(wrap(f"worse: {told}", page)):
        yield page.paint("worse:", Ink.RED) + line.removeprefix("worse:") if not number else line


def _worse_words(one: Worsening) -> str:
    told = f"{_WORDS[one.measure]} {_told(one.measure, one.before)}"
    told += f" -> {_told(one.measure, one.after)}"
    return f"{told} (bound {one.bound:.0%})" if one.bound else told


# -- JSON -----------------------------------------------------------------------------


def _load_json(load: Load) -> dict[str, Any]:
    site = load.site
    return {
        "kind": load.kind,
        "words": load.words,
        "seed": load.seed,
        "tasks": sum(not job.is_running for job in load.jobs),
        "begins_at": load.begins_at.isoformat(timespec="microseconds"),
        "slots": site.settings.rules.host_slots,
        "gpus": sum(gpu.fault is None for gpu in site.gpus.gpus),
        "memory_bytes": site.memory_bytes,
        "notes": list(load.notes),
    }


def _forecast_json(one: Forecast, *, with_tasks: bool) -> dict[str, Any]:
    from tinyscheduler.app.forecasting import values_of

    figures = one.figures
    document: dict[str, Any] = {
        "policy": one.course.policy,
        "version": one.course.version,
        "span_sec": round(figures.span_s, 3),
        "figures": {name: _rounded(value) for name, value in values_of(figures).items()},
        "waits": _waits_json(figures.waits),
        "agents": {name: _waits_json(waits) for name, waits in figures.agents.items()},
        "tenants": {name: _waits_json(waits) for name, waits in figures.tenants.items()},
        "faults": [
            {"cause": fault.cause, "words": fault.words, "ticks": fault.times}
            for fault in one.course.faults
        ],
    }
    if with_tasks:
        document["tasks"] = [
            {
                "task_id": task.name,
                "agent": task.agent,
                "tenant": task.tenant,
                "ready_sec": _rounded(task.ready_s),
                "started_sec": _rounded(task.started_s),
                "ended_sec": _rounded(task.ended_s),
            }
            for task in one.course.tasks
        ]
    return document


def _waits_json(waits: Waits) -> dict[str, Any]:
    return {
        "tasks": waits.tasks,
        "mean_sec": _rounded(waits.mean_s),
        "p50_sec": _rounded(waits.p50_s),
        "p95_sec": _rounded(waits.p95_s),
        "max_sec": _rounded(waits.max_s),
        "slowdown": _rounded(waits.slowdown),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def difference_json(found: Difference, *, with_tasks: bool) -> dict[str, Any]:
    """Return both forecasts, what moves and what is worse, as values of JSON."""
    moves: Mapping[str, list[dict[str, Any]]] = {
        what: [
            {
                "task_id": one.name,
                "agent": one.agent,
                "before_sec": _rounded(one.before_s),
                "after_sec": _rounded(one.after_s),
                "later_sec": _rounded(one.later_s),
            }
            for one in some
        ]
        for what, some in (("earlier", found.moves.earlier), ("later", found.moves.later))
    }
    return {
        "baseline": _forecast_json(found.baseline, with_tasks=with_tasks),
        "candidate": _forecast_json(found.candidate, with_tasks=with_tasks),
        "starts": {**moves, "same": found.moves.same},
        "bounds": dict(found.bounds),
        "is_worse": bool(found.worse),
        "worse": [
            {"figure": one.measure, "before": one.before, "after": one.after, "bound": one.bound}
            for one in found.worse
        ],
    }


# -- pictures -------------------------------------------------------------------------


def _draw(path: str | None, forecasts: Sequence[Forecast], lines: Iterable[str]) -> None:
    if path is not None:
        from tinyscheduler.cli.forecast_plot import write_plot

        write_plot(path, forecasts, tuple(lines))
