"""The embedded queue, wired for a person's command, and how its changes are told."""

from __future__ import annotations

from tinyscheduler.adapters.clock_system import SystemClock
from tinyscheduler.adapters.events_file import DailyLog, EventsFile
from tinyscheduler.adapters.leases_file import FileLeaseStore, LockTable
from tinyscheduler.adapters.sqlite.database import BUSY_TIMEOUT_S, Access, Database
from tinyscheduler.adapters.sqlite.inquiry import Inquiry
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.app.place import make_state_folder, refuse_foreign_state
from tinyscheduler.model.events import Event, EventName
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinyscheduler.adapters.sqlite.all_tasks import AllTasks
    from tinyscheduler.adapters.sqlite.budgets import SqliteBudgets
    from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings
    from tinyscheduler.adapters.sqlite.shared_tasks import Caller, SharedTasks
    from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks
    from tinyscheduler.model.config import Config
    from tinyscheduler.ports import Clock

# SQLite gives its lock to whoever asks at the right moment: of hundreds that add at once,
# one may be passed over for long, and a refusal would cost its script the task.
_PATIENCE_S = 30.0

TINYTASK = "tinytask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The tasks of all sources and everything that looking at them or changing them takes."""

    tasks: LocalQueue | AllTasks
    inquiry: Inquiry
    ledger: SqliteLedger
    switches: SqliteSwitches
    database: Database
    leases: FileLeaseStore
    clock: SystemClock
    config: Config

    @property
    def coolings(self) -> SqliteCoolings:
        """What is known against accounts; few were refused."""
        from tinyscheduler.adapters.sqlite.coolings import SqliteCoolings

        return SqliteCoolings(self.database)

    @property
    def budgets(self) -> SqliteBudgets:
        """The budgets over what is in the ledger; few set any."""
        from tinyscheduler.adapters.sqlite.budgets import SqliteBudgets

        return SqliteBudgets(self.database, self.clock, self.config.inventory.budgets)


def open_queue(config: Config, access: Access, *, patience_s: float = _PATIENCE_S) -> Queue:
    """Open the embedded queue for a person's command, which waits so long for others to write.

    For reading, nothing on disk changes (SQLite's -shm excepted) and no lock is touched.
    Raises ConfigError for state of another user.
    """
    refuse_foreign_state(config)
    if access is Access.WRITE:
        make_state_folder(config)
    clock = SystemClock()
    timeout_s = patience_s if access is Access.WRITE else BUSY_TIMEOUT_S
    database = Database(config.paths.database, access, busy_timeout_s=timeout_s)
    elsewhere = None
    local = local_queue(config, database, clock)
    tasks: LocalQueue | AllTasks = local
    if TINYTASK in config.sources:
        from tinyscheduler.adapters.sqlite.all_tasks import AllTasks

        elsewhere = source_tasks(config, database, clock)
        tasks = AllTasks(local, elsewhere)
    return Queue(
        tasks=tasks,
        inquiry=Inquiry(
            database,
            clock,
            priority_enabled=config.priority_enabled,
            blocking_disabled=config.blocking_disabled,
            elsewhere=elsewhere,
        ),
        ledger=SqliteLedger(database),
        switches=SqliteSwitches(database),
        database=database,
        leases=FileLeaseStore(config.paths, locks=LockTable()),
        clock=clock,
        config=config,
    )


def announce(queue: Queue, name: EventName, task_ids: Sequence[str]) -> None:
    """Tell events.jsonl and the log what a person's command did to tasks."""
    at = queue.clock.now().wall
    events = [Event(at=at, name=name, task_id=task_id) for task_id in task_ids]
    for observer in observers_of(queue.config):
        observer.notice_all(events)


def announce_event(
    queue: Queue,
    name: EventName,
    *,
    task_id: str | None = None,
    reason: str | None = None,
    details: tuple[tuple[str, str | int], ...] = (),
) -> None:
    """Tell events.jsonl and the log of something that a person's command did."""
    at = queue.clock.now().wall
    event = Event(at=at, name=name, task_id=task_id, reason=reason, details=details)
    for observer in observers_of(queue.config):
        observer.notice(event)


def observers_of(config: Config) -> tuple[EventsFile, DailyLog]:
    """Return those who write down what happens."""
    most = config.limits.log_max_bytes
    return (
        EventsFile(config.paths, max_bytes=most),
        DailyLog(config.paths, level=config.log_level, max_bytes=most),
    )


def local_queue(
    config: Config,
    database: Database,
    clock: Clock,
    *,
    tell_done: Callable[[Sequence[str]], None] | None = None,
) -> LocalQueue:
    """Return the embedded queue under the settings that decide its order and its bounds.

    ``tell_done`` hears of tasks that are done with their last part.
    """
    return LocalQueue(
        database,
        clock,
        priority_enabled=config.priority_enabled,
        blocking_disabled=config.blocking_disabled,
        max_queue_depth=config.limits.max_queue_depth,
        longest_backoff_s=max(config.timing.retry_max_s, config.timing.retry_later_s),
        fair_share=config.limits.fair_share,
        most_firings=config.limits.schedule_max_concurrent,
        budgets=config.inventory.budgets,
        tell_done=tell_done,
        # The platform policy looks at none of them.
        tells_marks=config.policy.mode != "platform",
    )


def shared_tasks(queue: Queue, caller: Caller) -> SharedTasks:
    """Return the embedded queue as agents know it; other sources have tools of their own."""
    from tinyscheduler.adapters.sqlite.shared_tasks import SharedTasks  # ticks never ask

    local = local_queue(queue.config, queue.database, queue.clock)

    def tell_done(task_ids: Sequence[str]) -> None:
        announce(queue, EventName.TASK_FINISHED, task_ids)

    return SharedTasks(queue.database, queue.clock, local, caller, tell_done=tell_done)


def source_tasks(config: Config, database: Database, clock: Clock) -> SqliteSourceTasks:
    """Return what is kept here of the tasks of a tinytask server."""
    from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks  # few have any

    return SqliteSourceTasks(
        database,
        clock,
        source=TINYTASK,
        longest_backoff_s=max(config.timing.retry_max_s, config.timing.retry_later_s),
        budgets=config.inventory.budgets,
    )
