"""What did a tick decide, and on what?  Kept so that it can be decided again.

A round is one look of a tick and the plan made of it; most ticks that do something have one
or two.  A document of it names no secret: what does not decide is left out, above all what a
command is, where it runs, what it is called and what it said.
"""

from __future__ import annotations

from tinyscheduler.model.codec import Codec, Reading
from tinyscheduler.model.config import AgentProfile, Host, ModelPlace
from tinyscheduler.model.documents import DocumentError, NewerVersionError
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseEntry, Run, Trace, UnreadableLease
from tinyscheduler.model.plan import Keep, Plan
from tinyscheduler.model.snapshot import (
    PolicyRecord,
    SchedulingMemory,
    Snapshot,
    SourceView,
    UnreadableResult,
)
from tinyscheduler.model.tasks import AttemptResult, Claim, WaitingTask
from tinyscheduler.values import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

ROUND_VERSION = 1
# What a replay can do without, and what is read in its place.  Whatever else is a text is kept:
# names and ids, and the words that people are told of a wait.
LEFT_OUT: Mapping[type, Mapping[str, object]] = {
    Run: {
        one.name: getattr(NO_RUN, one.name)
        for one in fields(Run)
        if one.name not in {"kill_grace_s", "log_max_bytes", "idle_output_s"}
    },
    Lease: {"recipe": None, "metadata": ()},
    Trace: {"cgroup": None},
    UnreadableLease: {"message": ""},
    UnreadableResult: {"message": ""},
    AttemptResult: {"message": "", "log": ""},
    WaitingTask: {"labels": (), "title": None},
    # That there is one decides, not what it says.
    SourceView: {"error": ""},
    Host: {"address": ""},
    # What it says is its author's word; by which policy a tick decided stands beside.
    SchedulingMemory: {"policy": PolicyRecord()},
    ModelPlace: {"endpoint": ""},
    AgentProfile: {"command": (), "environment": (), "cwd": None, "account": None},
    # It quotes what is left out above.
    Keep: {"report": ""},
}
# A plan speaks of what is in its snapshot by these.
_NAMES: Mapping[type, tuple[str, ...]] = {
    WaitingTask: ("source", "task_id"),
    Claim: ("source", "task_id", "lease_id"),
    LeaseEntry: ("task_id",),
    AttemptResult: ("lease_id",),
    UnreadableResult: ("lease_id",),
}
_CODEC = Codec(stand_ins=LEFT_OUT, names=_NAMES)
_KEYS = frozenset({"version", "schema_version", "program", "tick_id", "round", "policy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One look of a tick, and what was decided on it: by which policy of which program.

    ``number`` counts from 1 within the tick.  ``unknown`` are places in the document it was
    read from that this version of the program has no field for.
    """

    tick_id: str
    number: int
    program: str
    policy: str
    snapshot: Snapshot
    plan: Plan
    unknown: tuple[str, ...] = ()


def encode_round(one: Round) -> dict[str, Any]:
    """Return the round as a JSON object, without what is not to be told."""
    # Of several of one name the first has it; the others are written in full.
    first = {_key_of(part): part for part in reversed(list(_parts(one.snapshot)))}
    named = {id(part): _CODEC.names_of(part) for part in first.values()}
    return {
        "version": ROUND_VERSION,
        "program": one.program,
        "tick_id": one.tick_id,
        "round": one.number,
        "policy": one.policy,
        "snapshot": _CODEC.encode(one.snapshot),
        "plan": _CODEC.encode(one.plan, named),
    }


def decode_round(document: object) -> Round:
    """Read a round; DocumentError names the first place that is missing or wrong."""
    if not isinstance(document, dict):
        message = "the document is no JSON object"
        raise DocumentError(message)
    _check_version(document)
    reading = Reading()
    snapshot = _CODEC.decode(Snapshot, document.get("snapshot"), "snapshot", reading)
    first = {_key_of(part): part for part in reversed(list(_parts(snapshot)))}
    in_plan = Reading(named=first, unknown=reading.unknown)
    plan = _CODEC.decode(Plan, document.get("plan"), "plan", in_plan)
    known = {*_KEYS, "snapshot", "plan"}
    return Round(
        tick_id=_text(document, "tick_id"),
        number=_number(document, "round"),
        program=_text(document, "program"),
        policy=_text(document, "policy"),
        snapshot=snapshot,
        plan=plan,
        unknown=(*(name for name in document if name not in known), *reading.unknown),
    )


def redact(one: Round) -> Round:
    """Return the round as its document tells it."""
    return decode_round(encode_round(one))


def _check_version(document: Mapping[str, Any]) -> None:
    version = _number(document, "version")
    if version > ROUND_VERSION:
        program = document.get("program")
        by = f", by version {program}" if isinstance(program, str) else ""
        message = f"it was written by a newer TinyScheduler (document version {version}{by})"
        raise NewerVersionError(message)


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        message = f"{name} is missing or no text"
        raise DocumentError(message)
    return value


def _number(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        message = f"{name} is missing or no number from 1 on"
        raise DocumentError(message)
    return value


def _parts(snapshot: Snapshot) -> Iterator[object]:
    """Yield all of a snapshot that a plan speaks of."""
    for source in snapshot.sources:
        yield from source.waiting
        yield from source.claims
    yield from snapshot.scan.entries
    yield from snapshot.scan.results
    yield from snapshot.scan.unreadable_results


def _key_of(part: object) -> tuple[type, tuple[object, ...]]:
    return type(part), tuple(_CODEC.names_of(part).values())
