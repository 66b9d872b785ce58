"""Who decides, whether one's own policy could, and what is told where it cannot."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

LAST_FIRST = """
function schedule(context)
  log("info", "asked")
  local job = context.queue[#context.queue]
  return { action = "dispatch", job_id = job.id }
end
"""
BROKEN = "function schedule(context)\n  return context.jobs[1]\nend\n"
FAULT = "policies/p.lua:2: attempt to index a nil value (field 'jobs')"


@pytest.fixture
def home(place: Place) -> Place:
    """A place where a policy of one's own rules: the last goes first, one at a time."""
    place.settings.update(
        POLICY_MODE="home",
        POLICY_FILE="policies/p.lua",
        AGENT_LIMITS="shell:1",
        STAGGER_DELAY_MS="0",
    )
    (place.base / "policies").mkdir()
    write(place, LAST_FIRST)
    return place


def write(place: Place, source: str) -> None:
    (place.base / "policies" / "p.lua").write_text(source)


def two_tasks(place: Place) -> None:
    for _ in range(2):
        assert place.run("add", "--", "sleep", "60").code == 0


def test_it_decides_instead_of_the_platform(home: Place):
    two_tasks(home)

    report = home.run("run", "--json").json

    assert [one["task_id"] for one in report["decisions"] if one["action"] == "dispatch"] == ["2"]
    policy = report["policy"]
    assert (policy["name"], policy["mode"], policy["fallback"]) == ("policies/p.lua", "home", None)
    assert policy["version"] == home.run("policy", "show", "--json").json["version"]
    assert report["warnings"] == []


@pytest.mark.parametrize("changes", [{"POLICY_MODE": "platform"}, {"POLICY_FILE": None}])
def test_in_mode_platform_or_without_a_file_the_platform_decides(
    home: Place, changes: dict[str, str | None]
):
    for name, value in changes.items():
        if value is None:
            del home.settings[name]
        else:
            home.settings[name] = value
    two_tasks(home)

    report = home.run("run", "--json").json

    assert report["policy"]["name"] == "platform"
    assert report["policy"]["version"] is None
    assert home.run("policy", "show").out.splitlines()[1] == "policy:   platform"


def test_one_that_fails_is_replaced_loudly_and_is_asked_no_more_until_it_is_changed(home: Place):
    write(home, BROKEN)
    home.settings["AGENT_LIMITS"] = "shell:9"
    for _ in range(5):
        home.run("add", "--", "sleep", "60")
        home.run("run")

    answer = home.run("policy", "show")
    told = home.run("policy", "show", "--json").json
    events = [
        json.loads(line) for line in home.run("events", "-n", "100", "--json").out.splitlines()
    ]
    home.run("add", "--", "true")
    warned = home.run("run", "--dry-run")
    status = home.run("status")

    assert "state:    it failed 3 times in a row" in answer.out
    assert f"because:  {FAULT}" in answer.out
    assert told["is_given_up"] is True
    assert told["scheduler_error_total"] == 3
    assert told["scheduler_timeout_total"] == 0
    fallbacks = [one for one in events if one["event"] == "policy.fallback"]
    assert [(one["cause"], one["words"]) for one in fallbacks] == [("error", FAULT)] * 3
    assert f"it has failed 3 times in a row, at last: {FAULT}" in warned.err
    assert f"your policy failed 3 times in a row, and the platform policy decides: {FAULT}" in (
        status.out.replace("\n", " ")
    )
    assert home.run("status", "--json").json["policy"]["is_given_up"] is True

    write(home, LAST_FIRST)
    mended = home.run("run", "--json").json["policy"]

    assert (mended["name"], mended["fallback"]) == ("policies/p.lua", None)
    assert "it answered when it was last asked" in home.run("policy", "show").out


def test_a_tick_with_nothing_to_decide_asks_nobody_and_forgets_no_failure(home: Place):
    write(home, BROKEN)
    two_tasks(home)
    first = home.run("run", "--json").json
    second = home.run("run", "--json").json

    assert (first["policy"]["fallback"], second["policy"]["fallback"]) == ("error", None)
    assert second["policy"]["duration_ms"] is None
    assert home.run("policy", "show", "--json").json["failed_in_a_row"] == 1


def test_the_source_of_the_platform_can_be_had_and_rules_as_it_does(home: Place):
    source = home.run("policy", "source").out
    write(home, source)
    two_tasks(home)

    report = home.run("run", "--json").json

    assert home.run("policy", "source", "--json").json["source"].rstrip() == source.rstrip()
    assert report["policy"]["name"] == "policies/p.lua"
    assert [one["task_id"] for one in report["decisions"] if one["action"] == "dispatch"] == ["1"]


def test_checking_says_what_was_logged_and_what_it_takes(home: Place):
    answer = home.run("policy", "check", "policies/p.lua")
    told = home.run("policy", "check", "policies/p.lua", "--json").json

    assert answer.code == 0
    assert answer.out.startswith("log info: asked\npolicies/p.lua can rule: at most ")
    assert told["is_usable"] is True
    assert told["findings"] == []
    assert told["log"] == [{"level": "info", "text": "asked"}]
    assert told["slowest_ms"] >= 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (BROKEN, f"error: {FAULT}\n"),
        ("function schedule(c) returns 5 end", "error: policies/p.lua:1: syntax error near '5'\n"),
        ("", "error: policies/p.lua: there is no function schedule(context)\n"),
        (
            "function schedule(c) if #c.queue > 900 then error('\\27[31mtoo many') end end",
            "error: policies/p.lua:1: \\x1b[31mtoo many (asked about 1000 tasks)\n",
        ),
    ],
)
def test_checking_one_that_could_not_rule_ends_with_1(home: Place, source: str, words: str):
    write(home, source)

    answer = home.run("policy", "check", "policies/p.lua")

    assert (answer.code, answer.out) == (1, words)
    assert home.run("policy", "check", "policies/p.lua", "--json").json["is_usable"] is False


def test_checking_waits_for_a_process_that_is_long_in_starting(
    home: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_at: Callable[..., Answer],
):
    """On a busy machine a start takes longer than a tick would wait for it."""
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 0.4\nexec {sys.executable} "$@"\n')
    slow.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(slow))
    answer = run_at(home, "policy", "check", "policies/p.lua")

    assert (answer.code, "can rule" in answer.out) == (0, True), answer


def test_checking_warns_of_one_that_is_slow(home: Place):
    write(
        home,
        "function schedule(c) local began = os.clock()"
        " while #c.queue > 900 and os.clock() < began + 0.6 do end end",
    )
    home.settings.update(POLICY_TIMEOUT_MS="1000", POLICY_WALL_MS="30000")

    answer = home.run("policy", "check", "policies/p.lua")

    assert answer.code == 0
    assert re.search(
        r"^warning: schedule took 6\d\d ms with 1000 tasks waiting; it is stopped at 1000 ms",
        answer.out,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check",), 2, "policy check needs a FILE"),
        (("show", "x.lua"), 2, "'x.lua' is not the number of a version"),
        (("source", "x.lua"), 2, "policy source takes no FILE"),
        (("check", "none.lua"), 5, "there is no file"),
        (("fly",), 2, "fly"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Place, arguments, code: int, words: str):
    answer = home.run("policy", *arguments)

    assert (answer.code, words in answer.err) == (code, True)


def test_doctor_says_which_walls_there_are_and_how_the_policy_does(home: Place):
    def found() -> dict[str, Any]:
        findings = home.run("doctor", "--json").json["checks"]
        return {one["check"]: one for one in findings}

    before = found()
    write(home, BROKEN)
    two_tasks(home)
    home.run("run")
    after = found()

    assert "confined by" in before["sandbox"]["what"]
    assert before["policy"]["what"] == "policies/p.lua decides"
    assert after["policy"]["verdict"] == "warn"
    assert FAULT in after["policy"]["what"]


def test_titles_and_labels_are_told_to_policies_of_ones_own(home: Place):
    write(
        home,
        "function schedule(context) local job = context.queue[1]"
        " error(job.title .. ' ' .. job.labels.team .. ' ' .. job.seed) end",
    )
    home.run("add", "--title", "a title", "--label", "team=red", "--seed", "7", "--", "true")

    assert "policies/p.lua:1: a title red 7; the platform" in home.run("run", "--dry-run").err
