"""``policy test`` and ``policy templates`` as people and CI type them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.building import a_public_folder, run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.place import Answer, Place

SEEDED = """
function schedule(context)
  for _, job in ipairs(context.queue) do
    if job.seed ~= nil then
      log("info", "seeded:\\27[31m " .. job.id)
      return { action = "dispatch", job_id = job.id, reason = "seeded" }
    end
  end
  return platform.schedule(context)
end
"""
GOOD = """
- name: seeded first
  given:
    queue: [plain, {id: seeded, seed: 3}]
  expect: {starts: [seeded]}
- name: else the platform decides
  given: {queue: [a, b], slots: 1}
  expect: {starts: [a], waits: [b]}
"""
BAD = """- name: "both \\e[31mstart"
  given:
    queue: [plain, {id: seeded, seed: 3}]
  expect:
    starts: [plain, seeded]
    decisions:
      - {action: dispatch, job_id: plain}
      - {action: dispatch, job_id: seeded}
"""


@pytest.fixture
def policy(place: Place) -> Path:
    path = place.base / "mine.lua"
    path.write_text(SEEDED)
    path.with_name("mine.test.yaml").write_text(GOOD)
    return path


@pytest.mark.usefixtures("policy")
def test_a_policy_that_decides_as_expected_ends_with_0(here: Callable[..., Answer]):
    answer = here("policy", "test", "mine.lua")

    assert answer.code == 0
    assert answer.out.splitlines() == [
        "ok      seeded first",
        "ok      else the platform decides",
        "2 cases: all passed",
    ]
    assert answer.err == ""


def test_of_a_case_that_fails_what_was_expected_and_what_came_is_told(
    here: Callable[..., Answer], policy
):
    policy.with_name("more.yaml").write_text(BAD)

    answer = here("policy", "test", "mine.lua", "--fixture", "more.yaml")

    assert answer.code == 1
    assert answer.out.splitlines() == [
        "failed  both \\x1b[31mstart (more.yaml:1)",
        "    decisions: - expected, + came",
        "      - action=dispatch job_id=plain",
        "        action=dispatch job_id=seeded",
        "    starts: - expected, + came",
        "      - [plain, seeded]",
        "      + [seeded]",
        "    log info: seeded:\\x1b[31m seeded",
        "1 case: 1 failed",
    ]


def test_the_document_says_the_same(here: Callable[..., Answer], policy):
    good = here("policy", "test", "mine.lua", "--json")
    policy.with_name("mine.test.yaml").write_text(BAD)
    bad = here("policy", "test", "mine.lua", "--json")

    assert (good.code, good.json["passed"], good.json["failed"]) == (0, 2, 0)
    assert good.json["fixture"] == "mine.test.yaml"
    assert (bad.code, bad.json["passed"], bad.json["failed"]) == (1, 0, 1)
    (case,) = bad.json["cases"]
    assert (case["where"], case["passed"]) == ("mine.test.yaml:1", False)
    assert case["mismatches"][1] == {
        "what": "starts",
        "expected": ["[plain, seeded]"],
        "came": ["[seeded]"],
    }


def test_a_policy_that_cannot_be_loaded_fails_each_case_with_the_line(
    here: Callable[..., Answer], policy
):
    policy.write_text("function schedule(context)\n  return = 1\nend\n")

    answer = here("policy", "test", "mine.lua")

    assert answer.code == 1
    assert answer.out.count("+ syntax: mine.lua:2: unexpected symbol") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("test",), 2, "policy test needs a FILE"),
        (("test", "none.lua"), 5, "there is no file 'none.lua'"),
        (("test", "a\x1b[31m"), 5, "there is no file 'a\\x1b[31m'"),
        (("test", "mine.lua", "--fixture", "none.yaml"), 5, "there is no file 'none.yaml'"),
        (("test", "alone.lua"), 5, "there is no file 'alone.test.yaml'"),
        (("test", "mine.lua", "--fixture", "odd.yaml"), 4, "odd.yaml:2: unknown key 'expects'"),
        (("test", "mine.lua", "--fixture", "/dev/zero"), 4, "/dev/zero: the file of fixtures"),
        (("check", "mine.lua", "--fixture", "x"), 2, "--fixture goes with test"),
        (("show", "--limit", "3"), 2, "--limit goes with trace"),
        (("trace", "mine.lua"), 2, "policy trace takes no FILE"),
        (("trace", "--limit", "0"), 2, "0 is not in the range"),
        (("templates", "far-share"), 5, "there is no template 'far-share'"),
        (("templates", "../sandbox"), 5, "there is no template '../sandbox'"),
    ],
)
def test_what_cannot_be_tested_is_named_and_ends_with_its_code(
    here: Callable[..., Answer], policy, arguments, code, words
):
    policy.with_name("alone.lua").write_text(SEEDED)
    policy.with_name("odd.yaml").write_text("- name: a\n  expects: {starts: []}\n")

    answer = here("policy", *arguments)

    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err
    assert "hint: " in answer.err


READ = """if True:
    import sys
    from tinyscheduler.app.policy_fixtures import read_fixtures
    from tinyscheduler.errors import ConfigError
    try:
        read_fixtures(sys.argv[1])
    except ConfigError as error:
        print(error.exit_code, error.what)
"""


def test_fixtures_that_may_not_be_read_end_with_4():
    with a_public_folder() as folder:
        path = folder / "mine.test.yaml"
        path.write_text("[]")
        path.chmod(0)

        printed = run_python(READ, str(path), unprivileged=True)

    assert printed.startswith(f"4 {path}: the file of fixtures")


@pytest.mark.usefixtures("policy")
def test_testing_leaves_nothing_behind(here: Callable[..., Answer], place: Place):
    before = sorted(path.name for path in place.base.iterdir())

    here("policy", "test", "mine.lua")

    assert sorted(path.name for path in place.base.iterdir()) == before


def test_a_template_and_its_fixtures_can_be_written_to_files_and_pass(
    here: Callable[..., Answer], place: Place
):
    listed = here("policy", "templates", "--json").json["templates"]
    for name in ("fair-share", "fair-share.test.yaml"):
        (place.base / name.replace("fair-share", "mine")).write_text(
            here("policy", "templates", name).out
        )
    (place.base / "mine").rename(place.base / "mine.lua")

    answer = here("policy", "test", "mine.lua")

    assert "fair-share" in {one["name"] for one in listed}
    assert answer.code == 0, answer


def test_the_document_of_a_template_has_its_source_and_its_fixtures(here: Callable[..., Answer]):
    document = here("policy", "templates", "night-batch", "--json").json

    assert document["name"] == "night-batch"
    assert document["source"].startswith(f"-- {document['description']}\n")
    assert "- name: by day batch tasks wait" in document["fixtures"]


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati"])
def test_a_night_is_one_of_the_place(place: Place, zone: str):
    for name in ("night-batch", "night-batch.test.yaml"):
        text = place.run("policy", "templates", name).out
        (place.base / (name if "." in name else f"{name}.lua")).write_text(text)

    answer = place.run("policy", "test", str(place.base / "night-batch.lua"), TZ=zone)

    assert answer.code == 0, answer


# -- policy trace ---------------------------------------------------------------------


TALKING = r"""
function schedule(context)
  log("info", "seen " .. #context.queue .. ", labelled " .. tostring(context.queue[1].labels.team))
  emit_metric("seen", #context.queue)
  if #context.queue > 1 then error("too many\27[31m") end
  return platform.schedule(context)
end
"""


def test_what_a_policy_said_is_told_tick_by_tick(place: Place):
    (place.base / "talking.lua").write_text(TALKING)
    place.settings.update(POLICY_MODE="home", POLICY_FILE="talking.lua", POLICY_WALL_MS="5000")
    place.settings.update(KICK="false")
    before = place.run("policy", "trace")
    place.run("add", "--label", "team=red", "--", "true")
    place.run("run")
    dry = place.run("run", "--dry-run")
    for _ in range(2):
        place.run("add", "--", "true")
    failed = place.run("run")

    text, newest = place.run("policy", "trace"), place.run("policy", "trace", "--limit", "1")
    document = place.run("policy", "trace", "--json").json

    assert (before.code, before.out, dry.code, failed.code) == (0, "", 0, 0)
    first, last = document["ticks"]
    assert (first["fallback"], last["fallback"]) == (None, "error")
    assert first["calls"][0]["log"] == [{"level": "info", "text": "seen 1, labelled red"}]
    assert first["calls"][0]["metrics"] == {"seen": 1}
    assert document["damaged"] == 0
    assert "    log info: seen 1, labelled red\n    seen = 1" in text.out
    assert r"the platform policy decided (error): talking.lua:5: too many\x1b[31m" in text.out
    assert newest.out == text.out.split("\n\n")[1]


def test_a_disk_that_refuses_the_trace_lets_the_tick_go_on(place: Place):
    (place.base / "talking.lua").write_text(TALKING)
    place.settings.update(POLICY_MODE="home", POLICY_FILE="talking.lua", POLICY_WALL_MS="5000")
    place.settings.update(KICK="false")
    place.run("add", "--", "true")
    (place.state / "policies").write_text("a file where a folder should be")

    report = place.run("run", "--json")

    assert (report.code, report.json["errors"]) == (0, [])
    assert report.json["policy"]["fallback"] is None
