"""Is the configuration sound, all of it, and what would make it so?

Unlike a run, which stops at the first fault it cannot survive, this looks at everything:
settings, the agents file, folders, programs, recipes and the VRAM of each host.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator, Mapping

from tinyscheduler.config.agents_file import AgentsFile
from tinyscheduler.config.inputs import ENV_FILE, PREFIX, gather_inputs
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import (
    Problem,
    Severity,
    did_you_mean,
    problem_from_error,
    quote,
)
from tinyscheduler.config.resolve import Understood, host_slots, understand
from tinyscheduler.config.settings import as_text, is_secret, variable_of
from tinyscheduler.config.units import duration_text
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.config import (
    LOCAL_HOST,
    AgentProfile,
    Host,
    Paths,
)
from tinyscheduler.model.documents import MOST_HOLDER_BYTES, is_holder_text
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass, replace

FOLDER_MODE = 0o700
FILE_MODE = 0o600

# A look at more would make the check slow, and one bad link among so many says enough.
MAX_RECIPES = 1000

# How much time is lost in waiting for memory; of Linux 4.20 on, unless it was built without.
_STALLS = "/proc/pressure/memory"

_MAKE_IT = "make it, or run `tinyscheduler validate-config --fix`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Everything that is wrong: what must be fixed, and what is only worth knowing."""

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixReport:
    """What was made, and what is still wrong afterwards."""

    done: tuple[str, ...]
    report: ValidationReport


def validate_config(overrides: Overrides, environ: Mapping[str, str]) -> ValidationReport:
    """Check the whole configuration without changing or running anything."""
    understood, problems = _understand(overrides, environ)
    if understood is not None:
        problems += understood.problems
        problems += _faults(understood, environ)
    return _report(problems)


def fix_config(overrides: Overrides, environ: Mapping[str, str]) -> FixReport:
    """Make missing folders and a missing agents file; then check everything.

    Changes nothing that exists, so that doing it again does nothing.  Makes nothing at
    all while a setting is unusable: it might be the very one that says where.
    """
    understood, problems = _understand(overrides, environ)
    if understood is None or any(
        problem.severity is Severity.STRUCTURE for problem in (*problems, *understood.read.problems)
    ):
        return FixReport(done=(), report=validate_config(overrides, environ))
    done: list[str] = []
    failures: list[Problem] = []
    for folder in _folders(understood):
        _make_folder(folder.path, folder.setting, done, failures)
    if not understood.agents_file.found:
        _make_agents_file(understood.paths.agents_file, done, failures)
    report = validate_config(overrides, environ)
    return FixReport(done=tuple(done), report=replace(report, errors=_causes(failures, report)))


def _causes(failures: list[Problem], report: ValidationReport) -> tuple[Problem, ...]:
    """Return what is still wrong, each cause once: what could not be made is not missing too."""
    errors = [problem for problem in report.errors if problem.fix != _MAKE_IT]
    faulty = {problem.value for problem in errors}
    ones_own = [one for one in failures if os.path.dirname(one.value or "") not in faulty]
    return tuple(dict.fromkeys((*ones_own, *errors)))


def missing_folders(overrides: Overrides, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the folders that `fix_config` would make, outer ones first.

    Raises ConfigError if the settings do not say where they belong.
    """
    understood = understand(gather_inputs(overrides, environ))
    folders = [folder.path for folder in _folders(understood)]
    return tuple(folder for folder in folders if not os.path.lexists(folder))


def _understand(
    overrides: Overrides, environ: Mapping[str, str]
) -> tuple[Understood | None, list[Problem]]:
    """Understand all layers; without the env file, if that is what cannot be read."""
    try:
        return understand(gather_inputs(overrides, environ)), []
    except ConfigError as error:
        problems = [problem_from_error(error)]
    try:
        inputs = gather_inputs(
            replace(overrides, env_file=os.devnull),
            {name: value for name, value in environ.items() if name != ENV_FILE},
        )
        return understand(inputs), problems
    except ConfigError:
        return None, problems


def _report(problems: list[Problem]) -> ValidationReport:
    unique = tuple(dict.fromkeys(problems))
    return ValidationReport(
        errors=tuple(found for found in unique if found.severity is not Severity.ADVICE),
        warnings=tuple(found for found in unique if found.severity is Severity.ADVICE),
    )


def _faults(understood: Understood, environ: Mapping[str, str]) -> Iterator[Problem]:
    agents = _agents_as_meant(understood)
    yield from _faults_of_folders(understood)
    yield from _faults_of_lock_file(understood.paths.tick_lock)
    yield from _faults_of_env_file(understood)
    yield from _faults_of_programs(agents, environ)
    yield from _faults_of_recipes(understood.paths.recipes)
    yield from _faults_of_slots(understood)
    yield from _faults_of_models(understood.agents_file, agents)
    yield from _faults_of_budgets(understood, agents)
    yield from _faults_of_stalls(understood)


def _agents_as_meant(understood: Understood) -> tuple[AgentProfile, ...]:
    """Return the agents without those whose faults are told already.

    What stands in for a faulty one would have faults of its own, which nobody made.
    """
    file = understood.agents_file
    return tuple(
        agent
        for agent in understood.agents
        if agent.name not in file.faulty and (file.is_whole or agent.name in file.agents)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder that runs work in; one that is not ``required`` is made when it is needed.

    One that somebody named is: it may be misspelt.
    """

    setting: str
    path: str
    required: bool


def _folders(understood: Understood) -> list[_Folder]:
    """List every folder a run works in, outer ones first."""
    paths = understood.paths
    uses_recipes = any(
        "{recipe}" in item for agent in _agents_as_meant(understood) for item in agent.command
    )
    given = understood.read.given
    folders = [
        ("base_path", paths.base, True),
        ("base_path", paths.state, True),
        ("running_dir", paths.running, "running_dir" in given),
        ("base_path", paths.results, False),
        ("base_path", paths.cancel, False),
        ("base_path", paths.quarantine, False),
        ("task_cache_dir", paths.tasks, False),
        ("log_dir", paths.logs, "log_dir" in given),
        ("lock_file", os.path.dirname(paths.tick_lock), "lock_file" in given),
        *([("recipes_dir", paths.recipes, True)] if uses_recipes else []),
    ]
    known: dict[str, _Folder] = {}
    for name, path, required in folders:
        folder = _Folder(setting=variable_of(name), path=path, required=required)
        known.setdefault(path, folder)
    return list(known.values())


def _faults_of_folders(understood: Understood) -> Iterator[Problem]:
    paths = understood.paths
    missing: list[str] = []
    for folder in _folders(understood):
        # One missing folder is one fault, whatever else would have been inside it.
        if os.path.lexists(folder.path):
            private = folder.path.startswith(paths.state + os.sep)
            yield from _faults_of_folder(folder.setting, folder.path, private=private)
        elif folder.required and not any(folder.path.startswith(f"{outer}/") for outer in missing):
            missing.append(folder.path)
            yield _error(folder.setting, folder.path, "does not exist", _MAKE_IT)
    if "bin_dir" in understood.read.given and not os.path.isdir(paths.scripts):
        fault, fix = "is not a folder", "name an existing one"
        yield _error(variable_of("bin_dir"), paths.scripts, fault, fix)
    yield from _shared_folders(paths)


def _faults_of_folder(setting: str, path: str, *, private: bool) -> Iterator[Problem]:
    try:
        found = os.stat(path)
    except OSError as error:
        yield _error(setting, path, f"cannot be looked at: {error.strerror}", "choose another path")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield _error(setting, path, "is not a folder", "choose another path, or move the file away")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        yield _error(
            setting, path, f"is not writable for user {_user()}", "change its owner or its mode"
        )
    elif private and stat.S_IMODE(found.st_mode) & 0o077:
        yield Problem(
            severity=Severity.ADVICE,
            setting=setting,
            value=path,
            message=f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o})",
            fix=f"chmod 700 {path}",
        )


def _shared_folders(paths: Paths) -> Iterator[Problem]:
    """Report one folder with two purposes: each sweeps files it does not know."""
    seen: dict[str, str] = {}
    for purpose, path in (
        ("results", paths.results),
        ("cancel requests", paths.cancel),
        ("quarantine", paths.quarantine),
        (variable_of("running_dir"), paths.running),
        (variable_of("task_cache_dir"), paths.tasks),
        (variable_of("log_dir"), paths.logs),
    ):
        if path in seen:
            yield _error(
                purpose, path, f"is the folder of {seen[path]}", "give each a folder of its own"
            )
        seen.setdefault(path, purpose)


def _faults_of_lock_file(path: str) -> Iterator[Problem]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return  # a folder is reported with what else it is
        with open(path, "rb") as file:
            content = file.read(MOST_HOLDER_BYTES + 1)
    except OSError:
        return  # none yet; or of somebody else, which a tick says
    if not is_holder_text(content):
        yield _error(
            variable_of("lock_file"),
            path,
            "holds something else than a tick lock",
            "set it to a file of its own, or move this one away if nobody needs it",
        )


def _faults_of_env_file(understood: Understood) -> Iterator[Problem]:
    env_file = understood.read.env_file
    secrets = sorted(name for name in env_file.entries if is_secret(name))
    if env_file.path is None or not secrets:
        return
    try:
        mode = stat.S_IMODE(os.stat(env_file.path).st_mode)
    except OSError:
        return  # gone since it was read
    if mode & 0o077:
        yield Problem(
            severity=Severity.ADVICE,
            setting=env_file.path,
            value=f"{mode:04o}",
            message=f"holds {secrets[0]} and is open to other users (mode {mode:04o})",
            fix=f"chmod 600 {env_file.path}",
        )


def _faults_of_programs(
    agents: tuple[AgentProfile, ...], environ: Mapping[str, str]
) -> Iterator[Problem]:
    for agent in agents:
        if agent.cwd is not None and not os.path.isdir(agent.cwd):
            yield _error(f"agent {agent.name}", agent.cwd, "is not a folder", "make it")
        if not agent.command or agent.limit == 0 or "{" in agent.command[0]:
            continue
        program = agent.command[0]
        if "/" in program and not os.path.isabs(program):
            continue  # looked for in the folder of each task
        if "/" in program:
            if not os.path.isfile(program):
                fault, fix = "does not exist", "install it, or correct the path"
            elif not os.access(program, os.X_OK, effective_ids=True):
                fault, fix = "is not executable", f"chmod +x {program}"
            else:
                continue
        elif shutil.which(program, path=environ.get("PATH", os.defpath)):
            continue
        else:
            fault = "is not on PATH"
            fix = "install it, or write its full path"
        if agent.profile == "goose":
            fix += f" ({PREFIX}GOOSE_BIN)"
        yield _error(f"agent {agent.name}", program, fault, fix)


def _faults_of_recipes(folder: str) -> Iterator[Problem]:
    inside = os.path.realpath(folder)
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(MAX_RECIPES), entries, strict=False):
                target = os.path.realpath(entry.path)
                if os.path.commonpath([inside, target]) != inside:
                    yield _error(
                        variable_of("recipes_dir"),
                        entry.path,
                        f"leads out of the recipes folder, to {target}",
                        "copy the recipe into the folder",
                    )
    except OSError:
        return  # there is no such folder: reported where one is needed


def _faults_of_slots(understood: Understood) -> Iterator[Problem]:
    slots = host_slots(understood)
    wanted = sum(agent.limit for agent in understood.agents)
    if wanted > slots:
        yield Problem(
            severity=Severity.ADVICE,
            setting=variable_of("max_concurrent_slots"),
            value=str(slots),
            message=f"the limits of all agents add up to {wanted}, but the host has {slots} slots;"
            " agents will wait for each other",
            fix=f"raise it to {wanted}, or lower the limits of agents, if that is not meant",
        )


def _faults_of_stalls(understood: Understood) -> Iterator[Problem]:
    limit = understood.read.settings.memory_stall_critical
    if not limit:
        return
    try:
        with open(_STALLS, encoding="utf-8") as file:
            if file.readline().startswith("some avg10="):
                return
        why = "tells something else"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    yield Problem(
        severity=Severity.ADVICE,
        setting=variable_of("memory_stall_critical"),
        value=as_text(limit),
        message=f"has no effect here: {_STALLS} {why}",
        fix="set it to 0, or boot a kernel with psi=1",
    )


def _faults_of_models(
    agents_file: AgentsFile, agents: tuple[AgentProfile, ...]
) -> Iterator[Problem]:
    inventory = agents_file.inventory
    for host in inventory.hosts:
        if host.total_vram_bytes is not None:
            yield from _faults_of_host(host, host.total_vram_bytes, agents_file)
    hosts = [LOCAL_HOST, *(host.name for host in inventory.hosts)]
    for place in inventory.models:
        if place.host not in hosts:
            yield _error(
                f"model {place.model}",
                place.host,
                "is no host of this file",
                did_you_mean(place.host, hosts),
            )
    models = list(dict.fromkeys(place.model for place in inventory.models))
    for agent in agents:
        if models and agent.model and agent.model not in models:
            yield Problem(
                severity=Severity.ADVICE,
                setting=f"agent {agent.name}",
                value=agent.model,
                message=f"model {quote(agent.model)} is not in section models",
                fix=did_you_mean(agent.model, models),
            )


def _faults_of_budgets(
    understood: Understood, agents: tuple[AgentProfile, ...]
) -> Iterator[Problem]:
    agents_file, days = understood.agents_file, understood.read.settings.history_retention_days
    names = [agent.name for agent in agents]
    for budget in agents_file.inventory.budgets:
        where = f"{agents_file.path}:{agents_file.lines[f'budget {budget.subject}']}"
        kind, _, name = budget.subject.partition(":")
        if kind == "agent" and name not in names:
            yield Problem(
                severity=Severity.ADVICE,
                setting=where,
                value=name,
                message=f"budget {budget.subject}: there is no agent {quote(name)}",
                fix=did_you_mean(name, names),
            )
        if budget.window_s > days * 86_400.0:
            window = duration_text(budget.window_s)
            yield Problem(
                severity=Severity.TUNING,
                setting=where,
                value=window,
                message=f"budget {budget.subject}: its window of {window} is longer than attempts"
                f" are remembered ({variable_of('history_retention_days')}={days})",
                fix="shorten the window, or remember them longer",
            )


def _faults_of_host(host: Host, total: int, agents_file: AgentsFile) -> Iterator[Problem]:
    places = [place for place in agents_file.inventory.models if place.host == host.name]
    needed = sum(place.vram_bytes * place.max_slots for place in places)
    if needed > total:
        terms = " + ".join(
            f"{place.model} {format_size(place.vram_bytes)} x {place.max_slots}" for place in places
        )
        yield Problem(
            severity=Severity.TUNING,
            setting=f"{agents_file.path}:{agents_file.lines[host.name]}",
            value=format_size(total),
            message=f"host {host.name}: allocated VRAM {format_size(needed)} exceeds total_vram"
            f" {format_size(total)} ({terms})",
            fix="lower max_slots or vram of a model, or move one to another host",
        )


def _make_folder(path: str, setting: str, done: list[str], failures: list[Problem]) -> None:
    missing = []
    while not os.path.lexists(path):
        if any(path == failure.value for failure in failures):
            return
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, FOLDER_MODE)
        except FileExistsError:
            continue  # made by somebody else just now, which is as good
        except OSError as error:
            failures.append(
                _error(
                    setting,
                    folder,
                    f"cannot be made: {error.strerror}",
                    "make it yourself, or choose another path",
                )
            )
            return
        done.append(f"made folder {folder}")


def _make_agents_file(path: str, done: list[str], failures: list[Problem]) -> None:
    setting = variable_of("agent_control_file")
    _make_folder(os.path.dirname(path), setting, done, failures)
    if not os.path.isdir(os.path.dirname(path)):
        return
    text = "[]\n" if path.endswith(".json") else DEFAULT_AGENTS_FILE
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(path, flags, FILE_MODE), "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return  # a link to nowhere, or made by somebody else just now: not ours to replace
    except OSError as error:
        failures.append(
            _error(setting, path, f"cannot be written: {error.strerror}", "choose another path")
        )
        return
    done.append(f"wrote {path}")


def _error(setting: str, value: str, fault: str, fix: str) -> Problem:
    return Problem(
        severity=Severity.STRUCTURE,
        setting=setting,
        value=value,
        message=f"{value} {fault}",
        fix=fix,
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


DEFAULT_AGENTS_FILE = """\
# Agents: how tasks are run, and how many at once.
# `tinyscheduler validate-config` checks this file;
# docs/reference/configuration.md explains every key.
agents:
  # The built-in agent of `tinyscheduler add -- COMMAND`: runs the command itself.
  shell:
    limit: 2

  # coder:
  #   queue: dev                     # the line of tasks it serves; its own name unless set
  #   limit: 2                       # attempts at once
  #   command: ["goose", "run", "--recipe", "{recipe}", "--params", "task_id={task_id}"]
  #   profile: goose                 # how its endings are read: shell, goose, claude, codex, gemini
  #   env: [OPENAI_API_KEY]          # variables it may see, besides PATH HOME LANG TERM USER
  #   memory: 2G
  #   vram: 14G
  #   max_runtime: 1h
  #   max_turns: 200

# What may be used in a while: runs, turns, tokens, money, gpu_minutes, wall_time.
# budgets:
#   overall: {window: 1d, runs: 500}
#   agent:coder: {window: 1d, tokens: 5M}

# What GPUs this host has, and what models need of them.
# hosts:
#   local: {total_vram: 24G}
# models:
#   llama-7b: {vram: 14G, max_slots: 1}
"""
