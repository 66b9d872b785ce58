"""What must hold of a policy in YAML, whatever is in its file."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tests.builders import NOW, a_task
from tests.policy.asking import a_context, a_policy, endless_s, in_time, timed
from tests.policy.documents import ATTACKS, MARKER
from tests.policy.published import SCHEMA, is_valid

from tinyscheduler.errors import ConfigError, PolicyError, PolicyLateError
from tinyscheduler.model.policy import AgentView, GpuView, ModelView, PolicyContext, TenantView
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.policy.compiled import lua_text
from tinyscheduler.policy.compiling import compile_policy
from tinyscheduler.policy.rules import (
    FIELDS,
    AskPlatform,
    Evict,
    Pause,
    Start,
    StartWorker,
    parse_rules,
)
from tinyscheduler.tree import Node, read_tree
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tinyscheduler.policy.context import Answer
    from tinyscheduler.policy.rules import Rule

NAME = "policies/p.yaml"
# What nobody can say in which line it is: the whole file is too much.
_WHOLE = (
    f"{NAME}: the policy is too long (more than 65536 bytes)",
    f"{NAME}: as Lua the policy has more than the 262144 bytes that one may have",
)
_PLACE = re.compile(rf"{re.escape(NAME)}:([1-9][0-9]*)(?: \(rule (.+?)\))?: \S", re.DOTALL)
_TIME_IS_OVER = re.compile(
    rf"{re.escape(NAME)}(:[1-9][0-9]* \(rule .+\))?: schedule took longer than [0-9]+ ms"
)
# In what a policy may end that was compiled: it never breaks, it only may be too much.
_TOO_MUCH = ("timeout", "memory")
# One of so many is asked about a thousand tasks, and all that have so many bytes.
_CROWDED, _LARGE = 8, 4000
# The only words in what becomes of a policy, outside of its texts and comments.
_WORDS = {name for known in FIELDS.values() for name in known} | {
    *("function", "schedule", "local", "context", "metrics", "batch", "new_batch", "return", "end"),
    *("for", "in", "do", "_", "job", "jobs", "startable", "pool", "pools", "ipairs", "break"),
    *("if", "then", "and", "or", "not", "nil", "true", "false", "matches", "labels", "decisions"),
    *("dispatch", "wait", "hand_over", "ask", "platform", "evict", "evict_idle", "start_worker"),
    *("model_ref", "pool_id", "gpu_id"),
}
_TEXT = r'"(?:[^"\\\n\r]|\\["\\]|\\[0-9]{3})*"'
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})|-- Policy {_TEXT}(?:, version {_TEXT})?, compiled from YAML: [a-z ]+\.\n"
    rf"|-- rule {_TEXT}, line [0-9]+(?:, priority -?[0-9]+)?\n|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|-?[0-9][0-9.]*(?:e[+-]?[0-9]+)?|[~<>=]=|[<>=(){}\[\].,]|[ \n]+"
)
_ACTIONS: Mapping[type, str] = {
    Start: "dispatch",
    AskPlatform: "dispatch",
    Pause: "wait",
    Evict: "evict",
    StartWorker: "start_worker",
}


def a_world() -> PolicyContext:
    """Return one in which most conditions hold for something; texts of tasks attack, too."""
    wishes: Iterable[dict[str, Any]] = (
        {},
        {"tenant": "red", "priority": 2, "seed": 0},
        {"tenant": ATTACKS[0], "title": ATTACKS[1], "project": "end"},
        {"queue": "dev", "model": "large"},
        {"agent": "tester", "labels": (("x", ATTACKS[2]), ("team/a", "red"))},
        {"queue": "dev", "gpus": 1, "blocks": 3, "attempt": 2},
        {"vram_bytes": 8 << 30, "memory_bytes": 1 << 30, "model": "small", "seed": 2**53},
        {"priority_class": PriorityClass.INTERACTIVE, "created_at": NOW.wall - timedelta(hours=1)},
    )
    tasks = [a_task(str(at), created_order=at, **more) for at, more in enumerate(wishes, 1)]
    return a_context(
        *tasks,
        agents=(
            AgentView(name="coder", queue="dev", limit=3, active=1),
            AgentView(name="tester", queue="dev", limit=2, active=0, model="large"),
        ),
        host_slots_free=4,
        gpus=(GpuView(index=0, uuid="GPU-0", name="RTX", total_bytes=24 << 30, is_idle=True),),
        models=(
            ModelView(model="large", host="box", slots=2, used=1, free=1),
            ModelView(model="small", host="local", slots=1, used=0, free=1),
        ),
        tenants=(
            TenantView(name="red", slots=2, vram_bytes=None, used_slots=1, used_vram_bytes=0),
        ),
        skips={("local", "2"): 1},
        turns={("local", "3"): 60.0},
        is_priority_enabled=True,
        memory_pressure="warning",
    )


def a_crowd() -> PolicyContext:
    """Return the same with a thousand tasks, for which some policies have no time."""
    few = a_world()
    many = [replace(one, task_id=f"{one.task_id}0{at}") for at in range(125) for one in few.waiting]
    return replace(few, waiting=tuple(many))


WORLD, CROWD = a_world(), a_crowd()


def judge(base: Path, content: bytes, *, most_s: float) -> tuple[str, str | None]:
    """Return what became of a policy, and what is wrong with that, if anything.

    ``base`` is the current folder: what runs by mistake leaves a file there.  No answer may
    take longer than ``most_s``.
    """
    try:
        outcome, wrong = _judge(base, content, most_s=most_s)
    except Exception as error:  # noqa: BLE001 - which would have ended a tick
        return "broken", f"{type(error).__name__}: {error}"
    if os.path.lexists(MARKER):
        os.unlink(MARKER)
        wrong = "it made a file"
    return outcome, wrong


def _judge(base: Path, content: bytes, *, most_s: float) -> tuple[str, str | None]:
    outcome, wrong = judge_text(content)
    if outcome == "refused":
        return outcome, wrong or _blame_again(base, content)
    outcome, wrong_then = in_time(
        lambda: _ask_twice(base, content), lambda: endless_s(base), most_s=most_s
    )
    return outcome, wrong or wrong_then


def judge_text(content: bytes) -> tuple[str, str | None]:
    """Return whether it is compiled or refused, and what is wrong with that; nobody asks it."""
    try:
        compiled = compile_policy(content, path=NAME)
    except PolicyError as refusal:
        return "refused", blame_refusal(refusal, content)
    wrong = blame_lua(compiled.lua)
    if compile_policy(content, path=NAME) != compiled:
        wrong = "compiled again it is another"
    if not is_valid(plain(read_tree(content, NAME)), SCHEMA):
        wrong = "the published schema refuses it"
    return "compiled", wrong


# -- what is refused -------------------------------------------------------------------


def blame_refusal(refusal: PolicyError, content: bytes) -> str | None:
    """Return what is wrong with what is said of a file that is no policy."""
    said = f"{refusal.what} [{refusal.hint}]"
    if refusal.cause != "syntax" or not refusal.hint or not said.isprintable():
        return f"badly refused ({refusal.cause}): {said!r}"
    if refusal.what in _WHOLE:
        return None
    found = _PLACE.match(refusal.what)
    if found is None:
        return f"names no line: {said}"
    text = content.decode(errors="replace")
    if int(found[1]) > max(1, len(text.splitlines())):
        return f"names a line that is not there: {said}"
    named = _rules_at(int(found[1]), content)
    if named and not any(
        refusal.what.startswith(f"(rule {one}): ", found.end(1) + 1) for one in named
    ):
        return f"names no rule of {named}: {said}"
    return None


def _rules_at(line: int, content: bytes) -> Sequence[str]:
    """Return what the rules are called that have something in this line, and nothing else has."""
    try:
        root = read_tree(content, NAME)
    except ConfigError:
        return ()  # of what cannot be read nobody knows the rules
    scheduler = _part(root, "scheduler")
    rules = _part(scheduler, "rules")
    if rules is None or not isinstance(rules.value, tuple):
        return ()
    besides = {one for top in (root, scheduler) if top is not None for one in _own_lines(top)}
    if line in besides | {rules.line}:
        return ()
    return [_called(rule, at) for at, rule in enumerate(rules.value, 1) if line in _lines_of(rule)]


def _part(node: Node | None, key: str) -> Node | None:
    if node is None or not isinstance(node.value, dict) or key not in node.value:
        return None
    return node.value[key].node


def _called(rule: Node, at: int) -> str:
    name = _part(rule, "name")
    text = name.value if name is not None else None
    return lua_text(text[:64]) if isinstance(text, str) else str(at)


def _own_lines(node: Node) -> Iterator[int | None]:
    """Yield the lines of a mapping itself: its own, those of its keys, and of their values."""
    yield node.line
    if isinstance(node.value, dict):
        for entry in node.value.values():
            yield from (entry.line, entry.node.line)


def _lines_of(node: Node) -> set[int | None]:
    """Return all lines in which something of it begins."""
    found = {*_own_lines(node)}
    inner: Iterable[Node] = ()
    if isinstance(node.value, dict):
        inner = [entry.node for entry in node.value.values()]
    elif isinstance(node.value, tuple):
        inner = node.value
    return found.union(*map(_lines_of, inner))


def _blame_again(base: Path, content: bytes) -> str | None:
    """Return how a tick would be told something else."""
    policy = a_policy(base, content, name="p.yaml")
    told, _ = timed(policy, WORLD)
    policy.close()
    try:
        compile_policy(content, path=NAME)
    except PolicyError as refusal:
        if told is None or (told.what, told.cause) != (refusal.what, refusal.cause):
            return f"a tick is told {told!r}, not {refusal!r}"
    return None


# -- what is compiled ------------------------------------------------------------------


def plain(node: Node) -> Any:
    """Return what was read as values of JSON."""
    match node.value:
        case dict():
            return {key: plain(entry.node) for key, entry in node.value.items()}
        case tuple():
            return [plain(item) for item in node.value]
        case _:
            return node.value


def blame_lua(lua: str) -> str | None:
    """Return what stands in the Lua that none of its rules may write: texts stay in quotes."""
    at = 0
    while at < len(lua):
        found = _TOKEN.match(lua, at)
        if found is None or (found["word"] and found["word"] not in _WORDS):
            return f"an operand got out of its quotes: {lua[at : at + 60]!r}"
        if not found[0].replace("\n", "").isprintable():
            return f"it holds what cannot be seen: {found[0]!r}"
        at = found.end()
    return None


def _ask_twice(base: Path, content: bytes) -> tuple[str, str | None, float]:
    """Return what its process says, what is wrong with that, and the longer of the times."""
    policy = a_policy(base, content, name="p.yaml")
    is_crowded = len(content) > _LARGE or crc32(content) % _CROWDED == 0
    world = CROWD if is_crowded else WORLD
    try:
        failed, took_s = timed(policy, world)
        if failed is None:
            failed, then_s = timed(policy, world)
            took_s = max(took_s, then_s)
    finally:
        policy.close()
    if failed is not None:
        return (*blame_failure(failed), took_s)
    first, second = policy.answers
    wrong = blame_answer(first, parse_rules(content, path=NAME).rules, world)
    if first.decisions != second.decisions:
        wrong = "asked again it decides something else"
    return "answered", wrong, took_s


def blame_failure(error: PolicyError) -> tuple[str, str | None]:
    """Return how a policy that was compiled ended, and what is wrong with that."""
    if isinstance(error, PolicyLateError):
        return "late", None
    if error.cause not in _TOO_MUCH:
        return error.cause, f"what was compiled breaks: {error.what}"
    if error.log or not error.what.isprintable():
        return error.cause, f"it said something: {error.what!r} {error.log}"
    if NAME in error.what and _TIME_IS_OVER.match(error.what) is None:
        return error.cause, f"it names no place in its file: {error.what}"
    return error.cause, None


def blame_answer(answer: Answer, rules: Sequence[Rule], world: PolicyContext) -> str | None:
    """Return what of an answer none of the rules says."""
    if answer.log or answer.metrics:
        return f"it got hold of something: {answer.log} {dict(answer.metrics)}"
    actions = {rule.name: _ACTIONS[type(rule.action)] for rule in rules}
    decided: set[str] = set()
    for one in answer.decisions:
        if one["action"] != actions.get(one["reason"]):
            return f"no rule says {one}"
        if "job_id" in one:
            if one["job_id"] in decided:
                return f"it decided twice about job {one['job_id']}"
            decided.add(one["job_id"])
    if decided - {task.task_id for task in world.waiting}:
        return f"it decided about jobs that are not there: {decided}"
    starts, free = len(answer.proposals), world.host_slots_free
    if starts > free:
        return f"it asked for {starts} starts, and {free} slots are free"
    return None
