"""The published schema says what the parser says, as far as a schema can."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.published import SCHEMA, is_valid
from tests.policy.test_compiling import actions, conditions
from tests.policy.test_rules import EXAMPLE, fault_of

from tinyscheduler.policy.schema import describe_schema


def a_document(**parts: Any) -> dict[str, Any]:
    rule = {"name": "night", "condition": "always", "action": "dispatch", **parts}
    return {"scheduler": {"name": "mine", "rules": [rule]}}


def test_the_published_schema_is_that_of_the_parser():
    # To write it anew: python -m tinyscheduler.policy.schema > docs/reference/policy.schema.json
    assert describe_schema() == SCHEMA


def test_the_example_of_the_reference_is_valid():
    assert is_valid(yaml.safe_load(EXAMPLE), SCHEMA)


@given(conditions, actions)
def test_what_the_parser_takes_is_valid(condition: Any, action: Any):
    document = a_document(condition=condition, action=action)

    assert fault_of(json.dumps(document).encode()) is not None or is_valid(document, SCHEMA)


words = st.sampled_from(
    [
        *("all", "any", "not", "job.rank", "job.priority", "job.labels.x", "job.labels", "job.no"),
        *("exists", "eq", "lt", "in", "matches", "dispatch", "wait", "use", "evict", "policy"),
        *("worker_selection", "duration_ms", "worker_id"),
    ]
)
operands = st.sampled_from(
    ["always", "batch", "lru", "least-loaded", "platform-scheduler", "x", 3, -1, 2.5, True, None]
)
anything = st.recursive(
    operands,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=6,
)


@given(st.sampled_from(["name", "condition", "action", "priority"]), anything)
def test_both_take_and_refuse_the_same(key: str, value: Any):
    document = a_document(**{key: value})

    assert (fault_of(json.dumps(document).encode()) is None) == is_valid(document, SCHEMA)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"scheduler": {}},
        {"scheduler": {"name": "a", "rules": []}},
        {"scheduler": {"name": "a", "rules": [{}]}},
        {"scheduler": {"name": "a", "version": 1.0, "rules": []}},
        a_document(other=1),
        a_document(priority="1"),
        a_document(priority=10**7),
        a_document(name=""),
        a_document(condition={"job.prio": "batch"}),
        a_document(condition={"job.labels.": "x"}),
        a_document(condition={"job.rank": {"in": []}}),
        a_document(action={"dispatch": {}, "wait": {}}),
    ],
)
def test_what_is_no_policy_is_refused_by_both(document: Any):
    assert fault_of(json.dumps(document).encode()) is not None
    assert not is_valid(document, SCHEMA)
