"""What a policy said is kept in a file that is bounded, and that no tick can fail by."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.places import paths_in
from tests.policy.asking import a_context, a_policy

from tinyscheduler.adapters.policy_trace_file import (
    MOST_CALLS,
    MOST_LOG_LINES,
    PolicyTraceFile,
    decode_entry,
    encode_entry,
    read_trace,
)
from tinyscheduler.errors import PolicyError, StoreError
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.model.plan import TickReport, TickStats
from tinyscheduler.model.policy import PolicyCall

if TYPE_CHECKING:
    from pathlib import Path

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ODD = '\x1b[31m \udce9\n\u2028 "quoted"'


@dataclass
class Said:
    """A policy of which only counts what it said."""

    name: str = "mine.lua"
    calls: list[PolicyCall] = field(default_factory=list)


def a_call(**more: Any) -> PolicyCall:
    return PolicyCall(**{"context": "c0ffee", "jobs": 3, **more})


def a_report(number: int = 0, **more: Any) -> TickReport:
    fields: dict[str, Any] = {
        "tick_id": f"20260301T120000.{number:06}Z",
        "started_at": NOON,
        "duration_ms": 3.5,
        "dry_run": False,
        "locked": False,
        "holder": None,
        "stats": TickStats(),
        "reclaims": (),
        "decisions": (),
        "errors": (),
        "warnings": (),
        "policy": "mine.lua",
        "policy_version": "v1",
        "policy_ms": 1.25,
        "all_sources_down": False,
    }
    return TickReport(**{**fields, **more})


def file_in(folder: Path) -> Path:
    return folder / "state" / "policies" / "trace.jsonl"


def test_what_was_said_in_a_tick_comes_back(tmp_path):
    said = Said()
    trace = PolicyTraceFile(paths_in(tmp_path), said)
    first = a_call(
        decisions={"dispatch": 2, "wait": 1},
        log=(("info", ODD),),
        metrics={"late": 0.5},
        instructions=3000,
        cpu_ms=1.5,
    )
    said.calls.append(first)
    trace.report(a_report(1))
    said.calls.append(a_call(cause="error", words="mine.lua:1: no", log=(("info", "so far"),)))
    trace.notice(
        Event(at=NOON, name=EventName.POLICY_FALLBACK, details=(("words", "mine.lua:1: no"),))
    )
    trace.report(a_report(2, policy="platform", policy_fallback="error"))

    entries, damaged = read_trace(paths_in(tmp_path), limit=9)

    assert damaged == 0
    assert [one.calls for one in entries] == [(first,), (said.calls[1],)]
    assert [(one.policy, one.version) for one in entries] == [("mine.lua", "v1")] * 2
    assert [(one.fallback, one.words) for one in entries] == [
        (None, None),
        ("error", "mine.lua:1: no"),
    ]
    assert stat.S_IMODE(file_in(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_in(tmp_path).parent.stat().st_mode) == 0o700


def test_a_tick_that_asked_nothing_leaves_nothing(tmp_path):
    trace = PolicyTraceFile(paths_in(tmp_path), Said())

    trace.report(a_report())

    assert not (tmp_path / "state").exists()
    assert read_trace(paths_in(tmp_path), limit=9) == ([], 0)


def test_of_many_calls_and_lines_the_last_are_kept(tmp_path):
    lines = tuple(("info", str(number)) for number in range(100))
    said = Said(calls=[a_call(jobs=number, log=lines) for number in range(MOST_CALLS + 5)])

    PolicyTraceFile(paths_in(tmp_path), said).report(a_report())

    ((entry,), _) = read_trace(paths_in(tmp_path), limit=9)
    assert entry.left_out == 5
    assert [one.jobs for one in entry.calls] == list(range(5, MOST_CALLS + 5))
    assert sum(len(one.log) for one in entry.calls) == MOST_LOG_LINES
    assert entry.calls[-1].log[-1] == ("info", "99")


def test_a_full_file_is_set_aside_once_and_both_are_read(tmp_path):
    said = Said()
    trace = PolicyTraceFile(paths_in(tmp_path), said, max_bytes=1000)
    for number in range(20):
        said.calls.append(a_call())
        trace.report(a_report(number))

    entries, _ = read_trace(paths_in(tmp_path), limit=5)

    folder = file_in(tmp_path).parent
    assert {path.name for path in folder.iterdir()} <= {"trace.jsonl", "trace.jsonl.1"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3000
    assert [one.tick_id[-7:] for one in entries][-2:] == ["000018Z", "000019Z"]


@pytest.mark.parametrize("what", ["folder", "pipe", "full", "state", "link"])
def test_a_disk_that_refuses_costs_the_line_and_nothing_else(tmp_path, what):
    path = file_in(tmp_path)
    if what == "state":
        (tmp_path / "state").write_text("a file where a folder should be")
    else:
        path.parent.mkdir(parents=True)
        match what:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "full":
                path.symlink_to("/dev/full")
            case _:
                path.symlink_to("nowhere/at/all")

    PolicyTraceFile(paths_in(tmp_path), Said(calls=[a_call()])).report(a_report())

    assert what in ("folder", "state") or path.is_symlink() or path.is_fifo()


def test_half_a_line_and_those_of_others_are_passed_over_and_counted(tmp_path):
    said = Said(calls=[a_call()])
    PolicyTraceFile(paths_in(tmp_path), said).report(a_report())
    path = file_in(tmp_path)
    good = path.read_bytes()
    newer = json.dumps({**json.loads(good), "version": 2}).encode()
    odd = json.dumps({**json.loads(good), "calls": [{"jobs": "many"}]}).encode()
    path.write_bytes(
        b"\n".join([b"", newer, odd, b"[" * 100_000, b"\xff", b"null", good, good[:40]])
    )

    entries, damaged = read_trace(paths_in(tmp_path), limit=99)

    assert (len(entries), damaged) == (1, 6)


@pytest.mark.parametrize("name", ["ts", "policy", "calls", "left_out", "duration_ms"])
def test_an_entry_that_lacks_something_or_has_it_wrong_is_none(tmp_path, name):
    PolicyTraceFile(paths_in(tmp_path), Said(calls=[a_call()])).report(a_report())
    ((entry,), _) = read_trace(paths_in(tmp_path), limit=1)
    document = encode_entry(entry)

    for wrong in ({**document, name: [1]}, {key: document[key] for key in document if key != name}):
        with pytest.raises(ValueError, match="no entry"):
            decode_entry(wrong)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    file_in(tmp_path).mkdir(parents=True)

    with pytest.raises(StoreError, match=r"trace\.jsonl: Is a directory"):
        read_trace(paths_in(tmp_path), limit=1)


# -- from the policy ------------------------------------------------------------------


def test_each_question_is_noted_with_what_came_of_it(tmp_path):
    policy = a_policy(
        tmp_path,
        """
        function schedule(context)
          log("info", "asked about " .. #context.queue)
          emit_metric("asked", 1)
          if context.metrics.free_slots == 0 then error("no slot") end
          return { { action = "dispatch", job_id = "1" }, { action = "wait" } }
        end
        """,
        wall_ms=5000,
    )
    try:
        policy.propose(a_context())
        policy.propose(a_context())
        with pytest.raises(PolicyError):
            policy.propose(a_context(host_slots_free=0))
    finally:
        policy.close()

    first, second, failed = policy.calls
    assert first.decisions == {"dispatch": 1, "wait": 1}
    assert first.log == failed.log == (("info", "asked about 1"),)
    assert first.metrics == {"asked": 1}
    assert first.cpu_ms is not None
    assert (first.cause, failed.cause, failed.cpu_ms) == (None, "error", None)
    assert first.context == second.context != failed.context


def test_a_file_that_is_not_there_is_a_call_that_failed(tmp_path):
    policy = a_policy(tmp_path, None)

    with pytest.raises(PolicyError):
        policy.propose(a_context())

    assert [one.cause for one in policy.calls] == ["file"]
