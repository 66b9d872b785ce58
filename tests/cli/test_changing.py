"""``cancel``, ``retry``, ``hold`` and ``release`` say what they did to each task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place


def states(place: Place) -> list[str]:
    return [one["state"] for one in place.run("list", "--json").json["tasks"]]


def test_what_waits_is_cancelled_at_once_and_what_runs_is_ended(place: Place):
    place.add("--", "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait")
    place.add("--hold", "--", "true")
    place.run("run")
    until(lambda: states(place)[0] == "running", "task 1 to run")

    answer = place.run("cancel", "1", "2")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "task 1 is running; its attempt is being ended\ntask 2 is cancelled\n"
    assert place.run("wait", "1", "--timeout", "30s").code == 1
    assert states(place) == ["cancelled", "cancelled"]
    events = (place.state / "logs" / "events.jsonl").read_text().splitlines()
    cancelled = [json.loads(line) for line in events if "task.cancelled" in line]
    assert sorted(one["task_id"] for one in cancelled) == ["1", "2"]


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

    answer = place.run("cancel", "9", "1")
    document = place.run("cancel", "9", "1", "--json")

    assert (answer.code, answer.out) == (5, "task 1 is cancelled\n")
    assert answer.err == "error: there is no task '9'\n"
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
    place.add("--start", "--", "true")
    place.run("wait", "1")
    place.add("--hold", "--", "true")

    for command, task_id, fix in (
        ("retry", "1", "add it anew"),
        ("retry", "2", "release it instead"),
        ("hold", "1", ""),
        ("release", "1", ""),
    ):
        answer = place.run(command, task_id)
        assert (answer.code, answer.out) == (2, ""), command
        assert answer.err.startswith(f"error: task {task_id} is ")
        assert fix in answer.err


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
