"""What does config --show say, and what does it keep to itself?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.config.building import a_base, an_environment

from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.settings import Settings
from tinyscheduler.config.show import SettingRow, ShownConfig, show_config
from tinyscheduler.errors import ConfigError
from tinyscheduler.values import asdict

if TYPE_CHECKING:
    from pathlib import Path


def shown(base: Path, overrides: Overrides | None = None, **variables: str) -> ShownConfig:
    return show_config(overrides or Overrides(), an_environment(base, **variables))


def row(found: ShownConfig, name: str) -> SettingRow:
    return next(row for row in found.settings if row.name == name)


def test_every_setting_has_a_row_with_its_variable(tmp_path: Path):
    found = shown(a_base(tmp_path))

    assert [row.name.lower() for row in found.settings] == list(Settings.model_fields)
    assert all(row.variable == f"TINYSCHEDULER_{row.name}" for row in found.settings)


def test_a_row_says_where_its_value_came_from(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7\n")

    found = shown(base, Overrides(loop_interval="2m"), HEARTBEAT_SEC="0.5")

    names = ("MAX_ATTEMPTS", "LOOP_INTERVAL_SEC", "HEARTBEAT_SEC", "KICK")
    rows = {name: row(found, name) for name in names}
    assert {name: (row.value, row.text, row.origin) for name, row in rows.items()} == {
        "MAX_ATTEMPTS": (7, "7", ".env"),
        "LOOP_INTERVAL_SEC": (120, "120", "cli"),
        "HEARTBEAT_SEC": (0.5, "0.5", "env"),
        "KICK": (True, "true", "default"),
    }
    assert found.env_file == f"{base}/.env"


def test_paths_are_shown_as_they_take_effect(tmp_path: Path):
    found = shown(a_base(tmp_path), RUNNING_DIR="r", GOOSE_BIN="./goose")

    assert row(found, "BASE_PATH").value == str(tmp_path)
    assert row(found, "RUNNING_DIR").value == f"{tmp_path}/r"
    assert row(found, "AGENT_CONTROL_FILE").value == f"{tmp_path}/agents.yaml"
    assert row(found, "GOOSE_BIN").value == f"{tmp_path}/goose"
    assert row(found, "POLICY_FILE").value is None


def test_a_policy_file_is_shown_where_it_lies(tmp_path: Path):
    base = a_base(tmp_path)
    (base / "policy.lua").touch()

    found = shown(base, POLICY_MODE="home", POLICY_FILE="policy.lua")

    assert row(found, "POLICY_FILE").value == f"{base}/policy.lua"


def test_slots_are_counted_and_said_to_be_automatic(tmp_path: Path):
    base = a_base(tmp_path, agents="agents: {a: {limit: 5}}")

    automatic = row(shown(base), "MAX_CONCURRENT_SLOTS")
    fixed = row(shown(base, MAX_CONCURRENT_SLOTS="3"), "MAX_CONCURRENT_SLOTS")

    assert (automatic.value, automatic.text) == (7, "7 (auto)")
    assert (fixed.value, fixed.text) == (3, "3")


def test_limits_and_sources_keep_their_shape(tmp_path: Path):
    found = shown(
        a_base(tmp_path),
        Overrides(agent_limits=(("b", 3),)),
        AGENT_LIMITS="a:1,b:2",
        SOURCES="local,tinytask",
    )

    limits, sources = row(found, "AGENT_LIMITS"), row(found, "SOURCES")
    assert (limits.value, limits.text, limits.origin) == (
        {"a": 1, "b": 3},
        '{"a": 1, "b": 3}',
        "cli",
    )
    assert (sources.value, sources.text) == (["local", "tinytask"], "local,tinytask")
    assert row(shown(tmp_path), "AGENT_LIMITS").value == {}


def test_agents_are_shown_with_who_limited_them(tmp_path: Path):
    base = a_base(tmp_path, agents="agents: {a: {limit: 4}, b: {queue: dev}, c: {limit: 1}}")

    found = shown(base, Overrides(agent_limits=(("c", 3),)), AGENT_LIMITS="d:2")

    assert [(agent.name, agent.queue, agent.limit, agent.origin) for agent in found.agents] == [
        ("a", "a", 4, "agents file"),
        ("b", "dev", 1, "default"),
        ("c", "c", 3, "cli"),
        ("shell", "shell", 2, "default"),
        ("d", "d", 2, "env"),
    ]


def test_secrets_are_not_shown(tmp_path: Path):
    base = a_base(tmp_path, env="OPENAI_API_KEY=s3cr3t\nTINYSCHEDULER_S3CR3T_KEY=s3cr3t\n")

    found = shown(base, UI_TOKEN="s3cr3t", MCP_ENDPOINT="https://me:s3cr3t@host:1/x")

    assert row(found, "UI_TOKEN").value == "(secret)"
    assert row(found, "MCP_ENDPOINT").value == "https://(secret)@host:1/x"
    assert "s3cr3t" not in json.dumps(asdict(found))


def test_a_token_that_is_not_set_is_shown_as_none(tmp_path: Path):
    token = row(shown(a_base(tmp_path)), "UI_TOKEN")

    assert (token.value, token.text) == (None, "(none)")


def test_what_stops_a_run_stops_the_showing_and_what_warns_is_shown(tmp_path: Path):
    base = a_base(tmp_path)

    with pytest.raises(ConfigError, match="TINYSCHEDULER_LOG_LEVEL"):
        shown(base, LOG_LEVEL="loud")

    found = shown(base, MAX_ATTEMPTS="none")
    assert (row(found, "MAX_ATTEMPTS").value, row(found, "MAX_ATTEMPTS").origin) == (3, "default")
    assert len(found.warnings) == 1
