"""A base path to measure in, and the program as users start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

TOP = Path(__file__).resolve().parent.parent
PYTHON = str(TOP / ".venv" / "bin" / "python")
# As the launcher does it, without the shell before it: that is measured by itself.
PROGRAM = (PYTHON, "-I", str(TOP / "src" / "tinyscheduler" / "__main__.py"))
BARE = (PYTHON, "-I", "-c", "pass")
BAREST = (PYTHON, "-I", "-S", "-c", "pass")


class Place:
    """A scratch base path; all that runs there is ended with it."""

    def __init__(self, **settings: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="tinyscheduler-bench-"))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
            "TINYSCHEDULER_BASE_PATH": str(self.base),
            "TINYSCHEDULER_STAGGER_DELAY_MS": "0",
            "TINYSCHEDULER_MEMORY_PER_SLOT_MB": "1",
            **{f"TINYSCHEDULER_{name}": value for name, value in settings.items()},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel_all()
        shutil.rmtree(self.base, ignore_errors=True)

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """Return a command of the program."""
        return (*PROGRAM, *arguments)

    def run(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run a command, which must succeed, and return what it printed."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            input=stdin,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            message = f"{arguments} ended with {done.returncode}: {done.stderr.decode()}"
            raise SystemExit(message)
        return done.stdout.decode()

    def add(self, count: int, *command: str, **fields: object) -> list[str]:
        """Add that many tasks in one batch and return their ids."""
        line = json.dumps({"command": command, **fields}) + "\n"
        answer = self.run("add", "--from", "-", "--json", stdin=line.encode() * count)
        ids: list[str] = json.loads(answer)["task_ids"]
        return ids

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon and return once it holds its lock."""
        daemon = subprocess.Popen(
            self.argv("run", "--daemon"),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until((self.base / "state" / "daemon.lock").exists, "the daemon to start")
        return daemon

    def running(self) -> list[Path]:
        """Return the leases there are."""
        return list((self.base / "state" / "running").glob("task_*.json"))

    def cancel_all(self) -> None:
        """End every attempt."""
        for _ in range(200):
            ids = [path.stem.removeprefix("task_") for path in self.running()]
            if not ids:
                return
            subprocess.run(
                self.argv("cancel", *ids), env=self.environment, capture_output=True, check=False
            )
            subprocess.run(
                self.argv("run", "--once"), env=self.environment, capture_output=True, check=False
            )
            time.sleep(0.1)


def until(condition: Callable[[], object], what: str, *, limit_s: float = 600) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            message = f"gave up waiting for {what}"
            raise SystemExit(message)
        time.sleep(0.02)
