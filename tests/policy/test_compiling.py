"""What rules become: Lua that decides as the rules say, whatever stands in them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.policy.test_rules import EXAMPLE, a_policy

from tinyscheduler.errors import PolicyError
from tinyscheduler.policy.compiling import compile_policy
from tinyscheduler.policy.limits import LuaLimits
from tinyscheduler.policy.lua import LuaEngine

COMPILED = """\
-- Policy "determinism-first", version "1.0", compiled from YAML: change that instead.

function schedule(context)
  local metrics, batch = context.metrics, new_batch()

  -- rule "prioritize-seeded-jobs", line 5, priority 100
  for job in batch.startable() do
    if job.seed ~= nil then
      batch.dispatch(job, "least-loaded", "required", "prioritize-seeded-jobs")
    end
  end

  -- rule "batch-jobs-low-priority", line 9, priority 50
  for job in batch.startable() do
    if job.priority == "batch" then
      batch.dispatch(job, "most-vram-free", "required", "batch-jobs-low-priority")
    end
  end

  -- rule "fallback", line 13
  for job in batch.jobs() do
    batch.hand_over(job)
  end
  batch.ask(platform.schedule, "fallback")

  return batch.decisions()
end
"""


def a_job(job_id: str, /, **more: Any) -> dict[str, Any]:
    job = {
        "id": job_id,
        "priority": "batch",
        "rank": 0,
        "agent": "coder",
        "agents": ["coder"],
        "vram": 0,
        "memory": 0,
        "gpus": 0,
        "skips": 0,
        "attempts": 0,
        "blocks": 0,
        "turn": 0.0,
        "order": int(job_id),
    }
    return {**job, **more}


def a_context(
    *jobs: dict[str, Any],
    free: dict[str, int] | None = None,
    slots: int = 9,
    workers: tuple[dict[str, Any], ...] = (),
    **metrics: Any,
) -> dict[str, Any]:
    """Return a context with these agents, by free slots; each has a slot that is busy besides."""
    free = {"coder": 9} if free is None else free
    slots_of_agents = [
        {
            "id": f"{name}/{number}",
            "agent": name,
            "status": "ready" if number else "busy",
            "vram_free": 0,
            "in_flight": 1,
            "last_used_ms": 0,
        }
        for name, number_free in free.items()
        for number in range(number_free + 1)
    ]
    return {
        "queue": list(jobs),
        "pools": [
            {
                "id": "local",
                "workers": [*slots_of_agents, *workers],
                "gpus": [],
                "slots_free": slots,
                "memory_free": 8 << 30,
            }
        ],
        "agents": [
            {"name": name, "queue": "dev", "limit": number + 1, "active": 1, "free": number}
            for name, number in free.items()
        ],
        "tenants": [],
        "metrics": {
            "queue_depth": len(jobs),
            "total_workers": len(slots_of_agents),
            "busy_workers": len(free),
            "free_slots": slots,
            "memory_pressure": "none",
            "now_ms": 1_772_000_000_000,
            **metrics,
        },
    }


def an_engine(source: str) -> LuaEngine:
    engine = LuaEngine(limits=LuaLimits(cpu_ms=60_000), is_bounded=False)
    fault = engine.load(source.encode(), "p.yaml.lua")
    assert fault is None, fault
    return engine


def compiled(text: str) -> str:
    return compile_policy(text.encode(), path="p.yaml").lua


def answer(source: str, context: dict[str, Any]) -> list[dict[str, Any]]:
    said = json.loads(an_engine(source).schedule(context))
    assert "fault" not in said, said
    found: list[dict[str, Any]] = said["decisions"]
    return found


def started(text: str, context: dict[str, Any]) -> list[tuple[str, str]]:
    decisions = answer(compiled(text), context)
    return [(one["job_id"], one["agent"]) for one in decisions if one["action"] == "dispatch"]


def of_rules(*rules: dict[str, Any]) -> str:
    numbered = [
        {"name": f"rule {number}", "condition": "always", "action": "dispatch", **rule}
        for number, rule in enumerate(rules, start=1)
    ]
    return document(name="mine", rules=numbered)


def document(**scheduler: Any) -> str:
    """Return it as JSON that is YAML too: what takes two escapes there takes one here."""
    return re.sub(
        r"\\u(d[89ab]..)\\u(d[c-f]..)",
        lambda pair: f"\\U{ord(bytes.fromhex(pair[1] + pair[2]).decode('utf-16-be')):08x}",
        json.dumps({"scheduler": scheduler}),
    )


def test_the_example_of_the_reference_becomes_lua_that_can_be_read():
    assert compiled(EXAMPLE) == COMPILED


def test_the_example_of_the_reference_decides_as_it_says():
    jobs = (a_job("1", priority="interactive"), a_job("2"), a_job("3", seed=7), a_job("4"))

    assert started(EXAMPLE, a_context(*jobs, slots=3)) == [
        ("3", "coder"),
        ("2", "coder"),
        ("4", "coder"),
    ]
    # Where there is room, what no rule started is left to the platform policy.
    assert started(EXAMPLE, a_context(*jobs))[-1] == ("1", "coder")


def test_every_line_of_a_rule_is_known_by_the_line_that_it_comes_from():
    found = compile_policy(a_policy(condition="{job.rank: {gt: 3}}").encode(), path="p.yaml")

    lines = found.lua.splitlines()
    by_text = {lines[one.lua_line - 1].strip(): (one.rule, one.line) for one in found.origins}
    assert by_text["if (job.rank ~= nil and job.rank > 3) then"] == ("night", 5)
    assert by_text['batch.dispatch(job, "least-loaded", "required", "night")'] == ("night", 6)
    assert (
        found.locate("p.yaml.lua:9: it took long; p.yaml.lua:2: x; p.yaml.lua: y", path="p.yaml")
        == 'p.yaml:6 (rule "night"): it took long; p.yaml: x; p.yaml: y'
    )


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (a_job("1", rank="high"), 'p.yaml:5 (rule "night"): attempt to compare number with string'),
        # What a helper stumbles over is a fault of who called it.
        (
            a_job("1", rank=5, memory=[1]),
            'p.yaml:6 (rule "night"): attempt to perform arithmetic on a table value',
        ),
    ],
)
def test_an_error_while_it_runs_is_one_of_the_line_in_the_yaml(job: dict[str, Any], expected: str):
    found = compile_policy(a_policy(condition="{job.rank: {gt: 3}}").encode(), path="p.yaml")

    said = json.loads(an_engine(found.lua).schedule(a_context(job)))

    assert said["fault"] == "error"
    assert found.locate(said["words"], path="p.yaml").startswith(expected)


# -- conditions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "holds_for"),
    [
        ("always", "1234"),
        ({"job.rank": {"gt": 1}}, "24"),
        ({"job.rank": {"ge": 1}}, "124"),
        ({"job.rank": {"lt": 2}}, "1"),
        ({"job.rank": {"ne": 2}}, "134"),
        ({"job.rank": {"exists": False}}, "3"),
        ({"job.rank": {"in": [1, 9]}}, "14"),
        ({"job.tenant": "red"}, "12"),
        ({"job.tenant": {"matches": "^r"}}, "12"),
        ({"job.tenant": "red", "job.rank": 2}, "2"),
        ({"any": [{"job.rank": 9}, {"job.rank": 1}]}, "14"),
        ({"all": [{"job.tenant": "red"}, {"not": {"job.rank": 1}}]}, "2"),
        ({"not": {"any": [{"job.rank": 9}, {"job.rank": 1}]}}, "23"),
        ({"job.labels.team": "a"}, "4"),
        ({"pool.slots_free": {"ge": 9}}, "1"),
        ({"pool.id": "elsewhere"}, ""),
        ({"all": [{"pool.id": "local"}, {"job.rank": 9}]}, "4"),
        ({"metrics.queue_depth": {"gt": 2}}, "12"),
        ({"metrics.memory_pressure": "none", "job.tenant": {"exists": True}}, "124"),
        ({"not": "always"}, ""),
    ],
)
def test_a_rule_starts_the_jobs_for_which_its_condition_holds(condition: Any, holds_for: str):
    jobs = (
        a_job("1", rank=1, tenant="red"),
        a_job("2", rank=2, tenant="red"),
        a_job("3", rank=None),
        a_job("4", rank=9, tenant="blue", labels={"team": "a"}),
    )

    found = started(of_rules({"condition": condition}), a_context(*jobs))

    # A rule sees the world as those before it leave it, its own starts included.
    assert "".join(job for job, _ in found) == holds_for


# -- actions -------------------------------------------------------------------------


def test_nothing_is_given_away_twice():
    jobs = [a_job(str(number), agents=["a", "b"]) for number in range(9)]

    found = started(of_rules({}), a_context(*jobs, free={"a": 2, "b": 3}))

    assert [job for job, _ in found] == ["0", "1", "2", "3", "4"]
    assert sorted(agent for _, agent in found) == ["a", "a", "b", "b", "b"]
    assert len(started(of_rules({}), a_context(*jobs, free={"a": 2, "b": 3}, slots=4))) == 4
    assert started(of_rules({}), a_context(*jobs, slots=0)) == []


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("least-loaded", "babab"), ("most-vram-free", "aaaab"), ("round-robin", "cabba")],
)
def test_the_agent_is_chosen_as_asked_for(selection: str, expected: str):
    jobs = [a_job(str(number), agents=["a", "b", "c"]) for number in range(5)]
    context = a_context(*jobs, free={"a": 4, "b": 5, "c": 2})
    for agent in context["agents"]:
        agent["active"] = {"a": 1, "b": 0, "c": 9}[agent["name"]]
    for worker in context["pools"][0]["workers"]:
        worker["vram_free"] = 1 if worker["agent"] == "a" else 0
        worker["last_used_ms"] = {"a": 5, "b": 7, "c": 3}[worker["agent"]]
    policy = of_rules({"action": {"dispatch": {"worker_selection": selection}}})

    assert "".join(agent for _, agent in started(policy, context)) == expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [("required", ["large"]), ("preferred", ["large", "small"]), ("ignore", ["small", "large"])],
)
def test_a_model_is_asked_for_as_strictly_as_the_rule_says(match: str, expected: list[str]):
    jobs = [a_job(str(number), agents=["small", "large"], model_ref="L") for number in range(2)]
    context = a_context(*jobs, free={"small": 5, "large": 1})
    for worker in context["pools"][0]["workers"]:
        worker["model_ref"] = {"small": "S", "large": "L"}[worker["agent"]]
    policy = of_rules({"action": {"dispatch": {"model_match": match}}})

    assert [agent for _, agent in started(policy, context)] == expected


def test_a_rule_that_names_a_pool_starts_the_job_there():
    server = {"id": "m@box", "model_ref": "m", "status": "ready", "vram_free": 0, "in_flight": 1}
    context = a_context(a_job("1"), a_job("2", model_ref="m"), a_job("3", model_ref="x"))
    box = {"id": "box", "workers": [server], "gpus": [], "slots_free": 1, "memory_free": 0}
    context["pools"].append(box)

    def pools_of(condition: Any) -> list[tuple[str, str | None]]:
        found = answer(compiled(of_rules({"condition": condition})), context)
        return [(one["job_id"], one.get("pool_id")) for one in found]

    assert pools_of({"pool.id": "box"}) == [("2", "box")]
    assert pools_of({"pool.id": "local"}) == [("1", "local"), ("3", "local")]
    # Who asks how much is free somewhere names none.
    assert pools_of({"pool.slots_free": {"ge": 1}}) == [("1", None), ("2", None), ("3", None)]


def test_a_job_that_no_agent_can_start_is_left_to_the_next_rule():
    jobs = (a_job("1", agents=["full"]), a_job("2"))
    policy = of_rules({}, {"action": {"wait": {"duration_ms": 5}}})

    found = answer(compiled(policy), a_context(*jobs, free={"full": 0, "coder": 1}))

    assert found == [
        {"action": "dispatch", "agent": "coder", "job_id": "2", "reason": "rule 1"},
        {"action": "wait", "duration_ms": 5, "job_id": "1", "reason": "rule 2"},
    ]


def test_a_job_that_waits_is_seen_by_no_later_rule():
    policy = of_rules(
        {"condition": {"job.rank": 1}, "action": "wait"}, {"action": {"use": "platform-scheduler"}}
    )

    assert started(policy, a_context(a_job("1", rank=1), a_job("2"))) == [("2", "coder")]


def test_the_platform_policy_decides_about_what_is_left_as_it_then_stands():
    jobs = [a_job(str(number), rank=number, agents=["a", "b"]) for number in range(4)]
    policy = of_rules(
        {"condition": {"job.rank": 1}},
        {"condition": {"job.rank": {"ne": 2}}, "action": {"use": "platform-scheduler"}},
        {"action": "wait"},
    )

    found = started(policy, a_context(*jobs, free={"a": 1, "b": 2}, slots=2))

    # The higher priority of those that are left, and the slot that is left.
    assert found == [("1", "b"), ("3", "a")]


def test_model_servers_are_told_once_what_becomes_of_them():
    servers = tuple(
        {"id": name, "status": "ready", "vram_free": 0, "in_flight": busy, "last_used_ms": used}
        for name, busy, used in (("m1", 0, 5), ("m2", 0, 3), ("m3", 1, 1))
    )
    policy = of_rules(
        {"action": {"evict": {"policy": "lru"}}, "condition": {"job.rank": 0}},
        {"action": {"evict": {"worker_id": "m3"}}},
        {"action": {"evict": {"worker_id": "coder/1"}}},
        {"action": {"start_worker": {"model_ref": "x", "pool_id": "local"}}},
    )

    found = answer(compiled(policy), a_context(a_job("1"), a_job("2"), workers=servers))

    assert [(one["action"], one.get("evict_worker_id")) for one in found] == [
        ("evict", "m2"),
        ("evict", "m3"),
        ("start_worker", None),
    ]


def test_a_thousand_decisions_are_the_most():
    jobs = [a_job(str(number)) for number in range(1000)]
    policy = of_rules(
        {"action": "wait"}, {"action": {"start_worker": {"model_ref": "x", "pool_id": "local"}}}
    )

    assert len(answer(compiled(policy), a_context(*jobs))) == 1000


# -- whatever stands in a rule -------------------------------------------------------

texts = st.text(max_size=40) | st.text('"\\\n\r\0]-=[%({})$\u2028\x1b', max_size=20)


@given(texts)
def test_no_operand_escapes_its_quotes(text: str):
    text = text or "x"
    policy = of_rules({"condition": {"job.tenant": text}})
    same, other = a_job("1", tenant=text), a_job("2", tenant=text + "x")

    lua = compiled(policy)

    assert len(lua.split("\n")) == 15
    assert lua.replace("\n", "").isprintable()
    assert started(policy, a_context(same, other)) == [("1", "coder")]


def names_of(length: int) -> st.SearchStrategy[str]:
    return st.text(min_size=1, max_size=length).filter(
        lambda name: name.isprintable() and bool(name.strip())
    ) | st.sampled_from(['"]] os.exit() --[[', "\\", '\\"', "--[[", "]]", "end end"])


@given(names_of(20), names_of(20), names_of(20))
def test_no_name_escapes_its_quotes(name: str, rule: str, worker: str):
    rules = [{"name": rule, "condition": "always", "action": {"evict": {"worker_id": worker}}}]
    policy = document(name=name, version=rule, rules=rules)
    server = {"id": worker, "status": "busy", "vram_free": 0, "in_flight": 0}

    found = answer(compiled(policy), a_context(workers=(server,)))

    assert found == [{"action": "evict", "evict_worker_id": worker, "reason": rule}]


numbers = st.integers(-(10**17), 10**17) | st.floats(-1e17, 1e17)


@given(numbers, st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]), numbers)
def test_numbers_are_compared_as_they_are(rank: float, operator: str, operand: float):
    policy = of_rules({"condition": {"job.rank": {operator: operand}}})
    compare = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__"}
    compare |= {"le": "__le__", "gt": "__gt__", "ge": "__ge__"}

    found = started(policy, a_context(a_job("1", rank=rank)))

    # Not every number of one kind can be asked about one of the other.
    holds = getattr(rank, compare[operator])(operand)
    if holds is NotImplemented:
        holds = getattr(float(rank), compare[operator])(operand)
    assert bool(found) is holds


conditions: st.SearchStrategy[Any] = st.recursive(
    st.just("always")
    | st.dictionaries(
        st.sampled_from(["job.rank", "pool.slots_free", "metrics.free_slots"]),
        st.dictionaries(st.sampled_from(["eq", "lt", "ge"]), st.integers(0, 9), min_size=1),
        min_size=1,
    )
    | st.sampled_from([{"job.agent": {"in": ["a"] * 100}}, {"job.labels.x": {"matches": "a|b"}}]),
    lambda inner: (
        st.builds(lambda part: {"not": part}, inner)
        | st.builds(
            lambda how, parts: {how: parts},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=4),
        )
    ),
    max_leaves=30,
)
actions = st.sampled_from(
    [
        "dispatch",
        "wait",
        {"evict": {"policy": "lfu"}},
        {"evict": {"worker_id": "w"}},
        {"start_worker": {"model_ref": "m", "pool_id": "p", "gpu_id": "g"}},
        {"use": "platform-scheduler"},
    ]
)


@given(st.lists(st.tuples(conditions, actions), min_size=1, max_size=6))
def test_whatever_is_accepted_is_lua_that_runs(parts: list[tuple[Any, Any]]):
    rules = [{"condition": condition, "action": action} for condition, action in parts]
    policy = of_rules(*rules)
    assume(policy.count('{"not"') + policy.count('{"a') < 16)  # or it may be nested too deeply

    answer(compiled(policy), a_context(a_job("1"), a_job("2", agent=None), slots=1))


def test_the_largest_policy_is_lua_that_runs():
    rule = {"condition": {"any": [{"job.rank": {"in": [0, 1]}}, {"job.rank": {"ge": 0}}]}}
    policy = of_rules(*([rule] * 199), {"action": "wait"})

    assert len(answer(compiled(policy), a_context(a_job("1"), a_job("2")))) == 2


def test_a_policy_that_is_too_long_as_lua_is_refused():
    label = "job.labels." + "x" * 60
    rule = {"condition": {label: {"in": ["a"] * 100}}}

    with pytest.raises(PolicyError, match="as Lua the policy has more than the 262144 bytes"):
        compiled(of_rules(*([rule] * 60)))


# -- the same by hand ----------------------------------------------------------------

RULE = """\
scheduler:
  name: mine
  rules:
    - name: big ones of red first
      condition:
        any:
          - all: [{job.tenant: red}, {job.rank: {ge: 2}}]
          - not: {job.gpus: {in: [0, 1]}}
          - job.agent: {matches: "^(co|wri).*r$"}
            job.seed: {exists: true}
      action: {dispatch: {worker_selection: least-loaded, model_match: required}}
"""
BY_HAND = """\
local function is_wanted(job)
  if job.tenant == "red" and job.rank and job.rank >= 2 then return true end
  if job.gpus ~= 0 and job.gpus ~= 1 then return true end
  if job.seed == nil or job.agent == nil then return false end
  return (job.agent:find("^co") or job.agent:find("^wri")) and job.agent:sub(-1) == "r"
end

function schedule(context)
  local agents, slots, decisions = {}, context.metrics.free_slots, {}
  for _, agent in ipairs(context.agents) do agents[agent.name] = agent end
  for _, job in ipairs(context.queue) do
    if slots > 0 and is_wanted(job) then
      local able = {}
      for _, name in ipairs(job.agents) do
        if agents[name].free > 0 then able[#able + 1] = agents[name] end
      end
      table.sort(able, function(a, b)
        if a.active ~= b.active then return a.active < b.active end
        if a.free ~= b.free then return a.free > b.free end
        return a.name < b.name
      end)
      local agent = able[1]
      if agent then
        decisions[#decisions + 1] = {
          action = "dispatch", job_id = job.id, agent = agent.name,
          reason = "big ones of red first",
        }
        agent.free, agent.active, slots = agent.free - 1, agent.active + 1, slots - 1
      end
    end
  end
  return decisions
end
"""
names = st.sampled_from(("coder", "tester", "writer"))
contexts = st.builds(
    lambda jobs, free, slots: a_context(
        *(a_job(str(at), **job) for at, job in enumerate(jobs)),
        free=dict(zip(("coder", "tester", "writer"), free, strict=True)),
        slots=slots,
    ),
    st.lists(
        st.fixed_dictionaries(
            {
                "agents": st.lists(names, unique=True),
                "rank": st.none() | st.integers(-1, 4),
                "gpus": st.integers(0, 3),
            },
            optional={
                "agent": st.none() | names,
                "tenant": st.sampled_from(("red", "blue", None)),
                "seed": st.integers(0, 9),
            },
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 4), min_size=3, max_size=3),
    st.integers(0, 8),
)


@settings(max_examples=1000)
@given(contexts)
def test_a_rule_decides_as_the_same_by_hand(context: dict[str, Any]):
    assert answer(compiled(RULE), context) == answer(BY_HAND, context)
