"""What did a tick decide, and on what?  Kept so that it can be decided again.

A round is one look of a tick and the plan made of it; most ticks that do something have one
or two.  A document of it names no secret: what does not decide is left out, above all what a
command is, where it runs, what it is called and what it said.  To a policy of one's own titles
and labels are told, so where one decided they are there.
"""

from __future__ import annotations

from tinyscheduler.model.codec import Codec, Reading
from tinyscheduler.model.config import AgentProfile, Host, ModelPlace
from tinyscheduler.model.coolings import Cooling
from tinyscheduler.model.documents import DocumentError, NewerVersionError
from tinyscheduler.model.leases import NO_RUN, Lease, LeaseEntry, Run, Trace, UnreadableLease
from tinyscheduler.model.plan import Keep, Plan
from tinyscheduler.model.policy import DecidedBy, FailedPolicy
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
    SchedulingMemory: {"policy": PolicyRecord(), "last_good": PolicyRecord()},
    ModelPlace: {"endpoint": ""},
    AgentProfile: {"command": (), "environment": (), "cwd": None},
    Cooling: {"words": ""},
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
# Where a policy decided that is told what tasks are called.
_TELLING_CODEC = Codec(
    stand_ins={kind: names for kind, names in LEFT_OUT.items() if kind is not WaitingTask},
    names=_NAMES,
)
_KEYS = frozenset(
    {
        *("version", "schema_version", "program", "tick_id", "round", "snapshot", "plan"),
        *("policy", "policy_version", "instead_of", "utc_offset_sec"),
    }
)
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One look of a tick, and what was decided on it: by which policy of which program.

    ``number`` counts from 1 within the tick.  ``utc_offset_s`` is how far the clocks of the place
    were ahead of UTC, where a policy decided that is told their hour.  ``unknown`` are places in
    the document it was read from that this version of the program has no field for.
    """

    tick_id: str
    number: int
    program: str
    decided_by: DecidedBy
    snapshot: Snapshot
    plan: Plan
    utc_offset_s: int | None = None
    unknown: tuple[str, ...] = ()

    @property
    def tells_names(self) -> bool:
        """Whether titles and labels are in its document."""
        return self.decided_by.version is not None


def encode_round(one: Round) -> dict[str, Any]:
    """Return the round as a JSON object, without what is not to be told."""
    codec, by = _TELLING_CODEC if one.tells_names else _CODEC, one.decided_by
    # Of several of one name the first has it; the others are written in full.
    first = {_key_of(part): part for part in reversed(list(_parts(one.snapshot)))}
    named = {id(part): _CODEC.names_of(part) for part in first.values()}
    document = {
        "version": ROUND_VERSION,
        "program": one.program,
        "tick_id": one.tick_id,
        "round": one.number,
        "policy": by.name,
    }
    if by.version is not None:
        document["policy_version"] = by.version
    if by.instead_of is not None:
        failed = by.instead_of
        document["instead_of"] = {
            "policy": failed.name,
            "version": failed.version,
            "cause": failed.cause,
        }
    if one.utc_offset_s is not None:
        document["utc_offset_sec"] = one.utc_offset_s
    document["snapshot"] = codec.encode(one.snapshot)
    document["plan"] = codec.encode(one.plan, named)
    return document


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
    return Round(
        tick_id=_text(document, "tick_id"),
        number=_number(document, "round"),
        program=_text(document, "program"),
        decided_by=_decode_decided_by(document),
        snapshot=snapshot,
        plan=plan,
        utc_offset_s=_decode_offset(document.get("utc_offset_sec")),
        unknown=(*(name for name in document if name not in _KEYS), *reading.unknown),
    )


def _decode_decided_by(document: Mapping[str, Any]) -> DecidedBy:
    """Read who decided; what earlier versions wrote has but the name."""
    failed = document.get("instead_of")
    if failed is not None and not isinstance(failed, dict):
        message = "instead_of is no object"
        raise DocumentError(message)
    return DecidedBy(
        name=_text(document, "policy"),
        version=_text(document, "policy_version") if "policy_version" in document else None,
        instead_of=None
        if failed is None
        else FailedPolicy(
            name=_text(failed, "policy", within="instead_of."),
            version=_text(failed, "version", within="instead_of."),
            cause=_text(failed, "cause", within="instead_of."),
        ),
    )


def _decode_offset(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -_DAY_S < value < _DAY_S:
        message = "utc_offset_sec is no number of seconds of less than a day"
        raise DocumentError(message)
    return value


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


def _text(document: Mapping[str, Any], name: str, *, within: str = "") -> str:
    value = document.get(name)
    if not isinstance(value, str):
        message = f"{within}{name} is missing or no text"
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
