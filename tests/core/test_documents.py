"""Leases, results and what ticks remember as JSON: read back as written, and never trusted."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.builders import NOW, a_lease, a_result

from tinyscheduler.model.clock import format_time, parse_time
from tinyscheduler.model.documents import (
    DocumentError,
    NewerVersionError,
    decode_lease,
    decode_memory,
    decode_result,
    encode_lease,
    encode_memory,
)
from tinyscheduler.model.leases import Lease, LeaseState, Needs, ProcessIdentity, Run
from tinyscheduler.model.snapshot import SchedulingMemory, StaleSighting
from tinyscheduler.model.tasks import AttemptResult, FailureReason, Outcome
from tinyscheduler.values import fields, replace

# What INTERFACES promises of a lease file.
DOCUMENTED = {
    *("version", "task_id", "agent", "pid", "recipe", "started_at", "heartbeat", "host", "state"),
    *("metadata", "lease_id", "source", "attempt", "launches", "process", "monotonic"),
    *("heartbeat_sec", "max_runtime_sec", "needs", "gpu_uuids", "pool", "launcher", "handle"),
    *("schedule_id", "max_turns", "turns", "model"),
}

texts = st.text(max_size=5)
some_zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
optional_texts = st.none() | texts
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
naturals = st.integers(0, 2**63 - 1)
optional_naturals = st.none() | naturals
seconds = st.floats(0, 1e9)
intervals = st.floats(0.001, 1e9)
# A file holds milliseconds.
times = st.datetimes(
    timezones=st.just(UTC),
).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

processes = st.builds(
    ProcessIdentity,
    boot_id=texts,
    pid=naturals,
    start_ticks=naturals,
    pgid=naturals,
    pid_ns=naturals,
)
runs = st.builds(
    Run,
    argv=st.lists(texts, max_size=3).map(tuple),
    cwd=texts,
    stdin=optional_texts,
    log=texts,
    log_max_bytes=naturals,
    kill_grace_s=seconds,
    idle_output_s=st.none() | seconds,
    results=texts,
    cancel=texts,
    kick=texts,
    tick_lock=texts,
    daemon_lock=texts,
    kick_argv=st.lists(texts, max_size=3).map(tuple),
)
leases = st.builds(
    Lease,
    task_id=names,
    lease_id=names,
    source=texts,
    agent=texts,
    attempt=naturals,
    launches=naturals,
    state=st.sampled_from(LeaseState),
    host=texts,
    boot_id=texts,
    started_at=times,
    heartbeat=times,
    monotonic_started_ns=st.integers(0, 10**17),  # three years
    monotonic_heartbeat_ns=st.integers(0, 10**17),
    heartbeat_s=intervals,
    max_runtime_s=intervals,
    needs=st.builds(
        Needs, slots=naturals, memory_bytes=naturals, gpus=naturals, vram_bytes=naturals
    ),
    run=runs,
    process=st.none() | processes,
    recipe=optional_texts,
    metadata=st.dictionaries(texts, texts, max_size=3).map(lambda pairs: tuple(pairs.items())),
    gpu_uuids=st.lists(texts, max_size=3).map(tuple),
    pool=texts,
    launcher=texts,
    handle=optional_texts,
    schedule_id=optional_texts,
    max_turns=optional_naturals,
    turns=optional_naturals,
    model=optional_texts,
    model_host=optional_texts,
    tenant=optional_texts,
    project=optional_texts,
)
results = st.builds(
    AttemptResult,
    lease_id=names,
    task_id=names,
    source=texts,
    agent=texts,
    attempt=naturals,
    outcome=st.sampled_from(Outcome),
    failure_reason=st.none() | st.sampled_from(FailureReason),
    exit_code=optional_naturals,
    signal=optional_naturals,
    message=texts,
    started_at=times,
    ended_at=times,
    duration_s=seconds,
    turns=optional_naturals,
    peak_rss_mb=st.none() | seconds,
    log=texts,
)


def as_read(document: dict[str, Any]) -> Any:
    return json.loads(json.dumps(document))


def a_result_document(result: AttemptResult) -> dict[str, Any]:
    """Return what a wrapper writes; it has no encoder in the package, being alone."""
    named = {"duration_s": "duration_sec", "cpu_s": "cpu_sec", "gpu_s": "gpu_sec"}
    document: dict[str, Any] = {"version": 1}
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, datetime):
            value = format_time(value)
        document[named.get(field.name, field.name)] = value
    return document


LEASE = as_read(encode_lease(a_lease(metadata=(("team", "a"),), gpu_uuids=("GPU-1",), turns=3)))
RESULT = as_read(
    a_result_document(a_result(outcome=Outcome.FAILED, failure_reason=FailureReason.TIMEOUT))
)
MEMORY = as_read(
    encode_memory(
        SchedulingMemory(
            stale=(StaleSighting(lease_id="one", beat_ns=5, seen_ns=7, boot_id="boot"),),
            last_start_ns=9,
            last_start_boot_id="boot",
            pruned_at=NOW.wall,
        )
    )
)
DECODERS = [(decode_lease, LEASE), (decode_result, RESULT), (decode_memory, MEMORY)]
each = pytest.mark.parametrize(("decode", "good"), DECODERS, ids=["lease", "result", "memory"])


def places(document: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path to every field, those of inner objects included."""
    found = []
    for name, value in document.items():
        found.append((*path, name))
        if isinstance(value, dict):
            found += places(value, (*path, name))
    return found


def changed(document: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    name, *rest = path
    inner = changed(document[name], tuple(rest), value) if rest else value
    return {**document, name: inner}


def without(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name, *rest = path
    if rest:
        return {**document, name: without(document[name], tuple(rest))}
    return {key: value for key, value in document.items() if key != name}


# -- read back as written -------------------------------------------------------------


@given(leases)
def test_a_lease_is_read_back_as_it_was_written(lease: Lease):
    read = decode_lease(as_read(encode_lease(lease)))

    # A file holds seconds with a fraction: of years, a microsecond may be lost.
    for name in ("monotonic_started_ns", "monotonic_heartbeat_ns"):
        assert abs(getattr(read, name) - getattr(lease, name)) <= 1000
    assert lease == replace(
        read,
        monotonic_started_ns=lease.monotonic_started_ns,
        monotonic_heartbeat_ns=lease.monotonic_heartbeat_ns,
    )


@given(st.integers(0, 2**51))
def test_a_monotonic_time_is_read_back_to_the_nanosecond_for_weeks(started_ns: int):
    lease = a_lease(monotonic_started_ns=started_ns)

    assert decode_lease(as_read(encode_lease(lease))).monotonic_started_ns == started_ns


@given(results)
def test_a_result_is_read_back_as_it_was_written(result: AttemptResult):
    assert decode_result(as_read(a_result_document(result))) == result


def test_a_lease_file_has_every_documented_field():
    assert LEASE.keys() >= DOCUMENTED
    assert LEASE["process"].keys() == {"boot_id", "pid", "start_ticks", "pgid", "pid_ns"}
    assert LEASE["monotonic"].keys() == {"started", "heartbeat"}
    needs = {"slots", "memory_bytes", "gpus", "vram_bytes", "shared_bytes"}
    assert LEASE["needs"].keys() == needs
    assert LEASE["pid"] == LEASE["process"]["pid"] == 4711


def test_a_lease_without_a_process_has_no_pid():
    document = encode_lease(a_lease(process=None))

    assert document["pid"] is None
    assert document["process"] is None
    assert decode_lease(as_read(document)).process is None


def test_times_are_utc_with_a_z():
    assert LEASE["started_at"] == "2026-03-01T12:00:00.000Z"


@each
def test_fields_that_a_later_program_adds_are_passed_over(decode, good):
    assert decode({**good, "extra": [1]}) == decode(good)


# -- and never trusted ----------------------------------------------------------------


@each
@given(document=json_values)
def test_any_json_that_is_no_document_is_a_document_error(decode, good, document):
    del good

    with pytest.raises(DocumentError):
        decode(document)


@each
@given(data=st.data())
# An aware moment that has no name in UTC.
@example(data="9999-12-31T23:59:59-01:00")
@example(data="0001-01-01T00:00:00+01:00")
def test_garbage_in_any_place_is_a_document_error_and_nothing_else(decode, good, data):
    if isinstance(data, str):
        place, garbage = ("started_at",), data
    else:
        place = data.draw(st.sampled_from(places(good)))
        garbage = data.draw(
            json_values | st.sampled_from((10**400, -(10**400), 1e300, "9999-12-31T23:59:59-01:00"))
        )

    with suppress(DocumentError):
        decode(changed(good, place, garbage))


@each
def test_a_document_that_lacks_a_field_is_refused_by_that_fields_name(decode, good):
    may_lack = {
        *("pid", "process", "recipe", "handle", "schedule_id", "max_turns", "turns", "model"),
        *("failure_reason", "exit_code", "signal", "peak_rss_mb"),
        *("tokens", "cost_usd", "cpu_sec", "gpu_sec", "found_nothing"),
        *("last_start_ns", "last_start_boot_id", "pruned_at", "told", "skips", "deferrals"),
        *("model_host", "tenant", "project", "gpu_share", "accounts", "accounted_at"),
        *("gpu_sightings", "used_slots", "active_agent_counts"),
        *("policy", "policy.cause", "policy.words", "policy.is_unloadable"),
        *("last_good_policy", "last_good_policy.cause", "last_good_policy.words"),
        "last_good_policy.is_unloadable",
        *("needs.shared_bytes", "run.stdin", "run.idle_output_sec", "run.cgroup"),
        *("run.agent_kind", "run.agent_output", "run.agent_outcomes", "run.agent_profile"),
        *("run.attempt_life", "run.gpu_report", "silent_sec", "max_tokens", "max_cost_usd"),
        *("told.sources_down", "told.silent"),
    }

    for place in places(good):
        name = ".".join(place)
        if place[0] == "metadata" and len(place) > 1:
            continue
        if name in may_lack:
            decode(without(good, place))
        else:
            with pytest.raises(DocumentError, match=rf"\.{name} should be .*, not 'nothing'"):
                decode(without(good, place))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("attempt",), True),
        (("attempt",), 1.0),
        (("attempt",), "1"),
        (("attempt",), 2**63),
        (("attempt",), -(2**63) - 1),
        (("heartbeat_sec",), True),
        (("heartbeat_sec",), "15"),
        (("heartbeat_sec",), 0),
        (("max_runtime_sec",), -1.0),
        (("heartbeat_sec",), float("nan")),
        (("heartbeat_sec",), float("inf")),
        (("monotonic", "started"), 1e18),
        (("started_at",), "yesterday"),
        (("started_at",), "2026-03-01T12:00:00"),
        (("state",), "resting"),
        (("gpu_uuids",), [1]),
        (("gpu_uuids",), "GPU-1"),
        (("metadata",), {"team": 1}),
        (("metadata",), [["team", "a"]]),
        (("process",), []),
        (("run",), None),
        (("task_id",), None),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_its_fields_name(place: tuple[str, ...], value: object):
    with pytest.raises(DocumentError, match=rf"^lease\.{'.'.join(place)} should be "):
        decode_lease(changed(LEASE, place, value))


def test_a_long_wrong_value_is_not_told_at_length():
    with pytest.raises(DocumentError) as caught:
        decode_lease(changed(LEASE, ("attempt",), "x" * 10**6))

    assert len(str(caught.value)) < 200


@each
@pytest.mark.parametrize("document", [None, [], 1, "lease"])
def test_what_is_no_object_is_refused(decode, good, document):
    del good

    with pytest.raises(DocumentError, match="is not a JSON object"):
        decode(document)


@each
def test_a_newer_version_is_told_apart_from_garbage(decode, good):
    with pytest.raises(NewerVersionError, match="version 2"):
        # Nothing else of a newer version can be relied on.
        decode({"version": 2})

    for version in (0, -1, True, "1", None):
        with pytest.raises(DocumentError) as caught:
            decode({**good, "version": version})
        assert not isinstance(caught.value, NewerVersionError)


# -- times ----------------------------------------------------------------------------


@given(st.datetimes(timezones=some_zones))
def test_a_time_is_read_back_to_the_millisecond(moment: datetime):
    try:
        universal = moment.astimezone(UTC)
    except OverflowError:
        return

    read = parse_time(format_time(moment))

    assert read.tzinfo is UTC
    assert read == universal.replace(microsecond=universal.microsecond // 1000 * 1000)


@pytest.mark.parametrize(
    "text", ["", "now", "2026-03-01", "2026-03-01T12:00:00", "9999-12-31T23:59:59-01:00"]
)
def test_a_time_that_cannot_be_placed_is_a_value_error(text: str):
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


def test_a_time_of_another_zone_is_read_as_utc():
    assert parse_time("2026-03-01T13:00:00+01:00") == NOW.wall
