"""``agent``: which agents there are, how an output would be judged, and one attempt by hand."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli.add import find_prompt
from tinyscheduler.cli.options import option
from tinyscheduler.cli.parsing import duration_s, whole_number
from tinyscheduler.cli.render import (
    Cell,
    Ink,
    Row,
    cut,
    emit,
    emit_bytes,
    emit_json,
    escape,
    format_span,
    format_table,
)
from tinyscheduler.config.problems import did_you_mean, quote
from tinyscheduler.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    NotFoundError,
    UsageError,
)
from tinyscheduler.model.tasks import MOST_TURNS, Outcome, TaskSpec
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.app.agent_trial import Trial
    from tinyscheduler.cli.invocation import Invocation
    from tinyscheduler.model.config import AgentProfile, Config
    from tinyscheduler.model.tasks import AttemptResult


class Action(StrEnum):
    """What to do about agents."""

    TEST = "test"
    TRY = "try"
    LIST = "list"


_MOST_EXIT_CODE = 255
_MOST_SAMPLE_BYTES = 64 << 20
_COMMAND_WIDTH = 60
_TEXT_LINES = 10


def agent(
    context: typer.Context,
    *,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The agent; with test, also a profile.", show_default=False
        ),
    ] = None,
    sample: Annotated[
        str | None,
        option("--sample", metavar="FILE", help="For test: what it printed; - for stdin."),
    ] = None,
    exit_code: Annotated[
        int | None,
        option(
            "--exit-code",
            parser=whole_number(least=0, most=_MOST_EXIT_CODE),
            metavar="N",
            help="For test: what it exited with; 0.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, option("--prompt", metavar="TEXT", help="For try: what it is to do.")
    ] = None,
    prompt_file: Annotated[
        str | None,
        option("--prompt-file", metavar="FILE", help="For try: a file with that; - for stdin."),
    ] = None,
    recipe: Annotated[
        str | None, option("--recipe", metavar="FILE", help="For try: a recipe, by its name.")
    ] = None,
    cwd: Annotated[
        str | None, option("--cwd", metavar="DIR", help="For try: the folder; the one you are in.")
    ] = None,
    max_runtime: Annotated[
        str | None, option("--max-runtime", metavar="DURATION", help="For try: at most so long.")
    ] = None,
    max_turns: Annotated[
        int | None,
        option(
            "--max-turns",
            parser=whole_number(least=1, most=MOST_TURNS),
            metavar="N",
            help="For try: at most so many turns.",
        ),
    ] = None,
    json: Annotated[bool, option("--json", help="Print one JSON document.")] = False,
) -> int:
    """List agents, judge what one printed, or try one by hand.

    `list` shows each agent with its profile, its limits and its command. `test NAME` tells as what
    an attempt would count that printed FILE and ended with --exit-code: the outcome and its
    reason, turns, tokens, cost, and what it said last; it ends with 1 unless that is a success.
    `try NAME` runs one attempt here and now, by the rules of any other, and shows what it prints;
    it is no task, takes no slot, and Ctrl-C ends it with all that it started.
    """
    given: dict[str, object] = {
        "--sample": sample,
        "--exit-code": exit_code,
        "--prompt": prompt,
        "--prompt-file": prompt_file,
        "--recipe": recipe,
        "--cwd": cwd,
        "--max-runtime": max_runtime,
        "--max-turns": max_turns,
    }
    invocation: Invocation = context.obj
    _refuse_unused(action, name, given)
    match action:
        case Action.LIST:
            return _list(invocation, as_json=json)
        case Action.TEST:
            path = sample or ""
            return _test(invocation, name or "", path, code=exit_code or 0, as_json=json)
        case Action.TRY:
            spec = TaskSpec(
                prompt=find_prompt(prompt, prompt_file, lambda one: f"--{one.replace('_', '-')}"),
                recipe=recipe,
                cwd=_find_folder(cwd),
                max_turns=max_turns,
                max_runtime_s=_positive_s(max_runtime),
            )
            return _try(invocation, name or "", spec, as_json=json)


_USED = {
    Action.LIST: frozenset[str](),
    Action.TEST: frozenset({"--sample", "--exit-code"}),
    Action.TRY: frozenset(
        {"--prompt", "--prompt-file", "--recipe", "--cwd", "--max-runtime", "--max-turns"}
    ),
}


def _refuse_unused(action: Action, name: str | None, given: dict[str, object]) -> None:
    """Refuse what means nothing there, and what is missing."""
    hint = "`tinyscheduler agent --help`"
    for option_name, value in given.items():
        if value is not None and option_name not in _USED[action]:
            raise UsageError(f"agent {action} takes no {option_name}", hint=hint)
    if action is Action.LIST and name is not None:
        raise UsageError(f"agent list takes no {quote(name)}: it lists them all", hint=hint)
    if action is not Action.LIST and name is None:
        hint = "`tinyscheduler agent list` shows which there are"
        raise UsageError(f"agent {action} needs the name of an agent", hint=hint)
    if action is Action.TEST and given["--sample"] is None:
        hint = "name a file with what the agent printed, or - for standard input"
        raise UsageError("agent test needs a --sample", hint=hint)


def _find_folder(cwd: str | None) -> str | None:
    if cwd is None:
        return None
    path = os.path.abspath(os.path.expanduser(cwd))
    if not os.path.isdir(path):
        hint = "the agent would start there; create it first"
        raise UsageError(f"--cwd {quote(cwd)} is not a folder", hint=hint)
    return path


def _positive_s(text: str | None) -> float | None:
    found = None if text is None else duration_s("--max-runtime", text)
    if found == 0:
        raise UsageError("--max-runtime is no time at all", hint="write it as 90s, 15m or 2h")
    return found


# -- list ---------------------------------------------------------------------------


def _list(invocation: Invocation, *, as_json: bool) -> int:
    config = invocation.configure_apart()
    agents = sorted(config.agents, key=lambda one: one.name)
    if as_json:
        emit_json(agents=[_agent_json(one) for one in agents])
        return EXIT_DONE
    head = ("NAME", "PROFILE", "QUEUE", "LIMIT", "ACCOUNT", "BOUNDS", "COMMAND")
    emit("\n".join(format_table(head, [_row(one) for one in agents], invocation.page)))
    return EXIT_DONE


def _row(one: AgentProfile) -> Row:
    words = " ".join(one.command) or "the task's own"
    ink = Ink.DIM if one.limit == 0 else Ink.PLAIN
    return (
        Cell(text=one.name, ink=ink),
        one.profile,
        one.queue,
        str(one.limit),
        one.account or "-",
        ", ".join(_bounds(one)) or "-",
        cut(escape(words), _COMMAND_WIDTH),
    )


def _bounds(one: AgentProfile) -> list[str]:
    spans = (("", one.max_runtime_s), ("silent ", one.idle_output_s))
    bounds = [f"{words}{format_span(value)}" for words, value in spans if value is not None]
    if one.max_cost_usd is not None:
        bounds.insert(0, f"${one.max_cost_usd:g}")
    if one.max_tokens is not None:
        bounds.insert(0, f"{one.max_tokens:,} tokens")
    return bounds if one.max_turns is None else [f"{one.max_turns} turns", *bounds]


def _agent_json(one: AgentProfile) -> dict[str, Any]:
    return {
        "name": one.name,
        "profile": one.profile,
        "queue": one.queue,
        "limit": one.limit,
        "account": one.account,
        "command": list(one.command),
        "env": list(one.environment),
        "stdin": one.stdin.value,
        "max_runtime_sec": one.max_runtime_s,
        "max_turns": one.max_turns,
        "max_tokens": one.max_tokens,
        "max_cost_usd": one.max_cost_usd,
        "idle_output_sec": one.idle_output_s,
    }


# -- test ---------------------------------------------------------------------------


def _test(invocation: Invocation, name: str, path: str, *, code: int, as_json: bool) -> int:
    from tinyscheduler.app.agent_samples import find_rules, judge_sample

    profile = find_rules(invocation.configure_apart(), name)
    found = judge_sample(profile, _read_sample(path), code)
    end = _End(
        outcome=found.outcome,
        reason=found.reason,
        words=found.words,
        turns=found.turns,
        tokens=found.tokens,
        cost_usd=found.cost_usd,
    )
    if as_json:
        emit_json(agent=name, profile=found.profile, **end.document(), text=found.text)
    else:
        said = [cut(escape(line), 200) for line in found.text.splitlines()[-_TEXT_LINES:]]
        lines = [("profile", found.profile), *end.lines(), *(("said", one) for one in said[:1])]
        emit("\n".join([*_aligned(lines), *(f"{' ' * 10}{one}" for one in said[1:])]))
    return EXIT_DONE if found.outcome is Outcome.SUCCEEDED else EXIT_FAILED


def _read_sample(path: str) -> bytes:
    try:
        if path == "-":
            content = sys.stdin.buffer.read(_MOST_SAMPLE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(_MOST_SAMPLE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        hint = "name a file that you may read, such as a log below state/logs/tasks"
        raise UsageError(f"--sample: cannot read {quote(path)}: {reason}", hint=hint) from error
    if len(content) > _MOST_SAMPLE_BYTES:
        size = f"{_MOST_SAMPLE_BYTES >> 20} MiB"
        raise UsageError(f"--sample: {quote(path)} is larger than {size}", hint="give its end")
    return content


# -- try ----------------------------------------------------------------------------


def _try(invocation: Invocation, name: str, spec: TaskSpec, *, as_json: bool) -> int:
    from tinyscheduler.app.agent_trial import Trial
    from tinyscheduler.app.place import refuse_inside_attempt
    from tinyscheduler.cli.scratch import heeding_signals, scratch_folder
    from tinyscheduler.cli.wish import fault_of

    config = invocation.configure_trying()
    chosen = _find_agent(config, name)
    refuse_inside_attempt(config, os.environ)
    if not chosen.command:
        hint = "run it yourself: what it exits with says all"
        raise UsageError(f"agent {name} runs the command of a task, and there is none", hint=hint)
    fault = fault_of(chosen, spec)
    if fault is not None:
        raise fault
    cwd = spec.cwd or chosen.cwd or os.getcwd()
    with scratch_folder(invocation, "trial") as scratch, heeding_signals():
        trial = Trial(config, scratch.path)
        trial.start(chosen, _with_folder(spec, cwd))
        result, is_interrupted = _follow(invocation, trial, to_stderr=as_json)
    if as_json:
        emit_json(agent=name, profile=chosen.profile, **_end_of(result).document())
    else:
        emit("\n".join(["", *_aligned(_end_of(result).lines())]))
    if is_interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DONE if result.outcome is Outcome.SUCCEEDED else EXIT_FAILED


def _with_folder(spec: TaskSpec, cwd: str) -> TaskSpec:
    from tinyscheduler.values import replace

    return replace(spec, cwd=cwd)


def _find_agent(config: Config, name: str) -> AgentProfile:
    found = config.agent(name)
    if found is None:
        known = [one.name for one in config.agents]
        raise NotFoundError(f"there is no agent {quote(name)}", hint=did_you_mean(name, known))
    return found


def _follow(invocation: Invocation, trial: Trial, *, to_stderr: bool) -> tuple[AttemptResult, bool]:
    """Show what it prints until it has ended; Ctrl-C asks it to, and waits for that."""

    def copy(block: bytes) -> None:
        if to_stderr:
            os.write(sys.stderr.fileno(), block)
        else:
            emit_bytes(block)

    is_interrupted = False
    while True:
        try:
            return trial.follow(copy), is_interrupted
        except KeyboardInterrupt:
            if not is_interrupted:
                invocation.note("ending it, and all that it started")
            is_interrupted = True
            trial.ask_to_end()
        except BaseException:
            # Whatever keeps us from watching: nothing stays behind.
            trial.ask_to_end()
            raise


# -- how it ended -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How an attempt ended, and what it took."""

    outcome: Outcome
    reason: str | None
    words: str
    turns: int | None
    tokens: int | None
    cost_usd: float | None
    took: str = ""

    def lines(self) -> list[tuple[str, str]]:
        told = [("outcome", self.outcome.value)]
        if self.reason is not None:
            told.append(("reason", self.reason))
        if self.words:
            told.append(("words", escape(self.words)))
        for name, value in (("turns", self.turns), ("tokens", self.tokens)):
            if value is not None:
                told.append((name, f"{value:,}"))
        if self.cost_usd is not None:
            told.append(("cost", f"${self.cost_usd:,.4g}"))
        return [*told, ("took", self.took)] if self.took else told

    def document(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome.value,
            "failure_reason": self.reason,
            "message": self.words,
            "turns": self.turns,
            "tokens": self.tokens,
            "cost_usd": self.cost_usd,
        }


def _end_of(result: AttemptResult) -> _End:
    return _End(
        outcome=result.outcome,
        reason=None if result.failure_reason is None else result.failure_reason.value,
        words=result.message,
        turns=result.turns,
        tokens=result.tokens,
        cost_usd=result.cost_usd,
        took=format_span(result.duration_s),
    )


def _aligned(lines: list[tuple[str, str]]) -> list[str]:
    return [f"{f'{name}:':<10}{value}".rstrip() for name, value in lines]
