"""How is a tick wished for, and how is one started that outlives its starter?"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tinyscheduler.adapters.tick_lock_file import touch

if TYPE_CHECKING:
    from tinyscheduler.model.config import Config


def kick(config: Config) -> None:
    """Wish for a tick: a running one or the daemon reacts, else the next regular one does."""
    touch(config.paths.kick)


def kick_argv(config: Config) -> tuple[str, ...]:
    """Return the command of a kicked tick: absolute, and deaf to the environment."""
    package = ("-I", "-m", "tinyscheduler")
    return (sys.executable, *package, "--base-path", config.paths.base, "run", "--kicked")


def start_detached_tick(config: Config) -> None:
    """Start the tick that a busy one has no time left for; it outlives this process."""
    argv = kick_argv(config)
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    os.posix_spawn(argv[0], argv, environment, file_actions=null, setsid=True)
