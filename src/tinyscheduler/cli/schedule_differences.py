"""What of a schedule's definition differs?  Told by the words that a file of schedules uses."""

from __future__ import annotations

from typing import Any

from tinyscheduler.cli.render import cut, escape
from tinyscheduler.cli.standing import hide_secrets, time_or_none
from tinyscheduler.config.units import duration_text, size_text
from tinyscheduler.core.cron import clock_words
from tinyscheduler.model.schedules import Schedule
from tinyscheduler.model.tasks import TaskSpec

_LONGEST_TOLD = 48


def differences(before: Schedule, after: Schedule) -> list[dict[str, Any]]:
    """Return what differs, each with what it was and what it is; secrets stay secret."""
    old, new = definition(before), definition(after)
    hidden = before.spec.environment != after.spec.environment and old["env"] == new["env"]
    return [
        {"field": name, "before": old[name], "after": new[name]}
        for name in old
        if old[name] != new[name] or (name == "env" and hidden)
    ]


def definition(one: Schedule) -> dict[str, Any]:
    """Return what was said of a schedule, and None for what was not, as a file would say it."""
    timing, spec, hours = one.timing, one.spec, one.timing.active_hours
    return {
        "cron": timing.cron,
        "every": _duration(timing.every_s),
        "at": time_or_none(timing.at),
        "tz": timing.zone,
        "jitter": _duration(timing.jitter_s or None),
        "active_hours": None
        if hours is None
        else f"{clock_words(hours.begin_minute)}-{clock_words(hours.end_minute)}",
        "kind": one.kind.value,
        "overlap": one.overlap.value,
        "catch_up": one.catch_up.value,
        "catch_up_window": _duration(one.catch_up_window_s),
        "max_firings": one.max_firings,
        "expires": time_or_none(one.expires_at),
        "max_run_duration": _duration(one.max_run_duration_s),
        "max_per_day": one.max_per_day,
        "checklist": one.checklist,
        "agent": spec.agent,
        "queue": spec.queue,
        "title": spec.title,
        "command": list(spec.command) or None,
        "prompt": spec.prompt,
        "recipe": spec.recipe,
        "priority": spec.priority,
        "class": spec.priority_class.value,
        "gpus": spec.gpus,
        "vram": _size(spec.vram_bytes),
        "memory": _size(spec.memory_bytes),
        "model": spec.model,
        "seed": spec.seed,
        "tenant": spec.tenant,
        "project": spec.project,
        "max_turns": spec.max_turns,
        "max_tokens": spec.max_tokens,
        "max_cost": spec.max_cost_usd,
        "max_attempts": spec.max_attempts,
        "labels": dict(spec.labels) or None,
        "cwd": spec.cwd,
        "env": hide_secrets(spec) or None,
        "declared_in": one.declared_in,
    }


def said(one: Schedule) -> dict[str, str]:
    """Return, in words, what was said of a schedule and is other than with an option left out."""
    silent = Schedule(
        schedule_id=one.schedule_id,
        name=one.name,
        timing=one.timing,
        spec=TaskSpec(),
        created_at=one.created_at,
        anchor=one.anchor,
    )
    unsaid = definition(silent)
    return {name: _short(value) for name, value in definition(one).items() if value != unsaid[name]}


def difference_words(difference: dict[str, Any]) -> str:
    """Return one of them in a line that is safe to print: ``max_turns: 50 -> 80``.

    >>> difference_words({"field": "tz", "before": None, "after": "UTC"})
    'tz: - -> UTC'
    """
    old, new = (_short(difference[one]) for one in ("before", "after"))
    return f"{difference['field']}: {old} -> {new}"


def _short(value: object) -> str:
    match value:
        case None:
            return "-"
        case list():
            text = " ".join(map(str, value))
        case dict():
            text = " ".join(f"{key}={one}" for key, one in value.items())
        case _:
            text = str(value)
    return cut(escape(text), _LONGEST_TOLD) or '""'


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration_text(seconds)


def _size(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else size_text(size_bytes)
