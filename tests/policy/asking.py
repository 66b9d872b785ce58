"""A policy of one's own in its file, and a world to ask it about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.builders import NOW, a_task

from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.model.config import PolicySettings
from tinyscheduler.model.policy import AgentView, PolicyContext

if TYPE_CHECKING:
    from pathlib import Path


def a_policy(
    base: Path,
    source: str | bytes | None,
    *,
    name: str = "p.lua",
    start_ms: int = 250,
    **more: Any,
) -> ConfinedPolicy:
    """Write the policy to its file, unless it is there already, and return it."""
    path = base / "policies" / name
    path.parent.mkdir(exist_ok=True)
    if source is not None:
        path.write_bytes(source.encode() if isinstance(source, str) else source)
    settings = PolicySettings(mode="home", path=str(path), **more)
    return ConfinedPolicy(settings, base=str(base), start_ms=start_ms)


def a_context(*waiting: Any, **more: Any) -> PolicyContext:
    """Return a world in which one task could start, or these."""
    fields: dict[str, Any] = {
        "now": NOW.wall,
        "waiting": waiting or (a_task("1", agent="coder"),),
        "agents": (AgentView(name="coder", queue="dev", limit=2, active=0),),
        "host_slots_free": 2,
        "memory_free_bytes": 8 << 30,
    }
    return PolicyContext(**{**fields, **more})
