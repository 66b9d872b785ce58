"""Where is everything, when nobody, somebody or several say so?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.config.building import a_base, an_environment, loaded, origin

from tinyscheduler.config.inputs import default_base_path
from tinyscheduler.config.load import load_config
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import Origin


def a_checkout(path: Path, *, launcher_mode: int = 0o755) -> str:
    """Make what looks like a checkout, and return a file of its config package."""
    code = path / "src" / "tinyscheduler" / "config" / "inputs.py"
    code.parent.mkdir(parents=True)
    code.touch()
    (path / "pyproject.toml").touch()
    (path / "tinyscheduler").touch(launcher_mode)
    return str(code)


def test_the_seeds_folder_comes_first_if_it_exists(tmp_path: Path):
    code = a_checkout(tmp_path / "checkout")
    (tmp_path / "calypso").mkdir()

    assert default_base_path({}, seed=str(tmp_path / "calypso"), code=code) == str(
        tmp_path / "calypso"
    )


def test_then_comes_the_checkout_that_holds_the_launcher(tmp_path: Path):
    code = a_checkout(tmp_path / "checkout")

    assert default_base_path({}, seed="/nonexistent", code=code) == str(tmp_path / "checkout")


@pytest.mark.parametrize("missing", ["pyproject.toml", "tinyscheduler", "mode"])
def test_a_folder_that_is_no_checkout_is_not_taken_for_one(tmp_path: Path, missing: str):
    code = a_checkout(tmp_path, launcher_mode=0o644 if missing == "mode" else 0o755)
    if missing != "mode":
        (tmp_path / missing).unlink()

    found = default_base_path({"XDG_STATE_HOME": "/xdg"}, seed="/nonexistent", code=code)

    assert found == "/xdg/tinyscheduler"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/xdg", "HOME": "/users/me"}, "/xdg/tinyscheduler"),
        ({"HOME": "/users/me"}, "/users/me/.local/state/tinyscheduler"),
        ({"XDG_STATE_HOME": "", "HOME": "/users/me"}, "/users/me/.local/state/tinyscheduler"),
        (
            {"XDG_STATE_HOME": "relative", "HOME": "/users/me"},
            "/users/me/.local/state/tinyscheduler",
        ),
    ],
)
def test_else_it_is_the_users_own_state_folder(environ: dict[str, str], expected: str):
    assert default_base_path(environ, seed="/nonexistent", code="/lib/x/y/z.py") == expected


def test_a_home_that_is_no_absolute_path_is_an_error_and_not_a_surprise():
    with pytest.raises(ConfigError, match="TINYSCHEDULER_BASE_PATH"):
        default_base_path({"HOME": "here"}, seed="/nonexistent", code="/lib/x/y/z.py")


def test_every_path_lies_under_the_base_path_whoever_named_it(tmp_path: Path):
    base = a_base(tmp_path / "base")

    config = loaded(base, an_environment(Path("/elsewhere"), RECIPES_DIR="../r", LOG_DIR="~/logs"))

    assert config.paths.base == str(base)
    assert config.paths.running == f"{base}/state/running"
    assert config.paths.results == f"{base}/state/results"
    assert config.paths.cancel == f"{base}/state/cancel"
    assert config.paths.quarantine == f"{base}/state/quarantine"
    assert config.paths.tasks == f"{base}/state/tasks"
    assert config.paths.tick_lock == f"{base}/state/tinyscheduler.pid"
    assert config.paths.kick == f"{base}/state/kick"
    assert config.paths.daemon_lock == f"{base}/state/daemon.lock"
    assert config.paths.settings == f"{base}/state/settings.json"
    assert config.paths.memory == f"{base}/state/scheduler.json"
    assert config.paths.database == f"{base}/state/tinyscheduler.db"
    assert config.paths.scripts == f"{base}/scripts"
    assert config.paths.agents_file == f"{base}/agents.yaml"
    assert config.paths.recipes == f"{tmp_path}/r"
    assert config.paths.logs == "/users/somebody/logs"
    assert config.paths.events == "/users/somebody/logs/events.jsonl"


def test_absolute_paths_are_kept(tmp_path: Path):
    config = loaded(a_base(tmp_path), running_dir="/run/ts", recipes_dir="/srv/recipes")

    assert (config.paths.running, config.paths.recipes) == ("/run/ts", "/srv/recipes")


def test_a_relative_base_path_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    from_option = loaded(Path("here"))
    from_variable = load_config(environ=an_environment(Path("there")), write_cache=False)

    assert from_option.paths.base == f"{tmp_path}/here"
    assert from_variable.paths.base == f"{tmp_path}/there"
    assert origin(from_variable, "BASE_PATH") is Origin.ENVIRONMENT


def test_a_current_folder_that_is_gone_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert loaded(tmp_path / "base").paths.base == f"{tmp_path}/base"


def test_a_relative_path_is_refused_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(ConfigError, match="'base' is relative, and the current folder") as refusal:
        loaded(Path("base"))

    assert refusal.value.where == "--base-path"
    assert "absolute path" in (refusal.value.hint or "")


def test_an_env_file_may_name_a_base_path_beside_it(tmp_path: Path):
    env_file = tmp_path / "settings.env"
    env_file.write_text("TINYSCHEDULER_BASE_PATH=data\n")

    config = load_config(environ=an_environment(ENV_FILE=str(env_file)), write_cache=False)

    assert config.paths.base == f"{tmp_path}/data"
    assert origin(config, "BASE_PATH") is Origin.ENV_FILE


def test_a_base_path_in_the_environment_wins_over_one_in_the_env_file(tmp_path: Path):
    base = a_base(tmp_path, env="TINYSCHEDULER_BASE_PATH=/elsewhere\n")

    assert load_config(environ=an_environment(base), write_cache=False).paths.base == str(base)


@pytest.mark.parametrize("path", ["", " ", "a\0b", "a\nb", "\udcff", "x" * 5000])
def test_a_base_path_that_is_no_path_is_refused(path: str):
    with pytest.raises(ConfigError, match="TINYSCHEDULER_BASE_PATH"):
        load_config(environ=an_environment(BASE_PATH=path), write_cache=False)


def test_a_base_path_that_is_a_file_is_refused_by_the_name_it_was_given_with(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(ConfigError, match=f"^TINYSCHEDULER_BASE_PATH: {file} is not a folder"):
        load_config(environ=an_environment(BASE_PATH=str(file)), write_cache=False)
    with pytest.raises(ConfigError, match=f"^--base-path: {file} is not a folder"):
        loaded(file)


def test_goose_is_looked_up_on_path_unless_a_path_is_given(tmp_path: Path):
    base = a_base(tmp_path)

    assert loaded(base).goose_command == "goose"
    assert loaded(base, goose_bin="tools/goose").goose_command == f"{base}/tools/goose"
    assert loaded(base, goose_bin="~/goose").goose_command == "/users/somebody/goose"
