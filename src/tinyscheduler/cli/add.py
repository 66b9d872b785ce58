"""``add``: put tasks into the queue."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.options import Annotated, argument, option
from tinyscheduler.cli.parsing import count, dollars, pairs, whole_number
from tinyscheduler.cli.render import emit, emit_json
from tinyscheduler.cli.wish import Granter, Wish
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import EXIT_FAILED, NotFoundError, QueueFullError, UsageError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.tasks import MOST_TURNS, PriorityClass, TaskSpec, TaskState
from tinyscheduler.values import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer

    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.config import Config

MOST_PROMPT_BYTES = 16 << 20


def spread_after(arguments: list[str]) -> list[str]:
    """Write ``--after 1 2`` as ``--after 1 --after 2``: numbers, up to anything else.

    >>> spread_after(["--after", "1", "2", "--", "sleep", "3"])
    ['--after', '1', '--after', '2', '--', 'sleep', '3']
    """
    spread: list[str] = []
    rest = iter(arguments)
    takes_more = False
    for text in rest:
        if text == "--":
            return [*spread, text, *rest]
        if takes_more and text.isdigit():
            spread += ["--after", text]
            continue
        spread.append(text)
        takes_more = text == "--after"
        if takes_more:
            spread += [value for value in (next(rest, None),) if value is not None]
    return spread


# `edit` takes the same options, where they mean the same.
_Text = str | None
_Command = Annotated[
    list[str] | None,
    argument(metavar="COMMAND", help="The command to run, best behind --.", is_behind=True),
]
Agent = Annotated[_Text, option(metavar="NAME", help="The agent that runs it.")]
QueueName = Annotated[_Text, option(metavar="NAME", help="The queue whose agents may run it.")]
Title = Annotated[_Text, option(metavar="TEXT", help="A name for people.")]
Prompt = Annotated[_Text, option(metavar="TEXT", help="What the agent is to do.")]
PromptFile = Annotated[
    _Text, option(metavar="FILE", help="Read the prompt from a file; - is stdin.")
]
Recipe = Annotated[_Text, option(metavar="FILE", help="A file in the recipes folder.")]
Priority = Annotated[int, option(parser=whole_number(), metavar="N", help="Higher goes first.")]
Class = Annotated[PriorityClass, option("--class", help="Whether somebody waits for it.")]
Gpus = Annotated[int, option(parser=whole_number(least=0), metavar="N", help="GPUs it needs.")]
Vram = Annotated[_Text, option(metavar="SIZE", help="VRAM it needs.")]
Memory = Annotated[_Text, option(metavar="SIZE", help="Memory it needs.")]
Model = Annotated[_Text, option(metavar="NAME", help="The model it needs.")]
Seed = Annotated[int | None, option(parser=whole_number(), metavar="N", help="Its random seed.")]
Tenant = Annotated[_Text, option(metavar="NAME", help="Whose quota it counts against.")]
Project = Annotated[_Text, option(metavar="NAME", help="What it belongs to.")]
MaxRuntime = Annotated[_Text, option(metavar="DURATION", help="End an attempt after this time.")]
MaxTurns = Annotated[
    int | None,
    option(parser=whole_number(least=1, most=MOST_TURNS), metavar="N", help="Turns per attempt."),
]
MaxTokens = Annotated[
    int | None, option(parser=count, metavar="N", help="Tokens per attempt, such as 200k.")
]
MaxCost = Annotated[
    float | None, option(parser=dollars, metavar="USD", help="Dollars per attempt.")
]
MaxAttempts = Annotated[
    int | None,
    option(parser=whole_number(least=1), metavar="N", help="Attempts before it is parked."),
]
After = Annotated[list[str] | None, option(metavar="ID...", help="Start once these are done.")]
NotBefore = Annotated[_Text, option(metavar="TIME", help="ISO 8601, or a duration from now.")]
Label = Annotated[list[str] | None, option(metavar="K=V", help="A label.")]
Cwd = Annotated[_Text, option(metavar="FOLDER", help="Where to run; this folder by default.")]
Env = Annotated[list[str] | None, option(metavar="K=V", help="A variable for the command.")]
_Hold = Annotated[bool, option("--hold", help="Do not start before `release`.")]
_From = Annotated[
    _Text,
    option(
        "--from", metavar="FILE", help="Add one task per JSON line; - is stdin.", is_plain=False
    ),
]
_Start = Annotated[bool, option("--start", help="Run one tick right after.")]
Json = Annotated[bool, option("--json", help="Print one JSON document.")]


def add(
    context: typer.Context,
    command: _Command = None,
    *,
    agent: Agent = None,
    queue: QueueName = None,
    title: Title = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    recipe: Recipe = None,
    priority: Priority = 0,
    priority_class: Class = PriorityClass.BATCH,
    gpus: Gpus = 0,
    vram: Vram = None,
    memory: Memory = None,
    model: Model = None,
    seed: Seed = None,
    tenant: Tenant = None,
    project: Project = None,
    max_runtime: MaxRuntime = None,
    max_turns: MaxTurns = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_attempts: MaxAttempts = None,
    after: After = None,
    not_before: NotBefore = None,
    label: Label = None,
    cwd: Cwd = None,
    env: Env = None,
    hold: _Hold = False,
    batch: _From = None,
    start: _Start = False,
    json: Json = False,
) -> int:
    """Add a task to the queue and print its id."""
    asked = dict(locals())
    if batch is not None:
        _refuse_beside_batch(context)
        return add_batch(context.obj, batch, start=start, as_json=json)
    return add_one(context.obj, wish_of(asked), start=start, as_json=json)


# What follows the command's name is the command's: `add ls -l` needs no `--`.
add.context_settings = {"allow_interspersed_args": False}  # type: ignore[attr-defined]  # read where the command is built
add.command_class = "tinyscheduler.cli.add_command:AddCommand"  # type: ignore[attr-defined]  # likewise
add.spread = spread_after  # type: ignore[attr-defined]  # likewise


def wish_of(asked: Mapping[str, Any], spell: Callable[[str], str] | None = None) -> Wish:
    """Return what the options ask for; ``asked`` holds them by their parameters' names.

    ``spell`` writes such a name as whoever asks spells it; as an option unless it is given.
    """
    spell = spell or spell_option
    given = {field.name: asked[field.name] for field in fields(Wish) if field.name in asked}
    given["command"] = tuple(asked["command"] or ())
    given["prompt"] = find_prompt(asked["prompt"], asked["prompt_file"], spell)
    given["after"] = tuple(
        # An empty text is no id, and told so: a script's variable may be unset.
        one
        for text in asked["after"] or ()
        for part in text.split(",")
        for one in part.split() or [part]
    )
    given["labels"] = pairs(spell("label"), asked["label"])
    given["env"] = pairs(spell("env"), asked["env"])
    return Wish(**given)


def add_one(invocation: Invocation, wish: Wish, *, start: bool, as_json: bool) -> int:
    """Add one task, print its id, and kick or start."""
    from tinyscheduler.app.queue import announce

    config = invocation.configure_writing()
    queue = _open(config)
    granter = granter_for(config, queue)
    spec = granter.grant(wish)
    (task_id,) = _add_all(queue, [(None, spec)])
    announce(queue, EventName.TASK_ADDED, [task_id])
    if as_json:
        state = TaskState.HELD if spec.is_held else TaskState.WAITING
        emit_json(task_id=task_id, state=state.value)
    else:
        emit(task_id)
    return _follow_up(invocation, config, start=start)


def add_batch(invocation: Invocation, name: str, *, start: bool, as_json: bool) -> int:
    """Add all tasks of a file in one transaction, print their ids, and kick or start."""
    from tinyscheduler.app.queue import announce
    from tinyscheduler.cli.batch import read_batch

    config = invocation.configure_writing()
    queue = _open(config)
    batch = read_batch(name, granter_for(config, queue, spell=lambda name: name))
    try:
        task_ids = _add_all(queue, batch.specs, places=batch.places)
    except (UsageError, NotFoundError) as error:
        raise type(error)(f"{error.what}; nothing was added", hint=error.hint) from error
    announce(queue, EventName.TASK_ADDED, task_ids)
    if as_json:
        emit_json(task_ids=task_ids)
    else:
        emit("\n".join(task_ids))
    return _follow_up(invocation, config, start=start)


def _add_all(
    queue: Queue,
    specs: Sequence[tuple[str | None, TaskSpec]],
    places: Sequence[str] = (),
) -> list[str]:
    """Add all or none; that the queue is full is told to whoever watches the events too."""
    try:
        return queue.tasks.add(specs, places=places)
    except QueueFullError as error:
        from tinyscheduler.app.queue import announce_event

        details = (("depth", error.depth), ("asked", error.more), ("limit", error.limit))
        announce_event(queue, EventName.BACKPRESSURE, details=details)
        raise


def spell_option(name: str) -> str:
    """Return a field's name as the command line spells it."""
    return name if name == "command" else "--" + name.replace("_", "-")


def _open(config: Config) -> Queue:
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.queue import open_queue

    return open_queue(config, Access.WRITE)


def granter_for(
    config: Config, queue: Queue, *, spell: Callable[[str], str] = spell_option
) -> Granter:
    """Return who turns wishes into specs, as seen from the current folder."""
    return Granter(config=config, folder=_current_folder(), now=queue.clock.now().wall, spell=spell)


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _follow_up(invocation: Invocation, config: Config, *, start: bool) -> int:
    """Wish for a tick, or run one where somebody asked for it and it may be run."""
    from tinyscheduler.app.kicks import kick

    kick(config)
    if not start:
        return 0
    from tinyscheduler.app.place import is_inside_attempt
    from tinyscheduler.app.ticks import run_once

    if is_inside_attempt(config, os.environ):
        invocation.note("inside an attempt nothing is started; a tick follows when it ends")
        return 0
    if config.dry_run:
        invocation.note("TINYSCHEDULER_DRY_RUN is set: nothing is started")
        return 0
    report = run_once(config)
    if report.locked:
        invocation.note(f"another tick is running ({report.holder}); it goes on with this task")
    for error in report.errors:
        invocation.fail(f"{error.where}: {error.message}")
    return EXIT_FAILED if report.errors else 0


def _refuse_beside_batch(context: typer.Context) -> None:
    allowed = {"batch", "start", "json"}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in allowed or source is None or source.name != "COMMANDLINE":
            continue
        spelt = "a command" if name == "command" else parameter.opts[0]
        raise UsageError(
            f"--from cannot be combined with {spelt}",
            hint="write it into the lines of the file",
        )


def find_prompt(prompt: str | None, path: str | None, spell: Callable[[str], str]) -> str | None:
    """Return the prompt that was given, as a text or by a file; ``spell`` names options."""
    if path is None:
        return prompt
    option = spell("prompt_file")
    if prompt is not None:
        raise UsageError(
            f"{spell('prompt')} and {option} cannot be given together",
            hint="leave out one of the two",
        )
    try:
        if path == "-":
            content = sys.stdin.buffer.read(MOST_PROMPT_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(MOST_PROMPT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{option}: cannot read {quote(path)}: {reason}",
            hint="name a file that you may read, or - for standard input",
        ) from error
    if len(content) > MOST_PROMPT_BYTES:
        raise UsageError(
            f"{option}: {quote(path)} is larger than {MOST_PROMPT_BYTES >> 20} MiB",
            hint="let the prompt name the file, and the agent read it",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{option}: {quote(path)} is not UTF-8 at byte {error.start + 1}",
            hint="save it as UTF-8",
        ) from error
