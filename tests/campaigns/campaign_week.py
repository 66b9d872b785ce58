"""A week in minutes: the real tick over a real state folder, with simulated clocks and attempts.

Twenty thousand tasks come in bursts and trickles, fail, depend on each other, are
cancelled, held and retried by their owner, while ticks and wrappers die, disks fill and
clocks jump.  Judged are invariants 1 to 4, 12 and 13 of the design, and that nothing piles
up: what the state folder, this process's memory and its descriptors take after a week is
what they took once the retention had begun to act.

The seed decides work and faults; the names of leases are the operating system's.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.campaigns.measuring import Part, Process, State, measure_process, measure_state
from tests.campaigns.week import Week, WeekPlan, living

from tinyscheduler.adapters.events_file import KEPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.simulator.machine import Process as SimulatedProcess
    from tinyscheduler.tick import World

    Change = Callable[[World, SimulatedProcess], World]

# How much more than on the day of reference anything may take on the last day: a share of
# it, and what one burst or one bad day makes of difference.
GROWTH = 1.25
LOGS = ("events", "daily logs")
LOG_FILES = 1 + KEPT
SLACK_BYTES = 512 * 1024
SLACK_FILES = 60
# Where nothing becomes old enough to be removed: rows, prompt, logs and events of a task.
MOST_BYTES_PER_TASK = 8 * 1024
SLACK_ROWS = 200
SLACK_RESIDENT = 8 * 2**20
SLACK_DESCRIPTORS = 0


def run_week(
    folder: Path, plan: WeekPlan, *, is_told: bool = False, rewire: Change | None = None
) -> tuple[list[str], Week]:
    """Run one week and return every violation in words, and the week.

    ``rewire`` replaces ports of every tick, so that a test can break a promise.
    """
    with living(Week(folder=folder, plan=plan)) as week:
        week.world.rewire = rewire or week.world.rewire
        seen: list[tuple[State, Process]] = []
        for day in range(1, plan.days + 1):
            week.live_through_day()
            if week.violations:
                break
            with week.world.writes_allowed():
                gc.collect()
                process = measure_process(os.getpid())
                process = replace(process, descriptors=process.descriptors - week.count_lent())
                seen.append((measure_state(week.state), process))
                if is_told:
                    print(f"day {day}: {week.describe()}\n  {seen[-1][0]}\n  {process}", flush=True)
        week.come_to_rest()
    if is_told:
        print(f"at rest: {week.describe()}\n  {measure_state(week.state)}", flush=True)
        for words, number in week.world.errors.most_common():
            print(f"  {number} errors: {words}")
    if week.violations:
        return [*week.violations, "what went wrong before:", *week.last_faults()], week
    return _judge(plan, seen) + week.judge(), week


def _judge(plan: WeekPlan, seen: list[tuple[State, Process]]) -> list[str]:
    """Compare the last day with the day of reference, part by part."""
    (state, process), (last_state, last_process) = seen[plan.reference_day - 1], seen[-1]
    found = []
    if plan.is_retention_reached:
        for name, part in last_state.parts.items():
            before = state.parts.get(name, Part())
            # Logs may grow up to what their settings say, however little there was before.
            capped = LOG_FILES * plan.log_max_bytes if name in LOGS else 0
            if part.bytes > max(GROWTH * before.bytes, capped) + SLACK_BYTES:
                found.append(f"{name} grew from {before} to {part}")
            if part.files > GROWTH * before.files + SLACK_FILES:
                found.append(f"{name} grew from {before} to {part}")
        found += [
            f"table {name} grew from {state.rows[name]} to {rows} rows"
            for name, rows in last_state.rows.items()
            if rows > GROWTH * state.rows[name] + SLACK_ROWS
        ]
    elif last_state.bytes > plan.tasks * MOST_BYTES_PER_TASK + SLACK_BYTES:
        found.append(f"more than {MOST_BYTES_PER_TASK} bytes a task: {last_state}")
    if last_process.resident_bytes > process.resident_bytes + SLACK_RESIDENT:
        found.append(f"memory grew: {process}, then {last_process}")
    if last_process.descriptors > process.descriptors + SLACK_DESCRIPTORS:
        names = sorted(
            os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()
        )
        found.append(f"descriptors leak: {process}, then {last_process}; open now: {names}")
    return found


def scratch() -> str | None:
    """Return a folder in memory if there is one: a week has too many fsyncs for a disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Run a week and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks in all")
    parser.add_argument("--seed", type=int, default=1, help="of work and faults")
    parser.add_argument("--days", type=int, default=7, help="days from the first to the last task")
    for name, days, what in (("history", 1.0, "tasks that ended"), ("log", 0.5, "logs")):
        parser.add_argument(
            f"--{name}-days", type=float, default=days, help=f"how long {what} are kept"
        )
    parser.add_argument(
        "--log-max-mb", type=float, default=1.0, help="size at which a log is set aside"
    )
    options = parser.parse_args()
    plan = WeekPlan(
        tasks=options.tasks,
        seed=options.seed,
        days=options.days,
        history_days=options.history_days,
        log_days=options.log_days,
        log_max_bytes=round(options.log_max_mb * 2**20),
    )
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"week-{options.seed}-", dir=scratch()))
    found, week = run_week(folder, plan, is_told=True)
    for words in found:
        print(f"seed {options.seed}: {words} ({folder} is kept)")
    if not found:
        shutil.rmtree(folder)
    print(
        f"{options.days} days, {week.describe()}: {len(found)} violations"
        f" ({time.monotonic() - started:.0f} s)"
    )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
