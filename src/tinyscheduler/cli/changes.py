"""How is it said that a change would start a task, and how is it made?"""

from __future__ import annotations

from math import ceil

from tinyscheduler.cli.render import format_when
from tinyscheduler.core.explain import join_names
from tinyscheduler.core.whatif import Ended, Less, Raised, Resumed
from tinyscheduler.model.clock import format_time
from tinyscheduler.values import assert_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    from tinyscheduler.core.whatif import Change

_LESS = {
    "memory": ("--memory {}M", "with so little it would start now"),
    "vram": ("--vram {}M", "with so little it would start now"),
    "gpus": ("--gpus {}", "with so few it would start now"),
    "max_runtime": ("--max-runtime {}s", "if it takes no longer than that it would start now"),
}
_RAISED = {
    "agent": "a limit of {to} for agent {name} would start it now (agents file or AGENT_LIMITS)",
    "per_host": "a max_per_host of {to} for agent {name} would start it now (agents file)",
    "machine": "TINYSCHEDULER_MAX_CONCURRENT_SLOTS={to} would start it now",
    "host": "max_slots {to} of host {name} would start it now (agents file)",
    "lookahead": "TINYSCHEDULER_QUEUE_LOOKAHEAD={to} would start it now",
    "skips": "TINYSCHEDULER_MAX_SKIPS_PER_TASK={to} would start it now",
    "model": "max_slots {to} of model {name} on host {host} would start it now (agents file)",
    "queue": "a limit of {to} for queue {name} would start it now (agents file)",
    "tenant": "a quota of {to} slots for tenant {name} would start it now (agents file)",
    "tenant_vram": "a vram of {to} for tenant {name} would start it now (agents file)",
}


def change_words(change: Change, task_id: str, *, now: datetime) -> str:
    """Say it in a sentence, with what to type where that is a command."""
    match change:
        case Less():
            option, then = _LESS[change.of]
            number = change.at_most // 2**20 if change.of in ("memory", "vram") else change.at_most
            return f"`tinyscheduler edit {task_id} {option.format(number)}`: {then}"
        case Ended():
            names = join_names(change.task_ids)
            who = f"task {names} has" if len(change.task_ids) == 1 else f"tasks {names} have"
            when = format_when(max(change.at_latest, now), now=now)
            at = f"{change.at_latest.astimezone():%H:%M}"
            return f"it starts when {who} ended, at the latest {when} ({at})"
        case Raised():
            to = f"{change.to // 2**20}M" if change.limit == "tenant_vram" else change.to
            words = _RAISED[change.limit].format(to=to, name=change.name, host=change.host or "")
            if change.after_s:
                words = words.replace("start it now", f"start it in {ceil(change.after_s)} s")
            return words
        case Resumed():
            return f"`tinyscheduler resume agent:{change.agent}` would start it now"
        case _:
            assert_never(change)


def change_json(change: Change) -> dict[str, Any]:
    """Return the same as an object."""
    match change:
        case Less():
            return {"change": "less", "of": change.of, "at_most": change.at_most}
        case Ended():
            at_latest = format_time(change.at_latest)
            return {"change": "ended", "tasks": list(change.task_ids), "at_latest": at_latest}
        case Raised():
            return {
                "change": "raised",
                "limit": change.limit,
                "name": change.name,
                "host": change.host,
                "to": change.to,
                "after_sec": change.after_s,
            }
        case Resumed():
            return {"change": "resumed", "agent": change.agent}
        case _:
            assert_never(change)
