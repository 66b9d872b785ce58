"""``state/policies/trace.jsonl``: what a policy of one's own said in each tick that asked it."""

from __future__ import annotations

import os
from contextlib import suppress

from tinyscheduler.errors import StoreError
from tinyscheduler.files import read_bytes
from tinyscheduler.jsontext import dumps, loads
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.policy import PolicyCall
from tinyscheduler.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Protocol

    from tinyscheduler.model.config import Paths
    from tinyscheduler.model.events import Event
    from tinyscheduler.model.plan import TickReport

TRACE_VERSION = 1
MAX_BYTES = 1 << 20
# Of one tick.  A policy is asked again until nothing more fits, and says most in the end.
MOST_CALLS, MOST_LOG_LINES = 20, 200


if TYPE_CHECKING:

    class Traced(Protocol):
        """The policy of a tick, and what came of each question so far."""

        @property
        def name(self) -> str:
            """What it is called in messages."""

        @property
        def calls(self) -> Sequence[PolicyCall]:
            """All questions, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One tick in which a policy was asked.

    With a ``fallback`` the platform policy decided: the cause, and in ``words`` what happened.
    ``left_out`` counts the calls before those that are kept.
    """

    at: str
    tick_id: str
    policy: str
    version: str
    fallback: str | None
    words: str | None
    duration_ms: float | None
    calls: tuple[PolicyCall, ...]
    left_out: int = 0


class PolicyTraceFile:
    """Appends a line for each tick, in one write; a file that is full is set aside, once.

    Only ticks write, one at a time.
    """

    def __init__(self, paths: Paths, policy: Traced, *, max_bytes: int = MAX_BYTES) -> None:
        """Remember where, and whom to listen to; the folder is made when first needed."""
        self._path = _path_in(paths)
        self._policy = policy
        self._max_bytes = max_bytes
        self._written = 0
        self._words: str | None = None

    def notice(self, event: Event) -> None:
        """Remember in which words the policy failed."""
        if event.name is EventName.POLICY_FALLBACK:
            self._words = str(dict(event.details).get("words"))

    def report(self, report: TickReport) -> None:
        """Append what was said in this tick; a disk that refuses costs this line, nothing else."""
        calls = tuple(self._policy.calls[self._written :])
        words, self._words = self._words, None
        self._written += len(calls)
        if not calls:
            return  # it was not asked, for nothing waits or it has failed too often
        kept = _bounded(calls[-MOST_CALLS:])
        entry = TraceEntry(
            at=format_time(report.started_at),
            tick_id=report.tick_id,
            policy=self._policy.name,
            version=report.policy_version,
            fallback=report.policy_fallback,
            words=words,
            duration_ms=report.policy_ms,
            calls=kept,
            left_out=len(calls) - len(kept),
        )
        with suppress(OSError):
            self._append(dumps(encode_entry(entry)).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            fd = os.open(self._path, flags, 0o600)
        try:
            before = os.fstat(fd).st_size
            if os.write(fd, line) < len(line):
                os.ftruncate(fd, before)  # the disk is full; half a line helps nobody
            if before + len(line) > self._max_bytes:
                os.replace(self._path, f"{self._path}.1")
        finally:
            os.close(fd)


def read_trace(paths: Paths, *, limit: int) -> tuple[Sequence[TraceEntry], int]:
    """Return the newest entries, oldest first, and how many lines among them are damaged.

    StoreError if a file cannot be read.
    """
    path = _path_in(paths)
    lines = [line for name in (f"{path}.1", path) for line in _lines_of(name)]
    entries, damaged = [], 0
    for line in lines[-limit:]:
        try:
            entries.append(decode_entry(loads(line)))
        except (ValueError, RecursionError):
            damaged += 1
    return entries, damaged


def encode_entry(entry: TraceEntry) -> dict[str, Any]:
    """Return the entry as it is written."""
    return {
        "version": TRACE_VERSION,
        "ts": entry.at,
        "tick_id": entry.tick_id,
        "policy": entry.policy,
        "policy_version": entry.version,
        "fallback": entry.fallback,
        "words": entry.words,
        "duration_ms": None if entry.duration_ms is None else round(entry.duration_ms, 3),
        "calls": [
            {
                "context": call.context,
                "jobs": call.jobs,
                "decisions": dict(call.decisions),
                "log": [{"level": level, "text": text} for level, text in call.log],
                "metrics": dict(call.metrics),
                "instructions": call.instructions,
                "cpu_ms": call.cpu_ms,
                "cause": call.cause,
                "words": call.words,
            }
            for call in entry.calls
        ],
        "left_out": entry.left_out,
    }


def decode_entry(document: object) -> TraceEntry:
    """Read an entry; ValueError for what no tick has written, and for what a newer one has."""
    if not isinstance(document, dict) or document.get("version") != TRACE_VERSION:
        message = "no entry of this version"
        raise ValueError(message)
    try:
        return TraceEntry(
            at=_text(document["ts"]),
            tick_id=_text(document["tick_id"]),
            policy=_text(document["policy"]),
            version=_text(document["policy_version"]),
            fallback=_text_or_none(document["fallback"]),
            words=_text_or_none(document["words"]),
            duration_ms=_number_or_none(document["duration_ms"]),
            calls=tuple(_call(one) for one in document["calls"]),
            left_out=int(_number(document["left_out"])),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        message = f"no entry: {error!r}"
        raise ValueError(message) from error


def _call(document: Mapping[str, Any]) -> PolicyCall:
    instructions = _number_or_none(document["instructions"])
    return PolicyCall(
        context=_text(document["context"]),
        jobs=int(_number(document["jobs"])),
        decisions={name: int(_number(one)) for name, one in document["decisions"].items()},
        log=tuple((_text(one["level"]), _text(one["text"])) for one in document["log"]),
        metrics={name: _number(one) for name, one in document["metrics"].items()},
        instructions=None if instructions is None else int(instructions),
        cpu_ms=_number_or_none(document["cpu_ms"]),
        cause=_text_or_none(document["cause"]),
        words=_text_or_none(document["words"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"{value!r:.40} is no text"
        raise TypeError(message)
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{value!r:.40} is no number"
        raise TypeError(message)
    return value


def _number_or_none(value: object) -> float | None:
    return None if value is None else _number(value)


def _bounded(calls: Sequence[PolicyCall]) -> tuple[PolicyCall, ...]:
    """Keep the last lines of the log of each call, and of all no more than fit."""
    share = MOST_LOG_LINES // max(1, len(calls))
    return tuple(replace(call, log=call.log[-share:]) for call in calls)


def _path_in(paths: Paths) -> str:
    return os.path.join(paths.state, "policies", "trace.jsonl")


def _lines_of(path: str) -> Iterator[bytes]:
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        message = f"{path}: {words}"
        raise StoreError(message, hint="make it readable, or remove it") from error
    yield from (line for line in content.split(b"\n") if line.strip())
