"""``init``: a place to work in, with settings and agents to start from; nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.render import Ink, ask, emit, emit_json, escape, program_here
from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, EXIT_INTERRUPTED, UsageError
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.config.validate import ValidationReport
    from tinyscheduler.model.config import Config

_FILE_MODE = 0o600
# The settings that people change first; `config` shows the rest.
_COMMON_SETTINGS = (
    "max_concurrent_slots",
    "stagger_delay_ms",
    "max_runtime_sec",
    "max_attempts",
    "priority_enabled",
    "log_level",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAgent:
    """An agent program that this knows how to call, and the variable with its key."""

    name: str
    command: str
    key: str


KNOWN_AGENTS = (
    KnownAgent(
        name="goose",
        command='["goose", "run", "--no-session", "--text", "{prompt}"]',
        key="GOOSE_PROVIDER, GOOSE_MODEL, OPENAI_API_KEY",
    ),
    KnownAgent(name="claude", command='["claude", "-p", "{prompt}"]', key="ANTHROPIC_API_KEY"),
    KnownAgent(name="codex", command='["codex", "exec", "{prompt}"]', key="OPENAI_API_KEY"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file that is not there yet, and what will be in it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What a set-up would make, and what it leaves as it is."""

    folders: tuple[str, ...]
    files: tuple[NewFile, ...]
    left: tuple[str, ...]
    agents: tuple[KnownAgent, ...]


def init(
    context: typer.Context,
    *,
    base_path: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Set up this folder.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take the defaults; install no service.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Set up a base path: folders, settings, agents.

    Shows what it would write, then asks; what exists is left as it is.
    """
    invocation: Invocation = context.obj
    invocation.base_path = base_path or invocation.base_path
    if not (yes or sys.stdin.isatty()):
        raise UsageError("nothing was set up: nobody is here to agree", hint="add --yes")
    from tinyscheduler.cli.service import configure

    config = configure(invocation)
    found = look_around(invocation, config)
    if not json:
        emit("\n".join(_lines(found, config, invocation)))
    if not yes and (found.folders or found.files) and not ask("Make this?"):
        invocation.note("nothing was written")
        return EXIT_INTERRUPTED
    report = _make(invocation, config, found)
    for problem in report.errors:
        invocation.fail(f"{problem.sentence}" + (f" (fix: {problem.fix})" if problem.fix else ""))
    if not yes:
        _offer_service(invocation)
    following = _next_commands(config, invocation)
    if json:
        emit_json(
            base_path=config.paths.base,
            folders=list(found.folders),
            files=[one.path for one in found.files],
            left=list(found.left),
            agents=[one.name for one in found.agents],
            next=following,
        )
    else:
        emit("\n".join(["", "next:", *(f"  {command}" for command in following)]))
    return EXIT_CONFIG if report.errors else EXIT_DONE


def look_around(invocation: Invocation, config: Config) -> SetUp:
    """Say what is missing here, and which agent programs this machine has."""
    from tinyscheduler.config.inputs import ENV_FILE_NAMES
    from tinyscheduler.config.validate import missing_folders

    base = config.paths.base
    agents = tuple(one for one in KNOWN_AGENTS if shutil.which(one.name) is not None)
    files, left = [], []
    settings = [os.path.join(base, name) for name in ENV_FILE_NAMES]
    existing = next((path for path in settings if os.path.lexists(path)), None)
    if existing is None:
        files.append(NewFile(path=settings[0], text=settings_text(agents)))
    else:
        left.append(existing)
    agents_file = config.paths.agents_file
    if os.path.lexists(agents_file):
        left.append(agents_file)
    else:
        files.append(NewFile(path=agents_file, text=agents_text(agents)))
    return SetUp(
        folders=missing_folders(invocation.overrides, os.environ),
        files=tuple(files),
        left=tuple(left),
        agents=agents,
    )


def settings_text(agents: tuple[KnownAgent, ...]) -> str:
    """Return a settings file in which nothing is set yet."""
    from tinyscheduler.config.settings import Settings, default_text, variable_of

    parts = [
        "# TinyScheduler's settings for this folder. Uncomment what you change;",
        "# `tinyscheduler config` shows all there are, and docs/reference/configuration.md",
        "# explains them.",
    ]
    for name in _COMMON_SETTINGS:
        description = Settings.model_fields[name].description
        parts += ["", f"# {description}", f"#{variable_of(name)}={default_text(name)}"]
    keys = dict.fromkeys(key for one in agents for key in one.key.split(", "))
    if keys:
        parts += ["", "# What agents may see; agents.yaml names it under env:."]
        parts += [f"#{key}=" for key in keys]
    return "\n".join(parts) + "\n"


def agents_text(agents: tuple[KnownAgent, ...]) -> str:
    """Return an agents file for the programs that were found."""
    from tinyscheduler.config.validate import DEFAULT_AGENTS_FILE

    if not agents:
        return DEFAULT_AGENTS_FILE
    parts = [
        "# Agents: how tasks are run, and how many at once.",
        "# `tinyscheduler validate-config` checks this file;",
        "# docs/reference/configuration.md explains every key.",
        "agents:",
        "  # The built-in agent of `tinyscheduler add -- COMMAND`: runs the command itself.",
        "  shell:",
        "    limit: 2",
    ]
    for one in agents:
        parts += [
            "",
            f"  # tinyscheduler add --agent {one.name} --prompt 'what to do'",
            f"  {one.name}:",
            "    limit: 1                # attempts at once",
            f"    command: {one.command}",
            f"    profile: {one.name}",
            f"    env: [{one.key}]    # may be seen, if set",
            "    max_runtime: 1h",
        ]
    return "\n".join(parts) + "\n"


def _make(invocation: Invocation, config: Config, found: SetUp) -> ValidationReport:
    """Write what is missing; what came to be there meanwhile is left as it is."""
    from tinyscheduler.app.place import make_state_folder
    from tinyscheduler.config.validate import fix_config
    from tinyscheduler.errors import ConfigError

    for one in found.files:
        try:
            os.makedirs(os.path.dirname(one.path), mode=0o700, exist_ok=True)
            _write(one)
        except FileExistsError:
            invocation.note(f"{one.path} is there by now, and was left as it is")
        except OSError as error:
            raise ConfigError(
                f"cannot write {one.path}: {error.strerror}",
                hint="choose a folder that you may write to: --base-path FOLDER",
            ) from error
    report = fix_config(invocation.overrides, os.environ).report
    make_state_folder(config)
    return report


def _write(one: NewFile) -> None:
    """Write a file that is not there yet, whole or not at all: half of one would be kept."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(one.path, flags, _FILE_MODE)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(one.text)
    except OSError:
        os.unlink(one.path)
        raise


def _lines(found: SetUp, config: Config, invocation: Invocation) -> list[str]:
    page = invocation.page
    lines = [f"base path: {escape(config.paths.base)}"]
    names = ", ".join(one.name for one in found.agents) or "none"
    lines.append(f"agent programs on PATH: {names}")
    lines += [page.paint(f"make folder {escape(folder)}", Ink.BOLD) for folder in found.folders]
    for one in found.files:
        lines.append(page.paint(f"write {escape(one.path)}", Ink.BOLD))
        lines += [f"    {escape(line)}".rstrip() for line in one.text.splitlines()]
    lines += [f"leave {escape(path)} as it is" for path in found.left]
    return lines


def _offer_service(invocation: Invocation) -> None:
    from tinyscheduler.cli.service import offer

    if ask("Make ticks happen by themselves? What would be written is shown first."):
        offer(invocation)


def _next_commands(config: Config, invocation: Invocation) -> list[str]:
    """Return what to type now; with the base path, unless it is found without it."""
    from tinyscheduler.config.load import load_config
    from tinyscheduler.config.overrides import Overrides

    is_default = load_config(Overrides(), write_cache=False).paths.base == config.paths.base
    program = [program_here(), *([] if is_default else ["--base-path", config.paths.base])]
    import shlex

    typed = shlex.join(program)
    del invocation
    return [f"{typed} add -- echo hello", f"{typed} run", f"{typed} status"]
