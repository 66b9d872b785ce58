"""Rules become Lua that a person can read, with a map back to the lines of the YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from tinyscheduler.errors import PolicyError
from tinyscheduler.policy.compiled import Compiled, Origin, lua_text
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.policy.rules import (
    Always,
    AskPlatform,
    Combined,
    Evict,
    Eviction,
    Pause,
    Start,
    StartWorker,
    Term,
    parse_rules,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyscheduler.policy.rules import Action, Condition, Operand, Rule, RuleSet

_LONGEST_LINE = 100


def compile_policy(content: bytes, *, path: str) -> Compiled:
    """Compile what is in a file of this name; raises PolicyError for the first fault in it."""
    compiled = compile_rules(parse_rules(content, path=path))
    most = LuaLimits().source_bytes
    if len(compiled.lua.encode()) > most:
        message = f"{path}: as Lua the policy has more than the {most} bytes that one may have"
        raise PolicyError(message, cause="syntax", hint="write fewer rules, or shorter lists")
    return compiled


def compile_rules(rules: RuleSet) -> Compiled:
    """Return the rules as Lua."""
    text = _Text()
    version = f", version {lua_text(rules.version)}" if rules.version else ""
    text.add(f"-- Policy {lua_text(rules.name)}{version}, compiled from YAML: change that instead.")
    text.add("")
    text.add("function schedule(context)")
    text.add("  local metrics, batch = context.metrics, new_batch()")
    for rule in rules.rules:
        text.begin(rule)
        _write(rule, text)
    text.end()
    text.add("  return batch.decisions()")
    text.add("end")
    return Compiled(
        name=rules.name,
        version=rules.version,
        lua="\n".join(text.lines) + "\n",
        origins=tuple(text.origins),
    )


class _Text:
    """Lines, and which rule they are of."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.origins: list[Origin] = []
        self._rule: Rule | None = None

    def begin(self, rule: Rule) -> None:
        """All lines from here on are of this rule."""
        self.add("")
        self._rule = rule
        priority = f", priority {rule.priority}" if rule.priority else ""
        self.add(f"  -- rule {lua_text(rule.name)}, line {rule.line}{priority}")

    def end(self) -> None:
        """No line from here on is of a rule."""
        self._rule = None
        self.add("")

    def add(self, line: str, *, origin: int | None = None) -> None:
        """Add a line, which comes from this one of the YAML, or from where its rule begins."""
        self.lines.append(line)
        if self._rule is not None:
            self.origins.append(
                Origin(
                    lua_line=len(self.lines),
                    rule=self._rule.name,
                    line=self._rule.line if origin is None else origin,
                )
            )


def _write(rule: Rule, text: _Text) -> None:
    """Write the loops, the condition and the action of a rule."""
    subjects = set(_subjects(rule.condition))
    is_about_jobs = isinstance(rule.action, Start | Pause | AskPlatform)
    indent = "  "
    # What is done once needs no job, unless it depends on one.
    if is_about_jobs or "job" in subjects:
        jobs = "startable" if isinstance(rule.action, Start) else "jobs"
        text.add(f"{indent}for job in batch.{jobs}() do", origin=rule.condition_line)
        indent += "  "
    if "pool" in subjects:
        text.add(f"{indent}for _, pool in ipairs(context.pools) do", origin=rule.condition_line)
        indent += "  "
    outer = indent
    if not isinstance(rule.condition, Always):
        for line, origin in _if(rule.condition, indent, rule.condition_line):
            text.add(line, origin=origin)
        indent += "  "
    _write_action(rule, text, indent, subjects=subjects)
    if len(indent) > len(outer):
        text.add(f"{outer}end")
    while len(outer) > len("  "):
        outer = outer[2:]
        text.add(f"{outer}end")
    if isinstance(rule.action, AskPlatform):
        text.add(f"  batch.ask(platform.schedule, {lua_text(rule.name)})", origin=rule.action_line)


def _write_action(rule: Rule, text: _Text, indent: str, *, subjects: set[str]) -> None:
    """Write what is done where the condition holds, and leave the innermost loop after that."""
    call = _call(rule.action, lua_text(rule.name))
    has_pool = "pool" in subjects
    if isinstance(rule.action, Start) and has_pool:
        # Who asks which pool it is means that one; where nothing of it is free another may do.
        if _names_pool(rule.condition):
            call = f"{call[:-1]}, pool.id)"
        call = f"if {call} then break end"
    text.add(f"{indent}{call}", origin=rule.action_line)
    is_once = isinstance(rule.action, Evict | StartWorker) and "job" in subjects
    if is_once or (has_pool and not isinstance(rule.action, Start)):
        text.add(f"{indent}break", origin=rule.action_line)


def _call(action: Action, rule: str) -> str:
    match action:
        case Start():
            how = f"{lua_text(action.selection)}, {lua_text(action.match)}"
            return f"batch.dispatch(job, {how}, {rule})"
        case Pause():
            return f"batch.wait(job, {_or_nil(action.duration_ms)}, {rule})"
        case AskPlatform():
            return "batch.hand_over(job)"
        case Evict(worker=Eviction()):
            return f"batch.evict_idle({lua_text(action.worker)}, {rule})"
        case Evict():
            return f"batch.evict({lua_text(action.worker)}, {rule})"
        case StartWorker():
            what = f"model_ref = {lua_text(action.model_ref)}"
            what += f", pool_id = {lua_text(action.pool_id)}"
            if action.gpu_id is not None:
                what += f", gpu_id = {lua_text(action.gpu_id)}"
            return f"batch.start_worker({{ {what} }}, {rule})"
        case _:
            assert_never(action)


def _or_nil(value: int | None) -> str:
    return "nil" if value is None else str(value)


def _if(condition: Condition, indent: str, line: int) -> Iterator[tuple[str, int]]:
    """Yield the lines that ask for a condition, and where they come from."""
    whole = f"{indent}if {_expression(condition)} then"
    if not isinstance(condition, Combined) or condition.how == "not" or len(whole) < _LONGEST_LINE:
        yield whole, _line_of(condition, line)
        return
    joint = "and" if condition.how == "all" else "or"
    for at, part in enumerate(condition.parts):
        begin = "if" if at == 0 else f"  {joint}"
        end = " then" if at == len(condition.parts) - 1 else ""
        yield f"{indent}{begin} {_inner(part)}{end}", _line_of(part, line)


def _line_of(condition: Condition, line: int) -> int:
    match condition:
        case Term():
            return condition.line
        case Combined():
            return _line_of(condition.parts[0], line)
        case Always():
            return line
        case _:
            assert_never(condition)


def _subjects(condition: Condition) -> Iterator[str]:
    match condition:
        case Term():
            yield condition.subject
        case Combined():
            for part in condition.parts:
                yield from _subjects(part)
        case Always():
            return
        case _:
            assert_never(condition)


def _names_pool(condition: Condition) -> bool:
    match condition:
        case Term():
            return (condition.subject, condition.field) == ("pool", "id")
        case Combined():
            return any(map(_names_pool, condition.parts))
        case Always():
            return False
        case _:
            assert_never(condition)


def _inner(condition: Condition) -> str:
    """Return a condition as a part of another."""
    text = _expression(condition)
    return f"({text})" if isinstance(condition, Combined) and condition.how != "not" else text


def _expression(condition: Condition) -> str:
    match condition:
        case Always():
            return "true"
        case Term():
            return _comparison(condition)
        case Combined(how="not"):
            return f"not ({_expression(condition.parts[0])})"
        case Combined():
            joint = " and " if condition.how == "all" else " or "
            return joint.join(map(_inner, condition.parts))
        case _:
            assert_never(condition)


_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _comparison(term: Term) -> str:
    """Return one comparison; what is not there is neither less nor more than anything."""
    value = f"{term.subject}.{term.field}"
    if term.field.startswith("labels."):
        label = lua_text(term.field.removeprefix("labels."))
        value = f"(job.labels or {{}})[{label}]"
    first = lua_value(term.operands[0])
    match term.operator:
        case "exists":
            return f"{value} ~= nil" if term.operands[0] else f"{value} == nil"
        case "eq":
            return f"{value} == {first}"
        case "ne":
            return f"{value} ~= {first}"
        case "lt" | "le" | "gt" | "ge":
            return f"({value} ~= nil and {value} {_COMPARISONS[term.operator]} {first})"
        case "in":
            return "(" + " or ".join(f"{value} == {lua_value(one)}" for one in term.operands) + ")"
        case "matches":
            return f"matches({value}, {', '.join(map(lua_value, term.operands))})"
        case _:
            assert_never(term.operator)


def lua_value(value: Operand) -> str:
    """Return a literal."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return lua_text(value)
        case _:
            assert_never(value)
