"""What does systemd, or whoever started the daemon, hear from it?  See sd_notify(3)."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from tinyscheduler.ports import Clock

_PATIENCE_S = 1.0
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Tells a service manager how the daemon is; says nothing where there is none.

    The variables are taken out of the environment, so that nothing the daemon starts can
    speak for it.
    """

    def __init__(self, environ: MutableMapping[str, str], *, own_pid: int, clock: Clock) -> None:
        """Take over NOTIFY_SOCKET, and the watchdog if it was meant for this process."""
        # For a new version of the program, should this process become one.
        self.taken = {name: environ.pop(name) for name in _VARIABLES if name in environ}
        self._address = self.taken.get("NOTIFY_SOCKET", "")
        if self._address:
            # Now, not when it is first needed: a signal's handler might find it half loaded.
            import socket  # noqa: F401 - it is for `_say`
        interval = self.taken.get("WATCHDOG_USEC", "")
        watched_pid = self.taken.get("WATCHDOG_PID", "")
        self._clock = clock
        self._promised_until_ns = 0
        # Of another pid, it was meant for a process above us (sd_watchdog_enabled(3)).
        is_meant = self._address and watched_pid in ("", str(own_pid))
        self._beat_s = int(interval) / 2e6 if is_meant and interval.isdecimal() else 0.0

    def begin(self) -> None:
        """Say that the daemon serves, and begin to feed the watchdog."""
        self._say("READY=1")
        if self._beat_s > 0:
            signal.signal(signal.SIGALRM, lambda _number, _frame: self._beat())
            signal.setitimer(signal.ITIMER_REAL, self._beat_s, self._beat_s)

    def expect_back(self, seconds: float) -> None:
        """Feed the watchdog for so long, or until the next call of this.

        The feeding itself is left to a timer, so that it goes on while a tick sleeps or
        waits for processes to die; but a daemon that hangs must starve it.
        """
        beats_ns = int((seconds + 2 * self._beat_s) * 1e9)
        self._promised_until_ns = self._clock.now().monotonic_ns + beats_ns

    def tell(self, words: str) -> None:
        """Say in one line what the daemon is at, for ``systemctl status``."""
        self._say("STATUS=" + " ".join(words.split()))

    def begin_reload(self) -> None:
        """Say that the configuration is about to be read again."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={self._clock.now().monotonic_ns // 1000}")

    def end_reload(self) -> None:
        """Say that it has been read."""
        self._say("READY=1")

    def begin_stop(self) -> None:
        """Say that the daemon will end once the tick at hand has."""
        self._say("STOPPING=1\nSTATUS=finishing the tick at hand; attempts run on")

    def end(self) -> None:
        """Stop feeding the watchdog."""
        if self._beat_s > 0:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _beat(self) -> None:
        if self._clock.now().monotonic_ns < self._promised_until_ns:
            self._say("WATCHDOG=1")

    def _say(self, message: str) -> None:
        if not self._address:
            return
        import socket  # not cheap, and only daemons of a service manager need it

        address = self._address
        if address.startswith("@"):  # an abstract name, unix(7)
            address = "\0" + address[1:]
        # Nobody there, or a queue that stays full: the daemon works all the same.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(_PATIENCE_S)
            channel.sendto(message.encode(), address)
