"""A wrapper starts from compiled code, whoever installed it and however."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
from typing import TYPE_CHECKING

import pytest

from tinyscheduler import wrapper
from tinyscheduler.adapters.launch_local.launcher import compile_once, compiled

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _compiling_is_allowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def installed(folder: Path) -> str:
    """Return the wrapper's source as uv leaves it: not compiled."""
    source = folder / "wrapper.py"
    with open(wrapper.__file__, encoding="utf-8") as file:
        source.write_text(file.read())
    return str(source)


def test_the_first_start_compiles_the_wrapper_and_the_next_ones_find_it(tmp_path: Path):
    source = installed(tmp_path)
    assert compiled(source) == source

    first = compile_once(source)

    assert first == importlib.util.cache_from_source(source)
    before = os.stat(first)
    assert compile_once(source) == first
    assert os.stat(first) == before


def test_a_wrapper_of_a_version_before_is_not_started(tmp_path: Path):
    source = installed(tmp_path)
    before = (tmp_path / "wrapper.py").read_text()
    py_compile.compile(source)
    (tmp_path / "wrapper.py").write_text(before + "# newer\n")
    assert compiled(source) == source

    program = compile_once(source)

    assert program == compiled(source) != source


def test_where_nothing_may_be_kept_the_source_is_started(tmp_path: Path):
    source = installed(tmp_path)
    # Read-only folders do not stop root; this stops everybody.
    (tmp_path / "__pycache__").write_text("")

    assert compile_once(source) == source


def test_a_wrapper_that_is_gone_is_nothing_to_compile(tmp_path: Path):
    source = str(tmp_path / "wrapper.py")

    assert compile_once(source) == source
