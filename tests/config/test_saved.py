"""The settings kept for kicked ticks: whole at every moment, whoever writes them at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.config.building import a_base

from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.saved import load_settings, save_settings, saved_running_folder
from tinyscheduler.errors import ConfigError
from tinyscheduler.values import replace

# What no setting may be, as JSON that Python reads: it knows more numbers than the standard.
ODD = (
    *("Infinity", "-Infinity", "NaN", "1e300", "[5]", '{"a": 1}'),
    *("1" + "0" * 400, "1" + "0" * 5000, "[" * 900 + "]" * 900, "[" * 100_000),
)


def places(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path to everything in a document that holds nothing else."""
    if isinstance(document, dict | list) and document:
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        return [place for key, value in pairs for place in places(value, (*path, key))]
    return [path]


def changed(document: Any, place: tuple[str | int, ...], value: object) -> Any:
    key, *rest = place
    copy = document.copy()
    copy[key] = changed(document[key], tuple(rest), value) if rest else value
    return copy


# A regular tick's start, again and again, with settings that differ each time.
WRITER = """
import sys
from tinyscheduler.config.saved import load_settings, save_settings
from tinyscheduler.values import replace

config = load_settings(sys.argv[1])
for number in range(60):
    words = "x" * (1 + 5000 * (number % 2))
    save_settings(replace(config, environment=((sys.argv[2], words),)))
"""


def test_settings_that_several_regular_ticks_write_at_once_are_always_whole(tmp_path: Path):
    base = a_base(tmp_path)
    config = load_config(Overrides(base_path=str(base)), environ={}, write_cache=False)
    save_settings(config)
    path = config.paths.settings

    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name], stderr=subprocess.PIPE, text=True
        )
        for name in ("CRON", "TIMER", "DAEMON")
    ]
    while any(writer.poll() is None for writer in writers):
        load_settings(path)

    for writer in writers:
        assert (writer.communicate()[1], writer.returncode) == ("", 0)
    assert sorted(one.name for one in (base / "state").iterdir()) == ["settings.json"]


@pytest.mark.parametrize("odd", ODD, ids=lambda text: text[:12])
def test_settings_of_which_one_is_none_are_told_as_unreadable(tmp_path: Path, odd: str):
    base = a_base(tmp_path, agents="agents: {coder: {limit: 2, command: [x], env: [API_KEY]}}")
    overrides = Overrides(base_path=str(base))
    config = load_config(overrides, environ={"API_KEY": "x"}, write_cache=False)
    save_settings(config)
    path = Path(config.paths.settings)
    whole = json.loads(path.read_text())

    for place in places(whole):
        # The rest is what a cached configuration depends on; kicked ticks depend on nothing.
        if place[:2] == ("resolution", "config") or place[0] != "resolution":
            path.write_text(json.dumps(changed(whole, place, "ODD")).replace('"ODD"', odd))

            with pytest.raises(ConfigError, match="the last regular tick are unreadable"):
                load_settings(str(path))
            assert saved_running_folder(str(path)) in (None, config.paths.running)
    save_settings(config)
    assert load_settings(str(path)) == config


def test_a_path_that_no_file_can_have_is_told_and_believed_by_nobody(tmp_path: Path):
    config = load_config(Overrides(base_path=str(a_base(tmp_path))), environ={}, write_cache=False)
    save_settings(replace(config, paths=replace(config.paths, running="/a\0b")))

    with pytest.raises(ConfigError, match="the last regular tick are unreadable"):
        load_settings(config.paths.settings)
    assert saved_running_folder(config.paths.settings) is None
