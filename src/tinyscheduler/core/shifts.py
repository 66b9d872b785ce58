"""Which smallest shifts of schedules leave no collision?

Each schedule is moved once at most, by whole minutes: the minute field of its cron expression, or
the anchor of its interval.  What is found for few schedules is the least in all; of many that
hang together what is found within a bounded number of steps.  Both are the same each time.
"""

from __future__ import annotations

from datetime import timedelta
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING

from tinyscheduler.core.collisions import MOST_SHIFT_S, Board, Cell, Group, course_of
from tinyscheduler.core.cron import read_cron
from tinyscheduler.core.expansion import BUCKET_S, seconds_of
from tinyscheduler.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tinyscheduler.core.collisions import Collision, Course, Room
    from tinyscheduler.core.cron import Cron
    from tinyscheduler.model.schedules import Schedule

MOST_MINUTES = MOST_SHIFT_S // 60
_HOUR = 60
# A few seconds for all, of which one group of schedules has a part to find its best answer.
MOST_STEPS = 6_000_000
_STEPS_FOR_BEST = 600_000
_STEPS_OF_A_WAY = 8  # to be kept in order
# Of more that collide with each other the least is not looked for.
_MOST_FOR_BEST = 16
_EVENLY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A schedule as it is and as it is proposed: so many minutes later, or earlier."""

    before: Schedule
    after: Schedule
    minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Shifts, and what collides still with them; ``is_least`` where no fewer minutes would do."""

    shifts: tuple[Shift, ...]
    left: tuple[Collision, ...]
    is_least: bool

    @property
    def minutes(self) -> int:
        """How many minutes all of them take together."""
        return sum(abs(one.minutes) for one in self.shifts)


def propose(
    courses: Sequence[Course],
    room: Room,
    *,
    most_minutes: int = MOST_MINUTES,
    most_steps: int = MOST_STEPS,
) -> Proposal:
    """Return the smallest shifts, of at most so many minutes each, that remove the collisions.

    It ends after ``most_steps``, each of which looks at a bucket, or not much later.
    """
    search = _Search(courses, room, most_minutes, most_steps)
    found = search.run()
    shifts = []
    shifted = []
    for course in courses:
        after = moved(course.schedule, found[course.name]) if course.name in found else None
        if after is None:
            shifted.append(course)
            continue
        shifts.append(Shift(before=course.schedule, after=after, minutes=found[course.name]))
        shifted.append(course_of(after, course.weight, course.stretch))
    # As it will really be: what a change of the clock makes of a shift was not looked at.
    left = tuple(Board(shifted, room).collisions())
    return Proposal(shifts=tuple(shifts), left=left, is_least=search.is_least and not left)


def moved(schedule: Schedule, minutes: int) -> Schedule | None:
    """Return a schedule that fires so much later, or earlier; None for one that cannot.

    One that fires once is meant for just that time.  A cron expression is moved within its hours,
    unless it has all of them, and within its active hours; an interval only without such.
    """
    timing = schedule.timing
    if minutes not in _movable(schedule, (minutes,)):
        return None
    if timing.cron is None:
        return replace(schedule, anchor=schedule.anchor + timedelta(minutes=minutes))
    return replace(schedule, timing=replace(timing, cron=move_cron(timing.cron, minutes)))


def move_cron(expression: str, minutes: int) -> str | None:
    """Return an expression whose times come so many minutes later; None where there is none.

    >>> move_cron("30 2 * * *", -7), move_cron("*/15 * * * *", 2), move_cron("50 2 * * *", 20)
    ('23 2 * * *', '2-59/15 * * * *', None)
    """
    cron = read_cron(expression)
    later = _minutes_of_hour(cron, minutes)
    return None if later is None else " ".join((_minute_field(later), *cron.fields[1:]))


def _movable(schedule: Schedule, minutes: Iterable[int]) -> list[int]:
    """Return by how many of these minutes a schedule can be moved."""
    timing, hours = schedule.timing, schedule.timing.active_hours
    if timing.cron is None:
        return list(minutes) if timing.every_s is not None and hours is None else []
    cron = read_cron(timing.cron)
    found = []
    for number in minutes:
        later = _minutes_of_hour(cron, number)
        if later is None:
            continue
        if hours is not None:
            times = [
                [_HOUR * hour + one for hour in cron.hours for one in of_hour]
                for of_hour in (cron.minutes, later)
            ]
            before, after = (sum(map(hours.include, one)) for one in times)
            if before != after:
                continue
        found.append(number)
    return found


def _minutes_of_hour(cron: Cron, minutes: int) -> list[int] | None:
    """Return the minutes of the hour that it names so much later; None if it would leave it."""
    later = sorted(one + minutes for one in cron.minutes)
    if later[0] >= 0 and later[-1] < _HOUR:
        return later
    if not cron.names_every_hour or cron.fields[2:] != ("*", "*", "*"):
        return None  # with its hour it would leave its day
    return sorted(one % _HOUR for one in later)


def _minute_field(minutes: list[int]) -> str:
    """Return the shortest field that names these minutes.

    >>> _minute_field([5]), _minute_field([5, 20, 35, 50]), _minute_field([0, 30])
    ('5', '5-59/15', '0,30')
    """
    steps = {later - earlier for earlier, later in pairwise(minutes)}
    if len(minutes) >= _EVENLY and len(steps) == 1:
        step = steps.pop()
        if minutes[0] < step and minutes[-1] + step >= _HOUR:
            return f"*/{step}" if minutes[0] == 0 else f"{minutes[0]}-59/{step}"
    return ",".join(map(str, minutes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One way to move a schedule: by so many minutes, into these buckets."""

    minutes: int
    buckets: Mapping[Group, frozenset[int]]


# Who is moved by how many minutes: equal for ways that differ in the order alone.
_Key = tuple[tuple[str, int], ...]
# Where one of some weight would be.
_Place = tuple[tuple[tuple[Group, int], ...], tuple[frozenset[int], ...]]


class _Search:
    """Moves schedules on a board until nothing is over, and notes by how much."""

    def __init__(
        self, courses: Sequence[Course], room: Room, most_minutes: int, most_steps: int
    ) -> None:
        self._courses = {one.name: one for one in courses}
        self._board = Board(courses, room)
        self._most_minutes = most_minutes
        self._most_steps = most_steps
        self._options: dict[str, tuple[_Option, ...]] = {}
        self._home: dict[str, Mapping[Group, frozenset[int]]] = {
            one.name: {group: one.buckets(group[0]) for group in one.amounts()} for one in courses
        }
        self._amounts = {one.name: one.amounts() for one in courses}
        self._at = dict(self._home)
        self._hopeless: frozenset[Cell] = frozenset()
        self._steps = 0
        self.is_least = True

    def run(self) -> dict[str, int]:
        """Return by how many minutes which schedules are to be moved."""
        found: dict[str, int] = {}
        self._hopeless = frozenset(filter(self._is_hopeless, list(self._board.cells_over())))
        for cells in self._groups_over():
            best = self._best(cells)
            if best is None:
                self.is_least = False
                found |= self._good(cells)
            else:
                for name, option in best.items():
                    self._move(name, option.buckets)
                found |= {name: option.minutes for name, option in best.items()}
        return found

    # -- what hangs together ------------------------------------------------------

    def _groups_over(self) -> list[list[Cell]]:
        """Return the cells with too much, apart where nobody can move from one group to another."""
        over = sorted(set(self._board.cells_over()) - self._hopeless, key=_place)
        if not over:
            return []
        leader: dict[str, str] = {}

        def lead(name: str) -> str:
            while leader.setdefault(name, name) != name:
                leader[name] = leader[leader[name]]
                name = leader[name]
            return name

        reach = -(-self._most_minutes * 60 // BUCKET_S)
        first: dict[Cell, str] = {}
        for name, home in self._home.items():
            for group, buckets in home.items():
                for bucket in {one + far for one in buckets for far in range(-reach, reach + 1)}:
                    other = first.setdefault((group, bucket), name)
                    leader[lead(name)] = lead(other)
        groups: dict[str, list[Cell]] = {}
        for cell in over:
            groups.setdefault(lead(min(self._board.who(cell))), []).append(cell)
        return list(groups.values())

    def _is_hopeless(self, cell: Cell) -> bool:
        """Whether those that cannot leave a cell take too much there by themselves."""
        group, bucket = cell
        who = self._board.who(cell)
        stay = [
            name
            for name in who
            if all(bucket in option.buckets.get(group, ()) for option in self._options_of(name))
        ]
        return self._board.is_too_much(group, [who[name] for name in stay])

    # -- the least ----------------------------------------------------------------

    def _best(self, cells: Sequence[Cell]) -> dict[str, _Option] | None:
        """Return the moves of the fewest minutes; None where that would take too long, or none do.

        Whoever removes the first collision must move one of those in it, away from there: so all
        ways are gone through in the order of what they cost.
        """
        if len({name for cell in cells for name in self._board.who(cell)}) > _MOST_FOR_BEST:
            return None
        limit = min(self._most_steps, self._steps + _STEPS_FOR_BEST)
        heap: list[tuple[int, _Key, int, dict[str, _Option]]] = [(0, (), 0, {})]
        seen: set[_Key] = set()
        while heap and self._steps < limit:
            cost, key, _, moves = heappop(heap)
            if key in seen:
                continue
            seen.add(key)
            cell = self._first_over(moves, cells)
            if cell is None:
                return moves
            for name, option in self._ways_out(cell, moves):
                more = {**moves, name: option}
                key = tuple(sorted((one, way.minutes) for one, way in more.items()))
                self._steps += _STEPS_OF_A_WAY + len(more)
                heappush(heap, (cost + abs(option.minutes), key, self._steps, more))
        return None

    def _first_over(self, moves: Mapping[str, _Option], cells: Sequence[Cell]) -> Cell | None:
        """Return the first cell with too much once these have moved."""
        for name, option in moves.items():
            self._move(name, option.buckets)
        changed = {
            (group, bucket)
            for option in moves.values()
            for group, buckets in option.buckets.items()
            for bucket in buckets
        }
        looked_at = {*cells, *changed} - self._hopeless
        over = [cell for cell in looked_at if self._board.is_over(cell)]
        for name in moves:
            self._move(name, self._home[name])
        self._steps += len(cells) + 3 * len(changed)
        return min(over, key=_place, default=None)

    def _ways_out(self, cell: Cell, moves: Mapping[str, _Option]) -> Iterator[tuple[str, _Option]]:
        """Yield who can be moved out of a cell, and how; whoever is moved already stays there."""
        group, bucket = cell
        # Those that are moved stand at home by now, and the others where they always do.
        for name in sorted(self._board.who(cell).keys() - moves.keys()):
            for option in self._options_of(name):
                if bucket not in option.buckets.get(group, ()):
                    yield name, option

    # -- a good one ---------------------------------------------------------------

    def _good(self, cells: Sequence[Cell]) -> dict[str, int]:
        """Move one after the other, each by what removes a collision and makes none."""
        found: dict[str, int] = {}
        for cell in cells:
            moves: dict[str, int] = {}
            full: set[_Place] = set()
            while self._board.is_over(cell):
                way = self._best_way_out(cell, {**found, **moves}, full)
                if way is None:
                    # Whoever was moved was so for nothing.
                    for name in moves:
                        self._move(name, self._home[name])
                    moves = {}
                    break
                name, option = way
                self._move(name, option.buckets)
                moves[name] = option.minutes
            found |= moves
        return found

    def _best_way_out(
        self, cell: Cell, moves: Mapping[str, int], full: set[_Place]
    ) -> tuple[str, _Option] | None:
        """Return who leaves a cell by the fewest minutes and without a new collision.

        ``full`` is where somebody of that weight would have collided: nobody is tried there again.
        """
        group, bucket = cell
        names = sorted(name for name in self._board.who(cell) if name not in moves)
        ways = [
            (abs(option.minutes), name, option.minutes, option)
            for name in names
            for option in self._options_of(name)
            if bucket not in option.buckets.get(group, ())
        ]
        for _, name, _, option in sorted(ways, key=lambda way: way[:3]):
            place = (tuple(self._amounts[name].items()), tuple(option.buckets.values()))
            if place in full:
                continue
            if self._steps >= self._most_steps:
                break
            self._move(name, option.buckets)
            is_clean = not any(
                self._board.is_over((one, number))
                for one, buckets in option.buckets.items()
                for number in buckets
            )
            self._move(name, self._home[name])
            self._steps += 3 * sum(map(len, option.buckets.values()))
            if is_clean:
                return name, option
            full.add(place)
        return None

    # -- the board ----------------------------------------------------------------

    def _options_of(self, name: str) -> tuple[_Option, ...]:
        """Return the ways to move a schedule that differ, those of the fewest minutes first."""
        if name not in self._options:
            self._options[name] = tuple(self._find_options(self._courses[name]))
        return self._options[name]

    def _find_options(self, course: Course) -> Iterator[_Option]:
        if course.slots.is_dense:
            return  # it comes in each bucket, whenever it begins
        seen = {tuple(self._home[course.name].values())}
        sizes = range(1, self._most_minutes + 1)
        last, expires = course.slots.seconds[-1:], course.schedule.expires_at
        for minutes in _movable(course.schedule, (one for size in sizes for one in (size, -size))):
            if expires is not None and last and last[0] + 60 * minutes >= seconds_of(expires):
                continue  # its last time would be lost
            buckets = {group: course.buckets(group[0], 60 * minutes) for group in course.amounts()}
            self._steps += sum(map(len, buckets.values()))
            if (key := tuple(buckets.values())) not in seen:
                seen.add(key)
                yield _Option(minutes=minutes, buckets=buckets)

    def _move(self, name: str, buckets: Mapping[Group, frozenset[int]]) -> None:
        """Let a schedule take these buckets in place of those that it has."""
        for group, amount in self._amounts[name].items():
            self._board.take(name, group, self._at[name][group])
            self._board.put(name, group, amount, buckets[group])
        self._at[name] = buckets


def _place(cell: Cell) -> tuple[int, str, str]:
    (kind, project), bucket = cell
    return bucket, kind, project or ""
