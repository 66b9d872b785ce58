"""Does a command get slower with what lies there?  Against the same with little, or its floor."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Ratio, command, compare, note, timed_ms
from benchmarks.place import PYTHON, Place, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY, FEW = 100_000, 100
MANY_SCHEDULES, FEW_SCHEDULES = 10_000, 10
LEASES = 1000
READ_LEASES = """
import json, os, sys
folder = sys.argv[1]
for name in os.listdir(folder):
    if name.endswith(".json"):
        fd = os.open(f"{folder}/{name}", os.O_RDONLY)
        json.loads(os.read(fd, 1 << 16))
        os.close(fd)
"""

# Inserts the rows of one database into another of the same schema, as durably; prints the ms.
INSERT_PLAINLY = """
import sqlite3, sys, time
source = sqlite3.connect(sys.argv[1])
names = ("tasks", "task_specs")
rows = {name: source.execute(f"SELECT * FROM {name}").fetchall() for name in names}
schema = source.execute(
    "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
)
target = sqlite3.connect(sys.argv[2])
target.execute("PRAGMA journal_mode=WAL")
target.execute("PRAGMA synchronous=FULL")
for (statement,) in schema.fetchall():
    target.execute(statement)
target.commit()
started = time.perf_counter()
with target:
    for name, values in rows.items():
        marks = ", ".join("?" * len(values[0]))
        for row in values:
            target.execute(f"INSERT INTO {name} VALUES ({marks})", row)
print((time.perf_counter() - started) * 1e3)
"""


def many_leases() -> Iterator[Ratio]:
    """A tick that finds a thousand living attempts, each with a real wrapper."""
    with Place() as idle, Place(AGENT_LIMITS=f"shell:{LEASES}", KICK="false") as place:
        note(f"starting {LEASES} attempts")
        place.add(LEASES, "sleep", "3600")
        until(lambda: place.run("run", "--once") and len(place.running()) == LEASES, "all to run")
        folder = str(place.base / "state" / "running")
        until(lambda: all(_is_running(path) for path in place.running()), "all to be running")
        tick = command(*place.argv("run", "--once"), environment=place.environment)
        read = command(PYTHON, "-I", "-c", READ_LEASES, folder)
        idle_tick = command(*idle.argv("run", "--once"), environment=idle.environment)

        def floor() -> None:
            read()
            idle_tick()

        yield compare(
            f"tick, {LEASES:,} leases",
            tick,
            floor,
            against="read + parse them, + idle tick",
            rounds=9,
            bar=2,
        )
        note("ending them")


def _is_running(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text())["state"] == "running")
    except (OSError, ValueError):
        return False


def many_waiting() -> Iterator[Ratio]:
    """Commands beside a hundred thousand tasks that wait, against the same beside a hundred."""
    # Nothing starts: what is measured is looking, not starting.
    quiet = {"MAX_CONCURRENT_SLOTS": "1", "KICK": "false"}
    with Place(**quiet) as much, Place(**quiet) as little:
        last = {}
        for place, count in ((much, MANY), (little, FEW)):
            place.add(1, "sleep", "3600")
            place.run("run", "--once")
            note(f"adding {count} tasks")
            last[place] = place.add(count, "true")
        for words, bar in ((("run", "--once"), 1.3), (("status",), 2), (("list",), 2)):
            yield _both(words, words, much, little, bar=bar)
        one, other = last[much][-1], last[little][-1]
        for name in ("show", "why"):
            yield _both((name, one), (name, other), much, little, bar=2)
        ids, others = iter(last[much]), iter(last[little])
        yield compare(
            f"cancel, {MANY:,} / {FEW}",
            lambda: much.run("cancel", next(ids)),
            lambda: little.run("cancel", next(others)),
            against=f"the same with {FEW}",
            rounds=15,
            bar=2,
        )


def _both(
    words: tuple[str, ...],
    other: tuple[str, ...],
    much: Place,
    little: Place,
    *,
    bar: float,
) -> Ratio:
    return compare(
        f"{words[0]}, {MANY:,} / {FEW}",
        command(*much.argv(*words), environment=much.environment),
        command(*little.argv(*other), environment=little.environment),
        against=f"the same with {FEW}",
        rounds=15,
        bar=bar,
    )


def many_schedules() -> Iterator[Ratio]:
    """Commands beside ten thousand schedules of which none is due, against the same beside ten."""
    with Place(KICK="false") as much, Place(KICK="false") as little:
        for place, count in ((much, MANY_SCHEDULES), (little, FEW_SCHEDULES)):
            note(f"adding {count} schedules")
            file = place.base / "schedules.yaml"
            one = '  s{}: {{cron: "0 0 1 1 *", tz: UTC, command: ["true"]}}\n'
            file.write_text("schedules:\n" + "".join(map(one.format, range(count))))
            place.run("schedule", "apply", "-f", str(file))
        for words, bar in ((("run", "--once"), 1.3), (("status",), 2)):
            yield compare(
                f"{words[0]}, {MANY_SCHEDULES:,} / {FEW_SCHEDULES} schedules",
                command(*much.argv(*words), environment=much.environment),
                command(*little.argv(*words), environment=little.environment),
                against=f"the same with {FEW_SCHEDULES}",
                rounds=25,
                bar=bar,
            )


def add_many() -> Iterator[Ratio]:
    """A hundred thousand tasks from one file, in one transaction."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tasks.jsonl"
        file.write_text('{"command": ["true"]}\n' * MANY)
        ours, theirs = [], []
        for number in range(3):
            with Place() as place:
                ours.append(timed_ms(partial(place.run, "add", "--from", str(file))))
                database = str(place.base / "state" / "tinyscheduler.db")
                plainly = subprocess.run(
                    [PYTHON, "-I", "-c", INSERT_PLAINLY, database, f"{folder}/{number}.db"],
                    capture_output=True,
                    check=True,
                )
                theirs.append(float(plainly.stdout))
        yield Ratio(
            name=f"add --from, {MANY:,} tasks",
            ours_ms=ours,
            theirs_ms=theirs,
            against="the same rows, plain sqlite3",
            bar=5,
        )


def lease_write() -> Iterator[Ratio]:
    """One durable write of a lease, against its system calls."""
    source = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from tinyscheduler.files import write_json
document = {"version": 1, "text": "x" * 1500}
path = sys.argv[1] + "/task_1.json"
for _ in range(300):
    write_json(path, document)
"""
    raw = """
import json, os, sys
document = {"version": 1, "text": "x" * 1500}
folder, path = sys.argv[1], sys.argv[1] + "/task_1.json"
for _ in range(300):
    temporary = folder + "/.task_1.json.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, json.dumps(document).encode())
    os.fsync(fd)
    os.close(fd)
    os.rename(temporary, path)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
"""
    source_folder = str(Path(__file__).resolve().parent.parent / "src")
    with Place() as place, Place() as other:
        yield compare(
            "lease write",
            command(PYTHON, "-I", "-c", source, str(place.base), source_folder),
            command(PYTHON, "-I", "-c", raw, str(other.base)),
            against="tmp + fsync + rename + fsync",
            rounds=9,
        )
