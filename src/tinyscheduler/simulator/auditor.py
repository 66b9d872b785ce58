"""Which promise was broken?  Looks at the world as it really is, after every step.

The numbers are those of the invariants in the design.  The auditor knows what no tick
can know: every process, and everything that ever happened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tinyscheduler.core.cooling import account_of, is_cooling
from tinyscheduler.model.leases import Lease
from tinyscheduler.model.tasks import Outcome, TaskState
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.machine import THAWING_NS
from tinyscheduler.simulator.store import read_lease

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tinyscheduler.model.config import AgentProfile
    from tinyscheduler.simulator.attempts import Attempt
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.launcher import Workshop
    from tinyscheduler.simulator.machine import Machine
    from tinyscheduler.simulator.source import Row, SimulatedQueue

_MOST_VIOLATIONS = 20


@dataclass(eq=False, slots=True, kw_only=True)
class Auditor:
    """Collects violations; an honest world has none."""

    machine: Machine
    disk: Disk
    workshop: Workshop
    queues: Sequence[SimulatedQueue]
    agents: Sequence[AgentProfile]
    host_slots: int
    violations: list[str] = field(default_factory=list)
    # Attempts whose files were broken by a fault: nobody can be blamed for these.
    excused: set[str] = field(default_factory=set)
    # Tasks that their owner wanted to run again, whatever became of them before.
    retried: set[str] = field(default_factory=set)
    _asked_with_room: set[str] = field(default_factory=set)
    _started: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def look(self) -> None:
        """Check what must hold at every instant."""
        live: Counter[str] = Counter()
        occupied: dict[str, str] = {}
        for attempt in self.workshop.attempts.values():
            if attempt.is_live:
                live[attempt.lease.task_id] += 1
            if attempt.is_live or (attempt.wrapper.is_alive and not attempt.has_let_go):
                # Of an unreadable lease only its source can tell the agent, and it may be down.
                is_known = attempt.lease.lease_id not in self.excused
                occupied[attempt.lease.task_id] = attempt.lease.agent if is_known else ""
        for task_id, count in live.items():
            if count > 1:
                self.blame(1, f"task {task_id} has {count} live attempts")
        for task_id, text in self.disk.leases.items():
            lease = read_lease(task_id, text)
            if not isinstance(lease, Lease) or lease.lease_id in self.excused:
                continue
            if lease.lease_id not in self.disk.results:
                occupied.setdefault(task_id, lease.agent)
        self._count(occupied)

    def _count(self, occupied: Mapping[str, str]) -> None:
        if len(occupied) > self.host_slots:
            self.blame(4, f"{len(occupied)} tasks occupy {self.host_slots} slots")
        active = Counter(occupied.values())
        for agent in self.agents:
            if active[agent.name] > agent.limit:
                self.blame(4, f"agent {agent.name} runs {active[agent.name]} of {agent.limit}")

    def note_launch(self, attempt: Attempt) -> None:
        """Check what must hold whenever a tick lets an attempt begin."""
        lease, now = attempt.lease, self.machine.wall
        account = account_of(lease.agent, self.agents)
        cooling = self.disk.coolings.get(account or "")
        if cooling is not None and is_cooling(cooling, now):
            words = f"task {lease.task_id} was started while account {account} was cooling"
            self.blame(15, words)

    def note_start(self, attempt: Attempt) -> None:
        """Check what must hold whenever a command is started."""
        lease = attempt.lease
        key = (lease.source, lease.task_id, lease.attempt)
        self._started[key] += 1
        if self._started[key] > 1:
            self.blame(3, f"attempt {lease.attempt} of task {lease.task_id} was started again")
        others = (
            other
            for other in self.workshop.attempts.values()
            if other is not attempt and _task_of(other.lease) == _task_of(lease)
        )
        has_succeeded = any(other.recorded is Outcome.SUCCEEDED for other in others)
        if has_succeeded and lease.task_id not in self.retried:
            self.blame(3, f"task {lease.task_id} was started again after it had succeeded")
        state = self._state(lease)
        if state is not TaskState.WORKING:
            self.blame(3, f"task {lease.task_id} was started although it is {state}")

    def note_term(self, attempt: Attempt) -> None:
        """Check what must hold whenever a tick asks an attempt to end."""
        lease = attempt.lease
        if self.disk.refusal is Refusal.NOTHING:
            self._asked_with_room.add(lease.lease_id)
        age_s = (self.machine.running_ns - attempt.started_ns) / 1e9
        if attempt.is_live and age_s <= lease.max_runtime_s and self._is_healthy(attempt):
            self.blame(13, f"the healthy attempt {lease.attempt} of task {lease.task_id} was ended")

    def note_kill(self, attempt: Attempt) -> None:
        """Check what must hold whenever a tick kills a wrapper that did not end when asked."""
        lease = attempt.lease
        # No tick can know that the disk will fill while an attempt is being ended.
        is_unlucky = (
            lease.lease_id in self._asked_with_room and self.disk.refusal is not Refusal.NOTHING
        )
        if not attempt.is_live and not is_unlucky and self._is_healthy(attempt):
            words = f"attempt {lease.attempt} of task {lease.task_id} lost its result to a tick"
            self.blame(13, words)

    def _is_healthy(self, attempt: Attempt) -> bool:
        wrapper = attempt.wrapper
        return (
            wrapper.is_alive
            and not wrapper.is_stopped
            and wrapper.thawed_ns + THAWING_NS < self.machine.running_ns
            and attempt.recorded is None
            and attempt.lease.lease_id not in self.excused
        )

    def note_quiet(self) -> None:
        """Check what must hold once faults have stopped and the work had time to end."""
        for queue in self.queues:
            for row in queue.rows.values():
                if not row.state.is_final and not self.is_stuck(row):
                    self.blame(12, f"task {row.task_id} is still {row.state}")
                self._check_success(queue.name, row.task_id, row.state)
        for task_id in self.disk.leases.keys() | self.disk.locks.keys():
            self.blame(12, f"something of task {task_id} is left in the running folder")
        for lease_id in self.disk.results:
            self.blame(12, f"result {lease_id} was not settled")
        for attempt in self.workshop.attempts.values():
            if attempt.is_live:
                self.blame(12, f"processes of task {attempt.lease.task_id} are left")
            if attempt.is_started and not self._is_told(attempt):
                self.blame(2, f"the ledger does not know attempt {attempt.lease.lease_id}")

    def is_stuck(self, row: Row) -> bool:
        """Whether the task waits for one that will never be done: its owner must act."""
        queue = next(queue for queue in self.queues if row.task_id in queue.rows)
        blockers = [queue.rows[task_id] for task_id in queue.blockers(row)]
        return any(blocker.state.is_final or self.is_stuck(blocker) for blocker in blockers)

    def _check_success(self, source: str, task_id: str, state: TaskState) -> None:
        """Whatever recorded its success is done, and nothing else is."""
        recorded = [
            attempt
            for attempt in self.workshop.attempts.values()
            if _task_of(attempt.lease) == (source, task_id)
            if attempt.recorded is Outcome.SUCCEEDED
        ]
        if any(attempt.lease.lease_id in self.excused for attempt in recorded):
            return
        if recorded and state is not TaskState.DONE:
            self.blame(2, f"task {task_id} succeeded, yet it is {state}")
        if state is TaskState.DONE and not recorded:
            self.blame(2, f"task {task_id} is done, yet no attempt succeeded")

    def _is_told(self, attempt: Attempt) -> bool:
        lease_id = attempt.lease.lease_id
        return lease_id in self.disk.ledger or lease_id in self.excused

    def _state(self, lease: Lease) -> TaskState:
        queue = next(queue for queue in self.queues if queue.name == lease.source)
        return queue.rows[lease.task_id].state

    def blame(self, invariant: int, words: str) -> None:
        """Keep a violation, with the moment it was seen."""
        text = f"invariant {invariant} at {self.machine.running_ns / 1e9:.3f} s: {words}"
        if len(self.violations) < _MOST_VIOLATIONS:
            self.violations.append(text)


def _task_of(lease: Lease) -> tuple[str, str]:
    return (lease.source, lease.task_id)
