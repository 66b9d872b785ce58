"""What did the command line change?  The strongest layer of the configuration."""

from __future__ import annotations

from tinyscheduler.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Settings given on the command line; None and empty mean "not given".

    Intervals are seconds, or a text such as ``90s`` or ``15m``.  ``env_file`` and
    ``base_path`` are relative to the current folder, every other path to the base path.
    ``agent_limits`` is merged over the limits of all weaker layers, agent by agent.
    """

    env_file: str | None = None
    base_path: str | None = None
    agent_limits: tuple[tuple[str, int], ...] = ()
    loop_interval: float | str | None = None
    heartbeat_interval: float | str | None = None
    max_runtime: float | str | None = None
    running_dir: str | None = None
    log_dir: str | None = None
    recipes_dir: str | None = None
    goose_bin: str | None = None
    mcp_endpoint: str | None = None
    disable_blocking: bool | None = None
    dry_run: bool | None = None
    log_level: str | None = None
