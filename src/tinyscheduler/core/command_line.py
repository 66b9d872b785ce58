"""Which argv runs a task?  Templates are filled item by item, never through a shell."""

from __future__ import annotations

from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.tasks import TaskSpec

PLACEHOLDERS = (
    "task_id",
    "attempt",
    "agent",
    "recipe",
    "prompt",
    "prompt_file",
    "command",
    "cwd",
    "model",
    "model_endpoint",
    "max_turns",
    "max_runtime_sec",
    "gpu_uuids",
    "log_file",
)
# One argument may be this long with its terminating NUL (execve(2), MAX_ARG_STRLEN).
MOST_ARGUMENT_BYTES = 131_071
# Of whose ends more is known than an exit code (core/profiles.py).
KNOWN_AGENTS = ("claude", "codex", "gemini", "goose")
# A regular expression, compiled at its first use.
_PLACEHOLDER = r"\{(" + "|".join(PLACEHOLDERS) + r")\}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfilled:
    """A command that cannot be built, and why; ``missing`` placeholders have no value."""

    words: str
    missing: tuple[str, ...] = ()


def build_argv(
    agent: AgentProfile, spec: TaskSpec, values: Mapping[str, str | None]
) -> tuple[str, ...] | Unfilled:
    """Return the argv of an attempt, or why there is none.

    Each item is filled in one pass, so what a value brings in is never filled again.
    Braces that name no placeholder stay as they are.
    """
    template = agent.command
    if not template:
        if not spec.command:
            return Unfilled(words=f"agent {agent.name} has no command, and the task brings none")
        return _check(spec.command)
    if spec.command and not uses(agent, "command"):
        return Unfilled(
            words=f"agent {agent.name} has a command of its own without {{command}}, "
            "so it cannot run the task's"
        )
    import re  # most ticks start nothing
    import shlex

    known = {**values, "command": shlex.join(spec.command) if spec.command else None}
    missing = sorted(
        {
            match.group(1)
            for item in template
            for match in re.finditer(_PLACEHOLDER, item)
            if known.get(match.group(1)) is None
        }
    )
    if missing:
        names = ", ".join(f"{{{name}}}" for name in missing)
        return Unfilled(
            words=f"the command of agent {agent.name} needs {names}, "
            "which neither the task nor the agent sets",
            missing=tuple(missing),
        )
    return _check(
        tuple(
            re.sub(_PLACEHOLDER, lambda match: known[match.group(1)] or "", item)
            for item in template
        )
    )


def uses(agent: AgentProfile, placeholder: str) -> bool:
    """Whether the agent's command mentions the placeholder."""
    return any(f"{{{placeholder}}}" in item for item in agent.command)


def budget_header(*, max_turns: int, max_runtime_s: float) -> str:
    """Return what an agent reads above its prompt of what it has for it.

    >>> print(budget_header(max_turns=40, max_runtime_s=1200), end="")
    [Budget: at most 40 turns and 20 minutes. What goes beyond is ended: report before.]
    <BLANKLINE>
    """
    minutes = max_runtime_s / 60
    time = f"{minutes:.0f} minutes" if minutes >= 2 else f"{max_runtime_s:g} seconds"  # noqa: PLR2004 - one minute is many seconds
    bounds = f"at most {max_turns} turns and {time}"
    return f"[Budget: {bounds}. What goes beyond is ended: report before.]\n\n"


def _check(argv: tuple[str, ...]) -> tuple[str, ...] | Unfilled:
    for item in argv:
        try:
            size = len(item.encode(errors="surrogateescape"))
        except UnicodeEncodeError:
            return Unfilled(words=f"an argument is not valid Unicode: {item[:40]!r}")
        if size > MOST_ARGUMENT_BYTES:
            return Unfilled(
                words=f"an argument of {size} bytes is longer than the {MOST_ARGUMENT_BYTES} "
                "bytes the kernel allows; pass long prompts by {prompt_file} or stdin"
            )
    return argv
