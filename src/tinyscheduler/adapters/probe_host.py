"""What this machine is and has, read from /proc."""

from __future__ import annotations

import os

from tinyscheduler.errors import ProbeError
from tinyscheduler.model.snapshot import HostState


class ProcProbe:
    """Reads proc(5); no driver, no daemon, no dependency."""

    def read(self) -> HostState:
        """Return identity, memory and load; ProbeError if /proc is unreadable."""
        try:
            memory = _read_memory()
            with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
                boot_id = file.read().strip()
            return HostState(
                hostname=os.uname().nodename,
                boot_id=boot_id,
                pid_ns=os.stat("/proc/self/ns/pid").st_ino,
                memory_total_bytes=memory["MemTotal"],
                memory_available_bytes=memory["MemAvailable"],
                load=os.getloadavg()[0],
                cores=os.cpu_count() or 1,
            )
        except (OSError, KeyError, ValueError) as error:
            message = f"cannot read the state of this machine from /proc: {error}"
            raise ProbeError(message, hint="is /proc mounted?") from error


def _read_memory() -> dict[str, int]:
    """Return /proc/meminfo in bytes; the kernel writes kB and means KiB."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        lines = file.read().splitlines()
    pairs = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}
