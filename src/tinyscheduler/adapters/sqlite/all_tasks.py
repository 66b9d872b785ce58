"""Where do the tasks of all sources stand?  One answer for people's commands."""

from __future__ import annotations

from tinyscheduler.errors import UsageError
from tinyscheduler.model.tasks import TaskState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tinyscheduler.adapters.sqlite.queue import LocalQueue
    from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks
    from tinyscheduler.model.records import CancelAnswer, TaskRecord
    from tinyscheduler.model.tasks import TaskSpec


class AllTasks:
    """The embedded queue, and what is known of the tasks of sources elsewhere.

    Methods are those of `LocalQueue`: a task's id says whose it is.
    """

    def __init__(self, local: LocalQueue, elsewhere: SqliteSourceTasks) -> None:
        self._local = local
        self._elsewhere = elsewhere

    def add(
        self, specs: Sequence[tuple[str | None, TaskSpec]], *, places: Sequence[str] = ()
    ) -> list[str]:
        """Add tasks to the embedded queue."""
        return self._local.add(specs, places=places)

    def edit(
        self, task_id: str, change: Callable[[TaskSpec], TaskSpec]
    ) -> tuple[TaskSpec, TaskSpec]:
        """Change what a task of the embedded queue asks for; UsageError for any other."""
        if self._is_elsewhere(task_id):
            self._elsewhere.task(task_id)
            raise UsageError(
                f"what task {task_id} asks for is kept at its source",
                hint="change it there; `hold` and `cancel` work here",
            )
        return self._local.edit(task_id, change)

    def task(self, task_id: str) -> TaskRecord:
        """Return where the task stands; NotFoundError if there is none."""
        return self._of(task_id).task(task_id)

    def describe(self, task_id: str) -> TaskSpec:
        """Return what is known of what the task asks for."""
        return self._of(task_id).describe(task_id)

    def tasks(
        self, *, state: TaskState | None = None, agent: str | None = None, limit: int = 100
    ) -> list[TaskRecord]:
        """Return the newest tasks that fit, at most ``limit``, oldest of them first."""
        found = self._local.tasks(state=state, agent=agent, limit=limit)
        wanted = TaskState.WORKING if state in _SEEN_ON_THE_LEASE else state
        more = self._elsewhere.tasks(state=wanted, agent=agent, limit=limit)
        # Each list is in its own order, and stays so where times are alike.
        return sorted([*found, *more], key=lambda record: record.created_at)[-limit:]

    def counts(self) -> Mapping[TaskState, int]:
        """Return how many tasks there are in each stored state, zeros included."""
        more = self._elsewhere.counts()
        return {
            state: number + more.get(state, 0) for state, number in self._local.counts().items()
        }

    def states(self, task_ids: Sequence[str]) -> Mapping[str, TaskState]:
        """Return the stored state of each of these tasks that exists."""
        return {**self._local.states(task_ids), **self._elsewhere.states(task_ids)}

    def request_cancel(self, task_id: str) -> CancelAnswer:
        """Cancel the task now if it runs nowhere, else note the wish in its row."""
        return self._of(task_id).request_cancel(task_id)

    def retry(self, task_id: str) -> None:
        """Make a task that ended wait again with all its attempts, or end a backoff."""
        self._of(task_id).retry(task_id)

    def hold(self, task_id: str) -> bool:
        """Set a waiting task aside until it is released; False if it was held before."""
        return self._of(task_id).hold(task_id)

    def release(self, task_id: str) -> bool:
        """Let a held task wait again; False if it waited before."""
        return self._of(task_id).release(task_id)

    def _is_elsewhere(self, task_id: str) -> bool:
        return self._elsewhere.number_of(task_id) is not None

    def _of(self, task_id: str) -> LocalQueue | SqliteSourceTasks:
        return self._elsewhere if self._is_elsewhere(task_id) else self._local


_SEEN_ON_THE_LEASE = (TaskState.STARTING, TaskState.RUNNING, TaskState.SETTLING)
