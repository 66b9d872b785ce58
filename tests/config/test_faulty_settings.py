"""What happens to a setting that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.config.building import a_base, an_environment, loaded, origin
from tests.config.test_precedence import SAMPLES

from tinyscheduler.config.inputs import gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import Severity, UnusableError, quote
from tinyscheduler.config.settings import (
    Settings,
    default_text,
    parse_agent_limits,
    read_settings,
)
from tinyscheduler.config.validate import validate_config
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import Origin

GARBAGE = ["", "   ", "\t", "nan", "inf", "-inf", "-1", "1e400", "0x1F", "9" * 400, "1;2", "\udcff"]


def severity_of(name: str) -> Severity:
    return next(mark for mark in Settings.model_fields[name].metadata if type(mark) is Severity)


TUNING = [name for name in SAMPLES if severity_of(name) is Severity.TUNING]
STRUCTURE = [name for name in SAMPLES if severity_of(name) is Severity.STRUCTURE]

# A text that each structural setting refuses; paths take almost anything but nothing.
UNUSABLE = dict.fromkeys(STRUCTURE, "  ") | {
    "agent_limits": "a:x",
    "sources": "local,linear",
    "mcp_endpoint": "ftp://server",
    "fair_share": "everyone",
    "policy_mode": "cloud",
    "log_level": "WARN",
    "gpu_probe": "nvidia-smi",
    "pressure_sources": "seat,tty",
    "ui_token": "two words",
    "priority_enabled": "maybe",
    "disable_blocking": "2",
    "dry_run": "truee",
    "enabled": "-1",
    "kick": "nan",
}


def test_the_numbers_that_tune_and_nothing_else_are_forgiven():
    assert all(
        name.endswith(("_sec", "_ms", "_mb", "_days", "_concurrent", "_slots", "_attempts"))
        or name.startswith(("memory_", "max_", "queue_"))
        for name in TUNING
    )
    assert set(TUNING) | set(STRUCTURE) == set(Settings.model_fields)


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("name", TUNING)
def test_a_tuning_number_that_is_wrong_warns_and_uses_the_default(
    tmp_path: Path, name: str, value: str
):
    variable = f"TINYSCHEDULER_{name.upper()}"

    config = loaded(a_base(tmp_path), an_environment(**{name.upper(): value}))

    (warning,) = config.warnings
    assert warning.startswith(f"{variable}: ")
    assert "the environment" in warning
    assert warning.endswith(f"using the default {default_text(name)}")
    assert quote(value)[1:6] in warning
    assert origin(config, name.upper()) is Origin.DEFAULT


@pytest.mark.parametrize("name", TUNING)
def test_what_warns_at_run_time_is_an_error_to_validate_config(tmp_path: Path, name: str):
    base = a_base(tmp_path)

    report = validate_config(Overrides(), an_environment(base, **{name.upper(): "nan"}))

    assert f"TINYSCHEDULER_{name.upper()}" in [error.setting for error in report.errors]


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_structural_setting_that_is_wrong_stops_every_command(tmp_path: Path, name: str):
    variable = f"TINYSCHEDULER_{name.upper()}"
    base = None if name == "base_path" else a_base(tmp_path)

    with pytest.raises(ConfigError) as caught:
        loaded(base, an_environment(**{name.upper(): UNUSABLE[name]}))

    assert caught.value.what.startswith(variable)
    assert caught.value.hint is not None
    assert variable in caught.value.hint


def test_a_fault_in_the_env_file_names_the_file_and_the_line(tmp_path: Path):
    base = a_base(tmp_path, env="# ours\n\n  TINYSCHEDULER_SOURCES=linear\n")

    with pytest.raises(ConfigError, match=r"TINYSCHEDULER_SOURCES: 'linear' from .*/\.env line 3"):
        loaded(base)


def test_a_wrong_number_on_the_command_line_is_never_forgiven(tmp_path: Path):
    with pytest.raises(ConfigError, match="--loop-interval: '-5' from the command line"):
        loaded(a_base(tmp_path), loop_interval="-5")


@pytest.mark.parametrize("limit", [("a", -1), ("../a", 1), ("", 1), ("a", 10**9), ("a", True)])
def test_a_wrong_limit_on_the_command_line_is_refused(tmp_path: Path, limit: tuple[str, int]):
    with pytest.raises(ConfigError, match="--agent-limit"):
        loaded(a_base(tmp_path), agent_limits=(limit,))


def test_the_first_of_many_faults_says_how_to_see_them_all(tmp_path: Path):
    environ = an_environment(SOURCES="linear", LOG_LEVEL="loud", KICK="hard")

    with pytest.raises(ConfigError) as caught:
        loaded(a_base(tmp_path), environ)

    assert "one of 3 problems; `tinyscheduler validate-config`" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("a:x", "limits a to 'x'"),
        ("a:-1", "limits a to -1"),
        ("a:1.5", "limits a to '1.5'"),
        ("a:", "limits a to ''"),
        ("a:nan", "limits a to 'nan'"),
        ("a:99999999", "limits a to 99999999"),
        ("a", "no ':'|has no ':'"),
        ("a:1,", "has no ':' in ''"),
        ("a:1,a:2", "names a twice"),
        ("../a:1", "names '../a'"),
        ("-a:1", "names '-a'"),
        ("{bad", "is not JSON"),
        ("{", "is not JSON"),
        ('{"a": "2"}', "limits a to '2'"),
        ('{"a": 1.5}', "limits a to 1.5"),
        ('{"a": true}', "limits a to True"),
        ('{"a": null}', "limits a to None"),
        ('{"a": NaN}', "limits a to nan"),
        ('{"a": -1}', "limits a to -1"),
        ('{"a": {"b": 1}}', "limits a to"),
        ('{"a": 1, "a": 2}', "names a twice"),
        ('{"": 1}', "names ''"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "is not"),
        ("[]", "has no ':'"),
        ("", "is not limits such as"),
        ("a:1," * 40_000, "is not limits such as"),
    ],
)
def test_limits_that_are_none_are_refused_with_the_reason(text: str, because: str):
    with pytest.raises(UnusableError, match=because):
        parse_agent_limits(text)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("dispatcher:1,architect:2", {"dispatcher": 1, "architect": 2}),
        (" dispatcher : 1 , architect : 2 ", {"dispatcher": 1, "architect": 2}),
        ('{"dispatcher": 1, "architect": 2}', {"dispatcher": 1, "architect": 2}),
        ("{}", {}),
        ("a:0", {"a": 0}),
    ],
)
def test_limits_are_read_in_both_syntaxes(text: str, limits: dict[str, int]):
    assert dict(parse_agent_limits(text)) == limits


@given(st.text())
def test_any_text_is_limits_or_refused(text: str):
    try:
        limits = parse_agent_limits(text)
    except UnusableError:
        return
    assert all(limit >= 0 for _, limit in limits)


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:3000",
        "file:///etc/passwd",
        "http://",
        "http://:80",
        "http://host:0",
        "http://host:99999",
        "http://host:x",
        "http://[::1",
        "http://two words/",
        "http://ho\nst",
        "http://host/?token=x",
        "//host",
        "",
    ],
)
def test_an_endpoint_that_is_no_base_url_is_refused(tmp_path: Path, endpoint: str):
    with pytest.raises(ConfigError, match="TINYSCHEDULER_MCP_ENDPOINT"):
        loaded(a_base(tmp_path), an_environment(MCP_ENDPOINT=endpoint))


@pytest.mark.parametrize("secret", ["http://me:s3cr3t@", "ftp://me:s3cr3t@host", "me:s3cr3t@host"])
def test_a_refused_endpoint_is_quoted_without_its_password(tmp_path: Path, secret: str):
    with pytest.raises(ConfigError) as caught:
        loaded(a_base(tmp_path), an_environment(MCP_ENDPOINT=secret))

    assert "s3cr3t" not in caught.value.what + str(caught.value.hint)


def test_a_refused_token_is_not_quoted_at_all(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        loaded(a_base(tmp_path), an_environment(UI_TOKEN="s3cr3t word"))

    assert "s3cr3t" not in caught.value.what + str(caught.value.hint)


def test_a_variable_that_does_not_exist_warns_and_guesses_what_was_meant(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_LOG_LEVLE=DEBUG\n")

    inputs = gather_inputs(Overrides(base_path=str(base)), an_environment(HEARTBEATS_SEC="5"))
    problems = read_settings(inputs).problems

    assert [(problem.setting, problem.fix) for problem in problems] == [
        ("TINYSCHEDULER_HEARTBEATS_SEC", "did you mean TINYSCHEDULER_HEARTBEAT_SEC?"),
        ("TINYSCHEDULER_LOG_LEVLE", "did you mean TINYSCHEDULER_LOG_LEVEL?"),
    ]
    (told,) = loaded(base).warnings
    assert told.startswith("TINYSCHEDULER_LOG_LEVLE: there is no such setting; ignored (from ")
    assert told.endswith("; did you mean TINYSCHEDULER_LOG_LEVEL?")


def test_what_the_program_tells_its_commands_is_no_unknown_setting(tmp_path: Path):
    names = (
        "TASK_ID ATTEMPT LEASE_ID AGENT PROMPT_FILE ATTEMPT_MAX_TURNS"
        " ATTEMPT_MAX_RUNTIME_SEC MODEL_ENDPOINT CRASH_AT"
    )

    config = loaded(a_base(tmp_path), an_environment(**dict.fromkeys(names.split(), "anything")))

    assert config.warnings == ()


def test_settings_that_contradict_each_other_warn(tmp_path: Path):
    environ = an_environment(
        MEMORY_WARNING="0.95", MEMORY_CRITICAL="0.9", RETRY_BASE_SEC="600", RETRY_MAX_SEC="300"
    )

    config = loaded(a_base(tmp_path), environ)

    assert [warning.split(":")[0] for warning in config.warnings] == [
        "TINYSCHEDULER_MEMORY_WARNING",
        "TINYSCHEDULER_RETRY_BASE_SEC",
    ]


def test_a_policy_file_that_is_not_there_is_refused_at_once(tmp_path: Path):
    base = a_base(tmp_path)
    environ = an_environment(POLICY_MODE="home", POLICY_FILE="policy.lua")

    with pytest.raises(ConfigError, match=f"there is no file {base}/policy.lua"):
        loaded(base, environ)

    (base / "policy.lua").write_text("")
    assert loaded(base, environ).warnings == ()


def test_a_policy_file_that_the_mode_ignores_warns(tmp_path: Path):
    base = a_base(tmp_path)
    (base / "policy.lua").write_text("")

    (warning,) = loaded(base, an_environment(POLICY_FILE="policy.lua")).warnings

    assert "POLICY_MODE is platform" in warning


@given(st.sampled_from(sorted(SAMPLES)), st.text(st.characters(exclude_characters="\0")))
def test_no_text_in_any_variable_is_anything_but_a_value_or_a_problem(name: str, text: str):
    environ = an_environment(Path("/nonexistent"), **{name.upper(): text})

    try:
        found = read_settings(gather_inputs(Overrides(), environ))
    except ConfigError:
        assert name == "base_path"
        return

    assert found.origin(name) is Origin.ENVIRONMENT or found.problems


@pytest.mark.parametrize(
    ("path", "purpose"),
    [
        ("state/tinyscheduler.db", "the database"),
        ("state/tinyscheduler.db-wal", "the database"),
        ("state/../state/tinyscheduler.db-shm", "the database"),
        ("agents.yaml", "the agents file"),
        (".env", "an env file"),
        ("link", "the agents file"),
        ("state/daemon.lock", "the daemon's lock"),
        ("state/kick", "the file of wishes for a tick"),
        ("state/settings.json", "the settings of the last tick"),
        ("state/scheduler.json", "what ticks remember"),
        ("state/logs/events.jsonl", "a log"),
        ("state/running", "a folder"),
        (".", "a folder"),
        ("mine", "a folder"),
    ],
)
def test_a_tick_lock_that_is_something_else_stops_everything(
    tmp_path: Path, path: str, purpose: str
):
    base = a_base(tmp_path, agents="agents: {}")
    (base / "link").symlink_to("agents.yaml")
    (base / "mine").mkdir()

    with pytest.raises(ConfigError, match=f"is {purpose}, and cannot be the tick lock") as refusal:
        loaded(base, an_environment(LOCK_FILE=path))

    assert refusal.value.where == "TINYSCHEDULER_LOCK_FILE"
    assert refusal.value.hint is not None
    report = validate_config(Overrides(), an_environment(base, LOCK_FILE=path))
    assert purpose in "".join(problem.message for problem in report.errors)


def test_another_setting_that_names_the_tick_lock_stops_everything(tmp_path: Path):
    base = a_base(tmp_path)

    with pytest.raises(ConfigError, match="is the agents file, and cannot be the tick lock"):
        loaded(base, an_environment(AGENT_CONTROL_FILE="state/tinyscheduler.pid"))


@pytest.mark.parametrize("text", ["0.0001", "0.049", "1ms"])
def test_a_heartbeat_that_would_keep_a_core_busy_is_not_taken(tmp_path: Path, text: str):
    base = a_base(tmp_path)

    config = loaded(base, an_environment(HEARTBEAT_SEC=text))

    assert config.timing.heartbeat_s == 15.0
    assert any("TINYSCHEDULER_HEARTBEAT_SEC" in warning for warning in config.warnings)
    report = validate_config(Overrides(), an_environment(base, HEARTBEAT_SEC=text))
    assert any(error.setting == "TINYSCHEDULER_HEARTBEAT_SEC" for error in report.errors)


def test_the_quickest_heartbeat_is_taken(tmp_path: Path):
    config = loaded(a_base(tmp_path), an_environment(HEARTBEAT_SEC="0.05"))

    assert config.timing.heartbeat_s == 0.05
