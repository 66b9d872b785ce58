"""A scratch base path, and ways to type commands there: in a pipe, at a terminal, or in process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cli.loaded import run_loaded
from tests.process.station import end_all_of, last_pid

from tinyscheduler.crash import VARIABLE

PROGRAM = (sys.executable, "-I", "-m", "tinyscheduler")
GOLDEN = Path(__file__).parent / "golden"
QUICK = {
    "STAGGER_DELAY_MS": "0",
    # However little memory this machine has left.
    "MEMORY_PER_SLOT_MB": "1",
    "MEMORY_CRITICAL": "1",
    "HEARTBEAT_SEC": "0.2",
    "RETRY_BASE_SEC": "0.1",
    "RETRY_BACKOFF_SEC": "0.1",
    "KILL_GRACE_SEC": "0.5",
}
# Start programs of their own, and may be interrupted at it.
STARTED = frozenset({"demo", "selftest"})
LIMIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        document: dict[str, Any] = json.loads(self.out)
        return document


@dataclass(slots=True)
class Place:
    """One base path and what is set in the environment of its commands."""

    base: Path
    settings: dict[str, str] = field(default_factory=dict)
    _since: int = field(init=False)

    def __post_init__(self) -> None:
        """Make the folder; nothing is in it."""
        self._since = last_pid()
        self.base.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> Path:
        """The state folder, which may not exist."""
        return self.base / "state"

    @property
    def program(self) -> str:
        """The program as advice names it where commands were typed with this base path."""
        return f"tinyscheduler --base-path {self.base}"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a command as a login would give it, plus the settings."""
        settings = {**QUICK, **self.settings}
        environment = {f"TINYSCHEDULER_{name}": value for name, value in settings.items()}
        environment |= {"PATH": os.environ["PATH"], "HOME": str(self.base), "LANG": "C.UTF-8"}
        return environment | more

    def argv(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the whole command line."""
        return [*PROGRAM, "--base-path", str(self.base), *arguments]

    def run(
        self,
        *arguments: str | bytes,
        stdin: bytes = b"",
        cwd: Path | None = None,
        **environment: str,
    ) -> Answer:
        """Run a command with pipes for its streams."""
        done = self.run_raw(*arguments, stdin=stdin, cwd=cwd, **environment)
        return Answer(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def run_raw(
        self,
        *arguments: str | bytes,
        stdin: bytes = b"",
        cwd: Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command and return its bytes as they are."""
        if STARTED.isdisjoint(arguments) and all(map(is_setting, environment)):
            return run_loaded(
                self.argv(*arguments)[len(PROGRAM) :],
                environment=self.environment(**environment),
                cwd=cwd or self.base,
                stdin=stdin,
                timeout_s=LIMIT_S,
            )
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment(**environment),
            cwd=cwd or self.base,
            input=stdin,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command with pipes for its streams, and return at once."""
        return subprocess.Popen(
            self.argv(*arguments),
            env=self.environment(**environment),
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def add(self, *arguments: str) -> str:
        """Add a task and return its id."""
        answer = self.run("add", *arguments)
        assert answer.code == 0, answer
        return answer.out.strip()

    def type(
        self, *arguments: str, columns: int = 80, keys: str = "", **environment: str
    ) -> tuple[int, str]:
        """Run a command at a terminal, and type these keys; return code and screen."""
        master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            self.argv(*arguments),
            env=self.environment(TERM="xterm", **environment),
            cwd=self.base,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        os.write(master, keys.encode())
        text = b""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            select.select([master], [], [], 1)
            try:
                text += os.read(master, 65536)
            except OSError:  # EIO: the last one who had the terminal open is gone (pty(7))
                break
        os.close(master)
        return process.wait(timeout=LIMIT_S), text.decode().replace("\r\n", "\n")

    def leftovers(self) -> list[str]:
        """Return every lease, lock, result and cancel request on disk."""
        folders = [self.state / name for name in ("running", "results", "cancel")]
        return sorted(str(path) for folder in folders for path in folder.glob("*"))

    def digest(self) -> dict[str, str]:
        """Return a digest of every file below the base path; SQLite's -shm may change."""
        return {
            str(path.relative_to(self.base)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.base.rglob("*"))
            if path.is_file() and path.suffix != ".db-shm"
        } | {
            str(path.relative_to(self.base)): "a folder"
            for path in self.base.rglob("*")
            if path.is_dir()
        }

    def clean_up(self) -> None:
        """End everything that was started here; for the end of a test."""
        end_all_of(str(self.base), since=self._since)


def is_setting(name: str) -> bool:
    """Is this variable read by nobody before a command runs?"""
    is_own = name.startswith("TINYSCHEDULER_") and name != VARIABLE
    return is_own or name in {"HOME", "PATH"}


def settle_text(text: str, place: Place) -> str:
    """Replace what differs from run to run, and the widths that follow from it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = text.replace(str(place.base), "BASE")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\bpid \d+, start ticks \d+", "PID", text)
    text = re.sub(r"\bin \d+ ms", "in N ms", text)
    text = re.sub(r"\bwrapper \d+", "wrapper PID", text)
    text = re.sub(
        r"\b(?:in )?\d+[smhd](?: \d+[smhd])?(?: ago)?(?= |$|\))", "AGE", text, flags=re.MULTILINE
    )
    text = re.sub(r"\(\d\d:\d\d\)", "(CLOCK)", text)
    text = re.sub(r"(\S) {2,}", r"\1  ", text)
    return re.sub(r"  \d{2,}  AGE", "  PID  AGE", text)


def settle_json(value: Any, place: Place, key: str = "") -> Any:
    """Replace what differs from run to run in a document."""
    if isinstance(value, dict):
        return {name: settle_json(one, place, name) for name, one in value.items()}
    if isinstance(value, list):
        return [settle_json(one, place, key) for one in value]
    if value is None and key != "cpu_sec":  # known from the first heartbeat on
        return None
    if key in _VARYING:
        return f"<{key}>"
    return settle_text(value, place) if isinstance(value, str) else value


_VARYING = {
    "tick_id",
    "duration_ms",
    "lease_id",
    "pid",
    "host",
    "heartbeat_age_sec",
    "peak_rss_mb",
    "cpu_sec",
    "retry_after_sec",
    "load",
    "memoryTotalMB",
    "memoryUsedMB",
    "memoryAvailableMB",
    "cpuUsagePercent",
}


def compare(name: str, text: str) -> None:
    """Compare with a golden file; UPDATE_GOLDEN=1 in the environment writes it instead."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
