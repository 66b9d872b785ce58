"""Is this process part of an attempt of this base path, even if its own environment was cleared?

Programs that agents start may get few of the agent's variables; the agent itself has them.
"""

from __future__ import annotations

import os

from tinyscheduler import procfs
from tinyscheduler.app.place import is_inside_attempt
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tinyscheduler.model.config import Config

_MOST_ANCESTORS = 64
_MOST_BYTES = 1 << 20
_PREFIX = b"TINYSCHEDULER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The attempt around this process."""

    lease_id: str
    agent: str | None


def find_surroundings(config: Config, environ: Mapping[str, str]) -> Surroundings | None:
    """Return the attempt that this process belongs to by its variables or an ancestor's."""
    for variables in (environ, *_of_ancestors()):
        if is_inside_attempt(config, variables):
            lease_id, agent = variables["TINYSCHEDULER_LEASE_ID"], variables.get(_AGENT)
            return Surroundings(lease_id=lease_id, agent=agent or None)
    return None


_AGENT = "TINYSCHEDULER_AGENT"


def _of_ancestors() -> Iterator[dict[str, str]]:
    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        if pid <= 1:
            return
        yield _read_variables(pid)
        try:
            fields = procfs.read_stat(pid)
        except OSError:
            return
        if fields is None:
            return
        pid = int(fields[procfs.PARENT])


def _read_variables(pid: int) -> dict[str, str]:
    """Return our own variables of a process; none where they cannot be read (hidepid, proc(5))."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError:
        return {}
    pairs = (one.partition(b"=") for one in content.split(b"\0") if one.startswith(_PREFIX))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
