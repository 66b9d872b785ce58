"""The built-in policy: ``platform.lua``, trusted, and run where it is asked."""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.plan import Proposal
    from tinyscheduler.model.policy import PolicyContext
    from tinyscheduler.policy.lua import LuaEngine

# It is ours, and takes as long as it takes.
_CPU_MS = 60_000
# Jobs that it sees beside those that free slots could take twice over.
_SPARE_JOBS = 16


class PlatformPolicy:
    """Decides by ``platform.lua``; Lua is loaded with the first question."""

    name = "platform"
    version = ""

    def propose(self, context: PolicyContext) -> Sequence[Proposal]:
        """Return as many proposals as the free slots can take."""
        from tinyscheduler.policy.context import MOST_JOBS, describe, understand

        if not context.waiting or context.host_slots_free <= 0:
            return []
        # It looks at no worker.  Who stands further back than all that can start now is asked
        # about once more if it can.
        most = min(MOST_JOBS, 2 * context.host_slots_free + _SPARE_JOBS)
        return understand(
            _engine().schedule(describe(context, most=most, with_workers=False)), context
        ).proposals


@cache
def _engine() -> LuaEngine:
    from tinyscheduler.policy.limits import LuaLimits
    from tinyscheduler.policy.lua import LuaEngine
    from tinyscheduler.policy.sources import PLATFORM_NAME, read_platform

    engine = LuaEngine(limits=LuaLimits(cpu_ms=_CPU_MS), is_bounded=False)
    fault = engine.load(read_platform(), PLATFORM_NAME)
    assert fault is None, fault  # noqa: S101 - it is a part of the program
    return engine
