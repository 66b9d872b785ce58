"""How is a tick wished for or started to outlive its starter, and when was the last one?"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

from tinyscheduler.adapters.tick_lock_file import touch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.config import Config


def kick(config: Config) -> None:
    """Wish for a tick: a running one or the daemon reacts, else the next regular one does."""
    touch(config.paths.kick)


def kick_argv(config: Config) -> tuple[str, ...]:
    """Return the command of a kicked tick: absolute, and deaf to the environment."""
    package = ("-I", "-m", "tinyscheduler")
    return (sys.executable, *package, "--base-path", config.paths.base, "run", "--kicked")


def start_detached_tick(config: Config, *, warn: Callable[[str], None]) -> None:
    """Start the tick that a busy one has no time left for; it outlives this process.

    Tells ``warn`` where that cannot be done: what was asked for is done all the same, and
    the wish stays where the next regular tick finds it.
    """
    argv = kick_argv(config)
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    try:
        os.posix_spawn(argv[0], argv, environment, file_actions=null, setsid=True)
    except OSError as error:
        warn(f"no tick could be started ({error.strerror}); the next regular one follows the wish")


def last_tick_at(config: Config) -> datetime | None:
    """Return when a tick took the lock last: each one writes its line then."""
    try:
        status = os.stat(config.paths.tick_lock)
    except OSError:
        return None
    # Who kept ticks out, being none, gave the file its time back: none, if there was none.
    is_known = status.st_size > 0 and status.st_mtime_ns > 0
    return datetime.fromtimestamp(status.st_mtime, tz=UTC) if is_known else None
