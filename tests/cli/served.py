"""A base path whose tasks come from a tinytask server, which may be a double of it."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cli.loaded import run_loaded
from tests.cli.place import PROGRAM, Answer, Place
from tests.process.station import until

if TYPE_CHECKING:
    from tests.tinytask.double import Double

# Each attempt leaves a line in `ran`, so that a test sees what ran and how often.
AGENTS = r"""
agents:
  coder:
    queue: dev
    limit: 2
    command: [sh, -c, 'echo "$1 $2 coder" >> ran; cat "$3"; exec sh -c "$(cat do 2>/dev/null)"', sh,
      "{task_id}", "{attempt}", "{prompt_file}"]
  helper:
    queue: dev
    limit: 1
    command: [sh, -c, 'echo "$1 $2 helper" >> ran', sh, "{task_id}", "{attempt}"]
  cook:
    queue: kitchen
    limit: 1
    command: [cat, "{recipe}"]
"""


@dataclass(slots=True, kw_only=True)
class Served:
    """The place, the server, and ticks as a clock would make them: none but those asked for."""

    place: Place
    double: Double

    def __post_init__(self) -> None:
        (self.place.base / "agents.yaml").write_text(AGENTS)
        self.place.settings |= {
            "SOURCES": "tinytask",
            "MCP_ENDPOINT": self.double.url,
            "KICK": "0",
            "SOURCE_TIMEOUT_SEC": "0.5",
        }

    def run(self, *arguments: str, **settings: str) -> Answer:
        """Run any command, soon: none of these tests is about how a process is called."""
        done = run_loaded(
            self.place.argv(*arguments)[len(PROGRAM) :],
            environment=self.place.environment(**settings),
            cwd=self.place.base,
            stdin=b"",
            timeout_s=60,
        )
        return Answer(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def tick(self, *options: str, **settings: str) -> Answer:
        """Do one tick; its answer's `json` is the report."""
        return self.run("run", "--once", "--json", *options, **settings)

    def do(self, script: str) -> None:
        """Make this what every attempt of the coder does from now on."""
        (self.place.base / "do").write_text(script)

    @property
    def ran(self) -> list[str]:
        """What has run, in this order: number, attempt and agent."""
        try:
            return (self.place.base / "ran").read_text().splitlines()
        except FileNotFoundError:
            return []

    def leases(self) -> list[dict[str, Any]]:
        found = sorted((self.place.state / "running").glob("task_*.json"))
        return [json.loads(path.read_text()) for path in found]

    def until_ended(self, number: int = 1) -> None:
        """Wait until so many attempts have recorded their results."""
        results = self.place.state / "results"
        until(lambda: len(list(results.glob("*.json"))) >= number, f"{number} results")
        until(lambda: not self._held(), "the wrappers to let go")

    def _held(self) -> bool:
        pids = {lease["pid"] for lease in self.leases()}
        return any(os.path.exists(f"/proc/{pid}/fd/0") for pid in pids if pid)

    def until_running(self) -> dict[str, Any]:
        """Wait until an attempt's command runs, and return its lease."""
        until(lambda: self.ran, "an attempt to do something")

        def look() -> dict[str, Any] | None:
            return next((one for one in self.leases() if one["state"] == "running"), None)

        lease: dict[str, Any] = until(look, "an attempt to run")
        return lease

    def kill_wrapper(self, lease: dict[str, Any]) -> None:
        """Kill the wrapper as the kernel would, and wait until it is gone."""
        os.kill(lease["pid"], signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{lease['pid']}/fd/0"), "the wrapper to be gone")

    def finish(self, *numbers: int, limit: int = 40) -> None:
        """Tick until these tasks are complete at the server and nothing is left here."""
        for _ in range(limit):
            statuses = {self.double.task(number)["status"] for number in numbers}
            if statuses == {"complete"} and not self.place.leftovers():
                return
            self.tick()
            until(lambda: not self._is_busy(), "the attempts to end")
        raise AssertionError([self.double.task(number) for number in numbers])

    def _is_busy(self) -> bool:
        ended = {path.stem for path in (self.place.state / "results").glob("*.json")}
        return any(
            lease["lease_id"] not in ended and os.path.exists(f"/proc/{lease['pid']}/fd/0")
            for lease in self.leases()
            if lease["pid"]
        )
