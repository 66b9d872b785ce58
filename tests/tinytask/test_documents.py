"""What a server tells is read strictly, and what is odd is named."""

from __future__ import annotations

import pytest
from tests.tinytask.double import Double

from tinyscheduler.adapters.tinytask.documents import OddDocumentError, read_task


@pytest.fixture(scope="module")
def document():
    double = Double()
    return double.task(double.add("a title", assigned_to="coder", tags=["x"]))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("id", "12", "a whole number"),
        ("id", True, "a whole number"),
        ("id", 0, "a number from 1"),
        ("id", 2**60, "a whole number"),
        ("title", None, "a text"),
        ("title", 7, "a text"),
        ("description", ["x"], "a text"),
        ("status", "done", "one of idle, working, complete"),
        ("assigned_to", {"name": "x"}, "a text"),
        ("priority", 1.5, "a whole number"),
        ("tags", "x", "a list of texts"),
        ("tags", [1], "a list of texts"),
        ("parent_task_id", "1", "a whole number"),
        ("is_currently_blocked", 1, "true or false"),
        ("created_at", "yesterday", "a time"),
        ("updated_at", "0001-01-01T00:00:00+14:00", "a time"),
        ("comments", [None], "a list of objects"),
        ("comments", [{"content": 1}], "a text"),
    ],
)
def test_each_field_that_is_odd_is_named(document, field, value, expected):
    with pytest.raises(OddDocumentError, match=f"{field}.* is .*, not {expected}|content is 1"):
        read_task({**document, field: value})


@pytest.mark.parametrize("odd", [None, [], "x", 7])
def test_what_is_no_object_is_no_task(odd):
    with pytest.raises(OddDocumentError, match="not an object"):
        read_task(odd)


def test_what_is_no_unicode_is_replaced_and_an_empty_name_is_nobody(document):
    task = read_task({**document, "title": "half \ud83d", "assigned_to": "", "queue_name": ""})

    assert (task.title, task.agent, task.queue) == ("half ?", None, None)


def test_a_time_without_a_zone_is_in_utc(document):
    naive = read_task({**document, "created_at": "2026-11-21 03:08:16"})
    aware = read_task({**document, "created_at": "2026-11-21T04:08:16+01:00"})

    assert naive.created_at == aware.created_at
