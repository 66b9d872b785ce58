"""Which schedules are there, which are due, and what did they fire?  Tables beside the queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinyscheduler.adapters.sqlite.queue import NOTE_CANCELLED, insert_firing
from tinyscheduler.adapters.sqlite.rows import (
    from_micros,
    micros_or_none,
    spec_details,
    spec_of_details,
    to_micros,
)
from tinyscheduler.core.firing_times import jittered
from tinyscheduler.core.heartbeats import begin_of_day
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, NotFoundError, StoreError, UsageError
from tinyscheduler.model.schedules import (
    ActiveHours,
    CatchUp,
    FiringMetrics,
    LiveFiring,
    LiveFirings,
    Overlap,
    Schedule,
    ScheduleKind,
    ScheduleState,
    Timing,
)
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.values import replace

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from tinyscheduler.adapters.sqlite.database import Database
    from tinyscheduler.model.schedules import FiringDeferral, FiringPlan
    from tinyscheduler.ports import Clock

# Of those that are due a tick deals with so many; the next one goes on.
MOST_DUE = 1000
_RUN_S = 1200.0
_DUE = """
SELECT * FROM schedules INDEXED BY schedules_due
WHERE state = 'active' AND due_at IS NOT NULL AND due_at <= :now ORDER BY due_at LIMIT :limit
"""
_ONE = "SELECT * FROM schedules WHERE id = ?"
_ALL = "SELECT * FROM schedules ORDER BY id"
_AT_WORK = """
SELECT id, lease_id FROM tasks INDEXED BY firings_at_work
WHERE state = 'working' AND schedule_id = ? ORDER BY id
"""
_WAITING = """
SELECT id, state FROM tasks INDEXED BY firings_that_wait
WHERE state IN ('waiting', 'held') AND schedule_id = ? ORDER BY id
"""
_INSERT = """
INSERT INTO schedules (
    id, state, definition, next_slot, due_at, anchor, fired, declared_in, created_at, updated_at
) VALUES (:id, :state, :definition, :next_slot, :due_at, :anchor, 0, :declared_in, :now, :now)
"""
# Whoever's statement still finds the slot and the definition that it planned on moves the
# schedule on, and nobody else: so many ticks, and commands, may try at once.
_MOVE_ON = """
UPDATE schedules SET next_slot = :next_slot, due_at = :due_at, state = :state,
    fired = fired + :fired, passed_over = passed_over + :passed_over,
    suppressed = suppressed + :suppressed,
    last_fired_at = CASE WHEN :fired THEN :now ELSE last_fired_at END, deferrals = 0,
    updated_at = :now
WHERE id = :id AND state = 'active' AND next_slot IS :was AND revision = :revision
"""
# As above; and nobody counts twice what two have seen together.
_DEFER = """
UPDATE schedules SET next_slot = :slot, due_at = :until, deferrals = deferrals + 1,
    passed_over = passed_over + :passed_over, updated_at = :now
WHERE id = :id AND state = 'active' AND next_slot IS :was AND revision = :revision
    AND deferrals = :deferrals
"""
_COUNT_ONE = """
UPDATE schedules SET fired = fired + 1, last_fired_at = :now, updated_at = :now WHERE id = :id
"""
_SET_STATE = """
UPDATE schedules SET state = :state, why_paused = :why, paused_after = NULL,
    next_slot = :next_slot, due_at = :due_at, deferrals = 0,
    failure_streak = CASE WHEN :state = 'active' THEN 0 ELSE failure_streak END,
    breach_streak = CASE WHEN :state = 'active' THEN 0 ELSE breach_streak END,
    updated_at = :now
WHERE id = :id
"""
# What was held when it paused itself; see `firing_ends.py`.
_RELEASE = """
UPDATE tasks SET state = 'waiting', updated_at = :now
WHERE state IN ('waiting', 'held') AND state = 'held' AND schedule_id = :id AND slot IS NOT NULL
"""
# One that is damaged is told where it is due.
_KIND = """
SELECT CASE WHEN json_valid(definition) THEN json_extract(definition, '$.kind') END AS kind
FROM schedules WHERE id = ?
"""
_PAUSED_BY = "SELECT * FROM schedules WHERE paused_after = ? AND state = 'paused'"
_CANCEL_WAITING = """
UPDATE tasks SET state = 'cancelled', failure_reason = 'cancelled', backing_off_until = NULL,
    ended_at = :now, updated_at = :now
WHERE id = :id AND state IN ('waiting', 'held')
"""
_CANCEL_AT_WORK = """
UPDATE tasks SET cancel_requested = 1, updated_at = :now WHERE id = :id AND state = 'working'
"""
# Firings that run, and those that a tick would start if it came now: none that are paused, for
# they may stay so for days.
_TAKEN = """
SELECT (
    SELECT count(*) FROM tasks INDEXED BY firings_at_work
    WHERE state = 'working' AND schedule_id IS NOT NULL
) + (
    SELECT count(*) FROM tasks INDEXED BY firings_that_wait
    WHERE state IN ('waiting', 'held') AND schedule_id IS NOT NULL
        AND state = 'waiting' AND blockers_left = 0 AND start_after <= :now
        AND NOT EXISTS (SELECT 1 FROM switches WHERE target IN (
            'agent:' || agent, 'queue:' || queue, 'schedule:' || schedule_id))
)
"""
# The same ones, those at work first; how long firings of their schedules took that succeeded.
_LIVE = """
WITH live AS (
    SELECT id, state, schedule_id, max_runtime_s, updated_at
    FROM tasks INDEXED BY firings_at_work
    WHERE state = 'working' AND schedule_id IS NOT NULL
    UNION ALL
    SELECT id, state, schedule_id, max_runtime_s, NULL
    FROM tasks INDEXED BY firings_that_wait
    WHERE state IN ('waiting', 'held') AND schedule_id IS NOT NULL
        AND state = 'waiting' AND blockers_left = 0 AND start_after <= :now
        AND NOT EXISTS (SELECT 1 FROM switches WHERE target IN (
            'agent:' || agent, 'queue:' || queue, 'schedule:' || schedule_id))
)
SELECT live.state = 'working' AS is_running, max_runtime_s,
    coalesce(slot_claimed_at, live.updated_at) AS started_at,
    (SELECT avg(duration_ms) FROM (
        SELECT duration_ms FROM schedule_firing_metrics AS past INDEXED BY firing_metrics_of
        WHERE past.schedule_id = live.schedule_id AND completed_at IS NOT NULL
            AND failure_reason IS NULL
        ORDER BY past.id DESC LIMIT 10)) AS usual_ms
FROM live LEFT JOIN schedule_firing_metrics ON task_id = live.id
ORDER BY is_running DESC, live.id
"""
_AUDIT = """
INSERT INTO audit (at, by, activity, subject, task_id)
VALUES (:now, :by, 'manual_force_bypass', :subject, :task)
"""
_METRICS = """
SELECT * FROM schedule_firing_metrics
WHERE (:id IS NULL OR schedule_id = :id) AND fired_at >= :since
ORDER BY id DESC LIMIT :limit
"""
_MEASURED_SINCE = "SELECT min(fired_at) FROM schedule_firing_metrics"
_FIRED = "SELECT 1 FROM tasks WHERE schedule_id = ? AND slot = ? AND slot IS NOT NULL"
# It reads what there is of one schedule: its bound by the day is one on that as well.
_FIRED_SINCE = """
SELECT count(*) FROM tasks INDEXED BY firings_once
WHERE schedule_id = ? AND slot IS NOT NULL AND created_at >= ?
"""
_DELETE = "DELETE FROM schedules WHERE id = ?"


class SqliteSchedules:
    """The schedules, in the same file as the tasks that they fire."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        run_s: float = _RUN_S,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Take how long a firing may run of which its schedule does not say it, in seconds.

        Ticks hear by ``warn`` of those that are due and cannot be read.
        """
        self._warn = warn
        self._database = database
        self._clock = clock
        self._run_s = run_s

    # -- for ticks ----------------------------------------------------------------

    def due(self, now: datetime) -> Sequence[tuple[Schedule, LiveFirings]]:
        """Return the active schedules whose time has come, the oldest first."""
        values = {"now": to_micros(now), "limit": MOST_DUE}

        def question(
            connection: sqlite3.Connection,
        ) -> list[tuple[Schedule, LiveFirings]]:
            found = []
            for row in connection.execute(_DUE, values).fetchall():
                one = self._readable(row)
                if one is not None:
                    found.append((one, _live_of(connection, one, now)))
            return found

        try:
            return self._database.read(question)
        except BusyError as error:
            raise StoreError(error.what, hint=error.hint) from error

    def fire(self, plan: FiringPlan) -> Sequence[str] | None:
        """Add the tasks of a plan and move its schedule on, or neither; return their ids.

        None where somebody else has dealt with the slot meanwhile.
        """
        schedule = plan.schedule
        if plan.prompt is not None:
            schedule = replace(schedule, spec=replace(schedule.spec, prompt=plan.prompt))
        now = to_micros(self._clock.now().wall)
        values = {
            "id": schedule.schedule_id,
            "was": micros_or_none(schedule.next_fire_at),
            "revision": schedule.revision,
            "state": plan.state,
            "fired": len(plan.slots),
            "passed_over": plan.passed_over,
            "suppressed": plan.suppressed,
            "now": now,
            **next_columns(schedule, plan.next_fire_at),
        }
        with self._database.writing() as connection:
            if connection.execute(_MOVE_ON, values).rowcount == 0:
                return None
            for task_id in plan.replaces:
                replaced = {"id": int(task_id), "now": now}
                if connection.execute(_CANCEL_WAITING, replaced).rowcount:
                    connection.execute(NOTE_CANCELLED, replaced)
                # The next look tells its wrapper.
                connection.execute(_CANCEL_AT_WORK, replaced)
            ids = [
                self._fire(connection, schedule, number, slot=slot, now=now)
                for number, slot in enumerate(plan.slots, start=schedule.fired + 1)
                # Whatever was done to the clock or to the schedule: no time fires twice.
                if connection.execute(_FIRED, (schedule.schedule_id, to_micros(slot))).fetchone()
                is None
            ]
            with durable_step("schedule.fire"):
                connection.commit()
        return [str(one) for one in ids]

    def defer(self, deferral: FiringDeferral) -> bool:
        """Let a schedule that is due be so later; False where it was moved on or put off since."""
        schedule = deferral.schedule
        values = {
            "id": schedule.schedule_id,
            "was": micros_or_none(schedule.next_fire_at),
            "revision": schedule.revision,
            "deferrals": schedule.deferrals,
            "slot": to_micros(deferral.slot),
            "until": to_micros(deferral.until),
            "passed_over": deferral.passed_over,
            "now": to_micros(self._clock.now().wall),
        }
        with self._database.writing() as connection:
            if connection.execute(_DEFER, values).rowcount == 0:
                return False
            with durable_step("schedule.defer"):
                connection.commit()
        return True

    def _readable(self, row: sqlite3.Row) -> Schedule | None:
        """Return a schedule; None, loudly, for one that is damaged: the others fire."""
        try:
            return schedule_of(row)
        except StoreError as error:
            if self._warn is None:
                raise
            self._warn(f"{error.what} ({error.hint})")
            return None

    def find(self, schedule_id: str) -> Schedule | None:
        """Return the schedule of that name; None if it is not there, or damaged."""
        row = self._database.read(
            lambda connection: connection.execute(_ONE, (schedule_id,)).fetchone()
        )
        return None if row is None else self._readable(row)

    def is_heartbeat(self, schedule_id: str) -> bool:
        """Whether it goes through a checklist; not if it was removed meanwhile."""
        row = self._database.read(
            lambda connection: connection.execute(_KIND, (schedule_id,)).fetchone()
        )
        return row is not None and row["kind"] == ScheduleKind.HEARTBEAT

    def paused_by(self, task_id: str) -> Schedule | None:
        """Return the schedule that stopped itself when that firing ended, if one did."""
        row = self._database.read(
            lambda connection: connection.execute(_PAUSED_BY, (int(task_id),)).fetchone()
        )
        return None if row is None else schedule_of(row)

    # -- for people ---------------------------------------------------------------

    def add(self, schedule: Schedule) -> None:
        """Keep a new schedule; UsageError if there is one of that name."""
        with self._database.writing() as connection:
            insert_schedule(connection, schedule)
            with durable_step("schedule.add"):
                connection.commit()

    def schedules(self) -> list[Schedule]:
        """Return all of them, by name."""
        return self._database.read(
            lambda connection: [schedule_of(row) for row in connection.execute(_ALL)]
        )

    def schedule(self, schedule_id: str) -> Schedule:
        """Return the one of that name; NotFoundError if there is none."""
        row = self._database.read(
            lambda connection: connection.execute(_ONE, (schedule_id,)).fetchone()
        )
        if row is None:
            raise none_such(schedule_id)
        return schedule_of(row)

    def live(self, schedule: Schedule) -> LiveFirings:
        """Return which firings of it wait or run, and how many there were today."""
        now = self._clock.now().wall
        return self._database.read(lambda connection: _live_of(connection, schedule, now))

    def set_state(
        self,
        schedule_id: str,
        state: ScheduleState,
        *,
        why: str | None = None,
        next_fire_at: datetime | None = None,
    ) -> Schedule:
        """Pause it, or let it go on with that slot; return it as it was before.

        With it go on those of its firings that were held when it paused itself.
        """
        with self._database.writing() as connection:
            row = connection.execute(_ONE, (schedule_id,)).fetchone()
            if row is None:
                raise none_such(schedule_id)
            before = schedule_of(row)
            values = {
                "id": schedule_id,
                "state": state,
                "why": why,
                "now": to_micros(self._clock.now().wall),
                **next_columns(before, next_fire_at),
            }
            connection.execute(_SET_STATE, values)
            if state is ScheduleState.ACTIVE and row["paused_after"] is not None:
                connection.execute(_RELEASE, values)
            with durable_step("schedule.state"):
                connection.commit()
        return before

    def remove(self, schedule_id: str) -> LiveFirings:
        """Forget it; return the firings of it that are left."""
        with self._database.writing() as connection:
            if connection.execute(_DELETE, (schedule_id,)).rowcount == 0:
                raise none_such(schedule_id)
            live = _live(connection, schedule_id)
            with durable_step("schedule.remove"):
                connection.commit()
        return live

    def fire_by_hand(
        self, schedule_id: str, *, most: int | None, by: str, prompt: str | None = None
    ) -> str | int:
        """Add a firing now, whatever the times of its schedule are; return its task id.

        Where ``most`` firings run, or are about to, it adds nothing and returns their number.
        None forces it: no bound on firings holds it, and that is written down.  The ``prompt`` is
        read instead of what the schedule says.
        """
        now = to_micros(self._clock.now().wall)
        with self._database.writing() as connection:
            row = connection.execute(_ONE, (schedule_id,)).fetchone()
            if row is None:
                raise none_such(schedule_id)
            (taken,) = connection.execute(_TAKEN, {"now": now}).fetchone()
            if most is not None and taken >= most:
                return int(taken)
            schedule = schedule_of(row)
            if prompt is not None:
                schedule = replace(schedule, spec=replace(schedule.spec, prompt=prompt))
            task = self._fire(
                connection,
                schedule,
                schedule.fired + 1,
                slot=None,
                is_forced=most is None,
                now=now,
            )
            connection.execute(_COUNT_ONE, {"id": schedule_id, "now": now})
            if most is None:
                noted = {"now": now, "by": by, "subject": schedule_id, "task": task}
                connection.execute(_AUDIT, noted)
            with durable_step("schedule.run"):
                connection.commit()
        return str(task)

    def live_firings(self) -> list[LiveFiring]:
        """Return the firings that run, and then those that would start now, the oldest first."""
        values = {"now": to_micros(self._clock.now().wall)}
        rows = self._database.read(lambda connection: connection.execute(_LIVE, values).fetchall())
        return [
            LiveFiring(
                started_at=from_micros(row["started_at"]) if row["is_running"] else None,
                most_s=row["max_runtime_s"],
                usual_s=None if row["usual_ms"] is None else row["usual_ms"] / 1000,
            )
            for row in rows
        ]

    def metrics(
        self, schedule_id: str | None, *, limit: int, since: datetime | None = None
    ) -> list[FiringMetrics]:
        """Return what was measured of the newest firings, the oldest of them first.

        Those that were added since; of one schedule, there or removed, or of all of them.
        """
        values = {"id": schedule_id, "limit": limit, "since": micros_or_none(since) or 0}
        rows = self._database.read(
            lambda connection: connection.execute(_METRICS, values).fetchall()
        )
        return [_metrics_of(row) for row in reversed(rows)]

    def measured_since(self) -> datetime | None:
        """Return when the oldest firing was added of which there are measurements."""
        return self._database.read(
            lambda connection: from_micros(connection.execute(_MEASURED_SINCE).fetchone()[0])
        )

    def _fire(
        self,
        connection: sqlite3.Connection,
        schedule: Schedule,
        number: int,
        *,
        slot: datetime | None,
        is_forced: bool = False,
        now: int,
    ) -> int:
        """Add the task of a firing: tried once, within the time of its schedule."""
        spec = schedule.spec
        return insert_firing(
            connection,
            replace(
                spec,
                title=spec.title or f"{schedule.name} \N{EM DASH} firing #{number}",
                max_attempts=spec.max_attempts or 1,
                max_runtime_s=schedule.max_run_duration_s or self._run_s,
            ),
            schedule_id=schedule.schedule_id,
            slot=micros_or_none(slot),
            is_beside=schedule.overlap is Overlap.ALLOW,
            is_forced=is_forced,
            lag_ms=None if slot is None else _lag_ms(schedule, slot, now),
            now=now,
        )


def _metrics_of(row: sqlite3.Row) -> FiringMetrics:
    fired_at = from_micros(row["fired_at"])
    if fired_at is None:
        raise AssertionError("a firing has no beginning")
    return FiringMetrics(
        schedule_id=row["schedule_id"],
        task_id=str(row["task_id"]),
        fired_at=fired_at,
        claimed_at=from_micros(row["slot_claimed_at"]),
        completed_at=from_micros(row["completed_at"]),
        wait_ms=row["slot_wait_ms"],
        duration_ms=row["duration_ms"],
        turns=row["turn_count"],
        max_turns=row["max_turns_at_firing"],
        lag_ms=row["tick_lag_ms"],
        peak_rss_mb=row["peak_rss_mb"],
        pressure=row["pressure"],
        concurrent=row["concurrent_schedules"],
        failure_reason=row["failure_reason"],
    )


def _lag_ms(schedule: Schedule, slot: datetime, now: int) -> int:
    """Return how much later than it was due a slot fires."""
    due_at = jittered(schedule.schedule_id, slot, schedule.timing.jitter_s)
    return max(0, now - to_micros(due_at)) // 1000


def none_such(schedule_id: str) -> NotFoundError:
    """Return what is raised where there is no schedule of that name."""
    return NotFoundError(
        f"there is no schedule {schedule_id!r}",
        hint="`tinyscheduler schedule list` shows the schedules there are",
    )


def _live(connection: sqlite3.Connection, schedule_id: str) -> LiveFirings:
    waiting = connection.execute(_WAITING, (schedule_id,)).fetchall()
    at_work = connection.execute(_AT_WORK, (schedule_id,)).fetchall()
    return LiveFirings(
        waiting=tuple(str(row["id"]) for row in waiting),
        held=tuple(str(row["id"]) for row in waiting if row["state"] == TaskState.HELD),
        working=tuple((str(row["id"]), row["lease_id"]) for row in at_work),
    )


def insert_schedule(connection: sqlite3.Connection, schedule: Schedule) -> None:
    """Add a schedule within the statement of somebody else; UsageError if its name is taken."""
    if connection.execute(_ONE, (schedule.schedule_id,)).fetchone() is not None:
        raise UsageError(
            f"there is a schedule {schedule.schedule_id} already",
            hint="change that one, or give another name:"
            f" `tinyscheduler schedule edit {schedule.schedule_id}`",
        )
    connection.execute(
        _INSERT,
        {
            "id": schedule.schedule_id,
            "state": schedule.state,
            "definition": definition_of(schedule),
            "anchor": to_micros(schedule.anchor),
            "declared_in": schedule.declared_in,
            "now": to_micros(schedule.created_at),
            **next_columns(schedule, schedule.next_fire_at),
        },
    )


def _live_of(connection: sqlite3.Connection, one: Schedule, now: datetime) -> LiveFirings:
    live = _live(connection, one.schedule_id)
    if one.max_per_day is None:
        return live
    values = (one.schedule_id, to_micros(begin_of_day(now, one.timing.zone)))
    (number,) = connection.execute(_FIRED_SINCE, values).fetchone()
    return replace(live, fired_today=number)


def next_columns(schedule: Schedule, slot: datetime | None) -> dict[str, int | None]:
    """Return the columns that say when it fires next, by their names."""
    if slot is None:
        return {"next_slot": None, "due_at": None}
    due_at = jittered(schedule.schedule_id, slot, schedule.timing.jitter_s)
    return {"next_slot": to_micros(slot), "due_at": to_micros(due_at)}


# -- definitions ----------------------------------------------------------------------


def definition_of(schedule: Schedule) -> str:
    """Return all that was asked for, as JSON; `schedule_of` reads it."""
    timing = schedule.timing
    document: dict[str, Any] = {
        "version": 1,
        "cron": timing.cron,
        "every_sec": timing.every_s,
        "at": None if timing.at is None else timing.at.astimezone(UTC).isoformat(),
        "zone": timing.zone,
        "jitter_sec": timing.jitter_s,
        "active_hours": None
        if timing.active_hours is None
        else [timing.active_hours.begin_minute, timing.active_hours.end_minute],
        "kind": schedule.kind,
        "overlap": schedule.overlap,
        "catch_up": schedule.catch_up,
        "catch_up_window_sec": schedule.catch_up_window_s,
        "max_firings": schedule.max_firings,
        "expires_at": None
        if schedule.expires_at is None
        else schedule.expires_at.astimezone(UTC).isoformat(),
        "max_run_duration_sec": schedule.max_run_duration_s,
        "max_per_day": schedule.max_per_day,
        "checklist": schedule.checklist,
        "prompt": schedule.spec.prompt,
        "spec": json.loads(spec_details(schedule.spec)),
    }
    kept = {name: value for name, value in document.items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def schedule_of(row: sqlite3.Row) -> Schedule:
    """Read a schedule; StoreError, which names it, for one whose definition is damaged."""
    try:
        document = json.loads(row["definition"])
        return _read(row, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"the definition of schedule {row['id']} cannot be read: {error}",
            hint=f"remove it and add it anew: `tinyscheduler schedule rm {row['id']}`",
        ) from error


def _read(row: sqlite3.Row, document: dict[str, Any]) -> Schedule:
    hours = document.get("active_hours")
    created_at, anchor = from_micros(row["created_at"]), from_micros(row["anchor"])
    if created_at is None or anchor is None:
        raise AssertionError("a schedule has no beginning")
    spec = spec_of_details(document["spec"], prompt=document.get("prompt"))
    return Schedule(
        schedule_id=row["id"],
        name=row["id"],
        timing=Timing(
            cron=document.get("cron"),
            every_s=document.get("every_sec"),
            at=_moment(document.get("at")),
            zone=document["zone"],
            jitter_s=document.get("jitter_sec", 0.0),
            active_hours=None
            if hours is None
            else ActiveHours(begin_minute=hours[0], end_minute=hours[1]),
        ),
        spec=spec,
        kind=ScheduleKind(document["kind"]),
        state=ScheduleState(row["state"]),
        overlap=Overlap(document["overlap"]),
        catch_up=CatchUp(document["catch_up"]),
        catch_up_window_s=document["catch_up_window_sec"],
        max_firings=document.get("max_firings"),
        expires_at=_moment(document.get("expires_at")),
        max_run_duration_s=document.get("max_run_duration_sec"),
        max_per_day=document.get("max_per_day"),
        checklist=document.get("checklist"),
        created_at=created_at,
        anchor=anchor,
        next_fire_at=from_micros(row["next_slot"]),
        fired=row["fired"],
        passed_over=row["passed_over"],
        failure_streak=row["failure_streak"],
        last_failure=row["last_failure"],
        why_paused=row["why_paused"],
        last_fired_at=from_micros(row["last_fired_at"]),
        max_turns_set_at=from_micros(row["max_turns_set_at"]),
        average_turns=row["average_turns"],
        last_turns=row["last_turns"],
        breach_streak=row["breach_streak"],
        drift_streak=row["drift_streak"],
        deferrals=row["deferrals"],
        deferred_until=from_micros(row["due_at"]) if row["deferrals"] else None,
        suppressed=row["suppressed"],
        declared_in=row["declared_in"],
        revision=row["revision"],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
