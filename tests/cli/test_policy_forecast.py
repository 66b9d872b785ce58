"""``policy simulate``, ``policy diff`` and ``deploy --gate``, as people and CI type them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.cli.place import compare
from tests.process.station import until

from tinyscheduler.cli.demo_stage import processes_of
from tinyscheduler.errors import (
    EXIT_BUSY,
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.place import Answer, Place

GOOD = "function schedule(context) return platform.schedule(context) end\n"
# Whatever is free, one at a time.
BAD = """
function schedule(context)
  if context.metrics.busy_workers > 0 then
    return { action = "wait", reason = "one at a time" }
  end
  return { action = "dispatch", job_id = context.queue[1].id }
end
"""
NIGHT = """scheduler:
  name: night
  version: "1"
  rules:
    - name: batch at night
      condition: {job.priority: batch, metrics.hour: {ge: 6}}
      action: wait
      priority: 10
    - name: the rest
      condition: always
      action: {use: platform-scheduler}
"""
MADE_UP = ("--pools", "1", "--workers-per-pool", "4", "--queue-depth", "3")
# A third of it, where it is enough that something is played.
LITTLE = (*MADE_UP[:-1], "1")
AGENTS = """
agents:
  coder: {queue: dev, limit: 8, command: [sleep, "1"]}
"""


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place with a good policy and a bad one, where such may decide."""
    place.settings |= {"POLICY_MODE": "home", "MAX_CONCURRENT_SLOTS": "8", "GPU_PROBE": "file:gpus"}
    place.settings["MEMORY_PER_SLOT_MB"] = "1"
    (place.base / "good.lua").write_text(GOOD)
    (place.base / "bad.lua").write_text(BAD)
    (place.base / "night.yaml").write_text(NIGHT)
    (place.base / "agents.yaml").write_text(AGENTS)
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


def figures(document: dict[str, object]) -> dict[str, float]:
    found = document["figures"]
    assert isinstance(found, dict)
    return found


# -- simulate -------------------------------------------------------------------------


def test_a_load_is_made_up_and_told_in_a_table(here: Callable[..., Answer]):
    answer = here("policy", "simulate", "good.lua", *MADE_UP)

    assert (answer.code, answer.err) == (EXIT_DONE, "")
    compare("policy-simulate.txt", answer.out)


def test_the_same_seed_prints_the_same_bytes_and_nothing_on_disk_changes(
    here: Callable[..., Answer], home: Place
):
    asked = ("policy", "simulate", "night.yaml", *LITTLE, "--json")
    before = home.digest()
    first, again = here(*asked), here(*asked)
    other = here(*asked, "--seed", "2")

    assert first.out == again.out
    assert first.json["tasks"] != other.json["tasks"]
    assert home.digest() == before


def test_json_tells_of_each_task(here: Callable[..., Answer]):
    document = here("policy", "simulate", "good.lua", *MADE_UP, "--json").json

    assert document["load"]["kind"] == "generated"
    assert document["load"]["tasks"] == len(document["tasks"]) == 30
    assert document["policy"] == "good.lua"
    assert set(document["tenants"]) <= {"red", "green", "blue"}
    assert all(
        one["ready_sec"] <= one["started_sec"] < one["ended_sec"] for one in document["tasks"]
    )
    waits = sorted(one["started_sec"] - one["ready_sec"] for one in document["tasks"])
    assert figures(document)["wait_max"] == pytest.approx(waits[-1], abs=0.001)


def test_the_machine_is_this_one_unless_pools_are_named(here: Callable[..., Answer]):
    document = here("policy", "simulate", "good.lua", "--queue-depth", "2", "--json").json

    assert (document["load"]["slots"], document["load"]["gpus"]) == (8, 0)
    assert {one["agent"] for one in document["tasks"]} == {"coder", "shell"}


def test_a_policy_in_yaml_decides_by_the_hour_of_the_load(here: Callable[..., Answer]):
    """The load begins on a Monday at eight, and batch waits for the night."""
    document = here("policy", "simulate", "night.yaml", *MADE_UP, "--json", "--seed", "3").json

    assert figures(document)["wait_max"] > 12 * 3600
    assert figures(document)["never_started"] == 0


def test_a_policy_remembers_nothing_from_tick_to_tick(here: Callable[..., Answer], home: Place):
    source = "local asked = 0\n" + GOOD.replace(
        "return", "asked = asked + 1; assert(asked < 20, 'it remembers'); return"
    )
    (home.base / "counting.lua").write_text(source)
    document = here("policy", "simulate", "counting.lua", *MADE_UP, "--json").json

    assert document["faults"] == []


def test_a_policy_that_draws_as_it_is_loaded_draws_the_same_each_time(
    here: Callable[..., Answer], home: Place
):
    (home.base / "salted.lua").write_text("""
local salt = math.random(1000)
function schedule(context)
  local queue = context.queue
  return { action = "dispatch", job_id = queue[1 + (salt + #queue) % #queue].id }
end
""")
    asked = ("policy", "simulate", "salted.lua", *LITTLE, "--json")

    assert len({here(*asked).out for _ in range(4)}) == 1


def test_a_policy_that_fails_is_told_and_its_place(here: Callable[..., Answer], home: Place):
    (home.base / "failing.lua").write_text(
        "function schedule(context)\n  return nothing.at.all\nend\n"
    )
    answer = here("policy", "simulate", "failing.lua", *MADE_UP)

    assert answer.code == EXIT_DONE
    assert re.search(r"ticks it failed in +3\n", answer.out)
    assert "failed in 3 ticks (error): failing.lua:2: " in answer.out


def test_a_policy_that_cannot_be_loaded_is_not_played(here: Callable[..., Answer], home: Place):
    (home.base / "broken.lua").write_text("function schedule(\n")
    answer = here("policy", "simulate", "broken.lua", *MADE_UP)

    assert (answer.code, answer.out) == (EXIT_FAILED, "")
    assert answer.err.startswith("error: broken.lua:")


def test_who_takes_longer_than_a_tick_waits_is_played_and_warned_of(
    here: Callable[..., Answer], home: Place
):
    home.settings["POLICY_TIMEOUT_MS"] = "1"
    slow = GOOD.replace("return", "local sum = 0; for i = 1, 500000 do sum = sum + i end; return")
    (home.base / "slow.lua").write_text(slow)
    answer = here("policy", "simulate", "slow.lua", *MADE_UP)

    assert answer.code == EXIT_DONE
    assert "took longer than POLICY_TIMEOUT_MS" in answer.err
    assert re.search(r"ticks it failed in +0\n", answer.out)


# -- a case and a snapshot ------------------------------------------------------------

CASES = """
- name: two of them
  given:
    queue: [{id: a, vram: 20GiB, agent: coder}, {id: b, agent: coder}]
    agents: [{name: coder, limit: 2, active: 1}]
    gpus: [{uuid: GPU-0, vram_total: 24GiB}]
    slots: 1
  expect: {starts: [a]}
- name: nothing to do
  expect: {starts: []}
"""


def test_a_case_of_fixtures_can_be_played(here: Callable[..., Answer], home: Place):
    (home.base / "cases.yaml").write_text(CASES)
    document = here(
        *("policy", "simulate", "good.lua", "--fixture", "cases.yaml"),
        *("--case", "two of them", "--json"),
    ).json

    first, second = document["tasks"]
    assert (first["task_id"], second["task_id"]) == ("a", "b")
    assert document["load"]["slots"] == 2
    # One slot is taken by what runs already, and the other is for one after the other.
    assert first["started_sec"] < 1 <= second["started_sec"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        pytest.param((), "cases.yaml has 2 cases", id="which"),
        pytest.param(("--case", "three"), "cases.yaml has no case 'three'", id="unknown"),
    ],
)
def test_which_case_must_be_said(
    here: Callable[..., Answer], home: Place, case: tuple[str, ...], told: str
):
    (home.base / "cases.yaml").write_text(CASES)
    answer = here("policy", "simulate", "good.lua", "--fixture", "cases.yaml", *case)

    assert answer.code == EXIT_NOT_FOUND
    assert told in answer.err
    assert "'two of them', 'nothing to do'" in answer.err


def test_a_snapshot_of_a_full_queue_can_be_played(home: Place):
    for number in range(12):
        home.add("--title", f"task {number}", "--agent", "coder", "--prompt", "work")
    home.add("--agent", "coder", "--prompt", "later", "--hold")
    home.run("run", "--once")
    snapshot = home.run("snapshot").out
    answer = home.run(
        *("policy", "simulate", "good.lua", "--snapshot", "-", "--json"),
        stdin=snapshot.encode(),
    )

    document = answer.json
    # Some run and are not counted; one is held, and nobody lets it go.
    known = json.loads(snapshot)["snapshot"]
    waiting = [
        one for view in known["sources"] for one in view["waiting"] if not one.get("is_held")
    ]
    assert [one["task_id"] for one in document["tasks"]] == [one["task_id"] for one in waiting]
    assert figures(document)["never_started"] == 0


def test_a_snapshot_in_which_nothing_waits_is_none_to_play(home: Place):
    home.run("run", "--once")
    (home.base / "now.json").write_text(home.run("snapshot").out)
    answer = home.run("policy", "simulate", "good.lua", "--snapshot", "now.json")

    assert (answer.code, answer.out) == (EXIT_NOT_FOUND, "")
    assert "nothing waits in that snapshot" in answer.err


# -- diff -----------------------------------------------------------------------------


def record(home: Place, number: int = 24) -> None:
    """Run so many tasks of half a second, for real and side by side."""
    lines = (json.dumps({"agent": "shell", "command": ["sleep", "0.5"]}) for _ in range(number))
    (home.base / "tasks.jsonl").write_text("\n".join(lines))
    home.settings["AGENT_LIMITS"] = "shell:8"
    added = home.run("add", "--from", "tasks.jsonl", "--start", "--json").json
    waited = home.run("wait", *added["task_ids"], "--timeout", "60s")
    assert waited.code == 0, waited
    # The tick that told of the last one may still be putting its database away.
    until(lambda: not list(processes_of(str(home.base))), "the last tick to end")


def test_a_bad_candidate_is_seen_through_on_what_really_ran_and_the_gate_refuses_it(home: Place):
    record(home)
    before = home.digest()
    shown = home.run("policy", "diff", "bad.lua")
    document = home.run("policy", "diff", "bad.lua", "--json").json
    gated = home.run("policy", "diff", "bad.lua", "--gate")

    assert (shown.code, gated.code) == (EXIT_DONE, EXIT_FAILED)
    assert shown.out == gated.out
    assert home.digest() == before
    assert document["load"]["kind"] == "recorded"
    assert document["load"]["tasks"] == 24
    old, new = document["baseline"], document["candidate"]
    assert (old["policy"], new["policy"]) == ("platform", "bad.lua")
    # Three at a time at the least became one at a time.
    assert figures(new)["wait_p95"] > 3 * figures(old)["wait_p95"] > 0
    assert figures(new)["slots_used"] < figures(old)["slots_used"] / 3
    assert len(document["starts"]["later"]) > 12
    assert document["is_worse"]
    assert "slots_used" in {one["figure"] for one in document["worse"]}
    assert "slots in use" in shown.out.splitlines()[-1]

    refused = home.run("policy", "deploy", "bad.lua", "--gate")
    assert refused.code == EXIT_FAILED
    assert "error: bad.lua is not deployed" in refused.err
    assert home.run("policy", "versions", "--json").json["versions"] == []

    accepted = home.run("policy", "deploy", "good.lua", "--gate", "--json")
    assert accepted.code == EXIT_DONE
    assert accepted.json["is_deployed"]
    assert not accepted.json["gate"]["is_worse"]
    assert accepted.json["gate"]["baseline"]["policy"] == "platform"


def test_where_little_is_recorded_the_gate_judges_by_a_made_up_load(here: Callable[..., Answer]):
    refused = here("policy", "deploy", "bad.lua", "--gate", "--json")

    assert refused.code == EXIT_FAILED
    assert not refused.json["is_deployed"]
    assert "wait_p95" in {one["figure"] for one in refused.json["gate"]["worse"]}


def test_another_policy_that_became_active_meanwhile_is_not_replaced_unseen(
    home: Place, monkeypatch: pytest.MonkeyPatch, run_at: Callable[..., Answer]
):
    from tinyscheduler.cli import policy_forecast

    compare = policy_forecast.judge

    def while_somebody_deploys(*arguments: Any) -> Any:
        found = compare(*arguments)
        assert home.run("policy", "deploy", "night.yaml").code == EXIT_DONE
        return found

    monkeypatch.setattr(policy_forecast, "judge", while_somebody_deploys)
    answer = run_at(home, "policy", "deploy", "good.lua", "--gate", *LITTLE)

    assert (answer.code, answer.out) == (EXIT_BUSY, "")
    assert "another policy was made the active one" in answer.err
    (kept,) = home.run("policy", "versions", "--json").json["versions"]
    assert kept["name"] == "night.yaml"


def test_a_bound_says_how_much_worse_a_figure_may_be(here: Callable[..., Answer]):
    lax = [
        part
        for name in ("wait_p50", "wait_p95", "wait_max", "slowdown", "slots_used", "gpus_used")
        for part in ("--bound", f"{name}=1000000%")
    ]
    lax += ["--bound", "starved=100000", "--bound", "fairness_tenants=100"]
    strict = here("policy", "diff", "bad.lua", *MADE_UP, "--gate", "--json")
    allowed = here("policy", "diff", "bad.lua", *MADE_UP, "--gate", "--json", *lax)

    assert (strict.code, allowed.code) == (EXIT_FAILED, EXIT_DONE), allowed.json["worse"]
    assert allowed.json["bounds"]["wait_p95"] == 10_000


def test_what_is_compared_with_can_be_named(here: Callable[..., Answer]):
    here("policy", "deploy", "bad.lua")
    active = here("policy", "diff", "good.lua", *MADE_UP, "--json").json
    version = here("policy", "diff", "good.lua", *MADE_UP, "--against", "1", "--json").json
    platform = here("policy", "diff", "bad.lua", *MADE_UP, "--against", "platform", "--json").json

    assert active["baseline"]["policy"].endswith("/policies/1.lua"), active["baseline"]["policy"]
    assert version["baseline"] == active["baseline"]
    assert not active["is_worse"]
    assert platform["is_worse"]


def test_where_the_active_policy_is_broken_that_is_compared_with_which_decides_instead(
    here: Callable[..., Answer], home: Place
):
    here("policy", "deploy", "bad.lua")
    (home.state / "policies" / "1.lua").write_text("function schedule(\n")
    platform = here("policy", "diff", "good.lua", *MADE_UP, "--gate")
    deployed = here("policy", "deploy", "good.lua", "--gate", *MADE_UP)

    assert (platform.code, deployed.code) == (EXIT_DONE, EXIT_DONE)
    assert "platform  good.lua  CHANGE" in platform.out
    for answer in (platform, deployed):
        assert "warning: the active policy cannot be loaded: " in answer.err
        assert "; platform decides" in answer.err.replace("\n", " ")


def test_the_last_good_version_stands_for_a_broken_one_as_in_ticks(home: Place):
    home.run("policy", "deploy", "bad.lua")
    home.add("--", "true")
    home.run("run", "--once")
    (home.state / "policies" / "1.lua").write_text("function schedule(\n")
    document = home.run("policy", "diff", "good.lua", *LITTLE, "--json").json

    assert document["baseline"]["policy"] == "state/policies/last-good.lua"
    assert figures(document["baseline"])["slots_used"] < 0.3


def test_a_candidate_is_a_file_whatever_it_is_called(here: Callable[..., Answer], home: Place):
    for name in ("platform", "active", "1"):
        (home.base / name).write_text(BAD)
        answer = here("policy", "deploy", name, "--gate", *LITTLE)

        assert answer.code == EXIT_FAILED
        assert "worse: " in answer.out


def test_what_the_gate_rests_on_is_told(here: Callable[..., Answer], home: Place):
    """A slow one is only slow where much waits, so that `check` has nothing against it."""
    home.settings["POLICY_TIMEOUT_MS"] = "20"
    slow = "if context.metrics.busy_workers > 2 then for i = 1, 5000000 do end end; return"
    (home.base / "slow.lua").write_text(GOOD.replace("return", slow))
    answer = here("policy", "deploy", "slow.lua", "--gate", *MADE_UP)

    assert answer.code == EXIT_DONE
    assert "to slow.lua took longer than POLICY_TIMEOUT_MS" in answer.err.replace("\n", " ")


def test_a_difference_is_told_in_a_table(here: Callable[..., Answer]):
    answer = here("policy", "diff", "bad.lua", *MADE_UP)

    assert answer.code == EXIT_DONE
    compare("policy-diff.txt", answer.out)


@pytest.mark.parametrize("action", ["simulate", "diff"])
def test_a_name_does_nothing_to_a_terminal(here: Callable[..., Answer], home: Place, action: str):
    (home.base / "\x1b[31m.lua").write_text(GOOD)
    answer = here("policy", action, "\x1b[31m.lua", *LITTLE)

    assert answer.code == EXIT_DONE
    assert "\x1b" not in answer.out + answer.err
    assert "\\x1b[31m.lua" in answer.out


def test_a_table_fits_a_terminal(home: Place):
    code, text = home.type("policy", "diff", "bad.lua", *MADE_UP)

    assert code == EXIT_DONE
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= 80
    assert "\x1b[31m" in text


def test_where_no_agent_may_run_anything_no_load_is_made_up(
    here: Callable[..., Answer], home: Place
):
    home.settings["AGENT_LIMITS"] = "shell:0,coder:0"
    answer = here("policy", "simulate", "good.lua")

    assert (answer.code, answer.out) == (EXIT_USAGE, "")
    assert "no agent here may run anything" in answer.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        pytest.param(
            ("diff", "good.lua"), EXIT_NOT_FOUND, "no attempt has ended since", id="nothing ran"
        ),
        pytest.param(
            ("simulate", "none.lua"), EXIT_NOT_FOUND, "there is no file none.lua", id="no file"
        ),
        pytest.param(
            ("diff", "good.lua", *MADE_UP, "--against", "7"),
            EXIT_NOT_FOUND,
            "there is no version 7",
            id="no version",
        ),
        pytest.param(
            ("simulate", "good.lua", "--since", "1d", "--pools", "2"),
            EXIT_USAGE,
            "--since and --queue-depth, --pools or --workers-per-pool name two loads",
            id="two loads",
        ),
        pytest.param(
            ("simulate", "good.lua", "--case", "x"), EXIT_USAGE, "--fixture", id="case of what"
        ),
        pytest.param(
            ("simulate", "good.lua", "--since", "soon"), EXIT_USAGE, "neither a time", id="since"
        ),
        pytest.param(
            ("simulate", "good.lua", "--since", "1d", "--seed", "3"),
            EXIT_USAGE,
            "--seed says nothing",
            id="seed of the past",
        ),
        pytest.param(
            ("simulate", "good.lua", "--queue-depth", "0"), EXIT_USAGE, "range from 1", id="depth"
        ),
        pytest.param(
            ("simulate", "good.lua", "--gate"), EXIT_USAGE, "--gate goes with diff", id="gate"
        ),
        pytest.param(
            ("deploy", "good.lua", "--seed", "2"), EXIT_USAGE, "goes with --gate", id="no gate"
        ),
        pytest.param(
            ("diff", "good.lua", *MADE_UP, "--bound", "wait=1"),
            EXIT_USAGE,
            "--bound 'wait' is no figure",
            id="figure",
        ),
        pytest.param(
            ("diff", "good.lua", *MADE_UP, "--bound", "wait_p50=-1"),
            EXIT_USAGE,
            "no percentage",
            id="percentage",
        ),
        pytest.param(
            ("diff", "good.lua", *MADE_UP, "--bound", "wait_p50"),
            EXIT_USAGE,
            "write it as --bound wait_p95=10%",
            id="no percentage",
        ),
        pytest.param(
            ("simulate", "good.lua", "--plot", "a.gif"), EXIT_USAGE, "neither a .png", id="plot"
        ),
        pytest.param(
            ("simulate", "good.lua", *MADE_UP, "--plot", "no/where.png"),
            EXIT_UNAVAILABLE,
            "--plot 'no/where.png' cannot be written",
            id="folder",
        ),
        pytest.param(
            ("simulate", "good.lua", "--snapshot", "none.json"),
            EXIT_NOT_FOUND,
            "there is no file 'none.json'",
            id="no snapshot",
        ),
        pytest.param(
            ("simulate", "good.lua", "--snapshot", "good.lua"),
            EXIT_CONFIG,
            "good.lua",
            id="no document",
        ),
        pytest.param(("simulate",), EXIT_USAGE, "needs a FILE", id="which"),
    ],
)
def test_what_cannot_be_played_is_refused_with_a_way_out(
    here: Callable[..., Answer], arguments: tuple[str, ...], code: int, told: str
):
    answer = here("policy", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err.replace("\n", " ")
    assert "hint:" in answer.err


# -- pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "html"])
def test_a_picture_is_drawn_and_the_same_again(here: Callable[..., Answer], home: Place, kind: str):
    one, again = f"one.{kind}", f"again.{kind}"
    for name in (one, again):
        assert here("policy", "diff", "bad.lua", *LITTLE, "--plot", name).code == EXIT_DONE
    content = (home.base / one).read_bytes()

    assert content == (home.base / again).read_bytes()
    if kind == "png":
        assert content.startswith(b"\x89PNG\r\n")
        assert len(content) > 10_000
    else:
        text = content.decode()
        assert "<svg" in text
        assert "bad.lua" in text
        assert "wait, median" in text
        # Dark and light, and nothing from elsewhere.
        assert "currentColor" in text
        assert "<script" not in text
        assert re.findall(r"(?:src|href)=\"https?:", text) == []


def test_a_name_is_no_markup_in_a_picture(here: Callable[..., Answer], home: Place):
    name = "$x<b>&_.lua"
    (home.base / name).write_text(GOOD)
    answer = here("policy", "simulate", name, *LITTLE, "--plot", "a.html")

    assert answer.code == EXIT_DONE, answer.err
    assert "$x<b>" not in (home.base / "a.html").read_text()
