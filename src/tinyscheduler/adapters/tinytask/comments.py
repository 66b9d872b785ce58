"""What does a server's task say of an attempt that is over?  Comments, for people and agents."""

from __future__ import annotations

import os
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.source_tasks import KnownTask

_TAIL_BYTES = 4096
_TAIL_LENGTH = 1500
_MINUTE_S = 60


class Words(StrEnum):
    """What became of the task."""

    SUCCEEDED = "The task is complete."
    LEFT_COMPLETE = "The task was completed before the attempt ended, and stays complete."
    HANDED_ON = "The task was given to somebody else before the attempt ended, and stays so."
    WAITS_FOR_SUBTASKS = "The task has open subtasks, and is complete when they are."
    PUT_BACK = "Its agent made the task idle, so it is tried again."
    PUT_BACK_TOO_OFTEN = (
        "Its agent made the task idle again and again: it is set aside here, and not tried again"
        " before `tinyscheduler retry`, or before it is given to another agent."
    )
    FAILED = "The task is idle again, and is tried again after a pause."
    PARKED = (
        "No attempt is left: the task is set aside here, and not tried again before"
        " `tinyscheduler retry`, or before it is given to another agent."
    )
    NEVER_STARTED = (
        "Its agent could not be started: the task is set aside here, and not tried again before"
        " `tinyscheduler retry`, or before it is given to another agent."
    )
    CANCELLED = "The task was cancelled here: it stays idle, and is not tried again."
    GIVEN_UP = "The task stays idle, and is not tried again before `tinyscheduler retry`."
    LOST = (
        "The task was marked as working under one of our agents, but nobody works on it here:"
        " it is idle again."
    )
    LOST_TOO_OFTEN = (
        "The task was marked as working under one of our agents, but nobody works on it here, and"
        " not for the first time: it is set aside here, and not tried again before"
        " `tinyscheduler retry`, or before it is given to another agent."
    )


def describe_attempt(attempt: AttemptRecord, words: Words) -> str:
    """Say how an attempt ended, what became of the task, and what was printed last."""
    facts = [f"attempt {attempt.attempt} by {attempt.agent} {_end_of(attempt)}"]
    if attempt.started_at is not None:
        facts.append(f"after {_span((attempt.ended_at - attempt.started_at).total_seconds())}")
    if attempt.turns is not None:
        facts.append(f"{attempt.turns} turn{'' if attempt.turns == 1 else 's'}")
    if attempt.exit_code is not None:
        facts.append(f"exit code {attempt.exit_code}")
    lines = [f"TinyScheduler: {', '.join(facts)}. {words}"]
    tail = _tail_of(attempt.log)
    if tail:
        lines += ["", "Its last words:", "", *(f"    {line}" for line in tail.splitlines())]
    if attempt.log is not None:
        lines += ["", f"Log: {attempt.log}"]
    return "\n".join([*lines, "", f"(lease {attempt.lease_id})"])


def describe_loss(words: Words, *, lease_id: str, row: KnownTask) -> str:
    """Say what became of a task of which there is no attempt to tell of."""
    again = f"`tinyscheduler why` says more of it; attempt {row.attempt} is the next one."
    return f"TinyScheduler: {words} {again}\n\n(lease {lease_id})"


def _end_of(attempt: AttemptRecord) -> str:
    if attempt.failure_reason is None:
        return attempt.outcome.value
    return f"{attempt.outcome.value}: {attempt.failure_reason.value}"


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    return f"{int(seconds // _MINUTE_S)} min {int(seconds % _MINUTE_S)} s"


def _tail_of(path: str | None) -> str:
    """Return the last lines of a log as plain text; nothing where there is none to read."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            content = file.read(_TAIL_BYTES)
    except OSError:
        return ""
    # What was punched out of a long log reads as NUL.
    text = content.replace(b"\0", b"").decode(errors="replace")
    lines = [
        "".join(one for one in line if one.isprintable() or one == "\t").rstrip()
        for line in text.splitlines()[-20:]
    ]
    return "\n".join(lines).strip()[-_TAIL_LENGTH:].strip()
