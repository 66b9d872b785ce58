"""Who wins: the command line, the environment, the env file, the default; key by key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.building import a_base, an_environment, loaded, origin

from tinyscheduler.config.inputs import gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.settings import ReadSettings, Settings, read_settings
from tinyscheduler.model.config import Origin
from tinyscheduler.values import fields

if TYPE_CHECKING:
    from pathlib import Path

# Two values for each setting, as texts, and what they are read as.
SAMPLES: dict[str, tuple[tuple[str, object], tuple[str, object]]] = {
    "base_path": (("/one", "/one"), ("/two", "/two")),
    "running_dir": (("one", "one"), ("/two", "/two")),
    "log_dir": (("one", "one"), ("/two", "/two")),
    "task_cache_dir": (("one", "one"), ("/two", "/two")),
    "recipes_dir": (("one", "one"), ("/two", "/two")),
    "bin_dir": (("one", "one"), ("/two", "/two")),
    "lock_file": (("one", "one"), ("/two", "/two")),
    "agent_control_file": (("one", "one"), ("/two", "/two")),
    "agent_limits": (("a:1,b:2", (("a", 1), ("b", 2))), ('{"a": 3}', (("a", 3),))),
    "goose_bin": (("one", "one"), ("/two", "/two")),
    "sources": (("local,tinytask", ("local", "tinytask")), ("tinytask", ("tinytask",))),
    "mcp_endpoint": (("https://one/", "https://one"), ("http://two:1/x", "http://two:1/x")),
    "loop_interval_sec": (("1", 1.0), ("2m", 120.0)),
    "heartbeat_sec": (("0.2", 0.2), ("2", 2.0)),
    "max_runtime_sec": (("1h", 3600.0), ("2", 2.0)),
    "max_concurrent_slots": (("auto", None), ("7", 7)),
    "memory_per_slot_mb": (("1", 1), ("2", 2)),
    "memory_warning": (("0.1", 0.1), ("0.25", 0.25)),
    "memory_critical": (("1", 1.0), ("0.95", 0.95)),
    "memory_stall_critical": (("0.2", 0.2), ("1", 1.0)),
    "stagger_delay_ms": (("0", 0), ("2", 2)),
    "tick_budget_sec": (("1", 1.0), ("2", 2.0)),
    "priority_enabled": (("true", True), ("off", False)),
    "max_queue_depth": (("1", 1), ("2", 2)),
    "kill_grace_sec": (("0", 0.0), ("2", 2.0)),
    "max_launches": (("1", 1), ("2", 2)),
    "queue_lookahead": (("0", 0), ("2", 2)),
    "max_skips_per_task": (("4", 4), ("1", 1)),
    "retry_backoff_sec": (("0", 0.0), ("2", 2.0)),
    "max_attempts": (("1", 1), ("2", 2)),
    "retry_base_sec": (("0", 0.0), ("2", 2.0)),
    "retry_max_sec": (("90", 90.0), ("1d", 86_400.0)),
    "schedule_max_concurrent": (("1", 1), ("3", 3)),
    "schedule_max_run_duration_sec": (("1", 1), ("2", 2)),
    "schedule_chat_pressure_delay_sec": (("1", 1), ("2", 2)),
    "source_timeout_sec": (("1", 1), ("2.5", 2.5)),
    "lost_after_sec": (("1", 1), ("2.5", 2.5)),
    "pressure_sources": (
        ("seat, gpu", ("seat", "gpu")),
        ("file:/run/quiet", ("file:/run/quiet",)),
    ),
    "fair_share": (("tenant", "tenant"), ("PROJECT", "project")),
    "fair_share_half_life_sec": (("60", 60.0), ("3600", 3600.0)),
    "policy_mode": (("home", "home"), ("LAB", "lab")),
    "policy_file": (("one", "one"), ("/two", "/two")),
    "policy_timeout_ms": (("1", 1), ("2", 2)),
    "policy_wall_ms": (("1", 1), ("2", 2)),
    "policy_memory_mb": (("1", 1), ("2", 2)),
    "log_level": (("debug", "DEBUG"), ("ERROR", "ERROR")),
    "log_max_mb": (("1", 1), ("2", 2)),
    "log_retention_days": (("1", 1), ("2", 2)),
    "history_retention_days": (("1", 1), ("2", 2)),
    "disable_blocking": (("yes", True), ("0", False)),
    "dry_run": (("1", True), ("False", False)),
    "enabled": (("no", False), ("TRUE", True)),
    "gpu_probe": (("file:/one", "file:/one"), ("nvml", "nvml")),
    "kick": (("false", False), ("on", True)),
    "ui_token": (("one", "one"), ("two", "two")),
}

# The settings that the command line can override: the field of `Overrides`, and a value.
OPTIONS: dict[str, tuple[str, object, object]] = {
    "base_path": ("base_path", "/cli", "/cli"),
    "loop_interval_sec": ("loop_interval", "90s", 90.0),
    "heartbeat_sec": ("heartbeat_interval", 0.5, 0.5),
    "max_runtime_sec": ("max_runtime", 42, 42.0),
    "running_dir": ("running_dir", "cli", "cli"),
    "log_dir": ("log_dir", "cli", "cli"),
    "recipes_dir": ("recipes_dir", "cli", "cli"),
    "goose_bin": ("goose_bin", "cli", "cli"),
    "mcp_endpoint": ("mcp_endpoint", "http://cli", "http://cli"),
    "disable_blocking": ("disable_blocking", False, False),
    "dry_run": ("dry_run", False, False),
    "log_level": ("log_level", "critical", "CRITICAL"),
}


def read(tmp_path: Path, environ: dict[str, str], env: str = "", **options: object) -> ReadSettings:
    (tmp_path / "env").write_text(env)
    overrides = Overrides(env_file=str(tmp_path / "env"), **options)  # type: ignore[arg-type]  # by name, from a table
    return read_settings(gather_inputs(overrides, environ))


def test_the_tables_of_this_file_name_every_setting_and_every_option():
    assert SAMPLES.keys() == Settings.model_fields.keys()
    names = {one.name for one in fields(Overrides)} - {"env_file", "agent_limits"}
    assert {option for option, _, _ in OPTIONS.values()} == names


@pytest.mark.parametrize("name", SAMPLES)
def test_without_any_layer_a_setting_has_its_default(tmp_path: Path, name: str):
    found = read(tmp_path, an_environment())

    assert getattr(found.settings, name) == Settings.model_fields[name].default
    assert found.origin(name) is Origin.DEFAULT
    assert found.problems == ()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_env_file_wins_over_the_default(tmp_path: Path, name: str):
    (text, value), _ = SAMPLES[name]

    found = read(tmp_path, an_environment(), env=f"TINYSCHEDULER_{name.upper()}='{text}'")

    assert getattr(found.settings, name) == value
    assert found.origin(name) is Origin.ENV_FILE
    assert found.problems == ()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_environment_wins_over_the_env_file(tmp_path: Path, name: str):
    (weak, _), (strong, value) = SAMPLES[name]

    found = read(
        tmp_path,
        an_environment(**{name.upper(): strong}),
        env=f"TINYSCHEDULER_{name.upper()}='{weak}'",
    )

    assert getattr(found.settings, name) == value
    assert found.origin(name) is Origin.ENVIRONMENT


@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_line_wins_over_everything(tmp_path: Path, name: str):
    (weak, _), (stronger, _) = SAMPLES[name]
    option, given, value = OPTIONS[name]

    found = read(
        tmp_path,
        an_environment(**{name.upper(): stronger}),
        env=f"TINYSCHEDULER_{name.upper()}='{weak}'",
        **{option: given},
    )

    assert getattr(found.settings, name) == value
    assert found.origin(name) is Origin.COMMAND_LINE


def test_precedence_is_decided_for_each_key_alone(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_MAX_ATTEMPTS=7\nTINYSCHEDULER_MAX_LAUNCHES=7\n")

    config = loaded(base, an_environment(MAX_LAUNCHES="8"), loop_interval=9)

    assert (config.limits.max_attempts, origin(config, "MAX_ATTEMPTS")) == (7, Origin.ENV_FILE)
    assert (config.limits.max_launches, origin(config, "MAX_LAUNCHES")) == (8, Origin.ENVIRONMENT)
    assert config.timing.loop_interval_s == 9
    assert origin(config, "LOOP_INTERVAL_SEC") is Origin.COMMAND_LINE
    assert origin(config, "HEARTBEAT_SEC") is Origin.DEFAULT


@pytest.mark.parametrize(
    "name",
    [
        "SCHEDULE_MAX_CONCURRENT",
        "SCHEDULE_MAX_RUN_DURATION_SEC",
        "SCHEDULE_CHAT_PRESSURE_DELAY_SEC",
    ],
)
def test_the_three_names_of_schedules_are_read_without_the_prefix_too(tmp_path: Path, name: str):
    bare = read(tmp_path, {name: "11"})
    both = read(tmp_path, {name: "11", f"TINYSCHEDULER_{name}": "12"})

    assert getattr(bare.settings, name.lower()) == 11
    assert getattr(both.settings, name.lower()) == 12


def test_limits_are_merged_agent_by_agent_over_every_weaker_layer(tmp_path: Path):
    agents = "agents:\n  a: {limit: 1}\n  b: {limit: 1}\n  c: {limit: 1}\n  d: {}\n"
    base = a_base(tmp_path, agents=agents)

    config = loaded(base, an_environment(AGENT_LIMITS="b:2,c:2"), agent_limits=(("c", 3), ("c", 4)))

    limits = {agent.name: agent.limit for agent in config.agents}
    assert limits == {"a": 1, "b": 2, "c": 4, "d": 1, "shell": 2}
    assert origin(config, "AGENT_LIMITS") is Origin.COMMAND_LINE


def test_slots_of_the_host_are_the_sum_of_limits_unless_set(tmp_path: Path):
    base = a_base(tmp_path, agents="agents: {a: {limit: 3}, b: {limit: 4}}")

    assert loaded(base).limits.host_slots == 3 + 4 + 2
    assert loaded(base, an_environment(MAX_CONCURRENT_SLOTS="5")).limits.host_slots == 5
    assert loaded(base, an_environment(AGENT_LIMITS="a:0,b:0,shell:0")).limits.host_slots == 2
