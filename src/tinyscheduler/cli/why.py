"""``why``: what keeps this task from running, in numbers, and what would change that."""

from __future__ import annotations

from collections.abc import Mapping

from tinyscheduler.cli.changes import change_json, change_words
from tinyscheduler.cli.following import describe_ticking, find_ticking
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.render import (
    INK_OF_STATE,
    Page,
    count,
    emit,
    emit_json,
    escape,
    format_span,
    format_when,
    wrap,
)
from tinyscheduler.cli.standing import (
    Standing,
    attempts_json,
    check_task_ids,
    find_standing,
    find_standings,
    time_or_none,
)
from tinyscheduler.cli.tasks import describe_outcome
from tinyscheduler.core.explain import Explanation, explain, join_names, never_ends
from tinyscheduler.errors import EXIT_DONE, EXIT_UNAVAILABLE
from tinyscheduler.model.config import FairShare
from tinyscheduler.model.plan import Dispatch, Reason
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import asdict, dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.cli.following import Ticking
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.model.records import TaskRecord

_MOST_BLOCKERS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that is known about what keeps one task, or about how it ended.

    ``explanation`` and ``ahead`` are None for a task that does not wait.  ``states`` says
    more of blockers under way than their records do.  ``taken`` is who works on it outside of
    attempts, and since when.
    """

    standing: Standing
    attempts: tuple[AttemptRecord, ...]
    now: datetime
    explanation: Explanation | None = None
    report: TickReport | None = None
    ahead: int | None = None
    blockers: tuple[TaskRecord, ...] = ()
    states: Mapping[str, TaskState] = field(default_factory=dict)
    most_attempts: int = 0
    ticking: Ticking | None = None
    taken: tuple[str, datetime] | None = None

    @property
    def stuck_on(self) -> list[tuple[TaskRecord, str]]:
        """The blockers that will not be done by themselves, each with its way out."""
        ways = ((one, never_ends(one)) for one in self.blockers)
        return [(one, way) for one, way in ways if way is not None]


def why(
    context: typer.Context,
    task_id: Annotated[str, argument(metavar="ID", help="The task.")],
    *,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Say why a task waits, or how it ended.

    Decides again, without doing anything, with this task in view however far back in line
    it stands; names what keeps it, with numbers, and what would have to change.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    (task_id,) = check_task_ids([task_id])
    answer = find_answer(open_queue(invocation.configure_reading(), Access.READ), task_id)
    report = answer.report
    for error in report.errors if report is not None else ():
        invocation.fail(f"{error.where}: {error.message}")
    if json:
        emit_json(**answer_json(answer))
    else:
        emit("\n".join(answer_lines(answer, invocation)))
    is_down = report is not None and report.all_sources_down
    return EXIT_UNAVAILABLE if is_down else EXIT_DONE


def find_answer(queue: Queue, task_id: str) -> Answer:
    """Look at the task and, if it waits, decide again; NotFoundError if there is none."""
    from tinyscheduler.app.ticks import foresee_task

    standing = find_standing(queue, task_id)
    attempts = tuple(queue.ledger.attempts(task_id))
    now = queue.clock.now().wall
    task = queue.inquiry.waiting_task(task_id)
    if task is None or standing.record.state not in (TaskState.WAITING, TaskState.HELD):
        return Answer(standing=standing, attempts=attempts, now=now)
    ahead = queue.inquiry.ahead(task)
    foresight = foresee_task(queue.config, task, window=ahead + 1)
    explanation = explain(
        foresight.snapshot, foresight.plan, task, foresight.policy, window=foresight.window
    )
    wait = explanation.wait if explanation is not None else None
    is_blocked = wait is not None and wait.reason in (Reason.BLOCKED_BY, Reason.HELD)
    # Who shares fairly stands in no fixed order.
    is_in_line = queue.config.limits.fair_share == FairShare.OFF and (
        wait is None or wait.reason in _IN_LINE
    )
    blockers = tuple(queue.inquiry.unfinished_above(task_id)) if is_blocked else ()
    standings = find_standings(queue, blockers)
    return Answer(
        standing=standing,
        attempts=attempts,
        now=now,
        explanation=explanation,
        report=foresight.report,
        ahead=ahead if is_in_line else None,
        blockers=blockers,
        states={one.record.task_id: one.state for one in standings},
        most_attempts=standing.record.max_attempts or queue.config.limits.max_attempts,
        ticking=find_ticking(queue),
        taken=_find_taker(queue, task_id) if standing.record.state is TaskState.HELD else None,
    )


def _find_taker(queue: Queue, task_id: str) -> tuple[str, datetime] | None:
    from tinyscheduler.cli.sharing import find_sharing  # few tasks are held

    sharing = find_sharing(queue, task_id)
    task = None if sharing is None else sharing.task
    if task is None or task.taken_by is None or task.taken_at is None:
        return None
    return task.taken_by, task.taken_at


# Tasks kept by anything else stand in no line: what comes after them goes first.
_IN_LINE = (
    *(Reason.AGENT_LIMIT, Reason.HOST_SLOTS, Reason.STAGGERED, Reason.POLICY_WAIT),
    *(Reason.QUEUE_LIMIT, Reason.TENANT_QUOTA, Reason.NO_SLOTS, Reason.OVERTAKEN_LIMIT),
    *(Reason.MEMORY_CRITICAL, Reason.MEMORY_INSUFFICIENT),
    *(Reason.VRAM_INSUFFICIENT, Reason.GPU_UNAVAILABLE),
)


def answer_lines(answer: Answer, invocation: Invocation) -> list[str]:
    """Return the verdict in the first line, then what it rests on, then the ways out."""
    page = invocation.page
    lines = [invocation.as_typed(line) for line in _lines(answer, page)]
    # Sentences are wrapped, not cut: their ends hold the way out.
    return [lines[0], *(piece for line in lines[1:] for piece in wrap(line, page))]


def _lines(answer: Answer, page: Page) -> list[str]:
    standing = answer.standing
    state = page.paint(standing.state, INK_OF_STATE[standing.state])
    head = f"task {standing.record.task_id} is {state}"
    if answer.explanation is None:
        return [f"{head}{_ending(answer)}", *_indent(_attempt_lines(answer))]
    wait = answer.explanation.wait
    if wait is None:
        lines = [f"{head}: nothing keeps it", *_indent(_start_lines(answer))]
    else:
        reason = "" if wait.reason is Reason.HELD else f": {wait.reason}"
        lines = [f"{head}{reason}", *_indent(_wait_lines(answer))]
    lines += _indent(_last_failure(answer))
    remedies = remedies_of(answer)
    if remedies:
        lines += ["", "what would change that:", *_indent(remedies)]
    return lines


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"  {escape(line)}" for line in lines]


def _start_lines(answer: Answer) -> list[str]:
    explanation = answer.explanation
    decision = explanation.decision if explanation is not None else None
    agent = decision.agent if isinstance(decision, Dispatch) else ""
    lines = [f"the next tick starts it as attempt {answer.standing.record.attempt} by {agent}"]
    return lines if answer.ticking is None else [*lines, describe_ticking(answer.ticking)]


def _wait_lines(answer: Answer) -> list[str]:
    explanation = answer.explanation
    if explanation is None or explanation.wait is None:
        return []
    if answer.blockers:
        lines = _blocker_lines(answer)
    elif explanation.wait.reason is Reason.HELD:
        lines = _taker_lines(answer)
    else:
        lines = [*explanation.words]
    lines += [f"then: {words}" for words in explanation.next_binding]
    if answer.ahead is not None:
        lines.append(place_words(answer.standing.record, answer.ahead))
    return lines


def _taker_lines(answer: Answer) -> list[str]:
    if answer.taken is None:
        return []
    by, since = answer.taken
    return [f"{by} took it {format_when(since, now=answer.now)}, to work on it outside of attempts"]


def place_words(record: TaskRecord, ahead: int) -> str:
    """Say where in its line a task stands."""
    line = f"for agent {record.agent}" if record.agent else f"in queue {record.queue}"
    if ahead == 0:
        return f"first in line {line}"
    return f"{count(ahead, 'task')} {line} {'goes' if ahead == 1 else 'go'} first"


def _blocker_lines(answer: Answer) -> list[str]:
    """Tell of the blockers themselves, and of those further up that keep them from ending."""
    direct = set(answer.standing.record.blocked_by)
    left = answer.standing.record.blockers_left
    lines = [f"waits for {count(left, 'task')} to be done"]
    shown = [one for one in answer.blockers if one.task_id in direct]
    shown += [one for one, _ in answer.stuck_on if one.task_id not in direct]
    for one in shown[:_MOST_BLOCKERS_SHOWN]:
        words = f"task {one.task_id}: {answer.states.get(one.task_id, one.state)}"
        if one.failure_reason is not None and one.failure_reason.value != one.state.value:
            words += f" ({one.failure_reason})"
        if one.blocked_by:
            words += f", waits for {join_names(one.blocked_by)}"
        lines.append(words)
    hidden = max(left, len(shown)) - min(len(shown), _MOST_BLOCKERS_SHOWN)
    return [*lines, f"… and {hidden} more"] if hidden > 0 else lines


def remedies_of(answer: Answer) -> list[str]:
    """Say in sentences what would have to change, the way out of dead ends first."""
    if answer.explanation is None:
        return []
    words = [
        f"task {one.task_id} is {one.state} and will not be done by itself: {way}"
        for one, way in answer.stuck_on[:_MOST_BLOCKERS_SHOWN]
    ]
    wait = answer.explanation.wait
    task_id = answer.standing.record.task_id
    changes = [change_words(one, task_id, now=answer.now) for one in answer.explanation.changes]
    words += [*answer.explanation.remedies, *changes]
    if answer.explanation.is_lost_to_view:
        words.append("so many go first that no change was looked for that would start it now")
    elif answer.explanation.next_binding and not changes:
        never = [cap.agent for cap in answer.explanation.caps if not cap.limit]
        words += [
            f"agent {name} needs a limit above 0 (agents file or AGENT_LIMITS)" for name in never
        ]
        words.append("more than one thing keeps it, and no single change would start it now")
    if wait is None and answer.ticking is not None and not answer.ticking.has_daemon:
        words.append("`tinyscheduler run` starts it now")
    if wait is not None and wait.reason is Reason.BLOCKED_BY and not answer.stuck_on:
        words.append("it becomes due by itself when they are done")
    if wait is not None and wait.reason in _WITH_TIME and answer.ticking is not None:
        words.append(f"then the next tick starts it; {describe_ticking(answer.ticking)}")
    return words


_WITH_TIME = (Reason.BACKING_OFF, Reason.NOT_BEFORE, Reason.PRESSURE, Reason.COOLING)


def _last_failure(answer: Answer) -> list[str]:
    """Tell of the attempt that failed before, whatever keeps the next one."""
    if not answer.attempts:
        return []
    last, failures = answer.attempts[-1], answer.standing.record.failures
    words = f"attempt {last.attempt} {describe_outcome(last)}"
    words += f" {format_when(last.ended_at, now=answer.now)}"
    if failures:
        words += f"; failure {failures} of {answer.most_attempts} before it is parked"
    return [words, *([f"its log: {last.log}"] if last.log else [])]


def _ending(answer: Answer) -> str:
    """Finish the sentence about a task that does not wait."""
    record, lease = answer.standing.record, answer.standing.lease
    match answer.standing.state:
        case TaskState.DONE | TaskState.CANCELLED | TaskState.PARKED | TaskState.FAILED:
            return f", {format_when(record.ended_at, now=answer.now)}"
        case TaskState.SETTLING if lease is None and answer.standing.result is None:
            return ": its lease is lost; the next tick gives it back"
        case TaskState.SETTLING:
            return ": its attempt has ended; the next tick settles it"
        case _:
            return ""


def _attempt_lines(answer: Answer) -> list[str]:
    """Tell of the attempt under way, else of the last one."""
    standing = answer.standing
    lease = standing.lease
    if lease is not None:
        age_s = (answer.now - lease.started_at).total_seconds()
        pid = f", wrapper {lease.process.pid}" if lease.process is not None else ""
        lines = [f"attempt {lease.attempt} by agent {lease.agent}{pid}, for {format_span(age_s)}"]
        left_s = lease.max_runtime_s - age_s
        longest = format_span(lease.max_runtime_s)
        lines.append(f"it is ended after {longest}, in {format_span(left_s)}")
        if standing.record.cancel_requested:
            lines.append("its cancellation was asked for; SIGTERM, a grace period, SIGKILL")
        return [*lines, *([f"its log: {lease.run.log}"] if lease.run.log else [])]
    if standing.state in (TaskState.WAITING, TaskState.HELD):
        return ["no tick could look at it just now: ask again"]
    if not answer.attempts:
        return ["it never ran"] if standing.state.is_final else []
    last, record = answer.attempts[-1], standing.record
    lines = []
    if standing.state is TaskState.PARKED:
        lines.append(f"set aside after {count(record.failures, 'failure')}")
    if standing.state is TaskState.FAILED:
        lines.append("a rule ended it without another attempt")
    if standing.state in (TaskState.PARKED, TaskState.FAILED):
        lines.append(f"`tinyscheduler retry {record.task_id}` lets it wait again")
    lines += [f"attempt {last.attempt} by agent {last.agent}: {describe_outcome(last)}"]
    # An exit code was told; anything else that was said of the end was not.
    if last.message and not last.message.startswith("exit code"):
        lines.append(last.message)
    return [*lines, *([f"its log: {last.log}"] if last.log else [])]


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return the same as a document."""
    standing, explanation = answer.standing, answer.explanation
    record = standing.record
    wait = explanation.wait if explanation is not None else None
    decision = explanation.decision if explanation is not None else None
    stuck = {one.task_id: way for one, way in answer.stuck_on}
    attempts = attempts_json(standing, answer.attempts)
    return {
        "task_id": record.task_id,
        "state": standing.state.value,
        "reason": None if wait is None else wait.reason.value,
        "words": None if wait is None else wait.words,
        "retry_after_sec": None if wait is None else wait.retry_after_s,
        "starts_next": isinstance(decision, Dispatch),
        "agent": decision.agent if isinstance(decision, Dispatch) else standing.agent,
        "queue": record.queue,
        "ahead": answer.ahead,
        "caps": [
            {
                "agent": cap.agent,
                "limit": cap.limit,
                "used": len(cap.used_by) + len(cap.taken_by),
                "used_by": list(cap.used_by),
                "taken_by": list(cap.taken_by),
            }
            for cap in (explanation.caps if explanation is not None else ())
        ],
        "shortfall": None
        if explanation is None or explanation.shortfall is None
        else asdict(explanation.shortfall),
        "next_binding": list(explanation.next_binding) if explanation is not None else [],
        "would_start_with": [
            change_json(one) for one in (explanation.changes if explanation is not None else ())
        ],
        "blockers": [
            {
                "task_id": one.task_id,
                "state": answer.states.get(one.task_id, one.state).value,
                "is_direct": one.task_id in record.blocked_by,
                "failure_reason": one.failure_reason,
                "blocked_by": list(one.blocked_by),
                "way_out": stuck.get(one.task_id),
            }
            for one in answer.blockers
        ],
        "not_before": time_or_none(record.not_before),
        "backing_off_until": time_or_none(record.backing_off_until),
        "failures": record.failures,
        "failure_reason": record.failure_reason,
        "remedies": remedies_of(answer),
        "last_tick_at": time_or_none(answer.ticking.last_at if answer.ticking else None),
        "daemon_running": answer.ticking.has_daemon if answer.ticking else None,
        "attempt": attempts[-1] if attempts else None,
        "taken_by": None if answer.taken is None else answer.taken[0],
    }
