"""Where do the texts of a service go?  Files, the crontab, and systemctl, with their failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from tinyscheduler.cli.service_texts import Scope
from tinyscheduler.errors import TinySchedulerError, UsageError
from tinyscheduler.values import dataclass

_LONGEST_S = 60
_MOST_BYTES = 1 << 20
LINGER_FOLDER = "/var/lib/systemd/linger"
BY_HAND = (
    "keep `tinyscheduler run --daemon` running: in tmux, by nohup, or as the container's process"
)


class UnavailableError(TinySchedulerError):
    """A program of the system that this needs is missing, or refuses."""

    exit_code = 69


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTarget:
    """A file of ours in a folder of the system."""

    path: str

    @property
    def title(self) -> str:
        """What people call it."""
        return self.path

    def read(self) -> str | None:
        """Return its text, or None if there is none."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.read(_MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise TinySchedulerError(
                f"cannot read {self.path}: {error.strerror}", hint="check its owner and its mode"
            ) from error

    def write(self, text: str | None) -> None:
        """Replace it, whole or not at all; None removes it."""
        temporary = f"{self.path}.new"
        try:
            if text is None:
                os.unlink(self.path)
                return
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # The mask of whoever installs must not hide it from those who read it.
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
        except OSError as error:
            raise TinySchedulerError(
                f"cannot write {self.path}: {error.strerror}",
                hint="for the whole machine run it as root; for yourself add --user",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CrontabTarget:
    """The crontab of the user who runs this; see crontab(1)."""

    user: str

    @property
    def title(self) -> str:
        """What people call it."""
        return f"the crontab of {self.user}"

    def read(self) -> str | None:
        """Return its text, or None if the user has none.  UnavailableError without cron."""
        done = self._call("-l")
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "surrogateescape")
        words = " ".join(done.stderr.decode("utf-8", "replace").split())
        if "no crontab" in words.lower():
            return None
        raise UnavailableError(f"`crontab -l` failed: {words}", hint=_without_cron())

    def write(self, text: str | None) -> None:
        """Replace it; None or nothing at all removes it."""
        if text:
            done = self._call("-", text.encode("utf-8", "surrogateescape"))
        else:
            done = self._call("-r")
        if done.returncode != 0:
            words = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise UnavailableError(f"`crontab` refused the new crontab: {words}")

    def _call(self, argument: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        program = shutil.which("crontab")
        if program is None:
            raise UnavailableError("there is no program `crontab` on PATH", hint=_without_cron())
        try:
            return subprocess.run(
                [program, argument],
                input=given,
                capture_output=True,
                timeout=_LONGEST_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"`crontab {argument}` failed: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemd:
    """One of systemd's managers, as systemctl(1) reaches it."""

    scope: Scope

    def argv(self, *words: str) -> list[str]:
        """Return a command line for people to type, or for us."""
        return ["systemctl", *(["--user"] if self.scope is Scope.USER else []), *words]

    def is_there(self) -> bool:
        """Whether systemd runs this machine (sd_booted(3)) and can be talked to."""
        return systemd_runs() and shutil.which("systemctl") is not None

    def call(self, *words: str) -> None:
        """Run a command of systemctl; UnavailableError, with its words, if it fails."""
        done = self._run(*words)
        if done is None or done.returncode != 0:
            said = "it did not answer" if done is None else done.stderr.strip()
            command = " ".join(self.argv(*words))
            raise UnavailableError(f"`{command}` failed: {said}", hint="what was written stays")

    def state_of(self, unit: str) -> str | None:
        """Return ``active``, ``inactive``, ``failed``…; None where systemd cannot be asked."""
        done = self._run("is-active", unit)
        return (done.stdout.strip() or None) if done is not None else None

    def next_run_s(self, timer: str) -> float | None:
        """Return when a timer elapses next, as seconds of the epoch."""
        done = self._run("list-timers", "--all", "--output=json", timer)
        try:
            found: Any = json.loads(done.stdout)[0]["next"] if done is not None else None
            return int(found) / 1e6 if found else None
        except (ValueError, LookupError, TypeError):
            return None

    def _run(self, *words: str) -> subprocess.CompletedProcess[str] | None:
        if not self.is_there():
            return None
        try:
            return subprocess.run(
                self.argv(*words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LONGEST_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None


def systemd_runs() -> bool:
    """Whether systemd runs this machine, sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def first_way_to_tick() -> str:
    """Return what makes ticks happen by themselves on a machine where nothing does yet."""
    can_install = systemd_runs() or shutil.which("crontab") is not None
    return "tinyscheduler service install" if can_install else BY_HAND


def _without_cron() -> str:
    others = "use `service install timer` or `daemon`" if systemd_runs() else BY_HAND
    return f"install cron, or {others}"


def unit_folder(scope: Scope) -> str:
    """Return where units that people install belong, systemd.unit(5)."""
    if scope is Scope.SYSTEM:
        return "/etc/systemd/system"
    home = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".config")
    if not os.path.isabs(home):
        raise UsageError("there is no home folder for units of a user", hint="set HOME")
    return os.path.join(home, "systemd", "user")


def lingers(user: str) -> bool | None:
    """Whether a user's services run while the user is logged out; None without logind."""
    if not systemd_runs():
        return None
    return os.path.exists(os.path.join(LINGER_FOLDER, user))
