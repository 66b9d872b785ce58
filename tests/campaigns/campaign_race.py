"""Twenty ticks at once over a hundred tasks: never two attempts of one, never over a cap."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.campaigns.witness import command, hear
from tests.process.station import Station

from tinyscheduler.model.tasks import TaskSpec, TaskState

AGENTS = {"red": 3, "blue": 2, "green": 4}
SLOTS = 7
AGENTS_FILE = "agents:\n" + "".join(
    f'  {name}: {{limit: {limit}, command: ["sh", "-c", "{{command}}"]}}\n'
    for name, limit in AGENTS.items()
)


def run_round(folder: Path, *, tasks: int, ticks: int) -> list[str]:
    """Run one round and return every violation in words."""
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "agents.yaml").write_text(AGENTS_FILE)
    station = Station(folder / "base", {"MAX_CONCURRENT_SLOTS": str(SLOTS)})
    names = list(AGENTS)
    argv = command(station.base, "true")
    specs = [
        TaskSpec(agent=names[i % len(names)], command=argv, cwd=str(station.base))
        for i in range(tasks)
    ]
    ids = station.queue().tasks.add([(None, spec) for spec in specs])
    try:
        while not _all_final(station, ids):
            waves = [station.start_tick() for _ in range(ticks)]
            for wave in waves:
                _, errors = wave.communicate(timeout=120)
                if wave.returncode != 0:
                    return [f"a tick ended with {wave.returncode}: {errors.decode()[:500]}"]
        return _judge(station, ids)
    finally:
        station.clean_up()


def _all_final(station: Station, ids: list[str]) -> bool:
    return all(state.is_final for state in station.queue().tasks.states(ids).values())


def _judge(station: Station, ids: list[str]) -> list[str]:
    said = hear(station.base)
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
    options = parser.parse_args()
    started = time.monotonic()
    violations = 0
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="race-"))
        found = run_round(folder, tasks=options.tasks, ticks=options.ticks)
        for words in found:
            print(f"round {number}: {words} ({folder} is kept)")
        violations += len(found)
        if not found:
            shutil.rmtree(folder)
    print(
        f"{options.rounds} rounds of {options.tasks} tasks under {options.ticks} ticks at once: "
        f"{violations} violations ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
