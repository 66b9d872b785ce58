"""Durations and sizes as people write them."""

from __future__ import annotations

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.config import units
from tinyscheduler.config.units import (
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    parse_duration_s,
    parse_size_bytes,
)
from tinyscheduler.model.resources import format_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("2h", 7200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("60", 60),
        (" 60 ", 60),
        (60, 60),
        (0.2, 0.2),
        ("0", 0),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str | float, seconds: float):
    assert parse_duration_s(text) == pytest.approx(seconds)


BAD_NUMBERS = ["", " ", "abc", "-1", "-5s", "nan", "inf", "1e400", "0x10", "1.5.2", "٣s", "1_0s"]


@pytest.mark.parametrize(
    "text",
    [
        *BAD_NUMBERS,
        "90 s",
        "s",
        "5x",
        "5sm",
        "5s garbage",
        "9" * 400,
        "99999d",
        10**400,
        -1,
        math.nan,
        math.inf,
        -math.inf,
        True,
    ],
)
def test_what_is_no_duration_is_refused_with_what_was_expected(text: str | float):
    with pytest.raises(ValueError, match=r"^expected a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("14G", 14 * 2**30),
        ("14GB", 14 * 2**30),
        ("14GiB", 14 * 2**30),
        ("14g", 14 * 2**30),
        ("14 GiB", 14 * 2**30),
        ("512M", 512 * 2**20),
        ("1.5K", 1536),
        ("1T", 2**40),
        ("100B", 100),
        ("0", 0),
        (0, 0),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str | int, size: int):
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    "text", [*BAD_NUMBERS, "14X", "G", "14GG", "1e9G", "-1G", "9" * 400 + "G", "999999999T", True]
)
def test_what_is_no_size_is_refused_with_what_was_expected(text: str | int):
    with pytest.raises(ValueError, match=r"^expected a size"):
        parse_size_bytes(text)


@pytest.mark.parametrize("text", ["14", 14, "2048"])
def test_a_size_without_a_unit_is_refused_because_nobody_means_bytes(text: str | int):
    with pytest.raises(ValueError, match="with a unit, such as"):
        parse_size_bytes(text)


def test_the_examples_in_the_documentation_are_true():
    assert doctest.testmod(units).failed == 0


@given(st.text() | st.floats() | st.integers())
def test_any_input_is_a_duration_within_bounds_or_a_value_error(value: str | float):
    try:
        seconds = parse_duration_s(value)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_DURATION_S


@given(st.text() | st.integers())
def test_any_input_is_a_size_within_bounds_or_a_value_error(value: str | int):
    try:
        size = parse_size_bytes(value)
    except ValueError:
        return
    assert 0 <= size <= MAX_SIZE_BYTES


@given(st.integers(min_value=0, max_value=1000), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_a_formatted_size_reads_back_as_itself(number: int, unit: str):
    size = parse_size_bytes(f"{number}{unit}")

    assert parse_size_bytes(format_size(size)) == size
