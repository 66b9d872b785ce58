"""``why``: one task, wherever in line it stands, and what would have to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.process.station import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place


def test_the_last_of_many_gets_its_own_reason_and_its_place(place: Place):
    place.settings |= {"MAX_CONCURRENT_SLOTS": "1", "QUEUE_LOOKAHEAD": "0"}
    lines = [json.dumps({"command": ["true"], "cwd": "/"})] * 5000
    place.run("add", "--from", "-", stdin="\n".join(lines).encode())

    answer = place.run("why", "5000", "--json")

    document = answer.json
    assert (document["state"], document["reason"]) == ("waiting", "host_slots")
    assert document["caps"] == [
        {"agent": None, "limit": 1, "used": 1, "used_by": [], "taken_by": ["1"]}
    ]
    assert document["ahead"] == 4999
    assert "4999 tasks for agent shell go first" in place.run("why", "5000").out
    assert place.run("why", "1", "--json").json["starts_next"] is True


def test_its_place_counts_dependents_and_priority_as_a_tick_does(place: Place):
    place.settings |= {"AGENT_LIMITS": "shell:0", "PRIORITY_ENABLED": "true"}
    plain = place.add("--", "true")
    urgent = place.add("--priority", "5", "--", "true")
    blocking = place.add("--", "true")
    place.add("--after", blocking, "--", "true")

    def ahead(task_id: str) -> int:
        number: int = place.run("why", task_id, "--json").json["ahead"]
        return number

    assert [ahead(one) for one in (blocking, urgent, plain)] == [0, 1, 2]
    place.settings["PRIORITY_ENABLED"] = "false"
    assert [ahead(one) for one in (blocking, plain, urgent)] == [0, 1, 2]


def test_a_dead_end_far_up_is_named_with_its_way_out(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--", "false")
    place.run("run")
    place.run("wait", "1")
    for blocker in ("1", "2", "3"):
        place.add("--after", blocker, "--", "true")

    answer = place.run("why", "4")
    blockers = place.run("why", "4", "--json").json["blockers"]

    assert "task 3: waiting, waits for 2" in answer.out
    assert "task 1: parked (command_failed)" in answer.out
    way = "task 1 is parked and will not be done by itself: "
    assert f"{way}`{place.program} retry 1` tries it again" in answer.out
    assert [(one["task_id"], one["is_direct"], bool(one["way_out"])) for one in blockers] == [
        ("1", False, True),
        ("2", False, False),
        ("3", True, False),
    ]


def test_a_circle_free_lattice_of_blockers_is_walked_once(place: Place):
    first = [place.add("--hold", "--", "true") for _ in range(2)]
    lines = []
    for layer in range(30):
        after = first if layer == 0 else [f"{layer - 1}-{side}" for side in range(2)]
        lines += [
            json.dumps({"key": f"{layer}-{side}", "command": ["true"], "cwd": "/", "after": after})
            for side in range(2)
        ]
    place.run("add", "--from", "-", stdin="\n".join(lines).encode())

    document = place.run("why", "62", "--json").json

    assert len(document["blockers"]) == 60
    assert [one["task_id"] for one in document["blockers"] if one["way_out"]] == first


def test_the_tasks_that_use_a_limit_up_are_named_in_their_order(place: Place):
    place.settings["AGENT_LIMITS"] = "shell:2"
    lines = [json.dumps({"command": ["sleep", "60"], "cwd": "/", "hold": True})] * 11
    place.run("add", "--from", "-", stdin="\n".join(lines).encode())
    place.run("release", "9", "10", "11")
    place.run("run")

    assert "2 of 2 slots used, by 9 and 10\n" in place.run("why", "11").out
    assert place.run("drain", "--json", "--wait", "--timeout", "0").json["running"] == ["9", "10"]


def test_a_pause_after_a_failure_tells_the_failure_and_what_ends_the_pause(place: Place):
    place.settings |= {"RETRY_BASE_SEC": "100", "MAX_ATTEMPTS": "4"}
    place.add("--", "sh", "-c", "exit 3")
    place.run("run")
    until(lambda: place.run("why", "1", "--json").json["reason"] == "backing_off", "the backoff")

    answer = place.run("why", "1")

    assert "attempt 1 failed (command_failed, exit code 3)" in answer.out
    assert "failure 1 of 4 before it is parked" in answer.out
    assert f"its log: {place.state}/logs/tasks/1/1.log" in answer.out
    assert f"`{place.program} retry 1` makes it due at once" in answer.out
    assert "no daemon runs; the last tick was" in answer.out
    assert place.run("retry", "1").code == 0
    assert "nothing keeps it" in place.run("why", "1").out


def test_a_daemon_that_ticks_is_named(place: Place):
    place.add("--not-before", "1h", "--", "true")
    daemon = place.start("run", "--daemon")
    until(lambda: "a daemon ticks" in place.run("why", "1").out, "the daemon")

    assert place.run("why", "1", "--json").json["daemon_running"] is True

    daemon.terminate()
    daemon.communicate(timeout=30)
    assert place.run("why", "1", "--json").json["daemon_running"] is False


def test_an_agent_that_nobody_described_is_told_with_those_there_are(place: Place):
    place.settings["AGENT_LIMITS"] = "shell:1"
    (place.base / "agents.yaml").write_text("agents:\n  coder: {queue: dev, command: ['true']}\n")
    place.add("--agent", "coder", "--prompt", "x")
    (place.base / "agents.yaml").write_text("agents:\n  writer: {command: ['true']}\n")

    answer = place.run("why", "1")

    assert "task 1 is waiting: unplaced" in answer.out
    assert "agents there are: shell and writer" in answer.out


@pytest.mark.parametrize("columns", [80, 40])
def test_sentences_are_wrapped_and_never_cut(place: Place, columns: int):
    place.settings["AGENT_LIMITS"] = "shell:0"
    place.add("--", "true")

    code, screen = place.type("why", "1", columns=columns, NO_COLOR="1")

    assert code == 0
    assert max(map(len, screen.splitlines())) <= columns
    assert "would start it now (agents file or AGENT_LIMITS)" in " ".join(screen.split())


def test_looking_changes_nothing_at_all(here: Callable[..., Answer], place: Place):
    place.add("--", "true")
    place.add("--after", "1", "--", "true")
    before = place.digest()

    for command in (["why", "1"], ["why", "2", "--json"], ["parked"], ["history"], ["report"]):
        assert here(*command).code == 0
    for command in (["events"], ["health"], ["top", "-n", "1"], ["completion", "--words", "tasks"]):
        assert here(*command).code == 0

    assert place.digest() == before
