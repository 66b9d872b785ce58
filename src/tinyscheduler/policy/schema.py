"""What a policy in YAML may say, as JSON Schema for editors: made of what the parser knows.

``python -m tinyscheduler.policy.schema`` prints it; docs/reference/policy.schema.json is that.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tinyscheduler.policy import rules
from tinyscheduler.policy.expressions import MOST_CHARACTERS as LONGEST_EXPRESSION
from tinyscheduler.policy.rules import FIELDS, LABELS, ORDERING, WORDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

_NAME = {"type": "string", "minLength": 1, "maxLength": rules.MOST_CHARACTERS}
_TEXT = {"type": "string", "maxLength": rules.MOST_OPERAND_CHARACTERS}
_NUMBER = {"type": "number"}
_CONDITION = {"$ref": "#/$defs/condition"}


def describe_schema() -> dict[str, Any]:
    """Return the schema, as values of JSON."""
    rule = _mapping(
        {
            "name": _NAME,
            "condition": _CONDITION,
            "action": {"$ref": "#/$defs/action"},
            "priority": {
                "type": "integer",
                "minimum": -rules.MOST_PRIORITY,
                "maximum": rules.MOST_PRIORITY,
                "default": 0,
                "description": "Higher goes first; the order of the file breaks ties.",
            },
        },
        required=("name", "condition", "action"),
    )
    listed = {
        "type": "array",
        "minItems": 1,
        "maxItems": rules.MOST_RULES,
        "items": {"$ref": "#/$defs/rule"},
    }
    scheduler = _mapping(
        {"name": _NAME, "version": _NAME, "rules": listed}, required=("name", "rules")
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TinyScheduler policy",
        **_mapping({"scheduler": scheduler}, required=("scheduler",)),
        "$defs": {"rule": rule, "condition": _condition(), "action": _action()},
    }


def _condition() -> dict[str, Any]:
    several = {"type": "array", "minItems": 1, "maxItems": rules.MOST_ITEMS, "items": _CONDITION}
    fields = {
        f"{subject}.{name}": _comparison(kind, WORDS.get(f"{subject}.{name}", ()))
        for subject, known in FIELDS.items()
        for name, kind in known.items()
    }
    label = "^" + LABELS.replace(".", r"\.") + rules.LABEL.pattern.replace("/", r"\/") + "$"
    mapping = _mapping({"all": several, "any": several, "not": _CONDITION, **fields}, least=1)
    mapping["patternProperties"] = {label: _comparison(Kind.TEXT, ())}
    return {"anyOf": [{"const": rules.ALWAYS}, mapping]}


def _comparison(kind: Kind, words: tuple[str, ...]) -> dict[str, Any]:
    """Return what a field may be compared with."""
    exists = {"exists": {"type": "boolean"}}
    if kind is Kind.ANYTHING:
        return _mapping(exists, least=1)
    value: dict[str, Any] = _NUMBER if kind is Kind.NUMBER else _TEXT
    if words:
        value = {"enum": list(words)}
    items = {"type": "array", "minItems": 1, "maxItems": rules.MOST_ITEMS, "items": value}
    operators: dict[str, Any] = {**exists, "eq": value, "ne": value, "in": items}
    if kind is Kind.NUMBER:
        operators |= dict.fromkeys(ORDERING, _NUMBER)
    else:
        operators["matches"] = {"type": "string", "minLength": 1, "maxLength": LONGEST_EXPRESSION}
    return {"anyOf": [value, _mapping(operators, least=1)]}


def _action() -> dict[str, Any]:
    start = _mapping(
        {
            "worker_selection": _words(rules.Selection, rules.Start().selection),
            "model_match": _words(rules.Match, rules.Start().match),
        }
    )
    duration = {"type": "integer", "minimum": 0, "maximum": rules.MOST_WAIT_MS}
    evict = {
        "oneOf": [
            _mapping({"worker_id": _NAME}, required=("worker_id",)),
            _mapping({"policy": _words(rules.Eviction)}, required=("policy",)),
        ]
    }
    server = _mapping(
        {"model_ref": _NAME, "pool_id": _NAME, "gpu_id": _NAME}, required=("model_ref", "pool_id")
    )
    nothing = {"type": "null"}
    actions: dict[str, Any] = {
        "dispatch": {"anyOf": [nothing, start]},
        "wait": {"anyOf": [nothing, _mapping({"duration_ms": duration})]},
        "evict": evict,
        "start_worker": server,
        "use": {"const": rules.PLATFORM},
    }
    alone = {"enum": ["dispatch", "wait"]}
    return {"anyOf": [alone, {**_mapping(actions, least=1), "maxProperties": 1}]}


def _words(known: type[StrEnum], default: StrEnum | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"enum": [str(one) for one in known]}
    return found if default is None else {**found, "default": str(default)}


def _mapping(
    properties: dict[str, Any], *, required: Iterable[str] = (), least: int = 0
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    if required:
        found["required"] = list(required)
    if least:
        found["minProperties"] = least
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe_schema(), indent=1) + "\n")
