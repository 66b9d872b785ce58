"""Which agents, hosts and models does ``agents.yaml`` define?

Every fault becomes a `Problem` with file and line, so that one look shows them all; what
is usable beside a fault is still returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

from tinyscheduler.config.inputs import PREFIX, InputFile, fault_in_path
from tinyscheduler.config.problems import Problem, Severity, UnusableError, did_you_mean, quote
from tinyscheduler.config.settings import MAX_LIMIT, MAX_NUMBER
from tinyscheduler.config.units import DURATION, SIZE, parse_duration_s, parse_size_bytes
from tinyscheduler.core.command_line import PLACEHOLDERS
from tinyscheduler.model.budgets import OVERALL, Budget
from tinyscheduler.model.config import (
    LOCAL_HOST,
    AgentProfile,
    Host,
    Inventory,
    ModelMatch,
    ModelPlace,
    OnExpire,
    Quota,
    StdinSource,
)
from tinyscheduler.model.switches import TargetKind, parse_target
from tinyscheduler.model.tasks import MOST_TURNS, TASK_ID_RULE, is_task_id
from tinyscheduler.tree import Entry, Node, read_tree
from tinyscheduler.values import dataclass, field, replace

SHELL = "shell"
SHELL_LIMIT = 2
ORDINARY_LIMIT = 1

PROFILES = ("shell", "goose", "claude", "codex", "gemini")
PRIORITY_CLASSES = ("interactive", "batch")

_SECTIONS = ("agents", "hosts", "models", "pools", "queues", "tenants", "budgets")
_MAX_ITEM_CHARACTERS = 128 * 1024
_MAX_ADDRESS_CHARACTERS = 2048
_LEAST_WEIGHT = 0.001
_WEIGHT = "a number from 0.001 to 1000"
_AMOUNT = "a number above 0 such as 10 or 2.5"
_FACTORS = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_MOST_COUNTED = 10**15
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What looks like a placeholder and must be a known one.  ${NAME} belongs to a shell; JSON,
# awk and the like have more in their braces than one word.
_PLACEHOLDER = re.compile(r"(?<![${])\{([a-z_]+)\}(?!\})")
_MODEL_PLACEHOLDERS = ("model_file", "port", "host")


@dataclass(slots=True, kw_only=True)
class AgentsFile:
    """What the file defines, and what is wrong with it.

    ``limited`` agents say their limit; of ``faulty`` ones not everything is as it was meant.
    ``lines`` tells where each host, and each ``budget SUBJECT``, is written.
    """

    path: str
    found: bool = False
    agents: dict[str, AgentProfile] = field(default_factory=dict)
    limited: set[str] = field(default_factory=set)
    faulty: set[str] = field(default_factory=set)
    inventory: Inventory = Inventory()
    lines: dict[str, int | None] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all of it could be read: then an agent that is not here is nowhere."""
        return all(problem.severity is Severity.ADVICE for problem in self.problems)


def goose_command(goose: str) -> tuple[str, ...]:
    """Return the command of an agent that names none: goose runs the task's recipe."""
    return (goose, "run", "--recipe", "{recipe}", "--no-session", "--params", "task_id={task_id}")


def goose_agent(name: str, goose: str) -> AgentProfile:
    """Return an agent of which nothing but the name is known."""
    return AgentProfile(
        name=name,
        queue=name,
        limit=ORDINARY_LIMIT,
        command=goose_command(goose),
        profile="goose",
    )


def shell_agent() -> AgentProfile:
    """Return the built-in agent that runs a task's own argv."""
    return AgentProfile(name=SHELL, queue=SHELL, limit=SHELL_LIMIT)


def parse_agents_file(source: InputFile | None, *, path: str, goose: str) -> AgentsFile:
    """Read the agents file; None stands for a missing one, which defines nothing.

    Raises ConfigError only if the file is neither YAML nor JSON that `read_tree` reads.
    """
    result = AgentsFile(path=path, found=source is not None)
    if source is None:
        return result
    reader = _Reader(result=result, goose=goose)
    root = read_tree(source.content, source.path)
    match root.value:
        case None:
            pass
        case tuple() as entries:
            for number, entry in enumerate(entries, start=1):
                reader.array_entry(number, entry)
        case dict() as sections:
            reader.sections(sections)
            result.inventory = reader.inventory()
        case _:
            reader.fault(root.line, "holds no mapping", "start with a line `agents:`")
    return result


# Returns one value in its own type, or raises UnusableError.
Parser = Callable[[Node], Any]


class _Reader:
    """Reads one file into its result, adding a problem for each fault."""

    def __init__(self, *, result: AgentsFile, goose: str) -> None:
        self._result = result
        self._goose = goose
        self._hosts: dict[str, Host] = {}
        # What is said of a model itself, and of a model on a host.
        self._models: dict[str, dict[str, Any]] = {}
        self._placed: dict[tuple[str, str], dict[str, Any]] = {}
        self._quotas: dict[str, dict[str, Quota]] = {"queues": {}, "tenants": {}}
        self._budgets: list[Budget] = []

    def inventory(self) -> Inventory:
        """Return what there is beside agents.

        A model is on the hosts that it names and on those that name it, else on this machine;
        what is said of it there counts before what is said of the model.
        """
        placed = dict(self._placed)
        for model, values in self._models.items():
            hosts = values.get("host", ())
            if not hosts and not any(name == model for name, _ in placed):
                hosts = (LOCAL_HOST,)
            for host in hosts:
                placed.setdefault((model, host), {})
        places = []
        for (model, host), values in sorted(placed.items()):
            said = {**self._models.get(model, {}), **values}
            known = {key: said[key] for key in _PLACE_KEYS if key in said}
            places.append(ModelPlace(model=model, host=host, **known))
        return Inventory(
            hosts=tuple(self._hosts.values()),
            models=tuple(places),
            queues=tuple(self._quotas["queues"].values()),
            tenants=tuple(self._quotas["tenants"].values()),
            budgets=tuple(self._budgets),
        )

    def fault(
        self,
        line: int | None,
        message: str,
        fix: str,
        *,
        value: str | None = None,
        severity: Severity = Severity.STRUCTURE,
    ) -> None:
        """Add a problem of this file."""
        place = self._result.path if line is None else f"{self._result.path}:{line}"
        self._result.problems.append(
            Problem(severity=severity, setting=place, message=message, fix=fix, value=value)
        )

    def sections(self, sections: dict[str, Entry]) -> None:
        """Read the mapping form of the file."""
        for name, entry in sections.items():
            if name == "version":
                if entry.node.value != 1:
                    self.fault(entry.line, "a version this program does not know", "use version: 1")
            elif name not in _SECTIONS:
                self.fault(
                    entry.line, f"unknown section {quote(name)}", did_you_mean(name, _SECTIONS)
                )
            else:
                for key, item in self._mapping(entry, f"section {name}").items():
                    self._section_item(name, key, item)

    def _section_item(self, section: str, name: str, entry: Entry) -> None:
        match section:
            case "agents":
                self._agent(name, entry)
            case "hosts":
                self._host(name, entry)
            case "models":
                self._model(name, entry)
            case "queues" | "tenants":
                self._quota(section, name, entry)
            case "budgets":
                self._budget(name, entry)
            case _:
                # Its own feature reads it; here it only has to be a mapping.
                self._mapping(entry, f"{section}: {name}")

    def array_entry(self, number: int, node: Node) -> None:
        """Read one agent of the JSON array form."""
        what = f"entry {number}"
        if not isinstance(node.value, dict):
            self.fault(node.line, f"{what} is no object", 'write {"agentName": …, "agentType": …}')
            return
        texts = {}
        for key in ("agentName", "agentType"):
            entry = node.value.get(key)
            text = entry.node.value if entry else None
            if not isinstance(text, str) or not is_task_id(text):
                self.fault(
                    node.line,
                    f"{what}: {key} is {_written(entry.node) if entry else 'missing'}",
                    f"give it a name: {TASK_ID_RULE}",
                )
                return
            texts[key] = text
        for key in sorted(node.value.keys() - {"agentName", "agentType", "comment"}):
            self.fault(
                node.line,
                f"{what}: key {quote(key)} is ignored",
                "use the YAML form to say more about an agent",
                severity=Severity.ADVICE,
            )
        name = texts["agentName"]
        if name in self._result.agents:
            self.fault(node.line, f"{what}: agent {name} is there twice", "keep one of the two")
            return
        agent = shell_agent() if name == SHELL else goose_agent(name, self._goose)
        self._result.agents[name] = replace(agent, queue=texts["agentType"])

    def _agent(self, name: str, entry: Entry) -> None:
        if not is_task_id(name):
            self.fault(
                entry.line,
                f"agent name {quote(name)} is no name ({TASK_ID_RULE})",
                "rename the agent",
                value=quote(name),
            )
            return
        faults_before = len(self._result.problems)
        values = self._fields(f"agent {name}", entry, _AGENT_FIELDS)
        if len(self._result.problems) > faults_before:
            self._result.faulty.add(name)
        agent = shell_agent() if name == SHELL else goose_agent(name, self._goose)
        if "command" in values and name == SHELL:
            self.fault(
                entry.line,
                f"agent {SHELL} has a command, but it runs the task's own",
                "give the agent with that command another name",
            )
            return
        if "command" in values and "profile" not in values:
            values["profile"] = _profile_of(name, values["command"])
        if "limit" in values:
            self._result.limited.add(name)
        self._result.agents[name] = replace(agent, **values)

    def _host(self, name: str, entry: Entry) -> None:
        if not self._is_named(f"host name {quote(name)}", name, entry):
            return
        values = self._fields(f"host {name}", entry, _HOST_FIELDS)
        self._result.lines[name] = entry.line
        for model, item in values.pop("models", {}).items():
            if self._is_model(model, item):
                placed = self._fields(f"model {model} of host {name}", item, _PLACE_FIELDS)
                self._placed[model, name] = placed
        self._hosts[name] = Host(name=name, **values)

    def _model(self, name: str, entry: Entry) -> None:
        if self._is_model(name, entry):
            self._models[name] = self._fields(f"model {name}", entry, _MODEL_FIELDS)

    def _is_model(self, name: str, entry: Entry) -> bool:
        """Whether an agent can name it: `org/name:8b` is no name of ours, but one of a model."""
        if not fault_in_path(name):
            return True
        what = f"model name {quote(name)} is not a text that can be printed"
        self.fault(entry.line, what, "rename it", value=quote(name))
        return False

    def _quota(self, section: str, name: str, entry: Entry) -> None:
        known = _QUEUE_FIELDS if section == "queues" else _TENANT_FIELDS
        if self._is_named(f"name {quote(name)} in section {section}", name, entry):
            values = self._fields(f"{section[:-1]} {name}", entry, known)
            self._quotas[section][name] = Quota(name=name, **values)

    def _budget(self, subject: str, entry: Entry) -> None:
        if not _is_subject(subject):
            self.fault(
                entry.line,
                f"budget {quote(subject)} is of nothing that can have one",
                "name it overall, agent:NAME or schedule:NAME",
                value=quote(subject),
            )
            return
        faults_before = len(self._result.problems)
        values = self._fields(f"budget {subject}", entry, _BUDGET_FIELDS)
        if not values.keys() - {"window_s"}:
            # Where what it says is wrong, that was told already.
            if len(self._result.problems) == faults_before:
                bounds = ", ".join(key for key in _BUDGET_FIELDS if key != "window")
                what = f"budget {subject} bounds nothing"
                self.fault(entry.line, what, f"give it one of {bounds}")
            return
        self._budgets.append(Budget(subject=subject, **values))
        self._result.lines[f"budget {subject}"] = entry.line

    def _is_named(self, what: str, name: str, entry: Entry) -> bool:
        if is_task_id(name):
            return True
        self.fault(
            entry.line, f"{what} is no name ({TASK_ID_RULE})", "rename it", value=quote(name)
        )
        return False

    def _fields(
        self, what: str, entry: Entry, known: dict[str, tuple[str, Parser]]
    ) -> dict[str, Any]:
        """Read the keys of one item; each names its field and its parser in ``known``."""
        values: dict[str, Any] = {}
        for key, item in self._mapping(entry, what).items():
            if key not in known:
                self.fault(
                    item.line, f"unknown key {quote(key)} of {what}", did_you_mean(key, known)
                )
                continue
            field_name, parse = known[key]
            try:
                values[field_name] = parse(item.node)
            except UnusableError as error:
                written = _written(item.node)
                # What a list holds is told; that it is one is not what is wrong with it.
                is_inside = isinstance(item.node.value, tuple) and error.because != (
                    f"is not {error.expected}"
                )
                value = "" if is_inside else f"{written} "
                self.fault(
                    item.line,
                    f"{key} of {what}: {value}{error.because}",
                    error.fix or f"set {key} to {error.expected}",
                    value=written,
                )
        return values

    def _mapping(self, entry: Entry, what: str) -> dict[str, Entry]:
        match entry.node.value:
            case dict() as entries:
                return entries
            case None:  # `coder:` with nothing below it: all defaults
                return {}
            case _:
                self.fault(
                    entry.line,
                    f"{what} is {_written(entry.node)}; expected a mapping",
                    "write its keys below it, indented",
                )
                return {}


def _is_subject(text: str) -> bool:
    try:
        target = parse_target(text)
    except ValueError:
        return text == OVERALL
    kinds = (TargetKind.AGENT, TargetKind.SCHEDULE)
    return target.kind in kinds and is_task_id(target.name)


def _profile_of(name: str, command: tuple[str, ...]) -> str:
    """Return whose rules hold where nobody said it: by the program, or by the agent's name."""
    program = command[0].rpartition("/")[2]
    return next((one for one in (program, name) if one in PROFILES), SHELL)


def _written(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case tuple():
            return "a list"
        case True | False:
            return str(node.value).lower()
        case None:
            return "empty"
        case str():
            return quote(node.value)
        case _:
            return str(node.value)


def _whole(minimum: int, maximum: int = MAX_NUMBER) -> Parser:
    def parse(node: Node) -> int:
        # bool is an int to Python; `limit: true` is none to anybody else.
        if type(node.value) is not int or not minimum <= node.value <= maximum:
            raise UnusableError(f"a whole number from {minimum} to {maximum}")
        return node.value

    return parse


def _duration(node: Node) -> float:
    try:
        seconds = parse_duration_s(node.value if isinstance(node.value, (str, int, float)) else "")
    except ValueError as error:
        raise UnusableError(DURATION) from error
    if seconds == 0:
        raise UnusableError(DURATION, because="is no time at all")
    return seconds


def _size(node: Node) -> int:
    try:
        return parse_size_bytes(node.value if isinstance(node.value, (str, int)) else "")
    except ValueError as error:
        raise UnusableError(SIZE) from error


def _count(node: Node) -> int:
    """Read a number that may end with k, M or G, for thousands of them."""
    value = node.value
    text = value.strip() if isinstance(value, str) else str(value)
    factor = _FACTORS.get(text[-1:], 1)
    digits = text[:-1] if text[-1:] in _FACTORS else text
    is_number = not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", digits)
    number = round(float(digits) * factor) if is_number else 0
    if not 1 <= number <= _MOST_COUNTED:
        raise UnusableError("a number such as 200000, 200k or 5M")
    return number


def _amount(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableError(_AMOUNT)
    if not 0 < value <= MAX_NUMBER:
        raise UnusableError(_AMOUNT)
    return float(value)


def _minutes(node: Node) -> float:
    return 60 * _amount(node)


def _name(node: Node) -> str:
    # Unquoted digits are a name too, such as a queue called 7.
    text = str(node.value) if type(node.value) is int else node.value
    if not isinstance(text, str) or not is_task_id(text):
        raise UnusableError(f"a name ({TASK_ID_RULE})")
    return text


def _text(node: Node) -> str:
    if not isinstance(node.value, str) or fault_in_path(node.value):
        raise UnusableError("a text")
    return node.value


def _names(node: Node) -> tuple[str, ...]:
    items = node.value if isinstance(node.value, tuple) else (node,)
    if not items:
        raise UnusableError("the name of a host, or a list of them")
    return tuple(dict.fromkeys(_name(item) for item in items))


def _entries(node: Node) -> dict[str, Entry]:
    match node.value:
        case dict() as entries:
            return entries
        case None:
            return {}
        case _:
            raise UnusableError("a mapping of model names")


def _weight(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableError(_WEIGHT)
    if not _LEAST_WEIGHT <= value <= 1 / _LEAST_WEIGHT:
        raise UnusableError(_WEIGHT)
    return float(value)


def _address(node: Node) -> str:
    if (
        not isinstance(node.value, str)
        or not node.value.isprintable()
        or not node.value.strip()
        or " " in node.value
        or len(node.value) > _MAX_ADDRESS_CHARACTERS
    ):
        raise UnusableError("an address such as http://gpu-box:8080 or 10.0.0.5")
    return node.value


def _word(words: Iterable[str]) -> Parser:
    known = tuple(words)

    def parse(node: Node) -> str:
        if not isinstance(node.value, str) or node.value not in known:
            raise UnusableError("one of " + ", ".join(known))
        return node.value

    return parse


def _member(members: type[StrEnum]) -> Parser:
    def parse(node: Node) -> StrEnum:
        # `stdin: null` is how YAML writes nothing.
        text = "null" if node.value is None else node.value
        if text not in tuple(members):
            raise UnusableError("one of " + ", ".join(members))
        return members(text)

    return parse


def _variables(node: Node) -> tuple[str, ...]:
    expected = "a list of variable names such as [OPENAI_API_KEY]"
    if not isinstance(node.value, tuple):
        raise UnusableError(expected)
    names = []
    for number, item in enumerate(node.value, start=1):
        if not isinstance(item.value, str) or not _VARIABLE.fullmatch(item.value):
            # Not as it is written: somebody may have put the value of a key behind its name.
            because = f"item {number} is not the name of a variable"
            raise UnusableError(expected, because=because)
        if item.value.startswith(PREFIX):
            raise UnusableError(
                expected, because=f"names a variable of the program's own ({PREFIX}...)"
            )
        names.append(item.value)
    return tuple(dict.fromkeys(names))


def _unquoted(item: Node, *, number: int, expected: str) -> UnusableError:
    """Return the fault of an item that YAML takes for something else than a text."""
    example = ""
    match item.value:
        case int() if type(item.value) is int:
            example = f': "{item.value}"'
        case dict() as keys if len(keys) == 1:
            # {prompt} without quotes is a mapping.
            example = f', such as "{{{next(iter(keys))}}}"'
    return UnusableError(
        expected,
        because=f"item {number} is {_written(item)}, not a text",
        fix=f"write it in quotes{example}",
    )


def _command(known: tuple[str, ...]) -> Parser:
    expected = 'a list of texts such as ["goose", "run"], the program first'

    def parse(node: Node) -> tuple[str, ...]:
        if not isinstance(node.value, tuple):
            raise UnusableError(expected)
        argv = []
        for number, one in enumerate(node.value, start=1):
            if not isinstance(one.value, str):
                raise _unquoted(one, number=number, expected=expected)
            argv.append(one.value)
        if not argv or not argv[0].strip():
            raise UnusableError(expected, because="names no program")
        for item in argv:
            if "\0" in item or len(item) > _MAX_ITEM_CHARACTERS:
                raise UnusableError(
                    expected, because="holds a NUL byte, or a text longer than 128 KiB"
                )
            unknown = [name for name in _PLACEHOLDER.findall(item) if name not in known]
            if unknown:
                raise UnusableError(
                    expected,
                    because=f"holds the unknown placeholder {{{unknown[0]}}}",
                    fix=f"{did_you_mean(unknown[0], known)}"
                    " (braces with a space inside are left alone)",
                )
        return tuple(argv)

    return parse


_AGENT_FIELDS: dict[str, tuple[str, Parser]] = {
    "queue": ("queue", _name),
    "limit": ("limit", _whole(0, MAX_LIMIT)),
    "command": ("command", _command(PLACEHOLDERS)),
    "profile": ("profile", _word(PROFILES)),
    "env": ("environment", _variables),
    "memory": ("memory_bytes", _size),
    "vram": ("vram_bytes", _size),
    "model": ("model", _text),
    "max_runtime": ("max_runtime_s", _duration),
    "max_turns": ("max_turns", _whole(1, MOST_TURNS)),
    "max_per_host": ("max_per_host", _whole(1)),
    "account": ("account", _text),
    "idle_output": ("idle_output_s", _duration),
    "on_expire": ("on_expire", _member(OnExpire)),
    "cwd": ("cwd", _text),
    "stdin": ("stdin", _member(StdinSource)),
    "priority_class": ("priority_class", _word(PRIORITY_CLASSES)),
    "model_match": ("model_match", _member(ModelMatch)),
}
# What is said of a model, or of a model on one host.
_PLACE_FIELDS: dict[str, tuple[str, Parser]] = {
    "vram": ("vram_bytes", _size),
    "max_slots": ("max_slots", _whole(0, MAX_LIMIT)),
    "endpoint": ("endpoint", _address),
}
_PLACE_KEYS = tuple(key for key, _ in _PLACE_FIELDS.values())
_HOST_FIELDS: dict[str, tuple[str, Parser]] = {
    "address": ("address", _address),
    "total_vram": ("total_vram_bytes", _size),
    "max_slots": ("max_slots", _whole(0, MAX_LIMIT)),
    "models": ("models", _entries),
}
_QUEUE_FIELDS: dict[str, tuple[str, Parser]] = {"limit": ("slots", _whole(0, MAX_LIMIT))}
_TENANT_FIELDS: dict[str, tuple[str, Parser]] = {
    "slots": ("slots", _whole(0, MAX_LIMIT)),
    "vram": ("vram_bytes", _size),
    "weight": ("weight", _weight),
}
_BUDGET_FIELDS: dict[str, tuple[str, Parser]] = {
    "window": ("window_s", _duration),
    "runs": ("runs", _whole(1)),
    "turns": ("turns", _count),
    "tokens": ("tokens", _count),
    "money": ("money_usd", _amount),
    "gpu_minutes": ("gpu_s", _minutes),
    "wall_time": ("wall_s", _duration),
}
_MODEL_FIELDS: dict[str, tuple[str, Parser]] = {
    **_PLACE_FIELDS,
    "host": ("host", _names),
    "start": ("start", _command(_MODEL_PLACEHOLDERS)),
    "ready": ("ready", _text),
    "start_timeout": ("start_timeout", _duration),
    "model_file": ("model_file", _text),
}
