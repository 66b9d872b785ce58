"""What may stand in agents.yaml, and what is said about the rest?"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.config.building import a_base, an_environment, loaded

from tinyscheduler.config.agents_file import parse_agents_file
from tinyscheduler.config.inputs import InputFile
from tinyscheduler.config.overrides import Overrides
from tinyscheduler.config.problems import Severity
from tinyscheduler.config.validate import DEFAULT_AGENTS_FILE, validate_config
from tinyscheduler.errors import ConfigError
from tinyscheduler.model.budgets import Budget
from tinyscheduler.model.config import (
    AgentProfile,
    Config,
    Host,
    Inventory,
    ModelPlace,
    OnExpire,
    Quota,
    StdinSource,
)

if TYPE_CHECKING:
    from pathlib import Path

GOOSE = ("goose", "run", "--recipe", "{recipe}", "--no-session", "--params", "task_id={task_id}")


def configured(tmp_path: Path, text: str | bytes, **variables: str) -> Config:
    base = a_base(tmp_path)
    content = text if isinstance(text, bytes) else text.encode()
    (base / "agents.yaml").write_bytes(content)
    return loaded(base, an_environment(**variables))


def assert_named(error: ConfigError) -> None:
    assert error.what.startswith("agents.yaml")


def refused(tmp_path: Path, text: str | bytes) -> str:
    """Return what is said about a file that cannot be used, the fix included."""
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    assert caught.value.hint
    return f"{caught.value.what} | {caught.value.hint}".replace(str(tmp_path) + "/", "")


def test_every_key_of_an_agent_is_read(tmp_path: Path):
    config = configured(
        tmp_path,
        """
version: 1
agents:
  coder:
    queue: dev
    limit: 2
    command: ["goose", "run", "--recipe", "{recipe}", "--max-turns", "{max_turns}"]
    profile: goose
    env: [OPENAI_API_KEY, OPENAI_API_KEY]
    stdin: prompt
    cwd: work
    memory: 2G
    vram: 14GiB
    model: llama-7b
    max_runtime: 1h
    max_turns: 200
    max_tokens: 2M
    max_cost: 2.5
    max_per_host: 1
    account: team
    idle_output: 15m
    on_expire: fail
    priority_class: batch
""",
    )

    assert config.agent("coder") == AgentProfile(
        name="coder",
        queue="dev",
        limit=2,
        command=("goose", "run", "--recipe", "{recipe}", "--max-turns", "{max_turns}"),
        profile="goose",
        environment=("OPENAI_API_KEY",),
        stdin=StdinSource.PROMPT,
        cwd=f"{tmp_path}/work",
        memory_bytes=2 * 2**30,
        vram_bytes=14 * 2**30,
        model="llama-7b",
        max_runtime_s=3600.0,
        max_turns=200,
        max_tokens=2_000_000,
        max_cost_usd=2.5,
        max_per_host=1,
        account="team",
        idle_output_s=900.0,
        on_expire=OnExpire.FAIL,
        priority_class="batch",
    )


def test_an_agent_without_a_command_runs_its_recipe_with_goose(tmp_path: Path):
    config = configured(tmp_path, "agents:\n  coder:\n", GOOSE_BIN="tools/goose")

    agent = config.agent("coder")
    assert agent is not None
    assert agent.command == (f"{tmp_path}/tools/goose", *GOOSE[1:])
    assert (agent.profile, agent.queue, agent.limit) == ("goose", "coder", 1)


def test_an_agent_with_a_command_ends_as_a_shell_command_does_unless_it_says_otherwise(
    tmp_path: Path,
):
    config = configured(tmp_path, 'agents: {plain: {command: ["make"]}}')

    agent = config.agent("plain")
    assert agent is not None
    assert agent.profile == "shell"


def test_without_an_agents_file_there_is_the_shell_and_whom_limits_name(tmp_path: Path):
    config = loaded(a_base(tmp_path), an_environment(AGENT_LIMITS="dispatcher:3"))

    assert [(agent.name, agent.limit, agent.command) for agent in config.agents] == [
        ("shell", 2, ()),
        ("dispatcher", 3, GOOSE),
    ]
    assert config.warnings == ()


def test_a_limit_for_an_agent_that_the_file_does_not_define_warns(tmp_path: Path):
    config = configured(tmp_path, "agents: {coder: {}}", AGENT_LIMITS="codr:3")

    assert config.agent("codr") is not None
    (warning,) = config.warnings
    assert "agent codr is not in" in warning


def test_the_shell_of_the_json_array_is_the_built_in_one(tmp_path: Path):
    config = configured(tmp_path, '[{"agentName": "shell", "agentType": "ops"}]')

    (shell,) = config.agents
    assert (shell.queue, shell.command, shell.limit) == ("ops", (), 2)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "agents:\n", "agents: {}\n"])
def test_an_empty_file_defines_nothing_but_the_shell(tmp_path: Path, text: str):
    config = configured(tmp_path, text)

    assert [agent.name for agent in config.agents] == ["shell"]


def test_the_shell_keeps_the_tasks_own_command_whatever_else_is_said(tmp_path: Path):
    config = configured(tmp_path, "agents: {shell: {limit: 7, max_runtime: 5m}}")

    (shell,) = config.agents
    assert (shell.limit, shell.command, shell.max_runtime_s) == (7, (), 300.0)
    assert "it runs the task's own" in refused(tmp_path, 'agents: {shell: {command: ["ls"]}}')


def test_the_json_array_of_the_first_tinyscheduler_is_read(tmp_path: Path):
    entries = [
        {"agentName": "vaela", "agentType": "dev", "comment": "first"},
        {"agentName": "oscar", "agentType": "qa"},
    ]
    text = json.dumps(entries, indent="\t")

    config = configured(tmp_path, text, AGENT_LIMITS="vaela:2")

    assert [(agent.name, agent.queue, agent.limit) for agent in config.agents] == [
        ("vaela", "dev", 2),
        ("oscar", "qa", 1),
        ("shell", "shell", 2),
    ]
    assert config.warnings == ()


def test_the_json_array_may_lie_in_a_file_of_its_own(tmp_path: Path):
    base = a_base(tmp_path)
    (base / "agent-control.json").write_text('[{"agentName": "a", "agentType": "b"}]')

    config = loaded(base, an_environment(AGENT_CONTROL_FILE="agent-control.json"))

    assert config.agent("a") is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "agents.yaml:1: not JSON"),
        ('[\n{"agentName": "a",}]', "agents.yaml:2: not JSON"),
        ("[1]", "agents.yaml: entry 1 is no object"),
        ('[{"agentName": "a"}]', "entry 1: agentType is missing"),
        ('[{"agentName": "../a", "agentType": "b"}]', "entry 1: agentName is '../a'"),
        ('[{"agentName": 1, "agentType": "b"}]', "entry 1: agentName is 1"),
        ('[{"agentName": "a", "agentName": "b"}]', "key 'agentName' is there twice"),
        (
            '[{"agentName": "a", "agentType": "b"}, {"agentName": "a", "agentType": "c"}]',
            "entry 2: agent a is there twice",
        ),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 30 + "]" * 30, "nested too deeply"),
        ('[{"agentName": ' + "9" * 5000 + "}]", "too long"),
    ],
)
def test_an_array_that_defines_no_agents_is_refused_with_the_place(
    tmp_path: Path, text: str, says: str
):
    assert says in refused(tmp_path, text)


def test_other_keys_of_the_array_warn_as_they_always_have(tmp_path: Path):
    text = '[{"agentName": "a", "agentType": "b", "limit": 2}]'

    (warning,) = configured(tmp_path, text).warnings

    assert "entry 1: key 'limit' is ignored" in warning


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agents: [", "agents.yaml:1: not YAML"),
        ("agents:\n\tcoder: {}", "agents.yaml:2: not YAML"),
        ("agents: {a: {}}\n---\nagents: {}", "agents.yaml:2: holds a second document"),
        (b"\xff\xfe", "agents.yaml:1: not UTF-8"),
        (b"agents: {}\n# b\xe9", "agents.yaml:2: not UTF-8"),
        ("agents: \x01", "agents.yaml:1: not YAML"),
        ("#" * (2**20 + 1), "agents.yaml: the agents file is larger than 1 MiB"),
        ("just words", "agents.yaml:1: holds no mapping"),
        ("7", "agents.yaml:1: holds no mapping"),
        ("yes: [", "not YAML"),
        ("agents: [coder]", "agents.yaml:1: section agents is a list"),
        ("agents: coder", "agents.yaml:1: section agents is 'coder'"),
        ("agnets:\n  coder: {}", "agents.yaml:1: unknown section 'agnets' | did you mean agents?"),
        ("version: 2", "agents.yaml:1: a version this program does not know"),
        ("agents:\n  coder: 5", "agents.yaml:2: agent coder is 5; expected a mapping"),
        (
            "agents:\n  coder:\n    commandd: [a]",
            "agents.yaml:3: unknown key 'commandd' of agent coder | did you mean command?",
        ),
        (
            "agents:\n  coder: {}\n  coder: {}",
            "agents.yaml:3: key 'coder' is there twice (first in line 2)",
        ),
        ("agents:\n  a:\n    limit: 1\n    limit: 2", "agents.yaml:4: key 'limit' is there twice"),
        ("agents: {}\nagents: {}", "agents.yaml:2: key 'agents' is there twice"),
        ("agents:\n  ../a: {}", "agents.yaml:2: agent name '../a' is no name"),
        ("agents:\n  -a: {}", "agents.yaml:2: agent name '-a' is no name"),
        ("agents:\n  'a b': {}", "agents.yaml:2: agent name 'a b' is no name"),
        (f"agents:\n  {'x' * 65}: {{}}", "is no name"),
        ("agents:\n  ? [a]\n  : {}", "agents.yaml:2: holds a key that is no text"),
        ("pools: [a]", "agents.yaml:1: section pools is a list"),
        ("tenants: {team: 5}", "agents.yaml:1: tenant team is 5"),
        ("pools: {team: 5}", "agents.yaml:1: pools: team is 5"),
        ("hosts: {local: {total_vram: 24}}", "total_vram of host local: 24 is not a size"),
        ("hosts: {local: {vram: 24G}}", "unknown key 'vram' of host local"),
        ("models: {m: {max_slots: -1}}", "max_slots of model m: -1 is not a whole number"),
        ('models: {m: {start: ["x", "{prompt}"]}}', "unknown placeholder {prompt}"),
        ("models: {m: {host: []}}", "host of model m: a list is not the name of a host"),
        ("models: {m: {host: [a b]}}", "host of model m: a list is not a name"),
        ("models: {m: {host: {}}}", "host of model m: a mapping is not a name"),
        ("models: {m: {endpoint: 8080}}", "endpoint of model m: 8080 is not an address"),
        ('models: {m: {endpoint: "a b"}}', "endpoint of model m: 'a b' is not an address"),
        ('hosts: {box: {address: ""}}', "address of host box: '' is not an address"),
        ("hosts: {box: {models: [m]}}", "models of host box: a list is not a mapping of model"),
        ("hosts: {box: {models: {m: 5}}}", "model m of host box is 5; expected a mapping"),
        ("hosts: {box: {models: {m: {slots: 5}}}}", "unknown key 'slots' of model m of host box"),
        ("hosts: {box: {models: {'': {}}}}", "model name '' is not a text that can be printed"),
        ('models: {"\\e[31m": {}}', "is not a text that can be printed"),
        ("hosts: {'my box': {}}", "host name 'my box' is no name"),
        ("queues: {dev: {limit: -1}}", "limit of queue dev: -1 is not a whole number"),
        ("queues: {dev: {slots: 1}}", "unknown key 'slots' of queue dev"),
        ("tenants: {red: {vram: 8}}", "vram of tenant red: 8 is not a size"),
        ("tenants: {red: {weight: 0}}", "weight of tenant red: 0 is not a number from 0.001"),
        ("tenants: {red: {weight: true}}", "weight of tenant red: true is not a number"),
        ("tenants: {red: {weight: .inf}}", "weight of tenant red: '.inf' is not a number"),
        ("tenants: {'my team': {}}", "name 'my team' in section tenants is no name"),
        ("budgets: {team: {runs: 5}}", "budget 'team' is of nothing that can have one"),
        ("budgets: {queue:dev: {runs: 5}}", "name it overall, agent:NAME or schedule:NAME"),
        ("budgets: {'agent:../x': {runs: 5}}", "budget 'agent:../x' is of nothing"),
        ("budgets: {overall: 5}", "agents.yaml:1: budget overall is 5; expected a mapping"),
        ("budgets:\n  overall:\n    window: 1d", "agents.yaml:2: budget overall bounds nothing"),
        ("budgets: {overall: {}}", "give it one of runs, turns, tokens, money, gpu_minutes"),
        ("budgets:\n  overall:\n    runs: 0", "agents.yaml:3: runs of budget overall: 0 is not"),
        ("budgets: {overall: {runs: true}}", "runs of budget overall: true is not a whole"),
        ("budgets: {overall: {runs: 1, window: 0}}", "window of budget overall: 0 is no time"),
        ("budgets: {overall: {tokens: 5MB}}", "tokens of budget overall: '5MB' is not a number"),
        ("budgets: {overall: {tokens: -5}}", "tokens of budget overall: -5 is not a number"),
        ("budgets: {overall: {money: free}}", "money of budget overall: 'free' is not a number"),
        ("budgets: {overall: {money: .nan}}", "money of budget overall: '.nan' is not a number"),
        ("budgets: {overall: {money: 0}}", "money of budget overall: 0 is not a number above 0"),
        ("budgets: {overall: {gpu_minutes: []}}", "gpu_minutes of budget overall: a list is not"),
        ("budgets: {overall: {usd: 5}}", "unknown key 'usd' of budget overall"),
        ("agents: {a: {max_turns: 10001}}", "max_turns of agent a: 10001 is not a whole number"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_file_line_and_fix(
    tmp_path: Path, text: str | bytes, says: str
):
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("limit", "-1", "-1 is not a whole number from 0 to 10000"),
        ("limit", "true", "true is not a whole number"),
        ("limit", '"2"', "'2' is not a whole number"),
        ("limit", "1.5", "1.5 is not a whole number"),
        ("limit", "1e3", "1000.0 is not a whole number"),
        ("limit", ".nan", "'.nan' is not a whole number"),
        ("limit", "99999999999999999999", "is not a whole number"),
        ("limit", "", "empty is not a whole number"),
        ("limit", "[1]", "a list is not a whole number"),
        ("command", "goose run", "'goose run' is not a list of texts"),
        ("command", "[]", "names no program"),
        ("command", "[sleep, 600]", 'item 2 is 600, not a text | write it in quotes: "600"'),
        ("command", "[sleep, 1.50]", "item 2 is 1.5, not a text | write it in quotes"),
        ("command", "[echo, a, true]", "item 3 is true, not a text | write it in quotes"),
        ("command", "[echo, null]", "item 2 is empty, not a text | write it in quotes"),
        (
            "command",
            "[run, {prompt}]",
            'item 2 is a mapping, not a text | write it in quotes, such as "{prompt}"',
        ),
        ("command", "[sh, [a, b]]", "item 2 is a list, not a text"),
        ("command", '["", "a"]', "names no program"),
        ("command", '["a\\0b"]', "holds a NUL byte"),
        ("command", '["a", "{task}"]', "the unknown placeholder {task} | did you mean task_id?"),
        ("command", '["{goose_bin}"]', "the unknown placeholder {goose_bin}"),
        ("env", "OPENAI_API_KEY", "is not a list of variable names"),
        ("env", "[A=B]", "item 1 is not the name of a variable"),
        ("env", "[A, 1]", "item 2 is not the name of a variable"),
        ("env", "[A, true]", "item 2 is not the name of a variable"),
        ("env", "[TINYSCHEDULER_UI_TOKEN]", "names a variable of the program's own"),
        ("memory", "2048", "2048 is not a size such as 14G"),
        ("memory", "-1G", "'-1G' is not a size"),
        ("vram", "lots", "'lots' is not a size"),
        ("max_runtime", "-5s", "'-5s' is not a duration"),
        ("max_runtime", "0", "0 is no time at all"),
        ("max_runtime", "12:30", "'12:30' is not a duration"),
        ("idle_output", "true", "true is not a duration"),
        ("max_turns", "0", "0 is not a whole number from 1"),
        ("profile", "gpt", "'gpt' is not one of shell, goose"),
        ("stdin", "file", "'file' is not one of null, prompt"),
        ("on_expire", "retry", "'retry' is not one of requeue, fail"),
        ("priority_class", "urgent", "'urgent' is not one of interactive, batch"),
        ("queue", "a b", "'a b' is not a name"),
        ("queue", "{a: b}", "a mapping is not a name"),
        ("cwd", '""', "'' is not a text"),
        ("model", "[a]", "a list is not a text"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_key_line_and_reason(
    tmp_path: Path, key: str, value: str, says: str
):
    said = refused(tmp_path, f"agents:\n  coder:\n    {key}: {value}\n")

    assert said.startswith(f"agents.yaml:3: {key} of agent coder: ")
    assert says in said


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("agents: &a {coder: {}}", "an anchor or alias"),
        ("agents: {a: &x {}, b: *x}", "an anchor or alias"),
        ("agents: !!python/object/apply:os.system ['true']", "the tag"),
        ("agents: {a: !!str 5}", "the tag"),
        ("agents: " + "{a: " * 30 + "1" + "}" * 30, "values nested too deeply"),
        ("agents: " + "[" * 100_000, "values nested too deeply"),
        ("a: " + "- " * 100_000, "not YAML"),
    ],
)
def test_yaml_is_only_as_clever_as_a_settings_file_needs(tmp_path: Path, text: str, what: str):
    assert what in refused(tmp_path, text)


def test_words_that_old_yaml_took_for_something_else_stay_words(tmp_path: Path):
    config = configured(tmp_path, "agents:\n  no: {queue: on}\n  7: {queue: 8}\n")

    assert [(agent.name, agent.queue) for agent in config.agents[:2]] == [("no", "on"), ("7", "8")]


def test_braces_that_are_no_placeholders_are_left_alone(tmp_path: Path):
    command = ["sh", "-c", "echo ${home} {{ x }} {print $1}", '{"a": 1}', "{{word}}", "{ word }"]

    config = configured(tmp_path, f"agents: {{a: {{command: {json.dumps(command)}}}}}")

    agent = config.agent("a")
    assert agent is not None
    assert agent.command == tuple(command)


def test_sections_of_later_features_are_accepted(tmp_path: Path):
    config = configured(
        tmp_path,
        """
hosts:
  local: {total_vram: 24G, max_slots: 8}
models:
  llama-7b:
    vram: 14G
    max_slots: 1
    start: ["llama-server", "-m", "{model_file}", "--port", "{port}"]
    ready: "http://127.0.0.1:{port}/health"
    start_timeout: 60s
pools:
  cluster: {launcher: slurm, partition: gpu, max_in_flight: 200}
queues: {dev: {limit: 4}}
tenants: {team-a: {vram: 24G, slots: 4, weight: 2}}
budgets: {overall: {window: 1d, runs: 20}, agent:coder: {window: 1d, money: 10}}
""",
    )

    assert config.warnings == ()


def test_budgets_are_read_with_all_their_bounds(tmp_path: Path):
    config = configured(
        tmp_path,
        """
budgets:
  overall: {runs: 500}
  agent:coder:
    {window: 7d, runs: 20, turns: 2000, tokens: 1.5M, money: 10, gpu_minutes: 240, wall_time: 8h}
  schedule:nightly: {tokens: 200k}
""",
    )

    assert config.inventory.budgets == (
        Budget(subject="overall", runs=500),
        Budget(
            subject="agent:coder",
            window_s=604_800.0,
            runs=20,
            turns=2000,
            tokens=1_500_000,
            money_usd=10.0,
            gpu_s=14_400.0,
            wall_s=28_800.0,
        ),
        Budget(subject="schedule:nightly", tokens=200_000),
    )


@pytest.mark.parametrize(
    ("agent", "profile"),
    [
        ('coder: {command: ["/opt/bin/claude", "-p", "x"]}', "claude"),
        ('codex: {command: ["sh", "-c", "exec codex"]}', "codex"),
        ('claude: {command: ["goose", "run"]}', "goose"),
        ('claude: {command: ["claude"], profile: shell}', "shell"),
        ('coder: {command: ["make"]}', "shell"),
        ("coder: {}", "goose"),
    ],
)
def test_what_an_agents_output_looks_like_is_known_by_its_program_or_its_name(
    tmp_path: Path, agent: str, profile: str
):
    config = configured(tmp_path, f"agents:\n  {agent}\n")

    assert {one.profile for one in config.agents if one.name != "shell"} == {profile}


def test_a_model_is_on_the_hosts_it_names_and_on_those_that_name_it(tmp_path: Path):
    config = configured(
        tmp_path,
        """
hosts:
  box: {address: "http://box:8080", max_slots: 8, models: {big: {max_slots: 3}, own: }}
  local: {total_vram: 24G}
models:
  big: {vram: 14G, max_slots: 1, host: [local, cave]}
  small: {endpoint: "http://127.0.0.1:11434"}
queues: {dev: {limit: 4}}
tenants: {red: {vram: 24G, slots: 4, weight: 2}}
""",
    )

    assert config.inventory == Inventory(
        hosts=(
            Host(name="box", address="http://box:8080", max_slots=8),
            Host(name="local", total_vram_bytes=24 << 30),
        ),
        models=(
            ModelPlace(model="big", host="box", vram_bytes=14 << 30, max_slots=3),
            ModelPlace(model="big", host="cave", vram_bytes=14 << 30, max_slots=1),
            ModelPlace(model="big", host="local", vram_bytes=14 << 30, max_slots=1),
            ModelPlace(model="own", host="box"),
            ModelPlace(model="small", endpoint="http://127.0.0.1:11434"),
        ),
        queues=(Quota(name="dev", slots=4),),
        tenants=(Quota(name="red", slots=4, vram_bytes=24 << 30, weight=2.0),),
    )
    assert config.inventory.endpoint("big", "box") == "http://box:8080"
    assert config.inventory.endpoint("small", "local") == "http://127.0.0.1:11434"
    assert config.inventory.endpoint("big", "cave") is None
    assert config.inventory.endpoint("big", None) is None


def test_a_host_may_have_a_model_by_the_name_that_its_makers_gave_it(tmp_path: Path):
    config = configured(
        tmp_path,
        """
agents: {coder: {command: [sh], model: "llama3:8b"}}
hosts: {box: {models: {"llama3:8b": , org/large-v2: {max_slots: 2}}}}
""",
    )

    assert config.inventory.models == (
        ModelPlace(model="llama3:8b", host="box"),
        ModelPlace(model="org/large-v2", host="box", max_slots=2),
    )


def test_a_host_is_bounded_by_what_is_said_of_it_and_by_the_setting(tmp_path: Path):
    text = "agents: {shell: {limit: 9}}\nhosts: {local: {max_slots: 5}, box: {max_slots: 1}}"

    assert configured(tmp_path, text).limits.host_slots == 5
    lower = loaded(tmp_path / "base", an_environment(MAX_CONCURRENT_SLOTS="3"))
    assert lower.limits.host_slots == 3


def test_validate_config_lists_every_fault_of_the_file_at_once(tmp_path: Path):
    text = "agents:\n  a: {limit: -1}\n  b: {commandd: [x]}\n  ../c: {}\nagnets: {}\n"
    base = a_base(tmp_path, agents=text)

    report = validate_config(Overrides(), an_environment(base))

    lines = [error.setting for error in report.errors if "agents.yaml" in error.setting]
    assert lines == [f"{base}/agents.yaml:{number}" for number in (2, 3, 4, 5)]


def test_an_agents_file_that_was_named_and_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="TINYSCHEDULER_AGENT_CONTROL_FILE: there is no file"):
        loaded(a_base(tmp_path), an_environment(AGENT_CONTROL_FILE="team.yaml"))


def test_the_default_file_defines_only_the_shell():
    source = InputFile(path="agents.yaml", content=DEFAULT_AGENTS_FILE.encode())

    found = parse_agents_file(source, path="agents.yaml", goose="goose")

    assert (list(found.agents), found.problems) == (["shell"], [])


def test_the_examples_of_the_default_file_work_once_uncommented():
    _, _, body = DEFAULT_AGENTS_FILE.partition("agents:\n")
    text = "agents:\n" + re.sub(r"^( *)# (?=[ a-z0-9-]+:)", r"\1", body, flags=re.MULTILINE)
    source = InputFile(path="agents.yaml", content=text.encode())

    found = parse_agents_file(source, path="agents.yaml", goose="goose")

    assert found.problems == []
    assert found.agents.keys() == {"coder", "shell"}
    assert [place.model for place in found.inventory.models] == ["llama-7b"]


@given(st.text(alphabet=st.sampled_from(list("agents:coder{}[],-&*!|>'\"#? \n\t12~")), max_size=60))
def test_any_text_is_an_agents_file_or_a_config_error(text: str):
    source = InputFile(path="agents.yaml", content=text.encode())

    try:
        found = parse_agents_file(source, path="agents.yaml", goose="goose")
    except ConfigError as error:
        assert_named(error)
        return

    assert all(problem.severity is not Severity.TUNING for problem in found.problems)


@given(st.binary(max_size=100))
def test_any_bytes_are_an_agents_file_or_a_config_error(content: bytes):
    source = InputFile(path="agents.yaml", content=content)

    try:
        parse_agents_file(source, path="agents.yaml", goose="goose")
    except ConfigError as error:
        assert_named(error)
