"""What has this machine, within our control group, and what do process trees take of it?"""

from __future__ import annotations

import os

from tinyscheduler import procfs
from tinyscheduler.errors import ProbeError
from tinyscheduler.model.resources import HostState
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tinyscheduler.model.leases import Lease

_CGROUPS = "/sys/fs/cgroup"
_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process and all below it have used: CPU seconds so far, resident bytes now."""

    cpu_s: float
    memory_bytes: int
    processes: int


class ProcProbe:
    """Reads proc(5) and cgroups(7); no driver, no daemon, no dependency."""

    def __init__(self, *, sees_stalls: bool = False, root: str = "/") -> None:
        """Read below this root; a parameter for the sake of tests.

        How much time is lost in waiting for memory is read only where that is of use.
        """
        self._sees_stalls = sees_stalls
        self._root = root

    def read(self) -> HostState:
        """Return identity, memory and load; ProbeError if /proc is unreadable.

        Where a control group allows less memory or fewer cores than the machine has, that
        is what counts; page cache of the group that can be dropped counts as available.
        """
        root = self._root
        try:
            path = os.path.join(root, "proc/meminfo")
            memory = _read_named(path, "MemTotal", "MemAvailable")
            total, available = memory["MemTotal"] * _KIB, memory["MemAvailable"] * _KIB
            with open(os.path.join(root, "proc/loadavg"), encoding="utf-8") as file:
                load = float(file.read().split()[0])
            with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
                boot_id = file.read().strip()
            pid_ns = os.stat("/proc/self/ns/pid").st_ino
        except (OSError, KeyError, ValueError, IndexError) as error:
            message = f"cannot read the state of this machine from /proc: {error}"
            raise ProbeError(message, hint="is /proc mounted?") from error
        cores: float = os.cpu_count() or 1
        machine = total
        stalls = [os.path.join(root, "proc/pressure/memory")]
        for group in _own_groups(root):
            limit, used = _memory_of(group, machine)
            if limit is not None:
                total = min(total, limit)
                available = min(available, max(0, limit - used))
                stalls.append(os.path.join(group, "memory.pressure"))
            cores = min(cores, _cores_of(group) or cores)
        return HostState(
            hostname=os.uname().nodename,
            boot_id=boot_id,
            pid_ns=pid_ns,
            memory_total_bytes=total,
            memory_available_bytes=min(available, total),
            load=load,
            cores=cores,
            memory_stall=_worst_stall(stalls) if self._sees_stalls else None,
        )

    def measure(self, leases: Sequence[Lease]) -> Mapping[str, int]:
        """Return what each attempt's wrapper and all below it have resident.

        Attempts that cannot be seen from here, or are gone, are left out.
        """
        if not leases:
            return {}
        try:
            pid_ns = os.stat("/proc/self/ns/pid").st_ino
            visible = {
                lease.lease_id: (lease.process.pid, lease.process.start_ticks)
                for lease in leases
                if lease.process is not None and lease.process.pid_ns == pid_ns
            }
            trees = read_trees(visible.values())
        except OSError as error:
            message = f"cannot read what attempts use from /proc: {error}"
            raise ProbeError(message, hint="is /proc mounted?") from error
        return {
            lease_id: trees[root].memory_bytes
            for lease_id, root in visible.items()
            if root in trees
        }


def _own_groups(root: str) -> Iterable[str]:
    """Yield our control group's folder and all above it: each may set a limit (cgroups(7))."""
    try:
        with open(os.path.join(root, "proc/self/cgroup"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    top = os.path.join(root, _CGROUPS.lstrip("/"))
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy != "0" and "memory" not in controllers.split(","):
            continue
        mounted = top if hierarchy == "0" else os.path.join(top, "memory")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield os.path.join(mounted, *parts[:depth])


def _memory_of(group: str, most: int) -> tuple[int | None, int]:
    """Return the limit of a group and what it uses of it; None where it sets none below that."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _read_number(os.path.join(group, limit_name))
        if limit is None or limit >= most:
            continue
        used = _read_number(os.path.join(group, used_name))
        if used is None:
            continue
        try:
            path = os.path.join(group, "memory.stat")
            cache = _read_named(path, cache_name).get(cache_name, 0)
        except (OSError, ValueError):
            cache = 0
        return limit, max(0, used - cache)
    return None, 0


def _worst_stall(paths: Sequence[str]) -> float | None:
    """Return the largest share of the last ten seconds in which some task waited.

    As the kernel's documentation has it, accounting/psi.rst; None where no file tells.
    """
    found = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                words = file.readline().split()
            if words[0] == "some" and words[1].startswith("avg10="):
                found.append(float(words[1].removeprefix("avg10=")) / 100)
        except (OSError, ValueError, IndexError):
            continue  # a kernel that does not count it, or was told not to
    return max(found, default=None)


def _cores_of(group: str) -> float | None:
    try:
        with open(os.path.join(group, "cpu.max"), encoding="utf-8") as file:
            quota, period = file.read().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such file, or "max": no limit


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _read_named(path: str, *names: str) -> dict[str, int]:
    """Read lines of a name and a number, as in /proc/meminfo and memory.stat, no further."""
    found: dict[str, int] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.replace(":", " ").split()
            if len(words) > 1 and words[0] in names:
                found[words[0]] = int(words[1])
                if len(found) == len(names):
                    break
    return found


def free_bytes(folder: str) -> int | None:
    """Return what a plain user may still write to the disk of the nearest folder there is."""
    while True:
        try:
            status = os.statvfs(folder)
        except FileNotFoundError:
            above = os.path.dirname(folder)
            if above == folder:
                return None
            folder = above
        except OSError:
            return None
        else:
            return status.f_bavail * status.f_frsize


def read_trees(roots: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Usage]:
    """Return what each of these processes and its descendants use, in one pass over /proc.

    ``roots`` are pids and the start ticks they must have; one that is gone is left out.
    Descent is enough: a wrapper adopts whatever its command leaves behind.
    """
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    rows = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        row = _read_row(int(name))
        if row is not None:
            rows[int(name)] = row
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row[0], []).append(pid)
    found = {}
    for root, start_ticks in roots:
        if root not in rows or rows[root][1] != start_ticks:
            continue
        tree, queue = [], [root]
        while queue:
            pid = queue.pop()
            tree.append(rows[pid])
            queue.extend(children.get(pid, ()))
        found[root, start_ticks] = Usage(
            # Of children that ended, their parent keeps the time.
            cpu_s=sum(row[2] for row in tree) / ticks,
            memory_bytes=sum(row[3] for row in tree) * page,
            processes=len(tree),
        )
    return found


def _read_row(pid: int) -> tuple[int, int, int, int] | None:
    """Return parent, start ticks, CPU ticks and resident pages of a process."""
    try:
        fields = procfs.read_stat(pid)
    except OSError:
        return None
    if fields is None:
        return None
    return (
        int(fields[procfs.PARENT]),
        int(fields[procfs.START_TICKS]),
        sum(map(int, fields[procfs.CPU_TICKS])),
        int(fields[procfs.RESIDENT_PAGES]),
    )
