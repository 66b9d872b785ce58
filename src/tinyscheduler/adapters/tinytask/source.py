"""Which tasks of a tinytask server are ours to run, and how is it told what became of them?

The server knows idle, working and complete.  It has no compare-and-set, no lease, no attempts,
no backoff and no failed state: these are kept here, in `Notes`, whose compare-and-set on the
lease decides.  What is written to the server is the same when it is written twice.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from zlib import crc32

from tinyscheduler.adapters.tinytask.comments import Words, describe_attempt, describe_loss
from tinyscheduler.adapters.tinytask.questions import (
    RefusedError,
    UnreadableTaskError,
    UnspokenError,
)
from tinyscheduler.adapters.tinytask.window import Line, Reader, World
from tinyscheduler.core import retry
from tinyscheduler.core.command_line import uses
from tinyscheduler.errors import SourceError, StoreError
from tinyscheduler.model.snapshot import SourceView
from tinyscheduler.model.source_tasks import KnownTask, SeenTask
from tinyscheduler.model.tasks import (
    Claim,
    FailureReason,
    Finish,
    Outcome,
    Requeue,
    TaskSpec,
    TaskState,
)
from tinyscheduler.values import dataclass, replace
from tinyscheduler.wording import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import Protocol

    from tinyscheduler.adapters.tinytask.client import TinytaskClient
    from tinyscheduler.adapters.tinytask.documents import RemoteTask
    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.model.history import AttemptRecord
    from tinyscheduler.model.snapshot import Rules
    from tinyscheduler.model.tasks import Ending, WaitingTask
    from tinyscheduler.ports import Clock, Ledger

    class Notes(Protocol):
        """What is kept here of the server's tasks; raises SourceError where it cannot be."""

        def number_of(self, task_id: str) -> int | None:
            """Return by what number the server knows the task; None if it is none of its own."""

        def id_of(self, number: int) -> str:
            """Return what everybody here calls the task of that number."""

        def known(self, numbers: Iterable[int] = ()) -> Mapping[int, KnownTask]:
            """Return all tasks that have not ended here, and those of these numbers that have."""

        def waiting_of(
            self, known: KnownTask, *, created_order: int, created_at: datetime
        ) -> WaitingTask:
            """Return a task that waits or is held, as a policy sees it."""

        def note(
            self,
            *,
            seen: Sequence[SeenTask] = (),
            revived: Sequence[int] = (),
            lost: Mapping[int, datetime | None] | None = None,
            undoubted: Sequence[int] = (),
            ended: Mapping[int, TaskState | None] | None = None,
        ) -> None:
            """Keep in one step what a look has shown."""

        def put_off(self, number: int, until: datetime) -> None:
            """Let a task that waits not be tried before then."""

        def claim(
            self, seen: SeenTask, *, lease_id: str, agent: str, queue: str, attempt: int
        ) -> bool:
            """Note that the task is ours under this lease, if it waits as this attempt."""

        def unclaim(self, number: int, *, lease_id: str, is_doubtful: bool) -> None:
            """Take a claim back that came to nothing."""

        def settle(self, number: int, *, lease_id: str | None, ending: Ending) -> TaskState | None:
            """End the claim of this lease; None if it is no more, and nothing was changed."""


NAME = "tinytask"
SUMMARY_LENGTH = 120
# Tasks of each kind that cannot start and are told all the same.
_MOST_UNSTARTABLE = 50
_MOST_SUBTASKS_TOLD = 20
# Tasks that went out of sight and are asked for by their numbers, in one look.
_MOST_ASKED_FOR = 10
# Where not all is looked at: so many of those that were not.
_MOST_UNSEEN = 2
_LOST_LEASE = "lost-"
# So long a parent is left alone whose open subtasks were seen only when it was to start.
_PARENTS_REST = timedelta(seconds=60)
_LONGEST_LABEL = 256
_MOST_LABELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TinytaskSettings:
    """How a server's tasks are served here.

    ``agents`` are those that can run them: with a command of their own.  Where
    ``serves_queues``, unassigned tasks of an agent's queue are its tasks, too.  After
    ``lost_after_s`` a task counts as lost that is at work there and that nobody runs here.
    """

    agents: tuple[AgentProfile, ...]
    serves_queues: bool
    blocking_disabled: bool
    recipes: str
    rules: Rules
    lost_after_s: float
    may_write: bool = True


class TinytaskSource:
    """The task source ``tinytask``."""

    name = NAME

    def __init__(
        self,
        client: TinytaskClient,
        notes: Notes,
        ledger: Ledger,
        clock: Clock,
        *,
        settings: TinytaskSettings,
        warn: Callable[[str], None],
        find_answer: Callable[[str, bytes], str],
    ) -> None:
        """Take ``find_answer`` for what an agent said last, as `comments` has it."""
        self._client = client
        self._find_answer = find_answer
        self._notes = notes
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._warn = warn
        self._agents = {agent.name: agent for agent in settings.agents}
        self._queues = (
            frozenset(agent.queue for agent in settings.agents)
            if settings.serves_queues
            else frozenset()
        )
        self._reader = Reader(client, warn)

    # -- looking ----------------------------------------------------------------------

    def look(self, *, window: int) -> SourceView:
        """Return what waits and what is ours: a bounded number of requests, whatever waits there.

        Most blockers first, then the highest priority, then tasks that are nobody's yet, then
        the oldest.  ``waiting_total`` counts what was seen, and one more where there is more.
        """
        known = dict(self._notes.known())
        world = self._reader.read(
            self._lines(), window=window, can_start=lambda task: self._can_start(task, known)
        )
        known |= self._notes.known(world.tasks)
        seen = {
            number: self._see(task, world, known)
            for number, task in world.tasks.items()
            if self._is_ours(task)
        }
        now = self._clock.now().wall
        revived = [
            number
            for number, one in seen.items()
            if number in known and _is_opened_again(known[number], one, world.tasks[number])
        ]
        lost = self._find_lost(world, known, now)
        if self._settings.may_write:
            self._note(world, known, seen, revived=revived, lost=lost)
        for number in revived:
            known[number] = _revive(known[number])
        rows = {
            number: replace(known[number], seen=one)
            if number in known
            else KnownTask(seen=one, state=TaskState.WAITING)
            for number, one in seen.items()
            if world.tasks[number].status == "idle"
        }
        open_rows = [one for one in rows.values() if one.state in _IN_LINE]
        return SourceView(
            name=self.name,
            waiting=tuple(self._window(open_rows, window=window, now=now)),
            waiting_total=sum(one.state is TaskState.WAITING for one in open_rows)
            + (not world.is_whole),
            claims=(*self._claims(known), *self._lost_claims(world, known, lost, now)),
        )

    def _lines(self) -> list[Line]:
        lines = [Line(agent=name) for name in self._agents]
        return lines + [Line(queue=name) for name in sorted(self._queues)]

    def _is_ours(self, task: RemoteTask) -> bool:
        """Whether one of our agents may run the task, now or later."""
        return task.agent in self._agents if task.agent is not None else task.queue in self._queues

    def _can_start(self, task: RemoteTask, known: Mapping[int, KnownTask]) -> bool:
        """Whether nothing is in its way but that no slot may be free."""
        row = known.get(task.number)
        return (
            task.status == "idle"
            and self._is_ours(task)
            and not self._is_blocked(task)
            and (row is None or row.state is TaskState.WAITING)
            and (row is None or not self._backs_off(row))
        )

    def _is_blocked(self, task: RemoteTask) -> bool:
        return task.is_blocked and not self._settings.blocking_disabled

    def _backs_off(self, row: KnownTask) -> bool:
        """Whether a backoff goes on; one of before a clock was set back does not."""
        if row.backing_off_until is None:
            return False
        left = row.backing_off_until - self._clock.now().wall
        return timedelta() < left <= self._longest_backoff

    @property
    def _longest_backoff(self) -> timedelta:
        rules = self._settings.rules
        return timedelta(seconds=max(rules.retry_max_s, rules.retry_later_s))

    @property
    def _until_asked_again(self) -> timedelta:
        return min(_PARENTS_REST, self._longest_backoff)

    def _see(self, task: RemoteTask, world: World, known: Mapping[int, KnownTask]) -> SeenTask:
        blocked_by = list(world.children.get(task.number, ()))[:_MOST_SUBTASKS_TOLD]
        if self._is_blocked(task) and task.blocker is not None:
            blocked_by.insert(0, task.blocker)
        # Whoever will not run here any more waits for nobody.
        dependents = [
            one
            for one in world.dependents.get(task.number, ())
            if one not in known or not known[one].state.is_final
        ]
        return SeenTask(
            number=task.number,
            agent=task.agent,
            queue=task.queue,
            summary=one_line(task.title, longest=SUMMARY_LENGTH),
            priority=task.priority,
            blocks=len(dependents),
            blocked_by=tuple(blocked_by),
            impediment=self._impediment(task),
            created_at=task.created_at,
            updated_at=task.updated_at,
        )

    def _impediment(self, task: RemoteTask) -> str | None:
        """Say which recipe is missing, where none of the agents that may run a task has one."""
        if task.agent is not None:
            agents = [self._agents[task.agent]]
        else:
            agents = [one for one in self._settings.agents if one.queue == task.queue]
        missing = [path for path in map(self._missing_recipe, agents) if path is not None]
        if len(missing) < len(agents):
            return None
        return f"its recipe {missing[0]} does not exist: create it, or give the agent a `command:`"

    def _missing_recipe(self, agent: AgentProfile) -> str | None:
        if not uses(agent, "recipe"):
            return None
        path = os.path.join(self._settings.recipes, f"{agent.name}.yaml")
        return None if os.path.isfile(path) else path

    def _note(
        self,
        world: World,
        known: Mapping[int, KnownTask],
        seen: Mapping[int, SeenTask],
        *,
        revived: Sequence[int],
        lost: Mapping[int, datetime | None],
    ) -> None:
        """Keep what has changed since the last look; most looks find nothing."""
        changed = [
            one
            for number, one in seen.items()
            if number not in known
            or (known[number].seen != one and not _is_begun_elsewhere(known[number], world, number))
        ]
        ended = self._find_ended(world, known, seen)
        undoubted = [
            number
            for number, row in known.items()
            if row.doubtful_for is not None
            and number in world.tasks
            and world.tasks[number].status != "working"
        ]
        since = {
            number: moment
            for number, moment in lost.items()
            if number not in known or known[number].lost_since != moment
        }
        if changed or revived or since or undoubted or ended:
            self._notes.note(
                seen=changed, revived=revived, lost=since, undoubted=undoubted, ended=ended
            )

    def _find_ended(
        self, world: World, known: Mapping[int, KnownTask], seen: Mapping[int, SeenTask]
    ) -> Mapping[int, TaskState | None]:
        """Return how those ended that wait here and are not to be seen there any more.

        Where not all was looked at, nothing is known of what was not seen: a few of those are asked
        for, others each time.
        """
        gone = [
            number
            for number, row in known.items()
            if row.state in _IN_LINE
            and number not in seen
            and (world.is_whole or number in world.tasks)
        ]
        ended: dict[int, TaskState | None] = {
            number: None
            for number in gone
            if not known[number].has_past and known[number].state is TaskState.WAITING
        }
        left = sorted(
            (one for one in gone if one not in ended),
            key=lambda number: known[number].state is TaskState.HELD,
        )
        left = left[:_MOST_ASKED_FOR]
        if not world.is_whole:
            left += self._some_unseen(world, known)
        for number in left:
            try:
                task = world.tasks.get(number) or self._client.task(number)
            except UnreadableTaskError as error:
                self._warn(f"{error.what}; it stays as it is")
                continue
            if task is not None and task.is_open and self._is_ours(task):
                continue  # it is only out of sight
            is_held = known[number].state is TaskState.HELD
            if is_held and task is not None and task.status != "complete":
                continue  # once it is ours again, it is not to start for that
            is_done = task is not None and (
                task.status == "complete" or (task.is_open and not known[number].failures)
            )
            ended[number] = TaskState.DONE if is_done else TaskState.CANCELLED
        return ended

    def _some_unseen(self, world: World, known: Mapping[int, KnownTask]) -> list[int]:
        """Return some of those that wait here and were not looked at: others each time."""
        unseen = sorted(
            number
            for number, row in known.items()
            if row.state in _IN_LINE and number not in world.tasks
        )
        if not unseen:
            return []
        # By chance, and that by the time: in step with the ticks, some would never be asked for.
        moment = self._clock.now().wall.isoformat().encode()
        first = crc32(moment) % len(unseen)
        return (unseen + unseen)[first : first + min(_MOST_UNSEEN, len(unseen))]

    def _window(
        self, rows: Sequence[KnownTask], *, window: int, now: datetime
    ) -> Iterable[WaitingTask]:
        """Yield the first of each line that can start, and some of those that cannot."""
        room: dict[tuple[bool, str | None, str | None], int] = {}
        latest: datetime | None = None
        for order, row in enumerate(sorted(rows, key=_place)):
            seen = row.seen
            # A task counts as waiting no longer than those before it: whoever goes by age, and
            # not by our order, shall not turn it round.
            latest = seen.created_at if latest is None else max(latest, seen.created_at)
            can_start = row.state is TaskState.WAITING and not (
                seen.blocked_by or seen.impediment or self._backs_off(row)
            )
            line = (True, seen.agent, None if seen.agent is not None else seen.queue)
            if not can_start:
                line = (False, str(row.state), _why(row))
            left = room.setdefault(line, window if can_start else _MOST_UNSTARTABLE)
            if left > 0:
                room[line] = left - 1
                yield self._notes.waiting_of(row, created_order=order, created_at=min(latest, now))

    def _claims(self, known: Mapping[int, KnownTask]) -> Iterable[Claim]:
        for number, row in known.items():
            if row.state is TaskState.WORKING and row.lease_id is not None:
                yield self._claim_of(number, row, lease_id=row.lease_id)

    def _claim_of(self, number: int, row: KnownTask, *, lease_id: str) -> Claim:
        return Claim(
            task_id=self._notes.id_of(number),
            source=self.name,
            lease_id=lease_id,
            agent=row.claimed_by or row.seen.agent or "",
            attempt=row.attempt,
            failures=row.failures,
            launches=row.launches,
            max_attempts=None,
            cancel_requested=row.cancel_requested,
            last_failure=row.failure_reason,
        )

    # -- what is at work there, and by nobody here -----------------------------------

    def _find_lost(
        self, world: World, known: Mapping[int, KnownTask], now: datetime
    ) -> dict[int, datetime | None]:
        """Return since when tasks of our agents are at work there, and nobody is here.

        None where that has come to an end.  A parent is at work while its subtasks are.
        """
        lost: dict[int, datetime | None] = {}
        for number, task in world.tasks.items():
            row = known.get(number)
            is_here = row is not None and row.state is TaskState.WORKING
            if task.status == "working" and task.agent in self._agents and not is_here:
                if number not in world.children:
                    since = row.lost_since if row is not None else None
                    # Whoever works there and says so now and then is not lost.
                    lost[number] = max(since or now, min(task.updated_at, now))
            elif row is not None and row.lost_since is not None:
                lost[number] = None
        return lost

    def _lost_claims(
        self,
        world: World,
        known: Mapping[int, KnownTask],
        lost: Mapping[int, datetime | None],
        now: datetime,
    ) -> Iterable[Claim]:
        """Yield the claims that a tick is to repair: nobody will ever end them otherwise."""
        grace = timedelta(seconds=self._settings.lost_after_s)
        for number, since in lost.items():
            row, task = known.get(number), world.tasks[number]
            if row is None or since is None:
                continue  # seen for the first time just now
            is_known_doubtful = row.doubtful_for == task.agent
            if not is_known_doubtful and (row.lost_since is None or now - since < grace):
                continue
            if not world.is_whole and self._client.has_open_subtasks(number):
                continue
            lease_id = f"{_LOST_LEASE}{self._notes.id_of(number)}-{row.attempt}"
            yield self._claim_of(number, replace(row, claimed_by=task.agent), lease_id=lease_id)

    # -- starting -----------------------------------------------------------------------

    def describe(self, task_id: str) -> TaskSpec:
        """Return what the task asks for: title and description are its prompt."""
        number = self._notes.number_of(task_id)
        task = None if number is None else self._client.task(number)
        if task is None:
            raise StoreError(f"task {task_id} is not at the server any more")
        return TaskSpec(
            agent=task.agent,
            queue=task.queue,
            title=task.title,
            prompt=f"{task.title}\n\n{task.description}".rstrip() + "\n",
            priority=task.priority,
            after=(self._notes.id_of(task.blocker),) if task.blocker is not None else (),
            labels=tuple(map(_label_of, task.tags[:_MOST_LABELS])),
        )

    def claim(
        self,
        task_id: str,
        *,
        lease_id: str,
        agent: str,
        queue: str,
        attempt: int,
        pressure: int = 0,
    ) -> bool:
        """Make the task ours if it still waits: look, note it here, write it there, look again.

        What somebody else wrote between our looks is left as it is.
        """
        del pressure  # nothing here is a firing
        number = self._notes.number_of(task_id)
        task = None if number is None else self._client.task(number)
        if task is None or not self._may_be_claimed(task, agent=agent, queue=queue):
            return False
        if self._client.has_open_subtasks(task.number):
            # A look that does not see all would offer it again and again.
            self._notes.put_off(task.number, self._clock.now().wall + self._until_asked_again)
            return False
        seen = self._see(task, World(), {})
        if not self._notes.claim(
            seen, lease_id=lease_id, agent=agent, queue=queue, attempt=attempt
        ):
            return False
        try:
            is_ours = self._take(task, agent)
        except SourceError as error:
            is_doubtful = not isinstance(error, RefusedError)
            self._notes.unclaim(task.number, lease_id=lease_id, is_doubtful=is_doubtful)
            raise
        if not is_ours:
            self._notes.unclaim(task.number, lease_id=lease_id, is_doubtful=False)
        return is_ours

    def _may_be_claimed(self, task: RemoteTask, *, agent: str, queue: str) -> bool:
        is_ours = task.agent == agent if task.agent is not None else task.queue == queue
        return (
            is_ours
            and self._is_ours(task)
            and task.status == "idle"
            and not task.is_archived
            and not self._is_blocked(task)
        )

    def _take(self, task: RemoteTask, agent: str) -> bool:
        """Write that the agent is at work, and look whether that is what stands there."""
        changes = {"status": "working"}
        if task.agent is None:
            changes["assigned_to"] = agent
        if self._client.update(task.number, **changes) is None:
            return False
        after = self._client.task(task.number)
        if after is None or after.is_archived or after.status != "working":
            return False
        if after.agent == agent and not self._is_blocked(after):
            return True
        # It was given to somebody else, or blocked, in between: working is what we made of it.
        self._client.update(task.number, status="idle")
        return False

    # -- ending -------------------------------------------------------------------------

    def settle(self, task_id: str, *, lease_id: str, ending: Ending) -> TaskState | None:
        """Tell the server how the claim ended, if the task is still ours under exactly this lease.

        What people or the agent itself have made of the task meanwhile stands: it is completed,
        or made to wait again, only where it is still at work under our agent.
        """
        number = self._notes.number_of(task_id)
        row = None if number is None else self._notes.known([number]).get(number)
        if number is None or row is None:
            return None
        if lease_id.startswith(_LOST_LEASE):
            return self._give_back(number, row, lease_id=lease_id, ending=ending)
        if row.state is not TaskState.WORKING or row.lease_id != lease_id:
            return None
        task = self._client.task(number)
        if task is None:
            ending = _ended_elsewhere(row, ending, TaskState.CANCELLED)
            return self._notes.settle(number, lease_id=lease_id, ending=ending)
        attempt = self._attempt(task_id, lease_id)
        asked = ending
        if row.cancel_requested and not _is_success(ending):
            asked = Finish(
                state=TaskState.CANCELLED, reason=FailureReason.CANCELLED, failures=row.failures
            )
        judged, words = self._judge(task, row, asked)
        if attempt is not None and words is not None:
            self._tell(task.number, attempt, words)
        elif words in _TOLD_WITHOUT_ATTEMPT:
            self._comment(number, describe_loss(words, lease_id=lease_id, row=row), mark=lease_id)
        if _is_success(judged) and task.status != "complete":
            self._client.update(number, status="complete")
        elif task.status == "working" and task.agent == row.claimed_by and not _is_success(judged):
            self._client.update(number, status="idle")
        return self._notes.settle(number, lease_id=lease_id, ending=judged)

    def _judge(
        self, task: RemoteTask, row: KnownTask, ending: Ending
    ) -> tuple[Ending, Words | None]:
        """Return what becomes of the task, and what the server is told; None: nothing."""
        if task.status == "complete":
            return _ended_elsewhere(row, ending, TaskState.DONE), Words.LEFT_COMPLETE
        if task.agent != row.claimed_by:
            return _anew(row), Words.HANDED_ON
        if not _is_success(ending):
            return ending, _words_of(ending, row)
        if self._client.has_open_subtasks(task.number):
            # Complete when they are: the server does that by itself.
            return _anew(row), Words.WAITS_FOR_SUBTASKS
        if task.status == "working":
            return ending, Words.SUCCEEDED
        # Its own agent made it idle and ended well.  Counted, or the two would go on for ever.
        claim = self._claim_of(task.number, row, lease_id=row.lease_id or "")
        again = retry.conclude_failure(
            claim, FailureReason.ABORTED, rules=self._settings.rules, now=self._clock.now().wall
        )
        return again, Words.PUT_BACK if isinstance(again, Requeue) else Words.PUT_BACK_TOO_OFTEN

    def _give_back(
        self, number: int, row: KnownTask, *, lease_id: str, ending: Ending
    ) -> TaskState | None:
        """Make a task wait again that was at work there and nobody ran here."""
        task = self._client.task(number)
        if row.state is TaskState.WORKING:
            return None
        if task is not None and task.status == "working" and task.agent in self._agents:
            if row.doubtful_for is None:
                words = Words.LOST if isinstance(ending, Requeue) else Words.LOST_TOO_OFTEN
                content = describe_loss(words, lease_id=lease_id, row=row)
                self._comment(number, content, mark=lease_id)
            self._client.update(number, status="idle")
        if row.doubtful_for is not None:
            # Our own claim came to nothing halfway: that was no attempt.
            self._notes.note(lost={number: None}, undoubted=[number])
            return row.state if row.state is TaskState.WAITING else None
        if row.state is TaskState.DONE:
            self._notes.note(revived=[number])
        elif row.state is not TaskState.WAITING:
            # What was held, parked or cancelled here stays so: nothing has become of it now.
            self._notes.note(lost={number: None})
            return None
        return self._notes.settle(number, lease_id=None, ending=ending)

    def _attempt(self, task_id: str, lease_id: str) -> AttemptRecord | None:
        """Return what is known of the attempt; None of one that came to nothing worth telling."""
        found = (one for one in self._ledger.attempts(task_id) if one.lease_id == lease_id)
        attempt = next(found, None)
        if attempt is None or attempt.outcome in (Outcome.RETRY_LATER, Outcome.INTERRUPTED):
            return None
        return attempt

    def _tell(self, number: int, attempt: AttemptRecord, words: Words) -> None:
        content = describe_attempt(attempt, words, find_answer=self._find_answer)
        self._comment(number, content, mark=attempt.lease_id)
        if attempt.log is not None:
            url = "file://" + _quoted(attempt.log)
            with self._at_its_will():
                self._client.add_link(number, url, f"log of attempt {attempt.attempt}")

    def _comment(self, number: int, content: str, *, mark: str) -> None:
        with self._at_its_will():
            self._client.add_comment(number, content, mark=mark)

    @contextmanager
    def _at_its_will(self) -> Iterator[None]:
        """Go on where the server refuses what is only told: it would refuse it for ever."""
        try:
            yield
        except UnspokenError:
            raise
        except RefusedError as error:
            self._warn(error.what)


_IN_LINE = (TaskState.WAITING, TaskState.HELD)
_TOLD_WITHOUT_ATTEMPT = (Words.NEVER_STARTED, Words.PARKED, Words.CANCELLED, Words.GIVEN_UP)


def _place(row: KnownTask) -> tuple[int, int, bool, datetime, int]:
    seen = row.seen
    return (
        -seen.blocks,
        -seen.priority,
        seen.agent is not None,
        seen.created_at,
        seen.number,
    )


def _why(row: KnownTask) -> str:
    return "blocked" if row.seen.blocked_by else "impeded" if row.seen.impediment else "backs off"


def _is_opened_again(row: KnownTask, seen: SeenTask, task: RemoteTask) -> bool:
    """Whether a task that has ended here was made to wait again by somebody there.

    Complete ones and those that had gone by that they wait; others by that they were given to
    somebody else, or the next look would undo what parked or cancelled them.  A task that was
    made at another time is another one: the server was set up anew, and counts from 1.
    """
    if task.status != "idle" or row.state is TaskState.WORKING:
        return False
    if seen.created_at != row.seen.created_at:
        return True
    return row.state.is_final and (
        row.state is TaskState.DONE or _has_gone(row) or seen.agent != row.seen.agent
    )


def _has_gone(row: KnownTask) -> bool:
    """Whether a task ended here by going out of sight: nobody has cancelled it."""
    return row.state is TaskState.CANCELLED and row.failure_reason is None


def _is_begun_elsewhere(row: KnownTask, world: World, number: int) -> bool:
    """Whether a task that has ended here is at work there: whose it was is still needed then."""
    return row.state.is_final and world.tasks[number].status != "idle"


def _revive(row: KnownTask) -> KnownTask:
    return replace(
        row,
        state=TaskState.WAITING,
        failures=0,
        launches=0,
        failure_reason=None,
        backing_off_until=None,
        ended_at=None,
    )


def _is_success(ending: Ending) -> bool:
    return isinstance(ending, Finish) and ending.state is TaskState.DONE


def _words_of(ending: Ending, row: KnownTask) -> Words | None:
    match ending:
        case Requeue(attempt=attempt) if attempt == row.attempt:
            return None  # a start that failed, and is tried again
        case Requeue():
            return Words.FAILED
        case Finish(state=TaskState.PARKED, reason=FailureReason.SPAWN_FAILED):
            return Words.NEVER_STARTED
        case Finish(state=TaskState.PARKED):
            return Words.PARKED
        case Finish(state=TaskState.CANCELLED):
            return Words.CANCELLED
        case _:
            return Words.GIVEN_UP


def _ended_elsewhere(row: KnownTask, ending: Ending, state: TaskState) -> Finish:
    """Return the end of a task that has ended at its source, however its attempt did."""
    if _is_success(ending):
        state = TaskState.DONE
    reason = None if state is TaskState.DONE else FailureReason.CANCELLED
    return Finish(state=state, reason=reason, failures=row.failures)


def _anew(row: KnownTask) -> Requeue:
    """Return that the task is somebody else's now, and for that one it begins anew."""
    return Requeue(
        attempt=row.attempt + 1, failures=0, launches=0, backing_off_until=None, reason=None
    )


def _label_of(tag: str) -> tuple[str, str]:
    name, _, value = one_line(tag, longest=_LONGEST_LABEL).partition("=")
    return name, value


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
