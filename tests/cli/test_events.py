"""``events``: what happened, filtered, followed, and never stopped by a broken line."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import compare, settle_text
from tests.process.station import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.cli.place import Place


def events_file(place: Place) -> Path:
    path = place.state / "logs" / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def line(number: int, event: str = "task.added", **more: Any) -> str:
    document = {"ts": "2026-01-01T00:00:00.000Z", "event": event, "task_id": str(number), **more}
    return json.dumps(document) + "\n"


def ids(text: str) -> list[str]:
    return [json.loads(one)["task_id"] for one in text.splitlines()]


def test_the_last_are_shown_the_newest_last(place: Place):
    events_file(place).write_text("".join(line(number) for number in range(100)))

    assert ids(place.run("events", "--json").out) == [str(number) for number in range(80, 100)]
    assert ids(place.run("events", "--json", "-n", "2").out) == ["98", "99"]
    assert len(place.run("events", "-n", "1000").out.splitlines()) == 100


def test_people_read_when_what_and_all_that_is_known(place: Place):
    place.add("--", "false")
    place.run("run")
    until(lambda: not place.leftovers(), "the attempt to be settled")

    answer = place.run("events", "-n", "3")

    assert answer.code == 0
    compare("events.txt", settle_text(answer.out, place))


def test_each_line_of_json_is_a_document(place: Place):
    events_file(place).write_text(line(7, "task.failed", exit_code=3, reason="command_failed"))

    assert place.run("events", "--json").json == {
        "schema_version": 1,
        "ts": "2026-01-01T00:00:00.000Z",
        "event": "task.failed",
        "task_id": "7",
        "exit_code": 3,
        "reason": "command_failed",
    }


def test_filters_count_only_what_fits(place: Place):
    text = "".join(line(number, ("task.added", "task.failed")[number % 2]) for number in range(10))
    events_file(place).write_text(text)

    def found(*options: str) -> list[str]:
        return ids(place.run("events", "--json", *options).out)

    assert found("--event", "task.failed", "-n", "2") == ["7", "9"]
    assert found("--event", "task.*", "-n", "2") == ["8", "9"]
    assert found("--task", "3") == ["3"]
    assert place.run("events", "--event", "task.parked").err == "no such event is on record\n"


def test_a_slip_is_told(place: Place):
    place.add("--", "true")
    events_file(place).write_text(line(2))  # pruned since

    event = place.run("events", "--event", "task.finish")
    kind = place.run("events", "--event", "tasc.*")
    unknown = place.run("events", "--task", "999")
    followed = place.run("events", "--task", "999", "-f")
    no_id = place.run("events", "--task", "../9")

    assert event.code == 0
    assert event.err.startswith("there is no event 'task.finish'; did you mean task.finished?\n")
    assert kind.err.startswith("there is no event 'tasc.*'; ")
    assert (unknown.code, followed.code, no_id.code) == (5, 5, 5)
    assert unknown.err.startswith("error: there is no task '999'\n")
    assert place.run("events", "--task", "1").code == 0
    assert place.run("events", "--task", "2").out.count("\n") == 1


def test_broken_lines_are_skipped_and_counted(place: Place):
    broken = 'garbage\n{"event": \n[1]\n"event"\n{"no": "event"}\n' + "[" * 5000 + "\n"
    content = (line(1) + broken).encode() + b"\xff\xfe\n" + line(2).encode() + b"half a li"
    events_file(place).write_bytes(content)

    answer = place.run("events", "--json")

    assert (answer.code, ids(answer.out)) == (0, ["1", "2"])
    assert answer.err == "7 broken lines skipped\n"


def test_a_line_of_megabytes_is_broken_and_no_trouble(place: Place):
    events_file(place).write_text(line(1) + "x" * 3_000_000 + "\n" + line(2))

    answer = place.run("events", "--json")

    assert ids(answer.out) == ["1", "2"]
    assert answer.err.endswith("skipped\n")


def test_what_was_rotated_is_read_on_from_its_end(place: Place):
    path = events_file(place)
    path.with_name("events.jsonl.2").write_text("".join(line(number) for number in range(3)))
    path.with_name("events.jsonl.1").write_text("".join(line(number) for number in range(3, 6)))
    path.write_text("".join(line(number) for number in range(6, 9)))

    assert ids(place.run("events", "--json").out) == [str(number) for number in range(9)]
    assert ids(place.run("events", "--json", "-n", "5").out) == ["4", "5", "6", "7", "8"]


def next_ids(following: subprocess.Popen[bytes], number: int) -> list[str]:
    assert following.stdout is not None
    return [json.loads(following.stdout.readline())["task_id"] for _ in range(number)]


@pytest.mark.timeout(60)
def test_following_goes_on_across_rotation_and_truncation(place: Place):
    path = events_file(place)
    path.write_text(line(1))
    following = place.start("events", "-f", "--json", PYTHONUNBUFFERED="1")
    try:
        assert next_ids(following, 1) == ["1"]

        with path.open("a") as file:
            file.write(line(2) + line(3)[:9])
            file.flush()
            assert next_ids(following, 1) == ["2"]
            # Written before and after the file got its new name.
            os.rename(path, path.with_name("events.jsonl.1"))
            file.write(line(3)[9:] + line(4))
        path.write_text(line(5))
        assert next_ids(following, 3) == ["3", "4", "5"]

        # Shorter than it was, or nobody could tell.
        path.write_text('{"event": "x", "task_id": "6"}\n')
        assert next_ids(following, 1) == ["6"]
    finally:
        following.kill()
        following.communicate()


@pytest.mark.timeout(60)
def test_following_waits_for_a_file_that_is_not_there_yet_and_ends_with_130(place: Place):
    following = place.start("events", "-f", "--json")
    place.add("--", "true")

    assert next_ids(following, 1) == ["1"]

    following.send_signal(2)
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_hostile_text_never_reaches_the_terminal(place: Place):
    events_file(place).write_text(line(1, "task.\x1b[2J", agent="a\nb\x07", reason="\u202e"))

    answer = place.run("events")

    assert answer.out.count("\n") == 1
    assert answer.out.rstrip("\n").isprintable()


def test_without_any_event_it_says_so_and_makes_nothing(place: Place):
    answer = place.run("events")

    assert (answer.code, answer.out) == (0, "")
    assert answer.err.splitlines()[1:] == ["no such event is on record"]
    assert not place.state.exists()


def test_a_folder_in_its_place_is_an_error(place: Place):
    events_file(place).mkdir()

    answer = place.run("events")

    assert answer.code == 69
    assert "is not a file" in answer.err


def test_long_names_of_events_keep_the_columns(place: Place):
    events_file(place).write_text(line(1, "task.added") + line(2, "scheduler.undrained"))

    first, second = place.run("events").out.splitlines()

    assert first.index("task 1") == second.index("task 2")


def test_at_a_terminal_what_decides_goes_first_and_nothing_is_cut(place: Place):
    reason = "waiting for the new key of the service"
    facts = {"attempt": 1, "agent": "other", "reason": "command_failed", "exit_code": 3}
    place.run("pause", "all", "--reason", reason)
    with events_file(place).open("a") as file:
        file.write(line(59, "task.failed", **facts))

    _, screen = place.type("events", columns=80, NO_COLOR="1")

    lines = screen.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("  target=all reason=waiting for the")
    assert f"target=all reason={reason} by=" in " ".join(screen.split())
    assert "task 59 exit_code=3 reason=command_failed attempt=1 agent=other" in " ".join(
        screen.split()
    )
