"""Is what is decided now what was decided then, and where not?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyscheduler.model.plan import (
    AwaitSource,
    Dispatch,
    EndTree,
    Keep,
    PassOnCancel,
    Reclaim,
    RepairLost,
    Settle,
    SettleUnreadable,
    Suspect,
    Sweep,
    SweepCancel,
    Wait,
)
from tinyscheduler.model.resources import format_size
from tinyscheduler.values import dataclass, fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tinyscheduler.model.plan import Decision, Plan, Verdict

    Said = Verdict | Decision
    # What it is, a second name where several are called so, and the task it is about.
    Subject = tuple[str, str, str | None]

_ORDERS: Mapping[type, str] = {
    Settle: "settle, {0.result.outcome}",
    SettleUnreadable: "settle, nobody can read how it ended",
    AwaitSource: "keep its result until source {0.source} answers",
    Reclaim: "give back, {0.reason}",
    EndTree: "end its processes, {0.reason}",
    Suspect: "note that its heartbeat is stale",
    Keep: "leave alone",
    RepairLost: "give back, lost",
    Sweep: "remove its lock",
    PassOnCancel: "pass on to its attempt",
    SweepCancel: "remove",
    Wait: "wait, {0.reason}: {0.words}",
}
# Fields of a plan of which each part has a subject of its own.
_TOLD_ONE_BY_ONE = frozenset({"verdicts", "decisions"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What two plans say differently, each in its words; ``task_id`` is None if of no task."""

    what: str
    task_id: str | None
    recorded: str
    derived: str


def compare(recorded: Plan, derived: Plan) -> tuple[Difference, ...]:
    """Return where the plans differ; nothing if, and only if, they are equal."""
    then, now = _by_subject(recorded), _by_subject(derived)
    found = [
        _differ(subject, then.get(subject, []), now.get(subject, []))
        for subject in dict.fromkeys((*then, *now))
        if then.get(subject) != now.get(subject)
    ]
    for field in fields(recorded):
        values = getattr(recorded, field.name), getattr(derived, field.name)
        if field.name not in _TOLD_ONE_BY_ONE and values[0] != values[1]:
            found.append(_about_plan(field.name.replace("_", " "), *map(repr, values)))
    if not found and recorded != derived:
        # Starts happen in the order of the plan, and what comes last may find nothing left.
        found.append(_about_plan("the order", _order_of(recorded), _order_of(derived)))
    return tuple(found)


def tell(said: Said) -> str:
    """Say what was decided about one attempt or task, as an order."""
    if isinstance(said, Dispatch):
        words = f"start attempt {said.task.attempt} by agent {said.agent}"
        if said.needs.memory_bytes:
            words += f", {format_size(said.needs.memory_bytes)} of memory"
        if said.gpu_uuids:
            words += f", GPU {' and '.join(said.gpu_uuids)}"
        if said.overtakes:
            words += f", before {', '.join(task.task_id for task in said.overtakes)}"
        return words
    return _ORDERS[type(said)].format(said)


def subject_of(said: Said) -> Subject:
    """Return what a plan says something about."""
    match said:
        case SweepCancel(lease_id=lease_id):
            return f"request to end attempt {lease_id}", lease_id, None
        case PassOnCancel(claim=claim):
            return f"wish to cancel task {claim.task_id}", claim.source, claim.task_id
        case RepairLost(claim=claim):
            return f"attempt at task {claim.task_id}", "", claim.task_id
        case SettleUnreadable(entry=None, result=unreadable):
            return f"result of attempt {unreadable.lease_id}", "", None
        case Settle(result=result):
            return f"attempt at task {result.task_id}", "", result.task_id
        case EndTree(trace=trace):
            return f"attempt at task {trace.task_id}", "", trace.task_id
        case Dispatch(task=task) | Wait(task=task):
            return f"task {task.task_id}", task.source, task.task_id
        case _:
            entry = said.entry
            assert entry is not None  # noqa: S101 - the one kind that may have none is told above
            return f"attempt at task {entry.task_id}", "", entry.task_id


def _by_subject(plan: Plan) -> dict[Subject, list[Said]]:
    found: dict[Subject, list[Said]] = {}
    for one in (*plan.verdicts, *plan.decisions):
        found.setdefault(subject_of(one), []).append(one)
    return found


def _differ(subject: Subject, then: list[Said], now: list[Said]) -> Difference:
    recorded, derived = _tell_all(then), _tell_all(now)
    if recorded == derived:
        recorded, derived = _details(then, now), _details(now, then)
    return Difference(what=subject[0], task_id=subject[2], recorded=recorded, derived=derived)


def _tell_all(said: Iterable[Said]) -> str:
    return "; ".join(map(tell, said)) or "nothing"


def _details(said: Iterable[Said], others: Iterable[Said]) -> str:
    """Say one side of what differs between those that are told alike."""
    return "; ".join(
        f"{tell(one)}: {field.name} {getattr(one, field.name)!r}"
        for one, other in zip(said, others, strict=False)
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    )


def _about_plan(what: str, recorded: str, derived: str) -> Difference:
    return Difference(what=what, task_id=None, recorded=recorded, derived=derived)


def _order_of(plan: Plan) -> str:
    return ", ".join(what for what, _, _ in map(subject_of, (*plan.decisions, *plan.verdicts)))
