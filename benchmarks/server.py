"""What does a task source cost that is a server?  The double of the tests, or a real tinytask.

TINYTASK_SERVER names the build/index.js of a real one.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tinytask.conversation import ask
from tests.tinytask.double import Double
from tests.tinytask.real import RealServer

from benchmarks.measure import Ratio, command, compare
from benchmarks.place import PROGRAM, PYTHON, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 25
FEW, MANY = 100, 10_000
# What any program pays that asks a server by means of it.
WITH_REQUESTS = f"""
import requests, runpy, sys
sys.argv = ["tinyscheduler", "run", "--once"]
runpy.run_path({PROGRAM[-1]!r}, run_name="__main__")
"""
# Nothing starts, so that each tick finds what the one before it found.
AGENTS = """
agents:
  coder: {queue: dev, limit: 0, command: ["true"]}
  tester: {queue: test, limit: 0, command: ["true"]}
"""


def tinytask() -> Iterator[Ratio]:
    """A tick that asks a tinytask server where nothing waits, where some do, and many."""
    with ExitStack() as stack:
        without = stack.enter_context(Place())
        plain = command(PYTHON, "-I", "-c", WITH_REQUESTS, environment=without.environment)
        yield compare(
            "idle tick, tinytask",
            _tick(stack, tasks=0),
            plain,
            against="local alone + import requests",
            rounds=ROUNDS,
            bar=1.5,
        )
        yield compare(
            f"tick, {MANY:,} idle at tinytask",
            _tick(stack, tasks=MANY),
            _tick(stack, tasks=FEW),
            against=f"{FEW} idle",
            rounds=ROUNDS,
            bar=1.3,
        )


def _tick(stack: ExitStack, *, tasks: int) -> Callable[[], object]:
    """Return a tick at a place of its own, beside a server that has so many tasks."""
    program = os.environ.get("TINYTASK_SERVER")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = Double() if program is None else RealServer(program, folder)
    stack.enter_context(server.running())
    for number in range(tasks):
        body = {"title": f"task {number}", "description": "d" * 200, "created_by": "me"}
        body |= {"assigned_to": "coder"} if number % 2 else {"queue_name": "test"}
        if isinstance(server, Double):
            server.ask("POST", "/api/v1/tasks", body)
        else:
            ask(server.url, "POST", "/api/v1/tasks", body)
    place = stack.enter_context(Place(SOURCES="local,tinytask", MCP_ENDPOINT=server.url))
    (place.base / "agents.yaml").write_text(AGENTS)
    return command(*place.argv("run", "--once"), environment=place.environment)
