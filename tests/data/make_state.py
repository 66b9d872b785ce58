"""Write a base path with everything in it that a version of the program leaves behind.

    PYTHONPATH=src:. .venv-dev/bin/python tests/data/make_state.py tests/data/state-v8

Run once per format of the state (the number is that of the database's tables), by the
program that writes it, and kept: what later versions must load is what that program
wrote, not what we remember of it.  Paths and names of the machine it ran on are replaced
by ``@BASE@``, ``@PYTHON@``, ``@HOST@`` and ``@BOOT@``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.mcp_server.clients import answers_at, call
from tests.tinytask.double import Double

REFUSED = "echo You have hit your usage limit. Try again in 3 days; exit 1"
AGENTS = f"""\
agents:
  writer: {{queue: words, limit: 1, command: [cat, '{{prompt_file}}']}}
  coder: {{queue: code, limit: 1, command: [cat, '{{prompt_file}}']}}
  poet: {{queue: poems, limit: 1, profile: claude, account: muse, command: [sh, -c, '{REFUSED}']}}
"""
SETTINGS = {
    "AGENT_LIMITS": "shell:3,writer:1",
    "STAGGER_DELAY_MS": "0",
    "RETRY_BASE_SEC": "86400",
    "RETRY_MAX_SEC": "864000",
    "HEARTBEAT_SEC": "0.2",
    "KICK": "false",
}
# What an agent says to the MCP server: a task with a part, a comment and a link, and one taken.
CALLS: tuple[tuple[str, dict[str, object]], ...] = (
    ("create_task", {"title": "the whole", "created_by": "ada"}),  # 16
    ("create_subtask", {"parent_task_id": 16, "title": "a part", "created_by": "ada"}),  # 17
    ("add_comment", {"task_id": 16, "content": "half of it is done", "created_by": "ada"}),
    ("add_link", {"task_id": 16, "url": "https://example.org/", "created_by": "ada"}),
    ("create_task", {"title": "taken", "created_by": "ada", "assigned_to": "ada"}),  # 18
    ("signup_for_task", {"agent_name": "ada"}),
)
LIMIT_S = 30.0
FULL = (
    *("--title", "everything that can be asked for", "--priority", "7", "--class", "interactive"),
    *("--gpus", "2", "--vram", "14G", "--memory", "2G", "--model", "llama-7b", "--seed", "42"),
    *("--tenant", "team-a", "--project", "apollo", "--max-runtime", "1h", "--max-turns", "20"),
    *("--max-attempts", "2", "--label", "to=moon", "--env", "COLOUR=blue", "--hold"),
)


class Scene:
    """A scratch base path, and the commands typed there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        (base / "agents.yaml").write_text(AGENTS)

    def type(self, *arguments: str, stdin: str = "", **more: str) -> str:
        """Run a command; what it prints is all that matters, not how it ends."""
        settings = {f"TINYSCHEDULER_{name}": value for name, value in (SETTINGS | more).items()}
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/", **settings}
        argv = [sys.executable, "-I", "-m", "tinyscheduler", "--base-path", str(self.base)]
        return subprocess.run(
            [*argv, *arguments],
            env=environment,
            cwd="/",
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def state_of(self, task_id: str) -> str:
        state: str = json.loads(self.type("show", task_id, "--json"))["state"]
        return state

    def until(self, task_id: str, *states: str) -> None:
        """Wait for the task to stand so."""
        deadline = time.monotonic() + LIMIT_S
        while self.state_of(task_id) not in states:
            if time.monotonic() > deadline:
                raise SystemExit(f"task {task_id} is {self.state_of(task_id)}, not {states}")
            time.sleep(0.05)

    def until_ended(self, number: int) -> None:
        """Wait for the results of so many attempts."""
        deadline = time.monotonic() + LIMIT_S
        while len(list((self.base / "state" / "results").glob("*.json"))) < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"fewer than {number} attempts have ended")
            time.sleep(0.05)

    def leases(self) -> list[dict[str, Any]]:
        files = sorted((self.base / "state" / "running").glob("task_*.json"))
        return [json.loads(file.read_text()) for file in files]


def play(scene: Scene) -> None:
    """Leave tasks in every state, and attempts that a power cut ended."""
    for command in (["echo", "hello"], ["false"], ["false"]):
        most = ["--max-attempts", "1"] if command == ["false"] else []
        scene.type("add", *most, "--", *command)
    with Double().running() as server:
        elsewhere = {"SOURCES": "local,tinytask", "MCP_ENDPOINT": server.url}
        server.add("of somebody else")
        server.add("after that", assigned_to="coder", blocked_by_task_id=1)  # tinytask-2 waits
        server.add("copy it", assigned_to="writer")  # tinytask-3 done
        server.add("ask the muse", assigned_to="poet")  # tinytask-4, whose account cools
        scene.type("run", **elsewhere)  # 1 done, 2 and 3 parked
        scene.until_ended(5)
        scene.type("run", **elsewhere)
    scene.type("cancel", "3")
    scene.type("add", "--", "sh", "-c", "exit 3")  # 4 fails, and backs off for a day
    scene.type("run")
    scene.until("4", "settling")
    scene.type("run")
    scene.type("add", "--hold", "--", "true")  # 5
    scene.type("add", "--not-before", "2099-01-01T00:00Z", "--", "true")  # 6
    scene.type("add", *FULL, "--", "env")  # 7
    scene.type("add", "--", "sleep", "1000")  # 8 runs when the power goes
    scene.type("add", "--", "sleep", "1000")  # 9 too, and was to be cancelled
    scene.type("add", "--agent", "writer", "--prompt", "write a poem\n")  # 10 ended unsettled
    scene.type("run")
    scene.until("8", "running")
    scene.until("9", "running")
    scene.until("10", "settling")
    lines = [
        {"key": "fetch", "command": ["echo", "data"]},  # 11
        {"key": "count", "command": ["wc"], "after": ["fetch"], "labels": {"step": "2"}},  # 12
        {"queue": "words", "prompt": "ünïcödé ✓", "after": [8]},  # 13
        {"agent": "coder", "prompt": "mend it"},  # 14, whose agent is paused
    ]
    scene.type("add", "--from", "-", stdin="\n".join(map(json.dumps, lines)))
    pull_the_plug(scene)
    scene.type("cancel", "9")
    scene.type("pause", "agent:coder", "--reason", "key expired")
    every = ("schedule", "add", "--name", "nightly", "--cron", "0 3 * * *", "--tz", "Asia/Tokyo")
    scene.type(*every, "--overlap", "queue_all", "--max-run-duration", "5m", "--", "true")
    scene.type("schedule", "run", "nightly")  # 15, a firing
    scene.type("schedule", "add", "--name", "paused", "--every", "2h", "--", "false")
    scene.type("schedule", "pause", "paused")
    beats = ("schedule", "add", "--name", "beats", "--every", "2h", "--agent", "writer")
    listed = ("--kind", "heartbeat", "--checklist", "/srv/list.md", "--max-per-day", "3")
    scene.type(*beats, *listed, "--max-turns", "20", "--project", "home")
    scene.type("schedule", "edit", "beats", "--max-turns", "30")
    scene.type("pressure", "on", "--id", "chat", "--ttl", "1h")
    answers = answers_at(scene.base)
    for name, arguments in CALLS:
        call(answers, name, **arguments)


def pull_the_plug(scene: Scene) -> None:
    """Kill wrappers and commands at one blow, as the loss of power does."""
    for lease in scene.leases():
        for number in (lease["pid"], lease["process"]["pgid"]):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue


def anonymise(base: Path, folder: Path) -> None:
    """Copy the state without a trace of the machine it was made on."""
    # What the kernel no longer vouches for: of the machine, and written afresh anyway.
    shutil.copytree(
        base,
        folder,
        ignore=shutil.ignore_patterns("config-cache.json", "kick", "*-shm", "*-wal"),
    )
    traces = {
        str(base): "@BASE@",
        sys.executable: "@PYTHON@",
        socket.gethostname(): "@HOST@",
        Path("/proc/sys/kernel/random/boot_id").read_text().strip(): "@BOOT@",
    }
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".db":
            text = path.read_text()
            for trace, stand_in in traces.items():
                # As a word: a machine may be called like a part of one.
                text = re.sub(rf"(?<!\w){re.escape(trace)}(?!\w)", stand_in, text)
            path.write_text(text)
    with closing(sqlite3.connect(folder / "state" / "tinyscheduler.db")) as database:
        database.execute("UPDATE attempts SET log = replace(log, ?, '@BASE@')", (str(base),))
        database.execute(
            "UPDATE task_specs SET details = replace(details, ?, '@BASE@')", (str(base),)
        )
        database.commit()
        database.execute("VACUUM")


def main(name: str) -> None:
    """Play the scene somewhere else and keep what it leaves."""
    folder = Path(name)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        base.mkdir()
        scene = Scene(base)
        play(scene)
        # A database at rest: the last one to close it puts the log into the file.
        with closing(sqlite3.connect(base / "state" / "tinyscheduler.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if folder.exists():
            shutil.rmtree(folder)
        anonymise(base, folder)


if __name__ == "__main__":
    main(sys.argv[1])
