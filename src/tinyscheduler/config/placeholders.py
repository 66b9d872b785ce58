"""Which ``{words}`` of a command template stand for something, and what becomes of them?"""

from __future__ import annotations

import re
from collections.abc import Mapping

AGENT_PLACEHOLDERS = frozenset(
    {
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
    }
)
MODEL_PLACEHOLDERS = frozenset({"model_file", "port", "host", "model"})

# ${NAME} belongs to a shell and {{name}} is how a literal {name} is written; anything
# else in braces, such as JSON or awk programs with spaces, is no placeholder at all.
_PLACEHOLDER = re.compile(r"\{\{(?P<literal>[a-z_]+)\}\}|(?<!\$)\{(?P<name>[a-z_]+)\}")


def placeholders_in(item: str) -> tuple[str, ...]:
    """Return the names of the placeholders in one item of a command template.

    >>> placeholders_in("--id={task_id} ${HOME} {{cwd}}")
    ('task_id',)
    """
    return tuple(match["name"] for match in _PLACEHOLDER.finditer(item) if match["name"])


def substitute(item: str, values: Mapping[str, str]) -> str:
    """Return one item of a command template with its placeholders replaced, once.

    What a value holds is never looked at again: a prompt that says ``{cwd}`` stays so.
    Raises KeyError for a placeholder without a value.

    >>> substitute("{task_id}: {{task_id}} ${task_id}", {"task_id": "7"})
    '7: {task_id} ${task_id}'
    """
    return _PLACEHOLDER.sub(
        lambda match: values[match["name"]] if match["name"] else f"{{{match['literal']}}}", item
    )
