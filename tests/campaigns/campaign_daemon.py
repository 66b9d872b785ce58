"""A day of the daemon: as many ticks as a day has minutes, and nothing piles up in it.

A real ``run --daemon`` with a short interval serves real short tasks, while wrappers are
killed, tasks cancelled, its configuration changed and broken, SIGHUP sent, files spoiled
and the database replaced.  Judged are its memory, descriptors, threads, watches and
unreaped children at the end against those after a tenth of the day, temporary files, and
that every task ended as it should.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.campaigns.measuring import Process, measure_process, measure_state
from tests.process.station import PYTHON, Station, until, wrappers

from tinyscheduler.adapters.tick_lock_file import FileTickLock
from tinyscheduler.model.tasks import TaskSpec, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTES_OF_A_DAY = 1440
TENTHS = 10
SETTLE_S = 60
SLACK_RESIDENT = 3 * 2**20
# At any moment a tick may be at work, so the least of several looks counts.
LOOKS = 25
LOOK_S = 0.04
SLACK_DESCRIPTORS = 0
AGENTS_FILE = 'agents:\n  worker: {{limit: {limit}, command: ["sh", "-c", "{{command}}"]}}\n'
BROKEN = ("agents: [", "agents:\n  worker: {limit: many}\n", "", "\0\0\0", "nobody: 1\n")
BODIES = (
    ("true", TaskState.DONE),
    ("sleep 0.2", TaskState.DONE),
    ("(setsid sleep 100 &) ; sleep 0.05", TaskState.DONE),
    ("head -c 200000 /dev/zero", TaskState.DONE),
    ("exit 1", TaskState.PARKED),
)


@dataclass(eq=False, slots=True, kw_only=True)
class Day:
    """One daemon and all that is done around it."""

    folder: Path
    seed: int
    ticks: int
    interval_s: float = 0.1
    looks: int = LOOKS
    is_told: bool = False
    station: Station = field(init=False)
    draw: random.Random = field(init=False)
    wanted: dict[str, TaskState | None] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    ticked: int = 0
    complaints: list[str] = field(default_factory=list)
    seen: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the base path."""
        base = self.folder / "base"
        (base / "tmp").mkdir(parents=True)
        (base / "agents.yaml").write_text(AGENTS_FILE.format(limit=3))
        settings = {
            "MAX_CONCURRENT_SLOTS": "4",
            "MAX_ATTEMPTS": "2",
            "LOG_MAX_MB": "1",
            "RETRY_MAX_SEC": "0.2",
        }
        self.station = Station(base, settings)
        self.draw = random.Random(self.seed)

    def run(self) -> list[str]:
        """Let the day pass and return every violation in words."""
        daemon = self._start()
        reader = threading.Thread(target=self._count_ticks, args=(daemon,))
        reader.start()
        found: list[str] = []
        try:
            for tenth in range(1, TENTHS + 1):
                self._live_until(daemon, self.ticks * tenth // TENTHS)
                if daemon.poll() is not None:
                    break
                self.seen.append(self._measure(daemon))
                if self.is_told:
                    state = measure_state(self.station.state)
                    print(f"{self.ticked} ticks: {self.describe()}", flush=True)
                    temporary = len(self._temporary_files())
                    print(f"  {self.seen[-1]}, {temporary} temporary files", flush=True)
                    print(f"  {state}", flush=True)
            found += self._settle()
        finally:
            if daemon.poll() is None:
                daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=60)
            if daemon.poll() is None:
                found.append("the daemon did not end within a minute of SIGTERM")
                daemon.kill()
                daemon.wait()
            reader.join()
            self.station.clean_up()
        if daemon.returncode != 0:
            found.append(f"the daemon ended with {daemon.returncode}")
        return found + self._judge()

    def describe(self) -> str:
        """Return what was done around it, in one line."""
        done = ", ".join(f"{number} {name}" for name, number in sorted(self.done.items()))
        return f"{len(self.wanted)} tasks; {done}"

    # -- the daemon ---------------------------------------------------------------

    def _start(self) -> subprocess.Popen[str]:
        base = self.station.base
        environment = self.station.environment() | {
            "TINYSCHEDULER_LOOP_INTERVAL_SEC": str(self.interval_s),
            "TMPDIR": str(base / "tmp"),
        }
        argv = [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", str(base)]
        with (base / "errors").open("w") as errors:
            return subprocess.Popen(
                [*argv, "run", "--daemon", "--json"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _count_ticks(self, daemon: subprocess.Popen[str]) -> None:
        """Count the reports: one document each, whose first line is a brace."""
        assert daemon.stdout is not None
        with daemon.stdout:
            for line in daemon.stdout:
                self.ticked += line.startswith("{")

    def _measure(self, daemon: subprocess.Popen[str]) -> Process:
        """Look until nothing is under way that would be gone a moment later."""
        looks = []
        for _ in range(self.looks):
            looks.append(measure_process(daemon.pid))
            time.sleep(LOOK_S)
        return Process(
            resident_bytes=sorted(look.resident_bytes for look in looks)[self.looks // 2],
            descriptors=min(look.descriptors for look in looks),
            threads=min(look.threads for look in looks),
            watches=min(look.watches for look in looks),
            zombies=min(look.zombies for look in looks),
        )

    # -- what happens around it ---------------------------------------------------

    def _live_until(self, daemon: subprocess.Popen[str], ticks: int) -> None:
        """Do one thing after the other, each when the daemon has ticked a few times more."""
        while self.ticked < ticks and daemon.poll() is None:
            # What looked at the queue before is only then closed: a connection is part of a cycle.
            gc.collect()
            before = self.ticked
            name, action = self._next(daemon)
            action()
            self.done[name] += 1
            deadline = time.monotonic() + SETTLE_S
            while self.ticked < before + 3 and daemon.poll() is None:
                if time.monotonic() > deadline:
                    self.complaints.append(f"no tick within {SETTLE_S} s after {name}")
                    daemon.kill()
                    return
                time.sleep(0.01)

    def _next(self, daemon: subprocess.Popen[str]) -> tuple[str, Callable[[], None]]:
        return self.draw.choices(
            [
                ("additions", self._add),
                ("cancellations", self._cancel),
                ("hangups", lambda: daemon.send_signal(signal.SIGHUP)),
                ("changes of agents.yaml", self._change_agents),
                ("broken agents.yaml", self._break_agents),
                ("changes of .env", self._change_env_file),
                ("spoiled memories", self._spoil_memory),
                ("killed wrappers", self._kill_wrapper),
                ("replaced databases", self._replace_database),
                ("pressure folders", self._touch_pressure),
            ],
            weights=[12, 3, 3, 2, 1, 1, 1, 1, 0.4, 1],
        )[0]

    def _add(self) -> None:
        chosen = [self.draw.choice(BODIES) for _ in range(self.draw.randint(1, 4))]
        specs = [
            (None, TaskSpec(agent="worker", command=("sh", "-c", body), cwd=str(self._base)))
            for body, _ in chosen
        ]
        ids = self.station.queue().tasks.add(specs)
        for task_id, (_, state) in zip(ids, chosen, strict=True):
            self.wanted[task_id] = state

    def _cancel(self) -> None:
        """Cancel something that runs for long."""
        spec = TaskSpec(agent="worker", command=("sleep", "1000"), cwd=str(self._base))
        (task_id,) = self.station.queue().tasks.add([(None, spec)])
        self.wanted[task_id] = TaskState.CANCELLED
        answer = self.station.run("cancel", task_id)
        if answer.returncode != 0:
            self.complaints.append(f"cancel {task_id}: {answer.stderr}")

    def _change_agents(self) -> None:
        self._write_agents(AGENTS_FILE.format(limit=self.draw.randint(1, 4)))

    def _break_agents(self) -> None:
        self._write_agents(self.draw.choice(BROKEN))
        time.sleep(3 * self.interval_s)
        self._change_agents()

    def _write_agents(self, text: str) -> None:
        new = self._base / "agents.yaml.new"
        new.write_text(text)
        new.replace(self._base / "agents.yaml")

    def _change_env_file(self) -> None:
        level = self.draw.choice(("DEBUG", "INFO", "LOUD"))
        (self._base / ".env").write_text(f"TINYSCHEDULER_LOG_LEVEL={level}\n")
        if level == "LOUD":
            time.sleep(3 * self.interval_s)
            (self._base / ".env").unlink()

    def _spoil_memory(self) -> None:
        (self.station.state / "scheduler.json").write_text("{")

    def _kill_wrapper(self) -> None:
        """Kill what no task will end badly for: one more attempt is left to it, or none."""
        pids = wrappers(str(self._base))
        if not pids:
            return
        with suppress(ProcessLookupError):
            os.kill(self.draw.choice(pids), signal.SIGKILL)
        # Whose it was is not known here, and any may have used up its attempts by it.
        for task_id, state in self.station.queue().tasks.states(list(self.wanted)).items():
            if not state.is_final:
                self.wanted[task_id] = None

    def _replace_database(self) -> None:
        """Put a copy in the place of the database, as who restores a backup does."""
        lock = FileTickLock(self.station.config().paths)
        until(lambda: lock.acquire() is None, "the tick lock", limit_s=SETTLE_S)
        try:
            path = self.station.state / "tinyscheduler.db"
            copy = path.with_name("restored")
            with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
                old.backup(new)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            copy.replace(path)
        finally:
            lock.release()

    def _touch_pressure(self) -> None:
        folder = self.station.state / "pressure"
        if folder.exists():
            shutil.rmtree(folder)
        else:
            folder.mkdir()
            (folder / "busy.json").write_text("{}")

    @property
    def _base(self) -> Path:
        return self.station.base

    # -- judging ------------------------------------------------------------------

    def _settle(self) -> list[str]:
        """Wait, without ticking ourselves, until all is quiet."""
        try:
            until(self._is_quiet, "all tasks to end", limit_s=SETTLE_S)
        except AssertionError as error:
            return [f"(12) {error}: {self.station.leftovers()}"]
        return []

    def _is_quiet(self) -> bool:
        states = self.station.queue().tasks.states(list(self.wanted))
        return all(state.is_final for state in states.values()) and not self.station.leftovers()

    def _judge(self) -> list[str]:
        found = list(self.complaints)
        states = self.station.queue().tasks.states(list(self.wanted))
        found += [
            f"(2) task {one} is {states.get(one)}, not {state}"
            for one, state in self.wanted.items()
            if state is not None and states.get(one) is not state
        ]
        found += [f"left on disk: {name}" for name in self.station.leftovers()]
        found += [f"temporary file: {path}" for path in self._temporary_files()]
        errors = (self._base / "errors").read_text()
        if "Traceback" in errors:
            found.append(f"the daemon raised: {errors[-2000:]}")
        return found + compare(self.seen)

    def _temporary_files(self) -> list[Path]:
        found = [path for path in self._base.rglob("*") if path.name.endswith(".tmp")]
        return [*found, *(self._base / "tmp").iterdir()]


def compare(seen: list[Process]) -> list[str]:
    """Return in words what the daemon took more of at the end than after a tenth of the day."""
    if len(seen) < TENTHS:
        return [f"only {len(seen)} tenths of the day passed"]
    first, last = seen[0], seen[-1]
    found = []
    if last.resident_bytes > first.resident_bytes + SLACK_RESIDENT:
        found.append(f"memory grew: {first}, then {last}")
    # A folder that was made meanwhile is one more watch.
    if last.watches > first.watches + 1:
        found.append(f"watches leak: {first}, then {last}")
    if last.descriptors > first.descriptors + SLACK_DESCRIPTORS:
        found.append(f"descriptors leak: {first}, then {last}")
    if last.threads > first.threads or last.zombies > 0:
        found.append(f"threads or children leak: {first}, then {last}")
    return found


def main() -> int:
    """Let a day pass and print what the daemon took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ticks",
        "--minutes",
        type=int,
        default=MINUTES_OF_A_DAY,
        help="how many ticks: those of a day, one a minute, unless told otherwise",
    )
    parser.add_argument("--seed", type=int, default=1, help="of what happens around the daemon")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between ticks")
    options = parser.parse_args()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"daemon-{options.seed}-"))
    day = Day(
        folder=folder,
        seed=options.seed,
        ticks=options.ticks,
        interval_s=options.interval,
        is_told=True,
    )
    found = day.run()
    for words in found:
        print(f"seed {options.seed}: {words} ({folder} is kept)")
    if not found:
        shutil.rmtree(folder)
    first, last = (day.seen[0], day.seen[-1]) if day.seen else ("nothing", "nothing")
    print(
        f"{day.ticked} ticks, {day.describe()}: {len(found)} violations; {first} after a tenth,"
        f" {last} at the end ({time.monotonic() - started:.0f} s)"
    )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
