"""What is configured, and who said so?  Rows for ``config --show``, without secrets."""

from __future__ import annotations

from collections.abc import Mapping

from tinyscheduler.config.inputs import absolute, gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import raise_first
from tinyscheduler.config.resolve import Understood, host_slots, understand
from tinyscheduler.config.settings import Settings, as_text, redacted, variable_of
from tinyscheduler.values import dataclass

JsonValue = str | int | float | bool | None | list[str] | dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One setting: its name without prefix, its variable, its value and where that came from.

    ``value`` is of its own type, for JSON; ``text`` is the same for people.
    """

    name: str
    variable: str
    value: JsonValue
    text: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """One agent: the queue it serves, its limit, and where that limit came from."""

    name: str
    queue: str
    limit: int
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownConfig:
    """The whole configuration as it may be printed."""

    settings: tuple[SettingRow, ...]
    agents: tuple[AgentRow, ...]
    env_file: str | None
    warnings: tuple[str, ...]


def show_config(overrides: Overrides, environ: Mapping[str, str]) -> ShownConfig:
    """Return every setting in force with its origin, secrets replaced.

    Raises ConfigError as a run would.
    """
    understood = understand(gather_inputs(overrides, environ))
    raise_first(understood.problems)
    return ShownConfig(
        settings=tuple(_row(name, understood, environ) for name in Settings.model_fields),
        agents=tuple(
            AgentRow(
                name=agent.name,
                queue=agent.queue,
                limit=agent.limit,
                origin=understood.limit_origins[agent.name],
            )
            for agent in understood.agents
        ),
        env_file=understood.read.env_file.path,
        warnings=tuple(problem.warning for problem in understood.problems),
    )


def _row(name: str, understood: Understood, environ: Mapping[str, str]) -> SettingRow:
    value = redacted(name, _in_force(name, understood, environ))
    text = as_text(value)
    if name == "max_concurrent_slots" and understood.read.settings.max_concurrent_slots is None:
        text += " (auto)"
    return SettingRow(
        name=name.upper(),
        variable=variable_of(name),
        value=_json_value(value),
        text=text,
        origin=str(understood.origin(name)),
    )


def _in_force(name: str, understood: Understood, environ: Mapping[str, str]) -> object:
    """Return a setting as it takes effect: paths absolute, limits merged, slots counted."""
    settings, paths = understood.read.settings, understood.paths
    match name:
        case "max_concurrent_slots":
            return host_slots(understood)
        case "agent_limits":
            return tuple(
                {**dict(settings.agent_limits), **dict(understood.overridden_limits)}.items()
            )
        case "goose_bin":
            return understood.goose
        case "policy_file" if settings.policy_file is not None:
            return absolute(settings.policy_file, under=paths.base, environ=environ)
        case _:
            return _PATHS[name](paths) if name in _PATHS else getattr(settings, name)


_PATHS = {
    "base_path": lambda paths: paths.base,
    "running_dir": lambda paths: paths.running,
    "log_dir": lambda paths: paths.logs,
    "task_cache_dir": lambda paths: paths.tasks,
    "recipes_dir": lambda paths: paths.recipes,
    "bin_dir": lambda paths: paths.scripts,
    "lock_file": lambda paths: paths.tick_lock,
    "agent_control_file": lambda paths: paths.agents_file,
}


def _json_value(value: object) -> JsonValue:
    match value:
        case tuple() if value and isinstance(value[0], str):
            return list(value)
        case tuple():
            return dict(value)
        case float() if value.is_integer():
            return int(value)
        case None | str() | int() | float():
            return value
        case _:
            raise AssertionError(value)
