"""SIGKILL before and after each durable step, then tick until quiet: nothing lost, nothing twice.

The list of steps is read from the source, so a new step is tested or fails the first test.
"""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.station import Station, until

import tinyscheduler
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(tinyscheduler.__file__).parent


def points_in_the_code() -> frozenset[str]:
    """Return the name of every crash point in the package."""
    points = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in {"durable_step", "crash_point", "_crash_point"}:
                continue
            (argument,) = node.args
            if isinstance(argument, ast.Constant):
                name = str(argument.value)
                steps = node.func.id == "durable_step"
                points |= {f"{name}:before", f"{name}:after"} if steps else {name}
    return frozenset(points)


def both(*names: str) -> frozenset[str]:
    return frozenset(f"{name}:{when}" for name in names for when in ("before", "after"))


# What a plain task passes through, from its tick to the kicked tick that settles it.
PLAIN = both(
    "lock.create",
    "lease.create",
    "queue.claim",
    "launch.spawn",
    "wrapper.running",
    "wrapper.command",
    "wrapper.result",
    "wrapper.lock",
    "wrapper.kick",
    "kick.forget",
    "queue.settle",
    "ledger.record",
    "lease.remove",
    "cancel.remove",
    "result.remove",
    "lock.remove",
    "memory.save",
    "round.record",
) | {"wrapper.kicked:before"}
# What a tick passes through when it gives back a task whose wrapper was killed.
RECLAIM = both(
    "queue.settle", "ledger.record", "lease.remove", "cancel.remove", "result.remove", "lock.remove"
)
CORRUPT = both("lease.quarantine", "result.quarantine")
COMMANDS = both(
    "queue.add", "queue.cancel", "cancel.create", "queue.retry", "queue.hold", "queue.edit"
)
SET_UP = both("settings.save", "database.create", "database.copy", "database.migrate")
SWITCHES = both("switch.set", "switch.clear")
REMOVING = both("prune.rows", "reset.rows")
# Killed there in tests/policy/test_deploying.py.
POLICIES = both(
    "policy.keep", "policy.activate", "policy.forget", "policy.keep_good", "policy.name_good"
)

# Killed there in tests/cli/test_schedules.py.
SCHEDULES = both(
    "schedule.add", "schedule.fire", "schedule.state", "schedule.run", "schedule.remove"
)

# Killed there in tests/cli/test_schedule_edits.py, test_schedule_files.py and test_pressure.py.
SCHEDULES |= both("schedule.edit", "schedule.apply", "schedule.change", "schedule.defer")
# Killed there in tests/process/test_pressure_files.py.
PRESSURES = both("pressure.set", "pressure.clear", "pressure.lift")
# Killed there in tests/process/test_budgets.py.
BUDGETS = both("budget.pause", "budget.lift")

# Killed there in tests/queue/test_shared_tasks.py.
SHARED = both("shared.change", "remark.change")

# Killed there in tests/cli/test_tinytask.py.
SOURCE_TASKS = both(
    "source_tasks.note", "source_tasks.claim", "source_tasks.unclaim", "source_tasks.settle"
)
# Killed there in tests/cli/test_provider_limits.py.
PROVIDERS = both("cooling.keep", "cooling.forget")

# From here on the result is durable: the command must never run again.
RECORDED = frozenset({"wrapper.result:after", "wrapper.kicked:before"}) | both(
    "wrapper.lock",
    "wrapper.kick",
    "queue.settle",
    "ledger.record",
    "lease.remove",
    "cancel.remove",
    "result.remove",
    "lock.remove",
)


def test_every_durable_step_of_the_code_is_in_the_matrix():
    apart = SET_UP | SWITCHES | REMOVING | POLICIES | SCHEDULES | PRESSURES | BUDGETS | SHARED
    apart |= SOURCE_TASKS | PROVIDERS
    assert points_in_the_code() == PLAIN | RECLAIM | CORRUPT | COMMANDS | apart


@pytest.mark.parametrize("point", sorted(PLAIN))
def test_a_task_killed_at_any_step_is_done_exactly_once_or_again_as_the_next_attempt(
    station: Station, point: str
):
    task_id = station.add("sleep 0.05")

    station.tick(crash_at=point)
    until(station.crash_mark.exists, f"a process to die at {point}")
    station.until_final(task_id)

    starts = station.starts(task_id)
    record = station.task(task_id)
    assert record.state is TaskState.DONE
    assert starts == sorted(set(starts)), "attempts start once each, in order"
    if point in RECORDED:
        assert starts == [1], "a recorded result is never run again"
    elif point.startswith(("wrapper.running:after", "wrapper.command", "wrapper.result:before")):
        assert starts[-1] == 2, "a lost attempt is followed by the next one"
    else:
        assert starts == [1], "an attempt that never started keeps its number"
    attempts = [attempt.attempt for attempt in station.queue().ledger.attempts(task_id)]
    assert attempts == list(range(1, starts[-1] + 1)), "each attempt is told once"
    station.assert_never_two_at_once()
    station.assert_no_survivors()


@pytest.mark.parametrize("point", sorted(RECLAIM))
def test_a_tick_killed_at_any_step_of_a_reclaim_leaves_it_to_the_next(
    make_station: Callable[..., Station], point: str
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || sleep 60')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)

    station.tick(crash_at=point)
    until(station.crash_mark.exists, f"a process to die at {point}")
    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.DONE
    assert station.starts(task_id) == [1, 2]
    assert [row.attempt for row in station.queue().ledger.attempts(task_id)] == [1, 2]
    station.assert_never_two_at_once()
    station.assert_no_survivors()


@pytest.mark.parametrize("point", sorted(both("lease.quarantine")))
def test_a_tick_killed_while_it_sets_a_corrupt_lease_aside_loses_neither_file_nor_task(
    make_station: Callable[..., Station], point: str
):
    station = make_station(kicks=False)
    task_id = station.add('[ "$TINYSCHEDULER_ATTEMPT" -gt 1 ] || sleep 60')
    station.tick()
    lease = station.until_running(task_id)
    os.kill(lease["pid"], signal.SIGKILL)
    (station.state / "running" / f"task_{task_id}.json").write_text("{broken")

    station.tick(crash_at=point)
    until(station.crash_mark.exists, f"a process to die at {point}")
    station.until_final(task_id)

    assert station.starts(task_id) == [1, 2]
    assert [path.read_text() for path in (station.state / "quarantine").iterdir()] == ["{broken"]


@pytest.mark.parametrize("point", sorted(both("result.quarantine")))
def test_a_tick_killed_while_it_sets_a_corrupt_result_aside_never_runs_the_task_again(
    make_station: Callable[..., Station], point: str
):
    station = make_station(kicks=False)
    task_id = station.add()
    station.tick()
    result = until(
        lambda: list((station.state / "results").glob("[!.]*.json")), "the result to be written"
    )[0]
    result.write_text("{broken")

    station.tick(crash_at=point)
    until(station.crash_mark.exists, f"a process to die at {point}")
    station.until_final(task_id)

    assert station.task(task_id).state is TaskState.PARKED
    assert station.starts(task_id) == [1]
    assert [path.read_text() for path in (station.state / "quarantine").iterdir()] == ["{broken"]
