"""``list`` and ``show``: which tasks are there, and all about one."""

from __future__ import annotations

import shlex
from datetime import datetime

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.logs import find_log
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    Cell,
    Page,
    Row,
    count,
    cut,
    emit,
    emit_json,
    escape,
    format_span,
    format_table,
    format_when,
    measure,
)
from tinyscheduler.cli.standing import (
    SEEN_ON_THE_LEASE,
    Standing,
    brief_json,
    check_task_ids,
    find_standing,
    find_standings,
    full_json,
    hide_secrets,
    with_state,
)
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.plan import Wait
from tinyscheduler.model.resources import format_size
from tinyscheduler.model.tasks import TaskSpec, TaskState, WaitingTask
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.cli.sharing import Sharing

DEFAULT_LIMIT = 100
_MOST_LISTED = 1_000_000
_LINES_OF_PROMPT = 10
_WIDTH_WITHOUT_TERMINAL = 200
_NARROWEST = 8
_OF_ANY_LENGTH = frozenset({"title", "command", "label", "env"})


def list_tasks(
    context: typer.Context,
    *,
    state: Annotated[
        TaskState | None,
        option(metavar="STATE", help=f"Only tasks in this state: {', '.join(TaskState)}."),
    ] = None,
    agent: Annotated[str | None, option(metavar="NAME", help="Only tasks of this agent.")] = None,
    limit: Annotated[
        int,
        option(
            parser=whole_number(least=1, most=_MOST_LISTED),
            metavar="N",
            help="At most so many, the newest.",
        ),
    ] = DEFAULT_LIMIT,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """List tasks, the newest last."""
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    queue = open_queue(invocation.configure_reading(), Access.READ)
    # One more than wanted tells whether there are more.  How far an attempt has come is seen
    # on its lease: of these all are read, no more than there are slots, and cut afterwards.
    most = _MOST_LISTED if state in SEEN_ON_THE_LEASE else limit
    records = queue.tasks.tasks(state=state, agent=agent, limit=most + 1)
    standings = with_state(find_standings(queue, records), state)
    shown = standings[-limit:]
    if agent is not None and not shown:
        invocation.note_unknown("agent", agent, (one.name for one in queue.config.agents))
    if json:
        emit_json(tasks=[brief_json(one) for one in shown])
        return 0
    if shown:
        emit("\n".join(format_tasks(shown, page=invocation.page, now=queue.clock.now().wall)))
    else:
        kind = " ".join(filter(None, [state, agent and f"for agent {agent}"]))
        invocation.note(f"no tasks {kind}".rstrip())
    _note_stops(invocation, queue, shown)
    if len(standings) > limit:
        invocation.note(f"only the newest {limit} are listed; --limit N lists more")
    return 0


def _note_stops(invocation: Invocation, queue: Queue, shown: list[Standing]) -> None:
    """Say once, beside the table, what keeps waiting tasks in it from starting."""
    from tinyscheduler.cli.cooling_lines import cooling_lines
    from tinyscheduler.core.switches import tell_switch

    if any(one.state is TaskState.WAITING for one in shown):
        now = queue.clock.now().wall
        for switch in queue.switches.read():
            invocation.note(tell_switch(switch, when=format_when(switch.since, now=now)))
        for line in cooling_lines(queue.coolings.read(), now=now):
            invocation.note(line)


def format_tasks(standings: list[Standing], *, page: Page, now: datetime) -> list[str]:
    """Return a table with one line per task."""
    rows: list[Row] = [
        [
            one.record.task_id,
            Cell(text=one.word, ink=INK_OF_STATE[one.state]),
            one.agent or "-",
            str(one.attempt),
            format_when(moment_of(one), now=now),
            one.record.summary,
        ]
        for one in standings
    ]
    return format_table(["ID", "STATE", "AGENT", "ATTEMPT", "SINCE", "TASK"], rows, page)


def moment_of(standing: Standing) -> datetime:
    """Return since when the task has been as it is."""
    if standing.lease is not None:
        return standing.lease.started_at
    return standing.record.ended_at or standing.record.updated_at


def show(
    context: typer.Context,
    task_id: Annotated[str, argument(metavar="ID", help="The task.")],
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Show all about one task and its attempts."""
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue
    from tinyscheduler.cli.sharing import find_sharing

    (task_id,) = check_task_ids([task_id])
    queue = open_queue(invocation.configure_reading(), Access.READ)
    standing = find_standing(queue, task_id)
    spec = queue.tasks.describe(task_id)
    attempts = queue.ledger.attempts(task_id)
    stop = find_stop_of(queue, standing)
    log = find_log(queue, standing, None)
    sharing = find_sharing(queue, task_id)
    if json:
        told = None if stop is None else {"reason": stop.reason.value, "words": stop.words}
        shared = {} if sharing is None else sharing.json()
        emit_json(**full_json(standing, spec, attempts), stopped_by=told, **shared)
        return 0
    report = _TaskReport(
        standing=standing,
        spec=spec,
        attempts=tuple(attempts),
        stop=stop,
        log=log.path if log is not None else "",
        sharing=sharing,
        page=invocation.page,
        now=queue.clock.now().wall,
    )
    emit("\n".join(report.lines()))
    return 0


def find_stop_of(queue: Queue, standing: Standing) -> Wait | None:
    """Return what keeps a waiting task from starting: a pause, a drain, or a cooling account."""
    from tinyscheduler.core.cooling import cooling_agents, find_cooling
    from tinyscheduler.core.queueing import candidates
    from tinyscheduler.core.switches import find_stop, is_paused
    from tinyscheduler.model.policy import AgentView

    record = standing.record
    if record.state is not TaskState.WAITING:
        return None
    task = WaitingTask(
        task_id=record.task_id,
        source=record.source,
        created_order=0,
        attempt=record.attempt,
        agent=record.agent,
        queue=record.queue,
    )
    agents = [
        AgentView(name=agent.name, queue=agent.queue, limit=agent.limit, active=0)
        for agent in queue.config.agents
    ]
    able, switches = candidates(task, agents), queue.switches.read()
    now = queue.clock.now().wall
    return find_stop(task, agents=able, switches=switches) or find_cooling(
        task,
        able=able,
        cooling=cooling_agents(queue.config.agents, queue.coolings.read(), now),
        paused=[one.name for one in able if is_paused(one, switches)],
        now=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskReport:
    standing: Standing
    spec: TaskSpec
    attempts: tuple[AttemptRecord, ...]
    stop: Wait | None
    log: str
    sharing: Sharing | None
    page: Page
    now: datetime

    def lines(self) -> list[str]:
        """Return one line per fact that there is, then the attempts, then the prompt."""
        facts = [*self._standing_facts(), *self._asked_facts()]
        if self.sharing is not None:
            facts += self.sharing.facts(self.now)
        known = [(name, text) for name, text in facts if text]
        width = max(len(name) for name, _ in known) + 2
        lines = [
            f"{name + ':':<{width}}{self._value(name, text, indent=width)}".rstrip()
            for name, text in known
        ]
        rows = self._attempt_rows()
        if rows:
            head = ["ATTEMPT", "AGENT", "STARTED", "TOOK", "OUTCOME"]
            lines += ["", *format_table(head, rows, self.page)]
        if self.sharing is not None:
            lines += self.sharing.comment_lines(self.now, self.page)
        return [*lines, *self._prompt_lines()]

    def _value(self, name: str, text: str, *, indent: int) -> str:
        if name == "state":
            return self.page.paint(text, INK_OF_STATE[self.standing.state])
        return self._fit(text, indent=indent) if name in _OF_ANY_LENGTH else escape(text)

    def _fit(self, text: str, *, indent: int) -> str:
        """Return as much of a line as the page is wide, and how much there is of it."""
        width = (self.page.width or _WIDTH_WITHOUT_TERMINAL) - indent
        # No letter takes less than a column for long, and a megabyte is not to be measured.
        shown = escape(text[: 2 * width + 1])
        if len(text) <= 2 * width and measure(shown) <= width:
            return shown
        size = len(text.encode(errors="surrogateescape"))
        rest = f" {size} bytes; --json has all"
        return cut(shown, max(width - len(rest), _NARROWEST)) + rest

    def _standing_facts(self) -> list[tuple[str, str]]:
        record = self.standing.record
        state: str = self.standing.state
        if record.failure_reason is not None and record.failure_reason.value != state:
            state += f" ({record.failure_reason})"
        if record.cancel_requested:
            state += ", cancellation requested"
        return [
            ("task", record.task_id),
            ("title", self.spec.title or ""),
            ("state", state),
            ("stopped", self.stop.words if self.stop is not None else ""),
            ("blocked by", " ".join(record.blocked_by)),
            ("blocks", count(record.blocks, "task") if record.blocks else ""),
            ("backing off", self._when(self._left(record.backing_off_until))),
            ("agent", self.standing.agent or ""),
            ("queue", record.queue or ""),
            ("command", shlex.join(self.spec.command)),
            ("added", self._when(record.created_at)),
            ("ended", self._when(record.ended_at)),
            ("attempt" if record.lease_id else "next attempt", self._attempt_words()),
            ("log", self.log),
        ]

    def _attempt_words(self) -> str:
        record = self.standing.record
        if self.standing.state.is_final:
            return ""
        words = str(record.attempt)
        if record.failures:
            words += f", {count(record.failures, 'failure')} before"
        return words

    def _asked_facts(self) -> list[tuple[str, str]]:
        spec = self.spec
        numbers = {
            "priority": spec.priority or None,
            "gpus": spec.gpus or None,
            "seed": spec.seed,
            "max turns": spec.max_turns,
            "max tokens": spec.max_tokens,
            "max cost": spec.max_cost_usd,
            "max attempts": spec.max_attempts,
        }
        pairs = {
            "label": dict(spec.labels),
            "env": hide_secrets(spec),
        }
        return [
            ("recipe", spec.recipe or ""),
            ("class", "" if spec.priority_class == "batch" else spec.priority_class),
            *((name, "" if number is None else str(number)) for name, number in numbers.items()),
            ("vram", _size(spec.vram_bytes)),
            ("memory", _size(spec.memory_bytes)),
            ("model", spec.model or ""),
            ("tenant", spec.tenant or ""),
            ("project", spec.project or ""),
            ("max runtime", "" if spec.max_runtime_s is None else format_span(spec.max_runtime_s)),
            ("after", " ".join(spec.after)),
            ("not before", self._when(spec.not_before)),
            *(
                (name, f"{key}={value}")
                for name, values in pairs.items()
                for key, value in values.items()
            ),
            ("cwd", spec.cwd or ""),
        ]

    def _left(self, moment: datetime | None) -> datetime | None:
        return moment if moment is not None and moment > self.now else None

    def _when(self, moment: datetime | None) -> str:
        if moment is None:
            return ""
        return f"{format_when(moment, now=self.now)} ({format_time(moment)})"

    def _attempt_rows(self) -> list[list[str]]:
        rows = [
            [
                str(one.attempt),
                one.agent,
                format_when(one.started_at, now=self.now),
                _took(one.started_at, one.ended_at),
                describe_outcome(one),
            ]
            for one in self.attempts
        ]
        record, lease = self.standing.record, self.standing.lease
        if record.lease_id is not None and record.lease_id not in {
            one.lease_id for one in self.attempts
        }:
            started_at = lease.started_at if lease else None
            rows.append(
                [
                    str(record.attempt),
                    self.standing.agent or "",
                    format_when(started_at, now=self.now),
                    _took(started_at, self.now),
                    self.standing.state,
                ]
            )
        return rows

    def _prompt_lines(self) -> list[str]:
        if self.spec.prompt is None:
            return []
        lines = self.spec.prompt.splitlines() or [""]
        shown = [f"  {self._fit(line, indent=2)}" for line in lines[:_LINES_OF_PROMPT]]
        if len(lines) > _LINES_OF_PROMPT:
            shown.append(f"  … {len(lines) - _LINES_OF_PROMPT} more lines; --json has them all")
        return ["", "prompt:", *shown]


def describe_outcome(attempt: AttemptRecord) -> str:
    """Say in words how an attempt ended.

    >>> from datetime import UTC
    >>> from tinyscheduler.model.tasks import FailureReason, Outcome
    >>> describe_outcome(
    ...     AttemptRecord(
    ...         lease_id="",
    ...         task_id="7",
    ...         source="local",
    ...         agent="shell",
    ...         attempt=1,
    ...         started_at=None,
    ...         ended_at=datetime(2026, 1, 1, tzinfo=UTC),
    ...         outcome=Outcome.FAILED,
    ...         failure_reason=FailureReason.COMMAND_FAILED,
    ...         exit_code=3,
    ...     )
    ... )
    'failed (command_failed, exit code 3)'
    """
    details: list[str] = []
    if attempt.failure_reason is not None and attempt.failure_reason.value != attempt.outcome.value:
        details.append(attempt.failure_reason)
    if attempt.reclaim_reason is not None and attempt.reclaim_reason not in details:
        details.append(attempt.reclaim_reason)
    if attempt.exit_code:
        details.append(f"exit code {attempt.exit_code}")
    if attempt.signal:
        details.append(f"signal {attempt.signal}")
    return f"{attempt.outcome} ({', '.join(details)})" if details else attempt.outcome


def _took(started_at: datetime | None, ended_at: datetime) -> str:
    return "-" if started_at is None else format_span((ended_at - started_at).total_seconds())


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else format_size(size_bytes)
