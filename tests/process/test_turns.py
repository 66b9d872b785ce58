"""Turns of agents: counted while their output grows, and ended where they are too many.

The agents are stand-ins that print what the real ones print, and note when they did so.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.process.station import Station, is_alive, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# How many turns, which shape, the folder of its notes, and what it does between and at the end.
AGENT = """
import json, os, signal, subprocess, sys, time

turns, shape, notes, way = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]

def for_a_processor():
    waited_ns = 0
    for process in ("self", os.getppid()):
        with open(f"/proc/{process}/schedstat") as file:
            waited_ns += int(file.read().split()[1])
    return waited_ns / 1e9

def note(name):
    noted[name] = [time.monotonic(), for_a_processor()]

def tell():
    with open(f"{notes}/told.new", "w") as file:
        json.dump(noted, file)
    os.rename(f"{notes}/told.new", f"{notes}/told")

def on_term(*_):
    note("term")
    tell()
    if way != "stubborn":
        os._exit(0)

noted = {}
signal.signal(signal.SIGTERM, on_term)
if way == "stubborn":
    orphan = "trap '' TERM; echo $$ > child; sleep 60 & wait; sleep 60"
    subprocess.Popen(["sh", "-c", orphan], start_new_session=True, cwd=notes)

def say(**event):
    print(json.dumps(event), flush=True)

usage = {"input_tokens": 90, "output_tokens": 10}
if shape == "claude":
    say(type="system", subtype="init", session_id="s")
elif shape == "codex":
    say(type="thread.started", thread_id="t")
for number in range(1, turns + 1):
    if shape == "claude":
        message = {"id": f"m{number}", "role": "assistant", "content": [], "usage": usage}
        say(type="assistant", message=message, parent_tool_use_id=None)
    elif shape == "goose":
        say(type="message", message={"id": f"m{number}", "role": "assistant", "content": []})
    elif shape == "codex":
        say(type="turn.started")
        say(type="item.completed", item={"id": "i", "type": "agent_message", "text": "…"})
    note(f"turn-{number}")
    if shape == "codex":
        say(type="turn.completed", usage=usage)
    time.sleep(0 if way == "quick" else 0.15)
tell()
if way == "done":
    if shape == "claude":
        say(type="result", subtype="success", is_error=False, num_turns=turns,
            total_cost_usd=0.5, usage={"input_tokens": 90 * turns, "output_tokens": 10 * turns})
    elif shape == "goose":
        say(type="complete", total_tokens=100 * turns)
elif way == "refused":
    say(type="result", subtype="error_max_turns", is_error=True, num_turns=turns)
    sys.exit(1)
elif way != "quick":
    time.sleep(60)
"""
SHAPES = ("claude", "goose", "codex")


class Bench:
    """A station with one agent, which is a stand-in."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.notes = station.base / "notes"

    def add(self, *options: str) -> str:
        done = self.station.run("add", "--agent", "helper", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *options: str) -> dict[str, Any]:
        """Add a task, let it end, and return its first attempt as `show` tells it."""
        task_id = self.add("--max-attempts", "1", *options)
        self.station.until_final(task_id)
        return self.attempt(task_id)

    def attempt(self, task_id: str) -> dict[str, Any]:
        shown = json.loads(self.station.run("show", task_id, "--json").stdout)
        first: dict[str, Any] = shown["attempts"][0]
        return first

    def told(self) -> dict[str, tuple[float, float]]:
        """Return when what happened, and how long agent and wrapper had no processor by then."""
        until((self.notes / "told").exists, "the agent to tell")
        told: dict[str, tuple[float, float]] = json.loads((self.notes / "told").read_text())
        return told


@pytest.fixture
def bench(make_station: Callable[..., Station], tmp_path: Path) -> Callable[..., Bench]:
    """Return a maker of benches: what is printed, how many turns, and what follows them."""
    names = iter("abcdefghij")

    def make(
        shape: str, *, turns: int, way: str = "waits", more: str | None = None, **settings: str
    ) -> Bench:
        name = next(names)
        notes = tmp_path / name / "notes"
        notes.mkdir(parents=True)
        script = tmp_path / name / "agent.py"
        script.write_text(AGENT)
        command = json.dumps(
            [sys.executable, "-S", str(script), str(turns), shape, str(notes), way]
        )
        with_agent(tmp_path / name, f"command: {command}\n    {more or f'profile: {shape}'}")
        return Bench(make_station(name, **settings))

    return make


def with_agent(base: Path, text: str) -> None:
    """Define the agent, before a station keeps the settings that ticks go by."""
    base.mkdir(exist_ok=True)
    (base / "agents.yaml").write_text(f"agents:\n  helper:\n    {text}\n")


@pytest.mark.parametrize("shape", SHAPES)
def test_an_agent_is_stopped_within_a_second_of_its_first_turn_too_many(
    bench: Callable[..., Bench], shape: str
):
    # No lease is written meanwhile: the disk may be busy with what others write.
    here = bench(shape, turns=6, HEARTBEAT_SEC="60")
    found = here.run("--max-turns", "5")

    assert (found["outcome"], found["failure_reason"]) == ("failed", "turn_limit_exceeded")
    assert found["turns"] == 6
    told = here.told()
    taken_s, asked_s = (told[name][0] for name in ("turn-6", "term"))
    # While others have all processors nobody could be any quicker.
    waited_s = told["term"][1] - told["turn-6"][1]
    assert asked_s - taken_s - waited_s <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_one_that_takes_exactly_its_turns_is_left_alone(bench: Callable[..., Bench], shape: str):
    found = bench(shape, turns=5, way="done").run("--max-turns", "5")

    assert (found["outcome"], found["turns"]) == ("succeeded", 5)
    assert found["tokens"] == 500
    assert found["cost_usd"] == (0.5 if shape == "claude" else None)
    assert found["cpu_sec"] > 0


def test_an_attempt_that_goes_over_its_tokens_is_ended_and_not_tried_again(
    bench: Callable[..., Bench],
):
    here = bench("claude", turns=300, more="profile: claude\n    max_tokens: 9k")
    task_id = here.add("--max-tokens", "450", "--max-attempts", "3")
    here.station.until_final(task_id)

    found = here.attempt(task_id)
    assert (found["failure_reason"], found["tokens"] >= 500) == ("budget_exceeded", True)
    assert found["message"].startswith("used ")
    assert found["message"].endswith(" tokens of its 450")
    shown = json.loads(here.station.run("show", task_id, "--json").stdout)
    assert (shown["state"], len(shown["attempts"])) == ("parked", 1)


def test_what_is_done_stands_though_it_took_more_money_than_it_may(bench: Callable[..., Bench]):
    here = bench("claude", turns=2, way="done", more="profile: claude\n    max_cost: 0.4")
    found = here.run()

    assert (found["outcome"], found["cost_usd"]) == ("succeeded", 0.5)
    assert found["message"] == "used $0.5 of its $0.4"


def test_the_whole_tree_ends_with_it_whatever_it_does_about_it(bench: Callable[..., Bench]):
    here = bench("claude", turns=30, way="stubborn")
    found = here.run("--max-turns", "5")

    assert found["failure_reason"] == "turn_limit_exceeded"
    assert not is_alive(int((here.notes / "child").read_text()))
    here.station.assert_no_survivors()


def test_who_ends_before_anybody_looks_has_taken_too_many_all_the_same(
    bench: Callable[..., Bench],
):
    found = bench("goose", turns=8, way="quick").run("--max-turns", "5")

    assert (found["failure_reason"], found["turns"] > 5) == ("turn_limit_exceeded", True)


def test_s15_what_an_agent_refuses_by_itself_is_its_limit_too(bench: Callable[..., Bench]):
    found = bench("claude", turns=3, way="refused").run()

    assert (found["failure_reason"], found["exit_code"]) == ("turn_limit_exceeded", 1)


def test_where_turns_are_bounded_any_agent_is_counted_by_what_it_prints(
    bench: Callable[..., Bench],
):
    found = bench("codex", turns=30, more="profile: shell").run("--max-turns", "3")

    assert found["failure_reason"] == "turn_limit_exceeded"


def test_without_a_bound_turns_are_counted_and_one_of_the_agents_holds_for_all(
    bench: Callable[..., Bench],
):
    assert bench("claude", turns=4, way="done").run()["turns"] == 4
    bounded = bench("claude", turns=30, more="profile: claude\n    max_turns: 2")
    assert bounded.run()["failure_reason"] == "turn_limit_exceeded"


def test_what_it_has_used_stands_in_its_lease_while_it_runs(bench: Callable[..., Bench]):
    here = bench("claude", turns=3)
    task_id = here.add()
    assert here.station.tick() == 0
    assert "turn-3" in here.told()

    def look() -> dict[str, Any] | None:
        lease = here.station.lease(task_id)
        return lease if lease is not None and lease["turns"] == 3 else None

    lease = until(look, "the lease to tell three turns")
    assert lease["tokens"] == 300
    assert lease["cpu_sec"] >= 0
    here.station.run("cancel", task_id)
    here.station.until_final(task_id)
    assert here.attempt(task_id)["turns"] == 3


def test_output_that_is_no_output_of_an_agent_costs_nothing(bench: Callable[..., Bench]):
    here = bench("claude", turns=0)
    noise = "head -c 30000000 /dev/urandom; yes '{' | head -c 3000000; echo; printf '{\"type\":'"
    task_id = here.station.add(noise, agent="shell", max_turns=3, max_attempts=1)
    here.station.until_final(task_id)

    found = here.attempt(task_id)
    assert (found["outcome"], found["turns"]) == ("succeeded", None)


def test_firings_that_keep_going_over_their_turns_pause_their_schedule(
    bench: Callable[..., Bench],
):
    station = bench("claude", turns=30).station
    added = station.run(
        *("schedule", "add", "--name", "s", "--every", "2h", "--agent", "helper"),
        *("--max-turns", "2"),
    )
    assert added.returncode == 0, added.stderr
    for number in range(1, 6):
        firing = station.run("schedule", "run", "s").stdout.strip()
        station.until_final(firing)
        shown = json.loads(station.run("schedule", "show", "s", "--json").stdout)["schedule"]
        assert (shown["turn_budget_breach_streak"], shown["failure_streak"]) == (number, 0)
        assert shown["state"] == ("paused" if number == 5 else "active")

    assert shown["why_paused"].startswith("5 firings in a row took more than their 2 turns, ")
    assert shown["avg_turns_per_firing"] >= 3
    text = station.run("schedule", "show", "s").stdout
    assert "at most 2; " in text
    assert "5 in a row went over" in text
    assert station.run("schedule", "resume", "s").returncode == 0
    again = json.loads(station.run("schedule", "show", "s", "--json").stdout)["schedule"]
    assert (again["state"], again["turn_budget_breach_streak"]) == ("active", 0)


def test_a_firing_reads_its_budget_above_its_prompt_and_a_task_its_prompt_alone(
    make_station: Callable[..., Station], tmp_path: Path
):
    with_agent(tmp_path / "base", 'command: [sh, -c, "cat; env"]\n    stdin: prompt')
    station = make_station()
    options = (
        *("--agent", "helper", "--prompt", "Tidy up", "--max-turns", "7"),
        *("--max-tokens", "5M", "--max-cost", "2.5"),
    )
    added = station.run("schedule", "add", "--name", "s", "--every", "2h", *options)
    assert added.returncode == 0, added.stderr
    firing = station.run("schedule", "run", "s").stdout.strip()
    task = station.run("add", *options).stdout.strip()
    station.until_final(firing, task)

    budget = "[Budget: at most 7 turns and 20 minutes. What goes beyond is ended: report before.]"
    printed = station.log(firing).decode()
    assert printed.startswith(f"{budget}\n\nTidy up")
    for bound in ("TURNS=7", "TOKENS=5000000", "COST_USD=2.5"):
        assert f"TINYSCHEDULER_ATTEMPT_MAX_{bound}\n" in printed
    assert station.log(task).decode().startswith("Tidy up")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "many"])
def test_no_more_turns_can_be_asked_for_than_make_sense(station: Station, number: str):
    for options in (("add",), ("schedule", "add", "--name", "s", "--every", "2h")):
        done = station.run(*options, f"--max-turns={number}", "--", "true")

        assert done.returncode == 2
        assert "max-turns" in done.stderr
