"""``cancel``, ``retry``, ``hold`` and ``release`` say what they did to each task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place


def states(place: Place) -> list[str]:
    return [one["state"] for one in place.run("list", "--json").json["tasks"]]


def test_what_waits_is_cancelled_at_once_and_what_runs_is_ended(place: Place):
    place.add("--", "sh", "-c", f"trap : TERM; until test -e {place.base}/flag; do sleep 0.1; done")
    place.add("--hold", "--", "true")
    place.settings["KILL_GRACE_SEC"] = "1000"
    place.run("run")
    until(lambda: states(place)[0] == "running", "task 1 to run")

    answer = place.run("cancel", "1", "2")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "task 1 is running; its attempt is being ended\ntask 2 is cancelled\n"
    assert " cancelling " in place.run("status").out
    assert " cancelling " in place.run("list").out
    assert place.run("show", "1", "--json").json["cancel_requested"]
    document = place.run("cancel", "1", "--json").json["tasks"]
    assert [one["state"] for one in document] == ["running"]
    (place.base / "flag").touch()
    assert place.run("wait", "1", "--timeout", "30s").code == 1
    assert states(place) == ["cancelled", "cancelled"]
    events = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    cancelled = [json.loads(line) for line in events if "task.cancelled" in line]
    assert sorted(one["task_id"] for one in cancelled) == ["1", "2"]


def test_each_change_that_its_owner_made_is_among_the_events_of_the_task(place: Place):
    place.add("--", "true")
    for command in ("hold", "hold", "release", "release", "cancel", "retry"):
        place.run(command, "1")

    answer = place.run("events", "--task", "1")

    assert [line.split()[1] for line in answer.out.splitlines()] == [
        "task.added",
        "task.held",
        "task.released",
        "task.cancelled",
        "task.retried",
    ]


def test_cancelling_twice_is_no_error_and_what_is_over_ends_with_3(place: Place):
    place.add("--start", "--", "true")
    place.run("wait", "1")
    place.add("--hold", "--", "true")
    place.run("cancel", "2")

    assert place.run("cancel", "2").out == "task 2 was cancelled before\n"
    over = place.run("cancel", "1", "2")
    assert (over.code, over.err) == (3, "")
    assert over.out.startswith("task 1 is done; there is nothing to cancel\n")


def test_an_unknown_task_keeps_the_others_from_nothing(place: Place):
    place.add("--hold", "--", "true")

    answer = place.run("cancel", "9", "8", "1")
    document = place.run("cancel", "9", "1", "--json")

    assert (answer.code, answer.out) == (5, "task 1 is cancelled\n")
    assert answer.err == (
        f"error: there is no task '9'\nhint: `{place.program} list` shows the tasks there are\n"
        "error: there is no task '8'\n"
    )
    assert document.code == 5
    assert document.json["tasks"] == [
        {"task_id": "9", "state": None, "message": "there is no task '9'"},
        {"task_id": "1", "state": "cancelled", "message": "was cancelled before"},
    ]


def test_a_parked_task_runs_again_after_retry(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    flag = place.base / "flag"
    place.add("--", "test", "-e", str(flag))
    place.run("run")
    assert place.run("wait", "1").code == 1
    flag.touch()

    answer = place.run("retry", "1")
    place.run("run")

    assert (answer.code, answer.out) == (0, "task 1 waits again\n")
    assert place.run("wait", "1").code == 0
    attempts = place.run("show", "1", "--json").json["attempts"]
    assert [(one["attempt"], one["outcome"]) for one in attempts] == [
        (1, "failed"),
        (2, "succeeded"),
    ]


def test_what_cannot_be_done_ends_with_2_and_says_what_can(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--start", "--", "true")
    place.add("--hold", "--", "true")
    place.add("--", "false")
    place.add("--", "sleep", "1000")
    place.run("run")
    assert place.run("wait", "1", "3").code == 1

    for command, task_id, what, fix in (
        ("retry", "1", "is done and cannot be retried", "add it anew"),
        ("retry", "2", "is held and cannot be retried", "release it instead"),
        ("retry", "4", "is running and cannot be retried", "cancel it first"),
        ("hold", "1", "is done; only a waiting task can be held", "add it anew"),
        ("hold", "3", "is parked; only a waiting task can be held", "retry 3` lets it wait"),
        ("hold", "4", "is running; only a waiting task can be held", "cancel 4` ends it"),
        ("release", "1", "is done; only a held task can be released", "add it anew"),
        ("release", "4", "is running; only a held task can be released", "started already"),
    ):
        answer = place.run(command, task_id)
        document = place.run(command, task_id, "--json")
        assert (answer.code, answer.out, answer.err) == (2, "", document.err), command
        first, second = answer.err.splitlines()
        assert first == f"error: task {task_id} {what}"
        assert second.startswith("hint: ")
        assert fix in second
        assert document.code == 2
        assert document.json["tasks"] == [
            {"task_id": task_id, "state": None, "message": f"task {task_id} {what}"}
        ]


def test_holding_and_releasing_twice_is_no_error_and_says_so(place: Place):
    place.add("--", "true")

    answers = [place.run(name, "1") for name in ("release", "hold", "hold", "release", "release")]

    assert [answer.code for answer in answers] == [0] * 5
    assert [answer.out.removeprefix("task 1 ").strip() for answer in answers] == [
        "was not held; it waits",
        "is held",
        "was held before",
        "waits again",
        "was not held; it waits",
    ]


@pytest.mark.parametrize("command", ["cancel", "retry", "hold", "release"])
def test_where_nothing_was_ever_added_nothing_is_made(place: Place, command: str):
    answer = place.run(command, "1")

    assert answer.code == 5
    assert answer.err.startswith(f"no state yet in {place.base}: nothing was ever added there\n")
    assert "error: there is no task '1'\n" in answer.err
    assert list(place.base.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["edit", "1", "--priority", "2"], 5, "error: there is no task '1'"),
        (["resume"], 0, "nothing was paused"),
        (["undrain"], 0, "nothing was draining"),
        (["prune"], 0, "nothing is old enough to be removed"),
        (["reset", "--yes"], 0, "0 tasks and 0 attempts removed"),
    ],
)
def test_what_ends_or_removes_something_makes_nothing_either(
    place: Place, arguments: list[str], code: int, told: str
):
    answer = place.run(*arguments)

    assert answer.code == code
    assert answer.err.startswith(f"no state yet in {place.base}: nothing was ever added there\n")
    assert told in (answer.out + answer.err).splitlines()
    assert list(place.base.iterdir()) == []
    assert place.run(*arguments, "--json").code == code


@pytest.mark.parametrize("command", ["pause", "drain"])
def test_a_stop_before_the_first_task_says_so_and_holds_for_it(place: Place, command: str):
    answer = place.run(command)

    assert (
        answer.err.splitlines()[0] == f"no state yet in {place.base}: nothing was ever added there"
    )
    place.add("--", "true")
    assert place.run("run", "--json").json["stats"]["tasks_spawned"] == 0


def test_a_held_task_starts_only_after_release(place: Place):
    place.add("--", "true")

    assert place.run("hold", "1").out == "task 1 is held\n"
    assert place.run("run").out == "nothing to do: 0 running, 0 waiting\n"
    assert place.run("release", "1").out == "task 1 waits again\n"
    assert "started task 1" in place.run("run").out


def test_a_change_wishes_for_a_tick(place: Place):
    place.add("--hold", "--", "true")
    (place.state / "kick").unlink()

    place.run("release", "1")

    assert (place.state / "kick").exists()
