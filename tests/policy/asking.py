"""A policy of one's own in its file, and a world to ask it about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.builders import NOW, a_task

from tinyscheduler.adapters.policy_confined import ConfinedPolicy
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import PolicySettings
from tinyscheduler.model.policy import AgentView, PolicyContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinyscheduler.ports import Policy

# Of a start and an answer together: all that a policy may take of a tick.
MOST_S = 0.25 + 0.2
_LOOKS, _MOST_LOOKS = 3, 60
ENDLESS = "function schedule(context) while true do end end"


def in_time(
    look: Callable[[], tuple[str, str | None, float]],
    control: Callable[[], float],
    *,
    most_s: float = MOST_S,
) -> tuple[str, str | None]:
    """Return what came of a policy, and what is wrong with that, if anything: also its time.

    What took too long is looked at again.  It is to blame where a ``control``, a policy that is
    known to be ended in time and tried right after it, was in time; else the machine was busy.
    """
    late = 0
    for number in range(_MOST_LOOKS):
        outcome, wrong, took_s = look()
        if wrong is not None or took_s <= most_s:
            return (outcome if number == 0 else f"{outcome} (asked again)"), wrong
        late += control() <= most_s
        if late == _LOOKS:
            return outcome, f"it held up the tick for {took_s:.2f} s, {_LOOKS} times"
    return outcome, f"the machine was too busy to tell, {_MOST_LOOKS} times"


def endless_s(base: Path) -> float:
    """Return for how many seconds an endless loop holds up a tick now."""
    policy = a_policy(base, ENDLESS, name="endless.lua")
    try:
        return timed(policy, a_context())[1]
    finally:
        policy.close()


def timed(policy: Policy, context: PolicyContext) -> tuple[PolicyError | None, float]:
    """Ask a policy; return how it failed, if it did, and how many seconds that took."""
    began, failed = time.monotonic(), None
    try:
        policy.propose(context)
    except PolicyError as error:
        failed = error
    return failed, time.monotonic() - began


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
