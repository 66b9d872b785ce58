"""What can go wrong: processes die, stop and freeze, disks fill, clocks jump, sources fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.leases import Lease, LeaseState
from tinyscheduler.model.tasks import TaskState
from tinyscheduler.simulator.disk import Refusal
from tinyscheduler.simulator.source import Trouble
from tinyscheduler.simulator.store import read_lease
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.simulator.chance import Chance
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.world import SimulatedWorld

TICKS = frozenset({"tick", "cancel"})
WRAPPERS = frozenset({"wrapper"})
_NEWER = '{"version": 99}'
_BROKEN = ("", "{", "\x00\x00\x00", "[]", '{"version": 1}')


@dataclass(eq=False, slots=True, kw_only=True)
class DeathAt:
    """Kills one process at exactly the nth point that such processes come to.

    Without an index it only counts, so that a test can go through all of them.
    """

    programs: frozenset[str]
    index: int | None = None
    seen: list[str] = field(default_factory=list)

    def __call__(self, process: Process, point: str) -> None:
        """Count the point, and kill whoever comes to the one that was meant."""
        if process.program not in self.programs:
            return
        self.seen.append(point)
        if self.index == len(self.seen) - 1:
            process.machine.kill(process)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often things go wrong: chances per point or step, and a mean time in seconds."""

    kill_tick: float = 0.0015
    freeze_tick: float = 0.001
    kill_wrapper: float = 0.01
    stop_wrapper: float = 0.003
    trouble_every_s: float = 45.0


@dataclass(eq=False, slots=True, kw_only=True)
class FaultInjector:
    """Breaks a world at random, until told to stop; ``log`` says what it did when."""

    world: SimulatedWorld
    chance: Chance
    rates: Rates = field(default_factory=Rates)
    is_active: bool = True
    log: list[str] = field(default_factory=list)
    turned_back_s: float = 0.0  # how far the wall clock was set back, all in all
    _newer: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Take over the world's points and latencies, and let trouble come."""
        machine = self.world.machine
        machine.on_point = self.pass_point
        machine.latency = self._latency
        self._await_trouble()

    def stop(self) -> None:
        """Repair everything that an operator would; what was killed stays dead."""
        self.is_active = False
        self._say("faults stop")
        self.world.disk.refusal = Refusal.NOTHING
        for queue in self.world.queues:
            queue.trouble = Trouble.NONE
        self._let_launch()
        for task_id, text in self._newer.items():
            if self.world.disk.leases.get(task_id) == _NEWER:
                self.world.disk.leases[task_id] = text
        # Of a hung wrapper whose lease is unreadable no tick can know how long to wait.
        for attempt in self.world.workshop.attempts.values():
            if attempt.lease.lease_id in self.world.auditor.excused and attempt.wrapper.is_stopped:
                self.world.machine.kill(attempt.wrapper)

    def pass_point(self, process: Process, point: str) -> None:
        """Let the world go on a little at each point, and now and then break something."""
        machine, chance = self.world.machine, self.chance
        if process.program in TICKS:
            if chance.happens(0.3):
                machine.advance(chance.between(0, 0.02))
            if self.is_active and chance.happens(self.rates.kill_tick):
                self._say(f"{process.program} killed at {point}")
                machine.kill(process)
            elif self.is_active and chance.happens(self.rates.freeze_tick):
                seconds = chance.between(1, 120)
                self._say(f"{process.program} frozen at {point} for {seconds:.0f} s")
                machine.advance(seconds)
        elif process.program in WRAPPERS and self.is_active:
            if chance.happens(self.rates.kill_wrapper):
                self._say(f"wrapper {process.pid} killed at {point}")
                machine.kill(process)
            elif chance.happens(self.rates.stop_wrapper):
                self._stop(process, point)

    # -- trouble ------------------------------------------------------------------

    def _await_trouble(self) -> None:
        delay_s = self.chance.after(self.rates.trouble_every_s)
        self.world.machine.schedule(delay_s, self._come_to_trouble)

    def _come_to_trouble(self) -> None:
        if self.is_active:
            self._await_trouble()
            self.chance.pick(self._troubles())()

    def _troubles(self) -> list[Callable[[], None]]:
        return [
            self._fill_disk,
            self._break_source,
            self._freeze_all,
            self._freeze_all,
            self._freeze_twice,
            self._suspend,
            self._step_wall,
            self._reboot,
            self._kill_something,
            self._kill_something,
            self._spoil_lease,
            self._spoil_lease,
            self._spoil_result,
            self._spoil_memory,
            self._refuse_launches,
            self._cancel_something,
            self._cancel_something,
            self._retry_something,
        ]

    def _fill_disk(self) -> None:
        refusal = self.chance.pick((Refusal.BYTES, Refusal.BYTES, Refusal.EVERYTHING))
        seconds = self.chance.between(1, 200)
        self._say(f"disk refuses {refusal.value} for {seconds:.0f} s")
        self.world.disk.refusal = refusal
        for queue in self.world.queues:
            queue.trouble = Trouble.READ_ONLY
        self.world.machine.schedule(seconds, self._mend)

    def _break_source(self) -> None:
        queue = self.chance.pick(self.world.queues)
        queue.trouble = self.chance.pick((Trouble.DOWN, Trouble.FORGETFUL))
        seconds = self.chance.between(1, 150)
        self._say(f"source {queue.name} is {queue.trouble.value} for {seconds:.0f} s")
        self.world.machine.schedule(seconds, self._mend)

    def _mend(self) -> None:
        self.world.disk.refusal = Refusal.NOTHING
        for queue in self.world.queues:
            queue.trouble = Trouble.NONE

    def _freeze_all(self) -> None:
        seconds = self.chance.between(1, 120)
        self._say(f"everything frozen for {seconds:.0f} s")
        self.world.machine.freeze(seconds)

    def _freeze_twice(self) -> None:
        self._freeze_all()
        self.world.machine.schedule(self.chance.between(0, 1), self._freeze_all)

    def _suspend(self) -> None:
        seconds = self.chance.between(60, 20_000)
        self._say(f"suspended for {seconds:.0f} s")
        self.world.machine.suspend(seconds)

    def _step_wall(self) -> None:
        seconds = self.chance.pick((-3600.0, -30.0, 30.0, 3600.0))
        self._say(f"wall clock set by {seconds:.0f} s")
        self.turned_back_s += max(0.0, -seconds)
        self.world.machine.step_wall(seconds)

    def _reboot(self) -> None:
        """Lose power: a lease that was written without fsync may be as before, or empty."""
        self._say("reboot")
        self.world.machine.reboot(self.chance.between(10, 120))
        for task_id, lease in self._readable_leases().items():
            if lease.state is LeaseState.STARTING:
                continue
            if self.chance.happens(0.3):
                # That it ran is forgotten; no excuse, for the tick must come to the same.
                self._say(f"lease {lease.lease_id} of task {task_id} is starting again after it")
                before = replace(lease, state=LeaseState.STARTING, process=None)
                self.world.disk.leases[task_id] = json.dumps(encode_lease(before))
            elif self.chance.happens(0.2):
                self._say(f"lease {lease.lease_id} of task {task_id} is empty after it")
                self.world.auditor.excused.add(lease.lease_id)
                self.world.disk.leases[task_id] = ""

    def _kill_something(self) -> None:
        victims = [
            process
            for process in self.world.machine.processes.values()
            if process.program not in TICKS
        ]
        if victims:
            victim = self.chance.pick(victims)
            self._say(f"{victim.program} {victim.pid} killed")
            self.world.machine.kill(victim)

    def _stop(self, process: Process, point: str) -> None:
        self._say(f"wrapper {process.pid} stopped at {point}")
        self.world.machine.stop(process)
        if self.chance.happens(0.6):
            seconds = self.chance.between(1, 200)
            self.world.machine.schedule(seconds, partial(self.world.machine.resume, process))

    def _spoil_lease(self) -> None:
        """Delete a lease file, or fill it with something else."""
        disk, leases = self.world.disk, self._readable_leases()
        if not leases:
            return
        task_id = self.chance.pick(list(leases))
        lease, text = leases[task_id], disk.leases[task_id]
        self.world.auditor.excused.add(lease.lease_id)
        spoiled = self.chance.pick((None, _NEWER, *_BROKEN, text[: len(text) // 2]))
        self._say(f"lease {lease.lease_id} of task {task_id} becomes {(spoiled or '')[:20]!r}")
        if spoiled is None:
            del disk.leases[task_id]
        else:
            disk.leases[task_id] = spoiled
        if spoiled is _NEWER:
            self._newer[task_id] = text

    def _readable_leases(self) -> dict[str, Lease]:
        found = {}
        for task_id, text in self.world.disk.leases.items():
            lease = read_lease(task_id, text)
            if isinstance(lease, Lease):
                found[task_id] = lease
        return found

    def _spoil_result(self) -> None:
        results = self.world.disk.results
        if results:
            lease_id = self.chance.pick(sorted(results))
            self._say(f"result {lease_id} becomes garbage")
            self.world.auditor.excused.add(lease_id)
            results[lease_id] = self.chance.pick(_BROKEN)

    def _spoil_memory(self) -> None:
        self._say("scheduling memory becomes garbage")
        self.world.disk.memory = "garbage"

    def _refuse_launches(self) -> None:
        seconds = self.chance.between(1, 100)
        if self.chance.pick((True, False)):
            self._say(f"there is no process to spare for {seconds:.0f} s")
            self.world.workshop.exhaustion = "no process to spare"
        else:
            self._say(f"nothing can be launched for {seconds:.0f} s")
            self.world.workshop.refuse_launch = lambda _task_id: "the program is missing"
        self.world.machine.schedule(seconds, self._let_launch)

    def _let_launch(self) -> None:
        self.world.workshop.refuse_launch = lambda _task_id: None
        self.world.workshop.exhaustion = None

    def _cancel_something(self) -> None:
        queue = self.chance.pick(self.world.queues)
        open_rows = [row.task_id for row in queue.rows.values() if not row.state.is_final]
        if open_rows:
            task_id = self.chance.pick(open_rows)
            self._say(f"task {task_id} cancelled while {queue.state(task_id)}")
            self.world.cancel(task_id)

    def _retry_something(self) -> None:
        queue = self.chance.pick(self.world.queues)
        ended = [
            row.task_id
            for row in queue.rows.values()
            if row.state.is_final and row.state is not TaskState.DONE
        ]
        if ended:
            task_id = self.chance.pick(ended)
            self._say(f"task {task_id} retried")
            self.world.auditor.retried.add(task_id)
            queue.retry(task_id)

    def _latency(self) -> float:
        """Return how late a process runs: mostly hardly, on a busy machine a second."""
        return self.chance.between(0, 0.9 if self.chance.happens(0.03) else 0.03)

    def _say(self, words: str) -> None:
        self.log.append(f"{self.world.machine.running_ns / 1e9:10.3f} {words}")
