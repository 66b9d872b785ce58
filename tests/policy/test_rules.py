"""What a policy in YAML may say, and what is answered to everything else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tinyscheduler.errors import PolicyError
from tinyscheduler.policy.rules import (
    Always,
    AskPlatform,
    Combined,
    Evict,
    Eviction,
    Match,
    Pause,
    Selection,
    Start,
    StartWorker,
    Term,
    parse_rules,
)

if TYPE_CHECKING:
    from tinyscheduler.policy.rules import Rule, RuleSet

EXAMPLE = """\
scheduler:
  name: "determinism-first"
  version: "1.0"
  rules:
    - name: "prioritize-seeded-jobs"
      condition: {job.seed: {exists: true}}
      action: {dispatch: {worker_selection: "least-loaded", model_match: required}}
      priority: 100
    - name: "batch-jobs-low-priority"
      condition: {job.priority: "batch"}
      action: {dispatch: {worker_selection: "most-vram-free"}}
      priority: 50
    - name: "fallback"
      condition: always
      action: {use: "platform-scheduler"}
      priority: 0
"""


def parse(text: str) -> RuleSet:
    return parse_rules(text.encode(), path="p.yaml")


def a_policy(*, condition: str = "always", action: str = "dispatch", more: str = "") -> str:
    """Return a policy of one rule, "night": condition in line 5, action in line 6."""
    return (
        "scheduler:\n  name: mine\n  rules:\n    - name: night\n"
        f"      condition: {condition}\n      action: {action}\n{more}"
    )


def the_rule(**parts: str) -> Rule:
    (rule,) = parse(a_policy(**parts)).rules
    return rule


def refusal(text: str | bytes) -> str:
    """Return what is said about a policy, and the hint in brackets."""
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(PolicyError) as caught:
        parse_rules(content, path="p.yaml")
    assert caught.value.cause == "syntax"
    return f"{caught.value.what} [{caught.value.hint}]"


def test_the_example_of_the_reference_says_what_it_says():
    rules = parse(EXAMPLE)

    assert (rules.name, rules.version) == ("determinism-first", "1.0")
    assert [(rule.name, rule.priority, rule.line) for rule in rules.rules] == [
        ("prioritize-seeded-jobs", 100, 5),
        ("batch-jobs-low-priority", 50, 9),
        ("fallback", 0, 13),
    ]
    assert [rule.action for rule in rules.rules] == [
        Start(selection=Selection.LEAST_LOADED, match=Match.REQUIRED),
        Start(selection=Selection.MOST_VRAM_FREE),
        AskPlatform(),
    ]


def test_higher_priorities_go_first_and_the_order_of_the_file_breaks_ties():
    rules = "".join(
        f"    - {{name: {name}, condition: always, action: wait{priority}}}\n"
        for name, priority in (
            ("a", ""),
            ("b", ", priority: -1"),
            ("c", ", priority: 7"),
            ("d", ", priority: 0"),
            ("e", ", priority: 7"),
        )
    )

    policy = parse(f"scheduler:\n  name: mine\n  rules:\n{rules}")

    assert [rule.name for rule in policy.rules] == ["c", "e", "a", "d", "b"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("always", Always()),
        ("{job.priority: batch}", ("eq", ("batch",))),
        ("{job.rank: {ge: 5}}", ("ge", (5,))),
        ("{job.rank: -1.5}", ("eq", (-1.5,))),
        ("{job.seed: {exists: false}}", ("exists", (False,))),
        ("{job.agent: {in: [a, 'no']}}", ("in", ("a", "no"))),
        ("{job.labels.team/x: no}", ("eq", ("no",))),
        (r"{job.agent: {matches: '^(gpt|llama)-\d+'}}", ("matches", ("^gpt%-%d+", "^llama%-%d+"))),
    ],
)
def test_a_condition_is_understood(condition: str, expected: object):
    found = the_rule(condition=condition).condition

    assert (
        found if isinstance(found, Always) else (found.operator, found.operands)  # type: ignore[union-attr]  # each of these is one comparison
    ) == expected


def test_all_that_stands_in_one_condition_must_hold():
    rule = the_rule(condition="{job.priority: batch, job.rank: {ge: 1, lt: 9}}")

    assert isinstance(rule.condition, Combined)
    assert rule.condition.how == "all"
    assert [part.operator for part in rule.condition.parts if isinstance(part, Term)] == [
        "eq",
        "ge",
        "lt",
    ]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("dispatch", Start()),
        ("{dispatch: {}}", Start()),
        ("{dispatch: }", Start()),
        ("{dispatch: {model_match: ignore}}", Start(match=Match.IGNORE)),
        ("wait", Pause()),
        ("{wait: {duration_ms: 1500}}", Pause(duration_ms=1500)),
        ("{evict: {policy: lfu}}", Evict(worker=Eviction.LFU)),
        ("{evict: {worker_id: w1}}", Evict(worker="w1")),
        (
            "{start_worker: {model_ref: m, pool_id: local}}",
            StartWorker(model_ref="m", pool_id="local"),
        ),
        ("{use: platform-scheduler}", AskPlatform()),
    ],
)
def test_an_action_is_understood(action: str, expected: object):
    assert the_rule(action=action).action == expected


# -- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("{job.prio: batch}", "there is no condition 'job.prio' [did you mean job.priority?]"),
        ("{priority: batch}", "there is no condition 'priority' [did you mean job.priority?]"),
        ("{al: [always]}", "there is no condition 'al' [did you mean all?]"),
        (
            "{job.rank: {gte: 5}}",
            "there is no operator 'gte' [did you mean ge?]",
        ),
        ("{job.priority: high}", "job.priority is never 'high'"),
        (
            "{job.priority: 5}",
            "job.priority is a text, 5 is none [it is interactive or batch; the number is job.rank",
        ),
        ("{job.priority: {gt: 5}}", "job.priority is a text, and gt compares numbers"),
        (
            "{job.rank: '5'}",
            "job.rank is a number, '5' is none [write a number, without quotes]",
        ),
        (
            "{job.vram: {gt: 14G}}",
            "job.vram is a number, '14G' is none [write the number of bytes; 1 GiB is 1073741824]",
        ),
        ("{job.id: 12}", "job.id is a text, 12 is none [write it in quotes]"),
        ("{job.tenant: true}", "job.tenant is a text, true is none [write it in quotes]"),
        (
            "{job.seed: ~}",
            "job.seed is compared with nothing [to ask whether it is there, write job.seed: {exi",
        ),
        (
            "{job.agent: [a, b]}",
            "job.agent is compared with a list [write job.agent: {in: [one, two]}]",
        ),
        ("{job.agent: {in: []}}", "job.agent in a list [write a list of 1 to 100"),
        ("{job.agent: {in: a}}", "job.agent in 'a' [write a list of 1 to 100"),
        ("{job.seed: {exists: 1}}", "job.seed exists 1 [write true or false]"),
        ("{job.labels: x}", "job.labels cannot be compared [ask for one of them"),
        ("{job.labels.: x}", "'job.labels.' is no label"),
        ("{job.agent: {}}", "job.agent is compared with nothing [add an operator]"),
        ("{}", "the condition is empty [write `always`]"),
        ("", "nothing is no condition [write `always`, or"),
        ("sometimes", "'sometimes' is no condition [write `always`, or"),
        ("{all: []}", "all needs a list of conditions [write all: ["),
        ("{any: {job.gpus: 0}}", "any needs a list of conditions [write any: ["),
        ("{job.rank: 1e999}", "inf is too large [write a number below 1e18]"),
        ("{job.rank: .nan}", "job.rank is a number, '.nan' is none"),
        ("{job.agent: {matches: 'a{2}'}}", "the expression 'a{2}' counts repetitions"),
        ("{job.rank: {matches: '1'}}", "job.rank is a number, and matches looks at texts"),
        (
            "{job.agent: a, job.agent: b}",
            "p.yaml:5: key 'job.agent' is there twice (first in line 5) [keep one of the two]",
        ),
        ("&a {job.agent: a}", "p.yaml:5: holds an anchor or alias"),
        ("!!python/name:os.system {}", "p.yaml:5: holds the tag"),
        ("[" * 40 + "]" * 40, "p.yaml:5: holds values nested too deeply"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(condition: str, expected: str):
    words = refusal(a_policy(condition=condition))

    prefix = "" if expected.startswith("p.yaml") else 'p.yaml:5 (rule "night"): '
    assert words.startswith(prefix + expected)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("start", "'start' is no action [did you mean dispatch?]"),
        ("", "nothing is no action [write one of dispatch, wait, evict, start_worker, use"),
        ("{dispatcher: {}}", "there is no action 'dispatcher' [did you mean dispatch?]"),
        ("{dispatch: {}, wait: {}}", "a rule has one action [write a rule for each]"),
        (
            "{dispatch: {worker_selction: least-loaded}}",
            "dispatch has no key 'worker_selction' [did you mean worker_selection?]",
        ),
        (
            "{dispatch: {worker_selection: least_loaded}}",
            "worker_selection cannot be 'least_loaded' [did you mean least-loaded?]",
        ),
        ("{dispatch: {model_match: yes}}", "model_match cannot be 'yes' [known names: ignore"),
        (
            "{wait: {duration_ms: soon}}",
            "duration_ms cannot be 'soon' [write a whole number from 0 to 604800000]",
        ),
        ("{wait: {duration_ms: -1}}", "duration_ms cannot be -1"),
        ("{evict: {}}", "evict needs either worker_id or policy"),
        ("{evict: {policy: lru, worker_id: a}}", "evict needs either worker_id or policy"),
        ("{start_worker: {model_ref: m}}", "start_worker has no pool_id [add `pool_id: …`]"),
        (
            "{use: platform}",
            "there is nothing to use that is called 'platform' [write use: platform-scheduler]",
        ),
    ],
)
def test_an_action_that_cannot_be_meant_is_refused(action: str, expected: str):
    words = refusal(a_policy(action=action))

    assert words.startswith('p.yaml:6 (rule "night"): ' + expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "p.yaml:1: the policy is empty [begin with `scheduler:`"),
        ("# nothing", "p.yaml:1: the policy is empty"),
        ("[1]", "p.yaml:1: a list stands where a mapping is expected"),
        ("\ufeff[1]", "p.yaml:1: a list stands where a mapping is expected"),
        ("\n\xa0[1]", "p.yaml:2: a list stands where a mapping is expected"),
        (
            "hello",
            "p.yaml:1: the policy is 'hello', and no mapping [write `scheduler: …` below it]",
        ),
        ("rules: []", "p.yaml:1: the policy has no key 'rules'"),
        ("scheduler: {}", "p.yaml:1: scheduler has no name [add `name: …`]"),
        ("scheduler: {name: a}", "p.yaml:1: scheduler has no rules [add `rules: …`]"),
        ("scheduler: {name: a, rules: }", "p.yaml:1: rules is not a list"),
        ("scheduler:\n  name: a\n  rules: []", "p.yaml:3: there are no rules"),
        (
            "scheduler:\n  name: a\n  version: 1.10\n  rules: []",
            "p.yaml:3: the version is 1.1, and no text [write it in quotes]",
        ),
        (
            "scheduler:\n  name: a\n  rules:\n    - condition: always\n      action: wait",
            "p.yaml:4 (rule 1): the rule has no name [add `name: …`]",
        ),
        (
            "scheduler:\n  name: a\n  rules:\n    - name: 7\n      condition: always",
            "p.yaml:4 (rule 1): the rule has no action",
        ),
        (a_policy(more="      priority: high\n"), 'p.yaml:7 (rule "night"): priority cannot be'),
        (a_policy(more="      priority: 1.5\n"), 'p.yaml:7 (rule "night"): priority cannot be'),
        (
            a_policy(more="      weight: 3\n"),
            "p.yaml:7 (rule \"night\"): the rule has no key 'weight'",
        ),
        (
            a_policy(more="    - {name: night, condition: always, action: wait}\n"),
            'p.yaml:7 (rule "night"): an earlier rule has this name (line 4)',
        ),
        ("scheduler:\n\tname: a", "p.yaml:2: not YAML: "),
        ("scheduler: {name: a}\n---\nb: 1", "p.yaml:2: holds a second document"),
        (b"scheduler:\n  name: \xff", "p.yaml:2: not UTF-8 text"),
        (b"scheduler:\n  name: a\x1b[31m", "p.yaml:2: not YAML: "),
        ("scheduler:\n  name: ü\n\ufffe", "p.yaml:3: not YAML: "),
        (
            'scheduler:\n  name: "a\\e[31m"\n  rules: []',
            "p.yaml:2: the name cannot be 'a\\x1b[31m'",
        ),
        ("a: " + "x" * 70_000, "p.yaml: the policy is too long (more than 65536 bytes)"),
        (
            "scheduler: {name: a, rules: [" + "b, " * 201 + "]}",
            "p.yaml:1: there are more than 200 rules",
        ),
    ],
)
def test_a_file_that_is_no_policy_is_refused(text: str | bytes, expected: str):
    assert refusal(text).startswith(expected)


@pytest.mark.parametrize("has_libyaml", [True, False])
def test_a_character_that_does_not_exist_is_refused_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
    has_libyaml: bool,  # noqa: FBT001 - a case
):
    if not has_libyaml:  # then PyYAML is slower, and raises what it never says it raises
        monkeypatch.delattr(yaml, "CSafeLoader")

    words = refusal('scheduler:\n  name: "a\\U00010000"\n  version: "\\U00110000"\n')

    assert words.startswith("p.yaml:3: not YAML: ")


def test_aliases_that_would_grow_without_bound_are_refused_at_the_first():
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )

    assert refusal(bomb).startswith("p.yaml:1: holds an anchor or alias")


def test_a_hostile_name_reaches_no_terminal_as_it_is():
    rule = json.dumps("\x1b[31m\n" + "x" * 9999)

    words = refusal(
        f"scheduler: {{name: a, rules: [{{name: {rule}, condition: always, action: wait}}]}}"
    )

    assert words.isprintable()
    assert len(words) < 400


def fault_of(content: bytes) -> PolicyError | None:
    try:
        parse_rules(content, path="p.yaml")
    except PolicyError as error:
        return error
    return None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_do_anything_but_parse_or_be_refused(content: bytes):
    fault = fault_of(content)

    assert fault is None or (fault.cause, fault.what[:7]) == ("syntax", "p.yaml:")


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(st.sampled_from(("name", "condition", "action", "priority", "other")), yaml_values)
def test_no_value_in_a_rule_does_anything_but_parse_or_be_refused(key: str, value: object):
    rule = {"name": "night", "condition": "always", "action": "wait", key: value}

    fault = fault_of(json.dumps({"scheduler": {"name": "mine", "rules": [rule]}}).encode())

    assert fault is None or (fault.cause == "syntax" and fault.hint)
