"""``edit`` changes what a task asks for while nothing has been started for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place, compare, settle_json, settle_text
from tests.process.station import until
from tests.queue.builders import assert_sound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.place import Answer

EVERYTHING = {
    "title": ("--title", "a name"),
    "priority": ("--priority", "7"),
    "class": ("--class", "interactive"),
    "gpus": ("--gpus", "2"),
    "vram_bytes": ("--vram", "14G"),
    "memory_bytes": ("--memory", "2G"),
    "model": ("--model", "llama-7b"),
    "seed": ("--seed", "42"),
    "tenant": ("--tenant", "team-a"),
    "project": ("--project", "apollo"),
    "max_runtime_sec": ("--max-runtime", "1h"),
    "max_turns": ("--max-turns", "20"),
    "max_tokens": ("--max-tokens", "200k"),
    "max_cost_usd": ("--max-cost", "2.5"),
    "max_attempts": ("--max-attempts", "2"),
    "after": ("--after", "1"),
    "not_before": ("--not-before", "2099-01-01T00:00Z"),
    "labels": ("--label", "to=moon"),
    "cwd": ("--cwd", "/usr"),
    "env": ("--env", "COLOUR=blue"),
}
VALUES = {
    "title": "a name",
    "priority": 7,
    "class": "interactive",
    "gpus": 2,
    "vram_bytes": 14 << 30,
    "memory_bytes": 2 << 30,
    "model": "llama-7b",
    "seed": 42,
    "tenant": "team-a",
    "project": "apollo",
    "max_runtime_sec": 3600.0,
    "max_turns": 20,
    "max_tokens": 200_000,
    "max_cost_usd": 2.5,
    "max_attempts": 2,
    "after": ["1"],
    "not_before": "2099-01-01T00:00:00.000Z",
    "labels": {"to": "moon"},
    "cwd": "/usr",
    "env": {"COLOUR": "blue"},
}
FLAT = [word for words in EVERYTHING.values() for word in words]


@pytest.fixture
def sound(place: Place) -> Iterator[Place]:
    """Return a place with a held task, whose database is sound when the test has ended."""
    place.add("--cwd", "/", "--hold", "--", "true")
    yield place
    assert_sound(place.state / "tinyscheduler.db")


def shown(place: Place, task_id: str) -> dict[str, object]:
    return place.run("show", task_id, "--json").json


def test_every_option_of_add_is_stored_and_shown(sound: Place, run_at: Callable[..., Answer]):
    sound.add(*FLAT, "--", "env")
    batch = {
        **{name: VALUES[name] for name in ("title", "priority", "class", "gpus", "model", "seed")},
        **{name: VALUES[name] for name in ("tenant", "project", "max_turns", "max_attempts")},
        **{name: VALUES[name] for name in ("after", "not_before", "labels", "cwd", "env")},
        "vram": "14G",
        "memory": "2G",
        "max_runtime": "1h",
        "max_tokens": 200_000,
        "max_cost": 2.5,
        "hold": True,
        "command": ["env"],
        "key": "mine",
    }
    sound.run("add", "--from", "-", stdin=json.dumps(batch).encode())

    for task_id in ("2", "3"):
        found = shown(sound, task_id)
        assert {name: found[name] for name in VALUES} == VALUES
    assert (shown(sound, "2")["state"], shown(sound, "3")["state"]) == ("waiting", "held")
    text = run_at(sound, "show", "2")
    compare("show-everything.txt", settle_text(text.out, sound))


def test_every_option_of_add_can_be_edited_and_unset(sound: Place):
    task_id = sound.add("--cwd", "/", "--hold", "--", "true")
    plain = shown(sound, task_id)

    changed = sound.run("edit", task_id, *FLAT, "--", "env")
    found = shown(sound, task_id)
    options = [words[0].removeprefix("--") for words in EVERYTHING.values()]
    unset = [word for option in options for word in ("--unset", option)]
    back = sound.run("edit", task_id, *unset, "--cwd", "/", "--", "true")

    assert (changed.code, back.code) == (0, 0)
    assert {name: found[name] for name in VALUES} == VALUES
    assert found["command"] == ["env"]
    last = shown(sound, task_id)
    assert {name: last[name] for name in last if name != "updated_at"} == {
        name: plain[name] for name in plain if name != "updated_at"
    }


def test_it_says_what_changed(sound: Place, run_at: Callable[..., Answer]):
    text = run_at(sound, "edit", "1", "--priority", "3", "--title", "a \x1b[2J name")
    document = run_at(
        sound, "edit", "1", "--label", "a=b", "--env", "API_KEY=x", "--unset", "title", "--json"
    )
    nothing = run_at(sound, "edit", "1", "--priority", "3")

    assert "\x1b" not in text.out
    compare("edit.txt", text.out)
    compare("edit.json", json.dumps(settle_json(document.json, sound), indent=1) + "\n")
    assert (nothing.code, nothing.out) == (0, "task 1 stays as it is\n")
    assert "API_KEY=x" not in document.out


def test_labels_and_variables_are_merged_and_the_rest_is_replaced(sound: Place):
    sound.run("edit", "1", "--label", "a=1", "--label", "b=2", "--env", "X=1")
    sound.run("edit", "1", "--label", "b=3", "--env", "Y=2")
    sound.run("edit", "1", "--unset", "env", "--env", "Z=3")

    found = shown(sound, "1")
    assert (found["labels"], found["env"]) == ({"a": "1", "b": "3"}, {"Z": "3"})


def test_an_edited_command_is_what_runs(sound: Place):
    sound.run("edit", "1", "--", "sh", "-c", "echo edited")
    sound.run("release", "1")
    sound.run("run")
    sound.run("wait", "1")

    assert sound.run("logs", "1").out == "edited\n"


def test_what_it_comes_after_can_be_changed(sound: Place):
    second = sound.add("--after", "1", "--", "true")
    third = sound.add("--", "true")

    sound.run("edit", second, "--after", third)
    assert shown(sound, second)["blocked_by"] == [third]
    assert (shown(sound, "1")["blocks"], shown(sound, third)["blocks"]) == (0, 1)
    sound.run("edit", second, "--unset", "after")
    assert shown(sound, second)["blocked_by"] == []
    circle = sound.run("edit", third, "--after", third)
    sound.run("edit", second, "--after", third)
    longer = sound.run("edit", third, "--after", second)
    unknown = sound.run("edit", third, "--after", "99")

    assert (circle.code, longer.code, unknown.code) == (2, 2, 5)
    assert longer.err.startswith(f"error: task {third} would wait for itself, by way of {second}")
    assert "there is no task '99' to wait for" in unknown.err


def test_a_task_that_was_to_wait_starts_once_it_is_told_so(sound: Place):
    task_id = sound.add("--not-before", "2099-01-01T00:00Z", "--", "true")
    sound.run("run")

    sound.run("edit", task_id, "--unset", "not-before")

    assert f"started task {task_id}" in sound.run("run").out


def test_a_parked_task_is_edited_before_it_is_retried(place: Place):
    place.settings["MAX_ATTEMPTS"] = "1"
    place.add("--", "false")
    place.run("run")
    place.run("wait", "1")

    assert place.run("edit", "1", "--", "true").code == 0
    place.run("retry", "1")
    place.run("run")

    assert place.run("wait", "1").code == 0


def test_what_works_or_has_ended_cannot_be_changed_and_is_told_why(place: Place):
    place.add("--", "sleep", "1000")
    place.add("--", "true")
    place.add("--hold", "--", "true")
    place.run("run")
    place.run("wait", "2")
    place.run("cancel", "3")
    until(lambda: shown(place, "1")["state"] == "running", "task 1 to run")

    for task_id, state, fix in (
        ("1", "running", "its attempt has what it was started with"),
        ("2", "done", "add it anew"),
        ("3", "cancelled", "retry it first"),
    ):
        answer = place.run("edit", task_id, "--priority", "1")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"error: task {task_id} is {state} and cannot be changed")
        assert fix in answer.err
    assert place.run("edit", "99", "--priority", "1").code == 5
    assert place.run("edit", "../x", "--priority", "1").code == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is nothing to change"),
        (("--unset", "titles"), "did you mean title?"),
        (("--priority", "high"), "'high' is not a whole number"),
        (("--max-runtime", "soon"), "--max-runtime 'soon'"),
        (("--agent", "nobody"), "--agent 'nobody' is not configured"),
        (("--prompt", "x"), "a prompt and a command cannot be given together"),
        (("--unset", "agent"), "neither an agent nor a queue"),
        (("--unset", "command"), "and there is none"),
        (("--cwd", "/no/such/folder"), "is not a folder"),
        (("--vram", "lots"), "--vram 'lots'"),
    ],
)
def test_what_could_never_run_is_refused_and_changes_nothing(
    sound: Place, run_at: Callable[..., Answer], arguments: tuple[str, ...], words: str
):
    before = shown(sound, "1")

    answer = run_at(sound, "edit", "1", *arguments)

    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert shown(sound, "1") == before


def test_a_change_is_an_event_and_a_wish_for_a_tick(sound: Place):
    (sound.state / "kick").unlink()

    sound.run("edit", "1", "--title", "x")

    assert (sound.state / "kick").exists()
    assert '"task.edited", "task_id": "1"' in (sound.state / "logs" / "events.jsonl").read_text()
