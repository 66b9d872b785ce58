"""What a tick reads and what it makes of it: DESIGN.md 5.2 to 5.7, and section 4's table.

One kind of thing is read in one step for all tasks; between two kinds anything may
happen.  Judging is pure and takes no step of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.protocol.world import (
    NO_LEASE,
    Job,
    Lease,
    Row,
    command_of,
    is_lock_held,
    wrapper_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.protocol.rules import Rules, Scenario
    from tests.protocol.world import Task, World


class Evidence(NamedTuple):
    """What `/proc` shows of an attempt."""

    wrapper_lives: bool
    is_stale: bool
    survivors: bool


NOTHING_SEEN = Evidence(wrapper_lives=True, is_stale=False, survivors=False)


class Seen(NamedTuple):
    """One look at everything; each field has one entry per task."""

    locks: tuple[str, ...]
    leases: tuple[Lease | None, ...]
    results: tuple[frozenset[int], ...]
    source: tuple[Row, ...]
    processes: tuple[tuple[Evidence, ...], ...]  # by lease number


def _see_locks(world: World) -> tuple[str, ...]:
    return tuple(
        "none" if not task.lock else "held" if is_lock_held(task) else "free"
        for task in world.tasks
    )


def _see_processes(world: World) -> tuple[tuple[Evidence, ...], ...]:
    return tuple(
        tuple(_evidence(world, index, lease) for lease in range(task.leases + 1))
        for index, task in enumerate(world.tasks)
    )


# A wrapper that let go is none any more: it may be a tick by now, perhaps the one that looks.
_HOLDING = {"write running", "look for cancel", "start command", "watch", "write result", "let go"}


def _evidence(world: World, index: int, lease: int) -> Evidence:
    wrapper = wrapper_of(world, index, lease)
    return Evidence(
        wrapper_lives=wrapper is not None and wrapper.at in _HOLDING,
        is_stale=wrapper is not None and wrapper.is_stale,
        survivors=command_of(world, index, lease) is not None,
    )


SEE: dict[str, Callable[[World], tuple[object, ...]]] = {
    "locks": _see_locks,
    "leases": lambda world: tuple(task.lease for task in world.tasks),
    "results": lambda world: tuple(
        frozenset(lease for lease, _ in task.results) for task in world.tasks
    ),
    "source": lambda world: tuple(task.row for task in world.tasks),
    "processes": _see_processes,
}


def as_seen(readings: dict[str, tuple[object, ...]]) -> Seen:
    """Put the readings of one look together, in whatever order they were made."""
    return Seen(**readings)  # type: ignore[arg-type]  # SEE's keys are Seen's fields


def plan(world: World, seen: Seen, rules: Rules, scenario: Scenario) -> list[Job]:
    """Judge what there is, then give the slots that are free to tasks that wait."""
    jobs: list[Job] = []
    used = 0
    for index, task in enumerate(world.tasks):
        verdicts, keeps_slot = _judge(index, task, seen, rules)
        jobs += verdicts
        used += keeps_slot
    for index, row in enumerate(seen.source):
        is_free = seen.leases[index] is None and seen.locks[index] != "held"
        if row.state == "waiting" and is_free and used < scenario.slots:
            used += 1
            jobs.append(Job("start", index, attempt=row.attempt))
    return jobs


def _judge(index: int, task: Task, seen: Seen, rules: Rules) -> tuple[list[Job], bool]:
    """Return what to do about one task, and whether it keeps its slot meanwhile."""
    lease, row, results = seen.leases[index], seen.source[index], seen.results[index]
    claim = row.lease if row.state == "working" else NO_LEASE
    current = lease.lease if lease is not None else claim
    # A result of another lease: a crash came between removing the lease and the result.
    jobs = [Job("settle", index, of) for of in sorted(results) if of != current]
    if current == NO_LEASE:
        if seen.locks[index] == "free" and not jobs:
            jobs.append(Job("sweep", index))
        return jobs, seen.locks[index] == "held"
    # A lease that is younger than the look at the processes is not judged by it.
    known = seen.processes[index]
    evidence = known[current] if current < len(known) else NOTHING_SEEN
    if seen.locks[index] == "held":
        jobs += _judge_held(index, current, task, seen, evidence, rules)
        return jobs, True
    job, keeps_slot = _judge_free(index, current, seen, evidence, rules)
    return [*jobs, job], keeps_slot


def _judge_free(
    index: int, current: int, seen: Seen, evidence: Evidence, rules: Rules
) -> tuple[Job, bool]:
    """Nothing holds the lock: the attempt is over, unless something of it shed the lock."""
    lease, is_recorded = seen.leases[index], current in seen.results[index]
    looks = rules.looks_for_survivors_of_results if is_recorded else rules.looks_for_survivors
    if looks and evidence.survivors:
        return Job("end", index, current, because="survivors"), True
    if is_recorded:
        return Job("settle", index, current), False
    if lease is None:
        return Job("repair", index, current), False
    return Job("reclaim", index, current, because=lease.state), True


def _judge_held(
    index: int, current: int, task: Task, seen: Seen, evidence: Evidence, rules: Rules
) -> list[Job]:
    """Something holds the lock: keep the slot, and end what nobody looks after any more."""
    lease = seen.leases[index]
    if lease is None:
        # Its wrapper cannot be told from a left-over.  A recorded result ends that doubt.
        is_over = current in seen.results[index] and not evidence.wrapper_lives
        return [Job("end", index, current, because="leftover")] if is_over else []
    # The number of a wrapper that is only starting is not known yet: nothing says it is dead.
    if not evidence.wrapper_lives and lease.state == "running":
        return [Job("end", index, current, because="leftover")]
    if not evidence.is_stale:
        return []
    if rules.sightings == 1:
        return [Job("end", index, current, because="stale")]
    if task.sighting is None or task.sighting.lease != current:
        return [Job("suspect", index, current)]
    return [Job("end", index, current, because="stale")] if task.sighting.is_old else []
