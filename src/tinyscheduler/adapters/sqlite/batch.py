"""May these tasks be added, and which of them waits for which?  Touches no database."""

from __future__ import annotations

import math
from datetime import UTC

from tinyscheduler.config.problems import quote
from tinyscheduler.errors import NotFoundError, UsageError
from tinyscheduler.model.tasks import MOST_TOKENS, MOST_TURNS
from tinyscheduler.values import dataclass, fields
from tinyscheduler.wording import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from tinyscheduler.model.tasks import TaskSpec

MAX_PROMPT_BYTES = 16 * 1024 * 1024
# The kernel refuses a longer single argument or variable (MAX_ARG_STRLEN, execve(2))...
MAX_ARGUMENT_BYTES = 128 * 1024 - 1
# ...and by default 2 MiB for all together; half is left to what the agent's profile adds.
MAX_ARGUMENTS_BYTES = 1024 * 1024
MAX_TEXT_BYTES = 4096  # any other single text: a name, a path, a title
MAX_LABELS_LENGTH = 64 * 1024
MAX_BLOCKERS = 1000
_SUMMARY_LENGTH = 120
_MAX_CYCLE_TOLD = 20
_INTEGER_LIMIT = 2**63
_ID_DIGITS = 18
# Everything else that is a number may be negative.
_LEAST = {
    "gpus": 0,
    "vram_bytes": 0,
    "memory_bytes": 0,
    "max_runtime_s": 0,
    "max_turns": 1,
    "max_tokens": 1,
    "max_attempts": 1,
}
_MOST = {"max_turns": MOST_TURNS, "max_tokens": MOST_TOKENS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One task to add: what it asks for, and whom it waits for.

    ``inside`` are places in the same batch, ``outside`` are rows that should exist.
    """

    spec: TaskSpec
    place: str
    inside: tuple[int, ...]
    outside: tuple[int, ...]


def row_id(task_id: str) -> int | None:
    """Return the row a task id names, or None if it cannot be one of ours.

    >>> [row_id(text) for text in ("7", "07", "-7", "x", "9" * 40)]
    [7, None, None, None, None]
    """
    is_number = task_id.isascii() and task_id.isdigit() and len(task_id) <= _ID_DIGITS
    return int(task_id) if is_number and task_id[0] != "0" else None


def plan_batch(
    specs: Sequence[tuple[str | None, TaskSpec]], places: Sequence[str]
) -> tuple[Addition, ...]:
    """Check every task by itself, and resolve the keys of the batch.

    Raises UsageError or NotFoundError naming the place of the first fault.
    """
    keys: dict[str, int] = {}
    named = [places[index] if index < len(places) else "" for index in range(len(specs))]
    for index, (key, spec) in enumerate(specs):
        check_spec(spec, named[index])
        if key is not None and keys.setdefault(key, index) != index:
            raise UsageError(
                _at(named[index], f"the key {key!r} is used twice"),
                hint="give each line of a batch its own key",
            )
    additions = tuple(_resolve(spec, named[index], keys) for index, (_, spec) in enumerate(specs))
    _refuse_cycle(additions, [key for key, _ in specs])
    return additions


def summarise(spec: TaskSpec) -> str:
    """Say in one short line what the task is.

    >>> from tinyscheduler.model.tasks import TaskSpec
    >>> summarise(TaskSpec(command=("echo", "two words")))
    "echo 'two words'"
    >>> summarise(TaskSpec(agent="coder"))
    '(coder)'
    """
    import shlex  # ticks only look at tasks

    who = spec.agent or spec.queue
    asked = spec.title or shlex.join(spec.command) or spec.prompt or spec.recipe
    return one_line((asked or (f"({who})" if who else "")).strip(), longest=_SUMMARY_LENGTH)


def _at(place: str, fault: str) -> str:
    return f"{place}: {fault}" if place else fault


def _resolve(spec: TaskSpec, place: str, keys: dict[str, int]) -> Addition:
    inside: list[int] = []
    outside: list[int] = []
    for name in dict.fromkeys(spec.after):
        row = row_id(name)
        if name in keys:
            inside.append(keys[name])
        elif row is not None:
            outside.append(row)
        else:
            raise missing_blocker(name, place)
    return Addition(spec=spec, place=place, inside=tuple(inside), outside=tuple(outside))


def missing_blocker(name: str, place: str) -> NotFoundError:
    """Return the error for an ``after`` that names nothing."""
    return NotFoundError(
        _at(place, f"there is no task {name!r} to wait for"),
        hint="name existing tasks, or keys of the same batch",
    )


def _refuse_cycle(additions: Sequence[Addition], keys: Sequence[str | None]) -> None:
    # Depth first without recursion: a batch may be one chain of a hundred thousand.
    ended: set[int] = set()
    for start in range(len(additions)):
        path: dict[int, Iterator[int]] = {}
        current: int | None = None if start in ended else start
        while current is not None:
            if current not in path:
                path[current] = iter(additions[current].inside)
            following = next((one for one in path[current] if one not in ended), None)
            if following is None:
                ended.add(current)
                del path[current]
                current = next(reversed(path), None)
            elif following in path:
                trail = list(path)
                loop = [*trail[trail.index(following) :], following]
                names = [keys[one] or "" for one in loop]
                if len(names) > _MAX_CYCLE_TOLD:
                    names[_MAX_CYCLE_TOLD // 2 : -_MAX_CYCLE_TOLD // 2] = ["…"]
                words = " after ".join(names)
                raise UsageError(
                    _at(additions[loop[0]].place, f"these tasks wait for each other: {words}"),
                    hint="take one of these `after` out",
                )
            else:
                current = following


def check_spec(spec: TaskSpec, place: str = "") -> None:
    """Raise UsageError for what no program could be given, or a row cannot hold.

    ``place`` is where it was asked for, such as a line of a file.
    """
    for fault in _faults(spec):
        hint = next((fix for words, fix in _FIXES.items() if words in fault), _SHORTEN)
        raise UsageError(_at(place, fault), hint=hint)


# By words of the fault; what is not here is too long.
_FIXES = {
    "empty name": "write the program first: add -- PROGRAM ARGUMENT...",
    "is empty": "leave it out, or give it a name",
    "variable of the name": "write variables as NAME=VALUE",
    "cwd is not valid Unicode": "run it in another folder with --cwd, or rename this one in UTF-8",
    "not valid Unicode": "write it as UTF-8",
    "NUL character": "take the NUL out, or put the text into a prompt or a file",
    "out of range": "give it a number that makes sense",
    "time zone": "write it as 2026-01-31T18:00:00Z",
    "are set for each attempt": "choose another name",
    "it waits for": "let a task of its own wait for some of them",
}
_SHORTEN = "shorten it, or put it into a prompt or a file"


def _faults(spec: TaskSpec) -> Iterator[str]:
    yield from _argument_faults(spec)
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, str):
            limit = MAX_PROMPT_BYTES if field.name == "prompt" else MAX_TEXT_BYTES
            yield from _text_faults(field.name, value, limit=limit)
        elif isinstance(value, int | float):
            yield from _number_faults(field.name, value)
    texts = [text for pair in spec.labels for text in pair]
    for text in texts:
        yield from _text_faults("a label", text, limit=MAX_TEXT_BYTES)
    if sum(map(len, texts)) > MAX_LABELS_LENGTH:
        yield f"the labels have more than {MAX_LABELS_LENGTH} characters together"
    if spec.not_before is not None and not _is_storable(spec.not_before):
        yield f"not_before {spec.not_before.isoformat()} has no time zone, or is out of range"
    if len(spec.after) > MAX_BLOCKERS:
        yield f"it waits for {len(spec.after)} tasks; at most {MAX_BLOCKERS} are possible"


def _argument_faults(spec: TaskSpec) -> Iterator[str]:
    total = 0
    variables = [f"{name}={value}" for name, value in spec.environment]
    for what, texts in (("command", spec.command), ("environment", variables)):
        for text in texts:
            yield from _text_faults(f"one part of the {what}", text, limit=MAX_ARGUMENT_BYTES)
            total += len(text.encode(errors="replace")) + 1
    if total > MAX_ARGUMENTS_BYTES:
        yield (
            f"command and environment have {total} bytes together; {MAX_ARGUMENTS_BYTES} are"
            " possible (a prompt has room for more)"
        )
    for name, _ in spec.environment:
        if not name or "=" in name:
            yield f"the environment has a variable of the name {name!r}"
        if name.startswith("TINYSCHEDULER_"):
            # Processes are told apart by some of these, and a command learns who it is.
            yield f"the environment sets {name}; TINYSCHEDULER_ variables are set for each attempt"
    if spec.command and not spec.command[0]:
        yield "the command has an empty name"


def _text_faults(name: str, text: str, *, limit: int) -> Iterator[str]:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        yield f"{name} is not valid Unicode: {quote(text[:40])}"
        return
    if "\0" in text and name != "prompt":
        yield f"{name} holds a NUL character, which no program can be given: {text[:40]!r}"
    if size > limit:
        yield f"{name} has {size} bytes; at most {limit} are possible"
    if not text and name in {"agent", "queue"}:
        yield f"{name} is empty"


def _number_faults(name: str, number: float) -> Iterator[str]:
    least = _LEAST.get(name, -_INTEGER_LIMIT)
    if not (math.isfinite(number) and least <= number < _INTEGER_LIMIT):
        yield f"{name} is {number}, which is out of range"
    elif number > _MOST.get(name, _INTEGER_LIMIT):
        yield f"{name} is {number}; at most {_MOST[name]} are possible"


def _is_storable(moment: datetime) -> bool:
    try:
        return moment.tzinfo is not None and moment.astimezone(UTC) is not None
    except OverflowError:
        return False
