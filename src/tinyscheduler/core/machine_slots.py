"""How many attempts may run at once on this machine?"""

from __future__ import annotations

from tinyscheduler.model.config import LOCAL_HOST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from tinyscheduler.model.config import AgentProfile, Host

# A machine that may run only one attempt at a time is hardly what an unset variable means.
_LEAST_AUTOMATIC = 2


def machine_slots(
    agents: Iterable[AgentProfile], hosts: Iterable[Host], *, setting: int | None
) -> int:
    """Return what the setting says or, if it says nothing, what all agents together need.

    What the agents file says of this machine bounds both.
    """
    slots = setting
    if slots is None:
        slots = max(_LEAST_AUTOMATIC, sum(agent.limit for agent in agents))
    bound = local_bound(hosts)
    return slots if bound is None else min(slots, bound)


def local_bound(hosts: Iterable[Host]) -> int | None:
    """Return the slots that the agents file allows this machine; None if it does not say."""
    return next((host.max_slots for host in hosts if host.name == LOCAL_HOST), None)
