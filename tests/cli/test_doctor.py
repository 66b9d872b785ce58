"""``doctor``: each thing that can be wrong is found, with its fix, and nothing is changed."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import Place
from tests.process.station import until

if TYPE_CHECKING:
    from pathlib import Path


def found(place: Place, check: str, path: str = os.environ["PATH"]) -> dict[str, Any]:
    """Return the worst finding of a check."""
    answer = place.run("doctor", "--json", PATH=path)
    order = ["ok", "warn", "fail"]
    mine = [one for one in answer.json["checks"] if one["check"] == check]
    worst: dict[str, Any] = max(mine, key=lambda one: order.index(one["verdict"]))
    assert (answer.code == 1) is bool(answer.json["failures"]), answer
    assert worst["fix"] or worst["verdict"] == "ok"
    return worst


@pytest.fixture
def path_with_crontab(tmp_path: Path) -> str:
    """Return a PATH on which there is a crontab(1); it holds nothing yet."""
    crontab = tmp_path / "crontab"
    crontab.write_text('#!/bin/sh\n[ "$1" = -l ] && cat "$0.spool" || cat > "$0.spool"\n')
    crontab.chmod(0o755)
    (tmp_path / "crontab.spool").write_text("")
    return f"{tmp_path}:{os.environ['PATH']}"


def all_running(place: Place) -> bool:
    """Whether every lease has its command running."""
    leases = place.run("ps", "--json").json["leases"]
    return bool(leases) and all(one["state"] == "running" for one in leases)


def test_a_fresh_place_has_warnings_and_no_failure_and_stays_empty(
    place: Place, path_with_crontab: str
):
    answer = place.run("doctor", PATH=path_with_crontab)

    assert (answer.code, answer.err) == (0, "")
    assert (
        "warn  ticks: nothing makes ticks happen by themselves; last tick: none yet" in answer.out
    )
    assert f"      fix: {place.program} service install\n" in answer.out
    assert answer.out.splitlines()[-1].endswith(", 2 warnings, 0 failures")
    assert list(place.base.iterdir()) == []


def test_a_place_at_work_is_looked_at_without_a_change(place: Place):
    place.settings["HEARTBEAT_SEC"] = "1000"
    for _ in range(2):
        place.add("--", "sleep", "1000")
    place.run("run")
    until(lambda: all_running(place), "both commands")
    before = place.digest()

    answer = place.run("doctor")

    assert answer.code == 0
    assert place.digest() == before
    assert re.search(r"^ok    database: whole, version \d+, 2 tasks", answer.out, re.MULTILINE)
    assert "ok    leases: 2 under way, all alive" in answer.out
    assert {line.split()[0] for line in answer.out.splitlines()[:-1]} <= {"ok", "warn", "fix:"}


def test_quiet_shows_only_what_is_not_as_it_should_be(place: Place):
    lines = place.run("-q", "doctor").out.splitlines()

    assert [line.split()[0] for line in lines[:-1]] == ["warn", "fix:", "warn", "fix:"]


def test_settings_that_cannot_be_used_are_a_failure_and_the_machine_is_looked_at(place: Place):
    answer = place.run("doctor", TINYSCHEDULER_LOG_LEVEL="loud")

    assert answer.code == 1
    assert "fail  settings: 'loud' from the environment is not one of" in answer.out
    assert "ok    python: " in answer.out
    assert "fail  state: was not looked at" in answer.out


def test_a_fault_of_the_agents_file_does_not_hide_the_state(place: Place):
    place.add("--", "true")
    place.state.chmod(0o755)
    (place.base / "agents.yaml").write_text("agents: {shell: {limit: two}}\n")

    answer = place.run("doctor")

    assert answer.code == 1
    assert "fail  settings: limit of agent shell: 'two' is not a whole number" in answer.out
    assert "was not looked at" not in answer.out
    assert f"fix: chmod 700 {place.state}\n" in answer.out
    assert re.search(r"^ok    database: whole, version \d+, 1 task,", answer.out, re.MULTILINE)


def test_an_agent_whose_program_is_missing_is_a_failure(place: Place):
    (place.base / "agents.yaml").write_text("agents: {coder: {command: [no-such-program]}}\n")

    finding = found(place, "agents")

    assert finding["verdict"] == "fail"
    assert "no-such-program is not on PATH" in finding["what"]


def test_a_source_that_does_not_answer_is_a_failure(place: Place):
    place.settings |= {"SOURCES": "tinytask", "MCP_ENDPOINT": "http://me:secret@127.0.0.1:1/mcp"}

    finding = found(place, "sources")

    assert (finding["verdict"], finding["where"]) == ("fail", "tinytask")
    assert "http://127.0.0.1:1/mcp: list_tasks: Connection refused" in finding["what"]
    assert "MCP_ENDPOINT" in finding["fix"]


def test_a_damaged_queue_is_a_failure(place: Place):
    place.add("--", "true")
    database = place.state / "tinyscheduler.db"
    database.write_bytes(b"garbage" * 1000)

    finding = found(place, "database")

    assert (finding["verdict"], finding["where"]) == ("fail", str(database))
    assert "is damaged" in finding["what"]


def test_a_page_that_broke_inside_the_queue_is_found(place: Place):
    line = '{"command": ["true"], "title": "' + "x" * 500 + '"}\n'
    assert place.run("add", "--from", "-", stdin=line.encode() * 200).code == 0
    database = place.state / "tinyscheduler.db"
    content = bytearray(database.read_bytes())
    half = len(content) // 2 // 4096 * 4096
    content[half : half + 8192] = b"\xff" * 8192
    database.write_bytes(content)

    assert found(place, "database")["verdict"] == "fail"


def test_a_folder_that_others_can_read_is_a_warning(place: Place):
    place.run("run")
    place.state.chmod(0o755)

    finding = found(place, "folders")

    assert (finding["verdict"], finding["fix"]) == ("warn", f"chmod 700 {place.state}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_state_of_another_user_is_a_failure(place: Place):
    place.run("run")
    os.chown(place.state, 65534, 65534)

    finding = found(place, "folders")

    assert finding["verdict"] == "fail"
    assert "belongs to nobody" in finding["what"]


def test_a_tick_lock_whose_holder_is_gone_is_a_warning(place: Place):
    place.run("run")  # its line stays, its process does not
    with (place.state / "tinyscheduler.pid").open("r+") as pidfile:
        fcntl.flock(pidfile, fcntl.LOCK_EX)

        finding = found(place, "tick lock")

    assert finding["verdict"] == "warn"
    assert "is gone: another process keeps it open" in finding["what"]


def test_a_tick_lock_held_for_longer_than_ten_budgets_is_a_warning(place: Place):
    place.run("run")
    with (place.state / "tinyscheduler.pid").open("r+") as pidfile:
        fcntl.flock(pidfile, fcntl.LOCK_EX)
        with open(f"/proc/{os.getpid()}/stat") as file:
            ticks = file.read().rpartition(")")[2].split()[19]
        line = f"pid {os.getpid()}, start ticks {ticks}, since 2020-01-01T00:00:00.000Z\n"
        pidfile.write(line)
        pidfile.flush()

        old = found(place, "tick lock")

    assert old["verdict"] == "warn"
    assert "held for " in old["what"]


def test_a_tick_at_work_is_no_trouble(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "20000"
    for _ in range(2):
        place.add("--", "sleep", "1000")
    with place.start("run") as tick:
        until(lambda: list((place.state / "running").glob("*.json")), "the first start")

        finding = found(place, "tick lock")
        tick.terminate()
        tick.communicate(timeout=20)

    assert finding["verdict"] == "ok"
    assert f"a tick is at work (pid {tick.pid}, " in finding["what"]


def test_a_wrapper_that_died_is_a_warning(place: Place):
    task_id = place.add("--", "sleep", "1000")
    place.run("run")
    until(lambda: all_running(place), "the command")
    os.kill(place.run("ps", "--json").json["leases"][0]["pid"], 9)

    until(lambda: found(place, "leases")["verdict"] == "warn", "a lease without a sign of life")

    assert f"without a sign of life: task {task_id}" in found(place, "leases")["what"]


def test_what_was_set_aside_is_a_warning(place: Place):
    (place.state / "quarantine").mkdir(parents=True)
    for number in range(5):
        (place.state / "quarantine" / f"task_{number}.json.1").write_text("{")

    finding = found(place, "quarantine")

    assert finding["what"] == (
        "5 broken files set aside: task_0.json.1, task_1.json.1, task_2.json.1 and 2 more"
    )


def test_a_clock_that_went_back_is_a_warning(place: Place):
    place.run("run")
    later = time.time() + 7200
    os.utime(place.state / "tinyscheduler.pid", (later, later))

    finding = found(place, "clocks")

    assert finding["verdict"] == "warn"
    assert "in the future: the clock went back" in finding["what"]


def test_a_clock_that_was_moved_since_a_heartbeat_is_a_warning(place: Place):
    place.settings["HEARTBEAT_SEC"] = "1000"
    place.add("--", "sleep", "1000")
    place.run("run")
    lock = next((place.state / "running").glob("*.lock"))
    until(lambda: place.run("ps", "--json").json["leases"][0]["pid"], "the wrapper")
    beat = lock.stat().st_mtime_ns
    os.utime(lock, ns=(time.time_ns() - 3600 * 10**9, beat))

    finding = found(place, "clocks")

    assert finding["verdict"] == "warn"
    assert "was moved by +" in finding["what"]


def test_a_daemon_is_seen_and_is_enough(place: Place):
    with place.start("run", "--daemon") as daemon:
        until(lambda: "serves" in place.run("doctor").out, "the daemon")

        finding = found(place, "ticks")
        daemon.terminate()
        daemon.communicate(timeout=20)

    assert finding["verdict"] == "ok"


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="only without systemd")
def test_without_cron_and_systemd_the_daemon_is_what_can_tick(place: Place, tmp_path: Path):
    finding = found(place, "ticks", str(tmp_path))

    assert finding["verdict"] == "warn"
    assert finding["fix"].startswith("keep `tinyscheduler run --daemon` running: in tmux")


def test_where_no_tick_comes_only_what_is_there_is_named(place: Place, path_with_crontab: str):
    assert place.run("service", "install", "cron", "--yes", PATH=path_with_crontab).code == 0
    cron = found(place, "ticks", path_with_crontab)["fix"]
    (place.base / "tinyscheduler-cron.log").touch()
    with_log = found(place, "ticks", path_with_crontab)["fix"]
    place.run("service", "uninstall", "cron", "--yes", PATH=path_with_crontab)
    place.run("service", "install", "daemon", "--user", "--yes")

    daemon = found(place, "ticks")["fix"]

    just_now = "wait a minute if it was installed just now; then look "
    assert cron == f"{just_now}for CRON in the log of the system: its line never began"
    assert with_log == f"{just_now}into {place.base}/tinyscheduler-cron.log"
    assert daemon == f"{just_now}at `systemctl --user status tinyscheduler.service`"


def test_a_service_that_does_not_tick_is_a_failure(place: Place, path_with_crontab: str):
    path = path_with_crontab
    assert place.run("service", "install", "cron", "--yes", PATH=path).code == 0
    (place.base / "tinyscheduler-cron.log").write_text("error: first\nerror: no disk\nhint: x\n")

    silent = found(place, "ticks", path)
    cron = place.run("doctor", PATH=path).out
    place.run("run")
    ticking = found(place, "ticks", path)

    assert (silent["verdict"], ticking["verdict"]) == ("fail", "ok")
    assert "warn  cron: ticks complained: no disk (at " in cron


def test_a_full_disk_is_a_failure(tmp_path: Path):
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M,nr_inodes=300", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("only where a filesystem may be mounted")
    try:
        place = Place(mount / "base")
        assert found(place, "disk")["verdict"] == "fail"
        assert found(place, "filesystem")["verdict"] == "warn"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_gpus_are_asked_for_and_a_lost_one_is_a_failure(place: Place):
    assert found(place, "gpus")["what"].startswith("none: ")
    place.settings["GPU_PROBE"] = "file:gpus.json"
    (place.base / "gpus.json").write_text(
        '{"gpus": [{"uuid": "GPU-a", "name": "RTX", "total": 5},'
        ' {"uuid": "GPU-b", "name": "T4", "fault": "GPU is lost"}]}'
    )

    lost = found(place, "gpus")
    (place.base / "gpus.json").write_text('{"gpus": 5}')
    unknown = found(place, "gpus")

    assert (lost["verdict"], lost["what"]) == ("fail", "GPU 1 (T4): GPU is lost")
    assert unknown["verdict"] == "fail"
    assert "gpus.gpus should be a list" in unknown["what"]
