"""GPUs that a file describes are shared by real attempts, each of which sees its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.gpus.driver import driver
from tests.process.station import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.place import Place

__all__ = ["driver"]

GIB = 2**30
SHOW = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER; sleep 600")


def describe(place: Place, *gpus: dict[str, Any]) -> None:
    """Write the file that is probed; each GPU has 24 GiB unless it is stated."""
    entries = [
        {"index": number, "uuid": f"GPU-{number}", "name": "RTX", "total": 24 * GIB, **gpu}
        for number, gpu in enumerate(gpus)
    ]
    # At one blow, as drivers answer.
    (place.base / "new.json").write_text(json.dumps({"gpus": entries}))
    (place.base / "new.json").rename(place.base / "gpus.json")


@pytest.fixture
def place(place: Place) -> Place:
    place.settings |= {"AGENT_LIMITS": "shell:9", "GPU_PROBE": "file:gpus.json", "KICK": "false"}
    return place


def run(place: Place) -> dict[str, str]:
    """Tick once and return why each task waits that does."""
    answer = place.run("run", "--json").json
    assert not answer["errors"]
    return {one["task_id"]: one["reason"] for one in answer["decisions"] if one["action"] == "wait"}


def leases(place: Place) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (place.state / "running").glob("*.json"):
        lease = json.loads(path.read_text())
        found[lease["task_id"]] = lease
    return found


def said(place: Place, task_id: str) -> str:
    """Return the first line that the task printed."""
    log = place.state / "logs" / "tasks" / task_id / "1.log"
    until(lambda: log.exists() and "\n" in log.read_text(), "the task to print")
    return log.read_text().splitlines()[0]


def test_two_tasks_of_three_fifths_of_a_gpu_never_run_together(place: Place):
    describe(place, {})
    for _ in range(2):
        place.add("--vram", "14.4G", "--", *SHOW)

    for _ in range(3):
        assert run(place) == {"2": "vram_insufficient"}

    assert leases(place).keys() == {"1"}
    place.run("cancel", "1")
    until(lambda: run(place) == {} and leases(place).keys() == {"2"}, "the second to start")


def test_on_two_gpus_each_gets_one_and_sees_no_other(place: Place):
    describe(place, {}, {})
    for _ in range(2):
        place.add("--vram", "14.4G", "--", *SHOW)

    assert run(place) == {}

    assert {one: lease["gpu_uuids"] for one, lease in leases(place).items()} == {
        "1": ["GPU-0"],
        "2": ["GPU-1"],
    }
    assert said(place, "1") == "GPU-0 PCI_BUS_ID"
    assert said(place, "2") == "GPU-1 PCI_BUS_ID"


def test_whole_gpus_are_shared_with_nobody(place: Place):
    describe(place, {}, {}, {})
    place.add("--gpus", "2", "--", *SHOW)
    place.add("--gpus", "2", "--", *SHOW)
    place.add("--vram", "1G", "--", *SHOW)

    assert run(place) == {"2": "gpu_unavailable"}

    assert said(place, "1") == "GPU-0,GPU-1 PCI_BUS_ID"
    assert said(place, "3") == "GPU-2 PCI_BUS_ID"


def test_vram_of_a_killed_task_is_given_away_when_it_is_seen_free(place: Place):
    describe(place, {})
    place.add("--max-attempts", "1", "--vram", "14G", "--", "sleep", "600")
    place.add("--vram", "14G", "--", *SHOW)
    run(place)
    until(lambda: leases(place)["1"]["state"] == "running", "the task to run")
    wrapper = leases(place)["1"]["process"]["pid"]
    describe(place, {"used": 14 * GIB, "processes": [{"pid": wrapper, "used": 14 * GIB}]})
    os.kill(wrapper, signal.SIGKILL)  # its command goes with it

    # The lease is given back, but the driver has not cleaned up yet.
    until(
        lambda: run(place) == {"2": "vram_insufficient"} and not leases(place),
        "the lease to be given back",
    )
    assert run(place) == {"2": "vram_insufficient"}
    describe(place, {})
    assert run(place) == {}
    assert leases(place).keys() == {"2"}


def test_what_others_use_is_not_given_away(place: Place):
    describe(place, {"used": 20 * GIB, "processes": [{"pid": 1, "used": 20 * GIB}]}, {"used": GIB})
    place.add("--vram", "20G", "--", *SHOW)
    place.add("--gpus", "1", "--", *SHOW)

    assert run(place) == {"2": "gpu_unavailable"}

    assert leases(place)["1"]["gpu_uuids"] == ["GPU-1"]
    assert "GPU 0 is used by 1 process of others" in place.run("why", "2").out


def test_the_mask_that_was_set_for_us_holds_for_all(place: Place):
    describe(place, {}, {}, {})
    place.add("--gpus", "1", "--", *SHOW)
    place.add("--", *SHOW)

    place.run("run", CUDA_VISIBLE_DEVICES="2")

    assert said(place, "1") == "GPU-2 PCI_BUS_ID"
    assert said(place, "2") == "2"


def test_a_task_that_asks_for_none_is_told_of_none(place: Place):
    describe(place, {})
    place.add("--", *SHOW)
    place.add("--env", "CUDA_VISIBLE_DEVICES=7", "--vram", "1G", "--", *SHOW)

    run(place)

    assert said(place, "1") == ""
    # What it was given is not its own to say.
    assert said(place, "2") == "GPU-0 PCI_BUS_ID"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "gpu_unknown"),
        ("garbage", "gpu_unknown"),
        ('{"gpus": []}', "gpu_unavailable"),
        ('{"gpus": [{"uuid": "GPU-0", "fault": "GPU is lost"}]}', "gpu_unknown"),
    ],
)
def test_without_sight_of_gpus_everything_else_goes_on(place: Place, text: str | None, reason: str):
    if text is not None:
        (place.base / "gpus.json").write_text(text)
    place.add("--vram", "1G", "--", *SHOW)
    place.add("--", *SHOW)

    assert run(place) == {"1": reason}
    assert leases(place).keys() == {"2"}
    assert "needs a GPU" in place.run("why", "1").out or reason != "gpu_unavailable"


def test_a_driver_that_hangs_holds_a_tick_up_for_two_seconds_and_starts_no_gpu_work(
    place: Place,
    driver: Path,
):
    place.settings["GPU_PROBE"] = "nvml"
    place.add("--vram", "1G", "--", *SHOW)
    place.add("--", *SHOW)
    program = (
        "import tinyscheduler.adapters.gpu_nvml.driver as driver\n"
        "driver._FILES = ('/',)\n"  # this machine has a driver
        "from tinyscheduler.__main__ import run\n"
        "run()"
    )
    environment = place.environment(LD_LIBRARY_PATH=str(driver), FAKE_NVML="hang")

    def tick() -> tuple[float, dict[str, Any]]:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, "--base-path", str(place.base), "run", "--json"],
            env=environment,
            capture_output=True,
            check=True,
            timeout=30,
        )
        return time.monotonic() - began, json.loads(done.stdout)

    took_s, report = tick()

    assert took_s < 2 + 2  # and a start of Python on a busy machine
    assert {one["task_id"]: one["action"] for one in report["decisions"]} == {
        "1": "wait",
        "2": "dispatch",
    }
    assert "did not answer within 1.5 s" in str(report["decisions"])
    # Nothing of it is left, neither a process nor a lock: another tick goes through.
    environment["FAKE_NVML"] = "two"
    _, report = tick()
    assert {one["task_id"]: one["action"] for one in report["decisions"]} == {"1": "dispatch"}
    # Where less is left.
    assert said(place, "1") == "GPU-fake-2 PCI_BUS_ID"


def test_a_hundred_that_need_a_gpu_which_is_not_there_hold_up_no_other(place: Place):
    (place.base / "gpus.json").write_text('{"gpus": []}')
    place.settings["QUEUE_LOOKAHEAD"] = "0"
    line = json.dumps({"command": ["true"], "vram": "1G", "cwd": "/"}) + "\n"
    place.run("add", "--from", "-", stdin=line.encode() * 100)
    place.add("--", *SHOW)

    run(place)

    assert leases(place).keys() == {"101"}


def test_a_whole_gpu_is_overtaken_twice_by_small_ones_and_is_next(place: Place):
    describe(place, {})
    place.add("--vram", "2G", "--", "sleep", "600")
    run(place)
    place.add("--gpus", "1", "--", *SHOW)

    for _ in range(4):
        place.add("--vram", "2G", "--", "sleep", "600")
        waits = run(place)

    assert leases(place).keys() == {"1", "3", "4"}
    assert waits == {
        "2": "gpu_unavailable",
        "5": "overtaken_limit",
        "6": "overtaken_limit",
    }
    place.run("cancel", "1", "3", "4")
    until(lambda: run(place) and leases(place).keys() == {"2"}, "the whole GPU")
    assert "task 2 comes first" not in place.run("why", "5").out  # it runs now


def test_with_lookahead_0_nothing_overtakes(place: Place):
    describe(place, {"used": 20 * GIB}, {})
    place.settings["QUEUE_LOOKAHEAD"] = "0"
    place.add("--gpus", "2", "--", *SHOW)
    place.add("--", *SHOW)

    assert run(place) == {"1": "gpu_unavailable", "2": "overtaken_limit"}
    place.settings["QUEUE_LOOKAHEAD"] = "1"
    assert run(place) == {"1": "gpu_unavailable"}


def test_a_process_on_the_wrong_gpu_is_told_once_and_shown_as_long_as_it_is_there(place: Place):
    describe(place, {}, {})
    place.add("--vram", "14G", "--", "sleep", "600")
    run(place)
    until(lambda: leases(place)["1"]["state"] == "running", "the task to run")
    wrapper = leases(place)["1"]["process"]["pid"]
    command = leases(place)["1"]["process"]["pgid"]
    describe(place, {}, {"used": 6 * GIB, "processes": [{"pid": command, "used": 6 * GIB}]})
    place.add("--vram", "20G", "--", "sleep", "600")

    first = place.run("run", "--json")
    second = place.run("run", "--json")

    words = f"task 1 is on GPU 1 (6 GiB, pid {command}) and was put on GPU 0"
    assert first.json["warnings"] == [words]
    assert words in first.err
    assert second.json["warnings"] == []
    events = [json.loads(line) for line in place.run("events", "--json").out.splitlines()]
    (event,) = (one for one in events if one["event"] == "gpu.misplaced")
    assert {key: event[key] for key in ("task_id", "attempt", "agent")} == {
        "task_id": "1",
        "attempt": 1,
        "agent": "shell",
    }
    assert (event["gpu_index"], event["gpu_uuid"]) == (1, "GPU-1")
    assert event["pids"] == [command]
    assert event["used_bytes"] == 6 * GIB
    assert event["placed_on"] == ["GPU-0"]
    assert wrapper != command
    # Nothing of the 24 GiB where it is, nor of its own place, is given away.
    assert leases(place).keys() == {"1"}
    shown = place.run("gpu").out
    assert "1 (put elsewhere)" in shown
    assert words in shown
    assert words in place.run("status").out
    assert [one["misplaced"] for one in place.run("gpu", "--json").json["gpus"]] == [[], ["1"]]
    doctor = place.run("doctor", "--json").json["checks"]
    assert ("warn", words) in {(one["verdict"], one["what"]) for one in doctor}
    log = (place.state / "logs").glob("scheduler_*.log")
    assert f"pids={command}" in "".join(path.read_text() for path in log)


def test_a_gpu_without_memory_of_its_own_takes_the_machines(place: Place):
    describe(place, {"total": None})
    place.settings["MEMORY_PER_SLOT_MB"] = "64"
    available = place.run("health", "--json").json["memoryAvailableMB"]
    place.add("--vram", f"{available * 6 // 10}M", "--memory", "0", "--", "sleep", "600")
    place.add("--vram", f"{available * 6 // 10}M", "--memory", "0", "--", "sleep", "600")
    place.add("--memory", f"{available * 6 // 10}M", "--", "sleep", "600")

    for _ in range(2):
        assert run(place) == {"2": "vram_insufficient", "3": "memory_insufficient"}

    needs = leases(place)["1"]["needs"]
    assert needs["shared_bytes"] == needs["vram_bytes"] == (available * 6 // 10) << 20
    (gpu,) = place.run("gpu", "--json").json["gpus"]
    assert gpu["is_unified"]
    assert gpu["free_bytes"] < (available * 5 // 10) << 20
    for task_id, option in (("2", "--vram"), ("3", "--memory")):
        free = place.run("why", task_id, "--json").json["shortfall"]["free_bytes"]
        # The rest of this machine goes on meanwhile.
        place.run("edit", task_id, option, f"{free * 4 // 10 // 2**20}M")
    assert run(place) == {}
