"""Which env file is read, and what may stand in it?"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.config.building import (
    NOBODY,
    a_base,
    a_public_folder,
    an_environment,
    loaded,
    origin,
    run_python,
)

from tinyscheduler.config.env_file import parse_env_file
from tinyscheduler.config.inputs import InputFile
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def assert_named(error: ConfigError, place: str) -> None:
    assert error.what.startswith(place)


def values_in(text: str, **environ: str) -> dict[str, str]:
    source = InputFile(path="/base/.env", content=text.encode())
    entries = parse_env_file(source, environ).entries
    return {name: entry.value for name, entry in entries.items()}


def test_the_file_is_looked_for_by_option_then_variable_then_name(tmp_path: Path):
    base = a_base(tmp_path)
    for name, attempts in ((".env", 1), (".env.tinyscheduler", 2), ("variable", 3), ("option", 4)):
        (base / name).write_text(f"TINYSCHEDULER_MAX_ATTEMPTS={attempts}\n")
    variable = an_environment(ENV_FILE=str(base / "variable"))

    assert loaded(base, variable, env_file=str(base / "option")).limits.max_attempts == 4
    assert loaded(base, variable).limits.max_attempts == 3
    assert loaded(base).limits.max_attempts == 2
    (base / ".env.tinyscheduler").unlink()
    assert loaded(base).limits.max_attempts == 1
    (base / ".env").unlink()
    assert origin(loaded(base), "MAX_ATTEMPTS") is Origin.DEFAULT


def test_a_file_that_was_asked_for_and_is_missing_is_an_error(tmp_path: Path):
    base = a_base(tmp_path)

    with pytest.raises(ConfigError, match=f"--env-file: there is no file {base}/none"):
        loaded(base, env_file=str(base / "none"))
    with pytest.raises(ConfigError, match="TINYSCHEDULER_ENV_FILE: there is no file"):
        loaded(base, an_environment(ENV_FILE="/nonexistent/env"))


def test_the_null_device_stands_for_no_env_file(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7")

    assert loaded(base, env_file="/dev/null").limits.max_attempts == 3


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "large"])
def test_what_is_no_file_of_settings_is_refused_at_once(tmp_path: Path, kind: str):
    path = tmp_path / "env"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "large": lambda: path.write_bytes(b"#" * (2**20 + 1)),
    }
    make[kind]()

    with pytest.raises(ConfigError, match=r"is not a file|larger than 1 MiB"):
        loaded(a_base(tmp_path / "base"), env_file=str(path))


@contextmanager
def a_hidden_env_file(*, hides: str) -> Iterator[Path]:
    """Make an env file which its mode, or that of its folder, keeps from other users."""
    with a_public_folder() as folder:
        path = folder / "base" / ".env.tinyscheduler"
        path.parent.mkdir(mode=0o755)
        path.write_text("TINYSCHEDULER_MAX_ATTEMPTS=7")
        hidden = path if hides == "file" else path.parent
        hidden.chmod(0)
        yield path
        path.parent.chmod(0o755)  # for who removes it


LOAD = """if True:
    import sys
    from tinyscheduler.config.load import load_config
    from tinyscheduler.errors import ConfigError
    try:
        load_config(environ={"TINYSCHEDULER_BASE_PATH": sys.argv[1]})
    except ConfigError as error:
        print(error.what, "|", error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("hides", ["file", "folder"])
def test_of_an_env_file_of_another_user_it_is_said_whose_it_is(hides: str):
    with a_hidden_env_file(hides=hides) as path:
        printed = run_python(LOAD, str(path.parent), unprivileged=True)

    fault = f"cannot be read: {path.parent} belongs" if hides == "folder" else "belongs"
    assert printed == (
        f"{path}: the env file {fault} to user root, not to you"
        " | run this as root, or use a base path of your own\n"
    )


def test_an_env_file_of_ones_own_that_may_not_be_read_is_an_error_and_not_ignored():
    with a_hidden_env_file(hides="file") as path:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        printed = run_python(LOAD, str(path.parent), unprivileged=True)

    assert printed.startswith(f"{path}: the env file cannot be read: Permission denied | make it")


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"A=1\nB=\xff\n", "env:2: not UTF-8"), (b"A=1\n\nB=\0\n", "env:3: holds a NUL")],
)
def test_bytes_that_are_no_text_are_refused_with_their_line(
    tmp_path: Path, content: bytes, place: str
):
    (tmp_path / "env").write_bytes(content)

    with pytest.raises(ConfigError, match=place):
        loaded(a_base(tmp_path / "base"), env_file=str(tmp_path / "env"))


def test_a_line_that_sets_nothing_is_ignored_with_a_warning_that_names_it(tmp_path: Path):
    base = a_base(
        tmp_path, env="# ours\nTINYSCHEDULER_MAX_ATTEMPTS=7\n'broken\nTINYSCHEDULER_KICK\n"
    )

    config = loaded(base)

    assert config.limits.max_attempts == 7
    assert [warning.split(":")[1] for warning in config.warnings] == ["3", "4"]


def test_a_setting_that_is_there_twice_warns_and_the_last_one_counts(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7\nTINYSCHEDULER_MAX_ATTEMPTS=8\n")

    config = loaded(base)

    assert config.limits.max_attempts == 8
    assert config.warnings == (
        (
            f"{base}/.env:2: TINYSCHEDULER_MAX_ATTEMPTS is set again (first in line 1);"
            " the last one counts"
        ),
    )


def test_quotes_comments_and_export_are_understood():
    text = "\ufeffexport A=1 # one\r\nB='two # 2'\r\n\r\nC=\"a\\nb\"\nD=\n"

    assert values_in(text) == {"A": "1", "B": "two # 2", "C": "a\nb", "D": ""}


def test_a_value_may_refer_to_the_environment_and_to_earlier_lines():
    text = "A=${HOME}/a\nB=${A}/b\nC=${NOWHERE:-c}\nD=${NOWHERE}d\nHOME=/file\nE=${HOME}\n"

    assert values_in(text, HOME="/env") == {
        "A": "/env/a",
        "B": "/env/a/b",
        "C": "c",
        "D": "d",
        "HOME": "/file",
        "E": "/env",
    }


@pytest.mark.parametrize(
    "text",
    [
        "A=xxxxxxxx\n" + "A=${A}${A}\n" * 60,
        "A=" + "x" * 100_000 + "\n" + "".join(f"B{number}=${{A}}\n" for number in range(50_000)),
    ],
    ids=["doubling", "repeating"],
)
def test_a_few_lines_cannot_fill_the_memory(text: str):
    with pytest.raises(ConfigError, match="too long"):
        values_in(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_env_file_or_a_config_error(content: bytes):
    source = InputFile(path="/base/.env", content=content)

    try:
        found = parse_env_file(source, {})
    except ConfigError as error:
        assert_named(error, "/base/.env:")
        return

    for entry in found.entries.values():
        if entry.span is not None:
            start, end = entry.span
            assert content[start:end].decode() == entry.value


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_a_value_is_cut_out_of_the_file_exactly_as_it_was_parsed(value: str):
    text = f"\ufeff# first\nA=1\n\nKEY='{value}' # ours\n"
    content = text.encode()

    found = parse_env_file(InputFile(path="/base/.env", content=content), {})

    for entry in found.entries.values():
        if entry.span is not None:
            start, end = entry.span
            assert content[start:end].decode() == entry.value
