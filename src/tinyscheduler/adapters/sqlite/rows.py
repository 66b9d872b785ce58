"""How do the values of the model look as rows, and back?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.model.history import AttemptRecord
from tinyscheduler.model.leases import ReclaimReason
from tinyscheduler.model.records import TaskRecord
from tinyscheduler.model.switches import Switch, SwitchKind, parse_target
from tinyscheduler.model.tasks import (
    Claim,
    FailureReason,
    Outcome,
    PriorityClass,
    TaskSpec,
    TaskState,
    WaitingTask,
)
from tinyscheduler.values import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Title, seed and labels of tasks, by their rows; not all tasks have any.
_Marks = tuple[str | None, int | None, tuple[tuple[str, str], ...]]
Marks = Mapping[int, _Marks]
_NO_MARKS: _Marks = (None, None, ())
# Beyond, a policy in Lua could not be told of it.
_SEEDS_END = 2**63
# Only keys look like this: within a text each quote has a backslash before it.
_MARKED = """
SELECT task_id, details FROM task_specs
WHERE task_id IN (SELECT value FROM json_each(?))
    AND (
        instr(details, '"labels":') OR instr(details, '"seed":') OR instr(details, '"title":')
    )
    AND json_valid(details)
"""
_SPEC_FIELDS = tuple(field for field in fields(TaskSpec) if field.name != "prompt")


def to_micros(moment: datetime) -> int:
    """Count the microseconds since 1970.

    >>> to_micros(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC))
    1000005
    """
    return (moment - EPOCH) // _MICROSECOND


def micros_or_none(moment: datetime | None) -> int | None:
    """Count the microseconds since 1970, of a moment that may be missing."""
    return None if moment is None else to_micros(moment)


def from_micros(micros: int | None) -> datetime | None:
    """Return the moment in UTC, if there is one."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def spec_details(spec: TaskSpec) -> str:
    """Write everything but the prompt as JSON, leaving out what is at its default."""
    details = {
        field.name: getattr(spec, field.name)
        for field in _SPEC_FIELDS
        if getattr(spec, field.name) != field.default
    }
    if spec.not_before is not None:
        details["not_before"] = spec.not_before.astimezone(UTC).isoformat()
    return dumps(details, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def spec_of(row: sqlite3.Row) -> TaskSpec:
    """Read back what `spec_details` wrote, and the prompt beside it."""
    return spec_of_details(loads(row["details"]), prompt=row["prompt"])


def spec_of_details(details: dict[str, Any], *, prompt: str | None) -> TaskSpec:
    """Read back what `spec_details` wrote as JSON; the values are changed."""
    for name in ("command", "after"):
        if name in details:
            details[name] = tuple(details[name])
    for name in ("labels", "environment"):
        if name in details:
            details[name] = tuple((key, value) for key, value in details[name])
    if "priority_class" in details:
        details["priority_class"] = PriorityClass(details["priority_class"])
    if "not_before" in details:
        details["not_before"] = datetime.fromisoformat(details["not_before"])
    return TaskSpec(prompt=prompt, **details)


def waiting_of(
    row: sqlite3.Row, *, source: str, blocked_by: tuple[str, ...], marks: Marks
) -> WaitingTask:
    """Return a task that waits or is held, as a policy sees it."""
    title, seed, labels = marks.get(row["id"], _NO_MARKS)
    return WaitingTask(
        task_id=str(row["id"]),
        source=source,
        created_order=row["id"],
        attempt=row["attempt"],
        failures=row["failures"],
        launches=row["launches"],
        agent=row["agent"] or None,
        queue=row["queue"] or None,
        priority=row["priority"],
        blocks=row["blocks"],
        blocked_by=blocked_by,
        not_before=from_micros(row["not_before"]),
        backing_off_until=from_micros(row["backing_off_until"]),
        is_held=row["state"] == TaskState.HELD,
        memory_bytes=row["memory_bytes"],
        priority_class=PriorityClass(row["priority_class"]),
        gpus=row["gpus"],
        vram_bytes=row["vram_bytes"],
        model=row["model"],
        tenant=row["tenant"],
        project=row["project"],
        max_runtime_s=row["max_runtime_s"],
        created_at=from_micros(row["created_at"]),
        title=title,
        seed=seed,
        labels=labels,
        schedule_id=row["schedule_id"],
        slot=from_micros(row["slot"]),
        is_beside=bool(row["is_beside"]),
        is_forced=bool(row["is_forced"]),
    )


def marks_of(connection: sqlite3.Connection, ids: Iterable[int]) -> Marks:
    """Return title, seed and labels of those of these tasks that have any.

    What makes no sense counts as nothing: whoever asks what the task is will hear of it.
    """
    found = connection.execute(_MARKED, (dumps(list(ids)),))
    return {row["task_id"]: _marks_in(row["details"]) for row in found}


def _marks_in(text: str) -> _Marks:
    try:
        details = loads(text)
        title, seed = details.get("title"), details.get("seed")
        labels = tuple((_sound(key), _sound(value)) for key, value in details.get("labels", ()))
        if type(seed) not in (int, type(None)) or abs(seed or 0) >= _SEEDS_END:
            return _NO_MARKS
        return None if title is None else _sound(title), seed, labels
    except (ValueError, TypeError, AttributeError, RecursionError):
        return _NO_MARKS


def _sound(text: str) -> str:
    """Return the text; UnicodeEncodeError if JSON holds more of it than UTF-8 can."""
    text.encode()
    return text


def claim_of(row: sqlite3.Row, *, source: str) -> Claim:
    """Return a task that is working."""
    return Claim(
        task_id=str(row["id"]),
        source=source,
        lease_id=row["lease_id"],
        agent=row["claimed_by"],
        attempt=row["attempt"],
        failures=row["failures"],
        launches=row["launches"],
        max_attempts=row["max_attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        last_failure=_failure_reason(row),
        schedule_id=row["schedule_id"],
    )


def record_of(row: sqlite3.Row, *, source: str, blocked_by: tuple[str, ...]) -> TaskRecord:
    """Return where a task stands, as people see it."""
    return TaskRecord(
        task_id=str(row["id"]),
        source=source,
        state=TaskState(row["state"]),
        summary=row["summary"],
        agent=row["agent"] or None,
        queue=row["queue"] or None,
        priority=row["priority"],
        lease_id=row["lease_id"],
        claimed_by=row["claimed_by"],
        attempt=row["attempt"],
        failures=row["failures"],
        launches=row["launches"],
        max_attempts=row["max_attempts"],
        failure_reason=_failure_reason(row),
        cancel_requested=bool(row["cancel_requested"]),
        blocks=row["blocks"],
        blockers_left=row["blockers_left"],
        blocked_by=blocked_by,
        not_before=from_micros(row["not_before"]),
        backing_off_until=from_micros(row["backing_off_until"]),
        created_at=EPOCH + timedelta(microseconds=row["created_at"]),
        updated_at=EPOCH + timedelta(microseconds=row["updated_at"]),
        ended_at=from_micros(row["ended_at"]),
    )


def _failure_reason(row: sqlite3.Row) -> FailureReason | None:
    reason = row["failure_reason"]
    return None if reason is None else FailureReason(reason)


def attempt_row(attempt: AttemptRecord) -> dict[str, Any]:
    """Return the columns of one attempt by their names."""
    row = {field.name: getattr(attempt, field.name) for field in fields(attempt)}
    row["started_at"] = micros_or_none(attempt.started_at)
    row["ended_at"] = to_micros(attempt.ended_at)
    for name in ("message", "log"):
        # Paths and output may hold bytes that are not UTF-8, which SQLite cannot store.
        if row[name] is not None:
            row[name] = row[name].encode(errors="backslashreplace").decode()
    return row


def attempt_of(row: sqlite3.Row) -> AttemptRecord:
    """Read back what `attempt_row` wrote."""
    columns: dict[str, Any] = {field.name: row[field.name] for field in fields(AttemptRecord)}
    columns["started_at"] = from_micros(columns["started_at"])
    columns["ended_at"] = from_micros(columns["ended_at"])
    columns["outcome"] = Outcome(columns["outcome"])
    if columns["failure_reason"] is not None:
        columns["failure_reason"] = FailureReason(columns["failure_reason"])
    if columns["reclaim_reason"] is not None:
        columns["reclaim_reason"] = ReclaimReason(columns["reclaim_reason"])
    return AttemptRecord(**columns)


def switch_row(switch: Switch) -> dict[str, Any]:
    """Return the columns of one switch by their names."""
    return {
        "kind": switch.kind,
        "target": str(switch.target),
        "since": to_micros(switch.since),
        "set_by": switch.by,
        "reason": switch.reason,
    }


def switch_of(row: sqlite3.Row) -> Switch:
    """Read back what `switch_row` wrote."""
    return Switch(
        kind=SwitchKind(row["kind"]),
        target=parse_target(row["target"]),
        since=EPOCH + timedelta(microseconds=row["since"]),
        by=row["set_by"],
        reason=row["reason"],
    )
