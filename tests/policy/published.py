"""The published schema, and what is valid by it: as much of JSON Schema as it uses."""

from __future__ import annotations

import json
import operator
import re
from typing import TYPE_CHECKING, Any

from tests.docs.pages import TOP

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = json.loads((TOP / "docs/reference/policy.schema.json").read_text())
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def is_known(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    patterns = schema.get("patternProperties", {})
    return all(
        key in schema["properties"] or any(re.search(one, key) for one in patterns) for key in value
    )


# What each keyword asks for, by what the schema says there.
KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "$ref": lambda value, name: is_valid(value, SCHEMA["$defs"][name.removeprefix("#/$defs/")]),
    "anyOf": lambda value, schemas: any(is_valid(value, one) for one in schemas),
    "oneOf": lambda value, schemas: sum(is_valid(value, one) for one in schemas) == 1,
    "const": operator.eq,
    "enum": lambda value, known: value in known,
    "type": lambda value, name: (
        isinstance(value, TYPES[name]) and isinstance(value, bool) is (name == "boolean")
    ),
    "minLength": lambda value, least: len(value) >= least,
    "minItems": lambda value, least: len(value) >= least,
    "minProperties": lambda value, least: len(value) >= least,
    "maxLength": lambda value, most: len(value) <= most,
    "maxItems": lambda value, most: len(value) <= most,
    "maxProperties": lambda value, most: len(value) <= most,
    "minimum": operator.ge,
    "maximum": operator.le,
    "items": lambda value, schema: all(is_valid(item, schema) for item in value),
    "required": lambda value, names: set(names) <= set(value),
    "properties": lambda value, schemas: all(
        is_valid(value[key], one) for key, one in schemas.items() if key in value
    ),
    "patternProperties": lambda value, schemas: all(
        is_valid(item, one)
        for pattern, one in schemas.items()
        for key, item in value.items()
        if re.search(pattern, key)
    ),
}
SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default"}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Say whether a value is what a schema asks for; KeyError for a word that is not known here."""
    return all(
        is_known(value, schema) if word == "additionalProperties" else KEYWORDS[word](value, said)
        for word, said in schema.items()
        if word not in SAYS_NOTHING
    )
