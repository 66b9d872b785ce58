"""Which configuration applies now?  Answered from the cache where nothing has changed.

The first command after a change pays for pydantic, YAML and the rest; all others compare
fingerprints and read one JSON file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from tinyscheduler.config.cache import Resolution, recall, remember
from tinyscheduler.config.inputs import Inputs, content_key, gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import ALWAYS_ALLOWED, Config
from tinyscheduler.values import replace


def load_config(
    overrides: Overrides | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    write_cache: bool = True,
    makes_state: bool = False,
) -> Config:
    """Return the configuration that applies now.

    ``environ`` is the process's own environment unless given.  ``write_cache`` False
    leaves every file as it is, for readers; a dry run leaves it so anyway.  A command
    that ``makes_state`` has the very first answer cached too.  Raises
    ConfigError for what no run can survive; lesser faults are sentences in
    ``Config.warnings``.
    """
    inputs = gather_inputs(overrides or Overrides(), os.environ if environ is None else environ)
    key = content_key(inputs)
    folder = os.path.join(inputs.base_path, "state")
    resolution = recall(folder, key, inputs.environ)
    if resolution is None:
        # Heavy: pydantic and YAML, only where something changed.
        from tinyscheduler.config.resolve import resolve

        resolution = resolve(inputs)
        # A password in the endpoint's address belongs into no file of ours.
        config = resolution.config
        if write_cache and not config.dry_run and "@" not in config.endpoint:
            remember(folder, key, resolution, makes_folder=makes_state)
    return replace(resolution.config, environment=_environment(resolution, inputs))


def load_beside_agents(overrides: Overrides, *, write_cache: bool) -> Config:
    """Return the configuration for a command that neither adds nor starts anything.

    A fault of the agents file is a warning then: whoever mends it may want to look at
    tasks meanwhile, or to cancel them.  Such a configuration is never cached, so that
    every command that needs agents meets the fault.  Raises ConfigError for other faults.
    """
    try:
        return load_config(overrides, write_cache=write_cache)
    except ConfigError:
        from tinyscheduler.config.resolve import resolve_beside_agents

        return resolve_beside_agents(gather_inputs(overrides, os.environ))


def allowed_names(config: Config) -> tuple[str, ...]:
    """Return the names of all variables that some agent's command may receive."""
    wanted = dict.fromkeys(ALWAYS_ALLOWED)
    for agent in config.agents:
        wanted.update(dict.fromkeys(agent.environment))
    return tuple(wanted)


def _environment(resolution: Resolution, inputs: Inputs) -> tuple[tuple[str, str], ...]:
    """Collect the values agents may receive, from the environment and then the env file.

    Values are never cached, being secrets; but where in the env file each stands is, so
    that a value written literally is cut out of the file without parsing it.
    """
    literals = dict(resolution.literals)
    parsed: dict[str, str] | None = None
    values = []
    for name in allowed_names(resolution.config):
        if name in inputs.environ:
            values.append((name, inputs.environ[name]))
        elif inputs.env_file is not None and name in literals:
            span = literals[name]
            if span is not None:
                start, end = span
                values.append((name, inputs.env_file.content[start:end].decode("utf-8")))
                continue
            if parsed is None:
                parsed = _parsed_env_file(inputs)
            values.append((name, parsed[name]))
    return tuple(values)


def _parsed_env_file(inputs: Inputs) -> dict[str, str]:
    from tinyscheduler.config.env_file import parse_env_file

    found = parse_env_file(inputs.env_file, inputs.environ)
    return {name: entry.value for name, entry in found.entries.items()}
