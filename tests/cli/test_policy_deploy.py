"""``policy deploy``, ``rollback``, ``versions`` and ``show V``, as people and scripts type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
)
from tinyscheduler.policy.headers import with_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.place import Answer, Place

ONE = "function schedule(context) return platform.schedule(context) end -- one\n"
TWO = "function schedule(context) return platform.schedule(context) end -- two\n"
# Takes more than half of the time that it may, and answers.
SLOW = """
function schedule(context)
  if #context.queue < 1000 then return {} end
  local sum = 0
  for i = 1, 2000000 do sum = sum + i end
  return {}
end
"""


@pytest.fixture
def home(place: Place) -> Place:
    """Return a place where policies of one's own may decide."""
    place.settings["POLICY_MODE"] = "home"
    (place.base / "one.lua").write_text(ONE)
    (place.base / "two.lua").write_text(TWO)
    return place


@pytest.fixture
def here(home: Place, run_at: Callable[..., Answer]) -> Callable[..., Answer]:
    """Run commands there in this very process."""
    return lambda *arguments: run_at(home, *arguments)


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """Return the state folder, with room for 256 KiB."""
    place.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place.state)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk as this user: {done.stderr.strip()}")
    yield place.state
    subprocess.run(["umount", "--lazy", str(place.state)], check=True)


def versions(here: Callable[..., Answer]) -> dict[int, str]:
    """Return of each version what it is: active, last good, damaged or nothing of all that."""
    document = here("policy", "versions", "--json").json
    names = {"is_active": "active", "is_last_good": "good", "fault": "damaged"}
    return {
        one["version"]: " ".join(word for name, word in names.items() if one[name])
        for one in document["versions"]
    }


def test_a_policy_lives_deployed_then_replaced_then_rolled_back(here, home: Place):
    first = here("policy", "deploy", "one.lua")
    second = here("policy", "deploy", "two.lua", "--json").json
    back = here("policy", "rollback")
    nothing = here("policy", "rollback")
    forth = here("policy", "rollback", "2", "--json").json

    assert (first.code, first.err) == (EXIT_DONE, "")
    assert "version 1 (one.lua, " in first.out
    assert (second["version"], second["is_deployed"], second["is_changed"]) == (2, True, True)
    assert second["check"]["is_usable"]
    assert back.out.startswith("version 1 (one.lua, ")
    assert nothing.code == EXIT_NOT_FOUND
    assert "no version before 1" in nothing.err
    assert (forth["version"], forth["hash"]) == (2, second["hash"])
    assert versions(here) == {2: "active", 1: ""}
    events = (home.state / "logs/events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in events]
    assert [(one["event"], one["reason"], one["version"]) for one in told] == [
        ("policy.deployed", "deploy", 1),
        ("policy.deployed", "deploy", 2),
        ("policy.deployed", "rollback", 1),
        ("policy.deployed", "rollback", 2),
    ]


def test_the_same_content_again_changes_nothing_and_says_so(here, home: Place):
    here("policy", "deploy", "one.lua")
    before = home.digest()
    (home.base / "again.lua").write_bytes((home.state / "policies/1.lua").read_bytes())

    again = here("policy", "deploy", "one.lua")
    copied = here("policy", "deploy", "again.lua", "--json").json

    assert "is active already" in again.out
    assert (copied["version"], copied["is_changed"]) == (1, False)
    (home.base / "again.lua").unlink()
    assert home.digest() == before


def test_a_policy_that_could_not_rule_is_refused_even_by_force(here, home: Place):
    here("policy", "deploy", "one.lua")
    (home.base / "bad.lua").write_text("function schedule(context\n  return nil\n")

    for arguments in ((), ("--force",)):
        answer = here("policy", "deploy", "bad.lua", *arguments)

        assert answer.code == EXIT_FAILED
        assert "error: bad.lua:2:" in answer.out
        assert "is not deployed" in answer.err
        assert versions(here) == {1: "active"}
    document = here("policy", "deploy", "bad.lua", "--json").json
    assert (document["is_deployed"], document["version"]) == (False, None)
    assert document["check"]["findings"][0]["severity"] == "error"


def test_warnings_are_refused_unless_forced(here, home: Place):
    home.settings |= {"POLICY_TIMEOUT_MS": "400", "POLICY_WALL_MS": "2000"}
    (home.base / "slow.lua").write_text(SLOW)
    # Between half of its time and all of it, by a processor that may become slower meanwhile.
    for _ in range(3):
        home.settings["POLICY_TIMEOUT_MS"] = "400"
        took_ms = here("policy", "check", "slow.lua", "--json").json["slowest_ms"]
        home.settings["POLICY_TIMEOUT_MS"] = str(int(took_ms * 1.4))
        refused = here("policy", "deploy", "slow.lua")
        forced = here("policy", "deploy", "slow.lua", "--force")
        if "schedule took longer than" not in refused.out + forced.out:
            break

    assert (refused.code, "warning: " in refused.out) == (EXIT_FAILED, True)
    assert "--force" in refused.err
    assert forced.code == EXIT_DONE


def test_where_a_policy_file_is_set_nothing_is_deployed_that_nobody_would_read(here, home: Place):
    home.settings["POLICY_FILE"] = "one.lua"

    for arguments in (("deploy", "two.lua"), ("rollback",)):
        answer = here("policy", *arguments)

        assert answer.code == EXIT_CONFIG
        assert "TINYSCHEDULER_POLICY_FILE" in answer.err
        assert "unset" in answer.err
    assert not (home.state / "policies").exists()


def test_in_mode_platform_it_is_said_that_the_mode_has_to_be_set(here, home: Place):
    del home.settings["POLICY_MODE"]

    answer = here("policy", "deploy", "one.lua")

    assert answer.code == EXIT_DONE
    assert "TINYSCHEDULER_POLICY_MODE" in answer.err
    assert here("policy", "show").out.splitlines()[:2] == [
        "mode:     platform",
        "policy:   platform",
    ]


def test_a_tick_goes_by_what_is_deployed_and_keeps_it_as_the_last_good_one(here, home: Place):
    here("policy", "deploy", "one.lua")
    home.add("--", "true")

    report = json.loads(home.run("run", "--once", "--json").out)

    assert report["policy"]["name"] == "state/policies/1.lua"
    assert report["policy"]["version"] == here("policy", "show", "--json").json["version"]
    assert report["stats"]["tasks_spawned"] == 1
    assert versions(here) == {1: "active good"}
    shown = here("policy", "show").out
    assert "state:    it answered when it was last asked" in shown
    assert "deployed: version 1, one.lua, " in shown


GOOD = "state/policies/last-good.lua"


def told(here: Callable[..., Answer], *command: str) -> str:
    """Return what a command prints, in one line."""
    return " ".join(here(*command).out.split())


def look_at_all(here: Callable[..., Answer], who: str, fault: str) -> None:
    """Check that whoever tells of policies tells who decides, and why it is not the active one."""
    assert f"your policy cannot be loaded, and {who} decides: {fault}" in told(here, "status")
    assert f"your policy cannot be loaded, and {who} decides: {fault}" in told(here)
    shown = here("policy", "show").out.splitlines()
    assert f"state:    it cannot be loaded, and {who} decides" in shown
    assert f"because:  {fault}" in shown
    assert not [line for line in shown if line.startswith("version:")]
    doctor = told(here, "doctor")
    assert f"cannot be loaded, and {who} decides: {fault}" in doctor
    assert "policy rollback" in doctor
    assert "policy state/policies/1.lua decides" not in doctor
    for document in (
        here("policy", "show", "--json").json,
        here("status", "--json").json["policy"],
    ):
        assert document["decides"] == who.removeprefix("the ").removesuffix(" policy")
        assert document["fault"] == fault


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "No such file or directory"),
        (lambda path: path.write_text("x"), "its first lines are not those that deploying writes"),
    ],
)
def test_a_version_in_charge_that_cannot_be_loaded_is_told_wherever_policies_are(
    here, home: Place, damage: Callable[[Path], object], words: str
):
    here("policy", "deploy", "one.lua")
    home.settings["KICK"] = "false"
    path = home.state / "policies/1.lua"
    damage(path)
    fault = f"{path}: {words}"

    look_at_all(here, "the platform policy", fault)
    assert "no policy was deployed yet" not in here("policy", "versions").err
    here("policy", "deploy", "two.lua")
    home.add("--", "true")
    home.run("run", "--once")
    (home.state / "policies/2.lua").unlink()
    fault = f"{home.state}/policies/2.lua: No such file or directory"
    for _ in range(2):
        look_at_all(here, GOOD, fault)
        home.add("--", "true")
        ran = home.run("run", "--once")
        assert f"{GOOD}, the last version that answered, decides" in ran.err, ran
    (home.state / "policies/last-good.lua").unlink()
    look_at_all(here, "the platform policy", fault)


def test_a_last_good_version_that_was_given_up_is_not_said_to_decide(here, home: Place):
    home.settings["KICK"] = "false"
    here("policy", "deploy", "one.lua")
    (home.state / "policies/1.lua").unlink()
    worn = with_header(
        b"function schedule(context) error('worn') end\n",
        suffix=".lua",
        name="one.lua",
        number=1,
        created=datetime(2026, 3, 2, tzinfo=UTC),
    )
    (home.state / "policies/last-good.lua").write_bytes(worn)
    (home.state / "policies/last-good").write_text("last-good.lua\n")
    fault = f"{home.state}/policies/1.lua: No such file or directory"
    look_at_all(here, GOOD, fault)

    for _ in range(3):
        home.add("--", "true")
        home.run("run", "--once")

    look_at_all(here, "the platform policy", fault)


def test_what_was_deployed_is_printed_to_the_byte(here, home: Place):
    source = ONE.encode() + b"-- \xe9t\xe9 \x1b[2J\r\n\n\n"
    (home.base / "odd.lua").write_bytes(source)
    here("policy", "deploy", "odd.lua")

    done = home.run_raw("policy", "show", "1")
    code, screen = home.type("policy", "show", "1")

    assert done.stdout == source
    assert code == EXIT_DONE
    assert "\x1b[2J" not in screen
    assert "\\x1b[2J" in screen
    assert here("policy", "show", "1", "--json").json["source"].startswith(ONE)


def test_a_name_cannot_do_anything_to_a_terminal_or_to_the_policy(here, home: Place):
    name = "a\nos.exit()\x1b[2J.lua"
    (home.base / name).write_text(ONE)

    deployed = here("policy", "deploy", name)
    listed = here("policy", "versions")

    assert deployed.code == EXIT_DONE
    assert "\x1b" not in deployed.out + listed.out
    assert len(listed.out.splitlines()) == 2
    assert (home.state / "policies/1.lua").read_text().splitlines()[4] == ONE.strip()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("deploy",), EXIT_USAGE),
        (("deploy", "none.lua"), EXIT_NOT_FOUND),
        (("deploy", "."), EXIT_USAGE),
        (("deploy", "huge.lua"), EXIT_USAGE),
        (("versions", "1"), EXIT_USAGE),
        (("source", "1"), EXIT_USAGE),
        (("show", "--force"), EXIT_USAGE),
        (("rollback",), EXIT_NOT_FOUND),
        (("rollback", "1"), EXIT_NOT_FOUND),
        (("rollback", "-1"), EXIT_USAGE),
        (("rollback", "x"), EXIT_USAGE),
        (("rollback", "\u0661"), EXIT_USAGE),
        (("rollback", "9" * 5000), EXIT_USAGE),
        (("show", "1"), EXIT_NOT_FOUND),
        (("show", "one.lua"), EXIT_USAGE),
    ],
)
def test_what_cannot_be_is_refused_with_words_and_changes_nothing(
    here, home: Place, arguments: tuple[str, ...], code: int
):
    (home.base / "huge.lua").write_text(ONE + "-" * (256 << 10))

    answer = here("policy", *arguments)

    assert answer.code == code
    assert answer.out == ""
    assert not (home.state / "policies").exists()


def test_before_anything_is_deployed_the_list_is_empty(here):
    assert here("policy", "versions").out == ""
    document = here("policy", "versions", "--json").json
    assert (document["versions"], document["active"]) == ([], None)


def test_a_damaged_version_is_named_and_passed_over(here, home: Place):
    for name in ("one.lua", "two.lua"):
        here("policy", "deploy", name)
    (home.base / "three.lua").write_text(ONE + TWO)
    here("policy", "deploy", "three.lua")
    (home.state / "policies/2.lua").write_text(TWO)

    chosen = here("policy", "rollback", "2")
    before = here("policy", "rollback")

    assert chosen.code == EXIT_CONFIG
    assert f"{home.state}/policies/2.lua" in chosen.err.replace("\n", "")
    assert before.out.startswith("version 1 (one.lua")
    assert "passed over" in before.err
    assert versions(here) == {3: "", 2: "damaged", 1: "active"}


def test_a_damaged_active_version_is_replaced_by_deploying_or_going_back(here, home: Place):
    here("policy", "deploy", "one.lua")
    (home.state / "policies/active").write_text("nonsense")

    listed = here("policy", "versions")
    lost = here("policy", "rollback")
    again = here("policy", "rollback", "1")

    assert "cannot be loaded" in listed.err
    assert lost.code == EXIT_CONFIG
    assert "policy rollback V" in lost.err
    assert again.code == EXIT_DONE
    assert versions(here) == {1: "active"}


def test_two_that_deploy_at_once_are_both_kept_and_one_is_active(here, home: Place):
    names = [f"p{number}.lua" for number in range(4)]
    for name in names:
        (home.base / name).write_text(f"{ONE}-- {name}\n")

    started = [home.start("policy", "deploy", name, "--json") for name in names]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in started]

    assert sorted(one["version"] for one in answers) == [1, 2, 3, 4]
    assert sorted(versions(here).values()) == ["", "", "", "active"]
    listed = here("policy", "versions", "--json").json["versions"]
    assert sorted(one["name"] for one in listed) == names


@pytest.mark.parametrize("step", ["keep", "activate"])
def test_a_deployment_that_is_killed_can_be_done_again(here, home: Place, step: str):
    here("policy", "deploy", "one.lua")
    crash = f"policy.{step}:before {home.base / 'mark'}"

    killed = home.start("policy", "deploy", "two.lua", TINYSCHEDULER_CRASH_AT=crash)

    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert here("policy", "versions", "--json").json["active"] == 1
    assert here("policy", "deploy", "two.lua").code == EXIT_DONE
    assert here("policy", "show", "--json").json["deployed"]["name"] == "two.lua"


def test_on_a_full_disk_nothing_is_deployed_and_what_was_active_stays(
    here, home: Place, small_disk: Path
):
    here("policy", "deploy", "one.lua")
    here("policy", "deploy", "two.lua")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 512)
            except OSError:
                break
    (home.base / "three.lua").write_text(ONE + TWO)
    before = home.digest()

    deployed = here("policy", "deploy", "three.lua")
    back = here("policy", "rollback")

    for answer in (deployed, back):
        assert answer.code == EXIT_UNAVAILABLE
        assert os.strerror(28) in answer.err
        assert "hint: make room" in answer.err
    assert home.digest() == before
    assert versions(here) == {2: "active", 1: ""}
    ballast.unlink()
    assert here("policy", "deploy", "three.lua").code == EXIT_DONE


def test_where_the_folder_of_versions_is_none_it_is_left_alone(here, home: Place):
    home.state.mkdir(mode=0o700)
    (home.state / "policies").write_text("mine")

    deployed, listed = here("policy", "deploy", "one.lua"), here("policy", "versions")

    assert deployed.code == EXIT_UNAVAILABLE
    assert listed.code == EXIT_CONFIG
    assert (home.state / "policies").read_text() == "mine"


def test_prune_removes_what_a_killed_deployment_left_and_no_version(here, home: Place):
    here("policy", "deploy", "one.lua")
    folder = home.state / "policies"
    for name in (".2.lua.tmp", ".active.tmp", ".last-good.yaml.4711.tmp", ".mine.tmp"):
        (folder / name).write_text("half")
    for path in folder.iterdir():
        os.utime(path, (0, 0))

    pruned = here("prune", "--older-than", "1d", "--json").json

    removed = {one["kind"]: one["number"] for one in pruned["removed"]}
    assert removed == {"policies": 3}
    assert {path.name for path in folder.iterdir()} == {"1.lua", "active", "lock", ".mine.tmp"}
