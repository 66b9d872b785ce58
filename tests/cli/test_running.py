"""``run``: what a tick says and which code it ends with."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import sqlite3
import stat
import time
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import compare, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place

REPORT_KEYS = (
    "schema_version tick_id started_at duration_ms dry_run locked stats reclaims decisions policy"
    " errors"
)
STATS_KEYS = (
    "leases_scanned leases_reclaimed tasks_spawned unassigned_matched assigned_spawned"
    " tasks_blocked tasks_waiting firings errors"
)


def test_the_report_has_every_documented_key(place: Place):
    place.add("--", "true")
    place.add("--hold", "--", "true")

    report = place.run("run", "--once", "--json").json

    assert set(report) >= set(REPORT_KEYS.split())
    assert set(report["stats"]) >= set(STATS_KEYS.split())
    assert set(report["policy"]) >= {"name", "version", "mode", "fallback", "duration_ms"}
    keys = {"task_id", "action", "agent", "pool", "gpus", "reason", "retry_after_sec"}
    assert all(set(decision) >= keys for decision in report["decisions"])
    told = {one["task_id"]: (one["action"], one["reason"]) for one in report["decisions"]}
    assert told == {"1": ("dispatch", None), "2": ("wait", "held")}
    assert (report["locked"], report["dry_run"]) == (False, False)


def test_a_tick_says_what_it_did_and_an_idle_one_says_one_line(place: Place):
    place.add("--", "true")
    place.add("--hold", "--", "true")

    busy = place.run("run")
    place.run("wait", "1")
    until(lambda: not place.leftovers(), "the attempt to be settled")
    idle = place.run("run")

    assert (busy.code, idle.code) == (0, 0)
    compare("run.txt", settle_text(busy.out + "--\n" + idle.out, place))
    assert busy.err == idle.err == ""


def test_quiet_says_nothing_and_verbose_says_why_the_rest_waits(place: Place):
    place.add("--hold", "--", "true")

    assert place.run("-q", "run").out == ""
    place.add("--not-before", "2h30m", "--", "true")
    assert "`release` lets it go" in place.run("run", "--dry-run").out
    assert re.search(r"may start in 2h (29|30)m$", place.run("run", "--dry-run").out, re.MULTILINE)
    assert "held; `release 1` lets it go" in place.run("-v", "run").out


def test_limits_given_for_one_run_are_merged(place: Place):
    place.settings["AGENT_LIMITS"] = "shell:2,coder:1"

    document = place.run("run", "--dry-run", "--agent-limit", "shell=0", "--json")
    place.add("--", "true")
    answer = place.run("run", "--agent-limit", "shell=1", "--agent-limit", "shell=0", "--json")

    assert document.code == 0
    assert answer.json["decisions"][0]["words"] == "agent shell runs 0 of 0"


def test_while_another_tick_holds_the_lock_one_line_is_all(place: Place):
    place.run("run")
    with (place.state / "tinyscheduler.pid").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        plain = place.run("run", "--once")
        strict = place.run("run", "--once", "--fail-if-locked")
        document = place.run("run", "--once", "--json", "--fail-if-locked")

    assert (plain.code, plain.out, plain.err.count("\n")) == (0, "", 1)
    assert plain.err.startswith("another tick is running (pid ")
    assert (strict.code, strict.out, strict.err.count("\n")) == (75, "", 1)
    assert (document.code, document.json["locked"]) == (75, True)
    assert place.run("run", "--fail-if-locked").code == 0


def test_who_is_refused_changes_no_settings_of_the_ticks_that_follow_by_themselves(place: Place):
    place.settings["AGENT_LIMITS"] = "shell:2"
    place.run("run")
    settings = place.state / "settings.json"
    before = settings.read_text()

    with (
        (place.state / "daemon.lock").open("w") as daemon_lock,
        (place.state / "tinyscheduler.pid").open("r+") as tick_lock,
    ):
        fcntl.flock(daemon_lock, fcntl.LOCK_EX)
        fcntl.flock(tick_lock, fcntl.LOCK_EX)
        daemon = place.run("run", "--daemon", "--agent-limit", "shell=9")
        tick = place.run("run", "--agent-limit", "shell=9")

    assert (daemon.code, tick.code) == (75, 0)
    assert "ticking in" not in daemon.err
    assert "it will look again" in tick.err
    assert settings.read_text() == before
    place.run("run", "--agent-limit", "shell=9")
    assert settings.read_text() != before


def test_a_start_that_fails_ends_with_1_and_stops_nothing_else(place: Place):
    (place.base / "recipes").mkdir()
    recipe = place.base / "recipes" / "soup.yaml"
    recipe.write_text("title: soup\n")
    (place.base / "agents.yaml").write_text(
        "agents:\n  cook: {limit: 1, command: [echo, '{recipe}']}\n"
    )
    place.add("--agent", "cook", "--recipe", "soup.yaml")
    place.add("--", "true")
    recipe.unlink()

    answer = place.run("run")

    assert answer.code == 1
    assert answer.err.startswith("error: start of task 1: ")
    assert "soup.yaml" in answer.err
    assert "started task 2 (attempt 1, agent shell)" in answer.out
    assert place.run("wait", "2").code == 0


def test_a_damaged_queue_ends_with_69_and_is_left_alone(place: Place):
    place.run("run")
    database = place.state / "tinyscheduler.db"
    database.write_bytes(b"garbage" * 1000)

    answers = {
        " ".join(arguments): place.run(*arguments)
        for arguments in (
            ["run"],
            ["run", "--dry-run"],
            ["status"],
            ["list"],
            ["show", "1"],
            ["wait", "1"],
            ["add", "true"],
            ["cancel", "1"],
        )
    }

    assert {name: answer.code for name, answer in answers.items()} == dict.fromkeys(answers, 69)
    assert all("is damaged" in answer.err for answer in answers.values())
    assert "nothing to do" not in answers["run --dry-run"].out
    assert database.read_bytes() == b"garbage" * 1000


def test_a_newer_queue_is_left_alone(place: Place):
    place.add("--", "true")
    with sqlite3.connect(place.state / "tinyscheduler.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()

    for arguments in (["run"], ["add", "true"], ["status"]):
        answer = place.run(*arguments)
        assert answer.code == 69
        assert "newer TinyScheduler" in answer.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_state_of_another_user_is_refused(place: Place):
    place.add("--", "true")
    os.chown(place.state, 65534, 65534)

    for arguments in (
        *(["run"], ["run", "--dry-run"], ["add", "true"], ["cancel", "1"], ["list"], ["status"]),
        *(["show", "1"], ["ps"], ["logs", "1"], ["wait", "1"], [], ["events"], ["top", "-n", "1"]),
        *(["history"], ["report"], ["pause"], ["edit", "1", "--gpus", "0"], ["prune"]),
    ):
        answer = place.run(*arguments)
        assert (answer.code, answer.out) == (4, ""), arguments
        assert "belongs to user nobody, not to you" in answer.err
        assert "hint: run this as nobody" in answer.err


def test_wrong_configuration_ends_with_4_and_names_the_place(place: Place):
    (place.base / "agents.yaml").write_text("agents:\n  coder: {limit: -1}\n")

    answer = place.run("run")

    assert (answer.code, answer.out) == (4, "")
    assert "agents.yaml:2: limit of agent coder: -1" in answer.err
    assert answer.err.splitlines()[1].startswith("hint: ")


@pytest.mark.parametrize("limits", ["a:x", "a:-1", "{bad"])
def test_wrong_limits_end_with_4_and_name_the_variable(place: Place, limits: str):
    answer = place.run("run", TINYSCHEDULER_AGENT_LIMITS=limits)

    assert (answer.code, answer.out) == (4, "")
    assert "TINYSCHEDULER_AGENT_LIMITS" in answer.err


@pytest.mark.parametrize("limit", ["shell", "shell=", "shell=-1", "shell=many", "=2"])
def test_a_wrong_limit_on_the_command_line_starts_nothing(place: Place, limit: str):
    task_id = place.add("--", "true")

    answer = place.run("run", "--agent-limit", limit)

    assert (answer.code in {2, 4}, answer.out) == (True, "")
    assert "--agent-limit" in answer.err
    assert place.run("show", task_id, "--json").json["state"] == "waiting"


def test_a_pipe_on_a_tick_is_closed_when_the_tick_ends(place: Place):
    task_id = place.add("--", "sleep", "1000")

    answer = place.run("run")  # returns only when nobody holds its pipes any more

    assert "started task 1" in answer.out
    assert place.run("show", task_id, "--json").json["state"] in {"starting", "running"}


def test_a_daemon_starts_what_is_added_and_ends_on_sigterm(place: Place):
    with place.start("run", "--daemon") as daemon:
        until((place.state / "daemon.lock").exists, "the daemon")
        place.add("--", "true")

        waited = place.run("wait", "1", "--timeout", "30s")
        second = place.run("run", "--daemon")
        daemon.send_signal(signal.SIGTERM)
        out, err = daemon.communicate(timeout=30)

    assert (waited.code, second.code) == (0, 75)
    assert daemon.returncode == 0
    begun, ended = err.decode().splitlines()
    assert begun == (
        f"ticking in {place.base} every 1m and when something happens; agents: shell 2;"
        " SIGTERM or Ctrl-C stops it"
    )
    assert ended == "stopped; 0 attempts run on"
    assert out.startswith(b"started task 1 (attempt 1, agent shell)\n")


def test_a_daemon_says_how_many_attempts_it_leaves_behind(place: Place):
    place.add("--", "sleep", "1000")
    with place.start("run", "--daemon") as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        daemon.send_signal(signal.SIGTERM)
        _, err = daemon.communicate(timeout=30)

    assert err.decode().splitlines()[-1] == "stopped; 1 attempt runs on"


def test_a_daemon_is_not_woken_by_its_own_files(place: Place):
    place.settings["LOOP_INTERVAL_SEC"] = "1000"
    with place.start("run", "--daemon", "--json") as daemon:
        assert daemon.stdout is not None
        first = json.loads(daemon.stdout.readline())
        # Long enough for hundreds of ticks, if one led to the next.
        ready, _, _ = select.select([daemon.stdout], [], [], 2)
        daemon.send_signal(signal.SIGTERM)

    assert first["schema_version"] == 1
    assert ready == []


def test_a_daemon_that_another_tick_keeps_out_waits_for_it_at_leisure(place: Place):
    place.settings["LOOP_INTERVAL_SEC"] = "1000"
    place.run("run")
    reports = 0
    with (place.state / "tinyscheduler.pid").open("r+") as pidfile:
        fcntl.flock(pidfile, fcntl.LOCK_EX)
        with place.start("run", "--daemon", "--json") as daemon:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            # Each refusal leaves a wish; if a wish woke it, this would be a storm.
            deadline = time.monotonic() + 2.5
            while (left_s := deadline - time.monotonic()) > 0:
                if select.select([daemon.stdout], [], [], left_s)[0]:
                    daemon.stdout.readline()
                    reports += 1
            daemon.send_signal(signal.SIGTERM)

    assert reports <= 4


def test_state_is_for_its_owner_only(place: Place):
    place.add("--", "true")
    place.run("run")
    place.run("wait", "1")

    open_to_others = [
        str(path)
        for path in [place.state, *place.state.rglob("*")]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]

    assert open_to_others == []


def test_ctrl_c_ends_a_tick_that_waits_with_130_after_its_report(place: Place):
    place.settings["STAGGER_DELAY_MS"] = "30000"
    for _ in range(2):
        place.add("--", "true")

    tick = place.start("run")
    events = place.state / "logs" / "events.jsonl"
    until(lambda: "task.finished" in events.read_text(), "the first task to be settled meanwhile")
    tick.send_signal(signal.SIGINT)
    out, err = tick.communicate(timeout=30)

    assert tick.returncode == 130, err
    assert b"started task 1" in out
    assert place.run("show", "2", "--json").json["state"] == "waiting"
