"""What a policy is told, and what is made of its answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.builders import NOW, a_gpu, a_snapshot, a_task, an_agent
from tests.policy.asking import a_context, a_policy

from tinyscheduler.core.decide import decide
from tinyscheduler.errors import PolicyError
from tinyscheduler.model.config import Inventory, ModelPlace
from tinyscheduler.model.plan import Dispatch, Plan
from tinyscheduler.model.policy import AgentView, GpuView, ModelView, TenantView
from tinyscheduler.policy.context import describe, understand
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import replace

GIB = 2**30
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "policies.md"
FULL = a_context(
    a_task(
        "1",
        agent="coder",
        queue="dev",
        model="large",
        tenant="red",
        project="moon",
        title="a title",
        seed=7,
        created_at=NOW.wall,
    ),
    agents=(
        AgentView(name="coder", queue="dev", limit=2, active=1),
        AgentView(name="chat", queue="chat", limit=1, active=0),
    ),
    gpus=(GpuView(index=0, uuid="GPU-0", name="RTX", total_bytes=24 * GIB, free_bytes=GIB),),
    tenants=(TenantView(name="red", slots=2, vram_bytes=GIB, used_slots=1, used_vram_bytes=7),),
    models=(
        ModelView(model="large", host="box", slots=2, used=1, free=1),
        ModelView(model="small", host="local", slots=1, used=1, free=0),
    ),
)


def answered(*decisions: dict[str, Any]) -> str:
    return json.dumps({"decisions": decisions, "log": [], "metrics": {}})


def starts(plan: Plan) -> list[Dispatch]:
    return [one for one in plan.decisions if isinstance(one, Dispatch)]


def test_every_field_of_the_context_is_in_the_guide_and_no_other():
    told = describe(FULL)
    table = GUIDE.read_text().partition("## What it knows")[2].partition("\n\n| function")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    written = {
        re.findall(r"`(\w+)`", row.split("|")[1])[0]: set(re.findall(r"`(\w+)`", row.split("|")[2]))
        for row in rows
    }

    def fields(ones: list[dict[str, Any]]) -> set[str]:
        return {name for one in ones for name in one}

    pools = told["pools"]
    inside = fields([one for pool in pools for one in (*pool["workers"], *pool["gpus"])])
    assert written["queue"] == fields(told["queue"])
    assert written["agents"] == fields(told["agents"])
    assert written["pools"] == fields(pools) | inside
    assert written["tenants"] == fields(told["tenants"])
    assert written["metrics"] == set(told["metrics"])
    assert set(written) == set(told)


def test_every_function_in_the_guide_is_there(tmp_path: Path):
    table = GUIDE.read_text().partition("| function |")[2].partition("\n\n")[0]
    names = re.findall(r"^\| `([\w.]+)\(", table, re.MULTILINE)
    source = "function schedule(context)\n"
    source += "".join(f"assert(type({name}) == 'function', '{name}')\n" for name in names)
    source += "for name in pairs(context.helpers) do log('info', name) end return {} end"
    policy = a_policy(tmp_path, source)

    policy.propose(a_context())
    policy.close()

    helpers = {text for _, text in policy.answers[-1].log}
    assert helpers == {name for name in names if "." not in name} - {"log", "emit_metric"}


TWINS = a_context(
    a_task("7", agent="coder", source="far"),
    a_task("7", agent="coder"),
    a_task("8", agent="coder"),
    a_task("7", agent="coder", source="moon"),
)


def test_ids_are_as_they_are_and_one_that_another_source_has_too_is_told_with_its_source():
    told = [(one["id"], one["source"]) for one in describe(TWINS)["queue"]]
    first = [one["id"] for one in describe(TWINS, most=2)["queue"]]

    assert told == [("7", "far"), ("local:7", "local"), ("8", "local"), ("moon:7", "moon")]
    assert first == ["7", "local:7"]


@pytest.mark.parametrize(
    ("job_id", "source"),
    [
        ("7", "far"),
        ("local:7", "local"),
        ("moon:7", "moon"),
        ("8", "local"),
        # With its source each is known, also where it need not be.
        ("far:7", "far"),
        ("local:8", "local"),
    ],
)
def test_a_decision_means_the_task_of_that_source(job_id: str, source: str):
    answer = understand(answered({"action": "dispatch", "job_id": job_id}), TWINS)

    (proposal,) = answer.proposals
    assert proposal.task.source == source


@pytest.mark.parametrize("job_id", ["far:8", ":7", "7:far", "far:", "far", "moon:moon:7"])
def test_what_no_source_has_cannot_start(job_id: str):
    with pytest.raises(PolicyError, match=f"job '{job_id}', which cannot start now"):
        understand(answered({"action": "dispatch", "job_id": job_id}), TWINS)


def test_policies_in_lua_decide_about_tasks_of_the_same_id_each_by_itself(tmp_path: Path):
    source = """
    function schedule(context)
      local decisions = {}
      for at = #context.queue, 1, -1 do
        local job = context.queue[at]
        assert(can_fit(job.id, "coder/1") and calculate_wait_time(job.id) == 0)
        decisions[#decisions + 1] = { action = "dispatch", job_id = job.id }
      end
      return decisions
    end
    """
    policy = a_policy(tmp_path, source)

    proposals = policy.propose(TWINS)
    policy.close()

    assert [(one.task.source, one.task.task_id) for one in proposals] == [
        ("moon", "7"),
        ("local", "8"),
        ("local", "7"),
        ("far", "7"),
    ]


@pytest.mark.parametrize(
    ("offset_s", "hour", "weekday"), [(0, 12, 7), (20_700, 17, 7), (43_200, 0, 1), (-46_800, 23, 6)]
)
def test_the_hour_may_be_that_of_another_place(offset_s: int, hour: int, weekday: int):
    told = describe(FULL, utc_offset_s=offset_s)["metrics"]

    assert (told["hour"], told["weekday"]) == (hour, weekday)


def test_a_model_is_a_worker_of_its_host():
    here, box = describe(FULL)["pools"]

    assert [one["id"] for one in here["workers"]] == ["coder/1", "coder/2", "chat/1", "small@local"]
    assert [one["status"] for one in here["workers"]] == ["busy", "ready", "ready", "busy"]
    assert (box["id"], box["slots_free"]) == ("box", 1)
    assert [(one["id"], one["model_ref"], one["status"]) for one in box["workers"]] == [
        ("large@box", "large", "ready")
    ]


@pytest.mark.parametrize(
    ("decision", "agent", "pool", "gpu"),
    [
        ({}, "coder", None, None),
        ({"agent": "coder"}, "coder", None, None),
        ({"worker_id": "coder/2"}, "coder", None, None),
        ({"worker_id": "large@box"}, "coder", "box", None),
        ({"pool_id": "local"}, "coder", "local", None),
        ({"gpu_id": "GPU-0"}, "coder", None, "GPU-0"),
        ({"gpu_id": "0"}, "coder", None, "GPU-0"),
        ({"agent": "nobody"}, "nobody", None, None),
        ({"worker_id": "chat/1"}, "coder", None, None),
    ],
)
def test_a_dispatch_is_understood(
    decision: dict[str, Any], agent: str, pool: str | None, gpu: str | None
):
    answer = understand(answered({"action": "dispatch", "job_id": "1", **decision}), FULL)

    (proposal,) = answer.proposals
    assert (proposal.agent, proposal.pool, proposal.gpu) == (agent, pool, gpu)


@pytest.mark.parametrize("action", ["wait", "evict", "start_worker"])
def test_what_starts_no_task_starts_none(action: str):
    answer = understand(answered({"action": action}), FULL)

    assert answer.proposals == ()
    assert [one["action"] for one in answer.decisions] == [action]


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ({"job_id": "2"}, "job '2', which cannot start now"),
        ({}, "job None"),
        ({"job_id": "1", "worker_id": "coder/x"}, "worker 'coder/x', which does not exist"),
        ({"job_id": "1", "worker_id": "none/1"}, "worker 'none/1'"),
        ({"job_id": "1", "pool_id": "moon"}, "pool 'moon'"),
        ({"job_id": "1", "gpu_id": "7"}, "GPU '7' for task 1"),
    ],
)
def test_what_does_not_exist_is_refused_by_its_name(decision: dict[str, Any], words: str):
    with pytest.raises(PolicyError, match=re.escape(words)) as refused:
        understand(answered({"action": "dispatch", **decision}), FULL)

    assert refused.value.cause == "refused"


@pytest.mark.parametrize("text", ["", "[]", "5", "nope", '{"decisions": []}', "[" * 100_000])
def test_an_answer_that_nobody_can_read_is_nonsense(text: str):
    with pytest.raises(PolicyError, match="it answered nonsense") as refused:
        understand(text, FULL)

    assert refused.value.cause == "nonsense"


@pytest.mark.parametrize(
    "odd",
    [
        {"decisions": 5},
        {"decisions": None},
        {"decisions": {"action": "wait"}},
        {"decisions": ["x"]},
        {"decisions": [{"action": []}]},
        {"decisions": [{"action": "dispatch", "job_id": []}]},
        {"decisions": [{"action": "dispatch", "job_id": "1", "worker_id": 5}]},
        {"decisions": [{"action": "dispatch", "job_id": "1", "agent": {}}]},
        {"decisions": [{"action": "dispatch", "job_id": "1", "pool_id": []}]},
        {"decisions": [{"action": "dispatch", "job_id": "1", "gpu_id": 0}]},
        {"log": [{"level": "info", "text": 5}]},
        {"metrics": {"depth": "deep"}},
        {"metrics": 5},
        {"cpu_ms": "long"},
        {"instructions": []},
        {"fault": []},
    ],
)
def test_what_no_sandbox_writes_is_nonsense_and_no_crash(odd: dict[str, Any]):
    text = json.dumps({"decisions": [], "log": [], "metrics": {}, **odd})

    with pytest.raises(PolicyError) as refused:
        understand(text, FULL)

    assert refused.value.cause == "nonsense"


class Wishing:
    """Asks for the first task, on a certain GPU or host."""

    name = "wishing"
    version = ""

    def __init__(self, **decision: str) -> None:
        self._decision = decision

    def propose(self, context: Any) -> Any:
        text = answered({"action": "dispatch", "job_id": "1", **self._decision})
        return understand(text, context).proposals


def test_a_start_goes_on_the_gpu_that_the_policy_names():
    snapshot = a_snapshot(a_task("1", vram_bytes=GIB), gpus=[a_gpu(0), a_gpu(1)])

    (by_platform,) = starts(decide(snapshot, PlatformPolicy()))
    (by_wish,) = starts(decide(snapshot, Wishing(gpu_id="GPU-1")))

    assert (by_platform.gpu_uuids, by_wish.gpu_uuids) == (("GPU-0",), ("GPU-1",))


def test_a_start_uses_the_model_on_the_host_that_the_policy_names():
    places = tuple(ModelPlace(model="m", host=host, max_slots=9) for host in ("box", "other"))
    snapshot = a_snapshot(a_task("1", model="m"), agents=[an_agent()])
    snapshot = replace(snapshot, inventory=Inventory(models=places))

    (by_platform,) = starts(decide(snapshot, PlatformPolicy()))
    (by_wish,) = starts(decide(snapshot, Wishing(pool_id="other")))

    assert (by_platform.model_host, by_wish.model_host) == ("box", "other")
    with pytest.raises(PolicyError, match="nothing of what it asked for can be had"):
        decide(snapshot, Wishing(pool_id="local"))
    without_model = replace(
        a_snapshot(a_task("1"), agents=[an_agent()]), inventory=Inventory(models=places)
    )
    with pytest.raises(PolicyError, match="nothing of what it asked for can be had"):
        decide(without_model, Wishing(pool_id="other"))
