"""A round of a tick goes through JSON without its secrets, and is decided again from there."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    NOW,
    a_claim,
    a_gpu,
    a_lease,
    a_result,
    a_snapshot,
    a_task,
    an_agent,
    an_entry,
)
from tests.core.worlds import some_snapshot

from tinyscheduler.core.decide import decide
from tinyscheduler.core.replay import compare
from tinyscheduler.model.codec import hints_of
from tinyscheduler.model.config import AgentProfile, Host, Inventory, ModelPlace, Quota
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.model.documents import DocumentError, NewerVersionError
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseFault, UnreadableLease
from tinyscheduler.model.plan import Dispatch, Keep, Plan
from tinyscheduler.model.policy import DecidedBy, FailedPolicy
from tinyscheduler.model.resources import Gpu
from tinyscheduler.model.rounds import LEFT_OUT, Round, decode_round, encode_round, redact
from tinyscheduler.model.snapshot import (
    PolicyRecord,
    Rules,
    SchedulingMemory,
    Snapshot,
    SourceView,
    UnreadableResult,
)
from tinyscheduler.model.switches import EVERYTHING, Switch, SwitchKind
from tinyscheduler.model.tasks import WaitingTask
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.values import MISSING, fields, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2"
PLATFORM = PlatformPolicy()
# Texts that may stand in a document: names, ids, and words that say why something waits.
TOLD = {
    "Account": "owner",
    "Cooling": "account agent",
    "Deferral": "model",
    "Host": "name",
    "ModelPlace": "host model",
    "Quota": "name",
    "AgentProfile": "account model name priority_class profile queue",
    "AttemptResult": "agent lease_id source task_id",
    "AwaitSource": "source",
    "Claim": "agent lease_id schedule_id source task_id",
    "Dispatch": "agent gpu_uuids model model_host",
    "EndTree": "agent",
    "Gpu": "fault name uuid",
    "GpuReading": "fault",
    "HostState": "boot_id hostname",
    "Instant": "boot_id",
    "Lease": "agent boot_id gpu_uuids handle host launcher lease_id model pool schedule_id source"
    " task_id model_host project tenant",
    "LeaseEntry": "task_id",
    "LeaseScan": "cancels",
    "ProcessIdentity": "boot_id",
    "SchedulingMemory": "active last_start_boot_id",
    "GpuSighting": "lease_id uuids",
    "Skips": "source task_id",
    "Snapshot": "evidence gpu_owners memory_used pressed_by",
    "SourceView": "name",
    "StaleSighting": "boot_id lease_id",
    "SweepCancel": "lease_id",
    "Switch": "by reason",
    "Target": "name",
    "Told": "silent sources_down",
    "Trace": "lease_id task_id",
    "UnreadableResult": "lease_id",
    "Wait": "model words",
    "Budget": "subject",
    "WaitingTask": "agent blocked_by impediment model project queue schedule_id source task_id"
    " tenant",
}


def a_round(snapshot: Snapshot, **more: Any) -> Round:
    one = Round(
        tick_id="20260301T120000.000000Z",
        number=1,
        program="0.1.0",
        decided_by=DecidedBy(name="platform"),
        snapshot=snapshot,
        plan=decide(snapshot, PLATFORM),
    )
    return replace(one, **more)


def through_json(one: Round) -> Round:
    return decode_round(json.loads(json.dumps(encode_round(one), allow_nan=False)))


def decided_again(one: Round) -> Plan:
    return redact(replace(one, plan=decide(one.snapshot, PLATFORM))).plan


@given(some_snapshot())
def test_from_its_document_every_round_is_decided_as_it_was(snapshot):
    back = through_json(a_round(snapshot))

    again = decided_again(back)

    assert again == back.plan
    assert compare(back.plan, again) == ()


@given(some_snapshot())
def test_a_document_of_a_document_says_the_same(snapshot):
    first = encode_round(a_round(snapshot))

    second = encode_round(through_json(a_round(snapshot)))

    assert json.dumps(second) == json.dumps(first)


def a_busy_snapshot() -> Snapshot:
    """Return one with a secret in each place where a world may have one."""
    run = replace(
        NO_RUN,
        argv=("curl", "-H", SECRET),
        cwd=f"/{SECRET}",
        stdin=f"/{SECRET}",
        log=f"/{SECRET}/1.log",
        kill_grace_s=5,
        kick_argv=(SECRET,),
        cgroup=f"/{SECRET}",
    )
    lease = a_lease("1", run=run, recipe=SECRET, metadata=((SECRET, SECRET),))
    snapshot = a_snapshot(
        an_entry(lease),
        an_entry(
            UnreadableLease(fault=LeaseFault.CORRUPT, message=SECRET), task_id="2", beat_age_s=99
        ),
        an_entry(a_lease("3", run=run), beat_age_s=9999),
        a_result("4", message=SECRET, log=SECRET),
        UnreadableResult(lease_id="lease-5", message=SECRET),
        a_claim("5"),
        a_task("6", title=SECRET, labels=((SECRET, SECRET),), seed=7),
        a_task("8", model="llama", tenant="team"),
        a_task("7", agent=None, queue="dev", created_at=NOW.wall + timedelta(microseconds=1)),
        agents=(an_agent(command=(SECRET,), environment=(SECRET,), cwd=SECRET, limit=9),),
        down=("tinytask",),
        gpus=(a_gpu(0, p7=3),),
        gpu_owners={7: None},
        skips={"6": 1},
    )
    sources = tuple(
        replace(one, error=SECRET) if one.error is not None else one for one in snapshot.sources
    )
    inventory = Inventory(
        hosts=(Host(name="far", address=f"http://{SECRET}"),),
        models=(
            ModelPlace(model="llama", host="far"),
            ModelPlace(model="llama", vram_bytes=1 << 30, endpoint=f"http://{SECRET}@x"),
        ),
        tenants=(Quota(name="team", slots=1),),
    )
    record = PolicyRecord(cause="error", words=SECRET)
    memory = replace(snapshot.memory, policy=record, last_good=record)
    cooling = Cooling(
        account="anthropic",
        since=NOW.wall,
        until=NOW.wall + timedelta(hours=1),
        times=1,
        agent="coder",
        words=SECRET,
    )
    return replace(
        snapshot, sources=sources, inventory=inventory, memory=memory, coolings=(cooling,)
    )


def test_no_document_tells_what_is_run_where_or_what_it_said():
    text = json.dumps(encode_round(a_round(a_busy_snapshot())))

    assert SECRET not in text
    back = decode_round(json.loads(text))
    assert decided_again(back) == back.plan
    assert [one.is_up for one in back.snapshot.sources] == [True, False]


OWN = DecidedBy(
    name="state/policies/last-good.lua",
    version="19da9cbf1ce76b6f",
    instead_of=FailedPolicy(name="policies/mine.lua", version="0f", cause="syntax"),
)


def test_who_decided_is_told_and_what_it_was_told_of_the_place():
    one = a_round(a_snapshot(a_task()), decided_by=OWN, utc_offset_s=-19_800)

    document, back = encode_round(one), through_json(one)

    assert (document["policy"], document["policy_version"]) == (OWN.name, OWN.version)
    assert document["instead_of"] == {
        "policy": "policies/mine.lua",
        "version": "0f",
        "cause": "syntax",
    }
    assert (back.decided_by, back.utc_offset_s, back.unknown) == (OWN, -19_800, ())


def test_where_a_policy_decided_that_looks_at_them_titles_and_labels_are_told_and_no_more():
    one = a_round(a_busy_snapshot(), decided_by=OWN)

    (of_own,) = (
        task
        for view in through_json(one).snapshot.sources
        for task in view.waiting
        if task.task_id == "6"
    )

    assert (of_own.title, of_own.labels) == (SECRET, ((SECRET, SECRET),))
    nameless = replace(
        one.snapshot,
        sources=tuple(
            replace(
                view,
                waiting=tuple(replace(task, title=None, labels=()) for task in view.waiting),
            )
            for view in one.snapshot.sources
        ),
    )
    assert SECRET not in json.dumps(encode_round(a_round(nameless, decided_by=OWN)))


def test_what_an_earlier_version_wrote_names_the_policy_alone():
    document = encode_round(a_round(a_snapshot(), decided_by=DecidedBy(name="mine.lua")))

    assert not {"policy_version", "instead_of", "utc_offset_sec"} & document.keys()
    assert decode_round(document).decided_by == DecidedBy(name="mine.lua")


def test_every_text_of_a_snapshot_is_known_to_be_told_or_left_out():
    """A field that is added may hold a secret: say here or in LEFT_OUT which it is."""
    texts = {name for kind in (Snapshot, Plan) for name in texts_in(kind, set())}

    assert texts == {f"{kind}.{name}" for kind, names in TOLD.items() for name in names.split()}


def texts_in(kind: Any, seen: set[Any]) -> Iterator[str]:
    if kind in seen:
        return
    seen.add(kind)
    for name, hint in hints_of(kind, kind.__annotations__).items():
        if name in LEFT_OUT.get(kind, {}):
            continue
        for leaf in leaves(hint):
            if hasattr(leaf, "_fields"):
                yield from texts_in(leaf, seen)
            elif leaf is str:
                yield f"{kind.__name__}.{name}"


def leaves(hint: Any) -> Iterator[Any]:
    if not getattr(hint, "__args__", ()):
        yield hint
    for one in getattr(hint, "__args__", ()):
        yield from leaves(one)


def test_what_is_left_out_is_a_field_each():
    for kind, names in LEFT_OUT.items():
        assert set(names) <= {one.name for one in fields(kind)}


def test_a_plan_repeats_nothing_of_its_snapshot():
    document = encode_round(a_round(a_snapshot(a_task("1"), an_entry(a_lease("2", agent="x")))))

    (start,) = document["plan"]["decisions"]
    (verdict,) = document["plan"]["verdicts"]

    assert start["task"] == {"source": "local", "task_id": "1"}
    assert verdict == {"type": "keep", "entry": {"task_id": "2"}}


def test_of_two_that_are_called_the_same_each_comes_back():
    # Two results of one attempt: no wrapper writes that, but a disk may hold anything.
    twins = (a_result("1", exit_code=0), a_result("1", exit_code=1))
    snapshot = a_snapshot()
    snapshot = replace(snapshot, scan=replace(snapshot.scan, results=twins))
    plan = Plan(
        verdicts=tuple(Keep(entry=an_entry(None, task_id=one)) for one in "12"), decisions=()
    )

    back = through_json(a_round(snapshot, plan=plan))

    assert [one.exit_code for one in back.snapshot.scan.results] == [0, 1]
    assert back.plan == plan


# -- other versions -------------------------------------------------------------------


def paths_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(document, dict | list):
        named = document.items() if isinstance(document, dict) else enumerate(document)
        for name, one in named:
            yield (*path, name)
            yield from paths_in(one, (*path, name))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with this in that place; nothing there if it is MISSING."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


KINDS = {
    ("snapshot",): Snapshot,
    ("snapshot", "rules"): Rules,
    ("snapshot", "memory"): SchedulingMemory,
    ("snapshot", "sources", 0): SourceView,
    ("snapshot", "sources", 0, "waiting", 0): WaitingTask,
    ("snapshot", "agents", 0): AgentProfile,
    ("snapshot", "gpus", "gpus", 0): Gpu,
    ("snapshot", "scan", "entries", 0, "lease"): Lease,
}


def has_default(kind: Any, name: str) -> bool:
    return any(
        one.name == name and not (one.default is MISSING and one.default_factory is MISSING)
        for one in fields(kind)
    )


def test_a_document_from_before_any_field_with_a_default_is_still_read():
    document = json.loads(json.dumps(encode_round(a_round(a_busy_snapshot()))))
    tried = 0
    for path in paths_in(document):
        kind: Any = KINDS.get(path[:-1])
        if kind is not None and has_default(kind, path[-1]):
            without = changed(document, path, MISSING)
            # A plan may name what stood there; from before it, it named nothing.
            without["plan"] = {"verdicts": [], "decisions": []}
            assert decode_round(without).unknown == ()
            tried += 1

    assert tried > 20


def test_what_this_version_has_no_field_for_is_noted_and_passed_over():
    document = encode_round(a_round(a_snapshot(a_task())))
    document["mood"] = "fine"
    document["snapshot"]["rules"]["is_lenient"] = True
    document["plan"]["decisions"][0]["host"] = "moon"

    back = decode_round(document)

    assert isinstance(back.plan.decisions[0], Dispatch)
    assert back.unknown == ("mood", "snapshot.rules.is_lenient", "plan.decisions[0].host")


def test_a_document_that_a_command_printed_is_read_like_one_that_a_tick_kept():
    document = encode_round(a_round(a_snapshot()))

    assert decode_round({"schema_version": 1, **document}).unknown == ()


def test_one_of_a_newer_version_is_refused_and_says_by_whom_it_was_written():
    document = {"version": 2, "program": "9.1", "snapshot": "who knows"}

    with pytest.raises(NewerVersionError, match=r"newer .* \(document version 2, by version 9\.1"):
        decode_round(document)
    with pytest.raises(NewerVersionError, match=r"\(document version 2\)$"):
        decode_round({"version": 2, "program": 9})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the document is no JSON object"),
        ({}, "version is missing or no number from 1 on"),
        ({"version": True}, "version is missing or no number from 1 on"),
        ({"version": 0}, "version is missing or no number from 1 on"),
        ({"version": 1}, "snapshot should be an object, not None"),
        ({"tick_id": None}, "tick_id is missing or no text"),
        ({"round": 1.5}, "round is missing or no number from 1 on"),
        ({"policy_version": None}, "policy_version is missing or no text"),
        ({"instead_of": "x"}, "instead_of is no object"),
        ({"instead_of": {"policy": "x"}}, "instead_of.version is missing or no text"),
        ({"utc_offset_sec": "1"}, "utc_offset_sec is no number of seconds of less than a day"),
        ({"utc_offset_sec": True}, "utc_offset_sec is no number of seconds of less than a day"),
        ({"utc_offset_sec": 86400}, "utc_offset_sec is no number of seconds of less than a day"),
        ({"plan": 1}, "plan should be an object, not 1"),
        ({"plan": {"verdicts": []}}, "plan.decisions is missing"),
        (
            {"plan": {"verdicts": [{"type": "keep", "entry": {"task_id": "9"}}]}},
            "plan.verdicts[0].entry should be named in the snapshot, not ['9']",
        ),
    ],
)
def test_what_is_wrong_in_a_document_is_named(document, words):
    if document and "version" not in document:
        document = {**encode_round(a_round(a_snapshot())), **document}
        document["snapshot"] = encode_round(a_round(a_snapshot(an_entry(a_lease("1")))))["snapshot"]

    with pytest.raises(DocumentError) as caught:
        decode_round(document)

    assert str(caught.value) == words


BUSY = json.loads(
    json.dumps(encode_round(a_round(a_busy_snapshot(), decided_by=OWN, utc_offset_s=3600)))
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**62,
    1.5,
    1e14,
    "",
    "x",
    [],
    {},
    [[]],
    "9999-12-31T23:59:59Z",
    MISSING,
)


@given(st.sampled_from(list(paths_in(BUSY))), st.sampled_from(ODD))
def test_whatever_stands_anywhere_in_a_document_it_is_decided_again_or_refused(path, odd):
    try:
        one = decode_round(changed(BUSY, path, odd))
    except DocumentError:
        return

    compare(one.plan, decided_again(one))


def test_switches_come_back_and_so_does_that_they_could_not_be_read():
    switch = Switch(kind=SwitchKind.DRAIN, target=EVERYTHING, since=NOW.wall, by="ann", reason="x")
    for switches in ((switch,), (), None):
        snapshot = replace(a_snapshot(a_task()), switches=switches)

        back = through_json(a_round(snapshot))

        assert back.snapshot.switches == switches
        assert decided_again(back) == back.plan
