"""What does a schedule keep of how its firings ended?  Part of what settles them."""

from __future__ import annotations

from tinyscheduler.adapters.sqlite.rows import from_micros
from tinyscheduler.core.streaks import EndedFiring, Streaks, is_in_grace, judge_firing
from tinyscheduler.errors import StoreError
from tinyscheduler.model.tasks import FailureReason, Finish, TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from tinyscheduler.model.tasks import Ending

_STREAKS = """
SELECT failure_streak, breach_streak, drift_streak, average_turns, last_turns, max_turns_set_at
FROM schedules WHERE id = ?
"""
_SET_STREAKS = """
UPDATE schedules SET failure_streak = :failures, breach_streak = :breaches,
    drift_streak = :drifts, average_turns = :average_turns, last_turns = :last_turns,
    last_failure = coalesce(:last_failure, last_failure),
    state = CASE WHEN :why IS NOT NULL AND state = 'active' THEN 'paused' ELSE state END,
    why_paused = CASE WHEN :why IS NOT NULL AND state = 'active' THEN :why ELSE why_paused END,
    paused_after = CASE WHEN :why IS NOT NULL AND state = 'active' THEN :task ELSE paused_after END,
    updated_at = :now
WHERE id = :id
"""
# A schedule that has paused itself: those of its times that fired already would only fail, too.
_HOLD_WAITING = """
UPDATE tasks SET state = 'held', updated_at = :now
WHERE state IN ('waiting', 'held') AND state = 'waiting' AND schedule_id = :id
    AND slot IS NOT NULL AND :task = (SELECT paused_after FROM schedules WHERE id = :id)
"""
_MAX_TURNS = """
SELECT json_extract(details, '$.max_turns') AS max_turns FROM task_specs WHERE task_id = ?
"""
_SCHEDULE = "SELECT * FROM schedules WHERE id = ?"


def judge_end(
    connection: sqlite3.Connection, task: sqlite3.Row, ending: Ending, *, now: int
) -> None:
    """Note in the schedule how a firing of it has ended, which may pause it."""
    row = connection.execute(_STREAKS, (task["schedule_id"],)).fetchone()
    if row is None:
        return  # it was removed meanwhile
    reason = task["failure_reason"]
    told = ending if isinstance(ending, Finish) else None
    firing = EndedFiring(
        is_done=task["state"] == TaskState.DONE,
        reason=None if reason is None else FailureReason(reason),
        turns=None if told is None else told.turns,
        max_turns=_turns_of(connection, task),
        ran_s=None if told is None else told.ran_s,
        max_runtime_s=task["max_runtime_s"],
    )
    judged = judge_firing(
        Streaks(
            failures=row["failure_streak"],
            breaches=row["breach_streak"],
            drifts=row["drift_streak"],
            average_turns=row["average_turns"],
            last_turns=row["last_turns"],
        ),
        firing,
        is_in_grace=firing.is_breach
        and row["max_turns_set_at"] is not None
        and _is_in_grace(connection, task["schedule_id"], now),
    )
    streaks = judged.streaks
    schedule = {"id": task["schedule_id"], "task": task["id"], "now": now}
    connection.execute(
        _SET_STREAKS,
        {
            **schedule,
            "failures": streaks.failures,
            "breaches": streaks.breaches,
            "drifts": streaks.drifts,
            "average_turns": streaks.average_turns,
            "last_turns": streaks.last_turns,
            "last_failure": reason,
            "why": judged.why_paused,
        },
    )
    if judged.why_paused is not None:
        connection.execute(_HOLD_WAITING, schedule)


def _turns_of(connection: sqlite3.Connection, task: sqlite3.Row) -> int | None:
    row = connection.execute(_MAX_TURNS, (task["id"],)).fetchone()
    return None if row is None else row["max_turns"]


def _is_in_grace(connection: sqlite3.Connection, schedule_id: str, now: int) -> bool:
    """Whether it may still find out how many turns it needs; one that is damaged may not."""
    from tinyscheduler.adapters.sqlite.schedules import schedule_of  # few firings go over

    row = connection.execute(_SCHEDULE, (schedule_id,)).fetchone()
    try:
        schedule = schedule_of(row)
    except StoreError:
        return False
    set_at, moment = schedule.max_turns_set_at, from_micros(now)
    if set_at is None or moment is None:
        return False
    return is_in_grace(schedule.timing, anchor=schedule.anchor, set_at=set_at, now=moment)
