"""JSON is written and read as the standard library's module does it, faults included."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyscheduler.jsontext import dumps, loads

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers() | st.floats(allow_nan=False), inner)
    ),
    max_leaves=20,
)


def outcome_of(read, text):
    """What it reads, as text, or how it fails."""
    try:
        return repr(read(text))
    except ValueError as error:
        return type(error), str(error)


@given(DOCUMENTS)
def test_what_is_written_is_what_the_module_writes(document):
    assert dumps(document) == json.dumps(document)
    compact: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}
    assert dumps(document, **compact) == json.dumps(document, **compact)


@given(DOCUMENTS, st.sampled_from(["", " ", "\n\t\r "]), st.sampled_from([None, 2]))
def test_what_the_module_writes_is_read_as_it_reads_it(document, space, indent):
    text = f"{space}{json.dumps(document, indent=indent)}{space}"

    assert loads(text) == json.loads(text) == loads(text.encode())


@given(st.text(alphabet='{}[]",:0123456789.eE+-\\untrfalse \n\x0b\xa0\x00é\ud800', max_size=12))
@example("[1] 2")
@example('{"a": 1,}')
@example("\ufeff1")
@example("\xa01")
@example("[NaN, -Infinity, Infinity]")
@example("9" * 5000)
def test_a_text_is_refused_in_the_words_of_the_module(text):
    assert outcome_of(loads, text) == outcome_of(json.loads, text)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xef\xbb\xbf[1]", "[1]".encode("utf-16")])
def test_bytes_are_taken_for_the_text_that_the_module_takes_them_for(content: bytes):
    assert outcome_of(loads, content) == outcome_of(json.loads, content)


def test_what_is_no_json_is_not_written():
    with pytest.raises(TypeError, match=r"^Object of type set is not JSON serializable$"):
        dumps({"a": {1}})
    with pytest.raises(ValueError, match=r"Out of range float"):
        dumps(float("inf"), allow_nan=False)
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="Circular reference"):
        dumps(endless)


def test_a_document_nested_too_deeply_is_a_recursion_error_as_ever():
    with pytest.raises(RecursionError):
        loads("[" * 100_000)


def test_reading_and_writing_load_nothing_more():
    program = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
from tinyscheduler.jsontext import dumps, loads
assert loads(dumps({"a": [1, 2.5, None, "é"]})) == {"a": [1, 2.5, None, "é"]}
print(*sorted(set(sys.modules) - before - {"__future__"}))
try:
    loads("[1")
except ValueError as error:
    print(error)
"""
    folder = loads.__code__.co_filename.removesuffix("/tinyscheduler/jsontext.py")

    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, folder],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.splitlines() == [
        "_json tinyscheduler tinyscheduler.jsontext",
        "Expecting ',' delimiter: line 1 column 3 (char 2)",
    ]
