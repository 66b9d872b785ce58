"""The real tinytask servers, where somebody has built them.

TINYTASK_SERVER is the build/index.js of 2.0, TINYTASK_OLD_SERVER that of tinytask-mcp 1.0.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = os.environ.get("TINYTASK_SERVER")
OLD_SERVER = os.environ.get("TINYTASK_OLD_SERVER")
_START_S = 30.0


class RealServer:
    """One server process over one database file; ``mode`` is how its MCP interface is carried."""

    def __init__(self, program: str, folder: Path, *, mode: str = "http") -> None:
        self._program = program
        self._mode = mode
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> RealServer:
        environment = {
            "PATH": os.environ["PATH"],
            "TINYTASK_MODE": self._mode,
            "TINYTASK_HOST": "127.0.0.1",
            "TINYTASK_PORT": str(self._port),
            "TINYTASK_DB_PATH": str(self._folder / "tinytask.db"),
            "TINYTASK_LOG_LEVEL": "error",
        }
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["node", self._program],
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with urlopen(f"{self.url}/health", timeout=1):  # noqa: S310 - loopback
                    return self
            except (URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def running(self) -> Iterator[RealServer]:
        try:
            yield self.start()
        finally:
            self.stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
