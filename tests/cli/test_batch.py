"""``add --from``: all lines or none, and the line that is wrong is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.cli.batch import BatchLimits, read_batch
from tinyscheduler.cli.wish import Granter
from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

GOOD = b'{"command": ["true"]}\n'


def test_all_tasks_of_a_file_are_added_with_their_keys_resolved(place: Place):
    lines = [
        {"key": "build", "command": ["make"], "title": "build"},
        {"key": "test", "command": ["make", "test"], "after": ["build"], "priority": 3},
        {"command": ["ship"], "after": ["build", "test"], "labels": {"to": "moon"}},
        {"command": ["later"], "after": 1, "hold": True, "memory": "2G", "max_runtime": 90},
        {"command": ["env"], "env": {"X": "1"}, "cwd": "/", "class": "interactive", "title": None},
    ]
    assert place.add("--", "true") == "1"
    text = "".join(json.dumps(line) + "\n" for line in lines)

    answer = place.run("add", "--from", "-", "--json", stdin=text.encode())

    assert answer.json == {"schema_version": 1, "task_ids": ["2", "3", "4", "5", "6"]}
    shown = [place.run("show", task_id, "--json").json for task_id in answer.json["task_ids"]]
    assert [one["after"] for one in shown] == [[], ["2"], ["2", "3"], ["1"], []]
    assert shown[2]["labels"] == {"to": "moon"}
    assert (shown[3]["state"], shown[3]["max_runtime_sec"]) == ("held", 90)
    assert (shown[4]["cwd"], shown[4]["class"]) == ("/", "interactive")


def test_text_output_is_one_id_a_line(place: Place):
    (place.base / "tasks.jsonl").write_bytes(GOOD * 3)

    answer = place.run("add", "--from", "tasks.jsonl")

    assert (answer.code, answer.out, answer.err) == (0, "1\n2\n3\n", "")


def test_files_from_other_systems_are_read(place: Place):
    text = b'\xef\xbb\xbf{"command": ["a"]}\r\n\r\n  \n{"command": ["b"]}'

    answer = place.run("add", "--from", "-", stdin=text)

    assert (answer.code, answer.out) == (0, "1\n2\n")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "it is not JSON: Expecting property name enclosed in double quotes at column 2;"),
        ('{"seed": ' + "9" * 5000 + "}", "it holds a number of thousands of digits;"),
        ("[]", "is not an object"),
        ("7", "is not an object"),
        ('"x"', "is not an object"),
        ("null", "is not an object"),
        ("{}", "there is nothing to run"),
        ('{"command": "ls"}', "command should be a list of texts"),
        ('{"command": []}', "command should be a list of at least one text"),
        ('{"command": ["ls", 1]}', "command should be a list of texts"),
        ('{"command": [""]}', "the command has an empty name"),
        ('{"command": ["ls"], "kommand": 1}', "the key 'kommand' is unknown"),
        ('{"command": ["ls"], "command": ["rm"]}', "the key 'command' is there twice"),
        ('{"command": ["ls"], "priority": "1"}', "priority should be a whole number"),
        ('{"command": ["ls"], "priority": 1.5}', "priority should be a whole number"),
        ('{"command": ["ls"], "priority": true}', "priority should be a whole number"),
        ('{"command": ["ls"], "priority": 1e400}', "priority should be a whole number"),
        ('{"command": ["ls"], "priority": NaN}', "NaN is not a JSON number"),
        ('{"command": ["ls"], "priority": 9223372036854775808}', "priority is"),
        ('{"command": ["ls"], "gpus": -1}', "gpus is -1, which is out of range"),
        ('{"command": ["ls"], "hold": 1}', "hold should be true or false"),
        ('{"command": ["ls"], "class": "urgent"}', "class should be interactive or batch"),
        ('{"command": ["ls"], "vram": 14}', "vram 14: expected a size with a unit"),
        ('{"command": ["ls"], "memory": []}', "memory should be a size"),
        ('{"command": ["ls"], "max_runtime": -1}', "max_runtime -1: expected a duration"),
        ('{"command": ["ls"], "max_runtime": 0}', "max_runtime must be longer"),
        ('{"command": ["ls"], "not_before": 5}', "not_before should be a text"),
        ('{"command": ["ls"], "not_before": "soon"}', "not_before 'soon' is no time"),
        ('{"command": ["ls"], "labels": ["a"]}', "labels should be an object of texts"),
        ('{"command": ["ls"], "env": {"A": 1}}', "env should be an object of texts"),
        ('{"command": ["ls"], "env": {"": "1"}}', "the environment has a variable"),
        ('{"command": ["ls"], "after": {"a": 1}}', "after should be a list of task ids"),
        ('{"command": ["ls"], "after": ["nobody"]}', "there is no task 'nobody' to wait for"),
        ('{"command": ["ls"], "after": ["self"], "key": "self"}', "wait for each other"),
        ('{"command": ["ls"], "cwd": "/nonexistent"}', "cwd '/nonexistent' is not a folder"),
        ('{"command": ["a\\u0000b"]}', "holds a NUL"),
        ('{"command": ["\\ud800"]}', "is not valid Unicode"),
        ('{"agent": "nobody", "prompt": "x"}', "agent 'nobody' is not configured"),
        ('{"prompt": "x"}', "a prompt needs an agent"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_one_bad_line_is_named_and_nothing_is_added(
    place: Place, here: Callable[..., Answer], line: str, fault: str
):
    (place.base / "tasks.jsonl").write_bytes(GOOD + line.encode() + b"\n" + GOOD)

    answer = here("add", "--from", "tasks.jsonl")

    assert (answer.code, answer.out) in {(2, ""), (5, "")}, answer
    first, hint = answer.err.splitlines()
    assert hint.startswith("hint: ")
    assert first.startswith("error: tasks.jsonl, line 2: ")
    assert first.endswith("; nothing was added")
    assert fault in first
    assert len(first) < 400
    assert here("list", "--json").json["tasks"] == []


def test_a_line_that_is_not_utf_8_is_named(place: Place):
    latin = place.run("add", "--from", "-", stdin=GOOD + b'{"title": "\xe9"}\n')
    wide = place.run("add", "--from", "-", stdin=GOOD.decode().encode("utf-16"))

    assert (latin.code, wide.code) == (2, 2)
    assert "standard input, line 2: byte 12 is not UTF-8" in latin.err
    assert "standard input, line 1: byte 1 is not UTF-8" in wide.err


@pytest.mark.parametrize("text", [b"", b"\n", b"\xef\xbb\xbf", b"\r\n \r\n"])
def test_an_empty_file_is_told_so(place: Place, text: bytes):
    answer = place.run("add", "--from", "-", stdin=text)

    assert (answer.code, answer.out) == (2, "")
    assert "there is no task in standard input" in answer.err


@pytest.mark.parametrize("name", ["/nonexistent", "/"])
def test_a_file_that_cannot_be_read_is_named(here: Callable[..., Answer], name: str):
    answer = here("add", "--from", name)

    assert answer.code == 2
    assert answer.err.startswith(f"error: cannot read {name}: ")


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        (BatchLimits(lines=2), "has more than 2 tasks"),
        (BatchLimits(line_bytes=30), "line 1: the line is longer than 30 bytes"),
        (BatchLimits(bytes=100), "line 3: the batch is longer than 100 bytes"),
    ],
)
def test_a_batch_has_bounds(tmp_path: Path, limits: BatchLimits, fault: str):
    config = load_config(Overrides(base_path=str(tmp_path)), environ={}, write_cache=False)
    granter = Granter(config=config, folder="/", now=datetime.now(UTC), spell=str)
    (tmp_path / "batch").write_bytes(b'{"command": ["echo", "0123456789"]}\n' * 3)

    with pytest.raises(UsageError, match=fault):
        read_batch(str(tmp_path / "batch"), granter, limits=limits)
