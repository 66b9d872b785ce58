"""What does a server's task say of an attempt that is over?  Comments, for people and agents."""

from __future__ import annotations

import os
from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.source_tasks import KnownTask

# Of the log: enough for the last event of an agent, which may repeat its whole answer.
_TAIL_BYTES = 1 << 18
_TAIL_LINES = 20
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


def describe_attempt(
    attempt: AttemptRecord, words: Words, *, find_answer: Callable[[str, bytes], str]
) -> str:
    """Say how an attempt ended, what became of the task, and what its agent said last.

    ``find_answer`` finds that in the end of what an agent of that name printed; empty where it
    speaks no language that is known: then the last lines stand for it.
    """
    facts = [f"attempt {attempt.attempt} by {attempt.agent} {_end_of(attempt)}"]
    if attempt.started_at is not None:
        facts.append(f"after {_span((attempt.ended_at - attempt.started_at).total_seconds())}")
    if attempt.turns is not None:
        facts.append(f"{attempt.turns} turn{'' if attempt.turns == 1 else 's'}")
    if attempt.exit_code is not None:
        facts.append(f"exit code {attempt.exit_code}")
    lines = [f"TinyScheduler: {', '.join(facts)}. {words}"]
    if attempt.message and attempt.failure_reason is not None:
        lines += ["", f"Because: {_plain(attempt.message)}"]
    tail = _tail_of(attempt.log)
    last = _plain(find_answer(attempt.agent, tail)) or _plain_lines(tail)
    if last:
        lines += ["", "Its last words:", "", *(f"    {line}" for line in last.splitlines())]
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


def _tail_of(path: str | None) -> bytes:
    """Return the end of a log; nothing where there is none to read."""
    if path is None:
        return b""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            # What was punched out of a long log reads as NUL.
            return file.read(_TAIL_BYTES).replace(b"\0", b"")
    except OSError:
        return b""


def _plain_lines(tail: bytes) -> str:
    return _plain("\n".join(tail.decode(errors="replace").splitlines()[-_TAIL_LINES:]))


def _plain(text: str) -> str:
    """Return the end of a text, without what steers a terminal."""
    lines = (
        "".join(one for one in line if one.isprintable() or one == "\t").rstrip()
        for line in text.splitlines()
    )
    return "\n".join(lines).strip()[-_TAIL_LENGTH:].strip()
