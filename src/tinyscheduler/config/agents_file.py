"""Which agents, hosts and models does ``agents.yaml`` define?

Every fault becomes a `Problem` with file and line, so that one look shows them all; what
is usable beside a fault is still returned.
"""

from __future__ import annotations

from typing import Any

from tinyscheduler.config import node_values
from tinyscheduler.config.inputs import InputFile, fault_in_path
from tinyscheduler.config.problems import Problem, Severity, UnusableError, did_you_mean, quote
from tinyscheduler.config.profile_nodes import KNOWN, read_profiles
from tinyscheduler.config.settings import MAX_LIMIT
from tinyscheduler.core.command_line import PLACEHOLDERS
from tinyscheduler.core.profiles import find_profile
from tinyscheduler.model.budgets import OVERALL, Budget
from tinyscheduler.model.config import (
    LOCAL_HOST,
    SHELL_AGENT,
    AgentProfile,
    Host,
    Inventory,
    ModelMatch,
    ModelPlace,
    OnExpire,
    Quota,
    StdinSource,
)
from tinyscheduler.model.profiles import Profile
from tinyscheduler.model.switches import TargetKind, parse_target
from tinyscheduler.model.tasks import MOST_TURNS, TASK_ID_RULE, is_task_id
from tinyscheduler.tree import Entry, Node, read_tree
from tinyscheduler.values import dataclass, field, replace

SHELL = SHELL_AGENT
SHELL_LIMIT = 2
ORDINARY_LIMIT = 1

PRIORITY_CLASSES = ("interactive", "batch")

_SECTIONS = ("agents", "profiles", "hosts", "models", "pools", "queues", "tenants", "budgets")

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
    profiles: tuple[Profile, ...] = ()
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
        if "profiles" in sections:
            # Agents name them, wherever they stand.
            entries = self._mapping(sections["profiles"], "section profiles")
            self._result.profiles = read_profiles(entries, self)
        for name, entry in sections.items():
            if name == "version":
                if entry.node.value != 1:
                    self.fault(entry.line, "a version this program does not know", "use version: 1")
            elif name not in _SECTIONS:
                self.fault(
                    entry.line, f"unknown section {quote(name)}", did_you_mean(name, _SECTIONS)
                )
            elif name != "profiles":
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
                    f"{what}: {key} is {node_values.written(entry.node) if entry else 'missing'}",
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
        values = self.fields(f"agent {name}", entry, _AGENT_FIELDS)
        self._check_profile(name, entry, values)
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
            values["profile"] = self._profile_of(name, values["command"])
        elif "profile" in values and "command" not in values:
            values = {**self._run_by(values["profile"]), **values}
        if "limit" in values:
            self._result.limited.add(name)
        self._result.agents[name] = replace(agent, **values)

    def _check_profile(self, name: str, entry: Entry, values: dict[str, Any]) -> None:
        """Refuse a profile that is nowhere."""
        profile = values.get("profile", SHELL)
        known = (*KNOWN, *(one.name for one in self._result.profiles))
        if profile in known:
            return
        del values["profile"]
        keys = entry.node.value
        line = keys["profile"].line if isinstance(keys, dict) else entry.line
        self.fault(
            line,
            f"profile of agent {name}: {quote(profile)} is not one of {', '.join(known)}",
            did_you_mean(profile, known),
            value=quote(profile),
        )

    def _run_by(self, profile: str) -> dict[str, Any]:
        """Return how an agent runs that leaves it to its profile.

        That all belongs to the command: who brings another one says what it needs.
        """
        found = find_profile(profile, self._result.profiles)
        if found is None or (found.name != SHELL and not found.command):
            return {}
        return {
            "command": goose_command(self._goose) if profile == "goose" else found.command,
            "environment": found.environment,
            "stdin": found.stdin,
            "idle_output_s": found.idle_output_s,
        }

    def _profile_of(self, name: str, command: tuple[str, ...]) -> str:
        """Return whose rules hold where nobody said it: by the program, or the agent's name."""
        known = (*KNOWN, *(one.name for one in self._result.profiles))
        program = command[0].rpartition("/")[2]
        return next((one for one in (program, name) if one in known), SHELL)

    def _host(self, name: str, entry: Entry) -> None:
        if not self._is_named(f"host name {quote(name)}", name, entry):
            return
        values = self.fields(f"host {name}", entry, _HOST_FIELDS)
        self._result.lines[name] = entry.line
        for model, item in values.pop("models", {}).items():
            if self._is_model(model, item):
                placed = self.fields(f"model {model} of host {name}", item, _PLACE_FIELDS)
                self._placed[model, name] = placed
        self._hosts[name] = Host(name=name, **values)

    def _model(self, name: str, entry: Entry) -> None:
        if self._is_model(name, entry):
            self._models[name] = self.fields(f"model {name}", entry, _MODEL_FIELDS)

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
            values = self.fields(f"{section[:-1]} {name}", entry, known)
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
        values = self.fields(f"budget {subject}", entry, _BUDGET_FIELDS)
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

    def fields(
        self, what: str, entry: Entry, known: dict[str, tuple[str, node_values.Parser]]
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
                written = node_values.written(item.node)
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
                    f"{what} is {node_values.written(entry.node)}; expected a mapping",
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


_AGENT_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "queue": ("queue", node_values.name),
    "limit": ("limit", node_values.whole(0, MAX_LIMIT)),
    "command": ("command", node_values.command(PLACEHOLDERS)),
    "profile": ("profile", node_values.name),
    "env": ("environment", node_values.variables),
    "memory": ("memory_bytes", node_values.size),
    "vram": ("vram_bytes", node_values.size),
    "model": ("model", node_values.text),
    "max_runtime": ("max_runtime_s", node_values.duration),
    "max_turns": ("max_turns", node_values.whole(1, MOST_TURNS)),
    "max_tokens": ("max_tokens", node_values.count),
    "max_cost": ("max_cost_usd", node_values.amount),
    "max_per_host": ("max_per_host", node_values.whole(1)),
    "account": ("account", node_values.text),
    "idle_output": ("idle_output_s", node_values.duration),
    "on_expire": ("on_expire", node_values.member(OnExpire)),
    "cwd": ("cwd", node_values.text),
    "stdin": ("stdin", node_values.member(StdinSource)),
    "priority_class": ("priority_class", node_values.word(PRIORITY_CLASSES)),
    "model_match": ("model_match", node_values.member(ModelMatch)),
}
# What is said of a model, or of a model on one host.
_PLACE_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "vram": ("vram_bytes", node_values.size),
    "max_slots": ("max_slots", node_values.whole(0, MAX_LIMIT)),
    "endpoint": ("endpoint", node_values.address),
}
_PLACE_KEYS = tuple(key for key, _ in _PLACE_FIELDS.values())
_HOST_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "address": ("address", node_values.address),
    "total_vram": ("total_vram_bytes", node_values.size),
    "max_slots": ("max_slots", node_values.whole(0, MAX_LIMIT)),
    "models": ("models", node_values.entries),
}
_QUEUE_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "limit": ("slots", node_values.whole(0, MAX_LIMIT))
}
_TENANT_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "slots": ("slots", node_values.whole(0, MAX_LIMIT)),
    "vram": ("vram_bytes", node_values.size),
    "weight": ("weight", node_values.weight),
}
_BUDGET_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    "window": ("window_s", node_values.duration),
    "runs": ("runs", node_values.whole(1)),
    "turns": ("turns", node_values.count),
    "tokens": ("tokens", node_values.count),
    "money": ("money_usd", node_values.amount),
    "gpu_minutes": ("gpu_s", node_values.minutes),
    "wall_time": ("wall_s", node_values.duration),
}
_MODEL_FIELDS: dict[str, tuple[str, node_values.Parser]] = {
    **_PLACE_FIELDS,
    "host": ("host", node_values.names),
    "start": ("start", node_values.command(_MODEL_PLACEHOLDERS)),
    "ready": ("ready", node_values.text),
    "start_timeout": ("start_timeout", node_values.duration),
    "model_file": ("model_file", node_values.text),
}
