"""Which profiles of their own does somebody define in ``agents.yaml``?"""

from __future__ import annotations

from tinyscheduler.config import node_values
from tinyscheduler.config.problems import UnusableError, did_you_mean, quote
from tinyscheduler.core.command_line import PLACEHOLDERS
from tinyscheduler.core.profiles import BUILT_IN, find_profile
from tinyscheduler.model.config import StdinSource
from tinyscheduler.model.profiles import BY_WORDS, SUCCESS, TOLD, OutcomeRule, Profile
from tinyscheduler.model.tasks import TASK_ID_RULE, FailureReason, is_task_id
from tinyscheduler.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from tinyscheduler.model.profiles import Scalar
    from tinyscheduler.tree import Entry, Node

    class Reader(Protocol):
        """Who reads the file, and collects what is wrong with it."""

        def fault(
            self, line: int | None, message: str, fix: str, *, value: str | None = None
        ) -> None:
            """Add a problem."""

        def fields(
            self, what: str, entry: Entry, known: dict[str, tuple[str, node_values.Parser]]
        ) -> dict[str, Any]:
            """Read the keys of one item."""


KNOWN = tuple(one.name for one in BUILT_IN)
# What ticks and wrappers find out by themselves is nothing that an output tells.
REASONS = tuple(
    one.value
    for one in FailureReason
    if one
    not in {
        *(FailureReason.LEASE_EXPIRED, FailureReason.DEAD_PID, FailureReason.STALE_HEARTBEAT),
        *(FailureReason.SPAWN_FAILED, FailureReason.CANCELLED, FailureReason.IDLE_OUTPUT),
    }
)
ENDS = (SUCCESS, BY_WORDS, *REASONS)
ALWAYS = "always"
_ASKED = ("exit_code", "event", "json", "last_line")
_RULE = ("when", "then", "say")
_OUTPUTS = tuple(one.name for one in BUILT_IN if one.output is not None)
_MOST_EXIT_CODE = 255
_MOST_RULES = 50
_MOST_ITEMS = 20
_MOST_CHARACTERS = 200
# What somebody writes who means a regular expression.
_REGULAR = ("\\", ".*", ".+", "(?", "|", "[^")
_PATTERN = "plain words, with * for any others"


def read_profiles(entries: dict[str, Entry], reader: Reader) -> tuple[Profile, ...]:
    """Return the profiles of a section, without what is wrong in them."""
    profiles = (_read_profile(name, entry, reader) for name, entry in entries.items())
    return tuple(one for one in profiles if one is not None)


def _read_profile(name: str, entry: Entry, reader: Reader) -> Profile | None:
    if not is_task_id(name):
        what = f"profile name {quote(name)} is no name ({TASK_ID_RULE})"
        reader.fault(entry.line, what, "rename the profile", value=quote(name))
        return None
    if name in KNOWN:
        what = f"profile {name} is there already, and cannot be another one"
        reader.fault(entry.line, what, f"give it another name, and say `like: {name}` in it")
        return None
    values = reader.fields(f"profile {name}", entry, _FIELDS)
    model = find_profile(values.pop("like", "")) or Profile(name=name)
    nodes = values.pop("outcomes", ())
    if len(nodes) > _MOST_RULES:
        what = f"profile {name} has {len(nodes)} outcomes"
        reader.fault(entry.line, what, f"leave at most {_MOST_RULES}")
    rules = (
        _read_rule(f"outcome {number} of profile {name}", node, reader)
        for number, node in enumerate(nodes[:_MOST_RULES], start=1)
    )
    own = tuple(one for one in rules if one is not None)
    # Its own are asked first; those of its model know what else there is.
    return replace(model, **{**values, "name": name, "outcomes": (*own, *model.outcomes)})


def _read_rule(what: str, node: Node, reader: Reader) -> OutcomeRule | None:
    entries = node.value
    if not isinstance(entries, dict):
        example = "write {when: {exit_code: 3}, then: auth_failed}"
        reader.fault(node.line, f"{what} is {node_values.written(node)}, no mapping", example)
        return None
    for key in [one for one in entries if one not in _RULE]:
        fix = did_you_mean(key, _RULE)
        reader.fault(entries[key].line, f"unknown key {quote(key)} of {what}", fix)
    for key in ("when", "then"):
        if key not in entries:
            fix = "say `when: always`" if key == "when" else f"say `then: {BY_WORDS}`"
            reader.fault(node.line, f"{what} has no {key}", fix)
            return None
    then, say = entries["then"].node.value, entries["say"].node.value if "say" in entries else None
    if not isinstance(then, str) or then not in ENDS:
        written = node_values.written(entries["then"].node)
        fix = did_you_mean(str(then), ENDS)
        reader.fault(entries["then"].line, f"then of {what}: {written} is no end", fix)
        return None
    if say is not None and not _is_short(say):
        fix = f"write a text of at most {_MOST_CHARACTERS} characters"
        reader.fault(entries["say"].line, f"say of {what} is none that can be shown", fix)
        return None
    asked = _read_asked(what, entries["when"], reader)
    return None if asked is None else OutcomeRule(then=then, say=say, **asked)  # type: ignore[arg-type]  # a text, as was just seen


def _read_asked(what: str, entry: Entry, reader: Reader) -> dict[str, Any] | None:
    """Return what a rule asks for, or None where that is wrong."""
    entries = entry.node.value
    if entries == ALWAYS:
        return {}
    if not isinstance(entries, dict) or not entries:
        written = node_values.written(entry.node)
        fix = f"ask for one of {', '.join(_ASKED)}, or say {ALWAYS}"
        reader.fault(entry.line, f"when of {what} is {written}", fix)
        return None
    asked: dict[str, Any] = {}
    json: dict[str, tuple[Scalar, ...]] = {}
    is_sound = True
    for key, item in entries.items():
        try:
            match key:
                case "exit_code":
                    asked["exit_codes"] = _each(item.node, _exit_code)
                case "event":
                    json["type"] = _each(item.node, _name)
                case "json":
                    json.update(_paths(item.node))
                case "last_line":
                    asked["last_lines"] = _each(item.node, _pattern)
                case _:
                    fix = did_you_mean(key, _ASKED)
                    reader.fault(item.line, f"when of {what}: unknown key {quote(key)}", fix)
                    is_sound = False
        except UnusableError as error:
            fault = f"{key} of {what}: {node_values.written(item.node)} {error.because}"
            reader.fault(item.line, fault, error.fix or f"write {error.expected}")
            is_sound = False
    return {**asked, "json": tuple(json.items())} if is_sound else None


def _each(node: Node, read: Callable[[Node], Any]) -> tuple[Any, ...]:
    """Read one value, or a list of them, of which one must hold."""
    items = node.value if isinstance(node.value, tuple) else (node,)
    if not 1 <= len(items) <= _MOST_ITEMS:
        raise UnusableError(f"one value, or a list of at most {_MOST_ITEMS}")
    return tuple(read(item) for item in items)


def _exit_code(node: Node) -> int:
    if type(node.value) is not int or not 0 <= node.value <= _MOST_EXIT_CODE:
        raise UnusableError("an exit code, 0 to 255, or a list of them")
    return node.value


def _name(node: Node) -> str:
    if not isinstance(node.value, str) or not node.value or not _is_short(node.value):
        raise UnusableError("the name of an event, such as turn.failed")
    return node.value


def _paths(node: Node) -> dict[str, tuple[Scalar, ...]]:
    expected = "paths and their values, such as {error.code: [429, 529]}"
    if not isinstance(node.value, dict) or not 1 <= len(node.value) <= _MOST_ITEMS:
        raise UnusableError(expected)
    return {_path(key): _each(item.node, _scalar) for key, item in node.value.items()}


def _path(text: str) -> str:
    if not text or not _is_short(text) or not all(text.split(".")):
        raise UnusableError("a path such as error.message", because=f"holds no path: {quote(text)}")
    return text


def _scalar(node: Node) -> Scalar:
    value = node.value
    if isinstance(value, tuple | dict) or (isinstance(value, str) and not _is_short(value)):
        raise UnusableError("a text, a number, true, false, null or '*'")
    return value


def _pattern(node: Node) -> str:
    text = node.value
    if not isinstance(text, str) or not _is_short(text):
        raise UnusableError(_PATTERN)
    found = next((one for one in _REGULAR if one in text), "")
    if found or text.startswith("^") or text.endswith("$"):
        because = f"is a regular expression ({found or '^ or $'}), and a pattern is {_PATTERN}"
        fix = "write the words that the line has, such as '*quota exceeded*'"
        raise UnusableError(_PATTERN, because=because, fix=fix)
    if text and not any(one.isalnum() for one in text):
        raise UnusableError(_PATTERN, because="has no word")
    return text


def _is_short(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= _MOST_CHARACTERS
        and (value.isprintable() or not value)
    )


def _nodes(node: Node) -> tuple[Node, ...]:
    if not isinstance(node.value, tuple):
        raise UnusableError("a list of {when: …, then: …}")
    return node.value


def _tells(node: Node) -> tuple[tuple[str, str], ...]:
    expected = f"paths of some of {', '.join(TOLD)}"
    if not isinstance(node.value, dict):
        raise UnusableError(expected)
    for name, entry in node.value.items():
        if name not in TOLD:
            because = f"holds {quote(name)}"
            raise UnusableError(expected, because=because, fix=did_you_mean(name, TOLD))
        if not isinstance(entry.node.value, str):
            raise UnusableError("a path such as usage.total")
    return tuple((name, _path(str(entry.node.value))) for name, entry in node.value.items())


_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "like": ("like", node_values.word(KNOWN)),
    "command": ("command", node_values.command(PLACEHOLDERS)),
    "env": ("environment", node_values.variables),
    "stdin": ("stdin", node_values.member(StdinSource)),
    "output": ("output", node_values.word(_OUTPUTS)),
    "idle_output": ("idle_output_s", node_values.duration),
    "tells": ("tells", _tells),
    "outcomes": ("outcomes", _nodes),
}
