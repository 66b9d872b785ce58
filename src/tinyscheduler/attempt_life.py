"""Does an attempt that prints nothing still do something?

Standard library only, and nothing of ours: a wrapper loads this by its path, for attempts that may
be silent for so long and no longer.  Who thinks prints nothing, and who computes neither; both
use processors, or a GPU.
"""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
else:
    import _signal as signal

# How often in the time that it may show no life it is looked at, and how much of a processor it
# must use to be at work: programs that wait use some, too.
_LOOKS = 8
_LEAST_PAUSE_S = 0.02
_BUSY_SHARE = 0.01
# How long the driver of a GPU may take to say whether it is at work.
_PATIENCE_S, _MOST_READS = 0.1, 50
_READ_BYTES = 1 << 16


class Life:
    """Watches the processes below this one for signs that they are at work.

    ``reaped_s`` tells the seconds of processors of those that were reaped, ``children`` the
    processes (pid, start ticks, state) below each, and ``fields`` those of /proc/PID/stat.
    ``report`` is a command that prints what the driver says of GPUs, of which ``gpus`` are those
    of the attempt; empty: nobody is asked.
    """

    def __init__(
        self,
        most_s: float,
        *,
        now_s: float,
        reaped_s: Callable[[], float],
        children: Callable[[], Mapping[int, Sequence[tuple[int, int, str]]]],
        fields: Callable[[int], list[str]],
        parse: Callable[[bytes], object],
        report: list[str] | tuple[str, ...] = (),
        gpus: Sequence[str] = (),
    ) -> None:
        """Begin now, by CLOCK_MONOTONIC as all times here."""
        self._most_s = most_s
        self._reaped_s, self._children, self._fields = reaped_s, children, fields
        self._parse = parse
        self._report, self._gpus = report, gpus
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        # When it was last seen at work, and what it had used when we last looked.
        self._busy_s = self._seen_s = now_s
        self._used_s = 0.0
        self.next_look_s = self._busy_s

    def silent_s(self, now_s: float, *, spoke_s: float) -> float:
        """Return for how long it has shown no life that spoke then."""
        return max(0.0, now_s - max(spoke_s, self._busy_s))

    def is_over(self, now_s: float, *, spoke_s: float) -> bool:
        """Whether that is too long; looked at now and then, it is seen up to an eighth late."""
        if now_s < self.next_look_s:
            return False
        pause_s = max(self._most_s / _LOOKS, _LEAST_PAUSE_S)
        self.next_look_s = now_s + pause_s
        if now_s - spoke_s < pause_s:
            return False  # it speaks, so nobody need look for more
        pids, used_s = self._tree()
        least_s = max(_BUSY_SHARE * (now_s - self._seen_s), 1 / self._ticks_per_s)
        # What was used while it spoke is no sign of life since.
        if self._seen_s >= spoke_s and used_s - self._used_s >= least_s:
            self._busy_s = now_s
        self._used_s, self._seen_s = used_s, now_s
        if now_s - max(spoke_s, self._busy_s) > self._most_s and self._is_on_gpu(pids):
            self._busy_s = now_s
        return now_s - max(spoke_s, self._busy_s) > self._most_s

    def _tree(self) -> tuple[set[int], float]:
        """Return its processes, and the seconds that they have used, ended ones too."""
        children = self._children()
        left = [pid for pid, _, _ in children.get(os.getpid(), ())]
        pids: set[int] = set()
        ticks = 0
        while left:
            pid = left.pop()
            pids.add(pid)
            # Of itself, and of those that it has waited for.
            ticks += max(0, sum(map(int, self._fields(pid)[11:15])))
            left += [one for one, _, _ in children.get(pid, ())]
        return pids, self._reaped_s() + ticks / self._ticks_per_s

    def _is_on_gpu(self, pids: set[int]) -> bool:
        """Whether one of its GPUs is at work, and for it as far as the driver tells."""
        if not self._report or not self._gpus:
            return False
        try:
            report = self._parse(self._ask())
        except (OSError, ValueError):
            return False
        gpus = report.get("gpus") if isinstance(report, dict) else None
        return any(
            _is_at_work(gpu, pids)
            for gpu in (gpus if isinstance(gpus, list) else ())
            if isinstance(gpu, dict) and gpu.get("uuid") in self._gpus
        )

    def _ask(self) -> bytes:
        """Return what the report prints, which may hang in the driver: then what there is."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_fd, 1),
            ]
            environment = {"PATH": os.environ.get("PATH", os.defpath)}
            pid = os.posix_spawn(self._report[0], self._report, environment, file_actions=actions)
        finally:
            os.close(write_fd)
        text = b""
        try:
            for _ in range(_MOST_READS):
                if select.select([read_fd], [], [], _PATIENCE_S)[0]:
                    block = os.read(read_fd, _READ_BYTES)
                    text += block
                    if not block:
                        break
        finally:
            os.close(read_fd)
            # It is a child, and reaped with the others.
            os.kill(pid, signal.SIGKILL)
        return text


def _is_at_work(gpu: dict[str, object], pids: set[int]) -> bool:
    share, users = gpu.get("utilization"), gpu.get("processes")
    named = {
        one.get("pid")
        for one in (users if isinstance(users, list) else ())
        if isinstance(one, dict)
    }
    is_used = isinstance(share, int | float) and share > 0
    # Where the driver names nobody, or sees other numbers than we do, nobody can tell whose it is.
    return is_used and (not named or bool(pids & named) or None in named)
