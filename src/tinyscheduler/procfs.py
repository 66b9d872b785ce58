"""What does the kernel say of one process?  The line of /proc/PID/stat (proc_pid_stat(5))."""

from __future__ import annotations

import os

# Places of its fields after the name, the state being 0.
STATE, PARENT, SESSION, FLAGS, START_TICKS, RESIDENT_PAGES = 0, 1, 3, 6, 19, 21
# User and system time, its own and that of children it has waited for.
CPU_TICKS = slice(11, 15)
_MOST_BYTES = 4096


def read_stat(pid: int) -> list[bytes] | None:
    """Return the fields after the name; None if there is no such process.

    A zombie has them too.  Raises OSError if it cannot be read, as where others are hidden.
    """
    try:
        # Without a file object, at half the price: a tick reads one of these per lease.
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _MOST_BYTES)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and parentheses; what follows the last one is regular.
    return text[text.rindex(b")") + 2 :].split(maxsplit=RESIDENT_PAGES + 1)


def is_over(fields: list[bytes]) -> bool:
    """Whether the process has ended and is only waited for."""
    return fields[STATE] in b"ZX"


def read_start_ticks(pid: int) -> int | None:
    """Return when the process started, in ticks since the boot; None if none lives to be seen."""
    try:
        fields = read_stat(pid)
    except OSError:
        return None
    return None if fields is None or is_over(fields) else int(fields[START_TICKS])
