"""``pressure`` as people and scripts type it, and what real ticks make of it: S-06."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.scheduled import due_now, until

from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, EXIT_UNAVAILABLE, EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place


@pytest.fixture
def here(place: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(place, *arguments)


def schedule_of(place: Place, name: str = "a") -> dict[str, object]:
    found: dict[str, object] = place.run("schedule", "show", name, "--json").json["schedule"]
    return found


def test_s06_while_it_is_on_a_real_tick_fires_nothing_and_when_it_is_off_it_does(place: Place):
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    on = place.run("pressure", "on", "--id", "chat")
    assert (on.code, on.out) == (EXIT_DONE, "chat is at work: schedules make way for 2m\n")
    due_now(place, "a")

    report = place.run("run", "--json").json

    assert (report["stats"]["firings"], report["errors"]) == (0, [])
    told = schedule_of(place)
    assert (told["deferrals"], told["fired"], told["passed_over"]) == (1, 0, 0)
    assert "1 time in a row" in place.run("schedule", "show", "a").out
    status = place.run("status")
    assert "schedule a makes way for somebody at work" in " ".join(status.out.split())
    (deferred,) = place.run("status", "--json").json["schedules"]["deferred"]
    assert (deferred["schedule_id"], deferred["reason"], deferred["times"]) == ("a", "pressure", 1)
    (event,) = [
        json.loads(line)
        for line in (place.state / "logs" / "events.jsonl").read_text().splitlines()
        if "schedule.deferred" in line
    ]
    assert (event["schedule"], event["reason"], event["times"]) == ("a", "pressure", 1)
    assert event["pressed_by"] == ["chat"]

    off = place.run("pressure", "off", "--id", "chat", "--json").json
    assert (off["is_changed"], off["live"]) == (True, [])
    slot = told["next_fire_at"]
    # Thirty seconds later.
    put_off_until_now(place, "a")
    assert place.run("run", "--json").json["stats"]["firings"] == 1
    after = schedule_of(place)
    assert (after["deferrals"], after["deferred_until"], after["fired"]) == (0, None, 1)
    assert after["next_fire_at"] > slot  # type: ignore[operator]  # both are texts


def put_off_until_now(place: Place, name: str) -> None:
    """Let the time be over that a schedule was put off by."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database, database:
        database.execute(
            "UPDATE schedules SET due_at = due_at - 31 * 1000000 WHERE id = ?", (name,)
        )


def test_an_edit_makes_way_still_unless_it_fires_for_another_time_then(
    place: Place, here: Callable[..., Answer]
):
    here("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    here("pressure", "on")
    due_now(place, "a")
    place.run("run")
    before = schedule_of(place)

    here("schedule", "edit", "a", "--max-turns", "9", "--max-firings", "99")
    after = schedule_of(place)
    assert [after[one] for one in ("deferrals", "deferred_until", "next_fire_at")] == [
        before[one] for one in ("deferrals", "deferred_until", "next_fire_at")
    ]
    assert before["deferrals"] == 1

    here("schedule", "edit", "a", "--every", "2h")
    after = schedule_of(place)
    assert (after["deferrals"], after["deferred_until"]) == (0, None)
    here("schedule", "pause", "a")
    here("schedule", "resume", "a")
    assert schedule_of(place)["deferrals"] == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_tick_that_is_killed_while_it_puts_off_leaves_the_time_to_the_next(
    place: Place, tmp_path: Path, moment: str
):
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    place.run("pressure", "on")
    due_now(place, "a")
    mark = tmp_path / "mark"

    place.run("run", TINYSCHEDULER_CRASH_AT=f"schedule.defer:{moment} {mark}")

    assert mark.exists()
    assert schedule_of(place)["deferrals"] == (1 if moment == "after" else 0)
    place.run("run")
    assert schedule_of(place)["deferrals"] == 1
    place.run("pressure", "off")
    put_off_until_now(place, "a")
    place.run("run")
    until(place, lambda: place.run("list", "--json").json["tasks"][0]["state"] == "done")
    assert schedule_of(place)["fired"] == 1


def test_a_manual_run_makes_way_for_nobody_and_how_many_were_at_work_is_kept(place: Place):
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    place.run("pressure", "on")
    place.run("pressure", "on", "--id", "b")

    assert place.run("schedule", "run", "a").out == "1\n"
    place.run("run")

    assert place.run("wait", "1").code == EXIT_DONE
    assert pressures_in_metrics(place) == [2]


def pressures_in_metrics(place: Place) -> list[int]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(place.state / "tinyscheduler.db")) as database:
        return [row[0] for row in database.execute("SELECT pressure FROM schedule_firing_metrics")]


def test_a_firing_that_waits_says_for_whom_it_makes_way(place: Place):
    place.settings |= {"SCHEDULE_MAX_CONCURRENT": "1", "KICK": "false"}
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "sleep", "0.1")
    place.run("schedule", "add", "--name", "b", "--every", "1h", "--", "true")
    due_now(place, "a", "b")
    # Long ago, or it would not make way.
    place.settings |= {"SCHEDULE_CHAT_PRESSURE_DELAY_SEC": "86400"}
    place.run("run")
    place.run("pressure", "on", "--id", "chat")
    until(place, lambda: place.run("run", "--json").json["stats"]["leases_scanned"] == 0)

    why = place.run("why", "2")
    assert "makes way for chat, at the longest until" in " ".join(why.out.split())
    assert "`" in why.out
    assert place.run("why", "2", "--json").json["reason"] == "pressure"
    assert "pressure" in place.run("status").out
    # `off` makes a tick happen where one runs; here it is the next one.
    place.run("pressure", "off", "--id", "chat")
    assert place.run("run", "--json").json["stats"]["tasks_spawned"] == 1


def test_s06_who_says_so_again_is_told_so_and_who_never_did_is_no_failure(
    here: Callable[..., Answer],
):
    assert (
        "default is at work: schedules make way for 5m" in here("pressure", "on", "--ttl", "5m").out
    )
    again = here("pressure", "on")
    assert (again.code, again.out) == (
        EXIT_DONE,
        "default is at work still: schedules make way for 2m\n",
    )
    here("pressure", "on", "--id", "other")
    off = here("pressure", "off", "--id", "none")
    assert (off.code, off.out) == (
        EXIT_DONE,
        "none was not at work; 2 others still: default, other\n",
    )
    assert here("pressure", "on", "--json").json["is_changed"] is False
    assert here("pressure", "off", "--json").json["is_changed"] is True


def test_where_nobody_is_at_work_nothing_is_made(here: Callable[..., Answer], place: Place):
    answer = here("pressure", "list")
    assert (answer.code, answer.out) == (EXIT_DONE, "")
    assert "nobody is at work" in answer.err
    assert here("pressure", "off").code == EXIT_DONE

    assert not (place.state / "pressure").exists()


def test_status_says_who_is_at_work_before_anything_is_due(here: Callable[..., Answer]):
    here("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    here("pressure", "on", "--id", "chat")
    here("pressure", "on", "--id", "game")

    told, document = here("status").out, here("status", "--json").json
    here("pressure", "off", "--id", "chat")
    here("pressure", "off", "--id", "game")

    assert "chat and game are at work: schedules make way" in told.replace("\n", " ")
    assert document["schedules"]["at_work"] == ["chat", "game"]
    assert here("status", "--json").json["schedules"]["at_work"] == []
    assert "at work" not in here("status").out


def test_all_who_are_at_work_are_listed(here: Callable[..., Answer]):
    here("pressure", "on", "--id", "shell", "--pid", str(os.getpid()), "--ttl", "8h")
    here("pressure", "on")

    head, *rows = here("pressure", "list").out.splitlines()
    document = here("pressure", "list", "--json").json

    assert head.split() == ["ID", "KIND", "SINCE", "UNTIL", "PID", "BY"]
    assert [row.split()[0] for row in rows] == ["default", "shell"]
    assert [(one["id"], one["kind"], one["pid"]) for one in document["pressures"]] == [
        ("default", "marker", None),
        ("shell", "marker", os.getpid()),
    ]
    assert document["sources"] == ["marker"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("on", "--id", "../../etc/passwd"), "is no name"),
        (("on", "--id", ""), "is no name"),
        (("on", "--id", ".lock"), "is no name"),
        (("on", "--id", "a/b"), "is no name"),
        (("on", "--id", "x" * 65), "is no name"),
        (("on", "--id", "é"), "is no name"),
        (("on", "--ttl", "0s"), "is not between 1s and 7d"),
        (("on", "--ttl", "8d"), "is not between 1s and 7d"),
        (("on", "--ttl", "soon"), "--ttl 'soon'"),
        (("on", "--pid", "0"), "not in the range"),
        (("on", "--pid", "x"), "not a whole number"),
        (("on", "--pid", "4194303"), "there is no process 4194303"),
        (("off", "--ttl", "5m"), "pressure off takes no --ttl"),
        (("off", "--pid", "1"), "pressure off takes no --pid"),
        (("list", "--id", "a"), "pressure list takes no --id"),
        (("maybe",), "maybe"),
    ],
)
def test_what_makes_no_sense_is_refused(
    here: Callable[..., Answer], place: Place, arguments: tuple[str, ...], told: str
):
    answer = here("pressure", *arguments)

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert told in answer.err.replace("\n", " ")
    assert not list((place.base / "state").rglob("*.json")) or answer.err


def test_broken_markers_stop_no_tick(place: Place):
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    due_now(place, "a")
    folder = place.state / "pressure"
    folder.mkdir()
    (folder / "x.json").write_text("{")
    (folder / "y.json").mkdir()

    report = place.run("run")

    assert report.code == EXIT_DONE, report.err
    assert "does not count and is set aside" in report.err
    assert schedule_of(place)["fired"] == 1
    assert sorted(one.name.partition(".")[0] for one in (place.state / "quarantine").iterdir()) == [
        "x",
        "y",
    ]


def test_on_a_disk_that_is_full_nobody_can_say_that_they_are_at_work(
    place: Place, here: Callable[..., Answer]
):
    here("pressure", "on")
    marker = place.state / "pressure" / "default.json"
    before = marker.read_bytes()

    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            'trap "" XFSZ; ulimit -Sf 0; exec "$0" "$@"',
            *place.argv("pressure", "on"),
        ],
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == EXIT_UNAVAILABLE, done.stderr
    assert "make room on the disk" in done.stderr
    assert marker.read_bytes() == before
    assert [one["id"] for one in here("pressure", "list", "--json").json["pressures"]] == [
        "default"
    ]


# -- what else says that somebody is at work ------------------------------------------


# Ann sits at the screen, a greeter is behind it, and Bob came by the network.
LOGINCTL = r"""#!/bin/sh
session() { printf '%s\n' "$@" ""; }
case "$*" in
*list-sessions*)
    printf ' 2 1000 ann seat0 tty2\n c1 42 gdm seat0 tty1\n 7 1001 bob - pts/3\n'
    ;;
*show-session*"2 c1 7")
    session Id=2 Name=ann Seat=seat0 Class=user State=active Active=yes "IdleHint=$IDLE"
    session Id=c1 Name=gdm Seat=seat0 Class=greeter State=online Active=no IdleHint=no
    session Id=7 Name=bob Seat= Class=user State=active Active=yes IdleHint=no
    ;;
esac
"""


def with_loginctl(tmp_path: Path, script: str) -> dict[str, Any]:
    program = tmp_path / "bin" / "loginctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(script)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


@pytest.mark.parametrize(("idle", "found"), [("no", ["seat:ann"]), ("yes", [])])
def test_who_sits_at_a_screen_and_is_not_idle_is_at_work(
    place: Place, tmp_path: Path, idle: str, found: list[str]
):
    place.settings |= {"PRESSURE_SOURCES": "seat"}
    environment = {**with_loginctl(tmp_path, LOGINCTL), "IDLE": idle}

    listed = place.run("pressure", "list", "--json", **environment)

    assert (listed.code, [one["id"] for one in listed.json["pressures"]]) == (EXIT_DONE, found)
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    due_now(place, "a")
    report = place.run("run", "--json", **environment).json
    assert report["stats"]["firings"] == (0 if found else 1)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n", "Failed to connect to bus"),
        ("#!/bin/sh\nexec sleep 60\n", "did not answer within 2 s"),
        ("#!/bin/sh\nsleep 60\n", "did not answer within 2 s"),
        ("#!/bin/sh\nexec >&- 2>&-\nsleep 60\n", "did not answer within 2 s"),
        ("#!/bin/sh\nyes\n", "says more than 65536 bytes"),
        ("#!/bin/sh\nprintf '--help 1\\n\\377\\n'\n", ""),
        ("#!/bin/sh\nhead -c 1000000 /dev/urandom\n", ""),
        ("#!/bin/sh\nkill -9 $$\n", "loginctl says"),
        ("no program at all", ""),
    ],
)
def test_a_program_that_does_not_say_who_sits_there_stops_no_tick(
    place: Place, tmp_path: Path, script: str, told: str
):
    place.settings |= {"PRESSURE_SOURCES": "seat"}
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    due_now(place, "a")

    report = place.run("run", **with_loginctl(tmp_path, script))

    assert report.code == EXIT_DONE, report.err
    assert told in report.err
    assert schedule_of(place)["fired"] == 1


def test_where_nothing_is_due_nobody_is_asked_who_sits_there(place: Place, tmp_path: Path):
    place.settings |= {"PRESSURE_SOURCES": "seat"}
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    mark = tmp_path / "asked"

    place.run("run", **with_loginctl(tmp_path, f"#!/bin/sh\ntouch {mark}\n"))

    assert not mark.exists()


def test_a_file_that_is_there_says_that_somebody_is_at_work(place: Place):
    place.settings |= {"PRESSURE_SOURCES": "file:quiet,file:/no/such/folder/file"}
    assert place.run("pressure", "list", "--json").json["pressures"] == []

    (place.base / "quiet").symlink_to("/nowhere")

    (found,) = place.run("pressure", "list", "--json").json["pressures"]
    assert (found["id"], found["kind"]) == ("file:quiet", "file")
    place.run("schedule", "add", "--name", "a", "--every", "1h", "--", "true")
    due_now(place, "a")
    assert place.run("run", "--json").json["stats"]["firings"] == 0


def test_a_process_on_a_gpu_that_is_none_of_ours_says_so_too(place: Place):
    gib = 1 << 30
    place.settings |= {"PRESSURE_SOURCES": "gpu", "GPU_PROBE": "file:gpus.json"}
    (place.base / "gpus.json").write_text("{")
    broken = place.run("pressure", "list")
    assert (broken.code, "nobody knows who is at the GPUs" in broken.err) == (EXIT_DONE, True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        gpu = {
            "uuid": "GPU-a",
            "index": 0,
            "name": "one",
            "total": 24 * gib,
            "used": gib,
            "processes": [{"pid": stranger.pid, "used": gib}],
        }
        (place.base / "gpus.json").write_text(json.dumps({"gpus": [gpu]}))

        answer = place.run("pressure", "list", "--json")

        assert [one["id"] for one in answer.json["pressures"]] == [f"gpu:{stranger.pid}"], (
            answer.err
        )
        stranger.kill()


@pytest.mark.parametrize("value", ["tty", "seat,seat", "file:", "gpu:0", "FILE:x"])
def test_sources_that_are_none_are_refused(place: Place, value: str):
    place.settings |= {"PRESSURE_SOURCES": value}

    answer = place.run("pressure", "list")

    assert answer.code == EXIT_CONFIG
    assert "PRESSURE_SOURCES" in answer.err
