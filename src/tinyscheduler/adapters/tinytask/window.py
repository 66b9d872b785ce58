"""Which of a server's tasks are looked at?  A bounded number, however many there are."""

from __future__ import annotations

from tinyscheduler.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tinyscheduler.adapters.tinytask.client import TinytaskClient
    from tinyscheduler.adapters.tinytask.documents import RemoteTask

# So many open tasks are told in one answer, all of them in most places.  Every one of them is
# read at every look, and ten thousand must not cost more than a hundred.
HEAD = 200
_MOST_WORKING = 500
# Of one line, where what cannot start stands before what can; each page is larger than the last.
_FIRST_PAGE = 50
_LARGER = 4
_MOST_OF_LINE = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The tasks of one agent, or those of one queue that are nobody's yet."""

    agent: str | None = None
    queue: str | None = None

    def holds(self, task: RemoteTask) -> bool:
        """Whether the task stands in this line."""
        if self.agent is not None:
            return task.agent == self.agent
        return task.agent is None and task.queue == self.queue

    @property
    def filters(self) -> dict[str, str | int]:
        """What the server is asked for; it has no filter for tasks that are nobody's."""
        if self.agent is not None:
            return {"assigned_to": self.agent}
        return {"queue_name": self.queue or ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The open tasks that were seen, and what they say of each other.

    ``children`` are the numbers of the open subtasks of a task, ``dependents`` those of the
    open tasks that name it as their blocker.
    """

    tasks: Mapping[int, RemoteTask] = field(default_factory=dict)
    children: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    dependents: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    is_whole: bool = False


class Reader:
    """Reads the server's lists."""

    def __init__(self, client: TinytaskClient, warn: Callable[[str], None]) -> None:
        self._client = client
        self._warn = warn

    def read(
        self, lines: Iterable[Line], *, window: int, can_start: Callable[[RemoteTask], bool]
    ) -> World:
        """Return all open tasks where they are few, else enough of each line.

        Enough is a ``window`` of tasks that can start: those that cannot take nobody's place.
        """
        found, number = self._client.tasks(self._warn, status="idle,working", limit=HEAD)
        tasks = {one.number: one for one in found}
        is_whole = number < HEAD
        if not is_whole:
            working, _ = self._client.tasks(self._warn, status="working", limit=_MOST_WORKING)
            tasks |= {one.number: one for one in working}
            for line in lines:
                self._read_line(line, tasks, window=window, can_start=can_start)
        return World(
            tasks=tasks,
            children=_by((one.parent, one.number) for one in tasks.values()),
            dependents=_by((one.blocker, one.number) for one in tasks.values()),
            is_whole=is_whole,
        )

    def _read_line(
        self,
        line: Line,
        tasks: dict[int, RemoteTask],
        *,
        window: int,
        can_start: Callable[[RemoteTask], bool],
    ) -> None:
        """Look further into a line until enough of it can start, or it ends."""
        offset, page = 0, max(_FIRST_PAGE, window)
        while offset < _MOST_OF_LINE:
            parents = {one.parent for one in tasks.values()}
            ready = sum(
                line.holds(one) and can_start(one) and one.number not in parents
                for one in tasks.values()
            )
            if ready >= window:
                return
            found, number = self._client.tasks(
                self._warn, status="idle", limit=page, offset=offset, **line.filters
            )
            tasks.update((one.number, one) for one in found)
            if number < page:
                return
            offset, page = offset + page, page * _LARGER


def _by(pairs: Iterable[tuple[int | None, int]]) -> dict[int, tuple[int, ...]]:
    """Gather the second numbers by the first ones."""
    found: dict[int, tuple[int, ...]] = {}
    for key, number in pairs:
        if key is not None:
            found[key] = (*found.get(key, ()), number)
    return found
