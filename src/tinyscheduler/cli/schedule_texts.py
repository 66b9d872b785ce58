"""How is a schedule told, in words and as JSON?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyscheduler.cli.standing import time_or_none
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.schedules import Schedule, ScheduleState, Timing

if TYPE_CHECKING:
    from datetime import datetime

    from tinyscheduler.model.config import AgentProfile


def words_of(timing: Timing) -> str:
    """Say in words when a schedule fires."""
    from tinyscheduler.core.firing_times import describe

    return describe(timing)


def local_time(moment: datetime | None, zone: str | None = None) -> str:
    """Return a moment by the clock of a zone; of this machine, if none is named."""
    if moment is None:
        return "never"
    if zone is None:
        return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"
    from zoneinfo import ZoneInfo

    return f"{moment.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"


def schedule_json(one: Schedule) -> dict[str, Any]:
    """Return what `--json` tells of a schedule."""
    timing = one.timing
    hours = timing.active_hours
    return {
        "schedule_id": one.schedule_id,
        "state": one.state.value,
        "kind": one.kind.value,
        "description": words_of(timing),
        "cron": timing.cron,
        "every_sec": timing.every_s,
        "at": time_or_none(timing.at),
        "zone": timing.zone,
        "jitter_sec": timing.jitter_s,
        "active_hours": None if hours is None else [hours.begin_minute, hours.end_minute],
        "overlap": one.overlap.value,
        "catch_up": one.catch_up.value,
        "catch_up_window_sec": one.catch_up_window_s,
        "max_firings": one.max_firings,
        "expires_at": time_or_none(one.expires_at),
        "max_run_duration_sec": one.max_run_duration_s,
        "max_per_day": one.max_per_day,
        "checklist": one.checklist,
        "agent": one.spec.agent,
        "queue": one.spec.queue,
        "project": one.spec.project,
        "max_turns": one.spec.max_turns,
        "max_tokens": one.spec.max_tokens,
        "max_cost_usd": one.spec.max_cost_usd,
        "max_turns_set_at": time_or_none(one.max_turns_set_at),
        "avg_turns_per_firing": one.average_turns,
        "last_turn_count": one.last_turns,
        "next_fire_at": time_or_none(one.next_fire_at) if fires(one) else None,
        "last_fired_at": time_or_none(one.last_fired_at),
        "fired": one.fired,
        "passed_over": one.passed_over,
        "suppressed": one.suppressed,
        "deferrals": one.deferrals,
        "deferred_until": time_or_none(one.deferred_until),
        "failure_streak": one.failure_streak,
        "turn_budget_breach_streak": one.breach_streak,
        "lease_drift_streak": one.drift_streak,
        "last_failure_reason": one.last_failure,
        "why_paused": one.why_paused,
        "declared_in": one.declared_in,
        "revision": one.revision,
        "created_at": format_time(one.created_at),
    }


def words_on_turns(one: Schedule, agent: AgentProfile | None) -> str:
    """Say how many turns a firing may take, its agent's bound included, and usually does."""
    words = "any number" if one.spec.max_turns is None else f"at most {one.spec.max_turns}"
    if one.spec.max_turns is None and agent is not None and agent.max_turns is not None:
        words = f"at most {agent.max_turns}, of agent {agent.name}"
    if one.average_turns is not None:
        words += f"; {one.average_turns} on average, {one.last_turns} the last time"
    return f"{words}; {one.breach_streak} in a row went over" if one.breach_streak else words


def fires(one: Schedule) -> bool:
    """Whether anything of it is to come."""
    return one.state is ScheduleState.ACTIVE and one.next_fire_at is not None
