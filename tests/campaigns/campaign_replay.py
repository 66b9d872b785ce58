"""Decide again what the ticks of random runs decided, from the documents that are kept of them.

A simulated machine with memory, two GPUs, models, quotas and three agents, tasks that need some
of it, pauses, and everything that can go wrong in a simulation.  Judged: each tick that changed
something is on record, each document of a tick says what another would, and decided again from
it, by the same policy, each plan is the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinyscheduler.app.replaying import replay
from tinyscheduler.core.replay import subject_of
from tinyscheduler.model.config import (
    AgentProfile,
    FairShare,
    Host,
    Inventory,
    ModelPlace,
    Quota,
)
from tinyscheduler.model.resources import Gpu, GpuReading
from tinyscheduler.model.rounds import Round, decode_round, encode_round
from tinyscheduler.model.switches import Switch, SwitchKind, Target, TargetKind
from tinyscheduler.model.tasks import PriorityClass, TaskSpec
from tinyscheduler.policy.platform import PlatformPolicy
from tinyscheduler.simulator.chance import Chance
from tinyscheduler.simulator.recorder import SimulatedRecorder
from tinyscheduler.simulator.simulation import Simulation
from tinyscheduler.simulator.world import SETTINGS
from tinyscheduler.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyscheduler.model.plan import TickReport
    from tinyscheduler.ports import Policy
    from tinyscheduler.simulator.machine import Process
    from tinyscheduler.tick import World

GIB = 1 << 30
AGENTS = (
    AgentProfile(name="alpha", queue="work", limit=3, command=("work", "hunter2")),
    AgentProfile(name="beta", queue="work", limit=1, memory_bytes=2 * GIB),
    AgentProfile(name="gamma", queue="pictures", limit=2, vram_bytes=10 * GIB),
)
PLATFORM = PlatformPolicy()
RULES = replace(
    SETTINGS.rules,
    host_slots=4,
    is_priority_enabled=True,
    lookahead=2,
    fair_share=FairShare.TENANT,
)
INVENTORY = Inventory(
    hosts=(Host(name="far", address="http://hunter2", max_slots=1),),
    models=(ModelPlace(model="llama", vram_bytes=8 * GIB), ModelPlace(model="opus", host="far")),
    tenants=(Quota(name="red", slots=2), Quota(name="blue", weight=2.0)),
)
GPUS = GpuReading(
    gpus=tuple(
        Gpu(index=number, uuid=f"GPU-{number}", name="RTX", total_bytes=24 * GIB)
        for number in range(2)
    )
)
# How often somebody adds tasks, pauses or resumes; and when a run is given up.
CHUNK_S = 60.0
LIMIT_S = 100_000.0
REPAIRED_EVERY_S = 3600.0
MOST_UNFINISHED = 12


@dataclass(slots=True, kw_only=True)
class Witness:
    """A recorder that takes note of all that it is given, and keeps it."""

    inner: SimulatedRecorder
    seen: list[Round]

    def record(self, rounds: Sequence[Round]) -> None:
        self.inner.record(rounds)
        self.seen += rounds

    def ticks(self) -> Sequence[str]:
        return self.inner.ticks()

    def rounds(self, tick_id: str) -> Sequence[Round]:
        return self.inner.rounds(tick_id)


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was replayed, and what was decided in it."""

    ticks: int = 0
    rounds: int = 0
    bytes: int = 0
    decided: Counter[str] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.ticks += other.ticks
        self.rounds += other.rounds
        self.bytes += other.bytes
        self.decided.update(other.decided)

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.decided.most_common())
        return (
            f"{self.ticks} ticks, {self.rounds} rounds of {self.bytes // max(1, self.rounds)} bytes"
            f" on average: {kinds}"
        )


def run_round(seed: int, *, ticks: int, policy: Policy = PLATFORM) -> tuple[list[str], Figures]:
    """Record so many ticks of a random run, and replay them; return what differs, in words."""
    seen, forgotten = record(seed, ticks=ticks, policy=policy)
    figures = Figures(ticks=len({one.tick_id for one in seen}), rounds=len(seen))
    found = [f"seed {seed}: tick {tick_id} is not on record" for tick_id in forgotten]
    if figures.ticks < ticks:
        found.append(f"seed {seed}: only {figures.ticks} ticks changed anything")
    for one in seen:
        text = json.dumps(encode_round(one))
        figures.bytes += len(text)
        figures.decided.update(type(said).__name__ for said in one.plan.verdicts)
        figures.decided.update(type(said).__name__ for said in one.plan.decisions)
        where = f"seed {seed}, tick {one.tick_id}, round {one.number}"
        found += [f"{where}: {words}" for words in judge(one, text)]
    return found, figures


def judge(one: Round, text: str) -> list[str]:
    """Return what is wrong with the document of a round, or differs when it is replayed."""
    back = decode_round(json.loads(text))
    found = []
    if "hunter2" in text:
        found.append("a secret is told")
    if json.dumps(encode_round(back)) != text:
        found.append("it does not come back as it was")
    # All of it is in what a plan is about, and nothing is in it twice.
    if len(back.plan.verdicts) < len({subject_of(said) for said in one.plan.verdicts}):
        found.append("verdicts are missing")
    again = replay(back)
    found += [f"{x.what}: {x.recorded}, now {x.derived}" for x in again.differences]
    return found


def record(seed: int, *, ticks: int, policy: Policy) -> tuple[list[Round], list[str]]:
    """Run a world until so many ticks have changed something; return what they decided.

    And the ids of those that did something and kept nothing of it, for no reason told.
    """
    settings = replace(SETTINGS, agents=AGENTS, rules=RULES, inventory=INVENTORY, window=9)
    simulation = Simulation(seed=seed, settings=settings, tasks=0, fault_s=0)
    world, chance = simulation.world, Chance(seed, "replay")
    world.policy = policy
    world.machine.gpus = GPUS
    seen: list[Round] = []

    def witness(ports: World, process: Process) -> World:
        inner = SimulatedRecorder(process, world.disk)
        return replace(ports, recorder=lambda: Witness(inner=inner, seen=seen))

    simulation.rewire(witness)
    simulation.faults.begin()
    world.start_cron()
    passed_s = 0.0
    while len({one.tick_id for one in seen}) < ticks and passed_s < LIMIT_S:
        rows = world.queue.rows.values()
        while sum(not row.state.is_final for row in rows) < chance.count(0, MOST_UNFINISHED):
            world.queue.add(a_wish(chance, list(world.queue.rows)))
        if chance.happens(0.2) and rows:
            # What waits for what is not there would leave no room for anything else.
            world.cancel(chance.pick([row.task_id for row in rows]))
        pause_or_resume(world.disk.switches, chance, simulation)
        world.machine.advance(CHUNK_S)
        passed_s += CHUNK_S
        if passed_s % REPAIRED_EVERY_S < CHUNK_S:
            # What no tick can mend keeps its slots until somebody does.
            simulation.faults.stop()
            world.machine.advance(CHUNK_S)
            simulation.faults.is_active = True
            simulation.faults.begin()
    kept = {one.tick_id for one in seen}
    return seen, [
        report.tick_id
        for report in world.observer.reports
        if report.tick_id not in kept and has_done_something(report)
    ]


def has_done_something(report: TickReport) -> bool:
    """Whether a tick should be on record: not one whose disk was full, which says so."""
    stats = report.stats
    is_told = any("not on record" in words for words in report.warnings)
    return not is_told and bool(
        stats.tasks_spawned or stats.leases_settled or stats.leases_reclaimed
    )


def a_wish(chance: Chance, known: list[str]) -> TaskSpec:
    """Return a task that needs something of what there is."""
    after = (chance.pick(known),) if known and chance.happens(0.1) else ()
    spec = TaskSpec(
        command=("work",),
        after=after,
        priority=chance.count(-1, 1),
        labels=(("key", "hunter2"),),
        max_runtime_s=chance.pick((None, 60.0, 200.0)),
        memory_bytes=chance.pick((None, None, 0, 5 * GIB)),
        max_attempts=chance.pick((None, 1, 5)),
        is_held=chance.happens(0.05),
        tenant=chance.pick((None, "red", "blue")),
        model=chance.pick((None, None, "llama", "opus")),
        priority_class=chance.pick(tuple(PriorityClass)),
    )
    needs: dict[str, Any] = chance.pick(
        (
            {"agent": "alpha"},
            {"agent": "beta"},
            {"queue": "work"},
            {"agent": "gamma"},
            {"queue": "pictures", "gpus": chance.count(1, 2)},
            {"agent": "alpha", "vram_bytes": chance.count(1, 30) * GIB},
            {"agent": "nobody"},
        )
    )
    return replace(spec, **needs)


def pause_or_resume(
    switches: dict[tuple[str, str], Switch], chance: Chance, simulation: Simulation
) -> None:
    """Pause something now and then, and resume it a while later."""
    if chance.happens(0.3):
        switches.clear()
    if chance.happens(0.1):
        target = Target(kind=TargetKind.AGENT, name=chance.pick(("alpha", "beta", "gamma")))
        now = simulation.world.machine.wall
        switch = Switch(kind=SwitchKind.PAUSE, target=target, since=now, by="ann", reason="x")
        switches[(switch.kind.value, str(target))] = switch


def main() -> int:
    """Run the rounds and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--ticks", type=int, default=200, help="recorded in each")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    total, violations = Figures(), 0
    seeds = range(options.seed, options.seed + options.rounds)
    with ProcessPoolExecutor() as pool:
        futures = [pool.submit(run_round, seed, ticks=options.ticks) for seed in seeds]
        for future in futures:
            found, figures = future.result()
            total.add(figures)
            violations += len(found)
            for words in found:
                print(words, flush=True)
    print(
        f"{options.rounds} runs, {total}: {violations} differ ({time.monotonic() - started:.0f} s)"
    )
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
