"""Twenty ticks at once over a hundred tasks: never two attempts of one, never over a cap.

Ticks are made as wrappers make them (``kicked``), by the line of a crontab as cron runs
it (``cron``), by what the timer's unit starts (``timer``), by what the daemon's unit
starts (``daemon``), or by all of these at the same time (``all``).
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.process.station import PYTHON, QUICK, Station

from tinyscheduler.cli.service_texts import Installation, Scope, cron_block, text_of
from tinyscheduler.cli.witness import Testimony, hear, testify
from tinyscheduler.model.tasks import TaskSpec, TaskState

AGENTS = {"red": 3, "blue": 1, "green": 4}
SLOTS = 7
AGENTS_FILE = "agents:\n" + "".join(
    f'  {name}: {{limit: {limit}, command: ["sh", "-c", "{{command}}"]}}\n'
    for name, limit in AGENTS.items()
)
SETTINGS = QUICK | {"MAX_CONCURRENT_SLOTS": str(SLOTS), "LOOP_INTERVAL_SEC": "0.2"}
# The first ones stay until every slot is taken, and all have counted each other: a cap that
# never binds is never broken.
CROWD = f'until [ "$(grep -c ^beside "$dir/journal")" -ge {SLOTS} ]; do sleep 0.02; done; sleep 0.1'
# All that cron sets, crontab(5).
CRON_ENVIRONMENT = {"LOGNAME": "me", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}

MODES = {
    "kicked": ("kicked",),
    "cron": ("cron",),
    "timer": ("timer",),
    "daemon": ("daemon",),
    "all": ("kicked", "cron", "timer", "daemon"),
}


def run_round(
    folder: Path, *, tasks: int, ticks: int, modes: str = "kicked"
) -> tuple[list[str], Testimony]:
    """Run one round; return every violation in words, and what the attempts said."""
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "agents.yaml").write_text(AGENTS_FILE)
    # Not in the environment: of that cron and systemd keep nothing.
    settings = "".join(f"TINYSCHEDULER_{name}={value}\n" for name, value in SETTINGS.items())
    (folder / "base" / ".env.tinyscheduler").write_text(settings)
    station = Station(folder / "base", SETTINGS)
    names = list(AGENTS)
    argv = testify(str(station.base), CROWD)
    specs = [
        TaskSpec(agent=names[i % len(names)], command=argv, cwd=str(station.base))
        for i in range(tasks)
    ]
    ids = station.queue().tasks.add([(None, spec) for spec in specs])
    chosen = MODES[modes]
    daemon = _start(station, "daemon") if "daemon" in chosen else None
    found: list[str] = []
    try:
        while not found and not _all_final(station, ids):
            kinds = [kind for kind in chosen if kind != "daemon"]
            wave = [_start(station, kinds[i % len(kinds)]) for i in range(ticks) if kinds]
            for one in wave:
                found += _faults_of(one)
            if not wave:
                time.sleep(0.2)
        if daemon is not None:
            daemon.terminate()
            found += _faults_of(daemon)
        found += _complaints_to_cron(station)
        said = hear(str(station.base))
        return found or _judge(station, ids, said), said
    finally:
        if daemon is not None and daemon.poll() is None:
            daemon.kill()
            daemon.communicate()
        station.clean_up()


def _start(station: Station, kind: str) -> subprocess.Popen[bytes]:
    if kind == "kicked":
        return station.start_tick()
    argv, environment = _installed(station, kind)
    return subprocess.Popen(
        argv,
        env={"HOME": str(station.base), **environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _installed(station: Station, kind: str) -> tuple[list[str], dict[str, str]]:
    """Return what cron or systemd would start, and the environment they give it."""
    installation = Installation(
        python=PYTHON,
        base_path=str(station.base),
        env_file=None,
        user="me",
        group="me",
        search_path="/usr/local/bin:/usr/bin:/bin",
    )
    if kind == "cron":
        (line,) = [one for one in cron_block(installation).splitlines() if one.startswith("*")]
        return ["/bin/sh", "-c", line.split(maxsplit=5)[5]], CRON_ENVIRONMENT
    unit = {"timer": "tinyscheduler-oneshot.service", "daemon": "tinyscheduler.service"}[kind]
    lines = text_of(unit, installation, Scope.SYSTEM).splitlines()
    (command,) = [one.partition("=")[2] for one in lines if one.startswith("ExecStart=")]
    variables = [one.partition("=")[2] for one in lines if one.startswith("Environment=")]
    environment = dict(one.split("=", 1) for one in variables)
    return shlex.split(command), environment | {"INVOCATION_ID": "0" * 32}


def _faults_of(process: subprocess.Popen[bytes]) -> list[str]:
    _, errors = process.communicate(timeout=120)
    # What a daemon says when it comes and goes is not a fault.
    usual = ("ticking in ", "stopped; ")
    lines = [line for line in errors.decode().splitlines() if not line.startswith(usual)]
    if process.returncode == 0 and not lines:
        return []
    return [f"{process.args!r} ended with {process.returncode}: {lines[:5]}"]


def _complaints_to_cron(station: Station) -> list[str]:
    try:
        lines = (station.base / "tinyscheduler-cron.log").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [f"a tick of cron said {line!r}" for line in lines[:5]]


def _all_final(station: Station, ids: list[str]) -> bool:
    return all(state.is_final for state in station.queue().tasks.states(ids).values())


def _judge(station: Station, ids: list[str], said: Testimony) -> list[str]:
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
    violations = most = 0
    for number in range(options.rounds):
        folder = Path(tempfile.mkdtemp(prefix="race-"))
        found, said = run_round(
            folder, tasks=options.tasks, ticks=options.ticks, modes=options.modes
        )
        most = max(most, said.most)
        for words in found:
            print(f"round {number}: {words} ({folder} is kept)")
        violations += len(found)
        if not found:
            shutil.rmtree(folder)
    print(
        f"{options.rounds} rounds of {options.tasks} tasks under {options.ticks} ticks at once"
        f" ({options.modes}), {most} attempts of {SLOTS} at once:"
        f" {violations} violations ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
