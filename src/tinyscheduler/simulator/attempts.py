"""What do wrappers and their commands do?  The protocol of `wrapper.py`, step by step.

A wrapper is a life: each pause names the step it comes to next, and there it can be
killed, stopped or delayed.  What its command does is written in a `Script`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tinyscheduler.model.clock import format_time
from tinyscheduler.model.documents import encode_lease
from tinyscheduler.model.leases import Lease, LeaseState, ProcessIdentity
from tinyscheduler.model.tasks import FailureReason, Outcome
from tinyscheduler.simulator.machine import Pause
from tinyscheduler.simulator.probe import PID_NAMESPACE
from tinyscheduler.simulator.store import read_lease
from tinyscheduler.simulator.tick_lock import wish
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Description, Machine, Process

EXIT_RETRY_LATER = 75
_START_S = 0.03  # until the interpreter of a wrapper runs
_GLANCE_S = 0.5  # how long a request to cancel goes unnoticed at most
_RESULT_RETRY_S = 1.0
_MOMENT_S = 0.002
# What an end of the wrapper's own making counts as; all others are failures.
_OUTCOMES = {
    FailureReason.CANCELLED: Outcome.CANCELLED,
    FailureReason.ABORTED: Outcome.INTERRUPTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process that a command leaves behind in the background."""

    starts_after_s: float = 0.1
    runs_s: float = 30.0
    ignores_term: bool = False
    holds_lock: bool = True  # it kept the inherited descriptor
    stuck_s: float = 0.0  # uninterruptible for so long after its start


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a command does.  ``stuck_s`` is time in uninterruptible sleep after its start.

    It tells its ``turns`` at its end; more than it may take are too many then.  Where its provider
    ``refused`` it, it says so at its end: as what that counts, and in which words.
    """

    runs_s: float = 1.0
    exit_code: int = 0
    ignores_term: bool = False
    stuck_s: float = 0.0
    children: tuple[Child, ...] = ()
    turns: int | None = None
    refused: tuple[FailureReason, str] | None = None
    found_nothing: bool = False  # its last line says that there was nothing to do


@dataclass(eq=False, slots=True, kw_only=True)
class Attempt:
    """One attempt as it really was, for launchers to find and auditors to judge."""

    lease: Lease
    wrapper: Process
    command: Process | None = None
    is_started: bool = False  # the command was let go
    started_ns: int = 0  # from when on its runtime counts, in running time
    exit_code: int | None = None
    signal: int | None = None
    members: list[Process] = field(default_factory=list)  # the command's tree
    recorded: Outcome | None = None  # of the durable result
    tree_ended_ns: int | None = None
    has_let_go: bool = False

    def living(self) -> list[Process]:
        """Return the living processes of the command's tree."""
        return [process for process in self.members if process.is_alive]

    @property
    def is_live(self) -> bool:
        """Whether anything of it still works: a started command, or what that left."""
        return self.is_started and any(process.is_alive for process in self.members)


@dataclass(eq=False, slots=True, kw_only=True)
class Wrapper:
    """The program of one wrapper process."""

    machine: Machine
    disk: Disk
    process: Process
    task_id: str
    description: Description
    script: Callable[[str, int], Script]
    attempts: dict[str, Attempt]
    on_command_start: Callable[[Attempt], None]
    become_tick: Callable[[Process], None]
    lease: Lease = field(init=False)
    attempt: Attempt = field(init=False)
    why: tuple[FailureReason, str] | None = None
    turns: int | None = None
    kill_at_ns: int | None = None
    next_beat_ns: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    started_wall: datetime = field(init=False)
    ended_wall: datetime = field(init=False)

    def life(self) -> Iterator[Pause]:
        """Live from the exec of the interpreter to the exec of a tick."""
        yield Pause(seconds=_START_S, step="wrapper.take_over")
        if not self._take_over():
            return
        yield from self._start()
        if not self.attempt.is_started and self.why is None:
            return
        yield from self._watch()
        yield from self._end_leftovers()
        yield from self._record()
        yield from self._let_go()

    # -- start --------------------------------------------------------------------

    def _take_over(self) -> bool:
        """Read the lease, having made sure that the lock is the one that bears its name."""
        if self.disk.locks.get(self.task_id) is not self.description.lock:
            return False
        lease = read_lease(self.task_id, self.disk.leases.get(self.task_id, ""))
        if not isinstance(lease, Lease) or lease.state is not LeaseState.STARTING:
            return False
        self.lease = lease
        self.attempt = self.attempts[lease.lease_id]
        return True

    def _start(self) -> Iterator[Pause]:
        """Fork the command, write ``running``, and only then let the command go."""
        machine, now = self.machine, self.machine.now()
        self.attempt.started_ns = machine.running_ns
        self.started_ns, self.started_wall = now.monotonic_ns, now.wall
        self.ended_ns, self.ended_wall = self.started_ns, self.started_wall
        command = self._spawn("command")
        self.attempt.command = command
        # PR_SET_PDEATHSIG: the direct child never outlives its wrapper.
        self.process.on_death.append(lambda: machine.kill(command))
        self.lease = replace(
            self.lease,
            state=LeaseState.RUNNING,
            started_at=now.wall,
            monotonic_started_ns=now.monotonic_ns,
            process=ProcessIdentity(
                boot_id=machine.boot_id,
                pid=self.process.pid,
                start_ticks=self.process.start_ticks,
                pgid=command.pid,
                pid_ns=PID_NAMESPACE,
            ),
        )
        self._beat()
        yield Pause(seconds=_MOMENT_S, step="wrapper.running:before")
        try:
            self._write_lease()
        except OSError:
            machine.kill(command)
            return
        yield Pause(seconds=_MOMENT_S, step="wrapper.running:after")
        command.on_death.append(lambda: machine.wake(self.process))
        if self._is_cancelled():
            self.why = (FailureReason.CANCELLED, "cancelled before the command started")
            self.attempt.exit_code = 0
            machine.kill(command)
        else:
            yield Pause(seconds=_MOMENT_S, step="wrapper.command:before")
            self._let_command_go(command)
            yield Pause(seconds=_MOMENT_S, step="wrapper.command:after")

    def _let_command_go(self, command: Process) -> None:
        self.attempt.is_started = True
        script = self._script()
        self.turns = script.turns
        self._listen(command, ignores_term=script.ignores_term)
        command.stuck_until_ns = self.machine.running_ns + round(script.stuck_s * 1e9)
        self.machine.schedule(script.runs_s, partial(self._exit, script.exit_code), command)
        for child in script.children:
            self.machine.schedule(child.starts_after_s, partial(self._fork, child), command)
        self.on_command_start(self.attempt)

    def _exit(self, code: int) -> None:
        command = self.attempt.command
        if command is not None and command.is_alive:
            command.stuck_until_ns = 0
            self.attempt.exit_code = code
            self.machine.kill(command)

    def _fork(self, child: Child) -> None:
        process = self._spawn("left-over", holds_lock=child.holds_lock)
        process.stuck_until_ns = self.machine.running_ns + round(child.stuck_s * 1e9)
        process.on_death.append(lambda: self.machine.wake(self.process))
        self._listen(process, ignores_term=child.ignores_term)
        self.machine.schedule(child.runs_s, partial(self.machine.kill, process), process)

    def _spawn(self, program: str, *, holds_lock: bool = True) -> Process:
        process = self.machine.spawn(program)
        if holds_lock:
            self.description.share(process)
        self.attempt.members.append(process)
        process.on_death.append(self._note_end)
        return process

    def _note_end(self) -> None:
        if not self.attempt.living():
            self.attempt.tree_ended_ns = self.machine.running_ns

    def _listen(self, process: Process, *, ignores_term: bool) -> None:
        """Let a process of the command end when it is asked to, unless it is deaf."""
        if not ignores_term:
            process.on_terminate = partial(self.machine.kill, process)

    # -- watch --------------------------------------------------------------------

    def _watch(self) -> Iterator[Pause]:
        """Beat until the command has ended, and end it where needed."""
        command = self.attempt.command
        assert command is not None  # noqa: S101 - it was forked
        while command.is_alive:
            yield self._pause("wrapper.watch")
            self._beat_if_due()
            if command.is_alive:
                self._end_if_needed()
        now = self.machine.now()
        self.ended_ns, self.ended_wall = now.monotonic_ns, now.wall
        if self.attempt.exit_code is None:
            self.attempt.signal = 9

    def _pause(self, step: str) -> Pause:
        due_ns = self.next_beat_ns
        if self.kill_at_ns is not None:
            due_ns = min(due_ns, self.kill_at_ns)
        elif step == "wrapper.watch":
            due_ns = min(due_ns, self.started_ns + round(self.lease.max_runtime_s * 1e9) + 1)
        left_s = (due_ns - self.machine.monotonic_ns) / 1e9
        return Pause(seconds=max(left_s, _MOMENT_S), step=step, is_interruptible=True)

    def _end_if_needed(self) -> None:
        if self.why is None:
            self.why = self._reason_to_end()
        if self.why is None:
            return
        now_ns = self.machine.monotonic_ns
        if self.kill_at_ns is None:
            self.kill_at_ns = now_ns + round(self.lease.run.kill_grace_s * 1e9)
            self._signal(self.machine.terminate)
        elif now_ns >= self.kill_at_ns:
            self._signal(self.machine.kill)
            self.kill_at_ns = now_ns + 100_000_000

    def _reason_to_end(self) -> tuple[FailureReason, str] | None:
        if self._is_cancelled():
            return (FailureReason.CANCELLED, "cancelled by its owner")
        if self.process.is_terminated:
            return (FailureReason.ABORTED, "its wrapper was asked to end (SIGTERM)")
        if self.machine.monotonic_ns - self.started_ns > self.lease.max_runtime_s * 1e9:
            return (FailureReason.TIMEOUT, "ran longer than its maximum")
        return None

    def _signal(self, send: Callable[[Process], None]) -> None:
        for process in self.attempt.living():
            send(process)

    def _is_cancelled(self) -> bool:
        return self.lease.lease_id in self.disk.cancels

    # -- heartbeat ----------------------------------------------------------------

    def _beat_if_due(self) -> None:
        if self.machine.monotonic_ns >= self.next_beat_ns:
            self._beat()
            self._copy_lease()

    def _beat(self) -> None:
        now = self.machine.now()
        self.next_beat_ns = now.monotonic_ns + round(self.lease.heartbeat_s * 1e9)
        self.lease = replace(
            self.lease, heartbeat=now.wall, monotonic_heartbeat_ns=now.monotonic_ns
        )
        try:
            self.disk.beat(self.description.lock, now.monotonic_ns)
        except OSError:
            return

    def _copy_lease(self) -> None:
        try:
            self._write_lease()
        except OSError:
            return

    def _write_lease(self) -> None:
        self.disk.write(self.disk.leases, self.task_id, json.dumps(encode_lease(self.lease)))

    # -- end ----------------------------------------------------------------------

    def _end_leftovers(self) -> Iterator[Pause]:
        """End every process that the command left behind."""
        grace_ns = round(self.lease.run.kill_grace_s * 1e9)
        self.kill_at_ns = self.machine.monotonic_ns + grace_ns
        is_asked = False
        while self.attempt.living():
            if not is_asked:
                is_asked = True
                self._signal(self.machine.terminate)
            elif self.machine.monotonic_ns >= self.kill_at_ns:
                self._signal(self.machine.kill)
                self.kill_at_ns = self.machine.monotonic_ns + 20_000_000
            yield self._pause("wrapper.leftovers")
            self._beat_if_due()

    def _record(self) -> Iterator[Pause]:
        """Write the result; where the disk refuses keep trying, and keep beating."""
        text = json.dumps(self._result())
        yield Pause(seconds=_MOMENT_S, step="wrapper.result:before")
        while True:
            try:
                self.disk.write(self.disk.results, self.lease.lease_id, text)
            except OSError:
                self._beat_if_due()
                yield Pause(seconds=_RESULT_RETRY_S, step="wrapper.result:retry")
            else:
                break
        self.attempt.recorded = self._outcome()[0]
        yield Pause(seconds=_MOMENT_S, step="wrapper.result:after")
        self.lease = replace(self.lease, state=LeaseState.FINISHED)
        self._copy_lease()

    def _result(self) -> dict[str, object]:
        outcome, reason, message = self._outcome()
        return {
            "version": 1,
            "lease_id": self.lease.lease_id,
            "task_id": self.lease.task_id,
            "source": self.lease.source,
            "agent": self.lease.agent,
            "attempt": self.lease.attempt,
            "outcome": outcome.value,
            "failure_reason": reason.value if reason is not None else None,
            "exit_code": self.attempt.exit_code,
            "signal": self.attempt.signal,
            "message": message,
            "started_at": format_time(self.started_wall),
            "ended_at": format_time(self.ended_wall),
            "duration_sec": (self.ended_ns - self.started_ns) / 1e9,
            "turns": self.turns,
            "peak_rss_mb": None,
            "found_nothing": outcome is Outcome.SUCCEEDED and self._script().found_nothing,
            "log": self.lease.run.log,
        }

    def _script(self) -> Script:
        return self.script(self.lease.task_id, self.lease.attempt)

    def _outcome(self) -> tuple[Outcome, FailureReason | None, str]:
        if self.why is not None:
            reason, words = self.why
            return (_OUTCOMES.get(reason, Outcome.FAILED), reason, words)
        if (self.turns or 0) > (self.lease.max_turns or math.inf):
            return (Outcome.FAILED, FailureReason.TURN_LIMIT_EXCEEDED, "took too many turns")
        code, refused = self.attempt.exit_code, self._script().refused
        if refused is not None and code is not None:
            return (Outcome.FAILED, *refused)
        if code == 0:
            return (Outcome.SUCCEEDED, None, "")
        if self.process.is_terminated:
            return (Outcome.INTERRUPTED, FailureReason.ABORTED, "its wrapper was asked to end")
        if code == EXIT_RETRY_LATER:
            return (Outcome.RETRY_LATER, None, "asked to be tried again later")
        words = "ended by a signal" if code is None else f"exit code {code}"
        return (Outcome.FAILED, FailureReason.COMMAND_FAILED, words)

    def _let_go(self) -> Iterator[Pause]:
        """Let go of the lock, wish for a tick, and become one unless one is at work."""
        yield Pause(seconds=_MOMENT_S, step="wrapper.lock:before")
        self.description.drop(self.process)
        self.attempt.has_let_go = True
        yield Pause(seconds=_MOMENT_S, step="wrapper.lock:after")
        if not self.lease.run.kick_argv:
            return
        yield Pause(seconds=_MOMENT_S, step="wrapper.kick:before")
        wish(self.disk)
        yield Pause(seconds=_MOMENT_S, step="wrapper.kick:after")
        if self.disk.tick_lock.is_held or self.disk.daemon_lock.is_held:
            return
        yield Pause(seconds=_START_S, step="wrapper.kicked:before")
        self.become_tick(self.process)
