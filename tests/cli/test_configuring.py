"""``config`` and ``validate-config`` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.place import Place


def test_config_tells_each_value_and_where_it_came_from_without_secrets(place: Place):
    (place.base / ".env").write_text("TINYSCHEDULER_LOOP_INTERVAL_SEC=7\n")
    place.settings |= {"UI_TOKEN": "hush", "MAX_ATTEMPTS": "9"}

    text = place.run("--log-level", "DEBUG", "config", "--show")
    rows = {one["name"]: one for one in place.run("config", "--json").json["settings"]}

    assert text.code == 0
    assert "hush" not in text.out
    assert rows["MAX_ATTEMPTS"] == {
        "name": "MAX_ATTEMPTS",
        "variable": "TINYSCHEDULER_MAX_ATTEMPTS",
        "value": 9,
        "origin": "env",
    }
    assert (rows["LOOP_INTERVAL_SEC"]["value"], rows["LOOP_INTERVAL_SEC"]["origin"]) == (7, ".env")
    lines = [line.split() for line in text.out.splitlines()]
    assert ["LOG_LEVEL", "cli", "DEBUG"] in lines
    assert ["shell", "shell", "2", "default"] in lines
    assert str(place.base / ".env") in text.out


def test_validate_config_ends_with_4_until_it_is_fixed(place: Place):
    before = place.run("validate-config")
    fixed = place.run("validate-config", "--fix")
    after = place.run("validate-config", "--json")

    assert before.code == 4
    assert "does not exist" in before.out
    assert (fixed.code, after.code) == (0, 0), fixed
    assert "made folder" in fixed.out
    assert after.json["valid"] is True
    assert place.run("validate-config", "--fix").out == "the configuration is sound\n"


def test_nothing_is_wrong_between_the_first_task_and_the_first_tick(place: Place):
    place.add("--", "true")

    assert place.run("validate-config").out == "the configuration is sound\n"
    assert "settings: sound" in place.run("doctor").out


def test_validate_config_lists_every_problem_as_json(place: Place):
    place.settings |= {"MAX_ATTEMPTS": "many", "AGENT_LIMITS": "a:x"}

    answer = place.run("validate-config", "--json")

    assert (answer.code, answer.json["valid"]) == (4, False)
    settings = [problem["setting"] for problem in answer.json["errors"]]
    assert {"TINYSCHEDULER_MAX_ATTEMPTS", "TINYSCHEDULER_AGENT_LIMITS"} <= set(settings)
    assert all(problem["fix"] for problem in answer.json["errors"])


@pytest.mark.parametrize("content", ["agents: {coder: {limit: -1}}", "agents: [", None])
def test_a_faulty_agents_file_keeps_nobody_from_looking_or_cancelling(
    place: Place, content: str | None
):
    for _ in range(2):
        place.add("--", "true")
    place.run("run")
    place.run("wait", "1", "2")
    place.add("--hold", "--", "true")
    agents_file = place.base / "agents.yaml"
    if content is None:
        agents_file.mkdir()
    else:
        agents_file.write_text(content)

    looks: tuple[list[str], ...] = (
        ["list"],
        ["show", "1"],
        ["status"],
        ["ps"],
        ["logs", "1"],
        ["wait", "1"],
        [],
    )
    changes = (
        *(["release", "3"], ["hold", "3"], ["cancel", "3"], ["retry", "3"]),
        *(["pause"], ["resume"], ["drain"], ["undrain"], ["prune"]),
    )
    answers = {" ".join(typed): place.run(*typed) for typed in (*looks, *changes)}
    refusals = {
        " ".join(typed): place.run(*typed)
        for typed in (["run"], ["run", "--dry-run"], ["add", "true"], ["validate-config"])
    }

    assert {name: one.code for name, one in answers.items()} == dict.fromkeys(answers, 0)
    for name, answer in answers.items():
        first = answer.err.splitlines()[0]
        assert first.startswith(f"warning: {agents_file}"), name
        assert first.endswith(f"until `{place.program} validate-config` is content")
    assert {name: one.code for name, one in refusals.items()} == dict.fromkeys(refusals, 4)
    assert len(place.run("list", "--json").json["tasks"]) == 3
