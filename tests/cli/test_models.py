"""Models have slots on this machine and on others; real attempts take them and give them back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.process.station import until

if TYPE_CHECKING:
    from tests.cli.place import Place

AGENTS = """
agents:
  shell: {limit: 9}
hosts:
  box: {address: "http://box:8080", max_slots: 2}
models:
  large: {host: box, max_slots: 1}
  small: {host: box, max_slots: 5, endpoint: "http://box:9090/v1"}
"""
SHOW = ("sh", "-c", "echo at ${TINYSCHEDULER_MODEL_ENDPOINT-nowhere}; sleep 600")


@pytest.fixture
def place(place: Place) -> Place:
    (place.base / "agents.yaml").write_text(AGENTS)
    place.settings |= {"KICK": "false", "RETRY_BACKOFF_SEC": "30"}
    return place


def run(place: Place) -> dict[str, dict[str, Any]]:
    """Tick once and return what was decided about each task."""
    answer = place.run("run", "--json")
    assert answer.code == 0, answer.err
    return {one["task_id"]: one for one in answer.json["decisions"]}


def lease(place: Place, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (place.state / "running" / f"task_{task_id}.json").read_text()
    )
    return found


def said(place: Place, task_id: str) -> str:
    """Return the first line that the task printed."""
    log = place.state / "logs" / "tasks" / task_id / "1.log"
    until(lambda: log.exists() and "\n" in log.read_text(), "the task to print")
    return log.read_text().splitlines()[0]


def test_a_task_that_needs_a_free_model_passes_one_that_needs_a_busy_one(place: Place):
    for model in ("large", "large", "small"):
        place.add("--model", model, "--", *SHOW)

    decisions = run(place)

    assert [one["action"] for one in decisions.values()] == ["dispatch", "dispatch", "wait"]
    assert decisions["3"]["model_host"] == "box"
    assert decisions["2"] | {"retry_after_sec": 30} == decisions["2"]
    assert (decisions["2"]["reason"], decisions["2"]["words"]) == (
        "no_slots",
        "model large: 1 of 1 slots on host box used",
    )
    assert (lease(place, "1")["model"], lease(place, "1")["model_host"]) == ("large", "box")
    assert said(place, "1") == "at http://box:8080"
    assert said(place, "3") == "at http://box:9090/v1"


def test_with_a_lookahead_of_0_it_passes_nobody(place: Place):
    place.settings["QUEUE_LOOKAHEAD"] = "0"
    for model in ("large", "large", "small"):
        place.add("--model", model, "--", *SHOW)

    assert [one["action"] for one in run(place).values()] == ["dispatch", "wait", "wait"]
    assert [one["action"] for one in run(place).values()] == ["wait", "wait"]


def test_before_the_backoff_is_over_nobody_looks_and_then_somebody_does(place: Place):
    place.settings["RETRY_BACKOFF_SEC"] = "4"
    place.add("--model", "large", "--", *SHOW)
    place.add("--model", "large", "--", *SHOW)
    assert run(place)["2"]["retry_after_sec"] == 4

    place.run("cancel", "1")
    until(lambda: run(place)["2"] and not (place.state / "running" / "task_1.json").exists(), "it")
    early = run(place)["2"]

    assert early["action"] == "wait"
    assert early["reason"] == "no_slots"
    assert 0 < early["retry_after_sec"] < 4
    until(lambda: run(place).get("2", {}).get("action") == "dispatch", "the second to start")


def test_where_ends_make_ticks_the_slot_that_one_frees_goes_to_the_next(place: Place):
    place.settings["KICK"] = "true"
    place.add("--model", "large", "--", "sleep", "0.5")
    second = place.add("--model", "large", "--", "true")
    assert run(place)["2"]["retry_after_sec"] == 30

    assert place.run("wait", second, "--timeout", "20s").code == 0


def test_why_says_which_slots_are_used(place: Place):
    for model in ("large", "large"):
        place.add("--model", model, "--", *SHOW)
    run(place)

    answer = place.run("why", "2", "--json").json

    assert answer["reason"] == "no_slots"
    assert 0 < answer["retry_after_sec"] <= 30


def test_status_shows_the_slots_of_each_model(place: Place):
    for model in ("large", "small", "small"):
        place.add("--model", model, "--", *SHOW)
    run(place)

    found = place.run("status", "--json").json["models"]
    lines = place.run("status").out.splitlines()

    # The host has two slots for both together.
    assert [(one["model"], one["used"], one["max_slots"], one["free"]) for one in found] == [
        ("large", 1, 1, 0),
        ("small", 1, 5, 0),
    ]
    (head,) = (number for number, line in enumerate(lines) if line.startswith("MODEL"))
    assert lines[head + 1].split() == ["large", "box", "1", "1", "0"]


def test_a_model_that_is_preferred_is_done_without_where_none_is_free(place: Place):
    agents = AGENTS.replace(
        "shell: {limit: 9}",
        'coder: {limit: 9, model: large, model_match: preferred, command: ["sh", "-c",'
        ' "echo at {model_endpoint}; exec {command}"]}',
    )
    (place.base / "agents.yaml").write_text(agents)
    for _ in range(2):
        place.add("--agent", "coder", "--", "sleep", "600")

    assert [one["model_host"] for one in run(place).values()] == ["box", None]
    assert (said(place, "1"), said(place, "2").strip()) == ("at http://box:8080", "at")


def test_quotas_of_queues_and_tenants_hold(place: Place):
    quotas = "queues:\n  shell: {limit: 3}\ntenants:\n  red: {slots: 1}\n"
    (place.base / "agents.yaml").write_text(AGENTS + quotas)
    for tenant in ("red", "red", "blue", "blue", "blue"):
        place.add("--tenant", tenant, "--", *SHOW)

    decisions = run(place)

    reasons = [one["reason"] for one in decisions.values()]
    assert reasons == [None, None, None, "tenant_quota", "queue_limit"]
    assert lease(place, "1")["tenant"] == "red"


def test_more_vram_than_a_host_has_is_flagged_with_both_numbers(place: Place):
    text = "hosts: {local: {total_vram: 24G}}\nmodels: {a: {vram: 14G, max_slots: 2}}\n"
    (place.base / "agents.yaml").write_text(text)

    answer = place.run("validate-config")

    assert answer.code == 4
    assert "allocated VRAM 28 GiB exceeds total_vram 24 GiB" in answer.out + answer.err
