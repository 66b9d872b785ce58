"""Which tools does the MCP server have, what do they take, and what is wrong with a call?

Names and arguments are those of tinytask 2.0, so that what was written for it works here; the
last four are ours.  Touches nothing: a call is read here before anything else looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial

from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import UsageError
from tinyscheduler.model.shared_tasks import Status
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_NUMBER = 24
_MOST_NUMBER = 10**18 - 1
MOST_NAME_BYTES = 255
MOST_TITLE_BYTES = 4096
MOST_TEXT_BYTES = 1 << 20
_MOST_TEXTS = 1000
_MOST_IDS = 1000


class Access(Enum):
    """What a tool needs to be allowed to."""

    READS = auto()
    WRITES = auto()
    COMMANDS = auto()  # puts a command of the caller's into the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument: what a client is told of it, and who reads it."""

    name: str
    schema: Mapping[str, Any]
    text: str
    read: Callable[[str, Any], Any]
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool.  ``doing`` begins the sentence of what went wrong: "creating task"."""

    name: str
    text: str
    doing: str
    access: Access
    parameters: tuple[Parameter, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """What it takes, as JSON Schema."""
        return {
            "type": "object",
            "properties": {
                one.name: {**one.schema, "description": one.text} for one in self.parameters
            },
            "required": [one.name for one in self.parameters if one.is_required],
            "additionalProperties": False,
        }


def read_call(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were given; UsageError naming the first that is wrong.

    What is null is not said, except where null means something.
    """
    known = {one.name: one for one in tool.parameters}
    for name in arguments:
        if name not in known:
            told = quote(name[:MOST_NAME_BYTES])
            raise UsageError(
                f"{tool.name} takes no argument {told}",
                hint=did_you_mean(name[:MOST_NAME_BYTES], known)
                if known
                else "it takes none at all",
            )
    given: dict[str, Any] = {}
    for one in tool.parameters:
        if one.name in arguments:
            value = one.read(one.name, arguments[one.name])
            if value is not MISSING:
                given[one.name] = value
        if one.is_required and one.name not in given and one.name not in _FILLED_IN:
            raise UsageError(
                f"{one.name} is required", hint=f"{tool.name} needs it: {one.text.lower()}"
            )
    return given


# Required by tinytask 2.0 and not by 1.0; whoever says nothing is called what the server is.
_FILLED_IN = frozenset({"created_by"})


class _Missing(Enum):
    MISSING = auto()


MISSING = _Missing.MISSING


def _wrong(name: str, value: object, wanted: str) -> UsageError:
    kind = {bool: "a truth value", str: "a text", list: "an array", dict: "an object"}.get(
        type(value), "null" if value is None else "a number"
    )
    told = f": {quote(value[:40])}" if isinstance(value, str) else ""
    return UsageError(f"{name} must be {wanted}, not {kind}{told}", hint=f"{name}: {wanted}")


def read_number(name: str, value: Any, *, least: int = 1, most: int = _MOST_NUMBER) -> Any:  # noqa: ANN401 - whatever a client sends
    """Read a whole number, also one that is written as a text."""
    if value is None:
        return MISSING
    wanted = f"a whole number from {least} to {most}"
    number = value
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(text) > _LONGEST_NUMBER:
            raise _wrong(name, value, wanted)
        number = int(text)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, wanted)
    elif isinstance(value, float):
        if not value.is_integer() or abs(value) > _MOST_NUMBER:
            raise UsageError(f"{name} must be {wanted}", hint="write it without a fraction")
        number = int(value)
    if not least <= number <= most:
        raise UsageError(f"{name} must be {wanted}", hint="ids are in list_tasks")
    return number


def _read_number_or_null(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    return None if value in (None, 0, "") and value is not False else read_number(name, value)


def read_text(name: str, value: Any, *, most: int, least: int = 0) -> Any:  # noqa: ANN401 - whatever a client sends
    """Read a text of so many bytes, which can be stored and handed to programs."""
    if value is None:
        return MISSING
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > most:
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{name} is not valid Unicode: half of a surrogate pair stands alone",
                hint="send whole characters",
            ) from error
    if size > most:
        raise UsageError(
            f"{name} has more than {most} bytes", hint="write it into a file, and link that"
        )
    if "\0" in value:
        raise UsageError(f"{name} holds a NUL character", hint="take it out")
    if len(value.strip()) < least:
        raise UsageError(f"{name} is required", hint="there is nothing in it")
    return value


def _read_texts(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    if value is None:
        return MISSING
    if not isinstance(value, list):
        raise _wrong(name, value, "an array of texts")
    if len(value) > _MOST_TEXTS:
        raise UsageError(f"{name} has more than {_MOST_TEXTS} items", hint="send fewer")
    read = partial(read_text, most=MOST_TEXT_BYTES)
    texts = [read(f"{name}[{place}]", one) for place, one in enumerate(value)]
    if MISSING in texts:
        raise UsageError(f"{name} holds a null", hint="take it out")
    return tuple(texts)


def _read_ids(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    if value is None:
        return MISSING
    values = value if isinstance(value, list) else [value]
    if not values or len(values) > _MOST_IDS:
        raise UsageError(f"{name} must be 1 to {_MOST_IDS} ids", hint="name tasks by their ids")
    found = [read_number(f"{name}[{place}]", one) for place, one in enumerate(values)]
    if MISSING in found:
        raise UsageError(f"{name} holds a null", hint="take it out")
    return tuple(dict.fromkeys(found))


def _read_flag(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    if value is None:
        return MISSING
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _read_status(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    if value is None:
        return MISSING
    if isinstance(value, str) and value in set(Status):
        return Status(value)
    raise _wrong(name, value, "idle, working or complete")


def _read_statuses(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a client sends
    if value is None:
        return MISSING
    values = value if isinstance(value, list) else [value]
    if len(values) > _MOST_TEXTS:
        raise UsageError(f"{name} has more than {_MOST_TEXTS} items", hint="send fewer")
    found = [_read_status(name, one) for one in values]
    if MISSING in found:
        raise UsageError(f"{name} holds a null", hint="take it out")
    return tuple(found) if isinstance(value, list) else found[0]


_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_FLAG = {"type": "boolean"}
_STATUS = {"type": "string", "enum": [one.value for one in Status]}


def _number(name: str, text: str, *, least: int = 1, most: int = _MOST_NUMBER) -> Parameter:
    read = partial(read_number, least=least, most=most)
    return Parameter(name=name, schema=_NUMBER, text=text, read=read)


def _id(name: str, text: str) -> Parameter:
    return Parameter(name=name, schema=_NUMBER, text=text, read=read_number, is_required=True)


def _text(name: str, text: str, *, most: int = MOST_NAME_BYTES) -> Parameter:
    return Parameter(name=name, schema=_TEXT, text=text, read=partial(read_text, most=most))


def _needed(name: str, text: str, *, most: int = MOST_NAME_BYTES) -> Parameter:
    read = partial(read_text, most=most, least=1)
    return Parameter(name=name, schema=_TEXT, text=text, read=read, is_required=True)


_OPTIONAL_PARENT = Parameter(
    name="parent_task_id",
    schema={"type": ["number", "null"]},
    text="The task it is to be a part of; null: of none",
    read=_read_number_or_null,
)
_TAGS = Parameter(name="tags", schema=_TEXTS, text="Tags; K=V is the label K", read=_read_texts)
_PRIORITY = _number("priority", "Higher goes first", least=-_MOST_NUMBER)
_DESCRIPTION = _text("description", "What is to be done", most=MOST_TEXT_BYTES)
_CREATED_BY = _needed("created_by", "Who asks for it")
_STATUSES = Parameter(
    name="status",
    schema={"anyOf": [_STATUS, {"type": "array", "items": _STATUS}]},
    text="Only of this status, or of these",
    read=_read_statuses,
)
_FILTERS = (
    _text("assigned_to", "Only of this agent"),
    _STATUSES,
    Parameter(
        name="exclude_status",
        schema={"type": "array", "items": _STATUS},
        text="Not of these statuses",
        read=_read_statuses,
    ),
    Parameter(name="include_archived", schema=_FLAG, text="Archived ones as well", read=_read_flag),
    _number("limit", "At most so many (100 unless said; 1000 at most)", least=0),
    _number("offset", "Pass over so many", least=0),
    _number("parent_task_id", "Only parts of this task"),
    Parameter(
        name="exclude_subtasks", schema=_FLAG, text="Only what is a part of none", read=_read_flag
    ),
)
_RECURSIVE = Parameter(
    name="recursive", schema=_FLAG, text="Parts of parts as well", read=_read_flag
)
_AFTER = "A task that must be complete before"


def _reads(name: str, text: str, doing: str, *parameters: Parameter) -> Tool:
    return Tool(name=name, text=text, doing=doing, access=Access.READS, parameters=parameters)


def _writes(name: str, text: str, doing: str, *parameters: Parameter) -> Tool:
    return Tool(name=name, text=text, doing=doing, access=Access.WRITES, parameters=parameters)


_TASK_ID = _id("task_id", "The task")
_QUEUE = _needed("queue_name", "The queue")
_CONTENT = _needed("content", "What is to be written", most=MOST_TEXT_BYTES)

TOOLS = (
    _writes(
        "create_task",
        "Create a task. It is started by itself where its agent or its queue is served here;"
        " else it waits for somebody to take it.",
        "creating task",
        _needed("title", "Title", most=MOST_TITLE_BYTES),
        _DESCRIPTION,
        _text("assigned_to", "The agent it is for"),
        _CREATED_BY,
        _PRIORITY,
        _TAGS,
        _number("parent_task_id", "The task it is to be a part of"),
        _text("queue_name", "The queue it is for"),
        _number("blocked_by_task_id", _AFTER),
    ),
    _writes(
        "update_task",
        "Change a task. complete ends one that you have done; from inside the attempt that works"
        " on it, it is noted, and the end of the attempt decides.",
        "updating task",
        _id("id", "The task"),
        _text("title", "New title", most=MOST_TITLE_BYTES),
        _DESCRIPTION,
        Parameter(name="status", schema=_STATUS, text="How far it is", read=_read_status),
        _text("assigned_to", "The agent it is for; empty: nobody"),
        _PRIORITY,
        _TAGS,
        _OPTIONAL_PARENT,
        _text("queue_name", "The queue it is for; empty: none"),
        Parameter(
            name="blocked_by_task_id",
            schema={"type": ["number", "null"]},
            text=f"{_AFTER}; null: none",
            read=_read_number_or_null,
        ),
    ),
    _reads(
        "get_task",
        "Show a task whole: comments, links, its last attempt and the end of what that printed.",
        "retrieving task",
        _id("id", "The task"),
    ),
    _writes(
        "delete_task",
        "Remove a task and its parts for good. What attempts did stays on record.",
        "deleting task",
        _id("id", "The task"),
    ),
    _writes(
        "archive_task",
        "Put a task out of sight; one that waits is cancelled.",
        "archiving task",
        _id("id", "The task"),
    ),
    _reads(
        "list_tasks",
        "List tasks, the highest priority first, then the oldest.",
        "listing tasks",
        *_FILTERS,
        _text("queue_name", "Only of this queue"),
    ),
    _reads(
        "get_my_queue",
        "List the open tasks of an agent.",
        "retrieving queue",
        _needed("agent_name", "The agent"),
    ),
    _writes(
        "signup_for_task",
        "Take the first task that waits for an agent, to work on it yourself: nothing starts it"
        " meanwhile. Inside an attempt: the task of that attempt.",
        "signing up for task",
        _needed("agent_name", "The agent"),
    ),
    _writes(
        "move_task",
        "Hand a task on to another agent, with a comment; it waits again.",
        "moving task",
        _TASK_ID,
        _needed("current_agent", "Whose it is now"),
        _needed("new_agent", "Whose it is to be"),
        _needed("comment", "What the next one should know", most=MOST_TEXT_BYTES),
    ),
    _writes(
        "create_subtask",
        "Create a part of a task. The whole waits for its parts and is complete when they are.",
        "creating subtask",
        _id("parent_task_id", "The task it is to be a part of"),
        _needed("title", "Title", most=MOST_TITLE_BYTES),
        _DESCRIPTION,
        _text("assigned_to", "The agent it is for"),
        _CREATED_BY,
        _PRIORITY,
        _TAGS,
        _text("queue_name", "The queue it is for; that of the whole unless said"),
    ),
    _reads(
        "get_subtasks",
        "List the parts of a task.",
        "retrieving subtasks",
        _id("parent_task_id", "The whole"),
        _RECURSIVE,
        Parameter(
            name="include_archived", schema=_FLAG, text="Archived ones as well", read=_read_flag
        ),
    ),
    _reads(
        "get_task_with_subtasks",
        "Show a task with its parts.",
        "retrieving task with subtasks",
        _TASK_ID,
        _RECURSIVE,
    ),
    _writes(
        "move_subtask",
        "Make a task a part of another one, or of none.",
        "moving subtask",
        _id("subtask_id", "The task"),
        Parameter(
            name="new_parent_id",
            schema={"type": ["number", "null"]},
            text="What it is to be a part of; left out or null: of none",
            read=_read_number_or_null,
        ),
    ),
    _reads("list_queues", "List the queues that tasks are in.", "listing queues"),
    _reads("get_queue_stats", "Count the tasks of a queue.", "retrieving queue stats", _QUEUE),
    _writes(
        "add_task_to_queue", "Put a task into a queue.", "adding task to queue", _TASK_ID, _QUEUE
    ),
    _writes(
        "remove_task_from_queue",
        "Take a task out of its queue.",
        "removing task from queue",
        _TASK_ID,
    ),
    _writes(
        "move_task_to_queue",
        "Put a task into another queue.",
        "moving task to queue",
        _TASK_ID,
        _needed("new_queue_name", "The queue"),
    ),
    _reads(
        "get_queue_tasks", "List the tasks of a queue.", "retrieving queue tasks", _QUEUE, *_FILTERS
    ),
    _writes(
        "clear_queue",
        "Take all tasks out of a queue that are not at work.",
        "clearing queue",
        _QUEUE,
    ),
    _writes(
        "add_comment",
        "Write a comment to a task.",
        "adding comment",
        _TASK_ID,
        _CONTENT,
        _text("created_by", "Who writes it"),
    ),
    _writes(
        "update_comment",
        "Write a comment anew.",
        "updating comment",
        _id("id", "The comment"),
        _CONTENT,
    ),
    _writes("delete_comment", "Remove a comment.", "deleting comment", _id("id", "The comment")),
    _reads("list_comments", "List the comments of a task.", "listing comments", _TASK_ID),
    _reads("get_comment", "Show a comment.", "getting comment", _id("id", "The comment")),
    _writes(
        "move_comment",
        "Move a comment to another task.",
        "moving comment",
        _id("comment_id", "The comment"),
        _id("to_task_id", "The task it is to stand at"),
    ),
    _writes(
        "add_link",
        "Write down where something lies that belongs to a task.",
        "adding link",
        _TASK_ID,
        _needed("url", "Where: an address or a path", most=MOST_TITLE_BYTES),
        _text("description", "What lies there", most=MOST_TITLE_BYTES),
        _text("created_by", "Who writes it"),
    ),
    _writes(
        "update_link",
        "Change a link.",
        "updating link",
        _id("id", "The link"),
        _text("url", "Where: an address or a path", most=MOST_TITLE_BYTES),
        _text("description", "What lies there", most=MOST_TITLE_BYTES),
    ),
    _writes("delete_link", "Remove a link.", "deleting link", _id("id", "The link")),
    _reads("list_links", "List the links of a task.", "listing links", _TASK_ID),
    _reads(
        "why",
        "Say why a task waits, or how it ended, and what would change that.",
        "asking why",
        _id("id", "The task"),
    ),
    _reads("status", "Show what runs, what waits and why, and what is free.", "looking"),
    _reads(
        "wait",
        "Wait until tasks have ended, or the time is up.",
        "waiting",
        Parameter(
            name="ids",
            schema={"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]},
            text="The tasks",
            read=_read_ids,
            is_required=True,
        ),
        _number("timeout_sec", "At most so long (30 unless said)", least=0, most=600),
    ),
    Tool(
        name="enqueue_command",
        text="Put a command into the queue, for an agent that may be given commands.",
        doing="enqueueing command",
        access=Access.COMMANDS,
        parameters=(
            Parameter(
                name="command",
                schema=_TEXTS,
                text="The program and its arguments, not a line for a shell",
                read=_read_texts,
                is_required=True,
            ),
            _text("agent", "The agent that runs it (shell unless said)"),
            _text("title", "Title", most=MOST_TITLE_BYTES),
            _text("cwd", "Where: a folder below that of the server", most=MOST_TITLE_BYTES),
            _text("recipe", "A recipe, below the folder of recipes", most=MOST_TITLE_BYTES),
            _PRIORITY,
            Parameter(
                name="after",
                schema={"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]},
                text="Tasks that must be complete before",
                read=_read_ids,
            ),
            _text("max_runtime", "How long at most: 90s, 15m, 2h"),
            _number("max_attempts", "How often it is tried"),
            _TAGS,
        ),
    ),
)
BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}
