"""Does validate-config see everything, and does its fix only add what is missing?"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from tests.config.building import a_base, a_public_folder, an_environment, loaded, run_python

from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.validate import (
    DEFAULT_AGENTS_FILE,
    FixReport,
    ValidationReport,
    fix_config,
    validate_config,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.config.problems import Problem


def validated(base: Path, overrides: Overrides | None = None, **variables: str) -> ValidationReport:
    return validate_config(overrides or Overrides(), an_environment(base, **variables))


def fixed(base: Path, **variables: str) -> FixReport:
    return fix_config(Overrides(), an_environment(base, **variables))


def a_sound_base(path: Path, **files: str) -> Path:
    base = a_base(path)
    fixed(base)
    for name, text in files.items():
        (base / f"{name}.yaml").write_text(text)
    return base


def sentences(problems: tuple[Problem, ...]) -> str:
    return "\n".join(f"{problem.sentence} | {problem.fix}" for problem in problems)


def a_program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_a_fixed_base_path_is_sound(tmp_path: Path):
    report = validated(a_sound_base(tmp_path))

    assert (report.errors, report.warnings) == ((), ())


@pytest.mark.parametrize(
    ("path", "setting", "variables"),
    [
        ("elsewhere", "TINYSCHEDULER_RUNNING_DIR", {"RUNNING_DIR": "elsewhere"}),
        ("elsewhere", "TINYSCHEDULER_LOG_DIR", {"LOG_DIR": "elsewhere"}),
        ("state", "TINYSCHEDULER_BASE_PATH", {}),
        ("", "TINYSCHEDULER_BASE_PATH", {}),
    ],
)
def test_a_missing_folder_is_one_error_that_names_its_setting(
    tmp_path: Path, path: str, setting: str, variables: dict[str, Any]
):
    base = a_sound_base(tmp_path / "base")
    shutil.rmtree(base / path, ignore_errors=True)

    (error,) = validated(base, **variables).errors

    assert (error.setting, error.value) == (setting, str(base / path))
    assert "--fix" in error.fix
    assert not (base / path).exists()


def test_folders_that_runs_make_when_they_need_them_may_be_missing(tmp_path: Path):
    base = a_sound_base(tmp_path)
    for name in ("running", "logs", "tasks", "results", "cancel", "quarantine"):
        (base / "state" / name).rmdir()

    assert validated(base).errors == ()


def test_a_folder_that_leads_nowhere_is_an_error(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "state" / "logs").rmdir()
    (base / "state" / "logs").symlink_to("nowhere")

    report = fixed(base)

    assert report.done == ()
    assert "state/logs cannot be looked at: No such file" in sentences(report.report.errors)


def test_faults_of_every_kind_are_listed_together(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_LOG_LEVEL=loud\n", agents="agents: {a: {limit: -1}}")

    report = validated(
        base, MAX_ATTEMPTS="0", AGENT_LIMITS="{bad", LOG_LEVLE="x", RUNNING_DIR="elsewhere"
    )

    said = sentences(report.errors)
    places = "LOG_LEVEL: |MAX_ATTEMPTS: |AGENT_LIMITS: |agents.yaml:1: |RUNNING_DIR: "
    for place in places.split("|"):
        assert place in said
    assert "LOG_LEVLE" in sentences(report.warnings)


@pytest.mark.parametrize("name", ["--env-file", "TINYSCHEDULER_ENV_FILE"])
def test_a_missing_env_file_does_not_hide_the_other_faults(tmp_path: Path, name: str):
    base = a_sound_base(tmp_path, agents="agents: {shell: {limit: -1}}")
    option = name.startswith("--")

    report = validate_config(
        Overrides(env_file="/nonexistent/env" if option else None),
        an_environment(base, **({} if option else {"ENV_FILE": "/nonexistent/env"})),
    )

    assert [error.setting for error in report.errors] == [name, f"{base}/agents.yaml:1"]


def test_a_base_path_that_is_none_is_the_only_thing_said():
    report = validate_config(Overrides(), an_environment(BASE_PATH=" "))

    (error,) = report.errors
    assert error.setting == "TINYSCHEDULER_BASE_PATH"


def test_a_file_where_a_folder_belongs_is_an_error(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "state" / "logs").rmdir()
    (base / "state" / "logs").touch()

    assert "state/logs is not a folder" in sentences(validated(base).errors)


def test_a_folder_that_cannot_be_written_is_an_error_for_whom_it_concerns():
    program = """if True:
        import sys
        from tinyscheduler.config.overrides import Overrides
        from tinyscheduler.config.validate import fix_config, validate_config
        environ = {"TINYSCHEDULER_BASE_PATH": sys.argv[1]}
        for error in validate_config(Overrides(), environ).errors:
            print(error.sentence)
        print(fix_config(Overrides(), environ).done)
    """
    with a_public_folder() as folder:
        base = a_sound_base(folder / "base")
        base.chmod(0o555)
        for path in (base / "state", *(base / "state").iterdir()):
            path.chmod(0o555)

        printed = run_python(program, str(base), unprivileged=True)

    assert f"{base}/state/running is not writable for user" in printed
    assert printed.endswith("()\n")


def test_folders_open_to_others_are_worth_a_warning(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "state" / "running").chmod(0o755)

    (warning,) = validated(base).warnings

    assert warning.setting == "TINYSCHEDULER_RUNNING_DIR"
    assert "(mode 0755)" in warning.message


def test_two_purposes_in_one_folder_are_an_error(tmp_path: Path):
    base = a_sound_base(tmp_path)

    report = validated(base, LOG_DIR="state/running", TASK_CACHE_DIR="state/results")

    said = sentences(report.errors)
    assert "state/running is the folder of TINYSCHEDULER_RUNNING_DIR" in said
    assert "state/results is the folder of results" in said


def test_secrets_in_an_env_file_that_others_can_read_are_worth_a_warning(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / ".env").write_text("OPENAI_API_KEY=s3cr3t\n")
    (base / ".env").chmod(0o644)

    (warning,) = validated(base).warnings
    (base / ".env").chmod(0o600)

    assert "OPENAI_API_KEY" in warning.message
    assert "s3cr3t" not in sentences((warning,))
    assert validated(base).warnings == ()


def test_goose_is_only_looked_for_if_an_agent_uses_it(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "recipes").mkdir()

    def errors(**variables: str) -> str:
        environ = an_environment(base, **variables) | {"PATH": str(tmp_path / "empty")}
        return sentences(validate_config(Overrides(), environ).errors)

    assert "goose" not in errors()
    assert "agent a: goose is not on PATH" in errors(AGENT_LIMITS="a:1")
    assert "TINYSCHEDULER_GOOSE_BIN" in errors(AGENT_LIMITS="a:1")
    assert "goose is not" not in errors(AGENT_LIMITS="a:0")


def test_a_goose_that_is_there_and_executable_is_fine(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "recipes").mkdir()
    goose = a_program(base / "bin" / "goose")

    by_path = validated(base, AGENT_LIMITS="a:1", GOOSE_BIN=goose)
    by_name = validate_config(
        Overrides(), an_environment(base, AGENT_LIMITS="a:1") | {"PATH": str(base / "bin")}
    )

    assert (by_path.errors, by_name.errors) == ((), ())


def test_a_program_that_cannot_be_run_is_an_error(tmp_path: Path):
    text = (
        f'agents: {{a: {{command: ["{tmp_path}/plain"]}}, b: {{command: ["/nonexistent/b"]}},'
        ' c: {command: ["no-such-program"]}, d: {command: ["{command}"]},'
        ' e: {command: ["./in-the-folder-of-the-task"]}, f: {command: ["true"], cwd: nowhere}}'
    )
    base = a_sound_base(tmp_path / "base", agents=text)
    a_program(tmp_path / "plain", mode=0o644)

    said = sentences(validated(base).errors)

    assert f"agent a: {tmp_path}/plain is not executable | chmod +x" in said
    assert "agent b: /nonexistent/b does not exist" in said
    assert "agent c: no-such-program is not on PATH" in said
    assert f"agent f: {tmp_path}/base/nowhere is not a folder" in said
    assert "agent d" not in said
    assert "agent e" not in said


def test_a_recipe_that_leads_out_of_its_folder_is_an_error(tmp_path: Path):
    base = a_sound_base(tmp_path / "base")
    (base / "recipes").mkdir()
    (base / "recipes" / "good.yaml").touch()
    (base / "recipes" / "near.yaml").symlink_to("good.yaml")
    (base / "recipes" / "far.yaml").symlink_to("/etc/hostname")

    (error,) = validated(base).errors

    assert error.setting == "TINYSCHEDULER_RECIPES_DIR"
    assert error.value == f"{base}/recipes/far.yaml"


def test_limits_that_add_up_to_more_than_the_host_has_are_worth_a_warning(tmp_path: Path):
    base = a_sound_base(tmp_path)

    (warning,) = validated(base, AGENT_LIMITS="shell:5", MAX_CONCURRENT_SLOTS="3").warnings

    assert "add up to 5, but the host has 3 slots" in warning.message
    assert validated(base, AGENT_LIMITS="shell:5").warnings == ()


def test_models_that_need_more_vram_than_their_host_has_are_an_error_with_both_numbers(
    tmp_path: Path,
):
    text = """
hosts:
  local: {total_vram: 24G}
  other: {total_vram: 80G}
models:
  llama: {vram: 14G, max_slots: 1}
  qwen: {vram: 5632M, max_slots: 2}
  big: {vram: 40G, max_slots: 2, host: other}
"""
    base = a_sound_base(tmp_path, agents=text)

    (error,) = validated(base).errors

    assert error.setting == f"{base}/agents.yaml:3"
    assert "host local: allocated VRAM 25 GiB exceeds total_vram 24 GiB" in error.message
    assert "llama 14 GiB x 1 + qwen 5.5 GiB x 2" in error.message
    assert loaded(base).agent("shell") is not None


def test_models_that_just_fit_are_fine(tmp_path: Path):
    text = "hosts: {local: {total_vram: 28G}}\nmodels: {llama: {vram: 14G, max_slots: 2}}"

    assert validated(a_sound_base(tmp_path, agents=text)).errors == ()


def test_names_of_hosts_and_models_that_lead_nowhere_are_reported(tmp_path: Path):
    text = (
        "hosts: {local: {total_vram: 24G}}\n"
        "models: {llama: {vram: 1G, host: locl}}\n"
        'agents: {a: {model: llamaa, command: ["true"]}}\n'
    )

    report = validated(a_sound_base(tmp_path, agents=text))

    assert "model llama: locl is no host of this file | did you mean local?" in sentences(
        report.errors
    )
    assert "model 'llamaa' is not in section models | did you mean llama?" in sentences(
        report.warnings
    )


def test_a_budget_that_cannot_hold_is_reported_with_its_line(tmp_path: Path):
    text = (
        'agents: {coder: {command: ["true"]}}\n'
        "budgets:\n  agent:codr: {runs: 5}\n  overall: {runs: 5, window: 90d}\n"
    )

    report = validated(a_sound_base(tmp_path, agents=text))

    assert any(
        "agents.yaml:3" in one.setting and "there is no agent 'codr'" in one.message
        for one in report.warnings
    )
    assert any(
        "agents.yaml:4" in one.setting
        and one.message.endswith(
            "its window of 90d is longer than attempts are remembered"
            " (TINYSCHEDULER_HISTORY_RETENTION_DAYS=30)"
        )
        for one in report.errors
    )


def test_a_scripts_folder_that_was_named_must_exist(tmp_path: Path):
    base = a_sound_base(tmp_path)

    assert "BIN_DIR" in sentences(validated(base, BIN_DIR="nowhere").errors)


def tree(base: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(base)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(base.rglob("*"))
    }


def test_the_fix_makes_what_is_missing_and_says_so(tmp_path: Path):
    base = tmp_path / "new" / "base"

    report = fixed(base)

    assert report.done == (
        f"made folder {tmp_path}/new",
        f"made folder {base}",
        f"made folder {base}/state",
        f"made folder {base}/state/running",
        f"made folder {base}/state/results",
        f"made folder {base}/state/cancel",
        f"made folder {base}/state/quarantine",
        f"made folder {base}/state/tasks",
        f"made folder {base}/state/logs",
        f"wrote {base}/agents.yaml",
    )
    assert (report.report.errors, report.report.warnings) == ((), ())
    assert (base / "state" / "running").stat().st_mode & 0o777 == 0o700
    assert (base / "agents.yaml").read_text() == DEFAULT_AGENTS_FILE


def test_the_fix_done_again_does_nothing(tmp_path: Path):
    base = a_sound_base(tmp_path)
    before = tree(base)

    again = fixed(base)

    assert again.done == ()
    assert tree(base) == before


def test_the_fix_never_overwrites(tmp_path: Path):
    base = a_base(tmp_path, agents="agents: {mine: {limit: -1}}")
    (base / "state" / "logs").touch()
    (base / "state").chmod(0o755)

    report = fixed(base)

    assert (base / "agents.yaml").read_text() == "agents: {mine: {limit: -1}}"
    assert (base / "state" / "logs").is_file()
    assert (base / "state").stat().st_mode & 0o777 == 0o755
    said = sentences(report.report.errors)
    assert "logs is not a folder" in said
    assert "limit of agent mine" in said


def test_the_fix_makes_the_recipes_folder_only_where_recipes_are_used(tmp_path: Path):
    base = a_base(tmp_path)

    fixed(base)
    assert not (base / "recipes").exists()
    fixed(base, AGENT_LIMITS="coder:1")

    assert (base / "recipes").is_dir()


def test_the_fix_leaves_a_link_to_a_missing_agents_file_alone(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "agents.yaml").unlink()
    (base / "agents.yaml").symlink_to("elsewhere.yaml")

    assert fixed(base).done == ()
    assert not (base / "elsewhere.yaml").exists()


def test_the_fix_makes_an_agents_file_that_was_named(tmp_path: Path):
    base = a_base(tmp_path)

    as_yaml = fixed(base, AGENT_CONTROL_FILE="conf/team.yaml")
    as_json = fixed(base, AGENT_CONTROL_FILE="conf/team.json")

    assert as_yaml.report.errors == as_json.report.errors == ()
    assert (base / "conf" / "team.json").read_text() == "[]\n"
    assert loaded(base, an_environment(AGENT_CONTROL_FILE="conf/team.json")).warnings == ()


def test_the_fix_makes_nothing_while_a_setting_is_unusable(tmp_path: Path):
    base = tmp_path / "base"

    report = fixed(base, RUNNING_DIR=" ")

    assert report.done == ()
    assert not base.exists()
    assert "TINYSCHEDULER_RUNNING_DIR" in [error.setting for error in report.report.errors]


def test_a_fix_that_fails_says_why_and_makes_the_rest():
    program = """if True:
        import sys
        from tinyscheduler.config.overrides import Overrides
        from tinyscheduler.config.validate import fix_config
        environ = {"TINYSCHEDULER_BASE_PATH": sys.argv[1], "TINYSCHEDULER_LOG_DIR": "/proc/logs"}
        report = fix_config(Overrides(), environ)
        print(len(report.done), report.report.errors[0].sentence)
    """
    with a_public_folder() as folder:
        folder.chmod(0o777)

        printed = run_python(program, f"{folder}/base", unprivileged=True)

    assert printed.startswith("8 TINYSCHEDULER_LOG_DIR: /proc/logs cannot be made: ")


@pytest.mark.parametrize(
    "agents",
    [
        "agents:\n  parrot: {command: [echo, '{prmpt}'], cwd: /nowhere}",
        "agents:\n  parrot: {limit: -1, command: [no-such-program]}",
        "agents:\n  parrot: {limitt: 1}",
        "agents: [",
        '[{"agentName": "parrot"}]',
    ],
)
def test_a_faulty_agent_has_that_fault_and_no_other(tmp_path: Path, agents: str):
    base = a_sound_base(tmp_path, agents=agents)

    report = validated(base, AGENT_LIMITS="parrot:2")

    (error,) = report.errors
    assert error.setting.startswith(f"{base}/agents.yaml")
    assert report.warnings == ()
    assert "a list holds" not in error.message


def test_a_folder_that_cannot_be_written_to_is_one_fault_also_after_the_fix():
    with a_public_folder() as folder:
        printed = run_python(
            f"""if True:
        from tinyscheduler.config.overrides import Overrides
        from tinyscheduler.config.validate import fix_config
        for base in ("{folder}", "{folder}/inner"):
            report = fix_config(Overrides(base_path=base), {{"HOME": "/"}}).report
            for problem in (*report.errors, *report.warnings):
                print(problem.sentence, "|", problem.fix)
    """,
            unprivileged=True,
        )

    name, by_hand = "TINYSCHEDULER_BASE_PATH", "make it yourself, or choose another path"
    assert printed.splitlines() == [
        f"{name}: {folder} is not writable for user nobody | change its owner or its mode",
        f"{name}: {folder}/inner cannot be made: Permission denied | {by_hand}",
    ]


def test_a_lock_file_that_holds_something_of_somebodys_is_an_error(tmp_path: Path):
    base = a_sound_base(tmp_path)
    (base / "notes").write_text("precious\n")

    (error,) = validated(base, LOCK_FILE="notes").errors

    assert "holds something else than a tick lock" in error.sentence
    assert error.setting == "TINYSCHEDULER_LOCK_FILE"


@pytest.mark.parametrize("agents", [None, "agents: {coder: {limit: 1}}"])
def test_a_limit_for_a_misspelt_agent_is_told_with_the_name_that_was_meant(
    tmp_path: Path, agents: str | None
):
    base = a_base(tmp_path, agents=agents)

    config = loaded(base, an_environment(AGENT_LIMITS="shel:4"))

    assert sum("goose; did you mean shell?" in warning for warning in config.warnings) == 1
    assert "did you mean shell?" in sentences(validated(base, AGENT_LIMITS="shel:4").warnings)


def test_agents_that_limits_alone_define_are_no_mistake(tmp_path: Path):
    config = loaded(a_base(tmp_path), an_environment(AGENT_LIMITS="dispatcher:1,dispatchers:2"))

    assert config.warnings == ()
    assert [agent.limit for agent in config.agents] == [2, 1, 2]
