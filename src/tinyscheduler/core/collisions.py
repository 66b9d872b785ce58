"""Which schedules come at the same time, and is what they take together too much?"""

from __future__ import annotations

from enum import StrEnum
from heapq import nlargest
from typing import TYPE_CHECKING

from tinyscheduler.core.expansion import BUCKET_S, Slots, expand, moment_of, seconds_of
from tinyscheduler.model.schedules import ScheduleState
from tinyscheduler.values import assert_never, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime, timedelta

    from tinyscheduler.model.schedules import Schedule

# Of all schedules of a project in five minutes together; so many turns are too many.
TOO_MANY_TURNS = 3000
# How far a schedule is moved at most, and so how far around a stretch of time to look.
MOST_SHIFT_S = 1800
_LONGEST_RUN_S = 86_400.0


class Kind(StrEnum):
    """Of what there is too much."""

    TURNS = "cron_collision"  # of agents, by the beginnings of firings of one project
    MEMORY = "memory_collision"  # of the machine, by firings that run
    VRAM = "vram_collision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What a firing takes: turns, seconds, bytes."""

    turns: int = 0
    run_s: float = 0.0
    memory_bytes: int = 0
    vram_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What there is: how many firings run at once, and bytes; None where nobody knows."""

    firings: int
    memory_bytes: int | None = None
    vram_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The time that is looked at, in buckets of five minutes since 1970; the end is none of it."""

    begin: int
    end: int

    @classmethod
    def starting(cls, now: datetime, length: timedelta) -> Stretch:
        """Return the time from the bucket of a moment on."""
        begin = seconds_of(now) // BUCKET_S
        return cls(begin=begin, end=begin + int(length.total_seconds()) // BUCKET_S)


# What is counted together: turns by project, memory and VRAM of the whole machine.
Group = tuple[Kind, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One schedule's firings around a stretch of time, and what each of them takes."""

    schedule: Schedule
    weight: Weight
    slots: Slots
    stretch: Stretch

    @property
    def name(self) -> str:
        """The name of the schedule."""
        return self.schedule.schedule_id

    def amounts(self) -> dict[Group, int]:
        """Return what each firing takes of what is counted."""
        found: dict[Group, int] = {
            (Kind.TURNS, self.schedule.spec.project): self.weight.turns,
            (Kind.MEMORY, None): self.weight.memory_bytes,
            (Kind.VRAM, None): self.weight.vram_bytes,
        }
        return {group: amount for group, amount in found.items() if amount > 0}

    def starts(self, shift_s: int = 0) -> frozenset[int]:
        """Return the buckets in which it fires, if it did so many seconds later."""
        begin, end = self.stretch.begin, self.stretch.end
        found = {(one + shift_s) // BUCKET_S for one in self.slots.seconds}
        return frozenset(one for one in found if begin <= one < end)

    def runs(self, shift_s: int = 0) -> frozenset[int]:
        """Return the buckets in which a firing of it runs, if it did so many seconds later."""
        begin, end = self.stretch.begin, self.stretch.end
        length_s = max(0, int(self.weight.run_s) - 1)
        return frozenset(
            bucket
            for one in self.slots.seconds
            for bucket in range(
                max(begin, (one + shift_s) // BUCKET_S),
                min(end, (one + shift_s + length_s) // BUCKET_S + 1),
            )
        )

    def later(self, shift_s: int) -> Course:
        """Return the same so many seconds later."""
        seconds = tuple(one + shift_s for one in self.slots.seconds)
        return replace(self, slots=replace(self.slots, seconds=seconds))

    def buckets(self, kind: Kind, shift_s: int = 0) -> frozenset[int]:
        """Return the buckets in which it takes something of that kind."""
        return self.starts(shift_s) if kind is Kind.TURNS else self.runs(shift_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """Schedules that take too much together, and in which buckets.

    ``amount`` is the most that they take in one of them; of turns, memory or VRAM as ``kind`` says.
    """

    kind: Kind
    names: tuple[str, ...]
    buckets: tuple[int, ...]
    amount: int
    limit: int


def course_of(schedule: Schedule, weight: Weight, stretch: Stretch) -> Course:
    """Return when a schedule fires around a stretch of time; an inactive one never does."""
    slots = Slots()
    if schedule.state is ScheduleState.ACTIVE:
        before = -(-(MOST_SHIFT_S + int(min(weight.run_s, _LONGEST_RUN_S))) // BUCKET_S)
        begin = moment_of((stretch.begin - before) * BUCKET_S)
        end = moment_of(stretch.end * BUCKET_S + MOST_SHIFT_S)
        slots = expand(schedule, begin, end)
    return Course(schedule=schedule, weight=weight, slots=slots, stretch=stretch)


def busy_seconds(courses: Iterable[Course], stretch: Stretch) -> list[float]:
    """Return how long firings run in each bucket, all together, in seconds.

    Each schedule runs once at a time.
    """
    found = [0.0] * (stretch.end - stretch.begin)
    for course in courses:
        seconds, run_s = course.slots.seconds, course.weight.run_s
        for number, slot in enumerate(seconds):
            start: float = slot
            following = seconds[number + 1] if number + 1 < len(seconds) else start + run_s
            # Dense ones come again, and again, before the bucket is over.
            end = min(start + run_s, following) if not course.slots.is_dense else following
            while start < end:
                bucket = int(start // BUCKET_S)
                until = min(end, (bucket + 1) * BUCKET_S)
                if stretch.begin <= bucket < stretch.end:
                    found[bucket - stretch.begin] += until - start
                start = until
    return found


Cell = tuple[Group, int]


class Board:
    """Who takes how much in which bucket, of each that is counted."""

    def __init__(self, courses: Iterable[Course], room: Room) -> None:
        """Put all of them where they are."""
        self._room = room
        self._cells: dict[Cell, dict[str, int]] = {}
        for course in courses:
            for group, amount in course.amounts().items():
                self.put(course.name, group, amount, course.buckets(group[0]))

    def put(self, name: str, group: Group, amount: int, buckets: Iterable[int]) -> None:
        """Let a schedule take so much in these buckets."""
        limit = self.limit(group[0])
        if limit is None or (group[0] is not Kind.TURNS and amount > limit):
            return  # what never fits does not start, and so is in nobody's way
        for bucket in buckets:
            self._cells.setdefault((group, bucket), {})[name] = amount

    def take(self, name: str, group: Group, buckets: Iterable[int]) -> None:
        """Let it take nothing in these."""
        for bucket in buckets:
            self._cells.get((group, bucket), {}).pop(name, None)

    def limit(self, kind: Kind) -> int | None:
        """Return how much there may be in a bucket; None is no bound."""
        match kind:
            case Kind.TURNS:
                return TOO_MANY_TURNS - 1
            case Kind.MEMORY:
                return self._room.memory_bytes
            case Kind.VRAM:
                return self._room.vram_bytes
            case _:
                assert_never(kind)

    def who(self, cell: Cell) -> Mapping[str, int]:
        """Return who takes how much in a bucket."""
        return self._cells.get(cell, {})

    def total(self, group: Group, amounts: Iterable[int]) -> int:
        """Return how much that is at once, at most: no more firings run together than may."""
        return sum(amounts if group[0] is Kind.TURNS else nlargest(self._room.firings, amounts))

    def is_too_much(self, group: Group, amounts: Collection[int]) -> bool:
        """Whether several take too much together; nobody collides alone."""
        limit = self.limit(group[0])
        together = len(amounts) if group[0] is Kind.TURNS else min(len(amounts), self._room.firings)
        return limit is not None and together > 1 and self.total(group, amounts) > limit

    def is_over(self, cell: Cell) -> bool:
        """Whether there is too much in a bucket."""
        return self.is_too_much(cell[0], self.who(cell).values())

    def cells_over(self) -> Iterator[Cell]:
        """Yield where there is too much."""
        return (cell for cell in self._cells if self.is_over(cell))

    def collisions(self) -> list[Collision]:
        """Return who collides where, those that come first before the others."""
        found: dict[tuple[Group, tuple[str, ...]], list[int]] = {}
        for cell in self.cells_over():
            group, bucket = cell
            found.setdefault((group, tuple(sorted(self.who(cell)))), []).append(bucket)
        collisions = [
            self._collision(group, names, buckets) for (group, names), buckets in found.items()
        ]
        return sorted(collisions, key=lambda one: (one.buckets[0], one.kind, one.names))

    def collisions_of(self, course: Course) -> list[Collision]:
        """Return with whom one schedule collides, one for each kind; names are those of others."""
        found = []
        for group in course.amounts():
            cells = [(group, bucket) for bucket in sorted(course.buckets(group[0]))]
            over = [cell for cell in cells if course.name in self.who(cell) and self.is_over(cell)]
            if over:
                names = {name for cell in over for name in self.who(cell)} - {course.name}
                buckets = [bucket for _, bucket in over]
                found.append(self._collision(group, tuple(sorted(names)), buckets))
        return found

    def _collision(self, group: Group, names: tuple[str, ...], buckets: list[int]) -> Collision:
        return Collision(
            kind=group[0],
            names=names,
            buckets=tuple(sorted(buckets)),
            amount=max(self.total(group, self.who((group, bucket)).values()) for bucket in buckets),
            limit=self.limit(group[0]) or 0,
        )
