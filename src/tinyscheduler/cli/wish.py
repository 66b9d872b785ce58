"""May this be added?  From what somebody asked for to a `TaskSpec` that can be run."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.config.units import parse_duration_s, parse_size_bytes
from tinyscheduler.core.command_line import MOST_ARGUMENT_BYTES, Unfilled, build_argv, uses
from tinyscheduler.errors import UsageError
from tinyscheduler.model.config import StdinSource
from tinyscheduler.model.tasks import PriorityClass, TaskSpec
from tinyscheduler.values import dataclass, fields, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tinyscheduler.model.config import AgentProfile, Config

DEFAULT_AGENT = "shell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for, in the words it was asked in; None means "not said"."""

    agent: str | None = None
    queue: str | None = None
    title: str | None = None
    command: tuple[str, ...] = ()
    prompt: str | None = None
    recipe: str | None = None
    priority: int | None = None
    priority_class: PriorityClass | None = None
    gpus: int | None = None
    vram: str | int | None = None
    memory: str | int | None = None
    model: str | None = None
    seed: int | None = None
    tenant: str | None = None
    project: str | None = None
    max_runtime: str | float | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_attempts: int | None = None
    after: tuple[str, ...] = ()
    not_before: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Granter:
    """Turns wishes into specs, under one configuration and as seen from one folder.

    ``folder`` is None where the current one was removed: only what needs none is granted
    then.  ``spell`` writes a field's name as whoever wished it spells it.
    """

    config: Config
    folder: str | None
    now: datetime
    spell: Callable[[str], str]

    def grant(self, wish: Wish) -> TaskSpec:
        """Return the spec; UsageError for what could never be run as asked."""
        if not (wish.command or wish.prompt is not None or wish.agent or wish.queue):
            raise UsageError(
                "there is nothing to run",
                hint=f"give a {self.spell('command')}, or an agent and a prompt",
            )
        agent_name = wish.agent
        if agent_name is None and wish.queue is None:
            if not wish.command:
                raise UsageError(
                    f"a {self.spell('prompt')} needs an agent to read it",
                    hint=f"name one with {self.spell('agent')}: {self._known_agents()}",
                )
            agent_name = DEFAULT_AGENT
        agents = self._find_agents(agent_name, wish.queue)
        spec = replace(self._plain_spec(wish), agent=agent_name)
        spec = replace(spec, cwd=self._find_cwd(wish, agents))
        self._check_recipe(wish.recipe)
        _refuse_faults(agents, spec)
        return spec

    def amend(self, spec: TaskSpec, wish: Wish, *, dropped: Collection[str] = ()) -> TaskSpec:
        """Return the spec with what was wished in place of what it said; fields as in `grant`.

        ``dropped`` are fields that say nothing any more.  UsageError for what could then
        never be run.
        """
        silent: dict[str, Any] = {
            one.name: one.default for one in fields(spec) if one.name in dropped
        }
        spec = replace(spec, **silent)
        plain = self._plain_spec(wish)
        changes: dict[str, Any] = {
            one.name: getattr(plain, one.name)
            for one in fields(plain)
            if getattr(plain, one.name) != one.default
        }
        if wish.agent is not None:
            changes["agent"] = wish.agent
        for name in ("labels", "environment"):
            if name in changes:
                changes[name] = tuple({**dict(getattr(spec, name)), **dict(changes[name])}.items())
        # What may be wished for may also be what is so by default.
        for name in ("priority", "priority_class", "gpus"):
            wished = getattr(wish, name)
            if wished is not None:
                changes[name] = wished
        if wish.title is not None and _is_blank(wish.title):
            changes["title"] = None
        changed = replace(spec, **changes)
        if changed.agent is None and changed.queue is None:
            raise UsageError(
                "the task would have neither an agent nor a queue",
                hint=f"name one with {self.spell('agent')} or {self.spell('queue')}",
            )
        agents = self._find_agents(changed.agent, changed.queue)
        if wish.cwd is not None:
            changed = replace(changed, cwd=self._find_cwd(wish, agents))
        self._check_recipe(wish.recipe)
        _refuse_faults(agents, changed)
        return changed

    def _known_agents(self) -> str:
        return ", ".join(agent.name for agent in self.config.agents)

    def _find_agents(self, name: str | None, queue: str | None) -> list[AgentProfile]:
        if name is not None:
            agent = self.config.agent(name)
            if agent is None:
                names = [agent.name for agent in self.config.agents]
                raise UsageError(
                    f"{self.spell('agent')} {quote(name)} is not configured",
                    hint=f"{_fix(name, names)}; agents are defined in"
                    f" {self.config.paths.agents_file}",
                )
            return [agent]
        agents = [agent for agent in self.config.agents if agent.queue == queue]
        if not agents:
            queues = {agent.queue for agent in self.config.agents}
            raise UsageError(
                f"no agent serves {self.spell('queue')} {quote(queue)}",
                hint=_fix(queue or "", sorted(queues)),
            )
        return agents

    def _plain_spec(self, wish: Wish) -> TaskSpec:
        return TaskSpec(
            queue=wish.queue,
            title=None if _is_blank(wish.title) else wish.title,
            command=wish.command,
            prompt=wish.prompt,
            recipe=wish.recipe,
            priority=wish.priority or 0,
            priority_class=wish.priority_class or PriorityClass.BATCH,
            gpus=wish.gpus or 0,
            vram_bytes=self._size("vram", wish.vram),
            memory_bytes=self._size("memory", wish.memory),
            model=wish.model,
            seed=wish.seed,
            tenant=wish.tenant,
            project=wish.project,
            max_runtime_s=self._runtime(wish.max_runtime),
            max_turns=wish.max_turns,
            max_tokens=wish.max_tokens,
            max_cost_usd=wish.max_cost,
            max_attempts=wish.max_attempts,
            after=wish.after,
            not_before=self._moment(wish.not_before),
            labels=wish.labels,
            environment=wish.env,
            is_held=wish.hold,
        )

    def _size(self, name: str, value: str | int | None) -> int | None:
        if value is None:
            return None
        try:
            return parse_size_bytes(value)
        except ValueError as error:
            raise self._wrong(name, value, error) from error

    def _runtime(self, value: str | float | None) -> float | None:
        if value is None:
            return None
        try:
            seconds = parse_duration_s(value)
        except ValueError as error:
            raise self._wrong("max_runtime", value, error) from error
        if seconds <= 0:
            raise UsageError(
                f"{self.spell('max_runtime')} must be longer than 0 seconds",
                hint="leave it out for the agent's own limit, or write it as 90s, 15m, 2h or 1d",
            )
        return seconds

    def _moment(self, text: str | None) -> datetime | None:
        """Read a time, or a duration from now; a time without a zone is meant here."""
        if text is None:
            return None
        try:
            return self.now + timedelta(seconds=parse_duration_s(text))
        except (ValueError, OverflowError):
            pass
        try:
            return datetime.fromisoformat(text.strip()).astimezone()
        except (ValueError, OverflowError) as error:
            raise UsageError(
                f"{self.spell('not_before')} {quote(text)} is no time",
                hint="write it as 2026-01-31T18:00, 2026-01-31T18:00:00Z, or 15m from now",
            ) from error

    def _wrong(self, name: str, value: object, error: ValueError) -> UsageError:
        form = "90s, 15m, 2h or 1d" if name == "max_runtime" else "512M or 14G"
        return UsageError(f"{self.spell(name)} {quote(value)}: {error}", hint=f"write it as {form}")

    def _find_cwd(self, wish: Wish, agents: list[AgentProfile]) -> str | None:
        if wish.cwd is None:
            # An agent with a folder of its own is at home there.
            return None if any(agent.cwd for agent in agents) else self._find_folder()
        path = os.path.expanduser(wish.cwd)
        if wish.cwd and not os.path.isabs(path):
            path = os.path.join(self._find_folder(), path)
        if not wish.cwd or not os.path.isdir(path):
            raise UsageError(
                f"{self.spell('cwd')} {quote(wish.cwd)} is not a folder",
                hint="the command would start there; create it first",
            )
        return os.path.normpath(path)

    def _find_folder(self) -> str:
        if self.folder is None:
            raise UsageError(
                "the current folder does not exist any more",
                hint=f"change to another, or give an absolute {self.spell('cwd')}",
            )
        return self.folder

    def _check_recipe(self, recipe: str | None) -> None:
        if recipe is None:
            return
        folder = os.path.realpath(self.config.paths.recipes)
        hint = f"name a .yaml or .yml file below {folder}"
        if "\0" in recipe:
            raise UsageError(f"{self.spell('recipe')} {quote(recipe)} is no path", hint=hint)
        path = os.path.realpath(os.path.join(folder, recipe))
        if not path.startswith(folder + os.sep):
            fault = f"is outside the recipes folder {folder}"
        elif not path.endswith((".yaml", ".yml")):
            fault = "is not a .yaml or .yml file"
        elif not os.path.isfile(path):
            fault = f"does not exist in {folder}"
        else:
            return
        raise UsageError(f"{self.spell('recipe')} {quote(recipe)} {fault}", hint=hint)


def _is_blank(title: str | None) -> bool:
    """Whether a title says nothing: a script's variable may be unset."""
    return not (title or "").strip()


def _refuse_faults(agents: list[AgentProfile], spec: TaskSpec) -> None:
    faults = [fault for agent in agents if (fault := fault_of(agent, spec)) is not None]
    # Where several agents serve a queue, one that can run it is enough.
    if len(faults) == len(agents):
        raise faults[0]


def fault_of(agent: AgentProfile, spec: TaskSpec) -> UsageError | None:
    """Return why this agent could never run the task, or None.

    The command line is built as the launcher would build it, with made-up values for
    what only an attempt knows.
    """
    if spec.prompt is not None:
        fault = _fault_of_prompt(agent, spec.prompt, spec)
        if fault is not None:
            return fault
    elif agent.stdin is StdinSource.PROMPT:
        return UsageError(
            f"agent {agent.name} reads a prompt, and there is none",
            hint="give one with --prompt or --prompt-file",
        )
    if not agent.command and not spec.command:
        return UsageError(
            f"agent {agent.name} runs the command it is given, and there is none",
            hint=f"write it behind --: `tinyscheduler add --agent {agent.name} -- COMMAND`",
        )
    if agent.command and spec.command and not uses(agent, "command"):
        return UsageError(
            f"agent {agent.name} has a command of its own and takes no other",
            hint="give it a --prompt, or use {command} in the agent's command",
        )
    max_turns = spec.max_turns or agent.max_turns
    argv = build_argv(
        agent,
        spec,
        {
            "task_id": "1",
            "attempt": "1",
            "agent": agent.name,
            "recipe": spec.recipe or f"{agent.name}.yaml",
            "prompt": spec.prompt,
            "prompt_file": None if spec.prompt is None else "prompt",
            "cwd": spec.cwd or agent.cwd or "/",
            "model": spec.model or agent.model,
            "model_endpoint": "",
            "max_turns": None if max_turns is None else str(max_turns),
            "max_runtime_sec": "1",
            "gpu_uuids": "",
            "log_file": "log",
        },
    )
    if not isinstance(argv, Unfilled):
        return None
    ways = [_WAYS_TO_FILL[name] for name in argv.missing if name in _WAYS_TO_FILL]
    return UsageError(argv.words, hint=" and ".join(dict.fromkeys(ways)) or _READ_ABOUT_AGENTS)


_READ_ABOUT_AGENTS = "change the agent's command, or what the task brings"
_WAYS_TO_FILL = {
    "prompt": "give it a --prompt or a --prompt-file",
    "prompt_file": "give it a --prompt or a --prompt-file",
    "command": "write a command behind --",
    "model": "give it a --model, or set one in the agents file",
    "max_turns": "give it --max-turns, or set them in the agents file",
}


def _fault_of_prompt(agent: AgentProfile, prompt: str, spec: TaskSpec) -> UsageError | None:
    if not prompt.strip():
        return UsageError("the prompt is empty", hint="leave it out, or say what to do")
    if spec.command and not uses(agent, "command"):
        return UsageError(
            "a prompt and a command cannot be given together",
            hint="only an agent whose command mentions {command} can use both",
        )
    if not agent.command:
        return UsageError(
            f"agent {agent.name} runs a command and reads no prompt",
            hint=f"give it a command: `tinyscheduler add --agent {agent.name} -- COMMAND`",
        )
    if not uses(agent, "prompt"):
        return None
    by_file = "let the agent's command use {prompt_file} instead of {prompt}, or set stdin: prompt"
    size = len(prompt.encode(errors="surrogateescape"))
    if size > MOST_ARGUMENT_BYTES:
        return UsageError(
            f"the prompt has {size} bytes, and agent {agent.name} takes it as an argument,"
            f" which may have {MOST_ARGUMENT_BYTES}",
            hint=by_file,
        )
    if "\0" in prompt:
        return UsageError("the prompt holds a NUL, which no argument can", hint=by_file)
    return None


def _fix(name: str, known: list[str]) -> str:
    """Return the nearest known name, and all of them where they are few."""
    nearest = did_you_mean(name, known)
    if nearest.startswith("known"):
        return nearest
    return f"{nearest} known: {', '.join(sorted(known))}"
