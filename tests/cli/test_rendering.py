"""Columns line up, whatever the letters, and no text can pretend to be the terminal's."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.cli import add, render, tasks
from tinyscheduler.cli.render import Cell, Ink, Page, cut, escape, format_table, measure

PLAIN = Page(is_colored=False, width=None)


@pytest.mark.parametrize("module", [add, render, tasks], ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_are_true(module: object):
    result = doctest.testmod(module)  # type: ignore[arg-type]  # modules have no type of their own

    assert result.attempted
    assert not result.failed


def test_columns_line_up():
    lines = format_table(["ID", "STATE"], [["1", "done"], ["1000", "waiting"]], PLAIN)

    assert lines == ["ID    STATE", "1     done", "1000  waiting"]


def test_wide_letters_take_two_columns():
    lines = format_table([], [["日本", "x"], ["abcd", "y"]], PLAIN)

    assert lines == ["日本  x", "abcd  y"]


def test_colours_take_no_columns():
    page = Page(is_colored=True, width=80)

    lines = format_table([], [[Cell(text="done", ink=Ink.GREEN), "x"], ["waiting", "y"]], page)

    assert lines == ["\x1b[32mdone\x1b[0m     x", "waiting  y"]


def test_the_last_column_gives_way():
    lines = format_table(["ID", "TASK"], [["1", "x" * 100]], Page(is_colored=False, width=20))

    assert lines == ["ID  TASK", "1   " + "x" * 15 + "…"]


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_a_cut_text_fits(text: str, width: int):
    assert measure(cut(text, width)) <= max(width, 1)


@given(st.text())
def test_an_escaped_text_is_printable(text: str):
    assert escape(text).isprintable()


@given(st.text(st.characters(categories=("L", "N", "P"))))
def test_a_printable_text_stays_as_it_is(text: str):
    assert escape(text) == text
