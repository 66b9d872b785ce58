"""``edit``: change what a task asks for, before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tinyscheduler.cli import add as adding
from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.parsing import whole_number
from tinyscheduler.cli.render import emit_json, format_table
from tinyscheduler.cli.standing import check_task_ids, spec_json, time_or_none
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import UsageError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.tasks import PriorityClass, TaskSpec

# What an option is called where it is unset, and the field behind it.
FIELD_OF = {
    "agent": "agent",
    "queue": "queue",
    "title": "title",
    "prompt": "prompt",
    "recipe": "recipe",
    "priority": "priority",
    "class": "priority_class",
    "gpus": "gpus",
    "vram": "vram_bytes",
    "memory": "memory_bytes",
    "model": "model",
    "seed": "seed",
    "tenant": "tenant",
    "project": "project",
    "max-runtime": "max_runtime_s",
    "max-turns": "max_turns",
    "max-tokens": "max_tokens",
    "max-cost": "max_cost_usd",
    "max-attempts": "max_attempts",
    "after": "after",
    "not-before": "not_before",
    "label": "labels",
    "cwd": "cwd",
    "env": "environment",
    "command": "command",
}
UNSETTABLE = tuple(FIELD_OF)
_LONGEST_TOLD = 60

_Id = Annotated[str, typer.Argument(metavar="ID", help="The task.")]
_Command = Annotated[
    list[str] | None, typer.Argument(metavar="COMMAND", help="Another command, behind --.")
]
Priority = Annotated[
    int | None, typer.Option(parser=whole_number(), metavar="N", help="Higher goes first.")
]
Class = Annotated[
    PriorityClass | None, typer.Option("--class", help="Whether somebody waits for it.")
]
Gpus = Annotated[
    int | None, typer.Option(parser=whole_number(least=0), metavar="N", help="GPUs it needs.")
]
_Label = Annotated[
    list[str] | None, typer.Option(metavar="K=V", help="A label to add or to change.")
]
_Env = Annotated[
    list[str] | None, typer.Option(metavar="K=V", help="A variable to add or to change.")
]
_Cwd = Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to run.")]
_Unset = Annotated[
    list[str] | None,
    typer.Option(metavar="OPTION", help="Take back what this option said; repeatable."),
]


def edit(
    context: typer.Context,
    task_id: _Id,
    command: _Command = None,
    *,
    agent: adding.Agent = None,
    queue: adding.QueueName = None,
    title: adding.Title = None,
    prompt: adding.Prompt = None,
    prompt_file: adding.PromptFile = None,
    recipe: adding.Recipe = None,
    priority: Priority = None,
    priority_class: Class = None,
    gpus: Gpus = None,
    vram: adding.Vram = None,
    memory: adding.Memory = None,
    model: adding.Model = None,
    seed: adding.Seed = None,
    tenant: adding.Tenant = None,
    project: adding.Project = None,
    max_runtime: adding.MaxRuntime = None,
    max_turns: adding.MaxTurns = None,
    max_tokens: adding.MaxTokens = None,
    max_cost: adding.MaxCost = None,
    max_attempts: adding.MaxAttempts = None,
    after: adding.After = None,
    not_before: adding.NotBefore = None,
    label: _Label = None,
    cwd: _Cwd = None,
    env: _Env = None,
    unset: _Unset = None,
    json: adding.Json = False,
) -> int:
    """Change what a waiting, held or parked task asks for.

    Takes the options of `add`.  Labels and variables are merged into those there are;
    everything else takes the place of what was said before.
    """
    asked = dict(locals())
    invocation: Invocation = context.obj
    (task_id,) = check_task_ids([task_id])
    given = {
        name
        for name, value in asked.items()
        if name not in _NO_FIELDS and value not in (None, [], ())
    }
    dropped = _read_unset(unset or ())
    if not given and not dropped:
        raise UsageError("there is nothing to change", hint="`edit --help` lists what can be")
    before, after_it = _change(invocation, task_id, asked, given=given, dropped=dropped)
    told = differences(before, after_it)
    if json:
        emit_json(task_id=task_id, changed=told)
    else:
        invocation.answer("\n".join(_lines(invocation, task_id, told)))
    return 0


edit.command_class = adding.add.command_class  # type: ignore[attr-defined]  # read where the command is built
_NO_FIELDS = {"context", "task_id", "unset", "json"}


def differences(before: TaskSpec, after: TaskSpec) -> list[dict[str, Any]]:
    """Return the fields that differ, as JSON tells them; secrets stay secret."""
    old, new = _as_json(before), _as_json(after)
    told = [
        {"field": name, "before": old[name], "after": new[name]}
        for name in old
        if old[name] != new[name]
    ]
    hidden = before.environment != after.environment and old["env"] == new["env"]
    if hidden:
        told.append({"field": "env", "before": old["env"], "after": new["env"]})
    return told


def _as_json(spec: TaskSpec) -> dict[str, Any]:
    return {
        "agent": spec.agent,
        "queue": spec.queue,
        "priority": spec.priority,
        "not_before": time_or_none(spec.not_before),
        **spec_json(spec),
    }


def _read_unset(names: Iterable[str]) -> set[str]:
    found = set()
    for text in names:
        name = text.removeprefix("--").replace("_", "-")
        if name not in FIELD_OF:
            raise UsageError(
                f"--unset {quote(text)} is no option of add", hint=did_you_mean(name, FIELD_OF)
            )
        found.add(FIELD_OF[name])
    return found


def _change(
    invocation: Invocation,
    task_id: str,
    asked: dict[str, Any],
    *,
    given: set[str],
    dropped: set[str],
) -> tuple[TaskSpec, TaskSpec]:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.kicks import kick
    from tinyscheduler.app.queue import announce, open_queue

    config = invocation.configure_strictly()
    if not os.path.lexists(config.paths.database):
        # Nothing was ever added, and nothing is made here: the answer is that there is no task.
        open_queue(config, Access.READ).tasks.task(task_id)
    queue = open_queue(config, Access.WRITE)
    granter = adding.granter_for(config, queue)
    wish = adding.wish_of({**asked, **{name: None for name in asked if name not in given}})

    def amended(spec: TaskSpec) -> TaskSpec:
        return granter.amend(spec, wish, dropped=dropped)

    before, after = queue.tasks.edit(task_id, amended)
    if before != after:
        announce(queue, EventName.TASK_EDITED, [task_id])
        kick(config)
    return before, after


def _lines(invocation: Invocation, task_id: str, told: list[dict[str, Any]]) -> list[str]:
    if not told:
        return [f"task {task_id} stays as it is"]
    rows = [[one["field"], _short(one["before"]), _short(one["after"])] for one in told]
    table = format_table(["FIELD", "BEFORE", "NOW"], rows, invocation.page)
    return [f"task {task_id} is changed", *table]


def _short(value: object) -> str:
    if value in (None, [], {}, ""):
        return "-"
    if isinstance(value, list):
        text = " ".join(map(str, value))
    elif isinstance(value, dict):
        text = " ".join(f"{key}={one}" for key, one in value.items())
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_TOLD else text[: _LONGEST_TOLD - 1] + "…"
