"""Memory decides about starts, on this real machine and for real attempts."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.place import Place

GREEDY = """
import sys, time
held = bytearray(int(sys.argv[1]))
held[::4096] = b"x" * len(held[::4096])
print("holding", flush=True)
time.sleep(600)
"""


@pytest.fixture
def place(place: Place) -> Place:
    place.settings |= {"AGENT_LIMITS": "shell:9", "KICK": "false"}
    return place


def available_mb(place: Place) -> int:
    number: int = place.run("health", "--json").json["memoryAvailableMB"]
    return number


def running(place: Place) -> list[str]:
    return [one["task_id"] for one in place.run("status", "--json").json["running"]]


def test_memory_for_one_starts_exactly_one_though_five_wait(place: Place):
    place.settings["MEMORY_PER_SLOT_MB"] = str(available_mb(place) * 6 // 10)
    for _ in range(5):
        place.add("--", "sleep", "600")

    for _ in range(3):
        # The first has used next to nothing of what was reserved for it.
        assert place.run("run").code == 0
        assert running(place) == ["1"]

    why = place.run("why", "2", "--json").json
    assert why["reason"] == "memory_insufficient"
    assert why["shortfall"]["resource"] == "memory"
    assert why["shortfall"]["needed_bytes"] > why["shortfall"]["free_bytes"]
    assert f"`{place.program} edit 2 --memory " in place.run("why", "2").out


def test_with_as_little_as_why_says_it_starts(place: Place):
    place.settings["MEMORY_PER_SLOT_MB"] = str(available_mb(place) * 6 // 10)
    place.add("--", "sleep", "600")
    place.add("--", "sleep", "600")
    place.run("run")
    free = place.run("why", "2", "--json").json["shortfall"]["free_bytes"]

    # The rest of this machine goes on meanwhile: with nine tenths of it.
    place.run("edit", "2", "--memory", f"{free * 9 // 10 // 2**20}M")
    place.run("run")

    assert running(place) == ["1", "2"]


def test_what_a_task_asks_for_is_in_its_lease(place: Place):
    place.settings["MEMORY_PER_SLOT_MB"] = "7"
    (place.base / "agents.yaml").write_text(
        "agents: {shell: {limit: 5}, frugal: {memory: 5M, command: [sleep, '600']}}\n"
    )
    place.add("--", "sleep", "600")
    place.add("--memory", "3M", "--", "sleep", "600")
    place.add("--agent", "frugal", "--prompt", "x")
    place.add("--memory", "0", "--agent", "shell", "--", "sleep", "600")

    place.run("run")

    leases = {
        path.stem: json.loads(path.read_text())["needs"]["memory_bytes"] // 2**20
        for path in (place.state / "running").glob("*.json")
    }
    assert leases == {"task_1": 7, "task_2": 3, "task_3": 5, "task_4": 0}


def test_critical_memory_starts_nothing_and_says_why(place: Place):
    place.settings["MEMORY_CRITICAL"] = "0.001"
    place.add("--memory", "0", "--", "true")

    answer = place.run("run", "--json").json

    assert answer["stats"]["tasks_spawned"] == 0
    (decision,) = answer["decisions"]
    assert decision["reason"].startswith("memory_critical")
    assert "nothing starts from 0%" in place.run("why", "1").out


def with_stalls(
    place: Place, text: str, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command where the kernel says that of the time lost in waiting for memory."""
    told = place.base / "told"
    told.write_text(text)
    hide = 'mount --bind "$0" /proc/pressure/memory && exec "$@"'
    within = ("unshare", "--mount", "sh", "-c", hide, str(told))
    if subprocess.run([*within, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("only where a mount namespace may be made")
    return subprocess.run(
        [*within, *place.argv(*arguments)],
        env=place.environment(**{f"TINYSCHEDULER_{key}": one for key, one in settings.items()}),
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_nothing_starts_while_programs_wait_for_memory_and_everybody_says_so(place: Place):
    place.add("--memory", "0", "--", "sleep", "600")
    stalled = "some avg10=31.25 avg60=0.00 avg300=0.00 total=5\n"
    words = "programs here waited for memory 31% of the last 10 s"

    unasked = with_stalls(place, stalled, "why", "1")
    tick = with_stalls(place, stalled, "run", "--json", MEMORY_STALL_CRITICAL="0.3")
    why = with_stalls(place, stalled, "why", "1", MEMORY_STALL_CRITICAL="0.3")
    health = with_stalls(place, stalled, "health", "--json", MEMORY_STALL_CRITICAL="0.3")
    status = with_stalls(place, stalled, "status", "--json", MEMORY_STALL_CRITICAL="0.3")

    assert b"nothing keeps it" in unasked.stdout
    (decision,) = json.loads(tick.stdout)["decisions"]
    assert decision["reason"] == "memory_critical"
    assert decision["words"] == f"{words}; nothing starts from 30% (MEMORY_STALL_CRITICAL)"
    assert words in why.stdout.decode()
    document = json.loads(health.stdout)
    assert (health.returncode, document["healthy"]) == (1, False)
    assert document["memoryPressure"] == "critical"
    assert f"{words}, the limit is 30%" in {one["message"] for one in document["issues"]}
    assert json.loads(status.stdout)["health"]["memoryPressure"] == "critical"
    eased = stalled.replace("31.25", "29.00")
    with_stalls(place, eased, "run", MEMORY_STALL_CRITICAL="0.3")
    assert running(place) == ["1"]


def test_where_the_kernel_tells_no_stalls_the_gate_is_open_and_validate_says_so(place: Place):
    place.add("--memory", "0", "--", "sleep", "600")
    words = b"TINYSCHEDULER_MEMORY_STALL_CRITICAL: has no effect here: /proc/pressure/memory tells"

    checked = with_stalls(place, "", "validate-config", MEMORY_STALL_CRITICAL="0.3")
    doctor = with_stalls(place, "", "doctor", MEMORY_STALL_CRITICAL="0.3")
    told = with_stalls(place, "some avg10=0.00\n", "validate-config", MEMORY_STALL_CRITICAL="0.3")
    off = with_stalls(place, "", "validate-config")
    with_stalls(place, "", "run", MEMORY_STALL_CRITICAL="0.3")

    assert words in checked.stdout + checked.stderr
    assert b"has no effect here: /proc/pressure/memory" in doctor.stdout
    assert b"STALL" not in told.stdout + told.stderr + off.stdout + off.stderr
    assert running(place) == ["1"]


def test_a_warning_starts_and_is_told_once(place: Place):
    place.settings["MEMORY_WARNING"] = "0.001"
    place.add("--", "sleep", "600")

    place.run("run")
    place.run("run")

    assert running(place) == ["1"]
    lines = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if "memory-pressure" in line]
    assert [(one["event"], one["level"]) for one in told] == [("memory-pressure", "warning")]
