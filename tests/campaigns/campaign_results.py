"""A week of results at once: no tick ran while wrappers ended, then one does, and is killed.

Every attempt left its lease, its lock file and its durable result, all older than any age
that counts.  Ticks settle them, some killed in the middle.  Judged: each result is settled
once and none again (2, 3), nothing is started that had succeeded, nothing is left, a tick
needs no more memory than its look at so many files, and the logs stay within their caps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.process.station import Station

from tinyscheduler.adapters.clock_system import SystemClock, read_boot_id
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTrial
from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseState, Needs, ProcessIdentity
from tinyscheduler.model.tasks import Outcome, TaskSpec, TaskState

if TYPE_CHECKING:
    import subprocess

WEEK_S = 7 * 86_400
LIMIT_S = 300
# What each result makes of a task that has one attempt.
ENDINGS = (
    ("succeeded", None, 0, TaskState.DONE),
    ("succeeded", None, 0, TaskState.DONE),
    ("failed", "command_failed", 1, TaskState.PARKED),
    ("failed", "timeout", None, TaskState.PARKED),
    ("cancelled", "cancelled", None, TaskState.CANCELLED),
    ("retry_later", None, 75, TaskState.WAITING),
)
# Per result: what a tick keeps of a lease, of its result, and of the verdict over both.
MOST_RESIDENT_PER_RESULT = 4 * 1024
MOST_RESIDENT_EXTRA = 6 * 2**20
# What both logs together say of one result.
MOST_LOG_PER_RESULT = 512
MOST_LOG_EXTRA = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What it took: the ticks until all was settled, the longest of them, the most memory."""

    ticks: int
    killed: int
    seconds: float
    resident_bytes: int
    idle_resident_bytes: int
    log_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.ticks} ticks ({self.killed} of them killed), the longest"
            f" {self.seconds:.1f} s, {self.resident_bytes / 2**20:.1f} MiB resident at most"
            f" (idle: {self.idle_resident_bytes / 2**20:.1f}), logs {self.log_bytes / 1024:.0f} KiB"
        )


def run_round(folder: Path, *, results: int, kills: int, seed: int) -> tuple[list[str], Figures]:
    """Run one round and return every violation in words, and what it took."""
    draw = random.Random(seed)
    settings = {
        "MAX_CONCURRENT_SLOTS": "10000",
        "AGENT_LIMITS": "shell:10000",
        "MAX_ATTEMPTS": "1",
        "RETRY_BACKOFF_SEC": "100000",
        "LOG_MAX_MB": "1",
    }
    station = Station(folder / "base", settings, kicks=False)
    idle = _tick(station, kill_after=None)
    wanted = _leave_results(station, results, draw)
    found: list[str] = []
    taken = []
    for number in range(kills + 3):
        left = len(list((station.state / "results").glob("*.json")))
        if left == 0 and not station.leftovers():
            break
        kill_after = draw.randrange(max(1, left // (kills + 1))) if number < kills else None
        taken.append(_tick(station, kill_after=kill_after))
        if taken[-1].code not in {0, -signal.SIGKILL}:
            found.append(f"a tick ended with {taken[-1].code}: {taken[-1].words}")
    found += _judge(station, wanted, killed=sum(one.code != 0 for one in taken))
    logs = sum(path.stat().st_size for path in (station.state / "logs").glob("*.*"))
    figures = Figures(
        ticks=len(taken),
        killed=sum(one.code == -signal.SIGKILL for one in taken),
        seconds=max(one.seconds for one in taken),
        resident_bytes=max(one.resident_bytes for one in taken),
        idle_resident_bytes=idle.resident_bytes,
        log_bytes=logs,
    )
    most = idle.resident_bytes + MOST_RESIDENT_EXTRA + results * MOST_RESIDENT_PER_RESULT
    if figures.resident_bytes > most:
        found.append(f"a tick took {figures}")
    if figures.log_bytes > MOST_LOG_EXTRA + results * MOST_LOG_PER_RESULT:
        found.append(f"the logs took {figures}")
    station.clean_up()
    return found, figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """How one tick ended and what it took."""

    code: int
    seconds: float
    resident_bytes: int
    words: str


def _tick(station: Station, *, kill_after: int | None) -> Tick:
    """Tick once; kill it as soon as it has settled so many, if it is to be killed."""
    results = station.state / "results"
    before = len(os.listdir(results)) if results.exists() else 0
    started = time.monotonic()
    process = station.start_tick()
    # Looked at without collecting it: `_end_of` wants to know what it took.
    while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > started + LIMIT_S:
            process.kill()
            return replace(_end_of(process, started), code=-1, words=f"no end within {LIMIT_S} s")
        if kill_after is None:
            time.sleep(0.01)
            continue
        left = len(os.listdir(results))
        if left == 0 or before - left >= kill_after:
            process.kill()
            break
        time.sleep(0.0005)
    return _end_of(process, started)


def _end_of(process: subprocess.Popen[bytes], started: float) -> Tick:
    assert process.stderr is not None
    with process.stderr as file:
        words = file.read().decode()
    # Not Popen.wait, which does not tell what the process took.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Tick(
        code=process.returncode,
        seconds=time.monotonic() - started,
        resident_bytes=usage.ru_maxrss * 1024,
        words=words[-500:],
    )


def _leave_results(station: Station, number: int, draw: random.Random) -> dict[str, TaskState]:
    """Leave what wrappers left that ended in a week without ticks."""
    queue = station.queue().tasks
    assert isinstance(queue, LocalQueue)
    command = station.journalled("true")
    spec = TaskSpec(agent="shell", command=command, cwd=str(station.base))
    ids = queue.add([(None, spec)] * number)
    store = FileLeaseStore(station.config().paths, locks=LockTrial())
    wanted = {}
    for task_id in ids:
        outcome, reason, code, wanted[task_id] = draw.choice(ENDINGS)
        lock = store.acquire(task_id)
        assert lock is not None
        lease = _lease(task_id, lock.lease_id)
        store.create(lock, lease)
        assert queue.claim(task_id, lease_id=lock.lease_id, agent="shell", queue="work", attempt=1)
        lock.close()
        (station.state / "results" / f"{lock.lease_id}.json").write_text(
            json.dumps(_result(lease, outcome, reason, code))
        )
    return wanted


def _lease(task_id: str, lease_id: str) -> Lease:
    now, boot = SystemClock().now(), read_boot_id()
    host = ProcProbe().read()
    return Lease(
        task_id=task_id,
        lease_id=lease_id,
        source="local",
        agent="shell",
        attempt=1,
        launches=0,
        state=LeaseState.FINISHED,
        host=host.hostname,
        boot_id=boot,
        started_at=now.wall,
        heartbeat=now.wall,
        monotonic_started_ns=max(0, now.monotonic_ns - WEEK_S * 10**9),
        monotonic_heartbeat_ns=max(0, now.monotonic_ns - WEEK_S * 10**9),
        heartbeat_s=15,
        max_runtime_s=3600,
        needs=Needs(),
        run=NO_RUN,
        # A number that no process bears: beyond what Linux gives out.
        process=ProcessIdentity(
            boot_id=boot, pid=2**22 + 1, start_ticks=1, pgid=2**22 + 1, pid_ns=host.pid_ns
        ),
    )


def _result(lease: Lease, outcome: str, reason: str | None, code: int | None) -> dict[str, object]:
    """Return what a wrapper writes at the end of such an attempt."""
    return {
        "version": 1,
        "lease_id": lease.lease_id,
        "task_id": lease.task_id,
        "source": lease.source,
        "agent": lease.agent,
        "attempt": lease.attempt,
        "outcome": outcome,
        "failure_reason": reason,
        "exit_code": code,
        "signal": None,
        "message": "as it ended in a week without ticks",
        "started_at": format_time(lease.started_at),
        "ended_at": format_time(lease.started_at),
        "duration_sec": 1.0,
        "turns": None,
        "peak_rss_mb": 3.5,
        "log": f"{lease.task_id}/1.log",
    }


def _judge(station: Station, wanted: dict[str, TaskState], *, killed: int) -> list[str]:
    queue = station.queue()
    states = queue.tasks.states(list(wanted))
    found = [
        f"(2) task {one} is {states.get(one)}, not {state}"
        for one, state in wanted.items()
        if states.get(one) is not state
    ]
    for one, state in wanted.items():
        rows = queue.ledger.attempts(one)
        if len(rows) != 1:
            found.append(f"(3) task {one} was settled {len(rows)} times")
        elif (rows[0].outcome is Outcome.SUCCEEDED) != (state is TaskState.DONE):
            found.append(f"(3) task {one} was settled as {rows[0].outcome}")
    if station.journal.exists():
        found.append(f"(3) commands were started: {station.lines()[:5]}")
    found += [f"left on disk: {name}" for name in station.leftovers()]
    events = [json.loads(line) for line in _lines(station.state / "logs")]
    told = Counter(event["task_id"] for event in events if event["event"] != "task.added")
    found += [f"(3) task {one} was told of {told[one]} times" for one in wanted if told[one] > 1]
    # A tick that dies between settling a result and telling of it tells of it never.
    untold = [one for one in wanted if told[one] == 0]
    if len(untold) > killed:
        found.append(f"nobody was told of tasks {untold[:5]}, and {killed} ticks were killed")
    return found[:20]


def _lines(logs: Path) -> list[str]:
    return [line for path in logs.glob("events.jsonl*") for line in path.read_text().splitlines()]


def main() -> int:
    """Run the rounds and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="the first is left in peace")
    parser.add_argument("--results", type=int, default=2000, help="results in a round")
    parser.add_argument("--kills", type=int, default=4, help="ticks to kill in a round")
    parser.add_argument("--seed", type=int, default=1, help="of the outcomes and the kills")
    options = parser.parse_args()
    started = time.monotonic()
    violations = 0
    for seed in range(options.seed, options.seed + options.rounds):
        # The first round lets one tick settle them all.
        kills = options.kills if seed > options.seed else 0
        folder = Path(tempfile.mkdtemp(prefix=f"results-{seed}-"))
        found, figures = run_round(folder, results=options.results, kills=kills, seed=seed)
        for words in found:
            print(f"seed {seed}: {words} ({folder} is kept)")
        violations += len(found)
        print(f"seed {seed}: {figures}", flush=True)
        if not found:
            shutil.rmtree(folder)
    print(
        f"{options.rounds} rounds of {options.results} results: {violations} violations"
        f" ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
