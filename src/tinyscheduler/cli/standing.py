"""Where does each task stand, leases and results considered, and how is that told as JSON?"""

from __future__ import annotations

from tinyscheduler.config.problems import literal
from tinyscheduler.errors import NotFoundError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.leases import Lease, LeaseState
from tinyscheduler.model.snapshot import LeaseScan
from tinyscheduler.model.tasks import AttemptResult, TaskState, is_task_id
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from typing import Any

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.records import TaskRecord
    from tinyscheduler.model.tasks import TaskSpec

# What `working` means in more detail; only lease and result tell.
SEEN_ON_THE_LEASE = frozenset({TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING})
_AT_WORK = (TaskState.STARTING, TaskState.RUNNING)
NOTHING_LEASED = LeaseScan(entries=(), results=())
_LONGEST_ID_TOLD = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One task as people see it: its row, and of an attempt under way the lease and result."""

    record: TaskRecord
    state: TaskState
    lease: Lease | None = None
    result: AttemptResult | None = None

    @property
    def agent(self) -> str | None:
        """The agent at work on it, else the one it was added for."""
        return self.record.claimed_by or self.record.agent

    @property
    def word(self) -> str:
        """The state in a word for people; ``cancelling`` once its end has been asked for."""
        is_ending = self.record.cancel_requested and self.state in _AT_WORK
        return "cancelling" if is_ending else self.state

    @property
    def attempt(self) -> int:
        """The number of the attempt under way, else of the last one; 0 before the first."""
        is_working = self.record.state is TaskState.WORKING
        return self.record.attempt if is_working else self.record.attempt - 1


def check_task_ids(task_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the ids, each once; NotFoundError for a text that can be no task's id."""
    ids = tuple(dict.fromkeys(task_ids))
    for task_id in ids:
        if not is_task_id(task_id):
            told = literal(task_id)
            if len(told) > _LONGEST_ID_TOLD:
                told = f"{told[:_LONGEST_ID_TOLD]}… ({len(task_id)} characters)"
            raise NotFoundError(
                f"{told} is no task id", hint="`tinyscheduler list` shows the tasks there are"
            )
    return ids


def find_standing(queue: Queue, task_id: str) -> Standing:
    """Return where one task stands; NotFoundError if there is none."""
    return find_standings(queue, [queue.tasks.task(task_id)])[0]


def find_standings(queue: Queue, records: Sequence[TaskRecord]) -> list[Standing]:
    """Say of each task where it stands; leases are read only if any is under way."""
    is_busy = any(record.state is TaskState.WORKING for record in records)
    scan = queue.leases.scan() if is_busy else NOTHING_LEASED
    return [_stand(queue, record, scan) for record in records]


def _stand(queue: Queue, record: TaskRecord, scan: LeaseScan) -> Standing:
    if record.state is not TaskState.WORKING:
        return Standing(record=record, state=record.state)
    standing = join(record, scan)
    if standing.lease is None and standing.result is None:
        # It was settled between our two looks, so its row says more now.
        again = queue.tasks.task(record.task_id)
        if again.lease_id != record.lease_id and again.state is not TaskState.WORKING:
            return Standing(record=again, state=again.state)
    return standing


def join(record: TaskRecord, scan: LeaseScan) -> Standing:
    """Read off lease and result how far a working task has come.

    A task without either has lost them; what comes next is a tick that gives it back.
    """
    lease = next(
        (
            entry.lease
            for entry in scan.entries
            if isinstance(entry.lease, Lease) and entry.lease.lease_id == record.lease_id
        ),
        None,
    )
    result = next((one for one in scan.results if one.lease_id == record.lease_id), None)
    state = TaskState.SETTLING
    if result is None and lease is not None:
        state = state_of(lease)
    return Standing(record=record, state=state, lease=lease, result=result)


def state_of(lease: Lease) -> TaskState:
    """Return the state that a lease shows while its attempt has recorded no result."""
    return _STATE_OF_LEASE[lease.state]


_STATE_OF_LEASE = {
    LeaseState.STARTING: TaskState.STARTING,
    LeaseState.RUNNING: TaskState.RUNNING,
    LeaseState.FINISHED: TaskState.SETTLING,
}


def time_or_none(moment: datetime | None) -> str | None:
    """Write a moment as JSON has it."""
    return None if moment is None else format_time(moment)


def brief_json(standing: Standing) -> dict[str, Any]:
    """Return one entry of a list."""
    record = standing.record
    return {
        "task_id": record.task_id,
        "source": record.source,
        "state": standing.state.value,
        "summary": record.summary,
        "agent": standing.agent,
        "queue": record.queue,
        "priority": record.priority,
        "attempt": standing.attempt,
        "failures": record.failures,
        "failure_reason": record.failure_reason,
        "cancel_requested": record.cancel_requested,
        "blocked_by": list(record.blocked_by),
        "not_before": time_or_none(record.not_before),
        "backing_off_until": time_or_none(record.backing_off_until),
        "created_at": format_time(record.created_at),
        "started_at": time_or_none(standing.lease.started_at if standing.lease else None),
        "ended_at": time_or_none(record.ended_at),
    }


def full_json(
    standing: Standing, spec: TaskSpec, attempts: Sequence[AttemptRecord]
) -> dict[str, Any]:
    """Return everything that is known of one task."""
    record = standing.record
    return {
        **brief_json(standing),
        "lease_id": record.lease_id,
        "launches": record.launches,
        "blocks": record.blocks,
        "updated_at": format_time(record.updated_at),
        **spec_json(spec),
        "attempts": attempts_json(standing, attempts),
    }


def spec_json(spec: TaskSpec) -> dict[str, Any]:
    """Return what was asked for with ``add``; secrets in the environment stay secret."""
    return {
        "title": spec.title,
        "command": list(spec.command),
        "prompt": spec.prompt,
        "recipe": spec.recipe,
        "class": spec.priority_class.value,
        "gpus": spec.gpus,
        "vram_bytes": spec.vram_bytes,
        "memory_bytes": spec.memory_bytes,
        "model": spec.model,
        "seed": spec.seed,
        "tenant": spec.tenant,
        "project": spec.project,
        "max_runtime_sec": spec.max_runtime_s,
        "max_turns": spec.max_turns,
        "max_tokens": spec.max_tokens,
        "max_cost_usd": spec.max_cost_usd,
        "max_attempts": spec.max_attempts,
        "after": list(spec.after),
        "labels": dict(spec.labels),
        "cwd": spec.cwd,
        "env": hide_secrets(spec),
    }


def hide_secrets(spec: TaskSpec) -> dict[str, str]:
    """Return the task's own variables without the values of those that sound secret."""
    if not spec.environment:
        return {}
    # Heavy: it comes with the settings class.
    from tinyscheduler.config.settings import is_secret

    return {name: "(secret)" if is_secret(name) else value for name, value in spec.environment}


def attempts_json(standing: Standing, attempts: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    """Return all attempts, the one under way included, oldest first."""
    listed = [ended_attempt_json(attempt) for attempt in attempts]
    known = {attempt.lease_id for attempt in attempts}
    if standing.record.lease_id is not None and standing.record.lease_id not in known:
        listed.append(_current_attempt(standing))
    return listed


def ended_attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    """Return one attempt that is over."""
    return {
        "attempt": attempt.attempt,
        "agent": attempt.agent,
        "started_at": time_or_none(attempt.started_at),
        "ended_at": format_time(attempt.ended_at),
        "outcome": attempt.outcome.value,
        "failure_reason": attempt.failure_reason,
        "reclaim_reason": attempt.reclaim_reason,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "message": attempt.message,
        "turns": attempt.turns,
        "tokens": attempt.tokens,
        "cost_usd": attempt.cost_usd,
        "peak_rss_mb": attempt.peak_rss_mb,
        "cpu_sec": attempt.cpu_s,
        "gpu_sec": attempt.gpu_s,
        "log": attempt.log,
    }


def _current_attempt(standing: Standing) -> dict[str, Any]:
    """Tell what is known so far; a recorded result that is not settled yet tells it all."""
    record, lease, result = standing.record, standing.lease, standing.result
    started_at = result.started_at if result else lease.started_at if lease else None
    known = result or lease
    return {
        "attempt": record.attempt,
        "agent": standing.agent,
        "started_at": time_or_none(started_at),
        "ended_at": time_or_none(result.ended_at if result else None),
        "outcome": result.outcome.value if result else None,
        "failure_reason": result.failure_reason if result else None,
        "reclaim_reason": None,
        "exit_code": result.exit_code if result else None,
        "signal": result.signal if result else None,
        "message": result.message if result else "",
        "turns": known.turns if known else None,
        "tokens": known.tokens if known else None,
        "cost_usd": known.cost_usd if known else None,
        "peak_rss_mb": result.peak_rss_mb if result else None,
        "cpu_sec": known.cpu_s if known else None,
        "gpu_sec": result.gpu_s if result else None,
        "log": result.log if result else (lease.run.log or None) if lease else None,
    }


def with_state(records: Iterable[Standing], state: TaskState | None) -> list[Standing]:
    """Keep those that stand so; all of them if no state is asked for."""
    wanted = None if state is None else SEEN_ON_THE_LEASE if state is TaskState.WORKING else {state}
    return [one for one in records if wanted is None or one.state in wanted]
