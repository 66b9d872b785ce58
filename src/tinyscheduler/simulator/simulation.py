"""One run from one seed: work and faults for a while, then peace, in which all must end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from tinyscheduler.core.switches import LOGIN_KEEPER
from tinyscheduler.model.tasks import FailureReason, TaskSpec, TaskState
from tinyscheduler.simulator.attempts import EXIT_RETRY_LATER, Child, Script
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.faults import FaultInjector, Rates
from tinyscheduler.simulator.tick_lock import wish
from tinyscheduler.simulator.world import SETTINGS, SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.simulator.source import Row
    from tinyscheduler.tick import TickSettings, World

_LOOK_S = 300.0
_LOGIN_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a run: violations with what led to them, and what happened in it."""

    seed: int
    violations: tuple[str, ...]
    log: tuple[str, ...]
    attempts: int
    ended: dict[str, TaskState]

    def describe(self) -> str:
        """Return all that a person needs in order to see it happen again."""
        lines = [f"--seed {self.seed}", *self.violations, "what went wrong before:", *self.log]
        return "\n".join(lines)


@dataclass(eq=False, slots=True, kw_only=True)
class Simulation:
    """A seeded world with work and faults in it."""

    seed: int
    settings: TickSettings = SETTINGS
    rates: Rates = field(default_factory=Rates)
    fault_s: float = 1200.0
    peace_s: float = 4 * 3600.0
    tasks: int = 12
    world: SimulatedWorld = field(init=False)
    faults: FaultInjector = field(init=False)
    _chance: Chance = field(init=False)

    def __post_init__(self) -> None:
        """Build the world and its troubles from the seed."""
        self._chance = Chance(self.seed, "work")
        self.world = SimulatedWorld(settings=self.settings)
        if self._chance.happens(0.3):
            self.world.add_queue("remote", prefix="remote-")
        self.world.workshop.script = self.script
        self.faults = FaultInjector(
            world=self.world, chance=Chance(self.seed, "faults"), rates=self.rates
        )

    def rewire(self, change: Callable[[World, Process], World]) -> None:
        """Replace ports of every tick, so that a test can break a rule."""
        self.world.rewire = change

    def run(self) -> Verdict:
        """Run until all has ended, or should have."""
        machine, auditor = self.world.machine, self.world.auditor
        for number in range(self.tasks):
            delay_s = 0.0 if number < self.tasks // 2 else self._chance.between(0, self.fault_s)
            machine.schedule(delay_s, self._add)
        self.faults.begin()
        self.world.start_cron()
        machine.schedule(_LOGIN_S, self._log_in)
        if self._chance.happens(0.3):
            self.world.start_daemon()
        self._go_on(self.fault_s)
        self.faults.stop()
        left_s = self.peace_s + self.faults.turned_back_s
        while left_s > 0 and not auditor.violations and not self._is_quiet():
            self._go_on(_LOOK_S)
            left_s -= _LOOK_S
        if not auditor.violations:
            auditor.note_quiet()
        if not auditor.violations:
            self._check_idempotence()
        return Verdict(
            seed=self.seed,
            violations=tuple(auditor.violations),
            log=tuple(self.faults.log),
            attempts=len(self.world.workshop.attempts),
            ended={row.task_id: row.state for row in self._rows()},
        )

    def script(self, task_id: str, attempt: int) -> Script:
        """Return what this attempt does, the same for the same seed."""
        chance = Chance(self.seed, "script", task_id, attempt)
        children = tuple(self._child(chance) for _ in range(chance.count(0, 2)))
        return Script(
            runs_s=chance.pick((0.05, chance.between(0, 20), chance.between(10, 300))),
            exit_code=chance.pick((0, 0, 0, 1, EXIT_RETRY_LATER)),
            ignores_term=chance.happens(0.2),
            stuck_s=chance.between(1, 90) if chance.happens(0.05) else 0.0,
            children=children,
            refused=self._refusal(chance),
        )

    def _refusal(self, chance: Chance) -> tuple[FailureReason, str] | None:
        """Return what its provider has against it: mostly nothing."""
        if not chance.happens(0.1):
            return None
        told = chance.pick(("", "later", "in 20ms", f"in {chance.count(1, 300)} s"))
        return chance.pick(
            (
                (FailureReason.RATE_LIMITED, f"rate limit reached, try again {told}"),
                (FailureReason.RATE_LIMITED, "overloaded"),
                (FailureReason.AUTH_FAILED, "please log in"),
            )
        )

    def _log_in(self) -> None:
        """See to the login of every agent that was paused for it, as a person does by and by."""
        self.world.machine.schedule(_LOGIN_S, self._log_in)
        for key, switch in list(self.world.disk.switches.items()):
            if switch.by == LOGIN_KEEPER:
                del self.world.disk.switches[key]

    def _child(self, chance: Chance) -> Child:
        return Child(
            starts_after_s=chance.between(0, 1),
            runs_s=chance.pick((1.0, 30.0, 900.0)),
            ignores_term=chance.happens(0.3),
            holds_lock=chance.happens(0.5),
            stuck_s=chance.between(1, 60) if chance.happens(0.05) else 0.0,
        )

    def _add(self) -> None:
        chance = self._chance
        queue = chance.pick(self.world.queues)
        blockers = sorted(queue.rows)
        after = (chance.pick(blockers),) if blockers and chance.happens(0.2) else ()
        not_before = None
        if chance.happens(0.1):
            not_before = self.world.machine.wall + timedelta(seconds=chance.between(0, 300))
        queue.add(
            TaskSpec(
                agent=chance.pick((None, "alpha", "beta")),
                queue="work",
                command=("work",),
                after=after,
                not_before=not_before,
                max_runtime_s=chance.pick((None, 60.0, 200.0)),
                max_attempts=chance.pick((None, 1, 5)),
            )
        )
        wish(self.world.disk)

    def _go_on(self, seconds: float) -> None:
        left_s = seconds
        while left_s > 0 and not self.world.auditor.violations:
            self.world.machine.advance(min(left_s, 10.0))
            left_s -= 10.0

    def _is_quiet(self) -> bool:
        disk = self.world.disk
        ended = all(self._has_ended(row) for row in self._rows())
        return ended and not (disk.leases or disk.locks or disk.results or disk.cancels)

    def _has_ended(self, row: Row) -> bool:
        return row.state.is_final or self.world.auditor.is_stuck(row)

    def _check_idempotence(self) -> None:
        """Tick over an unchanged world: nothing may change."""
        self.world.tick()  # what was wished for or seen since the last one
        before = self._picture()
        report = self.world.tick()
        assert report is not None  # noqa: S101 - nothing kills it any more
        if self._picture() != before or report.stats.tasks_spawned or report.reclaims:
            self.world.auditor.blame(7, "a tick over an unchanged world changed it")

    def _picture(self) -> tuple[object, ...]:
        # Without the kick: another tick may have been refused meanwhile, and wish for one.
        return self.world.disk.contents() | {"kicks": []}, repr(self._rows())

    def _rows(self) -> list[Row]:
        return [row for queue in self.world.queues for row in queue.rows.values()]
