"""How well did it go?  Waits, slowdown, starvation, use and fairness of a course, and of two."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from tinyscheduler.core.workload import measure_spread
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tinyscheduler.simulator.forecast.play import AttemptCourse, Course, TaskCourse

# A task as short as that is not called slowed down for waiting as long as it runs: the bound of
# the "bounded slowdown" of batch systems.
_LEAST_RUN_S = 10.0
# Starved is who waits longer than that, and so many times longer than the middle one.
_STARVED_S, _STARVED_TIMES = 3600.0, 10.0
# What is earlier or later by less is the same.
_MOMENT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How many tasks waited how long, in seconds, and how much that slowed them down.

    Percentiles are by nearest rank.  Whoever never started waited until the end.  The slowdown of
    a task is (wait + run) / run, of a run taken for ten seconds where it is shorter; at least 1.
    """

    tasks: int
    mean_s: float
    p50_s: float
    p95_s: float
    max_s: float
    slowdown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is told of a course.

    ``slots_used`` and ``gpus_used`` are shares of what there was until the last attempt ended;
    None where there is no GPU.  The fairness is Jain's index over the mean slowdown of each, from
    1 for all alike down to 1/n; None where there are fewer than two.  ``starved`` waited longer
    than ``starved_from_s``, an hour and ten times the median, or never started.
    """

    waits: Waits
    never_started: int
    starved: int
    starved_from_s: float
    span_s: float
    slots_used: float
    gpus_used: float | None
    fairness_agents: float | None
    fairness_tenants: float | None
    agents: Mapping[str, Waits]
    tenants: Mapping[str, Waits]
    faults: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A task that starts at another time.  ``later_s`` is negative where it is earlier.

    A start that never comes is one at the end.
    """

    name: str
    title: str | None
    agent: str | None
    before_s: float | None
    after_s: float | None
    later_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What starts earlier or later, the furthest first, and how many start when they did."""

    earlier: tuple[Move, ...]
    later: tuple[Move, ...]
    same: int


def measure(course: Course, *, beside: Figures | None = None) -> Figures:
    """Sum up a course; starved is who would be called so in the one that it stands ``beside``."""
    waits = {one.name: _wait_s(one, course) for one in course.tasks}
    known = [one for one in course.tasks if waits[one.name] is not None]
    everyone = _waits(known, waits)
    bound_s = max(_STARVED_S, _STARVED_TIMES * everyone.p50_s)
    if beside is not None:
        bound_s = beside.starved_from_s
    never = sum(one.started_s is None for one in course.tasks)
    starved = never + sum(
        one.started_s is not None and (waits[one.name] or 0.0) > bound_s for one in known
    )
    agents = _by(known, waits, lambda one: one.agent)
    tenants = _by(known, waits, lambda one: one.tenant)
    site = course.load.site
    gpus = [one for one in site.gpus.gpus if one.fault is None]
    return Figures(
        waits=everyone,
        never_started=never,
        starved=starved,
        starved_from_s=bound_s,
        span_s=course.ended_s,
        slots_used=_share(
            sum(map(_took_s, course.attempts)), site.settings.rules.host_slots, course
        ),
        gpus_used=_share(
            sum(_took_s(one) * one.gpu_share for one in course.attempts), len(gpus), course
        )
        if gpus
        else None,
        fairness_agents=_fairness(agents),
        fairness_tenants=_fairness(tenants),
        agents=agents,
        tenants=tenants,
        faults=sum(one.times for one in course.faults),
    )


def compare_starts(before: Course, after: Course) -> Moves:
    """Return which tasks start earlier or later; both courses are of one load."""
    old = {one.name: one for one in before.tasks}
    moves = []
    for new in after.tasks:
        was = old[new.name]
        if was.started_s is None and new.started_s is None:
            continue
        was_s = before.ended_s if was.started_s is None else was.started_s
        now_s = after.ended_s if new.started_s is None else new.started_s
        moves.append(
            Move(
                name=new.name,
                title=new.title,
                agent=new.agent or was.agent,
                before_s=was.started_s,
                after_s=new.started_s,
                later_s=now_s - was_s,
            )
        )
    moves.sort(key=lambda one: -abs(one.later_s))
    return Moves(
        earlier=tuple(one for one in moves if one.later_s < -_MOMENT_S),
        later=tuple(one for one in moves if one.later_s > _MOMENT_S),
        same=len(after.tasks) - sum(abs(one.later_s) > _MOMENT_S for one in moves),
    )


def waiting_over_time(course: Course) -> list[tuple[float, int]]:
    """Return how many tasks waited from which second on."""
    edges = []
    for one in course.tasks:
        if one.ready_s is not None:
            edges.append((one.ready_s, 1))
            if one.started_s is not None:
                edges.append((one.started_s, -1))
    return _steps(edges)


def running_on_average(course: Course, width_s: float) -> list[float]:
    """Return how many slots were in use on the average of each stretch of so many seconds."""
    # What division leaves over is no stretch of its own.
    levels = [0.0] * max(1, math.ceil(course.ended_s / width_s - 1e-6))
    for one in course.attempts:
        place = int(one.started_s / width_s)
        while place < len(levels) and place * width_s < one.ended_s:
            begin_s, end_s = place * width_s, (place + 1) * width_s
            shared_s = min(one.ended_s, end_s) - max(one.started_s, begin_s)
            levels[place] += max(0.0, shared_s) / width_s
            place += 1
    return levels


def waits_in_order(course: Course) -> list[float]:
    """Return how long each task waited, the shortest first.  Seconds."""
    found = (_wait_s(one, course) for one in course.tasks)
    return sorted(one for one in found if one is not None)


def _steps(edges: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    level, steps = 0, [(0.0, 0)]
    for at_s, change in sorted(edges):
        level += change
        if steps[-1][0] == at_s:
            steps[-1] = (at_s, level)
        else:
            steps.append((at_s, level))
    first = steps[:1]
    return first + [after for before, after in pairwise(steps) if after[1] != before[1]]


def _wait_s(one: TaskCourse, course: Course) -> float | None:
    if one.ready_s is None:
        return None
    until_s = course.ended_s if one.started_s is None else one.started_s
    return max(0.0, until_s - one.ready_s)


def _waits(tasks: Sequence[TaskCourse], waits: Mapping[str, float | None]) -> Waits:
    waited = [waits[one.name] or 0.0 for one in tasks]
    spread = measure_spread(waited)
    if spread is None:
        return Waits(tasks=0, mean_s=0.0, p50_s=0.0, p95_s=0.0, max_s=0.0, slowdown=1.0)
    slowdowns = map(_slowdown, waited, (one.runs_s for one in tasks))
    return Waits(
        tasks=spread.number,
        mean_s=math.fsum(waited) / spread.number,
        p50_s=spread.median_s,
        p95_s=spread.p95_s,
        max_s=max(waited),
        slowdown=math.fsum(slowdowns) / spread.number,
    )


def _slowdown(wait_s: float, runs_s: float) -> float:
    return max(1.0, (wait_s + runs_s) / max(runs_s, _LEAST_RUN_S))


def _by(
    tasks: Sequence[TaskCourse],
    waits: Mapping[str, float | None],
    key: Callable[[TaskCourse], str | None],
) -> Mapping[str, Waits]:
    groups: dict[str, list[TaskCourse]] = {}
    for one in tasks:
        name = key(one)
        if name is not None:
            groups.setdefault(name, []).append(one)
    return {name: _waits(groups[name], waits) for name in sorted(groups)}


def _fairness(groups: Mapping[str, Waits]) -> float | None:
    means = [one.slowdown for one in groups.values()]
    if len(means) < 2:  # noqa: PLR2004 - one alone is as well off as all
        return None
    return math.fsum(means) ** 2 / (len(means) * math.fsum(one * one for one in means))


def _took_s(one: AttemptCourse) -> float:
    return one.ended_s - one.started_s


def _share(used_s: float, of: int, course: Course) -> float:
    # Not to the end of the course: for whoever never starts that is days of nothing.
    until_s = max((one.ended_s for one in course.attempts), default=0.0)
    return used_s / (of * until_s) if of and until_s else 0.0
