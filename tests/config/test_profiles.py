"""Profiles of one's own in agents.yaml, and what an agent gets from any profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.config.building import a_base, loaded

from tinyscheduler.config.agents_file import parse_agents_file
from tinyscheduler.config.inputs import InputFile
from tinyscheduler.core.profiles import BUILT_IN, find_profile
from tinyscheduler.model.config import StdinSource
from tinyscheduler.model.profiles import OutcomeRule, Profile

TOP = Path(__file__).resolve().parents[2]
PUBLISHED = TOP / "docs" / "reference" / "profiles.yaml"

OWN = """
agents:
  fixer: {profile: aider}
  other: {profile: aider, command: ["aider", "--yes"]}
  known: {command: ["/opt/aider"]}
profiles:
  aider:
    command: ["aider", "--message-file", "{prompt_file}"]
    env: [AIDER_MODEL]
    stdin: prompt
    idle_output: 10m
    output: claude
    tells: {turns: stats.turns, cost_usd: stats.cost}
    outcomes:
      - when: {exit_code: [3, 4], last_line: "*quota exceeded*"}
        then: rate_limited
        say: the quota is used up
      - when: {event: done, json: {status: [ok, 1, true, null]}, exit_code: 0}
        then: success
      - {when: always, then: by_words}
  my-claude:
    like: claude
    outcomes:
      - {when: {exit_code: 9}, then: auth_failed}
"""


def problems(text: str) -> list[str]:
    file = InputFile(path="agents.yaml", content=text.encode())
    found = parse_agents_file(file, path="agents.yaml", goose="goose").problems
    return [f"{one.setting}: {one.message} | {one.fix}" for one in found]


def test_a_profile_of_ones_own_is_read_and_its_agents_are_run_by_it(tmp_path: Path):
    config = loaded(a_base(tmp_path, agents=OWN))

    aider, claude = config.profiles
    assert aider == Profile(
        name="aider",
        command=("aider", "--message-file", "{prompt_file}"),
        environment=("AIDER_MODEL",),
        stdin=StdinSource.PROMPT,
        output="claude",
        idle_output_s=600,
        tells=(("turns", "stats.turns"), ("cost_usd", "stats.cost")),
        outcomes=(
            OutcomeRule(
                then="rate_limited",
                exit_codes=(3, 4),
                last_lines=("*quota exceeded*",),
                say="the quota is used up",
            ),
            OutcomeRule(
                then="success",
                exit_codes=(0,),
                json=(("type", ("done",)), ("status", ("ok", 1, True, None))),
            ),
            OutcomeRule(then="by_words"),
        ),
    )
    known = find_profile("claude")
    assert known is not None
    assert claude.outcomes == (OutcomeRule(then="auth_failed", exit_codes=(9,)), *known.outcomes)
    assert (claude.command, claude.output) == (known.command, "claude")
    fixer, other, program = (config.agent(name) for name in ("fixer", "other", "known"))
    assert fixer is not None
    assert (fixer.command, fixer.environment) == (aider.command, ("AIDER_MODEL",))
    assert (fixer.stdin, fixer.idle_output_s) == (StdinSource.PROMPT, 600)
    # Who brings a command of his own says what that needs.
    assert other is not None
    assert (other.environment, other.stdin, other.idle_output_s) == ((), StdinSource.NOTHING, None)
    assert program is not None
    assert program.profile == "aider"


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "goose", "shell"])
def test_an_agent_that_only_names_a_profile_is_run_as_that_says(tmp_path: Path, name: str):
    text = f"agents:\n  one: {{profile: {name}}}\n  two: {{profile: {name}, env: [A], stdin: null}}"
    config = loaded(a_base(tmp_path, agents=text))

    one, two, profile = config.agent("one"), config.agent("two"), find_profile(name)
    assert one is not None
    assert two is not None
    assert profile is not None
    assert (one.command, one.environment) == (profile.command, profile.environment)
    assert one.stdin == profile.stdin
    assert (two.command, two.environment) == (profile.command, ("A",))
    assert two.stdin is StdinSource.NOTHING


def test_what_is_published_of_the_profiles_that_everybody_has_is_so():
    text = PUBLISHED.read_text()
    # Under other names: those are taken.
    for one in BUILT_IN:
        text = text.replace(f"\n  {one.name}:\n", f"\n  my-{one.name}:\n")
    file = InputFile(path="profiles.yaml", content=text.encode())
    found = parse_agents_file(file, path="profiles.yaml", goose="goose")

    assert not found.problems
    assert [one.name for one in found.profiles] == [f"my-{one.name}" for one in BUILT_IN]
    for one, published in zip(BUILT_IN, found.profiles, strict=True):
        for field in ("command", "environment", "stdin", "output", "idle_output_s", "outcomes"):
            assert getattr(published, field) == getattr(one, field), (one.name, field)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a b: {}", "3: profile name 'a b' is no name"),
        ("claude: {}", "3: profile claude is there already, and cannot be another one | give it"),
        ("a: {kommand: [x]}", "3: unknown key 'kommand' of profile a | did you mean command?"),
        ("a: {like: gpt}", "3: like of profile a: 'gpt' is not one of shell, goose"),
        ("a: {command: [x, '{promptt}']}", "unknown placeholder {promptt} | did you mean prompt?"),
        ("a: {outcomes: {}}", "3: outcomes of profile a: a mapping is not a list of {when"),
        ("a: {outcomes: [3]}", "3: outcome 1 of profile a is 3, no mapping | write {when"),
        ("a: {outcomes: [{when: always}]}", "outcome 1 of profile a has no then | say `then: by"),
        ("a: {outcomes: [{then: success}]}", "outcome 1 of profile a has no when | say `when: a"),
        ("a: {tells: {turn: x}}", "3: tells of profile a: a mapping holds 'turn' | did you mean"),
        ("a: {tells: {turns: a..b}}", "holds no path: 'a..b'"),
        ("a: {tells: {turns: [a]}}", "is not a path such as usage.total"),
        ("a: {tells: 3}", "3 is not paths of some of turns, tokens, cost_usd, text"),
        ("[a]", "section profiles is a list; expected a mapping"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_where_it_does_not(text: str, says: str):
    (problem,) = problems(f"agents: {{}}\nprofiles:\n  {text}\n")

    assert says in problem


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{when: never, then: success}", "when of outcome 1 of profile a is 'never' | ask for one"),
        ("{when: {}, then: success}", "when of outcome 1 of profile a is a mapping | ask for one"),
        ("{when: always, then: rate_limit}", "is no end | did you mean rate_limited?"),
        # What only ticks and wrappers can know.
        ("{when: always, then: dead_pid}", "then of outcome 1 of profile a: 'dead_pid' is no end"),
        ("{when: always, then: [success]}", "a list is no end"),
        ("{when: always, then: success, say: 3}", "say of outcome 1 of profile a is none that"),
        ("{when: always, then: success, why: x}", "unknown key 'why' of outcome 1"),
        ("{when: {exitcode: 3}, then: success}", "unknown key 'exitcode' | did you mean exit_code"),
        ("{when: {exit_code: 256}, then: success}", "256 is not an exit code, 0 to 255, or a list"),
        ("{when: {exit_code: true}, then: success}", "true is not an exit code"),
        ("{when: {exit_code: []}, then: success}", "a list is not one value, or a list of at most"),
        ("{when: {event: 3}, then: success}", "3 is not the name of an event, such as turn.failed"),
        ("{when: {json: {}}, then: success}", "a mapping is not paths and their values, such as"),
        ("{when: {json: {a..b: 1}}, then: success}", "a mapping holds no path: 'a..b'"),
        (
            "{when: {json: {a: {b: 1}}}, then: success}",
            "is not a text, a number, true, false, null",
        ),
        ("{when: {last_line: 3}, then: success}", "3 is not plain words, with * for any others"),
        (
            "{when: {last_line: '*.*'}, then: success}",
            "is a regular expression (.*), and a pattern",
        ),
        ("{when: {last_line: '(a+)+$'}, then: success}", "is a regular expression (^ or $)"),
        ("{when: {last_line: 'a\\bb'}, then: success}", "is a regular expression (\\)"),
        ("{when: {last_line: 'a|b'}, then: success}", "write the words that the line has, such as"),
        ("{when: {last_line: '* - *'}, then: success}", "has no word"),
        (f"{{when: {{last_line: {'x' * 201}}}, then: success}}", "is not plain words"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_line(rule: str, says: str):
    (problem,) = problems(f"profiles:\n  a:\n    outcomes:\n      - {rule}\n")

    assert problem.startswith("agents.yaml:4: ")
    assert says in problem


def test_a_flood_of_rules_is_refused():
    rules = "      - {when: always, then: success}\n" * 51

    (problem,) = problems(f"profiles:\n  a:\n    outcomes:\n{rules}")

    assert "profile a has 51 outcomes | leave at most 50" in problem


def test_a_profile_that_is_nowhere_is_refused_with_the_one_that_was_meant():
    text = "agents:\n  a:\n    profile: aidr\nprofiles:\n  aider: {command: [x]}\n"

    (problem,) = problems(text)

    assert problem.startswith("agents.yaml:3: profile of agent a: 'aidr' is not one of shell, ")
    assert problem.endswith("did you mean aider?")
