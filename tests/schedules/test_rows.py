"""Each promise about schedules has a test that is named for it; each principle has a record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LAST_ROW = 25
PRINCIPLES = {
    24: "claim is one statement",
    25: "by evidence",
    26: "kind of failure",
    27: "by hand the bound holds",
    28: "on a lease",
    29: "shared with people",
}
MOST_LINES = 45


def named() -> set[int]:
    texts = [path.read_text() for path in (TOP / "tests").rglob("test_*.py")]
    return {
        int(number)
        for text in texts
        for number in re.findall(r"^def test_s(\d\d)_", text, re.MULTILINE)
    }


def test_every_row_has_a_test_that_is_named_for_it():
    missing = set(range(1, LAST_ROW + 1)) - named()

    assert not missing, f"no test_sNN_ for {sorted(missing)}"
    assert named() <= set(range(1, LAST_ROW + 1))


@pytest.mark.parametrize("number", PRINCIPLES)
def test_s24_each_principle_has_a_decision_record_of_a_page(number: int):
    (path,) = (TOP / "docs" / "decisions").glob(f"{number:04}-*.md")
    text = path.read_text()

    assert text.startswith(f"# {number}. ")
    assert PRINCIPLES[number] in text.splitlines()[0].lower()
    assert re.search(r"^Status: accepted\nDate: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= MOST_LINES
