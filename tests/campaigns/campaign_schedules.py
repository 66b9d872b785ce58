"""Firings under many claimers at once: never more than may run, and one for each time.

``cap``: twenty claimers at once, which are ticks, ticks as wrappers make them, and runs by
hand; besides, each end of a firing makes another tick. The firings themselves count who lives
beside them, and so does a look into the database every few milliseconds.

``times``: for each minute of an hour ten ticks at once, whose clocks are set to that minute;
some are killed with SIGKILL at random moments. Each schedule fires each of its times once, and
each firing runs once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.process.station import PYTHON, Station

from tinyscheduler.adapters.sqlite.database import Access
from tinyscheduler.app.schedules import begun, open_schedules
from tinyscheduler.cli.witness import hear, testify
from tinyscheduler.errors import EXIT_BUSY, EXIT_DONE
from tinyscheduler.model.schedules import CatchUp, Overlap, Schedule, Timing
from tinyscheduler.model.tasks import TaskSpec, TaskState

TOP = Path(__file__).resolve().parents[2]
CAP = 3
CLAIMERS = 20
SETTINGS = {"MAX_CONCURRENT_SLOTS": "40", "AGENT_LIMITS": "shell:40"}
# The first ones stay until as many as may have met: a bound that never binds is never broken.
CROWD = f'until [ "$(grep -c ^beside "$dir/journal")" -ge {CAP} ]; do sleep 0.02; done; sleep 0.2'
SETTLE_S = 90.0
HOUR = 60  # minutes
_STATES = "SELECT state, count(*) FROM tasks WHERE schedule_id IS NOT NULL GROUP BY state"
_SLOTS = "SELECT schedule_id, slot, state FROM tasks WHERE slot IS NOT NULL"
_ALL_FINAL = "SELECT count(*) FROM tasks WHERE state IN ('waiting', 'held', 'working')"


@dataclass(slots=True, kw_only=True)
class CapFigures:
    """What a round counted: most at once by two witnesses, and what became of runs by hand."""

    most_seen: int = 0
    most_sampled: int = 0
    samples: int = 0
    firings: int = 0
    accepted: int = 0
    refused: int = 0


@dataclass(slots=True, kw_only=True)
class TimesFigures:
    """What an hour counted."""

    ticks: int = 0
    killed: int = 0
    firings: int = 0


# -- the bound --------------------------------------------------------------------------


def race_for_slots(
    folder: Path, *, seed: int, schedules: int = 9, claimers: int = CLAIMERS, allowed: int = CAP
) -> tuple[list[str], CapFigures]:
    """Run one round; return every violation in words, and the counts.

    ``allowed`` is what the program is told; another number shows that this one would notice.
    """
    draw, figures = random.Random(seed), CapFigures()
    station = Station(folder / "base", {**SETTINGS, "SCHEDULE_MAX_CONCURRENT": str(allowed)})
    names = [f"s{number}" for number in range(schedules)]
    keep_due(station, names)
    started: list[tuple[str, subprocess.Popen[bytes]]] = []
    found: list[str] = []
    try:
        for number in range(claimers):
            kind = ("run", "kicked", "by hand")[number % 3]
            started.append((kind, _claim(station, kind, draw.choice(names))))
        deadline = time.monotonic() + SETTLE_S
        while not found and any(process.poll() is None for _, process in started):
            _sample(station, figures)
        found += [fault for kind, process in started for fault in _fault_of(kind, process, figures)]
        while not found and _ask(station, _ALL_FINAL)[0][0]:
            if time.monotonic() > deadline:
                found.append(f"not all has ended: {_ask(station, _STATES)}")
            tick = station.start_tick()
            while tick.poll() is None:
                _sample(station, figures)
            found += _fault_of("kicked", tick, figures)
        found += _judge_cap(station, schedules, figures)
    finally:
        station.clean_up()
    return found, figures


def keep_due(station: Station, names: list[str]) -> None:
    """Add schedules that are due now, each with a witness as its command."""
    schedules = open_schedules(station.config(), Access.WRITE)
    for name in names:
        since = schedules.now() - timedelta(hours=1, seconds=1)
        spec = TaskSpec(
            agent="shell", command=testify(str(station.base), CROWD), cwd=str(station.base)
        )
        schedules.store.add(
            begun(
                Schedule(
                    schedule_id=name,
                    name=name,
                    timing=Timing(every_s=3600),
                    spec=spec,
                    overlap=Overlap.QUEUE_ALL,
                    created_at=since,
                    anchor=since,
                )
            )
        )


def _claim(station: Station, kind: str, name: str) -> subprocess.Popen[bytes]:
    arguments = {
        "run": ["run"],
        "kicked": ["run", "--kicked"],
        "by hand": ["schedule", "run", name, "--json"],
    }[kind]
    return subprocess.Popen(
        [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", str(station.base), *arguments],
        env=station.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _fault_of(kind: str, process: subprocess.Popen[bytes], figures: CapFigures) -> list[str]:
    out, errors = process.communicate(timeout=SETTLE_S)
    if kind == "by hand":
        if process.returncode == EXIT_BUSY:
            figures.refused += 1
            return [] if json.loads(out)["slotEtaSec"] >= 0 else [f"no time is named: {out!r}"]
        figures.accepted += process.returncode == EXIT_DONE
    if process.returncode == EXIT_DONE:
        return []
    return [f"{kind} ended with {process.returncode}: {errors.decode()[-300:]}"]


def _sample(station: Station, figures: CapFigures) -> None:
    working = dict(_ask(station, _STATES)).get("working", 0)
    figures.most_sampled = max(figures.most_sampled, int(working))
    figures.samples += 1
    time.sleep(0.005)


def _judge_cap(station: Station, schedules: int, figures: CapFigures) -> list[str]:
    said = hear(str(station.base))
    figures.most_seen = said.most
    rows = _ask(station, "SELECT id, state, schedule_id FROM tasks")
    figures.firings = len(rows)
    found = [f"task {row[0]} is {row[1]}" for row in rows if row[1] != TaskState.DONE]
    found += [
        f"task {row[0]} started as {said.starts.get(str(row[0]))}"
        for row in rows
        if said.starts.get(str(row[0])) != [1]
    ]
    if max(figures.most_seen, figures.most_sampled) > CAP:
        found.append(f"{figures.most_seen} seen and {figures.most_sampled} sampled, of {CAP}")
    wanted = schedules + figures.accepted
    if len(rows) != wanted:
        found.append(f"{len(rows)} firings, where {wanted} were due or asked for")
    return found


def _ask(station: Station, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(station.state / "tinyscheduler.db", timeout=30)) as database:
        return database.execute(question).fetchall()


# -- the times --------------------------------------------------------------------------


def live_through(
    folder: Path, *, seed: int, minutes: int = HOUR, ticks: int = 10, schedules: int = 3
) -> tuple[list[str], TimesFigures]:
    """Run one round; return every violation in words, and the counts."""
    draw, figures = random.Random(seed), TimesFigures()
    # Only the ticks of this round know what time it is.
    station = Station(folder / "base", dict(SETTINGS), kicks=False)
    names = [f"s{number}" for number in range(schedules)]
    begin = keep_minutely(station, names)
    found: list[str] = []
    try:
        for minute in range(1, minutes + 1):
            now = begin + timedelta(minutes=minute)
            crowd = [_tick(station, now) for _ in range(ticks)]
            figures.ticks += ticks
            for process in draw.sample(crowd, ticks // 3):
                time.sleep(draw.uniform(0, 0.15))
                figures.killed += process.poll() is None
                process.kill()
            for process in crowd:
                found += _fault_of_tick(process)
        deadline = time.monotonic() + SETTLE_S
        while not found and _ask(station, _ALL_FINAL)[0][0]:
            if time.monotonic() > deadline:
                found.append(f"not all has ended: {_ask(station, _STATES)}")
            found += _fault_of_tick(_tick(station, begin + timedelta(minutes=minutes)))
        found += judge_times(station, names, begin, minutes, figures)
    finally:
        station.clean_up()
    return found, figures


def keep_minutely(station: Station, names: list[str]) -> datetime:
    """Add schedules of every minute; return when their first one begins."""
    schedules = open_schedules(station.config(), Access.WRITE)
    now = schedules.now()
    spec = TaskSpec(agent="shell", command=station.journalled("true"), cwd=str(station.base))
    for name in names:
        schedules.store.add(
            begun(
                Schedule(
                    schedule_id=name,
                    name=name,
                    timing=Timing(every_s=60),
                    spec=spec,
                    overlap=Overlap.ALLOW,
                    catch_up=CatchUp.ALL,
                    created_at=now,
                    anchor=now,
                )
            )
        )
    return now


def _tick(station: Station, now: datetime) -> subprocess.Popen[bytes]:
    words = ["-m", "tests.campaigns.elsewhen", now.isoformat()]
    return subprocess.Popen(
        [PYTHON, *words, "--base-path", str(station.base), "run"],
        env=station.environment(),
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _fault_of_tick(process: subprocess.Popen[bytes]) -> list[str]:
    _, errors = process.communicate(timeout=SETTLE_S)
    # Done, done with failures, a source was busy; or killed by us.
    if process.returncode in {0, 1, 69, -9}:
        return []
    return [f"a tick ended with {process.returncode}: {errors.decode()[-300:]}"]


def judge_times(
    station: Station, names: list[str], begin: datetime, minutes: int, figures: TimesFigures
) -> list[str]:
    """Compare with the times that there are: one a minute, counted from the beginning."""
    rows = _ask(station, _SLOTS)
    figures.firings = len(rows)
    fired = Counter(
        (name, datetime.fromtimestamp(int(slot) / 1e6, tz=UTC)) for name, slot, _ in rows
    )
    wanted = {
        (name, begin + timedelta(minutes=minute))
        for name in names
        for minute in range(1, minutes + 1)
    }
    rounded = Counter({(name, _to_ms(slot)): number for (name, slot), number in fired.items()})
    expected = {(name, _to_ms(slot)) for name, slot in wanted}
    found = [f"{name} never fired for {at}" for name, at in sorted(expected - set(rounded))]
    found += [f"{name} fired for {at}" for name, at in sorted(set(rounded) - expected)]
    found += [f"{name} fired {n} times for {at}" for (name, at), n in rounded.items() if n > 1]
    found += [f"a firing of {name} is {state}" for name, _, state in rows if state != "done"]
    starts = Counter(line[1] for line in station.lines() if line[0] == "start")
    found += [f"task {task} started {n} times" for task, n in starts.items() if n > 1]
    if len(starts) != len(rows):
        found.append(f"{len(starts)} of {len(rows)} firings ran")
    return found


def _to_ms(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


# -- by hand ----------------------------------------------------------------------------


def main() -> int:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="of the bound")
    parser.add_argument("--hours", type=int, default=1, help="of the times")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    violations = _run_cap(options.rounds, options.seed) + _run_times(options.hours, options.seed)
    return 1 if violations else 0


def _run_cap(rounds: int, seed: int) -> int:
    started, total, violations = time.monotonic(), CapFigures(), 0
    for number in range(rounds):
        folder = Path(tempfile.mkdtemp(prefix="schedules-"))
        found, figures = race_for_slots(folder, seed=seed + number)
        violations += _tell(folder, f"round {number}", found)
        for name in ("samples", "firings", "accepted", "refused"):
            setattr(total, name, getattr(total, name) + getattr(figures, name))
        total.most_seen = max(total.most_seen, figures.most_seen)
        total.most_sampled = max(total.most_sampled, figures.most_sampled)
    print(
        f"{rounds} rounds of {CLAIMERS} claimers: {total.firings} firings, at most"
        f" {total.most_seen} at once by their own word and {total.most_sampled} in"
        f" {total.samples} samples, of {CAP}; by hand {total.accepted} accepted,"
        f" {total.refused} refused: {violations} violations ({time.monotonic() - started:.0f} s)"
    )
    return violations


def _run_times(hours: int, seed: int) -> int:
    started, violations = time.monotonic(), 0
    for number in range(hours):
        folder = Path(tempfile.mkdtemp(prefix="schedules-"))
        found, figures = live_through(folder, seed=seed + number)
        violations += _tell(folder, f"hour {number}", found)
        print(
            f"{HOUR} minutes, {figures.ticks} ticks, {figures.killed} of them killed:"
            f" {figures.firings} firings, one for each time: {len(found)} violations"
            f" ({time.monotonic() - started:.0f} s)"
        )
    return violations


def _tell(folder: Path, name: str, found: list[str]) -> int:
    for words in found:
        print(f"{name}: {words} ({folder} is kept)")
    if not found:
        shutil.rmtree(folder)
    return len(found)


if __name__ == "__main__":
    raise SystemExit(main())
