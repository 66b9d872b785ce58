"""The launcher port on a simulated computer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tinyscheduler.errors import ExhaustedError, LaunchError
from tinyscheduler.model.leases import ProcessEvidence, Run, WrapperLife
from tinyscheduler.simulator.attempts import Attempt, Script, Wrapper
from tinyscheduler.simulator.probe import PID_NAMESPACE
from tinyscheduler.simulator.store import SimulatedTaskLock
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tinyscheduler.model.leases import Lease, Trace
    from tinyscheduler.model.tasks import TaskSpec
    from tinyscheduler.ports import TaskLock
    from tinyscheduler.simulator.disk import Disk
    from tinyscheduler.simulator.machine import Process

_LOOK_S = 0.02
_MOST_ENDING_S = 5.0


def _succeed(_task_id: str, _attempt: int) -> Script:
    return Script()


def _ignore(_attempt: Attempt) -> None:
    return


def _stay(_process: Process) -> None:
    return


@dataclass(eq=False, slots=True, kw_only=True)
class Workshop:
    """All that launchers of one computer share: what was ever launched, and how it goes."""

    disk: Disk
    script: Callable[[str, int], Script] = _succeed
    become_tick: Callable[[Process], None] = _stay
    on_launch: Callable[[Attempt], None] = _ignore
    on_command_start: Callable[[Attempt], None] = _ignore
    # A tick is about to end this attempt: with SIGTERM, and then its wrapper with SIGKILL.
    on_term: Callable[[Attempt], None] = _ignore
    on_kill: Callable[[Attempt], None] = _ignore
    kill_grace_s: float = 5.0
    is_kick_enabled: bool = True
    # Why a task cannot be prepared or spawned now, if so.
    refuse_prepare: Callable[[str], str | None] = lambda _task_id: None
    refuse_launch: Callable[[str], str | None] = lambda _task_id: None
    # What the computer has none of left, if so.
    exhaustion: str | None = None
    attempts: dict[str, Attempt] = field(default_factory=dict)  # by lease id

    def launch_fault(self, task_id: str) -> LaunchError | None:
        """Return why this task cannot be spawned now, or None."""
        if self.exhaustion is not None:
            return ExhaustedError(self.exhaustion, hint="free some of it")
        why = self.refuse_launch(task_id)
        return None if why is None else LaunchError(why, hint="the next tick tries again")


class SimulatedLauncher:
    """Starts wrappers on the simulated computer, and ends what must be ended."""

    def __init__(self, process: Process, workshop: Workshop) -> None:
        """Launch as this process."""
        self._process = process
        self._machine = process.machine
        self._workshop = workshop

    def prepare(self, lease: Lease, spec: TaskSpec) -> Lease:
        """Return the lease with its run."""
        self._process.reach("launch.prepare")
        why = self._workshop.refuse_prepare(lease.task_id)
        if why is not None:
            raise LaunchError(why, hint="mend the script of this world")
        return replace(
            lease,
            recipe=spec.recipe,
            run=Run(
                argv=spec.command,
                cwd="/",
                stdin=None,
                log=f"/logs/{lease.task_id}/{lease.attempt}.log",
                log_max_bytes=0,
                kill_grace_s=self._workshop.kill_grace_s,
                idle_output_s=None,
                results="/results",
                cancel="/cancel",
                kick="/kick",
                tick_lock="/tick",
                daemon_lock="/daemon",
                kick_argv=("tick",) if self._workshop.is_kick_enabled else (),
            ),
        )

    def launch(self, lease: Lease, lock: TaskLock) -> None:
        """Start the wrapper and share the lock with it."""
        assert isinstance(lock, SimulatedTaskLock)  # noqa: S101 - wired together by the world
        fault = self._workshop.launch_fault(lease.task_id)
        if fault is not None:
            self._process.reach("launch.spawn")
            raise fault
        with self._process.doing("launch.spawn"):
            wrapper = self._machine.spawn("wrapper")
            lock.share(wrapper)
            attempt = Attempt(lease=lease, wrapper=wrapper)
            self._workshop.attempts[lease.lease_id] = attempt
            self._workshop.on_launch(attempt)
            program = Wrapper(
                machine=self._machine,
                disk=self._workshop.disk,
                process=wrapper,
                task_id=lease.task_id,
                description=lock.description(),
                script=self._workshop.script,
                attempts=self._workshop.attempts,
                on_command_start=self._workshop.on_command_start,
                become_tick=self._workshop.become_tick,
            )
            self._machine.begin(wrapper, program.life())

    def inspect(self, traces: Sequence[Trace]) -> Mapping[str, ProcessEvidence]:
        """Return what lives of each attempt."""
        self._process.reach("launch.inspect")
        return {trace.lease_id: self._inspect(trace) for trace in traces}

    def end(self, traces: Sequence[Trace], *, grace_s: float) -> frozenset[str]:
        """SIGTERM to living wrappers, then SIGKILL to everything, until nothing is left."""
        self._process.reach("launch.end")
        asked = [trace for trace in traces if self._judge(trace) is WrapperLife.ALIVE]
        for trace in asked:
            attempt = self._workshop.attempts[trace.lease_id]
            self._workshop.on_term(attempt)
            self._machine.terminate(attempt.wrapper)
            self._process.reach("launch.end.term")
        waited_s = 0.0
        while asked and waited_s < grace_s + 1:
            self._wait()
            waited_s += _LOOK_S
            asked = [trace for trace in asked if self._judge(trace) is WrapperLife.ALIVE]
        waited_s = 0.0
        while any(self._tree(trace) for trace in traces) and waited_s < _MOST_ENDING_S:
            for trace in traces:
                if self._tree(trace):
                    self._kill(trace)
            self._wait()
            waited_s += _LOOK_S
        self._process.reach("launch.ended")
        return frozenset(trace.lease_id for trace in traces if not self._tree(trace))

    def _kill(self, trace: Trace) -> None:
        attempt = self._workshop.attempts[trace.lease_id]
        tree = self._tree(trace)
        if attempt.wrapper in tree:
            self._workshop.on_kill(attempt)
        for process in tree:
            self._machine.kill(process)

    def _wait(self) -> None:
        self._machine.advance(_LOOK_S)
        self._process.reach("launch.end.wait")

    def _inspect(self, trace: Trace) -> ProcessEvidence:
        life = self._judge(trace)
        if trace.is_lock_held and trace.is_leased and life is not WrapperLife.DEAD:
            return ProcessEvidence(wrapper=life)
        tree = self._tree(trace)
        if not trace.is_leased and not any(one.program == "wrapper" for one in tree):
            life = WrapperLife.DEAD
        return ProcessEvidence(wrapper=life, survivors=len(tree))

    def owners(self, pids: Sequence[int]) -> Mapping[int, str | None]:
        """Return whose each living process is."""
        self._process.reach("launch.owners")
        members = {
            process.pid: lease_id
            for lease_id, attempt in self._workshop.attempts.items()
            for process in (attempt.wrapper, *attempt.living())
        }
        living = self._machine.processes
        return {pid: members.get(pid) for pid in pids if pid in living and living[pid].is_alive}

    def _judge(self, trace: Trace) -> WrapperLife:
        identity = trace.process
        if identity is None:
            return WrapperLife.UNRECORDED
        if identity.boot_id != self._machine.boot_id:
            return WrapperLife.DEAD
        if identity.pid_ns != PID_NAMESPACE:
            return WrapperLife.UNSEEN
        if identity.pid == self._process.pid:
            return WrapperLife.DEAD
        alive = self._machine.find(identity.pid, identity.start_ticks)
        return WrapperLife.ALIVE if alive is not None else WrapperLife.DEAD

    def _tree(self, trace: Trace) -> list[Process]:
        """Return the living processes of an attempt, this one never among them.

        The wrapper belongs to it while it holds the lock or is recorded: by its session.
        """
        attempt = self._workshop.attempts.get(trace.lease_id)
        if attempt is None:
            return []
        wrapper = attempt.wrapper
        found = attempt.living()
        if wrapper.is_alive and (not attempt.has_let_go or trace.process is not None):
            found.append(wrapper)
        return [process for process in found if process is not self._process]
