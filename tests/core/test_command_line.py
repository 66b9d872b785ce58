"""Which argv runs a task."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import an_agent

from tinyscheduler.core.command_line import (
    MOST_ARGUMENT_BYTES,
    PLACEHOLDERS,
    Unfilled,
    budget_header,
    build_argv,
    uses,
)
from tinyscheduler.model.tasks import TaskSpec

VALUES = {name: f"<{name}>" for name in PLACEHOLDERS if name != "command"}
NO_COMMAND = TaskSpec(prompt="do it")
texts = st.text(st.characters(exclude_categories=["Cs"]))


def argv(
    *template: str, spec: TaskSpec = NO_COMMAND, **values: str | None
) -> tuple[str, ...] | Unfilled:
    return build_argv(an_agent(command=template), spec, {**VALUES, **values})


def why(answer: tuple[str, ...] | Unfilled) -> str:
    assert isinstance(answer, Unfilled)
    return answer.words


@given(st.lists(texts, min_size=1).map(tuple))
def test_an_agent_without_a_command_runs_the_tasks_own_untouched(command: tuple[str, ...]):
    spec = TaskSpec(command=("run", "{task_id}", *command))

    assert argv(spec=spec) == spec.command


def test_neither_agent_nor_task_has_a_command():
    assert why(argv()) == "agent coder has no command, and the task brings none"


@pytest.mark.parametrize("name", [name for name in PLACEHOLDERS if name != "command"])
def test_every_placeholder_is_filled(name: str):
    assert argv("run", f"--x={{{name}}}!") == ("run", f"--x=<{name}>!")


def test_a_placeholder_may_stand_twice_in_an_item():
    assert argv("{task_id}/{attempt}/{task_id}") == ("<task_id>/<attempt>/<task_id>",)


@given(texts)
def test_a_value_stays_one_argument_and_is_not_filled_again(text: str):
    prompt = f"{text} {{task_id}} {{prompt}} $(x) ' \" \\"

    assert argv("run", "{prompt}", prompt=prompt) == ("run", prompt)


@pytest.mark.parametrize(
    "item", ["{}", "{unknown}", '{"json": 1}', "{task_id", "{ task_id }", "{0}"]
)
def test_braces_that_name_no_placeholder_stay_as_they_are(item: str):
    assert argv("run", item) == ("run", item)


def test_an_empty_value_is_filled_in():
    assert argv("run", "{model_endpoint}", model_endpoint="") == ("run", "")


@pytest.mark.parametrize("missing", [{"recipe": None}, {}])
def test_every_placeholder_without_a_value_is_named(missing: dict[str, None]):
    values = {name: value for name, value in VALUES.items() if name not in {"recipe", "model"}}
    agent = an_agent(command=("run", "{recipe}", "{model}", "{recipe}", "{task_id}"))

    answer = build_argv(agent, NO_COMMAND, {**values, **missing})

    assert why(answer) == (
        "the command of agent coder needs {model}, {recipe}, which neither the task nor the "
        "agent sets"
    )


@given(st.lists(texts, min_size=1).map(tuple))
def test_the_tasks_command_is_one_argument_that_a_shell_splits_as_it_was(
    command: tuple[str, ...],
):
    filled = argv("sh", "-c", "{command}", spec=TaskSpec(command=command))

    assert filled == ("sh", "-c", shlex.join(command))
    assert tuple(shlex.split(shlex.join(command))) == command


def test_the_tasks_command_is_missing_where_only_the_template_asks_for_it():
    assert "{command}" in why(argv("sh", "-c", "{command}"))


def test_a_task_with_a_command_needs_an_agent_that_can_run_it():
    assert "cannot run the task's" in why(argv("goose", spec=TaskSpec(command=("make",))))


@pytest.mark.parametrize("is_own", [True, False])
def test_an_argument_longer_than_the_kernel_takes_is_refused_before_the_start(*, is_own: bool):
    longest = "é" * (MOST_ARGUMENT_BYTES // 2) + "x"
    assert len(longest.encode()) == MOST_ARGUMENT_BYTES

    def with_argument(text: str) -> tuple[str, ...] | Unfilled:
        if is_own:
            return argv(spec=TaskSpec(command=("run", text)))
        return argv("run", "{prompt}", prompt=text)

    assert with_argument(longest) == ("run", longest)
    assert f"{MOST_ARGUMENT_BYTES + 1} bytes" in why(with_argument(longest + "x"))


def test_an_argument_that_is_no_text_is_refused_before_the_start():
    assert "not valid Unicode" in why(argv("run", "{prompt}", prompt="\ud800"))


def test_a_file_name_that_is_not_unicode_is_passed_as_it_is():
    assert argv("run", "{cwd}", cwd="/\udcff") == ("run", "/\udcff")


def test_an_agent_uses_the_placeholders_of_its_command():
    agent = an_agent(command=("run", "--recipe={recipe}"))

    assert uses(agent, "recipe")
    assert not uses(agent, "prompt")
    assert not uses(an_agent(), "recipe")


def test_a_template_is_filled_whatever_the_profile_is_called():
    agent = an_agent("a-b", command=("run", "{agent}"))

    assert build_argv(agent, NO_COMMAND, {"agent": "a-b"}) == ("run", "a-b")


def test_a_budget_is_told_in_minutes_or_where_it_is_short_in_seconds():
    assert "7 turns and 90 seconds." in budget_header(max_turns=7, max_runtime_s=90)
    assert "7 turns and 2 minutes." in budget_header(max_turns=7, max_runtime_s=120)
