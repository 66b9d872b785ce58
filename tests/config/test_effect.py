"""Does each setting do something, and does the reference say so of those that do not yet?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.config.building import an_environment
from tests.config.test_precedence import SAMPLES

from tinyscheduler.config.load import load_config
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.model.config import Config, Origin
from tinyscheduler.values import replace

TOP = Path(__file__).resolve().parents[2]
REFERENCE = TOP / "docs" / "reference" / "configuration.md"
WITHOUT_EFFECT = {
    name.lower()
    for name in re.findall(
        r"^\| `TINYSCHEDULER_(\w+)` ",
        REFERENCE.read_text().partition("### Without effect")[2].partition("\n## ")[0],
        re.MULTILINE,
    )
}
# Read into the configuration, for what is to come; the attribute by which it would be used.
CARRIED = {
    "bin_dir": r"paths\.scripts",
    "max_skips_per_task": r"limits\.max_skips",
}


def configured(tmp_path: Path, **variables: str) -> Config:
    (tmp_path / "agents.yaml").write_text("agents: {cook: {limit: 1}}\n")
    (tmp_path / "other.yaml").write_text("agents: {cook: {limit: 5}}\n")
    values = {"BASE_PATH": str(tmp_path), **variables}
    return load_config(Overrides(), environ=an_environment(**values), write_cache=False)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - WITHOUT_EFFECT))
def test_a_setting_without_a_remark_changes_what_runs(tmp_path: Path, name: str):
    (first, _), (second, _) = SAMPLES[name]
    texts = {"agent_control_file": ["other.yaml"], "sources": ["local,tinytask"]}
    texts["policy_file"] = ["one"]
    (tmp_path / "one").write_text("")

    changed = [
        configured(tmp_path, **{name.upper(): text}) for text in texts.get(name, [first, second])
    ]

    plain = configured(tmp_path)
    assert all(dict(one.origins)[name.upper()] is Origin.ENVIRONMENT for one in changed)
    assert any(replace(one, origins=plain.origins) != plain for one in changed)


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_setting_with_the_remark_changes_nothing_that_runs(tmp_path: Path, name: str):
    (first, _), _ = SAMPLES[name]

    changed = configured(tmp_path, **{name.upper(): first})

    assert dict(changed.origins)[name.upper()] is Origin.ENVIRONMENT
    if name in CARRIED:
        sources = (TOP / "src" / "tinyscheduler").rglob("*.py")
        users = [path for path in sources if path.parent.name not in {"config", "model"}]
        assert not [path for path in users if re.search(CARRIED[name], path.read_text())]
    else:
        plain = configured(tmp_path)
        assert replace(changed, origins=plain.origins, warnings=()) == replace(plain, warnings=())
