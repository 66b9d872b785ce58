"""A few of the documents of `scripts/campaign policy`, other ones each time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.campaigns import campaign_policy
from tests.docs.pages import TOP
from tests.policy.asking import in_time
from tests.policy.documents import ATTACKS, MARKER, a_document
from tests.policy.judging import (
    NAME,
    WORLD,
    blame_answer,
    blame_failure,
    blame_lua,
    blame_refusal,
    judge,
    judge_text,
)
from tests.policy.test_rules import a_policy

from tinyscheduler.errors import PolicyError, PolicyLateError
from tinyscheduler.policy.compiled import lua_text
from tinyscheduler.policy.compiling import compile_policy
from tinyscheduler.policy.context import Answer
from tinyscheduler.policy.rules import ACTIONS, COMBINATIONS, FIELDS, OPERATORS, parse_rules

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = a_policy().encode()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_random_document_is_refused_with_its_line_or_decides_as_its_rules_say(base: Path):
    seed = random.randrange(2**32)
    draw = random.Random(seed)

    wrong = [judge(base, a_document(draw), most_s=60)[1] for _ in range(60)]

    assert [one for one in wrong if one is not None] == [], f"seed {seed}"


@pytest.mark.parametrize(("has_libyaml", "number"), [(True, 200), (False, 40)])
def test_a_random_document_is_refused_with_its_line_or_becomes_harmless_lua(
    monkeypatch: pytest.MonkeyPatch,
    has_libyaml: bool,  # noqa: FBT001 - a case
    number: int,
):
    if not has_libyaml:
        monkeypatch.delattr(yaml, "CSafeLoader")
    seed = random.randrange(2**32)
    draw = random.Random(seed)

    wrong = [judge_text(a_document(draw))[1] for _ in range(number)]

    assert [one for one in wrong if one is not None] == [], f"seed {seed}"


def test_about_half_of_them_are_policies_and_all_that_one_can_say_is_said():
    draw = random.Random(1)
    documents = [a_document(draw) for _ in range(300)]

    outcomes = Counter(judge_text(one)[0] for one in documents)

    assert 0.35 < outcomes["compiled"] / len(documents) < 0.75
    said = b"".join(documents).decode(errors="replace")
    fields = [f"{subject}.{name}" for subject, known in FIELDS.items() for name in known]
    for word in (*fields, *OPERATORS, *COMBINATIONS, *ACTIONS):
        assert word in said
    assert said.count(MARKER) > len(documents)


_PRINT_DIGEST = """
import random
from hashlib import sha256
from tests.policy.documents import a_document
from tinyscheduler.errors import PolicyError
from tinyscheduler.policy.compiling import compile_policy
draw, found = random.Random(2), sha256()
for _ in range(60):
    try:
        found.update(compile_policy(a_document(draw), path="p.yaml").lua.encode())
    except PolicyError as error:
        found.update(str(error).encode())
print(found.hexdigest())
"""


def test_in_every_process_the_same_becomes_of_a_document():
    said = set()

    for seed in "12":
        environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{TOP}/src:{TOP}"}
        argv = (sys.executable, "-c", _PRINT_DIGEST)
        done = subprocess.run(argv, env=environ, capture_output=True, check=True)
        said.add(done.stdout)

    assert len(said) == 1


# -- what is noticed -----------------------------------------------------------------


@pytest.mark.parametrize("text", [one for one in ATTACKS if MARKER in one])
def test_a_text_that_is_pasted_is_noticed_and_one_in_quotes_is_none(text: str):
    lua = compile_policy(a_policy(condition="{job.tenant: HERE}").encode(), path=NAME).lua
    assert '"HERE"' in lua

    def blamed(written: str) -> bool:
        return blame_lua(lua.replace('"HERE"', written)) is not None

    assert not blamed(lua_text(text))
    assert blamed(text) or blamed(f'"{text}"')


@pytest.mark.parametrize("comment", ['-- rule "x"]] os', '--[[ rule "x", line 5', "-- os"])
def test_a_comment_that_is_none_of_the_compilers_is_noticed(comment: str):
    lua = compile_policy(PLAIN, path=NAME).lua

    assert blame_lua(lua.replace('-- rule "night", line 4', comment)) is not None


@pytest.mark.parametrize(
    ("said", "hint", "cause"),
    [
        ("p.yaml: not YAML", "do", "syntax"),
        (f"{NAME}: not YAML", "do", "syntax"),
        (f"{NAME}:99: not YAML", "do", "syntax"),
        (f"{NAME}:0: not YAML", "do", "syntax"),
        (f"{NAME}:6: 'x' is no action", "do", "syntax"),
        (f'{NAME}:6 (rule "day"): no action', "do", "syntax"),
        (f'{NAME}:6 (rule "night"): no action', None, "syntax"),
        (f'{NAME}:6 (rule "night"): no action', "do", "error"),
        (f'{NAME}:6 (rule "night"): no \x1b[31m action', "do", "syntax"),
    ],
)
def test_a_refusal_that_does_not_say_where_is_noticed(said: str, hint: str | None, cause: str):
    assert blame_refusal(PolicyError(said, cause=cause, hint=hint), PLAIN) is not None


def test_a_refusal_that_says_where_is_none():
    said = PolicyError(f'{NAME}:6 (rule "night"): no action', cause="syntax", hint="do")

    assert blame_refusal(said, PLAIN) is None


@pytest.mark.parametrize(
    "answer",
    [
        {"log": (("info", MARKER),)},
        {"metrics": {MARKER: 1.0}},
        {"decisions": ({"action": "dispatch", "job_id": "1", "reason": "day"},)},
        {"decisions": ({"action": "wait", "job_id": "1", "reason": "night"},)},
        {"decisions": ({"action": "dispatch", "job_id": "77", "reason": "night"},)},
        {"decisions": ({"action": "dispatch", "job_id": "1", "reason": "night"},) * 2},
    ],
)
def test_an_answer_that_no_rule_gives_is_noticed(answer: dict[str, Any]):
    rules = parse_rules(PLAIN, path=NAME).rules

    assert blame_answer(Answer(proposals=(), **answer), rules, WORLD) is not None


@pytest.mark.parametrize(
    ("failed", "outcome"),
    [
        (PolicyError(f'{NAME}:6 (rule "night"): nil', cause="error"), "error"),
        (PolicyError("it answered nonsense", cause="nonsense"), "nonsense"),
        (PolicyError(f"{NAME}.lua:6: schedule took longer than 50 ms", cause="timeout"), "timeout"),
        (PolicyError("in time", cause="timeout", log=(("info", MARKER),)), "timeout"),
    ],
)
def test_a_failure_that_no_rule_can_cause_is_noticed(failed: PolicyError, outcome: str):
    found, wrong = blame_failure(failed)

    assert (found, wrong is not None) == (outcome, True)


def test_that_something_was_too_much_or_the_machine_busy_is_no_fault_of_the_compiler():
    took = f'{NAME}:6 (rule "night"): schedule took longer than 50 ms'

    assert blame_failure(PolicyError(took, cause="timeout")) == ("timeout", None)
    assert blame_failure(PolicyLateError("it had 3 ms", cause="timeout")) == ("late", None)


def test_a_file_that_was_made_and_an_error_that_nobody_expects_are_noticed(base: Path):
    (base / MARKER).touch()

    assert judge(base, PLAIN, most_s=60) == ("answered", "it made a file")
    assert judge(base, PLAIN, most_s=60) == ("answered", None)
    outcome, wrong = judge(base / "nowhere", PLAIN, most_s=60)

    assert (outcome, (wrong or "").partition(":")[0]) == ("broken", "FileNotFoundError")


def test_what_takes_too_long_each_time_is_noticed_and_what_did_once_is_told():
    times = iter([9.0, 1.0, 9.0, 9.0, 9.0, 9.0])
    busy = iter([1.0, 1.0, 9.0, 1.0, 1.0])

    assert in_time(lambda: ("answered", None, next(times)), lambda: next(busy), most_s=5) == (
        "answered (asked again)",
        None,
    )
    assert in_time(lambda: ("answered", None, next(times)), lambda: next(busy), most_s=5) == (
        "answered",
        "it held up the tick for 9.00 s, 3 times",
    )


def test_what_a_machine_is_too_busy_to_tell_is_no_pass():
    outcome, wrong = in_time(lambda: ("answered", None, 9.0), lambda: 9.0, most_s=5)

    assert (outcome, (wrong or "").partition(",")[0]) == (
        "answered",
        "the machine was too busy to tell",
    )


def test_every_violation_counts(capsys: pytest.CaptureFixture[str]):
    found = iter([("a", ("refused", "bad")), ("b", ("answered", None)), ("c", ("answered", "x"))])

    assert campaign_policy.run("documents", 3, lambda: next(found)) == 2
    assert "3 documents: 2 answered, 1 refused: 2 violations" in capsys.readouterr().out
