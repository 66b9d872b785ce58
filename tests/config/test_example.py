"""Does the example env file say the same as the settings?"""

from __future__ import annotations

import re
from pathlib import Path

from tests.config.building import an_environment

from tinyscheduler.config.inputs import gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.settings import Settings, default_text, read_settings
from tinyscheduler.model.config import Origin

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.tinyscheduler.example"
ENTRY = re.compile(r"^# (?P<comment>.+)\n#(?P<name>TINYSCHEDULER_\w+)=(?P<value>.*)$", re.MULTILINE)


def test_every_setting_is_in_the_example_and_nothing_else_is():
    text = EXAMPLE.read_text()

    named = re.findall(r"^#?\s*(TINYSCHEDULER_\w+)=", text, re.MULTILINE)

    assert named == [f"TINYSCHEDULER_{name.upper()}" for name in Settings.model_fields]
    assert len(ENTRY.findall(text)) == len(named)


def test_each_setting_is_explained_in_one_line_with_its_default():
    entries = {match["name"]: match for match in ENTRY.finditer(EXAMPLE.read_text())}

    for name, field in Settings.model_fields.items():
        entry = entries[f"TINYSCHEDULER_{name.upper()}"]
        assert entry["comment"] == field.description
        assert (entry["value"] or "(none)") == default_text(name)


def test_the_example_changes_nothing_as_it_is_nor_uncommented(tmp_path: Path):
    text = EXAMPLE.read_text()
    uncommented = re.sub(r"^#(TINYSCHEDULER_\w+=.+)$", r"\1", text, flags=re.MULTILINE)

    for content, origin in ((text, Origin.DEFAULT), (uncommented, Origin.ENV_FILE)):
        (tmp_path / "env").write_text(content)
        overrides = Overrides(env_file=str(tmp_path / "env"))
        found = read_settings(gather_inputs(overrides, an_environment()))
        assert found.settings == Settings.model_construct()
        assert found.problems == ()
        assert found.origin("log_level") is origin
