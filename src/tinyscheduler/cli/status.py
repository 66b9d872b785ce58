"""``status`` and ``ps``: what runs, what waits and why, and what is free."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from tinyscheduler.cli.following import describe_ticking, find_ticking
from tinyscheduler.cli.invocation import NORMAL, Invocation
from tinyscheduler.cli.options import Annotated, option
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    Cell,
    Ink,
    Page,
    Row,
    count,
    emit,
    emit_json,
    escape,
    fit,
    format_clock,
    format_span,
    format_table,
    format_when,
    wrap,
)
from tinyscheduler.cli.report import decision_json, wait_lines
from tinyscheduler.cli.standing import Standing, brief_json, join, time_or_none
from tinyscheduler.core.explain import join_names
from tinyscheduler.errors import EXIT_DONE, EXIT_UNAVAILABLE
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.leases import Lease, LeaseEntry
from tinyscheduler.model.plan import Reason, TickReport, Wait
from tinyscheduler.model.records import DeferredSchedule
from tinyscheduler.model.snapshot import LeaseScan
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.policies import Outlook
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.app.serving import RunningDaemon
    from tinyscheduler.cli.following import Ticking
    from tinyscheduler.model.budgets import Budget, Spent
    from tinyscheduler.model.config import Config
    from tinyscheduler.model.tasks import WaitingTask
    from tinyscheduler.tick import Foresight

_MOST_WORKING = 10_000
_MOST_PARKED = 20
_MOST_SHOWN = 20
_PLATFORM = "platform"
# These wait for something that is not their turn.
_NOT_IN_LINE = frozenset({Reason.HELD, Reason.BLOCKED_BY, Reason.NOT_BEFORE, Reason.BACKING_OFF})
_WHAT_NEXT = "`tinyscheduler status` says more, --help everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that ``status`` tells, read in one go."""

    config: Config
    now: datetime
    counts: Mapping[TaskState, int]
    running: tuple[Standing, ...]
    parked: tuple[Standing, ...]
    foresight: Foresight
    active: Mapping[str, int]
    host_active: int
    daemon: RunningDaemon | None
    ticking: Ticking
    stopped: Mapping[str, str] = field(default_factory=dict)  # schedules that paused themselves
    budgets: Sequence[tuple[Budget, Spent]] = ()
    deferred: Sequence[DeferredSchedule] = ()
    at_work: Sequence[str] = ()  # who said so, and schedules make way

    @property
    def report(self) -> TickReport:
        """What a tick would report now."""
        return self.foresight.report

    @property
    def load_state(self) -> str:
        """Say in a word how busy this machine is: quiet, working or saturated.

        It is saturated where no slot is left, or a firing waits for another one to end.
        """
        if self.host_active == 0:
            return "quiet"
        is_full = self.host_active >= self.config.limits.host_slots
        is_capped = any(
            isinstance(one, Wait) and one.reason is Reason.SCHEDULE_CAP
            for one in self.report.decisions
        )
        return "saturated" if is_full or is_capped else "working"

    @property
    def positions(self) -> Mapping[str, int]:
        """The places in line of what may start, the first being 1; by task."""
        in_line = [
            one.task.task_id
            for one in self.report.decisions
            if not (isinstance(one, Wait) and one.reason in _NOT_IN_LINE)
        ]
        return {task_id: place for place, task_id in enumerate(in_line, start=1)}

    @property
    def cooling_ends(self) -> Mapping[str, datetime]:
        """Until when each agent cools that does; most never do."""
        snapshot = self.foresight.snapshot
        if not snapshot.coolings:
            return {}
        from tinyscheduler.core.cooling import cooling_agents

        cooling = cooling_agents(snapshot.agents, snapshot.coolings, snapshot.now.wall)
        return {name: one.until for name, one in cooling.items()}

    @property
    def queued(self) -> list[WaitingTask]:
        """The firings that wait, as they stand in line."""
        firings = [one.task for one in self.report.decisions if one.task.schedule_id is not None]
        return sorted(firings, key=lambda task: task.created_order)


def look(config: Config) -> Overview:
    """Read the queue, the leases, and what a tick would do now; change nothing."""
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue
    from tinyscheduler.app.serving import find_daemon
    from tinyscheduler.app.ticks import foresee_all, may_have_gpus

    queue = open_queue(config, Access.READ)
    foresight = foresee_all(config, sees_gpus=may_have_gpus(config))
    counts = queue.tasks.counts()
    working = queue.tasks.tasks(state=TaskState.WORKING, limit=_MOST_WORKING)
    scan = queue.leases.scan()
    occupied = [entry for entry in scan.entries if occupies_slot(entry, scan)]
    return Overview(
        config=config,
        now=queue.clock.now().wall,
        counts=counts,
        running=tuple(join(record, scan) for record in working),
        parked=_parked(queue),
        foresight=foresight,
        active=Counter(entry.lease.agent for entry in occupied if isinstance(entry.lease, Lease)),
        host_active=len(occupied),
        daemon=find_daemon(config),
        ticking=find_ticking(queue),
        stopped=queue.inquiry.stopped_schedules(),
        budgets=queue.budgets.spent() if config.inventory.budgets else (),
        deferred=queue.inquiry.deferred_schedules(),
        at_work=_at_work(queue),
    )


def _at_work(queue: Queue) -> Sequence[str]:
    if not os.path.isdir(os.path.join(queue.config.paths.state, "pressure")):
        return ()  # the most usual case, and nothing is imported for it
    from tinyscheduler.app.pressure import marked_names

    return marked_names(queue.config, queue.clock)


def occupies_slot(entry: LeaseEntry, scan: LeaseScan) -> bool:
    """Whether what lies on disk under a task's name takes up a slot, as a tick counts."""
    if entry.lease is None:
        return entry.is_lock_held
    if not isinstance(entry.lease, Lease):
        return True
    recorded = {result.lease_id for result in scan.results}
    return entry.is_lock_held or entry.lease.lease_id not in recorded


def _parked(queue: Queue) -> tuple[Standing, ...]:
    records = queue.tasks.tasks(state=TaskState.PARKED, limit=_MOST_PARKED)
    return tuple(Standing(record=record, state=record.state) for record in records)


def show_overview(invocation: Invocation) -> int:
    """Tell in a few lines how things stand, and what to type next."""
    overview = look(invocation.configure_reading())
    page = invocation.page
    emit(
        "\n".join(
            [
                fit(summary(overview), page),
                *_paused_lines(overview, page),
                *_policy_lines(overview, page),
                fit(invocation.as_typed(_WHAT_NEXT), page),
            ]
        )
    )
    return 0


def status(
    context: typer.Context,
    *,
    is_watching: Annotated[
        bool, option("--watch", help="Show it again and again, until q or Ctrl-C.")
    ] = False,
    interval: Annotated[
        str, option(metavar="DURATION", help="Between two looks of --watch.")
    ] = "2s",
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show what runs, what waits and why, and what is free."""
    invocation: Invocation = context.obj
    if is_watching:
        from tinyscheduler.cli.watch import watch_status

        return watch_status(invocation, interval=interval, as_json=json)
    overview = look(invocation.configure_reading())
    for warning in overview.report.warnings:
        if warning not in overview.config.warnings:
            invocation.warn(warning)
    for error in overview.report.errors:
        invocation.fail(f"{error.where}: {error.message}")
    if json:
        emit_json(**status_json(overview))
    else:
        emit("\n".join(status_lines(overview, invocation)))
    return EXIT_UNAVAILABLE if overview.report.all_sources_down else EXIT_DONE


def status_lines(overview: Overview, invocation: Invocation) -> list[str]:
    """Return the sections that have something to say."""
    page = invocation.page
    lines = [fit(summary(overview), page), *_paused_lines(overview, page)]
    lines += _policy_lines(overview, page)
    if overview.running:
        lines += ["", *_running_lines(overview, invocation)]
    lines += _firing_lines(overview, page)
    starts = overview.report.stats.tasks_spawned
    if starts:
        lines += ["", f"the next tick starts {count(starts, 'task')}"]
    waits = wait_lines(overview.report, page, is_verbose=invocation.verbosity > NORMAL)
    if waits:
        lines += ["", *waits]
    if overview.counts[TaskState.WAITING] and not overview.ticking.has_daemon:
        lines += ["", fit(describe_ticking(overview.ticking), page)]
    if overview.parked:
        lines += ["", *_parked_lines(overview, invocation)]
    lines += ["", *_agent_lines(overview, page)]
    if overview.foresight.snapshot.inventory.models:
        from tinyscheduler.cli.model_slots import model_lines

        lines += ["", *model_lines(overview.foresight, page)]
    if overview.budgets:
        from tinyscheduler.cli.budget_lines import budget_lines

        lines += ["", *budget_lines(overview.budgets, page)]
    if overview.foresight.snapshot.gpus is not None:
        from tinyscheduler.cli.gpu import gpu_lines

        gpus = gpu_lines(overview.foresight, page)
        lines += ["", *gpus] if gpus else []
    if overview.daemon is not None:
        lines += ["", f"a daemon ticks: pid {overview.daemon.pid}, since {overview.daemon.since}"]
    return lines


def _agent_lines(overview: Overview, page: Page) -> list[str]:
    """Return the slots of each agent, and until when it cools where any does."""
    ends = overview.cooling_ends
    head = ["AGENT", "ACTIVE", "LIMIT", "FREE", *(["COOLING"] if ends else [])]
    rows: list[Row] = []
    for name, one in agents_json(overview).items():
        row: Row = [name, str(one["active"]), str(one["limit"]), str(one["free"])]
        if ends:
            end = ends.get(name)
            words = "-" if end is None else f"until {format_clock(end, now=overview.now)}"
            row = [*row, Cell(text=words, ink=Ink.YELLOW) if end is not None else words]
        rows.append(row)
    return format_table(head, rows, page)


def _running_lines(overview: Overview, invocation: Invocation) -> list[str]:
    rows: list[Row] = [
        [
            one.record.task_id,
            Cell(text=one.word, ink=INK_OF_STATE[one.state]),
            one.agent or "-",
            str(one.attempt),
            _age(one, overview.now),
            one.record.summary,
        ]
        for one in overview.running[:_MOST_SHOWN]
    ]
    table = format_table(["ID", "STATE", "AGENT", "ATTEMPT", "FOR", "TASK"], rows, invocation.page)
    return [*table, *_more(len(overview.running) - _MOST_SHOWN, "list --state working", invocation)]


def _parked_lines(overview: Overview, invocation: Invocation) -> list[str]:
    rows: list[Row] = [
        [
            one.record.task_id,
            Cell(text="parked", ink=Ink.YELLOW),
            one.record.failure_reason or "-",
            format_when(one.record.ended_at, now=overview.now),
            one.record.summary,
        ]
        for one in overview.parked
    ]
    table = format_table(["ID", "STATE", "REASON", "SINCE", "TASK"], rows, invocation.page)
    hidden = overview.counts[TaskState.PARKED] - len(rows)
    return [*table, *_more(hidden, "list --state parked", invocation)]


def summary(overview: Overview) -> str:
    """Say in one line how busy it is, and how many tasks stand in which state."""
    counts = overview.counts
    words = [
        f"{counts[TaskState.WORKING]} running",
        f"{counts[TaskState.WAITING]} waiting",
        *(
            f"{counts[state]} {state}"
            for state in (
                TaskState.HELD,
                TaskState.PARKED,
                TaskState.FAILED,
                TaskState.DONE,
                TaskState.CANCELLED,
            )
            if counts[state]
        ),
    ]
    slots = f"{overview.host_active} of {overview.config.limits.host_slots} slots in use"
    return f"{overview.load_state}, {slots}: {', '.join(words)}"


def _age(standing: Standing, now: datetime) -> str:
    if standing.lease is None:
        return "-"
    return format_span((now - standing.lease.started_at).total_seconds())


def _more(hidden: int, command: str, invocation: Invocation) -> list[str]:
    if hidden <= 0:
        return []
    return [invocation.as_typed(f"… and {hidden} more: `tinyscheduler {command}`")]


def agents_json(overview: Overview) -> dict[str, dict[str, Any]]:
    """Return each agent's slots: its limit, those in use, and those it could still take."""
    host_free = max(0, overview.config.limits.host_slots - overview.host_active)
    ends = overview.cooling_ends
    return {
        agent.name: {
            "limit": agent.limit,
            "active": overview.active.get(agent.name, 0),
            "free": min(max(0, agent.limit - overview.active.get(agent.name, 0)), host_free),
            "cooling_until": time_or_none(ends.get(agent.name)),
        }
        for agent in sorted(overview.config.agents, key=lambda agent: agent.name)
    }


def status_json(overview: Overview) -> dict[str, Any]:
    """Return the documented keys; those of features to come are empty."""
    from tinyscheduler.cli.health import assess_host, health_json

    report, positions = overview.report, overview.positions
    verdict = assess_host(overview.config, active_slots=overview.host_active, known=[])
    health = health_json(verdict)
    last_claim = max(
        (one.lease.started_at for one in overview.running if one.lease is not None), default=None
    )
    return {
        "load_state": overview.load_state,
        "counts": {state.value: number for state, number in overview.counts.items()},
        "running": [brief_json(one) for one in overview.running],
        "waiting": [
            {**decision_json(one), "position": positions.get(one.task.task_id)}
            for one in report.decisions
            if isinstance(one, Wait)
        ],
        "starting_next": [
            decision_json(one) for one in report.decisions if not isinstance(one, Wait)
        ],
        "parked": [brief_json(one) for one in overview.parked],
        "agents": agents_json(overview),
        "gpus": _gpus_json(overview),
        "models": _models_json(overview),
        "pools": [],
        "schedules": _schedules_json(overview),
        "budgets": _budgets_json(overview),
        "health": health,
        "paused": paused_json(overview),
        "cooling": _cooling_json(overview),
        "policy": _policy_json(overview),
        "daemon": None
        if overview.daemon is None
        else {"pid": overview.daemon.pid, "since": overview.daemon.since},
        "queueDepth": overview.counts[TaskState.WAITING],
        "isRunning": overview.host_active > 0,
        "lastClaimTime": None if last_claim is None else format_time(last_claim),
        "resourceHealth": health,
        "errors": [{"where": one.where, "message": one.message} for one in report.errors],
    }


def _running_firings(overview: Overview) -> list[tuple[str, Standing]]:
    return [
        (one.lease.schedule_id, one)
        for one in overview.running
        if one.lease is not None and one.lease.schedule_id is not None
    ]


def _firing_lines(overview: Overview, page: Page) -> list[str]:
    """Return which firings run, and which stand in line behind them."""
    rows: list[Row] = [
        [name, one.record.task_id, f"runs for {_age(one, overview.now)}"]
        for name, one in _running_firings(overview)
    ]
    rows += [
        [task.schedule_id or "", task.task_id, f"waits at place {place}"]
        for place, task in enumerate(overview.queued, start=1)
    ]
    if not rows:
        return []
    table = format_table(["SCHEDULE", "TASK", "FIRING"], rows[:_MOST_SHOWN], page)
    hidden = len(rows) - _MOST_SHOWN
    return ["", *table, *([f"… and {count(hidden, 'firing')} more"] if hidden > 0 else [])]


def _schedules_json(overview: Overview) -> dict[str, Any]:
    """Return the firings that run, those that wait, as they stand in line, and what stopped."""
    return {
        "running": [
            {"schedule_id": name, "task_id": one.record.task_id}
            for name, one in _running_firings(overview)
        ],
        "queued": [
            {"schedule_id": task.schedule_id, "task_id": task.task_id, "position": place}
            for place, task in enumerate(overview.queued, start=1)
        ],
        "stopped": [{"schedule_id": name, "why": why} for name, why in overview.stopped.items()],
        "deferred": [
            {
                "schedule_id": one.schedule_id,
                "reason": Reason.PRESSURE.value,
                "times": one.times,
                "until": time_or_none(one.until),
            }
            for one in overview.deferred
        ],
        "at_work": list(overview.at_work),
    }


def _budgets_json(overview: Overview) -> list[dict[str, Any]]:
    if not overview.budgets:
        return []
    from tinyscheduler.cli.budget_lines import budgets_json

    return budgets_json(overview.budgets)


def _gpus_json(overview: Overview) -> list[dict[str, Any]]:
    if overview.foresight.snapshot.gpus is None:
        return []
    from tinyscheduler.cli.gpu import gpus_json

    return gpus_json(overview.foresight)


def _models_json(overview: Overview) -> list[dict[str, Any]]:
    if not overview.foresight.snapshot.inventory.models:
        return []
    from tinyscheduler.cli.model_slots import models_json

    return models_json(overview.foresight)


def paused_json(overview: Overview) -> list[dict[str, Any]]:
    """Return what is paused or drained: by a switch, or by the configuration."""
    from tinyscheduler.cli.pause import switch_json

    switches = [switch_json(one) for one in overview.report.switches]
    if overview.config.enabled:
        return switches
    reason = "TINYSCHEDULER_ENABLED is false"
    setting = {"target": "all", "kind": "pause", "since": None, "by": None, "reason": reason}
    return [setting, *switches]


def _paused_lines(overview: Overview, page: Page) -> list[str]:
    from tinyscheduler.core.switches import tell_switch

    lines = [
        tell_switch(one, when=format_when(one.since, now=overview.now))
        for one in overview.report.switches
    ]
    if overview.foresight.snapshot.coolings:
        from tinyscheduler.cli.cooling_lines import cooling_lines

        lines += cooling_lines(overview.foresight.snapshot.coolings, now=overview.now)
    if not overview.config.enabled:
        lines.insert(0, "nothing starts: TINYSCHEDULER_ENABLED is false")
    # One that a budget stopped, or somebody with `pause`, is told by that.
    told = {str(one.target) for one in overview.report.switches}
    lines += [
        f"schedule {name} has paused itself: {why};"
        f" `tinyscheduler schedule resume {name}` lets it go on"
        for name, why in overview.stopped.items()
        if f"schedule:{name}" not in told
    ]
    if overview.at_work:
        verb = "is" if len(overview.at_work) == 1 else "are"
        lines.append(f"{join_names(overview.at_work)} {verb} at work: schedules make way")
    if overview.deferred:
        names = join_names([one.schedule_id for one in overview.deferred])
        verb = "makes" if len(overview.deferred) == 1 else "make"
        lines.append(
            f"schedule {names} {verb} way for somebody at work;"
            " `tinyscheduler pressure list` shows who"
        )
    pieces = [piece for line in lines for piece in wrap(escape(line), page)]
    return [page.paint(piece, Ink.YELLOW) for piece in pieces]


def _cooling_json(overview: Overview) -> list[dict[str, Any]]:
    snapshot = overview.foresight.snapshot
    if not snapshot.coolings:
        return []
    from tinyscheduler.cli.pause import cooling_json
    from tinyscheduler.core.cooling import is_cooling

    now = snapshot.now.wall
    return [cooling_json(one) for one in snapshot.coolings if is_cooling(one, now)]


def _policy_lines(overview: Overview, page: Page) -> list[str]:
    """Say whose policy decides, where it is not the platform's own choice."""
    found = _look_out(overview)
    if found is None or found.own is None:
        return []
    record, report = found.record, overview.report
    if found.fault is not None:
        line = f"your policy cannot be loaded, and {found.who} decides: {found.fault}"
    elif record is not None and record.failed:
        times = "once" if record.failed == 1 else f"{record.failed} times in a row"
        does = f"{found.who} decides"
        if found.decides == found.own.name:
            does = "the platform policy decided"
        line = f"your policy failed {times}, and {does}: {record.words}"
    elif report.policy_fallback is not None:
        from tinyscheduler.app.policies import tell_policy

        who = tell_policy(report.policy)
        line = f"your policy fails ({report.policy_fallback}), and {who} decides"
    else:
        decides = overview.config.policy.path or found.decides
        return [fit(f"policy {escape(decides)} decides", page)]
    return [page.paint(piece, Ink.YELLOW) for piece in wrap(escape(line), page)]


def _look_out(overview: Overview) -> Outlook | None:
    """Return which policy decides; None in mode platform, where nobody need load all that."""
    if overview.config.policy.mode == _PLATFORM:
        return None
    from tinyscheduler.app.policies import look_out

    return look_out(overview.config, overview.foresight.snapshot.memory)


def _policy_json(overview: Overview) -> dict[str, Any]:
    found, report = _look_out(overview), overview.report
    record = None if found is None else found.record
    return {
        "name": report.policy,
        "mode": report.policy_mode,
        "decides": _PLATFORM if found is None else found.decides,
        "fault": None if found is None else found.fault,
        "failed_in_a_row": 0 if record is None else record.failed,
        "is_given_up": record is not None and record.is_given_up,
        "words": None if record is None else record.words,
    }


def ps(
    context: typer.Context,
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show the leases of attempts under way."""
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    queue = open_queue(invocation.configure_reading(), Access.READ)
    scan = queue.leases.scan()
    now = queue.clock.now()
    entries = [entry for entry in scan.entries if entry.lease is not None or entry.is_lock_held]
    if json:
        emit_json(leases=[lease_json(entry, now.monotonic_ns) for entry in entries])
        return 0
    if not entries:
        invocation.note("nothing is running")
        return 0
    rows = [_lease_row(entry, now.wall, now.monotonic_ns) for entry in entries]
    head = ["ID", "STATE", "AGENT", "ATTEMPT", "PID", "FOR", "HEARTBEAT", "COMMAND"]
    emit("\n".join(format_table(head, rows, invocation.page)))
    return 0


def _lease_row(entry: LeaseEntry, now: datetime, now_ns: int) -> list[str | Cell]:
    lease = entry.lease
    if not isinstance(lease, Lease):
        words = lease.message if lease is not None else "its lock is held, but it has no lease"
        return [entry.task_id, Cell(text="unreadable", ink=Ink.RED), *["-"] * 5, words]
    from shlex import join as as_typed

    age_s = beat_age_s(entry, now_ns)
    return [
        entry.task_id,
        lease.state,
        lease.agent,
        str(lease.attempt),
        str(lease.process.pid) if lease.process else "-",
        format_span((now - lease.started_at).total_seconds()),
        "-" if age_s is None else f"{format_span(age_s)} ago",
        as_typed(lease.run.argv),
    ]


def beat_age_s(entry: LeaseEntry, now_ns: int) -> float | None:
    """Return how long ago the wrapper last beat, by the lock's own time."""
    return None if entry.beat_ns is None else max(0.0, (now_ns - entry.beat_ns) / 1e9)


def lease_json(entry: LeaseEntry, now_ns: int) -> dict[str, Any]:
    """Return one lease, without what its command was given."""
    lease = entry.lease
    held: dict[str, Any] = {"task_id": entry.task_id, "is_lock_held": entry.is_lock_held}
    if not isinstance(lease, Lease):
        message = lease.message if lease is not None else "its lock is held, but it has no lease"
        return {**held, "state": None, "fault": message}
    age_s = beat_age_s(entry, now_ns)
    return {
        **held,
        "state": lease.state.value,
        "fault": None,
        "lease_id": lease.lease_id,
        "source": lease.source,
        "agent": lease.agent,
        "attempt": lease.attempt,
        "pid": lease.process.pid if lease.process else None,
        "host": lease.host,
        "started_at": format_time(lease.started_at),
        "heartbeat_age_sec": None if age_s is None else round(age_s, 3),
        "max_runtime_sec": lease.max_runtime_s,
        "argv": list(lease.run.argv),
        "cwd": lease.run.cwd,
        "log": lease.run.log,
    }
