"""``agent``: which agents there are, what an output counts as, and one attempt by hand."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.agents.test_samples import SAMPLES
from tests.cli.place import compare
from tests.process.station import is_alive, until

from tinyscheduler.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_USAGE,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

AGENTS = """
agents:
  reviewer: {profile: claude, account: max, idle_output: 10m}
  fixer: {profile: own, max_turns: 40, max_runtime: 2h, limit: 3, queue: dev}
  stopped: {limit: 0, command: [sh, -c, "echo {prompt}"]}
profiles:
  own:
    command: [my-agent, "{prompt_file}"]
    outcomes:
      - when: {exit_code: 9, json: {state: gave up}}
        then: turn_limit_exceeded
"""


@pytest.fixture
def known(place: Place) -> Place:
    (place.base / "agents.yaml").write_text(AGENTS)
    return place


def test_list_shows_each_agent_with_its_profile_its_bounds_and_its_command(
    known: Place, here: Callable[..., Answer]
):
    compare("agents.txt", here("agent", "list").out)
    document = here("agent", "list", "--json").json
    assert [one["name"] for one in document["agents"]] == ["fixer", "reviewer", "shell", "stopped"]
    fixer = document["agents"][0]
    assert (fixer["profile"], fixer["limit"], fixer["max_turns"]) == ("own", 3, 40)
    assert fixer["command"] == ["my-agent", "{prompt_file}"]
    assert not known.state.exists()


def test_a_sample_is_judged_by_the_profile_of_an_agent_or_one_of_that_name(
    known: Place, here: Callable[..., Answer]
):
    def told(*arguments: str) -> str:
        return here("agent", "test", *arguments).out.replace(str(SAMPLES), "")

    cases = (
        ("reviewer", "claude-success", 0),
        ("reviewer", "claude-rate-limit", 1),
        ("gemini", "gemini-turn-limit", 53),
        ("own", "shell-failure", 0),
        ("shell", "shell-failure", 75),
    )
    parts = []
    for name, sample, code in cases:
        options = ("--sample", str(SAMPLES / f"{sample}.txt"), "--exit-code", str(code))
        parts.append(f"$ {name} {sample} {code}\n{told(name, *options)}")
    compare("agent-test.txt", "\n".join(parts))
    assert not known.state.exists()


def test_a_sample_may_come_from_standard_input_and_its_code_says_how_it_was(known: Place):
    gave_up = known.run(
        *("agent", "test", "fixer", "--sample", "-", "--exit-code", "9", "--json"),
        stdin=b'{"state": "gave up"}\n',
    )

    assert gave_up.code == EXIT_FAILED
    assert gave_up.json == {
        "schema_version": 1,
        "agent": "fixer",
        "profile": "own",
        "outcome": "failed",
        "failure_reason": "turn_limit_exceeded",
        "message": "exit code 9",
        "turns": None,
        "tokens": None,
        "cost_usd": None,
        "text": "",
    }
    done = known.run("agent", "test", "shell", "--sample", "-", stdin=b"\xff\xfe done\n")
    assert (done.code, done.out.splitlines()[1]) == (EXIT_DONE, "outcome:  succeeded")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("test", "fixr", "--sample", "x"), EXIT_NOT_FOUND, "did you mean fixer?"),
        (("test", "codx", "--sample", "x"), EXIT_NOT_FOUND, "did you mean codex?"),
        (("test", "fixer"), EXIT_USAGE, "agent test needs a --sample"),
        (("test", "fixer", "--sample", "nowhere"), EXIT_USAGE, "cannot read 'nowhere': No such"),
        (("test", "fixer", "--sample", "."), EXIT_USAGE, "cannot read '.': Is a directory"),
        (("test", "fixer", "--sample", "x", "--exit-code", "256"), EXIT_USAGE, "--exit-code"),
        (("test", "fixer", "--prompt", "x"), EXIT_USAGE, "agent test takes no --prompt"),
        (("test", "--sample", "x"), EXIT_USAGE, "agent test needs the name of an agent"),
        (("list", "fixer"), EXIT_USAGE, "agent list takes no 'fixer'"),
        (("list", "--cwd", "."), EXIT_USAGE, "agent list takes no --cwd"),
        (("try",), EXIT_USAGE, "agent try needs the name of an agent"),
        (("try", "fixr", "--prompt", "x"), EXIT_NOT_FOUND, "did you mean fixer?"),
        (("try", "fixer"), EXIT_USAGE, "which neither the task nor the agent sets"),
        (("try", "reviewer"), EXIT_USAGE, "agent reviewer reads a prompt, and there is none"),
        (("try", "shell", "--prompt", "x"), EXIT_USAGE, "agent shell runs the command of a task"),
        (("try", "fixer", "--prompt", "x", "--cwd", "nowhere"), EXIT_USAGE, "is not a folder"),
        (("try", "fixer", "--prompt", "x", "--max-runtime", "0s"), EXIT_USAGE, "is no time at all"),
        (("try", "fixer", "--prompt", "x", "--prompt-file", "y"), EXIT_USAGE, "cannot be given"),
        (("try", "fixer", "--prompt", "x", "--recipe", "../x.yaml"), EXIT_FAILED, "is outside the"),
        (("try", "fixer", "--prompt", "x", "--recipe", "/x.yaml"), EXIT_FAILED, "is outside the"),
    ],
)
def test_what_makes_no_sense_is_refused(
    known: Place, here: Callable[..., Answer], arguments: tuple[str, ...], code: int, says: str
):
    answer = here("agent", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert says in " ".join(answer.err.split())
    assert not known.state.exists()


def test_a_faulty_file_is_a_fault_of_try_and_a_warning_of_list(known: Place):
    (known.base / "agents.yaml").write_text("agents: {a: {limitt: 3}}")

    assert known.run("agent", "try", "a", "--prompt", "x").code == EXIT_CONFIG
    listed = known.run("agent", "list")
    assert (listed.code, "unknown key 'limitt'" in listed.err) == (EXIT_DONE, True)


STAND_IN = """#!/bin/sh
cat
pwd
[ "$1" ] && { sleep 300 & echo $! > child; trap '' TERM; sleep 300; sleep 300; }
printf '%s\\n' '{"type":"result","subtype":"success","is_error":false,"num_turns":2,"result":"ok"}'
exit ${CODE:-0}
"""


@pytest.fixture
def trying(place: Place) -> Place:
    """A place with an agent that tells what it is asked, and where."""
    script = place.base / "claude"
    script.write_text(STAND_IN)
    script.chmod(0o755)
    agents = {
        "quick": {"command": [str(script)], "stdin": "prompt", "env": ["CODE"]},
        "slow": {"command": [str(script), "slow"], "stdin": "prompt"},
    }
    (place.base / "agents.yaml").write_text(json.dumps({"agents": agents}))
    return place


def test_try_runs_one_attempt_shows_what_it_prints_and_leaves_nothing(
    trying: Place, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ask.txt").write_text("Do it.\n")

    done = trying.run("agent", "try", "quick", "--prompt-file", "ask.txt", cwd=elsewhere)

    shown, _, told = done.out.partition("\n\n")
    assert shown.splitlines()[:2] == ["Do it.", str(elsewhere)]
    assert told.splitlines()[:2] == ["outcome:  succeeded", "turns:    2"]
    assert (done.code, done.err) == (EXIT_DONE, "")
    # No task, no lease, no slot: there is no state at all.
    assert sorted(path.name for path in trying.base.iterdir()) == ["agents.yaml", "claude"]

    failed = trying.run("agent", "try", "quick", "--prompt", "x", "--json", CODE="3")
    assert failed.code == EXIT_FAILED
    assert (failed.json["outcome"], failed.json["failure_reason"]) == ("failed", "sdk_error")
    assert '"num_turns":2' in failed.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_who_interrupts_it_ends_it_with_all_that_it_started(trying: Place, number: int):
    process = subprocess.Popen(
        trying.argv("agent", "try", "slow", "--prompt", "x", "--max-runtime", "5m"),
        env=trying.environment(),
        cwd=trying.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child = trying.base / "child"
    until(lambda: child.exists() and child.read_text(), "the agent to have started another")

    process.send_signal(number)
    out, err = process.communicate(timeout=30)

    assert process.returncode == EXIT_INTERRUPTED
    assert b"outcome:  cancelled" in out
    assert b"ending it, and all that it started" in err
    assert not is_alive(int(child.read_text()))


def test_inside_an_attempt_nothing_is_tried(trying: Place):
    refused = trying.run(
        *("agent", "try", "quick", "--prompt", "x"),
        TINYSCHEDULER_LEASE_ID="0" * 32,
        TINYSCHEDULER_BASE_PATH=str(trying.base),
    )

    assert refused.code == EXIT_USAGE
    assert "this is inside attempt" in refused.err
