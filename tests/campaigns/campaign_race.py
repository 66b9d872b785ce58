"""Twenty ticks at once over a hundred tasks: never two attempts of one, never over a cap.

Ticks are made as wrappers make them (``kicked``), as cron does (``once``), by a daemon
(``daemon``), or by all of these at the same time (``all``).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.process.station import PYTHON, Station

from tinyscheduler.cli.witness import hear, testify
from tinyscheduler.model.tasks import TaskSpec, TaskState

AGENTS = {"red": 3, "blue": 2, "green": 4}
SLOTS = 7
AGENTS_FILE = "agents:\n" + "".join(
    f'  {name}: {{limit: {limit}, command: ["sh", "-c", "{{command}}"]}}\n'
    for name, limit in AGENTS.items()
)


MODES = {
    "kicked": ("kicked",),
    "once": ("once",),
    "daemon": ("daemon",),
    "all": ("kicked", "once", "daemon"),
}


def run_round(folder: Path, *, tasks: int, ticks: int, modes: str = "kicked") -> list[str]:
    """Run one round and return every violation in words."""
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "agents.yaml").write_text(AGENTS_FILE)
    settings = {"MAX_CONCURRENT_SLOTS": str(SLOTS), "LOOP_INTERVAL_SEC": "0.2"}
    station = Station(folder / "base", settings)
    names = list(AGENTS)
    argv = testify(str(station.base), "true")
    specs = [
        TaskSpec(agent=names[i % len(names)], command=argv, cwd=str(station.base))
        for i in range(tasks)
    ]
    ids = station.queue().tasks.add([(None, spec) for spec in specs])
    chosen = MODES[modes]
    daemon = _start(station, "--daemon") if "daemon" in chosen else None
    found: list[str] = []
    try:
        while not found and not _all_final(station, ids):
            waves = [_start_one(station, chosen, number) for number in range(ticks)]
            for wave in waves:
                if wave is not None:
                    found += _faults_of(wave)
            if not any(waves):
                time.sleep(0.2)
        if daemon is not None:
            daemon.terminate()
            found += _faults_of(daemon)
        return found or _judge(station, ids)
    finally:
        if daemon is not None and daemon.poll() is None:
            daemon.kill()
            daemon.communicate()
        station.clean_up()


def _start_one(
    station: Station, chosen: tuple[str, ...], number: int
) -> subprocess.Popen[bytes] | None:
    """Start one tick of those kinds that end by themselves, in turn."""
    kinds = [kind for kind in chosen if kind != "daemon"]
    if not kinds:
        return None
    if kinds[number % len(kinds)] == "kicked":
        return station.start_tick()
    return _start(station, "--once")


def _start(station: Station, option: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            PYTHON,
            "-I",
            "-m",
            "tinyscheduler",
            "--base-path",
            str(station.base),
            "-q",
            "run",
            option,
        ],
        env=station.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _faults_of(process: subprocess.Popen[bytes]) -> list[str]:
    _, errors = process.communicate(timeout=120)
    # What a tick that was refused says is not a fault.
    lines = [line for line in errors.decode().splitlines() if "another tick is running" not in line]
    if process.returncode == 0 and not lines:
        return []
    return [f"{process.args!r} ended with {process.returncode}: {lines[:5]}"]


def _all_final(station: Station, ids: list[str]) -> bool:
    return all(state.is_final for state in station.queue().tasks.states(ids).values())


def _judge(station: Station, ids: list[str]) -> list[str]:
    said = hear(str(station.base))
    states = station.queue().tasks.states(ids)
    found = [f"task {one} is {state}" for one, state in states.items() if state != TaskState.DONE]
    for one in ids:
        starts, ends = said.starts.get(one), said.ends[one, 1]
        if starts != [1] or ends != 1:
            found.append(f"task {one} started as {starts} and ended {ends} times")
    if said.most_of_a_task > 1:
        found.append(f"{said.most_of_a_task} attempts of one task at once")
    if said.most > SLOTS:
        found.append(f"{said.most} attempts at once, of {SLOTS}")
    found += [
        f"{most} attempts of {name} at once, of {AGENTS[name]}"
        for name, most in said.most_of_an_agent.items()
        if most > AGENTS[name]
    ]
    return found


def main() -> int:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--ticks", type=int, default=20)
    parser.add_argument("--modes", choices=MODES, default="kicked")
    options = parser.parse_args()
    started = time.monotonic()
    violations = 0
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="race-"))
        found = run_round(folder, tasks=options.tasks, ticks=options.ticks, modes=options.modes)
        for words in found:
            print(f"round {number}: {words} ({folder} is kept)")
        violations += len(found)
        if not found:
            shutil.rmtree(folder)
    print(
        f"{options.rounds} rounds of {options.tasks} tasks under {options.ticks} ticks at once"
        f" ({options.modes}): {violations} violations ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
