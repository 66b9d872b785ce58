"""What others can read of a running task: a whole lease at every instant, and then nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.process.station import PYTHON, until

from tinyscheduler.model.documents import decode_lease
from tinyscheduler.model.tasks import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.process.station import Station

# As the reference of the lease file names them.
DOCUMENTED = frozenset(
    {
        *("task_id", "agent", "pid", "recipe", "started_at", "heartbeat", "host", "state"),
        *("metadata", "version", "lease_id", "source", "attempt", "launches", "process"),
        *("monotonic", "heartbeat_sec", "max_runtime_sec", "needs", "gpu_uuids", "pool"),
        *("launcher", "handle", "schedule_id", "max_turns", "turns", "model"),
    }
)
DOCUMENTED_PARTS = {
    "monotonic": {"started", "heartbeat"},
    "needs": {"slots", "memory_bytes", "gpus", "vram_bytes", "shared_bytes"},
    "process": {"boot_id", "pid", "start_ticks", "pgid", "pid_ns"},
}


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def assert_is_whole(document: dict[str, Any]) -> None:
    """Every documented field is there, and a program of ours can read it."""
    assert document.keys() >= DOCUMENTED
    for name, fields in DOCUMENTED_PARTS.items():
        if not (name == "process" and document["state"] == "starting"):
            assert document[name].keys() == fields
    decode_lease(document)
    assert document["started_at"].endswith("Z")
    assert document["heartbeat"].endswith("Z")


def test_a_lease_is_whole_from_the_moment_the_tick_writes_it(station: Station):
    task_id = station.add(labels=(("team", "a"),), max_turns=7)

    station.tick(crash_at="launch.spawn:before")

    lease = station.lease(task_id)
    assert lease is not None
    assert_is_whole(lease)
    assert (lease["state"], lease["pid"], lease["process"]) == ("starting", None, None)
    assert (lease["task_id"], lease["agent"], lease["attempt"]) == (task_id, "shell", 1)
    assert (lease["metadata"], lease["max_turns"]) == ({"team": "a"}, 7)


def test_a_reader_in_a_loop_finds_whole_leases_only_until_there_is_none(
    make_station: Callable[..., Station],
):
    station = make_station(HEARTBEAT_SEC="0.05")
    task_id = station.add("sleep 1.5")
    running = station.state / "running"
    path = running / f"task_{task_id}.json"
    ours = {path.name, f"task_{task_id}.lock"}
    seen: list[dict[str, Any]] = []
    reads = 0

    tick = station.start_tick()
    deadline = time.monotonic() + 30
    while not (seen and not path.exists()):
        assert time.monotonic() < deadline
        try:
            names = set(os.listdir(running))
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        reads += 1
        assert {name for name in names if name.startswith("task_")} <= ours, "no temporary file"
        assert_is_whole(document)
        if not seen or document != seen[-1]:
            seen.append(document)
    tick.communicate()

    order = ["starting", "running", "finished"]
    states = [order.index(document["state"]) for document in seen]
    assert states == sorted(states)
    beats = [one["monotonic"]["heartbeat"] for one in seen if one["state"] == "running"]
    assert len(beats) > 10
    assert beats == sorted(set(beats))
    assert reads > len(seen)
    fixed = [one for one in seen if one["state"] == "running"]
    assert all(one["process"] == fixed[0]["process"] for one in fixed)
    assert {one["lease_id"] for one in seen} == {fixed[0]["lease_id"]}


def test_a_second_after_wait_returns_lease_lock_and_result_are_gone(station: Station):
    task_id = station.add("sleep 0.2")
    tick = station.start_tick()

    waited = station.run("wait", task_id)

    assert waited.returncode == 0, waited.stderr
    until(lambda: station.leftovers() == [], "all to be gone", limit_s=1)
    assert station.task(task_id).state is TaskState.DONE
    tick.communicate()


@pytest.mark.usefixtures("_umask")
def test_whatever_the_umask_nobody_else_can_read_the_state(make_station: Callable[..., Station]):
    # Kicks are off: what a finished attempt leaves behind is looked at before it is settled.
    station = make_station(kicks=False)
    first = station.add(prompt="secret")
    station.tick()
    until(lambda: list((station.state / "results").glob("*.json")), "the first to end")
    second = station.add("sleep 300")
    station.tick()
    station.until_running(second)
    station.run("cancel", second).check_returncode()

    modes, folders = _modes(station.state)
    names = modes.keys()

    assert {name for name in modes if modes[name] & 0o077} == set()
    assert {modes[name] for name in folders} == {0o700}
    assert {modes[name] for name in names - folders} == {0o600}
    lease = station.lease(second)
    assert lease is not None
    assert names >= {
        f"running/task_{second}.json",
        f"running/task_{second}.lock",
        f"tasks/task_{first}.prompt",
        f"logs/tasks/{first}/1.log",
        f"cancel/{lease['lease_id']}",
        "tinyscheduler.pid",
        "tinyscheduler.db",
        "settings.json",
        "kick",
    }


def test_the_umask_of_a_tick_is_not_that_of_the_command(station: Station):
    task_id = station.add_command("sh", "-c", "umask; touch made")

    subprocess.run(
        [PYTHON, "-I", "-m", "tinyscheduler", "--base-path", station.base, "run", "--kicked"],
        env=station.environment(),
        umask=0o007,
        check=True,
        timeout=30,
    )
    station.wait_final(task_id)

    assert station.log(task_id) == b"0022\n"
    assert stat.S_IMODE((station.base / "made").stat().st_mode) == 0o644


def _modes(top: Path) -> tuple[dict[str, int], set[str]]:
    """Return the mode of everything from this folder down, and which of it are folders."""
    modes: dict[str, int] = {}
    folders = set()
    for path in [top, *top.rglob("*")]:
        name = str(path.relative_to(top))
        # A heartbeat may replace a temporary file meanwhile.
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
            modes[name] = stat.S_IMODE(mode)
            if stat.S_ISDIR(mode):
                folders.add(name)
    return modes, folders
