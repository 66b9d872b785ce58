"""SIGKILL ticks, wrappers and commands at random moments, then let it settle, and judge.

Judged are the invariants of the design: (1) at most one live attempt per task, (2) no
task is lost, (3) a recorded result is never run again, (4) no cap is exceeded, (12) once
the killing stops all work ends, (13) no attempt ends but by its own doing or ours.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.process.station import Station, survivors, wrappers

from tinyscheduler.cli.witness import hear, testify
from tinyscheduler.model.tasks import FailureReason, Outcome, TaskSpec, TaskState

SLOTS = 3
CHAOS_S = 1.5
SETTLE_S = 60
BODIES = (
    "true",
    "sleep 0.1",
    "sleep 0.4",
    "sleep 0.2 & setsid sleep 0.3; wait",
    "(setsid sleep 200 &) ; sleep 0.2",
    'sh -c "sleep 0.3; true"',
    '[ "$attempt" -gt 1 ]',
)


# Done, done with failures, a source was busy; or killed by us.
EXPECTED_CODES = frozenset({0, 1, 69, -signal.SIGKILL})


@dataclass(slots=True)
class Chaos:
    """What was killed in a round: counts, and the attempts whose end is our doing."""

    kills: dict[str, int] = field(default_factory=lambda: {"tick": 0, "wrapper": 0, "command": 0})
    ours: set[tuple[str, int]] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


def run_round(seed: int) -> tuple[list[str], dict[str, int]]:
    """Run one round; return every violation in words, and how often what was killed."""
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix=f"kill-{seed}-"))
    settings = {
        "MAX_CONCURRENT_SLOTS": str(SLOTS),
        "AGENT_LIMITS": f"shell:{SLOTS}",
        "MAX_ATTEMPTS": "100",
        "MAX_LAUNCHES": "100",
        "RETRY_MAX_SEC": "0.2",
    }
    station = Station(folder / "base", settings)
    argvs = [testify(str(station.base), draw.choice(BODIES)) for _ in range(draw.randint(3, 7))]
    queue = station.queue().tasks
    ids: list[str] = []
    for argv in argvs:
        after = tuple(draw.sample(ids, 1)) if ids and draw.random() < 0.25 else ()
        spec = TaskSpec(agent="shell", command=argv, cwd=str(station.base), after=after)
        ids += queue.add([(None, spec)])
    chaos = Chaos()
    try:
        _wreak(station, draw, chaos)
        found = _settle(station, ids) + _judge(station, ids, chaos)
    finally:
        station.clean_up()
    if found:
        return [f"seed {seed}: {words} ({folder} is kept)" for words in found], chaos.kills
    shutil.rmtree(folder)
    return [], chaos.kills


def _wreak(station: Station, draw: random.Random, chaos: Chaos) -> None:
    """Tick and kill at random moments."""
    end = time.monotonic() + CHAOS_S
    ticks = []
    while time.monotonic() < end:
        ticks.append(station.start_tick())
        time.sleep(draw.uniform(0, 0.12))
        for _ in range(draw.randint(0, 2)):
            _kill_one(station, draw, chaos, [tick.pid for tick in ticks if tick.poll() is None])
            time.sleep(draw.uniform(0, 0.05))
    for tick in ticks:
        _, words = tick.communicate(timeout=60)
        if tick.returncode not in EXPECTED_CODES:
            chaos.broken.append(f"a tick ended with {tick.returncode}: {words.decode().strip()}")


def _kill_one(station: Station, draw: random.Random, chaos: Chaos, ticks: list[int]) -> None:
    base = str(station.base)
    kind = draw.choice(("tick", "wrapper", "wrapper", "command"))
    pids = {
        "tick": lambda: ticks,
        "wrapper": lambda: wrappers(base),
        "command": lambda: survivors(base),
    }
    candidates = pids[kind]()
    if not candidates:
        return
    pid = draw.choice(candidates)
    # Whatever we may hit counts as ours: the attempts leased right now, and what it says of itself.
    attempts = _attempts_of(pid)
    if kind != "tick" and not attempts:
        return  # nobody could tell afterwards whose end this was
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    chaos.kills[kind] += 1
    chaos.ours |= attempts
    with (station.base.parent / "kills").open("a") as file:
        print(f"{time.time():.3f} {kind} {pid} {sorted(attempts)}", file=file)


def _attempts_of(pid: int) -> set[tuple[str, int]]:
    """Return the attempt that a process belongs to, by its own environment.

    In the middle of execve(2) it reads empty, which says nothing.
    """
    for _ in range(50):
        try:
            items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return set()
        if items != [b""]:
            break
        time.sleep(0.0002)
    values = dict(item.split(b"=", 1) for item in items if b"=" in item)
    task_id = values.get(b"TINYSCHEDULER_TASK_ID")
    attempt = values.get(b"TINYSCHEDULER_ATTEMPT")
    return {(task_id.decode(), int(attempt))} if task_id and attempt else set()


def _settle(station: Station, ids: list[str]) -> list[str]:
    """Tick until all is quiet; what does not end is a violation."""
    try:
        station.until_final(*ids, limit_s=SETTLE_S)
    except AssertionError as error:
        return [f"(2, 12) not settled after {SETTLE_S} s: {error}"]
    return []


def _judge(station: Station, ids: list[str], chaos: Chaos) -> list[str]:
    said = hear(str(station.base))
    queue = station.queue()
    found = list(chaos.broken)
    if said.most_of_a_task > 1:
        found.append(f"(1) {said.most_of_a_task} attempts of one task at once")
    if said.most > SLOTS:
        found.append(f"(4) {said.most} attempts at once, of {SLOTS}")
    for one, state in queue.tasks.states(ids).items():
        if state is not TaskState.DONE:
            found.append(f"(2) task {one} is {state}")
    for one in ids:
        starts = said.starts.get(one, [])
        if starts != sorted(set(starts)):
            found.append(f"(1) task {one} started as {starts}")
        rows = queue.ledger.attempts(one)
        succeeded = [row.attempt for row in rows if row.outcome is Outcome.SUCCEEDED]
        if succeeded != starts[-1:]:
            found.append(f"(3) task {one} succeeded as {succeeded}, last started as {starts[-1:]}")
        found += [
            f"(13) attempt {row.attempt} of task {one} ended: {row.failure_reason} {row.message}"
            for row in rows
            if row.outcome is not Outcome.SUCCEEDED
            and (one, row.attempt) not in chaos.ours
            and not _failed_by_itself(row.failure_reason, row.exit_code)
        ]
    found += [f"process {pid} outlived its attempt" for pid in survivors(str(station.base))]
    found += [f"left on disk: {name}" for name in station.leftovers()]
    return found


def _failed_by_itself(reason: FailureReason | None, exit_code: int | None) -> bool:
    return reason is FailureReason.COMMAND_FAILED and exit_code == 1


def _side_by_side(rounds: int) -> int:
    """Return how many rounds to run at once on this machine."""
    return max(1, min(rounds, os.cpu_count() or 1))


def main() -> int:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    violations = 0
    kills = {"tick": 0, "wrapper": 0, "command": 0}
    seeds = range(options.seed, options.seed + options.rounds)
    with ProcessPoolExecutor(_side_by_side(options.rounds)) as pool:
        for found, killed in pool.map(run_round, seeds):
            violations += len(found)
            for words in found:
                print(words, flush=True)
            for kind, count in killed.items():
                kills[kind] += count
    counts = ", ".join(f"{count} {kind}s" for kind, count in kills.items())
    print(
        f"{options.rounds} rounds, killed {counts}: {violations} violations of invariants "
        f"1 to 4, 12, 13 ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
