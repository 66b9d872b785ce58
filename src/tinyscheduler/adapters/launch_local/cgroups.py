"""May commands have control groups of their own here, and what is in one?  See cgroups(7).

Only version 2, and only below a group that is ours to divide: systemd marks those it
delegates, and without systemd whoever may write there may divide it.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

_PREFIX = "tinyscheduler-"
_STALE_AFTER_S = 60


class ControlGroups:
    """The group this process is in, if it may be divided."""

    def __init__(self) -> None:
        """Find out at first use: most ticks start nothing."""
        self._folder: str | None = None
        self._is_known = False

    def name_for(self, lease_id: str) -> str | None:
        """Return the path of a group for one attempt, or None where none may be made."""
        if not self._is_known:
            self._folder, self._is_known = find_divisible(), True
            if self._folder is not None:
                _sweep(self._folder)
        return None if self._folder is None else f"{self._folder}/{_PREFIX}{lease_id}"


def is_group_of(group: str, lease_id: str) -> bool:
    """Whether a lease names its own attempt's group: what is in it is going to be ended."""
    return group.endswith(f"/{_PREFIX}{lease_id}") and "/../" not in group


def read_members(group: str) -> set[int]:
    """Return the processes in the group; empty if the group is gone.

    Raises OSError if there is a group that cannot be read.
    """
    try:
        with open(f"{group}/cgroup.procs", encoding="utf-8") as file:
            return {int(line) for line in file.read().split()}
    except OSError as error:
        # ENODEV: removed after it was opened.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
            return set()
        raise


def kill_members(group: str) -> None:
    """SIGKILL everything in the group at once (Linux 5.14), and remove it once empty."""
    with suppress(OSError):
        fd = os.open(f"{group}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    with suppress(OSError):
        os.rmdir(group)


def find_divisible() -> str | None:
    """Return the folder of this process's own group if we may make groups in it, or None."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = file.read().splitlines()
    except OSError:
        return None
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    mount = next((line.split()[4] for line in mounts if " - cgroup2 " in line), None)
    if own is None or mount is None:
        return None
    folder = (mount + own).rstrip("/")
    can_write = os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
    return folder if can_write and (_is_delegated(folder) or not _has_systemd()) else None


def _is_delegated(folder: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _has_systemd() -> bool:
    """Whether systemd manages this machine's groups (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def _sweep(folder: str) -> None:
    """Remove empty groups that killed wrappers left behind."""
    with suppress(OSError):
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if name.startswith(_PREFIX):
                with suppress(OSError):
                    if time.time() - os.stat(path).st_ctime > _STALE_AFTER_S:
                        os.rmdir(path)
