"""From settings and the agents file to the one frozen `Config`, and to what it depends on."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tinyscheduler.config.agents_file import (
    SHELL,
    AgentsFile,
    goose_agent,
    parse_agents_file,
    shell_agent,
)
from tinyscheduler.config.cache import CACHE_NAME, Resolution
from tinyscheduler.config.inputs import (
    BASE_PATH,
    ENV_FILE_NAMES,
    PREFIX,
    InputFile,
    Inputs,
    absolute,
    digest,
    digest_of_file,
    digest_of_variables,
    read_input,
)
from tinyscheduler.config.problems import (
    Problem,
    Severity,
    did_you_mean,
    nearest_name,
    problem_from_error,
    quote,
    raise_first,
)
from tinyscheduler.config.settings import (
    MAX_LIMIT,
    ReadSettings,
    Settings,
    read_settings,
)
from tinyscheduler.core.machine_slots import machine_slots
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import (
    AgentProfile,
    Config,
    FairShare,
    Limits,
    Origin,
    Paths,
    PolicySettings,
    Timing,
)
from tinyscheduler.model.tasks import is_task_id
from tinyscheduler.values import dataclass, replace

# So much alike, from 0 to 1, are a name and the same name with one letter wrong.
_MISSPELT = 0.75

# Where an agent's limit came from, when neither a variable nor an option set it.
AGENTS_FILE = "agents file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """All layers understood: settings, paths, agents, and every problem found on the way."""

    read: ReadSettings
    paths: Paths
    base_origin: Origin
    goose: str
    overridden_limits: tuple[tuple[str, int], ...]
    agents_file: AgentsFile
    agents: tuple[AgentProfile, ...]
    limit_origins: Mapping[str, str]
    policy_path: str | None
    watched: tuple[tuple[str, str | None], ...]
    problems: tuple[Problem, ...]

    def origin(self, field_name: str) -> Origin:
        """Return which layer a setting's value came from."""
        if field_name == "base_path":
            return self.base_origin
        if field_name == "agent_limits" and self.overridden_limits:
            return Origin.COMMAND_LINE
        return self.read.origin(field_name)


def resolve(inputs: Inputs) -> Resolution:
    """Understand all layers and build the configuration.

    Raises ConfigError for the first problem that no run can survive.
    """
    understood = understand(inputs)
    raise_first(understood.problems)
    env_file = understood.read.env_file
    referenced = tuple(sorted(env_file.referenced))
    return Resolution(
        config=_config(understood),
        watched=understood.watched,
        referenced=referenced,
        referenced_digest=digest_of_variables(referenced, inputs.environ),
        literals=tuple(
            (name, entry.span)
            for name, entry in env_file.entries.items()
            if not name.startswith(PREFIX)
        ),
    )


def resolve_beside_agents(inputs: Inputs) -> Config:
    """Build the configuration without what is wrong in the agents file; that is a warning.

    Raises ConfigError for the first problem elsewhere that no run can survive.
    """
    understood = understand(inputs)
    faults = understood.agents_file.problems
    raise_first([problem for problem in understood.problems if problem not in faults])
    fatal = [problem for problem in faults if problem.severity is Severity.STRUCTURE]
    others = tuple(problem.warning for problem in understood.problems if problem not in fatal)
    warnings = tuple(
        f"{problem.sentence}; nothing is added or started until"
        " `tinyscheduler validate-config` is content"
        for problem in fatal[:1]
    )
    return replace(_config(understood), warnings=(*warnings, *others))


def understand(inputs: Inputs) -> Understood:
    """Read settings and agents, collecting problems instead of stopping at the first.

    Raises ConfigError only where the env file cannot be read at all.
    """
    read = read_settings(inputs)
    base_path, base_origin = _base_path(inputs, read)
    paths = _paths(read.settings, base_path, inputs.environ)
    goose = goose_bin(read.settings, paths, inputs.environ)
    overridden_limits = inputs.overrides.agent_limits
    problems = [
        *read.problems,
        *_faults_of_base(paths.base, base_origin),
        *_faults_of_lock(read, paths, env_file=inputs.env_file),
        *_faulty_overrides(overridden_limits),
    ]
    agents_file, watched = _read_agents(read, paths, goose, problems)
    for agent in agents_file.agents.values():
        if agent.cwd is not None:
            cwd = absolute(agent.cwd, under=base_path, environ=inputs.environ)
            agents_file.agents[agent.name] = replace(agent, cwd=cwd)
    agents, limit_origins = _agents(read, overridden_limits, agents_file, goose, problems)
    policy_path = None
    if read.settings.policy_file is not None:
        policy_path = absolute(read.settings.policy_file, under=base_path, environ=inputs.environ)
        watched = [*watched, (policy_path, digest_of_file(policy_path))]
        problems += _faults_of_policy(read, policy_path)
    return Understood(
        read=read,
        paths=paths,
        base_origin=base_origin,
        goose=goose,
        overridden_limits=overridden_limits,
        agents_file=agents_file,
        agents=agents,
        limit_origins=limit_origins,
        policy_path=policy_path,
        watched=tuple(watched),
        problems=tuple(problems),
    )


def host_slots(understood: Understood) -> int:
    """Return how many attempts may run at once on this host."""
    return machine_slots(
        understood.agents,
        understood.agents_file.inventory.hosts,
        setting=understood.read.settings.max_concurrent_slots,
    )


def goose_bin(settings: Settings, paths: Paths, environ: Mapping[str, str]) -> str:
    """Return the goose command: a bare name is left to PATH, anything else made absolute."""
    command = settings.goose_bin
    if "/" in command or command.startswith("~"):
        return absolute(command, under=paths.base, environ=environ)
    return command


def _base_path(inputs: Inputs, read: ReadSettings) -> tuple[str, Origin]:
    given = read.given.get("base_path")
    if given is None or given.origin is not Origin.ENV_FILE or inputs.env_file is None:
        return inputs.base_path, inputs.base_origin
    folder = os.path.dirname(inputs.env_file.path)
    path = absolute(str(given.value).strip(), under=folder, environ=inputs.environ)
    return path, Origin.ENV_FILE


def _paths(settings: Settings, base: str, environ: Mapping[str, str]) -> Paths:
    def under_base(path: str) -> str:
        return absolute(path, under=base, environ=environ)

    state = os.path.join(base, "state")
    logs = under_base(settings.log_dir)
    return Paths(
        base=base,
        state=state,
        running=under_base(settings.running_dir),
        results=os.path.join(state, "results"),
        cancel=os.path.join(state, "cancel"),
        tasks=under_base(settings.task_cache_dir),
        logs=logs,
        quarantine=os.path.join(state, "quarantine"),
        recipes=under_base(settings.recipes_dir),
        scripts=under_base(settings.bin_dir),
        tick_lock=under_base(settings.lock_file),
        kick=os.path.join(state, "kick"),
        daemon_lock=os.path.join(state, "daemon.lock"),
        settings=os.path.join(state, "settings.json"),
        memory=os.path.join(state, "scheduler.json"),
        database=os.path.join(state, "tinyscheduler.db"),
        events=os.path.join(logs, "events.jsonl"),
        agents_file=under_base(settings.agent_control_file),
    )


def _faults_of_base(base: str, origin: Origin) -> list[Problem]:
    if not os.path.lexists(base) or os.path.isdir(base):
        return []
    return [
        Problem(
            severity=Severity.STRUCTURE,
            setting="--base-path" if origin is Origin.COMMAND_LINE else BASE_PATH,
            value=base,
            message=f"{base} is not a folder",
            fix="set it to a folder, or to a path where one can be made",
        )
    ]


def _faults_of_lock(
    read: ReadSettings, paths: Paths, *, env_file: InputFile | None
) -> list[Problem]:
    """Report a tick lock that is also something else: a tick would write over that."""
    lock = os.path.realpath(paths.tick_lock)
    others = {
        path: purpose
        for purpose, names in _purposes(paths, env_file).items()
        for path in map(os.path.realpath, names)
    }
    purpose = others.get(lock) or ("a folder" if os.path.isdir(lock) else None)
    if purpose is None:
        return []
    given = read.given.get("lock_file")
    return [
        Problem(
            severity=Severity.STRUCTURE,
            setting=given.name if given else PREFIX + "LOCK_FILE",
            value=paths.tick_lock,
            message=f"{paths.tick_lock} is {purpose}, and cannot be the tick lock too",
            fix="give each a path of its own, such as state/tinyscheduler.pid for the lock",
        )
    ]


def _purposes(paths: Paths, env_file: InputFile | None) -> dict[str, tuple[str, ...]]:
    """Return what else is where, or will be, in words."""
    journals = tuple(paths.database + ending for ending in ("-wal", "-shm", "-journal"))
    env_files = tuple(os.path.join(paths.base, name) for name in ENV_FILE_NAMES)
    return {
        "the database": (paths.database, *journals),
        "the agents file": (paths.agents_file,),
        "an env file": env_files if env_file is None else (*env_files, env_file.path),
        "the daemon's lock": (paths.daemon_lock,),
        "the file of wishes for a tick": (paths.kick,),
        "the settings of the last tick": (paths.settings,),
        "what ticks remember": (paths.memory,),
        "the cache of settings": (os.path.join(paths.state, CACHE_NAME),),
        "a log": (paths.events, os.path.join(paths.logs, "wrapper.log")),
        "a folder": (
            *(paths.base, paths.state, paths.running, paths.results, paths.cancel),
            *(paths.tasks, paths.logs, paths.quarantine, paths.recipes, paths.scripts),
        ),
    }


def _faults_of_policy(read: ReadSettings, path: str) -> list[Problem]:
    name = read.given["policy_file"].name
    if not os.path.isfile(path):
        fault, severity = f"there is no file {path}", Severity.STRUCTURE
        fix = f"set {name} to a policy, or remove it"
    elif read.settings.policy_mode == "platform":
        fault, severity = "ignored, because POLICY_MODE is platform", Severity.ADVICE
        fix = f"set {PREFIX}POLICY_MODE to home or lab, or remove {name}"
    else:
        return []
    return [Problem(severity=severity, setting=name, value=path, message=fault, fix=fix)]


def _read_agents(
    read: ReadSettings, paths: Paths, goose: str, problems: list[Problem]
) -> tuple[AgentsFile, list[tuple[str, str | None]]]:
    path = paths.agents_file
    watched: list[tuple[str, str | None]] = [(path, None)]
    try:
        source = read_input(path, what="agents file")
        watched = [(path, digest(source.content) if source else None)]
        found = parse_agents_file(source, path=path, goose=goose)
    except ConfigError as error:
        found = AgentsFile(path=path, found=True)
        found.problems.append(problem_from_error(error))
    given = read.given.get("agent_control_file")
    if given is not None and not found.found:
        found.problems.append(
            Problem(
                severity=Severity.STRUCTURE,
                setting=given.name,
                value=path,
                message=f"there is no file {path}",
                fix="create it with `tinyscheduler validate-config --fix`, or remove the setting",
            )
        )
    problems += found.problems
    return found, watched


def _agents(
    read: ReadSettings,
    overridden: tuple[tuple[str, int], ...],
    agents_file: AgentsFile,
    goose: str,
    problems: list[Problem],
) -> tuple[tuple[AgentProfile, ...], dict[str, str]]:
    """Merge limits over what the file defines: command line, then variable, then file.

    Returns the agents, and where the limit of each came from.  A limit for an agent that
    no file defines makes one that runs recipes with goose, as AGENT_LIMITS alone always
    has.  Beside an agents file, or with a name much like a known one, that is more likely
    a typing mistake, so it is worth a warning.
    """
    agents = dict(agents_file.agents)
    origins = {
        name: AGENTS_FILE if name in agents_file.limited else str(Origin.DEFAULT) for name in agents
    }
    if SHELL not in agents:
        agents[SHELL] = shell_agent()
        origins[SHELL] = str(Origin.DEFAULT)
    known = tuple(agents)
    given = read.given.get("agent_limits")
    variable = given.name if given else PREFIX + "AGENT_LIMITS"
    for pairs, setting, origin in (
        (read.settings.agent_limits, variable, read.origin("agent_limits")),
        (overridden, "--agent-limit", Origin.COMMAND_LINE),
    ):
        for name, limit in pairs:
            if name not in agents and agents_file.is_whole:
                problems += _undefined_agent(name, setting, known, agents_file)
            agents[name] = replace(agents.get(name) or goose_agent(name, goose), limit=limit)
            origins[name] = str(origin)
    return tuple(agents.values()), origins


def _undefined_agent(
    name: str, setting: str, known: tuple[str, ...], agents_file: AgentsFile
) -> list[Problem]:
    nearest = nearest_name(name, known, likeness=_MISSPELT)
    if nearest is None and not agents_file.found:
        return []
    fault = f"not in {agents_file.path}" if agents_file.found else "a new one"
    return [
        Problem(
            severity=Severity.ADVICE,
            setting=setting,
            value=name,
            message=f"agent {name} is {fault}; it will run recipes with goose",
            fix=did_you_mean(name, known),
        )
    ]


def _faulty_overrides(limits: tuple[tuple[str, int], ...]) -> list[Problem]:
    return [
        Problem(
            severity=Severity.STRUCTURE,
            setting="--agent-limit",
            value=f"{name}={limit}",
            message=f"{quote(f'{name}={limit}')} is not AGENT=N",
            fix=f"name an agent and a whole number from 0 to {MAX_LIMIT}, such as coder=2",
        )
        for name, limit in limits
        if not is_task_id(name) or type(limit) is not int or not 0 <= limit <= MAX_LIMIT
    ]


def _config(understood: Understood) -> Config:
    settings = understood.read.settings
    return Config(
        paths=understood.paths,
        agents=understood.agents,
        sources=settings.sources,
        timing=_timing(settings),
        limits=_limits(understood),
        goose_command=understood.goose,
        endpoint=settings.mcp_endpoint,
        priority_enabled=settings.priority_enabled,
        blocking_disabled=settings.disable_blocking,
        enabled=settings.enabled,
        kick_enabled=settings.kick,
        dry_run=settings.dry_run,
        log_level=settings.log_level,
        gpu_probe=settings.gpu_probe,
        pressure_sources=settings.pressure_sources or (),
        inventory=understood.agents_file.inventory,
        policy=_policy(understood),
        profiles=understood.agents_file.profiles,
        environment=(),
        origins=tuple((name.upper(), understood.origin(name)) for name in Settings.model_fields),
        warnings=tuple(problem.warning for problem in understood.problems),
    )


def _policy(understood: Understood) -> PolicySettings:
    settings = understood.read.settings
    return PolicySettings(
        mode=settings.policy_mode,
        path=understood.policy_path,
        cpu_ms=settings.policy_timeout_ms,
        wall_ms=settings.policy_wall_ms,
        memory_mb=settings.policy_memory_mb,
    )


def _timing(settings: Settings) -> Timing:
    return Timing(
        loop_interval_s=settings.loop_interval_sec,
        heartbeat_s=settings.heartbeat_sec,
        max_runtime_s=settings.max_runtime_sec,
        stagger_s=settings.stagger_delay_ms / 1000,
        tick_budget_s=settings.tick_budget_sec,
        kill_grace_s=settings.kill_grace_sec,
        retry_base_s=settings.retry_base_sec,
        retry_max_s=settings.retry_max_sec,
        retry_later_s=settings.retry_backoff_sec,
        schedule_run_s=float(settings.schedule_max_run_duration_sec),
        schedule_pressure_delay_s=float(settings.schedule_chat_pressure_delay_sec),
        source_timeout_s=settings.source_timeout_sec,
        lost_after_s=settings.lost_after_sec,
    )


def _limits(understood: Understood) -> Limits:
    settings = understood.read.settings
    per_slot_bytes = settings.memory_per_slot_mb * 2**20
    is_per_slot_set = understood.origin("memory_per_slot_mb") is not Origin.DEFAULT
    return Limits(
        host_slots=host_slots(understood),
        has_automatic_slots=settings.max_concurrent_slots is None,
        max_attempts=settings.max_attempts,
        max_launches=settings.max_launches,
        max_queue_depth=settings.max_queue_depth,
        queue_lookahead=settings.queue_lookahead,
        max_skips=settings.max_skips_per_task,
        log_max_bytes=settings.log_max_mb * 2**20,
        memory_per_slot_bytes=per_slot_bytes if is_per_slot_set else None,
        memory_warning=settings.memory_warning,
        memory_critical=settings.memory_critical,
        fair_share=FairShare(settings.fair_share),
        fair_share_half_life_s=settings.fair_share_half_life_sec,
        memory_stall_critical=settings.memory_stall_critical or None,
        log_retention_s=_days(settings.log_retention_days),
        history_retention_s=_days(settings.history_retention_days),
        schedule_max_concurrent=settings.schedule_max_concurrent,
    )


def _days(number: int) -> float:
    # Longer than anybody keeps a machine, and no further back than a calendar reaches.
    return min(number, 36_500) * 86_400.0
