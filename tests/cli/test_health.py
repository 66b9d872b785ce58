"""``health``: exactly the documented figures, within the limits of our control group."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.adapters.probe_host import ProcProbe
from tinyscheduler.errors import ProbeError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.place import Place

KEYS = {
    *("memoryTotalMB", "memoryUsedMB", "memoryAvailableMB", "memoryPressure", "activeSlots"),
    *("maxSlots", "availableSlots", "cpuUsagePercent", "healthy", "schema_version", "issues"),
}
GIB = 2**30


def test_the_document_has_exactly_the_documented_keys(place: Place):
    answer = place.run("health", "--json")

    document = answer.json
    assert set(document) == KEYS
    assert answer.code == (0 if document["healthy"] else 1)
    assert document["memoryTotalMB"] == pytest.approx(
        document["memoryUsedMB"] + document["memoryAvailableMB"], abs=1
    )
    assert (document["activeSlots"], document["maxSlots"], document["availableSlots"]) == (0, 2, 2)
    assert 0 <= document["cpuUsagePercent"] <= 100
    assert document["memoryPressure"] in {"none", "warning", "critical"}


def test_status_tells_the_same_figures(place: Place):
    status = place.run("status", "--json").json

    assert set(status["health"]) == KEYS - {"schema_version", "issues"}
    assert status["resourceHealth"] == status["health"]


def test_memory_beyond_its_limit_is_unhealthy_and_ends_with_1(place: Place):
    place.settings |= {"MEMORY_WARNING": "0.000001", "MEMORY_CRITICAL": "0.000001"}

    answer = place.run("health", "--json")

    assert (answer.code, answer.json["healthy"]) == (1, False)
    assert answer.json["memoryPressure"] == "critical"
    (issue,) = answer.json["issues"]
    assert set(issue) == {"severity", "component", "message", "recommendation"}
    assert (issue["severity"], issue["component"]) == ("critical", "memory")
    text = place.run("health")
    assert text.code == 1
    assert text.out.startswith("not healthy\n")
    # How much is in use may change between the two.
    assert "% of the memory is in use, the limit is 0%" in issue["message"]
    assert "% of the memory is in use, the limit is 0%" in text.out
    assert issue["recommendation"] in text.out


def test_a_broken_database_is_an_issue_and_no_failure_of_the_command(place: Place):
    place.state.mkdir()
    (place.state / "tinyscheduler.db").write_bytes(b"garbage" * 1000)

    answer = place.run("health", "--json")

    assert answer.code == 1
    assert ("critical", "queue") in {
        (one["severity"], one["component"]) for one in answer.json["issues"]
    }


def test_what_waits_while_nothing_ticks_is_a_warning(place: Place):
    place.add("--", "true")

    (issue,) = place.run("health", "--json").json["issues"]

    assert (issue["severity"], issue["component"]) == ("warning", "ticks")
    assert issue["message"] == "1 task waiting, and the last tick there was none yet"


def test_a_corrupt_lease_is_named(place: Place):
    folder = place.state / "running"
    folder.mkdir(parents=True)
    (folder / "task_7.json").write_text("{")

    issues = place.run("health", "--json").json["issues"]

    assert [one["component"] for one in issues if "task 7" in one["message"]] == ["leases"]


def a_machine(root: Path, **files: str) -> Path:
    """Write the files of /proc and /sys that are read; ``__`` in a name means ``/``."""
    files = {
        "proc__meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n",
        "proc__loadavg": "0.50 0.1 0.1 1/1 1\n",
        "proc__self__cgroup": "0::/a/b\n",
    } | files
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_tightest_group_above_us_limits_the_memory(tmp_path: Path):
    a_machine(
        tmp_path,
        sys__fs__cgroup__a__b__memory="",
        **{
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/memory.max": str(4 * GIB),
            "sys/fs/cgroup/a/memory.current": str(3 * GIB),
            "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000",
        },
    )

    reading = ProcProbe(root=str(tmp_path)).read()

    assert reading.memory_total_bytes == 4 * GIB
    assert reading.memory_available_bytes == 2 * GIB  # droppable page cache counts as free
    assert reading.cores == 0.5


def test_an_older_kernel_tells_it_under_other_names(tmp_path: Path):
    a_machine(
        tmp_path,
        proc__self__cgroup="4:memory:/x\n1:cpu:/x\n",
        **{
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": str(GIB),
        },
    )

    assert ProcProbe(root=str(tmp_path)).read().memory_available_bytes == GIB


PSI = "some avg10={} avg60=9.00 avg300=9.00 total=5\nfull avg10=9.00 avg60=9.00 total=5\n"


def test_the_worst_of_the_stalls_counts_that_limit_us(tmp_path: Path):
    a_machine(
        tmp_path,
        proc__pressure__memory=PSI.format("12.50"),
        **{
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/b/memory.pressure": PSI.format("99.00"),  # it sets no limit
            "sys/fs/cgroup/a/memory.max": str(4 * GIB),
            "sys/fs/cgroup/a/memory.current": str(GIB),
            "sys/fs/cgroup/a/memory.pressure": PSI.format("31.00"),
        },
    )

    assert ProcProbe(sees_stalls=True, root=str(tmp_path)).read().memory_stall == 0.31
    (tmp_path / "sys/fs/cgroup/a/memory.pressure").unlink()
    assert ProcProbe(sees_stalls=True, root=str(tmp_path)).read().memory_stall == 0.125
    assert ProcProbe(root=str(tmp_path)).read().memory_stall is None


@pytest.mark.parametrize("text", [None, "", "some", "some avg10=x", "full avg10=9.00 total=5"])
def test_a_kernel_that_tells_no_stalls_has_none(tmp_path: Path, text: str | None):
    a_machine(tmp_path, **({} if text is None else {"proc__pressure__memory": text}))

    assert ProcProbe(sees_stalls=True, root=str(tmp_path)).read().memory_stall is None


@pytest.mark.parametrize("text", ["", "MemTotal: x kB\n", "MemTotal: 5 kB\n"])
def test_an_unreadable_machine_is_said_to_be_one(tmp_path: Path, text: str):
    a_machine(tmp_path, proc__meminfo=text)

    with pytest.raises(ProbeError, match="cannot read the state of this machine"):
        ProcProbe(root=str(tmp_path)).read()


def test_people_read_the_same_figures(place: Place):
    document = place.run("health", "--json").json

    lines = place.run("health").out.splitlines()

    assert lines[2] == "slots:   0 of 2 in use"
    assert f"of {document['memoryTotalMB']} MiB used" in lines[1]
    assert json.dumps(document["healthy"]) == {"healthy": "true"}.get(lines[0], "false")
