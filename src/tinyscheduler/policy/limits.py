"""What a policy of one's own may take, and the walls around it.  Loads nothing of Lua."""

from __future__ import annotations

from tinyscheduler.values import dataclass

# Of the process, in the order in which they are put up.
LAYERS = ("no_new_privs", "landlock", "rlimits", "seccomp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LuaLimits:
    """What one call of ``schedule`` may take, and what may come out of it."""

    cpu_ms: int = 50
    memory_mb: int = 64
    source_bytes: int = 256 << 10
    decisions: int = 1000
    text_bytes: int = 1024
    log_lines: int = 100
    log_bytes: int = 256
    metrics: int = 50
