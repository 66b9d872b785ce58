"""A night with a tinytask server: its tasks each run to their end, whatever dies meanwhile.

Tasks of three queues with priorities, blockers and subtasks, four agents, wrappers killed at
random, and the server restarted twice.  In the end each task is complete, once, or set aside with a
comment that says so; none is at work; nothing ran beside itself, before its blocker or out of
its turn.  The server is the double of the tests, which cuts answers off now and then, or with
``--server build/index.js`` the real one; with ``--over old`` it is one of version 1, which has
MCP alone, and no queues, blockers or subtasks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from tests.process.station import QUICK
from tests.tinytask.conversation import ask
from tests.tinytask.double import Double, Fault, Speaks
from tests.tinytask.real import RealServer

from tinyscheduler.adapters.tinytask.mcp_session import SSE, McpSession
from tinyscheduler.adapters.tinytask.questions import NoSessionError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 900.0
OUTAGE_S = 3.0
SERVER_RESTARTS = 2
# How often a task is tried; some are killed more often than they may fail.
MOST_ATTEMPTS = 4
# Each attempt takes a lock that dies with it, so that one beside another is seen by both.
COMMAND = """
exec 9>>locks/$1; flock -n 9 || echo "beside $1" >> journal
echo "start $1 $2 $3" >> journal
sleep $(cut -d' ' -f1 work/$1); code=$(cut -d' ' -f2 work/$1)
[ "$code" = flaky ] && { [ $2 -gt 1 ] && code=0 || code=3; }
echo "end $1 $2 $code" >> journal; exit $code
"""
AGENTS = {
    "coder": ("dev", 3),
    "helper": ("dev", 1),
    "tester": ("test", 3),
    "writer": ("docs", 2),
}
_FAULTS = (
    Fault.CUT_AT_CONNECT,
    Fault.CUT_IN_HEADERS,
    Fault.CUT_IN_BODY,
    Fault.CUT_AFTER_WRITE,
    Fault.SERVER_ERROR,
)


@dataclass(slots=True, kw_only=True)
class Figures:
    """What a night counted."""

    tasks: int = 0
    complete: int = 0
    parked: int = 0
    attempts: int = 0
    killed: int = 0
    ticks: int = 0
    ticks_down: int = 0
    faults: int = 0
    questions: int = 0
    seconds: float = 0.0

    def words(self) -> str:
        return (
            f"{self.tasks} tasks: {self.complete} complete, {self.parked} parked;"
            f" {self.attempts} attempts, {self.killed} wrappers killed, {self.ticks} ticks,"
            f" {self.ticks_down} of them with the server down, {self.faults} answers spoilt of"
            f" {self.questions} ({self.seconds:.0f} s)"
        )


class Carrier(StrEnum):
    """What the server is, and what the scheduler asks it over."""

    REST = "rest"
    HTTP = "http"  # MCP, over streamable HTTP
    SSE = "sse"  # MCP, over SSE
    OLD = "old"  # a server of version 1: MCP over SSE, neither queues, blockers nor subtasks


class People:
    """Those who make the tasks, and look at them in the morning."""

    def __init__(self, url: str, *, is_old: bool) -> None:
        self._url = url
        self.is_old = is_old

    def create(self, fields: dict[str, Any]) -> int:
        if self.is_old:
            return int(self._use("create_task", fields)["id"])
        status, task = ask(self._url, "POST", "/api/v1/tasks", fields)
        assert status == 201, task
        return int(task["id"])

    def told(self) -> list[dict[str, Any]]:
        if self.is_old:
            tasks = self._use("list_tasks", {"include_archived": True, "limit": 10_000})["tasks"]
            return [{"parent_task_id": None, "queue_name": None, **task} for task in tasks]
        return self._read("/api/v1/tasks?include_archived=true")

    def comments(self, number: int) -> list[str]:
        if self.is_old:
            found = self._use("get_task", {"id": number})["comments"]
        else:
            found = self._read(f"/api/v1/tasks/{number}/comments")
        return [one["content"] for one in found]

    def _read(self, path: str) -> list[dict[str, Any]]:
        """Ask for a list; once more where an answer was spoilt that was meant for a tick."""
        for _ in range(20):
            with suppress(OSError, HTTPException, ValueError):
                status, found = ask(self._url, "GET", path)
                if status == HTTPStatus.OK and isinstance(found, list):
                    return found
        raise AssertionError(path)

    def _use(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Use a tool; once more where the server was just restarted, or an answer spoilt."""
        for _ in range(20):
            with suppress(TransientError, NoSessionError), closing(self._session()) as session:
                text, is_error = session.call(tool, arguments, limit_s=10)
                assert not is_error, text
                return json.loads(text)
        raise AssertionError(tool)

    def _session(self) -> McpSession:
        return McpSession(self._url + "/mcp", limit_s=10, transport=SSE)


@dataclass(slots=True, kw_only=True)
class Night:
    """One base path, one server, and what was asked for."""

    folder: Path
    server: Double | RealServer
    people: People
    carrier: Carrier
    draw: random.Random
    tasks: int
    parents: set[int] = field(default_factory=set)
    blocked_by: dict[int, int] = field(default_factory=dict)
    poison: set[int] = field(default_factory=set)
    figures: Figures = field(default_factory=Figures)
    restarts: int = 0
    is_down: bool = False

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def environment(self) -> dict[str, str]:
        settings = {
            **QUICK,
            "SOURCES": "tinytask",
            "MCP_ENDPOINT": self.server.url + _PATHS[self.carrier],
            "MAX_ATTEMPTS": str(MOST_ATTEMPTS),
            "SOURCE_TIMEOUT_SEC": "3",
            "LOST_AFTER_SEC": "3",
        }
        return {
            **{f"TINYSCHEDULER_{name}": value for name, value in settings.items()},
            "PATH": os.environ["PATH"],
            "HOME": str(self.base),
        }

    def prepare(self) -> None:
        for name in ("base/work", "base/locks"):
            (self.folder / name).mkdir(parents=True)
        argv = json.dumps(["sh", "-c", COMMAND, "sh", "{task_id}", "{attempt}", "{agent}"])
        lines = [
            f"  {name}: {{queue: {queue}, limit: {limit}, command: {argv}}}"
            for name, (queue, limit) in AGENTS.items()
        ]
        (self.base / "agents.yaml").write_text("agents:\n" + "\n".join(lines) + "\n")
        while len(self.all_numbers()) < self.tasks:
            self._add(parent=None)

    def all_numbers(self) -> list[int]:
        return [int(path.name) for path in (self.base / "work").iterdir()]

    def _add(self, parent: int | None) -> None:
        fields: dict[str, Any] = {"priority": self.draw.randint(-2, 5)}
        if self.people.is_old or self.draw.random() < 0.5:
            fields["assigned_to"] = self.draw.choice(list(AGENTS))
        else:
            fields["queue_name"] = self.draw.choice([queue for queue, _ in AGENTS.values()])
        known = self.all_numbers()
        blockers = [one for one in known if one not in self.poison and one not in self.parents]
        if parent is not None:
            fields["parent_task_id"] = parent
        elif blockers and not self.people.is_old and self.draw.random() < 0.2:
            fields["blocked_by_task_id"] = self.draw.choice(blockers)
        number = self._create(fields)
        if "blocked_by_task_id" in fields:
            self.blocked_by[number] = fields["blocked_by_task_id"]
        kind = self.draw.random()
        code = "3" if kind < 0.04 and parent is None else "flaky" if kind < 0.14 else "0"
        if code == "3":
            self.poison.add(number)
        (self.base / "work" / str(number)).write_text(f"{self.draw.random() / 5:.2f} {code}\n")
        is_plain = (
            not self.people.is_old
            and parent is None
            and code == "0"
            and number not in self.blocked_by
        )
        if is_plain and self.draw.random() < 0.08:
            self.parents.add(number)
            for _ in range(self.draw.randint(1, 3)):
                self._add(parent=number)

    def _create(self, fields: dict[str, Any]) -> int:
        body = {"title": f"task {len(self.all_numbers())}", "created_by": "ann", **fields}
        return self.people.create(body)

    def live(self) -> None:
        """Tick as a clock would until all is over, while others kill, restart and spoil."""
        began = time.monotonic()
        is_over = Event()
        others = [
            Thread(target=self._repeat, args=(is_over, does))
            for does in (self._kill_some, self._spoil, self._restart_server)
        ]
        for one in others:
            one.start()
        try:
            while not self._is_over() and time.monotonic() - began < LIMIT_S:
                self._tick()
        finally:
            is_over.set()
            for one in others:
                one.join()
        if isinstance(self.server, Double):
            self.server.behave()
        self._drain()
        self.figures.seconds = time.monotonic() - began

    def _repeat(self, is_over: Event, does: Callable[[], None]) -> None:
        while not is_over.wait(0.2):
            does()

    def _restart_server(self) -> None:
        """Stop the server when a third of the tasks has been tried, and when two thirds have."""
        ended = sum(line.startswith("end") for line in self.journal())
        if self.restarts < SERVER_RESTARTS and ended >= self.tasks * (self.restarts + 1) // 3:
            self.restarts += 1
            self.is_down = True
            self.server.stop()
            time.sleep(OUTAGE_S)
            self.server.start()
            self.is_down = False

    def _tick(self) -> None:
        done = self._run("run", "--once", "--json")
        self.figures.ticks += 1
        self.figures.ticks_down += done.returncode == 69
        assert done.returncode in {0, 1, 69}, done.stderr

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [
                sys.executable,
                "-I",
                "-m",
                "tinyscheduler",
                "--base-path",
                str(self.base),
                *arguments,
            ],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def _spoil(self) -> None:
        if isinstance(self.server, Double):
            self.figures.faults += sum(one.times < 1 for one in self.server.misbehaviours)
            self.server.behave()
            if self.draw.random() < 0.1:
                times, spared = self.draw.choice((1, 1, 3)), self.draw.randrange(12)
                self.server.misbehave(self.draw.choice(_FAULTS), times=times, spared=spared)

    def _kill_some(self) -> None:
        for lease in self._leases():
            if self.draw.random() < 0.02 and lease["pid"]:
                with suppress(ProcessLookupError):
                    os.kill(lease["pid"], signal.SIGKILL)
                    self.figures.killed += 1

    def _leases(self) -> Iterator[dict[str, Any]]:
        for path in (self.base / "state" / "running").glob("task_*.json"):
            with suppress(OSError, ValueError):
                yield json.loads(path.read_text())

    def _is_over(self) -> bool:
        if self.is_down or any(self._leases()):
            return False
        parked = self.parked()
        return all(
            task["status"] == "complete" or task["id"] in parked or self._is_stuck(task, parked)
            for task in self.told()
        )

    def _is_stuck(self, task: dict[str, Any], parked: set[int]) -> bool:
        """Whether a task waits for one that is parked, here or further up."""
        blocker = self.blocked_by.get(task["id"])
        children = [one for one in self.told() if one["parent_task_id"] == task["id"]]
        if any(child["id"] in parked for child in children):
            return True
        return blocker is not None and (
            blocker in parked
            or (blocker in self.blocked_by and self._chain(blocker) & parked != set())
        )

    def _chain(self, number: int) -> set[int]:
        found: set[int] = set()
        while number in self.blocked_by:
            number = self.blocked_by[number]
            found.add(number)
        return found

    def told(self) -> list[dict[str, Any]]:
        return self.people.told()

    def parked(self) -> set[int]:
        listed = json.loads(
            self._run("list", "--state", "parked", "--limit", "1000", "--json").stdout
        )
        return {int(one["task_id"].removeprefix("tinytask-")) for one in listed["tasks"]}

    def _drain(self) -> None:
        """Let the kicked ticks end that the last attempts made."""
        deadline = time.monotonic() + 10
        while any((self.base / "state" / "running").glob("task_*")) and time.monotonic() < deadline:
            self._tick()

    def journal(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self.base / "journal").read_text().splitlines()
        return []

    # -- the verdict --------------------------------------------------------------------

    def judge(self) -> list[str]:
        tasks = {task["id"]: task for task in self.told()}
        parked = self.parked()
        lines = [line.split() for line in self.journal()]
        starts = Counter(int(line[1]) for line in lines if line[0] == "start")
        self.figures.tasks = len(tasks)
        self.figures.complete = sum(one["status"] == "complete" for one in tasks.values())
        self.figures.parked = len(parked)
        self.figures.attempts = starts.total()
        self.figures.questions = len(self.server.asked) if isinstance(self.server, Double) else 0
        found = [f"task {line[1]} ran beside itself" for line in lines if line[0] == "beside"]
        for number, task in tasks.items():
            found += self._judge_one(number, task, parked=parked, starts=starts[number])
        found += self._judge_blocking(lines)
        found += self._judge_order(tasks)
        return found

    def _judge_one(
        self, number: int, task: dict[str, Any], *, parked: set[int], starts: int
    ) -> list[str]:
        found = []
        texts = self.people.comments(number)
        successes = sum(" succeeded" in text for text in texts)
        marks = Counter(text.rpartition("(lease ")[2] for text in texts)
        if task["status"] == "working":
            found.append(f"task {number} is working, and nobody works")
        elif task["status"] == "idle" and number in parked:
            if not any("set aside here" in text for text in texts):
                found.append(f"task {number} is parked without a comment")
        elif task["status"] == "idle" and not self._is_stuck(task, parked):
            found.append(f"task {number} is left idle")
        elif task["status"] == "complete" and number not in self.parents and successes != 1:
            found.append(f"task {number} is complete, and succeeded {successes} times")
        if number in self.parents and starts:
            found.append(f"parent {number} ran beside its subtasks")
        if number in self.poison and starts > MOST_ATTEMPTS:
            found.append(f"task {number} was tried {starts} times")
        found += [f"task {number}: a comment is there twice" for one in marks.values() if one > 1]
        return found

    def _judge_blocking(self, lines: list[list[str]]) -> list[str]:
        """Return who started before its blocker had ended well."""
        done: set[int] = set()
        found = []
        for word, number, *more in lines:
            if word == "end" and more[1] == "0":
                done.add(int(number))
            blocker = self.blocked_by.get(int(number))
            if word == "start" and blocker is not None and blocker not in done:
                found.append(f"task {number} started before {blocker} was done")
        return found

    def _judge_order(self, tasks: dict[int, dict[str, Any]]) -> list[str]:
        """Return who was passed by: of each line those that were in nobody's way or debt."""
        events = (self.base / "state" / "logs" / "events.jsonl").read_text().splitlines()
        order = [
            int(event["task_id"].removeprefix("tinytask-"))
            for event in map(json.loads, events)
            if event["event"] == "task.started" and event["attempt"] == 1
        ]
        # Whose claim failed with the server lost its turn, and was told so.
        words = "".join(
            path.read_text() for path in (self.base / "state" / "logs").glob("scheduler_*.log")
        )
        failed = {int(number) for number in re.findall(r'where="task tinytask-(\d+)"', words)}
        plain = {
            number
            for number in tasks.keys() - failed
            if number not in self.parents
            and number not in self.blocked_by
            and number not in set(self.blocked_by.values())
        }
        line_of = self._line_of
        lines: dict[tuple[str, str], list[int]] = {}
        for number in dict.fromkeys(order):
            if number in plain:
                lines.setdefault(line_of[number], []).append(number)
        found = []
        for line, numbers in lines.items():
            wanted = sorted(numbers, key=lambda one: (-tasks[one]["priority"], one))
            passed = sum(one != other for one, other in zip(numbers, wanted, strict=True))
            if passed:
                found.append(f"{line}: {passed} of {len(numbers)} out of turn: {numbers} {wanted}")
        return found

    @property
    def _line_of(self) -> dict[int, tuple[str, str]]:
        """In which line each task stood at first: who runs it is written into it later."""
        text = (self.folder / "lines.json").read_text()
        lines: dict[int, tuple[str, str]] = json.loads(text, object_hook=_pairs)
        return lines

    def note_lines(self) -> None:
        lines = {
            task["id"]: ("agent", task["assigned_to"])
            if task["assigned_to"]
            else ("queue", task["queue_name"])
            for task in self.told()
        }
        (self.folder / "lines.json").write_text(json.dumps(lines))


_PATHS = {Carrier.REST: "", Carrier.HTTP: "/mcp", Carrier.SSE: "/mcp", Carrier.OLD: ""}
_SPEAKS = {
    Carrier.REST: Speaks.REST,
    Carrier.HTTP: Speaks.REST,
    Carrier.SSE: Speaks.SSE,
    Carrier.OLD: Speaks.OLD,
}


def _pairs(document: dict[str, Any]) -> dict[int, tuple[str, str]]:
    return {int(key): (value[0], value[1]) for key, value in document.items()}


def live_through(
    folder: Path,
    *,
    seed: int,
    tasks: int = 200,
    program: str | None = None,
    carrier: Carrier = Carrier.REST,
) -> tuple[list[str], Figures]:
    """Live through one night; return what was wrong, and what was counted."""
    server: Double | RealServer = Double(speaks=_SPEAKS[carrier])
    if program is not None:
        mode = "sse" if carrier in (Carrier.SSE, Carrier.OLD) else "http"
        server = RealServer(program, folder, mode=mode)
    with server.running():
        night = Night(
            folder=folder,
            server=server,
            people=People(server.url, is_old=carrier is Carrier.OLD),
            carrier=carrier,
            draw=random.Random(seed),
            tasks=tasks,
        )
        night.prepare()
        night.note_lines()
        night.live()
        return night.judge(), night.figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--server", help="build/index.js of a real tinytask; the double if not given"
    )
    parser.add_argument(
        "--over",
        type=Carrier,
        choices=list(Carrier),
        default=Carrier.REST,
        metavar="WHAT",
        help="what it is asked over: rest; http or sse, which are MCP; old: a server of version 1",
    )
    options = parser.parse_args()
    violations = 0
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="sources-"))
        found, figures = live_through(
            folder,
            seed=options.seed + number,
            tasks=options.tasks,
            program=options.server,
            carrier=options.over,
        )
        for words in found:
            print(f"round {number}: {words} ({folder} is kept)")
        if not found:
            shutil.rmtree(folder)
        violations += len(found)
        kind = "the double" if options.server is None else "the real server"
        print(f"round {number}, {kind}, {options.over}: {figures.words()}: {len(found)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
