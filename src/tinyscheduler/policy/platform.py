"""The built-in policy: tasks as they stand in line, each to the freest agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.core.queueing import candidates, key_of
from tinyscheduler.model.plan import Proposal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.model.tasks import WaitingTask


class PlatformPolicy:
    """Take tasks as they stand in line.

    A task of a queue goes to the agent with most free slots of those that can start it, ties by
    name.
    """

    name = "platform"

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Return as many proposals as the free slots can take."""
        free = {agent.name: agent.free for agent in context.agents}
        host_free = context.host_slots_free
        proposals: list[Proposal] = []
        for task in context.waiting:
            if host_free <= 0:
                break
            agent = _freest(task, context, free)
            if agent is not None:
                proposals.append(Proposal(task=task, agent=agent))
                free[agent] -= 1
                host_free -= 1
        return proposals


def _freest(task: WaitingTask, context: PolicyContext, free: dict[str, int]) -> str | None:
    names: Iterable[str] | None = context.choices.get(key_of(task))
    if names is None:
        names = (agent.name for agent in candidates(task, context.agents))
    best = min(names, key=lambda name: (-free[name], name), default=None)
    return best if best is not None and free[best] > 0 else None
