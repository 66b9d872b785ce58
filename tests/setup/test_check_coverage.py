"""The coverage gate: what it calls a gap, and how it compares gaps with the list."""

from __future__ import annotations

import json
import os
import posix
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from scripts.check_coverage import Gap, find_gaps, listed_faults

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = """
def never_called():
    first = 1
    return first


class Judge:
    def one_way(self, number):
        if number:
            number += 1
            number += 2
        return number

    def no_trouble(self, number):
        try:
            return number.real
        except AttributeError:
            return 0


def whole(number):
    if number:
        return 1
    return 2


Judge().one_way(0)
Judge().no_trouble(1)
whole(0)
whole(1)
"""


def measure(folder: Path, text: str) -> dict[str, Any]:
    (folder / "sample.py").write_text(text)
    environment = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
    for arguments in (["run", "--branch", "sample.py"], ["json", "-q"]):
        subprocess.run(
            [sys.executable, "-m", "coverage", *arguments], cwd=folder, env=environment, check=True
        )
    measured: dict[str, Any] = json.loads((folder / "coverage.json").read_text())["files"]
    return measured


def a_gap(function: str, source: str, to: str | None = None) -> Gap:
    return Gap(file="sample.py", function=function, source=source, to=to)


def test_a_gap_is_named_where_it_begins_and_only_there(tmp_path: Path):
    measured = measure(tmp_path, SAMPLE)

    gaps = find_gaps("sample.py", SAMPLE, measured["sample.py"])

    assert gaps == {
        a_gap("never_called", "first = 1"),
        a_gap("Judge.one_way", "if number:", "number += 1"),
        a_gap("Judge.no_trouble", "except AttributeError:"),
    }


def test_a_gap_keeps_its_name_when_lines_above_it_come_and_go(tmp_path: Path):
    longer = "import os\n\n\n" + SAMPLE

    before = find_gaps("sample.py", SAMPLE, measure(tmp_path, SAMPLE)["sample.py"])
    after = find_gaps("sample.py", longer, measure(tmp_path, longer)["sample.py"])

    assert before == after


def test_the_list_must_hold_each_gap_with_a_reason_and_nothing_else():
    known, new, covered = a_gap("f", "known"), a_gap("f", "new"), a_gap("f", "covered")

    faults = listed_faults({known, new}, {known: "a broken kernel", covered: " "})

    assert [fault.partition(":")[0] for fault in faults] == [
        "not covered, and not in tests/uncovered.toml",
        "in tests/uncovered.toml, but covered by now",
        "in tests/uncovered.toml without a reason",
    ]
    assert listed_faults({known}, {known: "a broken kernel"}) == []


def test_in_a_test_that_does_not_count_nothing_of_coverage_is_left():
    # Wrapped once more at each start of a measurement, os._exit ended in a RecursionError, and
    # a fork of the test process went on with the tests.
    assert (os._exit, os.execv, os.execve) == (posix._exit, posix.execv, posix.execve)
    assert not {"COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE"} & os.environ.keys()
