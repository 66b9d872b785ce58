"""Builders of what the contract suites are about, one per implementation.

A new implementation joins a suite with one line: in SOURCES or in LEDGERS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from tinyscheduler.adapters.sqlite.database import Database
from tinyscheduler.adapters.sqlite.ledger import SqliteLedger
from tinyscheduler.adapters.sqlite.queue import LocalQueue
from tinyscheduler.adapters.sqlite.switches import SqliteSwitches
from tinyscheduler.model.clock import Instant
from tinyscheduler.model.config import FairShare
from tinyscheduler.simulator.disk import Disk
from tinyscheduler.simulator.ledger import SimulatedLedger
from tinyscheduler.simulator.machine import Machine
from tinyscheduler.simulator.source import SimulatedQueue, SimulatedSource
from tinyscheduler.simulator.switches import SimulatedSwitches

if TYPE_CHECKING:
    from pathlib import Path

    from tinyscheduler.model.switches import Switch
    from tinyscheduler.model.tasks import FailureReason, TaskSpec, TaskState
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


def build_sqlite_ledger(folder: Path, stack: ExitStack) -> Ledger:
    return SqliteLedger(open_database(folder, stack))


def build_simulated_ledger(_folder: Path, _stack: ExitStack) -> Ledger:
    return SimulatedLedger(Machine().spawn("tick"), Disk())


SOURCES: dict[str, SourceFactory] = {
    "local": build_local_queue,
    "simulated": build_simulated_queue,
}

LEDGERS: dict[str, LedgerFactory] = {
    "sqlite": build_sqlite_ledger,
    "simulated": build_simulated_ledger,
}
