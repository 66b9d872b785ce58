"""``prune`` and ``reset``: remove what is over, or everything."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyscheduler.cli.invocation import Invocation
from tinyscheduler.cli.parsing import duration_s
from tinyscheduler.cli.render import ask, count, emit_json, format_table, tell
from tinyscheduler.errors import EXIT_DONE, EXIT_FAILED, UsageError
from tinyscheduler.model.clock import format_time
from tinyscheduler.model.events import EventName
from tinyscheduler.model.pruning import Emptied, PruneKind
from tinyscheduler.model.resources import format_size

if TYPE_CHECKING:
    from tinyscheduler.app.queue import Queue
    from tinyscheduler.model.pruning import Pruned

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
# Of a file's kinds, what people call one of them.
_NOUNS = {
    PruneKind.TASKS: "ended tasks",
    PruneKind.ATTEMPTS: "attempts in the ledger",
    PruneKind.METRICS: "measurements of firings",
    PruneKind.LOGS: "log files",
    PruneKind.PROMPTS: "prompt files",
    PruneKind.QUARANTINE: "files in quarantine",
    PruneKind.COPIES: "copies of the database",
    PruneKind.CANCELS: "stray requests to cancel",
    PruneKind.TICKS: "decisions of ticks",
    PruneKind.POLICIES: "half-written policies",
}


def prune(
    context: typer.Context,
    *,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Remove what is older, not what the settings say."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    json: _Json = False,
) -> int:
    """Remove ended tasks and their logs once they are old.

    Ticks do the same by themselves, a little every hour.  What waits, runs or is parked
    stays, and what such a task comes after.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.app.pruning import preview_pruning, prune

    age_s = None if older_than is None else duration_s("--older-than", older_than)
    if dry_run:
        config = invocation.configure_reading()
        pruned = preview_pruning(config, age_s=age_s)
    else:
        config = invocation.configure_changing()
        is_empty = not os.path.lexists(config.paths.state)
        if is_empty:
            pruned = preview_pruning(config, age_s=age_s)
        else:
            pruned = prune(config, age_s=age_s, warn=invocation.warn)
    if json:
        emit_json(dry_run=dry_run, **pruned_json(pruned))
    else:
        title = "WOULD REMOVE" if dry_run else "REMOVED"
        rows = [
            [_NOUNS[one.kind], str(one.number), format_size(one.bytes)] for one in pruned.removed
        ]
        lines = ["nothing is old enough to be removed"]
        if rows:
            lines = format_table(["WHAT", title, "SIZE"], rows, invocation.page)
        invocation.answer("\n".join(lines))
    if pruned.is_more and not dry_run:
        invocation.note("there is more to remove: run it again")
    return EXIT_DONE


def pruned_json(pruned: Pruned) -> dict[str, Any]:
    """Return what was removed, kind by kind."""
    return {
        "removed": [
            {"kind": one.kind.value, "number": one.number, "bytes": one.bytes}
            for one in pruned.removed
        ],
        "bytes": sum(one.bytes for one in pruned.removed),
        "more": pruned.is_more,
    }


def reset(
    context: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: _Json = False,
) -> int:
    """Remove every task, every schedule and all history.

    Refused while anything runs.  A copy of the database is kept; logs, settings and
    pauses stay, but for those of schedules.
    """
    invocation: Invocation = context.obj
    from tinyscheduler.adapters.sqlite.database import Access
    from tinyscheduler.app.pruning import reset
    from tinyscheduler.app.queue import open_queue

    config = invocation.configure_changing()
    # Without a database there may be leases all the same.
    is_empty = not os.path.lexists(config.paths.state)
    queue = open_queue(config, Access.READ if is_empty else Access.WRITE)
    if is_empty:
        _tell_reset(invocation, queue, Emptied(tasks=0, attempts=0, copy=None), as_json=json)
        return EXIT_DONE
    if not yes and not _is_confirmed(queue):
        invocation.note("nothing was changed")
        return EXIT_FAILED
    done = reset(queue, warn=invocation.warn)
    _announce(queue, done.tasks)
    _tell_reset(invocation, queue, done, as_json=json)
    return EXIT_DONE


def _tell_reset(invocation: Invocation, queue: Queue, done: Emptied, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            tasks_removed=done.tasks,
            attempts_removed=done.attempts,
            metrics_removed=done.metrics,
            schedules_removed=done.schedules,
            copy=done.copy,
            reset_at=format_time(queue.clock.now().wall),
        )
    else:
        removed = f"{count(done.tasks, 'task')} and {count(done.attempts, 'attempt')} removed"
        if done.schedules:
            removed = f"{count(done.schedules, 'schedule')}, {removed}"
        kept = "" if done.copy is None else f"; a copy of the database is kept: {done.copy}"
        invocation.answer(removed + kept)


def _is_confirmed(queue: Queue) -> bool:
    """Say what would go, and ask at a terminal; UsageError where nobody can answer."""
    from tinyscheduler.app.pruning import preview_reset

    found = preview_reset(queue)
    states = ", ".join(
        f"{number} {state}" for state, number in queue.tasks.counts().items() if number
    )
    parts = [f"{count(found.tasks, 'task')} ({states})"] if found.tasks else ["no task"]
    others = {"attempt": found.attempts, "measurement": found.metrics, "schedule": found.schedules}
    parts += [count(number, noun) for noun, number in others.items() if number]
    everything = f"{', '.join(parts)} of {queue.config.paths.base}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"reset would remove {everything}", hint="if that is meant: reset --yes")
    tell(f"This removes {everything}.")
    return ask("Go on?")


def _announce(queue: Queue, tasks: int) -> None:
    from tinyscheduler.app.queue import announce_event

    announce_event(queue, EventName.RESET, details=(("tasks", tasks),))
