"""Fixtures of policies: what a file may say, what it means, and what comes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tinyscheduler.app.policy_fixtures import read_fixtures
from tinyscheduler.app.policy_testing import run_cases
from tinyscheduler.config.load import load_config
from tinyscheduler.errors import ConfigError, NotFoundError
from tinyscheduler.model.policy import AgentView, PolicyContext
from tinyscheduler.model.tasks import PriorityClass
from tinyscheduler.policy.context import describe

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.app.policy_testing import CaseResult

ONE_EACH = """
function schedule(context)
  local decisions = {}
  for at, job in ipairs(context.queue) do
    decisions[at] = { action = "dispatch", job_id = job.id, reason = "its turn" }
  end
  return decisions
end
"""


def given(tmp_path: Path, given: str) -> PolicyContext:
    """Return the context of a case."""
    (tmp_path / "f.yaml").write_text(f"- given: {{{given}}}\n  expect: {{waits: []}}\n")
    (case,) = read_fixtures(str(tmp_path / "f.yaml"))
    return case.context


def outcomes(tmp_path: Path, source: str | bytes, fixtures: str) -> list[CaseResult]:
    policy, file = tmp_path / "p.lua", tmp_path / "p.test.yaml"
    policy.write_bytes(source.encode() if isinstance(source, str) else source)
    file.write_text(fixtures)
    environ = {"TINYSCHEDULER_BASE_PATH": str(tmp_path)}
    config = load_config(environ=environ, write_cache=False)
    return list(run_cases(config, str(policy), read_fixtures(str(file))))


# -- what a case means ----------------------------------------------------------------


def test_a_case_that_says_nothing_is_an_idle_morning(tmp_path):
    context = given(tmp_path, "")

    assert context.waiting == ()
    assert context.agents == (AgentView(name="shell", queue="shell", limit=2, active=0),)
    assert context.host_slots_free == 2
    metrics = describe(context)["metrics"]
    assert (metrics["hour"], metrics["weekday"]) == (9, 1)


def test_agents_and_queues_that_jobs_name_are_there(tmp_path):
    context = given(
        tmp_path, "queue: [{agent: coder}, {queue: dev}, {agent: coder}, {agents: [a], queue: q}]"
    )

    assert {(one.name, one.queue) for one in context.agents} == {
        ("coder", "coder"),
        ("dev", "dev"),
        ("a", "q"),
    }
    assert [job["agents"] for job in describe(context)["queue"]] == [
        ["coder"],
        ["dev"],
        ["coder"],
        ["a"],
    ]


def test_a_job_is_told_as_it_is_written(tmp_path):
    context = given(
        tmp_path,
        "queue: [{id: 7, agent: coder, priority: interactive, rank: 3, model_ref: 'org/m:8b',"
        " seed: 0, tenant: red, project: moon, vram: 14G, memory: 512, gpus: 2, age_ms: 5m,"
        " attempts: 1, skips: 2, blocks: 4, turn: 0.5, order: 9, labels: {due: 1, team: ü}}]",
    )

    (job,) = describe(context)["queue"]

    assert job == {
        "id": "7",
        "source": "local",
        "priority": PriorityClass.INTERACTIVE,
        "rank": 3,
        "agent": "coder",
        "agents": ["coder"],
        "model_ref": "org/m:8b",
        "seed": 0,
        "labels": {"due": "1", "team": "ü"},
        "tenant": "red",
        "project": "moon",
        "vram": 14 << 30,
        "memory": 512,
        "gpus": 2,
        "age_ms": 300_000,
        "attempts": 1,
        "skips": 2,
        "blocks": 4,
        "turn": 0.5,
        "order": 9,
    }


def test_agents_gpus_and_tenants_are_told_as_they_are_written(tmp_path):
    told = describe(
        given(
            tmp_path,
            "agents: [{name: a, limit: 3, free: 1}, {name: b, active: 5}, {name: c, free: 4}],"
            " gpus: [{vram_total: 24G, vram_allocated: 20G}, {id: X, vram_free: 80G},"
            " {is_known: false}], tenants: [{id: red, quota_vram: 8G, slots_used: 2}],"
            " slots: 1, memory: 1G, memory_pressure: warning,"
            " models: [large, {model_ref: large, host: box, slots: 4, used: 4}]",
        )
    )

    assert [(one["limit"], one["active"], one["free"]) for one in told["agents"]] == [
        (3, 2, 1),
        (5, 5, 0),
        (4, 0, 4),
    ]
    pool, far = told["pools"]
    assert [(one["id"], one["status"]) for one in (pool["workers"][-1], *far["workers"])] == [
        ("large@local", "ready"),
        ("large@box", "busy"),
    ]
    assert [(one["id"], one["vram_free"] >> 30, one["is_idle"]) for one in pool["gpus"]] == [
        ("GPU-0", 4, False),
        ("X", 80, True),
        ("GPU-2", 24, True),
    ]
    assert [one["is_known"] for one in pool["gpus"]] == [True, True, False]
    assert (pool["slots_free"], pool["memory_free"]) == (1, 1 << 30)
    assert told["tenants"] == [
        {
            "id": "red",
            "quota_vram": 8 << 30,
            "quota_used": 0,
            "quota_slots": None,
            "slots_used": 2,
        }
    ]
    assert told["metrics"]["memory_pressure"] == "warning"


def test_a_time_is_one_of_this_place_unless_it_names_a_zone(tmp_path):
    here = given(tmp_path, "now: 2026-03-07T23:30")
    zoned = given(tmp_path, "now: 2026-03-07T23:30+02:00, queue: [{age_ms: 1h}]")

    assert describe(here)["metrics"]["hour"] == 23
    assert describe(here)["metrics"]["weekday"] == 6
    assert zoned.now == datetime(2026, 3, 7, 21, 30, tzinfo=UTC)
    assert zoned.waiting[0].created_at == zoned.now - timedelta(hours=1)


def test_an_agent_without_a_free_slot_starts_nothing(tmp_path):
    context = given(
        tmp_path,
        "agents: [{name: a, queue: dev, limit: 1, active: 1}, {name: b, queue: dev}],"
        " queue: [{queue: dev}, {agent: a}]",
    )

    assert [job["agents"] for job in describe(context)["queue"]] == [["b"], []]


# -- what is refused ------------------------------------------------------------------

NOTHING = "expect: {starts: []}"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"", 1, "holds no list of cases"),
        (b"# nothing\n", 1, "holds no list of cases"),
        (b"a: 1\n", 1, "holds no list of cases"),
        (b"[]", None, "holds no list of cases"),
        (b"- 3\n", 1, "case 1 is 3, no mapping"),
        (b"- {}\n", 1, "case 1 expects nothing"),
        (b"- expect:\n", 1, "expect is None, no mapping"),
        (b"- expect: {}\n", 1, "expect says nothing"),
        (b"- title: x\n", 1, "unknown key 'title' of case 1"),
        (b"- name: 3\n  expect: {}\n", 1, "name of case 1: 3 is no name"),
        (b"- given:\n    quue: []\n", 2, "unknown key 'quue' of given"),
        (b"- given:\n    queue:\n      - prio: 1\n", 3, "unknown key 'prio' of job 1"),
        (b"- given: {queue: {a: 1}}\n", 1, "queue is a mapping, no list"),
        (b"- given: {queue: [a, a]}\n", 1, "job 'a' is there twice"),
        (b"- given: {queue: [1, {id: '1'}]}\n", 1, "job '1' is there twice"),
        (b"- given: {queue: [../x]}\n", 1, "id of job 1: '../x' is not a name"),
        (b"- given: {queue: [{seed: x}]}\n", 1, "seed of job 1: 'x' is not a whole number"),
        (b"- given: {queue: [{gpus: -1}]}\n", 1, "gpus of job 1: -1 is not a whole number from 0"),
        (b"- given: {queue: [{gpus: true}]}\n", 1, "gpus of job 1: True is not a whole number"),
        (b"- given: {queue: [{vram: 14 apples}]}\n", 1, "vram of job 1: '14 apples' is not bytes"),
        (b"- given: {queue: [{labels: {a: [1]}}]}\n", 1, "labels of job 1: a mapping holds what"),
        (b"- given: {queue: [{priority: high}]}\n", 1, "is not one of interactive, batch"),
        (b"- given: {queue: [{age_ms: 999999999999999}]}\n", 1, "job 1 is older than time"),
        (b"- given: {agents: [a, a]}\n", 1, "agent 'a' is there twice"),
        (b"- given: {agents: [{name: a, limit: 2, active: 1, free: 3}]}\n", 1, "not 3 free"),
        (b"- given: {agents: [a], queue: [{agent: b}]}\n", 1, "of agent 'b', which agents does"),
        (b"- given: {gpus: [{vram_total: 1G, vram_free: 2G}]}\n", 1, "more vram_free than"),
        (b"- given: {now: yesterday}\n", 1, "now of given: 'yesterday' is not a time"),
        (b"- given: {now: 9999-12-31T23:59:59}\n", 1, "before 9000"),
        (b"- given: {memory_pressure: some}\n", 1, "is not one of none, warning, critical"),
        (b"- expect: {starts: a}\n", 1, "starts of expect: 'a' is no list"),
        (b"- expect: {waits: [a]}\n", 1, "waits names job 'a', which is not in the queue"),
        (b"- expect: {fault: tmeout}\n", 1, "fault of expect: 'tmeout' is not one of"),
        (b"- expect: {fault: error, starts: []}\n", 1, "expects a fault and decisions"),
        (b"- expect: {decisions: [{acton: x}]}\n", 1, "unknown key 'acton' of decision 1"),
        (b"- expect: {decisions: [{action: jump}]}\n", 1, "action of decision 1: 'jump' is not"),
        (b"- name: a\n  expect: {starts: []}\n" * 2, 3, "case 'a' is there twice"),
        (b"- expect: {starts: []}\n" * 1001, 1, "has 1001 cases"),
        (b"- &a {}\n", 1, "holds an anchor"),
        (b"- a: [\n", 1, "not YAML"),
        (b"- name: \xff\n", 1, "not UTF-8 text"),
        (b"- name: \x1b[31m\n", 1, "not YAML"),
        (b" " * (1 << 20) + b"- a", None, "larger than 1 MiB"),
        (b"[" * 200_000, None, "nested too deeply"),
        (b"[{]", 1, "not JSON"),
        (b"- " * 30 + b"a", 1, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, line, words):
    path = tmp_path / "f.yaml"
    if b"given" in text:
        text += b"  expect: {waits: []}\n"
    path.write_bytes(text)

    with pytest.raises(ConfigError) as caught:
        read_fixtures(str(path))

    assert words in caught.value.message
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["none.yaml", "", "a\0b", "none/none.yaml"])
def test_a_file_that_is_not_there_is_not_found(tmp_path, name):
    with pytest.raises(NotFoundError, match="there is no file"):
        read_fixtures(str(tmp_path / name) if name else "")


def test_a_folder_or_a_pipe_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="not a file"):
        read_fixtures(str(tmp_path))


# -- what comes of them ---------------------------------------------------------------


def test_what_comes_as_expected_passes(tmp_path):
    (result,) = outcomes(
        tmp_path,
        ONE_EACH,
        "- given: {queue: [a, b, c]}\n"
        "  expect:\n"
        "    starts: [a, b, c]\n"
        "    decisions: [{job_id: a}, {action: dispatch, reason: its turn}, {}]\n",
    )

    assert result.is_passed


def test_of_what_does_not_the_expected_and_the_actual_are_told(tmp_path):
    (result,) = outcomes(
        tmp_path,
        ONE_EACH,
        "- given: {queue: [a, b]}\n"
        "  expect:\n"
        "    starts: [b, a]\n"
        "    waits: [b]\n"
        "    decisions: [{job_id: a, reason: mine}]\n",
    )

    assert [(one.what, one.expected, one.came) for one in result.mismatches] == [
        (
            "decisions",
            ("job_id=a reason=mine",),
            (
                "action=dispatch job_id=a reason='its turn'",
                "action=dispatch job_id=b reason='its turn'",
            ),
        ),
        ("starts", ("[b, a]",), ("[a, b]",)),
        ("waits", ("[b]",), ("[]",)),
    ]


def test_each_case_has_a_policy_that_knows_nothing_of_the_others(tmp_path):
    counting = """
    asked = 0
    function schedule(context)
      asked = asked + 1
      if asked == 1 then return { action = "wait", reason = "first" } end
    end
    """

    results = outcomes(
        tmp_path,
        counting,
        "- name: a\n  expect: {decisions: [{reason: first}]}\n"
        "- name: b\n  expect: {decisions: [{reason: first}]}\n",
    )

    assert [one.is_passed for one in results] == [True, True]


@pytest.mark.parametrize(
    ("source", "cause", "words"),
    [
        (b"", "error", "p.lua: there is no function schedule(context)"),
        (b"function schedule(", "syntax", "p.lua:1: "),
        (b"\x1bLua", "syntax", "compiled Lua is refused"),
        (b"function schedule() error('no') end", "error", "p.lua:1: no"),
        (b"function schedule() while true do end end", "timeout", "p.lua:1: schedule took longer"),
        (b"function schedule() return { action = 'dispatch', job_id = 'x' } end", "refused", "'x'"),
        (b"function schedule() return 7 end", "error", "returned a number"),
        (b"-" * (257 << 10), "file", "has more than"),
    ],
)
def test_a_fault_passes_where_it_is_expected_and_is_told_where_it_is_not(
    tmp_path, source, cause, words
):
    expected, unexpected = outcomes(
        tmp_path, source, f"- expect: {{fault: {cause}}}\n- expect: {{starts: []}}\n"
    )

    assert expected.is_passed
    (mismatch,) = unexpected.mismatches
    assert (mismatch.what, mismatch.expected) == ("fault", ("none",))
    assert mismatch.came[0].startswith(f"{cause}: ")
    assert words in mismatch.came[0]


def test_a_fault_that_does_not_come_and_one_of_another_cause_fail(tmp_path):
    none, other = outcomes(
        tmp_path,
        "function schedule(context) if #context.queue > 0 then error('no') end end",
        "- expect: {fault: error}\n- given: {queue: [a]}\n  expect: {fault: timeout}\n",
    )

    assert none.mismatches[0].came == ("none",)
    assert other.mismatches[0].expected == ("timeout",)
    assert other.mismatches[0].came == ("error: p.lua:1: no",)


def test_what_it_logged_before_it_failed_is_kept(tmp_path):
    (result,) = outcomes(
        tmp_path,
        "function schedule(context) log('info', 'so far') error('no') end",
        "- expect: {starts: []}\n",
    )

    assert result.log == (("info", "so far"),)
