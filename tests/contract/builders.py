"""Builders of what the contract suites are about, one per implementation.

A new implementation joins a suite with one line: in SOURCES or in LEDGERS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tests.builders import RULES
from tests.tinytask.double import Double, Speaks

from tinyscheduler.adapters.sqlite.database import Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.source_tasks import SqliteSourceTasks
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.adapters.tinytask.client import TinytaskClient
from tinyscheduler.adapters.tinytask.source import TinytaskSettings, TinytaskSource
from tinyscheduler.model.clock import Instant
from tinyscheduler.model.config import AgentProfile, FairShare
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.ledger import SimulatedLedger
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource
from tinyscheduler.simulator.switches import SimulatedSwitches
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import FailureReason
    from tinyscheduler.ports import Ledger, TaskSource

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class SteppedClock:
    """A clock that moves only when told to, forward or back."""

    wall: datetime = START
    monotonic_ns: int = 0

    def now(self) -> Instant:
        return Instant(wall=self.wall, monotonic_ns=self.monotonic_ns, boot_id="boot")

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.monotonic_ns += int(seconds * 1e9)


class Advancing(Protocol):
    """What the suites need of a clock."""

    def now(self) -> Instant: ...

    def advance(self, seconds: float) -> None: ...


@dataclass(kw_only=True)
class SourceWorld:
    """A source, its clock, and what its owners can do to it."""

    source: TaskSource
    clock: Advancing
    add: Callable[[TaskSpec], str]
    request_cancel: Callable[[str], object]
    state: Callable[[str], TaskState]
    failure: Callable[[str], FailureReason | None]
    switch: Callable[[Switch], object]


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """How a source was configured."""

    priority_enabled: bool = False
    blocking_disabled: bool = False
    fair_share: FairShare = FairShare.OFF


# What an implementation opens, it closes by way of the stack.
SourceFactory = Callable[["Path", SourceRules, ExitStack], SourceWorld]
LedgerFactory = Callable[["Path", ExitStack], "Ledger"]


LONGEST_BACKOFF_S = 3600


def open_database(folder: Path, stack: ExitStack) -> Database:
    database = Database(str(folder / "state" / "tinyscheduler.db"))
    stack.callback(database.close)
    return database


def build_local_queue(folder: Path, rules: SourceRules, stack: ExitStack) -> SourceWorld:
    clock, database = SteppedClock(), open_database(folder, stack)
    queue = LocalQueue(
        database,
        clock,
        priority_enabled=rules.priority_enabled,
        blocking_disabled=rules.blocking_disabled,
        fair_share=rules.fair_share,
        longest_backoff_s=LONGEST_BACKOFF_S,
    )
    return SourceWorld(
        source=queue,
        clock=clock,
        add=lambda spec: queue.add([(None, spec)])[0],
        request_cancel=queue.request_cancel,
        state=lambda task_id: queue.task(task_id).state,
        failure=lambda task_id: queue.task(task_id).failure_reason,
        switch=SqliteSwitches(database).set,
    )


def build_simulated_queue(_folder: Path, rules: SourceRules, _stack: ExitStack) -> SourceWorld:
    machine, disk = Machine(), Disk()
    queue = SimulatedQueue(
        now=lambda: machine.wall,
        switches=disk.switches,
        is_priority_enabled=rules.priority_enabled,
        is_blocking_disabled=rules.blocking_disabled,
        fair_share=rules.fair_share,
        longest_backoff_s=LONGEST_BACKOFF_S,
    )
    return SourceWorld(
        source=SimulatedSource(machine.spawn("tick"), queue),
        clock=machine,
        add=queue.add,
        request_cancel=queue.request_cancel,
        state=queue.state,
        failure=lambda task_id: queue.rows[task_id].last_failure,
        switch=SimulatedSwitches(machine.spawn("a person"), disk).set,
    )


@dataclass(kw_only=True)
class ServerWorld:
    """A tinytask source over the double of its server, and all that it is made of."""

    source: TinytaskSource
    notes: SqliteSourceTasks
    double: Double
    clock: SteppedClock
    database: Database
    ledger: SqliteLedger
    warnings: list[str]

    def add(self, spec: TaskSpec) -> str:
        """Add at the server what the spec says of what the server knows."""
        told = replace(
            spec, agent=None, queue=None, title=None, prompt=None, priority=0, after=(), command=()
        )
        assert told == TaskSpec(), told
        (blocker,) = spec.after or (None,)
        is_anybodys = spec.agent is None and spec.queue is None
        number = self.double.add(
            spec.title or "a task",
            description=spec.prompt,
            assigned_to="shell" if is_anybodys else spec.agent,
            queue_name=spec.queue,
            priority=spec.priority,
            blocked_by_task_id=None if blocker is None else self.notes.number_of(blocker),
        )
        return self.notes.id_of(number)

    def cancel(self, task_id: str) -> object:
        """Cancel as a person would, who sees the task once a tick has looked."""
        self.source.look(window=1)
        return self.notes.request_cancel(task_id)


def a_runner(name: str, queue: str) -> AgentProfile:
    return AgentProfile(name=name, queue=queue, limit=9, command=("true",))


SERVED = (
    a_runner("shell", "work"),
    a_runner("coder", "dev"),
    *(a_runner(name, name) for name in "abq"),
)


def open_server_world(
    folder: Path,
    stack: ExitStack,
    *,
    agents: tuple[AgentProfile, ...] = SERVED,
    blocking_disabled: bool = False,
    serves_queues: bool = True,
    timeout_s: float = 10,
    speaks: Speaks = Speaks.REST,
    path: str = "",
) -> ServerWorld:
    clock, database = SteppedClock(), open_database(folder, stack)
    double = stack.enter_context(Double(now=lambda: clock.wall, speaks=speaks).running())
    client = TinytaskClient(double.url + path, clock, timeout_s=timeout_s)
    stack.callback(client.close)
    notes = SqliteSourceTasks(
        database, clock, source="tinytask", longest_backoff_s=LONGEST_BACKOFF_S
    )
    ledger, warnings = SqliteLedger(database), list[str]()
    settings = TinytaskSettings(
        agents=agents,
        serves_queues=serves_queues,
        blocking_disabled=blocking_disabled,
        recipes=str(folder / "recipes"),
        rules=replace(RULES, retry_max_s=LONGEST_BACKOFF_S),
        lost_after_s=600,
    )
    source = TinytaskSource(
        client,
        notes,
        ledger,
        clock,
        settings=settings,
        warn=warnings.append,
        find_answer=lambda _agent, _tail: "",
    )
    return ServerWorld(
        source=source,
        notes=notes,
        double=double,
        clock=clock,
        database=database,
        ledger=ledger,
        warnings=warnings,
    )


def build_tinytask(
    folder: Path,
    rules: SourceRules,
    stack: ExitStack,
    *,
    speaks: Speaks = Speaks.REST,
    path: str = "",
) -> SourceWorld:
    assert rules.fair_share is FairShare.OFF
    world = open_server_world(
        folder, stack, blocking_disabled=rules.blocking_disabled, speaks=speaks, path=path
    )
    return SourceWorld(
        source=world.source,
        clock=world.clock,
        add=world.add,
        request_cancel=world.cancel,
        state=lambda task_id: (
            world.notes.task(task_id).state if world.notes.states([task_id]) else TaskState.WAITING
        ),
        failure=lambda task_id: world.notes.task(task_id).failure_reason,
        switch=SqliteSwitches(world.database).set,
    )


def build_sqlite_ledger(folder: Path, stack: ExitStack) -> Ledger:
    return SqliteLedger(open_database(folder, stack))


def build_simulated_ledger(_folder: Path, _stack: ExitStack) -> Ledger:
    return SimulatedLedger(Machine().spawn("tick"), Disk())


# Those that keep all of what a task asks for themselves.
QUEUES: dict[str, SourceFactory] = {
    "local": build_local_queue,
    "simulated": build_simulated_queue,
}
SOURCES: dict[str, SourceFactory] = {
    **QUEUES,
    "tinytask": build_tinytask,
    "tinytask over MCP": partial(build_tinytask, path="/mcp"),
    "tinytask over SSE": partial(build_tinytask, speaks=Speaks.SSE, path="/mcp"),
}

LEDGERS: dict[str, LedgerFactory] = {
    "sqlite": build_sqlite_ledger,
    "simulated": build_simulated_ledger,
}
