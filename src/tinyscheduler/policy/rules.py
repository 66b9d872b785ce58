"""What does a policy in YAML say?  Rules as values, each fault with its line and its rule."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NoReturn, assert_never

from tinyscheduler.errors import ConfigError, PolicyError
from tinyscheduler.policy.compiled import lua_text
from tinyscheduler.policy.expressions import UnsupportedError, translate
from tinyscheduler.tree import Node, read_tree
from tinyscheduler.values import dataclass
from tinyscheduler.wording import did_you_mean, quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tinyscheduler.tree import Entry

MOST_BYTES = 64 << 10
MOST_RULES = 200
MOST_CHARACTERS = 64  # of a name
MOST_ITEMS = 100  # of a list
MOST_OPERAND_CHARACTERS = 256
MOST_PRIORITY = 1_000_000
MOST_WAIT_MS = 7 * 86_400_000


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    NUMBER = "number"
    ANYTHING = "anything"  # only whether it is there can be asked


# What conditions may ask about; labels go by `job.labels.NAME`.
FIELDS = {
    "job": {
        "id": Kind.TEXT,
        "source": Kind.TEXT,
        "title": Kind.TEXT,
        "priority": Kind.TEXT,
        "rank": Kind.NUMBER,
        "agent": Kind.TEXT,
        "queue": Kind.TEXT,
        "model_ref": Kind.TEXT,
        "seed": Kind.NUMBER,
        "tenant": Kind.TEXT,
        "project": Kind.TEXT,
        "vram": Kind.NUMBER,
        "memory": Kind.NUMBER,
        "gpus": Kind.NUMBER,
        "age_ms": Kind.NUMBER,
        "skips": Kind.NUMBER,
        "attempts": Kind.NUMBER,
        "blocks": Kind.NUMBER,
        "turn": Kind.NUMBER,
        "order": Kind.NUMBER,
        "labels": Kind.ANYTHING,
    },
    "pool": {"id": Kind.TEXT, "slots_free": Kind.NUMBER, "memory_free": Kind.NUMBER},
    "metrics": {
        "queue_depth": Kind.NUMBER,
        "total_workers": Kind.NUMBER,
        "busy_workers": Kind.NUMBER,
        "free_slots": Kind.NUMBER,
        "memory_pressure": Kind.TEXT,
        "now_ms": Kind.NUMBER,
        "hour": Kind.NUMBER,
        "weekday": Kind.NUMBER,
    },
}
# Fields that hold one of a few words: another would never match.
WORDS = {
    "job.priority": ("interactive", "batch"),
    "metrics.memory_pressure": ("none", "warning", "critical"),
}
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")
LABELS = "job.labels."

Operator = Literal["exists", "eq", "ne", "lt", "le", "gt", "ge", "in", "matches"]
ORDERING: tuple[Operator, ...] = ("lt", "le", "gt", "ge")
OPERATORS: tuple[Operator, ...] = ("exists", "eq", "ne", *ORDERING, "in", "matches")
# What other languages call them.
_MEANT = {
    "==": "eq",
    "=": "eq",
    "equals": "eq",
    "!=": "ne",
    "neq": "ne",
    "<": "lt",
    "<=": "le",
    "lte": "le",
    ">": "gt",
    ">=": "ge",
    "gte": "ge",
    "regex": "matches",
    "start": "dispatch",
    "run": "dispatch",
    "skip": "wait",
    "delay": "wait",
}
COMBINATIONS = ("all", "any", "not")
ALWAYS = "always"
PLATFORM = "platform-scheduler"


class Selection(StrEnum):
    """Which of the agents that can start a job."""

    LEAST_LOADED = "least-loaded"  # fewest attempts running, then most slots free
    MOST_VRAM_FREE = "most-vram-free"  # then the least loaded
    ROUND_ROBIN = "round-robin"  # whose turn was longest ago


class Match(StrEnum):
    """What becomes of a job whose model an agent's slot has not loaded."""

    REQUIRED = "required"  # it does not start there
    PREFERRED = "preferred"  # it starts there if it can start nowhere else
    IGNORE = "ignore"  # it starts there


class Eviction(StrEnum):
    """Which of the idle model servers."""

    LRU = "lru"  # least recently used
    LFU = "lfu"  # least frequently used


Operand = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """Holds for every job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One comparison; ``operands`` has one item but for ``in`` and ``matches``.

    What ``matches`` compares with is patterns of Lua by now, of which one must fit.
    """

    subject: str
    field: str
    operator: Operator
    operands: tuple[Operand, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Conditions of which ``all`` hold, or ``any``, or, of the only one, ``not``."""

    how: Literal["all", "any", "not"]
    parts: tuple[Condition, ...]


Condition = Always | Term | Combined


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start the job."""

    selection: Selection = Selection.LEAST_LOADED
    match: Match = Match.REQUIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Let the job wait, whatever later rules say."""

    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """End a model server: this one, or an idle one."""

    worker: str | Eviction


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorker:
    """Start a model server."""

    model_ref: str
    pool_id: str
    gpu_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPlatform:
    """Leave the job to the platform policy."""


Action = Start | Pause | Evict | StartWorker | AskPlatform
ACTIONS = ("dispatch", "wait", "evict", "start_worker", "use")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What to do about jobs for which a condition holds, and the lines that say so."""

    name: str
    condition: Condition
    action: Action
    priority: int
    line: int
    condition_line: int
    action_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """A whole policy; its rules in the order in which they are applied."""

    name: str
    version: str
    rules: tuple[Rule, ...]


def parse_rules(content: bytes, *, path: str) -> RuleSet:
    """Read a policy; ``path`` is what messages call the file.

    Raises PolicyError for the first fault, with line and rule.
    """
    if len(content) > MOST_BYTES:
        raise PolicyError(
            f"{path}: the policy is too long (more than {MOST_BYTES} bytes)",
            cause="syntax",
            hint="write fewer rules, or the policy in Lua",
        )
    text = content.decode(errors="replace").removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        line = text.count("\n", 0, text.index("[")) + 1
        _Reader(path).refuse(line, "a list stands where a mapping is expected", _OUTLINE)
    try:
        root = read_tree(content, path)
    except ConfigError as error:
        raise PolicyError(error.what, cause="syntax", hint=error.hint) from error
    return _Reader(path).rule_set(root)


_OUTLINE = "begin with `scheduler:`, and below it name, version and rules"
_IN_QUOTES = "write it in quotes"


class _Reader:
    """Turns a tree into rules; knows in which rule it is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rule = ""

    def refuse(self, line: int | None, what: str, hint: str) -> NoReturn:
        """Raise the fault, with its place."""
        where = f"{self._path}:{line}" if line is not None else self._path
        within = f" (rule {self._rule})" if self._rule else ""
        raise PolicyError(f"{where}{within}: {what}", cause="syntax", hint=hint)

    # -- the outline --------------------------------------------------------------

    def rule_set(self, root: Node) -> RuleSet:
        """Return the whole policy."""
        if root.value is None:
            self.refuse(1, "the policy is empty", _OUTLINE)
        top = self._mapping(root, "the policy", ("scheduler",), required=("scheduler",))
        parts = self._mapping(
            top["scheduler"].node,
            "scheduler",
            ("name", "version", "rules"),
            required=("name", "rules"),
        )
        name = self._name(parts["name"].node, "the name")
        version = self._name(parts["version"].node, "the version") if "version" in parts else ""
        listed = parts["rules"].node
        if not isinstance(listed.value, tuple):
            self.refuse(listed.line, "rules is not a list", "write each rule as an item, `- name:`")
        if not listed.value:
            self.refuse(listed.line, "there are no rules", "add one, or use the platform policy")
        if len(listed.value) > MOST_RULES:
            self.refuse(listed.line, f"there are more than {MOST_RULES} rules", "write fewer")
        rules: list[Rule] = []
        lines: dict[str, int] = {}
        for number, node in enumerate(listed.value, start=1):
            rule = self._read_rule(node, number)
            if rule.name in lines:
                what = f"an earlier rule has this name (line {lines[rule.name]})"
                self.refuse(rule.line, what, "give each rule a name of its own")
            lines[rule.name] = rule.line
            rules.append(rule)
        rules.sort(key=lambda rule: -rule.priority)
        return RuleSet(name=name, version=version, rules=tuple(rules))

    def _read_rule(self, node: Node, number: int) -> Rule:
        # Until its name is known.
        self._rule = str(number)
        if isinstance(node.value, dict) and "name" in node.value:
            named = node.value["name"].node.value
            self._rule = lua_text(named[:MOST_CHARACTERS]) if isinstance(named, str) else self._rule
        keys = ("name", "condition", "action")
        parts = self._mapping(node, "the rule", (*keys, "priority"), required=keys)
        name = self._name(parts["name"].node, "the name")
        priority = 0
        if "priority" in parts:
            priority = self._whole(
                parts["priority"].node, "priority", least=-MOST_PRIORITY, most=MOST_PRIORITY
            )
        return Rule(
            name=name,
            condition=self._condition(parts["condition"].node),
            action=self._action(parts["action"].node),
            priority=priority,
            line=node.line or 1,
            condition_line=_first_line(parts["condition"]),
            action_line=_first_line(parts["action"]),
        )

    # -- conditions ---------------------------------------------------------------

    def _condition(self, node: Node) -> Condition:
        if node.value == ALWAYS:
            return Always()
        if not isinstance(node.value, dict):
            self.refuse(
                node.line,
                f"{_shown(node)} is no condition",
                "write `always`, or a mapping such as {job.priority: batch}",
            )
        if not node.value:
            self.refuse(node.line, "the condition is empty", "write `always`")
        parts = [part for key, entry in node.value.items() for part in self._parts(key, entry)]
        return parts[0] if len(parts) == 1 else Combined(how="all", parts=tuple(parts))

    def _parts(self, key: str, entry: Entry) -> Iterable[Condition]:
        """Return what one key of a condition asks for."""
        node = entry.node
        if key == "not":
            return [Combined(how="not", parts=(self._condition(node),))]
        if key in ("all", "any"):
            if not isinstance(node.value, tuple) or not node.value:
                self.refuse(
                    entry.line,
                    f"{key} needs a list of conditions",
                    f"write {key}: [{{job.priority: batch}}, {{job.gpus: 0}}]",
                )
            if len(node.value) > MOST_ITEMS:
                self.refuse(entry.line, f"{key} has more than {MOST_ITEMS} conditions", "split it")
            parts = tuple(self._condition(item) for item in node.value)
            return [Combined(how="all" if key == "all" else "any", parts=parts)]
        subject, field, kind = self._field(key, entry)
        if not isinstance(node.value, dict):
            return [self._term(subject, field, kind, "eq", node)]
        if not node.value:
            self.refuse(entry.line, f"{key} is compared with nothing", "add an operator")
        terms = []
        for word, operand in node.value.items():
            operator = next((one for one in OPERATORS if one == word), None)
            if operator is None:
                what = f"there is no operator {quote(word)}"
                self.refuse(operand.line, what, _meant(word, OPERATORS))
            terms.append(self._term(subject, field, kind, operator, operand.node))
        return terms

    def _field(self, key: str, entry: Entry) -> tuple[str, str, Kind]:
        """Return what a key names: `job.rank` is the number `rank` of the job."""
        if key.startswith(LABELS):
            if not LABEL.fullmatch(key.removeprefix(LABELS)):
                hint = "a label is letters, digits, and _ . / - between them"
                self.refuse(entry.line, f"{quote(key)} is no label", hint)
            return "job", key.removeprefix("job."), Kind.TEXT
        subject, _, field = key.partition(".")
        kind = FIELDS.get(subject, {}).get(field)
        if kind is not None:
            return subject, field, kind
        names = [f"{one}.{name}" for one, known in FIELDS.items() for name in known]
        if key in FIELDS["job"]:
            hint = f"did you mean job.{key}?"
        elif subject in FIELDS and field:
            hint = did_you_mean(key, [name for name in names if name.startswith(f"{subject}.")])
        else:
            hint = did_you_mean(key, [*names, *COMBINATIONS])
        return self.refuse(entry.line, f"there is no condition {quote(key)}", hint)

    def _term(self, subject: str, field: str, kind: Kind, operator: Operator, node: Node) -> Term:
        name = f"{subject}.{field}"
        what = f"{name} {operator}"
        operands: tuple[Operand, ...]
        if operator == "exists":
            if not isinstance(node.value, bool):
                self.refuse(node.line, f"{what} {_shown(node)}", "write true or false")
            operands = (node.value,)
        elif kind is Kind.ANYTHING:
            hint = f"ask for one of them, {LABELS}NAME, or {{exists: true}}"
            self.refuse(node.line, f"{name} cannot be compared", hint)
        elif operator == "matches":
            operands = self._patterns(name, kind, node)
        elif operator == "in":
            operands = self._items(name, kind, node)
        else:
            if operator in ORDERING and kind is not Kind.NUMBER:
                hint = "compare it with eq, ne, in or matches"
                if name == "job.priority":
                    hint += "; the number is job.rank"
                self.refuse(node.line, f"{name} is a text, and {operator} compares numbers", hint)
            operands = (self._operand(name, kind, node),)
        return Term(
            subject=subject, field=field, operator=operator, operands=operands, line=node.line or 1
        )

    def _items(self, name: str, kind: Kind, node: Node) -> tuple[Operand, ...]:
        if not isinstance(node.value, tuple) or not 0 < len(node.value) <= MOST_ITEMS:
            hint = f"write a list of 1 to {MOST_ITEMS}, in: [one, two]"
            self.refuse(node.line, f"{name} in {_shown(node)}", hint)
        return tuple(self._operand(name, kind, item) for item in node.value)

    def _operand(self, name: str, kind: Kind, node: Node) -> Operand:
        value = node.value
        if value is None:
            hint = f"to ask whether it is there, write {name}: {{exists: true}}"
            self.refuse(node.line, f"{name} is compared with nothing", hint)
        if isinstance(value, tuple):
            hint = f"write {name}: {{in: [one, two]}}"
            self.refuse(node.line, f"{name} is compared with a list", hint)
        if kind is Kind.NUMBER:
            return self._number(name, node)
        if not isinstance(value, str):
            hint = _IN_QUOTES if not isinstance(value, dict) else "write a text"
            if name == "job.priority":
                hint = "it is interactive or batch; the number is job.rank"
            self.refuse(node.line, f"{name} is a text, {_shown(node)} is none", hint)
        if len(value) > MOST_OPERAND_CHARACTERS:
            self.refuse(
                node.line, f"the text is longer than {MOST_OPERAND_CHARACTERS}", "shorten it"
            )
        words = WORDS.get(name)
        if words is not None and value not in words:
            self.refuse(node.line, f"{name} is never {quote(value)}", did_you_mean(value, words))
        return value

    def _number(self, name: str, node: Node) -> int | float:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "write a number, without quotes"
            if name in ("job.vram", "job.memory", "pool.memory_free"):
                hint = "write the number of bytes; 1 GiB is 1073741824"
            self.refuse(node.line, f"{name} is a number, {_shown(node)} is none", hint)
        if abs(value) > _MOST_NUMBER:
            self.refuse(node.line, f"{_shown(node)} is too large", "write a number below 1e18")
        return value

    def _patterns(self, name: str, kind: Kind, node: Node) -> tuple[str, ...]:
        if kind is not Kind.TEXT:
            self.refuse(node.line, f"{name} is a number, and matches looks at texts", "use eq")
        if not isinstance(node.value, str):
            self.refuse(node.line, f"{name} matches {_shown(node)}", _IN_QUOTES)
        try:
            return translate(node.value)
        except UnsupportedError as error:
            return self.refuse(
                node.line, f"the expression {quote(node.value)} {error}", error.remedy
            )

    # -- actions ------------------------------------------------------------------

    def _action(self, node: Node) -> Action:
        hint = "write one of " + ", ".join(ACTIONS) + ", such as {dispatch: {}}"
        value = node.value
        if isinstance(value, str) and value in ("dispatch", "wait"):
            return Start() if value == "dispatch" else Pause()
        if not isinstance(value, dict) or not value:
            if isinstance(value, str) and value not in ACTIONS:
                hint = _meant(value, ACTIONS)
            self.refuse(node.line, f"{_shown(node)} is no action", hint)
        if len(value) > 1:
            self.refuse(node.line, "a rule has one action", "write a rule for each")
        ((word, entry),) = value.items()
        readers: dict[str, Callable[[Node], Action]] = {
            "dispatch": self._start,
            "wait": self._pause,
            "evict": self._evict,
            "start_worker": self._start_worker,
            "use": self._ask_platform,
        }
        if word not in readers:
            what = f"there is no action {quote(word)}"
            self.refuse(entry.line, what, _meant(word, ACTIONS))
        return readers[word](entry.node)

    def _ask_platform(self, node: Node) -> AskPlatform:
        if node.value != PLATFORM:
            what = f"there is nothing to use that is called {_shown(node)}"
            self.refuse(node.line, what, f"write use: {PLATFORM}")
        return AskPlatform()

    def _start(self, node: Node) -> Start:
        parts = self._options(node, "dispatch", ("worker_selection", "model_match"))
        start = Start()
        selection, match = start.selection, start.match
        if "worker_selection" in parts:
            word = self._word(parts["worker_selection"].node, "worker_selection", Selection)
            selection = Selection(word)
        if "model_match" in parts:
            match = Match(self._word(parts["model_match"].node, "model_match", Match))
        return Start(selection=selection, match=match)

    def _pause(self, node: Node) -> Pause:
        parts = self._options(node, "wait", ("duration_ms",))
        if "duration_ms" not in parts:
            return Pause()
        entry = parts["duration_ms"]
        return Pause(duration_ms=self._whole(entry.node, "duration_ms", least=0, most=MOST_WAIT_MS))

    def _evict(self, node: Node) -> Evict:
        parts = self._options(node, "evict", ("worker_id", "policy"))
        if len(parts) != 1:
            hint = "write evict: {policy: lru}, or the id of one"
            self.refuse(node.line, "evict needs either worker_id or policy", hint)
        if "worker_id" in parts:
            return Evict(worker=self._name(parts["worker_id"].node, "worker_id"))
        return Evict(worker=Eviction(self._word(parts["policy"].node, "policy", Eviction)))

    def _start_worker(self, node: Node) -> StartWorker:
        keys = ("model_ref", "pool_id", "gpu_id")
        parts = self._mapping(node, "start_worker", keys, required=keys[:2])
        values = {key: self._name(entry.node, key) for key, entry in parts.items()}
        return StartWorker(
            model_ref=values["model_ref"], pool_id=values["pool_id"], gpu_id=values.get("gpu_id")
        )

    # -- values -------------------------------------------------------------------

    def _options(self, node: Node, what: str, known: tuple[str, ...]) -> dict[str, Entry]:
        """Return the entries of a mapping that may as well be left out."""
        return {} if node.value is None else self._mapping(node, what, known)

    def _mapping(
        self, node: Node, what: str, known: tuple[str, ...], *, required: tuple[str, ...] = ()
    ) -> dict[str, Entry]:
        if not isinstance(node.value, dict):
            hint = f"write `{known[0]}: …` below it"
            self.refuse(node.line, f"{what} is {_shown(node)}, and no mapping", hint)
        for key, entry in node.value.items():
            if key not in known:
                hint = did_you_mean(key, known)
                self.refuse(entry.line, f"{what} has no key {quote(key)}", hint)
        for key in required:
            if key not in node.value:
                self.refuse(node.line, f"{what} has no {key}", f"add `{key}: …`")
        return node.value

    def _name(self, node: Node, what: str) -> str:
        value = node.value
        if not isinstance(value, str):
            hint = _IN_QUOTES if isinstance(value, int | float) else "write a text"
            self.refuse(node.line, f"{what} is {_shown(node)}, and no text", hint)
        if not value.strip() or len(value) > MOST_CHARACTERS or not value.isprintable():
            hint = f"write 1 to {MOST_CHARACTERS} printable characters"
            self.refuse(node.line, f"{what} cannot be {quote(value)}", hint)
        return value

    def _word(self, node: Node, what: str, known: type[StrEnum]) -> str:
        words = [str(one) for one in known]
        if not isinstance(node.value, str) or node.value not in words:
            hint = did_you_mean(node.value if isinstance(node.value, str) else "", words)
            self.refuse(node.line, f"{what} cannot be {_shown(node)}", hint)
        return node.value

    def _whole(self, node: Node, what: str, *, least: int, most: int) -> int:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            hint = f"write a whole number from {least} to {most}"
            self.refuse(node.line, f"{what} cannot be {_shown(node)}", hint)
        return value


_MOST_NUMBER = 10**18


def _meant(word: str, known: tuple[str, ...]) -> str:
    return did_you_mean(_MEANT.get(word, word), known)


def _first_line(entry: Entry) -> int:
    return entry.node.line or entry.line or 1


def _shown(node: Node) -> str:
    """Return a value as a message names it."""
    match node.value:
        case None:
            return "nothing"
        case bool():
            return str(node.value).lower()
        case str() | int() | float():
            return quote(node.value)
        case tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            assert_never(node.value)
