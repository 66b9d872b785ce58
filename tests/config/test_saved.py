"""The settings kept for kicked ticks: whole at every moment, whoever writes them at once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.config.building import a_base

from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.saved import load_settings, save_settings

if TYPE_CHECKING:
    from pathlib import Path

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
