"""Regular expressions as patterns of Lua: the same texts fit; the rest is refused by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import lua54

from tinyscheduler.policy.expressions import UnsupportedError, translate

FIND = lua54.LuaRuntime().eval(
    "function(text, pattern) return string.find(text, pattern) ~= nil end"
)


def fits(expression: str, text: str) -> bool:
    return any(FIND(text, pattern) for pattern in translate(expression))


characters = st.sampled_from(
    [*"abz09_-./ ", r"\.", r"\-", r"\+", r"\[", r"\]", r"\(", r"\|", r"\$"]
)
classes = st.sampled_from(
    [
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\D",
        r"\W",
        "[a-z]",
        "[^a-z]",
        "[]a]",
        r"[\d.-]",
        r"[\w%]",
        "[$^]",
        "%",
    ]
)
singles = st.tuples(characters | classes, st.sampled_from(["", "", "", "*", "+", "?"])).map("".join)
sequences = st.lists(singles, min_size=1, max_size=4).map("".join)
groups = st.tuples(
    st.lists(sequences, min_size=1, max_size=3).map("|".join), st.sampled_from(["", "?"])
).map(lambda pair: f"({pair[0]}){pair[1]}")
expressions = st.tuples(
    st.sampled_from(["", "^"]),
    sequences,
    groups | st.just(""),
    sequences,
    st.sampled_from(["", "$"]),
).map("".join)


@given(expressions, st.text("abz09_-./ [](|$+^%]", max_size=12))
def test_the_same_texts_fit(expression: str, text: str):
    try:
        found = fits(expression, text)
    except UnsupportedError:
        return

    assert found == (re.search(expression, text, re.ASCII | re.DOTALL) is not None)


@pytest.mark.parametrize(
    ("expression", "patterns"),
    [
        ("llama", ("llama",)),
        ("^llama-7b$", ("^llama%-7b$",)),
        ("a|b|a", ("a", "b")),
        (r"^(a|b(c|d))?\d+x", ("^a%d+x", "^bc%d+x", "^bd%d+x", "^%d+x")),
        ("(?:a|b)c", ("ac", "bc")),
        ("ü.", ("ü.",)),
        (r"\t100%", ("\t100%%",)),
    ],
)
def test_an_expression_becomes_patterns(expression: str, patterns: tuple[str, ...]):
    assert translate(expression) == patterns


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "is empty"),
        ("a" * 129, "is too long"),
        ("*a", "repeats nothing with *"),
        ("a**", "counts repetitions, or changes them"),
        ("a+?", "counts repetitions, or changes them"),
        ("a{2,3}", "counts repetitions, or changes them"),
        ("(ab)+", "repeats a group"),
        ("(a", "does not close a group"),
        ("a)", "closes a group that is not open"),
        ("(?=a)", "has a group that begins with (?"),
        ("[a", "does not close a ["),
        ("[z-a]", "has the range 'z-a'"),
        (r"[\d-z]", "has the range '\\\\d-z'"),
        (r"[\n-\*]", "has the range '\\\\n-\\\\*'"),
        ("[\n-*]", "has the range '\\n-*'"),
        ("[ä]", "has a character beyond ASCII in [ ]"),
        ("ä*", "repeats a character beyond ASCII"),
        ("a^b", "has a ^ inside"),
        ("a$b", "has a $ inside"),
        ("(a|^b)", "has a ^ inside"),
        (r"\bword", r"has \b, which is not known here"),
        (r"(a)\1", r"has \1, which is not known here"),
        ("a\\", "ends with a backslash"),
        ("a*b*c*d*", "repeats too much"),
        ("a?" * 9, "leaves too much open"),
        ("(a|b)" * 5, "has too many alternatives"),
        ("(" * 20 + "a" + ")" * 20, "has too many groups in one another"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(expression: str, words: str):
    with pytest.raises(UnsupportedError, match="^" + re.escape(words)) as caught:
        translate(expression)

    assert caught.value.remedy


@given(st.text(max_size=20) | st.text(r"ab^$()%.[]*+-?|\dw{}", max_size=20), st.text(max_size=9))
def test_whatever_is_accepted_is_a_pattern_of_lua(expression: str, text: str):
    try:
        patterns = translate(expression)
    except UnsupportedError:
        return

    assert [FIND(text, pattern) in (True, False) for pattern in patterns]
