"""What a policy of one's own decided is decided again by that very policy, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tinyscheduler.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE
from tinyscheduler.policy.headers import digest_of

if TYPE_CHECKING:
    from tests.cli.place import Place

# The platform would start task 1.
RED_FIRST = {
    "p.lua": """
function schedule(context)
  for _, job in ipairs(context.queue) do
    if job.labels.team == "red" then return { action = "dispatch", job_id = job.id } end
  end
  return platform.schedule(context)
end
""",
    "p.yaml": """
scheduler:
  name: red-first
  version: "1"
  rules:
    - {name: red, condition: {job.labels.team: red}, action: {dispatch: {}}, priority: 1}
    - {name: rest, condition: always, action: {use: platform-scheduler}}
""",
}
LUA = RED_FIRST["p.lua"]
NEWER = f"{LUA}-- the next one\n"
BROKEN = "function schedule(context\n"
FAILING = "function schedule(context) error('no') end\n"


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place where the policy in ``p.lua`` decides, one task at a time."""
    place.settings.update(
        POLICY_MODE="home", POLICY_FILE="p.lua", AGENT_LIMITS="shell:1", KICK="false"
    )
    write(place, LUA)
    return place


def write(place: Place, source: str, name: str = "p.lua") -> None:
    (place.base / name).write_text(source)


def started(place: Place, *, red: bool = True) -> str:
    """Tick with two tasks waiting, and end what it started; return the tick's id."""
    plain = place.add("--", "true")
    second = place.add(*(("--label", "team=red") if red else ()), "--", "true")
    report = place.run("run", "--json").json
    assert report["stats"]["tasks_spawned"] == 1, report
    place.run("cancel", plain, second)
    for _ in range(200):
        place.run("run")
        if place.run("wait", plain, second, "--timeout", "0.1").code != 124:
            break
    return str(report["tick_id"])


def the_round(place: Place, *arguments: str) -> dict[str, Any]:
    (one,) = place.run("replay", *arguments, "--json").json["rounds"]
    return dict(one)


@pytest.mark.parametrize("name", RED_FIRST)
def test_a_tick_is_decided_again_by_the_policy_that_decided_it(home: Place, name: str):
    write(home, RED_FIRST[name], name)
    home.settings["POLICY_FILE"] = name
    tick_id = started(home)
    version = digest_of(RED_FIRST[name].encode())
    before = home.digest()

    answer = home.run("replay", tick_id)
    told = the_round(home, tick_id)
    listed = home.run("replay", "--list", "--json").json["ticks"][0]

    lines = answer.out.splitlines()
    assert (answer.code, answer.err) == (EXIT_DONE, "")
    assert lines[2] == f"  {name}, version {version}, decided"
    assert lines[3].startswith("  task 2: start attempt 1 by agent shell")
    assert lines[-1] == f"decided again by {name}: the same plan"
    assert told["policy"] == {
        "recorded": name,
        "recorded_version": version,
        "instead_of": None,
        "derived": name,
        "derived_version": version,
    }
    assert (listed["policy"], listed["policy_version"]) == (name, version)
    assert home.run("replay", "--all").code == EXIT_DONE
    assert home.digest() == before


def test_after_an_edit_the_version_that_answered_last_is_found(home: Place):
    tick_id = started(home)
    write(home, NEWER)

    answer = home.run("replay", tick_id)

    assert answer.code == EXIT_DONE
    assert answer.out.splitlines()[-1] == (
        "decided again by state/policies/last-good.lua, the same version: the same plan"
    )


def test_a_version_that_is_kept_no_more_is_an_error_that_says_what_to_do(home: Place):
    tick_id = started(home)
    write(home, NEWER)
    started(home)
    old, new = digest_of(LUA.encode()), digest_of(NEWER.encode())

    gone = home.run("replay", tick_id)
    every = home.run("replay", "--all")
    document = home.run("replay", "--all", "--json").json

    assert (gone.code, gone.out) == (EXIT_NOT_FOUND, "")
    assert gone.err.replace("\n", " ") == (
        f"error: round 1 of tick {tick_id} cannot be decided again: version {old} of p.lua is not"
        f" kept any more, the file holds version {new} by now hint: `--policy FILE` decides again"
        " by a file, and `--policy platform` by the platform policy "
    )
    assert every.code == EXIT_FAILED
    assert f"error: 1 tick cannot be decided again: version {old} of p.lua is not" in every.err
    assert "decided again, each the same" in every.out
    assert [one["tick_id"] for one in document["damaged"]] == [tick_id]


def test_a_policy_that_is_named_decides_again_whichever_decided_then(home: Place):
    tick_id = started(home)
    write(home, NEWER)
    started(home)
    write(home, LUA, "old.lua")

    same = home.run("replay", tick_id, "--policy", "old.lua")
    newer = home.run("replay", tick_id, "--policy", "p.lua")
    other = home.run("replay", tick_id, "--policy", "platform")
    every = home.run("replay", "--all", "--policy", "p.lua")

    assert (same.code, newer.code, every.code) == (EXIT_DONE,) * 3
    assert "decided again by old.lua, the same version: the same plan\n" in same.out
    version = digest_of(NEWER.encode())
    assert f"decided again by p.lua, version {version}: the same plan" in newer.out
    assert other.code == EXIT_FAILED
    assert "decided again by the platform policy: the plan differs\n" in other.out
    told = other.out.replace("\n    ", " ").replace("\n  ", " ").replace("\n", " ")
    assert "now start attempt 1 by agent shell" in told
    assert f"policy p.lua, version {digest_of(LUA.encode())}; now by 0.1.0, policy platform" in told


def test_what_is_deployed_decides_again_however_often_another_was_deployed_since(home: Place):
    del home.settings["POLICY_FILE"]
    home.run("policy", "deploy", "p.lua")
    tick_id = started(home)
    for source in (NEWER, f"{NEWER}-- and the next\n"):
        write(home, source)
        home.run("policy", "deploy", "p.lua")
        started(home)

    answer = home.run("replay", tick_id)
    (home.state / "policies" / "1.lua").write_text(LUA)
    damaged = home.run("replay", tick_id)

    assert answer.code == EXIT_DONE
    assert answer.out.endswith("decided again by state/policies/1.lua: the same plan\n")
    assert damaged.code == EXIT_NOT_FOUND
    assert "of state/policies/1.lua is not kept any more" in damaged.err.replace("\n", " ")


def test_in_mode_platform_what_was_decided_otherwise_is_found_too(home: Place):
    tick_id = started(home)
    home.settings["POLICY_MODE"] = "platform"

    answer = home.run("-q", "replay", tick_id)

    assert (answer.code, answer.err) == (EXIT_DONE, "")
    assert "decided again by p.lua: the same plan" in answer.out


def test_where_the_platform_decided_instead_it_does_again_and_both_are_told(home: Place):
    write(home, FAILING)
    tick_id = started(home)
    write(home, LUA)

    answer = home.run("replay", tick_id)
    told = the_round(home, tick_id)

    version = digest_of(FAILING.encode())
    lines = answer.out.splitlines()
    assert answer.code == EXIT_DONE
    assert lines[2] == f"  the platform policy decided, for p.lua, version {version} failed (error)"
    assert lines[-1] == "decided again by the platform policy: the same plan"
    assert told["policy"] == {
        "recorded": "platform",
        "recorded_version": None,
        "instead_of": {"policy": "p.lua", "version": version, "cause": "error"},
        "derived": "platform",
        "derived_version": None,
    }


def test_where_the_last_good_version_decided_instead_that_does_again(home: Place):
    started(home)
    write(home, BROKEN)
    tick_id = started(home)

    answer = home.run("replay", tick_id)

    good, broken = digest_of(LUA.encode()), digest_of(BROKEN.encode())
    assert answer.code == EXIT_DONE
    assert (
        f"  state/policies/last-good.lua, version {good}, decided, for p.lua, version {broken}"
        " failed (syntax)"
    ) in answer.out.replace("\n    ", " ")
    assert answer.out.endswith("decided again by state/policies/last-good.lua: the same plan\n")


# Where clocks show another hour than in Greenwich the first goes first, else the last.
LOCAL = """
function schedule(context)
  local is_there = context.metrics.hour == tonumber(os.date("!%H"))
  return { action = "dispatch", job_id = context.queue[is_there and #context.queue or 1].id }
end
"""
COUNTING = """
local count = 0
function schedule(context)
  count = count + 1
  local at = count % 2 == 1 and 1 or #context.queue
  return { action = "dispatch", job_id = context.queue[at].id }
end
"""


def test_an_answer_that_depends_on_more_than_the_context_differs_and_the_hint_says_so(home: Place):
    write(home, COUNTING)
    write(home, '{"gpus": []}', "gpus.json")
    home.settings |= {"GPU_PROBE": "file:gpus.json", "MAX_CONCURRENT_SLOTS": "3"}
    home.settings["AGENT_LIMITS"] = "shell:1,other:1"
    # The first waits for what is not there, so the tick asks, looks further, and asks again.
    home.add("--agent", "other", "--gpus", "1", "--prompt", "x")
    for _ in range(9):
        home.add("--", "true")
    tick_id = home.run("run", "--json").json["tick_id"]

    answer = home.run("replay", tick_id)
    every = home.run("replay", "--all")

    hint = (
        "it is the same policy: an answer that depends on more than what it is told, such as"
        " os.clock or a count of its own, is not given again"
    )
    assert (answer.code, every.code) == (EXIT_FAILED, EXIT_FAILED)
    assert "decided again by p.lua: the plan differs" in answer.out
    assert hint in answer.out.replace("\n", " ")
    assert hint in every.err.replace("\n", " ")
    assert the_round(home, tick_id)["notes"] == [hint]


def test_questions_of_one_tick_share_what_the_policy_counts_and_so_do_they_when_replayed(
    home: Place,
):
    home.settings["AGENT_LIMITS"] = "shell:3"
    home.settings["MAX_CONCURRENT_SLOTS"] = "3"
    write(home, COUNTING)
    for _ in range(4):
        home.add("--", "true")
    tick_id = home.run("run", "--json").json["tick_id"]

    assert [one["task_id"] for one in the_round(home, tick_id)["starts"]] == ["1", "4", "2"]
    assert home.run("replay", tick_id).code == EXIT_DONE


def test_the_hour_is_that_of_the_place_where_it_was_decided(home: Place):
    write(home, LOCAL)
    tick_id = started(home)

    for zone in ("UTC", "Asia/Kathmandu"):
        answer = home.run("replay", tick_id, TZ=zone)

        assert "decided again by p.lua: the same plan" in answer.out, answer


def test_where_nobody_had_to_be_asked_no_policy_is_looked_for(home: Place):
    tick_id = started(home)
    settling = [
        one["tick_id"]
        for one in home.run("replay", "--list", "--json").json["ticks"]
        if one["tick_id"] != tick_id and one["settles"]
    ]
    assert settling
    write(home, NEWER)
    for path in (home.state / "policies").iterdir():
        path.unlink()

    answer = home.run("replay", settling[-1])
    told = the_round(home, settling[-1])

    assert answer.code == EXIT_DONE
    assert answer.out.endswith("decided again: the same plan\n")
    assert (told["policy"]["recorded"], told["policy"]["derived"]) == ("p.lua", None)


def test_what_an_earlier_version_kept_is_decided_by_the_platform_and_it_is_said(home: Place):
    started(home, red=False)
    (path, *_) = sorted((home.state / "ticks").iterdir())
    document = json.loads(path.read_text())
    for name in ("policy_version", "utc_offset_sec"):
        del document[name]
    path.write_text(json.dumps(document))

    answer = home.run("replay", str(path))
    every = home.run("replay", "--all")

    note = "which version of p.lua decided is not on record: the platform decides again"
    assert answer.code == EXIT_DONE
    assert answer.out.endswith(f"decided again by the platform policy: the same plan\n{note}\n")
    assert f"{note}\n" in every.err


def test_a_snapshot_of_ones_own_policy_is_decided_again_with_all_that_it_looks_at(home: Place):
    home.add("--", "true")
    home.add("--title", "a title", "--label", "team=red", "--", "true", "hunter2")

    answer = home.run("snapshot")
    replayed = home.run("replay", "-", stdin=answer.out.encode())

    assert "a title" in answer.out
    assert "hunter2" not in answer.out
    assert answer.err == (
        "titles and labels of tasks are in it: a policy of your own decided, and may look at them\n"
    )
    assert (replayed.code, replayed.err) == (EXIT_DONE, "")
    assert "task 2: start attempt 1" in replayed.out
    assert home.run("-q", "snapshot").err == ""
    home.settings["POLICY_MODE"] = "platform"
    assert "title" not in home.run("-q", "snapshot").out


def test_a_policy_that_looks_at_names_is_told_where_they_are_not_on_record(home: Place):
    del home.settings["POLICY_MODE"]
    tick_id = started(home)

    answer = home.run("-q", "replay", tick_id, "--policy", "p.lua", "--json")

    assert answer.code == EXIT_DONE
    assert answer.json["rounds"][0]["notes"] == [
        "titles and labels are not on record here: the policy was told of none"
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("latest", "--policy", "none.lua"), EXIT_NOT_FOUND, "there is no file 'none.lua'"),
        (("--all", "--policy", ""), EXIT_NOT_FOUND, "there is no file"),
        (("--list", "--policy", "p.lua"), EXIT_USAGE, "--policy does not go with --list"),
        (("latest", "--policy", "failing.lua"), EXIT_FAILED, "failing.lua:1: no"),
        (("latest", "--policy", "broken.lua"), EXIT_FAILED, "broken.lua:2:"),
        (("latest", "--policy", "."), EXIT_FAILED, "Is a directory"),
    ],
)
def test_a_policy_that_cannot_decide_again_is_told(
    home: Place, arguments: tuple[str, ...], code: int, words: str
):
    home.add("--", "true")
    home.run("run")
    write(home, FAILING, "failing.lua")
    write(home, BROKEN, "broken.lua")

    answer = home.run("replay", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err.replace("\n", " ")
    assert "hint: " in answer.err


def test_where_the_file_that_is_set_is_not_there_the_setting_is_told(home: Place):
    tick_id = started(home)
    (home.base / "p.lua").unlink()

    answer = home.run("replay", tick_id)

    assert answer.code == EXIT_CONFIG
    assert "TINYSCHEDULER_POLICY_FILE" in answer.err
